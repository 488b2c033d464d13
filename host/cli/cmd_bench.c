/* cmd_bench.c - keystep bench: measures this machine, one table a bench, and
 * holds it against an earlier one. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

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
    KEY_INPUT,
    KEY_AGAINST,
    KEY_FROM,
    KEY_MARGIN,
    KEY_RELATIVE,
    KEY_OTHER_MACHINE,
    KEY_N_CHAINS,
    KEY_OVER,
    KEY_PLOTS
};

static const struct argp_option option_list[] = {
    KS_CLI_THREADS,
    {"out", KS_KEY_OUT, "FILE", 0,
     "the table as CSV, a row a pair, with machine, clock, version and date; - "
     "is stdout, in place of the text",
     0},
    KS_CLI_FORCE,
    KS_CLI_JSON,
    {"pairs", KEY_PAIRS, "N", 0, "runs of each side in turn, default 10", 0},
    {"repeats", KEY_PAIRS, "N", OPTION_ALIAS, NULL, 0},
    {NULL, 0, NULL, 0, "beside an earlier table of the same bench:", 1},
    {"against", KEY_AGAINST, "FILE", 0,
     "its CSV: row by row the ratio of speeds with its 95% interval; exits "
     "with 1 where one is slower beyond noise and margin",
     1},
    {"margin", KEY_MARGIN, "X", 0,
     "share that may be lost without a word (default: 0.05)", 1},
    {"relative", KEY_RELATIVE, NULL, 0,
     "judge figures over what ran in turn beside them, not speeds: what the "
     "machine does otherwise today is taken out",
     1},
    {"other-machine", KEY_OTHER_MACHINE, NULL, 0,
     "compare where machine or backend are others", 1},
    {"from", KEY_FROM, "FILE", 0,
     "measure nothing: the table of an earlier run, its CSV", 1},
    {NULL, 0, NULL, 0, "gemm:", 2},
    {"shapes", KEY_SHAPES, "LIST", 0,
     "rows x outputs x inputs, e.g. 512x576x1536; default: SmolLM2-135M's", 2},
    {"types", KEY_TYPES, "LIST", 0,
     "of the weights, e.g. f32,q4_1; default: "
     "f32,bf16,q8_0,q4_1",
     2},
    {"isa", KEY_ISA, "NAME", 0, "instruction set: v2, avx2 or avx512", 2},
    {NULL, 0, NULL, 0, "capture, label and influence:", 3},
    {"model", KS_KEY_MODEL, "PATH", 0,
     "GGUF, safetensors or folder; default: the embedded one", 3},
    {"chains", KS_KEY_CHAINS, "FILE", 0,
     "chains, JSON Lines; default: some are made of the embedded model's "
     "problems",
     3},
    {"n-chains", KEY_N_CHAINS, "N", 0, "that are made", 3},
    {"batch-tokens", KS_KEY_BATCH_TOKENS, "N", 0,
     "most tokens of a packed batch", 3},
    {"samples", KS_KEY_SAMPLES, "K", 0,
     "label: behind every prefix; default: 5", 3},
    {"memory", KS_KEY_MEMORY, "BYTES", 0,
     "label, influence: it may take, e.g. 2G", 3},
    {"input", KEY_INPUT, "FILE", 0,
     "influence: a chain, JSON: \"ids\", its tokens, and \"bounds\", the "
     "token where each step begins and the last one's end; default: the first "
     "of the chains",
     3},
    {NULL, 0, NULL, 0, "io:", 4},
    {"size", KEY_SIZE, "MIB", 0, "of the file; default: 1024", 4},
    {NULL, 0, NULL, 0, "probe, stream, adamw:", 5},
    {"acts", KS_KEY_ACTS, "FILE", 0,
     "activations with labels; default: synthetic ones are made", 5},
    {"labels", KS_KEY_LABELS, "FILE", 0, "labels, if not the file's own", 5},
    {"positions", KS_KEY_POSITIONS, "LIST", 0,
     "probe: of the activations, one after another; default: their first, "
     "mean of synthetic ones",
     5},
    {"layers", KS_KEY_LAYERS, "LIST", 0, "of the activations; default: all", 5},
    {"rows", KEY_ROWS, "N", 0, "most steps; default: 8000", 5},
    {"folds", KEY_FOLDS, "N", 0, "problems in turn; default: 5", 5},
    {"width", KEY_WIDTH, "N", 0, "of synthetic ones; default: 576", 5},
    {"data-layers", KEY_DATA_LAYERS, "N", 0, "of synthetic ones; default: 31",
     5},
    {"seed", KS_KEY_SEED, "N", 0, "of synthetic ones, and of samples", 5},
    {"alone", KEY_ALONE, NULL, 0, "probe: without the bare calls", 5},
    {"hidden", KEY_HIDDEN, "N", 0,
     "adamw: units of a network over all layers; default: linear probes of "
     "each",
     5},
    {"epochs", KEY_EPOCHS, "N", 0, "adamw: of 30 that are run; default: 30", 5},
    {NULL, 0, NULL, 0, "scale:", 6},
    {"over", KEY_OVER, "NAME=LIST", 0,
     "what grows and its sizes, e.g. batch-tokens=256,512,1024: batch-tokens, "
     "chains, threads, processes (of capture), label-chains (of label), "
     "layers, d, rows (of probe)",
     6},
    {"plots", KEY_PLOTS, "FOLDER", 0, "pictures, SVG and PNG, by gnuplot", 6},
    {NULL, 0, NULL, 0, "several:", 7},
    {"backend", KS_KEY_BACKEND, "cpu|cuda", 0,
     "capture, label, probe, adamw, influence: default cpu", 7},
    {"dir", KEY_DIR, "FOLDER", 0,
     "where the files that are written and removed lie; default: here", 7},
    {"out-data", KEY_OUT_DATA, "FILE", 0,
     "keep the synthetic activations or chains, or the influence matrix, for "
     "peers to read",
     7},
    {"quiet", KS_KEY_QUIET, NULL, 0, "no words on stderr", 7},
    {0}};

static const ks_bench_kind kinds[] = {
    {"capture",
     ks_bench_capture,
     {"what", "model", "tokens", "threads"},
     {{"tokens_per_s", false, false}, {"products_share", false, true}}},
    {"probe",
     ks_bench_probe,
     {"layers", "positions", "rows", "width", "folds", "threads"},
     {{"seconds", true, false}, {"over_bare", true, true}}},
    {"label",
     ks_bench_label,
     {"what", "model", "chains", "steps", "samples", "threads"},
     {{"seconds", true, false}, {"share_of_parts", true, true}}},
    {"io",
     ks_bench_io,
     {"mib"},
     {{"keystep_mb_s", false, false}, {"ratio", false, true}}},
    {"gemm",
     ks_bench_gemm,
     {"m", "n", "k", "type", "isa", "threads"},
     {{"gflops", false, false}, {"ratio", false, true}}},
    {"stream",
     ks_bench_stream,
     {"rows", "width", "type", "columns", "threads"},
     {{"resident_mb_s", false, false},
      {"cold_mb_s", false, false},
      {"cached_mb_s", false, false},
      {"ratio", false, true},
      {"cached_ratio", false, true}}},
    {"adamw",
     ks_bench_adamw,
     {"hidden", "layers", "width", "train_rows", "eval_rows", "epochs",
      "threads"},
     {{"seconds", true, false}, {"over_bare", true, true}}},
    {"influence",
     ks_bench_influence,
     {"model", "tokens", "steps", "threads"},
     {{"seconds", true, false}, {"over_products", true, true}}},
    {"scale",
     ks_bench_scale,
     {"over", "at", "of"},
     {{"seconds", true, false}, {"over_first", true, true}}},
};

/* No bench, or (arg) none of that name. */
static void ask_for_kind(const char *arg, struct argp_state *state) {
    char all[256];
    size_t at = 0;
    for (size_t i = 0; i < KS_COUNT(kinds); i++)
        at += (size_t)snprintf(all + at, sizeof all - at, "%s%s", i ? ", " : "",
                               kinds[i].name);
    if (arg)
        argp_error(state, "no bench '%s'; there are %s", arg, all);
    else
        argp_error(state, "what to measure: %s", all);
}

