/* keystep score --chains against transformers on the demo's models
 * (tests/golden/make_step_scores.py): means of log-probabilities and entropies
 * within 1e-4, verdicts (sums over the words' tokens at logits of up to 60)
 * within 2e-4 and 1e-5 of their size. And what it does with files. */
#include <jansson.h>

#include "base.h"
#include "compare.h"
#include "shell.h"

#ifdef KS_PROGRAM

#define MODELS KS_TEST_DATA "/../../experiments/demo/models/"

enum { MOST = 64 };

static char folder[64], said[4096];

static void make_folder(void) {
    make_temporary(folder, "steps");
    cr_assert(chdir(folder) == 0);
}

static void drop_folder(void) {
    drop_temporary(folder);
}

TestSuite(score_chains, .init = make_folder, .fini = drop_folder);

/* The judge's text is longer than the 512 tokens that the demo's models were
 * made for: their weights behind a config of 4096. */
static void copy_model(const char *name) {
    char command[1024];
    snprintf(command, sizeof command,
             "rm -rf model && cp -r '" MODELS "%s' model && sed -i "
             "'s/\"max_position_embeddings\": 512/"
             "\"max_position_embeddings\": 4096/' model/config.json",
             name);
    cr_assert_eq(system(command), 0);
}

static json_t *golden(void) {
    json_t *all =
        json_load_file(KS_TEST_DATA "/forward/step_scores.json", 0, NULL);
    cr_assert(all);
    return all;
}

static void write_chains(const json_t *all, const char *path) {
    FILE *file = fopen(path, "w");
    size_t i;
    json_t *c;
    cr_assert(file);
    json_array_foreach(json_object_get(all, "chains"), i, c) {
        cr_assert_eq(json_dumpf(c, file, JSON_COMPACT), 0);
        fputc('\n', file);
    }
    fclose(file);
}

static int run(const char *arguments) {
    char command[1024];
    snprintf(command, sizeof command,
             "{ '%s' score --threads 2 --model model --chains chains.jsonl %s; "
             "} 2>&1",
             KS_PROGRAM, arguments);
    return shell_run(command, said, sizeof said);
}

static void expect_list(const char *what, const json_t *got, const json_t *want,
                        double atol, double rtol) {
    float values[MOST];
    double ref[MOST];
    size_t n = json_array_size(want), kept = 0;
    cr_assert(n > 0 && n <= MOST && json_array_size(got) == n, "%s: %zu of %zu",
              what, json_array_size(got), n);
    for (size_t i = 0; i < n; i++) {
        json_t *a = json_array_get(got, i), *b = json_array_get(want, i);
        cr_expect(json_is_null(a) == json_is_null(b), "%s: %zu", what, i);
        if (json_is_null(b)) continue;
        cr_assert(json_is_number(a), "%s: %zu", what, i);
        values[kept] = (float)json_number_value(a);
        ref[kept++] = json_number_value(b);
    }
    cr_expect(close_f32(what, values, ref, kept, atol, rtol), "%s", what);
}

typedef struct place {
    const json_t *all;
    const char *model;
    size_t n;
} place;

static ks_status expect_line(void *user, size_t line, json_t *got,
                             ks_err *err) {
    place *p = user;
    char what[96];
    (void)line;
    (void)err;
    json_t *chain = json_array_get(json_object_get(p->all, "chains"), p->n);
    json_t *want = json_array_get(
        json_object_get(json_object_get(p->all, "scores"), p->model), p->n++);
    json_t *scores = json_object_get(got, "scores");
    cr_expect(json_equal(json_object_get(got, "chain"),
                         json_object_get(chain, "id")));
    cr_expect_eq(json_array_size(json_object_get(got, "labels")),
                 json_array_size(json_object_get(chain, "steps")));
    cr_expect_eq(json_object_size(scores), 4);
    static const char *const names[] = {"logprob", "entropy", "judge",
                                        "judge-step"};
    for (size_t k = 0; k < 4; k++) {
        snprintf(what, sizeof what, "%s chain %zu %s", p->model, p->n,
                 names[k]);
        expect_list(what, json_object_get(scores, names[k]),
                    json_object_get(want, names[k]), k < 2 ? 1e-4 : 2e-4,
                    k < 2 ? 0 : 1e-5);
    }
    return KS_OK;
}

Test(score_chains, equals_transformers) {
    static const char *const models[] = {"demo-a", "demo-b"};
    json_t *all = golden();
    write_chains(all, "chains.jsonl");
    for (size_t i = 0; i < KS_COUNT(models); i++) {
        ks_err err = {0};
        place p = {all, models[i], 0};
        copy_model(models[i]);
        cr_assert_eq(run("--what logprob,entropy,judge,judge-step --out "
                         "scores.jsonl --force"),
                     0, "%s", said);
        cr_expect(strstr(said, "1 of 9 steps lack a score"), "%s", said);
        cr_assert_eq(ks_jsonl_read("scores.jsonl", expect_line, &p, &err),
                     KS_OK, "%s", err.text);
        cr_expect_eq(p.n, json_array_size(json_object_get(all, "chains")));
    }
    json_decref(all);
}

