/* embed, norm, add, gate, rope. */
#include "reference.h"

static const int64_t ROWS[] = {1, 31, 33, 127};
static const int64_t COLS[] = {1, 31, 33, 64, 101, 576};

/* ------------------------------------------------------------------- embed */

static void embed(backend *b) {
    for (int type = 0; type < KS_I32; type++) {
        ks_view table = random_weights((ks_type)type, 37, 256);
        ks_view f = expanded(&table), out = guarded(5, 256, 259);
        int32_t ids[5] = {36, 0, 17, 17, 1};
        RUN(b, embed, out, table, ids, 3.0f);
        for (int i = 0; i < 5; i++)
            for (int j = 0; j < 256; j++)
                cr_assert(at(&out, i)[j] == at(&f, ids[i])[j] * 3.0f);
        cr_assert(guards_whole(&out));
        guarded_free(&out), free(table.data), free(f.data);
    }
}

Test(rows, embed) {
    ON_EVERY_BACKEND(embed);
}

/* --------------------------------------------------------------- norm, add */

static void norm_one(backend *b, int64_t rows, int64_t cols, bool residual,
                     bool in_place) {
    ks_view x = guarded_random(rows, cols, cols + 3);
    ks_view y = guarded_random(rows, cols, cols + 1);
    ks_view out = in_place ? x : guarded(rows, cols, cols + 2);
    float *w = random_array(cols);
    double *ref = doubles(rows * cols), *sum = doubles(rows * cols);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < cols; j++) {
            float s = at(&x, i)[j];
            if (residual) s += at(&y, i)[j];
            sum[i * cols + j] = (double)s;
        }
        ref_norm(ref + i * cols, sum + i * cols, w, 1e-5, cols);
    }
    RUN(b, norm, out, x, residual ? &y : NULL, w, 1e-5f);
    for (int64_t i = 0; i < rows; i++) {
        cr_assert(close_f32("norm", at(&out, i), ref + i * cols, (size_t)cols,
                            1e-9, 1e-6));
        if (residual)
            cr_assert(close_f32("sum", at(&x, i), sum + i * cols, (size_t)cols,
                                0, 0));
    }
    cr_assert(guards_whole(&out) && guards_whole(&x) && guards_whole(&y));
    if (!in_place) guarded_free(&out);
    guarded_free(&x), guarded_free(&y), free(w), free(ref), free(sum);
}

static void norm(backend *b) {
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++)
        for (size_t j = 0; j < sizeof COLS / sizeof *COLS; j++) {
            norm_one(b, ROWS[i], COLS[j], false, false);
            norm_one(b, ROWS[i], COLS[j], false, true);
            norm_one(b, ROWS[i], COLS[j], true, false);
        }
}

Test(rows, norm) {
    ON_EVERY_BACKEND(norm);
}

/* Rows of norm alone and among others: the same bits. */
static void norm_alone(backend *b) {
    ks_view x = guarded_random(64, 577, 577), out = guarded(64, 577, 577);
    ks_view one = guarded(1, 577, 577);
    float *w = random_array(577);
    RUN(b, norm, out, x, NULL, w, 1e-6f);
    for (int64_t i = 0; i < 64; i++) {
        ks_view row = {at(&x, i), 1, 577, 577, KS_F32};
        RUN(b, norm, one, row, NULL, w, 1e-6f);
        cr_assert(rows_equal(&one, 0, &out, i));
    }
    guarded_free(&x), guarded_free(&out), guarded_free(&one), free(w);
}

Test(rows, norm_alone) {
    ON_EVERY_BACKEND(norm_alone);
}

static void add(backend *b) {
    ks_view x = guarded_random(33, 577, 580), y = guarded_random(33, 577, 600);
    ks_view before = guarded(33, 577, 577);
    for (int i = 0; i < 33; i++)
        memcpy(at(&before, i), at(&x, i), 577 * sizeof(float));
    RUN(b, add, x, y);
    for (int i = 0; i < 33; i++)
        for (int j = 0; j < 577; j++)
            cr_assert(at(&x, i)[j] == at(&before, i)[j] + at(&y, i)[j]);
    cr_assert(guards_whole(&x) && guards_whole(&y));
    guarded_free(&x), guarded_free(&y), guarded_free(&before);
}

Test(rows, add) {
    ON_EVERY_BACKEND(add);
}

/* -------------------------------------------------------------------- gate */

static void gate_one(backend *b, ks_act act, int64_t rows, int64_t cols) {
    ks_view g = guarded_random(rows, cols, cols + 3);
    ks_view u = guarded_random(rows, cols, cols + 1);
    ks_view out = guarded(rows, cols, cols + 2);
    double *ref = doubles(cols);
    RUN(b, gate, out, g, u, act); /* small values first */
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) at(&g, i)[j] *= 20;
    RUN(b, gate, out, g, u, act);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < cols; j++)
            ref[j] = ref_act((double)at(&g, i)[j], act) * (double)at(&u, i)[j];
        /* GELU's 1 + erf loses its relative precision far below 0 */
        cr_assert(close_f32("gate", at(&out, i), ref, (size_t)cols,
                            act == KS_SILU ? 1e-30 : 2e-6, 1e-6));
    }
    cr_assert(guards_whole(&out) && guards_whole(&g) && guards_whole(&u));
    RUN(b, gate, g, g, u, act); /* in place */
    for (int64_t i = 0; i < rows; i++) cr_assert(rows_equal(&g, i, &out, i));
    guarded_free(&g), guarded_free(&u), guarded_free(&out), free(ref);
}

