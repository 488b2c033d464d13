/* gemm.c - out = x W^T, and back: dx = dy W, for weights as stored, every
 * element one fixed chain.
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

/* Rows of the tile to out, fewer than NR columns: through memory. */
static void store_edge(const vf *acc, int mr, float *out, int64_t out_stride,
                       int64_t cols, const float *bias, bool add) {
    for (int i = 0; i < mr; i++) {
        float row[NR];
        for (int j = 0; j < NV; j++) vstore(row + j * VL, acc[i * NV + j]);
        for (int64_t j = 0; j < cols; j++) {
            float *o = out + i * out_stride + j;
            if (bias) row[j] = row[j] + bias[j];
            if (add) row[j] = row[j] + *o;
            *o = row[j];
        }
    }
}

/* mr is a constant after inlining: acc lives in registers. Unwatched as those
 * that it goes into: marks of edge's scope would stay behind on the stack. */
KS_UNWATCHED KS_INLINE void multiply(const int mr, int64_t kc, const float *x,
                                     int64_t x_stride, const float *panel,
                                     float *out, int64_t out_stride,
                                     int64_t cols, const float *bias,
                                     bool add) {
    vf acc[MR * NV];
#pragma GCC unroll 32
    for (int i = 0; i < mr * NV; i++) acc[i] = vset(0);
    for (int64_t k = 0; k < kc; k++) {
        vf b[NV];
#pragma GCC unroll 2
        for (int j = 0; j < NV; j++) b[j] = vload(panel + k * NR + j * VL);
#pragma GCC unroll 16
        for (int i = 0; i < mr; i++) {
            vf a = vset(x[i * x_stride + k]);
#pragma GCC unroll 2
            for (int j = 0; j < NV; j++)
                acc[i * NV + j] = madd(a, b[j], acc[i * NV + j]);
        }
    }
    if (cols < NR) {
        vf edge[MR * NV]; /* acc's address must not escape */
#pragma GCC unroll 32
        for (int i = 0; i < mr * NV; i++) edge[i] = acc[i];
        store_edge(edge, mr, out, out_stride, cols, bias, add);
        return;
    }
#pragma GCC unroll 32
    for (int i = 0; i < mr * NV; i++) {
        float *o = out + i / NV * out_stride + i % NV * VL;
        vf v = acc[i];
        if (bias) v = v + vload(bias + i % NV * VL);
        if (add) v = v + vload(o);
        vstore(o, v);
    }
}

#define KERNEL(mr)                                                             \
    KS_UNWATCHED static void kernel_##mr(                                      \
        int64_t kc, const float *x, int64_t x_stride, const float *panel,      \
        float *out, int64_t out_stride, int64_t cols, const float *bias,       \
        bool add) {                                                            \
        multiply(mr, kc, x, x_stride, panel, out, out_stride, cols, bias,      \
                 add);                                                         \
    }

/* clang-format off */
KERNEL(1) KERNEL(2) KERNEL(3) KERNEL(4) KERNEL(5) KERNEL(6)
#if KS_WIDE
KERNEL(7) KERNEL(8) KERNEL(9) KERNEL(10)
KERNEL(11) KERNEL(12) KERNEL(13) KERNEL(14)
#endif

const ks_kernel ks__kernels[MR + 1] = {
    NULL, kernel_1, kernel_2, kernel_3, kernel_4, kernel_5, kernel_6,
#if KS_WIDE
    kernel_7, kernel_8, kernel_9, kernel_10, kernel_11, kernel_12, kernel_13,
    kernel_14,
#endif
};
/* clang-format on */

/* ---------------------------------------------------------------- one block */

/* m rows under one unpacked panel; n: its columns that exist. */
static void pass(int64_t kc, const float *x, int64_t x_stride, int64_t m,
                 const float *panel, float *out, int64_t out_stride, int64_t n,
                 const float *bias, bool add) {
    for (int64_t i = 0; i < m; i += MR)
        ks__multiply(KS_MIN(MR, m - i), kc, x + i * x_stride, x_stride, panel,
                     out + i * out_stride, out_stride, n, bias, add);
}

/* Columns [k0, k0 + kc) of the product. Up to MB rows pass under a panel at
 * once, while it is still in L1; more come back for panels kept in L2. */
static void block(const ks_product *p, float *out, int64_t m0, int64_t m1,
                  int64_t n0, int64_t n1, int64_t k0, int64_t kc, float *panels,
                  float *rows) {
    bool add = p->accumulate || k0 > 0;
    const float *bias = k0 == 0 ? p->bias : NULL;
    /* from panel to panel */
    int64_t kept = p->back || m1 - m0 > MB ? NR * kc : 0;
    if (p->back) ks__unpack_rows(&p->w, k0, kc, n0, n1 - n0, panels, rows);
    for (int64_t m = m0; m < m1; m += MB) {
        const float *x = p->x + m * p->x_stride + k0;
        float *o = out + (m - m0) * p->out_stride;
        for (int64_t n = n0; n < n1; n += NR) {
            float *panel = panels + (n - n0) / NR * kept;
            int64_t cols = KS_MIN(NR, n1 - n);
            if (m == m0 && !p->back)
                ks__unpack(&p->w, n, cols, k0, kc, panel, rows);
            pass(kc, x, p->x_stride, KS_MIN(MB, m1 - m), panel, o + n - n0,
                 p->out_stride, cols, bias ? bias + n : NULL, add);
        }
    }
}

