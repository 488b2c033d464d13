/* bench_adamw.c - keystep bench adamw: the published loop of all layers and
 * seeds, beside what its matrix products and the traffic of its optimiser's
 * state cost as bare calls, in turn on the same data.
 *
 * Linear probes are one a layer and seed; networks read all layers side by
 * side, one a seed. Products: the margins of a batch, its gradient of the first
 * layer's weights, and the margins of the evaluation rows, by the BLAS: for
 * networks on all threads, for linear probes one probe a thread. State: one
 * read and one write of weights and moments a step, on all threads. Bare calls
 * run for a few steps and evaluations and are scaled up to all of them; rows of
 * a batch lie together there, which ours have to gather. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../blas.h"
#include "../n_threads.h"
#include "../../probes/layer.h"
#include "../../probes/published.h"
#include "../../probes/window.h"
#include "bench.h"

enum { SEEDS = KS_PUBLISHED_SEEDS, BATCH = KS_TRAINED_BATCH };

typedef struct adamw_bench {
    ks_bench *bench;
    ks_dev *dev;
    const struct ks_ops *ops;
    char *path;
    bool remove;
    int threads;
    int64_t n, d;
    int32_t n_layers, hidden, epochs;
    float *x;  /* [n_layers, n, d] */
    int8_t *y; /* [n] 1: removable */
    int32_t *train[SEEDS], *eval[SEEDS], n_train, n_eval;
    float *memory; /* of the bare calls */
    double accuracy;
} adamw_bench;

static int64_t probes_of(const adamw_bench *b) {
    return b->hidden ? SEEDS : SEEDS * (int64_t)b->n_layers;
}

static int64_t inputs_of(const adamw_bench *b) {
    return b->hidden ? b->n_layers * b->d : b->d;
}

static int64_t steps_of(const adamw_bench *b) {
    return (int64_t)b->epochs * (b->n_train / BATCH);
}

/* --------------------------------------------------------------------- data */

static ks_status find_data(adamw_bench *b, ks_err *err) {
    ks_status st = KS_OK;
    const ks_bench_input *in = b->bench->in;
    ks_str path = {0};
    if (in->common.acts)
        KS_TRY(ks_str_printf(&path, err, "%s", in->common.acts));
    else
        KS_TRY(ks_str_printf(&path, err, "%s/keystep-bench.h5", in->dir));
    b->path = path.data;
    if (in->common.acts) return KS_OK;
    KS_TRY(ks_refuse_existing(b->path, false, err));
    b->remove = true;
    KS_TRY(ks_bench_data(b->path, in->rows, in->width, in->data_layers,
                         1u << KS_MEAN, in->common.seed, err));
done:
    return st;
}

static ks_status read_layers(adamw_bench *b, const ks_dataset *data,
                             ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(ks_acts_has(data->acts, KS_RESID, KS_MEAN), KS_USAGE,
             "%s has no resid at mean", b->path);
    for (int32_t l = 0; l < b->n_layers; l++) {
        ks_layer layer = {.dataset = data,
                          .file = data->acts,
                          .place = data->row,
                          .stream = KS_RESID,
                          .position = KS_MEAN,
                          .layer = l};
        ks_l2_source source = ks_layer_source(&layer);
        float *to = b->x + (int64_t)l * b->n * b->d;
        source.n = b->n; /* the first of them */
        KS_TRY(ks__window_all(&source, to, err));
    }
done:
    return st;
}

