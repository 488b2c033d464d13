/* Nested fits and the grid: no test row decides anything about its own score,
 * a planted signal is found in its layer, and threads change no bit. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

#include "fixture.h"
#include "grid.h"
#include "split.h"

enum { FOLDS = 5 };

static const double strengths[] = {1e-3, 1e-2, 1e-1, 1};

static ks_nest_options options(int threads) {
    return (ks_nest_options){.n_strengths = 4,
                             .strengths = strengths,
                             .threads = threads,
                             .keep_weights = true};
}

/* ------------------------------------------------------------------- nested */

enum { N = 400, D = 5 };

typedef struct problem {
    float x[N * D];
    int8_t y[N];
    uint8_t fold[2 * N];
    const int8_t *sets[2];
    ks_folds folds;
} problem;

static void make(problem *p) {
    for (int i = 0; i < N; i++) {
        p->y[i] = draw(5, (uint64_t)i) < 0.4f;
        p->fold[i] = (uint8_t)(i % FOLDS);
        p->fold[N + i] = (uint8_t)(i / 7 % FOLDS);
        for (int j = 0; j < D; j++)
            p->x[i * D + j] = noise(6, (uint64_t)(i * D + j)) +
                              (j == 2 && p->y[i] ? 1.2f : 0);
    }
    p->sets[0] = p->sets[1] = p->y;
    p->folds = (ks_folds){N, FOLDS, FOLDS - 1, 2, p->fold};
}

Test(nest, holds_are_whole_folds_and_shared) {
    for (int32_t n_inner = 2; n_inner < FOLDS; n_inner++)
        for (int32_t f = 0; f < FOLDS; f++) {
            uint32_t all = 0;
            for (int32_t part = 0; part < n_inner; part++) {
                uint32_t hold = ks_nest_hold(FOLDS, n_inner, f, part);
                cr_expect(hold >> f & 1);
                cr_expect(ne(uint, hold, 1u << f));
                cr_expect(eq(uint, all & hold & ~(1u << f), 0));
                all |= hold;
            }
            cr_expect(eq(uint, all, (1u << FOLDS) - 1));
        }
    cr_expect(eq(uint, ks_nest_hold(5, 4, 0, 0), ks_nest_hold(5, 4, 1, 3)));
}

Test(nest, balanced_loss_by_hand) {
    float margin[] = {0, 1, -1, 5};
    int8_t y[] = {1, 1, 0, 0};
    uint8_t fold[] = {0, 0, 0, 1};
    double one = (log(2) + log1p(exp(-1))) / 2, zero = log1p(exp(-1));
    cr_expect(epsilon_eq(dbl, ks_nest_loss(margin, y, fold, 4, 1u),
                         (one + zero) / 2, 1e-12));
    cr_expect(epsilon_eq(dbl, ks_nest_loss(margin, y, fold, 4, 2u),
                         log1p(exp(5)), 1e-12));
}

/* Changing the rows of a fold, labels too, leaves its fit alone. */
Test(nest, test_rows_decide_nothing) {
    static problem p, q;
    ks_nest a = {0}, b = {0};
    ks_err err = {0};
    ks_nest_options o = options(1);
    make(&p);
    q = p;
    q.sets[0] = q.sets[1] = q.y;
    q.folds.fold = q.fold;
    for (int i = 0; i < N; i++)
        if (p.fold[i] == 3) {
            q.y[i] = !q.y[i];
            for (int j = 0; j < D; j++) q.x[i * D + j] *= -4;
        }
    p.folds.n_seeds = q.folds.n_seeds = 1;
    cr_assert(
        eq(int, ks_nest_fit(&a, p.x, D, p.sets, &p.folds, &o, &err), KS_OK),
        "%s", err.text);
    cr_assert(
        eq(int, ks_nest_fit(&b, q.x, D, q.sets, &q.folds, &o, &err), KS_OK),
        "%s", err.text);
    cr_expect(eq(dbl, a.strength[3], b.strength[3]));
    cr_expect(epsilon_eq(dbl, a.loss[3], b.loss[3], 1e-5));
    double other = 0;
    for (int j = 0; j < D; j++) {
        cr_expect(epsilon_eq(flt, a.mean[3 * D + j], b.mean[3 * D + j], 1e-5f));
        cr_expect(
            epsilon_eq(flt, a.weight[3 * D + j], b.weight[3 * D + j], 1e-3f));
        other += fabs((double)a.weight[j] - (double)b.weight[j]);
    }
    cr_expect(gt(dbl, other, 0.1), "the other folds' fits must differ");
    ks_nest_free(&a);
    ks_nest_free(&b);
}

