/* removed.h - a probe on activations from which given features were taken out.
 *
 * Least squares of every dimension on the standardised features and an
 * intercept, fitted on the training rows of an outer fold; what is left of
 * training and test rows under those coefficients is probed as nest.h probes
 * a matrix. A linear probe then finds nothing that the features tell linearly.
 * Inner parts use the coefficients of the outer training rows: a regression of
 * activations on features reads no label, so the rows of an inner part lend it
 * nothing but their own activations, and no test row is touched. */
#ifndef KS_REMOVED_H
#define KS_REMOVED_H

#include "nest.h"

/* out [n, d]: x less its regression on z [n, k], k at most 64, over rows whose
 * fold is not in `hold`; no more than some hundred rows of x are read at once.
 * Of features that say the same (directions with less than 1e-10 of the
 * largest's variance) the solution of least norm; one that is constant in
 * training has no part. */
ks_status ks_removed_residual(const ks_l2_source *x, const float *z, int32_t k,
                              const uint8_t *fold, uint32_t hold, int threads,
                              float *out, ks_err *err);

/* score [n]: out of fold, the mean over seeds. asked [seeds, folds]: the outer
 * fits to do, NULL: all; one left out adds nothing to the mean. *fits and
 * *unconverged are added to. */
ks_status ks_removed_fit(const ks_l2_source *x, const float *z, int32_t k,
                         const int8_t *y, const ks_folds *folds,
                         const bool *asked, const ks_nest_options *options,
                         float *score, int32_t *fits, int32_t *unconverged,
                         ks_err *err);
/* Bytes that it takes at most besides x and z, by so many threads. */
size_t ks_removed_bytes(const ks_l2_source *x, int32_t k, const ks_folds *folds,
                        const ks_nest_options *options, int threads,
                        bool scratch);

#endif
