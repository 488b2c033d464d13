/* Attention: values against plain loops; bits in prefill, decode, batch. */
#include "reference.h"

typedef struct attn_case {
    int32_t heads, kv_heads, dim, window;
    float softcap;
    bool sinks;
} attn_case;

static const attn_case CASES[] = {
    {9, 3, 64, 0, 0, false},    {4, 4, 32, 0, 0, false},
    {8, 1, 128, 0, 0, true},    {2, 1, 256, 0, 50, false},
    {3, 3, 34, 0, 0, false},    {6, 2, 96, 17, 0, true},
    {14, 2, 64, 128, 0, false}, {1, 1, 80, 1, 0, false},
    {4, 2, 66, 65, 30, true},   {100, 1, 32, 0, 0, false},
    {2, 2, 2, 64, 0, false},
};

/* From one case to the next where each takes seconds under a sanitizer: plain
 * groups; no groups and an odd width; window, cap and sinks. */
static size_t next_case(void) {
    return getenv("KS_UNDER_SANITIZER") ? 4 : 1;
}

/* A packed batch with everything that attention reads. */
typedef struct batch {
    ks_attn_spec spec;
    float sinks[128];
    ks_view q, k, v, out;
    ks_seqs seqs;
} batch;

/* Peaked attention: scores of some units, so that softmax matters. */
static batch make_batch(attn_case c, const int32_t *offsets, int32_t n_seq) {
    batch b = {.spec = {c.heads, c.kv_heads, c.dim, 6 / sqrtf((float)c.dim),
                        c.softcap, c.window, NULL}};
    int32_t n = offsets[n_seq];
    for (int i = 0; i < 128; i++) b.sinks[i] = 3 * random_unit();
    int64_t qc = c.heads * c.dim, kc = c.kv_heads * c.dim;
    b.q = guarded_random(n, qc, qc + 3);
    b.k = guarded_random(n, kc, kc + 1);
    b.v = guarded_random(n, kc, kc + 2);
    b.out = guarded(n, qc, qc + 5);
    b.seqs = (ks_seqs){n_seq, n, offsets, NULL, NULL, 0, NULL};
    return b;
}

static void free_batch(batch *b) {
    guarded_free(&b->q), guarded_free(&b->k);
    guarded_free(&b->v), guarded_free(&b->out);
}

static const ks_attn_spec *spec_of(batch *b, attn_case c) {
    b->spec.sinks = c.sinks ? b->sinks : NULL;
    return &b->spec;
}

/* ------------------------------------------------------------------- values */

/* Whether the token at a position of sequence s sees the key at another. */
static bool sees(const batch *b, int32_t s, int32_t position, int32_t key) {
    const int32_t *hidden = b->seqs.hidden;
    if (b->spec.window > 0 && key <= position - b->spec.window) return false;
    if (!hidden || position < hidden[2 * s + 1]) return true;
    return key < hidden[2 * s] || key >= hidden[2 * s + 1];
}

/* Of sequence s, its tokens from `from` on; under a sanitizer, which looks at
 * accesses and slows the reference, some of them and the last. */
static void check_values(const batch *b, int32_t s, int32_t from) {
    int32_t step = getenv("KS_UNDER_SANITIZER") ? 11 : 1;
    ks_attn_spec spec = b->spec;
    int32_t d = spec.head_dim, group = spec.n_heads / spec.n_kv_heads;
    double *ref = doubles(d);
    int32_t first = b->seqs.offsets[s], end = b->seqs.offsets[s + 1];
    spec.window = 0;
    for (int32_t t = end - 1; t >= first + from; t -= step)
        for (int32_t h = 0; h < spec.n_heads; h++) {
            /* the head's keys and values that the token sees, end to end */
            int32_t most = t - first + 1, n = 0;
            float *k = malloc(sizeof *k * (size_t)(most * d));
            float *v = malloc(sizeof *v * (size_t)(most * d));
            for (int32_t j = 0; j < most; j++) {
                size_t bytes = (size_t)d * sizeof *k;
                if (!sees(b, s, t - first, j)) continue;
                memcpy(k + n * d, at(&b->k, first + j) + h / group * d, bytes);
                memcpy(v + n * d, at(&b->v, first + j) + h / group * d, bytes);
                n++;
            }
            ref_attention(ref, at(&b->q, t) + h * d, k, v, d, n - 1, &spec, h);
            cr_assert(close_f32("attention", at(&b->out, t) + h * d, ref,
                                (size_t)d, 4e-6, 4e-6),
                      "sequence %d token %d head %d of %d", s, t - first, h, d);
            free(k), free(v);
        }
    free(ref);
}

