/* probe.c - ks_probe_l2, the library's probe: folds by problem, then one
 * nested fit of all seeds. */
#include <stdlib.h>
#include <string.h>

#include "nest.h"
#include "split.h"

static ks_status check(const ks_probe_problem *p, const ks_probe_options *o,
                       int32_t *n_groups, ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(p->x && p->y && p->group && p->n >= 1 && p->d >= 1, KS_USAGE,
             "a probe needs rows, features, labels and groups");
    KS_CHECK(o->n_seeds >= 1 && o->n_seeds <= KS_MAX_SEEDS && o->seeds,
             KS_USAGE, "expected 1 to %d seeds, got %d", KS_MAX_SEEDS,
             o->n_seeds);
    KS_CHECK(o->n_strengths >= 0 && o->n_strengths <= KS_MAX_STRENGTHS &&
                 (o->n_strengths == 0 || o->strengths),
             KS_USAGE, "expected 0 to %d strengths, got %d", KS_MAX_STRENGTHS,
             o->n_strengths);
    KS_CHECK(o->tolerance >= 0 && o->max_passes >= 0, KS_USAGE,
             "tolerance and max_passes cannot be negative");
    *n_groups = 0;
    for (int64_t i = 0; i < p->n; i++) {
        KS_CHECK(p->y[i] == 0 || p->y[i] == 1, KS_USAGE,
                 "row %lld: expected label 0 or 1, found %d", (long long)i,
                 p->y[i]);
        KS_CHECK(p->group[i] >= 0 && p->group[i] < INT32_MAX, KS_USAGE,
                 "row %lld: expected a group of 0 or more, found %d",
                 (long long)i, p->group[i]);
        *n_groups = KS_MAX(*n_groups, p->group[i] + 1);
    }
done:
    return st;
}

/* Weights of every fit on raw x, bias last. */
static void put_weights(const ks_nest *nest, double *weights) {
    for (int32_t k = 0; k < nest->n_fits; k++) {
        double *to = weights + k * (nest->d + 1);
        const float *from = nest->weight + k * nest->d;
        const float *mean = nest->mean + k * nest->d;
        const float *scale = nest->scale + k * nest->d;
        to[nest->d] = (double)nest->bias[k];
        for (int64_t j = 0; j < nest->d; j++) {
            to[j] = (double)from[j] / (double)scale[j];
            to[nest->d] -= to[j] * (double)mean[j];
        }
    }
}

ks_status ks_probe_l2(const ks_probe_problem *problem,
                      const ks_probe_options *options, float *scores,
                      ks_probe_fit *fits, double *weights, ks_err *err) {
    ks_status st = KS_OK;
    uint8_t *fold = NULL;
    ks_nest nest = {0};
    const int8_t *y[KS_MAX_SEEDS];
    int32_t n_groups = 0;
    double strengths[KS_DEFAULT_STRENGTHS];
    ks_nest_default_strengths(strengths);
    KS_TRY(check(problem, options, &n_groups, err));
    KS_TRY(ks_alloc(&fold, (size_t)options->n_seeds * (size_t)problem->n, 1,
                    "folds", err));
    ks_split_input split = {problem->n, problem->y, problem->group, n_groups,
                            problem->group_ids};
    for (int32_t s = 0; s < options->n_seeds; s++) {
        KS_TRY(ks_split_folds(&split, options->n_folds, options->seeds[s],
                              fold + s * problem->n, err));
        y[s] = problem->y;
    }
    bool given = options->n_strengths > 0;
    ks_folds folds = {.n = problem->n,
                      .n_folds = options->n_folds,
                      .n_seeds = options->n_seeds,
                      .n_inner = options->n_inner_folds ? options->n_inner_folds
                                                        : options->n_folds - 1,
                      .fold = fold};
    ks_nest_options nested = {
        .n_strengths = given ? options->n_strengths : KS_DEFAULT_STRENGTHS,
        .strengths = given ? options->strengths : strengths,
        .tolerance = options->tolerance > 0 ? options->tolerance : 1e-6,
        .max_passes = options->max_passes,
        .threads = options->threads,
        .keep_weights = weights != NULL};
    KS_TRY(ks_nest_fit(&nest, problem->x, problem->d, y, &folds, &nested, err));
    memcpy(scores, nest.score,
           (size_t)options->n_seeds * (size_t)problem->n * sizeof *scores);
    for (int32_t k = 0; k < nest.n_fits; k++)
        fits[k] =
            (ks_probe_fit){.strength = nest.strength[k],
                           .gradient = nest.gradient[k],
                           .passes = nest.reads[k],
                           .converged = nest.gradient[k] <= nested.tolerance,
                           .inner_loss = nest.loss[k]};
    if (weights) put_weights(&nest, weights);
done:
    ks_nest_free(&nest);
    free(fold);
    return st;
}
