/* keystep score against transformers on the demo's models: the continuation's
 * ids, and their log-probabilities within an absolute 1e-4 (float32 forwards
 * that add in other orders; worst seen 3.4e-5, of -28). Golden numbers:
 * tests/golden/make_score.py. */
#include <jansson.h>

#include "base.h"
#include "compare.h"
#include "shell.h"

#ifdef KS_PROGRAM

#define MODELS KS_TEST_DATA "/../../experiments/demo/models/"

enum { MOST = 256 }; /* tokens of a continuation */
static const double TOLERANCE = 1e-4;

static char folder[64];

static void make_folder(void) {
    make_temporary(folder, "score");
    cr_assert(chdir(folder) == 0);
}

static void drop_folder(void) {
    drop_temporary(folder);
}

TestSuite(score, .init = make_folder, .fini = drop_folder);

static void write_cases(const json_t *cases) {
    FILE *file = fopen("in.jsonl", "w");
    cr_assert(file);
    size_t i;
    json_t *c;
    json_array_foreach((json_t *)(uintptr_t)cases, i, c) {
        cr_assert_eq(json_dumpf(c, file, JSON_COMPACT), 0);
        fputc('\n', file);
    }
    cr_assert_eq(fclose(file), 0);
}

static void expect_values(const char *what, const json_t *got,
                          const json_t *want) {
    float values[MOST];
    double ref[MOST];
    size_t n = json_array_size(want);
    cr_assert(n <= MOST && json_array_size(got) == n, "%s: %zu, expected %zu",
              what, json_array_size(got), n);
    for (size_t i = 0; i < n; i++) {
        json_t *value = json_array_get(got, i);
        cr_assert(json_is_number(value), "%s: %zu is no number", what, i);
        values[i] = (float)json_number_value(value);
        ref[i] = json_number_value(json_array_get(want, i));
    }
    cr_expect(close_f32(what, values, ref, n, TOLERANCE, 0), "%s", what);
}

typedef struct place {
    const char *model;
    const json_t *cases;
    size_t done, values;
} place;

static ks_status expect_line(void *user, size_t line, json_t *got,
                             ks_err *err) {
    place *p = user;
    char what[96];
    const json_t *want = json_array_get(p->cases, p->done++);
    (void)err;
    snprintf(what, sizeof what, "%s line %zu", p->model, line);
    cr_assert(want, "%s: nothing was asked", what);
    cr_expect(
        json_equal(json_object_get(got, "ids"), json_object_get(want, "ids")),
        "%s: other ids", what);
    expect_values(what, json_object_get(got, "logprobs"),
                  json_object_get(want, "logprobs"));
    p->values += json_array_size(json_object_get(want, "logprobs"));
    return KS_OK;
}

static void expect_model(const char *model, const json_t *cases,
                         size_t n_values) {
    char command[1024], said[1024];
    ks_err err = {0};
    place p = {.model = model, .cases = cases};
    write_cases(cases);
    snprintf(command, sizeof command,
             "{ '%s' score --threads 1 --model '" MODELS
             "%s' < in.jsonl > out.jsonl; } 2>&1",
             KS_PROGRAM, model);
    cr_assert_eq(shell_run(command, said, sizeof said), 0, "%s", said);
    cr_assert_eq(ks_jsonl_read("out.jsonl", expect_line, &p, &err), KS_OK, "%s",
                 err.text);
    cr_expect_eq(p.done, json_array_size(cases), "%s: %zu answers", model,
                 p.done);
    cr_expect_geq(p.values, n_values, "%s: %zu values", model, p.values);
}

Test(score, equals_transformers) {
    json_t *root = json_load_file(KS_TEST_DATA "/forward/score.json", 0, NULL);
    cr_assert(root);
    const json_t *models = json_object_get(root, "models");
    static const struct {
        const char *name;
        size_t n_values;
    } all[] = {{"demo-a", 100}, {"demo-b", 200}};
    cr_assert_eq(json_object_size(models), KS_COUNT(all));
    for (size_t i = 0; i < KS_COUNT(all); i++)
        expect_model(
            all[i].name,
            json_object_get(json_object_get(models, all[i].name), "cases"),
            all[i].n_values);
    json_decref(root);
}

#endif
