/* test_independence.c - surface features of a data set, scores that others
 * gave as baselines, and the section on surface: in one small evaluation. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

#include "evaluation.h"
#include "export.h"
#include "fixture.h"
#include "stats.h"
#include "surface.h"
#include "table.h"

static ks_err err;
static fixture f;
static const double strengths[] = {1e-3, 1e-2, 1e-1, 1};
static ks_evaluation_options options;
static ks_evaluation evaluation;
static char given[128];

static void setup(void) {
    fixture_make(&f);
    snprintf(given, sizeof given, "%s/given.jsonl", f.dir);
    options = (ks_evaluation_options){
        .paths = {.acts = f.acts, .labels = f.labels, .chains = f.chains},
        .grid = {.nest = {.n_strengths = 4,
                          .strengths = strengths,
                          .threads = 2},
                 .bootstrap = 200,
                 .seed = 1},
        .n_folds = 5,
        .n_inner = 4,
        .n_seeds = 1,
        .analyses = 1u << KS_SURFACE,
        .no_text = true};
}

static void teardown(void) {
    ks_evaluation_free(&evaluation);
    fixture_free(&f);
}

TestSuite(independence, .init = setup, .fini = teardown);

static ks_status evaluate(void) {
    return ks_evaluate(&evaluation, &options, &err);
}

static const ks_baseline *find(const char *name) {
    for (int32_t i = 0; i < evaluation.baselines.n; i++)
        if (strcmp(evaluation.baselines.at[i].name, name) == 0)
            return &evaluation.baselines.at[i];
    cr_fatal("no baseline %s", name);
    return NULL;
}

static double balanced(const char *name) {
    return find(name)->metrics[KS_BALANCED_ACCURACY].value;
}

/* ----------------------------------------------------------------- features */

/* As ks_surface answers for the chain read step by step. */
static void check_row(const ks_dataset *d, int64_t i, const float *x,
                      ks_surface_set set) {
    ks_surface *surface = NULL;
    ks_surface_row row = {0};
    const ks_step_row *s = &d->info->steps[d->row[i]];
    const char *text = f.text[s->chain];
    cr_assert(eq(int,
                 ks_surface_open(&surface, "so 1 and 3", 10, STEPS,
                                 set == KS_SURFACE_PUBLISHED, &err),
                 KS_OK));
    for (int k = 0; k <= s->index; k++)
        cr_assert(eq(int,
                     ks_surface_step(surface, text + 20 * k, 20, &row, &err),
                     KS_OK));
    ks_surface_close(&surface);
    int32_t j = 0;
    cr_expect(eq(flt, x[j++], (float)row.position));
    if (set != KS_SURFACE_KNOWN)
        cr_expect(eq(flt, x[j++], (float)row.relative_position));
    cr_expect(eq(flt, x[j++], 4));
    cr_expect(eq(flt, x[j++], (float)row.characters));
    if (set != KS_SURFACE_PUBLISHED)
        cr_expect(eq(flt, x[j++], (float)row.words));
    cr_expect(eq(flt, x[j++], (float)row.numbers));
    cr_expect(eq(flt, x[j++], (float)row.operators));
    for (int c = 0; c < KS_N_CATEGORIES; c++)
        cr_expect(eq(flt, x[j++], (float)row.category[c]));
    cr_expect(eq(flt, x[j++], (float)row.tfidf_mean_before));
    cr_expect(eq(flt, x[j++], (float)row.tfidf_max_before));
    cr_expect(eq(flt, x[j++], (float)row.tfidf_prompt));
    cr_expect(eq(i32, j, ks_surface_n_features(set)));
}

Test(independence, features_are_those_of_the_chain_so_far) {
    ks_dataset *d = NULL;
    static float x[ROWS * KS_SURFACE_FEATURES];
    cr_assert(eq(int, ks_dataset_open(&d, &options.paths, &err), KS_OK));
    for (int s = 0; s < KS_SURFACE_N_SETS; s++) {
        ks_surface_set set = (ks_surface_set)s;
        int32_t width = ks_surface_n_features(set);
        cr_assert(eq(int, ks_surface_features(d, set, 2, x, &err), KS_OK));
        for (int64_t i = 0; i < d->n; i += 37)
            check_row(d, i, x + i * width, set);
        cr_expect(ks_surface_feature(set, width - 1) != NULL);
        cr_expect(ks_surface_feature(set, width) == NULL);
    }
    cr_expect(eq(str, (char *)ks_surface_feature(KS_SURFACE_ALL, 1),
                 "relative_position"));
    cr_expect(
        eq(str, (char *)ks_surface_feature(KS_SURFACE_KNOWN, 1), "tokens"));
    cr_expect(eq(str, (char *)ks_surface_feature(KS_SURFACE_PUBLISHED, 4),
                 "numbers"));
    cr_expect(eq(str, (char *)ks_surface_feature(KS_SURFACE_ALL, 11),
                 "fact_retrieval"));
    ks_dataset_close(&d);
}

