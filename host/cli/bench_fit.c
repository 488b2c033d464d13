/* bench_fit.c - cost over size: a line by least squares, and how straight. */
#include <gsl/gsl_cdf.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_multifit.h>
#include <math.h>
#include <stdlib.h>

#include "bench.h"

enum { TERMS = 3 };

/* y by the first k powers of x, 1 first; scaled[i] = x / largest x. */
typedef struct powers {
    int32_t k;
    double c[TERMS], error[TERMS]; /* NaN where no residual is left */
} powers;

static int32_t distinct(const double *x, int32_t n) {
    int32_t count = 0;
    for (int32_t i = 0; i < n; i++) {
        bool first = true;
        for (int32_t j = 0; j < i; j++) first &= x[j] != x[i];
        count += first;
    }
    return count;
}

static ks_status solve(const double *x, const double *y, int32_t n, int32_t k,
                       powers *out, ks_err *err) {
    ks_status st = KS_OK;
    double squares = 0;
    gsl_error_handler_t *was = gsl_set_error_handler_off();
    size_t rows = (size_t)n, terms = (size_t)k;
    gsl_matrix *design = gsl_matrix_alloc(rows, terms);
    gsl_matrix *cov = gsl_matrix_alloc(terms, terms);
    gsl_vector *values = gsl_vector_alloc(rows), *c = gsl_vector_alloc(terms);
    gsl_multifit_linear_workspace *work =
        gsl_multifit_linear_alloc(rows, terms);
    KS_CHECK(design && cov && values && c && work, KS_NOMEM,
             "no memory for a fit");
    for (size_t i = 0; i < rows; i++) {
        double power = 1;
        gsl_vector_set(values, i, y[i]);
        for (size_t j = 0; j < terms; j++) {
            gsl_matrix_set(design, i, j, power);
            power *= x[i];
        }
    }
    KS_CHECK(gsl_multifit_linear(design, values, c, cov, &squares, work) == 0,
             KS_NUMERIC, "a fit through %d points did not come out", n);
    out->k = k;
    for (size_t j = 0; j < terms; j++) {
        out->c[j] = gsl_vector_get(c, j);
        out->error[j] = n > k ? sqrt(gsl_matrix_get(cov, j, j)) : NAN;
    }
done:
    if (work) gsl_multifit_linear_free(work);
    gsl_vector_free(values);
    gsl_vector_free(c);
    gsl_matrix_free(design);
    gsl_matrix_free(cov);
    gsl_set_error_handler(was);
    return st;
}

static double half_width(const powers *p, int32_t j, int32_t n) {
    return n > p->k ? gsl_cdf_tdist_Pinv(0.975, n - p->k) * p->error[j] : NAN;
}

static ks_status fit_exponent(const double *x, const double *y, int32_t n,
                              double *work, ks_bench_fit *f, ks_err *err) {
    ks_status st = KS_OK;
    double *u = work, *v = work + n;
    powers p = {0};
    for (int32_t i = 0; i < n; i++) {
        if (!(x[i] > 0 && y[i] > 0)) return KS_OK;
        u[i] = log(x[i]);
        v[i] = log(y[i]);
    }
    KS_TRY(solve(u, v, n, 2, &p, err));
    double half = half_width(&p, 1, n);
    f->exponent = p.c[1];
    f->exponent_low = p.c[1] - half;
    f->exponent_high = p.c[1] + half;
done:
    return st;
}

ks_status ks_bench_fit_line(const double *x, const double *y, int32_t n,
                            ks_bench_fit *out, ks_err *err) {
    ks_status st = KS_OK;
    int32_t places = distinct(x, n);
    double most = 0, *work = NULL;
    powers p = {0};
    *out = (ks_bench_fit){n,   NAN, NAN, NAN, NAN, NAN,
                          NAN, NAN, NAN, NAN, NAN, NAN};
    if (places < 2) return KS_OK;
    KS_TRY(ks_alloc(&work, 2 * (size_t)n, sizeof *work, "a fit", err));
    for (int32_t i = 0; i < n; i++) most = fmax(most, fabs(x[i]));
    /* sizes in units of the largest: powers of them are of one magnitude */
    for (int32_t i = 0; i < n; i++) work[i] = x[i] / most;
    KS_TRY(solve(work, y, n, 2, &p, err));
    double a = half_width(&p, 0, n), b = half_width(&p, 1, n);
    out->a = p.c[0], out->a_low = p.c[0] - a, out->a_high = p.c[0] + a;
    out->b = p.c[1] / most;
    out->b_low = (p.c[1] - b) / most, out->b_high = (p.c[1] + b) / most;
    if (places > 2) {
        KS_TRY(solve(work, y, n, 3, &p, err));
        out->curvature = p.c[2] / (p.c[0] + p.c[1] + p.c[2]);
        if (n > 3 && p.error[2] > 0)
            out->p_curvature =
                2 * gsl_cdf_tdist_Q(fabs(p.c[2]) / p.error[2], n - 3);
    }
    KS_TRY(fit_exponent(x, y, n, work, out, err));
done:
    free(work);
    return st;
}
