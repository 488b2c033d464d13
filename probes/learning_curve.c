/* learning_curve.c - ks_learning_curve_run of analyses.h. Problems beyond a
 * point's share stay in their folds and are tested there, but never train
 * (ks_folds), so every point is scored on the same rows. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analyses.h"
#include "philox.h"

static const int SHARE[KS_CURVE_POINTS] = {8, 4, 2, 1}; /* one in .. */

typedef struct placed {
    uint32_t key;
    int32_t group;
} placed;

static int by_key(const void *pa, const void *pb) {
    const placed *a = pa, *b = pb;
    if (a->key != b->key) return a->key < b->key ? -1 : 1;
    return (a->group > b->group) - (a->group < b->group);
}

/* out[group]: which of the draw's problems it is. A smaller point's problems
 * are among a larger one's. */
static ks_status rank_problems(const ks_dataset *d, uint64_t seed, int draw,
                               int32_t *out, ks_err *err) {
    ks_status st = KS_OK;
    placed *order = NULL;
    const uint64_t key[2] = {seed, 0x6c6561726e696e67u + (uint64_t)draw};
    KS_TRY(
        ks_alloc(&order, (size_t)d->n_groups, sizeof *order, "problems", err));
    for (int32_t g = 0; g < d->n_groups; g++) {
        uint32_t word[4];
        ks_philox(key, (uint64_t)g, word);
        order[g] = (placed){word[0], g};
    }
    qsort(order, (size_t)d->n_groups, sizeof *order, by_key);
    for (int32_t k = 0; k < d->n_groups; k++) out[order[k].group] = k;
done:
    free(order);
    return st;
}

/* ------------------------------------------------------------------ one point
 */

typedef struct work {
    const ks_analysis_input *in;
    const ks_series *series;
    const int32_t *chosen; /* [n_folds] of the first seed: places in cells */
    uint8_t *fold;         /* [draws, n] */
    float *score;          /* [draws, n] */
    int32_t *rank;         /* [n_groups] */
    double *sums;          /* [n_groups, 4]: rows and right ones by class */
    int32_t *fits, *unconverged;
} work;

static void balanced(const double *t, const void *user, double *out) {
    (void)user;
    *out = 0.5 * (t[2] / t[0] + t[3] / t[1]);
}

/* Adds a draw's right rows, each draw a share of them. */
static void add_right(work *w, const float *score, double share) {
    const ks_dataset *d = w->in->dataset;
    for (int64_t i = 0; i < d->n; i++)
        w->sums[4 * d->group[i] + 2 + d->y[i]] +=
            share * ((score[i] > 0) == d->y[i]);
}

/* Every fold keeps a training row of each class, whatever it is held out with.
 */
static bool can_train(const work *w) {
    const ks_dataset *d = w->in->dataset;
    int32_t n_folds = w->in->folds->n_folds;
    for (int s = 0; s < KS_CURVE_DRAWS; s++) {
        bool seen[KS_L2_MAX_FOLDS][2] = {{false}};
        for (int64_t i = 0; i < d->n; i++)
            if (w->fold[s * d->n + i] < n_folds)
                seen[w->fold[s * d->n + i]][d->y[i]] = true;
        for (int32_t f = 0; f < n_folds; f++)
            if (!seen[f][0] || !seen[f][1]) return false;
    }
    return true;
}

static ks_status fit_point(work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_folds *f = w->in->folds;
    const int8_t *sets[KS_CURVE_DRAWS];
    int32_t chosen[KS_CURVE_DRAWS * KS_L2_MAX_FOLDS];
    ks_err own = {0};
    ks_folds folds = {.n = f->n,
                      .n_folds = f->n_folds,
                      .n_inner = f->n_inner,
                      .n_seeds = KS_CURVE_DRAWS,
                      .fold = w->fold};
    for (int s = 0; s < KS_CURVE_DRAWS; s++) {
        sets[s] = w->in->dataset->y;
        memcpy(chosen + s * f->n_folds, w->chosen,
               (size_t)f->n_folds * sizeof *chosen);
    }
    st = ks__analysis_fit(w->score, w->in, w->series, chosen, sets, &folds,
                          w->fits, w->unconverged, &own);
    KS_CHECK(st == KS_OK, st, "learning curve: %s", own.text);
    for (int s = 0; s < KS_CURVE_DRAWS; s++)
        add_right(w, w->score + s * f->n, 1.0 / KS_CURVE_DRAWS);
done:
    return st;
}

