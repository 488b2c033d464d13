/* ops_cpu.c - the CPU backend: which instruction set, how many threads, and
 * the slots that need neither. Opening it runs a small product on the GEMM;
 * the BLAS is checked when it is first asked for a product.
 */
#include "ops_cpu.h"

#include "blas.h"

#include <cpuid.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* --------------------------------------------------------- instruction sets */

static bool has_f16c(void) { /* no builtin knows it in clang 14 */
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
           has_f16c();
}

static bool has_avx512(void) {
#ifdef KS_EMULATE_AVX512
    return has_avx2();
#endif
    return has_avx2() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") &&
           __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

static bool has_v2(void) {
    return __builtin_cpu_supports("sse4.2") &&
           __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("popcnt");
}

static const struct {
    const struct ks_ops *ops;
    bool (*runs_here)(void);
} sets[] = {
    {&ks__ops_avx512, has_avx512},
    {&ks__ops_avx2, has_avx2},
    {&ks__ops_v2, has_v2},
};

const struct ks_ops *ks_ops_cpu(void) {
    for (size_t i = 0; i < KS_COUNT(sets); i++)
        if (sets[i].runs_here()) return sets[i].ops;
    return NULL;
}

/* isa NULL: the environment's KS_ISA, else the best. */
static ks_status choose(const struct ks_ops **out, const char *isa,
                        ks_err *err) {
    if (!isa || !*isa) isa = getenv("KS_ISA");
    if (!isa || !*isa) {
        *out = ks_ops_cpu();
        return *out ? KS_OK
                    : ks_fail(err, KS_UNSUPPORTED,
                              "this processor is older than x86-64-v2 "
                              "(SSE 4.2), which keystep needs");
    }
    char here[64] = "";
    for (size_t i = 0; i < KS_COUNT(sets); i++) {
        if (!sets[i].runs_here()) continue;
        *out = sets[i].ops;
        if (strcmp(isa, sets[i].ops->isa) == 0) return KS_OK;
        strcat(strcat(here, " "), sets[i].ops->isa);
    }
    return ks_fail(err, KS_UNSUPPORTED,
                   "instruction set '%s' is not one that runs here:%s", isa,
                   here);
}

/* ------------------------------------------------------------------- checks */

#define SLOT(name)                                                             \
    { #name, offsetof(struct ks_ops, name) }

static ks_status check_slots(const struct ks_ops *ops, ks_err *err) {
    static const struct {
        const char *name;
        size_t offset;
    } slots[] = {
        SLOT(alloc),
        SLOT(free),
        SLOT(copy),
        SLOT(sync),
        SLOT(zero),
        SLOT(each),
        SLOT(embed),
        SLOT(gemm),
        SLOT(norm),
        SLOT(add),
        SLOT(rope),
        SLOT(attention),
        SLOT(gate),
        SLOT(pool),
        SLOT(convert),
        SLOT(count_nonfinite),
        SLOT(score),
        SLOT(sample),
        SLOT(gemm_backward),
        SLOT(norm_backward),
        SLOT(rope_backward),
        SLOT(gate_backward),
        SLOT(attention_backward),
        SLOT(score_backward),
        SLOT(matmul),
        SLOT(l2_pass),
        SLOT(l2_gram),
        SLOT(l2_project),
        SLOT(l2_hessian),
        SLOT(adamw),
    };
    _Static_assert(sizeof(struct ks_ops) ==
                       (KS_COUNT(slots) + 2) * sizeof(void *),
                   "a slot is missing from this list");
    for (size_t i = 0; i < KS_COUNT(slots); i++) {
        void (*slot)(void);
        memcpy(&slot, (const char *)ops + slots[i].offset, sizeof slot);
        if (!slot)
            return ks_fail(err, KS_INTERNAL, "backend %s has no op '%s'",
                           ops->name, slots[i].name);
    }
    return KS_OK;
}

/* Odd sizes, more than one block of every loop. */
enum { CHECK_M = 131, CHECK_N = 203, CHECK_K = 389 };

/* Small numbers without a pattern. */
static void fill(float *x, int64_t n, uint32_t seed) {
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) * 0x1p-23f - 1;
    }
}

/* y = a x, or a^T x, in double; a: [rows, cols]. */
static void apply(double *y, const float *a, int rows, int cols, bool t,
                  const double *x) {
    for (int i = 0; i < (t ? cols : rows); i++) y[i] = 0;
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < cols; j++)
            y[t ? j : i] += (double)a[i * cols + j] * x[t ? i : j];
}

