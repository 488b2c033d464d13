/* attention.c - see attention.h: takes in the tokens, blocks and moments. */
#include "attention.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "attention_state.h"
#include "blas.h"
#include "n_threads.h"
#include "scratch.h"
#include "window.h"

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

/* -------------------------------------------------------------------- tokens
 */

static ks_status name_bad(ks__window *tokens, ks_err *err) {
    ks_status st = KS_OK;
    int64_t d = tokens->of->d, n = tokens->of->n;
    for (int64_t from = 0; from < n; from += KS_WINDOW) {
        int64_t m = KS_MIN(KS_WINDOW, n - from);
        const float *x;
        KS_TRY(ks__window_get(tokens, from, m, &x, err));
        for (int64_t k = 0; k < m * d; k++)
            KS_CHECK(isfinite(x[k]), KS_NUMERIC,
                     "token %lld, feature %lld: expected a finite value, found "
                     "%g",
                     (long long)(from + k / d), (long long)(k % d),
                     (double)x[k]);
    }
    KS_CHECK(false, KS_INTERNAL, "means of finite values are not finite");
done:
    return st;
}

static ks_status find_units(ks_attention *a, ks__window *tokens, ks_err *err) {
    ks_status st = KS_OK;
    int64_t d = tokens->of->d, n = tokens->of->n;
    const float *x;
    for (int64_t from = 0; from < n; from += KS_WINDOW) {
        int64_t m = KS_MIN(KS_WINDOW, n - from);
        KS_TRY(ks__window_get(tokens, from, m, &x, err));
        for (int64_t t = 0; t < m; t++)
            for (int64_t j = 0; j < d; j++)
                a->shift[j] += (double)x[t * d + j] / (double)n;
    }
    for (int64_t j = 0; j < d; j++)
        if (!isfinite(a->shift[j])) KS_TRY(name_bad(tokens, err));
    for (int64_t from = 0; from < n; from += KS_WINDOW) {
        int64_t m = KS_MIN(KS_WINDOW, n - from);
        KS_TRY(ks__window_get(tokens, from, m, &x, err));
        for (int64_t t = 0; t < m; t++)
            for (int64_t j = 0; j < d; j++) {
                double off = (double)x[t * d + j] - a->shift[j];
                a->unit[j] += off * off / (double)n;
            }
    }
    for (int64_t j = 0; j < d; j++) {
        double variance = a->unit[j], mean = a->shift[j];
        a->unit[j] =
            variance > 1e-12 * mean * mean && variance > 0 ? sqrt(variance) : 0;
    }
done:
    return st;
}

/* m tokens at x to u, which may be x. */
static void to_units(const ks_attention *a, const float *x, int64_t m,
                     float *u) {
    int64_t d = a->rows.d;
#pragma omp parallel for num_threads(a->threads) schedule(static)
    for (int64_t t = 0; t < m; t++)
        for (int64_t j = 0; j < d; j++)
            u[t * d + j] =
                a->unit[j] > 0
                    ? (float)(((double)x[t * d + j] - a->shift[j]) / a->unit[j])
                    : 0;
}

/* Adds a token of a fold. */
static void add_token(ks_attention *a, uint8_t fold, const float *u) {
    int64_t d = a->rows.d;
    double *sum = a->sum + fold * d, *square = a->square + fold * d;
    a->count[fold]++;
    for (int64_t j = 0; j < d; j++) {
        double v = (double)u[j];
        sum[j] += v;
        square[j] += v * v;
    }
}

static ks_status put_units(ks_attention *a, ks__window *tokens, ks_err *err) {
    ks_status st = KS_OK;
    const ks_attention_rows *r = &a->rows;
    int64_t d = r->d, n = r->offset[r->n], step = 0;
    float *buffer = NULL;
    size_t row = (size_t)d * sizeof *buffer;
    if (!a->u) KS_TRY(ks_alloc(&buffer, KS_WINDOW, row, "tokens", err));
    for (int64_t from = 0; from < n; from += KS_WINDOW) {
        int64_t m = KS_MIN(KS_WINDOW, n - from);
        float *u = a->u ? a->u + from * d : buffer;
        const float *x;
        KS_TRY(ks__window_get(tokens, from, m, &x, err));
        to_units(a, x, m, u);
        for (int64_t t = 0; t < m; t++) {
            while (from + t >= r->offset[step + 1]) step++;
            add_token(a, r->fold[step], u + t * d);
        }
        if (!a->u)
            KS_TRY(ks__scratch_write(a->fd, u, (size_t)m * row,
                                     from * (int64_t)row, err));
    }
done:
    free(buffer);
    return st;
}

