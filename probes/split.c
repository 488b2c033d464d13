/* split.c - see split.h. */
#include "split.h"

#include <stdlib.h>
#include <string.h>

typedef struct problem {
    int32_t group;
    int64_t count[2]; /* rows of class 0 and 1 */
    char hash[65];
} problem;

static int by_size_then_hash(const void *a, const void *b) {
    const problem *p = a, *q = b;
    int64_t np = p->count[0] + p->count[1], nq = q->count[0] + q->count[1];
    if (np != nq) return np > nq ? -1 : 1;
    int order = strcmp(p->hash, q->hash);
    return order ? order : (p->group > q->group) - (p->group < q->group);
}

static ks_status count_problems(const ks_split_input *in, uint64_t seed,
                                problem *problems, ks_err *err) {
    ks_status st = KS_OK;
    for (int32_t g = 0; g < in->n_groups; g++) {
        char number[16], seeded[32];
        snprintf(number, sizeof number, "%d", g);
        const char *id = in->ids ? in->ids[g] : number;
        snprintf(seeded, sizeof seeded, "%llu ", (unsigned long long)seed);
        ks_sha256 *hash = NULL;
        problems[g].group = g;
        KS_TRY(ks_sha256_open(&hash, err));
        ks_sha256_add(hash, seeded, strlen(seeded));
        ks_sha256_add(hash, id, strlen(id));
        ks_sha256_close(&hash, problems[g].hash);
    }
    for (int64_t i = 0; i < in->n; i++)
        problems[in->group[i]].count[in->y[i] == 1]++;
done:
    return st;
}

/* The fold that the problem unbalances least: the rise of the sum over
 * classes of squared shares, the fold with fewer problems winning a tie. */
static int32_t best_fold(const problem *p, int32_t n_folds, int64_t (*count)[2],
                         const int32_t *problems, const int64_t total[2]) {
    int32_t best = 0;
    double least = 0;
    for (int32_t f = 0; f < n_folds; f++) {
        double rise = 0;
        for (int c = 0; c < 2; c++)
            if (total[c])
                rise += (double)count[f][c] * (double)p->count[c] /
                        ((double)total[c] * (double)total[c]);
        if (f == 0 || rise < least ||
            (rise == least && problems[f] < problems[best])) {
            least = rise;
            best = f;
        }
    }
    return best;
}

ks_status ks_split_folds(const ks_split_input *in, int32_t n_folds,
                         uint64_t seed, uint8_t *fold, ks_err *err) {
    ks_status st = KS_OK;
    problem *problems = NULL;
    uint8_t *of_group = NULL;
    int64_t count[256][2] = {{0}}, total[2] = {0, 0};
    int32_t taken[256] = {0};
    KS_CHECK(n_folds >= 2 && n_folds <= 256, KS_USAGE,
             "%d folds; expected 2 to 256", n_folds);
    KS_TRY(ks_alloc(&problems, (size_t)in->n_groups, sizeof *problems,
                    "problems", err));
    KS_TRY(ks_alloc(&of_group, (size_t)in->n_groups, 1, "folds", err));
    KS_TRY(count_problems(in, seed, problems, err));
    int32_t used = 0;
    for (int32_t g = 0; g < in->n_groups; g++) {
        used += problems[g].count[0] + problems[g].count[1] > 0;
        for (int c = 0; c < 2; c++) total[c] += problems[g].count[c];
    }
    KS_CHECK(used >= n_folds, KS_MISMATCH,
             "%d problems with labelled steps can't fill %d folds", used,
             n_folds);
    qsort(problems, (size_t)in->n_groups, sizeof *problems, by_size_then_hash);
    for (int32_t g = 0; g < in->n_groups; g++) {
        const problem *p = &problems[g];
        if (p->count[0] + p->count[1] == 0) continue;
        int32_t f = best_fold(p, n_folds, count, taken, total);
        of_group[p->group] = (uint8_t)f;
        taken[f]++;
        for (int c = 0; c < 2; c++) count[f][c] += p->count[c];
    }
    for (int32_t f = 0; f < n_folds; f++)
        for (int c = 0; c < 2; c++)
            KS_CHECK(total[c] - count[f][c] > 0, KS_MISMATCH,
                     "the training part of fold %d holds no %s step (%lld "
                     "important, %lld removable in all)",
                     f, c ? "important" : "removable", (long long)total[1],
                     (long long)total[0]);
    for (int64_t i = 0; i < in->n; i++) fold[i] = of_group[in->group[i]];
done:
    free(problems);
    free(of_group);
    return st;
}

/* -------------------------------------------------------------- same texts */

typedef struct text_row {
    const char *text;
    uint8_t fold;
} text_row;

static int by_text(const void *a, const void *b) {
    return strcmp(((const text_row *)a)->text, ((const text_row *)b)->text);
}

int64_t ks_split_shared_texts(int64_t n, const char *const *texts,
                              const uint8_t *fold, ks_err *err) {
    text_row *rows = NULL;
    if (ks_alloc(&rows, (size_t)n, sizeof *rows, "step texts", err) != KS_OK)
        return -1;
    for (int64_t i = 0; i < n; i++) rows[i] = (text_row){texts[i], fold[i]};
    qsort(rows, (size_t)n, sizeof *rows, by_text);
    int64_t shared = 0;
    for (int64_t i = 0, end; i < n; i = end) {
        bool several = false;
        for (end = i + 1; end < n && by_text(&rows[i], &rows[end]) == 0; end++)
            several |= rows[end].fold != rows[i].fold;
        if (several) shared += end - i;
    }
    free(rows);
    return shared;
}