/* Columns a k block: K in equal parts of at most KC, multiples of 32 so that
 * the small quantised blocks are never cut. */
static int64_t k_block(int64_t k) {
    int64_t parts = (k + KC - 1) / KC;
    return (k + parts * 32 - 1) / (parts * 32) * 32;
}

/* Columns whose panels are made at once. Along a row of W the large quantised
 * blocks are expanded whole, so they are used whole. */
static int64_t panel_cols(const ks_product *p) {
    return p->back && ks_type_block(p->w.type) > NB ? SUPER : NB;
}

void ks__product(const ks_product *p, float *out, int64_t m0, int64_t m1,
                 int64_t n0, int64_t n1, void *scratch) {
    float *rows = scratch;
    float *panels = (float *)((char *)scratch + KS_ROWS_BYTES);
    int64_t k = p->back ? p->w.rows : p->w.cols, step = k_block(k);
    int64_t nb = panel_cols(p);
    for (int64_t n = n0; n < n1; n += nb)
        for (int64_t k0 = 0; k0 < k; k0 += step)
            block(p, out + n - n0, m0, m1, n, KS_MIN(n + nb, n1), k0,
                  KS_MIN(step, k - k0), panels, rows);
}

/* ------------------------------------------------------------------- launch */

/* The part of out that is one task. Many rows a task unpack W less often,
 * until x no longer stays in cache from one task to the next; enough tasks
 * keep every thread busy to the end. */
typedef struct grid {
    int64_t rows, cols, m_blocks, n_blocks;
} grid;

static grid cut(int64_t m, int64_t n, int64_t nb, int threads) {
    enum { MOST = 5 * MB, FEW = 4, NARROW = 32 };
    int64_t want = threads > 1 ? threads * FEW : 1;
    grid g = {.cols = nb};
    if (nb == NB && (n + NB - 1) / NB * ((m + MB - 1) / MB) < want)
        g.cols = NARROW;
    g.n_blocks = (n + g.cols - 1) / g.cols;
    int64_t parts =
        KS_MAX((m + MOST - 1) / MOST, (want + g.n_blocks - 1) / g.n_blocks);
    g.rows = KS_MAX((m + parts - 1) / parts, MB);
    g.rows = (g.rows + MR - 1) / MR * MR;
    g.m_blocks = (m + g.rows - 1) / g.rows;
    return g;
}

static void run(ks_dev *dev, const ks_product *p, const ks_view *out) {
    grid g = cut(out->rows, out->cols, panel_cols(p), dev->threads);
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1)
    for (int64_t task = 0; task < g.n_blocks * g.m_blocks; task++) {
        int64_t n = task % g.n_blocks * g.cols, m = task / g.n_blocks * g.rows;
        ks__product(p, ks__row_f32(out, m) + n, m,
                    KS_MIN(m + g.rows, out->rows), n,
                    KS_MIN(n + g.cols, out->cols), ks__scratch(dev));
    }
}

static ks_status check_types(const char *op, const ks_view *out,
                             const ks_view *x, const ks_view *w, ks_err *err) {
    if (x->type == KS_F32 && out->type == KS_F32 && w->type < KS_I32)
        return KS_OK;
    return ks_fail(err, KS_INTERNAL, "%s: types %s = %s %s", op,
                   ks_type_name(out->type), ks_type_name(x->type),
                   ks_type_name(w->type));
}

ks_status KS_ISA_NAME(gemm)(ks_dev *dev, ks_view out, ks_view x, ks_view w,
                            const float *bias, bool accumulate, ks_err *err) {
    ks_status st = check_types("gemm", &out, &x, &w, err);
    if (st != KS_OK) return st;
    if (x.cols != w.cols || out.cols != w.rows || out.rows != x.rows)
        return ks_fail(err, KS_INTERNAL,
                       "gemm: shapes [%lld,%lld] = [%lld,%lld] [%lld,%lld]^T",
                       (long long)out.rows, (long long)out.cols,
                       (long long)x.rows, (long long)x.cols, (long long)w.rows,
                       (long long)w.cols);
    ks_product p = {out.stride, x.data, x.stride, w, bias, accumulate, false};
    run(dev, &p, &out);
    return KS_OK;
}

ks_status KS_ISA_NAME(gemm_backward)(ks_dev *dev, ks_view dx, ks_view dy,
                                     ks_view w, bool accumulate, ks_err *err) {
    ks_status st = check_types("gemm backward", &dx, &dy, &w, err);
    if (st != KS_OK) return st;
    if (dy.cols != w.rows || dx.cols != w.cols || dx.rows != dy.rows)
        return ks_fail(
            err, KS_INTERNAL,
            "gemm backward: shapes [%lld,%lld] = [%lld,%lld] [%lld,%lld]",
            (long long)dx.rows, (long long)dx.cols, (long long)dy.rows,
            (long long)dy.cols, (long long)w.rows, (long long)w.cols);
    ks_product p = {dx.stride, dy.data, dy.stride, w, NULL, accumulate, true};
    run(dev, &p, &dx);
    return KS_OK;
}
