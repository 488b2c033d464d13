/* transfer_tasks.c - one model's sets on different chains: trained on all of
 * one, tested on another. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "l2.h"
#include "n_threads.h"
#include "split.h"
#include "transfer.h"

typedef struct work {
    ks_transfer *transfer;
    ks_transfer_tasks *tasks;
    ks_grid *within; /* [n_sets] each set's own, cross-validated */
} work;

static const ks_transfer_set *set_of(const work *w, int32_t k) {
    return &w->transfer->sets[w->tasks->set[k]];
}

/* ------------------------------------------------------------ within a set */

static ks_status fold_rows(const ks_transfer_options *o, const char *name,
                           const ks_split_input *input, uint8_t **fold,
                           ks_folds *out, ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(input->n_groups >= o->n_folds, KS_MISMATCH,
             "set %s: its labelled steps are of %d problems; %d folds by "
             "problem need at least as many",
             name, input->n_groups, o->n_folds);
    KS_TRY(ks_alloc(fold, (size_t)(o->n_seeds * input->n), 1, "folds", err));
    for (int32_t s = 0; s < o->n_seeds; s++)
        KS_TRY(ks_split_folds(input, o->n_folds, o->grid.seed + (uint64_t)s,
                              *fold + s * input->n, err));
    *out = (ks_folds){.n = input->n,
                      .n_folds = o->n_folds,
                      .n_inner = o->n_inner,
                      .n_seeds = o->n_seeds,
                      .fold = *fold};
done:
    return st;
}

static ks_status run_within(work *w, int32_t k, ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_options *o = w->transfer->options;
    const ks_transfer_set *s = set_of(w, k);
    const ks_dataset *d = s->dataset;
    ks_grid_options grid = o->grid;
    ks_split_input input = {d->n, d->y, d->group, d->n_groups, d->group_ids};
    ks_transfer_task *own = &w->tasks->cells[k * w->tasks->n_sets + k];
    uint8_t *fold = NULL;
    ks_folds folds;
    grid.streams = 1u << w->tasks->stream;
    grid.positions = 1u << w->tasks->position;
    grid.layers = s->layers;
    KS_TRY(fold_rows(o, s->source->name, &input, &fold, &folds, err));
    if (o->begin)
        o->begin(grid.user, s->source->name, "layer",
                 ks_grid_cells(s->file, &grid));
    st = ks_grid_run(&w->within[k], d, s->file, s->source->acts, d->row, &folds,
                     &grid, err);
    if (o->end) o->end(grid.user);
    KS_TRY(st);
    memcpy(own->metrics, w->within[k].series->metrics, sizeof own->metrics);
    own->minus_within = (ks_interval){NAN, NAN, NAN};
    own->p = (ks_transfer_p){w->within[k].series->p, NAN, NAN, NAN};
    own->layer = -1;
    own->strength = NAN;
    own->n_train = d->n;
    own->there = true;
    w->transfer->fits += w->within[k].columns;
    w->transfer->unconverged += w->within[k].unconverged;
done:
    free(fold);
    return st;
}

/* ------------------------------------------------------- the rows to train on
 */

typedef struct training {
    int64_t n, *from; /* [n] row of the data set */
    int8_t *y;
    int32_t *group, n_groups;
    const char **ids; /* [n_groups] */
    uint8_t *fold;
    ks_folds folds;
} training;

static void free_training(training *t) {
    free(t->from);
    free(t->y);
    free(t->group);
    free(t->ids);
    free(t->fold);
}

/* Which problems of set a are also tested in b, by id or by question: bool
 * [groups of a], and their ids. */
static ks_status find_shared(const ks_transfer_set *a, const ks_transfer_set *b,
                             bool *shared, json_t *ids, ks_err *err) {
    ks_status st = KS_OK;
    json_t *tested = json_object();
    KS_CHECK(tested, KS_NOMEM, "out of memory for problem ids");
    for (int32_t g = 0; g < b->dataset->n_groups; g++) {
        const char *id = b->dataset->group_ids[g];
        json_t *question = json_object_get(b->questions, id);
        KS_CHECK(json_object_set_new(tested, id, json_true()) == 0 &&
                     (!question ||
                      json_object_set_new(tested, json_string_value(question),
                                          json_true()) == 0),
                 KS_NOMEM, "out of memory for problem ids");
    }
    for (int32_t g = 0; g < a->dataset->n_groups; g++) {
        const char *id = a->dataset->group_ids[g];
        json_t *question = json_object_get(a->questions, id);
        shared[g] =
            json_object_get(tested, id) ||
            (question && json_object_get(tested, json_string_value(question)));
        KS_CHECK(!shared[g] || json_array_append_new(ids, json_string(id)) == 0,
                 KS_NOMEM, "out of memory for problem ids");
    }
done:
    json_decref(tested);
    return st;
}

