/* cmd_export.c - keystep export: probes for other programs. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "../../probes/folded.h"
#include "cli.h"

enum { KEY_FORMAT = KS_KEY_OWN, KEY_STREAM, KEY_POSITION, KEY_LAYER, KEY_FOLD };

typedef ks_status (*write_fn)(const ks_folded *folded, const char *path,
                              bool force, ks_err *err);

typedef struct input {
    ks_cli_common common;
    const char *probes, *format;
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
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    switch (key) {
    case KEY_FORMAT:
        in->format = arg;
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

static json_t *said(const input *in, const ks_folded *f) {
    json_t *layers = json_array();
    for (int32_t l = 0; l < f->n_layers; l++)
        json_array_append_new(layers, json_integer(f->layer[l]));
    return json_pack("{s:s,s:s,s:s,s:o,s:i,s:i,s:s}", "out", in->common.out,
                     "stream", ks_stream_name(f->stream), "position",
                     ks_position_name(f->position), "layers", layers,
                     "features", (int)f->d, "fits", (int)f->n_fits, "fold",
                     f->each_fit ? "all" : "mean");
}

static ks_status run(input *in, ks_err *err) {
    ks_status st = KS_OK;
    char *path = NULL;
    ks_folded folded = {0};
    struct stat what;
    bool folder = stat(in->probes, &what) == 0 && S_ISDIR(what.st_mode);
    if (folder) KS_TRY(ks_path_join(&path, in->probes, "probes.h5", err));
    const char *probes = folder ? path : in->probes;
    const ks_use uses[] = {{"probes", probes, false},
                           {"--out", in->common.out, true}};
    KS_TRY(ks_refuse_overlap(uses, KS_COUNT(uses), err));
    KS_TRY(ks_refuse_existing(in->common.out, in->common.force, err));
    KS_TRY(choose_series(in, probes, err));
    KS_TRY(ks_folded_read(&folded, probes, &in->options, err));
    KS_TRY(in->write(&folded, in->common.out, in->common.force, err));
    if (in->common.json) {
        ks_cli_print_json(said(in, &folded));
    } else {
        char layer[32];
        snprintf(layer, sizeof layer,
                 folded.all_layers ? "%d layers" : "layer %d",
                 folded.all_layers ? folded.n_layers : folded.layer[0]);
        ks_log(KS_LOG_INFO, "%s: %s at %s, %s, %s %d fits, %d features",
               in->common.out, ks_stream_name(folded.stream),
               ks_position_name(folded.position), layer,
               folded.each_fit ? "each of" : "the mean of",
               folded.n_seeds * folded.n_folds, folded.d);
    }
done:
    ks_folded_free(&folded);
    free(path);
    return st;
}

int ks_cmd_export(int argc, char **argv) {
    static const struct argp argp = {
        option_list,
        parse,
        "RUN|probes.h5 --out FILE",
        "Writes linear probes for other programs, with standardisation folded "
        "in: score = activations . weight + bias, above 0 for an important "
        "step. RUN is a folder that keystep probe wrote.",
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
