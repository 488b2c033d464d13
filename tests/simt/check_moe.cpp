/* check_moe.cpp - route, group, gate_clamped, combine against the CPU's ops,
 * which transformers' layers check (tests/ops/test_moe.c). */
#include "twin.h"

static void route_one(twin *t, int64_t rows, int32_t n, int32_t top_k,
                      bool renormalise, float spread) {
    host_rows x(rows, n, n + 3, true);
    for (int64_t i = 0; i < rows; i++) /* ties: multiples of 1/8 */
        for (int32_t e = 0; e < n; e++)
            x.at(i)[e] = roundf(x.at(i)[e] * 8) / 8 * spread;
    std::vector<int32_t> expert((size_t)(rows * top_k), -7);
    host_rows weight(rows, top_k, top_k, false);
    on_device<int32_t> de(expert);
    device_rows dx(x), dw(weight);
    TWIN_OK(t, ks__cuda_route(t->cuda, de.data, dw.x.data, dx.view(), top_k,
                              renormalise, &t->err));
    TWIN_SYNC(t);
    TWIN_OK(t, t->ops->route(t->cpu, expert.data(), weight.x.data(), x.view(),
                             top_k, renormalise, &t->err));
    cr_expect(de.read() == expert, "%d of %d experts", (int)top_k, (int)n);
    cr_expect(rows_close("route", dw.read(), doubles_of(weight), 1e-9, 2e-6));
}

Test(simt_moe, route) {
    twin *t = twin_open();
    for (int renormalise = 0; renormalise < 2; renormalise++)
        for (uint64_t seed = 0; seed < 3; seed++) {
            simt_seed(seed);
            route_one(t, 1, 1, 1, renormalise, 1);
            route_one(t, 17, 5, 2, renormalise, 1);
            route_one(t, 8, 32, 4, renormalise, 4);
            route_one(t, 7, 127, 32, renormalise, 0.1f);
            route_one(t, 5, 31, 31, renormalise, 20);
            route_one(t, 9, 33, 8, renormalise, 1);
        }
}

/* -0 is 0; a NaN is chosen, so that it shows; a row of NaN still names experts
 * that exist. */
Test(simt_moe, route_odd_values) {
    twin *t = twin_open();
    on_device<float> x({-0.0f, 0, -1, -0.0f, 1, NAN, 2, NAN, NAN, NAN, -NAN,
                        NAN, 1, -INFINITY, INFINITY, 2});
    on_device<float> w(std::vector<float>(8));
    on_device<int32_t> e(std::vector<int32_t>(8));
    TWIN_OK(t, ks__cuda_route(t->cuda, e.data, w.data,
                              {x.data, 4, 4, 4, KS_F32}, 2, true, &t->err));
    TWIN_SYNC(t);
    std::vector<float> weight = w.read();
    cr_expect(e.read() == (std::vector<int32_t>{0, 1, 1, 3, 0, 1, 2, 3}));
    cr_expect(weight[0] == 0.5f && weight[1] == 0.5f);
    for (size_t i = 2; i < 7; i++) cr_expect(isnan(weight[i]));
    ks_view v = ks_view_f32(NULL, 0, 40);
    auto route = [&](int32_t k) {
        return ks__cuda_route(t->cuda, NULL, NULL, v, k, true, &t->err);
    };
    cr_expect(route(32) == KS_OK);
    cr_expect(route(0) == KS_INTERNAL);
    cr_expect(route(41) == KS_INTERNAL);
    cr_expect(route(33) == KS_UNSUPPORTED);
    v.cols = 32;
    cr_expect(route(33) == KS_INTERNAL);
}

static void group_one(twin *t, int64_t n, int32_t n_experts, int32_t top_k) {
    size_t pairs = (size_t)(n * top_k);
    std::vector<int32_t> expert(pairs), place(pairs, -7), row(pairs, -7);
    std::vector<int32_t> offsets((size_t)n_experts + 1, -7);
    for (int64_t i = 0; i < n * top_k; i++) /* of a row: all different */
        expert[(size_t)i] =
            (int32_t)((i / top_k * i / top_k + i % top_k) % n_experts);
    on_device<int32_t> de(expert), dp(place), dr(row), df(offsets);
    TWIN_OK(t, ks__cuda_group(t->cuda, df.data, dr.data, dp.data, de.data, n,
                              top_k, n_experts, &t->err));
    TWIN_SYNC(t);
    TWIN_OK(t, t->ops->group(t->cpu, offsets.data(), row.data(), place.data(),
                             expert.data(), n, top_k, n_experts, &t->err));
    cr_expect(df.read() == offsets && dp.read() == place && dr.read() == row,
              "%d rows, %d of %d", (int)n, (int)top_k, (int)n_experts);
}

