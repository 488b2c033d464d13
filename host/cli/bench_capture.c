/* bench_capture.c - keystep bench capture: what the forward costs beside its
 * matrix products, and what capture adds to it. All of them go through the
 * same batches in turn, a batch at a time, so that a processor whose clock
 * wanders slows them alike. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "../capture_share.h"
#include "../run.h"
#include "bench.h"

/* What runs in turn. POOLED: resid at the five pooled positions; ALL: every
 * stream at every position, tokens too. */
typedef enum kind { PRODUCTS, FORWARD, POOLED, ALL, N_KINDS } kind;

static const char *const kind_names[N_KINDS] = {"products", "forward", "pooled",
                                                "all"};

typedef struct capture_bench {
    ks_bench *bench;
    ks_bench_source source;
    ks_capture_job *job[N_KINDS]; /* of the two captures */
    char *path[N_KINDS];          /* of the files that they write */
    bool mine[N_KINDS];           /* nothing lay there before */
    unsigned turn;                /* batches so far */
    ks_buf in, out;          /* of the bare products, a block for each lane */
    int64_t widest;          /* columns of both */
    ks__share *share;        /* of the forward alone */
    ks__share_group *groups; /* of a batch */
    int32_t *work;
    double *seconds[N_KINDS];       /* [pairs] */
    ks_capture_pass *pass[N_KINDS]; /* of the captures in work */
    uint64_t bytes[N_KINDS];        /* of the file */
} capture_bench;

static ks_status open_job(capture_bench *b, kind what, const char *name,
                          uint32_t streams, uint32_t positions, ks_err *err) {
    ks_status st = KS_OK;
    const ks_cli_common *c = &b->bench->in->common;
    ks_capture_options options = {.model = b->source.model,
                                  .chains = b->source.chains,
                                  .streams = streams,
                                  .positions = positions,
                                  .dtype = KS_BF16,
                                  .force = true,
                                  .random_weights = -1,
                                  .engine = {.backend = c->backend,
                                             .threads = c->threads,
                                             .batch_tokens = c->batch_tokens}};
    KS_TRY(ks_path_join(&b->path[what], b->bench->in->dir, name, err));
    KS_TRY(ks_refuse_existing(b->path[what], false, err));
    b->mine[what] = true;
    options.out = b->path[what];
    KS_TRY(ks_capture_open(&b->job[what], &options, err));
done:
    return st;
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
    int64_t at =
        (int64_t)lane * ks__row_block(b->job[POOLED]->engine->ops) * b->widest;
    float *in = (float *)b->in.data + at, *out = (float *)b->out.data + at;
    for (size_t j = 0; j < KS_COUNT(all); j++)
        KS_TRY(b->job[POOLED]->engine->ops->gemm(
            dev, ks_view_f32(out, n, all[j]->rows),
            ks_view_f32(in, n, all[j]->cols), *all[j], NULL, false, err));
done:
    return st;
}

/* As the forward walks a batch of n tokens: layer by layer, in row blocks. */
static ks_status batch_products(const capture_bench *b, int32_t n,
                                ks_err *err) {
    ks_status st = KS_OK;
    const ks_engine *e = b->job[POOLED]->engine;
    products p = {.bench = b, .n = n, .rows = ks__run_rows(e->run, n)};
    for (int32_t l = 0; l < e->model->config.n_layers; l++) {
        p.layer = &e->run->weights->layers[l];
        KS_TRY(e->ops->each(e->dev, ks__run_lanes(e->run, n),
                            (n + p.rows - 1) / p.rows, block_products, &p,
                            err));
    }
done:
    return st;
}

/* As a capture computes it: what chains share, once. */
static ks_status batch_forward(const capture_bench *b, size_t from, size_t to,
                               ks_err *err) {
    ks_status st = KS_OK;
    ks_batch tokens;
    const ks_stored *stored;
    int32_t faulty;
    KS_TRY(ks__share_batch(b->share, from, to, &tokens, &stored, &faulty, err));
    KS_TRY(ks__engine_run_behind(b->job[POOLED]->engine, &tokens, stored, NULL,
                                 err));
done:
    return st;
}

/* Rows that the batch has of its own; the shared ones are few. */
static int32_t own_rows(const capture_bench *b, size_t from, size_t to,
                        int32_t tokens) {
    int32_t n = ks__share_groups(b->job[POOLED], from, to, b->groups, b->work);
    for (int32_t g = 0; g < n; g++)
        tokens -= b->groups[g].n * b->groups[g].n_tokens;
    return tokens;
}

