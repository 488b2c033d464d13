/* rope.cuh - rotations of heads, which rope.cu and rope_backward.cu share. */
#ifndef KS_ROPE_CUH
#define KS_ROPE_CUH

#include "vec.cuh"

enum { KS__ROPE_THREADS = 128, KS__ROPE_MOST_DIMS = 256 };

/* The sequence that holds packed token t. */
static __device__ __forceinline__ int ks__sequence_of(const ks_seqs *seqs,
                                                      int t) {
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
static __device__ __forceinline__ float2 ks__turn_of(float angle) {
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
static __device__ __forceinline__ void ks__get(float *v, const float *from) {
    if constexpr (by == 4)
        *(float4 *)v = *(const float4 *)from;
    else
        *v = *from;
}
template <int by>
static __device__ __forceinline__ void ks__put(float *to, const float *v) {
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
ks__rotate(float *row, int cols, int head_dim, int pairs, const float2 *turn,
           float *store) {
    int of_head = pairs / by, items = cols / head_dim * of_head;
    int apart = interleaved ? by : pairs, step = interleaved ? 2 : 1;
    for (int p = (int)threadIdx.x; p < items; p += KS__ROPE_THREADS) {
        int i = p % of_head * by, at = p / of_head * head_dim + i * step;
        __align__(16) float v[2 * by];
        ks__get<by>(v, row + at);
        ks__get<by>(v + by, row + at + apart);
#pragma unroll
        for (int n = 0; n < by; n++) {
            float *x = v + n * step, *y = interleaved ? x + 1 : x + by;
            float a = *x, b = *y;
            float2 by_angle = turn[i + n];
            *x = a * by_angle.x - b * by_angle.y;
            *y = b * by_angle.x + a * by_angle.y;
        }
        ks__put<by>(row + at, v);
        ks__put<by>(row + at + apart, v + by);
        if (!store) continue;
        ks__put<by>(store + at, v);
        ks__put<by>(store + at + apart, v + by);
    }
}

#endif
