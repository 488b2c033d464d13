/* graded.c - see graded.h. */
#include "graded.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "n_threads.h"
#include "rank.h"
#include "ridge.h"
#include "rows.h"
#include "split.h"
#include "words.h"

typedef struct work {
    const ks_analysis_input *in; /* of the labelled rows */
    ks_analysis_input mine;      /* of the scored ones */
    ks_folds folds;
    double *y;    /* [1 + n_fits, n] target; for each fit what the last baseline
                     leaves of it, that baseline fitted without the fit's test
                     rows, and for a training row without that one either */
    double *left; /* [n] what it leaves of test rows, out of fold */
    ks_graded *out;
    int64_t *done;
} work;

/* ---------------------------------------------------------------------- rows
 */

static ks_status rank_targets(ks_graded *g, ks_err *err) {
    ks_status st = KS_OK;
    int64_t n = g->rows->n;
    ks_ranked ranked = {0};
    double *middle = NULL;
    KS_TRY(ks_ranked_open(&ranked, g->target, g->target, n, err));
    KS_CHECK(ranked.n_x > 1, KS_MISMATCH,
             "score \"%s\" is the same for all %lld steps", g->name,
             (long long)n);
    KS_TRY(ks_alloc(&middle, (size_t)ranked.n_x, sizeof *middle, "ranks", err));
    for (int64_t i = 0; i < n; i++) middle[ranked.x[i]]++;
    double below = 0;
    for (int64_t v = 0; v < ranked.n_x; v++) {
        double here = middle[v];
        middle[v] = (below + 0.5 * here) / (double)n;
        below += here;
    }
    for (int64_t i = 0; i < n; i++) g->target[i] = middle[ranked.x[i]];
done:
    ks_ranked_close(&ranked);
    free(middle);
    return st;
}

/* Folds that keep high and low scores even. */
static ks_status make_folds(work *w, ks_err *err) {
    ks_status st = KS_OK;
    ks_graded *g = w->out;
    const ks_dataset *d = g->rows;
    const ks_folds *of = w->in->folds;
    int8_t *high = NULL;
    KS_CHECK(d->n_groups >= of->n_folds, KS_MISMATCH,
             "score \"%s\" is there for steps of %d problem%s; %d folds by "
             "problem need at least as many",
             g->name, d->n_groups, ks_plural((size_t)d->n_groups), of->n_folds);
    KS_TRY(ks_alloc(&high, (size_t)d->n, 1, "folds", err));
    KS_TRY(ks_alloc(&g->fold, (size_t)(of->n_seeds * d->n), 1, "folds", err));
    for (int64_t i = 0; i < d->n; i++) high[i] = g->target[i] > 0.5;
    const ks_split_input input = {.n = d->n,
                                  .y = high,
                                  .group = d->group,
                                  .n_groups = d->n_groups,
                                  .ids = d->group_ids};
    for (int32_t s = 0; s < of->n_seeds; s++)
        KS_TRY(ks_split_folds(&input, of->n_folds,
                              w->in->options->seed + (uint64_t)s,
                              g->fold + s * d->n, err));
    w->folds = *of;
    w->folds.n = d->n;
    w->folds.fold = g->fold;
done:
    free(high);
    return st;
}

/* ------------------------------------------------------------------- figures
 */

/* Of a problem: squared errors, targets, their squares, rows; correlations
 * within chains, and how many. */
enum { ERROR, SUM, SQUARE, COUNT, WITHIN, CHAINS, N_SUMS };

static void of_sums(const double *t, const void *user, double *out) {
    (void)user;
    double spread = t[SQUARE] - t[SUM] * t[SUM] / t[COUNT];
    out[0] = t[WITHIN] / t[CHAINS];
    out[1] = spread > 0 ? 1 - t[ERROR] / spread : NAN;
}

