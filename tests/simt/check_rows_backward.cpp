/* check_rows_backward.cpp - the way back through norm, gate and rope: against
 * the CPU's ops and derivatives in double. */
#include "twin.h"

/* Cotangent rows to rows of the forward, the last one among them. */
static std::vector<int32_t> random_map(int64_t n, int64_t tokens) {
    std::vector<int32_t> row;
    for (int64_t i = 0; i < n; i++)
        row.push_back(i ? (int32_t)(random_bits() % (uint64_t)tokens)
                        : (int32_t)tokens - 1);
    return row;
}

static std::vector<float> random_floats(int64_t n) {
    std::vector<float> x;
    for (int64_t i = 0; i < n; i++) x.push_back(random_unit());
    return x;
}

/* --------------------------------------------------------------------- norm */

static std::vector<double> ref_norm(const host_rows &dy, const host_rows &x,
                                    const host_rows &before,
                                    const std::vector<int32_t> &row,
                                    int64_t heads, const std::vector<float> &w,
                                    double eps, bool accumulate) {
    std::vector<double> ref;
    for (int64_t i = 0; i < dy.rows; i++) {
        int64_t t =
            row.empty() ? i : row[(size_t)(i / heads)] * heads + i % heads;
        double squares = 0, dots = 0;
        for (int64_t j = 0; j < x.cols; j++) {
            double v = (double)x.at(t)[j];
            squares += v * v;
            dots += (double)w[(size_t)j] * (double)dy.at(i)[j] * v;
        }
        double r = 1 / sqrt(squares / (double)x.cols + eps);
        for (int64_t j = 0; j < x.cols; j++)
            ref.push_back(r * (double)w[(size_t)j] * (double)dy.at(i)[j] -
                          (double)x.at(t)[j] * r * r * r * dots /
                              (double)x.cols +
                          (accumulate ? (double)before.at(i)[j] : 0));
    }
    return ref;
}

struct norm_case {
    int64_t tokens, rows, heads, cols, gap;
    bool mapped, accumulate;
};

/* One row alone: the same bits as among others. */
static void norm_alone(twin *t, const norm_case &c, const host_rows &dy,
                       const host_rows &x, const host_rows &before,
                       const std::vector<int32_t> &row,
                       const std::vector<float> &w, const host_rows &all) {
    int64_t i = c.rows * c.heads - 1;
    int64_t at =
        c.mapped ? row[(size_t)(i / c.heads)] * c.heads + i % c.heads : i;
    host_rows one(1, c.cols, c.cols, false), of(one), to(one);
    size_t size = (size_t)c.cols * sizeof(float);
    memcpy(one.at(0), dy.at(i), size);
    memcpy(of.at(0), x.at(at), size);
    memcpy(to.at(0), before.at(i), size);
    device_rows d1(one), x1(of), o1(to);
    on_device<float> dw(w);
    TWIN_OK(t, ks__cuda_norm_backward(t->cuda, o1.view(), d1.view(), x1.view(),
                                      NULL, 1, dw.data, 1e-3f, c.accumulate,
                                      &t->err));
    TWIN_SYNC(t);
    cr_expect(!memcmp(o1.read().at(0), all.at(i), size), "%d columns alone",
              (int)c.cols);
}

static void norm_one(twin *t, const norm_case &c) {
    int64_t n = c.rows * c.heads;
    host_rows x(c.tokens * c.heads, c.cols, c.cols + c.gap, true);
    host_rows dy(n, c.cols, c.cols + c.gap, true);
    host_rows before(n, c.cols, c.cols + 2 * c.gap, true), cpu(before);
    std::vector<float> w = random_floats(c.cols);
    std::vector<int32_t> row;
    if (c.mapped) row = random_map(c.rows, c.tokens);
    device_rows ddx(before), ddy(dy), dx(x);
    on_device<float> dw(w);
    on_device<int32_t> drow(row);
    TWIN_OK(t, ks__cuda_norm_backward(t->cuda, ddx.view(), ddy.view(),
                                      dx.view(), c.mapped ? drow.data : NULL,
                                      (int32_t)c.heads, dw.data, 1e-3f,
                                      c.accumulate, &t->err));
    TWIN_SYNC(t);
    TWIN_OK(t, t->ops->norm_backward(t->cpu, cpu.view(), dy.view(), x.view(),
                                     c.mapped ? row.data() : NULL,
                                     (int32_t)c.heads, w.data(), 1e-3f,
                                     c.accumulate, &t->err));
    host_rows got = ddx.read();
    cr_expect(rows_close("norm, CPU", got, doubles_of(cpu), 4e-6, 4e-6));
    cr_expect(
        rows_close("norm", got,
                   ref_norm(dy, x, before, row, c.heads, w, 1e-3, c.accumulate),
                   4e-6, 4e-6));
    cr_expect(same_bits(ddy.read(), dy) && same_bits(dx.read(), x));
    norm_alone(t, c, dy, x, before, row, w, got);
    if (c.accumulate) return;
    TWIN_OK(t, ks__cuda_norm_backward(t->cuda, ddy.view(), ddy.view(),
                                      dx.view(), c.mapped ? drow.data : NULL,
                                      (int32_t)c.heads, dw.data, 1e-3f, false,
                                      &t->err));
    TWIN_SYNC(t);
    got.stride = dy.stride; /* compared row by row */
    host_rows in_place = ddy.read();
    host_rows again = ddx.read();
    cr_expect(same_bits(in_place, again), "in place, %d columns", (int)c.cols);
}

