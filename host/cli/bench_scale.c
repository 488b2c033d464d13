/* bench_scale.c - keystep bench scale: another bench at several sizes. All
 * sizes run once in turn, as often as there are pairs, so that a machine whose
 * pace wanders bends no line; a line is fitted through the sizes' runs. */
#include <errno.h>
#include <math.h>
#include <omp.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../report/plot.h"
#include "bench.h"

enum { MOST_SIZES = 32, MOST_PROCESSES = 64 };

/* What may grow. The line is fitted over x: the size itself, or the share that
 * one of so many has. */
typedef struct dimension {
    const char *name, *of;
    int *(*field)(ks_bench_input *); /* NULL: processes */
    const char *unit;                /* of the rate */
    bool shared;                     /* x = 1 / size */
    bool a_batch;                    /* cost of one of the batches */
    const char *expected;            /* of the line */
} dimension;

static int *batch_tokens(ks_bench_input *in) {
    return &in->common.batch_tokens;
}
static int *n_chains(ks_bench_input *in) {
    return &in->n_chains;
}
static int *threads(ks_bench_input *in) {
    return &in->common.threads;
}
static int *layers(ks_bench_input *in) {
    return &in->data_layers;
}
static int *width(ks_bench_input *in) {
    return &in->width;
}
static int *rows(ks_bench_input *in) {
    return &in->rows;
}

static const dimension dimensions[] = {
    {"batch-tokens", "capture", batch_tokens, "tokens", false, true,
     "linear: a is what a batch costs beside its tokens"},
    {"chains", "capture", n_chains, "tokens", false, false, "linear"},
    {"threads", "capture", threads, "tokens", true, false,
     "linear in 1/threads: a is what threads do not share"},
    {"processes", "capture", NULL, "chains", true, false,
     "linear in 1/processes: a is what each does for itself"},
    {"label-chains", "label", n_chains, "samples", false, false, "linear"},
    {"layers", "probe", layers, "layers", false, false, "linear"},
    {"rows", "probe", rows, "rows", false, false,
     "linear: a is the factorisations"},
    {"d", "probe", width, "columns", false, false,
     "between d and d^3: passes, Gram matrices, factorisations"},
};

typedef struct scale_bench {
    ks_bench *bench;
    const dimension *what;
    int size[MOST_SIZES], n;
    double *seconds, *work; /* [n, pairs] */
    ks_bench_source source; /* of processes */
    ks_chains chains;
} scale_bench;

/* ------------------------------------------------------------------ --over */

static ks_status parse_over(scale_bench *b, const char *text, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = strcspn(text, "=");
    char item[64];
    ks_str known = {0};
    for (size_t i = 0; i < KS_COUNT(dimensions); i++) {
        const char *name = dimensions[i].name;
        if (strlen(name) == n && memcmp(name, text, n) == 0)
            b->what = &dimensions[i];
        KS_TRY(ks_str_printf(&known, err, "%s%s", i ? ", " : "", name));
    }
    KS_CHECK(b->what && text[n] == '=', KS_USAGE,
             "--over %s: NAME=LIST is expected, NAME one of %s", text,
             known.data);
    for (text += n + 1; ks_bench_item(&text, item);) {
        char *end;
        long size = strtol(item, &end, 10);
        KS_CHECK(end != item && !*end && size >= 1 && size <= 1 << 20, KS_USAGE,
                 "--over %s: '%s' is no size from 1 to 1048576", b->what->name,
                 item);
        KS_CHECK(b->n < MOST_SIZES, KS_USAGE, "--over takes at most %d sizes",
                 MOST_SIZES);
        b->size[b->n++] = (int)size;
    }
    KS_CHECK(b->n > 0, KS_USAGE, "--over %s: no sizes", b->what->name);
    for (int i = 0; i < b->n; i++)
        KS_CHECK(b->what->field || b->size[i] <= MOST_PROCESSES, KS_USAGE,
                 "--over processes: at most %d", MOST_PROCESSES);
done:
    ks_str_free(&known);
    return st;
}

/* --------------------------------------------------------- another bench run
 */

