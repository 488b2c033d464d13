/* cmd_import_acts.c - keystep import acts: activations that other programs
 * made become an activation file. */
#include <stdlib.h>
#include <string.h>

#include "../import_acts.h"
#include "../model.h"
#include "../prompt.h"
#include "cli.h"

enum {
    KEY_STEPS = KS_KEY_OWN,
    KEY_TOKENS,
    KEY_ORDER,
    KEY_FIRST,
    KEY_NUMBERS,
    KEY_OF,
    KEY_TENSOR,
    KEY_STREAM,
    KEY_NAME,
    KEY_HASH,
    KEY_TOKENIZER,
    KEY_BF16,
    KEY_NAN
};

typedef struct input {
    ks_cli_common common;
    ks_import_acts_options options;
    const char *tokenizer;
    bool numbered, dtyped;
    ks_progress *progress;
    ks_model *model;
    ks_tokenizer *opened;
} input;

/* ------------------------------------------------------------------ options */

static const struct argp_option option_list[] = {
    {"chains", KS_KEY_CHAINS, "FILE", 0,
     "whose steps the activations are of, JSON Lines", 0},
    {"out", KS_KEY_OUT, "FILE", 0, "activations, HDF5", 0},
    {"steps", KEY_STEPS, "POSITION=FILE", 0,
     "vectors a step, rows in the order of the chains' steps, of position "
     "mean, first, middle, last or before; may be repeated",
     0},
    {"tokens", KEY_TOKENS, "FOLDER|INDEX", 0,
     "vectors a token: a folder with a file a chain, named by its id, or JSON "
     "Lines of {\"chain\",\"file\"} (named .jsonl)",
     0},
    {"positions", KS_KEY_POSITIONS, "LIST", 0,
     "of mean, first, middle, last, before: what token vectors are pooled to "
     "(default: mean)",
     0},
    {"order", KEY_ORDER, "LIST", 0,
     "what the arrays' dimensions are, outermost first: layers,steps,d or "
     "steps,layers,d or steps,d and so on; tokens in place of steps",
     0},
    {"first-layer", KEY_FIRST, "N", 0,
     "number of the arrays' first layer, the next ones count up: 0 for the "
     "embedding's output, l for the residual stream after block l",
     0},
    {"layer-numbers", KEY_NUMBERS, "LIST", 0,
     "numbers of the arrays' layers in their order, e.g. 2,18,33,36", 0},
    {"n-layers", KEY_OF, "L", 0,
     "blocks of the model (default: the model's, or as many as the highest "
     "number tells of)",
     0},
    {"tensor", KEY_TENSOR, "NAME", 0,
     "of a safetensors file (default: its only one), or data set of HDF5", 0},
    {"stream", KEY_STREAM, "NAME", 0, "resid (default), attn or mlp", 0},
    {"model", KS_KEY_MODEL, "PATH", 0,
     "the model that they are of: its name, hash, number of layers and "
     "tokenizer",
     0},
    {"model-name", KEY_NAME, "NAME", 0, "its name, without --model", 0},
    {"model-sha256", KEY_HASH, "HEX", 0,
     "its hash, without --model (default: one of the name)", 0},
    {"tokenizer", KEY_TOKENIZER, "PATH", 0,
     "tells the steps' tokens by token_ids in the files, without --model; "
     "else the chains' steps have token_begin and token_end",
     0},
    {"bf16", KEY_BF16, NULL, 0,
     "16-bit words of .npy files are the upper halves of f32", 0},
    {"nan-missing", KEY_NAN, NULL, 0,
     "a step whose vector is all NaN has no activation; else NaN is an error",
     0},
    {"dtype", KS_KEY_DTYPE, "TYPE", 0,
     "storage: bf16, f16, f32 (default: as the arrays are; f64 as f32)", 0},
    KS_CLI_FORCE,
    KS_CLI_JSON,
    KS_CLI_QUIET,
    {0}};

static void read_steps(input *in, const char *text, struct argp_state *state) {
    const char *equals = strchr(text, '=');
    for (int p = 0; equals && equals[1] && p < KS_TOKENS; p++) {
        const char *name = ks_position_name((ks_position)p);
        if (strlen(name) != (size_t)(equals - text) ||
            memcmp(text, name, strlen(name)) != 0)
            continue;
        if (in->options.steps[p])
            argp_error(state, "--steps: position %s is given twice", name);
        in->options.steps[p] = equals + 1;
        return;
    }
    argp_error(state,
               "--steps takes POSITION=FILE, of mean, first, middle, last or "
               "before, got '%s'",
               text);
}

