/* words.c - tokens and n-grams of steps; see words.h. words_fit.c fits. */
#include "words_state.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "text/text.h"

/* ------------------------------------------------------------------- tokens */

typedef enum kind { SPACE, LETTER, DIGIT, SIGN } kind;

static kind kind_of(int32_t c) {
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
        return LETTER;
    case UTF8PROC_CATEGORY_ND:
        return DIGIT;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_CC:
        return SPACE;
    default:
        return SIGN;
    }
}

/* The character at i; 0 past the end. Text is well-formed. */
static int32_t at(const char *text, size_t n, size_t i, size_t *width) {
    utf8proc_int32_t c = 0;
    *width = 1;
    if (i >= n) return 0;
    utf8proc_ssize_t w = utf8proc_iterate((const utf8proc_uint8_t *)text + i,
                                          (utf8proc_ssize_t)(n - i), &c);
    if (w < 1) return 0xFFFD;
    *width = (size_t)w;
    return c;
}

/* An apostrophe in a word, a point or comma in a number. */
static bool joins(kind of, int32_t c) {
    return of == LETTER ? c == '\'' || c == 0x2019
                        : of == DIGIT && (c == '.' || c == ',');
}

bool ks__words_next(const char *text, size_t n, size_t *from, size_t *begin,
                    bool *number, bool *word) {
    size_t i = *from, width, next;
    while (i < n && kind_of(at(text, n, i, &width)) == SPACE) i += width;
    if (i >= n) return false;
    *begin = i;
    kind of = kind_of(at(text, n, i, &width));
    i += width;
    *number = of == DIGIT;
    *word = of == LETTER;
    while (of != SIGN && i < n) {
        int32_t c = at(text, n, i, &width);
        if (kind_of(c) == of) {
            i += width;
        } else if (joins(of, c) && i + width < n &&
                   kind_of(at(text, n, i + width, &next)) == of) {
            i += width + next;
        } else {
            break;
        }
    }
    *from = i;
    return true;
}

/* Lower case into out, which is emptied. */
static ks_status lower(const char *text, size_t n, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    out->length = 0;
    KS_TRY(ks_str_add(out, "", 0, err));
    for (size_t i = 0, width; i < n; i += width) {
        utf8proc_uint8_t bytes[4];
        int32_t c = at(text, n, i, &width);
        if (c == 0x2019) c = '\'';
        utf8proc_ssize_t w = utf8proc_encode_char(utf8proc_tolower(c), bytes);
        KS_TRY(ks_str_add(out, (const char *)bytes, (size_t)w, err));
    }
done:
    return st;
}

/* ------------------------------------------------------------------ n-grams */

/* Slot of an n-gram, a shorter one and its next token, in the open table. */
static size_t slot_of(const ks_words *w, int32_t parent, int32_t token) {
    uint64_t key = (uint64_t)(uint32_t)parent << 32 | (uint32_t)token;
    uint64_t hash = key * 0x9E3779B97F4A7C15u;
    size_t mask = w->n_slots - 1, slot = (size_t)(hash >> 20) & mask;
    while (w->slots[slot] && (w->grams[w->slots[slot] - 1].parent != parent ||
                              w->grams[w->slots[slot] - 1].token != token))
        slot = (slot + 1) & mask;
    return slot;
}

static ks_status grow_slots(ks_words *w, ks_err *err) {
    ks_status st = KS_OK;
    int32_t *old = w->slots;
    if (2 * (w->n_grams + 1) < w->n_slots) return KS_OK;
    w->n_slots = w->n_slots ? 2 * w->n_slots : 1024;
    w->slots = NULL;
    KS_TRY(ks_alloc(&w->slots, w->n_slots, sizeof *w->slots, "n-grams", err));
    for (size_t g = 0; g < w->n_grams; g++)
        w->slots[slot_of(w, w->grams[g].parent, w->grams[g].token)] =
            (int32_t)g + 1;
done:
    free(old);
    return st;
}

static ks_status gram_of(ks_words *w, int32_t parent, int32_t token,
                         int32_t *out, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(grow_slots(w, err));
    size_t slot = slot_of(w, parent, token);
    if (!w->slots[slot]) {
        KS_CHECK(w->n_grams < INT32_MAX / 2, KS_LIMIT, "too many n-grams");
        KS_TRY(ks_grow(&w->grams, &w->grams_capacity, w->n_grams + 1,
                       sizeof *w->grams, "n-grams", err));
        ks_gram *gram = &w->grams[w->n_grams++];
        *gram = (ks_gram){parent, token, 1, (int16_t)(-1 - parent)};
        if (parent >= 0) {
            gram->length = (int16_t)(w->grams[parent].length + 1);
            gram->part = w->grams[parent].part;
        }
        w->slots[slot] = (int32_t)w->n_grams;
    }
    *out = w->slots[slot] - 1;
done:
    return st;
}

