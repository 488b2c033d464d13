/* bench_stream.c - keystep bench stream: a layer that --memory does not hold,
 * read block by block from a scratch file in every pass, beside the same fits
 * with the rows in memory and beside the disk alone, in turn.
 *
 * Rates are bytes of the layer as stored a second of f32 passes over it, with
 * the columns that an evaluation's inner fits have. cold: past the page cache,
 * as where it could not hold the file, so that each pass asks the disk; cached:
 * through it, and the kernel keeps what it likes. The disk alone: a file of
 * those bytes read with O_DIRECT, 4 MiB at a time, by one, two and four
 * readers, of which the fastest counts. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../probes/layer.h"
#include "../../probes/nest.h"
#include "../n_threads.h"
#include "../ops.h"
#include "bench.h"

enum { STRENGTHS = KS_DEFAULT_STRENGTHS, REQUEST = 4 << 20, ALIGN = 4096 };
static const double TOLERANCE = 1e-6;

typedef struct stream_rates {
    double disk, resident, cold, cached; /* MB/s */
    double resident_s, cold_s, cached_s; /* open to close */
    double verify_resident, verify_cold; /* MB/s of passes in double */
    double ratio, cached_ratio;
} stream_rates;

typedef struct stream_bench {
    ks_bench *bench;
    char *made; /* file of synthetic activations, to be removed */
    ks_dataset *data;
    ks_layer layer;
    ks_l2_source source;
    uint8_t *fold;
    float *margin; /* [n_columns, n] */
    ks_l2_column *columns;
    int32_t n_columns;
    double strength[STRENGTHS];
    int threads;
    int64_t bytes; /* of the layer as stored */
    stream_rates *rates;
    double gradient; /* the worst */
} stream_bench;

/* --------------------------------------------------------------------- disk */

/* The rows' bytes in a file without a name, on the disk. */
static ks_status open_file(const stream_bench *b, int *fd, ks_err *err) {
    ks_status st = KS_OK;
    const char *dir = b->bench->in->dir;
    char *piece = NULL;
    KS_TRY(ks_alloc(&piece, REQUEST, 1, "a piece of a file", err));
    for (size_t k = 0; k < REQUEST; k++)
        piece[k] = (char)(k * 2654435761u >> 7);
    *fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    KS_CHECK(*fd >= 0, KS_IO, "%s: cannot make a file: %s", dir,
             strerror(errno));
    for (int64_t at = 0; at < b->bytes; at += REQUEST)
        KS_CHECK(pwrite(*fd, piece, REQUEST, at) == REQUEST, KS_IO,
                 "%s: cannot write %lld bytes: %s", dir, (long long)b->bytes,
                 strerror(errno));
    KS_CHECK(fdatasync(*fd) == 0, KS_IO, "%s: %s", dir, strerror(errno));
    KS_CHECK(fcntl(*fd, F_SETFL, O_DIRECT) == 0, KS_IO,
             "%s: its file system takes no O_DIRECT, which the disk alone is "
             "measured with: %s",
             dir, strerror(errno));
done:
    free(piece);
    return st;
}

static ks_status read_file(const stream_bench *b, int fd, int readers,
                           double *rate, ks_err *err) {
    ks_status st = KS_OK;
    char *memory = NULL;
    int failed = 0;
    KS_TRY(
        ks_alloc(&memory, (size_t)readers * REQUEST + ALIGN, 1, "pieces", err));
    char *aligned = memory + ALIGN - (uintptr_t)memory % ALIGN;
    double start = ks_seconds();
#pragma omp parallel for num_threads(readers) schedule(dynamic, 1)
    for (int64_t at = 0; at < b->bytes; at += REQUEST)
        if (pread(fd, aligned + (size_t)omp_get_thread_num() * REQUEST, REQUEST,
                  at) != REQUEST)
#pragma omp atomic write
            failed = 1;
    *rate = (double)b->bytes / (ks_seconds() - start) / 1e6;
    KS_CHECK(!failed, KS_IO,
             "%s: the file that the disk is measured with "
             "cannot be read",
             b->bench->in->dir);
done:
    free(memory);
    return st;
}

static ks_status ask_disk(const stream_bench *b, double *rate, ks_err *err) {
    ks_status st = KS_OK;
    int fd = -1;
    *rate = 0;
    KS_TRY(open_file(b, &fd, err));
    for (int readers = 1; readers <= 4; readers *= 2) {
        double one = 0;
        KS_TRY(read_file(b, fd, readers, &one, err));
        *rate = KS_MAX(*rate, one);
    }
done:
    if (fd >= 0) close(fd);
    return st;
}