/* Widths at both sides of every form's limit, 16-byte rows and others. */
Test(simt_rows_backward, norm) {
    twin *t = twin_open();
    uint64_t seed = 0;
    for (int64_t cols : {1, 31, 127, 128, 129, 256, 257, 512, 513, 1021, 1024,
                         1025, 2048, 2049, 4096})
        for (int64_t gap : {0, 3, 4}) {
            simt_seed(seed++);
            int64_t rows = cols > 512 ? 2 : 5;
            bool odd = seed % 2;
            norm_one(t, {rows, rows, 1, cols, gap, false, odd});
            norm_one(t, {3, rows, 3, cols, gap, true, !odd});
        }
    for (int64_t cols : {4097, 8192, 8193, 16384}) {
        norm_one(t, {2, 1, 1, cols, 0, true, false});
        norm_one(t, {2, 1, 1, cols, 1, true, true});
    }
}

Test(simt_rows_backward, norm_refuses) {
    twin *t = twin_open();
    ks_view x = ks_view_f32(NULL, 2, 8), dx = ks_view_f32(NULL, 4, 8), bad = dx;
    int32_t row[1];
    auto status = [&](ks_view a, ks_view b, const int32_t *r, int32_t heads) {
        return ks__cuda_norm_backward(t->cuda, a, b, x, r, heads, NULL, 0,
                                      false, &t->err);
    };
    cr_expect(status(dx, dx, NULL, 1) == KS_INTERNAL);
    cr_expect(status(dx, dx, row, 3) == KS_INTERNAL);
    cr_expect(status(dx, dx, row, 0) == KS_INTERNAL);
    bad.cols = 7;
    cr_expect(status(bad, dx, row, 1) == KS_INTERNAL);
    cr_expect(status(dx, bad, row, 1) == KS_INTERNAL);
    bad = dx, bad.rows = 3;
    cr_expect(status(bad, dx, row, 1) == KS_INTERNAL);
    x.cols = dx.cols = 16385;
    cr_expect(status(dx, dx, row, 1) == KS_UNSUPPORTED);
    cr_expect(strstr(t->err.text, "16385") != NULL, "%s", t->err.text);
    x.cols = dx.cols = 8, dx.rows = 0;
    cr_expect(status(dx, dx, NULL, 1) == KS_OK);
}

/* --------------------------------------------------------------------- gate */

