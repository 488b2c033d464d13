/* gemm.c - out = x W^T for weights as stored, every element one fixed chain.
 *
 * The loops are those of Goto and van de Geijn (Anatomy of High-Performance
 * Matrix Multiplication, 2008) with W in the place of the packed operand: a
 * task owns some rows and NB columns of out. For each block of KC columns of
 * W it unpacks (transposes, dequantises) NB rows into panels in L2, then
 * passes MB rows of x at a time under one panel in L1. The model is never
 * expanded as a whole, and unpacking costs 1 / rows of the multiplications.
 *
 * An element is sum over k blocks in order of (one chain of multiply-adds in
 * k order); the first block takes the bias and, if asked, what was in out.
 * Blocks depend on K only, so the bits of a row know nothing of other rows.
 */
#include "isa.h"

/* ------------------------------------------------------------ micro-kernels */

/* Everything is a compile-time constant after inlining: acc lives in
 * registers. */
KS_INLINE void multiply(const int mr, const int np, int64_t kc,
                        const float *x, int64_t x_stride, const float *panel,
                        float *out, int64_t out_stride, int64_t cols,
                        const float *bias, bool add) {
    vf acc[MR * NV * 2];
    const int nv = np * NV;
#pragma GCC unroll 32
    for (int i = 0; i < mr * nv; i++) acc[i] = vset(0);
    for (int64_t k = 0; k < kc; k++) {
        vf b[MR * NV];
#pragma GCC unroll 32
        for (int j = 0; j < nv; j++)
            b[j] = vload(panel + j / NV * (kc * NR) + j % NV * VL);
#pragma GCC unroll 32
        for (int i = 0; i < mr; i++) {
            vf a = vset(x[i * x_stride + k]);
#pragma GCC unroll 32
            for (int j = 0; j < nv; j++)
                acc[i * nv + j] = madd(a, b[j], acc[i * nv + j]);
        }
        panel += NR;
    }
    if (cols >= np * NR) {
#pragma GCC unroll 32
        for (int i = 0; i < mr; i++) {
#pragma GCC unroll 32
            for (int j = 0; j < nv; j++) {
                float *o = out + i * out_stride + j * VL;
                vf v = acc[i * nv + j];
                if (bias) v = v + vload(bias + j * VL);
                if (add) v = v + vload(o);
                vstore(o, v);
            }
        }
        return;
    }
    float edge[MR * NR * 2];
#pragma GCC unroll 32
    for (int i = 0; i < mr * nv; i++) vstore(edge + i * VL, acc[i]);
    for (int i = 0; i < mr; i++) {
        for (int64_t j = 0; j < cols; j++) {
            float *o = out + i * out_stride + j, v = edge[i * np * NR + j];
            if (bias) v = v + bias[j];
            if (add) v = v + *o;
            *o = v;
        }
    }
}

#define KERNEL(mr, np)                                                         \
    static void kernel_##mr##x##np(int64_t kc, const float *x,                 \
                                   int64_t x_stride, const float *panel,       \
                                   float *out, int64_t out_stride,             \
                                   int64_t cols, const float *bias,            \
                                   bool add) {                                 \
        multiply(mr, np, kc, x, x_stride, panel, out, out_stride, cols, bias,  \
                 add);                                                         \
    }

KERNEL(1, 1) KERNEL(2, 1) KERNEL(3, 1) KERNEL(4, 1) KERNEL(5, 1) KERNEL(6, 1)
KERNEL(1, 3) KERNEL(2, 3)
#if KS_WIDE
KERNEL(7, 1) KERNEL(8, 1) KERNEL(9, 1) KERNEL(10, 1) KERNEL(11, 1)
KERNEL(12, 1) KERNEL(13, 1) KERNEL(14, 1)
KERNEL(3, 3) KERNEL(4, 3)
#endif

const ks_kernel KS_ISA_NAME(kernels)[MR + 1] = {
    NULL, kernel_1x1, kernel_2x1, kernel_3x1, kernel_4x1, kernel_5x1,
    kernel_6x1,
#if KS_WIDE
    kernel_7x1, kernel_8x1, kernel_9x1, kernel_10x1, kernel_11x1, kernel_12x1,
    kernel_13x1, kernel_14x1
#endif
};

/* Few rows leave accumulators for three panels: enough chains to hide the
 * multiply-add's latency. */
static const ks_kernel kernels_wide[MR + 1] = {
    NULL, kernel_1x3, kernel_2x3,
#if KS_WIDE
    kernel_3x3, kernel_4x3,
#endif
};

/* ---------------------------------------------------------------- one block */

/* Columns [k0, k0 + kc) of the product: unpacks the panels of columns
 * [n0, n1), then runs rows under each. */
