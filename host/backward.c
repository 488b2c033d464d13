/* backward.c - the only backward pass, over the ops table, in the forward's own
 * terms (forward.c): what a feature is, never what a model is called.
 *
 * Back through one block, dx the cotangents of the residual stream after it:
 *     t = norm'(dx)                        post_norm, else t = dx
 *     dgate, dup = gate'(t W_down)
 *     dx += norm'(dgate W_gate + dup W_up)           mlp_norm, else without
 *     t = norm'(dx)                        post_norm, else t = dx
 *     dq, dk, dv = attention'(t W_o)
 *     dq, dk = norm'(rope'(dq)), norm'(rope'(dk))    qk_norm, else without
 *     dx += norm'(dq W_q + dk W_k + dv W_v)          attn_norm, else without
 *
 * Rows of all targets lie one behind the other; all but attention is local to a
 * row and runs a block of rows at a time, on the backend's lanes. A target's
 * bits do not depend on the targets beside it.
 */
#include "backward_run.h"

/* ------------------------------------------------------ cotangents' own rows
 */

static ks_view rows_at(float *data, int64_t row, int64_t rows, size_t cols) {
    return ks_view_f32(data + row * (int64_t)cols, rows, (int64_t)cols);
}

typedef struct lane {
    ks_dev *dev;
    float *t, *dgate, *dup;
} lane;

static lane lane_of(const ks_backward *b, ks_dev *dev, int32_t number) {
    int64_t row = (int64_t)number * b->block_rows;
    return (lane){dev, b->t + row * b->config->d_model,
                  b->dgate + row * b->config->d_ff,
                  b->dup + row * b->config->d_ff};
}

/* dx += the way back through y = norm(x) (weight NULL: y = x), dy = sum of
 * dz[i] w[i]. */
static ks_status pull_projections(ks_backward *b, const lane *at, int32_t n,
                                  const ks_view *dz, const ks_weight *w,
                                  float *x, const float *norm,
                                  const int32_t *row, ks_view dx, ks_err *err) {
    ks_status st = KS_OK;
    const struct ks_ops *ops = b->ops;
    ks_view dy = norm ? ks_view_f32(at->t, dx.rows, dx.cols) : dx;
    for (int32_t i = 0; i < n; i++)
        KS_TRY(
            ops->gemm_backward(at->dev, dy, dz[i], w[i], i > 0 || !norm, err));
    if (norm)
        KS_TRY(ops->norm_backward(at->dev, dx, dy,
                                  ks_view_f32(x, b->seqs.n_tok, dx.cols), row,
                                  1, norm, b->config->norm_eps, true, err));
done:
    return st;
}

/* t = the way back through a post-norm at x, or dx itself without one. */
static ks_status pull_post_norm(ks_backward *b, const lane *at, float *x,
                                const float *norm, const int32_t *row,
                                ks_view dx, ks_view *t, ks_err *err) {
    *t = dx;
    if (!norm) return KS_OK;
    *t = ks_view_f32(at->t, dx.rows, dx.cols);
    return b->ops->norm_backward(at->dev, *t, dx,
                                 ks_view_f32(x, b->seqs.n_tok, dx.cols), row, 1,
                                 norm, b->config->norm_eps, false, err);
}