static const ks_bench_kind *find(const char *name) {
    for (size_t i = 0; i < KS_COUNT(kinds); i++)
        if (strcmp(name, kinds[i].name) == 0) return &kinds[i];
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
    case KEY_N_CHAINS:
        *name = "n-chains", *high = 1 << 20;
        return &in->n_chains;
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
    case KEY_AGAINST:
        in->against = arg;
        return 0;
    case KEY_FROM:
        in->from = arg;
        return 0;
    case KEY_MARGIN:
        in->margin = ks_cli_real(arg, 0, 1, "margin", state);
        return 0;
    case KEY_RELATIVE:
        in->relative = true;
        return 0;
    case KEY_OTHER_MACHINE:
        in->other_machine = true;
        return 0;
    case KEY_OVER:
        in->over = arg;
        return 0;
    case KEY_PLOTS:
        in->plots = arg;
        return 0;
    case ARGP_KEY_ARG:
        if (in->what) argp_error(state, "one bench at a time: '%s'", arg);
        if (!find(arg)) ask_for_kind(arg, state);
        in->what = arg;
        return 0;
    case ARGP_KEY_NO_ARGS:
        ask_for_kind(NULL, state);
        return 0;
    case ARGP_KEY_END:
        if (in->what && strcmp(in->what, "scale") == 0 && !in->over &&
            !in->from)
            argp_error(state, "scale needs --over");
        return 0;
    default:
        return ks_cli_common_key(&in->common, key, arg, state);
    }
}

