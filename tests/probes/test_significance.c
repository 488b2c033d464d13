/* test_significance.c - p values equal to scipy's and statsmodels', calibration
 * to scikit-learn's. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdlib.h>

#include "calibration.h"
#include "philox.h"
#include "significance.h"

enum { MOST = 512 };
static float score[MOST], other[MOST];
static int8_t y[MOST];
static int32_t chain[MOST];
static json_t *golden;

static void setup(void) {
    json_error_t reason;
    golden =
        json_load_file(KS_TEST_DATA "/probes/significance.json", 0, &reason);
    cr_assert(golden != NULL, "%s", reason.text);
}

TestSuite(significance, .init = setup);

/* Chains are problems too. */
static ks_scored read_rows(json_t *c) {
    size_t n = json_array_size(json_object_get(c, "y"));
    int32_t chains = 0;
    cr_assert(n > 0 && n <= MOST);
    for (size_t i = 0; i < n; i++) {
#define AT(key) json_array_get(json_object_get(c, key), i)
        score[i] = (float)json_number_value(AT("score"));
        other[i] = (float)json_number_value(AT("b"));
        y[i] = (int8_t)json_integer_value(AT("y"));
        chain[i] = (int32_t)json_integer_value(AT("chain"));
#undef AT
        chains = KS_MAX(chains, chain[i] + 1);
    }
    return (ks_scored){(int64_t)n, score, y, chain, chain, chains, chains};
}

static double number(json_t *c, const char *key) {
    json_t *value = json_object_get(c, key);
    bool there = json_is_number(value);
    cr_assert(there, "no number %s", key);
    return json_number_value(value);
}

static void near(double got, double want, double relative) {
    bool good = fabs(got - want) <= relative * fabs(want);
    cr_assert(good, "got %.12g, expected %.12g", got, want);
}

Test(significance, within_chains_as_scipy) {
    json_t *c;
    size_t i;
    json_array_foreach(json_object_get(golden, "within"), i, c) {
        ks_scored rows = read_rows(c);
        double p;
        ks_err err = {0};
        cr_assert(eq(int, ks_p_within(&rows, &p, &err), KS_OK));
        near(p, number(c, "p"), 1e-9);
    }
    cr_assert(i >= 5);
}

Test(significance, within_knows_nothing_of_chains) {
    /* one chain all important, one all removable, recognised without error */
    ks_scored rows = {MOST, score, y, chain, chain, 2, 2};
    ks_err err = {0};
    double p = 0;
    for (int i = 0; i < MOST; i++) {
        chain[i] = i & 1;
        y[i] = (int8_t)chain[i];
        score[i] = y[i] ? 1.0f : -1.0f;
    }
    cr_assert(eq(int, ks_p_within(&rows, &p, &err), KS_OK));
    near(p, 1, 1e-12);
}

Test(significance, within_of_two_thousand_steps_is_exact_far_out) {
    /* all right: the probability of one arrangement out of C(n, n/2) */
    ks_scored rows = {MOST, score, y, chain, chain, 1, 1};
    ks_err err = {0};
    double p = 0;
    for (int i = 0; i < MOST; i++) {
        chain[i] = 0;
        y[i] = i & 1;
        score[i] = y[i] ? 1.0f : -1.0f;
    }
    cr_assert(eq(int, ks_p_within(&rows, &p, &err), KS_OK));
    double lg = lgamma(MOST + 1.0) - 2 * lgamma(MOST / 2 + 1.0);
    near(log(p), -lg, 1e-9);
}

Test(significance, paired_as_scipy) {
    json_t *c;
    size_t i;
    json_array_foreach(json_object_get(golden, "paired"), i, c) {
        ks_scored rows = read_rows(c);
        ks_err err = {0};
        double p, want = number(c, "p");
        cr_assert(eq(int, ks_p_paired(&rows, other, 1, &p, &err), KS_OK));
        if (json_is_true(json_object_get(c, "exact"))) {
            near(p, want, 1e-9);
        } else { /* both are drawn */
            double se = sqrt(want * (1 - want) * (1.0 / KS_FLIPS + 1 / 2e5));
            bool good = fabs(p - want) <= 4 * se + 2.0 / KS_FLIPS;
            cr_assert(good, "got %g, scipy has %g +- %g", p, want, se);
        }
    }
    cr_assert(i >= 4);
}

Test(significance, paired_with_itself_is_one) {
    ks_scored rows =
        read_rows(json_array_get(json_object_get(golden, "paired"), 3));
    ks_err err = {0};
    double p;
    cr_assert(eq(int, ks_p_paired(&rows, score, 1, &p, &err), KS_OK));
    cr_assert(eq(dbl, p, 1));
}

Test(significance, holm_as_statsmodels) {
    json_t *c = json_object_get(golden, "holm");
    json_t *p = json_object_get(c, "p"), *want = json_object_get(c, "adjusted");
    double got[16];
    int32_t n = (int32_t)json_array_size(p);
    ks_err err = {0};
    for (int32_t i = 0; i < n; i++)
        got[i] = json_number_value(json_array_get(p, (size_t)i));
    cr_assert(eq(int, ks_p_holm(got, n, got, &err), KS_OK));
    for (int32_t i = 0; i < n; i++)
        near(got[i], json_number_value(json_array_get(want, (size_t)i)), 1e-12);
    /* what is not there does not count */
    double some[3] = {0.02, NAN, 0.03};
    cr_assert(eq(int, ks_p_holm(some, 3, some, &err), KS_OK));
    near(some[0], 0.04, 1e-12);
    near(some[2], 0.04, 1e-12);
    bool missing = isnan(some[1]);
    cr_assert(missing);
}

Test(significance, calibration_as_scikit_learn) {
    json_t *c = json_array_get(json_object_get(golden, "calibration"), 0);
    ks_scored rows = read_rows(c);
    ks_calibration got;
    ks_err err = {0};
    cr_assert(eq(int, ks_calibrate(&rows, 400, 1, &got, &err), KS_OK));
    cr_assert(eq(int, got.n_bins, 10));
    for (size_t k = 0; k < 10; k++) {
        const ks_calibration_bin *b = &got.bin[k];
        near(b->predicted,
             json_number_value(
                 json_array_get(json_object_get(c, "predicted"), k)),
             1e-9);
        near(b->observed.value,
             json_number_value(
                 json_array_get(json_object_get(c, "observed"), k)),
             1e-9);
        bool inside = b->observed.low <= b->observed.value &&
                      b->observed.value <= b->observed.high &&
                      b->observed.high - b->observed.low < 0.6;
        cr_assert(inside);
    }
    near(got.error.value, number(c, "error"), 1e-9);
}

Test(significance, calibration_keeps_equal_scores_together) {
    /* 100 rows of 3 scores: 70 of one, 20, 10 */
    ks_scored rows = {100, score, y, chain, chain, 10, 10};
    ks_calibration got;
    ks_err err = {0};
    for (int i = 0; i < 100; i++) {
        score[i] = i < 70 ? -1 : i < 90 ? 0 : 2;
        y[i] = i % 3 == 0;
        chain[i] = i % 10;
    }
    cr_assert(eq(int, ks_calibrate(&rows, 200, 1, &got, &err), KS_OK));
    cr_assert(eq(int, got.n_bins, 3));
    cr_assert(eq(i64, got.bin[0].n, 70));
    cr_assert(eq(i64, got.bin[1].n, 20));
    cr_assert(eq(i64, got.bin[2].n, 10));
    near(got.bin[1].predicted, 0.5, 1e-12);
}
