/* bench_probe.c - keystep bench probe: the grid of L2-regularised probes,
 * layers x strengths x folds, beside what its Gram matrices, factorisations
 * and passes cost as bare BLAS and LAPACK calls, in turn on the same data.
 *
 * Layers go side by side, one thread each, as keystep probe runs them, and the
 * bare calls likewise; with --backend cuda one after another on the device,
 * beside the same bare calls on all threads of the CPU. Data are in memory
 * before the clock starts. A bare pass is two products of the training rows (a
 * column holds one fold out) with as many columns as were still being solved in
 * the solver's pass; the last pass of a column, which verifies it in double,
 * counts as two of all columns. */
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../blas.h"
#include "../../probes/layer.h"
#include "../../probes/nest.h"
#include "../n_threads.h"
#include "../ops.h"
#include "bench.h"

enum { STRENGTHS = KS_DEFAULT_STRENGTHS };
static const double TOLERANCE = 1e-6;

/* Seconds of the bare calls, added over layers and lanes. */
typedef struct bare_cost {
    double gram, factor, passes;
} bare_cost;

/* What one run over all layers took and found. */
typedef struct grid_run {
    double seconds, bare_seconds;
    ks_l2_cost cost; /* added over layers; reads: the most of a layer */
    bare_cost bare;
    double gradient, accuracy;
    int32_t unconverged;
} grid_run;

typedef struct probe_bench {
    ks_bench *bench;
    ks_dev *dev; /* NULL: each layer opens the CPU for itself */
    const struct ks_ops *ops;
    char *path;
    bool remove;
    int64_t n, d;
    int32_t n_layers, n_columns, lanes, lane_threads;
    int32_t *layer; /* [n_layers] in the file */
    ks_position positions[KS_TOKENS];
    int32_t n_positions;
    ks_dataset *data; /* open while there are several positions to read */
    void *raw;        /* rows as they are read */
    float *x;         /* [n_layers, n, d] of one position */
    int8_t *y;        /* [n] */
    uint8_t *fold;    /* [n] */
    double strength[STRENGTHS];
    int32_t *passes; /* [n_positions, n_layers, n_columns] of the last run */
    int32_t *counts; /* the position's part of passes */
    float *margin;   /* [lanes, n_columns, n] */
    float *scratch;  /* [lanes] of the bare calls */
    size_t lane_scratch;
    grid_run *runs; /* [pairs] */
} probe_bench;

/* --------------------------------------------------------------------- data */

static ks_status pick_layers(probe_bench *b, const ks_acts_info *info,
                             ks_err *err) {
    ks_status st = KS_OK;
    int32_t all = info->n_layers + 1;
    bool *on = NULL;
    KS_TRY(ks_alloc(&on, (size_t)all, sizeof *on, "layers", err));
    KS_TRY(ks_alloc(&b->layer, (size_t)all, sizeof *b->layer, "layers", err));
    KS_TRY(ks_cli_layers(b->bench->in->common.layers, all, on, err));
    for (int32_t l = 0; l < all; l++)
        if (on[l]) b->layer[b->n_layers++] = l;
done:
    free(on);
    return st;
}

/* Those asked for that the file has; by default its first. */
static ks_status pick_positions(probe_bench *b, ks_err *err) {
    uint32_t wanted = b->bench->in->common.positions;
    for (ks_position p = 0; p < KS_TOKENS; p++)
        if ((wanted ? wanted >> p & 1 : b->n_positions == 0) &&
            ks_acts_has(b->data->acts, KS_RESID, p))
            b->positions[b->n_positions++] = p;
    return b->n_positions
               ? KS_OK
               : ks_fail(err, KS_USAGE, "%s has no resid at such a position",
                         b->path);
}

