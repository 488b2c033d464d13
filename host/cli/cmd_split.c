/* cmd_split.c - keystep split: cuts the text of chains into steps. */
#include <stdlib.h>
#include <string.h>

#include "../chains.h"
#include "../prompt.h"
#include "cli.h"
#include "sections.h"

enum { KEY_TOKENIZER = KS_KEY_OWN };

typedef struct input {
    ks_cli_common common;
    const char *tokenizer;
} input;

const struct argp_option ks_cmd_split_options[] = {
    KS_CLI_CHAINS,
    KS_CLI_OUT,
    KS_CLI_FORCE,
    KS_CLI_MODEL,
    {"tokenizer", KEY_TOKENIZER, "PATH", 0,
     "tokenizer.json, a folder that has one, or a GGUF", 0},
    KS_CLI_QUIET,
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    if (key == KEY_TOKENIZER) {
        in->tokenizer = arg;
        return 0;
    }
    if (key == ARGP_KEY_ARG) argp_error(state, "too many arguments: %s", arg);
    if (key == ARGP_KEY_END && !in->common.chains)
        argp_error(state, "--chains is missing");
    return ks_cli_common_key(&in->common, key, arg, state);
}

static const struct argp argp = {
    .options = ks_cmd_split_options,
    .parser = parse,
    .args_doc = "--chains FILE",
    .doc = "Cuts the text of chains into steps: after . ? ! before a space or "
           "newline, and at blank lines; pieces of fewer than 10 characters "
           "join the step before. Replaces \"steps\", keeps all other fields. "
           "With --model or --tokenizer each step also has \"token_begin\" and "
           "\"token_end\", in one tokenisation of prompt and text. --out "
           "defaults to standard output.",
};

typedef struct splitting {
    ks_tokenizer *tokenizer; /* NULL: bytes alone */
    ks_spans spans;
    ks_span *tokens; /* [capacity] */
    size_t capacity;
    ks_str all;
    size_t steps, empty;
} splitting;

static ks_status split_chain(splitting *s, ks_chain *chain, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_text_split(chain->text, chain->text_length, &s->spans, err));
    if (s->tokenizer) {
        KS_TRY(ks_grow(&s->tokens, &s->capacity, s->spans.n, sizeof *s->tokens,
                       "steps", err));
        KS_TRY(ks_chain_tokens(chain, s->tokenizer, &s->spans, s->tokens, err));
    }
    KS_TRY(ks_chain_set_steps(chain, &s->spans, s->tokenizer ? s->tokens : NULL,
                              err));
    KS_TRY(ks_jsonl_add(&s->all, chain->object, err));
    s->steps += s->spans.n;
    s->empty += s->spans.n == 0;
done:
    return st;
}

static ks_status open_tokenizer(const input *in, ks_tokenizer **out,
                                ks_err *err) {
    ks_status st = KS_OK;
    char *home = NULL;
    const char *path = in->tokenizer;
    if (!path && !in->common.model) return KS_OK;
    if (!path) {
        KS_TRY(ks_model_home(&home, in->common.model, err));
        path = home;
    }
    KS_TRY(ks_tokenizer_open(out, path, err));
done:
    free(home);
    return st;
}

static ks_status run(const input *in, ks_err *err) {
    ks_status st = KS_OK;
    const ks_cli_common *c = &in->common;
    ks_chains chains = {0};
    splitting s = {0};
    bool standard = !c->out || strcmp(c->out, "-") == 0;
    const ks_use uses[] = {{"--out", c->out, true},
                           {"--chains", c->chains, false}};
    KS_TRY(ks_refuse_overlap(uses, KS_COUNT(uses), err));
    if (!standard) KS_TRY(ks_refuse_existing(c->out, c->force, err));
    KS_TRY(ks_chains_read(&chains, c->chains, KS_KEEP_UNSPLIT, err));
    KS_TRY(open_tokenizer(in, &s.tokenizer, err));
    KS_TRY(ks_str_add(&s.all, "", 0, err));
    for (size_t i = 0; i < chains.n; i++)
        KS_TRY(split_chain(&s, &chains.at[i], err));
    KS_TRY(ks_write_out(c->out, s.all.data, s.all.length, c->force, err));
    ks_log(KS_LOG_INFO, "%zu chains, %zu steps; %zu chains without a step",
           chains.n, s.steps, s.empty);
done:
    ks_tokenizer_close(&s.tokenizer);
    ks_spans_free(&s.spans);
    free(s.tokens);
    ks_str_free(&s.all);
    ks_chains_free(&chains);
    return st;
}

int ks_cmd_split(int argc, char **argv) {
    input in = {0};
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "split", argc, argv, &in);
    if (code != KS_EXIT_DONE) return code;
    ks_err err = {0};
    return run(&in, &err) == KS_OK ? code : ks_cli_failed("split", &err);
}
