/* bench_capture.c - keystep bench capture: what the forward costs beside its
 * matrix products, and what capture adds to it, in interleaved runs over the
 * same batches. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "../capture.h"
#include "../run.h"
#include "bench.h"

/* What runs in turn. POOLED: resid at the five pooled positions; ALL: every
 * stream at every position, tokens too. */
typedef enum kind { PRODUCTS, FORWARD, POOLED, ALL, N_KINDS } kind;

static const char *const kind_names[N_KINDS] = {"products", "forward", "pooled",
                                                "all"};

typedef struct capture_bench {
    ks_bench *bench;
    ks_capture_job *pooled, *all;
    char *path;               /* of the file that captures write */
    bool mine;                /* nothing lay there before */
    ks_buf in, out;           /* of the bare products, a block for each lane */
    int64_t widest;           /* columns of both */
    int32_t *offsets;         /* [n_seqs + 1] of a batch */
    double *seconds[N_KINDS]; /* [pairs] */
    uint64_t bytes[N_KINDS];  /* of the file */
} capture_bench;

static ks_status open_job(ks_capture_job **job, const capture_bench *b,
                          uint32_t streams, uint32_t positions, ks_err *err) {
    const ks_cli_common *c = &b->bench->in->common;
    ks_capture_options options = {
        .model = c->model,
        .chains = c->chains,
        .out = b->path,
        .streams = streams,
        .positions = positions,
        .dtype = KS_BF16,
        .force = true,
        .random_weights = -1,
        .engine = {.threads = c->threads, .batch_tokens = c->batch_tokens}};
    return ks_capture_open(job, &options, err);
}

/* ------------------------------------------------------- the forward's parts
 */

/* The products of one layer on a batch of n tokens, in row blocks. */
typedef struct products {
    const capture_bench *bench;
    const ks_layer *layer;
    int32_t n, rows;
} products;

/* One block, each product from the same rows into the same place: what they
 * hold does not matter. */
static ks_status block_products(void *user, ks_dev *dev, int32_t lane,
                                int32_t i, ks_err *err) {
    ks_status st = KS_OK;
    const products *p = user;
    const capture_bench *b = p->bench;
    const ks_layer *w = p->layer;
    const ks_weight *all[] = {&w->wq,     &w->wk,   &w->wv,    &w->wo,
                              &w->w_gate, &w->w_up, &w->w_down};
    int64_t n = KS_MIN(p->rows, p->n - i * p->rows);
    int64_t at = lane * KS_ROW_BLOCK * b->widest;
    float *in = (float *)b->in.data + at, *out = (float *)b->out.data + at;
    for (size_t j = 0; j < KS_COUNT(all); j++)
        KS_TRY(b->pooled->engine->ops->gemm(
            dev, ks_view_f32(out, n, all[j]->rows),
            ks_view_f32(in, n, all[j]->cols), *all[j], NULL, false, err));
done:
    return st;
}

/* As the forward walks a batch of n tokens: layer by layer, in row blocks. */
static ks_status batch_products(const capture_bench *b, int32_t n,
                                ks_err *err) {
    ks_status st = KS_OK;
    const ks_engine *e = b->pooled->engine;
    products p = {.bench = b, .n = n, .rows = ks__run_rows(e->run, n)};
    for (int32_t l = 0; l < e->model->config.n_layers; l++) {
        p.layer = &e->model->weights.layers[l];
        KS_TRY(e->ops->each(e->dev, ks__run_lanes(e->run, n),
                            (n + p.rows - 1) / p.rows, block_products, &p,
                            err));
    }
done:
    return st;
}

static ks_status batch_forward(const capture_bench *b, size_t from, size_t to,
                               ks_err *err) {
    const ks_capture_job *job = b->pooled;
    for (size_t s = from; s < to; s++)
        b->offsets[s - from + 1] = b->offsets[s - from] + job->seqs[s].n_tokens;
    ks_batch tokens = {.n_seq = (int32_t)(to - from),
                       .offsets = b->offsets,
                       .ids = job->ids + job->seqs[from].token};
    return ks_engine_run(job->engine, &tokens, NULL, err);
}