/* Every layer's first n rows at a position. */
static ks_status read_layers(probe_bench *b, ks_position position,
                             ks_err *err) {
    ks_status st = KS_OK;
    for (int32_t k = 0; k < b->n_layers; k++) {
        ks_layer layer = {.dataset = b->data,
                          .file = b->data->acts,
                          .place = b->data->row,
                          .stream = KS_RESID,
                          .position = position,
                          .layer = b->layer[k]};
        ks_l2_source source = ks_layer_source(&layer);
        float *to = b->x + (size_t)k * (size_t)(b->n * b->d);
        int64_t step = (int64_t)(ks_l2_piece_bytes(&source) /
                                 ks_type_row_bytes(source.type, b->d));
        for (int64_t i = 0; i < b->n; i += step) {
            int64_t n = KS_MIN(step, b->n - i);
            KS_TRY(source.read(&layer, i, n, b->raw, err));
            ks_dequantize(source.type, b->raw, to + i * b->d, n * b->d);
        }
    }
done:
    return st;
}

/* Folds are problems in turn. */
static ks_status load(probe_bench *b, ks_err *err) {
    ks_status st = KS_OK;
    ks_dataset_paths paths = {.acts = b->path,
                              .labels = b->bench->in->common.labels};
    KS_TRY(ks_dataset_open(&b->data, &paths, err));
    const ks_dataset *data = b->data;
    KS_TRY(pick_layers(b, data->info, err));
    KS_TRY(pick_positions(b, err));
    b->n = KS_MIN(data->n, b->bench->in->rows);
    b->d = data->info->d;
    ks_l2_source source = {.type = data->info->dtype, .d = b->d};
    KS_TRY(ks_alloc(&b->raw, ks_l2_piece_bytes(&source), 1, "rows", err));
    KS_TRY(ks_alloc(&b->x, (size_t)b->n_layers * (size_t)b->n * (size_t)b->d,
                    sizeof(float), "all layers", err));
    KS_TRY(ks_alloc(&b->y, (size_t)b->n, 1, "labels", err));
    KS_TRY(ks_alloc(&b->fold, (size_t)b->n, 1, "folds", err));
    for (int64_t i = 0; i < b->n; i++) {
        b->y[i] = data->y[i];
        b->fold[i] = (uint8_t)(data->group[i] % b->bench->in->folds);
    }
    if (b->n_positions == 1) {
        KS_TRY(read_layers(b, b->positions[0], err));
        ks_dataset_close(&b->data);
    }
done:
    return st;
}

/* The file that was named, or a synthetic one that is kept or removed. */
static ks_status find_data(probe_bench *b, ks_err *err) {
    ks_status st = KS_OK;
    const ks_bench_input *in = b->bench->in;
    const char *given = in->common.acts ? in->common.acts : in->out_data;
    ks_str path = {0};
    if (given)
        KS_TRY(ks_str_printf(&path, err, "%s", given));
    else
        KS_TRY(ks_str_printf(&path, err, "%s/keystep-bench.h5", in->dir));
    b->path = path.data;
    if (in->common.acts) return KS_OK;
    KS_TRY(ks_refuse_existing(b->path, false, err));
    b->remove = !in->out_data;
    uint32_t positions = in->common.positions;
    KS_TRY(ks_bench_data(b->path, in->rows, in->width, in->data_layers,
                         positions ? positions : 1u << KS_MEAN, in->common.seed,
                         err));
done:
    return st;
}

/* --------------------------------------------------------------------- grid */

static double accuracy_of(const probe_bench *b, const float *margin) {
    int64_t right = 0;
    for (int32_t k = 0; k < b->n_columns; k++)
        for (int64_t i = 0; i < b->n; i++)
            if (b->fold[i] == k / STRENGTHS)
                right += (margin[k * b->n + i] > 0) == (b->y[i] == 1);
    return (double)right / (double)(b->n * STRENGTHS);
}