/* The seconds of the row that counts, and what was done in them. */
static ks_status take_row(const scale_bench *b, const json_t *all, int size,
                          double *seconds, double *work, ks_err *err) {
    static const char *const counts[] = {"pooled", "prefixes"};
    for (size_t i = 0; i < json_array_size(all); i++) {
        const json_t *row = json_array_get(all, i);
        const char *what = json_string_value(json_object_get(row, "what"));
        if (json_is_string(json_object_get(row, "pair"))) continue; /* "all" */
        if (what && strcmp(what, counts[0]) != 0 &&
            strcmp(what, counts[1]) != 0)
            continue;
        *seconds = json_number_value(json_object_get(row, "seconds"));
        json_t *done = json_object_get(row, b->what->unit);
        *work = done ? json_number_value(done) : size;
        if (b->what->a_batch && *work > 0) {
            double part = KS_MIN(size / *work, 1); /* of all batches */
            *seconds *= part;
            *work *= part;
        }
        return KS_OK;
    }
    return ks_fail(err, KS_INTERNAL, "bench %s gave no row", b->what->of);
}

static ks_status run_other(scale_bench *b, int size, double *seconds,
                           double *work, ks_err *err) {
    ks_status st = KS_OK;
    ks_bench_input in = *b->bench->in;
    ks_bench other = {.in = &in, .rows = json_array()};
    in.repeats = 1;
    in.alone = true;
    in.out_data = NULL;
    *b->what->field(&in) = size;
    ks_status (*run)(ks_bench *, ks_err *) =
        strcmp(b->what->of, "capture") == 0 ? ks_bench_capture
        : strcmp(b->what->of, "label") == 0 ? ks_bench_label
                                            : ks_bench_probe;
    KS_TRY(run(&other, err));
    KS_TRY(take_row(b, other.rows, size, seconds, work, err));
done:
    json_decref(other.rows);
    return st;
}

/* ----------------------------------------------------------------- processes
 */

typedef struct child {
    pid_t pid; /* 0: not running */
    char *chains, *out;
} child;

static ks_status write_share(const scale_bench *b, int k, int n, child *c,
                             ks_err *err) {
    ks_status st = KS_OK;
    ks_str lines = {0}, name = {0};
    for (size_t i = b->chains.n * (size_t)k / (size_t)n;
         i < b->chains.n * (size_t)(k + 1) / (size_t)n; i++)
        KS_TRY(ks_jsonl_add(&lines, b->chains.at[i].object, err));
    KS_TRY(ks_str_printf(&name, err, "%s/keystep-bench-%d.jsonl",
                         b->bench->in->dir, k));
    KS_TRY(ks_write_file(name.data, lines.data, lines.length, false, err));
    c->chains = name.data;
    name = (ks_str){0};
    KS_TRY(ks_str_printf(&name, err, "%s/keystep-bench-%d.h5",
                         b->bench->in->dir, k));
    KS_TRY(ks_refuse_existing(name.data, false, err));
    c->out = name.data;
    name = (ks_str){0};
done:
    ks_str_free(&lines);
    ks_str_free(&name);
    return st;
}

static ks_status start_child(const scale_bench *b, int k, int n, child *c,
                             ks_err *err) {
    const ks_cli_common *o = &b->bench->in->common;
    char all[16], backend[32];
    int of = o->threads ? o->threads : omp_get_num_procs();
    bool each = o->backend && strcmp(o->backend, "cuda") == 0;
    snprintf(all, sizeof all, "%d", KS_MAX(of / n, 1));
    if (each)
        snprintf(backend, sizeof backend, "cuda:%d", k);
    else
        snprintf(backend, sizeof backend, "%s",
                 o->backend ? o->backend : "cpu");
    const char *argv[] = {"keystep",   "capture", "--model",   b->source.model,
                          "--chains",  c->chains, "--out",     c->out,
                          "--threads", all,       "--backend", backend,
                          "--quiet",   NULL};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", 1, 0);
    int failed = posix_spawn(&c->pid, "/proc/self/exe", &actions, NULL,
                             (char **)(uintptr_t)argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (!failed) return KS_OK;
    c->pid = 0;
    return ks_fail(err, KS_IO, "a process cannot be started: %s",
                   strerror(failed));
}

static ks_status wait_child(child *c, ks_err *err) {
    int status = -1;
    if (!c->pid) return KS_OK;
    while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR) {
    }
    c->pid = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return KS_OK;
    return ks_fail(err, ks_interrupted ? KS_INTERRUPTED : KS_IO,
                   "a process that captures %s failed", c->chains);
}

/* Every process a share of the chains and of the threads; the whole commands
 * are timed, start and model included. */