static void block(const ks_product *p, float *out, int64_t m0, int64_t m1,
                  int64_t n0, int64_t n1, int64_t k0, int64_t kc,
                  float *panels, float *rows) {
    for (int64_t n = n0; n < n1; n += NR)
        KS_ISA_NAME(unpack)(&p->w, n, KS_MIN(NR, n1 - n), k0, kc,
                            panels + (n - n0) * kc, rows);
    bool add = p->accumulate || k0 > 0;
    const float *bias = k0 == 0 ? p->bias : NULL;
    for (int64_t mb = m0; mb < m1; mb += MB) {
        int64_t mb_end = KS_MIN(mb + MB, m1);
        for (int64_t n = n0; n < n1;) {
            int64_t wide = n1 - n >= 3 * NR ? 3 * NR : NR;
            if (mb_end - mb > MR || !kernels_wide[mb_end - mb]) wide = NR;
            for (int64_t m = mb; m < mb_end; m += MR) {
                int64_t mr = KS_MIN(MR, mb_end - m);
                ks_kernel kernel = wide > NR ? kernels_wide[mr]
                                             : KS_ISA_NAME(kernels)[mr];
                kernel(kc, p->x + m * p->x_stride + k0, p->x_stride,
                       panels + (n - n0) * kc,
                       out + (m - m0) * p->out_stride + n - n0, p->out_stride,
                       KS_MIN(wide, n1 - n), bias ? bias + n : NULL, add);
            }
            n += wide;
        }
    }
}

/* Columns a k block: K in equal parts of at most KC, multiples of 32 so that
 * the small quantised blocks are never cut. */
static int64_t k_block(int64_t k) {
    int64_t parts = (k + KC - 1) / KC;
    return (k + parts * 32 - 1) / (parts * 32) * 32;
}

void KS_ISA_NAME(product)(const ks_product *p, float *out, int64_t m0,
                          int64_t m1, int64_t n0, int64_t n1, void *scratch) {
    float *rows = scratch;
    float *panels = (float *)((char *)scratch + KS_ROWS_BYTES);
    int64_t k = p->w.cols, step = k_block(k);
    for (int64_t n = n0; n < n1; n += NB)
        for (int64_t k0 = 0; k0 < k; k0 += step)
            block(p, out + n - n0, m0, m1, n, KS_MIN(n + NB, n1), k0,
                  KS_MIN(step, k - k0), panels, rows);
}

/* ------------------------------------------------------------------- launch */

/* Rows of out in one task. Many rows a task unpack W less often, until x no
 * longer stays in cache from one task to the next; enough tasks keep every
 * thread busy to the end. */
static int64_t rows_per_task(int64_t m, int64_t n_blocks, int threads) {
    enum { MOST = 5 * MB };
    int64_t parts = (m + MOST - 1) / MOST;
    int64_t want = threads > 1 ? threads * 4 : 1;
    parts = KS_MAX(parts, (want + n_blocks - 1) / n_blocks);
    int64_t rows = KS_MAX((m + parts - 1) / parts, MB);
    return (rows + MR - 1) / MR * MR;
}

ks_status KS_ISA_NAME(gemm)(ks_dev *dev, ks_view out, ks_view x, ks_view w,
                            const float *bias, bool accumulate, ks_err *err) {
    if (x.type != KS_F32 || out.type != KS_F32 || w.type >= KS_I32)
        return ks_fail(err, KS_INTERNAL, "gemm: types %s = %s %s",
                       ks_type_name(out.type), ks_type_name(x.type),
                       ks_type_name(w.type));
    if (x.cols != w.cols || out.cols != w.rows || out.rows != x.rows)
        return ks_fail(err, KS_INTERNAL,
                       "gemm: shapes [%lld,%lld] = [%lld,%lld] [%lld,%lld]^T",
                       (long long)out.rows, (long long)out.cols,
                       (long long)x.rows, (long long)x.cols,
                       (long long)w.rows, (long long)w.cols);
    ks_product p = {out.stride, x.data, x.stride, w, bias, accumulate};
    int64_t n_blocks = (w.rows + NB - 1) / NB;
    int64_t step = rows_per_task(x.rows, n_blocks, dev->threads);
    if (x.rows == 0) return KS_OK;
    int64_t m_blocks = (x.rows + step - 1) / step;
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1)
    for (int64_t task = 0; task < n_blocks * m_blocks; task++) {
        int64_t n = task % n_blocks * NB, m = task / n_blocks * step;
        KS_ISA_NAME(product)(&p, ks__row_f32(&out, m) + n, m,
                             KS_MIN(m + step, x.rows), n,
                             KS_MIN(n + NB, w.rows), ks__scratch(dev));
    }
    return KS_OK;
}
