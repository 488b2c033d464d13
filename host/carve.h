/* carve.h - many buffers in one allocation: a lay-out is walked once with base
 * NULL to get its size, and once more to carve it. */
#ifndef KS_CARVE_H
#define KS_CARVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KS_CARVE_ALIGN = 64 }; /* bytes; a cache line and an AVX-512 register */

typedef struct ks_carver {
    char *base;
    size_t used;
    bool overflow; /* the whole exceeds the address space */
} ks_carver;

/* NULL for n == 0, and while only the size is wanted. */
static inline void *ks__carve(ks_carver *c, size_t n, size_t size) {
    size_t bytes = 0;
    if (__builtin_mul_overflow(n, size, &bytes) ||
        bytes > SIZE_MAX / 2 - c->used) {
        c->overflow = true;
        return NULL;
    }
    void *at = c->base ? c->base + c->used : NULL;
    c->used += (bytes + KS_CARVE_ALIGN - 1) / KS_CARVE_ALIGN * KS_CARVE_ALIGN;
    return n ? at : NULL;
}

static inline float *ks__carve_f32(ks_carver *c, size_t rows, size_t cols) {
    return ks__carve(c, rows * cols, sizeof(float));
}

#endif