/* Rows of a's problems that are not shared. */
static ks_status take_rows(training *t, const ks_dataset *d, const bool *shared,
                           ks_err *err) {
    ks_status st = KS_OK;
    int32_t *number = NULL;
    size_t n = (size_t)d->n, groups = (size_t)d->n_groups;
    KS_TRY(ks_alloc(&t->from, n, sizeof *t->from, "rows", err));
    KS_TRY(ks_alloc(&t->y, n, sizeof *t->y, "rows", err));
    KS_TRY(ks_alloc(&t->group, n, sizeof *t->group, "rows", err));
    KS_TRY(ks_alloc(&t->ids, groups, sizeof *t->ids, "rows", err));
    KS_TRY(ks_alloc(&number, groups, sizeof *number, "rows", err));
    for (int64_t i = 0; i < d->n; i++) {
        int32_t g = d->group[i];
        if (shared[g]) continue;
        if (!number[g]) {
            t->ids[t->n_groups] = d->group_ids[g];
            number[g] = ++t->n_groups;
        }
        t->from[t->n] = i;
        t->y[t->n] = d->y[i];
        t->group[t->n++] = number[g] - 1;
    }
done:
    free(number);
    return st;
}

static ks_status open_training(training *t, const work *w, int32_t from,
                               int32_t to, ks_transfer_task *task,
                               ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_set *a = set_of(w, from), *b = set_of(w, to);
    bool *shared = NULL;
    task->left_out = json_array();
    KS_CHECK(task->left_out, KS_NOMEM, "out of memory for problem ids");
    KS_TRY(ks_alloc(&shared, (size_t)a->dataset->n_groups, 1, "problems", err));
    KS_TRY(find_shared(a, b, shared, task->left_out, err));
    KS_TRY(take_rows(t, a->dataset, shared, err));
    size_t left_out = json_array_size(task->left_out);
    KS_CHECK(t->n_groups >= w->transfer->options->n_folds, KS_MISMATCH,
             "sets %s and %s: %zu of %d problems of the first are also in the "
             "second (%s%s); a probe may not be tested on problems that it was "
             "trained on, and what is left are %d problems for %d folds",
             a->source->name, b->source->name, left_out, a->dataset->n_groups,
             left_out ? json_string_value(json_array_get(task->left_out, 0))
                      : "none",
             left_out > 1 ? ", .." : "", t->n_groups,
             w->transfer->options->n_folds);
    ks_split_input input = {t->n, t->y, t->group, t->n_groups, t->ids};
    KS_TRY(fold_rows(w->transfer->options, a->source->name, &input, &t->fold,
                     &t->folds, err));
done:
    free(shared);
    return st;
}

/* ---------------------------------------------------------------- the probe */

/* The best so far. */
typedef struct best {
    double loss, strength;
    int32_t layer;
    double *weight; /* [d + 1] on raw x, bias last */
} best;

static ks_status open_solver(const work *w, const training *t, const float *x,
                             int64_t d, ks_l2 **l2, ks_err *err) {
    ks_l2_design designs[KS_MAX_SEEDS];
    const ks_nest_options *o = &w->transfer->options->grid.nest;
    for (int32_t s = 0; s < t->folds.n_seeds; s++)
        designs[s] = (ks_l2_design){t->y, t->fold + s * t->n};
    return ks_l2_open_on(l2, o->ops, o->dev, x, t->n, d, designs,
                         t->folds.n_seeds, ks_threads(o->threads), err);
}

static ks_status solve(work *w, ks_l2 *l2, ks_l2_column *columns, int32_t n,
                       ks_err *err) {
    const ks_nest_options *o = &w->transfer->options->grid.nest;
    ks_status st =
        ks_l2_fit(l2, columns, n, o->tolerance > 0 ? o->tolerance : 1e-6,
                  o->max_passes ? o->max_passes : KS_DEFAULT_PASSES, err);
    for (int32_t i = 0; st == KS_OK && i < n; i++) {
        w->transfer->fits++;
        w->transfer->unconverged += !columns[i].converged;
    }
    return st;
}