/* Rows of a chain stand together. */
static ks_status add_sums(const ks_dataset *d, const double *score,
                          const double *target, double *sums, ks_err *err) {
    ks_status st = KS_OK;
    ks_ranked chain = {0};
    double *scratch = NULL;
    for (int64_t begin = 0, end; begin < d->n; begin = end) {
        double *t = sums + (size_t)d->group[begin] * N_SUMS, rho = NAN;
        for (end = begin; end < d->n && d->chain[end] == d->chain[begin];
             end++) {
            double off = score[end] - target[end];
            t[ERROR] += off * off;
            t[SUM] += target[end];
            t[SQUARE] += target[end] * target[end];
            t[COUNT]++;
        }
        if (end - begin < 3) continue;
        KS_TRY(ks_ranked_open(&chain, score + begin, target + begin,
                              end - begin, err));
        KS_TRY(ks_alloc(&scratch, ks_ranked_scratch(&chain), sizeof *scratch,
                        "ranks", err));
        ks_ranked_correlate(&chain, NULL, scratch, &rho, NULL);
        ks_ranked_close(&chain);
        free(scratch);
        scratch = NULL;
        if (isnan(rho)) continue;
        t[WITHIN] += rho;
        t[CHAINS]++;
    }
done:
    ks_ranked_close(&chain);
    free(scratch);
    return st;
}

/* Spearman's rho with the bootstrap's draws of problems (stats.h). */
static ks_status spearman(ks_interval *out, const ks_dataset *d,
                          const double *score, const double *target,
                          const ks_grid_options *o, ks_err *err) {
    ks_status st = KS_OK;
    ks_ranked all = {0};
    double *draws = NULL, *own = NULL, value;
    int threads = ks_threads(o->nest.threads);
    KS_TRY(ks_ranked_open(&all, score, target, d->n, err));
    size_t scratch = ks_ranked_scratch(&all);
    size_t lane = scratch + (size_t)d->n + (size_t)d->n_groups;
    KS_TRY(ks_alloc(&draws, (size_t)o->bootstrap, sizeof *draws, "draws", err));
    KS_TRY(ks_alloc(&own, lane * (size_t)threads, sizeof *own, "draws", err));
    ks_ranked_correlate(&all, NULL, own, &value, NULL);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int32_t r = 0; r < o->bootstrap; r++) {
        double *mine = own + (size_t)omp_get_thread_num() * lane;
        double *weight = mine + scratch, *times = weight + d->n;
        if (ks_interrupted) continue;
        ks__stats_draw(o->seed, (uint64_t)r, d->n_groups, times);
        for (int64_t i = 0; i < d->n; i++) weight[i] = times[d->group[i]];
        ks_ranked_correlate(&all, weight, mine, &draws[r], NULL);
    }
    KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
    *out = ks__stats_interval(value, draws, o->bootstrap);
done:
    ks_ranked_close(&all);
    free(draws);
    free(own);
    return st;
}

ks_status ks__graded_measure(ks_graded_figures *out, const ks_dataset *d,
                             const float *score, const double *target,
                             const ks_grid_options *o, ks_err *err) {
    ks_status st = KS_OK;
    double *sums = NULL, *wide = NULL;
    ks_interval got[2];
    KS_TRY(ks_alloc(&sums, (size_t)d->n_groups * N_SUMS, sizeof *sums,
                    "problems", err));
    KS_TRY(ks_alloc(&wide, (size_t)d->n, sizeof *wide, "scores", err));
    for (int64_t i = 0; i < d->n; i++) wide[i] = (double)score[i];
    KS_TRY(spearman(&out->spearman, d, wide, target, o, err));
    KS_TRY(add_sums(d, wide, target, sums, err));
    KS_TRY(ks_stats_of_sums(sums, d->n_groups, N_SUMS, of_sums, NULL, 2,
                            o->bootstrap, o->seed, got, err));
    out->within = got[0];
    out->r2 = got[1];
done:
    free(sums);
    free(wide);
    return st;
}

