/* test_api.c - the library as a C user sees it: keystep.h alone. Opens the
 * embedded model, runs a batch with capture, trains probes. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keystep.h"

#define MODEL KS_TEST_DATA "/../../experiments/demo/models/demo-a"

enum { MAX_LAYERS = 64, MAX_D = 1024, STEPS = 2 };

struct kept {
    int32_t d;
    int layers;
    float mean[MAX_LAYERS][STEPS][MAX_D];
};

static ks_status keep(void *user, ks_stream stream, ks_position position,
                      int32_t layer, const void *rows, int64_t n_rows,
                      ks_err *err) {
    struct kept *kept = user;
    (void)err;
    cr_assert(eq(int, stream, KS_RESID));
    cr_assert(eq(int, position, KS_MEAN));
    cr_assert(eq(i64, n_rows, STEPS));
    for (int s = 0; s < STEPS; s++)
        memcpy(kept->mean[layer][s], (const float *)rows + s * kept->d,
               sizeof(float) * (size_t)kept->d);
    kept->layers++;
    return KS_OK;
}

/* Runs `text` as one sequence whose two halves are the steps. */
static void run_text(ks_engine *engine, const ks_tokenizer *tokenizer,
                     const char *text, struct kept *kept) {
    ks_err err = {0};
    ks_tokens tokens = {0};
    cr_assert(ks_tokenize(tokenizer, text, strlen(text), &tokens, &err) ==
                  KS_OK,
              "%s", err.text);
    int32_t n = (int32_t)tokens.n;
    ks_batch batch = {1, (int32_t[]){0, n}, tokens.ids};
    ks_segment steps[STEPS] = {{0, 0, n / 2}, {0, n / 2, n}};
    kept->d = ks_engine_info(engine).d_model;
    ks_capture capture = {1u << KS_RESID, 1u << KS_MEAN, KS_F32, STEPS,
                          steps,          keep,          kept};
    cr_assert(ks_engine_run(engine, &batch, &capture, &err) == KS_OK, "%s",
              err.text);
    ks_tokens_free(&tokens);
}

Test(api, a_c_user_captures_and_trains) {
    ks_err err = {0};
    ks_engine *engine = NULL;
    ks_tokenizer *tokenizer = NULL;
    cr_assert(ks_engine_open(&engine, MODEL, NULL, &err) == KS_OK, "%s",
              err.text);
    cr_assert(ks_tokenizer_open(&tokenizer, MODEL, &err) == KS_OK, "%s",
              err.text);
    ks_model_info info = ks_engine_info(engine);
    struct kept *kept = calloc(1, sizeof *kept);
    enum { TEXTS = 40 };
    float *x = malloc(sizeof(float) * TEXTS * STEPS * (size_t)info.d_model);
    int8_t y[TEXTS * STEPS];
    int32_t group[TEXTS * STEPS];
    for (int i = 0; i < TEXTS; i++) {
        char text[128];
        snprintf(text, sizeof text, "%s has %d coins. %s has %d more than Ben.",
                 i % 2 ? "Anna" : "Cara", i % 10, i % 2 ? "Dora" : "Emil",
                 i / 4);
        kept->layers = 0;
        run_text(engine, tokenizer, text, kept);
        cr_assert(eq(int, kept->layers, info.n_layers + 1));
        for (int s = 0; s < STEPS; s++) {
            int row = i * STEPS + s;
            memcpy(x + row * info.d_model, kept->mean[info.n_layers][s],
                   sizeof(float) * (size_t)info.d_model);
            y[row] = (int8_t)s; /* first or second half: easy to tell */
            group[row] = i;
        }
    }
    double strengths[] = {0.01, 1};
    uint64_t seeds[] = {1};
    ks_probe_problem problem = {TEXTS * STEPS, info.d_model, x,   y,
                                group,         group,        NULL};
    ks_probe_options options = {.n_strengths = 2,
                                .strengths = strengths,
                                .n_folds = 4,
                                .n_inner_folds = 3,
                                .n_seeds = 1,
                                .seeds = seeds};
    float scores[TEXTS * STEPS];
    ks_probe_fit fits[4];
    cr_assert(ks_probe_l2(&problem, &options, scores, fits, NULL, &err) ==
                  KS_OK,
              "%s", err.text);
    int right = 0;
    for (int i = 0; i < TEXTS * STEPS; i++) right += (scores[i] > 0) == y[i];
    cr_assert(right >= TEXTS * STEPS * 9 / 10, "%d right", right);
    for (int f = 0; f < 4; f++) cr_assert(fits[f].gradient <= 1e-6);
    free(x);
    free(kept);
    ks_tokenizer_close(&tokenizer);
    ks_engine_close(&engine);
    cr_assert(engine == NULL && tokenizer == NULL);
    ks_engine_close(&engine);
}

Test(api, a_failed_open_leaves_nothing) {
    ks_err err = {0};
    ks_engine *engine = (ks_engine *)&err;
    cr_assert(ks_engine_open(&engine, "/nowhere", NULL, &err) != KS_OK);
    cr_assert(engine == NULL);
    cr_assert(strstr(err.text, "/nowhere") != NULL, "%s", err.text);
    ks_engine_options cuda = {.backend = "cuda"};
    cr_assert(
        eq(int, ks_engine_open(&engine, MODEL, &cuda, &err), KS_UNSUPPORTED));
    cr_assert(strstr(err.text, "cuda") != NULL, "%s", err.text);
}

Test(api, ids_outside_the_vocabulary_are_refused) {
    ks_err err = {0};
    ks_engine *engine = NULL;
    cr_assert(ks_engine_open(&engine, MODEL, NULL, &err) == KS_OK);
    int32_t ids[2] = {0, 1 << 20};
    ks_batch batch = {1, (int32_t[]){0, 2}, ids};
    cr_assert(ks_engine_run(engine, &batch, NULL, &err) != KS_OK);
    cr_assert(strstr(err.text, "1048576") != NULL, "%s", err.text);
    ks_engine_close(&engine);
}