/* One layer: opened, solved in all columns, closed; adds to run. */
static ks_status fit_layer(probe_bench *b, int32_t at, int lane, grid_run *run,
                           ks_err *err) {
    ks_status st = KS_OK;
    ks_l2 *l2 = NULL;
    ks_l2_column *columns = NULL;
    ks_l2_design design = {b->y, b->fold};
    float *margin = b->margin + (int64_t)lane * b->n_columns * b->n;
    double gradient = 0;
    int32_t failed = 0;
    KS_TRY(ks_alloc(&columns, (size_t)b->n_columns, sizeof *columns, "columns",
                    err));
    for (int32_t k = 0; k < b->n_columns; k++)
        columns[k] = (ks_l2_column){.hold = 1u << (k / STRENGTHS),
                                    .strength = b->strength[k % STRENGTHS],
                                    .margin = margin + k * b->n};
    const float *x = b->x + at * b->n * b->d;
    if (b->dev)
        KS_TRY(ks_l2_open_on(&l2, b->ops, b->dev, x, b->n, b->d, &design, 1,
                             b->lane_threads, err));
    else
        KS_TRY(
            ks_l2_open(&l2, x, b->n, b->d, &design, 1, b->lane_threads, err));
    KS_TRY(ks_l2_fit(l2, columns, b->n_columns, TOLERANCE, KS_DEFAULT_PASSES,
                     err));
    ks_l2_cost cost = ks_l2_get_cost(l2);
    for (int32_t k = 0; k < b->n_columns; k++) {
        gradient = KS_MAX(gradient, columns[k].gradient);
        failed += !columns[k].converged;
    }
    for (int32_t k = 0; k < b->n_columns; k++)
        b->counts[at * b->n_columns + k] = columns[k].passes;
#pragma omp critical(ks_bench_probe)
    {
        run->cost.prepare += cost.prepare;
        run->cost.factor += cost.factor;
        run->cost.passes += cost.passes;
        run->cost.verify += cost.verify;
        run->cost.other += cost.other;
        run->cost.reads = KS_MAX(run->cost.reads, cost.reads);
        run->gradient = KS_MAX(run->gradient, gradient);
        run->unconverged += failed;
        run->accuracy +=
            accuracy_of(b, margin) / (b->n_layers * b->n_positions);
    }
done:
    ks_l2_close(&l2);
    free(columns);
    return st;
}

/* ---------------------------------------------------------------- bare calls
 */

/* The products of `columns` columns in one pass over rows of x. */
static void bare_pass(const probe_bench *b, const float *x, int64_t columns,
                      const float *w, float *z, float *g) {
    int64_t folds = b->bench->in->folds, rows = b->n * (folds - 1) / folds;
    if (columns < 1) return;
    ks__gemm_f32(false, true, rows, columns, b->d, x, b->d, w, b->d, 0, z,
                 columns);
    ks__gemm_f32(true, false, columns, b->d, rows, z, columns, x, b->d, 0, g,
                 b->d);
}

/* Columns of a layer that were still being solved in f32 in that pass. */
static int32_t active_in(const probe_bench *b, int32_t at, int32_t pass) {
    int32_t n = 0;
    for (int32_t k = 0; k < b->n_columns; k++)
        n += b->counts[at * b->n_columns + k] - 1 > pass;
    return n;
}

/* Gram matrix, eigenvectors, passes. */
static ks_status bare_layer(probe_bench *b, int32_t at, int lane, grid_run *run,
                            ks_err *err) {
    ks_status st = KS_OK;
    const float *x = b->x + at * b->n * b->d;
    float *gram = b->scratch + (size_t)lane * b->lane_scratch;
    float *value = gram + b->d * b->d, *w = value + b->d;
    float *g = w + b->n_columns * b->d, *z = g + b->n_columns * b->d;
    bare_cost cost;
    double start = ks_seconds();
    memset(gram, 0, (size_t)(b->d * b->d) * sizeof *gram);
    ks__syrk_f32(b->d, b->n, x, gram);
    cost.gram = ks_seconds() - start;
    start = ks_seconds();
    lapack_int info =
        LAPACKE_ssyevd(LAPACK_COL_MAJOR, 'V', 'U', (lapack_int)b->d, gram,
                       (lapack_int)b->d, value);
    KS_CHECK(info == 0, KS_NUMERIC, "the bare eigenvectors did not converge");
    cost.factor = ks_seconds() - start;
    start = ks_seconds();
    for (int32_t pass = 0, width; (width = active_in(b, at, pass)); pass++)
        bare_pass(b, x, width, w, z, g);
    for (int twice = 0; twice < 2; twice++)
        bare_pass(b, x, b->n_columns, w, z, g);
    cost.passes = ks_seconds() - start;
#pragma omp critical(ks_bench_probe)
    {
        run->bare.gram += cost.gram;
        run->bare.factor += cost.factor;
        run->bare.passes += cost.passes;
    }
done:
    return st;
}

