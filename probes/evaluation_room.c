/* evaluation_room.c - see evaluation_room.h. */
#include "evaluation_room.h"

#include "baselines_state.h"
#include "layer.h"
#include "n_threads.h"
#include "ridge.h"

typedef struct work {
    const ks_evaluation *r;
    const ks_grid_options *grid;
    ks_grid_shape shapes[KS_N_STREAMS * KS_N_POSITIONS];
    int32_t n_shapes;
    ks_l2_source x; /* a layer as the file has it */
    size_t kept;    /* bytes that are there when the next part begins */
    size_t most;    /* of the part that needs most */
    const char *what, *lowers; /* that part, and what lowers its need */
    /* how parts are counted: their least, or as they are where nothing bounds
       them, rows in memory and worked on by all threads */
    int threads;
    bool scratch;
} work;

/* A part's bytes and what stays of it. */
static void add(work *w, size_t bytes, size_t stays, const char *what,
                const char *lowers) {
    size_t needs = w->kept + stays + bytes, limit = w->grid->room.limit;
    if (!w->scratch && limit) needs = KS_MIN(needs, limit);
    w->kept += stays;
    if (needs <= w->most) return;
    w->most = needs;
    w->what = what;
    w->lowers = lowers;
}

/* Rows of a layer in f32, which most parts read unless they are in a file. */
static size_t rows(const work *w) {
    return w->scratch ? 0 : sizeof(float) * (size_t)w->x.n * (size_t)w->x.d;
}

static int64_t cells(const work *w) {
    int64_t n = 0;
    for (int32_t k = 0; k < w->n_shapes; k++) n += w->shapes[k].n_cells;
    return n;
}

/* The grid's cells and the rivals' stay until the end, but for a share. */
static void add_grids(work *w, bool share) {
    const ks_evaluation *r = w->r;
    ks_grid_options mine = *w->grid;
    size_t now = ks_process_bytes(), start = w->grid->room.start;
    mine.nest.keep_weights = mine.nest.keep_inner = false;
    w->kept = now > start ? now - start : 0;
    if (share) return;
    w->kept += ks_grid_kept(r->dataset->acts, &r->folds, w->grid);
    for (int32_t i = 0; i < r->n_rivals; i++)
        w->kept += ks_grid_kept(r->rivals[i].file, &r->folds, &mine);
}

/* Fits of the grids and of what follows them a layer at a time. Their least is
 * the grid's own (ks_grid_least). */
static void add_fits(work *w) {
    const ks_evaluation *r = w->r;
    const ks_acts_info *info = r->dataset->info;
    ks_folds curve = r->folds;
    const uint32_t refitted = 1u << KS_SELECTIVITY | 1u << KS_LEARNING_CURVE;
    if (w->scratch) return;
    curve.n_seeds = KS_MAX(curve.n_seeds, KS_CURVE_DRAWS);
    add(w, ks_grid_takes(r->dataset->acts, &r->folds, w->grid, NULL), 0,
        "probes of layers side by side", "");
    for (int32_t i = 0; i < r->n_rivals; i++)
        add(w, ks_grid_takes(r->rivals[i].file, &r->folds, w->grid, NULL), 0,
            "probes of --baseline-acts", "");
    add(w,
        ks_permuted_bytes(info->d, info->dtype, &r->folds, w->threads, false),
        0, "probes of permuted labels", "");
    if (r->options->analyses & refitted)
        add(w,
            ks_nest_bytes(info->d, info->dtype, &curve, &w->grid->nest,
                          w->threads, false),
            0, "probes of analyses", "");
}

/* Scores of all layers; their fits, which are those of one layer at a time,
 * take no more than the grid's. */
static void add_analyses(work *w) {
    const ks_folds *f = &w->r->folds;
    uint32_t which = w->r->options->analyses;
    int threads = ks_threads(w->grid->nest.threads);
    for (int32_t k = 0; k < w->n_shapes; k++) {
        int32_t n = w->shapes[k].n_cells;
        if (which >> KS_LAYER_TRANSFER & 1)
            add(w, ks_layer_transfer_bytes(&w->x, n), ks_layer_transfer_kept(n),
                "probes of a layer on other layers",
                "fewer --layers, or leave layer-transfer out of "
                "--analyses");
        if (which >> KS_LAYERS_NEEDED & 1)
            add(w, ks_layers_needed_bytes(f, n, threads),
                ks_layers_needed_kept(f, n), "probes of several layers",
                "fewer --layers, --seeds or --threads, or leave "
                "layers-needed out of --analyses");
    }
}

static void add_surface(work *w) {
    const ks_evaluation *r = w->r;
    if (!r->dataset->has_text || !(r->options->analyses >> KS_SURFACE & 1))
        return;
    add(w,
        ks_independence_bytes(r->dataset, &r->folds, w->grid, w->threads,
                              w->scratch) +
            rows(w),
        (size_t)w->n_shapes * (size_t)r->dataset->n * sizeof(float),
        "probes of what is left without surface",
        "fewer --folds, or leave surface out of --analyses");
}