/* score = sum weight (x - mean) / scale + bias of the row's fold. */
Test(nest, scores_come_from_the_weights) {
    static problem p;
    ks_nest a = {0};
    ks_err err = {0};
    ks_nest_options o = options(1);
    make(&p);
    cr_assert(
        eq(int, ks_nest_fit(&a, p.x, D, p.sets, &p.folds, &o, &err), KS_OK),
        "%s", err.text);
    cr_expect(eq(int, a.n_fits, 2 * FOLDS));
    cr_expect(eq(int, a.unconverged, 0));
    for (int s = 0; s < 2; s++)
        for (int i = 0; i < N; i++) {
            int fit = s * FOLDS + p.fold[s * N + i];
            float z = a.bias[fit];
            for (int j = 0; j < D; j++)
                z += a.weight[fit * D + j] *
                     (p.x[i * D + j] - a.mean[fit * D + j]) /
                     a.scale[fit * D + j];
            cr_assert(epsilon_eq(flt, a.score[s * N + i], z, 1e-4f));
        }
    ks_nest_free(&a);
}

Test(nest, threads_change_no_bit) {
    static problem p;
    ks_nest a = {0}, b = {0};
    ks_err err = {0};
    ks_nest_options one = options(1), two = options(3);
    make(&p);
    cr_assert(
        eq(int, ks_nest_fit(&a, p.x, D, p.sets, &p.folds, &one, &err), KS_OK));
    cr_assert(
        eq(int, ks_nest_fit(&b, p.x, D, p.sets, &p.folds, &two, &err), KS_OK));
    cr_expect(eq(int, memcmp(a.score, b.score, 2 * N * sizeof(float)), 0));
    ks_nest_free(&a);
    ks_nest_free(&b);
}

Test(nest, chooses_the_least_loss_fold_by_fold) {
    double low[] = {0.5, 0.7}, high[] = {0.6, 0.4};
    float score_a[] = {1, 2, 3, 4}, score_b[] = {-1, -2, -3, -4}, mixed[4];
    uint8_t fold[] = {0, 1, 0, 1};
    ks_nest a = {.n_fits = 2, .loss = low, .score = score_a};
    ks_nest b = {.n_fits = 2, .loss = high, .score = score_b};
    const ks_nest *nests[] = {&a, &b};
    int32_t chosen[2];
    ks_folds folds = {4, 2, 1, 1, fold};
    ks_nest_choose(nests, 2, chosen);
    cr_expect(eq(int, chosen[0], 0));
    cr_expect(eq(int, chosen[1], 1));
    ks_nest_mix(nests, chosen, &folds, mixed);
    cr_expect(eq(flt, mixed[0], 1));
    cr_expect(eq(flt, mixed[1], -2));
    cr_expect(eq(flt, mixed[2], 3));
}

/* Rows of fold + FOLDS decide nothing and are scored by their fold's fit: what
 * the fits without them are, they are with them. */
