/* test_l2_rows.c - rows in a file, past the page cache and through it: the bits
 * of rows in memory; and matrices that are thin or repeat themselves. */
#include "half.h"
#include "l2_fits.h"
#include "nest.h"
#include "ops.h"

/* -------------------------------------------------------- rows in a file */

/* x as stored: each type that activations have. */
static void *store(const float *x, int64_t n, ks_type type) {
    size_t size = ks_type_size(type);
    uint8_t *out = malloc((size_t)n * size);
    for (int64_t i = 0; i < n; i++) {
        uint16_t half =
            type == KS_F16 ? ks_f32_to_f16(x[i]) : ks_f32_to_bf16(x[i]);
        memcpy(out + (size_t)i * size,
               type == KS_F32 ? (const void *)&x[i] : &half, size);
    }
    return out;
}

typedef struct stored {
    const char *rows;
    size_t row_bytes;
    int64_t n;
} stored;

static ks_status read_stored(void *user, int64_t row, int64_t n, void *out,
                             ks_err *err) {
    const stored *s = user;
    if (row < 0 || n < 1 || row + n > s->n)
        return ks_fail(err, KS_INTERNAL, "rows beyond the source");
    memcpy(out, s->rows + (size_t)row * s->row_bytes, (size_t)n * s->row_bytes);
    return KS_OK;
}

/* Solved with the rows in memory (scratch NULL) or in a file of that folder. */
static void solve_from(fits *f, const ks_l2_source *source, int threads,
                       const char *scratch) {
    ks_err err = {0};
    ks_l2 *l2 = NULL;
    ks_l2_place place = {.threads = threads,
                         .scratch = scratch,
                         .way = threads % 2 ? KS_L2_DIRECT : KS_L2_CACHED};
    ks_status st =
        ks_l2_open_from(&l2, source, &place, f->designs, f->n_designs, &err);
    cr_assert_eq(st, KS_OK, "%s", err.text);
    st = ks_l2_fit(l2, f->columns, f->n_columns, TOLERANCE, KS_DEFAULT_PASSES,
                   &err);
    cr_assert_eq(st, KS_OK, "%s", err.text);
    ks_l2_close(&l2);
}

static bool same_fits(const fits *f, const fits *g) {
    size_t d = (size_t)f->d, n = (size_t)f->n, columns = (size_t)f->n_columns;
    bool same = !memcmp(f->weight, g->weight, columns * (d + 1) * 8) &&
                !memcmp(f->mean, g->mean, columns * d * 8) &&
                !memcmp(f->scale, g->scale, columns * d * 8) &&
                (!f->margin || !memcmp(f->margin, g->margin, columns * n * 4));
    for (int32_t c = 0; c < f->n_columns; c++)
        same = same && f->columns[c].gradient == g->columns[c].gradient &&
               f->columns[c].passes == g->columns[c].passes;
    return same;
}

/* f as it is, g from a file: past the page cache by an odd number of threads,
 * through it by an even one. */
static void expect_streamed(fits *f, fits *g, const char *name) {
    for (ks_type type = 0; type < 3; type++) {
        const ks_type types[] = {KS_F32, KS_F16, KS_BF16};
        void *rows = store(f->x, f->n * f->d, types[type]);
        stored s = {rows, ks_type_row_bytes(types[type], f->d), f->n};
        ks_l2_source there = {
            .n = f->n, .d = f->d, .type = types[type], .x = rows};
        ks_l2_source asked = {.n = f->n,
                              .d = f->d,
                              .type = types[type],
                              .read = read_stored,
                              .user = &s};
        solve_from(f, &there, 2, NULL);
        for (int turn = 0; turn < 2; turn++) {
            int threads = 1 + turn + (types[type] == KS_BF16 ? 2 : 0);
            solve_from(g, &asked, threads, "/tmp");
            cr_expect(same_fits(f, g),
                      "%s, type %d, %d threads: from a file otherwise", name,
                      (int)types[type], threads);
        }
        solve_from(g, &asked, 2, NULL);
        cr_expect(same_fits(f, g), "%s: asked for otherwise", name);
        free(rows);
    }
}

