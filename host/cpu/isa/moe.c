/* moe.c - ops of mixture-of-experts layers (Shazeer et al., 2017): choosing
 * experts, rows by expert, one product an expert, gpt-oss's gate, the sum.
 */
#include "isa.h"
#include "vmath.h"

/* Below this many elements a team of threads costs more than it saves. */
enum { SMALL = 1 << 14 };

/* -------------------------------------------------------------------- route */

/* An integer that grows with the logit: -0 as 0, NaN above all. */
static uint32_t rank_of(float logit) {
    uint32_t bits;
    if (isnan(logit)) return UINT32_MAX;
    logit += 0.0f;
    memcpy(&bits, &logit, sizeof bits);
    return bits >> 31 ? ~bits : bits | 0x80000000;
}

/* Is expert e above expert f? */
static bool above(const float *logits, int32_t e, int32_t f) {
    uint32_t a = rank_of(logits[e]), b = rank_of(logits[f]);
    return a > b || (a == b && e < f);
}

/* The top_k experts, ascending: of those below the last choice the highest,
 * put where its number belongs. Returns the highest logit. */
static float choose(int32_t *expert, const float *logits, int32_t n,
                    int32_t top_k) {
    int32_t last = -1, first = 0;
    for (int32_t k = 0; k < top_k; k++) {
        int32_t best = -1;
        for (int32_t e = 0; e < n; e++)
            if ((last < 0 || above(logits, last, e)) &&
                (best < 0 || above(logits, e, best)))
                best = e;
        int32_t at = k;
        for (; at > 0 && expert[at - 1] > best; at--)
            expert[at] = expert[at - 1];
        expert[at] = last = best;
        if (k == 0) first = best;
    }
    return logits[first];
}

/* sum of exp(x - top) in order, VL at a time. */
static float exp_sum(const float *x, int64_t n, float top) {
    vf sum = vset(0);
    for (int64_t j = 0; j < n; j += VL)
        sum = sum +
              vexp(vload_n(x + j, KS_MIN(VL, n - j), -INFINITY) - vset(top));
    return vsum(sum);
}

static void route_row(int32_t *expert, float *weight, const float *logits,
                      int32_t n, int32_t top_k, bool renormalise) {
    float top = choose(expert, logits, n, top_k);
    for (int32_t k = 0; k < top_k; k++) weight[k] = logits[expert[k]];
    float sum =
        renormalise ? exp_sum(weight, top_k, top) : exp_sum(logits, n, top);
    for (int32_t k = 0; k < top_k; k += VL) {
        int32_t m = KS_MIN(VL, top_k - k);
        vf e = vexp(vload_n(weight + k, m, 0) - vset(top));
        vstore_n(weight + k, e / vset(sum), m);
    }
}

ks_status KS_ISA_NAME(route)(ks_dev *dev, int32_t *expert, float *weight,
                             ks_view logits, int32_t top_k, bool renormalise,
                             ks_err *err) {
    ks_status st = ks__check_route(&logits, top_k, err);
    if (st != KS_OK) return st;
#pragma omp parallel for num_threads(dev->threads) if (logits.rows > 64)
    for (int64_t i = 0; i < logits.rows; i++)
        route_row(expert + i * top_k, weight + i * top_k,
                  ks__row_f32(&logits, i), (int32_t)logits.cols, top_k,
                  renormalise);
    return KS_OK;
}

/* -------------------------------------------------------------------- group */

/* A counting sort: sizes, where each expert begins, then each pair's place. */
ks_status KS_ISA_NAME(group)(ks_dev *dev, int32_t *offsets, int32_t *row,
                             int32_t *place, const int32_t *expert, int64_t n,
                             int32_t top_k, int32_t n_experts, ks_err *err) {
    (void)dev;
    if (top_k < 1 || n_experts < top_k || n * top_k > INT32_MAX)
        return ks_fail(err, KS_INTERNAL, "group: %lld rows, %d of %d experts",
                       (long long)n, top_k, n_experts);
    memset(offsets, 0, (size_t)(n_experts + 1) * sizeof *offsets);
    for (int64_t i = 0; i < n * top_k; i++) offsets[expert[i] + 1]++;
    for (int32_t e = 0; e < n_experts; e++) offsets[e + 1] += offsets[e];
    for (int64_t i = 0; i < n * top_k; i++) {
        place[i] = offsets[expert[i]]++;
        row[place[i]] = (int32_t)(i / top_k);
    }
    /* each now stands where the next one began */
    memmove(offsets + 1, offsets, (size_t)n_experts * sizeof *offsets);
    offsets[0] = 0;
    return KS_OK;
}

/* ------------------------------------------------------------- gemm_grouped */

