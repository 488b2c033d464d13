/* l2.h - the batch solver of L2-regularised logistic regression on one data
 * matrix. A column is one problem: labels and folds of a design, the folds
 * held out, a strength. All columns share every read of the matrix.
 *
 * A column minimises, over w and b,
 *     sum_i c_i log(1 + exp(-s_i z_i)) + lambda |w|^2 / 2
 *     z_i = w.(x_i - mean) / scale + b,  s_i = +-1,  lambda = 1 / (C n)
 * over its n training rows (folds not held out): mean and scale are the
 * training rows' own, c_i = 1 / (2 n_class), b is free. That is scikit-learn's
 * LogisticRegression(C, class_weight='balanced') on standardised data, its
 * objective divided by C n.
 *
 * Method (l2_solve.c): L-BFGS on all columns in step. The inverse Hessian
 * starts from V diag(1 / (h Lambda + lambda)) V', where V Lambda V' is the
 * class-balanced covariance of all rows, factorised once per matrix, and h the
 * column's current sum_i c_i p_i (1 - p_i): one factorisation serves every
 * strength, fold and seed, and is applied as a matrix product. The start is
 * the linear discriminant, closed form from class means and V Lambda V'.
 * A column that this does not bring to its end in some 40 passes goes on around
 * the inverse of its own Hessian, up to 8,192 features.
 * The factorisation only decides the path, not where it ends. */
#ifndef KS_L2_H
#define KS_L2_H

#include "ops.h"

/* Labels and folds of all rows. Borrowed while the solver is open. */
typedef struct ks_l2_design {
    const int8_t *y;     /* [n] 1 or 0 */
    const uint8_t *fold; /* [n] below KS_L2_MAX_FOLDS */
} ks_l2_design;

typedef struct ks_l2_column {
    int32_t design;
    uint32_t hold; /* bit set of the folds that do not train */
    double strength;
    const double *start; /* [d + 1] raw weights to start from; NULL: LDA */
    double *weight;      /* out [d + 1] on raw x, bias last; NULL: not kept */
    double *mean;        /* out [d] of the training rows; or NULL */
    double *scale;       /* out [d], 1 for a constant feature; or NULL */
    float *margin;       /* out [n], written at held-out rows only; or NULL */
    double gradient;     /* out: max-norm in double at the solution */
    int32_t passes;      /* out: reads of x while it was being solved */
    bool converged;      /* out: gradient <= tolerance */
} ks_l2_column;

/* Where the time went, in seconds of wall clock, and how often x was read. */
typedef struct ks_l2_cost {
    double prepare, factor, passes, verify, other;
    int32_t reads;                /* of x: preparing, passes and verifying */
    int32_t f32_reads, f64_reads; /* of them by passes and verify */
    double pass_columns;          /* columns x passes x share of rows */
} ks_l2_cost;

typedef struct ks_l2 ks_l2;

/* Where the rows [n, d] come from. type: KS_F32, KS_F16 or KS_BF16. */
typedef struct ks_l2_source {
    int64_t n, d;
    ks_type type;
    const void *x; /* they lie here; NULL: read gives them */
    /* Rows [row, row + n), n d values as stored. Several threads at once. */
    ks_status (*read)(void *user, int64_t row, int64_t n, void *out,
                      ks_err *err);
    void *user;
} ks_l2_source;

/* How a file's rows are read: ANY goes past a page cache that cannot hold it,
 * or that passes are slower through than the disk is. */
typedef enum ks_l2_way { KS_L2_ANY, KS_L2_CACHED, KS_L2_DIRECT } ks_l2_way;

/* Where a solver works. */
typedef struct ks_l2_place {
    const struct ks_ops *ops; /* open; NULL: the CPU, opened for the solver */
    ks_dev *dev;
    int threads; /* of the host's part; 0: all */
    /* A folder: rows stay in a file there that has no name, and every pass
     * reads them block by block; same bits. NULL: rows stay in memory. A
     * device keeps them in its own. */
    const char *scratch;
    ks_l2_way way;
} ks_l2_place;

/* Bytes of the source that a thread asks for at once: whole rows. */
size_t ks_l2_piece_bytes(const ks_l2_source *source);

/* What decides a solver's memory: rows, the folds of a design, and the most
 * columns of a fit, with the sets of training rows that they have. */
typedef struct ks_l2_shape {
    int64_t n, d;
    ks_type type; /* of the source */
    int32_t n_designs, n_folds, n_columns, n_splits;
} ks_l2_shape;
/* Bytes that a solver on the CPU takes at most, open to close, by so many
 * threads; the caller's arrays of a column are not counted. */
size_t ks_l2_bytes(const ks_l2_shape *shape, int threads, bool scratch);
/* Of one thread's products: the panels that OpenBLAS packs, at most the 32 MiB
 * that it reserves. */
size_t ks_l2_blas_bytes(int64_t d);

/* Takes in rows shifted and ordered by folds. Fails on a value that is not
 * finite (KS_NUMERIC), naming row and feature. */
ks_status ks_l2_open_from(ks_l2 **out, const ks_l2_source *source,
                          const ks_l2_place *place, const ks_l2_design *designs,
                          int32_t n_designs, ks_err *err);
/* Of x [n, d] in memory, copied. */
ks_status ks_l2_open(ks_l2 **out, const float *x, int64_t n, int64_t d,
                     const ks_l2_design *designs, int32_t n_designs,
                     int threads, ks_err *err);
/* The same on an open backend, which outlives it: the copy lies in the
 * backend's memory and its l2 ops do the reading. threads: of the host's part
 * between passes. */
ks_status ks_l2_open_on(ks_l2 **out, const struct ks_ops *ops, ks_dev *dev,
                        const float *x, int64_t n, int64_t d,
                        const ks_l2_design *designs, int32_t n_designs,
                        int threads, ks_err *err);
void ks_l2_close(ks_l2 **l2);

/* Solves all columns; a column whose training rows are of one class is
 * KS_MISMATCH. One that does not converge in max_passes says so in converged
 * and is no error. */
ks_status ks_l2_fit(ks_l2 *l2, ks_l2_column *columns, int32_t n_columns,
                    double tolerance, int32_t max_passes, ks_err *err);
ks_l2_cost ks_l2_get_cost(const ks_l2 *l2);

#endif
