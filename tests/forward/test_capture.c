/* Capture in the graph: pooled rows against their definition, streams against
 * each other, faults named by sequence and layer, bad batches refused. */
#include "golden.h"

enum { N_SEG = 5, SPLIT = 50 }; /* golden ids cut into two sequences */

typedef struct kept {
    int32_t d, n_layers;
    int64_t n_rows[KS_N_POSITIONS];
    float *rows[KS_N_STREAMS][KS_N_POSITIONS]; /* [L + 1, n_rows, d] */
    int calls;
} kept;

static ks_status keep_all(void *user, ks_stream stream, ks_position position,
                          int32_t layer, const void *rows, int64_t n,
                          ks_err *err) {
    kept *k = user;
    (void)err;
    size_t floats = (size_t)n * (size_t)k->d;
    float **at = &k->rows[stream][position];
    if (!*at) *at = calloc((size_t)(k->n_layers + 1) * floats, sizeof(float));
    memcpy(*at + (size_t)layer * floats, rows, floats * sizeof(float));
    k->n_rows[position] = n;
    k->calls++;
    return KS_OK;
}

static const float *row_of(const kept *k, ks_stream s, ks_position p,
                           int32_t layer, int64_t row) {
    return k->rows[s][p] +
           ((size_t)layer * (size_t)k->n_rows[p] + (size_t)row) * (size_t)k->d;
}

/* Two sequences; steps: ordinary, one token, empty, at a sequence's start. */
static const ks_segment segments[N_SEG] = {
    {0, 2, 9}, {0, 9, 10}, {0, 30, 30}, {0, 31, SPLIT}, {1, SPLIT, 60}};

static kept run_all(ks_engine *engine, const golden *g) {
    kept k = {.d = g->d, .n_layers = g->n_states - 1};
    ks_capture capture = {.streams = 7,
                          .positions = 63,
                          .dtype = KS_F32,
                          .n_segments = N_SEG,
                          .segments = segments,
                          .emit = keep_all,
                          .user = &k};
    ks_batch batch = {2, (int32_t[]){0, SPLIT, g->n}, g->ids};
    must(ks_engine_run(engine, &batch, &capture, err));
    cr_assert_eq(k.calls, 6 * (3 * k.n_layers + 1));
    return k;
}

static void free_kept(kept *k) {
    for (int s = 0; s < KS_N_STREAMS; s++)
        for (int p = 0; p < KS_N_POSITIONS; p++) free(k->rows[s][p]);
}

static bool all_nan(const float *row, int32_t d) {
    for (int32_t i = 0; i < d; i++)
        if (!isnan(row[i])) return false;
    return true;
}

/* The token rows of step i start here among all token rows. */
static int64_t token_row(int i) {
    int64_t n = 0;
    for (int s = 0; s < i; s++) n += segments[s].end - segments[s].begin;
    return n;
}

static void expect_step(const kept *k, ks_stream s, int32_t l, int i) {
    int32_t n = segments[i].end - segments[i].begin;
    size_t bytes = (size_t)k->d * sizeof(float);
    const float *mean = row_of(k, s, KS_MEAN, l, i);
    if (n == 0) {
        for (ks_position p = KS_MEAN; p <= KS_BEFORE; p++)
            cr_expect(all_nan(row_of(k, s, p, l, i), k->d));
        return;
    }
    const float *first = row_of(k, s, KS_TOKENS, l, token_row(i));
    cr_expect_eq(memcmp(row_of(k, s, KS_FIRST, l, i), first, bytes), 0);
    cr_expect_eq(
        memcmp(row_of(k, s, KS_MIDDLE, l, i), first + n / 2 * k->d, bytes), 0);
    cr_expect_eq(
        memcmp(row_of(k, s, KS_LAST, l, i), first + (n - 1) * k->d, bytes), 0);
    double *sum = calloc((size_t)k->d, sizeof *sum);
    for (int32_t t = 0; t < n; t++)
        for (int32_t j = 0; j < k->d; j++)
            sum[j] += (double)first[t * k->d + j];
    for (int32_t j = 0; j < k->d; j++) sum[j] /= n;
    cr_expect(close_f32("mean", mean, sum, (size_t)k->d, 1e-6, 1e-5));
    free(sum);
}

