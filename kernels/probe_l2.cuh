/* probe_l2.cuh - the kernels of the l2 ops: what the solver of probes/l2.h asks
 * of a layer's rows. Two products carry all of it, product    out[i, c] = sum_j
 * a[i, j] w[c, j]      and what follows from z outer      out[c, j] = sum_i
 * r[i, c] a[i, j]      r: residuals, or a where a are the rows themselves or
 * weight_i (x_i - centre) inverse, formed while a tile is loaded. Template T:
 * f32, or double where the CPU has it.
 *
 * Tiles of 64 x 64 by 256 threads, 4 x 4 each, 16 deep; the next slices wait in
 * registers while the present ones multiply. Plain FMA: gradients are wanted to
 * 1e-7, which sums of bf16 terms do not give for fewer products than this.
 *
 * Sums over rows: T within a part (512 rows, more beyond 32,768), double over
 * the parts, ascending. A column's bits depend on the rows and on nothing else.
 * Both products of a pass walk x in the same order; the second finds it in L2
 * where it fits (32 MB: 8,000 rows of 1,024), else reads it again, which costs
 * less than the products from some 40 columns on. */
#ifndef KS_PROBE_L2_CUH
#define KS_PROBE_L2_CUH

#include <stdlib.h>

#include "cuda.cuh"
#include "cuda_ops.h"

enum {
    TILE = 64,        /* rows, columns and features of a tile */
    DEPTH = 16,       /* of the sums, a slice */
    PITCH = TILE + 4, /* 16-byte rows; stores of a transposed slice conflict
                         two ways, reads not at all */
    THREADS = 256,
    PART_ROWS = 512, /* summed in T */
    MOST_PARTS = 64
};

/* a: the rows of x, or weighted, centred and scaled ones; ones: 1 weight_i
 * behind the last feature. */
template <class T> struct row_source {
    const float *x;
    int64_t n;
    int32_t d;
    bool vectors;              /* rows of x start at 16 bytes */
    const T *centre, *inverse; /* [d] or NULL */
    const T *weight;           /* [n], weight_stride apart */
    int32_t weight_stride;
    bool ones;
};

/* What a product does with its columns. */
enum product_kind {
    KEEP,     /* out = z */
    RESIDUAL, /* out = r; sums of r and of the curvatures */
    CURVATURE /* out = sqrt(c p (1 - p)) */
};

template <class T> struct product_task {
    row_source<T> a;
    product_kind kind;
    int32_t n, wide; /* columns, and rounded up to tiles */
    const T *w;      /* [n, d] */
    T *out;          /* [a.n, wide] */
    /* RESIDUAL, CURVATURE */
    const uint8_t *code;   /* [n_designs, a.n] */
    const int32_t *design; /* [n] */
    const uint32_t *hold;  /* [n] */
    const double *class_c; /* [n, 2] */
    const double *b;       /* [n] */
    T *sums;               /* [row tiles, 2, wide] r, h; RESIDUAL */
    float *margin;         /* [a.n, wide] or NULL */
};

template <class T> struct __align__(16) four {
    T v[4];
};

/* ----------------------------------------------------------------- elements */

/* a[i, j..j + 4), zeros outside. */
template <class T>
static __device__ four<T> load_row(const row_source<T> &a, int64_t i,
                                   int32_t j) {
    four<T> to = {};
    if (i >= a.n) return to;
    const float *from = a.x + i * a.d + j;
    if (a.vectors && j < a.d) {
        float4 x = *(const float4 *)from;
        to.v[0] = (T)x.x, to.v[1] = (T)x.y, to.v[2] = (T)x.z, to.v[3] = (T)x.w;
    } else {
        for (int k = 0; k < 4; k++)
            if (j + k < a.d) to.v[k] = (T)from[k];
    }
    if (!a.centre) return to;
    T weight = a.weight[i * a.weight_stride];
    for (int k = 0; k < 4; k++)
        if (j + k < a.d)
            to.v[k] = weight * ((to.v[k] - a.centre[j + k]) * a.inverse[j + k]);
        else if (a.ones && j + k == a.d)
            to.v[k] = weight;
    return to;
}

/* w[c, j..j + 4), zeros outside. */
template <class T>
static __device__ four<T> load_column(const T *w, int32_t n, int32_t d,
                                      int32_t c, int32_t j) {
    four<T> to = {};
    for (int k = 0; k < 4; k++)
        if (c < n && j + k < d) to.v[k] = w[(int64_t)c * d + j + k];
    return to;
}

static __device__ float exponential(float x) {
    return expf(x);
}
static __device__ double exponential(double x) {
    return exp(x);
}

/* sums += the slice's product: rows 4 ty.. of one tile, 4 tx.. of the other. */
template <class T>
static __device__ void multiply(T sums[4][4], const T (*left)[PITCH],
                                const T (*right)[PITCH], int tx, int ty) {
    for (int k = 0; k < DEPTH; k++) {
        four<T> l = *(const four<T> *)&left[k][4 * ty];
        four<T> r = *(const four<T> *)&right[k][4 * tx];
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++) sums[i][j] += l.v[i] * r.v[j];
    }
}

