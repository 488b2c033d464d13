/* linear_map.c - see linear_map.h. */
#include "linear_map.h"

#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "blas.h"

enum { BLOCK = 256 };

/* --------------------------------------------------------------------- sums */

ks_status ks_map_sums_open(ks_map_sums *out, int64_t d_in, int64_t d_out,
                           ks_err *err) {
    ks_status st = KS_OK;
    size_t in = (size_t)d_in, to = (size_t)d_out;
    *out = (ks_map_sums){.d_in = d_in, .d_out = d_out};
    KS_TRY(ks_alloc(&out->x, in, sizeof(double), "sums of a map", err));
    KS_TRY(ks_alloc(&out->y, to, sizeof(double), "sums of a map", err));
    KS_TRY(ks_alloc(&out->xx, in * in, sizeof(double), "sums of a map", err));
    KS_TRY(ks_alloc(&out->xy, in * to, sizeof(double), "sums of a map", err));
    KS_TRY(ks_alloc(&out->yy, to, sizeof(double), "sums of a map", err));
done:
    if (st != KS_OK) ks_map_sums_close(out);
    return st;
}

void ks_map_sums_close(ks_map_sums *s) {
    free(s->x);
    free(s->y);
    free(s->xx);
    free(s->xy);
    free(s->yy);
    *s = (ks_map_sums){0};
}

void ks_map_sums_clear(ks_map_sums *s) {
    size_t in = (size_t)s->d_in, to = (size_t)s->d_out;
    s->n = 0;
    memset(s->x, 0, in * sizeof(double));
    memset(s->y, 0, to * sizeof(double));
    memset(s->xx, 0, in * in * sizeof(double));
    memset(s->xy, 0, in * to * sizeof(double));
    memset(s->yy, 0, to * sizeof(double));
}

static void take_rows(const float *from, const int64_t *row, const double *at,
                      int64_t n, int64_t d, double *out) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j++)
            out[i * d + j] = (double)from[row[i] * d + j] - at[j];
}

ks_status ks_map_cross_rows(double *xy, int64_t d_in, int64_t d_out,
                            const float *x, const int64_t *row_x,
                            const double *at_x, const float *y,
                            const int64_t *row_y, const double *at_y, int64_t n,
                            ks_err *err) {
    ks_status st = KS_OK;
    int64_t in = d_in, to = d_out;
    double *a = NULL, *b = NULL;
    int threads = ks__blas_serial();
    KS_TRY(ks_alloc(&a, (size_t)(BLOCK * in), sizeof *a, "rows", err));
    KS_TRY(ks_alloc(&b, (size_t)(BLOCK * to), sizeof *b, "rows", err));
    for (int64_t at = 0, m; at < n; at += m) {
        m = KS_MIN(BLOCK, n - at);
        take_rows(x, row_x + at, at_x, m, in, a);
        take_rows(y, row_y + at, at_y, m, to, b);
        ks__gemm_f64(true, false, in, to, m, a, in, b, to, 1, xy, to);
    }
done:
    ks__blas_restore(threads);
    free(a);
    free(b);
    return st;
}

ks_status ks_map_sums_rows(ks_map_sums *s, const float *x, const int64_t *row_x,
                           const double *at_x, const float *y,
                           const int64_t *row_y, const double *at_y, int64_t n,
                           ks_err *err) {
    ks_status st = KS_OK;
    int64_t in = s->d_in, to = s->d_out;
    double *a = NULL;
    int threads = ks__blas_serial();
    KS_TRY(ks_alloc(&a, (size_t)(BLOCK * in), sizeof *a, "rows", err));
    for (int64_t at = 0, m; at < n; at += m) {
        m = KS_MIN(BLOCK, n - at);
        take_rows(x, row_x + at, at_x, m, in, a);
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < in; j++) s->x[j] += a[i * in + j];
        ks__gemm_f64(true, false, in, in, m, a, in, a, in, 1, s->xx, in);
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < to; j++) {
            double v = (double)y[row_y[i] * to + j] - at_y[j];
            s->y[j] += v;
            s->yy[j] += v * v;
        }
    KS_TRY(ks_map_cross_rows(s->xy, in, to, x, row_x, at_x, y, row_y, at_y, n,
                             err));
    s->n += (double)n;
