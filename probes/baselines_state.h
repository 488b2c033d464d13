/* baselines_state.h - what the files of the baselines share. */
#ifndef KS_BASELINES_STATE_H
#define KS_BASELINES_STATE_H

#include "baselines.h"

typedef struct ks_baselines_work {
    const ks_dataset *d;
    const ks_folds *folds;
    const ks_baseline_options *options;
    ks_baselines *out;
} ks_baselines_work;

/* A new baseline with room for its scores; name and note are borrowed. */
ks_status ks__baseline_add(ks_baselines_work *w, const char *name,
                           const char *note, ks_baseline **out, ks_err *err);
/* The figures of its scores. */
ks_status ks__baseline_finish(ks_baselines_work *w, ks_baseline *b,
                              ks_err *err);
/* Scores by the probes' solver on x [n, n_features], and the figures. */
ks_status ks__baseline_fit(ks_baselines_work *w, ks_baseline *b, const float *x,
                           int32_t n_features, ks_err *err);

/* baselines_words.c: bags, n-grams, with liblinear. */
ks_status ks__baselines_words(ks_baselines_work *w, ks_err *err);
/* KS_LIMIT where they do not fit in what --memory leaves, less `kept` bytes. It
 * takes as long as counting the n-grams. takes: the most bytes that they take,
 * by one thread and by all; may be NULL. */
ks_status ks__baselines_words_room(const ks_dataset *dataset,
                                   const ks_folds *folds,
                                   const ks_nest_options *nest,
                                   const ks_room *room, size_t kept,
                                   size_t takes[2], ks_err *err);
/* baselines_scores.c: scores that others gave. */
ks_status ks__baselines_scores(ks_baselines_work *w, ks_err *err);

#endif
