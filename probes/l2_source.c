/* l2_source.c - takes in the matrix: rows ordered by fold go to memory, shifted
 * so that features with a large mean lose nothing in f32; or, where they do not
 * fit, to a scratch file that has no name, so that nothing stays of it whatever
 * happens: f32 shifted, narrower types as they are. The source is read once,
 * from its first row to its last, and a few hundred rows of it are in memory at
 * a time. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "l2_state.h"
#include "scratch.h"

enum { PIECE = 512 << 10 /* bytes of the source that a thread reads */ };

size_t ks_l2_piece_bytes(const ks_l2_source *source) {
    size_t row = ks_type_row_bytes(source->type, source->d);
    return KS_MAX(1, PIECE / row) * row;
}

/* Rows [row, row + n) as stored: where they lie, or in the buffer. */
static ks_status get_rows(const ks_l2_source *s, int64_t row, int64_t n,
                          void *buffer, const void **out, ks_err *err) {
    size_t bytes = ks_type_row_bytes(s->type, s->d);
    *out = s->x ? (const char *)s->x + (size_t)row * bytes : buffer;
    return s->x ? KS_OK : s->read(s->user, row, n, buffer, err);
}

/* ------------------------------------------------------------------- shift */

/* The k-th smallest of values [n], which are moved about (Hoare's FIND). */
static float select_kth(float *values, int64_t n, int64_t k) {
    int64_t low = 0, high = n - 1;
    while (low < high) {
        float pivot = values[k];
        int64_t i = low, j = high;
        while (i <= j) {
            while (values[i] < pivot) i++;
            while (pivot < values[j]) j--;
            if (i > j) break;
            float was = values[i];
            values[i++] = values[j];
            values[j--] = was;
        }
        if (j < k) low = i;
        if (k < i) high = j;
    }
    return values[k];
}

/* The median of some rows: near every feature's bulk whatever single rows do.
 * Any shift is right; a close one keeps the digits. */
ks_status ks__l2_find_shift(ks_l2 *l2, const ks_l2_source *s, ks_err *err) {
    ks_status st = KS_OK;
    enum { SAMPLE = 129 };
    int64_t m = KS_MIN(l2->n, SAMPLE), d = l2->d;
    float *sample = NULL, *row = NULL;
    void *raw = NULL;
    KS_TRY(ks_alloc(&l2->shift, (size_t)d, sizeof(float), "shift", err));
    KS_TRY(ks_alloc(&sample, (size_t)(m * d), sizeof(float), "shift", err));
    KS_TRY(ks_alloc(&row, (size_t)d, sizeof(float), "shift", err));
    KS_TRY(ks_alloc(&raw, (size_t)d, sizeof(float), "shift", err));
    for (int64_t k = 0; k < m; k++) {
        const void *from;
        KS_TRY(get_rows(s, k * l2->n / m, 1, raw, &from, err));
        ks_dequantize(s->type, from, row, d);
        for (int64_t j = 0; j < d; j++) /* NaN would lead FIND astray */
            sample[j * m + k] = isnan(row[j]) ? INFINITY : row[j];
    }
#pragma omp parallel for num_threads(l2->threads) schedule(static)
    for (int64_t j = 0; j < d; j++) {
        float middle = select_kth(sample + j * m, m, m / 2);
        l2->shift[j] = isfinite(middle) ? middle : 0;
    }
done:
    free(sample);
    free(row);
    free(raw);
    return st;
}

/* ----------------------------------------------------------------- fill */

typedef struct filling {
    ks_l2 *l2;
    const ks_l2_source *source;
    int64_t *place; /* [n] of the source's rows among the ordered ones */
    size_t row_bytes;
    int64_t step; /* rows of a piece */
} filling;

static void put_in_memory(const filling *f, const char *rows, int64_t first,
                          int64_t n) {
    int64_t d = f->l2->d;
    const float *shift = f->l2->shift;
    for (int64_t i = 0; i < n; i++) {
        const void *from = rows + (size_t)i * f->row_bytes;
        float *restrict to = f->l2->x + f->place[first + i] * d;
        ks_dequantize(f->source->type, from, to, d);
        for (int64_t j = 0; j < d; j++) to[j] -= shift[j];
    }
}

/* Rows [first, first + n) shifted in the buffer, where they may lie already. */
static const char *shift_in(const filling *f, const char *rows, int64_t n,
                            char *buffer) {
    int64_t d = f->l2->d;
    const float *shift = f->l2->shift;
    if (rows != buffer) memcpy(buffer, rows, (size_t)n * f->row_bytes);
    for (int64_t i = 0; i < n; i++) {
        float *restrict row = (float *)(void *)buffer + i * d;
        for (int64_t j = 0; j < d; j++) row[j] -= shift[j];
    }
    return buffer;
}

/* Rows that stay side by side go in one write. */
static ks_status put_in_file(const filling *f, const char *rows, int64_t first,
                             int64_t n, ks_err *err) {
    ks_status st = KS_OK;
    for (int64_t i = 0, end; i < n; i = end) {
        const int64_t *place = f->place + first;
        for (end = i + 1; end < n; end++)
            if (place[end] != place[i] + (end - i)) break;
        KS_TRY(ks__scratch_write(f->l2->file.fd,
                                 rows + (size_t)i * f->row_bytes,
                                 (size_t)(end - i) * f->row_bytes,
                                 place[i] * (int64_t)f->row_bytes, err));
    }
done:
    return st;
}