/* One batch of a kind; a capture's waits for its own bytes, and a device for
 * what is queued, so that nothing is charged to what comes next. */
static ks_status run_batch(const capture_bench *b, kind what, size_t from,
                           size_t to, int32_t tokens, ks_err *err) {
    ks_status st = KS_OK;
    const ks_engine *e = b->job[POOLED]->engine;
    bool more;
    if (what == PRODUCTS) {
        KS_TRY(batch_products(b, own_rows(b, from, to, tokens), err));
    } else if (what == FORWARD) {
        KS_TRY(batch_forward(b, from, to, err));
    } else {
        KS_TRY(ks_capture_step(b->pass[what], &more, err));
        KS_TRY(ks_capture_sync(b->pass[what], err));
    }
    KS_TRY(e->ops->sync(e->dev, err));
done:
    return st;
}

/* Making the file (begin) or finishing it, timed; nothing for the others. */
static ks_status begin_or_end(capture_bench *b, kind what, bool begin,
                              double *seconds, ks_err *err) {
    ks_status st = KS_OK;
    struct stat info;
    if (what < POOLED) return KS_OK;
    double start = ks_seconds();
    if (begin)
        KS_TRY(ks_capture_begin(&b->pass[what], b->job[what], NULL, err));
    else
        KS_TRY(ks_capture_end(&b->pass[what], err));
    *seconds += ks_seconds() - start;
    if (begin) goto done;
    b->bytes[what] =
        stat(b->path[what], &info) == 0 ? (uint64_t)info.st_size : 0;
    ks_bench_remove(b->path[what]);
done:
    return st;
}

/* All chains once with every kind; each leads in its turn. */
static ks_status run_pair(capture_bench *b, double seconds[N_KINDS],
                          ks_err *err) {
    ks_status st = KS_OK;
    const ks_capture_job *job = b->job[POOLED];
    int32_t tokens, steps;
    for (kind k = 0; k < N_KINDS; k++) {
        seconds[k] = 0;
        KS_TRY(begin_or_end(b, k, true, &seconds[k], err));
    }
    for (size_t from = 0, to; from < job->n_seqs; from = to, b->turn++) {
        to = ks__capture_batch_end(job, from, &tokens, &steps);
        for (kind k = 0; k < N_KINDS; k++) {
            kind now = (k + b->turn) % N_KINDS;
            double start = ks_seconds();
            KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
            KS_TRY(run_batch(b, now, from, to, tokens, err));
            seconds[now] += ks_seconds() - start;
        }
    }
    for (kind k = 0; k < N_KINDS; k++)
        KS_TRY(begin_or_end(b, k, false, &seconds[k], err));
done:
    for (kind k = 0; k < N_KINDS; k++) ks_capture_drop(&b->pass[k]);
    return st;
}

/* -------------------------------------------------------------------- table */

typedef struct row {
    json_t *pair; /* taken over */
    double seconds, share, over, low, high;
} row;

static ks_status add_row(const capture_bench *b, kind what, row r,
                         ks_err *err) {
    const ks_capture_job *job = b->job[POOLED];
    int64_t tokens = job->cost.tokens;
    return ks_bench_row(
        b->bench,
        json_pack(
            "{s:s,s:o,s:s,s:i,s:i,s:I,s:f,s:f,s:f,s:f,s:o,s:o,s:I}", "what",
            kind_names[what], "pair", r.pair, "model", job->engine->model->name,
            "layers", job->engine->model->config.n_layers, "width",
            job->engine->model->config.d_model, "tokens", (json_int_t)tokens,
            "seconds", r.seconds, "tokens_per_s", (double)tokens / r.seconds,
            "products_share", r.share, "over_forward", r.over,
            "over_forward_low", ks_bench_real(r.low), "over_forward_high",
            ks_bench_real(r.high), "file_bytes", (json_int_t)b->bytes[what]),
        err);
}

static ks_status pair_row(const capture_bench *b, kind what, int pair,
                          ks_err *err) {
    double s = b->seconds[what][pair];
    row r = {.pair = json_integer(pair + 1),
             .seconds = s,
             .share = b->seconds[PRODUCTS][pair] / s,
             .over = s / b->seconds[FORWARD][pair] - 1,
             .low = NAN,
             .high = NAN};
    return add_row(b, what, r, err);
}