/* The capture's own batches, without a capture. */
static ks_status run_plain(const capture_bench *b, kind what, ks_err *err) {
    ks_status st = KS_OK;
    const ks_capture_job *job = b->pooled;
    for (size_t from = 0, to; from < job->n_seqs; from = to) {
        int32_t tokens, steps;
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
        to = ks__capture_batch_end(job, from, &tokens, &steps);
        if (what == PRODUCTS)
            KS_TRY(batch_products(b, tokens, err));
        else
            KS_TRY(batch_forward(b, from, to, err));
    }
done:
    return st;
}

static ks_status run_kind(capture_bench *b, kind what, double *seconds,
                          ks_err *err) {
    ks_status st = KS_OK;
    double start = ks_seconds();
    if (what == PRODUCTS || what == FORWARD)
        KS_TRY(run_plain(b, what, err));
    else
        KS_TRY(ks_capture_run(what == ALL ? b->all : b->pooled, NULL, NULL,
                              NULL, err));
    *seconds = ks_seconds() - start;
    if (what != PRODUCTS && what != FORWARD) {
        struct stat info;
        b->bytes[what] = stat(b->path, &info) == 0 ? (uint64_t)info.st_size : 0;
        ks_bench_remove(b->path);
    }
done:
    return st;
}

/* -------------------------------------------------------------------- table */

static ks_status pair_row(const capture_bench *b, kind what, int pair,
                          ks_err *err) {
    double s = b->seconds[what][pair], forward = b->seconds[FORWARD][pair];
    int64_t tokens = b->pooled->cost.tokens;
    return ks_bench_row(
        b->bench,
        json_pack("{s:s,s:i,s:I,s:f,s:f,s:f,s:f,s:n,s:n,s:I}", "what",
                  kind_names[what], "pair", pair + 1, "tokens",
                  (json_int_t)tokens, "seconds", s, "tokens_per_s",
                  (double)tokens / s, "products_share",
                  b->seconds[PRODUCTS][pair] / s, "over_forward",
                  s / forward - 1, "over_forward_low", "over_forward_high",
                  "file_bytes", (json_int_t)b->bytes[what]),
        err);
}

/* Medians, and the mean of what a kind takes over the forward, paired. */
static ks_status summary_row(const capture_bench *b, kind what, int pairs,
                             double *work, ks_err *err) {
    int64_t tokens = b->pooled->cost.tokens;
    double *over = work, *share = work + pairs, *times = work + 2 * pairs;
    for (int i = 0; i < pairs; i++) {
        times[i] = b->seconds[what][i];
        over[i] = times[i] / b->seconds[FORWARD][i] - 1;
        share[i] = b->seconds[PRODUCTS][i] / times[i];
    }
    ks_spread s = ks_bench_spread(times, pairs);
    ks_spread o = ks_bench_spread(over, pairs);
    json_t *low = isfinite(o.low) ? json_real(o.low) : json_null();
    json_t *high = isfinite(o.high) ? json_real(o.high) : json_null();
    return ks_bench_row(
        b->bench,
        json_pack("{s:s,s:s,s:I,s:f,s:f,s:f,s:f,s:o,s:o,s:I}", "what",
                  kind_names[what], "pair", "all", "tokens", (json_int_t)tokens,
                  "seconds", s.median, "tokens_per_s",
                  (double)tokens / s.median, "products_share",
                  ks_bench_spread(share, pairs).median, "over_forward", o.mean,
                  "over_forward_low", low, "over_forward_high", high,
                  "file_bytes", (json_int_t)b->bytes[what]),
        err);
}

