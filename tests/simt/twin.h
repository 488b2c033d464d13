/* twin.h - what the tests of kernel families share: the CPU backend as oracle,
 * the simulated device, and views on it whose gaps are guarded and which end
 * where their buffer ends. */
#ifndef KS_SIMT_TWIN_H
#define KS_SIMT_TWIN_H

#include <math.h>
#include <stdlib.h>
#include <string>
#include <vector>

#include <criterion/criterion.h>

#include "control.h"
#include "upload.h"
#include "../../kernels/cuda.cuh"
#include "../../kernels/cuda_ops.h"

extern "C" {
#include "compare.h"
#include "half.h"
}

#define OK(call)                                                               \
    cr_assert((call) == cudaSuccess, "%s: %s", #call,                          \
              cudaGetErrorString(cudaPeekAtLastError()))

static const float TWIN_GUARD = -12345.678f;

/* Both backends, opened by the first test that asks. */
struct twin {
    ks_dev *cpu, *cuda;
    const struct ks_ops *ops; /* the CPU's */
    ks_err err;
};

static inline twin *twin_open(void) {
    static twin t;
    if (t.cpu) return &t;
    cr_assert(ks_dev_open(&t.cpu, &t.ops, "cpu", 1, NULL, &t.err) == KS_OK,
              "%s", t.err.text);
    cr_assert(ks__cuda_open(&t.cuda, 0, 0, &t.err) == KS_OK, "%s", t.err.text);
    cr_assert(ks__cuda_fault_open(t.cuda, &t.err) == KS_OK, "%s", t.err.text);
    return &t;
}

/* Both ops succeed; late errors of the device too. */
#define TWIN_OK(t, call)                                                       \
    cr_assert((call) == KS_OK, "%s: %s", #call, (t)->err.text)
#define TWIN_SYNC(t) TWIN_OK(t, ks__cuda_fault_sync((t)->cuda, &(t)->err))

/* ----------------------------------------------------------- random values */

static uint64_t twin_state = 88172645463325252u;

static inline uint64_t random_bits(void) {
    twin_state ^= twin_state << 13;
    twin_state ^= twin_state >> 7;
    return twin_state ^= twin_state << 17;
}

/* In [-1, 1). */
static inline float random_unit(void) {
    return (float)(random_bits() >> 40) * 0x1p-23f - 1;
}

/* --------------------------------------------------------- arrays and views */

/* A copy of host data on the device, freed by itself. */
template <class T> struct on_device {
    T *data;
    size_t n;
    explicit on_device(const std::vector<T> &from)
        : data(NULL), n(from.size()) {
        void *p = NULL;
        OK(cudaMalloc(&p, n * sizeof(T) + !n));
        data = (T *)p;
        if (n) OK(upload(p, from.data(), n * sizeof(T)));
    }
    on_device(const on_device &) = delete;
    ~on_device() {
        cudaFree(data);
    }
    std::vector<T> read(void) const {
        std::vector<T> to(n);
        if (n)
            OK(cudaMemcpy(to.data(), data, n * sizeof(T), cudaMemcpyDefault));
        return to;
    }
};

/* [rows, cols] f32 on the host, rows `stride` apart, gaps guarded; the last
 * row ends the buffer. */
struct host_rows {
    std::vector<float> x;
    int64_t rows, cols, stride;
    host_rows(int64_t r, int64_t c, int64_t s, bool random)
        : x((size_t)(r ? (r - 1) * s + c : 0), TWIN_GUARD), rows(r), cols(c),
          stride(s) {
        if (random)
            for (int64_t i = 0; i < rows; i++)
                for (int64_t j = 0; j < cols; j++) at(i)[j] = random_unit();
    }
    float *at(int64_t row) {
        return x.data() + row * stride;
    }
    const float *at(int64_t row) const {
        return x.data() + row * stride;
    }
    ks_view view(void) {
        return (ks_view){x.data(), rows, cols, stride, KS_F32};
    }
    bool guards_whole(void) const {
        for (size_t i = 0; i < x.size(); i++)
            if ((int64_t)i % stride >= cols && x[i] != TWIN_GUARD) return false;
        return true;
    }
};

/* The same on the device. */
struct device_rows {
    on_device<float> x;
    int64_t rows, cols, stride;
    explicit device_rows(const host_rows &h)
        : x(h.x), rows(h.rows), cols(h.cols), stride(h.stride) {
    }
    ks_view view(void) {
        return (ks_view){x.data, rows, cols, stride, KS_F32};
    }
    host_rows read(void) const {
        host_rows h(rows, cols, stride, false);
        h.x = x.read();
        cr_assert(h.guards_whole(), "a write between rows");
        return h;
    }
};

static inline bool same_bits(const host_rows &a, const host_rows &b) {
    for (int64_t i = 0; i < a.rows; i++)
        if (memcmp(a.at(i), b.at(i), (size_t)a.cols * sizeof(float)))
            return false;
    return a.rows == b.rows && a.cols == b.cols;
}

/* |got - ref| <= atol + rtol |ref| in every element; NaN fails. */
static inline bool rows_close(const char *what, const host_rows &got,
                              const std::vector<double> &ref, double atol,
                              double rtol) {
    for (int64_t i = 0; i < got.rows; i++)
        if (!close_f32(what, got.at(i), ref.data() + i * got.cols,
                       (size_t)got.cols, atol, rtol))
            return false;
    return true;
}

static inline std::vector<double> doubles_of(const host_rows &h) {
    std::vector<double> d;
    for (int64_t i = 0; i < h.rows; i++)
        for (int64_t j = 0; j < h.cols; j++) d.push_back((double)h.at(i)[j]);
    return d;
}

/* ------------------------------------------------------------------ weights */

/* Offsets of a block's f16 scales, -1: none. */
static inline void scale_offsets(ks_type type, int at[2]) {
    at[0] = 0, at[1] = -1;
    if (type == KS_Q4_1 || type == KS_Q5_1 || type == KS_Q4_K ||
        type == KS_Q5_K)
        at[1] = 2;
    if (type == KS_Q2_K) at[0] = 80, at[1] = 82;
    if (type == KS_Q3_K) at[0] = 108;
    if (type == KS_Q6_K) at[0] = 208;
}

/* Random rows of any type; cols a multiple of the block. */
static inline std::vector<uint8_t> random_weights(ks_type type, int64_t rows,
                                                  int64_t cols) {
    size_t size = ks_type_row_bytes(type, cols) * (size_t)rows;
    std::vector<uint8_t> w(size);
    for (size_t i = 0; i < size && ks_type_block(type) > 1; i++)
        w[i] = (uint8_t)random_bits();
    int offset[2];
    scale_offsets(type, offset);
    for (size_t i = 0; i < size; i += ks_type_size(type)) {
        float x = random_unit();
        uint16_t h = ks_f32_to_f16(x), b = ks_f32_to_bf16(x);
        if (type == KS_F32) memcpy(&w[i], &x, sizeof x);
        if (type == KS_F16) memcpy(&w[i], &h, sizeof h);
        if (type == KS_BF16) memcpy(&w[i], &b, sizeof b);
        for (int j = 0; j < 2 && offset[j] >= 0 && ks_type_block(type) > 1;
             j++) {
            h = ks_f32_to_f16(0.01f * random_unit());
            memcpy(&w[i + (size_t)offset[j]], &h, sizeof h);
        }
    }
    return w;
}

#endif
