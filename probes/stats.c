/* stats.c - see stats.h. Everything but the AUC is a sum over problems, so a
 * bootstrap draw weighs the problems' sums; the AUC walks rows sorted once. */
#include "stats.h"

#include <gsl/gsl_cdf.h>
#include <gsl/gsl_statistics_double.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "philox.h"

const char *ks_metric_name(ks_metric metric) {
    static const char *const names[] = {"accuracy", "balanced_accuracy", "auc",
                                        "within_chain_auc", "brier"};
    return (size_t)metric < KS_COUNT(names) ? names[metric] : "?";
}

/* Sums of one problem's rows. */
typedef struct sums {
    double n[2], right[2]; /* by class */
    double brier;
    double wins, pairs; /* within chains; a tie is half a win */
} sums;

/* A scoring made ready for drawing. */
typedef struct scoring {
    sums *problem;  /* [n_groups] */
    int64_t *order; /* [n] rows by ascending score */
    const ks_scored *rows;
    const float *score;
} scoring;

static void free_scoring(scoring *s) {
    free(s->problem);
    free(s->order);
    *s = (scoring){0};
}

/* ----------------------------------------------------------------- ordering */

static int compare_rows(const void *a, const void *b, void *user) {
    const float *score = user;
    int64_t i = *(const int64_t *)a, j = *(const int64_t *)b;
    if (score[i] != score[j]) return score[i] < score[j] ? -1 : 1;
    return (i > j) - (i < j);
}

void ks__stats_order(const float *score, int64_t n, int64_t *order) {
    for (int64_t i = 0; i < n; i++) order[i] = i;
    qsort_r(order, (size_t)n, sizeof *order, compare_rows,
            (void *)(uintptr_t)score);
}

/* Twice the weighted number of (important, removable) pairs won, and of
 * pairs, over rows in ascending order of score; weight NULL: 1 each. */
static void count_wins(const scoring *s, const int64_t *order, int64_t n,
                       const double *weight, double *wins, double *pairs) {
    double below = 0, positive = 0, won = 0;
    for (int64_t i = 0, end; i < n; i = end) {
        double here[2] = {0, 0};
        for (end = i; end < n && s->score[order[end]] == s->score[order[i]];
             end++) {
            int64_t row = order[end];
            here[s->rows->y[row] == 1] +=
                weight ? weight[s->rows->group[row]] : 1;
        }
        won += here[1] * (below + 0.5 * here[0]);
        below += here[0];
        positive += here[1];
    }
    *wins = won;
    *pairs = below * positive;
}

/* Rows of each chain in ascending score: a stable walk of the order. */
static ks_status add_chain_pairs(scoring *s, ks_err *err) {
    const ks_scored *r = s->rows;
    ks_status st = KS_OK;
    int64_t *begin = NULL, *of_chain = NULL;
    KS_TRY(ks_alloc(&begin, (size_t)r->n_chains + 2, sizeof *begin, "chains",
                    err));
    KS_TRY(ks_alloc(&of_chain, (size_t)r->n, sizeof *of_chain, "rows", err));
    for (int64_t i = 0; i < r->n; i++) begin[r->chain[i] + 2]++;
    for (int32_t c = 0; c < r->n_chains; c++) begin[c + 2] += begin[c + 1];
    for (int64_t i = 0; i < r->n; i++)
        of_chain[begin[r->chain[s->order[i]] + 1]++] = s->order[i];
    for (int32_t c = 0; c < r->n_chains; c++) {
        int64_t n = begin[c + 1] - begin[c];
        if (n == 0) continue;
        double wins, pairs;
        count_wins(s, of_chain + begin[c], n, NULL, &wins, &pairs);
        sums *p = &s->problem[r->group[of_chain[begin[c]]]];
        p->wins += wins;
        p->pairs += pairs;
    }
done:
    free(begin);
    free(of_chain);
    return st;
}

static ks_status make_scoring(scoring *s, const ks_scored *rows,
                              const float *score, ks_err *err) {
    ks_status st = KS_OK;
    *s = (scoring){.rows = rows, .score = score};
    KS_TRY(ks_alloc(&s->problem, (size_t)rows->n_groups, sizeof *s->problem,
                    "problems", err));
    KS_TRY(ks_alloc(&s->order, (size_t)rows->n, sizeof *s->order, "rows", err));
    for (int64_t i = 0; i < rows->n; i++) {
        KS_CHECK(isfinite(score[i]), KS_NUMERIC,
                 "the score of row %lld is not a finite number", (long long)i);
        int y = rows->y[i] == 1;
        sums *p = &s->problem[rows->group[i]];
        p->n[y]++;
        p->right[y] += (score[i] > 0) == y;
        double off = 1 / (1 + exp(-(double)score[i])) - y;
        p->brier += off * off;
    }
    ks__stats_order(score, rows->n, s->order);
    KS_TRY(add_chain_pairs(s, err));
done:
    if (st != KS_OK) free_scoring(s);
    return st;
}

/* ------------------------------------------------------------------ metrics */

