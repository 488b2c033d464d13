/* keystep probe as a user calls it. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "fixture.h"

#ifdef KS_PROGRAM

static fixture f;
static char *text;

static void setup(void) {
    fixture_make(&f);
}

static void teardown(void) {
    free(text);
    fixture_free(&f);
}

TestSuite(probe_command, .init = setup, .fini = teardown);

static int run(const char *arguments) {
    char command[1024];
    snprintf(command, sizeof command,
             "%s probe --acts %s --labels %s --bootstrap 200 %s >%s/stdout "
             "2>%s/stderr",
             KS_PROGRAM, f.acts, f.labels, arguments, f.dir, f.dir);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static const char *read_back(const char *name) {
    char path[160];
    size_t n;
    free(text);
    text = NULL;
    snprintf(path, sizeof path, "%s/%s", f.dir, name);
    cr_assert(eq(int, ks_read_file(path, SIZE_MAX, &text, &n, NULL), KS_OK),
              "%s", path);
    return text;
}

static int count(const char *in, const char *what) {
    int n = 0;
    for (const char *at = in; (at = strstr(at, what)); at++) n++;
    return n;
}

/* Of a row of table.md that begins so, cell c: does it end in "ns"? */
static bool marked(const char *row, int c) {
    const char *at = strstr(read_back("out/table.md"), row);
    cr_assert(at != NULL, "%s", row);
    for (at += strlen(row); c >= 0; c--) at = strchr(at, '|') + 1;
    const char *end = strchr(at, '|');
    while (end[-1] == ' ') end--;
    return strncmp(end - 3, " ns", 3) == 0;
}

/* What is found in noise is marked, in the row of the chosen layers, too. */
Test(probe_command, chosen_layers_are_judged_like_layers) {
    char arguments[512], row[64];
    snprintf(arguments, sizeof arguments,
             "--strengths 0.1 --analyses none --baseline-acts 'same=%s' "
             "--out %s",
             f.acts, f.out);
    cr_assert(eq(int, run(arguments), 0), "%s", read_back("stderr"));
    json_t *summary = json_loads(read_back("out/summary.json"), 0, NULL);
    json_t *probes = json_object_get(summary, "probes"), *one, *layer;
    size_t k, l;
    bool seen[2] = {false, false};
    json_array_foreach(probes, k, one) {
        double p = json_number_value(
            json_object_get(json_object_get(one, "best"), "p_holm"));
        bool noise = p >= 0.05;
        seen[noise] = true;
        cr_expect(marked("\n| best * ", (int)k) == noise, "%zu: %g", k, p);
        cr_expect(marked("\n| same ", (int)k) == noise, "%zu: %g", k, p);
        json_array_foreach(json_object_get(one, "layers"), l, layer) {
            p = json_number_value(json_object_get(layer, "p_holm"));
            snprintf(row, sizeof row, "\n| %zu ", l);
            cr_expect(marked(row, (int)k) == (p >= 0.05), "%zu: %g", l, p);
        }
    }
    cr_expect(seen[0] && seen[1]);
    json_decref(summary);
}