/* ------------------------------------------------------------------- in turn
 */

typedef ks_status (*layer_fn)(probe_bench *b, int32_t at, int lane,
                              grid_run *run, ks_err *err);

/* Wall seconds over all layers, lanes side by side. */
static ks_status each_layer(probe_bench *b, layer_fn what, grid_run *run,
                            double *seconds, ks_err *err) {
    ks_status st = KS_OK;
    double start = ks_seconds();
    int was = omp_get_max_active_levels();
    if (b->lane_threads > 1 && b->lanes > 1) omp_set_max_active_levels(2);
#pragma omp parallel for num_threads(b->lanes) schedule(dynamic, 1)
    for (int32_t i = 0; i < b->n_layers; i++) {
        ks_err mine = {0};
        int threads = ks__blas_serial();
        ks_status got = ks_interrupted
                            ? ks_fail(&mine, KS_INTERRUPTED, "interrupted")
                            : what(b, i, omp_get_thread_num(), run, &mine);
        ks__blas_restore(threads);
        if (got == KS_OK) continue;
#pragma omp critical(ks_bench_probe)
        {
            st = got;
            if (err) *err = mine;
        }
    }
    omp_set_max_active_levels(was);
    *seconds = ks_seconds() - start;
    return st;
}

/* One position after another; reading stays outside the clock. */
static ks_status run_pair(probe_bench *b, grid_run *run, bool bare_first,
                          ks_err *err) {
    ks_status st = KS_OK;
    bool alone = b->bench->in->alone;
    *run = (grid_run){0};
    for (int32_t p = 0; p < b->n_positions; p++) {
        double ours = 0, bare = 0;
        b->counts = b->passes + (int64_t)p * b->n_layers * b->n_columns;
        if (b->data) KS_TRY(read_layers(b, b->positions[p], err));
        if (!alone && bare_first)
            KS_TRY(each_layer(b, bare_layer, run, &bare, err));
        KS_TRY(each_layer(b, fit_layer, run, &ours, err));
        if (!alone && !bare_first)
            KS_TRY(each_layer(b, bare_layer, run, &bare, err));
        run->seconds += ours;
        run->bare_seconds += bare;
    }
    if (alone) run->bare_seconds = NAN;
    ks_log(KS_LOG_INFO, "%.2f s, bare %.2f s, at most %d reads of a layer",
           run->seconds, run->bare_seconds, run->cost.reads);
done:
    return st;
}

/* --------------------------------------------------------------------- table
 */

/* Parts are seconds of threads, added up: lanes times the wall clock. */
static ks_status add_row(probe_bench *b, json_t *pair, const grid_run *r,
                         ks_spread ratio, ks_err *err) {
    double directions = r->cost.other - r->cost.passes - r->cost.verify;
    return ks_bench_row(
        b->bench,
        json_pack(
            "{s:o,s:s,s:i,s:i,s:I,s:I,s:i,s:i,s:i,s:f,s:o,s:o,s:o,s:o,s:i,s:i,"
            "s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f}",
            "pair", pair, "backend", b->dev ? "cuda" : "cpu", "layers",
            b->n_layers, "positions", b->n_positions, "rows", (json_int_t)b->n,
            "width", (json_int_t)b->d, "strengths", STRENGTHS, "folds",
            b->bench->in->folds, "lanes", b->lanes, "seconds", r->seconds,
            "bare_seconds", ks_bench_real(r->bare_seconds), "over_bare",
            ks_bench_real(ratio.mean), "over_bare_low",
            ks_bench_real(ratio.low), "over_bare_high",
            ks_bench_real(ratio.high), "reads", r->cost.reads, "unconverged",
            r->unconverged, "max_gradient", r->gradient, "accuracy",
            r->accuracy, "prepare_s", r->cost.prepare, "factor_s",
            r->cost.factor, "passes_s", r->cost.passes, "verify_s",
            r->cost.verify, "directions_s", directions, "bare_gram_s",
            r->bare.gram, "bare_factor_s", r->bare.factor, "bare_passes_s",
            r->bare.passes),
        err);
}

