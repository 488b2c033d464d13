/* l2_gram.c - the CPU's l2_gram, l2_project and l2_hessian: sums of outer
 * products of rows. Blocks of rows are weighted into scratch that lies in cache
 * and multiplied from there; lanes' sums join in the order of lanes, whatever
 * the threads. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "l2_cpu.h"

/* ------------------------------------------------------------- covariance */

/* Rows of a block as the covariance takes them: centred, scaled, weighted. */
static void weigh_block(const ks_l2_rows *l2, const ks_l2_scaling *s,
                        ks_l2_block block, float *out) {
    for (int64_t i = block.begin; i < block.end; i++) {
        const float *row = l2->x + i * l2->d;
        float *restrict to = out + (i - block.begin) * l2->d;
        float share = s->share[l2->code[i] & 1];
        for (int64_t j = 0; j < l2->d; j++)
            to[j] = share * ((row[j] - s->centre[j]) * s->inverse[j]);
    }
}

/* Lower triangle of sum [d, d] += the lane's covariance. block: scratch. */
static void add_gram(const ks_l2_rows *l2, const ks_l2_scaling *s, int32_t lane,
                     float *block, float *sum) {
    int32_t from, to;
    ks__l2_lane(l2, lane, &from, &to);
    for (int32_t k = from; k < to; k++) {
        ks_l2_block b = l2->blocks[k];
        weigh_block(l2, s, b, block);
        ks__syrk_f32(l2->d, b.end - b.begin, block, sum);
    }
}

ks_status ks__cpu_l2_gram(ks_dev *dev, ks_l2_rows *l2, const ks_l2_scaling *s,
                          float *out, ks_err *err) {
    ks_status st = KS_OK;
    int64_t d = l2->d;
    int threads = KS_MIN(dev->threads, l2->n_lanes),
        restore = ks__blas_serial();
    float *blocks = NULL, *sums = NULL;
    KS_TRY(ks_alloc(&blocks, (size_t)threads * KS_L2_BLOCK * (size_t)d,
                    sizeof(float), "row blocks", err));
    KS_TRY(ks_alloc(&sums, (size_t)(threads * d * d), sizeof(float),
                    "Gram matrix", err));
    memset(out, 0, (size_t)(d * d) * sizeof *out);
#pragma omp parallel for ordered num_threads(threads) schedule(static, 1)
    for (int32_t lane = 0; lane < l2->n_lanes; lane++) {
        int64_t thread = omp_get_thread_num();
        float *sum = sums + thread * d * d;
        memset(sum, 0, (size_t)(d * d) * sizeof *sum);
        add_gram(l2, s, lane, blocks + thread * KS_L2_BLOCK * d, sum);
#pragma omp ordered
        for (int64_t k = 0; k < d * d; k++) out[k] += sum[k];
    }
done:
    ks__blas_restore(restore);
    free(blocks);
    free(sums);
    return st;
}

/* ---------------------------------------------------------------- projection
 */

typedef struct project_work {
    float *block;   /* [lanes, KS_L2_BLOCK, d] */
    float *product; /* [lanes, KS_L2_BLOCK, n_q] */
    float *sums;    /* [lanes, n_q, d] */
} project_work;

static void project_lane(const ks_l2_rows *l2, const ks_l2_scaling *s,
                         const project_work *w, int32_t lane, const float *q,
                         int64_t n_q) {
    int64_t d = l2->d;
    float *block = w->block + (int64_t)lane * KS_L2_BLOCK * d;
    float *product = w->product + (int64_t)lane * KS_L2_BLOCK * n_q;
    int32_t from, to;
    ks__l2_lane(l2, lane, &from, &to);
    for (int32_t k = from; k < to; k++) {
        ks_l2_block b = l2->blocks[k];
        int64_t rows = b.end - b.begin;
        weigh_block(l2, s, b, block);
        ks__gemm_f32(false, true, rows, n_q, d, block, d, q, d, 0, product,
                     n_q);
        ks__gemm_f32(true, false, n_q, d, rows, product, n_q, block, d, 1,
                     w->sums + lane * n_q * d, d);
    }
}

