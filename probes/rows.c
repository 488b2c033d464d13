/* rows.c - see rows.h. */
#include "rows.h"

#include <stdlib.h>

#include "window.h"

typedef struct needs {
    ks_room_fn besides;
    void *user;
    size_t x; /* bytes of the rows */
} needs;

static size_t bytes(void *user, int threads, bool scratch) {
    const needs *n = user;
    return n->besides(n->user, threads, scratch) + (scratch ? 0 : n->x);
}

static ks_status read_all(ks__rows *rows, ks_err *err) {
    ks_status st = KS_OK;
    const ks_l2_source *s = &rows->source;
    KS_TRY(ks_alloc(&rows->x, (size_t)s->n * (size_t)s->d, sizeof *rows->x,
                    "activations of a layer", err));
    KS_TRY(ks__window_all(s, rows->x, err));
    rows->source =
        (ks_l2_source){.n = s->n, .d = s->d, .type = KS_F32, .x = rows->x};
done:
    return st;
}

ks_status ks__rows_open(ks__rows *out, const ks_analysis_input *in,
                        const ks_series *series, int32_t layer,
                        ks_room_fn besides, void *user, const char *what,
                        ks_err *err) {
    ks_status st = KS_OK;
    ks_nest_options options = in->options->nest;
    *out = (ks__rows){.layer = {.dataset = in->dataset,
                                .file = in->dataset->acts,
                                .place = in->dataset->row,
                                .stream = series->stream,
                                .position = series->position,
                                .layer = layer}};
    out->source = ks_layer_source(&out->layer);
    needs all = {besides, user, 0};
    all.x = (size_t)out->source.n * (size_t)out->source.d * sizeof(float);
    options.dev = NULL; /* such solvers work on the host */
    KS_TRY(ks_room_fit(&in->options->room, bytes, &all, what, &options, err));
    out->threads = options.threads;
    if (!options.scratch) KS_TRY(read_all(out, err));
done:
    if (st != KS_OK) ks__rows_close(out);
    return st;
}

void ks__rows_close(ks__rows *rows) {
    free(rows->x);
    *rows = (ks__rows){0};
}
