/* holds.c - see holds.h. */
#include "holds.h"

int32_t ks__hold(ks_holds *all, uint32_t set) {
    for (int32_t i = 0; i < all->n; i++)
        if (all->set[i] == set) return i;
    all->set[all->n] = set;
    return all->n++;
}

int32_t ks__hold_inner(ks_holds *all, const ks_folds *f, int32_t k,
                       int32_t part) {
    return ks__hold(all, ks_nest_hold(f->n_folds, f->n_inner, k, part));
}

void ks__holds_fill(ks_holds *all, const ks_folds *f, uint32_t asked,
                    bool tested) {
    all->n = 0;
    for (int32_t k = 0; k < f->n_folds; k++)
        for (int32_t part = 0; ks__holds_asked(asked, k) && part < f->n_inner;
             part++)
            ks__hold_inner(all, f, k, part);
    for (int32_t k = 0; tested && k < f->n_folds; k++)
        if (ks__holds_asked(asked, k)) ks__hold(all, 1u << k);
}

int32_t ks__holds_n_asked(uint32_t asked, int32_t n_folds) {
    int32_t n = 0;
    for (int32_t k = 0; k < n_folds; k++) n += ks__holds_asked(asked, k);
    return n;
}

uint32_t ks__holds_choosing(const int32_t *chosen, int32_t n_folds,
                            int32_t cell) {
    uint32_t set = 0;
    for (int32_t k = 0; k < n_folds; k++)
        if (chosen[k] == cell) set |= 1u << k;
    return set;
}

double ks__holds_loss(ks_holds *all, const ks_folds *f, int32_t seed, int32_t k,
                      const float *margin, int32_t n_candidates, int32_t c,
                      const int8_t *y) {
    double loss = 0;
    for (int32_t part = 0; part < f->n_inner; part++) {
        int32_t h = ks__hold_inner(all, f, k, part);
        int64_t column = (int64_t)h * n_candidates + c;
        loss += ks_nest_loss(margin + column * f->n, y, f->fold + seed * f->n,
                             f->n, all->set[h] & ~(1u << k));
    }
    return loss / f->n_inner;
}
