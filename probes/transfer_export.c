/* transfer_export.c - transfer.csv and transfer.json; see transfer.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "csv.h"
#include "export_json.h"
#include "transfer.h"

/* --------------------------------------------------------------------- JSON */

/* Which of a cell's figures a matrix has. */
typedef ks_interval (*figure_fn)(const void *cell);

/* size: of a cell; there: its first member says whether it is filled. */
static json_t *matrix(const void *cells, size_t size, int32_t n, figure_fn of) {
    json_t *rows = json_array();
    for (int32_t i = 0; i < n; i++) {
        json_t *row = json_array();
        for (int32_t j = 0; j < n; j++) {
            const char *cell = (const char *)cells + (size_t)(i * n + j) * size;
            json_array_append_new(row, *(const bool *)cell
                                           ? ks__json_interval(of(cell))
                                           : json_null());
        }
        json_array_append_new(rows, row);
    }
    return rows;
}

#define FIGURE(type, name, expression)                                         \
    static ks_interval name(const void *p) {                                   \
        const type *c = p;                                                     \
        return expression;                                                     \
    }
FIGURE(ks_transfer_cell, balanced, c->metrics[KS_BALANCED_ACCURACY])
FIGURE(ks_transfer_cell, accuracy, c->metrics[KS_ACCURACY])
FIGURE(ks_transfer_cell, auc, c->metrics[KS_AUC])
FIGURE(ks_transfer_cell, within_auc, c->metrics[KS_WITHIN_AUC])
FIGURE(ks_transfer_cell, minus_self, c->minus_self)
FIGURE(ks_transfer_cell, agreement, c->agreement)
FIGURE(ks_transfer_cell, against_cross, c->against_cross)
FIGURE(ks_transfer_cell, kappa, c->kappa)
FIGURE(ks_transfer_cell, same, c->same)
FIGURE(ks_transfer_task, task_balanced, c->metrics[KS_BALANCED_ACCURACY])
FIGURE(ks_transfer_task, task_accuracy, c->metrics[KS_ACCURACY])
FIGURE(ks_transfer_task, task_auc, c->metrics[KS_AUC])
FIGURE(ks_transfer_task, task_within_auc, c->metrics[KS_WITHIN_AUC])
FIGURE(ks_transfer_task, minus_within, c->minus_within)

/* Of each cell the p values, and those of its difference: `minus` and "_p". */
static void add_p(json_t *object, const char *minus, const void *cells,
                  size_t size, int32_t n,
                  const ks_transfer_p *(*of)(const void *)) {
    json_t *lists[] = {json_array(), json_array(), json_array(), json_array()};
    char name[64];
    for (int32_t i = 0; i < n; i++)
        for (int k = 0; k < 4; k++) {
            json_t *row = json_array();
            for (int32_t j = 0; j < n; j++) {
                const char *cell =
                    (const char *)cells + (size_t)(i * n + j) * size;
                const ks_transfer_p *p = of(cell);
                const double values[] = {p->p, p->p_holm, p->minus,
                                         p->minus_holm};
                json_array_append_new(row, *(const bool *)cell
                                               ? ks__json_number(values[k])
                                               : json_null());
            }
            json_array_append_new(lists[k], row);
        }
    for (int k = 0; k < 4; k++) {
        snprintf(name, sizeof name, "%s%sp%s", k < 2 ? "" : minus,
                 k < 2 ? "" : "_", k % 2 ? "_holm" : "");
        json_object_set_new(object, name, lists[k]);
    }
}

static const ks_transfer_p *cell_p(const void *cell) {
    return &((const ks_transfer_cell *)cell)->p;
}

static const ks_transfer_p *task_p(const void *cell) {
    return &((const ks_transfer_task *)cell)->p;
}

static json_t *names_of(const ks_transfer *t, const int32_t *set, int32_t n) {
    json_t *names = json_array();
    for (int32_t k = 0; k < n; k++)
        json_array_append_new(names, json_string(t->sets[set[k]].source->name));
    return names;
}

