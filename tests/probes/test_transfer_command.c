/* keystep transfer as a user calls it: two models read the chains of one. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

#include "chains.h"
#include "shell.h"

#ifdef KS_PROGRAM

#define DEMO KS_TEST_DATA "/../../experiments/demo"
#define SETS "--set A=a.h5:labels.jsonl --set B=b.h5:labels.jsonl --set r=r.h5 "
#define FEW "--bootstrap 200 --layers 0,4-5 --quiet "

static char folder[64], out[1 << 16];

/* Exit code of a shell line in the folder; out gets what it prints. */
static int sh(const char *format, ...) {
    static char line[2048], command[4096];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    snprintf(command, sizeof command,
             "cd %s && K=%s D=%s && export OMP_WAIT_POLICY=passive && "
             "{ %s; } 2>&1",
             folder, KS_PROGRAM, DEMO, line);
    return shell_run(command, out, sizeof out);
}

/* Every other step is important: the place, which a layer tells. */
static void write_labels(void) {
    char path[128];
    ks_chains chains = {0};
    ks_err err = {0};
    snprintf(path, sizeof path, "%s/chains.jsonl", folder);
    cr_assert(
        eq(int, ks_chains_read(&chains, path, KS_KEEP_FIELDS, &err), KS_OK),
        "%s", err.text);
    snprintf(path, sizeof path, "%s/labels.jsonl", folder);
    FILE *file = fopen(path, "w");
    for (size_t c = 0; c < chains.n; c++) {
        fprintf(file, "{\"chain\":\"%s\",\"labels\":[", chains.at[c].id);
        for (int32_t i = 0; i < chains.at[c].n_steps; i++)
            fprintf(file, "%s%d", i ? "," : "", i & 1);
        fprintf(file, "]}\n");
    }
    fclose(file);
    ks_chains_free(&chains);
}

static void setup(void) {
    make_temporary(folder, "transfer");
    cr_assert(eq(int,
                 sh("head -n 30 $D/problems-a.jsonl >p.jsonl && "
                    "$K generate --model $D/models/demo-a --problems p.jsonl "
                    "--out chains.jsonl --temperature 1 --instruction= "
                    "--max-new 320 --quiet && "
                    "for m in a b; do $K capture --model $D/models/demo-$m "
                    "--chains chains.jsonl --out $m.h5 --positions mean,last "
                    "--truncate --quiet || exit 1; done && "
                    "$K capture --model $D/models/demo-a --random-weights 1 "
                    "--chains chains.jsonl --out r.h5 --positions mean "
                    "--truncate --quiet"),
                 0),
              "%s", out);
    write_labels();
}

static void teardown(void) {
    drop_temporary(folder);
}

TestSuite(transfer_command, .init = setup, .fini = teardown);

static char *read_back(const char *name) {
    char path[128], *text;
    size_t n;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    cr_assert(eq(int, ks_read_file(path, SIZE_MAX, &text, &n, NULL), KS_OK),
              "%s", path);
    return text;
}

static json_t *at(json_t *matrix, size_t i, size_t j) {
    return json_array_get(json_array_get(matrix, i), j);
}

static double value_at(json_t *object, const char *name, size_t i, size_t j) {
    json_t *cell = at(json_object_get(object, name), i, j);
    json_t *value = json_object_get(cell, "value");
    return json_is_number(value) ? json_number_value(value) : NAN;
}

