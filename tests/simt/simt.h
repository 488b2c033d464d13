/* simt.h - runs CUDA kernels' own source on the CPU, to find their defects.
 *
 * What it is. Kernels (*.cu) compile as C++ against the genuine CUDA headers
 * and this file. Each CUDA thread is a fiber (fiber.cpp); blocks run one after
 * another, in an order drawn from the seed; a block's warps and lanes run in
 * an order drawn from the seed (block.cpp). Warp collectives, mma and ldmatrix
 * are computed by the last lane to arrive (warp.cpp, matrix.cpp). The CUDA
 * runtime is a stand-in linked in place of libcudart (runtime_*.cpp): lazy
 * streams, events, graphs, memory; cuBLASLt is a small module (blaslt.cpp).
 *
 * What it refuses, with file and line, by abort(): barriers that part of the
 * block does not reach, collectives with absent lanes, writes past an
 * allocation, a kernel that runs too long. What real CUDA answers with an
 * error code (bad launch sizes, over-long copies) is answered with that code,
 * and said on stderr. Fresh device and shared memory holds NaN (0xff bytes).
 *
 * Three builds (build_name.h): plain; asan (Address and UB sanitizers); race
 * (kernels compiled with -fsanitize=thread against the hooks of race.cpp,
 * which see every load and store: races within and between blocks, memory
 * never written, cp.async data not waited for, exact bounds, use after free).
 *
 * docs/simt.md has what this can and cannot show, and how to write a kernel. */
#ifndef KS_SIMT_H
#define KS_SIMT_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <tuple>

#include "control.h"

/* Where a call stands in the source; the caller's, as a default argument. */
#define SIMT_SITE                                                              \
    const char *file = __builtin_FILE(), int line = __builtin_LINE()

/* ------------------------------------------------------------- coordinates */

extern uint3 threadIdx, blockIdx; /* of the running fiber */
extern dim3 blockDim, gridDim;
static const int warpSize = 32;
#undef __launch_bounds__ /* nvcc's alone to check */
#define __launch_bounds__(...)
/* Left to the compiler here: inlined everywhere, the switches over weight types
 * make objects that take minutes to compile. */
#undef __forceinline__
#define __forceinline__ inline

/* ----------------------------------------------------------- shared memory */

#undef __shared__
#define __shared__ write_SHARED_of_device_cuh_instead

/* The block's variable of this key; the same address for all its threads. */
void *simt_shared(const void *key, size_t bytes, const char *name,
                  const char *file, int line);
void *simt_dynamic_shared(void);