done:
    ks__blas_restore(threads);
    free(a);
    return st;
}

static void add(double *to, const double *more, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] += more[i];
}

void ks_map_sums_add(ks_map_sums *s, const ks_map_sums *more) {
    int64_t in = s->d_in, to = s->d_out;
    s->n += more->n;
    add(s->x, more->x, in);
    add(s->y, more->y, to);
    add(s->xx, more->xx, in * in);
    add(s->xy, more->xy, in * to);
    add(s->yy, more->yy, to);
}

/* ---------------------------------------------------------------- beginning */

static ks_status open_map(ks_linear_map *out, const ks_map_sums *train,
                          ks_err *err) {
    ks_status st = KS_OK;
    size_t in = (size_t)train->d_in, to = (size_t)train->d_out;
    *out = (ks_linear_map){.d_in = train->d_in, .d_out = train->d_out};
    KS_CHECK(train->n >= 2, KS_MISMATCH,
             "a map between activations needs two steps or more to be fitted "
             "on, found %.0f",
             train->n);
    KS_TRY(ks_alloc(&out->weight, in * to, sizeof(double), "map", err));
    KS_TRY(ks_alloc(&out->bias, to, sizeof(double), "map", err));
    KS_TRY(ks_alloc(&out->mean, to, sizeof(double), "map", err));
    KS_TRY(ks_alloc(&out->scale, to, sizeof(double), "map", err));
    for (size_t j = 0; j < to; j++) {
        double mean = train->y[j] / train->n;
        double variance = train->yy[j] / train->n - mean * mean;
        out->mean[j] = mean;
        /* what rounding leaves of a constant is no variance */
        out->scale[j] =
            variance > 1e-12 * train->yy[j] / train->n ? sqrt(variance) : 0;
    }
done:
    if (st != KS_OK) ks_linear_map_free(out);
    return st;
}

void ks_linear_map_free(ks_linear_map *map) {
    free(map->weight);
    free(map->bias);
    free(map->mean);
    free(map->scale);
    *map = (ks_linear_map){0};
}

/* sum (x - mean) (y - mean)' out of sums about a fixed point */
static double *centred(const double *xy, const double *x, const double *y,
                       double n, int64_t in, int64_t to, ks_err *err) {
    double *out;
    if (ks_alloc(&out, (size_t)(in * to), sizeof *out, "map", err) != KS_OK)
        return NULL;
    for (int64_t i = 0; i < in; i++)
        for (int64_t j = 0; j < to; j++)
            out[i * to + j] = xy[i * to + j] - x[i] * y[j] / n;
    return out;
}

/* bias = mean y - mean x weight */
static void set_bias(ks_linear_map *map, const ks_map_sums *train) {
    for (int64_t j = 0; j < map->d_out; j++) map->bias[j] = map->mean[j];
    for (int64_t i = 0; i < map->d_in; i++) {
        double mean = train->x[i] / train->n;
        for (int64_t j = 0; j < map->d_out; j++)
            map->bias[j] -= mean * map->weight[i * map->d_out + j];
    }
}

/* --------------------------------------------------------------------- fits */

/* 1 / deviation of x, 0 for a constant feature, whose row and column of the
 * centred moments then become those of a unit that nothing else knows. */
static void standardise(const ks_map_sums *train, double *k, double *xy,
                        double *inverse) {
    int64_t in = train->d_in, to = train->d_out;
    double n = train->n;
    for (int64_t i = 0; i < in; i++) {
        double variance = k[i * in + i] / n;
        inverse[i] =
            variance > 1e-12 * train->xx[i * in + i] / n && variance > 0
                ? 1 / sqrt(variance)
                : 0;
    }
    for (int64_t i = 0; i < in; i++) {
        for (int64_t j = 0; j < in; j++)
            k[i * in + j] *= inverse[i] * inverse[j] / n;
        if (inverse[i] == 0) k[i * in + i] = 1;
        for (int64_t j = 0; j < to; j++) xy[i * to + j] *= inverse[i] / n;
    }
}