static void values(backend *be) {
    static const int32_t offsets[] = {0, 1, 1, 64, 67, 230};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        batch b = make_batch(CASES[i], offsets, 5);
        RUN(be, attention, b.out, b.q, b.k, b.v, spec_of(&b, CASES[i]), &b.seqs,
            NULL);
        for (int32_t s = 0; s < 5; s++) check_values(&b, s, 0);
        cr_assert(guards_whole(&b.out), "case %zu", i);
        free_batch(&b);
    }
}

Test(attention, values) {
    ON_EVERY_BACKEND(values);
}

/* ------------------------------------------------------------------- hidden
 */

enum { N_HIDDEN = 12, HIDDEN_LENGTH = 131 };

/* At the front, across and at the edges of pages (16) and blocks (64), all but
 * the own key, all but the first; empty, turned round, at and beyond the end,
 * from ahead of the front. */
static const int32_t HIDDEN[2 * N_HIDDEN] = {0,  1,  0,  64,  64,  128, 63, 65,
                                             16, 32, 5,  127, 0,   130, 1,  130,
                                             40, 40, 70, 60,  100, 131, -3, 17};

static int32_t *hidden_offsets(void) {
    static int32_t offsets[N_HIDDEN + 1];
    for (int32_t s = 0; s <= N_HIDDEN; s++) offsets[s] = s * HIDDEN_LENGTH;
    return offsets;
}

static void hidden_values(backend *be) {
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        batch b = make_batch(CASES[i], hidden_offsets(), N_HIDDEN);
        b.seqs.hidden = HIDDEN;
        RUN(be, attention, b.out, b.q, b.k, b.v, spec_of(&b, CASES[i]), &b.seqs,
            NULL);
        for (int32_t s = 0; s < N_HIDDEN; s++)
            check_values(&b, s, KS_MAX(0, HIDDEN[2 * s + 1] - 2));
        cr_assert(guards_whole(&b.out), "case %zu", i);
        free_batch(&b);
    }
}

Test(attention, values_with_hidden_keys) {
    ON_EVERY_BACKEND(hidden_values);
}

/* Tokens ahead of a range's end have the bits that they have without it, so do
 * all where it is empty; what is hidden does not show. */
static void hidden_bits(backend *be) {
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i += next_case()) {
        batch b = make_batch(CASES[i], hidden_offsets(), N_HIDDEN);
        const ks_attn_spec *spec = spec_of(&b, CASES[i]);
        ks_view plain = guarded(b.out.rows, b.out.cols, b.out.cols);
        RUN(be, attention, plain, b.q, b.k, b.v, spec, &b.seqs, NULL);
        b.seqs.hidden = HIDDEN;
        RUN(be, attention, b.out, b.q, b.k, b.v, spec, &b.seqs, NULL);
        for (int32_t s = 0; s < N_HIDDEN; s++) {
            int32_t begin = HIDDEN[2 * s], end = HIDDEN[2 * s + 1];
            int32_t first = s * HIDDEN_LENGTH;
            for (int32_t t = 0; t < HIDDEN_LENGTH; t++)
                if (t < end || begin >= end)
                    cr_assert(rows_equal(&plain, first + t, &b.out, first + t),
                              "case %zu sequence %d token %d", i, s, t);
            for (int32_t t = KS_MAX(begin, 0); t < KS_MIN(end, HIDDEN_LENGTH);
                 t++)
                for (int32_t j = 0; j < b.k.cols; j++)
                    at(&b.k, first + t)[j] = at(&b.v, first + t)[j] = 100;
        }
        RUN(be, attention, plain, b.q, b.k, b.v, spec, &b.seqs, NULL);
        for (int32_t s = 0; s < N_HIDDEN; s++)
            for (int32_t t = KS_MAX(HIDDEN[2 * s + 1], 0); t < HIDDEN_LENGTH;
                 t++)
                cr_assert(rows_equal(&plain, s * HIDDEN_LENGTH + t, &b.out,
                                     s * HIDDEN_LENGTH + t),
                          "case %zu sequence %d token %d", i, s, t);
        guarded_free(&plain);
        free_batch(&b);
    }
}

