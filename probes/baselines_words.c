/* baselines_words.c - see baselines.h: what the wording tells. */
#include <stdlib.h>

#include "baselines_state.h"
#include "words.h"

enum { LONGEST_BEFORE = 1 /* longer ones of a chain so far are too many */ };

static ks_status fit(ks_baselines_work *w, const char *name, const char *note,
                     ks_words_kind kind, const ks_words *all, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = w->d;
    const ks_folds *f = w->folds;
    ks_baseline *b;
    KS_TRY(ks__baseline_add(w, name, note, &b, err));
    b->reads_text = true;
    KS_TRY(ks_alloc(&b->by_seed, (size_t)(f->n_seeds * d->n), sizeof(float),
                    name, err));
    KS_TRY(ks_alloc(&b->strength, (size_t)(f->n_seeds * f->n_folds),
                    sizeof(double), name, err));
    KS_TRY(ks_words_fit(all, kind, d->y, f, w->options->nest.threads,
                        b->by_seed, b->strength, err));
    for (int64_t i = 0; i < d->n; i++) {
        double sum = 0;
        for (int32_t s = 0; s < f->n_seeds; s++)
            sum += (double)b->by_seed[s * d->n + i];
        b->score[i] = (float)(sum / f->n_seeds);
    }
    KS_TRY(ks__baseline_finish(w, b, err));
done:
    return st;
}

static ks_status words(ks_baselines_work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = w->d;
    ks_words *all = NULL;
    KS_TRY(ks_words_open(&all, err));
    for (int64_t i = 0; i < d->n; i++) {
        size_t n;
        const char *text = ks_dataset_text(d, i, &n);
        KS_TRY(ks_words_add(all, text, n, err));
    }
    KS_TRY(fit(w, "bag of words",
               "counts of the step's words, numbers and signs", KS_WORDS_BAG,
               all, err));
    KS_TRY(fit(w, "TF-IDF 1-5 grams",
               "1-5 grams of the step's words, numbers and signs",
               KS_WORDS_TFIDF, all, err));
done:
    ks_words_close(&all);
    return st;
}

static ks_status characters(ks_baselines_work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = w->d;
    ks_words *all = NULL;
    KS_TRY(ks_words_open(&all, err));
    for (int64_t i = 0; i < d->n; i++) {
        size_t n;
        const char *text = ks_dataset_text(d, i, &n);
        KS_TRY(ks_words_take_characters(all, KS_WORDS_STEP, text, n, err));
        KS_TRY(ks_words_end(all, err));
    }
    KS_TRY(fit(w, "TF-IDF characters",
               "2-5 grams of the characters of the step's words and the blanks "
               "around them",
               KS_WORDS_COMMON, all, err));
done:
    ks_words_close(&all);
    return st;
}

static ks_status prefix(ks_baselines_work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = w->d;
    ks_words *all = NULL;
    KS_TRY(ks_words_open(&all, err));
    for (int64_t i = 0; i < d->n; i++) {
        size_t n, n_question;
        const char *text = ks_dataset_text(d, i, &n);
        const char *question = ks_dataset_question(d, i, &n_question);
        KS_TRY(ks_words_take(all, KS_WORDS_BEFORE, LONGEST_BEFORE, question,
                             n_question, err));
        KS_TRY(ks_words_take(all, KS_WORDS_BEFORE, LONGEST_BEFORE,
                             d->of[i]->text, d->span[i].begin, err));
        KS_TRY(
            ks_words_take(all, KS_WORDS_STEP, KS_WORDS_LONGEST, text, n, err));
        KS_TRY(ks_words_end(all, err));
    }
    KS_TRY(fit(w, "TF-IDF prefix",
               "1-5 grams of the step and, apart from them, 1-2 grams of the "
               "question and all steps before it",
               KS_WORDS_COMMON, all, err));
done:
    ks_words_close(&all);
    return st;
}

ks_status ks__baselines_words(ks_baselines_work *w, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(words(w, err));
    KS_TRY(characters(w, err));
    KS_TRY(prefix(w, err));
done:
    return st;
}
