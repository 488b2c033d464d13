/* gate_backward.cu - the way back through gated activations: slopes of SiLU and
 * of both forms of GELU (Hendrycks and Gimpel, 2016). */
#include "cuda_ops.h"
#include "vec.cuh"

enum { THREADS = 128, FOUR = 4 };

typedef struct gate_backward_args {
    float *dgate, *dup;
    const float *dout, *gate, *up;
    int64_t dgate_stride, dup_stride, dout_stride, gate_stride, up_stride;
    const int32_t *row; /* may be NULL */
    int cols;
    bool wide;
} gate_backward_args;

/* act(x), and its derivative in *slope. */
template <ks_act act>
static __device__ __forceinline__ float activate(float x, float *slope) {
    if (act == KS_SILU) { /* s = 1 / (1 + e^-x): x s, s (1 + x (1 - s)) */
        float s = 1.0f / (1.0f + expf(-x));
        *slope = s * (1.0f + x * (1.0f - s));
        return x * s;
    }
    if (act == KS_GELU_TANH) { /* u = sqrt(2/pi) (x + 0.044715 x^3), t =
                                  tanh(u): 0.5 (1 + t) + 0.5 x (1 - t^2) u' */
        float z = x * x;
        float t = tanhf(0.7978845608f * x * (1.0f + 0.044715f * z));
        float du = 0.7978845608f * (1.0f + 3 * 0.044715f * z);
        float s = 0.5f * (1.0f + t);
        *slope = s + 0.5f * x * (1.0f - t) * (1.0f + t) * du;
        return x * s;
    }
    /* Phi(x) + x phi(x) */
    float s = 0.5f * (1.0f + erff(x * 0.70710678118654752f));
    *slope = s + x * 0.39894228040143268f * expf(-0.5f * x * x);
    return x * s;
}

/* Four elements a thread; dgate or dup may be dout.
 * Bound: bytes, 20 an element. */
template <ks_act act>
static __global__ void __launch_bounds__(THREADS)
    gate_backward_kernel(gate_backward_args a) {
    int j = (int)(blockIdx.y * THREADS + threadIdx.x) * FOUR, n = a.cols - j;
    if (n <= 0) return;
    int64_t i = blockIdx.x, t = a.row ? a.row[i] : i;
    float4 d = ks__load4(a.dout + i * a.dout_stride + j, n, a.wide);
    float4 g = ks__load4(a.gate + t * a.gate_stride + j, n, a.wide);
    float4 u = ks__load4(a.up + t * a.up_stride + j, n, a.wide), slope, v;
    v.x = activate<act>(g.x, &slope.x);
    v.y = activate<act>(g.y, &slope.y);
    v.z = activate<act>(g.z, &slope.z);
    v.w = activate<act>(g.w, &slope.w);
    ks__store4(a.dgate + i * a.dgate_stride + j,
               make_float4(d.x * u.x * slope.x, d.y * u.y * slope.y,
                           d.z * u.z * slope.z, d.w * u.w * slope.w),
               n, a.wide);
    ks__store4(a.dup + i * a.dup_stride + j,
               make_float4(d.x * v.x, d.y * v.y, d.z * v.z, d.w * v.w), n,
               a.wide);
}

/* -------------------------------------------------------------- launchers */

ks_status ks__cuda_gate_backward(ks_dev *dev, ks_view dgate, ks_view dup,
                                 ks_view dout, ks_view gate, ks_view up,
                                 const int32_t *row, ks_act act, ks_err *err) {
    int64_t n = dout.cols;
    if (dgate.cols != n || dup.cols != n || gate.cols != n || up.cols != n ||
        dgate.rows != dout.rows || dup.rows != dout.rows ||
        gate.rows != up.rows || (!row && gate.rows < dout.rows))
        return ks_fail(err, KS_INTERNAL,
                       "gate backward: shapes [%lld,%lld] [%lld,%lld] from "
                       "[%lld,%lld] at [%lld,%lld] [%lld,%lld]",
                       (long long)dgate.rows, (long long)dgate.cols,
                       (long long)dup.rows, (long long)dup.cols,
                       (long long)dout.rows, (long long)dout.cols,
                       (long long)gate.rows, (long long)gate.cols,
                       (long long)up.rows, (long long)up.cols);
    if (dout.rows == 0) return KS_OK;
    gate_backward_args a = {(float *)dgate.data,
                            (float *)dup.data,
                            (const float *)dout.data,
                            (const float *)gate.data,
                            (const float *)up.data,
                            dgate.stride,
                            dup.stride,
                            dout.stride,
                            gate.stride,
                            up.stride,
                            row,
                            (int)n,
                            ks__wide(&dgate) && ks__wide(&dup) &&
                                ks__wide(&dout) && ks__wide(&gate) &&
                                ks__wide(&up)};
    void (*kernel)(gate_backward_args) = gate_backward_kernel<KS_SILU>;
    if (act == KS_GELU_TANH) kernel = gate_backward_kernel<KS_GELU_TANH>;
    if (act == KS_GELU_ERF) kernel = gate_backward_kernel<KS_GELU_ERF>;
    KS_CUDA_TRY(launch(kernel, ks__row_grid(&dout, THREADS * FOUR), THREADS, 0,
                       dev->stream, a),
                "gate backward");
    return KS_OK;
}