Test(independence, correlations_and_what_is_left) {
    cr_assert(eq(int, evaluate(), KS_OK), "%s", err.text);
    const ks_independence *in = &evaluation.independence;
    const ks_dataset *d = evaluation.dataset;
    static float x[ROWS * KS_SURFACE_FEATURES];
    static double column[ROWS];
    cr_assert(eq(i32, in->n_features, KS_SURFACE_FEATURES));
    cr_assert(
        eq(int, ks_surface_features(d, KS_SURFACE_ALL, 1, x, &err), KS_OK));
    for (int32_t j = 0; j < in->n_features; j++) {
        for (int64_t i = 0; i < d->n; i++)
            column[i] = (double)x[i * in->n_features + j];
        double want = ks_stats_correlation(column, d->y, d->n);
        cr_expect(isnan(want)
                      ? isnan(in->features[j].labels.value)
                      : fabs(want - in->features[j].labels.value) < 1e-9,
                  "%s", in->features[j].name);
        if (isnan(want)) continue;
        cr_expect(in->features[j].scores.low <= in->features[j].scores.value);
        cr_expect(in->features[j].scores.high >= in->features[j].scores.value);
    }
    /* steps of a label have words of one length: nothing of it is lost when
     * surface goes, for the layer holds the label itself */
    cr_assert(eq(i32, in->n_series, 2));
    cr_assert(eq(i32, in->removed[0].n_layers, 1));
    cr_expect(eq(i32, in->removed[0].at[0].layer, TELLING_LAYER));
    cr_expect(
        gt(dbl, in->removed[0].at[0].metrics[KS_BALANCED_ACCURACY].value, 0.9));
    double minus = in->removed[0].at[0].metrics[KS_BALANCED_ACCURACY].value -
                   evaluation.grid.series[0]
                       .cells[TELLING_LAYER]
                       .metrics[KS_BALANCED_ACCURACY]
                       .value;
    cr_expect(epsilon_eq(dbl, in->removed[0].at[0].minus.value, minus, 1e-12));
}

Test(independence, is_written) {
    ks_str text = {0};
    json_t *all = NULL;
    cr_assert(eq(int, evaluate(), KS_OK), "%s", err.text);
    cr_assert(eq(int, ks_table_write(&evaluation, true, &text, &err), KS_OK));
    cr_expect(strstr(text.data, "## Independence from surface\n") != NULL);
    cr_expect(strstr(text.data, "| tfidf_prompt ") != NULL);
    cr_assert(eq(int, ks_export_json(&evaluation, &all, &err), KS_OK));
    json_t *surface =
        json_object_get(json_object_get(all, "analyses"), "surface");
    json_t *one = json_array_get(json_object_get(surface, "features"), 0);
    cr_expect(eq(str, (char *)json_string_value(json_object_get(one, "name")),
                 "position"));
    const char *keys[] = {"with_labels", "with_scores", "with_predictions"};
    for (int k = 0; k < 3; k++) {
        bool there = json_is_number(
            json_object_get(json_object_get(one, keys[k]), "low"));
        cr_expect(there, "%s", keys[k]);
    }
    json_t *removed = json_array_get(json_object_get(surface, "removed"), 1);
    cr_expect(
        eq(str, (char *)json_string_value(json_object_get(removed, "position")),
           "before"));
    cr_expect(eq(sz, json_array_size(json_object_get(removed, "layers")), 1));
    json_decref(all);
    ks_str_free(&text);
}

/* Without text there is nothing to say about it. */
Test(independence, needs_text) {
    json_t *all = NULL;
    options.paths.chains = NULL;
    cr_assert(eq(int, evaluate(), KS_OK), "%s", err.text);
    cr_expect(eq(i32, evaluation.independence.n_features, 0));
    cr_assert(eq(int, ks_export_json(&evaluation, &all, &err), KS_OK));
    cr_expect(json_object_get(json_object_get(all, "analyses"), "surface") ==
              NULL);
    json_decref(all);
}