/* Medians, and the mean of what a kind takes over the forward, paired. */
static ks_status summary_row(const capture_bench *b, kind what, int pairs,
                             double *work, ks_err *err) {
    double *over = work, *share = work + pairs, *times = work + 2 * pairs;
    for (int i = 0; i < pairs; i++) {
        times[i] = b->seconds[what][i];
        over[i] = times[i] / b->seconds[FORWARD][i] - 1;
        share[i] = b->seconds[PRODUCTS][i] / times[i];
    }
    ks_spread o = ks_bench_spread(over, pairs);
    row r = {.pair = json_string("all"),
             .seconds = ks_bench_spread(times, pairs).median,
             .share = ks_bench_spread(share, pairs).median,
             .over = o.mean,
             .low = o.low,
             .high = o.high};
    return add_row(b, what, r, err);
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
    float *x = NULL;
    const uint32_t five = (1u << KS_TOKENS) - 1;
    KS_TRY(ks_bench_source_open(&b->source, b->bench->in,
                                "keystep-bench-chains.jsonl", 30, err));
    KS_TRY(open_job(b, POOLED, "keystep-bench.h5", 1u << KS_RESID, five, err));
    KS_TRY(open_job(b, ALL, "keystep-bench-all.h5", (1u << KS_N_STREAMS) - 1,
                    (1u << KS_N_POSITIONS) - 1, err));
    const ks_engine *e = b->job[POOLED]->engine;
    const ks_config *c = &e->model->config;
    b->widest = KS_MAX(KS_MAX(c->d_ff, c->d_model), c->n_heads * c->head_dim);
    int64_t n = b->widest * ks__row_block(e->ops) * ks_dev_lanes(e->dev);
    size_t size = (size_t)n * sizeof(float);
    KS_TRY(e->ops->alloc(e->dev, &b->in, size, "the products", err));
    KS_TRY(e->ops->alloc(e->dev, &b->out, size, "the products", err));
    KS_TRY(ks_alloc(&x, (size_t)n, sizeof *x, "the products", err));
    for (int64_t i = 0; i < n; i++) x[i] = (float)(i % 97) / 97;
    KS_TRY(e->ops->copy(e->dev, b->in.data, x, size, err));
    KS_TRY(e->ops->sync(e->dev, err));
    size_t n_seqs = b->job[POOLED]->max_seqs;
    KS_TRY(
        ks__share_open(&b->share, b->job[POOLED], b->job[POOLED]->engine, err));
    KS_TRY(ks_alloc(&b->groups, n_seqs, sizeof *b->groups, "a batch", err));
    KS_TRY(
        ks_alloc(&b->work, 2 * (n_seqs + 1), sizeof *b->work, "a batch", err));
    for (kind k = 0; k < N_KINDS; k++)
        KS_TRY(ks_alloc(&b->seconds[k], (size_t)pairs, sizeof(double),
                        "the figures", err));
done:
    free(x);
    return st;
}

static void close_bench(capture_bench *b) {
    const ks_engine *e = b->job[POOLED] ? b->job[POOLED]->engine : NULL;
    if (e && b->in.data) e->ops->free(e->dev, &b->in);
    if (e && b->out.data) e->ops->free(e->dev, &b->out);
    ks__share_close(&b->share);
    for (kind k = 0; k < N_KINDS; k++) {
        ks_capture_close(&b->job[k]);
        if (b->mine[k]) ks_bench_remove(b->path[k]);
        free(b->path[k]);
        free(b->seconds[k]);
    }
    ks_bench_source_close(&b->source);
    free(b->groups);
    free(b->work);
}

ks_status ks_bench_capture(ks_bench *bench, ks_err *err) {
    ks_status st = KS_OK;
    capture_bench b = {.bench = bench};
    int pairs = bench->in->repeats;
    KS_TRY(open_bench(&b, pairs, err));
    /* the first pair, which makes the buffers and maps the weights, is not
     * counted */
    for (int i = -1; i < pairs; i++) {
        double seconds[N_KINDS];
        KS_TRY(run_pair(&b, seconds, err));
        for (kind k = 0; i >= 0 && k < N_KINDS; k++)
            b.seconds[k][i] = seconds[k];
        ks_log(KS_LOG_INFO, "pair %d of %d: %.3f s, %.3f s, %.3f s, %.3f s",
               i + 1, pairs, seconds[PRODUCTS], seconds[FORWARD],
               seconds[POOLED], seconds[ALL]);
    }
    KS_TRY(write_rows(&b, pairs, err));
done:
    close_bench(&b);
    return st;
}
