/* l2_fits.h - matrices with labels, folds and columns for tests of the batch
 * solver: those of the golden files, and some made here. */
#ifndef KS_TESTS_PROBES_L2_FITS_H
#define KS_TESTS_PROBES_L2_FITS_H

#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "l2.h"

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

static inline int64_t whole(json_t *object, const char *key) {
    json_t *value = json_object_get(object, key);
    bool there = json_is_integer(value);
    cr_assert(there, "no whole number %s", key);
    return json_integer_value(value);
}

/* [-1, 1) in steps of 2^-23: MurmurHash3's finaliser of a counter. */
static inline double uniform(int64_t seed, int64_t index) {
    uint32_t h = (uint32_t)(index + seed * 0x9E3779B9);
    h ^= h >> 16;
    h *= 0x85EBCA6B;
    h ^= h >> 13;
    h *= 0xC2B2AE35;
    h ^= h >> 16;
    return (double)(h >> 8) * 0x1p-23 - 1;
}

/* As make_l2.py's matrix(); all steps before the rounding are exact. */
static inline double value(const fits *f, int64_t i, int64_t j) {
    int64_t seed = whole(f->json, "seed"), row = i * (f->d + 2);
    double x = uniform(seed, row + j) + uniform(seed, row + j + 1) / 2;
    if (j % 3 == 0) x += uniform(seed, row + f->d + 1);
    if (!json_is_true(json_object_get(f->json, "odd_features"))) return x;
    if (j == 2) return x * 4096 + 32768;
    if (j == 5) return x * 0x1p-20;
    return j == 7 ? 3.25 : x;
}

static inline void make_x(fits *f) {
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

static inline uint8_t *digits(const fits *f, json_t *design, const char *key) {
    const char *text = json_string_value(json_object_get(design, key));
    cr_assert(text && (int64_t)strlen(text) == f->n, "%s", key);
    uint8_t *out = malloc((size_t)f->n);
    for (int64_t i = 0; i < f->n; i++) out[i] = (uint8_t)(text[i] - '0');
    return out;
}

static inline void make_columns(fits *f) {
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

static inline fits open_fits(json_t *json) {
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

static inline void close_fits(fits *f) {
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

static inline json_t *golden(void) {
    json_error_t reason;
    json_t *all = json_load_file(KS_TEST_DATA "/probes/l2.json", 0, &reason);
    cr_assert(all != NULL, "%s", reason.text);
    return all;
}

static inline bool is_held(const fits *f, const ks_l2_column *c, int64_t i) {
    return c->hold >> f->designs[c->design].fold[i] & 1;
}

/* NaN counts as the worst there is, and stays. */
static inline void keep_worst(double *most, double e) {
    if (!(e <= *most)) *most = isnan(e) ? INFINITY : e;
}

/* -------------------------------------------------------------- made here */

/* Max-norm of the mean loss's gradient on standardised x, by plain loops. */
static inline double plain_gradient(const fits *f, const ks_l2_column *c) {
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
static inline void make_massive(fits *f, double noise) {
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
static inline void make_ten(fits *f, const double strength[2]) {
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

#endif
