/* cmd_export.c - keystep export: probes for other programs. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "../../probes/folded_net.h"
#include "cli.h"

enum {
    KEY_FORMAT = KS_KEY_OWN,
    KEY_PROBE,
    KEY_STREAM,
    KEY_POSITION,
    KEY_LAYER,
    KEY_FOLD
};

typedef ks_status (*write_fn)(const ks_folded *folded, const char *path,
                              bool force, ks_err *err);

typedef struct input {
    ks_cli_common common;
    const char *probes, *format, *kind; /* kind NULL: l2 */
    ks_folded_options options;
    int stream, position; /* -1: not said */
    write_fn write;
} input;

static const struct {
    const char *name;
    write_fn write;
} formats[] = {{"npz", ks_export_npz},
               {"safetensors", ks_export_safetensors},
               {"onnx", ks_export_onnx}};

/* ------------------------------------------------------------------ options */

static const struct argp_option option_list[] = {
    {"format", KEY_FORMAT, "NAME", 0,
     "npz, safetensors or onnx (default: as --out ends)", 0},
    {"probe", KEY_PROBE, "KIND", 0,
     "l2 (default), or a kind that --probes trained, as lw-mlp or mlp:256x2, "
     "which is written as ONNX",
     0},
    {"stream", KEY_STREAM, "NAME", 0,
     "resid, attn or mlp (default: the one that there is)", 0},
    {"position", KEY_POSITION, "NAME", 0,
     "mean, first, middle, last or before (default: the one that there is)", 0},
    {"layer", KEY_LAYER, "best|N|all", 0,
     "best: the layer that most folds chose (default)", 0},
    {"fold", KEY_FOLD, "mean|all", 0,
     "mean: one probe, the mean of those of all folds and seeds, whose score "
     "is "
     "the mean of theirs (default); all: each by itself",
     0},
    {"out", KS_KEY_OUT, "FILE", 0, "output", 0},
    KS_CLI_FORCE,
    KS_CLI_JSON,
    KS_CLI_QUIET,
    {0}};

static int name_at(const char *arg, const char *what, int n,
                   const char *(*name)(int), struct argp_state *state) {
    for (int i = 0; i < n; i++)
        if (strcmp(arg, name(i)) == 0) return i;
    argp_error(state, "--%s knows no '%s'", what, arg);
    return -1;
}

static const char *stream_at(int i) {
    return ks_stream_name((ks_stream)i);
}

static const char *position_at(int i) {
    return ks_position_name((ks_position)i);
}

static bool ends_in(const char *path, const char *name) {
    size_t n = strlen(path), m = strlen(name);
    return n > m + 1 && path[n - m - 1] == '.' &&
           strcmp(path + n - m, name) == 0;
}

static void check(input *in, struct argp_state *state) {
    const char *out = in->common.out;
    if (!in->probes)
        argp_error(state, "a folder of keystep probe or its "
                          "probes.h5 is missing");
    if (!out) argp_error(state, "--out is missing");
    for (size_t i = 0; i < KS_COUNT(formats); i++)
        if (in->format ? strcmp(in->format, formats[i].name) == 0
                       : out && ends_in(out, formats[i].name))
            in->write = formats[i].write;
    if (!in->write)
        argp_error(state, "--format is npz, safetensors or onnx%s%s%s",
                   in->format ? ", got '" : ", or what --out ends in",
                   in->format ? in->format : "", in->format ? "'" : "");
    if (in->kind && in->write != ks_export_onnx)
        argp_error(state, "--probe %s is written as ONNX alone", in->kind);
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    switch (key) {
    case KEY_FORMAT:
        in->format = arg;
        return 0;
    case KEY_PROBE:
        in->kind = strcmp(arg, "l2") == 0 ? NULL : arg;
        return 0;
    case KEY_STREAM:
        in->stream = name_at(arg, "stream", KS_N_STREAMS, stream_at, state);
        return 0;
    case KEY_POSITION:
        in->position = name_at(arg, "position", KS_TOKENS, position_at, state);
        return 0;
    case KEY_LAYER:
        in->options.layer =
            strcmp(arg, "best") == 0 ? KS_LAYER_BEST
            : strcmp(arg, "all") == 0
                ? KS_LAYERS_ALL
                : (int32_t)ks_cli_whole(arg, 0, 65535, "layer", state);
        return 0;
    case KEY_FOLD:
        in->options.each_fit = strcmp(arg, "all") == 0;
        if (!in->options.each_fit && strcmp(arg, "mean") != 0)
            argp_error(state, "--fold is mean or all, got '%s'", arg);
        return 0;
    case ARGP_KEY_ARG:
        if (in->probes) argp_error(state, "too many arguments: %s", arg);
        in->probes = arg;
        return 0;
    case ARGP_KEY_END:
        check(in, state);
        return 0;
    default:
        return ks_cli_common_key(&in->common, key, arg, state);
    }
}

/* ---------------------------------------------------------------------- run */

