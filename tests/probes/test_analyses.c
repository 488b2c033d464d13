/* test_analyses.c - the analyses on planted truths: one layer that tells, two
 * that know half each, texts that come again, labels that are texts. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

#include "evaluation.h"
#include "fixture.h"

static fixture f;
static ks_err err;
static const double strengths[] = {1e-3, 1e-2, 1e-1, 1};
static ks_evaluation_options options;
static ks_evaluation evaluation;

static void setup(void) {
    fixture_make(&f);
    options = (ks_evaluation_options){
        .paths = {.acts = f.acts, .labels = f.labels, .chains = f.chains},
        .grid = {.nest = {.n_strengths = 4,
                          .strengths = strengths,
                          .threads = 2},
                 .bootstrap = 200,
                 .seed = 1},
        .analyses = (1u << KS_N_ANALYSES) - 1,
        .no_text = true,
        .n_folds = 5,
        .n_inner = 4,
        .n_seeds = 1};
}

static void teardown(void) {
    ks_evaluation_free(&evaluation);
    fixture_free(&f);
}

TestSuite(analyses, .init = setup, .fini = teardown);

static const ks_series *run(void) {
    cr_assert(eq(int, ks_evaluate(&evaluation, &options, &err), KS_OK), "%s",
              err.text);
    const ks_series *mean = &evaluation.grid.series[0];
    cr_assert(eq(int, mean->position, KS_MEAN));
    cr_assert(eq(int, mean->n_cells, LAYERS + 1));
    return mean;
}

static bool about(double got, double want, double tolerance) {
    return fabs(got - want) <= tolerance; /* false for NaN */
}

/* --------------------------------------------------------------- refinement */

Test(analyses, layers_agree_with_the_last_by_counting) {
    const ks_series *s = run();
    const ks_refinement *got = &evaluation.analyses.refinement[0];
    const ks_dataset *d = evaluation.dataset;
    const float *last = s->cells[LAYERS].score;
    for (int l = 0; l <= LAYERS; l++) {
        const float *score = s->cells[l].score;
        double same = 0, a = 0, b = 0, aa = 0, bb = 0, ab = 0, n = (double)d->n;
        for (int64_t i = 0; i < d->n; i++) {
            double x = (double)score[i], y = (double)last[i];
            same += (x > 0) == (y > 0);
            a += x, b += y, aa += x * x, bb += y * y, ab += x * y;
        }
        double r = (ab - a * b / n) / sqrt((aa - a * a / n) * (bb - b * b / n));
        cr_expect(about(got->agreement[l].value, same / n, 1e-12));
        cr_expect(about(got->correlation[l].value, r, 1e-9));
        cr_expect(got->agreement[l].low <= same / n &&
                  same / n <= got->agreement[l].high);
    }
    cr_expect(eq(dbl, got->agreement[LAYERS].low, 1));
    /* layers 1, 2, 3: chance, all, chance; alone within 3 points of itself */
    cr_expect(about(got->near_best.value, 1.0 / 3, 1e-12));
    cr_expect(lt(dbl, fabs(got->trend.value), 0.51));
}

/* Twenty layers that know equally much and err apart from each other: the
 * largest of their figures is so by chance, and most are far below it. */
