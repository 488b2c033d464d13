/* check_attention.cpp - attention on the simulated device against plain loops
 * in double and the CPU's op; bits in prompts, in decoding, alone, among
 * others, with shared pages. */
#include "attention_batch.h"

/* ------------------------------------------------------------------- values */

struct value_case {
    int32_t heads, kv_heads, dim, window;
    float softcap;
    bool sinks, precise;
    int32_t pad; /* columns between rows; not a multiple of 4: narrow */
};

static const value_case VALUES[] = {
    {3, 1, 64, 0, 0, false, false, 4},    {3, 1, 64, 0, 0, false, true, 4},
    {4, 2, 128, 0, 0, true, false, 0},    {4, 2, 128, 37, 0, true, true, 0},
    {2, 1, 96, 17, 30, false, false, 8},  {2, 1, 96, 0, 30, false, true, 8},
    {3, 3, 256, 0, 0, false, false, 0},   {1, 1, 256, 0, 50, true, true, 4},
    {2, 2, 80, 65, 0, false, false, 1},   {6, 3, 34, 0, 0, true, true, 3},
    {5, 1, 16, 1, 0, false, false, 0},    {2, 1, 2, 64, 0, false, true, 0},
    {1, 1, 65, 0, 0, false, false, 0},    {1, 1, 97, 0, 0, false, true, 0},
    {1, 1, 129, 0, 0, false, false, 0},   {2, 1, 66, 0, 0, false, true, 2},
    {130, 1, 16, 0, 0, false, false, 12}, {70, 1, 48, 0, 0, false, true, 0},
};

/* past, new tokens; pages shared with the sequence before it */
static const part PROMPTS[] = {{0, 1, 0}, {0, 0, 0}, {0, 70, 0}, {0, 33, 0}};
static const part MIXED[] = {{21, 40, 0}, {0, 3, 0}, {64, 9, 0}, {250, 30, 0}};
static const part DECODE[] = {{256, 1, 0}, {530, 1, 0}, {530, 2, 2}, {0, 1, 0},
                              {300, 0, 0}, {255, 1, 0}, {511, 3, 0}};

template <int N>
static void check_values(const value_case &c, const part (&parts)[N],
                         const int32_t *hidden = NULL) {
    ks_attn_spec spec = {c.heads,   c.kv_heads, c.dim, 3 / sqrtf((float)c.dim),
                         c.softcap, c.window,   NULL};
    attn_batch b(spec, c.sinks, parts, N, c.pad);
    if (hidden) b.hidden.assign(hidden, hidden + 2 * N);
    b.run(c.precise);
    double tolerance = c.precise ? 1e-4 : 2e-2;
    cr_expect(b.compare_reference(tolerance), "%d heads on %d of %d",
              (int)c.heads, (int)c.kv_heads, (int)c.dim);
    cr_expect(b.compare_cpu(tolerance), "%d heads on %d of %d", (int)c.heads,
              (int)c.kv_heads, (int)c.dim);
    cr_expect(b.guards_whole());
}

Test(attention, prompts) {
    for (const value_case &c : VALUES) check_values(c, PROMPTS);
}

Test(attention, stored_and_new) {
    for (const value_case &c : VALUES)
        if (c.heads < 10) check_values(c, MIXED);
}

Test(attention, decode) {
    for (const value_case &c : VALUES) check_values(c, DECODE);
}

/* ------------------------------------------------------------------- hidden
 */

/* Ranges of the sequences of PROMPTS, MIXED and DECODE: at the front, at the
 * edges of blocks and chunks and one off, all but the own key; in the store, in
 * the batch, across; empty, turned round, from ahead of the front, beyond. */
static const int32_t HIDE_PROMPTS[] = {0, 0, 0, 5, 1, 69, 0, 32};
static const int32_t HIDE_MIXED[] = {16, 48, 0, 2, 0, 63, 65, 255};
static const int32_t HIDE_DECODE[] = {0,  256, 256, 512, 255, 530, 0,
                                      -1, 0,   1,   100, 31,  -9,  511};
static const int32_t HIDE_OTHERS[] = {200, 257, 64,  191, 17,  512, 1,
                                      9,   3,   299, 0,   255, 1,   256};

Test(attention, hidden_in_prompts) {
    for (const value_case &c : VALUES) check_values(c, PROMPTS, HIDE_PROMPTS);
}

Test(attention, hidden_stored_and_new) {
    for (const value_case &c : VALUES)
        if (c.heads < 10) check_values(c, MIXED, HIDE_MIXED);
}

