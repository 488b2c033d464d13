/* test_stats.c - metrics equal to scikit-learn's and scipy's; intervals
 * against what theory says and against a plain redraw. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <gsl/gsl_statistics_double.h>
#include <math.h>
#include <stdlib.h>

#include "philox.h"
#include "split.h"
#include "stats.h"

static json_t *golden(void) {
    json_error_t reason;
    json_t *all = json_load_file(KS_TEST_DATA "/probes/stats.json", 0, &reason);
    cr_assert(all != NULL, "%s", reason.text);
    return all;
}

static double number(json_t *object, const char *key) {
    json_t *value = json_object_get(object, key);
    bool there = json_is_number(value);
    cr_assert(there, "no number %s", key);
    return json_number_value(value);
}

enum { MOST = 512 };
struct rows {
    float score[MOST];
    int8_t y[MOST];
    int32_t chain[MOST];
    double x[MOST];
    ks_scored scored;
};

static struct rows *read_case(json_t *c) {
    struct rows *r = calloc(1, sizeof *r);
    size_t n = json_array_size(json_object_get(c, "y")), chains = 0;
    cr_assert(n <= MOST);
    for (size_t i = 0; i < n; i++) {
#define AT(key) json_array_get(json_object_get(c, key), i)
        r->score[i] = (float)json_number_value(AT("score"));
        r->y[i] = (int8_t)json_integer_value(AT("y"));
        r->chain[i] = (int32_t)json_integer_value(AT("chain"));
        r->x[i] = json_number_value(AT("x"));
#undef AT
        if ((size_t)r->chain[i] >= chains) chains = (size_t)r->chain[i] + 1;
    }
    r->scored =
        (ks_scored){(int64_t)n, r->score,        r->y,           r->chain,
                    r->chain,   (int32_t)chains, (int32_t)chains};
    return r;
}

Test(stats, metrics_equal_scikit_learn) {
    json_t *all = golden(), *c;
    size_t i;
    json_array_foreach(json_object_get(all, "cases"), i, c) {
        struct rows *r = read_case(c);
        double got[KS_N_METRICS];
        cr_assert(ks_stats_metrics(&r->scored, got, NULL) == KS_OK);
        for (int m = 0; m < KS_N_METRICS; m++) {
            double want = number(c, ks_metric_name((ks_metric)m));
            cr_assert(fabs(got[m] - want) <= 1e-12,
                      "case %zu %s: %.15g, "
                      "expected %.15g",
                      i, ks_metric_name((ks_metric)m), got[m], want);
        }
        double r_pb = ks_stats_correlation(r->x, r->y, r->scored.n);
        cr_assert(fabs(r_pb - number(c, "correlation")) <= 1e-12);
        free(r);
    }
    json_decref(all);
}

Test(stats, wilson_equals_scipy) {
    json_t *all = golden(), *c;
    size_t i;
    json_array_foreach(json_object_get(all, "wilson"), i, c) {
        ks_interval w =
            ks_stats_wilson((int64_t)number(c, "k"), (int64_t)number(c, "n"));
        cr_assert(fabs(w.low - number(c, "low")) <= 1e-9);
        cr_assert(fabs(w.high - number(c, "high")) <= 1e-9);
    }
    cr_assert(isnan(ks_stats_wilson(0, 0).value));
    json_decref(all);
}

/* A plain redraw: copies the drawn problems' rows one after another. */
static void redraw(const struct rows *r, uint64_t seed, uint64_t replicate,
                   double out[KS_N_METRICS]) {
    int32_t groups = r->scored.n_groups;
    float *score = malloc(sizeof *score * MOST * 64);
    int8_t *y = malloc(MOST * 64);
    int32_t *group = malloc(sizeof *group * MOST * 64), n = 0;
    for (int32_t i = 0; i < groups; i++) {
        uint32_t words[4];
        ks_philox((uint64_t[]){seed, replicate}, (uint64_t)i / 4, words);
        int32_t g =
            (int32_t)(((uint64_t)words[i % 4] * (uint64_t)groups) >> 32);
        for (int64_t k = 0; k < r->scored.n; k++)
            if (r->chain[k] == g) {
                cr_assert(n < MOST * 64);
                score[n] = r->score[k];
                y[n] = r->y[k];
                group[n++] = i;
            }
    }
    ks_scored drawn = {n, score, y, group, group, groups, groups};
    cr_assert(ks_stats_metrics(&drawn, out, NULL) == KS_OK);
    free(score);
    free(y);
    free(group);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

Test(stats, bootstrap_equals_a_plain_redraw) {
    enum { DRAWS = 200 };
    json_t *all = golden();
    struct rows *r =
        read_case(json_array_get(json_object_get(all, "cases"), 1));
    ks_interval got[KS_N_METRICS];
    cr_assert(ks_stats_bootstrap(&r->scored, DRAWS, 9, got, NULL) == KS_OK);
    double draws[KS_N_METRICS][DRAWS];
    for (int d = 0; d < DRAWS; d++) {
        double one[KS_N_METRICS];
        redraw(r, 9, (uint64_t)d, one);
        for (int m = 0; m < KS_N_METRICS; m++) draws[m][d] = one[m];
    }
    for (int m = 0; m < KS_N_METRICS; m++) {
        qsort(draws[m], DRAWS, sizeof(double), by_value);
        double low =
            gsl_stats_quantile_from_sorted_data(draws[m], 1, DRAWS, 0.025);
        double high =
            gsl_stats_quantile_from_sorted_data(draws[m], 1, DRAWS, 0.975);
        cr_assert(fabs(got[m].low - low) <= 1e-12, "%s: %g, redraw %g",
                  ks_metric_name((ks_metric)m), got[m].low, low);
        cr_assert(fabs(got[m].high - high) <= 1e-12);
        cr_assert(got[m].low < got[m].value && got[m].value < got[m].high);
    }
    free(r);
    json_decref(all);
}

Test(stats, balanced_accuracy_by_sums_is_the_bootstrap_s) {
    json_t *all = golden();
    struct rows *r =
        read_case(json_array_get(json_object_get(all, "cases"), 1));
    ks_interval slow[KS_N_METRICS], fast, apart;
    float *worse = malloc(sizeof *worse * MOST);
    cr_assert(ks_stats_bootstrap(&r->scored, 300, 3, slow, NULL) == KS_OK);
    cr_assert(ks_stats_balanced(&r->scored, r->score, 300, 3, &fast, &apart,
                                NULL) == KS_OK);
    const ks_interval *same = &slow[KS_BALANCED_ACCURACY];
    cr_assert(fabs(fast.value - same->value) <= 1e-12 &&
              fabs(fast.low - same->low) <= 1e-12 &&
              fabs(fast.high - same->high) <= 1e-12);
    cr_assert(apart.value == 0 && apart.low == 0 && apart.high == 0);
    for (int64_t i = 0; i < r->scored.n; i++) worse[i] = -r->score[i];
    cr_assert(ks_stats_balanced(&r->scored, worse, 500, 1, NULL, &apart,
                                NULL) == KS_OK);
    cr_assert(apart.low > 0, "%g", apart.low);
    worse[4] = NAN;
    cr_assert(ks_stats_balanced(&r->scored, worse, 500, 1, NULL, &apart,
                                NULL) == KS_NUMERIC);
    free(worse);
    free(r);
    json_decref(all);
}

Test(stats, one_class_has_no_auc_and_nan_scores_are_refused) {
    float score[3] = {1, -1, 2};
    int8_t y[3] = {1, 1, 1};
    int32_t g[3] = {0, 1, 2};
    ks_scored rows = {3, score, y, g, g, 3, 3};
    double got[KS_N_METRICS];
    cr_assert(ks_stats_metrics(&rows, got, NULL) == KS_OK);
    cr_assert(isnan(got[KS_AUC]) && isnan(got[KS_WITHIN_AUC]));
    cr_assert(isnan(got[KS_BALANCED_ACCURACY]));
    cr_assert(fabs(got[KS_ACCURACY] - 2.0 / 3) < 1e-15);
    score[1] = NAN;
    ks_err err = {0};
    cr_assert(eq(int, ks_stats_metrics(&rows, got, &err), KS_NUMERIC));
}

/* ------------------------------------------------------------------- splits */

enum { GROUPS = 53, ROWS = 400 };

static void make_rows(int8_t *y, int32_t *group) {
    for (int i = 0; i < ROWS; i++) {
        group[i] = (i * 7919) % GROUPS;
        y[i] = (i * 31 % 10) < 3;
    }
}

Test(split, folds_hold_whole_problems_and_even_classes) {
    int8_t y[ROWS];
    int32_t group[ROWS];
    uint8_t fold[ROWS];
    make_rows(y, group);
    ks_split_input in = {ROWS, y, group, GROUPS, NULL};
    cr_assert(ks_split_folds(&in, 5, 3, fold, NULL) == KS_OK);
    int of_group[GROUPS], n[5][2] = {{0}};
    for (int g = 0; g < GROUPS; g++) of_group[g] = -1;
    for (int i = 0; i < ROWS; i++) {
        cr_assert(fold[i] < 5);
        cr_assert(of_group[group[i]] == -1 || of_group[group[i]] == fold[i]);
        of_group[group[i]] = fold[i];
        n[fold[i]][y[i]]++;
    }
    for (int f = 0; f < 5; f++) {
        cr_assert(n[f][0] + n[f][1] >= 70 && n[f][0] + n[f][1] <= 90);
        cr_assert(n[f][1] >= 18 && n[f][1] <= 30, "fold %d: %d", f, n[f][1]);
    }
}

Test(split, depends_on_ids_and_seed_not_on_row_order) {
    int8_t y[ROWS], y2[ROWS];
    int32_t group[ROWS], group2[ROWS];
    uint8_t fold[ROWS], fold2[ROWS], other[ROWS];
    make_rows(y, group);
    ks_split_input in = {ROWS, y, group, GROUPS, NULL};
    cr_assert(ks_split_folds(&in, 5, 3, fold, NULL) == KS_OK);
    for (int i = 0; i < ROWS; i++) {
        y2[i] = y[ROWS - 1 - i];
        group2[i] = group[ROWS - 1 - i];
    }
    ks_split_input in2 = {ROWS, y2, group2, GROUPS, NULL};
    cr_assert(ks_split_folds(&in2, 5, 3, fold2, NULL) == KS_OK);
    for (int i = 0; i < ROWS; i++) cr_assert(fold[i] == fold2[ROWS - 1 - i]);
    cr_assert(ks_split_folds(&in, 5, 4, other, NULL) == KS_OK);
    int moved = 0;
    for (int i = 0; i < ROWS; i++) moved += fold[i] != other[i];
    cr_assert(moved > ROWS / 4, "%d moved", moved);
}

Test(split, refuses_what_cannot_be_split) {
    int8_t y[4] = {1, 1, 1, 1};
    int32_t group[4] = {0, 0, 1, 2};
    uint8_t fold[4];
    ks_err err = {0};
    ks_split_input in = {4, y, group, 3, NULL};
    cr_assert(eq(int, ks_split_folds(&in, 5, 1, fold, &err), KS_MISMATCH));
    cr_assert(eq(int, ks_split_folds(&in, 3, 1, fold, &err), KS_MISMATCH));
    y[0] = 0; /* one class in one problem: its fold's complement has none */
    cr_assert(eq(int, ks_split_folds(&in, 3, 1, fold, &err), KS_MISMATCH));
}

Test(split, shared_texts_are_counted) {
    const char *texts[5] = {"a", "b", "a", "c", "b"};
    uint8_t fold[5] = {0, 1, 1, 0, 1};
    cr_assert(eq(i64, ks_split_shared_texts(5, texts, fold, NULL), 2));
}
