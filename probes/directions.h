/* directions.h - two concept directions: the difference of the class means and
 * the shrunk linear discriminant, both in closed form, under the same nested
 * choice as the grid's probes (nest.h).
 *
 * On features standardised by the training rows, with m1 and m0 the class
 * means there and S the mean of the two classes' covariances:
 *   mean difference  w = m1 - m0
 *   LDA              w = ((1 - s) S + s (tr S / d) I)^-1 (m1 - m0), which is
 *                    scikit-learn's LinearDiscriminantAnalysis(solver='lsqr',
 *                    shrinkage=s, priors=[0.5, 0.5]); s is chosen among
 *                    ks_shrinkages inside the training folds
 * The margin is a w.(x - (m0 + m1) / 2): the threshold is the midpoint of the
 * projected class means. a is 1 for LDA, whose margin is the log-odds of two
 * normal distributions; for the difference it is |w|^2 / w'Sw, which makes it
 * the log-odds of the projections. */
#ifndef KS_DIRECTIONS_H
#define KS_DIRECTIONS_H

#include "analyses.h"
#include "others.h"

enum { KS_SHRINKAGES = 5 };
extern const double ks_shrinkages[KS_SHRINKAGES]; /* ascending */

typedef enum ks_direction {
    KS_MEAN_DIFFERENCE,
    KS_LDA,
    KS_N_DIRECTIONS
} ks_direction;

/* "mean difference" */
const char *ks_direction_name(ks_direction direction);

/* Fits both; out[KS_LDA].strength is the shrinkage chosen, the other's NaN;
 * gradient and reads stay 0, inner NULL. out starts as {0}; a failed call
 * leaves {0}. */
ks_status ks_directions_fit(ks_nest out[KS_N_DIRECTIONS], const ks_l2_source *x,
                            const int8_t *y, const ks_folds *folds,
                            bool keep_weights, int threads, ks_err *err);
/* Bytes that it takes at most besides x, by so many threads, and those of its
 * result without weights. */
size_t ks_directions_bytes(const ks_l2_source *x, const ks_folds *folds,
                           int threads);
size_t ks_directions_kept(const ks_folds *folds);

/* Of one series. */
typedef struct ks_directions {
    ks_interval *accuracy[KS_N_DIRECTIONS]; /* [n_cells] balanced */
    int32_t layer; /* that most folds chose in the grid; there: */
    float *weight[KS_N_DIRECTIONS];   /* [n_fits, d] on standardised features */
    float *bias[KS_N_DIRECTIONS];     /* [n_fits] */
    double l2_mean, l2_lda, mean_lda; /* cosines of weights on standardised
                                         features, mean over fits; NaN where the
                                         grid kept no weights */
} ks_directions;

/* Scores of the layers chosen inside the training folds go to others, for the
 * directions in the bit set `which`. progress: layers done are added to *done.
 * out starts as {0}, and is freed by ks_directions_free also after a failure.
 */
ks_status ks_directions_run(ks_directions *out, ks_others *others,
                            const ks_analysis_input *in,
                            const ks_series *series, uint32_t which,
                            int64_t *done, ks_err *err);
void ks_directions_free(ks_directions *directions);

#endif