ks_status ks__cpu_l2_project(ks_dev *dev, ks_l2_rows *l2,
                             const ks_l2_scaling *s, const float *q,
                             int64_t n_q, float *out, ks_err *err) {
    ks_status st = KS_OK;
    int64_t size = n_q * l2->d;
    size_t lanes = (size_t)l2->n_lanes;
    int restore = ks__blas_serial();
    project_work w = {0};
    KS_TRY(ks_alloc(&w.block, lanes * KS_L2_BLOCK * (size_t)l2->d,
                    sizeof(float), "row blocks", err));
    KS_TRY(ks_alloc(&w.product, lanes * KS_L2_BLOCK * (size_t)n_q,
                    sizeof(float), "spectrum", err));
    KS_TRY(ks_alloc(&w.sums, lanes * (size_t)size, sizeof(float), "spectrum",
                    err));
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1)
    for (int32_t lane = 0; lane < l2->n_lanes; lane++)
        project_lane(l2, s, &w, lane, q, n_q);
#pragma omp parallel for num_threads(dev->threads) schedule(static)
    for (int64_t k = 0; k < size; k++) {
        float sum = w.sums[k];
        for (int32_t lane = 1; lane < l2->n_lanes; lane++)
            sum += w.sums[lane * size + k];
        out[k] = sum;
    }
done:
    ks__blas_restore(restore);
    free(w.block);
    free(w.product);
    free(w.sums);
    return st;
}

/* ------------------------------------------------------------------- Hessian
 */

/* Rows of a block as the column has them, 1 at the end, each times the square
 * root of its curvature c p (1 - p); held-out rows are left out. Returns the
 * rows there are. */
static int64_t weigh_rows(const ks_l2_rows *l2, const ks_l2_hessian *c,
                          ks_l2_block block, double *out) {
    int64_t d = l2->d, rows = 0;
    for (int64_t i = block.begin; i < block.end; i++) {
        uint8_t code = l2->code[c->design * l2->n + i];
        if (c->hold >> (code / 2) & 1) continue;
        const float *x = l2->x + i * d;
        double *to = out + rows++ * (d + 1), z = c->b;
        for (int64_t j = 0; j < d; j++) z += c->w[j] * (double)x[j];
        double p = 1 / (1 + exp(-z));
        double share = sqrt(c->class_c[code & 1] * p * (1 - p));
        for (int64_t j = 0; j < d; j++)
            to[j] = share * (((double)x[j] - c->centre[j]) * c->inverse[j]);
        to[d] = share;
    }
    return rows;
}

/* scratch: [KS_L2_BLOCK, d + 1] */
static void form_hessian(const ks_l2_rows *l2, const ks_l2_hessian *c,
                         double *scratch) {
    int64_t m = l2->d + 1;
    memset(c->out, 0, (size_t)(m * m) * sizeof *c->out);
    for (int32_t i = 0; i < l2->n_blocks; i++) {
        int64_t n = weigh_rows(l2, c, l2->blocks[i], scratch);
        if (n) ks__syrk_f64(m, n, scratch, c->out);
    }
}

ks_status ks__cpu_l2_hessian(ks_dev *dev, ks_l2_rows *l2,
                             const ks_l2_hessian *columns, int32_t n,
                             ks_err *err) {
    ks_status st = KS_OK;
    size_t size = KS_L2_BLOCK * (size_t)(l2->d + 1);
    int32_t lanes = KS_MAX(1, KS_MIN(dev->threads, n));
    int restore = ks__blas_serial();
    double *scratch = NULL;
    KS_TRY(ks_alloc(&scratch, (size_t)lanes * size, sizeof *scratch,
                    "a column's Hessian", err));
#pragma omp parallel for num_threads(lanes) schedule(dynamic, 1)
    for (int32_t i = 0; i < n; i++)
        if (!ks_interrupted)
            form_hessian(l2, &columns[i],
                         scratch + (size_t)omp_get_thread_num() * size);
done:
    ks__blas_restore(restore);
    free(scratch);
    return st;
}
