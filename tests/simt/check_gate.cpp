/* check_gate.cpp - gated activations against the CPU's op and double. */
#include "twin.h"

static double ref_act(double x, ks_act act) {
    if (act == KS_SILU) return x / (1 + exp(-x));
    if (act == KS_GELU_ERF) return 0.5 * x * (1 + erf(x / sqrt(2)));
    return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static void gate_one(twin *t, ks_act act, int64_t cols, int64_t gap) {
    host_rows g(5, cols, cols + gap, true), u(5, cols, cols + gap, true);
    host_rows cpu(5, cols, cols, false);
    for (int64_t i = 0; i < 5; i++)
        for (int64_t j = 0; j < cols && i > 1; j++) g.at(i)[j] *= 20;
    device_rows dg(g), du(u), out(host_rows(5, cols, cols + gap, false));
    TWIN_OK(t, ks__cuda_gate(t->cuda, out.view(), dg.view(), du.view(), act,
                             &t->err));
    TWIN_OK(t, ks__cuda_gate(t->cuda, dg.view(), dg.view(), du.view(), act,
                             &t->err)); /* in place */
    TWIN_SYNC(t);
    TWIN_OK(t,
            t->ops->gate(t->cpu, cpu.view(), g.view(), u.view(), act, &t->err));
    std::vector<double> ref;
    for (int64_t i = 0; i < 5; i++)
        for (int64_t j = 0; j < cols; j++)
            ref.push_back(ref_act((double)g.at(i)[j], act) *
                          (double)u.at(i)[j]);
    /* GELU's 1 + erf loses its relative precision far below 0 */
    double atol = act == KS_SILU ? 1e-30 : 2e-6;
    cr_expect(rows_close("gate", out.read(), ref, atol, 1e-6));
    cr_expect(rows_close("gate, CPU", out.read(), doubles_of(cpu), atol, 1e-6));
    cr_expect(same_bits(dg.read(), out.read()), "in place");
}

Test(simt_gate, gate) {
    twin *t = twin_open();
    for (int act = KS_SILU; act <= KS_GELU_ERF; act++)
        for (int64_t cols : {1, 31, 33, 512, 513, 577})
            for (int64_t gap : {0, 3, 4}) {
                simt_seed((uint64_t)(cols + gap));
                gate_one(t, (ks_act)act, cols, gap);
            }
}

/* No overflow on the way, NaN stays. */
Test(simt_gate, extremes) {
    twin *t = twin_open();
    const float x[] = {-200,  -88.8f, -1e-30f, 0,  1e-30f,
                       88.8f, 200,    3e38f,   NAN};
    host_rows g(1, 9, 9, false), one(1, 9, 9, false);
    for (int i = 0; i < 9; i++) g.at(0)[i] = x[i], one.at(0)[i] = 1;
    for (int act = KS_SILU; act <= KS_GELU_ERF; act++) {
        device_rows dg(g), du(one);
        TWIN_OK(t, ks__cuda_gate(t->cuda, dg.view(), dg.view(), du.view(),
                                 (ks_act)act, &t->err));
        TWIN_SYNC(t);
        host_rows got = dg.read();
        for (int i = 0; i < 8; i++) {
            double ref = ref_act((double)x[i], (ks_act)act);
            cr_expect(
                close_f32("extreme", got.at(0) + i, &ref, 1, 1e-36, 1e-6));
        }
        cr_expect(isnan(got.at(0)[8]));
    }
}

Test(simt_gate, what_is_refused) {
    twin *t = twin_open();
    ks_view x = ks_view_f32(NULL, 0, 8);
    cr_expect(ks__cuda_gate(t->cuda, x, x, x, KS_SILU, &t->err) == KS_OK);
    for (ks_view bad : {ks_view_f32(NULL, 0, 9), ks_view_f32(NULL, 1, 8)}) {
        cr_expect(ks__cuda_gate(t->cuda, x, bad, x, KS_SILU, &t->err) ==
                  KS_INTERNAL);
        cr_expect(ks__cuda_gate(t->cuda, x, x, bad, KS_SILU, &t->err) ==
                  KS_INTERNAL);
    }
}
