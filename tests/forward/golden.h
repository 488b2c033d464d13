/* golden.h - the golden cases of tests/golden/make_forward.py, and hidden
 * states of our own forward in the same layout. */
#ifndef KS_TESTS_GOLDEN_H
#define KS_TESTS_GOLDEN_H

#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "compare.h"
#include "forward.h"

#define DATA KS_TEST_DATA "/forward/"

static const char *const golden_cases[] = {
    "llama3", "linear", "qwen2", "mistral", "qwen3", "olmo2", "olmo3", "gemma3",
};

/* must(f(..., err)): err is the macro's own. */
#define must(call)                                                             \
    do {                                                                       \
        ks_err must_err = {0};                                                 \
        _Pragma("GCC diagnostic push")                                         \
            _Pragma("GCC diagnostic ignored \"-Wshadow\"") ks_err *err =       \
                &must_err;                                                     \
        _Pragma("GCC diagnostic pop")                                          \
            cr_assert((call) == KS_OK, "%s", must_err.text);                   \
    } while (0)

typedef struct golden {
    int32_t n, n_states, d; /* tokens, layers + 1 */
    int32_t *ids, *argmax;
    int32_t n_prompt, n_new;
    int32_t *new_ids;
    float *hidden; /* [n_states, n, d] */
} golden;

static int32_t *golden_ids(json_t *root, const char *key, int32_t *n) {
    json_t *list = json_object_get(root, key);
    *n = (int32_t)json_array_size(list);
    cr_assert_gt(*n, 0, "%s is missing", key);
    int32_t *ids = malloc((size_t)*n * sizeof *ids);
    for (int32_t i = 0; i < *n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    return ids;
}

static inline golden golden_open(const char *name, const ks_engine *engine) {
    golden g = {.n_states = engine->model->config.n_layers + 1,
                .d = engine->model->config.d_model};
    char path[512];
    snprintf(path, sizeof path, DATA "%s/golden.json", name);
    json_t *root = json_load_file(path, 0, NULL);
    cr_assert(root, "%s", path);
    int32_t n = 0;
    g.ids = golden_ids(root, "ids", &g.n);
    g.argmax = golden_ids(root, "argmax", &n);
    cr_assert_eq(n, g.n);
    g.new_ids = golden_ids(root, "greedy", &g.n_new);
    g.n_prompt =
        (int32_t)json_integer_value(json_object_get(root, "greedy_prompt"));
    json_decref(root);
    snprintf(path, sizeof path, DATA "%s/hidden.f32", name);
    FILE *file = fopen(path, "rb");
    cr_assert(file, "%s", path);
    size_t count = (size_t)g.n_states * (size_t)g.n * (size_t)g.d;
    g.hidden = malloc((count + 1) * sizeof(float));
    cr_assert_eq(fread(g.hidden, sizeof(float), count + 1, file), count,
                 "%s has another shape", path);
    fclose(file);
    return g;
}

static inline void golden_close(golden *g) {
    free(g->ids);
    free(g->argmax);
    free(g->new_ids);
    free(g->hidden);
}

static inline ks_engine *open_model(const char *path,
                                    const ks_engine_options *options) {
    ks_engine *engine = NULL;
    must(ks_engine_open(&engine, path, options, err));
    return engine;
}

static inline ks_engine *open_case(const char *path, int threads) {
    return open_model(path, &(ks_engine_options){.threads = threads});
}

/* Rows of KS_TOKENS, layer after layer. */
typedef struct states {
    float *at;
    int64_t layer_floats;
} states;

static inline ks_status keep_states(void *user, ks_stream stream,
                                    ks_position position, int32_t layer,
                                    const void *rows, int64_t n, ks_err *err) {
    states *s = user;
    (void)stream, (void)position, (void)n, (void)err;
    memcpy(s->at + layer * s->layer_floats, rows,
           (size_t)s->layer_floats * sizeof(float));
    return KS_OK;
}

/* Residual stream [L + 1, n_tok, d] of a packed batch, malloc'd. */
static inline float *run_batch(ks_engine *engine, int32_t n_seq,
                               const int32_t *offsets, const int32_t *ids) {
    const ks_config *c = &engine->model->config;
    int32_t n = offsets[n_seq];
    ks_segment *segments = malloc((size_t)n_seq * sizeof *segments);
    for (int32_t s = 0; s < n_seq; s++)
        segments[s] = (ks_segment){s, offsets[s], offsets[s + 1]};
    states out = {.layer_floats = (int64_t)n * c->d_model};
    out.at = malloc((size_t)(c->n_layers + 1) * (size_t)out.layer_floats *
                    sizeof(float));
    ks_capture capture = {.streams = 1u << KS_RESID,
                          .positions = 1u << KS_TOKENS,
                          .dtype = KS_F32,
                          .n_segments = n_seq,
                          .segments = segments,
                          .emit = keep_states,
                          .user = &out};
    ks_batch batch = {n_seq, offsets, ids};
    must(ks_engine_run(engine, &batch, &capture, err));
    free(segments);
    return out.at;
}

static inline float *run_alone(ks_engine *engine, const int32_t *ids,
                               int32_t n) {
    return run_batch(engine, 1, (int32_t[]){0, n}, ids);
}

/* Greedy ids of normed rows. */
static inline void argmax_of(ks_engine *engine, ks_view hidden, int32_t *ids) {
    size_t n = (size_t)hidden.rows;
    ks_sample_spec *specs = calloc(n, sizeof *specs);
    must(ks_run_sample(engine->run, hidden, specs, ids, NULL, err));
    free(specs);
}

#endif
