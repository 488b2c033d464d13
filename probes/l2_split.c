/* l2_split.c - what a design and the folds held out decide: counts, means and
 * scales of the training rows, added up from the moments of folds. */
#include <math.h>

#include "l2_fit.h"

static ks_status fill_split(const ks_l2 *l2, ks_l2_split *s, ks_err *err) {
    ks_status st = KS_OK;
    const ks_l2_moments *m = l2->moments + s->design * KS_L2_MAX_FOLDS;
    for (int32_t f = 0; f < KS_L2_MAX_FOLDS; f++)
        if (!(s->hold >> f & 1))
            for (int c = 0; c < 2; c++) s->count[c] += (double)m[f].count[c];
    s->n = s->count[0] + s->count[1];
    KS_CHECK(s->count[0] > 0 && s->count[1] > 0, KS_MISMATCH,
             "a probe's training rows need both classes: found %.0f important "
             "and %.0f removable steps outside folds 0x%x",
             s->count[1], s->count[0], (unsigned)s->hold);
    for (int64_t j = 0; j < l2->d; j++) {
        double sum[2] = {0, 0}, square = 0;
        for (int32_t f = 0; f < KS_L2_MAX_FOLDS; f++)
            if (!(s->hold >> f & 1) && m[f].square) {
                sum[0] += m[f].sum[0][j], sum[1] += m[f].sum[1][j];
                square += m[f].square[j];
            }
        double mean = (sum[0] + sum[1]) / s->n;
        double variance = square / s->n - mean * mean;
        double mean0 = sum[0] / s->count[0], mean1 = sum[1] / s->count[1];
        s->mean[j] = mean;
        s->centre[j] = 0.5 * (mean0 + mean1);
        s->inverse[j] = variance > 1e-12 * mean * mean && variance > 0
                            ? 1 / sqrt(variance)
                            : 0;
        s->gap[j] = (mean1 - mean0) * s->inverse[j];
    }
done:
    return st;
}

ks_status ks__l2_find_splits(ks_l2_fitting *f, ks_err *err) {
    ks_status st = KS_OK;
    size_t d = (size_t)f->l2->d;
    KS_TRY(
        ks_alloc(&f->splits, (size_t)f->n, sizeof *f->splits, "splits", err));
    for (int32_t k = 0; k < f->n; k++) {
        const ks_l2_column *c = &f->columns[k];
        int32_t at = 0;
        while (at < f->n_splits && (f->splits[at].design != c->design ||
                                    f->splits[at].hold != c->hold))
            at++;
        if (at == f->n_splits) {
            f->splits[at].design = c->design;
            f->splits[at].hold = c->hold;
            f->n_splits++;
        }
        f->states[k].split = at;
    }
    KS_TRY(ks_alloc(&f->split_data, (size_t)f->n_splits * d, 4 * sizeof(double),
                    "splits", err));
    for (int32_t k = 0; k < f->n_splits; k++) {
        ks_l2_split *s = &f->splits[k];
        s->centre = f->split_data + 4 * (size_t)k * d;
        s->mean = s->centre + d;
        s->inverse = s->centre + 2 * d;
        s->gap = s->centre + 3 * d;
        KS_TRY(fill_split(f->l2, s, err));
    }
done:
    return st;
}
