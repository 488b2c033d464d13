/* device.cuh - the one header that kernels include.
 *
 * Under nvcc it is thin: the PTX wrappers (the only inline assembly in the
 * tree), and the forms below. Without nvcc it is tests/simt/simt.h, which runs
 * the same source on the CPU (docs/simt.md).
 *
 * Forms that both compilers take
 *   launch(kernel<128>, grid, block, shared_bytes, stream, args...)
 *                                 returns cudaError_t, as a launch check would
 *   SHARED(float, part, 8);       part: float[8], 16-byte aligned
 *   SHARED2(float, tile, 32, 33); tile: float[32][33]
 *   DYN_SHARED(bf16, smem);       smem: bf16 *, 16-byte aligned
 *
 * PTX wrappers. Fragments are those of mma.m16n8k16: lane l, g = l / 4,
 * t = l % 4; A 16 x 16: a[0] (g, 2t..), a[1] (g + 8, 2t..), a[2] (g, 2t + 8..),
 * a[3] (g + 8, 2t + 8..); B 16 x 8: b[0] (2t.., g), b[1] (2t + 8.., g);
 * C 16 x 8: c[0..1] (g, 2t..), c[2..3] (g + 8, 2t..). */
#ifndef KS_DEVICE_CUH
#define KS_DEVICE_CUH

#ifndef __CUDACC__
#include "../tests/simt/simt.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#define SHARED(type, name, n) __shared__ __align__(16) type name[n]
#define SHARED2(type, name, rows, cols)                                        \
    __shared__ __align__(16) type name[rows][cols]
#define DYN_SHARED(type, name)                                                 \
    extern __shared__ __align__(16) unsigned char ks_dyn_shared[];             \
    type *name = (type *)ks_dyn_shared

template <class... P, class... A>
static cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block,
                          size_t shared, cudaStream_t stream, A... args) {
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, P(args)...);
}

/* d += a b. Every lane of the warp takes part. */
#define KS_MMA(name, types)                                                    \
    static __device__ __forceinline__ void name(                               \
        float d[4], const uint32_t a[4], const uint32_t b[2]) {                \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." types ".f32 "    \
                     "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"   \
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])          \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]),  \
                       "r"(b[1]));                                             \
    }
KS_MMA(mma_bf16, "bf16.bf16")
KS_MMA(mma_f16, "f16.f16")
#undef KS_MMA

/* Four 8 x 8 matrices of 16-bit elements from shared memory: lanes 8i..8i+7
 * give the addresses of matrix i's rows (16 bytes, aligned); r[i] is the pair
 * (l / 4, 2(l % 4)..) of matrix i, or of its transpose. */
#define KS_LDMATRIX(name, form)                                                \
    static __device__ __forceinline__ void name(uint32_t r[4],                 \
                                                const void *row) {             \
        asm volatile("ldmatrix.sync.aligned.m8n8.x4" form ".shared.b16 "       \
                     "{%0,%1,%2,%3}, [%4];"                                    \
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])          \
                     : "r"((uint32_t)__cvta_generic_to_shared(row))            \
                     : "memory");                                              \
    }
KS_LDMATRIX(ldmatrix_x4, "")
KS_LDMATRIX(ldmatrix_x4_trans, ".trans")
#undef KS_LDMATRIX

/* 16 bytes from global to shared memory, both aligned; valid == false writes
 * zeros and reads nothing (from may then be any mapped global address). The
 * data are there after commit, wait<n> and, for other threads, a barrier. */
static __device__ __forceinline__ void cp_async16(void *to, const void *from,
                                                  bool valid = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(to)),
                 "l"(__cvta_generic_to_global(from)), "r"(valid ? 16 : 0)
                 : "memory");
}
static __device__ __forceinline__ void cp_async_commit(void) {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* Waits until at most n of this thread's committed groups are in flight. */
template <int n> static __device__ __forceinline__ void cp_async_wait(void) {
    asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

/* x, but the compiler does not know that: what is computed from it stays where
 * it stands, instead of in registers across a loop that has none to spare. */
static __device__ __forceinline__ int opaque(int x) {
    asm volatile("" : "+r"(x));
    return x;
}

#endif
#endif
