/* check_gemm.cpp - products with stored weights, and their backward twins:
 * against sums in double of the terms that the tensor cores multiply, against
 * the CPU's op, and against themselves in other batches. */
#include "product.h"

namespace {

/* Rows a tile, as gemm.cuh chooses by the number of rows and of processors. */
enum tile { FEW, SOME, MANY };

struct problem {
    int64_t m, n, k; /* out [m, n], sums over k */
    int64_t pad;     /* elements between rows */
    bool bias, accumulate;
};

ks_status run(two_backends *b, bool turned, ks_view out, ks_view x, ks_view w,
              const float *bias, bool accumulate) {
    return turned
               ? ks__cuda_gemm_backward(b->cuda, out, x, w, accumulate, &b->err)
               : ks__cuda_gemm(b->cuda, out, x, w, bias, accumulate, &b->err);
}

int terms_of_w(ks_type type, bool precise) {
    if (type == KS_BF16) return 1;
    return precise || type == KS_F32 || type == KS_F16 ? 2 : 1;
}

/* Every element's sum, in double. */
std::vector<reference> products(matrix *x, const weights *w, bool turned,
                                int64_t n, bool precise) {
    std::vector<reference> out;
    int xt = precise ? 2 : 1, wt = terms_of_w(w->type, precise);
    for (int64_t i = 0; i < x->rows; i++)
        for (int64_t j = 0; j < n; j++) {
            reference r = {};
            for (int64_t k = 0; k < x->cols; k++) {
                float a = x->at(i, k), c = turned ? w->at(k, j) : w->at(j, k);
                terms ta = terms_of(a, xt), tc = terms_of(c, wt);
                double exact = (double)a * (double)c;
                r.by_terms += ta.hi * (tc.hi + tc.lo) + ta.lo * tc.hi;
                r.plain += exact;
                r.all += fabs(exact);
                r.root += exact * exact;
            }
            r.root = sqrt(r.root);
            out.push_back(r);
        }
    return out;
}

void add(reference *r, float v) {
    r->by_terms += (double)v;
    r->plain += (double)v;
    r->all += fabs((double)v);
    r->root += fabs((double)v);
}

void check(ks_type type, problem q, bool turned, bool precise, tile t) {
    two_backends *b = backends();
    b->cuda->precise = precise;
    b->cuda->n_sm = t == MANY ? 1 : 1000000;
    matrix x(q.m, q.k, q.k + q.pad), out(q.m, q.n, q.n + q.pad);
    int64_t gap = ks_type_block(type) == 1 ? q.pad : 0;
    int64_t rows = turned ? q.k : q.n, cols = turned ? q.n : q.k;
    weights w(type, rows, cols, cols + gap);
    matrix bias(1, q.n, q.n);
    const float *on = q.bias ? bias.device + GUARD_FLOATS : NULL;
    cr_assert(run(b, turned, out.view(), x.view(), w.view(), on,
                  q.accumulate) == KS_OK,
              "%s", b->err.text);
    OK(cudaStreamSynchronize(b->cuda->stream));
    std::vector<float> got = out.get();
    std::vector<reference> want = products(&x, &w, turned, q.n, precise);
    for (int64_t i = 0; i < q.m; i++)
        for (int64_t j = 0; j < q.n; j++) {
            reference *r = &want[(size_t)(i * q.n + j)];
            if (q.bias) add(r, bias.at(0, j));
            if (q.accumulate) add(r, out.at(i, j));
            float v = got[(size_t)(i * q.n + j)];
            cr_assert(near(v, *r, precise ? 1e-4 : 2e-2),
                      "%s%s %lldx%lldx%lld [%lld,%lld]: got %.9g, terms "
                      "%.9g, exact %.9g",
                      ks_type_name(type), turned ? " turned" : "",
                      (long long)q.m, (long long)q.n, (long long)q.k,
                      (long long)i, (long long)j, (double)v, r->by_terms,
                      r->plain);
        }
    /* The CPU's op, in place of its own copy of out. */
    ks_view host = out.host();
    const float *hb = q.bias ? &bias.at(0, 0) : NULL;
    ks_status st = turned
                       ? b->ops->gemm_backward(b->cpu, host, x.host(), w.host(),
                                               q.accumulate, &b->err)
                       : b->ops->gemm(b->cpu, host, x.host(), w.host(), hb,
                                      q.accumulate, &b->err);
    cr_assert(st == KS_OK, "%s", b->err.text);
    for (int64_t i = 0; i < q.m; i++)
        for (int64_t j = 0; j < q.n; j++) {
            size_t e = (size_t)(i * q.n + j);
            double diff = fabs((double)got[e] - (double)out.at(i, j));
            cr_assert(diff <= (precise ? 1e-4 : 2e-2) * want[e].root,
                      "the CPU has %.9g, not %.9g", (double)out.at(i, j),
                      (double)got[e]);
        }
}

int64_t depth(ks_type type) {
    return ks_type_block(type) == 256 ? 256 : 160;
}

void every_type(bool turned) {
    for (int type = 0; type < KS_I32; type++)
        for (int precise = 0; precise < 2; precise++) {
            simt_seed(random_bits() % 100);
            int64_t wide = depth((ks_type)type);
            problem q = {3, 37, wide, 0, !turned, false};
            if (turned) q.n = wide, q.k = 37;
            check((ks_type)type, q, turned, precise, FEW);
        }
}

} // namespace