static ks_status run_processes(scale_bench *b, int n, double *seconds,
                               double *work, ks_err *err) {
    ks_status st = KS_OK;
    child all[MOST_PROCESSES] = {0};
    KS_CHECK((size_t)n <= b->chains.n, KS_USAGE,
             "%d processes for %zu chains: --n-chains makes more", n,
             b->chains.n);
    for (int k = 0; k < n; k++) KS_TRY(write_share(b, k, n, &all[k], err));
    double start = ks_seconds();
    for (int k = 0; k < n; k++) KS_TRY(start_child(b, k, n, &all[k], err));
    for (int k = 0; k < n; k++) KS_TRY(wait_child(&all[k], err));
    *seconds = ks_seconds() - start;
    *work = (double)b->chains.n;
done:
    for (int k = 0; k < n; k++) {
        wait_child(&all[k], NULL);
        if (all[k].chains) unlink(all[k].chains);
        if (all[k].out) ks_bench_remove(all[k].out);
        free(all[k].chains);
        free(all[k].out);
    }
    return st;
}

/* -------------------------------------------------------------------- table */

static double x_of(const scale_bench *b, int i) {
    return b->what->shared ? 1.0 / b->size[i] : b->size[i];
}

/* pair < 0: the median. */
static ks_status add_row(const scale_bench *b, int i, int pair, int pairs,
                         double *values, ks_err *err) {
    double seconds, first;
    const double *of = b->seconds + (size_t)i * (size_t)pairs;
    if (pair >= 0) {
        seconds = of[pair];
        first = b->seconds[pair];
    } else {
        memcpy(values, b->seconds, (size_t)pairs * sizeof *values);
        first = ks_bench_spread(values, pairs).median;
        memcpy(values, of, (size_t)pairs * sizeof *values);
        seconds = ks_bench_spread(values, pairs).median;
    }
    double work = b->work[(size_t)i * (size_t)pairs];
    return ks_bench_row(
        b->bench,
        json_pack("{s:s,s:i,s:s,s:o,s:f,s:f,s:s,s:f,s:f}", "over",
                  b->what->name, "at", b->size[i], "of", b->what->of, "pair",
                  pair < 0 ? json_string("all") : json_integer(pair + 1), "x",
                  x_of(b, i), "seconds", seconds, "unit", b->what->unit,
                  "per_s", work / seconds, "over_first", seconds / first),
        err);
}

/* ---------------------------------------------------------------------- fit */

/* A test of curvature says that a line is not straight, never that it is. */
static const char *verdict_of(const ks_bench_fit *f) {
    if (!isfinite(f->p_curvature)) return "too few points to tell curvature";
    return f->p_curvature < 0.05 ? "curved" : "no curvature found";
}

static ks_status tell_fit(const scale_bench *b, const ks_bench_fit *f,
                          ks_err *err) {
    ks_status st = KS_OK;
    ks_str s = {0};
    const char *x = b->what->shared ? "1/" : "";
    KS_TRY(ks_str_printf(
        &s, err,
        "seconds = a + b %s%s: a = %.4g [%.4g, %.4g], b = %.4g [%.4g, %.4g], "
        "95%% intervals, %d runs.\nCurvature: %.3g of the cost at the largest, "
        "p = %.2g: %s (expected: %s).\nExponent of %s%s: %.3f [%.3f, %.3f].",
        x, b->what->name, f->a, f->a_low, f->a_high, f->b, f->b_low, f->b_high,
        f->n, f->curvature, f->p_curvature, verdict_of(f), b->what->expected, x,
        b->what->name, f->exponent, f->exponent_low, f->exponent_high));
    json_t *row = json_pack(
        "{s:s,s:s,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:s,s:s}", "over",
        b->what->name, "x", b->what->shared ? "1/size" : "size", "a",
        ks_bench_real(f->a), "a_low", ks_bench_real(f->a_low), "a_high",
        ks_bench_real(f->a_high), "b", ks_bench_real(f->b), "b_low",
        ks_bench_real(f->b_low), "b_high", ks_bench_real(f->b_high), "exponent",
        ks_bench_real(f->exponent), "exponent_low",
        ks_bench_real(f->exponent_low), "exponent_high",
        ks_bench_real(f->exponent_high), "curvature",
        ks_bench_real(f->curvature), "p_curvature",
        ks_bench_real(f->p_curvature), "verdict", verdict_of(f), "sentence",
        s.data);
    KS_CHECK(row && !json_array_append_new(b->bench->fits, row), KS_NOMEM,
             "no memory for a fit");
done:
    ks_str_free(&s);
    return st;
}

