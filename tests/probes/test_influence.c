/* Influence between steps against torch's autograd on tiny models of every
 * feature (tests/golden/make_influence.py), and what must not change a bit. */
#include "influence.h"
#include "matrices.h"
#include "search.h"

/* As the file has them. */
static const struct {
    const char *name;
    ks_influence_how how;
} variants[] = {
    {"gradient", {.kind = KS_INFLUENCE_GRADIENT}},
    {"log", {.kind = KS_INFLUENCE_GRADIENT, .of_log = true}},
    {"per_token", {.kind = KS_INFLUENCE_GRADIENT, .per_token = true}},
    {"compat", {.kind = KS_INFLUENCE_GRADIENT, .compat = true}},
    {"gradient-input", {.kind = KS_INFLUENCE_TIMES_INPUT}},
    {"integrated", {.kind = KS_INFLUENCE_INTEGRATED}},
};

static void begin(void) {
    read_golden(KS_TEST_DATA "/probes/influence.json");
}

TestSuite(influence, .init = begin, .fini = drop_golden);

static matrix influence_of(ks_influence_job *job, const fixture *f,
                           const ks_influence_how *how) {
    matrix m;
    memset(&m, 0xff, sizeof m); /* NaN: every entry is to be written */
    must(ks_influence_of(job, f->g.ids, f->g.n, bounds, n_steps, how, m.at,
                         err));
    return m;
}

static ks_influence_job *open_job(ks_engine *engine) {
    ks_influence_job *job = NULL;
    must(ks_influence_open(&job, engine, err));
    return job;
}

static void expect_golden(const char *name, const char *variant,
                          const matrix *m, double tolerance) {
    char what[64];
    snprintf(what, sizeof what, "%s %s", name, variant);
    json_t *of = json_object_get(json_object_get(root, "cases"), name);
    expect_rows(what, json_object_get(of, variant), m, tolerance, 0);
}

Test(influence, matrices_are_those_of_autograd) {
    for (size_t i = 0; i < KS_COUNT(gradient_cases); i++) {
        const char *name = gradient_cases[i];
        fixture f = fixture_open(name, NULL);
        ks_influence_job *job = open_job(f.engine);
        for (size_t v = 0; v < KS_COUNT(variants); v++) {
            matrix m = influence_of(job, &f, &variants[v].how);
            expect_golden(name, variants[v].name, &m, 1e-4);
            ks_influence as_searched = {m.at, n_steps};
            must(ks_influence_check(&as_searched, err));
        }
        ks_influence_close(&job);
        cr_expect(!job);
        close_fixture(&f);
    }
}

/* Memory that the host cannot touch: the same bits. */
Test(influence, backend_memory_apart) {
    static const char *const names[] = {"llama3", "gemma3"};
    for (size_t i = 0; i < KS_COUNT(names); i++) {
        const ks_engine_options one = {.threads = 1};
        fixture f = fixture_open(names[i], &one),
                m = fixture_open(names[i], &one);
        move_apart(m.engine);
        ks_influence_job *here = open_job(f.engine),
                         *there = open_job(m.engine);
        for (size_t v = 0; v < KS_COUNT(variants); v++) {
            matrix a = influence_of(here, &f, &variants[v].how);
            matrix b = influence_of(there, &m, &variants[v].how);
            cr_expect(same_bits(&a, &b, n_steps), "%s %s", names[i],
                      variants[v].name);
        }
        ks_influence_close(&here), ks_influence_close(&there);
        close_fixture(&f), close_fixture(&m);
    }
}

static matrix alone(const char *name, int threads,
                    const ks_influence_how *how) {
    fixture f = fixture_open(name, &(ks_engine_options){.threads = threads});
    ks_influence_job *job = open_job(f.engine);
    matrix m = influence_of(job, &f, how);
    ks_influence_close(&job);
    close_fixture(&f);
    return m;
}

/* Threads and lanes; chains ahead in the same job, longer and shorter ones;
 * tokens behind the last step. */
