/* bench_ops.cpp - products, ops by rows, heads. Bytes and operations by the
 * formulas of experiments/roofline/roofline.py. */
#include "bench.h"

#include <algorithm>
#include <stdio.h>

typedef struct words {
    char text[64];
} words;

/* ---------------------------------------------------------------- products */

/* x W^T as it is for a prompt (cuBLASLt's, where it was found), then as for few
 * rows (our own kernel's). */
static int bench_gemm(struct bench *b, const struct shape *s, const char *what,
                      int tokens, int n, int k) {
    void *x = bench_floats(b, (int64_t)tokens * k);
    void *w = bench_numbers(b, KS_BF16, (int64_t)n * k);
    void *out = bench_room(b, (size_t)tokens * (size_t)n * 4);
    words to;
    snprintf(to.text, sizeof to.text, "%s %dx%dx%d", what, tokens, n, k);
    int bad = 0;
    for (int few = 0; few < 2; few++) {
        ks_dev_few_rows(b->dev, few);
        bad += bench_measure(b, s, few ? "gemm_few" : "gemm", to.text,
                             4.0 * tokens * k + 2.0 * n * k + 4.0 * tokens * n,
                             2.0 * tokens * n * k, [=] {
                                 return b->ops->gemm(
                                     b->dev, bench_rows(out, tokens, n),
                                     bench_rows(x, tokens, k),
                                     bench_rows(w, n, k, KS_BF16), NULL, false,
                                     &b->err);
                             });
    }
    ks_dev_few_rows(b->dev, false);
    bench_forget(b);
    return bad;
}

/* Its way back: dx = dy W. */
static int bench_gemm_backward(struct bench *b, const struct shape *s,
                               const char *what, int rows, int n, int k) {
    void *dy = bench_floats(b, (int64_t)rows * n);
    void *w = bench_numbers(b, KS_BF16, (int64_t)n * k);
    void *dx = bench_room(b, (size_t)rows * (size_t)k * 4);
    words to;
    snprintf(to.text, sizeof to.text, "%s %dx%dx%d", what, rows, n, k);
    int bad = bench_measure(
        b, s, "gemm_backward", to.text,
        4.0 * rows * k + 2.0 * n * k + 4.0 * rows * n, 2.0 * rows * n * k, [=] {
            return b->ops->gemm_backward(
                b->dev, bench_rows(dx, rows, k), bench_rows(dy, rows, n),
                bench_rows(w, n, k, KS_BF16), false, &b->err);
        });
    bench_forget(b);
    return bad;
}

int bench_products(struct bench *b, const struct shape *s) {
    int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim, bad = 0;
    for (int tokens : {s->tokens, 64, 1}) {
        bad += bench_gemm(b, s, "q", tokens, q, s->d);
        bad += bench_gemm(b, s, "kv", tokens, kv, s->d);
        bad += bench_gemm(b, s, "o", tokens, s->d, q);
        bad += bench_gemm(b, s, "up", tokens, s->ff, s->d);
        bad += bench_gemm(b, s, "down", tokens, s->d, s->ff);
    }
    int rows = s->cotangents * s->context;
    bad += bench_gemm_backward(b, s, "o", rows, s->d, q);
    bad += bench_gemm_backward(b, s, "down", rows, s->d, s->ff);
    return bad;
}

/* ----------------------------------------------------------------- experts */

/* `active` different experts for each of n tokens, ascending. */
static std::vector<int32_t> choices(int n, int experts, int active) {
    std::vector<int32_t> all, of((size_t)experts);
    uint32_t state = 7;
    for (int e = 0; e < experts; e++) of[(size_t)e] = e;
    for (int t = 0; t < n; t++) {
        for (int i = 0; i < active; i++) {
            state = state * 1664525u + 1013904223u;
            int other = i + (int)((state >> 8) % (uint32_t)(experts - i));
            std::swap(of[(size_t)i], of[(size_t)other]);
        }
        std::sort(of.begin(), of.begin() + active);
        all.insert(all.end(), of.begin(), of.begin() + active);
    }
    return all;
}

