/* cmd_split.c - keystep split: cuts the text of chains into steps. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../chains.h"
#include "cli.h"

static const struct argp_option option_list[] = {
    KS_CLI_CHAINS, KS_CLI_OUT, KS_CLI_FORCE, KS_CLI_QUIET, {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    ks_cli_common *c = state->input;
    if (key == ARGP_KEY_ARG) argp_error(state, "too many arguments: %s", arg);
    if (key == ARGP_KEY_END && !c->chains)
        argp_error(state, "--chains is missing");
    return ks_cli_common_key(c, key, arg, state);
}

static const struct argp argp = {
    .options = option_list,
    .parser = parse,
    .args_doc = "--chains FILE",
    .doc = "Cuts the text of chains into steps: after . ? ! before a space or "
           "newline, and at blank lines; pieces of fewer than 10 characters "
           "join the step before. Replaces \"steps\", keeps all other fields. "
           "--out defaults to standard output.",
};

static ks_status split_chain(ks_chain *chain, ks_spans *spans, ks_str *all,
                             ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_text_split(chain->text, chain->text_length, spans, err));
    KS_TRY(ks_chain_set_steps(chain, spans, err));
    KS_TRY(ks_jsonl_add(all, chain->object, err));
done:
    return st;
}

static ks_status run(const ks_cli_common *c, ks_err *err) {
    ks_status st = KS_OK;
    ks_chains chains = {0};
    ks_spans spans = {0};
    ks_str all = {0};
    size_t steps = 0;
    bool standard = !c->out || strcmp(c->out, "-") == 0;
    const ks_use uses[] = {{"--out", c->out, true},
                           {"--chains", c->chains, false}};
    KS_TRY(ks_refuse_overlap(uses, KS_COUNT(uses), err));
    if (!standard) KS_TRY(ks_refuse_existing(c->out, c->force, err));
    KS_TRY(ks_chains_read(&chains, c->chains, KS_KEEP_OBJECTS, err));
    KS_TRY(ks_str_add(&all, "", 0, err));
    for (size_t i = 0; i < chains.n; i++) {
        KS_TRY(split_chain(&chains.at[i], &spans, &all, err));
        steps += spans.n;
    }
    KS_TRY(ks_write_out(c->out, all.data, all.length, c->force, err));
    ks_log(KS_LOG_INFO, "%zu chains, %zu steps", chains.n, steps);
done:
    ks_str_free(&all);
    ks_spans_free(&spans);
    ks_chains_free(&chains);
    return st;
}

int ks_cmd_split(int argc, char **argv) {
    ks_cli_common common;
    ks_cli_common_init(&common);
    int code = ks_cli_parse(&argp, "split", argc, argv, &common);
    if (code != KS_EXIT_DONE) return code;
    ks_err err = {0};
    return run(&common, &err) == KS_OK ? code : ks_cli_failed("split", &err);
}
