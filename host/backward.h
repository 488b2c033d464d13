/* backward.h - the only backward pass: gradients of the probabilities of chosen
 * tokens with respect to the residual stream of earlier tokens, for many
 * targets against one forward. Weights are fixed: none gets a gradient.
 *
 * A target is a run of tokens [begin, end) of one sequence; what is derived is
 *     f = sum over t in [begin, end) of P(t | tokens before t)     or of log P,
 * with respect to the residual stream (layer 0: the embedding output, l: after
 * block l) at tokens [from, end - 1), the last being the one that predicts
 * end - 1. Every target is a cotangent of its own; they go through a layer
 * together, and none ever visits tokens from end - 1 on, or before `from`.
 *
 * Memory. The forward keeps the residual stream ahead of every layer:
 * (L + 1) n d floats for n tokens. On the way back a layer's inner values
 * (q, k, v, attention, gate and up: about 5 d + 2 F floats a token) are
 * computed again from it, with the forward's own code and bits, once for
 * max_rows rows of cotangents; those take about 4 d floats a row. Targets
 * beyond max_rows wait for another turn, which costs one more replay of the
 * layers and changes no bit. With `keep` the forward leaves the inner values of
 * all layers behind, and nothing is replayed: the same bits.
 */
#ifndef KS_BACKWARD_H
#define KS_BACKWARD_H

#include "forward.h"

typedef struct ks_backward ks_backward;

typedef struct ks_backward_limits {
    int32_t max_tokens; /* of the packed batch */
    int32_t max_rows;   /* of cotangents at once; a target has end - 1 - from,
                           and the largest must fit */
    int32_t lanes;      /* as in ks_run_limits */
    bool keep;          /* all inner values in place of replays */
} ks_backward_limits;

/* Tokens count from the sequence's first. 0 < begin < end, from < end - 1. */
typedef struct ks_target {
    int32_t seq;
    int32_t begin, end;
    int32_t from;
} ks_target;

typedef struct ks_gradients {
    int32_t n_targets;
    const ks_target *targets;
    bool of_log; /* sums of log P in place of P */
    /* Layers whose gradient is wanted, [L + 1]; NULL: layer 0 alone. */
    const bool *layers;
    /* Called for each target and wanted layer, layers descending for each group
     * of targets: rows [n, d] of tokens from, from + 1, .., in host memory
     * until it returns. A failure ends the pass. */
    ks_status (*emit)(void *user, int32_t target, int32_t layer,
                      const float *rows, int64_t n, ks_err *err);
    void *user;
    /* Log-probabilities of the targets' tokens, targets one behind the other;
     * NULL: not wanted. */
    float *logprobs;
} ks_gradients;

/* Bytes of the backend's memory that ks_backward_open takes. */
size_t ks_backward_bytes(const struct ks_ops *ops, const ks_config *config,
                         const ks_backward_limits *limits);
/* config and weights (the backend's) are to outlive it. */
ks_status ks_backward_open(ks_backward **out, ks_dev *dev,
                           const struct ks_ops *ops, const ks_config *config,
                           const ks_weights *weights,
                           const ks_backward_limits *limits, ks_err *err);
void ks_backward_close(ks_backward **backward);

/* The forward: whole sequences (no past), ids in the vocabulary. inputs:
 * [n_tok, d] in host memory in place of the embeddings (scale applied), or
 * NULL. */
ks_status ks_backward_forward(ks_backward *backward, const ks_seqs *seqs,
                              const int32_t *ids, const float *inputs,
                              ks_err *err);
/* Gradients against the last forward; may be asked for again and again. Values
 * that are not finite: KS_NUMERIC, naming target and layer. KS_INTERRUPTED
 * between layers once ks_interrupted is set. */
ks_status ks_backward_pull(ks_backward *backward, const ks_gradients *want,
                           ks_err *err);

#endif
