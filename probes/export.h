/* export.h - an evaluation as files: CSV, JSON, HDF5. */
#ifndef KS_EXPORT_H
#define KS_EXPORT_H

#include "evaluation.h"

/* dataset,model,stream,position,layer,context,probe,strength,seed,fold,split,
 * n,accuracy,balanced_accuracy,auc,within_chain_auc,brier,ci_low,ci_high: one
 * row a fit (split test: its held-out rows), one pooled over folds and seeds
 * (fold all) with the 95% interval of balanced accuracy. layer "best": chosen
 * inside the training folds, strength empty. Baselines have no stream,
 * position and layer; ci_low and ci_high of permuted labels are the spread of
 * the permutations. */
ks_status ks_export_csv(const ks_evaluation *run, ks_str *out, ks_err *err);
#define KS_METRICS_HEAD                                                        \
    "dataset,model,stream,position,layer,context,probe,strength,seed,fold,"    \
    "split,n,accuracy,balanced_accuracy,auc,within_chain_auc,brier,ci_low,"    \
    "ci_high\n"
/* A new reference. */
ks_status ks_export_json(const ks_evaluation *run, json_t **out, ks_err *err);
/* /probes/<stream>-<position>/: layer [layers], strength [layers, seeds,
 * folds], weight, mean, scale [layers, seeds, folds, d], bias [layers, seeds,
 * folds], scores [layers, steps], chosen_layer [seeds, folds], best_scores
 * [steps]; /fold [seeds, steps] (255: not probed); /steps/chain, byte_begin,
 * byte_end, label [steps] and /chains/id, problem, text_sha256 [chains], as in
 * the activation file (label: 1, 0, -1 not probed). A score is
 * sum weight (x - mean) / scale + bias of the fits whose fold the step is in,
 * mean over seeds; NaN for steps not probed. Written as path.part, renamed.
 * trained/<kind>/ in it: weights of the trained kinds (docs/formats.md). */
ks_status ks_export_h5(const ks_evaluation *evaluation, const char *path,
                       ks_err *err);

/* ------------------------------------------------------- probes.h5 read back
 */

typedef struct ks_probes_series {
    ks_stream stream;
    ks_position position;
    int32_t n_layers, *layer; /* [n_layers] */
    int32_t *chosen;          /* [n_seeds, n_folds] a layer's number */
    bool has_weights;
} ks_probes_series;

typedef struct ks_probes_info {
    char *model_name, *model_sha256, *context, *program_version;
    int64_t n_steps, n_probed; /* of the activation file; with a score */
    int32_t n_seeds, n_folds;
    int32_t d; /* 0: no weights in the file */
    int n_series;
    ks_probes_series series[KS_N_STREAMS * KS_N_POSITIONS];
} ks_probes_info;

/* An HDF5 file with /probes in it. */
bool ks_probes_is(const char *path);
/* What the file holds, every shape checked; a failed read leaves {0}. */
ks_status ks_probes_read(ks_probes_info *out, const char *path, ks_err *err);
void ks_probes_free(ks_probes_info *probes);
/* The steps that the scores are of. */
typedef struct ks_probes_steps {
    int64_t n_steps, n_chains;
    int32_t *chain;       /* [n_steps] ascending, of 0..n_chains-1 */
    int32_t *begin, *end; /* [n_steps] bytes of the chain's text, in order */
    int8_t *label;        /* [n_steps] 1, 0, -1: not probed */
    const char **id, **problem, **text_sha256; /* [n_chains] */
    char *texts[3];                            /* where those lie */
} ks_probes_steps;

/* KS_FORMAT also where the file has none. */
ks_status ks_probes_steps_read(ks_probes_steps *out, const char *path,
                               ks_err *err);
void ks_probes_steps_free(ks_probes_steps *steps);
/* Out-of-fold scores of one series: all [n_layers, n_steps], best [n_steps];
 * NaN where a step was not probed. */
ks_status ks_probes_scores_read(const ks_probes_info *probes, int series,
                                const char *path, float *all, float *best,
                                ks_err *err);
/* The series of a stream and position, -1: none. */
int ks_probes_find(const ks_probes_info *p, ks_stream stream,
                   ks_position position);
/* The layer that most folds chose, the first of equals. */
int32_t ks_probes_usual(const ks_probes_info *probes, int series);

#endif
