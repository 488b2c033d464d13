/* l2_start.c - where a column starts: the linear discriminant, or weights that
 * the caller gives. */
#include <math.h>

#include "l2_fit.h"

/* E[p (1 - p)] for margins of two classes that the discriminant puts at
 * +-delta/2 with variance delta. */
static double mean_slope(double delta) {
    double sum = 0, total = 0;
    for (int k = -20; k <= 20; k++) {
        double u = 0.2 * k, weight = exp(-0.5 * u * u);
        double p = 1 / (1 + exp(-(0.5 * delta + sqrt(delta) * u)));
        sum += weight * p * (1 - p);
        total += weight;
    }
    return KS_MAX(sum / total, 1e-4);
}

/* The linear discriminant with the strength's ridge. The within-class
 * covariance is the spectrum's less gap gap'/4 (Sherman-Morrison); the ridge
 * lambda / h and the weights decide h together, found by iteration. */
void ks__l2_start_chunk(ks_l2_fitting *f, const int32_t *list, int32_t n,
                        float *q, float *t) {
    const ks_l2 *l2 = f->l2;
    int64_t d = l2->d, rank = l2->rank;
    for (int32_t k = 0; k < n; k++)
        for (int64_t j = 0; j < d; j++)
            q[k * d + j] = (float)f->splits[f->states[list[k]].split].gap[j];
    ks__l2_to_spectrum(l2, q, n, t);
    double scale[KS_L2_CHUNK], rest_share[KS_L2_CHUNK];
    for (int32_t k = 0; k < n; k++) {
        double rest = 0, h = 0.25, lambda = f->states[list[k]].lambda, gap;
        for (int64_t j = 0; j < d; j++)
            rest += (double)q[k * d + j] * (double)q[k * d + j];
        for (int64_t j = 0; j < rank; j++)
            rest -= (double)t[k * rank + j] * (double)t[k * rank + j];
        if (rank == d || rest < 0) rest = 0;
        for (int round = 0; round < 4; round++) {
            gap = rest / ((double)l2->tail + lambda / h);
            for (int64_t j = 0; j < rank; j++)
                gap += (double)t[k * rank + j] * (double)t[k * rank + j] /
                       ((double)l2->value[j] + lambda / h);
            scale[k] = 1 / (1 - KS_MIN(gap / 4, 0.95));
            if (round < 3) h = mean_slope(gap * scale[k]);
        }
        rest_share[k] = rank < d ? 1 / ((double)l2->tail + lambda / h) : 0;
        for (int64_t j = 0; j < rank; j++)
            t[k * rank + j] *= (float)(1 / ((double)l2->value[j] + lambda / h) -
                                       rest_share[k]);
        for (int64_t j = 0; j < d; j++) q[k * d + j] *= (float)rest_share[k];
    }
    ks__l2_from_spectrum(l2, t, n, 1, q);
    for (int32_t k = 0; k < n; k++) {
        double *v = f->v + list[k] * (d + 1);
        const ks_l2_split *s = &f->splits[f->states[list[k]].split];
        for (int64_t j = 0; j < d; j++)
            v[j] = s->inverse[j] > 0 ? scale[k] * (double)q[k * d + j] : 0;
        v[d] = 0;
    }
}

void ks__l2_start_from(ks_l2_fitting *f, int32_t k) {
    int64_t d = f->l2->d;
    const double *from = f->columns[k].start;
    const ks_l2_split *s = &f->splits[f->states[k].split];
    double *v = f->v + k * (d + 1), b = from[d];
    for (int64_t j = 0; j < d; j++) {
        v[j] = s->inverse[j] > 0 ? from[j] / s->inverse[j] : 0;
        if (s->inverse[j] > 0)
            b += (s->centre[j] + (double)f->l2->shift[j]) * from[j];
    }
    v[d] = b;
}
