/* A BLAS that computes wrong products is refused before a probe is trained. The
 * program's own cblas_* stand in front of the library's. */
#include <cblas.h>
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <string.h>

#include "blas.h"
#include "l2.h"
#include "ops.h"

static enum { NONE, SGEMM, DGEMM, SSYRK } broken;

static void real(const char *name, void *function, size_t size) {
    void *found = dlsym(RTLD_NEXT, name);
    cr_assert_not_null(found);
    memcpy(function, &found, size);
}

void cblas_sgemm(const enum CBLAS_ORDER order, const enum CBLAS_TRANSPOSE ta,
                 const enum CBLAS_TRANSPOSE tb, const blasint m,
                 const blasint n, const blasint k, const float alpha,
                 const float *a, const blasint lda, const float *b,
                 const blasint ldb, const float beta, float *c,
                 const blasint ldc) {
    __typeof__(&cblas_sgemm) next;
    real("cblas_sgemm", &next, sizeof next);
    next(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    if (broken == SGEMM && ta == CblasTrans) c[(m - 1) * ldc + n - 1] += 0.01f;
}

void cblas_dgemm(const enum CBLAS_ORDER order, const enum CBLAS_TRANSPOSE ta,
                 const enum CBLAS_TRANSPOSE tb, const blasint m,
                 const blasint n, const blasint k, const double alpha,
                 const double *a, const blasint lda, const double *b,
                 const blasint ldb, const double beta, double *c,
                 const blasint ldc) {
    __typeof__(&cblas_dgemm) next;
    real("cblas_dgemm", &next, sizeof next);
    next(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    if (broken == DGEMM) c[0] = 0.0 / 0.0;
}

void cblas_ssyrk(const enum CBLAS_ORDER order, const enum CBLAS_UPLO half,
                 const enum CBLAS_TRANSPOSE t, const blasint n, const blasint k,
                 const float alpha, const float *a, const blasint lda,
                 const float beta, float *c, const blasint ldc) {
    __typeof__(&cblas_ssyrk) next;
    real("cblas_ssyrk", &next, sizeof next);
    next(order, half, t, n, k, alpha, a, lda, beta, c, ldc);
    if (broken == SSYRK) c[(n - 1) * ldc] *= 1.01f;
}

static ks_status try_open(ks_err *err) {
    float x[8] = {0, 1, 2, 3, 4, 5, 7, 6};
    int8_t y[4] = {0, 1, 0, 1};
    uint8_t fold[4] = {0, 0, 1, 1};
    ks_l2_design design = {.y = y, .fold = fold};
    ks_l2 *l2 = NULL;
    ks_status st = ks_l2_open(&l2, x, 4, 2, &design, 1, 1, err);
    ks_l2_close(&l2);
    return st;
}

Test(blas_check, a_wrong_product_is_refused_with_the_remedy) {
    for (broken = SGEMM; broken <= SSYRK; broken++) {
        ks_err err = {0};
        cr_assert_eq(try_open(&err), KS_NUMERIC, "broken: %d", (int)broken);
        cr_assert(strstr(err.text, "OPENBLAS_CORETYPE"), "%s", err.text);
    }
}

Test(blas_check, matmul_of_the_backend_refuses_too) {
    float x[4] = {1, 2, 3, 4}, c[4];
    ks_dev *dev = NULL;
    const struct ks_ops *ops;
    ks_err err = {0};
    cr_assert_eq(ks_dev_open(&dev, &ops, "cpu", 1, NULL, &err), KS_OK, "%s",
                 err.text);
    broken = SGEMM;
    cr_expect_eq(ops->matmul(dev, ks_view_f32(c, 2, 2), ks_view_f32(x, 2, 2),
                             false, ks_view_f32(x, 2, 2), false, 1, 0, &err),
                 KS_NUMERIC);
    cr_expect(strstr(err.text, "OPENBLAS_CORETYPE"), "%s", err.text);
    ks_dev_close(&dev, ops);
}

Test(blas_check, a_right_one_is_taken) {
    ks_err err = {0};
    broken = NONE;
    cr_assert_eq(ks__blas_check(&err), KS_OK, "%s", err.text);
}
