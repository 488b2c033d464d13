/* cmd_import.c - keystep import: other tools' JSON Lines in, chains out. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../import.h"
#include "cli.h"
#include "sections.h"

enum {
    KEY_FROM = KS_KEY_OWN,
    KEY_ID,
    KEY_QUESTION,
    KEY_ANSWER,
    KEY_PROBLEMS_OUT,
    KEY_SKIP_BAD,
    KEY_WHOLE_IDS,
    KEY_INSTRUCTION,
    KEY_TOKENIZER
};

typedef struct input {
    ks_cli_common common;
    const char *file, *problems_out, *instruction, *tokenizer;
    bool skip_bad;
    ks_import_options options;
} input;

const struct argp_option ks_cmd_import_options[] = {
    {"from", KEY_FROM, "KIND", 0,
     "text, messages or gsm8k (default: each line by its fields)", 0},
    KS_CLI_OUT,
    KS_CLI_FORCE,
    {"problems-out", KEY_PROBLEMS_OUT, "FILE", 0,
     "write the problems too, as label reads them", 0},
    {"problems", KS_KEY_PROBLEMS, "FILE", 0,
     "questions and right answers that lines lack", 0},
    {"model", KS_KEY_MODEL, "PATH", 0,
     "whose chat template and tokenizer prompts are made with", 0},
    KS_CLI_TEMPLATE,
    {"instruction", KEY_INSTRUCTION, "TEXT", 0,
     "what the user's turn asks ahead of a question (default: nothing)", 0},
    {"tokenizer", KEY_TOKENIZER, "PATH", 0,
     "tokenizer.json, when it is not the model's own", 0},
    {"id-field", KEY_ID, "NAME", 0, "field of the id (default: id)", 0},
    {"question-field", KEY_QUESTION, "NAME", 0, "default: question", 0},
    {"answer-field", KEY_ANSWER, "NAME", 0,
     "field of the right answer (default: gold, else answer)", 0},
    {"whole-ids", KEY_WHOLE_IDS, NULL, 0,
     "an id such as a/3 is a problem's, not sample 3 of problem a", 0},
    {"skip-bad", KEY_SKIP_BAD, NULL, 0,
     "tell of bad lines, count them and go on", 0},
    KS_CLI_QUIET,
    {0}};

static ks_import_from kind(const char *name, struct argp_state *state) {
    for (int i = 0; i < KS_N_IMPORTS; i++)
        if (strcmp(ks_import_name((ks_import_from)i), name) == 0)
            return (ks_import_from)i;
    argp_error(state, "--from takes auto, text, messages or gsm8k, got '%s'",
               name);
    return KS_IMPORT_AUTO;
}

static error_t parse_field(input *in, int key, const char *arg) {
    switch (key) {
    case KEY_ID:
        in->options.id_field = arg;
        return 0;
    case KEY_QUESTION:
        in->options.question_field = arg;
        return 0;
    case KEY_ANSWER:
        in->options.answer_field = arg;
        return 0;
    case KEY_INSTRUCTION:
        in->instruction = arg;
        return 0;
    case KEY_TOKENIZER:
        in->tokenizer = arg;
        return 0;
    case KEY_PROBLEMS_OUT:
        in->problems_out = arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    switch (key) {
    case KEY_FROM:
        in->options.from = kind(arg, state);
        return 0;
    case KEY_WHOLE_IDS:
        in->options.whole_ids = true;
        return 0;
    case KEY_SKIP_BAD:
        in->skip_bad = true;
        return 0;
    case ARGP_KEY_ARG:
        if (in->file) argp_error(state, "too many arguments: %s", arg);
        in->file = arg;
        return 0;
    case ARGP_KEY_END:
        if (!in->file) argp_error(state, "the file to import is missing");
        if (in->tokenizer && !in->common.model)
            argp_error(state, "--tokenizer goes with --model");
        return 0;
    default:
        if (parse_field(in, key, arg) == 0) return 0;
        return ks_cli_common_key(&in->common, key, arg, state);
    }
}

static const struct argp argp = {
    .options = ks_cmd_import_options,
    .parser = parse,
    .args_doc = "FILE",
    .doc =
        "Makes chains out of other tools' JSON Lines: outputs of models "
        "(\"prompt\" or \"question\", and \"text\", \"completion\", \"output\" "
        "or \"response\"), conversations (\"messages\"), solutions of GSM8K "
        "(\"question\", and \"answer\" with '#### x'). Prompts are made with "
        "the chat template of --model or --template, else without one. "
        "FILE - is standard input, --out defaults to standard output."
        "\vThe thinking is found by the template's marks and cut into steps, "
        "answers are compared with the right one where it is known. Unknown "
        "fields stay. docs/formats.md says what becomes of what.",
};

static ks_status open_prompt(const input *in, ks_template *which,
                             ks_prompt *prompt, ks_err *err) {
    ks_status st = KS_OK;
    const ks_cli_common *c = &in->common;
    ks_tokenizer *tokenizer = NULL;
    char *home = NULL;
    *which = KS_TEMPLATE_AUTO;
    if (c->template_) KS_TRY(ks_template_find(c->template_, which, err));
    if (c->model) {
        KS_CHECK(access(c->model, R_OK) == 0, KS_IO, "%s: cannot open: %s",
                 c->model, strerror(errno));
        KS_TRY(ks_model_home(&home, c->model, err));
        KS_TRY(ks_tokenizer_open(&tokenizer,
                                 in->tokenizer ? in->tokenizer : home, err));
        KS_TRY(ks_prompt_open(prompt, c->model, tokenizer, *which, err));
        *which = prompt->which;
    } else {
        KS_TRY(ks_prompt_of(prompt, *which, err));
    }
    prompt->instruction = in->instruction ? in->instruction : "";
done:
    ks_tokenizer_close(&tokenizer);
    free(home);
    return st;
}

static void say_skipped(const ks_err *why) {
    ks_log(KS_LOG_INFO, "skipped: %s", why->text);
}

static void sum_up(const ks_imported *all) {
    ks_log(KS_LOG_INFO,
           "%zu chains, %zu steps; %zu bad lines skipped, %zu unfinished, %zu "
           "without a step, %zu without an answer; %zu of %zu right, %zu "
           "without a right answer to compare with",
           all->n, all->steps, all->skipped, all->unfinished, all->empty,
           all->unanswered, all->correct, all->judged, all->n - all->judged);
    if (all->twins)
        ks_log(KS_LOG_INFO,
               "%zu chains have the question of another problem: both may "
               "stand on two sides of a split",
               all->twins);
}

static ks_status run(const input *in, ks_err *err) {
    ks_status st = KS_OK;
    ks_import_options options = in->options;
    const ks_cli_common *c = &in->common;
    ks_prompt prompt = {0};
    ks_problems problems = {0};
    ks_imported all = {0};
    const char *outs[] = {c->out, in->problems_out};
    const ks_use uses[] = {{"--out", c->out ? c->out : "-", true},
                           {"--problems-out", in->problems_out, true},
                           {"FILE", in->file, false},
                           {"--problems", c->problems, false},
                           {"--model", c->model, false},
                           {"--tokenizer", in->tokenizer, false}};
    KS_TRY(ks_refuse_overlap(uses, KS_COUNT(uses), err));
    for (size_t i = 0; i < KS_COUNT(outs); i++)
        if (outs[i] && strcmp(outs[i], "-") != 0)
            KS_TRY(ks_refuse_existing(outs[i], c->force, err));
    if (c->problems) {
        KS_TRY(ks_problems_read(&problems, c->problems, KS_KEEP_FIELDS, err));
        options.problems = &problems;
    }
    KS_TRY(open_prompt(in, &options.which, &prompt, err));
    options.prompt = &prompt;
    options.with_problems = in->problems_out != NULL;
    options.skipped = in->skip_bad ? say_skipped : NULL;
    KS_TRY(ks_import(&all, in->file, &options, err));
    if (in->problems_out)
        KS_TRY(ks_write_out(in->problems_out, all.problems.data,
                            all.problems.length, c->force, err));
    KS_TRY(ks_write_out(c->out, all.chains.data, all.chains.length, c->force,
                        err));
    sum_up(&all);
done:
    ks_imported_free(&all);
    ks_problems_free(&problems);
    ks_prompt_close(&prompt);
    return st;
}

int ks_cmd_import(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "acts") == 0)
        return ks_cmd_import_acts(argc - 1, argv + 1);
    input in = {0};
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "import", argc, argv, &in);
    if (code != KS_EXIT_DONE) return code;
    ks_err err = {0};
    return run(&in, &err) == KS_OK ? code : ks_cli_failed("import", &err);
}
