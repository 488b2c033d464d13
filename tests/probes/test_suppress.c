/* Attention suppression of steps against transformers with a closed mask, on
 * tiny models of every feature (tests/golden/make_suppress.py), and what must
 * not change a bit. */
#include "matrices.h"
#include "suppress.h"

static void begin(void) {
    read_golden(KS_TEST_DATA "/probes/suppress.json");
}

TestSuite(suppress, .init = begin, .fini = drop_golden);

static matrix suppression_of(ks_suppression_job *job, const fixture *f) {
    matrix m;
    memset(&m, 0xff, sizeof m); /* NaN: every entry is to be written */
    must(ks_suppression_of(job, f->g.ids, f->g.n, bounds, n_steps, m.at, err));
    return m;
}

static ks_suppression_job *open_job(ks_engine *engine) {
    ks_suppression_job *job = NULL;
    must(ks_suppression_open(&job, engine, err));
    return job;
}

static void expect_golden(const char *name, const matrix *m) {
    json_t *cases = json_object_get(root, "cases");
    expect_rows(name, json_object_get(cases, name), m, 1e-4, 1e-5);
}

Test(suppress, matrices_are_those_of_transformers) {
    for (size_t i = 0; i < KS_COUNT(gradient_cases); i++) {
        const char *name = gradient_cases[i];
        fixture f = fixture_open(name, NULL);
        ks_suppression_job *job = open_job(f.engine);
        matrix m = suppression_of(job, &f);
        expect_golden(name, &m);
        ks_suppression_close(&job);
        cr_expect(!job);
        close_fixture(&f);
    }
}

/* Memory that the host cannot touch: the same bits. */
Test(suppress, backend_memory_apart) {
    static const char *const names[] = {"llama3", "gemma3"};
    for (size_t i = 0; i < KS_COUNT(names); i++) {
        const ks_engine_options one = {.threads = 1};
        fixture f = fixture_open(names[i], &one),
                m = fixture_open(names[i], &one);
        move_apart(m.engine);
        ks_suppression_job *here = open_job(f.engine),
                           *there = open_job(m.engine);
        matrix a = suppression_of(here, &f);
        matrix b = suppression_of(there, &m);
        cr_expect(same_bits(&a, &b, n_steps), "%s", names[i]);
        ks_suppression_close(&here), ks_suppression_close(&there);
        close_fixture(&f), close_fixture(&m);
    }
}

/* A variant a batch, two, all; threads, lanes. */
Test(suppress, packing_changes_no_bit) {
    static const char *const names[] = {"llama3", "olmo3", "sinks"};
    static const int32_t batches[] = {1, 95, 98, 103, 124, 140, 217, 2048};
    for (size_t i = 0; i < KS_COUNT(names); i++) {
        matrix want;
        for (size_t b = 0; b < KS_COUNT(batches); b++) {
            ks_engine_options options = {.threads = 1 + (int)b % 2,
                                         .batch_tokens = batches[b]};
            fixture f = fixture_open(names[i], &options);
            f.engine->limits.lanes = 1 + (int32_t)b % 2;
            ks_suppression_job *job = open_job(f.engine);
            matrix got = suppression_of(job, &f);
            if (b == 0) want = got;
            cr_expect(same_bits(&want, &got, n_steps), "%s, batches of %d",
                      names[i], batches[b]);
            ks_suppression_close(&job);
            close_fixture(&f);
        }
        expect_golden(names[i], &want);
    }
}

/* Chains ahead in the same job, longer and shorter ones; tokens behind the last
 * step. */
Test(suppress, bits_depend_on_the_chain_alone) {
    static const char *const names[] = {"qwen2", "mistral"};
    for (size_t i = 0; i < KS_COUNT(names); i++) {
        fixture f = fixture_open(names[i], NULL);
        ks_suppression_job *fresh = open_job(f.engine);
        matrix want = suppression_of(fresh, &f), other, got;
        ks_suppression_job *job = open_job(f.engine);
        int32_t longer[200], few[] = {3, 10, 12}, many[] = {1, 40, 90, 200};
        for (int32_t t = 0; t < 200; t++) longer[t] = 3 + t * 7 % 50;
        memcpy(longer, f.g.ids, (size_t)f.g.n * sizeof *longer);
        must(ks_suppression_of(job, longer, 200, few, 2, other.at, err));
        got = suppression_of(job, &f);
        cr_expect(same_bits(&want, &got, n_steps), "%s, behind a short",
                  names[i]);
        must(ks_suppression_of(job, longer, 200, many, 3, other.at, err));
        must(ks_suppression_of(job, longer, 200, bounds, n_steps, got.at, err));
        cr_expect(same_bits(&want, &got, n_steps),
                  "%s, behind a long, tokens behind", names[i]);
        ks_suppression_close(&job), ks_suppression_close(&fresh);
        close_fixture(&f);
    }
}

/* With as little memory as serves, a variant or two at a time: the same bits;
 * with less a sentence. Where a run of the engine stands beside, as much more.
 */
