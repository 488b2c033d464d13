/* test_adamw.c - the AdamW trainers against PyTorch on the same batches
 * (tests/golden/make_adamw.py), on every instruction set that runs here; that
 * neither threads nor other probes change a bit; the order of rows; refusals.
 */
#include <criterion/criterion.h>
#include <immintrin.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "adamw.h"
#include "adamw_golden.h"

/* |parameters - PyTorch's| / |PyTorch's| in float64, and margins likewise. */
static const double PARAMETERS = 1e-4, MARGINS = 1e-4;

typedef struct backend {
    ks_dev *dev;
    const struct ks_ops *ops;
} backend;

static backend open_cpu(int threads, const char *isa) {
    backend b;
    ks_err err = {0};
    ks_status st = ks_dev_open(&b.dev, &b.ops, "cpu", threads, isa, &err);
    if (st != KS_OK) b.dev = NULL;
    return b;
}

Test(adamw, trains_as_pytorch) {
    static const char *const sets[] = {"v2", "avx2", "avx512"};
    json_error_t reason;
    json_t *all = json_load_file(KS_TEST_DATA "/probes/adamw.json", 0, &reason);
    cr_assert(all != NULL, "%s", reason.text);
    json_t *one;
    size_t k = 0;
    int ran = 0;
    for (size_t i = 0; i < KS_COUNT(sets); i++) {
        backend b = open_cpu(2, sets[i]);
        if (!b.dev) continue;
        ran++;
        json_array_foreach(json_object_get(all, "cases"), k, one) {
            golden g;
            ks_err err = {0};
            bool opened = golden_open(&g, one);
            cr_assert(opened);
            ks_status st = golden_train(&g, b.ops, b.dev, &err);
            cr_assert_eq(st, KS_OK, "%s", err.text);
            double param = golden_distance(&g, true);
            double margin = golden_distance(&g, false);
            fprintf(stderr, "%s, %s: parameters %.1e, margins %.1e\n", g.name,
                    sets[i], param, margin);
            cr_expect(param <= PARAMETERS, "%s, %s: parameters differ by %g",
                      g.name, sets[i], param);
            cr_expect(margin <= MARGINS, "%s, %s: margins differ by %g", g.name,
                      sets[i], margin);
            golden_close(&g);
        }
        ks_dev_close(&b.dev, b.ops);
    }
    cr_expect(ran > 0 && k >= 7);
    json_decref(all);
}

/* Probes of many layers, seeds, row sets and ends at once; wide enough for two
 * ranges. */
enum { N = 90, D = 700, LAYERS = 3, PROBES = 5 };

typedef struct many {
    float *x;
    int8_t y[N];
    int32_t rows[N], hidden[2];
    ks_adamw_options options;
    ks_adamw_probe probes[PROBES];
    float *param, *margin;
    int64_t n_params;
    bool early; /* probes end, and look at rows, at numbers of their own */
    bool filed; /* rows lie in a file */
} many;

/* The rows of all layers as a file has them. */
static ks_adamw_file put_rows(const float *x, FILE **file) {
    enum { STRIDE = (D + 15) / 16 * 16 };
    float row[STRIDE] = {0};
    *file = tmpfile();
    cr_assert(*file != NULL);
    for (int i = 0; i < N; i++)
        for (int l = 0; l < LAYERS; l++) {
            memcpy(row, x + (l * N + i) * D, D * sizeof *row);
            cr_assert_eq(fwrite(row, sizeof row, 1, *file), 1);
        }
    cr_assert_eq(fflush(*file), 0);
    return (ks_adamw_file){fileno(*file), LAYERS};
}

static void many_open(many *m, int32_t n_hidden, int32_t layers) {
    memset(m, 0, sizeof *m);
    m->x = malloc((size_t)LAYERS * N * D * sizeof *m->x);
    for (int64_t k = 0; k < LAYERS * N * D; k++)
        m->x[k] = (float)golden_uniform(3, k);
    for (int32_t i = 0; i < N; i++) {
        m->y[i] = golden_uniform(4, i) + (double)m->x[i * D] > 0;
        m->rows[i] = (i * 7) % N;
    }
    m->hidden[0] = 10, m->hidden[1] = 3;
    m->options = (ks_adamw_options){.layers = layers,
                                    .n_hidden = n_hidden,
                                    .hidden = m->hidden,
                                    .batch = 8,
                                    .epochs = 3,
                                    .each_epoch = true};
}

