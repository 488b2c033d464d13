/* transfer_maps.c - one model's probe on another model's activations, brought
 * into its space by linear maps.
 *
 * For each outer fold f: the probe is the one that self's training folds gave,
 * at the layer that they chose. A map from cross's layer to that layer is
 * fitted on the steps of all training problems, labelled or not; the strength
 * of ridge is the one with the best R^2 on inner parts of them (nest.h). The
 * steps of fold f are then mapped and scored. No label goes into a map. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "holds.h"
#include "linear_map.h"
#include "n_threads.h"
#include "shuffle.h"
#include "transfer.h"

enum { BLOCK = 256 };

/* Of all threads together: what a fit of maps holds is some sixteen matrices.
 */
static const int64_t FIT_BYTES = (int64_t)4 << 30;

typedef struct work {
    const ks_transfer *transfer;
    const ks_transfer_models *models;
    const ks_transfer_rows *rows;
    int32_t self, cross;
    const ks_series *probe, *from;
    int64_t d_in, d_out;
    float *x, *y;   /* [n_all, d] the layers at hand */
    int64_t *mixed; /* [n_seeds, n_all] row paired with i instead */
    uint8_t *part;  /* [n_all] fold of the seed at hand; n_folds: in none */
    ks_map_pairs pairs;
    int32_t seed, like; /* at hand: fits with the layers of fit `like` */
    ks_holds holds;     /* what their inner parts hold out */
    double *r2; /* [n_folds, n_inner, pairings, strengths] of inner parts */
    float *score[KS_N_MAPS];    /* [n_seeds, n] */
    double *squares[KS_N_MAPS]; /* [n_seeds, n_problems, 2] */
    ks__mapped *out;
} work;

/* ----------------------------------------------------------------- the rows */

/* x [n_all, d] of a layer. */
static ks_status read_layer(const work *w, int32_t set, int32_t layer, float *x,
                            ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_set *s = &w->transfer->sets[w->rows->set[set]];
    size_t d = (size_t)s->info->d;
    float *buffer = NULL;
    KS_TRY(ks_alloc(&buffer, (size_t)s->info->n_steps * d, sizeof *buffer,
                    "activations of a layer", err));
    KS_TRY(ks_acts_read(s->file, w->models->stream, w->models->position, layer,
                        0, s->info->n_steps, buffer, err));
    for (int64_t i = 0; i < w->rows->n_all; i++) {
        const float *row = buffer + (size_t)w->rows->all[set][i] * d;
        for (size_t j = 0; j < d; j++)
            KS_CHECK(isfinite(row[j]), KS_NUMERIC,
                     "%s: layer %d of step %lld is not finite", s->source->acts,
                     layer, (long long)w->rows->all[set][i]);
        memcpy(x + (size_t)i * d, row, d * sizeof *x);
    }
done:
    free(buffer);
    return st;
}

/* Pairs that do not belong together, within each fold. */
static void mix(const work *w, int32_t seed, int64_t *list) {
    const ks_transfer_rows *r = w->rows;
    const uint8_t *fold = r->all_fold + seed * r->n_all;
    int64_t *mixed = w->mixed + seed * r->n_all;
    for (int f = 0; f < 256; f++) {
        const uint64_t key[2] = {w->transfer->options->grid.seed +
                                     (uint64_t)seed,
                                 UINT64_C(0x6d6170) << 8 | (uint64_t)f};
        int64_t n = 0;
        for (int64_t i = 0; i < r->n_all; i++)
            if (fold[i] == f) list[n++] = i;
        if (!n) continue;
        ks_shuffle order = ks_shuffle_open(key, 0, (uint32_t)n);
        for (int64_t i = 0; i < n; i++)
            mixed[list[i]] = list[ks_shuffle_at(&order, (uint32_t)i)];
    }
}

/* ---------------------------------------------------------------- strengths */

static bool same_layers(const work *w, int32_t a, int32_t b) {
    return w->probe->chosen[a] == w->probe->chosen[b] &&
           w->from->chosen[a] == w->from->chosen[b];
}

static int32_t fit_of(const work *w, int32_t f) {
    return w->seed * w->rows->folds.n_folds + f;
}

/* All parts but those held out; the rows of no fold always train. */
static uint64_t training(const work *w, uint32_t hold) {
    return ((UINT64_C(1) << (w->rows->folds.n_folds + 1)) - 1) &
           ~(uint64_t)hold;
}

static double *r2_of(const work *w, int32_t f, int32_t part) {
    return w->r2 + (int64_t)(f * w->rows->folds.n_inner + part) *
                       KS_MAP_PAIRINGS * KS_N_MAP_STRENGTHS;
}

/* One set of folds held out, for every outer fold of which it is an inner part:
 * the rest of the set is what the loss is of. */