Test(suppress, memory_is_kept_and_changes_no_bit) {
    fixture f = fixture_open("olmo3", &(ks_engine_options){.threads = 1});
    ks_engine *e = f.engine;
    ks_suppression_job *job = open_job(e);
    matrix want = suppression_of(job, &f), got;
    ks_err why = {0};
    size_t low = 0, high = (size_t)1 << 30;
    while (low + 1 < high) {
        e->memory = low + (high - low) / 2;
        ks_status st = ks_suppression_of(job, f.g.ids, f.g.n, bounds, n_steps,
                                         got.at, &why);
        cr_assert(st == KS_OK || st == KS_LIMIT, "%s", why.text);
        if (st == KS_OK)
            high = e->memory;
        else
            low = e->memory;
        cr_assert(st != KS_OK || same_bits(&want, &got, n_steps),
                  "in %zu bytes", e->memory);
    }
    /* five variants behind 95 tokens in 6 pages */
    ks_run_limits least = {
        .max_tokens = 95, .max_pages = 30, .lanes = e->limits.lanes};
    size_t bytes = ks_run_bytes(e->ops, &e->model->config, &least) +
                   6 * ks_kv_page_bytes(&e->model->config) +
                   (5 * (6 + 4) + 4 * 95) * sizeof(int32_t);
    cr_expect_eq(high, bytes, "%zu, not %zu", high, bytes);
    cr_expect(strstr(why.text, "96 tokens takes"), "%s", why.text);
    e->memory = 0;
    must(ks_engine_reserve(e, &(ks_run_limits){.max_tokens = 8}, err));
    e->memory = bytes + ks_run_bytes(e->ops, &e->model->config, &e->limits) - 1;
    cr_expect_eq(
        ks_suppression_of(job, f.g.ids, f.g.n, bounds, n_steps, got.at, &why),
        KS_LIMIT);
    e->memory++;
    got = suppression_of(job, &f);
    cr_expect(same_bits(&want, &got, n_steps));
    ks_suppression_close(&job);
    close_fixture(&f);
}

/* One step and the suffix; steps without tokens; nothing behind but the token
 * that is read off the step itself. */
Test(suppress, fewest_steps) {
    fixture f = fixture_open("qwen3", NULL);
    ks_suppression_job *job = open_job(f.engine);
    matrix all = suppression_of(job, &f);
    int32_t two[] = {20, 33, 60}, empty[] = {20, 20, 34, 34},
            one[] = {20, 33, 34};
    double m[9] = {-1, -1, -1, -1, -1, -1, -1, -1, -1};
    must(ks_suppression_of(job, f.g.ids, f.g.n, two, 2, m, err));
    cr_expect(m[0] == 0 && m[1] == 0 && m[3] == 0);
    cr_expect_eq(m[4], -1, "no more than [n, n] is written");
    /* steps of 1, 0, 21 and 5 tokens, as one */
    const double *c = all.at;
    double sum = 1 * c[n_steps] + 21 * c[3 * n_steps] + 5 * c[4 * n_steps];
    cr_expect(fabs(m[2] - sum / 27) <= 1e-12 * fabs(sum), "%.17g %.17g", m[2],
              sum / 27);
    cr_expect_neq(m[2], 0);
    must(ks_suppression_of(job, f.g.ids, f.g.n, empty, 3, m, err));
    for (int i = 0; i < 9; i++) cr_expect_eq(m[i], 0);
    m[2] = -1;
    must(ks_suppression_of(job, f.g.ids, f.g.n, one, 2, m, err));
    cr_expect_eq(m[2], 0);
    ks_suppression_close(&job);
    close_fixture(&f);
}

/* ----------------------------------------------------------------- refusals */

static void refused(ks_suppression_job *job, const int32_t *ids,
                    const int32_t *at, int32_t n, ks_status status,
                    const char *words) {
    ks_err err = {0};
    matrix m;
    ks_status st = ks_suppression_of(job, ids, N_TOKENS, at, n, m.at, &err);
    cr_expect_eq(st, status, "%s: %s", words, err.text);
    cr_expect(strstr(err.text, words), "%s", err.text);
}

Test(suppress, what_is_refused) {
    fixture f = fixture_open("llama3", NULL);
    ks_suppression_job *job = open_job(f.engine);
    ks_config *c = &f.engine->model->config;
    static const struct {
        int32_t bounds[4], n;
        const char *words;
    } bad[] = {
        {{20, 30}, 1, "suppression between 1 steps"},
        {{20, 30, 29, 40}, 3, "step 1 has tokens 30 to 29"},
        {{20, 30, 40, 97}, 3, "ends at token 97 of a chain of 96"},
        {{0, 30, 40, 50}, 3, "begins at token 0"},
    };
    for (size_t i = 0; i < KS_COUNT(bad); i++)
        refused(job, f.g.ids, bad[i].bounds, bad[i].n, KS_USAGE, bad[i].words);
    int32_t id = f.g.ids[50], context = c->n_context;
    f.g.ids[50] = c->n_vocab;
    refused(job, f.g.ids, bounds, n_steps, KS_MISMATCH, "token 50");
    f.g.ids[50] = id;
    c->n_context = 95;
    refused(job, f.g.ids, bounds, n_steps, KS_LIMIT, "96 tokens");
    c->n_context = context;
    ks_interrupted = 1;
    refused(job, f.g.ids, bounds, n_steps, KS_INTERRUPTED, "interrupted");
    ks_interrupted = 0;
    matrix m = suppression_of(job, &f); /* none of it stays */
    expect_golden("llama3", &m);
    float norm = f.engine->model->weights.layers[1].mlp_norm[3];
    f.engine->model->weights.layers[1].mlp_norm[3] = NAN;
    refused(job, f.g.ids, bounds, n_steps, KS_NUMERIC, "not finite");
    f.engine->model->weights.layers[1].mlp_norm[3] = norm;
    ks_suppression_close(&job);
    ks_suppression_close(&job);
    close_fixture(&f);
}

/* Hidden states that are finite, and a head that is not. */
Test(suppress, scores_that_are_not_finite) {
    fixture f = fixture_open("linear", NULL);
    ks_suppression_job *job = open_job(f.engine);
    float *final_norm = f.engine->model->weights.final_norm;
    float was = final_norm[0];
    final_norm[0] = 3e38f;
    refused(job, f.g.ids, bounds, n_steps, KS_NUMERIC,
            "with step 0 suppressed");
    final_norm[0] = was;
    ks_suppression_close(&job);
    close_fixture(&f);
}
