/* expand.h - rows of block-quantised weights to f32, 16 elements at a time.
 * Layouts and formulas: ../../quant.c, whose bits these have (a minimum is
 * added with its sign turned, which is exact). Without AVX2 quant.c does it.
 */
#ifndef KS_EXPAND_H
#define KS_EXPAND_H

#include "half.h"
#include "simd.h"

#if defined(__AVX2__)

KS_INLINE float half_at(const uint8_t *p) {
    uint16_t bits;
    memcpy(&bits, p, sizeof bits);
    return _cvtsh_ss(bits);
}

KS_INLINE __m128i bytes_at(const uint8_t *p) {
    return _mm_loadu_si128((const void *)p);
}

/* (q >> shift) & mask in every byte. */
KS_INLINE __m128i field(__m128i q, int shift, int mask) {
    return _mm_and_si128(_mm_srl_epi16(q, _mm_cvtsi32_si128(shift)),
                         _mm_set1_epi8((char)mask));
}

/* 16 where bit `bit` of the byte is set, else 0. */
KS_INLINE __m128i fifth(__m128i bytes, int bit) {
    return _mm_slli_epi16(field(bytes, bit, 1), 4);
}

/* Byte i: 16 where bit i of h is set, else 0. */
KS_INLINE __m128i spread(int h) {
    const __m128i pick = _mm_set_epi64x(0x0101010101010101, 0);
    const __m128i bit = _mm_set1_epi64x((int64_t)0x8040201008040201);
    __m128i b = _mm_shuffle_epi8(_mm_cvtsi32_si128(h), pick);
    __m128i set = _mm_cmpeq_epi8(_mm_and_si128(b, bit), bit);
    return _mm_and_si128(set, _mm_set1_epi8(16));
}

KS_INLINE __m128i minus(__m128i q, int offset) {
    return _mm_sub_epi8(q, _mm_set1_epi8((char)offset));
}

/* Eight int8 (the lower half) as f32. */
KS_INLINE __m256 floats(__m128i q) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q));
}

/* to[16] = d q */
KS_INLINE void scaled(float *to, __m128i q, float d) {
    __m256 s = _mm256_set1_ps(d);
    _mm256_storeu_ps(to, _mm256_mul_ps(s, floats(q)));
    _mm256_storeu_ps(to + 8, _mm256_mul_ps(s, floats(_mm_srli_si128(q, 8))));
}

/* to[16] = d q + m */
KS_INLINE void shifted(float *to, __m128i q, float d, float m) {
    __m256 s = _mm256_set1_ps(d), a = _mm256_set1_ps(m);
    __m256 low = _mm256_mul_ps(s, floats(q));
    __m256 high = _mm256_mul_ps(s, floats(_mm_srli_si128(q, 8)));
    _mm256_storeu_ps(to, _mm256_add_ps(low, a));
    _mm256_storeu_ps(to + 8, _mm256_add_ps(high, a));
}

/* ------------------------------------------------------- blocks of 32 */

KS_INLINE void expand_q4_0(const uint8_t *b, float *to) {
    __m128i q = bytes_at(b + 2);
    scaled(to, minus(field(q, 0, 15), 8), half_at(b));
    scaled(to + 16, minus(field(q, 4, 15), 8), half_at(b));
}

KS_INLINE void expand_q4_1(const uint8_t *b, float *to) {
    __m128i q = bytes_at(b + 4);
    shifted(to, field(q, 0, 15), half_at(b), half_at(b + 2));
    shifted(to + 16, field(q, 4, 15), half_at(b), half_at(b + 2));
}

KS_INLINE void expand_q5_0(const uint8_t *b, float *to) {
    __m128i q = bytes_at(b + 6);
    uint16_t h[2];
    memcpy(h, b + 2, sizeof h);
    __m128i low = _mm_or_si128(field(q, 0, 15), spread(h[0]));
    __m128i high = _mm_or_si128(field(q, 4, 15), spread(h[1]));
    scaled(to, minus(low, 16), half_at(b));
    scaled(to + 16, minus(high, 16), half_at(b));
}

KS_INLINE void expand_q5_1(const uint8_t *b, float *to) {
    __m128i q = bytes_at(b + 8);
    uint16_t h[2];
    memcpy(h, b + 4, sizeof h);
    shifted(to, _mm_or_si128(field(q, 0, 15), spread(h[0])), half_at(b),
            half_at(b + 2));
    shifted(to + 16, _mm_or_si128(field(q, 4, 15), spread(h[1])), half_at(b),
            half_at(b + 2));
}

KS_INLINE void expand_q8_0(const uint8_t *b, float *to) {
    scaled(to, bytes_at(b + 2), half_at(b));
    scaled(to + 16, bytes_at(b + 18), half_at(b));
}

KS_INLINE void expand_mxfp4(const uint8_t *b, float *to) {
    const __m128i twice =
        _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
    __m128i q = bytes_at(b + 1);
    float d = ks_f32_of_bits(b[0] < 2 ? 0x200000u << b[0]
                                      : (uint32_t)(b[0] - 1) << 23);
    scaled(to, _mm_shuffle_epi8(twice, field(q, 0, 15)), d);
    scaled(to + 16, _mm_shuffle_epi8(twice, field(q, 4, 15)), d);
}

