/* Linear maps between spaces: scikit-learn's Ridge, scipy's Procrustes, and
 * what must hold of any rows. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

#include "compare.h"
#include "linear_map.h"
#include "philox.h"

/* Part 2 is held out. */
enum { PARTS = 3, HELD = 2, TRAIN = 3 };

typedef struct rows {
    int64_t n, held, d_in, d_out;
    float *x, *y;   /* [n + held, d] */
    uint8_t *part;  /* [n + held] */
    int64_t *row;   /* 0, 1, .. */
    int64_t *mixed; /* backwards in each part */
    ks_map_pairs pairs;
    ks_map_train train;
} rows;

static void make_rows(rows *r, int64_t n, int64_t held, int64_t d_in,
                      int64_t d_out) {
    size_t all = (size_t)(n + held);
    *r = (rows){.n = n, .held = held, .d_in = d_in, .d_out = d_out};
    r->x = calloc(all * (size_t)d_in, sizeof *r->x);
    r->y = calloc(all * (size_t)d_out, sizeof *r->y);
    r->part = calloc(all, sizeof *r->part);
    r->row = calloc(all, sizeof *r->row);
    r->mixed = calloc(all, sizeof *r->mixed);
    int64_t third = n / 3;
    for (int64_t i = 0; i < n + held; i++) {
        r->part[i] = (uint8_t)(i >= n ? HELD : i >= third);
        int64_t begin = i >= n ? n : i >= third ? third : 0;
        int64_t end = i >= n ? n + held : i >= third ? n : third;
        r->row[i] = i;
        r->mixed[i] = begin + end - 1 - i;
    }
}

static void open_rows(rows *r) {
    ks_err err = {0};
    cr_assert(
        eq(int,
           ks_map_pairs_open(&r->pairs, r->x, r->d_in, r->y, r->d_out,
                             r->n + r->held, r->part, PARTS, r->mixed, 2, &err),
           KS_OK),
        "%s", err.text);
    cr_assert(
        eq(int, ks_map_train_open(&r->train, &r->pairs, TRAIN, &err), KS_OK),
        "%s", err.text);
}

static void free_rows(rows *r) {
    ks_map_train_close(&r->train);
    ks_map_pairs_close(&r->pairs);
    free(r->x);
    free(r->y);
    free(r->part);
    free(r->row);
    free(r->mixed);
}

/* R^2 of a map on the rows held out, row by row; mixed: of pairs mixed up. */
static double r2_of(const rows *r, const ks_linear_map *map, bool mixed) {
    double error = 0, total = 0;
    double *out = calloc((size_t)(r->held * r->d_out), sizeof *out);
    cr_assert(eq(
        int, ks_linear_map_apply(map, r->x, r->row + r->n, r->held, out, NULL),
        KS_OK));
    for (int64_t j = 0; j < r->d_out; j++) {
        double mean = 0, square = 0;
        for (int64_t i = 0; i < r->n; i++)
            mean += (double)r->y[i * r->d_out + j] / (double)r->n;
        for (int64_t i = 0; i < r->n; i++) {
            double off = (double)r->y[i * r->d_out + j] - mean;
            square += off * off / (double)r->n;
        }
        if (square < 1e-18) continue;
        for (int64_t i = 0; i < r->held; i++) {
            int64_t at = mixed ? r->mixed[r->n + i] : r->n + i;
            double y = (double)r->y[at * r->d_out + j];
            error += pow(y - out[i * r->d_out + j], 2) / square;
            total += pow(y - mean, 2) / square;
        }
    }
    free(out);
    return 1 - error / total;
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
    double r2 = json_number_value(json_object_get(golden, "r2"));
    size_t n = (size_t)(r->held * r->d_out);
    double got[1024], want[1024];
    float rounded[1024];
    ks_linear_map map = {0};
    ks_err err = {0};
    ks_status st =
        strcmp(kind, "ridge") == 0
            ? ks_linear_map_ridge(&map, &r->train, KS_MAP_TRUE, strength, &err)
            : ks_linear_map_procrustes(&map, &r->train, &err);
    cr_assert(eq(int, st, KS_OK), "%s", err.text);
    cr_assert(lt(sz, n, 1024));
    cr_assert(eq(
        int, ks_linear_map_apply(&map, r->x, r->row + r->n, r->held, got, &err),
        KS_OK));
    for (size_t i = 0; i < n; i++) {
        want[i] = json_number_value(json_array_get(mapped, i));
        rounded[i] = (float)got[i];
    }
    cr_expect(close_f32(name, rounded, want, n, 1e-5, 1e-5), "%s %g", kind,
              strength);
    cr_expect(epsilon_eq(dbl, r2_of(r, &map, false), r2, 1e-6), "%s: %s %g",
              name, kind, strength);
    ks_linear_map_free(&map);
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
        open_rows(&r);
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
    open_rows(r);
}

/* All strengths from one decomposition, two sets of parts held out: the figures
 * of the maps themselves. */
