/* test_l2.c - the batch solver against scikit-learn's LogisticRegression on
 * the same matrices (tests/golden/make_l2.py), and that threads change no bit.
 * A column's strength is scikit-learn's C: see there for the mapping. */
#include <stdio.h>

#include "l2_fits.h"
#include "nest.h"

/* |w - reference| / |reference|, standardised, bias included; found: 2.3e-4 at
 * most (wide), 7.5e-5 elsewhere. A gradient at its tolerance leaves an error
 * of w that grows with the strength and with features beyond rows. */
static const double WEIGHTS = 1e-3;
/* Of held-out rows, in the same way; found: 9.3e-4 (wide, where w.x of a row
 * never seen is far below |w| |x|), 7.3e-5 elsewhere. */
static const double MARGINS = 3e-3;
static const double MOMENTS = 1e-6; /* mean and scale, over the scale */

static void solve(fits *f, int threads) {
    ks_err err = {0};
    ks_l2 *l2 = NULL;
    ks_status st = ks_l2_open(&l2, f->x, f->n, f->d, f->designs, f->n_designs,
                              threads, &err);
    cr_assert_eq(st, KS_OK, "%s", err.text);
    st = ks_l2_fit(l2, f->columns, f->n_columns, TOLERANCE, KS_DEFAULT_PASSES,
                   &err);
    cr_assert_eq(st, KS_OK, "%s", err.text);
    ks_l2_close(&l2);
}

/* ---------------------------------------------------------- what is compared
 */

/* |a - b| over |b|; NaN if either has one. */
static double distance(const double *a, const double *b, int64_t n) {
    double diff = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        diff += (a[i] - b[i]) * (a[i] - b[i]);
        norm += b[i] * b[i];
    }
    return sqrt(diff / norm);
}

/* The training rows' own, in two passes: mean and scale [d]. */
static void training_moments(const fits *f, const ks_l2_column *c, double *mean,
                             double *scale) {
    for (int64_t j = 0; j < f->d; j++) {
        double n = 0, sum = 0, square = 0;
        for (int64_t i = 0; i < f->n; i++)
            if (!is_held(f, c, i)) n++, sum += (double)f->x[i * f->d + j];
        mean[j] = sum / n;
        for (int64_t i = 0; i < f->n; i++) {
            double x = (double)f->x[i * f->d + j] - mean[j];
            if (!is_held(f, c, i)) square += x * x;
        }
        scale[j] = square > 0 ? sqrt(square / n) : 1;
    }
}

typedef struct worst {
    double weights, margins, gradient;
} worst;

static double weight_error(const fits *f, const ks_l2_column *c,
                           const double *ref, const double *mean,
                           const double *scale) {
    double *w = malloc((size_t)(f->d + 1) * sizeof *w);
    w[f->d] = c->weight[f->d];
    for (int64_t j = 0; j < f->d; j++) {
        w[j] = c->weight[j] * scale[j];
        w[f->d] += c->weight[j] * mean[j];
    }
    double e = distance(w, ref, f->d + 1);
    free(w);
    return e;
}

/* Margins of held-out rows beside the reference's; 0 where none is held out.
 * right: rows on their label's side. */
static double margin_error(const fits *f, const ks_l2_column *c,
                           const double *ref, const double *mean,
                           const double *scale, int64_t *right) {
    double *z = calloc((size_t)(2 * f->n), sizeof *z), *z_ref = z + f->n;
    int64_t held = 0;
    *right = 0;
    for (int64_t i = 0; i < f->n; i++) {
        if (!is_held(f, c, i)) {
            cr_expect(c->margin[i] == 0, "a training row has a margin");
            continue;
        }
        z[held] = (double)c->margin[i];
        z_ref[held] = ref[f->d];
        for (int64_t j = 0; j < f->d; j++)
            z_ref[held] +=
                ref[j] * ((double)f->x[i * f->d + j] - mean[j]) / scale[j];
        *right += (z[held++] > 0) == f->designs[c->design].y[i];
    }
    double e = held ? distance(z, z_ref, held) : 0;
    free(z);
    return e;
}

