/* blas.h - the one place where the probes call BLAS, and the check of it that
 * the backend's matmul asks too. The probes' products run on the calling thread
 * alone (see ks__blas_serial): the solvers split their work into fixed pieces
 * themselves, so bits do not depend on the thread count. */
#ifndef KS_BLAS_H
#define KS_BLAS_H

#include <cblas.h>
#include <omp.h>
#include <stdbool.h>
#include <stdint.h>

#include "keystep.h"

/* KS_NUMERIC with the remedy when this processor gets wrong products from the
 * BLAS. Runs small ones, on the caller's threads, until they were right once.
 */
ks_status ks__blas_check(ks_err *err);

/* What a processor's vectors can do, as far as a BLAS's kernels ask. */
typedef struct ks_blas_cpu {
    bool avx2;   /* and FMA */
    bool avx512; /* F, BW, DQ, VL */
    bool bf16;   /* of AVX-512 */
} ks_blas_cpu;

/* The OpenBLAS core to ask for (OPENBLAS_CORETYPE) in place of `have`, which it
 * took by itself; NULL: `have` is good. An OpenBLAS older than its processor
 * falls back to SSE kernels, several times slower. safe: a core that is slower
 * than the best but known to be right. */
const char *ks__blas_core(const char *have, ks_blas_cpu cpu, bool safe);

/* OpenBLAS (OpenMP flavour) takes the calling thread's OpenMP setting: with 1
 * a product is never split. Returns the old setting for ks__blas_restore.
 * Parallel regions of the callers name their num_threads. */
static inline int ks__blas_serial(void) {
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    return threads;
}

static inline void ks__blas_restore(int threads) {
    omp_set_num_threads(threads);
}

/* c[m,n] = op(a) op(b) + beta c, row-major; ta, tb: transposed as stored. */
static inline void ks__gemm_f32(bool ta, bool tb, int64_t m, int64_t n,
                                int64_t k, const float *a, int64_t lda,
                                const float *b, int64_t ldb, float beta,
                                float *c, int64_t ldc) {
    cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans,
                tb ? CblasTrans : CblasNoTrans, (int)m, (int)n, (int)k, 1.0f, a,
                (int)lda, b, (int)ldb, beta, c, (int)ldc);
}

static inline void ks__gemm_f64(bool ta, bool tb, int64_t m, int64_t n,
                                int64_t k, const double *a, int64_t lda,
                                const double *b, int64_t ldb, double beta,
                                double *c, int64_t ldc) {
    cblas_dgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans,
                tb ? CblasTrans : CblasNoTrans, (int)m, (int)n, (int)k, 1.0, a,
                (int)lda, b, (int)ldb, beta, c, (int)ldc);
}

/* c[m,n] = a b, b [n,n] symmetric, its lower triangle; row-major. */
static inline void ks__symm_f64(int64_t m, int64_t n, const double *a,
                                const double *b, double *c) {
    cblas_dsymm(CblasRowMajor, CblasRight, CblasLower, (int)m, (int)n, 1.0, b,
                (int)n, a, (int)n, 0.0, c, (int)n);
}

/* Lower triangle of g[d,d] += a^T a, a [n,d]. */
static inline void ks__syrk_f32(int64_t d, int64_t n, const float *a,
                                float *g) {
    cblas_ssyrk(CblasRowMajor, CblasLower, CblasTrans, (int)d, (int)n, 1.0f, a,
                (int)d, 1.0f, g, (int)d);
}

/* As ks__syrk_f32. */
static inline void ks__syrk_f64(int64_t d, int64_t n, const double *a,
                                double *g) {
    cblas_dsyrk(CblasRowMajor, CblasLower, CblasTrans, (int)d, (int)n, 1.0, a,
                (int)d, 1.0, g, (int)d);
}

#endif
