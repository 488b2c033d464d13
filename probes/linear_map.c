/* linear_map.c - see linear_map.h. */
#include "linear_map.h"

#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "blas.h"

enum { BLOCK = 256 };

/* -------------------------------------------------------------------- pairs */

static void sum_targets(ks_map_pairs *p, const float *y, int64_t n,
                        const uint8_t *part) {
    int64_t to = p->d_out;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < to; j++) p->at[j] += (double)y[i * to + j];
    for (int64_t j = 0; j < to; j++) p->at[j] /= (double)n;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < to; j++) {
            double v = (double)y[i * to + j] - p->at[j];
            p->y[part[i] * to + j] += v;
            p->yy[part[i] * to + j] += v * v;
        }
}

ks_status ks_map_pairs_open(ks_map_pairs *out, const float *x, int64_t d_in,
                            const float *y, int64_t d_out, int64_t n,
                            const uint8_t *part, int32_t n_parts,
                            const int64_t *mixed, int threads, ks_err *err) {
    ks_status st = KS_OK;
    size_t in = (size_t)d_in, to = (size_t)d_out, parts = (size_t)n_parts;
    const ks_l2_source from = {.n = n, .d = d_in, .type = KS_F32, .x = x};
    *out = (ks_map_pairs){.d_out = d_out};
    KS_TRY(ks_alloc(&out->at, to, sizeof(double), "sums of a map", err));
    KS_TRY(ks_alloc(&out->y, parts * to, sizeof(double), "sums of a map", err));
    KS_TRY(
        ks_alloc(&out->yy, parts * to, sizeof(double), "sums of a map", err));
    KS_TRY(ks_fold_gram_open(&out->x, &from, part, n_parts, NULL, 0, threads,
                             err));
    sum_targets(out, y, n, part);
    ks_fold_pairs rows = {
        .x = x, .y = y, .part = part, .n = n, .d_out = d_out, .at = out->at};
    for (int k = 0; k < KS_MAP_PAIRINGS; k++) {
        rows.pair = k == KS_MAP_MIXED ? mixed : NULL;
        KS_TRY(ks_alloc(&out->cross[k], parts * to, in * sizeof(double),
                        "sums of a map", err));
        KS_TRY(ks_fold_gram_cross(&out->x, &rows, out->cross[k], err));
    }
done:
    if (st != KS_OK) ks_map_pairs_close(out);
    return st;
}

void ks_map_pairs_close(ks_map_pairs *p) {
    ks_fold_gram_close(&p->x);
    free(p->at);
    free(p->y);
    free(p->yy);
    for (int k = 0; k < KS_MAP_PAIRINGS; k++) free(p->cross[k]);
    *p = (ks_map_pairs){0};
}

/* ----------------------------------------------------------------- training */

/* Means and deviations of y over the parts. */
static void target_moments(ks_map_train *t, uint64_t take) {
    const ks_map_pairs *p = t->of;
    int64_t to = p->d_out;
    for (int64_t j = 0; j < to; j++) {
        double sum = 0, squares = 0;
        for (int32_t k = 0; k < p->x.n_parts; k++) {
            if (!(take >> k & 1)) continue;
            sum += p->y[k * to + j];
            squares += p->yy[k * to + j];
        }
        double mean = sum / t->n, variance = squares / t->n - mean * mean;
        t->y_mean[j] = mean;
        /* what rounding leaves of a constant is no variance */
        t->y_scale[j] = variance > 1e-12 * squares / t->n ? sqrt(variance) : 0;
    }
}

void ks__map_cross(const ks_map_train *t, int pairing, uint64_t take,
                   double *out) {
    const ks_map_pairs *p = t->of;
    int64_t in = p->x.d, to = p->d_out;
    memset(out, 0, (size_t)(in * to) * sizeof *out);
    for (int32_t k = 0; k < p->x.n_parts; k++) {
        if (!(take >> k & 1)) continue;
        const double *sum = p->x.sum + k * in, *y = p->y + k * to;
        const double *cross = p->cross[pairing] + k * to * in;
        for (int64_t o = 0; o < to; o++) {
            double rest = y[o] - p->x.count[k] * t->y_mean[o];
            for (int64_t j = 0; j < in; j++)
                out[o * in + j] += cross[o * in + j] - t->y_mean[o] * sum[j] -
                                   rest * t->mean[j];
        }
    }
    for (int64_t o = 0; o < to; o++)
        for (int64_t j = 0; j < in; j++) out[o * in + j] *= t->inverse[j];
}

