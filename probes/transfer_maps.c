/* transfer_maps.c - one model's probe on another model's activations, brought
 * into its space by linear maps.
 *
 * For each outer fold f: the probe is the one that self's training folds gave,
 * at the layer that they chose. A map from cross's layer to that layer is
 * fitted on the steps of all training problems, labelled or not; the strength
 * of ridge is the one with the best R^2 on inner parts of them (nest.h). The
 * steps of fold f are then mapped and scored. No label goes into a map. */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "linear_map.h"
#include "shuffle.h"
#include "transfer.h"

enum { BLOCK = 256 };

/* Of all threads together: what a fit of a map holds is some eight matrices. */
static const int64_t FIT_BYTES = (int64_t)4 << 30;

typedef struct work {
    const ks_transfer *transfer;
    const ks_transfer_models *models;
    const ks_transfer_rows *rows;
    int32_t self, cross;
    const ks_series *probe, *from;
    int64_t d_in, d_out;
    float *x, *y;            /* [n_all, d] the layers at hand */
    double *at_x, *at_y;     /* [d] means of all rows: for the digits alone */
    int64_t *mixed;          /* [n_seeds, n_all] row paired with i instead */
    ks_map_sums *folds;      /* [n_folds + 1] of one seed; last: no fold */
    double **mixed_cross;    /* [n_folds + 1] xy of the pairs mixed up */
    float *score[KS_N_MAPS]; /* [n_seeds, n] */
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

static void means(const float *x, int64_t n, int64_t d, double *out) {
    memset(out, 0, (size_t)d * sizeof *out);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j++) out[j] += (double)x[i * d + j];
    for (int64_t j = 0; j < d; j++) out[j] /= (double)n;
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

/* The sums of fold f (n_folds: of the rows in none). */
static ks_status sum_fold(work *w, int32_t seed, int32_t f, ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_rows *r = w->rows;
    const uint8_t *fold = r->all_fold + seed * r->n_all;
    const int64_t *mixed = w->mixed + seed * r->n_all;
    uint8_t want = f == r->folds.n_folds ? 255 : (uint8_t)f;
    size_t cells = (size_t)(w->d_in * w->d_out);
    int64_t *here = NULL, *other = NULL, n = 0;
    KS_TRY(ks_alloc(&here, (size_t)r->n_all, sizeof *here, "rows", err));
    KS_TRY(ks_alloc(&other, (size_t)r->n_all, sizeof *other, "rows", err));
    for (int64_t i = 0; i < r->n_all; i++)
        if (fold[i] == want) {
            here[n] = i;
            other[n++] = mixed[i];
        }
    ks_map_sums_clear(&w->folds[f]);
    memset(w->mixed_cross[f], 0, cells * sizeof(double));
    KS_TRY(ks_map_sums_rows(&w->folds[f], w->x, here, w->at_x, w->y, here,
                            w->at_y, n, err));
    KS_TRY(ks_map_cross_rows(w->mixed_cross[f], w->d_in, w->d_out, w->x, other,
                             w->at_x, w->y, here, w->at_y, n, err));
done:
    free(here);
    free(other);
    return st;
}

/* --------------------------------------------------------------- one fold */

/* What one thread needs to fit and choose. */
typedef struct fit {
    ks_map_sums train, held;
    double *train_mixed, *held_mixed;
    double *mapped; /* [BLOCK, d_out] */
} fit;

static ks_status open_fit(fit *t, const work *w, ks_err *err) {
    ks_status st = KS_OK;
    size_t cells = (size_t)(w->d_in * w->d_out);
    KS_TRY(ks_map_sums_open(&t->train, w->d_in, w->d_out, err));
    KS_TRY(ks_map_sums_open(&t->held, w->d_in, w->d_out, err));
    KS_TRY(ks_alloc(&t->train_mixed, cells, sizeof(double), "map", err));
    KS_TRY(ks_alloc(&t->held_mixed, cells, sizeof(double), "map", err));
    KS_TRY(ks_alloc(&t->mapped, (size_t)(BLOCK * w->d_out), sizeof(double),
                    "map", err));
done:
    return st;
}

static void close_fit(fit *t) {
    ks_map_sums_close(&t->train);
    ks_map_sums_close(&t->held);
    free(t->train_mixed);
    free(t->held_mixed);
    free(t->mapped);
}

/* Training folds are those not in hold; held-out ones those in hold but f. */
static void gather(const work *w, fit *t, uint32_t hold, int32_t f) {
    size_t cells = (size_t)(w->d_in * w->d_out);
    ks_map_sums_clear(&t->train);
    ks_map_sums_clear(&t->held);
    memset(t->train_mixed, 0, cells * sizeof(double));
    memset(t->held_mixed, 0, cells * sizeof(double));
    for (int32_t k = 0; k <= w->rows->folds.n_folds; k++) {
        bool out = k < w->rows->folds.n_folds && hold >> k & 1;
        if (out && k == f) continue;
        double *mixed = out ? t->held_mixed : t->train_mixed;
        ks_map_sums_add(out ? &t->held : &t->train, &w->folds[k]);
        for (size_t i = 0; i < cells; i++) mixed[i] += w->mixed_cross[k][i];
    }
}

/* Mean R^2 on the inner parts, of each strength, for pairs as they are and
 * mixed up; the best of either. */
static ks_status choose(const work *w, fit *t, int32_t f, double best[2],
                        ks_err *err) {
    ks_status st = KS_OK;
    const ks_folds *folds = &w->rows->folds;
    double r2[2][KS_N_MAP_STRENGTHS] = {{0}};
    ks_linear_map map = {0};
    for (int32_t part = 0; part < folds->n_inner; part++) {
        gather(w, t, ks_nest_hold(folds->n_folds, folds->n_inner, f, part), f);
        for (int m = 0; m < 2; m++) {
            ks_map_sums train = t->train, held = t->held;
            if (m) train.xy = t->train_mixed, held.xy = t->held_mixed;
            for (int c = 0; c < KS_N_MAP_STRENGTHS; c++) {
                double error, total;
                KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
                KS_TRY(ks_linear_map_ridge(&map, &train, ks_map_strengths[c],
                                           err));
                KS_TRY(ks_linear_map_loss(&map, &held, &error, &total, err));
                ks_linear_map_free(&map);
                r2[m][c] += 1 - error / total;
            }
        }
    }
    for (int m = 0; m < 2; m++) {
        int top = 0;
        for (int c = 1; c < KS_N_MAP_STRENGTHS; c++)
            if (r2[m][c] > r2[m][top]) top = c;
        best[m] = ks_map_strengths[top];
    }
done:
    ks_linear_map_free(&map);
    return st;
}

static ks_status make_map(const work *w, const fit *t, ks_map_kind kind,
                          const double strength[2], ks_linear_map *map,
                          ks_err *err) {
    ks_map_sums train = t->train;
    switch (kind) {
    case KS_MAP_RIDGE:
        return ks_linear_map_ridge(map, &train, strength[0], err);
    case KS_MAP_PROCRUSTES:
        return ks_linear_map_procrustes(map, &train, err);
    case KS_MAP_SHUFFLED:
        train.xy = t->train_mixed;
        return ks_linear_map_ridge(map, &train, strength[1], err);
    case KS_MAP_IDENTITY:
        return ks_linear_map_identity(map, &train, w->at_x, w->at_y, err);
    default:
        return ks_linear_map_mean(map, &train, err);
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

static void add_squares(const work *w, const ks_linear_map *map, int64_t row,
                        const double *mapped, double squares[2]) {
    const float *y = w->y + row * w->d_out;
    for (int64_t j = 0; j < w->d_out; j++) {
        if (map->scale[j] == 0) continue;
        double error = ((double)y[j] - mapped[j]) / map->scale[j];
        double there =
            ((double)y[j] - map->mean[j] - w->at_y[j]) / map->scale[j];
        squares[0] += error * error;
        squares[1] += there * there;
    }
}

/* The steps of the fold, mapped, held against what is there, and scored. */
static ks_status test_map(const work *w, fit *t, int32_t fit_at,
                          ks_map_kind kind, const ks_linear_map *map,
                          ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_rows *r = w->rows;
    int32_t seed = fit_at / r->folds.n_folds, f = fit_at % r->folds.n_folds;
    const uint8_t *fold = r->all_fold + seed * r->n_all;
    const ks_nest *nest = &w->probe->cells[w->probe->chosen[fit_at]].nest;
    int64_t rows[BLOCK], n = 0;
    for (int64_t i = 0; i <= r->n_all; i++) {
        if (i < r->n_all && fold[i] == f) rows[n++] = i;
        if (n == 0 || (n < BLOCK && i < r->n_all)) continue;
        KS_TRY(ks_linear_map_apply(map, w->x, rows, w->at_x, w->at_y, n,
                                   t->mapped, err));
        for (int64_t k = 0; k < n; k++) {
            const double *mapped = t->mapped + k * w->d_out;
            int64_t problem = seed * r->n_problems + r->problem[rows[k]];
            int64_t at = r->labelled[rows[k]];
            add_squares(w, map, rows[k], mapped,
                        w->squares[kind] + 2 * problem);
            if (at >= 0)
                w->score[kind][seed * r->view.n + at] =
                    (float)score_of(nest, fit_at, mapped);
        }
        n = 0;
    }
done:
    return st;
}

static ks_status run_fit(const work *w, int32_t fit_at, ks_err *err) {
    ks_status st = KS_OK;
    int32_t f = fit_at % w->rows->folds.n_folds;
    double strength[2] = {0, 0};
    ks_linear_map map = {0};
    fit t = {0};
    KS_TRY(open_fit(&t, w, err));
    KS_TRY(choose(w, &t, f, strength, err));
    w->out->strength[fit_at] = strength[0];
    gather(w, &t, 1u << f, f);
    for (int k = 0; k < KS_N_MAPS; k++) {
        if (!w->out->there[k]) continue;
        KS_TRY(make_map(w, &t, (ks_map_kind)k, strength, &map, err));
        KS_TRY(test_map(w, &t, fit_at, (ks_map_kind)k, &map, err));
        ks_linear_map_free(&map);
    }
done:
    ks_linear_map_free(&map);
    close_fit(&t);
    return st;
}

/* ---------------------------------------------------------------- all folds */

static bool same_layers(const work *w, int32_t a, int32_t b) {
    return w->probe->chosen[a] == w->probe->chosen[b] &&
           w->from->chosen[a] == w->from->chosen[b];
}

/* Fits side by side, as threads and memory allow. */
static int lanes_of(const work *w) {
    int asked = w->transfer->options->grid.nest.threads;
    int threads = asked ? asked : omp_get_max_threads();
    int64_t bytes = 8 * (3 * w->d_in * w->d_in + 8 * w->d_in * w->d_out);
    return (int)KS_MIN(threads, KS_MAX(1, FIT_BYTES / bytes));
}

/* The fits of one seed whose layers are those of fit `like`; bits do not depend
 * on the threads. */
static ks_status run_seed(work *w, int32_t seed, int32_t like, ks_err *err) {
    ks_status st = KS_OK;
    const ks_folds *folds = &w->rows->folds;
#pragma omp parallel for num_threads(lanes_of(w)) schedule(dynamic, 1)
    for (int32_t f = 0; f <= folds->n_folds; f++) {
        ks_err mine = {0};
        ks_status got = sum_fold(w, seed, f, &mine);
        if (got != KS_OK)
#pragma omp critical(ks_transfer_maps)
        {
            st = got;
            if (err) *err = mine;
        }
    }
    if (st != KS_OK) return st;
#pragma omp parallel for num_threads(lanes_of(w)) schedule(dynamic, 1)
    for (int32_t f = 0; f < folds->n_folds; f++) {
        ks_err mine = {0};
        ks_status got = KS_OK;
        if (same_layers(w, like, seed * folds->n_folds + f))
            got = run_fit(w, seed * folds->n_folds + f, &mine);
        if (got != KS_OK)
#pragma omp critical(ks_transfer_maps)
        {
            st = got;
            if (err) *err = mine;
        }
    }
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
    means(w->x, w->rows->n_all, w->d_in, w->at_x);
    means(w->y, w->rows->n_all, w->d_out, w->at_y);
    for (int32_t s = 0; s < folds->n_seeds; s++) {
        bool any = false;
        for (int32_t f = 0; f < folds->n_folds; f++)
            any |= same_layers(w, like, s * folds->n_folds + f);
        if (any) KS_TRY(run_seed(w, s, like, err));
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
    KS_TRY(ks_alloc(&w->at_x, in, sizeof *w->at_x, "means", err));
    KS_TRY(ks_alloc(&w->at_y, to, sizeof *w->at_y, "means", err));
    KS_TRY(ks_alloc(&w->mixed, seeds * n, sizeof *w->mixed, "rows", err));
    size_t folds = (size_t)r->folds.n_folds + 1;
    KS_TRY(ks_alloc(&w->folds, folds, sizeof *w->folds, "folds", err));
    KS_TRY(
        ks_alloc(&w->mixed_cross, folds, sizeof *w->mixed_cross, "folds", err));
    for (size_t f = 0; f < folds; f++) {
        KS_TRY(ks_map_sums_open(&w->folds[f], w->d_in, w->d_out, err));
        KS_TRY(ks_alloc(&w->mixed_cross[f], in * to, sizeof(double),
                        "sums of a map", err));
    }
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
    size_t folds = (size_t)w->rows->folds.n_folds + 1;
    for (size_t f = 0; f < folds; f++) {
        if (w->folds) ks_map_sums_close(&w->folds[f]);
        if (w->mixed_cross) free(w->mixed_cross[f]);
    }
    for (int k = 0; k < KS_N_MAPS; k++) {
        free(w->score[k]);
        free(w->squares[k]);
    }
    free(w->x);
    free(w->y);
    free(w->at_x);
    free(w->at_y);
    free(w->mixed);
    free(w->folds);
    free(w->mixed_cross);
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
