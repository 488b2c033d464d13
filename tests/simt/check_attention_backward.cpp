/* check_attention_backward.cpp - the way back through attention on the
 * simulated device against plain loops in double and the CPU's op; a cotangent
 * alone has the bits that it has among others. */
#include "attention_batch.h"

/* A cotangent: its first token of the batch and its rows. */
struct cot {
    int32_t first, n;
};

static const part SEQUENCES[] = {{0, 37, 0}, {0, 0, 0}, {0, 70, 0}, {0, 5, 0}};
static const cot COTS[] = {{0, 37},  {10, 21}, {40, 60}, {45, 0},
                           {70, 37}, {107, 5}, {106, 1}};
enum { N_COTS = sizeof COTS / sizeof *COTS };

struct back_case {
    int32_t heads, kv_heads, dim, window;
    float softcap;
    bool sinks, precise;
    int32_t pad;
};

static const back_case CASES[] = {
    {3, 1, 64, 0, 0, true, false, 4},   {2, 1, 64, 33, 0, false, true, 0},
    {2, 2, 128, 0, 0, false, false, 0}, {2, 1, 128, 0, 20, true, true, 8},
    {2, 1, 96, 17, 5, false, false, 0}, {1, 1, 96, 0, 0, false, true, 4},
    {2, 1, 256, 0, 0, false, false, 0}, {1, 1, 256, 40, 0, true, true, 0},
    {4, 2, 34, 1, 0, false, true, 3},   {2, 2, 18, 0, 0.5f, false, false, 1},
    {1, 1, 65, 0, 0, false, false, 0},  {1, 1, 97, 0, 0, false, true, 0},
    {1, 1, 129, 0, 0, false, true, 0},
};

struct back {
    attn_batch f; /* the forward, run */
    std::vector<cot> cots;
    std::vector<int32_t> offsets, first, row;
    int64_t pad;
    floats dout, dq, dk, dv;

    back(const back_case &c, const cot *cots_, int32_t n)
        : f({c.heads, c.kv_heads, c.dim, 3 / sqrtf((float)c.dim), c.softcap,
             c.window, NULL},
            c.sinks, SEQUENCES, 4, c.pad),
          cots(cots_, cots_ + n), offsets{0}, pad(c.pad) {
        for (const cot &t : cots) {
            for (int32_t i = 0; i < t.n; i++) row.push_back(t.first + i);
            first.push_back(t.first);
            offsets.push_back(offsets.back() + t.n);
        }
        dout.assign(size(f.q_cols), NAN);
        for (size_t i = 0; i < row.size(); i++)
            for (int64_t j = 0; j < f.q_cols; j++)
                dout[i * (f.q_cols + pad) + j] =
                    number_at(50 + (uint64_t)row[i], (uint64_t)j);
        f.run(true);
    }

    size_t size(int64_t cols) const {
        return row.empty() ? 0 : (row.size() - 1) * (cols + pad) + cols;
    }

    ks_view rows(float *data, int64_t cols) const {
        return attn_batch::view(data, (int64_t)row.size(), cols, cols + pad);
    }

    /* The op of either backend; buffers where it wants them. */
    template <class Op>
    ks_status call(Op op, ks_dev *dev, float *q, float *k, float *v, float *out,
                   float *d[4], const float *sinks, const int32_t *seqs,
                   const int32_t *o, const int32_t *t, const int32_t *r,
                   ks_err *err) {
        ks_attn_spec sp = f.spec;
        if (!f.sinks.empty()) sp.sinks = sinks;
        ks_seqs s = {f.n_seq, f.n_tok, seqs, NULL, NULL, 0, NULL};
        ks_cots c = {(int32_t)cots.size(), (int32_t)row.size(), o, t, r};
        return op(dev, rows(d[1], f.q_cols), rows(d[2], f.kv_cols),
                  rows(d[3], f.kv_cols), rows(d[0], f.q_cols),
                  f.view(out, f.n_tok, f.q_cols, f.q_stride),
                  f.view(q, f.n_tok, f.q_cols, f.q_stride),
                  f.view(k, f.n_tok, f.kv_cols, f.kv_stride),
                  f.view(v, f.n_tok, f.kv_cols, f.kv_stride), &sp, &s, &c, err);
    }

    void clear() {
        dq.assign(size(f.q_cols), -12345.678f);
        dk.assign(size(f.kv_cols), -12345.678f);
        dv = dk;
    }