/* Is c = a b^T? Both sides are applied to a vector, so the check costs far
 * less than the product. */
static bool product_is_right(const float *c, const float *a, const float *b) {
    enum { M = CHECK_M, N = CHECK_N, K = CHECK_K };
    double x[N], bx[K], abx[M], cx[M];
    for (int j = 0; j < N; j++) x[j] = 1 + (j * 7 % 11) / 11.0;
    apply(bx, b, N, K, true, x);
    apply(abx, a, M, K, false, bx);
    apply(cx, c, M, N, false, x);
    for (int i = 0; i < M; i++)
        if (!(fabs(cx[i] - abx[i]) <= 2e-3)) return false; /* NaN too */
    return true;
}

/* Is the gemm's product right here? */
static ks_status check_gemm(ks_dev *dev, const struct ks_ops *ops,
                            ks_err *err) {
    enum { M = CHECK_M, N = CHECK_N, K = CHECK_K };
    ks_status st = KS_OK;
    float *a = NULL;
    KS_TRY(ks_alloc(&a, M * K + K * N + M * N, sizeof *a, "the GEMM's check",
                    err));
    float *b = a + M * K, *c = b + K * N;
    fill(a, M * K, 1);
    fill(b, K * N, 2);
    KS_TRY(ops->gemm(dev, ks_view_f32(c, M, N), ks_view_f32(a, M, K),
                     ks_view_f32(b, N, K), NULL, false, err));
    KS_CHECK(product_is_right(c, a, b), KS_INTERNAL,
             "the %s matrix product gives wrong results on this processor: "
             "set KS_ISA to another instruction set (avx2, v2)",
             ops->isa);
done:
    free(a);
    return st;
}

/* ----------------------------------------------------------- open and close */

ks_status ks_dev_open(ks_dev **out, const struct ks_ops **ops,
                      const char *backend, int threads, const char *isa,
                      ks_err *err) {
    ks_status st = KS_OK;
    ks_dev *dev = NULL;
    *out = NULL;
    *ops = NULL;
    KS_CHECK(!backend || strcmp(backend, "cpu") == 0, KS_UNSUPPORTED,
             "backend '%s' is not in this build, which has: cpu", backend);
    KS_CHECK(threads >= 0 && threads <= 1024, KS_USAGE,
             "%d threads: expected 1..1024, or 0 for all", threads);
    KS_TRY(choose(ops, isa, err));
    KS_TRY(check_slots(*ops, err));
    KS_TRY(ks_alloc(&dev, 1, sizeof *dev, "the CPU backend", err));
    dev->threads = threads ? threads : omp_get_max_threads();
    ks_buf scratch = {0};
    KS_TRY(ks__cpu_alloc(dev, &scratch, (size_t)dev->threads * KS_SCRATCH,
                         "the threads' scratch", err));
    dev->scratch = scratch.data;
    KS_TRY(ks_alloc(&dev->lanes, (size_t)dev->threads, sizeof *dev->lanes,
                    "the threads' lanes", err));
    for (int i = 0; i < dev->threads; i++)
        dev->lanes[i] = (ks_dev){
            .threads = 1, .scratch = dev->scratch + (size_t)i * KS_SCRATCH};
    KS_TRY(check_gemm(dev, *ops, err));
    *out = dev;
    return KS_OK;
done:
    ks_dev_close(&dev, *ops);
    *ops = NULL;
    return st;
}

void ks_dev_close(ks_dev **dev, const struct ks_ops *ops) {
    (void)ops;
    if (!dev || !*dev) return;
    free((*dev)->scratch);
    free((*dev)->shared.data);
    for (int i = 0; (*dev)->lanes && i < (*dev)->threads; i++)
        free((*dev)->lanes[i].shared.data);
    free((*dev)->lanes);
    free(*dev);
    *dev = NULL;
}

int ks_dev_threads(const ks_dev *dev) {
    return dev->threads;
}

int ks_dev_lanes(const ks_dev *dev) {
    return dev->threads;
}

