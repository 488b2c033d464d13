/* bench_attention.cpp - rotation with its writes into the store, attention of
 * prompts and of continuations, its way back. Bytes and operations by the
 * formulas of experiments/roofline/roofline.py. */
#include "bench.h"

#include <math.h>
#include <stdio.h>

static int64_t q_cols(const struct shape *s) {
    return (int64_t)s->heads * s->head_dim;
}

static int64_t kv_cols(const struct shape *s) {
    return (int64_t)s->kv_heads * s->head_dim;
}

static ks_attn_spec spec_of(const struct shape *s) {
    ks_attn_spec spec = {};
    spec.n_heads = s->heads;
    spec.n_kv_heads = s->kv_heads;
    spec.head_dim = s->head_dim;
    spec.scale = 1 / sqrtf((float)s->head_dim);
    return spec;
}

/* n sequences of `each` tokens, without a store. */
static ks_seqs sequences(struct bench *b, int n, int each) {
    std::vector<int32_t> offsets;
    for (int i = 0; i <= n; i++) offsets.push_back(i * each);
    ks_seqs seqs = {};
    seqs.n_seq = n;
    seqs.n_tok = n * each;
    seqs.offsets = bench_put(b, offsets);
    return seqs;
}

/* Pages for all of a sequence's tokens; the first `shared` of every sequence
 * are those of the first one. Returns how many there are. */
static int64_t pages(struct bench *b, ks_seqs *seqs, int tokens, int shared) {
    std::vector<int32_t> ids;
    int32_t next = 0;
    seqs->max_pages = (int32_t)ks__ceil_div(tokens, KS_PAGE);
    for (int s = 0; s < seqs->n_seq; s++)
        for (int i = 0; i < seqs->max_pages; i++)
            ids.push_back(s && i < shared ? i : next++);
    seqs->pages = bench_put(b, ids);
    return next;
}

static ks_kv_layer store(struct bench *b, const struct shape *s, int64_t n) {
    int64_t floats = n * KS_PAGE * kv_cols(s);
    return {bench_floats(b, floats), bench_floats(b, floats)};
}

/* ------------------------------------------------------------------ forward */

static int bench_rope(struct bench *b, const struct shape *s) {
    int n_seq = s->tokens / s->context;
    ks_seqs seqs = sequences(b, n_seq, s->context);
    ks_kv_layer kv = store(b, s, pages(b, &seqs, s->context, 0));
    int64_t n = seqs.n_tok, qc = q_cols(s), kc = kv_cols(s);
    std::vector<float> freq;
    for (int i = 0; i < s->head_dim / 2; i++)
        freq.push_back(powf(1e6f, -2.0f * (float)i / (float)s->head_dim));
    ks_rope rope = {bench_put(b, freq), 1, s->head_dim, false};
    float *q = bench_floats(b, n * qc), *k = bench_floats(b, n * kc);
    float *v = bench_floats(b, n * kc);
    char words[64];
    snprintf(words, sizeof words, "%d; %d/%d heads of %d", (int)n, s->heads,
             s->kv_heads, s->head_dim);
    int bad = bench_measure(
        b, s, "rope", words, 4.0 * (double)(n * (2 * qc + 4 * kc)),
        6.0 * (double)(n * (qc + kc)), [=] {
            return b->ops->rope(b->dev, bench_rows(q, n, qc),
                                bench_rows(k, n, kc), bench_rows(v, n, kc),
                                s->head_dim, &rope, &seqs, &kv, &b->err);
        });
    bench_forget(b);
    return bad;
}

/* Causal attention of a batch of prompts. */
static int bench_prompts(struct bench *b, const struct shape *s) {
    int n_seq = s->tokens / s->context;
    ks_seqs seqs = sequences(b, n_seq, s->context);
    ks_attn_spec spec = spec_of(s);
    int64_t n = seqs.n_tok, qc = q_cols(s), kc = kv_cols(s);
    float *q = bench_floats(b, n * qc), *k = bench_floats(b, n * kc);
    float *v = bench_floats(b, n * kc);
    void *out = bench_room(b, (size_t)(n * qc) * 4);
    char words[64];
    snprintf(words, sizeof words, "%d of %d; %d/%d heads of %d", n_seq,
             s->context, s->heads, s->kv_heads, s->head_dim);
    double pairs = 0.5 * (double)n * (s->context + 1);
    int bad = bench_measure(
        b, s, "attention", words, 4.0 * (double)(n * (2 * qc + 2 * kc)),
        4 * pairs * (double)qc, [=] {
            return b->ops->attention(b->dev, bench_rows(out, n, qc),
                                     bench_rows(q, n, qc), bench_rows(k, n, kc),
                                     bench_rows(v, n, kc), &spec, &seqs, NULL,
                                     &b->err);
        });
    bench_forget(b);
    return bad;
}

