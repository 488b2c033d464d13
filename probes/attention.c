/* attention.c - see attention.h: takes in the tokens, blocks and moments. */
#include "attention.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "attention_state.h"
#include "blas.h"

/* Blocks never straddle folds. */
static ks_status cut_blocks(ks_attention *a, ks_err *err) {
    ks_status st = KS_OK;
    const ks_attention_rows *r = &a->rows;
    KS_TRY(
        ks_alloc(&a->blocks, (size_t)r->n, sizeof *a->blocks, "blocks", err));
    for (int64_t begin = 0, end; begin < r->n; begin = end) {
        for (end = begin + 1; end < r->n; end++)
            if (r->fold[end] != r->fold[begin] ||
                r->offset[end + 1] - r->offset[begin] > KS_ATTENTION_BLOCK)
                break;
        a->blocks[a->n_blocks++] =
            (ks_attention_block){begin, end, r->fold[begin]};
        a->widest = KS_MAX(a->widest, r->offset[end] - r->offset[begin]);
    }
    a->n_lanes = KS_MIN(a->n_blocks, KS_ATTENTION_LANES);
done:
    return st;
}

static ks_status find_units(ks_attention *a, ks_err *err) {
    const ks_attention_rows *r = &a->rows;
    int64_t d = r->d, tokens = r->offset[r->n];
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t j = 0; j < d; j++)
            a->shift[j] += (double)a->u[t * d + j] / (double)tokens;
    for (int64_t j = 0; j < d; j++)
        if (!isfinite(a->shift[j])) {
            int64_t t = 0;
            while (t + 1 < tokens && isfinite(a->u[t * d + j])) t++;
            return ks_fail(err, KS_NUMERIC,
                           "token %lld, feature %lld: expected a finite value, "
                           "found %g",
                           (long long)t, (long long)j, (double)a->u[t * d + j]);
        }
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t j = 0; j < d; j++) {
            double off = (double)a->u[t * d + j] - a->shift[j];
            a->unit[j] += off * off / (double)tokens;
        }
    for (int64_t j = 0; j < d; j++) {
        double variance = a->unit[j], mean = a->shift[j];
        a->unit[j] =
            variance > 1e-12 * mean * mean && variance > 0 ? sqrt(variance) : 0;
    }
    return KS_OK;
}

static void to_units(ks_attention *a) {
    const ks_attention_rows *r = &a->rows;
    int64_t d = r->d, tokens = r->offset[r->n];
#pragma omp parallel for num_threads(a->threads) schedule(static)
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t j = 0; j < d; j++) {
            float *u = &a->u[t * d + j];
            *u = a->unit[j] > 0
                     ? (float)(((double)*u - a->shift[j]) / a->unit[j])
                     : 0;
        }
    for (int64_t i = 0; i < r->n; i++) {
        double *sum = a->sum + r->fold[i] * d;
        double *square = a->square + r->fold[i] * d;
        a->count[r->fold[i]] += (double)(r->offset[i + 1] - r->offset[i]);
        for (int64_t t = r->offset[i]; t < r->offset[i + 1]; t++)
            for (int64_t j = 0; j < d; j++) {
                double u = (double)a->u[t * d + j];
                sum[j] += u;
                square[j] += u * u;
            }
    }
}

static ks_status check(const ks_attention_rows *r, ks_err *err) {
    ks_status st = KS_OK;
    for (int64_t i = 0; i < r->n; i++) {
        KS_CHECK(r->offset[i + 1] > r->offset[i], KS_MISMATCH,
                 "step %lld has no token to attend to", (long long)i);
        KS_CHECK(r->fold[i] < 32 && (!i || r->fold[i] >= r->fold[i - 1]) &&
                     (r->y[i] == 0 || r->y[i] == 1),
                 KS_USAGE,
                 "step %lld: expected folds below 32 in order and a label 0 or "
                 "1, found %d and %d",
                 (long long)i, r->fold[i], r->y[i]);
    }
    KS_CHECK(r->n >= 2 && r->d >= 1, KS_USAGE,
             "attention needs at least 2 steps and 1 feature, got %lld and "
             "%lld",
             (long long)r->n, (long long)r->d);
done:
    return st;
}

