/* l2_state.h - what the files of the batch solver share. */
#ifndef KS_L2_STATE_H
#define KS_L2_STATE_H

#include <time.h>

#include "blas.h"
#include "l2.h"

enum {
    KS_L2_BLOCK = 512,      /* rows of x that a step of a pass works on */
    KS_L2_LANE_ROWS = 1024, /* rows a lane has at least */
    KS_L2_MAX_LANES = 16,   /* sums in fixed parts, whatever the threads */
    KS_L2_EXACT = 1280,     /* features up to which the spectrum is exact */
    KS_L2_RANK = 320,       /* else its leading part */
    KS_L2_CHUNK = 32,       /* columns a thread updates together */
    KS_L2_PAD = 8           /* products have a multiple of so many columns */
};

typedef struct ks_l2_block {
    int64_t begin, end; /* ordered rows */
} ks_l2_block;

/* Moments of one (design, fold): of shifted x. */
typedef struct ks_l2_moments {
    int64_t count[2]; /* by class */
    double *sum[2];   /* [d] by class */
    double *square;   /* [d] */
} ks_l2_moments;

struct ks_l2 {
    int64_t n, d;
    int32_t n_designs;
    int threads;
    const ks_l2_design *designs; /* copied, pointers borrowed */
    int64_t *order;              /* [n] row of the caller's x */
    float *x;                    /* [n, d] ordered, shifted */
    float *shift;                /* [d] */
    uint8_t *code;               /* [n_designs, n] 2 fold + y, ordered */
    ks_l2_block *blocks;
    uint32_t *block_folds; /* [n_blocks, n_designs] bit sets of its folds */
    int32_t n_blocks, n_lanes;
    ks_l2_moments *moments; /* [n_designs, KS_L2_MAX_FOLDS] */
    double *moment_data;
    /* the class-balanced covariance of all rows, each feature over its
     * standard deviation: V diag(value) V' + tail (I - V V') */
    int64_t rank;
    float *value;  /* [rank] */
    float *vector; /* [rank, d], one a row */
    float tail;
    /* what the lanes of a pass work in, kept from pass to pass: fresh pages
     * cost more than what is done in them */
    char *lane_memory[KS_L2_MAX_LANES];
    size_t lane_bytes;
    ks_l2_cost cost;
};

ks_status ks__l2_spectrum(ks_l2 *l2, ks_err *err);
/* q [n, d] to spectral coordinates out [n, rank]. */
void ks__l2_to_spectrum(const ks_l2 *l2, const float *q, int64_t n, float *out);
/* q [n, d] = in [n, rank] in the features' coordinates + beta q */
void ks__l2_from_spectrum(const ks_l2 *l2, const float *in, int64_t n,
                          float beta, float *q);

/* One evaluation of loss derivatives for the active columns of a fit. */
typedef struct ks_l2_pass {
    int32_t n;             /* active columns, ordered by design */
    const int32_t *design; /* [n] */
    const uint32_t *hold;  /* [n] */
    const double *class_c; /* [n, 2] c_i of a training row, by class */
    const double *w;       /* [n, d] on shifted x */
    const double *b;       /* [n] */
    double *g;             /* out [n, d] sum_i r_i x_i */
    double *r;             /* out [n] sum_i r_i, r_i = c_i (p_i - y_i) */
    double *h;             /* out [n] sum_i c_i p_i (1 - p_i) */
    bool exact;            /* double throughout, and margins */
    float *const *margin;  /* [n] or NULL; exact passes only */
} ks_l2_pass;

ks_status ks__l2_run_pass(ks_l2 *l2, const ks_l2_pass *pass, ks_err *err);

/* z [rows, n] (stride) to r in place; adds to r_sum and h_sum [n]. c: table
 * [codes, stride] of c_i, 0 for rows that do not train. */
void ks__l2_kernel(int64_t rows, int64_t n, int64_t stride, float *z,
                   const float *bias, const uint8_t *code, const float *c,
                   float *r_sum, float *h_sum);

#endif
