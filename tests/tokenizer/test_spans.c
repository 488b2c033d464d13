/* test_spans.c - the bytes of the text that each token stands for. */
#include <time.h>

#include "fixture.h"

/* Tokens' spans as "0-2 2-3". */
static const char *spans(const ks_tokenizer *t, const char *text) {
    static char out[4096];
    ks_tokens got = {0};
    must_tokenize(t, text, strlen(text), &got);
    size_t n = 0;
    out[0] = 0;
    for (size_t i = 0; i < got.n && n < sizeof(out) - 32; i++)
        n += (size_t)snprintf(out + n, sizeof(out) - n, "%s%d-%d", i ? " " : "",
                              got.begin[i], got.end[i]);
    ks_tokens_free(&got);
    return out;
}

#define SPANS(tokenizer, text, expected)                                       \
    cr_assert(eq(str, (char *)spans(tokenizer, text), expected))

Test(spans, part_of_a_character_is_its_bytes) {
    ks_tokenizer *t = open_family("gpt2", "tokenizer.json");
    /* U+10FFFF is in no training text more than once: bytes */
    SPANS(t, "\xf3\xa0\x81\xbf", "0-1 1-2 2-3 3-4");
    SPANS(t, "<|endoftext|>\xf3\xa0\x81\xbf", "0-13 13-14 14-15 15-16 16-17");
    ks_tokenizer_close(&t);
}

Test(spans, composed_character_is_all_of_its_source) {
    ks_tokenizer *t = open_family("olmo", "tokenizer.json");
    SPANS(t, "", "");
    /* E + double grave is two bytes, one token each, from three */
    SPANS(t, "E\xcc\x8f", "0-3 0-3");
    SPANS(t, "zE\xcc\x8fz", "0-1 1-4 1-4 4-5");
    /* the mark that does not compose keeps its own two bytes */
    SPANS(t, "E\xcc\x8f\xcd\x86", "0-3 0-3 3-4 4-5");
    /* text that is composed already maps byte to byte */
    SPANS(t, "\xc8\x84", "0-1 1-2");
    /* reordered marks: both come from both */
    SPANS(t, "q\xcd\x83\xcc\xa8", "0-1 1-5 1-5 1-5 1-5");
    /* Hangul from its letters */
    SPANS(t, "\xe1\x84\x92\xe1\x85\xa1", "0-6 0-6 0-6");
    ks_tokenizer_close(&t);
}

Test(spans, tokens_cover_the_text_end_to_end) {
    ks_tokenizer *t = open_family("llama3", "tokenizer.json");
    ks_tokens got = {0};
    const char *text = "a \xc3\xa9\xf0\x9f\x98\x80<|eot_id|>  \xe4\xb8\xad\n";
    must_tokenize(t, text, strlen(text), &got);
    int32_t at = 0;
    for (size_t i = 0; i < got.n; i++) {
        cr_assert(eq(int, got.begin[i], at));
        at = got.end[i];
    }
    cr_assert(eq(int, at, (int)strlen(text)));
    ks_tokens_free(&got);
    ks_tokenizer_close(&t);
}

Test(spans, added_tokens_take_their_blanks_in) {
    ks_tokenizer *t = open_family("odd", "tokenizer.json");
    SPANS(t, "  [MASK]", "0-8");
    SPANS(t, "[SEP] \n ", "0-8");
    SPANS(t, "[SEP]  [MASK]", "0-7 7-13");
    ks_tokenizer_close(&t);
}

Test(spans, invalid_utf8_names_the_byte) {
    static const struct {
        const char *text;
        size_t n;
        const char *says;
    } rows[] = {{"ab\xff", 3, "text byte 2 (0xFF)"},
                {"\xc3", 1, "text byte 0 (0xC3)"},
                {"a\xed\xa0\x80", 4, "text byte 1 (0xED)"},
                {"x\xc0\x80", 3, "text byte 1 (0xC0)"},
                {"\xf4\x90\x80\x80", 4, "text byte 0 (0xF4)"}};
    ks_tokenizer *t = open_family("gpt2", "tokenizer.json");
    ks_tokens got = {0};
    for (size_t i = 0; i < KS_COUNT(rows); i++) {
        ks_err err = {0};
        cr_assert(eq(int, ks_tokenize(t, rows[i].text, rows[i].n, &got, &err),
                     KS_FORMAT));
        cr_assert(says(&err, rows[i].says), "%s", err.text);
        cr_assert(eq(sz, got.n, 0));
    }
    ks_tokens_free(&got);
    ks_tokenizer_close(&t);
}

