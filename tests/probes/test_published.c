/* test_published.c - the published protocol: PyTorch's figures on the same rows
 * and batches (tests/golden/make_published.py), and what its ladder says where
 * it is known: labels that only the chain tells, none at all, a real signal. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <jansson.h>

#include "planted.h"

#include "adamw_golden.h"

static const double rates[3] = {3e-5, 3e-4, 3e-3};

/* The whole of it for one recipe. */
static ks_protocol published(planted *p, const char *word, int32_t n_rates,
                             ks_trained *honest) {
    ks_recipe recipe = planted_recipe(word);
    ks_trainer trainer;
    ks_trained own = {0};
    ks_err err = {0};
    ks_protocol out = {0};
    ks_published_options o = {.rows = &p->rows,
                              .folds = &p->folds,
                              .n_rates = n_rates,
                              .rates = n_rates > 1 ? rates : rates + 1,
                              .bootstrap = 300,
                              .seed = 1};
    int32_t n = planted_train(p, &recipe, 0, &own, &err);
    cr_assert(eq(int, n, 1), "%s", err.text);
    ks_status st =
        ks_trainer_open(&trainer, &recipe, &p->stack, p->ops, p->dev, &err);
    cr_assert(eq(int, st, KS_OK), "%s", err.text);
    st = ks_published_run(&out, &trainer, &own, &o, &err);
    cr_assert(eq(int, st, KS_OK), "%s", err.text);
    ks_trainer_close(&trainer);
    if (honest)
        *honest = own;
    else
        ks_trained_free(&own);
    return out;
}

/* ------------------------------------------------------------------- PyTorch
 */

/* make_published.py's rows: 400 of 12 features in 3 layers. */
static void open_golden(planted *p) {
    planted_open(p, 3, 400, 12, 5);
    for (int64_t k = 0; k < 3 * 400 * 12; k++)
        p->x[k] = (float)(golden_uniform(21, k) +
                          (k % 12 == 0   ? 8 * golden_uniform(22, k / 12 % 400)
                           : k % 12 == 5 ? 1
                                         : 0));
    for (int64_t i = 0; i < p->n; i++)
        p->y[i] = golden_uniform(22, i) + 0.3 * golden_uniform(23, i) > 0.2;
    planted_ready(p, 0, 5, 1);
}

static void check_rows(const planted *p, json_t *seed) {
    int32_t train[400], eval[400], n_train, n_eval;
    int8_t removable[400];
    ks_err err = {0};
    for (int i = 0; i < 400; i++) removable[i] = !p->y[i];
    ks_status st = ks__published_split(
        removable, p->n,
        (uint64_t)json_integer_value(json_object_get(seed, "seed")), train,
        &n_train, eval, &n_eval, &err);
    cr_assert(eq(int, st, KS_OK), "%s", err.text);
    json_t *rows[2] = {json_object_get(seed, "train"),
                       json_object_get(seed, "eval")};
    cr_assert(eq(int, n_train, (int)json_array_size(rows[0])));
    cr_assert(eq(int, n_eval, (int)json_array_size(rows[1])));
    for (int k = 0; k < n_train + n_eval; k++) {
        bool of_train = k < n_train;
        int want = (int)json_integer_value(json_array_get(
            rows[!of_train], (size_t)(of_train ? k : k - n_train)));
        cr_assert(eq(int, of_train ? train[k] : eval[k - n_train], want));
    }
}

Test(published, is_what_pytorch_trains) {
    json_error_t reason;
    json_t *all =
        json_load_file(KS_TEST_DATA "/probes/published.json", 0, &reason);
    cr_assert(all != NULL, "%s", reason.text);
    json_t *one;
    size_t k;
    planted p;
    open_golden(&p);
    json_array_foreach(json_object_get(all, "cases"), k, one) {
        const char *word = json_string_value(json_object_get(one, "probe"));
        ks_protocol got = published(&p, word, 1, NULL);
        const ks_rung *r = &got.rungs[KS_RUNG_PUBLISHED];
        double mean = 0;
        for (size_t s = 0; s < KS_PUBLISHED_SEEDS; s++) {
            json_t *want = json_array_get(json_object_get(one, "seeds"), s);
            if (k == 0) check_rows(&p, want);
            double accuracy = golden_real(want, "accuracy");
            cr_expect(eq(int, r->epoch[s], (int)golden_whole(want, "epoch")),
                      "%s, seed %zu", word, 42 + s);
            cr_expect(fabs(r->seed_accuracy[s] - accuracy) <= 1e-9,
                      "%s, seed %zu: %g, PyTorch %g", word, 42 + s,
                      r->seed_accuracy[s], accuracy);
            mean += accuracy / KS_PUBLISHED_SEEDS;
        }
        cr_expect(epsilon_eq(dbl, r->accuracy.value, mean, 1e-9));
        cr_expect(epsilon_eq(dbl, r->balanced.value, mean, 1e-9),
                  "both classes have as many rows");
    }
    cr_expect(k == 4);
    planted_close(&p);
    json_decref(all);
}