Test(capture, positions_follow_their_definitions) {
    ks_engine *engine = open_case(DATA "gemma3", 1);
    golden g = golden_open("gemma3", engine);
    kept k = run_all(engine, &g);
    for (ks_stream s = 0; s < KS_N_STREAMS; s++)
        for (int32_t l = 0; l < k.n_layers + (s == KS_RESID); l++) {
            for (int i = 0; i < N_SEG; i++) expect_step(&k, s, l, i);
            /* step 1 stands right after step 0; the last has none before */
            cr_expect_eq(memcmp(row_of(&k, s, KS_BEFORE, l, 1),
                                row_of(&k, s, KS_LAST, l, 0),
                                (size_t)k.d * sizeof(float)),
                         0);
            cr_expect(all_nan(row_of(&k, s, KS_BEFORE, l, 4), k.d));
        }
    cr_expect_eq(k.n_rows[KS_TOKENS], token_row(N_SEG));
    free_kept(&k);
    golden_close(&g);
    ks_engine_close(&engine);
}

/* x(l + 1) = x(l) + attn(l) + mlp(l), for every kind of norm. */
Test(capture, streams_add_up) {
    for (size_t c = 0; c < KS_COUNT(golden_cases); c++) {
        char path[512];
        snprintf(path, sizeof path, DATA "%s", golden_cases[c]);
        ks_engine *engine = open_case(path, 1);
        golden g = golden_open(golden_cases[c], engine);
        kept k = run_all(engine, &g);
        size_t n = (size_t)k.n_rows[KS_TOKENS] * (size_t)k.d;
        double *sum = malloc(n * sizeof *sum);
        for (int32_t l = 0; l < k.n_layers; l++) {
            const float *x = row_of(&k, KS_RESID, KS_TOKENS, l, 0);
            const float *a = row_of(&k, KS_ATTN, KS_TOKENS, l, 0);
            const float *m = row_of(&k, KS_MLP, KS_TOKENS, l, 0);
            for (size_t i = 0; i < n; i++)
                sum[i] = (double)x[i] + (double)a[i] + (double)m[i];
            cr_expect(close_f32(golden_cases[c],
                                row_of(&k, KS_RESID, KS_TOKENS, l + 1, 0), sum,
                                n, 1e-5, 1e-5));
        }
        free(sum);
        free_kept(&k);
        golden_close(&g);
        ks_engine_close(&engine);
    }
}

/* What is captured does not change what is computed. */
Test(capture, streams_do_not_change_bits) {
    ks_engine *engine = open_case(DATA "olmo2", 1);
    golden g = golden_open("olmo2", engine);
    float *alone = run_alone(engine, g.ids, SPLIT);
    kept k = run_all(engine, &g);
    for (int32_t l = 0; l < g.n_states; l++)
        cr_expect_eq(memcmp(row_of(&k, KS_RESID, KS_TOKENS, l, 0),
                            alone + ((size_t)l * SPLIT + 2) * (size_t)g.d,
                            7 * (size_t)g.d * sizeof(float)),
                     0, "layer %d", l);
    free(alone);
    free_kept(&k);
    golden_close(&g);
    ks_engine_close(&engine);
}

/* ------------------------------------------------------------------- faults */

static ks_status run_two(ks_engine *engine, const golden *g, ks_type dtype,
                         ks_err *err) {
    kept k = {.d = g->d, .n_layers = g->n_states - 1};
    static const ks_segment two[] = {{0, 2, 9}, {1, SPLIT + 3, 60}};
    ks_capture capture = {.streams = 1u << KS_RESID,
                          .positions = 1u << KS_LAST | 1u << KS_MEAN,
                          .dtype = dtype,
                          .n_segments = 2,
                          .segments = two,
                          .emit = dtype == KS_F32 ? keep_all : keep_states,
                          .user = &k};
    states none = {.at = malloc(1), .layer_floats = 0};
    if (dtype != KS_F32) capture.user = &none;
    ks_batch batch = {2, (int32_t[]){0, SPLIT, g->n}, g->ids};
    ks_status st = ks_engine_run(engine, &batch, &capture, err);
    free(none.at);
    free_kept(&k);
    return st;
}