ks_status ks_map_train_open(ks_map_train *out, const ks_map_pairs *pairs,
                            uint64_t take, ks_err *err) {
    ks_status st = KS_OK;
    size_t in = (size_t)pairs->x.d, to = (size_t)pairs->d_out;
    *out = (ks_map_train){.of = pairs};
    KS_TRY(ks_alloc(&out->mean, in, sizeof(double), "map", err));
    KS_TRY(ks_alloc(&out->inverse, in, sizeof(double), "map", err));
    KS_TRY(ks_alloc(&out->covariance, in * in, sizeof(double), "map", err));
    KS_TRY(ks_alloc(&out->y_mean, to, sizeof(double), "map", err));
    KS_TRY(ks_alloc(&out->y_scale, to, sizeof(double), "map", err));
    for (int k = 0; k < KS_MAP_PAIRINGS; k++)
        KS_TRY(ks_alloc(&out->cross[k], in * to, sizeof(double), "map", err));
    for (int32_t k = 0; k < pairs->x.n_parts; k++)
        if (take >> k & 1) out->n += pairs->x.count[k];
    KS_CHECK(out->n >= 2, KS_MISMATCH,
             "a map between activations needs two steps or more to be fitted "
             "on, found %.0f",
             out->n);
    ks_fold_gram_moments(&pairs->x, take, out->mean, out->inverse);
    ks_fold_gram_add(&pairs->x, take, 1, out->inverse, out->mean,
                     out->covariance);
    target_moments(out, take);
    for (int k = 0; k < KS_MAP_PAIRINGS; k++) {
        ks__map_cross(out, k, take, out->cross[k]);
        for (size_t i = 0; i < in * to; i++) out->cross[k][i] /= out->n;
    }
done:
    if (st != KS_OK) ks_map_train_close(out);
    return st;
}

void ks_map_train_close(ks_map_train *t) {
    free(t->mean);
    free(t->inverse);
    free(t->covariance);
    free(t->y_mean);
    free(t->y_scale);
    for (int k = 0; k < KS_MAP_PAIRINGS; k++) free(t->cross[k]);
    *t = (ks_map_train){0};
}

/* ---------------------------------------------------------------- one map */

/* What a failure leaves is the caller's to free. */
static ks_status open_map(ks_linear_map *out, const ks_map_train *train,
                          bool weight, ks_err *err) {
    ks_status st = KS_OK;
    size_t in = (size_t)train->of->x.d, to = (size_t)train->of->d_out;
    *out = (ks_linear_map){
        .of = train->of, .d_in = train->of->x.d, .d_out = train->of->d_out};
    if (weight)
        KS_TRY(ks_alloc(&out->weight, in * to, sizeof(double), "map", err));
    KS_TRY(ks_alloc(&out->bias, to, sizeof(double), "map", err));
done:
    return st;
}

void ks_linear_map_free(ks_linear_map *map) {
    free(map->weight);
    free(map->bias);
    *map = (ks_linear_map){0};
}

/* bias = mean y - weight (mean x - shift) */
static void set_bias(ks_linear_map *map, const ks_map_train *train) {
    const double *unit = train->of->x.unit;
    for (int64_t o = 0; o < map->d_out; o++) {
        map->bias[o] = train->y_mean[o];
        for (int64_t j = 0; j < map->d_in; j++)
            map->bias[o] -=
                map->weight[o * map->d_in + j] * unit[j] * train->mean[j];
    }
}

ks_status ks_linear_map_ridge(ks_linear_map *out, const ks_map_train *train,
                              int pairing, double strength, ks_err *err) {
    ks_status st = KS_OK;
    const ks_fold_gram *x = &train->of->x;
    int64_t in = x->d, to = train->of->d_out;
    double *scratch = NULL;
    int threads = ks__blas_serial();
    KS_TRY(open_map(out, train, true, err));
    KS_TRY(ks_alloc(&scratch, (size_t)(in * in), sizeof *scratch, "map", err));
    memcpy(out->weight, train->cross[pairing],
           (size_t)(in * to) * sizeof *out->weight);
    KS_TRY(ks__solve_ridge(train->covariance, in, strength, out->weight,
                           (int32_t)to, scratch, err));
    for (int64_t o = 0; o < to; o++)
        for (int64_t j = 0; j < in; j++)
            out->weight[o * in + j] *=
                x->unit[j] > 0 ? train->inverse[j] / x->unit[j] : 0;
    set_bias(out, train);
done:
    ks__blas_restore(threads);
    free(scratch);
    if (st != KS_OK) ks_linear_map_free(out);
    return st;
}

/* |X R|^2 / n of centred rows, R' the map's weight. */
static ks_status spread(const ks_linear_map *map, const ks_map_train *train,
                        const double *deviation, double *out, ks_err *err) {
    ks_status st = KS_OK;
    int64_t in = map->d_in, to = map->d_out;
    double *k = NULL, *rk = NULL;
    KS_TRY(ks_alloc(&k, (size_t)(in * in), sizeof *k, "map", err));
    KS_TRY(ks_alloc(&rk, (size_t)(in * to), sizeof *rk, "map", err));
    for (int64_t i = 0; i < in; i++)
        for (int64_t j = 0; j <= i; j++)
            k[i * in + j] =
                train->covariance[i * in + j] * deviation[i] * deviation[j];
    ks__symm_f64(to, in, map->weight, k, rk);
    *out = 0;
    for (int64_t i = 0; i < in * to; i++) *out += rk[i] * map->weight[i];
done:
    free(k);
    free(rk);
    return st;
}

