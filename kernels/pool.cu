/* pool.cu - what capture keeps: pooling over steps, rounding to storage types,
 * and the search for values that are not finite. Rounding is host/half.h's, so
 * stored bits are the CPU's. */
#include "cuda_ops.h"
#include "fault.cuh"
#include "half.h"
#include "vec.cuh"

enum { THREADS = 128, FOUR = 4 };

/* ------------------------------------------------------------------ rounding
 */

static __device__ __forceinline__ void round_to(float *to, float x) {
    *to = x;
}
static __device__ __forceinline__ void round_to(__half *to, float x) {
    *to = __ushort_as_half(ks_f32_to_f16(x));
}
static __device__ __forceinline__ void round_to(bf16 *to, float x) {
    *to = __ushort_as_bfloat16(ks_f32_to_bf16(x));
}

/* Does rounding to f16 make a finite x infinite? */
static __device__ __forceinline__ bool beyond_f16(float x) {
    uint32_t rest = __float_as_uint(x) & 0x7fffffffu;
    return rest >= 0x477ff000u && rest < 0x7f800000u;
}

template <class stored>
static __device__ __forceinline__ bool lost(const stored *, float4) {
    return false;
}
static __device__ __forceinline__ bool lost(const __half *, float4 v) {
    return beyond_f16(v.x) || beyond_f16(v.y) || beyond_f16(v.z) ||
           beyond_f16(v.w);
}

/* to[0..n) = v rounded, by one store of four where `wide`; row: which to blame
 * for a value beyond f16. */
template <class stored>
static __device__ __forceinline__ void
store_rounded(stored *to, float4 v, int n, bool wide, ks__report report) {
    constexpr int size = 4 * sizeof(stored);
    __align__(size) stored s[FOUR];
    round_to(s, v.x);
    round_to(s + 1, v.y);
    round_to(s + 2, v.z);
    round_to(s + 3, v.w);
    if (wide && n >= FOUR) {
        if constexpr (size == 16)
            *(uint4 *)to = *(const uint4 *)s;
        else
            *(uint2 *)to = *(const uint2 *)s;
    } else {
#pragma unroll
        for (int i = 0; i < FOUR; i++)
            if (i < n) to[i] = s[i];
    }
    if (lost(to, v)) ks__cuda_report(report, KS__BEYOND_F16, blockIdx.x);
}

/* ---------------------------------------------------------------------- pool
 */

typedef struct pool_args {
    void *out[KS_TOKENS]; /* NULL: that position is not asked for */
    const float *x;
    int64_t x_stride;
    const ks_pool_row *rows;
    int cols;
    bool wide_x, wide_out;
    ks__report report;
} pool_args;

/* Mean of rows [begin, end): f32 sums in token order. */
static __device__ __forceinline__ float4 mean_of(const pool_args *a,
                                                 const float *x,
                                                 ks_pool_row row, int n) {
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 4
    for (int t = row.begin; t < row.end; t++) {
        float4 v = ks__load4(x + t * a->x_stride, n, a->wide_x);
        sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
    }
    float count = (float)(row.end - row.begin);
    return make_float4(sum.x / count, sum.y / count, sum.z / count,
                       sum.w / count);
}

/* Index of the row that a position picks; -1: none. */
static __device__ __forceinline__ int picked(int position, ks_pool_row row) {
    switch (position) {
    case KS_FIRST:
        return row.begin;
    case KS_MIDDLE:
        return row.begin + (row.end - row.begin) / 2;
    case KS_LAST:
        return row.end - 1;
    default:
        return row.before;
    }
}

/* All positions of one step and four columns a thread.
 * Bound: bytes, 4 an element of x read once for the mean. */
template <class stored>
static __global__ void __launch_bounds__(THREADS) pool_kernel(pool_args a) {
    int j = (int)(blockIdx.y * THREADS + threadIdx.x) * FOUR, n = a.cols - j;
    if (n <= 0) return;
    ks_pool_row row = a.rows[blockIdx.x];
    const float *x = a.x + j;
#pragma unroll
    for (int p = 0; p < KS_TOKENS; p++) {
        if (!a.out[p]) continue;
        float4 v = make_float4(NAN, NAN, NAN, NAN);
        int from = row.end > row.begin ? picked(p, row) : -1;
        if (p == KS_MEAN && row.end > row.begin)
            v = mean_of(&a, x, row, n);
        else if (p != KS_MEAN && from >= 0)
            v = ks__load4(x + from * a.x_stride, n, a.wide_x);
        stored *to = (stored *)a.out[p] + (int64_t)blockIdx.x * a.cols + j;
        store_rounded(to, v, n, a.wide_out, a.report);
    }
}

/* ------------------------------------------------------------------- convert
 */

/* out[r] = x[index ? index[r] : r], rounded; four columns a thread.
 * Bound: bytes, 4 + the stored ones an element. */
template <class stored>
static __global__ void __launch_bounds__(THREADS)
    convert_kernel(void *out, const float *x, int64_t x_stride,
                   const int32_t *index, int cols, bool wide_x, bool wide_out,
                   ks__report report) {
    int j = (int)(blockIdx.y * THREADS + threadIdx.x) * FOUR, n = cols - j;
    if (n <= 0) return;
    int64_t from = index ? index[blockIdx.x] : blockIdx.x;
    float4 v = ks__load4(x + from * x_stride + j, n, wide_x);
    store_rounded((stored *)out + (int64_t)blockIdx.x * cols + j, v, n,
                  wide_out, report);
}

/* ----------------------------------------------------------- count_nonfinite
 */

