/* test_words.c - n-grams of words, of characters, and of a step beside what
 * stands before it: chosen strengths and held-out margins are those of
 * scikit-learn's vectorizer and liblinear solver (tests/golden/make_words.py).
 */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

#include "compare.h"
#include "words.h"

enum { MOST = 400, FOLDS = 5 };
/* liblinear stops at a gradient of 1e-3 of the first; the reference does not */
static const double ATOL = 4e-3, RTOL = 4e-3;

static ks_err err;
static json_t *golden;
static int8_t y[MOST];
static uint8_t fold[MOST];
static size_t n;
static ks_folds folds;
static float score[MOST];
static double strength[FOLDS];

static void setup(void) {
    json_error_t reason;
    json_t *v;
    size_t i;
    golden = json_load_file(KS_TEST_DATA "/probes/words.json", 0, &reason);
    cr_assert(golden != NULL, "%s", reason.text);
    n = json_array_size(json_object_get(golden, "y"));
    cr_assert(n > 100 && n <= MOST);
    json_array_foreach(json_object_get(golden, "y"), i, v) y[i] =
        (int8_t)json_integer_value(v);
    json_array_foreach(json_object_get(golden, "fold"), i, v) fold[i] =
        (uint8_t)json_integer_value(v);
    folds = (ks_folds){(int64_t)n, FOLDS, FOLDS - 1, 1, fold};
}

static void teardown(void) {
    json_decref(golden);
}

TestSuite(words_golden, .init = setup, .fini = teardown);

static const char *text_of(const char *key, size_t i, size_t *length) {
    json_t *text = json_array_get(json_object_get(golden, key), i);
    bool there = json_is_string(text);
    cr_assert(there);
    *length = json_string_length(text);
    return json_string_value(text);
}

static ks_words *rows(const char *kind) {
    ks_words *w = NULL;
    cr_assert(eq(int, ks_words_open(&w, &err), KS_OK));
    for (size_t i = 0; i < n; i++) {
        size_t m;
        const char *text = text_of("texts", i, &m);
        ks_status st;
        if (strcmp(kind, "characters") == 0)
            st = ks_words_take_characters(w, KS_WORDS_STEP, text, m, &err);
        else
            st = ks_words_take(w, KS_WORDS_STEP, 5, text, m, &err);
        cr_assert(eq(int, st, KS_OK), "%s", err.text);
        if (strcmp(kind, "prefix") == 0) {
            text = text_of("before", i, &m);
            st = ks_words_take(w, KS_WORDS_BEFORE, 1, text, m, &err);
            cr_assert(eq(int, st, KS_OK), "%s", err.text);
        }
        cr_assert(eq(int, ks_words_end(w, &err), KS_OK), "%s", err.text);
    }
    return w;
}

static void check(const char *kind, ks_words_kind as) {
    static double want[MOST];
    ks_words *w = rows(kind);
    json_t *of = json_object_get(golden, kind);
    cr_assert(eq(int, ks_words_fit(w, as, y, &folds, 2, score, strength, &err),
                 KS_OK),
              "%s", err.text);
    for (size_t f = 0; f < FOLDS; f++)
        cr_expect(epsilon_eq(dbl, strength[f],
                             json_number_value(json_array_get(
                                 json_object_get(of, "strength"), f)),
                             1e-12));
    for (size_t i = 0; i < n; i++)
        want[i] =
            json_number_value(json_array_get(json_object_get(of, "margin"), i));
    cr_expect(close_f32(kind, score, want, n, ATOL, RTOL));
    ks_words_close(&w);
}

Test(words_golden, words) {
    check("words", KS_WORDS_TFIDF);
}

Test(words_golden, characters) {
    check("characters", KS_WORDS_COMMON);
}

Test(words_golden, prefix_and_step_apart) {
    check("prefix", KS_WORDS_COMMON);
}

/* The same bits with one thread and with several. */
Test(words_golden, threads_change_nothing) {
    static float other[MOST];
    ks_words *w = rows("prefix");
    cr_assert(eq(
        int,
        ks_words_fit(w, KS_WORDS_COMMON, y, &folds, 1, score, strength, &err),
        KS_OK));
    cr_assert(eq(
        int,
        ks_words_fit(w, KS_WORDS_COMMON, y, &folds, 3, other, strength, &err),
        KS_OK));
    cr_expect(memcmp(score, other, n * sizeof *score) == 0);
    ks_words_close(&w);
}

/* What a fold chooses does not look at its own labels: with those of fold 0
 * turned round its margins are what they were. */
Test(words_golden, test_labels_choose_nothing) {
    static float other[MOST];
    ks_words *w = rows("characters");
    cr_assert(eq(
        int,
        ks_words_fit(w, KS_WORDS_COMMON, y, &folds, 2, score, strength, &err),
        KS_OK));
    for (size_t i = 0; i < n; i++)
        if (fold[i] == 0) y[i] = (int8_t)!y[i];
    cr_assert(eq(
        int,
        ks_words_fit(w, KS_WORDS_COMMON, y, &folds, 2, other, strength, &err),
        KS_OK));
    size_t others = 0;
    for (size_t i = 0; i < n; i++) {
        if (fold[i] == 0)
            cr_assert(eq(flt, score[i], other[i]));
        else
            others += score[i] != other[i];
    }
    cr_expect(gt(sz, others, n / 2));
    ks_words_close(&w);
}
