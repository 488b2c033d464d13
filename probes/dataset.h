/* dataset.h - the rows that probes are trained and tested on: steps of an
 * activation file that are labelled 1 or 0 and valid, with their problem and
 * chain and, where chains are given, their text. */
#ifndef KS_DATASET_H
#define KS_DATASET_H

#include "acts.h"
#include "chains.h"

typedef struct ks_dataset_paths {
    const char *acts;
    const char *labels; /* NULL: the activation file's own labels */
    const char *chains; /* NULL: no text */
    const char *strata; /* field of the label lines; NULL: none */
    const char *clean;  /* chains that the labels index, cut from those of
                           acts; NULL: they index those of acts */
    bool scores;        /* scores of the label lines will be asked for */
} ks_dataset_paths;

typedef struct ks_dataset {
    ks_acts_file *acts;
    const ks_acts_info *info; /* of acts */
    ks_chains chains;         /* empty without text */
    ks_labels labels;         /* empty without a label file */

    int64_t n;
    int64_t *row;   /* [n] row of /steps, ascending */
    int8_t *y;      /* [n] 1 important, 0 removable */
    int32_t *group; /* [n] problem, in order of first row */
    int32_t *chain; /* [n] chain, likewise */
    int32_t n_groups, n_chains;
    const char **group_ids; /* [n_groups] borrowed from acts */
    int32_t *chain_row;     /* [n_chains] row of /chains */

    bool has_text;
    ks_span *span;       /* [n] of the step in its chain's text */
    const ks_chain **of; /* [n] its chain */

    int32_t *stratum; /* [n] -1: none; NULL without strata */
    char **strata;    /* [n_strata] names, numbers first, ascending */
    int32_t n_strata;

    int64_t n_important, n_removable, n_unlabelled, n_invalid;
    int32_t n_chains_unlabelled; /* chains of the file without a label line */
    bool of_another; /* acts, chains and labels are another data set's */
} ks_dataset;

/* KS_MISMATCH where an id, a count of steps or a text hash does not fit, or
 * where only one class is labelled. */
ks_status ks_dataset_open(ks_dataset **out, const ks_dataset_paths *paths,
                          ks_err *err);
void ks_dataset_close(ks_dataset **dataset);

/* The rows that have a number in "scores" of their label line, labelled or not:
 * y is -1 where it is null. Opened with paths.scores; `of` stays open as long.
 * target [n] is allocated. KS_MISMATCH where no step has that score. */
ks_status ks_dataset_graded(ks_dataset **out, double **target,
                            const ks_dataset *of, const char *score,
                            ks_err *err);

/* Text of row i of the data set; needs has_text. */
const char *ks_dataset_text(const ks_dataset *dataset, int64_t i, size_t *n);
/* The chain's "question", or else its prompt; needs has_text. */
const char *ks_dataset_question(const ks_dataset *dataset, int64_t i,
                                size_t *n);
/* Steps of the chain that row i is in, labelled or not. */
int32_t ks_dataset_steps(const ks_dataset *dataset, int64_t i);

/* Where the chains of an activation file lie: index, chain id -> row of
 * /chains, and first [n_chains + 1], the first step of each. Both new.
 * KS_FORMAT where steps are out of order or an id is there twice. */
ks_status ks_dataset_index(const ks_acts_info *info, const char *path,
                           json_t **index, int64_t **first, ks_err *err);
/* For another activation file: place[i] = its row for row i, by chain id and
 * step index. KS_MISMATCH for a step that is missing or not valid there. */
ks_status ks_dataset_match(const ks_dataset *dataset, const ks_acts_file *other,
                           const char *path, int64_t *place, ks_err *err);
#endif
