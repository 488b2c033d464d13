/* matmul.cu - c = alpha op(a) op(b) + beta c, all f32, for the probes: by
 * cuBLASLt where it is, else by the kernel here, plain multiply-adds, whose
 * error is that of f32. */
#include "blaslt.cuh"
#include "cuda_ops.h"

enum {
    THREADS = 128,
    TILE = 64,  /* rows and columns of c a block */
    DEPTH = 16, /* of a step along k */
    PITCH = TILE + 4,
    ROWS = 8, /* of c a thread */
    COLS = 4,
    CHUNKS = TILE * DEPTH / 4 / THREADS, /* of four, an operand, a thread */
    LONG = 256 / DEPTH /* steps a chain; chains are added up */
};

/* An operand: element (i, k), i along m or n; along_k: k is contiguous. */
typedef struct operand {
    const float *data;
    int64_t stride;
    int32_t lines; /* i */
    bool along_k, wide;
} operand;

/* p[0..3], zeros from n on. */
static __device__ __forceinline__ float4 load4(const float *p, int n,
                                               bool wide) {
    if (wide && n >= 4) return *(const float4 *)p;
    return make_float4(n > 0 ? p[0] : 0, n > 1 ? p[1] : 0, n > 2 ? p[2] : 0,
                       n > 3 ? p[3] : 0);
}

/* This thread's chunks of lines [first, first + TILE) by k [at, at + DEPTH). */
static __device__ __forceinline__ void
load_tile(float4 v[CHUNKS], const operand *o, int first, int at, int k) {
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        int id = (int)threadIdx.x + c * THREADS;
        int line = first + (o->along_k ? id / 4 : id % 16 * 4);
        int deep = at + (o->along_k ? id % 4 * 4 : id / 16);
        bool in = line < o->lines && deep < k;
        int64_t row = o->along_k ? line : deep, col = o->along_k ? deep : line;
        int n = o->along_k ? k - deep : o->lines - line;
        v[c] = load4(o->data + (in ? row * o->stride + col : 0), in ? n : 0,
                     o->wide);
    }
}

static __device__ __forceinline__ void
store_tile(float (*tile)[PITCH], const operand *o, const float4 v[CHUNKS]) {
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        int id = (int)threadIdx.x + c * THREADS;
        if (o->along_k) { /* turned: two lanes a bank */
            int line = id / 4, deep = id % 4 * 4;
            tile[deep][line] = v[c].x;
            tile[deep + 1][line] = v[c].y;
            tile[deep + 2][line] = v[c].z;
            tile[deep + 3][line] = v[c].w;
        } else {
            *(float4 *)&tile[id / 16][id % 16 * 4] = v[c];
        }
    }
}

/* acc += one step. */
static __device__ __forceinline__ void multiply(float acc[ROWS][COLS],
                                                const float (*ta)[PITCH],
                                                const float (*tb)[PITCH],
                                                int row0, int col0) {
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
        float4 a0 = *(const float4 *)&ta[k][row0];
        float4 a1 = *(const float4 *)&ta[k][row0 + 4];
        float4 b = *(const float4 *)&tb[k][col0];
        float a[ROWS] = {a0.x, a0.y, a0.z, a0.w, a1.x, a1.y, a1.z, a1.w};
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            acc[i][0] = __fmaf_rn(a[i], b.x, acc[i][0]);
            acc[i][1] = __fmaf_rn(a[i], b.y, acc[i][1]);
            acc[i][2] = __fmaf_rn(a[i], b.z, acc[i][2]);
            acc[i][3] = __fmaf_rn(a[i], b.w, acc[i][3]);
        }
    }
}

/* One block a tile of c; loads of the next step are in flight while this one
 * multiplies. Sums are chains of 256 along k, added in order. Bound
 * (computed): 2 m n k FLOPs of f32 multiply-adds. */
