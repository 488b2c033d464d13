/* test_removed.c - features taken out of activations and correlations with
 * them: equal to scikit-learn's and scipy's (tests/golden/make_removed.py), and
 * what they say where the truth was planted. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compare.h"
#include "correlate.h"
#include "philox.h"
#include "removed.h"
#include "stats.h"

enum { FOLDS = 5 };
static const double strengths[] = {1e-3, 1e-2, 1e-1, 1};

static ks_err err;

/* ------------------------------------------------------------------- golden */

typedef struct data {
    int64_t n, d;
    int32_t k, n_groups;
    float *x, *z;
    int8_t *y;
    uint8_t *fold;
    int32_t *group;
    json_t *all;
} data;

static json_t *list_of(const data *g, const char *key, size_t want) {
    json_t *list = json_object_get(g->all, key);
    cr_assert(eq(sz, json_array_size(list), want), "%s", key);
    return list;
}

static double *numbers(const data *g, const char *key, size_t want) {
    json_t *list = list_of(g, key, want);
    double *out = calloc(want, sizeof *out);
    for (size_t i = 0; i < want; i++)
        out[i] = json_number_value(json_array_get(list, i));
    return out;
}

static float *floats(const data *g, const char *key, size_t want) {
    double *wide = numbers(g, key, want);
    float *out = calloc(want, sizeof *out);
    for (size_t i = 0; i < want; i++) out[i] = (float)wide[i];
    free(wide);
    return out;
}

static data read_golden(void) {
    json_error_t reason;
    data g = {
        .all = json_load_file(KS_TEST_DATA "/probes/removed.json", 0, &reason)};
    cr_assert(g.all != NULL, "%s", reason.text);
    g.n = json_integer_value(json_object_get(g.all, "n"));
    g.d = json_integer_value(json_object_get(g.all, "d"));
    g.k = (int32_t)json_integer_value(json_object_get(g.all, "k"));
    g.x = floats(&g, "x", (size_t)(g.n * g.d));
    g.z = floats(&g, "z", (size_t)(g.n * g.k));
    double *y = numbers(&g, "y", (size_t)g.n);
    double *fold = numbers(&g, "fold", (size_t)g.n);
    double *group = numbers(&g, "group", (size_t)g.n);
    g.y = calloc((size_t)g.n, 1);
    g.fold = calloc((size_t)g.n, 1);
    g.group = calloc((size_t)g.n, sizeof *g.group);
    for (int64_t i = 0; i < g.n; i++) {
        g.y[i] = (int8_t)y[i];
        g.fold[i] = (uint8_t)fold[i];
        g.group[i] = (int32_t)group[i];
        if (g.group[i] >= g.n_groups) g.n_groups = g.group[i] + 1;
    }
    free(y);
    free(fold);
    free(group);
    return g;
}

static void free_golden(data *g) {
    json_decref(g->all);
    free(g->x);
    free(g->z);
    free(g->y);
    free(g->fold);
    free(g->group);
}

static ks_l2_source rows_of(const data *g) {
    return (ks_l2_source){.n = g->n, .d = g->d, .type = KS_F32, .x = g->x};
}

Test(removed, residuals_equal_scikit_learn) {
    data g = read_golden();
    const ks_l2_source rows = rows_of(&g);
    size_t size = (size_t)(g.n * g.d);
    float *left = calloc(size, sizeof *left),
          *again = calloc(size, sizeof *again);
    double *want = numbers(&g, "left", size);
    cr_assert(
        eq(int,
           ks_removed_residual(&rows, g.z, g.k, g.fold, 1u << 1, 1, left, &err),
           KS_OK),
        "%s", err.text);
    cr_expect(close_f32("residuals", left, want, size, 2e-6, 2e-6));
    cr_assert(eq(
        int,
        ks_removed_residual(&rows, g.z, g.k, g.fold, 1u << 1, 3, again, &err),
        KS_OK));
    cr_expect(memcmp(left, again, size * sizeof *left) == 0);
    free(left);
    free(again);
    free(want);
    free_golden(&g);
}

