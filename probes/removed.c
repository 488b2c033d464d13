/* removed.c - see removed.h. */
#include "removed.h"

#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "n_threads.h"
#include "window.h"

enum { MOST = 64, BLOCK = 64 /* dimensions that a thread sums at a time */ };
static const double RANK = 1e-10;

/* The regression for one fold held out; as a source, what it leaves of x. */
typedef struct work {
    const ks_l2_source *x;
    int64_t n, d;
    const float *z; /* [n, k] */
    int32_t k;
    const uint8_t *fold;
    uint32_t hold;
    int threads;
    double centre[MOST], scale[MOST]; /* of z over the training rows; 0: it does
                                         not vary there */
    double *mean;                     /* [d] of x over the training rows */
    double *coefficient;              /* [k, d] */
    double inverse[MOST * MOST]; /* of the features' Gram matrix, within its
                                    rank */
} work;

static bool trains(const work *w, int64_t i) {
    return !(w->hold >> w->fold[i] & 1);
}

static void standardise(work *w) {
    const float *z = w->z;
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
        w->centre[f] = sum / n;
        w->scale[f] = varies ? deviation : 0;
    }
}

/* The features of row i, standardised. */
static void features(const work *w, int64_t i, double z[MOST]) {
    for (int32_t f = 0; f < w->k; f++)
        z[f] = w->scale[f] > 0
                   ? ((double)w->z[i * w->k + f] - w->centre[f]) / w->scale[f]
                   : 0;
}