Test(l2_rows, rows_in_a_file_change_no_bit) {
    json_t *all = golden(), *one;
    size_t k;
    json_array_foreach(json_object_get(all, "cases"), k, one) {
        fits f = open_fits(one), g = open_fits(one);
        expect_streamed(&f, &g,
                        json_string_value(json_object_get(one, "name")));
        close_fits(&f);
        close_fits(&g);
    }
    cr_expect(k >= 8);
    json_decref(all);
}

/* The columns' own Hessians are formed from the file too. */
Test(l2_rows, hessians_of_rows_in_a_file) {
    fits f = {0}, g = {0};
    make_massive(&f, 2);
    make_massive(&g, 2);
    make_ten(&f, (const double[]){1, 10});
    make_ten(&g, (const double[]){1, 10});
    ks_l2_source source = {.n = f.n, .d = f.d, .type = KS_F32, .x = f.x};
    solve_from(&f, &source, 2, NULL);
    for (int threads = 1; threads <= 3; threads++) {
        solve_from(&g, &source, threads, "/tmp");
        cr_expect(same_fits(&f, &g), "%d threads", threads);
    }
    close_fits(&f);
    close_fits(&g);
}

/* ------------------------------------------------------------ where it is thin
 */

/* n rows of noise with a label in it, n_one of them 1, d features: feature 1
 * constant, feature 2 again feature 0, and every eighth behind it another's
 * copy. */
static void make_thin(fits *f, int64_t n, int64_t d, int64_t n_one) {
    f->n = n, f->d = d;
    f->x = malloc((size_t)(n * d) * sizeof *f->x);
    int8_t *y = malloc((size_t)n);
    uint8_t *fold = malloc((size_t)n);
    for (int64_t i = 0; i < n; i++) {
        y[i] = i * n_one / n != (i + 1) * n_one / n;
        fold[i] = (uint8_t)(i / 7 % 5);
        float *x = f->x + i * d;
        for (int64_t j = 0; j < d; j++)
            x[j] = j && j % 8 == 2 ? x[j - 2]
                   : j == 1        ? 0.1f
                                   : (float)(uniform(7, i * d + j) +
                                      (j % 5 == 0) * 0.3 * y[i]);
    }
    f->designs = calloc(1, sizeof *f->designs);
    f->designs[0] = (ks_l2_design){y, fold};
    f->n_designs = 1;
    make_ten(f, (const double[]){1e-3, 10});
}

static void expect_thin(int64_t n, int64_t d, int64_t n_one) {
    fits f = {0}, g = {0};
    make_thin(&f, n, d, n_one);
    make_thin(&g, n, d, n_one);
    ks_l2_source source = {.n = n, .d = d, .type = KS_F32, .x = f.x};
    solve_from(&f, &source, 2, NULL);
    solve_from(&g, &source, 3, "/tmp");
    cr_expect(same_fits(&f, &g), "%d x %d: from a file otherwise", (int)n,
              (int)d);
    for (int32_t k = 0; k < f.n_columns; k++) {
        const ks_l2_column *c = &f.columns[k];
        double gradient = plain_gradient(&f, c);
        cr_expect(c->converged && gradient <= 1.01 * TOLERANCE,
                  "%d x %d, C %g: gradient %g", (int)n, (int)d, c->strength,
                  gradient);
        /* in raw units, as the plain gradient has it: copies weigh alike, a
         * constant nothing */
        double most = 0;
        for (int64_t j = 0; j < d; j++) keep_worst(&most, fabs(c->weight[j]));
        cr_expect_eq(c->weight[1], 0);
        cr_expect(fabs(c->weight[2] - c->weight[0]) <= 1e-3 * most,
                  "%d x %d, C %g: copies weigh %g and %g", (int)n, (int)d,
                  c->strength, c->weight[0], c->weight[2]);
    }
    close_fits(&f);
    close_fits(&g);
}

Test(l2_rows, many_features_of_few_rows) {
    expect_thin(100, 4099, 37);
}

Test(l2_rows, two_rows_of_a_class) {
    /* of two folds: a fit trains on one of them or both */
    expect_thin(40, 31, 2);
    expect_thin(2051, 67, 2);
}

Test(l2_rows, copies_and_a_constant) {
    expect_thin(1500, 200, 600);
}
