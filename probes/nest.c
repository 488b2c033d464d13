/* nest.c - see nest.h. */
#include "nest.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "holds.h"
#include "l2.h"
#include "n_threads.h"

static const double TOLERANCE = 1e-6;

void ks_nest_default_strengths(double strengths[KS_DEFAULT_STRENGTHS]) {
    for (int i = 0; i < KS_DEFAULT_STRENGTHS; i++)
        strengths[i] = pow(10, -4 + 5.0 * i / (KS_DEFAULT_STRENGTHS - 1));
}

uint32_t ks_nest_hold(int32_t n_folds, int32_t n_inner, int32_t f,
                      int32_t part) {
    uint32_t hold = 1u << f;
    for (int32_t k = 0; k + 1 < n_folds; k++)
        if (k * n_inner / (n_folds - 1) == part)
            hold |= 1u << ((f + 1 + k) % n_folds);
    return hold;
}

double ks_nest_loss(const float *margin, const int8_t *y, const uint8_t *fold,
                    int64_t n, uint32_t in) {
    double sum[2] = {0, 0}, count[2] = {0, 0};
    for (int64_t i = 0; i < n; i++) {
        if (!(in >> fold[i] & 1)) continue;
        double z = y[i] ? (double)-margin[i] : (double)margin[i];
        sum[y[i]] += z > 0 ? z + log1p(exp(-z)) : log1p(exp(z));
        count[y[i]]++;
    }
    double loss = 0;
    int classes = 0;
    for (int c = 0; c < 2; c++)
        if (count[c] > 0) {
            loss += sum[c] / count[c];
            classes++;
        }
    return classes ? loss / classes : NAN;
}

/* -------------------------------------------------------------- inner fits */

double ks_nest_tolerance(const ks_nest_options *o) {
    return o->tolerance > 0 ? o->tolerance : TOLERANCE;
}

int32_t ks_nest_columns(const ks_folds *f, const ks_nest_options *o) {
    ks_holds all;
    ks__holds_fill(&all, f, o->outer, false);
    return f->n_seeds *
           (all.n * o->n_strengths + ks__holds_n_asked(o->outer, f->n_folds));
}

/* The most columns that are solved together. */
static size_t most_columns(const ks_folds *f, const ks_nest_options *options) {
    ks_holds all;
    ks__holds_fill(&all, f, options->outer, false);
    return (size_t)KS_MAX(all.n * options->n_strengths,
                          f->n_seeds * f->n_folds);
}

typedef struct work {
    ks_l2 *l2;
    const ks_folds *folds;
    const ks_nest_options *options;
    const int8_t *const *y;
    ks_l2_column *columns;
    uint32_t extra; /* bit set of folds that never train */
    float *margin;
    double *raw; /* [n_fits, d + 1] */
    double *mean, *scale;
    ks_nest *out;
} work;

static ks_status solve(work *w, int32_t n, ks_err *err) {
    const ks_nest_options *o = w->options;
    ks_status st =
        ks_l2_fit(w->l2, w->columns, n, ks_nest_tolerance(o),
                  o->max_passes ? o->max_passes : KS_DEFAULT_PASSES, err);
    for (int32_t i = 0; st == KS_OK && i < n; i++) {
        w->out->columns++;
        w->out->passes = KS_MAX(w->out->passes, w->columns[i].passes);
        w->out->unconverged += !w->columns[i].converged;
    }
    return st;
}

/* Margins at the chosen strength, each row's by the fit that held its part
 * out; the test rows' are filled in by refit. */
static void keep_inner(work *w, ks_holds *all, int32_t fit, int32_t strength) {
    const ks_folds *f = w->folds;
    int32_t seed = fit / f->n_folds, k = fit % f->n_folds;
    const uint8_t *fold = f->fold + seed * f->n;
    float *out = w->out->inner + fit * f->n;
    for (int32_t part = 0; part < f->n_inner; part++) {
        uint32_t set = ks_nest_hold(f->n_folds, f->n_inner, k, part);
        int64_t column =
            ks__hold(all, set) * w->options->n_strengths + strength;
        for (int64_t i = 0; i < f->n; i++)
            if ((set & ~(1u << k)) >> fold[i] & 1)
                out[i] = w->margin[column * f->n + i];
    }
}

