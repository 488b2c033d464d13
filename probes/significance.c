/* significance.c - see significance.h. */
#include "significance.h"

#include <float.h>
#include <gsl/gsl_randist.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "philox.h"

/* ------------------------------------------------------------- within chains
 */

typedef struct chain_table {
    unsigned n, important, predicted, both;
} chain_table;

/* Probabilities of a sum, those from first to last; the others are 0. */
typedef struct sums {
    double *dist;
    int64_t first, last;
} sums;

/* The sum with one chain's added. What is below the least normal number at the
 * ends goes: p keeps its digits, and of very many chains only sums within some
 * forty standard deviations are carried along. pdf: scratch. */
static void fold_in(sums *s, const chain_table *c, double *pdf) {
    unsigned low = c->important + c->predicted > c->n
                       ? c->important + c->predicted - c->n
                       : 0;
    unsigned high = KS_MIN(c->important, c->predicted), width = high - low;
    double *dist = s->dist;
    for (unsigned k = 0; k <= width; k++)
        pdf[k] = gsl_ran_hypergeometric_pdf(low + k, c->important,
                                            c->n - c->important, c->predicted);
    for (int64_t i = s->last + width; i >= s->first; i--) {
        double sum = 0;
        for (int64_t k = 0; k <= width && k <= i - s->first; k++)
            if (i - k <= s->last) sum += pdf[k] * dist[i - k];
        dist[i] = sum;
    }
    s->last += width;
    while (s->first < s->last && dist[s->last] < DBL_MIN) s->last--;
    while (s->first < s->last && dist[s->first] < DBL_MIN) s->first++;
}

/* dist counts from the least sum that can be. */
static ks_status tail(const chain_table *chains, int32_t n_chains,
                      double variance, double *p, ks_err *err) {
    ks_status st = KS_OK;
    sums s = {0};
    double *pdf = NULL;
    unsigned widest = 0;
    int64_t most = 0, found = 0;
    double expected = 0;
    for (int32_t c = 0; c < n_chains; c++) {
        const chain_table *t = &chains[c];
        unsigned sum = t->important + t->predicted;
        unsigned low = sum > t->n ? sum - t->n : 0;
        found += t->both - low;
        if (t->n) expected += (double)t->important * t->predicted / t->n - low;
        most += KS_MIN(t->important, t->predicted);
        widest = KS_MAX(widest, t->n);
    }
    KS_TRY(ks_alloc(&s.dist, (size_t)most + 1, sizeof *s.dist, "a distribution",
                    err));
    KS_TRY(
        ks_alloc(&pdf, (size_t)widest + 1, sizeof *pdf, "a distribution", err));
    s.dist[0] = 1;
    for (int32_t c = 0; c < n_chains; c++) fold_in(&s, &chains[c], pdf);
    double from = expected + ((double)found - expected) / sqrt(variance);
    *p = 0;
    for (int64_t i = s.last; i >= s.first && (double)i >= from - 1e-9; i--)
        *p += s.dist[i];
    *p = KS_MIN(*p, 1.0);
done:
    free(s.dist);
    free(pdf);
    return st;
}

ks_status ks_p_within(const ks_scored *rows, double variance, double *p,
                      ks_err *err) {
    ks_status st = KS_OK;
    chain_table *chains = NULL;
    KS_TRY(ks_alloc(&chains, (size_t)rows->n_chains, sizeof *chains, "chains",
                    err));
    for (int64_t i = 0; i < rows->n; i++) {
        chain_table *t = &chains[rows->chain[i]];
        bool important = rows->y[i] == 1, predicted = rows->score[i] > 0;
        t->n++;
        t->important += important;
        t->predicted += predicted;
        t->both += important && predicted;
    }
    KS_TRY(tail(chains, rows->n_chains, variance, p, err));
done:
    free(chains);
    return st;
}

/* ----------------------------------------------------------------- sign flips
 */

enum { MOST_EXACT = 13 };

static bool as_far(double sum, double found) {
    return fabs(sum) >= fabs(found) * (1 - 1e-12);
}

static double all_signs(const double *d, int32_t n, double found) {
    int64_t far = 0, all = (int64_t)1 << n;
    for (int64_t set = 0; set < all; set++) {
        double sum = 0;
        for (int32_t g = 0; g < n; g++) sum += set >> g & 1 ? -d[g] : d[g];
        far += as_far(sum, found);
    }
    return (double)far / (double)all;
}

static double some_signs(const double *d, int32_t n, double found,
                         uint64_t seed) {
    int64_t far = 0;
#pragma omp parallel for schedule(static) reduction(+ : far)
    for (int32_t r = 0; r < KS_FLIPS; r++) {
        const uint64_t key[2] = {seed, 0x7369676e666c6970u + (uint64_t)r};
        double sum = 0;
        for (int32_t g = 0; g < n; g += 128) {
            uint32_t word[4];
            ks_philox(key, (uint64_t)g / 128, word);
            for (int32_t k = 0; k < 128 && g + k < n; k++)
                sum += word[k / 32] >> k % 32 & 1 ? -d[g + k] : d[g + k];
        }
        far += as_far(sum, found);
    }
    return (double)(1 + far) / (1 + KS_FLIPS);
}

ks_status ks_p_paired(const ks_scored *a, const float *b_score, double variance,
                      uint64_t seed, double *p, ks_err *err) {
    ks_status st = KS_OK;
    double *d = NULL, count[2] = {0, 0}, found = 0;
    int32_t n = 0;
    KS_TRY(ks_alloc(&d, (size_t)a->n_groups, sizeof *d, "problems", err));
    for (int64_t i = 0; i < a->n; i++) count[a->y[i] == 1]++;
    for (int64_t i = 0; i < a->n; i++) {
        int y = a->y[i] == 1;
        int right_a = (a->score[i] > 0) == y, right_b = (b_score[i] > 0) == y;
        d[a->group[i]] += (right_a - right_b) * 0.5 / count[y];
    }
    for (int32_t g = 0; g < a->n_groups; g++)
        if (d[g] != 0) d[n++] = d[g];
    for (int32_t g = 0; g < n; g++) found += d[g];
    found /= sqrt(variance);
    *p = n <= MOST_EXACT ? all_signs(d, n, found)
                         : some_signs(d, n, found, seed);
done:
    free(d);
    return st;
}

/* ----------------------------------------------------------------------- Holm
 */

static int by_p(const void *pa, const void *pb) {
    const double *const *a = pa, *const *b = pb;
    if (**a != **b) return **a < **b ? -1 : 1;
    return (*a > *b) - (*a < *b);
}

ks_status ks_p_holm(const double *p, int32_t n, double *adjusted, ks_err *err) {
    ks_status st = KS_OK;
    const double **order = NULL;
    double *own = NULL, most = 0;
    int32_t m = 0;
    KS_TRY(ks_alloc(&order, (size_t)n, sizeof *order, "p values", err));
    KS_TRY(ks_alloc(&own, (size_t)n, sizeof *own, "p values", err));
    for (int32_t i = 0; i < n; i++) {
        own[i] = p[i];
        if (!isnan(p[i])) order[m++] = &own[i];
    }
    qsort(order, (size_t)m, sizeof *order, by_p);
    for (int32_t i = 0; i < n; i++) adjusted[i] = own[i];
    for (int32_t i = 0; i < m; i++) {
        most = KS_MAX(most, KS_MIN(1.0, (m - i) * *order[i]));
        adjusted[order[i] - own] = most;
    }
done:
    free(order);
    free(own);
    return st;
}
