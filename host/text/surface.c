/* surface.c - what can be read off a step without its meaning. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "regex.h"

static ks_regex number = KS_REGEX("\\b\\d+(?:\\.\\d+)?\\b", 0);
static ks_regex word = KS_REGEX("[^" KS_SPACES "]+", 0);
static ks_regex operator= KS_REGEX("[-+*/^=<>\\x{2264}\\x{2265}\\x{2260}"
                                   "\\x{b1}]",
                                   0);
/* scikit-learn's words, and ours, which keep signs and one-digit numbers */
static ks_regex term[2] = {
    KS_REGEX("\\w+|[^\\w" KS_SPACES "]", 0),
    KS_REGEX("\\b\\w\\w+\\b", 0),
};

static const char *const phrases[KS_N_CATEGORIES][20] = {
    [KS_FILLER] = {"let me think", "let's think", "lets think",
                   "let me consider", "let's consider", "let me see",
                   "let's see", "let me ensure", "let's ensure", "lets ensure",
                   "hmm", "okay", "alright", "so basically", "in other words"},
    [KS_VERIFICATION] = {"wait", "double check", "double-check", "recompute",
                         "recalculate", "verify", "let me check", "let's check",
                         "checking", "is this correct", "does this make sense",
                         "let me re", "actually, let me", "hold on"},
    [KS_PLANNING] = {"we need", "first, i", "step 1", "step 2", "my approach",
                     "i'll start by", "the plan is", "i need to", "i should",
                     "let me start", "to solve this", "the strategy", "i will",
                     "my strategy"},
    [KS_COMPUTATION] = {"calculating", "computing", "plugging in",
                        "substituting", "evaluating", "simplifying",
                        "expanding", "factoring", "multiplying", "dividing",
                        "adding", "subtracting", "integrating",
                        "differentiating", "solving for"},
    [KS_FACT_RETRIEVAL] = {"we know that", "recall that", "remember that",
                           "by definition", "by the formula",
                           "using the formula", "the formula for",
                           "it is known", "a known result", "from the theorem",
                           "by theorem", "since we know"},
};

const char *ks_category_name(ks_category category) {
    static const char *const names[KS_N_CATEGORIES] = {
        "filler", "verification", "planning", "computation", "fact_retrieval"};
    return (unsigned)category < KS_N_CATEGORIES ? names[category] : NULL;
}

/* ----------------------------------------------------------------- a chain */

typedef struct count {
    int32_t term;
    int32_t times;
} count;

typedef struct document {
    count *at; /* by ascending term */
    size_t n;
} document;

struct ks_surface {
    json_t *terms; /* term -> its number; jansson's seeded hash table */
    int32_t n_terms;
    int32_t *in; /* [n_terms], documents that hold the term */
    size_t in_capacity;
    document *steps;
    size_t n, capacity;
    document prompt;
    bool has_prompt, compat;
    int64_t n_steps;
};

/* Lower case; ours also reads a curled apostrophe as a straight one. */
static ks_status lower(const char *text, size_t n, bool compat, ks_str *out,
                       ks_err *err) {
    ks_status st = KS_OK;
    size_t i = 0;
    out->length = 0;
    KS_TRY(ks_str_add(out, "", 0, err));
    while (i < n) {
        utf8proc_int32_t c;
        utf8proc_uint8_t bytes[4];
        i += (size_t)utf8proc_iterate((const utf8proc_uint8_t *)text + i,
                                      (utf8proc_ssize_t)(n - i), &c);
        if (!compat && c == 0x2019) c = '\'';
        utf8proc_ssize_t w = utf8proc_encode_char(utf8proc_tolower(c), bytes);
        KS_TRY(ks_str_add(out, (const char *)bytes, (size_t)w, err));
    }
done:
    return st;
}

