/* forward.h - the only forward pass, with capture in the graph, and the
 * paged KV store that generation and shared prefixes stand on.
 *
 * L layers, d = d_model, V vocabulary. A run owns every buffer of a pass: one
 * arena, sized from config and limits before the first token. ks_forward
 * allocates nothing. One run serves one batch at a time.
 */
#ifndef KS_FORWARD_H
#define KS_FORWARD_H

#include "model.h"

typedef struct ks_run ks_run;

typedef struct ks_run_limits {
    int32_t max_tokens; /* of one packed batch */
    int32_t max_rows;   /* steps to pool (KS_TOKENS needs max_tokens rows) */
    uint32_t streams, positions; /* bit sets that captures may ask for */
    ks_type dtype;               /* of captured rows */
    int32_t max_last;            /* rows of last_hidden, or of
                                    ks_forward_rows; 0: none */
    int64_t max_pages;           /* of a batch's page tables together */
    int32_t lanes; /* of the backend (ks_dev_lanes) that a long batch uses; 0
                      counts as 1 */
} ks_run_limits;

/* Where a pass met values that are not finite. layer counts as KS_RESID does
 * (0 embedding, l after block l) for that stream, as 0..L-1 for the others. */
typedef struct ks_fault {
    int32_t seq; /* of the batch; -1: no fault */
    int32_t layer;
    int32_t token; /* of the sequence within the batch */
    ks_stream stream;
    bool overflow; /* finite in f32, beyond the storage type's range */
    int64_t count; /* values not finite in that stream and layer */
} ks_fault;

/* A model's weights in the memory of a backend: the model's own where that is
 * host memory, else copies (place.c). */
typedef struct ks_placed ks_placed;
/* Streams the mapped files over; a weight that finds no memory is named. The
 * model is to outlive what is placed, and changes of it do not show there. */
ks_status ks_place(ks_placed **out, ks_dev *dev, const struct ks_ops *ops,
                   const ks_model *model, ks_err *err);
void ks_placed_close(ks_placed **placed);
const ks_weights *ks_placed_weights(const ks_placed *placed);
/* Bytes that ks_place takes of the backend's memory. */
size_t ks_place_bytes(const struct ks_ops *ops, const ks_model *model);

/* Bytes of the backend's memory that ks_run_open takes for these limits (and,
 * where that is host memory, of its bookkeeping). */
size_t ks_run_bytes(const struct ks_ops *ops, const ks_config *config,
                    const ks_run_limits *limits);
/* config and weights (the backend's) are to outlive the run. */
ks_status ks_run_open(ks_run **out, ks_dev *dev, const struct ks_ops *ops,
                      const ks_config *config, const ks_weights *weights,
                      const ks_run_limits *limits, ks_err *err);
void ks_run_close(ks_run **run);
/* Of the last pass that returned KS_NUMERIC: lets a caller that knows what
 * the sequences are (chains) name them. */
ks_fault ks_run_fault(const ks_run *run);

/* Paged KV store for all layers; pages are counted so that sequences can
 * share a prefix. */
typedef struct ks_kv ks_kv;
ks_status ks_kv_open(ks_kv **out, ks_dev *dev, const struct ks_ops *ops,
                     const ks_config *config, int32_t n_pages, ks_err *err);
void ks_kv_close(ks_kv **kv);
size_t ks_kv_page_bytes(const ks_config *config); /* all layers, k and v */
int32_t ks_kv_free_pages(const ks_kv *kv);
/* A page with one owner; -1 when none is free. */
int32_t ks_kv_page_take(ks_kv *kv);
void ks_kv_page_share(ks_kv *kv, int32_t page);
void ks_kv_page_drop(ks_kv *kv, int32_t page);
int32_t ks_kv_page_owners(const ks_kv *kv, int32_t page);
/* Copies a page's first n tokens into another, all layers (a fork inside a
 * page). */
ks_status ks_kv_page_copy(ks_kv *kv, int32_t to, int32_t from, int32_t n,
                          ks_err *err);
ks_kv_layer ks_kv_layer_at(const ks_kv *kv, int32_t layer);

/* One forward over the packed batch. Every sequence has at least one token,
 * ids are in the vocabulary (ks_engine_run checks both). seqs->past and pages
 * with kv continue stored sequences and store their new tokens; kv NULL: keys
 * and values live in the batch alone. capture may be NULL.
 *   last_hidden: NULL, or receives [n_seq, d]: the final-normed state of each
 *     sequence's last token (for sampling).
 *   all_hidden: NULL, or receives [n_tok, d], final-normed (for scoring).
 * Both views borrow the run's memory until its next pass. Values that are not
 * finite: KS_NUMERIC, and ks_run_fault says where. */
