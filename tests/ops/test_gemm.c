/* The GEMM for weights as stored: values, guards, bits. */
#include "reference.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sys/wait.h>
#include <unistd.h>
#endif

/* Rounding of a chain of K multiply-adds, x below 1: five times the standard
 * deviation of the worst case in practice (errors add up like a random walk of
 * steps that grow like one). */
static double tolerance(const ks_view *w) {
    double most = 0;
    for (int64_t i = 0; i < w->rows * w->cols; i++)
        most = fmax(most, fabs((double)((float *)w->data)[i]));
    return most * (1e-7 * (double)w->cols + 5e-7);
}

typedef struct shape {
    int64_t m, n, k;
} shape;

static void check_shape(backend *b, ks_type type, shape s, int64_t pad,
                        bool bias_on, bool accumulate) {
    ks_view x = guarded_random(s.m, s.k, s.k + pad);
    ks_view out = guarded_random(s.m, s.n, s.n + pad);
    ks_view w = random_weights(type, s.n, s.k), wf = expanded(&w);
    float *bias = random_array(s.n);
    double *ref = doubles(s.m * s.n);
    ref_gemm(ref, &x, &wf, bias_on ? bias : NULL, accumulate ? &out : NULL);
    RUN(b, gemm, out, x, w, bias_on ? bias : NULL, accumulate);
    for (int64_t i = 0; i < s.m; i++)
        cr_assert(close_f32("gemm", at(&out, i), ref + i * s.n, (size_t)s.n,
                            tolerance(&wf), 1e-6),
                  "%s %s %lldx%lldx%lld row %lld", b->ops->isa,
                  ks_type_name(type), (long long)s.m, (long long)s.n,
                  (long long)s.k, (long long)i);
    cr_assert(guards_whole(&out), "%s writes outside", b->ops->isa);
    cr_assert(guards_whole(&x));
    guarded_free(&x);
    guarded_free(&out);
    free(w.data), free(wf.data), free(bias), free(ref);
}

static void shapes(backend *b) {
    static const shape table[] = {
        {1, 1, 1},      {1, 31, 33},    {2, 33, 31},     {3, 97, 64},
        {5, 191, 101},  {6, 16, 8},     {7, 17, 9},      {13, 100, 319},
        {14, 96, 320},  {15, 95, 321},  {31, 113, 577},  {64, 192, 576},
        {97, 31, 640},  {113, 193, 67}, {200, 98, 1000}, {1, 300, 1536},
        {4, 300, 1536}, {17, 1, 576},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        check_shape(b, KS_F32, table[i], 0, false, false);
        check_shape(b, KS_F32, table[i], 5, i & 1, i & 2);
        check_shape(b, KS_BF16, table[i], 3, true, true);
        check_shape(b, KS_F16, table[i], 1, i & 2, i & 1);
    }
}

Test(gemm, odd_shapes_strides_bias_accumulate) {
    ON_EVERY_BACKEND(shapes);
}

static void types(backend *b) {
    for (int type = 0; type < KS_I32; type++) {
        int64_t block = ks_type_block((ks_type)type);
        int64_t k = block == 256 ? 768 : 352; /* k blocks cut a super-block */
        check_shape(b, (ks_type)type, (shape){3, 37, k}, 0, true, false);
        check_shape(b, (ks_type)type, (shape){29, 67, k}, 0, false, true);
    }
}

Test(gemm, every_weight_type) {
    ON_EVERY_BACKEND(types);
}

/* Stored weights give the bits that the same weights give in f32. */
static void same_as_f32(backend *b) {
    for (int type = 0; type < KS_I32; type++) {
        int64_t m = 9, n = 51, k = 768;
        ks_view x = guarded_random(m, k, k);
        ks_view one = guarded(m, n, n), two = guarded(m, n, n);
        ks_view w = random_weights((ks_type)type, n, k), wf = expanded(&w);
        RUN(b, gemm, one, x, w, NULL, false);
        RUN(b, gemm, two, x, wf, NULL, false);
        for (int64_t i = 0; i < m; i++)
            cr_assert(rows_equal(&one, i, &two, i), "%s %s", b->ops->isa,
                      ks_type_name((ks_type)type));
        guarded_free(&x), guarded_free(&one), guarded_free(&two);
        free(w.data), free(wf.data);
    }
}

Test(gemm, unpacks_to_the_bits_of_dequantize) {
    ON_EVERY_BACKEND(same_as_f32);
}

/* A row's bits: alone, in any number of rows, in any place. */
static void rows_alone(backend *b) {
    enum { M = 131, N = 213, K = 700 };
    ks_view x = guarded_random(M, K, K), w = random_weights(KS_BF16, N, K);
    ks_view all = guarded(M, N, N), some = guarded(M, N, N + 2);
    float *bias = random_array(N);
    RUN(b, gemm, all, x, w, bias, false);
    for (int64_t n = 1; n <= 70; n++) {
        int64_t first = (n * 37) % (M - n);
        ks_view part = some, from = x;
        part.rows = from.rows = n;
        from.data = at(&x, first);
        RUN(b, gemm, part, from, w, bias, false);
        for (int64_t i = 0; i < n; i++)
            cr_assert(rows_equal(&part, i, &all, first + i),
                      "%s row %lld of %lld", b->ops->isa, (long long)i,
                      (long long)n);
    }
    guarded_free(&x), guarded_free(&all), guarded_free(&some);
    free(w.data), free(bias);
}

