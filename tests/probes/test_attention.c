/* test_attention.c - the attention-pooled probe against torch's L-BFGS, on a
 * backend whose copies come late, and where one token in each step tells. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdlib.h>

#include "attended.h"
#include "philox.h"

static ks_err err;

/* False for NaN. */
static bool about(double got, double want, double tolerance) {
    return fabs(got - want) <= tolerance * (1 + fabs(want));
}

/* -------------------------------------------------------------------- torch */

enum { N = 48, D = 5, PARAMS = 2 * D + 1, FITS = 8, MOST_TOKENS = 8 * N };

static json_t *golden;
static float x[MOST_TOKENS * D];
static int64_t offset[N + 1];
static int8_t y[N];
static uint8_t fold[N];
static const ks_attention_rows rows = {N, D, offset, y, fold};
static ks_l2_source tokens = {.d = D, .type = KS_F32, .x = x};
static const char *scratch; /* folder */

static double number(json_t *list, size_t i) {
    bool there = json_is_number(json_array_get(list, i));
    cr_assert(there, "place %zu", i);
    return json_number_value(json_array_get(list, i));
}

static json_t *fit_of(size_t k) {
    return json_array_get(json_object_get(golden, "fits"), k);
}

static void read_golden(void) {
    golden = json_load_file(KS_TEST_DATA "/probes/attention.json", 0, NULL);
    cr_assert(golden != NULL);
    for (size_t i = 0; i <= N; i++)
        offset[i] = (int64_t)number(json_object_get(golden, "offset"), i);
    cr_assert(offset[N] <= MOST_TOKENS);
    tokens.n = offset[N];
    for (size_t i = 0; i < N; i++) {
        y[i] = (int8_t)number(json_object_get(golden, "y"), i);
        fold[i] = (uint8_t)number(json_object_get(golden, "fold"), i);
    }
    for (size_t t = 0; t < (size_t)offset[N]; t++) {
        json_t *row = json_array_get(json_object_get(golden, "x"), t);
        for (size_t j = 0; j < D; j++) x[t * D + j] = (float)number(row, j);
    }
}

static void drop_golden(void) {
    json_decref(golden);
}

TestSuite(attention, .init = read_golden, .fini = drop_golden);

typedef struct fits {
    ks_attention_column column[FITS];
    double start[FITS][PARAMS], param[FITS][PARAMS];
    float margin[FITS][N], entropy[FITS][N], first[FITS][N], last[FITS][N];
} fits;

static ks_attention *open_rows(const struct ks_ops *ops, ks_dev *dev,
                               int threads) {
    ks_attention *a = NULL;
    const ks_l2_place place = {
        .ops = ops, .dev = dev, .threads = threads, .scratch = scratch};
    cr_assert(
        eq(int, ks_attention_open(&a, &place, &tokens, &rows, &err), KS_OK),
        "%s", err.text);
    return a;
}

static void solve(fits *all, const struct ks_ops *ops, ks_dev *dev,
                  int threads) {
    ks_attention *a = open_rows(ops, dev, threads);
    memset(all, 0, sizeof *all);
    for (size_t k = 0; k < FITS; k++) {
        json_t *fit = fit_of(k);
        for (size_t j = 0; j < PARAMS; j++)
            all->start[k][j] = number(json_object_get(fit, "start"), j);
        all->column[k] = (ks_attention_column){
            .hold = (uint32_t)json_integer_value(json_object_get(fit, "hold")),
            .strength = json_number_value(json_object_get(fit, "strength")),
            .start = all->start[k],
            .param = all->param[k],
            .margin = all->margin[k],
            .entropy = all->entropy[k],
            .first = all->first[k],
            .last = all->last[k]};
    }
    cr_assert(eq(int, ks_attention_fit(a, all->column, FITS, 1e-6, 3000, &err),
                 KS_OK),
              "%s", err.text);
    ks_attention_close(&a);
}

Test(attention, as_torch) {
    static fits all;
    solve(&all, NULL, NULL, 2);
    for (size_t k = 0; k < FITS; k++) {
        json_t *want = fit_of(k);
        const ks_attention_column *c = &all.column[k];
        cr_expect(c->converged, "fit %zu: gradient %g, %d passes", k,
                  c->gradient, c->passes);
        cr_expect(about(c->objective,
                        json_number_value(json_object_get(want, "objective")),
                        1e-6),
                  "fit %zu: %.9g", k, c->objective);
        for (size_t j = 0; j < PARAMS; j++)
            cr_expect(about(all.param[k][j],
                            number(json_object_get(want, "param"), j), 3e-3),
                      "fit %zu parameter %zu: %g", k, j, all.param[k][j]);
        const struct {
            const char *name;
            const float *got;
        } looks[] = {{"margin", all.margin[k]},
                     {"first", all.first[k]},
                     {"last", all.last[k]},
                     {"entropy", all.entropy[k]}};
        for (size_t l = 0; l < KS_COUNT(looks); l++)
            for (size_t i = 0; i < N; i++)
                cr_expect(about((double)looks[l].got[i],
                                number(json_object_get(want, looks[l].name), i),
                                3e-3),
                          "fit %zu %s %zu: %g", k, looks[l].name, i,
                          (double)looks[l].got[i]);
    }
}