Test(nest, rows_that_never_train) {
    static problem p, q;
    ks_nest a = {0}, b = {0};
    ks_err err = {0};
    ks_nest_options o = options(1);
    int m = 0;
    make(&p);
    make(&q);
    for (int i = 0; i < N; i++) {
        if (i % 3 == 0) {
            p.fold[i] = (uint8_t)(p.fold[i] + FOLDS);
            continue;
        }
        q.y[m] = p.y[i];
        q.fold[m] = p.fold[i];
        memcpy(q.x + m * D, p.x + i * D, D * sizeof(float));
        m++;
    }
    q.sets[0] = q.y;
    p.folds.n_seeds = q.folds.n_seeds = 1;
    q.folds.n = m;
    q.folds.fold = q.fold;
    cr_assert(
        eq(int, ks_nest_fit(&a, p.x, D, p.sets, &p.folds, &o, &err), KS_OK),
        "%s", err.text);
    cr_assert(
        eq(int, ks_nest_fit(&b, q.x, D, q.sets, &q.folds, &o, &err), KS_OK),
        "%s", err.text);
    for (int f = 0; f < FOLDS; f++)
        cr_expect(eq(dbl, a.strength[f], b.strength[f]));
    for (int i = 0, k = 0; i < N; i++) {
        int fit = p.fold[i] % FOLDS;
        float z = b.bias[fit];
        for (int j = 0; j < D; j++)
            z += b.weight[fit * D + j] *
                 (p.x[i * D + j] - b.mean[fit * D + j]) / b.scale[fit * D + j];
        cr_assert(epsilon_eq(flt, a.score[i], z, 1e-3f), "row %d", i);
        if (p.fold[i] < FOLDS)
            cr_assert(epsilon_eq(flt, a.score[i], b.score[k++], 1e-3f));
    }
    ks_nest_free(&a);
    ks_nest_free(&b);
}

/* A row's inner margin comes from a fit that saw neither its part nor the
 * outer fold: changing the row moves it, changing others of its part does
 * not. */
Test(nest, inner_margins_are_out_of_part) {
    static problem p, q;
    ks_nest a = {0}, b = {0};
    ks_err err = {0};
    ks_nest_options o = options(1);
    static const double one[] = {0.1}; /* or another would be chosen */
    o.strengths = one;
    o.n_strengths = 1;
    o.keep_inner = true;
    make(&p);
    q = p;
    q.sets[0] = q.y;
    q.folds.fold = q.fold;
    p.folds.n_seeds = q.folds.n_seeds = 1;
    for (int i = 0; i < N; i++)
        if (p.fold[i] == 2 && i != 2) {
            q.y[i] = !q.y[i];
            for (int j = 0; j < D; j++) q.x[i * D + j] *= -4;
        }
    cr_assert(
        eq(int, ks_nest_fit(&a, p.x, D, p.sets, &p.folds, &o, &err), KS_OK),
        "%s", err.text);
    cr_assert(
        eq(int, ks_nest_fit(&b, q.x, D, q.sets, &q.folds, &o, &err), KS_OK),
        "%s", err.text);
    for (int f = 0; f < FOLDS; f++) {
        int row = 2; /* of fold 2 */
        cr_expect(
            epsilon_eq(flt, a.inner[f * N + row], b.inner[f * N + row], 1e-3f));
        double apart = 0;
        for (int i = 0; i < N; i++) {
            if (p.fold[i] == 2) continue;
            apart +=
                fabs((double)a.inner[f * N + i] - (double)b.inner[f * N + i]);
            if (p.fold[i] == f)
                cr_assert(eq(flt, a.inner[f * N + i], a.score[i]));
        }
        if (f != 2) cr_expect(gt(dbl, apart, 1));
    }
    ks_nest_free(&a);
    ks_nest_free(&b);
}

Test(nest, refuses_folds_that_cannot_be_nested) {
    static problem p;
    ks_nest a = {0};
    ks_err err = {0};
    ks_nest_options o = options(1);
    make(&p);
    p.folds.n_inner = FOLDS;
    cr_expect(
        eq(int, ks_nest_fit(&a, p.x, D, p.sets, &p.folds, &o, &err), KS_USAGE));
    cr_expect(a.score == NULL);
}

/* --------------------------------------------------------------------- grid */

