/* test_l1.c - L1-regularised fits against scikit-learn's, the optimality
 * conditions worked out again, and a path over data of 200 features of which
 * three tell. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

#include "l1.h"
#include "philox.h"
#include "sparse.h"

static ks_err err;

/* False for NaN. */
static bool about(double got, double want, double tolerance) {
    return fabs(got - want) <= tolerance * (1 + fabs(want));
}

static float draw(uint64_t stream, uint64_t place) {
    const uint64_t key[2] = {77, stream};
    uint32_t word[4];
    ks_philox(key, place, word);
    return 3.4641f * (ks_philox_unit(word[0]) - 0.5f);
}

/* ------------------------------------------------------------- scikit-learn */

enum { N = 150, D = 14, FOLDS = 3, FITS = 15 };

static json_t *golden;
static float x[N * D];
static int8_t y[N];
static uint8_t fold[N];

static double number(json_t *list, size_t i) {
    bool there = json_is_number(json_array_get(list, i));
    cr_assert(there, "place %zu", i);
    return json_number_value(json_array_get(list, i));
}

static double field(json_t *object, const char *key) {
    bool there = json_is_number(json_object_get(object, key));
    cr_assert(there, "%s", key);
    return json_number_value(json_object_get(object, key));
}

static void read_golden(void) {
    golden = json_load_file(KS_TEST_DATA "/probes/l1.json", 0, NULL);
    cr_assert(golden != NULL);
    for (size_t i = 0; i < N; i++) {
        json_t *row = json_array_get(json_object_get(golden, "x"), i);
        for (size_t j = 0; j < D; j++) x[i * D + j] = (float)number(row, j);
        y[i] = (int8_t)number(json_object_get(golden, "y"), i);
        fold[i] = (uint8_t)(i % FOLDS);
    }
}

static void drop_golden(void) {
    json_decref(golden);
}

TestSuite(l1, .init = read_golden, .fini = drop_golden);

typedef struct fits {
    ks_l1_column column[FITS];
    double weight[FITS][D + 1];
    float margin[FITS][N];
} fits;

static void solve(fits *all, int threads, double tolerance) {
    const ks_l2_design design = {y, fold};
    ks_l2 *l2 = NULL;
    memset(all, 0, sizeof *all);
    for (size_t k = 0; k < FITS; k++) {
        json_t *fit = json_array_get(json_object_get(golden, "fits"), k);
        all->column[k] = (ks_l1_column){.hold = 1u << (int)field(fit, "fold"),
                                        .ratio = field(fit, "ratio"),
                                        .weight = all->weight[k],
                                        .margin = all->margin[k]};
    }
    cr_assert(
        eq(int, ks_l2_open(&l2, x, N, D, &design, 1, threads, &err), KS_OK),
        "%s", err.text);
    cr_assert(
        eq(int, ks_l1_fit(l2, all->column, FITS, tolerance, 500, &err), KS_OK),
        "%s", err.text);
    ks_l2_close(&l2);
}

Test(l1, as_scikit_learn) {
    static fits all;
    solve(&all, 2, 1e-8);
    for (size_t k = 0; k < FITS; k++) {
        const ks_l1_column *c = &all.column[k];
        json_t *fit = json_array_get(json_object_get(golden, "fits"), k);
        int32_t dimensions = 0;
        size_t held = 0;
        cr_expect(c->converged, "fit %zu: missed by %g after %d passes", k,
                  c->optimality, c->passes);
        /* steps are as good as Newton's, or the lasso is solved badly */
        cr_expect(le(int, c->passes, 80), "fit %zu", k);
        cr_expect(about(c->lambda, field(fit, "lambda"), 1e-9));
        for (size_t j = 0; j < D; j++) {
            double want = number(json_object_get(fit, "weight"), j);
            dimensions += want != 0;
            cr_expect(about(c->weight[j], want, 2e-5),
                      "fit %zu feature %zu: %g, scikit-learn has %g", k, j,
                      c->weight[j], want);
        }
        cr_expect(eq(int, c->dimensions, dimensions), "fit %zu", k);
        cr_expect(about(c->weight[D], field(fit, "bias"), 2e-5));
        for (size_t i = 0; i < N; i++)
            if (c->hold >> fold[i] & 1)
                cr_expect(about((double)c->margin[i],
                                number(json_object_get(fit, "margin"), held++),
                                1e-4),
                          "fit %zu row %zu", k, i);
    }
}

/* The conditions of a column on rows [n, d], from weights alone; returns its
 * objective. */