/* -------------------------------------------------------------------- ladder
 */

static void show(const char *name, const ks_protocol *p) {
    fprintf(stderr, "%s:", name);
    for (int r = 0; r < KS_N_RUNGS; r++)
        fprintf(stderr, " %.3f [%.3f, %.3f]", p->rungs[r].balanced.value,
                p->rungs[r].balanced.low, p->rungs[r].balanced.high);
    fprintf(stderr, "; %.3f [%.3f, %.3f]\n", p->difference.value,
            p->difference.low, p->difference.high);
}

static bool holds(ks_interval v, double x) {
    return v.low <= x && x <= v.high;
}

/* Every step of a chain has the chain's label, and features that tell the
 * chain and nothing else: who has seen the chain knows the label. */
Test(published, a_leak_through_the_chain_shows_on_the_first_rung_alone) {
    planted p;
    planted_open(&p, 2, 800, 64, 20);
    for (int64_t i = 0; i < p.n; i++) {
        p.y[i] = p.group[i] % 2;
        for (int64_t l = 0; l < 2; l++)
            for (int64_t j = 0; j < p.d; j++)
                p.x[(l * p.n + i) * p.d + j] =
                    3 * planted_noise(3, (uint64_t)(p.group[i] * 500 + j)) +
                    p.x[(l * p.n + i) * p.d + j];
    }
    planted_ready(&p, 0, 5, 2);
    static const char *const words[] = {"linear", "lw-mlp:16"};
    for (size_t k = 0; k < KS_COUNT(words); k++) {
        ks_protocol got = published(&p, words[k], 1, NULL);
        const ks_rung *r = got.rungs;
        show(words[k], &got);
        cr_expect(r[KS_RUNG_PUBLISHED].balanced.value > 0.8);
        cr_expect(r[KS_RUNG_EPOCH].balanced.value < 0.7);
        cr_expect(holds(r[KS_RUNG_EPOCH].balanced, 0.5));
        cr_expect(holds(r[KS_RUNG_STEPS].balanced, 0.5));
        cr_expect(holds(r[KS_RUNG_HONEST].balanced, 0.5));
        cr_expect(got.difference.low > 0.2);
        cr_expect(epsilon_eq(dbl, got.difference.value,
                             r[KS_RUNG_PUBLISHED].balanced.value -
                                 r[KS_RUNG_HONEST].balanced.value,
                             1e-12));
    }
    planted_close(&p);
}

/* Where there is nothing, the best of 30 epochs on the evaluation rows is
 * above one half; chosen elsewhere it is not. */
Test(published, noise_shows_what_the_best_epoch_gains) {
    planted p;
    double as_published = 0, by_problem = 0, epoch = 0, honest = 0;
    enum { DRAWS = 6 };
    for (uint64_t draw = 0; draw < DRAWS; draw++) {
        planted_open(&p, 2, 300, 24, 3);
        for (int64_t i = 0; i < p.n; i++)
            p.y[i] = planted_draw(40 + draw, (uint64_t)i) < 0.5f;
        planted_ready(&p, 0, 5, 1);
        ks_protocol got = published(&p, "lw-linear", 3, NULL);
        show("noise", &got);
        as_published += got.rungs[KS_RUNG_PUBLISHED].balanced.value / DRAWS;
        by_problem += got.rungs[KS_RUNG_PROBLEMS].balanced.value / DRAWS;
        epoch += got.rungs[KS_RUNG_EPOCH].balanced.value / DRAWS;
        honest += got.rungs[KS_RUNG_HONEST].balanced.value / DRAWS;
        planted_close(&p);
    }
    /* one rung's mean has a deviation of some 0.012 */
    cr_expect(as_published > 0.53, "%g", as_published);
    cr_expect(by_problem > 0.53, "%g", by_problem);
    cr_expect(by_problem - epoch > 0.02, "%g, %g", by_problem, epoch);
    cr_expect(fabs(epoch - 0.5) < 0.03, "%g", epoch);
    cr_expect(fabs(honest - 0.5) < 0.03, "%g", honest);
}

