/* A million bytes of what hurts: every function ends soon, with an answer or
 * a sentence. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "text/text.h"

/* All patterns at the small size, the first ones at the large one too. The
 * sanitizers' look-out costs ten times the time, not more care: an eighth. */
enum { SMALL = 1 << 15, LARGE = 1 << 20, N_LARGE = 8 };

static size_t of_size(size_t size) {
    return getenv("KS_UNDER_SANITIZER") ? size / 8 : size;
}

static const char *const patterns[] = {
    "{",
    "\\boxed{",
    "(",
    "1",
    "\\frac{",
    "so answer ",
    "a. ",
    "\\hspace{",
    "}",
    "{}",
    ")",
    "[",
    "\\",
    "\\{",
    "$",
    "-",
    "+1",
    "1+",
    "x",
    "1,",
    "1 ",
    "^",
    "_",
    "x^",
    "!",
    "%",
    "|",
    "/2",
    "\\frac",
    "\\frac{1}",
    "\\sqrt",
    "\\sqrt{",
    "\\boxed{1",
    "\\text{",
    "the answer is ",
    "so ",
    "answer ",
    "\n\n",
    ". ",
    "9",
    "0.",
    "a=",
    "-1,",
    ".",
    "\\left(",
    "(1,",
    "\\begin{pmatrix}",
    "1&",
    "1\\\\",
    "x:",
    "5!",
    "\\pm",
    "2^",
    "\\cup",
    "1<",
    "am",
    "\xc2\xb2",
    "\xe5\x9b\xa0",
    "<think>",
    "</think>",
    "<|start|>",
    "<|end|>",
    "####",
    "**",
    "\\pi",
    "e",
    "1e9",
    "oct 1",
    "million",
    "\"",
    "= ",
    "'",
    "\\overline{",
    ".\\overline{1",
    "(x+y)^9",
    "sin",
    "|x",
    "``",
    "\\ ",
    " ",
    "\t",
};

