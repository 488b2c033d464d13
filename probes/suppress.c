/* suppress.c - attention suppression, over the forward pass. The chain's keys
 * and values go into a store. A step's own tokens, and all ahead, are what they
 * were, so its variant takes the tokens behind it alone, and finds the rest in
 * the store: variants share its pages, and as many go into a batch as fit.
 */
#include "suppress.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "between.h"

/* What a job holds room for. */
typedef struct room {
    int32_t tokens;   /* of a batch */
    int32_t variants; /* of a batch */
    int32_t pages;    /* of the store, and of a row of the page table */
} room;

struct ks_suppression_job {
    ks_engine *engine;
    ks_run *run; /* NULL before the first chain */
    ks_kv *kv;
    int32_t *list; /* [pages] of the store, in the order of taking */
    room have;

    /* Of the chain in work. */
    const int32_t *ids, *bounds;
    int32_t n;
    double *matrix;
    int32_t last;     /* tokens to compute: all but the chain's last */
    int32_t first;    /* the first of them whose score a variant asks for */
    int32_t *sources; /* [n_sources] steps with tokens that lose something */
    int32_t n_sources;
    float *plain; /* [last] log P(t + 1 | tokens up to t), from first on */

    /* Of a batch of variants. */
    int32_t *batch_ids, *targets; /* [tokens] */
    float *scores;                /* [tokens] */
    int32_t *offsets;             /* [variants + 1] */
    int32_t *past, *hidden;       /* [variants], [variants, 2] */
    int32_t *table;               /* [variants, pages] */
};

/* -------------------------------------------------------------------- chain
 */

/* Tokens that the variant of a step computes. */
static int32_t behind(const ks_suppression_job *job, int32_t step) {
    return job->last - job->bounds[step + 1];
}

static ks_status list_sources(ks_suppression_job *job, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_alloc(&job->sources, (size_t)job->n, sizeof *job->sources,
                    "steps", err));
    for (int32_t j = 0; j < job->n - 1; j++)
        if (job->bounds[j] < job->bounds[j + 1] && behind(job, j) > 0)
            job->sources[job->n_sources++] = j;
    if (job->n_sources > 0) job->first = job->bounds[job->sources[0] + 1];
done:
    return st;
}

static void forget_batch(ks_suppression_job *job) {
    free(job->batch_ids), free(job->targets), free(job->scores);
    free(job->offsets), free(job->past), free(job->hidden), free(job->table);
}

static void forget_chain(ks_suppression_job *job) {
    forget_batch(job);
    free(job->sources), free(job->plain);
    *job = (ks_suppression_job){.engine = job->engine,
                                .run = job->run,
                                .kv = job->kv,
                                .list = job->list,
                                .have = job->have};
}

/* ------------------------------------------------------------------- memory
 */

static ks_run_limits limits_of(const ks_suppression_job *job, room r) {
    return (ks_run_limits){.max_tokens = r.tokens,
                           .max_pages = (int64_t)r.variants * r.pages,
                           .lanes = job->engine->limits.lanes};
}

/* Bytes where they are counted: of the backend, and of the host where that is
 * the same memory. */
static size_t bytes_of(const ks_suppression_job *job, room r) {
    const ks_engine *e = job->engine;
    ks_run_limits limits = limits_of(job, r);
    size_t run = ks_run_bytes(e->ops, &e->model->config, &limits);
    size_t store = (size_t)r.pages * ks_kv_page_bytes(&e->model->config);
    size_t host = ((size_t)r.variants * ((size_t)r.pages + 4) +
                   3 * (size_t)r.tokens + (size_t)job->last) *
                  sizeof(int32_t);
    if (run > SIZE_MAX / 2 || store > SIZE_MAX / 4) return SIZE_MAX;
    return run + store + (e->ops->unified ? host : 0);
}

/* The largest batches that memory holds, no larger than the engine's own unless
 * the chain is. */
static ks_status plan(const ks_suppression_job *job, room *out, ks_err *err) {
    ks_status st = KS_OK;
    int64_t all = 0;
    for (int32_t i = 0; i < job->n_sources; i++)
        all += behind(job, job->sources[i]);
    int32_t most = (int32_t)KS_MIN(all, job->engine->limits.max_tokens);
    int32_t low = job->last, high = KS_MAX(most, low);
    room r = {low, job->n_sources, (job->last + KS_PAGE - 1) / KS_PAGE};
    size_t left = ks__between_room(job->engine);
    KS_CHECK(bytes_of(job, r) <= left, KS_LIMIT,
             "suppression between steps of %d tokens takes %zu bytes, there is "
             "room for %zu",
             job->bounds[job->n], bytes_of(job, r), left);
    while (low < high) {
        r.tokens = low + (high - low + 1) / 2;
        if (bytes_of(job, r) <= left)
            low = r.tokens;
        else
            high = r.tokens - 1;
    }
    r.tokens = low;
    *out = r;
done:
    return st;
}

