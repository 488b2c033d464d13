/* Transfer across models and tasks, on activations whose truth is planted. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

#include "fixture.h"
#include "transfer.h"

enum { WIDE = 9, FOLDS = 5 };

static const double strengths[] = {1e-3, 1e-2, 1e-1, 1};

/* What a made file holds at its mean position. */
typedef enum content {
    PLAIN,    /* the fixture's */
    TURNED,   /* the same, turned, stretched and moved */
    WIDENED,  /* the same, turned into more dimensions, and noise */
    UNRELATED /* noise that knows the labels */
} content;

typedef struct made {
    const char *path, *model;
    content what;
    int32_t d;
    int64_t random_weights;
    uint64_t stream; /* of its noise */
    const int8_t *y; /* that UNRELATED knows; NULL: none */
} made;

/* Orthonormal rows by Gram and Schmidt on fixed noise. */
static void turn(int32_t d, double q[WIDTH][WIDE]) {
    for (int i = 0; i < WIDTH; i++) {
        for (int j = 0; j < d; j++)
            q[i][j] = (double)noise(99, (uint64_t)(i * WIDE + j));
        for (int k = 0; k < i; k++) {
            double dot = 0;
            for (int j = 0; j < d; j++) dot += q[i][j] * q[k][j];
            for (int j = 0; j < d; j++) q[i][j] -= dot * q[k][j];
        }
        double square = 0;
        for (int j = 0; j < d; j++) square += q[i][j] * q[i][j];
        for (int j = 0; j < d; j++) q[i][j] /= sqrt(square);
    }
}

static void fill_made(const fixture *f, const made *m, int32_t layer,
                      int64_t row, float *x) {
    float plain[WIDTH];
    double q[WIDTH][WIDE];
    fill(f, KS_MEAN, layer, row, plain);
    for (int j = 0; j < m->d; j++)
        x[j] = noise(m->stream, (uint64_t)((layer * ROWS + row) * WIDE + j));
    if (m->what == PLAIN)
        for (int j = 0; j < WIDTH; j++) x[j] = plain[j] + 0.01f * x[j];
    if (m->what == UNRELATED && m->y && layer == 1)
        x[0] += m->y[row] == 1 ? 2.5f : -2.5f;
    if (m->what != TURNED && m->what != WIDENED) return;
    turn(m->d, q);
    for (int j = 0; j < m->d; j++) {
        double sum = 5 + 0.01 * (double)x[j] * (m->what == WIDENED ? 5 : 1);
        for (int i = 0; i < WIDTH; i++) sum += 3 * (double)plain[i] * q[i][j];
        x[j] = (float)sum;
    }
}

static void make(const fixture *f, made m) {
    ks_acts *acts = NULL;
    int64_t done;
    static float x[ROWS * WIDE];
    ks_err err = {0};
    ks_acts_spec spec = {.streams = 1u << KS_RESID,
                         .positions = 1u << KS_MEAN,
                         .n_layers = LAYERS,
                         .d = m.d,
                         .dtype = KS_F32,
                         .n_steps = ROWS,
                         .n_chains = CHAINS,
                         .steps = f->steps,
                         .chains = f->rows,
                         .random_weights = m.random_weights,
                         .model_name = m.model,
                         .model_sha256 = m.model,
                         .tokenizer_hash = "cd34",
                         .isa = "avx2",
                         .backend = "cpu",
                         .config = "{}"};
    ks_acts_options options = {.force = true};
    cr_assert(eq(int,
                 ks_acts_create(&acts, m.path, &spec, &options, &done, &err),
                 KS_OK),
              "%s", err.text);
    for (int32_t l = 0; l <= LAYERS; l++) {
        for (int64_t i = 0; i < ROWS; i++) {
            fill_made(f, &m, l, i, x + i * m.d);
            for (int j = 0; !f->steps[i].valid && j < m.d; j++)
                x[i * m.d + j] = NAN;
        }
        cr_assert(
            eq(int, ks_acts_write(acts, KS_RESID, KS_MEAN, l, 0, ROWS, x, &err),
               KS_OK));
    }
    cr_assert(eq(int, ks_acts_commit(acts, 0, ROWS, &err), KS_OK));
    cr_assert(eq(int, ks_acts_finish(&acts, &err), KS_OK), "%s", err.text);
}