static char *filled(const char *pattern, size_t most) {
    char *text = malloc(most + 1);
    size_t n = strlen(pattern), size = most / n * n;
    for (size_t i = 0; i < size; i += n) memcpy(text + i, pattern, n);
    text[size] = 0;
    return text;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool fine(ks_status st) {
    return st == KS_OK || st == KS_LIMIT;
}

static void try_all(const char *text, size_t n, bool compat) {
    ks_err err = {0};
    ks_spans spans = {0};
    ks_span s;
    bool yes;
    int64_t index;
    ks_surface *surface;
    ks_surface_row row;
    for (int t = 0; t < KS_N_TEMPLATES; t++)
        cr_expect(
            fine(ks_text_extract(text, n, (ks_template)t, &s, NULL, &err)));
    cr_expect(fine(ks_text_boxes(text, n, compat, &spans, &err)));
    cr_expect(fine(ks_text_split(text, n, &spans, &err)));
    cr_expect(fine(ks_text_answer(text, n, compat, &s, &yes, &err)), "%s",
              err.text);
    cr_expect(fine(ks_text_answer_step(text, n, &spans, "12", 2, compat, &index,
                                       &yes, &err)),
              "%s", err.text);
    cr_expect(fine(ks_text_equal(text, n, "12", 2, compat, &yes, &err)), "%s",
              err.text);
    cr_expect(fine(ks_text_equal(text, n, text, n - 1, compat, &yes, &err)) ||
                  err.code == KS_FORMAT,
              "%s", err.text);
    cr_expect(fine(ks_text_states(text, n, "12", 2, compat, &yes, &err)), "%s",
              err.text);
    cr_assert(ks_surface_open(&surface, text, n, 0, compat, &err) == KS_OK);
    cr_expect(fine(ks_surface_step(surface, text, n, &row, &err)));
    ks_surface_close(&surface);
    ks_spans_free(&spans);
}

static void try_pattern(const char *pattern, size_t size) {
    char *text = filled(pattern, size);
    for (int compat = 0; compat < 2; compat++) {
        double begin = now();
        try_all(text, strlen(text), compat);
        double took = now() - begin;
        cr_expect(took < 30, "'%s' x %zu: %.1f s", pattern, size, took);
    }
    free(text);
}

Test(hostile, every_pattern, .timeout = 600) {
    for (size_t i = 0; i < KS_COUNT(patterns); i++)
        try_pattern(patterns[i], of_size(SMALL));
}

Test(hostile, a_million_bytes, .timeout = 600) {
    for (size_t i = 0; i < N_LARGE; i++)
        try_pattern(patterns[i], of_size(LARGE));
}

/* Expressions whose expansion would not fit anywhere. */
Test(hostile, explosive_algebra, .timeout = 120) {
    static const char *const texts[] = {
        "(a+b+c+d+e+f)^{99999}",
        "9^{9^{9^{9}}}",
        "2^{99999999999}",
        "((((x+1)^{99}+1)^{99}+1)^{99}+1)^{99}",
        "1/(1/(1/(1/(1/0))))",
        "99999!",
        "\\binom{99999999}{5}",
        "1e9999",
        "1e-9999",
        "10^{99999}",
        "(a+b)(c+d)(e+f)(g+h)(k+l)(m+n)(o+p)(q+r)(s+t)(u+v)(w+x)(y+z)",
        "\\sqrt{99999999999999999999999999999999999999999999999999}",
        "x^{1/64}+y^{1/63}+z^{1/61}",
        "x^{1/999999}",
        "\\sqrt[64]{2}^{64}",
        "\\sqrt{\\sqrt{\\sqrt{x+1}+1}+1}",
        "\\gcd(0,0)",
        "0^0",
        "0^{-1}",
        "1_{36}",
        "9_2",
        "\\log_1 5",
        "\\ln 0",
        "\\sin(1e9)",
    };
    for (size_t i = 0; i < KS_COUNT(texts); i++) {
        for (size_t k = 0; k < KS_COUNT(texts); k++) {
            bool same;
            ks_err err = {0};
            ks_status st = ks_text_equal(texts[i], strlen(texts[i]), texts[k],
                                         strlen(texts[k]), false, &same, &err);
            cr_assert(fine(st), "%s", err.text);
            cr_expect(same == (i == k) || (i != k && !same) ||
                          (same && strcmp(texts[i], texts[k]) == 0),
                      "'%s' and '%s'", texts[i], texts[k]);
        }
    }
}

/* Random bytes of the alphabet of answers: no crash under the sanitizers. */
Test(hostile, random_answers, .timeout = 300) {
    static const char *const parts[] = {
        "1",
        "2",
        "0",
        "12",
        ".5",
        "x",
        "y",
        "e",
        "i",
        "+",
        "-",
        "*",
        "/",
        "^",
        "_",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "\\{",
        "\\}",
        ",",
        ":",
        "=",
        "<",
        "\\le ",
        "\\frac",
        "\\sqrt",
        "\\pi",
        "\\sin ",
        "\\log_2",
        "\\text{cm}",
        " ",
        "\\pm ",
        "%",
        "^\\circ",
        "\\cup ",
        "\\infty",
        "|",
        "!",
        "\\left(",
        "\\right)",
        "and ",
        " or ",
        "$",
        "\\binom",
        "\\overline{3}",
        "million",
        "\\begin{pmatrix}",
        "\\end{pmatrix}",
        "&",
        "\\\\",
        "am",
        "\\in ",
    };
    uint64_t state = 12345;
    char text[2][256];
    int rounds = (int)of_size(20000);
    for (int round = 0; round < rounds; round++) {
        for (int side = 0; side < 2; side++) {
            text[side][0] = 0;
            state = state * 6364136223846793005u + 1442695040888963407u;
            int n = (int)(state >> 60) + 1;
            for (int i = 0; i < n; i++) {
                state = state * 6364136223846793005u + 1442695040888963407u;
                strcat(text[side], parts[(state >> 33) % KS_COUNT(parts)]);
            }
        }
        bool ab, ba, aa;
        ks_err err = {0};
        size_t n_a = strlen(text[0]), n_b = strlen(text[1]);
        cr_assert(ks_text_equal(text[0], n_a, text[1], n_b, false, &ab, &err) ==
                      KS_OK,
                  "%s", err.text);
        cr_assert(ks_text_equal(text[1], n_b, text[0], n_a, false, &ba, &err) ==
                      KS_OK,
                  "%s", err.text);
        cr_assert(ks_text_equal(text[0], n_a, text[0], n_a, false, &aa, &err) ==
                      KS_OK,
                  "%s", err.text);
        cr_expect(ab == ba, "'%s' and '%s': %d, %d", text[0], text[1], ab, ba);
        cr_expect(aa, "'%s'", text[0]);
        cr_assert(ks_text_equal(text[0], n_a, text[1], n_b, true, &ab, &err) ==
                      KS_OK,
                  "%s", err.text);
    }
}
