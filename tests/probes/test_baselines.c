/* Baselines, words, the permuted control, strata: against numbers found by
 * hand or by counting. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

#include "fixture.h"
#include "table.h"
#include "evaluation.h"
#include "words.h"

/* -------------------------------------------------------------------- words */

static ks_err err;

Test(words, overlap_by_hand) {
    float out[3];
    const char *step = "So Ann has 3 + 4.5 = 7.5 apples, so Ann's";
    const char *question = "Has ann 4.5 pears? So 3";
    cr_assert(eq(int,
                 ks_words_overlap(step, strlen(step), question,
                                  strlen(question), out, &err),
                 KS_OK));
    /* so ann has | apples ann's; 3 4.5 | 7.5 */
    cr_expect(epsilon_eq(flt, out[0], 3.0f / 5, 1e-6f));
    cr_expect(epsilon_eq(flt, out[1], 2.0f / 3, 1e-6f));
    cr_expect(eq(flt, out[2], 1));
    cr_assert(eq(int, ks_words_overlap("...", 3, "?", 1, out, &err), KS_OK));
    cr_expect(eq(flt, out[0] + out[1] + out[2], 0));
    cr_expect(eq(i64, ks_words_count(" a  b+c\n", 8), 2));
}

/* Rows whose class is told by the order of two words alone. */
static ks_words *rows_by_order(int n, int8_t *y, uint8_t *fold) {
    ks_words *w = NULL;
    cr_assert(eq(int, ks_words_open(&w, &err), KS_OK));
    for (int i = 0; i < n; i++) {
        char text[64];
        y[i] = draw(8, (uint64_t)i) < 0.4f;
        fold[i] = (uint8_t)(i % 5);
        snprintf(text, sizeof text, y[i] ? "%d Red blue" : "%d blue RED",
                 i % 3);
        cr_assert(eq(int, ks_words_add(w, text, strlen(text), &err), KS_OK));
    }
    return w;
}

static double accuracy(const float *score, const int8_t *y, int n) {
    int right = 0;
    for (int i = 0; i < n; i++) right += (score[i] > 0) == y[i];
    return (double)right / n;
}

Test(words, n_grams_see_order_and_bags_do_not) {
    enum { N = 300 };
    static int8_t y[N];
    static uint8_t fold[N];
    static float score[N];
    double strength[5];
    ks_words *w = rows_by_order(N, y, fold);
    ks_folds folds = {N, 5, 4, 1, fold};
    cr_assert(
        eq(int,
           ks_words_fit(w, KS_WORDS_TFIDF, y, &folds, 2, score, strength, &err),
           KS_OK),
        "%s", err.text);
    cr_expect(eq(dbl, accuracy(score, y, N), 1));
    cr_assert(
        eq(int,
           ks_words_fit(w, KS_WORDS_BAG, y, &folds, 2, score, strength, &err),
           KS_OK),
        "%s", err.text);
    cr_expect(lt(dbl, accuracy(score, y, N), 0.75));
    ks_words_close(&w);
}

/* Scores when row 10, which is in fold 0, has another text. */
static void score_with(const char *text_of_10, float *score, int n) {
    static int8_t y[200];
    static uint8_t fold[200];
    double strength[5];
    ks_words *w = NULL;
    cr_assert(eq(int, ks_words_open(&w, &err), KS_OK));
    for (int i = 0; i < n; i++) {
        char text[64];
        y[i] = draw(9, (uint64_t)i) < 0.5f;
        fold[i] = (uint8_t)(i % 5);
        snprintf(text, sizeof text, "%s w%c w%c", y[i] ? "yes" : "no",
                 'a' + (int)(20 * draw(3, (uint64_t)i)),
                 'a' + (int)(20 * draw(4, (uint64_t)i)));
        if (i == 10) snprintf(text, sizeof text, "%s", text_of_10);
        cr_assert(eq(int, ks_words_add(w, text, strlen(text), &err), KS_OK));
    }
    ks_folds folds = {n, 5, 4, 1, fold};
    cr_assert(
        eq(int,
           ks_words_fit(w, KS_WORDS_TFIDF, y, &folds, 1, score, strength, &err),
           KS_OK),
        "%s", err.text);
    ks_words_close(&w);
}

/* A test row's text changes no weight and no idf of its fold's fit. */
Test(words, test_rows_decide_nothing) {
    enum { N = 200 };
    static float a[N], b[N];
    int changed = 0;
    score_with("wa wb", a, N);
    score_with("yes no wc wd we", b, N);
    for (int i = 0; i < N; i++) {
        if (i == 10) continue;
        if (i % 5 == 0)
            cr_assert(eq(flt, a[i], b[i]));
        else
            changed += a[i] != b[i];
    }
    cr_expect(gt(int, changed, N / 2));
}

/* ------------------------------------------------------------------ a
 * evaluation
 */

static fixture f;
static const double strengths[] = {1e-3, 1e-2, 1e-1, 1};
static ks_evaluation_options options;
static ks_evaluation evaluation;

static void setup(void) {
    fixture_make(&f);
    options = (ks_evaluation_options){.paths = {.acts = f.acts,
                                                .labels = f.labels,
                                                .chains = f.chains,
                                                .strata = "hops"},
                                      .grid = {.nest = {.n_strengths = 4,
                                                        .strengths = strengths,
                                                        .threads = 2},
                                               .bootstrap = 200,
                                               .seed = 1},
                                      .n_folds = 5,
                                      .n_inner = 4,
                                      .n_seeds = 1};
}

static void teardown(void) {
    ks_evaluation_free(&evaluation);
    fixture_free(&f);
}

TestSuite(evaluation, .init = setup, .fini = teardown);