Test(capture, nan_is_named_by_sequence_and_layer) {
    ks_engine *engine = open_case(DATA "qwen2", 1);
    golden g = golden_open("qwen2", engine);
    ks_err err = {0};
    /* Layer 1's value bias: every token is struck. */
    engine->model->weights.layers[1].bv[0] = NAN;
    cr_expect_eq(run_two(engine, &g, KS_F32, &err), KS_NUMERIC);
    ks_fault fault = ks_run_fault(engine->run);
    cr_expect_eq(fault.layer, 2, "layer %d", fault.layer);
    cr_expect_eq(fault.seq, 0);
    cr_expect(!fault.overflow);
    cr_expect_eq(fault.count, (int64_t)g.n * g.d);
    cr_expect(strstr(err.text, "layer 2") && strstr(err.text, "sequence 0"),
              "%s", err.text);
    golden_close(&g);
    ks_engine_close(&engine);
}

/* One token's embedding, in the second sequence. */
Test(capture, the_sequence_that_holds_it_is_named) {
    ks_engine *engine = open_case(DATA "llama3", 1);
    golden g = golden_open("llama3", engine);
    ks_err err = {0};
    const ks_config *c = &engine->model->config;
    float *table = malloc((size_t)(c->n_vocab * c->d_model) * sizeof *table);
    ks_dequantize(engine->model->weights.embed.type,
                  engine->model->weights.embed.data, table,
                  (int64_t)c->n_vocab * c->d_model);
    for (int32_t j = 0; j < c->d_model; j++) table[2 * c->d_model + j] = NAN;
    engine->model->weights.embed = ks_view_f32(table, c->n_vocab, c->d_model);
    g.ids[SPLIT + 4] = 2; /* ids are 3 and up elsewhere */
    cr_expect_eq(run_two(engine, &g, KS_F32, &err), KS_NUMERIC);
    ks_fault fault = ks_run_fault(engine->run);
    cr_expect_eq(fault.seq, 1);
    cr_expect_eq(fault.layer, 0);
    cr_expect_eq(fault.token, 4);
    /* With no such token the same engine is fine again. */
    g.ids[SPLIT + 4] = 5;
    cr_expect_eq(run_two(engine, &g, KS_F32, &err), KS_OK, "%s", err.text);
    cr_expect_eq(ks_run_fault(engine->run).seq, -1);
    free(table);
    golden_close(&g);
    ks_engine_close(&engine);
}

Test(capture, f16_overflow_is_named) {
    ks_engine *engine = open_case(DATA "qwen2", 1);
    golden g = golden_open("qwen2", engine);
    ks_err err = {0};
    /* Finite in f32: layer 1 adds more than 65504 to some dimension. */
    ks_weight *down = &engine->model->weights.layers[1].w_down;
    float *w = malloc((size_t)(down->rows * down->cols) * sizeof *w);
    ks_dequantize(down->type, down->data, w, down->rows * down->cols);
    for (int64_t i = 0; i < down->rows * down->cols; i++) w[i] *= 1e6f;
    *down = ks_view_f32(w, down->rows, down->cols);
    cr_expect_eq(run_two(engine, &g, KS_F16, &err), KS_NUMERIC);
    ks_fault fault = ks_run_fault(engine->run);
    cr_expect(fault.overflow);
    cr_expect_eq(fault.layer, 2);
    cr_expect_eq(fault.seq, 0);
    cr_expect(strstr(err.text, "f16"), "%s", err.text);
    cr_expect_eq(run_two(engine, &g, KS_BF16, &err), KS_OK, "%s", err.text);
    free(w);
    golden_close(&g);
    ks_engine_close(&engine);
}

/* ---------------------------------------------------------------- bad input */

static void expect_refused(ks_engine *engine, ks_batch batch,
                           const ks_capture *capture, ks_status code,
                           const char *words) {
    ks_err err = {0};
    cr_expect_eq(ks_engine_run(engine, &batch, capture, &err), code, "%s: %s",
                 words, err.text);
    cr_expect(strstr(err.text, words), "'%s' lacks '%s'", err.text, words);
}

