/* run.h - the buffers of a forward pass, shared by run.c (sizes them),
 * forward.c (the graph) and gather.c (capture). Internal.
 *
 * The graph walks row blocks: what follows attention up to the next layer's
 * rotated q, k, v depends on its own rows alone, so a block of rows goes
 * through all of it while it is warm in cache, and the d_ff buffers stay small
 * however long the batch is. Only x, q, k, v and the attention output hold
 * every token.
 */
#ifndef KS_RUN_H
#define KS_RUN_H

#include "forward.h"

/* Rows of a block: enough to feed a GEMM, few enough that x, h and y of a
 * block stay in the last-level cache. */
enum { KS_ROW_BLOCK = 512 };

/* Fewer rows than this a lane, and the lanes' threads share each op instead:
 * every lane expands the weights for itself. */
enum { KS_LANE_ROWS = 96 };

/* What one lane of the backend has for itself. */
typedef struct ks_lane {
    ks_dev *dev;
    float *h, *y;     /* [block_rows, d] normed input, what a block adds */
    float *gate, *up; /* [block_rows, F] */
} ks_lane;

/* Rows [begin, begin + rows) of the batch, and the sequences they belong to
 * as ops see them: offsets relative to begin, past advanced. */
typedef struct ks_block {
    int32_t begin, rows;
    ks_seqs seqs;
} ks_block;

struct ks_run {
    ks_dev *dev;
    const struct ks_ops *ops;
    const ks_model *model;
    ks_run_limits limits;

    ks_buf arena;
    float *x;                     /* [max_tokens, d] residual stream */
    float *q, *k, *v;             /* [max_tokens, H D], [.., G D], [.., G D] */
    float *mixed;                 /* [max_tokens, H D] attention output */
    float *h, *y;                 /* [n_lanes, block_rows, d]; ks__run_lane */
    float *gate, *up;             /* [n_lanes, block_rows, F] */
    float *added[KS_N_STREAMS];   /* [max_tokens, d] of KS_ATTN, KS_MLP when
                                     captured (they are pooled over the whole
                                     batch); else NULL and y serves */
    float *last;                  /* [max_last, d] */
    void *pooled[KS_N_POSITIONS]; /* [max_rows, d]; KS_TOKENS: max_tokens */
    ks_pool_row *pool_rows;       /* [max_rows] */
    int32_t *token_rows;          /* [max_tokens] rows that KS_TOKENS keeps */
    int32_t *last_rows;           /* [max_last] */
    ks_block *blocks;             /* [n_blocks] */
    int32_t *block_offsets, *block_past; /* what blocks' seqs point into */

    /* Of the pass in work. */
    const ks_seqs *seqs;
    ks_kv *kv;
    const ks_capture *capture;
    int32_t n_blocks, block_rows; /* the last block may be shorter */
    int32_t n_lanes;
    int64_t n_token_rows;
    bool check_layers; /* second pass: find the faulty layer */
    ks_fault fault;
};

/* Rows of the blocks that a batch of n tokens is cut into (run.c). */
int32_t ks__run_rows(const ks_run *run, int32_t n);
/* Lanes that walk them side by side. */
int32_t ks__run_lanes(const ks_run *run, int32_t n);
/* Cuts the batch into row blocks. */
void ks__run_cut(ks_run *run);
/* The buffers of a lane that ops->each named. */
ks_lane ks__run_lane(const ks_run *run, ks_dev *dev, int32_t lane);

/* Before the first layer: pool rows and gathered rows of the capture. */
ks_status ks__gather_plan(ks_run *run, ks_err *err);
/* After each layer: pools one stream and emits its rows. No-op when the
 * capture does not ask for the stream. */
ks_status ks__gather(ks_run *run, ks_stream stream, int32_t layer, ks_view x,
                     ks_err *err);
/* Records where row of the stream is not finite; returns KS_NUMERIC. */
ks_status ks__run_fault_at(ks_run *run, ks_stream stream, int32_t layer,
                           int64_t row, int64_t count, ks_err *err);

static inline bool ks__captures(const ks_run *run, ks_stream stream) {
    return run->capture && run->capture->streams & (1u << stream);
}

#endif