/* The strength with the least mean loss on the folds, each held out in turn. */
static ks_status choose_strength(work *w, const training *t, ks_l2 *l2,
                                 double *strength, double *least, ks_err *err) {
    ks_status st = KS_OK;
    const ks_nest_options *o = &w->transfer->options->grid.nest;
    int32_t fits = t->folds.n_seeds * t->folds.n_folds;
    int32_t n = fits * o->n_strengths;
    ks_l2_column *columns = NULL;
    float *margin = NULL;
    KS_TRY(ks_alloc(&columns, (size_t)n, sizeof *columns, "columns", err));
    KS_TRY(ks_alloc(&margin, (size_t)n * (size_t)t->n, sizeof *margin,
                    "margins", err));
    for (int32_t i = 0; i < n; i++) {
        int32_t fit = i / o->n_strengths;
        columns[i] =
            (ks_l2_column){.design = fit / t->folds.n_folds,
                           .hold = 1u << fit % t->folds.n_folds,
                           .strength = o->strengths[i % o->n_strengths],
                           .margin = margin + (int64_t)i * t->n};
    }
    KS_TRY(solve(w, l2, columns, n, err));
    *least = INFINITY;
    for (int32_t c = 0; c < o->n_strengths; c++) {
        double loss = 0;
        for (int32_t fit = 0; fit < fits; fit++) {
            int64_t i = fit * o->n_strengths + c;
            loss += ks_nest_loss(margin + i * t->n, t->y,
                                 t->fold + fit / t->folds.n_folds * t->n, t->n,
                                 columns[i].hold) /
                    fits;
        }
        if (loss < *least) *least = loss, *strength = o->strengths[c];
    }
    KS_CHECK(isfinite(*least), KS_NUMERIC, "no strength has a finite loss");
done:
    free(columns);
    free(margin);
    return st;
}

/* One layer: strength by cross-validation, then all rows; kept if it is better
 * than the layers before. */
static ks_status fit_layer(work *w, const training *t, const float *x,
                           int64_t d, int32_t layer, best *b, ks_err *err) {
    ks_status st = KS_OK;
    ks_l2 *l2 = NULL;
    double strength = NAN, loss = INFINITY, *weight = NULL;
    KS_TRY(open_solver(w, t, x, d, &l2, err));
    KS_TRY(choose_strength(w, t, l2, &strength, &loss, err));
    if (!(loss < b->loss)) goto done;
    KS_TRY(ks_alloc(&weight, (size_t)d + 1, sizeof *weight, "weights", err));
    ks_l2_column all = {.strength = strength, .weight = weight};
    KS_TRY(solve(w, l2, &all, 1, err));
    free(b->weight);
    *b = (best){loss, strength, layer, weight};
    weight = NULL;
done:
    free(weight);
    ks_l2_close(&l2);
    return st;
}

static ks_status train(work *w, const training *t, int32_t from, best *b,
                       ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_set *s = set_of(w, from);
    const ks_transfer_options *o = w->transfer->options;
    size_t d = (size_t)s->info->d, n = (size_t)t->n;
    int32_t layers = s->info->n_layers + (w->tasks->stream == KS_RESID);
    float *buffer = NULL, *x = NULL;
    ks_err inner = {0};
    *b = (best){.loss = INFINITY};
    KS_TRY(ks_alloc(&buffer, (size_t)s->info->n_steps * d, sizeof *buffer,
                    "activations of a layer", err));
    KS_TRY(ks_alloc(&x, n * d, sizeof *x, "activations of a layer", err));
    for (int32_t l = 0; l < layers; l++) {
        if ((s->layers && !s->layers[l]) ||
            !ks_acts_has_layer(s->file, w->tasks->stream, l))
            continue;
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
        KS_TRY(ks_acts_read(s->file, w->tasks->stream, w->tasks->position, l, 0,
                            s->info->n_steps, buffer, err));
        for (size_t i = 0; i < n; i++)
            memcpy(x + i * d, buffer + (size_t)s->dataset->row[t->from[i]] * d,
                   d * sizeof *x);
        st = fit_layer(w, t, x, (int64_t)d, l, b, &inner);
        KS_CHECK(st == KS_OK, st, "set %s layer %d: %s", s->source->name, l,
                 inner.text);
        if (o->grid.progress) o->grid.progress(o->grid.user, l + 1);
    }
done:
    free(buffer);
    free(x);
    return st;
}

