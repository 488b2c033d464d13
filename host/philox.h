/* philox.h - Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy
 * as 1, 2, 3", SC 2011): a keyed bijection of counters, so a draw depends on
 * its key and place only, never on order, batching or threads. Any code,
 * device code too, draws through these functions.
 *
 * key[0] is the seed, key[1] a stream of it, counter the place in the stream:
 * curand_init(key[0], key[1], 4 * counter) gives the same words.
 */
#ifndef KS_PHILOX_H
#define KS_PHILOX_H

#include <stdint.h>

#include "portable.h"

/* The block cipher: four words from a counter of 128 and a key of 64 bits. */
KS_HOST_DEVICE static inline void ks_philox4x32(const uint32_t counter[4],
                                                const uint32_t key[2],
                                                uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u; /* golden ratio */
        k1 += 0xBB67AE85u; /* sqrt(3) - 1 */
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* Four words at place `counter` of stream key[1] of seed key[0]. */
KS_HOST_DEVICE static inline void ks_philox(const uint64_t key[2],
                                            uint64_t counter, uint32_t out[4]) {
    uint32_t c[4] = {(uint32_t)counter, (uint32_t)(counter >> 32),
                     (uint32_t)key[1], (uint32_t)(key[1] >> 32)};
    uint32_t k[2] = {(uint32_t)key[0], (uint32_t)(key[0] >> 32)};
    ks_philox4x32(c, k, out);
}

/* [0, 1): multiples of 2^-24, exact in f32, so never rounded up to 1. */
KS_HOST_DEVICE static inline float ks_philox_unit(uint32_t word) {
    return (float)(word >> 8) * 0x1p-24f;
}

#endif