static double expect_conditions(const float *at, int n, int d,
                                const int8_t *label, const uint8_t *of,
                                const ks_l1_column *c, const char *name) {
    double count[2] = {0}, objective = 0;
    double *mean = calloc(3 * (size_t)d + 1, sizeof *mean);
    double *scale = mean + d, *g = scale + d;
    for (int i = 0; i < n; i++)
        if (!(c->hold >> of[i] & 1)) count[label[i]]++;
    for (int j = 0; j < d; j++) {
        double all = count[0] + count[1];
        for (int i = 0; i < n; i++)
            if (!(c->hold >> of[i] & 1)) mean[j] += (double)at[i * d + j] / all;
        for (int i = 0; i < n; i++)
            if (!(c->hold >> of[i] & 1))
                scale[j] += pow((double)at[i * d + j] - mean[j], 2) / all;
        scale[j] = scale[j] > 0 ? sqrt(scale[j]) : 1;
    }
    for (int i = 0; i < n; i++) {
        if (c->hold >> of[i] & 1) continue;
        double z = c->weight[d], weight = 0.5 / count[label[i]];
        for (int j = 0; j < d; j++)
            z += c->weight[j] * ((double)at[i * d + j] - mean[j]) / scale[j];
        double r = weight * (1 / (1 + exp(-z)) - label[i]);
        objective += weight * log1p(exp(label[i] ? -z : z));
        g[d] += r;
        for (int j = 0; j < d; j++)
            g[j] += r * ((double)at[i * d + j] - mean[j]) / scale[j];
    }
    for (int j = 0; j < d; j++) {
        double w = c->weight[j];
        objective += c->lambda * fabs(w);
        cr_expect(le(dbl,
                     w != 0 ? fabs(g[j] + copysign(c->lambda, w))
                            : fabs(g[j]) - c->lambda,
                     3e-8),
                  "%s, ratio %g, feature %d", name, c->ratio, j);
    }
    cr_expect(le(dbl, fabs(g[d]), 3e-8));
    free(mean);
    return objective;
}

Test(l1, meets_the_conditions) {
    static fits all;
    solve(&all, 2, 1e-8);
    for (size_t k = 0; k < FITS; k++) {
        double objective =
            expect_conditions(x, N, D, y, fold, &all.column[k], "golden");
        json_t *fit = json_array_get(json_object_get(golden, "fits"), k);
        cr_expect(about(objective, field(fit, "objective"), 1e-9));
    }
}

Test(l1, bits_do_not_depend_on_threads) {
    static fits one, two;
    solve(&one, 1, 1e-7);
    solve(&two, 2, 1e-7);
    cr_expect(memcmp(one.weight, two.weight, sizeof one.weight) == 0);
    cr_expect(memcmp(one.margin, two.margin, sizeof one.margin) == 0);
}

/* Rows in memory of the backend's own, none on the host: the same bits. */
Test(l1, reads_rows_by_the_ops_alone) {
    static fits here;
    static float margin[FITS][N];
    const ks_l2_design design = {y, fold};
    const struct ks_ops *cpu = NULL;
    ks_dev *dev = NULL;
    ks_l2 *l2 = NULL;
    ks_l1_column columns[FITS];
    solve(&here, 2, 1e-7);
    cr_assert(eq(int, ks_dev_open(&dev, &cpu, "cpu", 2, NULL, &err), KS_OK));
    struct ks_ops apart = *cpu;
    apart.unified = false;
    cr_assert(eq(int,
                 ks_l2_open_on(&l2, &apart, dev, x, N, D, &design, 1, 2, &err),
                 KS_OK));
    for (size_t k = 0; k < FITS; k++)
        columns[k] = (ks_l1_column){.hold = here.column[k].hold,
                                    .ratio = here.column[k].ratio,
                                    .margin = margin[k]};
    cr_assert(eq(int, ks_l1_fit(l2, columns, FITS, 1e-7, 500, &err), KS_OK));
    cr_expect(memcmp(margin, here.margin, sizeof margin) == 0);
    ks_l2_close(&l2);
    ks_dev_close(&dev, cpu);
}

Test(l1, few_passes_are_told) {
    const ks_l2_design design = {y, fold};
    ks_l2 *l2 = NULL;
    float margin[N] = {0};
    ks_l1_column column = {.hold = 1, .ratio = 0.01, .margin = margin};
    cr_assert(eq(int, ks_l2_open(&l2, x, N, D, &design, 1, 1, &err), KS_OK));
    cr_assert(eq(int, ks_l1_fit(l2, &column, 1, 1e-12, 1, &err), KS_OK));
    cr_expect(not(column.converged));
    cr_expect(gt(dbl, column.optimality, 1e-12));
    column.ratio = 0;
    cr_expect(eq(int, ks_l1_fit(l2, &column, 1, 1e-6, 9, &err), KS_USAGE));
    ks_l2_close(&l2);
}

/* ------------------------------------------------------------------ planted */

enum { WIDE = 200, MANY = 600, MOST_READS = 30 };

