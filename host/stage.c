/* stage.c - what ops read of a batch by the element, on its way into the
 * backend's memory: one image, one copy a batch. Where that is host memory the
 * ops get the caller's own arrays, and nothing moves. */
#include <string.h>

#include "run.h"

enum { ALIGN = 64 };

static size_t padded(size_t size) {
    return (size + ALIGN - 1) / ALIGN * ALIGN;
}

size_t ks__stage_bytes(const ks_run_limits *limits, const ks_config *config,
                       size_t n_blocks) {
    size_t n = (size_t)limits->max_tokens, last = (size_t)limits->max_last;
    size_t bounds = padded((n + 2 * n_blocks) * sizeof(int32_t));
    size_t batch = 2 * padded(n * sizeof(int32_t)) /* ids, past */
                   + padded((n + 1) * sizeof(int32_t)) +
                   padded(2 * n * sizeof(int32_t)) + /* hidden */
                   padded((size_t)limits->max_pages * sizeof(int32_t)) +
                   2 * bounds +
                   padded((size_t)limits->max_rows * sizeof(ks_pool_row)) +
                   padded(n * sizeof(int32_t)) + /* token rows */
                   padded(last * sizeof(int32_t));
    /* after the batch: specs; of share the sets too, any one of which fits */
    size_t heads = padded(n * sizeof(ks_sample_spec)) +
                   padded((n + 1) * sizeof(int32_t)) +
                   padded((size_t)config->n_vocab * sizeof(int32_t));
    return KS_MAX(batch, heads);
}

const void *ks__stage_add(ks_run *run, const void *from, size_t size) {
    ks_stage *s = &run->stage;
    if (run->ops->unified || size == 0) return from;
    const void *at = s->device + s->used;
    memcpy(s->host + s->used, from, size);
    s->used += padded(size);
    return at;
}

const int32_t *ks__stage_offsets(ks_run *run, const int32_t *from, int64_t n) {
    const ks_stage *s = &run->stage;
    if (run->ops->unified) return from;
    int32_t *packed = (int32_t *)(s->host + s->used);
    from = ks__stage_add(run, from, (size_t)n * sizeof *from);
    for (int64_t i = n - 1; i >= 0; i--) packed[i] -= packed[0];
    return from;
}

ks_status ks__stage_send(ks_run *run, ks_err *err) {
    ks_stage *s = &run->stage;
    size_t size = s->used;
    s->used = 0;
    if (size == 0) return KS_OK;
    return run->ops->copy(run->dev, s->device, s->host, size, err);
}

/* Columns of the page tables that the batch's sequences reach, up to a power
 * of two, so that shapes seldom change while they grow. */
static int32_t columns(const ks_seqs *seqs) {
    int32_t most = 1, n = 1;
    for (int32_t s = 0; s < seqs->n_seq; s++) {
        int32_t tokens = seqs->offsets[s + 1] - seqs->offsets[s] +
                         (seqs->past ? seqs->past[s] : 0);
        most = KS_MAX(most, (tokens + KS_PAGE - 1) / KS_PAGE);
    }
    while (n < most) n *= 2;
    return KS_MIN(n, seqs->max_pages);
}

/* Only the columns that are in use go over. */
static void add_pages(ks_run *run) {
    const ks_seqs *seqs = run->seqs;
    ks_stage *s = &run->stage;
    run->placed.pages = seqs->pages;
    if (run->ops->unified || !seqs->pages) return;
    int32_t n = columns(seqs);
    size_t row = (size_t)n * sizeof(int32_t);
    run->placed.pages = (const int32_t *)(s->device + s->used);
    run->placed.max_pages = n;
    for (int32_t i = 0; i < seqs->n_seq; i++)
        memcpy(s->host + s->used + (size_t)i * row,
               seqs->pages + (int64_t)i * seqs->max_pages, row);
    s->used += padded((size_t)seqs->n_seq * row);
}

static const int32_t *add_i32(ks_run *run, const int32_t *from, int64_t n) {
    return ks__stage_add(run, from, (size_t)n * sizeof *from);
}

/* The blocks' seqs point into two lists; here they move with them. What is
 * hidden is attention's concern, which sees no blocks. */
static void add_blocks(ks_run *run) {
    ks__run_cut(run);
    const int32_t *offsets = add_i32(run, run->block_offsets, run->n_bounds);
    const int32_t *past = add_i32(run, run->block_past, run->n_bounds);
    for (int32_t i = 0; i < run->n_blocks; i++) {
        ks_block *b = &run->blocks[i];
        b->seqs.offsets = offsets + (b->seqs.offsets - run->block_offsets);
        b->seqs.past = past + (b->seqs.past - run->block_past);
        b->seqs.max_pages = run->placed.max_pages;
        if (run->placed.pages)
            b->seqs.pages =
                run->placed.pages + (int64_t)b->first * run->placed.max_pages;
    }
}

ks_status ks__stage_batch(ks_run *run, const int32_t *ids, ks_err *err) {
    const ks_seqs *seqs = run->seqs;
    int32_t n_rows = run->capture ? run->capture->n_segments : 0;
    run->stage.used = 0;
    run->placed = *seqs;
    run->ids = add_i32(run, ids, seqs->n_tok);
    run->placed.offsets = add_i32(run, seqs->offsets, seqs->n_seq + 1);
    if (seqs->past) run->placed.past = add_i32(run, seqs->past, seqs->n_seq);
    if (seqs->hidden)
        run->placed.hidden =
            add_i32(run, seqs->hidden, 2 * (int64_t)seqs->n_seq);
    add_pages(run);
    add_blocks(run);
    run->placed_pool_rows = ks__stage_add(
        run, run->pool_rows, (size_t)n_rows * sizeof *run->pool_rows);
    run->placed_token_rows = add_i32(run, run->token_rows, run->n_token_rows);
    for (int32_t i = 0; i < run->n_last; i++)
        run->last_rows[i] =
            run->chosen ? run->chosen[i] : seqs->offsets[i + 1] - 1;
    run->placed_last_rows = add_i32(run, run->last_rows, run->n_last);
    return ks__stage_send(run, err);
}
