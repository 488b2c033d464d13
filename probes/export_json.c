/* export_json.c - see export.h: summary.json. */
#include "export.h"

#include <math.h>

#include "export_json.h"
#include "published_write.h"
#include "refined_write.h"

json_t *ks__json_number(double v) {
    return isnan(v) ? json_null() : json_real(v);
}

json_t *ks__json_interval(ks_interval v) {
    json_t *object = json_object();
    json_object_set_new(object, "value", ks__json_number(v.value));
    json_object_set_new(object, "low", ks__json_number(v.low));
    json_object_set_new(object, "high", ks__json_number(v.high));
    return object;
}

static json_t *json_metrics(const ks_interval metrics[KS_N_METRICS]) {
    json_t *object = json_object();
    for (int m = 0; m < KS_N_METRICS; m++)
        json_object_set_new(object, ks_metric_name((ks_metric)m),
                            ks__json_interval(metrics[m]));
    return object;
}

static void add_where(json_t *object, const ks_series *s) {
    json_object_set_new(object, "stream",
                        json_string(ks_stream_name(s->stream)));
    json_object_set_new(object, "position",
                        json_string(ks_position_name(s->position)));
}

json_t *ks__json_where(const ks_series *series) {
    json_t *object = json_object();
    add_where(object, series);
    return object;
}

static void json_p(json_t *object, double p, double p_holm) {
    json_object_set_new(object, "p", ks__json_number(p));
    json_object_set_new(object, "p_holm", ks__json_number(p_holm));
}

static json_t *json_calibration(const ks_calibration *c) {
    json_t *bins = json_array();
    for (int32_t k = 0; k < c->n_bins; k++)
        json_array_append_new(
            bins, json_pack("{s:I,s:f,s:o}", "n", (json_int_t)c->bin[k].n,
                            "predicted", c->bin[k].predicted, "observed",
                            ks__json_interval(c->bin[k].observed)));
    return json_pack("{s:o,s:o}", "bins", bins, "ece",
                     ks__json_interval(c->error));
}

static json_t *json_series(const ks_series *s, int32_t n_fits) {
    json_t *object = json_object(), *layers = json_array(),
           *chosen = json_array();
    add_where(object, s);
    for (int32_t i = 0; i < s->n_cells; i++) {
        json_t *layer = json_metrics(s->cells[i].metrics);
        json_object_set_new(layer, "layer", json_integer(s->cells[i].layer));
        json_p(layer, s->cells[i].p, s->cells[i].p_holm);
        json_array_append_new(layers, layer);
    }
    for (int32_t i = 0; i < n_fits; i++)
        json_array_append_new(chosen,
                              json_integer(s->cells[s->chosen[i]].layer));
    json_object_set_new(object, "layers", layers);
    json_t *best = json_metrics(s->metrics);
    json_p(best, s->p, s->p_holm);
    json_object_set_new(best, "calibration", json_calibration(&s->calibration));
    json_object_set_new(object, "best", best);
    json_object_set_new(object, "best_layer_by_fold", chosen);
    return object;
}

static json_t *json_grid(const ks_grid *g, int32_t n_fits) {
    json_t *list = json_array();
    for (int32_t k = 0; k < g->n_series; k++)
        json_array_append_new(list, json_series(&g->series[k], n_fits));
    return list;
}

/* One figure a series. */
static json_t *json_by_series(const ks_evaluation *r, const ks_interval *of) {
    json_t *list = json_array();
    for (int32_t k = 0; k < r->grid.n_series; k++) {
        json_t *one = ks__json_interval(of[k]);
        add_where(one, &r->grid.series[k]);
        json_array_append_new(list, one);
    }
    return list;
}

