/* sample.cu - kernels in the forms that the backend uses, and their launchers:
 * a block reduction, a warp scan, a tiled transpose, a tensor-core GEMM tile
 * with cp.async double buffering, a sum over blocks. The template argument
 * plants a defect; SOUND is the model to follow. */
#include "../../kernels/device.cuh"

#include <stdio.h>
#include <stdlib.h>

#include "sample.h"

typedef __nv_bfloat16 bf16;

/* ----------------------------------------------------------------- kernels */

/* out[row] = sum of x[row, 0..n): one block a row, fixed order. */
template <int defect>
static __global__ void block_sum_kernel(float *out, const float *x, int n) {
    SHARED(float, part, 8);
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    float sum = 0;
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x)
        sum += x[(size_t)blockIdx.x * n + i];
    for (int step = 16; step; step /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane == 0) part[warp + (defect == SHARED_PAST)] = sum;
    if (defect == EARLY_RETURN && warp == 7) return;
    if (defect == DIVERGENT) {
        if (warp < 4) __syncthreads();
    } else if (defect != NO_BARRIER) {
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        float all = 0;
        for (int i = 0; i < 8; i++) all += part[i];
        out[blockIdx.x] = all;
    }
}

/* out[row, i] = x[row, 0] + .. + x[row, i]: one warp a row. */
template <int defect>
static __global__ void warp_scan_kernel(float *out, const float *x, int rows,
                                        int n) {
    SHARED2(float, last, 4, 32);
    int lane = (int)threadIdx.x, warp = (int)threadIdx.y;
    int row = (int)(blockIdx.x * blockDim.y) + warp;
    float carry = 0;
    for (int first = 0; first < n && row < rows; first += 32) {
        bool in = first + lane < n;
        float sum = in ? x[(size_t)row * n + first + lane] : 0;
        for (int step = 1; step < 32; step *= 2) {
            if (defect == ABSENT_LANE && first + 32 > n && !in) break;
            float other = __shfl_up_sync(0xffffffffu, sum, step);
            if (lane >= step) sum += other;
        }
        if (in) out[(size_t)row * n + first + lane] = carry + sum;
        last[warp][lane] = carry + sum;
        if (defect != NO_SYNCWARP) __syncwarp();
        carry = last[warp][31];
        __syncwarp();
    }
    if (defect == LANE_AT_BARRIER) {
        if (lane == 31)
            __syncthreads();
        else
            carry = __shfl_sync(0xffffffffu, carry, 0);
    }
}

/* out[j, i] = x[i, j]: tiles of 32 x 32 by 32 x 8 threads. */
template <int defect>
static __global__ void transpose_kernel(float *out, const float *x, int rows,
                                        int cols) {
    SHARED2(float, tile, 32, 33);
    int j = (int)(blockIdx.x * 32 + threadIdx.x);
    int i = (int)(blockIdx.y * 32 + threadIdx.y);
    int past = defect == READ_PAST;
    for (int k = 0; k < 32; k += 8)
        if (i + k < rows && j < cols)
            tile[threadIdx.y + k][threadIdx.x] =
                x[(size_t)(i + k) * cols + j + past];
    if (defect != NO_BARRIER) __syncthreads();
    j = (int)(blockIdx.x * 32 + threadIdx.y);
    i = (int)(blockIdx.y * 32 + threadIdx.x);
    past = defect == WRITE_PAST;
    for (int k = 0; k < 32; k += 8)
        if (j + k < cols && i < rows)
            out[(size_t)(j + k) * rows + i + past] =
                tile[threadIdx.x][threadIdx.y + k];
}

enum { TILE = 32, DEPTH = 32, PITCH = DEPTH + 8 };

/* 32 rows of 32 elements of x [rows, k] into a tile, zeros outside: 128
 * threads, 16 bytes each. k is a multiple of 8. */
template <int defect>
static __device__ void load_tile(bf16 (*tile)[PITCH], const bf16 *x, int rows,
                                 int k, int row, int col) {
    int r = (int)threadIdx.x / 4, c = (int)threadIdx.x % 4 * 8;
    bool in = row + r < rows + (defect == WRONG_MASK) && col + c < k;
    const bf16 *from = in ? &x[(size_t)(row + r) * k + col + c] : x;
    cp_async16(&tile[r][c], from, in);
}