Test(analyses, layers_that_err_alike_are_near_the_best) {
    enum { N = 300, CELLS = 20 };
    static float score[CELLS][N], chosen[N];
    static int8_t y[N];
    static int32_t group[N];
    ks_cell cells[CELLS] = {{0}};
    double right[CELLS] = {0}, most = 0, of_chosen = 0, far = 0, near = 0;
    for (int i = 0; i < N; i++) {
        y[i] = i % 2;
        group[i] = i / 5;
        for (int c = 0; c < CELLS; c++) {
            bool hit = draw(70, (uint64_t)c * N + (uint64_t)i) < 0.7f;
            score[c][i] = (y[i] == 1) == hit ? 1 : -1;
            right[c] += hit / (double)N;
        }
        chosen[i] = score[group[i] % 3][i]; /* by fold, as it were */
        of_chosen += ((chosen[i] > 0) == y[i]) / (double)N;
    }
    for (int c = 0; c < CELLS; c++) {
        cells[c] = (ks_cell){.layer = c + 1, .score = score[c]};
        most = KS_MAX(most, right[c]);
    }
    for (int c = 0; c < CELLS; c++) {
        far += right[c] < most - 0.03;
        near += right[c] >= of_chosen - 0.03;
    }
    cr_assert(gt(dbl, far, CELLS / 2.0));
    ks_dataset d = {.n = N,
                    .y = y,
                    .group = group,
                    .chain = group,
                    .n_groups = N / 5,
                    .n_chains = N / 5};
    ks_series series = {.n_cells = CELLS, .cells = cells, .score = chosen};
    ks_grid_options o = {.bootstrap = 200, .seed = 1};
    ks_analysis_input in = {&d, NULL, NULL, &o};
    ks_refinement got = {0};
    cr_assert(eq(int, ks_refine(&got, &in, &series, &err), KS_OK), "%s",
              err.text);
    cr_expect(about(got.near_best.value, near / CELLS, 1e-12));
    cr_expect(gt(dbl, got.near_best.high, 0.5));
    free(got.agreement);
    free(got.correlation);
}

/* Four layers right in 3, 1, 4 and 2 of five rows of each class, in every
 * problem alike: a rank correlation of exactly 0 in every draw, which must not
 * come out as one above 0. */
Test(analyses, no_trend_is_no_trend) {
    enum { N = 200, OF = 10, CELLS = 4 };
    static const int right[] = {3, 1, 4, 2};
    static float score[CELLS][N];
    static int8_t y[N];
    static int32_t group[N];
    ks_cell cells[CELLS] = {{0}};
    for (int i = 0; i < N; i++) {
        y[i] = i % 2;
        group[i] = i / OF;
        for (int c = 0; c < CELLS; c++)
            score[c][i] = (y[i] == 1) == (i % OF / 2 < right[c]) ? 1 : -1;
    }
    for (int c = 0; c < CELLS; c++)
        cells[c] = (ks_cell){.layer = c + 1, .score = score[c]};
    ks_dataset d = {.n = N,
                    .y = y,
                    .group = group,
                    .chain = group,
                    .n_groups = N / OF,
                    .n_chains = N / OF};
    ks_series series = {.n_cells = CELLS, .cells = cells, .score = score[2]};
    ks_grid_options o = {.bootstrap = 50, .seed = 1};
    ks_analysis_input in = {&d, NULL, NULL, &o};
    ks_refinement got = {0};
    cr_assert(eq(int, ks_refine(&got, &in, &series, &err), KS_OK), "%s",
              err.text);
    cr_expect(eq(dbl, got.trend.value, 0), "%g", got.trend.value);
    cr_expect(eq(dbl, got.trend.low, 0), "%g", got.trend.low);
    cr_expect(eq(dbl, got.trend.high, 0), "%g", got.trend.high);
    free(got.agreement);
    free(got.correlation);
}

/* ------------------------------------------------------------ layer transfer
 */

Test(analyses, a_probe_on_its_own_layer_is_itself) {
    const ks_series *s = run();
    const double *at = evaluation.analyses.layer_transfer[0].accuracy;
    for (int l = 0; l <= LAYERS; l++)
        cr_expect(about(at[l * (LAYERS + 1) + l],
                        s->cells[l].metrics[KS_BALANCED_ACCURACY].value, 1e-9),
                  "layer %d", l);
    /* layers share no directions but the planted one, which one layer has */
    for (int l = 0; l <= LAYERS; l++)
        if (l != TELLING_LAYER)
            cr_expect(about(at[TELLING_LAYER * (LAYERS + 1) + l], 0.5, 0.1));
}

/* -------------------------------------------------------------- layers needed
 */

