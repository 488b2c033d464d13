/* rope.cu - rotary positions (Su et al., RoFormer, 2021) for q and k, with the
 * write of k and v into the paged store. */
#include "cuda_ops.h"
#include "vec.cuh"

enum { THREADS = 128, MAX_HEAD_DIM = 256 };

typedef struct rope_args {
    float *q, *k;
    const float *v;
    int64_t q_stride, k_stride, v_stride;
    int q_cols, k_cols, head_dim, half; /* half: pairs that rotate */
    const float *inv_freq;
    float scale;
    ks_seqs seqs;
    ks_kv_layer kv; /* k NULL: no store */
    bool wide_v;    /* v and the store by 16 bytes */
} rope_args;

/* The sequence that holds packed token t. */
static __device__ __forceinline__ int sequence_of(const ks_seqs *seqs, int t) {
    int low = 0, high = seqs->n_seq;
    while (high - low > 1) {
        int mid = low + (high - low) / 2;
        if (seqs->offsets[mid] <= t)
            low = mid;
        else
            high = mid;
    }
    return low;
}

/* Cosine and sine as the CPU op has them (host/cpu/isa/vmath.h): in double,
 * multiples of pi/2 taken off in two parts, polynomials of FreeBSD msun
 * (k_sinf.c, k_cosf.c). One pair serves all heads of a token. */
static __device__ __forceinline__ float2 turn_of(float angle) {
    double x = angle, turns = rint(x * 0.63661977236758134308);
    double r = x - turns * 1.57079631090164184570e+00;
    r = r - turns * 1.58932547735281966916e-08;
    double z = r * r;
    double s =
        r +
        r * z *
            (-0x15555554cbac77.0p-55 +
             z * (0x111110896efbb2.0p-59 +
                  z * (-0x1a00f9e2cae774.0p-65 + z * 0x16cd878c3b46a7.0p-71)));
    double c =
        1.0 +
        z * (-0x1ffffffd0c5e81.0p-54 +
             z * (0x155553e1053a42.0p-57 +
                  z * (-0x16c087e80f1e27.0p-62 + z * 0x199342e0ee5069.0p-68)));
    int quarter = (int)turns;
    double a = quarter & 1 ? c : s, b = quarter & 1 ? s : c;
    return make_float2((float)((quarter + 1) & 2 ? -b : b),
                       (float)(quarter & 2 ? -a : a));
}

/* by floats, 4 by one access of 16 bytes. */
template <int by>
static __device__ __forceinline__ void get(float *v, const float *from) {
    if constexpr (by == 4)
        *(float4 *)v = *(const float4 *)from;
    else
        *v = *from;
}
template <int by>
static __device__ __forceinline__ void put(float *to, const float *v) {
    if constexpr (by == 4)
        *(float4 *)to = *(const float4 *)v;
    else
        *to = *v;
}

/* Rotates one row of heads in place; store: where the row goes as well, or
 * NULL. Pairs are (i, i + half), or interleaved (2 i, 2 i + 1); `by` of them
 * at a time. */
template <int by, bool interleaved>
static __device__ __forceinline__ void
rotate(float *row, int cols, int head_dim, int pairs, const float2 *turn,
       float *store) {
    int of_head = pairs / by, items = cols / head_dim * of_head;
    int apart = interleaved ? by : pairs, step = interleaved ? 2 : 1;
    for (int p = (int)threadIdx.x; p < items; p += THREADS) {
        int i = p % of_head * by, at = p / of_head * head_dim + i * step;
        __align__(16) float v[2 * by];
        get<by>(v, row + at);
        get<by>(v + by, row + at + apart);
#pragma unroll
        for (int n = 0; n < by; n++) {
            float *x = v + n * step, *y = interleaved ? x + 1 : x + by;
            float a = *x, b = *y;
            float2 by_angle = turn[i + n];
            *x = a * by_angle.x - b * by_angle.y;
            *y = b * by_angle.x + a * by_angle.y;
        }
        put<by>(row + at, v);
        put<by>(row + at + apart, v + by);
        if (!store) continue;
        put<by>(store + at, v);
        put<by>(store + at + apart, v + by);
    }
}