Test(probe_command, writes_tables_and_files) {
    char arguments[512];
    snprintf(arguments, sizeof arguments,
             "--chains %s --strata hops --baseline-acts 'same=%s' --out %s",
             f.chains, f.acts, f.out);
    cr_assert(eq(int, run(arguments), 0), "%s", read_back("stderr"));
    const char *shown = read_back("stdout");
    cr_expect(strstr(shown, "best *") != NULL);
    cr_expect(strstr(shown, "TF-IDF") != NULL);
    cr_expect(strstr(shown, "+0.0 [+0.0, +0.0]") != NULL);
    const char *csv = read_back("out/metrics.csv");
    cr_expect(eq(int,
                 strncmp(csv,
                         "dataset,model,stream,position,layer,"
                         "context,probe,strength,seed,fold,split,n,"
                         "accuracy,balanced_accuracy,auc,"
                         "within_chain_auc,brier,ci_low,ci_high\n",
                         133),
                 0));
    /* 2 positions x (4 layers x (5 folds + 1) + best), twice; permuted; 13
     * baselines, 10 of them fitted on 5 folds; heading */
    cr_expect(eq(int, count(csv, "\n"), 2 * 2 * 25 + 2 + 13 + 50 + 1));
    for (const char *line = csv; *line; line = strchr(line, '\n') + 1) {
        int commas = 0;
        for (const char *at = line; *at != '\n'; at++) commas += *at == ',';
        cr_assert(eq(int, commas, 18));
    }
    const char *table = read_back("out/table.md");
    cr_expect(strstr(table, "| best *") != NULL);
    /* of the control task and of what is left without surface */
    cr_expect(eq(int, count(table, "| layer (most folds) |"), 2));
    json_t *summary = json_loads(read_back("out/summary.json"), 0, NULL);
    cr_assert(summary != NULL);
    json_t *best =
        json_object_get(json_array_get(json_object_get(summary, "probes"), 0),
                        "best_layer_by_fold");
    cr_expect(eq(int, (int)json_integer_value(json_array_get(best, 4)),
                 TELLING_LAYER));
    json_decref(summary);
    /* never overwritten without --force; --force gives the same bytes */
    cr_expect(eq(int, run(arguments), 1));
    cr_expect(strstr(read_back("stderr"), "--force") != NULL);
    char *was = strdup(read_back("out/metrics.csv"));
    strcat(arguments, " --force --threads 1");
    cr_expect(eq(int, run(arguments), 0));
    cr_expect(eq(str, was, (char *)read_back("out/metrics.csv")));
    free(was);
}

/* A label file's own scores; a colon in a folder's name is no field. */
Test(probe_command, scores_as_baselines) {
    char arguments[512], path[160];
    snprintf(path, sizeof path, "%s/a:b", f.dir);
    cr_assert(eq(int, mkdir(path, 0777), 0));
    snprintf(path, sizeof path, "%s/a:b/given.jsonl", f.dir);
    FILE *file = fopen(path, "w");
    for (int c = 0; c < CHAINS; c++)
        fprintf(file,
                "{\"chain\":\"%s\",\"labels\":[1,0,1,0,1,0],\"scores\":{"
                "\"place\":[0,1,2,3,4,5],\"flat\":[1,1,1,1,1,null]}}\n",
                f.ids[c]);
    fclose(file);
    snprintf(arguments, sizeof arguments,
             "--positions mean --no-text --baseline-scores 'one=%s:flat' "
             "--baseline-scores 'two, both=%s' --out %s",
             path, path, f.out);
    cr_assert(eq(int, run(arguments), 0), "%s", read_back("stderr"));
    cr_expect(strstr(read_back("out/table.md"),
                     "- two, both: scores flat, place of given.jsonl.") !=
              NULL);
    cr_expect(strstr(read_back("out/metrics.csv"), ",\"two, both\",") != NULL);
    json_t *summary = json_loads(read_back("out/summary.json"), 0, NULL), *one;
    size_t i;
    int found = 0;
    json_array_foreach(json_object_get(summary, "baselines"), i, one) found +=
        strcmp(json_string_value(json_object_get(one, "name")), "one") == 0;
    cr_expect(eq(int, found, 1));
    json_decref(summary);
    cr_expect(eq(int, run("--baseline-scores nothing --out x"), 2));
    cr_expect(strstr(read_back("stderr"), "NAME=FILE:FIELD, got 'nothing'") !=
              NULL);
}

Test(probe_command, prints_json) {
    char arguments[512];
    snprintf(arguments, sizeof arguments, "--json --layers 2 --out %s", f.out);
    cr_assert(eq(int, run(arguments), 0), "%s", read_back("stderr"));
    json_t *summary = json_loads(read_back("stdout"), 0, NULL);
    cr_assert(summary != NULL);
    cr_expect(
        eq(sz, json_array_size(json_object_get(summary, "baselines")), 6));
    json_decref(summary);
}

