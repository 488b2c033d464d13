/* Host code never touches a backend's memory, and no op gets a host pointer:
 * everything that the forward pass serves gives the same bytes on a backend
 * whose memory lies apart (apart.h) as on the CPU. */
#include "apart.h"
#include "generate.h"
#include "golden.h"

/* All that a capture emits, in order, with what it is. */
typedef struct tape {
    char *bytes;
    size_t n, capacity, row_bytes;
} tape;

static void record(tape *t, const void *from, size_t n) {
    must(ks_grow(&t->bytes, &t->capacity, t->n + n, 1, "a tape", err));
    memcpy(t->bytes + t->n, from, n);
    t->n += n;
}

static ks_status keep_tape(void *user, ks_stream stream, ks_position position,
                           int32_t layer, const void *rows, int64_t n,
                           ks_err *err) {
    tape *t = user;
    (void)err;
    record(t, (int[]){(int)stream, (int)position, layer, (int)n},
           4 * sizeof(int));
    record(t, rows, (size_t)n * t->row_bytes);
    return KS_OK;
}

/* Steps with a gap, an empty one, and one at a sequence's start. */
static const ks_segment segments[] = {
    {0, 2, 9}, {0, 9, 10}, {0, 30, 30}, {0, 31, 50}, {1, 50, 60}};

static ks_status capture_tape(ks_engine *engine, const golden *g, ks_type dtype,
                              tape *t, ks_err *err) {
    *t = (tape){.row_bytes = ks_type_row_bytes(dtype, g->d)};
    ks_capture capture = {.streams = 7,
                          .positions = 63,
                          .dtype = dtype,
                          .n_segments = KS_COUNT(segments),
                          .segments = segments,
                          .emit = keep_tape,
                          .user = t};
    ks_batch batch = {2, (int32_t[]){0, 50, g->n}, g->ids};
    return ks_engine_run(engine, &batch, &capture, err);
}

static ks_engine *open_plain(const char *name) {
    char path[512];
    ks_engine *engine = NULL;
    ks_engine_options options = {.threads = 2, .batch_tokens = 128};
    snprintf(path, sizeof path, DATA "%s", name);
    must(ks_engine_open(&engine, path, &options, err));
    return engine;
}

static ks_engine *open_apart(const char *name) {
    ks_engine *engine = open_plain(name);
    move_apart(engine);
    return engine;
}

Test(memory, capture_of_every_model) {
    for (size_t i = 0; i < KS_COUNT(golden_cases); i++) {
        ks_type dtype = (ks_type[]){KS_F32, KS_BF16, KS_F16}[i % 3];
        ks_engine *here = open_plain(golden_cases[i]),
                  *there = open_apart(golden_cases[i]);
        golden g = golden_open(golden_cases[i], here);
        tape a, b;
        must(capture_tape(here, &g, dtype, &a, err));
        for (int pass = 0; pass < 2; pass++) { /* the run's memory again */
            int64_t copies = apart.n_copied, waits = apart.n_waits;
            must(capture_tape(there, &g, dtype, &b, err));
            cr_expect(a.n == b.n && memcmp(a.bytes, b.bytes, a.n) == 0,
                      "%s: %zu and %zu bytes differ", golden_cases[i], a.n,
                      b.n);
            /* one copy of the batch, those of the rows, no more */
            int64_t emitted = 6 * (3 * (g.n_states - 1) + 1);
            if (pass) {
                cr_expect_eq(apart.n_copied - copies, emitted + 1);
                cr_expect_eq(apart.n_waits - waits, emitted / 6);
            }
            free(b.bytes);
        }
        free(a.bytes);
        golden_close(&g);
        ks_engine_close(&here);
        ks_engine_close(&there);
        cr_expect_eq(apart.n_live, 0, "%zu buffers left", apart.n_live);
    }
}

/* More tokens than a row block of the CPU, many sequences. */
Test(memory, long_batch) {
    enum { COPIES = 9 };
    ks_engine *here = open_plain("qwen2"), *there = open_apart("qwen2");
    golden g = golden_open("qwen2", here);
    int32_t offsets[COPIES + 1] = {0};
    int32_t *ids = malloc((size_t)(COPIES * g.n) * sizeof *ids);
    for (int32_t s = 0; s < COPIES; s++) {
        memcpy(ids + s * g.n, g.ids, (size_t)g.n * sizeof *ids);
        offsets[s + 1] = offsets[s] + g.n;
    }
    float *a = run_batch(here, COPIES, offsets, ids);
    float *b = run_batch(there, COPIES, offsets, ids);
    cr_expect_eq(memcmp(a, b,
                        (size_t)g.n_states * COPIES * (size_t)g.n *
                            (size_t)g.d * sizeof *a),
                 0);
    free(a);
    free(b);
    free(ids);
    golden_close(&g);
    ks_engine_close(&here);
    ks_engine_close(&there);
}

