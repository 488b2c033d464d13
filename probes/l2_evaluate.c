/* l2_evaluate.c - loss derivatives of the active columns in the coordinates
 * that the solver works in. */
#include <math.h>

#include "l2_fit.h"

void ks__l2_to_shifted(const ks_l2_fitting *f, int32_t k, double *w,
                       double *b) {
    int64_t d = f->l2->d;
    const ks_l2_split *s = &f->splits[f->states[k].split];
    const double *v = f->v + k * (d + 1);
    *b = v[d];
    for (int64_t j = 0; j < d; j++) {
        w[j] = v[j] * s->inverse[j];
        *b -= s->centre[j] * w[j];
    }
}

ks_status ks__l2_evaluate(ks_l2_fitting *f, bool exact, ks_err *err) {
    ks_status st = KS_OK;
    ks_l2 *l2 = f->l2;
    int64_t d = l2->d;
    double rows = 0;
#pragma omp parallel for num_threads(l2->threads) schedule(static)
    for (int32_t a = 0; a < f->n_active; a++) {
        int32_t k = f->active[a];
        const ks_l2_split *s = &f->splits[f->states[k].split];
        f->design[a] = s->design;
        f->hold[a] = s->hold;
        f->margin[a] = f->columns[k].margin;
        for (int c = 0; c < 2; c++) f->class_c[2 * a + c] = 0.5 / s->count[c];
        ks__l2_to_shifted(f, k, f->w + a * d, &f->b[a]);
    }
    ks_l2_pass pass = {.n = f->n_active,
                       .design = f->design,
                       .hold = f->hold,
                       .class_c = f->class_c,
                       .w = f->w,
                       .b = f->b,
                       .g = f->gw,
                       .r = f->r,
                       .h = f->h,
                       .exact = exact,
                       .margin = f->margin};
    KS_TRY(l2->ops->l2_pass(l2->dev, &l2->rows, &pass, err));
    l2->cost.reads += 1;
#pragma omp parallel for num_threads(l2->threads) schedule(static)
    for (int32_t a = 0; a < f->n_active; a++) {
        int32_t k = f->active[a];
        const ks_l2_split *s = &f->splits[f->states[k].split];
        double *g = f->g + k * (d + 1);
        const double *v = f->v + k * (d + 1), *gw = f->gw + a * d;
        for (int64_t j = 0; j < d; j++)
            g[j] = (gw[j] - f->r[a] * s->centre[j]) * s->inverse[j] +
                   f->states[k].lambda * v[j];
        g[d] = f->r[a];
        f->states[k].h = KS_MAX(f->h[a], 1e-9);
        f->columns[k].passes++;
    }
    for (int32_t a = 0; a < f->n_active; a++)
        rows += f->splits[f->states[f->active[a]].split].n;
    l2->cost.pass_columns += (exact ? 2 : 1) * rows / (double)l2->n;
done:
    return st;
}

double ks__l2_max_gradient(const ks_l2_fitting *f, int32_t k) {
    int64_t d = f->l2->d;
    const ks_l2_split *s = &f->splits[f->states[k].split];
    const double *g = f->g + k * (d + 1);
    double most = fabs(g[d]);
    for (int64_t j = 0; j < d; j++) {
        double plain =
            g[j] + g[d] * (s->centre[j] - s->mean[j]) * s->inverse[j];
        if (!isnan(most) && !(fabs(plain) <= most)) most = fabs(plain);
    }
    return most;
}