static ks_status place(ks_attention *a, ks_err *err) {
    ks_status st = KS_OK;
    size_t bytes =
        (size_t)a->rows.offset[a->rows.n] * (size_t)a->rows.d * sizeof(float);
    if (!a->dev) return KS_OK;
    KS_TRY(a->ops->alloc(a->dev, &a->u_buf, bytes, "tokens of a layer", err));
    KS_TRY(a->ops->copy(a->dev, a->u_buf.data, a->u, bytes, err));
    KS_TRY(a->ops->sync(a->dev, err));
done:
    return st;
}

ks_status ks_attention_open(ks_attention **out, const struct ks_ops *ops,
                            ks_dev *dev, float **x,
                            const ks_attention_rows *rows, int threads,
                            ks_err *err) {
    ks_status st = KS_OK;
    ks_attention *a = NULL;
    size_t d = (size_t)rows->d;
    *out = NULL;
    KS_TRY(check(rows, err));
    KS_TRY(ks__blas_check(err));
    KS_TRY(ks_alloc(&a, 1, sizeof *a, "attention", err));
    a->rows = *rows;
    a->threads = threads > 0 ? threads : omp_get_max_threads();
    if (dev && !ops->unified) a->ops = ops, a->dev = dev;
    a->u = *x;
    *x = NULL;
    KS_TRY(ks_alloc(&a->shift, d, sizeof(double), "moments", err));
    KS_TRY(ks_alloc(&a->unit, d, sizeof(double), "moments", err));
    KS_TRY(ks_alloc(&a->sum, 32 * d, sizeof(double), "moments", err));
    KS_TRY(ks_alloc(&a->square, 32 * d, sizeof(double), "moments", err));
    KS_TRY(cut_blocks(a, err));
    KS_TRY(find_units(a, err));
    to_units(a);
    KS_TRY(place(a, err));
    *out = a;
    a = NULL;
done:
    ks_attention_close(&a);
    return st;
}

void ks_attention_close(ks_attention **attention) {
    ks_attention *a = *attention;
    if (!a) return;
    if (a->dev) a->ops->free(a->dev, &a->u_buf);
    free(a->u);
    free(a->shift);
    free(a->unit);
    free(a->sum);
    free(a->square);
    free(a->blocks);
    free(a);
    *attention = NULL;
}

void ks_attention_scale(const ks_attention *a, uint32_t hold, double *mean,
                        double *inverse) {
    int64_t d = a->rows.d;
    double n = 0;
    for (int f = 0; f < 32; f++)
        if (!(hold >> f & 1)) n += a->count[f];
    for (int64_t j = 0; j < d; j++) {
        double sum = 0, square = 0;
        for (int f = 0; f < 32; f++)
            if (!(hold >> f & 1)) {
                sum += a->sum[f * d + j];
                square += a->square[f * d + j];
            }
        double variance = square / n - sum / n * (sum / n);
        bool varies = variance > 1e-12 && a->unit[j] > 0;
        mean[j] = a->shift[j] + a->unit[j] * sum / n;
        inverse[j] = varies ? 1 / (sqrt(variance) * a->unit[j]) : 0;
    }
}

ks_status ks_attention_pool(const ks_attention *a, float *out, ks_err *err) {
    const ks_attention_rows *r = &a->rows;
    int64_t d = r->d;
    double *sum = NULL;
    ks_status st = ks_alloc(&sum, (size_t)d, sizeof *sum, "means", err);
    for (int64_t i = 0; st == KS_OK && i < r->n; i++) {
        memset(sum, 0, (size_t)d * sizeof *sum);
        for (int64_t t = r->offset[i]; t < r->offset[i + 1]; t++)
            for (int64_t j = 0; j < d; j++) sum[j] += (double)a->u[t * d + j];
        for (int64_t j = 0; j < d; j++)
            out[i * d + j] =
                (float)(a->shift[j] +
                        a->unit[j] * sum[j] /
                            (double)(r->offset[i + 1] - r->offset[i]));
    }
    free(sum);
    return st;
}