static ks_status check_grouped(const ks_view *out, const ks_view *x,
                               const ks_view *w, int32_t n_experts,
                               ks_err *err) {
    if (n_experts < 1 || x->cols != w->cols || out->cols * n_experts != w->rows)
        return ks_fail(err, KS_INTERNAL,
                       "gemm_grouped: [%lld,%lld] = [%lld,%lld] [%lld,%lld]^T "
                       "of %d experts",
                       (long long)out->rows, (long long)out->cols,
                       (long long)x->rows, (long long)x->cols,
                       (long long)w->rows, (long long)w->cols, n_experts);
    if (x->type != KS_F32 || out->type != KS_F32 || w->type >= KS_I32)
        return ks_fail(err, KS_INTERNAL, "gemm_grouped: types %s = %s %s",
                       ks_type_name(out->type), ks_type_name(x->type),
                       ks_type_name(w->type));
    return KS_OK;
}

/* x by pairs: its rows in the order of `row`, so that an expert's lie together.
 */
static ks_status gather(ks_dev *dev, ks_view *x, const int32_t *row, int64_t n,
                        ks_err *err) {
    size_t bytes = (size_t)x->cols * sizeof(float);
    ks_status st = ks__shared(dev, (size_t)n * bytes, "the experts' rows", err);
    if (st != KS_OK) return st;
    ks_view to = ks_view_f32(dev->shared.data, n, x->cols);
#pragma omp parallel for num_threads(dev->threads) if (n * x->cols > SMALL)
    for (int64_t p = 0; p < n; p++)
        memcpy(ks__row_f32(&to, p), ks__row_f32(x, row[p]), bytes);
    *x = to;
    return KS_OK;
}

ks_status KS_ISA_NAME(gemm_grouped)(ks_dev *dev, ks_view out, ks_view x,
                                    const int32_t *row, ks_view w,
                                    const float *bias, const int32_t *offsets,
                                    int32_t n_experts, ks_err *err) {
    ks_status st = check_grouped(&out, &x, &w, n_experts, err);
    if (st == KS_OK && row) st = gather(dev, &x, row, out.rows, err);
    for (int32_t e = 0; st == KS_OK && e < n_experts; e++) {
        int64_t first = offsets[e], n = offsets[e + 1] - first;
        if (n == 0) continue;
        ks_view of = w, from = x, to = out;
        of.rows = out.cols;
        of.data = (char *)w.data +
                  (size_t)(e * out.cols) * ks_type_row_bytes(w.type, w.stride);
        from.data = ks__row_f32(&x, first), from.rows = n;
        to.data = ks__row_f32(&out, first), to.rows = n;
        st = KS_ISA_NAME(gemm)(dev, to, from, of,
                               bias ? bias + e * out.cols : NULL, false, err);
    }
    return st;
}

/* ------------------------------------------------------------- gate_clamped */

/* One pair. A NaN passes the comparisons unchanged. */
KS_INLINE void split(const float *pair, ks_clamp c, float *gate, float *up) {
    *gate = pair[0] > c.limit ? c.limit : pair[0];
    float u = pair[1] > c.limit ? c.limit : pair[1];
    *up = u < -c.limit ? -c.limit : u;
}

static void clamped_row(float *out, const float *x, int64_t n, ks_clamp c) {
    for (int64_t j = 0; j < n; j += VL) {
        float gate[VL] = {0}, up[VL] = {0};
        int64_t m = KS_MIN(VL, n - j);
        for (int64_t i = 0; i < m; i++)
            split(x + 2 * (j + i), c, gate + i, up + i);
        vf g = vload(gate);
        vf sigmoid = vset(1) / (vset(1) + vexp(vset(-c.alpha) * g));
        vstore_n(out + j, (vload(up) + vset(1)) * (g * sigmoid), m);
    }
}

ks_status KS_ISA_NAME(gate_clamped)(ks_dev *dev, ks_view out, ks_view x,
                                    ks_clamp clamp, ks_err *err) {
    ks_status st = ks__check_gate_clamped(&out, &x, err);
    if (st != KS_OK) return st;
#pragma omp parallel for num_threads(dev->threads) if (out.rows * out.cols >   \
                                                       SMALL)
    for (int64_t i = 0; i < out.rows; i++)
        clamped_row(ks__row_f32(&out, i), ks__row_f32(&x, i), out.cols, clamp);
    return KS_OK;
}

/* ------------------------------------------------------------------ combine */

static void combine_row(float *out, const ks_view *x, const int32_t *place,
                        const float *weight, int32_t top_k) {
    for (int64_t j = 0; j < x->cols; j += VL) {
        int64_t m = KS_MIN(VL, x->cols - j);
        vf sum = vset(0);
        for (int32_t s = 0; s < top_k; s++)
            sum = madd(vset(weight[s]),
                       vload_n(ks__row_f32(x, place[s]) + j, m, 0), sum);
        vstore_n(out + j, sum, m);
    }
}

ks_status KS_ISA_NAME(combine)(ks_dev *dev, ks_view out, ks_view x,
                               const int32_t *place, const float *weight,
                               int32_t top_k, ks_err *err) {
    ks_status st = ks__check_combine(&out, &x, top_k, err);
    if (st != KS_OK) return st;
#pragma omp parallel for num_threads(dev->threads) if (x.rows * x.cols > SMALL)
    for (int64_t i = 0; i < out.rows; i++)
        combine_row(ks__row_f32(&out, i), &x, place + i * top_k,
                    weight + i * top_k, top_k);
    return KS_OK;
}
