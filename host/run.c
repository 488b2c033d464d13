/* run.c - what a forward pass holds, sized before the first token: one arena in
 * the backend's memory for what ops touch, one in host memory for the rest. */
#include "run.h"

#include <stdlib.h>
#include <string.h>

#include "carve.h"

/* Lanes that walk a batch of n tokens side by side. */
static int32_t lanes_of(const ks_run_limits *limits, size_t n) {
    bool worth = n / KS_LANE_ROWS >= (size_t)limits->lanes;
    return worth ? KS_MAX(limits->lanes, 1) : 1;
}

/* Blocks of a batch: as many for every lane, or one lane would wait. */
static size_t blocks_of(const ks_run *run, size_t n) {
    size_t lanes = (size_t)lanes_of(&run->limits, n);
    size_t rows = lanes * (size_t)ks__row_block(run->ops);
    return (n + rows - 1) / rows * lanes;
}

/* Rows of buffers that the lanes of any batch up to n tokens share. */
static size_t most_lane_rows(const ks_run *run, size_t n) {
    size_t lanes = (size_t)lanes_of(&run->limits, n);
    size_t block = (size_t)ks__row_block(run->ops);
    return KS_MAX(KS_MIN(n, block), KS_MIN(n + lanes, lanes * block));
}

/* Of any batch up to n tokens: a shorter one may be cut for more lanes. */
static size_t most_blocks(const ks_run *run, size_t n) {
    return n / (size_t)ks__row_block(run->ops) + 1 +
           (size_t)KS_MAX(run->limits.lanes, 1);
}

/* Rows of one layer of one stream, on the backend and (another call) in host
 * memory. */
static void lay_out_rows(void *rows[KS_N_POSITIONS], const ks_config *c,
                         const ks_run_limits *limits, ks_carver *a) {
    size_t n = (size_t)limits->max_tokens, d = (size_t)c->d_model;
    for (int p = 0; p < KS_N_POSITIONS; p++)
        if (limits->streams && limits->positions & (1u << p))
            rows[p] = ks__carve(
                a, (p == KS_TOKENS ? n : (size_t)limits->max_rows) * d,
                ks_type_size(limits->dtype));
}

/* The one list of what a run holds in the backend's memory. */
static void lay_out(ks_run *run, const ks_config *c,
                    const ks_run_limits *limits, ks_carver *a) {
    size_t n = (size_t)limits->max_tokens, d = (size_t)c->d_model;
    size_t heads = (size_t)c->n_heads * (size_t)c->head_dim;
    size_t groups = (size_t)c->n_kv_heads * (size_t)c->head_dim;
    size_t lane_rows = most_lane_rows(run, n);

    run->x = ks__carve_f32(a, n, d);
    run->q = ks__carve_f32(a, n, heads);
    run->k = ks__carve_f32(a, n, groups);
    run->v = ks__carve_f32(a, n, groups);
    run->mixed = ks__carve_f32(a, n, heads);
    run->h = ks__carve_f32(a, lane_rows, d);
    run->y = ks__carve_f32(a, lane_rows, d);
    run->gate = ks__carve_f32(a, lane_rows, (size_t)c->d_ff);
    run->up = ks__carve_f32(a, lane_rows, (size_t)c->d_ff);
    for (int s = KS_ATTN; s <= KS_MLP; s++)
        if (limits->streams & (1u << s)) run->added[s] = ks__carve_f32(a, n, d);
    run->last = ks__carve_f32(a, (size_t)limits->max_last, d);
    for (int i = 0; i < run->n_parcels; i++)
        lay_out_rows(run->parcels[i].pooled, c, limits, a);
    if (run->ops->unified) return;
    run->picked = ks__carve(a, n, sizeof *run->picked);
    run->logprobs = ks__carve(a, n, sizeof *run->logprobs);
    run->shares = ks__carve(a, n, sizeof *run->shares);
    run->stage.device = ks__carve(a, run->stage.size, 1);
}

/* And in host memory. */
static void lay_out_host(ks_run *run, const ks_run_limits *limits,
                         ks_carver *a) {
    size_t n = (size_t)limits->max_tokens;
    run->pool_rows =
        ks__carve(a, (size_t)limits->max_rows, sizeof(ks_pool_row));
    run->token_rows = ks__carve(a, n, sizeof(int32_t));
    run->last_rows = ks__carve(a, (size_t)limits->max_last, sizeof(int32_t));
    /* A block's list of sequences is one longer than their number, and a
     * sequence that a block boundary cuts stands in both lists. */
    size_t blocks = most_blocks(run, n);
    run->blocks = ks__carve(a, blocks, sizeof(ks_block));
    run->block_offsets = ks__carve(a, n + 2 * blocks, sizeof(int32_t));
    run->block_past = ks__carve(a, n + 2 * blocks, sizeof(int32_t));
    if (run->ops->unified) {
        memcpy(run->parcels[0].rows, run->parcels[0].pooled,
               sizeof run->parcels[0].rows);
        return;
    }
    run->stage.host = ks__carve(a, run->stage.size, 1);
}

/* And in host memory that the backend copies to. */
static void lay_out_landing(ks_run *run, const ks_config *c,
                            const ks_run_limits *limits, ks_carver *a) {
    for (int i = 0; !run->ops->unified && i < run->n_parcels; i++)
        lay_out_rows(run->parcels[i].rows, c, limits, a);
}

/* What the lists need to know of a run. */
static void plan(ks_run *run, const struct ks_ops *ops, const ks_config *config,
                 const ks_run_limits *limits) {
    run->ops = ops;
    run->limits = *limits;
    run->n_parcels = 1;
    if (ops->unified) return;
    run->n_parcels = 2 * __builtin_popcount(limits->streams);
    run->stage.size = ks__stage_bytes(
        limits, config, most_blocks(run, (size_t)limits->max_tokens));
}