/* Logits come back a few rows at a time. */
Test(memory, entropies) {
    enum { N = 90 };
    ks_engine *here = open_plain("qwen2"), *there = open_apart("qwen2");
    float a[N], b[N];
    int32_t ids[N];
    ks_run_limits limits = {.max_tokens = N};
    ks_seqs seqs = {1, N, (int32_t[]){0, N}, NULL, NULL, 0, NULL};
    for (int32_t t = 0; t < N; t++)
        ids[t] = (t * 13 + 1) % here->model->config.n_vocab;
    for (int k = 0; k < 2; k++) {
        ks_engine *e = k ? there : here;
        ks_view hidden;
        must(ks_engine_reserve(e, &limits, err));
        must(ks_forward(e->run, &seqs, ids, NULL, NULL, NULL, &hidden, err));
        must(ks_run_entropy(e->run, hidden, k ? b : a, err));
    }
    cr_expect_eq(memcmp(a, b, sizeof a), 0);
    ks_engine_close(&here);
    ks_engine_close(&there);
    cr_expect_eq(apart.n_live, 0, "%zu buffers left", apart.n_live);
}

/* ----------------------------------------------------------------- generation
 */

enum { CROWD = 21, MOST_IDS = 64 };

typedef struct sampled {
    int32_t ids[CROWD][MOST_IDS], n[CROWD];
} sampled;

static ks_status keep_ids(void *user, size_t i, const int32_t *ids, int32_t n,
                          ks_finish finish, ks_err *err) {
    sampled *s = user;
    (void)finish, (void)err;
    cr_assert(n <= MOST_IDS);
    memcpy(s->ids[i], ids, (size_t)n * sizeof *ids);
    s->n[i] = n;
    return KS_OK;
}

/* Prompts of many lengths, three samples each; a store so small that some
 * give way. */
static void generate_crowd(ks_engine *engine, const golden *g, size_t pages,
                           sampled *out, ks_generate_stats *stats) {
    ks_request requests[CROWD];
    for (int32_t i = 0; i < CROWD; i++)
        requests[i] = (ks_request){.prompt = g->ids + i / 3,
                                   .n_prompt = 1 + i / 3 * 11,
                                   .stream = (uint64_t)i * 977,
                                   .group = i / 3};
    ks_generate_options options = {
        .temperature = 1.3f,
        .top_p = 0.95f,
        .max_new = 40,
        .seed = 5,
        .memory = pages * ks_kv_page_bytes(&engine->model->config)};
    memset(out, 0, sizeof *out);
    must(ks_generate(engine, &options, requests, CROWD, keep_ids, out, stats,
                     err));
}

Test(memory, generation) {
    static sampled a, b;
    static const char *const models[] = {"qwen3", "gemma3"};
    for (size_t i = 0; i < KS_COUNT(models); i++) {
        ks_generate_stats stats;
        ks_engine *here = open_plain(models[i]), *there = open_apart(models[i]);
        golden g = golden_open(models[i], here);
        generate_crowd(here, &g, 64, &a, &stats);
        generate_crowd(there, &g, 9, &b, &stats);
        cr_expect_eq(memcmp(&a, &b, sizeof a), 0, "%s: other ids", models[i]);
        cr_expect(stats.preempted > 0 && stats.shared > 0);
        golden_close(&g);
        ks_engine_close(&here);
        ks_engine_close(&there);
        cr_expect_eq(apart.n_live, 0, "%zu buffers left", apart.n_live);
    }
}

Test(memory, scores_and_log_probabilities) {
    ks_engine *engines[] = {open_plain("llama3"), open_apart("llama3")};
    float logprobs[2][2][256];
    golden g = golden_open("llama3", engines[0]);
    for (int e = 0; e < 2; e++) {
        ks_run_limits limits = {.max_tokens = g.n};
        ks_seqs seqs = {1, g.n, (int32_t[]){0, g.n}, NULL, NULL, 0, NULL};
        ks_sample_spec *specs = calloc((size_t)g.n, sizeof *specs);
        int32_t ids[256];
        ks_view hidden;
        must(ks_engine_reserve(engines[e], &limits, err));
        ks_run *run = engines[e]->run;
        must(ks_forward(run, &seqs, g.ids, NULL, NULL, NULL, &hidden, err));
        must(ks_run_sample(run, hidden, specs, ids, logprobs[e][0], err));
        cr_expect_eq(memcmp(ids, g.argmax, (size_t)g.n * sizeof *ids), 0);
        must(ks_run_score(run, hidden, g.argmax, logprobs[e][1], err));
        hidden.rows = engines[e]->limits.max_tokens + 1;
        ks_err err = {0};
        cr_expect_eq(ks_run_score(run, hidden, ids, logprobs[e][1], &err),
                     KS_LIMIT);
        free(specs);
    }
    for (int what = 0; what < 2; what++)
        cr_expect_eq(memcmp(logprobs[0][what], logprobs[1][what],
                            (size_t)g.n * sizeof(float)),
                     0);
    golden_close(&g);
    ks_engine_close(&engines[0]);
    ks_engine_close(&engines[1]);
}