static void compare_column(const fits *f, int32_t k, worst *most) {
    const ks_l2_column *c = &f->columns[k];
    json_t *json =
        json_array_get(json_object_get(f->json, "columns"), (size_t)k);
    json_t *weight = json_object_get(json, "weight");
    cr_assert_eq((int64_t)json_array_size(weight), f->d + 1);
    double *ref = malloc((size_t)(3 * f->d + 1) * sizeof *ref);
    double *mean = ref + f->d + 1, *scale = mean + f->d;
    for (int64_t j = 0; j <= f->d; j++)
        ref[j] = json_number_value(json_array_get(weight, (size_t)j));
    char name[128];
    snprintf(name, sizeof name, "%s, design %d without folds 0x%x, C %g",
             json_string_value(json_object_get(f->json, "name")), c->design,
             (unsigned)c->hold, c->strength);
    training_moments(f, c, mean, scale);
    for (int64_t j = 0; j < f->d; j++) {
        cr_expect(fabs(c->mean[j] - mean[j]) <= MOMENTS * scale[j],
                  "%s: mean %g of feature %d, expected %g", name, c->mean[j],
                  (int)j, mean[j]);
        cr_expect(fabs(c->scale[j] - scale[j]) <= MOMENTS * scale[j],
                  "%s: scale %g of feature %d, expected %g", name, c->scale[j],
                  (int)j, scale[j]);
    }
    int64_t right;
    double w = weight_error(f, c, ref, mean, scale);
    double z = margin_error(f, c, ref, mean, scale, &right);
    cr_expect(w <= WEIGHTS, "%s: weights differ by %g", name, w);
    cr_expect(z <= MARGINS, "%s: margins differ by %g", name, z);
    cr_expect_eq(right, whole(json, "right"),
                 "%s: %d held-out rows right, scikit-learn has %d", name,
                 (int)right, (int)whole(json, "right"));
    cr_expect(c->converged && c->gradient <= TOLERANCE,
              "%s: gradient %g after %d passes", name, c->gradient, c->passes);
    keep_worst(&most->weights, w);
    keep_worst(&most->margins, z);
    keep_worst(&most->gradient, c->gradient);
    free(ref);
}

/* --------------------------------------------------------------------- tests
 */

Test(l2, fits_equal_scikit_learn) {
    json_t *all = golden(), *one;
    size_t k;
    json_array_foreach(json_object_get(all, "cases"), k, one) {
        fits f = open_fits(one);
        worst most = {0, 0, 0};
        solve(&f, 2);
        for (int32_t c = 0; c < f.n_columns; c++) compare_column(&f, c, &most);
        fprintf(stderr, "%s: weights %.1e, margins %.1e, gradient %.1e\n",
                json_string_value(json_object_get(one, "name")), most.weights,
                most.margins, most.gradient);
        close_fits(&f);
    }
    cr_expect(k >= 8);
    json_decref(all);
}

Test(l2, threads_change_no_bit) {
    json_t *all = golden(), *one;
    int64_t most_rows = 0;
    size_t k;
    json_array_foreach(json_object_get(all, "cases"), k, one) {
        fits f = open_fits(one), g = open_fits(one);
        size_t weights = (size_t)(f.n_columns * (f.d + 1)) * sizeof *f.weight;
        size_t margins = (size_t)(f.n_columns * f.n) * sizeof *f.margin;
        solve(&f, 1);
        for (int threads = 2; threads <= 5; threads += 3) {
            solve(&g, threads);
            bool same = !memcmp(f.weight, g.weight, weights) &&
                        !memcmp(f.margin, g.margin, margins);
            for (int32_t c = 0; c < f.n_columns; c++)
                same = same && f.columns[c].gradient == g.columns[c].gradient &&
                       f.columns[c].passes == g.columns[c].passes;
            cr_expect(same, "%s: %d threads differ from 1",
                      json_string_value(json_object_get(one, "name")), threads);
        }
        if (f.n > most_rows) most_rows = f.n;
        close_fits(&f);
        close_fits(&g);
    }
    cr_expect(most_rows >= 2048, "no case of several lanes");
    json_decref(all);
}

/* A start elsewhere ends at the same weights: the path does not matter. */
Test(l2, start_does_not_matter) {
    json_t *all = golden();
    fits f = open_fits(json_array_get(json_object_get(all, "cases"), 0));
    double *start = malloc((size_t)(f.d + 1) * sizeof *start);
    worst most = {0, 0, 0};
    for (int64_t j = 0; j <= f.d; j++) start[j] = j % 2 ? 1 : -2;
    for (int32_t c = 0; c < f.n_columns; c++) f.columns[c].start = start;
    solve(&f, 2);
    for (int32_t c = 0; c < f.n_columns; c++) compare_column(&f, c, &most);
    free(start);
    close_fits(&f);
    json_decref(all);
}

