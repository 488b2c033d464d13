/* l2_state.h - what the files of the batch solver share. */
#ifndef KS_L2_STATE_H
#define KS_L2_STATE_H

#include <time.h>

#include "blas.h"
#include "l2.h"
#include "l2_rows.h"
#include "ops.h"

enum {
    KS_L2_LANE_ROWS = 1024, /* rows a lane has at least */
    KS_L2_EXACT = 1280,     /* features up to which the spectrum is exact */
    KS_L2_RANK = 320,       /* else its leading part */
    KS_L2_CHUNK = 32        /* columns a thread updates together */
};

/* Moments of one (design, fold): of shifted x. */
typedef struct ks_l2_moments {
    int64_t count[2]; /* by class */
    double *sum[2];   /* [d] by class */
    double *square;   /* [d] */
} ks_l2_moments;

struct ks_l2 {
    const struct ks_ops *ops; /* where the rows lie and what reads them */
    ks_dev *dev;
    bool own_dev;
    int64_t n, d;
    int32_t n_designs;
    int threads;
    const ks_l2_design *designs; /* copied, pointers borrowed */
    int64_t *order;              /* [n] row of the caller's x */
    float *x;                    /* [n, d] ordered, shifted; NULL: in the file,
                                    or in memory of the backend alone */
    ks_l2_file file;             /* fd -1: none */
    bool may_be_direct;          /* how it is read is still to be weighed */
    float *shift;                /* [d] */
    uint8_t *code;               /* [n_designs, n] 2 fold + y, ordered */
    ks_l2_block *blocks;
    uint32_t *block_folds; /* [n_blocks, n_designs] bit sets of its folds */
    ks_l2_rows rows;       /* all of this as the ops take it */
    ks_buf x_buf, code_buf, work;
    ks_l2_moments *moments; /* [n_designs, KS_L2_MAX_FOLDS] */
    double *moment_data;
    /* the class-balanced covariance of all rows, each feature over its
     * standard deviation: V diag(value) V' + tail (I - V V') */
    int64_t rank;
    float *value;  /* [rank] */
    float *vector; /* [rank, d], one a row */
    float tail;
    ks_l2_cost cost;
};

/* l2_source.c. Shift and rows; and KS_NUMERIC for the first row with a value
 * that is not finite, once it is known that there is one. */
ks_status ks__l2_find_shift(ks_l2 *l2, const ks_l2_source *source, ks_err *err);
ks_status ks__l2_take_rows(ks_l2 *l2, const ks_l2_source *source,
                           const ks_l2_place *place, ks_err *err);
ks_status ks__l2_name_bad_row(ks_l2 *l2, const ks_l2_source *source,
                              ks_err *err);

/* l2_scratch.c. A file in the folder; how it will be read, to be called once it
 * is written, and after the first pass in f32, which took so long. */
ks_status ks__l2_open_scratch(ks_l2 *l2, const char *folder, ks_err *err);
void ks__l2_choose_way(ks_l2 *l2, ks_l2_way way);
void ks__l2_weigh_way(ks_l2 *l2, double seconds);

ks_status ks__l2_spectrum(ks_l2 *l2, ks_err *err);
/* q [n, d] to spectral coordinates out [n, rank]. */
void ks__l2_to_spectrum(const ks_l2 *l2, const float *q, int64_t n, float *out);
/* q [n, d] = in [n, rank] in the features' coordinates + beta q */
void ks__l2_from_spectrum(const ks_l2 *l2, const float *in, int64_t n,
                          float beta, float *q);

#endif
