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

static ks_status exact(ks_l2 *l2, const ks_l2_scaling *s, ks_err *err) {
    ks_status st = KS_OK;
    int64_t d = l2->d;
    l2->rank = d;
    KS_TRY(ks_alloc(&l2->value, (size_t)d, sizeof(float), "spectrum", err));
    KS_TRY(
        ks_alloc(&l2->vector, (size_t)(d * d), sizeof(float), "spectrum", err));
    KS_TRY(l2->ops->l2_gram(l2->dev, &l2->rows, s, l2->vector, err));
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

static ks_status leading(ks_l2 *l2, const ks_l2_scaling *s, ks_err *err) {
    ks_status st = KS_OK;
    int64_t d = l2->d, rank = KS_MIN(KS_MIN(l2->n, d), KS_L2_RANK);
    float *q = NULL, *sums = NULL, *small = NULL;
    l2->rank = rank;
    KS_TRY(ks_alloc(&q, (size_t)(rank * d), sizeof(float), "spectrum", err));
    KS_TRY(ks_alloc(&sums, (size_t)(rank * d), sizeof(float), "spectrum", err));
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
        KS_TRY(l2->ops->l2_project(l2->dev, &l2->rows, s, q, rank, sums, err));
        l2->cost.reads += 1;
        if (round == 0) {
            memcpy(q, sums, (size_t)(rank * d) * sizeof(float));
            KS_TRY(orthonormal(q, rank, d, err));
        }
    }
    /* Rayleigh-Ritz: eigenvectors of q' covariance q */
    ks__gemm_f32(false, true, rank, rank, d, sums, d, q, d, 0, small, rank);
    lapack_int info =
        LAPACKE_ssyevd(LAPACK_COL_MAJOR, 'V', 'U', (lapack_int)rank, small,
                       (lapack_int)rank, l2->value);
    KS_CHECK(info == 0, KS_NUMERIC,
             "the eigenvectors of a layer's covariance did not converge");
    ks__gemm_f32(false, false, rank, d, rank, small, rank, q, d, 0, l2->vector,
                 d);
    double trace = 0, found = 0;
    for (int64_t j = 0; j < d; j++) trace += s->inverse[j] > 0;
    for (int64_t k = 0; k < rank; k++) found += (double)l2->value[k];
    l2->tail =
        d > rank
            ? (float)(KS_MAX(trace - found, 1e-6 * trace) / (double)(d - rank))
            : 0;
done:
    free(q);
    free(sums);
    free(small);
    return st;
}

ks_status ks__l2_spectrum(ks_l2 *l2, ks_err *err) {
    ks_status st = KS_OK;
    whole all = {0};
    float *centre = NULL, *inverse = NULL;
    size_t d = (size_t)l2->d;
    KS_TRY(ks_alloc(&all.mean, d, sizeof(double), "moments", err));
    KS_TRY(ks_alloc(&all.inverse, d, sizeof(double), "moments", err));
    KS_TRY(ks_alloc(&centre, d, sizeof(float), "moments", err));
    KS_TRY(ks_alloc(&inverse, d, sizeof(float), "moments", err));
    whole_moments(l2, &all);
    for (size_t j = 0; j < d; j++) {
        centre[j] = (float)all.mean[j];
        inverse[j] = (float)all.inverse[j];
    }
    ks_l2_scaling s = {centre, inverse, {all.weight[0], all.weight[1]}};
    KS_TRY(d <= KS_L2_EXACT ? exact(l2, &s, err) : leading(l2, &s, err));
    /* rounding can leave tiny negative values */
    float least = 1e-7f * KS_MAX(l2->value[l2->rank - 1], 1e-30f);
    for (int64_t k = 0; k < l2->rank; k++)
        l2->value[k] = KS_MAX(l2->value[k], least);
done:
    free(all.mean);
    free(all.inverse);
    free(centre);
    free(inverse);
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
