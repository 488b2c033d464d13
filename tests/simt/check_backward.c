/* The whole way back on the simulated device: against the CPU backend, on tiny
 * models with every feature of an architecture, with bf16 operands and in f32's
 * precision, and against torch's autograd. */
#include "forward/gradients.h"
#include "pair.h"

enum { SEQS = 3, TOKENS = 61, TARGETS = 7, MOST_ROWS = 35 };
static const int32_t offsets[SEQS + 1] = {0, 1, 24, TOKENS};
/* In three turns, [0, 2), [2, 3) and [3, 7). */
static const ks_target targets[TARGETS] = {
    {1, 1, 2, 0},   /* the least there can be */
    {1, 15, 23, 5}, /* to the sequence's end */
    {2, 25, 36, 0}, /* as many rows as fit */
    {2, 10, 12, 9}, /* from the token that predicts the first */
    {2, 1, 37, 20}, /* scored in two pieces, from inside of the first */
    {2, 1, 37, 35}, /* from inside of the second */
    {1, 3, 16, 2},
};

static ks_backward *forward_on(ks_engine *engine, ks_placed *placed,
                               const ks_seqs *seqs, const int32_t *ids,
                               const float *inputs) {
    ks_backward *b = open_backward(engine, placed, seqs->n_tok, MOST_ROWS, 1);
    must(ks_backward_forward(b, seqs, ids, inputs, err));
    return b;
}

/* Of sums of P: every target and layer; of sums of log P: the last turn's, some
 * layers, and its log-probabilities. */
enum { LAST_TURN = 3, LAST_TARGETS = TARGETS - LAST_TURN };
enum { SCORED = 2 + 36 + 36 + 13 };
static const bool some_layers[MOST_STATES] = {0, 1, 0, 1};
typedef struct gradients {
    kept p, log;
    float logprobs[SCORED];
} gradients;

static gradients pull_all(ks_engine *engine, const int32_t *ids) {
    ks_placed *placed = NULL;
    ks_seqs seqs = {.n_seq = SEQS, .n_tok = TOKENS, .offsets = offsets};
    gradients g = {.p = new_kept(engine, targets, TARGETS),
                   .log = new_kept(engine, targets + LAST_TURN, LAST_TARGETS)};
    ks_gradients p = asked(&g.p, every_layer, false);
    ks_gradients log = asked(&g.log, some_layers, true);
    log.logprobs = g.logprobs;
    must(ks_place(&placed, engine->dev, engine->ops, engine->model, err));
    ks_backward *b = forward_on(engine, placed, &seqs, ids, NULL);
    must(ks_backward_pull(b, &p, err));
    must(ks_backward_pull(b, &log, err));
    ks_backward_close(&b);
    ks_placed_close(&placed);
    return g;
}

static void free_gradients(gradients *g) {
    free_kept(&g->p);
    free_kept(&g->log);
}

/* --------------------------------------------------------- against the CPU's
 */

static double worst_of(const kept *got, const kept *ref) {
    double worst = 0;
    for (int32_t i = 0; i < ref->n_targets; i++)
        for (int32_t l = 0; l < ref->n_states; l++) {
            const float *g = got->rows[i][l], *r = ref->rows[i][l];
            cr_assert_eq(g != NULL, r != NULL);
            if (r) worse(&worst, relative_error(g, r, floats_of(ref, i)));
        }
    return worst;
}

/* Q/k norms a head, sinks; q/k norms whole, post-norms, windows; norms on both
 * sides, windows, both soft caps, GELU; plain grouped queries. */
static const size_t checked[] = {SINKS, OLMO3, SOFTCAP, LLAMA3};

static void check_gradients(const precision *precision) {
    size_t n = models_in(precision, KS_COUNT(checked), 2);
    for (size_t i = 0; i < cases_here(n, 2); i++) {
        int32_t ids[TOKENS];
        pair p = open_pair(&variants[checked[i]], precision->isa);
        fill_ids(ids, TOKENS, p.n_vocab);
        gradients ref = pull_all(p.cpu, ids), got = pull_all(p.device, ids);
        double of_p = worst_of(&got.p, &ref.p);
        double of_log = worst_of(&got.log, &ref.log);
        double scored = relative_error(got.logprobs, ref.logprobs, SCORED);
        cr_expect(of_p <= precision->gradient, "%s: relative error %g of P",
                  p.name, of_p);
        cr_expect(of_log <= precision->gradient,
                  "%s: relative error %g of log P", p.name, of_log);
        cr_expect(scored <= precision->relative,
                  "%s: relative error %g of log-probabilities", p.name, scored);
        cr_expect_eq(got.p.calls, TARGETS * p.n_states);
        cr_expect_eq(got.log.calls, LAST_TARGETS * 2);
        free_gradients(&ref);
        free_gradients(&got);
        close_pair(&p);
    }
}