/* A token for each of n continuations: of one prefix, whose pages they share,
 * or each of its own. */
static int bench_continuations(struct bench *b, const struct shape *s,
                               bool forks) {
    int n = s->forks, all = s->prefix + s->own;
    ks_seqs seqs = sequences(b, n, 1);
    seqs.past = bench_put(b, std::vector<int32_t>((size_t)n, all - 1));
    ks_kv_layer kv =
        store(b, s, pages(b, &seqs, all, forks ? s->prefix / KS_PAGE : 0));
    ks_attn_spec spec = spec_of(s);
    int64_t qc = q_cols(s), kc = kv_cols(s);
    float *q = bench_floats(b, n * qc), *k = bench_floats(b, n * kc);
    float *v = bench_floats(b, n * kc);
    void *out = bench_room(b, (size_t)(n * qc) * 4);
    char words[64];
    snprintf(words, sizeof words, "%d %s %d+%d", n, forks ? "forks" : "loners",
             s->prefix, s->own);
    /* The heads of a group for as many forks as a block has rows: that often
     * the prefix is read. */
    int64_t block = 64 / (s->heads / s->kv_heads);
    double reads = forks ? (double)ks__ceil_div(n, block) : n;
    double keys = reads * s->prefix + (double)n * s->own;
    int bad =
        bench_measure(b, s, "attention_decode", words,
                      4 * (2 * (double)kc * keys + 2.0 * n * (double)qc),
                      4.0 * n * all * (double)qc, [=] {
                          return b->ops->attention(
                              b->dev, bench_rows(out, n, qc),
                              bench_rows(q, n, qc), bench_rows(k, n, kc),
                              bench_rows(v, n, kc), &spec, &seqs, &kv, &b->err);
                      });
    bench_forget(b);
    return bad;
}

/* ----------------------------------------------------------------- way back */

/* Cotangents of all rows of one chain. */
static ks_cots cotangents(struct bench *b, const struct shape *s) {
    std::vector<int32_t> offsets = {0}, first, row;
    for (int c = 0; c < s->cotangents; c++) {
        for (int t = 0; t < s->context; t++) row.push_back(t);
        first.push_back(0);
        offsets.push_back((int32_t)row.size());
    }
    ks_cots cots = {};
    cots.n_cot = s->cotangents;
    cots.n_rows = (int32_t)row.size();
    cots.offsets = bench_put(b, offsets);
    cots.first = bench_put(b, first);
    cots.row = bench_put(b, row);
    return cots;
}

static int bench_backward(struct bench *b, const struct shape *s) {
    ks_seqs seqs = sequences(b, 1, s->context);
    ks_cots cots = cotangents(b, s);
    ks_attn_spec spec = spec_of(s);
    int64_t t = s->context, n = cots.n_rows, qc = q_cols(s), kc = kv_cols(s);
    ks_view q = bench_rows(bench_floats(b, t * qc), t, qc);
    ks_view k = bench_rows(bench_floats(b, t * kc), t, kc);
    ks_view v = bench_rows(bench_floats(b, t * kc), t, kc);
    ks_view out = bench_rows(bench_room(b, (size_t)(t * qc) * 4), t, qc);
    ks_view dout = bench_rows(bench_floats(b, n * qc), n, qc);
    ks_view dq = bench_rows(bench_room(b, (size_t)(n * qc) * 4), n, qc);
    ks_view dk = bench_rows(bench_room(b, (size_t)(n * kc) * 4), n, kc);
    ks_view dv = bench_rows(bench_room(b, (size_t)(n * kc) * 4), n, kc);
    if (b->status == KS_OK)
        b->status = b->ops->attention(b->dev, out, q, k, v, &spec, &seqs, NULL,
                                      &b->err);
    char words[64];
    snprintf(words, sizeof words, "%d of %d; %d/%d heads of %d", s->cotangents,
             s->context, s->heads, s->kv_heads, s->head_dim);
    double pairs = 0.5 * (double)t * (double)(t + 1);
    int bad =
        bench_measure(b, s, "attention_backward", words,
                      4.0 * (double)(n * (4 * qc + 2 * kc) + t * (qc + 2 * kc)),
                      14.0 * s->cotangents * pairs * (double)qc, [=] {
                          return b->ops->attention_backward(
                              b->dev, dq, dk, dv, dout, out, q, k, v, &spec,
                              &seqs, &cots, &b->err);
                      });
    bench_forget(b);
    return bad;
}

int bench_attention(struct bench *b, const struct shape *s) {
    return bench_rope(b, s) + bench_prompts(b, s) +
           bench_continuations(b, s, true) + bench_continuations(b, s, false) +
           bench_backward(b, s);
}
