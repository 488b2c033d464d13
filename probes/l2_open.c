/* l2_open.c - takes in the matrix: rows ordered by folds so that a block of
 * them trains whole columns or none, values shifted so that features with a
 * large mean lose nothing in f32, and the moments of every fold and class,
 * from which each split's own mean and scale are added up. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "l2_state.h"

/* ------------------------------------------------------------------- order */

typedef struct place {
    const ks_l2 *l2;
    int64_t row;
} place;

/* By the folds of the first design, then the second, ...; then by row. */
static int by_folds(const void *pa, const void *pb) {
    const place *a = pa, *b = pb;
    for (int32_t s = 0; s < a->l2->n_designs; s++) {
        const uint8_t *fold = a->l2->designs[s].fold;
        if (fold[a->row] != fold[b->row])
            return fold[a->row] < fold[b->row] ? -1 : 1;
    }
    return a->row < b->row ? -1 : a->row > b->row;
}

static ks_status order_rows(ks_l2 *l2, ks_err *err) {
    ks_status st = KS_OK;
    place *places = NULL;
    KS_TRY(ks_alloc(&places, (size_t)l2->n, sizeof *places, "row order", err));
    KS_TRY(ks_alloc(&l2->order, (size_t)l2->n, sizeof *l2->order, "row order",
                    err));
    KS_TRY(ks_alloc(&l2->code, (size_t)l2->n * (size_t)l2->n_designs, 1,
                    "row codes", err));
    for (int64_t i = 0; i < l2->n; i++) places[i] = (place){l2, i};
    qsort(places, (size_t)l2->n, sizeof *places, by_folds);
    for (int64_t i = 0; i < l2->n; i++) {
        int64_t row = l2->order[i] = places[i].row;
        for (int32_t s = 0; s < l2->n_designs; s++)
            l2->code[s * l2->n + i] =
                (uint8_t)(2 * l2->designs[s].fold[row] + l2->designs[s].y[row]);
    }
done:
    free(places);
    return st;
}

/* Blocks never straddle folds of the first design, nor of the second while
 * that leaves them big enough for a good product. */
static ks_status cut_blocks(ks_l2 *l2, ks_err *err) {
    ks_status st = KS_OK;
    int64_t least = 3 * KS_L2_BLOCK / 8;
    size_t most = (size_t)(2 * l2->n / least + 2 * KS_L2_MAX_FOLDS + 2);
    int32_t n_blocks = 0;
    KS_TRY(ks_alloc(&l2->blocks, most, sizeof *l2->blocks, "row blocks", err));
    KS_TRY(ks_alloc(&l2->block_folds, most * (size_t)l2->n_designs,
                    sizeof *l2->block_folds, "row blocks", err));
    for (int64_t begin = 0, end; begin < l2->n; begin = end) {
        for (end = begin + 1; end < l2->n; end++) {
            if (l2->code[end] / 2 != l2->code[begin] / 2) break;
            if (end - begin >= KS_L2_BLOCK) break;
            if (l2->n_designs > 1 && end - begin >= least &&
                l2->code[l2->n + end] / 2 != l2->code[l2->n + end - 1] / 2)
                break;
        }
        l2->blocks[n_blocks++] = (ks_l2_block){begin, end};
    }
    for (int32_t k = 0; k < n_blocks; k++)
        for (int32_t s = 0; s < l2->n_designs; s++) {
            uint32_t set = 0;
            for (int64_t i = l2->blocks[k].begin; i < l2->blocks[k].end; i++)
                set |= 1u << (l2->code[s * l2->n + i] / 2);
            l2->block_folds[k * l2->n_designs + s] = set;
        }
    l2->rows.n_blocks = n_blocks;
    l2->rows.n_lanes = (int32_t)KS_MAX(
        1, KS_MIN(KS_MIN(l2->n / KS_L2_LANE_ROWS, KS_L2_MAX_LANES), n_blocks));
done:
    return st;
}

/* ------------------------------------------------------------------- shift */

static int ascending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* The median of some rows: near every feature's bulk whatever single rows do.
 * Any shift is right; a close one keeps the digits. */
static ks_status find_shift(ks_l2 *l2, const float *x, ks_err *err) {
    ks_status st = KS_OK;
    enum { SAMPLE = 129 };
    int64_t m = KS_MIN(l2->n, SAMPLE);
    float *sample = NULL;
    KS_TRY(ks_alloc(&l2->shift, (size_t)l2->d, sizeof(float), "shift", err));
    KS_TRY(ks_alloc(&sample, (size_t)(m * l2->d), sizeof(float), "shift", err));
    for (int64_t k = 0; k < m; k++)
        for (int64_t j = 0; j < l2->d; j++)
            sample[j * m + k] = x[k * l2->n / m * l2->d + j];
#pragma omp parallel for num_threads(l2->threads) schedule(static)
    for (int64_t j = 0; j < l2->d; j++) {
        qsort(sample + j * m, (size_t)m, sizeof(float), ascending);
        float middle = sample[j * m + m / 2];
        l2->shift[j] = isfinite(middle) ? middle : 0;
    }
done:
    free(sample);
    return st;
}

