/* attention_pass.c - one read of the tokens for all active columns: values and
 * logits of a block by one product, softmax and residuals step by step, the
 * gradients by a second product while the block lies in cache. On a backend
 * with memory of its own both products are its matmul, and what lies between
 * them comes to the host and goes back. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention_state.h"
#include "blas.h"

typedef struct lane {
    double *g, *r, *loss;    /* [n, 2 d], [n], [n] */
    int32_t *pick, n_pick;   /* columns of the block */
    int fold;                /* that they were picked for; -1: none yet */
    float *w, *z, *part;     /* [2 n, d], [widest, 2 n], [2 n, d] */
    float *most, *sum, *mid; /* [n] */
    float *u;                /* [widest, d] of a file's tokens */
    ks_buf w_buf, z_buf, part_buf;
} lane;

/* All but what is added up when every lane is done. */
static void lane_rest(const ks_attention *a, lane *l) {
    void *all[] = {l->pick, l->w, l->z, l->part, l->most, l->sum, l->mid, l->u};
    for (size_t i = 0; i < KS_COUNT(all); i++) free(all[i]);
    l->pick = NULL, l->w = l->z = l->part = NULL;
    l->most = l->sum = l->mid = l->u = NULL;
    if (!a->dev) return;
    a->ops->free(a->dev, &l->w_buf);
    a->ops->free(a->dev, &l->z_buf);
    a->ops->free(a->dev, &l->part_buf);
}

static void lane_close(lane *l) {
    free(l->g);
    free(l->r);
    free(l->loss);
}

static ks_status lane_open(const ks_attention *a, lane *l, int32_t columns,
                           ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)columns, d = (size_t)a->rows.d;
    size_t z = (size_t)a->widest * 2 * n;
    l->fold = -1;
    KS_TRY(ks_alloc(&l->g, n * d, 2 * sizeof(double), "a pass", err));
    KS_TRY(ks_alloc(&l->r, n, sizeof(double), "a pass", err));
    KS_TRY(ks_alloc(&l->loss, n, sizeof(double), "a pass", err));
    KS_TRY(ks_alloc(&l->pick, n, sizeof(int32_t), "a pass", err));
    KS_TRY(ks_alloc(&l->w, n * d, 2 * sizeof(float), "a pass", err));
    KS_TRY(ks_alloc(&l->z, z, sizeof(float), "a pass", err));
    KS_TRY(ks_alloc(&l->part, n * d, 2 * sizeof(float), "a pass", err));
    float **thin[] = {&l->most, &l->sum, &l->mid};
    for (size_t i = 0; i < KS_COUNT(thin); i++)
        KS_TRY(ks_alloc(thin[i], n, sizeof(float), "a pass", err));
    if (!a->u)
        KS_TRY(ks_alloc(&l->u, (size_t)a->widest * d, sizeof(float), "a pass",
                        err));
    if (!a->dev) return KS_OK;
    KS_TRY(a->ops->alloc(a->dev, &l->w_buf, 2 * n * d * sizeof(float), "a pass",
                         err));
    KS_TRY(a->ops->alloc(a->dev, &l->z_buf, z * sizeof(float), "a pass", err));
    KS_TRY(a->ops->alloc(a->dev, &l->part_buf, 2 * n * d * sizeof(float),
                         "a pass", err));
done:
    return st;
}

/* The columns that train on the fold, or all of them; their w side by side and
 * behind them their q. */
static ks_status choose(const ks_attention *a, lane *l,
                        const ks_attention_pass *p, uint8_t fold, ks_err *err) {
    int64_t d = a->rows.d;
    if (l->fold == (p->look ? 0 : fold)) return KS_OK;
    l->fold = p->look ? 0 : fold;
    l->n_pick = 0;
    for (int32_t k = 0; k < p->n; k++)
        if (p->look || !(p->hold[k] >> fold & 1)) l->pick[l->n_pick++] = k;
    for (int32_t k = 0; k < l->n_pick; k++) {
        const double *w = p->w + l->pick[k] * d, *q = p->q + l->pick[k] * d;
        for (int64_t j = 0; j < d; j++) {
            l->w[k * d + j] = (float)w[j];
            l->w[(l->n_pick + k) * d + j] = (float)q[j];
        }
    }
    if (!a->dev) return KS_OK;
    return a->ops->copy(a->dev, l->w_buf.data, l->w,
                        2 * (size_t)l->n_pick * (size_t)d * sizeof *l->w, err);
}

static ks_view view_of(void *data, int64_t rows, int64_t cols) {
    return (ks_view){data, rows, cols, cols, KS_F32};
}

