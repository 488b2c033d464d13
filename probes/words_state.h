/* words_state.h - what words.c and words_fit.c share. */
#ifndef KS_WORDS_STATE_H
#define KS_WORDS_STATE_H

#include "words.h"

/* A shorter n-gram (-1 - part: none) and one more token. */
typedef struct ks_gram {
    int32_t parent, token;
    int16_t length, part;
} ks_gram;

typedef struct ks_entry {
    int32_t gram, times;
} ks_entry;

struct ks_words {
    json_t *tokens; /* lower-cased token -> its number */
    ks_str lowered;
    ks_gram *grams;
    int32_t *slots; /* open hash table of gram + 1 */
    size_t n_grams, grams_capacity, n_slots;
    ks_entry *entries; /* of all rows, ascending grams within a row */
    size_t n_entries, entries_capacity;
    size_t *row; /* [n + 1] first entry */
    size_t row_capacity;
    int64_t n;
    size_t most; /* bytes of all of it; 0: no bound */
};

/* Next token of text from *from, which moves past it; false: none. */
bool ks__words_next(const char *text, size_t n, size_t *from, size_t *begin,
                    bool *number, bool *word);

#endif
