/* A BLAS that computes wrong products is refused before a probe is trained. The
 * program's own cblas_* stand in front of the library's. */
#include <cblas.h>
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <string.h>

#include "../shell.h"
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

Test(blas_check, every_core_that_runs_here_is_accepted) {
    /* each sums in its own order: none may look wrong */
    static const char *const cores[] = {"Prescott", "Haswell", "SkylakeX",
                                        "Cooperlake"};
    for (size_t i = 0; i < sizeof cores / sizeof *cores; i++) {
        char line[160], output[1024] = "";
        snprintf(line, sizeof line,
                 "OPENBLAS_CORETYPE=%s '%s' bench gemm --repeats 1 --shapes "
                 "8x8x8 --types f32 2>&1",
                 cores[i], KS_PROGRAM);
        if (i == 1 && !__builtin_cpu_supports("avx2")) break;
        if (i == 2 && !__builtin_cpu_supports("avx512vl")) break;
        if (i == 3 && !__builtin_cpu_supports("avx512bf16")) break;
        int code = shell_run(line, output, sizeof output);
        cr_expect_eq(code, 0, "%s: exit %d: %s", cores[i], code, output);
    }
}

Test(blas_check, a_core_older_than_the_processor_is_replaced) {
    const ks_blas_cpu old = {false, false, false}, avx2 = {true, false, false},
                      wide = {true, true, false}, bf16 = {true, true, true};
    cr_expect_null(ks__blas_core("Prescott", old, false));
    cr_expect_str_eq(ks__blas_core("Prescott", avx2, false), "Haswell");
    cr_expect_str_eq(ks__blas_core("prescott", wide, false), "SkylakeX");
    cr_expect_str_eq(ks__blas_core("Nehalem", bf16, false), "Cooperlake");
    cr_expect_str_eq(ks__blas_core("Prescott", bf16, true), "Haswell");
    cr_expect_null(ks__blas_core("Zen", avx2, false));
    cr_expect_null(ks__blas_core("Haswell", bf16, false));
}

Test(blas_check, the_program_asks_for_a_fast_core_and_minds_the_users) {
    char output[2048] = "";
    const char *line = "OPENBLAS_VERBOSE=2 '" KS_PROGRAM
                       "' bench gemm --repeats 1 --shapes 8x8x8 --types f32 "
                       "2>&1 | grep '^Core: ' | tail -n 1";
    if (!__builtin_cpu_supports("avx2"))
        cr_skip_test("a processor without AVX2 has no faster core");
    shell_run(line, output, sizeof output);
    cr_expect(strstr(output, "Core: ") && !strstr(output, "Prescott"), "%s",
              output);
    setenv("OPENBLAS_CORETYPE", "Prescott", 1);
    shell_run(line, output, sizeof output);
    cr_expect(strstr(output, "Core: Prescott"), "%s", output);
}