static void many_train(many *m, int threads, int32_t first, int32_t n) {
    backend b = open_cpu(threads, NULL);
    ks_adamw_data *data = NULL;
    FILE *file = NULL;
    ks_err err = {0};
    ks_status st;
    if (m->filed) {
        ks_adamw_file of = put_rows(m->x, &file);
        st = ks_adamw_open_file(&data, b.ops, b.dev, &of, N, D, &err);
    } else {
        st = ks_adamw_open(&data, b.ops, b.dev, m->x, LAYERS, N, D, &err);
    }
    cr_assert_eq(st, KS_OK, "%s", err.text);
    m->n_params = ks_adamw_parameters(data, &m->options);
    free(m->param);
    free(m->margin);
    m->param = calloc((size_t)(PROBES * m->n_params), sizeof *m->param);
    m->margin = calloc(PROBES * 90, sizeof *m->margin);
    for (int32_t k = 0; k < PROBES; k++)
        m->probes[k] = (ks_adamw_probe){.layer = k % (4 - m->options.layers),
                                        .rows = m->rows + k,
                                        .n_rows = 40 + 3 * k,
                                        .y = m->y,
                                        .key = {1, (uint64_t)k},
                                        .lr = 1e-3 * (k + 1),
                                        .decay = 1e-2,
                                        .standardise = k % 2,
                                        .stop = m->early ? 3 - k % 3 : 0,
                                        .eval = m->rows + 60,
                                        .n_eval = m->early ? 30 - k : 30,
                                        .param = m->param + k * m->n_params,
                                        .margin = m->margin + k * 90};
    st = ks_adamw_train(data, &m->options, m->probes + first, n, &err);
    cr_assert_eq(st, KS_OK, "%s", err.text);
    if (file) fclose(file);
    ks_adamw_close(&data);
    ks_dev_close(&b.dev, b.ops);
}

static void many_close(many *m) {
    free(m->x);
    free(m->param);
    free(m->margin);
}

static void check_bits(int32_t n_hidden, int32_t layers) {
    many a, b;
    many_open(&a, n_hidden, layers);
    many_open(&b, n_hidden, layers);
    a.early = b.early = true;
    many_train(&a, 1, 0, PROBES);
    size_t bytes = (size_t)a.n_params * sizeof *a.param;
    for (int threads = 2; threads <= 3; threads++) {
        many_train(&b, threads, 0, PROBES);
        cr_expect_eq(memcmp(a.param, b.param, PROBES * bytes), 0,
                     "%d threads differ from 1", threads);
        cr_expect_eq(memcmp(a.margin, b.margin, PROBES * 90 * sizeof(float)),
                     0);
    }
    b.filed = true;
    for (int threads = 1; threads <= 2; threads++) {
        many_train(&b, threads, 0, PROBES);
        cr_expect_eq(memcmp(a.param, b.param, PROBES * bytes), 0,
                     "rows of a file give other probes");
        cr_expect_eq(memcmp(a.margin, b.margin, PROBES * 90 * sizeof(float)),
                     0);
    }
    b.filed = false;
    for (int32_t k = 0; k < PROBES; k++) {
        many_train(&b, 2, k, 1);
        cr_expect_eq(
            memcmp(a.param + k * a.n_params, b.param + k * a.n_params, bytes),
            0, "probe %d alone differs", k);
        cr_expect_eq(memcmp(a.margin + k * 90, b.margin + k * 90, 360), 0);
        const ks_adamw_probe *p = &a.probes[k];
        const float *last = p->margin + (p->stop - 1) * p->n_eval;
        bool moves = memcmp(p->margin, last, (size_t)p->n_eval * sizeof *last);
        cr_expect(moves || p->stop == 1, "the margins of epochs are the same");
        for (int i = p->stop * p->n_eval; i < 90; i++)
            cr_expect(p->margin[i] == 0, "probe %d went on", k);
    }
    many_close(&a);
    many_close(&b);
}

Test(adamw, threads_and_neighbours_change_no_bit) {
    check_bits(0, 1);
    check_bits(0, 2);
    check_bits(2, 1);
    check_bits(1, 3);
}

/* The trainers take tiny numbers for zero; nobody else's sums may. */
Test(adamw, leaves_the_rounding_of_others_alone) {
    static const int32_t hidden[] = {0, 1, 1}, layers[] = {1, 1, 3};
    const unsigned modes = ~(unsigned)_MM_EXCEPT_MASK;
    unsigned was = _mm_getcsr() & modes;
    for (size_t i = 0; i < KS_COUNT(hidden); i++) {
        many m;
        many_open(&m, hidden[i], layers[i]);
        many_train(&m, 2, 0, PROBES);
        cr_expect_eq(_mm_getcsr() & modes, was, "hidden %d, %d layers",
                     hidden[i], layers[i]);
        many_close(&m);
    }
}

