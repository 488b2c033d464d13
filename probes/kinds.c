/* kinds.c - see kinds.h. */
#include "kinds.h"

#include <stdlib.h>
#include <string.h>

#include "kinds_cells.h"
#include "n_threads.h"

static const size_t MOST_WEIGHTS = (size_t)KS_KINDS_KEPT_MIB << 20;

void ks_kinds_default(ks_kinds_options *o) {
    ks_err err;
    ks_status st = KS_OK;
    if (!o->n_recipes)
        st = ks_recipes_read("linear,mlp,lw-linear,lw-mlp", o->recipes,
                             &o->n_recipes, &err);
    if (st != KS_OK) abort(); /* the words are ours */
    if (!o->n_rates) o->rates[o->n_rates++] = 3e-4;
}

int64_t ks_kinds_fits(const ks_grid *grid, const ks_folds *folds,
                      const ks_kinds_options *o) {
    int64_t n = 0;
    for (int32_t k = 0; k < grid->n_series; k++)
        for (int32_t r = 0; r < o->n_recipes; r++)
            n += o->recipes[r].input == KS_INPUT_EACH ? grid->series[k].n_cells
                                                      : 1;
    return n * folds->n_seeds * folds->n_folds;
}

static const char *note_of(ks_input input) {
    switch (input) {
    case KS_INPUT_MEAN:
        return "AdamW on the mean over the layers behind the embeddings; rate "
               "and epoch chosen on a development part of the training folds";
    case KS_INPUT_BESIDE:
        return "AdamW on the layers behind the embeddings side by side; rate "
               "and epoch chosen on a development part of the training folds";
    default:
        return "AdamW on a layer alone; rate and epoch chosen on a development "
               "part of the training folds";
    }
}

typedef struct work {
    ks_kinds *out;
    ks_others *others;
    const ks_dataset *dataset;
    const ks_grid *grid;
    const ks_folds *folds;
    const ks_kinds_options *o;
    const ks_grid_options *grid_options;
    const struct ks_ops *ops;
    ks_dev *dev;
    bool own_dev;
    ks_trained_options trained;
} work;

static ks_kind_place place_of(const work *w, const ks_recipe *recipe) {
    return (ks_kind_place){.dataset = w->dataset,
                           .folds = w->folds,
                           .o = w->o,
                           .grid = w->grid_options,
                           .trained = &w->trained,
                           .recipe = recipe};
}

/* A recipe on a series while it is worked on. What trains is opened when the
 * first fit is found missing: with all cells at hand nothing is read. */
typedef struct job {
    work *w;
    const ks_series *series;
    ks_stack *stack; /* of the series, for all recipes */
    ks_kind *kind;
    ks_kind_place place;
    ks_kind_cells cells;
    ks_trainer trainer;
    ks_published *published;
    int32_t *list, n_list; /* fits to train, by number */
    int32_t *todo, n_put;  /* cells or units to make; put so far */
} job;

static ks_status add_other(const work *w, const ks_kind *kind,
                           const ks_trained *t, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)w->dataset->n;
    ks_other other = {.note = note_of(kind->recipe->input),
                      .stream = kind->stream,
                      .position = kind->position,
                      .layer = t->layer};
    snprintf(other.probe, sizeof other.probe, "%s", kind->recipe->name);
    KS_TRY(ks_alloc(&other.score, n, sizeof *other.score, "scores", err));
    memcpy(other.score, t->score, n * sizeof *other.score);
    KS_TRY(ks_others_add(w->others, &other, w->dataset, w->grid,
                         w->grid_options, err));
done:
    return st;
}

/* Of probes that read `layers` layers behind the embeddings. */
static int64_t inputs_of(const ks_recipe *recipe, int32_t layers, int64_t d) {
    return recipe->input == KS_INPUT_BESIDE ? layers * d : d;
}

/* Beside the rows and what stays. */
static double least_of(const ks_recipe *recipe, int32_t layers, int64_t d,
                       const ks_folds *folds, const ks_kinds_options *o) {
    bool published = o->published && recipe->input != KS_INPUT_EACH;
    return ks_recipe_least(recipe, inputs_of(recipe, layers, d), folds) +
           (published ? ks_published_bytes(o->n_rates, folds->n) : 0);
}