Test(transfer_command, writes_matrices) {
    cr_assert(eq(int,
                 sh("$K transfer " SETS FEW "--chains chains.jsonl "
                    "--out out >shown"),
                 0),
              "%s", out);
    char *text = read_back("out/transfer.json"), *shown = read_back("shown"),
         *csv = read_back("out/transfer.csv"),
         *table = read_back("out/table.md");
    json_t *all = json_loads(text, 0, NULL);
    cr_assert(all != NULL);
    json_t *models = json_object_get(all, "across_models");
    cr_assert(eq(sz, json_array_size(models), 1));
    json_t *m = json_array_get(models, 0);
    cr_expect(eq(sz, json_array_size(json_object_get(m, "names")), 3));
    cr_expect(gt(dbl, value_at(m, "balanced_accuracy", 0, 0), 0.7));
    /* B reads what A wrote, in another form than its own: it knows less */
    cr_expect(gt(dbl, value_at(m, "balanced_accuracy", 0, 1), 0.55));
    cr_expect(eq(dbl, value_at(m, "balanced_accuracy", 0, 1),
                 value_at(m, "balanced_accuracy", 1, 1)),
              "the same labels on the same activations");
    cr_expect(eq(dbl, value_at(m, "agreement", 1, 1), 1));
    cr_expect(eq(dbl, value_at(m, "label_kappa", 0, 1), 1));
    double p = json_number_value(at(json_object_get(m, "p"), 0, 0));
    cr_expect(p > 0 && p < 0.05, "%g", p);
    p = json_number_value(at(json_object_get(m, "minus_self_p_holm"), 0, 2));
    cr_expect(p > 0 && p <= 1, "%g", p);
    bool own = json_is_null(at(json_object_get(m, "minus_self_p"), 0, 0));
    cr_expect(own, "nothing to compare");
    bool none = json_is_null(at(json_object_get(m, "agreement"), 2, 0));
    cr_expect(none, "a control has no labels");
    cr_expect(eq(dbl, value_at(m, "carried_by_ridge", 0, 0),
                 value_at(m, "balanced_accuracy", 0, 0)));
    cr_expect(gt(dbl, value_at(m, "carried_by_procrustes", 1, 2), 0));
    /* A's spaces have 128 dimensions, B's 192: no identity between them */
    cr_expect(eq(sz, json_array_size(json_object_get(m, "maps")), 4 * 4 + 1));
    cr_expect(strstr(shown, "Across models, resid at mean") != NULL);
    cr_expect(strstr(shown, "A <- B, ridge") != NULL);
    cr_expect(strstr(table, "| A <- B, procrustes") != NULL);
    for (const char *line = csv; *line; line = strchr(line, '\n') + 1) {
        int commas = 0;
        for (const char *c = line; *c != '\n'; c++) commas += *c == ',';
        cr_assert(eq(int, commas, 14));
    }
    cr_expect(strstr(csv, "\nmodels,resid,mean,A,A,B,B,ridge,balanced_acc") !=
              NULL);
    json_decref(all);
    free(text);
    free(shown);
    free(csv);
    free(table);
    /* never overwritten without --force; other threads give the same bytes */
    cr_expect(eq(int, sh("$K transfer " SETS FEW "--out out"), 1));
    cr_expect(strstr(out, "--force") != NULL, "%s", out);
    cr_expect(eq(int,
                 sh("cp -r out was && $K transfer " SETS FEW "--chains "
                    "chains.jsonl --out out --force --threads 1 --json >json "
                    "&& diff -r out was && head -c -1 json | cmp - "
                    "out/transfer.json"),
                 0),
              "%s", out);
}

Test(transfer_command, refuses_wrong_usage) {
    static const struct {
        const char *args, *says;
    } wrong[] = {
        {"--set A=a.h5 --out o", "twice or more"},
        {SETS, "--out is missing"},
        {"--set a.h5 --set B=b.h5 --out o", "NAME=ACTS"},
        {"--set A= --set B=b.h5 --out o", "NAME=ACTS"},
        {"--set A=a.h5: --set B=b.h5 --out o", "NAME=ACTS"},
        {"--set A=a.h5 --set A=b.h5 --out o", "two sets are named"},
        {SETS "--out o --positions tokens", "tokens"},
        {SETS "--out o --strengths 0", "--strengths"},
        {SETS "--out o --folds 3 --inner-folds 3", "--inner-folds"},
        {SETS "--out o --positions before", "no activations of resid at"},
        {SETS "--out o --layers 8", "set B: "},
        {"--set A=a.h5 --set B=b.h5 --out o", "no labels"},
        {"--set A=a.h5:labels.jsonl --set r=r.h5:labels.jsonl --out o",
         "takes no labels"},
    };
    for (size_t i = 0; i < KS_COUNT(wrong); i++) {
        cr_expect(eq(int, sh("$K transfer %s --quiet", wrong[i].args), 2), "%s",
                  wrong[i].args);
        cr_expect(strstr(out, wrong[i].says) != NULL, "%s: %s", wrong[i].args,
                  out);
        cr_expect(eq(int, sh("test -e o"), 1), "%s", wrong[i].args);
    }
}

Test(transfer_command, says_what_is_wrong_with_a_file) {
    static const struct {
        const char *make, *args, *says;
    } bad[] = {
        {"head -c 4000 b.h5 >cut.h5", "--set B=cut.h5", "cut.h5"},
        {"cp chains.jsonl text.h5", "--set B=text.h5", "text.h5"},
        {"true", "--set B=nowhere.h5", "nowhere.h5"},
        {"sed 's/\"chain\":\"a/\"chain\":\"z/' labels.jsonl >other.jsonl",
         "--set B=b.h5:other.jsonl", "other.jsonl"},
        {"sed 's/1/0/g;s/a0*/&/' labels.jsonl | sed 's/.*/{/' >bad.jsonl",
         "--set B=b.h5:bad.jsonl", "bad.jsonl line 1"},
        {"head -n 3 chains.jsonl >few.jsonl", "--set B=b.h5 --chains few.jsonl",
         "none of the --chains"},
    };
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        cr_expect(eq(int,
                     sh("%s && $K transfer --set A=a.h5:labels.jsonl %s "
                        "--out o --quiet",
                        bad[i].make, bad[i].args),
                     1),
                  "%s: %s", bad[i].args, out);
        cr_expect(strstr(out, bad[i].says) != NULL, "%s: %s", bad[i].args, out);
        cr_expect(strstr(out, "keystep transfer: ") == out, "%s", out);
        cr_expect(eq(int, sh("test -e o"), 1), "%s", bad[i].args);
    }
}

#endif
