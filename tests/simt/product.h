/* product.h - what the tests of matrix products share: guarded matrices on the
 * device that end where their buffer ends, weights of every type, and products
 * in double of the very operands that the tensor cores see. */
#ifndef KS_SIMT_PRODUCT_H
#define KS_SIMT_PRODUCT_H

#include <math.h>
#include <stdlib.h>
#include <vector>

#include "check.h"
#include "control.h"
#include "blaslt.cuh"
#include "cuda_ops.h"
#include "cuda.cuh"
#include "upload.h"

extern "C" {
#include "half.h"
}

static const float GUARD_VALUE = -12345.678f;
enum { GUARD_FLOATS = 64 };

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

/* ---------------------------------------------------------------- backends */

struct two_backends {
    ks_dev *cpu, *cuda;
    const struct ks_ops *ops; /* the CPU's */
    ks_err err;
};

static inline two_backends *backends(void) {
    static two_backends b;
    if (b.cpu) return &b;
    cr_assert(ks_dev_open(&b.cpu, &b.ops, "cpu", 1, NULL, &b.err) == KS_OK,
              "%s", b.err.text);
    cr_assert(ks__cuda_open(&b.cuda, 0, 0, &b.err) == KS_OK, "%s", b.err.text);
    return &b;
}

/* The same with cuBLASLt, which a machine with a real device may lack; ctest
 * names the simulator's. */
static inline two_backends *with_blaslt(void) {
    two_backends *b = backends();
    cr_assert(ks__blaslt_open(b->cuda, &b->err) == KS_OK, "%s", b->err.text);
    if (!b->cuda->blaslt && !simt_simulated())
        cr_skip_test("libcublasLt.so.13 is not found");
    cr_assert(b->cuda->blaslt != NULL, "KS_CUBLASLT is unset: run by ctest");
    return b;
}

/* ---------------------------------------------------------------- matrices */

/* f32, rows `stride` apart: host copies of all of it, guards ahead and in the
 * gaps; on the device the buffer ends with the last element. */
struct matrix {
    int64_t rows, cols, stride;
    std::vector<float> all;
    float *device;

    matrix(int64_t r, int64_t c, int64_t s)
        : rows(r), cols(c), stride(s),
          all((size_t)(GUARD_FLOATS + (r - 1) * s + c), GUARD_VALUE) {
        for (int64_t i = 0; i < r; i++)
            for (int64_t j = 0; j < c; j++) at(i, j) = random_unit();
        device = device_floats((int)all.size());
        put();
    }
    matrix(const matrix &) = delete;
    ~matrix() {
        (void)cudaFree(device);
    }
    float &at(int64_t i, int64_t j) {
        return all[(size_t)(GUARD_FLOATS + i * stride + j)];
    }
    void put(void) {
        OK(upload(device, all.data(), all.size() * sizeof(float)));
    }
    /* What is on the device now; guards must be whole. */
    std::vector<float> get(void) {
        std::vector<float> now(all.size());
        OK(cudaMemcpy(now.data(), device, now.size() * sizeof(float),
                      cudaMemcpyDefault));
        std::vector<float> out;
        for (size_t i = 0; i < now.size(); i++) {
            int64_t k = (int64_t)i - GUARD_FLOATS;
            if (k >= 0 && k % stride < cols)
                out.push_back(now[i]);
            else
                cr_assert(now[i] == GUARD_VALUE, "wrote at %lld", (long long)k);
        }
        return out;
    }
    ks_view view(void) {
        return {device + GUARD_FLOATS, rows, cols, stride, KS_F32};
    }
    ks_view host(void) {
        return {&all[GUARD_FLOATS], rows, cols, stride, KS_F32};
    }
};

/* Stored weights [rows, cols], rows `stride` apart (blocks: stride == cols). */
struct weights {
    ks_type type;
    int64_t rows, cols, stride;
    std::vector<uint8_t> bytes;
    std::vector<float> values; /* [rows, cols] as ks_dequantize has them */
    void *device;

    weights(ks_type t, int64_t r, int64_t c, int64_t s)
        : type(t), rows(r), cols(c), stride(s),
          bytes((size_t)(r - 1) * ks_type_row_bytes(t, s) +
                ks_type_row_bytes(t, c)),
          values((size_t)(r * c)), device(NULL) {
        ks_type_block(t) == 1 ? plain() : blocks();
        for (int64_t i = 0; i < r; i++)
            ks_dequantize(t, &bytes[(size_t)i * ks_type_row_bytes(t, s)],
                          &values[(size_t)(i * c)], c);
        OK(cudaMalloc(&device, bytes.size()));
        OK(upload(device, bytes.data(), bytes.size()));
    }
    weights(const weights &) = delete;
    ~weights() {
        (void)cudaFree(device);
    }
    void plain(void) {
        for (size_t i = 0; i < bytes.size() / ks_type_size(type); i++) {
            float x = random_unit();
            uint16_t h = type == KS_F16 ? ks_f32_to_f16(x) : ks_f32_to_bf16(x);
            if (type == KS_F32)
                memcpy(&bytes[4 * i], &x, 4);
            else
                memcpy(&bytes[2 * i], &h, 2);
        }
    }
    void blocks(void) {
        static const int scale[KS_N_TYPES][2] = {
            {},      {},     {},        {0, -1},  {0, 2},
            {0, -1}, {0, 2}, {0, -1},   {80, 82}, {108, -1},
            {0, 2},  {0, 2}, {208, -1}, {-1, -1}, {}};
        for (uint8_t &b : bytes) b = (uint8_t)random_bits();
        for (size_t i = 0; i < bytes.size(); i += ks_type_size(type)) {
            if (type == KS_MXFP4) bytes[i] = (uint8_t)(118 + (bytes[i] & 3));
            for (int at : scale[type]) {
                uint16_t h = ks_f32_to_f16(0.01f * random_unit());
                if (at >= 0) memcpy(&bytes[i + (size_t)at], &h, 2);
            }
        }
    }
    float at(int64_t i, int64_t j) const {
        return values[(size_t)(i * cols + j)];
    }
    ks_view view(void) {
        return {device, rows, cols, stride, type};
    }
    ks_view host(void) {
        return {bytes.data(), rows, cols, stride, type};
    }
};

/* --------------------------------------------------------------- reference */

static inline float bf16_of(float x) {
    return ks_bf16_to_f32(ks_f32_to_bf16(x));
}

/* An operand's terms; lo is 0 where there is one alone. */
struct terms {
    double hi, lo;
};
static inline terms terms_of(float x, int n) {
    float hi = bf16_of(x);
    return {(double)hi, n == 2 ? (double)bf16_of(x - hi) : 0};
}

/* What an element is: its value by the terms, its value, and the size of what
 * was summed (all: of magnitudes; root: of squares). */
struct reference {
    double by_terms, plain, all, root;
};

/* Does it hold? Rounding of f32 sums of n products; other: 2e-2 or 1e-4. */
static inline bool near(float got, const reference &want, double wide) {
    return fabs((double)got - want.by_terms) <= 1e-6 * want.all &&
           fabs((double)got - want.plain) <= wide * want.root;
}

#endif