static double ref_act(double x, ks_act act) {
    if (act == KS_SILU) return x / (1 + exp(-x));
    if (act == KS_GELU_ERF) return 0.5 * x * (1 + erf(x / sqrt(2)));
    return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

/* A five-point difference: 1e-12 here. */
static double ref_slope(double x, ks_act act) {
    double h = 1e-5;
    return (ref_act(x - 2 * h, act) - 8 * ref_act(x - h, act) +
            8 * ref_act(x + h, act) - ref_act(x + 2 * h, act)) /
           (12 * h);
}

static void gate_one(twin *t, ks_act act, int64_t cols, int64_t gap,
                     bool mapped, int in_place) {
    int64_t tokens = 3, rows = mapped ? 7 : tokens;
    host_rows gate(tokens, cols, cols + gap, true);
    host_rows up(tokens, cols, cols + 2 * gap, true);
    host_rows dout(rows, cols, cols + gap, true);
    host_rows dg(rows, cols, cols + gap, false), du(dg);
    for (int64_t i = 0; i < tokens; i++)
        for (int64_t j = 0; j < cols; j++) gate.at(i)[j] *= j % 5 ? 3 : 9;
    std::vector<int32_t> row = random_map(rows, tokens);
    std::vector<double> rg, ru;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            int64_t at = mapped ? row[(size_t)i] : i;
            double g = (double)gate.at(at)[j], d = (double)dout.at(i)[j];
            rg.push_back(d * (double)up.at(at)[j] * ref_slope(g, act));
            ru.push_back(d * ref_act(g, act));
        }
    device_rows dgate(gate), dup(up), ddout(dout), ddg(dg), ddu(du);
    on_device<int32_t> drow(row);
    device_rows &to_g = in_place == 1 ? ddout : ddg;
    device_rows &to_u = in_place == 2 ? ddout : ddu;
    TWIN_OK(t, ks__cuda_gate_backward(t->cuda, to_g.view(), to_u.view(),
                                      ddout.view(), dgate.view(), dup.view(),
                                      mapped ? drow.data : NULL, act, &t->err));
    TWIN_SYNC(t);
    TWIN_OK(t, t->ops->gate_backward(t->cpu, dg.view(), du.view(), dout.view(),
                                     gate.view(), up.view(),
                                     mapped ? row.data() : NULL, act, &t->err));
    host_rows got_g = to_g.read(), got_u = to_u.read();
    cr_expect(rows_close("dgate, CPU", got_g, doubles_of(dg), 3e-6, 2e-6));
    cr_expect(rows_close("dup, CPU", got_u, doubles_of(du), 3e-6, 2e-6));
    cr_expect(rows_close("dgate", got_g, rg, 3e-6, 2e-6), "act %d", (int)act);
    cr_expect(rows_close("dup", got_u, ru, 3e-6, 2e-6), "act %d", (int)act);
}

Test(simt_rows_backward, gate) {
    twin *t = twin_open();
    uint64_t seed = 0;
    for (ks_act act : {KS_SILU, KS_GELU_TANH, KS_GELU_ERF})
        for (int64_t cols : {1, 31, 33, 511, 512, 513})
            for (int64_t gap : {0, 3, 4}) {
                simt_seed(seed++);
                gate_one(t, act, cols, gap, seed % 2, (int)(seed % 3));
            }
}

Test(simt_rows_backward, gate_refuses) {
    twin *t = twin_open();
    ks_view x = ks_view_f32(NULL, 2, 4), one = x;
    int32_t row[2];
    for (int i = 0; i < 5; i++)
        for (int side = 0; side < 2; side++) {
            ks_view v[] = {x, x, x, x, x};
            *(side ? &v[i].rows : &v[i].cols) = 1;
            cr_expect(ks__cuda_gate_backward(t->cuda, v[0], v[1], v[2], v[3],
                                             v[4], row, KS_SILU,
                                             &t->err) == KS_INTERNAL,
                      "view %d", i);
        }
    one.rows = 1;
    cr_expect(ks__cuda_gate_backward(t->cuda, x, x, x, one, one, NULL, KS_SILU,
                                     &t->err) == KS_INTERNAL);
    x.rows = 0;
    cr_expect(ks__cuda_gate_backward(t->cuda, x, x, x, one, one, NULL, KS_SILU,
                                     &t->err) == KS_OK);
}

/* --------------------------------------------------------------------- rope */

enum { N_TOKENS = 17, HEADS = 3, KV_HEADS = 2 };

/* The rotation's matrix turned round, a unit vector at a time; x: one row. */
static void ref_rope(std::vector<double> *out, const float *x, int64_t cols,
                     int32_t dim, int32_t position, const ks_rope *rope) {
    int32_t pairs = rope->rot_dims / 2;
    for (int64_t h = 0; h < cols; h += dim) {
        std::vector<double> y(x + h, x + h + dim);
        for (int32_t i = 0; i < pairs; i++) {
            float angle = (float)position * rope->inv_freq[i];
            double c = cos((double)angle) * (double)rope->scale;
            double s = sin((double)angle) * (double)rope->scale;
            size_t a = (size_t)(rope->interleaved ? 2 * i : i);
            size_t b = (size_t)(rope->interleaved ? 2 * i + 1 : i + pairs);
            double u = y[a], v = y[b];
            y[a] = u * c + v * s;
            y[b] = v * c - u * s;
        }
        out->insert(out->end(), y.begin(), y.end());
    }
}