Test(gemm, bits_of_a_row_know_no_others) {
    ON_EVERY_BACKEND(rows_alone);
}

Test(gemm, bits_know_no_threads_and_wide_sets_agree) {
    enum { M = 250, N = 777, K = 576 };
    ks_view x = guarded_random(M, K, K), w = random_weights(KS_Q8_0, N, K);
    ks_view first = guarded(M, N, N);
    for (size_t i = 1; i < sizeof ISAS / sizeof *ISAS; i++) {
        for (int threads = 1; threads <= 5; threads++) {
            backend b;
            if (!backend_open(&b, ISAS[i], threads)) continue;
            ks_view out = guarded(M, N, N);
            RUN(&b, gemm, out, x, w, NULL, false);
            if (i == 1 && threads == 1)
                memcpy(first.data, out.data, M * N * sizeof(float));
            for (int64_t r = 0; r < M; r++)
                cr_assert(rows_equal(&first, r, &out, r), "%s, %d threads",
                          ISAS[i], threads);
            guarded_free(&out);
            backend_close(&b);
        }
    }
    guarded_free(&x), guarded_free(&first), free(w.data);
}

static void nothing(backend *b) {
    ks_view x = guarded_random(1, 64, 64), w = random_weights(KS_F32, 9, 64);
    ks_view out = guarded(1, 9, 9);
    x.rows = out.rows = 0;
    RUN(b, gemm, out, x, w, NULL, false);
    out.rows = 1;
    cr_assert(((float *)out.data)[0] == GUARD_VALUE);
    cr_assert(b->ops->gemm(b->dev, out, x, w, NULL, false, &b->err) ==
              KS_INTERNAL);
    x.rows = 1, x.cols = 63;
    cr_assert(b->ops->gemm(b->dev, out, x, w, NULL, false, &b->err) ==
              KS_INTERNAL);
    guarded_free(&x), guarded_free(&out), free(w.data);
}

Test(gemm, empty_and_wrong_shapes) {
    ON_EVERY_BACKEND(nothing);
}

/* A NaN weight or input reaches its outputs and no others. */
static void not_a_number(backend *b) {
    enum { M = 9, N = 40, K = 65 };
    ks_view x = guarded_random(M, K, K), w = random_weights(KS_F32, N, K);
    ks_view out = guarded(M, N, N);
    at(&x, 4)[64] = NAN;
    ((float *)w.data)[17 * K + 3] = INFINITY;
    RUN(b, gemm, out, x, w, NULL, false);
    for (int64_t i = 0; i < M; i++)
        for (int64_t j = 0; j < N; j++)
            cr_assert((i == 4 || j == 17) == !isfinite(at(&out, i)[j]));
    guarded_free(&x), guarded_free(&out), free(w.data);
}

Test(gemm, nan_stays_in_its_row) {
    ON_EVERY_BACKEND(not_a_number);
}

#if defined(__SANITIZE_ADDRESS__)
/* Exit code of a child that multiplies with these: 1 is the sanitizer's. */
static int watched(backend *b, ks_view out, ks_view x, const float *bias) {
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        ks_view w = random_weights(KS_F32, out.cols, x.cols);
        cr_assert(freopen("/dev/null", "w", stderr));
        _exit(b->ops->gemm(b->dev, out, x, w, bias, false, &b->err));
    }
    cr_assert(child > 0 && waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static ks_view exactly(int64_t rows, int64_t cols) {
    float *data = calloc((size_t)(rows * cols), sizeof *data);
    return (ks_view){data, rows, cols, cols, KS_F32};
}

/* The inner loops are not looked at themselves (sanitize.h). */
Test(gemm, an_operand_that_ends_early_is_reported) {
    enum { M = 17, N = 35, K = 70 };
    ks_view x = exactly(M, K), out = exactly(M, N);
    float *bias = calloc(N, sizeof *bias);
    for (size_t i = 0; i < sizeof ISAS / sizeof *ISAS; i++) {
        backend b;
        if (!backend_open(&b, ISAS[i], 1)) continue;
        ks_view lower = {(float *)x.data + 1, M, K, K, KS_F32};
        ks_view wider = {out.data, M, N, N + 1, KS_F32};
        cr_expect_eq(watched(&b, out, x, bias), KS_OK, "%s", ISAS[i]);
        cr_expect_eq(watched(&b, out, lower, bias), 1, "%s: x", ISAS[i]);
        cr_expect_eq(watched(&b, wider, x, bias), 1, "%s: out", ISAS[i]);
        cr_expect_eq(watched(&b, out, x, bias + 1), 1, "%s: bias", ISAS[i]);
        backend_close(&b);
    }
    free(x.data), free(out.data), free(bias);
}
#endif
