/* forward.c - the only forward pass. It asks what a feature is (a switch of
 * ks_config, a tensor that is there), never what a model is called.
 *
 * One block of a transformer, with the switches that differ:
 *     h = norm(x)                        pre_norm, else h = x
 *     q, k, v = h W^T (+ b)              biases
 *     q, k = norm(q), norm(k)            qk_norm per head or over all heads
 *     q, k = rope(q, k)                  global or local angles
 *     y = attention(q, k, v) W_o^T       window, softcap, sinks
 *     y = norm(y)                        post_norm
 *     x += y, h = norm(x)
 *     y = (act(h W_gate^T) * h W_up^T) W_down^T, y = norm(y), x += y
 *
 * Everything but attention is local to a row, so it runs a block of rows at a
 * time (run.h): after attention of layer l, a block goes on to the rotated
 * q, k, v of layer l + 1. Blocks know nothing of each other, so lanes of the
 * backend walk them side by side and meet at attention alone. Residual adds
 * are fused into the norm that follows.
 */
#include "run.h"

/* Rows of a block in a buffer that holds the whole batch. */
static ks_view rows_of(float *whole, const ks_block *b, int64_t cols) {
    return ks_view_f32(whole + (int64_t)b->begin * cols, b->rows, cols);
}

static ks_view x_rows(const ks_run *run, const ks_block *b) {
    return rows_of(run->x, b, run->config->d_model);
}

static int64_t q_cols(const ks_config *c) {
    return (int64_t)c->n_heads * c->head_dim;
}

static int64_t kv_cols(const ks_config *c) {
    return (int64_t)c->n_kv_heads * c->head_dim;
}

static ks_status embed(ks_run *run, const ks_lane *lane, const ks_block *b,
                       ks_err *err) {
    const ks_config *c = run->config;
    ks_view x = x_rows(run, b);
    if (run->inputs)
        return run->ops->copy(lane->dev, x.data,
                              run->inputs + (int64_t)b->begin * x.cols,
                              (size_t)(x.rows * x.cols) * sizeof(float), err);
    return run->ops->embed(lane->dev, x, run->weights->embed,
                           run->ids + b->begin, c->embed_scale, err);
}

ks_trace ks__trace_at(const ks_trace *trace, const ks_config *c, int64_t n,
                      int32_t l) {
    ks_trace at = *trace;
    const struct {
        float **data;
        int64_t cols;
    } all[] = {
        {&at.q, q_cols(c)},       {&at.k, kv_cols(c)},
        {&at.v, kv_cols(c)},      {&at.mixed, q_cols(c)},
        {&at.middle, c->d_model}, {&at.raw_q, q_cols(c)},
        {&at.raw_k, kv_cols(c)},  {&at.attn, c->d_model},
        {&at.mlp, c->d_model},    {&at.gate, c->d_ff},
        {&at.up, c->d_ff},
    };
    for (size_t i = 0; trace->all && i < KS_COUNT(all); i++)
        if (*all[i].data) *all[i].data += l * n * all[i].cols;
    return at;
}

/* Where the inner values of layer l are kept; nowhere (NULL) but in a pass that
 * keeps all of them or replays this one. */
static ks_trace trace_of(const ks_run *run, int32_t l) {
    if (!run->trace || !(run->trace->all || run->replay)) return (ks_trace){0};
    return ks__trace_at(run->trace, run->config, run->seqs->n_tok, l);
}

/* Where a value goes: into the trace, or else to its usual place. */
static ks_view kept(const ks_block *b, float *trace, ks_view usual) {
    return trace ? rows_of(trace, b, usual.cols) : usual;
}

/* out = the q or k norm of x; in place, or x from the trace. */
static ks_status qk_norm(ks_run *run, const ks_lane *lane, const float *weight,
                         ks_view out, ks_view x, int32_t heads, ks_err *err) {
    const ks_config *c = run->config;
    if (c->qk_norm == KS_QK_NONE) return KS_OK;
    if (c->qk_norm == KS_QK_HEAD) { /* heads are rows */
        out = ks_view_f32(out.data, out.rows * heads, c->head_dim);
        x = ks_view_f32(x.data, x.rows * heads, c->head_dim);
    }
    return run->ops->norm(lane->dev, out, x, NULL, weight, c->norm_eps, err);
}

/* x += y (NULL: nothing to add) and the input of the next projection: a
 * normed copy in h, or x itself where the model has no norm there. */