ks_status ks_forward(ks_run *run, const ks_seqs *seqs, const int32_t *ids,
                     ks_kv *kv, const ks_capture *capture, ks_view *last_hidden,
                     ks_view *all_hidden, ks_err *err);

/* The same with the final-normed states of chosen tokens of the batch: rows
 * [n_rows] count its tokens, one may come several times; hidden [n_rows, d] in
 * that order. */
ks_status ks_forward_rows(ks_run *run, const ks_seqs *seqs, const int32_t *ids,
                          ks_kv *kv, const int32_t *rows, int32_t n_rows,
                          ks_view *hidden, ks_err *err);

/* ks_forward behind tokens that lie in the store (past and pages of seqs),
 * which stays as it is: the new keys and values live in the batch alone. */
ks_status ks_forward_behind(ks_run *run, const ks_seqs *seqs,
                            const int32_t *ids, ks_kv *kv,
                            const ks_capture *capture, ks_view *all_hidden,
                            ks_err *err);

/* Heads on rows that ks_forward answered (or part of them), arguments and
 * results in host memory; at most max_tokens rows. logprob may be NULL where
 * ops->sample says so. Waits. */
ks_status ks_run_score(ks_run *run, ks_view hidden, const int32_t *target,
                       float *logprob, ks_err *err);
ks_status ks_run_sample(ks_run *run, ks_view hidden,
                        const ks_sample_spec *specs, int32_t *ids,
                        float *logprob, ks_err *err);
/* Set i is ids[offsets[i]] .. ids[offsets[i + 1]], distinct. Sets may have any
 * number of ids together: a device is sent as many rows at a time as have no
 * more than the vocabulary. KS_MISMATCH for an id that is not in it. */
ks_status ks_run_share(ks_run *run, ks_view hidden, const ks_sample_spec *specs,
                       const int32_t *offsets, const int32_t *ids,
                       double *share, ks_err *err);

/* Entropy in nats of each row's distribution over the vocabulary, temperature 1
 * and uncut: on the host, in double, from logits that the backend writes a few
 * rows at a time. Logits that are not finite: KS_NUMERIC. */
ks_status ks_run_entropy(ks_run *run, ks_view hidden, float *entropy,
                         ks_err *err);

/* The engine behind keystep.h, for code that drives the forward itself. run
 * may be NULL until the first ks_engine_run or ks_engine_reserve. */
struct ks_engine {
    ks_model *model;
    ks_dev *dev;
    const struct ks_ops *ops;
    ks_placed *placed; /* NULL before the first run */
    ks_run *run;
    ks_run_limits limits; /* of run; max_tokens: the packing limit at first */
    size_t memory;        /* bytes that run buffers may take; 0: any */
    ks_engine_options options;
    bool shares_model; /* another engine's, and that one closes it */
};

/* Another device for the model of an engine: its options but for the backend
 * (borrowed), and as large batches. */
ks_status ks_engine_share(ks_engine **out, const ks_engine *of,
                          const char *backend, ks_err *err);

/* Makes engine->run serve at least these limits (buffers only grow). Beyond
 * engine->memory: KS_LIMIT with the numbers. */
ks_status ks_engine_reserve(ks_engine *engine, const ks_run_limits *want,
                            ks_err *err);
/* The weights in the backend's memory (engine->placed), once. */
ks_status ks__engine_place(ks_engine *engine, ks_err *err);
/* Tokens ahead of a batch's sequences, in a store. keep: the batch's own are
 * stored too, in the same pages. */
typedef struct ks_stored {
    ks_kv *kv;
    const int32_t *past;  /* [n_seq] */
    const int32_t *pages; /* [n_seq, max_pages] */
    int32_t max_pages;
    bool keep;
} ks_stored;
/* Whether the model takes the batch: lengths, its context, its vocabulary. */
ks_status ks__engine_check(const ks_engine *engine, const ks_batch *batch,
                           const ks_stored *stored, ks_err *err);
/* ks_engine_run behind stored tokens (NULL: none). */
ks_status ks__engine_run_behind(ks_engine *engine, const ks_batch *batch,
                                const ks_stored *stored,
                                const ks_capture *capture, ks_err *err);
/* The longest sequence that the model's context and engine->memory allow;
 * *by_memory (may be NULL) says which of the two is the limit. */
int32_t ks_engine_longest(const ks_engine *engine, bool *by_memory);
/* The most tokens of a batch, up to limits->max_tokens, whose run buffers fit
 * into memory bytes (0: any). */
int32_t ks_engine_tokens(const ks_engine *engine, const ks_run_limits *limits,
                         size_t memory);
/* Makes that the engine's limit, up to most; KS_LIMIT where it is none. */
ks_status ks_engine_fit(ks_engine *engine, size_t memory, int32_t most,
                        ks_err *err);

#endif
