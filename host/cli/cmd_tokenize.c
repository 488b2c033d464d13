/* cmd_tokenize.c - keystep tokenize: text to ids and ids to text. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

typedef struct input {
    ks_cli_common common;
    ks_tokenizer *tokenizer;
    ks_tokens tokens; /* reused from line to line */
} input;

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    if (key == ARGP_KEY_END && !in->common.model)
        argp_error(state, "--model is missing");
    if (key == ARGP_KEY_ARG) argp_error(state, "too many arguments: %s", arg);
    return ks_cli_common_key(&in->common, key, arg, state);
}

static ks_status to_ids(input *in, json_t *line, json_t **out, ks_err *err) {
    ks_status st = KS_OK;
    ks_tokens *t = &in->tokens;
    const char *text;
    size_t length;
    json_t *ids = json_array(), *offsets = json_array();
    KS_TRY(ks_json_string(line, "text", "line", &text, &length, err));
    KS_TRY(ks_tokenize(in->tokenizer, text, length, t, err));
    int bad = 0;
    for (size_t i = 0; i < t->n; i++) {
        bad |= json_array_append_new(ids, json_integer(t->ids[i]));
        bad |= json_array_append_new(offsets,
                                     json_pack("[ii]", t->begin[i], t->end[i]));
    }
    *out = bad ? NULL : json_pack("{sOsO}", "ids", ids, "offsets", offsets);
    KS_CHECK(*out, KS_NOMEM, "no memory for %zu tokens", t->n);
done:
    json_decref(ids);
    json_decref(offsets);
    return st;
}

/* Ids may cut a character: U+FFFD stands for what is left of one, as in other
 * tokenizers, since JSON holds whole characters only. */
static ks_status whole_characters(const char *text, size_t n, ks_str *out,
                                  ks_err *err) {
    ks_status st = ks_str_add(out, "", 0, err);
    while (st == KS_OK && n > 0) {
        size_t good = ks_utf8_check(text, n);
        st = ks_str_add(out, text, good, err);
        text += good;
        n -= good;
        if (n == 0 || st != KS_OK) break;
        /* the longest start of a character counts as one */
        size_t cut = 1;
        unsigned char lead = (unsigned char)text[0];
        static const char *const ends[] = {"\x80", "\x80\x80"};
        for (size_t have = KS_MIN(n, 3); have > 1; have--) {
            char probe[5] = {0};
            size_t size = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
            if (size <= have) continue;
            memcpy(probe, text, have);
            memcpy(probe + have, ends[size - have - 1], size - have);
            if (ks_utf8_check(probe, size) == size) {
                cut = have;
                break;
            }
        }
        st = ks_str_add(out, "\xef\xbf\xbd", 3, err);
        text += cut;
        n -= cut;
    }
    return st;
}

static ks_status read_ids(json_t *list, int32_t *ids, ks_err *err) {
    size_t i;
    json_t *id;
    json_array_foreach(list, i, id) {
        json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;
        if (value < 0 || value > INT32_MAX)
            return ks_fail(err, KS_FORMAT,
                           "\"ids\" place %zu is not a token id", i);
        ids[i] = (int32_t)value;
    }
    return KS_OK;
}

static ks_status to_text(input *in, json_t *list, json_t **out, ks_err *err) {
    ks_status st = KS_OK;
    int32_t *ids = NULL;
    char *text = NULL;
    ks_str whole = {0};
    size_t length;
    KS_CHECK(json_is_array(list), KS_FORMAT, "\"ids\" is not a list");
    KS_TRY(ks_alloc(&ids, json_array_size(list), sizeof(*ids), "ids", err));
    KS_TRY(read_ids(list, ids, err));
    KS_TRY(ks_detokenize(in->tokenizer, ids, json_array_size(list), &text,
                         &length, err));
    KS_TRY(whole_characters(text, length, &whole, err));
    *out = json_pack("{ss%}", "text", whole.data, whole.length);
    KS_CHECK(*out, KS_NOMEM, "no memory for %zu bytes of text", length);
done:
    free(ids);
    free(text);
    ks_str_free(&whole);
    return st;
}

static ks_status answer(void *user, json_t *line, json_t **out, ks_err *err) {
    json_t *text = json_object_get(line, "text");
    json_t *ids = json_object_get(line, "ids");
    if (!text == !ids)
        return ks_fail(err, KS_FORMAT,
                       "expected either \"text\" or \"ids\" in the object");
    return text ? to_ids(user, line, out, err) : to_text(user, ids, out, err);
}

int ks_cmd_tokenize(int argc, char **argv) {
    static const struct argp_option options[] = {KS_CLI_MODEL, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "--model PATH",
        .doc = "Text to token ids and back, one JSON object a line on stdin, "
               "one on stdout: {\"text\"} to {\"ids\",\"offsets\"} with the "
               "bytes [begin,end) of each token, {\"ids\"} to {\"text\"}, "
               "{\"error\"} for a line that fails."
               "\v--model is a tokenizer.json, a folder that holds one, or a "
               "GGUF file. Special tokens in the text are recognised; nothing "
               "is added. Bytes that are no whole character become U+FFFD in "
               "\"text\"."};
    input in = {0};
    ks_err err;
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "tokenize", argc, argv, &in);
    if (code != KS_EXIT_DONE) return code;
    if (ks_tokenizer_open(&in.tokenizer, in.common.model, &err) != KS_OK)
        return ks_cli_failed("tokenize", &err);
    code = ks_cli_lines(answer, &in);
    ks_tokens_free(&in.tokens);
    ks_tokenizer_close(&in.tokenizer);
    return code;
}