/* The series that was asked for, or the only one that fits. */
static ks_status choose_series(input *in, const char *path, ks_err *err) {
    ks_status st = KS_OK;
    ks_probes_info info = {0};
    int fitting = 0;
    ks_str there = {0};
    KS_TRY(ks_probes_read(&info, path, err));
    for (int k = 0; k < info.n_series; k++) {
        const ks_probes_series *s = &info.series[k];
        KS_TRY(ks_str_printf(&there, err, "%s%s at %s", k ? ", " : "",
                             ks_stream_name(s->stream),
                             ks_position_name(s->position)));
        if ((in->stream >= 0 && (int)s->stream != in->stream) ||
            (in->position >= 0 && (int)s->position != in->position))
            continue;
        in->options.stream = s->stream;
        in->options.position = s->position;
        fitting++;
    }
    KS_CHECK(fitting == 1, KS_USAGE,
             "%s: has probes of %s; --stream and --position leave %d of them, "
             "expected one",
             path, there.data, fitting);
done:
    ks_str_free(&there);
    ks_probes_free(&info);
    return st;
}

/* What was written, for people and for programs. */
typedef struct said {
    const char *probe;
    const int32_t *layer; /* [n_layers] */
    int32_t n_layers, columns;
    int64_t features;
} said;

static void say(const input *in, const said *s, int32_t fits) {
    bool each = in->options.each_fit;
    const char *stream = ks_stream_name(in->options.stream),
               *position = ks_position_name(in->options.position);
    if (in->common.json) {
        json_t *layers = json_array();
        for (int32_t l = 0; l < s->n_layers; l++)
            json_array_append_new(layers, json_integer(s->layer[l]));
        ks_cli_print_json(json_pack(
            "{s:s,s:s,s:s,s:s,s:o,s:I,s:i,s:s}", "out", in->common.out, "probe",
            s->probe, "stream", stream, "position", position, "layers", layers,
            "features", (json_int_t)s->features, "fits", (int)s->columns,
            "fold", each ? "all" : "mean"));
        return;
    }
    char layer[32];
    snprintf(layer, sizeof layer, s->n_layers > 1 ? "%d layers" : "layer %d",
             s->n_layers > 1 ? s->n_layers : s->layer[0]);
    ks_log(KS_LOG_INFO, "%s: %s of %s at %s, %s, %s %d fits, %lld features",
           in->common.out, s->probe, stream, position, layer,
           each ? "each of" : "the mean of", fits, (long long)s->features);
}

static ks_status write_l2(const input *in, const char *probes, ks_err *err) {
    ks_status st = KS_OK;
    ks_folded f = {0};
    KS_TRY(ks_folded_read(&f, probes, &in->options, err));
    KS_TRY(in->write(&f, in->common.out, in->common.force, err));
    const said what = {"l2", f.layer, f.n_layers, f.n_fits, f.d};
    say(in, &what, f.n_seeds * f.n_folds);
done:
    ks_folded_free(&f);
    return st;
}

static ks_status write_net(const input *in, const char *probes, ks_err *err) {
    ks_status st = KS_OK;
    ks_folded_net f = {0};
    KS_TRY(ks_folded_net_read(&f, probes, in->kind, &in->options, err));
    KS_TRY(ks_export_onnx_net(&f, in->common.out, in->common.force, err));
    int32_t fits = f.n_seeds * f.n_folds;
    const said what = {f.recipe.name, f.layer, f.n_layers,
                       f.each_fit ? fits : 1, ks_folded_net_inputs(&f, 0)};
    say(in, &what, fits);
done:
    ks_folded_net_free(&f);
    return st;
}

static ks_status run(input *in, ks_err *err) {
    ks_status st = KS_OK;
    char *path = NULL;
    struct stat what;
    bool folder = stat(in->probes, &what) == 0 && S_ISDIR(what.st_mode);
    if (folder) KS_TRY(ks_path_join(&path, in->probes, "probes.h5", err));
    const char *probes = folder ? path : in->probes;
    const ks_use uses[] = {{"probes", probes, false},
                           {"--out", in->common.out, true}};
    KS_TRY(ks_refuse_overlap(uses, KS_COUNT(uses), err));
    KS_TRY(ks_refuse_existing(in->common.out, in->common.force, err));
    KS_TRY(choose_series(in, probes, err));
    KS_TRY((in->kind ? write_net : write_l2)(in, probes, err));
done:
    free(path);
    return st;
}

int ks_cmd_export(int argc, char **argv) {
    static const struct argp argp = {
        option_list,
        parse,
        "RUN|probes.h5 --out FILE",
        "Writes probes for other programs, with standardisation folded in: "
        "linear ones, score = activations . weight + bias, or with --probe "
        "networks; above 0 for an important step. RUN is a folder that "
        "keystep probe wrote.",
        NULL,
        NULL,
        NULL};
    input in = {
        .options = {.layer = KS_LAYER_BEST}, .stream = -1, .position = -1};
    ks_err err = {0};
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "export", argc, argv, &in);
    if (code == KS_EXIT_DONE && run(&in, &err) != KS_OK)
        code = ks_cli_failed("export", &err);
    return code;
}