static ks_status add_and_norm(ks_run *run, const ks_lane *lane, ks_view x,
                              const ks_view *y, const float *weight, ks_view *h,
                              ks_err *err) {
    ks_status st = KS_OK;
    float eps = run->config->norm_eps;
    if (weight) {
        *h = ks_view_f32(lane->h, x.rows, x.cols);
        KS_TRY(run->ops->norm(lane->dev, *h, x, y, weight, eps, err));
    } else {
        *h = x;
        if (y) KS_TRY(run->ops->add(lane->dev, x, *y, err));
    }
done:
    return st;
}

ks_rope ks__rope_of(const ks_config *c, const ks_weights *w, int32_t l) {
    bool local = c->local[l] && w->inv_freq_local;
    return (ks_rope){
        .inv_freq = local ? w->inv_freq_local : w->inv_freq,
        .scale = local ? w->rope_scale_local : w->rope_scale,
        .rot_dims = c->head_dim,
        .interleaved = c->rope_interleaved,
    };
}

/* From h to the rotated q, k and v of layer l. */
static ks_status project_qkv(ks_run *run, const ks_lane *lane, int32_t l,
                             const ks_block *b, ks_view h, ks_err *err) {
    ks_status st = KS_OK;
    const ks_config *c = run->config;
    const ks_weights *weights = run->weights;
    const ks_layer *w = &weights->layers[l];
    const struct ks_ops *ops = run->ops;
    const ks_trace trace = trace_of(run, l);
    ks_view q = kept(b, trace.q, rows_of(run->q, b, q_cols(c)));
    ks_view k = kept(b, trace.k, rows_of(run->k, b, kv_cols(c)));
    ks_view v = kept(b, trace.v, rows_of(run->v, b, kv_cols(c)));
    ks_rope rope = ks__rope_of(c, weights, l);
    ks_view q_raw = kept(b, trace.raw_q, q);
    ks_view k_raw = kept(b, trace.raw_k, k);
    ks_kv_layer at = {0};
    if (run->keep) at = ks_kv_layer_at(run->kv, l);

    KS_TRY(ops->gemm(lane->dev, q_raw, h, w->wq, w->bq, false, err));
    KS_TRY(ops->gemm(lane->dev, k_raw, h, w->wk, w->bk, false, err));
    KS_TRY(ops->gemm(lane->dev, v, h, w->wv, w->bv, false, err));
    KS_TRY(qk_norm(run, lane, w->q_norm, q, q_raw, c->n_heads, err));
    KS_TRY(qk_norm(run, lane, w->k_norm, k, k_raw, c->n_kv_heads, err));
    KS_TRY(ops->rope(lane->dev, q, k, v, c->head_dim, &rope, &b->seqs,
                     run->keep ? &at : NULL, err));
done:
    return st;
}

/* Ends layer l - 1 (its addition y, NULL at the embedding) and starts layer
 * l; after the last layer only the addition is left to do. */
static ks_status enter_layer(ks_run *run, const ks_lane *lane, int32_t l,
                             const ks_block *b, const ks_view *y, ks_err *err) {
    ks_status st = KS_OK;
    ks_view h, x = x_rows(run, b);
    if (l == run->config->n_layers) {
        if (y) KS_TRY(run->ops->add(lane->dev, x, *y, err));
        goto done;
    }
    KS_TRY(add_and_norm(run, lane, x, y, run->weights->layers[l].attn_norm, &h,
                        err));
    KS_TRY(project_qkv(run, lane, l, b, h, err));
done:
    return st;
}

ks_attn_spec ks__attn_spec(const ks_config *c, const ks_weights *w, int32_t l) {
    return (ks_attn_spec){
        .n_heads = c->n_heads,
        .n_kv_heads = c->n_kv_heads,
        .head_dim = c->head_dim,
        .scale = c->attn_scale,
        .softcap = c->attn_softcap,
        .window = c->window[l],
        .sinks = w->layers[l].sinks,
    };
}

static ks_status attend(ks_run *run, int32_t l, ks_err *err) {
    const ks_config *c = run->config;
    int64_t n = run->seqs->n_tok;
    ks_attn_spec spec = ks__attn_spec(c, run->weights, l);
    ks_kv_layer at = {0};
    const ks_trace t = trace_of(run, l);
    if (run->kv) at = ks_kv_layer_at(run->kv, l);
    return run->ops->attention(
        run->dev, ks_view_f32(t.mixed ? t.mixed : run->mixed, n, q_cols(c)),
        ks_view_f32(t.q ? t.q : run->q, n, q_cols(c)),
        ks_view_f32(t.k ? t.k : run->k, n, kv_cols(c)),
        ks_view_f32(t.v ? t.v : run->v, n, kv_cols(c)), &spec, &run->placed,
        run->kv ? &at : NULL, err);
}

