/* gemm_backward.cu - dx = dy W: the GEMM's twin, W as stored, not turned in
 * memory. The tile is gemm.cuh's, with rows of W along k. */
#include "cuda_ops.h"
#include "gemm.cuh"

ks_status ks__cuda_gemm_backward(ks_dev *dev, ks_view dx, ks_view dy, ks_view w,
                                 bool accumulate, ks_err *err) {
    if (dx.type != KS_F32 || dy.type != KS_F32 || w.type >= KS_I32)
        return ks_fail(err, KS_INTERNAL, "gemm_backward: types %s = %s %s",
                       ks_type_name(dx.type), ks_type_name(dy.type),
                       ks_type_name(w.type));
    if (dy.cols != w.rows || dx.cols != w.cols || dx.rows != dy.rows ||
        dy.cols < 1)
        return ks_fail(err, KS_INTERNAL,
                       "gemm_backward: shapes [%lld,%lld] = [%lld,%lld] "
                       "[%lld,%lld]",
                       (long long)dx.rows, (long long)dx.cols,
                       (long long)dy.rows, (long long)dy.cols,
                       (long long)w.rows, (long long)w.cols);
    if (dx.rows == 0) return KS_OK;
    ks__product p = {};
    p.out = (float *)dx.data, p.out_stride = dx.stride;
    p.x = (const float *)dy.data, p.x_stride = dy.stride;
    p.w = (const uint8_t *)w.data, p.type = w.type;
    p.w_row = (int64_t)ks_type_row_bytes(w.type, w.stride);
    p.accumulate = accumulate;
    p.m = (int32_t)dx.rows, p.n = (int32_t)dx.cols, p.k = (int32_t)dy.cols;
    return ks__gemm_run<true>(dev, p, w.cols, "gemm_backward", err);
}