static void close_buffers(ks_suppression_job *job) {
    ks_run_close(&job->run);
    ks_kv_close(&job->kv);
    free(job->list);
    job->list = NULL;
    job->have = (room){0};
}

/* Buffers with room for the chain; what an earlier one needed is kept where
 * both fit. */
static ks_status reserve(ks_suppression_job *job, ks_err *err) {
    ks_status st = KS_OK;
    const ks_engine *e = job->engine;
    room want, both = job->have;
    KS_TRY(plan(job, &want, err));
    both.tokens = KS_MAX(both.tokens, want.tokens);
    both.variants = KS_MAX(both.variants, want.variants);
    both.pages = KS_MAX(both.pages, want.pages);
    if (bytes_of(job, both) > ks__between_room(e)) both = want;
    if (memcmp(&both, &job->have, sizeof both) == 0) goto done;
    close_buffers(job);
    ks_run_limits limits = limits_of(job, both);
    KS_TRY(ks_run_open(&job->run, e->dev, e->ops, &e->model->config,
                       ks_placed_weights(e->placed), &limits, err));
    KS_TRY(ks_kv_open(&job->kv, e->dev, e->ops, &e->model->config, both.pages,
                      err));
    KS_TRY(ks_alloc(&job->list, (size_t)both.pages, sizeof *job->list, "pages",
                    err));
    for (int32_t i = 0; i < both.pages; i++)
        job->list[i] = ks_kv_page_take(job->kv);
    job->have = both;
done:
    return st;
}

static ks_status open_batch(ks_suppression_job *job, ks_err *err) {
    ks_status st = KS_OK;
    size_t t = (size_t)job->have.tokens, v = (size_t)job->n_sources;
    size_t pages = (size_t)job->have.pages, size = sizeof(int32_t);
    KS_TRY(
        ks_alloc(&job->plain, (size_t)job->last, sizeof(float), "scores", err));
    KS_TRY(ks_alloc(&job->batch_ids, t, size, "a batch", err));
    KS_TRY(ks_alloc(&job->targets, t, size, "a batch", err));
    KS_TRY(ks_alloc(&job->scores, t, sizeof(float), "a batch", err));
    KS_TRY(ks_alloc(&job->offsets, v + 1, size, "a batch", err));
    KS_TRY(ks_alloc(&job->past, v, size, "a batch", err));
    KS_TRY(ks_alloc(&job->hidden, 2 * v, size, "a batch", err));
    KS_TRY(ks_alloc(&job->table, v * pages, size, "page tables", err));
    for (size_t i = 0; i < v; i++)
        memcpy(job->table + i * pages, job->list, pages * size);
done:
    return st;
}

/* ------------------------------------------------------------------- passes
 */

/* The chain as it is: its keys and values into the store, its scores. */
static ks_status run_plain(ks_suppression_job *job, ks_err *err) {
    ks_status st = KS_OK;
    int32_t n = job->last;
    ks_view hidden;
    ks_seqs seqs = {.n_seq = 1,
                    .n_tok = n,
                    .offsets = (int32_t[]){0, n},
                    .past = (int32_t[]){0},
                    .pages = job->list,
                    .max_pages = job->have.pages};
    KS_TRY(ks_forward(job->run, &seqs, job->ids, job->kv, NULL, NULL, &hidden,
                      err));
    hidden.data = (float *)hidden.data + job->first * hidden.stride;
    hidden.rows = n - job->first;
    KS_TRY(ks_run_score(job->run, hidden, job->ids + job->first + 1,
                        job->plain + job->first, err));
done:
    return st;
}