static ks_transfer_options options_for(const ks_transfer_source *sets,
                                       int32_t n) {
    return (ks_transfer_options){.n_sets = n,
                                 .sets = sets,
                                 .grid = {.nest = {.n_strengths = 4,
                                                   .strengths = strengths,
                                                   .threads = 2},
                                          .streams = 1u << KS_RESID,
                                          .positions = 1u << KS_MEAN,
                                          .bootstrap = 200,
                                          .seed = 1},
                                 .n_folds = FOLDS,
                                 .n_inner = FOLDS - 1,
                                 .n_seeds = 1};
}

static fixture f, g;
static char other[96], third[96];
static ks_transfer t;
static ks_transfer_options o;

static void setup(void) {
    fixture_make(&f);
    snprintf(other, sizeof other, "%s/b.h5", f.dir);
    snprintf(third, sizeof third, "%s/c.h5", f.dir);
    make(&f, (made){f.acts, "a", PLAIN, WIDTH, -1, 40, NULL});
}

static void teardown(void) {
    ks_transfer_free(&t);
    fixture_free(&f);
}

TestSuite(transfer, .init = setup, .fini = teardown);

static void run(const ks_transfer_source *sets, int32_t n) {
    ks_err err = {0};
    o = options_for(sets, n);
    cr_assert(eq(int, ks_transfer_run(&t, &o, &err), KS_OK), "%s", err.text);
}

static ks_err fails(const ks_transfer_source *sets, int32_t n, ks_status code) {
    ks_err err = {0};
    o = options_for(sets, n);
    cr_assert(eq(int, ks_transfer_run(&t, &o, &err), code), "%s", err.text);
    cr_expect(t.sets == NULL);
    return err;
}

static double balanced(const ks_transfer_cell *c) {
    return c->metrics[KS_BALANCED_ACCURACY].value;
}

static double mapped(const ks_transfer_cell *c, ks_map_kind kind) {
    cr_assert(c->maps[kind].there);
    return c->maps[kind].metrics[KS_BALANCED_ACCURACY].value;
}

static bool near_half(double v) {
    return fabs(v - 0.5) < 0.08;
}

/* ------------------------------------------------------------ across models */

Test(transfer, a_turned_copy_carries_the_probe_over) {
    const ks_transfer_source sets[] = {{"A", f.acts, f.labels},
                                       {"B", other, NULL}};
    make(&f, (made){other, "b", TURNED, WIDTH, -1, 41, NULL});
    run(sets, 2);
    cr_assert(eq(int, t.n_models, 1));
    cr_expect(eq(int, t.n_tasks, 0));
    const ks_transfer_cell *own = &t.models[0].cells[0], *c = own + 1;
    cr_expect(gt(dbl, balanced(own), 0.95));
    cr_expect(eq(dbl, own->agreement.value, 1));
    cr_expect(eq(dbl, own->minus_self.value, 0));
    cr_expect(gt(dbl, balanced(c), 0.95));
    for (int k = KS_MAP_RIDGE; k <= KS_MAP_PROCRUSTES; k++) {
        cr_expect(lt(dbl, fabs(mapped(c, k) - balanced(own)), 0.01));
        cr_expect(gt(dbl, c->maps[k].agreement.value, 0.985));
        cr_expect(gt(dbl, c->maps[k].r2.low, 0.99));
        cr_expect(epsilon_eq(dbl, c->maps[k].minus_own.value,
                             mapped(c, k) - balanced(own), 1e-6));
    }
    /* p of each, and of its difference; one pair has nothing to adjust for */
    cr_expect(lt(dbl, own->p.p_holm, 1e-6));
    cr_expect(isnan(own->p.minus));
    cr_expect(eq(dbl, c->p.p_holm, 2 * c->p.p));
    for (int k = 0; k < KS_N_MAPS; k++) {
        const ks_transfer_p *p = &c->maps[k].p;
        bool carries = k == KS_MAP_RIDGE || k == KS_MAP_PROCRUSTES;
        cr_expect(eq(dbl, p->p, p->p_holm));
        cr_expect(eq(dbl, p->minus, p->minus_holm));
        if (k != KS_MAP_IDENTITY) /* a part of the copy lies as it did */
            cr_expect(carries ? p->p < 1e-6 : p->p > 1e-3, "%d: %g", k, p->p);
        cr_expect(carries ? p->minus > 0.05 : p->minus < 0.01, "%d: %g", k,
                  p->minus);
    }
    cr_expect(eq(dbl, c->maps[KS_MAP_MEAN].p.p, 1));
    cr_expect(near_half(mapped(c, KS_MAP_SHUFFLED)), "%f",
              mapped(c, KS_MAP_SHUFFLED));
    cr_expect(lt(dbl, c->maps[KS_MAP_SHUFFLED].r2.value, 0.05));
    cr_expect(near_half(mapped(c, KS_MAP_MEAN)));
    cr_expect(epsilon_eq(dbl, c->maps[KS_MAP_MEAN].r2.value, 0, 1e-9));
    cr_expect(lt(dbl, mapped(c, KS_MAP_IDENTITY), 0.8));
    cr_expect(isnan(c->against_cross.value), "B has no labels");
    cr_expect(not(t.models[0].cells[2].there));
    cr_expect(not(t.models[0].cells[3].there));
    for (int i = 0; i < FOLDS; i++)
        cr_expect(eq(int, c->from_layer[i], TELLING_LAYER));
    /* the sixth step of a chain has no label, row 1 no activation */
    cr_expect(eq(i64, t.models[0].rows->view.n, CHAINS * (STEPS - 1) - 1));
    cr_expect(eq(i64, t.models[0].rows->n_all, ROWS - 1));
}