/* Where a block's addition goes: y, or the batch-long buffer that capture
 * pools from. */
static ks_view added_rows(ks_run *run, const ks_lane *lane, ks_stream stream,
                          const ks_block *b) {
    int64_t d = run->config->d_model;
    if (ks__captures(run, stream)) return rows_of(run->added[stream], b, d);
    return ks_view_f32(lane->y, b->rows, d);
}

/* y = the post-norm of x; in place, or x from the trace. */
static ks_status post_norm(ks_run *run, const ks_lane *lane, ks_view y,
                           ks_view x, const float *weight, ks_err *err) {
    if (!weight) return KS_OK;
    return run->ops->norm(lane->dev, y, x, NULL, weight, run->config->norm_eps,
                          err);
}

/* h -> y = (act(h W_gate^T) * h W_up^T) W_down^T */
static ks_status mlp(ks_run *run, const ks_lane *lane, int32_t l,
                     const ks_block *b, ks_view h, ks_view y, ks_err *err) {
    ks_status st = KS_OK;
    const struct ks_ops *ops = run->ops;
    const ks_config *c = run->config;
    const ks_layer *w = &run->weights->layers[l];
    const ks_trace trace = trace_of(run, l);
    ks_view act = ks_view_f32(lane->gate, h.rows, c->d_ff);
    ks_view gate = kept(b, trace.gate, act);
    ks_view up = kept(b, trace.up, ks_view_f32(lane->up, h.rows, c->d_ff));
    ks_view raw = kept(b, trace.mlp, y);
    KS_TRY(ops->gemm(lane->dev, gate, h, w->w_gate, NULL, false, err));
    KS_TRY(ops->gemm(lane->dev, up, h, w->w_up, NULL, false, err));
    if (run->replay && !w->mlp_post_norm) goto done; /* nobody asks for y */
    KS_TRY(ops->gate(lane->dev, act, gate, up, c->act, err));
    KS_TRY(ops->gemm(lane->dev, raw, act, w->w_down, NULL, false, err));
    KS_TRY(post_norm(run, lane, y, raw, w->mlp_post_norm, err));
done:
    return st;
}

/* What follows attention of layer l, up to q, k, v of layer l + 1. */
static ks_status leave_layer(ks_run *run, const ks_lane *lane, int32_t l,
                             const ks_block *b, ks_err *err) {
    ks_status st = KS_OK;
    const ks_config *c = run->config;
    const ks_layer *w = &run->weights->layers[l];
    const ks_trace trace = trace_of(run, l);
    ks_view mixed = kept(b, trace.mixed, rows_of(run->mixed, b, q_cols(c)));
    ks_view h, x = x_rows(run, b), y = added_rows(run, lane, KS_ATTN, b);
    ks_view raw = kept(b, trace.attn, y);
    KS_TRY(run->ops->gemm(lane->dev, raw, mixed, w->wo, w->bo, false, err));
    KS_TRY(post_norm(run, lane, y, raw, w->attn_post_norm, err));
    KS_TRY(add_and_norm(run, lane, x, &y, w->mlp_norm, &h, err));
    if (trace.all)
        KS_TRY(run->ops->copy(lane->dev, rows_of(trace.middle, b, x.cols).data,
                              x.data, (size_t)(x.rows * x.cols) * sizeof(float),
                              err));
    y = added_rows(run, lane, KS_MLP, b);
    KS_TRY(mlp(run, lane, l, b, h, y, err));
    if (!run->replay) KS_TRY(enter_layer(run, lane, l + 1, b, &y, err));
done:
    return st;
}

static ks_view whole(const ks_run *run, float *data) {
    return ks_view_f32(data, run->seqs->n_tok, run->config->d_model);
}

/* A value that is not finite stays in its row of the residual stream for
 * good, so one look after the last layer sees all of them. */
static ks_status check_residual(ks_run *run, int32_t layer, ks_err *err) {
    ks_status st = KS_OK;
    int64_t count = 0, row = -1;
    KS_TRY(run->ops->count_nonfinite(run->dev, whole(run, run->x), &count, &row,
                                     err));
    if (count) st = ks__run_fault_at(run, KS_RESID, layer, row, count, err);
done:
    return st;
}

/* What every block goes through between two attentions: layer l's second
 * half and layer l + 1's first; below 0: the first half of layer -1 - l alone,
 * with the embedding ahead of it unless it is replayed. */
typedef struct stretch {
    ks_run *run;
    int32_t l;
} stretch;