static ks_status try_hold(work *w, int32_t h, ks_err *err) {
    ks_status st = KS_OK;
    const ks_folds *folds = &w->rows->folds;
    enum { ONE = KS_MAP_PAIRINGS * KS_N_MAP_STRENGTHS };
    uint32_t set = w->holds.set[h];
    uint64_t held[KS_L2_MAX_FOLDS];
    double got[KS_L2_MAX_FOLDS * ONE], *to[KS_L2_MAX_FOLDS];
    int32_t n = 0;
    ks_map_train train = {0};
    KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
    for (int32_t f = 0; f < folds->n_folds; f++)
        for (int32_t part = 0; part < folds->n_inner; part++) {
            if (!same_layers(w, w->like, fit_of(w, f)) ||
                ks_nest_hold(folds->n_folds, folds->n_inner, f, part) != set)
                continue;
            held[n] = set & ~(1u << f);
            to[n++] = r2_of(w, f, part);
        }
    KS_TRY(ks_map_train_open(&train, &w->pairs, training(w, set), err));
    KS_TRY(ks_map_path(&train, held, n, ks_map_strengths, KS_N_MAP_STRENGTHS,
                       got, err));
    for (int32_t i = 0; i < n; i++)
        memcpy(to[i], got + i * ONE, ONE * sizeof *got);
done:
    ks_map_train_close(&train);
    return st;
}

/* The strength with the best mean R^2 on a fold's inner parts. */
static double choose(const work *w, int32_t f, int pairing) {
    double sum[KS_N_MAP_STRENGTHS] = {0};
    int top = 0;
    for (int32_t part = 0; part < w->rows->folds.n_inner; part++)
        for (int c = 0; c < KS_N_MAP_STRENGTHS; c++)
            sum[c] += r2_of(w, f, part)[pairing * KS_N_MAP_STRENGTHS + c];
    for (int c = 1; c < KS_N_MAP_STRENGTHS; c++)
        if (sum[c] > sum[top]) top = c;
    return ks_map_strengths[top];
}

/* ----------------------------------------------------------------- one fold */

static ks_status make_map(const ks_map_train *train, ks_map_kind kind,
                          const double strength[KS_MAP_PAIRINGS],
                          ks_linear_map *map, ks_err *err) {
    switch (kind) {
    case KS_MAP_RIDGE:
        return ks_linear_map_ridge(map, train, KS_MAP_TRUE,
                                   strength[KS_MAP_TRUE], err);
    case KS_MAP_PROCRUSTES:
        return ks_linear_map_procrustes(map, train, err);
    case KS_MAP_SHUFFLED:
        return ks_linear_map_ridge(map, train, KS_MAP_MIXED,
                                   strength[KS_MAP_MIXED], err);
    case KS_MAP_IDENTITY:
        return ks_linear_map_identity(map, train, err);
    default:
        return ks_linear_map_mean(map, train, err);
    }
}

/* Self's probe of a fit, in double. */
static double score_of(const ks_nest *nest, int32_t fit_at, const double *x) {
    const float *weight = nest->weight + fit_at * nest->d;
    const float *mean = nest->mean + fit_at * nest->d;
    const float *scale = nest->scale + fit_at * nest->d;
    double z = (double)nest->bias[fit_at];
    for (int64_t j = 0; j < nest->d; j++)
        z += (double)weight[j] * (x[j] - (double)mean[j]) / (double)scale[j];
    return z;
}

static void add_squares(const work *w, const ks_map_train *train, int64_t row,
                        const double *mapped, double squares[2]) {
    const float *y = w->y + row * w->d_out;
    for (int64_t j = 0; j < w->d_out; j++) {
        double unit = train->y_scale[j];
        if (unit == 0) continue;
        double error = ((double)y[j] - mapped[j]) / unit;
        double there =
            ((double)y[j] - train->y_mean[j] - w->pairs.at[j]) / unit;
        squares[0] += error * error;
        squares[1] += there * there;
    }
}

/* The steps of the fold, mapped, held against what is there, and scored.
 * mapped: [BLOCK, d_out]. */
