/* moe.cu - mixture-of-experts layers (Shazeer et al., 2017) around their
 * products: choosing experts, rows by expert, gpt-oss's gate, the sum. */
#include "cuda_ops.h"
#include "vec.cuh"

enum { THREADS = 256, WARPS = THREADS / 32, ROW_THREADS = 128, FOUR = 4 };
static const unsigned ALL = 0xffffffffu;

/* -------------------------------------------------------------------- route */

/* Grows with the logit (-0 as 0, NaN above all), then with a lower expert;
 * never 0, never all ones. */
static __device__ __forceinline__ uint64_t rank_of(float logit, int expert) {
    uint32_t bits = __float_as_uint(logit + 0.0f);
    bits = bits >> 31 ? ~bits : bits | 0x80000000u;
    if (isnan(logit)) bits = 0xffffffffu;
    return (uint64_t)bits << 32 | (uint32_t)(0x7fffffff - expert);
}

static __device__ __forceinline__ int expert_of(uint64_t rank) {
    return 0x7fffffff - (int)(uint32_t)rank;
}

/* The highest rank below `last` in a row of n, in every lane; 0: none. */
static __device__ uint64_t next_choice(const float *logits, int n,
                                       uint64_t last) {
    uint64_t best = 0;
    for (int e = (int)threadIdx.x % 32; e < n; e += 32) {
        uint64_t rank = rank_of(logits[e], e);
        if (rank < last && rank > best) best = rank;
    }
#pragma unroll
    for (int step = 16; step; step /= 2) {
        uint64_t other = __shfl_xor_sync(ALL, best, step);
        best = other > best ? other : best;
    }
    return best;
}

/* A warp a row; lane k keeps choice k. Bound: latency, top_k passes over a row
 * of some hundred logits in L1. */
static __global__ void __launch_bounds__(THREADS)
    route_kernel(int32_t *expert, float *weight, const float *logits,
                 int64_t stride, int64_t rows, int n, int top_k,
                 bool renormalise) {
    int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    int lane = (int)threadIdx.x % 32;
    if (row >= rows) return; /* whole warps */
    logits += row * stride;
    uint64_t rank = ~0ull, mine = 0;
    float top = 0;
    for (int k = 0; k < top_k; k++) {
        rank = next_choice(logits, n, rank);
        if (lane == k) mine = rank;
        if (k == 0) top = logits[expert_of(rank)];
    }
    float e = lane < top_k ? expf(logits[expert_of(mine)] - top) : 0;
    float sum = e;
    if (!renormalise) {
        sum = 0;
        for (int i = lane; i < n; i += 32) sum += expf(logits[i] - top);
    }
    sum = ks__warp_sum(sum);
    int at = 0; /* among the chosen, by number */
    for (int k = 0; k < top_k; k++)
        at += expert_of(__shfl_sync(ALL, mine, k)) < expert_of(mine);
    if (lane >= top_k) return;
    expert[row * top_k + at] = expert_of(mine);
    weight[row * top_k + at] = e / sum;
}

/* -------------------------------------------------------------------- group */

/* Sum over the block of x, in every thread; x < 2^31. Once a kernel: `part` is
 * not guarded against the next sum. */
static __device__ int block_sum(int x) {
    SHARED(int, part, WARPS);
    x = (int)__reduce_add_sync(ALL, (unsigned)x);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    int sum = 0;
#pragma unroll
    for (int i = 0; i < WARPS; i++) sum += part[i];
    return sum;
}

/* Threads below this one, in the block, with `in` set; *all: of the block. */
static __device__ int block_rank(bool in, int *all) {
    SHARED(int, part, WARPS);
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    unsigned lanes = __ballot_sync(ALL, in);
    __syncthreads(); /* whoever still reads the last ranks */
    if (lane == 0) part[warp] = __popc(lanes);
    __syncthreads();
    int below = __popc(lanes & ((1u << lane) - 1)), sum = 0;
#pragma unroll
    for (int i = 0; i < WARPS; i++) {
        if (i == warp) below += sum;
        sum += part[i];
    }
    *all = sum;
    return below;
}

/* A block an expert: it begins behind all pairs of lower experts, and takes
 * its own in order. Bound: latency and L2, each block reads all choices twice;
 * no order of blocks, no counts from one launch to the next. */
static __global__ void __launch_bounds__(THREADS)
    group_kernel(int32_t *offsets, int32_t *row, int32_t *place,
                 const int32_t *expert, int pairs, int top_k) {
    int e = (int)blockIdx.x, lower = 0;
    for (int i = (int)threadIdx.x; i < pairs; i += THREADS)
        lower += expert[i] < e;
    int at = block_sum(lower);
    if (threadIdx.x == 0) {
        offsets[e] = at;
        if (e == 0) offsets[gridDim.x] = pairs;
    }
    for (int first = 0; first < pairs; first += THREADS) {
        int i = first + (int)threadIdx.x, all;
        bool in = i < pairs && expert[i] == e;
        int rank = block_rank(in, &all);
        if (in) {
            row[at + rank] = i / top_k;
            place[i] = at + rank;
        }
        at += all;
    }
}

/* ------------------------------------------------------------- gate_clamped */

/* (min(max(up, -limit), limit) + 1) g sigmoid(alpha g), g = min(gate, limit);
 * a NaN passes the comparisons unchanged. */
