/* independence.h - how far labels and the best layer's scores go with surface
 * features, and what the probe still knows once those are taken out of the
 * activations. */
#ifndef KS_INDEPENDENCE_H
#define KS_INDEPENDENCE_H

#include "grid.h"

/* Correlations of one feature over all rows, intervals over problems. */
typedef struct ks_surface_r {
    const char *name;
    ks_interval labels;      /* point-biserial */
    ks_interval scores;      /* with the best layer's out-of-fold scores */
    ks_interval predictions; /* with their signs: point-biserial */
} ks_surface_r;

typedef struct ks_removed_layer {
    int32_t layer; /* unless it is of all layers: that most folds chose, and
                      each fold's is its own choice */
    float *score;  /* [n] of the probe on what is left */
    ks_interval metrics[KS_N_METRICS];
    ks_interval minus; /* balanced accuracy, paired, less that of the probe on
                          the same layers as they are */
} ks_removed_layer;

typedef struct ks_removed_series {
    int32_t n_layers;
    ks_removed_layer *at;
} ks_removed_series;

typedef struct ks_independence {
    int32_t n_features; /* 0: the data set has no text, nothing is known */
    ks_surface_r *features;
    int32_t of; /* the series of the scores: resid mean, or else the first */
    int32_t n_series;
    ks_removed_series *removed; /* [n_series], as in the grid */
    int32_t fits, unconverged;
} ks_independence;

/* Features of KS_SURFACE_ALL, taken out for each outer fold of the layer that
 * it chose. options: as of the grid; progress counts series. out starts as {0};
 * a failed call leaves {0}. */
ks_status ks_independence_run(ks_independence *out, const ks_dataset *dataset,
                              const ks_grid *grid, const ks_folds *folds,
                              const ks_grid_options *options, ks_err *err);
/* Bytes that it takes beside the rows of a layer, of a data set with text. */
size_t ks_independence_bytes(const ks_dataset *dataset, const ks_folds *folds,
                             const ks_grid_options *options, int threads,
                             bool scratch);
void ks_independence_free(ks_independence *out);

/* A section of the table; nothing without features. */
ks_status ks_independence_table(const ks_independence *independence,
                                const ks_grid *grid, bool markdown, ks_str *out,
                                ks_err *err);
/* {"stream","position","features":[..],"removed":[..]} of summary.json, of one
 * with features. */
json_t *ks_independence_json(const ks_independence *independence,
                             const ks_grid *grid);

#endif