/* -------------------------------------------------- super-blocks of 256 */

KS_INLINE void expand_q2_k(const uint8_t *b, float *to) {
    float d = half_at(b + 80), dmin = half_at(b + 82);
    for (int s = 0; s < 16; s++) {
        __m128i q = bytes_at(b + 16 + s / 8 * 32 + s % 2 * 16);
        shifted(to + s * 16, field(q, s % 8 / 2 * 2, 3), d * (float)(b[s] & 15),
                -(dmin * (float)(b[s] >> 4)));
    }
}

KS_INLINE void expand_q3_k(const uint8_t *b, float *to) {
    const uint8_t *scale = b + 96;
    float d = half_at(b + 108);
    for (int s = 0; s < 16; s++) {
        int low = s < 8 ? scale[s] & 15 : scale[s - 8] >> 4;
        int top = scale[8 + s % 4] >> (s / 4 * 2) & 3;
        __m128i q = bytes_at(b + 32 + s / 8 * 32 + s % 2 * 16);
        __m128i mask = bytes_at(b + s % 2 * 16);
        /* 4 is taken off where the mask's bit is 0 */
        __m128i set = _mm_slli_epi16(field(mask, s / 2, 1), 2);
        __m128i v = _mm_add_epi8(field(q, s % 8 / 2 * 2, 3), set);
        scaled(to + s * 16, minus(v, 4), d * (float)((low | top << 4) - 32));
    }
}

/* 6-bit scale and min of sub-block s in Q4_K's and Q5_K's 12 bytes. */
KS_INLINE void scale_and_min(const uint8_t *p, int s, int *scale, int *min) {
    *scale = s < 4 ? p[s] & 63 : (p[s + 4] & 15) | (p[s - 4] >> 6) << 4;
    *min = s < 4 ? p[s + 4] & 63 : p[s + 4] >> 4 | (p[s] >> 6) << 4;
}

/* Q4_K; with h (fifth bits) Q5_K. */
KS_INLINE void expand_q45_k(const uint8_t *b, const uint8_t *h,
                            const uint8_t *q, float *to) {
    float d = half_at(b), dmin = half_at(b + 2);
    for (int s = 0; s < 8; s++) {
        int scale, min;
        scale_and_min(b + 4, s, &scale, &min);
        for (int i = 0; i < 32; i += 16) {
            __m128i v = field(bytes_at(q + s / 2 * 32 + i), s % 2 * 4, 15);
            if (h) v = _mm_or_si128(v, fifth(bytes_at(h + i), s));
            shifted(to + s * 32 + i, v, d * (float)scale, -(dmin * (float)min));
        }
    }
}

KS_INLINE void expand_q4_k(const uint8_t *b, float *to) {
    expand_q45_k(b, NULL, b + 16, to);
}

KS_INLINE void expand_q5_k(const uint8_t *b, float *to) {
    expand_q45_k(b, b + 16, b + 48, to);
}

KS_INLINE void expand_q6_k(const uint8_t *b, float *to) {
    const uint8_t *low = b, *top = b + 128;
    float d = half_at(b + 208);
    for (int s = 0; s < 16; s++) {
        int part = s / 8, r = s % 8; /* 16 elements from r * 16 of a half */
        __m128i v =
            field(bytes_at(low + part * 64 + r % 4 * 16), r / 4 * 4, 15);
        __m128i t = field(bytes_at(top + part * 32 + r % 2 * 16), r / 2 * 2, 3);
        v = _mm_or_si128(v, _mm_slli_epi16(t, 4));
        scaled(to + s * 16, minus(v, 32), d * (float)(int8_t)b[192 + s]);
    }
}

#define EXPAND(TYPE, one, block, size)                                         \
    case TYPE:                                                                 \
        for (int64_t i = 0; i < n; i += block, b += size) one(b, to + i);      \
        return

/* n elements, whole blocks. */
static void expand(ks_type type, const char *from, float *to, int64_t n) {
    const uint8_t *b = (const uint8_t *)from;
    switch (type) {
        EXPAND(KS_Q4_0, expand_q4_0, 32, 18);
        EXPAND(KS_Q4_1, expand_q4_1, 32, 20);
        EXPAND(KS_Q5_0, expand_q5_0, 32, 22);
        EXPAND(KS_Q5_1, expand_q5_1, 32, 24);
        EXPAND(KS_Q8_0, expand_q8_0, 32, 34);
        EXPAND(KS_MXFP4, expand_mxfp4, 32, 17);
        EXPAND(KS_Q2_K, expand_q2_k, 256, 84);
        EXPAND(KS_Q3_K, expand_q3_k, 256, 110);
        EXPAND(KS_Q4_K, expand_q4_k, 256, 144);
        EXPAND(KS_Q5_K, expand_q5_k, 256, 176);
        EXPAND(KS_Q6_K, expand_q6_k, 256, 210);
    default:
        ks_dequantize(type, from, to, n);
    }
}

#else

static void expand(ks_type type, const char *from, float *to, int64_t n) {
    ks_dequantize(type, from, to, n);
}

#endif
#endif
