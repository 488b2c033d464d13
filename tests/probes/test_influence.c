/* Influence between steps against torch's autograd on tiny models of every
 * feature (tests/golden/make_influence.py), and what must not change a bit. */
#include "forward/apart.h"
#include "forward/gradients.h"
#include "influence.h"
#include "search.h"

#define N_TOKENS 96

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

enum { MOST_STEPS = 16 };

static json_t *root;
static int32_t bounds[MOST_STEPS + 1], n_steps;

static void read_golden(void) {
    root = json_load_file(KS_TEST_DATA "/probes/influence.json", 0, NULL);
    cr_assert(root);
    json_t *list = json_object_get(root, "bounds");
    n_steps = (int32_t)json_array_size(list) - 1;
    cr_assert(n_steps > 2 && n_steps <= MOST_STEPS);
    for (int32_t i = 0; i <= n_steps; i++)
        bounds[i] =
            (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    cr_assert_eq(bounds[n_steps], N_TOKENS);
}

static void drop_golden(void) {
    json_decref(root);
}

TestSuite(influence, .init = read_golden, .fini = drop_golden);

typedef struct matrix {
    double at[MOST_STEPS * MOST_STEPS];
} matrix;

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

static bool same_bits(const matrix *a, const matrix *b, int32_t n) {
    return memcmp(a->at, b->at, (size_t)(n * n) * sizeof *a->at) == 0;
}

/* Relative, entry by entry; zeros where the reference has them, and on and
 * above the diagonal. */
static void expect_golden(const char *name, const char *variant,
                          const matrix *m, double tolerance) {
    json_t *of = json_object_get(json_object_get(root, "cases"), name);
    json_t *rows = json_object_get(of, variant);
    cr_assert_eq(json_array_size(rows), (size_t)n_steps, "%s %s", name,
                 variant);
    for (int32_t k = 0; k < n_steps; k++) {
        json_t *row = json_array_get(rows, (size_t)k);
        cr_assert_eq(json_array_size(row), (size_t)k);
        for (int32_t j = 0; j < n_steps; j++) {
            double got = m->at[k * n_steps + j], want = 0;
            if (j < k) want = json_number_value(json_array_get(row, (size_t)j));
            cr_expect(fabs(got - want) <= tolerance * want,
                      "%s %s [%d][%d]: %.9g, expected %.9g", name, variant, k,
                      j, got, want);
        }
    }
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