static ks_status token_of(ks_words *w, const char *text, size_t n, int32_t *out,
                          ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(lower(text, n, &w->lowered, err));
    json_t *known =
        json_object_getn(w->tokens, w->lowered.data, w->lowered.length);
    if (!known) {
        known = json_integer((json_int_t)json_object_size(w->tokens));
        KS_CHECK(json_object_setn_new(w->tokens, w->lowered.data,
                                      w->lowered.length, known) == 0,
                 KS_NOMEM, "out of memory for words");
    }
    *out = (int32_t)json_integer_value(known);
done:
    return st;
}

/* --------------------------------------------------------------------- rows */

static int ascending(const void *a, const void *b) {
    int32_t x = ((const ks_entry *)a)->gram, y = ((const ks_entry *)b)->gram;
    return (x > y) - (x < y);
}

/* Sorts the row's entries and adds up equal ones. */
static void settle(ks_words *w, size_t begin) {
    size_t out = begin;
    if (w->n_entries == begin) return;
    qsort(w->entries + begin, w->n_entries - begin, sizeof *w->entries,
          ascending);
    for (size_t i = begin; i < w->n_entries; i++) {
        if (out > begin && w->entries[out - 1].gram == w->entries[i].gram)
            w->entries[out - 1].times += w->entries[i].times;
        else
            w->entries[out++] = w->entries[i];
    }
    w->n_entries = out;
}

ks_status ks_words_open(ks_words **out, ks_err *err) {
    ks_status st = KS_OK;
    ks_words *w = NULL;
    KS_TRY(ks_alloc(&w, 1, sizeof *w, "words", err));
    KS_TRY(ks_grow(&w->row, &w->row_capacity, 1, sizeof *w->row, "words", err));
    w->row[0] = 0;
    w->tokens = json_object();
    KS_CHECK(w->tokens, KS_NOMEM, "out of memory for words");
    *out = w;
    w = NULL;
done:
    ks_words_close(&w);
    return st;
}

void ks_words_close(ks_words **words) {
    ks_words *w = *words;
    if (!w) return;
    json_decref(w->tokens);
    ks_str_free(&w->lowered);
    free(w->slots);
    free(w->grams);
    free(w->entries);
    free(w->row);
    free(w);
    *words = NULL;
}

/* n-grams that end at the last token: open[k] has k + 1 of them. */
typedef struct window {
    int32_t open[KS_WORDS_LONGEST];
    int32_t n, longest, shortest;
} window;

static ks_status slide(ks_words *w, ks_words_part part, window *seen,
                       int32_t token, ks_err *err) {
    ks_status st = KS_OK;
    if (seen->n < seen->longest) seen->n++;
    KS_TRY(ks_grow(&w->entries, &w->entries_capacity,
                   w->n_entries + KS_WORDS_LONGEST, sizeof *w->entries,
                   "n-grams", err));
    for (int32_t k = seen->n - 1; k >= 0; k--) {
        int32_t shorter = k ? seen->open[k - 1] : -1 - (int32_t)part;
        KS_TRY(gram_of(w, shorter, token, &seen->open[k], err));
        if (k + 1 >= seen->shortest)
            w->entries[w->n_entries++] = (ks_entry){seen->open[k], 1};
    }
done:
    return st;
}

ks_status ks_words_take(ks_words *w, ks_words_part part, int32_t longest,
                        const char *text, size_t n, ks_err *err) {
    ks_status st = KS_OK;
    window seen = {.longest = longest, .shortest = 1};
    size_t from = 0, begin;
    bool number, word;
    while (ks__words_next(text, n, &from, &begin, &number, &word)) {
        int32_t token = 0;
        KS_TRY(token_of(w, text + begin, from - begin, &token, err));
        KS_TRY(slide(w, part, &seen, token, err));
    }
done:
    return st;
}

