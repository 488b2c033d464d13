/* bench.h - what the benches share: the shapes, memory of the device with
 * numbers in it, one op timed. */
#ifndef KS_GPU_CHECK_BENCH_H
#define KS_GPU_CHECK_BENCH_H

#include <functional>
#include <vector>

#include "../../kernels/cuda.cuh"

/* The sizes of a model and of its batches, as docs/roofline.md has them; only
 * continuations are 32, not 64. */
struct shape {
    const char *name;
    int d, heads, kv_heads, head_dim, ff, vocab; /* heads 0: experts alone */
    int experts, active;    /* of a layer, a token; 0: a dense model */
    int tokens, context;    /* packed into a batch; of a chain */
    int step;               /* tokens of a step */
    int forks, prefix, own; /* continuations, tokens before them and theirs */
    int cotangents;         /* of a chain */
};

struct bench {
    ks_dev *dev;
    const struct ks_ops *ops;
    ks_err err;
    FILE *csv;
    int repeats;
    double bytes_most, flops_most; /* a second; 0: not known */
    void *flush;
    size_t flush_size;
    std::vector<ks_buf> held;
    ks_status status; /* of the preparations */
};

/* Room on the device until bench_forget; NULL: b->status says why. */
void *bench_room(struct bench *b, size_t size);
/* The same with the pattern in it, again and again. */
void *bench_fill(struct bench *b, size_t size, const void *pattern,
                 size_t length);
/* n elements (f32 or bf16) in [-0.5, 0.5). */
void *bench_numbers(struct bench *b, ks_type type, int64_t n);
static inline float *bench_floats(struct bench *b, int64_t n) {
    return (float *)bench_numbers(b, KS_F32, n);
}
void bench_forget(struct bench *b);

template <class T> T *bench_put(struct bench *b, const std::vector<T> &from) {
    size_t size = from.size() * sizeof(T);
    return (T *)bench_fill(b, size, from.data(), size);
}

static inline ks_view bench_rows(void *data, int64_t n, int64_t cols,
                                 ks_type type = KS_F32) {
    return (ks_view){data, n, cols, cols, type};
}

/* One op, timed: `run` queues it. Bytes and operations are what it has to move
 * and compute. 1 if it failed, which is said with op and shape; what does not
 * fit the device's memory is left out by name. */
int bench_measure(struct bench *b, const struct shape *s, const char *op,
                  const char *what, double bytes, double flops,
                  const std::function<ks_status(void)> &run);

/* The families; the number of ops that failed. */
int bench_products(struct bench *b, const struct shape *s);
int bench_row_ops(struct bench *b, const struct shape *s);
int bench_heads(struct bench *b, const struct shape *s);
int bench_attention(struct bench *b, const struct shape *s);
int bench_experts(struct bench *b, const struct shape *s);

#endif