/* From dx after the block to the cotangents of attention's output. */
static ks_status pull_mlp(ks_backward *b, const lane *at, int64_t first,
                          int64_t rows, ks_err *err) {
    ks_status st = KS_OK;
    const ks_config *c = b->config;
    const ks_layer *w = &b->weights->layers[b->layer];
    const struct ks_ops *ops = b->ops;
    const int32_t *row = b->cots.row + first;
    size_t d = (size_t)c->d_model;
    ks_view dx = rows_at(b->dx, first, rows, d), t;
    ks_view dz[] = {ks_view_f32(at->dgate, rows, c->d_ff),
                    ks_view_f32(at->dup, rows, c->d_ff)};
    ks_weight up[] = {w->w_gate, w->w_up};
    KS_TRY(pull_post_norm(b, at, b->inner.mlp, w->mlp_post_norm, row, dx, &t,
                          err));
    KS_TRY(ops->gemm_backward(at->dev, dz[0], t, w->w_down, false, err));
    KS_TRY(ops->gate_backward(
        at->dev, dz[0], dz[1], dz[0],
        ks_view_f32(b->inner.gate, b->seqs.n_tok, c->d_ff),
        ks_view_f32(b->inner.up, b->seqs.n_tok, c->d_ff), row, c->act, err));
    KS_TRY(pull_projections(b, at, 2, dz, up, b->inner.middle, w->mlp_norm, row,
                            dx, err));
    KS_TRY(pull_post_norm(b, at, b->inner.attn, w->attn_post_norm, row, dx, &t,
                          err));
    KS_TRY(ops->gemm_backward(at->dev,
                              rows_at(b->dmixed, first, rows, ks__q_cols(c)), t,
                              w->wo, false, err));
done:
    return st;
}

/* In place through a q or k norm; x: what it normed. */
static ks_status pull_qk_norm(ks_backward *b, const lane *at, ks_view dy,
                              float *x, int32_t heads, const float *norm,
                              const int32_t *row, ks_err *err) {
    const ks_config *c = b->config;
    int64_t n = b->seqs.n_tok, cols = dy.cols;
    if (c->qk_norm == KS_QK_NONE) return KS_OK;
    if (c->qk_norm == KS_QK_FULL)
        heads = 1;
    else
        cols = c->head_dim;
    dy = ks_view_f32(dy.data, dy.rows * heads, cols);
    return b->ops->norm_backward(at->dev, dy, dy,
                                 ks_view_f32(x, n * heads, cols), row, heads,
                                 norm, c->norm_eps, false, err);
}

/* From the cotangents of rotated q, k and v to dx ahead of the block. */
static ks_status pull_qkv(ks_backward *b, const lane *at, int64_t first,
                          int64_t rows, ks_err *err) {
    ks_status st = KS_OK;
    const ks_config *c = b->config;
    const ks_layer *w = &b->weights->layers[b->layer];
    const int32_t *row = b->cots.row + first;
    size_t d = (size_t)c->d_model;
    int64_t stream = (int64_t)b->seqs.n_tok * c->d_model;
    ks_rope rope = ks__rope_of(c, b->weights, b->layer);
    ks_view dz[] = {rows_at(b->dq, first, rows, ks__q_cols(c)),
                    rows_at(b->dk, first, rows, ks__kv_cols(c)),
                    rows_at(b->dv, first, rows, ks__kv_cols(c))};
    ks_weight qkv[] = {w->wq, w->wk, w->wv};
    KS_TRY(b->ops->rope_backward(at->dev, dz[0], dz[1], c->head_dim, &rope,
                                 &b->run->placed, row, err));
    KS_TRY(pull_qk_norm(b, at, dz[0], b->inner.raw_q, c->n_heads, w->q_norm,
                        row, err));
    KS_TRY(pull_qk_norm(b, at, dz[1], b->inner.raw_k, c->n_kv_heads, w->k_norm,
                        row, err));
    KS_TRY(pull_projections(b, at, 3, dz, qkv,
                            b->trace.resid + b->layer * stream, w->attn_norm,
                            row, rows_at(b->dx, first, rows, d), err));
done:
    return st;
}

/* ----------------------------------------------------------- blocks of rows */

typedef struct stretch {
    ks_backward *b;
    int64_t rows; /* of a block */
    ks_status (*pull)(ks_backward *, const lane *, int64_t first, int64_t rows,
                      ks_err *);
} stretch;

