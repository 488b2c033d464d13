/* shown.h - the chains of one run that are shown. Internal to reader*.c. */
#ifndef KS_REPORT_SHOWN_H
#define KS_REPORT_SHOWN_H

#include "../../probes/export.h"
#include "reader.h"

/* One chain of a run that a chain file has too. */
typedef struct ks_shown_chain {
    const ks_chain *chain;
    int64_t first, n; /* its steps in probes.h5 */
    int32_t probed;   /* of them, labelled and scored */
    double right;     /* share of those that the best layers judge right */
    double apart;     /* mean distance of probability and label */
    bool shown;
} ks_shown_chain;

/* A run's scores: all series, and of each all layers. */
typedef struct ks_shown {
    const ks_run *run;
    ks_probes_info info;
    ks_probes_steps steps;
    float *scores[KS_N_STREAMS * KS_N_POSITIONS]; /* [n_layers, n_steps] */
    float *best; /* [n_steps] of the series that does best */
    int best_series;
    ks_shown_chain *at; /* [n] in the order of probes.h5 */
    size_t n, n_shown;
} ks_shown;

/* Reads a run's probes.h5 and finds its chains in the files: by id, and their
 * text must be the one that was probed. n stays 0 where none is there. */
ks_status ks__shown_read(ks_shown *out, const ks_run *run,
                         const ks_chains *files, size_t n_files, ks_err *err);
/* Marks at most `most` of them, spread evenly over how well the probe does, and
 * no more than their texts and scores have room in `bytes`. */
ks_status ks__shown_choose(ks_shown *shown, size_t most, size_t bytes,
                           ks_err *err);
void ks__shown_free(ks_shown *shown);

#endif
