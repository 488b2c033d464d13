/* trained.c - see trained.h. */
#include "trained.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const double ks_trained_rates[KS_TRAINED_RATES] = {3e-5, 3e-4, 3e-3};

/* Rows of one seed and fold: those of the other folds but the development
 * part, the development part, the test fold. */
typedef struct fit_rows {
    int32_t *rows; /* [n] */
    int32_t n_inner, n_dev, n_test;
    int8_t *dev_y;                    /* [n_dev] */
    float inner_weight[2], weight[2]; /* by class, without and with the
                                         development part */
} fit_rows;

typedef struct work {
    const ks_trainer *trainer;
    const ks_trained_options *options;
    ks_trained *out;
    const int32_t *list; /* fits by number: probe * n_fits + fit */
    fit_rows *fits;      /* [n_fits] */
    uint8_t *zeros; /* [n] the fold of development rows, for ks_nest_loss */
    int32_t n_fits;
} work;

/* --------------------------------------------------------------------- rows */

static ks_status find_rows(const ks_trained_options *o, int32_t fit,
                           fit_rows *out, ks_err *err) {
    ks_status st = KS_OK;
    const ks_folds *f = o->folds;
    const uint8_t *fold = f->fold + fit / f->n_folds * f->n;
    int32_t test = fit % f->n_folds, dev = (test + 1) % f->n_folds, n = 0;
    KS_TRY(ks_alloc(&out->rows, (size_t)f->n, sizeof *out->rows, "rows", err));
    for (int64_t i = 0; i < f->n; i++)
        if (fold[i] != test && fold[i] != dev) out->rows[n++] = (int32_t)i;
    out->n_inner = n;
    for (int64_t i = 0; i < f->n; i++)
        if (fold[i] == dev) out->rows[n++] = (int32_t)i;
    out->n_dev = n - out->n_inner;
    KS_TRY(
        ks_alloc(&out->dev_y, (size_t)KS_MAX(out->n_dev, 1), 1, "rows", err));
    for (int32_t i = 0; i < out->n_dev; i++)
        out->dev_y[i] = o->y[out->rows[out->n_inner + i]];
    for (int64_t i = 0; i < f->n; i++)
        if (fold[i] == test) out->rows[n++] = (int32_t)i;
    out->n_test = n - out->n_inner - out->n_dev;
    ks_adamw_balance(o->y, out->rows, out->n_inner, out->inner_weight);
    ks_adamw_balance(o->y, out->rows, out->n_inner + out->n_dev, out->weight);
done:
    return st;
}

/* ------------------------------------------------------------------- choice */

/* Rate and epoch with the least loss, the lower rate and the earlier epoch on a
 * tie. margin: of each rate [epochs, n_dev]. */
static ks_status choose(const work *w, ks_trained *t, int32_t fit,
                        float *const margin[KS_TRAINED_RATES], ks_err *err) {
    const fit_rows *r = &w->fits[fit];
    double least = INFINITY;
    for (int32_t c = 0; c < KS_TRAINED_RATES; c++)
        for (int32_t e = 0; e < KS_TRAINED_EPOCHS; e++) {
            double loss = ks_nest_loss(margin[c] + (int64_t)e * r->n_dev,
                                       r->dev_y, w->zeros, r->n_dev, 1);
            if (!(loss < least)) continue;
            least = loss;
            t->rate[fit] = ks_trained_rates[c];
            t->epochs[fit] = e + 1;
        }
    if (isfinite(least)) return KS_OK;
    return ks_fail(err, KS_NUMERIC,
                   "%s, fit %d: no rate and epoch has a finite loss on its "
                   "development part",
                   w->trainer->recipe->name, fit);
}

/* ----------------------------------------------------------------- training */

/* A unit of work: the fit `fit` of probe `probe`. */
typedef struct unit {
    int32_t probe, fit;
} unit;

/* Of place k of the list. */
static unit unit_of(const work *w, int32_t k) {
    return (unit){w->list[k] / w->n_fits, w->list[k] % w->n_fits};
}

static ks_adamw_probe probe_of(const work *w, unit u) {
    const ks_folds *f = w->options->folds;
    const fit_rows *r = &w->fits[u.fit];
    /* a layer's probe draws the same whichever other layers there are */
    int32_t layer = w->out[u.probe].layer;
    uint64_t number = layer < 0 ? 0 : (uint64_t)layer;
    return (ks_adamw_probe){
        .layer = w->trainer->first + u.probe,
        .rows = r->rows,
        .y = w->options->y,
        .key = {w->options->seed + (uint64_t)(u.fit / f->n_folds),
                number << 8 | (uint64_t)(u.fit % f->n_folds)},
        .decay = KS_TRAINED_DECAY,
        .standardise = true};
}

