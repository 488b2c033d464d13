/* cmd_bench.c - keystep bench: measures this machine, one table a bench. */
#include <gsl/gsl_cdf.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"

enum {
    KEY_SHAPES = KS_KEY_OWN,
    KEY_TYPES,
    KEY_PAIRS,
    KEY_ISA,
    KEY_DIR,
    KEY_SIZE,
    KEY_ROWS,
    KEY_WIDTH,
    KEY_DATA_LAYERS,
    KEY_FOLDS,
    KEY_ALONE,
    KEY_HIDDEN,
    KEY_EPOCHS,
    KEY_OUT_DATA,
    KEY_INPUT
};

static const struct argp_option option_list[] = {
    KS_CLI_THREADS,
    KS_CLI_OUT,
    KS_CLI_FORCE,
    KS_CLI_JSON,
    {"pairs", KEY_PAIRS, "N", 0, "runs of each side in turn, default 10", 0},
    {"repeats", KEY_PAIRS, "N", OPTION_ALIAS, NULL, 0},
    {NULL, 0, NULL, 0, "gemm:", 1},
    {"shapes", KEY_SHAPES, "LIST", 0,
     "rows x outputs x inputs, e.g. 512x576x1536; default: SmolLM2-135M's", 1},
    {"types", KEY_TYPES, "LIST", 0,
     "of the weights, e.g. f32,q4_1; default: "
     "f32,bf16,q8_0,q4_1",
     1},
    {"isa", KEY_ISA, "NAME", 0, "instruction set: v2, avx2 or avx512", 1},
    {NULL, 0, NULL, 0, "capture:", 2},
    {"chains", KS_KEY_CHAINS, "FILE", 0, "chains, JSON Lines", 2},
    {"batch-tokens", KS_KEY_BATCH_TOKENS, "N", 0,
     "most tokens of a packed batch", 2},
    {NULL, 0, NULL, 0, "io:", 3},
    {"size", KEY_SIZE, "MIB", 0, "of the file; default: 1024", 3},
    {NULL, 0, NULL, 0, "probe, stream:", 4},
    {"acts", KS_KEY_ACTS, "FILE", 0,
     "activations with labels; default: synthetic ones are made", 4},
    {"labels", KS_KEY_LABELS, "FILE", 0, "labels, if not the file's own", 4},
    {"positions", KS_KEY_POSITIONS, "LIST", 0,
     "probe: of the activations, one after another; default: their first, "
     "mean of synthetic ones",
     4},
    {"layers", KS_KEY_LAYERS, "LIST", 0, "of the activations; default: all", 4},
    {"rows", KEY_ROWS, "N", 0, "most steps; default: 8000", 4},
    {"folds", KEY_FOLDS, "N", 0, "problems in turn; default: 5", 4},
    {"width", KEY_WIDTH, "N", 0, "of synthetic ones; default: 576", 4},
    {"data-layers", KEY_DATA_LAYERS, "N", 0, "of synthetic ones; default: 31",
     4},
    {"seed", KS_KEY_SEED, "N", 0, "of synthetic ones", 4},
    {"alone", KEY_ALONE, NULL, 0, "probe: without the bare calls", 4},
    {"out-data", KEY_OUT_DATA, "FILE", 0,
     "keep the synthetic activations, or the influence matrix, for peers to "
     "read",
     4},
    {NULL, 0, NULL, 0, "adamw, on data as probe's:", 5},
    {"hidden", KEY_HIDDEN, "N", 0,
     "units of a network over all layers; default: linear probes of each", 5},
    {"epochs", KEY_EPOCHS, "N", 0, "of 30 that are run; default: 30", 5},
    {NULL, 0, NULL, 0, "influence:", 6},
    {"input", KEY_INPUT, "FILE", 0,
     "a chain, JSON: \"ids\", its tokens, and \"bounds\", the token where each "
     "step begins and the last one's end",
     5},
    {"memory", KS_KEY_MEMORY, "BYTES", 0, "it may take, e.g. 2G", 6},
    {NULL, 0, NULL, 0, "capture and influence:", 7},
    {"model", KS_KEY_MODEL, "PATH", 0, "GGUF, safetensors or folder", 7},
    {NULL, 0, NULL, 0, "capture, probe and influence:", 8},
    {"backend", KS_KEY_BACKEND, "cpu|cuda", 0, "default: cpu", 8},
    {NULL, 0, NULL, 0, "capture, io and probe:", 9},
    {"dir", KEY_DIR, "FOLDER", 0,
     "where the files that are written and removed lie; default: here", 9},
    {"quiet", KS_KEY_QUIET, NULL, 0, "no words on stderr", 9},
    {0}};