static ks_status test_map(const work *w, int32_t f, ks_map_kind kind,
                          const ks_map_train *train, const ks_linear_map *map,
                          double *mapped, ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_rows *r = w->rows;
    int32_t fit_at = fit_of(w, f);
    const ks_nest *nest = &w->probe->cells[w->probe->chosen[fit_at]].nest;
    int64_t rows[BLOCK], n = 0;
    for (int64_t i = 0; i <= r->n_all; i++) {
        if (i < r->n_all && w->part[i] == f) rows[n++] = i;
        if (n == 0 || (n < BLOCK && i < r->n_all)) continue;
        KS_TRY(ks_linear_map_apply(map, w->x, rows, n, mapped, err));
        for (int64_t k = 0; k < n; k++) {
            const double *one = mapped + k * w->d_out;
            int64_t problem = w->seed * r->n_problems + r->problem[rows[k]];
            int64_t at = r->labelled[rows[k]];
            add_squares(w, train, rows[k], one, w->squares[kind] + 2 * problem);
            if (at >= 0)
                w->score[kind][w->seed * r->view.n + at] =
                    (float)score_of(nest, fit_at, one);
        }
        n = 0;
    }
done:
    return st;
}

static ks_status run_fit(work *w, int32_t f, ks_err *err) {
    ks_status st = KS_OK;
    double strength[KS_MAP_PAIRINGS], *mapped = NULL;
    ks_map_train train = {0};
    ks_linear_map map = {0};
    if (!same_layers(w, w->like, fit_of(w, f))) return KS_OK;
    for (int k = 0; k < KS_MAP_PAIRINGS; k++) strength[k] = choose(w, f, k);
    w->out->strength[fit_of(w, f)] = strength[KS_MAP_TRUE];
    KS_TRY(ks_alloc(&mapped, (size_t)(BLOCK * w->d_out), sizeof *mapped, "map",
                    err));
    KS_TRY(ks_map_train_open(&train, &w->pairs, training(w, 1u << f), err));
    for (int k = 0; k < KS_N_MAPS; k++) {
        if (!w->out->there[k]) continue;
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
        KS_TRY(make_map(&train, (ks_map_kind)k, strength, &map, err));
        KS_TRY(test_map(w, f, (ks_map_kind)k, &train, &map, mapped, err));
        ks_linear_map_free(&map);
    }
done:
    ks_linear_map_free(&map);
    ks_map_train_close(&train);
    free(mapped);
    return st;
}

/* ---------------------------------------------------------------- all folds */

static int threads_of(const work *w) {
    return ks_threads(w->transfer->options->grid.nest.threads);
}

/* Side by side, as threads and memory allow. */
static int lanes_of(const work *w) {
    int64_t bytes = 64 * w->d_in * (w->d_in + w->d_out);
    return (int)KS_MIN(threads_of(w), KS_MAX(1, FIT_BYTES / KS_MAX(1, bytes)));
}

/* Calls one(0) to one(n - 1); bits do not depend on the lanes. */
static ks_status side_by_side(work *w, int32_t n,
                              ks_status (*one)(work *, int32_t, ks_err *),
                              ks_err *err) {
    ks_status st = KS_OK;
#pragma omp parallel for num_threads(lanes_of(w)) schedule(dynamic, 1)
    for (int32_t i = 0; i < n; i++) {
        ks_err mine = {0};
        ks_status got = one(w, i, &mine);
        if (got != KS_OK)
#pragma omp critical(ks_transfer_maps)
        {
            st = got;
            if (err) *err = mine;
        }
    }
    return st;
}

/* The fits of one seed whose layers are those of fit `like`. */
static ks_status run_seed(work *w, uint32_t asked, ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_rows *r = w->rows;
    int32_t n_folds = r->folds.n_folds;
    const uint8_t *fold = r->all_fold + w->seed * r->n_all;
    for (int64_t i = 0; i < r->n_all; i++)
        w->part[i] = (uint8_t)KS_MIN(fold[i], n_folds);
    KS_TRY(ks_map_pairs_open(
        &w->pairs, w->x, w->d_in, w->y, w->d_out, r->n_all, w->part,
        n_folds + 1, w->mixed + w->seed * r->n_all, threads_of(w), err));
    ks__holds_fill(&w->holds, &r->folds, asked, false);
    KS_TRY(side_by_side(w, w->holds.n, try_hold, err));
    KS_TRY(side_by_side(w, n_folds, run_fit, err));
done:
    ks_map_pairs_close(&w->pairs);
    return st;
}

/* All fits with the layers of fit `like`, which is the first of them. */
static ks_status run_layers(work *w, int32_t like, ks_err *err) {
    ks_status st = KS_OK;
    const ks_folds *folds = &w->rows->folds;
    KS_TRY(read_layer(w, w->cross, w->from->cells[w->from->chosen[like]].layer,
                      w->x, err));
    KS_TRY(read_layer(w, w->self, w->probe->cells[w->probe->chosen[like]].layer,
                      w->y, err));
    w->like = like;
    for (w->seed = 0; w->seed < folds->n_seeds; w->seed++) {
        uint32_t asked = 0;
        for (int32_t f = 0; f < folds->n_folds; f++)
            if (same_layers(w, like, fit_of(w, f))) asked |= 1u << f;
        if (asked) KS_TRY(run_seed(w, asked, err));
    }
done:
    return st;
}

