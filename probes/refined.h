/* refined.h - probes that see more than one label, or that look at it in
 * another way than a logistic regression of one vector: concept directions
 * (directions.h), sparse ones (sparse.h), attention over tokens (attended.h)
 * and importance as a matter of degree (graded.h). */
#ifndef KS_REFINED_H
#define KS_REFINED_H

#include "attended.h"
#include "directions.h"
#include "graded.h"
#include "kinds.h"
#include "sparse.h"

/* What is asked for: words of --probes, and --graded. */
typedef struct ks_refined_options {
    uint32_t directions; /* bit set of ks_direction */
    bool l1;
    bool attention, attention_all; /* on all layers */
    int32_t n_graded;
    char graded[KS_MOST_GRADED][64];
} ks_refined_options;

/* One parser for --probes: "lw-mlp:1024,lda,l1" to what is trained by AdamW and
 * what is not. mean-difference, lda, l1, attention and attention:all are taken
 * here, everything else by ks_recipes_read. */
ks_status ks_probe_words_read(const char *text, ks_kinds_options *kinds,
                              ks_refined_options *refined, ks_err *err);
/* --graded: names of scores. */
ks_status ks_graded_read(const char *text, ks_refined_options *refined,
                         ks_err *err);

typedef struct ks_refined {
    int32_t n_series;
    ks_directions *directions; /* [n_series]; NULL: not asked for */
    ks_sparse *sparse;         /* [n_series]; likewise */
    int32_t n_attended, n_graded;
    ks_attended *attended;
    ks_graded *graded;
    int32_t fits, unconverged; /* of L1 and attention */
} ks_refined;

/* Whatever can be known before long work: that tokens and scores are there. */
ks_status ks_refined_check(const ks_dataset *dataset,
                           const ks_grid_options *grid,
                           const ks_refined_options *options, ks_err *err);
/* Layers that ks_refined_run reports to progress. */
int64_t ks_refined_layers(const ks_grid *grid,
                          const ks_refined_options *options);
/* Scores go to others. out starts as {0}; a failed run leaves {0}. */
ks_status ks_refined_run(ks_refined *out, ks_others *others,
                         const ks_analysis_input *in,
                         const ks_refined_options *options, ks_err *err);
void ks_refined_free(ks_refined *refined);

#endif
