/* keystep inspect on what keystep probe writes. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <hdf5.h>

#include "fixture.h"
#include "shell.h"

#ifdef KS_PROGRAM

static fixture f;

static void setup(void) {
    char command[512];
    fixture_make(&f);
    snprintf(command, sizeof command,
             "%s probe --quiet --acts %s --labels %s --bootstrap 200 --out %s "
             ">/dev/null",
             KS_PROGRAM, f.acts, f.labels, f.out);
    cr_assert(eq(int, system(command), 0));
}

static void teardown(void) {
    fixture_free(&f);
}

TestSuite(inspect_probes, .init = setup, .fini = teardown);

static char said[16384];

/* Exit code of `keystep inspect OUT/NAME`; said gets stdout and stderr. */
static int inspect(const char *option, const char *name) {
    char command[512];
    snprintf(command, sizeof command, "%s inspect %s %s/%s 2>&1", KS_PROGRAM,
             option, f.out, name);
    return shell_run(command, said, sizeof said);
}

static json_t *inspect_json(const char *name) {
    cr_assert(eq(int, inspect("--json", name), 0), "%s", said);
    json_t *o = json_loads(said, 0, NULL);
    cr_assert(o != NULL, "%s", said);
    return o;
}

Test(inspect_probes, weights_and_scores) {
    json_t *o = inspect_json("probes.h5"), *probes, *mean;
    int steps, probed, seeds, folds, features, best;
    const char *kind, *model, *hash;
    cr_assert(
        eq(int,
           json_unpack(o, "{ss,ss,ss,si,si,si,si,si,so}", "kind", &kind,
                       "model", &model, "model sha256", &hash, "steps", &steps,
                       "probed", &probed, "seeds", &seeds, "folds", &folds,
                       "features", &features, "probes", &probes),
           0));
    int labelled = 0;
    for (int i = 0; i < ROWS; i++) labelled += f.y[i] >= 0 && f.steps[i].valid;
    cr_expect(eq(str, (char *)(uintptr_t)kind, "probes"));
    cr_expect(eq(str, (char *)(uintptr_t)hash, "ab12"));
    cr_expect(eq(int, steps, ROWS));
    cr_expect(eq(int, probed, labelled));
    cr_expect(seeds == 1 && folds == 5 && features == WIDTH);
    cr_expect(eq(sz, json_object_size(probes), 2));
    mean = json_object_get(probes, "resid-mean");
    cr_assert(eq(int, json_unpack(mean, "{si}", "best layer", &best), 0));
    cr_expect(eq(int, best, TELLING_LAYER));
    cr_expect(
        eq(sz, json_array_size(json_object_get(mean, "layers")), LAYERS + 1));
    json_decref(o);
    cr_expect(eq(int, inspect("", "probes.h5"), 0));
    cr_expect(strstr(said, "    best layer         2\n") != NULL, "%s", said);
}

Test(inspect_probes, tables) {
    json_t *o = inspect_json("metrics.csv");
    /* as test_probe_command.c counts them, with six baselines, three fitted */
    cr_expect(eq(int, (int)json_integer_value(json_object_get(o, "rows")),
                 2 * 25 + 2 + 6 + 15));
    cr_expect(eq(sz, json_array_size(json_object_get(o, "best layers")), 2));
    cr_expect(eq(sz, json_array_size(json_object_get(o, "baselines")), 6));
    json_t *csv = json_object_get(o, "best layers");
    json_t *s = inspect_json("summary.json");
    json_t *summary = json_object_get(s, "probes");
    cr_expect(eq(sz, json_array_size(summary), 2));
    for (size_t i = 0; i < 2; i++) {
        json_t *a =
            json_object_get(json_array_get(csv, i), "balanced_accuracy");
        json_t *b =
            json_object_get(json_array_get(summary, i), "balanced_accuracy");
        cr_expect(fabs(json_number_value(a) - json_number_value(b)) < 1e-6);
        cr_expect(json_number_value(a) > 0.2);
    }
    cr_expect(eq(int,
                 (int)json_integer_value(
                     json_object_get(json_array_get(summary, 0), "best layer")),
                 TELLING_LAYER));
    cr_expect(eq(sz, json_array_size(json_object_get(s, "baselines")), 6));
    json_decref(o);
    o = inspect_json(""); /* the folder */
    cr_expect(json_equal(o, s) != 0);
    json_decref(o);
    json_decref(s);
    o = inspect_json("table.md");
    json_decref(o);
}

static void damage(const char *command) {
    char line[512];
    snprintf(line, sizeof line, "cd %s && %s", f.out, command);
    cr_assert(eq(int, system(line), 0), "%s", command);
}

static hid_t open_probes(void) {
    char path[160];
    snprintf(path, sizeof path, "%s/probes.h5", f.out);
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    cr_assert(file >= 0);
    return file;
}

static void refused(const char *name, const char *words) {
    cr_expect(eq(int, inspect("", name), 1), "%s", words);
    cr_expect(strstr(said, words) != NULL, "'%s' lacks '%s'", said, words);
    cr_expect(eq(int, (int)(strchr(said, '\n') - said), (int)strlen(said) - 1));
}

Test(inspect_probes, damaged_files) {
    damage("cp metrics.csv m.csv && truncate -s -30 m.csv");
    refused("m.csv", "cut short");
    damage("{ cat metrics.csv; echo a,b; } > m.csv");
    refused("m.csv", "has 2 fields, expected 19");
    damage("grep -v unconverged summary.json > s.json");
    refused("s.json", "a figure is missing");
    damage("cp probes.h5 p.h5 && truncate -s 9000 p.h5");
    refused("p.h5", "p.h5");
    hid_t file = open_probes();
    int32_t chosen[5] = {0, 1, 2, 3, 77};
    hid_t set = H5Dopen2(file, "/probes/resid-mean/chosen_layer", H5P_DEFAULT);
    H5Dwrite(set, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, chosen);
    H5Dclose(set);
    H5Fclose(file);
    refused("probes.h5", "holds layer 77");
    file = open_probes();
    H5Ldelete(file, "/probes/resid-mean/scores", H5P_DEFAULT);
    H5Lmove(file, "/probes/resid-before/scores", file,
            "/probes/resid-mean/scores", H5P_DEFAULT, H5P_DEFAULT);
    H5Ldelete(file, "/probes/resid-mean/chosen_layer", H5P_DEFAULT);
    H5Lmove(file, "/probes/resid-before/chosen_layer", file,
            "/probes/resid-mean/chosen_layer", H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(file);
    refused("probes.h5", "no data set /probes/resid-before/chosen_layer");
    file = open_probes();
    H5Ldelete(file, "/fold", H5P_DEFAULT);
    H5Lcreate_hard(file, "/probes/resid-mean/strength", file, "/fold",
                   H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(file);
    refused("probes.h5", "fold does not hold whole numbers");
    file = open_probes();
    H5Adelete(file, "model_name");
    H5Fclose(file);
    refused("probes.h5", "expected a probes.h5 of keystep");
}

#endif
