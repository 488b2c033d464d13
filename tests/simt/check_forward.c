/* The whole forward on the simulated device against the CPU backend: hidden
 * states, capture, generation, scores and faults of tiny models with every
 * feature of an architecture, both with bf16 operands and in f32's precision.
 */
#include "generate.h"
#include "pair.h"
#include "run.h"

/* ------------------------------------------------------------- hidden states
 */

enum { SEQS = 3, TOKENS = 77 };
static const int32_t offsets[SEQS + 1] = {0, 1, 32, TOKENS};

static void expect_states(const pair *p, const float *got, const float *ref,
                          double tolerance) {
    size_t n = (size_t)TOKENS * (size_t)p->d;
    double worst = 0;
    for (int32_t l = 0; l < p->n_states; l++) {
        worse(&worst,
              relative_error(got + (size_t)l * n, ref + (size_t)l * n, n));
    }
    cr_expect(worst <= tolerance, "%s: relative error %g", p->name, worst);
}

/* The rows of sequence s have the bits that it has alone. */
static void expect_alone(const pair *p, const float *crowd, const int32_t *ids,
                         int32_t s) {
    int32_t n = offsets[s + 1] - offsets[s];
    size_t row = (size_t)p->d;
    float *alone = run_alone(p->device, ids + offsets[s], n);
    for (int32_t l = 0; l < p->n_states; l++)
        cr_expect(
            memcmp(alone + (size_t)l * (size_t)n * row,
                   crowd + ((size_t)l * TOKENS + (size_t)offsets[s]) * row,
                   (size_t)n * row * sizeof(float)) == 0,
            "%s, sequence %d, layer %d: bits differ", p->name, s, l);
    free(alone);
}

static void check_states(const precision *precision) {
    size_t n = KS_COUNT(variants);
    for (size_t i = 0; i < cases_here(n, 4); i++) { /* the richest are last */
        int32_t ids[TOKENS];
        pair p = open_pair(&variants[n - 1 - i], precision->isa);
        fill_ids(ids, TOKENS, p.n_vocab);
        float *ref = run_batch(p.cpu, SEQS, offsets, ids);
        float *got = run_batch(p.device, SEQS, offsets, ids);
        expect_states(&p, got, ref, precision->relative);
        for (int32_t s = 0; s < SEQS; s++) expect_alone(&p, got, ids, s);
        free(ref);
        free(got);
        close_pair(&p);
    }
}

Test(simt_forward, hidden_states_bf16) {
    check_states(&precisions[0]);
}

Test(simt_forward, hidden_states_f32) {
    check_states(&precisions[1]);
}

/* ------------------------------------------------------------- transformers
 */

/* These models attend to single tokens (pair.h). */
static const double golden_tolerance = 2e-4;

/* The golden models as they are, in f32's precision. */
static void check_golden(const char *name) {
    ks_engine *device = open_on(name, "cuda", "f32");
    golden g = golden_open(name, device);
    size_t layer = (size_t)g.n * (size_t)g.d;
    double worst = 0;
    float *got = run_alone(device, g.ids, g.n);
    for (int32_t l = 0; l < g.n_states; l++)
        worse(&worst, relative_error(got + (size_t)l * layer,
                                     g.hidden + (size_t)l * layer, layer));
    cr_expect(worst <= golden_tolerance, "%s: relative error %g", name, worst);
    free(got);
    golden_close(&g);
    ks_engine_close(&device);
    cr_expect_eq(simt_live_allocations(), 0);
}

Test(model, hidden_states_are_those_of_transformers) {
    size_t n = KS_COUNT(golden_cases);
    for (size_t i = 0; i < cases_here(n, 2); i++) /* the richest are last */
        check_golden(golden_cases[n - 1 - i]);
}

/* ------------------------------------------------------------------- capture
 */

typedef struct kept {
    size_t row_bytes;
    char *rows[KS_N_STREAMS][KS_N_POSITIONS][8]; /* [layer] */
    int64_t n[KS_N_POSITIONS];
} kept;

static ks_status keep(void *user, ks_stream stream, ks_position position,
                      int32_t layer, const void *rows, int64_t n, ks_err *err) {
    kept *k = user;
    (void)err;
    cr_assert(!k->rows[stream][position][layer], "emitted twice");
    char *copy = malloc((size_t)n * k->row_bytes);
    memcpy(copy, rows, (size_t)n * k->row_bytes);
    k->rows[stream][position][layer] = copy;
    k->n[position] = n;
    return KS_OK;
}