static ks_status draw(const scale_bench *b, const ks_bench_fit *f, int pairs,
                      double *values, ks_err *err) {
    ks_status st = KS_OK;
    ks_report report = {0};
    bool drawn = false;
    const char *folder = b->bench->in->plots;
    double most = 0;
    KS_CHECK(mkdir(folder, 0777) == 0 || errno == EEXIST, KS_IO,
             "%s: cannot make the folder: %s", folder, strerror(errno));
    ks__section(&report, "scale", "Scaling", "");
    ks_report_figure *figure =
        ks__figure(&report, KS_FIGURE_LINES,
                   ks__report_text(&report, "scale-%s", b->what->name),
                   ks__report_text(&report, "bench %s over %s", b->what->of,
                                   b->what->name));
    figure->x_label = ks__report_text(
        &report, "%s%s", b->what->shared ? "1 / " : "", b->what->name);
    figure->y_label = "seconds";
    ks__line(figure, "median and range of the runs", 0);
    for (int i = 0; i < b->n; i++) {
        memcpy(values, b->seconds + (size_t)i * (size_t)pairs,
               (size_t)pairs * sizeof *values);
        ks_spread s = ks_bench_spread(values, pairs);
        ks__point(figure, x_of(b, i), s.median, s.min, s.max);
        most = KS_MAX(most, s.max);
    }
    ks__line(figure, "a + b x", -1);
    for (int i = 0; i < b->n; i++) {
        double y = f->a + f->b * x_of(b, i);
        ks__point(figure, x_of(b, i), y, NAN, NAN);
        most = KS_MAX(most, y);
    }
    figure->low = 0;
    figure->high = 1.05 * most;
    ks__figure_end(figure);
    if (report.st != KS_OK && err) *err = report.err;
    KS_TRY(report.st);
    KS_TRY(ks__plot_all(&report, folder, &drawn, err));
    if (!drawn) ks_log(KS_LOG_INFO, "bench: no gnuplot here, no pictures");
done:
    ks_report_free(&report);
    return st;
}

static ks_status finish(scale_bench *b, int pairs, ks_err *err) {
    ks_status st = KS_OK;
    double *x = NULL, *values = NULL;
    ks_bench_fit fit;
    int32_t n = b->n * pairs;
    KS_TRY(ks_alloc(&x, (size_t)n, sizeof *x, "a fit", err));
    KS_TRY(ks_alloc(&values, (size_t)pairs, sizeof *values, "a fit", err));
    for (int32_t i = 0; i < n; i++) x[i] = x_of(b, i / pairs);
    for (int i = 0; i < b->n; i++)
        for (int pair = 0; pair < pairs; pair++)
            KS_TRY(add_row(b, i, pair, pairs, values, err));
    for (int i = 0; i < b->n; i++)
        KS_TRY(add_row(b, i, -1, pairs, values, err));
    KS_TRY(ks_bench_fit_line(x, b->seconds, n, &fit, err));
    KS_TRY(tell_fit(b, &fit, err));
    if (b->bench->in->plots) KS_TRY(draw(b, &fit, pairs, values, err));
done:
    free(x);
    free(values);
    return st;
}

/* ------------------------------------------------------------------ command */

static ks_status open_bench(scale_bench *b, int pairs, ks_err *err) {
    ks_status st = KS_OK;
    const ks_bench_input *in = b->bench->in;
    KS_TRY(parse_over(b, in->over, err));
    KS_CHECK(b->what->field != n_chains || !in->common.chains, KS_USAGE,
             "--over %s makes its chains: not with --chains", b->what->name);
    size_t n = (size_t)b->n * (size_t)pairs;
    KS_TRY(ks_alloc(&b->seconds, n, sizeof *b->seconds, "figures", err));
    KS_TRY(ks_alloc(&b->work, n, sizeof *b->work, "figures", err));
    if (b->what->field) goto done;
    KS_TRY(ks_bench_source_open(&b->source, in, "keystep-bench-chains.jsonl",
                                30, err));
    KS_TRY(ks_chains_read(&b->chains, b->source.chains, KS_KEEP_OBJECTS, err));
done:
    return st;
}

ks_status ks_bench_scale(ks_bench *bench, ks_err *err) {
    ks_status st = KS_OK;
    scale_bench b = {.bench = bench};
    int pairs = bench->in->repeats;
    KS_TRY(open_bench(&b, pairs, err));
    for (int pair = 0; pair < pairs; pair++)
        for (int k = 0; k < b.n; k++) {
            int i = (k + pair) % b.n; /* each leads in its turn */
            size_t at = (size_t)i * (size_t)pairs + (size_t)pair;
            KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
            if (b.what->field)
                KS_TRY(
                    run_other(&b, b.size[i], &b.seconds[at], &b.work[at], err));
            else
                KS_TRY(run_processes(&b, b.size[i], &b.seconds[at], &b.work[at],
                                     err));
        }
    KS_TRY(finish(&b, pairs, err));
done:
    ks_chains_free(&b.chains);
    ks_bench_source_close(&b.source);
    free(b.seconds);
    free(b.work);
    return st;
}