static ks_status run(const fixture *f, int threads, ks_dataset **d,
                     uint8_t *fold, ks_grid *grid, ks_err *err) {
    ks_status st = KS_OK;
    ks_dataset_paths paths = {.acts = f->acts, .labels = f->labels};
    KS_TRY(ks_dataset_open(d, &paths, err));
    ks_split_input split = {(*d)->n, (*d)->y, (*d)->group, (*d)->n_groups,
                            (*d)->group_ids};
    KS_TRY(ks_split_folds(&split, FOLDS, 1, fold, err));
    ks_folds folds = {(*d)->n, FOLDS, FOLDS - 1, 1, fold};
    ks_grid_options o = {.nest = options(threads), .bootstrap = 200, .seed = 1};
    KS_TRY(
        ks_grid_run(grid, *d, (*d)->acts, f->acts, (*d)->row, &folds, &o, err));
done:
    return st;
}

Test(grid, finds_the_layer_that_tells) {
    static fixture f;
    static uint8_t fold[ROWS];
    ks_dataset *d = NULL;
    ks_grid g = {0}, h = {0};
    ks_err err = {0};
    fixture_make(&f);
    cr_assert(eq(int, run(&f, 1, &d, fold, &g, &err), KS_OK), "%s", err.text);
    const ks_series *mean = ks_grid_find(&g, KS_RESID, KS_MEAN);
    const ks_series *before = ks_grid_find(&g, KS_RESID, KS_BEFORE);
    cr_assert(mean && before && !ks_grid_find(&g, KS_MLP, KS_MEAN));
    cr_expect(eq(int, mean->n_cells, LAYERS + 1));
    for (int i = 0; i < FOLDS; i++)
        cr_expect(eq(int, mean->cells[mean->chosen[i]].layer, TELLING_LAYER));
    cr_expect(gt(dbl, mean->metrics[KS_BALANCED_ACCURACY].value, 0.95));
    cr_expect(eq(dbl, mean->metrics[KS_AUC].value,
                 mean->cells[TELLING_LAYER].metrics[KS_AUC].value));
    for (int l = 0; l < LAYERS + 1; l++)
        if (l != TELLING_LAYER)
            cr_expect(lt(dbl, mean->cells[l].metrics[KS_AUC].low, 0.55));
    cr_expect(lt(dbl, before->metrics[KS_BALANCED_ACCURACY].low, 0.5));
    cr_expect(gt(dbl, before->metrics[KS_BALANCED_ACCURACY].high, 0.5));
    cr_expect(eq(int, ks_series_usual(mean, FOLDS), TELLING_LAYER));
    ks_dataset_close(&d);
    cr_assert(eq(int, run(&f, 3, &d, fold, &h, &err), KS_OK), "%s", err.text);
    for (int l = 0; l < LAYERS + 1; l++)
        cr_expect(eq(int,
                     memcmp(mean->cells[l].score,
                            ks_grid_find(&h, KS_RESID, KS_MEAN)->cells[l].score,
                            (size_t)d->n * sizeof(float)),
                     0));
    ks_grid_free(&g);
    ks_grid_free(&h);
    ks_dataset_close(&d);
    fixture_free(&f);
}

Test(grid, names_chain_and_layer_of_a_bad_value) {
    static fixture f;
    static uint8_t fold[ROWS];
    ks_dataset *d = NULL;
    ks_grid g = {0};
    ks_err err = {0};
    fixture_make(&f);
    f.spoiled = 3 * STEPS + 2 + 1;
    cr_assert(eq(int, write_acts(&f, f.acts, 1u << KS_MEAN, &err), KS_OK));
    cr_expect(eq(int, run(&f, 2, &d, fold, &g, &err), KS_NUMERIC));
    cr_expect(strstr(err.text, "mean layer 1: 1 of") != NULL, "%s", err.text);
    cr_expect(strstr(err.text, "step 2 of chain p3/0") != NULL, "%s", err.text);
    cr_expect(g.series == NULL);
    ks_dataset_close(&d);
    fixture_free(&f);
}
