/* keystep probe --probes and --protocol published as a user calls them. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <hdf5.h>
#include <math.h>
#include <sys/wait.h>

#include "export.h"
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

TestSuite(probe_kinds, .init = setup, .fini = teardown);

static int run(const char *arguments) {
    char command[1024];
    snprintf(command, sizeof command,
             "%s probe --acts %s --labels %s --bootstrap 200 --no-text "
             "--strengths 0.1 --positions mean --out %s %s >%s/stdout "
             "2>%s/stderr",
             KS_PROGRAM, f.acts, f.labels, f.out, arguments, f.dir, f.dir);
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

static json_t *read_summary(void) {
    json_t *summary = json_loads(read_back("out/summary.json"), 0, NULL);
    cr_assert(summary != NULL);
    return summary;
}

static double value_of(json_t *object, const char *what) {
    json_t *v = json_object_get(json_object_get(object, what), "value");
    bool there = json_is_number(v);
    cr_assert(there, "%s", what);
    return json_number_value(v);
}

/* ------------------------------------------------------------------- figures
 */

Test(probe_kinds, stand_beside_l2) {
    cr_assert(eq(int,
                 run("--probes "
                     "linear,mlp:8x2,lw-linear,lw-mlp:8,linear-layer,"
                     "mlp-layer:8"),
                 0),
              "%s", read_back("stderr"));
    cr_expect(strstr(read_back("stdout"), "Other probes") != NULL);
    const char *csv = read_back("out/metrics.csv");
    cr_expect(strstr(csv, "resid,mean,several,full,lw-mlp 8,,all,all,test,") !=
              NULL);
    cr_expect(strstr(csv, "resid,mean,2,full,linear-layer,,all,all,test,") !=
              NULL);
    json_t *summary = read_summary();
    json_t *all = json_object_get(summary, "other_probes"), *one;
    cr_assert(eq(sz, json_array_size(all), 4 + 2 * (LAYERS + 1)));
    size_t k;
    json_array_foreach(all, k, one) {
        json_t *layer = json_object_get(one, "layer");
        double right =
            value_of(json_object_get(one, "metrics"), "balanced_accuracy");
        bool alone = json_is_integer(layer);
        cr_expect(alone == (k >= 4));
        bool told = !alone || json_integer_value(layer) == TELLING_LAYER;
        cr_expect(told ? right > 0.75 : right > 0.35 && right < 0.65, "%s: %g",
                  json_string_value(json_object_get(one, "probe")), right);
    }
    cr_expect(json_array_size(json_object_get(summary, "protocols")) == 0);
    json_decref(summary);
}

Test(probe_kinds, published_protocol_and_its_ladder) {
    cr_assert(eq(int,
                 run("--protocol published --probes linear,lw-mlp:8 "
                     "--published-rates 3e-3"),
                 0),
              "%s", read_back("stderr"));
    const char *table = read_back("out/table.md");
    cr_expect(strstr(table, "## As published, and honestly") != NULL);
    cr_expect(strstr(table, "| published minus honest") != NULL);
    const char *csv = read_back("out/metrics.csv");
    cr_expect(strstr(csv, ",published lw-mlp 8,,all,all,as published,") !=
              NULL);
    cr_expect(strstr(csv, ",published linear,,all,all,\"all steps, "
                          "weighted\",") != NULL);
    json_t *summary = read_summary();
    json_t *all = json_object_get(summary, "protocols"), *one, *others, *steps;
    others = json_object_get(summary, "other_probes");
    cr_assert(eq(sz, json_array_size(all), 2));
    cr_assert(eq(sz, json_array_size(others), 2));
    size_t k;
    json_array_foreach(all, k, one) {
        steps = json_object_get(one, "steps");
        cr_assert(eq(sz, json_array_size(steps), 5));
        double first = value_of(json_array_get(steps, 0), "balanced_accuracy");
        double last = value_of(json_array_get(steps, 4), "balanced_accuracy");
        cr_expect(first > 0.75 && last > 0.75, "%g, %g", first, last);
        cr_expect(
            epsilon_eq(dbl, value_of(one, "difference"), first - last, 1e-6));
        json_t *metrics = json_object_get(json_array_get(others, k), "metrics");
        cr_expect(
            epsilon_eq(dbl, last, value_of(metrics, "balanced_accuracy"), 0));
    }
    json_decref(summary);
}

