/* cmd_label_compare.c - keystep label --compare: how far two label files
 * agree. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../../probes/agree.h"
#include "cli.h"
#include "label.h"

enum { KEY_PAIRS = KS_KEY_OWN, KEY_BOOTSTRAP };

typedef struct input {
    ks_cli_common common;
    const char *file[2];
    int n_files;
    ks_agree_options options;
} input;

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    switch (key) {
    case KEY_PAIRS:
        in->options.pairs = arg;
        return 0;
    case KEY_BOOTSTRAP:
        in->options.replicates =
            (int32_t)ks_cli_whole(arg, 100, 1000000, "bootstrap", state);
        return 0;
    case ARGP_KEY_ARG:
        if (in->n_files == 2) argp_error(state, "too many arguments: %s", arg);
        in->file[in->n_files++] = arg;
        return 0;
    case ARGP_KEY_END:
        if (in->n_files < 2) argp_error(state, "two label files are expected");
        return 0;
    default:
        return ks_cli_common_key(&in->common, key, arg, state);
    }
}

static ks_status run(const input *in, ks_err *err) {
    ks_status st = KS_OK;
    ks_chains chains = {0};
    ks_agree_options options = in->options;
    options.seed = in->common.seed;
    if (in->common.chains) {
        KS_TRY(ks_chains_read(&chains, in->common.chains, KS_KEEP_FIELDS, err));
        options.chains = &chains;
    }
    KS_TRY(ks_agree_print(in->file[0], in->file[1], &options, in->common.json,
                          stdout, err));
    KS_CHECK(fflush(stdout) == 0, KS_IO, "standard output: cannot write: %s",
             strerror(errno));
done:
    ks_chains_free(&chains);
    return st;
}

int ks_cli_label_compare(int argc, char **argv) {
    static const struct argp_option options[] = {
        {"pairs", KEY_PAIRS, "a=b,...", 0,
         "also compare score a of the first with b of the second file", 0},
        {"chains", KS_KEY_CHAINS, "FILE", 0,
         "chains that say their problems (default: ids up to the last '/')", 0},
        {"bootstrap", KEY_BOOTSTRAP, "N", 0,
         "draws of the intervals (default: 2000)", 0},
        KS_CLI_SEED,
        KS_CLI_JSON,
        {0}};
    static const struct argp argp = {
        options,
        parse,
        "A.jsonl B.jsonl",
        "How far two label files agree on the chains that both have: labels "
        "by a table and Cohen's kappa, scores of one name by rank "
        "correlations, within chains and over all steps, with 95% intervals "
        "over problems.",
        NULL,
        NULL,
        NULL};
    input in = {0};
    ks_err err = {0};
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "label --compare", argc, argv, &in);
    if (code != KS_EXIT_DONE) return code;
    if (run(&in, &err) != KS_OK) code = ks_cli_failed("label --compare", &err);
    return code;
}