static ks_status write_rows(const capture_bench *b, int pairs, ks_err *err) {
    ks_status st = KS_OK;
    double *work = NULL;
    KS_TRY(
        ks_alloc(&work, 3 * (size_t)pairs, sizeof *work, "the figures", err));
    for (int i = 0; i < pairs; i++)
        for (kind k = 0; k < N_KINDS; k++) KS_TRY(pair_row(b, k, i, err));
    for (kind k = 0; k < N_KINDS; k++)
        KS_TRY(summary_row(b, k, pairs, work, err));
done:
    free(work);
    return st;
}

/* ------------------------------------------------------------------- command
 */

static ks_status open_bench(capture_bench *b, int pairs, ks_err *err) {
    ks_status st = KS_OK;
    const uint32_t five = (1u << KS_TOKENS) - 1;
    KS_TRY(ks_path_join(&b->path, b->bench->in->dir, "keystep-bench.h5", err));
    KS_TRY(ks_refuse_existing(b->path, false, err));
    b->mine = true;
    KS_TRY(open_job(&b->pooled, b, 1u << KS_RESID, five, err));
    KS_TRY(open_job(&b->all, b, (1u << KS_N_STREAMS) - 1,
                    (1u << KS_N_POSITIONS) - 1, err));
    const ks_engine *e = b->pooled->engine;
    const ks_config *c = &e->model->config;
    b->widest = KS_MAX(KS_MAX(c->d_ff, c->d_model), c->n_heads * c->head_dim);
    int64_t values = b->widest * KS_ROW_BLOCK * ks_dev_lanes(e->dev);
    size_t size = (size_t)values * sizeof(float);
    KS_TRY(e->ops->alloc(e->dev, &b->in, size, "the products", err));
    KS_TRY(e->ops->alloc(e->dev, &b->out, size, "the products", err));
    float *x = b->in.data;
    for (int64_t i = 0; i < values; i++) x[i] = (float)(i % 97) / 97;
    KS_TRY(ks_alloc(&b->offsets, b->pooled->n_seqs + 1, sizeof *b->offsets,
                    "a batch", err));
    for (kind k = 0; k < N_KINDS; k++)
        KS_TRY(ks_alloc(&b->seconds[k], (size_t)pairs, sizeof(double),
                        "the figures", err));
done:
    return st;
}

static void close_bench(capture_bench *b) {
    const ks_engine *e = b->pooled ? b->pooled->engine : NULL;
    if (e && b->in.data) e->ops->free(e->dev, &b->in);
    if (e && b->out.data) e->ops->free(e->dev, &b->out);
    ks_capture_close(&b->pooled);
    ks_capture_close(&b->all);
    for (kind k = 0; k < N_KINDS; k++) free(b->seconds[k]);
    free(b->offsets);
    if (b->mine) ks_bench_remove(b->path);
    free(b->path);
}

ks_status ks_bench_capture(ks_bench *bench, ks_err *err) {
    ks_status st = KS_OK;
    capture_bench b = {.bench = bench};
    int pairs = bench->in->repeats;
    double warm;
    KS_CHECK(bench->in->common.model && bench->in->common.chains, KS_USAGE,
             "bench capture needs --model and --chains");
    KS_TRY(open_bench(&b, pairs, err));
    /* the forward first: it makes the run, whose blocks the products take */
    for (kind k = FORWARD; k < N_KINDS; k++)
        KS_TRY(run_kind(&b, k, &warm, err));
    KS_TRY(run_kind(&b, PRODUCTS, &warm, err));
    for (int i = 0; i < pairs; i++)
        for (kind k = 0; k < N_KINDS; k++) { /* each leads in its turn */
            kind now = (k + (kind)i) % N_KINDS;
            KS_TRY(run_kind(&b, now, &b.seconds[now][i], err));
            ks_log(KS_LOG_INFO, "pair %d of %d: %s %.3f s", i + 1, pairs,
                   kind_names[now], b.seconds[now][i]);
        }
    KS_TRY(write_rows(&b, pairs, err));
done:
    close_bench(&b);
    return st;
}
