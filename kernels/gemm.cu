/* gemm.cu - out = x W^T with weights as stored: dense, and of many experts in
 * one launch. The tile is in gemm.cuh. */
#include "blaslt.cuh"
#include "cuda_ops.h"
#include "gemm.cuh"

/* Types and shapes of out [m, n] = x [m, k] W^T, W [experts * n, k]; gathered:
 * x has rows of its own. */
static ks_status check(const char *op, ks_view out, ks_view x, ks_view w,
                       int64_t experts, bool gathered, ks_err *err) {
    if (x.type != KS_F32 || out.type != KS_F32 || w.type >= KS_I32)
        return ks_fail(err, KS_INTERNAL, "%s: types %s = %s %s", op,
                       ks_type_name(out.type), ks_type_name(x.type),
                       ks_type_name(w.type));
    if (x.cols != w.cols || out.cols * experts != w.rows ||
        (out.rows != x.rows && !gathered) || x.cols < 1)
        return ks_fail(err, KS_INTERNAL,
                       "%s: shapes [%lld,%lld] = [%lld,%lld] [%lld,%lld]^T", op,
                       (long long)out.rows, (long long)out.cols,
                       (long long)x.rows, (long long)x.cols, (long long)w.rows,
                       (long long)w.cols);
    return KS_OK;
}

static ks__product product(ks_view out, ks_view x, ks_view w, const float *bias,
                           bool accumulate) {
    ks__product p = {};
    p.out = (float *)out.data, p.out_stride = out.stride;
    p.x = (const float *)x.data, p.x_stride = x.stride;
    p.w = (const uint8_t *)w.data, p.type = w.type;
    p.w_row = (int64_t)ks_type_row_bytes(w.type, w.stride);
    p.bias = bias, p.accumulate = accumulate;
    p.m = (int32_t)out.rows, p.n = (int32_t)out.cols, p.k = (int32_t)x.cols;
    return p;
}

ks_status ks__cuda_gemm(ks_dev *dev, ks_view out, ks_view x, ks_view w,
                        const float *bias, bool accumulate, ks_err *err) {
    ks_status st = check("gemm", out, x, w, 1, false, err);
    if (st != KS_OK || out.rows == 0) return st;
    bool served = false;
    if (dev->blaslt && !dev->few_rows)
        st = ks__blaslt_gemm(dev, out, x, w, bias, accumulate, &served, err);
    if (st != KS_OK || served) return st;
    return ks__gemm_run<false>(dev, product(out, x, w, bias, accumulate),
                               w.cols, "gemm", err);
}

ks_status ks__cuda_gemm_grouped(ks_dev *dev, ks_view out, ks_view x,
                                const int32_t *row, ks_view w,
                                const float *bias, const int32_t *offsets,
                                int32_t n_experts, ks_err *err) {
    ks_status st =
        check("gemm_grouped", out, x, w, n_experts, row != NULL, err);
    if (st != KS_OK || out.rows == 0) return st;
    ks__product p = product(out, x, w, bias, false);
    p.row = row, p.offsets = offsets, p.n_experts = n_experts;
    p.w_expert = p.w_row * out.cols;
    return ks__gemm_run<false>(dev, p, w.cols, "gemm_grouped", err);
}
