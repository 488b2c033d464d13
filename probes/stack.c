/* stack.c - see stack.h. */
#include "stack.h"

#include <stdlib.h>

static ks_status check_room(const ks_stack *s, const ks_dataset *d,
                            const ks_series *series, const ks_room *room,
                            ks_err *err) {
    ks_status st = KS_OK;
    double bytes = (double)s->d * sizeof(float) *
                   ((double)d->info->n_steps + (double)s->n +
                    (double)s->n_layers * (double)s->n);
    double most = (double)ks_room_left(room);
    KS_CHECK(bytes <= most, KS_LIMIT,
             "probes over the layers of %s/%s hold all %d at once: %.0f bytes "
             "for %lld steps of %lld features, %s %.0f; more --memory, fewer "
             "--layers, or the probes linear and mlp, which read one layer at "
             "a time",
             ks_stream_name(series->stream), ks_position_name(series->position),
             s->n_layers, bytes, (long long)s->n, (long long)s->d,
             room->limit ? "--memory leaves" : "this machine has", most);
done:
    return st;
}

static void add_layer(ks_stack *s, const float *x) {
    for (int64_t k = 0; k < s->n * s->d; k++) s->mean[k] += x[k];
}

ks_status ks_stack_read(ks_stack *out, const ks_dataset *dataset,
                        const ks_series *series, bool all, bool mean,
                        const ks_room *room, ks_err *err) {
    ks_status st = KS_OK;
    ks_stack *s = out;
    float *buffer = NULL, *one = NULL;
    *s = (ks_stack){
        .n = dataset->n, .d = dataset->info->d, .n_layers = series->n_cells};
    size_t values = (size_t)s->n * (size_t)s->d;
    s->first = series->stream == KS_RESID && series->cells[0].layer == 0;
    if (all) KS_TRY(check_room(s, dataset, series, room, err));
    KS_TRY(ks_alloc(&s->layer, (size_t)s->n_layers, sizeof *s->layer, "layers",
                    err));
    KS_TRY(ks_alloc(&buffer, (size_t)dataset->info->n_steps * (size_t)s->d,
                    sizeof *buffer, "activations of a layer", err));
    if (all)
        KS_TRY(ks_alloc(&s->x, (size_t)s->n_layers * values, sizeof *s->x,
                        "activations of all layers", err));
    else
        KS_TRY(
            ks_alloc(&one, values, sizeof *one, "activations of a layer", err));
    if (mean)
        KS_TRY(ks_alloc(&s->mean, values, sizeof *s->mean,
                        "activations of a layer", err));
    for (int32_t l = 0; l < s->n_layers; l++) {
        float *x = all ? s->x + (size_t)l * values : one;
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
        s->layer[l] = series->cells[l].layer;
        KS_TRY(ks_dataset_read(dataset, dataset->acts, dataset->row,
                               series->stream, series->position, s->layer[l],
                               buffer, x, err));
        if (mean && l >= s->first) add_layer(s, x);
    }
    for (size_t k = 0; mean && k < values; k++)
        s->mean[k] /= (float)KS_MAX(s->n_layers - s->first, 1);
done:
    free(buffer);
    free(one);
    if (st != KS_OK) ks_stack_free(out);
    return st;
}

void ks_stack_free(ks_stack *stack) {
    free(stack->layer);
    free(stack->x);
    free(stack->mean);
    *stack = (ks_stack){0};
}
