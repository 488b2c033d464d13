/* agree_print.c - the agreement of two label files as a table or as JSON. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "agree.h"

enum { BANDS = KS_AGREE_BANDS, WIDTH = 24 };

static const char *const bands[BANDS] = {"important", "removable",
                                         "unlabelled"};

/* ------------------------------------------------------------------- table */

static void print_interval(FILE *out, ks_interval i) {
    char text[64] = "-";
    if (!isnan(i.value) && isnan(i.low))
        snprintf(text, sizeof text, "%.3f", i.value);
    else if (!isnan(i.value))
        snprintf(text, sizeof text, "%.3f [%.3f, %.3f]", i.value, i.low,
                 i.high);
    fprintf(out, "  %-*s", WIDTH - 2, text);
}

static void print_confusion(const ks_agreement *g, FILE *out) {
    fprintf(out, "\n%-12s  B: %-9s  %12s  %12s  %12s\n", "A", bands[0],
            bands[1], bands[2], "all");
    int64_t column[BANDS + 1] = {0};
    for (int i = 0; i < BANDS; i++) {
        int64_t row = 0;
        fprintf(out, "%-12s", bands[i]);
        for (int j = 0; j < BANDS; j++) {
            fprintf(out, "  %12lld", (long long)g->confusion[i][j]);
            row += g->confusion[i][j];
            column[j] += g->confusion[i][j];
        }
        column[BANDS] += row;
        fprintf(out, "  %12lld\n", (long long)row);
    }
    fprintf(out, "%-12s", "all");
    for (int j = 0; j <= BANDS; j++)
        fprintf(out, "  %12lld", (long long)column[j]);
    fputs("\n", out);
}

static void print_score(const ks_agree_score *s, FILE *out) {
    char name[128];
    bool one = strcmp(s->a, s->b) == 0;
    snprintf(name, sizeof name, "%.60s%s%.60s", s->a, one ? "" : "=",
             one ? "" : s->b);
    fprintf(out, "%-24s  %7lld  %7d", name, (long long)s->steps, s->chains);
    for (int k = 0; k < 2; k++) print_interval(out, s->within[k]);
    for (int k = 0; k < 2; k++) print_interval(out, s->pooled[k]);
    fputs("\n", out);
}

static const char *method_of(const ks_labels *labels) {
    return labels->at[0].method[0] ? labels->at[0].method : "no method named";
}

static void print_table(const ks_agreement *g, const ks_labels *a,
                        const ks_labels *b, FILE *out) {
    fprintf(out,
            "A: %s (%s)\nB: %s (%s)\n"
            "%lld steps of %lld chains and %d problems in both; %lld chains "
            "in A alone, %lld in B alone.\nIntervals: 95%%, bootstrap over "
            "problems.\n",
            a->path, method_of(a), b->path, method_of(b), (long long)g->steps,
            (long long)g->chains, g->problems, (long long)g->only_a,
            (long long)g->only_b);
    print_confusion(g, out);
    fputs("\nof steps labelled in both\n  same label     ", out);
    print_interval(out, g->same);
    fputs("\n  Cohen's kappa  ", out);
    print_interval(out, g->kappa);
    fputs("\nof all steps, unlabelled as a third label\n  Cohen's kappa  ",
          out);
    print_interval(out, g->kappa_3);
    fputs("\n", out);
    if (!g->n_scores) return;
    fprintf(out, "\n%-24s  %7s  %7s  %-*s  %-*s  %-*s  %-*s\n", "scores",
            "steps", "chains", WIDTH - 2, "Spearman within chain", WIDTH - 2,
            "tau-b within chain", WIDTH - 2, "Spearman, all steps", WIDTH - 2,
            "tau-b, all steps");
    for (size_t i = 0; i < g->n_scores; i++) print_score(&g->scores[i], out);
}

/* -------------------------------------------------------------------- JSON */

static json_t *real(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *interval(ks_interval i) {
    return json_pack("{s:o,s:o,s:o}", "value", real(i.value), "low",
                     real(i.low), "high", real(i.high));
}

static json_t *score(const ks_agree_score *s) {
    return json_pack("{s:s,s:s,s:I,s:i,s:o,s:o,s:o,s:o}", "a", s->a, "b", s->b,
                     "steps", (json_int_t)s->steps, "chains", s->chains,
                     "spearman_within_chain", interval(s->within[0]),
                     "tau_b_within_chain", interval(s->within[1]), "spearman",
                     interval(s->pooled[0]), "tau_b", interval(s->pooled[1]));
}

static json_t *confusion(const ks_agreement *g) {
    json_t *rows = json_object();
    for (int i = 0; i < BANDS; i++) {
        json_t *row = json_object();
        for (int j = 0; j < BANDS; j++)
            json_object_set_new(row, bands[j],
                                json_integer(g->confusion[i][j]));
        json_object_set_new(rows, bands[i], row);
    }
    return rows;
}

static ks_status print_json(const ks_agreement *g, const ks_labels *a,
                            const ks_labels *b, FILE *out, ks_err *err) {
    ks_status st = KS_OK;
    json_t *scores = json_array();
    for (size_t i = 0; i < g->n_scores; i++)
        json_array_append_new(scores, score(&g->scores[i]));
    json_t *all = json_pack(
        "{s:s,s:s,s:I,s:I,s:i,s:I,s:I,s:o,s:o,s:o,s:o,s:O}", "a", a->path, "b",
        b->path, "steps", (json_int_t)g->steps, "chains", (json_int_t)g->chains,
        "problems", g->problems, "only_a", (json_int_t)g->only_a, "only_b",
        (json_int_t)g->only_b, "confusion", confusion(g), "same",
        interval(g->same), "kappa", interval(g->kappa), "kappa_three",
        interval(g->kappa_3), "scores", scores);
    KS_CHECK(all && json_array_size(scores) == g->n_scores, KS_NOMEM,
             "no memory for the agreement");
    KS_CHECK(!json_dumpf(all, out, JSON_COMPACT) && putc('\n', out) != EOF,
             KS_IO, "cannot write the agreement");
done:
    json_decref(all);
    json_decref(scores);
    return st;
}

ks_status ks_agree_print(const char *a, const char *b,
                         const ks_agree_options *options, bool json, FILE *out,
                         ks_err *err) {
    ks_status st = KS_OK;
    ks_labels x = {0}, y = {0};
    ks_agreement agreement = {0};
    KS_TRY(ks_labels_read(&x, a, KS_KEEP_OBJECTS, err));
    KS_TRY(ks_labels_read(&y, b, KS_KEEP_OBJECTS, err));
    KS_TRY(ks_agree(&agreement, &x, &y, options, err));
    if (json)
        KS_TRY(print_json(&agreement, &x, &y, out, err));
    else
        print_table(&agreement, &x, &y, out);
done:
    ks_agree_free(&agreement);
    ks_labels_free(&x);
    ks_labels_free(&y);
    return st;
}
