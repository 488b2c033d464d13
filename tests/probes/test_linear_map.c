/* Linear maps between spaces: scikit-learn's Ridge, scipy's Procrustes, and
 * what must hold of any rows. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

#include "compare.h"
#include "linear_map.h"
#include "philox.h"

typedef struct rows {
    int64_t n, held, d_in, d_out;
    float *x, *y;              /* [n + held, d] */
    int64_t *row;              /* 0, 1, .. */
    double at_x[64], at_y[64]; /* some fixed points */
} rows;

static void make_rows(rows *r, int64_t n, int64_t held, int64_t d_in,
                      int64_t d_out) {
    size_t all = (size_t)(n + held);
    *r = (rows){.n = n, .held = held, .d_in = d_in, .d_out = d_out};
    cr_assert(d_in <= 64 && d_out <= 64);
    r->x = calloc(all * (size_t)d_in, sizeof *r->x);
    r->y = calloc(all * (size_t)d_out, sizeof *r->y);
    r->row = calloc(all, sizeof *r->row);
    for (size_t i = 0; i < all; i++) r->row[i] = (int64_t)i;
}

/* Points near the rows, as callers take them. */
static void set_points(rows *r) {
    for (int64_t j = 0; j < r->d_in; j++) r->at_x[j] = (double)r->x[j];
    for (int64_t j = 0; j < r->d_out; j++) r->at_y[j] = (double)r->y[j];
}

static void free_rows(rows *r) {
    free(r->x);
    free(r->y);
    free(r->row);
}

static ks_map_sums sums_of(const rows *r, int64_t begin, int64_t n) {
    ks_map_sums s;
    cr_assert(eq(int, ks_map_sums_open(&s, r->d_in, r->d_out, NULL), KS_OK));
    cr_assert(eq(int,
                 ks_map_sums_rows(&s, r->x, r->row + begin, r->at_x, r->y,
                                  r->row + begin, r->at_y, n, NULL),
                 KS_OK));
    return s;
}

static void fill(float *out, json_t *list) {
    for (size_t i = 0; i < json_array_size(list); i++)
        out[i] = (float)json_number_value(json_array_get(list, i));
}

static int64_t member(json_t *object, const char *name) {
    return json_integer_value(json_object_get(object, name));
}

static void check_map(const rows *r, json_t *golden, const char *name) {
    const char *kind = json_string_value(json_object_get(golden, "kind"));
    double strength = json_number_value(json_object_get(golden, "strength"));
    json_t *mapped = json_object_get(golden, "mapped");
    double r2 = json_number_value(json_object_get(golden, "r2")), error, total;
    size_t n = (size_t)(r->held * r->d_out);
    double got[1024], want[1024];
    float rounded[1024];
    ks_linear_map map = {0};
    ks_err err = {0};
    /* sums of two parts add up */
    ks_map_sums train = sums_of(r, 0, r->n / 3);
    ks_map_sums more = sums_of(r, r->n / 3, r->n - r->n / 3);
    ks_map_sums held = sums_of(r, r->n, r->held);
    ks_map_sums_add(&train, &more);
    ks_status st = strcmp(kind, "ridge") == 0
                       ? ks_linear_map_ridge(&map, &train, strength, &err)
                       : ks_linear_map_procrustes(&map, &train, &err);
    cr_assert(eq(int, st, KS_OK), "%s", err.text);
    cr_assert(lt(sz, n, 1024));
    cr_assert(eq(int,
                 ks_linear_map_apply(&map, r->x, r->row + r->n, r->at_x,
                                     r->at_y, r->held, got, &err),
                 KS_OK));
    for (size_t i = 0; i < n; i++) {
        want[i] = json_number_value(json_array_get(mapped, i));
        rounded[i] = (float)got[i];
    }
    cr_expect(close_f32(name, rounded, want, n, 1e-5, 1e-5), "%s %g", kind,
              strength);
    cr_assert(
        eq(int, ks_linear_map_loss(&map, &held, &error, &total, &err), KS_OK));
    cr_expect(epsilon_eq(dbl, 1 - error / total, r2, 1e-6), "%s: %s %g", name,
              kind, strength);
    ks_linear_map_free(&map);
    ks_map_sums_close(&train);
    ks_map_sums_close(&more);
    ks_map_sums_close(&held);
}

Test(linear_map, equals_scikit_learn_and_scipy) {
    json_t *all =
               json_load_file(KS_TEST_DATA "/probes/linear_map.json", 0, NULL),
           *one, *map;
    size_t i, k, checked = 0;
    cr_assert(all != NULL);
    json_array_foreach(json_object_get(all, "cases"), i, one) {
        rows r;
        make_rows(&r, member(one, "n"), member(one, "held"),
                  member(one, "d_in"), member(one, "d_out"));
        fill(r.x, json_object_get(one, "x"));
        fill(r.y, json_object_get(one, "y"));
        set_points(&r);
        json_array_foreach(json_object_get(one, "maps"), k, map) {
            check_map(&r, map, json_string_value(json_object_get(one, "name")));
            checked++;
        }
        free_rows(&r);
    }
    cr_expect(eq(sz, checked, 20));
    json_decref(all);
}

/* ---------------------------------------------------------- what must hold */

static float noise(uint64_t stream, uint64_t place) {
    const uint64_t key[2] = {3, stream};
    uint32_t word[4];
    ks_philox(key, place, word);
    return ks_philox_unit(word[0]) - 0.5f;
}

