/* norm.cu - RMSNorm (Zhang and Sennrich, 2019) with the residual add, and the
 * add alone. */
#include "cuda_ops.h"
#include "vec.cuh"

enum { THREADS = 256, ADD_THREADS = 128, FOUR = 4, LONGEST = 16384 };

typedef struct norm_args {
    float *out, *x;
    const float *add, *w; /* add may be NULL */
    int64_t out_stride, x_stride, add_stride, rows;
    int cols;
    float eps;
    bool wide;
} norm_args;

/* Sum over the team's threads: lanes, then warps in order. */
template <int team> static __device__ __forceinline__ float team_sum(float x) {
    x = ks__warp_sum(x);
    if constexpr (team == THREADS) {
        SHARED(float, part, THREADS / 32);
        if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
        __syncthreads();
        x = 0;
#pragma unroll
        for (int i = 0; i < THREADS / 32; i++) x += part[i];
    }
    return x;
}

/* One row by a team of threads (a warp, or the block), which holds it in
 * registers: `per` times four elements each. out may be x.
 * Bound: bytes, 8 an element, with the residual add 16. */
template <int team, int per>
static __global__ void __launch_bounds__(THREADS) norm_kernel(norm_args a) {
    int64_t row = (int64_t)blockIdx.x * (THREADS / team) + threadIdx.x / team;
    if (row >= a.rows) return; /* whole teams leave */
    float *x = a.x + row * a.x_stride, *out = a.out + row * a.out_stride;
    float4 v[per];
    float sum = 0;
#pragma unroll
    for (int i = 0; i < per; i++) {
        int j = (i * team + (int)threadIdx.x % team) * FOUR, n = a.cols - j;
        v[i] = ks__load4(x + j, n, a.wide);
        if (a.add) {
            float4 y = ks__load4(a.add + row * a.add_stride + j, n, a.wide);
            v[i] = make_float4(v[i].x + y.x, v[i].y + y.y, v[i].z + y.z,
                               v[i].w + y.w);
            ks__store4(x + j, v[i], n, a.wide);
        }
        sum += v[i].x * v[i].x + v[i].y * v[i].y + v[i].z * v[i].z +
               v[i].w * v[i].w;
    }
    float s = 1.0f / sqrtf(team_sum<team>(sum) / (float)a.cols + a.eps);
#pragma unroll
    for (int i = 0; i < per; i++) {
        int j = (i * team + (int)threadIdx.x % team) * FOUR, n = a.cols - j;
        float4 w = ks__load4(a.w + j, n, a.wide);
        ks__store4(out + j,
                   make_float4(v[i].x * s * w.x, v[i].y * s * w.y,
                               v[i].z * s * w.z, v[i].w * s * w.w),
                   n, a.wide);
    }
}

/* x += y, four elements a thread. Bound: bytes, 12 an element. */
static __global__ void __launch_bounds__(ADD_THREADS)
    add_kernel(float *x, int64_t x_stride, const float *y, int64_t y_stride,
               int cols, bool wide) {
    int j = (int)(blockIdx.y * ADD_THREADS + threadIdx.x) * FOUR, n = cols - j;
    if (n <= 0) return;
    float *to = x + blockIdx.x * x_stride + j;
    float4 a = ks__load4(to, n, wide);
    float4 b = ks__load4(y + blockIdx.x * y_stride + j, n, wide);
    ks__store4(to, make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w), n,
               wide);
}

/* -------------------------------------------------------------- launchers */

/* The team depends on the width alone, and so does the order of a row's sum. */
static cudaError_t run_norm(ks_dev *dev, const norm_args *a) {
    static const struct {
        int cols, team;
        void (*kernel)(norm_args);
    } forms[] = {
        {128, 32, norm_kernel<32, 1>},
        {256, 32, norm_kernel<32, 2>},
        {512, 32, norm_kernel<32, 4>},
        {1024, THREADS, norm_kernel<THREADS, 1>},
        {2048, THREADS, norm_kernel<THREADS, 2>},
        {4096, THREADS, norm_kernel<THREADS, 4>},
        {8192, THREADS, norm_kernel<THREADS, 8>},
        {LONGEST, THREADS, norm_kernel<THREADS, 16>},
    };
    int i = 0;
    while (a->cols > forms[i].cols) i++;
    int64_t blocks = ks__ceil_div(a->rows, THREADS / forms[i].team);
    return launch(forms[i].kernel, (unsigned)blocks, THREADS, 0, dev->stream,
                  *a);
}

ks_status ks__cuda_norm(ks_dev *dev, ks_view out, ks_view x, const ks_view *add,
                        const float *w, float eps, ks_err *err) {
    ks_status st = ks__check_norm(&out, &x, add, err);
    if (st != KS_OK) return st;
    if (x.cols > LONGEST)
        return ks_fail(err, KS_UNSUPPORTED,
                       "norm: rows of %lld, at most %d are built in",
                       (long long)x.cols, (int)LONGEST);
    if (x.rows == 0) return KS_OK;
    norm_args a = {(float *)out.data,
                   (float *)x.data,
                   add ? (const float *)add->data : NULL,
                   w,
                   out.stride,
                   x.stride,
                   add ? add->stride : 0,
                   x.rows,
                   (int)x.cols,
                   eps,
                   ks__wide(&out) && ks__wide(&x) && (!add || ks__wide(add)) &&
                       (uintptr_t)w % 16 == 0};
    KS_CUDA_TRY(run_norm(dev, &a), "norm");
    return KS_OK;
}

ks_status ks__cuda_add(ks_dev *dev, ks_view x, ks_view y, ks_err *err) {
    ks_status st = ks__check_add(&x, &y, err);
    if (st != KS_OK) return st;
    if (x.rows == 0) return KS_OK;
    KS_CUDA_TRY(launch(add_kernel, ks__row_grid(&x, ADD_THREADS * FOUR),
                       ADD_THREADS, 0, dev->stream, (float *)x.data, x.stride,
                       (const float *)y.data, y.stride, (int)x.cols,
                       ks__wide(&x) && ks__wide(&y)),
                "add");
    return KS_OK;
}