Test(transfer, spaces_of_other_dimensions) {
    const ks_transfer_source sets[] = {{"A", f.acts, f.labels},
                                       {"B", other, f.labels}};
    make(&f, (made){other, "b", WIDENED, WIDE, -1, 42, NULL});
    run(sets, 2);
    const ks_transfer_cell *cells = t.models[0].cells;
    for (int i = 1; i <= 2; i++) { /* A on B, B on A */
        cr_expect(gt(dbl, mapped(&cells[i], KS_MAP_RIDGE), 0.94));
        cr_expect(gt(dbl, mapped(&cells[i], KS_MAP_PROCRUSTES), 0.94));
        cr_expect(not(cells[i].maps[KS_MAP_IDENTITY].there));
        cr_expect(eq(dbl, cells[i].kappa.value, 1));
        cr_expect(eq(dbl, cells[i].against_cross.value,
                     balanced(&cells[i == 1 ? 0 : 3])));
    }
}

/* B's activations know B's labels alone. */
Test(transfer, unrelated_models_carry_nothing) {
    int8_t y[ROWS];
    double cells[2][2] = {{0}}, n = 0;
    char labels[128];
    for (int i = 0; i < ROWS; i++)
        y[i] = f.y[i] < 0 ? -1 : (int8_t)(draw(55, (uint64_t)i) < 0.5f);
    make(&f, (made){other, "b", UNRELATED, WIDE, -1, 43, y});
    snprintf(labels, sizeof labels, "%s/b.jsonl", f.dir);
    for (int i = 0; i < ROWS; i++)
        if (y[i] >= 0 && f.steps[i].valid) cells[f.y[i]][y[i]]++, n++;
    g = f;
    memcpy(g.y, y, sizeof y);
    write_labels(&g, labels);
    const ks_transfer_source sets[] = {{"A", f.acts, f.labels},
                                       {"B", other, labels}};
    run(sets, 2);
    const ks_transfer_cell *c = t.models[0].cells;
    cr_expect(gt(dbl, balanced(&c[0]), 0.95));
    cr_expect(gt(dbl, balanced(&c[3]), 0.95));
    for (int i = 1; i <= 2; i++) {
        cr_expect(near_half(balanced(&c[i])), "%f", balanced(&c[i]));
        cr_expect(near_half(c[i].against_cross.value));
        cr_expect(near_half(mapped(&c[i], KS_MAP_RIDGE)));
        cr_expect(near_half(mapped(&c[i], KS_MAP_PROCRUSTES)));
        cr_expect(lt(dbl, c[i].maps[KS_MAP_RIDGE].r2.value, 0.05));
        double same = (cells[0][0] + cells[1][1]) / n;
        double chance =
            ((cells[0][0] + cells[0][1]) * (cells[0][0] + cells[1][0]) +
             (cells[1][0] + cells[1][1]) * (cells[0][1] + cells[1][1])) /
            (n * n);
        cr_expect(epsilon_eq(dbl, c[i].same.value, same, 1e-12));
        cr_expect(epsilon_eq(dbl, c[i].kappa.value,
                             (same - chance) / (1 - chance), 1e-12));
        cr_expect(le(dbl, c[i].kappa.low, c[i].kappa.value));
    }
}