/* The map's weight: R' of x'y (overwritten); *sum: of its singular values. */
static ks_status turn(ks_linear_map *map, double *xy, double *sum,
                      ks_err *err) {
    ks_status st = KS_OK;
    int64_t in = map->d_in, to = map->d_out, least = KS_MIN(in, to), rank = 0;
    double *u = NULL, *s = NULL, *vt = NULL;
    KS_TRY(ks_alloc(&u, (size_t)(in * least), sizeof *u, "map", err));
    KS_TRY(ks_alloc(&s, (size_t)least, sizeof *s, "map", err));
    KS_TRY(ks_alloc(&vt, (size_t)(least * to), sizeof *vt, "map", err));
    /* y'x row-major is x'y column-major: u holds its columns as rows */
    lapack_int info = LAPACKE_dgesdd(LAPACK_COL_MAJOR, 'S', (lapack_int)in,
                                     (lapack_int)to, xy, (lapack_int)in, s, u,
                                     (lapack_int)in, vt, (lapack_int)least);
    KS_CHECK(info == 0, KS_NUMERIC,
             "the singular values of a cross-covariance of %lld x %lld did not "
             "converge",
             (long long)in, (long long)to);
    double rounding = (double)KS_MAX(in, to) * 0x1p-52 * s[0];
    while (rank < least && s[rank] > rounding) *sum += s[rank++];
    /* weight [to, in] = V U' over the first `rank`: vt [least, to] of columns
     * is, by rows, V [to, least] */
    if (rank > 0)
        ks__gemm_f64(false, false, to, in, rank, vt, least, u, in, 0,
                     map->weight, in);
done:
    free(u);
    free(s);
    free(vt);
    return st;
}

ks_status ks_linear_map_procrustes(ks_linear_map *out,
                                   const ks_map_train *train, ks_err *err) {
    ks_status st = KS_OK;
    const ks_fold_gram *x = &train->of->x;
    int64_t in = x->d, to = train->of->d_out;
    double *xy = NULL, *deviation = NULL, sum = 0, squares = 0;
    int threads = ks__blas_serial();
    KS_TRY(open_map(out, train, true, err));
    KS_TRY(ks_alloc(&xy, (size_t)(in * to), sizeof *xy, "map", err));
    KS_TRY(ks_alloc(&deviation, (size_t)in, sizeof *deviation, "map", err));
    for (int64_t j = 0; j < in; j++)
        deviation[j] =
            train->inverse[j] > 0 ? x->unit[j] / train->inverse[j] : 0;
    for (int64_t o = 0; o < to; o++)
        for (int64_t j = 0; j < in; j++)
            xy[o * in + j] =
                train->cross[KS_MAP_TRUE][o * in + j] * deviation[j];
    KS_TRY(turn(out, xy, &sum, err));
    KS_TRY(spread(out, train, deviation, &squares, err));
    double factor = squares > 0 ? sum / squares : 0;
    for (int64_t i = 0; i < in * to; i++) out->weight[i] *= factor;
    set_bias(out, train);
done:
    ks__blas_restore(threads);
    free(xy);
    free(deviation);
    if (st != KS_OK) ks_linear_map_free(out);
    return st;
}

ks_status ks_linear_map_mean(ks_linear_map *out, const ks_map_train *train,
                             ks_err *err) {
    ks_status st = open_map(out, train, false, err);
    if (st != KS_OK)
        ks_linear_map_free(out);
    else
        memcpy(out->bias, train->y_mean,
               (size_t)out->d_out * sizeof *out->bias);
    return st;
}

ks_status ks_linear_map_identity(ks_linear_map *out, const ks_map_train *train,
                                 ks_err *err) {
    ks_status st = KS_OK;
    int64_t in = train->of->x.d, to = train->of->d_out;
    KS_CHECK(in == to, KS_USAGE,
             "activations of %lld and %lld dimensions: no map is the identity",
             (long long)in, (long long)to);
    KS_TRY(open_map(out, train, true, err));
    for (int64_t j = 0; j < to; j++) {
        out->weight[j * in + j] = 1;
        out->bias[j] = train->of->x.shift[j] - train->of->at[j];
    }
done:
    if (st != KS_OK) ks_linear_map_free(out);
    return st;
}

ks_status ks_linear_map_apply(const ks_linear_map *map, const float *x,
                              const int64_t *row, int64_t n, double *out,
                              ks_err *err) {
    ks_status st = KS_OK;
    int64_t in = map->d_in, to = map->d_out;
    double *a = NULL;
    int threads = ks__blas_serial();
    KS_TRY(ks_alloc(&a, (size_t)(BLOCK * in), sizeof *a, "rows", err));
    for (int64_t begin = 0, m; begin < n; begin += m) {
        m = KS_MIN(BLOCK, n - begin);
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < in; j++)
                a[i * in + j] =
                    (double)x[row[begin + i] * in + j] - map->of->x.shift[j];
        for (int64_t i = 0; i < m; i++)
            for (int64_t o = 0; o < to; o++)
                out[(begin + i) * to + o] = map->bias[o] + map->of->at[o];
        if (map->weight)
            ks__gemm_f64(false, true, m, to, in, a, in, map->weight, in, 1,
                         out + begin * to, to);
    }
done:
    ks__blas_restore(threads);
    free(a);
    return st;
}