/* y is x turned by a reflection about u, moved and stretched. */
static void make_turned(rows *r, int64_t n, int64_t d) {
    float u[64], square = 0;
    make_rows(r, n, 20, d, d);
    for (int64_t j = 0; j < d; j++) {
        u[j] = noise(1, (uint64_t)j);
        square += u[j] * u[j];
    }
    for (int64_t i = 0; i < n + 20; i++) {
        float dot = 0;
        for (int64_t j = 0; j < d; j++) {
            r->x[i * d + j] = noise(2, (uint64_t)(i * d + j)) * (float)(j + 1);
            dot += r->x[i * d + j] * u[j];
        }
        for (int64_t j = 0; j < d; j++)
            r->y[i * d + j] =
                7 + 3 * (r->x[i * d + j] - 2 * dot / square * u[j]);
    }
    set_points(r);
}

static double r2_of(const ks_linear_map *map, const ks_map_sums *held) {
    double error, total;
    cr_assert(
        eq(int, ks_linear_map_loss(map, held, &error, &total, NULL), KS_OK));
    return 1 - error / total;
}

Test(linear_map, finds_a_turn_and_a_stretch) {
    rows r;
    ks_linear_map map = {0};
    make_turned(&r, 100, 9);
    ks_map_sums train = sums_of(&r, 0, r.n), held = sums_of(&r, r.n, r.held);
    cr_assert(eq(int, ks_linear_map_procrustes(&map, &train, NULL), KS_OK));
    cr_expect(gt(dbl, r2_of(&map, &held), 1 - 1e-9));
    for (int64_t a = 0; a < 9; a++) /* rows of the turn are orthogonal */
        for (int64_t b = 0; b < 9; b++) {
            double dot = 0;
            for (int64_t j = 0; j < 9; j++)
                dot += map.weight[a * 9 + j] * map.weight[b * 9 + j];
            cr_expect(epsilon_eq(dbl, dot, a == b ? 9 : 0, 1e-4));
        }
    ks_linear_map_free(&map);
    cr_assert(eq(int, ks_linear_map_ridge(&map, &train, 1e-5, NULL), KS_OK));
    cr_expect(gt(dbl, r2_of(&map, &held), 0.9999));
    ks_linear_map_free(&map);
    ks_map_sums_close(&train);
    ks_map_sums_close(&held);
    free_rows(&r);
}

Test(linear_map, the_mean_explains_nothing_and_identity_is_x) {
    rows r;
    ks_linear_map map = {0};
    double out[20 * 9];
    make_turned(&r, 50, 9);
    ks_map_sums train = sums_of(&r, 0, r.n), held = sums_of(&r, r.n, r.held);
    cr_assert(eq(int, ks_linear_map_mean(&map, &train, NULL), KS_OK));
    cr_expect(epsilon_eq(dbl, r2_of(&map, &held), 0, 1e-12));
    ks_linear_map_free(&map);
    cr_assert(eq(int,
                 ks_linear_map_identity(&map, &train, r.at_x, r.at_y, NULL),
                 KS_OK));
    cr_assert(eq(int,
                 ks_linear_map_apply(&map, r.x, r.row + r.n, r.at_x, r.at_y,
                                     r.held, out, NULL),
                 KS_OK));
    for (int64_t i = 0; i < r.held * 9; i++)
        cr_expect(epsilon_eq(dbl, out[i], (double)r.x[r.n * 9 + i], 1e-9));
    ks_linear_map_free(&map);
    ks_map_sums_close(&train);
    ks_map_sums_close(&held);
    free_rows(&r);
}

/* Fewer rows than dimensions: directions that nobody saw are left alone. */
Test(linear_map, fewer_rows_than_dimensions) {
    rows r;
    ks_linear_map map = {0};
    make_turned(&r, 12, 40);
    ks_map_sums train = sums_of(&r, 0, r.n);
    cr_assert(eq(int, ks_linear_map_procrustes(&map, &train, NULL), KS_OK));
    double squares = 0;
    for (int64_t i = 0; i < 40 * 40; i++)
        squares += map.weight[i] * map.weight[i];
    /* 11 directions of centred rows, each stretched by 3 */
    cr_expect(epsilon_eq(dbl, squares, 11 * 9, 1e-3));
    ks_linear_map_free(&map);
    cr_assert(eq(int, ks_linear_map_ridge(&map, &train, 1e-5, NULL), KS_OK));
    ks_linear_map_free(&map);
    ks_map_sums_close(&train);
    free_rows(&r);
}

Test(linear_map, refuses_too_few_rows_and_other_dimensions) {
    rows r;
    ks_linear_map map = {0};
    ks_err err = {0};
    make_rows(&r, 1, 1, 3, 2);
    ks_map_sums train = sums_of(&r, 0, 1);
    cr_expect(eq(int, ks_linear_map_ridge(&map, &train, 1, &err), KS_MISMATCH));
    cr_expect(strstr(err.text, "two steps") != NULL);
    cr_expect(
        eq(int, ks_linear_map_procrustes(&map, &train, &err), KS_MISMATCH));
    cr_expect(eq(int,
                 ks_linear_map_identity(&map, &train, r.at_x, r.at_y, &err),
                 KS_USAGE));
    cr_expect(map.weight == NULL);
    ks_map_sums_close(&train);
    free_rows(&r);
}