static ks_status term_number(ks_surface *s, const char *text, size_t n,
                             int32_t *out, ks_err *err) {
    ks_status st = KS_OK;
    json_t *known = json_object_getn(s->terms, text, n);
    if (known != NULL) {
        *out = (int32_t)json_integer_value(known);
        return KS_OK;
    }
    KS_CHECK(s->n_terms < INT32_MAX, KS_LIMIT, "more than %d different terms",
             INT32_MAX);
    KS_TRY(ks_grow(&s->in, &s->in_capacity, (size_t)s->n_terms + 1,
                   sizeof *s->in, "terms", err));
    KS_CHECK(
        json_object_setn_new(s->terms, text, n, json_integer(s->n_terms)) == 0,
        KS_NOMEM, "no memory for term %d", s->n_terms);
    s->in[s->n_terms] = 0;
    *out = s->n_terms++;
done:
    return st;
}

static int by_term(const void *a, const void *b) {
    int32_t x = ((const count *)a)->term, y = ((const count *)b)->term;
    return (x > y) - (x < y);
}

/* The terms of lower-case text with their counts; counts each in s->in. */
static ks_status document_of(ks_surface *s, const ks_str *text, document *out,
                             ks_err *err) {
    ks_status st = KS_OK;
    size_t capacity = 0, from = 0;
    *out = (document){0};
    while (from < text->length) {
        ks_span g;
        bool found;
        KS_TRY(ks__regex_find(&term[s->compat], text->data, text->length, from,
                              &g, 1, &found, err));
        if (!found) break;
        KS_TRY(ks_grow(&out->at, &capacity, out->n + 1, sizeof *out->at,
                       "terms", err));
        KS_TRY(term_number(s, text->data + g.begin, g.end - g.begin,
                           &out->at[out->n].term, err));
        out->at[out->n++].times = 1;
        from = g.end;
    }
    if (out->n > 0) qsort(out->at, out->n, sizeof *out->at, by_term);
    size_t kept = 0;
    for (size_t i = 0; i < out->n; i++) {
        if (kept > 0 && out->at[kept - 1].term == out->at[i].term) {
            out->at[kept - 1].times++;
        } else {
            out->at[kept++] = out->at[i];
            s->in[out->at[i].term]++;
        }
    }
    out->n = kept;
done:
    if (st != KS_OK) {
        free(out->at);
        *out = (document){0};
    }
    return st;
}

ks_status ks_surface_open(ks_surface **out, const char *prompt, size_t n_prompt,
                          int64_t n_steps, bool compat, ks_err *err) {
    ks_status st = KS_OK;
    ks_surface *s = NULL;
    ks_str low = {0};
    *out = NULL;
    KS_TRY(ks_alloc(&s, 1, sizeof *s, "surface features", err));
    s->terms = json_object();
    KS_CHECK(s->terms != NULL, KS_NOMEM, "no memory for a table of terms");
    s->compat = compat;
    s->n_steps = n_steps;
    s->has_prompt = prompt != NULL;
    if (prompt != NULL) {
        KS_TRY(ks_text_check(prompt, n_prompt, "prompt", err));
        KS_TRY(lower(prompt, n_prompt, compat, &low, err));
        KS_TRY(document_of(s, &low, &s->prompt, err));
    }
    *out = s;
    s = NULL;
done:
    ks_surface_close(&s);
    ks_str_free(&low);
    return st;
}

void ks_surface_close(ks_surface **surface) {
    ks_surface *s = *surface;
    if (s == NULL) return;
    for (size_t i = 0; i < s->n; i++) free(s->steps[i].at);
    free(s->steps);
    free(s->prompt.at);
    free(s->in);
    json_decref(s->terms);
    free(s);
    *surface = NULL;
}

/* ---------------------------------------------------------------- features */

/* Squared inverse document frequency of a term: with raw counts, the weight
 * of a product of two counts. */
static double weight(const ks_surface *s, int32_t t) {
    double n = (double)s->n + (s->has_prompt ? 1 : 0);
    double idf = log((1 + n) / (1 + s->in[t])) + 1;
    return idf * idf;
}

