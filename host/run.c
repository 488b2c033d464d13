/* run.c - one arena for a forward pass, sized before the first token. */
#include "run.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64 }; /* bytes; a cache line and an AVX-512 register */

/* Lays out the arena: called once with base NULL to get its size, once to
 * carve it. */
typedef struct carver {
    char *base;
    size_t used;
    bool overflow;
} carver;

static void *carve(carver *c, size_t n, size_t size) {
    size_t bytes = 0;
    if (__builtin_mul_overflow(n, size, &bytes) ||
        bytes > SIZE_MAX / 2 - c->used) {
        c->overflow = true;
        return NULL;
    }
    void *at = c->base ? c->base + c->used : NULL;
    c->used += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    return n ? at : NULL;
}

static float *carve_f32(carver *c, size_t rows, size_t cols) {
    return carve(c, rows * cols, sizeof(float));
}

/* Lanes that walk a batch of n tokens side by side. */
static int32_t lanes_of(const ks_run_limits *limits, size_t n) {
    bool worth = n / KS_LANE_ROWS >= (size_t)limits->lanes;
    return worth ? KS_MAX(limits->lanes, 1) : 1;
}

/* Blocks of a batch: as many for every lane, or one lane would wait. */
static size_t blocks_of(const ks_run_limits *limits, size_t n) {
    size_t lanes = (size_t)lanes_of(limits, n), rows = lanes * KS_ROW_BLOCK;
    return (n + rows - 1) / rows * lanes;
}

/* Rows of buffers that the lanes of any batch up to n tokens share. */
static size_t most_lane_rows(const ks_run_limits *limits, size_t n) {
    size_t lanes = (size_t)lanes_of(limits, n);
    size_t alone = KS_MIN(n, (size_t)KS_ROW_BLOCK);
    return KS_MAX(alone, KS_MIN(n + lanes, lanes * KS_ROW_BLOCK));
}

/* Of any batch up to n tokens: a shorter one may be cut for more lanes. */
static size_t most_blocks(const ks_run_limits *limits, size_t n) {
    return n / KS_ROW_BLOCK + 1 + (size_t)KS_MAX(limits->lanes, 1);
}

/* The one list of what a run holds. */
static void lay_out(ks_run *run, const ks_config *c,
                    const ks_run_limits *limits, carver *a) {
    size_t n = (size_t)limits->max_tokens, d = (size_t)c->d_model;
    size_t heads = (size_t)c->n_heads * (size_t)c->head_dim;
    size_t groups = (size_t)c->n_kv_heads * (size_t)c->head_dim;
    size_t lane_rows = most_lane_rows(limits, n);
    size_t rows = (size_t)limits->max_rows, last = (size_t)limits->max_last;

    run->x = carve_f32(a, n, d);
    run->q = carve_f32(a, n, heads);
    run->k = carve_f32(a, n, groups);
    run->v = carve_f32(a, n, groups);
    run->mixed = carve_f32(a, n, heads);
    run->h = carve_f32(a, lane_rows, d);
    run->y = carve_f32(a, lane_rows, d);
    run->gate = carve_f32(a, lane_rows, (size_t)c->d_ff);
    run->up = carve_f32(a, lane_rows, (size_t)c->d_ff);
    for (int s = KS_ATTN; s <= KS_MLP; s++)
        if (limits->streams & (1u << s)) run->added[s] = carve_f32(a, n, d);
    run->last = carve_f32(a, last, d);
    for (int p = 0; p < KS_N_POSITIONS; p++)
        if (limits->streams && limits->positions & (1u << p))
            run->pooled[p] = carve(a, (p == KS_TOKENS ? n : rows) * d,
                                   ks_type_size(limits->dtype));
    run->pool_rows = carve(a, rows, sizeof(ks_pool_row));
    run->token_rows = carve(a, n, sizeof(int32_t));
    run->last_rows = carve(a, last, sizeof(int32_t));
    /* A block's list of sequences is one longer than their number, and a
     * sequence that a block boundary cuts stands in both lists. */
    size_t blocks = most_blocks(limits, n);
    run->blocks = carve(a, blocks, sizeof(ks_block));
    run->block_offsets = carve(a, n + 2 * blocks, sizeof(int32_t));
    run->block_past = carve(a, n + 2 * blocks, sizeof(int32_t));
}