/* Experts' weights in MXFP4: any nibbles, scales of 2^-7. */
static void *mxfp4(struct bench *b, int64_t n) {
    std::vector<uint8_t> pattern(17 * 61681);
    uint32_t state = 99;
    for (size_t i = 0; i < pattern.size(); i++) {
        state = state * 1664525u + 1013904223u;
        pattern[i] = i % 17 ? (uint8_t)(state >> 24) : 120;
    }
    return bench_fill(b, (size_t)n / 32 * 17, pattern.data(), pattern.size());
}

static int grouped(struct bench *b, const struct shape *s, const char *what,
                   int tokens, int n, int k, bool gathered) {
    int pairs = tokens * s->active, experts = s->experts;
    std::vector<int32_t> chosen = choices(tokens, experts, s->active);
    std::vector<bool> met((size_t)experts);
    for (int32_t e : chosen) met[(size_t)e] = true;
    double used = (double)std::count(met.begin(), met.end(), true);
    int x_rows = gathered ? tokens : pairs;
    void *x = bench_floats(b, (int64_t)x_rows * k);
    void *w = mxfp4(b, (int64_t)experts * n * k);
    void *out = bench_room(b, (size_t)pairs * (size_t)n * 4);
    int32_t *expert = bench_put(b, chosen);
    int32_t *offsets = (int32_t *)bench_room(b, ((size_t)experts + 1) * 4);
    int32_t *row = (int32_t *)bench_room(b, (size_t)pairs * 4);
    int32_t *place = (int32_t *)bench_room(b, (size_t)pairs * 4);
    if (b->status == KS_OK)
        b->status = b->ops->group(b->dev, offsets, row, place, expert, tokens,
                                  s->active, experts, &b->err);
    words to;
    snprintf(to.text, sizeof to.text, "%s %dx%dx%d of %d", what, pairs, n, k,
             experts);
    int bad =
        bench_measure(b, s, "gemm_grouped", to.text,
                      4.0 * pairs * (n + k) + 17.0 / 32 * used * n * k,
                      2.0 * pairs * n * k, [=] {
                          return b->ops->gemm_grouped(
                              b->dev, bench_rows(out, pairs, n),
                              bench_rows(x, x_rows, k), gathered ? row : NULL,
                              bench_rows(w, (int64_t)experts * n, k, KS_MXFP4),
                              NULL, offsets, experts, &b->err);
                      });
    bench_forget(b);
    return bad;
}

int bench_experts(struct bench *b, const struct shape *s) {
    int bad = 0;
    for (int tokens : {s->tokens, s->forks}) {
        bad += grouped(b, s, "gate and up", tokens, 2 * s->ff, s->d, true);
        bad += grouped(b, s, "down", tokens, s->d, s->ff, false);
    }
    return bad;
}

/* -------------------------------------------------------------------- rows */

static int bench_norm(struct bench *b, const struct shape *s) {
    int64_t n = s->tokens, d = s->d;
    words to;
    snprintf(to.text, sizeof to.text, "%dx%d", (int)n, (int)d);
    float *x = bench_floats(b, n * d), *w = bench_floats(b, d);
    float *y = bench_floats(b, n * d);
    void *out = bench_room(b, (size_t)(n * d) * 4);
    double all = (double)n * (double)d;
    int bad = bench_measure(b, s, "norm", to.text, 8 * all, 4 * all, [=] {
        return b->ops->norm(b->dev, bench_rows(out, n, d), bench_rows(x, n, d),
                            NULL, w, 1e-6f, &b->err);
    });
    /* x grows by y each time: a hundred times at most */
    bad += bench_measure(b, s, "norm+add", to.text, 16 * all, 5 * all, [=] {
        ks_view add = bench_rows(y, n, d);
        return b->ops->norm(b->dev, bench_rows(out, n, d), bench_rows(x, n, d),
                            &add, w, 1e-6f, &b->err);
    });
    bench_forget(b);
    return bad;
}