Test(attention, hidden_in_decode) {
    for (const value_case &c : VALUES) check_values(c, DECODE, HIDE_DECODE);
    for (const value_case &c : VALUES)
        if (c.heads < 10) check_values(c, DECODE, HIDE_OTHERS);
}

/* --------------------------------------------------------------------- bits */

struct bits_case {
    int32_t heads, kv_heads, dim, window;
    bool sinks, precise;
};

static const bits_case BITS[] = {
    {2, 1, 64, 0, true, false},   {2, 1, 64, 0, false, true},
    {1, 1, 128, 0, false, true},  {1, 1, 96, 300, true, true},
    {2, 2, 32, 40, false, false},
};

/* A real device does not count. */
static void expect_launches(const attn_batch &b, uint64_t n) {
    if (simt_simulated())
        cr_expect(b.launches == n, "%d launches, not %d", (int)b.launches,
                  (int)n);
}

static ks_attn_spec spec_of(const bits_case &c) {
    return {c.heads, c.kv_heads, c.dim, 6 / sqrtf((float)c.dim),
            0,       c.window,   NULL};
}

/* Rows of one long prompt against the same tokens continued from the store, in
 * both forms and under several seeds. */
Test(attention, bits_of_prompt_and_decode) {
    static const part whole[] = {{0, 530, 0}};
    for (const bits_case &c : BITS) {
        attn_batch prompt(spec_of(c), c.sinks, whole, 1, 0);
        prompt.run(c.precise);
        expect_launches(prompt, 1);
        for (int32_t past : {15, 255, 256, 300, 513}) {
            part few[] = {{past, 1 + past % 3, 0}, {0, 0, 0}, {0, 1, 0}};
            attn_batch decode(spec_of(c), c.sinks, few, 3, 4);
            simt_seed((uint64_t)past);
            decode.run(c.precise);
            expect_launches(decode, past > 225 ? 2 : 1);
            cr_expect(decode.rows_equal(0, prompt, past, few[0].n), "past %d",
                      past);
        }
        part many[] = {{200, 130, 0}};
        attn_batch rest(spec_of(c), c.sinks, many, 1, 0);
        rest.run(c.precise);
        expect_launches(rest, 1);
        cr_expect(rest.rows_equal(0, prompt, 200, 130));
    }
}

/* Forks of one prompt, of another, and loners in one batch, against each
 * sequence alone; the numbers cross the tiles' and groups' edges. */
Test(attention, bits_of_forks_and_loners) {
    static const part forks[] = {{300, 1, 0},   {513, 1, 0},   {520, 2, 512},
                                 {512, 3, 512}, {600, 1, 512}, {257, 1, 256},
                                 {256, 1, 256}, {300, 0, 256}, {270, 1, 256},
                                 {40, 1, 0},    {511, 1, 0},   {511, 1, 496}};
    const int32_t n = (int32_t)(sizeof forks / sizeof *forks);
    static const bits_case shapes[] = {{2, 1, 64, 0, true, false},
                                       {2, 1, 64, 0, true, true},
                                       {24, 1, 16, 0, false, false},
                                       {16, 1, 16, 290, false, true},
                                       {4, 4, 256, 0, false, false}};
    for (const bits_case &c : shapes) {
        attn_batch all(spec_of(c), c.sinks, forks, n, 0);
        simt_seed(3);
        all.run(c.precise);
        cr_expect(all.compare_reference(c.precise ? 1e-4 : 2e-2));
        for (int32_t s = 0; s < n; s++) {
            if (forks[s].n == 0) continue;
            attn_batch alone = all.alone(s);
            alone.run(c.precise);
            cr_expect(all.rows_equal(all.offsets[s], alone, 0, forks[s].n),
                      "sequence %d of %d heads", s, (int)c.heads);
        }
    }
}

/* The same with hidden keys: prompts, and continued from the store in both
 * forms; what is hidden lies in the store, in the batch, or in both. */