/* ------------------------------------------------------------------- output */

/* Behind a bench's own columns those of the machine; a column that both have is
 * the bench's. */
static ks_status add_machine(const ks_bench *b, const json_t *machine,
                             ks_err *err) {
    ks_status st = KS_OK;
    const char *key;
    json_t *value;
    for (size_t i = 0; i < json_array_size(b->rows); i++)
        json_object_foreach((json_t *)(uintptr_t)machine, key, value) {
            json_t *row = json_array_get(b->rows, i);
            if (json_object_get(row, key)) continue;
            KS_CHECK(!json_object_set(row, key, value), KS_NOMEM,
                     "no memory for the table");
        }
done:
    return st;
}

static ks_status write_csv(const ks_bench *b, ks_err *err) {
    ks_status st = KS_OK;
    ks_str csv = {0};
    KS_TRY(ks_bench_to_csv(b->rows, &csv, err));
    KS_TRY(ks_write_out(b->in->common.out, csv.data, csv.length,
                        b->in->common.force, err));
done:
    ks_str_free(&csv);
    return st;
}

/* A line a figure. */
static ks_status print_verdict(const ks_bench_verdict *v, ks_str *text,
                               ks_err *err) {
    ks_status st = KS_OK;
    json_t *rows = json_array(), *row;
    for (size_t i = 0; i < json_array_size(v->rows); i++) {
        const json_t *of = json_array_get(v->rows, i);
        json_t *low = json_object_get(of, "low"), *pairs;
        pairs = json_sprintf(
            "%d, %d",
            (int)json_integer_value(json_object_get(of, "pairs_before")),
            (int)json_integer_value(json_object_get(of, "pairs_now")));
        row = json_pack(
            "{s:O,s:O,s:O,s:o,s:o}", "verdict", json_object_get(of, "verdict"),
            "row", json_object_get(of, "row"), "figure",
            json_object_get(of, "figure"), "pairs", pairs, "speed",
            json_sprintf(json_is_real(low) ? "%.3f [%.3f, %.3f]" : "%.3f",
                         json_number_value(json_object_get(of, "speed")),
                         json_number_value(low),
                         json_number_value(json_object_get(of, "high"))));
        KS_CHECK(row && !json_array_append_new(rows, row), KS_NOMEM,
                 "no memory for the table");
    }
    KS_TRY(ks_bench_to_text(rows, NULL, text, err));
done:
    json_decref(rows);
    return st;
}

static ks_status print_text(const ks_bench *b, const json_t *machine,
                            const ks_bench_verdict *v, ks_err *err) {
    ks_status st = KS_OK;
    ks_str text = {0};
    KS_TRY(ks_bench_to_text(b->rows, machine, &text, err));
    for (size_t i = 0; i < json_array_size(b->fits); i++)
        KS_TRY(ks_str_printf(&text, err, "\n%s\n",
                             json_string_value(json_object_get(
                                 json_array_get(b->fits, i), "sentence"))));
    if (v->rows) {
        KS_TRY(ks_str_printf(&text, err,
                             "\nSpeed over %s's, geometric means over pairs "
                             "[95%% interval by Welch]:\n\n",
                             b->in->against));
        KS_TRY(print_verdict(v, &text, err));
        if (v->missing || v->added)
            KS_TRY(ks_str_printf(&text, err,
                                 "%d figures are there alone, %d here alone.\n",
                                 v->missing, v->added));
    }
    fputs(text.data, stdout);
done:
    ks_str_free(&text);
    return st;
}

