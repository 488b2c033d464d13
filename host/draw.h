/* draw.h - what sampling adds up: the weights of tokens as integers, so that
 * sums know no order and every backend draws the same id from the same logits.
 *
 * A weight is e^((logit - top) / temperature) in units of 2^-44, rounded down
 * and within 1.4e-9 of it, relative; the highest logit weighs 2^44, what lies
 * more than 45 octaves below weighs nothing. 2^19 tokens fit into 63 bits.
 * All steps are integers, or operations in double that round alike everywhere:
 * no product that a compiler might join to a sum. */
#ifndef KS_DRAW_H
#define KS_DRAW_H

#include <math.h>
#include <stdint.h>

#include "portable.h"

enum { KS_DRAW_OCTAVES = 45, KS_DRAW_TOKENS = 1 << 19 };
/* Rows whose logits exist at once. */
enum { KS_DRAW_ROWS = 64 };

/* Octaves in units of 2^-32 a unit of logit; temperature above 0. */
KS_HOST_DEVICE static inline double ks_draw_rate(float temperature) {
    return 0x1.71547652b82fep32 / (double)temperature; /* log2(e) 2^32 */
}

/* How far a logit lies below the top: octaves in units of 2^-32, all beyond
 * KS_DRAW_OCTAVES alike. */
KS_HOST_DEVICE static inline uint64_t ks_draw_depth(float logit, float top,
                                                    double rate) {
    double depth = ((double)top - (double)logit) * rate;
    const double deepest = KS_DRAW_OCTAVES * 0x1p32;
    return (uint64_t)(depth < deepest ? depth : deepest);
}

/* 2^(44 - depth / 2^32). With f the fraction, 2^-f = 1 - f p(f), p of degree 6
 * through the Chebyshev nodes of [0, 1], in units of 2^-32. */
KS_HOST_DEVICE static inline uint64_t ks_draw_weight(uint64_t depth) {
    uint64_t f = depth & 0xffffffffu, p = 0x9c200u - (f * 0xbda6u >> 32);
    p = 0x5728b0u - (f * p >> 32);
    p = 0x27641a9u - (f * p >> 32);
    p = 0xe358127u - (f * p >> 32);
    p = 0x3d7f7bcbu - (f * p >> 32);
    p = 0xb17217f7u - (f * p >> 32);
    return ((1ull << 44) - (f * p >> 20)) >> (depth >> 32);
}

/* The least sum that reaches the share top_p of all. */
KS_HOST_DEVICE static inline uint64_t ks_draw_share(uint64_t all, float top_p) {
    double share = ceil((double)all * (double)top_p);
    return share > 1 ? (uint64_t)share : 1;
}

/* The least sum beyond u of all, u = (word >> 8) / 2^24 as ks_philox_unit has
 * it: 1 to all. */
KS_HOST_DEVICE static inline uint64_t ks_draw_place(uint64_t all,
                                                    uint32_t word) {
    uint64_t u = word >> 8;
    return u * (all >> 24) + (u * (all & 0xffffff) >> 24) + 1;
}

/* log(part / all) within 5e-16 of it, relative: 0 where part is all, -infinity
 * where it is 0; part at most all, all 1 to 2^63. With x = part 2^e, 2/3 <= x /
 * all < 4/3: 2 atanh(s) - e log 2, s = (x - all) / (x + all), |s| <= 1/5; the
 * series' term in s^23 is below a rounding. */
KS_HOST_DEVICE static inline double ks_draw_log(uint64_t part, uint64_t all) {
    if (part == 0) return -INFINITY;
    int e = 0;
    for (; part <= all - part; e++) part *= 2;
    if (all - part > part / 2) part *= 2, e++;
    double s = (double)(int64_t)(part - all) / ((double)part + (double)all);
    double z = s * s, p = 1.0 / 21;
    for (int k = 19; k >= 3; k -= 2) p = fma(p, z, 1.0 / k);
    return fma(-0x1.62e42fefa39efp-1, (double)e, fma(2 * s * z, p, 2 * s));
}

/* A logit and its id in one number that sorts by falling logit, then id. */
KS_HOST_DEVICE static inline uint64_t ks_draw_key(uint32_t bits, int32_t id) {
    if (bits == 0x80000000u) bits = 0; /* -0 is 0 */
    bits = bits >> 31 ? bits : ~bits & 0x7fffffffu;
    return (uint64_t)bits << 32 | (uint32_t)id;
}

/* The bits of the logit in a key. */
KS_HOST_DEVICE static inline uint32_t ks_draw_bits(uint64_t key) {
    uint32_t bits = (uint32_t)(key >> 32);
    return bits >> 31 ? bits : ~bits & 0x7fffffffu;
}

#endif