static ks_status load(adamw_bench *b, ks_err *err) {
    ks_status st = KS_OK;
    ks_dataset *data = NULL;
    ks_dataset_paths paths = {.acts = b->path,
                              .labels = b->bench->in->common.labels};
    KS_TRY(ks_dataset_open(&data, &paths, err));
    b->n = KS_MIN(data->n, b->bench->in->rows);
    b->d = data->info->d, b->n_layers = data->info->n_layers + 1;
    KS_TRY(ks_alloc(&b->x, (size_t)b->n_layers * (size_t)b->n * (size_t)b->d,
                    sizeof(float), "all layers", err));
    KS_TRY(ks_alloc(&b->y, (size_t)b->n, 1, "labels", err));
    KS_TRY(read_layers(b, data, err));
    for (int64_t i = 0; i < b->n; i++) b->y[i] = data->y[i] != 1;
    for (uint64_t s = 0; s < SEEDS; s++) {
        KS_TRY(
            ks_alloc(&b->train[s], (size_t)b->n, sizeof(int32_t), "rows", err));
        KS_TRY(
            ks_alloc(&b->eval[s], (size_t)b->n, sizeof(int32_t), "rows", err));
        KS_TRY(ks__published_split(b->y, b->n, 42 + s, b->train[s], &b->n_train,
                                   b->eval[s], &b->n_eval, err));
    }
done:
    ks_dataset_close(&data);
    return st;
}

/* --------------------------------------------------------------------- ours */

static double best_of(const adamw_bench *b, const ks_adamw_probe *p) {
    int64_t best = 0;
    for (int32_t e = 0; e < b->epochs; e++) {
        int64_t right = 0;
        for (int32_t i = 0; i < p->n_eval; i++)
            right +=
                (p->margin[(int64_t)e * p->n_eval + i] > 0) == b->y[p->eval[i]];
        best = KS_MAX(best, right);
    }
    return (double)best / p->n_eval;
}

static ks_status train(adamw_bench *b, double *seconds, ks_err *err) {
    ks_status st = KS_OK;
    int32_t n = (int32_t)probes_of(b);
    ks_adamw_data *data = NULL;
    ks_adamw_probe *probes = NULL;
    float *margin = NULL;
    int64_t margins = (int64_t)b->epochs * b->n_eval;
    ks_adamw_options o = {.layers = b->hidden ? b->n_layers : 1,
                          .n_hidden = b->hidden > 0,
                          .hidden = &b->hidden,
                          .epochs = 30,
                          .each_epoch = true};
    KS_TRY(ks_alloc(&probes, (size_t)n, sizeof *probes, "probes", err));
    KS_TRY(ks_alloc(&margin, (size_t)(n * margins), sizeof *margin, "margins",
                    err));
    for (int32_t k = 0; k < n; k++)
        probes[k] = (ks_adamw_probe){.layer = k / SEEDS,
                                     .rows = b->train[k % SEEDS],
                                     .n_rows = b->n_train,
                                     .y = b->y,
                                     .key = {42 + (uint64_t)(k % SEEDS), 0},
                                     .lr = 3e-4,
                                     .decay = KS_TRAINED_DECAY,
                                     .stop = b->epochs,
                                     .eval = b->eval[k % SEEDS],
                                     .n_eval = b->n_eval,
                                     .margin = margin + k * margins};
    double start = ks_seconds();
    KS_TRY(ks_adamw_open(&data, b->ops, b->dev, b->x, b->n_layers, b->n, b->d,
                         err));
    KS_TRY(ks_adamw_train(data, &o, probes, n, err));
    *seconds = ks_seconds() - start;
    b->accuracy = 0;
    for (int32_t k = 0; k < n; k++) b->accuracy += best_of(b, &probes[k]) / n;
done:
    ks_adamw_close(&data);
    free(probes);
    free(margin);
    return st;
}

/* --------------------------------------------------------------- bare calls */

/* Bare products of so many steps of a probe, and of an evaluation. */
static void bare_steps(const adamw_bench *b, const float *x, int64_t units,
                       int32_t steps, bool backward, float *w, float *z,
                       float *g) {
    int64_t in = inputs_of(b);
    for (int32_t k = 0; k < steps; k++) {
        const float *batch = x + k % (b->n / BATCH) * BATCH * b->d;
        /* a network's batch: as many floats, side by side */
        if (units == 1) {
            cblas_sgemv(CblasRowMajor, CblasNoTrans, BATCH, (int)in, 1, batch,
                        (int)in, w, 1, 0, z, 1);
            if (backward)
                cblas_sgemv(CblasRowMajor, CblasTrans, BATCH, (int)in, 1, batch,
                            (int)in, z, 1, 0, g, 1);
            continue;
        }
        ks__gemm_f32(false, false, BATCH, units, in, x, in, w, units, 0, z,
                     units);
        if (backward)
            ks__gemm_f32(true, false, in, units, BATCH, x, in, z, units, 0, g,
                         units);
    }
}