Test(influence, bits_depend_on_the_chain_alone) {
    static const char *const names[] = {"llama3", "olmo3", "gemma3"};
    for (size_t i = 0; i < KS_COUNT(names); i++) {
        fixture f = fixture_open(names[i], &(ks_engine_options){.threads = 2});
        f.engine->limits.lanes = 2;
        ks_influence_job *job = open_job(f.engine);
        int32_t longer[200], few[] = {3, 10, 12}, many[] = {1, 40, 90, 200};
        for (int32_t t = 0; t < 200; t++) longer[t] = 3 + t * 7 % 50;
        memcpy(longer, f.g.ids, (size_t)f.g.n * sizeof *longer);
        for (size_t v = 0; v < KS_COUNT(variants); v++) {
            const ks_influence_how *how = &variants[v].how;
            matrix want = alone(names[i], 1, how), other, got;
            must(ks_influence_of(job, longer, 200, few, 2, how, other.at, err));
            got = influence_of(job, &f, how);
            cr_expect(same_bits(&want, &got, n_steps), "%s %s, behind a short",
                      names[i], variants[v].name);
            must(
                ks_influence_of(job, longer, 200, many, 3, how, other.at, err));
            must(ks_influence_of(job, longer, 200, bounds, n_steps, how, got.at,
                                 err));
            cr_expect(same_bits(&want, &got, n_steps),
                      "%s %s, behind a long, tokens behind", names[i],
                      variants[v].name);
        }
        ks_influence_close(&job);
        close_fixture(&f);
    }
}

/* Bytes that the golden chain takes with its longest target at a time. */
static size_t least_bytes(const fixture *f, const ks_influence_how *how) {
    const ks_engine *e = f->engine;
    ks_backward_limits least = {
        .max_tokens = f->g.n, .max_rows = 75, .lanes = e->limits.lanes};
    size_t bytes = ks_backward_bytes(e->ops, &e->model->config, &least);
    size_t n = (size_t)f->g.n, row = (size_t)f->g.d * sizeof(float);
    if (how->kind != KS_INFLUENCE_GRADIENT) bytes += n * row;
    if (how->kind == KS_INFLUENCE_INTEGRATED) bytes += (2 * n + 75) * row;
    return bytes;
}

/* With as little memory as serves, a target at a time, and with more: the same
 * bits. With less a sentence. */
Test(influence, memory_is_kept_and_changes_no_bit) {
    static const size_t more[] = {0, 1 << 14, 1 << 18, 1 << 24};
    fixture f = fixture_open("olmo3", &(ks_engine_options){.threads = 1});
    ks_engine *e = f.engine;
    for (size_t v = 0; v < KS_COUNT(variants); v++) {
        const ks_influence_how *how = &variants[v].how;
        ks_influence_job *job = open_job(e);
        matrix want = influence_of(job, &f, how), got;
        size_t bytes = least_bytes(&f, how);
        ks_err why = {0};
        e->memory = bytes - 1;
        cr_expect_eq(ks_influence_of(job, f.g.ids, f.g.n, bounds, n_steps, how,
                                     got.at, &why),
                     KS_LIMIT);
        cr_expect(strstr(why.text, "96 tokens takes"), "%s", why.text);
        for (size_t i = 0; i < KS_COUNT(more); i++) {
            e->memory = bytes + more[i];
            got = influence_of(job, &f, how);
            cr_expect(same_bits(&want, &got, n_steps), "%s in %zu bytes",
                      variants[v].name, e->memory);
        }
        ks_influence_close(&job);
        e->memory = 0;
    }
    close_fixture(&f);
}

Test(influence, memory_beside_a_run) {
    fixture f = fixture_open("llama3", &(ks_engine_options){.threads = 1});
    ks_engine *e = f.engine;
    const ks_influence_how how = {0};
    ks_influence_job *job = open_job(e);
    matrix m;
    ks_err why = {0};
    size_t least = least_bytes(&f, &how);
    must(ks_engine_reserve(e, &(ks_run_limits){.max_tokens = 8}, err));
    size_t run = ks_run_bytes(e->ops, &e->model->config, &e->limits);
    e->memory = least + run - 1;
    cr_expect_eq(
        ks_influence_of(job, f.g.ids, f.g.n, bounds, n_steps, &how, m.at, &why),
        KS_LIMIT);
    e->memory++;
    m = influence_of(job, &f, &how);
    expect_golden("llama3", "gradient", &m, 1e-4);
    e->memory = run - 1; /* nothing is left */
    cr_expect_eq(
        ks_influence_of(job, f.g.ids, f.g.n, bounds, n_steps, &how, m.at, &why),
        KS_LIMIT);
    ks_influence_close(&job);
    close_fixture(&f);
}

