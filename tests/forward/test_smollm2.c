/* SmolLM2-135M (Q4_1) on GSM8K text against transformers in float32
 * (tests/golden/compare_forward.py). Skipped where the model file is not
 * there: KS_SMOLLM2 names it, or it lies in ~/.cache/keystep. */
#include <unistd.h>

#include "golden.h"

static const char name[] = "SmolLM2-135M-Instruct.Q4_1.gguf";
static const double tolerance = 1e-4;

static bool find_model(char *path, size_t size) {
    const char *given = getenv("KS_SMOLLM2"), *home = getenv("HOME");
    if (given)
        snprintf(path, size, "%s", given);
    else
        snprintf(path, size, "%s/.cache/keystep/%s", home ? home : "", name);
    if (access(path, R_OK) == 0) return true;
    fprintf(stderr,
            "SKIPPED forward_test_smollm2: no %s (KS_SMOLLM2 or "
            "~/.cache/keystep)\n",
            name);
    return false;
}

/* Argmax and every layer's state of a few tokens: one forward for both. */
Test(smollm2, hidden_states_and_argmax) {
    char path[1024];
    if (!find_model(path, sizeof path)) cr_skip("no %s", name);
    json_t *root = json_load_file(DATA "smollm2/golden.json", 0, NULL);
    cr_assert(root);
    int32_t n, n_argmax, n_rows, n_close = 0;
    int32_t *ids = golden_ids(root, "ids", &n);
    int32_t *argmax = golden_ids(root, "argmax", &n_argmax);
    int32_t *rows = golden_ids(root, "rows", &n_rows);
    json_t *close = json_object_get(root, "close");
    n_close = (int32_t)json_array_size(close);
    cr_assert_eq(n, n_argmax);
    cr_assert_lt(n_close, 3);

    ks_engine *engine = open_case(path, 0);
    const ks_config *c = &engine->model->config;
    size_t n_states = (size_t)c->n_layers + 1, d = (size_t)c->d_model;
    ks_segment *segments = calloc((size_t)n_rows, sizeof *segments);
    for (int32_t r = 0; r < n_rows; r++)
        segments[r] = (ks_segment){0, rows[r], rows[r] + 1};
    states out = {.layer_floats = n_rows * c->d_model};
    out.at = malloc(n_states * (size_t)out.layer_floats * sizeof(float));
    ks_capture capture = {1u << KS_RESID, 1u << KS_TOKENS, KS_F32, n_rows,
                          segments,       keep_states,     &out};
    ks_run_limits limits = {.max_tokens = n,
                            .max_rows = n_rows,
                            .streams = capture.streams,
                            .positions = capture.positions,
                            .dtype = KS_F32};
    ks_seqs seqs = {1, n, (int32_t[]){0, n}, NULL, NULL, 0, NULL};
    ks_view hidden;
    must(ks_engine_reserve(engine, &limits, err));
    must(ks_forward(engine->run, &seqs, ids, NULL, &capture, NULL, &hidden,
                    err));
    int32_t *got = malloc((size_t)n * sizeof *got);
    argmax_of(engine, hidden, got);
    int wrong = 0;
    for (int32_t t = 0; t < n; t++) wrong += got[t] != argmax[t];
    cr_expect_leq(wrong, n_close, "%d of %d argmax differ", wrong, n);

    FILE *file = fopen(DATA "smollm2/hidden.f32", "rb");
    cr_assert(file);
    float *ref = malloc(n_states * d * sizeof *ref);
    double worst = 0;
    for (int32_t r = 0; r < n_rows; r++) {
        cr_assert_eq(fread(ref, sizeof *ref, n_states * d, file), n_states * d);
        for (size_t l = 0; l < n_states; l++) {
            double e = relative_error(out.at + l * (size_t)out.layer_floats +
                                          (size_t)r * d,
                                      ref + l * d, d);
            if (!isnan(worst) && !(e <= worst)) worst = e; /* a NaN stays */
        }
    }
    fclose(file);
    cr_expect(worst <= tolerance, "relative error %g", worst);
    fprintf(stderr, "worst relative error of a layer %.2g\n", worst);
    free(ref);
    free(got);
    free(out.at);
    free(segments);
    free(ids);
    free(argmax);
    free(rows);
    json_decref(root);
    ks_engine_close(&engine);
}