/* layers,steps,d: each at most once, rows and d needed. */
static void read_order(input *in, const char *text, struct argp_state *state) {
    ks_import_acts_options *o = &in->options;
    bool seen[3] = {false};
    o->n_dims = 0;
    for (const char *at = text; at;) {
        size_t n = strcspn(at, ",");
        int dim = n == 6 && memcmp(at, "layers", n) == 0   ? KS_DIM_LAYERS
                  : n == 5 && memcmp(at, "steps", n) == 0  ? KS_DIM_ROWS
                  : n == 6 && memcmp(at, "tokens", n) == 0 ? KS_DIM_ROWS
                  : n == 1 && *at == 'd'                   ? KS_DIM_FEATURES
                                                           : -1;
        if (dim < 0 || seen[dim]) {
            argp_error(state,
                       "--order takes layers, steps (or tokens) and d once "
                       "each, such as layers,steps,d, got '%s'",
                       text);
            return;
        }
        seen[dim] = true;
        o->order[o->n_dims++] = (ks_dim)dim;
        at = at[n] ? at + n + 1 : NULL;
    }
    if (!seen[KS_DIM_ROWS] || !seen[KS_DIM_FEATURES])
        argp_error(state, "--order %s lacks steps (or tokens) or d", text);
}

static void read_numbers(input *in, const char *text,
                         struct argp_state *state) {
    ks_import_acts_options *o = &in->options;
    for (const char *at = text; at;) {
        char *end;
        long value = strtol(at, &end, 10);
        if (end == at || (*end && *end != ',') || value < 0 || value > 65535 ||
            o->n_layers == KS_MAX_IMPORT_LAYERS) {
            argp_error(state,
                       "--layer-numbers takes up to %d numbers such as "
                       "2,18,33, got '%s'",
                       KS_MAX_IMPORT_LAYERS, text);
            return;
        }
        o->layer_list[o->n_layers++] = (int32_t)value;
        at = *end ? end + 1 : NULL;
    }
}

static void read_hash(input *in, const char *text, struct argp_state *state) {
    if (strlen(text) != 64 || strspn(text, "0123456789abcdef") != 64)
        argp_error(state,
                   "--model-sha256 takes 64 hexadecimal digits, got "
                   "'%s'",
                   text);
    in->options.model_sha256 = text;
}

static ks_stream stream_of(const char *text, struct argp_state *state) {
    for (int s = 0; s < KS_N_STREAMS; s++)
        if (strcmp(text, ks_stream_name((ks_stream)s)) == 0)
            return (ks_stream)s;
    argp_error(state, "--stream is resid, attn or mlp, got '%s'", text);
    return KS_RESID;
}

static void check(input *in, struct argp_state *state) {
    ks_cli_common *c = &in->common;
    ks_import_acts_options *o = &in->options;
    bool steps = false;
    for (int p = 0; p < KS_TOKENS; p++) steps |= o->steps[p] != NULL;
    const char *missing = !c->chains             ? "--chains"
                          : !c->out              ? "--out"
                          : !steps && !o->tokens ? "--steps or --tokens"
                          : !o->n_dims           ? "--order"
                          : !in->numbered        ? "--first-layer or "
                                                   "--layer-numbers"
                          : !c->model && !o->model_name
                              ? "--model or --model-name"
                              : NULL;
    if (missing) argp_error(state, "%s is missing", missing);
    if (steps && o->tokens)
        argp_error(state, "--steps and --tokens are two ways; give one");
    if (steps && c->positions)
        argp_error(state, "--positions is for --tokens; --steps names its own");
    if (c->positions & 1u << KS_TOKENS)
        argp_error(state, "--positions are of mean, first, middle, last, "
                          "before");
    if (c->model && (o->model_name || o->model_sha256 || in->tokenizer))
        argp_error(state, "--model brings name, hash and tokenizer along; "
                          "--model-name, --model-sha256 and --tokenizer are "
                          "for those without");
    o->chains = c->chains;
    o->out = c->out;
    o->force = c->force;
    o->positions = c->positions ? c->positions : 1u << KS_MEAN;
    o->has_dtype = in->dtyped;
    o->dtype = c->dtype;
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    ks_import_acts_options *o = &in->options;
    switch (key) {
    case KEY_STEPS:
        read_steps(in, arg, state);
        return 0;
    case KEY_TOKENS:
        o->tokens = arg;
        return 0;
    case KEY_ORDER:
        read_order(in, arg, state);
        return 0;
    case KEY_FIRST:
    case KEY_NUMBERS:
        if (in->numbered)
            argp_error(state, "--first-layer and --layer-numbers are two ways; "
                              "give one, once");
        in->numbered = true;
        if (key == KEY_FIRST)
            o->first_layer =
                (int32_t)ks_cli_whole(arg, 0, 65535, "first-layer", state);
        else
            read_numbers(in, arg, state);
        return 0;
    case KEY_OF:
        o->of_layers = (int32_t)ks_cli_whole(arg, 1, 65535, "n-layers", state);
        return 0;
    case KEY_TENSOR:
        o->tensor = arg;
        return 0;
    case KEY_STREAM:
        o->stream = stream_of(arg, state);
        return 0;
    case KEY_NAME:
        if (!*arg || ks_utf8_check(arg, strlen(arg)) != strlen(arg))
            argp_error(state, "--model-name takes a name in UTF-8");
        o->model_name = arg;
        return 0;
    case KEY_HASH:
        read_hash(in, arg, state);
        return 0;
    case KEY_TOKENIZER:
        in->tokenizer = arg;
        return 0;
    case KEY_BF16:
        o->bf16 = true;
        return 0;
    case KEY_NAN:
        o->nan_missing = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "too many arguments: %s", arg);
        return 0;
    case ARGP_KEY_END:
        check(in, state);
        return 0;
    default:
        if (key == KS_KEY_DTYPE) in->dtyped = true;
        return ks_cli_common_key(&in->common, key, arg, state);
    }
}