static ks_status invert(work *w, ks_err *err) {
    ks_status st = KS_OK;
    int32_t k = w->k;
    double gram[MOST * MOST] = {0}, value[MOST], z[MOST];
    for (int64_t i = 0; i < w->n; i++) {
        if (!trains(w, i)) continue;
        features(w, i, z);
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

/* Adds rows [from, from + n) at x, whose features are z [n, MOST]: sums of
 * dimensions [begin, begin + width), and their products with the features. */
static void add_rows(work *w, const float *x, const double *z, int64_t from,
                     int64_t n, int64_t begin, int64_t width) {
    double *sum = w->mean + begin;
    for (int64_t i = 0; i < n; i++) {
        const float *row = x + i * w->d + begin;
        if (!trains(w, from + i)) continue;
        for (int64_t j = 0; j < width; j++) sum[j] += (double)row[j];
        for (int32_t f = 0; f < w->k; f++) {
            double *p = w->coefficient + f * w->d + begin;
            double by = z[i * MOST + f];
            for (int64_t j = 0; j < width; j++) p[j] += by * (double)row[j];
        }
    }
}

/* Sums to means, products to coefficients, of one dimension. */
static void solve(work *w, double n, int64_t j) {
    double product[MOST];
    w->mean[j] /= n;
    for (int32_t f = 0; f < w->k; f++)
        product[f] = w->coefficient[f * w->d + j];
    for (int32_t f = 0; f < w->k; f++) {
        double v = 0;
        for (int32_t g = 0; g < w->k; g++)
            v += w->inverse[f * w->k + g] * product[g];
        w->coefficient[f * w->d + j] = v;
    }
}

static ks_status regress(work *w, ks_err *err) {
    ks_status st = KS_OK;
    ks__window window = {0};
    double *z = NULL, n = 0;
    KS_TRY(ks__window_open(&window, w->x, KS_WINDOW, err));
    KS_TRY(ks_alloc(&z, KS_WINDOW * MOST, sizeof *z, "features", err));
    for (int64_t from = 0; from < w->n; from += KS_WINDOW) {
        int64_t m = KS_MIN(KS_WINDOW, w->n - from);
        const float *x;
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
        KS_TRY(ks__window_get(&window, from, m, &x, err));
        for (int64_t i = 0; i < m; i++) {
            features(w, from + i, z + i * MOST);
            n += trains(w, from + i);
        }
#pragma omp parallel for schedule(static) num_threads(w->threads)
        for (int64_t begin = 0; begin < w->d; begin += BLOCK)
            add_rows(w, x, z, from, m, begin, KS_MIN(BLOCK, w->d - begin));
    }
    for (int64_t j = 0; j < w->d; j++) solve(w, n, j);
done:
    ks__window_close(&window);
    free(z);
    return st;
}

/* x: row i; row [d]: scratch. */
static void take_off(const work *w, int64_t i, const float *x, double *row,
                     float *out) {
    double z[MOST];
    features(w, i, z);
    for (int64_t j = 0; j < w->d; j++) row[j] = (double)x[j] - w->mean[j];
    for (int32_t f = 0; f < w->k; f++) {
        const double *c = w->coefficient + f * w->d;
        for (int64_t j = 0; j < w->d; j++) row[j] -= z[f] * c[j];
    }
    for (int64_t j = 0; j < w->d; j++) out[j] = (float)row[j];
}

/* What is left of rows [row, row + n): a source's read. */
static ks_status read_left(void *user, int64_t row, int64_t n, void *out,
                           ks_err *err) {
    ks_status st = KS_OK;
    const work *w = user;
    ks__window window = {0};
    double *one = NULL;
    KS_TRY(ks__window_open(&window, w->x, KS_MIN(n, KS_WINDOW), err));
    KS_TRY(ks_alloc(&one, (size_t)w->d, sizeof *one, "features", err));
    for (int64_t from = 0; from < n; from += KS_WINDOW) {
        int64_t m = KS_MIN(KS_WINDOW, n - from);
        const float *x;
        KS_TRY(ks__window_get(&window, row + from, m, &x, err));
        for (int64_t i = 0; i < m; i++)
            take_off(w, row + from + i, x + i * w->d, one,
                     (float *)out + (from + i) * w->d);
    }
done:
    ks__window_close(&window);
    free(one);
    return st;
}

static void close_work(work *w) {
    free(w->mean);
    free(w->coefficient);
    *w = (work){0};
}

/* x, z, k, fold, hold and threads are there. */
static ks_status open_work(work *w, ks_err *err) {
    ks_status st = KS_OK;
    size_t k = (size_t)w->k, d = (size_t)w->x->d;
    w->n = w->x->n, w->d = w->x->d;
    w->threads = ks_threads(w->threads);
    KS_CHECK(w->k >= 1 && w->k <= MOST, KS_USAGE,
             "%d features, expected 1 to %d", w->k, MOST);
    KS_TRY(ks_alloc(&w->mean, d, sizeof *w->mean, "features", err));
    KS_TRY(ks_alloc(&w->coefficient, k * d, sizeof *w->coefficient, "features",
                    err));
    standardise(w);
    KS_TRY(invert(w, err));
    KS_TRY(regress(w, err));
done:
    if (st != KS_OK) close_work(w);
    return st;
}

ks_status ks_removed_residual(const ks_l2_source *x, const float *z, int32_t k,
                              const uint8_t *fold, uint32_t hold, int threads,
                              float *out, ks_err *err) {
    ks_status st = KS_OK;
    work w = {
        .x = x, .z = z, .k = k, .fold = fold, .hold = hold, .threads = threads};
    KS_TRY(open_work(&w, err));
    KS_TRY(read_left(&w, 0, w.n, out, err));
done:
    close_work(&w);
    return st;
}

ks_status ks_removed_fit(const ks_l2_source *x, const float *z, int32_t k,
                         const int8_t *y, const ks_folds *folds,
                         const bool *asked, const ks_nest_options *options,
                         float *score, int32_t *fits, int32_t *unconverged,
                         ks_err *err) {
    ks_status st = KS_OK;
    double *sum = NULL;
    ks_nest nest = {0};
    work w = {0};
    ks_nest_options one = *options;
    const ks_l2_source left = {
        .n = x->n, .d = x->d, .type = KS_F32, .read = read_left, .user = &w};
    one.keep_weights = one.keep_inner = false;
    KS_TRY(ks_alloc(&sum, (size_t)folds->n, sizeof *sum, "scores", err));
    for (int32_t s = 0; s < folds->n_seeds; s++)
        for (int32_t f = 0; f < folds->n_folds; f++) {
            ks_folds mine = *folds;
            mine.n_seeds = 1;
            mine.fold += s * folds->n;
            one.outer = 1u << f;
            if (asked && !asked[s * folds->n_folds + f]) continue;
            KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
            w = (work){.x = x,
                       .z = z,
                       .k = k,
                       .fold = mine.fold,
                       .hold = one.outer,
                       .threads = one.threads};
            KS_TRY(open_work(&w, err));
            KS_TRY(ks_nest_fit_from(&nest, &left, &y, &mine, &one, err));
            for (int64_t i = 0; i < mine.n; i++)
                if (mine.fold[i] == f) sum[i] += (double)nest.score[i];
            *fits += nest.columns;
            *unconverged += nest.unconverged;
            ks_nest_free(&nest);
            close_work(&w);
        }
    for (int64_t i = 0; i < folds->n; i++)
        score[i] = (float)(sum[i] / folds->n_seeds);
done:
    close_work(&w);
    free(sum);
    return st;
}

size_t ks_removed_bytes(const ks_l2_source *x, int32_t k, const ks_folds *folds,
                        const ks_nest_options *options, int threads,
                        bool scratch) {
    size_t most = 0, d = (size_t)x->d;
    ks_nest_options one = *options;
    ks_folds mine = *folds;
    mine.n_seeds = 1;
    one.keep_weights = one.keep_inner = false;
    for (int32_t f = 0; f < folds->n_folds; f++) {
        one.outer = 1u << f;
        most = KS_MAX(
            most, ks_nest_bytes(x->d, KS_F32, &mine, &one, threads, scratch) +
                      ks_nest_kept(x->d, &mine, &one));
    }
    return most + (size_t)folds->n * sizeof(double) +
           (size_t)(k + 1) * d * sizeof(double) +
           KS_WINDOW * MOST * sizeof(double) +
           (size_t)threads *
               (ks__window_bytes(x, KS_WINDOW) + d * sizeof(double));
}
