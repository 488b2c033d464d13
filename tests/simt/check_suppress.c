/* Suppressed attention on the simulated device against the CPU: decoding with
 * hidden keys, and what later steps of a chain lose without a step. */
#include "pair.h"
#include "run.h"
#include "suppress.h"

/* ------------------------------------------------------------------ decoding
 */

/* The last hidden states of three steps of two sequences behind 20 stored
 * tokens each; returns how many shapes were recorded. */
enum { FORKS = 2, STORED = 20, DECODED = 3, PAGES = 2 };
static int decode(ks_engine *engine, const int32_t *hidden, float *out) {
    const ks_config *c = &engine->model->config;
    int32_t ids[FORKS * STORED], past[FORKS] = {0, 0}, page[FORKS * PAGES];
    int32_t offsets_of[] = {0, STORED, FORKS * STORED};
    size_t size = FORKS * (size_t)c->d_model;
    int recorded = 0;
    ks_kv *kv = NULL;
    ks_view last;
    must(ks_engine_reserve(engine,
                           &(ks_run_limits){.max_tokens = FORKS * STORED,
                                            .max_last = FORKS,
                                            .max_pages = FORKS * PAGES},
                           err));
    must(ks_kv_open(&kv, engine->dev, engine->ops, c, FORKS * PAGES, err));
    for (int i = 0; i < FORKS * PAGES; i++) page[i] = ks_kv_page_take(kv);
    fill_ids(ids, FORKS * STORED, c->n_vocab);
    for (int i = 0; i <= DECODED; i++) {
        ks_seqs seqs = {FORKS, offsets_of[FORKS], offsets_of, past, page,
                        PAGES, i ? hidden : NULL};
        must(ks_forward(engine->run, &seqs, ids, kv, NULL, &last, NULL, err));
        for (int s = 0; s < FORKS; s++) {
            past[s] += i ? 1 : STORED;
            offsets_of[s + 1] = s + 1;
        }
        if (i == 0) continue;
        must(engine->ops->copy(engine->dev, out + (size_t)(i - 1) * size,
                               last.data, size * sizeof *out, err));
        must(engine->ops->sync(engine->dev, err));
    }
    for (int i = 0; i < KS_RECORDED; i++)
        recorded += engine->run->recorded[i].graph != NULL;
    ks_kv_close(&kv);
    return recorded;
}

/* Steps with hidden keys are queued each time, those without are replayed. */
Test(simt_suppress, decode_with_hidden_keys) {
    static const size_t models[] = {QWEN3, MISTRAL}; /* all keys, a window */
    static const int32_t hidden[] = {0, 17, 15, 20}, none[] = {3, 3, 9, 1};
    static float want[DECODED * FORKS * 64], got[DECODED * FORKS * 64];
    for (size_t i = 0; i < cases_here(KS_COUNT(models), 1); i++) {
        pair p = open_pair(&variants[models[i]], "f32");
        size_t n = DECODED * FORKS * (size_t)p.d;
        cr_assert_leq(p.d, 64);
        decode(p.cpu, hidden, want);
        cr_expect_eq(decode(p.device, hidden, got), 0, "%s", p.name);
        double error = relative_error(got, want, n);
        cr_expect(error <= precisions[1].relative, "%s: relative error %g",
                  p.name, error);
        cr_expect_eq(decode(p.device, NULL, want), 1, "%s", p.name);
        error = relative_error(got, want, n);
        cr_expect(error > 100 * precisions[1].relative,
                  "%s: nothing was hidden: %g", p.name, error);
        decode(p.device, none, got);
        cr_expect(memcmp(want, got, n * sizeof *want) == 0, "%s", p.name);
        close_pair(&p);
    }
}

/* -------------------------------------------------------- between steps
 */

/* A step that begins at the second token, one of a token, one without, ones
 * longer than a page and than a window. */
enum { STEPS = 7, CHAIN = 96 };
static const int32_t bounds[STEPS + 1] = {1, 9, 10, 10, 31, 66, 90, CHAIN};

static void suppress(ks_engine *engine, float *matrix) {
    int32_t ids[CHAIN];
    double exact[STEPS * STEPS];
    ks_suppression_job *job = NULL;
    must(ks_suppression_open(&job, engine, err));
    fill_ids(ids, CHAIN, engine->model->config.n_vocab);
    must(ks_suppression_of(job, ids, CHAIN, bounds, STEPS, exact, err));
    for (int i = 0; i < STEPS * STEPS; i++) matrix[i] = (float)exact[i];
    ks_suppression_close(&job);
}

/* Tolerance: relative error of a matrix. Its entries are differences of
 * log-probabilities and small beside them, so an error of these weighs more:
 * measured are 1.2e-5 to 1.1e-4, with bf16 operands 5e-3 to 4.7e-2. */
static void check_suppression(const precision *precision, double tolerance) {
    size_t n = KS_COUNT(variants);
    for (size_t i = 0; i < cases_here(models_in(precision, n, 3), 1); i++) {
        float want[STEPS * STEPS], got[STEPS * STEPS];
        pair p = open_pair(&variants[n - 1 - i], precision->isa);
        suppress(p.cpu, want);
        suppress(p.device, got);
        double error = relative_error(got, want, STEPS * STEPS);
        cr_expect(error <= tolerance, "%s: relative error %g", p.name, error);
        close_pair(&p);
    }
}

Test(simt_suppress, between_steps_bf16) {
    check_suppression(&precisions[0], 1e-1);
}

Test(simt_suppress, between_steps_f32) {
    check_suppression(&precisions[1], 2e-4);
}

/* All variants in one batch, and one at a time. */
Test(simt_suppress, bits_do_not_depend_on_the_batch) {
    static const size_t models[] = {MISTRAL, SINKS};
    for (size_t i = 0; i < cases_here(KS_COUNT(models), 1); i++) {
        float all[STEPS * STEPS], one[STEPS * STEPS];
        pair p = open_pair(&variants[models[i]], "bf16");
        p.device->limits.max_tokens = 5 * CHAIN;
        suppress(p.device, all);
        p.device->limits.max_tokens = 1;
        suppress(p.device, one);
        cr_expect_eq(memcmp(all, one, sizeof all), 0, "%s", p.name);
        close_pair(&p);
    }
}
