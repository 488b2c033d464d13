/* layer_transfer.c - ks_layer_transfer_run of analyses.h: a layer's probes on
 * other layers' activations, standardised as those layers' own probes have it.
 * What is compared are directions: norms grow from layer to layer, and under
 * the trained layer's mean and scale a probe would fail for that alone. */
#include <stdlib.h>
#include <string.h>

#include "analyses.h"
#include "blas.h"
#include "ops.h"

enum { PIECE = 2048 }; /* rows at a time */

typedef struct work {
    const ks_analysis_input *in;
    const ks_series *series;
    int64_t *place; /* [n] of the file, of a fold's rows */
    int64_t *row;   /* [n] of the data set, likewise */
    void *raw;      /* [PIECE, d] as stored */
    float *x;       /* [PIECE, d] standardised */
    float *weight;  /* [n_cells, d] of the fold's probes, on x */
    float *margin;  /* [PIECE, n_cells] */
    double *score;  /* [n_cells, n] sums over seeds */
    float *mean;    /* [n] of a layer */
} work;

/* Margins of every layer's probe of a fit on some rows of its fold. */
static ks_status score_rows(work *w, const ks_cell *tested, int32_t fit,
                            int64_t begin, int64_t m, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *data = w->in->dataset;
    int64_t d = tested->nest.d, n_cells = w->series->n_cells;
    const float *mean = tested->nest.mean + fit * d,
                *scale = tested->nest.scale + fit * d;
    KS_TRY(ks_acts_gather(data->acts, w->series->stream, w->series->position,
                          tested->layer, w->place + begin, m, w->raw, err));
    ks_dequantize(data->info->dtype, w->raw, w->x, m * d);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < d; j++)
            w->x[i * d + j] = (w->x[i * d + j] - mean[j]) / scale[j];
    ks__gemm_f32(false, true, m, n_cells, d, w->x, d, w->weight, d, 0,
                 w->margin, n_cells);
    for (int64_t i = 0; i < m; i++)
        for (int64_t c = 0; c < n_cells; c++)
            w->score[c * data->n + w->row[begin + i]] +=
                (double)w->margin[i * n_cells + c] +
                (double)w->series->cells[c].nest.bias[fit];
done:
    return st;
}

static ks_status score_fold(work *w, const ks_cell *tested, int32_t fit,
                            ks_err *err) {
    ks_status st = KS_OK;
    const ks_folds *f = w->in->folds;
    int64_t d = tested->nest.d, m = 0;
    const uint8_t *fold = f->fold + fit / f->n_folds * f->n;
    for (int64_t i = 0; i < f->n; i++)
        if (fold[i] == fit % f->n_folds) {
            w->place[m] = w->in->dataset->row[i];
            w->row[m++] = i;
        }
    for (int32_t c = 0; c < w->series->n_cells; c++)
        memcpy(w->weight + c * d, w->series->cells[c].nest.weight + fit * d,
               (size_t)d * sizeof(float));
    for (int64_t at = 0; at < m; at += PIECE)
        KS_TRY(score_rows(w, tested, fit, at, KS_MIN(PIECE, m - at), err));
done:
    return st;
}

static ks_status test_layer(work *w, int32_t tested, double *accuracy,
                            ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = w->in->dataset;
    int32_t n_cells = w->series->n_cells;
    const ks_cell *cell = &w->series->cells[tested];
    memset(w->score, 0, sizeof *w->score * (size_t)(n_cells * d->n));
    for (int32_t fit = 0; fit < cell->nest.n_fits; fit++)
        KS_TRY(score_fold(w, cell, fit, err));
    for (int32_t c = 0; c < n_cells; c++) {
        double metrics[KS_N_METRICS];
        for (int64_t i = 0; i < d->n; i++)
            w->mean[i] =
                (float)(w->score[c * d->n + i] / w->in->folds->n_seeds);
        ks_scored rows = ks_grid_scored(d, w->mean);
        KS_TRY(ks_stats_metrics(&rows, metrics, err));
        accuracy[c * n_cells + tested] = metrics[KS_BALANCED_ACCURACY];
    }
done:
    return st;
}

size_t ks_layer_transfer_bytes(const ks_l2_source *x, int32_t n_cells) {
    size_t n = (size_t)x->n, d = (size_t)x->d, cells = (size_t)n_cells;
    size_t piece = ks_type_row_bytes(x->type, x->d) +
                   (d + cells) * sizeof(float); /* raw, x, margin of a row */
    return n * (2 * sizeof(int64_t) + sizeof(float)) +
           cells * (n * sizeof(double) + d * sizeof(float)) +
           KS_MIN(PIECE, n) * piece;
}

size_t ks_layer_transfer_kept(int32_t n_cells) {
    return (size_t)n_cells * (size_t)n_cells * sizeof(double);
}

ks_status ks_layer_transfer_run(ks_layer_transfer *out,
                                const ks_analysis_input *in,
                                const ks_series *series, ks_err *err) {
    ks_status st = KS_OK;
    work w = {.in = in, .series = series};
    size_t n = (size_t)in->folds->n, n_cells = (size_t)series->n_cells,
           d = (size_t)in->grid->d;
    int restore = ks__blas_serial();
    KS_TRY(ks_alloc(&out->accuracy, n_cells * n_cells, sizeof *out->accuracy,
                    "layer transfer", err));
    KS_TRY(ks_alloc(&w.place, n, sizeof *w.place, "rows", err));
    KS_TRY(ks_alloc(&w.row, n, sizeof *w.row, "rows", err));
    KS_TRY(ks_alloc(&w.raw, PIECE * d, sizeof(float), "activations", err));
    KS_TRY(ks_alloc(&w.x, PIECE * d, sizeof *w.x, "activations", err));
    KS_TRY(ks_alloc(&w.weight, n_cells * d, sizeof *w.weight, "weights", err));
    KS_TRY(
        ks_alloc(&w.margin, PIECE * n_cells, sizeof *w.margin, "margins", err));
    KS_TRY(ks_alloc(&w.score, n * n_cells, sizeof *w.score, "scores", err));
    KS_TRY(ks_alloc(&w.mean, n, sizeof *w.mean, "scores", err));
    for (int32_t c = 0; c < series->n_cells; c++)
        KS_TRY(test_layer(&w, c, out->accuracy, err));
done:
    free(w.place);
    free(w.row);
    free(w.raw);
    free(w.x);
    free(w.weight);
    free(w.margin);
    free(w.score);
    free(w.mean);
    ks__blas_restore(restore);
    return st;
}
