/* test_l2.c - the batch solver against scikit-learn's LogisticRegression on
 * the same matrices (tests/golden/make_l2.py), and that threads change no bit.
 * A column's strength is scikit-learn's C: see there for the mapping. */
#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "half.h"
#include "l2.h"
#include "nest.h"
#include "ops.h"

/* |w - reference| / |reference|, standardised, bias included; found: 2.3e-4 at
 * most (wide), 7.5e-5 elsewhere. A gradient at its tolerance leaves an error
 * of w that grows with the strength and with features beyond rows. */
static const double WEIGHTS = 1e-3;
/* Of held-out rows, in the same way; found: 9.3e-4 (wide, where w.x of a row
 * never seen is far below |w| |x|), 7.3e-5 elsewhere. */
static const double MARGINS = 3e-3;
static const double MOMENTS = 1e-6; /* mean and scale, over the scale */
static const double TOLERANCE = 1e-6;

/* ------------------------------------------------------------- golden files */

typedef struct fits {
    json_t *json; /* a case, borrowed */
    int64_t n, d;
    float *x; /* [n, d] */
    int32_t n_designs, n_columns;
    ks_l2_design *designs;
    ks_l2_column *columns;
    double *weight, *mean, *scale; /* [n_columns, d + 1], [n_columns, d] */
    float *margin;                 /* [n_columns, n] */
} fits;

static int64_t whole(json_t *object, const char *key) {
    json_t *value = json_object_get(object, key);
    bool there = json_is_integer(value);
    cr_assert(there, "no whole number %s", key);
    return json_integer_value(value);
}

/* [-1, 1) in steps of 2^-23: MurmurHash3's finaliser of a counter. */
static double uniform(int64_t seed, int64_t index) {
    uint32_t h = (uint32_t)(index + seed * 0x9E3779B9);
    h ^= h >> 16;
    h *= 0x85EBCA6B;
    h ^= h >> 13;
    h *= 0xC2B2AE35;
    h ^= h >> 16;
    return (double)(h >> 8) * 0x1p-23 - 1;
}

/* As make_l2.py's matrix(); all steps before the rounding are exact. */
static double value(const fits *f, int64_t i, int64_t j) {
    int64_t seed = whole(f->json, "seed"), row = i * (f->d + 2);
    double x = uniform(seed, row + j) + uniform(seed, row + j + 1) / 2;
    if (j % 3 == 0) x += uniform(seed, row + f->d + 1);
    if (!json_is_true(json_object_get(f->json, "odd_features"))) return x;
    if (j == 2) return x * 4096 + 32768;
    if (j == 5) return x * 0x1p-20;
    return j == 7 ? 3.25 : x;
}

static void make_x(fits *f) {
    uint64_t bits = 0;
    f->x = malloc((size_t)(f->n * f->d) * sizeof *f->x);
    for (int64_t i = 0; i < f->n * f->d; i++) {
        uint32_t word;
        f->x[i] = (float)value(f, i / f->d, i % f->d);
        memcpy(&word, &f->x[i], sizeof word);
        bits += word;
    }
    cr_assert_eq(bits, (uint64_t)whole(f->json, "bits"),
                 "the matrix is not the one that scikit-learn had");
}

static uint8_t *digits(const fits *f, json_t *design, const char *key) {
    const char *text = json_string_value(json_object_get(design, key));
    cr_assert(text && (int64_t)strlen(text) == f->n, "%s", key);
    uint8_t *out = malloc((size_t)f->n);
    for (int64_t i = 0; i < f->n; i++) out[i] = (uint8_t)(text[i] - '0');
    return out;
}

static void make_columns(fits *f) {
    json_t *all = json_object_get(f->json, "columns"), *one;
    size_t n = json_array_size(all), d = (size_t)f->d, k;
    cr_assert(n > 0);
    f->n_columns = (int32_t)n;
    f->columns = calloc(n, sizeof *f->columns);
    f->weight = calloc(n * (d + 1), sizeof *f->weight);
    f->mean = calloc(n * d, sizeof *f->mean);
    f->scale = calloc(n * d, sizeof *f->scale);
    f->margin = calloc(n * (size_t)f->n, sizeof *f->margin);
    json_array_foreach(all, k, one) {
        f->columns[k] = (ks_l2_column){
            .design = (int32_t)whole(one, "design"),
            .hold = (uint32_t)whole(one, "hold"),
            .strength = json_number_value(json_object_get(one, "strength")),
            .weight = f->weight + k * (d + 1),
            .mean = f->mean + k * d,
            .scale = f->scale + k * d,
            .margin = f->margin + k * (size_t)f->n};
    }
}