Test(l1, finds_the_three_that_tell) {
    static float wide[MANY * WIDE];
    static int8_t label[MANY];
    static uint8_t of[MANY];
    double weight[WIDE + 1];
    for (int i = 0; i < MANY; i++) {
        for (int j = 0; j < WIDE; j++)
            wide[i * WIDE + j] =
                draw(1, (uint64_t)(i * WIDE + j)) + 0.5f * draw(2, (uint64_t)i);
        const float *row = wide + i * WIDE;
        label[i] =
            row[7] - row[70] + row[133] + 0.3f * draw(3, (uint64_t)i) > 0.2f;
        of[i] = (uint8_t)(i % 2);
    }
    const ks_l2_design design = {label, of};
    ks_l2 *l2 = NULL;
    ks_l1_column c = {.hold = 1, .ratio = 0.5, .weight = weight};
    cr_assert(
        eq(int, ks_l2_open(&l2, wide, MANY, WIDE, &design, 1, 2, &err), KS_OK));
    cr_assert(eq(int, ks_l1_fit(l2, &c, 1, 1e-7, 500, &err), KS_OK));
    cr_expect(c.converged);
    cr_expect(eq(int, c.dimensions, 3));
    cr_expect(weight[7] > 0 && weight[70] < 0 && weight[133] > 0);
    c.ratio = 1.001;
    cr_assert(eq(int, ks_l1_fit(l2, &c, 1, 1e-7, 500, &err), KS_OK));
    cr_expect(eq(int, c.dimensions, 0));
    ks_l2_close(&l2);
}

/* The path under nested choice: three dimensions are enough, and are known to
 * be. */
Test(l1, path_says_how_few_dimensions_are_needed) {
    static float wide[MANY * WIDE];
    static int8_t label[MANY];
    static uint8_t of[MANY];
    static int32_t group[MANY];
    ks_sparse_path path = {0};
    ks_sparse got = {0};
    for (int i = 0; i < MANY; i++) {
        for (int j = 0; j < WIDE; j++)
            wide[i * WIDE + j] = draw(4, (uint64_t)(i * WIDE + j));
        float *row = wide + i * WIDE;
        label[i] = draw(5, (uint64_t)i) > 0;
        for (int j = 0; j < 3; j++) row[40 * j + 7] += label[i] ? 0.8f : -0.8f;
        group[i] = i / 4;
        of[i] = (uint8_t)(group[i] % 5);
    }
    const ks_folds folds = {MANY, 5, 4, 1, of};
    const ks_nest_options nest = {.threads = 2};
    const ks_l2_source source = {
        .n = MANY, .d = WIDE, .type = KS_F32, .x = wide};
    const ks_grid_options grid = {.bootstrap = 500, .seed = 1};
    const ks_dataset d = {.n = MANY,
                          .y = label,
                          .group = group,
                          .chain = group,
                          .n_groups = MANY / 4,
                          .n_chains = MANY / 4};
    const ks_analysis_input in = {&d, NULL, &folds, &grid};
    cr_assert(eq(int, ks_sparse_fit(&path, &source, label, &folds, &nest, &err),
                 KS_OK),
              "%s", err.text);
    cr_expect(eq(int, path.fits, 15 * KS_SPARSE_POINTS));
    cr_expect(eq(int, path.unconverged, 0));
    for (int p = 1; p < KS_SPARSE_POINTS; p++)
        cr_expect(ge(dbl, path.dimensions[p], path.dimensions[p - 1]));
    cr_expect(gt(dbl, path.dimensions[KS_SPARSE_POINTS - 1], 60));
    cr_assert(eq(int, ks__sparse_measure(&got, &in, &path, &err), KS_OK));
    cr_expect(got.needed >= 2 && got.needed <= 6, "%g", got.needed);
    cr_expect(gt(dbl, got.accuracy.low, 0.85));
    /* one dimension is not enough, and noise costs */
    cr_expect(gt(dbl, got.points[0].chosen_minus_this.low, 0));
    ks_sparse_path_free(&path);
}

/* Five factors behind 60 features: a gradient alone would take hundreds of
 * reads, and so would coordinate descent that ends too soon. */
