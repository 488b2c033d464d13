/* calibration.c - see calibration.h. */
#include "calibration.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N, SUM, IMPORTANT, N_SUMS };

typedef struct bins {
    int32_t n;
} bins;

/* A bin's share of important rows, then the error. */
static void figures(const double *total, const void *user, double *out) {
    const bins *b = user;
    double all = 0, off = 0;
    for (int32_t k = 0; k < b->n; k++) {
        const double *t = total + k * N_SUMS;
        out[k] = t[IMPORTANT] / t[N];
        if (t[N] > 0) off += fabs(t[IMPORTANT] - t[SUM]);
        all += t[N];
    }
    out[b->n] = off / all;
}

/* bin[i] of each row; a bin ends at the first change of score from its share
 * of rows on. */
static int32_t cut(const ks_scored *rows, const int64_t *order, int32_t *bin) {
    int32_t k = 0;
    for (int64_t i = 0; i < rows->n; i++) {
        if (i > 0 && i >= rows->n * (k + 1) / KS_CALIBRATION_BINS &&
            rows->score[order[i]] != rows->score[order[i - 1]]) {
            k++;
            while (i >= rows->n * (k + 1) / KS_CALIBRATION_BINS) k++;
        }
        bin[order[i]] = k;
    }
    return k + 1;
}

/* Numbers without the bins that equal scores left empty. */
static int32_t close_up(int32_t *bin, int64_t n, int32_t n_bins) {
    int32_t number[KS_CALIBRATION_BINS + 1] = {0}, used = 0;
    for (int64_t i = 0; i < n; i++) number[bin[i]] = 1;
    for (int32_t k = 0; k < n_bins; k++) number[k] = number[k] ? used++ : -1;
    for (int64_t i = 0; i < n; i++) bin[i] = number[bin[i]];
    return used;
}

ks_status ks_calibrate(const ks_scored *rows, int32_t replicates, uint64_t seed,
                       ks_calibration *out, ks_err *err) {
    ks_status st = KS_OK;
    int64_t *order = NULL;
    int32_t *bin = NULL;
    double *sums = NULL;
    ks_interval found[KS_CALIBRATION_BINS + 1];
    *out = (ks_calibration){0};
    KS_TRY(ks_alloc(&order, (size_t)rows->n, sizeof *order, "rows", err));
    KS_TRY(ks_alloc(&bin, (size_t)rows->n, sizeof *bin, "rows", err));
    ks__stats_order(rows->score, rows->n, order);
    bins b = {.n = close_up(bin, rows->n, cut(rows, order, bin))};
    size_t width = (size_t)b.n * N_SUMS;
    KS_TRY(ks_alloc(&sums, (size_t)rows->n_groups * width, sizeof *sums,
                    "calibration", err));
    for (int64_t i = 0; i < rows->n; i++) {
        double p = 1 / (1 + exp(-(double)rows->score[i]));
        double *s = sums + (size_t)rows->group[i] * width + bin[i] * N_SUMS;
        s[N]++;
        s[SUM] += p;
        s[IMPORTANT] += rows->y[i] == 1;
        out->bin[bin[i]].n++;
        out->bin[bin[i]].predicted += p;
    }
    KS_TRY(ks_stats_of_sums(sums, rows->n_groups, (int32_t)width, figures, &b,
                            b.n + 1, replicates, seed, found, err));
    out->n_bins = b.n;
    for (int32_t k = 0; k < b.n; k++) {
        out->bin[k].predicted /= (double)out->bin[k].n;
        out->bin[k].observed = found[k];
    }
    out->error = found[b.n];
done:
    free(order);
    free(bin);
    free(sums);
    return st;
}
