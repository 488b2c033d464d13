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

enum {
    BLOCK = 2 * WIDE, /* vectors of a block: 2 inputs, WIDE of units */
    AHEAD = 4         /* inputs whose state is asked for ahead */
};

/* A block whose gradient is there and whose step is not. */
typedef struct late {
    vf g[BLOCK];
    float *w, *m, *v; /* NULL: none */
} late;

/* Vector k of the block. */
KS_INLINE void step_late(const late *b, int64_t units, int k,
                         const ks_adamw_rate *rate) {
    int64_t at = k / WIDE * units + k % WIDE * VL, ahead = at + AHEAD * units;
    if (k * VL % 16 == 0) { /* a line of 64 bytes */
        __builtin_prefetch(b->w + ahead, 1, 3);
        __builtin_prefetch(b->m + ahead, 1, 3);
        __builtin_prefetch(b->v + ahead, 1, 3);
    }
    vstore(b->w + at, ks__adamw_vector(vload(b->w + at), b->g[k], b->m + at,
                                       b->v + at, rate));
}

/* One step of w [inputs, units] for the gradient in' slope; inputs even. The
 * roots and divisions of a block's step go between the products of the next
 * block's gradient, which hide them. */
static inline void step_block(float *w, float *m, float *v, int64_t inputs,
                              int64_t units, const float *in, int64_t in_stride,
                              const float *slope, int32_t n,
                              const ks_adamw_rate *rate) {
    late b = {.w = NULL};
    for (int64_t k = 0; k < inputs; k += 2)
        for (int64_t u = 0; u < units; u += WIDE * VL) {
            vf g[2][WIDE];
            for (int q = 0; q < WIDE; q++) g[0][q] = g[1][q] = vset(0);
            for (int part = 0; part < BLOCK; part++) {
                for (int32_t i = n * part / BLOCK; i < n * (part + 1) / BLOCK;
                     i++) {
                    vf x = vset(in[i * in_stride + k]);
                    vf y = vset(in[i * in_stride + k + 1]);
                    for (int q = 0; q < WIDE; q++) {
                        vf s = vload(slope + i * units + u + q * VL);
                        g[0][q] = madd(x, s, g[0][q]);
                        g[1][q] = madd(y, s, g[1][q]);
                    }
                }
                if (b.w) step_late(&b, units, part, rate);
            }
            for (int q = 0; q < WIDE; q++) {
                b.g[q] = g[0][q];
                b.g[WIDE + q] = g[1][q];
            }
            int64_t at = k * units + u;
            b.w = w + at, b.m = m + at, b.v = v + at;
        }
    for (int part = 0; b.w && part < BLOCK; part++)
        step_late(&b, units, part, rate);
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