/* --------------------------------------------------------------------- fits */

static void make_columns(stream_bench *b) {
    int32_t folds = b->bench->in->folds, n = 0;
    for (int32_t f = 0; f < folds; f++)
        for (int32_t g = f + 1; g < folds; g++)
            for (int32_t s = 0; s < STRENGTHS; s++, n++)
                b->columns[n] =
                    (ks_l2_column){.hold = 1u << f | 1u << g,
                                   .strength = b->strength[s],
                                   .margin = b->margin + n * b->source.n};
}

static ks_status fit(stream_bench *b, const char *scratch, ks_l2_way way,
                     double *rate, double *verify, double *seconds,
                     ks_err *err) {
    ks_status st = KS_OK;
    ks_l2 *l2 = NULL;
    ks_l2_design design = {b->data->y, b->fold};
    ks_l2_place place = {.threads = b->threads, .scratch = scratch, .way = way};
    double start = ks_seconds();
    make_columns(b);
    KS_TRY(ks_l2_open_from(&l2, &b->source, &place, &design, 1, err));
    KS_TRY(ks_l2_fit(l2, b->columns, b->n_columns, TOLERANCE, KS_DEFAULT_PASSES,
                     err));
    ks_l2_cost cost = ks_l2_get_cost(l2);
    *seconds = ks_seconds() - start;
    double mb = (double)b->bytes / 1e6;
    *rate = mb * cost.f32_reads / cost.passes;
    if (verify) *verify = mb * cost.f64_reads / cost.verify;
    for (int32_t k = 0; k < b->n_columns; k++)
        b->gradient = KS_MAX(b->gradient, b->columns[k].gradient);
done:
    ks_l2_close(&l2);
    return st;
}

/* All sides once; odd turns the other way round. */
static ks_status run_turn(stream_bench *b, int turn, stream_rates *r,
                          ks_err *err) {
    ks_status st = KS_OK;
    const char *dir = b->bench->in->dir;
    for (int k = 0; k < 4; k++) {
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
        switch (turn % 2 ? 3 - k : k) {
        case 0:
            KS_TRY(ask_disk(b, &r->disk, err));
            break;
        case 1:
            KS_TRY(fit(b, dir, KS_L2_DIRECT, &r->cold, &r->verify_cold,
                       &r->cold_s, err));
            break;
        case 2:
            KS_TRY(fit(b, NULL, KS_L2_ANY, &r->resident, &r->verify_resident,
                       &r->resident_s, err));
            break;
        default:
            KS_TRY(
                fit(b, dir, KS_L2_CACHED, &r->cached, NULL, &r->cached_s, err));
        }
    }
    r->ratio = r->cold / KS_MIN(r->disk, r->resident);
    r->cached_ratio = r->cached / r->resident;
    ks_log(KS_LOG_INFO,
           "disk %.0f MB/s, in memory %.0f, from the disk %.0f, cached %.0f",
           r->disk, r->resident, r->cold, r->cached);
done:
    return st;
}

/* --------------------------------------------------------------------- data */

static ks_status find_data(stream_bench *b, ks_err *err) {
    ks_status st = KS_OK;
    const ks_bench_input *in = b->bench->in;
    const char *path = in->common.acts;
    char *name = NULL;
    if (!path) {
        KS_TRY(ks_path_join(&name, in->dir, "keystep-bench-stream.h5", err));
        KS_TRY(ks_refuse_existing(name, false, err));
        path = b->made = name;
        name = NULL;
        KS_TRY(ks_bench_data(path, in->rows, in->width, 2, 1u << KS_MEAN,
                             in->common.seed, err));
    }
    ks_dataset_paths paths = {.acts = path, .labels = in->common.labels};
    KS_TRY(ks_dataset_open(&b->data, &paths, err));
    KS_CHECK(ks_acts_has(b->data->acts, KS_RESID, KS_MEAN), KS_USAGE,
             "%s has no resid at mean", path);
    b->layer = (ks_layer){.dataset = b->data,
                          .file = b->data->acts,
                          .place = b->data->row,
                          .stream = KS_RESID,
                          .position = KS_MEAN,
                          .layer = (b->data->info->n_layers + 1) / 2};
    b->source = ks_layer_source(&b->layer);
    b->bytes =
        b->source.n * (int64_t)ks_type_row_bytes(b->source.type, b->source.d);
done:
    free(name);
    return st;
}