Test(gemm, every_type) {
    every_type(false);
}

Test(gemm, every_type_turned) {
    every_type(true);
}

/* Sums of one and more blocks and passes, odd everything. */
static const problem odd[] = {
    {1, 1, 1, 0, false, false},   {1, 31, 33, 1, true, true},
    {16, 33, 31, 0, true, false}, {7, 65, 129, 3, false, true},
    {5, 32, 64, 8, true, true},   {2, 29, 200, 0, false, false},
    {3, 40, 296, 4, true, false},
};
static const problem some[] = {{17, 33, 40, 0, true, false},
                               {64, 31, 67, 5, false, true},
                               {65, 37, 136, 8, true, true}};
static const problem many[] = {{65, 129, 40, 0, true, false},
                               {131, 67, 101, 3, false, true},
                               {70, 136, 168, 8, true, true}};

static void shapes(const problem *q, size_t n, tile t) {
    static const ks_type types[] = {KS_F32, KS_F16, KS_BF16};
    for (size_t i = 0; i < n; i++)
        for (int j = 0; j < 8; j++) {
            simt_seed(i * 8 + (size_t)j);
            problem p = q[i];
            bool turned = j & 1;
            if (turned) p.bias = false;
            check(types[(i + (size_t)j / 2) % 3], p, turned, j & 4, t);
        }
}

Test(gemm, few_rows) {
    shapes(odd, sizeof odd / sizeof *odd, FEW);
}
Test(gemm, some_rows) {
    shapes(some, sizeof some / sizeof *some, SOME);
}
Test(gemm, many_rows) {
    shapes(many, sizeof many / sizeof *many, MANY);
}

/* bf16 by cp.async, past the ring's four stages, in every tile. */
Test(gemm, long_chains_of_bf16) {
    static const problem q[] = {{4, 40, 704, 0, true, false},
                                {20, 40, 704, 8, false, true},
                                {68, 24, 264, 0, true, false}};
    for (int i = 0; i < 3; i++)
        for (int turned = 0; turned < 2; turned++)
            for (int precise = 0; precise < 2; precise++) {
                problem p = q[i];
                if (turned) p.bias = false;
                check(KS_BF16, p, turned, precise, (tile)i);
            }
}

/* Row `row` of a product of x's rows [first, first + m). */
static std::vector<float> row_among(two_backends *b, bool turned, matrix *x,
                                    weights *w, int64_t n, int64_t first,
                                    int64_t m, int64_t row, uint64_t seed) {
    simt_seed(seed);
    matrix out(m, n, n);
    ks_view v = x->view();
    v.data = (float *)v.data + first * v.stride;
    v.rows = m;
    cr_assert(run(b, turned, out.view(), v, w->view(), NULL, false) == KS_OK,
              "%s", b->err.text);
    OK(cudaStreamSynchronize(b->cuda->stream));
    std::vector<float> all = out.get();
    size_t at = (size_t)((row - first) * n);
    return std::vector<float>(all.begin() + (long)at,
                              all.begin() + (long)at + (long)n);
}

/* A row has the same bits alone, among others, in every tile, whatever the
 * others hold, with any order of threads. */
