/* surface.h - what can be read off a step without its meaning (ks_surface of
 * host/text), for the rows of a data set that has text. */
#ifndef KS_PROBES_SURFACE_H
#define KS_PROBES_SURFACE_H

#include "dataset.h"

/* Which features, in this order: position, relative_position, tokens,
 * characters, words, numbers, operators, the categories of ks_category (1: one
 * of its phrases occurs), tfidf_mean_before, tfidf_max_before, tfidf_prompt.
 * The prompt is the question where the chain has one. */
typedef enum ks_surface_set {
    KS_SURFACE_ALL,
    KS_SURFACE_KNOWN,     /* when the step is written: no relative position */
    KS_SURFACE_PUBLISHED, /* no words; relative position and TF-IDF terms as
                             the published code has them (compat) */
    KS_SURFACE_N_SETS
} ks_surface_set;

enum { KS_SURFACE_FEATURES = 10 + KS_N_CATEGORIES }; /* of KS_SURFACE_ALL */

int32_t ks_surface_n_features(ks_surface_set set);
/* "relative_position"; NULL beyond the set's features. */
const char *ks_surface_feature(ks_surface_set set, int32_t j);

/* x [n, features of the set]. threads: over chains, 0: all; no bit depends on
 * it. */
ks_status ks_surface_features(const ks_dataset *dataset, ks_surface_set set,
                              int threads, float *x, ks_err *err);

#endif