ks_status ks_linear_map_ridge(ks_linear_map *out, const ks_map_sums *train,
                              double strength, ks_err *err) {
    ks_status st = KS_OK;
    int64_t in = train->d_in, to = train->d_out;
    double *k = NULL, *xy = NULL, *inverse = NULL;
    int threads = ks__blas_serial();
    KS_TRY(open_map(out, train, err));
    k = centred(train->xx, train->x, train->x, train->n, in, in, err);
    xy = centred(train->xy, train->x, train->y, train->n, in, to, err);
    KS_CHECK(k && xy, KS_NOMEM, "out of memory for a map of %lld features",
             (long long)in);
    KS_TRY(ks_alloc(&inverse, (size_t)in, sizeof *inverse, "map", err));
    standardise(train, k, xy, inverse);
    for (int64_t i = 0; i < in; i++) k[i * in + i] += strength;
    lapack_int info =
        LAPACKE_dposv(LAPACK_ROW_MAJOR, 'L', (lapack_int)in, (lapack_int)to, k,
                      (lapack_int)in, xy, (lapack_int)to);
    KS_CHECK(info == 0, KS_NUMERIC,
             "a map of %lld features cannot be solved at strength %g",
             (long long)in, strength);
    for (int64_t i = 0; i < in; i++)
        for (int64_t j = 0; j < to; j++)
            out->weight[i * to + j] = inverse[i] * xy[i * to + j];
    set_bias(out, train);
done:
    ks__blas_restore(threads);
    free(k);
    free(xy);
    free(inverse);
    if (st != KS_OK) ks_linear_map_free(out);
    return st;
}

/* sum of squares of X R, X'X centred = k */
static ks_status spread(const double *k, const ks_linear_map *map, double *out,
                        ks_err *err) {
    int64_t in = map->d_in, to = map->d_out;
    double *kr;
    ks_status st = ks_alloc(&kr, (size_t)(in * to), sizeof *kr, "map", err);
    if (st != KS_OK) return st;
    ks__gemm_f64(false, false, in, to, in, k, in, map->weight, to, 0, kr, to);
    *out = 0;
    for (int64_t i = 0; i < in * to; i++) *out += kr[i] * map->weight[i];
    free(kr);
    return KS_OK;
}

ks_status ks_linear_map_procrustes(ks_linear_map *out, const ks_map_sums *train,
                                   ks_err *err) {
    ks_status st = KS_OK;
    int64_t in = train->d_in, to = train->d_out, least = KS_MIN(in, to);
    double *k = NULL, *xy = NULL, *u = NULL, *s = NULL, *vt = NULL;
    double sum = 0, squares = 0;
    int64_t rank = 0;
    int threads = ks__blas_serial();
    KS_TRY(open_map(out, train, err));
    k = centred(train->xx, train->x, train->x, train->n, in, in, err);
    xy = centred(train->xy, train->x, train->y, train->n, in, to, err);
    KS_CHECK(k && xy, KS_NOMEM, "out of memory for a map of %lld features",
             (long long)in);
    KS_TRY(ks_alloc(&u, (size_t)(in * least), sizeof *u, "map", err));
    KS_TRY(ks_alloc(&s, (size_t)least, sizeof *s, "map", err));
    KS_TRY(ks_alloc(&vt, (size_t)(least * to), sizeof *vt, "map", err));
    lapack_int info = LAPACKE_dgesdd(LAPACK_ROW_MAJOR, 'S', (lapack_int)in,
                                     (lapack_int)to, xy, (lapack_int)to, s, u,
                                     (lapack_int)least, vt, (lapack_int)to);
    KS_CHECK(info == 0, KS_NUMERIC,
             "the singular values of a cross-covariance of %lld x %lld did not "
             "converge",
             (long long)in, (long long)to);
    double rounding = (double)KS_MAX(in, to) * 0x1p-52 * s[0];
    while (rank < least && s[rank] > rounding) sum += s[rank++];
    if (rank > 0) {
        ks__gemm_f64(false, false, in, to, rank, u, least, vt, to, 0,
                     out->weight, to);
        KS_TRY(spread(k, out, &squares, err));
    }
    double factor = squares > 0 ? sum / squares : 0;
    for (int64_t i = 0; i < in * to; i++) out->weight[i] *= factor;
    set_bias(out, train);
done:
    ks__blas_restore(threads);
    free(k);
    free(xy);
    free(u);
    free(s);
    free(vt);
    if (st != KS_OK) ks_linear_map_free(out);
    return st;
}