static __global__ void __launch_bounds__(THREADS)
    matmul_kernel(float *c, int64_t c_stride, operand a, operand b, int k,
                  float alpha, float beta) {
    SHARED2(float, ta, 2 * DEPTH, PITCH);
    SHARED2(float, tb, 2 * DEPTH, PITCH);
    int m0 = (int)blockIdx.y * TILE, n0 = (int)blockIdx.x * TILE;
    int row0 = (int)threadIdx.x / 16 * ROWS,
        col0 = (int)threadIdx.x % 16 * COLS;
    float acc[ROWS][COLS] = {}, total[ROWS][COLS] = {};
    float4 va[CHUNKS], vb[CHUNKS];
    load_tile(va, &a, m0, 0, k);
    load_tile(vb, &b, n0, 0, k);
    store_tile(ta, &a, va);
    store_tile(tb, &b, vb);
    __syncthreads();
    int steps = (k + DEPTH - 1) / DEPTH;
    for (int t = 0; t < steps; t++) {
        int now = t % 2 * DEPTH, next = (t + 1) % 2 * DEPTH;
        bool more = t + 1 < steps;
        if (more) {
            load_tile(va, &a, m0, (t + 1) * DEPTH, k);
            load_tile(vb, &b, n0, (t + 1) * DEPTH, k);
        }
        multiply(acc, ta + now, tb + now, row0, col0);
        if (t % LONG == LONG - 1 || !more)
            for (int i = 0; i < ROWS * COLS; i++) {
                total[i / COLS][i % COLS] += acc[i / COLS][i % COLS];
                acc[i / COLS][i % COLS] = 0;
            }
        if (more) {
            store_tile(ta + next, &a, va);
            store_tile(tb + next, &b, vb);
            __syncthreads();
        }
    }
    for (int i = 0; i < ROWS * COLS; i++) {
        int row = m0 + row0 + i / COLS, col = n0 + col0 + i % COLS;
        if (row >= a.lines || col >= b.lines) continue;
        float *to = c + row * c_stride + col;
        float v = alpha * total[i / COLS][i % COLS];
        *to = beta == 0 ? v : v + beta * *to;
    }
}

/* ---------------------------------------------------------------- launcher */

static operand make_operand(ks_view v, bool along_k) {
    operand o = {(const float *)v.data, v.stride,
                 (int32_t)(along_k ? v.rows : v.cols), along_k,
                 v.stride % 4 == 0 && (uintptr_t)v.data % 16 == 0};
    return o;
}

ks_status ks__cuda_matmul(ks_dev *dev, ks_view c, ks_view a, bool ta, ks_view b,
                          bool tb, float alpha, float beta, ks_err *err) {
    int64_t m = ta ? a.cols : a.rows, k = ta ? a.rows : a.cols;
    int64_t n = tb ? b.rows : b.cols, kb = tb ? b.cols : b.rows;
    if (c.type != KS_F32 || a.type != KS_F32 || b.type != KS_F32)
        return ks_fail(err, KS_INTERNAL, "matmul: types %s = %s %s",
                       ks_type_name(c.type), ks_type_name(a.type),
                       ks_type_name(b.type));
    if (c.rows != m || c.cols != n || k != kb || k < 1)
        return ks_fail(err, KS_INTERNAL,
                       "matmul: shapes [%lld,%lld] = [%lld,%lld] [%lld,%lld]",
                       (long long)c.rows, (long long)c.cols, (long long)m,
                       (long long)k, (long long)kb, (long long)n);
    if (m == 0 || n == 0) return KS_OK;
    bool served = false;
    if (dev->blaslt) {
        ks_status st =
            ks__blaslt_matmul(dev, c, a, ta, b, tb, alpha, beta, &served, err);
        if (st != KS_OK || served) return st;
    }
    dim3 grid((unsigned)ks__ceil_div(n, TILE), (unsigned)ks__ceil_div(m, TILE));
    KS_CUDA_TRY(launch(matmul_kernel, grid, THREADS, 0, dev->stream,
                       (float *)c.data, c.stride, make_operand(a, !ta),
                       make_operand(b, tb), (int)k, alpha, beta),
                "matmul");
    return KS_OK;
}
