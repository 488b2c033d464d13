/* test_trained.c - trained kinds of probes: read from words, find what is
 * planted where it is, learn nothing from the rows they are tested on, and are
 * what their weights say; threads change no bit. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "planted.h"

enum { MANY = 1 << 30 };

/* -------------------------------------------------------------------- words
 */

Test(recipes, are_read) {
    ks_recipe r[KS_MOST_RECIPES];
    int32_t n;
    ks_err err = {0};
    ks_status st = ks_recipes_read(
        "l2,linear,mlp,lw-linear,lw-mlp,lw-mlp:1024,mlp:128x5,linear-layer,"
        "mlp-layer",
        r, &n, &err);
    cr_assert(eq(int, st, KS_OK), "%s", err.text);
    cr_assert(eq(int, n, 8));
    static const struct {
        const char *name;
        ks_input input;
        int32_t n_hidden, first, last;
    } want[] = {{"linear", KS_INPUT_MEAN, 0, 0, 0},
                {"mlp 256x2", KS_INPUT_MEAN, 2, 256, 128},
                {"lw-linear", KS_INPUT_BESIDE, 0, 0, 0},
                {"lw-mlp 128", KS_INPUT_BESIDE, 1, 128, 128},
                {"lw-mlp 1024", KS_INPUT_BESIDE, 1, 1024, 1024},
                {"mlp 128x5", KS_INPUT_MEAN, 5, 128, 8},
                {"linear-layer", KS_INPUT_EACH, 0, 0, 0},
                {"mlp-layer 128", KS_INPUT_EACH, 1, 128, 128}};
    for (int k = 0; k < 8; k++) {
        int32_t h = r[k].n_hidden;
        cr_expect(eq(str, r[k].name, (char *)want[k].name));
        cr_expect(eq(int, r[k].input, want[k].input));
        cr_expect(eq(int, h, want[k].n_hidden));
        cr_expect(eq(int, h ? r[k].hidden[0] : 0, want[k].first));
        cr_expect(eq(int, h ? r[k].hidden[h - 1] : 0, want[k].last));
    }
    cr_expect(eq(int, ks_recipes_read("l2", r, &n, &err), KS_OK));
    cr_expect(eq(int, n, 0));
}

Test(recipes, other_words_are_refused) {
    static const char *const words[] = {"",
                                        "lw",
                                        "l2x",
                                        "linear:4",
                                        "lw-mlp:",
                                        "lw-mlp:0",
                                        "mlp:4097",
                                        "mlp:8x",
                                        "mlp:8x0",
                                        "mlp:8x9",
                                        "mlp:4x4",
                                        "mlp:+4",
                                        "mlp: 4",
                                        "mlp:8y2",
                                        "mlp,mlp:256x2",
                                        "linear,,",
                                        "mlp:8x2x2",
                                        "linear-layer:",
                                        "mlp:99999999999999999999"};
    for (size_t k = 0; k < KS_COUNT(words); k++) {
        ks_recipe r[KS_MOST_RECIPES];
        int32_t n;
        ks_err err = {0};
        ks_status st = ks_recipes_read(words[k], r, &n, &err);
        cr_expect(eq(int, st, KS_USAGE), "'%s'", words[k]);
        cr_expect(strstr(err.text, "probe") != NULL, "%s", err.text);
    }
    char many[256] = "mlp:1";
    for (int k = 2; k <= KS_MOST_RECIPES + 1; k++)
        snprintf(many + strlen(many), 16, ",mlp:%d", k);
    ks_recipe r[KS_MOST_RECIPES];
    int32_t n;
    ks_err err = {0};
    cr_expect(eq(int, ks_recipes_read(many, r, &n, &err), KS_USAGE));
    cr_expect(strstr(err.text, "more than 16") != NULL, "%s", err.text);
}

/* ------------------------------------------------------------------- planted
 */

/* The label in three features of layer `layer` of 4, of which 0 is the
 * embedding's. */