    ks_status run(bool precise, size_t memory, ks_err *err) {
        ks_dev *dev;
        clear();
        cr_assert(ks__cuda_open(&dev, 0, memory, err) == KS_OK);
        dev->precise = precise;
        on_device<float> q(f.q), k(f.k), v(f.v), out(f.out), sinks(f.sinks),
            a(dout), b(dq), c(dk), d(dv);
        on_device<int32_t> s(f.offsets), o(offsets), t(first), r(row);
        float *all[] = {a.data, b.data, c.data, d.data};
        ks_status st = call(ks__cuda_attention_backward, dev, q.data, k.data,
                            v.data, out.data, all, sinks.data, s.data, o.data,
                            t.data, r.data, err);
        OK(cudaStreamSynchronize(dev->stream));
        floats *to[] = {&dq, &dk, &dv};
        for (int i = 0; i < 3; i++)
            OK(cudaMemcpy(to[i]->data(), all[i + 1],
                          to[i]->size() * sizeof(float),
                          cudaMemcpyDeviceToHost));
        cr_expect(eq(sz, dev->in_use, 0));
        ks__cuda_close(&dev);
        return st;
    }

    void run_cpu() {
        ks_err err;
        ks_dev *dev;
        const struct ks_ops *ops;
        clear();
        ks_status st = ks_dev_open(&dev, &ops, "cpu", 1, NULL, &err);
        cr_assert(st == KS_OK, "%s", err.text);
        float *all[] = {dout.data(), dq.data(), dk.data(), dv.data()};
        st = call(ops->attention_backward, dev, f.q.data(), f.k.data(),
                  f.v.data(), f.out.data(), all, f.sinks.data(),
                  f.offsets.data(), offsets.data(), first.data(), row.data(),
                  &err);
        cr_assert(st == KS_OK, "%s", err.text);
        ks_dev_close(&dev, ops);
    }
};

/* ------------------------------------------------------------ the reference */

/* One row of the cotangents and head: adds to gradients of cotangent c. */
static void reference_row(const back &b, int32_t c, int32_t i, int32_t h,
                          std::vector<double> g[3]) {
    const attn_batch &f = b.f;
    int32_t d = f.spec.head_dim, s = 0, token = b.row[i];
    while (f.offsets[s + 1] <= token) s++;
    int32_t begin = f.offsets[s], position = token - begin;
    int64_t kv = (int64_t)(h / (f.spec.n_heads / f.spec.n_kv_heads)) * d;
    std::vector<double> p(position + 1), dp(p), slope(p);
    double top = f.sinks.empty() ? -INFINITY : (double)f.sinks[h], total = 0;
    for (int32_t j = 0; j <= position; j++) {
        double x = 0, scale = (double)f.spec.scale;
        double cap = (double)f.spec.softcap;
        for (int32_t e = 0; e < d; e++) {
            x += (double)f.q[token * f.q_stride + h * d + e] *
                 (double)f.k[(begin + j) * f.kv_stride + kv + e];
            dp[j] += (double)b.dout[i * (f.q_cols + b.pad) + h * d + e] *
                     (double)f.v[(begin + j) * f.kv_stride + kv + e];
        }
        x *= scale, slope[j] = scale;
        if (cap > 0) {
            double u = tanh(x / cap);
            x = cap * u, slope[j] *= 1 - u * u;
        }
        if (f.spec.window > 0 && j <= position - f.spec.window) x = -INFINITY;
        p[j] = x, top = x > top ? x : top;
    }
    if (!f.sinks.empty()) total = exp((double)f.sinks[h] - top);
    for (double &x : p) total += x = exp(x - top);
    double mean = 0;
    for (int32_t j = 0; j <= position; j++) mean += (p[j] /= total) * dp[j];
    for (int32_t j = 0; j <= position; j++) {
        double ds = p[j] * (dp[j] - mean) * slope[j];
        int64_t to = b.offsets[c] + begin + j - b.first[c];
        for (int32_t e = 0; e < d; e++) {
            g[0][i * f.q_cols + h * d + e] +=
                ds * (double)f.k[(begin + j) * f.kv_stride + kv + e];
            if (begin + j < b.first[c]) continue;
            g[1][to * f.kv_cols + kv + e] +=
                ds * (double)f.q[token * f.q_stride + h * d + e];
            g[2][to * f.kv_cols + kv + e] +=
                p[j] * (double)b.dout[i * (f.q_cols + b.pad) + h * d + e];
        }
    }
}

static bool compare(const char *what, const back &b, const floats &got,
                    const std::vector<double> &want, int64_t cols,
                    double tolerance) {
    bool good = true;
    for (size_t i = 0; i < b.row.size(); i++)
        good = close_f32(what, &got[i * (cols + b.pad)], &want[i * cols],
                         (size_t)cols, tolerance, tolerance) &&
               good;
    for (size_t i = 0; i < got.size(); i++)
        if ((int64_t)i % (cols + b.pad) >= cols)
            good = good && got[i] == -12345.678f;
    return good;
}

static std::vector<double> widened(const back &b, const floats &x,
                                   int64_t cols) {
    std::vector<double> wide;
    for (size_t i = 0; i < b.row.size(); i++)
        for (int64_t j = 0; j < cols; j++)
            wide.push_back((double)x[i * (cols + b.pad) + j]);
    return wide;
}

/* ---------------------------------------------------------------- the tests */

