/* The forward pass against Hugging Face transformers in float32, on tiny
 * models of every architecture (tests/golden/make_forward.py). */
#include "golden.h"

#include <sys/stat.h>
#include <unistd.h>

static const double tolerance = 1e-4; /* relative error of a layer */

static double worst_layer(const float *got, const golden *g) {
    size_t layer = (size_t)g->n * (size_t)g->d;
    double worst = 0;
    for (int32_t l = 0; l < g->n_states; l++) {
        const float *ref = g->hidden + (size_t)l * layer;
        double e = relative_error(got + (size_t)l * layer, ref, layer);
        if (!isnan(worst) && !(e <= worst)) worst = e; /* a NaN stays */
    }
    return worst;
}

Test(golden, hidden_states_of_every_layer) {
    for (size_t i = 0; i < KS_COUNT(golden_cases); i++) {
        char path[512];
        snprintf(path, sizeof path, DATA "%s", golden_cases[i]);
        ks_engine *engine = open_case(path, 0);
        golden g = golden_open(golden_cases[i], engine);
        float *got = run_alone(engine, g.ids, g.n);
        double worst = worst_layer(got, &g);
        cr_expect(worst <= tolerance, "%s: relative error %g", golden_cases[i],
                  worst);
        free(got);
        golden_close(&g);
        ks_engine_close(&engine);
    }
}

Test(golden, argmax_of_the_logits) {
    for (size_t i = 0; i < KS_COUNT(golden_cases); i++) {
        char path[512];
        snprintf(path, sizeof path, DATA "%s", golden_cases[i]);
        ks_engine *engine = open_case(path, 0);
        golden g = golden_open(golden_cases[i], engine);
        int32_t *ids = malloc((size_t)g.n * sizeof *ids);
        ks_run_limits limits = {.max_tokens = g.n};
        ks_seqs seqs = {1, g.n, (int32_t[]){0, g.n}, NULL, NULL, 0, NULL};
        ks_view hidden;
        must(ks_engine_reserve(engine, &limits, err));
        must(ks_forward(engine->run, &seqs, g.ids, NULL, NULL, NULL, &hidden,
                        err));
        argmax_of(engine, hidden, ids);
        for (int32_t t = 0; t < g.n; t++)
            cr_expect_eq(ids[t], g.argmax[t], "%s token %d: %d, expected %d",
                         golden_cases[i], t, ids[t], g.argmax[t]);
        free(ids);
        golden_close(&g);
        ks_engine_close(&engine);
    }
}

/* A folder with the case's weights and a changed config.json. */
static void write_variant(const char *folder, const char *name,
                          json_t *config) {
    char path[600], target[600];
    snprintf(path, sizeof path, "%s/config.json", folder);
    cr_assert_eq(json_dump_file(config, path, 0), 0, "%s", path);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    snprintf(target, sizeof target, DATA "%s/model.safetensors", name);
    unlink(path);
    cr_assert_eq(symlink(target, path), 0, "%s", path);
}

/* "a/b/c": members of members; NULL when there is none. */
static json_t *member(json_t *object, const char *key) {
    for (const char *slash; object && (slash = strchr(key, '/'));
         key = slash + 1) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)(slash - key), key);
        object = json_object_get(object, name);
    }
    return json_object_get(object, key);
}

static void change(json_t *number, double factor, int step) {
    if (json_is_integer(number))
        json_integer_set(number, json_integer_value(number) + step);
    else
        json_real_set(number, json_real_value(number) * factor);
}

static double error_of_variant(const char *name, json_t *config) {
    char folder[] = "/tmp/keystep-golden-XXXXXX", path[600];
    cr_assert(mkdtemp(folder));
    write_variant(folder, name, config);

    ks_engine *engine = open_case(folder, 0);
    golden g = golden_open(name, engine);
    float *got = run_alone(engine, g.ids, g.n);
    double worst = worst_layer(got, &g);
    free(got);
    golden_close(&g);
    ks_engine_close(&engine);
    snprintf(path, sizeof path, "%s/config.json", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    unlink(path);
    rmdir(folder);
    return worst;
}

/* The comparison must be able to see a small mistake. Returns whether the case
 * has the setting. */
static bool expect_told_apart(const char *name, const char *key, double factor,
                              int step) {
    char path[600];
    snprintf(path, sizeof path, DATA "%s/config.json", name);
    json_t *config = json_load_file(path, 0, NULL);
    cr_assert(config, "%s", path);
    json_t *value = member(config, key);
    bool there = json_is_number(value);
    if (there) {
        change(value, factor, step);
        double worst = error_of_variant(name, config);
        cr_expect(worst > 3 * tolerance, "%s: changed %s gives only %g", name,
                  key, worst);
    }
    json_decref(config);
    return there;
}

Test(golden, small_mistakes_show) {
    static const char *const thetas[] = {
        "rope_theta", "rope_local_base_freq",
        "rope_parameters/full_attention/rope_theta",
        "rope_parameters/sliding_attention/rope_theta"};
    int windows = 0;
    for (size_t i = 0; i < KS_COUNT(golden_cases); i++) {
        const char *name = golden_cases[i];
        int found = 0;
        for (size_t k = 0; k < KS_COUNT(thetas); k++)
            found += expect_told_apart(name, thetas[k], 1.01, 0);
        cr_expect(found > 0, "%s has no theta", name);
        cr_expect(expect_told_apart(name, "rms_norm_eps", 10, 0));
        windows += expect_told_apart(name, "sliding_window", 1, 1);
        windows += expect_told_apart(name, "sliding_window", 1, -1);
    }
    cr_expect_eq(windows, 8);
}
