/* transfer_table.c - a transfer as text; see transfer.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "text_table.h"
#include "transfer.h"

enum { NAME = 20 }; /* bytes of a set's name in a cell */

typedef struct page {
    const ks_transfer *transfer;
    const ks_transfer_models *models;
    bool markdown;
    ks_str *out;
} page;

static const char *name_of(const ks_transfer *t, int32_t set) {
    return t->sets[set].source->name;
}

/* Its first `most` bytes, cut between characters. */
static void name_cell(ks_text_cell out, const char *name, size_t most) {
    int n = (int)strnlen(name, most);
    while (n > 0 && name[n] && ((unsigned char)name[n] & 0xC0) == 0x80) n--;
    snprintf(out, KS_TEXT_CELL, "%.*s", n, name);
}

/* Of a figure that is no percentage: kappa, R^2. */
static void plain_cell(ks_text_cell out, ks_interval v) {
    if (isnan(v.value))
        snprintf(out, KS_TEXT_CELL, "n/a");
    else if (isnan(v.low))
        snprintf(out, KS_TEXT_CELL, "%.3f", v.value);
    else
        snprintf(out, KS_TEXT_CELL, "%.3f [%.3f, %.3f]", v.value, v.low,
                 v.high);
}

/* --------------------------------------------------------------------- sets */

static ks_status write_sets(const page *p, ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer *t = p->transfer;
    ks_text_grid g = {.n_columns = 6};
    ks_text_cell *row;
    static const char *const names[] = {"set",       "model",  "labelled",
                                        "important", "chains", "problems"};
    KS_TRY(ks__text_title(p->out, p->markdown, err, "Sets"));
    KS_CHECK((row = ks__grid_row(&g, err)), KS_NOMEM, "%s", err->text);
    for (int c = 0; c < 6; c++) snprintf(row[c], KS_TEXT_CELL, "%s", names[c]);
    for (int32_t k = 0; k < t->n_sets; k++) {
        const ks_transfer_set *s = &t->sets[k];
        const ks_dataset *d = s->dataset;
        KS_CHECK((row = ks__grid_row(&g, err)), KS_NOMEM, "%s", err->text);
        name_cell(row[0], s->source->name, NAME);
        snprintf(row[1], KS_TEXT_CELL, "%.20s%s%s", s->info->model_name,
                 s->control ? ", random" : "",
                 s->info->context_none ? ", alone" : "");
        if (d) {
            snprintf(row[2], KS_TEXT_CELL, "%lld", (long long)d->n);
            snprintf(row[3], KS_TEXT_CELL, "%lld", (long long)d->n_important);
            snprintf(row[4], KS_TEXT_CELL, "%d", d->n_chains);
            snprintf(row[5], KS_TEXT_CELL, "%d", d->n_groups);
        } else {
            snprintf(row[2], KS_TEXT_CELL, "no labels");
        }
    }
    KS_TRY(ks__grid_write(&g, p->markdown, p->out, err));
done:
    free(g.at);
    return st;
}

/* ------------------------------------------------------------ across models */

typedef void (*fill_fn)(ks_text_cell out, const ks_transfer_cell *cell);

static void balanced(ks_text_cell out, const ks_transfer_cell *c) {
    ks__cell_judged(out, c->metrics[KS_BALANCED_ACCURACY], false, c->p.p_holm);
}

static void agreed(ks_text_cell out, const ks_transfer_cell *c) {
    ks__cell_interval(out, c->agreement, false);
}

static void against(ks_text_cell out, const ks_transfer_cell *c) {
    ks__cell_interval(out, c->against_cross, false);
}

static void kappa(ks_text_cell out, const ks_transfer_cell *c) {
    plain_cell(out, c->kappa);
}

/* Labelled sets as rows; columns: all, or those that are labelled. */
static ks_status write_matrix(const page *p, const char *what,
                              const char *corner, bool labelled, fill_fn fill,
                              ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_rows *r = p->models->rows;
    ks_text_grid g = {.n_columns = 1};
    int32_t columns[KS_MAX_SETS], n = 0;
    ks_text_cell *row;
    for (int32_t k = 0; k < r->n_sets; k++)
        if (r->y[k] || !labelled) columns[n++] = k;
    g.n_columns = n + 1;
    KS_TRY(ks__text_title(p->out, p->markdown, err, what));
    KS_CHECK((row = ks__grid_row(&g, err)), KS_NOMEM, "%s", err->text);
    snprintf(row[0], KS_TEXT_CELL, "%s", corner);
    for (int32_t c = 0; c < n; c++)
        name_cell(row[c + 1], name_of(p->transfer, r->set[columns[c]]), NAME);
    for (int32_t self = 0; self < r->n_sets; self++) {
        if (!r->y[self]) continue;
        KS_CHECK((row = ks__grid_row(&g, err)), KS_NOMEM, "%s", err->text);
        name_cell(row[0], name_of(p->transfer, r->set[self]), NAME);
        for (int32_t c = 0; c < n; c++)
            fill(row[c + 1], &p->models->cells[self * r->n_sets + columns[c]]);
    }
    KS_TRY(ks__grid_write(&g, p->markdown, p->out, err));
done:
    free(g.at);
    return st;
}