static const struct bench_entry {
    const char *name;
    ks_status (*run)(ks_bench *, ks_err *);
} benches[] = {
    {"gemm", ks_bench_gemm},
    {"capture", ks_bench_capture},
    {"io", ks_bench_io},
    {"probe", ks_bench_probe},
    {"stream", ks_bench_stream},
    {"adamw", ks_bench_adamw},
    {"influence", ks_bench_influence},
};

static const struct bench_entry *find(const char *name) {
    for (size_t i = 0; i < KS_COUNT(benches); i++)
        if (strcmp(name, benches[i].name) == 0) return &benches[i];
    return NULL;
}

static int number(const char *option, const char *arg, int low, int high,
                  struct argp_state *state) {
    char *end;
    long n = strtol(arg, &end, 10);
    if (end == arg || *end || n < low || n > high)
        argp_error(state, "--%s %s: expected %d..%d", option, arg, low, high);
    return (int)n;
}

/* Keys of numbers; 0 where it is none of them. */
static int *number_of(ks_bench_input *in, int key, const char **name,
                      int *high) {
    switch (key) {
    case KEY_PAIRS:
        *name = "pairs", *high = 1000;
        return &in->repeats;
    case KEY_SIZE:
        *name = "size", *high = 1 << 20;
        return &in->mib;
    case KEY_ROWS:
        *name = "rows", *high = 1 << 24;
        return &in->rows;
    case KEY_WIDTH:
        *name = "width", *high = 1 << 14;
        return &in->width;
    case KEY_DATA_LAYERS:
        *name = "data-layers", *high = 1000;
        return &in->data_layers;
    case KEY_HIDDEN:
        *name = "hidden", *high = 4096;
        return &in->hidden;
    case KEY_EPOCHS:
        *name = "epochs", *high = 30;
        return &in->epochs;
    case KEY_FOLDS:
        *name = "folds", *high = 32;
        return &in->folds;
    default:
        return NULL;
    }
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    ks_bench_input *in = state->input;
    const char *name;
    int high, *value = number_of(in, key, &name, &high);
    if (value) {
        *value = number(name, arg, 1, high, state);
        return 0;
    }
    switch (key) {
    case KEY_SHAPES:
        in->shapes = arg;
        return 0;
    case KEY_TYPES:
        in->types = arg;
        return 0;
    case KEY_ISA:
        in->isa = arg;
        return 0;
    case KEY_DIR:
        in->dir = arg;
        return 0;
    case KEY_OUT_DATA:
        in->out_data = arg;
        return 0;
    case KEY_INPUT:
        in->input = arg;
        return 0;
    case KEY_ALONE:
        in->alone = true;
        return 0;
    case ARGP_KEY_ARG:
        if (in->what) argp_error(state, "one bench at a time: '%s'", arg);
        if (!find(arg)) argp_error(state, "no bench '%s'", arg);
        in->what = arg;
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "what to measure: gemm, capture, io, probe, "
                          "stream, adamw or influence");
        return 0;
    default:
        return ks_cli_common_key(&in->common, key, arg, state);
    }
}

/* ------------------------------------------------------------------ spread */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const double *sorted, int n, double q) {
    double at = q * (n - 1);
    int i = (int)at, j = i + 1 < n ? i + 1 : i;
    return sorted[i] + (at - i) * (sorted[j] - sorted[i]);
}

ks_spread ks_bench_spread(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, by_value);
    ks_spread s = {.q1 = quantile(values, n, 0.25),
                   .median = quantile(values, n, 0.5),
                   .q3 = quantile(values, n, 0.75),
                   .min = values[0],
                   .max = values[n - 1],
                   .low = NAN,
                   .high = NAN};
    double squares = 0;
    for (int i = 0; i < n; i++) s.mean += values[i] / n;
    for (int i = 0; i < n; i++)
        squares += (values[i] - s.mean) * (values[i] - s.mean);
    if (n < 2) return s;
    double half =
        gsl_cdf_tdist_Pinv(0.975, n - 1) * sqrt(squares / (n - 1) / n);
    s.low = s.mean - half;
    s.high = s.mean + half;
    return s;
}

