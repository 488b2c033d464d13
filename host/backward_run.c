/* backward_run.c - what a backward pass holds, sized before its forward. */
#include "backward_run.h"

#include <stdlib.h>
#include <string.h>

#include "carve.h"

/* Integers of the image: a target has at least one row. */
static size_t image_size(const ks_backward_limits *limits) {
    return 3 * (size_t)limits->max_rows + 1;
}

static void lay_out(ks_backward *b, const ks_config *c, ks_carver *a) {
    size_t n = (size_t)b->limits.max_tokens, r = (size_t)b->limits.max_rows;
    size_t d = (size_t)c->d_model, f = (size_t)c->d_ff;
    size_t lane_rows = (size_t)b->most_lanes * (size_t)b->block_rows;
    b->trace.resid = ks__carve_f32(a, ((size_t)c->n_layers + 1) * n, d);
    size_t kept = b->limits.keep ? (size_t)c->n_layers * n : n;
    if (b->limits.keep) {
        b->trace.all = true;
        b->trace.q = ks__carve_f32(a, kept, ks__q_cols(c));
        b->trace.k = ks__carve_f32(a, kept, ks__kv_cols(c));
        b->trace.v = ks__carve_f32(a, kept, ks__kv_cols(c));
        b->trace.mixed = ks__carve_f32(a, kept, ks__q_cols(c));
        b->trace.middle = ks__carve_f32(a, kept, d);
    } else if (b->run) {
        b->trace.q = b->run->q;
        b->trace.k = b->run->k;
        b->trace.v = b->run->v;
        b->trace.mixed = b->run->mixed;
        b->trace.middle = b->run->x;
    }
    if (c->qk_norm != KS_QK_NONE) {
        b->trace.raw_q = ks__carve_f32(a, kept, ks__q_cols(c));
        b->trace.raw_k = ks__carve_f32(a, kept, ks__kv_cols(c));
    }
    if (c->post_norm) {
        b->trace.attn = ks__carve_f32(a, kept, d);
        b->trace.mlp = ks__carve_f32(a, kept, d);
    }
    b->trace.gate = ks__carve_f32(a, kept, f);
    b->trace.up = ks__carve_f32(a, kept, f);
    b->dx = ks__carve_f32(a, r, d);
    b->dmixed = ks__carve_f32(a, r, ks__q_cols(c));
    b->dq = ks__carve_f32(a, r, ks__q_cols(c));
    b->dk = ks__carve_f32(a, r, ks__kv_cols(c));
    b->dv = ks__carve_f32(a, r, ks__kv_cols(c));
    b->t = ks__carve_f32(a, lane_rows, d);
    b->dgate = ks__carve_f32(a, lane_rows, f);
    b->dup = ks__carve_f32(a, lane_rows, f);
    b->image = ks__carve(a, image_size(&b->limits), sizeof(int32_t));
    b->target = ks__carve(a, n, sizeof(int32_t));
    b->weight = ks__carve_f32(a, (size_t)b->block_rows, 1);
    b->score = ks__carve_f32(a, (size_t)b->block_rows, 1);
}

static void lay_out_host(ks_backward *b, const ks_config *c, ks_carver *a) {
    size_t n = (size_t)b->limits.max_tokens;
    b->offsets = ks__carve(a, n + 1, sizeof(int32_t));
    b->ids = ks__carve(a, n, sizeof(int32_t));
    b->plan = ks__carve(a, image_size(&b->limits), sizeof(int32_t));
    if (!b->ops->unified) b->rows = ks__carve_f32(a, n, (size_t)c->d_model);
}

static ks_run_limits run_limits(const ks_backward_limits *limits) {
    return (ks_run_limits){.max_tokens = limits->max_tokens,
                           .lanes = limits->lanes};
}

/* What the lists need to know. */
static void set_up(ks_backward *b, const struct ks_ops *ops,
                   const ks_backward_limits *limits) {
    b->ops = ops;
    b->limits = *limits;
    b->most_lanes = KS_MAX(limits->lanes, 1);
    b->block_rows = KS_MIN(ks__row_block(ops), limits->max_rows);
}

size_t ks_backward_bytes(const struct ks_ops *ops, const ks_config *config,
                         const ks_backward_limits *limits) {
    ks_backward scratch = {0};
    ks_carver a = {0}, h = {0};
    ks_run_limits run = run_limits(limits);
    set_up(&scratch, ops, limits);
    lay_out(&scratch, config, &a);
    lay_out_host(&scratch, config, &h);
    size_t forward = ks_run_bytes(ops, config, &run);
    if (a.overflow || h.overflow || forward > SIZE_MAX / 2) return SIZE_MAX;
    return a.used + forward + (ops->unified ? h.used : 0);
}