/* A probe that learned puts most rows that it never saw on their side. */
Test(adamw, learns_with_its_own_start) {
    many m;
    many_open(&m, 1, 1);
    m.options.epochs = 30;
    m.options.each_epoch = false;
    for (int64_t i = 0; i < N; i++) {
        m.y[i] = i % 3 == 0;
        for (int64_t l = 0; l < LAYERS; l++)
            for (int64_t j = 0; j < 20; j++)
                m.x[(l * N + i) * D + j] += m.y[i] ? 1.0f : -1.0f;
    }
    many_train(&m, 2, 0, PROBES);
    for (int32_t k = 0; k < PROBES; k++) {
        int right = 0;
        for (int i = 0; i < 30; i++)
            right += (m.margin[k * 90 + i] > 0) == m.y[m.rows[60 + i]];
        cr_expect(right >= 27, "probe %d: %d of 30 right", k, right);
    }
    many_close(&m);
}

/* A probe that ends early is one of the same schedule cut there. */
Test(adamw, an_early_end_keeps_the_schedule) {
    for (int32_t n_hidden = 0; n_hidden < 2; n_hidden++) {
        many whole, cut;
        many_open(&whole, n_hidden, 1);
        many_open(&cut, n_hidden, 1);
        cut.early = true;
        many_train(&whole, 2, 0, PROBES);
        many_train(&cut, 2, 0, PROBES);
        for (int32_t k = 0; k < PROBES; k++) {
            const ks_adamw_probe *p = &cut.probes[k];
            for (int32_t e = 0; e < p->stop; e++)
                cr_expect_eq(memcmp(p->margin + e * p->n_eval,
                                    whole.margin + k * 90 + e * 30,
                                    (size_t)p->n_eval * sizeof(float)),
                             0, "probe %d, epoch %d", k, e);
        }
        many_close(&whole);
        many_close(&cut);
    }
}

/* The file ends before the rows do. */
Test(adamw, a_file_that_cannot_be_read_is_told) {
    for (int32_t n_hidden = 0; n_hidden < 2; n_hidden++)
        for (int threads = 1; threads <= 2; threads++) {
            backend b = open_cpu(threads, NULL);
            ks_adamw_data *data = NULL;
            ks_err err = {0};
            FILE *file;
            many m;
            many_open(&m, n_hidden, 3);
            ks_adamw_file of = put_rows(m.x, &file);
            cr_assert_eq(ftruncate(of.fd, 70 * 3 * 704 * 4), 0);
            cr_assert_eq(
                ks_adamw_open_file(&data, b.ops, b.dev, &of, N, D, &err),
                KS_OK);
            m.probes[0] = (ks_adamw_probe){
                .rows = m.rows, .n_rows = N, .y = m.y, .lr = 1e-3};
            cr_expect_eq(ks_adamw_train(data, &m.options, m.probes, 1, &err),
                         KS_IO);
            cr_expect(strstr(err.text, "scratch file"), "%s", err.text);
            m.probes[0].standardise = true;
            cr_expect_eq(ks_adamw_train(data, &m.options, m.probes, 1, &err),
                         KS_IO);
            fclose(file);
            ks_adamw_close(&data);
            ks_dev_close(&b.dev, b.ops);
            many_close(&m);
        }
}

Test(adamw, order_is_a_permutation) {
    for (uint32_t n = 1; n <= 300; n++) {
        const uint64_t key[2] = {n, 5};
        uint8_t seen[300] = {0};
        ks_shuffle s = ks_shuffle_open(key, n % 7, n);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t at = ks_shuffle_at(&s, i);
            cr_assert(at < n && !seen[at], "n %u: %u comes twice", n, at);
            seen[at] = 1;
        }
    }
}

/* Each row at each place equally often, and each pair of neighbours: over
 * 20,000 orders of 7, counts within 5 standard deviations. */