static void free_kept(kept *k) {
    for (int s = 0; s < KS_N_STREAMS; s++)
        for (int p = 0; p < KS_N_POSITIONS; p++)
            for (int l = 0; l < 8; l++) free(k->rows[s][p][l]);
}

/* A step that is empty, one of a token, one at a sequence's start. */
enum { STEPS = 5, STEP_TOKENS = 50 };
static const ks_segment steps[STEPS] = {
    {1, 2, 9}, {1, 9, 10}, {1, 20, 20}, {1, 21, 32}, {2, 32, 63}};

static kept capture(ks_engine *engine, const int32_t *ids, ks_type dtype) {
    kept k = {.row_bytes =
                  ks_type_row_bytes(dtype, engine->model->config.d_model)};
    ks_capture capture = {.streams = 7,
                          .positions = 63,
                          .dtype = dtype,
                          .n_segments = STEPS,
                          .segments = steps,
                          .emit = keep,
                          .user = &k};
    ks_batch batch = {SEQS, offsets, ids};
    must(ks_engine_run(engine, &batch, &capture, err));
    cr_assert_eq(k.n[KS_TOKENS], STEP_TOKENS);
    return k;
}

/* What the CPU's op makes of the device's own token rows. */
static void expect_pooled(const pair *p, const kept *f32, const kept *got,
                          ks_type dtype, ks_stream s, int32_t l) {
    ks_pool_row rows[STEPS];
    int32_t at = 0;
    char *pooled[KS_N_POSITIONS] = {NULL};
    size_t size = STEPS * got->row_bytes;
    ks_dev *dev = p->cpu->dev;
    for (int i = 0; i < STEPS; i++) { /* places among the token rows */
        int32_t n = steps[i].end - steps[i].begin;
        rows[i] = (ks_pool_row){at, at + n, -1};
        at += n;
    }
    for (int q = 0; q < KS_N_POSITIONS; q++)
        pooled[q] = malloc(STEP_TOKENS * got->row_bytes);
    ks_view x = ks_view_f32((float *)(void *)f32->rows[s][KS_TOKENS][l],
                            STEP_TOKENS, p->d);
    must(p->cpu->ops->pool(dev, (void *const *)pooled, dtype, x, rows, STEPS,
                           (1u << KS_BEFORE) - 1, err));
    for (ks_position q = KS_MEAN; q < KS_BEFORE; q++)
        cr_expect(memcmp(pooled[q], got->rows[s][q][l], size) == 0,
                  "%s, %s layer %d, %s: bytes differ", p->name,
                  ks_stream_name(s), l, ks_position_name(q));
    must(p->cpu->ops->convert(dev, pooled[KS_TOKENS], dtype, x, NULL,
                              STEP_TOKENS, err));
    cr_expect(memcmp(pooled[KS_TOKENS], got->rows[s][KS_TOKENS][l],
                     STEP_TOKENS * got->row_bytes) == 0,
              "%s, %s layer %d, tokens: bytes differ", p->name,
              ks_stream_name(s), l);
    /* step 1 stands right behind step 0, the last one at a start */
    cr_expect_eq(memcmp(got->rows[s][KS_BEFORE][l] + got->row_bytes,
                        got->rows[s][KS_LAST][l], got->row_bytes),
                 0);
    uint16_t half;
    memcpy(&half, got->rows[s][KS_BEFORE][l] + 4 * got->row_bytes, sizeof half);
    cr_expect((half & 0x7fff) > (dtype == KS_BF16 ? 0x7f80 : 0x7c00),
              "%s: the step at the start has a row before it", p->name);
    for (int q = 0; q < KS_N_POSITIONS; q++) free(pooled[q]);
}

Test(simt_forward, capture_of_every_stream_and_position) {
    static const size_t models[] = {QWEN2, GEMMA3}; /* biases, post-norms */
    static const ks_type types[] = {KS_BF16, KS_F16};
    for (size_t i = 0; i < KS_COUNT(models); i++) {
        int32_t ids[TOKENS];
        pair p = open_pair(&variants[models[i]], "bf16");
        fill_ids(ids, TOKENS, p.n_vocab);
        kept f32 = capture(p.device, ids, KS_F32);
        kept got = capture(p.device, ids, types[i]);
        for (ks_stream s = 0; s < KS_N_STREAMS; s++)
            for (int32_t l = 0; l < p.n_states - (s != KS_RESID); l++)
                expect_pooled(&p, &f32, &got, types[i], s, l);
        free_kept(&f32);
        free_kept(&got);
        close_pair(&p);
    }
}

