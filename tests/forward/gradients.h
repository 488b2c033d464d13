/* gradients.h - the golden gradients of tests/golden/make_backward.py, and the
 * gradients of a backward pass of our own. */
#ifndef KS_TESTS_GRADIENTS_H
#define KS_TESTS_GRADIENTS_H

#include <unistd.h>

#include "backward.h"
#include "golden.h"

#define GRADIENTS KS_TEST_DATA "/backward/"

static const char *const gradient_cases[] = {
    "llama3", "linear", "qwen2",  "mistral", "qwen3",
    "olmo2",  "olmo3",  "gemma3", "softcap", "sinks",
};

enum { MOST_TARGETS = 8, MOST_STATES = 8 };

/* ------------------------------------------------------------- golden models
 */

typedef struct fixture {
    ks_engine *engine;
    ks_placed *placed; /* fixture_place */
    golden g;
    ks_target targets[MOST_TARGETS];
    int32_t n_targets;
    float *ref; /* see make_backward.py */
    size_t n_ref;
    float *sinks;
} fixture;

/* The base model's folder, or one with a changed config. */
static inline ks_engine *open_changed(const char *base, json_t *changes,
                                      const ks_engine_options *options) {
    char path[600], folder[] = "/tmp/keystep-backward-XXXXXX", link[600];
    snprintf(path, sizeof path, DATA "%s", base);
    if (json_object_size(changes) == 0) return open_model(path, options);
    snprintf(path, sizeof path, DATA "%s/config.json", base);
    json_t *config = json_load_file(path, 0, NULL);
    cr_assert(config && json_object_update(config, changes) == 0);
    cr_assert(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/config.json", folder);
    cr_assert_eq(json_dump_file(config, path, 0), 0);
    snprintf(link, sizeof link, DATA "%s/model.safetensors", base);
    char *target = realpath(link, NULL);
    snprintf(link, sizeof link, "%s/model.safetensors", folder);
    cr_assert(target && symlink(target, link) == 0);
    ks_engine *engine = open_model(folder, options);
    unlink(path), unlink(link), rmdir(folder);
    free(target);
    json_decref(config);
    return engine;
}

static inline void set_sinks(fixture *f, json_t *sinks) {
    const ks_config *c = &f->engine->model->config;
    if (json_array_size(sinks) == 0) return;
    cr_assert_eq(json_array_size(sinks), (size_t)c->n_layers);
    f->sinks = calloc((size_t)(c->n_layers * c->n_heads), sizeof *f->sinks);
    for (int32_t l = 0; l < c->n_layers; l++) {
        json_t *of = json_array_get(sinks, (size_t)l);
        for (int32_t h = 0; h < c->n_heads; h++)
            f->sinks[l * c->n_heads + h] =
                (float)json_number_value(json_array_get(of, (size_t)h));
        f->engine->model->weights.layers[l].sinks = f->sinks + l * c->n_heads;
    }
}

static inline void read_reference(fixture *f, const char *name) {
    char path[600];
    snprintf(path, sizeof path, GRADIENTS "%s.f32", name);
    FILE *file = fopen(path, "rb");
    cr_assert(file, "%s", path);
    cr_assert_eq(fseek(file, 0, SEEK_END), 0);
    f->n_ref = (size_t)ftell(file) / sizeof(float);
    rewind(file);
    f->ref = malloc(f->n_ref * sizeof(float));
    cr_assert_eq(fread(f->ref, sizeof(float), f->n_ref, file), f->n_ref);
    fclose(file);
}

static inline fixture fixture_open(const char *name,
                                   const ks_engine_options *options) {
    fixture f = {0};
    char path[600];
    snprintf(path, sizeof path, GRADIENTS "%s.json", name);
    json_t *root = json_load_file(path, 0, NULL);
    cr_assert(root, "%s", path);
    const char *base = json_string_value(json_object_get(root, "model"));
    f.engine = open_changed(base, json_object_get(root, "changes"), options);
    set_sinks(&f, json_object_get(root, "sinks"));
    json_t *targets = json_object_get(root, "targets");
    f.n_targets = (int32_t)json_array_size(targets);
    cr_assert(f.n_targets > 0 && f.n_targets <= MOST_TARGETS);
    for (int32_t i = 0; i < f.n_targets; i++) {
        int32_t v[3];
        for (size_t j = 0; j < 3; j++)
            v[j] = (int32_t)json_integer_value(
                json_array_get(json_array_get(targets, (size_t)i), j));
        f.targets[i] = (ks_target){0, v[0], v[1], v[2]};
    }
    f.g = golden_open(base, f.engine);
    read_reference(&f, name);
    json_decref(root);
    return f;
}

static inline void fixture_place(fixture *f) {
    must(ks_place(&f->placed, f->engine->dev, f->engine->ops, f->engine->model,
                  err));
}

static inline void close_fixture(fixture *f) {
    ks_placed_close(&f->placed);
    golden_close(&f->g);
    ks_engine_close(&f->engine);
    free(f->ref), free(f->sinks);
}

static inline ks_backward *open_backward(ks_engine *engine, ks_placed *placed,
                                         int32_t max_tokens, int32_t max_rows,
                                         int32_t lanes) {
    ks_backward *b = NULL;
    ks_backward_limits limits = {
        .max_tokens = max_tokens, .max_rows = max_rows, .lanes = lanes};
    must(ks_backward_open(&b, engine->dev, engine->ops, &engine->model->config,
                          ks_placed_weights(placed), &limits, err));
    return b;
}

/* ------------------------------------------------------------- emitted rows */

/* [target][layer] one behind the other as they were asked for. */
typedef struct kept {
    const ks_target *targets;
    int32_t n_targets, n_states, d;
    float *rows[MOST_TARGETS][MOST_STATES];
    int32_t calls, fail_at; /* 0: never */
} kept;

static inline ks_status keep_rows(void *user, int32_t target, int32_t layer,
                                  const float *rows, int64_t n, ks_err *err) {
    kept *k = user;
    if (++k->calls == k->fail_at) return ks_fail(err, KS_IO, "full");
    const ks_target *t = &k->targets[target];
    cr_assert_eq(n, t->end - 1 - t->from);
    cr_assert(!k->rows[target][layer], "emitted twice");
    size_t size = (size_t)n * (size_t)k->d * sizeof(float);
    k->rows[target][layer] = malloc(size);
    memcpy(k->rows[target][layer], rows, size);
    return KS_OK;
}

static inline kept new_kept(const ks_engine *engine, const ks_target *targets,
                            int32_t n) {
    const ks_config *c = &engine->model->config;
    cr_assert(n <= MOST_TARGETS && c->n_layers < MOST_STATES);
    return (kept){.targets = targets,
                  .n_targets = n,
                  .n_states = c->n_layers + 1,
                  .d = c->d_model};
}

static inline void free_kept(kept *k) {
    for (int32_t i = 0; i < k->n_targets; i++)
        for (int32_t l = 0; l < k->n_states; l++) free(k->rows[i][l]);
}

static inline size_t floats_of(const kept *k, int32_t target) {
    const ks_target *t = &k->targets[target];
    return (size_t)(t->end - 1 - t->from) * (size_t)k->d;
}

static inline ks_gradients asked(kept *k, const bool *layers, bool of_log) {
    return (ks_gradients){.n_targets = k->n_targets,
                          .targets = k->targets,
                          .of_log = of_log,
                          .layers = layers,
                          .emit = keep_rows,
                          .user = k};
}

static const bool every_layer[MOST_STATES] = {1, 1, 1, 1, 1, 1, 1, 1};

static inline void expect_close(const char *name, const kept *k, int32_t target,
                                int32_t layer, double tolerance,
                                const float **ref) {
    size_t n = floats_of(k, target);
    double e = relative_error(k->rows[target][layer], *ref, n);
    cr_expect(e <= tolerance, "%s target %d layer %d: relative error %g", name,
              target, layer, e);
    *ref += n;
}

/* p: every layer of sums of P, log: layer 0 of sums of log P; tolerance:
 * relative, a target and layer. */
static inline void expect_reference(const char *name, const fixture *f,
                                    const kept *p, const kept *log,
                                    double tolerance) {
    const float *ref = f->ref;
    for (int32_t i = 0; i < f->n_targets; i++) {
        expect_close(name, p, i, 0, tolerance, &ref);
        expect_close(name, p, i, 1, tolerance, &ref);
        expect_close(name, p, i, f->g.n_states - 1, tolerance, &ref);
    }
    for (int32_t i = 0; i < f->n_targets; i++)
        expect_close(name, log, i, 0, tolerance, &ref);
    cr_assert_eq((size_t)(ref - f->ref), f->n_ref, "%s", name);
}

/* All that were asked for. */
static inline void expect_same(const kept *a, const kept *b, const char *what) {
    for (int32_t i = 0; i < a->n_targets; i++)
        for (int32_t l = 0; l < a->n_states; l++) {
            cr_expect((a->rows[i][l] != NULL) == (b->rows[i][l] != NULL),
                      "%s: target %d layer %d", what, i, l);
            if (!a->rows[i][l] || !b->rows[i][l]) continue;
            cr_expect(memcmp(a->rows[i][l], b->rows[i][l],
                             floats_of(a, i) * sizeof(float)) == 0,
                      "%s: target %d layer %d", what, i, l);
        }
}

#endif