/* As many probes at a time as memory holds, and at least a fit's rates. */
static ks_status fit_memory(const work *w, const ks_series *series,
                            const ks_stack *stack, ks_trainer *trainer,
                            ks_err *err) {
    ks_status st = KS_OK;
    const ks_room *room = &w->grid_options->room;
    const ks_recipe *recipe = trainer->recipe;
    double left = (double)ks_room_left(room), one;
    double least = least_of(recipe, stack->n_layers - stack->first, stack->d,
                            w->folds, w->o);
    KS_CHECK(least <= left, KS_LIMIT,
             "%s at %s/%s: training its rates takes %.0f bytes, %s %.0f; more "
             "--memory, or fewer units",
             recipe->name, ks_stream_name(series->stream),
             ks_position_name(series->position), least,
             room->limit ? "--memory leaves" : "this machine has", left);
    one =
        KS_TRAINED_RATES *
        ks_trainer_bytes(trainer, w->dataset->n,
                         KS_TRAINED_EPOCHS * w->dataset->n / w->folds->n_folds);
    if (room->limit)
        trainer->room = KS_MIN(trainer->room, left - (least - one));
done:
    return st;
}

static ks_status read_stack(job *j, ks_err *err) {
    ks_status st = KS_OK;
    const work *w = j->w;
    ks_stack_options options = {.in_memory = !w->ops->unified,
                                .room = w->grid_options->room};
    if (j->stack->n) return KS_OK;
    for (int32_t r = 0; r < w->o->n_recipes; r++) {
        const ks_recipe *recipe = &w->o->recipes[r];
        bool of_mean = recipe->input == KS_INPUT_MEAN;
        double least = least_of(recipe, j->series->n_cells, w->dataset->info->d,
                                w->folds, w->o);
        options.mean |= of_mean;
        options.all |= !of_mean;
        options.besides = KS_MAX(options.besides, least);
    }
    KS_TRY(ks_stack_read(j->stack, w->dataset, j->series, &options, err));
done:
    return st;
}

static ks_status open_trainer(job *j, ks_err *err) {
    ks_status st = KS_OK;
    const work *w = j->w;
    if (j->trainer.data) return KS_OK;
    KS_TRY(read_stack(j, err));
    KS_TRY(ks_trainer_open(&j->trainer, j->place.recipe, j->stack, w->ops,
                           w->dev, err));
    KS_TRY(fit_memory(w, j->series, j->stack, &j->trainer, err));
done:
    return st;
}

/* Whatever is trained for a store is put as soon as it is there, so no more is
 * trained at once than keeps the processors busy. A device takes what fits. */
static int32_t runs_at_once(const work *w) {
    enum { RUNS = 4 }; /* of a thread */
    if (!w->grid_options->store || !w->ops->unified) return 0;
    return RUNS * ks_threads(w->grid_options->nest.threads);
}

/* -------------------------------------------------------------------- honest
 */

/* Cells whose fits are all among the first `done` of the list. */
static ks_status put_fits(void *user, int32_t done, ks_err *err) {
    ks_status st = KS_OK;
    job *j = user;
    for (; (j->n_put + 1) * j->cells.fits <= done; j->n_put++)
        KS_TRY(
            ks__kind_put(&j->cells, j->todo[j->n_put], j->kind->probes, err));
done:
    return st;
}

/* What is not in the store, and of its share. */
static ks_status find_fits(job *j, ks_err *err) {
    ks_status st = KS_OK;
    work *w = j->w;
    ks_cell_store *store = w->grid_options->store;
    int32_t fits = j->place.n_probes * j->place.n_fits, n = 0;
    bool share = store && ks_cell_store_get(store)->of;
    KS_TRY(ks_alloc(&j->list, (size_t)fits, sizeof *j->list, "fits", err));
    KS_TRY(ks_alloc(&j->todo,
                    (size_t)KS_MAX(j->cells.n, j->cells.n_published) + 1,
                    sizeof *j->todo, "fits", err));
    for (int32_t k = 0; !store && k < fits; k++) j->list[j->n_list++] = k;
    for (int32_t c = 0; c < j->cells.n; c++) {
        bool found = !ks_cell_store_missing(store, &j->cells.keys[c]);
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
        if (!share)
            KS_TRY(ks__kind_take(&j->cells, c, j->kind->probes, &found, err));
        if (found) continue;
        j->todo[n++] = c;
        for (int32_t k = 0; k < j->cells.fits; k++)
            j->list[j->n_list++] = c * j->cells.fits + k;
    }
    w->trained.done += fits - j->n_list;
    if (w->trained.progress && fits > j->n_list)
        w->trained.progress(w->trained.user, w->trained.done);
done:
    return st;
}

