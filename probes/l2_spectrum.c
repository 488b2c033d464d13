/* l2_spectrum.c - the class-balanced covariance of all rows in spectral form,
 * which preconditions every column.
 *
 * Up to KS_L2_EXACT features: the Gram matrix by blocks and its eigenvectors
 * (LAPACK's divide and conquer). Beyond: the leading KS_L2_RANK pairs by
 * subspace iteration from a random start (Halko, Martinsson, Tropp, SIAM
 * Review 53, 2011, algorithm 4.4), the rest of the trace as one value; that
 * costs two more reads of x and no d^2. */
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "l2_state.h"
#include "philox.h"

/* Mean of the class means and 1 / standard deviation over all rows; 0 for a
 * constant feature. Classes count as the first design has them. */
typedef struct whole {
    double *mean, *inverse;
    float weight[2]; /* sqrt of a row's share, by class */
} whole;

static void whole_moments(const ks_l2 *l2, whole *w) {
    int64_t count[2] = {0, 0}, d = l2->d;
    for (int32_t f = 0; f < KS_L2_MAX_FOLDS; f++)
        for (int c = 0; c < 2; c++) count[c] += l2->moments[f].count[c];
    double n = (double)l2->n;
    for (int c = 0; c < 2; c++)
        w->weight[c] =
            (float)sqrt(count[0] && count[1] ? 0.5 / (double)count[c] : 1 / n);
    for (int64_t j = 0; j < d; j++) {
        double sum[2] = {0, 0}, square = 0;
        for (int32_t f = 0; f < KS_L2_MAX_FOLDS; f++) {
            const ks_l2_moments *m = &l2->moments[f];
            if (!m->square) continue;
            sum[0] += m->sum[0][j], sum[1] += m->sum[1][j];
            square += m->square[j];
        }
        double mean = (sum[0] + sum[1]) / n;
        double variance = square / n - mean * mean;
        w->mean[j] =
            count[0] && count[1]
                ? 0.5 * (sum[0] / (double)count[0] + sum[1] / (double)count[1])
                : mean;
        w->inverse[j] = variance > 1e-12 * mean * mean && variance > 0
                            ? 1 / sqrt(variance)
                            : 0;
    }
}

/* Rows of a block as the covariance takes them: centred, scaled, weighted. */
static void weigh_block(const ks_l2 *l2, const whole *w, const float *centre,
                        const float *inverse, ks_l2_block block, float *out) {
    for (int64_t i = block.begin; i < block.end; i++) {
        const float *row = l2->x + i * l2->d;
        float *restrict to = out + (i - block.begin) * l2->d;
        float share = w->weight[l2->code[i] & 1];
        for (int64_t j = 0; j < l2->d; j++)
            to[j] = share * ((row[j] - centre[j]) * inverse[j]);
    }
}

typedef struct spectrum_work {
    whole all;
    float *centre, *inverse; /* [d] */
    float *block;            /* [lanes or threads, KS_L2_BLOCK, d] */
    float *sums;             /* [lanes or threads, size] */
    float *product;          /* [lanes, KS_L2_BLOCK, rank] */
} spectrum_work;

static void lane_blocks(const ks_l2 *l2, int32_t lane, int32_t *from,
                        int32_t *to) {
    *from = (int32_t)((int64_t)lane * l2->n_blocks / l2->n_lanes);
    *to = (int32_t)((int64_t)(lane + 1) * l2->n_blocks / l2->n_lanes);
}

static void add_lanes(const ks_l2 *l2, float *sums, int64_t size) {
#pragma omp parallel for num_threads(l2->threads) schedule(static)
    for (int64_t k = 0; k < size; k++)
        for (int32_t lane = 1; lane < l2->n_lanes; lane++)
            sums[k] += sums[lane * size + k];
}

/* Lower triangle of sum [d, d] += the lane's covariance. block: scratch. */
static void add_gram(const ks_l2 *l2, const spectrum_work *w, int32_t lane,
                     float *block, float *sum) {
    int32_t from, to;
    lane_blocks(l2, lane, &from, &to);
    for (int32_t k = from; k < to; k++) {
        ks_l2_block b = l2->blocks[k];
        weigh_block(l2, &w->all, w->centre, w->inverse, b, block);
        ks__syrk_f32(l2->d, b.end - b.begin, block, sum);
    }
}