size_t ks_run_bytes(const ks_config *config, const ks_run_limits *limits) {
    ks_run scratch = {0};
    carver a = {0};
    lay_out(&scratch, config, limits, &a);
    return a.overflow ? SIZE_MAX : a.used;
}

static ks_status check_limits(const ks_run_limits *limits, ks_err *err) {
    if (limits->max_tokens < 1 || limits->max_rows < 0 || limits->max_last < 0)
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
                      const ks_model *model, const ks_run_limits *limits,
                      ks_err *err) {
    ks_status st = KS_OK;
    ks_run *run = NULL;
    *out = NULL;
    KS_TRY(check_limits(limits, err));
    KS_TRY(ks_alloc(&run, 1, sizeof *run, "a forward run", err));
    run->dev = dev;
    run->ops = ops;
    run->model = model;
    run->limits = *limits;
    run->fault.seq = -1;
    size_t bytes = ks_run_bytes(&model->config, limits);
    KS_CHECK(bytes < SIZE_MAX, KS_LIMIT,
             "buffers for %d tokens and %d rows exceed the address space",
             limits->max_tokens, limits->max_rows);
    KS_TRY(ops->alloc(dev, &run->arena, bytes, "run buffers", err));
    carver a = {.base = run->arena.data};
    lay_out(run, &model->config, limits, &a);
    *out = run;
    run = NULL;
done:
    ks_run_close(&run);
    return st;
}

void ks_run_close(ks_run **run) {
    if (!*run) return;
    if ((*run)->arena.data) (*run)->ops->free((*run)->dev, &(*run)->arena);
    free(*run);
    *run = NULL;
}

ks_fault ks_run_fault(const ks_run *run) {
    return run->fault;
}

/* Even blocks: a short last one would starve the GEMM. */
int32_t ks__run_rows(const ks_run *run, int32_t n) {
    int32_t count = (int32_t)blocks_of(&run->limits, (size_t)n);
    return (n + count - 1) / count;
}

int32_t ks__run_lanes(const ks_run *run, int32_t n) {
    return lanes_of(&run->limits, (size_t)n);
}

ks_lane ks__run_lane(const ks_run *run, ks_dev *dev, int32_t lane) {
    const ks_config *c = &run->model->config;
    int64_t row = (int64_t)lane * run->block_rows;
    return (ks_lane){dev, run->h + row * c->d_model, run->y + row * c->d_model,
                     run->gate + row * c->d_ff, run->up + row * c->d_ff};
}

void ks__run_cut(ks_run *run) {
    const ks_seqs *all = run->seqs;
    int32_t n = all->n_tok, s = 0, used = 0, rows = ks__run_rows(run, n);
    run->block_rows = rows;
    run->n_lanes = ks__run_lanes(run, n);
    run->n_blocks = 0;
    for (int32_t begin = 0; begin < n; begin += rows) {
        int32_t end = KS_MIN(n, begin + rows);
        ks_block *b = &run->blocks[run->n_blocks++];
        int32_t *offsets = run->block_offsets + used;
        int32_t *past = run->block_past + used;
        int32_t first = s, m = 0;
        for (; s < all->n_seq && all->offsets[s] < end; s++, m++) {
            int32_t from = KS_MAX(all->offsets[s], begin);
            offsets[m] = from - begin;
            past[m] = (all->past ? all->past[s] : 0) + from - all->offsets[s];
        }
        offsets[m] = end - begin;
        used += m + 1;
        b->begin = begin;
        b->rows = end - begin;
        b->seqs = (ks_seqs){.n_seq = m,
                            .n_tok = end - begin,
                            .offsets = offsets,
                            .past = past,
                            .max_pages = all->max_pages};
        if (all->pages)
            b->seqs.pages = all->pages + (int64_t)first * all->max_pages;
        /* The sequence that goes on in the next block. */
        if (s > 0 && all->offsets[s] > end) s--;
    }
}