Test(analyses, one_layer_is_enough_where_one_tells) {
    const ks_series *s = run();
    const ks_layers_needed *got = &evaluation.analyses.layers_needed[0];
    cr_assert(eq(int, got->n_sizes, LAYERS + 1));
    for (int fit = 0; fit < 5; fit++) {
        int32_t first = got->chosen[fit * KS_MOST_NEEDED];
        cr_expect(eq(int, s->cells[first].layer, TELLING_LAYER));
        cr_expect(eq(int, got->chosen[fit * KS_MOST_NEEDED + 1], -1));
    }
    cr_expect(about(got->accuracy[0].value,
                    s->metrics[KS_BALANCED_ACCURACY].value, 0.01));
    cr_expect(eq(dbl, got->minus_all[LAYERS].value, 0));
}

/* By hand-made margins: two layers know half each. scikit-learn's scores. */
Test(analyses, layers_together_as_scikit_learn) {
    enum { N = 90, CELLS = 3, FOLDS = 3 };
    static float inner[CELLS][FOLDS * N];
    static int8_t y[N];
    static int32_t group[N];
    static uint8_t fold[N];
    ks_cell cells[CELLS] = {{0}};
    ks_layers_needed got = {0};
    json_t *all = json_load_file(KS_TEST_DATA "/probes/layers.json", 0, NULL);
    cr_assert(all != NULL);
    for (size_t i = 0; i < N; i++) {
#define AT(key) json_array_get(json_object_get(all, key), i)
        y[i] = (int8_t)json_integer_value(AT("y"));
        fold[i] = (uint8_t)json_integer_value(AT("fold"));
        group[i] = (int32_t)i;
        for (size_t c = 0; c < CELLS; c++)
            for (size_t k = 0; k < FOLDS; k++)
                inner[c][k * N + i] = (float)json_number_value(json_array_get(
                    json_array_get(
                        json_array_get(json_object_get(all, "inner"), c), k),
                    i));
    }
    for (int c = 0; c < CELLS; c++)
        cells[c] =
            (ks_cell){.layer = c, .nest = {.n_fits = FOLDS, .inner = inner[c]}};
    ks_dataset d = {.n = N,
                    .y = y,
                    .group = group,
                    .chain = group,
                    .n_groups = N,
                    .n_chains = N};
    ks_series series = {.n_cells = CELLS, .cells = cells};
    ks_folds folds = {N, FOLDS, 2, 1, fold};
    ks_grid_options o = {.bootstrap = 100, .seed = 1, .nest.threads = 1};
    ks_analysis_input in = {&d, NULL, &folds, &o};
    cr_assert(eq(int, ks_layers_needed_run(&got, &in, &series, &err), KS_OK),
              "%s", err.text);
    for (size_t i = 0; i < N; i++) {
        double want = json_number_value(AT("score"));
        cr_assert(about((double)got.score[i], want, 1e-4 * (1 + fabs(want))),
                  "row %zu: %g, scikit-learn has %g", i, (double)got.score[i],
                  want);
    }
    cr_assert(eq(int, got.n_sizes, 3));
    for (int k = 0; k < FOLDS; k++) {
        const int32_t *two = got.chosen + (FOLDS + k) * KS_MOST_NEEDED;
        cr_expect(two[0] != 2 && two[1] != 2 && two[2] == -1);
    }
    cr_expect(gt(dbl, got.accuracy[1].value, got.accuracy[0].value + 0.03));
    json_decref(all);
    free(got.chosen);
    free(got.score);
}

/* ---------------------------------------------------------------- selectivity
 */

Test(analyses, random_labels_of_texts_are_not_learned) {
    run();
    const ks_selectivity *got = &evaluation.analyses.selectivity[0];
    cr_expect(eq(int, got->layer, TELLING_LAYER));
    cr_expect(gt(dbl, got->real.value, 0.95));
    cr_expect(lt(dbl, got->control.low, 0.55));
    cr_expect(gt(dbl, got->control.high, 0.45));
    cr_expect(about(got->selectivity.value,
                    got->real.value - got->control.value, 1e-12));
    cr_expect(gt(dbl, got->selectivity.low, 0.3));
}

/* Ten texts over and over, in activations that hold which: both tasks can be
 * learned by heart. */
