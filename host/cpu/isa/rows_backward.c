/* rows_backward.c - the way back through ops that treat every row alone: norm
 * and gate. Cotangent rows find the forward's row by `row`.
 */
#include "isa.h"
#include "vmath.h"

/* Below this many elements a team of threads costs more than it saves. */
enum { SMALL = 1 << 14 };

KS_INLINE int64_t forward_row(const int32_t *row, int64_t i, int32_t heads) {
    return row ? (int64_t)row[i / heads] * heads + i % heads : i;
}

/* --------------------------------------------------------------------- norm */

/* The first m (0..VL) elements, the others 0. */
KS_INLINE vf some(const float *p, int64_t m) {
    return m >= VL ? vload(p) : vload_n(p, m, 0);
}

/* Sums of x^2 and of w dy x: two chains of vectors each, then a tree. */
KS_INLINE void sums(const float *x, const float *dy, const float *w, int64_t n,
                    float *squares, float *dots) {
    vf a[2] = {vset(0), vset(0)}, b[2] = {vset(0), vset(0)};
    for (int64_t j = 0; j < n; j += 2 * VL)
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            int64_t at = j + i * VL, m = n - at;
            if (m <= 0) break;
            vf v = some(x + at, m);
            a[i] = madd(v, v, a[i]);
            b[i] = madd(some(w + at, m) * some(dy + at, m), v, b[i]);
        }
    *squares = vsum(a[0] + a[1]);
    *dots = vsum(b[0] + b[1]);
}

static void norm_row(float *dx, const float *dy, const float *x, const float *w,
                     int64_t n, float eps, bool accumulate) {
    float squares, dots;
    sums(x, dy, w, n, &squares, &dots);
    float r = 1.0f / __builtin_sqrtf(squares / (float)n + eps);
    float pull = -(r * r * r * (dots / (float)n));
    for (int64_t j = 0; j < n; j += VL) {
        int64_t m = KS_MIN(VL, n - j);
        vf v = vset(r) * (some(w + j, m) * some(dy + j, m));
        v = madd(vset(pull), some(x + j, m), v);
        if (accumulate) v = v + some(dx + j, m);
        vstore_n(dx + j, v, m);
    }
}

ks_status KS_ISA_NAME(norm_backward)(ks_dev *dev, ks_view dx, ks_view dy,
                                     ks_view x, const int32_t *row,
                                     int32_t heads, const float *w, float eps,
                                     bool accumulate, ks_err *err) {
    ks_status st = ks__check_norm_backward(&dx, &dy, &x, row, heads, err);
    if (st != KS_OK) return st;
#pragma omp parallel for num_threads(dev->threads) if (dx.rows * dx.cols >     \
                                                       SMALL)
    for (int64_t i = 0; i < dx.rows; i++)
        norm_row(ks__row_f32(&dx, i), ks__row_f32(&dy, i),
                 ks__row_f32(&x, forward_row(row, i, heads)), w, x.cols, eps,
                 accumulate);
    return KS_OK;
}

/* --------------------------------------------------------------------- gate */

/* act(x) and its derivative. */
KS_INLINE vf activate(vf x, ks_act act, vf *slope) {
    vf one = vset(1.0f), half = vset(0.5f);
    switch (act) {
    case KS_SILU: { /* s = 1 / (1 + e^-x): x s, s (1 + x (1 - s)) */
        vf s = one / (one + vexp(-x));
        *slope = s * madd(x, one - s, one);
        return x * s;
    }
    case KS_GELU_TANH: { /* u = sqrt(2/pi) (x + 0.044715 x^3), t = tanh(u):
                            0.5 (1 + t) + 0.5 x (1 - t^2) u' */
        vf z = x * x;
        vf t = vtanh(
            x * madd(z, vset(0.044715f * 0.7978845608f), vset(0.7978845608f)));
        vf du =
            madd(z, vset(3 * 0.044715f * 0.7978845608f), vset(0.7978845608f));
        vf s = half * (one + t);
        *slope = madd(half * x * (one - t) * (one + t), du, s);
        return x * s;
    }
    default: { /* KS_GELU_ERF: Phi(x) + x phi(x) */
        vf s = half * (one + verf(x * vset(0.70710678118654752f)));
        vf density = vset(0.39894228040143268f) * vexp(vset(-0.5f) * x * x);
        *slope = madd(x, density, s);
        return x * s;
    }
    }
}

KS_INLINE void gate_row(float *dgate, float *dup, const float *dout,
                        const float *gate, const float *up, int64_t n,
                        ks_act act) {
    for (int64_t j = 0; j < n; j += VL) {
        int64_t m = KS_MIN(VL, n - j);
        vf slope, d = some(dout + j, m);
        vf a = activate(some(gate + j, m), act, &slope);
        vstore_n(dgate + j, d * some(up + j, m) * slope, m);
        vstore_n(dup + j, d * a, m);
    }
}

ks_status KS_ISA_NAME(gate_backward)(ks_dev *dev, ks_view dgate, ks_view dup,
                                     ks_view dout, ks_view gate, ks_view up,
                                     const int32_t *row, ks_act act,
                                     ks_err *err) {
    int64_t n = dout.cols;
    if (dgate.cols != n || dup.cols != n || gate.cols != n || up.cols != n ||
        dgate.rows != dout.rows || dup.rows != dout.rows ||
        gate.rows != up.rows || (!row && gate.rows < dout.rows))
        return ks_fail(err, KS_INTERNAL, "gate backward: shapes differ");
#pragma omp parallel for num_threads(dev->threads) if (dout.rows * n > SMALL)
    for (int64_t i = 0; i < dout.rows; i++) {
        int64_t t = forward_row(row, i, 1);
        float *dg = ks__row_f32(&dgate, i), *du = ks__row_f32(&dup, i);
        const float *d = ks__row_f32(&dout, i);
        const float *g = ks__row_f32(&gate, t), *u = ks__row_f32(&up, t);
        switch (act) {
        case KS_SILU:
            gate_row(dg, du, d, g, u, n, KS_SILU);
            break;
        case KS_GELU_TANH:
            gate_row(dg, du, d, g, u, n, KS_GELU_TANH);
            break;
        default:
            gate_row(dg, du, d, g, u, n, KS_GELU_ERF);
        }
    }
    return KS_OK;
}