/* Of baseline i, or behind them of a rival. */
static json_t *json_gain(const ks_evaluation *r, int32_t i) {
    json_t *list = json_array();
    for (int32_t k = 0; k < r->grid.n_series; k++) {
        const ks_gain *gain = ks__evaluation_gain(r, i, k);
        json_t *one = ks__json_interval(gain->points);
        json_p(one, gain->p, gain->p_holm);
        add_where(one, &r->grid.series[k]);
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *json_rows(const ks_evaluation *r) {
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

static json_t *json_settings(const ks_evaluation *r) {
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

static json_t *json_strata(const ks_evaluation *r) {
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
                            "balanced_accuracy", json_by_series(r, row)));
    }
    return list;
}

static json_t *json_baselines(const ks_evaluation *r) {
    json_t *list = json_array();
    for (int32_t b = 0; b < r->baselines.n; b++) {
        const ks_baseline *base = &r->baselines.at[b];
        json_array_append_new(
            list, json_pack("{s:s,s:s,s:o,s:o}", "name", base->name, "note",
                            base->note, "metrics", json_metrics(base->metrics),
                            "best_layer_minus_this", json_gain(r, b)));
    }
    return list;
}

static json_t *json_others(const ks_others *others) {
    json_t *list = json_array();
    for (int32_t i = 0; i < others->n; i++) {
        const ks_other *o = &others->at[i];
        json_array_append_new(
            list,
            json_pack("{s:s,s:s,s:s,s:o,s:s,s:o,s:o}", "probe", o->probe,
                      "stream", ks_stream_name(o->stream), "position",
                      ks_position_name(o->position), "layer",
                      o->layer < 0 ? json_null() : json_integer(o->layer),
                      "note", o->note, "metrics", json_metrics(o->metrics),
                      "minus_best_l2", ks__json_interval(o->minus_best)));
    }
    return list;
}

static json_t *json_rivals(const ks_evaluation *r, int32_t n_fits) {
    json_t *list = json_array();
    for (int32_t i = 0; i < r->n_rivals; i++)
        json_array_append_new(
            list, json_pack("{s:s,s:o,s:o}", "name", r->rivals[i].name,
                            "probes", json_grid(&r->rivals[i].grid, n_fits),
                            "best_layer_minus_this",
                            json_gain(r, r->baselines.n + i)));
    return list;
}

static json_t *json_claims(const ks_claims *claims) {
    static const char *const units[] = {"percent", "points", "number"};
    json_t *list = json_array();
    for (int32_t i = 0; i < claims->n; i++) {
        const ks_claim *c = &claims->at[i];
        json_array_append_new(
            list,
            json_pack("{s:s,s:s,s:s,s:s,s:s,s:o,s:o,s:s}", "id", c->id,
                      "question", c->question, "rule", c->rule, "note", c->what,
                      "unit", units[c->unit], "figure",
                      ks__json_interval(c->figure), "p", ks__json_number(c->p),
                      "verdict", ks_verdict_name(c->verdict)));
    }
    return list;
}

ks_status ks_export_json(const ks_evaluation *r, json_t **out, ks_err *err) {
    ks_status st = KS_OK;
    int32_t n_fits = r->folds.n_seeds * r->folds.n_folds;
    json_t *permuted = json_array();
    for (int32_t k = 0; k < r->grid.n_series; k++) {
        json_t *one = json_metrics(r->permuted + k * KS_N_METRICS);
        add_where(one, &r->grid.series[k]);
        json_array_append_new(permuted, one);
    }
    const ks_evaluation_options *o = r->options;
    *out = json_pack(
        "{s:s,s:i,s:s,s:s,s:s,s:s,s:s,s:s,s:o,s:o,s:i,s:i,s:i,s:i,s:i}",
        "format", "keystep summary", "format_version", 1, "program",
        "keystep " KS_VERSION, "dataset", ks_evaluation_name(o), "model",
        r->dataset->info->model_name, "model_sha256",
        r->dataset->info->model_sha256, "context",
        r->dataset->info->context_none ? "none" : "full", "protocol", "honest",
        "rows", json_rows(r), "settings", json_settings(r), "fits",
        (int)r->grid.columns, "most_passes", (int)r->grid.passes, "unconverged",
        (int)r->grid.unconverged, "other_fits", (int)r->other_fits,
        "other_unconverged", (int)r->other_unconverged);
    KS_CHECK(*out, KS_NOMEM, "out of memory for the summary");
    json_object_set_new(*out, "probes", json_grid(&r->grid, n_fits));
    json_object_set_new(*out, "permuted_labels", permuted);
    json_object_set_new(*out, "baselines", json_baselines(r));
    json_object_set_new(*out, "rivals", json_rivals(r, n_fits));
    json_object_set_new(*out, "protocols", ks__protocols_json(&r->kinds));
    json_object_set_new(*out, "published_texts",
                        ks__published_texts_json(&r->published_texts));
    json_object_set_new(*out, "other_probes", json_others(&r->others));
    json_object_set_new(*out, "strata", json_strata(r));
    json_object_set_new(*out, "analyses", ks__json_analyses(r));
    ks__refined_json(r, *out);
    json_object_set_new(*out, "claims", json_claims(&r->claims));
done:
    return st;
}