Test(analyses, texts_known_by_heart_are_not_selective) {
    float x[ROWS * WIDTH];
    ks_acts *acts = NULL;
    ks_acts_options force = {.force = true};
    int64_t at;
    for (int row = 0; row < ROWS; row++) {
        int text = (int)(draw(20, (uint64_t)row) * WIDTH);
        char step[64];
        snprintf(step, sizeof step, "Text number %d, same.", text);
        memcpy(f.text[row / STEPS] + 20 * (row % STEPS), step, 20);
        f.y[row] = text % 2;
        f.steps[row].valid = 1;
        for (int j = 0; j < WIDTH; j++)
            x[row * WIDTH + j] =
                (j == text) + 0.1f * noise(21, (uint64_t)(row * WIDTH + j));
    }
    for (int c = 0; c < CHAINS; c++)
        ks_sha256_of(f.text[c], strlen(f.text[c]), f.rows[c].text_sha256);
    write_labels(&f, f.labels);
    write_chains(&f, f.chains);
    ks_acts_spec spec = {.streams = 1u << KS_MLP,
                         .positions = 1u << KS_MEAN,
                         .n_layers = 1,
                         .d = WIDTH,
                         .dtype = KS_F32,
                         .n_steps = ROWS,
                         .n_chains = CHAINS,
                         .steps = f.steps,
                         .chains = f.rows,
                         .random_weights = -1,
                         .model_name = "tiny",
                         .model_sha256 = "ab12",
                         .tokenizer_hash = "cd34",
                         .isa = "avx2",
                         .backend = "cpu",
                         .config = "{}"};
    cr_assert(
        eq(int, ks_acts_create(&acts, f.acts, &spec, &force, &at, &err), KS_OK),
        "%s", err.text);
    cr_assert(eq(int, ks_acts_write(acts, KS_MLP, KS_MEAN, 0, 0, ROWS, x, &err),
                 KS_OK));
    cr_assert(eq(int, ks_acts_commit(acts, 0, ROWS, &err), KS_OK));
    cr_assert(eq(int, ks_acts_finish(&acts, &err), KS_OK));
    cr_assert(eq(int, ks_evaluate(&evaluation, &options, &err), KS_OK), "%s",
              err.text);
    const ks_selectivity *got = &evaluation.analyses.selectivity[0];
    cr_expect(gt(dbl, got->real.value, 0.99));
    /* six random labels are of one kind once in 32: then it is NaN */
    cr_expect(gt(dbl, got->control.value, 0.99));
}

/* ------------------------------------------------------------- learning curve
 */

Test(analyses, more_problems_are_better_and_all_are_the_grid_s) {
    const ks_series *s = run();
    const ks_learning_curve *got = &evaluation.analyses.learning_curve[0];
    cr_assert(ge(int, got->n_points, 2));
    int last = got->n_points - 1;
    cr_expect(about(got->problems[last], PROBLEMS * 0.8, 1e-9));
    cr_expect(about(got->problems[last - 1], PROBLEMS * 0.4, 1e-9));
    cr_expect(about(got->accuracy[last].value,
                    s->cells[TELLING_LAYER].metrics[KS_BALANCED_ACCURACY].value,
                    1e-12));
    cr_expect(
        ge(dbl, got->accuracy[last].value + 0.01, got->accuracy[0].value));
    for (int k = 0; k <= last; k++)
        cr_expect(gt(dbl, got->accuracy[k].value, 0.8));
}

/* Labels that nothing tells: outer folds choose different layers. Whatever is
 * said about the best layer is said of each fold's own choice, which never saw
 * the fold; a layer that all folds share would have been chosen by them all. */
Test(analyses, layers_are_chosen_without_the_test_rows) {
    for (int row = 0; row < ROWS; row++)
        if (f.y[row] >= 0) f.y[row] = draw(35, (uint64_t)row) < 0.5f;
    write_labels(&f, f.labels);
    const ks_series *s = run();
    const ks_learning_curve *curve = &evaluation.analyses.learning_curve[0];
    const ks_removed_layer *removed = evaluation.independence.removed[0].at;
    double best = s->metrics[KS_BALANCED_ACCURACY].value;
    bool differ = false;
    for (int fit = 1; fit < 5; fit++) differ |= s->chosen[fit] != s->chosen[0];
    cr_assert(differ, "all folds chose one layer: nothing is tested");
    cr_expect(eq(dbl, evaluation.analyses.selectivity[0].real.value, best));
    cr_expect(about(curve->accuracy[curve->n_points - 1].value, best, 1e-12));
    cr_expect(about(removed->minus.value,
                    removed->metrics[KS_BALANCED_ACCURACY].value - best,
                    1e-12));
}