Test(published, a_real_signal_shows_everywhere) {
    planted p;
    planted_open(&p, 2, 600, 24, 5);
    for (int64_t i = 0; i < p.n; i++) {
        p.y[i] = planted_draw(5, (uint64_t)i) < 0.3f;
        for (int64_t l = 0; l < 2; l++)
            for (int64_t j = 2; j < 8; j++)
                p.x[(l * p.n + i) * p.d + j] += p.y[i] ? 1.5f : -1.5f;
    }
    planted_ready(&p, 0, 5, 3);
    ks_trained honest;
    ks_protocol got = published(&p, "lw-mlp:16", 3, &honest);
    show("signal", &got);
    for (int r = 0; r < KS_N_RUNGS; r++) {
        const ks_rung *rung = &got.rungs[r];
        cr_expect(rung->balanced.value > 0.95);
        cr_expect(rung->balanced.low <= rung->balanced.value &&
                  rung->balanced.value <= rung->balanced.high);
        cr_expect(rung->sd >= 0 && rung->sd < 0.05, "%g", rung->sd);
    }
    /* of equally many of each class a fifth, three times; all steps once */
    int64_t important = 0;
    for (int64_t i = 0; i < p.n; i++) important += p.y[i];
    cr_expect(eq(i64, got.rungs[KS_RUNG_PUBLISHED].n_eval,
                 6 * ((important + 4) / 5)));
    cr_expect(eq(i64, got.rungs[KS_RUNG_HONEST].n_eval, p.n));
    cr_expect(epsilon_eq(dbl, got.rungs[KS_RUNG_HONEST].balanced.value,
                         planted_right(&p, honest.score), 1e-12));
    ks_trained_free(&honest);
    planted_close(&p);
}

/* ------------------------------------------------------------------- details
 */

Test(published, undersampling_keeps_all_of_the_smaller_class) {
    enum { N = 103 };
    int8_t y[N];
    int32_t train[N], eval[N], n_train, n_eval;
    int seen[N] = {0};
    ks_err err = {0};
    for (int i = 0; i < N; i++) y[i] = i % 5 == 2;
    cr_assert(
        eq(int,
           ks__published_split(y, N, 42, train, &n_train, eval, &n_eval, &err),
           KS_OK));
    int count[2][2] = {{0}};
    for (int k = 0; k < n_train + n_eval; k++) {
        int32_t row = k < n_train ? train[k] : eval[k - n_train];
        cr_assert(row >= 0 && row < N && !seen[row]++);
        count[k >= n_train][y[row]]++;
    }
    /* 21 of the class: 5 evaluated, 16 train */
    for (int c = 0; c < 2; c++) {
        cr_expect(eq(int, count[0][c], 16));
        cr_expect(eq(int, count[1][c], 5));
    }
}

/* A sweep takes one rate for all seeds, and is at least as good on the rows it
 * looks at as any one rate. */
Test(published, a_sweep_takes_the_best_rate_on_the_evaluation_rows) {
    planted p;
    open_golden(&p);
    ks_protocol one = published(&p, "linear", 1, NULL);
    ks_protocol all = published(&p, "linear", 3, NULL);
    const ks_rung *r = &all.rungs[KS_RUNG_PUBLISHED];
    cr_expect(r->rate[0] == r->rate[1] && r->rate[1] == r->rate[2]);
    cr_expect(r->rate[0] == 3e-3, "%g", r->rate[0]);
    cr_expect(r->accuracy.value >
              one.rungs[KS_RUNG_PUBLISHED].accuracy.value + 0.02);
    planted_close(&p);
}

Test(published, few_problems_are_refused) {
    planted p;
    planted_open(&p, 2, 400, 4, 100);
    for (int64_t i = 0; i < p.n; i++) p.y[i] = i % 2;
    planted_ready(&p, 0, 3, 1);
    ks_recipe recipe = planted_recipe("linear");
    ks_trainer trainer;
    ks_trained honest;
    ks_err err = {0};
    cr_assert(eq(int, planted_train(&p, &recipe, 0, &honest, &err), 1));
    cr_assert(eq(
        int, ks_trainer_open(&trainer, &recipe, &p.stack, p.ops, p.dev, &err),
        KS_OK));
    ks_published_options o = {.rows = &p.rows,
                              .folds = &p.folds,
                              .n_rates = 1,
                              .rates = rates,
                              .bootstrap = 100};
    ks_protocol out = {0};
    cr_expect(eq(int, ks_published_run(&out, &trainer, &honest, &o, &err),
                 KS_MISMATCH));
    cr_expect(strstr(err.text, "4 problems") != NULL, "%s", err.text);
    ks_trained_free(&honest);
    ks_trainer_close(&trainer);
    planted_close(&p);
}
