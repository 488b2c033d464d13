/* export_analyses.c - the analyses (analyses.h) of summary.json. */
#include "export_json.h"

static json_t *refinement(const ks_evaluation *r) {
    json_t *list = json_array();
    for (int32_t k = 0; k < r->grid.n_series; k++) {
        const ks_refinement *f = &r->analyses.refinement[k];
        const ks_series *s = &r->grid.series[k];
        json_t *one = ks__json_where(s), *layers = json_array();
        for (int32_t c = 0; c < s->n_cells; c++)
            json_array_append_new(
                layers,
                json_pack("{s:i,s:o,s:o}", "layer", (int)s->cells[c].layer,
                          "agreement", ks__json_interval(f->agreement[c]),
                          "correlation", ks__json_interval(f->correlation[c])));
        json_object_set_new(one, "layers", layers);
        json_object_set_new(one, "trend", ks__json_interval(f->trend));
        json_object_set_new(one, "near_best", ks__json_interval(f->near_best));
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *layer_transfer(const ks_evaluation *r) {
    json_t *list = json_array();
    for (int32_t k = 0; k < r->grid.n_series; k++) {
        const ks_series *s = &r->grid.series[k];
        const double *at = r->analyses.layer_transfer[k].accuracy;
        json_t *one = ks__json_where(s), *layers = json_array(),
               *matrix = json_array();
        for (int32_t c = 0; c < s->n_cells; c++) {
            json_t *row = json_array();
            for (int32_t i = 0; i < s->n_cells; i++)
                json_array_append_new(row,
                                      ks__json_number(at[c * s->n_cells + i]));
            json_array_append_new(matrix, row);
            json_array_append_new(layers, json_integer(s->cells[c].layer));
        }
        json_object_set_new(one, "layers", layers);
        json_object_set_new(one, "balanced_accuracy", matrix);
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *chosen_layers(const ks_series *s, const ks_layers_needed *needed,
                             int32_t size) {
    json_t *folds = json_array();
    int32_t n_fits = s->cells[0].nest.n_fits;
    for (int32_t fit = 0; fit < n_fits; fit++) {
        const int32_t *chosen =
            needed->chosen + (size * n_fits + fit) * KS_MOST_NEEDED;
        json_t *layers = json_array();
        for (int32_t j = 0; j < KS_MOST_NEEDED && chosen[j] >= 0; j++)
            json_array_append_new(layers,
                                  json_integer(s->cells[chosen[j]].layer));
        json_array_append_new(folds, layers);
    }
    return folds;
}

static json_t *layers_needed(const ks_evaluation *r) {
    json_t *list = json_array();
    for (int32_t k = 0; k < r->grid.n_series; k++) {
        const ks_series *s = &r->grid.series[k];
        const ks_layers_needed *needed = &r->analyses.layers_needed[k];
        json_t *one = ks__json_where(s), *sizes = json_array();
        for (int32_t i = 0; i < needed->n_sizes; i++)
            json_array_append_new(
                sizes,
                json_pack("{s:i,s:o,s:o,s:o}", "n", (int)needed->size[i],
                          "layers_by_fold",
                          i + 1 < needed->n_sizes ? chosen_layers(s, needed, i)
                                                  : json_null(),
                          "balanced_accuracy",
                          ks__json_interval(needed->accuracy[i]), "minus_all",
                          ks__json_interval(needed->minus_all[i])));
        json_object_set_new(one, "sizes", sizes);
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *selectivity(const ks_evaluation *r) {
    json_t *list = json_array();
    for (int32_t k = 0; k < r->grid.n_series; k++) {
        const ks_selectivity *s = &r->analyses.selectivity[k];
        json_t *one = ks__json_where(&r->grid.series[k]);
        json_object_set_new(one, "layer", json_integer(s->layer));
        json_object_set_new(one, "real", ks__json_interval(s->real));
        json_object_set_new(one, "control", ks__json_interval(s->control));
        json_object_set_new(one, "selectivity",
                            ks__json_interval(s->selectivity));
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *learning_curve(const ks_evaluation *r) {
    json_t *list = json_array();
    for (int32_t k = 0; k < r->grid.n_series; k++) {
        const ks_learning_curve *c = &r->analyses.learning_curve[k];
        json_t *one = ks__json_where(&r->grid.series[k]),
               *points = json_array();
        for (int32_t i = 0; i < c->n_points; i++)
            json_array_append_new(points,
                                  json_pack("{s:f,s:o}", "problems",
                                            c->problems[i], "balanced_accuracy",
                                            ks__json_interval(c->accuracy[i])));
        json_object_set_new(one, "layer", json_integer(c->layer));
        json_object_set_new(one, "points", points);
        json_array_append_new(list, one);
    }
    return list;
}

json_t *ks__json_analyses(const ks_evaluation *r) {
    const ks_analyses *a = &r->analyses;
    json_t *all = json_object();
    if (a->refinement) json_object_set_new(all, "agreement", refinement(r));
    if (a->layer_transfer)
        json_object_set_new(all, "layer_transfer", layer_transfer(r));
    if (a->layers_needed)
        json_object_set_new(all, "layers_needed", layers_needed(r));
    if (a->selectivity) json_object_set_new(all, "selectivity", selectivity(r));
    if (a->learning_curve)
        json_object_set_new(all, "learning_curve", learning_curve(r));
    if (r->independence.n_features)
        json_object_set_new(all, "surface",
                            ks_independence_json(&r->independence, &r->grid));
    return all;
}