Test(attention_backward, values) {
    for (const back_case &c : CASES) {
        ks_err err = {KS_OK, ""};
        back b(c, COTS, N_COTS);
        int64_t qc = b.f.q_cols, kc = b.f.kv_cols;
        cr_assert(b.run(c.precise, 0, &err) == KS_OK, "%s", err.text);
        std::vector<double> g[3];
        g[0].assign(b.row.size() * qc, 0);
        g[1].assign(b.row.size() * kc, 0);
        g[2] = g[1];
        for (int32_t t = 0; t < N_COTS; t++)
            for (int32_t i = b.offsets[t]; i < b.offsets[t + 1]; i++)
                for (int32_t h = 0; h < c.heads; h++)
                    reference_row(b, t, i, h, g);
        double tolerance = c.precise ? 1e-4 : 2e-2;
        cr_expect(compare("dq", b, b.dq, g[0], qc, tolerance));
        cr_expect(compare("dk", b, b.dk, g[1], kc, tolerance));
        cr_expect(compare("dv", b, b.dv, g[2], kc, tolerance));
        floats dq = b.dq, dk = b.dk, dv = b.dv;
        b.run_cpu();
        cr_expect(
            compare("dq, CPU", b, dq, widened(b, b.dq, qc), qc, tolerance));
        cr_expect(
            compare("dk, CPU", b, dk, widened(b, b.dk, kc), kc, tolerance));
        cr_expect(
            compare("dv, CPU", b, dv, widened(b, b.dv, kc), kc, tolerance));
    }
}

static bool same(const floats &all, const floats &one, int64_t row, int64_t n,
                 int64_t cols, int64_t pad) {
    for (int64_t i = 0; i < n; i++)
        if (memcmp(&all[(row + i) * (cols + pad)], &one[i * (cols + pad)],
                   (size_t)cols * sizeof(float)))
            return false;
    return true;
}

Test(attention_backward, bits_alone_and_among_others) {
    static const int picked[] = {0, 4, 8};
    for (int i : picked) {
        const back_case &c = CASES[i];
        ks_err err;
        back all(c, COTS, N_COTS);
        simt_seed(5);
        cr_assert(all.run(c.precise, 0, &err) == KS_OK);
        for (int32_t t = 0; t < N_COTS; t++) {
            if (COTS[t].n == 0) continue;
            back one(c, COTS + t, 1);
            simt_seed(6 + (uint64_t)t);
            cr_assert(one.run(c.precise, 0, &err) == KS_OK);
            int64_t n = COTS[t].n, row = all.offsets[t];
            cr_expect(same(all.dq, one.dq, row, n, all.f.q_cols, c.pad) &&
                          same(all.dk, one.dk, row, n, all.f.kv_cols, c.pad) &&
                          same(all.dv, one.dv, row, n, all.f.kv_cols, c.pad),
                      "cotangent %d of case %d", (int)t, i);
        }
    }
}

Test(attention_backward, refusals) {
    ks_err err = {KS_OK, ""};
    back b(CASES[0], COTS, N_COTS);
    cr_expect(b.run(false, 2000, &err) == KS_NOMEM);
    cr_expect(strstr(err.text, "levels and dots") != NULL, "%s", err.text);
    back none(CASES[0], COTS + 3, 1);
    cr_expect(none.run(false, 0, &err) == KS_OK, "%s", err.text);
    ks_dev *dev;
    cr_assert(ks__cuda_open(&dev, 0, 0, &err) == KS_OK);
    for (int wrong = 0; wrong < 11; wrong++) {
        static const char *const names[] = {
            "dq", "dk", "dv",   "dout",  "out",        "q",
            "k",  "v",  "past", "heads", "hidden keys"};
        ks_attn_spec spec = b.f.spec;
        ks_seqs seqs = {b.f.n_seq, b.f.n_tok, NULL, NULL, NULL, 0, NULL};
        ks_cots cots = {N_COTS, (int32_t)b.row.size(), NULL, NULL, NULL};
        ks_view x[8];
        for (int i = 0; i < 8; i++)
            x[i] = attn_batch::view(NULL, i < 4 ? cots.n_rows : seqs.n_tok,
                                    i == 0 || (i > 2 && i < 6) ? b.f.q_cols
                                                               : b.f.kv_cols,
                                    b.f.q_stride);
        if (wrong < 8) x[wrong].rows--;
        if (wrong == 8) seqs.past = b.offsets.data();
        if (wrong == 9) spec.n_kv_heads = 2;
        if (wrong == 10) seqs.hidden = b.offsets.data();
        ks_status st =
            ks__cuda_attention_backward(dev, x[0], x[1], x[2], x[3], x[4], x[5],
                                        x[6], x[7], &spec, &seqs, &cots, &err);
        cr_expect(eq(int, st, KS_INTERNAL));
        cr_expect(strstr(err.text, names[wrong]) != NULL, "%s: %s",
                  names[wrong], err.text);
    }
    ks__cuda_close(&dev);
}