static json_t *integers(const int32_t *list, int32_t n) {
    json_t *out = json_array();
    for (int32_t i = 0; i < n; i++)
        json_array_append_new(out, json_integer(list[i]));
    return out;
}

static json_t *reals(const double *list, int32_t n) {
    json_t *out = json_array();
    for (int32_t i = 0; i < n; i++)
        json_array_append_new(out, json_real(list[i]));
    return out;
}

static json_t *sets_json(const ks_transfer *t) {
    json_t *list = json_array();
    for (int32_t k = 0; k < t->n_sets; k++) {
        const ks_transfer_set *s = &t->sets[k];
        const ks_dataset *d = s->dataset;
        json_array_append_new(
            list, json_pack("{s:s,s:s,s:s,s:s,s:b,s:b,s:I,s:I,s:i,s:i}", "name",
                            s->source->name, "model", s->info->model_name,
                            "model_sha256", s->info->model_sha256, "context",
                            s->info->context_none ? "none" : "full",
                            "random_weights", (int)s->control, "labelled",
                            d != NULL, "steps", (json_int_t)(d ? d->n : 0),
                            "important", (json_int_t)(d ? d->n_important : 0),
                            "chains", d ? (int)d->n_chains : 0, "problems",
                            d ? (int)d->n_groups : 0));
    }
    return list;
}

static json_t *map_json(const ks_transfer *t, const ks_transfer_rows *r,
                        int32_t cell_at, const ks_transfer_cell *c, int kind) {
    const ks_transfer_map *m = &c->maps[kind];
    int32_t fits = r->folds.n_seeds * r->folds.n_folds;
    int32_t self = cell_at / r->n_sets, cross = cell_at % r->n_sets;
    json_t *one = json_pack(
        "{s:s,s:s,s:s,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "probe_of",
        t->sets[r->set[self]].source->name, "activations_of",
        t->sets[r->set[cross]].source->name, "map",
        ks_map_name((ks_map_kind)kind), "balanced_accuracy",
        ks__json_interval(m->metrics[KS_BALANCED_ACCURACY]), "accuracy",
        ks__json_interval(m->metrics[KS_ACCURACY]), "auc",
        ks__json_interval(m->metrics[KS_AUC]), "minus_own",
        ks__json_interval(m->minus_own), "on_labels_of_activations",
        ks__json_interval(m->against_cross), "agreement",
        ks__json_interval(m->agreement), "r2", ks__json_interval(m->r2),
        "from_layer_by_fold", integers(c->from_layer, fits), "strength_by_fold",
        kind == KS_MAP_RIDGE ? reals(c->strength, fits) : json_null());
    json_object_set_new(one, "p", ks__json_number(m->p.p));
    json_object_set_new(one, "p_holm", ks__json_number(m->p.p_holm));
    json_object_set_new(one, "minus_own_p", ks__json_number(m->p.minus));
    json_object_set_new(one, "minus_own_p_holm",
                        ks__json_number(m->p.minus_holm));
    return one;
}

/* What the report draws as a heat map: own probes, carried over. */
static json_t *carried(const ks_transfer_models *m, int kind) {
    int32_t n = m->rows->n_sets;
    json_t *rows = json_array();
    for (int32_t i = 0; i < n; i++) {
        json_t *row = json_array();
        for (int32_t j = 0; j < n; j++) {
            const ks_transfer_cell *c = &m->cells[i * n + j];
            json_array_append_new(
                row, i == j && c->there ? ks__json_interval(balanced(c))
                     : c->maps[kind].there
                         ? ks__json_interval(
                               c->maps[kind].metrics[KS_BALANCED_ACCURACY])
                         : json_null());
        }
        json_array_append_new(rows, row);
    }
    return rows;
}

