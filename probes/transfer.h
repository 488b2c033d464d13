/* transfer.h - probes carried from one set of activations to another.
 *
 * A set is an activation file with its labels, or without. Sets on the same
 * chains (the same ids and texts, whoever read them) are compared across
 * models: rows are the steps that every labelled set labels and every file
 * holds, splits are by problem and the same for all. For every self (its
 * labels) and cross (its activations):
 *   - a probe of cross's activations on self's labels;
 *   - self's own probe held against cross's labels;
 *   - self's own probe, unchanged, on cross's activations brought into self's
 *     space by a linear map that was fitted without labels.
 * Labelled sets of one model on different chains are compared across tasks:
 * trained on all of one, tested on the other. */
#ifndef KS_TRANSFER_H
#define KS_TRANSFER_H

#include "grid.h"

enum { KS_MAX_SETS = 16, KS_N_MAP_STRENGTHS = 9 };

/* Of the maps: 1e-5 to 1e3 in decades. */
extern const double ks_map_strengths[KS_N_MAP_STRENGTHS];

typedef struct ks_transfer_source {
    const char *name, *acts;
    const char *labels; /* NULL: the file's own, or none */
} ks_transfer_source;

typedef struct ks_transfer_options {
    int32_t n_sets;
    const ks_transfer_source *sets;
    int32_t n_chains; /* files with the sets' chains, or none */
    const char *const *chains;
    ks_grid_options grid; /* streams, positions: one or more; its layers are
                             taken from layers_of */
    int32_t n_folds, n_inner, n_seeds;
    /* as in ks_evaluation_options */
    ks_status (*layers_of)(const char *text, int32_t n, bool *on, ks_err *err);
    const char *layers;
    void (*begin)(void *user, const char *what, const char *unit,
                  int64_t total);
    void (*end)(void *user);
} ks_transfer_options;

typedef struct ks_transfer_set {
    const ks_transfer_source *source;
    ks_dataset *dataset;      /* NULL: without labels */
    ks_acts_file *file;       /* the data set's, or own */
    const ks_acts_info *info; /* of it */
    bool control;             /* random weights: activations alone */
    int32_t same;             /* the first set on the same chains */
    bool *layers;             /* [n_layers + 1], NULL: all */
    json_t *index;            /* of ks_dataset_index, */
    int64_t *first;           /* as well */
    json_t *questions; /* problem -> SHA-256 of its question; NULL: no chains */
} ks_transfer_set;

/* ----------------------------------------------------------- across models */

/* The steps that sets on the same chains have in common. */
typedef struct ks_transfer_rows {
    int32_t n_sets, *set; /* places in ks_transfer.sets */
    ks_dataset view;      /* its rows, problems and chains; y is of one set at a
                             time, the rest of the first labelled set */
    int64_t *place[KS_MAX_SETS];    /* [n] row in the set's file */
    int8_t *y[KS_MAX_SETS];         /* [n] its labels; NULL: none */
    int32_t labels_of[KS_MAX_SETS]; /* the first set with the same labels */
    uint8_t *fold;                  /* [n_seeds, n] */
    ks_folds folds;
    /* Steps to fit maps on: valid in every file, labelled or not. */
    int64_t n_all;
    int64_t *all[KS_MAX_SETS]; /* [n_all] row in the set's file */
    int64_t *labelled;         /* [n_all] row among the n, or -1 */
    int32_t *problem;          /* [n_all] 0..n_problems-1 */
    int32_t n_problems;
    uint8_t *all_fold; /* [n_seeds, n_all] 255: a problem without a labelled
                          step, which always trains */
} ks_transfer_rows;

typedef enum ks_map_kind {
    KS_MAP_RIDGE,
    KS_MAP_PROCRUSTES,
    KS_MAP_SHUFFLED, /* ridge on pairs that do not belong together */
    KS_MAP_IDENTITY, /* no map: where both have one dimension */
    KS_MAP_MEAN,     /* the training mean, whatever the step */
    KS_N_MAPS
} ks_map_kind;

const char *ks_map_name(ks_map_kind kind);

/* p values of a balanced accuracy (ks_p_within) and of its difference
 * (ks_p_paired; NaN on a diagonal), each also adjusted by Holm over the cells
 * of its matrix, of maps over the pairs of a kind of map. */
typedef struct ks_transfer_p {
    double p, p_holm, minus, minus_holm;
} ks_transfer_p;

/* Self's probe on cross's activations, mapped. */
typedef struct ks_transfer_map {
    bool there;
    ks_interval metrics[KS_N_METRICS]; /* against self's labels */
    ks_interval against_cross;         /* balanced accuracy; NaN: none */
    ks_interval minus_own;             /* less self's probe on its own */
    ks_interval agreement;             /* with self's probe on its own */
    ks_interval r2;                    /* of the map, on held-out problems */
    ks_transfer_p p;                   /* against self's labels; minus_own */
} ks_transfer_map;

