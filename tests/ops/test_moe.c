/* route, group, gemm_grouped, gate_clamped, combine; and whole layers of them
 * against transformers (tests/golden/make_moe.py). */
#include <jansson.h>

#include "reference.h"

static int32_t *ints(int64_t n) {
    int32_t *x = malloc((size_t)n * sizeof *x + 1);
    cr_assert(x);
    for (int64_t i = 0; i < n; i++) x[i] = -7;
    return x;
}

/* -------------------------------------------------------------------- route */

/* How many experts stand above e in a row (ties: the lower one). */
static int32_t above(const float *l, int32_t n, int32_t e) {
    int32_t count = 0;
    for (int32_t f = 0; f < n; f++)
        count += l[f] > l[e] || (l[f] == l[e] && f < e);
    return count;
}

static void route_one(backend *b, int64_t rows, int32_t n, int32_t top_k,
                      bool renormalise, float spread) {
    ks_view logits = guarded_random(rows, n, n + 3);
    int32_t *expert = ints(rows * top_k + 1);
    ks_view weight = guarded(1, rows * top_k, rows * top_k);
    for (int64_t i = 0; i < rows; i++) /* ties: multiples of 1/8 */
        for (int32_t e = 0; e < n; e++)
            at(&logits, i)[e] = roundf(at(&logits, i)[e] * 8) / 8 * spread;
    RUN(b, route, expert, weight.data, logits, top_k, renormalise);
    for (int64_t i = 0; i < rows; i++) {
        double total = 0, ref[64];
        int32_t k = 0;
        for (int32_t e = 0; e < n; e++) {
            bool chosen = above(at(&logits, i), n, e) < top_k;
            double w = exp((double)at(&logits, i)[e]);
            if (chosen || !renormalise) total += w;
            if (!chosen) continue;
            cr_assert(expert[i * top_k + k] == e, "row %lld", (long long)i);
            ref[k++] = w;
        }
        for (k = 0; k < top_k; k++) ref[k] /= total;
        cr_assert(close_f32("route", at(&weight, 0) + i * top_k, ref,
                            (size_t)top_k, 1e-9, 2e-6));
    }
    cr_assert(guards_whole(&weight) && expert[rows * top_k] == -7);
    guarded_free(&logits), guarded_free(&weight), free(expert);
}

static void route(backend *b) {
    for (int renormalise = 0; renormalise < 2; renormalise++) {
        route_one(b, 1, 1, 1, renormalise, 1);
        route_one(b, 33, 5, 2, renormalise, 1);
        route_one(b, 131, 32, 4, renormalise, 4);
        route_one(b, 7, 127, 33, renormalise, 0.1f);
        route_one(b, 5, 31, 31, renormalise, 20);
    }
}

Test(moe, route) {
    ON_EVERY_BACKEND(route);
}

/* -0 is 0; a NaN is chosen, so that it shows. */
static void route_odd(backend *b) {
    float logits[2][4] = {{-0.0f, 0, -1, -0.0f}, {1, NAN, 2, NAN}}, w[4];
    int32_t expert[4];
    RUN(b, route, expert, w, ks_view_f32(logits[0], 2, 4), 2, true);
    cr_assert(expert[0] == 0 && expert[1] == 1 && w[0] == 0.5f);
    cr_assert(expert[2] == 1 && expert[3] == 3 && isnan(w[2]) && isnan(w[3]));
    cr_assert(b->ops->route(b->dev, expert, w, ks_view_f32(logits[0], 2, 4), 5,
                            true, &b->err) == KS_INTERNAL);
    cr_assert(b->ops->route(b->dev, expert, w, ks_view_f32(logits[0], 2, 4), 0,
                            true, &b->err) == KS_INTERNAL);
}

Test(moe, route_odd_values) {
    ON_EVERY_BACKEND(route_odd);
}

/* -------------------------------------------------------------------- group */

static void group_one(backend *b, int64_t n, int32_t n_experts, int32_t top_k) {
    int64_t pairs = n * top_k, p = 0;
    int32_t *expert = ints(pairs), *place = ints(pairs + 1);
    int32_t *row = ints(pairs + 1), *offsets = ints(n_experts + 2);
    for (int64_t i = 0; i < pairs; i++) /* of a row: all different */
        expert[i] = (int32_t)((i / top_k * i / top_k + i % top_k) % n_experts);
    RUN(b, group, offsets, row, place, expert, n, top_k, n_experts);
    for (int32_t e = 0; e < n_experts; e++) {
        cr_assert(offsets[e] == p, "expert %d at %d", e, offsets[e]);
        for (int64_t i = 0; i < pairs; i++) {
            if (expert[i] != e) continue;
            cr_assert(place[i] == p && row[p] == i / top_k);
            p++;
        }
    }
    cr_assert(offsets[n_experts] == pairs && offsets[n_experts + 1] == -7);
    cr_assert(place[pairs] == -7 && row[pairs] == -7);
    free(expert), free(place), free(row), free(offsets);
}

