/* l2_gram.c - the CPU's l2_gram, l2_project and l2_hessian: sums of outer
 * products of rows. Blocks of rows are weighted into scratch that lies in cache
 * and multiplied from there; lanes' sums join in the order of lanes, whatever
 * the threads. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "l2_cpu.h"

/* What one thread works with. */
typedef struct thread_work {
    float *block;   /* [KS_L2_BLOCK, d] weighted */
    float *product; /* [KS_L2_BLOCK, n_q] of a projection */
    float *sum;     /* [d, d] or [n_q, d] */
    char *memory;   /* of the reader */
    ks_l2_reader reader;
} thread_work;

static void threads_close(thread_work **all, int n) {
    for (int k = 0; *all && k < n; k++) {
        free((*all)[k].block);
        free((*all)[k].product);
        free((*all)[k].sum);
        ks_l2_reader_close(&(*all)[k].reader);
        free((*all)[k].memory);
    }
    free(*all);
    *all = NULL;
}

/* n_q: 0 for a Gram matrix. */
static ks_status threads_open(thread_work **out, int n, const ks_l2_rows *l2,
                              int64_t n_q, ks_err *err) {
    ks_status st = KS_OK;
    size_t d = (size_t)l2->d, q = (size_t)n_q;
    KS_TRY(ks_alloc(out, (size_t)n, sizeof **out, "threads", err));
    for (int k = 0; k < n; k++) {
        thread_work *w = &(*out)[k];
        KS_TRY(ks_alloc(&w->block, KS_L2_BLOCK * d, sizeof(float), "row blocks",
                        err));
        KS_TRY(ks_alloc(&w->product, KS_L2_BLOCK * KS_MAX(q, 1), sizeof(float),
                        "row blocks", err));
        KS_TRY(ks_alloc(&w->sum, (q ? q : d) * d, sizeof(float), "Gram matrix",
                        err));
        KS_TRY(ks_alloc(&w->memory, ks_l2_reader_bytes(l2) + 1, 1, "row blocks",
                        err));
        ks_l2_reader_open(&w->reader, l2, w->memory);
    }
done:
    if (st != KS_OK) threads_close(out, n);
    return st;
}

/* ------------------------------------------------------------- covariance */

/* Rows of a block as the covariance takes them: centred, scaled, weighted. */
static void weigh_block(const ks_l2_rows *l2, const ks_l2_scaling *s,
                        ks_l2_block block, const float *x, float *out) {
    for (int64_t i = block.begin; i < block.end; i++) {
        const float *row = x + (i - block.begin) * l2->d;
        float *restrict to = out + (i - block.begin) * l2->d;
        float share = s->share[l2->code[i] & 1];
        for (int64_t j = 0; j < l2->d; j++)
            to[j] = share * ((row[j] - s->centre[j]) * s->inverse[j]);
    }
}

/* The lane's sum: the lower triangle [d, d] of its covariance, or for q [n_q,
 * d] that of (q a_i) a_i' [n_q, d]. next: the lane that follows here. */
static ks_status sum_lane(const ks_l2_rows *l2, const ks_l2_scaling *s,
                          thread_work *w, int32_t lane, int32_t next,
                          const float *q, int64_t n_q, ks_err *err) {
    ks_status st = KS_OK;
    int64_t d = l2->d;
    int32_t from, to, then, end;
    memset(w->sum, 0, (size_t)((n_q ? n_q : d) * d) * sizeof *w->sum);
    ks__l2_lane(l2, next, &then, &end);
    ks__l2_lane(l2, lane, &from, &to);
    for (int32_t k = from; k < to; k++) {
        ks_l2_block b = l2->blocks[k];
        int64_t rows = b.end - b.begin;
        const float *x;
        KS_TRY(ks_l2_reader_get(&w->reader, k, to, then, &x, err));
        weigh_block(l2, s, b, x, w->block);
        if (!n_q) {
            ks__syrk_f32(d, rows, w->block, w->sum);
            continue;
        }
        ks__gemm_f32(false, true, rows, n_q, d, w->block, d, q, d, 0,
                     w->product, n_q);
        ks__gemm_f32(true, false, n_q, d, rows, w->product, n_q, w->block, d, 1,
                     w->sum, d);
    }
done:
    return st;
}

