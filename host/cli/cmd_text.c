/* cmd_text.c - keystep text: extract, split, boxes, answer, equal, states,
 * surface; one JSON object a line in, one out. */
#include <math.h>
#include <string.h>

#include "../text/text.h"
#include "cli.h"

typedef struct input {
    ks_cli_common common;
    const struct topic *topic;
} input;

typedef struct topic {
    const char *name;
    ks_cli_line_fn answer;
} topic;

/* Boxes of one line nest, so their contents may be far longer than the line. */
enum { MOST_BOX_BYTES = 64 << 20 };

static ks_status packed(json_t *value, json_t **out, ks_err *err) {
    *out = value;
    return value ? KS_OK : ks_fail(err, KS_NOMEM, "no memory for the answer");
}

static ks_status text_of(json_t *line, const char *key, const char **text,
                         size_t *n, ks_err *err) {
    return ks_json_string(line, key, "line", text, n, err);
}

static json_t *piece(const char *text, ks_span s) {
    return json_stringn(text + s.begin, s.end - s.begin);
}

static ks_status extract(void *user, json_t *line, json_t **out, ks_err *err) {
    input *in = user;
    ks_status st = KS_OK;
    const char *text, *name = in->common.template_;
    size_t n, n_name;
    ks_template which = KS_TEMPLATE_AUTO;
    ks_span s;
    KS_TRY(text_of(line, "text", &text, &n, err));
    if (json_object_get(line, "template"))
        KS_TRY(text_of(line, "template", &name, &n_name, err));
    if (name) KS_TRY(ks_template_find(name, &which, err));
    KS_TRY(ks_text_extract(text, n, which, &s, NULL, err));
    KS_TRY(packed(json_pack("{sosI}", "text", piece(text, s), "begin",
                            (json_int_t)s.begin),
                  out, err));
done:
    return st;
}

static ks_status split(void *user, json_t *line, json_t **out, ks_err *err) {
    (void)user;
    ks_status st = KS_OK;
    const char *text;
    size_t n;
    ks_spans steps = {0};
    json_t *list = json_array();
    KS_TRY(text_of(line, "text", &text, &n, err));
    KS_TRY(ks_text_split(text, n, &steps, err));
    for (size_t i = 0; i < steps.n; i++)
        json_array_append_new(
            list, json_pack("{sIsI}", "begin", (json_int_t)steps.at[i].begin,
                            "end", (json_int_t)steps.at[i].end));
    KS_CHECK(json_array_size(list) == steps.n, KS_NOMEM,
             "no memory for %zu steps", steps.n);
    KS_TRY(packed(json_pack("{sO}", "steps", list), out, err));
done:
    json_decref(list);
    ks_spans_free(&steps);
    return st;
}

static ks_status boxes(void *user, json_t *line, json_t **out, ks_err *err) {
    input *in = user;
    ks_status st = KS_OK;
    const char *text;
    size_t n, total = 0;
    ks_spans found = {0};
    json_t *list = json_array();
    KS_TRY(text_of(line, "text", &text, &n, err));
    KS_TRY(ks_text_boxes(text, n, in->common.compat, &found, err));
    for (size_t i = 0; i < found.n; i++) {
        total += found.at[i].end - found.at[i].begin;
        KS_CHECK(total <= MOST_BOX_BYTES, KS_LIMIT,
                 "the contents of %zu nested boxes take more than %d bytes",
                 found.n, MOST_BOX_BYTES);
        json_array_append_new(list, piece(text, found.at[i]));
    }
    KS_CHECK(json_array_size(list) == found.n, KS_NOMEM,
             "no memory for %zu boxes", found.n);
    KS_TRY(packed(json_pack("{sO}", "boxes", list), out, err));
done:
    json_decref(list);
    ks_spans_free(&found);
    return st;
}

static ks_status answer(void *user, json_t *line, json_t **out, ks_err *err) {
    input *in = user;
    ks_status st = KS_OK;
    const char *text;
    size_t n;
    ks_span s;
    bool found;
    KS_TRY(text_of(line, "text", &text, &n, err));
    KS_TRY(ks_text_answer(text, n, in->common.compat, &s, &found, err));
    KS_TRY(packed(
        json_pack("{so}", "answer", found ? piece(text, s) : json_null()), out,
        err));
done:
    return st;
}

static ks_status equal(void *user, json_t *line, json_t **out, ks_err *err) {
    input *in = user;
    ks_status st = KS_OK;
    const char *a, *b;
    size_t n_a, n_b;
    bool same;
    KS_TRY(text_of(line, "a", &a, &n_a, err));
    KS_TRY(text_of(line, "b", &b, &n_b, err));
    KS_TRY(ks_text_equal(a, n_a, b, n_b, in->common.compat, &same, err));
    KS_TRY(packed(json_pack("{sb}", "equal", same), out, err));
done:
    return st;
}

static ks_status states(void *user, json_t *line, json_t **out, ks_err *err) {
    input *in = user;
    ks_status st = KS_OK;
    const char *text, *gold;
    size_t n, n_gold;
    bool gives;
    KS_TRY(text_of(line, "text", &text, &n, err));
    KS_TRY(text_of(line, "gold", &gold, &n_gold, err));
    KS_TRY(
        ks_text_states(text, n, gold, n_gold, in->common.compat, &gives, err));
    KS_TRY(packed(json_pack("{sb}", "states", gives), out, err));
done:
    return st;
}

