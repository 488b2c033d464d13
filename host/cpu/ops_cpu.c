/* ops_cpu.c - the CPU backend: which instruction set, how many threads, and
 * the slots that need neither. The BLAS is checked when it is first asked for a
 * product. */
#include "ops_cpu.h"

#include "blas.h"
#include "n_threads.h"

#include <cpuid.h>
#include <limits.h>
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

/* ----------------------------------------------------------- open and close */

static void cpu_close(ks_dev **dev) {
    if (!*dev) return;
    free((*dev)->scratch);
    free((*dev)->shared.data);
    for (int i = 0; (*dev)->lanes && i < (*dev)->threads; i++)
        free((*dev)->lanes[i].shared.data);
    free((*dev)->lanes);
    free(*dev);
    *dev = NULL;
}

static ks_status cpu_open(ks_dev **out, const struct ks_ops **ops, int ordinal,
                          int threads, const char *isa, ks_err *err) {
    ks_status st = KS_OK;
    ks_dev *dev = NULL;
    KS_CHECK(ordinal == 0, KS_USAGE, "backend 'cpu:%d': cpu is one device",
             ordinal);
    KS_TRY(choose(ops, isa, err));
    KS_TRY(ks_alloc(&dev, 1, sizeof *dev, "the CPU backend", err));
    dev->backend = &ks__backend_cpu;
    dev->threads = ks_threads(threads);
    ks_buf scratch = {0};
    KS_TRY(ks__cpu_alloc(dev, &scratch, (size_t)dev->threads * KS_SCRATCH,
                         "the threads' scratch", err));
    dev->scratch = scratch.data;
    KS_TRY(ks_alloc(&dev->lanes, (size_t)dev->threads, sizeof *dev->lanes,
                    "the threads' lanes", err));
    for (int i = 0; i < dev->threads; i++)
        dev->lanes[i] =
            (ks_dev){.backend = &ks__backend_cpu,
                     .threads = 1,
                     .scratch = dev->scratch + (size_t)i * KS_SCRATCH};
    *out = dev;
    dev = NULL;
done:
    cpu_close(&dev);
    return st;
}

static int cpu_threads(const ks_dev *dev) {
    return dev->threads;
}

/* The system's to say, at the allocation. */
static ks_status cpu_limit(ks_dev *dev, size_t memory, const char *less,
                           ks_err *err) {
    (void)dev, (void)memory, (void)less, (void)err;
    return KS_OK;
}

static size_t cpu_room(const ks_dev *dev) {
    (void)dev;
    return SIZE_MAX;
}

static ks_status cpu_count(int *n, ks_err *err) {
    (void)err;
    *n = 1;
    return KS_OK;
}

/* As the processor calls itself. */
static void cpu_name(char *text, size_t size) {
    unsigned words[12] = {0};
    for (unsigned i = 0; i < 3; i++)
        if (!__get_cpuid(0x80000002 + i, words + 4 * i, words + 4 * i + 1,
                         words + 4 * i + 2, words + 4 * i + 3))
            return;
    const char *name = (const char *)words;
    while (*name == ' ') name++;
    snprintf(text, size, "%.*s",
             (int)strnlen(name, sizeof words - (size_t)(name - (char *)words)),
             name);
}

static ks_status cpu_facts(int ordinal, ks_dev_facts *out, ks_err *err) {
    (void)ordinal, (void)err;
    cpu_name(out->name, sizeof out->name);
    out->threads = ks_threads(0);
    for (size_t i = 0; i < KS_COUNT(sets); i++)
        if (sets[i].runs_here())
            strcat(strcat(out->isa, out->isa[0] ? " " : ""), sets[i].ops->isa);
    return KS_OK;
}

const ks__backend ks__backend_cpu = {
    .name = "cpu",
    .remedy = "set KS_ISA to another instruction set (avx2, v2)",
    .open = cpu_open,
    .close = cpu_close,
    .threads = cpu_threads,
    .limit = cpu_limit,
    .room = cpu_room,
    .count = cpu_count,
    .facts = cpu_facts,
};

ks_status ks__cpu_each(ks_dev *dev, int32_t lanes, int32_t n, ks_each_fn body,
                       void *user, ks_err *err) {
    ks_status st = KS_OK;
    int32_t failed = n;
    if (lanes <= 1) return ks__each_alone(dev, lanes, n, body, user, err);
    if (lanes > dev->threads)
        return ks_fail(err, KS_INTERNAL, "each: %d lanes on %d threads",
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

/* The copy is done when copy_out returns. */
ks_status ks__cpu_copy_out(ks_dev *dev, void *to, const void *from, size_t size,
                           uint64_t *ticket, ks_err *err) {
    *ticket = 0;
    return ks__cpu_copy(dev, to, from, size, err);
}

ks_status ks__cpu_wait(ks_dev *dev, uint64_t ticket, ks_err *err) {
    (void)dev, (void)ticket, (void)err;
    return KS_OK;
}

/* ------------------------------------------------------------------- graphs
 */

ks_status ks__cpu_record(ks_dev *dev, ks_err *err) {
    (void)dev;
    return ks_fail(err, KS_UNSUPPORTED, "the CPU backend records no graphs");
}

ks_status ks__cpu_recorded(ks_dev *dev, ks_graph **graph, ks_err *err) {
    *graph = NULL;
    return ks__cpu_record(dev, err);
}

ks_status ks__cpu_replay(ks_dev *dev, ks_graph *graph, ks_err *err) {
    (void)graph;
    return ks__cpu_record(dev, err);
}

void ks__cpu_free_graph(ks_dev *dev, ks_graph **graph) {
    (void)dev;
    *graph = NULL;
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