/* out [size]: the lanes' sums in their order. */
static ks_status sum_lanes(ks_dev *dev, const ks_l2_rows *l2,
                           const ks_l2_scaling *s, const float *q, int64_t n_q,
                           float *out, int64_t size, ks_err *err) {
    ks_status st = KS_OK;
    int threads = KS_MIN(dev->threads, l2->n_lanes);
    int restore = ks__blas_serial();
    ks__l2_outcome outcome = {KS_OK, {0}};
    thread_work *work = NULL;
    KS_TRY(threads_open(&work, threads, l2, n_q, err));
    memset(out, 0, (size_t)size * sizeof *out);
#pragma omp parallel for ordered num_threads(threads) schedule(static, 1)
    for (int32_t lane = 0; lane < l2->n_lanes; lane++) {
        int thread = omp_get_thread_num();
        int32_t next = lane + threads < l2->n_lanes ? lane + threads : thread;
        ks_err mine = {0};
        if (ks__l2_well(&outcome))
            ks__l2_tell(
                &outcome,
                sum_lane(l2, s, &work[thread], lane, next, q, n_q, &mine),
                &mine);
#pragma omp ordered
        for (int64_t k = 0; k < size; k++) out[k] += work[thread].sum[k];
    }
    st = outcome.st;
    if (st != KS_OK && err) *err = outcome.err;
done:
    ks__blas_restore(restore);
    threads_close(&work, threads);
    return st;
}

ks_status ks__cpu_l2_gram(ks_dev *dev, ks_l2_rows *l2, const ks_l2_scaling *s,
                          float *out, ks_err *err) {
    return sum_lanes(dev, l2, s, NULL, 0, out, l2->d * l2->d, err);
}

ks_status ks__cpu_l2_project(ks_dev *dev, ks_l2_rows *l2,
                             const ks_l2_scaling *s, const float *q,
                             int64_t n_q, float *out, ks_err *err) {
    return sum_lanes(dev, l2, s, q, n_q, out, n_q * l2->d, err);
}

/* ------------------------------------------------------------------- Hessian
 */

/* Rows of a block as the column has them, 1 at the end, each times the square
 * root of its curvature c p (1 - p); held-out rows are left out. Returns the
 * rows there are. */
static int64_t weigh_rows(const ks_l2_rows *l2, const ks_l2_hessian *c,
                          ks_l2_block block, const float *rows_x, double *out) {
    int64_t d = l2->d, rows = 0;
    for (int64_t i = block.begin; i < block.end; i++) {
        uint8_t code = l2->code[c->design * l2->n + i];
        if (c->hold >> (code / 2) & 1) continue;
        const float *x = rows_x + (i - block.begin) * d;
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

/* All columns go through the blocks together, so that a file is read once.
 * scratch: [threads, KS_L2_BLOCK, d + 1]. */
static ks_status form_hessians(const ks_l2_rows *l2,
                               const ks_l2_hessian *columns, int32_t n,
                               int32_t threads, double *scratch,
                               ks_l2_reader *reader, ks_err *err) {
    ks_status st = KS_OK;
    int64_t m = l2->d + 1;
    for (int32_t k = 0; k < n; k++)
        memset(columns[k].out, 0, (size_t)(m * m) * sizeof *columns[k].out);
    for (int32_t i = 0; i < l2->n_blocks && !ks_interrupted; i++) {
        const float *x;
        KS_TRY(ks_l2_reader_get(reader, i, l2->n_blocks, 0, &x, err));
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
        for (int32_t k = 0; k < n; k++) {
            double *own = scratch + omp_get_thread_num() * KS_L2_BLOCK * m;
            int64_t used = weigh_rows(l2, &columns[k], l2->blocks[i], x, own);
            if (used) ks__syrk_f64(m, used, own, columns[k].out);
        }
    }
done:
    return st;
}

/* In the memory of the passes, which have grown it to what they need. */
ks_status ks__cpu_l2_hessian(ks_dev *dev, ks_l2_rows *l2,
                             const ks_l2_hessian *columns, int32_t n,
                             ks_err *err) {
    ks_status st = KS_OK;
    size_t size = KS_L2_BLOCK * (size_t)(l2->d + 1) * sizeof(double);
    int32_t threads = KS_MAX(1, KS_MIN(dev->threads, n));
    size_t scratch = ((size_t)threads * size + 63) / 64 * 64;
    size_t all = scratch + ks_l2_reader_bytes(l2);
    int restore = ks__blas_serial();
    ks_l2_reader reader = {0};
    if (l2->work->size < all) {
        ks__cpu_free(dev, l2->work);
        KS_TRY(ks__cpu_alloc(dev, l2->work, all, "Hessians", err));
    }
    char *memory = l2->work->data;
    ks_l2_reader_open(&reader, l2, memory + scratch);
    KS_TRY(form_hessians(l2, columns, n, threads, (double *)(void *)memory,
                         &reader, err));
done:
    ks_l2_reader_close(&reader);
    ks__blas_restore(restore);
    return st;
}