Test(spans, unknown_ids_are_refused) {
    ks_tokenizer *t = open_family("gpt2", "tokenizer.json");
    const int32_t bad[][2] = {{1, -1}, {1, 1 << 20}};
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        char *text = NULL;
        size_t n;
        ks_err err = {0};
        cr_assert(
            eq(int, ks_detokenize(t, bad[i], 2, &text, &n, &err), KS_MISMATCH));
        cr_assert(says(&err, "place 1"), "%s", err.text);
        cr_assert(text == NULL);
    }
    ks_tokenizer_close(&t);
}

/* A quadratic merge of a million bytes would take most of an hour. */
Test(spans, a_million_bytes_without_a_blank, .timeout = 60) {
    enum { N = 1 << 20 };
    ks_tokenizer *t = open_family("llama3", "tokenizer.json");
    ks_tokens got = {0};
    char *text = malloc(N), *back;
    size_t n;
    ks_err err;
    for (int i = 0; i < N; i++) text[i] = (char)('a' + i * 7 % 11 % 5);
    must_tokenize(t, text, N, &got);
    cr_assert(got.n > N / 8 && got.n < N);
    cr_assert(
        eq(int, ks_detokenize(t, got.ids, got.n, &back, &n, &err), KS_OK));
    cr_assert(n == N && memcmp(text, back, N) == 0);
    free(back);
    memset(text, ' ', N);
    must_tokenize(t, text, N, &got);
    cr_assert(eq(int, got.end[got.n - 1], N));
    free(text);
    ks_tokens_free(&got);
    ks_tokenizer_close(&t);
}

/* The heap and the plain search must merge alike: a split just over the limit
 * of the plain search against the heap's own rule, on all lengths around it. */
Test(spans, short_and_long_splits_merge_alike) {
    ks_tokenizer *t = open_family("llama3", "tokenizer.json");
    ks_scratch s = {0};
    ks_err err;
    char word[64];
    unsigned state = 7;
    for (int trial = 0; trial < 100; trial++) {
        int n = 18 + trial % 20;
        for (int i = 0; i < n; i++) {
            state = state * 1103515245u + 12345u;
            word[i] = "etaoinshr"[state >> 16 & 7];
        }
        int32_t all;
        cr_assert(
            eq(int, ks_bpe_merge(&t->bpe, word, n, &s, &all, &err), KS_OK));
        cr_assert(eq(int, all, n));
        /* the definition: the lowest rank, leftmost, until there is none */
        int32_t ids[64], count = n;
        for (int i = 0; i < n; i++) ids[i] = t->bpe.byte_id[(uint8_t)word[i]];
        for (;;) {
            const ks_merge *best = NULL;
            int at = 0;
            for (int i = 0; i + 1 < count; i++)
                for (size_t k = 0; k < t->bpe.capacity; k++) {
                    const ks_merge *m = &t->bpe.slots[k];
                    if (m->rank >= 0 && m->left == ids[i] &&
                        m->right == ids[i + 1] &&
                        (!best || m->rank < best->rank)) {
                        best = m;
                        at = i;
                    }
                }
            if (!best) break;
            ids[at] = best->id;
            count--;
            memmove(ids + at + 1, ids + at + 2,
                    (size_t)(count - at - 1) * sizeof(*ids));
        }
        int k = 0;
        for (int32_t i = 0; i >= 0; i = s.symbols[i].next, k++) {
            cr_assert(lt(int, k, count));
            cr_assert(eq(int, s.symbols[i].id, ids[k]), "%.*s", n, word);
        }
        cr_assert(eq(int, k, count));
    }
    free(s.symbols);
    free(s.heap);
    ks_tokenizer_close(&t);
}
