/* rank.c - see rank.h. All sums are of whole and half numbers, exact up to
 * 2^53. */
#include "rank.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int by_value(const void *a, const void *b, void *user) {
    const double *value = user;
    int64_t i = *(const int64_t *)a, j = *(const int64_t *)b;
    if (value[i] != value[j]) return value[i] < value[j] ? -1 : 1;
    return (i > j) - (i < j);
}

/* Sorts rows by value and numbers the values. */
static int64_t dense_ranks(const double *value, int64_t n, int64_t *order,
                           int64_t *rank) {
    int64_t different = 0;
    for (int64_t i = 0; i < n; i++) order[i] = i;
    qsort_r(order, (size_t)n, sizeof *order, by_value,
            (void *)(uintptr_t)value);
    for (int64_t i = 0; i < n; i++) {
        if (i > 0 && value[order[i]] != value[order[i - 1]]) different++;
        rank[order[i]] = different;
    }
    return n > 0 ? different + 1 : 0;
}

ks_status ks_ranked_open(ks_ranked *out, const double *x, const double *y,
                         int64_t n, ks_err *err) {
    ks_status st = KS_OK;
    *out = (ks_ranked){.n = n};
    for (int64_t i = 0; i < n; i++)
        KS_CHECK(isfinite(x[i]) && isfinite(y[i]), KS_NUMERIC,
                 "score %lld is not a finite number", (long long)i);
    KS_TRY(ks_alloc(&out->order, (size_t)n, sizeof *out->order, "ranks", err));
    KS_TRY(ks_alloc(&out->x, (size_t)n, sizeof *out->x, "ranks", err));
    KS_TRY(ks_alloc(&out->y, (size_t)n, sizeof *out->y, "ranks", err));
    out->n_y = dense_ranks(y, n, out->order, out->y);
    out->n_x = dense_ranks(x, n, out->order, out->x);
done:
    if (st != KS_OK) ks_ranked_close(out);
    return st;
}

void ks_ranked_close(ks_ranked *r) {
    free(r->order);
    free(r->x);
    free(r->y);
    *r = (ks_ranked){0};
}

size_t ks_ranked_scratch(const ks_ranked *r) {
    return (size_t)(r->n_x + 2 * r->n_y + 1);
}

/* Counts of values in, mean ranks out; returns the pairs tied. */
static double mean_ranks(double *count, int64_t n) {
    double below = 0, tied = 0;
    for (int64_t v = 0; v < n; v++) {
        double here = count[v];
        tied += here * (here - 1) / 2;
        count[v] = below + (here + 1) / 2;
        below += here;
    }
    return tied;
}

/* Fenwick, P. M. (1994): sums of the first v of n counts, kept while counts
 * grow, both in log n. */
static void add_count(double *tree, int64_t n, int64_t v, double w) {
    for (int64_t i = v + 1; i <= n; i += i & -i) tree[i] += w;
}

static double sum_below(const double *tree, int64_t v) {
    double sum = 0;
    for (int64_t i = v; i > 0; i -= i & -i) sum += tree[i];
    return sum;
}

/* Pairs in the same order less pairs in opposite order. */
static double concordance(const ks_ranked *r, const double *weight,
                          double *tree) {
    double sum = 0, seen = 0;
    memset(tree, 0, sizeof *tree * (size_t)(r->n_y + 1));
    for (int64_t i = 0, end; i < r->n; i = end) {
        int64_t x = r->x[r->order[i]];
        for (end = i; end < r->n && r->x[r->order[end]] == x; end++) {
            int64_t row = r->order[end];
            double w = weight ? weight[row] : 1;
            double less = sum_below(tree, r->y[row]);
            double more = seen - sum_below(tree, r->y[row] + 1);
            sum += w * (less - more);
        }
        for (int64_t k = i; k < end; k++) {
            int64_t row = r->order[k];
            double w = weight ? weight[row] : 1;
            add_count(tree, r->n_y, r->y[row], w);
            seen += w;
        }
    }
    return sum;
}

void ks_ranked_correlate(const ks_ranked *r, const double *weight,
                         double *scratch, double *spearman, double *kendall) {
    double *of_x = scratch, *of_y = of_x + r->n_x, *tree = of_y + r->n_y;
    double all = 0, xx = 0, yy = 0, xy = 0;
    memset(scratch, 0, sizeof *scratch * (size_t)(r->n_x + r->n_y));
    for (int64_t i = 0; i < r->n; i++) {
        double w = weight ? weight[i] : 1;
        of_x[r->x[i]] += w;
        of_y[r->y[i]] += w;
        all += w;
    }
    double pairs = all * (all - 1) / 2, middle = (all + 1) / 2;
    double left = pairs - mean_ranks(of_x, r->n_x);
    double right = pairs - mean_ranks(of_y, r->n_y);
    for (int64_t i = 0; i < r->n; i++) {
        double w = weight ? weight[i] : 1;
        double dx = of_x[r->x[i]] - middle, dy = of_y[r->y[i]] - middle;
        xx += w * dx * dx;
        yy += w * dy * dy;
        xy += w * dx * dy;
    }
    bool varies = left > 0 && right > 0;
    *spearman = varies ? xy / sqrt(xx * yy) : NAN;
    if (!kendall) return;
    *kendall = varies ? concordance(r, weight, tree) / sqrt(left * right) : NAN;
}
