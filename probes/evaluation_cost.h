/* evaluation_cost.h - what an evaluation would cost: everything is opened and
 * checked as in a run, the cells are counted, and a few layers fitted. Nothing
 * is written. */
#ifndef KS_EVALUATION_COST_H
#define KS_EVALUATION_COST_H

#include "evaluation.h"

typedef struct ks_evaluation_cost {
    int64_t rows, unlabelled, invalid;
    int32_t chains, problems;
    int32_t series, most_layers; /* stream x position; of one */
    int64_t cells, fits;         /* of the grid; its columns */
    int32_t n_rivals;
    int64_t rival_cells, rival_fits;
    int64_t later_fits; /* of the control, of selectivity, learning-curve and
                           surface: at least, for folds that choose other
                           layers share fewer */
    int64_t kind_fits;  /* of probes that AdamW trains */
    int64_t refined_layers; /* of refined probes */
    int32_t baselines;
    /* with a folder of cells: of the grid, rivals and trained probes */
    bool stored;
    ks_cell_counts counts;
    int64_t left;        /* cells of grid and rivals that this run would fit */
    uint64_t read_bytes; /* of activations, for them */
    /* of the host's memory beyond what the process began with; 0 on a device */
    size_t least_bytes, most_bytes;
    const char *most_of; /* the part that takes most_bytes */
    /* fitted to see how long it takes, side by side as a run has them; 0 where
     * nothing is left, and nothing follows */
    int32_t measured;
    double measured_seconds, seconds; /* of what is left and of later_fits, at
                                         that rate */
    /* what is not in seconds: "baselines, layers-needed" */
    char without[128];
} ks_evaluation_cost;

/* Of ks_evaluate, or with a share of cells of ks_evaluate_share. A rival of
 * another width counts by it. */
ks_status ks_evaluation_cost_of(ks_evaluation_cost *out,
                                const ks_evaluation_options *options,
                                ks_err *err);

#endif