/* c [m, n] = a [m, k] b^T, b [n, k]: a tile of 32 x 32 by 4 warps of 16 x 16
 * each; the next slices of a and b arrive while the present ones multiply. */
template <int defect>
static __global__ void __launch_bounds__(128)
    gemm_kernel(float *c, const bf16 *a, const bf16 *b, int m, int n, int k) {
    DYN_SHARED(bf16, smem);
    bf16(*ta)[TILE][PITCH] = (bf16(*)[TILE][PITCH])smem;
    bf16(*tb)[TILE][PITCH] = ta + 2;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int row = (int)blockIdx.y * TILE, col = (int)blockIdx.x * TILE;
    int wr = warp / 2 * 16, wc = warp % 2 * 16;
    float d[2][4] = {};
    load_tile<defect>(ta[0], a, m, k, row, 0);
    load_tile<SOUND>(tb[0], b, n, k, col, 0);
    cp_async_commit();
    for (int at = 0, now = 0; at < k; at += DEPTH, now ^= 1) {
        if (at + DEPTH < k) {
            load_tile<defect>(ta[now ^ 1], a, m, k, row, at + DEPTH);
            load_tile<SOUND>(tb[now ^ 1], b, n, k, col, at + DEPTH);
        }
        cp_async_commit();
        if (defect == LATE_WAIT)
            cp_async_wait<2>();
        else if (defect != NO_WAIT)
            cp_async_wait<1>();
        if (defect != NO_BARRIER) __syncthreads();
        for (int s = 0; s < DEPTH; s += 16) {
            uint32_t fa[4], fb[4];
            ldmatrix_x4(fa, &ta[now][wr + lane % 16][s + lane / 16 * 8]);
            ldmatrix_x4(
                fb,
                &tb[now][wc + lane / 16 * 8 + lane % 8][s + lane / 8 % 2 * 8]);
            if (defect == SWAPPED_REGISTERS) {
                uint32_t swap = fa[1];
                fa[1] = fa[2], fa[2] = swap;
            }
            mma_bf16(d[0], fa, fb);
            mma_bf16(d[1], fa, fb + 2);
        }
        if (defect != NO_REUSE_BARRIER) __syncthreads();
    }
    for (int tile = 0; tile < 2; tile++)
        for (int i = 0; i < 4; i++) {
            int r = row + wr + lane / 4 + i / 2 * 8;
            int q = col + wc + tile * 8 + lane % 4 * 2 + i % 2;
            if (r < m && q < n) c[(size_t)r * n + q] = d[tile][i];
        }
}

/* *out += the number of elements above zero, over all blocks. */
template <int defect>
static __global__ void total_kernel(int *out, const float *x, int n) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    int count = __syncthreads_count(i < n && x[i] > 0);
    if (threadIdx.x) return;
    if (defect == BLOCK_RACE)
        *out += count;
    else
        atomicAdd(out, count);
}

/* --------------------------------------------------------------- launchers */

#define TRY(call)                                                              \
    do {                                                                       \
        cudaError_t error_ = (call);                                           \
        if (error_) {                                                          \
            fprintf(stderr, "%s: %s\n", #call, cudaGetErrorString(error_));    \
            return 2;                                                          \
        }                                                                      \
    } while (0)

/* The kernel with the defect, if it has that one. */
#define VARIANT(pick, kernel, planted)                                         \
    if (defect == (planted)) (pick) = kernel<(planted)>

/* Multiples of 1/32 in [-4, 4]: sums are exact. */
static void fill(float *x, int n) {
    uint32_t state = 12345;
    for (int i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)((int)(state >> 24) - 128 + (i % 2)) / 32.0f;
    }
}

/* NaN compares unequal: wrong. */
static int compare(const float *got, const float *want, int n) {
    for (int i = 0; i < n; i++)
        if (!(got[i] == want[i])) return 1;
    return 0;
}

