/* significance.h - p values of scorings. Rows as in stats.h.
 *
 * Tests of predictions that are given have a variance of 1. Those of
 * cross-validation are made by the labels of the other folds, and their sum
 * over folds varies more than the test knows: a rule that is linear in its
 * training labels makes it a sum over pairs of folds, each pair counted from
 * both sides, with twice the variance (Bengio and Grandvalet 2004, JMLR 5, on
 * why it cannot be estimated from one cross-validation). `variance` is that
 * factor: a sum is tested as if it lay 1 / sqrt(variance) as far from what is
 * expected. */
#ifndef KS_SIGNIFICANCE_H
#define KS_SIGNIFICANCE_H

#include "stats.h"

enum { KS_FLIPS = 9999 };
#define KS_CROSS_VALIDATED 2.0

/* Conditional test, one-sided and exact for variance 1: can a scoring tell the
 * steps of a chain apart? Under the null hypothesis a chain's labels fall on
 * its steps at random; how many important ones are among those predicted
 * important is then hypergeometric within each chain, and *p is the probability
 * that their sum over chains is at least the one found. Fisher's exact test
 * with chains as strata (Mantel and Haenszel 1959; Cox 1970, The Analysis of
 * Binary Data, ch. 5). That some chains have more important steps than others
 * counts for nothing. 1 where no chain has steps of both kinds and both
 * predictions. Rows of a chain need not stand together. */
ks_status ks_p_within(const ks_scored *rows, double variance, double *p,
                      ks_err *err);

/* Sign-flip test, two-sided: do two scorings of the same rows differ in
 * balanced accuracy? A problem's contribution to the difference has either
 * sign with equal probability when they do not. All 2^problems signs up to 13
 * problems with a difference; else KS_FLIPS draws (Philox keyed by seed) and
 * p = (1 + draws at least as far from 0) / (1 + KS_FLIPS). */
ks_status ks_p_paired(const ks_scored *a, const float *b_score, double variance,
                      uint64_t seed, double *p, ks_err *err);

/* Holm's step-down adjustment (1979) of n p values for all of them being
 * tested; NaN stays NaN and does not count. adjusted may be p. */
ks_status ks_p_holm(const double *p, int32_t n, double *adjusted, ks_err *err);

#endif
