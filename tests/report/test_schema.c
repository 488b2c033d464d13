/* What report reads is held against a table: each wrong file gets one sentence
 * with the file, the place and what was expected. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <criterion/parameterized.h>

#include "report/runs.h"
#include "shell.h"

static char folder[64];

static void setup(void) {
    make_temporary(folder, "schema");
}

static void teardown(void) {
    drop_temporary(folder);
}

TestSuite(report_schema, .init = setup, .fini = teardown);

static json_t *whole(void) {
    json_error_t reason;
    json_t *all =
        json_load_file(KS_TEST_DATA "/report/full/summary.json", 0, &reason);
    cr_assert(all != NULL, "%s", reason.text);
    return all;
}

static void put(const char *name, const char *text, size_t n) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    cr_assert(file && fwrite(text, 1, n, file) == n && fclose(file) == 0);
}

/* Status and sentence of reading the folder. */
static ks_status read_runs(ks_err *err) {
    const char *arguments[] = {folder};
    ks_runs runs;
    *err = (ks_err){0};
    ks_status st = ks_runs_read(&runs, arguments, 1, err);
    if (st == KS_OK) ks_runs_free(&runs);
    return st;
}

static void expect(const char *sentence) {
    ks_err err;
    cr_expect(ne(int, read_runs(&err), KS_OK), "%s", sentence);
    cr_expect(strstr(err.text, sentence) != NULL, "'%s', expected '%s'",
              err.text, sentence);
    cr_expect(strstr(err.text, ".json") != NULL, "no file in '%s'", err.text);
}

Test(report_schema, a_whole_one_is_read) {
    const char *arguments[] = {"A=" KS_TEST_DATA "/report/full",
                               KS_TEST_DATA "/report/full"};
    ks_runs runs;
    ks_err err = {0};
    cr_assert(eq(int, ks_runs_read(&runs, arguments, 2, &err), KS_OK), "%s",
              err.text);
    cr_expect(eq(str, runs.at[0].name, (char *)"A"));
    cr_expect(eq(str, runs.at[1].name, (char *)"full"));
    cr_expect(runs.at[0].probes == NULL && runs.at[0].transfer == NULL);
    ks_runs_free(&runs);
}

/* What is put where, and what is said. path: members and places of the whole,
 * "probes 0 best"; the last is replaced by value, or goes where that is "". */
typedef struct change {
    char path[96], value[96], sentence[160];
} change;

ParameterizedTestParameters(report_schema, wrong) {
    static change all[] = {
        {"model", "7", "model is an integer, expected a string"},
        {"model", "", "model is nothing, expected it to be there"},
        {"model", "null", "model is null, expected a value"},
        {"format_version", "2",
         "format_version is 2, expected a whole number "
         "from 1 to 1"},
        {"probes", "{}", "probes is an object, expected an array"},
        {"probes 0", "[]", "probes[0] is an array, expected an object"},
        {"probes 1 stream", "\"<b>\"",
         "probes[1].stream is '<b>', expected "
         "resid"},
        {"probes 1 position", "3", "probes[1].position is an integer"},
        {"probes 0 layers 2 layer", "-1", "probes[0].layers[2].layer is -1"},
        {"probes 0 layers 2 layer", "1.5", "layers[2].layer is a real"},
        {"probes 0 layers 3 auc low", "\"x\"",
         "probes[0].layers[3].auc.low is a string, expected a number from 0 to "
         "1 or null"},
        {"probes 0 layers 3 auc high", "1.01",
         "probes[0].layers[3].auc.high is 1.01, expected a number from 0 to 1"},
        {"probes 0 layers 3 auc high", "", "auc.high is nothing"},
        {"probes 0 layers 3 balanced_accuracy", "0.5",
         "balanced_accuracy is a real number, expected an object with value"},
        {"probes 0 best calibration bins 1 n", "-3", "bins[1].n is -3"},
        {"probes 0 best_layer_by_fold 1", "{}", "best_layer_by_fold[1] is"},
        {"baselines 0 best_layer_minus_this 0 value", "-1.5",
         "baselines[0].best_layer_minus_this[0].value is -1.5"},
        {"baselines 1 name", "false", "baselines[1].name is a boolean"},
        {"analyses", "[]", "analyses is an array, expected an object"},
        {"analyses layer_transfer 0 balanced_accuracy 1", "[0.5]",
         "balanced_accuracy[1] has 1 entries, the row ahead of it 6"},
        {"analyses layer_transfer 0 layers", "[0, 1]",
         "analyses.layer_transfer[0].balanced_accuracy is 6 by 6, expected 2 "
         "by 2"},
        {"analyses learning_curve 0 points 1 problems", "1e30",
         "points[1].problems is 1e+30"},
        {"claims 2 question", "null", "claims[2].question is null"},
        {"claims 0 p", "2", "claims[0].p is 2, expected a number from 0 to 1"},
        {"rows steps", "1e3", "rows.steps is a real number"},
        {"protocols 0 steps 1 sd", "\"\"", "protocols[0].steps[1].sd is a"},
        {"published_texts 0 inputs", "-1", "published_texts[0].inputs is -1"},
    };
    return cr_make_param_array(change, all, KS_COUNT(all));
}

