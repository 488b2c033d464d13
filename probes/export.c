/* export.c - metrics.csv and summary.json; export_h5.c has probes.h5. */
#include "export.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------------- CSV */

typedef struct csv {
    const ks_report *report;
    const ks_acts_info *info; /* of the rows being written */
    const char *dataset;
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

/* RFC 4180: quoted where needed. */
static ks_status field(ks_str *out, const char *text, ks_err *err) {
    ks_status st = KS_OK;
    if (!strpbrk(text, ",\"\n\r")) return ks_str_printf(out, err, "%s,", text);
    KS_TRY(ks_str_add(out, "\"", 1, err));
    for (const char *p = text; *p; p++)
        KS_TRY(ks_str_printf(out, err, *p == '"' ? "\"\"" : "%c", *p));
    KS_TRY(ks_str_add(out, "\",", 2, err));
done:
    return st;
}

static ks_status number(ks_str *out, double v, bool last, ks_err *err) {
    if (isnan(v)) return ks_str_add(out, last ? "\n" : ",", 1, err);
    return ks_str_printf(out, err, "%.6f%s", v, last ? "\n" : ",");
}

static ks_status line(csv *c, const place *p, double strength, const char *seed,
                      const char *fold, int64_t n, const double *metrics,
                      ks_interval interval, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(field(c->out, c->dataset, err));
    KS_TRY(field(c->out, c->info ? c->info->model_name : "", err));
    KS_TRY(ks_str_printf(c->out, err, "%s,%s,%s,%s,", p->stream, p->position,
                         p->layer,
                         !c->info                ? ""
                         : c->info->context_none ? "none"
                                                 : "full"));
    KS_TRY(field(c->out, p->probe, err));
    if (isnan(strength))
        KS_TRY(ks_str_add(c->out, ",", 1, err));
    else
        KS_TRY(ks_str_printf(c->out, err, "%g,", strength));
    KS_TRY(ks_str_printf(c->out, err, "%s,%s,test,%lld,", seed, fold,
                         (long long)n));
    for (int m = 0; m < KS_N_METRICS; m++)
        KS_TRY(number(c->out, metrics[m], false, err));
    KS_TRY(number(c->out, interval.low, false, err));
    KS_TRY(number(c->out, interval.high, true, err));
done:
    return st;
}

/* One row a fit: its held-out rows. by_seed [n_seeds, n]. */
static ks_status fit_lines(csv *c, const place *p, const float *by_seed,
                           const double *strength, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = c->report->dataset;
    const ks_folds *folds = &c->report->folds;
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
                     (unsigned long long)c->report->options->grid.seed +
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
    return line(c, p, NAN, "all", "all", c->report->dataset->n, values,
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
    for (int32_t b = 0; b < c->report->baselines.n; b++) {
        const ks_baseline *base = &c->report->baselines.at[b];
        place p = {"", "", base->name, ""};
        if (base->strength)
            KS_TRY(fit_lines(c, &p, base->by_seed, base->strength, err));
        KS_TRY(pooled_line(c, &p, base->metrics, err));
    }
done:
    return st;
}

static ks_status permuted_lines(csv *c, ks_err *err) {
    ks_status st = KS_OK;
    const ks_report *r = c->report;
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

static const char *file_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

ks_status ks_export_csv(const ks_report *r, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    const ks_report_options *o = r->options;
    size_t n = (size_t)r->dataset->n;
    csv c = {.report = r,
             .info = r->dataset->info,
             .out = out,
             .dataset =
                 file_name(o->paths.labels ? o->paths.labels : o->paths.acts)};
    KS_TRY(ks_alloc(&c.score, n, sizeof *c.score, "rows of a fold", err));
    KS_TRY(ks_alloc(&c.y, n, sizeof *c.y, "rows of a fold", err));
    KS_TRY(ks_alloc(&c.group, n, sizeof *c.group, "rows of a fold", err));
    KS_TRY(ks_alloc(&c.chain, n, sizeof *c.chain, "rows of a fold", err));
    KS_TRY(ks_str_printf(out, err, KS_METRICS_HEAD));
    for (int32_t k = 0; k < r->grid.n_series; k++)
        KS_TRY(series_lines(&c, &r->grid.series[k], "l2", err));
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

/* --------------------------------------------------------------------- JSON */

static json_t *json_number(double v) {
    return isnan(v) ? json_null() : json_real(v);
}

static json_t *json_interval(ks_interval v) {
    json_t *object = json_object();
    json_object_set_new(object, "value", json_number(v.value));
    json_object_set_new(object, "low", json_number(v.low));
    json_object_set_new(object, "high", json_number(v.high));
    return object;
}

static json_t *json_metrics(const ks_interval metrics[KS_N_METRICS]) {
    json_t *object = json_object();
    for (int m = 0; m < KS_N_METRICS; m++)
        json_object_set_new(object, ks_metric_name((ks_metric)m),
                            json_interval(metrics[m]));
    return object;
}

static json_t *json_series(const ks_series *s, int32_t n_fits) {
    json_t *object = json_object(), *layers = json_array(),
           *chosen = json_array();
    json_object_set_new(object, "stream",
                        json_string(ks_stream_name(s->stream)));
    json_object_set_new(object, "position",
                        json_string(ks_position_name(s->position)));
    for (int32_t i = 0; i < s->n_cells; i++) {
        json_t *layer = json_metrics(s->cells[i].metrics);
        json_object_set_new(layer, "layer", json_integer(s->cells[i].layer));
        json_array_append_new(layers, layer);
    }
    for (int32_t i = 0; i < n_fits; i++)
        json_array_append_new(chosen,
                              json_integer(s->cells[s->chosen[i]].layer));
    json_object_set_new(object, "layers", layers);
    json_object_set_new(object, "best", json_metrics(s->metrics));
    json_object_set_new(object, "best_layer_by_fold", chosen);
    return object;
}

static json_t *json_grid(const ks_grid *g, int32_t n_fits) {
    json_t *list = json_array();
    for (int32_t k = 0; k < g->n_series; k++)
        json_array_append_new(list, json_series(&g->series[k], n_fits));
    return list;
}

static json_t *json_gain(const ks_report *r, const ks_interval *gain) {
    json_t *list = json_array();
    for (int32_t k = 0; k < r->grid.n_series; k++) {
        json_t *one = json_interval(gain[k]);
        json_object_set_new(
            one, "stream",
            json_string(ks_stream_name(r->grid.series[k].stream)));
        json_object_set_new(
            one, "position",
            json_string(ks_position_name(r->grid.series[k].position)));
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *json_rows(const ks_report *r) {
    const ks_dataset *d = r->dataset;
    return json_pack("{s:I,s:I,s:I,s:i,s:i,s:I,s:I,s:i,s:I}", "steps",
                     (json_int_t)d->n, "important", (json_int_t)d->n_important,
                     "removable", (json_int_t)d->n_removable, "chains",
                     (int)d->n_chains, "problems", (int)d->n_groups,
                     "unlabelled", (json_int_t)d->n_unlabelled, "invalid",
                     (json_int_t)d->n_invalid, "chains_without_labels",
                     (int)d->n_chains_unlabelled, "texts_in_two_folds",
                     (json_int_t)r->shared_texts);
}

static json_t *json_settings(const ks_report *r) {
    const ks_nest_options *nest = &r->options->grid.nest;
    json_t *strengths = json_array();
    for (int32_t i = 0; i < nest->n_strengths; i++)
        json_array_append_new(strengths, json_real(nest->strengths[i]));
    return json_pack("{s:i,s:i,s:i,s:I,s:i,s:o}", "folds",
                     (int)r->folds.n_folds, "inner_parts",
                     (int)r->folds.n_inner, "seeds", (int)r->folds.n_seeds,
                     "seed", (json_int_t)r->options->grid.seed, "bootstrap",
                     (int)r->options->grid.bootstrap, "strengths", strengths);
}

static json_t *json_strata(const ks_report *r) {
    json_t *list = json_array();
    for (int32_t s = 0; r->strata && s < r->dataset->n_strata; s++) {
        ks_interval row[KS_N_STREAMS * KS_N_POSITIONS];
        for (int32_t k = 0; k < r->grid.n_series; k++)
            row[k] =
                r->strata[s].metrics[k * KS_N_METRICS + KS_BALANCED_ACCURACY];
        json_array_append_new(
            list, json_pack("{s:s,s:I,s:I,s:o}", "value", r->dataset->strata[s],
                            "important", (json_int_t)r->strata[s].n_important,
                            "removable", (json_int_t)r->strata[s].n_removable,
                            "balanced_accuracy", json_gain(r, row)));
    }
    return list;
}

static json_t *json_baselines(const ks_report *r) {
    json_t *list = json_array();
    for (int32_t b = 0; b < r->baselines.n; b++) {
        const ks_baseline *base = &r->baselines.at[b];
        json_array_append_new(
            list, json_pack("{s:s,s:s,s:o,s:o}", "name", base->name, "note",
                            base->note, "metrics", json_metrics(base->metrics),
                            "best_layer_minus_this",
                            json_gain(r, r->gain + b * r->grid.n_series)));
    }
    return list;
}

static json_t *json_rivals(const ks_report *r, int32_t n_fits) {
    json_t *list = json_array();
    for (int32_t i = 0; i < r->n_rivals; i++)
        json_array_append_new(
            list, json_pack("{s:s,s:o,s:o}", "name", r->rivals[i].name,
                            "probes", json_grid(&r->rivals[i].grid, n_fits),
                            "best_layer_minus_this",
                            json_gain(r, r->rivals[i].gain)));
    return list;
}

ks_status ks_export_json(const ks_report *r, json_t **out, ks_err *err) {
    ks_status st = KS_OK;
    int32_t n_fits = r->folds.n_seeds * r->folds.n_folds;
    json_t *permuted = json_array();
    for (int32_t k = 0; k < r->grid.n_series; k++) {
        json_t *one = json_metrics(r->permuted + k * KS_N_METRICS);
        json_object_set_new(
            one, "position",
            json_string(ks_position_name(r->grid.series[k].position)));
        json_object_set_new(
            one, "stream",
            json_string(ks_stream_name(r->grid.series[k].stream)));
        json_array_append_new(permuted, one);
    }
    *out = json_pack(
        "{s:s,s:s,s:s,s:o,s:o,s:i,s:i,s:i,s:i,s:i,s:o,s:o,s:o,s:o,s:o}",
        "program", "keystep " KS_VERSION, "model", r->dataset->info->model_name,
        "model_sha256", r->dataset->info->model_sha256, "rows", json_rows(r),
        "settings", json_settings(r), "fits", (int)r->grid.columns,
        "most_passes", (int)r->grid.passes, "unconverged",
        (int)r->grid.unconverged, "other_fits", (int)r->other_fits,
        "other_unconverged", (int)r->other_unconverged, "probes",
        json_grid(&r->grid, n_fits), "permuted_labels", permuted, "baselines",
        json_baselines(r), "rivals", json_rivals(r, n_fits), "strata",
        json_strata(r));
    KS_CHECK(*out, KS_NOMEM, "out of memory for the summary");
done:
    return st;
}