/* Rates and epochs of places [from, from + n) of the list. */
static ks_status search(const work *w, int32_t from, int32_t n, ks_err *err) {
    ks_status st = KS_OK;
    ks_adamw_options options = w->trainer->options;
    ks_adamw_probe *probes = NULL;
    float *margin = NULL;
    size_t floats = 0;
    for (int32_t k = 0; k < n; k++)
        floats += KS_TRAINED_RATES * KS_TRAINED_EPOCHS *
                  (size_t)w->fits[unit_of(w, from + k).fit].n_dev;
    KS_TRY(ks_alloc(&margin, floats, sizeof *margin, "margins", err));
    KS_TRY(ks_alloc(&probes, (size_t)n * KS_TRAINED_RATES, sizeof *probes,
                    "probes", err));
    float *at = margin;
    for (int32_t k = 0; k < n * KS_TRAINED_RATES; k++) {
        unit u = unit_of(w, from + k / KS_TRAINED_RATES);
        const fit_rows *r = &w->fits[u.fit];
        ks_adamw_probe *p = &probes[k];
        *p = probe_of(w, u);
        p->n_rows = r->n_inner;
        p->lr = ks_trained_rates[k % KS_TRAINED_RATES];
        memcpy(p->class_weight, r->inner_weight, sizeof p->class_weight);
        p->eval = r->rows + r->n_inner, p->n_eval = r->n_dev;
        p->margin = at;
        at += KS_TRAINED_EPOCHS * (int64_t)r->n_dev;
    }
    options.each_epoch = true;
    KS_TRY(ks_adamw_train(w->trainer->data, &options, probes,
                          n * KS_TRAINED_RATES, err));
    for (int32_t k = 0; k < n; k++) {
        unit u = unit_of(w, from + k);
        float *of_rate[KS_TRAINED_RATES];
        for (int c = 0; c < KS_TRAINED_RATES; c++)
            of_rate[c] = probes[k * KS_TRAINED_RATES + c].margin;
        KS_TRY(choose(w, &w->out[u.probe], u.fit, of_rate, err));
    }
done:
    free(probes);
    free(margin);
    return st;
}

/* The fits themselves, and the margins of their test rows. */
static ks_status refit(const work *w, int32_t from, int32_t n, ks_err *err) {
    ks_status st = KS_OK;
    const ks_folds *f = w->options->folds;
    ks_adamw_probe *probes = NULL;
    float *margin = NULL;
    KS_TRY(ks_alloc(&margin, (size_t)n * (size_t)f->n, sizeof *margin,
                    "margins", err));
    KS_TRY(ks_alloc(&probes, (size_t)n, sizeof *probes, "probes", err));
    for (int32_t k = 0; k < n; k++) {
        unit u = unit_of(w, from + k);
        const fit_rows *r = &w->fits[u.fit];
        ks_trained *t = &w->out[u.probe];
        ks_adamw_probe *p = &probes[k];
        *p = probe_of(w, u);
        p->n_rows = r->n_inner + r->n_dev;
        p->lr = t->rate[u.fit], p->stop = t->epochs[u.fit];
        memcpy(p->class_weight, r->weight, sizeof p->class_weight);
        p->eval = r->rows + p->n_rows, p->n_eval = r->n_test;
        p->margin = margin + k * f->n;
        if (t->param) {
            p->param = t->param + u.fit * t->n_params;
            p->mean = t->mean + u.fit * t->n_inputs;
            p->scale = t->scale + u.fit * t->n_inputs;
        }
    }
    KS_TRY(
        ks_adamw_train(w->trainer->data, &w->trainer->options, probes, n, err));
    for (int32_t k = 0; k < n; k++) {
        unit u = unit_of(w, from + k);
        float *to = w->out[u.probe].by_seed + u.fit / f->n_folds * f->n;
        for (int32_t i = 0; i < probes[k].n_eval; i++)
            to[probes[k].eval[i]] = probes[k].margin[i];
    }
done:
    free(probes);
    free(margin);
    return st;
}

/* ---------------------------------------------------------------------- all */

bool ks_trained_keeps(const ks_recipe *recipe, int32_t n_probes,
                      int64_t n_inputs, const ks_trained_options *o) {
    double fits = (double)o->folds->n_seeds * o->folds->n_folds * n_probes;
    int64_t params = ks_recipe_params(recipe, n_inputs);
    return (double)sizeof(float) * fits * (double)(params + 2 * n_inputs) <=
           (double)o->weights;
}

