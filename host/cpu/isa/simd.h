/* simd.h - one vector type for every instruction set: VL floats, native width.
 * Only what has no operator is a function. Multiply-adds are explicit (madd):
 * these files are compiled without contraction, so that which operations fuse
 * is written here and not chosen by a compiler. v2 has no FMA and rounds twice.
 */
#ifndef KS_SIMD_H
#define KS_SIMD_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "../ops_cpu.h"

#define KS_JOIN(a, b) ks__##a##_##b
#define KS_JOIN_EXPANDED(a, b) KS_JOIN(a, b)
#define KS_ISA_NAME(name) KS_JOIN_EXPANDED(name, KS_ISA)
#define KS_TEXT(x) #x
#define KS_TEXT_EXPANDED(x) KS_TEXT(x)
#define KS_INLINE static inline __attribute__((always_inline))

/* KS_EMULATE_AVX512 (a build for tests) gives the avx512 set vectors of 16 in
 * two halves, so that its loops and shapes run on machines without it. */
#if defined(__AVX512F__)
#define KS_WIDE 1
typedef __m512 vf;
#elif defined(KS_EMULATE_AVX512)
#define KS_WIDE 1
typedef float vf __attribute__((vector_size(64)));
#pragma GCC diagnostic ignored "-Wpsabi" /* all of it is inlined */
#elif defined(__AVX2__)
#define KS_WIDE 0
typedef __m256 vf;
#else
#define KS_WIDE 0
typedef __m128 vf;
#endif
enum { VL = sizeof(vf) / sizeof(float) };
typedef int32_t vi __attribute__((vector_size(sizeof(vf))));

/* clang-format off */
#if defined(__AVX512F__)
KS_INLINE vf vset(float s) { return _mm512_set1_ps(s); }
KS_INLINE vf vload(const float *p) { return _mm512_loadu_ps(p); }
KS_INLINE void vstore(float *p, vf a) { _mm512_storeu_ps(p, a); }
KS_INLINE vf madd(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
/* b where either is NaN */
KS_INLINE vf vmax(vf a, vf b) { return _mm512_max_ps(a, b); }
KS_INLINE vf vmin(vf a, vf b) { return _mm512_min_ps(a, b); }
KS_INLINE vi vround(vf a) { return (vi)_mm512_cvtps_epi32(a); }
KS_INLINE vf vfloat(vi a) { return _mm512_cvtepi32_ps((__m512i)a); }
KS_INLINE vf vsqrt(vf a) { return _mm512_sqrt_ps(a); }
#elif defined(KS_EMULATE_AVX512)
typedef float vunaligned __attribute__((vector_size(64), aligned(4)));
#define KS_LANES(expression)                                                   \
    vf r;                                                                      \
    for (int i = 0; i < VL; i++) r[i] = (expression);                          \
    return r
KS_INLINE vf vset(float s) { KS_LANES(s); }
KS_INLINE vf vload(const float *p) { return *(const vunaligned *)p; }
KS_INLINE void vstore(float *p, vf a) { *(vunaligned *)p = a; }
KS_INLINE vf madd(vf a, vf b, vf c) {
    KS_LANES(__builtin_fmaf(a[i], b[i], c[i]));
}
KS_INLINE vf vmax(vf a, vf b) { KS_LANES(a[i] > b[i] ? a[i] : b[i]); }
KS_INLINE vf vmin(vf a, vf b) { KS_LANES(a[i] < b[i] ? a[i] : b[i]); }
KS_INLINE vi vround(vf a) {
    vi r;
    for (int i = 0; i < VL; i++) r[i] = _mm_cvtss_si32(_mm_set_ss(a[i]));
    return r;
}
KS_INLINE vf vfloat(vi a) { KS_LANES((float)a[i]); }
KS_INLINE vf vsqrt(vf a) { KS_LANES(__builtin_sqrtf(a[i])); }
#undef KS_LANES
#elif defined(__AVX2__)
KS_INLINE vf vset(float s) { return _mm256_set1_ps(s); }
KS_INLINE vf vload(const float *p) { return _mm256_loadu_ps(p); }
KS_INLINE void vstore(float *p, vf a) { _mm256_storeu_ps(p, a); }
KS_INLINE vf madd(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
KS_INLINE vf vmax(vf a, vf b) { return _mm256_max_ps(a, b); }
KS_INLINE vf vmin(vf a, vf b) { return _mm256_min_ps(a, b); }
KS_INLINE vi vround(vf a) { return (vi)_mm256_cvtps_epi32(a); }
KS_INLINE vf vfloat(vi a) { return _mm256_cvtepi32_ps((__m256i)a); }
KS_INLINE vf vsqrt(vf a) { return _mm256_sqrt_ps(a); }
#else
KS_INLINE vf vset(float s) { return _mm_set1_ps(s); }
KS_INLINE vf vload(const float *p) { return _mm_loadu_ps(p); }
KS_INLINE void vstore(float *p, vf a) { _mm_storeu_ps(p, a); }
KS_INLINE vf madd(vf a, vf b, vf c) { return a * b + c; }
KS_INLINE vf vmax(vf a, vf b) { return _mm_max_ps(a, b); }
KS_INLINE vf vmin(vf a, vf b) { return _mm_min_ps(a, b); }
KS_INLINE vi vround(vf a) { return (vi)_mm_cvtps_epi32(a); }
KS_INLINE vf vfloat(vi a) { return _mm_cvtepi32_ps((__m128i)a); }
KS_INLINE vf vsqrt(vf a) { return _mm_sqrt_ps(a); }
#endif
/* clang-format on */

/* The same multiply-add on one number. */
KS_INLINE float madd1(float a, float b, float c) {
#ifdef __FMA__
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

/* The first n (0..VL) elements; the rest reads as `fill`. */
KS_INLINE vf vload_n(const float *p, int64_t n, float fill) {
    float t[VL];
    vstore(t, vset(fill));
    if (n > 0) memcpy(t, p, (size_t)n * sizeof *t);
    return vload(t);
}

KS_INLINE void vstore_n(float *p, vf a, int64_t n) {
    float t[VL];
    vstore(t, a);
    if (n > 0) memcpy(p, t, (size_t)n * sizeof *t);
}

/* a where the mask's lane is all ones, else b */
KS_INLINE vf vselect(vi mask, vf a, vf b) {
    return (vf)((mask & (vi)a) | (~mask & (vi)b));
}

/* Sum and maximum of the lanes, always paired in the same tree. */
KS_INLINE float vsum(vf a) {
    float t[VL];
    vstore(t, a);
    for (int half = VL / 2; half; half /= 2)
        for (int i = 0; i < half; i++) t[i] += t[i + half];
    return t[0];
}

KS_INLINE float vmaxlane(vf a) {
    float t[VL];
    vstore(t, a);
    for (int half = VL / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            t[i] = t[i] > t[i + half] ? t[i] : t[i + half];
    return t[0];
}

#endif
