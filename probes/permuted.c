/* permuted.c - the permuted-label control of baselines.h. */
#include <gsl/gsl_sort_double.h>
#include <gsl/gsl_statistics_double.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "baselines.h"
#include "l2.h"
#include "philox.h"

typedef struct work {
    int64_t n;
    const ks_folds *folds;
    int8_t *y;       /* [KS_PERMUTATIONS, n] */
    float *margin;   /* [KS_PERMUTATIONS, n] */
    int64_t *rows;   /* [n] of a fold */
    double *metrics; /* [KS_N_METRICS, KS_PERMUTATIONS] */
    ks_l2_column *columns;
} work;

/* Fisher and Yates among the rows of one fold. */
static void permute_fold(int8_t *y, const uint8_t *fold, int64_t n, int32_t f,
                         int64_t *rows, const uint64_t key[2]) {
    int64_t m = 0;
    for (int64_t i = 0; i < n; i++)
        if (fold[i] == f) rows[m++] = i;
    for (int64_t i = m - 1; i > 0; i--) {
        uint32_t word[4];
        ks_philox(key, (uint64_t)i << 8 | (uint64_t)f, word);
        uint64_t draw = (uint64_t)word[0] << 32 | word[1];
        int64_t k = (int64_t)(draw % (uint64_t)(i + 1));
        int8_t was = y[rows[i]];
        y[rows[i]] = y[rows[k]];
        y[rows[k]] = was;
    }
}

static ks_status alloc_work(work *w, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)w->n;
    size_t columns = KS_PERMUTATIONS * (size_t)w->folds->n_folds;
    KS_TRY(ks_alloc(&w->y, KS_PERMUTATIONS * n, 1, "labels", err));
    KS_TRY(ks_alloc(&w->margin, KS_PERMUTATIONS * n, sizeof *w->margin,
                    "margins", err));
    KS_TRY(ks_alloc(&w->rows, n, sizeof *w->rows, "labels", err));
    KS_TRY(ks_alloc(&w->metrics, KS_PERMUTATIONS * KS_N_METRICS,
                    sizeof *w->metrics, "metrics", err));
    KS_TRY(ks_alloc(&w->columns, columns, sizeof *w->columns, "columns", err));
done:
    return st;
}

static ks_status score(work *w, const ks_dataset *d, ks_err *err) {
    ks_status st = KS_OK;
    for (int32_t p = 0; p < KS_PERMUTATIONS; p++) {
        double got[KS_N_METRICS];
        ks_scored rows = {.n = d->n,
                          .score = w->margin + p * w->n,
                          .y = d->y,
                          .group = d->group,
                          .chain = d->chain,
                          .n_groups = d->n_groups,
                          .n_chains = d->n_chains};
        KS_TRY(ks_stats_metrics(&rows, got, err));
        for (int m = 0; m < KS_N_METRICS; m++)
            w->metrics[m * KS_PERMUTATIONS + p] = got[m];
    }
done:
    return st;
}

size_t ks_permuted_bytes(int64_t d, ks_type type, const ks_folds *folds,
                         int threads, bool scratch) {
    size_t n = (size_t)folds->n;
    int32_t columns = KS_PERMUTATIONS * folds->n_folds;
    ks_l2_shape shape = {.n = folds->n,
                         .d = d,
                         .type = type,
                         .n_designs = KS_PERMUTATIONS,
                         .n_folds = folds->n_folds,
                         .n_columns = columns,
                         .n_splits = columns};
    return ks_l2_bytes(&shape, threads, scratch) +
           n * (KS_PERMUTATIONS * (1 + sizeof(float)) + sizeof(int64_t));
}

typedef struct needs {
    const ks_l2_source *source;
    const ks_folds *folds;
} needs;

static size_t bytes(void *user, int threads, bool scratch) {
    const needs *u = user;
    return ks_permuted_bytes(u->source->d, u->source->type, u->folds, threads,
                             scratch);
}

static ks_status find_place(const ks_l2_source *source, const ks_folds *folds,
                            const ks_nest_options *options, const ks_room *room,
                            ks_l2_place *place, ks_err *err) {
    ks_status st = KS_OK;
    ks_nest_options mine = *options;
    needs user = {source, folds};
    KS_TRY(
        ks_room_fit(room, bytes, &user, "fits to permuted labels", &mine, err));
    *place = (ks_l2_place){.ops = mine.ops,
                           .dev = mine.dev,
                           .threads = mine.threads,
                           .scratch = mine.scratch};
done:
    return st;
}

ks_status ks_permuted_run(const ks_l2_source *source, const ks_dataset *dataset,
                          const ks_folds *folds, const double *strength,
                          const ks_nest_options *options, const ks_room *room,
                          uint64_t seed, ks_interval out[KS_N_METRICS],
                          int32_t *unconverged, ks_err *err) {
    ks_status st = KS_OK;
    int32_t n_folds = folds->n_folds;
    ks_l2 *l2 = NULL;
    ks_l2_design designs[KS_PERMUTATIONS];
    ks_l2_place place;
    work w = {.n = folds->n, .folds = folds};
    KS_TRY(find_place(source, folds, options, room, &place, err));
    KS_TRY(alloc_work(&w, err));
    for (int32_t p = 0; p < KS_PERMUTATIONS; p++) {
        int8_t *y = w.y + p * w.n;
        uint64_t key[2] = {seed, 0x7065726d75746564u + (uint64_t)p};
        memcpy(y, dataset->y, (size_t)w.n);
        for (int32_t f = 0; f < n_folds; f++)
            permute_fold(y, folds->fold, w.n, f, w.rows, key);
        designs[p] = (ks_l2_design){y, folds->fold};
        for (int32_t f = 0; f < n_folds; f++)
            w.columns[p * n_folds + f] =
                (ks_l2_column){.design = p,
                               .hold = 1u << f,
                               .strength = strength[f],
                               .margin = w.margin + p * w.n};
    }
    KS_TRY(ks_l2_open_from(&l2, source, &place, designs, KS_PERMUTATIONS, err));
    KS_TRY(ks_l2_fit(
        l2, w.columns, KS_PERMUTATIONS * n_folds,
        options->tolerance > 0 ? options->tolerance : 1e-6,
        options->max_passes ? options->max_passes : KS_DEFAULT_PASSES, err));
    for (int32_t k = 0; k < KS_PERMUTATIONS * n_folds; k++)
        *unconverged += !w.columns[k].converged;
    KS_TRY(score(&w, dataset, err));
    for (int m = 0; m < KS_N_METRICS; m++) {
        double *all = w.metrics + m * KS_PERMUTATIONS;
        double mean = gsl_stats_mean(all, 1, KS_PERMUTATIONS);
        gsl_sort(all, 1, KS_PERMUTATIONS);
        out[m] = (ks_interval){
            mean,
            gsl_stats_quantile_from_sorted_data(all, 1, KS_PERMUTATIONS, 0.025),
            gsl_stats_quantile_from_sorted_data(all, 1, KS_PERMUTATIONS,
                                                0.975)};
        if (isnan(mean)) out[m] = (ks_interval){NAN, NAN, NAN};
    }
done:
    ks_l2_close(&l2);
    free(w.y);
    free(w.margin);
    free(w.rows);
    free(w.metrics);
    free(w.columns);
    return st;
}