static void invariant(ks_type type, bool turned, bool precise) {
    two_backends *b = backends();
    b->cuda->precise = precise;
    int64_t m = 70, n = ks_type_block(type) == 1 ? 41 : 64, k = 200;
    if (ks_type_block(type) > 1 && !turned) n = 41, k = 192;
    matrix x(m, k, k);
    weights w(type, turned ? k : n, turned ? n : k, turned ? n : k);
    b->cuda->n_sm = 1000000;
    std::vector<float> alone = row_among(b, turned, &x, &w, n, 37, 1, 37, 1);
    static const int64_t batches[][2] = {{30, 16}, {37, 5}, {10, 33}, {0, 70}};
    for (int sm = 1; sm <= 1000000; sm += 999999)
        for (const int64_t *batch : batches) {
            b->cuda->n_sm = sm;
            for (int64_t i = 0; i < k; i++) x.at(36, i) = (float)NAN;
            for (int64_t i = 0; i < k; i++) x.at(38, i) = random_unit();
            x.put();
            std::vector<float> got = row_among(b, turned, &x, &w, n, batch[0],
                                               batch[1], 37, random_bits());
            cr_assert(memcmp(got.data(), alone.data(), (size_t)n * 4) == 0,
                      "%s%s: other bits among %lld rows", ks_type_name(type),
                      turned ? " turned" : "", (long long)batch[1]);
        }
}

Test(gemm, bits_of_a_row) {
    static const ks_type types[] = {KS_F32, KS_F16, KS_BF16, KS_Q4_0};
    for (int i = 0; i < 8; i++)
        invariant(types[i / 2], i & 1, i == 3 || i == 4 || i == 7);
}

/* NaN stays in its row, and is not lost. */
Test(gemm, nan) {
    two_backends *b = backends();
    matrix x(3, 40, 40), out(3, 9, 9);
    weights w(KS_BF16, 9, 40, 40);
    x.at(1, 17) = (float)NAN;
    x.put();
    cr_assert(run(b, false, out.view(), x.view(), w.view(), NULL, false) ==
              KS_OK);
    OK(cudaStreamSynchronize(b->cuda->stream));
    std::vector<float> got = out.get();
    for (size_t i = 0; i < got.size(); i++)
        cr_expect(isnan(got[i]) == (i / 9 == 1), "at %d", (int)i);
}

/* The view with one thing wrong. */
static ks_view typed(ks_view v, ks_type type) {
    v.type = type;
    return v;
}
static ks_view sized(ks_view v, int64_t rows, int64_t cols) {
    v.rows = rows, v.cols = cols;
    return v;
}

static void refused(bool turned, ks_view out, ks_view x, ks_view w,
                    const char *text) {
    two_backends *b = backends();
    cr_expect(run(b, turned, out, x, w, NULL, false) == KS_INTERNAL, "%s",
              text);
    cr_expect(strcmp(b->err.text, text) == 0, "%s is not %s", b->err.text,
              text);
}

Test(gemm, refusals) {
    matrix mx(3, 40, 40), mo(3, 9, 9);
    weights mw(KS_F32, 9, 40, 40);
    ks_view x = mx.view(), out = mo.view(), w = mw.view();
    refused(false, out, sized(x, 3, 39), w,
            "gemm: shapes [3,9] = [3,39] [9,40]^T");
    refused(false, sized(out, 3, 8), x, w,
            "gemm: shapes [3,8] = [3,40] [9,40]^T");
    refused(false, sized(out, 2, 9), x, w,
            "gemm: shapes [2,9] = [3,40] [9,40]^T");
    refused(false, out, sized(x, 3, 0), sized(w, 9, 0),
            "gemm: shapes [3,9] = [3,0] [9,0]^T");
    refused(false, out, x, typed(w, KS_I32), "gemm: types f32 = f32 i32");
    refused(false, out, typed(x, KS_F16), w, "gemm: types f32 = f16 f32");
    refused(false, typed(out, KS_F16), x, w, "gemm: types f16 = f32 f32");
    refused(true, x, sized(out, 3, 8), w,
            "gemm_backward: shapes [3,40] = [3,8] [9,40]");
    refused(true, sized(x, 3, 39), out, w,
            "gemm_backward: shapes [3,39] = [3,9] [9,40]");
    refused(true, sized(x, 2, 40), out, w,
            "gemm_backward: shapes [2,40] = [3,9] [9,40]");
    refused(true, x, sized(out, 3, 0), sized(w, 0, 40),
            "gemm_backward: shapes [3,40] = [3,0] [0,40]");
    refused(true, x, out, typed(w, KS_I32),
            "gemm_backward: types f32 = f32 i32");
    refused(true, x, typed(out, KS_F16), w,
            "gemm_backward: types f32 = f16 f32");
    refused(true, typed(x, KS_F16), out, w,
            "gemm_backward: types f16 = f32 f32");
    two_backends *b = backends();
    ks_view none = sized(x, 0, 40), no_out = sized(out, 0, 9);
    cr_expect(run(b, false, no_out, none, w, NULL, false) == KS_OK, "no rows");
    cr_expect(run(b, true, none, no_out, w, NULL, false) == KS_OK, "no rows");
    cr_expect(ks__cuda_gemm_grouped(b->cuda, no_out, none, NULL, w, NULL, NULL,
                                    1, &b->err) == KS_OK,
              "no rows");
}