/* AUC of the rows whose y is `low` against those whose y is `high`. */
static ks_status band(ks_interval *out, const ks_dataset *d, const float *score,
                      int8_t low, int8_t high, const ks_grid_options *o,
                      ks_err *err) {
    ks_status st = KS_OK;
    ks_interval metrics[KS_N_METRICS];
    int64_t n = 0, n_high = 0;
    size_t most = (size_t)d->n;
    float *s = NULL;
    int8_t *y = NULL;
    int32_t *group = NULL, *chain = NULL;
    *out = (ks_interval){NAN, NAN, NAN};
    KS_TRY(ks_alloc(&s, most, sizeof *s, "bands", err));
    KS_TRY(ks_alloc(&y, most, sizeof *y, "bands", err));
    KS_TRY(ks_alloc(&group, most, sizeof *group, "bands", err));
    KS_TRY(ks_alloc(&chain, most, sizeof *chain, "bands", err));
    for (int64_t i = 0; i < d->n; i++) {
        if (d->y[i] != low && d->y[i] != high) continue;
        s[n] = score[i];
        group[n] = d->group[i];
        chain[n] = d->chain[i];
        n_high += y[n] = d->y[i] == high;
        n++;
    }
    if (n_high && n_high < n) {
        ks_scored rows = {.n = n,
                          .score = s,
                          .y = y,
                          .group = group,
                          .chain = chain,
                          .n_groups = d->n_groups,
                          .n_chains = d->n_chains};
        KS_TRY(ks_stats_bootstrap(&rows, o->bootstrap, o->seed, metrics, err));
        *out = metrics[KS_AUC];
    }
done:
    free(s);
    free(y);
    free(group);
    free(chain);
    return st;
}

/* --------------------------------------------------------------------- mixing
 */

/* Targets that are held against each other. */
typedef enum asked { RANK, LEFT } asked;

/* Which target of w->y a fit is asked for. */
static int32_t target_of(asked t, int32_t fit) {
    return t == LEFT ? 1 + fit : 0;
}

/* Mean over seeds of the scores of target t, each row's of the matrix that its
 * fold chose; chosen NULL: the first. */
static void mix(const work *w, const ks_ridge *fits, const int32_t *chosen,
                asked t, float *score) {
    const ks_folds *f = &w->folds;
    for (int64_t i = 0; i < f->n; i++) {
        double sum = 0;
        for (int32_t s = 0; s < f->n_seeds; s++) {
            int32_t fit = s * f->n_folds + f->fold[s * f->n + i];
            const ks_ridge *of = &fits[chosen ? chosen[fit] : 0];
            int64_t at = (int64_t)target_of(t, fit) * f->n_seeds + s;
            sum += (double)of->score[at * f->n + i];
        }
        score[i] = (float)(sum / f->n_seeds);
    }
}

/* For each fit the matrix with the least inner error for target t. */
static void choose(const ks_ridge *fits, int32_t n, asked t, int32_t *chosen) {
    int32_t n_fits = fits[0].n_fits;
    for (int32_t k = 0; k < n_fits; k++) {
        int32_t at = target_of(t, k) * n_fits + k;
        chosen[k] = 0;
        for (int32_t l = 1; l < n; l++)
            if (fits[l].loss[at] < fits[chosen[k]].loss[at]) chosen[k] = l;
    }
}

/* ------------------------------------------------------------------ baselines
 */

/* index, index squared; bytes, tokens, words; overlap with the question */
enum { N_POSITION = 2, N_LENGTH = 5, N_SURFACE = 8 };

static ks_status surface(const ks_dataset *d, int64_t i, float *row,
                         ks_err *err) {
    const ks_step_row *s = &d->info->steps[d->row[i]];
    size_t n, n_question;
    row[0] = (float)s->index;
    row[1] = (float)s->index * (float)s->index;
    row[2] = (float)(s->byte_end - s->byte_begin);
    row[3] = (float)(s->token_end - s->token_begin);
    if (!d->has_text) return KS_OK;
    const char *text = ks_dataset_text(d, i, &n);
    const char *question = ks_dataset_question(d, i, &n_question);
    row[4] = (float)ks_words_count(text, n);
    return ks_words_overlap(text, n, question, n_question, row + N_LENGTH, err);
}

static ks_status run_baseline(work *w, const float *all, const char *name,
                              const char *note, int32_t width, ks_ridge *fit,
                              float *score, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = w->out->rows;
    ks_graded_baseline *b = &w->out->baselines[w->out->n_baselines++];
    float *x = NULL;
    b->name = name;
    b->note = note;
    KS_TRY(ks_alloc(&x, (size_t)(d->n * width), sizeof *x, name, err));
    for (int64_t i = 0; i < d->n; i++)
        memcpy(x + i * width, all + i * N_SURFACE, (size_t)width * sizeof *x);
    ks_ridge_free(fit); /* of the baseline before */
    const ks_l2_source source = {.n = d->n, .d = width, .type = KS_F32, .x = x};
    KS_TRY(ks_ridge_fit(fit, &source, w->y, 1, &w->folds, true, 1, err));
    mix(w, fit, NULL, RANK, score);
    KS_TRY(
        ks__graded_measure(&b->figures, d, score, w->y, w->in->options, err));
done:
    free(x);
    return st;
}