/* One step and the suffix; a first step without tokens; a suffix without. */
Test(influence, fewest_steps) {
    fixture f = fixture_open("qwen3", NULL);
    ks_influence_job *job = open_job(f.engine);
    matrix all = influence_of(job, &f, &variants[0].how);
    /* row 1 of the golden matrix has only what lies ahead of token 34 */
    int32_t two[] = {20, 33, 34}, empty[] = {20, 20, 34, 34};
    double m[9] = {-1, -1, -1, -1, -1, -1, -1, -1, -1};
    must(
        ks_influence_of(job, f.g.ids, f.g.n, two, 2, &variants[0].how, m, err));
    cr_expect_eq(m[2], all.at[n_steps]);
    cr_expect(m[0] == 0 && m[1] == 0 && m[3] == 0);
    cr_expect_eq(m[4], -1, "no more than [n, n] is written");
    for (size_t v = 0; v < KS_COUNT(variants); v++) {
        must(ks_influence_of(job, f.g.ids, f.g.n, empty, 3, &variants[v].how, m,
                             err));
        for (int i = 0; i < 9; i++) cr_expect_eq(m[i], 0);
    }
    ks_influence_close(&job);
    close_fixture(&f);
}

Test(influence, names) {
    cr_expect_str_eq(ks_influence_name(KS_INFLUENCE_GRADIENT), "gradient");
    cr_expect_str_eq(ks_influence_name(KS_INFLUENCE_TIMES_INPUT),
                     "gradient-input");
    cr_expect_str_eq(ks_influence_name(KS_INFLUENCE_INTEGRATED), "integrated");
}

/* ----------------------------------------------------------------- refusals */

static void refused(ks_influence_job *job, const int32_t *ids,
                    const int32_t *at, int32_t n, ks_status status,
                    const char *words) {
    ks_err err = {0};
    matrix m;
    ks_status st = ks_influence_of(job, ids, N_TOKENS, at, n, &variants[0].how,
                                   m.at, &err);
    cr_expect_eq(st, status, "%s: %s", words, err.text);
    cr_expect(strstr(err.text, words), "%s", err.text);
}

Test(influence, what_is_refused) {
    fixture f = fixture_open("llama3", NULL);
    ks_influence_job *job = open_job(f.engine);
    ks_config *c = &f.engine->model->config;
    static const struct {
        int32_t bounds[4], n;
        const char *words;
    } bad[] = {
        {{20, 30}, 1, "between 1 steps"},
        {{0}, 0, "between 0 steps"},
        {{20, 30, 29, 40}, 3, "step 1 has tokens 30 to 29"},
        {{20, 30, 40, 97}, 3, "ends at token 97 of a chain of 96"},
        {{0, 30, 40, 50}, 3, "begins at token 0"},
        {{-1, 30, 40, 50}, 3, "begins at token -1"},
    };
    for (size_t i = 0; i < KS_COUNT(bad); i++)
        refused(job, f.g.ids, bad[i].bounds, bad[i].n, KS_USAGE, bad[i].words);
    int32_t id = f.g.ids[50], context = c->n_context;
    f.g.ids[50] = c->n_vocab;
    refused(job, f.g.ids, bounds, n_steps, KS_MISMATCH, "token 50");
    f.g.ids[50] = -1;
    refused(job, f.g.ids, bounds, n_steps, KS_MISMATCH, "id -1");
    f.g.ids[50] = id;
    c->n_context = 95;
    refused(job, f.g.ids, bounds, n_steps, KS_LIMIT, "96 tokens");
    c->n_context = context;
    ks_interrupted = 1;
    refused(job, f.g.ids, bounds, n_steps, KS_INTERRUPTED, "interrupted");
    ks_interrupted = 0;
    matrix m = influence_of(job, &f, &variants[0].how); /* none of it stays */
    expect_golden("llama3", "gradient", &m, 1e-4);
    float norm = f.engine->model->weights.layers[1].mlp_norm[3];
    f.engine->model->weights.layers[1].mlp_norm[3] = NAN;
    refused(job, f.g.ids, bounds, n_steps, KS_NUMERIC, "not finite");
    f.engine->model->weights.layers[1].mlp_norm[3] = norm;
    ks_influence_close(&job);
    ks_influence_close(&job);

    ks_err err = {0};
    c->n_experts = 4;
    cr_expect_eq(ks_influence_open(&job, f.engine, &err), KS_UNSUPPORTED);
    cr_expect(strstr(err.text, "4 experts"), "%s", err.text);
    cr_expect(!job);
    c->n_experts = 0;
    close_fixture(&f);
}
