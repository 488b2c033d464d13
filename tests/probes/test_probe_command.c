/* keystep probe as a user calls it. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
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
    cr_assert(eq(int, ks_read_file(path, &text, &n, NULL), KS_OK), "%s", path);
    return text;
}

static int count(const char *in, const char *what) {
    int n = 0;
    for (const char *at = in; (at = strstr(at, what)); at++) n++;
    return n;
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
    /* 2 positions x (4 layers x (5 folds + 1) + best), twice; permuted; 8
     * baselines, 6 of them fitted on 5 folds; heading */
    cr_expect(eq(int, count(csv, "\n"), 2 * 2 * 25 + 2 + 8 + 30 + 1));
    for (const char *line = csv; *line; line = strchr(line, '\n') + 1) {
        int commas = 0;
        for (const char *at = line; *at != '\n'; at++) commas += *at == ',';
        cr_assert(eq(int, commas, 18));
    }
    cr_expect(strstr(read_back("out/table.md"), "| best *") != NULL);
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

Test(probe_command, prints_json) {
    char arguments[512];
    snprintf(arguments, sizeof arguments, "--json --layers 2 --out %s", f.out);
    cr_assert(eq(int, run(arguments), 0), "%s", read_back("stderr"));
    json_t *summary = json_loads(read_back("stdout"), 0, NULL);
    cr_assert(summary != NULL);
    cr_expect(
        eq(sz, json_array_size(json_object_get(summary, "baselines")), 5));
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

#endif