static ks_status exact(ks_l2 *l2, spectrum_work *w, ks_err *err) {
    ks_status st = KS_OK;
    int64_t d = l2->d;
    l2->rank = d;
    int threads = KS_MIN(l2->threads, l2->n_lanes);
    KS_TRY(ks_alloc(&w->block, (size_t)threads * KS_L2_BLOCK * (size_t)d,
                    sizeof(float), "row blocks", err));
    KS_TRY(ks_alloc(&w->sums, (size_t)(threads * d * d), sizeof(float),
                    "Gram matrix", err));
    KS_TRY(ks_alloc(&l2->value, (size_t)d, sizeof(float), "spectrum", err));
    KS_TRY(
        ks_alloc(&l2->vector, (size_t)(d * d), sizeof(float), "spectrum", err));
    /* lanes' sums join in the order of lanes, whatever the threads */
#pragma omp parallel for ordered num_threads(threads) schedule(static, 1)
    for (int32_t lane = 0; lane < l2->n_lanes; lane++) {
        int64_t thread = omp_get_thread_num();
        float *sum = w->sums + thread * d * d;
        memset(sum, 0, (size_t)(d * d) * sizeof *sum);
        add_gram(l2, w, lane, w->block + thread * KS_L2_BLOCK * d, sum);
#pragma omp ordered
        for (int64_t k = 0; k < d * d; k++) l2->vector[k] += sum[k];
    }
    /* the lower triangle row-major is the upper one column-major, and
     * eigenvectors as columns there are rows here */
    lapack_int info = LAPACKE_ssyevd(LAPACK_COL_MAJOR, 'V', 'U', (lapack_int)d,
                                     l2->vector, (lapack_int)d, l2->value);
    KS_CHECK(info == 0, KS_NUMERIC,
             "the eigenvectors of a layer's covariance "
             "of %lld features did not converge",
             (long long)d);
    l2->cost.reads += 1;
done:
    return st;
}

/* sums[0] = (weighted rows)' (weighted rows) q, q and sums [rank, d]. */
static void apply_covariance(ks_l2 *l2, spectrum_work *w, const float *q,
                             int64_t rank) {
    int64_t d = l2->d;
    memset(w->sums, 0, (size_t)(l2->n_lanes * rank * d) * sizeof(float));
#pragma omp parallel for num_threads(l2->threads) schedule(static, 1)
    for (int32_t lane = 0; lane < l2->n_lanes; lane++) {
        float *block = w->block + (int64_t)lane * KS_L2_BLOCK * d;
        float *product = w->product + (int64_t)lane * KS_L2_BLOCK * rank;
        int32_t from, to;
        lane_blocks(l2, lane, &from, &to);
        for (int32_t k = from; k < to; k++) {
            ks_l2_block b = l2->blocks[k];
            int64_t rows = b.end - b.begin;
            weigh_block(l2, &w->all, w->centre, w->inverse, b, block);
            ks__gemm_f32(false, true, rows, rank, d, block, d, q, d, 0, product,
                         rank);
            ks__gemm_f32(true, false, rank, d, rows, product, rank, block, d, 1,
                         w->sums + lane * rank * d, d);
        }
    }
    add_lanes(l2, w->sums, rank * d);
    l2->cost.reads += 1;
}

/* Rows of q [rank, d] made orthonormal: QR of its transpose. */
static ks_status orthonormal(float *q, int64_t rank, int64_t d, ks_err *err) {
    ks_status st = KS_OK;
    float *tau = NULL;
    KS_TRY(ks_alloc(&tau, (size_t)rank, sizeof(float), "spectrum", err));
    lapack_int info = LAPACKE_sgeqrf(LAPACK_COL_MAJOR, (lapack_int)d,
                                     (lapack_int)rank, q, (lapack_int)d, tau);
    if (!info)
        info = LAPACKE_sorgqr(LAPACK_COL_MAJOR, (lapack_int)d, (lapack_int)rank,
                              (lapack_int)rank, q, (lapack_int)d, tau);
    KS_CHECK(info == 0, KS_NUMERIC,
             "a layer's covariance could not be factorised");
done:
    free(tau);
    return st;
}