Test(transfer, random_weights_are_a_column) {
    const ks_transfer_source sets[] = {
        {"A", f.acts, f.labels}, {"B", other, NULL}, {"control", third, NULL}};
    const ks_transfer_source labelled[] = {{"A", f.acts, f.labels},
                                           {"control", third, f.labels}};
    make(&f, (made){other, "b", TURNED, WIDTH, -1, 41, NULL});
    make(&f, (made){third, "a", UNRELATED, WIDTH, 7, 44, NULL});
    ks_err err = fails(labelled, 2, KS_USAGE);
    cr_expect(strstr(err.text, "random weights") != NULL, "%s", err.text);
    run(sets, 3);
    const ks_transfer_cell *c = t.models[0].cells;
    cr_expect(t.sets[2].control && c[2].there && !c[6].there);
    cr_expect(near_half(balanced(&c[2])));
    cr_expect(gt(dbl, balanced(&c[1]), 0.95));
    cr_expect(eq(int, t.n_tasks, 0));
}

Test(transfer, threads_and_seeds_change_no_bit) {
    const ks_transfer_source sets[] = {{"A", f.acts, f.labels},
                                       {"B", other, f.labels}};
    char *text[2];
    make(&f, (made){other, "b", WIDENED, WIDE, -1, 42, NULL});
    for (int k = 0; k < 2; k++) {
        ks_err err = {0};
        json_t *object;
        o = options_for(sets, 2);
        o.n_seeds = 2;
        o.grid.nest.threads = k ? 3 : 1;
        cr_assert(eq(int, ks_transfer_run(&t, &o, &err), KS_OK), "%s",
                  err.text);
        cr_assert(eq(int, ks_transfer_json(&t, &object, &err), KS_OK));
        text[k] = json_dumps(object, JSON_REAL_PRECISION(17));
        json_decref(object);
        ks_transfer_free(&t);
    }
    cr_expect(eq(str, text[0], text[1]));
    cr_expect(strstr(text[0], "keystep transfer") != NULL);
    free(text[0]);
    free(text[1]);
}

/* ------------------------------------------------------------- across tasks */

/* g: other chains, problems from `shared` on named as f's. */
static void make_other_task(int shared) {
    fixture_make(&g);
    for (int c = 0; c < CHAINS; c++) {
        bool same = c % PROBLEMS < shared;
        snprintf(g.ids[c], 16, "q%d/%d", c % PROBLEMS, c / PROBLEMS);
        snprintf(g.problems[c], 16, "%s%d", same ? "p" : "q", c % PROBLEMS);
    }
    make(&g, (made){g.acts, "a", PLAIN, WIDTH, -1, 45, NULL});
    write_labels(&g, g.labels);
    write_chains(&g, g.chains);
}

Test(transfer, trained_on_one_task_tested_on_another) {
    make_other_task(0);
    const ks_transfer_source sets[] = {{"A", f.acts, f.labels},
                                       {"B", g.acts, g.labels}};
    run(sets, 2);
    cr_assert(eq(int, t.n_models, 0));
    cr_assert(eq(int, t.n_tasks, 1));
    const ks_transfer_task *c = t.tasks[0].cells;
    for (int i = 0; i < 4; i++) {
        cr_expect(gt(dbl, c[i].metrics[KS_BALANCED_ACCURACY].value, 0.95));
        cr_expect(lt(dbl, c[i].p.p_holm, 1e-6));
        cr_expect(eq(int, isnan(c[i].p.minus_holm), i == 0 || i == 3));
        if (i == 0 || i == 3) continue;
        cr_expect(eq(int, c[i].layer, TELLING_LAYER));
        cr_expect(eq(i64, c[i].n_train, CHAINS * (STEPS - 1) - 1));
        cr_expect(eq(sz, json_array_size(c[i].left_out), 0));
        cr_expect(epsilon_eq(
            dbl, c[i].minus_within.value,
            c[i].metrics[KS_BALANCED_ACCURACY].value -
                c[i == 1 ? 3 : 0].metrics[KS_BALANCED_ACCURACY].value,
            1e-6));
    }
    fixture_free(&g);
}