#define SHARED(type, name, n)                                                  \
    static const char simt_key_##name = 0;                                     \
    type(&name)[n] = *(type(*)[n])simt_shared(                                 \
        &simt_key_##name, sizeof(type[n]), #name, __FILE__, __LINE__)
#define SHARED2(type, name, rows, cols)                                        \
    static const char simt_key_##name = 0;                                     \
    type(&name)[rows][cols] = *(type(*)[rows][cols])simt_shared(               \
        &simt_key_##name, sizeof(type[rows][cols]), #name, __FILE__, __LINE__)
#define DYN_SHARED(type, name) type *name = (type *)simt_dynamic_shared()

/* ---------------------------------------------------- barriers, collectives */

void __syncthreads(SIMT_SITE);
int __syncthreads_count(int predicate, SIMT_SITE);
int __syncthreads_and(int predicate, SIMT_SITE);
int __syncthreads_or(int predicate, SIMT_SITE);
void __syncwarp(unsigned mask = 0xffffffffu, SIMT_SITE);
static inline void __threadfence(void) {
}
static inline void __threadfence_block(void) {
}
[[noreturn]] void __trap(SIMT_SITE);

unsigned __ballot_sync(unsigned mask, int predicate, SIMT_SITE);
int __all_sync(unsigned mask, int predicate, SIMT_SITE);
int __any_sync(unsigned mask, int predicate, SIMT_SITE);
unsigned __reduce_add_sync(unsigned mask, unsigned value, SIMT_SITE);
unsigned __reduce_max_sync(unsigned mask, unsigned value, SIMT_SITE);
unsigned __reduce_min_sync(unsigned mask, unsigned value, SIMT_SITE);

enum simt_shuffle_kind {
    SIMT_SHUFFLE_INDEX,
    SIMT_SHUFFLE_UP,
    SIMT_SHUFFLE_DOWN,
    SIMT_SHUFFLE_XOR
};
uint64_t simt_shuffle(unsigned mask, simt_shuffle_kind kind, uint64_t value,
                      int operand, int width, const char *file, int line);

#define SIMT_SHUFFLE(name, kind, operand_type)                                 \
    template <class T>                                                         \
    static inline T name(unsigned mask, T value, operand_type operand,         \
                         int width = 32, SIMT_SITE) {                          \
        static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8,      \
                      "shuffles take 2, 4 or 8 bytes");                        \
        uint64_t bits = 0;                                                     \
        memcpy(&bits, &value, sizeof value);                                   \
        bits =                                                                 \
            simt_shuffle(mask, kind, bits, (int)operand, width, file, line);   \
        memcpy((void *)&value, &bits, sizeof value);                           \
        return value;                                                          \
    }
SIMT_SHUFFLE(__shfl_sync, SIMT_SHUFFLE_INDEX, int)
SIMT_SHUFFLE(__shfl_up_sync, SIMT_SHUFFLE_UP, unsigned)
SIMT_SHUFFLE(__shfl_down_sync, SIMT_SHUFFLE_DOWN, unsigned)
SIMT_SHUFFLE(__shfl_xor_sync, SIMT_SHUFFLE_XOR, int)
#undef SIMT_SHUFFLE

/* ------------------------------------------------- the PTX of device.cuh */

void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], SIMT_SITE);
void mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2], SIMT_SITE);
void ldmatrix_x4(uint32_t r[4], const void *row, SIMT_SITE);
void ldmatrix_x4_trans(uint32_t r[4], const void *row, SIMT_SITE);
void cp_async16(void *to, const void *from, bool valid = true, SIMT_SITE);
void cp_async_commit(void);
void simt_cp_async_wait(int n);
template <int n> static inline void cp_async_wait(void) {
    simt_cp_async_wait(n);
}
static inline int opaque(int x) {
    return x;
}

#include "simt_math.h"

/* ------------------------------------------------------------------ launch */

/* One call of a kernel by one thread: run(args). The queue owns args. */
struct simt_call {
    void (*run)(const void *args);
    void (*drop)(void *args);
    void *args;
    size_t size;
};
cudaError_t simt_launch(const void *kernel, const char *text, dim3 grid,
                        dim3 block, size_t shared, cudaStream_t stream,
                        simt_call call, const char *file, int line);

template <class... P> struct simt_args {
    void (*kernel)(P...);
    std::tuple<P...> values;
};
template <class... P> static void simt_run(const void *args) {
    const simt_args<P...> *a = (const simt_args<P...> *)args;
    std::apply(a->kernel, a->values);
}
template <class... P> static void simt_drop(void *args) {
    delete (simt_args<P...> *)args;
}
template <class... P, class... A>
static cudaError_t simt_launch_at(const char *file, int line, const char *text,
                                  void (*kernel)(P...), dim3 grid, dim3 block,
                                  size_t shared, cudaStream_t stream,
                                  A... args) {
    static_assert(sizeof...(P) == sizeof...(A), "as many arguments");
    simt_args<P...> *a =
        new simt_args<P...>{kernel, std::tuple<P...>(P(args)...)};
    return simt_launch((const void *)kernel, text, grid, block, shared, stream,
                       {simt_run<P...>, simt_drop<P...>, a, sizeof *a}, file,
                       line);
}
#define launch(...)                                                            \
    simt_launch_at(__FILE__, __LINE__, #__VA_ARGS__, __VA_ARGS__)

/* The typed forms that cuda_runtime.h has for nvcc alone. */
template <class... P>
static inline cudaError_t cudaFuncSetAttribute(void (*kernel)(P...),
                                               cudaFuncAttribute attribute,
                                               int value) {
    return cudaFuncSetAttribute((const void *)kernel, attribute, value);
}
template <class... P>
static inline cudaError_t
cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void (*kernel)(P...),
                                              int threads, size_t shared) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks, (const void *)kernel, threads, shared);
}

#endif