static __device__ __forceinline__ float clamped(float gate, float up,
                                                ks_clamp c) {
    float g = gate > c.limit ? c.limit : gate;
    float u = up > c.limit ? c.limit : up;
    u = u < -c.limit ? -c.limit : u;
    return (u + 1.0f) * (g / (1.0f + expf(-c.alpha * g)));
}

/* Four elements of out a thread. Bound: bytes, 12 an element. */
static __global__ void __launch_bounds__(ROW_THREADS)
    clamped_kernel(float *out, int64_t out_stride, const float *x,
                   int64_t x_stride, int cols, ks_clamp c, bool wide) {
    int j = (int)(blockIdx.y * ROW_THREADS + threadIdx.x) * FOUR, n = cols - j;
    if (n <= 0) return;
    x += blockIdx.x * x_stride + 2 * j;
    float4 a = ks__load4(x, 2 * n, wide), b = ks__load4(x + 4, 2 * n - 4, wide);
    ks__store4(out + blockIdx.x * out_stride + j,
               make_float4(clamped(a.x, a.y, c), clamped(a.z, a.w, c),
                           clamped(b.x, b.y, c), clamped(b.z, b.w, c)),
               n, wide);
}

/* ------------------------------------------------------------------ combine */

/* out[i] = sum of weight[i, s] x[place[i, s]] in order of s; four columns a
 * thread. Bound: bytes, 4 + 4 top_k an element. */
static __global__ void __launch_bounds__(ROW_THREADS)
    combine_kernel(float *out, int64_t out_stride, const float *x,
                   int64_t x_stride, const int32_t *place, const float *weight,
                   int top_k, int cols, bool wide) {
    int j = (int)(blockIdx.y * ROW_THREADS + threadIdx.x) * FOUR, n = cols - j;
    if (n <= 0) return;
    float4 sum = make_float4(0, 0, 0, 0);
    for (int s = 0; s < top_k; s++) {
        int64_t at = (int64_t)blockIdx.x * top_k + s;
        float w = weight[at];
        float4 v = ks__load4(x + place[at] * x_stride + j, n, wide);
        sum = make_float4(fmaf(w, v.x, sum.x), fmaf(w, v.y, sum.y),
                          fmaf(w, v.z, sum.z), fmaf(w, v.w, sum.w));
    }
    ks__store4(out + blockIdx.x * out_stride + j, sum, n, wide);
}

/* -------------------------------------------------------------- launchers */

ks_status ks__cuda_route(ks_dev *dev, int32_t *expert, float *weight,
                         ks_view logits, int32_t top_k, bool renormalise,
                         ks_err *err) {
    ks_status st = ks__check_route(&logits, top_k, err);
    if (st != KS_OK) return st;
    if (top_k > 32)
        return ks_fail(err, KS_UNSUPPORTED,
                       "route: %d experts a token, at most 32 are built in",
                       top_k);
    if (logits.rows == 0) return KS_OK;
    KS_CUDA_TRY(launch(route_kernel, (unsigned)ks__ceil_div(logits.rows, WARPS),
                       THREADS, 0, dev->stream, expert, weight,
                       (const float *)logits.data, logits.stride, logits.rows,
                       (int)logits.cols, (int)top_k, renormalise),
                "route");
    return KS_OK;
}

ks_status ks__cuda_group(ks_dev *dev, int32_t *offsets, int32_t *row,
                         int32_t *place, const int32_t *expert, int64_t n,
                         int32_t top_k, int32_t n_experts, ks_err *err) {
    if (top_k < 1 || n_experts < top_k || n * top_k > INT32_MAX - THREADS)
        return ks_fail(err, KS_INTERNAL, "group: %lld rows, %d of %d experts",
                       (long long)n, top_k, n_experts);
    KS_CUDA_TRY(launch(group_kernel, (unsigned)n_experts, THREADS, 0,
                       dev->stream, offsets, row, place, expert,
                       (int)(n * top_k), (int)top_k),
                "group");
    return KS_OK;
}

ks_status ks__cuda_gate_clamped(ks_dev *dev, ks_view out, ks_view x,
                                ks_clamp clamp, ks_err *err) {
    ks_status st = ks__check_gate_clamped(&out, &x, err);
    if (st != KS_OK) return st;
    if (out.rows == 0) return KS_OK;
    KS_CUDA_TRY(launch(clamped_kernel, ks__row_grid(&out, ROW_THREADS * FOUR),
                       ROW_THREADS, 0, dev->stream, (float *)out.data,
                       out.stride, (const float *)x.data, x.stride,
                       (int)out.cols, clamp, ks__wide(&out) && ks__wide(&x)),
                "gate_clamped");
    return KS_OK;
}

ks_status ks__cuda_combine(ks_dev *dev, ks_view out, ks_view x,
                           const int32_t *place, const float *weight,
                           int32_t top_k, ks_err *err) {
    ks_status st = ks__check_combine(&out, &x, top_k, err);
    if (st != KS_OK) return st;
    if (out.rows == 0) return KS_OK;
    KS_CUDA_TRY(launch(combine_kernel, ks__row_grid(&out, ROW_THREADS * FOUR),
                       ROW_THREADS, 0, dev->stream, (float *)out.data,
                       out.stride, (const float *)x.data, x.stride, place,
                       weight, (int)top_k, (int)out.cols,
                       ks__wide(&out) && ks__wide(&x)),
                "combine");
    return KS_OK;
}