/* ------------------------------------------------------------------ product */

/* One margin z of row i and column c to what the task keeps of it; adds to the
 * sums of r and h. */
template <class T>
static __device__ T finish_one(const product_task<T> &t, T z, int64_t i,
                               int32_t c, T *r_sum, T *h_sum) {
    uint8_t label = t.code[t.design[c] * t.a.n + i];
    T margin = z + (T)t.b[c];
    T weight = (T)t.class_c[2 * c + (label & 1)];
    if (t.hold[c] >> (label / 2) & 1) weight = 0;
    T p = 1 / (1 + exponential(-margin));
    T h = weight * (p * (1 - p)), r = weight * (p - (T)(label & 1));
    *r_sum += r;
    *h_sum += h;
    if (t.margin) t.margin[i * t.wide + c] = (float)margin;
    return t.kind == CURVATURE ? sqrt(h) : r;
}

/* The thread's 4 x 4; columns that only fill the tile are zeros. */
template <class T>
static __device__ void finish(const product_task<T> &t, T z[4][4], int64_t row,
                              int32_t column, T r_sum[4], T h_sum[4]) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
        int32_t c = column + j;
        r_sum[j] = h_sum[j] = 0;
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (c >= t.n)
                z[i][j] = 0;
            else if (row + i < t.a.n)
                z[i][j] =
                    finish_one(t, z[i][j], row + i, c, &r_sum[j], &h_sum[j]);
    }
}

/* Sums over a tile's rows, in the order of threads, to sums[row tile]. */
template <class T>
static __device__ void add_rows(const product_task<T> &t, T (*part)[TILE],
                                const T mine[4], int which, int tx, int ty) {
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 4; j++) part[ty][4 * tx + j] = mine[j];
    __syncthreads();
    if (threadIdx.x >= TILE) return;
    T sum = 0;
    for (int k = 0; k < 16; k++) sum += part[k][threadIdx.x];
    int64_t tiles = t.wide / TILE, tile = blockIdx.x;
    t.sums[(tile / tiles * 2 + which) * t.wide + tile % tiles * TILE +
           threadIdx.x] = sum;
}

/* A block: 64 rows and 64 columns; neighbours share rows. Bound: rows n d FMA
 * in T against 4 rows d bytes of x: FMA from some 40 columns on (f32, H100). */
template <class T>
static __global__ void __launch_bounds__(THREADS)
    product_kernel(product_task<T> t) {
    SHARED2(T, left, DEPTH, PITCH);
    SHARED2(T, right, DEPTH, PITCH);
    SHARED2(T, part, 16, TILE);
    int tx = (int)threadIdx.x % 16, ty = (int)threadIdx.x / 16;
    int to = (int)threadIdx.x / 4, from = (int)threadIdx.x % 4 * 4;
    int32_t tiles = t.wide / TILE;
    int64_t row = (int64_t)(blockIdx.x / tiles) * TILE, mine = row + to;
    int32_t column = (int32_t)(blockIdx.x % tiles) * TILE;
    T z[4][4] = {};
    four<T> l = load_row(t.a, mine, from);
    four<T> r = load_column(t.w, t.n, t.a.d, column + to, from);
    for (int32_t at = 0; at < t.a.d; at += DEPTH) {
        for (int k = 0; k < 4; k++) {
            left[from + k][to] = l.v[k];
            right[from + k][to] = r.v[k];
        }
        __syncthreads();
        if (at + DEPTH < t.a.d) {
            l = load_row(t.a, mine, at + DEPTH + from);
            r = load_column(t.w, t.n, t.a.d, column + to, at + DEPTH + from);
        }
        multiply(z, left, right, tx, ty);
        __syncthreads();
    }
    row += 4 * ty;
    column += 4 * tx;
    T r_sum[4] = {}, h_sum[4] = {};
    if (t.kind != KEEP) finish(t, z, row, column, r_sum, h_sum);
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (row + i < t.a.n)
            *(four<T> *)&t.out[(row + i) * t.wide + column] = {
                {z[i][0], z[i][1], z[i][2], z[i][3]}};
    if (t.kind != RESIDUAL) return;
    add_rows(t, part, r_sum, 0, tx, ty);
    add_rows(t, part, h_sum, 1, tx, ty);
}

/* -------------------------------------------------------------------- outer */

template <class T> struct outer_task {
    row_source<T> a;
    int64_t part_rows; /* rows of one of gridDim.z parts */
    const T *r;        /* [a.n, wide], or NULL: a itself, lower triangle */
    int32_t wide;
    int32_t n, width; /* out: rows and columns */
    T *out;           /* [parts, n, width] */
};

/* Four of the left operand: columns c.. of row i. */
template <class T>
static __device__ four<T> load_left(const outer_task<T> &t, int64_t i,
                                    int64_t end, int32_t c) {
    if (i < end && t.r) return *(const four<T> *)&t.r[i * t.wide + c];
    if (i < end) return load_row(t.a, i, c);
    return four<T>{};
}