static int by_seconds(const void *a, const void *b) {
    double x = ((const grid_run *)a)->seconds,
           y = ((const grid_run *)b)->seconds;
    return (x > y) - (x < y);
}

/* A row a pair, then the pair of median time with the pairs' mean ratio. */
static ks_status write_rows(probe_bench *b, int pairs, ks_err *err) {
    ks_status st = KS_OK;
    double *ratios = NULL;
    KS_TRY(ks_alloc(&ratios, (size_t)pairs, sizeof *ratios, "figures", err));
    for (int i = 0; i < pairs; i++) {
        ratios[i] = b->runs[i].seconds / b->runs[i].bare_seconds;
        ks_spread one = {.mean = ratios[i], .low = NAN, .high = NAN};
        KS_TRY(add_row(b, json_integer(i + 1), &b->runs[i], one, err));
    }
    qsort(b->runs, (size_t)pairs, sizeof *b->runs, by_seconds);
    KS_TRY(add_row(b, json_string("all"), &b->runs[pairs / 2],
                   ks_bench_spread(ratios, pairs), err));
done:
    free(ratios);
    return st;
}

/* ------------------------------------------------------------------- command
 */

static ks_status open_bench(probe_bench *b, int pairs, ks_err *err) {
    ks_status st = KS_OK;
    const ks_bench_input *in = b->bench->in;
    int threads = ks_threads(in->common.threads);
    const char *backend = in->common.backend;
    if (ks_cli_on_device(backend))
        KS_TRY(ks_dev_open(&b->dev, &b->ops, backend, 1, NULL, err));
    KS_TRY(find_data(b, err));
    KS_TRY(load(b, err));
    b->n_columns = in->folds * STRENGTHS;
    b->lanes = b->dev ? 1 : KS_MIN(threads, b->n_layers);
    b->lane_threads = KS_MAX(1, threads / b->lanes);
    ks_nest_default_strengths(b->strength);
    size_t n = (size_t)b->n, d = (size_t)b->d, lanes = (size_t)b->lanes;
    size_t columns = (size_t)b->n_columns;
    b->lane_scratch = d * d + d + columns * (2 * d + n);
    KS_TRY(ks_alloc(&b->scratch, lanes * b->lane_scratch, sizeof(float),
                    "bare products", err));
    KS_TRY(ks_alloc(&b->margin, lanes * columns * n, sizeof(float), "margins",
                    err));
    KS_TRY(ks_alloc(&b->passes,
                    (size_t)(b->n_positions * b->n_layers) * columns,
                    sizeof *b->passes, "figures", err));
    KS_TRY(ks_alloc(&b->runs, (size_t)pairs, sizeof *b->runs, "figures", err));
done:
    return st;
}

static void close_bench(probe_bench *b) {
    ks_dataset_close(&b->data);
    if (b->remove) ks_bench_remove(b->path);
    ks_dev_close(&b->dev, b->ops);
    void *all[] = {b->path, b->layer,  b->raw,     b->x,    b->y,
                   b->fold, b->margin, b->scratch, b->runs, b->passes};
    for (size_t i = 0; i < KS_COUNT(all); i++) free(all[i]);
}

ks_status ks_bench_probe(ks_bench *bench, ks_err *err) {
    ks_status st = KS_OK;
    probe_bench b = {.bench = bench};
    int pairs = bench->in->repeats;
    grid_run warm;
    KS_CHECK(bench->in->rows >= 2 * bench->in->folds * 5, KS_USAGE,
             "--rows %d: expected at least %d for %d folds", bench->in->rows,
             2 * bench->in->folds * 5, bench->in->folds);
    KS_TRY(open_bench(&b, pairs, err));
    if (!bench->in->alone) /* and counts the bare passes */
        KS_TRY(run_pair(&b, &warm, false, err));
    for (int i = 0; i < pairs; i++)
        KS_TRY(run_pair(&b, &b.runs[i], i % 2 == 1, err));
    KS_TRY(write_rows(&b, pairs, err));
done:
    close_bench(&b);
    return st;
}