/* Chooses strength and loss of every outer fold of one seed. */
static ks_status choose(work *w, int32_t seed, ks_err *err) {
    ks_status st = KS_OK;
    const ks_folds *f = w->folds;
    int32_t n_strengths = w->options->n_strengths;
    ks_holds all;
    ks__holds_fill(&all, f, w->options->outer, false);
    int32_t n = all.n * n_strengths;
    for (int32_t i = 0; i < n; i++)
        w->columns[i] =
            (ks_l2_column){.design = seed,
                           .hold = all.set[i / n_strengths] | w->extra,
                           .strength = w->options->strengths[i % n_strengths],
                           .margin = w->margin + (int64_t)i * f->n};
    KS_TRY(solve(w, n, err));
    for (int32_t k = 0; k < f->n_folds; k++) {
        int32_t fit = seed * f->n_folds + k;
        int32_t best = 0;
        w->out->loss[fit] = INFINITY;
        if (!ks__holds_asked(w->options->outer, k)) continue;
        for (int32_t c = 0; c < n_strengths; c++) {
            double loss = ks__holds_loss(&all, f, seed, k, w->margin,
                                         n_strengths, c, w->y[seed]);
            if (loss < w->out->loss[fit]) {
                w->out->loss[fit] = loss;
                w->out->strength[fit] = w->options->strengths[c];
                best = c;
            }
        }
        if (w->out->inner) keep_inner(w, &all, fit, best);
        KS_CHECK(isfinite(w->out->loss[fit]), KS_NUMERIC,
                 "seed %d fold %d: no strength has a finite loss", seed, k);
    }
done:
    return st;
}

/* -------------------------------------------------------------- outer fits */

static ks_status refit(work *w, ks_err *err) {
    ks_status st = KS_OK;
    ks_nest *out = w->out;
    int64_t d = out->d, n = out->n;
    /* rows that never train are held out of every fit, so each has margins of
     * its own */
    int32_t n_columns = 0;
    for (int32_t i = 0; i < out->n_fits; i++)
        if (ks__holds_asked(w->options->outer, i % w->folds->n_folds))
            w->columns[n_columns++] =
                (ks_l2_column){.design = i / w->folds->n_folds,
                               .hold = 1u << (i % w->folds->n_folds) | w->extra,
                               .strength = out->strength[i],
                               .weight = w->raw ? w->raw + i * (d + 1) : NULL,
                               .mean = w->raw ? w->mean + i * d : NULL,
                               .scale = w->raw ? w->scale + i * d : NULL,
                               .margin = w->margin + i * n};
    KS_TRY(solve(w, n_columns, err));
    for (int32_t i = 0; i < out->n_fits; i++) {
        if (!ks__holds_asked(w->options->outer, i % w->folds->n_folds))
            continue;
        int32_t n_folds = w->folds->n_folds, seed = i / n_folds;
        const uint8_t *fold = w->folds->fold + seed * n;
        for (int64_t row = 0; row < n; row++) {
            if (fold[row] % n_folds != i % n_folds) continue;
            out->score[seed * n + row] = w->margin[i * n + row];
            if (out->inner) out->inner[i * n + row] = w->margin[i * n + row];
        }
    }
    for (int32_t i = 0, k = 0; i < out->n_fits; i++) {
        if (!ks__holds_asked(w->options->outer, i % w->folds->n_folds))
            continue;
        out->gradient[i] = w->columns[k].gradient;
        out->reads[i] = w->columns[k++].passes;
    }
    for (int32_t i = 0; w->raw && i < out->n_fits; i++) {
        if (!ks__holds_asked(w->options->outer, i % w->folds->n_folds))
            continue;
        const double *raw = w->raw + i * (d + 1);
        double bias = raw[d];
        for (int64_t j = 0; j < d; j++) {
            double mean = w->mean[i * d + j], scale = w->scale[i * d + j];
            out->weight[i * d + j] = (float)(raw[j] * scale);
            out->mean[i * d + j] = (float)mean;
            out->scale[i * d + j] = (float)scale;
            bias += raw[j] * mean;
        }
        out->bias[i] = (float)bias;
    }
done:
    return st;
}