Test(attention, bits_with_hidden_keys) {
    static const part whole[] = {{0, 530, 0}};
    static const int32_t ranges[][2] = {{0, 256}, {100, 300}, {130, 512}};
    for (const bits_case &c : BITS)
        for (const int32_t *range : ranges) {
            attn_batch prompt(spec_of(c), c.sinks, whole, 1, 0);
            prompt.hidden = {range[0], range[1]};
            prompt.run(c.precise);
            for (int32_t past : {255, 300, 513}) {
                part few[] = {{past, 1 + past % 3, 0}, {0, 0, 0}, {0, 1, 0}};
                attn_batch decode(spec_of(c), c.sinks, few, 3, 4);
                decode.hidden = {range[0], range[1], 0, 0, 0, 1};
                simt_seed((uint64_t)past);
                decode.run(c.precise);
                expect_launches(decode, 2);
                cr_expect(decode.rows_equal(0, prompt, past, few[0].n),
                          "past %d, %d to %d", past, range[0], range[1]);
            }
            part many[] = {{200, 130, 0}};
            attn_batch rest(spec_of(c), c.sinks, many, 1, 0);
            rest.hidden = {range[0], range[1]};
            rest.run(c.precise);
            cr_expect(rest.rows_equal(0, prompt, 200, 130));
        }
}

/* Forks of one prompt, each with its own range, the same one, or none. */
Test(attention, bits_of_forks_with_hidden_keys) {
    static const part forks[] = {{513, 1, 0},   {520, 2, 512}, {600, 1, 512},
                                 {257, 1, 256}, {300, 1, 256}, {270, 1, 256},
                                 {290, 1, 256}};
    static const int32_t hidden[] = {64, 192, 0, 256, 128, 512, 40,
                                     60, 0,   0, 31,  257, 0,   290};
    const int32_t n = (int32_t)(sizeof forks / sizeof *forks);
    static const bits_case shapes[] = {{2, 1, 64, 0, true, false},
                                       {24, 1, 16, 0, false, false},
                                       {16, 1, 16, 290, false, true},
                                       {4, 4, 256, 0, false, false}};
    for (const bits_case &c : shapes) {
        attn_batch all(spec_of(c), c.sinks, forks, n, 0);
        all.hidden.assign(hidden, hidden + 2 * n);
        all.run(c.precise);
        cr_expect(all.compare_reference(c.precise ? 1e-4 : 2e-2));
        for (int32_t s = 0; s < n; s++) {
            attn_batch alone = all.alone(s);
            alone.run(c.precise);
            cr_expect(all.rows_equal(all.offsets[s], alone, 0, forks[s].n),
                      "sequence %d of %d heads", s, (int)c.heads);
        }
    }
}

/* A group of as many forks as a tile has rows, one of which alone sees the
 * keys. */
Test(attention, one_row_sees) {
    const bits_case c = {1, 1, 256, 0, false, true};
    std::vector<part> forks(16, part{256, 1, 256});
    forks[0].shared = 0;
    for (int32_t seer : {0, 7, 14, 15}) {
        attn_batch b(spec_of(c), c.sinks, forks.data(), 16, 0);
        b.hidden.clear();
        for (int32_t s = 0; s < 16; s++)
            b.hidden.insert(b.hidden.end(), {0, s == seer ? 0 : 256});
        b.run(c.precise);
        expect_launches(b, 2);
        cr_expect(b.compare_reference(1e-4), "row %d sees", (int)seer);
    }
}

/* Blocks that are hidden from all rows are not read: what lies there does not
 * come near the sums. Forks share the range in the second batch. */
Test(attention, hidden_blocks_are_skipped) {
    static const part prompt[] = {{0, 330, 0}};
    static const part decode[] = {{330, 1, 0}, {330, 1, 330}};
    for (const value_case &c : VALUES) {
        if (c.heads > 10 || c.dim % 16 || c.window) continue;
        ks_attn_spec spec = {
            c.heads, c.kv_heads, c.dim, 3 / sqrtf((float)c.dim), 0, 0, NULL};
        attn_batch a(spec, c.sinks, prompt, 1, c.pad);
        attn_batch b(spec, c.sinks, decode, 2, c.pad);
        a.hidden = {64, 128};
        b.hidden = {64, 320, 64, 320};
        for (int64_t i = 64 * a.kv_stride; i < 128 * a.kv_stride; i++)
            if (i % a.kv_stride < a.kv_cols) a.k[i] = a.v[i] = NAN;
        for (int32_t t = 64; t < 320; t++)
            for (int64_t j = 0; j < b.kv_cols; j++) {
                int64_t row =
                    (int64_t)b.pages[t / KS_PAGE] * KS_PAGE + t % KS_PAGE;
                b.store_k[row * b.kv_cols + j] = NAN;
                b.store_v[row * b.kv_cols + j] = NAN;
            }
        a.run(c.precise);
        b.run(c.precise);
        for (int32_t t = 256; t < 330; t++) /* of tiles behind the range */
            cr_expect(eq(int, isnan(a.out[t * a.q_stride]), 0), "token %d", t);
        for (int32_t t = 0; t < 2; t++)
            cr_expect(eq(int, isnan(b.out[t * b.q_stride]), 0), "fork %d", t);
    }
}

