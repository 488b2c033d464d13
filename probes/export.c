/* export.c - metrics.csv and summary.json; export_h5.c has probes.h5. */
#include "export.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "csv.h"

/* ---------------------------------------------------------------------- CSV */

typedef struct csv {
    const ks_evaluation *evaluation;
    const ks_acts_info *info; /* of the rows being written */
    const char *dataset;
    const char *split; /* NULL: "test" */
    ks_str *out;
    /* rows of one fold, numbered as in the data set */
    float *score;
    int8_t *y;
    int32_t *group, *chain;
} csv;

/* What stands in front of the numbers of a row. */
typedef struct place {
    const char *stream, *position, *probe;
    char layer[16];
} place;

static ks_status line(csv *c, const place *p, double strength, const char *seed,
                      const char *fold, int64_t n, const double *metrics,
                      ks_interval interval, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks__csv_field(c->out, c->dataset, err));
    KS_TRY(ks__csv_field(c->out, c->info ? c->info->model_name : "", err));
    KS_TRY(ks_str_printf(c->out, err, "%s,%s,%s,%s,", p->stream, p->position,
                         p->layer,
                         !c->info                ? ""
                         : c->info->context_none ? "none"
                                                 : "full"));
    KS_TRY(ks__csv_field(c->out, p->probe, err));
    if (isnan(strength))
        KS_TRY(ks_str_add(c->out, ",", 1, err));
    else
        KS_TRY(ks_str_printf(c->out, err, "%g,", strength));
    KS_TRY(ks_str_printf(c->out, err, "%s,%s,", seed, fold));
    KS_TRY(ks__csv_field(c->out, c->split ? c->split : "test", err));
    KS_TRY(ks_str_printf(c->out, err, "%lld,", (long long)n));
    for (int m = 0; m < KS_N_METRICS; m++)
        KS_TRY(ks__csv_number(c->out, metrics[m], false, err));
    KS_TRY(ks__csv_number(c->out, interval.low, false, err));
    KS_TRY(ks__csv_number(c->out, interval.high, true, err));
done:
    return st;
}

/* One row a fit: its held-out rows. by_seed [n_seeds, n]. */
static ks_status fit_lines(csv *c, const place *p, const float *by_seed,
                           const double *strength, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = c->evaluation->dataset;
    const ks_folds *folds = &c->evaluation->folds;
    const ks_interval none = {NAN, NAN, NAN};
    for (int32_t s = 0; s < folds->n_seeds; s++)
        for (int32_t f = 0; f < folds->n_folds; f++) {
            ks_scored rows = {.score = c->score,
                              .y = c->y,
                              .group = c->group,
                              .chain = c->chain,
                              .n_groups = d->n_groups,
                              .n_chains = d->n_chains};
            double metrics[KS_N_METRICS];
            char seed[24], fold[16];
            for (int64_t i = 0; i < d->n; i++) {
                if (folds->fold[s * d->n + i] != f) continue;
                c->score[rows.n] = by_seed[s * d->n + i];
                c->y[rows.n] = d->y[i];
                c->group[rows.n] = d->group[i];
                c->chain[rows.n++] = d->chain[i];
            }
            KS_TRY(ks_stats_metrics(&rows, metrics, err));
            snprintf(seed, sizeof seed, "%llu",
                     (unsigned long long)c->evaluation->options->grid.seed +
                         (unsigned)s);
            snprintf(fold, sizeof fold, "%d", f);
            KS_TRY(line(c, p, strength[s * folds->n_folds + f], seed, fold,
                        rows.n, metrics, none, err));
        }
done:
    return st;
}

static ks_status pooled_line(csv *c, const place *p,
                             const ks_interval metrics[KS_N_METRICS],
                             ks_err *err) {
    double values[KS_N_METRICS];
    for (int m = 0; m < KS_N_METRICS; m++) values[m] = metrics[m].value;
    return line(c, p, NAN, "all", "all", c->evaluation->dataset->n, values,
                metrics[KS_BALANCED_ACCURACY], err);
}

static ks_status series_lines(csv *c, const ks_series *s, const char *probe,
                              ks_err *err) {
    ks_status st = KS_OK;
    place p = {ks_stream_name(s->stream), ks_position_name(s->position), probe,
               "best"};
    for (int32_t i = 0; i < s->n_cells; i++) {
        const ks_cell *cell = &s->cells[i];
        snprintf(p.layer, sizeof p.layer, "%d", cell->layer);
        KS_TRY(fit_lines(c, &p, cell->nest.score, cell->nest.strength, err));
        KS_TRY(pooled_line(c, &p, cell->metrics, err));
    }
    snprintf(p.layer, sizeof p.layer, "best");
    KS_TRY(pooled_line(c, &p, s->metrics, err));
done:
    return st;
}

