/* stats.h - what is said about a probe, with intervals that resample
 * problems. Scores: higher = more important; y: 1 important, 0 removable;
 * a score above 0 predicts 1. */
#ifndef KS_STATS_H
#define KS_STATS_H

#include "base.h"

typedef enum ks_metric {
    KS_ACCURACY,
    KS_BALANCED_ACCURACY, /* mean of the two classes' recalls */
    KS_AUC,               /* ties count one half */
    KS_WITHIN_AUC,        /* pairs of one chain only */
    KS_BRIER,             /* mean (sigmoid(score) - y)^2 */
    KS_N_METRICS
} ks_metric;

const char *ks_metric_name(ks_metric metric);

/* The rows that are scored. Borrowed. */
typedef struct ks_scored {
    int64_t n;
    const float *score;   /* [n] */
    const int8_t *y;      /* [n] */
    const int32_t *group; /* [n] problem, 0..n_groups-1 */
    const int32_t *chain; /* [n] chain, 0..n_chains-1 */
    int32_t n_groups, n_chains;
} ks_scored;

typedef struct ks_interval {
    double value, low, high; /* NaN where it is not defined */
} ks_interval;

/* All metrics of all rows. NaN where one is not defined (one class only; no
 * chain with both kinds). */
ks_status ks_stats_metrics(const ks_scored *rows, double out[KS_N_METRICS],
                           ks_err *err);

/* Percentile bootstrap over problems: `replicates` draws of n_groups problems
 * with replacement (Philox, keyed by seed and replicate), the metric on each,
 * its 2.5% and 97.5% quantiles (type 7). Draws in which a metric is not
 * defined are left out. */
ks_status ks_stats_bootstrap(const ks_scored *rows, int32_t replicates,
                             uint64_t seed, ks_interval out[KS_N_METRICS],
                             ks_err *err);

/* Figures that are functions of sums over rows: of_group [n_groups, n_sums] of
 * each problem; of: n_out figures of the sums over all problems (user is passed
 * on), NaN where one is not defined. Their values and intervals by the same
 * draws of problems. */
typedef void (*ks_stats_fn)(const double *total, const void *user, double *out);
ks_status ks_stats_of_sums(const double *of_group, int32_t n_groups,
                           int32_t n_sums, ks_stats_fn of, const void *user,
                           int32_t n_out, int32_t replicates, uint64_t seed,
                           ks_interval *out, ks_err *err);

/* Balanced accuracy alone, by the same draws and many times faster: of a, and
 * a's less b's, paired; either out may be NULL. */
ks_status ks_stats_balanced(const ks_scored *a, const float *b_score,
                            int32_t replicates, uint64_t seed,
                            ks_interval *of_a, ks_interval *difference,
                            ks_err *err);

/* The parts of it, for other figures: how often each problem is in a draw, the
 * interval of `value` by the draws' quantiles (sorted in place), and rows by
 * ascending score, equal ones as they stand. */
void ks__stats_draw(uint64_t seed, uint64_t replicate, int32_t n_groups,
                    double *weight);
ks_interval ks__stats_interval(double value, double *draws, int32_t n);
void ks__stats_order(const float *score, int64_t n, int64_t *order);

/* Wilson's interval of k successes in n at 95%. */
ks_interval ks_stats_wilson(int64_t k, int64_t n);

/* Point-biserial (Pearson) correlation of x with y. NaN when constant. */
double ks_stats_correlation(const double *x, const int8_t *y, int64_t n);

#endif