static ks_status walk_block(void *user, ks_dev *dev, int32_t n_lane, int32_t i,
                            ks_err *err) {
    ks_status st = KS_OK;
    const stretch *s = user;
    const ks_block *b = &s->run->blocks[i];
    ks_lane lane = ks__run_lane(s->run, dev, n_lane);
    if (s->l >= 0) return leave_layer(s->run, &lane, s->l, b, err);
    if (!s->run->replay) KS_TRY(embed(s->run, &lane, b, err));
    KS_TRY(enter_layer(s->run, &lane, -1 - s->l, b, NULL, err));
done:
    return st;
}

static ks_status walk_blocks(ks_run *run, int32_t l, ks_err *err) {
    stretch s = {run, l};
    return run->ops->each(run->dev, run->n_lanes, run->n_blocks, walk_block, &s,
                          err);
}

/* The residual stream ahead of layer l, for the way back. */
static ks_status keep_residual(ks_run *run, int32_t l, ks_err *err) {
    ks_view x = whole(run, run->x);
    int64_t size = x.rows * x.cols;
    if (!run->trace) return KS_OK;
    return run->ops->copy(run->dev, run->trace->resid + l * size, x.data,
                          (size_t)size * sizeof(float), err);
}

static ks_status walk_layers(ks_run *run, ks_err *err) {
    ks_status st = KS_OK;
    int32_t n_layers = run->config->n_layers;
    KS_TRY(walk_blocks(run, -1, err));
    if (run->careful) KS_TRY(check_residual(run, 0, err));
    KS_TRY(keep_residual(run, 0, err));
    KS_TRY(ks__gather(run, KS_RESID, 0, whole(run, run->x), err));
    for (int32_t l = 0; l < n_layers; l++) {
        KS_TRY(attend(run, l, err));
        KS_TRY(walk_blocks(run, l, err));
        for (ks_stream s = KS_ATTN; s <= KS_MLP; s++)
            if (ks__captures(run, s))
                KS_TRY(ks__gather(run, s, l, whole(run, run->added[s]), err));
        if (run->careful) KS_TRY(check_residual(run, l + 1, err));
        KS_TRY(keep_residual(run, l + 1, err));
        KS_TRY(ks__gather(run, KS_RESID, l + 1, whole(run, run->x), err));
    }
done:
    return st;
}

static ks_status final_norm(ks_run *run, ks_view x, ks_err *err) {
    return run->ops->norm(run->dev, x, x, NULL, run->weights->final_norm,
                          run->config->norm_eps, err);
}

static ks_view last_rows(const ks_run *run) {
    return ks_view_f32(run->last, run->n_last, run->config->d_model);
}

/* All that a pass queues and nobody waits for. */
static ks_status queue_pass(ks_run *run, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(walk_layers(run, err));
    if (run->n_last > 0) {
        KS_TRY(run->ops->convert(run->dev, run->last, KS_F32,
                                 whole(run, run->x), run->placed_last_rows,
                                 run->n_last, err));
        KS_TRY(final_norm(run, last_rows(run), err));
    }
done:
    return st;
}

static ks_status pass(ks_run *run, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks__graph_pass(run, queue_pass, err));
    KS_TRY(check_residual(run, run->config->n_layers, err));
    KS_TRY(ks__gather_finish(run, err));
    KS_TRY(run->ops->sync(run->dev, err)); /* late errors, while they count */
done:
    return st;
}

/* Names the first faulty layer: the same pass again, looking after every
 * layer. Only a pass that fails pays for it. */
static ks_status find_fault(ks_run *run, ks_err *err) {
    /* what is still under way, and more of what is not finite, is forgotten */
    (void)run->ops->sync(run->dev, NULL);
    run->careful = true;
    return pass(run, err);
}

/* What the buffers cannot hold is the caller's mistake, said with numbers. */
static ks_status check_fits(const ks_run *run, const ks_seqs *seqs,
                            const ks_capture *capture, int32_t n_last,
                            ks_err *err) {
    const ks_run_limits *have = &run->limits;
    if (seqs->n_tok < 1 || seqs->n_tok > have->max_tokens)
        return ks_fail(err, KS_LIMIT,
                       "a batch of %d tokens in buffers for 1 to %d",
                       seqs->n_tok, have->max_tokens);
    if (seqs->n_seq < 1 || seqs->n_seq > seqs->n_tok || n_last < 0 ||
        n_last > have->max_last)
        return ks_fail(err, KS_LIMIT,
                       "%d sequences and %d last rows of a batch of %d tokens "
                       "with buffers for %d last rows",
                       seqs->n_seq, n_last, seqs->n_tok, have->max_last);
    if (seqs->pages && (int64_t)seqs->n_seq * seqs->max_pages > have->max_pages)
        return ks_fail(err, KS_LIMIT,
                       "page tables of %d sequences by %d pages in buffers for "
                       "%lld pages",
                       seqs->n_seq, seqs->max_pages,
                       (long long)have->max_pages);
    if (!capture) return KS_OK;
    if (capture->n_segments > have->max_rows ||
        capture->streams & ~have->streams ||
        capture->positions & ~have->positions || capture->dtype != have->dtype)
        return ks_fail(err, KS_LIMIT,
                       "a capture of %d steps (streams %#x, positions %#x, %s) "
                       "in buffers for %d (%#x, %#x, %s)",
                       capture->n_segments, capture->streams,
                       capture->positions, ks_type_name(capture->dtype),
                       have->max_rows, have->streams, have->positions,
                       ks_type_name(have->dtype));
    return KS_OK;
}