/* fit: of the last baseline. */
static void take_off(work *w, const ks_ridge *fit, const float *score) {
    int64_t n = w->out->rows->n;
    for (int64_t i = 0; i < n; i++) w->left[i] = w->y[i] - (double)score[i];
    for (int64_t k = 0; k < fit->n_fits; k++)
        for (int64_t i = 0; i < n; i++)
            w->y[target_of(LEFT, (int32_t)k) * n + i] =
                w->y[i] - (double)fit->inner[k * n + i];
}

static ks_status run_baselines(work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = w->out->rows;
    ks_ridge fit = {0};
    float *all = NULL, *score = NULL;
    KS_TRY(ks_alloc(&all, (size_t)(d->n * N_SURFACE), sizeof *all, "surface",
                    err));
    KS_TRY(ks_alloc(&score, (size_t)d->n, sizeof *score, "scores", err));
    for (int64_t i = 0; i < d->n; i++)
        KS_TRY(surface(d, i, all + i * N_SURFACE, err));
    KS_TRY(run_baseline(w, all, "position", "the step's index and its square",
                        N_POSITION, &fit, score, err));
    KS_TRY(
        run_baseline(w, all, "position+length",
                     d->has_text ? "index and square, bytes, tokens and words"
                                 : "index and square, bytes and tokens",
                     d->has_text ? N_LENGTH : N_LENGTH - 1, &fit, score, err));
    if (d->has_text)
        KS_TRY(run_baseline(w, all, "surface",
                            "those, and shares of the step's words and numbers "
                            "that stand in the question",
                            N_SURFACE, &fit, score, err));
    take_off(w, &fit, score);
done:
    ks_ridge_free(&fit);
    free(all);
    free(score);
    return st;
}

/* --------------------------------------------------------------------- layers
 */

typedef struct needs {
    ks_l2_source x; /* as the file has it */
    const ks_folds *folds;
} needs;

static size_t bytes(void *user, int threads, bool scratch) {
    const needs *u = user;
    (void)scratch; /* windows are counted either way */
    return ks_ridge_bytes(&u->x, 1 + u->folds->n_seeds * u->folds->n_folds,
                          u->folds, threads);
}

static ks_status fit_layer(work *w, const ks_series *series, int32_t cell,
                           ks_graded_series *out, ks_ridge *fit, float *score,
                           ks_err *err) {
    ks_status st = KS_OK;
    ks_err own = {0};
    ks__rows rows = {0};
    const ks_acts_info *info = w->in->dataset->info;
    needs user = {{.n = w->folds.n, .d = info->d, .type = info->dtype},
                  &w->folds};
    int32_t layer = series->cells[cell].layer;
    KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
    KS_TRY(ks__rows_open(&rows, &w->mine, series, layer, bytes, &user,
                         "regressions on a score", err));
    st = ks_ridge_fit(fit, &rows.source, w->y, 1 + w->out->n_fits, &w->folds,
                      false, rows.threads, &own);
    KS_CHECK(st == KS_OK, st, "%s/%s layer %d, score \"%s\": %s",
             ks_stream_name(series->stream), ks_position_name(series->position),
             layer, w->out->name, own.text);
    out->layer[cell] = layer;
    mix(w, fit, NULL, RANK, score);
    KS_TRY(ks__graded_measure(&out->layers[cell], w->out->rows, score, w->y,
                              w->in->options, err));
    ++*w->done;
    if (w->in->options->progress)
        w->in->options->progress(w->in->options->user, *w->done);
done:
    ks__rows_close(&rows);
    return st;
}

