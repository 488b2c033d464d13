/* cmd_join.c - keystep join: the outputs of --shard K/N as one file. */
#include <stdlib.h>
#include <string.h>

#include "../join.h"
#include "cli.h"

enum { KEY_SHARDS = KS_KEY_OWN, KEY_COPY, KEY_REMOVE };

typedef struct input {
    ks_cli_common common;
    ks_join_options options;
    ks_progress *progress;
} input;

static const struct argp_option option_list[] = {
    {"out", KS_KEY_OUT, "FILE", 0,
     "as --out (--clean, --prefixes, --skipped) was given to the shards; they "
     "lie beside it as FILE with .K-of-N ahead of its extension",
     0},
    {"shards", KEY_SHARDS, "N", 0, "how many there are", 0},
    {"copy", KEY_COPY, NULL, 0,
     "activations: copy the rows, in place of a small file that reads them "
     "from the shards",
     0},
    {"remove", KEY_REMOVE, NULL, 0,
     "remove the shards once FILE is on disk; of activations with --copy", 0},
    {"force", KS_KEY_FORCE, NULL, 0,
     "overwrite an existing FILE, and join shards that differ in backend, "
     "instruction set or program version",
     0},
    KS_CLI_JSON,
    KS_CLI_QUIET,
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    ks_join_options *o = &in->options;
    switch (key) {
    case KEY_SHARDS:
        o->shards =
            (int32_t)ks_cli_whole(arg, 1, KS_MOST_SHARDS, "shards", state);
        return 0;
    case KEY_COPY:
        o->copy = true;
        return 0;
    case KEY_REMOVE:
        o->remove = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "too many arguments: %s", arg);
        return 0;
    case ARGP_KEY_END:
        if (!in->common.out) argp_error(state, "--out is missing");
        if (!o->shards) argp_error(state, "--shards is missing");
        if (in->common.out && strcmp(in->common.out, "-") == 0)
            argp_error(state, "--out takes a file: shards are found by it");
        return 0;
    default:
        return ks_cli_common_key(&in->common, key, arg, state);
    }
}

/* Less than that takes no time. */
enum { SHOWN_FROM = 64 << 20 };

static void show(void *user, uint64_t done, uint64_t all) {
    input *in = user;
    if (!in->progress && all >= SHOWN_FROM)
        in->progress = ks_progress_open("join", "MiB", (double)all / (1 << 20));
    ks_progress_set(in->progress, (double)done / (1 << 20));
}

static void say(const input *in, const ks_join_sum *sum) {
    const ks_join_options *o = &in->options;
    if (in->common.json) {
        ks_cli_print_json(json_pack(
            "{s:s,s:i,s:s,s:b,s:I,s:I,s:I,s:I}", "out", o->out, "shards",
            o->shards, "kind", sum->acts ? "activations" : "lines", "virtual",
            (int)(sum->acts && !sum->copied), "chains", (json_int_t)sum->chains,
            "steps", (json_int_t)sum->steps, "lines", (json_int_t)sum->lines,
            "bytes", (json_int_t)sum->bytes));
        return;
    }
    if (sum->acts)
        printf("%s: %lld steps of %lld chains, %s %d shards\n", o->out,
               (long long)sum->steps, (long long)sum->chains,
               sum->copied ? "copied from" : "read from", o->shards);
    else
        printf("%s: %lld lines of %d shards\n", o->out, (long long)sum->lines,
               o->shards);
}

int ks_cmd_join(int argc, char **argv) {
    static const struct argp argp = {
        .options = option_list,
        .parser = parse,
        .args_doc = "--out FILE --shards N",
        .doc =
            "Joins what generate, label, capture or score wrote with --shard "
            "1/N to N/N: activations (HDF5) into a file of virtual data sets "
            "over the shards, which must stay beside it, or with --copy into "
            "one of its own; JSON Lines one behind another. Copied or JSON "
            "Lines, the file is byte for byte what one process without --shard "
            "writes.\v"
            "A shard that is missing, unfinished, damaged or of another run is "
            "refused by name. Each output is joined by itself: of label's "
            "both --out and --clean."};
    input in = {0};
    ks_err err = {0};
    ks_join_sum sum;
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "join", argc, argv, &in);
    if (code != KS_EXIT_DONE) return code;
    in.options.out = in.common.out;
    in.options.force = in.common.force;
    ks_status st = ks_join(&in.options, show, &in, &sum, &err);
    ks_progress_close(&in.progress);
    if (st != KS_OK) return ks_cli_failed("join", &err);
    say(&in, &sum);
    return KS_EXIT_DONE;
}
