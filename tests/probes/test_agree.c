/* test_agree.c - agreement of label files: figures equal to scikit-learn's and
 * scipy's, intervals to a plain redraw of problems, what does not fit. */
#include <gsl/gsl_statistics_double.h>
#include <math.h>

#include "agree.h"
#include "rank.h"
#include "shell.h"

static char folder[64];

static void make_folder(void) {
    make_temporary(folder, "agree");
}

static void drop_folder(void) {
    drop_temporary(folder);
}

TestSuite(agree, .init = make_folder, .fini = drop_folder);

static char *path_of(const char *name) {
    static char paths[4][128];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, 128, "%s/%s", folder, name);
    return path;
}

static void write_text(const char *name, const char *text) {
    cr_assert(ks_write_file(path_of(name), text, strlen(text), true, NULL) ==
              KS_OK);
}

static void read_labels(ks_labels *out, const char *name) {
    ks_err err = {0};
    cr_assert(ks_labels_read(out, path_of(name), KS_KEEP_OBJECTS, &err) ==
                  KS_OK,
              "%s", err.text);
}

/* Each line as often as its problem was drawn, each time as a chain of a
 * problem of its own; weight NULL: as it is. */
static void write_lines(const char *name, const json_t *lines,
                        const double *weight, const json_t *groups) {
    ks_str all = {0};
    json_t *line;
    size_t i;
    json_array_foreach(lines, i, line) {
        const char *id = json_string_value(json_object_get(line, "chain"));
        char problem[32], chain[64];
        snprintf(problem, sizeof problem, "%.*s", (int)strcspn(id, "/"), id);
        json_t *group = json_object_get(groups, problem);
        int times =
            weight ? (group ? (int)weight[json_integer_value(group)] : 0) : 1;
        for (int t = 0; t < times; t++) {
            json_t *copy = json_copy(line);
            snprintf(chain, sizeof chain, "%s%s%d/%s", problem,
                     weight ? "-" : "", t, strchr(id, '/') + 1);
            if (weight) json_object_set_new(copy, "chain", json_string(chain));
            char *text = json_dumps(copy, JSON_COMPACT);
            cr_assert(ks_str_printf(&all, NULL, "%s\n", text) == KS_OK);
            free(text);
            json_decref(copy);
        }
    }
    write_text(name, all.data);
    ks_str_free(&all);
}

static json_t *golden(void) {
    json_error_t reason;
    json_t *all = json_load_file(KS_TEST_DATA "/probes/agree.json", 0, &reason);
    cr_assert(all != NULL, "%s", reason.text);
    return all;
}

static ks_agreement compare(const char *pairs, int32_t replicates) {
    ks_labels a, b;
    ks_agreement out;
    ks_err err = {0};
    const ks_agree_options options = {
        .pairs = pairs, .replicates = replicates, .seed = 7};
    read_labels(&a, "a.jsonl");
    read_labels(&b, "b.jsonl");
    cr_assert(ks_agree(&out, &a, &b, &options, &err) == KS_OK, "%s", err.text);
    ks_labels_free(&a);
    ks_labels_free(&b);
    return out;
}

/* Fails on NaN unless NaN (null) is expected. */
static bool near(double got, const json_t *want) {
    if (!want || json_is_null(want)) return isnan(got);
    return fabs(got - json_number_value(want)) <= 1e-12;
}

Test(agree, figures_equal_scikit_learn_and_scipy) {
    json_t *all = golden(), *c;
    size_t i;
    json_array_foreach(json_object_get(all, "cases"), i, c) {
        write_lines("a.jsonl", json_object_get(c, "a"), NULL, NULL);
        write_lines("b.jsonl", json_object_get(c, "b"), NULL, NULL);
        ks_agreement got = compare("influence=resample", -1);
        json_t *confusion = json_object_get(c, "confusion");
        for (size_t x = 0; x < 3; x++)
            for (size_t y = 0; y < 3; y++)
                cr_expect(got.confusion[x][y] ==
                          json_integer_value(
                              json_array_get(json_array_get(confusion, x), y)));
        cr_expect(near(got.same.value, json_object_get(c, "same")));
        cr_expect(near(got.kappa.value, json_object_get(c, "kappa")));
        cr_expect(near(got.kappa_3.value, json_object_get(c, "kappa_3")));
        cr_expect(isnan(got.kappa.low) && got.only_a == 1 && got.only_b == 1);
        cr_assert(got.n_scores == 2);
        cr_expect(strcmp(got.scores[0].a, "drop") == 0 &&
                  strcmp(got.scores[1].b, "resample") == 0);
        for (size_t k = 0; k < 2; k++) {
            const ks_agree_score *s = &got.scores[k];
            json_t *want = json_array_get(json_object_get(c, "scores"), k);
            json_t *within = json_object_get(want, "within");
            json_t *pooled = json_object_get(want, "pooled");
            cr_expect(s->steps ==
                      json_integer_value(json_object_get(want, "steps")));
            cr_expect(s->chains ==
                      json_integer_value(json_object_get(want, "chains")));
            for (size_t m = 0; m < 2; m++) {
                cr_expect(near(s->within[m].value, json_array_get(within, m)),
                          "case %zu score %zu within %zu: %.15g", i, k, m,
                          s->within[m].value);
                cr_expect(near(s->pooled[m].value, json_array_get(pooled, m)),
                          "case %zu score %zu pooled %zu: %.15g", i, k, m,
                          s->pooled[m].value);
            }
        }
        ks_agree_free(&got);
    }
    json_decref(all);
}