Test(l1, features_that_vary_together_take_few_reads) {
    enum { FEATURES = 60, FACTORS = 5 };
    static float alike[MANY * FEATURES];
    static int8_t label[MANY];
    static uint8_t of[MANY];
    ks_l1_column columns[8];
    ks_l2 *l2 = NULL;
    for (int i = 0; i < MANY; i++) {
        float factor[FACTORS];
        for (int k = 0; k < FACTORS; k++)
            factor[k] = draw(8, (uint64_t)(i * FACTORS + k));
        for (int j = 0; j < FEATURES; j++) {
            float *to = &alike[i * FEATURES + j];
            *to = 0.01f * draw(9, (uint64_t)(i * FEATURES + j));
            for (int k = 0; k < FACTORS; k++)
                *to += factor[k] * draw(10, (uint64_t)(k * FEATURES + j));
        }
        const float *row = alike + i * FEATURES;
        label[i] = factor[0] + row[3] - row[4] > 0;
        of[i] = (uint8_t)(i % 5);
    }
    const ks_l2_design design = {label, of};
    cr_assert(eq(int,
                 ks_l2_open(&l2, alike, MANY, FEATURES, &design, 1, 2, &err),
                 KS_OK));
    for (int k = 0; k < 8; k++)
        columns[k] =
            (ks_l1_column){.hold = 1u << (k % 4), .ratio = k < 4 ? 0.05 : 0.01};
    cr_assert(eq(int, ks_l1_fit(l2, columns, 8, 1e-6, 500, &err), KS_OK));
    for (int k = 0; k < 8; k++) {
        cr_expect(columns[k].converged);
        cr_expect(le(int, columns[k].passes, MOST_READS), "column %d", k);
    }
    ks_l2_close(&l2);
}

/* Labels that rows could be told apart by in many ways: few weights are not 0,
 * and they are the ones. */
Test(l1, more_features_than_rows) {
    enum { FEW = 60, LOTS = 300, RATIOS = 4 };
    static const double ratios[RATIOS] = {0.5, 0.1, 0.03, 0.01};
    static float many[FEW * LOTS];
    static double weight[RATIOS][LOTS + 1];
    static int8_t label[FEW];
    static uint8_t of[FEW];
    ks_l1_column columns[RATIOS];
    ks_l2 *l2 = NULL;
    for (int i = 0; i < FEW; i++) {
        for (int j = 0; j < LOTS; j++)
            many[i * LOTS + j] =
                draw(11, (uint64_t)(i * LOTS + j)) + draw(12, (uint64_t)i);
        label[i] = draw(13, (uint64_t)i) + 0.3f * many[i * LOTS + 5] > 0;
        of[i] = (uint8_t)(i % 3);
    }
    const ks_l2_design design = {label, of};
    for (int k = 0; k < RATIOS; k++)
        columns[k] =
            (ks_l1_column){.hold = 1, .ratio = ratios[k], .weight = weight[k]};
    cr_assert(
        eq(int, ks_l2_open(&l2, many, FEW, LOTS, &design, 1, 2, &err), KS_OK));
    cr_assert(eq(int, ks_l1_fit(l2, columns, RATIOS, 1e-8, 500, &err), KS_OK));
    for (int k = 0; k < RATIOS; k++) {
        const ks_l1_column *c = &columns[k];
        fprintf(stderr, "ratio %g: %d of %d features, %d passes\n", c->ratio,
                c->dimensions, LOTS, c->passes);
        cr_expect(c->converged, "ratio %g: missed by %g", c->ratio,
                  c->optimality);
        cr_expect(le(int, c->dimensions, FEW));
        expect_conditions(many, FEW, LOTS, label, of, c, "wide");
    }
    ks_l2_close(&l2);
}

/* No label to find: what is found is a row's own label that leaked. */
Test(l1, rows_are_scored_by_fits_that_never_saw_them) {
    enum { FEW = 80, PURE = WIDE };
    static float noise[FEW * PURE];
    static int8_t label[FEW];
    static uint8_t of[FEW];
    ks_sparse_path path = {0};
    int right = 0, each[KS_SPARSE_POINTS] = {0};
    for (int i = 0; i < FEW; i++) {
        for (int j = 0; j < PURE; j++)
            noise[i * PURE + j] = draw(6, (uint64_t)(i * PURE + j));
        label[i] = draw(7, (uint64_t)i) > 0;
        of[i] = (uint8_t)(i % 5);
    }
    const ks_folds folds = {FEW, 5, 4, 1, of};
    const ks_nest_options nest = {.threads = 2};
    const ks_l2_source source = {
        .n = FEW, .d = PURE, .type = KS_F32, .x = noise};
    cr_assert(eq(int, ks_sparse_fit(&path, &source, label, &folds, &nest, &err),
                 KS_OK),
              "%s", err.text);
    for (int i = 0; i < FEW; i++) {
        right += (path.score[i] > 0) == label[i];
        for (int p = 0; p < KS_SPARSE_POINTS; p++)
            each[p] += (path.of[p * FEW + i] > 0) == label[i];
    }
    cr_expect(lt(int, right, 54), "%d of %d", right, FEW);
    for (int p = 0; p < KS_SPARSE_POINTS; p++)
        cr_expect(lt(int, each[p], 54), "point %d: %d", p, each[p]);
    ks_sparse_path_free(&path);
}
