/* score_backward.cu - the way back from log-probabilities to hidden rows: the
 * logits of some rows at a time become their own cotangents in place, between
 * two products with the head. */
#include "cuda_ops.h"
#include "vec.cuh"

enum { THREADS = 256, FOUR = 4, HELD = 128 };

typedef struct turn_args {
    float *z; /* [rows, vocab] logits */
    int64_t stride;
    int vocab;
    float cap; /* 0: none */
    const int32_t *target;
    const float *weight;
    bool of_probability;
    float *logprob; /* may be NULL */
} turn_args;

/* Sum of e^x over some x: sum e^top. */
typedef struct exps {
    float top, sum;
} exps;

static __device__ __forceinline__ float shift_of(float top) {
    return top > -INFINITY ? top : 0;
}

static __device__ __forceinline__ exps join(exps a, exps b) {
    float top = fmaxf(a.top, b.top), shift = shift_of(top);
    return {top, a.sum * expf(a.top - shift) + b.sum * expf(b.top - shift)};
}

/* Over the block, the same in every thread: lanes by butterfly, then warps in
 * order. */
static __device__ __forceinline__ exps join_block(exps a) {
    SHARED(exps, part, THREADS / 32);
#pragma unroll
    for (int step = 16; step; step /= 2)
        a = join(a, {__shfl_xor_sync(0xffffffffu, a.top, step),
                     __shfl_xor_sync(0xffffffffu, a.sum, step)});
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = a;
    __syncthreads();
    a = part[0];
#pragma unroll
    for (int i = 1; i < THREADS / 32; i++) a = join(a, part[i]);
    return a;
}

template <bool capped>
static __device__ __forceinline__ float capped_of(const turn_args *a, float z) {
    return capped ? a->cap * tanhf(z / a->cap) : z;
}

/* e^(x - top) of one logit more. */
static __device__ __forceinline__ void take(exps *e, float x) {
    if (x > e->top) {
        e->sum *= expf(e->top - x);
        e->top = x;
    }
    e->sum += expf(x - shift_of(e->top));
}

/* dz = scale e^(s - top) (1 - (s / cap)^2) */
template <bool capped>
static __device__ __forceinline__ float cotangent(const turn_args *a, float z,
                                                  float scale, float top) {
    float s = capped_of<capped>(a, z), d = scale * expf(s - top);
    if (!capped) return d;
    float t = s / a->cap;
    return d * ((1.0f - t) * (1.0f + t));
}

/* A block a row. The target is left out of the sum, so that 1 - p keeps its
 * digits near p = 1. Bound: bytes, 12 a logit (in L2: HELD rows). */
template <bool capped>
static __global__ void __launch_bounds__(THREADS) turn_kernel(turn_args a) {
    float *z = a.z + blockIdx.x * a.stride;
    int target = a.target[blockIdx.x];
    float wanted = capped_of<capped>(&a, z[target]);
    exps e = {-INFINITY, 0};
    for (int j = (int)threadIdx.x * FOUR; j < a.vocab; j += THREADS * FOUR) {
        float4 v = ks__load4(z + j, a.vocab - j, true);
        float x[FOUR] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < FOUR; i++)
            if (j + i < a.vocab && j + i != target)
                take(&e, capped_of<capped>(&a, x[i]));
    }
    e = join_block(e);
    float top = fmaxf(e.top, wanted);
    float others = e.sum * expf(e.top - top);
    float total = others + expf(wanted - top);
    float logprob = wanted - top - logf(total), w = a.weight[blockIdx.x];
    if (a.of_probability) w *= expf(logprob);
    if (a.logprob && threadIdx.x == 0) a.logprob[blockIdx.x] = logprob;
    for (int j = (int)threadIdx.x * FOUR; j < a.vocab; j += THREADS * FOUR) {
        float4 v = ks__load4(z + j, a.vocab - j, true);
        float x[FOUR] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < FOUR; i++) {
            bool own = j + i == target;
            x[i] = cotangent<capped>(&a, x[i],
                                     own ? w * (others / total) : -w / total,
                                     own ? wanted : top);
        }
        ks__store4(z + j, make_float4(x[0], x[1], x[2], x[3]), a.vocab - j,
                   true);
    }
}

/* -------------------------------------------------------------- launchers */

/* Rows [first, first + rows), their logits in a.z. */
static ks_status turn_rows(ks_dev *dev, ks_view dhidden, ks_view hidden,
                           ks_view head, turn_args a, int64_t first,
                           int64_t rows, ks_err *err) {
    ks_view z = {a.z, rows, head.rows, a.stride, KS_F32};
    hidden.data = (float *)hidden.data + first * hidden.stride;
    dhidden.data = (float *)dhidden.data + first * dhidden.stride;
    hidden.rows = dhidden.rows = rows;
    a.target += first, a.weight += first;
    if (a.logprob) a.logprob += first;
    ks_status st = ks__cuda_gemm(dev, z, hidden, head, NULL, false, err);
    if (st != KS_OK) return st;
    KS_CUDA_TRY(launch(a.cap > 0 ? turn_kernel<true> : turn_kernel<false>,
                       (unsigned)rows, THREADS, 0, dev->stream, a),
                "score backward");
    return ks__cuda_gemm_backward(dev, dhidden, z, head, false, err);
}

ks_status ks__cuda_score_backward(ks_dev *dev, ks_view dhidden, float *logprob,
                                  ks_view hidden, ks_view head, float softcap,
                                  const int32_t *target, const float *weight,
                                  bool of_probability, ks_err *err) {
    if (hidden.cols != head.cols || dhidden.cols != hidden.cols ||
        dhidden.rows != hidden.rows)
        return ks_fail(err, KS_INTERNAL,
                       "score backward: [%lld,%lld] from [%lld,%lld] by "
                       "[%lld,%lld]",
                       (long long)dhidden.rows, (long long)dhidden.cols,
                       (long long)hidden.rows, (long long)hidden.cols,
                       (long long)head.rows, (long long)head.cols);
    if (hidden.rows == 0) return KS_OK;
    int64_t held = KS_MIN((int64_t)HELD, hidden.rows);
    int64_t stride = ks__ceil_div(head.rows, FOUR) * FOUR;
    void *z = NULL;
    ks_status st =
        ks__cuda_take(dev, &z, (size_t)(held * stride) * sizeof(float),
                      "the logits of a few rows", err);
    turn_args a = {(float *)z, stride, (int)head.rows, softcap,
                   target,     weight, of_probability, logprob};
    for (int64_t i = 0; st == KS_OK && i < hidden.rows; i += held)
        st = turn_rows(dev, dhidden, hidden, head, a, i,
                       KS_MIN(held, hidden.rows - i), err);
    ks__cuda_give(dev, z);
    return st;
}