Test(simt_moe, group) {
    twin *t = twin_open();
    for (uint64_t seed = 0; seed < 3; seed++) {
        simt_seed(seed);
        group_one(t, 0, 3, 2);
        group_one(t, 1, 1, 1);
        group_one(t, 33, 7, 3);
        group_one(t, 64, 4, 4);  /* one round of threads */
        group_one(t, 257, 3, 1); /* one more */
        group_one(t, 101, 32, 8);
    }
    auto group = [&](int64_t n, int32_t k, int32_t n_experts) {
        return ks__cuda_group(t->cuda, NULL, NULL, NULL, NULL, n, k, n_experts,
                              &t->err);
    };
    cr_expect(group(1, 3, 2) == KS_INTERNAL);
    cr_expect(group(1, 0, 2) == KS_INTERNAL);
    cr_expect(group(1 << 30, 2, 2) == KS_INTERNAL);
}

Test(simt_moe, gate_clamped) {
    twin *t = twin_open();
    for (int64_t cols : {1, 31, 33, 511, 512, 513})
        for (int64_t gap : {0, 4, 1}) {
            host_rows x(3, 2 * cols, 2 * cols + 2 * gap, true);
            host_rows want(3, cols, cols + gap, false);
            for (int64_t i = 0; i < 3; i++)
                for (int64_t j = 0; j < 2 * cols; j++) x.at(i)[j] *= 12;
            device_rows dx(x), out(want);
            ks_clamp clamp = {1.702f, 7};
            TWIN_OK(t, ks__cuda_gate_clamped(t->cuda, out.view(), dx.view(),
                                             clamp, &t->err));
            TWIN_SYNC(t);
            TWIN_OK(t, t->ops->gate_clamped(t->cpu, want.view(), x.view(),
                                            clamp, &t->err));
            cr_expect(rows_close("clamped", out.read(), doubles_of(want), 1e-7,
                                 2e-6));
        }
    on_device<float> odd({NAN, 1, 1, NAN, -3e38f, 3e38f, 1000, -1000});
    on_device<float> out(std::vector<float>(4));
    ks_view to = {out.data, 1, 4, 4, KS_F32}, x = {odd.data, 1, 8, 8, KS_F32};
    TWIN_OK(t, ks__cuda_gate_clamped(t->cuda, to, x, {1.702f, 7}, &t->err));
    TWIN_SYNC(t);
    std::vector<float> got = out.read();
    cr_expect(isnan(got[0]) && isnan(got[1]) && got[2] == 0 && got[3] < -41);
    to.cols = 3;
    cr_expect(ks__cuda_gate_clamped(t->cuda, to, x, {1, 7}, &t->err) ==
              KS_INTERNAL);
    to.cols = 4, to.rows = 0;
    cr_expect(ks__cuda_gate_clamped(t->cuda, to, x, {1, 7}, &t->err) ==
              KS_INTERNAL);
    x.rows = 0;
    cr_expect(ks__cuda_gate_clamped(t->cuda, to, x, {1, 7}, &t->err) == KS_OK);
}

Test(simt_moe, combine) {
    twin *t = twin_open();
    enum { ROWS = 5, TOP_K = 3, PAIRS = ROWS * TOP_K };
    std::vector<float> weight;
    std::vector<int32_t> place;
    for (int i = 0; i < PAIRS; i++) {
        weight.push_back(random_unit());
        place.push_back(i * 4 % PAIRS);
    }
    on_device<float> dw(weight);
    on_device<int32_t> dp(place);
    for (int64_t cols : {1, 31, 512, 513})
        for (int64_t gap : {0, 3, 4}) {
            host_rows x(PAIRS, cols, cols + gap, true);
            host_rows want(ROWS, cols, cols + gap, false);
            device_rows dx(x), out(want);
            TWIN_OK(t, ks__cuda_combine(t->cuda, out.view(), dx.view(), dp.data,
                                        dw.data, TOP_K, &t->err));
            TWIN_SYNC(t);
            TWIN_OK(t,
                    t->ops->combine(t->cpu, want.view(), x.view(), place.data(),
                                    weight.data(), TOP_K, &t->err));
            cr_expect(rows_close("combine", out.read(), doubles_of(want), 1e-6,
                                 1e-6));
        }
    ks_view a = ks_view_f32(NULL, 0, 8), b = ks_view_f32(NULL, 0, 9);
    ks_view one = ks_view_f32(NULL, 1, 8);
    cr_expect(ks__cuda_combine(t->cuda, a, a, NULL, NULL, 3, &t->err) == KS_OK);
    cr_expect(ks__cuda_combine(t->cuda, a, b, NULL, NULL, 3, &t->err) ==
              KS_INTERNAL);
    cr_expect(ks__cuda_combine(t->cuda, a, one, NULL, NULL, 3, &t->err) ==
              KS_INTERNAL);
}