/* weight: how often each problem was drawn; NULL: once. */
static void metrics_of(const scoring *s, const double *weight,
                       double out[KS_N_METRICS]) {
    sums all = {{0}, {0}, 0, 0, 0};
    for (int32_t g = 0; g < s->rows->n_groups; g++) {
        const sums *p = &s->problem[g];
        double w = weight ? weight[g] : 1;
        for (int c = 0; c < 2; c++) {
            all.n[c] += w * p->n[c];
            all.right[c] += w * p->right[c];
        }
        all.brier += w * p->brier;
        all.wins += w * p->wins;
        all.pairs += w * p->pairs;
    }
    double n = all.n[0] + all.n[1], wins, pairs;
    count_wins(s, s->order, s->rows->n, weight, &wins, &pairs);
    /* 0 / 0 is NaN: not defined */
    out[KS_ACCURACY] = (all.right[0] + all.right[1]) / n;
    out[KS_BALANCED_ACCURACY] =
        0.5 * (all.right[0] / all.n[0] + all.right[1] / all.n[1]);
    out[KS_AUC] = wins / pairs;
    out[KS_WITHIN_AUC] = all.wins / all.pairs;
    out[KS_BRIER] = all.brier / n;
}

ks_status ks_stats_metrics(const ks_scored *rows, double out[KS_N_METRICS],
                           ks_err *err) {
    scoring s;
    ks_status st = make_scoring(&s, rows, rows->score, err);
    if (st != KS_OK) return st;
    metrics_of(&s, NULL, out);
    free_scoring(&s);
    return KS_OK;
}

/* ---------------------------------------------------------------- bootstrap */

