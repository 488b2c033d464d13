/* words.h - what text tells without a model: bag of words and TF-IDF n-grams
 * of words or characters, with liblinear's L2-regularised logistic regression.
 *
 * Tokens are lower-cased: runs of letters and marks (with inner apostrophes),
 * numbers (with inner points and commas), and every other sign that is no
 * white space by itself, so operators and one-digit numbers count. n-grams of
 * characters lie within a word (a run without white space) and the blanks at
 * its ends: scikit-learn's analyzer="char_wb". Vocabulary and idf come from a
 * fit's training rows alone. */
#ifndef KS_WORDS_H
#define KS_WORDS_H

#include "nest.h"

enum { KS_WORDS_LONGEST = 5 }; /* n-grams */

typedef enum ks_words_kind {
    KS_WORDS_BAG,   /* counts of single tokens */
    KS_WORDS_TFIDF, /* 1-5 grams, (1 + ln count) (ln((1 + n)/(1 + df)) + 1),
                       rows of length 1: scikit-learn's with sublinear_tf */
    KS_WORDS_COMMON /* the same of what is in two training rows at least
                       (min_df=2), each part of a row of length 1 */
} ks_words_kind;

/* Parts of a row: n-grams of one are other features than those of another. */
typedef enum ks_words_part { KS_WORDS_STEP, KS_WORDS_BEFORE } ks_words_part;

typedef struct ks_words ks_words; /* rows of n-grams, in order of adding */

ks_status ks_words_open(ks_words **out, ks_err *err);
void ks_words_close(ks_words **words);
/* From now on ks_words_end is KS_LIMIT once rows take more than so many bytes.
 */
void ks_words_bound(ks_words *words, size_t bytes);
/* A row: the text's 1-5 grams. */
ks_status ks_words_add(ks_words *words, const char *text, size_t n,
                       ks_err *err);
/* The same of scikit-learn's default tokens: two and more letters, digits or
 * underscores in a row, lower-cased; everything else parts them. */
ks_status ks_words_add_plain(ks_words *words, const char *text, size_t n,
                             ks_err *err);
/* n-grams of words up to `longest` (at most 5), or of 2 to 5 characters, for
 * the row that ks_words_end ends; those of a row's calls are added up. */
ks_status ks_words_take(ks_words *words, ks_words_part part, int32_t longest,
                        const char *text, size_t n, ks_err *err);
ks_status ks_words_take_characters(ks_words *words, ks_words_part part,
                                   const char *text, size_t n, ks_err *err);
ks_status ks_words_end(ks_words *words, ks_err *err);

/* Nested as in nest.h, C among 0.01 0.1 1 10 100, classes balanced by weights.
 * score [n_seeds, n] out-of-fold margins, strength [n_seeds, n_folds]. */
ks_status ks_words_fit(const ks_words *words, ks_words_kind kind,
                       const int8_t *y, const ks_folds *folds, int threads,
                       float *score, double *strength, ks_err *err);

/* Bytes that it takes at most, by so many threads. */
size_t ks_words_bytes(const ks_words *words, const ks_folds *folds,
                      int threads);

/* Runs without white space. */
int64_t ks_words_count(const char *text, size_t n);
/* out[0], out[1]: shares of the step's different words (not numbers, not
 * signs) and of its different numbers that the question holds, 0 where it has
 * none; out[2]: whether it has a number. */
ks_status ks_words_overlap(const char *text, size_t n, const char *question,
                           size_t n_question, float out[3], ks_err *err);

#endif
