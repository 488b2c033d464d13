/* test_search.c - selection and ranking against definitions in exact integers,
 * greedy removal against a plain list and against exhaustive subsets. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "philox.h"
#include "search.h"

enum { MOST = 40 };

/* Numbers for the tests' own draws. */
static uint32_t draw(uint64_t *counter, uint32_t n) {
    static const uint64_t key[2] = {20260712, 5};
    uint32_t words[4];
    ks_philox(key, (*counter)++, words);
    return (uint32_t)(((uint64_t)words[0] * n) >> 32);
}

/* ---------------------------------------------------------------- selection */

typedef struct whole {
    int32_t n;
    int64_t at[MOST * MOST]; /* exact */
    double real[MOST * MOST];
    ks_influence matrix;
} whole;

/* Small values tie often; rows of zeros; NaN where nothing may look. */
static void fill(whole *w, uint64_t *counter) {
    w->n = 2 + (int32_t)draw(counter, MOST - 2);
    uint32_t most = draw(counter, 2) ? 4 : 1000;
    for (int32_t k = 0; k < w->n; k++) {
        bool zero = draw(counter, 6) == 0;
        for (int32_t j = 0; j < w->n; j++) {
            int64_t v = zero ? 0 : draw(counter, most);
            w->at[k * w->n + j] = v;
            w->real[k * w->n + j] = j < k ? (double)v : NAN;
        }
    }
    w->matrix = (ks_influence){w->real, w->n};
}

/* Which sources of row k a threshold of a / b takes: the largest value v such
 * that all of v and above make up the share; nobody asks for an order. */
static void taken(const whole *w, int32_t k, int64_t a, int64_t b, bool *take) {
    const int64_t *row = w->at + k * w->n;
    int64_t total = 0, least = 0;
    for (int32_t j = 0; j < k; j++) total += row[j];
    for (int32_t i = 0; i < k; i++) {
        int64_t above = 0;
        for (int32_t j = 0; j < k; j++) above += row[j] >= row[i] ? row[j] : 0;
        if (above * b >= a * total && row[i] > least) least = row[i];
    }
    for (int32_t j = 0; j < k; j++) take[j] = least > 0 && row[j] >= least;
}

/* The closure of {suffix, last step} under `taken`. */
static void expect_set(const whole *w, int64_t a, int64_t b,
                       const ks_select *how, bool *keep) {
    bool take[MOST] = {false}, done[MOST] = {false}, more = true;
    memset(keep, 0, sizeof *keep * (size_t)w->n);
    keep[w->n - 1] = true;
    if (how->last_step) keep[w->n - 2] = true;
    while (more) {
        more = false;
        for (int32_t k = 0; k < w->n; k++) {
            if (!keep[k] || done[k]) continue;
            if (!how->recursive && k != w->n - 1) continue;
            done[k] = more = true;
            taken(w, k, a, b, take);
            for (int32_t j = 0; j < k; j++) keep[j] |= take[j];
        }
    }
}

Test(search, selection_is_its_definition) {
    static const int64_t parts[] = {1, 3, 7, 10, 100};
    whole *w = calloc(1, sizeof *w);
    uint64_t counter = 0;
    int partial = 0;
    for (int round = 0; round < 4000; round++) {
        fill(w, &counter);
        int64_t b = parts[draw(&counter, KS_COUNT(parts))];
        int64_t a = draw(&counter, (uint32_t)b + 1);
        ks_select how = {(double)a / (double)b, draw(&counter, 2) == 0,
                         draw(&counter, 3) != 0};
        uint8_t mask[MOST];
        bool keep[MOST];
        ks_err err = {0};
        cr_assert(ks_select_steps(&w->matrix, &how, mask, &err) == KS_OK, "%s",
                  err.text);
        expect_set(w, a, b, &how, keep);
        int kept = 0;
        for (int32_t i = 0; i < w->n; i++) {
            kept += mask[i];
            cr_assert(mask[i] == keep[i],
                      "round %d, %d rows, %lld/%lld, last %d, recursive %d: "
                      "step %d is %d",
                      round, w->n, (long long)a, (long long)b, how.last_step,
                      how.recursive, i, mask[i]);
        }
        partial += kept > 2 && kept < w->n;
    }
    cr_assert(partial > 1000, "only %d rounds chose among steps", partial);
    free(w);
}