static ks_status open_bench(stream_bench *b, int pairs, ks_err *err) {
    ks_status st = KS_OK;
    const ks_bench_input *in = b->bench->in;
    KS_TRY(find_data(b, err));
    size_t n = (size_t)b->source.n;
    b->threads = ks_threads(in->common.threads);
    b->n_columns = in->folds * (in->folds - 1) / 2 * STRENGTHS;
    ks_nest_default_strengths(b->strength);
    KS_TRY(ks_alloc(&b->fold, n, 1, "folds", err));
    for (size_t i = 0; i < n; i++)
        b->fold[i] = (uint8_t)(b->data->group[i] % in->folds);
    KS_TRY(ks_alloc(&b->columns, (size_t)b->n_columns, sizeof *b->columns,
                    "columns", err));
    KS_TRY(ks_alloc(&b->margin, (size_t)b->n_columns * n, sizeof(float),
                    "margins", err));
    KS_TRY(
        ks_alloc(&b->rates, (size_t)pairs, sizeof *b->rates, "figures", err));
done:
    return st;
}

/* --------------------------------------------------------------------- table
 */

static ks_status add_row(const stream_bench *b, json_t *pair,
                         const stream_rates *r, ks_spread ratio, ks_err *err) {
    return ks_bench_row(
        b->bench,
        json_pack("{s:o,s:I,s:I,s:s,s:i,s:I,s:f,s:f,s:f,s:f,s:f,s:o,s:o,s:f,"
                  "s:f,s:f,s:f,s:f,s:f,s:f}",
                  "pair", pair, "rows", (json_int_t)b->source.n, "width",
                  (json_int_t)b->source.d, "type", ks_type_name(b->source.type),
                  "columns", b->n_columns, "bytes", (json_int_t)b->bytes,
                  "disk_mb_s", r->disk, "resident_mb_s", r->resident,
                  "cold_mb_s", r->cold, "cached_mb_s", r->cached, "ratio",
                  r->ratio, "ratio_low", ks_bench_real(ratio.low), "ratio_high",
                  ks_bench_real(ratio.high), "cached_ratio", r->cached_ratio,
                  "verify_resident_mb_s", r->verify_resident,
                  "verify_cold_mb_s", r->verify_cold, "resident_s",
                  r->resident_s, "cold_s", r->cold_s, "cached_s", r->cached_s,
                  "max_gradient", b->gradient),
        err);
}

static int by_ratio(const void *a, const void *b) {
    double x = ((const stream_rates *)a)->ratio,
           y = ((const stream_rates *)b)->ratio;
    return (x > y) - (x < y);
}

/* A row a turn, then the turn of median ratio with the ratios' mean. */
static ks_status write_rows(stream_bench *b, int pairs, ks_err *err) {
    ks_status st = KS_OK;
    ks_spread none = {.low = NAN, .high = NAN};
    double *ratios = NULL;
    KS_TRY(ks_alloc(&ratios, (size_t)pairs, sizeof *ratios, "figures", err));
    for (int i = 0; i < pairs; i++) {
        ratios[i] = b->rates[i].ratio;
        KS_TRY(add_row(b, json_integer(i + 1), &b->rates[i], none, err));
    }
    qsort(b->rates, (size_t)pairs, sizeof *b->rates, by_ratio);
    stream_rates all = b->rates[pairs / 2];
    ks_spread spread = ks_bench_spread(ratios, pairs);
    all.ratio = spread.mean;
    KS_TRY(add_row(b, json_string("all"), &all, spread, err));
done:
    free(ratios);
    return st;
}

ks_status ks_bench_stream(ks_bench *bench, ks_err *err) {
    ks_status st = KS_OK;
    stream_bench b = {.bench = bench};
    int pairs = bench->in->repeats;
    KS_TRY(open_bench(&b, pairs, err));
    for (int i = 0; i < pairs; i++) KS_TRY(run_turn(&b, i, &b.rates[i], err));
    KS_TRY(write_rows(&b, pairs, err));
done:
    ks_dataset_close(&b.data);
    if (b.made) ks_bench_remove(b.made);
    free(b.made);
    free(b.fold);
    free(b.columns);
    free(b.margin);
    free(b.rates);
    return st;
}