/* ------------------------------------------------------------- given scores */

/* "tells": the label with noise, null where `lacks`; "dull": a constant row
 * number; chain 0 has no line. */
static void write_given(double lacks, const char *sha256) {
    FILE *file = fopen(given, "w");
    for (int c = 1; c < CHAINS; c++) {
        fprintf(file, "{\"chain\":\"%s\",\"method\":\"score\",", f.ids[c]);
        if (sha256) fprintf(file, "\"text_sha256\":\"%s\",", sha256);
        fprintf(file, "\"labels\":[null,null,null,null,null,null],"
                      "\"scores\":{\"tells\":[");
        for (int i = 0; i < STEPS; i++) {
            int row = c * STEPS + i;
            if ((double)draw(5, (uint64_t)row) < lacks)
                fprintf(file, "%snull", i ? "," : "");
            else
                fprintf(file, "%s%.6f", i ? "," : "",
                        (double)(40 + (f.y[row] == 1 ? 3 : -3) +
                                 noise(6, (uint64_t)row)));
        }
        fprintf(file, "],\"dull\":[1,2,3,4,5,6]}}\n");
    }
    fclose(file);
}

static ks_status evaluate_with(const char *fields) {
    static ks_given_scores one;
    one = (ks_given_scores){"theirs", given, fields};
    options.n_scores = 1;
    options.scores = &one;
    return evaluate();
}

Test(independence, given_scores_of_every_row) {
    write_given(0, NULL);
    cr_assert(eq(int, evaluate_with("tells"), KS_OK), "%s", err.text);
    /* chain 0 has no line: five labelled steps, one of them not valid */
    cr_expect(strstr(find("theirs")->note, "scores tells of given.jsonl; 4 of "
                                           "399 steps lack one") != NULL,
              "%s", find("theirs")->note);
    cr_expect(gt(dbl, balanced("theirs"), 0.95));
}

Test(independence, given_scores_that_lack) {
    write_given(0.4, NULL);
    cr_assert(eq(int, evaluate_with("tells+dull"), KS_OK), "%s", err.text);
    double b = balanced("theirs");
    cr_expect(b > 0.65 && b < 0.9, "%g", b);
    /* a step without a score has its fold's mean: beside "dull", the same
     * margin for all of a place and a fold */
    const ks_dataset *d = evaluation.dataset;
    const ks_baseline *base = find("theirs");
    cr_expect(base->strength != NULL && base->by_seed != NULL);
    int pairs = 0;
    for (int64_t i = 0; i < d->n; i++)
        for (int64_t k = i + 1; k < d->n; k++) {
            const ks_step_row *a = &d->info->steps[d->row[i]],
                              *c = &d->info->steps[d->row[k]];
            if (a->index != c->index ||
                evaluation.fold[i] != evaluation.fold[k] || a->chain == 0 ||
                (double)draw(5, (uint64_t)d->row[i]) >= 0.4 ||
                (double)draw(5, (uint64_t)d->row[k]) >= 0.4)
                continue;
            cr_assert(eq(flt, base->score[i], base->score[k]));
            pairs++;
        }
    cr_expect(gt(int, pairs, 50));
}

/* All that the lines hold, and each row's class by the score alone. */
Test(independence, given_scores_by_default_all) {
    write_given(0, NULL);
    cr_assert(eq(int, evaluate_with(NULL), KS_OK), "%s", err.text);
    cr_expect(strstr(find("theirs")->note, "scores dull, tells of given") !=
              NULL);
}

Test(independence, given_scores_refused) {
    write_given(0, "00ff");
    cr_expect(eq(int, evaluate_with("tells"), KS_MISMATCH));
    cr_expect(strstr(err.text, "was scored as another text") != NULL, "%s",
              err.text);
    write_given(0, NULL);
    cr_expect(eq(int, evaluate_with("judge"), KS_MISMATCH));
    cr_expect(strstr(err.text, "no labelled step has a score \"judge\"") !=
                  NULL,
              "%s", err.text);
    cr_expect(eq(int, evaluate_with("tells+"), KS_USAGE));
    FILE *file = fopen(given, "w");
    fprintf(file,
            "{\"chain\":\"%s\",\"labels\":[null],\"scores\":{\"a\":[1]}}\n",
            f.ids[3]);
    fclose(file);
    cr_expect(eq(int, evaluate_with("a"), KS_MISMATCH));
    cr_expect(strstr(err.text, "has 1 scores, expected 6") != NULL, "%s",
              err.text);
}