/* The forward's row of each of n rows of cotangents, all of one chain of t. */
static int32_t *forward_rows(struct bench *b, int64_t n, int64_t t) {
    std::vector<int32_t> of;
    for (int64_t i = 0; i < n; i++) of.push_back((int32_t)(i % t));
    return bench_put(b, of);
}

static int bench_norm_backward(struct bench *b, const struct shape *s) {
    int64_t t = s->context, n = s->cotangents * t, d = s->d;
    words to;
    snprintf(to.text, sizeof to.text, "%dx%d", (int)n, (int)d);
    float *x = bench_floats(b, t * d), *w = bench_floats(b, d);
    float *dy = bench_floats(b, n * d), *dx = bench_floats(b, n * d);
    int32_t *row = forward_rows(b, n, t);
    int bad = bench_measure(
        b, s, "norm_backward", to.text, 4.0 * (double)((3 * n + t) * d),
        8.0 * (double)(n * d), [=] {
            return b->ops->norm_backward(
                b->dev, bench_rows(dx, n, d), bench_rows(dy, n, d),
                bench_rows(x, t, d), row, 1, w, 1e-6f, true, &b->err);
        });
    bench_forget(b);
    return bad;
}

static int bench_gate(struct bench *b, const struct shape *s) {
    int64_t n = s->tokens, ff = s->ff;
    words to;
    snprintf(to.text, sizeof to.text, "%dx%d", (int)n, (int)ff);
    float *gate = bench_floats(b, n * ff), *up = bench_floats(b, n * ff);
    void *out = bench_room(b, (size_t)(n * ff) * 4);
    double all = (double)n * (double)ff;
    int bad = bench_measure(b, s, "gate", to.text, 12 * all, 8 * all, [=] {
        return b->ops->gate(b->dev, bench_rows(out, n, ff),
                            bench_rows(gate, n, ff), bench_rows(up, n, ff),
                            KS_SILU, &b->err);
    });
    bench_forget(b);
    return bad;
}

static int bench_gate_backward(struct bench *b, const struct shape *s) {
    int64_t t = s->context, n = s->cotangents * t, ff = s->ff;
    words to;
    snprintf(to.text, sizeof to.text, "%dx%d", (int)n, (int)ff);
    float *gate = bench_floats(b, t * ff), *up = bench_floats(b, t * ff);
    float *dout = bench_floats(b, n * ff);
    void *dgate = bench_room(b, (size_t)(n * ff) * 4);
    void *dup = bench_room(b, (size_t)(n * ff) * 4);
    int32_t *row = forward_rows(b, n, t);
    int bad = bench_measure(
        b, s, "gate_backward", to.text, 4.0 * (double)((3 * n + 2 * t) * ff),
        12.0 * (double)(n * ff), [=] {
            return b->ops->gate_backward(
                b->dev, bench_rows(dgate, n, ff), bench_rows(dup, n, ff),
                bench_rows(dout, n, ff), bench_rows(gate, t, ff),
                bench_rows(up, t, ff), row, KS_SILU, &b->err);
        });
    bench_forget(b);
    return bad;
}

/* Five positions of every step, in bf16. */
static int bench_pool(struct bench *b, const struct shape *s) {
    int64_t n = s->tokens, d = s->d;
    std::vector<ks_pool_row> steps;
    for (int32_t at = 0; at + s->step <= n; at += s->step)
        steps.push_back({at, at + s->step, at - 1});
    int64_t n_rows = (int64_t)steps.size();
    words to;
    snprintf(to.text, sizeof to.text, "%dx%d; steps of %d", (int)n, (int)d,
             s->step);
    float *x = bench_floats(b, n * d);
    ks_pool_row *rows = bench_put(b, steps);
    std::vector<void *> out(KS_N_POSITIONS);
    for (int p = 0; p < KS_TOKENS; p++)
        out[(size_t)p] = bench_room(b, (size_t)(n_rows * d) * 2);
    double all = (double)n * (double)d;
    int bad = bench_measure(
        b, s, "pool", to.text, 4 * all + 2.0 * KS_TOKENS * (double)(n_rows * d),
        all, [=] {
            return b->ops->pool(b->dev, out.data(), KS_BF16,
                                bench_rows(x, n, d), rows, n_rows,
                                (1u << KS_TOKENS) - 1, &b->err);
        });
    bench_forget(b);
    return bad;
}

