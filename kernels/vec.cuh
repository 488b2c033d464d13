/* vec.cuh - four f32 at a time of rows whose width and stride may be odd, and
 * sums over a warp in an order that is always the same.
 *
 * Who owns which elements never depends on alignment: a thread's four come by
 * one load of 16 bytes where `wide`, else one by one, so bits are the same. */
#ifndef KS_VEC_CUH
#define KS_VEC_CUH

#include "cuda.cuh"

/* KS_MIN for a constant of an enum and a size. */
static inline int64_t ks__least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* May every row of x be read by 16 bytes? Asked on the host, per launch. */
static inline bool ks__wide(const ks_view *x) {
    return (uintptr_t)x->data % 16 == 0 && x->stride % 4 == 0;
}

/* A block for each row and each `cols` columns: blockIdx.x is the row. */
static inline dim3 ks__row_grid(const ks_view *x, int cols) {
    return dim3((unsigned)x->rows, (unsigned)ks__ceil_div(x->cols, cols));
}

/* p[0..3], zeros from n on. */
static __device__ __forceinline__ float4 ks__load4(const float *p, int n,
                                                   bool wide) {
    if (wide && n >= 4) return *(const float4 *)p;
    return make_float4(n > 0 ? p[0] : 0, n > 1 ? p[1] : 0, n > 2 ? p[2] : 0,
                       n > 3 ? p[3] : 0);
}

static __device__ __forceinline__ void ks__store4(float *p, float4 v, int n,
                                                  bool wide) {
    if (wide && n >= 4) {
        *(float4 *)p = v;
        return;
    }
    if (n > 0) p[0] = v.x;
    if (n > 1) p[1] = v.y;
    if (n > 2) p[2] = v.z;
    if (n > 3) p[3] = v.w;
}

/* Sum over the warp's lanes, the same bits in each: a butterfly. */
static __device__ __forceinline__ float ks__warp_sum(float x) {
#pragma unroll
    for (int step = 16; step; step /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

#endif