static __device__ __forceinline__ int not_finite(float x) {
    return (__float_as_uint(x) & 0x7f800000u) == 0x7f800000u;
}

/* found[0] += values that are not finite; found[1]: the lowest such row. Few
 * are, so few threads reach the atomics. Bound: bytes, 4 an element. */
static __global__ void __launch_bounds__(THREADS)
    nonfinite_kernel(unsigned long long *found, const float *x,
                     int64_t x_stride, int cols, bool wide) {
    int j = (int)(blockIdx.y * THREADS + threadIdx.x) * FOUR, n = cols - j;
    if (n <= 0) return;
    float4 v = ks__load4(x + blockIdx.x * x_stride + j, n, wide);
    int count =
        not_finite(v.x) + not_finite(v.y) + not_finite(v.z) + not_finite(v.w);
    if (!count) return;
    atomicAdd(found, (unsigned long long)count);
    atomicMin(found + 1, (unsigned long long)blockIdx.x);
}

/* ----------------------------------------------------------------- launchers
 */

static bool stores(ks_type type) {
    return type == KS_F32 || type == KS_F16 || type == KS_BF16;
}

/* May four values at a time go to a packed array of that type and width? */
static bool wide_to(const void *out, ks_type type, int64_t cols) {
    return (uintptr_t)out % (4 * ks_type_size(type)) == 0 && cols % 4 == 0;
}

ks_status ks__cuda_pool(ks_dev *dev, void *const out[KS_N_POSITIONS],
                        ks_type type, ks_view x, const ks_pool_row *rows,
                        int64_t n_rows, uint32_t positions, ks_err *err) {
    if (!stores(type) || positions >> KS_TOKENS)
        return ks_fail(err, KS_INTERNAL, "pool: type %s, positions %#x",
                       ks_type_name(type), (unsigned)positions);
    if (n_rows == 0) return KS_OK;
    pool_args a = {
        {NULL},      (const float *)x.data, x.stride, rows,
        (int)x.cols, ks__wide(&x),          true,     ks__cuda_reporting(dev)};
    for (int p = 0; p < KS_TOKENS; p++) {
        if (!(positions >> p & 1)) continue;
        a.out[p] = out[p];
        a.wide_out = a.wide_out && wide_to(out[p], type, x.cols);
    }
    void (*kernel)(pool_args) = pool_kernel<float>;
    if (type == KS_F16) kernel = pool_kernel<__half>;
    if (type == KS_BF16) kernel = pool_kernel<bf16>;
    ks_view grid = {NULL, n_rows, x.cols, 0, KS_F32};
    KS_CUDA_TRY(launch(kernel, ks__row_grid(&grid, THREADS * FOUR), THREADS, 0,
                       dev->stream, a),
                "pool");
    return KS_OK;
}

ks_status ks__cuda_convert(ks_dev *dev, void *out, ks_type type, ks_view x,
                           const int32_t *index, int64_t n_rows, ks_err *err) {
    if (!stores(type))
        return ks_fail(err, KS_INTERNAL, "convert: to %s", ks_type_name(type));
    if (n_rows == 0) return KS_OK;
    void (*kernel)(void *, const float *, int64_t, const int32_t *, int, bool,
                   bool, ks__report) = convert_kernel<float>;
    if (type == KS_F16) kernel = convert_kernel<__half>;
    if (type == KS_BF16) kernel = convert_kernel<bf16>;
    ks_view grid = {NULL, n_rows, x.cols, 0, KS_F32};
    KS_CUDA_TRY(launch(kernel, ks__row_grid(&grid, THREADS * FOUR), THREADS, 0,
                       dev->stream, out, (const float *)x.data, x.stride, index,
                       (int)x.cols, ks__wide(&x), wide_to(out, type, x.cols),
                       ks__cuda_reporting(dev)),
                "convert");
    return KS_OK;
}

/* With `found` on the device: counts, and waits for the answer. */
static ks_status count_into(ks_dev *dev, unsigned long long *found, ks_view x,
                            unsigned long long answer[2], ks_err *err) {
    KS_CUDA_TRY(cudaMemsetAsync(found, 0, 8, dev->stream), "count_nonfinite");
    KS_CUDA_TRY(cudaMemsetAsync(found + 1, 0xff, 8, dev->stream),
                "count_nonfinite");
    KS_CUDA_TRY(launch(nonfinite_kernel, ks__row_grid(&x, THREADS * FOUR),
                       THREADS, 0, dev->stream, found, (const float *)x.data,
                       x.stride, (int)x.cols, ks__wide(&x)),
                "count_nonfinite");
    KS_CUDA_TRY(
        cudaMemcpyAsync(answer, found, 16, cudaMemcpyDeviceToHost, dev->stream),
        "count_nonfinite");
    KS_CUDA_TRY(cudaStreamSynchronize(dev->stream), "count_nonfinite");
    return KS_OK;
}

ks_status ks__cuda_count_nonfinite(ks_dev *dev, ks_view x, int64_t *count,
                                   int64_t *row, ks_err *err) {
    unsigned long long answer[2] = {0, ~0ull};
    void *found = NULL;
    ks_status st = KS_OK;
    if (x.rows) {
        st = ks__cuda_take(dev, &found, sizeof answer, "counting", err);
        if (st != KS_OK) return st;
        st = count_into(dev, (unsigned long long *)found, x, answer, err);
        ks__cuda_give(dev, found);
    }
    *count = (int64_t)answer[0];
    *row = (int64_t)answer[1]; /* all ones: -1 */
    return st;
}