Test(probe_command, refuses_wrong_usage) {
    cr_expect(eq(int, run(""), 2));
    cr_expect(eq(int, run("--out x --positions tokens"), 2));
    cr_expect(eq(int, run("--out x --strengths 1,-2"), 2));
    cr_expect(eq(int, run("--out x --folds 3 --inner-folds 3"), 2));
    cr_expect(eq(int, run("--out x --baseline-acts nofile"), 2));
}

Test(probe_command, says_what_does_not_fit) {
    char arguments[512];
    snprintf(arguments, sizeof arguments, "--layers 9 --out %s", f.out);
    cr_expect(eq(int, run(arguments), 2));
    snprintf(arguments, sizeof arguments, "--positions first --out %s", f.out);
    cr_expect(eq(int, run(arguments), 2));
    for (int i = 0; i < ROWS; i++)
        if (f.y[i] == 1) f.y[i] = 0;
    write_labels(&f, f.labels);
    snprintf(arguments, sizeof arguments, "--out %s", f.out);
    cr_expect(eq(int, run(arguments), 1));
    cr_expect(strstr(read_back("stderr"), "0 important") != NULL, "%s", text);
    char path[160];
    snprintf(path, sizeof path, "%s/out/metrics.csv", f.dir);
    cr_expect(ne(int, access(path, F_OK), 0));
}

/* --------------------------------------------------------- hostile input */

/* Files in the fixture's folder, made by sh from acts.h5 and labels.jsonl. */
static const char make_bad[] =
    "cd %s && sed 's/\"p/\"x/' labels.jsonl >nofit.jsonl && "
    ": >empty.jsonl && echo '{\"chain\":\"p0/0\",\"labels\":[]}' >none.jsonl &&"
    " sed 's/\\([[,]\\)1/\\10/g' labels.jsonl >zeros.jsonl && "
    "sed 's/\\([[,]\\)[01]/\\1null/g' labels.jsonl >nulls.jsonl && "
    "grep '\"p0/' labels.jsonl >one.jsonl && "
    "grep '\"p[0-3]/' labels.jsonl >four.jsonl && "
    "cat labels.jsonl one.jsonl >twice.jsonl && "
    "sed 's/\\[[01],/[2,/' labels.jsonl >two.jsonl && "
    "head -c 20000 acts.h5 >cut.h5 && head -c 40 acts.h5 >head.h5 && "
    ": >empty.h5 && cp labels.jsonl text.h5 && : >file && mkdir full && "
    "touch full/metrics.csv";

typedef struct row {
    const char *arguments; /* $D: the folder; a later option wins */
    int code;
    const char *words;
} row;