static void plant(planted *p, int32_t layer, int32_t n_seeds) {
    planted_open(p, 4, 600, 12, 5);
    for (int64_t i = 0; i < p->n; i++) {
        p->y[i] = planted_draw(2, (uint64_t)i) < 0.35f;
        for (int64_t j = 3; j < 6; j++)
            p->x[(layer * p->n + i) * p->d + j] += p->y[i] ? 2.0f : -2.0f;
    }
    planted_ready(p, 1, 5, n_seeds);
}

Test(trained, find_what_is_planted_where_it_is) {
    static const char *const words[] = {"linear", "mlp:16x2", "lw-linear",
                                        "lw-mlp:16"};
    for (int32_t layer = 0; layer < 4; layer += 2) {
        planted p;
        plant(&p, layer, 1);
        for (size_t k = 0; k < KS_COUNT(words); k++) {
            ks_recipe recipe = planted_recipe(words[k]);
            ks_trained t;
            ks_err err = {0};
            int32_t n = planted_train(&p, &recipe, 0, &t, &err);
            cr_assert(eq(int, n, 1), "%s", err.text);
            cr_expect(eq(int, t.layer, -1));
            cr_expect(t.param == NULL);
            double right = planted_right(&p, t.score);
            /* the embedding's output is left out */
            if (layer)
                cr_expect(right > 0.9, "%s: %g", words[k], right);
            else
                cr_expect(right > 0.4 && right < 0.6, "%s: %g", words[k],
                          right);
            ks_trained_free(&t);
        }
        planted_close(&p);
    }
}

Test(trained, a_probe_a_layer) {
    planted p;
    plant(&p, 2, 1);
    for (int m = 0; m < 2; m++) {
        ks_recipe recipe = planted_recipe(m ? "mlp-layer:16" : "linear-layer");
        ks_trained t[4];
        ks_err err = {0};
        int32_t n = planted_train(&p, &recipe, 0, t, &err);
        cr_assert(eq(int, n, 4), "%s", err.text);
        for (int32_t l = 0; l < 4; l++) {
            double right = planted_right(&p, t[l].score);
            cr_expect(eq(int, t[l].layer, l));
            cr_expect(l == 2 ? right > 0.9 : right > 0.4 && right < 0.6,
                      "layer %d: %g", l, right);
            ks_trained_free(&t[l]);
        }
    }
    planted_close(&p);
}

/* The other labels and other values in a fold of the first seed: the scores of
 * that seed's fold rows stay as they were where only labels changed, and other
 * folds' move. */
Test(trained, test_rows_decide_nothing) {
    planted p;
    plant(&p, 2, 2);
    ks_recipe recipe = planted_recipe("lw-mlp:8");
    ks_trained a, b;
    ks_err err = {0};
    cr_assert(eq(int, planted_train(&p, &recipe, 0, &a, &err), 1));
    for (int64_t i = 0; i < p.n; i++)
        if (p.fold[i] == 1) p.y[i] = !p.y[i];
    cr_assert(eq(int, planted_train(&p, &recipe, 0, &b, &err), 1));
    int64_t moved = 0;
    for (int64_t i = 0; i < p.n; i++) {
        if (p.fold[i] == 1)
            cr_expect(a.by_seed[i] == b.by_seed[i], "row %d", (int)i);
        else
            moved += a.by_seed[i] != b.by_seed[i];
    }
    cr_expect(moved > p.n / 2);
    cr_expect(a.rate[1] == b.rate[1] && a.epochs[1] == b.epochs[1]);
    ks_trained_free(&a);
    ks_trained_free(&b);
    planted_close(&p);
}

Test(trained, threads_change_no_bit) {
    planted p;
    plant(&p, 2, 2);
    ks_recipe recipe = planted_recipe("lw-mlp:8");
    ks_trained a, b;
    ks_err err = {0};
    cr_assert(eq(int, planted_train(&p, &recipe, MANY, &a, &err), 1));
    ks_dev_close(&p.dev, p.ops);
    cr_assert(
        eq(int, ks_dev_open(&p.dev, &p.ops, "cpu", 1, NULL, &err), KS_OK));
    cr_assert(eq(int, planted_train(&p, &recipe, MANY, &b, &err), 1));
    cr_expect(memcmp(a.by_seed, b.by_seed, 2 * 600 * sizeof(float)) == 0);
    cr_expect(memcmp(a.param, b.param,
                     (size_t)a.n_fits * (size_t)a.n_params * sizeof(float)) ==
              0);
    ks_trained_free(&a);
    ks_trained_free(&b);
    planted_close(&p);
}