json_t *ks_bench_real(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

void ks_bench_remove(const char *path) {
    static const char *const more[] = {"", ".part", ".journal", ".lock"};
    for (size_t i = 0; i < KS_COUNT(more); i++) {
        ks_str name = {0};
        if (ks_str_printf(&name, NULL, "%s%s", path, more[i]) == KS_OK)
            unlink(name.data);
        ks_str_free(&name);
    }
}

/* -------------------------------------------------------------------- table */

bool ks_bench_item(const char **list, char item[64]) {
    if (!**list) return false;
    size_t n = strcspn(*list, ",");
    snprintf(item, 64, "%.*s", (int)KS_MIN(n, 63), *list);
    *list += n + ((*list)[n] == ',');
    return true;
}

ks_status ks_bench_row(ks_bench *bench, json_t *row, ks_err *err) {
    if (row && json_array_append_new(bench->rows, row) == 0) return KS_OK;
    return ks_fail(err, KS_NOMEM, "no memory for the table");
}

static ks_status add_field(ks_str *text, json_t *value, ks_err *err) {
    if (json_is_string(value))
        return ks_str_printf(text, err, "%s", json_string_value(value));
    if (json_is_integer(value))
        return ks_str_printf(text, err, "%lld",
                             (long long)json_integer_value(value));
    if (json_is_real(value))
        return ks_str_printf(text, err, "%.5g", json_real_value(value));
    return KS_OK; /* null: nothing to say */
}

/* The keys of the first row are the header. */
static ks_status to_csv(const json_t *rows, ks_str *text, ks_err *err) {
    ks_status st = KS_OK;
    const char *key;
    json_t *value;
    bool first = true;
    json_object_foreach(json_array_get(rows, 0), key, value) {
        KS_TRY(ks_str_printf(text, err, "%s%s", first ? "" : ",", key));
        first = false;
    }
    KS_TRY(ks_str_add(text, "\n", 1, err));
    for (size_t i = 0; i < json_array_size(rows); i++) {
        first = true;
        json_object_foreach(json_array_get(rows, i), key, value) {
            if (!first) KS_TRY(ks_str_add(text, ",", 1, err));
            KS_TRY(add_field(text, value, err));
            first = false;
        }
        KS_TRY(ks_str_add(text, "\n", 1, err));
    }
done:
    return st;
}

static ks_status write_table(const ks_bench *b, ks_err *err) {
    ks_status st = KS_OK;
    const ks_cli_common *c = &b->in->common;
    ks_str csv = {0};
    char *json = NULL;
    if (c->json) {
        json = json_dumps(b->rows, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
        KS_CHECK(json, KS_NOMEM, "no memory for JSON");
    } else {
        KS_TRY(to_csv(b->rows, &csv, err));
    }
    const char *text = json ? json : csv.data;
    KS_TRY(ks_write_out(c->out, text, strlen(text), c->force, err));
done:
    free(json);
    ks_str_free(&csv);
    return st;
}

/* ------------------------------------------------------------------ command */

static ks_status run(const ks_bench_input *in, ks_err *err) {
    ks_status st = KS_OK;
    ks_bench b = {.in = in, .rows = json_array()};
    if (in->common.out && strcmp(in->common.out, "-") != 0)
        KS_TRY(ks_refuse_existing(in->common.out, in->common.force, err));
    KS_TRY(find(in->what)->run(&b, err));
    KS_TRY(write_table(&b, err));
done:
    json_decref(b.rows);
    return st;
}

int ks_cmd_bench(int argc, char **argv) {
    static const struct argp argp = {
        .options = option_list,
        .parser = parse,
        .args_doc = "gemm|capture|io|probe|stream|adamw|influence",
        .doc =
            "Measures this machine; what is compared runs in turn.\n\n"
            "gemm: the forward's matrix product on stored weights beside the "
            "BLAS's sgemm on the same weights in f32: median and quartiles of "
            "GFLOP/s, and the median of the pairs' ratios.\n\n"
            "capture: the model's matrix products alone, the forward alone, "
            "and the forward with capture into a real file, of resid at five "
            "positions and of everything: tokens/s, the products' share of "
            "the time, and what capture adds, with 95% intervals.\n\n"
            "io: the activation writer alone beside dd with fdatasync of as "
            "many bytes.\n\n"
            "probe: the grid of layers x strengths x folds beside what its "
            "Gram matrices, factorisations and passes cost as bare BLAS and "
            "LAPACK calls.\n\n"
            "stream: passes over one layer that is read from a scratch file in "
            "--dir, beside the same ones with the rows in memory and beside "
            "the disk alone.\n\n"
            "adamw: the published AdamW loop, linear probes of every layer and "
            "seed or networks over all layers, beside its matrix products and "
            "the traffic of weights and moments as bare calls.\n\n"
            "influence: the influence matrix of one chain by gradients beside "
            "the bare matrix products of one forward and of every target's "
            "way back through the tokens that it reaches."};
    ks_bench_input in = {.repeats = 10,
                         .dir = ".",
                         .mib = 1024,
                         .rows = 8000,
                         .width = 576,
                         .data_layers = 31,
                         .folds = 5,
                         .epochs = 30};
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "bench", argc, argv, &in);
    if (code == KS_EXIT_USAGE || !in.what) return code;
    ks_err err = {0};
    if (in.common.quiet) ks_log_level_set(KS_LOG_QUIET);
    ks_cli_catch_signals();
    return run(&in, &err) == KS_OK ? KS_EXIT_DONE
                                   : ks_cli_failed("bench", &err);
}
