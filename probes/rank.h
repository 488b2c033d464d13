/* rank.h - rank correlations of two scorings of the same rows, with ties and
 * with rows that count several times. */
#ifndef KS_RANK_H
#define KS_RANK_H

#include "base.h"

/* Made ready once, asked for any weights. */
typedef struct ks_ranked {
    int64_t n;
    int64_t *order;   /* [n] rows by x */
    int64_t *x, *y;   /* [n] dense ranks from 0; equal values share one */
    int64_t n_x, n_y; /* different values */
} ks_ranked;

/* x, y [n]: finite, else KS_NUMERIC. */
ks_status ks_ranked_open(ks_ranked *out, const double *x, const double *y,
                         int64_t n, ks_err *err);
void ks_ranked_close(ks_ranked *ranked);

/* Doubles that ks_ranked_correlate needs. */
size_t ks_ranked_scratch(const ks_ranked *ranked);

/* Row i counts weight[i] times (whole numbers; NULL: once). Spearman's rho:
 * Pearson's correlation of ranks, equal values at their mean rank. Kendall's
 * tau-b: (C - D) / sqrt((P - Tx) (P - Ty)) with C and D of all P pairs in the
 * same and in opposite order and Tx, Ty tied in x and in y. NaN where all x or
 * all y are equal. Time n log n; n without kendall, which may be NULL. */
void ks_ranked_correlate(const ks_ranked *ranked, const double *weight,
                         double *scratch, double *spearman, double *kendall);

#endif
