/* probe_fixture.h - what the checks of the probe trainers share: a simulated
 * device with the slots that a trainer calls, and numbers without a pattern. */
#ifndef KS_SIMT_PROBE_FIXTURE_H
#define KS_SIMT_PROBE_FIXTURE_H

#include <cmath>
#include <vector>

#include "check.h"
#include "control.h"

#include "cuda.cuh"
#include "cuda_ops.h"

#define FINE(call)                                                             \
    do {                                                                       \
        ks_err err_ = {};                                                      \
        ks_err *err = &err_;                                                   \
        ks_status st_ = (call);                                                \
        cr_assert(eq(int, (int)st_, (int)KS_OK), "%s", err_.text);             \
    } while (0)

static inline ks_status sim_alloc(ks_dev *dev, ks_buf *buf, size_t size,
                                  const char *what, ks_err *err) {
    ks_status st = ks__cuda_take(dev, &buf->data, size, what, err);
    buf->size = st == KS_OK ? size : 0;
    return st;
}
static inline void sim_free(ks_dev *dev, ks_buf *buf) {
    ks__cuda_give(dev, buf->data);
    *buf = {};
}
static inline ks_status sim_copy(ks_dev *dev, void *to, const void *from,
                                 size_t size, ks_err *err) {
    return ks__cuda_status(
        cudaMemcpyAsync(to, from, size, cudaMemcpyDefault, dev->stream), "copy",
        err);
}
static inline ks_status sim_sync(ks_dev *dev, ks_err *err) {
    return ks__cuda_status(cudaStreamSynchronize(dev->stream), "sync", err);
}

struct sim {
    ks_dev *dev, *cpu;
    struct ks_ops ops;
    const struct ks_ops *cpu_ops;
};

static inline sim open_sim(void) {
    sim s = {};
    FINE(ks__cuda_open(&s.dev, 0, 0, err));
    FINE(ks_dev_open(&s.cpu, &s.cpu_ops, "cpu", 2, NULL, err));
    s.ops.name = "cuda";
    s.ops.isa = s.dev->isa;
    s.ops.alloc = sim_alloc, s.ops.free = sim_free;
    s.ops.copy = sim_copy, s.ops.sync = sim_sync;
    return s;
}

/* Nothing may be left of what the ops took. */
static inline void close_sim(sim *s) {
    cr_expect(eq(sz, s->dev->in_use, (size_t)0));
    ks__cuda_close(&s->dev);
    ks_dev_close(&s->cpu, s->cpu_ops);
    cr_expect(eq(sz, simt_live_allocations(), (size_t)0));
}

/* A copy on the device, of exactly that size. */
template <class T>
static inline T *to_device(sim *s, const std::vector<T> &from) {
    void *to = NULL;
    FINE(ks__cuda_take(s->dev, &to, from.size() * sizeof(T), "a test", err));
    FINE(sim_copy(s->dev, to, from.data(), from.size() * sizeof(T), err));
    FINE(sim_sync(s->dev, err));
    return (T *)to;
}

/* [-1, 1), by a counter's hash */
static inline double number(uint32_t seed, uint64_t index) {
    uint64_t z = (index + 1) * 0x9e3779b97f4a7c15u + seed * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (double)(z >> 40) * 0x1p-23 - 1;
}

static inline std::vector<float> numbers(uint32_t seed, size_t n) {
    std::vector<float> x(n);
    for (size_t i = 0; i < n; i++) x[i] = (float)number(seed, i);
    return x;
}

/* Worst |got - want| over size; NaN is infinitely bad. size: of each element,
 * or of all if it has one. */
template <class A, class B>
static inline double worst(const A *got, const B *want, size_t n, double size) {
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        double e = fabs((double)got[i] - (double)want[i]) / size;
        if (!(e <= most)) most = std::isnan(e) ? INFINITY : e;
    }
    return most;
}

/* |got - want| / |want|; NaN stays. */
template <class A, class B>
static inline double distance(const A *got, const B *want, size_t n) {
    double diff = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        double e = (double)got[i] - (double)want[i];
        diff += e * e;
        norm += (double)want[i] * (double)want[i];
    }
    return sqrt(diff / (norm > 0 ? norm : 1));
}

#define NEAR(what, got, limit)                                                 \
    do {                                                                       \
        double got_ = (got);                                                   \
        cr_expect(got_ <= (limit), "%s: off by %g, allowed %g", what, got_,    \
                  (double)(limit));                                            \
    } while (0)

#endif
