/* ridge.h - ridge regression of several targets on one matrix, strengths chosen
 * inside the training folds (nest.h), in closed form (fold_gram.h).
 *
 * On the training rows, features standardised and targets centred:
 *     w = (Z'Z / n + strength I)^-1 Z'y / n
 * which is scikit-learn's Ridge(alpha=strength n). The strength with the least
 * mean squared error on the inner parts (mean over parts) is refitted on all
 * training folds. */
#ifndef KS_RIDGE_H
#define KS_RIDGE_H

#include "nest.h"

enum { KS_RIDGE_STRENGTHS = 9 };
/* From 1e-3 to 1e3 in equal ratios. */
double ks_ridge_strength(int32_t k);

typedef struct ks_ridge {
    int32_t n_fits;   /* seeds x folds */
    float *score;     /* [n_targets, n_seeds, n] out of fold */
    double *strength; /* [n_targets, n_fits] chosen */
    double *loss;     /* [n_targets, n_fits] its error on the inner parts */
    float *inner;     /* [n_targets, n_fits, n] of the strength chosen: for a
                         training row the prediction of the inner fit that held
                         it out, for a test row the score; NULL: not kept */
} ks_ridge;

/* y [n_targets, n]. keep_inner: inner is filled. out starts as {0}; a failed
 * call leaves {0}. */
ks_status ks_ridge_fit(ks_ridge *out, const ks_l2_source *x, const double *y,
                       int32_t n_targets, const ks_folds *folds,
                       bool keep_inner, int threads, ks_err *err);
/* Bytes that a fit takes at most besides x and y, by so many threads, and those
 * of its result without inner. */
size_t ks_ridge_bytes(const ks_l2_source *x, int32_t n_targets,
                      const ks_folds *folds, int threads);
size_t ks_ridge_kept(int32_t n_targets, const ks_folds *folds);
void ks_ridge_free(ks_ridge *ridge);

#endif