static json_t *layers_json(const ks_transfer_models *m) {
    int32_t n = m->rows->n_sets;
    int32_t fits = m->rows->folds.n_seeds * m->rows->folds.n_folds;
    json_t *rows = json_array();
    for (int32_t i = 0; i < n; i++) {
        json_t *row = json_array();
        for (int32_t j = 0; j < n; j++) {
            const ks_transfer_cell *c = &m->cells[i * n + j];
            json_array_append_new(row, c->there ? integers(c->layer, fits)
                                                : json_null());
        }
        json_array_append_new(rows, row);
    }
    return rows;
}

static json_t *models_json(const ks_transfer *t, const ks_transfer_models *m) {
    const ks_transfer_rows *r = m->rows;
    int32_t n = r->n_sets;
    size_t size = sizeof *m->cells;
    json_t *maps = json_array(), *controls = json_array();
    for (int32_t i = 0; i < n * n; i++)
        for (int k = 0; k < KS_N_MAPS; k++)
            if (m->cells[i].maps[k].there)
                json_array_append_new(maps, map_json(t, r, i, &m->cells[i], k));
    for (int32_t k = 0; k < n; k++)
        json_array_append_new(controls,
                              json_boolean(t->sets[r->set[k]].control));
    json_t *one = json_pack(
        "{s:s,s:s,s:o,s:o,s:I,s:i,s:i,s:I}", "stream",
        ks_stream_name(m->stream), "position", ks_position_name(m->position),
        "names", names_of(t, r->set, n), "random_weights", controls, "steps",
        (json_int_t)r->view.n, "chains", (int)r->view.n_chains, "problems",
        (int)r->view.n_groups, "map_steps", (json_int_t)r->n_all);
    if (!one) return NULL;
    static const struct {
        const char *name;
        figure_fn of;
    } figures[] = {{"balanced_accuracy", balanced},
                   {"accuracy", accuracy},
                   {"auc", auc},
                   {"within_chain_auc", within_auc},
                   {"minus_self", minus_self},
                   {"agreement", agreement},
                   {"on_labels_of", against_cross},
                   {"label_kappa", kappa},
                   {"label_agreement", same}};
    for (size_t i = 0; i < KS_COUNT(figures); i++)
        json_object_set_new(one, figures[i].name,
                            matrix(m->cells, size, n, figures[i].of));
    add_p(one, "minus_self", m->cells, size, n, cell_p);
    json_object_set_new(one, "best_layer_by_fold", layers_json(m));
    json_object_set_new(one, "carried_by_ridge", carried(m, KS_MAP_RIDGE));
    json_object_set_new(one, "carried_by_procrustes",
                        carried(m, KS_MAP_PROCRUSTES));
    json_object_set_new(one, "maps", maps);
    return one;
}

static json_t *tasks_json(const ks_transfer *t, const ks_transfer_tasks *m) {
    int32_t n = m->n_sets;
    size_t size = sizeof *m->cells;
    json_t *fits = json_array();
    for (int32_t i = 0; i < n * n; i++) {
        const ks_transfer_task *c = &m->cells[i];
        if (i / n == i % n) continue;
        json_array_append_new(
            fits, json_pack("{s:s,s:s,s:i,s:f,s:I,s:O}", "trained_on",
                            t->sets[m->set[i / n]].source->name, "tested_on",
                            t->sets[m->set[i % n]].source->name, "layer",
                            (int)c->layer, "strength", c->strength, "steps",
                            (json_int_t)c->n_train, "problems_left_out",
                            c->left_out));
    }
    json_t *one = json_pack(
        "{s:s,s:s,s:s,s:o}", "stream", ks_stream_name(m->stream), "position",
        ks_position_name(m->position), "model",
        t->sets[m->set[0]].info->model_name, "names", names_of(t, m->set, n));
    if (!one) return NULL;
    static const struct {
        const char *name;
        figure_fn of;
    } figures[] = {{"balanced_accuracy", task_balanced},
                   {"accuracy", task_accuracy},
                   {"auc", task_auc},
                   {"within_chain_auc", task_within_auc},
                   {"minus_within", minus_within}};
    for (size_t i = 0; i < KS_COUNT(figures); i++)
        json_object_set_new(one, figures[i].name,
                            matrix(m->cells, size, n, figures[i].of));
    add_p(one, "minus_within", m->cells, size, n, task_p);
    json_object_set_new(one, "fits", fits);
    return one;
}