static ks_status finish(work *w, ks_graded_series *out, const ks_ridge *fits,
                        float *score, ks_err *err) {
    ks_status st = KS_OK;
    const ks_grid_options *o = w->in->options;
    const ks_dataset *d = w->out->rows;
    ks_graded_figures residual;
    int32_t *chosen = NULL;
    size_t n_fits = (size_t)fits[0].n_fits;
    KS_TRY(ks_alloc(&chosen, n_fits, sizeof *chosen, "layers", err));
    KS_TRY(ks_alloc(&out->chosen, n_fits, sizeof *chosen, "layers", err));
    choose(fits, out->n_layers, LEFT, chosen);
    mix(w, fits, chosen, LEFT, score);
    KS_TRY(ks__graded_measure(&residual, d, score, w->left, o, err));
    out->surface_free = residual.spearman;
    choose(fits, out->n_layers, RANK, chosen);
    mix(w, fits, chosen, RANK, out->score);
    KS_TRY(ks__graded_measure(&out->best, d, out->score, w->y, o, err));
    for (size_t k = 0; k < n_fits; k++) out->chosen[k] = out->layer[chosen[k]];
    KS_TRY(band(&out->bands[0], d, out->score, 0, -1, o, err));
    KS_TRY(band(&out->bands[1], d, out->score, -1, 1, o, err));
done:
    free(chosen);
    return st;
}

static ks_status run_series(work *w, const ks_series *series, ks_err *err) {
    ks_status st = KS_OK;
    ks_graded_series *out = &w->out->series[w->out->n_series++];
    size_t n = (size_t)w->out->rows->n, layers = (size_t)series->n_cells;
    ks_ridge *fits = NULL;
    float *score = NULL;
    *out = (ks_graded_series){.stream = series->stream,
                              .position = series->position,
                              .n_layers = series->n_cells};
    KS_TRY(ks_alloc(&fits, layers, sizeof *fits, "layers", err));
    KS_TRY(ks_alloc(&score, n, sizeof *score, "scores", err));
    KS_TRY(ks_alloc(&out->layer, layers, sizeof *out->layer, "layers", err));
    KS_TRY(ks_alloc(&out->layers, layers, sizeof *out->layers, "layers", err));
    KS_TRY(ks_alloc(&out->score, n, sizeof *out->score, "scores", err));
    for (int32_t c = 0; c < series->n_cells; c++)
        KS_TRY(fit_layer(w, series, c, out, &fits[c], score, err));
    KS_TRY(finish(w, out, fits, score, err));
done:
    for (size_t k = 0; fits && k < layers; k++) ks_ridge_free(&fits[k]);
    free(fits);
    free(score);
    return st;
}

ks_status ks_graded_run(ks_graded *out, const char *score,
                        const ks_analysis_input *in, int64_t *done,
                        ks_err *err) {
    ks_status st = KS_OK;
    work w = {.in = in, .out = out};
    w.done = done;
    *out = (ks_graded){.name = score,
                       .n_fits = in->folds->n_seeds * in->folds->n_folds};
    KS_TRY(
        ks_dataset_graded(&out->rows, &out->target, in->dataset, score, err));
    size_t n = (size_t)out->rows->n;
    KS_TRY(rank_targets(out, err));
    KS_TRY(make_folds(&w, err));
    w.mine = (ks_analysis_input){out->rows, in->grid, &w.folds, in->options};
    KS_TRY(ks_alloc(&w.y, (1 + (size_t)out->n_fits) * n, sizeof *w.y, "scores",
                    err));
    KS_TRY(ks_alloc(&w.left, n, sizeof *w.left, "scores", err));
    memcpy(w.y, out->target, n * sizeof *w.y);
    KS_TRY(run_baselines(&w, err));
    KS_TRY(ks_alloc(&out->series, (size_t)in->grid->n_series,
                    sizeof *out->series, "series", err));
    for (int32_t k = 0; k < in->grid->n_series; k++)
        KS_TRY(run_series(&w, &in->grid->series[k], err));
done:
    free(w.y);
    free(w.left);
    return st;
}

void ks_graded_free(ks_graded *g) {
    for (int32_t k = 0; k < g->n_series; k++) {
        free(g->series[k].layer);
        free(g->series[k].layers);
        free(g->series[k].chosen);
        free(g->series[k].score);
    }
    free(g->series);
    free(g->target);
    free(g->fold);
    ks_dataset_close(&g->rows);
    *g = (ks_graded){0};
}