/* No step: the gradient's norm and the objective where torch ended. */
Test(attention, torch_ends_where_the_gradient_is_nothing) {
    static fits all;
    ks_attention *a = open_rows(NULL, NULL, 1);
    for (size_t k = 0; k < FITS; k++) {
        json_t *fit = fit_of(k);
        for (size_t j = 0; j < PARAMS; j++)
            all.start[k][j] = number(json_object_get(fit, "param"), j);
        ks_attention_column c = {
            .hold = (uint32_t)json_integer_value(json_object_get(fit, "hold")),
            .strength = json_number_value(json_object_get(fit, "strength")),
            .start = all.start[k]};
        cr_assert(eq(int, ks_attention_fit(a, &c, 1, 1e-6, 1, &err), KS_OK));
        cr_expect(le(dbl, c.gradient, 1e-6), "fit %zu", k);
        cr_expect(about(c.objective,
                        json_number_value(json_object_get(fit, "objective")),
                        2e-7),
                  "fit %zu: %.9g", k, c.objective);
        cr_expect(eq(int, c.passes, 1));
    }
    ks_attention_close(&a);
}

/* Nor on where the tokens lie. */
Test(attention, bits_do_not_depend_on_threads) {
    static fits one, two;
    solve(&one, NULL, NULL, 1);
    for (int threads = 1; threads <= 2; threads++) {
        solve(&two, NULL, NULL, threads);
        cr_expect(memcmp(one.param, two.param, sizeof one.param) == 0);
        cr_expect(memcmp(one.margin, two.margin, sizeof one.margin) == 0);
        scratch = "/tmp";
    }
}

/* ------------------------------------------------- a backend of its own kind
 */

/* The CPU's ops as a device has them: copies to the host arrive at sync. */
static struct {
    const struct ks_ops *cpu;
    ks_buf live[64];
    void *to[64];
    char *bytes[64];
    size_t size[64];
    int n_late, n_matmul;
} late;

static bool on_device(const void *at) {
    for (size_t i = 0; i < KS_COUNT(late.live); i++) {
        const char *begin = late.live[i].data;
        if (begin && (const char *)at >= begin &&
            (const char *)at < begin + late.live[i].size)
            return true;
    }
    return false;
}

static ks_status late_alloc(ks_dev *dev, ks_buf *buf, size_t size,
                            const char *what, ks_err *e) {
    ks_status st = late.cpu->alloc(dev, buf, size, what, e);
    for (size_t i = 0; i < KS_COUNT(late.live); i++)
        if (!late.live[i].data) {
            late.live[i] = *buf;
            return st;
        }
    cr_assert(false, "too many buffers");
    return st;
}

static void late_free(ks_dev *dev, ks_buf *buf) {
    for (size_t i = 0; buf->data && i < KS_COUNT(late.live); i++)
        if (late.live[i].data == buf->data) late.live[i].data = NULL;
    late.cpu->free(dev, buf);
}

static ks_status late_copy(ks_dev *dev, void *to, const void *from, size_t size,
                           ks_err *e) {
    (void)dev, (void)e;
    if (on_device(to)) {
        memcpy(to, from, size);
        return KS_OK;
    }
    char *bytes = malloc(size);
    cr_assert(bytes != NULL && late.n_late < 64);
    memcpy(bytes, from, size);
    late.to[late.n_late] = to;
    late.bytes[late.n_late] = bytes;
    late.size[late.n_late++] = size;
    return KS_OK;
}

static ks_status late_sync(ks_dev *dev, ks_err *e) {
    (void)dev, (void)e;
    for (int i = 0; i < late.n_late; i++) {
        memcpy(late.to[i], late.bytes[i], late.size[i]);
        free(late.bytes[i]);
    }
    late.n_late = 0;
    return KS_OK;
}

