/* baselines_words.c - see baselines.h: what the wording tells. */
#include <stdlib.h>

#include "baselines_state.h"
#include "n_threads.h"
#include "words.h"

enum { LONGEST_BEFORE = 1 /* longer ones of a chain so far are too many */ };

static const char WHAT[] = "text baselines, which --no-text leaves out,";

typedef struct needs {
    const ks_words *words;
    const ks_folds *folds;
} needs;

static size_t bytes(void *user, int threads, bool scratch) {
    const needs *u = user;
    (void)scratch; /* they have none */
    return ks_words_bytes(u->words, u->folds, threads);
}

/* As many as --memory has room for, less `kept` bytes; KS_LIMIT: for none. */
static ks_status choose_threads(const ks_words *words, const ks_folds *folds,
                                const ks_nest_options *nest,
                                const ks_room *room, size_t kept, int *threads,
                                ks_err *err) {
    ks_status st = KS_OK;
    needs user = {words, folds};
    ks_room_plan plan;
    int most = ks_threads(nest->threads);
    KS_TRY(ks_room_choose(room, kept, bytes, &user, 1, most, WHAT, &plan, err));
    *threads = plan.threads;
done:
    return st;
}

static ks_status fit(ks_baselines_work *w, const char *name, const char *note,
                     ks_words_kind kind, const ks_words *all, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = w->d;
    const ks_folds *f = w->folds;
    ks_baseline *b;
    int threads;
    KS_TRY(ks__baseline_add(w, name, note, &b, err));
    b->reads_text = true;
    KS_TRY(ks_alloc(&b->by_seed, (size_t)(f->n_seeds * d->n), sizeof(float),
                    name, err));
    KS_TRY(ks_alloc(&b->strength, (size_t)(f->n_seeds * f->n_folds),
                    sizeof(double), name, err));
    KS_TRY(choose_threads(all, f, &w->options->nest, &w->options->room, 0,
                          &threads, err));
    KS_TRY(ks_words_fit(all, kind, d->y, f, threads, b->by_seed, b->strength,
                        err));
    ks_mean_over_seeds(b->by_seed, f, b->score);
    KS_TRY(ks__baseline_finish(w, b, err));
done:
    return st;
}

/* --------------------------------------------------------------------- rows
 */

/* Row i of a data set, but for its end. */
typedef ks_status (*row_fn)(ks_words *all, const ks_dataset *d, int64_t i,
                            ks_err *err);

static ks_status words_of(ks_words *all, const ks_dataset *d, int64_t i,
                          ks_err *err) {
    size_t n;
    const char *text = ks_dataset_text(d, i, &n);
    return ks_words_take(all, KS_WORDS_STEP, KS_WORDS_LONGEST, text, n, err);
}

static ks_status characters_of(ks_words *all, const ks_dataset *d, int64_t i,
                               ks_err *err) {
    size_t n;
    const char *text = ks_dataset_text(d, i, &n);
    return ks_words_take_characters(all, KS_WORDS_STEP, text, n, err);
}

static ks_status prefix_of(ks_words *all, const ks_dataset *d, int64_t i,
                           ks_err *err) {
    ks_status st = KS_OK;
    size_t n;
    const char *question = ks_dataset_question(d, i, &n);
    KS_TRY(
        ks_words_take(all, KS_WORDS_BEFORE, LONGEST_BEFORE, question, n, err));
    KS_TRY(ks_words_take(all, KS_WORDS_BEFORE, LONGEST_BEFORE, d->of[i]->text,
                         d->span[i].begin, err));
    KS_TRY(words_of(all, d, i, err));
done:
    return st;
}

/* All rows, within what --memory leaves less `kept` bytes. */
static ks_status build(ks_words **all, const ks_dataset *d, row_fn row,
                       const ks_room *room, size_t kept, ks_err *err) {
    ks_status st = KS_OK;
    size_t left = ks_room_left(room);
    ks_err own = {0};
    KS_TRY(ks_words_open(all, err));
    if (room->limit) ks_words_bound(*all, left > kept ? left - kept : 0);
    for (int64_t i = 0; i < d->n; i++) {
        KS_TRY(row(*all, d, i, err));
        st = ks_words_end(*all, &own);
        KS_CHECK(st != KS_LIMIT, st, "--memory %zuM: %s need more: %s",
                 room->limit >> 20, WHAT, own.text);
        if (st != KS_OK && err) *err = own;
        KS_TRY(st);
    }
done:
    if (st != KS_OK) ks_words_close(all);
    return st;
}

/* -------------------------------------------------------------------- kinds
 */

/* Those of the same rows stand together: one building serves them. */
static const struct {
    row_fn row;
    ks_words_kind kind;
    const char *name, *note;
} kinds[] = {
    {words_of, KS_WORDS_BAG, "bag of words",
     "counts of the step's words, numbers and signs"},
    {words_of, KS_WORDS_TFIDF, "TF-IDF 1-5 grams",
     "1-5 grams of the step's words, numbers and signs"},
    {characters_of, KS_WORDS_COMMON, "TF-IDF characters",
     "2-5 grams of the characters of the step's words and the blanks around "
     "them"},
    {prefix_of, KS_WORDS_COMMON, "TF-IDF prefix",
     "1-5 grams of the step and, apart from them, the words of the question "
     "and all steps before it"}};

static bool begins_rows(size_t k) {
    return k == 0 || kinds[k].row != kinds[k - 1].row;
}

/* Raises takes to what rows that are built, and fits on them, take. */
static void count_bytes(const ks_words *all, const ks_folds *folds,
                        size_t before, int threads, size_t takes[2]) {
    needs user = {all, folds};
    size_t now = ks_process_bytes(), built = now > before ? now - before : 0;
    takes[0] = KS_MAX(takes[0], built + bytes(&user, 1, false));
    takes[1] = KS_MAX(takes[1], built + bytes(&user, threads, false));
}

ks_status ks__baselines_words_room(const ks_dataset *d, const ks_folds *folds,
                                   const ks_nest_options *nest,
                                   const ks_room *room, size_t kept,
                                   size_t takes[2], ks_err *err) {
    ks_status st = KS_OK;
    ks_words *all = NULL;
    int threads;
    size_t before = ks_process_bytes();
    for (size_t k = 0; k < KS_COUNT(kinds); k++) {
        if (!begins_rows(k)) continue;
        KS_TRY(build(&all, d, kinds[k].row, room, kept, err));
        KS_TRY(choose_threads(all, folds, nest, room, kept, &threads, err));
        if (takes) count_bytes(all, folds, before, threads, takes);
        ks_words_close(&all);
    }
done:
    ks_words_close(&all);
    return st;
}

ks_status ks__baselines_words(ks_baselines_work *w, ks_err *err) {
    ks_status st = KS_OK;
    ks_words *all = NULL;
    for (size_t k = 0; k < KS_COUNT(kinds); k++) {
        if (begins_rows(k)) {
            ks_words_close(&all);
            KS_TRY(build(&all, w->d, kinds[k].row, &w->options->room, 0, err));
        }
        KS_TRY(fit(w, kinds[k].name, kinds[k].note, kinds[k].kind, all, err));
    }
done:
    ks_words_close(&all);
    return st;
}