/* ---------------------------------------------------------------------- run */

static void show(void *user, int64_t steps, int64_t of) {
    input *in = user;
    if (!in->progress)
        in->progress = ks_progress_open("import", "step", (double)of);
    if (in->progress) ks_progress_set(in->progress, (double)steps);
}

/* Of --model: what it is, and its tokenizer where token ids tell the spans. */
static ks_status open_model(input *in, ks_err *err) {
    ks_status st = KS_OK;
    ks_import_acts_options *o = &in->options;
    char *home = NULL;
    if (in->common.model) {
        KS_TRY(ks_model_open(&in->model, in->common.model, err));
        KS_TRY(ks_model_hash(in->model, err));
        o->model_name = in->model->name;
        o->model_sha256 = in->model->sha256;
        o->d = in->model->config.d_model;
        KS_CHECK(!o->of_layers || o->of_layers == in->model->config.n_layers,
                 KS_USAGE, "--n-layers is %d, the model has %d", o->of_layers,
                 in->model->config.n_layers);
        o->of_layers = in->model->config.n_layers;
        KS_TRY(ks_model_home(&home, in->common.model, err));
        in->tokenizer = home;
    }
    if (in->tokenizer && o->tokens) {
        KS_TRY(ks_tokenizer_open(&in->opened, in->tokenizer, err));
        o->tokenizer = in->opened;
    }
done:
    if (home) in->tokenizer = NULL;
    free(home);
    return st;
}

static void say(const input *in, const ks_import_acts_report *r) {
    if (in->common.json) {
        ks_cli_print_json(
            json_pack("{s:s,s:I,s:I,s:I,s:i,s:i,s:s}", "out", in->common.out,
                      "chains", (json_int_t)r->chains, "steps",
                      (json_int_t)r->steps, "without_activation",
                      (json_int_t)r->missing, "layers", (int)r->n_layers,
                      "features", (int)r->d, "dtype", ks_type_name(r->dtype)));
        return;
    }
    ks_log(KS_LOG_INFO,
           "%s: %lld steps of %lld chains, %d layers of %d features, %s; %lld "
           "steps without an activation",
           in->common.out, (long long)r->steps, (long long)r->chains,
           r->n_layers, r->d, ks_type_name(r->dtype), (long long)r->missing);
}

static ks_status run(input *in, ks_err *err) {
    ks_status st = KS_OK;
    ks_import_acts_options *o = &in->options;
    ks_import_acts_report report;
    ks_use uses[KS_N_POSITIONS + 3] = {{"--out", o->out, true},
                                       {"--chains", o->chains, false},
                                       {"--tokens", o->tokens, false}};
    size_t n = 3;
    for (int p = 0; p < KS_TOKENS; p++)
        if (o->steps[p]) uses[n++] = (ks_use){"--steps", o->steps[p], false};
    KS_TRY(ks_refuse_overlap(uses, n, err));
    KS_TRY(ks_refuse_existing(o->out, o->force, err));
    KS_TRY(open_model(in, err));
    o->progress = show;
    o->user = in;
    st = ks_import_acts(o, &report, err);
    if (in->progress) ks_progress_close(&in->progress);
    KS_TRY(st);
    say(in, &report);
done:
    ks_tokenizer_close(&in->opened);
    ks_model_close(&in->model);
    return st;
}

int ks_cmd_import_acts(int argc, char **argv) {
    static const struct argp argp = {
        option_list,
        parse,
        "--chains FILE --out acts.h5 --steps POSITION=FILE|--tokens FOLDER "
        "--order LIST --first-layer N --model-name NAME",
        "Makes an activation file out of arrays that other programs wrote "
        "(.npy, .safetensors, HDF5), so that probe, transfer and report work "
        "without our own forward pass. Which dimension is what and which "
        "layers there are is said, not guessed.",
        NULL,
        NULL,
        NULL};
    input in = {0};
    ks_err err = {0};
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "import acts", argc, argv, &in);
    if (code == KS_EXIT_DONE && run(&in, &err) != KS_OK)
        code = ks_cli_failed("import acts", &err);
    return code;
}