static ks_status pull_block(void *user, ks_dev *dev, int32_t number, int32_t i,
                            ks_err *err) {
    const stretch *s = user;
    int64_t first = i * s->rows, n = s->b->cots.n_rows;
    lane at = lane_of(s->b, dev, number);
    return s->pull(s->b, &at, first, KS_MIN(s->rows, n - first), err);
}

/* Even blocks, as many for every lane. */
static ks_status pull_rows(ks_backward *b,
                           ks_status (*pull)(ks_backward *, const lane *,
                                             int64_t, int64_t, ks_err *),
                           ks_err *err) {
    int64_t n = b->cots.n_rows;
    int32_t lanes = n / KS_LANE_ROWS >= b->most_lanes ? b->most_lanes : 1;
    int64_t turns = (n + (int64_t)lanes * b->block_rows - 1) /
                    ((int64_t)lanes * b->block_rows);
    int64_t rows = (n + turns * lanes - 1) / (turns * lanes);
    stretch s = {b, rows, pull};
    return b->ops->each(b->dev, lanes, (int32_t)((n + rows - 1) / rows),
                        pull_block, &s, err);
}

static ks_status pull_attention(ks_backward *b, ks_err *err) {
    const ks_config *c = b->config;
    int64_t n = b->seqs.n_tok, r = b->cots.n_rows;
    ks_attn_spec spec = ks__attn_spec(c, b->weights, b->layer);
    return b->ops->attention_backward(
        b->dev, rows_at(b->dq, 0, r, ks__q_cols(c)),
        rows_at(b->dk, 0, r, ks__kv_cols(c)),
        rows_at(b->dv, 0, r, ks__kv_cols(c)),
        rows_at(b->dmixed, 0, r, ks__q_cols(c)),
        rows_at(b->inner.mixed, 0, n, ks__q_cols(c)),
        rows_at(b->inner.q, 0, n, ks__q_cols(c)),
        rows_at(b->inner.k, 0, n, ks__kv_cols(c)),
        rows_at(b->inner.v, 0, n, ks__kv_cols(c)), &spec, &b->run->placed,
        &b->cots, err);
}

/* ------------------------------------------------------------------- targets
 */

static ks_status check_target(const ks_backward *b, int32_t i,
                              const ks_target *t, ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(t->seq >= 0 && t->seq < b->seqs.n_seq, KS_USAGE,
             "target %d is of sequence %d, the batch has %d", i, t->seq,
             b->seqs.n_seq);
    int32_t n = b->offsets[t->seq + 1] - b->offsets[t->seq];
    KS_CHECK(t->begin > 0 && t->begin < t->end && t->end <= n, KS_USAGE,
             "target %d has tokens %d to %d of a sequence of %d: a token with "
             "none before it has no probability",
             i, t->begin, t->end, n);
    KS_CHECK(t->from >= 0 && t->from < t->end - 1, KS_USAGE,
             "target %d asks for gradients from token %d on, beyond %d, the "
             "last that it depends on",
             i, t->from, t->end - 2);
    KS_CHECK(t->end - 1 - t->from <= b->limits.max_rows, KS_LIMIT,
             "target %d has %d rows, there is room for %d", i,
             t->end - 1 - t->from, b->limits.max_rows);
done:
    return st;
}

/* As many targets from `first` on as fit: their cotangents, in the backend's
 * memory too. */
static ks_status plan_group(ks_backward *b, int32_t first, ks_err *err) {
    const ks_gradients *want = b->want;
    int32_t n = 0, rows = 0;
    while (first + n < want->n_targets) {
        const ks_target *t = &want->targets[first + n];
        if (rows + t->end - 1 - t->from > b->limits.max_rows) break;
        rows += t->end - 1 - t->from;
        n++;
    }
    int32_t *offsets = b->plan, *start = offsets + n + 1, *row = start + n;
    for (int32_t i = 0, at = 0; i < n; i++) {
        const ks_target *t = &want->targets[first + i];
        offsets[i] = at;
        start[i] = b->offsets[t->seq] + t->from;
        for (int32_t j = 0; j < t->end - 1 - t->from; j++)
            row[at++] = start[i] + j;
        offsets[i + 1] = at;
    }
    const int32_t *image = b->image;
    b->first = first;
    b->planned = (ks_cots){n, rows, offsets, start, row};
    b->cots =
        (ks_cots){n, rows, image, image + n + 1, image + 2 * (int64_t)n + 1};
    return b->ops->copy(b->dev, b->image, b->plan,
                        (2 * (size_t)n + 1 + (size_t)rows) * sizeof *b->plan,
                        err);
}

