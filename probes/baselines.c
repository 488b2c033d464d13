/* baselines.c - see baselines.h. */
#include "baselines.h"

#include <stdlib.h>
#include <string.h>

#include "baselines_state.h"
#include "philox.h"
#include "surface.h"
#include "words.h"

typedef ks_baselines_work work;

ks_status ks__baseline_add(work *w, const char *name, const char *note,
                           ks_baseline **out, ks_err *err) {
    ks_baseline *b = &w->out->at[w->out->n++];
    b->name = name;
    b->note = note;
    *out = b;
    return ks_alloc(&b->score, (size_t)w->d->n, sizeof *b->score, name, err);
}

ks_status ks__baseline_finish(work *w, ks_baseline *b, ks_err *err) {
    const ks_dataset *d = w->d;
    ks_scored rows = {.n = d->n,
                      .score = b->score,
                      .y = d->y,
                      .group = d->group,
                      .chain = d->chain,
                      .n_groups = d->n_groups,
                      .n_chains = d->n_chains};
    ks_status st = ks_stats_bootstrap(&rows, w->options->bootstrap,
                                      w->options->seed, b->metrics, err);
    if (st == KS_OK && w->options->progress)
        w->options->progress(w->options->user, w->out->n);
    return st;
}

/* -------------------------------------------------------- without a look at it
 */

/* What anything must beat, with the scatter that so many steps have. */
static ks_status coin(work *w, ks_err *err) {
    ks_status st = KS_OK;
    const uint64_t key[2] = {w->options->seed, 0x636f696e};
    ks_baseline *b;
    KS_TRY(ks__baseline_add(w, "random", "a fair coin for each step", &b, err));
    for (int64_t i = 0; i < w->d->n; i++) {
        uint32_t words[4];
        ks_philox(key, (uint64_t)i, words);
        b->score[i] = ks_philox_unit(words[0]) - 0.5f;
    }
    KS_TRY(ks__baseline_finish(w, b, err));
done:
    return st;
}

static ks_status majority(work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = w->d;
    const uint8_t *fold = w->folds->fold; /* of the first seed */
    ks_baseline *b;
    KS_TRY(ks__baseline_add(w, "majority", "the class with more training rows",
                            &b, err));
    for (int32_t f = 0; f < w->folds->n_folds; f++) {
        int64_t count[2] = {0, 0};
        for (int64_t i = 0; i < d->n; i++)
            if (fold[i] != f) count[d->y[i]]++;
        for (int64_t i = 0; i < d->n; i++)
            if (fold[i] == f) b->score[i] = count[1] > count[0] ? 1 : -1;
    }
    KS_TRY(ks__baseline_finish(w, b, err));
done:
    return st;
}

static ks_status chain_majority(work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = w->d;
    ks_baseline *b;
    KS_TRY(ks__baseline_add(
        w, "chain majority",
        "what most of the chain's other labelled steps are; it reads "
        "labels of the tested chain, and with as many of each kind in "
        "every chain it is wrong by construction",
        &b, err));
    for (int64_t begin = 0, end; begin < d->n; begin = end) {
        int64_t important = 0;
        for (end = begin; end < d->n && d->chain[end] == d->chain[begin]; end++)
            important += d->y[end];
        int64_t others = end - begin - 1;
        for (int64_t i = begin; i < end; i++)
            b->score[i] =
                others ? (float)(important - d->y[i]) / (float)others - 0.5f
                       : 0;
    }
    KS_TRY(ks__baseline_finish(w, b, err));
done:
    return st;
}

/* ------------------------------------------------------------- dense features
 */

typedef void (*features_fn)(const work *w, int64_t i, float *row);

static void position_features(const work *w, int64_t i, float *row) {
    const ks_step_row *s = &w->d->info->steps[w->d->row[i]];
    row[0] = (float)s->index;
    row[1] = (float)s->index * (float)s->index;
}

static void relative_features(const work *w, int64_t i, float *row) {
    position_features(w, i, row);
    row[2] = (row[0] + 1) / (float)ks_dataset_steps(w->d, i);
}

static void length_features(const work *w, int64_t i, float *row) {
    const ks_step_row *s = &w->d->info->steps[w->d->row[i]];
    position_features(w, i, row);
    row[2] = (float)(s->byte_end - s->byte_begin);
    row[3] = (float)(s->token_end - s->token_begin);
    if (w->d->has_text) {
        size_t n;
        const char *text = ks_dataset_text(w->d, i, &n);
        row[4] = (float)ks_words_count(text, n);
    }
}

typedef struct needs {
    int32_t d;
    const ks_folds *folds;
    const ks_nest_options *options;
} needs;

static size_t bytes(void *user, int threads, bool scratch) {
    const needs *u = user;
    return ks_nest_bytes(u->d, KS_F32, u->folds, u->options, threads, scratch);
}