/* The same bytes whatever else is asked, with one thread or a small store, and
 * of an interrupted run that goes on. */
Test(score_chains, same_bytes) {
    json_t *all = golden();
    write_chains(all, "chains.jsonl");
    json_decref(all);
    copy_model("demo-a");
    cr_assert_eq(run("--what logprob --out whole.jsonl"), 0, "%s", said);
    cr_assert_eq(
        run("--what logprob --out again.jsonl --threads 1 --memory 24M "
            "--batch-tokens 32"),
        0, "%s", said);
    cr_expect(same_files("whole.jsonl", "again.jsonl"));
    cr_assert_eq(run("--what entropy,logprob --out both.jsonl"), 0, "%s", said);
    cr_assert_eq(system("for f in whole both; do grep -o '\"logprob\":[^]]*' "
                        "$f.jsonl >$f.list; done; cmp whole.list both.list"),
                 0);
    /* the last chain is missing, and a torn line behind the others */
    cr_assert_eq(system("head -2 whole.jsonl >part.jsonl.part; tail -1 "
                        "whole.jsonl | head -c 40 >>part.jsonl.part"),
                 0);
    cr_assert_eq(run("--what logprob --out part.jsonl --resume --json"), 0,
                 "%s", said);
    cr_expect(strstr(said, "\"taken_over\": 2") ||
                  strstr(said, "\"taken_over\":2"),
              "%s", said);
    cr_expect(same_files("whole.jsonl", "part.jsonl"));
    cr_expect(access("part.jsonl.part", F_OK) != 0);
    /* what is whole stays; other settings are refused */
    cr_assert_eq(run("--what logprob --out whole.jsonl --resume"), 0, "%s",
                 said);
    cr_expect(same_files("whole.jsonl", "part.jsonl"));
    cr_expect_eq(run("--what entropy --out whole.jsonl --resume"), 1);
    cr_expect(strstr(said, "no \"entropy\" with 5 scores"), "%s", said);
    copy_model("demo-b");
    cr_expect_eq(run("--what logprob --out whole.jsonl --resume"), 1);
    cr_expect(strstr(said, "scored with other settings: "), "%s", said);
    cr_expect_eq(run("--what logprob --out whole.jsonl"), 1);
    cr_expect(strstr(said, "--force"), "%s", said);
}

/* Questions from --problems; beyond the context null. */
Test(score_chains, questions_and_context) {
    cr_assert_eq(
        system("echo '{\"id\":\"c/0\",\"problem\":\"c\",\"prompt\":\"So \","
               "\"text\":\"Karl holds 2 coins. Dora has 3.\",\"steps\":[{"
               "\"begin\":0,\"end\":19},{\"begin\":19,\"end\":31}]}' "
               ">chains.jsonl"),
        0);
    copy_model("demo-a");
    cr_expect_eq(run("--what judge --out a.jsonl"), 1);
    cr_expect(strstr(said, "chain c/0 has no \"question\", which the judge "
                           "reads; --problems FILE has that of problem c"),
              "%s", said);
    cr_assert_eq(system("echo '{\"id\":\"c\",\"question\":\"How many?\"}' "
                        ">problems.jsonl"),
                 0);
    cr_assert_eq(run("--what judge --problems problems.jsonl --out a.jsonl"), 0,
                 "%s", said);
    /* the same text in the chain itself, the same verdicts */
    cr_assert_eq(system("grep -o '\"judge\":[^]]*' a.jsonl >a.list; sed -i "
                        "'s/\"prompt\"/\"question\":\"How many?\",\"prompt\"/' "
                        "chains.jsonl"),
                 0);
    cr_assert_eq(run("--what judge --out b.jsonl"), 0, "%s", said);
    cr_assert_eq(system("grep -o '\"judge\":[^]]*' b.jsonl >b.list; cmp a.list "
                        "b.list && ! grep null b.list"),
                 0);
    /* as the models are: 512 tokens do not hold the judge's text */
    cr_assert_eq(system("sed -i 's/: 4096/: 512/' model/config.json"), 0);
    cr_assert_eq(run("--what judge,logprob --out c.jsonl"), 0, "%s", said);
    cr_expect(strstr(said, "2 of 2 steps lack a score"), "%s", said);
    cr_assert_eq(
        system("grep -q '\"judge\":\\[null,null\\]' c.jsonl && grep -q "
               "'\"logprob\":\\[-' c.jsonl"),
        0);
    cr_expect_eq(run("--what judges --out d.jsonl"), 2);
    cr_expect(strstr(said, "got 'judges'"), "%s", said);
}

Test(score_chains, options_that_need_chains) {
    char command[512];
    snprintf(command, sizeof command,
             "'%s' score --model x --what judge </dev/null 2>&1", KS_PROGRAM);
    cr_expect_eq(shell_run(command, said, sizeof said), 2);
    cr_expect(strstr(said, "--what goes with --chains"), "%s", said);
}

#endif