static void gate(backend *b) {
    for (int act = KS_SILU; act <= KS_GELU_ERF; act++)
        for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++)
            for (size_t j = 0; j < sizeof COLS / sizeof *COLS; j++)
                gate_one(b, (ks_act)act, ROWS[i], COLS[j]);
}

Test(rows, gate) {
    ON_EVERY_BACKEND(gate);
}

/* Extremes: no overflow on the way, NaN stays. */
static void gate_extremes(backend *b) {
    float x[] = {-200, -88.8f, -1e-30f, 0, 1e-30f, 88.8f, 200, 3e38f, NAN};
    enum { N = sizeof x / sizeof *x };
    float one[N], out[N];
    for (int i = 0; i < N; i++) one[i] = 1;
    for (int act = KS_SILU; act <= KS_GELU_ERF; act++) {
        RUN(b, gate, ks_view_f32(out, 1, N), ks_view_f32(x, 1, N),
            ks_view_f32(one, 1, N), (ks_act)act);
        for (int i = 0; i < N - 1; i++) {
            double ref = ref_act((double)x[i], (ks_act)act);
            cr_assert(close_f32("extreme", out + i, &ref, 1, 1e-36, 1e-6));
        }
        cr_assert(isnan(out[N - 1]));
    }
}

Test(rows, gate_extremes) {
    ON_EVERY_BACKEND(gate_extremes);
}

/* -------------------------------------------------------------------- rope */

typedef struct rope_case {
    int32_t dim, rot, heads, kv_heads;
    bool interleaved, store;
    int32_t past;
} rope_case;

static void check_heads(const ks_view *got, const ks_view *from, int64_t t,
                        int32_t dim, int64_t position, const ks_rope *rope) {
    double *head = doubles(dim);
    for (int64_t h = 0; h < from->cols; h += dim) {
        for (int32_t i = 0; i < dim; i++) head[i] = (double)at(from, t)[h + i];
        ref_rope(head, position, rope);
        cr_assert(
            close_f32("rope", at(got, t) + h, head, (size_t)dim, 3e-7, 3e-7),
            "position %lld", (long long)position);
    }
    free(head);
}

static void rope_one(backend *b, rope_case c) {
    enum { N = 41 };
    int64_t qc = c.heads * c.dim, kc = c.kv_heads * c.dim;
    ks_view q = guarded_random(N, qc, qc + 1), k = guarded_random(N, kc, kc);
    ks_view q0 = guarded(N, qc, qc), k0 = guarded(N, kc, kc);
    ks_view v = guarded_random(N, kc, kc + 2);
    for (int t = 0; t < N; t++) {
        memcpy(at(&q0, t), at(&q, t), (size_t)qc * sizeof(float));
        memcpy(at(&k0, t), at(&k, t), (size_t)kc * sizeof(float));
    }
    float *inv_freq = random_array(c.dim / 2 + 1);
    for (int i = 0; i < c.rot / 2; i++)
        inv_freq[i] = powf(10000, -2.0f * (float)i / (float)c.rot);
    ks_rope rope = {inv_freq, 1.1f, c.rot, c.interleaved};
    int32_t offsets[] = {0, 13, 13, N}, past[] = {c.past, 0, c.past + 5};
    enum { PAGES = 8 };
    int32_t max_pages = (c.past + N) / KS_PAGE + 1;
    int32_t *pages = malloc(sizeof *pages * 3 * (size_t)max_pages);
    for (int i = 0; i < 3 * max_pages; i++) /* last pages of each, reversed */
        pages[i] =
            i / max_pages * PAGES + (max_pages - 1 - i % max_pages) % PAGES;
    ks_seqs seqs = {3,     N,         offsets, c.past ? past : NULL,
                    pages, max_pages, NULL};
    ks_view ks = guarded(3 * PAGES * KS_PAGE, kc, kc);
    ks_view vs = guarded(3 * PAGES * KS_PAGE, kc, kc);
    ks_kv_layer layer = {ks.data, vs.data};
    RUN(b, rope, q, k, v, c.dim, &rope, &seqs, c.store ? &layer : NULL);
    for (int32_t t = 0; t < N; t++) {
        int32_t s = t < 13 ? 0 : 2;
        int32_t pos = t - offsets[s] + (c.past ? past[s] : 0);
        check_heads(&q, &q0, t, c.dim, pos, &rope);
        check_heads(&k, &k0, t, c.dim, pos, &rope);
        if (!c.store) continue;
        int64_t row = (int64_t)pages[s * max_pages + pos / KS_PAGE] * KS_PAGE +
                      pos % KS_PAGE;
        cr_assert(rows_equal(&ks, row, &k, t) && rows_equal(&vs, row, &v, t));
    }
    cr_assert(guards_whole(&q) && guards_whole(&k) && guards_whole(&v));
    cr_assert(guards_whole(&ks) && guards_whole(&vs));
    guarded_free(&q), guarded_free(&k), guarded_free(&v), guarded_free(&q0);
    guarded_free(&k0), guarded_free(&ks), guarded_free(&vs);
    free(inv_freq), free(pages);
}

static void rope(backend *b) {
    static const rope_case cases[] = {
        {64, 64, 9, 3, false, false, 0},     {64, 64, 9, 3, true, true, 0},
        {128, 128, 2, 1, false, true, 1},    {80, 32, 2, 2, false, true, 17},
        {34, 34, 3, 1, true, true, 100},     {256, 64, 2, 1, true, false, 0},
        {64, 64, 1, 1, false, true, 131000}, {2, 2, 1, 1, false, true, 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        rope_one(b, cases[i]);
}

Test(rows, rope) {
    ON_EVERY_BACKEND(rope);
}