Test(linear_map, a_path_is_its_maps) {
    static const double strengths[] = {1e-5, 1e-2, 1, 100};
    enum { N = 4 };
    json_t *all =
               json_load_file(KS_TEST_DATA "/probes/linear_map.json", 0, NULL),
           *one;
    size_t i;
    cr_assert(all != NULL);
    json_array_foreach(json_object_get(all, "cases"), i, one) {
        rows r;
        double want[KS_MAP_PAIRINGS * N], got[2 * KS_MAP_PAIRINGS * N];
        const uint64_t held[] = {1 << HELD, 1 << HELD | 1};
        ks_err err = {0};
        make_rows(&r, member(one, "n"), member(one, "held"),
                  member(one, "d_in"), member(one, "d_out"));
        fill(r.x, json_object_get(one, "x"));
        fill(r.y, json_object_get(one, "y"));
        open_rows(&r);
        for (int k = 0; k < KS_MAP_PAIRINGS * N; k++) {
            ks_linear_map map = {0};
            cr_assert(eq(int,
                         ks_linear_map_ridge(&map, &r.train, k / N,
                                             strengths[k % N], &err),
                         KS_OK));
            want[k] = r2_of(&r, &map, k / N == KS_MAP_MIXED);
            ks_linear_map_free(&map);
        }
        cr_assert(eq(int,
                     ks_map_path(&r.train, held, 2, strengths, N, got, &err),
                     KS_OK),
                  "%s", err.text);
        for (int k = 0; k < KS_MAP_PAIRINGS * N; k++) {
            cr_expect(
                lt(dbl, fabs(got[k] - want[k]), 1e-6 * (1 + fabs(want[k]))),
                "%s %d: %.9f, expected %.9f",
                json_string_value(json_object_get(one, "name")), k, got[k],
                want[k]);
            cr_expect(ne(dbl, got[k], got[KS_MAP_PAIRINGS * N + k]));
        }
        free_rows(&r);
    }
    json_decref(all);
}

Test(linear_map, finds_a_turn_and_a_stretch) {
    rows r;
    ks_linear_map map = {0};
    make_turned(&r, 100, 9);
    cr_assert(eq(int, ks_linear_map_procrustes(&map, &r.train, NULL), KS_OK));
    cr_expect(gt(dbl, r2_of(&r, &map, false), 1 - 1e-9));
    for (int64_t a = 0; a < 9; a++) /* rows of the turn are orthogonal */
        for (int64_t b = 0; b < 9; b++) {
            double dot = 0;
            for (int64_t j = 0; j < 9; j++)
                dot += map.weight[a * 9 + j] * map.weight[b * 9 + j];
            cr_expect(epsilon_eq(dbl, dot, a == b ? 9 : 0, 1e-4));
        }
    ks_linear_map_free(&map);
    cr_assert(eq(int,
                 ks_linear_map_ridge(&map, &r.train, KS_MAP_TRUE, 1e-5, NULL),
                 KS_OK));
    cr_expect(gt(dbl, r2_of(&r, &map, false), 0.9999));
    ks_linear_map_free(&map);
    cr_assert(eq(int,
                 ks_linear_map_ridge(&map, &r.train, KS_MAP_MIXED, 1, NULL),
                 KS_OK));
    cr_expect(lt(dbl, r2_of(&r, &map, false), 0.1));
    ks_linear_map_free(&map);
    free_rows(&r);
}

Test(linear_map, the_mean_explains_nothing_and_identity_is_x) {
    rows r;
    ks_linear_map map = {0};
    double out[20 * 9];
    make_turned(&r, 50, 9);
    cr_assert(eq(int, ks_linear_map_mean(&map, &r.train, NULL), KS_OK));
    cr_expect(epsilon_eq(dbl, r2_of(&r, &map, false), 0, 1e-12));
    ks_linear_map_free(&map);
    cr_assert(eq(int, ks_linear_map_identity(&map, &r.train, NULL), KS_OK));
    cr_assert(eq(int,
                 ks_linear_map_apply(&map, r.x, r.row + r.n, r.held, out, NULL),
                 KS_OK));
    for (int64_t i = 0; i < r.held * 9; i++)
        cr_expect(epsilon_eq(dbl, out[i], (double)r.x[r.n * 9 + i], 1e-9));
    ks_linear_map_free(&map);
    free_rows(&r);
}

/* Fewer rows than dimensions: directions that nobody saw are left alone. */
Test(linear_map, fewer_rows_than_dimensions) {
    rows r;
    ks_linear_map map = {0};
    make_turned(&r, 12, 40);
    cr_assert(eq(int, ks_linear_map_procrustes(&map, &r.train, NULL), KS_OK));
    double squares = 0;
    for (int64_t i = 0; i < 40 * 40; i++)
        squares += map.weight[i] * map.weight[i];
    /* 11 directions of centred rows, each stretched by 3 */
    cr_expect(epsilon_eq(dbl, squares, 11 * 9, 1e-3));
    ks_linear_map_free(&map);
    cr_assert(eq(int,
                 ks_linear_map_ridge(&map, &r.train, KS_MAP_TRUE, 1e-5, NULL),
                 KS_OK));
    double r2 = r2_of(&r, &map, false), got[KS_MAP_PAIRINGS];
    const uint64_t held = 1 << HELD;
    const double strength = 1e-5;
    ks_linear_map_free(&map);
    cr_assert(eq(int, ks_map_path(&r.train, &held, 1, &strength, 1, got, NULL),
                 KS_OK));
    cr_expect(epsilon_eq(dbl, got[KS_MAP_TRUE], r2, 1e-6));
    free_rows(&r);
}

Test(linear_map, refuses_too_few_rows_and_other_dimensions) {
    rows r;
    ks_map_train train = {0};
    ks_linear_map map = {0};
    ks_err err = {0};
    make_rows(&r, 3, 1, 3, 2);
    open_rows(&r);
    cr_expect(
        eq(int, ks_map_train_open(&train, &r.pairs, 1, &err), KS_MISMATCH));
    cr_expect(strstr(err.text, "two steps") != NULL);
    cr_expect(train.mean == NULL);
    cr_expect(eq(int, ks_linear_map_identity(&map, &r.train, &err), KS_USAGE));
    cr_expect(map.weight == NULL);
    free_rows(&r);
}