/* Labels of self, activations of cross. */
typedef struct ks_transfer_cell {
    bool there;
    float *score;   /* [n] chosen layers, out of fold */
    int32_t *layer; /* [fits] chosen */
    ks_interval metrics[KS_N_METRICS];
    ks_interval minus_self;    /* balanced accuracy, less self's own */
    ks_interval agreement;     /* predictions as those of self's probe */
    ks_interval against_cross; /* self's own probe, cross's labels: balanced
                                  accuracy; NaN: cross has none */
    ks_interval kappa, same;   /* of the two label sets */
    ks_transfer_p p;           /* against self's labels; minus_self */
    ks_transfer_map maps[KS_N_MAPS];
    double *strength;    /* [fits] of the ridge map; NULL: no maps */
    int32_t *from_layer; /* [fits] cross's, which the maps start from */
} ks_transfer_cell;

/* One stream and position of sets on the same chains. */
typedef struct ks_transfer_models {
    const ks_transfer_rows *rows;
    ks_stream stream;
    ks_position position;
    ks_transfer_cell *cells; /* [n_sets, n_sets] self, cross */
} ks_transfer_models;

/* ------------------------------------------------------------ across tasks */

typedef struct ks_transfer_task {
    bool there;
    ks_interval metrics[KS_N_METRICS];
    ks_interval minus_within; /* balanced accuracy, less the tested set's own
                                 cross-validated probe */
    ks_transfer_p p;          /* minus_within */
    int32_t layer;            /* chosen in the set trained on; -1: by fold */
    double strength;
    int64_t n_train;
    json_t *left_out; /* ids of problems that both sets have; or NULL */
} ks_transfer_task;

/* One stream and position of one model's sets on different chains. */
typedef struct ks_transfer_tasks {
    ks_stream stream;
    ks_position position;
    int32_t n_sets, *set;    /* places in ks_transfer.sets */
    ks_transfer_task *cells; /* [n_sets, n_sets] trained on, tested on; the
                                diagonal is within the set, cross-validated */
} ks_transfer_tasks;

/* ---------------------------------------------------------------------- all */

typedef struct ks_transfer {
    const ks_transfer_options *options;
    int32_t n_sets, n_rows, n_models, n_tasks;
    ks_transfer_set *sets;
    ks_transfer_rows *rows; /* of each group of sets on the same chains */
    ks_transfer_models *models;
    ks_transfer_tasks *tasks;
    int32_t fits, unconverged;
} ks_transfer;

/* out starts as {0}; options are borrowed until free. A failed run leaves {0}.
 * KS_MISMATCH where sets have nothing in common, or a problem of a test set
 * cannot be kept out of the training set. */
ks_status ks_transfer_run(ks_transfer *out, const ks_transfer_options *options,
                          ks_err *err);
void ks_transfer_free(ks_transfer *transfer);

/* The tables as text, as in table.h. */
ks_status ks_transfer_table(const ks_transfer *transfer, bool markdown,
                            ks_str *out, ks_err *err);
/* Every figure a line; docs/formats.md. */
ks_status ks_transfer_csv(const ks_transfer *transfer, ks_str *out,
                          ks_err *err);
/* A new reference. */
ks_status ks_transfer_json(const ks_transfer *transfer, json_t **out,
                           ks_err *err);

/* ----------------------------------------------------------- its parts (own)
 */

/* Scores of rows and, unless NULL, cross-validated others of the same rows: p
 * and minus. variance: of the scores as in significance.h, 1 where none of the
 * rows trained them. */
ks_status ks__transfer_p(ks_transfer_p *out, const ks_scored *rows,
                         double variance, const float *other, uint64_t seed,
                         ks_err *err);
/* Adjusts those of one matrix, [n] up to KS_MAX_SETS^2. */
ks_status ks__transfer_holm(ks_transfer_p *const *all, int32_t n, ks_err *err);

/* Fills rows for sets[0..n_sets) of rows->set; transfer_rows.c */
ks_status ks__transfer_rows(ks_transfer_rows *rows, const ks_transfer *transfer,
                            ks_err *err);
void ks__transfer_rows_free(ks_transfer_rows *rows);
/* transfer_models.c */
ks_status ks__transfer_models(ks_transfer *transfer, ks_transfer_models *models,
                              ks_err *err);
void ks__transfer_models_free(ks_transfer_models *models);
/* Self's probe, unchanged, on cross's activations through each kind of map. */
typedef struct ks__mapped {
    bool there[KS_N_MAPS];
    float *score[KS_N_MAPS];    /* [n] out of fold, mean over seeds */
    double *squares[KS_N_MAPS]; /* [n_problems, 2] of held-out steps: error of
                                   the map, what there is to explain */
    double *strength;           /* [fits] of the ridge map */
    int32_t *from_layer;        /* [fits] */
} ks__mapped;

/* self, cross: places in rows; probe: self's own series with weights, from:
 * the one whose chosen layers of cross the maps start at. out starts as {0}.
 * transfer_maps.c */
ks_status ks__transfer_maps(const ks_transfer *transfer,
                            const ks_transfer_models *models, int32_t self,
                            int32_t cross, const ks_series *probe,
                            const ks_series *from, ks__mapped *out,
                            ks_err *err);
void ks__transfer_maps_free(ks__mapped *mapped);
/* transfer_tasks.c */
ks_status ks__transfer_tasks(ks_transfer *transfer, ks_transfer_tasks *tasks,
                             ks_err *err);
void ks__transfer_tasks_free(ks_transfer_tasks *tasks);

#endif
