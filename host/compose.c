/* compose.c - from sampled ids to a chain. */
#include "generate.h"

#include <stdlib.h>
#include <string.h>

/* JSON holds whole characters only: each byte that is none becomes U+FFFD. */
static ks_status add_text(ks_str *out, const char *text, size_t n,
                          ks_err *err) {
    ks_status st = ks_str_add(out, "", 0, err);
    while (st == KS_OK && n > 0) {
        size_t good = ks_utf8_check(text, n);
        st = ks_str_add(out, text, good, err);
        if (st != KS_OK || good == n) break;
        st = ks_str_add(out, "\xEF\xBF\xBD", 3, err);
        text += good + 1;
        n -= good + 1;
    }
    return st;
}

ks_status ks_add_ids(const ks_tokenizer *tokenizer, const int32_t *ids,
                     int32_t n, ks_str *out, ks_err *err) {
    char *text = NULL;
    size_t length = 0;
    ks_status st =
        ks_detokenize(tokenizer, ids, (size_t)n, &text, &length, err);
    if (st == KS_OK) st = add_text(out, text, length, err);
    free(text);
    return st;
}

/* How many sampled ids one tokenisation of the whole text does not have at
 * the same bytes. */
static ks_status count_changed(const ks_tokenizer *tokenizer,
                               const ks_str *whole, size_t prompt_length,
                               const int32_t *ids, int32_t n, int64_t *changed,
                               ks_err *err) {
    ks_status st = KS_OK;
    ks_tokens tokens = {0};
    char *text = NULL;
    size_t at = prompt_length, k = 0, length = 0;
    *changed = 0;
    KS_TRY(ks_tokenize(tokenizer, whole->data, whole->length, &tokens, err));
    for (int32_t i = 0; i < n; i++, at += length) {
        KS_TRY(ks_detokenize(tokenizer, ids + i, 1, &text, &length, err));
        free(text);
        text = NULL;
        while (k < tokens.n && (size_t)tokens.begin[k] < at) k++;
        bool same = k < tokens.n && (size_t)tokens.begin[k] == at &&
                    (size_t)tokens.end[k] == at + length &&
                    tokens.ids[k] == ids[i];
        *changed += !same;
    }
done:
    free(text);
    ks_tokens_free(&tokens);
    return st;
}

/* Where in prompt + output the thinking lies. Raw: all of the output. */
static ks_status find_thinking(const ks_compose *c, const ks_str *whole,
                               size_t prompt_length, ks_span *text,
                               bool *closed, ks_err *err) {
    *closed = false;
    *text = (ks_span){prompt_length, whole->length};
    if (c->which == KS_TEMPLATE_RAW) return KS_OK;
    ks_status st = ks_text_extract(whole->data, whole->length, c->which, text,
                                   closed, err);
    /* Marks inside the question are not the model's. */
    text->begin = KS_MAX(text->begin, prompt_length);
    text->end = KS_MAX(text->end, text->begin);
    return st;
}

ks_status ks__chain_steps(const ks_spans *spans, json_t **out, ks_err *err) {
    ks_status st = KS_OK;
    *out = json_array();
    KS_CHECK(*out, KS_NOMEM, "out of memory for steps");
    for (size_t i = 0; i < spans->n; i++) {
        json_t *one =
            json_pack("{s:I,s:I}", "begin", (json_int_t)spans->at[i].begin,
                      "end", (json_int_t)spans->at[i].end);
        KS_CHECK(one && !json_array_append_new(*out, one), KS_NOMEM,
                 "out of memory for steps");
    }
done:
    return st;
}

static ks_status pack_steps(const char *text, size_t n, json_t **out,
                            ks_err *err) {
    ks_spans spans = {0};
    ks_status st = ks_text_split(text, n, &spans, err);
    if (st == KS_OK) st = ks__chain_steps(&spans, out, err);
    ks_spans_free(&spans);
    return st;
}