static ks_status print_json(const ks_bench *b, const ks_bench_verdict *v,
                            ks_err *err) {
    ks_status st = KS_OK;
    json_t *all = b->rows;
    json_incref(all);
    if (v->rows || json_array_size(b->fits)) {
        json_decref(all);
        all = json_pack("{s:O,s:O}", "rows", b->rows, "fits", b->fits);
        KS_CHECK(all, KS_NOMEM, "no memory for JSON");
    }
    if (v->rows)
        json_object_set_new(all, "against",
                            json_pack("{s:s,s:O,s:i,s:i,s:i}", "file",
                                      b->in->against, "rows", v->rows, "slower",
                                      v->n_slower, "there_alone", v->missing,
                                      "here_alone", v->added));
    json_dumpf(all, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    putchar('\n'); /* main looks whether all was written */
done:
    json_decref(all);
    return st;
}

/* ------------------------------------------------------------------ command */

/* The machine's columns as an earlier table has them in its first row. */
static json_t *machine_of(const json_t *rows, const json_t *like) {
    json_t *out = json_object(), *value;
    const char *key;
    json_object_foreach((json_t *)(uintptr_t)like, key, value) {
        json_t *there = json_object_get(json_array_get(rows, 0), key);
        if (there) json_object_set(out, key, there);
    }
    return out;
}

/* As the CSV has them: strings. */
static ks_status as_read(const json_t *rows, json_t **out, ks_err *err) {
    ks_status st = KS_OK;
    const char *key;
    json_t *value, *list = json_array(), *row;
    ks_str cell = {0};
    for (size_t i = 0; i < json_array_size(rows); i++) {
        row = json_object();
        json_array_append_new(list, row);
        json_object_foreach(json_array_get(rows, i), key, value) {
            cell.length = 0;
            KS_TRY(ks_bench_cell(value, &cell, err));
            if (cell.length)
                json_object_set_new(row, key, json_string(cell.data));
        }
    }
    *out = list;
    list = NULL;
done:
    json_decref(list);
    ks_str_free(&cell);
    return st;
}

/* Measures, or reads what was measured. *machine: where; may be replaced. */
static ks_status fill(ks_bench *b, const ks_bench_kind *kind,
                      const json_t *earlier, json_t **machine, ks_err *err) {
    ks_status st = KS_OK;
    const ks_bench_input *in = b->in;
    if (in->from) {
        json_decref(b->rows);
        b->rows = NULL;
        KS_TRY(ks_bench_csv_read(in->from, &b->rows, err));
        KS_TRY(
            ks_bench_check_earlier(kind, in->from, b->rows, NULL, true, err));
        json_t *there = machine_of(b->rows, *machine);
        json_decref(*machine);
        *machine = there;
    }
    if (earlier)
        KS_TRY(ks_bench_check_earlier(kind, in->against, earlier, *machine,
                                      in->other_machine, err));
    if (in->from) goto done;
    KS_TRY(kind->run(b, err));
    KS_CHECK(json_array_size(b->rows) > 0, KS_USAGE, "nothing was measured");
    /* again: the clock is that of a machine that has worked */
    json_decref(*machine);
    *machine = NULL;
    KS_TRY(ks_bench_machine(machine, &in->common, err));
    KS_TRY(add_machine(b, *machine, err));
done:
    return st;
}

static ks_status hold_against(const ks_bench *b, const ks_bench_kind *kind,
                              const json_t *earlier, ks_bench_verdict *v,
                              ks_err *err) {
    ks_status st = KS_OK;
    json_t *later = NULL;
    if (!earlier) return KS_OK;
    KS_TRY(as_read(b->rows, &later, err));
    KS_TRY(ks_bench_compare(kind, earlier, later, b->in->margin,
                            b->in->relative, v, err));
done:
    json_decref(later);
    return st;
}

static ks_status run(const ks_bench_input *in, ks_err *err) {
    ks_status st = KS_OK;
    ks_bench b = {.in = in, .rows = json_array(), .fits = json_array()};
    ks_bench_verdict verdict = {0};
    const ks_bench_kind *kind = find(in->what);
    json_t *machine = NULL, *earlier = NULL;
    const char *out = in->common.out;
    bool stdout_csv = out && strcmp(out, "-") == 0;
    if (out && !stdout_csv)
        KS_TRY(ks_refuse_existing(out, in->common.force, err));
    const ks_use uses[] = {{"--out", out, true},
                           {"--against", in->against, false},
                           {"--from", in->from, false}};
    KS_TRY(ks_refuse_overlap(uses, KS_COUNT(uses), err));
    KS_TRY(ks_bench_machine(&machine, &in->common, err));
    if (in->against) KS_TRY(ks_bench_csv_read(in->against, &earlier, err));
    KS_TRY(fill(&b, kind, earlier, &machine, err));
    if (out) KS_TRY(write_csv(&b, err));
    KS_TRY(hold_against(&b, kind, earlier, &verdict, err));
    if (in->common.json)
        KS_TRY(print_json(&b, &verdict, err));
    else if (!stdout_csv)
        KS_TRY(print_text(&b, machine, &verdict, err));
    KS_CHECK(verdict.n_slower == 0, KS_MISMATCH,
             "%d figure%s slower than in %s, by more than %g%% and the "
             "noise of both: %.700s%s",
             verdict.n_slower, verdict.n_slower == 1 ? " is" : "s are",
             in->against, 100 * in->margin, verdict.slower.data,
             verdict.n_slower > 6 ? "; and others" : "");
done:
    ks_bench_verdict_free(&verdict);
    json_decref(machine);
    json_decref(earlier);
    json_decref(b.rows);
    json_decref(b.fits);
    return st;
}

static const char doc[] =
    "Measures this machine; what is compared runs in turn. Every bench works "
    "without an option: on the embedded model and synthetic data.\n\n"
    "capture: the model's matrix products alone, the forward alone, and the "
    "forward with capture into a real file, of resid at five positions and of "
    "everything: tokens/s, the products' share of the time, and what capture "
    "adds, with 95% intervals.\n\n"
    "probe: the grid of layers x strengths x folds beside what its Gram "
    "matrices, factorisations and passes cost as bare BLAS and LAPACK calls."
    "\n\n"
    "label: what labelling asks of a model, part by part on the same chains: "
    "samples behind every prefix, the answer's probability behind each, its "
    "loss without each step, the influence matrix: samples/s, tokens/s and "
    "seconds a chain.\n\n"
    "io: the activation writer alone beside dd with fdatasync of as many "
    "bytes.\n\n"
    "gemm: the forward's matrix product on stored weights beside the BLAS's "
    "sgemm on the same weights in f32: median and quartiles of GFLOP/s, and "
    "the median of the pairs' ratios.\n\n"
    "stream: passes over one layer that is read from a scratch file in --dir, "
    "beside the same ones with the rows in memory and beside the disk alone."
    "\n\n"
    "adamw: the published AdamW loop, linear probes of every layer and seed or "
    "networks over all layers, beside its matrix products and the traffic of "
    "weights and moments as bare calls.\n\n"
    "influence: the influence matrix of one chain by gradients beside the bare "
    "matrix products of one forward and of every target's way back through the "
    "tokens that it reaches.\n\n"
    "scale: one of these at several sizes, in turn; cost = a + b x with "
    "intervals, and whether it is straight.\v"
    "A figure is slower than in --against's table where the whole 95% interval "
    "of the ratio of speeds (geometric means over the pairs of either run, "
    "Welch's t on logarithms) lies below 1 - margin; one that had a value and "
    "has none now counts as slower. Exit codes: 0 none is, 1 some are, or the "
    "tables cannot be compared.";

int ks_cmd_bench(int argc, char **argv) {
    static const struct argp argp = {
        .options = option_list,
        .parser = parse,
        .args_doc = "capture|probe|label|io|gemm|stream|adamw|influence|scale",
        .doc = doc};
    ks_bench_input in = {.repeats = 10,
                         .dir = ".",
                         .mib = 1024,
                         .rows = 8000,
                         .width = 576,
                         .data_layers = 31,
                         .folds = 5,
                         .epochs = 30,
                         .margin = 0.05};
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "bench", argc, argv, &in);
    if (code == KS_EXIT_USAGE || !in.what) return code;
    ks_err err = {0};
    if (in.common.quiet) ks_log_level_set(KS_LOG_QUIET);
    ks_cli_catch_signals();
    return run(&in, &err) == KS_OK ? KS_EXIT_DONE
                                   : ks_cli_failed("bench", &err);
}
