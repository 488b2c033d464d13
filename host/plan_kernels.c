/* plan_kernels.c - bytes and floating point operations of each kernel; the
 * formulas of experiments/roofline/roofline.py, whose page a test holds them
 * against. */
#include <math.h>

#include "plan.h"

enum { F32 = 4, BF16 = 2, POSITIONS = 5, TILE_ROWS = 64 };

static void add(ks_plan_kernels *k, const char *name, ks_plan_unit unit,
                double calls, double bytes, double flops) {
    if (k->n < KS_PLAN_KERNELS)
        k->at[k->n++] = (ks_plan_kernel){name, unit, calls, bytes, flops};
}

/* x f32 [m, k], W [n, k] as stored, out f32 [m, n]; products in bf16. */
static void gemm(ks_plan_kernels *list, const char *name, double calls,
                 double m, double n, double k, double weight) {
    add(list, name, KS_PLAN_TENSOR, calls,
        F32 * m * k + weight * n * k + F32 * m * n, 2 * m * n * k);
}

/* Around the experts' products. */
static void experts(ks_plan_kernels *list, const ks_plan_shape *m, double t) {
    double rows = t * m->active;
    add(list, "rows by expert", KS_PLAN_FLOAT, m->layers, 4 * 3 * rows, 0);
    add(list, "sum of the experts", KS_PLAN_FLOAT, m->layers,
        F32 * (rows + t) * m->d, 2 * rows * m->d);
}

/* rows: of tokens, or of tokens and experts; t: of tokens. */
static void gate_and_search(ks_plan_kernels *list, const ks_plan_shape *m,
                            double rows, double t) {
    add(list, "gated activation", KS_PLAN_FLOAT, m->layers,
        3 * F32 * rows * m->ff, 8 * rows * m->ff);
    add(list, "search for values that are not finite", KS_PLAN_FLOAT, 1,
        F32 * t * m->d, t * m->d);
}

static void embed(ks_plan_kernels *list, const ks_plan_shape *m, double t) {
    add(list, "embed", KS_PLAN_FLOAT, 1, t * m->d * (BF16 + F32), t * m->d);
}

/* Of `used` experts' matrices [n, k], for rows of tokens and experts. */
static void grouped(ks_plan_kernels *list, const char *name, double calls,
                    double rows, double n, double k, double used,
                    double weight) {
    add(list, name, KS_PLAN_TENSOR, calls,
        F32 * rows * (n + k) + weight * used * n * k, 2 * rows * n * k);
}

/* Pairs (query, key) of a layer on average, causal and windowed. */
static double keys_seen(const ks_plan_shape *m, double tokens, double context) {
    double full = tokens * (context + 1) / 2, w = m->window, part = full;
    if (m->windowed == 0) return full;
    if (context > w) part = tokens * (w - w * (w - 1) / 2 / context);
    return (part * m->windowed + full * (m->layers - m->windowed)) / m->layers;
}

static void attention_products(ks_plan_kernels *k, const ks_plan_shape *m,
                               double t) {
    double q = m->heads * m->dim, kv = m->kv * m->dim, w = m->attention;
    gemm(k, "gemm q", m->layers, t, q, m->d, w);
    gemm(k, "gemm k and v", m->layers, t, 2 * kv, m->d, w);
    gemm(k, "gemm o", m->layers, t, m->d, q, w);
    add(k, "rope + KV write", KS_PLAN_FLOAT, m->layers,
        F32 * t * (2 * q + 4 * kv), 6 * t * (q + kv));
}

static void head(ks_plan_kernels *k, const ks_plan_shape *m, const char *name,
                 double t) {
    add(k, name, KS_PLAN_TENSOR, 1,
        F32 * t * m->d + m->attention * m->vocab * m->d,
        2 * t * m->vocab * m->d);
}

ks_plan_kernels ks_plan_prefill(const ks_plan_shape *m, double t,
                                double context, double step, bool scored) {
    ks_plan_kernels k = {0};
    double d = m->d, q = m->heads * m->dim, kv = m->kv * m->dim, n = m->layers;
    double rows = t, pairs = keys_seen(m, t, context);
    embed(&k, m, t);
    add(&k, "norm + residual add", KS_PLAN_FLOAT, 2 * n, 4 * F32 * t * d,
        5 * t * d);
    add(&k, "operands to bf16, for cuBLASLt", KS_PLAN_FLOAT, 3 * n,
        (F32 + BF16) * t * d, t * d);
    attention_products(&k, m, t);
    add(&k, "attention, varlen causal", KS_PLAN_TENSOR, n,
        F32 * t * (2 * q + 2 * kv), 4 * pairs * q);
    if (m->experts > 0) {
        rows = t * m->active;
        gemm(&k, "router and top-k", n, t, m->experts, d, BF16);
        grouped(&k, "gemm gate and up, grouped", n, rows, 2 * m->ff, d,
                m->experts, m->weights);
        grouped(&k, "gemm down, grouped", n, rows, d, m->ff, m->experts,
                m->weights);
        experts(&k, m, t);
    } else {
        gemm(&k, "gemm gate and up", n, t, 2 * m->ff, d, m->weights);
        gemm(&k, "gemm down", n, t, d, m->ff, m->weights);
    }
    gate_and_search(&k, m, rows, t);
    add(&k, "pool, 5 positions", KS_PLAN_FLOAT, n + 1,
        F32 * t * d + POSITIONS * BF16 * t / step * d, t * d);
    if (scored) head(&k, m, "log-softmax of given tokens", t);
    return k;
}

