/* stack.c - see stack.h. */
#include "stack.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "layer.h"
#include "scratch.h"
#include "window.h"

/* Rows at a time. */
typedef struct work {
    ks_stack *out;
    const ks_stack_options *o;
    ks_layer *layers;      /* [n_layers] */
    ks_l2_source *sources; /* [n_layers] */
    ks__window window;
    float *sum; /* [KS_WINDOW, d] over layers */
    float *row; /* [stride], zeros behind d */
} work;

static double matrices(const ks_stack *s, const ks_stack_options *o) {
    return (o->all ? s->n_layers : 0) + (o->mean ? 1 : 0);
}

double ks_stack_least(const ks_acts_info *info) {
    const ks_l2_source of = {.d = info->d, .type = info->dtype};
    double row = (double)ks_adamw_stride(info->d) * sizeof(float);
    return (double)ks__window_bytes(&of, KS_WINDOW) + (KS_WINDOW + 1) * row;
}

/* In memory, with the copy that a trainer makes where rows are padded. */
static double bytes_of(const ks_stack *s, const ks_stack_options *o,
                       const ks_acts_info *info) {
    double layer = (double)s->n * (double)s->d * sizeof(float);
    double padded =
        (double)s->n * sizeof(float) * (double)ks_adamw_stride(s->d);
    double copies = (o->all ? s->n_layers : 1) + 1;
    if (o->in_memory) copies = 1; /* the others are the device's */
    if (!o->in_memory && s->d == ks_adamw_stride(s->d)) copies = 0;
    return matrices(s, o) * layer + copies * padded + ks_stack_least(info);
}

/* ------------------------------------------------------------------- places
 */

static ks_status open_file(const work *w, ks_adamw_file *file, int32_t n,
                           ks_err *err) {
    const ks_stack *s = w->out;
    int64_t row = ks_adamw_stride(s->d) * (int64_t)sizeof(float);
    ks_status st =
        ks__scratch_open(&file->fd, w->o->room.scratch, s->n * n * row, err);
    if (st == KS_OK) file->matrices = n;
    return st;
}

static ks_status place(work *w, const ks_dataset *d, const ks_series *series,
                       ks_err *err) {
    ks_status st = KS_OK;
    ks_stack *s = w->out;
    const ks_stack_options *o = w->o;
    size_t values = (size_t)s->n * (size_t)s->d;
    double most = (double)ks_room_left(&o->room) - o->besides;
    double bytes = bytes_of(s, o, d->info);
    bool fits = bytes <= most;
    KS_CHECK(
        fits || (o->room.scratch && !o->in_memory), KS_LIMIT,
        "probes over the layers of %s/%s hold %.0f at once: %.0f bytes for "
        "%lld steps of %lld features, %s %.0f; more --memory or fewer "
        "--layers",
        ks_stream_name(series->stream), ks_position_name(series->position),
        matrices(s, o), bytes, (long long)s->n, (long long)s->d,
        o->room.limit ? "--memory leaves" : "this machine has", most);
    if (o->all && fits)
        KS_TRY(ks_alloc(&s->x, (size_t)s->n_layers * values, sizeof *s->x,
                        "activations of all layers", err));
    if (o->mean && fits)
        KS_TRY(ks_alloc(&s->mean, values, sizeof *s->mean,
                        "activations of a layer", err));
    if (o->all && !fits) KS_TRY(open_file(w, &s->file, s->n_layers, err));
    if (o->mean && !fits) KS_TRY(open_file(w, &s->mean_file, 1, err));
done:
    return st;
}

/* ------------------------------------------------------------------ reading
 */

/* Rows [from, from + n), which lie at x, of matrix k of a file. */
static ks_status write_rows(const work *w, const ks_adamw_file *file, int32_t k,
                            int64_t from, int64_t n, const float *x,
                            ks_err *err) {
    ks_status st = KS_OK;
    int64_t d = w->out->d, stride = ks_adamw_stride(d);
    size_t size = (size_t)stride * sizeof *x;
    for (int64_t i = 0; i < n; i++) {
        int64_t at = ((from + i) * file->matrices + k) * (int64_t)size;
        memcpy(w->row, x + i * d, (size_t)d * sizeof *x);
        KS_TRY(ks__scratch_write(file->fd, w->row, size, at, err));
    }
done:
    return st;
}