static const row rows[] = {
    {"--labels $D/nofit.jsonl", 1, "chain x0/0 is labelled but not in"},
    {"--labels $D/empty.jsonl", 1, "empty.jsonl is empty"},
    {"--labels $D/none.jsonl", 1, "chain p0/0: 0 labels in"},
    {"--labels $D/zeros.jsonl", 1, "zeros.jsonl: 0 important and"},
    {"--labels $D/nulls.jsonl", 1, "0 important and 0 removable"},
    {"--labels $D/one.jsonl", 1, "one.jsonl: its labelled steps are of 1 pr"},
    {"--labels $D/four.jsonl", 1, "of 4 problems; 5 folds by problem"},
    {"--labels $D/twice.jsonl", 1, "twice.jsonl line 81: chain \"p0/0\""},
    {"--labels $D/two.jsonl", 1, "two.jsonl line 1: labels[0] is not 1, 0"},
    {"--labels $D/nowhere", 1, "nowhere: cannot open"},
    {"--labels $D/acts.h5", 1, "acts.h5 line 1"},
    {"--acts $D/cut.h5", 1, "cut.h5: cannot open as HDF5: truncated"},
    {"--acts $D/head.h5", 1, "head.h5"},
    {"--acts $D/empty.h5", 1, "empty.h5: is empty"},
    {"--acts $D/text.h5", 1, "text.h5: cannot open as HDF5"},
    {"--acts $D/nowhere", 1, "nowhere: cannot open"},
    {"--acts $D", 1, "not a regular file"},
    {"--out $D/file", 1, "file is there and not a folder"},
    {"--out $D/full", 1, "metrics.csv"},
    {"--out $D/no/where", 1, "no/where: cannot make the folder"},
    {"--layers 4", 2, "of layers 0 to 3"},
    {"--layers 0-4", 2, "of layers 0 to 3"},
    {"--layers 3-1", 2, "'3-1'"},
    {"--layers 99999999999999999999", 2, "of layers 0 to 3"},
    {"--layers ''", 2, "of layers 0 to 3"},
    {"--positions mean,first", 2, "no activations at position first"},
    {"--streams attn", 2, "no activations of stream attn"},
    {"--chains $D/labels.jsonl", 1, "labels.jsonl line 1"},
    {"--baseline-acts x=$D/other.h5", 1, "other.h5: step 0 of chain p0/0"},
    {"--baseline-acts x=$D/nowhere", 1, "nowhere: cannot open"},
    {"--baseline-acts x=$D/cut.h5", 1, "cut.h5: cannot open"},
    {"--strata nothing", 1, "--strata nothing: no important step"},
};

/* One clear sentence each, before any training, and nothing left behind. */
Test(probe_command, hostile_input, .timeout = 120) {
    char command[2048];
    ks_err err = {0};
    for (int c = 0; c < CHAINS; c++) f.ids[c][0] = 'z';
    cr_assert(eq(int, write_acts(&f, f.other, 1u << KS_MEAN, &err), 0));
    snprintf(command, sizeof command, make_bad, f.dir);
    cr_assert(eq(int, system(command), 0));
    for (size_t i = 0; i < KS_COUNT(rows); i++) {
        snprintf(command, sizeof command,
                 "D=%s; %s probe --quiet --acts $D/acts.h5 --labels "
                 "$D/labels.jsonl --out $D/out %s 2>$D/stderr >$D/stdout",
                 f.dir, KS_PROGRAM, rows[i].arguments);
        int status = system(command);
        const char *said = read_back("stderr");
        cr_expect(eq(int, WEXITSTATUS(status), rows[i].code), "%s: %s",
                  rows[i].arguments, said);
        cr_expect(strstr(said, rows[i].words) != NULL, "%s: '%s' lacks '%s'",
                  rows[i].arguments, said, rows[i].words);
        cr_expect(eq(int, count(said, "\n"), 1), "%s", said);
        cr_expect(ne(int, access(f.out, F_OK), 0), "%s", rows[i].arguments);
        cr_expect(eq(int, (int)strlen(read_back("stdout")), 0));
    }
}

/* A step without a token is NaN, valid 0: left out, counted, no error. */
Test(probe_command, steps_without_activations) {
    char arguments[512];
    int64_t labelled = 0;
    ks_err err = {0};
    for (int i = 0; i < ROWS; i += 7) f.steps[i].valid = 0;
    for (int i = 0; i < ROWS; i++) labelled += f.y[i] >= 0 && !f.steps[i].valid;
    cr_assert(labelled > 50);
    cr_assert(eq(
        int, write_acts(&f, f.acts, 1u << KS_MEAN | 1u << KS_BEFORE, &err), 0));
    snprintf(arguments, sizeof arguments, "--json --layers 2 --out %s", f.out);
    cr_assert(eq(int, run(arguments), 0), "%s", read_back("stderr"));
    json_t *summary = json_loads(read_back("stdout"), 0, NULL);
    json_t *counted =
        json_object_get(json_object_get(summary, "rows"), "invalid");
    cr_expect(eq(i64, json_integer_value(counted), labelled));
    json_decref(summary);
}

#endif
