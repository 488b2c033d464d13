/* analyses.h - what a grid of probes says beyond each layer's accuracy: how
 * layers agree, whether a layer's probe works on another layer, how many
 * layers are needed, what the control task finds, and what more problems would
 * bring. All on the grid's rows and folds; no test row decides anything.
 *
 * A figure's interval is a percentile bootstrap over problems (stats.h). */
#ifndef KS_ANALYSES_H
#define KS_ANALYSES_H

#include "grid.h"

typedef enum ks_analysis {
    KS_REFINEMENT,
    KS_LAYER_TRANSFER,
    KS_LAYERS_NEEDED,
    KS_SELECTIVITY,
    KS_LEARNING_CURVE,
    KS_SURFACE, /* of independence.h */
    KS_N_ANALYSES
} ks_analysis;

/* "layer-transfer" */
const char *ks_analysis_name(ks_analysis analysis);

/* How the layers of a series relate to its last one. */
typedef struct ks_refinement {
    ks_interval *agreement;   /* [n_cells] share of rows that the layer's probe
                                 and the last layer's predict alike */
    ks_interval *correlation; /* [n_cells] Pearson's, of their scores */
    /* over layers 1 and up, NaN for fewer than 3 */
    ks_interval trend;     /* Spearman's, of layer and balanced accuracy */
    ks_interval near_best; /* share of them at most 3 points below the best
                              layer as chosen in the training folds: the largest
                              of several figures is large by chance, too */
} ks_refinement;

/* Probes of one layer on another's activations. */
typedef struct ks_layer_transfer {
    double *accuracy; /* [n_cells trained on, n_cells tested on] balanced */
} ks_layer_transfer;

/* The best layers together: logistic regression on the probes' scores. */
enum { KS_MOST_NEEDED = 8 };
typedef struct ks_layers_needed {
    int32_t n_sizes; /* 1, 2, .. and all */
    int32_t size[KS_MOST_NEEDED + 1];
    int32_t *chosen; /* [n_sizes - 1, n_fits, KS_MOST_NEEDED] places in cells,
                        -1 behind the size, in the order they were taken */
    ks_interval accuracy[KS_MOST_NEEDED + 1]; /* balanced */
    ks_interval minus_all[KS_MOST_NEEDED + 1];
    float *score; /* [n] of all layers together */
} ks_layers_needed;

/* The control task (Hewitt and Liang 2019, "Designing and Interpreting Probes
 * with Control Tasks"): each different text has a random label of its own. */
typedef struct ks_selectivity {
    int32_t layer; /* that most folds chose; each fold's is its own choice */
    ks_interval real, control, selectivity; /* balanced accuracies; apart */
} ks_selectivity;

enum { KS_CURVE_POINTS = 4, KS_CURVE_DRAWS = 3 };
typedef struct ks_learning_curve {
    int32_t layer; /* that most folds chose; each fold's is its own choice */
    int32_t n_points;
    double problems[KS_CURVE_POINTS];      /* that train, mean over folds */
    ks_interval accuracy[KS_CURVE_POINTS]; /* balanced */
} ks_learning_curve;

/* [n_series] each; NULL: not asked for, or not to be had. */
typedef struct ks_analyses {
    ks_refinement *refinement;
    ks_layer_transfer *layer_transfer;
    ks_layers_needed *layers_needed;
    ks_selectivity *selectivity; /* needs text */
    ks_learning_curve *learning_curve;
    int32_t fits, unconverged;
    int32_t n_series;
} ks_analyses;

/* What every analysis reads. The grid was run with keep_weights (for
 * KS_LAYER_TRANSFER) and keep_inner (for KS_LAYERS_NEEDED). */
typedef struct ks_analysis_input {
    const ks_dataset *dataset;
    const ks_grid *grid;
    const ks_folds *folds;
    const ks_grid_options *options;
} ks_analysis_input;

/* which: bit set of ks_analysis. out starts as {0}; a failed run leaves {0}. */
ks_status ks_analyses_run(ks_analyses *out, const ks_analysis_input *in,
                          uint32_t which, ks_err *err);
void ks_analyses_free(ks_analyses *analyses);

/* Of one series, allocating what out holds. */
ks_status ks_refine(ks_refinement *out, const ks_analysis_input *in,
                    const ks_series *series, ks_err *err);
ks_status ks_layer_transfer_run(ks_layer_transfer *out,
                                const ks_analysis_input *in,
                                const ks_series *series, ks_err *err);
/* Subsets grow by the layer that lowers the balanced log-loss on the training
 * rows most; the logistic regression reads margins of inner fits there and of
 * the outer fit on test rows. */
ks_status ks_layers_needed_run(ks_layers_needed *out,
                               const ks_analysis_input *in,
                               const ks_series *series, ks_err *err);
/* Bytes that they take of a series of so many layers, x: one of them as the
 * file has it, and those of their results, which stay. */
size_t ks_layer_transfer_bytes(const ks_l2_source *x, int32_t n_cells);
size_t ks_layer_transfer_kept(int32_t n_cells);
size_t ks_layers_needed_bytes(const ks_folds *folds, int32_t n_cells,
                              int threads);
size_t ks_layers_needed_kept(const ks_folds *folds, int32_t n_cells);
/* For each outer fold on the layer that it chose; fits and unconverged are
 * added to. A control whose training folds hold one class alone has NaN. */
ks_status ks_selectivity_run(ks_selectivity *out, const ks_analysis_input *in,
                             const ks_series *series, int32_t *fits,
                             int32_t *unconverged, ks_err *err);
/* Likewise: an eighth, a quarter, a half and all of the training problems,
 * strengths chosen anew, mean of KS_CURVE_DRAWS choices of problems. Points
 * at which some fold would have no training row of a class are left out. */
ks_status ks_learning_curve_run(ks_learning_curve *out,
                                const ks_analysis_input *in,
                                const ks_series *series, int32_t *fits,
                                int32_t *unconverged, ks_err *err);

/* ks_nest_fit on the layer that the grid chose for each outer fold in its
 * training folds, in memory or in a scratch file as the grid's room has it.
 * chosen: [folds->n_seeds, n_folds] places in cells. score [folds->n_seeds, n]:
 * margins out of fold. fits and unconverged are added to. */
ks_status ks__analysis_fit(float *score, const ks_analysis_input *in,
                           const ks_series *series, const int32_t *chosen,
                           const int8_t *const *y, const ks_folds *folds,
                           int32_t *fits, int32_t *unconverged, ks_err *err);

#endif
