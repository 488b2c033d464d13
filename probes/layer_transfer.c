/* layer_transfer.c - ks_layer_transfer_run of analyses.h: a layer's probes on
 * other layers' activations, standardised as those layers' own probes have it.
 * What is compared are directions: norms grow from layer to layer, and under
 * the trained layer's mean and scale a probe would fail for that alone. */
#include <stdlib.h>
#include <string.h>

#include "analyses.h"
#include "blas.h"

typedef struct work {
    const ks_analysis_input *in;
    const ks_series *series;
    float *x;       /* [n, d] of the tested layer */
    float *rows;    /* [n, d] of one fold */
    int64_t *place; /* [n] their rows */
    float *weight;  /* [n_cells, d] of the fold's probes, on rows */
    float *margin;  /* [n, n_cells] of the fold */
    double *score;  /* [n_cells, n] sums over seeds */
    float *mean;    /* [n] of a layer */
} work;

/* Margins of every layer's probe of a fit on the rows of its fold. */
static void score_fold(work *w, const ks_nest *tested, int32_t fit) {
    const ks_folds *f = w->in->folds;
    int64_t d = tested->d, m = 0, n_cells = w->series->n_cells;
    const uint8_t *fold = f->fold + fit / f->n_folds * f->n;
    const float *mean = tested->mean + fit * d,
                *scale = tested->scale + fit * d;
    for (int64_t i = 0; i < f->n; i++) {
        if (fold[i] != fit % f->n_folds) continue;
        float *row = w->rows + m * d;
        for (int64_t j = 0; j < d; j++)
            row[j] = (w->x[i * d + j] - mean[j]) / scale[j];
        w->place[m++] = i;
    }
    for (int32_t c = 0; c < n_cells; c++)
        memcpy(w->weight + c * d, w->series->cells[c].nest.weight + fit * d,
               (size_t)d * sizeof(float));
    ks__gemm_f32(false, true, m, n_cells, d, w->rows, d, w->weight, d, 0,
                 w->margin, n_cells);
    for (int64_t i = 0; i < m; i++)
        for (int64_t c = 0; c < n_cells; c++)
            w->score[c * f->n + w->place[i]] +=
                (double)w->margin[i * n_cells + c] +
                (double)w->series->cells[c].nest.bias[fit];
}

static ks_status test_layer(work *w, int32_t tested, double *accuracy,
                            ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = w->in->dataset;
    int32_t n_cells = w->series->n_cells;
    const ks_cell *cell = &w->series->cells[tested];
    memset(w->score, 0, sizeof *w->score * (size_t)(n_cells * d->n));
    KS_TRY(ks__analysis_rows(w->in, w->series, cell->layer, &w->x, err));
    for (int32_t fit = 0; fit < cell->nest.n_fits; fit++)
        score_fold(w, &cell->nest, fit);
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
    free(w->x);
    w->x = NULL;
    return st;
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
    KS_TRY(ks_alloc(&w.rows, n * d, sizeof *w.rows, "activations of a layer",
                    err));
    KS_TRY(ks_alloc(&w.place, n, sizeof *w.place, "rows", err));
    KS_TRY(ks_alloc(&w.weight, n_cells * d, sizeof *w.weight, "weights", err));
    KS_TRY(ks_alloc(&w.margin, n * n_cells, sizeof *w.margin, "margins", err));
    KS_TRY(ks_alloc(&w.score, n * n_cells, sizeof *w.score, "scores", err));
    KS_TRY(ks_alloc(&w.mean, n, sizeof *w.mean, "scores", err));
    for (int32_t c = 0; c < series->n_cells; c++)
        KS_TRY(test_layer(&w, c, out->accuracy, err));
done:
    free(w.rows);
    free(w.place);
    free(w.weight);
    free(w.margin);
    free(w.score);
    free(w.mean);
    ks__blas_restore(restore);
    return st;
}