ks_status ks__chain_judge(const char *output, size_t n, const char *gold,
                          json_t **answer, json_t **correct, ks_err *err) {
    ks_status st = KS_OK;
    ks_span span = {0};
    bool found = false, equal = false;
    *answer = *correct = NULL;
    KS_TRY(ks_text_answer(output, n, false, &span, &found, err));
    if (found && gold)
        KS_TRY(ks_text_equal(output + span.begin, span.end - span.begin, gold,
                             strlen(gold), false, &equal, err));
    *answer = found ? json_stringn(output + span.begin, span.end - span.begin)
                    : json_null();
    *correct = gold ? json_boolean(equal) : json_null();
    KS_CHECK(*answer && *correct, KS_NOMEM, "out of memory for an answer");
done:
    return st;
}

static ks_status pack(const ks_compose *c, const ks_problem *problem,
                      int32_t sample, const ks_str *whole, ks_span text,
                      json_t **out, ks_err *err) {
    ks_status st = KS_OK;
    ks_str id = {0};
    const char *t = whole->data;
    KS_TRY(ks_str_printf(&id, err, "%s/%d", problem->id, sample));
    *out = json_pack("{s:s#,s:s,s:s,s:s%,s:s%,s:s%}", "id", id.data,
                     (int)id.length, "problem", problem->id, "model", c->model,
                     "prompt", t, text.begin, "text", t + text.begin,
                     text.end - text.begin, "rest", t + text.end,
                     whole->length - text.end);
    KS_CHECK(*out, KS_NOMEM, "out of memory for chain %s", id.data);
done:
    ks_str_free(&id);
    return st;
}

/* Takes value over. */
static ks_status set(json_t *object, const char *key, json_t *value,
                     ks_err *err) {
    if (!value || json_object_set_new(object, key, value))
        return ks_fail(err, KS_NOMEM, "out of memory for a chain's \"%s\"",
                       key);
    return KS_OK;
}

ks_status ks_compose_chain(const ks_compose *c, const ks_problem *problem,
                           int32_t sample, const char *prompt,
                           size_t prompt_length, const int32_t *ids, int32_t n,
                           ks_finish finish, json_t **out, ks_err *err) {
    ks_status st = KS_OK;
    ks_str whole = {0};
    ks_span text;
    json_t *steps = NULL, *answer = NULL, *correct = NULL;
    bool closed = false, stopped = finish == KS_FINISH_STOP;
    int64_t changed = 0;
    *out = NULL;
    KS_TRY(ks_str_add(&whole, prompt, prompt_length, err));
    /* The stop mark belongs to no step: it is cut off before the thinking is
     * looked for, and comes back at the end of rest. */
    KS_TRY(ks_add_ids(c->tokenizer, ids, n - stopped, &whole, err));
    KS_TRY(find_thinking(c, &whole, prompt_length, &text, &closed, err));
    KS_TRY(pack_steps(whole.data + text.begin, text.end - text.begin, &steps,
                      err));
    KS_TRY(ks__chain_judge(whole.data + prompt_length,
                           whole.length - prompt_length, problem->answer,
                           &answer, &correct, err));
    if (stopped) KS_TRY(ks_add_ids(c->tokenizer, ids + n - 1, 1, &whole, err));
    KS_TRY(count_changed(c->tokenizer, &whole, prompt_length, ids, n, &changed,
                         err));
    KS_TRY(pack(c, problem, sample, &whole, text, out, err));
    KS_TRY(set(*out, "steps", json_incref(steps), err));
    KS_TRY(set(*out, "answer", json_incref(answer), err));
    KS_TRY(set(*out, "correct", json_incref(correct), err));
    KS_TRY(set(*out, "finished", json_boolean(stopped), err));
    KS_TRY(set(*out, "closed", json_boolean(closed), err));
    KS_TRY(set(*out, "tokens", json_integer(n), err));
    KS_TRY(set(*out, "retokenized", json_integer(changed), err));
    KS_TRY(set(*out, "sampling", json_deep_copy(c->settings), err));
done:
    json_decref(steps);
    json_decref(answer);
    json_decref(correct);
    if (st != KS_OK) {
        json_decref(*out);
        *out = NULL;
    }
    ks_str_free(&whole);
    return st;
}