static ks_status fill_piece(const filling *f, int64_t first, void *buffer,
                            ks_err *err) {
    ks_status st = KS_OK;
    const void *rows;
    int64_t n = KS_MIN(f->step, f->l2->n - first);
    KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
    KS_TRY(get_rows(f->source, first, n, buffer, &rows, err));
    if (f->l2->x) {
        put_in_memory(f, rows, first, n);
        goto done;
    }
    if (f->source->type == KS_F32) rows = shift_in(f, rows, n, buffer);
    KS_TRY(put_in_file(f, rows, first, n, err));
done:
    return st;
}

static ks_status fill(filling *f, ks_err *err) {
    ks_status st = KS_OK;
    ks_l2 *l2 = f->l2;
    char *buffers = NULL;
    size_t piece = ks_l2_piece_bytes(f->source);
    ks__l2_outcome outcome = {KS_OK, {0}};
    KS_TRY(
        ks_alloc(&f->place, (size_t)l2->n, sizeof *f->place, "row order", err));
    KS_TRY(ks_alloc(&buffers, (size_t)l2->threads, piece, "rows", err));
    for (int64_t i = 0; i < l2->n; i++) f->place[l2->order[i]] = i;
#pragma omp parallel for num_threads(l2->threads) schedule(dynamic, 1)
    for (int64_t i = 0; i < l2->n; i += f->step) {
        ks_err mine = {0};
        if (ks__l2_well(&outcome))
            ks__l2_tell(
                &outcome,
                fill_piece(f, i, buffers + (size_t)omp_get_thread_num() * piece,
                           &mine),
                &mine);
    }
    st = outcome.st;
    if (st != KS_OK && err) *err = outcome.err;
done:
    free(buffers);
    return st;
}

ks_status ks__l2_take_rows(ks_l2 *l2, const ks_l2_source *source,
                           const ks_l2_place *place, ks_err *err) {
    ks_status st = KS_OK;
    filling f = {.l2 = l2,
                 .source = source,
                 .row_bytes = ks_type_row_bytes(source->type, source->d)};
    f.step = (int64_t)(ks_l2_piece_bytes(source) / f.row_bytes);
    if (place->scratch && l2->ops->unified) {
        l2->file = (ks_l2_file){.fd = -1, .type = source->type};
        if (source->type != KS_F32) l2->file.shift = l2->shift;
        KS_TRY(ks__l2_open_scratch(l2, place->scratch, err));
    } else {
        KS_TRY(ks_alloc(&l2->x, (size_t)l2->n * (size_t)l2->d, sizeof(float),
                        "activations of a layer", err));
    }
    KS_TRY(fill(&f, err));
    if (!l2->x) ks__l2_choose_way(l2, place->way);
done:
    free(f.place);
    return st;
}

/* ----------------------------------------------------------- what is not
 * finite
 */

/* The first of a block's rows that holds one; -1: none. */
static int64_t bad_row(const float *x, int64_t rows, int64_t d, int64_t *j) {
    for (int64_t i = 0; i < rows; i++)
        for (*j = 0; *j < d; ++*j)
            if (!isfinite(x[i * d + *j])) return i;
    return -1;
}

ks_status ks__l2_name_bad_row(ks_l2 *l2, const ks_l2_source *source,
                              ks_err *err) {
    ks_status st = KS_OK;
    void *memory = NULL, *raw = NULL;
    float *values = NULL;
    ks_l2_reader reader = {0};
    const float *x;
    const void *from;
    int64_t i = -1, j = 0;
    KS_TRY(
        ks_alloc(&memory, ks_l2_reader_bytes(&l2->rows) + 1, 1, "rows", err));
    KS_TRY(ks_alloc(&raw, (size_t)l2->d, sizeof(float), "rows", err));
    KS_TRY(ks_alloc(&values, (size_t)l2->d, sizeof(float), "rows", err));
    ks_l2_reader_open(&reader, &l2->rows, memory);
    for (int32_t k = 0; i < 0 && k < l2->rows.n_blocks; k++) {
        ks_l2_block b = l2->blocks[k];
        KS_TRY(ks_l2_reader_get(&reader, k, l2->rows.n_blocks, 0, &x, err));
        i = bad_row(x, b.end - b.begin, l2->d, &j);
        if (i >= 0) i += b.begin;
    }
    KS_CHECK(i >= 0, KS_INTERNAL, "sums of finite values are not finite");
    int64_t row = l2->order[i];
    KS_TRY(get_rows(source, row, 1, raw, &from, err));
    ks_dequantize(source->type, from, values, l2->d);
    KS_CHECK(false, KS_NUMERIC,
             "row %lld, feature %lld: expected a finite value that can be "
             "centred, found %g",
             (long long)row, (long long)j, (double)values[j]);
done:
    ks_l2_reader_close(&reader);
    free(memory);
    free(raw);
    free(values);
    return st;
}