ks_status ks_nest_alloc(ks_nest *out, int64_t n_features, const ks_folds *f,
                        const ks_nest_options *options, ks_err *err) {
    ks_status st = KS_OK;
    *out = (ks_nest){
        .n = f->n, .d = n_features, .n_fits = f->n_seeds * f->n_folds};
    size_t fits = (size_t)out->n_fits, d = (size_t)out->d;
    KS_TRY(ks_alloc(&out->score, (size_t)f->n_seeds * (size_t)out->n,
                    sizeof(float), "scores", err));
    KS_TRY(ks_alloc(&out->strength, fits, sizeof(double), "fits", err));
    KS_TRY(ks_alloc(&out->loss, fits, sizeof(double), "fits", err));
    KS_TRY(ks_alloc(&out->gradient, fits, sizeof(double), "fits", err));
    KS_TRY(ks_alloc(&out->reads, fits, sizeof(int32_t), "fits", err));
    if (options->keep_inner)
        KS_TRY(ks_alloc(&out->inner, fits * (size_t)out->n, sizeof(float),
                        "inner scores", err));
    if (!options->keep_weights) return KS_OK;
    KS_TRY(ks_alloc(&out->bias, fits, sizeof(float), "weights", err));
    KS_TRY(ks_alloc(&out->weight, fits * d, sizeof(float), "weights", err));
    KS_TRY(ks_alloc(&out->mean, fits * d, sizeof(float), "weights", err));
    KS_TRY(ks_alloc(&out->scale, fits * d, sizeof(float), "weights", err));
done:
    if (st != KS_OK) ks_nest_free(out);
    return st;
}

static ks_status alloc_work(work *w, int64_t n, int64_t d, ks_err *err) {
    ks_status st = KS_OK;
    size_t fits = (size_t)w->out->n_fits;
    size_t columns = most_columns(w->folds, w->options);
    KS_TRY(ks_alloc(&w->columns, columns, sizeof *w->columns, "columns", err));
    KS_TRY(ks_alloc(&w->margin, columns * (size_t)n, sizeof(float), "margins",
                    err));
    if (!w->options->keep_weights) return KS_OK;
    KS_TRY(ks_alloc(&w->raw, fits * ((size_t)d + 1), sizeof(double), "weights",
                    err));
    KS_TRY(
        ks_alloc(&w->mean, fits * (size_t)d, sizeof(double), "weights", err));
    KS_TRY(
        ks_alloc(&w->scale, fits * (size_t)d, sizeof(double), "weights", err));
done:
    return st;
}

static ks_status find_extra(work *w, ks_err *err) {
    const ks_folds *f = w->folds;
    int64_t total = f->n_seeds * f->n;
    for (int64_t i = 0; i < total; i++)
        if (f->fold[i] >= 2 * f->n_folds)
            return ks_fail(err, KS_USAGE, "a row of fold %d; there are %d",
                           f->fold[i], f->n_folds);
    for (int64_t i = 0; i < total; i++)
        if (f->fold[i] >= f->n_folds) {
            if (2 * f->n_folds > KS_L2_MAX_FOLDS)
                return ks_fail(err, KS_USAGE,
                               "rows that never train go with at most %d "
                               "folds, not %d",
                               KS_L2_MAX_FOLDS / 2, f->n_folds);
            w->extra |= 1u << f->fold[i];
        }
    return KS_OK;
}

ks_status ks_nest_fit_from(ks_nest *out, const ks_l2_source *source,
                           const int8_t *const *train_y, const ks_folds *folds,
                           const ks_nest_options *options, ks_err *err) {
    ks_status st = KS_OK;
    int64_t d = source->d;
    ks_l2_design designs[KS_MAX_SEEDS];
    work w = {.folds = folds, .options = options, .y = train_y, .out = out};
    *out = (ks_nest){0};
    KS_CHECK(folds->n_seeds >= 1 && folds->n_seeds <= KS_MAX_SEEDS &&
                 folds->n_folds >= 3 && folds->n_folds <= KS_L2_MAX_FOLDS &&
                 folds->n_inner >= 2 && folds->n_inner < folds->n_folds,
             KS_USAGE,
             "%d seeds, %d folds, %d inner parts: expected 1 to %d, "
             "3 to %d, and 2 to one less than the folds",
             folds->n_seeds, folds->n_folds, folds->n_inner, KS_MAX_SEEDS,
             KS_L2_MAX_FOLDS);
    KS_TRY(find_extra(&w, err));
    for (int32_t s = 0; s < folds->n_seeds; s++)
        designs[s] = (ks_l2_design){train_y[s], folds->fold + s * folds->n};
    KS_TRY(ks_nest_alloc(out, d, folds, options, err));
    KS_TRY(alloc_work(&w, folds->n, d, err));
    ks_l2_place place = {.ops = options->ops,
                         .dev = options->dev,
                         .threads = ks_threads(options->threads),
                         .scratch = options->scratch};
    KS_TRY(
        ks_l2_open_from(&w.l2, source, &place, designs, folds->n_seeds, err));
    for (int32_t s = 0; s < folds->n_seeds; s++) KS_TRY(choose(&w, s, err));
    KS_TRY(refit(&w, err));
done:
    ks_l2_close(&w.l2);
    free(w.columns);
    free(w.margin);
    free(w.raw);
    free(w.mean);
    free(w.scale);
    if (st != KS_OK) ks_nest_free(out);
    return st;
}