/* Writes what does not rotate of k, and v, into the store. */
static __device__ __forceinline__ void
store_rest(const rope_args *a, const float *k, const float *v, int64_t to) {
    int rest = a->head_dim - 2 * a->half;
    int items = a->k_cols / a->head_dim * rest;
    for (int p = (int)threadIdx.x; p < items; p += THREADS) {
        int at = p / rest * a->head_dim + 2 * a->half + p % rest;
        a->kv.k[to + at] = k[at];
    }
    for (int j = 4 * (int)threadIdx.x; j < a->k_cols; j += 4 * THREADS) {
        int n = a->k_cols - j;
        ks__store4(a->kv.v + to + j, ks__load4(v + j, n, a->wide_v), n,
                   a->wide_v);
    }
}

/* A block a token. Bound: bytes, 8 an element of q, and 8 (with the store 12
 * and 8 for v) of k. */
template <int by, bool interleaved>
static __global__ void __launch_bounds__(THREADS, 8) rope_kernel(rope_args a) {
    SHARED(float2, turn, MAX_HEAD_DIM / 2);
    int t = (int)blockIdx.x, s = sequence_of(&a.seqs, t);
    int pos = ks__past(a.seqs.past, s) + t - a.seqs.offsets[s];
    for (int i = (int)threadIdx.x; i < a.half; i += THREADS) {
        float2 one = turn_of((float)pos * a.inv_freq[i]);
        turn[i] = make_float2(one.x * a.scale, one.y * a.scale);
    }
    __syncthreads();
    float *k = a.k + t * a.k_stride;
    int64_t to = 0;
    if (a.kv.k) {
        int page = a.seqs.pages[(int64_t)s * a.seqs.max_pages + pos / KS_PAGE];
        to = ((int64_t)page * KS_PAGE + pos % KS_PAGE) * a.k_cols;
        store_rest(&a, k, a.v + t * a.v_stride, to);
    }
    rotate<by, interleaved>(a.q + t * a.q_stride, a.q_cols, a.head_dim, a.half,
                            turn, NULL);
    rotate<by, interleaved>(k, a.k_cols, a.head_dim, a.half, turn,
                            a.kv.k ? a.kv.k + to : NULL);
}

/* -------------------------------------------------------------- launchers */

static cudaError_t run_rope(ks_dev *dev, const rope_args *a, bool by_four,
                            bool interleaved) {
    void (*kernel)(rope_args) =
        by_four ? (interleaved ? rope_kernel<4, true> : rope_kernel<4, false>)
                : (interleaved ? rope_kernel<1, true> : rope_kernel<1, false>);
    return launch(kernel, (unsigned)a->seqs.n_tok, THREADS, 0, dev->stream, *a);
}

ks_status ks__cuda_rope(ks_dev *dev, ks_view q, ks_view k, ks_view v,
                        int32_t head_dim, const ks_rope *rope,
                        const ks_seqs *seqs, const ks_kv_layer *kv,
                        ks_err *err) {
    if (head_dim > MAX_HEAD_DIM || rope->rot_dims > head_dim)
        return ks_fail(err, KS_UNSUPPORTED,
                       "rope: %d of %d dims of a head, at most %d are built in",
                       (int)rope->rot_dims, (int)head_dim, (int)MAX_HEAD_DIM);
    if (q.cols % head_dim || k.cols % head_dim || v.cols != k.cols)
        return ks_fail(err, KS_INTERNAL,
                       "rope: %lld, %lld, %lld columns, head of %d",
                       (long long)q.cols, (long long)k.cols, (long long)v.cols,
                       (int)head_dim);
    if (seqs->n_tok == 0) return KS_OK;
    rope_args a = {(float *)q.data,
                   (float *)k.data,
                   (const float *)v.data,
                   q.stride,
                   k.stride,
                   v.stride,
                   (int)q.cols,
                   (int)k.cols,
                   head_dim,
                   rope->rot_dims / 2,
                   rope->inv_freq,
                   rope->scale,
                   *seqs,
                   kv ? *kv : ks_kv_layer{NULL, NULL},
                   ks__wide(&v) && k.cols % 4 == 0};
    bool by_four =
        ks__wide(&q) && ks__wide(&k) && a.half % 4 == 0 && head_dim % 4 == 0;
    KS_CUDA_TRY(run_rope(dev, &a, by_four, rope->interleaved), "rope");
    return KS_OK;
}