/* Column j from the scores of its variant's tokens. */
static ks_status fill_column(ks_suppression_job *job, int32_t j,
                             const float *scores, ks_err *err) {
    ks_status st = KS_OK;
    const int32_t *bounds = job->bounds;
    int32_t end = bounds[j + 1];
    for (int32_t k = j + 1; k < job->n; k++) {
        double sum = 0;
        for (int32_t t = KS_MAX(bounds[k], end + 1); t < bounds[k + 1]; t++)
            sum += (double)job->plain[t - 1] - (double)scores[t - 1 - end];
        KS_CHECK(isfinite(sum), KS_NUMERIC,
                 "step %d with step %d suppressed: a log-probability is not "
                 "finite",
                 k, j);
        if (bounds[k] < bounds[k + 1])
            job->matrix[(size_t)k * (size_t)job->n + (size_t)j] =
                sum / (bounds[k + 1] - bounds[k]);
    }
done:
    return st;
}

/* Appends the variant of step j as sequence s of the batch. */
static void add_variant(ks_suppression_job *job, int32_t s, int32_t j) {
    int32_t at = job->offsets[s], n = behind(job, j);
    int32_t begin = job->bounds[j], end = job->bounds[j + 1];
    size_t bytes = (size_t)n * sizeof(int32_t);
    memcpy(job->batch_ids + at, job->ids + end, bytes);
    memcpy(job->targets + at, job->ids + end + 1, bytes);
    job->past[s] = end;
    job->hidden[2 * s] = begin;
    job->hidden[2 * s + 1] = end;
    job->offsets[s + 1] = at + n;
}

/* The variants of sources from..: as many as fit; *count: how many. */
static ks_status run_batch(ks_suppression_job *job, int32_t from,
                           int32_t *count, ks_err *err) {
    ks_status st = KS_OK;
    int32_t m = 0;
    ks_view hidden;
    for (; from + m < job->n_sources; m++) {
        int32_t j = job->sources[from + m];
        if (job->offsets[m] + behind(job, j) > job->have.tokens) break;
        add_variant(job, m, j);
    }
    ks_seqs seqs = {.n_seq = m,
                    .n_tok = job->offsets[m],
                    .offsets = job->offsets,
                    .past = job->past,
                    .pages = job->table,
                    .max_pages = job->have.pages,
                    .hidden = job->hidden};
    KS_TRY(ks_forward_behind(job->run, &seqs, job->batch_ids, job->kv, NULL,
                             &hidden, err));
    KS_TRY(ks_run_score(job->run, hidden, job->targets, job->scores, err));
    for (int32_t s = 0; s < m; s++)
        KS_TRY(fill_column(job, job->sources[from + s],
                           job->scores + job->offsets[s], err));
    *count = m;
done:
    return st;
}

ks_status ks_suppression_of(ks_suppression_job *job, const int32_t *ids,
                            int32_t n_tokens, const int32_t *bounds, int32_t n,
                            double *matrix, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks__between_check(job->engine, "suppression", ids, n_tokens, bounds,
                             n, err));
    job->ids = ids;
    job->bounds = bounds;
    job->n = n;
    job->matrix = matrix;
    job->last = bounds[n] - 1;
    memset(matrix, 0, (size_t)n * (size_t)n * sizeof *matrix);
    KS_TRY(list_sources(job, err));
    if (job->n_sources == 0) goto done;
    KS_TRY(reserve(job, err));
    KS_TRY(open_batch(job, err));
    KS_TRY(run_plain(job, err));
    for (int32_t from = 0, m; from < job->n_sources; from += m) {
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
        KS_TRY(run_batch(job, from, &m, err));
    }
done:
    forget_chain(job);
    return st;
}

ks_status ks_suppression_bytes(ks_suppression_job *job, const int32_t *bounds,
                               int32_t n, size_t *bytes, ks_err *err) {
    ks_status st = KS_OK;
    room r;
    job->bounds = bounds;
    job->n = n;
    job->last = bounds[n] - 1;
    *bytes = 0;
    KS_TRY(list_sources(job, err));
    if (job->n_sources == 0) goto done;
    KS_TRY(plan(job, &r, err));
    *bytes = bytes_of(job, r);
done:
    forget_chain(job);
    return st;
}

/* --------------------------------------------------------------- open, close
 */

ks_status ks_suppression_open(ks_suppression_job **out, ks_engine *engine,
                              ks_err *err) {
    ks_status st = KS_OK;
    ks_suppression_job *job = NULL;
    *out = NULL;
    KS_TRY(ks__engine_place(engine, err));
    KS_TRY(ks_alloc(&job, 1, sizeof *job, "suppression", err));
    job->engine = engine;
    *out = job;
done:
    return st;
}

void ks_suppression_close(ks_suppression_job **job) {
    if (!*job) return;
    close_buffers(*job);
    free(*job);
    *job = NULL;
}
