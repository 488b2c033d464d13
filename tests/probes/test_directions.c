/* test_directions.c - mean differences and shrunk discriminants against numpy
 * and scikit-learn, nested choice included, and on a planted layer. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

#include "directions.h"
#include "evaluation.h"
#include "fixture.h"

static ks_err err;

/* False for NaN. */
static bool about(double got, double want, double tolerance) {
    return fabs(got - want) <= tolerance * (1 + fabs(want));
}

enum { N = 110, D = 9, FOLDS = 5, SEEDS = 2, CONSTANT = 3 };
static const double TOLERANCE = 1e-5; /* scores and weights are f32 */

static json_t *golden;
static float x[N * D];
static const ks_l2_source rows = {.n = N, .d = D, .type = KS_F32, .x = x};
static int8_t y[N];
static uint8_t fold[SEEDS * N];
static const ks_folds folds = {N, FOLDS, 2, SEEDS, fold};

static double number(json_t *list, size_t i) {
    bool there = json_is_number(json_array_get(list, i));
    cr_assert(there, "place %zu", i);
    return json_number_value(json_array_get(list, i));
}

static void read_golden(void) {
    golden = json_load_file(KS_TEST_DATA "/probes/directions.json", 0, NULL);
    cr_assert(golden != NULL);
    for (size_t i = 0; i < N; i++) {
        json_t *row = json_array_get(json_object_get(golden, "x"), i);
        for (size_t j = 0; j < D; j++) x[i * D + j] = (float)number(row, j);
        y[i] = (int8_t)number(json_object_get(golden, "y"), i);
        for (size_t s = 0; s < SEEDS; s++)
            fold[s * N + i] = (uint8_t)number(
                json_array_get(json_object_get(golden, "folds"), s), i);
    }
}

static void drop_golden(void) {
    json_decref(golden);
}

TestSuite(directions, .init = read_golden, .fini = drop_golden);

static void expect_nest(const ks_nest *got, const char *name, bool chooses) {
    for (size_t s = 0; s < SEEDS; s++) {
        json_t *want = json_array_get(json_object_get(golden, name), s);
        for (size_t i = 0; i < N; i++)
            cr_expect(about((double)got->score[s * N + i],
                            number(json_object_get(want, "score"), i),
                            TOLERANCE),
                      "%s seed %zu row %zu", name, s, i);
        for (size_t k = 0; k < FOLDS; k++) {
            size_t fit = s * FOLDS + k;
            json_t *weight = json_array_get(json_object_get(want, "weight"), k);
            cr_expect(about(got->loss[fit],
                            number(json_object_get(want, "loss"), k), 1e-6),
                      "%s fit %zu: loss %g", name, fit, got->loss[fit]);
            if (chooses)
                cr_expect(eq(dbl, got->strength[fit],
                             number(json_object_get(want, "chosen"), k)));
            for (size_t j = 0; j < D; j++)
                cr_expect(about((double)got->weight[fit * D + j],
                                number(weight, j), TOLERANCE),
                          "%s fit %zu feature %zu", name, fit, j);
        }
    }
}

Test(directions, as_numpy_and_scikit_learn) {
    ks_nest got[KS_N_DIRECTIONS] = {{0}};
    cr_assert(
        eq(int, ks_directions_fit(got, &rows, y, &folds, true, 2, &err), KS_OK),
        "%s", err.text);
    expect_nest(&got[KS_MEAN_DIFFERENCE], "mean_difference", false);
    expect_nest(&got[KS_LDA], "lda", true);
    /* weights, bias, mean and scale say what the scores say */
    for (int k = 0; k < KS_N_DIRECTIONS; k++) {
        const ks_nest *n = &got[k];
        for (int i = 0; i < N; i++) {
            int f = fold[i];
            double z = (double)n->bias[f];
            for (int j = 0; j < D; j++)
                z += (double)n->weight[f * D + j] *
                     ((double)x[i * D + j] - (double)n->mean[f * D + j]) /
                     (double)n->scale[f * D + j];
            cr_expect(about(z, (double)n->score[i], 1e-4), "row %d", i);
        }
        cr_expect(eq(flt, n->scale[CONSTANT], 1));
        ks_nest_free(&got[k]);
    }
}

static ks_status read_rows(void *user, int64_t row, int64_t n, void *out,
                           ks_err *e) {
    (void)user, (void)e;
    memcpy(out, x + row * D, (size_t)(n * D) * sizeof *x);
    return KS_OK;
}

/* Nor on whether rows lie in memory. */
Test(directions, bits_do_not_depend_on_threads) {
    ks_nest one[KS_N_DIRECTIONS] = {{0}}, two[KS_N_DIRECTIONS] = {{0}};
    const ks_l2_source read = {
        .n = N, .d = D, .type = KS_F32, .read = read_rows};
    cr_assert(
        eq(int, ks_directions_fit(one, &rows, y, &folds, true, 1, &err), 0));
    cr_assert(
        eq(int, ks_directions_fit(two, &read, y, &folds, true, 2, &err), 0));
    for (int k = 0; k < KS_N_DIRECTIONS; k++) {
        cr_expect(
            memcmp(one[k].score, two[k].score, SEEDS * N * sizeof(float)) == 0);
        ks_nest_free(&one[k]);
        ks_nest_free(&two[k]);
    }
}

/* The embedding of a full stop, say: no direction, no opinion. */
Test(directions, rows_that_do_not_vary_say_nothing) {
    static float flat[N * D];
    const ks_l2_source same = {.n = N, .d = D, .type = KS_F32, .x = flat};
    ks_nest got[KS_N_DIRECTIONS] = {{0}};
    cr_assert(
        eq(int, ks_directions_fit(got, &same, y, &folds, true, 1, &err), 0));
    for (int k = 0; k < KS_N_DIRECTIONS; k++) {
        for (int i = 0; i < SEEDS * N; i++)
            cr_expect(eq(flt, got[k].score[i], 0));
        cr_expect(about(got[k].loss[0], log(2), 1e-9));
        ks_nest_free(&got[k]);
    }
}

Test(directions, odd_values_are_named) {
    ks_nest got[KS_N_DIRECTIONS] = {{0}};
    x[12 * D + 4] = NAN;
    ks_status st = ks_directions_fit(got, &rows, y, &folds, false, 1, &err);
    cr_assert(eq(int, st, KS_NUMERIC));
    cr_expect(strstr(err.text, "row 12, feature 4") != NULL, "%s", err.text);
    cr_expect(got[0].score == NULL && got[1].score == NULL);
}