static const ks_baseline *find(const char *name) {
    for (int32_t i = 0; i < evaluation.baselines.n; i++)
        if (strcmp(evaluation.baselines.at[i].name, name) == 0)
            return &evaluation.baselines.at[i];
    cr_fatal("no baseline %s", name);
    return NULL;
}

static double balanced(const char *name) {
    return find(name)->metrics[KS_BALANCED_ACCURACY].value;
}

Test(evaluation, baselines_know_what_they_should) {
    cr_assert(eq(int, ks_evaluate(&evaluation, &options, &err), KS_OK), "%s",
              err.text);
    cr_expect(eq(dbl, balanced("majority"), 0.5));
    cr_expect(gt(dbl, balanced("bag of words"), 0.99)); /* Alpha and beta */
    cr_expect(gt(dbl, balanced("TF-IDF 1-5 grams"), 0.99));
    const char *blind[] = {"random", "position", "relative position",
                           "position+length"};
    for (size_t i = 0; i < KS_COUNT(blind); i++) {
        ks_interval b = find(blind[i])->metrics[KS_BALANCED_ACCURACY];
        cr_expect(b.low < 0.5 && b.high > 0.5, "%s: %g to %g", blind[i], b.low,
                  b.high);
    }
}

Test(evaluation, chain_majority_by_counting) {
    cr_assert(eq(int, ks_evaluate(&evaluation, &options, &err), KS_OK), "%s",
              err.text);
    const ks_dataset *d = evaluation.dataset;
    const float *score = find("chain majority")->score;
    for (int64_t i = 0; i < d->n; i++) {
        int others = 0, important = 0;
        for (int64_t k = 0; k < d->n; k++)
            if (k != i && d->chain[k] == d->chain[i]) {
                others++;
                important += d->y[k];
            }
        cr_assert(epsilon_eq(flt, score[i],
                             (float)important / (float)others - 0.5f, 1e-6f));
    }
}

/* A fit that was stopped early is counted wherever it stands. */
Test(evaluation, unconverged_fits_are_said) {
    ks_str text = {0};
    options.grid.nest.max_passes = 1;
    options.n_rivals = 1;
    options.rival_names = (const char *const[]){"same"};
    options.rival_paths = (const char *const[]){f.acts};
    cr_assert(eq(int, ks_evaluate(&evaluation, &options, &err), KS_OK), "%s",
              err.text);
    cr_assert(evaluation.grid.unconverged > 0);
    cr_assert(evaluation.baselines.unconverged > 0);
    /* the rival is the same grid; the rest are baselines and control */
    cr_expect(evaluation.other_unconverged >
              evaluation.grid.unconverged + evaluation.baselines.unconverged);
    cr_expect(evaluation.other_unconverged <= evaluation.other_fits);
    cr_assert(eq(int, ks_table_write(&evaluation, true, &text, &err), KS_OK));
    cr_expect(strstr(text.data, " fits did not reach the tolerance") != NULL);
    cr_expect(strstr(text.data, "other probes and activations did") != NULL);
    ks_str_free(&text);
}

Test(evaluation, permuted_labels_find_nothing) {
    cr_assert(eq(int, ks_evaluate(&evaluation, &options, &err), KS_OK), "%s",
              err.text);
    for (int32_t k = 0; k < evaluation.grid.n_series; k++) {
        ks_interval b =
            evaluation.permuted[k * KS_N_METRICS + KS_BALANCED_ACCURACY];
        cr_expect(b.value > 0.42 && b.value < 0.58, "%g", b.value);
        cr_expect(b.low < 0.5 && b.high > 0.5, "%g to %g", b.low, b.high);
    }
}

/* Mean of recall in the stratum and recall of all removable steps. */
Test(evaluation, strata_by_counting) {
    cr_assert(eq(int, ks_evaluate(&evaluation, &options, &err), KS_OK), "%s",
              err.text);
    const ks_dataset *d = evaluation.dataset;
    for (int32_t k = 0; k < evaluation.grid.n_series; k++)
        for (int s = 0; s < 2; s++) {
            int64_t n[2] = {0, 0}, right[2] = {0, 0};
            for (int64_t i = 0; i < d->n; i++) {
                if (d->y[i] && f.hops[d->row[i]] != s + 1) continue;
                n[d->y[i]]++;
                right[d->y[i]] +=
                    (evaluation.grid.series[k].score[i] > 0) == d->y[i];
            }
            double want = ((double)right[0] / (double)n[0] +
                           (double)right[1] / (double)n[1]) /
                          2;
            cr_expect(
                epsilon_eq(dbl,
                           evaluation.strata[s]
                               .metrics[k * KS_N_METRICS + KS_BALANCED_ACCURACY]
                               .value,
                           want, 1e-12));
            cr_expect(eq(i64, evaluation.strata[s].n_important, n[1]));
            cr_expect(eq(i64, evaluation.strata[s].n_removable, n[0]));
        }
}

/* The gain over itself is 0; a file without a position has no gain there. */
Test(evaluation, rivals_are_paired) {
    const char *names[] = {"self"}, *paths[] = {f.other};
    cr_assert(eq(int, write_acts(&f, f.other, 1u << KS_MEAN, &err), KS_OK));
    options.n_rivals = 1;
    options.rival_names = names;
    options.rival_paths = paths;
    cr_assert(eq(int, ks_evaluate(&evaluation, &options, &err), KS_OK), "%s",
              err.text);
    cr_expect(eq(dbl, evaluation.rivals[0].gain[0].points.value, 0));
    cr_expect(eq(dbl, evaluation.rivals[0].gain[0].points.low, 0));
    cr_expect(isnan(evaluation.rivals[0].gain[1].points.value));
}