/* By default the four published kinds; the same bytes on other threads. */
Test(probe_kinds, published_kinds_by_default) {
    cr_assert(eq(int, run("--protocol published --threads 1"), 0), "%s",
              read_back("stderr"));
    json_t *summary = read_summary();
    static const char *const names[] = {"linear", "mlp 256x2", "lw-linear",
                                        "lw-mlp 128"};
    json_t *all = json_object_get(summary, "protocols");
    cr_assert(eq(sz, json_array_size(all), 4));
    for (size_t k = 0; k < 4; k++) {
        const char *name =
            json_string_value(json_object_get(json_array_get(all, k), "probe"));
        cr_expect(eq(str, (char *)name, (char *)names[k]));
    }
    json_decref(summary);
    char command[512];
    snprintf(command, sizeof command, "mv %s %s.1", f.out, f.out);
    cr_assert(eq(int, system(command), 0));
    cr_assert(eq(int, run("--protocol published --threads 2"), 0));
    snprintf(command, sizeof command,
             "for i in metrics.csv summary.json probes.h5; do "
             "cmp %s/$i %s.1/$i || exit 1; done",
             f.out, f.out);
    cr_expect(eq(int, system(command), 0));
}

/* ------------------------------------------------------------------- weights
 */

static float *read_floats(hid_t file, const char *name, hsize_t want) {
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    cr_assert(set >= 0, "%s", name);
    hid_t space = H5Dget_space(set);
    hssize_t n = H5Sget_simple_extent_npoints(space);
    cr_assert(n == (hssize_t)want, "%s: %lld values", name, (long long)n);
    float *out = malloc((size_t)n * sizeof *out);
    cr_assert(H5Dread(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT,
                      out) >= 0);
    H5Sclose(space);
    H5Dclose(set);
    return out;
}

/* As docs/formats.md says what the data sets are: the scores from them. */
Test(probe_kinds, weights_in_the_file_give_the_scores) {
    enum { H = 3, IN = LAYERS * WIDTH, F = 5 };
    char path[160];
    cr_assert(eq(int, run("--probes lw-mlp:3,mlp-layer:3"), 0), "%s",
              read_back("stderr"));
    snprintf(path, sizeof path, "%s/probes.h5", f.out);
    cr_expect(ks_probes_is(path));
    ks_probes_info info;
    ks_err err = {0};
    cr_assert(eq(int, ks_probes_read(&info, path, &err), KS_OK), "%s",
              err.text);
    ks_probes_free(&info);
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    cr_assert(file >= 0);
#define AT "/probes/resid-mean/trained/lw-mlp 3/"
    float *w0 = read_floats(file, AT "weight0", F * H * IN),
          *b0 = read_floats(file, AT "bias0", F * H),
          *w1 = read_floats(file, AT "weight1", F * H),
          *b1 = read_floats(file, AT "bias1", F),
          *mean = read_floats(file, AT "mean", F * IN),
          *scale = read_floats(file, AT "scale", F * IN),
          *score = read_floats(file, AT "scores", ROWS);
    uint8_t fold[ROWS];
    hid_t set = H5Dopen2(file, "/fold", H5P_DEFAULT);
    cr_assert(H5Dread(set, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT,
                      fold) >= 0);
    H5Dclose(set);
    int scored = 0;
    for (int64_t i = 0; i < ROWS; i++) {
        cr_assert(isnan(score[i]) == (fold[i] == 255));
        if (fold[i] == 255) continue;
        double x[IN], z = (double)b1[fold[i]];
        for (int32_t l = 1; l <= LAYERS; l++) {
            float row[WIDTH];
            fill(&f, KS_MEAN, l, i, row);
            for (int j = 0; j < WIDTH; j++) {
                int at = (l - 1) * WIDTH + j;
                x[at] = (double)((row[j] - mean[fold[i] * IN + at]) /
                                 scale[fold[i] * IN + at]);
            }
        }
        for (int u = 0; u < H; u++) {
            double a = (double)b0[fold[i] * H + u];
            for (int k = 0; k < IN; k++)
                a += (double)w0[(fold[i] * H + u) * IN + k] * x[k];
            if (a > 0) z += a * (double)w1[fold[i] * H + u];
        }
        cr_expect(fabs(z - (double)score[i]) <= 1e-4 + 1e-4 * fabs(z),
                  "row %d: %g, %g", (int)i, z, (double)score[i]);
        scored++;
    }
    cr_expect(scored > 390);
#undef AT
#define AT "/probes/resid-mean/trained/mlp-layer 3/"
    free(read_floats(file, AT "weight0", (LAYERS + 1) * F * H * WIDTH));
    free(read_floats(file, AT "scores", (LAYERS + 1) * ROWS));
#undef AT
    float *all[] = {w0, b0, w1, b1, mean, scale, score};
    for (size_t k = 0; k < KS_COUNT(all); k++) free(all[k]);
    H5Fclose(file);
}

/* ------------------------------------------------------------------ refusals
 */