/* ----------------------------------------------------------- heads, sampling
 */

/* The share of one id, where nothing is cut, is its probability. */
static void expect_shares(ks_engine *engine, ks_view hidden,
                          const int32_t *target, const float *logprob) {
    ks_sample_spec specs[TOKENS];
    int32_t sets[TOKENS + 1];
    double share[TOKENS];
    for (int32_t t = 0; t <= TOKENS; t++) sets[t] = t;
    for (int32_t t = 0; t < TOKENS; t++)
        specs[t] = (ks_sample_spec){.temperature = 1, .top_p = 1};
    must(ks_run_share(engine->run, hidden, specs, sets, target, share, err));
    for (int32_t t = 0; t < TOKENS; t++)
        cr_expect(fabs(share[t] - (double)logprob[t]) <= 2e-5,
                  "token %d: a share of e^%g, a probability of e^%g", t,
                  share[t], (double)logprob[t]);
}

/* log P(target[t] | ids up to t) for all t, and the greedy ids. */
static void heads(ks_engine *engine, const int32_t *ids, const int32_t *target,
                  float *logprob, int32_t *greedy) {
    ks_run_limits limits = {.max_tokens = TOKENS};
    ks_seqs seqs = {SEQS, TOKENS, offsets, NULL, NULL, 0, NULL};
    ks_view hidden;
    must(ks_engine_reserve(engine, &limits, err));
    must(ks_forward(engine->run, &seqs, ids, NULL, NULL, NULL, &hidden, err));
    must(ks_run_score(engine->run, hidden, target, logprob, err));
    expect_shares(engine, hidden, target, logprob);
    argmax_of(engine, hidden, greedy);
}

/* Ids that differ are as likely as the tolerance can tell, and printed. */
static void expect_greedy(const pair *p, const int32_t *ids,
                          const int32_t *want, const int32_t *got,
                          double tolerance) {
    float of_want[TOKENS], of_got[TOKENS];
    int32_t greedy[TOKENS];
    heads(p->cpu, ids, want, of_want, greedy);
    heads(p->cpu, ids, got, of_got, greedy);
    for (int32_t t = 0; t < TOKENS; t++) {
        if (want[t] == got[t]) continue;
        double margin = (double)of_want[t] - (double)of_got[t];
        fprintf(stderr, "%s: token %d is %d, not %d, by a margin of %g\n",
                p->name, t, got[t], want[t], margin);
        cr_expect(margin <= tolerance, "%s: a margin of %g", p->name, margin);
    }
}

static void check_heads(const precision *precision) {
    size_t n = KS_COUNT(variants);
    for (size_t i = 0; i < cases_here(models_in(precision, n, 3), 3); i++) {
        int32_t ids[TOKENS], target[TOKENS], want[TOKENS], got[TOKENS];
        float logprob[TOKENS], ours[TOKENS];
        pair p = open_pair(&variants[n - 1 - i], precision->isa);
        fill_ids(ids, TOKENS, p.n_vocab);
        for (int32_t t = 0; t < TOKENS; t++)
            target[t] = (t * 7 + 1) % p.n_vocab;
        heads(p.cpu, ids, target, logprob, want);
        heads(p.device, ids, target, ours, got);
        double error = relative_error(ours, logprob, TOKENS);
        cr_expect(error <= precision->relative, "%s: relative error %g", p.name,
                  error);
        expect_greedy(&p, ids, want, got, precision->margin);
        close_pair(&p);
    }
}

Test(simt_forward, scores_and_greedy_ids_bf16) {
    check_heads(&precisions[0]);
}

Test(simt_forward, scores_and_greedy_ids_f32) {
    check_heads(&precisions[1]);
}

/* ---------------------------------------------------------------- generation
 */

enum { CROWD = 6, MOST_IDS = 40 };

