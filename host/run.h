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

/* Rows of a block. Where the backend's memory is host memory: enough to feed
 * a GEMM, few enough that x, h and y of a block stay in the last-level cache.
 * On a device: enough to fill it. */
enum { KS_ROW_BLOCK = 512, KS_DEVICE_ROW_BLOCK = 8192 };

static inline int32_t ks__row_block(const struct ks_ops *ops) {
    return ops->unified ? KS_ROW_BLOCK : KS_DEVICE_ROW_BLOCK;
}

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
    int32_t first; /* sequence */
    ks_seqs seqs;  /* ks__stage_batch: arrays in the backend's memory */
} ks_block;

/* Small arrays on their way to a backend: packed one behind the other into an
 * image that goes over in one copy (stage.c). Where memory is unified nothing
 * is packed, and the backend gets the arrays themselves. */
typedef struct ks_stage {
    char *host, *device; /* [size], NULL where memory is unified */
    size_t size, used;
} ks_stage;

/* What one layer of one stream leaves behind: pooled where the ops write it,
 * and the same rows in host memory. */
typedef struct ks_parcel {
    void *pooled[KS_N_POSITIONS]; /* [max_rows, d]; KS_TOKENS: max_tokens */
    void *rows[KS_N_POSITIONS];   /* unified: == pooled */
    ks_stream stream;
    int32_t layer;
    uint64_t ticket; /* of the last copy */
    bool held;       /* not emitted yet */
} ks_parcel;

/* What a pass leaves behind for backward.c, in the backend's memory. Inner
 * values are those of all layers one behind the other (`all`), or of the one
 * that ks__forward_replay was last called for. */
typedef struct ks_trace {
    float *resid; /* [L + 1, n_tok, d] residual stream ahead of each layer */
    bool all;
    float *q, *k, *v;     /* [n_tok, H D] [n_tok, G D] [n_tok, G D] as attention
                             takes them; without all those of the run */
    float *mixed;         /* [n_tok, H D] its output, in the same way */
    float *middle;        /* [n_tok, d] residual stream between attention and
                             MLP, in the same way */
    float *raw_q, *raw_k; /* [n_tok, H D] [n_tok, G D] ahead of q/k norm, or
                             NULL */
    float *attn, *mlp;    /* [n_tok, d] ahead of the post-norms, or NULL */
    float *gate, *up;     /* [n_tok, F] */
} ks_trace;

/* A device computes on while two layers' rows are on their way. */
enum { KS_MOST_PARCELS = 2 * KS_N_STREAMS };

/* Passes of one shape that come again: the ops of one, recorded (graph.c). */
typedef struct ks_shape {
    int32_t n_seq, max_pages, n_last;
    const float *k, *v; /* of the store's first layer */
} ks_shape;
typedef struct ks_recorded {
    ks_shape shape;
    ks_graph *graph; /* NULL: the shape was seen once */
    int64_t used;    /* count of passes at the last use; 0: free */
} ks_recorded;
/* Batches shrink as sequences end; shapes further apart than these seldom come
 * back. */
enum { KS_RECORDED = 32 };

struct ks_run {
    ks_dev *dev;
    const struct ks_ops *ops;
    const ks_config *config;
    const ks_weights *weights; /* in the backend's memory */
    ks_run_limits limits;

    ks_buf arena;     /* the backend's */
    ks_buf landing;   /* host memory that the backend copies parcels into */
    void *host;       /* what only the host reads */
    float *x;         /* [max_tokens, d] residual stream */
    float *q, *k, *v; /* [max_tokens, H D], [.., G D], [.., G D] */
    float *mixed;     /* [max_tokens, H D] attention output */
    float *h, *y;     /* [n_lanes, block_rows, d]; ks__run_lane */
    float *gate, *up; /* [n_lanes, block_rows, F] */
    float *added[KS_N_STREAMS]; /* [max_tokens, d] of KS_ATTN, KS_MLP when
                                   captured (they are pooled over the whole
                                   batch); else NULL and y serves */
    float *last;                /* [max_last, d] */
    int32_t *picked;            /* [max_tokens] what sample answers */
    float *logprobs;            /* [max_tokens] what score answers */
    double *shares;             /* [max_tokens] what share answers */
    ks_parcel parcels[KS_MOST_PARCELS];
    ks_stage stage;
    ks_recorded recorded[KS_RECORDED];
    int64_t n_passes; /* that could have been recorded */
    /* the host's */
    ks_pool_row *pool_rows; /* [max_rows] */
    int32_t *token_rows;    /* [max_tokens] rows that KS_TOKENS keeps */
    int32_t *last_rows;     /* [max_last] */
    ks_block *blocks;       /* [n_blocks] */
    int32_t *block_offsets, *block_past; /* [n_bounds] of all blocks */