Test(simt_backward, gradients_bf16) {
    check_gradients(&precisions[0]);
}

Test(simt_backward, gradients_f32) {
    check_gradients(&precisions[1]);
}

/* ---------------------------------------------------------------- same bits */

/* One target alone, its sequence alone in the batch. */
static kept pull_alone(ks_engine *engine, const int32_t *ids, int32_t i,
                       ks_target *moved) {
    ks_placed *placed = NULL;
    const ks_target *t = &targets[i];
    int32_t n = offsets[t->seq + 1] - offsets[t->seq];
    ks_seqs seqs = {.n_seq = 1, .n_tok = n, .offsets = (int32_t[]){0, n}};
    *moved = (ks_target){0, t->begin, t->end, t->from};
    kept k = new_kept(engine, moved, 1);
    ks_gradients p = asked(&k, every_layer, false);
    must(ks_place(&placed, engine->dev, engine->ops, engine->model, err));
    ks_backward *b =
        forward_on(engine, placed, &seqs, ids + offsets[t->seq], NULL);
    must(ks_backward_pull(b, &p, err));
    ks_backward_close(&b);
    ks_placed_close(&placed);
    return k;
}

static void expect_alone(const pair *p, const int32_t *ids, const kept *all,
                         int32_t i) {
    ks_target target;
    kept among = *all, alone = pull_alone(p->device, ids, i, &target);
    among.targets += i;
    among.n_targets = 1;
    memcpy(among.rows[0], all->rows[i], sizeof among.rows[0]);
    expect_same(&alone, &among, p->name);
    free_kept(&alone);
}

/* Neither the order of threads nor the other targets and sequences change a
 * bit; nor does the host read what is the device's. */
Test(simt_backward, bits_of_seeds_and_of_a_target_alone) {
    static const size_t models[] = {OLMO3, SINKS}; /* window, q/k norms */
    for (size_t i = 0; i < cases_here(KS_COUNT(models), 1); i++) {
        int32_t ids[TOKENS];
        pair p = open_pair(&variants[models[i]], "bf16");
        fill_ids(ids, TOKENS, p.n_vocab);
        simt_seed(0);
        gradients all = pull_all(p.device, ids);
        simt_seed(41 + i);
        simt_set_protect(true);
        gradients again = pull_all(p.device, ids);
        simt_set_protect(false);
        expect_same(&all.p, &again.p, "another seed");
        expect_same(&all.log, &again.log, "another seed, log P");
        cr_expect_eq(memcmp(all.logprobs, again.logprobs, sizeof all.logprobs),
                     0);
        expect_alone(&p, ids, &all.p, 3);
        expect_alone(&p, ids, &all.p, 6);
        free_gradients(&all);
        free_gradients(&again);
        close_pair(&p);
    }
}

/* ------------------------------------------------------- inputs, faults, room
 */

/* Rows of the residual stream as inputs give what their ids do. */
Test(simt_backward, from_inputs) {
    int32_t ids[TOKENS];
    ks_target target;
    ks_placed *placed = NULL;
    pair p = open_pair(&variants[GEMMA3], "f32");
    fill_ids(ids, TOKENS, p.n_vocab);
    const int32_t *own = ids + offsets[1], n = offsets[2] - offsets[1];
    kept of_ids = pull_alone(p.device, ids, 1, &target);
    kept k = new_kept(p.device, &target, 1);
    ks_gradients want = asked(&k, every_layer, false);
    float *states = run_alone(p.cpu, own, n); /* layer 0 comes first */
    int32_t zeros[TOKENS] = {0};
    ks_seqs seqs = {.n_seq = 1, .n_tok = n, .offsets = (int32_t[]){0, n}};
    memcpy(zeros + target.begin, own + target.begin, /* that are scored */
           (size_t)(target.end - target.begin) * sizeof *zeros);
    must(ks_place(&placed, p.device->dev, p.device->ops, p.device->model, err));
    ks_backward *b = forward_on(p.device, placed, &seqs, zeros, states);
    must(ks_backward_pull(b, &want, err));
    double e = worst_of(&k, &of_ids);
    cr_expect(e <= 1e-5, "relative error %g", e);
    ks_backward_close(&b);
    ks_placed_close(&placed);
    free(states);
    free_kept(&k);
    free_kept(&of_ids);
    close_pair(&p);
}