static void expect_mask(const double *at, int32_t n, ks_select how,
                        const char *expected) {
    uint8_t mask[MOST];
    ks_influence matrix = {at, n};
    cr_assert(ks_select_steps(&matrix, &how, mask, NULL) == KS_OK);
    for (int32_t i = 0; i < n; i++)
        cr_expect(mask[i] == (expected[i] == '1'),
                  "threshold %g: place %d is %d of %s", how.threshold, i,
                  mask[i], expected);
}

/* The last row of a matrix without other influences. */
static void expect_row(const double *row, int32_t n, double threshold,
                       const char *expected) {
    double at[MOST * MOST] = {0};
    memcpy(at + (n - 1) * n, row, sizeof *row * (size_t)n);
    expect_mask(at, n, (ks_select){threshold, false, true}, expected);
}

Test(search, shares_in_double) {
    static const double nine[] = {0.1, 0.2, 0.7, 0};
    expect_row(nine, 4, 0.9, "0111"); /* 0.7 + 0.2 is less than 0.9 */
    /* the share that decimals name, though 0.55 * 100 is above 55 */
    static const double whole_numbers[] = {45, 55, 0};
    expect_row(whole_numbers, 3, 0.55, "011");
    static const double tenths[] = {0.3, 0.1, 0.6, 0};
    expect_row(tenths, 4, 1, "1111"); /* the sum of all is 1 of itself */
    static const double small[] = {1e-17, 1, 0, 0};
    expect_row(small, 4, 1, "0101"); /* reached before the last one counts */
    static const double ties[] = {2, 2, 0, 2, 0};
    expect_row(ties, 5, 0, "11011");
    expect_row(ties, 5, 0.2, "11011");
    static const double tiny[] = {4.9e-324, 0, 0};
    expect_row(tiny, 3, 1, "101");
    static const double big[] = {1.7e308 / 5, 1.7e308 / 5, 1.7e308 / 6, 0, 0};
    expect_row(big, 5, 0.5, "11001");
    static const double none[] = {0, 0, 0};
    expect_row(none, 3, 0, "001");
    expect_row(none, 3, 1, "001");
}

Test(search, a_chain_of_rows) {
    /* step 0 -> 2 -> suffix; step 1 matters to the last step 3 alone */
    static const double at[] = {0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 1, 0, 0,
                                0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0};
    expect_mask(at, 5, (ks_select){0.5, false, true}, "10101");
    expect_mask(at, 5, (ks_select){0.5, true, true}, "11111");
    expect_mask(at, 5, (ks_select){0.5, true, false}, "00111");
    expect_mask(at, 5, (ks_select){0.5, false, false}, "00101");
}

Test(search, refuses_bad_matrices) {
    static const double bad[] = {NAN, INFINITY, -1, -1e-300, 1e308};
    uint8_t mask[4];
    double score[4];
    int32_t order[4];
    ks_err err = {0};
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        double at[16] = {0};
        at[2 * 4 + 1] = bad[i];
        ks_influence matrix = {at, 4};
        ks_select how = {0.5, true, true};
        cr_expect(ks_select_steps(&matrix, &how, mask, &err) == KS_FORMAT);
        cr_expect(strstr(err.text, "step 1 on 2") != NULL, "%s", err.text);
        cr_expect(ks_rank_steps(&matrix, score, order, &err) == KS_FORMAT);
    }
    double at[4] = {0};
    ks_influence lone = {at, 1}, good = {at, 2};
    ks_select how = {0.5, true, true};
    cr_expect(ks_select_steps(&lone, &how, mask, &err) == KS_FORMAT);
    cr_expect(strstr(err.text, "1 rows") != NULL, "%s", err.text);
    static const double thresholds[] = {-0.1, 1.1, NAN};
    for (size_t i = 0; i < KS_COUNT(thresholds); i++) {
        how.threshold = thresholds[i];
        cr_expect(ks_select_steps(&good, &how, mask, &err) == KS_USAGE);
    }
}

/* ------------------------------------------------------------------ ranking */

