/* dev.c - opens backends by name. Whatever the backend, its table must be
 * whole and its GEMM right before anything is computed on it. */
#include "dev.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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
        SLOT(enter),
        SLOT(alloc_host),
        SLOT(free_host),
        SLOT(copy_out),
        SLOT(wait),
        SLOT(record),
        SLOT(recorded),
        SLOT(replay),
        SLOT(free_graph),
        SLOT(each),
        SLOT(embed),
        SLOT(gemm),
        SLOT(norm),
        SLOT(add),
        SLOT(rope),
        SLOT(attention),
        SLOT(gate),
        SLOT(route),
        SLOT(group),
        SLOT(gemm_grouped),
        SLOT(gate_clamped),
        SLOT(combine),
        SLOT(pool),
        SLOT(convert),
        SLOT(count_nonfinite),
        SLOT(score),
        SLOT(sample),
        SLOT(share),
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
    /* name, isa, and the flags in one word */
    _Static_assert(sizeof(struct ks_ops) ==
                       (KS_COUNT(slots) + 3) * sizeof(void *),
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
enum {
    CHECK_M = 131,
    CHECK_N = 203,
    CHECK_K = 389,
    CHECK_SIZE = CHECK_M * CHECK_K + CHECK_K * CHECK_N + CHECK_M * CHECK_N
};

/* Small numbers without a pattern, multiples of 2^(1 - bits). */
static void fill(float *x, int64_t n, uint32_t seed, int bits) {
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = ldexpf((float)(seed >> (32 - bits)), 1 - bits) - 1;
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

/* all: a, b and c one behind the other, in host memory; at: room for the same
 * in the backend's. */
static ks_status multiply(ks_dev *dev, const struct ks_ops *ops, float *all,
                          float *at, ks_err *err) {
    enum { M = CHECK_M, N = CHECK_N, K = CHECK_K };
    ks_status st = KS_OK;
    float *b = at + M * K, *c = b + K * N;
    KS_TRY(ops->copy(dev, at, all, CHECK_SIZE * sizeof *all, err));
    KS_TRY(ops->gemm(dev, ks_view_f32(c, M, N), ks_view_f32(at, M, K),
                     ks_view_f32(b, N, K), NULL, false, err));
    KS_TRY(ops->copy(dev, all + (c - at), c, M * N * sizeof *all, err));
    KS_TRY(ops->sync(dev, err));
done:
    return st;
}

/* Is the gemm's product right here? Numbers of eight bits are exact in bf16,
 * so that operands may be rounded to it. */
static ks_status check_gemm(const ks__backend *backend, ks_dev *dev,
                            const struct ks_ops *ops, ks_err *err) {
    enum { M = CHECK_M, N = CHECK_N, K = CHECK_K };
    ks_status st = KS_OK;
    float *a = NULL;
    ks_buf at = {0};
    int bits = ops->unified ? 24 : 8;
    KS_TRY(ks_alloc(&a, CHECK_SIZE, sizeof *a, "the GEMM's check", err));
    fill(a, M * K, 1, bits);
    fill(a + M * K, K * N, 2, bits);
    KS_TRY(
        ops->alloc(dev, &at, CHECK_SIZE * sizeof *a, "the GEMM's check", err));
    KS_TRY(multiply(dev, ops, a, at.data, err));
    KS_CHECK(product_is_right(a + M * K + K * N, a, a + M * K), KS_INTERNAL,
             "the %s matrix product gives wrong results here: %s", ops->isa,
             backend->remedy);
done:
    if (at.data) ops->free(dev, &at);
    free(a);
    return st;
}

/* ---------------------------------------------------------------- by a name */

static const ks__backend *const *backends(void) {
    static const ks__backend *all[3] = {&ks__backend_cpu, NULL, NULL};
#ifdef KS_CUDA
    all[1] = &ks__backend_cuda;
#else
    if (&ks__backend_cuda) all[1] = &ks__backend_cuda;
#endif
    return all;
}

static const ks__backend *of(const ks_dev *dev) {
    const ks__backend *backend;
    memcpy(&backend, dev, sizeof backend);
    return backend;
}

const char *ks_backend_name(int i) {
    return i == 0 || (i == 1 && backends()[1]) ? backends()[i]->name : NULL;
}

/* "cuda" or "cuda:1"; NULL: cpu. */
static ks_status find(const ks__backend **out, int *ordinal, const char *name,
                      ks_err *err) {
    if (!name) name = ks__backend_cpu.name;
    if (strchr(name, ','))
        return ks_fail(err, KS_USAGE,
                       "backend '%s': one device is expected here, such as "
                       "cuda:1",
                       name);
    size_t length = strcspn(name, ":");
    char *end = NULL;
    long number = name[length] ? strtol(name + length + 1, &end, 10) : 0;
    if (name[length] && (end == name + length + 1 || *end || number < 0 ||
                         number > 9999 || name[length + 1] == '+'))
        return ks_fail(err, KS_USAGE,
                       "backend '%s': expected a device's number behind the "
                       "colon, such as cuda:1",
                       name);
    char here[64] = "";
    for (int i = 0; ks_backend_name(i); i++) {
        const char *one = ks_backend_name(i);
        *out = backends()[i];
        *ordinal = (int)number;
        if (strlen(one) == length && strncmp(one, name, length) == 0)
            return KS_OK;
        strcat(strcat(here, i ? ", " : ""), one);
    }
    bool cuda = length == 4 && strncmp(name, "cuda", 4) == 0;
    return ks_fail(err, KS_UNSUPPORTED,
                   "backend '%.*s' is not in this build, which has: %s%s",
                   (int)length, name, here,
                   cuda ? "; built where nvcc is (cmake --preset cuda) it has "
                          "it"
                        : "");
}

ks_status ks_dev_open(ks_dev **out, const struct ks_ops **ops,
                      const char *backend, int threads, const char *isa,
                      ks_err *err) {
    ks_status st = KS_OK;
    const ks__backend *chosen = NULL;
    ks_dev *dev = NULL;
    int ordinal = 0;
    *out = NULL;
    *ops = NULL;
    KS_TRY(find(&chosen, &ordinal, backend, err));
    KS_CHECK(threads >= 0 && threads <= 1024, KS_USAGE,
             "%d threads: expected 1..1024, or 0 for all", threads);
    KS_TRY(chosen->open(&dev, ops, ordinal, threads, isa, err));
    KS_TRY(check_slots(*ops, err));
    KS_TRY(check_gemm(chosen, dev, *ops, err));
    *out = dev;
    return KS_OK;
done:
    ks_dev_close(&dev, *ops);
    *ops = NULL;
    return st;
}

void ks_dev_close(ks_dev **dev, const struct ks_ops *ops) {
    (void)ops;
    if (dev && *dev) of(*dev)->close(dev);
}

int ks_dev_threads(const ks_dev *dev) {
    return of(dev)->threads(dev);
}

int ks_dev_lanes(const ks_dev *dev) {
    return of(dev)->threads(dev);
}

ks_status ks__each_alone(ks_dev *dev, int32_t lanes, int32_t n, ks_each_fn body,
                         void *user, ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(lanes <= 1, KS_INTERNAL, "each: %d lanes, expected 1", (int)lanes);
    for (int32_t i = 0; i < n; i++) KS_TRY(body(user, dev, 0, i, err));
done:
    return st;
}

ks_status ks_dev_limit(ks_dev *dev, size_t memory, const char *less,
                       ks_err *err) {
    return of(dev)->limit(dev, memory, less, err);
}

void ks_dev_few_rows(ks_dev *dev, bool few) {
    if (of(dev)->few_rows) of(dev)->few_rows(dev, few);
}

size_t ks_dev_room(const ks_dev *dev) {
    return of(dev)->room(dev);
}

ks_status ks_dev_count(const char *backend, int *n, ks_err *err) {
    const ks__backend *chosen;
    int ordinal;
    *n = 0;
    ks_status st = find(&chosen, &ordinal, backend, err);
    return st == KS_OK ? chosen->count(n, err) : st;
}

ks_status ks_dev_describe(const char *backend, ks_dev_facts *out, ks_err *err) {
    const ks__backend *chosen;
    int ordinal;
    *out = (ks_dev_facts){0};
    ks_status st = find(&chosen, &ordinal, backend, err);
    return st == KS_OK ? chosen->facts(ordinal, out, err) : st;
}
