/* analyses.c - see analyses.h. */
#include "analyses.h"

#include <stdlib.h>

#include "holds.h"
#include "layer.h"

const char *ks_analysis_name(ks_analysis analysis) {
    static const char *const names[] = {"refinement",     "layer-transfer",
                                        "layers-needed",  "selectivity",
                                        "learning-curve", "surface"};
    return (size_t)analysis < KS_COUNT(names) ? names[analysis] : "?";
}

typedef struct needs {
    const ks_l2_source *source;
    const ks_folds *folds;
    const ks_nest_options *options;
} needs;

static size_t bytes(void *user, int threads, bool scratch) {
    const needs *u = user;
    return ks_nest_bytes(u->source->d, u->source->type, u->folds, u->options,
                         threads, scratch);
}

/* The outer folds in the bit set `outer`, 0: all, of one layer. */
static ks_status fit_layer(ks_nest *out, const ks_analysis_input *in,
                           const ks_series *series, int32_t layer,
                           uint32_t outer, const int8_t *const *y,
                           const ks_folds *folds, ks_err *err) {
    ks_status st = KS_OK;
    ks_nest_options options = in->options->nest;
    ks_layer of = {.dataset = in->dataset,
                   .file = in->dataset->acts,
                   .place = in->dataset->row,
                   .stream = series->stream,
                   .position = series->position,
                   .layer = layer};
    ks_l2_source source = ks_layer_source(&of);
    needs user = {&source, folds, &options};
    options.keep_weights = options.keep_inner = false;
    options.outer = outer;
    KS_TRY(ks_room_fit(&in->options->room, bytes, &user, "an analysis",
                       &options, err));
    KS_TRY(ks_nest_fit_from(out, &source, y, folds, &options, err));
done:
    return st;
}

ks_status ks__analysis_fit(float *score, const ks_analysis_input *in,
                           const ks_series *series, const int32_t *chosen,
                           const int8_t *const *y, const ks_folds *folds,
                           int32_t *fits, int32_t *unconverged, ks_err *err) {
    ks_status st = KS_OK;
    ks_nest nest = {0};
    int32_t n_folds = folds->n_folds;
    for (int32_t c = 0; c < series->n_cells; c++) {
        uint32_t outer = 0; /* of any seed */
        for (int32_t s = 0; s < folds->n_seeds; s++)
            outer |= ks__holds_choosing(chosen + s * n_folds, n_folds, c);
        if (!outer) continue;
        KS_TRY(fit_layer(&nest, in, series, series->cells[c].layer, outer, y,
                         folds, err));
        *fits += nest.columns;
        *unconverged += nest.unconverged;
        for (int64_t i = 0; i < folds->n_seeds * folds->n; i++) {
            int64_t seed = i / folds->n;
            if (chosen[seed * n_folds + folds->fold[i] % n_folds] == c)
                score[i] = nest.score[i];
        }
        ks_nest_free(&nest);
    }
done:
    ks_nest_free(&nest);
    return st;
}

static ks_status alloc_all(ks_analyses *out, uint32_t which, bool has_text,
                           ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)KS_MAX(out->n_series, 1);
    if (which >> KS_REFINEMENT & 1)
        KS_TRY(ks_alloc(&out->refinement, n, sizeof *out->refinement,
                        "analyses", err));
    if (which >> KS_LAYER_TRANSFER & 1)
        KS_TRY(ks_alloc(&out->layer_transfer, n, sizeof *out->layer_transfer,
                        "analyses", err));
    if (which >> KS_LAYERS_NEEDED & 1)
        KS_TRY(ks_alloc(&out->layers_needed, n, sizeof *out->layers_needed,
                        "analyses", err));
    if ((which >> KS_SELECTIVITY & 1) && has_text)
        KS_TRY(ks_alloc(&out->selectivity, n, sizeof *out->selectivity,
                        "analyses", err));
    if (which >> KS_LEARNING_CURVE & 1)
        KS_TRY(ks_alloc(&out->learning_curve, n, sizeof *out->learning_curve,
                        "analyses", err));
done:
    return st;
}

ks_status ks_analyses_run(ks_analyses *out, const ks_analysis_input *in,
                          uint32_t which, ks_err *err) {
    ks_status st = KS_OK;
    *out = (ks_analyses){.n_series = in->grid->n_series};
    KS_TRY(alloc_all(out, which, in->dataset->has_text, err));
    for (int32_t k = 0; k < out->n_series; k++) {
        const ks_series *s = &in->grid->series[k];
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
        if (out->refinement) KS_TRY(ks_refine(&out->refinement[k], in, s, err));
        if (out->layer_transfer)
            KS_TRY(ks_layer_transfer_run(&out->layer_transfer[k], in, s, err));
        if (out->layers_needed)
            KS_TRY(ks_layers_needed_run(&out->layers_needed[k], in, s, err));
        if (out->selectivity)
            KS_TRY(ks_selectivity_run(&out->selectivity[k], in, s, &out->fits,
                                      &out->unconverged, err));
        if (out->learning_curve)
            KS_TRY(ks_learning_curve_run(&out->learning_curve[k], in, s,
                                         &out->fits, &out->unconverged, err));
        if (in->options->progress)
            in->options->progress(in->options->user, k + 1);
    }
done:
    if (st != KS_OK) ks_analyses_free(out);
    return st;
}

void ks_analyses_free(ks_analyses *a) {
    for (int32_t k = 0; k < a->n_series; k++) {
        if (a->refinement) {
            free(a->refinement[k].agreement);
            free(a->refinement[k].correlation);
        }
        if (a->layer_transfer) free(a->layer_transfer[k].accuracy);
        if (a->layers_needed) {
            free(a->layers_needed[k].chosen);
            free(a->layers_needed[k].score);
        }
    }
    free(a->refinement);
    free(a->layer_transfer);
    free(a->layers_needed);
    free(a->selectivity);
    free(a->learning_curve);
    *a = (ks_analyses){0};
}
