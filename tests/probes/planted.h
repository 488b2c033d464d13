/* planted.h - rows of several layers with what a test plants in them, folds by
 * problem, and trainers on the CPU, for the tests of trained probes. */
#ifndef KS_TESTS_PROBES_PLANTED_H
#define KS_TESTS_PROBES_PLANTED_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "philox.h"
#include "published.h"

typedef struct planted {
    int64_t n, d;
    int32_t n_layers, n_groups, layer[8];
    float *x;    /* [n_layers, n, d] */
    float *mean; /* [n, d] over layers 1.. */
    int8_t *y;
    int32_t *group;
    uint8_t *fold; /* [n_seeds, n] */
    ks_split_input rows;
    ks_folds folds;
    ks_stack stack;
    ks_dev *dev;
    const struct ks_ops *ops;
} planted;

static inline float planted_draw(uint64_t stream, uint64_t place) {
    uint64_t key[2] = {11, stream};
    uint32_t word[4];
    ks_philox(key, place, word);
    return ks_philox_unit(word[0]);
}

/* Unit variance, uniform. */
static inline float planted_noise(uint64_t stream, uint64_t place) {
    return 3.4641f * (planted_draw(stream, place) - 0.5f);
}

/* Noise in all layers; steps of a problem stand together. y is all 0. */
static inline void planted_open(planted *p, int32_t n_layers, int64_t n,
                                int64_t d, int32_t steps) {
    memset(p, 0, sizeof *p);
    p->n = n, p->d = d, p->n_layers = n_layers;
    p->n_groups = (int32_t)((n + steps - 1) / steps);
    p->x = malloc((size_t)(n_layers * n * d) * sizeof *p->x);
    p->mean = calloc((size_t)(n * d), sizeof *p->mean);
    p->y = calloc((size_t)n, 1);
    p->group = calloc((size_t)n, sizeof *p->group);
    for (int64_t k = 0; k < n_layers * n * d; k++)
        p->x[k] = planted_noise(1, (uint64_t)k);
    for (int64_t i = 0; i < n; i++) p->group[i] = (int32_t)(i / steps);
    ks_err err = {0};
    if (ks_dev_open(&p->dev, &p->ops, "cpu", 2, NULL, &err) != KS_OK) abort();
}

/* Once x and y are as they should be: means and folds. first: of the stack. */
static inline void planted_ready(planted *p, int32_t first, int32_t n_folds,
                                 int32_t n_seeds) {
    ks_err err = {0};
    for (int64_t k = 0; k < p->n * p->d; k++) {
        p->mean[k] = 0;
        for (int32_t l = first; l < p->n_layers; l++)
            p->mean[k] += p->x[l * p->n * p->d + k];
        p->mean[k] /= (float)(p->n_layers - first);
    }
    for (int32_t l = 0; l < p->n_layers; l++) p->layer[l] = l + !first;
    p->stack = (ks_stack){.n = p->n,
                          .d = p->d,
                          .n_layers = p->n_layers,
                          .layer = p->layer,
                          .first = first,
                          .x = p->x,
                          .mean = p->mean};
    p->rows = (ks_split_input){
        .n = p->n, .y = p->y, .group = p->group, .n_groups = p->n_groups};
    p->fold = calloc((size_t)(n_seeds * p->n), 1);
    for (int32_t s = 0; s < n_seeds; s++)
        if (ks_split_folds(&p->rows, n_folds, (uint64_t)s + 1,
                           p->fold + s * p->n, &err) != KS_OK)
            abort();
    p->folds = (ks_folds){.n = p->n,
                          .n_folds = n_folds,
                          .n_inner = n_folds - 1,
                          .n_seeds = n_seeds,
                          .fold = p->fold};
}

static inline void planted_close(planted *p) {
    ks_dev_close(&p->dev, p->ops);
    free(p->x);
    free(p->mean);
    free(p->y);
    free(p->group);
    free(p->fold);
}

/* One recipe, trained; out has room for all layers. Its probes' number. */
static inline int32_t planted_train(planted *p, const ks_recipe *recipe,
                                    size_t weights, ks_trained *out,
                                    ks_err *err) {
    ks_trainer trainer;
    ks_trained_options o = {
        .folds = &p->folds, .y = p->y, .seed = 1, .weights = weights};
    ks_status st =
        ks_trainer_open(&trainer, recipe, &p->stack, p->ops, p->dev, err);
    if (st == KS_OK) st = ks_trained_run(out, &trainer, &p->stack, &o, err);
    ks_trainer_close(&trainer);
    return st == KS_OK ? trainer.n_probes : 0;
}

static inline ks_recipe planted_recipe(const char *word) {
    ks_recipe all[KS_MOST_RECIPES];
    int32_t n;
    ks_err err = {0};
    if (ks_recipes_read(word, all, &n, &err) != KS_OK || n != 1) abort();
    return all[0];
}

/* Balanced accuracy of scores. */
static inline double planted_right(const planted *p, const float *score) {
    double right[2] = {0, 0}, n[2] = {0, 0};
    for (int64_t i = 0; i < p->n; i++) {
        right[p->y[i]] += (score[i] > 0) == p->y[i];
        n[p->y[i]]++;
    }
    return 0.5 * (right[0] / n[0] + right[1] / n[1]);
}

#endif