static void fit(const data *g, float *score, bool removed) {
    ks_folds folds = {g->n, FOLDS, FOLDS - 1, 1, g->fold};
    ks_nest_options options = {.n_strengths = (int32_t)KS_COUNT(strengths),
                               .strengths = strengths,
                               .threads = 2};
    int32_t fits = 0, unconverged = 0;
    const int8_t *y = g->y;
    const ks_l2_source rows = rows_of(g);
    ks_nest nest;
    if (removed) {
        cr_assert(eq(int,
                     ks_removed_fit(&rows, g->z, g->k, g->y, &folds, NULL,
                                    &options, score, &fits, &unconverged, &err),
                     KS_OK),
                  "%s", err.text);
        /* each outer fold alone: its inner parts and its refit */
        cr_expect(eq(i32, fits, FOLDS * ((FOLDS - 1) * 4 + 1)));
        cr_expect(eq(i32, unconverged, 0));
        return;
    }
    cr_assert(eq(int,
                 ks_nest_fit(&nest, g->x, g->d, &y, &folds, &options, &err),
                 KS_OK),
              "%s", err.text);
    memcpy(score, nest.score, sizeof *score * (size_t)g->n);
    ks_nest_free(&nest);
}

Test(removed, scores_equal_scikit_learn) {
    data g = read_golden();
    float *score = calloc((size_t)g.n, sizeof *score);
    double *want = numbers(&g, "score", (size_t)g.n);
    fit(&g, score, true);
    cr_expect(close_f32("scores", score, want, (size_t)g.n, 1e-4, 1e-4));
    free(score);
    free(want);
    free_golden(&g);
}

/* ------------------------------------------------------------- correlations */

Test(correlate, equals_scipy_and_a_plain_redraw) {
    enum { DRAWS = 100, SEED = 5 };
    data g = read_golden();
    int32_t d = (int32_t)g.d;
    double *x = calloc((size_t)(g.n * d), sizeof *x);
    double *score = numbers(&g, "score", (size_t)g.n);
    double *t = calloc((size_t)g.n * 2, sizeof *t);
    double *weight = calloc((size_t)g.n_groups, sizeof *weight);
    ks_interval *r = calloc((size_t)d * 2, sizeof *r);
    json_t *want = list_of(&g, "r", (size_t)d);
    for (int64_t i = 0; i < g.n * d; i++) x[i] = (double)g.x[i];
    for (int64_t i = 0; i < g.n; i++) {
        t[2 * i] = g.y[i];
        t[2 * i + 1] = score[i];
    }
    cr_assert(eq(int,
                 ks_correlate(x, d, t, 2, g.n, g.group, g.n_groups, DRAWS, SEED,
                              r, &err),
                 KS_OK),
              "%s", err.text);
    for (int32_t j = 0; j < d; j++)
        for (int k = 0; k < 2; k++)
            cr_expect(
                epsilon_eq(dbl, r[2 * j + k].value,
                           json_number_value(json_array_get(
                               json_array_get(want, (size_t)j), (size_t)k)),
                           1e-10));
    /* column 2 with the labels, rows written out as often as they are drawn */
    double draws[DRAWS], *column = calloc(64 * (size_t)g.n, sizeof *column);
    int8_t *y = calloc(64 * (size_t)g.n, 1);
    for (int b = 0; b < DRAWS; b++) {
        int64_t m = 0;
        ks__stats_draw(SEED, (uint64_t)b, g.n_groups, weight);
        for (int64_t i = 0; i < g.n; i++)
            for (int c = 0; c < (int)weight[g.group[i]]; c++) {
                column[m] = x[i * d + 2];
                y[m++] = g.y[i];
            }
        draws[b] = ks_stats_correlation(column, y, m);
    }
    ks_interval plain = ks__stats_interval(0, draws, DRAWS);
    cr_expect(epsilon_eq(dbl, r[4].low, plain.low, 1e-10));
    cr_expect(epsilon_eq(dbl, r[4].high, plain.high, 1e-10));
    free(x);
    free(score);
    free(t);
    free(weight);
    free(r);
    free(column);
    free(y);
    free_golden(&g);
}

/* A constant column has none; one that is constant in some draws has an
 * interval from the others. */
Test(correlate, constants) {
    enum { N = 12, DRAWS = 400 };
    double x[N * 2], t[N];
    int32_t group[N];
    ks_interval r[2];
    for (int i = 0; i < N; i++) {
        x[2 * i] = 0.1;
        x[2 * i + 1] = i == 0; /* constant where problem 0 is not drawn */
        t[i] = i % 3;
        group[i] = i / 2;
    }
    cr_assert(eq(int,
                 ks_correlate(x, 2, t, 1, N, group, N / 2, DRAWS, 1, r, &err),
                 KS_OK));
    cr_expect(isnan(r[0].value) && isnan(r[0].low) && isnan(r[0].high));
    cr_expect(r[1].low > -1 && r[1].low < r[1].value && r[1].high <= 1);
}

