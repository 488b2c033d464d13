/* weights.h - the sum of a row's weights in a draw: ks_draw_weight's integers
 * (../../draw.h), four at a time where there is AVX2.
 */
#ifndef KS_WEIGHTS_H
#define KS_WEIGHTS_H

#include "simd.h"
#include "../../draw.h"

#if defined(__AVX2__)

/* c - (f p >> 32) in every lane. */
KS_INLINE __m256i step_down(uint32_t c, __m256i f, __m256i p) {
    return _mm256_sub_epi64(_mm256_set1_epi64x(c),
                            _mm256_srli_epi64(_mm256_mul_epu32(f, p), 32));
}

/* ks_draw_depth; numbers below 2^52 become integers through the mantissa. */
KS_INLINE __m256i depth_4(const float *x, __m256d top, __m256d rate) {
    const __m256d whole = _mm256_set1_pd(0x1p52), one = _mm256_set1_pd(1);
    __m256d d = _mm256_cvtps_pd(_mm_loadu_ps(x));
    d = _mm256_mul_pd(_mm256_sub_pd(top, d), rate);
    d = _mm256_min_pd(d, _mm256_set1_pd(KS_DRAW_OCTAVES * 0x1p32));
    __m256d n = _mm256_sub_pd(_mm256_add_pd(d, whole), whole); /* nearest */
    n = _mm256_sub_pd(n, _mm256_and_pd(_mm256_cmp_pd(n, d, _CMP_GT_OQ), one));
    return _mm256_castpd_si256(_mm256_xor_pd(_mm256_add_pd(n, whole), whole));
}

KS_INLINE __m256i weight_4(__m256i depth) {
    __m256i f = _mm256_and_si256(depth, _mm256_set1_epi64x(UINT32_MAX));
    __m256i p = step_down(0x9c200u, f, _mm256_set1_epi64x(0xbda6));
    p = step_down(0x5728b0u, f, p);
    p = step_down(0x27641a9u, f, p);
    p = step_down(0xe358127u, f, p);
    p = step_down(0x3d7f7bcbu, f, p);
    p = step_down(0xb17217f7u, f, p);
    p = _mm256_srli_epi64(_mm256_mul_epu32(f, p), 20);
    p = _mm256_sub_epi64(_mm256_set1_epi64x(1ll << 44), p);
    return _mm256_srlv_epi64(p, _mm256_srli_epi64(depth, 32));
}
#endif

/* Of all n logits, the highest of which is `top`. */
static uint64_t sum_weights(const float *row, int64_t n, float top,
                            double rate) {
    uint64_t sum = 0;
    int64_t i = 0;
#if defined(__AVX2__)
    __m256d t = _mm256_set1_pd((double)top), r = _mm256_set1_pd(rate);
    __m256i four = _mm256_setzero_si256();
    for (; i + 4 <= n; i += 4)
        four = _mm256_add_epi64(four, weight_4(depth_4(row + i, t, r)));
    uint64_t part[4];
    memcpy(part, &four, sizeof part);
    sum = part[0] + part[1] + part[2] + part[3];
#endif
    for (; i < n; i++) sum += ks_draw_weight(ks_draw_depth(row[i], top, rate));
    return sum;
}

#endif
