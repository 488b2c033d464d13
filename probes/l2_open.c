/* l2_open.c - opens the solver: rows ordered by folds so that a block of them
 * trains whole columns or none, and the moments of every fold and class, from
 * which each split's own mean and scale are added up. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "l2_state.h"

/* ------------------------------------------------------------------- order */

/* Stable, by the folds of one design (counting sort). next: [n], scratch. */
static void sort_by_fold(int64_t *order, int64_t *next, int64_t n,
                         const uint8_t *fold) {
    int64_t at[KS_L2_MAX_FOLDS + 1] = {0};
    for (int64_t i = 0; i < n; i++) at[fold[i] + 1]++;
    for (int f = 0; f < KS_L2_MAX_FOLDS; f++) at[f + 1] += at[f];
    for (int64_t i = 0; i < n; i++) next[at[fold[order[i]]]++] = order[i];
    memcpy(order, next, (size_t)n * sizeof *order);
}

/* By the folds of the first design, then the second, ...; then by row. */
static ks_status order_rows(ks_l2 *l2, ks_err *err) {
    ks_status st = KS_OK;
    int64_t *next = NULL;
    KS_TRY(ks_alloc(&l2->order, (size_t)l2->n, sizeof *l2->order, "row order",
                    err));
    KS_TRY(ks_alloc(&next, (size_t)l2->n, sizeof *next, "row order", err));
    KS_TRY(ks_alloc(&l2->code, (size_t)l2->n * (size_t)l2->n_designs, 1,
                    "row codes", err));
    for (int64_t i = 0; i < l2->n; i++) l2->order[i] = i;
    for (int32_t s = l2->n_designs - 1; s >= 0; s--)
        sort_by_fold(l2->order, next, l2->n, l2->designs[s].fold);
    for (int32_t s = 0; s < l2->n_designs; s++)
        for (int64_t i = 0; i < l2->n; i++) {
            int64_t row = l2->order[i];
            l2->code[s * l2->n + i] =
                (uint8_t)(2 * l2->designs[s].fold[row] + l2->designs[s].y[row]);
        }
done:
    free(next);
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

/* ----------------------------------------------------------------- moments */

/* Counts, and places for the sums of folds that have rows. */
static ks_status open_moments(ks_l2 *l2, ks_err *err) {
    ks_status st = KS_OK;
    size_t n_used = 0, d = (size_t)l2->d;
    int32_t total = l2->n_designs * KS_L2_MAX_FOLDS;
    KS_TRY(ks_alloc(&l2->moments, (size_t)total, sizeof *l2->moments, "moments",
                    err));
    for (int32_t s = 0; s < l2->n_designs; s++)
        for (int64_t i = 0; i < l2->n; i++) {
            uint8_t code = l2->code[s * l2->n + i];
            l2->moments[s * KS_L2_MAX_FOLDS + code / 2].count[code & 1]++;
        }
    for (int32_t k = 0; k < total; k++)
        n_used += l2->moments[k].count[0] + l2->moments[k].count[1] > 0;
    KS_TRY(ks_alloc(&l2->moment_data, n_used * d, 3 * sizeof(double), "moments",
                    err));
    double *at = l2->moment_data;
    for (int32_t k = 0; k < total; k++) {
        ks_l2_moments *m = &l2->moments[k];
        if (!(m->count[0] + m->count[1])) continue;
        m->sum[0] = at, m->sum[1] = at + d, m->square = at + 2 * d;
        at += 3 * d;
    }
done:
    return st;
}

/* Features [from, to) of a block's rows x. */
static void add_moments(ks_l2 *l2, ks_l2_block block, const float *x,
                        int64_t from, int64_t to) {
    for (int32_t s = 0; s < l2->n_designs; s++)
        for (int64_t i = block.begin; i < block.end; i++) {
            uint8_t code = l2->code[s * l2->n + i];
            ks_l2_moments *m = &l2->moments[s * KS_L2_MAX_FOLDS + code / 2];
            const float *row = x + (i - block.begin) * l2->d;
            double *restrict sum = m->sum[code & 1];
            double *restrict square = m->square;
            for (int64_t j = from; j < to; j++) {
                sum[j] += (double)row[j];
                square[j] += (double)row[j] * (double)row[j];
            }
        }
}

/* Threads share a block, each with features of its own: the order of sums is
 * that of the rows, whatever the threads and wherever rows lie. */
static ks_status find_moments(ks_l2 *l2, ks_err *err) {
    ks_status st = KS_OK;
    enum { STRIP = 256 };
    void *memory = NULL;
    ks_l2_reader reader = {0};
    KS_TRY(open_moments(l2, err));
    KS_TRY(ks_alloc(&memory, ks_l2_reader_bytes(&l2->rows) + 1, 1, "row blocks",
                    err));
    ks_l2_reader_open(&reader, &l2->rows, memory);
    for (int32_t k = 0; k < l2->rows.n_blocks; k++) {
        ks_l2_block block = l2->blocks[k];
        const float *x;
        KS_TRY(ks_l2_reader_get(&reader, k, l2->rows.n_blocks, 0, &x, err));
#pragma omp parallel for num_threads(l2->threads) schedule(static)
        for (int64_t j = 0; j < l2->d; j += STRIP)
            add_moments(l2, block, x, j, KS_MIN(j + STRIP, l2->d));
    }
done:
    ks_l2_reader_close(&reader);
    free(memory);
    return st;
}

/* Finite floats have finite sums in double. */
static bool all_finite(const ks_l2 *l2) {
    double sum = 0;
    for (int32_t f = 0; f < KS_L2_MAX_FOLDS; f++) {
        const ks_l2_moments *m = &l2->moments[f];
        for (int64_t j = 0; m->square && j < l2->d; j++)
            sum += m->square[j] * 0.0;
    }
    return sum == 0;
}

/* -------------------------------------------------------------- open, close */

static ks_status check(const ks_l2_source *source, const ks_l2_design *designs,
                       int32_t n_designs, ks_err *err) {
    ks_status st = KS_OK;
    int64_t n = source->n, d = source->d;
    KS_CHECK((source->x || source->read) && n >= 2 && d >= 1 && n_designs >= 1,
             KS_USAGE,
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

static void describe_rows(ks_l2 *l2) {
    ks_l2_rows *r = &l2->rows;
    r->n = l2->n, r->d = l2->d, r->n_designs = l2->n_designs;
    r->x = l2->x, r->code = r->host_code = l2->code, r->order = l2->order;
    r->file = l2->x ? NULL : &l2->file;
    r->blocks = l2->blocks, r->block_folds = l2->block_folds;
    r->work = &l2->work;
}

static ks_status send_rows(ks_l2 *l2, ks_err *err) {
    ks_status st = KS_OK;
    ks_l2_rows *r = &l2->rows;
    size_t n = (size_t)l2->n;
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

/* The rows with what is needed of them before any pass. */
static ks_status take_in(ks_l2 *l2, const ks_l2_source *source,
                         const ks_l2_place *place, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(order_rows(l2, err));
    KS_TRY(cut_blocks(l2, err));
    KS_TRY(ks__l2_find_shift(l2, source, err));
    KS_TRY(ks__l2_take_rows(l2, source, place, err));
    describe_rows(l2);
    KS_TRY(find_moments(l2, err));
    if (!all_finite(l2)) KS_TRY(ks__l2_name_bad_row(l2, source, err));
    KS_TRY(send_rows(l2, err));
    l2->cost.reads = 1;
done:
    return st;
}

ks_status ks_l2_open_from(ks_l2 **out, const ks_l2_source *source,
                          const ks_l2_place *place, const ks_l2_design *designs,
                          int32_t n_designs, ks_err *err) {
    ks_status st = KS_OK;
    ks_l2 *l2 = NULL;
    double start = ks_seconds();
    int restore = ks__blas_serial();
    *out = NULL;
    KS_TRY(check(source, designs, n_designs, err));
    KS_TRY(ks__blas_check(err));
    KS_TRY(ks_alloc(&l2, 1, sizeof *l2, "probe solver", err));
    l2->n = source->n, l2->d = source->d, l2->n_designs = n_designs;
    l2->file.fd = -1;
    l2->threads = place->threads > 0 ? place->threads : restore;
    ks_l2_design *copy = NULL;
    KS_TRY(ks_alloc(&copy, (size_t)n_designs, sizeof *copy, "designs", err));
    memcpy(copy, designs, (size_t)n_designs * sizeof *copy);
    l2->designs = copy;
    l2->ops = place->ops, l2->dev = place->dev, l2->own_dev = !place->dev;
    if (!l2->dev)
        KS_TRY(ks_dev_open(&l2->dev, &l2->ops, "cpu", l2->threads, NULL, err));
    KS_TRY(take_in(l2, source, place, err));
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

ks_status ks_l2_open_on(ks_l2 **out, const struct ks_ops *ops, ks_dev *dev,
                        const float *x, int64_t n, int64_t d,
                        const ks_l2_design *designs, int32_t n_designs,
                        int threads, ks_err *err) {
    ks_l2_source source = {.n = n, .d = d, .type = KS_F32, .x = x};
    ks_l2_place place = {.ops = ops, .dev = dev, .threads = threads};
    return ks_l2_open_from(out, &source, &place, designs, n_designs, err);
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
    if (s->file.fd >= 0) close(s->file.fd);
    if (s->own_dev) ks_dev_close(&s->dev, s->ops);
    free(s);
    *l2 = NULL;
}

ks_l2_cost ks_l2_get_cost(const ks_l2 *l2) {
    return l2->cost;
}
