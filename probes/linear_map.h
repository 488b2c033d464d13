/* linear_map.h - linear maps from one activation space to another, fitted on
 * pairs of rows: the same steps as two models hold them.
 *
 * All that a fit needs of its rows are sums, which add up over folds: one pass
 * over the rows serves every set of training folds, every strength, and the
 * loss on rows that were held out. Double throughout.
 *
 * Ridge regression minimises, over W,
 *     |Y - X W|^2 / n + strength |W|^2
 * X standardised with mean and deviation of the training rows, Y centred: that
 * is scikit-learn's Ridge(alpha = strength n) on StandardScaler's X. Constant
 * features get no weight.
 *
 * Procrustes is the similarity that maximises tr(R' X'Y), X and Y centred: with
 * U S V' the singular value decomposition of X'Y, R = U V', and the factor
 * sum S / |X R|^2 fits lengths. For spaces of one dimension that is
 * scipy.linalg.orthogonal_procrustes; else R is orthonormal on its smaller
 * side. Directions in which the training rows say nothing (singular values
 * below rounding) are left out of R. */
#ifndef KS_LINEAR_MAP_H
#define KS_LINEAR_MAP_H

#include "base.h"

/* Sums over pairs of rows, about a fixed point of either space. */
typedef struct ks_map_sums {
    int64_t d_in, d_out;
    double n;
    double *x;  /* [d_in] */
    double *y;  /* [d_out] */
    double *xx; /* [d_in, d_in] */
    double *xy; /* [d_in, d_out] */
    double *yy; /* [d_out] squares */
} ks_map_sums;

ks_status ks_map_sums_open(ks_map_sums *out, int64_t d_in, int64_t d_out,
                           ks_err *err);
void ks_map_sums_close(ks_map_sums *sums);
void ks_map_sums_clear(ks_map_sums *sums);
/* Adds the pairs x[row_x[i]] - at_x, y[row_y[i]] - at_y for i < n. Points near
 * the rows' mean keep the digits; the maps do not depend on them otherwise. */
ks_status ks_map_sums_rows(ks_map_sums *sums, const float *x,
                           const int64_t *row_x, const double *at_x,
                           const float *y, const int64_t *row_y,
                           const double *at_y, int64_t n, ks_err *err);
/* The same for xy alone, [d_in, d_out]. */
ks_status ks_map_cross_rows(double *xy, int64_t d_in, int64_t d_out,
                            const float *x, const int64_t *row_x,
                            const double *at_x, const float *y,
                            const int64_t *row_y, const double *at_y, int64_t n,
                            ks_err *err);
/* Adds all of `more`, which has the same point. */
void ks_map_sums_add(ks_map_sums *sums, const ks_map_sums *more);

/* y is about bias + x weight, both about the points of the sums. */
typedef struct ks_linear_map {
    int64_t d_in, d_out;
    double *weight;       /* [d_in, d_out] */
    double *bias;         /* [d_out] */
    double *mean, *scale; /* [d_out] of the training y; scale 0: constant */
} ks_linear_map;

/* out starts as {0}; a failed call leaves {0}. KS_MISMATCH with fewer than two
 * rows. */
ks_status ks_linear_map_ridge(ks_linear_map *out, const ks_map_sums *train,
                              double strength, ks_err *err);
ks_status ks_linear_map_procrustes(ks_linear_map *out, const ks_map_sums *train,
                                   ks_err *err);
/* The training mean, whatever x is. */
ks_status ks_linear_map_mean(ks_linear_map *out, const ks_map_sums *train,
                             ks_err *err);
/* x itself: the spaces have one dimension, the points are at_x and at_y. */
ks_status ks_linear_map_identity(ks_linear_map *out, const ks_map_sums *train,
                                 const double *at_x, const double *at_y,
                                 ks_err *err);
void ks_linear_map_free(ks_linear_map *map);

/* Squared error over held-out rows and, against the training mean, the squares
 * that there are to explain; every dimension counts in units of its training
 * deviation, constant ones do not. R^2 = 1 - error / total. */
ks_status ks_linear_map_loss(const ks_linear_map *map, const ks_map_sums *held,
                             double *error, double *total, ks_err *err);

/* out [n, d_out] = the map of x[row[i]], in double, on the scale of y itself.
 */
ks_status ks_linear_map_apply(const ks_linear_map *map, const float *x,
                              const int64_t *row, const double *at_x,
                              const double *at_y, int64_t n, double *out,
                              ks_err *err);

#endif