/* z [m, 2 picks] = u w' */
static ks_status forward(const ks_attention *a, lane *l, const float *tokens,
                         int64_t at, int64_t m, ks_err *err) {
    ks_status st = KS_OK;
    int64_t d = a->rows.d, wide = 2 * (int64_t)l->n_pick;
    if (!a->dev) {
        ks__gemm_f32(false, true, m, wide, d, tokens, d, l->w, d, 0, l->z,
                     wide);
        return KS_OK;
    }
    float *u = (float *)a->u_buf.data + at * d;
    KS_TRY(a->ops->matmul(a->dev, view_of(l->z_buf.data, m, wide),
                          view_of(u, m, d), false,
                          view_of(l->w_buf.data, wide, d), true, 1, 0, err));
    KS_TRY(a->ops->copy(a->dev, l->z, l->z_buf.data,
                        (size_t)(m * wide) * sizeof *l->z, err));
    KS_TRY(a->ops->sync(a->dev, err));
done:
    return st;
}

/* part [2 picks, d] = z' u */
static ks_status backward(const ks_attention *a, lane *l, const float *tokens,
                          int64_t at, int64_t m, ks_err *err) {
    ks_status st = KS_OK;
    int64_t d = a->rows.d, wide = 2 * (int64_t)l->n_pick;
    if (!a->dev) {
        ks__gemm_f32(true, false, wide, d, m, l->z, wide, tokens, d, 0, l->part,
                     d);
        return KS_OK;
    }
    float *u = (float *)a->u_buf.data + at * d;
    KS_TRY(a->ops->copy(a->dev, l->z_buf.data, l->z,
                        (size_t)(m * wide) * sizeof *l->z, err));
    KS_TRY(a->ops->matmul(a->dev, view_of(l->part_buf.data, wide, d),
                          view_of(l->z_buf.data, m, wide), true,
                          view_of(u, m, d), false, 1, 0, err));
    KS_TRY(a->ops->copy(a->dev, l->part, l->part_buf.data,
                        (size_t)(wide * d) * sizeof *l->part, err));
    KS_TRY(a->ops->sync(a->dev, err));
done:
    return st;
}

/* Logits of m tokens to their softmax, in place; mid: the values' mean. */
static void attend(lane *l, float *z, int64_t m) {
    int32_t n = l->n_pick;
    int64_t wide = 2 * (int64_t)n;
    for (int32_t k = 0; k < n; k++) {
        l->most[k] = -INFINITY;
        l->sum[k] = l->mid[k] = 0;
    }
    for (int64_t t = 0; t < m; t++)
        for (int32_t k = 0; k < n; k++)
            l->most[k] = fmaxf(l->most[k], z[t * wide + n + k]);
    for (int64_t t = 0; t < m; t++)
        for (int32_t k = 0; k < n; k++) {
            float e = expf(z[t * wide + n + k] - l->most[k]);
            z[t * wide + n + k] = e;
            l->sum[k] += e;
            l->mid[k] += e * z[t * wide + k];
        }
    for (int32_t k = 0; k < n; k++) {
        l->sum[k] = 1 / l->sum[k];
        l->mid[k] *= l->sum[k];
    }
    for (int64_t t = 0; t < m; t++)
        for (int32_t k = 0; k < n; k++) z[t * wide + n + k] *= l->sum[k];
}

/* z of a step to what its tokens give the gradients of w and q. */
static void step_back(lane *l, const ks_attention_pass *p, float *z, int64_t m,
                      int8_t y) {
    int32_t n = l->n_pick;
    int64_t wide = 2 * (int64_t)n;
    for (int32_t k = 0; k < n; k++) {
        int32_t column = l->pick[k];
        double at = (double)l->mid[k] + p->b[column];
        double c = p->class_c[2 * column + y], off = y ? -at : at;
        double r = c * (1 / (1 + exp(-at)) - y);
        l->loss[column] +=
            c * (off > 0 ? off + log1p(exp(-off)) : log1p(exp(off)));
        l->r[column] += r;
        l->sum[k] = (float)r;
    }
    for (int64_t t = 0; t < m; t++)
        for (int32_t k = 0; k < n; k++) {
            float *value = &z[t * wide + k], *share = &z[t * wide + n + k];
            float give = l->sum[k] * *share;
            *share = give * (*value - l->mid[k]);
            *value = give;
        }
}

static void step_look(const lane *l, const ks_attention_pass *p, const float *z,
                      int64_t m, int64_t step) {
    int32_t n = l->n_pick;
    int64_t wide = 2 * (int64_t)n;
    for (int32_t k = 0; k < n; k++) {
        if (p->margin[k])
            p->margin[k][step] = (float)((double)l->mid[k] + p->b[k]);
        if (p->first[k]) p->first[k][step] = z[n + k];
        if (p->last[k]) p->last[k][step] = z[(m - 1) * wide + n + k];
        if (!p->entropy[k]) continue;
        double sum = 0;
        for (int64_t t = 0; t < m; t++) {
            double share = (double)z[t * wide + n + k];
            if (share > 0) sum -= share * log(share);
        }
        p->entropy[k][step] = m > 1 ? (float)(sum / log((double)m)) : 1;
    }
}

