/* harness.h - what the tests of ops share: every instruction set of this
 * machine, guarded buffers, random values and weights of every type. */
#ifndef KS_TESTS_OPS_HARNESS_H
#define KS_TESTS_OPS_HARNESS_H

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compare.h"
#include "half.h"
#include "ops.h"

static const char *const ISAS[] = {"v2", "avx2", "avx512"};

typedef struct backend {
    ks_dev *dev;
    const struct ks_ops *ops;
    ks_err err;
} backend;

/* False when this machine lacks the set; anything else wrong fails. */
static inline bool backend_open(backend *b, const char *isa, int threads) {
    ks_status st = ks_dev_open(&b->dev, &b->ops, "cpu", threads, isa, &b->err);
    if (st == KS_UNSUPPORTED) return false;
    cr_assert(st == KS_OK, "open %s: %s", isa, b->err.text);
    return true;
}

static inline void backend_close(backend *b) {
    ks_dev_close(&b->dev, b->ops);
}

/* Runs `body(&b)` on every instruction set with 1 and with 3 threads. */
#define ON_EVERY_BACKEND(body)                                                 \
    for (size_t i_ = 0; i_ < sizeof ISAS / sizeof *ISAS; i_++)                 \
        for (int threads_ = 1; threads_ <= 3; threads_ += 2) {                 \
            backend b_;                                                        \
            if (!backend_open(&b_, ISAS[i_], threads_)) continue;              \
            body(&b_);                                                         \
            backend_close(&b_);                                                \
        }

#define RUN(b, op, ...)                                                        \
    cr_assert((b)->ops->op((b)->dev, __VA_ARGS__, &(b)->err) == KS_OK,         \
              "%s %s: %s", (b)->ops->isa, #op, (b)->err.text)

/* ----------------------------------------------------------- random values */

static uint64_t random_state = 88172645463325252u;

static inline uint64_t random_bits(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

/* In [-1, 1). */
static inline float random_unit(void) {
    return (float)(random_bits() >> 40) * 0x1p-23f - 1;
}

static inline float *random_array(int64_t n) {
    float *x = malloc((size_t)n * sizeof *x + 1);
    cr_assert(x);
    for (int64_t i = 0; i < n; i++) x[i] = random_unit();
    return x;
}

/* ---------------------------------------------------------- guarded buffers */

enum { GUARD = 64 };
static const float GUARD_VALUE = -12345.678f;

/* [rows, cols] with rows `stride` apart; all that is not in it is guarded. */
static inline ks_view guarded(int64_t rows, int64_t cols, int64_t stride) {
    int64_t n = rows * stride + 2 * GUARD;
    float *data = malloc((size_t)n * sizeof *data);
    cr_assert(data);
    for (int64_t i = 0; i < n; i++) data[i] = GUARD_VALUE;
    ks_view v = {data + GUARD, rows, cols, stride, KS_F32};
    return v;
}

static inline ks_view guarded_random(int64_t rows, int64_t cols,
                                     int64_t stride) {
    ks_view v = guarded(rows, cols, stride);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            ((float *)v.data)[i * stride + j] = random_unit();
    return v;
}

static inline float *at(const ks_view *v, int64_t row) {
    return (float *)v->data + row * v->stride;
}

/* Are all guards whole? */
static inline bool guards_whole(const ks_view *v) {
    const float *x = v->data;
    for (int64_t i = -GUARD; i < v->rows * v->stride + GUARD; i++) {
        bool inside =
            i >= 0 && i < v->rows * v->stride && i % v->stride < v->cols;
        if (!inside && x[i] != GUARD_VALUE) return false;
    }
    return true;
}

static inline void guarded_free(ks_view *v) {
    free((float *)v->data - GUARD);
    v->data = NULL;
}

static inline bool rows_equal(const ks_view *a, int64_t i, const ks_view *b,
                              int64_t j) {
    return memcmp(at(a, i), at(b, j), (size_t)a->cols * sizeof(float)) == 0;
}

/* ------------------------------------------------------------------ weights */

/* Byte offsets of a block's f16 scales, -1: none. */
static inline void scale_offsets(ks_type type, int at_[2]) {
    at_[0] = type == KS_MXFP4 ? -1 : 0, at_[1] = -1;
    switch (type) {
    case KS_Q4_1:
    case KS_Q5_1:
    case KS_Q4_K:
    case KS_Q5_K:
        at_[1] = 2;
        break;
    case KS_Q2_K:
        at_[0] = 80, at_[1] = 82;
        break;
    case KS_Q3_K:
        at_[0] = 108;
        break;
    case KS_Q6_K:
        at_[0] = 208;
        break;
    default:
        break;
    }
}

/* A block's scale of eight bits, where the type has one: 2^-9 to 2^-6. */
static inline void small_exponents(ks_type type, uint8_t *data, size_t size) {
    for (size_t i = 0; i < size && type == KS_MXFP4; i += ks_type_size(type))
        data[i] = (uint8_t)(118 + (data[i] & 3));
}

/* Random weights of any type, [rows, cols]; cols a multiple of the block. */
static inline ks_view random_weights(ks_type type, int64_t rows, int64_t cols) {
    size_t size = ks_type_row_bytes(type, cols) * (size_t)rows;
    uint8_t *data = malloc(size + 1);
    cr_assert(data);
    int64_t n = rows * cols;
    for (int64_t i = 0; i < n && ks_type_block(type) == 1; i++) {
        float x = random_unit();
        if (type == KS_F32) ((float *)data)[i] = x;
        if (type == KS_F16) ((uint16_t *)data)[i] = ks_f32_to_f16(x);
        if (type == KS_BF16) ((uint16_t *)data)[i] = ks_f32_to_bf16(x);
    }
    if (ks_type_block(type) > 1) {
        for (size_t i = 0; i < size; i++) data[i] = (uint8_t)random_bits();
        small_exponents(type, data, size);
        int offset[2];
        scale_offsets(type, offset);
        for (size_t i = 0; i < size; i += ks_type_size(type))
            for (int j = 0; j < 2 && offset[j] >= 0; j++) {
                uint16_t h = ks_f32_to_f16(0.01f * random_unit());
                memcpy(data + i + offset[j], &h, sizeof h);
            }
    }
    return (ks_view){data, rows, cols, cols, type};
}

/* The same weights in f32 by ks_dequantize. */
static inline ks_view expanded(const ks_view *w) {
    float *data = malloc((size_t)(w->rows * w->cols) * sizeof *data + 1);
    cr_assert(data);
    for (int64_t i = 0; i < w->rows; i++)
        ks_dequantize(w->type,
                      (char *)w->data +
                          (size_t)i * ks_type_row_bytes(w->type, w->cols),
                      data + i * w->cols, w->cols);
    return (ks_view){data, w->rows, w->cols, w->cols, KS_F32};
}

#endif