/* ------------------------------------------------------------------ planted */

enum { N = 900, WIDTH = 8, FEATURES = 2 };

/* Noise of unit variance, one stream a variable. */
static float noise(uint64_t stream, int64_t place) {
    uint64_t key[2] = {23, stream};
    uint32_t word[4];
    ks_philox(key, (uint64_t)place, word);
    return 3.4641f * (ks_philox_unit(word[0]) - 0.5f);
}

/* Activations that hold the surface, and apart from it the label; the label is
 * what feature 0 says, or a coin. */
static data planted(bool surface) {
    data g = {.n = N, .d = WIDTH, .k = FEATURES, .n_groups = N / 10};
    g.x = calloc(N * WIDTH, sizeof *g.x);
    g.z = calloc(N * FEATURES, sizeof *g.z);
    g.y = calloc(N, 1);
    g.fold = calloc(N, 1);
    g.group = calloc(N, sizeof *g.group);
    for (int64_t i = 0; i < N; i++) {
        for (int f = 0; f < FEATURES; f++)
            g.z[i * FEATURES + f] = noise(1, i * FEATURES + f);
        g.y[i] = surface ? g.z[i * FEATURES] > 0 : noise(2, i) > 0;
        g.group[i] = (int32_t)(i / 10);
        g.fold[i] = (uint8_t)(g.group[i] % FOLDS);
        for (int j = 0; j < WIDTH; j++)
            g.x[i * WIDTH + j] = noise(3, i * WIDTH + j);
        g.x[i * WIDTH + 1] += 4 * g.z[i * FEATURES];
        g.x[i * WIDTH + 2] -= 2 * g.z[i * FEATURES + 1];
        if (!surface) g.x[i * WIDTH + 3] += g.y[i] ? 1.5f : -1.5f;
    }
    return g;
}

static double balanced(const data *g, const float *score) {
    double metrics[KS_N_METRICS];
    ks_scored rows = {g->n,     score,       g->y,       g->group,
                      g->group, g->n_groups, g->n_groups};
    cr_assert(eq(int, ks_stats_metrics(&rows, metrics, &err), KS_OK));
    return metrics[KS_BALANCED_ACCURACY];
}

Test(removed, a_label_that_is_surface_falls_to_chance) {
    static float score[N];
    data g = planted(true);
    fit(&g, score, false);
    cr_expect(gt(dbl, balanced(&g, score), 0.85));
    fit(&g, score, true);
    double b = balanced(&g, score);
    cr_expect(b > 0.44 && b < 0.56, "%g", b);
    free_golden(&g);
}

Test(removed, a_label_beside_the_surface_stays) {
    static float score[N], whole[N];
    data g = planted(false);
    fit(&g, whole, false);
    fit(&g, score, true);
    double a = balanced(&g, whole), b = balanced(&g, score);
    cr_expect(gt(dbl, a, 0.85));
    cr_expect(fabs(a - b) < 0.01, "%g and %g", a, b);
    free_golden(&g);
}

/* The rows of the held-out fold have no part in the coefficients: another
 * activation there moves no other row. */
Test(removed, test_rows_decide_nothing) {
    static float a[N * WIDTH], b[N * WIDTH];
    data g = planted(false);
    const ks_l2_source rows = rows_of(&g);
    cr_assert(eq(
        int,
        ks_removed_residual(&rows, g.z, FEATURES, g.fold, 1u << 2, 2, a, &err),
        KS_OK));
    for (int64_t i = 0; i < N; i++)
        if (g.fold[i] == 2) {
            g.x[i * WIDTH] += 100;
            g.z[i * FEATURES] -= 50;
        }
    cr_assert(eq(
        int,
        ks_removed_residual(&rows, g.z, FEATURES, g.fold, 1u << 2, 2, b, &err),
        KS_OK));
    for (int64_t i = 0; i < N; i++) {
        bool same =
            memcmp(a + i * WIDTH, b + i * WIDTH, sizeof(float) * WIDTH) == 0;
        cr_assert(eq(int, same, g.fold[i] != 2));
    }
    free_golden(&g);
}