ks_status ks_words_take_characters(ks_words *w, ks_words_part part,
                                   const char *text, size_t n, ks_err *err) {
    ks_status st = KS_OK;
    window seen = {.longest = KS_WORDS_LONGEST, .shortest = 2};
    bool inside = false;
    for (size_t i = 0, width; i <= n; i += width) {
        int32_t c = at(text, n, i, &width);
        bool space = i == n || ks_is_space(c);
        if (space && !inside) continue;
        if (!inside) {
            seen.n = 0;
            KS_TRY(slide(w, part, &seen, ' ', err));
        }
        KS_TRY(slide(w, part, &seen, space ? ' ' : utf8proc_tolower(c), err));
        inside = !space;
    }
done:
    return st;
}

void ks_words_bound(ks_words *w, size_t bytes) {
    w->most = KS_MAX(bytes, 1);
}

/* A table of n-grams that grows is there twice. */
static size_t bytes_of(const ks_words *w) {
    return w->n_entries * sizeof *w->entries + w->n_grams * sizeof *w->grams +
           w->n_slots * sizeof *w->slots * 3 / 2 +
           (size_t)w->n * sizeof *w->row;
}

ks_status ks_words_end(ks_words *w, ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(!w->most || bytes_of(w) <= w->most, KS_LIMIT,
             "the n-grams of the texts take more than the %zu MiB that are "
             "left",
             w->most >> 20);
    KS_TRY(ks_grow(&w->row, &w->row_capacity, (size_t)w->n + 2, sizeof *w->row,
                   "words", err));
    settle(w, w->row[w->n]);
    w->row[++w->n] = w->n_entries;
done:
    return st;
}

ks_status ks_words_add(ks_words *w, const char *text, size_t n, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_words_take(w, KS_WORDS_STEP, KS_WORDS_LONGEST, text, n, err));
    KS_TRY(ks_words_end(w, err));
done:
    return st;
}

/* \w of Python: letters, numbers of all kinds and the underscore. */
static bool plain(int32_t c) {
    kind of = kind_of(c);
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
        return false;
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return true;
    default:
        return of == LETTER || of == DIGIT || c == '_';
    }
}

ks_status ks_words_add_plain(ks_words *w, const char *text, size_t n,
                             ks_err *err) {
    ks_status st = KS_OK;
    window seen = {.longest = KS_WORDS_LONGEST, .shortest = 1};
    for (size_t i = 0, begin, width; i < n;) {
        int32_t length = 0, token = 0;
        begin = i;
        for (; i < n && plain(at(text, n, i, &width)); i += width) length++;
        if (length >= 2) {
            KS_TRY(token_of(w, text + begin, i - begin, &token, err));
            KS_TRY(slide(w, KS_WORDS_STEP, &seen, token, err));
        }
        if (i == begin) i += width;
    }
    KS_TRY(ks_words_end(w, err));
done:
    return st;
}

/* ------------------------------------------------------------------ overlap */

int64_t ks_words_count(const char *text, size_t n) {
    int64_t words = 0;
    bool inside = false;
    for (size_t i = 0, width; i < n; i += width) {
        bool space = kind_of(at(text, n, i, &width)) == SPACE;
        words += !space && !inside;
        inside = !space;
    }
    return words;
}

/* Adds the text's words and numbers, lower-cased, to a set. */
static ks_status collect(const char *text, size_t n, json_t *set, ks_err *err) {
    ks_status st = KS_OK;
    ks_str lowered = {0};
    size_t from = 0, begin;
    bool number, word;
    while (ks__words_next(text, n, &from, &begin, &number, &word)) {
        if (!number && !word) continue;
        KS_TRY(lower(text + begin, from - begin, &lowered, err));
        KS_CHECK(json_object_setn_new(set, lowered.data, lowered.length,
                                      json_boolean(number)) == 0,
                 KS_NOMEM, "out of memory for words");
    }
done:
    ks_str_free(&lowered);
    return st;
}

ks_status ks_words_overlap(const char *text, size_t n, const char *question,
                           size_t n_question, float out[3], ks_err *err) {
    ks_status st = KS_OK;
    json_t *own = json_object(), *asked = json_object(), *number;
    const char *key;
    float count[2] = {0, 0}, held[2] = {0, 0};
    KS_CHECK(own && asked, KS_NOMEM, "out of memory for words");
    KS_TRY(collect(text, n, own, err));
    KS_TRY(collect(question, n_question, asked, err));
    json_object_foreach(own, key, number) {
        int k = json_is_true(number);
        count[k]++;
        held[k] += json_object_get(asked, key) != NULL;
    }
    out[0] = count[0] > 0 ? held[0] / count[0] : 0;
    out[1] = count[1] > 0 ? held[1] / count[1] : 0;
    out[2] = count[1] > 0;
done:
    json_decref(own);
    json_decref(asked);
    return st;
}