Test(attention, bits_with_hidden_keys) {
    ON_EVERY_BACKEND(hidden_bits);
}

/* A block that is hidden from a whole tile is not read. */
static void hidden_blocks(backend *be) {
    static const int32_t offsets[] = {0, 300}, range[] = {64, 128};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        batch b = make_batch(CASES[i], offsets, 1);
        b.seqs.hidden = range;
        for (int32_t t = range[0]; t < range[1]; t++)
            for (int32_t j = 0; j < b.k.cols; j++)
                at(&b.k, t)[j] = at(&b.v, t)[j] = NAN;
        RUN(be, attention, b.out, b.q, b.k, b.v, spec_of(&b, CASES[i]), &b.seqs,
            NULL);
        for (int32_t t = range[1] + 96; t < 300; t++)
            for (int32_t j = 0; j < b.out.cols; j++)
                cr_assert(!isnan(at(&b.out, t)[j]), "case %zu token %d", i, t);
        free_batch(&b);
    }
}

Test(attention, hidden_blocks_are_skipped) {
    ON_EVERY_BACKEND(hidden_blocks);
}

/* --------------------------------------------------------------------- bits */

/* A sequence alone has the bits that it has among others. */
static void alone(backend *be) {
    static const int32_t offsets[] = {0, 33, 34, 165, 203};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        batch b = make_batch(CASES[i], offsets, 4);
        const ks_attn_spec *spec = spec_of(&b, CASES[i]);
        RUN(be, attention, b.out, b.q, b.k, b.v, spec, &b.seqs, NULL);
        for (int32_t s = 0; s < 4; s++) {
            int32_t n = offsets[s + 1] - offsets[s], own[] = {0, n};
            ks_view q = b.q, k = b.k, v = b.v;
            ks_view out = guarded(n, b.out.cols, b.out.cols);
            q.data = at(&b.q, offsets[s]), k.data = at(&b.k, offsets[s]);
            v.data = at(&b.v, offsets[s]);
            ks_seqs one = {1, n, own, NULL, NULL, 0, NULL};
            RUN(be, attention, out, q, k, v, spec, &one, NULL);
            for (int32_t t = 0; t < n; t++)
                cr_assert(rows_equal(&out, t, &b.out, offsets[s] + t),
                          "%s case %zu sequence %d token %d", be->ops->isa, i,
                          s, t);
            guarded_free(&out);
        }
        free_batch(&b);
    }
}

Test(attention, bits_alone_and_among_others) {
    ON_EVERY_BACKEND(alone);
}

/* The store filled with a sequence's first `past` tokens, pages shuffled;
 * what is not written is NaN. */
static ks_kv_layer fill_store(const batch *b, int32_t first, int32_t past,
                              const int32_t *pages, int32_t n_pages) {
    int64_t kc = b->k.cols, n = (int64_t)n_pages * KS_PAGE * kc;
    ks_kv_layer kv = {malloc(sizeof(float) * (size_t)n),
                      malloc(sizeof(float) * (size_t)n)};
    for (int64_t i = 0; i < n; i++) kv.k[i] = kv.v[i] = NAN;
    for (int32_t t = 0; t < past; t++) {
        int64_t row =
            ((int64_t)pages[t / KS_PAGE] * KS_PAGE + t % KS_PAGE) * kc;
        memcpy(kv.k + row, at(&b->k, first + t), (size_t)kc * sizeof(float));
        memcpy(kv.v + row, at(&b->v, first + t), (size_t)kc * sizeof(float));
    }
    return kv;
}