static double product(const ks_surface *s, const document *a,
                      const document *b) {
    double sum = 0;
    size_t i = 0, k = 0;
    while (i < a->n && k < b->n) {
        if (a->at[i].term < b->at[k].term) {
            i++;
        } else if (a->at[i].term > b->at[k].term) {
            k++;
        } else {
            sum += (double)a->at[i].times * b->at[k].times *
                   weight(s, a->at[i].term);
            i++;
            k++;
        }
    }
    return sum;
}

static double cosine(const ks_surface *s, const document *a, double norm_a,
                     const document *b) {
    double norm_b = sqrt(product(s, b, b));
    return norm_a > 0 && norm_b > 0 ? product(s, a, b) / (norm_a * norm_b) : 0;
}

/* own: the last of s->steps */
static void compare(const ks_surface *s, ks_surface_row *row) {
    const document *own = &s->steps[s->n - 1];
    double norm = sqrt(product(s, own, own)), sum = 0, most = 0;
    for (size_t i = 0; i + 1 < s->n; i++) {
        double c = cosine(s, own, norm, &s->steps[i]);
        sum += c;
        most = fmax(most, c);
    }
    row->tfidf_mean_before = s->n > 1 ? sum / (double)(s->n - 1) : 0;
    row->tfidf_max_before = most;
    row->tfidf_prompt = s->has_prompt ? cosine(s, own, norm, &s->prompt) : 0;
}

static ks_status count_of(ks_regex *regex, const char *text, size_t n,
                          int64_t *out, ks_err *err) {
    ks_status st = KS_OK;
    size_t from = 0;
    *out = 0;
    while (from < n) {
        ks_span g;
        bool found;
        KS_TRY(ks__regex_find(regex, text, n, from, &g, 1, &found, err));
        if (!found) break;
        ++*out;
        from = g.end;
    }
done:
    return st;
}

static bool has_phrase(const ks_str *low, const char *const *list) {
    for (; *list != NULL; list++) {
        if (memmem(low->data, low->length, *list, strlen(*list)) != NULL)
            return true;
    }
    return false;
}

static double relative(const ks_surface *s, int64_t position) {
    if (s->n_steps <= 0) return NAN;
    if (!s->compat) return (double)(position + 1) / (double)s->n_steps;
    return s->n_steps == 1 ? 0 : (double)position / (double)(s->n_steps - 1);
}

static ks_status row_of(const ks_surface *s, const char *step, size_t n,
                        const ks_str *low, ks_surface_row *row, ks_err *err) {
    ks_status st = KS_OK;
    *row = (ks_surface_row){.position = (int64_t)s->n - 1};
    row->relative_position = relative(s, row->position);
    row->characters = (int64_t)ks_text_code_points(step, n);
    KS_TRY(count_of(&word, step, n, &row->words, err));
    KS_TRY(count_of(&number, step, n, &row->numbers, err));
    KS_TRY(count_of(&operator, step, n, &row->operators, err));
    for (int i = 0; i < KS_N_CATEGORIES; i++)
        row->category[i] = has_phrase(low, phrases[i]);
    compare(s, row);
done:
    return st;
}

ks_status ks_surface_step(ks_surface *s, const char *step, size_t n,
                          ks_surface_row *row, ks_err *err) {
    ks_status st = KS_OK;
    ks_str low = {0};
    KS_TRY(ks_text_check(step, n, "text", err));
    KS_CHECK(s->n_steps <= 0 || (int64_t)s->n < s->n_steps, KS_MISMATCH,
             "step %zu of a chain of %lld", s->n + 1, (long long)s->n_steps);
    KS_TRY(ks_grow(&s->steps, &s->capacity, s->n + 1, sizeof *s->steps, "steps",
                   err));
    KS_TRY(lower(step, n, s->compat, &low, err));
    KS_TRY(document_of(s, &low, &s->steps[s->n], err));
    s->n++;
    if (row != NULL) KS_TRY(row_of(s, step, n, &low, row, err));
done:
    ks_str_free(&low);
    return st;
}