ks_status ks__baseline_fit(work *w, ks_baseline *b, const float *x,
                           int32_t n_features, ks_err *err) {
    ks_status st = KS_OK;
    const int8_t *y[KS_MAX_SEEDS];
    ks_nest nest = {0};
    const ks_nest *one = &nest;
    ks_nest_options options = w->options->nest;
    needs user = {n_features, w->folds, &w->options->nest};
    options.threads = 1; /* few features: not worth a barrier */
    KS_TRY(ks_room_fit(&w->options->room, bytes, &user, "baselines", &options,
                       err));
    for (int32_t s = 0; s < w->folds->n_seeds; s++) y[s] = w->d->y;
    KS_TRY(ks_nest_fit(&nest, x, n_features, y, w->folds, &options, err));
    ks_nest_mix(&one, NULL, w->folds, b->score);
    w->out->fits += nest.columns;
    w->out->unconverged += nest.unconverged;
    b->by_seed = nest.score;
    b->strength = nest.strength;
    nest.score = NULL;
    nest.strength = NULL;
    KS_TRY(ks__baseline_finish(w, b, err));
done:
    ks_nest_free(&nest);
    return st;
}

static ks_status dense(work *w, const char *name, const char *note,
                       features_fn features, int32_t n_features, ks_err *err) {
    ks_status st = KS_OK;
    float *x = NULL;
    ks_baseline *b;
    KS_TRY(ks__baseline_add(w, name, note, &b, err));
    b->looks_ahead = features == relative_features;
    KS_TRY(ks_alloc(&x, (size_t)(w->d->n * n_features), sizeof *x, name, err));
    for (int64_t i = 0; i < w->d->n; i++) features(w, i, x + i * n_features);
    KS_TRY(ks__baseline_fit(w, b, x, n_features, err));
done:
    free(x);
    return st;
}

/* ------------------------------------------------------------------ overlap */

static ks_status overlap(work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = w->d;
    float *x = NULL;
    ks_baseline *b;
    KS_TRY(ks__baseline_add(
        w, "question overlap",
        "shares of the step's words and of its numbers that stand in "
        "the question",
        &b, err));
    b->reads_text = true;
    KS_TRY(ks_alloc(&x, (size_t)d->n * 3, sizeof *x, "question overlap", err));
    for (int64_t i = 0; i < d->n; i++) {
        size_t n, n_question;
        const char *text = ks_dataset_text(d, i, &n);
        const char *question = ks_dataset_question(d, i, &n_question);
        KS_TRY(ks_words_overlap(text, n, question, n_question, x + 3 * i, err));
    }
    KS_TRY(ks__baseline_fit(w, b, x, 3, err));
done:
    free(x);
    return st;
}

/* ------------------------------------------------------------------ surface */

static ks_status surface(work *w, const char *name, const char *note,
                         ks_surface_set set, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = w->d;
    int32_t n_features = ks_surface_n_features(set);
    float *x = NULL;
    ks_baseline *b;
    KS_TRY(ks__baseline_add(w, name, note, &b, err));
    b->reads_text = true;
    b->looks_ahead = set != KS_SURFACE_KNOWN;
    KS_TRY(ks_alloc(&x, (size_t)(d->n * n_features), sizeof *x, name, err));
    KS_TRY(ks_surface_features(d, set, w->options->nest.threads, x, err));
    KS_TRY(ks__baseline_fit(w, b, x, n_features, err));
done:
    free(x);
    return st;
}

static ks_status surfaces(work *w, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(surface(w, "surface",
                   "place, length, numbers, operators, phrases and likeness to "
                   "what stands before, all known when the step is written",
                   KS_SURFACE_KNOWN, err));
    KS_TRY(surface(w, "surface as published",
                   "the published features, relative position among them, "
                   "which nobody knows when the step is written",
                   KS_SURFACE_PUBLISHED, err));
done:
    return st;
}

/* ---------------------------------------------------------------------- all */

int32_t ks_baselines_count(const ks_dataset *dataset,
                           const ks_baseline_options *options) {
    int32_t n = 6 + options->n_scores;
    if (dataset->has_text) n += options->words ? 7 : 3;
    return n;
}

ks_status ks_baselines_run(ks_baselines *out, const ks_dataset *dataset,
                           const ks_folds *folds,
                           const ks_baseline_options *options, ks_err *err) {
    ks_status st = KS_OK;
    work w = {.d = dataset, .folds = folds, .options = options, .out = out};
    *out = (ks_baselines){0};
    KS_TRY(ks_alloc(&out->at, (size_t)ks_baselines_count(dataset, options),
                    sizeof *out->at, "baselines", err));
    KS_TRY(coin(&w, err));
    KS_TRY(majority(&w, err));
    KS_TRY(chain_majority(&w, err));
    KS_TRY(dense(&w, "position", "the step's index and its square",
                 position_features, 2, err));
    KS_TRY(dense(&w, "relative position",
                 "index, its square, and index over the chain's length, which "
                 "nobody knows when the step is written",
                 relative_features, 3, err));
    KS_TRY(dense(&w, "position+length",
                 dataset->has_text ? "index and square, bytes, tokens and words"
                                   : "index and square, bytes and tokens",
                 length_features, dataset->has_text ? 5 : 4, err));
    if (dataset->has_text) KS_TRY(surfaces(&w, err));
    if (dataset->has_text) KS_TRY(overlap(&w, err));
    if (dataset->has_text && options->words)
        KS_TRY(ks__baselines_words(&w, err));
    KS_TRY(ks__baselines_scores(&w, err));
done:
    if (st != KS_OK) ks_baselines_free(out);
    return st;
}

void ks_baselines_free(ks_baselines *baselines) {
    for (int32_t i = 0; i < baselines->n; i++) {
        free(baselines->at[i].said);
        free(baselines->at[i].score);
        free(baselines->at[i].by_seed);
        free(baselines->at[i].strength);
    }
    free(baselines->at);
    *baselines = (ks_baselines){0};
}