static json_t *settings_json(const ks_transfer_options *o) {
    return json_pack(
        "{s:i,s:i,s:i,s:I,s:i,s:o,s:o}", "folds", (int)o->n_folds,
        "inner_parts", (int)o->n_inner, "seeds", (int)o->n_seeds, "seed",
        (json_int_t)o->grid.seed, "bootstrap", (int)o->grid.bootstrap,
        "strengths", reals(o->grid.nest.strengths, o->grid.nest.n_strengths),
        "map_strengths", reals(ks_map_strengths, KS_N_MAP_STRENGTHS));
}

ks_status ks_transfer_json(const ks_transfer *t, json_t **out, ks_err *err) {
    ks_status st = KS_OK;
    json_t *models = json_array(), *tasks = json_array();
    for (int32_t i = 0; i < t->n_models; i++)
        json_array_append_new(models, models_json(t, &t->models[i]));
    for (int32_t i = 0; i < t->n_tasks; i++)
        json_array_append_new(tasks, tasks_json(t, &t->tasks[i]));
    *out = json_pack("{s:s,s:i,s:s,s:o,s:i,s:i,s:o,s:o,s:o}", "format",
                     "keystep transfer", "format_version", 1, "program",
                     "keystep " KS_VERSION, "settings",
                     settings_json(t->options), "fits", (int)t->fits,
                     "unconverged", (int)t->unconverged, "sets", sets_json(t),
                     "across_models", models, "across_tasks", tasks);
    KS_CHECK(*out, KS_NOMEM, "out of memory for transfer.json");
done:
    return st;
}

/* ---------------------------------------------------------------------- CSV */

/* What stands in front of the figures of a line: the sets whose labels and
 * activations a probe was trained on, and those that it was scored on. */
typedef struct line {
    ks_str *out;
    const char *part, *stream, *position;
    const char *sets[4], *map;
    int64_t n;
} line;

enum { TRAIN_Y, TRAIN_X, TEST_Y, TEST_X };

static void set_sets(line *l, const char *train_y, const char *train_x,
                     const char *test_y, const char *test_x) {
    l->sets[TRAIN_Y] = train_y;
    l->sets[TRAIN_X] = train_x;
    l->sets[TEST_Y] = test_y;
    l->sets[TEST_X] = test_x;
}

static ks_status put_p(const line *l, const char *figure, ks_interval v,
                       double p, double p_holm, ks_err *err) {
    ks_status st = KS_OK;
    const double values[] = {v.value, v.low, v.high, p, p_holm};
    if (isnan(v.value)) return KS_OK;
    KS_TRY(ks_str_printf(l->out, err, "%s,%s,%s,", l->part, l->stream,
                         l->position));
    for (int i = 0; i < 4; i++) KS_TRY(ks__csv_field(l->out, l->sets[i], err));
    KS_TRY(ks_str_printf(l->out, err, "%s,%s,%lld,", l->map, figure,
                         (long long)l->n));
    for (int i = 0; i < 5; i++)
        KS_TRY(ks__csv_number(l->out, values[i], i == 4, err));
done:
    return st;
}

static ks_status put(const line *l, const char *figure, ks_interval v,
                     ks_err *err) {
    return put_p(l, figure, v, NAN, NAN, err);
}

/* p values stand beside balanced accuracy. */
static ks_status put_metrics(const line *l, const ks_interval *metrics,
                             const ks_transfer_p *p, ks_err *err) {
    ks_status st = KS_OK;
    for (int m = 0; m < KS_N_METRICS; m++) {
        bool tested = m == KS_BALANCED_ACCURACY;
        KS_TRY(put_p(l, ks_metric_name((ks_metric)m), metrics[m],
                     tested ? p->p : NAN, tested ? p->p_holm : NAN, err));
    }
done:
    return st;
}