Test(probe_kinds, bad_options_are_refused) {
    static const struct {
        const char *arguments, *word;
        int code;
    } bad[] = {
        {"--probes lw", "lw-linear", 2},
        {"--probes mlp:0", "mlp:256x2", 2},
        {"--protocol other", "honest or published", 2},
        {"--published-rates 1e-3", "--protocol published", 2},
        {"--protocol published --published-rates 0", "--published-rates", 2},
        {"--protocol published --published-rates 1e-3,", "--published-rates",
         2},
        {"--probes lw-linear --layers 0", "--layers", 2},
    };
    for (size_t k = 0; k < KS_COUNT(bad); k++) {
        cr_expect(eq(int, run(bad[k].arguments), bad[k].code), "%s",
                  bad[k].arguments);
        cr_expect(strstr(read_back("stderr"), bad[k].word) != NULL, "%s: %s",
                  bad[k].arguments, text);
        bool there = ks_file_exists(f.out);
        cr_expect(not(there), "%s", bad[k].arguments);
    }
}

#endif

/* What does not fit lies in files. start: as if the process had taken nothing.
 */
Test(stack, layers_beyond_the_memory_lie_in_files) {
    static fixture g;
    char words[64];
    ks_dataset *d = NULL;
    ks_stack stack = {0}, filed = {0};
    ks_cell cells[LAYERS + 1] = {{0}};
    ks_series series = {.stream = KS_RESID,
                        .position = KS_MEAN,
                        .n_cells = LAYERS + 1,
                        .cells = cells};
    ks_err err = {0};
    for (int l = 0; l <= LAYERS; l++) cells[l].layer = l;
    fixture_make(&g);
    ks_dataset_paths paths = {.acts = g.acts, .labels = g.labels};
    cr_assert(eq(int, ks_dataset_open(&d, &paths, &err), KS_OK));
    /* in memory: layers and mean, copies of layers padded to 16, windows */
    double bytes =
        4 * ((LAYERS + 2) * 6.0 + (LAYERS + 2) * 16.0) * (double)d->n +
        4 * 256 * 6 + 4 * 257 * 16;
    ks_stack_options o = {
        .all = true,
        .mean = true,
        .besides = 1000,
        .room = {.limit = (size_t)bytes + 1000, .start = SIZE_MAX}};
    cr_assert(eq(int, ks_stack_read(&stack, d, &series, &o, &err), KS_OK));
    for (int64_t k = 0; k < d->n * WIDTH; k++) {
        double mean = 0;
        for (int64_t l = 1; l <= LAYERS; l++)
            mean += (double)stack.x[l * d->n * WIDTH + k] / LAYERS;
        cr_assert(fabs(mean - (double)stack.mean[k]) <= 1e-5);
    }
    o.room.limit--;
    cr_expect(eq(int, ks_stack_read(&filed, d, &series, &o, &err), KS_LIMIT));
    snprintf(words, sizeof words, "%.0f bytes", bytes);
    cr_expect(strstr(err.text, words) && strstr(err.text, "--memory"), "%s",
              err.text);
    /* in files, to the bit */
    o.room.scratch = g.dir;
    cr_assert(eq(int, ks_stack_read(&filed, d, &series, &o, &err), KS_OK), "%s",
              err.text);
    cr_expect(filed.x == NULL && filed.mean == NULL);
    cr_expect(eq(int, filed.file.matrices, LAYERS + 1));
    cr_expect(eq(int, filed.mean_file.matrices, 1));
    for (int64_t i = 0; i < d->n; i++) {
        float row[(LAYERS + 1) * 16], mean[16];
        cr_assert(pread(filed.file.fd, row, sizeof row,
                        (off_t)(i * (int64_t)sizeof row)) == sizeof row);
        cr_assert(pread(filed.mean_file.fd, mean, sizeof mean,
                        (off_t)(i * (int64_t)sizeof mean)) == sizeof mean);
        for (int l = 0; l <= LAYERS; l++)
            cr_assert(memcmp(row + 16 * l, stack.x + (l * d->n + i) * WIDTH,
                             WIDTH * sizeof *row) == 0);
        cr_assert(memcmp(mean, stack.mean + i * WIDTH, WIDTH * sizeof *mean) ==
                  0);
        cr_assert(eq(flt, mean[WIDTH], 0));
    }
    /* a device takes none of them */
    o.in_memory = true;
    o.room.limit = 1000;
    ks_stack_free(&filed);
    cr_expect(eq(int, ks_stack_read(&filed, d, &series, &o, &err), KS_LIMIT));
    ks_stack_free(&stack);
    ks_dataset_close(&d);
    fixture_free(&g);
}