/* ---------------------------------------------------------------------- claims
 */

static const ks_claim *claim(const char *id) {
    for (int32_t i = 0; i < evaluation.claims.n; i++)
        if (strcmp(evaluation.claims.at[i].id, id) == 0)
            return &evaluation.claims.at[i];
    return NULL;
}

Test(claims, verdicts_follow_the_rule) {
    ks_interval up = {0.2, 0.1, 0.3}, down = {-0.2, -0.3, -0.1},
                wide = {0.1, -0.1, 0.3}, none = {NAN, NAN, NAN};
    cr_expect(eq(int, ks_verdict_of(up, NAN, 0, 0), KS_YES));
    cr_expect(eq(int, ks_verdict_of(up, 0.04, 0, 0), KS_YES));
    cr_expect(eq(int, ks_verdict_of(up, 0.06, 0, 0), KS_UNDECIDED));
    cr_expect(eq(int, ks_verdict_of(down, 0.06, 0, 0), KS_NO));
    cr_expect(eq(int, ks_verdict_of(wide, NAN, 0, 0), KS_UNDECIDED));
    cr_expect(eq(int, ks_verdict_of(wide, NAN, 0, 0.35), KS_NO));
    cr_expect(eq(int, ks_verdict_of(none, NAN, 0, 0), KS_UNDECIDED));
}

/* Whatever leaves the least difference decides, but for what knows the chain's
 * length before the chain has one. */
Test(analyses, text_that_is_not_there_yet_decides_nothing) {
    static const struct {
        const char *name;
        bool decides;
    } readers[] = {{"surface as published", false},
                   {"relative position", false},
                   {"surface", true},
                   {"TF-IDF prefix", true}};
    options.no_text = false;
    run();
    cr_expect(strstr(claim("text")->rule, "when the step is written") != NULL,
              "%s", claim("text")->rule);
    for (size_t k = 0; k < KS_COUNT(readers); k++) {
        int32_t b = 0;
        while (strcmp(evaluation.baselines.at[b].name, readers[k].name) != 0)
            cr_assert(lt(int, ++b, evaluation.baselines.n));
        ks_gain *gain = ks__evaluation_gain(&evaluation, b, 0), was = *gain;
        gain->points = (ks_interval){-0.9, -0.95, -0.85};
        ks_claims_of(&evaluation.claims, &evaluation);
        bool decided = claim("text")->figure.value < -0.89;
        cr_expect(decided == readers[k].decides, "%s: %s", readers[k].name,
                  claim("text")->what);
        *gain = was;
    }
}

Test(analyses, claims_are_what_was_planted) {
    options.no_text = false;
    run();
    cr_expect(eq(int, claim("readable")->verdict, KS_YES));
    cr_expect(ne(int, claim("before")->verdict, KS_YES));
    cr_expect(claim("first") == NULL); /* not captured */
    cr_expect(eq(int, claim("one-layer")->verdict, KS_YES));
    cr_expect(eq(int, claim("spread")->verdict, KS_NO));
    cr_expect(ne(int, claim("refined")->verdict, KS_YES));
    cr_expect(eq(int, claim("selective")->verdict, KS_YES));
    /* the words tell as much as the activations */
    cr_expect(ne(int, claim("text")->verdict, KS_YES));
    cr_expect(eq(int, claim("surface")->verdict, KS_YES));
    cr_expect(claim("weights") == NULL);
}

/* Without chains place and length are all of the surface that is known, and
 * more than they are is not yet more than the surface. */
Test(analyses, without_chains_the_surface_is_not_asked_for) {
    options.paths.chains = NULL;
    run();
    cr_expect(claim("surface") == NULL);
    cr_assert(claim("place") != NULL);
    cr_expect(eq(int, claim("place")->verdict, KS_YES));
    cr_expect(strstr(claim("place")->question, "its place and length") != NULL);
}
