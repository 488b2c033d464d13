/* baselines.h - what can be had without activations, on the same rows and
 * folds: a probe has to beat these. All scores are out of fold, 0 is the
 * threshold, higher = important. */
#ifndef KS_BASELINES_H
#define KS_BASELINES_H

#include "dataset.h"
#include "nest.h"
#include "room.h"
#include "stats.h"

typedef struct ks_baseline {
    const char *name; /* "position" */
    const char *note; /* one sentence: what it is and knows */
    char *said;       /* a note of its own, owned; or NULL */
    bool reads_text;  /* the step's words */
    bool looks_ahead; /* at what is not there when the step is written */
    float *score;     /* [n] mean over seeds */
    double *strength; /* [fits] chosen in the training folds; NULL: no fit */
    float *by_seed;   /* [n_seeds, n] with strength */
    ks_interval metrics[KS_N_METRICS];
} ks_baseline;

typedef struct ks_baselines {
    ks_baseline *at;
    int32_t n;
    int32_t fits, unconverged; /* of the dense ones */
} ks_baselines;

/* Scores that others gave the steps: a label-format file's "scores", read as
 * fields joined by "+", or all that its lines have. */
typedef struct ks_given_scores {
    const char *name, *path, *fields; /* fields NULL: all */
} ks_given_scores;

typedef struct ks_baseline_options {
    ks_nest_options nest;
    ks_room room; /* of the host */
    int32_t bootstrap;
    uint64_t seed;
    bool words; /* bag of words and TF-IDF, where the data set has text */
    int32_t n_scores;
    const ks_given_scores *scores;                   /* [n_scores] */
    void (*progress)(void *user, int64_t baselines); /* may be NULL */
    void *user;
} ks_baseline_options;

/* random: a fair coin for each step.
 * majority: the class with more training rows.
 * chain majority: the share of important ones among the chain's other labelled
 *   steps, above or below one half. It reads labels of the test chain's other
 *   steps, so it is no predictor but a measure of how far recognising the
 *   chain would go; where every chain has as many of each kind, leaving the
 *   step out makes it wrong by construction.
 * position: index and its square, through the probes' solver.
 * relative position: and index over the chain's final length, which is not
 *   known when the step is written: it may tell what comes later.
 * position+length: position, and bytes, tokens and, with text, words.
 * surface (with text): the features of surface.h that are known when the step
 *   is written; "as published" with relative position.
 * question overlap (with text): shares of the step's words and of its numbers
 *   that the question holds (the prompt where a chain has no "question"), and
 *   whether it has a number at all.
 * bag of words, TF-IDF 1-5 grams, TF-IDF characters (with text): words.h.
 * TF-IDF prefix (with text): question and chain so far, and beside them, as
 *   features of their own, the step.
 * given scores: one feature a field. A step that lacks one has the mean of the
 *   fold's training rows there and 1 in a further feature; how many do is said
 *   in the note.
 * out starts as {0}; a failed call leaves {0}. */
ks_status ks_baselines_run(ks_baselines *out, const ks_dataset *dataset,
                           const ks_folds *folds,
                           const ks_baseline_options *options, ks_err *err);
/* How many there will be. */
int32_t ks_baselines_count(const ks_dataset *dataset,
                           const ks_baseline_options *options);
void ks_baselines_free(ks_baselines *baselines);

enum { KS_PERMUTATIONS = 20 };

/* What the procedure finds where there is nothing to find: labels permuted
 * among the rows of each fold (so every fold keeps its counts) by Philox keyed
 * with seed, KS_PERMUTATIONS times; fits at strength[f] of fold f of the first
 * seed, metrics against the true labels. out: mean over the permutations, and
 * the 2.5% and 97.5% quantiles (type 7) of them: not an interval of the mean
 * but the spread of chance. room: where the rows may lie. *unconverged: fits
 * above the tolerance are added to it. */
ks_status ks_permuted_run(const ks_l2_source *source, const ks_dataset *dataset,
                          const ks_folds *folds, const double *strength,
                          const ks_nest_options *options, const ks_room *room,
                          uint64_t seed, ks_interval out[KS_N_METRICS],
                          int32_t *unconverged, ks_err *err);
/* Bytes that it takes, by so many threads of the CPU. */
size_t ks_permuted_bytes(int64_t d, ks_type type, const ks_folds *folds,
                         int threads, bool scratch);

#endif