/* ------------------------------------------------------------------- weights
 */

/* The score of row i by fit `fit`'s weights, in double. */
static double by_weights(const planted *p, const ks_recipe *r,
                         const ks_trained *t, int32_t fit, int64_t i) {
    double in[256] = {0}, out[256] = {0};
    const float *w = t->param + fit * t->n_params;
    int64_t inputs = t->n_inputs;
    for (int64_t k = 0; k < inputs; k++) {
        int64_t l = p->stack.first + k / p->d;
        double x = (double)p->x[(l * p->n + i) * p->d + k % p->d];
        in[k] = (x - (double)t->mean[fit * inputs + k]) /
                (double)t->scale[fit * inputs + k];
    }
    for (int32_t l = 0; l <= r->n_hidden; l++) {
        int64_t units = l < r->n_hidden ? r->hidden[l] : 1;
        for (int64_t u = 0; u < units; u++) {
            out[u] = (double)w[units * inputs + u];
            for (int64_t k = 0; k < inputs; k++)
                out[u] += (double)w[u * inputs + k] * in[k];
            if (l < r->n_hidden) out[u] = fmax(out[u], 0);
        }
        w += (inputs + 1) * units;
        inputs = units;
        memcpy(in, out, sizeof in);
    }
    return in[0];
}

Test(trained, scores_are_what_weights_say) {
    planted p;
    plant(&p, 2, 2);
    static const char *const words[] = {"lw-linear", "lw-mlp:9x2"};
    for (size_t k = 0; k < KS_COUNT(words); k++) {
        ks_recipe recipe = planted_recipe(words[k]);
        ks_trained t;
        ks_err err = {0};
        cr_assert(eq(int, planted_train(&p, &recipe, MANY, &t, &err), 1));
        cr_assert(t.param != NULL);
        for (int32_t s = 0; s < 2; s++)
            for (int64_t i = 0; i < p.n; i++) {
                double got = (double)t.by_seed[s * p.n + i];
                int32_t fit = s * 5 + p.fold[s * p.n + i];
                double want = by_weights(&p, &recipe, &t, fit, i);
                cr_expect(fabs(got - want) <= 1e-4 + 1e-4 * fabs(want),
                          "%s row %d: %g, %g", words[k], (int)i, got, want);
            }
        for (int32_t fit = 0; fit < t.n_fits; fit++)
            cr_expect(t.rate[fit] >= 3e-5 && t.rate[fit] <= 3e-3 &&
                      t.epochs[fit] >= 1 && t.epochs[fit] <= 30);
        ks_trained_free(&t);
    }
    planted_close(&p);
}

/* ------------------------------------------------------------------ refusals
 */

Test(trained, too_few_rows_are_refused) {
    planted p;
    planted_open(&p, 2, 40, 4, 2);
    for (int64_t i = 0; i < p.n; i++) p.y[i] = i % 2;
    planted_ready(&p, 1, 5, 1);
    ks_recipe recipe = planted_recipe("linear");
    ks_trained t;
    ks_err err = {0};
    cr_expect(eq(int, planted_train(&p, &recipe, 0, &t, &err), 0));
    cr_expect(strstr(err.text, "less than a batch of 32") != NULL, "%s",
              err.text);
    planted_close(&p);
}

Test(trained, embeddings_alone_are_not_layers) {
    planted p;
    planted_open(&p, 1, 100, 4, 2);
    for (int64_t i = 0; i < p.n; i++) p.y[i] = i % 2;
    planted_ready(&p, 0, 5, 1);
    p.stack.first = 1;
    ks_recipe recipe = planted_recipe("lw-linear");
    ks_trained t;
    ks_err err = {0};
    cr_expect(eq(int, planted_train(&p, &recipe, 0, &t, &err), 0));
    cr_expect(strstr(err.text, "--layers") != NULL, "%s", err.text);
    planted_close(&p);
}