/* ----------------------------------------------------------------- experts */

/* Copies host integers; the caller's, for cudaFree. */
static int32_t *device_ints(const std::vector<int32_t> &from) {
    void *p = NULL;
    OK(cudaMalloc(&p, from.size() * 4));
    OK(upload(p, from.data(), from.size() * 4));
    return (int32_t *)p;
}

/* Each expert's rows have the bits of gemm with that expert's weights. */
static void grouped(const std::vector<int32_t> &offsets, bool gather,
                    ks_type type, int sm) {
    two_backends *b = backends();
    b->cuda->precise = gather;
    b->cuda->n_sm = sm;
    int32_t experts = (int32_t)offsets.size() - 1, m = offsets.back();
    int64_t n = 37, k = ks_type_block(type) == 1 ? 41 : 64;
    matrix x(m, k, k + 1), bias(experts, n, n), out(m, n, n + 1);
    weights w(type, experts * n, k, k);
    std::vector<int32_t> row;
    for (int32_t i = 0; i < m; i++)
        row.push_back(gather ? (int32_t)(random_bits() % (uint64_t)m) : i);
    int32_t *d_offsets = device_ints(offsets), *d_row = device_ints(row);
    const float *d_bias = gather ? bias.device + GUARD_FLOATS : NULL;
    simt_seed(random_bits() % 100);
    cr_assert(ks__cuda_gemm_grouped(b->cuda, out.view(), x.view(),
                                    gather ? d_row : NULL, w.view(), d_bias,
                                    d_offsets, experts, &b->err) == KS_OK,
              "%s", b->err.text);
    OK(cudaStreamSynchronize(b->cuda->stream));
    std::vector<float> got = out.get();
    for (int32_t e = 0; e < experts; e++) {
        int32_t first = offsets[(size_t)e];
        int32_t rows = offsets[(size_t)e + 1] - first;
        if (!rows) continue;
        matrix mine(rows, k, k), want(rows, n, n);
        for (int32_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < k; j++)
                mine.at(i, j) = x.at(row[(size_t)(first + i)], j);
        mine.put();
        ks_view we = w.view();
        we.rows = n;
        we.data =
            (char *)we.data + (size_t)(e * n) * ks_type_row_bytes(type, k);
        cr_assert(run(b, false, want.view(), mine.view(), we,
                      d_bias ? d_bias + e * n : NULL, false) == KS_OK,
                  "%s", b->err.text);
        OK(cudaStreamSynchronize(b->cuda->stream));
        std::vector<float> one = want.get();
        cr_assert(
            memcmp(one.data(), &got[(size_t)(first * n)], one.size() * 4) == 0,
            "expert %d of %d", e, experts);
    }
    OK(cudaFree(d_offsets));
    OK(cudaFree(d_row));
}

Test(gemm, experts) {
    grouped({0, 0, 3, 3, 20, 37}, false, KS_MXFP4, 1000000);
    grouped({0, 1, 18, 18, 18, 35, 36, 36}, true, KS_BF16, 1000000);
    grouped({0, 40, 40, 131}, true, KS_F32, 1000000);
    grouped({0, 5, 133}, false, KS_BF16, 1);
    std::vector<int32_t> lots(1, 0); /* more than a warp can scan at once */
    for (int e = 0; e < 70; e++) lots.push_back(lots.back() + e % 3 * (e > 20));
    grouped(lots, false, KS_Q4_0, 1000000);
    lots.resize(33);
    grouped(lots, true, KS_Q4_0, 1000000);
}

Test(gemm, experts_refusals) {
    two_backends *b = backends();
    matrix x(3, 40, 40), out(4, 9, 9);
    weights w(KS_F32, 18, 40, 40);
    cr_expect(ks__cuda_gemm_grouped(b->cuda, out.view(), x.view(), NULL,
                                    w.view(), NULL, NULL, 2,
                                    &b->err) == KS_INTERNAL);
    cr_expect(strcmp(b->err.text,
                     "gemm_grouped: shapes [4,9] = [3,40] [18,40]^T") == 0,
              "%s", b->err.text);
}
