/* published_text.h - the published text baselines, as published: TF-IDF of the
 * step's words, or a vector that another model gave the step (sentence
 * embeddings), into Linear 128, ReLU, Linear 64, ReLU, Linear 1.
 *
 * Steps, labels, split and seeds are those of the first rung of published.h;
 * AdamW with its decay at a constant 1e-3, batches of 256 (or of all training
 * steps, where they are fewer), 30 epochs. The figure is that of the evaluation
 * steps after the last one: nothing is chosen.
 *
 * TF-IDF is scikit-learn's TfidfVectorizer(ngram_range=(1, 5),
 * max_features=100000, sublinear_tf=True), fitted on the training steps: tokens
 * of two and more letters, digits and underscores, lower-cased. Terms are those
 * that come most often; of equals, those that the data set has first. */
#ifndef KS_PUBLISHED_TEXT_H
#define KS_PUBLISHED_TEXT_H

#include "grid.h"
#include "published.h"
#include "words.h"

enum { KS_PUBLISHED_TERMS = 100000 };

typedef struct ks_published_text {
    char name[64]; /* "TF-IDF", or the activations' */
    ks_rung rung;
    int32_t n_inputs[KS_PUBLISHED_SEEDS]; /* terms or dimensions */
} ks_published_text;

typedef struct ks_published_texts {
    int32_t n;
    ks_published_text *at;
} ks_published_texts;

/* One vector a step of another activation file, borrowed. */
typedef struct ks_published_vectors {
    const char *name;
    const ks_acts_file *file;
    const int64_t *place; /* of ks_dataset_match */
    ks_stream stream;
    ks_position position;
    int32_t layer;
} ks_published_vectors;

/* TF-IDF where `words` is set and the data set has text, then the vectors.
 * What would take more memory than there is is left out, with a word to the
 * log. grid: threads, device, memory, bootstrap and seed. out starts as {0}; a
 * failed run leaves {0}. */
ks_status ks_published_texts_run(ks_published_texts *out,
                                 const ks_dataset *dataset, bool words,
                                 const ks_published_vectors *vectors,
                                 int32_t n_vectors, const ks_grid_options *grid,
                                 ks_err *err);
void ks_published_texts_free(ks_published_texts *texts);

/* Inputs of rows [n_rows] of the words, n_train of which train, ahead of the
 * others: *x [n_rows, *d], owned by the caller. most: terms at most. */
ks_status ks__published_tfidf(const ks_words *words, const int32_t *rows,
                              int32_t n_train, int32_t n_rows, int32_t most,
                              float **x, int64_t *d, ks_err *err);

#endif