static ks_status run_block(const ks_attention *a, lane *l,
                           const ks_attention_pass *p,
                           const ks_attention_block *block, ks_err *err) {
    ks_status st = KS_OK;
    const int64_t *offset = a->rows.offset;
    int64_t at = offset[block->begin], m = offset[block->end] - at;
    int64_t d = a->rows.d;
    const float *u;
    KS_TRY(choose(a, l, p, block->fold, err));
    if (!l->n_pick) return KS_OK;
    KS_TRY(ks__attention_tokens(a, at, m, l->u, &u, err));
    KS_TRY(forward(a, l, u, at, m, err));
    for (int64_t i = block->begin; i < block->end; i++) {
        float *z = l->z + (offset[i] - at) * 2 * l->n_pick;
        int64_t tokens = offset[i + 1] - offset[i];
        attend(l, z, tokens);
        if (p->look)
            step_look(l, p, z, tokens, i);
        else
            step_back(l, p, z, tokens, a->rows.y[i]);
    }
    if (p->look) return KS_OK;
    KS_TRY(backward(a, l, u, at, m, err));
    for (int32_t k = 0; k < l->n_pick; k++) {
        double *g = l->g + (int64_t)l->pick[k] * 2 * d;
        for (int64_t j = 0; j < d; j++) {
            g[j] += (double)l->part[k * d + j];
            g[d + j] += (double)l->part[(l->n_pick + k) * d + j];
        }
    }
done:
    return st;
}

static ks_status run_lane(const ks_attention *a, lane *l,
                          const ks_attention_pass *p, int32_t index,
                          ks_err *err) {
    ks_status st = KS_OK;
    int32_t from = (int32_t)((int64_t)index * a->n_blocks / a->n_lanes);
    int32_t to = (int32_t)((index + 1LL) * a->n_blocks / a->n_lanes);
    KS_TRY(lane_open(a, l, p->n, err));
    for (int32_t k = from; k < to; k++)
        KS_TRY(run_block(a, l, p, &a->blocks[k], err));
done:
    lane_rest(a, l);
    return st;
}

size_t ks__attention_pass_bytes(const ks_attention_rows *r, int64_t widest,
                                int32_t n, int threads, bool scratch) {
    size_t d = (size_t)r->d, columns = (size_t)n, most = (size_t)widest;
    return KS_ATTENTION_LANES * columns * 2 * (d + 1) * sizeof(double) +
           (size_t)KS_MIN(threads, KS_ATTENTION_LANES) *
               (ks_l2_blas_bytes(r->d) +
                sizeof(float) * (columns * (4 * d + 2 * most + 4) +
                                 (scratch ? most * d : 0)));
}

static void add_lanes(const ks_attention *a, const lane *lanes,
                      const ks_attention_pass *p, int32_t k) {
    int64_t d = a->rows.d;
    double *gw = p->gw + k * d, *gq = p->gq + k * d;
    p->r[k] = p->loss[k] = 0;
    memset(gw, 0, (size_t)d * sizeof *gw);
    memset(gq, 0, (size_t)d * sizeof *gq);
    for (int32_t i = 0; i < a->n_lanes; i++) {
        const double *from = lanes[i].g + (int64_t)k * 2 * d;
        for (int64_t j = 0; j < d; j++) {
            gw[j] += from[j];
            gq[j] += from[d + j];
        }
        p->r[k] += lanes[i].r[k];
        p->loss[k] += lanes[i].loss[k];
    }
}

ks_status ks__attention_evaluate(const ks_attention *a,
                                 const ks_attention_pass *p, ks_err *err) {
    ks_status st = KS_OK;
    lane lanes[KS_ATTENTION_LANES];
    int restore = ks__blas_serial();
    memset(lanes, 0, sizeof lanes);
#pragma omp parallel for schedule(dynamic, 1)                                  \
    num_threads(a->dev ? 1 : a->threads)
    for (int32_t k = 0; k < a->n_lanes; k++) {
        ks_err mine = {0};
        ks_status got = run_lane(a, &lanes[k], p, k, &mine);
        if (got != KS_OK)
#pragma omp critical(ks_attention)
        {
            st = got;
            if (err) *err = mine;
        }
    }
    if (st == KS_OK && !p->look)
#pragma omp parallel for num_threads(a->threads) schedule(static)
        for (int32_t k = 0; k < p->n; k++) add_lanes(a, lanes, p, k);
    for (int32_t k = 0; k < a->n_lanes; k++) lane_close(&lanes[k]);
    ks__blas_restore(restore);
    return st;
}
