/* attention_state.h - what the files of the attention probe share. */
#ifndef KS_ATTENTION_STATE_H
#define KS_ATTENTION_STATE_H

#include "attention.h"

enum {
    KS_ATTENTION_BLOCK = 1024, /* tokens of a block, but for a longer step */
    KS_ATTENTION_LANES = 16    /* sums in fixed parts, whatever the threads */
};

/* Steps [begin, end) of one fold. */
typedef struct ks_attention_block {
    int64_t begin, end;
    uint8_t fold;
} ks_attention_block;

struct ks_attention {
    const struct ks_ops *ops;
    ks_dev *dev; /* NULL: host memory alone */
    ks_attention_rows rows;
    int threads;
    double *shift, *unit; /* [d] tokens are kept as u = (x - shift) / unit */
    float *u;             /* [tokens, d]; NULL: in the file */
    int fd;               /* of a scratch file; -1: none */
    ks_buf u_buf;
    double count[32];     /* tokens of each fold */
    double *sum, *square; /* [32, d] of u */
    ks_attention_block *blocks;
    int32_t n_blocks, n_lanes;
    int64_t widest; /* tokens of a block */
};

/* One evaluation of the active columns, on u; all host. */
typedef struct ks_attention_pass {
    int32_t n;             /* columns */
    const uint32_t *hold;  /* [n] */
    const double *class_c; /* [n, 2] */
    const double *w, *q;   /* [n, d], q with its 1 / sqrt(d) */
    const double *b;       /* [n] */
    double *gw, *gq;       /* out [n, d] */
    double *r, *loss;      /* out [n] */
    bool look;             /* margins of all steps in place of gradients */
    float *const *margin, *const *entropy, *const *first,
                                               *const *last; /* [n] */
} ks_attention_pass;

/* Tokens [from, from + n): where they lie, or out of the file into buffer. */
ks_status ks__attention_tokens(const ks_attention *attention, int64_t from,
                               int64_t n, float *buffer, const float **u,
                               ks_err *err);
/* Bytes of a pass over n columns. */
size_t ks__attention_pass_bytes(const ks_attention_rows *rows, int64_t widest,
                                int32_t n, int threads, bool scratch);

/* And of the fit around it. */
size_t ks__attention_fit_bytes(const ks_attention_rows *rows, int32_t n);

ks_status ks__attention_evaluate(const ks_attention *attention,
                                 const ks_attention_pass *pass, ks_err *err);

#endif
