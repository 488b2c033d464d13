/* check_blaslt_ops.cpp - products with bf16 weights by cuBLASLt, here the
 * simulator's: values, bits of a row in any batch, what is left to the own
 * kernel, and how the library is found. */
#include "product.h"

namespace {

struct problem {
    int64_t m, n, k, pad;
    bool bias, accumulate, precise;
};

void check(two_backends *b, problem q) {
    b->cuda->precise = q.precise;
    matrix x(q.m, q.k, q.k + q.pad), out(q.m, q.n, q.n + q.pad);
    matrix bias(1, q.n, q.n);
    weights w(KS_BF16, q.n, q.k, q.k);
    const float *on = q.bias ? bias.device + GUARD_FLOATS : NULL;
    bool served;
    cr_assert(ks__blaslt_gemm(b->cuda, out.view(), x.view(), w.view(), on,
                              q.accumulate, &served, &b->err) == KS_OK,
              "%s", b->err.text);
    cr_assert(served, "%lld", (long long)q.m);
    OK(cudaStreamSynchronize(b->cuda->stream));
    std::vector<float> got = out.get();
    for (int64_t i = 0; i < q.m; i++)
        for (int64_t j = 0; j < q.n; j++) {
            double want = q.bias ? (double)bias.at(0, j) : 0;
            if (q.accumulate) want += (double)out.at(i, j);
            double size = fabs(want) + 2;
            for (int64_t k = 0; k < q.k; k++) {
                terms t = terms_of(x.at(i, k), q.precise ? 2 : 1);
                double v = (t.hi + t.lo) * (double)w.at(j, k);
                want += v;
                size += fabs(v);
            }
            double v = (double)got[(size_t)(i * q.n + j)];
            cr_assert(fabs(v - want) <= 1e-6 * size,
                      "m %lld [%lld,%lld]: got %.9g, not %.9g", (long long)q.m,
                      (long long)i, (long long)j, v, want);
        }
}

} // namespace

/* One row, a block less and more a row, strides that are aligned or not. */
Test(blaslt, gemm) {
    two_backends *b = with_blaslt();
    static const problem table[] = {
        {1, 4, 8, 0, false, false, false},
        {5, 12, 40, 4, true, true, false},
        {5, 12, 40, 3, true, true, true},
        {511, 4, 8, 0, true, false, true},
        {512, 8, 16, 0, true, true, true},
        {513, 12, 24, 0, false, true, false},
        {1030, 4, 8, 1, true, true, false},
        {512, 4, 520, 4, true, false, true},
    };
    for (const problem &q : table) {
        simt_seed(random_bits() % 100);
        check(b, q);
    }
    ks__blaslt_close(b->cuda);
    cr_expect(b->cuda->in_use == 0, "scratch is given back");
}

/* A row's bits, alone and in another place among more than a block. Also the
 * first thing to run on a GPU, where the library is NVIDIA's. */
Test(blaslt, bits_of_a_row) {
    two_backends *b = with_blaslt();
    int64_t n = 20, k = 72, m = 600;
    matrix x(m, k, k);
    weights w(KS_BF16, n, k, k);
    std::vector<float> first;
    static const int64_t batches[][2] = {
        {520, 1}, {520, 80}, {500, 30}, {0, 600}};
    for (int precise = 0; precise < 2; precise++)
        for (const int64_t *batch : batches) {
            b->cuda->precise = precise;
            matrix out(batch[1], n, n);
            ks_view v = x.view();
            v.data = (float *)v.data + batch[0] * k;
            v.rows = batch[1];
            cr_assert(ks__cuda_gemm(b->cuda, out.view(), v, w.view(), NULL,
                                    false, &b->err) == KS_OK,
                      "%s", b->err.text);
            OK(cudaStreamSynchronize(b->cuda->stream));
            std::vector<float> all = out.get();
            const float *row = &all[(size_t)((520 - batch[0]) * n)];
            if (batch == batches[0]) first.assign(row, row + n);
            cr_assert(memcmp(first.data(), row, (size_t)n * 4) == 0,
                      "among %lld rows", (long long)batch[1]);
        }
    ks__blaslt_close(b->cuda);
}

/* What it does not serve, the own kernel does. */
Test(blaslt, left_to_the_own_kernel) {
    two_backends *b = with_blaslt();
    b->cuda->precise = false;
    static const struct {
        ks_type type;
        int64_t n, k;
    } table[] = {{KS_F32, 8, 8}, {KS_BF16, 8, 12}, {KS_BF16, 7, 8}};
    for (const auto &t : table) {
        matrix x(3, t.k, t.k), out(3, t.n, t.n);
        weights w(t.type, t.n, t.k, t.k);
        bool served = true;
        cr_assert(ks__blaslt_gemm(b->cuda, out.view(), x.view(), w.view(), NULL,
                                  false, &served, &b->err) == KS_OK,
                  "%s", b->err.text);
        cr_expect(served == false, "%lld x %lld", (long long)t.n,
                  (long long)t.k);
        cr_assert(ks__cuda_gemm(b->cuda, out.view(), x.view(), w.view(), NULL,
                                false, &b->err) == KS_OK,
                  "%s", b->err.text);
        OK(cudaStreamSynchronize(b->cuda->stream));
        double want = 0;
        for (int64_t k = 0; k < t.k; k++)
            want += (double)bf16_of(x.at(2, k)) * (double)w.at(t.n - 1, k);
        cr_expect(fabs((double)out.get().back() - want) < 1e-4, "%g", want);
    }
    ks__blaslt_close(b->cuda);
}

