/* small.h - one-line kernels of small.cu, for the tests of the runtime. */
#ifndef KS_SIMT_SMALL_H
#define KS_SIMT_SMALL_H

#include <cuda_runtime.h>

/* x[i] = value; x[i] += value; x[i] *= value. */
cudaError_t small_set(float *x, int n, float value, cudaStream_t stream);
cudaError_t small_add(float *x, int n, float value, cudaStream_t stream);
cudaError_t small_scale(float *x, int n, float value, cudaStream_t stream);
cudaError_t small_store(float *x, int at);
/* Writes element n of n floats of dynamic shared memory. */
cudaError_t small_dynamic_past(int n);
/* Uses `bytes` of dynamic shared memory, after opting in for `optin`. */
cudaError_t small_dynamic(size_t bytes, int optin);
/* 40 KiB static and the given dynamic bytes. */
cudaError_t small_static(size_t dynamic);
cudaError_t small_blocks(dim3 grid, dim3 block);
/* Never ends. */
cudaError_t small_spin(void);
cudaError_t small_trap(void);
/* Reads one float there and writes it to out. */
cudaError_t small_read(float *out, const float *from);
/* Each warp: ballots and reductions by halves, votes; out: [4, 32]. */
cudaError_t small_votes(unsigned *out);
/* Shuffles of other types and widths; 0 in *bad when all are right. */
cudaError_t small_shuffles(int *bad);
/* Atomics of all kinds by 2 blocks of 64; out: [7]. */
cudaError_t small_atomics(unsigned *out);
/* Half a warp passes values through shared memory under __syncwarp(mask);
 * with a defect the reader is in the other half. */
cudaError_t small_half_warps(float *out, bool defect);

#endif