static void map_row(const page *p, ks_text_cell *row, int32_t self,
                    int32_t cross, int kind, const ks_transfer_map *m) {
    const int32_t *set = p->models->rows->set;
    ks_text_cell a, b;
    name_cell(a, name_of(p->transfer, set[self]), 11);
    name_cell(b, name_of(p->transfer, set[cross]), 11);
    snprintf(row[0], KS_TEXT_CELL, "%.11s <- %.11s, %.10s", a, b,
             ks_map_name((ks_map_kind)kind));
    ks__cell_judged(row[1], m->metrics[KS_BALANCED_ACCURACY], false,
                    m->p.p_holm);
    ks__cell_judged(row[2], m->minus_own, true, m->p.minus_holm);
    ks__cell_interval(row[3], m->against_cross, false);
    ks__cell_interval(row[4], m->agreement, false);
    plain_cell(row[5], m->r2);
}

static ks_status write_maps(const page *p, ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_rows *r = p->models->rows;
    ks_text_grid g = {.n_columns = 6};
    ks_text_cell *row;
    static const char *const names[] = {
        "probe <- activations",  "balanced, %",    "minus own, points",
        "labels of activations", "same as own, %", "R^2"};
    KS_TRY(ks__text_title(p->out, p->markdown, err,
                          "Probes carried over by linear maps"));
    KS_CHECK((row = ks__grid_row(&g, err)), KS_NOMEM, "%s", err->text);
    for (int c = 0; c < 6; c++) snprintf(row[c], KS_TEXT_CELL, "%s", names[c]);
    for (int32_t i = 0; i < r->n_sets * r->n_sets; i++) {
        const ks_transfer_cell *c = &p->models->cells[i];
        for (int k = 0; k < KS_N_MAPS; k++) {
            if (!c->maps[k].there) continue;
            KS_CHECK((row = ks__grid_row(&g, err)), KS_NOMEM, "%s", err->text);
            map_row(p, row, i / r->n_sets, i % r->n_sets, k, &c->maps[k]);
        }
    }
    KS_TRY(ks__grid_write(&g, p->markdown, p->out, err));
    KS_TRY(ks__text_wrapped(
        "A <- B: A's probe, unchanged, on B's activations brought into A's "
        "space by a map that was fitted on the steps of training problems, "
        "without labels. balanced: against A's labels; minus own: less A's "
        "probe on A; labels of activations: against B's labels. shuffled: "
        "ridge on pairs of steps that do not belong together; identity: no "
        "map; mean: A's mean for every step. R^2 on held-out problems, each "
        "dimension in units of its deviation, against the training mean.",
        0, p->out, err));
    KS_TRY(ks_str_printf(p->out, err, "\n"));
done:
    free(g.at);
    return st;
}

static int32_t n_labelled(const ks_transfer_rows *r) {
    int32_t n = 0;
    for (int32_t k = 0; k < r->n_sets; k++) n += r->y[k] != NULL;
    return n;
}

static ks_status write_models(page *p, const ks_transfer_models *m,
                              ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *v = &m->rows->view;
    char what[160];
    p->models = m;
    KS_TRY(ks_str_printf(
        p->out, err,
        "%sAcross models, %s at %s\n\n%lld steps that all labelled sets label "
        "and all files hold, of %d chains and\n%d problems; maps are fitted on "
        "%lld steps. Layers are chosen inside the\ntraining folds.\n\n",
        p->markdown ? "## " : "", ks_stream_name(m->stream),
        ks_position_name(m->position), (long long)v->n, v->n_chains,
        v->n_groups, (long long)m->rows->n_all));
    KS_TRY(write_matrix(p,
                        "Labels of the row, activations of the column: "
                        "balanced accuracy, %",
                        "labels", false, balanced, err));
    snprintf(what, sizeof what,
             "Predictions as those of the row's own probe, %%");
    KS_TRY(write_matrix(p, what, "labels", false, agreed, err));
    if (n_labelled(m->rows) > 1) {
        KS_TRY(write_matrix(p,
                            "The row's own probe against the column's labels: "
                            "balanced accuracy, %",
                            "probe", true, against, err));
        KS_TRY(write_matrix(p, "Cohen's kappa of the labels", "labels", true,
                            kappa, err));
    }
    KS_TRY(write_maps(p, err));
done:
    return st;
}

/* ------------------------------------------------------------- across tasks */

