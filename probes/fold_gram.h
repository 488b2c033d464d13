/* fold_gram.h - a matrix's first and second moments by parts of its rows, from
 * which every fit that has a closed form is put together: one read of the
 * matrix serves all folds held out, all strengths and all targets. Double
 * throughout. Internal. */
#ifndef KS_FOLD_GRAM_H
#define KS_FOLD_GRAM_H

#include "l2.h"

/* Features as they are kept: u = (x - shift) / unit, by all rows' mean and
 * deviation, so that no digits are lost; nothing that is fitted depends on it.
 */
typedef struct ks_fold_gram {
    int64_t d;
    int32_t n_parts, n_targets, threads;
    double *shift, *unit; /* [d]; unit 0: constant, u is 0 */
    double *count;        /* [n_parts] */
    double *sum;          /* [n_parts, d] */
    double *gram;         /* [n_parts, d, d], lower triangles */
    double *target;       /* [n_parts, n_targets] sums of y */
    double *cross;        /* [n_parts, n_targets, d] sums of y u */
} ks_fold_gram;

/* x: rows, in memory or read as they are needed, the same bits; KS_NUMERIC
 * where a value is not finite; part [n] below n_parts; y [n_targets, n], or
 * NULL with n_targets 0. out starts as {0}; a failed call leaves {0}. */
ks_status ks_fold_gram_open(ks_fold_gram *out, const ks_l2_source *x,
                            const uint8_t *part, int32_t n_parts,
                            const double *y, int32_t n_targets, int threads,
                            ks_err *err);
/* Bytes that it takes at most, and its margins but for w and z. */
size_t ks_fold_gram_bytes(const ks_l2_source *x, int32_t n_parts,
                          int32_t n_targets, int threads);
void ks_fold_gram_close(ks_fold_gram *gram);

/* Mean and deviation of u over the parts in `take`; inverse [d] is 1 over the
 * deviation, 0 for a constant feature. Returns the number of rows. */
double ks_fold_gram_moments(const ks_fold_gram *gram, uint64_t take,
                            double *mean, double *inverse);
/* a [d, d], lower triangle: adds `weight` times the covariance of u over the
 * parts in `take`, each feature times inverse. mean [d]: out, of u over those
 * parts. Returns the number of rows. */
double ks_fold_gram_add(const ks_fold_gram *gram, uint64_t take, double weight,
                        const double *inverse, double *mean, double *a);

/* a [d, d], lower triangle: the sum over the parts in `take` of
 * (u - mean)(u - mean)', each feature times inverse; mean: any point. Returns
 * the number of rows. */
double ks_fold_gram_about(const ks_fold_gram *gram, uint64_t take,
                          const double *mean, const double *inverse, double *a);

/* Sums with as many targets as another matrix has features, by matrix products:
 * cross [n_parts, d_out, d], adds the sums of (y - at) u' over pairs of row i
 * of x and row pair[i] (NULL: i) of y [n, d_out]; at [d_out]. x, part and n as
 * at the opening. */
typedef struct ks_fold_pairs {
    const float *x, *y;
    const uint8_t *part;
    int64_t n, d_out;
    const double *at;
    const int64_t *pair;
} ks_fold_pairs;
ks_status ks_fold_gram_cross(const ks_fold_gram *gram,
                             const ks_fold_pairs *pairs, double *cross,
                             ks_err *err);

/* z [k, n] = w.u + b for columns w [k, d], b [k], all rows. */
ks_status ks_fold_gram_margins(const ks_fold_gram *gram, const ks_l2_source *x,
                               const double *w, const double *b, int32_t k,
                               float *z, ks_err *err);

/* b [n_b, d] = (a + ridge I)^-1 b; a [d, d] lower triangle is kept; scratch
 * [d, d]. KS_NUMERIC where that is not positive definite. */
ks_status ks__solve_ridge(const double *a, int64_t d, double ridge, double *b,
                          int32_t n_b, double *scratch, ks_err *err);

#endif