ks_plan_kernels ks_plan_decode(const ks_plan_shape *m, double t, double prefix,
                               double own) {
    ks_plan_kernels k = {0};
    double d = m->d, q = m->heads * m->dim, kv = m->kv * m->dim, n = m->layers;
    /* a block has the heads of a group for as many forks as it has rows: that
     * often the prefix is read */
    double forks = floor(TILE_ROWS / floor(m->heads / m->kv));
    double reads = ceil(t / fmax(forks, 1)), rows = t;
    embed(&k, m, t);
    add(&k, "norm + residual add", KS_PLAN_FLOAT, 2 * n, 4 * F32 * t * d,
        5 * t * d);
    attention_products(&k, m, t);
    add(&k, "attention over the prefix tree", KS_PLAN_TENSOR, n,
        F32 * (2 * kv * t * own + 2 * t * q) + F32 * 2 * kv * prefix * reads,
        4 * t * (prefix + own) * q);
    if (m->experts > 0) {
        double of = m->experts;
        double used = of * (1 - pow(1 - m->active / of, t));
        rows = t * m->active;
        gemm(&k, "router and top-k", n, t, of, d, BF16);
        grouped(&k, "gemm gate and up, grouped", n, rows, 2 * m->ff, d, used,
                m->weights);
        grouped(&k, "gemm down, grouped", n, rows, d, m->ff, used, m->weights);
        experts(&k, m, t);
    } else {
        gemm(&k, "gemm gate and up", n, t, 2 * m->ff, d, m->weights);
        gemm(&k, "gemm down", n, t, d, m->ff, m->weights);
    }
    gate_and_search(&k, m, rows, t);
    head(&k, m, "sample (head and draw)", t);
    return k;
}

ks_plan_kernels ks_plan_backward(const ks_plan_shape *m, double targets,
                                 double t, double step) {
    ks_plan_kernels k = {0};
    double d = m->d, q = m->heads * m->dim, kv = m->kv * m->dim, n = m->layers;
    double rows = targets * t, pairs = keys_seen(m, t, t);
    double given = targets * step; /* tokens whose probabilities are derived */
    if (m->experts > 0) return k;
    add(&k, "head: logits and their way back", KS_PLAN_TENSOR, 1,
        2 * m->attention * m->vocab * d + F32 * given * (2 * d + 3 * m->vocab),
        4 * given * m->vocab * d);
    add(&k, "norm backward", KS_PLAN_FLOAT, 2 * n, F32 * (3 * rows * d + t * d),
        8 * rows * d);
    gemm(&k, "gemm o, to its input", n, rows, q, d, m->attention);
    gemm(&k, "gemm q, to its input", n, rows, d, q, m->attention);
    gemm(&k, "gemm k and v, to its input", n, rows, d, 2 * kv, m->attention);
    /* scores and dP made twice, for dQ and for dK and dV: seven products */
    add(&k, "attention backward", KS_PLAN_TENSOR, n,
        F32 * (targets * t * (4 * q + 2 * kv) + t * (q + 2 * kv)),
        14 * targets * pairs * q);
    add(&k, "rope backward", KS_PLAN_FLOAT, n, 2 * F32 * rows * (q + kv),
        6 * rows * (q + kv));
    gemm(&k, "gemm down, to its input", n, rows, m->ff, d, m->weights);
    gemm(&k, "gemm gate and up, to its input", n, rows, d, 2 * m->ff,
         m->weights);
    add(&k, "gate backward", KS_PLAN_FLOAT, n, F32 * (rows * 3 + t * 2) * m->ff,
        12 * rows * m->ff);
    return k;
}

ks_plan_work ks_plan_sum(const ks_plan_kernels *k, const ks_plan_device *on) {
    ks_plan_work sum = {0};
    for (int32_t i = 0; i < k->n; i++) {
        const ks_plan_kernel *one = &k->at[i];
        sum.bytes += one->calls * one->bytes;
        sum.flops += one->calls * one->flops;
        if (!on) continue;
        double peak = one->unit == KS_PLAN_TENSOR  ? on->tensor
                      : one->unit == KS_PLAN_FLOAT ? on->float_
                                                   : on->double_;
        sum.seconds +=
            one->calls * fmax(one->bytes / on->bandwidth, one->flops / peak);
    }
    return sum;
}