/* Rows [from, from + n) of layer l. */
static ks_status take(work *w, int32_t l, int64_t from, int64_t n,
                      ks_err *err) {
    ks_status st = KS_OK;
    ks_stack *s = w->out;
    const float *x;
    w->window.of = &w->sources[l];
    KS_TRY(ks__window_get(&w->window, from, n, &x, err));
    if (s->x)
        memcpy(s->x + (l * s->n + from) * s->d, x,
               (size_t)(n * s->d) * sizeof *x);
    if (s->file.matrices) KS_TRY(write_rows(w, &s->file, l, from, n, x, err));
    for (int64_t k = 0; w->o->mean && l >= s->first && k < n * s->d; k++)
        w->sum[k] += x[k];
done:
    return st;
}

static ks_status put_mean(work *w, int64_t from, int64_t n, ks_err *err) {
    ks_stack *s = w->out;
    float by = (float)KS_MAX(s->n_layers - s->first, 1);
    if (!w->o->mean) return KS_OK;
    for (int64_t k = 0; k < n * s->d; k++) w->sum[k] /= by;
    if (s->mean_file.matrices)
        return write_rows(w, &s->mean_file, 0, from, n, w->sum, err);
    memcpy(s->mean + from * s->d, w->sum, (size_t)(n * s->d) * sizeof *w->sum);
    return KS_OK;
}

static ks_status read_all(work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_stack *s = w->out;
    size_t window = KS_WINDOW * (size_t)s->d;
    KS_TRY(ks_alloc(&w->sum, window, sizeof *w->sum, "rows", err));
    KS_TRY(ks_alloc(&w->row, (size_t)ks_adamw_stride(s->d), sizeof *w->row,
                    "rows", err));
    KS_TRY(ks__window_open(&w->window, &w->sources[0], KS_WINDOW, err));
    for (int64_t from = 0; from < s->n; from += KS_WINDOW) {
        int64_t n = KS_MIN(KS_WINDOW, s->n - from);
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
        memset(w->sum, 0, window * sizeof *w->sum);
        for (int32_t l = 0; l < s->n_layers; l++)
            KS_TRY(take(w, l, from, n, err));
        KS_TRY(put_mean(w, from, n, err));
    }
done:
    return st;
}

ks_status ks_stack_read(ks_stack *out, const ks_dataset *d,
                        const ks_series *series, const ks_stack_options *o,
                        ks_err *err) {
    ks_status st = KS_OK;
    size_t layers = (size_t)series->n_cells;
    work w = {.out = out, .o = o};
    *out = (ks_stack){.n = d->n, .d = d->info->d, .n_layers = series->n_cells};
    out->first = series->stream == KS_RESID && series->cells[0].layer == 0;
    KS_TRY(place(&w, d, series, err));
    KS_TRY(ks_alloc(&out->layer, layers, sizeof *out->layer, "layers", err));
    KS_TRY(ks_alloc(&w.layers, layers, sizeof *w.layers, "layers", err));
    KS_TRY(ks_alloc(&w.sources, layers, sizeof *w.sources, "layers", err));
    for (size_t l = 0; l < layers; l++) {
        out->layer[l] = series->cells[l].layer;
        w.layers[l] = (ks_layer){.dataset = d,
                                 .file = d->acts,
                                 .place = d->row,
                                 .stream = series->stream,
                                 .position = series->position,
                                 .layer = out->layer[l]};
        w.sources[l] = ks_layer_source(&w.layers[l]);
    }
    KS_TRY(read_all(&w, err));
done:
    ks__window_close(&w.window);
    free(w.layers);
    free(w.sources);
    free(w.sum);
    free(w.row);
    if (st != KS_OK) ks_stack_free(out);
    return st;
}

void ks_stack_free(ks_stack *stack) {
    free(stack->layer);
    free(stack->x);
    free(stack->mean);
    if (stack->file.matrices) close(stack->file.fd);
    if (stack->mean_file.matrices) close(stack->mean_file.fd);
    *stack = (ks_stack){0};
}
