/* correlate.h - Pearson correlations with intervals that resample problems. */
#ifndef KS_CORRELATE_H
#define KS_CORRELATE_H

#include "stats.h"

/* Of every column of x [n, n_x] with every column of t [n, n_t]; where t is 0
 * and 1, that is the point-biserial correlation. group [n] problem,
 * 0..n_groups-1. out [n_x, n_t]: the correlation over all rows and the
 * percentile interval over the draws of ks_stats_bootstrap (same seed, same
 * draws); NaN where a column is constant, and draws in which one is are left
 * out. Sums over problems are made once, so a draw costs n_groups n_x n_t. */
ks_status ks_correlate(const double *x, int32_t n_x, const double *t,
                       int32_t n_t, int64_t n, const int32_t *group,
                       int32_t n_groups, int32_t replicates, uint64_t seed,
                       ks_interval *out, ks_err *err);

#endif