/* Sets from one id to all of the vocabulary, most of them too many for one
 * image: rows go over in turns. Offsets begin behind ids of others. */
typedef struct sets {
    int32_t *ids, offsets[257];
} sets;

static sets sets_of(const golden *g, int32_t n_vocab) {
    sets s = {calloc((size_t)g->n * (size_t)n_vocab + 5, sizeof(int32_t)), {5}};
    for (int32_t i = 0; i < 5; i++) s.ids[i] = -1;
    for (int32_t t = 0, n = 5; t < g->n; t++) {
        s.ids[n++] = g->argmax[t];
        for (int32_t j = 0; j < n_vocab; j++)
            if (j != g->argmax[t] && j % (t % 5 * 3 + 1) == 0 && t % 4)
                s.ids[n++] = j;
        s.offsets[t + 1] = n;
    }
    return s;
}

Test(memory, shares) {
    ks_engine *engines[] = {open_plain("llama3"), open_apart("llama3")};
    int32_t n_vocab = engines[0]->model->config.n_vocab;
    double shares[2][257];
    golden g = golden_open("llama3", engines[0]);
    sets s = sets_of(&g, n_vocab);
    cr_assert(g.n <= 256 && s.offsets[g.n] - 5 > 4 * n_vocab);
    for (int e = 0; e < 2; e++) {
        ks_run_limits limits = {.max_tokens = g.n};
        ks_seqs seqs = {1, g.n, (int32_t[]){0, g.n}, NULL, NULL, 0, NULL};
        ks_sample_spec *specs = calloc((size_t)g.n, sizeof *specs);
        ks_view hidden;
        must(ks_engine_reserve(engines[e], &limits, err));
        ks_run *run = engines[e]->run;
        must(ks_forward(run, &seqs, g.ids, NULL, NULL, NULL, &hidden, err));
        shares[e][g.n] = -7;
        must(
            ks_run_share(run, hidden, specs, s.offsets, s.ids, shares[e], err));
        for (int32_t t = 0; t < g.n; t++) /* greedy */
            cr_expect(shares[e][t] == 0, "row %d: %g", t, shares[e][t]);
        for (int32_t t = 0; t < g.n; t++)
            specs[t] = (ks_sample_spec){.temperature = 1, .top_p = 0.95f};
        must(
            ks_run_share(run, hidden, specs, s.offsets, s.ids, shares[e], err));
        cr_expect(shares[e][g.n] == -7);
        free(specs);
    }
    int32_t inner = 0;
    for (int32_t t = 0; t < g.n; t++)
        inner += shares[0][t] < 0 && shares[0][t] > -20;
    cr_expect(inner > g.n / 4, "%d of %d shares tell", inner, g.n);
    cr_expect_eq(memcmp(shares[0], shares[1], (size_t)g.n * sizeof(double)), 0);
    free(s.ids);
    golden_close(&g);
    ks_engine_close(&engines[0]);
    ks_engine_close(&engines[1]);
}

Test(memory, sets_are_checked) {
    ks_engine *engine = open_apart("llama3");
    int32_t n_vocab = engine->model->config.n_vocab;
    int32_t offsets[] = {0, 2, 3}, *ids = calloc((size_t)n_vocab + 3, 4);
    ks_sample_spec specs[2] = {{0}};
    ks_run_limits limits = {.max_tokens = 2};
    ks_seqs seqs = {1, 2, (int32_t[]){0, 2}, NULL, NULL, 0, NULL};
    double shares[2];
    ks_err err = {0};
    ks_view hidden;
    must(ks_engine_reserve(engine, &limits, err));
    ks_run *run = engine->run;
    must(ks_forward(run, &seqs, ids, NULL, NULL, NULL, &hidden, err));
    static const struct {
        int32_t end, id;
        ks_status status;
        const char *words;
    } cases[] = {
        {3, 0, KS_OK, ""},
        {2, 0, KS_OK, ""}, /* a set without ids */
        {3, -1, KS_MISMATCH, "set 1 holds id -1, the model's vocabulary is 0"},
        {3, 1 << 20, KS_MISMATCH, "set 1 holds id 1048576"},
        {1, 0, KS_USAGE, "set 1 has -1 ids, expected 0 to "},
    };
    for (size_t i = 0; i < KS_COUNT(cases); i++) {
        offsets[2] = cases[i].end, ids[2] = cases[i].id;
        cr_expect_eq(
            ks_run_share(run, hidden, specs, offsets, ids, shares, &err),
            cases[i].status);
        cr_expect(strstr(err.text, cases[i].words), "%s", err.text);
    }
    offsets[2] = 2 + n_vocab + 1, ids[2] = 0;
    cr_expect_eq(ks_run_share(run, hidden, specs, offsets, ids, shares, &err),
                 KS_USAGE);
    hidden.rows = engine->limits.max_tokens + 1;
    cr_expect_eq(ks_run_share(run, hidden, specs, offsets, ids, shares, &err),
                 KS_LIMIT);
    free(ids);
    ks_engine_close(&engine);
}

