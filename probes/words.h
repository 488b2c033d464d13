/* words.h - what the words of a step alone tell: bag of words and TF-IDF
 * n-grams with liblinear's L2-regularised logistic regression.
 *
 * Tokens are lower-cased: runs of letters and marks (with inner apostrophes),
 * numbers (with inner points and commas), and every other sign that is no
 * white space by itself, so operators and one-digit numbers count. Vocabulary
 * and idf come from a fit's training rows alone. */
#ifndef KS_WORDS_H
#define KS_WORDS_H

#include "nest.h"

typedef enum ks_words_kind {
    KS_WORDS_BAG,  /* counts of single tokens */
    KS_WORDS_TFIDF /* 1-5 grams, (1 + ln count) (ln((1 + n)/(1 + df)) + 1),
                      rows of length 1: scikit-learn's with sublinear_tf */
} ks_words_kind;

typedef struct ks_words ks_words; /* rows of n-grams, in order of adding */

ks_status ks_words_open(ks_words **out, ks_err *err);
void ks_words_close(ks_words **words);
ks_status ks_words_add(ks_words *words, const char *text, size_t n,
                       ks_err *err);

/* Nested as in nest.h, C among 0.01 0.1 1 10 100, classes balanced by weights.
 * score [n_seeds, n] out-of-fold margins, strength [n_seeds, n_folds]. */
ks_status ks_words_fit(const ks_words *words, ks_words_kind kind,
                       const int8_t *y, const ks_folds *folds, int threads,
                       float *score, double *strength, ks_err *err);

/* Runs without white space. */
int64_t ks_words_count(const char *text, size_t n);
/* out[0], out[1]: shares of the step's different words (not numbers, not
 * signs) and of its different numbers that the question holds, 0 where it has
 * none; out[2]: whether it has a number. */
ks_status ks_words_overlap(const char *text, size_t n, const char *question,
                           size_t n_question, float out[3], ks_err *err);

#endif