/* Cotangents of the last residual stream from tokens [begin, end) of target i;
 * dh: those of the normed rows that predict them. */
static ks_status start_target(ks_backward *b, int32_t i, int32_t begin,
                              int32_t end, const float *dh, ks_err *err) {
    const ks_config *c = b->config;
    const ks_target *t = &b->want->targets[b->first + i];
    int64_t d = c->d_model;
    int64_t first = KS_MAX(begin - 1, t->from); /* nobody asks further ahead */
    int64_t rows = end - 1 - first;
    if (rows <= 0) return KS_OK;
    float *last = b->trace.resid + (int64_t)c->n_layers * b->seqs.n_tok * d;
    return b->ops->norm_backward(
        b->dev,
        rows_at(b->dx, b->planned.offsets[i] + first - t->from, rows,
                (size_t)d),
        ks_view_f32((float *)(uintptr_t)dh + (first - (begin - 1)) * d, rows,
                    d),
        ks_view_f32(last + (b->offsets[t->seq] + first) * d, rows, d), NULL, 1,
        b->weights->final_norm, c->norm_eps, false, err);
}

/* Tokens [begin, end), a block of rows at most, of targets [i, next) that
 * follow each other: their head's products are as wide as can be. */
static ks_status start_piece(ks_backward *b, int32_t i, int32_t next,
                             int32_t begin, int32_t end, float *logprobs,
                             ks_err *err) {
    ks_status st = KS_OK;
    const ks_config *c = b->config;
    const ks_target *t = &b->want->targets[b->first];
    int64_t d = c->d_model, rows = end - begin;
    int64_t token = b->offsets[t[i].seq] + begin - 1; /* that predicts begin */
    float *last = b->trace.resid + (int64_t)c->n_layers * b->seqs.n_tok * d;
    ks_view hidden = ks_view_f32(b->run->h, rows, d);
    KS_TRY(b->ops->norm(b->dev, hidden, ks_view_f32(last + token * d, rows, d),
                        NULL, b->weights->final_norm, c->norm_eps, err));
    KS_TRY(b->ops->score_backward(
        b->dev, ks_view_f32(b->t, rows, d), logprobs ? b->score : NULL, hidden,
        b->weights->head, c->final_softcap, b->target + token + 1, b->weight,
        !b->want->of_log, err));
    if (logprobs)
        KS_TRY(b->ops->copy(b->dev, logprobs, b->score,
                            (size_t)rows * sizeof *logprobs, err));
    for (; i < next; i++) {
        int32_t from = KS_MAX(begin, t[i].begin), to = KS_MIN(end, t[i].end);
        if (from < to)
            KS_TRY(
                start_target(b, i, from, to, b->t + (from - begin) * d, err));
    }
done:
    return st;
}

static ks_status start_group(ks_backward *b, float **logprobs, ks_err *err) {
    ks_status st = KS_OK;
    const ks_target *t = &b->want->targets[b->first];
    size_t floats = (size_t)b->cots.n_rows * (size_t)b->config->d_model;
    int32_t most = KS_MIN(b->block_rows, b->limits.max_tokens);
    KS_TRY(b->ops->zero(b->dev, b->dx, floats * sizeof *b->dx, err));
    for (int32_t i = 0, next; i < b->cots.n_cot; i = next) {
        int32_t last = t[i].end;
        for (next = i + 1; next < b->cots.n_cot && t[next].seq == t[i].seq &&
                           t[next].begin == last;
             next++)
            last = t[next].end;
        for (int32_t at = t[i].begin; at < last; at += most) {
            int32_t end = KS_MIN(last, at + most);
            KS_TRY(start_piece(b, i, next, at, end, *logprobs, err));
            if (*logprobs) *logprobs += end - at;
        }
    }
done:
    return st;
}