/* ---------------------------------------------------------------- intervals */

enum { DRAWS = 40, FIGURES = 11 };

static void figures_of(const ks_agreement *g, ks_interval out[FIGURES]) {
    int n = 0;
    out[n++] = g->same;
    out[n++] = g->kappa;
    out[n++] = g->kappa_3;
    for (int k = 0; k < 2; k++) {
        for (int m = 0; m < 2; m++) out[n++] = g->scores[k].within[m];
        for (int m = 0; m < 2; m++) out[n++] = g->scores[k].pooled[m];
    }
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

Test(agree, intervals_are_those_of_a_plain_redraw) {
    json_t *all = golden();
    json_t *c = json_array_get(json_object_get(all, "cases"), 1), *line;
    json_t *a = json_object_get(c, "a"), *b = json_object_get(c, "b");
    json_t *groups = json_object();
    size_t i;
    write_lines("a.jsonl", a, NULL, NULL);
    write_lines("b.jsonl", b, NULL, NULL);
    ks_agreement got = compare("influence=resample", DRAWS);
    ks_interval figures[FIGURES];
    figures_of(&got, figures);
    /* problems in the order in which A's chains that are in both bring them */
    json_array_foreach(a, i, line) {
        const char *id = json_string_value(json_object_get(line, "chain"));
        char problem[32];
        snprintf(problem, sizeof problem, "%.*s", (int)strcspn(id, "/"), id);
        if (strcmp(id, "p2/0") != 0 && !json_object_get(groups, problem))
            json_object_set_new(
                groups, problem,
                json_integer((json_int_t)json_object_size(groups)));
    }
    int32_t n = (int32_t)json_object_size(groups);
    cr_assert(n == got.problems);
    static double draws[FIGURES][DRAWS];
    int kept[FIGURES] = {0};
    for (uint64_t r = 0; r < DRAWS; r++) {
        double weight[64];
        ks_interval drawn[FIGURES];
        ks__stats_draw(7, r, n, weight);
        write_lines("a.jsonl", a, weight, groups);
        write_lines("b.jsonl", b, weight, groups);
        ks_agreement again = compare("influence=resample", -1);
        figures_of(&again, drawn);
        for (int m = 0; m < FIGURES; m++)
            if (!isnan(drawn[m].value)) draws[m][kept[m]++] = drawn[m].value;
        ks_agree_free(&again);
    }
    for (int m = 0; m < FIGURES; m++) {
        qsort(draws[m], (size_t)kept[m], sizeof(double), ascending);
        double low = gsl_stats_quantile_from_sorted_data(
            draws[m], 1, (size_t)kept[m], 0.025);
        double high = gsl_stats_quantile_from_sorted_data(
            draws[m], 1, (size_t)kept[m], 0.975);
        cr_expect(fabs(figures[m].low - low) <= 1e-12 &&
                      fabs(figures[m].high - high) <= 1e-12,
                  "figure %d: [%.15g, %.15g], expected [%.15g, %.15g]", m,
                  figures[m].low, figures[m].high, low, high);
        cr_expect(low < high);
    }
    ks_agree_free(&got);
    json_decref(groups);
    json_decref(all);
}

/* -------------------------------------------------------------- correlations
 */

static void correlate(const double *x, const double *y, int64_t n,
                      const double *weight, double out[2]) {
    ks_ranked r;
    cr_assert(ks_ranked_open(&r, x, y, n, NULL) == KS_OK);
    double *scratch = calloc(ks_ranked_scratch(&r), sizeof *scratch);
    ks_ranked_correlate(&r, weight, scratch, &out[0], &out[1]);
    free(scratch);
    ks_ranked_close(&r);
}

Test(agree, edges_of_correlations) {
    static const double up[] = {1, 2, 3, 4}, down[] = {9, 7, 5, -2};
    static const double flat[] = {1, 1, 1, 1}, bad[] = {1, NAN, INFINITY, 2};
    double out[2];
    correlate(up, up, 4, NULL, out);
    cr_expect(out[0] == 1 && out[1] == 1);
    correlate(up, down, 4, NULL, out);
    cr_expect(out[0] == -1 && out[1] == -1);
    correlate(up, flat, 4, NULL, out);
    cr_expect(isnan(out[0]) && isnan(out[1]));
    correlate(flat, up, 4, NULL, out);
    cr_expect(isnan(out[0]) && isnan(out[1]));
    for (int64_t n = 0; n < 2; n++) {
        correlate(up, down, n, NULL, out);
        cr_expect(isnan(out[0]) && isnan(out[1]));
    }
    static const double one[] = {0, 0, 3, 0}, none[] = {0, 0, 0, 0};
    correlate(up, down, 4, one, out); /* one row three times: all are equal */
    cr_expect(isnan(out[0]) && isnan(out[1]));
    correlate(up, down, 4, none, out);
    cr_expect(isnan(out[0]) && isnan(out[1]));
    ks_ranked r;
    ks_err err = {0};
    cr_expect(ks_ranked_open(&r, up, bad, 4, &err) == KS_NUMERIC);
    cr_expect(strstr(err.text, "score 1") != NULL, "%s", err.text);
}

/* ----------------------------------------------------------------- refusals */

static void refused(const char *a, const char *b, const char *pairs,
                    const char *reason) {
    ks_err err = {0};
    FILE *out = tmpfile();
    const ks_agree_options options = {.pairs = pairs};
    write_text("a.jsonl", a);
    write_text("b.jsonl", b);
    cr_expect(ks_agree_print(path_of("a.jsonl"), path_of("b.jsonl"), &options,
                             false, out, &err) != KS_OK);
    cr_expect(strstr(err.text, reason) != NULL, "%s: %s", reason, err.text);
    cr_expect(ftell(out) == 0);
    fclose(out);
}

#define LINE(chain, rest) "{\"chain\":\"" chain "\",\"labels\":[1,0]" rest "}\n"

Test(agree, what_does_not_fit) {
    refused(LINE("a", ""), LINE("b", ""), NULL, "no chain is in both");
    refused(LINE("a", ""), "{\"chain\":\"a\",\"labels\":[1]}", NULL,
            "has 2 labels in");
    refused(LINE("a", ",\"text_sha256\":\"x\""),
            LINE("a", ",\"text_sha256\":\"y\""), NULL, "another text");
    refused(LINE("a", ""), "{}", NULL, "b.jsonl line 1");
    refused(LINE("a", ""), LINE("a", ""), "x", "not a pair");
    refused(LINE("a", ""), LINE("a", ""), "x=", "not a pair");
    refused(LINE("a", ""), LINE("a", ""), "=x", "not a pair");
    refused(LINE("a", ",\"scores\":{\"x\":[1,2]}"),
            LINE("a", ",\"scores\":{\"y\":[1,2]}"), "x=z",
            "\"x\" in the first file and \"z\" in the second");
}

/* ------------------------------------------------------------------ printing
 */

static char *printed(const ks_agree_options *options, bool json) {
    char *text = NULL;
    size_t n = 0;
    ks_err err = {0};
    FILE *out = open_memstream(&text, &n);
    cr_assert(ks_agree_print(path_of("a.jsonl"), path_of("b.jsonl"), options,
                             json, out, &err) == KS_OK,
              "%s", err.text);
    fclose(out);
    return text;
}

Test(agree, printed) {
    ks_chains chains;
    write_text("a.jsonl",
               "{\"chain\":\"p/0\",\"method\":\"m\",\"labels\":[1,0,null],"
               "\"scores\":{\"x\":[3,2,1]}}\n"
               "{\"chain\":\"q/0\",\"labels\":[0,0]}\n"
               "{\"chain\":\"r/0\",\"labels\":[0]}\n");
    write_text("b.jsonl", "{\"chain\":\"p/0\",\"labels\":[1,1,0],\"scores\":"
                          "{\"x\":[3,1,2]}}\n"
                          "{\"chain\":\"q/0\",\"labels\":[0,null]}\n");
    write_text("c.jsonl", "{\"id\":\"q/0\",\"problem\":\"p\",\"prompt\":\"\","
                          "\"text\":\"ab\"}\n");
    ks_agree_options options = {.replicates = 50};
    char *text = printed(&options, false);
    cr_expect(strstr(text, "a.jsonl (m)") && strstr(text, "no method named"));
    cr_expect(strstr(text, "5 steps of 2 chains and 2 problems in both; 1 "
                           "chains in A alone, 0 in B alone"),
              "%s", text);
    cr_expect(strstr(text, "x                               3        1  0.500"),
              "%s", text);
    free(text);
    /* one problem: nothing to resample but itself */
    cr_assert(ks_chains_read(&chains, path_of("c.jsonl"), KS_KEEP_FIELDS,
                             NULL) == KS_OK);
    options.chains = &chains;
    text = printed(&options, true);
    json_t *all = json_loads(text, 0, NULL);
    json_t *same = json_object_get(all, "same");
    double value = json_number_value(json_object_get(same, "value"));
    cr_expect(json_integer_value(json_object_get(all, "problems")) == 1);
    cr_expect(fabs(value - 2.0 / 3) <= 1e-12);
    cr_expect(json_number_value(json_object_get(same, "low")) == value);
    json_t *row =
        json_object_get(json_object_get(all, "confusion"), "removable");
    cr_expect(json_integer_value(json_object_get(row, "unlabelled")) == 1);
    json_t *score = json_array_get(json_object_get(all, "scores"), 0);
    cr_expect(json_number_value(json_object_get(
                  json_object_get(score, "spearman"), "value")) == 0.5);
    json_decref(all);
    free(text);
    ks_chains_free(&chains);
}