/* Multiply and shift: no index is favoured by more than n_groups / 2^32. */
void ks__stats_draw(uint64_t seed, uint64_t replicate, int32_t n_groups,
                    double *weight) {
    const uint64_t key[2] = {seed, replicate};
    memset(weight, 0, sizeof *weight * (size_t)n_groups);
    for (int32_t i = 0; i < n_groups; i += 4) {
        uint32_t words[4];
        ks_philox(key, (uint64_t)i / 4, words);
        for (int k = 0; k < 4 && i + k < n_groups; k++)
            weight[((uint64_t)words[k] * (uint64_t)n_groups) >> 32]++;
    }
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

ks_interval ks__stats_interval(double value, double *draws, int32_t n) {
    int32_t kept = 0;
    for (int32_t i = 0; i < n; i++)
        if (!isnan(draws[i])) draws[kept++] = draws[i];
    if (kept < 2) return (ks_interval){value, NAN, NAN};
    qsort(draws, (size_t)kept, sizeof *draws, by_value);
    return (ks_interval){
        value,
        gsl_stats_quantile_from_sorted_data(draws, 1, (size_t)kept, 0.025),
        gsl_stats_quantile_from_sorted_data(draws, 1, (size_t)kept, 0.975)};
}

static ks_status bootstrap(const scoring *a, int32_t replicates, uint64_t seed,
                           ks_interval out[KS_N_METRICS], ks_err *err) {
    ks_status st = KS_OK;
    int32_t n_groups = a->rows->n_groups;
    double *draws = NULL, value[KS_N_METRICS];
    bool failed = false;
    KS_TRY(ks_alloc(&draws, (size_t)replicates * KS_N_METRICS, sizeof *draws,
                    "bootstrap draws", err));
    metrics_of(a, NULL, value);
#pragma omp parallel
    {
        double *weight = malloc(sizeof *weight * (size_t)n_groups);
        if (!weight) {
#pragma omp atomic write
            failed = true;
        }
#pragma omp for schedule(static)
        for (int32_t r = 0; r < replicates; r++) {
            double one[KS_N_METRICS];
            if (!weight || ks_interrupted) continue;
            ks__stats_draw(seed, (uint64_t)r, n_groups, weight);
            metrics_of(a, weight, one);
            for (int m = 0; m < KS_N_METRICS; m++)
                draws[(size_t)m * (size_t)replicates + (size_t)r] = one[m];
        }
        free(weight);
    }
    KS_CHECK(!failed, KS_NOMEM, "out of memory for bootstrap weights");
    KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
    for (int m = 0; m < KS_N_METRICS; m++)
        out[m] = ks__stats_interval(
            value[m], draws + (size_t)m * (size_t)replicates, replicates);
done:
    free(draws);
    return st;
}

ks_status ks_stats_bootstrap(const ks_scored *rows, int32_t replicates,
                             uint64_t seed, ks_interval out[KS_N_METRICS],
                             ks_err *err) {
    scoring s;
    ks_status st = make_scoring(&s, rows, rows->score, err);
    if (st != KS_OK) return st;
    st = bootstrap(&s, replicates, seed, out, err);
    free_scoring(&s);
    return st;
}

/* ------------------------------------------------------- figures of sums */

static void total_of(const double *of_group, int32_t n_groups, int32_t n_sums,
                     const double *weight, double *total) {
    memset(total, 0, sizeof *total * (size_t)n_sums);
    for (int32_t g = 0; g < n_groups; g++) {
        double w = weight ? weight[g] : 1;
        if (w == 0) continue;
        const double *s = of_group + (size_t)g * (size_t)n_sums;
        for (int32_t k = 0; k < n_sums; k++) total[k] += w * s[k];
    }
}

ks_status ks_stats_of_sums(const double *of_group, int32_t n_groups,
                           int32_t n_sums, ks_stats_fn of, const void *user,
                           int32_t n_out, int32_t replicates, uint64_t seed,
                           ks_interval *out, ks_err *err) {
    ks_status st = KS_OK;
    size_t scratch = (size_t)n_groups + (size_t)n_sums + (size_t)n_out;
    double *draws = NULL, *own = NULL;
    bool failed = false;
    KS_TRY(ks_alloc(&draws, (size_t)replicates * (size_t)n_out, sizeof *draws,
                    "bootstrap draws", err));
    KS_TRY(ks_alloc(&own, scratch, sizeof *own, "bootstrap sums", err));
#pragma omp parallel
    {
        double *mine = malloc(sizeof *mine * scratch);
        if (!mine) {
#pragma omp atomic write
            failed = true;
        }
#pragma omp for schedule(static)
        for (int32_t r = 0; r < replicates; r++) {
            if (!mine || ks_interrupted) continue;
            double *total = mine + n_groups, *one = total + n_sums;
            ks__stats_draw(seed, (uint64_t)r, n_groups, mine);
            total_of(of_group, n_groups, n_sums, mine, total);
            of(total, user, one);
            for (int32_t m = 0; m < n_out; m++)
                draws[(size_t)m * (size_t)replicates + (size_t)r] = one[m];
        }
        free(mine);
    }
    KS_CHECK(!failed, KS_NOMEM, "out of memory for bootstrap sums");
    KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
    total_of(of_group, n_groups, n_sums, NULL, own);
    of(own, user, own + n_sums);
    for (int32_t m = 0; m < n_out; m++)
        out[m] = ks__stats_interval(own[n_sums + m],
                                    draws + (size_t)m * (size_t)replicates,
                                    replicates);
done:
    free(draws);
    free(own);
    return st;
}

/* total: rows by class, right ones by class of a, and of b. */
static void balanced(const double *t, const void *user, double *out) {
    (void)user;
    double b = 0.5 * (t[4] / t[0] + t[5] / t[1]);
    out[0] = 0.5 * (t[2] / t[0] + t[3] / t[1]);
    out[1] = out[0] - b;
}

ks_status ks_stats_balanced(const ks_scored *a, const float *b_score,
                            int32_t replicates, uint64_t seed,
                            ks_interval *of_a, ks_interval *difference,
                            ks_err *err) {
    ks_status st = KS_OK;
    enum { SUMS = 6 };
    double *of_group = NULL;
    ks_interval got[2];
    KS_TRY(ks_alloc(&of_group, (size_t)a->n_groups * SUMS, sizeof *of_group,
                    "problems", err));
    for (int64_t i = 0; i < a->n; i++) {
        int y = a->y[i] == 1;
        double *t = of_group + (size_t)a->group[i] * SUMS;
        KS_CHECK(isfinite(a->score[i]) && (!b_score || isfinite(b_score[i])),
                 KS_NUMERIC, "the score of row %lld is not a finite number",
                 (long long)i);
        t[y]++;
        t[2 + y] += (a->score[i] > 0) == y;
        t[4 + y] += b_score && (b_score[i] > 0) == y;
    }
    KS_TRY(ks_stats_of_sums(of_group, a->n_groups, SUMS, balanced, NULL, 2,
                            replicates, seed, got, err));
    if (of_a) *of_a = got[0];
    if (difference) *difference = got[1];
done:
    free(of_group);
    return st;
}

/* -------------------------------------------------------------------- rates */

/* Wilson, E. B. (1927), JASA 22: the score test inverted. */
ks_interval ks_stats_wilson(int64_t k, int64_t n) {
    if (n <= 0) return (ks_interval){NAN, NAN, NAN};
    double z = gsl_cdf_ugaussian_Pinv(0.975), m = (double)n;
    double p = (double)k / m;
    double centre = (p + z * z / (2 * m)) / (1 + z * z / m);
    double half =
        z / (1 + z * z / m) * sqrt(p * (1 - p) / m + z * z / (4 * m * m));
    return (ks_interval){p, centre - half, centre + half};
}

double ks_stats_correlation(const double *x, const int8_t *y, int64_t n) {
    double sx = 0, sy = 0;
    for (int64_t i = 0; i < n; i++) {
        sx += x[i];
        sy += y[i] == 1;
    }
    double mx = sx / (double)n, my = sy / (double)n, xx = 0, yy = 0, xy = 0;
    for (int64_t i = 0; i < n; i++) {
        double dx = x[i] - mx, dy = (y[i] == 1) - my;
        xx += dx * dx;
        yy += dy * dy;
        xy += dx * dy;
    }
    return xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : NAN;
}
