/* matrix_check.cu - mma and ldmatrix against plain loops, with distinct values
 * so that a swapped register, row or lane shows. Fragments are filled here by
 * the element numbers of the PTX ISA's figures (a0..a7, b0..b3, c0..c3). */
#include "../../kernels/device.cuh"

#include <stdlib.h>

#include "matrix_check.h"

/* "row = groupID for a0 a1 a4 a5, groupID + 8 otherwise; column =
 * threadID_in_group * 2 + (i & 1), + 8 for a4.." */
static __device__ int a_row(int lane, int i) {
    return lane / 4 + (i == 2 || i == 3 || i == 6 || i == 7 ? 8 : 0);
}
static __device__ int a_col(int lane, int i) {
    return lane % 4 * 2 + i % 2 + (i >= 4 ? 8 : 0);
}
/* "row = threadID_in_group * 2 + (i & 1), + 8 for b2 b3; column = groupID" */
static __device__ int b_row(int lane, int i) {
    return lane % 4 * 2 + i % 2 + (i >= 2 ? 8 : 0);
}

static __device__ uint32_t pack(uint16_t low, uint16_t high) {
    return (uint32_t)high << 16 | low;
}

/* c [16, 8] = a [16, 16] b [16, 8], 16-bit elements as bits. */
static __global__ void mma_kernel(float *c, const uint16_t *a,
                                  const uint16_t *b, bool f16) {
    int lane = (int)threadIdx.x;
    uint32_t fa[4], fb[2];
    float d[4] = {1, 2, 3, 4};
    for (int i = 0; i < 8; i += 2)
        fa[i / 2] = pack(a[a_row(lane, i) * 16 + a_col(lane, i)],
                         a[a_row(lane, i + 1) * 16 + a_col(lane, i + 1)]);
    for (int i = 0; i < 4; i += 2)
        fb[i / 2] = pack(b[b_row(lane, i) * 8 + lane / 4],
                         b[b_row(lane, i + 1) * 8 + lane / 4]);
    if (f16)
        mma_f16(d, fa, fb);
    else
        mma_bf16(d, fa, fb);
    for (int i = 0; i < 4; i++)
        c[(lane / 4 + (i < 2 ? 0 : 8)) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

static uint16_t bits_of(float x, bool f16) {
    uint16_t bits;
    if (f16) {
        __half h = __float2half(x);
        memcpy(&bits, &h, 2);
    } else {
        __nv_bfloat16 h = __float2bfloat16(x);
        memcpy(&bits, &h, 2);
    }
    return bits;
}

int check_mma(bool f16) {
    /* Integers to 255 are exact in both types, their sums in f32. */
    uint16_t a[16 * 16], b[16 * 8];
    float c[16 * 8];
    for (int i = 0; i < 256; i++) a[i] = bits_of((float)(i * 7 % 256), f16);
    for (int i = 0; i < 128; i++) b[i] = bits_of((float)(i * 5 % 128), f16);
    uint16_t *da, *db;
    float *dc;
    cudaMalloc(&da, sizeof a);
    cudaMalloc(&db, sizeof b);
    cudaMalloc(&dc, sizeof c);
    cudaMemcpy(da, a, sizeof a, cudaMemcpyHostToDevice);
    cudaMemcpy(db, b, sizeof b, cudaMemcpyHostToDevice);
    if (launch(mma_kernel, 1, 32, 0, NULL, dc, da, db, f16)) return -1;
    cudaMemcpy(c, dc, sizeof c, cudaMemcpyDeviceToHost);
    int wrong = 0;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            int sum = 0;
            for (int k = 0; k < 16; k++)
                sum += (i * 16 + k) * 7 % 256 * ((k * 8 + j) * 5 % 128);
            int began = (i < 8 ? 1 : 3) + j % 2;
            wrong += !(c[i * 8 + j] == (float)(sum + began));
        }
    return wrong;
}

/* out [4, 32]: register i of each lane; x [32, 8]: the rows in lane order. */
template <bool transposed>
static __global__ void ldmatrix_kernel(uint32_t *out, const uint16_t *x) {
    SHARED2(uint16_t, rows, 32, 24); /* 48 bytes apart */
    int lane = (int)threadIdx.x;
    for (int i = 0; i < 8; i++) rows[lane][i] = x[lane * 8 + i];
    __syncwarp();
    uint32_t r[4];
    if (transposed)
        ldmatrix_x4_trans(r, rows[lane]);
    else
        ldmatrix_x4(r, rows[lane]);
    for (int i = 0; i < 4; i++) out[i * 32 + lane] = r[i];
}

int check_ldmatrix(bool transposed) {
    uint16_t x[256];
    uint32_t r[128];
    for (int i = 0; i < 256; i++) x[i] = (uint16_t)(i * 257 + 3);
    uint16_t *dx;
    uint32_t *dr;
    cudaMalloc(&dx, sizeof x);
    cudaMalloc(&dr, sizeof r);
    cudaMemcpy(dx, x, sizeof x, cudaMemcpyHostToDevice);
    if (transposed ? launch(ldmatrix_kernel<true>, 1, 32, 0, NULL, dr, dx)
                   : launch(ldmatrix_kernel<false>, 1, 32, 0, NULL, dr, dx))
        return -1;
    cudaMemcpy(r, dr, sizeof r, cudaMemcpyDeviceToHost);
    int wrong = 0;
    for (int m = 0; m < 4; m++)
        for (int l = 0; l < 32; l++)
            for (int part = 0; part < 2; part++) {
                int row = l / 4, col = l % 4 * 2 + part;
                if (transposed) row = l % 4 * 2 + part, col = l / 4;
                uint16_t want = x[(m * 8 + row) * 8 + col];
                wrong += (uint16_t)(r[m * 32 + l] >> 16 * part) != want;
            }
    return wrong;
}
