/* small.cu - kernels of a few lines for the tests of the runtime stand-in. */
#include "../../kernels/device.cuh"

#include "small.h"

static __global__ void set_kernel(float *x, int n, float value) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) x[i] = value;
}
static __global__ void add_kernel(float *x, int n, float value) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) x[i] += value;
}
static __global__ void scale_kernel(float *x, int n, float value) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) x[i] *= value;
}
static __global__ void dynamic_past_kernel(int n) {
    DYN_SHARED(float, x);
    x[threadIdx.x] = 1;
    if (threadIdx.x == 0) x[n] = 2;
}
static __global__ void store_kernel(float *x, int at) {
    x[at] = 1;
}
static __global__ void dynamic_kernel(int n) {
    DYN_SHARED(unsigned char, x);
    if (n) x[n - 1] = 1;
}
static __global__ void static_kernel(void) {
    SHARED(unsigned char, x, 40 << 10);
    x[threadIdx.x] = 1;
    __syncwarp();
    if (x[31 - threadIdx.x] != 1) __trap();
}
static __global__ void empty_kernel(void) {
}
static __global__ void spin_kernel(void) {
    for (volatile int go = 1; go;) {
    }
}
static __global__ void trap_kernel(void) {
    __trap();
}
static __global__ void read_kernel(float *out, const float *from) {
    *out = *from;
}

static __global__ void votes_kernel(unsigned *out) {
    unsigned lane = threadIdx.x, part = lane < 16 ? 0xffffu : 0xffff0000u;
    out[lane] = __ballot_sync(part, lane % 3 == 0);
    out[32 + lane] = __reduce_add_sync(part, lane);
    out[64 + lane] =
        __reduce_max_sync(part, lane) << 8 | __reduce_min_sync(part, lane);
    out[96 + lane] = (__all_sync(part, lane < 16) ? 1u : 0u) |
                     (__any_sync(part, lane == 20) ? 2u : 0u);
}

static __global__ void shuffles_kernel(int *bad) {
    int lane = (int)threadIdx.x, wrong = 0;
    double d = __shfl_down_sync(0xffffffffu, 1.5 * lane, 3);
    wrong += d != 1.5 * (lane < 29 ? lane + 3 : lane);
    unsigned long long u =
        __shfl_up_sync(0xffffffffu, (unsigned long long)lane << 40, 5, 16);
    int from = lane % 16 < 5 ? lane : lane - 5;
    wrong += u != (unsigned long long)from << 40;
    __nv_bfloat16 b =
        __shfl_xor_sync(0xffffffffu, __float2bfloat16((float)lane), 9);
    wrong += __bfloat162float(b) != (float)(lane ^ 9);
    int i = __shfl_sync(0xffffffffu, lane, 35, 8);
    wrong += i != lane / 8 * 8 + 3;
    int x = __shfl_xor_sync(0xffffffffu, lane, 16, 16); /* past: own value */
    wrong += x != (lane < 16 ? lane : lane ^ 16);
    atomicAdd(bad, wrong);
}

static __global__ void atomics_kernel(unsigned *out) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&out[0], 2u);
    atomicMax(&out[1], i);
    atomicMin(&out[2], i);
    atomicOr(&out[3], 1u << i % 32);
    atomicAnd(&out[4], ~(1u << i % 8));
    atomicXor(&out[5], i);
    atomicCAS(&out[6], 7u, i + 100);
}

template <bool defect> static __global__ void half_warps_kernel(float *out) {
    SHARED(float, x, 32);
    int lane = (int)threadIdx.x;
    unsigned part = lane < 16 ? 0xffffu : 0xffff0000u;
    for (int step = 1; step < 16; step *= 2) {
        x[lane] = (float)lane;
        __syncwarp(part);
        out[lane] = x[defect && step == 4 ? lane ^ 16 : lane ^ step];
        __syncwarp(part);
    }
}

/* ------------------------------------------------------------------------- */

cudaError_t small_set(float *x, int n, float value, cudaStream_t stream) {
    return launch(set_kernel, (n + 63) / 64, 64, 0, stream, x, n, value);
}
cudaError_t small_add(float *x, int n, float value, cudaStream_t stream) {
    return launch(add_kernel, (n + 63) / 64, 64, 0, stream, x, n, value);
}
cudaError_t small_scale(float *x, int n, float value, cudaStream_t stream) {
    return launch(scale_kernel, (n + 63) / 64, 64, 0, stream, x, n, value);
}
cudaError_t small_dynamic_past(int n) {
    return launch(dynamic_past_kernel, 1, n, n * sizeof(float), NULL, n);
}
cudaError_t small_store(float *x, int at) {
    return launch(store_kernel, 1, 1, 0, NULL, x, at);
}
cudaError_t small_dynamic(size_t bytes, int optin) {
    if (optin) {
        cudaError_t error = cudaFuncSetAttribute(
            dynamic_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, optin);
        if (error) return error;
    }
    return launch(dynamic_kernel, 1, 1, bytes, NULL, (int)bytes);
}
cudaError_t small_static(size_t dynamic) {
    return launch(static_kernel, 1, 32, dynamic, NULL);
}
cudaError_t small_blocks(dim3 grid, dim3 block) {
    return launch(empty_kernel, grid, block, 0, NULL);
}
cudaError_t small_spin(void) {
    return launch(spin_kernel, 1, 1, 0, NULL);
}
cudaError_t small_trap(void) {
    return launch(trap_kernel, 1, 1, 0, NULL);
}
cudaError_t small_read(float *out, const float *from) {
    return launch(read_kernel, 1, 1, 0, NULL, out, from);
}
cudaError_t small_votes(unsigned *out) {
    return launch(votes_kernel, 1, 32, 0, NULL, out);
}
cudaError_t small_shuffles(int *bad) {
    return launch(shuffles_kernel, 1, 32, 0, NULL, bad);
}
cudaError_t small_atomics(unsigned *out) {
    return launch(atomics_kernel, 2, 64, 0, NULL, out);
}
cudaError_t small_half_warps(float *out, bool defect) {
    if (defect) return launch(half_warps_kernel<true>, 1, 32, 0, NULL, out);
    return launch(half_warps_kernel<false>, 1, 32, 0, NULL, out);
}
