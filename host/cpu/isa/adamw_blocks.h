/* adamw_blocks.h - the products of adamw_mlp.c: a layer's forward, and its
 * gradient with the optimiser's step. Weights lie [inputs, units]. */
#ifndef KS_ADAMW_BLOCKS_H
#define KS_ADAMW_BLOCKS_H

#include "adamw.h"

enum {
    WIDE = 4, /* vectors of units at a time */
    ROWS = 4
};

/* ROWS rows and `wide` vectors of units of forward_block. */
KS_INLINE void forward_tile(float *out, const float *in, int64_t in_stride,
                            const float *w, int64_t inputs, int64_t units,
                            int wide) {
    vf sum[ROWS][WIDE];
    for (int r = 0; r < ROWS; r++)
        for (int q = 0; q < wide; q++)
            sum[r][q] = vload(out + r * units + q * VL);
    for (int64_t k = 0; k < inputs; k++) {
        vf weight[WIDE];
        for (int q = 0; q < wide; q++)
            weight[q] = vload(w + k * units + q * VL);
        for (int r = 0; r < ROWS; r++) {
            vf x = vset(in[r * in_stride + k]);
            for (int q = 0; q < wide; q++)
                sum[r][q] = madd(x, weight[q], sum[r][q]);
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int q = 0; q < wide; q++)
            vstore(out + r * units + q * VL, sum[r][q]);
}

/* out [n, units] += in [n, inputs] w [inputs, units]; n: a multiple of ROWS.
 * Twelve sums hide an addition's latency; 16 registers hold no more. */
static inline void forward_block(float *out, const float *in, int64_t in_stride,
                                 int32_t n, const float *w, int64_t inputs,
                                 int64_t units) {
    for (int64_t left = units / VL, u = 0; left > 0;) {
        int wide = KS_WIDE ? WIDE : left == 4 || left == 2 ? 2 : 3;
        for (int32_t i = 0; i < n; i += ROWS) {
            float *to = out + i * units + u;
            const float *x = in + i * in_stride;
            if (wide == 3)
                forward_tile(to, x, in_stride, w + u, inputs, units, 3);
            else
                forward_tile(to, x, in_stride, w + u, inputs, units,
                             KS_WIDE ? WIDE : 2);
        }
        left -= wide;
        u += wide * VL;
    }
}

enum { DEEP = 4 }; /* inputs of a tile */

/* deep inputs and `wide` vectors of units of step_block. The divider works on
 * a tile's step while the next tile's products are under way. */
KS_INLINE void step_tile(float *w, float *m, float *v, int64_t units,
                         const float *in, int64_t in_stride, const float *slope,
                         int32_t n, const ks_adamw_rate *rate, int deep,
                         int wide) {
    vf g[DEEP][WIDE];
    for (int r = 0; r < deep; r++) {
        /* the same units of the inputs that come next */
        int64_t ahead = (deep + r) * units;
        for (int q = 0; q * VL < wide * VL + 15; q += KS_MAX(1, 16 / VL)) {
            __builtin_prefetch(w + ahead + q * VL, 1, 3);
            __builtin_prefetch(m + ahead + q * VL, 1, 3);
            __builtin_prefetch(v + ahead + q * VL, 1, 3);
        }
        for (int q = 0; q < wide; q++) g[r][q] = vset(0);
    }
    for (int32_t i = 0; i < n; i++) {
        vf s[WIDE];
        for (int q = 0; q < wide; q++) s[q] = vload(slope + i * units + q * VL);
        for (int r = 0; r < deep; r++) {
            vf x = vset(in[i * in_stride + r]);
            for (int q = 0; q < wide; q++) g[r][q] = madd(x, s[q], g[r][q]);
        }
    }
    for (int r = 0; r < deep; r++)
        for (int q = 0; q < wide; q++) {
            int64_t at = r * units + q * VL;
            vstore(w + at, ks__adamw_vector(vload(w + at), g[r][q], m + at,
                                            v + at, rate));
        }
}

/* One step of w [inputs, units] for the gradient in' slope; inputs even. */
static inline void step_block(float *w, float *m, float *v, int64_t inputs,
                              int64_t units, const float *in, int64_t in_stride,
                              const float *slope, int32_t n,
                              const ks_adamw_rate *rate) {
    for (int64_t k = 0; k < inputs; k += DEEP) {
        bool deep = inputs - k >= DEEP;
        for (int64_t left = units / VL, u = 0; left > 0;) {
            int wide = KS_WIDE ? WIDE : left == 4 || left == 2 ? 2 : 3;
            int64_t at = k * units + u;
#define TILE(DEEP_, WIDE_)                                                     \
    step_tile(w + at, m + at, v + at, units, in + k, in_stride, slope + u, n,  \
              rate, DEEP_, WIDE_)
            if (wide == 3)
                deep ? TILE(DEEP, 3) : TILE(2, 3);
            else
                deep ? TILE(DEEP, KS_WIDE ? WIDE : 2)
                     : TILE(2, KS_WIDE ? WIDE : 2);
#undef TILE
            left -= wide;
            u += wide * VL;
        }
    }
}

/* Steps of biases [units]: the sums of slope [n, units]. */
static inline void step_bias(float *w, float *m, float *v, int64_t units,
                             const float *slope, int32_t n,
                             const ks_adamw_rate *rate) {
    for (int64_t u = 0; u < units; u += VL) {
        vf g = vset(0);
        for (int32_t i = 0; i < n; i++) g = g + vload(slope + i * units + u);
        vstore(w + u, ks__adamw_vector(vload(w + u), g, m + u, v + u, rate));
    }
}

#endif
