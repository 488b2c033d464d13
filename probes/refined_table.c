/* refined_table.c - ks__refined_table of refined_write.h. */
#include <math.h>
#include <stdlib.h>

#include "refined_write.h"
#include "text_table.h"

static void number(ks_text_cell out, double v, const char *format) {
    char text[KS_TEXT_CELL];
    if (isnan(v))
        snprintf(text, sizeof text, "n/a");
    else if (*format == '%')
        snprintf(text, sizeof text, "%.1f", v);
    else
        snprintf(text, sizeof text, "%+.2f", v);
    snprintf(out, KS_TEXT_CELL, "%s", text);
}

static void rho(ks_text_cell out, ks_interval v) {
    if (isnan(v.value))
        snprintf(out, KS_TEXT_CELL, "n/a");
    else
        snprintf(out, KS_TEXT_CELL, "%.3f [%.3f, %.3f]", v.value, v.low,
                 v.high);
}

static ks_status directions(const ks_evaluation *r, bool markdown, ks_str *out,
                            ks_err *err) {
    ks_status st = KS_OK;
    static const char *const names[] = {"series", "layer",
                                        "L2, mean difference", "L2, LDA",
                                        "mean difference, LDA"};
    ks_text_grid t = {.n_columns = 5};
    ks_text_cell *row;
    KS_TRY(ks__text_title(out, markdown, err, "Cosine of directions"));
    KS_TRY(ks__grid_heading(&t, names, err));
    for (int32_t k = 0; k < r->grid.n_series; k++) {
        const ks_series *s = &r->grid.series[k];
        const ks_directions *d = &r->refined.directions[k];
        KS_TRY(ks__grid_where(&t, s->stream, s->position, &row, err));
        snprintf(row[1], KS_TEXT_CELL, "%d", d->layer);
        number(row[2], d->l2_mean, "+");
        number(row[3], d->l2_lda, "+");
        number(row[4], d->mean_lda, "+");
    }
    KS_TRY(ks__grid_write(&t, markdown, out, err));
    KS_TRY(ks_str_printf(out, err,
                         "Of weights on standardised features, mean over "
                         "folds, at the layer that most\nfolds chose.\n\n"));
done:
    free(t.at);
    return st;
}

static ks_status sparse(const ks_evaluation *r, bool markdown, ks_str *out,
                        ks_err *err) {
    ks_status st = KS_OK;
    int32_t n = r->grid.n_series;
    ks_text_grid t = {.n_columns = n + 1};
    ks_text_cell *row = ks__grid_row(&t, err);
    KS_CHECK(row, KS_NOMEM, "out of memory for a table");
    KS_TRY(ks__text_title(out, markdown, err,
                          "Dimensions that carry the signal: those that are "
                          "not 0, and balanced accuracy, %"));
    snprintf(row[0], KS_TEXT_CELL, "lambda / largest");
    for (int32_t k = 0; k < n; k++)
        snprintf(row[k + 1], KS_TEXT_CELL, "%s/%s, layer %d (most folds)",
                 ks_stream_name(r->grid.series[k].stream),
                 ks_position_name(r->grid.series[k].position),
                 r->refined.sparse[k].layer);
    for (int32_t p = 0; p < KS_SPARSE_POINTS; p++) {
        KS_CHECK((row = ks__grid_row(&t, err)), KS_NOMEM,
                 "out of memory for a table");
        snprintf(row[0], KS_TEXT_CELL, "%.3f", ks_sparse_ratio(p));
        for (int32_t k = 0; k < n; k++) {
            const ks_sparse_point *point = &r->refined.sparse[k].points[p];
            ks_text_cell accuracy;
            ks__cell_interval(accuracy, point->accuracy, false);
            snprintf(row[k + 1], KS_TEXT_CELL, "%.1f: %.30s", point->dimensions,
                     accuracy);
        }
    }
    KS_CHECK((row = ks__grid_row(&t, err)), KS_NOMEM,
             "out of memory for a table");
    snprintf(row[0], KS_TEXT_CELL, "needed");
    for (int32_t k = 0; k < n; k++)
        number(row[k + 1], r->refined.sparse[k].needed, "%");
    KS_TRY(ks__grid_write(&t, markdown, out, err));
    KS_TRY(ks_str_printf(
        out, err,
        "Each outer fold on the layer that it chose; named is what most chose. "
        "Needed: the fewest\ndimensions at which the strength that the "
        "training folds choose is not better: the\ninterval of its lead "
        "includes 0.\n\n"));
done:
    free(t.at);
    return st;
}