static ks_status copy_shifted(ks_l2 *l2, const float *x, ks_err *err) {
    ks_status st = KS_OK;
    int64_t bad = -1; /* lowest ordered row with a value that is not finite */
    KS_TRY(ks_alloc(&l2->x, (size_t)l2->n * (size_t)l2->d, sizeof(float),
                    "activations of a layer", err));
#pragma omp parallel for num_threads(l2->threads) schedule(static)
    for (int64_t i = 0; i < l2->n; i++) {
        const float *from = x + l2->order[i] * l2->d;
        float *restrict to = l2->x + i * l2->d;
        int odd = 0; /* a count, which vectorises */
        for (int64_t j = 0; j < l2->d; j++) {
            to[j] = from[j] - l2->shift[j];
            odd += !(fabsf(to[j]) <= FLT_MAX);
        }
        if (odd)
#pragma omp critical(ks_l2_bad_row)
            if (bad < 0 || i < bad) bad = i;
    }
    if (bad >= 0) {
        int64_t row = l2->order[bad], j = 0;
        while (j + 1 < l2->d && isfinite(l2->x[bad * l2->d + j])) j++;
        KS_CHECK(false, KS_NUMERIC,
                 "row %lld, feature %lld: expected a finite value that can be "
                 "centred, found %g",
                 (long long)row, (long long)j, (double)x[row * l2->d + j]);
    }
done:
    return st;
}

/* ----------------------------------------------------------------- moments */

static void add_moments(ks_l2 *l2, int32_t s, int32_t fold) {
    ks_l2_moments *m = &l2->moments[s * KS_L2_MAX_FOLDS + fold];
    const uint8_t *code = l2->code + s * l2->n;
    for (int64_t i = 0; i < l2->n; i++) {
        if (code[i] / 2 != fold) continue;
        const float *row = l2->x + i * l2->d;
        double *restrict sum = m->sum[code[i] & 1];
        double *restrict square = m->square;
        m->count[code[i] & 1]++;
        for (int64_t j = 0; j < l2->d; j++) {
            sum[j] += (double)row[j];
            square[j] += (double)row[j] * (double)row[j];
        }
    }
}

static ks_status find_moments(ks_l2 *l2, ks_err *err) {
    ks_status st = KS_OK;
    uint32_t used[KS_L2_MAX_FOLDS]; /* place in moment_data, per design fold */
    size_t n_used = 0, d = (size_t)l2->d;
    int32_t total = l2->n_designs * KS_L2_MAX_FOLDS;
    KS_TRY(ks_alloc(&l2->moments, (size_t)total, sizeof *l2->moments, "moments",
                    err));
    for (int32_t s = 0; s < l2->n_designs; s++) {
        memset(used, 0, sizeof used);
        for (int64_t i = 0; i < l2->n; i++) used[l2->code[s * l2->n + i] / 2]++;
        for (int32_t f = 0; f < KS_L2_MAX_FOLDS; f++) n_used += used[f] > 0;
    }
    KS_TRY(ks_alloc(&l2->moment_data, n_used * d, 3 * sizeof(double), "moments",
                    err));
    double *at = l2->moment_data;
    for (int32_t s = 0; s < l2->n_designs; s++) {
        memset(used, 0, sizeof used);
        for (int64_t i = 0; i < l2->n; i++) used[l2->code[s * l2->n + i] / 2]++;
        for (int32_t f = 0; f < KS_L2_MAX_FOLDS; f++) {
            if (!used[f]) continue;
            ks_l2_moments *m = &l2->moments[s * KS_L2_MAX_FOLDS + f];
            m->sum[0] = at, m->sum[1] = at + d, m->square = at + 2 * d;
            at += 3 * d;
        }
    }
#pragma omp parallel for num_threads(l2->threads) schedule(dynamic)
    for (int32_t k = 0; k < total; k++)
        if (l2->moments[k].square)
            add_moments(l2, k / KS_L2_MAX_FOLDS, k % KS_L2_MAX_FOLDS);
done:
    return st;
}

/* -------------------------------------------------------------- open, close */

static ks_status check(const float *x, int64_t n, int64_t d,
                       const ks_l2_design *designs, int32_t n_designs,
                       ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(x && n >= 2 && d >= 1 && n_designs >= 1, KS_USAGE,
             "a probe needs at least 2 rows, 1 feature and 1 set of labels, "
             "got %lld, %lld and %d",
             (long long)n, (long long)d, n_designs);
    KS_CHECK(n <= INT32_MAX && d <= INT32_MAX / KS_L2_BLOCK, KS_LIMIT,
             "%lld rows of %lld features are beyond what a product takes",
             (long long)n, (long long)d);
    for (int32_t s = 0; s < n_designs; s++)
        for (int64_t i = 0; i < n; i++)
            KS_CHECK((designs[s].y[i] == 0 || designs[s].y[i] == 1) &&
                         designs[s].fold[i] < KS_L2_MAX_FOLDS,
                     KS_USAGE,
                     "row %lld: expected label 0 or 1 and a fold below %d, "
                     "found %d and %d",
                     (long long)i, KS_L2_MAX_FOLDS, designs[s].y[i],
                     designs[s].fold[i]);
done:
    return st;
}

