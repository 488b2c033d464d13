/* half.h - 16-bit floats, bit by bit: the definition for every machine.
 * f16 is IEEE 754 binary16, bf16 the upper half of a binary32. Conversions
 * from f32 round to nearest even; NaN stays NaN (quiet), its sign kept.
 */
#ifndef KS_HALF_H
#define KS_HALF_H

#include <stdint.h>
#include <string.h>

#include "portable.h"

KS_HOST_DEVICE static inline float ks_f32_of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

KS_HOST_DEVICE static inline uint32_t ks_bits_of_f32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

KS_HOST_DEVICE static inline float ks_bf16_to_f32(uint16_t h) {
    return ks_f32_of_bits((uint32_t)h << 16);
}

KS_HOST_DEVICE static inline uint16_t ks_f32_to_bf16(float x) {
    uint32_t u = ks_bits_of_f32(x);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

KS_HOST_DEVICE static inline float ks_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff;
    if (rest >= 0x7c00) /* infinity, NaN */
        return ks_f32_of_bits(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    if (rest >= 0x400) /* normal: exponent bias 15 to 127 */
        return ks_f32_of_bits(sign | ((rest << 13) + (112u << 23)));
    /* zero, subnormal: multiples of 2^-24 */
    float x = (float)rest * 0x1p-24f;
    return ks_f32_of_bits(sign | ks_bits_of_f32(x));
}

KS_HOST_DEVICE static inline uint16_t ks_f32_to_f16(float x) {
    uint32_t u = ks_bits_of_f32(x), rest = u & 0x7fffffff;
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
    if (rest > 0x7f800000) /* NaN */
        return sign | 0x7e00 | (uint16_t)(rest >> 13 & 0x3ff);
    if (rest >= 0x477ff000) return sign | 0x7c00; /* 65520 and up */
    if (rest >= 0x38800000)                       /* normal, 2^-14 and up */
        return sign |
               (uint16_t)((rest - (112u << 23) + 0xfff + (rest >> 13 & 1)) >>
                          13);
    /* Subnormal: adding 0.5 leaves multiples of 2^-24 in the mantissa's low
     * bits, rounded to nearest even by the addition itself. */
    float shifted = ks_f32_of_bits(rest) + 0.5f;
    return sign | (uint16_t)(ks_bits_of_f32(shifted) - 0x3f000000);
}

#endif
