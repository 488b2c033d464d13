/* simt_math.h - device functions that CUDA's host headers lack. Rounding: the
 * approximate ones (__expf and kin) are the host's exact ones here. */
#ifndef KS_SIMT_MATH_H
#define KS_SIMT_MATH_H

#include <type_traits>

/* glibc declares some of these names itself: macros. */
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)
#define __sincosf(x, s, c) sincosf(x, s, c)

static inline float rsqrtf(float x) {
    return 1.0f / sqrtf(x);
}
static inline double rsqrt(double x) {
    return 1.0 / sqrt(x);
}
static inline float __fdividef(float x, float y) {
    return x / y;
}
static inline float __frcp_rn(float x) {
    return 1.0f / x;
}
static inline float __fsqrt_rn(float x) {
    return sqrtf(x);
}
static inline float __fmaf_rn(float x, float y, float z) {
    return fmaf(x, y, z);
}
static inline float __fadd_rn(float x, float y) {
    return x + y;
}
static inline float __fsub_rn(float x, float y) {
    return x - y;
}
static inline float __fmul_rn(float x, float y) {
    return x * y;
}
static inline float __fdiv_rn(float x, float y) {
    return x / y;
}
static inline float __saturatef(float x) {
    return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; /* NaN: 0, as on the device */
}
static inline int __float2int_rn(float x) {
    return (int)nearbyintf(x);
}
static inline int __float2int_rd(float x) {
    return (int)floorf(x);
}
static inline float __int2float_rn(int x) {
    return (float)x;
}
static inline float __uint2float_rn(unsigned x) {
    return (float)x;
}

template <class To, class From> static inline To simt_bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To y;
    memcpy((void *)&y, (const void *)&x, sizeof y);
    return y;
}
static inline int __float_as_int(float x) {
    return simt_bits<int>(x);
}
static inline unsigned __float_as_uint(float x) {
    return simt_bits<unsigned>(x);
}
static inline float __int_as_float(int x) {
    return simt_bits<float>(x);
}
static inline float __uint_as_float(unsigned x) {
    return simt_bits<float>(x);
}

static inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
static inline int __popcll(unsigned long long x) {
    return __builtin_popcountll(x);
}
static inline int __ffs(int x) {
    return __builtin_ffs(x);
}
static inline int __clz(int x) {
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int i = 0; i < 32; i++) y |= (x >> i & 1u) << (31 - i);
    return y;
}
static inline unsigned __umulhi(unsigned x, unsigned y) {
    return (unsigned)((uint64_t)x * y >> 32);
}
static inline unsigned long long __umul64hi(unsigned long long x,
                                            unsigned long long y) {
    return (unsigned long long)((unsigned __int128)x * y >> 64);
}
/* PTX prmt, default mode: byte i of the result is byte s[4i+2:4i] of y:x, or
 * its sign when s[4i+3]. */
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned s) {
    uint64_t both = (uint64_t)y << 32 | x;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        unsigned byte = (unsigned)(both >> 8 * (s >> 4 * i & 7)) & 255u;
        if (s >> 4 * i & 8) byte = byte & 128u ? 255u : 0u;
        r |= byte << 8 * i;
    }
    return r;
}

#define SIMT_MIN_MAX(type)                                                     \
    static inline type min(type x, type y) {                                   \
        return y < x ? y : x;                                                  \
    }                                                                          \
    static inline type max(type x, type y) {                                   \
        return y > x ? y : x;                                                  \
    }
SIMT_MIN_MAX(int)
SIMT_MIN_MAX(unsigned)
SIMT_MIN_MAX(long)
SIMT_MIN_MAX(unsigned long)
SIMT_MIN_MAX(long long)
SIMT_MIN_MAX(unsigned long long)
#undef SIMT_MIN_MAX
static inline float min(float x, float y) {
    return fminf(x, y);
}
static inline float max(float x, float y) {
    return fmaxf(x, y);
}

/* Loads and stores with a cache hint: plain ones. */
#define SIMT_LOAD(name)                                                        \
    template <class T> static inline T name(const T *p) {                      \
        return *p;                                                             \
    }
SIMT_LOAD(__ldg)
SIMT_LOAD(__ldcg)
SIMT_LOAD(__ldcs)
SIMT_LOAD(__ldca)
#undef SIMT_LOAD
#define SIMT_STORE(name)                                                       \
    template <class T> static inline void name(T *p, T value) {                \
        *p = value;                                                            \
    }
SIMT_STORE(__stcg)
SIMT_STORE(__stcs)
SIMT_STORE(__stwb)
#undef SIMT_STORE

/* Atomics: fibers are never interrupted, so the plain update is atomic; the
 * race build is told. */
void simt_atomic(void *p, size_t size, const char *file, int line);

#define SIMT_ATOMIC(name, update)                                              \
    template <class T>                                                         \
    __attribute__((no_sanitize("thread"))) static inline T name(               \
        T *p, std::common_type_t<T> value, SIMT_SITE) {                        \
        simt_atomic(p, sizeof *p, file, line);                                 \
        T old = *p;                                                            \
        *p = (T)(update);                                                      \
        return old;                                                            \
    }
SIMT_ATOMIC(atomicAdd, old + value)
SIMT_ATOMIC(atomicSub, old - value)
SIMT_ATOMIC(atomicMax, value > old ? value : old)
SIMT_ATOMIC(atomicMin, value < old ? value : old)
SIMT_ATOMIC(atomicExch, value)
SIMT_ATOMIC(atomicAnd, old &value)
SIMT_ATOMIC(atomicOr, old | value)
SIMT_ATOMIC(atomicXor, old ^ value)
#undef SIMT_ATOMIC
template <class T>
__attribute__((no_sanitize("thread"))) static inline T
atomicCAS(T *p, std::common_type_t<T> compare, std::common_type_t<T> value,
          SIMT_SITE) {
    simt_atomic(p, sizeof *p, file, line);
    T old = *p;
    if (old == compare) *p = value;
    return old;
}

#endif
