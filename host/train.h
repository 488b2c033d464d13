/* train.h - what the probe trainers ask of a backend: the structs of the l2
 * and adamw slots of struct ks_ops.
 *
 * These ops are whole passes and whole trainings, a few calls a layer. Matrices
 * and what is read by the element lie in the backend's memory, as everywhere;
 * fields marked "host" are small and lie in host memory on every backend. The
 * l2 ops answer in host memory, and wait for it. */
#ifndef KS_TRAIN_H
#define KS_TRAIN_H

#include "base.h"

/* ---------------------------------------------- L2 logistic regression (l2.h)
 */

enum {
    KS_L2_MAX_FOLDS = 32,
    KS_L2_CODES = 2 * KS_L2_MAX_FOLDS,
    KS_L2_BLOCK = 512,    /* most rows of a block */
    KS_L2_MAX_LANES = 16, /* sums in fixed parts, whatever the threads */
    KS_L2_PAD = 8         /* products have a multiple of so many columns */
};

typedef struct ks_l2_block {
    int64_t begin, end; /* rows */
} ks_l2_block;

/* One layer's rows, ordered by fold and shifted (l2_open.c). */
typedef struct ks_l2_rows {
    int64_t n, d;
    int32_t n_designs, n_blocks, n_lanes;
    const float *x;              /* [n, d] */
    const uint8_t *code;         /* [n_designs, n] 2 fold + y */
    const uint8_t *host_code;    /* the same, host */
    const int64_t *order;        /* [n] row of the caller's x; host */
    const ks_l2_block *blocks;   /* [n_blocks] of one fold mostly; host */
    const uint32_t *block_folds; /* [n_blocks, n_designs] bit sets; host */
    struct ks_buf *work;         /* of the ops, kept from call to call */
} ks_l2_rows;

/* One evaluation of loss derivatives for n columns (l2.h); all host. With
 * z_i = w.x_i + b and p_i = 1 / (1 + exp(-z_i)). */
typedef struct ks_l2_pass {
    int32_t n;             /* columns, ordered by design */
    const int32_t *design; /* [n] */
    const uint32_t *hold;  /* [n] bit sets of the folds that do not train */
    const double *class_c; /* [n, 2] c_i of a training row, by class */
    const double *w;       /* [n, d] on x */
    const double *b;       /* [n] */
    double *g;             /* out [n, d] sum_i r_i x_i */
    double *r;             /* out [n] sum_i r_i, r_i = c_i (p_i - y_i) */
    double *h;             /* out [n] sum_i c_i p_i (1 - p_i) */
    bool exact;            /* double throughout, and margins */
    float *const *margin;  /* [n] of [rows] or NULL: z of the rows held out,
                              at the caller's places; exact passes only */
} ks_l2_pass;

/* Features as a covariance takes them: a_i = share[y_i] (x_i - centre) inverse,
 * y as the first design has it; host. */
typedef struct ks_l2_scaling {
    const float *centre, *inverse; /* [d] */
    float share[2];
} ks_l2_scaling;

/* A column's Hessian but for its ridge: the sum over training rows of
 * a_i a_i', a_i = sqrt(c_i p_i (1 - p_i)) ((x_i - centre) inverse, 1); host. */
typedef struct ks_l2_hessian {
    int32_t design;
    uint32_t hold;
    double class_c[2], b;
    const double *w;                /* [d] */
    const double *centre, *inverse; /* [d] */
    double *out;                    /* [d + 1, d + 1], the lower triangle */
} ks_l2_hessian;

#endif