static ks_status put_map(line *l, const ks_transfer_map *m, const char *self,
                         const char *cross, ks_err *err) {
    ks_status st = KS_OK;
    set_sets(l, self, self, self, cross);
    KS_TRY(put_metrics(l, m->metrics, &m->p, err));
    KS_TRY(put_p(l, "balanced_accuracy_minus_own", m->minus_own, m->p.minus,
                 m->p.minus_holm, err));
    KS_TRY(put(l, "agreement_with_own", m->agreement, err));
    KS_TRY(put(l, "r2", m->r2, err));
    set_sets(l, self, self, cross, cross);
    KS_TRY(put(l, "balanced_accuracy", m->against_cross, err));
done:
    return st;
}

static ks_status put_cell(line *l, const ks_transfer_cell *c, const char *self,
                          const char *cross, ks_err *err) {
    ks_status st = KS_OK;
    set_sets(l, self, cross, self, cross);
    l->map = "";
    KS_TRY(put_metrics(l, c->metrics, &c->p, err));
    KS_TRY(put_p(l, "balanced_accuracy_minus_self", c->minus_self, c->p.minus,
                 c->p.minus_holm, err));
    KS_TRY(put(l, "agreement_with_self", c->agreement, err));
    if (self == cross) return KS_OK;
    set_sets(l, self, self, cross, self);
    KS_TRY(put(l, "balanced_accuracy", c->against_cross, err));
    set_sets(l, self, "", cross, "");
    KS_TRY(put(l, "label_kappa", c->kappa, err));
    KS_TRY(put(l, "label_agreement", c->same, err));
    for (int k = 0; k < KS_N_MAPS; k++) {
        l->map = ks_map_name((ks_map_kind)k);
        if (c->maps[k].there) KS_TRY(put_map(l, &c->maps[k], self, cross, err));
    }
done:
    return st;
}

static ks_status put_models(const ks_transfer *t, const ks_transfer_models *m,
                            ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_rows *r = m->rows;
    line l = {.out = out,
              .part = "models",
              .stream = ks_stream_name(m->stream),
              .position = ks_position_name(m->position),
              .n = r->view.n};
    for (int32_t i = 0; i < r->n_sets * r->n_sets; i++)
        if (m->cells[i].there)
            KS_TRY(put_cell(&l, &m->cells[i],
                            t->sets[r->set[i / r->n_sets]].source->name,
                            t->sets[r->set[i % r->n_sets]].source->name, err));
done:
    return st;
}

static ks_status put_tasks(const ks_transfer *t, const ks_transfer_tasks *m,
                           ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    line l = {.out = out,
              .part = "tasks",
              .stream = ks_stream_name(m->stream),
              .position = ks_position_name(m->position),
              .map = ""};
    for (int32_t i = 0; i < m->n_sets * m->n_sets; i++) {
        const char *from = t->sets[m->set[i / m->n_sets]].source->name;
        const ks_transfer_set *to = &t->sets[m->set[i % m->n_sets]];
        set_sets(&l, from, from, to->source->name, to->source->name);
        l.n = to->dataset->n;
        const ks_transfer_task *c = &m->cells[i];
        KS_TRY(put_metrics(&l, c->metrics, &c->p, err));
        KS_TRY(put_p(&l, "balanced_accuracy_minus_within", c->minus_within,
                     c->p.minus, c->p.minus_holm, err));
    }
done:
    return st;
}

ks_status ks_transfer_csv(const ks_transfer *t, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_str_printf(out, err,
                         "part,stream,position,trained_labels,"
                         "trained_activations,scored_labels,"
                         "scored_activations,map,figure,n,value,low,high,"
                         "p,p_holm\n"));
    for (int32_t i = 0; i < t->n_models; i++)
        KS_TRY(put_models(t, &t->models[i], out, err));
    for (int32_t i = 0; i < t->n_tasks; i++)
        KS_TRY(put_tasks(t, &t->tasks[i], out, err));
done:
    return st;
}