/* --------------------------------------------------------------------- faults
 */

static void spoil_bias(ks_model *model) {
    model->weights.layers[1].bv[0] = NAN;
}

static void widen_norm(ks_model *model) {
    for (int32_t j = 0; j < model->config.d_model; j++)
        model->weights.layers[1].mlp_norm[j] *= 1e5f;
}

/* The same words, though a device says late that something is wrong. */
static void expect_same_fault(void (*spoil)(ks_model *), ks_type dtype,
                              const char *words) {
    ks_engine *engines[] = {open_plain("qwen2"), open_apart("qwen2")};
    ks_err errors[2] = {{0}, {0}};
    ks_fault faults[2];
    golden g = golden_open("qwen2", engines[0]);
    for (int e = 0; e < 2; e++) {
        tape t;
        spoil(engines[e]->model);
        cr_expect_eq(capture_tape(engines[e], &g, dtype, &t, &errors[e]),
                     KS_NUMERIC);
        faults[e] = ks_run_fault(engines[e]->run);
        free(t.bytes);
    }
    cr_expect(strstr(errors[0].text, words), "%s", errors[0].text);
    cr_expect_str_eq(errors[0].text, errors[1].text);
    cr_expect(faults[0].seq == faults[1].seq &&
              faults[0].layer == faults[1].layer &&
              faults[0].token == faults[1].token &&
              faults[0].overflow == faults[1].overflow);
    golden_close(&g);
    ks_engine_close(&engines[0]);
    ks_engine_close(&engines[1]);
}

Test(memory, faults_are_named) {
    expect_same_fault(spoil_bias, KS_F32, "not finite");
    expect_same_fault(widen_norm, KS_F16, "beyond the range of f16");
}

/* A device that is too small: the weight that found no room is named. */
Test(memory, weights_that_do_not_fit) {
    ks_engine *engine = open_apart("qwen2");
    size_t all = ks_place_bytes(engine->ops, engine->model);
    ks_run_limits limits = {.max_tokens = 8};
    ks_err err = {0};
    apart.limit = all / 2;
    cr_expect_eq(ks_engine_reserve(engine, &limits, &err), KS_NOMEM);
    cr_expect(strstr(err.text, "no memory for weight ") &&
                  strstr(err.text, " of layer "),
              "%s", err.text);
    cr_expect_eq(apart.n_live, 0, "%zu buffers left", apart.n_live);
    apart.limit = 0;
    must(ks_engine_reserve(engine, &limits, err));
    size_t placed = 0, run = ks_run_bytes(engine->ops, &engine->model->config,
                                          &engine->limits);
    for (size_t i = 0; i < apart.n_live; i++) placed += apart.live[i].size;
    cr_expect_eq(placed, all + run);
    ks_engine_close(&engine);
}

/* Page tables beyond what the run was sized for are refused. */
Test(memory, page_tables_have_a_limit) {
    ks_engine *engine = open_plain("qwen3");
    ks_run_limits limits = {.max_tokens = 8, .max_pages = 2};
    ks_kv *kv = NULL;
    must(ks_engine_reserve(engine, &limits, err));
    must(ks_kv_open(&kv, engine->dev, engine->ops, &engine->model->config, 4,
                    err));
    int32_t pages[3] = {0, 1, 2}, past = 0, id = 1;
    ks_seqs seqs = {1, 1, (int32_t[]){0, 1}, &past, pages, 3, NULL};
    ks_err err = {0};
    cr_expect_eq(
        ks_forward(engine->run, &seqs, &id, kv, NULL, NULL, NULL, &err),
        KS_LIMIT);
    cr_expect(strstr(err.text, "1 sequences by 3 pages"), "%s", err.text);
    ks_kv_close(&kv);
    ks_engine_close(&engine);
}
