/* blas_check.c - are the BLAS's products right on this processor? Distribution
 * builds are known to compute wrong ones on processors newer than themselves,
 * and a probe on wrong products looks like any other. */
#include "blas.h"

#include "base.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

/* Odd sizes, beyond one block of the vector kernels. */
enum { M = 37, N = 53, K = 131, SIDE = M > N ? M : N };

/* Numbers without a pattern, exact in f32. */
static void fill(float *x, double *x64, int n, uint32_t seed) {
    for (int i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) * 0x1p-23f - 1;
        x64[i] = (double)x[i];
    }
}

typedef struct work {
    float a[SIDE * K], b[SIDE * K], c[SIDE * SIDE];
    double a64[SIDE * K], b64[SIDE * K], c64[SIDE * SIDE];
} work;

/* c = op(a) op(b) to the tolerance of its type; a NaN is wrong. */
static bool is_product(const work *w, bool ta, bool tb, bool is_double) {
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            double sum = 0;
            for (int k = 0; k < K; k++)
                sum += w->a64[ta ? k * M + i : i * K + k] *
                       w->b64[tb ? j * K + k : k * N + j];
            double c = is_double ? w->c64[i * N + j] : (double)w->c[i * N + j];
            if (!(fabs(c - sum) <= (is_double ? 1e-11 : 1e-4))) return false;
        }
    return true;
}

/* Lower triangle of c [N,N] = b^T b, b [K,N]. */
static bool is_square(const work *w) {
    for (int i = 0; i < N; i++)
        for (int j = 0; j <= i; j++) {
            double sum = 0;
            for (int k = 0; k < K; k++)
                sum += w->b64[k * N + i] * w->b64[k * N + j];
            if (!(fabs((double)w->c[i * N + j] - sum) <= 1e-4)) return false;
        }
    return true;
}

static bool products_are_right(work *w) {
    fill(w->a, w->a64, SIDE * K, 1);
    fill(w->b, w->b64, SIDE * K, 2);
    for (int i = 0; i < 4; i++) {
        bool ta = i & 1, tb = i >> 1;
        ks__gemm_f32(ta, tb, M, N, K, w->a, ta ? M : K, w->b, tb ? K : N, 0,
                     w->c, N);
        ks__gemm_f64(ta, tb, M, N, K, w->a64, ta ? M : K, w->b64, tb ? K : N, 0,
                     w->c64, N);
        if (!is_product(w, ta, tb, false) || !is_product(w, ta, tb, true))
            return false;
    }
    for (int i = 0; i < N * N; i++) w->c[i] = 0;
    ks__syrk_f32(N, K, w->b, w->c);
    return is_square(w);
}

ks_status ks__blas_check(ks_err *err) {
    static atomic_bool right; /* a right answer is not asked for again */
    ks_status st = KS_OK;
    work *w = NULL;
    if (right) return KS_OK;
    KS_TRY(ks_alloc(&w, 1, sizeof *w, "the check of the BLAS", err));
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