static void rope_one(twin *t, int32_t dim, int32_t rot, int64_t gap,
                     bool interleaved, bool mapped) {
    std::vector<int32_t> offsets = {0, 5, 5, N_TOKENS}, past = {0, 7, 100};
    int64_t n = mapped ? 7 : N_TOKENS;
    std::vector<int32_t> row = random_map(n, N_TOKENS);
    if (mapped) row[1] = 4, row[2] = 5; /* ends of sequences */
    std::vector<float> inv_freq;
    for (int i = 0; i < rot / 2; i++)
        inv_freq.push_back(powf(10, -(float)i / 16));
    host_rows q(n, HEADS * dim, HEADS * dim + gap, true);
    host_rows k(n, KV_HEADS * dim, KV_HEADS * dim + 2 * gap, true);
    ks_rope rope = {inv_freq.data(), 1.3f, rot, interleaved};
    ks_seqs seqs = {3, N_TOKENS, offsets.data(), past.data(), NULL, 0, NULL};
    std::vector<double> rq, rk;
    for (int64_t i = 0; i < n; i++) {
        int32_t at = mapped ? row[(size_t)i] : (int32_t)i;
        int32_t position = at < 5 ? at : 100 + at - 5;
        ref_rope(&rq, q.at(i), q.cols, dim, position, &rope);
        ref_rope(&rk, k.at(i), k.cols, dim, position, &rope);
    }
    device_rows dq(q), dk(k);
    on_device<float> freq(inv_freq);
    on_device<int32_t> doffsets(offsets), dpast(past), drow(row);
    ks_rope drope = {freq.data, rope.scale, rot, interleaved};
    ks_seqs dseqs = {3, N_TOKENS, doffsets.data, dpast.data, NULL, 0, NULL};
    TWIN_OK(t,
            ks__cuda_rope_backward(t->cuda, dq.view(), dk.view(), dim, &drope,
                                   &dseqs, mapped ? drow.data : NULL, &t->err));
    TWIN_SYNC(t);
    TWIN_OK(t,
            t->ops->rope_backward(t->cpu, q.view(), k.view(), dim, &rope, &seqs,
                                  mapped ? row.data() : NULL, &t->err));
    host_rows got_q = dq.read(), got_k = dk.read();
    cr_expect(rows_close("dq, CPU", got_q, doubles_of(q), 1e-6, 1e-6));
    cr_expect(rows_close("dk, CPU", got_k, doubles_of(k), 1e-6, 1e-6));
    cr_expect(rows_close("dq", got_q, rq, 1e-6, 1e-6));
    cr_expect(rows_close("dk", got_k, rk, 1e-6, 1e-6));
}

Test(simt_rows_backward, rope) {
    twin *t = twin_open();
    uint64_t seed = 0;
    for (int form = 0; form < 4; form++) {
        simt_seed(seed++);
        rope_one(t, 2, 2, 0, form & 1, form & 2);
        rope_one(t, 34, 34, 0, form & 1, form & 2);
        rope_one(t, 64, 64, 0, form & 1, form & 2);
        rope_one(t, 64, 24, 4, form & 1, form & 2);
        rope_one(t, 64, 8, 3, form & 1, form & 2);
        rope_one(t, 256, 256, 0, form & 1, form & 2);
    }
}

Test(simt_rows_backward, rope_refuses) {
    twin *t = twin_open();
    ks_seqs seqs = {1, 2, NULL, NULL, NULL, 0, NULL};
    ks_rope rope = {NULL, 1, 4, false};
    ks_view q = ks_view_f32(NULL, 2, 8), k = ks_view_f32(NULL, 2, 4), bad = k;
    int32_t row[1];
    auto status = [&](ks_view a, ks_view b, int32_t dim, const int32_t *r) {
        return ks__cuda_rope_backward(t->cuda, a, b, dim, &rope, &seqs, r,
                                      &t->err);
    };
    bad.rows = 1;
    cr_expect(status(q, bad, 4, row) == KS_INTERNAL);
    bad = q, bad.cols = 7;
    cr_expect(status(bad, k, 4, row) == KS_INTERNAL);
    bad = k, bad.cols = 3;
    cr_expect(status(q, bad, 4, row) == KS_INTERNAL);
    seqs.n_tok = 3;
    cr_expect(status(q, k, 4, NULL) == KS_INTERNAL);
    rope.rot_dims = 6;
    cr_expect(status(q, k, 4, row) == KS_UNSUPPORTED);
    rope.rot_dims = 4;
    q.cols = 257, k.cols = 257;
    cr_expect(status(q, k, 257, row) == KS_UNSUPPORTED);
    q.rows = k.rows = 0, q.cols = k.cols = 8;
    cr_expect(status(q, k, 4, row) == KS_OK);
}