Test(transfer, problems_of_both_are_left_out_by_name) {
    make_other_task(10);
    const ks_transfer_source sets[] = {{"A", f.acts, f.labels},
                                       {"B", g.acts, g.labels}};
    run(sets, 2);
    const ks_transfer_task *c = &t.tasks[0].cells[1];
    cr_assert(eq(sz, json_array_size(c->left_out), 10));
    cr_expect(eq(str, (char *)json_string_value(json_array_get(c->left_out, 0)),
                 "p0"));
    int64_t kept = 0;
    for (int i = 0; i < ROWS; i++)
        kept += f.y[i] >= 0 && f.steps[i].valid &&
                f.steps[i].chain % PROBLEMS >= 10;
    cr_expect(eq(i64, c->n_train, kept));
    fixture_free(&g);
}

Test(transfer, no_problem_is_left) {
    make_other_task(PROBLEMS);
    const ks_transfer_source sets[] = {{"A", f.acts, f.labels},
                                       {"B", g.acts, g.labels}};
    ks_err err = fails(sets, 2, KS_MISMATCH);
    cr_expect(strstr(err.text, "60 of 60 problems") != NULL, "%s", err.text);
    fixture_free(&g);
}

/* Every chain of the fixture asks the same. */
Test(transfer, the_same_question_under_another_id) {
    make_other_task(0);
    const ks_transfer_source sets[] = {{"A", f.acts, f.labels},
                                       {"B", g.acts, g.labels}};
    const char *chains[] = {f.chains, g.chains};
    ks_err err = {0};
    o = options_for(sets, 2);
    o.n_chains = 2;
    o.chains = chains;
    cr_expect(eq(int, ks_transfer_run(&t, &o, &err), KS_MISMATCH));
    cr_expect(strstr(err.text, "60 of 60 problems") != NULL, "%s", err.text);
    o.n_chains = 1;
    cr_expect(eq(int, ks_transfer_run(&t, &o, &err), KS_MISMATCH));
    cr_expect(strstr(err.text, "none of the --chains") != NULL, "%s", err.text);
    fixture_free(&g);
}

/* ------------------------------------------------------------------ refusals
 */

Test(transfer, says_what_does_not_fit) {
    const ks_transfer_source sets[] = {{"A", f.acts, f.labels},
                                       {"B", other, NULL}};
    const ks_transfer_source bare[] = {{"A", f.acts, NULL}, {"B", other, NULL}};
    const ks_transfer_source missing[] = {{"A", f.acts, f.labels},
                                          {"B", "/nowhere.h5", NULL}};
    make(&f, (made){other, "b", TURNED, WIDTH, -1, 41, NULL});
    ks_err err = fails(bare, 2, KS_USAGE);
    cr_expect(strstr(err.text, "no labels") != NULL, "%s", err.text);
    fails(missing, 2, KS_IO);
    /* one chain of another text, then of another cut */
    g = f;
    memset(g.rows[3].text_sha256, 'a', 64);
    make(&g, (made){other, "b", TURNED, WIDTH, -1, 41, NULL});
    err = fails(sets, 2, KS_MISMATCH);
    cr_expect(strstr(err.text, "another text") != NULL, "%s", err.text);
    g = f;
    g.steps[2].byte_end--;
    make(&g, (made){other, "b", TURNED, WIDTH, -1, 41, NULL});
    err = fails(sets, 2, KS_MISMATCH);
    cr_expect(strstr(err.text, "step 2: bytes") != NULL, "%s", err.text);
    /* another model on other chains */
    make_other_task(0);
    make(&g, (made){g.acts, "z", PLAIN, WIDTH, -1, 45, NULL});
    const ks_transfer_source apart[] = {{"A", f.acts, f.labels},
                                        {"B", g.acts, g.labels}};
    err = fails(apart, 2, KS_MISMATCH);
    cr_expect(strstr(err.text, "no two sets") != NULL, "%s", err.text);
    fixture_free(&g);
}
