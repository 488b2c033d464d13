/* test_significance.c - p values equal to scipy's and statsmodels', calibration
 * to scikit-learn's. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdlib.h>

#include "calibration.h"
#include "philox.h"
#include "significance.h"

enum { MOST = 512 }; /* and the rows of noise */
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
        cr_assert(eq(int, ks_p_within(&rows, 1, &p, &err), KS_OK));
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
    cr_assert(eq(int, ks_p_within(&rows, 1, &p, &err), KS_OK));
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
    cr_assert(eq(int, ks_p_within(&rows, 1, &p, &err), KS_OK));
    double lg = lgamma(MOST + 1.0) - 2 * lgamma(MOST / 2 + 1.0);
    near(log(p), -lg, 1e-9);
}

Test(significance, within_of_many_chains) {
    /* 20,000 chains of 3 important and 3 other steps, 3 predicted; two of three
     * predictions right in 100 more chains than expected */
    enum { CHAINS = 20000, STEPS = 6 };
    ks_scored rows = {
        .n = CHAINS * STEPS, .n_groups = CHAINS, .n_chains = CHAINS};
    float *scores = calloc(CHAINS * STEPS, sizeof *scores);
    int8_t *labels = calloc(CHAINS * STEPS, 1);
    int32_t *of = calloc(CHAINS * STEPS, sizeof *of);
    cr_assert(scores && labels && of);
    for (int c = 0; c < CHAINS; c++)
        for (int k = 0; k < STEPS; k++) {
            int i = c * STEPS + k, right = c < CHAINS / 2 + 100 ? 2 : 1;
            of[i] = c;
            labels[i] = k < 3;
            scores[i] = k < right || k >= right + 3 ? 1.0f : -1.0f;
        }
    rows.score = scores, rows.y = labels, rows.chain = rows.group = of;
    ks_err err = {0};
    double p = 0, variance = CHAINS * 3 * .5 * .5 * 3 / (STEPS - 1);
    cr_assert(eq(int, ks_p_within(&rows, 1, &p, &err), KS_OK));
    near(p, 0.5 * erfc((100 - 0.5) / sqrt(2 * variance)), 1e-3);
    free(scores);
    free(labels);
    free(of);
}

Test(significance, paired_as_scipy) {
    json_t *c;
    size_t i;
    json_array_foreach(json_object_get(golden, "paired"), i, c) {
        ks_scored rows = read_rows(c);
        ks_err err = {0};
        double p, want = number(c, "p");
        cr_assert(eq(int, ks_p_paired(&rows, other, 1, 1, &p, &err), KS_OK));
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
    cr_assert(eq(int, ks_p_paired(&rows, score, 1, 1, &p, &err), KS_OK));
    cr_assert(eq(dbl, p, 1));
}

/* One chain of 12 with 6 important and 6 predicted, 5 of them both: 2 beyond
 * what is expected, so with four times the variance 1 beyond it counts. */
Test(significance, more_variance_is_less_far) {
    enum { N = 12 };
    const ks_scored rows = {N, score, y, chain, chain, 1, 1};
    ks_err err = {0};
    double p;
    for (int i = 0; i < N; i++) {
        chain[i] = 0;
        y[i] = i < 6;
        score[i] = i < 5 || i == 6 ? 1.0f : -1.0f;
    }
    cr_assert(eq(int, ks_p_within(&rows, 1, &p, &err), KS_OK));
    near(p, (6 * 6 + 1) / 924.0, 1e-12);
    cr_assert(eq(int, ks_p_within(&rows, 4, &p, &err), KS_OK));
    near(p, (15 * 15 + 6 * 6 + 1) / 924.0, 1e-12);
}

/* Noise and labels that it does not tell, cross-validated with the difference
 * of the class means: p is below 5% in no more than 5% of trials, and would be
 * in too many if predictions were taken as given. */
enum { TRIALS = 400, PROBLEMS = 60, EACH = 8, WIDE = 16, FOLDS = 5 };
enum { NOISE_ROWS = PROBLEMS * EACH };

static double noise(uint64_t trial, uint64_t place) {
    const uint64_t key[2] = {trial, 0x6e6f697365};
    uint32_t word[4];
    ks_philox(key, place, word);
    return (double)ks_philox_unit(word[0]) - 0.5;
}

/* Scores of the first `wide` features. */
static void cross_validate(double (*x)[WIDE], int wide, float *out) {
    for (int f = 0; f < FOLDS; f++) {
        double mean[2][WIDE] = {{0}}, n[2] = {0, 0};
        for (int i = 0; i < NOISE_ROWS; i++) {
            if (chain[i] % FOLDS == f) continue;
            n[y[i]]++;
            for (int j = 0; j < wide; j++) mean[y[i]][j] += x[i][j];
        }
        for (int i = 0; i < NOISE_ROWS; i++) {
            double z = 0;
            if (chain[i] % FOLDS != f) continue;
            for (int j = 0; j < wide; j++) {
                double a = mean[0][j] / n[0], b = mean[1][j] / n[1];
                z += (b - a) * (x[i][j] - (a + b) / 2);
            }
            out[i] = (float)z;
        }
    }
}

Test(significance, cross_validated_noise_is_no_finding) {
    static double x[NOISE_ROWS][WIDE], less[NOISE_ROWS][WIDE];
    const ks_scored rows = {NOISE_ROWS, score,    y,       chain,
                            chain,      PROBLEMS, PROBLEMS};
    ks_err err = {0};
    int plain[2] = {0, 0}, told[2] = {0, 0};
    for (uint64_t t = 0; t < TRIALS; t++) {
        double p[2][2];
        for (uint64_t i = 0; i < NOISE_ROWS; i++) {
            chain[i] = (int32_t)(i / EACH);
            y[i] = noise(t, i << 8 | 64) < -0.1;
            for (uint64_t j = 0; j < WIDE; j++) {
                x[i][j] = noise(t, i << 8 | j);
                less[i][j] = noise(t, i << 8 | 32 | j);
            }
        }
        cross_validate(x, WIDE, score);
        cross_validate(less, 2, other);
        for (int v = 0; v < 2; v++) {
            double variance = v ? KS_CROSS_VALIDATED : 1;
            cr_assert(
                eq(int, ks_p_within(&rows, variance, &p[0][v], &err), KS_OK));
            cr_assert(eq(int,
                         ks_p_paired(&rows, other, variance, t, &p[1][v], &err),
                         KS_OK));
        }
        for (int k = 0; k < 2; k++) {
            plain[k] += p[k][0] < 0.05;
            told[k] += p[k][1] < 0.05;
        }
    }
    for (int k = 0; k < 2; k++) {
        fprintf(stderr, "p below 5%%: %d, and as given %d of %d\n", told[k],
                plain[k], TRIALS);
        cr_expect(le(int, told[k], TRIALS / 20));
        cr_expect(gt(int, plain[k], TRIALS / 20 + 8));
    }
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