ks_status ks_linear_map_mean(ks_linear_map *out, const ks_map_sums *train,
                             ks_err *err) {
    ks_status st = open_map(out, train, err);
    if (st == KS_OK) set_bias(out, train);
    return st;
}

ks_status ks_linear_map_identity(ks_linear_map *out, const ks_map_sums *train,
                                 const double *at_x, const double *at_y,
                                 ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(train->d_in == train->d_out, KS_USAGE,
             "activations of %lld and %lld dimensions: no map is the identity",
             (long long)train->d_in, (long long)train->d_out);
    KS_TRY(open_map(out, train, err));
    for (int64_t j = 0; j < out->d_out; j++) {
        out->weight[j * out->d_out + j] = 1;
        out->bias[j] = at_x[j] - at_y[j];
    }
done:
    return st;
}

/* ------------------------------------------------------------- what it does */

/* With r = y - bias, sum (r_j - w_j.x)^2 = rr - 2 w.xr + w.(xx) w. */
ks_status ks_linear_map_loss(const ks_linear_map *map, const ks_map_sums *held,
                             double *error, double *total, ks_err *err) {
    ks_status st = KS_OK;
    int64_t in = map->d_in, to = map->d_out;
    double *xw = NULL, *squares = NULL, n = held->n;
    int threads = ks__blas_serial();
    *error = *total = 0;
    KS_TRY(ks_alloc(&xw, (size_t)(in * to), sizeof *xw, "map", err));
    KS_TRY(ks_alloc(&squares, (size_t)to, sizeof *squares, "map", err));
    ks__gemm_f64(false, false, in, to, in, held->xx, in, map->weight, to, 0, xw,
                 to);
    for (int64_t j = 0; j < to; j++)
        squares[j] =
            held->yy[j] + map->bias[j] * (n * map->bias[j] - 2 * held->y[j]);
    for (int64_t i = 0; i < in; i++)
        for (int64_t j = 0; j < to; j++)
            squares[j] += map->weight[i * to + j] *
                          (xw[i * to + j] - 2 * (held->xy[i * to + j] -
                                                 map->bias[j] * held->x[i]));
    for (int64_t j = 0; j < to; j++) {
        if (map->scale[j] == 0) continue;
        double m = map->mean[j], unit = map->scale[j] * map->scale[j];
        *error += squares[j] / unit;
        *total += (held->yy[j] + m * (n * m - 2 * held->y[j])) / unit;
    }
done:
    ks__blas_restore(threads);
    free(xw);
    free(squares);
    return st;
}

ks_status ks_linear_map_apply(const ks_linear_map *map, const float *x,
                              const int64_t *row, const double *at_x,
                              const double *at_y, int64_t n, double *out,
                              ks_err *err) {
    ks_status st = KS_OK;
    int64_t in = map->d_in, to = map->d_out;
    double *a = NULL;
    int threads = ks__blas_serial();
    KS_TRY(ks_alloc(&a, (size_t)(BLOCK * in), sizeof *a, "rows", err));
    for (int64_t at = 0, m; at < n; at += m) {
        m = KS_MIN(BLOCK, n - at);
        take_rows(x, row + at, at_x, m, in, a);
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < to; j++)
                out[(at + i) * to + j] = map->bias[j] + at_y[j];
        ks__gemm_f64(false, false, m, to, in, a, in, map->weight, to, 1,
                     out + at * to, to);
    }
done:
    ks__blas_restore(threads);
    free(a);
    return st;
}