static ks_status attention(const ks_evaluation *r, bool markdown, ks_str *out,
                           ks_err *err) {
    ks_status st = KS_OK;
    const char *const names[] = {
        "series",
        r->options->refined.attention_all ? "layer" : KS_MOST_FOLDS,
        "attention, %",
        "L2 of the mean, %",
        "minus",
        "entropy",
        "first / last, %",
        "one token, %"};
    ks_text_grid t = {.n_columns = 8};
    ks_text_cell *row;
    KS_TRY(
        ks__text_title(out, markdown, err, "Attention over a step's tokens"));
    KS_TRY(ks__grid_heading(&t, names, err));
    for (int32_t k = 0; k < r->refined.n_attended; k++) {
        const ks_attended *a = &r->refined.attended[k];
        KS_TRY(ks__grid_where(&t, a->stream, KS_TOKENS, &row, err));
        snprintf(row[1], KS_TEXT_CELL, "%d", a->layer);
        ks__cell_interval(row[2], a->accuracy, false);
        ks__cell_interval(row[3], a->mean, false);
        ks__cell_interval(row[4], a->less_mean, true);
        snprintf(row[5], KS_TEXT_CELL, "%.2f", a->entropy);
        snprintf(row[6], KS_TEXT_CELL, "%.0f / %.0f", 100 * a->first,
                 100 * a->last);
        snprintf(row[7], KS_TEXT_CELL, "%.0f", 100 * a->even);
    }
    KS_TRY(ks__grid_write(&t, markdown, out, err));
    KS_TRY(ks_str_printf(
        out, err,
        "Entropy of attention over the logarithm of the step's tokens (1: all "
        "alike), its\nshare on the first and the last token, and what one "
        "token has if all have the same.\n\n"));
done:
    free(t.at);
    return st;
}

static ks_status figures_row(ks_text_grid *t, const char *name,
                             const ks_graded_figures *f, ks_err *err) {
    ks_text_cell *row = ks__grid_row(t, err);
    if (!row) return KS_NOMEM;
    snprintf(row[0], KS_TEXT_CELL, "%s", name);
    rho(row[1], f->spearman);
    rho(row[2], f->within);
    rho(row[3], f->r2);
    return KS_OK;
}

static ks_status graded_series(ks_text_grid *t, const ks_graded_series *s,
                               ks_err *err) {
    ks_status st = KS_OK;
    char name[KS_TEXT_CELL], where[24];
    snprintf(where, sizeof where, "%s/%s", ks_stream_name(s->stream),
             ks_position_name(s->position));
    for (int32_t l = 0; l < s->n_layers; l++) {
        snprintf(name, sizeof name, "%s layer %d", where, s->layer[l]);
        KS_TRY(figures_row(t, name, &s->layers[l], err));
    }
    snprintf(name, sizeof name, "%s best *", where);
    KS_TRY(figures_row(t, name, &s->best, err));
done:
    return st;
}

static ks_status graded_bands(const ks_graded *g, bool markdown, ks_str *out,
                              ks_err *err) {
    ks_status st = KS_OK;
    static const char *const names[] = {"best of", "surface-free rho",
                                        "removable < unlabelled, AUC",
                                        "unlabelled < important, AUC"};
    ks_text_grid t = {.n_columns = 4};
    ks_text_cell *row;
    KS_TRY(ks__grid_heading(&t, names, err));
    for (int32_t k = 0; k < g->n_series; k++) {
        const ks_graded_series *s = &g->series[k];
        KS_TRY(ks__grid_where(&t, s->stream, s->position, &row, err));
        rho(row[1], s->surface_free);
        rho(row[2], s->bands[0]);
        rho(row[3], s->bands[1]);
    }
    KS_TRY(ks__grid_write(&t, markdown, out, err));
done:
    free(t.at);
    return st;
}

static ks_status graded(const ks_graded *g, bool markdown, ks_str *out,
                        ks_err *err) {
    ks_status st = KS_OK;
    static const char *const names[] = {"of", "Spearman's rho", "within chains",
                                        "R^2 of ranks"};
    ks_text_grid t = {.n_columns = 4};
    char title[160];
    snprintf(title, sizeof title,
             "Score \"%s\" from activations, %lld steps, labelled or not",
             g->name, (long long)g->rows->n);
    KS_TRY(ks__text_title(out, markdown, err, title));
    KS_TRY(ks__grid_heading(&t, names, err));
    for (int32_t k = 0; k < g->n_series; k++)
        KS_TRY(graded_series(&t, &g->series[k], err));
    for (int32_t b = 0; b < g->n_baselines; b++)
        KS_TRY(figures_row(&t, g->baselines[b].name, &g->baselines[b].figures,
                           err));
    KS_TRY(ks__grid_write(&t, markdown, out, err));
    KS_TRY(graded_bands(g, markdown, out, err));
    KS_TRY(ks_str_printf(
        out, err,
        "Ridge regression of the score's rank; strength and, for best *, layer "
        "chosen in the\ntraining folds. Surface-free: of what the last "
        "baseline "
        "leaves of the ranks, and a\nregression for that.\n\n"));
done:
    free(t.at);
    return st;
}

ks_status ks__refined_table(const ks_evaluation *r, bool markdown, ks_str *out,
                            ks_err *err) {
    ks_status st = KS_OK;
    const ks_refined *f = &r->refined;
    if (f->directions) KS_TRY(directions(r, markdown, out, err));
    if (f->sparse) KS_TRY(sparse(r, markdown, out, err));
    if (f->n_attended) KS_TRY(attention(r, markdown, out, err));
    for (int32_t k = 0; k < f->n_graded; k++)
        KS_TRY(graded(&f->graded[k], markdown, out, err));
done:
    return st;
}