static ks_status alloc_work(work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_rows *r = w->rows;
    size_t n = (size_t)r->n_all, seeds = (size_t)r->folds.n_seeds;
    size_t in = (size_t)w->d_in, to = (size_t)w->d_out;
    KS_TRY(ks_alloc(&w->x, n * in, sizeof *w->x, "activations", err));
    KS_TRY(ks_alloc(&w->y, n * to, sizeof *w->y, "activations", err));
    KS_TRY(ks_alloc(&w->mixed, seeds * n, sizeof *w->mixed, "rows", err));
    KS_TRY(ks_alloc(&w->part, n, sizeof *w->part, "rows", err));
    KS_TRY(ks_alloc(&w->r2, (size_t)(r->folds.n_folds * r->folds.n_inner),
                    KS_MAP_PAIRINGS * KS_N_MAP_STRENGTHS * sizeof *w->r2,
                    "losses", err));
    for (int k = 0; k < KS_N_MAPS; k++) {
        KS_TRY(ks_alloc(&w->score[k], seeds * (size_t)r->view.n, sizeof(float),
                        "scores", err));
        KS_TRY(ks_alloc(&w->squares[k], seeds * (size_t)r->n_problems * 2,
                        sizeof(double), "squares", err));
    }
done:
    return st;
}

static void free_work(work *w) {
    for (int k = 0; k < KS_N_MAPS; k++) {
        free(w->score[k]);
        free(w->squares[k]);
    }
    free(w->x);
    free(w->y);
    free(w->mixed);
    free(w->part);
    free(w->r2);
}

/* Means of scores over seeds, sums of squares. */
static ks_status pool(const work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_rows *r = w->rows;
    int32_t seeds = r->folds.n_seeds;
    int64_t n = r->view.n, m = 2 * (int64_t)r->n_problems;
    for (int k = 0; k < KS_N_MAPS; k++) {
        if (!w->out->there[k]) continue;
        KS_TRY(ks_alloc(&w->out->score[k], (size_t)n, sizeof(float), "scores",
                        err));
        KS_TRY(ks_alloc(&w->out->squares[k], (size_t)m, sizeof(double),
                        "squares", err));
        for (int64_t i = 0; i < n; i++) {
            double sum = 0;
            for (int32_t s = 0; s < seeds; s++)
                sum += (double)w->score[k][s * n + i];
            w->out->score[k][i] = (float)(sum / seeds);
        }
        for (int32_t s = 0; s < seeds; s++)
            for (int64_t i = 0; i < m; i++)
                w->out->squares[k][i] += w->squares[k][s * m + i];
    }
done:
    return st;
}

ks_status ks__transfer_maps(const ks_transfer *transfer,
                            const ks_transfer_models *models, int32_t self,
                            int32_t cross, const ks_series *probe,
                            const ks_series *from, ks__mapped *out,
                            ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_rows *r = models->rows;
    int64_t *list = NULL;
    int32_t fits = r->folds.n_seeds * r->folds.n_folds;
    work w = {.transfer = transfer,
              .models = models,
              .rows = r,
              .self = self,
              .cross = cross,
              .probe = probe,
              .from = from,
              .d_in = transfer->sets[r->set[cross]].info->d,
              .d_out = transfer->sets[r->set[self]].info->d,
              .out = out};
    for (int k = 0; k < KS_N_MAPS; k++)
        out->there[k] = k != KS_MAP_IDENTITY || w.d_in == w.d_out;
    KS_TRY(alloc_work(&w, err));
    KS_TRY(ks_alloc(&list, (size_t)r->n_all, sizeof *list, "rows", err));
    for (int32_t s = 0; s < r->folds.n_seeds; s++) mix(&w, s, list);
    KS_TRY(ks_alloc(&out->strength, (size_t)fits, sizeof *out->strength, "maps",
                    err));
    KS_TRY(ks_alloc(&out->from_layer, (size_t)fits, sizeof *out->from_layer,
                    "maps", err));
    for (int32_t i = 0; i < fits; i++) {
        bool first = true;
        out->from_layer[i] = from->cells[from->chosen[i]].layer;
        for (int32_t e = 0; e < i; e++) first &= !same_layers(&w, e, i);
        if (first) KS_TRY(run_layers(&w, i, err));
    }
    KS_TRY(pool(&w, err));
done:
    free_work(&w);
    free(list);
    return st;
}

void ks__transfer_maps_free(ks__mapped *m) {
    for (int k = 0; k < KS_N_MAPS; k++) {
        free(m->score[k]);
        free(m->squares[k]);
    }
    free(m->strength);
    free(m->from_layer);
    *m = (ks__mapped){0};
}