Test(search, ranking_is_its_definition) {
    whole *w = calloc(1, sizeof *w);
    uint64_t counter = 1 << 20;
    int tied = 0;
    for (int round = 0; round < 500; round++) {
        fill(w, &counter);
        double score[MOST];
        int32_t order[MOST], p = w->n - 1;
        bool seen[MOST] = {false};
        cr_assert(ks_rank_steps(&w->matrix, score, order, NULL) == KS_OK);
        for (int32_t j = 0; j < p; j++) {
            int64_t sum = 0, count = 0;
            for (int32_t k = p; k > j; k--) {
                sum += w->at[k * w->n + j];
                count += w->at[k * w->n + j] != 0;
            }
            double want = count ? (double)sum / (double)count : 0;
            cr_assert(score[j] == want, "step %d: %.17g, expected %.17g", j,
                      score[j], want);
        }
        for (int32_t i = 0; i < p; i++) {
            cr_assert(order[i] >= 0 && order[i] < p && !seen[order[i]]);
            seen[order[i]] = true;
            if (i == 0) continue;
            double before = score[order[i - 1]], here = score[order[i]];
            cr_assert(before < here ||
                      (before == here && order[i - 1] < order[i]));
            tied += before == here;
        }
    }
    cr_assert(tied > 100, "only %d ties", tied);
    free(w);
}

/* ------------------------------------------------------------- random order */

Test(search, random_order_is_a_keyed_permutation) {
    int32_t a[300], b[300], c[300];
    const uint64_t key[2] = {42, 7}, other[2] = {43, 7}, stream[2] = {42, 8};
    for (int32_t p = 1; p <= 300; p += 23) {
        bool seen[300] = {false};
        ks_random_order(key, p, a);
        ks_random_order(key, p, b);
        cr_assert(memcmp(a, b, sizeof *a * (size_t)p) == 0);
        for (int32_t i = 0; i < p; i++) {
            cr_assert(a[i] >= 0 && a[i] < p && !seen[a[i]]);
            seen[a[i]] = true;
        }
        if (p < 20) continue;
        ks_random_order(other, p, b);
        ks_random_order(stream, p, c);
        cr_assert(memcmp(a, b, sizeof *a * (size_t)p) != 0);
        cr_assert(memcmp(a, c, sizeof *a * (size_t)p) != 0);
    }
}

/* All 120 orders of five steps equally often: chi-square of 119 degrees of
 * freedom, whose upper 0.1% point is 171.8. */
Test(search, random_order_is_uniform) {
    enum { DRAWS = 60000, ORDERS = 120 };
    int count[3125] = {0}, orders = 0;
    for (uint64_t i = 0; i < DRAWS; i++) {
        const uint64_t key[2] = {2026, i};
        int32_t order[5], code = 0;
        ks_random_order(key, 5, order);
        for (int k = 0; k < 5; k++) code = code * 5 + order[k];
        count[code]++;
    }
    double chi = 0, expected = (double)DRAWS / ORDERS;
    for (int i = 0; i < 3125; i++) {
        if (!count[i]) continue;
        orders++;
        chi += (count[i] - expected) * (count[i] - expected) / expected;
    }
    cr_expect(orders == ORDERS, "%d orders", orders);
    cr_expect(chi < 171.8 && chi > 60, "chi-square %.1f", chi);
}

/* ------------------------------------------------------------------- greedy */

enum { STEPS = 10, SETS = 1 << STEPS };

/* Whether each set of STEPS steps passes; bit i: step i. */
typedef struct oracle {
    bool pass[SETS];
    int32_t p;
} oracle;

static uint32_t set_of(const uint8_t *mask, int32_t p) {
    uint32_t set = 0;
    for (int32_t i = 0; i < p; i++) set |= (uint32_t)(mask[i] != 0) << i;
    return set;
}

/* The same search on a plain list, what was tried written down. */
static uint32_t by_list(const oracle *o, uint32_t set, const int32_t *order,
                        int32_t *tried, int32_t *n_tried) {
    int32_t list[STEPS], n = 0, failed = 0;
    *n_tried = 0;
    for (int32_t i = 0; i < o->p; i++)
        if (set >> order[i] & 1) list[n++] = order[i];
    while (n > 0 && failed < n) {
        int32_t step = list[0];
        memmove(list, list + 1, sizeof *list * (size_t)--n);
        tried[(*n_tried)++] = step;
        if (o->pass[set & ~(1u << step)]) {
            set &= ~(1u << step);
            failed = 0;
        } else {
            list[n++] = step;
            failed++;
        }
    }
    return set;
}

