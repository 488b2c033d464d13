/* backward_run.h - the buffers of a backward pass, shared by backward_run.c
 * (sizes them) and backward.c (the graph). Internal.
 */
#ifndef KS_BACKWARD_RUN_H
#define KS_BACKWARD_RUN_H

#include "backward.h"
#include "run.h"

struct ks_backward {
    ks_dev *dev;
    const struct ks_ops *ops;
    const ks_config *config;
    const ks_weights *weights;
    ks_backward_limits limits;
    ks_run *run;
    int32_t block_rows, most_lanes; /* of lane buffers */

    ks_buf arena;
    ks_trace trace, inner; /* inner: of the layer in work */
    float *dx;             /* [max_rows, d] */
    float *dmixed, *dq;    /* [max_rows, H D] */
    float *dk, *dv;        /* [max_rows, G D] */
    float *t;              /* [lanes, block_rows, d] */
    float *dgate, *dup;    /* [lanes, block_rows, F] */
    int32_t *image;        /* the arrays of cots, target, weight */
    int32_t *target;       /* [max_rows] tokens to score */
    float *weight, *score; /* [max_rows] ones, log-probabilities */

    /* Host memory. */
    void *host;
    int32_t *offsets, *ids; /* of the batch: [max_tokens + 1], [max_tokens] */
    int32_t *plan;          /* the image: cotangents' offsets, first, row */
    float *rows;            /* [max_tokens, d] emitted; NULL where unified */
    ks_seqs seqs;
    bool ran; /* there is a forward to go back through */

    /* Of the group of targets in work. */
    const ks_gradients *want;
    int32_t first;         /* target */
    ks_cots cots, planned; /* the backend's and the host's */
    int32_t layer;
};

static inline size_t ks__q_cols(const ks_config *c) {
    return (size_t)c->n_heads * (size_t)c->head_dim;
}

static inline size_t ks__kv_cols(const ks_config *c) {
    return (size_t)c->n_kv_heads * (size_t)c->head_dim;
}

#endif