/* ---------------------------------------------------------------------- pass
 */

/* The target that a row of cotangents belongs to, for a message. */
static ks_status not_finite(const ks_backward *b, int32_t layer, int64_t row,
                            int64_t count, ks_err *err) {
    int32_t i = 0;
    while (b->planned.offsets[i + 1] <= row) i++;
    const ks_target *t = &b->want->targets[b->first + i];
    return ks_fail(err, KS_NUMERIC,
                   "gradients of target %d, layer %d: %lld values are not "
                   "finite, the first at token %lld",
                   b->first + i, layer, (long long)count,
                   (long long)(row - b->planned.offsets[i] + t->from));
}

static ks_status emit(ks_backward *b, int32_t layer, ks_err *err) {
    ks_status st = KS_OK;
    const ks_gradients *want = b->want;
    size_t d = (size_t)b->config->d_model;
    int64_t count = 0, row = -1;
    if (want->layers ? !want->layers[layer] : layer > 0) return KS_OK;
    KS_TRY(b->ops->count_nonfinite(b->dev, rows_at(b->dx, 0, b->cots.n_rows, d),
                                   &count, &row, err));
    if (count) return not_finite(b, layer, row, count, err);
    for (int32_t i = 0; i < b->cots.n_cot; i++) {
        int64_t first = b->planned.offsets[i];
        int64_t n = b->planned.offsets[i + 1] - first;
        const float *rows = rows_at(b->dx, first, n, d).data;
        if (!b->ops->unified) {
            KS_TRY(b->ops->copy(b->dev, b->rows, rows,
                                (size_t)n * d * sizeof *rows, err));
            KS_TRY(b->ops->sync(b->dev, err));
            rows = b->rows;
        }
        KS_TRY(want->emit(want->user, b->first + i, layer, rows, n, err));
    }
done:
    return st;
}

static ks_status pull_layer(ks_backward *b, int32_t l, ks_err *err) {
    ks_status st = KS_OK;
    b->layer = l;
    b->inner = ks__trace_at(&b->trace, b->config, b->seqs.n_tok, l);
    if (!b->trace.all) KS_TRY(ks__forward_replay(b->run, l, err));
    KS_TRY(pull_rows(b, pull_mlp, err));
    KS_TRY(pull_attention(b, err));
    KS_TRY(pull_rows(b, pull_qkv, err));
done:
    return st;
}

ks_status ks_backward_pull(ks_backward *b, const ks_gradients *want,
                           ks_err *err) {
    ks_status st = KS_OK;
    int32_t n_layers = b->config->n_layers, lowest = 0;
    float *logprobs = want->logprobs;
    KS_CHECK(b->ran, KS_USAGE, "a backward pass needs its forward first");
    for (int32_t i = 0; i < want->n_targets; i++)
        KS_TRY(check_target(b, i, &want->targets[i], err));
    while (want->layers && lowest < n_layers && !want->layers[lowest]) lowest++;
    b->want = want;
    for (int32_t i = 0; i < want->n_targets; i += b->cots.n_cot) {
        KS_TRY(plan_group(b, i, err));
        KS_TRY(start_group(b, &logprobs, err));
        KS_TRY(emit(b, n_layers, err));
        for (int32_t l = n_layers - 1; l >= lowest; l--) {
            KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
            KS_TRY(pull_layer(b, l, err));
            KS_TRY(emit(b, l, err));
        }
        KS_TRY(b->ops->sync(b->dev, err)); /* before the plan changes */
    }
done:
    return st;
}