int bench_row_ops(struct bench *b, const struct shape *s) {
    return bench_norm(b, s) + bench_norm_backward(b, s) + bench_gate(b, s) +
           bench_gate_backward(b, s) + bench_pool(b, s);
}

/* ------------------------------------------------------------------- heads */

/* Log-probabilities of given tokens, a batch of them. */
static int bench_score(struct bench *b, const struct shape *s) {
    int64_t n = s->tokens, d = s->d, vocab = s->vocab;
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < n; i++) ids.push_back((int32_t)(i * 977 % vocab));
    words to;
    snprintf(to.text, sizeof to.text, "%dx%dx%d", (int)n, (int)vocab, (int)d);
    float *hidden = bench_floats(b, n * d);
    void *head = bench_numbers(b, KS_BF16, vocab * d);
    int32_t *target = bench_put(b, ids);
    float *logprob = (float *)bench_room(b, (size_t)n * 4);
    int bad = bench_measure(
        b, s, "score", to.text, (double)d * (4.0 * (double)n + 2.0 * vocab),
        2.0 * (double)n * (double)vocab * (double)d, [=] {
            return b->ops->score(b->dev, logprob, bench_rows(hidden, n, d),
                                 bench_rows(head, vocab, d, KS_BF16), 0, target,
                                 &b->err);
        });
    bench_forget(b);
    return bad;
}

/* A token for every continuation; share: the probability of one, as for exact
 * sufficiency. */
static int bench_draw(struct bench *b, const struct shape *s, bool share) {
    int64_t n = s->forks, d = s->d, vocab = s->vocab;
    std::vector<ks_sample_spec> rows;
    std::vector<int32_t> sets{0}, ids;
    for (int64_t i = 0; i < n; i++) {
        rows.push_back({0.8f, 0.95f, 0, {1, (uint64_t)i}, 0});
        ids.push_back((int32_t)(i * 977 % vocab));
        sets.push_back((int32_t)i + 1);
    }
    words to;
    snprintf(to.text, sizeof to.text, "%dx%dx%d", (int)n, (int)vocab, (int)d);
    float *hidden = bench_floats(b, n * d);
    void *head = bench_numbers(b, KS_BF16, vocab * d);
    ks_sample_spec *specs = bench_put(b, rows);
    int32_t *begins = bench_put(b, sets), *targets = bench_put(b, ids);
    int32_t *id = (int32_t *)bench_room(b, (size_t)n * 4);
    float *logprob = (float *)bench_room(b, (size_t)n * 4);
    double *shares = (double *)bench_room(b, (size_t)n * 8);
    ks_dev_few_rows(b->dev, true);
    int bad = bench_measure(
        b, s, share ? "share" : "sample", to.text,
        (double)d * (4.0 * (double)n + 2.0 * vocab),
        2.0 * (double)n * (double)vocab * (double)d, [=] {
            ks_view h = bench_rows(hidden, n, d);
            ks_view w = bench_rows(head, vocab, d, KS_BF16);
            return share ? b->ops->share(b->dev, shares, h, w, 0, specs, begins,
                                         targets, &b->err)
                         : b->ops->sample(b->dev, id, logprob, h, w, 0, specs,
                                          &b->err);
        });
    ks_dev_few_rows(b->dev, false);
    bench_forget(b);
    return bad;
}

int bench_heads(struct bench *b, const struct shape *s) {
    return bench_score(b, s) + bench_draw(b, s, false) + bench_draw(b, s, true);
}