static ks_status write_tasks_matrix(const page *p, const ks_transfer_tasks *t,
                                    bool minus, ks_err *err) {
    ks_status st = KS_OK;
    ks_text_grid g = {.n_columns = t->n_sets + 1};
    ks_text_cell *row;
    KS_TRY(ks__text_title(
        p->out, p->markdown, err,
        minus ? "Less the tested set's own cross-validated probe, points"
              : "Trained on the row, tested on the column: balanced accuracy, "
                "%"));
    KS_CHECK((row = ks__grid_row(&g, err)), KS_NOMEM, "%s", err->text);
    snprintf(row[0], KS_TEXT_CELL, "trained on");
    for (int32_t c = 0; c < t->n_sets; c++)
        name_cell(row[c + 1], name_of(p->transfer, t->set[c]), NAME);
    for (int32_t a = 0; a < t->n_sets; a++) {
        KS_CHECK((row = ks__grid_row(&g, err)), KS_NOMEM, "%s", err->text);
        name_cell(row[0], name_of(p->transfer, t->set[a]), NAME);
        for (int32_t b = 0; b < t->n_sets; b++) {
            const ks_transfer_task *c = &t->cells[a * t->n_sets + b];
            if (minus && a == b)
                snprintf(row[b + 1], KS_TEXT_CELL, "-");
            else
                ks__cell_judged(row[b + 1],
                                minus ? c->minus_within
                                      : c->metrics[KS_BALANCED_ACCURACY],
                                minus, minus ? c->p.minus_holm : c->p.p_holm);
        }
    }
    KS_TRY(ks__grid_write(&g, p->markdown, p->out, err));
done:
    free(g.at);
    return st;
}

static ks_status write_task_notes(const page *p, const ks_transfer_tasks *t,
                                  ks_err *err) {
    ks_status st = KS_OK;
    for (int32_t i = 0; i < t->n_sets * t->n_sets; i++) {
        const ks_transfer_task *c = &t->cells[i];
        char note[512];
        size_t left = json_array_size(c->left_out);
        if (i / t->n_sets == i % t->n_sets) continue;
        snprintf(note, sizeof note,
                 "- %.80s on %.80s: layer %d, strength %g, %lld steps to train "
                 "on; %zu problems that both have left out of training%s%.80s"
                 "%s.",
                 name_of(p->transfer, t->set[i / t->n_sets]),
                 name_of(p->transfer, t->set[i % t->n_sets]), c->layer,
                 c->strength, (long long)c->n_train, left, left ? ": " : "",
                 left ? json_string_value(json_array_get(c->left_out, 0)) : "",
                 left > 1 ? ", .." : "");
        KS_TRY(ks__text_wrapped(note, 2, p->out, err));
    }
    KS_TRY(ks_str_printf(p->out, err, "\n"));
done:
    return st;
}

static ks_status write_tasks(const page *p, const ks_transfer_tasks *t,
                             ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_str_printf(
        p->out, err, "%sAcross tasks, %.60s, %s at %s\n\n",
        p->markdown ? "## " : "", p->transfer->sets[t->set[0]].info->model_name,
        ks_stream_name(t->stream), ks_position_name(t->position)));
    KS_TRY(write_tasks_matrix(p, t, false, err));
    KS_TRY(write_tasks_matrix(p, t, true, err));
    KS_TRY(write_task_notes(p, t, err));
done:
    return st;
}

ks_status ks_transfer_table(const ks_transfer *t, bool markdown, ks_str *out,
                            ks_err *err) {
    ks_status st = KS_OK;
    page p = {.transfer = t, .markdown = markdown, .out = out};
    const ks_transfer_options *o = t->options;
    KS_TRY(ks_str_printf(
        out, err,
        "%sTransfer\n\n%d folds by problem, %d seed%s; 95%% intervals over "
        "problems, %d draws. Strength of\nL2 chosen on %d inner parts of the "
        "training folds by balanced log-loss. ns: not\nsignificant at 5%%, "
        "accuracies by the exact test within chains, differences by sign\n"
        "flips over problems, after Holm over the table's cells (of maps: over "
        "the pairs of a\nkind of map).\n\n",
        markdown ? "# " : "", o->n_folds, o->n_seeds, o->n_seeds > 1 ? "s" : "",
        o->grid.bootstrap, o->n_inner));
    if (t->unconverged)
        KS_TRY(ks_str_printf(out, err,
                             "%d of %d fits did not reach the tolerance.\n\n",
                             t->unconverged, t->fits));
    KS_TRY(write_sets(&p, err));
    for (int32_t i = 0; i < t->n_models; i++)
        KS_TRY(write_models(&p, &t->models[i], err));
    for (int32_t i = 0; i < t->n_tasks; i++)
        KS_TRY(write_tasks(&p, &t->tasks[i], err));
done:
    return st;
}
