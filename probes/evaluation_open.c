/* evaluation_open.c - see evaluation_open.h. */
#include "evaluation_open.h"

#include <stdlib.h>
#include <string.h>

#include "evaluation_room.h"
#include "split.h"

/* -------------------------------------------------------------------- folds */

static ks_status make_folds(ks_evaluation *r, ks_err *err) {
    ks_status st = KS_OK;
    const ks_evaluation_options *o = r->options;
    const ks_dataset *d = r->dataset;
    KS_CHECK(d->n_groups >= o->n_folds, KS_MISMATCH,
             "%s: its labelled steps are of %d problem%s; %d folds by problem "
             "need at least as many",
             o->paths.labels ? o->paths.labels : o->paths.acts, d->n_groups,
             ks_plural((size_t)d->n_groups), o->n_folds);
    ks_split_input input = {.n = d->n,
                            .y = d->y,
                            .group = d->group,
                            .n_groups = d->n_groups,
                            .ids = d->group_ids};
    KS_TRY(ks_alloc(&r->fold, (size_t)(o->n_seeds * d->n), 1, "folds", err));
    for (int32_t s = 0; s < o->n_seeds; s++)
        KS_TRY(ks_split_folds(&input, o->n_folds, o->grid.seed + (uint64_t)s,
                              r->fold + s * d->n, err));
    r->folds = (ks_folds){.n = d->n,
                          .n_folds = o->n_folds,
                          .n_inner = o->n_inner,
                          .n_seeds = o->n_seeds,
                          .fold = r->fold};
done:
    return st;
}

/* Texts that stand on both sides of a split. */
static ks_status count_shared(ks_evaluation *r, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = r->dataset;
    char **texts = NULL;
    if (!d->has_text) return KS_OK;
    KS_TRY(ks_alloc(&texts, (size_t)d->n, sizeof *texts, "texts", err));
    for (int64_t i = 0; i < d->n; i++) {
        size_t n;
        const char *text = ks_dataset_text(d, i, &n);
        ks_span trimmed = ks_text_trim(text, (ks_span){0, n});
        KS_TRY(ks_alloc(&texts[i], trimmed.end - trimmed.begin + 1, 1, "texts",
                        err));
        memcpy(texts[i], text + trimmed.begin, trimmed.end - trimmed.begin);
    }
    r->shared_texts =
        ks_split_shared_texts(d->n, (const char *const *)texts, r->fold, err);
    KS_CHECK(r->shared_texts >= 0, KS_NOMEM, "out of memory for texts");
done:
    for (int64_t i = 0; texts && i < d->n; i++) free(texts[i]);
    free(texts);
    return st;
}

/* ------------------------------------------------------------------- rivals */

static ks_status open_rival(const ks_evaluation *r, ks_rival *rival,
                            const ks_grid_options *options, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)r->dataset->n;
    KS_TRY(ks_acts_open_whole(&rival->file, rival->path, err));
    KS_TRY(ks_alloc(&rival->place, n, sizeof *rival->place, "rows", err));
    KS_TRY(ks_dataset_match(r->dataset, rival->file, rival->path, rival->place,
                            err));
    const ks_acts_info *info = ks_acts_get_info(rival->file);
    KS_CHECK(info->n_layers == r->dataset->info->n_layers || !options->layers,
             KS_MISMATCH, "%s: %d layers, --layers chooses among %d",
             rival->path, info->n_layers, r->dataset->info->n_layers);
    KS_CHECK(ks_grid_cells(rival->file, options) > 0, KS_MISMATCH,
             "%s holds none of the streams, positions and layers asked for",
             rival->path);
done:
    return st;
}

/* Ahead of the long work. */
static ks_status open_rivals(ks_evaluation *r, const ks_grid_options *options,
                             ks_err *err) {
    ks_status st = KS_OK;
    const ks_evaluation_options *o = r->options;
    KS_TRY(ks_alloc(&r->rivals, (size_t)KS_MAX(o->n_rivals, 1),
                    sizeof *r->rivals, "comparison", err));
    while (r->n_rivals < o->n_rivals) {
        ks_rival *rival = &r->rivals[r->n_rivals];
        rival->name = o->rival_names[r->n_rivals];
        rival->path = o->rival_paths[r->n_rivals++];
        KS_TRY(open_rival(r, rival, options, err));
    }
done:
    return st;
}

/* -------------------------------------------------------------------- whole */