/* To a backend that has memory of its own; afterwards x lies there alone. */
static ks_status put(ks_l2 *l2, ks_buf *buf, const void *from, size_t size,
                     const char *what, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(l2->ops->alloc(l2->dev, buf, size, what, err));
    KS_TRY(l2->ops->copy(l2->dev, buf->data, from, size, err));
done:
    return st;
}

static ks_status place_rows(ks_l2 *l2, ks_err *err) {
    ks_status st = KS_OK;
    ks_l2_rows *r = &l2->rows;
    size_t n = (size_t)l2->n;
    r->n = l2->n, r->d = l2->d, r->n_designs = l2->n_designs;
    r->x = l2->x, r->code = r->host_code = l2->code, r->order = l2->order;
    r->blocks = l2->blocks, r->block_folds = l2->block_folds;
    r->work = &l2->work;
    if (l2->ops->unified) return KS_OK;
    KS_TRY(put(l2, &l2->x_buf, l2->x, n * (size_t)l2->d * sizeof(float),
               "activations of a layer", err));
    KS_TRY(put(l2, &l2->code_buf, l2->code, n * (size_t)l2->n_designs,
               "row codes", err));
    KS_TRY(l2->ops->sync(l2->dev, err));
    free(l2->x);
    l2->x = NULL;
    r->x = l2->x_buf.data, r->code = l2->code_buf.data;
done:
    return st;
}

/* x with what is needed of it before any pass. */
static ks_status take_in(ks_l2 *l2, const float *x, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(order_rows(l2, err));
    KS_TRY(cut_blocks(l2, err));
    KS_TRY(find_shift(l2, x, err));
    KS_TRY(copy_shifted(l2, x, err));
    KS_TRY(find_moments(l2, err));
    KS_TRY(place_rows(l2, err));
    l2->cost.reads = 1;
done:
    return st;
}

ks_status ks_l2_open_on(ks_l2 **out, const struct ks_ops *ops, ks_dev *dev,
                        const float *x, int64_t n, int64_t d,
                        const ks_l2_design *designs, int32_t n_designs,
                        int threads, ks_err *err) {
    ks_status st = KS_OK;
    ks_l2 *l2 = NULL;
    double start = ks_seconds();
    int restore = ks__blas_serial();
    *out = NULL;
    KS_TRY(check(x, n, d, designs, n_designs, err));
    KS_TRY(ks__blas_check(err));
    KS_TRY(ks_alloc(&l2, 1, sizeof *l2, "probe solver", err));
    l2->n = n, l2->d = d, l2->n_designs = n_designs;
    l2->threads = threads > 0 ? threads : restore;
    ks_l2_design *copy = NULL;
    KS_TRY(ks_alloc(&copy, (size_t)n_designs, sizeof *copy, "designs", err));
    memcpy(copy, designs, (size_t)n_designs * sizeof *copy);
    l2->designs = copy;
    l2->ops = ops, l2->dev = dev, l2->own_dev = !dev;
    if (!dev)
        KS_TRY(ks_dev_open(&l2->dev, &l2->ops, "cpu", l2->threads, NULL, err));
    KS_TRY(take_in(l2, x, err));
    l2->cost.prepare = ks_seconds() - start;
    KS_TRY(ks__l2_spectrum(l2, err));
    l2->cost.factor = ks_seconds() - start - l2->cost.prepare;
    *out = l2;
    l2 = NULL;
done:
    ks_l2_close(&l2);
    ks__blas_restore(restore);
    return st;
}

ks_status ks_l2_open(ks_l2 **out, const float *x, int64_t n, int64_t d,
                     const ks_l2_design *designs, int32_t n_designs,
                     int threads, ks_err *err) {
    return ks_l2_open_on(out, NULL, NULL, x, n, d, designs, n_designs, threads,
                         err);
}

void ks_l2_close(ks_l2 **l2) {
    if (!l2 || !*l2) return;
    ks_l2 *s = *l2;
    free((void *)s->designs);
    free(s->order);
    free(s->x);
    free(s->shift);
    free(s->code);
    free(s->blocks);
    free(s->block_folds);
    free(s->moments);
    free(s->moment_data);
    free(s->value);
    free(s->vector);
    if (s->dev) {
        s->ops->free(s->dev, &s->x_buf);
        s->ops->free(s->dev, &s->code_buf);
        s->ops->free(s->dev, &s->work);
    }
    if (s->own_dev) ks_dev_close(&s->dev, s->ops);
    free(s);
    *l2 = NULL;
}

ks_l2_cost ks_l2_get_cost(const ks_l2 *l2) {
    return l2->cost;
}