static void add_kinds(work *w, bool share) {
    const ks_evaluation *r = w->r;
    if (!r->options->kinds.n_recipes) return;
    for (int32_t k = 0; k < w->n_shapes; k++) {
        double kept = 0;
        double bytes =
            ks_kinds_bytes(&r->options->kinds, r->dataset->info,
                           w->shapes[k].n_cells, &r->folds, w->scratch, &kept);
        if (share) {
            bytes += kept;
            kept = 0;
        }
        add(w, (size_t)bytes, (size_t)kept, "probes trained by AdamW",
            "fewer units, --layers, --seeds or --probes");
    }
}

static void add_refined(work *w) {
    const ks_evaluation *r = w->r;
    const ks_folds *f = &r->folds;
    const ks_refined_options *o = &r->options->refined;
    size_t n_cells = (size_t)cells(w), n = (size_t)r->dataset->n;
    int32_t n_targets = 1 + f->n_seeds * f->n_folds; /* graded.c */
    if (o->directions)
        add(w, ks_directions_bytes(&w->x, f, w->threads) + rows(w),
            n_cells * ks_directions_kept(f), "mean difference and LDA",
            "fewer --folds, --layers or --seeds, or leave them out of "
            "--probes");
    if (o->l1)
        add(w, ks_sparse_bytes(&w->x, f, w->threads, w->scratch),
            (size_t)w->n_shapes * ks_sparse_kept(&w->x, f), "sparse probes",
            "fewer --folds or --inner-folds, or leave l1 out of --probes");
    if (o->attention)
        add(w, ks_attended_bytes(r->dataset, f, w->threads, w->scratch),
            n_cells * n * sizeof(float), "attention over tokens",
            "fewer --folds or --inner-folds, or leave attention out of "
            "--probes");
    for (int32_t k = 0; k < o->n_graded; k++)
        add(w, ks_ridge_bytes(&w->x, n_targets, f, w->threads) + rows(w),
            n_cells * ks_ridge_kept(n_targets, f), "regressions on a score",
            "fewer --folds, --layers or --seeds, or no --graded");
}

/* Every part but TF-IDF; *words: bytes that are there when its turn comes. */
static void add_all(work *w, bool share, size_t *words) {
    w->n_shapes = ks_grid_shapes(w->r->dataset->acts, w->grid, w->shapes);
    add_grids(w, share);
    add_fits(w);
    if (!share) add_analyses(w);
    *words = w->kept;
    if (!share) add_surface(w);
    add_kinds(w, share);
    if (!share) add_refined(w);
}

static work work_of(const ks_evaluation *r, const ks_grid_options *grid,
                    bool bounded) {
    const ks_acts_info *info = r->dataset->info;
    return (work){.r = r,
                  .grid = grid,
                  .x = {.n = r->dataset->n, .d = info->d, .type = info->dtype},
                  .threads = bounded ? 1 : ks_threads(grid->nest.threads),
                  .scratch = bounded};
}

static bool has_words(const ks_evaluation *r, bool share) {
    return !share && r->dataset->has_text && !r->options->no_text;
}

ks_status ks__evaluation_room(const ks_evaluation *evaluation,
                              const ks_grid_options *grid, bool share,
                              ks_err *err) {
    ks_status st = KS_OK;
    const ks_evaluation *r = evaluation;
    work w = work_of(r, grid, true);
    size_t words, limit = grid->room.limit;
    if (!limit || grid->nest.dev) return KS_OK;
    add_all(&w, share, &words);
    size_t least = ks_grid_least(r->dataset->acts, &r->folds, grid, share);
    KS_CHECK(w.most <= limit, KS_LIMIT,
             "--memory %zuM: %s need at least %zuM; %s", limit >> 20, w.what,
             (KS_MAX(w.most, least) >> 20) + 2, w.lowers);
    if (has_words(r, share))
        KS_TRY(ks__baselines_words_room(r->dataset, &r->folds, &grid->nest,
                                        &grid->room, words, NULL, err));
done:
    return st;
}

ks_status ks__evaluation_needs(ks_evaluation_needs *out,
                               const ks_evaluation *evaluation,
                               const ks_grid_options *grid, bool share,
                               ks_err *err) {
    ks_status st = KS_OK;
    const ks_evaluation *r = evaluation;
    const ks_room none = {.start = grid->room.start};
    work least = work_of(r, grid, true), all = work_of(r, grid, false);
    size_t words, of_words[2] = {0, 0};
    *out = (ks_evaluation_needs){0};
    add_all(&least, share, &words);
    add_all(&all, share, &words);
    if (has_words(r, share))
        KS_TRY(ks__baselines_words_room(r->dataset, &r->folds, &grid->nest,
                                        &none, words, of_words, err));
    size_t grids = ks_grid_least(r->dataset->acts, &r->folds, grid, share);
    out->least = KS_MAX(KS_MAX(least.most, grids), words + of_words[0]);
    out->most = all.most;
    out->what = all.what;
    if (words + of_words[1] > out->most) {
        out->most = words + of_words[1];
        out->what = "text baselines";
    }
    if (grid->room.limit) out->most = KS_MIN(out->most, grid->room.limit);
done:
    return st;
}
