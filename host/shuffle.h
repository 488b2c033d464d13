/* shuffle.h - the order of rows in an epoch: a keyed permutation of [0, n) that
 * any thread can ask at any place, so that no order is stored and every backend
 * draws the same one.
 *
 * A Feistel network on the next power of two, halves of equal or nearly equal
 * width, its keys from Philox; places that fall beyond n are sent through again
 * (cycle walking; Black and Rogaway, "Ciphers with Arbitrary Finite Domains",
 * CT-RSA 2002; for shuffling: Mitchell et al., "Bandwidth-Optimal Random
 * Shuffling for GPUs", 2021). */
#ifndef KS_SHUFFLE_H
#define KS_SHUFFLE_H

#include "philox.h"

enum { KS_SHUFFLE_ROUNDS = 12 };

typedef struct ks_shuffle {
    uint32_t n, left, right; /* bits of the halves */
    uint32_t key[KS_SHUFFLE_ROUNDS];
} ks_shuffle;

/* The order of epoch `epoch` under key, n of at least 1. */
KS_HOST_DEVICE static inline ks_shuffle
ks_shuffle_open(const uint64_t key[2], uint32_t epoch, uint32_t n) {
    ks_shuffle s;
    uint32_t bits = 0;
    while (bits < 32 && (n - 1) >> bits) bits++;
    s.n = n;
    s.left = bits / 2;
    s.right = bits - s.left;
    for (uint32_t k = 0; k < KS_SHUFFLE_ROUNDS; k += 4)
        ks_philox(key, (uint64_t)epoch * (KS_SHUFFLE_ROUNDS / 4) + k / 4,
                  s.key + k);
    return s;
}

/* MurmurHash3's finaliser. */
KS_HOST_DEVICE static inline uint32_t ks_shuffle_mix(uint32_t x) {
    x ^= x >> 16;
    x *= 0x85EBCA6Bu;
    x ^= x >> 13;
    x *= 0xC2B2AE35u;
    return x ^ x >> 16;
}

/* Which of [0, n) stands at place i of it. */
KS_HOST_DEVICE static inline uint32_t ks_shuffle_at(const ks_shuffle *s,
                                                    uint32_t i) {
    uint32_t left_mask = ((uint32_t)1 << s->left) - 1;
    uint32_t right_mask = (uint32_t)(((uint64_t)1 << s->right) - 1);
    do {
        uint32_t left = i >> s->right, right = i & right_mask;
        for (int k = 0; k < KS_SHUFFLE_ROUNDS; k += 2) {
            left ^= ks_shuffle_mix(right ^ s->key[k]) & left_mask;
            right ^= ks_shuffle_mix(left ^ s->key[k + 1]) & right_mask;
        }
        i = left << s->right | right;
    } while (i >= s->n);
    return i;
}

#endif