static ks_status train(job *j, ks_err *err) {
    ks_status st = KS_OK;
    work *w = j->w;
    const ks_kind_place *p = &j->place;
    bool each = p->recipe->input == KS_INPUT_EACH;
    int32_t runs = runs_at_once(w);
    KS_TRY(ks_trained_open(j->kind->probes, p->recipe, p->n_probes, p->n_inputs,
                           each ? p->layer : NULL, &w->trained, err));
    KS_TRY(find_fits(j, err));
    if (!j->n_list) goto done;
    KS_TRY(open_trainer(j, err));
    w->trained.at_once = (runs + KS_TRAINED_RATES - 1) / KS_TRAINED_RATES;
    KS_TRY(ks_trained_fit(j->kind->probes, &j->trainer, j->list, j->n_list,
                          j->cells.n ? put_fits : NULL, j, &w->trained, err));
done:
    return st;
}

/* ----------------------------------------------------------------- published
 */

static ks_status put_units(void *user, int32_t done, ks_err *err) {
    ks_status st = KS_OK;
    job *j = user;
    for (; j->n_put < done; j->n_put++)
        KS_TRY(
            ks__published_put(&j->cells, j->todo[j->n_put], j->published, err));
done:
    return st;
}

static ks_status find_units(job *j, int32_t *n, ks_err *err) {
    ks_status st = KS_OK;
    ks_cell_store *store = j->w->grid_options->store;
    bool share = ks_cell_store_get(store)->of;
    for (int32_t u = 0; u < j->cells.n_published; u++) {
        bool found = !ks_cell_store_missing(store, &j->cells.published[u]);
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
        if (!share)
            KS_TRY(ks__published_take(&j->cells, u, j->published, &found, err));
        if (!found) j->todo[(*n)++] = u;
    }
done:
    return st;
}

static ks_status train_published(job *j, ks_err *err) {
    ks_status st = KS_OK;
    const work *w = j->w;
    int32_t all[KS_PUBLISHED_SEEDS * KS_MOST_RATES], n = 0;
    int32_t units = KS_PUBLISHED_SEEDS * w->o->n_rates;
    bool stored = w->grid_options->store != NULL;
    j->n_put = 0;
    if (stored) KS_TRY(find_units(j, &n, err));
    for (; !stored && n < units; n++) all[n] = n;
    if (!n) goto done;
    KS_TRY(open_trainer(j, err));
    KS_TRY(ks_published_train(j->published, &j->trainer, stored ? j->todo : all,
                              n, runs_at_once(w), stored ? put_units : NULL, j,
                              err));
done:
    return st;
}

static ks_status run_published(job *j, bool figures, ks_err *err) {
    ks_status st = KS_OK;
    const work *w = j->w;
    const ks_dataset *d = w->dataset;
    ks_protocol *p = &w->out->protocols[w->out->n_protocols];
    ks_split_input rows = {.n = d->n,
                           .y = d->y,
                           .group = d->group,
                           .n_groups = d->n_groups,
                           .ids = d->group_ids};
    ks_published_options options = {.rows = &rows,
                                    .folds = w->folds,
                                    .n_rates = w->o->n_rates,
                                    .rates = w->o->rates,
                                    .bootstrap = w->grid_options->bootstrap,
                                    .seed = w->grid_options->seed};
    KS_TRY(
        ks_published_open(&j->published, j->place.recipe->name, &options, err));
    KS_TRY(train_published(j, err));
    if (!figures) goto done;
    snprintf(p->probe, sizeof p->probe, "%s", j->place.recipe->name);
    p->stream = j->place.stream, p->position = j->place.position;
    KS_TRY(ks_published_finish(j->published, p, j->kind->probes, err));
    w->out->n_protocols++;
done:
    ks_published_close(&j->published);
    return st;
}