Test(capture, bad_batches_are_refused) {
    ks_engine *engine = open_case(DATA "qwen2", 1);
    int32_t ids[300] = {0}, wrong[] = {1, 61}, negative[] = {-1};
    expect_refused(engine, (ks_batch){0, (int32_t[]){0}, ids}, NULL, KS_USAGE,
                   "0 sequences");
    expect_refused(engine, (ks_batch){1, (int32_t[]){0, 257}, ids}, NULL,
                   KS_LIMIT, "257 tokens, the model's context is 256");
    expect_refused(engine, (ks_batch){2, (int32_t[]){0, 3, 3}, ids}, NULL,
                   KS_USAGE, "no token");
    expect_refused(engine, (ks_batch){1, (int32_t[]){1, 3}, ids}, NULL,
                   KS_USAGE, "offsets");
    expect_refused(engine, (ks_batch){1, (int32_t[]){0, 2}, wrong}, NULL,
                   KS_MISMATCH, "id 61");
    expect_refused(engine, (ks_batch){1, (int32_t[]){0, 1}, negative}, NULL,
                   KS_MISMATCH, "id -1");
    ks_engine_close(&engine);
}

Test(capture, bad_captures_are_refused) {
    ks_engine *engine = open_case(DATA "qwen2", 1);
    int32_t ids[20] = {0};
    ks_batch batch = {2, (int32_t[]){0, 10, 20}, ids};
    kept k = {.d = 32, .n_layers = 3};
    ks_segment s[2] = {{0, 1, 5}, {0, 4, 9}};
    ks_capture c = {1, 1, KS_F32, 2, s, keep_all, &k};
    expect_refused(engine, batch, &c, KS_MISMATCH, "inside step 0");
    s[1] = (ks_segment){0, 5, 11};
    expect_refused(engine, batch, &c, KS_MISMATCH, "outside its sequence");
    s[1] = (ks_segment){2, 5, 9};
    expect_refused(engine, batch, &c, KS_MISMATCH, "outside its sequence");
    s[1] = (ks_segment){0, 7, 6};
    expect_refused(engine, batch, &c, KS_MISMATCH, "outside its sequence");
    c.streams = 8;
    expect_refused(engine, batch, &c, KS_USAGE, "streams 0x8");
    c.streams = 1, c.positions = 0;
    expect_refused(engine, batch, &c, KS_USAGE, "positions 0");
    c.positions = 1, c.dtype = KS_Q4_0;
    expect_refused(engine, batch, &c, KS_USAGE, "q4_0");
    free_kept(&k);
    ks_engine_close(&engine);
}

Test(capture, memory_is_a_limit) {
    ks_engine *engine = NULL;
    ks_err err = {0};
    ks_engine_options options = {.threads = 1, .memory = 100};
    cr_expect_eq(ks_engine_open(&engine, DATA "qwen2", &options, &err),
                 KS_LIMIT);
    cr_expect_null(engine);
    cr_expect(strstr(err.text, "one token take ") &&
                  strstr(err.text, "the 100 allowed; a larger --memory"),
              "%s", err.text);
    options.memory = 1 << 20;
    must(ks_engine_open(&engine, DATA "qwen2", &options, err));
    int32_t n = engine->limits.max_tokens;
    cr_expect(n > 10 && n < 2048, "%d", n);
    ks_run_limits limits = engine->limits;
    cr_expect_leq(ks_run_bytes(engine->ops, &engine->model->config, &limits),
                  1u << 20);
    limits.max_tokens++;
    cr_expect_gt(ks_run_bytes(engine->ops, &engine->model->config, &limits),
                 1u << 20);
    limits.max_tokens = 100000;
    cr_expect_eq(ks_engine_reserve(engine, &limits, &err), KS_LIMIT);
    cr_expect(strstr(err.text, "1048576"), "%s", err.text);
    cr_expect(strstr(err.text, "(--batch-tokens)"), "%s", err.text);
    ks_engine_close(&engine);
}