size_t ks_run_bytes(const struct ks_ops *ops, const ks_config *config,
                    const ks_run_limits *limits) {
    ks_run scratch = {0};
    ks_carver a = {0}, h = {0};
    plan(&scratch, ops, config, limits);
    lay_out(&scratch, config, limits, &a);
    lay_out_host(&scratch, limits, &h);
    if (a.overflow || h.overflow) return SIZE_MAX;
    return a.used + (ops->unified ? h.used : 0);
}

static ks_status check_limits(const ks_run_limits *limits, ks_err *err) {
    if (limits->max_tokens < 1 || limits->max_rows < 0 ||
        limits->max_last < 0 || limits->max_pages < 0)
        return ks_fail(err, KS_USAGE,
                       "a run needs at least one token and no negative limit, "
                       "got %d tokens, %d rows, %d last rows",
                       limits->max_tokens, limits->max_rows, limits->max_last);
    if (limits->streams && limits->dtype != KS_F32 && limits->dtype != KS_F16 &&
        limits->dtype != KS_BF16)
        return ks_fail(err, KS_USAGE,
                       "activations are kept as f32, f16 or bf16, not %s",
                       ks_type_name(limits->dtype));
    return KS_OK;
}

ks_status ks_run_open(ks_run **out, ks_dev *dev, const struct ks_ops *ops,
                      const ks_config *config, const ks_weights *weights,
                      const ks_run_limits *limits, ks_err *err) {
    ks_status st = KS_OK;
    ks_run *run = NULL;
    ks_carver size = {0};
    *out = NULL;
    KS_TRY(check_limits(limits, err));
    KS_TRY(ks_alloc(&run, 1, sizeof *run, "a forward run", err));
    run->dev = dev;
    run->config = config;
    run->weights = weights;
    run->fault.seq = -1;
    plan(run, ops, config, limits);
    KS_CHECK(ks_run_bytes(ops, config, limits) < SIZE_MAX, KS_LIMIT,
             "buffers for %d tokens and %d rows exceed the address space",
             limits->max_tokens, limits->max_rows);
    lay_out(run, config, limits, &size);
    KS_TRY(ops->alloc(dev, &run->arena, size.used, "run buffers", err));
    lay_out(run, config, limits, &(ks_carver){.base = run->arena.data});
    size.used = 0;
    lay_out_host(run, limits, &size);
    KS_TRY(ks_alloc(&run->host, size.used, 1, "run buffers", err));
    lay_out_host(run, limits, &(ks_carver){.base = run->host});
    size.used = 0;
    lay_out_landing(run, config, limits, &size);
    if (size.used)
        KS_TRY(ops->alloc_host(dev, &run->landing, size.used,
                               "captured rows on their way", err));
    lay_out_landing(run, config, limits,
                    &(ks_carver){.base = run->landing.data});
    *out = run;
    run = NULL;
done:
    ks_run_close(&run);
    return st;
}

void ks_run_close(ks_run **run) {
    if (!*run) return;
    const struct ks_ops *ops = (*run)->ops;
    ks__graph_drop(*run);
    if ((*run)->arena.data) ops->free((*run)->dev, &(*run)->arena);
    if ((*run)->landing.data) ops->free_host((*run)->dev, &(*run)->landing);
    free((*run)->host);
    free(*run);
    *run = NULL;
}

ks_fault ks_run_fault(const ks_run *run) {
    return run->fault;
}

/* Even blocks: a short last one would starve the GEMM. */
int32_t ks__run_rows(const ks_run *run, int32_t n) {
    int32_t count = (int32_t)blocks_of(run, (size_t)n);
    return (n + count - 1) / count;
}

int32_t ks__run_lanes(const ks_run *run, int32_t n) {
    return lanes_of(&run->limits, (size_t)n);
}

ks_lane ks__run_lane(const ks_run *run, ks_dev *dev, int32_t lane) {
    const ks_config *c = run->config;
    int64_t row = (int64_t)lane * run->block_rows;
    return (ks_lane){dev, run->h + row * c->d_model, run->y + row * c->d_model,
                     run->gate + row * c->d_ff, run->up + row * c->d_ff};
}

void ks__run_cut(ks_run *run) {
    const ks_seqs *all = run->seqs;
    int32_t n = all->n_tok, s = 0, rows = ks__run_rows(run, n);
    run->block_rows = rows;
    run->n_lanes = ks__run_lanes(run, n);
    run->n_blocks = run->n_bounds = 0;
    for (int32_t begin = 0; begin < n; begin += rows) {
        int32_t end = KS_MIN(n, begin + rows);
        ks_block *b = &run->blocks[run->n_blocks++];
        int32_t *offsets = run->block_offsets + run->n_bounds;
        int32_t *past = run->block_past + run->n_bounds;
        int32_t first = s, m = 0;
        for (; s < all->n_seq && all->offsets[s] < end; s++, m++) {
            int32_t from = KS_MAX(all->offsets[s], begin);
            offsets[m] = from - begin;
            past[m] = (all->past ? all->past[s] : 0) + from - all->offsets[s];
        }
        offsets[m] = end - begin;
        past[m] = 0; /* of no sequence; keeps the two lists in step */
        run->n_bounds += m + 1;
        b->begin = begin;
        b->rows = end - begin;
        b->first = first;
        b->seqs = (ks_seqs){
            .n_seq = m, .n_tok = end - begin, .offsets = offsets, .past = past};
        /* The sequence that goes on in the next block. */
        if (s > 0 && all->offsets[s] > end) s--;
    }
}