/* Block (x, y, z): features 64 x.., columns 64 y.., part z of the rows. Bound:
 * as the product's; without r, n d^2 FMA in T. */
template <class T>
static __global__ void __launch_bounds__(THREADS)
    outer_kernel(outer_task<T> t) {
    SHARED2(T, left, DEPTH, PITCH);
    SHARED2(T, right, DEPTH, PITCH);
    if (!t.r && blockIdx.x > blockIdx.y) return; /* above the diagonal */
    int tx = (int)threadIdx.x % 16, ty = (int)threadIdx.x / 16;
    int to = (int)threadIdx.x / 16, from = (int)threadIdx.x % 16 * 4;
    int32_t c = (int32_t)blockIdx.y * TILE, j = (int32_t)blockIdx.x * TILE;
    int64_t begin = blockIdx.z * t.part_rows;
    int64_t end = min(begin + t.part_rows, t.a.n);
    T all[4][4] = {}, sums[4][4] = {};
    for (int64_t i = begin; i < end; i += DEPTH) {
        four<T> l = load_left(t, i + to, end, c + from), r = {};
        if (i + to < end) r = load_row(t.a, i + to, j + from);
        *(four<T> *)&left[to][from] = l;
        *(four<T> *)&right[to][from] = r;
        __syncthreads();
        multiply(sums, left, right, tx, ty);
        __syncthreads();
        if ((i - begin) % PART_ROWS + DEPTH < PART_ROWS && i + DEPTH < end)
            continue;
        for (int k = 0; k < 4; k++)
            for (int m = 0; m < 4; m++) {
                all[k][m] += sums[k][m];
                sums[k][m] = 0;
            }
    }
    T *out = t.out + (int64_t)blockIdx.z * t.n * t.width;
    for (int k = 0; k < 4; k++)
        for (int m = 0; m < 4; m++) {
            int32_t row = c + 4 * ty + k, column = j + 4 * tx + m;
            if (row < t.n && column < t.width)
                out[(int64_t)row * t.width + column] = all[k][m];
        }
}

/* out[k] = part[0][k] + part[1][k] + .., ascending. Bound: bytes. */
template <class T>
static __global__ void add_parts_kernel(double *out, const T *part, int64_t n,
                                        int64_t parts) {
    int64_t k = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= n) return;
    double sum = 0;
    for (int64_t p = 0; p < parts; p++) sum += (double)part[p * n + k];
    out[k] = sum;
}

/* Bound: bytes, as the next. */
static __global__ void narrow_kernel(float *out, const double *in, int64_t n) {
    int64_t k = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (k < n) out[k] = (float)in[k];
}

/* ------------------------------------------------------------------ scratch */

/* One allocation, cut into pieces: `place` counts bytes while memory is NULL.
 */
typedef struct pool {
    char *memory;
    size_t used;
} pool;

static void *place(pool *p, int64_t n, size_t size) {
    void *at = p->memory ? p->memory + p->used : NULL;
    p->used += ((size_t)n * size + 255) / 256 * 256;
    return at;
}

static unsigned int blocks_of(int64_t n) {
    return (unsigned int)ks__ceil_div(n, THREADS);
}

/* Of one part of the outer products: fixed by the number of rows. */
static int64_t part_rows(int64_t n) {
    return ks__ceil_div(n, PART_ROWS * MOST_PARTS) * PART_ROWS;
}

template <class T> static row_source<T> plain_rows(const ks_l2_rows *l2) {
    row_source<T> a = {};
    a.x = l2->x;
    a.n = l2->n;
    a.d = (int32_t)l2->d;
    a.vectors = l2->d % 4 == 0;
    return a;
}

static ks_status upload(ks_dev *dev, const void *to, const void *from,
                        int64_t n, size_t size, ks_err *err) {
    return ks__cuda_status(cudaMemcpyAsync((void *)to, from, (size_t)n * size,
                                           cudaMemcpyHostToDevice, dev->stream),
                           "l2", err);
}

static ks_status download(ks_dev *dev, void *to, const void *from, int64_t n,
                          size_t size, ks_err *err) {
    return ks__cuda_status(cudaMemcpyAsync(to, from, (size_t)n * size,
                                           cudaMemcpyDeviceToHost, dev->stream),
                           "l2", err);
}

#define TRY(call)                                                              \
    do {                                                                       \
        ks_status try_status_ = (call);                                        \
        if (try_status_ != KS_OK) return try_status_;                          \
    } while (0)

static ks_status check_rows(const ks_l2_rows *l2, const char *op, ks_err *err) {
    if (l2->n >= 1 && l2->d >= 1 && l2->n <= INT32_MAX && l2->d < INT32_MAX / 2)
        return KS_OK;
    return ks_fail(err, KS_INTERNAL, "%s: %lld rows of %lld features", op,
                   (long long)l2->n, (long long)l2->d);
}

#endif