/* ------------------------------------------------- what the spectrum misleads
 */

static void expect_massive(double noise, const double strength[2],
                           int32_t most_passes) {
    fits f = {0};
    make_massive(&f, noise);
    make_ten(&f, strength);
    size_t bytes = TEN * (size_t)(f.d + 1) * sizeof *f.weight;
    double *alone = malloc(bytes);
    solve(&f, 1);
    memcpy(alone, f.weight, bytes);
    solve(&f, 2);
    cr_expect_eq(memcmp(alone, f.weight, bytes), 0, "2 threads differ from 1");
    free(alone);
    for (int32_t k = 0; k < TEN; k++) {
        const ks_l2_column *c = &f.columns[k];
        double g = plain_gradient(&f, c);
        fprintf(stderr, "massive: fold %d, C %g: %d passes, gradient %.1e\n",
                k % 5, c->strength, c->passes, g);
        cr_expect(c->converged && c->passes <= most_passes,
                  "without fold %d, C %g: gradient %g after %d passes", k % 5,
                  c->strength, c->gradient, c->passes);
        cr_expect(g <= 1.01 * TOLERANCE, "gradient %g, told %g", g,
                  c->gradient);
    }
    close_fits(&f);
}

Test(l2, a_spectrum_far_from_a_fold_does_not_stall_it) {
    expect_massive(2, (const double[]){1, 10}, 100);
}

/* Where classes nearly part, a Newton step goes far beyond; a Hessian of there
 * says nothing about the point that is kept. */
Test(l2, a_hessian_is_of_a_point_that_is_kept) {
    expect_massive(0.1, (const double[]){100, 10000}, 300);
}

Test(l2, too_few_passes_are_told) {
    json_t *all = golden();
    fits f = open_fits(json_array_get(json_object_get(all, "cases"), 0));
    ks_err err = {0};
    ks_l2 *l2 = NULL;
    cr_assert_eq(
        ks_l2_open(&l2, f.x, f.n, f.d, f.designs, f.n_designs, 1, &err), KS_OK);
    cr_assert_eq(ks_l2_fit(l2, f.columns, f.n_columns, 1e-6, 1, &err), KS_OK);
    int told = 0;
    for (int32_t c = 0; c < f.n_columns; c++) {
        cr_expect_eq(f.columns[c].converged, f.columns[c].gradient <= 1e-6);
        told += !f.columns[c].converged;
    }
    cr_expect(told > 0);
    ks_l2_close(&l2);
    close_fits(&f);
    json_decref(all);
}

Test(l2, bad_input_is_refused) {
    float x[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    int8_t y[4] = {0, 1, 1, 1};
    uint8_t fold[4] = {0, 0, 1, 1};
    ks_l2_design design = {y, fold};
    ks_l2_column column = {.hold = 1, .strength = 1};
    ks_err err = {0};
    ks_l2 *l2 = NULL;
    cr_assert_eq(ks_l2_open(&l2, x, 4, 2, &design, 1, 1, &err), KS_OK);
    cr_expect_eq(ks_l2_fit(l2, &column, 1, 1e-6, 100, &err), KS_MISMATCH,
                 "training rows of one class");
    column.hold = 0, column.strength = NAN;
    cr_expect_eq(ks_l2_fit(l2, &column, 1, 1e-6, 100, &err), KS_USAGE);
    column.strength = 1, column.design = 1;
    cr_expect_eq(ks_l2_fit(l2, &column, 1, 1e-6, 100, &err), KS_USAGE);
    ks_l2_close(&l2);
    x[5] = NAN;
    cr_expect_eq(ks_l2_open(&l2, x, 4, 2, &design, 1, 1, &err), KS_NUMERIC);
    cr_expect(strstr(err.text, "row 2, feature 1"), "%s", err.text);
    x[5] = 6, y[3] = 2;
    cr_expect_eq(ks_l2_open(&l2, x, 4, 2, &design, 1, 1, &err), KS_USAGE);
    y[3] = 1, fold[3] = KS_L2_MAX_FOLDS;
    cr_expect_eq(ks_l2_open(&l2, x, 4, 2, &design, 1, 1, &err), KS_USAGE);
    cr_expect(l2 == NULL);
}