static ks_status leading(ks_l2 *l2, spectrum_work *w, ks_err *err) {
    ks_status st = KS_OK;
    int64_t d = l2->d, rank = KS_MIN(KS_MIN(l2->n, d), KS_L2_RANK);
    float *q = NULL, *small = NULL;
    l2->rank = rank;
    KS_TRY(ks_alloc(&w->block, (size_t)l2->n_lanes * KS_L2_BLOCK * (size_t)d,
                    sizeof(float), "row blocks", err));
    KS_TRY(ks_alloc(&w->sums, (size_t)(l2->n_lanes * rank * d), sizeof(float),
                    "spectrum", err));
    KS_TRY(ks_alloc(&w->product,
                    (size_t)l2->n_lanes * KS_L2_BLOCK * (size_t)rank,
                    sizeof(float), "spectrum", err));
    KS_TRY(ks_alloc(&q, (size_t)(rank * d), sizeof(float), "spectrum", err));
    KS_TRY(ks_alloc(&small, (size_t)(rank * rank), sizeof(float), "spectrum",
                    err));
    KS_TRY(ks_alloc(&l2->value, (size_t)rank, sizeof(float), "spectrum", err));
    KS_TRY(ks_alloc(&l2->vector, (size_t)(rank * d), sizeof(float), "spectrum",
                    err));
    const uint64_t key[2] = {0, 0};
    for (int64_t k = 0; k < rank * d; k += 4) {
        uint32_t word[4];
        ks_philox(key, (uint64_t)k, word);
        for (int64_t m = k; m < KS_MIN(k + 4, rank * d); m++)
            q[m] = ks_philox_unit(word[m - k]) - 0.5f;
    }
    KS_TRY(orthonormal(q, rank, d, err));
    for (int32_t round = 0; round < 2; round++) {
        apply_covariance(l2, w, q, rank);
        if (round == 0) {
            memcpy(q, w->sums, (size_t)(rank * d) * sizeof(float));
            KS_TRY(orthonormal(q, rank, d, err));
        }
    }
    /* Rayleigh-Ritz: eigenvectors of q' covariance q */
    ks__gemm_f32(false, true, rank, rank, d, w->sums, d, q, d, 0, small, rank);
    lapack_int info =
        LAPACKE_ssyevd(LAPACK_COL_MAJOR, 'V', 'U', (lapack_int)rank, small,
                       (lapack_int)rank, l2->value);
    KS_CHECK(info == 0, KS_NUMERIC,
             "the eigenvectors of a layer's covariance did not converge");
    ks__gemm_f32(false, false, rank, d, rank, small, rank, q, d, 0, l2->vector,
                 d);
    double trace = 0, found = 0;
    for (int64_t j = 0; j < d; j++) trace += w->inverse[j] > 0;
    for (int64_t k = 0; k < rank; k++) found += (double)l2->value[k];
    l2->tail =
        d > rank
            ? (float)(KS_MAX(trace - found, 1e-6 * trace) / (double)(d - rank))
            : 0;
done:
    free(q);
    free(small);
    return st;
}

ks_status ks__l2_spectrum(ks_l2 *l2, ks_err *err) {
    ks_status st = KS_OK;
    spectrum_work w = {0};
    size_t d = (size_t)l2->d;
    KS_TRY(ks_alloc(&w.all.mean, d, sizeof(double), "moments", err));
    KS_TRY(ks_alloc(&w.all.inverse, d, sizeof(double), "moments", err));
    KS_TRY(ks_alloc(&w.centre, d, sizeof(float), "moments", err));
    KS_TRY(ks_alloc(&w.inverse, d, sizeof(float), "moments", err));
    whole_moments(l2, &w.all);
    for (size_t j = 0; j < d; j++) {
        w.centre[j] = (float)w.all.mean[j];
        w.inverse[j] = (float)w.all.inverse[j];
    }
    KS_TRY(d <= KS_L2_EXACT ? exact(l2, &w, err) : leading(l2, &w, err));
    /* rounding can leave tiny negative values */
    float least = 1e-7f * KS_MAX(l2->value[l2->rank - 1], 1e-30f);
    for (int64_t k = 0; k < l2->rank; k++)
        l2->value[k] = KS_MAX(l2->value[k], least);
done:
    free(w.all.mean);
    free(w.all.inverse);
    free(w.centre);
    free(w.inverse);
    free(w.block);
    free(w.sums);
    free(w.product);
    return st;
}

void ks__l2_to_spectrum(const ks_l2 *l2, const float *q, int64_t n,
                        float *out) {
    ks__gemm_f32(false, true, n, l2->rank, l2->d, q, l2->d, l2->vector, l2->d,
                 0, out, l2->rank);
}

void ks__l2_from_spectrum(const ks_l2 *l2, const float *in, int64_t n,
                          float beta, float *q) {
    ks__gemm_f32(false, false, n, l2->d, l2->rank, in, l2->rank, l2->vector,
                 l2->d, beta, q, l2->d);
}
