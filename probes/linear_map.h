/* linear_map.h - linear maps from one activation space to another, fitted on
 * pairs of rows: the same steps as two models hold them.
 *
 * All that a fit needs of its rows are sums by parts (fold_gram.h): one pass
 * over the rows serves every set of training parts, every strength, and the
 * loss on parts that were held out. Double throughout.
 *
 * Ridge regression minimises, over W,
 *     |Y - X W'|^2 / n + strength |W|^2
 * X standardised with mean and deviation of the training rows, Y centred: that
 * is scikit-learn's Ridge(alpha = strength n) on StandardScaler's X. Constant
 * features get no weight. With X'X / n = V' diag(v) V the coefficients of every
 * strength are those of Y'X V' / n over v + strength, and the held-out error a
 * quadratic form in 1 / (v + strength): one eigendecomposition serves all
 * strengths, each of which then takes d_in^2 operations.
 *
 * Procrustes is the similarity that maximises tr(R' X'Y), X and Y centred: with
 * U S V' the singular value decomposition of X'Y, R = U V', and the factor
 * sum S / |X R|^2 fits lengths. For spaces of one dimension that is
 * scipy.linalg.orthogonal_procrustes; else R is orthonormal on its smaller
 * side. Directions in which the training rows say nothing (singular values
 * below rounding) are left out of R. */
#ifndef KS_LINEAR_MAP_H
#define KS_LINEAR_MAP_H

#include "fold_gram.h"

/* Pairs as they belong together, and pairs that were mixed up. */
enum { KS_MAP_TRUE, KS_MAP_MIXED, KS_MAP_PAIRINGS };

/* Rows of both spaces, summed by parts. */
typedef struct ks_map_pairs {
    ks_fold_gram x; /* u = (x - shift) / unit */
    int64_t d_out;
    double *at;     /* [d_out] mean of all y: for the digits alone */
    double *y, *yy; /* [n_parts, d_out] sums of y - at and its squares */
    double *cross[KS_MAP_PAIRINGS]; /* [n_parts, d_out, d_in] of (y - at) u' */
} ks_map_pairs;

/* x [n, d_in] and y [n, d_out], finite; part [n] below n_parts; mixed [n]: the
 * row of y that stands in for row i's, of its part. out starts as {0}; a failed
 * call leaves {0}. */
ks_status ks_map_pairs_open(ks_map_pairs *out, const float *x, int64_t d_in,
                            const float *y, int64_t d_out, int64_t n,
                            const uint8_t *part, int32_t n_parts,
                            const int64_t *mixed, int threads, ks_err *err);
void ks_map_pairs_close(ks_map_pairs *pairs);

/* What some parts say together. Borrows the pairs. */
typedef struct ks_map_train {
    const ks_map_pairs *of;
    double n;
    double *mean, *inverse;         /* [d_in] of u; inverse 0: constant */
    double *covariance;             /* [d_in, d_in] of standardised u, the lower
                                       triangle; of a constant feature 0 */
    double *y_mean, *y_scale;       /* [d_out] of y - at; scale 0: constant */
    double *cross[KS_MAP_PAIRINGS]; /* [d_out, d_in] covariance of y with it */
} ks_map_train;

/* take: the parts, a bit each. out starts as {0}; a failed call leaves {0}.
 * KS_MISMATCH with fewer than two rows. */
ks_status ks_map_train_open(ks_map_train *out, const ks_map_pairs *pairs,
                            uint64_t take, ks_err *err);
void ks_map_train_close(ks_map_train *train);
/* out [d_out, d_in]: the sum over the parts in `take` of
 * (y - at - y_mean)(u - mean)', each feature times inverse. Internal. */
void ks__map_cross(const ks_map_train *train, int pairing, uint64_t take,
                   double *out);

/* R^2 of ridge on parts that were held out, n_held sets of them, at each of n
 * strengths: r2 [n_held, pairings, n]. 1 - error / squares about the training
 * mean; every dimension of y counts in units of its training deviation,
 * constant ones do not. What train holds is used up. linear_map_path.c */
ks_status ks_map_path(ks_map_train *train, const uint64_t *held, int32_t n_held,
                      const double *strengths, int32_t n, double *r2,
                      ks_err *err);

/* y is about at + bias + weight (x - shift). */
typedef struct ks_linear_map {
    int64_t d_in, d_out;
    const ks_map_pairs *of; /* shift and at */
    double *weight;         /* [d_out, d_in]; NULL: 0 */
    double *bias;           /* [d_out] */
} ks_linear_map;

/* out starts as {0}; a failed call leaves {0}. Maps borrow the pairs, not the
 * training sums. pairing: KS_MAP_TRUE or KS_MAP_MIXED. */
ks_status ks_linear_map_ridge(ks_linear_map *out, const ks_map_train *train,
                              int pairing, double strength, ks_err *err);
ks_status ks_linear_map_procrustes(ks_linear_map *out,
                                   const ks_map_train *train, ks_err *err);
/* The training mean, whatever x is. */
ks_status ks_linear_map_mean(ks_linear_map *out, const ks_map_train *train,
                             ks_err *err);
/* x itself: the spaces have one dimension, else KS_USAGE. */
ks_status ks_linear_map_identity(ks_linear_map *out, const ks_map_train *train,
                                 ks_err *err);
void ks_linear_map_free(ks_linear_map *map);

/* out [n, d_out] = the map of x[row[i]], in double, on the scale of y itself.
 */
ks_status ks_linear_map_apply(const ks_linear_map *map, const float *x,
                              const int64_t *row, int64_t n, double *out,
                              ks_err *err);

#endif