static ks_status read_layers(ks_evaluation *r, ks_grid_options *grid,
                             ks_err *err) {
    ks_status st = KS_OK;
    const ks_evaluation_options *o = r->options;
    if (!o->layers || !o->layers_of) return KS_OK;
    int32_t n = r->dataset->info->n_layers + 1;
    KS_TRY(ks_alloc(&r->layers, (size_t)n, sizeof *r->layers, "layers", err));
    KS_TRY(o->layers_of(o->layers, n, r->layers, err));
    grid->layers = r->layers;
done:
    return st;
}

/* Whatever was asked for by name is there; by default all that is there is
 * taken. */
static ks_status check_asked(const ks_evaluation *r, ks_err *err) {
    ks_status st = KS_OK;
    const ks_grid_options *o = &r->options->grid;
    const ks_acts_info *info = r->dataset->info;
    for (ks_stream s = 0; s < KS_N_STREAMS; s++)
        KS_CHECK(!(o->streams & ~info->streams & 1u << s), KS_USAGE,
                 "%s: has no activations of stream %s", r->options->paths.acts,
                 ks_stream_name(s));
    for (ks_position p = 0; p < KS_N_POSITIONS; p++)
        KS_CHECK(!(o->positions & ~info->positions & 1u << p), KS_USAGE,
                 "%s: has no activations at position %s",
                 r->options->paths.acts, ks_position_name(p));
done:
    return st;
}

/* What comes after the grid has its share of the memory. */
static void find_later(const ks_evaluation *r, ks_grid_options *grid) {
    ks_grid_options mine = *grid;
    mine.nest.keep_weights = false;
    const ks_acts_info *info = r->dataset->info;
    grid->later = ks_permuted_bytes(info->d, info->dtype, &r->folds, 1, true);
    for (int32_t i = 0; i < r->n_rivals; i++)
        grid->later += ks_grid_kept(r->rivals[i].file, &r->folds, &mine);
}

/* Everything ahead of the long work. grid: the options that its parts take. */
static ks_status prepare(ks_evaluation *r, ks_grid_options *grid, ks_err *err) {
    ks_status st = KS_OK;
    const ks_evaluation_options *o = r->options;
    ks_dataset_paths paths = o->paths;
    grid->nest.keep_weights |= o->analyses >> KS_LAYER_TRANSFER & 1;
    grid->nest.keep_inner |= o->analyses >> KS_LAYERS_NEEDED & 1;
    grid->nest.keep_weights |= o->refined.directions != 0;
    paths.scores |= o->refined.n_graded > 0;
    KS_TRY(ks_dataset_open(&r->dataset, &paths, err));
    KS_TRY(read_layers(r, grid, err));
    KS_TRY(check_asked(r, err));
    KS_TRY(ks_refined_check(r->dataset, grid, &o->refined, err));
    KS_TRY(make_folds(r, err));
    KS_TRY(open_rivals(r, grid, err));
done:
    return st;
}

ks_status ks__evaluation_open(ks_evaluation *r, ks_grid_options *grid,
                              bool share, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(prepare(r, grid, err));
    if (!share) {
        find_later(r, grid);
        KS_TRY(count_shared(r, err));
    }
    KS_TRY(ks__evaluation_room(r, grid, share, err));
done:
    return st;
}

/* -------------------------------------------------------------------- cells */

/* Cells of all grids and kinds, which store and shares are settled with. */
ks_status ks__evaluation_open_cells(const ks_evaluation *r,
                                    ks_grid_options *grid, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = r->dataset;
    ks_cell_store_options options = r->options->cells;
    ks_grid outline = {0};
    if (grid->nest.ops) {
        options.backend = grid->nest.ops->name;
        options.isa = grid->nest.ops->isa;
    }
    KS_TRY(ks_cell_store_open(&grid->store, &options, err));
    if (!grid->store) return KS_OK;
    KS_TRY(ks_grid_outline(&outline, d->acts, grid, err));
    KS_TRY(ks_grid_expect(&outline, d, d->acts, d->row, &r->folds, grid, err));
    KS_TRY(
        ks_kinds_expect(d, &outline, &r->folds, &r->options->kinds, grid, err));
    for (int32_t i = 0; i < r->n_rivals; i++) {
        const ks_rival *rival = &r->rivals[i];
        ks_grid_free(&outline);
        KS_TRY(ks_grid_outline(&outline, rival->file, grid, err));
        KS_TRY(ks_grid_expect(&outline, d, rival->file, rival->place, &r->folds,
                              grid, err));
    }
    KS_TRY(ks_cell_store_settle(grid->store, err));
done:
    ks_grid_free(&outline);
    return st;
}

void ks__evaluation_close_cells(ks_grid_options *grid, ks_cell_counts *counts) {
    if (grid->store && counts) *counts = ks_cell_store_counts(grid->store);
    ks_cell_store_close(&grid->store);
}
