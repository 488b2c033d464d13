/* test_graded.c - ridge regression against scikit-learn's, figures against
 * scipy's, and the graded rows of a label file with a planted score. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

#include "evaluation.h"
#include "fixture.h"
#include "graded.h"
#include "ridge.h"

static ks_err err;

/* False for NaN. */
static bool about(double got, double want, double tolerance) {
    return fabs(got - want) <= tolerance * (1 + fabs(want));
}

/* ------------------------------------------------------ scikit-learn, scipy */

enum { N = 120, D = 8, FOLDS = 4, CHAINS_OF = 30 };

static json_t *golden;
static float x[N * D];
static const ks_l2_source rows = {.n = N, .d = D, .type = KS_F32, .x = x};
static double y[2 * N];
static uint8_t fold[N];
static int32_t chain[N];

static double number(json_t *list, size_t i) {
    bool there = json_is_number(json_array_get(list, i));
    cr_assert(there, "place %zu", i);
    return json_number_value(json_array_get(list, i));
}

static double field(const char *key) {
    bool there = json_is_number(json_object_get(golden, key));
    cr_assert(there, "%s", key);
    return json_number_value(json_object_get(golden, key));
}

static void read_golden(void) {
    golden = json_load_file(KS_TEST_DATA "/probes/graded.json", 0, NULL);
    cr_assert(golden != NULL);
#define AT(key) number(json_object_get(golden, key), i)
    for (size_t i = 0; i < N; i++) {
        json_t *row = json_array_get(json_object_get(golden, "x"), i);
        for (size_t j = 0; j < D; j++) x[i * D + j] = (float)number(row, j);
        y[i] = AT("target");
        y[N + i] = AT("other");
        fold[i] = (uint8_t)AT("fold");
        chain[i] = (int32_t)AT("chain");
    }
#undef AT
}

static void drop_golden(void) {
    json_decref(golden);
}

TestSuite(ridge, .init = read_golden, .fini = drop_golden);

static ks_status read_rows(void *user, int64_t row, int64_t n, void *out,
                           ks_err *e) {
    (void)user, (void)e;
    memcpy(out, x + row * D, (size_t)(n * D) * sizeof *x);
    return KS_OK;
}

Test(ridge, as_scikit_learn) {
    const ks_folds folds = {N, FOLDS, 3, 1, fold};
    ks_ridge got = {0};
    cr_assert(
        eq(int, ks_ridge_fit(&got, &rows, y, 2, &folds, true, 2, &err), KS_OK),
        "%s", err.text);
    for (size_t t = 0; t < 2; t++) {
        json_t *want = json_array_get(json_object_get(golden, "fits"), t);
        for (size_t k = 0; k < FOLDS; k++) {
            cr_expect(about(got.strength[t * FOLDS + k],
                            number(json_object_get(want, "chosen"), k), 1e-9));
            cr_expect(about(got.loss[t * FOLDS + k],
                            number(json_object_get(want, "loss"), k), 1e-6));
        }
        for (size_t i = 0; i < N; i++)
            cr_expect(about((double)got.score[t * N + i],
                            number(json_object_get(want, "score"), i), 1e-6),
                      "target %zu row %zu", t, i);
    }
    ks_ridge again = {0};
    cr_assert(
        eq(int, ks_ridge_fit(&again, &rows, y, 2, &folds, false, 1, &err), 0));
    cr_expect(memcmp(got.score, again.score, 2 * N * sizeof(float)) == 0);
    ks_ridge_free(&again);
    /* rows that are read when they are needed */
    const ks_l2_source read = {
        .n = N, .d = D, .type = KS_F32, .read = read_rows};
    cr_assert(
        eq(int, ks_ridge_fit(&again, &read, y, 2, &folds, false, 2, &err), 0));
    cr_expect(memcmp(got.score, again.score, 2 * N * sizeof(float)) == 0);
    ks_ridge_free(&got);
    ks_ridge_free(&again);
}

/* What a fit says of its training rows comes from fits that never saw the row
 * nor the test rows: other targets there change nothing. */
Test(ridge, inner_predictions_know_nothing_of_test_rows) {
    const ks_folds folds = {N, FOLDS, 3, 1, fold};
    enum { TEST = 2 };
    ks_ridge a = {0}, b = {0};
    int changed = 0;
    cr_assert(eq(int, ks_ridge_fit(&a, &rows, y, 1, &folds, true, 2, &err), 0));
    for (size_t i = 0; i < N; i++)
        if (fold[i] == TEST) y[i] = 5 - 3 * y[i];
    cr_assert(eq(int, ks_ridge_fit(&b, &rows, y, 1, &folds, true, 2, &err), 0));
    for (size_t i = 0; i < N; i++) {
        size_t at = TEST * N + i;
        cr_assert(eq(flt, a.inner[at], b.inner[at]), "row %zu", i);
        if (fold[i] == TEST)
            cr_assert(eq(flt, a.inner[at], a.score[i]), "row %zu", i);
        changed += a.inner[i] != b.inner[i]; /* of fold 0: the others differ */
    }
    cr_expect(gt(int, changed, N / 2));
    ks_ridge_free(&a);
    ks_ridge_free(&b);
}

Test(ridge, odd_values_are_named) {
    const ks_folds folds = {N, FOLDS, 3, 1, fold};
    ks_ridge got = {0};
    x[17 * D + 5] = INFINITY;
    cr_assert(eq(int, ks_ridge_fit(&got, &rows, y, 1, &folds, false, 1, &err),
                 KS_NUMERIC));
    cr_expect(strstr(err.text, "row 17, feature 5") != NULL, "%s", err.text);
    cr_expect(got.score == NULL);
}

Test(ridge, figures_as_scipy) {
    const ks_dataset d = {.n = N,
                          .group = chain,
                          .chain = chain,
                          .n_groups = CHAINS_OF,
                          .n_chains = CHAINS_OF};
    const ks_grid_options o = {.bootstrap = 300, .seed = 1, .nest.threads = 2};
    ks_graded_figures got, again;
    json_t *fit = json_array_get(json_object_get(golden, "fits"), 0);
    float score[N];
    for (size_t i = 0; i < N; i++)
        score[i] = (float)number(json_object_get(fit, "score"), i);
    cr_assert(eq(int, ks__graded_measure(&got, &d, score, y, &o, &err), KS_OK),
              "%s", err.text);
    cr_expect(about(got.spearman.value, field("spearman"), 1e-12));
    cr_expect(about(got.within.value, field("within"), 1e-12));
    cr_expect(about(got.r2.value, field("r2"), 1e-9));
    cr_expect(got.spearman.low < got.spearman.value &&
              got.spearman.value < got.spearman.high);
    cr_expect(got.r2.low < got.r2.value && got.r2.value < got.r2.high);
    cr_expect(got.within.low < got.within.value &&
              got.within.value < got.within.high);
    ks_grid_options one = o;
    one.nest.threads = 1;
    cr_assert(eq(int, ks__graded_measure(&again, &d, score, y, &one, &err), 0));
    cr_expect(memcmp(&got, &again, sizeof got) == 0);
    /* a prediction that never changes has no rank */
    memset(score, 0, sizeof score);
    cr_assert(eq(int, ks__graded_measure(&got, &d, score, y, &o, &err), 0));
    cr_expect(isnan(got.spearman.value) && isnan(got.within.value));
}
