/* kinds.c - see kinds.h. */
#include "kinds.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* Weights of a kind are kept while they take no more. */
static const size_t MOST_WEIGHTS = (size_t)256 << 20;

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

static ks_status keep_layers(ks_kind *kind, const ks_stack *stack,
                             ks_err *err) {
    ks_status st = KS_OK;
    int32_t from = kind->recipe->input == KS_INPUT_EACH ? 0 : stack->first;
    kind->n_layers = stack->n_layers - from;
    KS_TRY(ks_alloc(&kind->layer, (size_t)kind->n_layers, sizeof *kind->layer,
                    "layers", err));
    memcpy(kind->layer, stack->layer + from,
           (size_t)kind->n_layers * sizeof *kind->layer);
done:
    return st;
}

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

static ks_status run_published(work *w, const ks_kind *kind,
                               const ks_trainer *trainer, ks_err *err) {
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
    snprintf(p->probe, sizeof p->probe, "%s", kind->recipe->name);
    p->stream = kind->stream, p->position = kind->position;
    ks_status st = ks_published_run(p, trainer, kind->probes, &options, err);
    if (st == KS_OK) w->out->n_protocols++;
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

static ks_status run_recipe(work *w, const ks_series *series,
                            const ks_stack *stack, const ks_recipe *recipe,
                            ks_err *err) {
    ks_status st = KS_OK;
    ks_trainer trainer = {0};
    ks_err inner = {0};
    ks_kind *kind = &w->out->at[w->out->n++];
    *kind = (ks_kind){.recipe = recipe,
                      .stream = series->stream,
                      .position = series->position};
    KS_TRY(keep_layers(kind, stack, err));
    KS_TRY(ks_trainer_open(&trainer, recipe, stack, w->ops, w->dev, err));
    KS_TRY(fit_memory(w, series, stack, &trainer, err));
    KS_TRY(ks_alloc(&kind->probes, (size_t)trainer.n_probes,
                    sizeof *kind->probes, "probes", err));
    kind->n_probes = trainer.n_probes;
    st = ks_trained_run(kind->probes, &trainer, stack, &w->trained, &inner);
    if (st == KS_OK && w->o->published && recipe->input != KS_INPUT_EACH)
        st = run_published(w, kind, &trainer, &inner);
    KS_CHECK(st != KS_INTERRUPTED, st, "%s", inner.text);
    KS_CHECK(st == KS_OK, st, "%s/%s, probe %s: %s",
             ks_stream_name(series->stream), ks_position_name(series->position),
             recipe->name, inner.text);
    for (int32_t k = 0; k < kind->n_probes; k++)
        KS_TRY(add_other(w, kind, &kind->probes[k], err));
    if (!kind->probes[0].param)
        ks_log(KS_LOG_INFO,
               "probe: weights of %s at %s/%s take more than %zu MiB and are "
               "not kept",
               recipe->name, ks_stream_name(series->stream),
               ks_position_name(series->position), MOST_WEIGHTS >> 20);
done:
    ks_trainer_close(&trainer);
    return st;
}

static ks_status run_series(work *w, const ks_series *series, ks_err *err) {
    ks_status st = KS_OK;
    ks_stack stack = {0};
    ks_stack_options options = {.in_memory = !w->ops->unified,
                                .room = w->grid_options->room};
    for (int32_t r = 0; r < w->o->n_recipes; r++) {
        const ks_recipe *recipe = &w->o->recipes[r];
        bool of_mean = recipe->input == KS_INPUT_MEAN;
        double least = least_of(recipe, series->n_cells, w->dataset->info->d,
                                w->folds, w->o);
        options.mean |= of_mean;
        options.all |= !of_mean;
        options.besides = KS_MAX(options.besides, least);
    }
    KS_TRY(ks_stack_read(&stack, w->dataset, series, &options, err));
    for (int32_t r = 0; r < w->o->n_recipes; r++)
        KS_TRY(run_recipe(w, series, &stack, &w->o->recipes[r], err));
done:
    ks_stack_free(&stack);
    return st;
}

double ks_kinds_bytes(const ks_kinds_options *o, const ks_acts_info *info,
                      int32_t cells, const ks_folds *folds, double *kept) {
    double least = 0;
    for (int32_t r = 0; r < o->n_recipes; r++) {
        const ks_recipe *recipe = &o->recipes[r];
        int32_t probes = recipe->input == KS_INPUT_EACH ? cells : 1;
        double one = least_of(recipe, cells, info->d, folds, o);
        least = KS_MAX(least, one);
        *kept += ks_recipe_kept(recipe, inputs_of(recipe, cells, info->d),
                                probes, folds, MOST_WEIGHTS);
    }
    return least + ks_stack_least(info);
}

ks_status ks_kinds_run(ks_kinds *out, ks_others *others,
                       const ks_dataset *dataset, const ks_grid *grid,
                       const ks_folds *folds, const ks_kinds_options *options,
                       const ks_grid_options *grid_options, ks_err *err) {
    ks_status st = KS_OK;
    const ks_nest_options *nest = &grid_options->nest;
    work w = {.out = out,
              .others = others,
              .dataset = dataset,
              .grid = grid,
              .folds = folds,
              .o = options,
              .grid_options = grid_options,
              .ops = nest->ops,
              .dev = nest->dev,
              .trained = {.folds = folds,
                          .y = dataset->y,
                          .seed = grid_options->seed,
                          .weights = MOST_WEIGHTS,
                          .progress = grid_options->progress,
                          .user = grid_options->user}};
    size_t most = (size_t)grid->n_series * (size_t)options->n_recipes;
    *out = (ks_kinds){0};
    if (!most) return KS_OK;
    KS_TRY(ks_alloc(&out->at, most, sizeof *out->at, "probes", err));
    KS_TRY(ks_alloc(&out->protocols, most, sizeof *out->protocols, "protocols",
                    err));
    if (!w.dev) {
        int threads = nest->threads ? nest->threads : omp_get_max_threads();
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
    for (int32_t i = 0; i < kinds->n; i++) {
        ks_kind *kind = &kinds->at[i];
        for (int32_t k = 0; k < kind->n_probes; k++)
            ks_trained_free(&kind->probes[k]);
        free(kind->probes);
        free(kind->layer);
    }
    free(kinds->at);
    free(kinds->protocols);
    *kinds = (ks_kinds){0};
}
