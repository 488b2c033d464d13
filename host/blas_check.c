/* blas_check.c - are the BLAS's products right on this processor? Distribution
 * builds are known to compute wrong ones on processors newer than themselves,
 * and a probe on wrong products looks like any other. */
#include "blas.h"

#include "base.h"
#include "sanitize.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <strings.h>

/* Odd sizes, more than one block of every loop. */
enum { M = 131, N = 203, K = 389 };

/* a [M,K], b [K,N] and both transposed; index 1: as stored transposed. */
typedef struct work {
    float a[2][M * K], b[2][K * N], c[M * N], square[N * N];
    double a64[2][M * K], b64[2][K * N], c64[M * N];
    double product[M * N], gram[N * N]; /* a b and b^T b, by plain loops */
} work;

/* A matrix and its transpose without a pattern, exact in f32. */
static void fill(float *x[2], double *x64[2], int rows, int cols,
                 uint32_t seed) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < cols; j++) {
            seed = seed * 1664525u + 1013904223u;
            float v = (float)(seed >> 8) * 0x1p-23f - 1;
            x[0][i * cols + j] = x[1][j * rows + i] = v;
            x64[0][i * cols + j] = x64[1][j * rows + i] = (double)v;
        }
}

/* c [m,N] = a b, a [m,K] */
KS_UNWATCHED static void multiply(double *c, const double *a, const double *b,
                                  int m) {
    for (int i = 0; i < m * N; i++) c[i] = 0;
    for (int i = 0; i < m; i++)
        for (int k = 0; k < K; k++)
            for (int j = 0; j < N; j++)
                c[i * N + j] += a[i * K + k] * b[k * N + j];
}

static void prepare(work *w) {
    fill((float *[]){w->a[0], w->a[1]}, (double *[]){w->a64[0], w->a64[1]}, M,
         K, 1);
    fill((float *[]){w->b[0], w->b[1]}, (double *[]){w->b64[0], w->b64[1]}, K,
         N, 2);
    multiply(w->product, w->a64[0], w->b64[0], M);
    multiply(w->gram, w->b64[1], w->b64[0], N);
}

/* Sums of K products of numbers below 1: f32 kernels differ from double by up
 * to 2e-4 here, each in its own order of summation; a wrong one, or one that
 * rounds its operands to bf16, by 0.01 and more. */
static const double near_f32 = 2e-3, near_f64 = 1e-11;

/* A NaN is wrong. */
static bool near(double value, double wanted, double tolerance) {
    return fabs(value - wanted) <= tolerance;
}

static bool products_are_right(work *w) {
    for (int i = 0; i < 4; i++) {
        bool ta = i & 1, tb = i >> 1;
        int64_t lda = ta ? M : K, ldb = tb ? K : N;
        ks__gemm_f32(ta, tb, M, N, K, w->a[ta], lda, w->b[tb], ldb, 0, w->c, N);
        ks__gemm_f64(ta, tb, M, N, K, w->a64[ta], lda, w->b64[tb], ldb, 0,
                     w->c64, N);
        for (int k = 0; k < M * N; k++)
            if (!near((double)w->c[k], w->product[k], near_f32) ||
                !near(w->c64[k], w->product[k], near_f64))
                return false;
    }
    ks__syrk_f32(N, K, w->b[0], w->square); /* which ks_alloc has zeroed */
    for (int i = 0; i < N; i++)
        for (int j = 0; j <= i; j++)
            if (!near((double)w->square[i * N + j], w->gram[i * N + j],
                      near_f32))
                return false;
    return true;
}

ks_status ks__blas_check(ks_err *err) {
    static atomic_bool right; /* a right answer is not asked for again */
    ks_status st = KS_OK;
    work *w = NULL;
    if (right) return KS_OK;
    KS_TRY(ks_alloc(&w, 1, sizeof *w, "the check of the BLAS", err));
    prepare(w);
    KS_CHECK(products_are_right(w), KS_NUMERIC,
             "the BLAS (%s, core %s) gives wrong products on this processor: "
             "set OPENBLAS_CORETYPE=Haswell (or another older core), or "
             "install a newer OpenBLAS",
             openblas_get_config(), openblas_get_corename());
    right = true;
done:
    free(w);
    return st;
}

/* Cooperlake is SkylakeX with BF16 kernels. */
const char *ks__blas_core(const char *have, ks_blas_cpu cpu, bool safe) {
    static const char *const narrow[] = {"Prescott", "Core2", "Nehalem",
                                         "Sandybridge"};
    if (!cpu.avx2) return NULL;
    for (size_t i = 0; i < KS_COUNT(narrow); i++)
        if (strcasecmp(have, narrow[i]) == 0)
            return safe || !cpu.avx512 ? "Haswell"
                   : cpu.bf16          ? "Cooperlake"
                                       : "SkylakeX";
    return NULL;
}
