/* correlate.c - see correlate.h. */
#include "correlate.h"

#include <math.h>
#include <stdlib.h>

/* What is added up over rows: their number; of each column its values and
 * their squares, x ahead of t; the products of each x with each t. */
typedef struct work {
    int32_t n_x, n_t, n_columns, width;
    double *sums; /* [n_groups, width] */
} work;

/* Column k of x and t together. */
static double value(const work *w, const double *x, const double *t, int64_t i,
                    int32_t k) {
    return k < w->n_x ? x[i * w->n_x + k] : t[i * w->n_t + k - w->n_x];
}

/* Columns go into the sums with mean 0 and deviation 1, so that a draw's
 * variance loses no digits; 0 where one is constant. */
static void scale_of(const work *w, const double *x, const double *t, int64_t n,
                     int32_t k, double *mean, double *inverse) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) sum += value(w, x, t, i, k);
    *mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++) {
        double off = value(w, x, t, i, k) - *mean;
        squares += off * off;
    }
    double deviation = sqrt(squares / (double)n);
    *inverse = deviation > 1e-12 * fabs(*mean) ? 1 / deviation : 0;
}

static ks_status add_up(work *w, const double *x, const double *t, int64_t n,
                        const int32_t *group, ks_err *err) {
    ks_status st = KS_OK;
    double *mean = NULL, *inverse = NULL, *z = NULL;
    size_t columns = (size_t)w->n_columns;
    KS_TRY(ks_alloc(&mean, columns, sizeof *mean, "correlations", err));
    KS_TRY(ks_alloc(&inverse, columns, sizeof *inverse, "correlations", err));
    KS_TRY(ks_alloc(&z, columns, sizeof *z, "correlations", err));
    for (int32_t k = 0; k < w->n_columns; k++)
        scale_of(w, x, t, n, k, &mean[k], &inverse[k]);
    for (int64_t i = 0; i < n; i++) {
        double *s = w->sums + (int64_t)group[i] * w->width;
        *s++ += 1;
        for (int32_t k = 0; k < w->n_columns; k++) {
            z[k] = (value(w, x, t, i, k) - mean[k]) * inverse[k];
            *s++ += z[k];
            *s++ += z[k] * z[k];
        }
        for (int32_t j = 0; j < w->n_x; j++)
            for (int32_t k = 0; k < w->n_t; k++) *s++ += z[j] * z[w->n_x + k];
    }
done:
    free(mean);
    free(inverse);
    free(z);
    return st;
}

/* Sum of squares about the mean; NaN where that is rounding alone. */
static double spread(const double *all, int32_t k) {
    double sum = all[1 + 2 * k], squares = all[2 + 2 * k];
    double about = squares - sum * sum / all[0];
    return about > 1e-12 * squares ? about : NAN;
}

/* As ks_stats_fn: all [width] sums, r [n_x, n_t]. */
static void correlations(const double *all, const void *user, double *r) {
    const work *w = user;
    const double *product = all + 1 + 2 * w->n_columns;
    for (int32_t j = 0; j < w->n_x; j++)
        for (int32_t k = 0; k < w->n_t; k++) {
            int32_t of = w->n_x + k;
            double about =
                *product++ - all[1 + 2 * j] * all[1 + 2 * of] / all[0];
            *r++ = about / sqrt(spread(all, j) * spread(all, of));
        }
}

ks_status ks_correlate(const double *x, int32_t n_x, const double *t,
                       int32_t n_t, int64_t n, const int32_t *group,
                       int32_t n_groups, int32_t replicates, uint64_t seed,
                       ks_interval *out, ks_err *err) {
    ks_status st = KS_OK;
    work w = {.n_x = n_x,
              .n_t = n_t,
              .n_columns = n_x + n_t,
              .width = 1 + 2 * (n_x + n_t) + n_x * n_t};
    KS_TRY(ks_alloc(&w.sums, (size_t)n_groups * (size_t)w.width, sizeof *w.sums,
                    "correlations", err));
    KS_TRY(add_up(&w, x, t, n, group, err));
    KS_TRY(ks_stats_of_sums(w.sums, n_groups, w.width, correlations, &w,
                            n_x * n_t, replicates, seed, out, err));
done:
    free(w.sums);
    return st;
}