/* All training problems: the grid's own scores, of the first seed's folds as
 * the other points. */
static void take_point(work *w) {
    const ks_folds *f = w->in->folds;
    for (int64_t i = 0; i < f->n; i++)
        w->score[i] = w->series->cells[w->chosen[f->fold[i]]].nest.score[i];
    add_right(w, w->score, 1);
}

/* Folds of each draw with `keep` problems that train. */
static ks_status draw_problems(work *w, int32_t keep, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = w->in->dataset;
    const ks_folds *f = w->in->folds;
    for (int s = 0; s < KS_CURVE_DRAWS; s++) {
        KS_TRY(rank_problems(d, w->in->options->seed, s, w->rank, err));
        for (int64_t i = 0; i < d->n; i++)
            w->fold[s * d->n + i] =
                (uint8_t)(f->fold[i] +
                          (w->rank[d->group[i]] < keep ? 0 : f->n_folds));
    }
done:
    return st;
}

static ks_status point(work *w, ks_learning_curve *out, int share,
                       ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = w->in->dataset;
    const ks_folds *f = w->in->folds;
    int32_t keep = d->n_groups / share;
    for (int32_t k = 0; k < 4 * d->n_groups; k++) w->sums[k] = 0;
    for (int64_t i = 0; i < d->n; i++) w->sums[4 * d->group[i] + d->y[i]]++;
    if (share > 1) {
        KS_TRY(draw_problems(w, keep, err));
        if (!can_train(w)) return KS_OK;
        KS_TRY(fit_point(w, err));
    } else {
        take_point(w);
    }
    KS_TRY(ks_stats_of_sums(w->sums, d->n_groups, 4, balanced, NULL, 1,
                            w->in->options->bootstrap, w->in->options->seed,
                            &out->accuracy[out->n_points], err));
    out->problems[out->n_points++] =
        (double)keep * (f->n_folds - 1) / f->n_folds;
done:
    return st;
}

ks_status ks_learning_curve_run(ks_learning_curve *out,
                                const ks_analysis_input *in,
                                const ks_series *series, int32_t *fits,
                                int32_t *unconverged, ks_err *err) {
    ks_status st = KS_OK;
    const ks_folds *f = in->folds;
    size_t n = (size_t)in->dataset->n, groups = (size_t)in->dataset->n_groups;
    work w = {.in = in, .series = series, .chosen = series->chosen};
    int32_t usual = ks_series_usual(series, f->n_seeds * f->n_folds);
    w.fits = fits;
    w.unconverged = unconverged;
    *out = (ks_learning_curve){.layer = series->cells[usual].layer};
    if (2 * f->n_folds > 32) return KS_OK; /* the solver's limit of folds */
    KS_TRY(ks_alloc(&w.fold, KS_CURVE_DRAWS * n, 1, "folds", err));
    KS_TRY(
        ks_alloc(&w.score, KS_CURVE_DRAWS * n, sizeof *w.score, "scores", err));
    KS_TRY(ks_alloc(&w.rank, groups, sizeof *w.rank, "problems", err));
    KS_TRY(ks_alloc(&w.sums, 4 * groups, sizeof *w.sums, "problems", err));
    for (int k = 0; k < KS_CURVE_POINTS; k++)
        KS_TRY(point(&w, out, SHARE[k], err));
done:
    free(w.fold);
    free(w.score);
    free(w.rank);
    free(w.sums);
    return st;
}
