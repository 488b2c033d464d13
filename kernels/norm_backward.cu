/* norm_backward.cu - the way back through RMSNorm, as it is (Zhang and
 * Sennrich, 2019) and for heads as rows. */
#include "cuda_ops.h"
#include "vec.cuh"

enum { THREADS = 256, FOUR = 4, LONGEST = 16384 };

typedef struct norm_backward_args {
    float *dx;
    const float *dy, *x, *w;
    int64_t dx_stride, dy_stride, x_stride, rows;
    const int32_t *row; /* may be NULL */
    int heads, cols;
    float eps;
    bool accumulate, wide;
} norm_backward_args;

/* Two sums over the team's threads: lanes, then warps in order. */
template <int team>
static __device__ __forceinline__ float2 team_sums(float a, float b) {
    float2 sums = make_float2(ks__warp_sum(a), ks__warp_sum(b));
    if constexpr (team == THREADS) {
        SHARED(float2, part, THREADS / 32);
        if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sums;
        __syncthreads();
        sums = make_float2(0, 0);
#pragma unroll
        for (int i = 0; i < THREADS / 32; i++) {
            sums.x += part[i].x;
            sums.y += part[i].y;
        }
    }
    return sums;
}

/* One row by a team of threads (a warp, or the block), which holds x and w dy
 * in registers: `per` times four elements each. dx may be dy.
 * Bound: bytes, 12 an element, accumulating 16. */
template <int team, int per>
static __global__ void __launch_bounds__(THREADS)
    norm_backward_kernel(norm_backward_args a) {
    int64_t i = (int64_t)blockIdx.x * (THREADS / team) + threadIdx.x / team;
    if (i >= a.rows) return; /* whole teams leave */
    int64_t t = a.row ? (int64_t)a.row[i / a.heads] * a.heads + i % a.heads : i;
    const float *x = a.x + t * a.x_stride, *dy = a.dy + i * a.dy_stride;
    float *dx = a.dx + i * a.dx_stride;
    float4 v[per], g[per];
    float squares = 0, dots = 0;
#pragma unroll
    for (int p = 0; p < per; p++) {
        int j = (p * team + (int)threadIdx.x % team) * FOUR, n = a.cols - j;
        float4 w = ks__load4(a.w + j, n, a.wide);
        float4 d = ks__load4(dy + j, n, a.wide);
        v[p] = ks__load4(x + j, n, a.wide);
        g[p] = make_float4(w.x * d.x, w.y * d.y, w.z * d.z, w.w * d.w);
        squares += v[p].x * v[p].x + v[p].y * v[p].y + v[p].z * v[p].z +
                   v[p].w * v[p].w;
        dots += g[p].x * v[p].x + g[p].y * v[p].y + g[p].z * v[p].z +
                g[p].w * v[p].w;
    }
    float2 sums = team_sums<team>(squares, dots);
    float r = 1.0f / sqrtf(sums.x / (float)a.cols + a.eps);
    float pull = -(r * r * r * (sums.y / (float)a.cols));
#pragma unroll
    for (int p = 0; p < per; p++) {
        int j = (p * team + (int)threadIdx.x % team) * FOUR, n = a.cols - j;
        float4 d =
            make_float4(r * g[p].x + pull * v[p].x, r * g[p].y + pull * v[p].y,
                        r * g[p].z + pull * v[p].z, r * g[p].w + pull * v[p].w);
        if (a.accumulate) {
            float4 old = ks__load4(dx + j, n, a.wide);
            d = make_float4(d.x + old.x, d.y + old.y, d.z + old.z, d.w + old.w);
        }
        ks__store4(dx + j, d, n, a.wide);
    }
}

/* -------------------------------------------------------------- launchers */

/* The team depends on the width alone, and so does the order of a row's sums.
 */
static cudaError_t run_norm_backward(ks_dev *dev, const norm_backward_args *a) {
    static const struct {
        int cols, team;
        void (*kernel)(norm_backward_args);
    } forms[] = {
        {128, 32, norm_backward_kernel<32, 1>},
        {256, 32, norm_backward_kernel<32, 2>},
        {512, 32, norm_backward_kernel<32, 4>},
        {1024, THREADS, norm_backward_kernel<THREADS, 1>},
        {2048, THREADS, norm_backward_kernel<THREADS, 2>},
        {4096, THREADS, norm_backward_kernel<THREADS, 4>},
        {8192, THREADS, norm_backward_kernel<THREADS, 8>},
        {LONGEST, THREADS, norm_backward_kernel<THREADS, 16>},
    };
    int i = 0;
    while (a->cols > forms[i].cols) i++;
    int64_t blocks = ks__ceil_div(a->rows, THREADS / forms[i].team);
    return launch(forms[i].kernel, (unsigned)blocks, THREADS, 0, dev->stream,
                  *a);
}

ks_status ks__cuda_norm_backward(ks_dev *dev, ks_view dx, ks_view dy, ks_view x,
                                 const int32_t *row, int32_t heads,
                                 const float *w, float eps, bool accumulate,
                                 ks_err *err) {
    ks_status st = ks__check_norm_backward(&dx, &dy, &x, row, heads, err);
    if (st != KS_OK) return st;
    if (x.cols > LONGEST)
        return ks_fail(err, KS_UNSUPPORTED,
                       "norm backward: rows of %lld, at most %d are built in",
                       (long long)x.cols, (int)LONGEST);
    if (dx.rows == 0) return KS_OK;
    norm_backward_args a = {(float *)dx.data,
                            (const float *)dy.data,
                            (const float *)x.data,
                            w,
                            dx.stride,
                            dy.stride,
                            x.stride,
                            dx.rows,
                            row,
                            heads,
                            (int)x.cols,
                            eps,
                            accumulate,
                            ks__wide(&dx) && ks__wide(&dy) && ks__wide(&x) &&
                                (uintptr_t)w % 16 == 0};
    KS_CUDA_TRY(run_norm_backward(dev, &a), "norm backward");
    return KS_OK;
}