static fits open_fits(json_t *json) {
    fits f = {.json = json, .n = whole(json, "n"), .d = whole(json, "d")};
    json_t *designs = json_object_get(json, "designs"), *one;
    size_t k;
    make_x(&f);
    f.n_designs = (int32_t)json_array_size(designs);
    f.designs = calloc((size_t)f.n_designs, sizeof *f.designs);
    json_array_foreach(designs, k, one) {
        f.designs[k].y = (int8_t *)digits(&f, one, "y");
        f.designs[k].fold = digits(&f, one, "fold");
    }
    make_columns(&f);
    return f;
}

static void close_fits(fits *f) {
    for (int32_t k = 0; k < f->n_designs; k++) {
        free((void *)f->designs[k].y);
        free((void *)f->designs[k].fold);
    }
    free(f->designs);
    free(f->columns);
    free(f->weight);
    free(f->mean);
    free(f->scale);
    free(f->margin);
    free(f->x);
}

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

static json_t *golden(void) {
    json_error_t reason;
    json_t *all = json_load_file(KS_TEST_DATA "/probes/l2.json", 0, &reason);
    cr_assert(all != NULL, "%s", reason.text);
    return all;
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

static bool is_held(const fits *f, const ks_l2_column *c, int64_t i) {
    return c->hold >> f->designs[c->design].fold[i] & 1;
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

/* NaN counts as the worst there is, and stays. */
static void keep_worst(double *most, double e) {
    if (!(e <= *most)) *most = isnan(e) ? INFINITY : e;
}

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

/* -------------------------------------------------------- rows in a file */

/* x as stored: each type that activations have. */
static void *store(const float *x, int64_t n, ks_type type) {
    size_t size = ks_type_size(type);
    uint8_t *out = malloc((size_t)n * size);
    for (int64_t i = 0; i < n; i++) {
        uint16_t half =
            type == KS_F16 ? ks_f32_to_f16(x[i]) : ks_f32_to_bf16(x[i]);
        memcpy(out + (size_t)i * size,
               type == KS_F32 ? (const void *)&x[i] : &half, size);
    }
    return out;
}

typedef struct stored {
    const char *rows;
    size_t row_bytes;
    int64_t n;
} stored;

static ks_status read_stored(void *user, int64_t row, int64_t n, void *out,
                             ks_err *err) {
    const stored *s = user;
    if (row < 0 || n < 1 || row + n > s->n)
        return ks_fail(err, KS_INTERNAL, "rows beyond the source");
    memcpy(out, s->rows + (size_t)row * s->row_bytes, (size_t)n * s->row_bytes);
    return KS_OK;
}

/* Solved with the rows in memory (scratch NULL) or in a file of that folder. */
static void solve_from(fits *f, const ks_l2_source *source, int threads,
                       const char *scratch) {
    ks_err err = {0};
    ks_l2 *l2 = NULL;
    ks_l2_place place = {.threads = threads,
                         .scratch = scratch,
                         .way = threads % 2 ? KS_L2_DIRECT : KS_L2_CACHED};
    ks_status st =
        ks_l2_open_from(&l2, source, &place, f->designs, f->n_designs, &err);
    cr_assert_eq(st, KS_OK, "%s", err.text);
    st = ks_l2_fit(l2, f->columns, f->n_columns, TOLERANCE, KS_DEFAULT_PASSES,
                   &err);
    cr_assert_eq(st, KS_OK, "%s", err.text);
    ks_l2_close(&l2);
}

static bool same_fits(const fits *f, const fits *g) {
    size_t d = (size_t)f->d, n = (size_t)f->n, columns = (size_t)f->n_columns;
    bool same = !memcmp(f->weight, g->weight, columns * (d + 1) * 8) &&
                !memcmp(f->mean, g->mean, columns * d * 8) &&
                !memcmp(f->scale, g->scale, columns * d * 8) &&
                (!f->margin || !memcmp(f->margin, g->margin, columns * n * 4));
    for (int32_t c = 0; c < f->n_columns; c++)
        same = same && f->columns[c].gradient == g->columns[c].gradient &&
               f->columns[c].passes == g->columns[c].passes;
    return same;
}

/* f as it is, g from a file: past the page cache by an odd number of threads,
 * through it by an even one. */
static void expect_streamed(fits *f, fits *g, const char *name) {
    for (ks_type type = 0; type < 3; type++) {
        const ks_type types[] = {KS_F32, KS_F16, KS_BF16};
        void *rows = store(f->x, f->n * f->d, types[type]);
        stored s = {rows, ks_type_row_bytes(types[type], f->d), f->n};
        ks_l2_source there = {
            .n = f->n, .d = f->d, .type = types[type], .x = rows};
        ks_l2_source asked = {.n = f->n,
                              .d = f->d,
                              .type = types[type],
                              .read = read_stored,
                              .user = &s};
        solve_from(f, &there, 2, NULL);
        for (int turn = 0; turn < 2; turn++) {
            int threads = 1 + turn + (types[type] == KS_BF16 ? 2 : 0);
            solve_from(g, &asked, threads, "/tmp");
            cr_expect(same_fits(f, g),
                      "%s, type %d, %d threads: from a file otherwise", name,
                      (int)types[type], threads);
        }
        solve_from(g, &asked, 2, NULL);
        cr_expect(same_fits(f, g), "%s: asked for otherwise", name);
        free(rows);
    }
}

Test(l2, rows_in_a_file_change_no_bit) {
    json_t *all = golden(), *one;
    size_t k;
    json_array_foreach(json_object_get(all, "cases"), k, one) {
        fits f = open_fits(one), g = open_fits(one);
        expect_streamed(&f, &g,
                        json_string_value(json_object_get(one, "name")));
        close_fits(&f);
        close_fits(&g);
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

/* Max-norm of the mean loss's gradient on standardised x, by plain loops. */
static double plain_gradient(const fits *f, const ks_l2_column *c) {
    const ks_l2_design *design = &f->designs[c->design];
    double count[2] = {0, 0}, n = 0;
    double *g = calloc((size_t)f->d + 1, sizeof *g);
    for (int64_t i = 0; i < f->n; i++)
        if (!is_held(f, c, i)) count[design->y[i]]++, n++;
    for (int64_t i = 0; i < f->n; i++) {
        if (is_held(f, c, i)) continue;
        double z = c->weight[f->d];
        for (int64_t j = 0; j < f->d; j++)
            z += c->weight[j] * (double)f->x[i * f->d + j];
        double r = 0.5 / count[design->y[i]] *
                   (1 / (1 + exp(-z)) - (double)design->y[i]);
        for (int64_t j = 0; j < f->d; j++)
            g[j] += r * ((double)f->x[i * f->d + j] - c->mean[j]) / c->scale[j];
        g[f->d] += r;
    }
    double most = fabs(g[f->d]);
    for (int64_t j = 0; j < f->d; j++)
        keep_worst(&most,
                   fabs(g[j] + c->weight[j] * c->scale[j] / (c->strength * n)));
    free(g);
    return most;
}

/* Correlated features, and a few rows of fold 0 a thousand times larger in
 * all, as transformers' massive activations are: the covariance of all rows
 * says next to nothing about fits that hold those rows out. Noise of 2 leaves
 * labels near chance, a little nearly separable ones. */
static void make_massive(fits *f, double noise) {
    enum { LATENTS = 64, ROWS = 1600, FEATURES = 96 };
    f->n = ROWS, f->d = FEATURES;
    f->x = malloc(ROWS * FEATURES * sizeof *f->x);
    int8_t *y = malloc(ROWS);
    uint8_t *fold = malloc(ROWS);
    for (int64_t i = 0; i < ROWS; i++) {
        fold[i] = (uint8_t)(i % 5);
        double latent[LATENTS], pull = 0, size = i % 100 == 0 ? 3000 : 1;
        for (int64_t k = 0; k < LATENTS; k++) {
            latent[k] = uniform(1, i * LATENTS + k) / (double)(1 + k);
            if (k >= 8 && k < 16) pull += latent[k] * (double)(1 + k);
        }
        y[i] = pull / 8 + noise * uniform(2, i) > 0;
        for (int64_t j = 0; j < FEATURES; j++) {
            double x = 1e-3 * uniform(3, i * FEATURES + j);
            for (int64_t k = 0; k < LATENTS; k++)
                x += latent[k] * uniform(4, k * FEATURES + j);
            f->x[i * FEATURES + j] = (float)(size * x);
        }
    }
    f->designs = calloc(1, sizeof *f->designs);
    f->designs[0] = (ks_l2_design){y, fold};
    f->n_designs = 1;
}

enum { TEN = 10 };

/* Ten fits, each without one of five folds; strength: of the first five and of
 * the others. */
static void make_ten(fits *f, const double strength[2]) {
    f->n_columns = TEN;
    f->columns = calloc(TEN, sizeof *f->columns);
    f->weight = calloc(TEN * (size_t)(f->d + 1), sizeof *f->weight);
    f->mean = calloc(TEN * (size_t)f->d, sizeof *f->mean);
    f->scale = calloc(TEN * (size_t)f->d, sizeof *f->scale);
    for (int64_t k = 0; k < TEN; k++)
        f->columns[k] = (ks_l2_column){.hold = 1u << (k % 5),
                                       .strength = strength[k / 5],
                                       .weight = f->weight + k * (f->d + 1),
                                       .mean = f->mean + k * f->d,
                                       .scale = f->scale + k * f->d};
}

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

/* The columns' own Hessians are formed from the file too. */
Test(l2, hessians_of_rows_in_a_file) {
    fits f = {0}, g = {0};
    make_massive(&f, 2);
    make_massive(&g, 2);
    make_ten(&f, (const double[]){1, 10});
    make_ten(&g, (const double[]){1, 10});
    ks_l2_source source = {.n = f.n, .d = f.d, .type = KS_F32, .x = f.x};
    solve_from(&f, &source, 2, NULL);
    for (int threads = 1; threads <= 3; threads++) {
        solve_from(&g, &source, threads, "/tmp");
        cr_expect(same_fits(&f, &g), "%d threads", threads);
    }
    close_fits(&f);
    close_fits(&g);
}

/* ------------------------------------------------------------ where it is thin
 */

/* n rows of noise with a label in it, n_one of them 1, d features: feature 1
 * constant, feature 2 again feature 0, and every eighth behind it another's
 * copy. */
static void make_thin(fits *f, int64_t n, int64_t d, int64_t n_one) {
    f->n = n, f->d = d;
    f->x = malloc((size_t)(n * d) * sizeof *f->x);
    int8_t *y = malloc((size_t)n);
    uint8_t *fold = malloc((size_t)n);
    for (int64_t i = 0; i < n; i++) {
        y[i] = i * n_one / n != (i + 1) * n_one / n;
        fold[i] = (uint8_t)(i / 7 % 5);
        float *x = f->x + i * d;
        for (int64_t j = 0; j < d; j++)
            x[j] = j && j % 8 == 2 ? x[j - 2]
                   : j == 1        ? 0.1f
                                   : (float)(uniform(7, i * d + j) +
                                      (j % 5 == 0) * 0.3 * y[i]);
    }
    f->designs = calloc(1, sizeof *f->designs);
    f->designs[0] = (ks_l2_design){y, fold};
    f->n_designs = 1;
    make_ten(f, (const double[]){1e-3, 10});
}

static void expect_thin(int64_t n, int64_t d, int64_t n_one) {
    fits f = {0}, g = {0};
    make_thin(&f, n, d, n_one);
    make_thin(&g, n, d, n_one);
    ks_l2_source source = {.n = n, .d = d, .type = KS_F32, .x = f.x};
    solve_from(&f, &source, 2, NULL);
    solve_from(&g, &source, 3, "/tmp");
    cr_expect(same_fits(&f, &g), "%d x %d: from a file otherwise", (int)n,
              (int)d);
    for (int32_t k = 0; k < f.n_columns; k++) {
        const ks_l2_column *c = &f.columns[k];
        double gradient = plain_gradient(&f, c);
        cr_expect(c->converged && gradient <= 1.01 * TOLERANCE,
                  "%d x %d, C %g: gradient %g", (int)n, (int)d, c->strength,
                  gradient);
        /* in raw units, as the plain gradient has it: copies weigh alike, a
         * constant nothing */
        double most = 0;
        for (int64_t j = 0; j < d; j++) keep_worst(&most, fabs(c->weight[j]));
        cr_expect_eq(c->weight[1], 0);
        cr_expect(fabs(c->weight[2] - c->weight[0]) <= 1e-3 * most,
                  "%d x %d, C %g: copies weigh %g and %g", (int)n, (int)d,
                  c->strength, c->weight[0], c->weight[2]);
    }
    close_fits(&f);
    close_fits(&g);
}

Test(l2, many_features_of_few_rows) {
    expect_thin(100, 4099, 37);
}

Test(l2, two_rows_of_a_class) {
    /* of two folds: a fit trains on one of them or both */
    expect_thin(40, 31, 2);
    expect_thin(2051, 67, 2);
}

Test(l2, copies_and_a_constant) {
    expect_thin(1500, 200, 600);
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