static json_t *real(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

static ks_status row_as_json(const ks_surface_row *row, json_t **out,
                             ks_err *err) {
    json_t *o = json_pack(
        "{sIsosIsIsIsIsososo}", "position", (json_int_t)row->position,
        "relative_position", real(row->relative_position), "characters",
        (json_int_t)row->characters, "words", (json_int_t)row->words, "numbers",
        (json_int_t)row->numbers, "operators", (json_int_t)row->operators,
        "tfidf_mean_before", real(row->tfidf_mean_before), "tfidf_max_before",
        real(row->tfidf_max_before), "tfidf_prompt", real(row->tfidf_prompt));
    for (int i = 0; o && i < KS_N_CATEGORIES; i++) {
        const char *name = ks_category_name((ks_category)i);
        if (json_object_set_new(o, name, json_boolean(row->category[i]))) {
            json_decref(o);
            o = NULL;
        }
    }
    return packed(o, out, err);
}

static ks_status add_before(ks_surface *surface, json_t *before, ks_err *err) {
    ks_status st = KS_OK;
    size_t i;
    json_t *step;
    KS_CHECK(json_is_array(before), KS_FORMAT,
             "\"before\" is not a list of steps");
    json_array_foreach(before, i, step) {
        KS_CHECK(json_is_string(step), KS_FORMAT,
                 "\"before\" place %zu is not a string", i);
        KS_TRY(ks_surface_step(surface, json_string_value(step),
                               json_string_length(step), NULL, err));
    }
done:
    return st;
}

/* "n": the steps of the whole chain, for the relative position. */
static ks_status surface(void *user, json_t *line, json_t **out, ks_err *err) {
    input *in = user;
    ks_status st = KS_OK;
    const char *text, *prompt = NULL;
    size_t n, n_prompt = 0;
    int64_t n_steps = 0;
    ks_surface *s = NULL;
    ks_surface_row row;
    json_t *before = json_object_get(line, "before");
    KS_TRY(text_of(line, "text", &text, &n, err));
    if (json_object_get(line, "prompt"))
        KS_TRY(text_of(line, "prompt", &prompt, &n_prompt, err));
    if (json_object_get(line, "n"))
        KS_TRY(ks_json_int(line, "n", "line", 1, INT32_MAX, &n_steps, err));
    KS_TRY(
        ks_surface_open(&s, prompt, n_prompt, n_steps, in->common.compat, err));
    if (before) KS_TRY(add_before(s, before, err));
    KS_TRY(ks_surface_step(s, text, n, &row, err));
    KS_TRY(row_as_json(&row, out, err));
done:
    ks_surface_close(&s);
    return st;
}

static const topic topics[] = {
    {"extract", extract}, {"split", split}, {"boxes", boxes},
    {"answer", answer},   {"equal", equal}, {"states", states},
    {"surface", surface},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    if (key == ARGP_KEY_ARG) {
        if (in->topic) argp_error(state, "too many arguments: %s", arg);
        for (size_t i = 0; i < KS_COUNT(topics); i++)
            if (strcmp(topics[i].name, arg) == 0) in->topic = &topics[i];
        if (!in->topic)
            argp_error(state,
                       "'%s' is none of extract, split, boxes, answer, "
                       "equal, states, surface",
                       arg);
        return 0;
    }
    if (key == ARGP_KEY_END && !in->topic)
        argp_error(state, "what to do is missing: extract, split, boxes, "
                          "answer, equal, states or surface");
    return ks_cli_common_key(&in->common, key, arg, state);
}

int ks_cmd_text(int argc, char **argv) {
    static const struct argp_option options[] = {
        KS_CLI_COMPAT, KS_CLI_TEMPLATE, {0}};
    static const struct argp argp = {
        options,
        parse,
        "extract|split|boxes|answer|equal|states|surface",
        "What Keystep reads out of text: a JSON object a line from stdin, one "
        "a line to stdout, in order; {\"error\":...} for a line that fails."
        "\vextract   {\"text\",\"template\"?}     -> {\"text\",\"begin\"}\n"
        "split     {\"text\"}                 -> {\"steps\":[{\"begin\","
        "\"end\"}]}\n"
        "boxes     {\"text\"}                 -> {\"boxes\":[...]}\n"
        "answer    {\"text\"}                 -> {\"answer\"}, null: none\n"
        "equal     {\"a\",\"b\"}                -> {\"equal\"}; b is the "
        "reference\n"
        "states    {\"text\",\"gold\"}          -> {\"states\"}\n"
        "surface   {\"text\",\"before\"?,\"prompt\"?,\"n\"?} -> features; n: "
        "steps of the chain\n\n"
        "Offsets are UTF-8 bytes, end exclusive. Exit code 1: some line "
        "failed.",
        NULL,
        NULL,
        NULL};
    input in = {0};
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "text", argc, argv, &in);
    if (code != KS_EXIT_DONE) return code;
    return ks_cli_lines(in.topic->answer, &in);
}