typedef struct sampled {
    int32_t ids[CROWD][MOST_IDS], n[CROWD];
    const ks_engine *by;
    int recorded; /* steps that were, at most */
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

static void count_recorded(void *user, const ks_generate_stats *so_far) {
    sampled *s = user;
    int n = 0;
    (void)so_far;
    for (int i = 0; i < KS_RECORDED; i++)
        n += s->by->run->recorded[i].graph != NULL;
    s->recorded = KS_MAX(s->recorded, n);
}

/* Pairs of samples of one prompt, which share its pages: of request r, its
 * first token and how many there are. */
enum { FIRST_PROMPT = 19, LONGER = 9 };
static int prompt_of(int r) {
    return FIRST_PROMPT + r / 2 * LONGER;
}

static void generate(ks_engine *engine, int first, int n, size_t pages,
                     sampled *out, ks_generate_stats *stats) {
    static int32_t prompt[64];
    ks_request requests[CROWD];
    fill_ids(prompt, 64, engine->model->config.n_vocab);
    for (int i = 0; i < n; i++)
        requests[i] = (ks_request){.prompt = prompt + (first + i) / 2,
                                   .n_prompt = prompt_of(first + i),
                                   .stream = (uint64_t)(first + i) * 977 + 3,
                                   .group = (first + i) / 2};
    ks_generate_options options = {
        .temperature = 0.9f,
        .top_p = 0.95f,
        .max_new = 30,
        .seed = 5,
        .progress = count_recorded,
        .memory = pages * ks_kv_page_bytes(&engine->model->config)};
    *out = (sampled){.by = engine};
    must(ks_generate(engine, &options, requests, (size_t)n, keep_ids, out,
                     stats, err));
}

/* By how much more probable, in logarithms, the CPU holds one id than another
 * behind what request r has sampled ahead of token t. */
static double margin_of(ks_engine *cpu, int r, const sampled *so_far, int t,
                        int32_t one, int32_t other) {
    int32_t ids[64 + MOST_IDS], n = prompt_of(r);
    fill_ids(ids, 64, cpu->model->config.n_vocab);
    memmove(ids, ids + r / 2, (size_t)n * sizeof *ids);
    memcpy(ids + n, so_far->ids[r], (size_t)t * sizeof *ids);
    n += t;
    ks_run_limits limits = {.max_tokens = n};
    int32_t bounds[] = {0, n};
    ks_seqs seqs = {.n_seq = 1, .n_tok = n, .offsets = bounds};
    ks_view hidden;
    float of_one, of_other;
    must(ks_engine_reserve(cpu, &limits, err));
    must(ks_forward(cpu->run, &seqs, ids, NULL, NULL, NULL, &hidden, err));
    hidden.data = (float *)hidden.data + (n - 1) * hidden.stride;
    hidden.rows = 1;
    must(ks_run_score(cpu->run, hidden, &one, &of_one, err));
    must(ks_run_score(cpu->run, hidden, &other, &of_other, err));
    return (double)of_one - (double)of_other;
}

/* The same ids; of the first that differs, by what margin. */
static void expect_drawn(const pair *p, int r, const sampled *want,
                         const sampled *got) {
    for (int t = 0; t < KS_MIN(want->n[r], got->n[r]); t++) {
        int32_t a = want->ids[r][t], b = got->ids[r][t];
        if (a == b) continue;
        double margin = margin_of(p->cpu, r, want, t, a, b);
        cr_expect(a == b,
                  "%s, sample %d, token %d: %d, expected %d, which is more "
                  "probable by a margin of %g",
                  p->name, r, t, b, a, margin);
        return;
    }
}

/* In f32's precision the device draws what the CPU draws: the same random
 * numbers on logits that differ in the sixth digit. */
Test(simt_forward, generation_draws_the_same) {
    static const size_t models[] = {QWEN3,
                                    GEMMA3}; /* q/k norm; windows, angles */
    static sampled want, got;
    for (size_t i = 0; i < cases_here(KS_COUNT(models), 1); i++) {
        ks_generate_stats stats;
        pair p = open_pair(&variants[models[i]], "f32");
        generate(p.cpu, 0, CROWD, 64, &want, &stats);
        generate(p.device, 0, CROWD, 64, &got, &stats);
        cr_expect_gt(stats.shared, 0);
        cr_expect_gt(got.recorded, 0, "no step was replayed");
        for (int r = 0; r < CROWD; r++) expect_drawn(&p, r, &want, &got);
        close_pair(&p);
    }
}

/* What a sequence samples depends neither on its batch nor on the store. */
Test(simt_forward, generation_does_not_depend_on_the_batch) {
    static sampled all, one, small;
    ks_generate_stats stats;
    if (kernels_alone()) return;
    pair p = open_pair(&variants[QWEN3], "bf16");
    generate(p.device, 0, CROWD, 64, &all, &stats);
    for (int r = 0; r < (int)cases_here(CROWD, 1); r += 3) {
        generate(p.device, r, 1, 64, &one, &stats);
        cr_expect(one.n[0] == all.n[r] &&
                      memcmp(one.ids[0], all.ids[r], sizeof one.ids[0]) == 0,
                  "sample %d is another alone", r);
    }
    generate(p.device, 0, CROWD, 6, &small, &stats);
    cr_expect_gt(stats.preempted, 0, "no sequence had to give way");
    cr_expect(memcmp(all.ids, small.ids, sizeof all.ids) == 0 &&
              memcmp(all.n, small.n, sizeof all.n) == 0);
    close_pair(&p);
}

/* -------------------------------------------------------------------- faults
 */

static void spoil_bias(ks_model *model) {
    model->weights.layers[1].bv[0] = NAN;
}

static void widen_norm(ks_model *model) {
    for (int32_t j = 0; j < model->config.d_model; j++)
        model->weights.layers[1].mlp_norm[j] *= 1e5f;
}

static ks_status drop_rows(void *user, ks_stream stream, ks_position position,
                           int32_t layer, const void *rows, int64_t n,
                           ks_err *err) {
    (void)user, (void)stream, (void)position, (void)layer;
    (void)rows, (void)n, (void)err;
    return KS_OK;
}

static void expect_fault(void (*spoil)(ks_model *), ks_type dtype,
                         const char *words) {
    int32_t ids[TOKENS];
    pair p = open_pair(&variants[QWEN2], "bf16");
    ks_engine *engines[] = {p.cpu, p.device};
    ks_err errors[2] = {{0}, {0}};
    fill_ids(ids, TOKENS, p.n_vocab);
    for (int e = 0; e < 2; e++) {
        spoil(engines[e]->model);
        ks_capture capture = {.streams = 7,
                              .positions = 63,
                              .dtype = dtype,
                              .n_segments = STEPS,
                              .segments = steps,
                              .emit = drop_rows};
        ks_batch batch = {SEQS, offsets, ids};
        cr_expect_eq(ks_engine_run(engines[e], &batch, &capture, &errors[e]),
                     KS_NUMERIC, "%s", errors[e].text);
    }
    cr_expect(strstr(errors[0].text, words), "%s", errors[0].text);
    cr_expect_str_eq(errors[0].text, errors[1].text);
    close_pair(&p);
}

Test(simt_forward, faults_are_named_as_on_the_cpu) {
    expect_fault(spoil_bias, KS_F32, "not finite");
    expect_fault(widen_norm, KS_F16, "beyond the range of f16");
}

/* ------------------------------------------------------------------- devices
 */

/* Two devices with one model, a thread each in turn. */
Test(simt_forward, a_second_device_gives_the_same_bits) {
    int32_t ids[TOKENS];
    ks_engine *other = NULL;
    simt_set_devices(2);
    ks_engine *first = open_on("qwen2", "cuda:0", "bf16");
    must(ks_engine_share(&other, first, "cuda:1", err));
    fill_ids(ids, TOKENS, first->model->config.n_vocab);
    must(first->ops->enter(first->dev, err));
    float *a = run_batch(first, SEQS, offsets, ids);
    must(other->ops->enter(other->dev, err));
    float *b = run_batch(other, SEQS, offsets, ids);
    size_t floats = TOKENS * (size_t)first->model->config.d_model *
                    (size_t)(first->model->config.n_layers + 1);
    cr_expect_eq(memcmp(a, b, floats * sizeof *a), 0);
    free(a);
    free(b);
    ks_engine_close(&other);
    ks_engine_close(&first);
    cr_expect_eq(simt_live_allocations(), 0);
}

Test(simt_forward, memory_has_a_limit) {
    ks_engine *engine = NULL;
    ks_err err = {0};
    ks_engine_options options = {.backend = "cuda", .memory = 1 << 16};
    cr_expect_neq(ks_engine_open(&engine, DATA "qwen2", &options, &err), KS_OK);
    cr_expect(strstr(err.text, "memory"), "%s", err.text);
    cr_expect(engine == NULL);
    cr_expect_eq(simt_live_allocations(), 0);
}