/* Launches block_sum_kernel, or its variant with the defect. */
static cudaError_t run_block_sum(enum sample_defect defect, float *out,
                                 const float *x, int rows, int n) {
    void (*block_sum)(float *, const float *, int) = block_sum_kernel<SOUND>;
    VARIANT(block_sum, block_sum_kernel, NO_BARRIER);
    VARIANT(block_sum, block_sum_kernel, DIVERGENT);
    VARIANT(block_sum, block_sum_kernel, EARLY_RETURN);
    VARIANT(block_sum, block_sum_kernel, SHARED_PAST);
    return launch(block_sum, rows, 256, 0, NULL, out, x, n);
}

int sample_block_sum(enum sample_defect defect) {
    enum { ROWS = 19, N = 577 };
    static float x[ROWS * N], got[ROWS], want[ROWS];
    fill(x, ROWS * N);
    for (int i = 0; i < ROWS; i++) {
        want[i] = 0;
        for (int j = 0; j < N; j++) want[i] += x[i * N + j];
    }
    float *dx, *dout;
    TRY(cudaMalloc(&dx, sizeof x));
    TRY(cudaMalloc(&dout, sizeof got));
    if (defect != UNWRITTEN)
        TRY(cudaMemcpy(dx, x, sizeof x, cudaMemcpyHostToDevice));
    TRY(run_block_sum(defect, dout, dx, ROWS, N));
    TRY(cudaMemcpy(got, dout, sizeof got, cudaMemcpyDeviceToHost));
    TRY(cudaFree(dx));
    TRY(cudaFree(dout));
    return compare(got, want, ROWS);
}

/* Launches warp_scan_kernel, or its variant with the defect. */
static cudaError_t run_warp_scan(enum sample_defect defect, float *out,
                                 const float *x, int rows, int n) {
    void (*warp_scan)(float *, const float *, int, int) =
        warp_scan_kernel<SOUND>;
    VARIANT(warp_scan, warp_scan_kernel, ABSENT_LANE);
    VARIANT(warp_scan, warp_scan_kernel, LANE_AT_BARRIER);
    VARIANT(warp_scan, warp_scan_kernel, NO_SYNCWARP);
    return launch(warp_scan, (rows + 3) / 4, dim3(32, 4), 0, NULL, out, x, rows,
                  n);
}

int sample_warp_scan(enum sample_defect defect) {
    enum { ROWS = 13, N = 71 };
    static float x[ROWS * N], got[ROWS * N], want[ROWS * N];
    fill(x, ROWS * N);
    for (int i = 0; i < ROWS; i++) {
        float sum = 0;
        for (int j = 0; j < N; j++) want[i * N + j] = sum += x[i * N + j];
    }
    float *dx, *dout;
    TRY(cudaMalloc(&dx, sizeof x));
    TRY(cudaMalloc(&dout, sizeof got));
    TRY(cudaMemcpy(dx, x, sizeof x, cudaMemcpyHostToDevice));
    TRY(run_warp_scan(defect, dout, dx, ROWS, N));
    TRY(cudaMemcpy(got, dout, sizeof got, cudaMemcpyDeviceToHost));
    TRY(cudaFree(dx));
    TRY(cudaFree(dout));
    return compare(got, want, ROWS * N);
}

/* Launches transpose_kernel, or its variant with the defect. */
static cudaError_t run_transpose(enum sample_defect defect, float *out,
                                 const float *x, int rows, int cols) {
    void (*transpose)(float *, const float *, int, int) =
        transpose_kernel<SOUND>;
    VARIANT(transpose, transpose_kernel, NO_BARRIER);
    VARIANT(transpose, transpose_kernel, READ_PAST);
    VARIANT(transpose, transpose_kernel, WRITE_PAST);
    return launch(transpose, dim3((cols + 31) / 32, (rows + 31) / 32),
                  dim3(32, 8), 0, NULL, out, x, rows, cols);
}

