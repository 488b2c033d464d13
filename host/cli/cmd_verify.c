/* cmd_verify.c - keystep verify: is an activation file whole and unchanged. */
#include <stdlib.h>

#include "../acts.h"
#include "cli.h"

typedef struct input {
    ks_cli_common common;
    char **files;
    int n_files;
} input;

static const struct argp_option option_list[] = {
    KS_CLI_JSON, KS_CLI_QUIET, {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    switch (key) {
    case ARGP_KEY_ARGS:
        in->files = state->argv + state->next;
        in->n_files = state->argc - state->next;
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "a FILE is missing");
        return 0;
    default:
        return ks_cli_common_key(&in->common, key, arg, state);
    }
}

static void print_text(const char *path, const ks_acts_report *r) {
    printf("%s: whole; %lld rows%s, %lld steps without a token (%lld rows of "
           "NaN)",
           path, (long long)r->rows,
           r->has_checksums ? " match their checksums"
                            : " read, no checksums in the file",
           (long long)r->invalid, (long long)r->nan_rows);
    if (r->sources) printf(", %d shards", r->sources);
    putchar('\n');
}

static void print_json(const char *path, const ks_acts_report *r) {
    json_t *line =
        json_pack("{s:s,s:I,s:I,s:I,s:i,s:b}", "file", path, "rows",
                  (json_int_t)r->rows, "nan_rows", (json_int_t)r->nan_rows,
                  "invalid_steps", (json_int_t)r->invalid, "shards", r->sources,
                  "checksums", (int)r->has_checksums);
    json_dumpf(line, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(line);
}

int ks_cmd_verify(int argc, char **argv) {
    static const struct argp argp = {
        .options = option_list,
        .parser = parse,
        .args_doc = "FILE...",
        .doc = "Checks activation files: structure, the checksum of every row, "
               "NaN only where a step has no token, the shards behind virtual "
               "data sets."};
    input in = {0};
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "verify", argc, argv, &in);
    for (int i = 0; i < in.n_files && code != KS_EXIT_USAGE; i++) {
        ks_acts_report report;
        ks_err err = {0};
        if (ks_acts_verify(in.files[i], &report, &err) != KS_OK)
            code = ks_cli_failed("verify", &err);
        else if (in.common.json)
            print_json(in.files[i], &report);
        else
            print_text(in.files[i], &report);
    }
    return code;
}
