/* graph.c - decode steps whose shape comes again are recorded once and
 * replayed: a small model's step is a few hundred launches, and queueing them
 * one by one takes longer than computing them. */
#include <string.h>

#include "run.h"

static ks_shape shape_of(const ks_run *run) {
    ks_kv_layer first = ks_kv_layer_at(run->kv, 0);
    return (ks_shape){.n_seq = run->placed.n_seq,
                      .max_pages = run->placed.max_pages,
                      .n_last = run->n_last,
                      .k = first.k,
                      .v = first.v};
}

static bool same_shape(const ks_shape *a, const ks_shape *b) {
    return a->n_seq == b->n_seq && a->max_pages == b->max_pages &&
           a->k == b->k && a->v == b->v && a->n_last == b->n_last;
}

/* Each sequence takes one token: then the batch's arrays lie at the same
 * places of the image whenever the shape is the same. Hidden keys would be one
 * more array, and a pass with them seldom comes again. */
static bool is_decode(const ks_run *run) {
    return run->keep && !run->capture && !run->careful && !run->seqs->hidden &&
           run->seqs->n_tok == run->seqs->n_seq;
}

static void drop(ks_run *run, ks_recorded *r) {
    if (r->graph) run->ops->free_graph(run->dev, &r->graph);
    memset(r, 0, sizeof *r);
}

/* The entry of this shape, or the one longest not used, emptied for it. */
static ks_recorded *entry_of(ks_run *run, const ks_shape *shape) {
    ks_recorded *oldest = &run->recorded[0];
    for (int i = 0; i < KS_RECORDED; i++) {
        ks_recorded *r = &run->recorded[i];
        if (r->used && same_shape(&r->shape, shape)) return r;
        if (r->used < oldest->used) oldest = r;
    }
    drop(run, oldest);
    oldest->shape = *shape;
    return oldest;
}

static ks_status record(ks_run *run, ks_graph **graph,
                        ks_status (*queue)(ks_run *, ks_err *), ks_err *err) {
    ks_status st = run->ops->record(run->dev, err);
    if (st != KS_OK) return st;
    st = queue(run, err);
    ks_status ended = run->ops->recorded(run->dev, graph, st ? NULL : err);
    return st == KS_OK ? ended : st;
}

ks_status ks__graph_pass(ks_run *run, ks_status (*queue)(ks_run *, ks_err *),
                         ks_err *err) {
    ks_status st = KS_OK;
    if (!run->ops->graphs || !is_decode(run)) return queue(run, err);
    ks_shape shape = shape_of(run);
    ks_recorded *r = entry_of(run, &shape);
    bool again = r->used > 0;
    r->used = ++run->n_passes;
    if (!again) return queue(run, err); /* it may never come back */
    if (!r->graph) KS_TRY(record(run, &r->graph, queue, err));
    KS_TRY(run->ops->replay(run->dev, r->graph, err));
done:
    return st;
}

void ks__graph_drop(ks_run *run) {
    for (int i = 0; i < KS_RECORDED; i++) drop(run, &run->recorded[i]);
}