/* Every layer, once more with an eye on each where a value is not finite. */
static ks_status walk(ks_run *run, const ks_seqs *seqs, const int32_t *ids,
                      ks_err *err) {
    ks_status st = KS_OK;
    run->seqs = seqs;
    run->careful = run->replay = false;
    run->n_token_rows = 0;
    run->fault = (ks_fault){.seq = -1};
    if (run->capture) KS_TRY(ks__gather_plan(run, err));
    KS_TRY(ks__stage_batch(run, ids, err));
    st = pass(run, err);
    if (st == KS_NUMERIC && !run->fault.overflow) {
        ks_status again = find_fault(run, err);
        if (again != KS_OK) st = again;
    }
done:
    return st;
}

/* A pass that keeps no trace, with arguments in run but for these. */
static ks_status plain(ks_run *run, const ks_seqs *seqs, const int32_t *ids,
                       int32_t n_last, const int32_t *chosen,
                       ks_view *last_hidden, ks_view *all_hidden, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(check_fits(run, seqs, run->capture, n_last, err));
    run->trace = NULL;
    run->inputs = NULL;
    run->n_last = n_last;
    run->chosen = chosen;
    KS_TRY(walk(run, seqs, ids, err));
    if (last_hidden) *last_hidden = last_rows(run);
    if (all_hidden) {
        *all_hidden = whole(run, run->x);
        KS_TRY(final_norm(run, *all_hidden, err));
    }
    KS_TRY(run->ops->sync(run->dev, err));
done:
    return st;
}

ks_status ks_forward(ks_run *run, const ks_seqs *seqs, const int32_t *ids,
                     ks_kv *kv, const ks_capture *capture, ks_view *last_hidden,
                     ks_view *all_hidden, ks_err *err) {
    run->kv = kv;
    run->keep = kv != NULL;
    run->capture = capture;
    return plain(run, seqs, ids, last_hidden ? seqs->n_seq : 0, NULL,
                 last_hidden, all_hidden, err);
}

ks_status ks_forward_rows(ks_run *run, const ks_seqs *seqs, const int32_t *ids,
                          ks_kv *kv, const int32_t *rows, int32_t n_rows,
                          ks_view *hidden, ks_err *err) {
    run->kv = kv;
    run->keep = kv != NULL;
    run->capture = NULL;
    return plain(run, seqs, ids, n_rows, rows, hidden, NULL, err);
}

ks_status ks_forward_behind(ks_run *run, const ks_seqs *seqs,
                            const int32_t *ids, ks_kv *kv,
                            const ks_capture *capture, ks_view *all_hidden,
                            ks_err *err) {
    run->kv = kv;
    run->keep = false;
    run->capture = capture;
    return plain(run, seqs, ids, 0, NULL, NULL, all_hidden, err);
}

ks_status ks__forward_trace(ks_run *run, const ks_seqs *seqs,
                            const int32_t *ids, const float *inputs,
                            const ks_trace *trace, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(check_fits(run, seqs, NULL, 0, err));
    run->kv = NULL;
    run->keep = false;
    run->capture = NULL;
    run->trace = trace;
    run->inputs = inputs;
    run->n_last = 0;
    KS_TRY(walk(run, seqs, ids, err));
    KS_TRY(run->ops->sync(run->dev, err));
done:
    return st;
}

ks_status ks__forward_replay(ks_run *run, int32_t l, ks_err *err) {
    ks_status st = KS_OK;
    ks_view x = whole(run, run->x);
    int64_t size = x.rows * x.cols;
    run->replay = true;
    KS_TRY(run->ops->copy(run->dev, x.data, run->trace->resid + l * size,
                          (size_t)size * sizeof(float), err));
    KS_TRY(walk_blocks(run, -1 - l, err));
    KS_TRY(attend(run, l, err));
    KS_TRY(walk_blocks(run, l, err));
done:
    run->replay = false;
    return st;
}
