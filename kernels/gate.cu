/* gate.cu - gated activations of the feed-forward part (Shazeer, "GLU Variants
 * Improve Transformer", 2020). */
#include "cuda_ops.h"
#include "vec.cuh"

enum { THREADS = 128, FOUR = 4 };

static __device__ __forceinline__ float silu(float x) {
    return x / (1.0f + expf(-x));
}

template <ks_act act>
static __device__ __forceinline__ float activate(float x) {
    if (act == KS_SILU) return silu(x);
    if (act == KS_GELU_TANH) /* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
                              */
        return 0.5f * x *
               (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
    return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
}

/* out = act(gate) up, four elements a thread; out may be gate.
 * Bound: bytes, 12 an element. */
template <ks_act act>
static __global__ void __launch_bounds__(THREADS)
    gate_kernel(float *out, int64_t out_stride, const float *gate,
                int64_t gate_stride, const float *up, int64_t up_stride,
                int cols, bool wide) {
    int j = (int)(blockIdx.y * THREADS + threadIdx.x) * FOUR, n = cols - j;
    if (n <= 0) return;
    float4 g = ks__load4(gate + blockIdx.x * gate_stride + j, n, wide);
    float4 u = ks__load4(up + blockIdx.x * up_stride + j, n, wide);
    ks__store4(out + blockIdx.x * out_stride + j,
               make_float4(activate<act>(g.x) * u.x, activate<act>(g.y) * u.y,
                           activate<act>(g.z) * u.z, activate<act>(g.w) * u.w),
               n, wide);
}

/* -------------------------------------------------------------- launchers */

ks_status ks__cuda_gate(ks_dev *dev, ks_view out, ks_view gate, ks_view up,
                        ks_act act, ks_err *err) {
    if (out.cols != gate.cols || out.rows != gate.rows || out.cols != up.cols ||
        out.rows != up.rows)
        return ks_fail(err, KS_INTERNAL,
                       "gate: shapes [%lld,%lld] [%lld,%lld] [%lld,%lld]",
                       (long long)out.rows, (long long)out.cols,
                       (long long)gate.rows, (long long)gate.cols,
                       (long long)up.rows, (long long)up.cols);
    if (out.rows == 0) return KS_OK;
    void (*kernel)(float *, int64_t, const float *, int64_t, const float *,
                   int64_t, int, bool) = gate_kernel<KS_SILU>;
    if (act == KS_GELU_TANH) kernel = gate_kernel<KS_GELU_TANH>;
    if (act == KS_GELU_ERF) kernel = gate_kernel<KS_GELU_ERF>;
    KS_CUDA_TRY(launch(kernel, ks__row_grid(&out, THREADS * FOUR), THREADS, 0,
                       dev->stream, (float *)out.data, out.stride,
                       (const float *)gate.data, gate.stride,
                       (const float *)up.data, up.stride, (int)out.cols,
                       ks__wide(&out) && ks__wide(&gate) && ks__wide(&up)),
                "gate");
    return KS_OK;
}