static ks_status late_matmul(ks_dev *dev, ks_view c, ks_view a, bool ta,
                             ks_view b, bool tb, float alpha, float beta,
                             ks_err *e) {
    cr_assert(on_device(c.data) && on_device(a.data) && on_device(b.data));
    late.n_matmul++;
    return late.cpu->matmul(dev, c, a, ta, b, tb, alpha, beta, e);
}

Test(attention, on_a_backend_with_memory_of_its_own) {
    static fits here, there;
    ks_dev *dev = NULL;
    cr_assert(
        eq(int, ks_dev_open(&dev, &late.cpu, "cpu", 1, NULL, &err), KS_OK));
    struct ks_ops ops = *late.cpu;
    ops.unified = false;
    ops.alloc = late_alloc, ops.free = late_free, ops.copy = late_copy;
    ops.sync = late_sync, ops.matmul = late_matmul;
    solve(&here, NULL, NULL, 2);
    solve(&there, &ops, dev, 2);
    cr_expect(gt(int, late.n_matmul, 100));
    for (size_t i = 0; i < KS_COUNT(late.live); i++)
        cr_expect(late.live[i].data == NULL);
    for (size_t k = 0; k < FITS; k++)
        for (size_t j = 0; j < PARAMS; j++)
            cr_expect(about(there.param[k][j], here.param[k][j], 1e-4),
                      "fit %zu parameter %zu", k, j);
    ks_dev_close(&dev, late.cpu);
}

Test(attention, the_lower_end_counts) {
    ks_attention_column ends[2] = {{.objective = 0.6}, {.objective = 0.5}};
    cr_expect(eq(int, ks__attended_end(ends, 2), 1));
    ends[0].objective = 0.4;
    cr_expect(eq(int, ks__attended_end(ends, 2), 0));
    ends[0].objective = NAN;
    cr_expect(eq(int, ks__attended_end(ends, 2), 1));
}

/* ---------------------------------------------------------------- refusals */

Test(attention, what_cannot_be_is_told) {
    ks_attention *a = NULL;
    ks_l2_place place = {.threads = 1};
    float was = x[33 * D + 2];
    x[33 * D + 2] = NAN;
    cr_assert(eq(int, ks_attention_open(&a, &place, &tokens, &rows, &err),
                 KS_NUMERIC));
    cr_expect(strstr(err.text, "token 33, feature 2") != NULL, "%s", err.text);
    x[33 * D + 2] = was;
    place.scratch = "/nowhere";
    cr_assert(
        eq(int, ks_attention_open(&a, &place, &tokens, &rows, &err), KS_IO));
    place.scratch = NULL;
    a = open_rows(NULL, NULL, 1);
    double start[PARAMS] = {0};
    ks_attention_column c = {.hold = 0xf, .strength = 1, .start = start};
    cr_expect(eq(int, ks_attention_fit(a, &c, 1, 1e-5, 9, &err), KS_MISMATCH));
    c = (ks_attention_column){.hold = 1, .strength = 0, .start = start};
    cr_expect(eq(int, ks_attention_fit(a, &c, 1, 1e-5, 9, &err), KS_USAGE));
    ks_attention_close(&a);
    offset[7] = offset[8];
    cr_expect(eq(int, ks_attention_open(&a, &place, &tokens, &rows, &err),
                 KS_MISMATCH));
    cr_expect(strstr(err.text, "step 7") != NULL, "%s", err.text);
}

Test(attention, pools_and_scales_as_counted) {
    ks_attention *a = open_rows(NULL, NULL, 2);
    double mean[D], inverse[D];
    float pooled[N * D];
    ks_attention_scale(a, 1u << 1, mean, inverse);
    cr_assert(eq(int, ks_attention_pool(a, 0, 20, pooled, &err), KS_OK));
    cr_assert(eq(int, ks_attention_pool(a, 20, N - 20, pooled + 20 * D, &err),
                 KS_OK));
    for (int j = 0; j < D; j++) {
        double sum = 0, square = 0, n = 0;
        for (int i = 0; i < N; i++) {
            double own = 0;
            for (int64_t t = offset[i]; t < offset[i + 1]; t++) {
                double v = (double)x[t * D + j];
                own += v / (double)(offset[i + 1] - offset[i]);
                if (fold[i] != 1) sum += v, square += v * v, n++;
            }
            cr_expect(about((double)pooled[i * D + j], own, 1e-5));
        }
        double variance = square / n - sum / n * (sum / n);
        cr_expect(about(mean[j], sum / n, 1e-6));
        cr_expect(
            about(inverse[j], variance > 0 ? 1 / sqrt(variance) : 0, 1e-5),
            "feature %d", j);
    }
    ks_attention_close(&a);
}
