/* export.h - the report as files: CSV, JSON, HDF5. */
#ifndef KS_EXPORT_H
#define KS_EXPORT_H

#include "report.h"

/* dataset,model,stream,position,layer,context,probe,strength,seed,fold,split,
 * n,accuracy,balanced_accuracy,auc,within_chain_auc,brier,ci_low,ci_high: one
 * row a fit (split test: its held-out rows), one pooled over folds and seeds
 * (fold all) with the 95% interval of balanced accuracy. layer "best": chosen
 * inside the training folds, strength empty. Baselines have no stream,
 * position and layer; ci_low and ci_high of permuted labels are the spread of
 * the permutations. */
ks_status ks_export_csv(const ks_report *report, ks_str *out, ks_err *err);
/* A new reference. */
ks_status ks_export_json(const ks_report *report, json_t **out, ks_err *err);
/* /probes/<stream>-<position>/: layer [layers], strength [layers, seeds,
 * folds], weight, mean, scale [layers, seeds, folds, d], bias [layers, seeds,
 * folds], scores [layers, steps], chosen_layer [seeds, folds], best_scores
 * [steps]; /fold [seeds, steps] (255: not probed). A score is
 * sum weight (x - mean) / scale + bias of the fits whose fold the step is in,
 * mean over seeds; NaN for steps not probed. Written as path.part, renamed. */
ks_status ks_export_h5(const ks_report *report, const char *path, ks_err *err);

#endif
