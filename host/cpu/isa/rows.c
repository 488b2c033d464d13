/* rows.c - ops that treat every row alone: embed, norm, add, gate. */
#include "isa.h"
#include "vmath.h"

/* Below this many elements a team of threads costs more than it saves. */
enum { SMALL = 1 << 14 };

ks_status KS_ISA_NAME(embed)(ks_dev *dev, ks_view out, ks_view table,
                             const int32_t *ids, float scale, ks_err *err) {
    if (out.cols != table.cols)
        return ks_fail(err, KS_INTERNAL, "embed: %lld columns from %lld",
                       (long long)out.cols, (long long)table.cols);
    int64_t n = out.cols;
#pragma omp parallel for num_threads(dev->threads) if (out.rows * n > SMALL)
    for (int64_t t = 0; t < out.rows; t++) {
        float *o = ks__row_f32(&out, t);
        ks_dequantize(table.type, ks__row(&table, ids[t]), o, n);
        if (scale == 1) continue;
        for (int64_t j = 0; j < n; j++) o[j] *= scale;
    }
    return KS_OK;
}

/* --------------------------------------------------------------------- norm */

/* Sum of squares of x (after x += add): four chains of vectors, then a tree. */
KS_INLINE float sum_squares(float *x, const float *add, int64_t n) {
    vf sum[4] = {vset(0), vset(0), vset(0), vset(0)};
    int64_t j = 0;
    for (; j + 4 * VL <= n; j += 4 * VL) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            vf v = vload(x + j + i * VL);
            if (add) {
                v = v + vload(add + j + i * VL);
                vstore(x + j + i * VL, v);
            }
            sum[i] = madd(v, v, sum[i]);
        }
    }
    for (; j < n; j += VL) {
        int64_t m = KS_MIN(VL, n - j);
        vf v = vload_n(x + j, m, 0);
        if (add) {
            v = v + vload_n(add + j, m, 0);
            vstore_n(x + j, v, m);
        }
        sum[0] = madd(v, v, sum[0]);
    }
    return vsum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

KS_INLINE void scale_row(float *out, const float *x, const float *w, float s,
                         int64_t n) {
    int64_t j = 0;
    for (; j + VL <= n; j += VL)
        vstore(out + j, vload(x + j) * vset(s) * vload(w + j));
    for (; j < n; j++) out[j] = x[j] * s * w[j];
}

ks_status KS_ISA_NAME(norm)(ks_dev *dev, ks_view out, ks_view x,
                            const ks_view *add, const float *w, float eps,
                            ks_err *err) {
    ks_status st = ks__check_norm(&out, &x, add, err);
    if (st != KS_OK) return st;
    int64_t n = x.cols;
#pragma omp parallel for num_threads(dev->threads) if (x.rows * n > SMALL)
    for (int64_t t = 0; t < x.rows; t++) {
        float *row = ks__row_f32(&x, t);
        float sum = add ? sum_squares(row, ks__row_f32(add, t), n)
                        : sum_squares(row, NULL, n);
        float s = 1.0f / __builtin_sqrtf(sum / (float)n + eps);
        scale_row(ks__row_f32(&out, t), row, w, s, n);
    }
    return KS_OK;
}

ks_status KS_ISA_NAME(add)(ks_dev *dev, ks_view x, ks_view y, ks_err *err) {
    ks_status st = ks__check_add(&x, &y, err);
    if (st != KS_OK) return st;
#pragma omp parallel for num_threads(dev->threads) if (x.rows * x.cols > SMALL)
    for (int64_t t = 0; t < x.rows; t++) {
        float *a = ks__row_f32(&x, t);
        const float *b = ks__row_f32(&y, t);
        for (int64_t j = 0; j < x.cols; j++) a[j] += b[j];
    }
    return KS_OK;
}

/* --------------------------------------------------------------------- gate */

KS_INLINE vf activate(vf x, ks_act act) {
    switch (act) {
    case KS_SILU:
        return x / (vset(1.0f) + vexp(-x));
    case KS_GELU_TANH: {
        /* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
        vf u = x * madd(x * x, vset(0.044715f * 0.7978845608f),
                        vset(0.7978845608f));
        return vset(0.5f) * x * (vset(1.0f) + vtanh(u));
    }
    default: /* KS_GELU_ERF */
        return vset(0.5f) * x *
               (vset(1.0f) + verf(x * vset(0.70710678118654752f)));
    }
}

KS_INLINE void gate_row(float *out, const float *gate, const float *up,
                        int64_t n, ks_act act) {
    int64_t j = 0;
    for (; j + VL <= n; j += VL)
        vstore(out + j, activate(vload(gate + j), act) * vload(up + j));
    if (j < n) {
        vf v = activate(vload_n(gate + j, n - j, 0), act);
        vstore_n(out + j, v * vload_n(up + j, n - j, 0), n - j);
    }
}

ks_status KS_ISA_NAME(gate)(ks_dev *dev, ks_view out, ks_view gate, ks_view up,
                            ks_act act, ks_err *err) {
    if (out.cols != gate.cols || out.rows != gate.rows || out.cols != up.cols ||
        out.rows != up.rows)
        return ks_fail(err, KS_INTERNAL, "gate: shapes differ");
    int64_t n = out.cols;
#pragma omp parallel for num_threads(dev->threads) if (out.rows * n > SMALL)
    for (int64_t t = 0; t < out.rows; t++) {
        float *o = ks__row_f32(&out, t);
        const float *g = ks__row_f32(&gate, t), *u = ks__row_f32(&up, t);
        switch (act) {
        case KS_SILU:
            gate_row(o, g, u, n, KS_SILU);
            break;
        case KS_GELU_TANH:
            gate_row(o, g, u, n, KS_GELU_TANH);
            break;
        default:
            gate_row(o, g, u, n, KS_GELU_ERF);
        }
    }
    return KS_OK;
}