/* Every target token counts once. */
static ks_status set_weights(ks_backward *b, ks_err *err) {
    ks_status st = KS_OK;
    float *ones = NULL;
    size_t n = (size_t)b->block_rows;
    KS_TRY(ks_alloc(&ones, n, sizeof *ones, "the backward pass", err));
    for (size_t i = 0; i < n; i++) ones[i] = 1;
    KS_TRY(b->ops->copy(b->dev, b->weight, ones, n * sizeof *ones, err));
    KS_TRY(b->ops->sync(b->dev, err));
done:
    free(ones);
    return st;
}

ks_status ks_backward_open(ks_backward **out, ks_dev *dev,
                           const struct ks_ops *ops, const ks_config *config,
                           const ks_weights *weights,
                           const ks_backward_limits *limits, ks_err *err) {
    ks_status st = KS_OK;
    ks_backward *b = NULL;
    ks_run_limits run = run_limits(limits);
    ks_carver a = {0}, h = {0};
    *out = NULL;
    KS_CHECK(limits->max_tokens > 0 && limits->max_rows > 0, KS_USAGE,
             "a backward pass needs at least one token and one row, got %d and "
             "%d",
             limits->max_tokens, limits->max_rows);
    KS_CHECK(config->n_experts == 0, KS_UNSUPPORTED,
             "a model of %d experts has no backward pass", config->n_experts);
    KS_CHECK(ks_backward_bytes(ops, config, limits) < SIZE_MAX, KS_LIMIT,
             "a backward pass over %d tokens and %d rows exceeds the address "
             "space",
             limits->max_tokens, limits->max_rows);
    KS_TRY(ks_alloc(&b, 1, sizeof *b, "a backward pass", err));
    b->dev = dev;
    b->config = config;
    b->weights = weights;
    set_up(b, ops, limits);
    KS_TRY(ks_run_open(&b->run, dev, ops, config, weights, &run, err));
    lay_out(b, config, &a);
    KS_TRY(ops->alloc(dev, &b->arena, a.used, "the backward pass", err));
    lay_out(b, config, &(ks_carver){.base = b->arena.data});
    lay_out_host(b, config, &h);
    KS_TRY(ks_alloc(&b->host, h.used, 1, "the backward pass", err));
    lay_out_host(b, config, &(ks_carver){.base = b->host});
    KS_TRY(set_weights(b, err));
    *out = b;
    b = NULL;
done:
    ks_backward_close(&b);
    return st;
}

void ks_backward_close(ks_backward **backward) {
    ks_backward *b = *backward;
    if (!b) return;
    if (b->arena.data) b->ops->free(b->dev, &b->arena);
    ks_run_close(&b->run);
    free(b->host);
    free(b);
    *backward = NULL;
}

ks_status ks_backward_forward(ks_backward *b, const ks_seqs *seqs,
                              const int32_t *ids, const float *inputs,
                              ks_err *err) {
    ks_status st = KS_OK;
    int32_t n = seqs->n_tok;
    b->ran = false;
    KS_CHECK(n >= 1 && n <= b->limits.max_tokens && seqs->n_seq >= 1 &&
                 seqs->n_seq <= n,
             KS_LIMIT,
             "%d sequences of %d tokens for a backward pass of at most %d",
             seqs->n_seq, n, b->limits.max_tokens);
    for (int32_t s = 0; seqs->past && s < seqs->n_seq; s++)
        KS_CHECK(seqs->past[s] == 0, KS_USAGE,
                 "sequence %d has %d tokens in the store: a backward pass "
                 "takes whole sequences",
                 s, seqs->past[s]);
    KS_CHECK(!seqs->hidden, KS_UNSUPPORTED,
             "a batch of %d sequences with hidden tokens: a backward pass lets "
             "all later tokens attend",
             seqs->n_seq);
    memcpy(b->offsets, seqs->offsets,
           ((size_t)seqs->n_seq + 1) * sizeof *b->offsets);
    memcpy(b->ids, ids, (size_t)n * sizeof *ids);
    b->seqs =
        (ks_seqs){.n_seq = seqs->n_seq, .n_tok = n, .offsets = b->offsets};
    KS_TRY(ks__forward_trace(b->run, &b->seqs, b->ids, inputs, &b->trace, err));
    KS_TRY(
        b->ops->copy(b->dev, b->target, b->ids, (size_t)n * sizeof *ids, err));
    b->ran = true;
done:
    return st;
}