/* ----------------------------------------------------------------- the test */

static ks_status score_rows(const work *w, int32_t to, const best *b,
                            float *score, ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_set *s = set_of(w, to);
    size_t d = (size_t)s->info->d;
    float *buffer = NULL;
    KS_TRY(ks_alloc(&buffer, (size_t)s->info->n_steps * d, sizeof *buffer,
                    "activations of a layer", err));
    KS_TRY(ks_acts_read(s->file, w->tasks->stream, w->tasks->position, b->layer,
                        0, s->info->n_steps, buffer, err));
    for (int64_t i = 0; i < s->dataset->n; i++) {
        const float *x = buffer + (size_t)s->dataset->row[i] * d;
        double z = b->weight[d];
        for (size_t j = 0; j < d; j++) z += b->weight[j] * (double)x[j];
        score[i] = (float)z;
    }
done:
    free(buffer);
    return st;
}

static ks_status run_pair(work *w, int32_t from, int32_t to, ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_options *o = w->transfer->options;
    const ks_transfer_set *a = set_of(w, from);
    const ks_dataset *d = set_of(w, to)->dataset;
    ks_transfer_task *task = &w->tasks->cells[from * w->tasks->n_sets + to];
    training t = {0};
    best b = {0};
    float *score = NULL;
    KS_TRY(open_training(&t, w, from, to, task, err));
    if (o->begin)
        o->begin(o->grid.user, a->source->name, "layer",
                 a->info->n_layers + (w->tasks->stream == KS_RESID));
    st = train(w, &t, from, &b, err);
    if (o->end) o->end(o->grid.user);
    KS_TRY(st);
    KS_TRY(ks_alloc(&score, (size_t)d->n, sizeof *score, "scores", err));
    KS_TRY(score_rows(w, to, &b, score, err));
    ks_scored rows = ks_grid_scored(d, score);
    KS_TRY(ks_stats_bootstrap(&rows, o->grid.bootstrap, o->grid.seed,
                              task->metrics, err));
    KS_TRY(ks_stats_balanced(&rows, w->within[to].series->score,
                             o->grid.bootstrap, o->grid.seed, NULL,
                             &task->minus_within, err));
    KS_TRY(ks__transfer_p(&task->p, &rows, 1, w->within[to].series->score,
                          o->grid.seed, err));
    task->layer = b.layer;
    task->strength = b.strength;
    task->n_train = t.n;
    task->there = true;
done:
    free_training(&t);
    free(b.weight);
    free(score);
    return st;
}

ks_status ks__transfer_tasks(ks_transfer *t, ks_transfer_tasks *tasks,
                             ks_err *err) {
    ks_status st = KS_OK;
    work w = {.transfer = t, .tasks = tasks};
    ks_transfer_p *list[KS_MAX_SETS * KS_MAX_SETS];
    int32_t n = tasks->n_sets;
    KS_TRY(ks_alloc(&tasks->cells, (size_t)(n * n), sizeof *tasks->cells,
                    "sets", err));
    KS_TRY(ks_alloc(&w.within, (size_t)n, sizeof *w.within, "probes", err));
    for (int32_t k = 0; k < n; k++) KS_TRY(run_within(&w, k, err));
    for (int32_t from = 0; from < n; from++)
        for (int32_t to = 0; to < n; to++)
            if (from != to) KS_TRY(run_pair(&w, from, to, err));
    for (int32_t i = 0; i < n * n; i++) list[i] = &tasks->cells[i].p;
    KS_TRY(ks__transfer_holm(list, n * n, err));
done:
    for (int32_t k = 0; w.within && k < n; k++) ks_grid_free(&w.within[k]);
    free(w.within);
    return st;
}

void ks__transfer_tasks_free(ks_transfer_tasks *tasks) {
    for (int32_t i = 0; tasks->cells && i < tasks->n_sets * tasks->n_sets; i++)
        json_decref(tasks->cells[i].left_out);
    free(tasks->cells);
    free(tasks->set);
    *tasks = (ks_transfer_tasks){0};
}
