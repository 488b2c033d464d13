/* heads_backward.c - the way back from log-probabilities to hidden rows.
 *
 * HELD rows at a time: their logits z over the whole vocabulary become the
 * cotangents of z in place, then dhidden = dz head. With s the capped
 * logits, p = softmax(s) and y the target:
 *     dz = weight (onehot(y) - p) (1 - (s / cap)^2)    for log p_y,
 * times p_y for p_y itself.
 */
#include "isa.h"
#include "logits.h"

enum { HELD = 96, PIECE = 768 };

/* sum of exp(row - top), in double over pieces in f32 */
static double exp_total(const float *row, int64_t n, float top) {
    double total = 0;
    for (int64_t i = 0; i < n; i += PIECE)
        total += exp_sum(row + i, KS_MIN(PIECE, n - i), top);
    return total;
}

/* Logits of one row to their cotangents; returns log p of the target. The
 * target is left out of the sum, so that 1 - p keeps its digits near p = 1. */
static float turn_row(float *row, int64_t n, float softcap, int32_t target,
                      float weight, bool of_probability) {
    if (softcap > 0) cap_row(row, n, softcap);
    float top = highest(row, n), wanted = row[target];
    row[target] = -INFINITY;
    double others = exp_total(row, n, top);
    double total = others + exp((double)wanted - top);
    double logprob = (double)wanted - top - log(total);
    double w = of_probability ? weight * exp(logprob) : weight;
    float scale = (float)(-w / total), own = (float)(w * (others / total));
    float per_cap = softcap > 0 ? 1 / softcap : 0;
    for (int64_t j = 0; j < n; j += VL) {
        int64_t m = KS_MIN(VL, n - j);
        vf s = m == VL ? vload(row + j) : vload_n(row + j, m, 0);
        vf d = vset(scale) * vexp(s - vset(top));
        if (softcap > 0) {
            vf t = s * vset(per_cap);
            d = d * ((vset(1) - t) * (vset(1) + t));
        }
        vstore_n(row + j, d, m);
    }
    float t = wanted * per_cap;
    row[target] = own * ((1 - t) * (1 + t));
    return (float)logprob;
}

static ks_status check(const ks_view *dhidden, const ks_view *hidden,
                       const ks_view *head, ks_err *err) {
    if (hidden->cols == head->cols && dhidden->cols == hidden->cols &&
        dhidden->rows == hidden->rows)
        return KS_OK;
    return ks_fail(err, KS_INTERNAL,
                   "score backward: [%lld,%lld] from [%lld,%lld] by "
                   "[%lld,%lld]",
                   (long long)dhidden->rows, (long long)dhidden->cols,
                   (long long)hidden->rows, (long long)hidden->cols,
                   (long long)head->rows, (long long)head->cols);
}

ks_status KS_ISA_NAME(score_backward)(ks_dev *dev, ks_view dhidden,
                                      float *logprob, ks_view hidden,
                                      ks_view head, float softcap,
                                      const int32_t *target,
                                      const float *weight, bool of_probability,
                                      ks_err *err) {
    int64_t n = head.rows, held = KS_MIN(HELD, hidden.rows);
    ks_status st = check(&dhidden, &hidden, &head, err);
    if (st == KS_OK)
        st = ks__shared(dev, (size_t)(n * held) * sizeof(float),
                        "the logits of a few rows", err);
    if (st != KS_OK) return st;
    float *logits = dev->shared.data;
    for (int64_t first = 0; first < hidden.rows; first += held) {
        int64_t rows = KS_MIN(held, hidden.rows - first);
        ks_product p = {.out_stride = n,
                        .x = ks__row_f32(&hidden, first),
                        .x_stride = hidden.stride,
                        .w = head};
#pragma omp parallel num_threads(dev->threads)
        {
#pragma omp for schedule(dynamic, 1)
            for (int64_t j = 0; j < n; j += NB)
                ks__product(&p, logits + j, 0, rows, j, KS_MIN(j + NB, n),
                            ks__scratch(dev));
#pragma omp for schedule(dynamic, 1)
            for (int64_t i = 0; i < rows; i++) {
                float l =
                    turn_row(logits + i * n, n, softcap, target[first + i],
                             weight[first + i], of_probability);
                if (logprob) logprob[first + i] = l;
            }
        }
        ks_view to = dhidden;
        to.data = ks__row_f32(&dhidden, first);
        to.rows = rows;
        st = KS_ISA_NAME(gemm_backward)(dev, to, ks_view_f32(logits, rows, n),
                                        head, false, err);
        if (st != KS_OK) return st;
    }
    return KS_OK;
}