/* Tokens [past, past + n) continued from the store: the prefill's bits. */
static void continue_from(backend *be, batch *b, int32_t past, int32_t n,
                          size_t number) {
    enum { PAGES = 16 };
    int32_t pages[2 * PAGES], offsets[] = {0, n, n + 1}, pasts[] = {past, 0};
    const int32_t *h = b->seqs.hidden;
    int32_t hidden[4] = {h ? h[0] : 0, h ? h[1] : 0, 0, 1};
    for (int32_t i = 0; i < PAGES; i++) {
        pages[i] = (i * 7 + 3) % PAGES;
        pages[PAGES + i] = -1; /* the second sequence has none */
    }
    ks_kv_layer kv = fill_store(b, 0, past, pages, PAGES);
    ks_seqs seqs = {2, n + 1, offsets, pasts, pages, PAGES, h ? hidden : NULL};
    ks_view q = b->q, k = b->k, v = b->v;
    ks_view out = guarded(n + 1, b->out.cols, b->out.cols);
    q.data = at(&b->q, past), k.data = at(&b->k, past);
    v.data = at(&b->v, past);
    RUN(be, attention, out, q, k, v, &b->spec, &seqs, &kv);
    for (int32_t t = 0; t < n; t++)
        cr_assert(rows_equal(&out, t, &b->out, past + t),
                  "%s case %zu: token %d of %d after %d", be->ops->isa, number,
                  t, n, past);
    guarded_free(&out), free(kv.k), free(kv.v);
}

static void decode(backend *be) {
    static const int32_t offsets[] = {0, 200};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i += next_case()) {
        batch b = make_batch(CASES[i], offsets, 1);
        RUN(be, attention, b.out, b.q, b.k, b.v, spec_of(&b, CASES[i]), &b.seqs,
            NULL);
        for (int32_t past = 1; past < 199; past += 3)
            continue_from(be, &b, past, 1, i);
        continue_from(be, &b, 64, 100, i);
        continue_from(be, &b, 63, 40, i);
        continue_from(be, &b, 5, 190, i);
        free_batch(&b);
    }
}

Test(attention, bits_of_decode_and_prefill) {
    ON_EVERY_BACKEND(decode);
}

/* What is hidden lies in the store, in the batch, or in both. */
static void decode_hidden(backend *be) {
    static const int32_t offsets[] = {0, 200};
    static const int32_t hidden[][2] = {
        {17, 64}, {64, 128}, {30, 90}, {0, 199}};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i += next_case()) {
        batch b = make_batch(CASES[i], offsets, 1);
        for (size_t j = 0; j < sizeof hidden / sizeof *hidden; j++) {
            b.seqs.hidden = hidden[j];
            RUN(be, attention, b.out, b.q, b.k, b.v, spec_of(&b, CASES[i]),
                &b.seqs, NULL);
            for (int32_t past = 11; past < 199; past += 47)
                continue_from(be, &b, past, 1, i);
            continue_from(be, &b, hidden[j][1], 199 - hidden[j][1], i);
            continue_from(be, &b, 64, 100, i);
            continue_from(be, &b, 5, 190, i);
        }
        check_values(&b, 0, 150);
        free_batch(&b);
    }
}

Test(attention, bits_of_decode_and_prefill_with_hidden_keys) {
    ON_EVERY_BACKEND(decode_hidden);
}

/* ----------------------------------------------------------------- bad input
 */

static void wrong(backend *be) {
    static const int32_t offsets[] = {0, 8}, past[] = {3};
    batch b = make_batch(CASES[0], offsets, 1);
    ks_attn_spec spec = b.spec;
    ks_seqs seqs = b.seqs;
    seqs.past = past; /* a past without a store */
    cr_assert(be->ops->attention(be->dev, b.out, b.q, b.k, b.v, &spec, &seqs,
                                 NULL, &be->err) == KS_INTERNAL);
    spec.n_kv_heads = 2; /* 9 heads on 2 */
    cr_assert(be->ops->attention(be->dev, b.out, b.q, b.k, b.v, &spec, &b.seqs,
                                 NULL, &be->err) == KS_INTERNAL);
    spec = b.spec, spec.head_dim = 512;
    cr_assert(be->ops->attention(be->dev, b.out, b.q, b.k, b.v, &spec, &b.seqs,
                                 NULL, &be->err) == KS_UNSUPPORTED);
    /* a NaN reaches its own and later tokens, not another sequence */
    static const int32_t two[] = {0, 4, 8};
    ks_seqs pair = {2, 8, two, NULL, NULL, 0, NULL};
    at(&b.k, 2)[0] = NAN;
    RUN(be, attention, b.out, b.q, b.k, b.v, &b.spec, &pair, NULL);
    for (int32_t t = 0; t < 8; t++)
        cr_assert(isnan(at(&b.out, t)[0]) == (t == 2 || t == 3), "token %d", t);
    free_batch(&b);
}

Test(attention, wrong_input) {
    ON_EVERY_BACKEND(wrong);
}