/* -------------------------------------------------------------------- recipes
 */

/* The kind with room for its probes. */
static ks_status open_kind(job *j, ks_err *err) {
    ks_status st = KS_OK;
    ks_kind_place *p = &j->place;
    KS_TRY(ks__kind_place_open(p, j->series, err));
    KS_TRY(ks__kind_cells_open(&j->cells, p, err));
    *j->kind = (ks_kind){.recipe = p->recipe,
                         .stream = p->stream,
                         .position = p->position,
                         .n_layers = p->n_layers};
    KS_TRY(ks_alloc(&j->kind->layer, (size_t)p->n_layers,
                    sizeof *j->kind->layer, "layers", err));
    memcpy(j->kind->layer, p->layer,
           (size_t)p->n_layers * sizeof *j->kind->layer);
    KS_TRY(ks_alloc(&j->kind->probes, (size_t)p->n_probes,
                    sizeof *j->kind->probes, "probes", err));
    j->kind->n_probes = p->n_probes;
done:
    return st;
}

static void free_kind(ks_kind *kind) {
    for (int32_t k = 0; k < kind->n_probes; k++)
        ks_trained_free(&kind->probes[k]);
    free(kind->probes);
    free(kind->layer);
    *kind = (ks_kind){0};
}

static ks_status finish(job *j, ks_err *err) {
    ks_status st = KS_OK;
    const work *w = j->w;
    const ks_kind *kind = j->kind;
    for (int32_t k = 0; k < kind->n_probes; k++)
        KS_TRY(add_other(w, kind, &kind->probes[k], err));
    if (!kind->probes[0].param)
        ks_log(KS_LOG_INFO,
               "probe: weights of %s at %s/%s take more than %d MiB and are "
               "not kept",
               kind->recipe->name, ks_stream_name(kind->stream),
               ks_position_name(kind->position), KS_KINDS_KEPT_MIB);
done:
    return st;
}

static ks_status run_recipe(work *w, const ks_series *series, ks_stack *stack,
                            const ks_recipe *recipe, ks_err *err) {
    ks_status st = KS_OK;
    ks_err inner = {0};
    const ks_cell_store *store = w->grid_options->store;
    bool share = store && ks_cell_store_get(store)->of;
    job j = {.w = w,
             .series = series,
             .stack = stack,
             .kind = &w->out->at[w->out->n++],
             .place = place_of(w, recipe)};
    KS_TRY(open_kind(&j, err));
    st = train(&j, &inner);
    if (st == KS_OK && !share)
        ks_trained_finish(j.kind->probes, j.kind->n_probes, w->folds);
    if (st == KS_OK && ks__kind_published(&j.place))
        st = run_published(&j, !share, &inner);
    KS_CHECK(st != KS_INTERRUPTED, st, "%s", inner.text);
    KS_CHECK(st == KS_OK, st, "%s/%s, probe %s: %s",
             ks_stream_name(series->stream), ks_position_name(series->position),
             recipe->name, inner.text);
    if (share) {
        free_kind(j.kind);
        w->out->n--;
    } else {
        KS_TRY(finish(&j, err));
    }
done:
    ks_trainer_close(&j.trainer);
    ks__kind_cells_close(&j.cells);
    ks__kind_place_close(&j.place);
    free(j.list);
    free(j.todo);
    return st;
}

static ks_status run_series(work *w, const ks_series *series, ks_err *err) {
    ks_status st = KS_OK;
    ks_stack stack = {0};
    for (int32_t r = 0; r < w->o->n_recipes; r++)
        KS_TRY(run_recipe(w, series, &stack, &w->o->recipes[r], err));
done:
    ks_stack_free(&stack);
    return st;
}

/* Rows of the layers, or of their mean, in memory. */
static double rows_of(const ks_recipe *recipe, int32_t layers, int64_t d,
                      int64_t n) {
    int32_t matrices = recipe->input == KS_INPUT_MEAN ? 1 : layers;
    return (double)sizeof(float) * matrices * (double)n * (double)d;
}