static uint32_t search(const oracle *o, uint32_t start, const int32_t *order) {
    ks_greedy g;
    uint8_t mask[STEPS + 1];
    int32_t tried[SETS], n_tried, n = o->p + 1, asked = 0, step;
    for (int32_t i = 0; i < o->p; i++) mask[i] = start >> i & 1;
    mask[o->p] = 1;
    uint32_t want = by_list(o, start, order, tried, &n_tried);
    cr_assert(ks_greedy_open(&g, n, mask, order, o->p, NULL) == KS_OK);
    while ((step = ks_greedy_next(&g)) >= 0) {
        cr_assert(asked < n_tried && step == tried[asked]);
        cr_assert(ks_greedy_ahead(&g, 0) == step && g.mask[step]);
        uint32_t set = set_of(g.mask, o->p);
        /* while all fail, they are asked in the order foretold */
        for (int32_t i = 1; i + asked < n_tried; i++) {
            if (o->pass[set & ~(1u << tried[asked + i - 1])]) break;
            cr_assert(ks_greedy_ahead(&g, i) == tried[asked + i]);
        }
        ks_greedy_tell(&g, o->pass[set & ~(1u << step)]);
        asked++;
    }
    cr_assert(asked == n_tried, "%d asked, expected %d", asked, n_tried);
    cr_assert(ks_greedy_ahead(&g, 0) == -1 && g.mask[o->p] == 1);
    ks_greedy_tell(&g, true); /* nothing waits: nothing happens */
    uint32_t got = set_of(g.mask, o->p);
    cr_assert(got == want);
    ks_greedy_close(&g);
    return got;
}

static void random_start(const oracle *o, uint64_t *counter, uint32_t *start,
                         int32_t *order) {
    const uint64_t key[2] = {99, (*counter)++};
    *start = draw(counter, 1u << o->p) | (draw(counter, 2) ? SETS - 1 : 0);
    *start &= (1u << o->p) - 1;
    ks_random_order(key, o->p, order);
}

/* Supersets of a passing set pass: what is left is a minimal passing set. */
Test(search, greedy_ends_in_a_minimal_set) {
    oracle *o = calloc(1, sizeof *o);
    uint64_t counter = 1 << 21;
    int passed = 0, smaller = 0;
    for (int round = 0; round < 300; round++) {
        int32_t order[STEPS];
        uint32_t need[4], n_need = 1 + draw(&counter, 4), start;
        o->p = 1 + (int32_t)draw(&counter, STEPS);
        for (uint32_t i = 0; i < n_need; i++)
            need[i] = draw(&counter, 1u << o->p) & draw(&counter, 1u << o->p);
        for (uint32_t set = 0; set < 1u << o->p; set++) {
            o->pass[set] = false;
            for (uint32_t i = 0; i < n_need; i++)
                o->pass[set] |= (set & need[i]) == need[i];
        }
        random_start(o, &counter, &start, order);
        uint32_t end = search(o, start, order);
        cr_assert((end & ~start) == 0);
        if (!o->pass[start]) {
            cr_assert(end == start); /* no subset passes either */
            continue;
        }
        passed++;
        smaller += end != start;
        cr_assert(o->pass[end]);
        bool minimal = true;
        for (uint32_t set = 0; set < 1u << o->p; set++)
            minimal &= (set & ~end) != 0 || set == end || !o->pass[set];
        cr_assert(minimal, "a smaller set passes");
    }
    cr_assert(passed > 100 && smaller > 80, "%d, %d", passed, smaller);
    free(o);
}

/* No order in what passes: it ends, after p (p + 1) / 2 questions at most, and
 * no single step more could go. */
