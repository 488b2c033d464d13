/* refined_json.c - ks__refined_json of refined_write.h. */
#include "export_json.h"
#include "refined_write.h"

static json_t *where_of(ks_stream stream, ks_position position) {
    return json_pack("{s:s,s:s}", "stream", ks_stream_name(stream), "position",
                     ks_position_name(position));
}

static void put(json_t *object, const char *key, ks_interval v) {
    json_object_set_new(object, key, ks__json_interval(v));
}

static void put_number(json_t *object, const char *key, double v) {
    json_object_set_new(object, key, ks__json_number(v));
}

static json_t *directions(const ks_evaluation *r) {
    json_t *list = json_array();
    for (int32_t k = 0; k < r->grid.n_series; k++) {
        const ks_series *s = &r->grid.series[k];
        const ks_directions *d = &r->refined.directions[k];
        json_t *one = ks__json_where(s), *layers = json_array();
        json_object_set_new(one, "layer", json_integer(d->layer));
        put_number(one, "cosine_l2_mean_difference", d->l2_mean);
        put_number(one, "cosine_l2_lda", d->l2_lda);
        put_number(one, "cosine_mean_difference_lda", d->mean_lda);
        for (int32_t c = 0; c < s->n_cells; c++) {
            json_t *layer = json_pack("{s:i}", "layer", (int)s->cells[c].layer);
            put(layer, "mean_difference", d->accuracy[KS_MEAN_DIFFERENCE][c]);
            put(layer, "lda", d->accuracy[KS_LDA][c]);
            json_array_append_new(layers, layer);
        }
        json_object_set_new(one, "layers", layers);
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *sparse(const ks_evaluation *r) {
    json_t *list = json_array();
    for (int32_t k = 0; k < r->grid.n_series; k++) {
        const ks_sparse *s = &r->refined.sparse[k];
        json_t *one = ks__json_where(&r->grid.series[k]),
               *points = json_array();
        json_object_set_new(one, "layer", json_integer(s->layer));
        put(one, "balanced_accuracy", s->accuracy);
        put_number(one, "needed", s->needed);
        for (int32_t p = 0; p < KS_SPARSE_POINTS; p++) {
            const ks_sparse_point *point = &s->points[p];
            json_t *at = json_object();
            put_number(at, "lambda", point->lambda);
            put_number(at, "dimensions", point->dimensions);
            put(at, "balanced_accuracy", point->accuracy);
            put(at, "chosen_minus_this", point->chosen_minus_this);
            json_array_append_new(points, at);
        }
        json_object_set_new(one, "points", points);
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *attention(const ks_refined *f) {
    json_t *list = json_array();
    for (int32_t k = 0; k < f->n_attended; k++) {
        const ks_attended *a = &f->attended[k];
        json_t *one = where_of(a->stream, KS_TOKENS);
        json_object_set_new(one, "layer", json_integer(a->layer));
        put(one, "balanced_accuracy", a->accuracy);
        put(one, "mean_balanced_accuracy", a->mean);
        put(one, "minus_mean", a->less_mean);
        put_number(one, "entropy", a->entropy);
        put_number(one, "first", a->first);
        put_number(one, "last", a->last);
        put_number(one, "even", a->even);
        json_array_append_new(list, one);
    }
    return list;
}

static void put_figures(json_t *object, const ks_graded_figures *f) {
    put(object, "spearman", f->spearman);
    put(object, "within_spearman", f->within);
    put(object, "r2", f->r2);
}

static json_t *graded_series(const ks_graded *g, const ks_graded_series *s) {
    json_t *one = where_of(s->stream, s->position), *layers = json_array(),
           *best = json_object(), *baselines = json_array(),
           *chosen = json_array(), *bands = json_object();
    json_object_set_new(one, "score", json_string(g->name));
    json_object_set_new(one, "steps", json_integer(g->rows->n));
    for (int32_t l = 0; l < s->n_layers; l++) {
        json_t *layer = json_pack("{s:i}", "layer", (int)s->layer[l]);
        put_figures(layer, &s->layers[l]);
        json_array_append_new(layers, layer);
    }
    put_figures(best, &s->best);
    for (int32_t k = 0; k < g->n_fits; k++)
        json_array_append_new(chosen, json_integer(s->chosen[k]));
    json_object_set_new(best, "layers_by_fold", chosen);
    put(best, "surface_free", s->surface_free);
    put(bands, "removable_unlabelled", s->bands[0]);
    put(bands, "unlabelled_important", s->bands[1]);
    json_object_set_new(best, "bands", bands);
    for (int32_t b = 0; b < g->n_baselines; b++) {
        json_t *baseline = json_pack("{s:s,s:s}", "name", g->baselines[b].name,
                                     "note", g->baselines[b].note);
        put_figures(baseline, &g->baselines[b].figures);
        json_array_append_new(baselines, baseline);
    }
    json_object_set_new(one, "layers", layers);
    json_object_set_new(one, "best", best);
    json_object_set_new(one, "baselines", baselines);
    return one;
}

void ks__refined_json(const ks_evaluation *r, json_t *summary) {
    const ks_refined *f = &r->refined;
    json_t *all = json_array();
    if (f->directions)
        json_object_set_new(summary, "directions", directions(r));
    if (f->sparse) json_object_set_new(summary, "sparse", sparse(r));
    if (f->n_attended) json_object_set_new(summary, "attention", attention(f));
    for (int32_t k = 0; k < f->n_graded; k++)
        for (int32_t s = 0; s < f->graded[k].n_series; s++)
            json_array_append_new(
                all, graded_series(&f->graded[k], &f->graded[k].series[s]));
    if (f->n_graded)
        json_object_set_new(summary, "graded", all);
    else
        json_decref(all);
}