double ks_kinds_bytes(const ks_kinds_options *o, const ks_acts_info *info,
                      int32_t cells, const ks_folds *folds, bool bounded,
                      double *kept) {
    double most = 0, rows = 0;
    for (int32_t r = 0; r < o->n_recipes; r++) {
        const ks_recipe *recipe = &o->recipes[r];
        int32_t probes = recipe->input == KS_INPUT_EACH ? cells : 1;
        double one = least_of(recipe, cells, info->d, folds, o);
        double fits = (double)folds->n_seeds * folds->n_folds * probes;
        if (!bounded)
            one = KS_MAX(one, KS_MIN(fits * one, (double)KS_TRAINER_ROOM));
        most = KS_MAX(most, one);
        rows = KS_MAX(rows, rows_of(recipe, cells, info->d, folds->n));
        *kept += ks_recipe_kept(recipe, inputs_of(recipe, cells, info->d),
                                probes, folds, MOST_WEIGHTS);
    }
    return most + (bounded ? 0 : rows) + ks_stack_least(info);
}

static work work_of(const ks_dataset *dataset, const ks_grid *grid,
                    const ks_folds *folds, const ks_kinds_options *options,
                    const ks_grid_options *grid_options) {
    return (work){.dataset = dataset,
                  .grid = grid,
                  .folds = folds,
                  .o = options,
                  .grid_options = grid_options,
                  .ops = grid_options->nest.ops,
                  .dev = grid_options->nest.dev,
                  .trained = {.folds = folds,
                              .y = dataset->y,
                              .seed = grid_options->seed,
                              .weights = MOST_WEIGHTS,
                              .progress = grid_options->progress,
                              .user = grid_options->user}};
}

ks_status ks_kinds_expect(const ks_dataset *dataset, const ks_grid *outline,
                          const ks_folds *folds,
                          const ks_kinds_options *options,
                          const ks_grid_options *grid_options, ks_err *err) {
    ks_status st = KS_OK;
    const work w = work_of(dataset, outline, folds, options, grid_options);
    ks_kind_cells cells = {0};
    ks_kind_place place = {0};
    for (int32_t k = 0; k < outline->n_series * options->n_recipes; k++) {
        const ks_series *s = &outline->series[k / options->n_recipes];
        place = place_of(&w, &options->recipes[k % options->n_recipes]);
        KS_TRY(ks__kind_place_open(&place, s, err));
        KS_TRY(ks__kind_cells_open(&cells, &place, err));
        KS_TRY(ks__kind_cells_expect(&cells, err));
        ks__kind_cells_close(&cells);
        ks__kind_place_close(&place);
    }
done:
    ks__kind_cells_close(&cells);
    ks__kind_place_close(&place);
    return st;
}

ks_status ks_kinds_run(ks_kinds *out, ks_others *others,
                       const ks_dataset *dataset, const ks_grid *grid,
                       const ks_folds *folds, const ks_kinds_options *options,
                       const ks_grid_options *grid_options, ks_err *err) {
    ks_status st = KS_OK;
    const ks_nest_options *nest = &grid_options->nest;
    work w = work_of(dataset, grid, folds, options, grid_options);
    size_t most = (size_t)grid->n_series * (size_t)options->n_recipes;
    w.out = out;
    w.others = others;
    *out = (ks_kinds){0};
    if (!most) return KS_OK;
    KS_TRY(ks_alloc(&out->at, most, sizeof *out->at, "probes", err));
    KS_TRY(ks_alloc(&out->protocols, most, sizeof *out->protocols, "protocols",
                    err));
    if (!w.dev) {
        int threads = ks_threads(nest->threads);
        KS_TRY(ks_dev_open(&w.dev, &w.ops, "cpu", threads, NULL, err));
        w.own_dev = true;
    }
    for (int32_t k = 0; k < grid->n_series; k++)
        KS_TRY(run_series(&w, &grid->series[k], err));
done:
    if (w.own_dev) ks_dev_close(&w.dev, w.ops);
    if (st != KS_OK) ks_kinds_free(out);
    return st;
}

void ks_kinds_free(ks_kinds *kinds) {
    for (int32_t i = 0; i < kinds->n; i++) free_kind(&kinds->at[i]);
    free(kinds->at);
    free(kinds->protocols);
    *kinds = (ks_kinds){0};
}