static ks_status alloc_out(ks_trained *t, const ks_folds *f, bool weights,
                           ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)f->n, fits = (size_t)t->n_fits;
    KS_TRY(ks_alloc(&t->by_seed, (size_t)f->n_seeds * n, sizeof(float),
                    "scores", err));
    KS_TRY(ks_alloc(&t->score, n, sizeof(float), "scores", err));
    KS_TRY(ks_alloc(&t->rate, fits, sizeof *t->rate, "fits", err));
    KS_TRY(ks_alloc(&t->epochs, fits, sizeof *t->epochs, "fits", err));
    if (!weights) return KS_OK;
    KS_TRY(ks_alloc(&t->param, fits * (size_t)t->n_params, sizeof(float),
                    "weights", err));
    KS_TRY(ks_alloc(&t->mean, fits * (size_t)t->n_inputs, sizeof(float),
                    "weights", err));
    KS_TRY(ks_alloc(&t->scale, fits * (size_t)t->n_inputs, sizeof(float),
                    "weights", err));
done:
    return st;
}

ks_status ks_trained_open(ks_trained *out, const ks_recipe *recipe,
                          int32_t n_probes, int64_t n_inputs,
                          const int32_t *layer, const ks_trained_options *o,
                          ks_err *err) {
    ks_status st = KS_OK;
    bool weights = ks_trained_keeps(recipe, n_probes, n_inputs, o);
    for (int32_t k = 0; k < n_probes; k++)
        out[k] = (ks_trained){.layer = layer ? layer[k] : -1,
                              .n_fits = o->folds->n_seeds * o->folds->n_folds,
                              .n_params = ks_recipe_params(recipe, n_inputs),
                              .n_inputs = n_inputs};
    for (int32_t k = 0; k < n_probes; k++)
        KS_TRY(alloc_out(&out[k], o->folds, weights, err));
done:
    for (int32_t k = 0; st != KS_OK && k < n_probes; k++)
        ks_trained_free(&out[k]);
    return st;
}

ks_status ks_trained_fit(ks_trained *probes, const ks_trainer *trainer,
                         const int32_t *list, int32_t n, ks_trained_fn after,
                         void *user, ks_trained_options *options, ks_err *err) {
    ks_status st = KS_OK;
    const ks_folds *f = options->folds;
    work w = {.trainer = trainer,
              .options = options,
              .out = probes,
              .list = list,
              .n_fits = f->n_seeds * f->n_folds};
    KS_TRY(ks_alloc(&w.fits, (size_t)w.n_fits, sizeof *w.fits, "folds", err));
    KS_TRY(ks_alloc(&w.zeros, (size_t)f->n, 1, "folds", err));
    for (int32_t k = 0; k < w.n_fits; k++)
        KS_TRY(find_rows(options, k, &w.fits[k], err));
    int64_t margins = KS_TRAINED_EPOCHS * f->n / f->n_folds;
    int32_t at_once = KS_MAX(1, ks_trainer_at_once(trainer, f->n, margins) /
                                    KS_TRAINED_RATES);
    if (options->at_once) at_once = KS_MIN(at_once, options->at_once);
    for (int32_t from = 0, some; from < n; from += some) {
        some = KS_MIN(at_once, n - from);
        KS_TRY(search(&w, from, some, err));
        KS_TRY(refit(&w, from, some, err));
        options->done += some;
        if (options->progress) options->progress(options->user, options->done);
        if (after) KS_TRY(after(user, from + some, err));
    }
done:
    for (int32_t k = 0; w.fits && k < w.n_fits; k++) {
        free(w.fits[k].rows);
        free(w.fits[k].dev_y);
    }
    free(w.zeros);
    free(w.fits);
    return st;
}

void ks_trained_finish(ks_trained *probes, int32_t n_probes,
                       const ks_folds *folds) {
    for (int32_t k = 0; k < n_probes; k++)
        ks_mean_over_seeds(probes[k].by_seed, folds, probes[k].score);
}

ks_status ks_trained_run(ks_trained *out, const ks_trainer *trainer,
                         const ks_stack *stack, ks_trained_options *options,
                         ks_err *err) {
    const ks_folds *f = options->folds;
    int32_t *list = NULL, n = trainer->n_probes * f->n_seeds * f->n_folds;
    bool each = trainer->recipe->input == KS_INPUT_EACH;
    ks_status st = ks_trained_open(out, trainer->recipe, trainer->n_probes,
                                   trainer->n_inputs,
                                   each ? stack->layer : NULL, options, err);
    if (st != KS_OK) return st;
    KS_TRY(ks_alloc(&list, (size_t)n, sizeof *list, "fits", err));
    for (int32_t k = 0; k < n; k++) list[k] = k;
    KS_TRY(ks_trained_fit(out, trainer, list, n, NULL, NULL, options, err));
    ks_trained_finish(out, trainer->n_probes, f);
done:
    free(list);
    for (int32_t k = 0; st != KS_OK && k < trainer->n_probes; k++)
        ks_trained_free(&out[k]);
    return st;
}

void ks_trained_free(ks_trained *t) {
    free(t->by_seed);
    free(t->score);
    free(t->rate);
    free(t->epochs);
    free(t->param);
    free(t->mean);
    free(t->scale);
    *t = (ks_trained){0};
}