/* Pages of the sequence before, one place on: nothing to share. */
Test(attention, pages_one_place_on) {
    static const part two[] = {{300, 1, 0}, {300, 1, 0}};
    for (int precise = 0; precise < 2; precise++) {
        attn_batch b(spec_of(BITS[0]), false, two, 2, 0);
        for (int32_t i = 0; i < 256 / KS_PAGE; i++)
            b.pages[(size_t)(b.max_pages + i + 1)] = b.pages[(size_t)i];
        b.run(precise);
        cr_expect(b.compare_cpu(precise ? 1e-4 : 2e-2));
    }
}

/* Which form serves: the bits do not tell. */
Test(attention, few_tokens_of_many_sequences) {
    static const part parts[] = {
        {0, 16, 0}, {0, 1, 0}, {250, 1, 0}, {0, 1, 0}, {0, 1, 0}};
    attn_batch at(spec_of(BITS[0]), false, parts, 5, 0);
    at.run(false); /* 20 tokens of 5: the most that is split */
    expect_launches(at, 2);
    static const part more[] = {
        {0, 17, 0}, {0, 1, 0}, {250, 1, 0}, {0, 1, 0}, {0, 1, 0}};
    attn_batch above(spec_of(BITS[0]), false, more, 5, 0);
    above.run(false);
    expect_launches(above, 1);
}

/* ---------------------------------------------------------------- bad input */

/* A query's are its row's alone. Tokens before a key's in its block may have
 * them too. */
Test(attention, not_a_number) {
    static const part two[] = {{0, 4, 0}, {0, 4, 0}};
    attn_batch query(spec_of(BITS[0]), false, two, 2, 0);
    for (int i = 0; i < 4; i++) query.q[(size_t)i] = NAN;
    query.run(false);
    for (int32_t t = 0; t < 8; t++)
        cr_expect(eq(int, isnan(query.out[t * query.q_stride]), t == 0),
                  "token %d", t);
    for (int value = 0; value < 2; value++) {
        attn_batch b(spec_of(BITS[0]), false, two, 2, 0);
        (value ? b.v : b.k)[2 * b.kv_stride] = NAN;
        b.run(false);
        for (int32_t t = 0; t < 8; t++)
            if (t != 0 && t != 1)
                cr_expect(
                    eq(int, isnan(b.out[t * b.q_stride]), t == 2 || t == 3),
                    "token %d", t);
    }
}

static void refused(ks_status code, attn_batch *b, int what,
                    const char *words) {
    ks_err err = {KS_OK, ""};
    ks_status st = b->run_wrong(what, &err);
    cr_expect(eq(int, st, code), "%d: %s", what, err.text);
    cr_expect(strstr(err.text, words) != NULL, "%d: %s", what, err.text);
}

Test(attention, refusals) {
    static const part parts[] = {{5, 3, 0}};
    attn_batch b(spec_of(BITS[0]), false, parts, 1, 0);
    refused(KS_INTERNAL, &b, WRONG_HEADS, "3 heads on 2");
    refused(KS_INTERNAL, &b, NO_HEADS, "0 heads on 1");
    refused(KS_INTERNAL, &b, NO_KV_HEADS, "2 heads on 0");
    refused(KS_UNSUPPORTED, &b, WRONG_DIM, "257 dims");
    refused(KS_UNSUPPORTED, &b, NO_DIM, "0 dims");
    refused(KS_INTERNAL, &b, NO_STORE, "no store");
    refused(KS_INTERNAL, &b, NO_PAGES, "no store");
    refused(KS_INTERNAL, &b, SHORT_OUT, "out has f32 [2");
    refused(KS_INTERNAL, &b, NARROW_Q, "q has f32 [3, 127]");
    refused(KS_INTERNAL, &b, TYPE_OF_K, "k has bf16");
    refused(KS_INTERNAL, &b, STRIDE_OF_V, "v has f32");
    refused(KS_OK, &b, NO_TOKENS, "");
    static const part decode[] = {{300, 1, 0}};
    attn_batch d(spec_of(BITS[0]), false, decode, 1, 0);
    refused(KS_NOMEM, &d, NO_MEMORY, "partial sums");
    refused(KS_OK, &d, NOTHING_WRONG, "");
}
