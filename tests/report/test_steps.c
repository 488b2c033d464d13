/* Steps and scores of a probes.h5 that somebody changed: one sentence each. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <criterion/parameterized.h>
#include <hdf5.h>

#include "export.h"
#include "probes/fixture.h"
#include "report/reader.h"
#include "shell.h"

#ifdef KS_PROGRAM

static fixture f;
static char path[160];

static void setup(void) {
    char command[640], out[64];
    fixture_make(&f);
    snprintf(command, sizeof command,
             "%s probe --acts %s --labels %s --bootstrap 100 --positions mean "
             "--strengths 0.1 --analyses none --quiet --out %s >/dev/null",
             KS_PROGRAM, f.acts, f.labels, f.out);
    cr_assert(eq(int, shell_run(command, out, sizeof out), 0));
    snprintf(path, sizeof path, "%s/probes.h5", f.out);
}

static void teardown(void) {
    fixture_free(&f);
}

/* Puts value at one place of a data set of whole numbers, or takes it away. */
static void change(const char *name, int64_t at, int value) {
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    cr_assert(file >= 0);
    if (at < 0) {
        cr_assert(H5Ldelete(file, name, H5P_DEFAULT) >= 0);
    } else {
        hid_t set = H5Dopen2(file, name, H5P_DEFAULT),
              space = H5Dget_space(set), one = H5Screate(H5S_SCALAR);
        hsize_t start = (hsize_t)at, count = 1;
        H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, NULL, &count, NULL);
        cr_assert(H5Dwrite(set, H5T_NATIVE_INT, one, space, H5P_DEFAULT,
                           &value) >= 0);
        H5Sclose(one);
        H5Sclose(space);
        H5Dclose(set);
    }
    H5Fclose(file);
}

Test(report_steps, are_those_of_the_activations) {
    setup();
    ks_probes_steps s;
    ks_probes_info info;
    ks_err err = {0};
    cr_assert(eq(int, ks_probes_steps_read(&s, path, &err), KS_OK), "%s",
              err.text);
    cr_assert(eq(int, ks_probes_read(&info, path, &err), KS_OK));
    cr_assert(eq(i64, s.n_steps, ROWS));
    cr_assert(eq(i64, s.n_chains, CHAINS));
    float *all = calloc((size_t)ROWS * (LAYERS + 1), sizeof *all),
          *best = calloc(ROWS, sizeof *best);
    cr_assert(all && best);
    cr_assert(
        eq(int, ks_probes_scores_read(&info, 0, path, all, best, &err), KS_OK));
    int right = 0, scored = 0;
    for (int i = 0; i < ROWS; i++) {
        cr_assert(eq(int, s.chain[i], f.steps[i].chain));
        cr_assert(eq(int, s.begin[i], f.steps[i].byte_begin));
        cr_assert(eq(int, s.end[i], f.steps[i].byte_end));
        /* row 1 has no activation: it was not probed, whatever its label */
        cr_assert(eq(int, s.label[i], i == 1 ? -1 : f.y[i]));
        cr_assert(
            eq(int, isnan(all[TELLING_LAYER * ROWS + i]) != 0, s.label[i] < 0));
        if (s.label[i] < 0) continue;
        scored++;
        right += (all[TELLING_LAYER * ROWS + i] > 0) == (s.label[i] == 1);
    }
    cr_expect(gt(int, 20 * right, 19 * scored), "%d of %d", right, scored);
    cr_expect(eq(str, (char *)s.id[CHAINS - 1], f.ids[CHAINS - 1]));
    cr_expect(eq(str, (char *)s.problem[3], f.problems[3]));
    cr_expect(eq(str, (char *)s.text_sha256[3], f.rows[3].text_sha256));
    free(all);
    free(best);
    ks_probes_free(&info);
    ks_probes_steps_free(&s);
    teardown();
}

typedef struct damage {
    char name[32];
    int64_t at; /* -1: the data set goes */
    int value;
    char sentence[80];
} damage;

ParameterizedTestParameters(report_steps, damaged) {
    static damage all[] = {
        {"/steps", -1, 0, "does not say which steps its scores are of"},
        {"/chains", -1, 0, "does not say which steps its scores are of"},
        {"/steps/label", -1, 0, "has no data set /steps/label"},
        {"/chains/id", -1, 0, "has no data set /chains/id"},
        {"/steps/chain", 0, -1, "/steps/chain[0] is -1, out of order or none"},
        {"/steps/chain", 9, CHAINS, "/steps/chain[9] is 80, out of order or"},
        {"/steps/chain", 20, 0, "/steps/chain[20] is 0, out of order or"},
        {"/steps/byte_begin", 7, 5,
         "step 7 has bytes 5 to 40, expected an end"},
        {"/steps/byte_end", 8, 3, "step 8 has bytes 40 to 3, expected an end"},
        {"/steps/byte_begin", 0, -4, "step 0 has bytes -4 to 20"},
        {"/steps/label", 4, 9, "/steps/label[4] is 9, expected 1, 0 or -1"}};
    return cr_make_param_array(damage, all, KS_COUNT(all));
}

ParameterizedTest(damage *d, report_steps, damaged) {
    setup();
    change(d->name, d->at, d->value);
    ks_probes_steps s;
    ks_err err = {0};
    cr_expect(eq(int, ks_probes_steps_read(&s, path, &err), KS_FORMAT));
    cr_expect(strstr(err.text, d->sentence) != NULL, "'%s', expected '%s'",
              err.text, d->sentence);
    cr_expect(strstr(err.text, "probes.h5") != NULL);
    teardown();
}

/* Bytes that are in order in the file, but not in the chain's text. */
Test(report_steps, beyond_the_text) {
    setup();
    char command[1024], out[512];
    change("/steps/byte_end", STEPS - 1, 4000);
    snprintf(command, sizeof command,
             "%s report %s --chains %s --no-pictures --out %s/report 2>&1",
             KS_PROGRAM, f.out, f.chains, f.dir);
    cr_expect(eq(int, shell_run(command, out, sizeof out), 1));
    cr_expect(strstr(out, "is bytes 100 to 4000 of a text of 120") != NULL,
              "%s", out);
    teardown();
}

#endif