/* A weight that spoils the way back after a sound forward. */
static ks_err spoiled(ks_engine *engine, const int32_t *ids) {
    ks_err refused = {0};
    ks_placed *placed = NULL;
    const float nan = NAN;
    ks_seqs seqs = {.n_seq = SEQS, .n_tok = TOKENS, .offsets = offsets};
    kept k = new_kept(engine, targets, TARGETS);
    ks_gradients want = asked(&k, NULL, true);
    must(ks_place(&placed, engine->dev, engine->ops, engine->model, err));
    ks_backward *b = forward_on(engine, placed, &seqs, ids, NULL);
    float *norm = ks_placed_weights(placed)->layers[1].q_norm;
    must(engine->ops->copy(engine->dev, norm + 3, &nan, sizeof nan, err));
    cr_expect_eq(ks_backward_pull(b, &want, &refused), KS_NUMERIC);
    cr_expect_eq(k.calls, 0);
    ks_backward_close(&b);
    ks_placed_close(&placed);
    return refused;
}

Test(simt_backward, faults_are_named_as_on_the_cpu) {
    int32_t ids[TOKENS];
    pair p = open_pair(&variants[OLMO2], "bf16");
    fill_ids(ids, TOKENS, p.n_vocab);
    ks_err cpu = spoiled(p.cpu, ids), device = spoiled(p.device, ids);
    cr_expect(strstr(cpu.text, "gradients of target 0, layer 0"), "%s",
              cpu.text);
    cr_expect_str_eq(device.text, cpu.text);
    close_pair(&p);
}

/* Device memory is what ks_backward_bytes said. */
Test(simt_backward, bytes) {
    ks_placed *placed = NULL;
    pair p = open_pair(&variants[GEMMA3], "bf16");
    ks_engine *e = p.device;
    ks_backward_limits limits = {.max_tokens = 50, .max_rows = 70, .lanes = 1};
    ks_backward *b = NULL;
    must(ks_place(&placed, e->dev, e->ops, e->model, err));
    size_t room = ks_dev_room(e->dev);
    must(ks_backward_open(&b, e->dev, e->ops, &e->model->config,
                          ks_placed_weights(placed), &limits, err));
    cr_expect_eq(room - ks_dev_room(e->dev),
                 ks_backward_bytes(e->ops, &e->model->config, &limits));
    ks_backward_close(&b);
    cr_expect_eq(ks_dev_room(e->dev), room);
    ks_placed_close(&placed);
    close_pair(&p);
}

/* ------------------------------------------------------------ golden gradients
 */

/* In f32's precision. These models attend to single tokens (pair.h): operands
 * of two bf16 terms alone move gradients by 0.8 to 5.3e-4
 * (tests/golden/round_operands.py), and what the golden files are to notice by
 * 4.9e-3 at least. */
static const double golden_tolerance = 1e-3;

static void check_golden(const char *name) {
    ks_engine_options options = {.backend = "cuda"};
    setenv("KS_ISA", "f32", 1);
    fixture f = fixture_open(name, &options);
    unsetenv("KS_ISA");
    fixture_place(&f);
    ks_seqs seqs = {
        .n_seq = 1, .n_tok = f.g.n, .offsets = (int32_t[]){0, f.g.n}};
    kept p = new_kept(f.engine, f.targets, f.n_targets);
    kept log = new_kept(f.engine, f.targets, f.n_targets);
    ks_gradients of_p = asked(&p, every_layer, false);
    ks_gradients of_log = asked(&log, NULL, true);
    ks_backward *b = open_backward(f.engine, f.placed, f.g.n, 100, 1);
    must(ks_backward_forward(b, &seqs, f.g.ids, NULL, err));
    must(ks_backward_pull(b, &of_p, err));
    must(ks_backward_pull(b, &of_log, err));
    expect_reference(name, &f, &p, &log, golden_tolerance);
    ks_backward_close(&b);
    free_kept(&p);
    free_kept(&log);
    close_fixture(&f);
    cr_expect_eq(simt_live_allocations(), 0);
}

Test(model, gradients_are_those_of_autograd) {
    /* What the others have one of these has too, or a variant above. */
    static const char *const names[] = {"sinks", "softcap", "olmo3"};
    for (size_t i = 0; i < cases_here(KS_COUNT(names), 2); i++)
        check_golden(names[i]);
}