    /* Of the pass in work. */
    const ks_seqs *seqs; /* the caller's */
    ks_seqs placed;      /* the same, arrays in the backend's memory */
    const int32_t *ids, *placed_token_rows, *placed_last_rows;
    const ks_pool_row *placed_pool_rows;
    ks_kv *kv;
    bool keep; /* new keys and values go into kv */
    const ks_capture *capture;
    int32_t n_blocks, block_rows; /* the last block may be shorter */
    int32_t n_bounds, n_lanes, n_parcels, parcel;
    int64_t n_token_rows;
    int32_t n_last;        /* rows whose final-normed states are wanted */
    const int32_t *chosen; /* [n_last] which; NULL: the sequences' last */
    const ks_trace *trace; /* NULL: nothing is kept */
    const float *inputs;   /* [n_tok, d] in place of the embeddings, or NULL */
    bool replay;           /* one layer again, its inner values kept */
    bool careful; /* second pass: find what is not finite, emit nothing */
    ks_fault fault;
};

/* Rows of the blocks that a batch of n tokens is cut into (run.c). */
int32_t ks__run_rows(const ks_run *run, int32_t n);
/* Lanes that walk them side by side. */
int32_t ks__run_lanes(const ks_run *run, int32_t n);
/* Cuts the batch into row blocks; arrays of their seqs in host memory. */
void ks__run_cut(ks_run *run);
/* The buffers of a lane that ops->each named. */
ks_lane ks__run_lane(const ks_run *run, ks_dev *dev, int32_t lane);

/* Everything that the pass in work needs of the batch, over in one copy. */
ks_status ks__stage_batch(ks_run *run, const int32_t *ids, ks_err *err);
/* Where the backend will find these bytes once ks__stage_send has returned;
 * they are to stay as they are until then. ks__stage_batch starts anew. */
const void *ks__stage_add(ks_run *run, const void *from, size_t size);
/* The same for n offsets, which from there on count from the first. */
const int32_t *ks__stage_offsets(ks_run *run, const int32_t *from, int64_t n);
ks_status ks__stage_send(ks_run *run, ks_err *err);
/* Bytes of the image for these limits: what a pass needs of a batch, or its
 * heads of max_tokens rows, with as many ids in sets as the vocabulary has. */
size_t ks__stage_bytes(const ks_run_limits *limits, const ks_config *config,
                       size_t n_blocks);

/* Before the first layer: pool rows and gathered rows of the capture. */
ks_status ks__gather_plan(ks_run *run, ks_err *err);
/* After each layer: pools one stream; its rows are emitted once they are in
 * host memory, in the order of the calls. No-op when the capture does not ask
 * for the stream. */
ks_status ks__gather(ks_run *run, ks_stream stream, int32_t layer, ks_view x,
                     ks_err *err);
/* Emits what is still on its way. */
ks_status ks__gather_finish(ks_run *run, ks_err *err);
/* Queues the pass in work by calling `queue`, or, where the backend has graphs
 * and a decode step's shape comes again, by replaying what queue did then. */
ks_status ks__graph_pass(ks_run *run, ks_status (*queue)(ks_run *, ks_err *),
                         ks_err *err);
void ks__graph_drop(ks_run *run);
/* Records where row of the stream is not finite; returns KS_NUMERIC. */
ks_status ks__run_fault_at(ks_run *run, ks_stream stream, int32_t layer,
                           int64_t row, int64_t count, ks_err *err);

/* A pass that keeps the residual stream. inputs (may be NULL): host memory. */
ks_status ks__forward_trace(ks_run *run, const ks_seqs *seqs,
                            const int32_t *ids, const float *inputs,
                            const ks_trace *trace, ks_err *err);
/* Layer l of the last traced pass again, with the same bits, for a trace that
 * does not hold all. */
ks_status ks__forward_replay(ks_run *run, int32_t l, ks_err *err);

/* A trace of n tokens with the inner values of layer l alone. */
ks_trace ks__trace_at(const ks_trace *trace, const ks_config *c, int64_t n,
                      int32_t l);

/* What ops are told about layer l. */
ks_attn_spec ks__attn_spec(const ks_config *c, const ks_weights *w, int32_t l);
ks_rope ks__rope_of(const ks_config *c, const ks_weights *w, int32_t l);

static inline bool ks__captures(const ks_run *run, ks_stream stream) {
    return run->capture && run->capture->streams & (1u << stream);
}

#endif
