/* removed.c - see removed.h. */
#include "removed.h"

#include <lapacke.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 64, BLOCK = 64 /* dimensions that a thread sums at a time */ };
static const double RANK = 1e-10;

typedef struct work {
    const float *x;
    int64_t n, d;
    int32_t k;
    const uint8_t *fold;
    uint32_t hold;
    int threads;
    double *z;                   /* [n, k] standardised by the training rows */
    double *mean;                /* [d] of x over the training rows */
    double *coefficient;         /* [k, d] */
    double inverse[MOST * MOST]; /* of the features' Gram matrix, within its
                                    rank */
} work;

static bool trains(const work *w, int64_t i) {
    return !(w->hold >> w->fold[i] & 1);
}

static void standardise(work *w, const float *z) {
    for (int32_t f = 0; f < w->k; f++) {
        double sum = 0, squares = 0, n = 0;
        for (int64_t i = 0; i < w->n; i++) {
            if (!trains(w, i)) continue;
            sum += (double)z[i * w->k + f];
            n++;
        }
        for (int64_t i = 0; i < w->n; i++) {
            double off = (double)z[i * w->k + f] - sum / n;
            if (trains(w, i)) squares += off * off;
        }
        double deviation = sqrt(squares / n);
        bool varies = deviation > 1e-12 * fabs(sum / n);
        for (int64_t i = 0; i < w->n; i++)
            w->z[i * w->k + f] =
                varies ? ((double)z[i * w->k + f] - sum / n) / deviation : 0;
    }
}

static ks_status invert(work *w, ks_err *err) {
    ks_status st = KS_OK;
    int32_t k = w->k;
    double gram[MOST * MOST] = {0}, value[MOST];
    for (int64_t i = 0; i < w->n; i++) {
        const double *z = w->z + i * k;
        if (!trains(w, i)) continue;
        for (int32_t a = 0; a < k; a++)
            for (int32_t b = 0; b < k; b++) gram[a * k + b] += z[a] * z[b];
    }
    lapack_int info =
        LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'V', 'U', k, gram, k, value);
    KS_CHECK(info == 0, KS_NUMERIC,
             "the features' Gram matrix has no eigenvalues (dsyevd: %d)",
             (int)info);
    memset(w->inverse, 0, sizeof w->inverse);
    for (int32_t e = 0; e < k; e++) {
        if (!(value[e] > RANK * value[k - 1])) continue;
        for (int32_t a = 0; a < k; a++)
            for (int32_t b = 0; b < k; b++)
                w->inverse[a * k + b] +=
                    gram[e * k + a] * gram[e * k + b] / value[e];
    }
done:
    return st;
}

/* Means and coefficients of dimensions [begin, begin + width). */
static void regress(work *w, int64_t begin, int64_t width) {
    double product[MOST * BLOCK] = {0}, sum[BLOCK] = {0}, n = 0;
    for (int64_t i = 0; i < w->n; i++) {
        const float *x = w->x + i * w->d + begin;
        if (!trains(w, i)) continue;
        n++;
        for (int64_t j = 0; j < width; j++) sum[j] += (double)x[j];
        for (int32_t f = 0; f < w->k; f++) {
            double z = w->z[i * w->k + f], *p = product + f * BLOCK;
            for (int64_t j = 0; j < width; j++) p[j] += z * (double)x[j];
        }
    }
    for (int64_t j = 0; j < width; j++) w->mean[begin + j] = sum[j] / n;
    for (int32_t f = 0; f < w->k; f++)
        for (int64_t j = 0; j < width; j++) {
            double v = 0;
            for (int32_t g = 0; g < w->k; g++)
                v += w->inverse[f * w->k + g] * product[g * BLOCK + j];
            w->coefficient[f * w->d + begin + j] = v;
        }
}

static void take_off(const work *w, int64_t i, double *row, float *out) {
    const float *x = w->x + i * w->d;
    for (int64_t j = 0; j < w->d; j++) row[j] = (double)x[j] - w->mean[j];
    for (int32_t f = 0; f < w->k; f++) {
        double z = w->z[i * w->k + f];
        const double *c = w->coefficient + f * w->d;
        for (int64_t j = 0; j < w->d; j++) row[j] -= z * c[j];
    }
    for (int64_t j = 0; j < w->d; j++) out[i * w->d + j] = (float)row[j];
}

ks_status ks_removed_residual(const float *x, int64_t d, const float *z,
                              int32_t k, const uint8_t *fold, uint32_t hold,
                              int64_t n, int threads, float *out, ks_err *err) {
    ks_status st = KS_OK;
    double *rows = NULL;
    work w = {.x = x, .n = n, .d = d, .k = k, .fold = fold, .hold = hold};
    if (threads <= 0) threads = omp_get_max_threads();
    KS_CHECK(k >= 1 && k <= MOST, KS_USAGE, "%d features, expected 1 to %d", k,
             MOST);
    KS_TRY(ks_alloc(&w.z, (size_t)(n * k), sizeof *w.z, "features", err));
    KS_TRY(ks_alloc(&w.mean, (size_t)d, sizeof *w.mean, "features", err));
    KS_TRY(ks_alloc(&w.coefficient, (size_t)(k * d), sizeof *w.coefficient,
                    "features", err));
    KS_TRY(ks_alloc(&rows, (size_t)threads * (size_t)d, sizeof *rows,
                    "features", err));
    standardise(&w, z);
    KS_TRY(invert(&w, err));
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t begin = 0; begin < d; begin += BLOCK)
        regress(&w, begin, KS_MIN(BLOCK, d - begin));
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < n; i++)
        take_off(&w, i, rows + omp_get_thread_num() * d, out);
done:
    free(w.z);
    free(w.mean);
    free(w.coefficient);
    free(rows);
    return st;
}

ks_status ks_removed_fit(const float *x, int64_t d, const float *z, int32_t k,
                         const int8_t *y, const ks_folds *folds,
                         const ks_nest_options *options, float *score,
                         int32_t *fits, int32_t *unconverged, ks_err *err) {
    ks_status st = KS_OK;
    float *left = NULL;
    double *sum = NULL;
    ks_nest nest = {0};
    ks_nest_options one = *options;
    one.keep_weights = one.keep_inner = false;
    KS_TRY(ks_alloc(&left, (size_t)(folds->n * d), sizeof *left,
                    "activations of a layer", err));
    KS_TRY(ks_alloc(&sum, (size_t)folds->n, sizeof *sum, "scores", err));
    for (int32_t s = 0; s < folds->n_seeds; s++)
        for (int32_t f = 0; f < folds->n_folds; f++) {
            ks_folds mine = *folds;
            mine.n_seeds = 1;
            mine.fold += s * folds->n;
            one.outer = 1u << f;
            KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
            KS_TRY(ks_removed_residual(x, d, z, k, mine.fold, one.outer, mine.n,
                                       one.threads, left, err));
            KS_TRY(ks_nest_fit(&nest, left, d, &y, &mine, &one, err));
            for (int64_t i = 0; i < mine.n; i++)
                if (mine.fold[i] == f) sum[i] += (double)nest.score[i];
            *fits += nest.columns;
            *unconverged += nest.unconverged;
            ks_nest_free(&nest);
        }
    for (int64_t i = 0; i < folds->n; i++)
        score[i] = (float)(sum[i] / folds->n_seeds);
done:
    free(left);
    free(sum);
    return st;
}