Test(adamw, order_is_uniform) {
    enum { ROWS = 7, ORDERS = 20000 };
    int at[ROWS][ROWS] = {{0}}, pair[ROWS][ROWS] = {{0}};
    for (uint32_t k = 0; k < ORDERS; k++) {
        const uint64_t key[2] = {k / 100, 1};
        ks_shuffle s = ks_shuffle_open(key, k % 100, ROWS);
        for (uint32_t i = 0; i < ROWS; i++) {
            at[i][ks_shuffle_at(&s, i)]++;
            if (i + 1 < ROWS)
                pair[ks_shuffle_at(&s, i)][ks_shuffle_at(&s, i + 1)]++;
        }
    }
    double mean = ORDERS / (double)ROWS, slack = 5 * sqrt(mean);
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < ROWS; j++) {
            cr_expect(fabs(at[i][j] - mean) <= slack, "%d at %d: %d times", j,
                      i, at[i][j]);
            if (i != j)
                cr_expect(fabs(pair[i][j] - mean) <= slack, "%d %d: %d times",
                          i, j, pair[i][j]);
        }
}

static void refused(many *m, ks_adamw_data *data, ks_status code,
                    const char *word) {
    ks_err err = {0};
    ks_status st = ks_adamw_train(data, &m->options, m->probes, 1, &err);
    cr_expect_eq(st, code, "%s: %s", word, err.text);
    cr_expect(strstr(err.text, word), "no '%s' in: %s", word, err.text);
}

Test(adamw, bad_input_is_refused) {
    many m;
    many_open(&m, 1, 1);
    many_train(&m, 1, 0, 1);
    backend b = open_cpu(1, NULL);
    ks_adamw_data *data = NULL;
    ks_err err = {0};
    cr_assert_eq(ks_adamw_open(&data, b.ops, b.dev, m.x, LAYERS, N, D, &err),
                 KS_OK);
    const many good = m;
    int8_t y[N] = {0};
    int32_t rows[N] = {0};
#define REFUSED(change, code, word)                                            \
    do {                                                                       \
        m = good;                                                              \
        change;                                                                \
        refused(&m, data, code, word);                                         \
    } while (0)
    REFUSED(m.options.layers = 4, KS_USAGE, "4 layers");
    REFUSED(m.options.n_hidden = 9, KS_USAGE, "9 hidden");
    REFUSED(m.hidden[0] = 4097; m.options.hidden = m.hidden, KS_USAGE, "4097");
    REFUSED(m.options.batch = 257, KS_USAGE, "257");
    REFUSED(m.options.epochs = -1, KS_USAGE, "-1");
    REFUSED(m.probes[0].stop = -1, KS_USAGE, "-1");
    REFUSED(m.options.beta2 = 1, KS_USAGE, "betas");
    REFUSED(m.probes[0].eval = rows; rows[0] = N, KS_USAGE, "row 90");
    REFUSED(m.probes[0].layer = 3, KS_USAGE, "layers 3 to 3");
    REFUSED(m.probes[0].n_rows = 7, KS_MISMATCH, "7 training rows");
    REFUSED(m.probes[0].lr = NAN, KS_USAGE, "nan");
    REFUSED(m.probes[0].class_weight[1] = -1, KS_USAGE, "-1");
    rows[0] = 0;
    REFUSED(m.probes[0].rows = rows; rows[3] = -2, KS_USAGE, "row -2");
    rows[3] = 3;
    REFUSED(m.probes[0].rows = rows; m.probes[0].y = y;
            y[3] = 2, KS_USAGE, "found 2");
    m = good;
    cr_expect_eq(ks_adamw_train(data, &m.options, m.probes, 0, &err), KS_USAGE);
    ks_adamw_close(&data);
    m.x[N * D + 2 * D + 5] = INFINITY;
    cr_expect_eq(ks_adamw_open(&data, b.ops, b.dev, m.x, LAYERS, N, D, &err),
                 KS_NUMERIC);
    cr_expect(strstr(err.text, "layer 1, row 2, feature 5"), "%s", err.text);
    cr_expect_eq(ks_adamw_open(&data, b.ops, b.dev, m.x, 0, N, D, &err),
                 KS_USAGE);
    cr_expect(data == NULL);
    ks_dev_close(&b.dev, b.ops);
    many_close(&m);
}

Test(adamw, balance) {
    const int8_t y[6] = {1, 0, 0, 0, 1, 0};
    const int32_t rows[4] = {0, 1, 2, 3};
    float weight[2];
    ks_adamw_balance(y, rows, 4, weight);
    cr_expect(weight[0] == 2.0f / 3 && weight[1] == 2.0f);
    ks_adamw_balance(y, rows + 1, 3, weight);
    cr_expect(weight[0] == 1 && weight[1] == 1);
}
