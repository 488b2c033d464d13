/* reference.h - the ops as plain loops in double: what the words of ops.h
 * mean, with nothing clever. */
#ifndef KS_TESTS_OPS_REFERENCE_H
#define KS_TESTS_OPS_REFERENCE_H

#include "harness.h"

static inline double *doubles(int64_t n) {
    double *x = calloc((size_t)n + 1, sizeof *x);
    cr_assert(x);
    return x;
}

/* out[m, n] = x w^T (+ bias) (+ before); w in f32. */
static inline void ref_gemm(double *out, const ks_view *x, const ks_view *w,
                            const float *bias, const ks_view *before) {
    for (int64_t i = 0; i < x->rows; i++)
        for (int64_t j = 0; j < w->rows; j++) {
            double sum = bias ? (double)bias[j] : 0;
            if (before) sum += (double)at(before, i)[j];
            for (int64_t k = 0; k < x->cols; k++)
                sum += (double)at(x, i)[k] * (double)at(w, j)[k];
            out[i * w->rows + j] = sum;
        }
}

static inline void ref_norm(double *out, const double *x, const float *w,
                            double eps, int64_t n) {
    double sum = 0;
    for (int64_t j = 0; j < n; j++) sum += x[j] * x[j];
    for (int64_t j = 0; j < n; j++)
        out[j] = x[j] / sqrt(sum / (double)n + eps) * (double)w[j];
}

static inline double ref_act(double x, ks_act act) {
    if (act == KS_SILU) return x / (1 + exp(-x));
    if (act == KS_GELU_ERF) return 0.5 * x * (1 + erf(x / sqrt(2)));
    return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

/* One head [D] at a position, in place. */
static inline void ref_rope(double *x, int64_t position, const ks_rope *rope) {
    int32_t half = rope->rot_dims / 2;
    for (int32_t i = 0; i < half; i++) {
        /* the angle is a product in f32, as in transformers */
        float angle = (float)position * rope->inv_freq[i];
        double c = cos((double)angle) * (double)rope->scale;
        double s = sin((double)angle) * (double)rope->scale;
        double *a = rope->interleaved ? x + 2 * i : x + i;
        double *b = rope->interleaved ? x + 2 * i + 1 : x + i + half;
        double u = *a, v = *b;
        *a = u * c - v * s;
        *b = v * c + u * s;
    }
}

/* One query head against keys 0..position; k, v: rows `stride` apart. */
static inline void ref_attention(double *out, const float *q, const float *k,
                                 const float *v, int64_t stride,
                                 int64_t position, const ks_attn_spec *spec,
                                 int32_t head) {
    int32_t d = spec->head_dim;
    int64_t first = 0;
    if (spec->window > 0 && position - spec->window + 1 > 0)
        first = position - spec->window + 1;
    double *s = doubles(position + 1), top = -INFINITY, total = 0;
    if (spec->sinks) top = (double)spec->sinks[head];
    for (int64_t j = first; j <= position; j++) {
        for (int32_t i = 0; i < d; i++)
            s[j] += (double)q[i] * (double)k[j * stride + i];
        s[j] *= (double)spec->scale;
        if (spec->softcap > 0)
            s[j] = (double)spec->softcap * tanh(s[j] / (double)spec->softcap);
        top = fmax(top, s[j]);
    }
    if (spec->sinks) total = exp((double)spec->sinks[head] - top);
    for (int32_t i = 0; i < d; i++) out[i] = 0;
    for (int64_t j = first; j <= position; j++) {
        double p = exp(s[j] - top);
        total += p;
        for (int32_t i = 0; i < d; i++) out[i] += p * (double)v[j * stride + i];
    }
    for (int32_t i = 0; i < d; i++) out[i] /= total;
    free(s);
}

/* Log-softmax of one row of logits at an id. */
static inline double ref_logprob(const double *logits, int64_t n, int64_t id) {
    double top = -INFINITY, total = 0;
    for (int64_t j = 0; j < n; j++) top = fmax(top, logits[j]);
    for (int64_t j = 0; j < n; j++) total += exp(logits[j] - top);
    return logits[id] - top - log(total);
}

#endif