static void group(backend *b) {
    group_one(b, 0, 3, 2);
    group_one(b, 1, 1, 1);
    group_one(b, 33, 7, 3);
    group_one(b, 101, 64, 8);
    int32_t x[8];
    cr_assert(b->ops->group(b->dev, x, x, x, x, 1, 3, 2, &b->err) ==
              KS_INTERNAL);
    cr_assert(b->ops->group(b->dev, x, x, x, x, 1 << 30, 2, 2, &b->err) ==
              KS_INTERNAL);
}

Test(moe, group) {
    ON_EVERY_BACKEND(group);
}

/* ------------------------------------------------------------- gemm_grouped */

/* Each expert's rows: the bits of gemm. */
static void grouped_one(backend *b, ks_type type, bool with_row, bool biased) {
    enum { EXPERTS = 5, PAIRS = 67, ROWS = 40, OUT = 33, IN = 64 };
    static const int32_t offsets[] = {0, 1, 1, 34, 66, PAIRS};
    ks_view w = random_weights(type, EXPERTS * OUT, IN);
    ks_view x = guarded_random(with_row ? ROWS : PAIRS, IN, IN + 3);
    ks_view out = guarded(PAIRS, OUT, OUT + 2), one = guarded(1, OUT, OUT);
    float *bias = random_array(EXPERTS * OUT);
    int32_t *row = ints(PAIRS);
    for (int p = 0; p < PAIRS; p++) row[p] = p * 7 % ROWS;
    RUN(b, gemm_grouped, out, x, with_row ? row : NULL, w, biased ? bias : NULL,
        offsets, EXPERTS);
    for (int e = 0; e < EXPERTS; e++)
        for (int p = offsets[e]; p < offsets[e + 1]; p++) {
            ks_view of = w, from = x;
            of.rows = OUT;
            of.data =
                (char *)w.data + (size_t)e * OUT * ks_type_row_bytes(type, IN);
            from.data = at(&x, with_row ? row[p] : p), from.rows = 1;
            RUN(b, gemm, one, from, of, biased ? bias + e * OUT : NULL, false);
            cr_assert(rows_equal(&one, 0, &out, p), "%s pair %d",
                      ks_type_name(type), p);
        }
    cr_assert(guards_whole(&out));
    guarded_free(&x), guarded_free(&out), guarded_free(&one);
    free(w.data), free(bias), free(row);
}

static void grouped(backend *b) {
    grouped_one(b, KS_F32, false, false);
    grouped_one(b, KS_BF16, true, true);
    grouped_one(b, KS_MXFP4, true, true);
    float x[8] = {0};
    int32_t offsets[] = {0, 1, 2};
    ks_view two = ks_view_f32(x, 2, 2), w = ks_view_f32(x, 4, 2), odd = w;
    cr_assert(b->ops->gemm_grouped(b->dev, two, two, NULL, w, NULL, offsets, 1,
                                   &b->err) == KS_INTERNAL);
    odd.cols = 1;
    cr_assert(b->ops->gemm_grouped(b->dev, two, odd, NULL, w, NULL, offsets, 2,
                                   &b->err) == KS_INTERNAL);
    w.type = KS_I32;
    cr_assert(b->ops->gemm_grouped(b->dev, two, two, NULL, w, NULL, offsets, 2,
                                   &b->err) == KS_INTERNAL);
}

Test(moe, gemm_grouped) {
    ON_EVERY_BACKEND(grouped);
}

/* ------------------------------------------------------------- gate_clamped */

static double ref_clamped(double g, double u) {
    g = fmin(g, 7), u = fmin(fmax(u, -7), 7);
    return (u + 1) * g / (1 + exp(-(double)1.702f * g));
}

static void clamped(backend *b) {
    static const int64_t cols[] = {1, 31, 33, 64, 101};
    for (size_t c = 0; c < sizeof cols / sizeof *cols; c++) {
        int64_t n = cols[c];
        ks_view x = guarded_random(5, 2 * n, 2 * n + 3);
        ks_view out = guarded(5, n, n + 1);
        double *ref = doubles(n);
        for (int64_t i = 0; i < 5; i++)
            for (int64_t j = 0; j < 2 * n; j++) at(&x, i)[j] *= 12;
        RUN(b, gate_clamped, out, x, (ks_clamp){1.702f, 7});
        for (int64_t i = 0; i < 5; i++) {
            for (int64_t j = 0; j < n; j++)
                ref[j] = ref_clamped((double)at(&x, i)[2 * j],
                                     (double)at(&x, i)[2 * j + 1]);
            cr_assert(
                close_f32("clamped", at(&out, i), ref, (size_t)n, 1e-7, 2e-6));
        }
        cr_assert(guards_whole(&out));
        guarded_free(&x), guarded_free(&out), free(ref);
    }
    float odd[] = {NAN, 1, 1, NAN, -3e38f, 3e38f, 1000, -1000}, out[4];
    RUN(b, gate_clamped, ks_view_f32(out, 1, 4), ks_view_f32(odd, 1, 8),
        (ks_clamp){1.702f, 7});
    cr_assert(isnan(out[0]) && isnan(out[1]) && out[2] == 0 && out[3] < -41);
    cr_assert(b->ops->gate_clamped(b->dev, ks_view_f32(out, 1, 3),
                                   ks_view_f32(odd, 1, 8), (ks_clamp){1, 7},
                                   &b->err) == KS_INTERNAL);
}