int sample_transpose(enum sample_defect defect) {
    enum { ROWS = 67, COLS = 45 };
    static float x[ROWS * COLS], got[ROWS * COLS], want[ROWS * COLS];
    fill(x, ROWS * COLS);
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < COLS; j++) want[j * ROWS + i] = x[i * COLS + j];
    float *dx, *dout;
    TRY(cudaMalloc(&dx, sizeof x));
    TRY(cudaMalloc(&dout, sizeof got));
    TRY(cudaMemcpy(dx, x, sizeof x, cudaMemcpyHostToDevice));
    TRY(run_transpose(defect, dout, dx, ROWS, COLS));
    TRY(cudaMemcpy(got, dout, sizeof got, cudaMemcpyDeviceToHost));
    TRY(cudaFree(dx));
    TRY(cudaFree(dout));
    return compare(got, want, ROWS * COLS);
}

/* Launches gemm_kernel, or its variant with the defect. */
static cudaError_t run_gemm(enum sample_defect defect, float *c, const bf16 *a,
                            const bf16 *b, int m, int n, int k) {
    void (*gemm)(float *, const bf16 *, const bf16 *, int, int, int) =
        gemm_kernel<SOUND>;
    VARIANT(gemm, gemm_kernel, NO_BARRIER);
    VARIANT(gemm, gemm_kernel, NO_WAIT);
    VARIANT(gemm, gemm_kernel, LATE_WAIT);
    VARIANT(gemm, gemm_kernel, NO_REUSE_BARRIER);
    VARIANT(gemm, gemm_kernel, SWAPPED_REGISTERS);
    VARIANT(gemm, gemm_kernel, WRONG_MASK);
    return launch(gemm, dim3((n + 31) / 32, (m + 31) / 32), 128,
                  4 * TILE * PITCH * sizeof(bf16), NULL, c, a, b, m, n, k);
}

int sample_gemm(enum sample_defect defect) {
    enum { M = 45, N = 41, K = 136 };
    static float x[M * K + N * K], got[M * N], want[M * N];
    static bf16 a[M * K], b[N * K];
    fill(x, M * K + N * K);
    for (int i = 0; i < M * K; i++) a[i] = __float2bfloat16(x[i]);
    for (int i = 0; i < N * K; i++) b[i] = __float2bfloat16(x[M * K + i]);
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            float sum = 0;
            for (int l = 0; l < K; l++)
                sum += x[i * K + l] * x[M * K + j * K + l];
            want[i * N + j] = sum;
        }
    bf16 *da, *db;
    float *dc;
    TRY(cudaMalloc(&da, sizeof a));
    TRY(cudaMalloc(&db, sizeof b));
    TRY(cudaMalloc(&dc, sizeof got));
    TRY(cudaMemcpy(da, a, sizeof a, cudaMemcpyHostToDevice));
    TRY(cudaMemcpy(db, b, sizeof b, cudaMemcpyHostToDevice));
    TRY(run_gemm(defect, dc, da, db, M, N, K));
    TRY(cudaMemcpy(got, dc, sizeof got, cudaMemcpyDeviceToHost));
    TRY(cudaFree(da));
    TRY(cudaFree(db));
    TRY(cudaFree(dc));
    return compare(got, want, M * N);
}

/* Launches total_kernel, or its variant with the defect. */
static cudaError_t run_total(enum sample_defect defect, int *out,
                             const float *x, int n) {
    void (*total)(int *, const float *, int) = total_kernel<SOUND>;
    VARIANT(total, total_kernel, BLOCK_RACE);
    return launch(total, (n + 127) / 128, 128, 0, NULL, out, x, n);
}

int sample_total(enum sample_defect defect) {
    enum { N = 1001 };
    static float x[N];
    fill(x, N);
    int want = 0, got = -1;
    for (int i = 0; i < N; i++) want += x[i] > 0;
    float *dx;
    int *dout;
    TRY(cudaMalloc(&dx, sizeof x));
    TRY(cudaMalloc(&dout, sizeof got));
    TRY(cudaMemcpy(dx, x, sizeof x, cudaMemcpyHostToDevice));
    TRY(cudaMemset(dout, 0, sizeof got));
    TRY(run_total(defect, dout, dx, N));
    TRY(cudaMemcpy(&got, dout, sizeof got, cudaMemcpyDeviceToHost));
    TRY(cudaFree(dx));
    TRY(cudaFree(dout));
    return got != want;
}
