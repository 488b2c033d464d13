/* keystep demo --json, on the first of the demo's problems: one object on
 * standard output, which says what the files do. */
#include <jansson.h>

#include "shell.h"

#ifdef KS_PROGRAM

#define DEMO KS_TEST_DATA "/../../experiments/demo"

static char folder[64], said[4096];

/* A demo folder as KEYSTEP_DEMO names it, with few problems. */
static void make_folder(void) {
    make_temporary(folder, "demo");
    cr_assert(chdir(folder) == 0);
    cr_assert(system("mkdir few && ln -s '" DEMO "/models' few/models && "
                     "head -n 80 '" DEMO "/problems-a.jsonl' "
                     ">few/problems-a.jsonl") == 0);
}

static void drop_folder(void) {
    drop_temporary(folder);
}

TestSuite(demo, .init = make_folder, .fini = drop_folder, .timeout = 600);

static json_int_t lines_of(const char *path) {
    FILE *file = fopen(path, "r");
    json_int_t n = 0;
    cr_assert(file, "%s", path);
    for (int c; (c = getc(file)) != EOF;) n += c == '\n';
    fclose(file);
    return n;
}

static json_int_t count(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    cr_assert(json_is_integer(value), "no count of %s", key);
    return json_integer_value(value);
}

static void expect_counts(const json_t *o) {
    cr_expect_eq(count(o, "chains"), lines_of("o/sampled.jsonl"));
    cr_expect_eq(count(o, "chains"), 80);
    cr_expect_eq(count(o, "probed"), lines_of("o/chains.jsonl"));
    cr_expect_geq(count(o, "probed"), 20);
    cr_expect_eq(
        count(o, "probed") + count(o, "one_group") + count(o, "broken"), 80);
    cr_expect(count(o, "correct") > 40 && count(o, "correct") <= 80);
}

/* The file's one JSON value; more behind it is an error. */
static json_t *load(const char *path) {
    json_error_t reason;
    json_t *o = json_load_file(path, 0, &reason);
    cr_assert(o, "%s line %d: %s", path, reason.line, reason.text);
    return o;
}

static int demo(const char *args) {
    char command[1024];
    snprintf(command, sizeof command,
             "KEYSTEP_DEMO=few '" KS_PROGRAM "' demo --json --out o %s", args);
    return shell_run(command, said, sizeof said);
}

Test(demo, json_is_one_object) {
    cr_assert_eq(demo(">all.json 2>words"), 0);
    json_t *o = load("all.json"), *summary = load("o/probes/summary.json");
    cr_expect(json_equal(json_object_get(o, "probe"), summary));
    expect_counts(o);
    json_decref(summary);
    json_decref(o);
    /* commands and what they print are among the words */
    cr_expect_eq(system("grep -q '^\\$ keystep probe' words && "
                        "grep -q '^o/acts.h5: ' words"),
                 0);
    cr_assert_eq(demo("2>&1"), 1);
    cr_expect(strstr(said, "o/sampled.jsonl") && !strchr(said, '{'), "%s",
              said);
}

Test(demo, quiet_json_is_the_object_alone) {
    if (getenv("KS_UNDER_SANITIZER")) return; /* so is it in chains_only */
    cr_assert_eq(demo("--quiet >all.json 2>&1"), 0);
    json_t *o = load("all.json");
    expect_counts(o);
    json_decref(o);
}

/* What experiments/demo/experiment.yaml takes is what the whole demo probes. */
Test(demo, chains_only) {
    cr_assert_eq(demo("--quiet --chains-only >all.json 2>&1"), 0);
    json_t *o = load("all.json");
    expect_counts(o);
    cr_expect(!json_object_get(o, "probe"));
    json_decref(o);
    cr_expect_eq(lines_of("o/chains.jsonl"), lines_of("o/labels.jsonl"));
    cr_expect_eq(system("test \"$(ls o | tr '\\n' ' ')\" = "
                        "'chains.jsonl labels.jsonl sampled.jsonl '"),
                 0);
    cr_assert_eq(system("mv o only"), 0);
    cr_assert_eq(demo("--quiet >all.json 2>&1"), 0);
    cr_expect_eq(system("cmp o/chains.jsonl only/chains.jsonl && "
                        "cmp o/labels.jsonl only/labels.jsonl"),
                 0);
}

#endif