ks_status ks_nest_fit(ks_nest *out, const float *x, int64_t d,
                      const int8_t *const *train_y, const ks_folds *folds,
                      const ks_nest_options *options, ks_err *err) {
    ks_l2_source source = {.n = folds->n, .d = d, .type = KS_F32, .x = x};
    return ks_nest_fit_from(out, &source, train_y, folds, options, err);
}

size_t ks_nest_bytes(int64_t d, ks_type type, const ks_folds *folds,
                     const ks_nest_options *options, int threads,
                     bool scratch) {
    size_t columns = most_columns(folds, options), n = (size_t)folds->n;
    size_t fits = (size_t)folds->n_seeds * (size_t)folds->n_folds;
    ks_holds all;
    ks__holds_fill(&all, folds, options->outer, false);
    ks_l2_shape shape = {.n = folds->n,
                         .d = d,
                         .type = type,
                         .n_designs = folds->n_seeds,
                         .n_folds = KS_MIN(2 * folds->n_folds, KS_L2_MAX_FOLDS),
                         .n_columns = (int32_t)columns,
                         .n_splits = KS_MAX(all.n, (int32_t)fits)};
    return ks_l2_bytes(&shape, threads, scratch) +
           columns * (4 * n + sizeof(ks_l2_column)) +
           (options->keep_weights ? 24 * fits * ((size_t)d + 1) : 0);
}

size_t ks_nest_kept(int64_t d, const ks_folds *folds,
                    const ks_nest_options *options) {
    size_t n = (size_t)folds->n, seeds = (size_t)folds->n_seeds;
    size_t fits = seeds * (size_t)folds->n_folds;
    return 4 * seeds * n + 32 * fits +
           (options->keep_inner ? 4 * fits * n : 0) +
           (options->keep_weights ? 12 * fits * ((size_t)d + 1) : 0);
}

void ks_nest_drop(ks_nest *nest, const ks_nest_options *options) {
    float **const weights[] = {&nest->weight, &nest->bias, &nest->mean,
                               &nest->scale};
    for (size_t i = 0; !options->keep_weights && i < KS_COUNT(weights); i++) {
        free(*weights[i]);
        *weights[i] = NULL;
    }
    if (options->keep_inner) return;
    free(nest->inner);
    nest->inner = NULL;
}

void ks_nest_free(ks_nest *nest) {
    free(nest->score);
    free(nest->strength);
    free(nest->loss);
    free(nest->gradient);
    free(nest->reads);
    free(nest->inner);
    free(nest->weight);
    free(nest->bias);
    free(nest->mean);
    free(nest->scale);
    *nest = (ks_nest){0};
}

/* ------------------------------------------------------------------- choice */

void ks_nest_choose(const ks_nest *const *nests, int32_t n_nests,
                    int32_t *chosen) {
    for (int32_t i = 0; i < nests[0]->n_fits; i++) {
        chosen[i] = 0;
        for (int32_t k = 1; k < n_nests; k++)
            if (nests[k]->loss[i] < nests[chosen[i]]->loss[i]) chosen[i] = k;
    }
}

void ks_mean_over_seeds(const float *by_seed, const ks_folds *folds,
                        float *score) {
    for (int64_t i = 0; i < folds->n; i++) {
        double sum = 0;
        for (int32_t s = 0; s < folds->n_seeds; s++)
            sum += (double)by_seed[s * folds->n + i];
        score[i] = (float)(sum / folds->n_seeds);
    }
}

void ks_nest_mix(const ks_nest *const *nests, const int32_t *chosen,
                 const ks_folds *folds, float *score) {
    for (int64_t i = 0; i < folds->n; i++) {
        double sum = 0;
        for (int32_t s = 0; s < folds->n_seeds; s++) {
            int64_t at = s * folds->n + i;
            int32_t fit = s * folds->n_folds + folds->fold[at] % folds->n_folds;
            sum += (double)nests[chosen ? chosen[fit] : 0]->score[at];
        }
        score[i] = (float)(sum / folds->n_seeds);
    }
}