/* Out is added to once, by whichever of the two serves; also where cuBLASLt has
 * no algorithm for a shape, and says so in either way. */
static void served_once(two_backends *b, const char *no_algorithm, bool bias) {
    if (no_algorithm) setenv("KS_SIMT_NO_ALGORITHM", no_algorithm, 1);
    b->cuda->precise = false;
    matrix x(3, 16, 16), out(3, 8, 8), add(1, 8, 8), c(3, 8, 8), d(8, 8, 8);
    weights w(KS_BF16, 8, 16, 16);
    bool served;
    const float *on = bias ? add.device + GUARD_FLOATS : NULL;
    cr_assert(ks__cuda_gemm(b->cuda, out.view(), x.view(), w.view(), on, true,
                            &b->err) == KS_OK,
              "%s", b->err.text);
    cr_assert(ks__blaslt_matmul(b->cuda, c.view(), out.view(), false, d.view(),
                                false, 1, 0, &served, &b->err) == KS_OK,
              "%s", b->err.text);
    cr_expect(served == (no_algorithm == NULL), "matmul");
    cr_assert(ks__cuda_matmul(b->cuda, c.view(), out.view(), false, d.view(),
                              false, 1, 0, &b->err) == KS_OK,
              "%s", b->err.text);
    OK(cudaStreamSynchronize(b->cuda->stream));
    double want = (double)out.at(2, 7) + (bias ? (double)add.at(0, 7) : 0);
    for (int64_t k = 0; k < 16; k++)
        want += (double)bf16_of(x.at(2, k)) * (double)w.at(7, k);
    cr_expect(fabs((double)out.get().back() - want) < 1e-5, "%g", want);
    unsetenv("KS_SIMT_NO_ALGORITHM");
}

Test(blaslt, served_once) {
    static const char *const answers[] = {NULL, "none", "not supported"};
    for (const char *answer : answers) {
        if (answer && !simt_simulated()) break; /* NVIDIA's takes no orders */
        for (int bias = 0; bias < 2; bias++) {
            two_backends *b =
                with_blaslt(); /* plans are kept while it is open */
            served_once(b, answer, bias);
            ks__blaslt_close(b->cuda);
        }
    }
}

/* Few rows are the own kernel's: its bits, which are not cuBLASLt's. */
Test(blaslt, few_rows) {
    two_backends *b = with_blaslt();
    int64_t m = 3, n = 8, k = 1032;
    matrix x(m, k, k);
    weights w(KS_BF16, n, k, k);
    std::vector<float> out[3]; /* cuBLASLt's, few rows, no cuBLASLt */
    struct ks__blaslt *lt = b->cuda->blaslt;
    for (int i = 0; i < 3; i++) {
        matrix y(m, n, n);
        b->cuda->few_rows = i == 1;
        b->cuda->blaslt = i == 2 ? NULL : lt;
        cr_assert(ks__cuda_gemm(b->cuda, y.view(), x.view(), w.view(), NULL,
                                false, &b->err) == KS_OK,
                  "%s", b->err.text);
        OK(cudaStreamSynchronize(b->cuda->stream));
        out[i] = y.get();
    }
    cr_expect(out[0] != out[1], "sums of another order");
    cr_expect(out[1] == out[2], "the own kernel's");
    b->cuda->blaslt = lt;
    ks__blaslt_close(b->cuda);
}

Test(blaslt, how_it_is_found) {
    two_backends *b = backends();
    setenv("KS_CUBLASLT", "none", 1);
    cr_expect(ks__blaslt_open(b->cuda, &b->err) == KS_OK, "%s", b->err.text);
    cr_expect(b->cuda->blaslt == NULL, "none");
    ks__blaslt_close(b->cuda); /* nothing to close is no error */
    setenv("KS_CUBLASLT", "/no/such.so", 1);
    cr_expect(ks__blaslt_open(b->cuda, &b->err) == KS_IO, "named, not there");
    cr_expect(strncmp(b->err.text, "KS_CUBLASLT names /no/such.so: ", 31) == 0,
              "%s", b->err.text);
    setenv("KS_CUBLASLT", "libm.so.6", 1);
    cr_expect(ks__blaslt_open(b->cuda, &b->err) == KS_UNSUPPORTED, "other");
    cr_expect(strcmp(b->err.text, "libm.so.6: has no cublasLtCreate") == 0,
              "%s", b->err.text);
    cr_expect(b->cuda->blaslt == NULL, "closed again");
}