/* Seconds of all products. */
static double bare_products(adamw_bench *b) {
    int64_t in = inputs_of(b), units = KS_MAX(b->hidden, 1);
    int32_t steps = b->hidden ? 40 : b->n_train / BATCH;
    double each = 0, eval = 0, evals = (double)b->n_eval / BATCH * b->epochs;
    double start = ks_seconds();
    if (b->hidden) { /* all threads on a product */
        float *w = b->memory, *g = w + in * units, *z = g + in * units;
        ks__blas_restore(b->threads);
        bare_steps(b, b->x, units, steps, true, w, z, g);
        each = (ks_seconds() - start) / steps;
        start = ks_seconds();
        int64_t rows = KS_MIN(b->n_eval, b->n * b->n_layers / b->n_layers);
        ks__gemm_f32(false, false, rows, units, in, b->x, in, w, units, 0, z,
                     units);
        eval = (ks_seconds() - start) * b->n_eval / (double)rows;
        return (each * (double)steps_of(b) + eval * b->epochs) * SEEDS;
    }
#pragma omp parallel for num_threads(b->threads) schedule(dynamic, 1)
    for (int32_t l = 0; l < b->n_layers; l++) {
        float *w = b->memory + (int64_t)omp_get_thread_num() * (2 * in + BATCH);
        int was = ks__blas_serial();
        bare_steps(b, b->x + l * b->n * b->d, 1, steps, true, w, w + 2 * in,
                   w + in);
        ks__blas_restore(was);
    }
    each = (ks_seconds() - start) / steps; /* of all layers */
    start = ks_seconds();
#pragma omp parallel for num_threads(b->threads) schedule(dynamic, 1)
    for (int32_t l = 0; l < b->n_layers; l++) {
        float *w = b->memory + (int64_t)omp_get_thread_num() * (2 * in + BATCH);
        int was = ks__blas_serial();
        bare_steps(b, b->x + l * b->n * b->d, 1, steps, false, w, w + 2 * in,
                   w + in);
        ks__blas_restore(was);
    }
    eval = (ks_seconds() - start) / steps;
    return (each * (double)steps_of(b) + eval * evals) * SEEDS;
}

/* One pass over a piece of weights and moments. */
static void pass_over(float *w, float *m, float *v, int64_t n) {
    for (int64_t k = 0; k < n; k++) {
        float a = m[k] * 0.9f + 0.1f, c = v[k] * 0.999f + 0.1f;
        m[k] = a;
        v[k] = c;
        w[k] = w[k] * 0.999f + a * c;
    }
}

/* Seconds of reading and writing weights and moments in every step. */
static double bare_state(adamw_bench *b) {
    int64_t in = inputs_of(b), units = KS_MAX(b->hidden, 1), n = in * units;
    float *w = b->memory, *m = w + n, *v = m + n;
    int32_t steps = b->hidden ? 40 : 20000;
    memset(w, 0, 3 * (size_t)n * sizeof *w);
    double start = 0;
    for (int32_t k = -3; k < steps; k++) {
        if (k == 0) start = ks_seconds();
        if (!b->hidden) {
            pass_over(w, m, v, n);
            __asm__ volatile("" ::: "memory");
            continue;
        }
#pragma omp parallel for num_threads(b->threads) schedule(static)
        for (int32_t t = 0; t < b->threads; t++) {
            int64_t from = n * t / b->threads, to = n * (t + 1) / b->threads;
            pass_over(w + from, m + from, v + from, to - from);
        }
    }
    double each = (ks_seconds() - start) / steps;
    if (!b->hidden) each /= b->threads;
    return each * (double)steps_of(b) * (double)probes_of(b);
}

/* ------------------------------------------------------------------- command
 */

