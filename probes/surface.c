/* surface.c - see surface.h. */
#include "surface.h"

#include <stdlib.h>

#include "n_threads.h"

enum { POSITION, RELATIVE, TOKENS, CHARACTERS, WORDS, NUMBERS, OPERATORS };
enum { CATEGORY = OPERATORS + 1, TFIDF = CATEGORY + KS_N_CATEGORIES };

static bool holds(ks_surface_set set, int32_t feature) {
    if (set == KS_SURFACE_KNOWN) return feature != RELATIVE;
    return set == KS_SURFACE_ALL || feature != WORDS;
}

int32_t ks_surface_n_features(ks_surface_set set) {
    int32_t n = 0;
    for (int32_t k = 0; k < KS_SURFACE_FEATURES; k++) n += holds(set, k);
    return n;
}

const char *ks_surface_feature(ks_surface_set set, int32_t j) {
    static const char *const before[] = {
        "position", "relative_position", "tokens",   "characters",
        "words",    "numbers",           "operators"};
    static const char *const behind[] = {"tfidf_mean_before",
                                         "tfidf_max_before", "tfidf_prompt"};
    for (int32_t k = 0; k < KS_SURFACE_FEATURES; k++) {
        if (!holds(set, k) || j-- > 0) continue;
        return k < CATEGORY ? before[k]
               : k < TFIDF  ? ks_category_name((ks_category)(k - CATEGORY))
                            : behind[k - TFIDF];
    }
    return NULL;
}

static void write_row(const ks_surface_row *row, const ks_step_row *step,
                      ks_surface_set set, float *x) {
    double all[KS_SURFACE_FEATURES] = {[POSITION] = (double)row->position,
                                       [RELATIVE] = row->relative_position,
                                       [TOKENS] =
                                           step->token_end - step->token_begin,
                                       [CHARACTERS] = (double)row->characters,
                                       [WORDS] = (double)row->words,
                                       [NUMBERS] = (double)row->numbers,
                                       [OPERATORS] = (double)row->operators,
                                       [TFIDF] = row->tfidf_mean_before,
                                       [TFIDF + 1] = row->tfidf_max_before,
                                       [TFIDF + 2] = row->tfidf_prompt};
    for (int c = 0; c < KS_N_CATEGORIES; c++)
        all[CATEGORY + c] = row->category[c];
    for (int32_t k = 0; k < KS_SURFACE_FEATURES; k++)
        if (holds(set, k)) *x++ = (float)all[k];
}

/* Rows [begin, end) of the data set, which are of one chain: all steps of the
 * chain up to the last of them are read, labelled or not. */
static ks_status of_chain(const ks_dataset *d, ks_surface_set set,
                          int64_t begin, int64_t end, float *x, ks_err *err) {
    ks_status st = KS_OK;
    int32_t width = ks_surface_n_features(set);
    ks_surface *surface = NULL;
    ks_surface_row row;
    size_t n_question;
    const char *question = ks_dataset_question(d, begin, &n_question);
    int64_t first = d->row[begin] - d->info->steps[d->row[begin]].index;
    KS_TRY(ks_surface_open(&surface, question, n_question,
                           ks_dataset_steps(d, begin),
                           set == KS_SURFACE_PUBLISHED, err));
    for (int64_t at = first, i = begin; i < end; at++) {
        const ks_step_row *s = &d->info->steps[at];
        bool taken = d->row[i] == at;
        KS_TRY(ks_surface_step(surface, d->of[begin]->text + s->byte_begin,
                               (size_t)(s->byte_end - s->byte_begin),
                               taken ? &row : NULL, err));
        if (taken) write_row(&row, s, set, x + i++ * width);
    }
done:
    ks_surface_close(&surface);
    return st;
}

ks_status ks_surface_features(const ks_dataset *d, ks_surface_set set,
                              int threads, float *x, ks_err *err) {
    ks_status st = KS_OK;
    int64_t *begin = NULL;
    KS_TRY(ks_alloc(&begin, (size_t)d->n_chains + 1, sizeof *begin, "chains",
                    err));
    begin[d->n_chains] = d->n;
    for (int64_t i = d->n - 1; i >= 0; i--) begin[d->chain[i]] = i;
#pragma omp parallel for schedule(dynamic) num_threads(ks_threads(threads))
    for (int32_t c = 0; c < d->n_chains; c++) {
        ks_err mine = {0};
        ks_status got =
            ks_interrupted ? ks_fail(&mine, KS_INTERRUPTED, "interrupted")
                           : of_chain(d, set, begin[c], begin[c + 1], x, &mine);
        if (got != KS_OK)
#pragma omp critical(ks_surface_chains)
        {
            st = got;
            if (err) *err = mine;
        }
    }
done:
    free(begin);
    return st;
}