/* Replaces, or takes away, what the path leads to. */
static void alter(json_t *at, const char *path, const char *value) {
    char words[96], *save = NULL;
    snprintf(words, sizeof words, "%s", path);
    for (char *word = strtok_r(words, " ", &save), *next; word; word = next) {
        next = strtok_r(NULL, " ", &save);
        size_t place = strtoul(word, NULL, 10);
        if (next) {
            at = json_is_array(at) ? json_array_get(at, place)
                                   : json_object_get(at, word);
            cr_assert(at != NULL, "%s leads nowhere", path);
        } else if (!*value) {
            json_object_del(at, word);
        } else {
            json_t *fresh = json_loads(value, JSON_DECODE_ANY, NULL);
            cr_assert(fresh != NULL);
            if (json_is_array(at))
                json_array_set_new(at, place, fresh);
            else
                json_object_set_new(at, word, fresh);
        }
    }
}

ParameterizedTest(change *c, report_schema, wrong) {
    setup();
    json_t *all = whole();
    alter(all, c->path, c->value);
    char *text = json_dumps(all, JSON_COMPACT);
    put("summary.json", text, strlen(text));
    expect(c->sentence);
    free(text);
    json_decref(all);
    teardown();
}

Test(report_schema, files_that_are_no_summary) {
    static const char *const texts[][2] = {
        {"", "is empty, expected a JSON object"},
        {"[]", "the whole is an array, expected an object"},
        {"{", "summary.json line 1"},
        {"{\"model\":NaN}", "summary.json line 1"},
        {"{\"model\":1e999}", "summary.json line 1"},
        {"{\"model\":\"a\",\"model\":\"b\"}", "duplicate"},
        {"{\"model\":\"\\u0000\"}", "summary.json line 1"},
        {"{\"model\":\"\xff\"}", "summary.json line 1"}};
    for (size_t i = 0; i < KS_COUNT(texts); i++) {
        put("summary.json", texts[i][0], strlen(texts[i][0]));
        expect(texts[i][1]);
    }
    /* nested deeper than a parser should follow */
    char *deep = malloc(400000);
    memset(deep, '[', 400000);
    put("summary.json", deep, 400000);
    expect("summary.json line 1");
    free(deep);
}

Test(report_schema, lists_and_texts_have_an_end) {
    json_t *all = whole(), *claim, *claims = json_object_get(all, "claims");
    claim = json_array_get(claims, 0);
    for (int i = 0; i < 2000; i++) json_array_append(claims, claim);
    char *text = json_dumps(all, JSON_COMPACT);
    put("summary.json", text, strlen(text));
    expect("claims has 2004 entries, expected at most 1024");
    free(text);
    json_array_clear(claims);
    char *name = malloc(5001);
    memset(name, 'x', 5000);
    name[5000] = 0;
    json_object_set_new(all, "model", json_string(name));
    text = json_dumps(all, JSON_COMPACT);
    put("summary.json", text, strlen(text));
    expect("model has 5000 bytes, expected at most 400");
    free(text);
    free(name);
    json_decref(all);
    char command[160], out[8];
    snprintf(command, sizeof command, "truncate -s 100M %s/summary.json",
             folder);
    cr_assert(eq(int, shell_run(command, out, sizeof out), 0));
    expect("has 104857600 bytes, expected at most 67108864");
}

static void put_transfer(const char *matrix) {
    char text[1024];
    snprintf(text, sizeof text,
             "{\"format\":\"keystep transfer\",\"format_version\":1,"
             "\"across_models\":[{\"stream\":\"resid\",\"position\":\"mean\","
             "\"names\":[\"a\",\"b\"],\"balanced_accuracy\":%s}],"
             "\"across_tasks\":[]}",
             matrix);
    put("transfer.json", text, strlen(text));
}

Test(report_schema, squares_of_transfer) {
    ks_err err;
    const char *one = "{\"value\":0.5,\"low\":0.4,\"high\":null}";
    char matrix[400];
    snprintf(matrix, sizeof matrix, "[[%s,null],[%s,%s]]", one, one, one);
    put_transfer(matrix);
    cr_expect(eq(int, read_runs(&err), KS_OK), "%s", err.text);
    put_transfer("[[null]]");
    expect("across_models[0].balanced_accuracy has 1 rows, expected 2");
    put_transfer("[[null,null],[null]]");
    expect("balanced_accuracy[1] has 1 entries, expected 2");
    put_transfer("[[null,0.5],[null,null]]");
    expect("balanced_accuracy[0][1] is a real number, expected an object");
}

Test(report_schema, folders_and_names) {
    ks_runs runs;
    ks_err err = {0};
    const char *twice[] = {KS_TEST_DATA "/report/full",
                           KS_TEST_DATA "/report/full"};
    cr_expect(eq(int, ks_runs_read(&runs, twice, 2, &err), KS_USAGE));
    cr_expect(strstr(err.text, "two runs are called 'full'") != NULL);
    const char *nowhere[] = {"/nowhere"};
    cr_expect(eq(int, ks_runs_read(&runs, nowhere, 1, &err), KS_IO));
    const char *empty[] = {folder};
    cr_expect(eq(int, ks_runs_read(&runs, empty, 1, &err), KS_IO));
    cr_expect(strstr(err.text, "neither summary.json") != NULL, "%s", err.text);
    const char *bare[] = {"=x"}, *end[] = {"x="}, *bytes[] = {"\xff=x"};
    cr_expect(eq(int, ks_runs_read(&runs, bare, 1, &err), KS_USAGE));
    cr_expect(eq(int, ks_runs_read(&runs, end, 1, &err), KS_USAGE));
    cr_expect(eq(int, ks_runs_read(&runs, bytes, 1, &err), KS_USAGE));
}