static ks_status open_bench(adamw_bench *b, ks_err *err) {
    ks_status st = KS_OK;
    const ks_bench_input *in = b->bench->in;
    b->threads = ks_threads(in->common.threads);
    b->hidden = in->hidden;
    b->epochs = in->epochs;
    KS_TRY(ks_dev_open(&b->dev, &b->ops,
                       in->common.backend ? in->common.backend : "cpu",
                       b->threads, NULL, err));
    KS_TRY(find_data(b, err));
    KS_TRY(load(b, err));
    KS_CHECK(b->n_train >= BATCH, KS_USAGE, "%d training rows: expected %d",
             b->n_train, BATCH);
    size_t units = (size_t)KS_MAX(b->hidden, 1), in_ = (size_t)inputs_of(b);
    size_t floats = 3 * in_ * units + (size_t)b->n_eval * units;
    floats = KS_MAX(floats, (size_t)b->threads * (2 * in_ + BATCH));
    KS_TRY(ks_alloc(&b->memory, floats, sizeof(float), "bare products", err));
done:
    return st;
}

static ks_status add_row(adamw_bench *b, json_t *pair, double seconds,
                         double products, double state, ks_spread ratio,
                         ks_err *err) {
    return ks_bench_row(
        b->bench,
        json_pack(
            "{s:o,s:s,s:i,s:i,s:I,s:i,s:i,s:i,s:i,s:I,s:f,s:f,s:f,s:f,"
            "s:o,s:o,s:f}",
            "pair", pair, "backend",
            ks_cli_on_device(b->bench->in->common.backend) ? "cuda" : "cpu",
            "hidden", b->hidden, "layers", b->n_layers, "width",
            (json_int_t)b->d, "train_rows", b->n_train, "eval_rows", b->n_eval,
            "seeds", SEEDS, "epochs", b->epochs, "probes",
            (json_int_t)probes_of(b), "seconds", seconds, "bare_products_s",
            products, "bare_state_s", state, "over_bare", ratio.mean,
            "over_bare_low", ks_bench_real(ratio.low), "over_bare_high",
            ks_bench_real(ratio.high), "best_accuracy", b->accuracy),
        err);
}

static ks_status run_pairs(adamw_bench *b, int pairs, ks_err *err) {
    ks_status st = KS_OK;
    double *all = NULL;
    KS_TRY(ks_alloc(&all, 4 * (size_t)pairs, sizeof *all, "figures", err));
    double *seconds = all, *products = all + pairs, *state = products + pairs,
           *ratio = state + pairs;
    for (int i = 0; i < pairs; i++) {
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
        products[i] = bare_products(b);
        state[i] = bare_state(b);
        KS_TRY(train(b, &seconds[i], err));
        /* the machine may have changed its pace meanwhile */
        products[i] = KS_MIN(products[i], bare_products(b));
        state[i] = KS_MIN(state[i], bare_state(b));
        ratio[i] = seconds[i] / (products[i] + state[i]);
        ks_log(KS_LOG_INFO, "%.2f s, bare products %.2f s and state %.2f s",
               seconds[i], products[i], state[i]);
        ks_spread one = {.mean = ratio[i], .low = NAN, .high = NAN};
        KS_TRY(add_row(b, json_integer(i + 1), seconds[i], products[i],
                       state[i], one, err));
    }
    KS_TRY(add_row(b, json_string("all"),
                   ks_bench_spread(seconds, pairs).median,
                   ks_bench_spread(products, pairs).median,
                   ks_bench_spread(state, pairs).median,
                   ks_bench_spread(ratio, pairs), err));
done:
    free(all);
    return st;
}

ks_status ks_bench_adamw(ks_bench *bench, ks_err *err) {
    ks_status st = KS_OK;
    adamw_bench b = {.bench = bench};
    KS_TRY(open_bench(&b, err));
    KS_TRY(run_pairs(&b, bench->in->repeats, err));
done:
    if (b.remove) ks_bench_remove(b.path);
    ks_dev_close(&b.dev, b.ops);
    void *all[] = {b.path, b.x, b.y, b.memory};
    for (size_t i = 0; i < KS_COUNT(all); i++) free(all[i]);
    for (int s = 0; s < SEEDS; s++) {
        free(b.train[s]);
        free(b.eval[s]);
    }
    return st;
}
