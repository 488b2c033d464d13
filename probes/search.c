/* search.c - selection, ranking and greedy removal of steps. */
#include "search.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "philox.h"

typedef struct entry {
    double value;
    int32_t step;
} entry;

static int larger_first(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->value != y->value) return x->value < y->value ? 1 : -1;
    return x->step < y->step ? -1 : 1;
}

static int smaller_first(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->value != y->value) return x->value < y->value ? -1 : 1;
    return x->step < y->step ? -1 : 1;
}

ks_status ks_influence_check(const ks_influence *matrix, ks_err *err) {
    int32_t n = matrix->n;
    if (n < 2)
        return ks_fail(err, KS_FORMAT,
                       "a matrix of %d rows: at least one step and the answer "
                       "suffix are expected",
                       (int)n);
    for (int32_t k = 1; k < n; k++)
        for (int32_t j = 0; j < k; j++) {
            double v = matrix->at[(size_t)k * (size_t)n + (size_t)j];
            if (!(v >= 0 && v <= DBL_MAX / n)) /* sums of rows are finite */
                return ks_fail(err, KS_FORMAT,
                               "influence of step %d on %d is %g: a number "
                               "from 0 to at most %g is expected, so that "
                               "rows have sums",
                               (int)j, (int)k, v, DBL_MAX / n);
        }
    return KS_OK;
}

/* The smallest value of row k that is still taken; 0: none is. Shares are
 * quotients: of whole numbers they are rounded as the threshold was when it was
 * written down, which its product with the total is not. */
static double least_taken(const double *row, int32_t k, double threshold,
                          entry *sorted) {
    double total = 0, sum = 0;
    for (int32_t j = 0; j < k; j++) sorted[j] = (entry){row[j], j};
    qsort(sorted, (size_t)k, sizeof *sorted, larger_first);
    /* in the order in which shares grow, so that the last one is 1 */
    for (int32_t j = 0; j < k; j++) total += sorted[j].value;
    if (total == 0) return 0;
    for (int32_t j = 0; j < k; j++) {
        sum += sorted[j].value;
        if (sum / total >= threshold) return sorted[j].value;
    }
    return sorted[k - 1].value;
}

ks_status ks_select_steps(const ks_influence *matrix, const ks_select *how,
                          uint8_t *mask, ks_err *err) {
    ks_status st = KS_OK;
    int32_t n = matrix->n;
    entry *sorted = NULL;
    KS_TRY(ks_influence_check(matrix, err));
    KS_CHECK(how->threshold >= 0 && how->threshold <= 1, KS_USAGE,
             "threshold %g: 0 to 1 is expected", how->threshold);
    KS_TRY(ks_alloc(&sorted, (size_t)n, sizeof *sorted, "a row", err));
    memset(mask, 0, (size_t)n);
    mask[n - 1] = 1;
    if (how->last_step) mask[n - 2] = 1;
    for (int32_t k = n - 1; k > 0; k--) {
        if (!mask[k] || (!how->recursive && k < n - 1)) continue;
        const double *row = matrix->at + (size_t)k * (size_t)n;
        double least = least_taken(row, k, how->threshold, sorted);
        for (int32_t j = 0; least > 0 && j < k; j++)
            if (row[j] >= least) mask[j] = 1;
    }
done:
    free(sorted);
    return st;
}

ks_status ks_rank_steps(const ks_influence *matrix, double *score,
                        int32_t *order, ks_err *err) {
    ks_status st = KS_OK;
    int32_t n = matrix->n, p = n - 1;
    entry *sorted = NULL;
    KS_TRY(ks_influence_check(matrix, err));
    KS_TRY(ks_alloc(&sorted, (size_t)p, sizeof *sorted, "a ranking", err));
    for (int32_t j = 0; j < p; j++) {
        double sum = 0;
        int32_t count = 0;
        for (int32_t k = j + 1; k < n; k++) {
            double v = matrix->at[(size_t)k * (size_t)n + (size_t)j];
            sum += v;
            count += v > 0;
        }
        score[j] = count > 0 ? sum / count : 0;
        sorted[j] = (entry){score[j], j};
    }
    qsort(sorted, (size_t)p, sizeof *sorted, smaller_first);
    for (int32_t j = 0; j < p; j++) order[j] = sorted[j].step;
done:
    free(sorted);
    return st;
}

/* Fisher and Yates; a draw below i + 1 by the high word of a product, after
 * sending back the few that would favour some (Lemire 2019). */
static uint32_t below(const uint64_t key[2], uint64_t *counter, uint32_t n) {
    uint32_t words[4];
    for (;;) {
        ks_philox(key, (*counter)++, words);
        uint64_t product = (uint64_t)words[0] * n;
        if ((uint32_t)product >= (uint32_t)(-n) % n)
            return (uint32_t)(product >> 32);
    }
}

void ks_random_order(const uint64_t key[2], int32_t p, int32_t *order) {
    uint64_t counter = 0;
    for (int32_t i = 0; i < p; i++) order[i] = i;
    for (int32_t i = p - 1; i > 0; i--) {
        int32_t j = (int32_t)below(key, &counter, (uint32_t)i + 1);
        int32_t step = order[i];
        order[i] = order[j];
        order[j] = step;
    }
}

/* ------------------------------------------------------------------ greedy */

ks_status ks_greedy_open(ks_greedy *g, int32_t n, const uint8_t *start,
                         const int32_t *order, int32_t n_order, ks_err *err) {
    ks_status st = KS_OK;
    *g = (ks_greedy){.n = n};
    uint8_t *seen = NULL;
    KS_CHECK(n >= 2 && start[n - 1], KS_FORMAT,
             "a set to start from without the answer suffix in its last place, "
             "or without a step ahead of it");
    KS_TRY(ks_alloc(&seen, (size_t)n, 1, "steps", err));
    KS_TRY(ks_alloc(&g->mask, (size_t)n, 1, "steps", err));
    KS_TRY(ks_alloc(&g->queue, (size_t)n, sizeof *g->queue, "a queue", err));
    for (int32_t i = 0; i < n; i++) g->mask[i] = start[i] != 0;
    for (int32_t i = 0; i < n_order; i++) {
        int32_t step = order[i];
        KS_CHECK(step >= 0 && step < n - 1 && !seen[step], KS_FORMAT,
                 "place %d of the order is step %d: each of 0 to %d at most "
                 "once is expected",
                 (int)i, (int)step, (int)n - 2);
        seen[step] = 1;
        if (g->mask[step]) g->queue[g->waiting++] = step;
    }
done:
    free(seen);
    if (st != KS_OK) ks_greedy_close(g);
    return st;
}

void ks_greedy_close(ks_greedy *g) {
    free(g->mask);
    free(g->queue);
    *g = (ks_greedy){0};
}

int32_t ks_greedy_ahead(const ks_greedy *g, int32_t i) {
    if (i < 0 || i >= g->waiting - g->failures) return -1;
    return g->queue[(g->begin + i) % g->n];
}

int32_t ks_greedy_next(const ks_greedy *g) {
    return ks_greedy_ahead(g, 0);
}

void ks_greedy_tell(ks_greedy *g, bool passes) {
    int32_t step = ks_greedy_next(g);
    if (step < 0) return;
    g->begin = (g->begin + 1) % g->n;
    if (passes) {
        g->mask[step] = 0;
        g->waiting--;
        g->failures = 0;
    } else {
        g->queue[(g->begin + g->waiting - 1) % g->n] = step;
        g->failures++;
    }
}
