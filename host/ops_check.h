/* ops_check.h - the shapes that ops.h asks for, refused in the same words by
 * every backend. KS_OK, or KS_INTERNAL with the op's name and both shapes. */
#ifndef KS_OPS_CHECK_H
#define KS_OPS_CHECK_H

#include "ops.h"

static inline ks_status ks__check_norm(const ks_view *out, const ks_view *x,
                                       const ks_view *add, ks_err *err) {
    if (out->cols == x->cols && out->rows == x->rows &&
        (!add || (add->cols == x->cols && add->rows == x->rows)))
        return KS_OK;
    return ks_fail(err, KS_INTERNAL, "norm: shapes [%lld,%lld] [%lld,%lld]",
                   (long long)out->rows, (long long)out->cols,
                   (long long)x->rows, (long long)x->cols);
}

static inline ks_status ks__check_add(const ks_view *x, const ks_view *y,
                                      ks_err *err) {
    if (x->cols == y->cols && x->rows == y->rows) return KS_OK;
    return ks_fail(err, KS_INTERNAL, "add: shapes [%lld,%lld] [%lld,%lld]",
                   (long long)x->rows, (long long)x->cols, (long long)y->rows,
                   (long long)y->cols);
}

static inline ks_status
ks__check_norm_backward(const ks_view *dx, const ks_view *dy, const ks_view *x,
                        const int32_t *row, int32_t heads, ks_err *err) {
    if (dx->cols == x->cols && dy->cols == x->cols && dx->rows == dy->rows &&
        heads >= 1 && dx->rows % heads == 0 && (row || x->rows >= dx->rows))
        return KS_OK;
    return ks_fail(err, KS_INTERNAL,
                   "norm backward: shapes [%lld,%lld] [%lld,%lld] "
                   "[%lld,%lld], %d heads",
                   (long long)dx->rows, (long long)dx->cols,
                   (long long)dy->rows, (long long)dy->cols, (long long)x->rows,
                   (long long)x->cols, (int)heads);
}

static inline ks_status ks__check_route(const ks_view *logits, int32_t top_k,
                                        ks_err *err) {
    if (top_k >= 1 && top_k <= logits->cols) return KS_OK;
    return ks_fail(err, KS_INTERNAL, "route: %d of %lld experts", top_k,
                   (long long)logits->cols);
}

static inline ks_status ks__check_gate_clamped(const ks_view *out,
                                               const ks_view *x, ks_err *err) {
    if (out->rows == x->rows && 2 * out->cols == x->cols) return KS_OK;
    return ks_fail(err, KS_INTERNAL,
                   "gate_clamped: shapes [%lld,%lld] [%lld,%lld]",
                   (long long)out->rows, (long long)out->cols,
                   (long long)x->rows, (long long)x->cols);
}

static inline ks_status ks__check_combine(const ks_view *out, const ks_view *x,
                                          int32_t top_k, ks_err *err) {
    if (out->cols == x->cols && x->rows == out->rows * top_k) return KS_OK;
    return ks_fail(err, KS_INTERNAL,
                   "combine: shapes [%lld,%lld] [%lld,%lld], %d a row",
                   (long long)out->rows, (long long)out->cols,
                   (long long)x->rows, (long long)x->cols, top_k);
}

#endif
