/* Surface features: counts by hand, cosines against scikit-learn. */
#include <math.h>

#include "golden.h"

static ks_surface_row row_of(const char *step, int64_t n_steps, bool compat) {
    ks_surface *s;
    ks_surface_row row;
    ks_err err = {0};
    cr_assert(ks_surface_open(&s, NULL, 0, n_steps, compat, &err) == KS_OK);
    cr_assert(ks_surface_step(s, step, strlen(step), &row, &err) == KS_OK);
    ks_surface_close(&s);
    cr_assert(s == NULL);
    return row;
}

Test(surface, counts) {
    ks_surface_row r = row_of("na\xc3\xafve: 3 + 4.5 = 7.5 \xe2\x89\xa0 x2 - 8,"
                              "9 \xc2\xb1",
                              0, false);
    cr_expect(r.position == 0);
    cr_expect(isnan(r.relative_position));
    cr_expect(r.characters == 33, "%lld", (long long)r.characters);
    cr_expect(r.words == 11, "%lld", (long long)r.words);
    /* 3, 4.5, 7.5, 8, 9; x2 is a word */
    cr_expect(r.numbers == 5, "%lld", (long long)r.numbers);
    /* + = != - +- */
    cr_expect(r.operators == 5, "%lld", (long long)r.operators);
    r = row_of("", 0, false);
    cr_expect(r.characters == 0 && r.words == 0 && r.numbers == 0);
    r = row_of("+-*/^=<>\xe2\x89\xa4\xe2\x89\xa5", 0, false);
    cr_expect(r.operators == 10);
    r = row_of("3.14 3.1.4 v3", 0, false);
    cr_expect(r.numbers == 3, "%lld", (long long)r.numbers);
}

Test(surface, categories) {
    static const struct {
        const char *step;
        int set; /* bits in the order of ks_category */
    } cases[] = {
        {"Hmm, LET ME THINK", 1 << KS_FILLER},
        {"Wait, hold on", 1 << KS_VERIFICATION},
        {"First, I will start", 1 << KS_PLANNING},
        {"Plugging in the value", 1 << KS_COMPUTATION},
        {"By definition it holds", 1 << KS_FACT_RETRIEVAL},
        {"Okay, we need to verify, adding; recall that", 31},
        {"Nothing at all", 0},
    };
    for (size_t i = 0; i < KS_COUNT(cases); i++) {
        ks_surface_row r = row_of(cases[i].step, 0, false);
        int set = 0;
        for (int k = 0; k < KS_N_CATEGORIES; k++) set |= r.category[k] << k;
        cr_expect(set == cases[i].set, "%s: %d", cases[i].step, set);
    }
    /* a curled apostrophe is one too, but not in the published code */
    cr_expect(row_of("let\xe2\x80\x99s think", 0, false).category[KS_FILLER]);
    cr_expect_not(
        row_of("let\xe2\x80\x99s think", 0, true).category[KS_FILLER]);
}

Test(surface, relative_position) {
    for (int compat = 0; compat < 2; compat++) {
        ks_surface *s;
        ks_surface_row row;
        ks_err err = {0};
        cr_assert(ks_surface_open(&s, NULL, 0, 4, compat, &err) == KS_OK);
        for (int i = 0; i < 4; i++) {
            cr_assert(ks_surface_step(s, "x", 1, &row, &err) == KS_OK);
            double expected = compat ? i / 3.0 : (i + 1) / 4.0;
            cr_expect(fabs(row.relative_position - expected) < 1e-12);
            cr_expect(row.position == i);
        }
        cr_expect(ks_surface_step(s, "x", 1, &row, &err) == KS_MISMATCH);
        ks_surface_close(&s);
        cr_expect(row_of("x", 1, compat).relative_position == !compat);
    }
}

Test(surface, cosines) {
    json_t *root, *list = golden("surface", &root), *item;
    size_t i;
    json_array_foreach(list, i, item) {
        json_t *prompt = json_array_get(item, 0);
        json_t *chain = json_array_get(item, 1), *step;
        bool compat = json_is_true(json_array_get(item, 2));
        json_t *expected = json_array_get(item, 3);
        ks_surface *s;
        ks_surface_row row = {0};
        ks_err err = {0};
        cr_assert(ks_surface_open(&s, json_string_value(prompt),
                                  json_string_length(prompt), 0, compat,
                                  &err) == KS_OK);
        size_t k;
        json_array_foreach(chain, k, step) {
            cr_assert(ks_surface_step(s, json_string_value(step),
                                      json_string_length(step), &row,
                                      &err) == KS_OK);
        }
        double got[3] = {row.tfidf_mean_before, row.tfidf_max_before,
                         row.tfidf_prompt};
        for (size_t m = 0; m < 3; m++) {
            double e = json_number_value(json_array_get(expected, m));
            cr_expect(fabs(got[m] - e) <= 1e-10, "case %zu: %.15g, %.15g", i,
                      got[m], e);
        }
        ks_surface_close(&s);
    }
    json_decref(root);
}

Test(surface, refuses_bad_utf8) {
    ks_surface *s;
    ks_err err = {0};
    cr_expect(ks_surface_open(&s, "\xff", 1, 0, false, &err) == KS_FORMAT);
    cr_expect(s == NULL);
    cr_expect(strstr(err.text, "prompt: byte 0") != NULL, "%s", err.text);
    cr_assert(ks_surface_open(&s, NULL, 0, 0, false, &err) == KS_OK);
    cr_expect(ks_surface_step(s, "a\xff", 2, NULL, &err) == KS_FORMAT);
    ks_surface_close(&s);
    ks_surface_close(&s);
}
