/* check_matmul.cpp - the probes' f32 products: the own kernel, and cuBLASLt
 * where the simulator has it, against sums in double and the CPU's op. */
#include "product.h"

namespace {

struct shape {
    int64_t m, n, k, pad;
    float alpha, beta;
};

double product_of(matrix *a, bool ta, matrix *b, bool tb, int64_t i, int64_t j,
                  int64_t k, double *size) {
    double sum = 0;
    for (int64_t l = 0; l < k; l++) {
        double x = (double)(ta ? a->at(l, i) : a->at(i, l)) *
                   (double)(tb ? b->at(j, l) : b->at(l, j));
        sum += x;
        *size += fabs(x);
    }
    return sum;
}

void check(shape s, bool ta, bool tb) {
    two_backends *t = backends();
    matrix a(ta ? s.k : s.m, ta ? s.m : s.k, (ta ? s.m : s.k) + s.pad);
    matrix b(tb ? s.n : s.k, tb ? s.k : s.n, (tb ? s.k : s.n) + s.pad);
    matrix c(s.m, s.n, s.n + s.pad);
    if (s.beta == 0) c.at(0, 0) = (float)NAN; /* not read */
    c.put();
    cr_assert(ks__cuda_matmul(t->cuda, c.view(), a.view(), ta, b.view(), tb,
                              s.alpha, s.beta, &t->err) == KS_OK,
              "%s", t->err.text);
    OK(cudaStreamSynchronize(t->cuda->stream));
    std::vector<float> got = c.get();
    for (int64_t i = 0; i < s.m; i++)
        for (int64_t j = 0; j < s.n; j++) {
            double size = 0;
            double want = product_of(&a, ta, &b, tb, i, j, s.k, &size);
            want *= (double)s.alpha;
            size *= fabs((double)s.alpha);
            if (s.beta != 0) {
                want += (double)s.beta * (double)c.at(i, j);
                size += fabs((double)s.beta * (double)c.at(i, j));
            }
            double v = (double)got[(size_t)(i * s.n + j)];
            cr_assert(fabs(v - want) <= 1e-6 * size,
                      "%lldx%lldx%lld %d%d [%lld,%lld]: got %.9g, not %.9g",
                      (long long)s.m, (long long)s.n, (long long)s.k, ta, tb,
                      (long long)i, (long long)j, v, want);
        }
    if (s.beta == 0) c.at(0, 0) = 0;
    cr_assert(t->ops->matmul(t->cpu, c.host(), a.host(), ta, b.host(), tb,
                             s.alpha, s.beta, &t->err) == KS_OK,
              "%s", t->err.text);
    for (int64_t i = 0; i < s.m; i++)
        for (int64_t j = 0; j < s.n; j++)
            cr_assert(fabs((double)got[(size_t)(i * s.n + j)] -
                           (double)c.at(i, j)) <= 2e-6 * (double)s.k + 1e-5);
}

const shape shapes[] = {
    {1, 1, 1, 0, 1, 0},        {31, 33, 17, 1, 1, 0},
    {64, 64, 16, 0, -0.5f, 1}, {65, 67, 33, 4, 2, -0.25f},
    {5, 130, 300, 3, 1, 0},    {5, 7, 11, 1, 1, 0},
    {129, 3, 272, 0, 1, 1},    {8, 64, 512, 0, 1, 0},
};

void all(void) {
    for (const shape &s : shapes)
        for (int t = 0; t < 4; t++) {
            simt_seed(random_bits() % 100);
            check(s, t & 1, t & 2);
        }
}

} // namespace

Test(matmul, own) {
    cr_assert(backends()->cuda->blaslt == NULL, "not opened here");
    all();
}

#ifdef SIMT_CUBLASLT
Test(matmul, blaslt) {
    two_backends *t = with_blaslt();
    all();
    ks__blaslt_close(t->cuda);
}
#endif

/* The same bits whatever the order of threads. */
Test(matmul, seeds) {
    two_backends *t = backends();
    matrix a(70, 50, 50), b(50, 66, 66), c(70, 66, 66);
    std::vector<float> first;
    for (uint64_t seed = 0; seed < 4; seed++) {
        simt_seed(seed);
        cr_assert(ks__cuda_matmul(t->cuda, c.view(), a.view(), false, b.view(),
                                  false, 1, 0, &t->err) == KS_OK,
                  "%s", t->err.text);
        OK(cudaStreamSynchronize(t->cuda->stream));
        std::vector<float> got = c.get();
        if (seed == 0) first = got;
        cr_assert(memcmp(first.data(), got.data(), got.size() * 4) == 0,
                  "seed %d", (int)seed);
    }
}

Test(matmul, refusals) {
    two_backends *t = backends();
    matrix a(3, 4, 4), b(4, 5, 5), c(3, 5, 5);
    ks_view bad = b.view();
    bad.rows = 3;
    cr_expect(ks__cuda_matmul(t->cuda, c.view(), a.view(), false, bad, false, 1,
                              0, &t->err) == KS_INTERNAL,
              "inner lengths");
    cr_expect(strcmp(t->err.text, "matmul: shapes [3,5] = [3,4] [3,5]") == 0,
              "%s", t->err.text);
    bad = a.view();
    bad.type = KS_BF16;
    cr_expect(ks__cuda_matmul(t->cuda, c.view(), bad, false, b.view(), false, 1,
                              0, &t->err) == KS_INTERNAL,
              "types");
    cr_expect(strcmp(t->err.text, "matmul: types f32 = bf16 f32") == 0, "%s",
              t->err.text);
    ks_view no_c = c.view(), no_a = a.view();
    no_c.rows = no_a.rows = 0;
    cr_expect(ks__cuda_matmul(t->cuda, no_c, no_a, false, b.view(), false, 1, 0,
                              &t->err) == KS_OK,
              "no rows");
}