ks_status ks__cpu_each(ks_dev *dev, int32_t lanes, int32_t n, ks_each_fn body,
                       void *user, ks_err *err) {
    ks_status st = KS_OK;
    int32_t failed = n;
    if (lanes <= 1) {
        for (int32_t i = 0; i < n; i++) KS_TRY(body(user, dev, 0, i, err));
        goto done;
    }
    KS_CHECK(lanes <= dev->threads, KS_INTERNAL, "each: %d lanes on %d threads",
             (int)lanes, dev->threads);
#pragma omp parallel for num_threads(lanes) schedule(dynamic, 1)
    for (int32_t i = 0; i < n; i++) {
        int lane = omp_get_thread_num();
        ks_err own = {0};
        ks_status one = body(user, &dev->lanes[lane], lane, i, &own);
        if (one == KS_OK) continue;
#pragma omp critical(ks__each)
        if (i < failed) {
            failed = i;
            st = one;
            if (err) *err = own;
        }
    }
done:
    return st;
}

ks_status ks__shared(ks_dev *dev, size_t size, const char *what, ks_err *err) {
    if (dev->shared.size >= size) return KS_OK;
    ks__cpu_free(dev, &dev->shared);
    return ks__cpu_alloc(dev, &dev->shared, size, what, err);
}

/* ------------------------------------------------------------------- memory */

/* Large buffers start on a huge page and ask for them: one TLB entry where
 * 512 would be needed. */
enum { LINE = 64, HUGE_PAGE = 2 << 20 };

ks_status ks__cpu_alloc(ks_dev *dev, ks_buf *buf, size_t size, const char *what,
                        ks_err *err) {
    (void)dev;
    size_t align = size >= 2 * HUGE_PAGE ? HUGE_PAGE : LINE;
    void *data = NULL;
    if (size > SIZE_MAX - align ||
        posix_memalign(&data, align, size ? size : LINE))
        return ks_fail(err, KS_NOMEM, "no memory for %s (%zu bytes)", what,
                       size);
    if (align == HUGE_PAGE) (void)madvise(data, size, MADV_HUGEPAGE);
    *buf = (ks_buf){data, size};
    return KS_OK;
}

void ks__cpu_free(ks_dev *dev, ks_buf *buf) {
    (void)dev;
    free(buf->data);
    *buf = (ks_buf){0};
}

ks_status ks__cpu_copy(ks_dev *dev, void *to, const void *from, size_t size,
                       ks_err *err) {
    (void)dev, (void)err;
    if (size) memmove(to, from, size);
    return KS_OK;
}

ks_status ks__cpu_sync(ks_dev *dev, ks_err *err) {
    (void)dev, (void)err;
    return KS_OK;
}

ks_status ks__cpu_zero(ks_dev *dev, void *data, size_t size, ks_err *err) {
    (void)dev, (void)err;
    if (size) memset(data, 0, size);
    return KS_OK;
}

/* -------------------------------------------------------------------- matmul
 */

ks_status ks__cpu_matmul(ks_dev *dev, ks_view c, ks_view a, bool ta, ks_view b,
                         bool tb, float alpha, float beta, ks_err *err) {
    int64_t m = ta ? a.cols : a.rows, k = ta ? a.rows : a.cols;
    int64_t n = tb ? b.rows : b.cols, kb = tb ? b.cols : b.rows;
    if (c.rows != m || c.cols != n || k != kb)
        return ks_fail(err, KS_INTERNAL,
                       "matmul: shapes [%lld,%lld] = [%lld,%lld] [%lld,%lld]",
                       (long long)c.rows, (long long)c.cols, (long long)m,
                       (long long)k, (long long)kb, (long long)n);
    if (KS_MAX(KS_MAX(m, n), k) > INT_MAX ||
        KS_MAX(KS_MAX(a.stride, b.stride), c.stride) > INT_MAX)
        return ks_fail(err, KS_LIMIT,
                       "matmul: a side of %lld is beyond the BLAS's 2^31 - 1",
                       (long long)KS_MAX(KS_MAX(m, n), k));
    if (openblas_get_num_threads() != dev->threads)
        openblas_set_num_threads(dev->threads);
    ks_status st = ks__blas_check(err);
    if (st != KS_OK || m == 0 || n == 0) return st;
    cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans,
                tb ? CblasTrans : CblasNoTrans, (blasint)m, (blasint)n,
                (blasint)k, alpha, a.data, (blasint)a.stride, b.data,
                (blasint)b.stride, beta, c.data, (blasint)c.stride);
    return KS_OK;
}