Test(search, greedy_ends_whatever_passes) {
    oracle *o = calloc(1, sizeof *o);
    uint64_t counter = 1 << 22;
    for (int round = 0; round < 300; round++) {
        int32_t order[STEPS], tried[SETS], n_tried;
        uint32_t start, rate = draw(&counter, 101);
        o->p = 1 + (int32_t)draw(&counter, STEPS);
        for (uint32_t set = 0; set < 1u << o->p; set++)
            o->pass[set] = draw(&counter, 100) < rate;
        random_start(o, &counter, &start, order);
        uint32_t end = search(o, start, order);
        by_list(o, start, order, tried, &n_tried);
        cr_assert(n_tried <= o->p * (o->p + 1) / 2);
        for (int32_t i = 0; i < o->p; i++)
            cr_assert(!(end >> i & 1) || !o->pass[end & ~(1u << i)]);
    }
    free(o);
}

/* Answers that change their mind, as sampled ones do. */
Test(search, greedy_ends_on_coins) {
    enum { N = 200 };
    uint64_t counter = 1 << 23;
    uint8_t start[N];
    int32_t order[N - 1];
    memset(start, 1, N);
    for (int32_t i = 0; i < N - 1; i++) order[i] = i;
    for (uint32_t odds = 2; odds < 40; odds *= 2) {
        ks_greedy g;
        int asked = 0, gone = 0, kept = 0;
        cr_assert(ks_greedy_open(&g, N, start, order, N - 1, NULL) == KS_OK);
        for (; ks_greedy_next(&g) >= 0; asked++) {
            bool passes = draw(&counter, odds) == 0;
            gone += passes;
            ks_greedy_tell(&g, passes);
        }
        for (int i = 0; i < N; i++) kept += g.mask[i];
        cr_expect(kept == N - gone && asked <= N * (N - 1) / 2);
        ks_greedy_close(&g);
    }
}

Test(search, greedy_tries_again_after_a_success) {
    /* step 0 can go only when 2 is gone; 1 never */
    oracle *o = calloc(1, sizeof *o);
    static const int32_t order[] = {0, 1, 2};
    int32_t tried[SETS], n_tried;
    o->p = 3;
    o->pass[3] = o->pass[2] = true;
    cr_expect(search(o, 7, order) == 2);
    by_list(o, 7, order, tried, &n_tried);
    static const int32_t expected[] = {0, 1, 2, 0, 1};
    cr_assert(n_tried == 5);
    cr_expect(memcmp(tried, expected, sizeof expected) == 0);
    free(o);
}

Test(search, greedy_leaves_alone_what_is_not_in_line) {
    ks_greedy g;
    static const uint8_t start[] = {1, 0, 1, 1, 1};
    static const int32_t order[] = {2, 1};
    cr_assert(ks_greedy_open(&g, 5, start, order, 2, NULL) == KS_OK);
    cr_expect(ks_greedy_next(&g) == 2 && ks_greedy_ahead(&g, 1) == -1);
    cr_expect(ks_greedy_ahead(&g, -1) == -1);
    cr_expect(ks_greedy_ahead(&g, INT32_MAX) == -1);
    ks_greedy_tell(&g, true);
    cr_expect(ks_greedy_next(&g) == -1);
    static const uint8_t left[] = {1, 0, 0, 1, 1};
    cr_expect(memcmp(g.mask, left, 5) == 0);
    ks_greedy_close(&g);
    cr_assert(ks_greedy_open(&g, 5, start, NULL, 0, NULL) == KS_OK);
    cr_expect(ks_greedy_next(&g) == -1);
    ks_greedy_close(&g);
}

Test(search, greedy_refuses_bad_orders) {
    static const int32_t orders[][3] = {
        {0, 1, 3}, {0, 1, 0}, {-1, 0, 1}, {0, 4, 1}};
    static const uint8_t start[] = {1, 1, 1, 1}, open_end[] = {1, 1, 1, 0};
    static const int32_t good[] = {0, 1, 2};
    ks_greedy g;
    ks_err err = {0};
    for (size_t i = 0; i < KS_COUNT(orders); i++) {
        cr_expect(ks_greedy_open(&g, 4, start, orders[i], 3, &err) ==
                  KS_FORMAT);
        cr_expect(strstr(err.text, "each of 0 to 2") != NULL, "%s", err.text);
        cr_expect(g.mask == NULL && g.queue == NULL);
    }
    cr_expect(ks_greedy_open(&g, 4, open_end, good, 3, &err) == KS_FORMAT);
    cr_expect(ks_greedy_open(&g, 1, start, good, 0, &err) == KS_FORMAT);
}