Test(moe, gate_clamped) {
    ON_EVERY_BACKEND(clamped);
}

/* ------------------------------------------------------------------ combine */

static void combine(backend *b) {
    enum { ROWS = 13, TOP_K = 3, N = 67 };
    ks_view x = guarded_random(ROWS * TOP_K, N, N + 2);
    ks_view out = guarded(ROWS, N, N + 1);
    float *weight = random_array(ROWS * TOP_K);
    int32_t *place = ints(ROWS * TOP_K);
    for (int i = 0; i < ROWS * TOP_K; i++) place[i] = i * 5 % (ROWS * TOP_K);
    double ref[N];
    RUN(b, combine, out, x, place, weight, TOP_K);
    for (int i = 0; i < ROWS; i++) {
        memset(ref, 0, sizeof ref);
        for (int s = i * TOP_K; s < (i + 1) * TOP_K; s++)
            for (int j = 0; j < N; j++)
                ref[j] += (double)weight[s] * (double)at(&x, place[s])[j];
        cr_assert(close_f32("combine", at(&out, i), ref, N, 1e-6, 1e-6));
    }
    cr_assert(guards_whole(&out));
    cr_assert(b->ops->combine(b->dev, out, x, place, weight, TOP_K + 1,
                              &b->err) == KS_INTERNAL);
    guarded_free(&x), guarded_free(&out), free(weight), free(place);
}

Test(moe, combine) {
    ON_EVERY_BACKEND(combine);
}

/* ------------------------------------------------------------- whole layers */

static json_t *golden;

static int size_of(const char *key) {
    return (int)json_integer_value(json_object_get(golden, key));
}

/* NULL where the layer has none. */
static float *array_of(json_t *layer, const char *key) {
    json_t *list = json_object_get(layer, key);
    size_t n = json_array_size(list);
    if (!list) return NULL;
    float *x = malloc(n * sizeof *x);
    cr_assert(x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)json_real_value(json_array_get(list, i));
    return x;
}

static void layer(backend *b, json_t *l) {
    int rows = size_of("rows"), d = size_of("width"), m = size_of("inner");
    int n = size_of("experts"), k = size_of("top_k");
    bool renormalise = json_is_true(json_object_get(l, "renormalise"));
    bool clamp = json_is_true(json_object_get(l, "clamped"));
    static const char *const keys[] = {"router", "router_bias", "in", "in_bias",
                                       "out",    "out_bias",    "x",  "y"};
    float *p[8];
    for (int i = 0; i < 8; i++) p[i] = array_of(l, keys[i]);
    ks_view x = ks_view_f32(p[6], rows, d), logits = guarded(rows, n, n);
    ks_view both = guarded(rows * k, 2 * m, 2 * m),
            act = guarded(rows * k, m, m);
    ks_view pairs = guarded(rows * k, d, d), y = guarded(rows, d, d);
    ks_view weight = guarded(rows, k, k);
    int32_t *expert = ints(rows * k), *place = ints(rows * k);
    int32_t *row = ints(rows * k), *offsets = ints(n + 1);
    RUN(b, gemm, logits, x, ks_view_f32(p[0], n, d), p[1], false);
    RUN(b, route, expert, weight.data, logits, k, renormalise);
    RUN(b, group, offsets, row, place, expert, rows, k, n);
    RUN(b, gemm_grouped, both, x, row, ks_view_f32(p[2], n * 2 * m, d), p[3],
        offsets, n);
    ks_view gate = both, up = both;
    gate.cols = up.cols = m, up.data = at(&both, 0) + m;
    if (clamp)
        RUN(b, gate_clamped, act, both, (ks_clamp){1.702f, 7});
    else
        RUN(b, gate, act, gate, up, KS_SILU);
    RUN(b, gemm_grouped, pairs, act, NULL, ks_view_f32(p[4], n * d, m), p[5],
        offsets, n);
    RUN(b, combine, y, pairs, place, weight.data, k);
    double *ref = doubles(rows * d);
    for (int i = 0; i < rows * d; i++) ref[i] = (double)p[7][i];
    cr_assert(close_f32(json_string_value(json_object_get(l, "name")), y.data,
                        ref, (size_t)(rows * d), 2e-5, 1e-5));
    for (int i = 0; i < 8; i++) free(p[i]);
    free(ref), free(expert), free(place), free(row), free(offsets);
    guarded_free(&logits), guarded_free(&both), guarded_free(&act);
    guarded_free(&pairs), guarded_free(&y), guarded_free(&weight);
}

static void layers(backend *b) {
    json_t *l, *all = json_object_get(golden, "layers");
    size_t i;
    cr_assert(json_array_size(all) == 3);
    json_array_foreach(all, i, l) layer(b, l);
}

Test(moe, layers_of_transformers) {
    json_error_t error;
    golden = json_load_file(KS_TEST_DATA "/ops/moe.json", 0, &error);
    cr_assert(golden, "%s", error.text);
    ON_EVERY_BACKEND(layers);
    json_decref(golden);
}
