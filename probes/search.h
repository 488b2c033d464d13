/* search.h - which steps of a chain are needed: selection on a matrix of
 * influences, ranking, greedy removal. The search alone; who measures whether
 * a set of steps is enough is asked one set at a time (arXiv 2604.18307).
 *
 * A prefix of p steps has n = p + 1 rows, the last one the answer suffix. Sets
 * are masks [n] of 0 and 1 with the suffix in.
 */
#ifndef KS_SEARCH_H
#define KS_SEARCH_H

#include "base.h"

/* at[k * n + j]: influence of source j on target k, used for j < k: finite, not
 * negative, and no row's sum beyond a double's range. */
typedef struct ks_influence {
    const double *at; /* [n, n] */
    int32_t n;        /* 2 or more */
} ks_influence;

typedef struct ks_select {
    double threshold; /* share of a row's sum, 0 to 1 */
    /* The last step, which stands ahead of the suffix, is always in, as the
     * paper has it; false: as the published code, where it may be missing. */
    bool last_step;
    /* From kept steps on to what they rest on; false: the suffix's row alone.
     */
    bool recursive;
} ks_select;

/* KS_FORMAT where the matrix holds what it may not. */
ks_status ks_influence_check(const ks_influence *matrix, ks_err *err);

/* From the last row back to the first: each kept target keeps its sources by
 * size until their share of the row's sum reaches the threshold, with all that
 * are equal to the last of them; a row without influence keeps none. Threshold
 * 0 keeps the largest. mask [n]. */
ks_status ks_select_steps(const ks_influence *matrix, const ks_select *how,
                          uint8_t *mask, ks_err *err);

/* score [p]: mean of step j's influences that are not 0, over later targets,
 * the suffix too; 0 where all are. order [p]: steps by score, least first,
 * equal ones by index. */
ks_status ks_rank_steps(const ks_influence *matrix, double *score,
                        int32_t *order, ks_err *err);

/* The p steps in an order drawn by the key (Philox). */
void ks_random_order(const uint64_t key[2], int32_t p, int32_t *order);

/* Greedy removal: candidates wait in line; the first is left out, and stays out
 * if what is left still passes; else it comes back at the end of the line. It
 * ends when all that wait have failed since the last removal. */
typedef struct ks_greedy {
    int32_t n;
    uint8_t *mask;  /* [n] what is kept now */
    int32_t *queue; /* [p] a ring of candidates */
    int32_t begin, waiting, failures;
} ks_greedy;

/* order [n_order]: distinct steps 0 to p - 1, first to be tried first; those of
 * them that start (mask [n], copied, the suffix in) keeps are candidates. What
 * is never to be left out (the paper's last step) does not stand in order. */
ks_status ks_greedy_open(ks_greedy *greedy, int32_t n, const uint8_t *start,
                         const int32_t *order, int32_t n_order, ks_err *err);
void ks_greedy_close(ks_greedy *greedy);
/* The step that is to be left out next, -1 at the end. */
int32_t ks_greedy_next(const ks_greedy *greedy);
/* The i-th step in line (0: the next), -1 where fewer wait: what is likely to
 * be asked, for who measures several sets at once. */
int32_t ks_greedy_ahead(const ks_greedy *greedy, int32_t i);
/* Whether the set without it passes. */
void ks_greedy_tell(ks_greedy *greedy, bool passes);

#endif