static ks_status baseline_lines(csv *c, ks_err *err) {
    ks_status st = KS_OK;
    c->info = NULL;
    for (int32_t b = 0; b < c->evaluation->baselines.n; b++) {
        const ks_baseline *base = &c->evaluation->baselines.at[b];
        place p = {"", "", base->name, ""};
        if (base->strength)
            KS_TRY(fit_lines(c, &p, base->by_seed, base->strength, err));
        KS_TRY(pooled_line(c, &p, base->metrics, err));
    }
done:
    return st;
}

static ks_status other_lines(csv *c, ks_err *err) {
    ks_status st = KS_OK;
    const ks_others *all = &c->evaluation->others;
    for (int32_t i = 0; i < all->n; i++) {
        const ks_other *o = &all->at[i];
        place p = {ks_stream_name(o->stream), ks_position_name(o->position),
                   o->probe, "several"};
        if (o->layer >= 0) snprintf(p.layer, sizeof p.layer, "%d", o->layer);
        KS_TRY(pooled_line(c, &p, o->metrics, err));
    }
done:
    return st;
}

/* A row a rung of the published protocol's ladder but the last, which is among
 * the other probes. */
static ks_status protocol_lines(csv *c, ks_err *err) {
    ks_status st = KS_OK;
    const ks_kinds *all = &c->evaluation->kinds;
    for (int32_t i = 0; i < all->n_protocols * KS_RUNG_HONEST; i++) {
        const ks_protocol *p = &all->protocols[i / KS_RUNG_HONEST];
        const ks_rung *r = &p->rungs[i % KS_RUNG_HONEST];
        double values[KS_N_METRICS] = {r->accuracy.value, r->balanced.value,
                                       NAN, NAN, NAN};
        char name[64];
        snprintf(name, sizeof name, "published %s", p->probe);
        place at = {ks_stream_name(p->stream), ks_position_name(p->position),
                    name, "several"};
        c->split = ks_rung_name(i % KS_RUNG_HONEST);
        KS_TRY(line(c, &at, NAN, "all", "all", r->n_eval, values, r->balanced,
                    err));
    }
    c->split = ks_rung_name(KS_RUNG_PUBLISHED);
    c->info = NULL;
    for (int32_t i = 0; i < c->evaluation->published_texts.n; i++) {
        const ks_published_text *t = &c->evaluation->published_texts.at[i];
        double values[KS_N_METRICS] = {t->rung.accuracy.value,
                                       t->rung.balanced.value, NAN, NAN, NAN};
        char name[80];
        snprintf(name, sizeof name, "published %s", t->name);
        place at = {"", "", name, ""};
        KS_TRY(line(c, &at, NAN, "all", "all", t->rung.n_eval, values,
                    t->rung.balanced, err));
    }
done:
    c->split = NULL;
    return st;
}

static ks_status permuted_lines(csv *c, ks_err *err) {
    ks_status st = KS_OK;
    const ks_evaluation *r = c->evaluation;
    c->info = r->dataset->info;
    for (int32_t k = 0; k < r->grid.n_series; k++) {
        const ks_series *s = &r->grid.series[k];
        place p = {ks_stream_name(s->stream), ks_position_name(s->position),
                   "permuted labels", ""};
        int32_t usual = ks_series_usual(s, r->folds.n_seeds * r->folds.n_folds);
        snprintf(p.layer, sizeof p.layer, "%d", s->cells[usual].layer);
        KS_TRY(pooled_line(c, &p, r->permuted + k * KS_N_METRICS, err));
    }
done:
    return st;
}

ks_status ks_export_csv(const ks_evaluation *r, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    const ks_evaluation_options *o = r->options;
    size_t n = (size_t)r->dataset->n;
    csv c = {.evaluation = r,
             .info = r->dataset->info,
             .out = out,
             .dataset = ks_evaluation_name(o)};
    KS_TRY(ks_alloc(&c.score, n, sizeof *c.score, "rows of a fold", err));
    KS_TRY(ks_alloc(&c.y, n, sizeof *c.y, "rows of a fold", err));
    KS_TRY(ks_alloc(&c.group, n, sizeof *c.group, "rows of a fold", err));
    KS_TRY(ks_alloc(&c.chain, n, sizeof *c.chain, "rows of a fold", err));
    KS_TRY(ks_str_printf(out, err, KS_METRICS_HEAD));
    for (int32_t k = 0; k < r->grid.n_series; k++)
        KS_TRY(series_lines(&c, &r->grid.series[k], "l2", err));
    KS_TRY(other_lines(&c, err));
    KS_TRY(protocol_lines(&c, err));
    KS_TRY(permuted_lines(&c, err));
    for (int32_t i = 0; i < r->n_rivals; i++) {
        c.info = ks_acts_get_info(r->rivals[i].file);
        for (int32_t k = 0; k < r->rivals[i].grid.n_series; k++)
            KS_TRY(series_lines(&c, &r->rivals[i].grid.series[k],
                                r->rivals[i].name, err));
    }
    KS_TRY(baseline_lines(&c, err));
done:
    free(c.score);
    free(c.y);
    free(c.group);
    free(c.chain);
    return st;
}