/* In memory tokens are read once, and standardised where they lie. */
static ks_status take_tokens(ks_attention *a, const ks_l2_source *tokens,
                             const char *scratch, ks_err *err) {
    ks_status st = KS_OK;
    ks__window window = {0};
    ks_l2_source here = *tokens;
    size_t row = (size_t)tokens->d * sizeof(float);
    if (scratch) {
        KS_TRY(
            ks__scratch_open(&a->fd, scratch, tokens->n * (int64_t)row, err));
    } else {
        KS_TRY(
            ks_alloc(&a->u, (size_t)tokens->n, row, "tokens of a layer", err));
        KS_TRY(ks__window_all(tokens, a->u, err));
        here = (ks_l2_source){
            .n = tokens->n, .d = tokens->d, .type = KS_F32, .x = a->u};
    }
    KS_TRY(ks__window_open(&window, &here, KS_WINDOW, err));
    KS_TRY(find_units(a, &window, err));
    KS_TRY(put_units(a, &window, err));
done:
    ks__window_close(&window);
    return st;
}

ks_status ks__attention_tokens(const ks_attention *a, int64_t from, int64_t n,
                               float *buffer, const float **u, ks_err *err) {
    size_t row = (size_t)a->rows.d * sizeof *buffer;
    *u = a->u ? a->u + from * a->rows.d : buffer;
    return a->u ? KS_OK
                : ks__scratch_read(a->fd, buffer, (size_t)n * row,
                                   from * (int64_t)row, err);
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

ks_status ks_attention_open(ks_attention **out, const ks_l2_place *at,
                            const ks_l2_source *tokens,
                            const ks_attention_rows *rows, ks_err *err) {
    ks_status st = KS_OK;
    ks_attention *a = NULL;
    size_t d = (size_t)rows->d;
    *out = NULL;
    KS_TRY(check(rows, err));
    KS_TRY(ks__blas_check(err));
    KS_TRY(ks_alloc(&a, 1, sizeof *a, "attention", err));
    a->rows = *rows;
    a->fd = -1;
    a->threads = ks_threads(at->threads);
    if (at->dev && !at->ops->unified) a->ops = at->ops, a->dev = at->dev;
    KS_TRY(ks_alloc(&a->shift, d, sizeof(double), "moments", err));
    KS_TRY(ks_alloc(&a->unit, d, sizeof(double), "moments", err));
    KS_TRY(ks_alloc(&a->sum, 32 * d, sizeof(double), "moments", err));
    KS_TRY(ks_alloc(&a->square, 32 * d, sizeof(double), "moments", err));
    KS_TRY(cut_blocks(a, err));
    KS_TRY(take_tokens(a, tokens, a->dev ? NULL : at->scratch, err));
    KS_TRY(place(a, err));
    *out = a;
    a = NULL;
done:
    ks_attention_close(&a);
    return st;
}

size_t ks_attention_kept(const ks_attention_rows *r, bool scratch) {
    size_t d = (size_t)r->d, row = d * sizeof(float);
    size_t tokens = (size_t)r->offset[r->n];
    return (scratch ? 0 : tokens * row) + KS_WINDOW * 2 * row +
           66 * d * sizeof(double) + (size_t)r->n * sizeof(ks_attention_block);
}

/* Tokens of a block at most: a step is never cut. */
static int64_t widest(const ks_attention_rows *r) {
    int64_t most = KS_ATTENTION_BLOCK;
    for (int64_t i = 0; i < r->n; i++)
        most = KS_MAX(most, r->offset[i + 1] - r->offset[i]);
    return most;
}

size_t ks_attention_bytes(const ks_attention_rows *r, int32_t n_columns,
                          int threads, bool scratch) {
    return ks_attention_kept(r, scratch) +
           ks__attention_fit_bytes(r, n_columns) +
           ks__attention_pass_bytes(r, widest(r), n_columns, threads, scratch);
}

void ks_attention_close(ks_attention **attention) {
    ks_attention *a = *attention;
    if (!a) return;
    if (a->dev) a->ops->free(a->dev, &a->u_buf);
    free(a->u);
    if (a->fd >= 0) close(a->fd);
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

ks_status ks_attention_pool(const ks_attention *a, int64_t step, int64_t n,
                            float *out, ks_err *err) {
    ks_status st = KS_OK;
    const ks_attention_rows *r = &a->rows;
    int64_t d = r->d;
    double *sum = NULL;
    float *buffer = NULL;
    KS_TRY(ks_alloc(&sum, (size_t)d, sizeof *sum, "means", err));
    if (!a->u)
        KS_TRY(ks_alloc(&buffer, KS_WINDOW * (size_t)d, sizeof *buffer, "means",
                        err));
    for (int64_t i = step; i < step + n; i++) {
        int64_t begin = r->offset[i], end = r->offset[i + 1];
        memset(sum, 0, (size_t)d * sizeof *sum);
        for (int64_t from = begin; from < end; from += KS_WINDOW) {
            int64_t m = KS_MIN(KS_WINDOW, end - from);
            const float *u;
            KS_TRY(ks__attention_tokens(a, from, m, buffer, &u, err));
            for (int64_t t = 0; t < m; t++)
                for (int64_t j = 0; j < d; j++) sum[j] += (double)u[t * d + j];
        }
        for (int64_t j = 0; j < d; j++)
            out[(i - step) * d + j] =
                (float)(a->shift[j] +
                        a->unit[j] * sum[j] / (double)(end - begin));
    }
done:
    free(sum);
    free(buffer);
    return st;
}
