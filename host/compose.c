/* compose.c - from sampled ids to a chain. */
#include "generate.h"

#include <stdlib.h>
#include <string.h>

#define REPLACED "\xEF\xBF\xBD"

/* JSON holds whole characters only: each byte that is none becomes U+FFFD. */
static ks_status add_text(ks_str *out, const char *text, size_t n,
                          ks_err *err) {
    ks_status st = ks_str_add(out, "", 0, err);
    while (st == KS_OK && n > 0) {
        size_t good = ks_utf8_check(text, n);
        st = ks_str_add(out, text, good, err);
        if (st != KS_OK || good == n) break;
        st = ks_str_add(out, REPLACED, strlen(REPLACED), err);
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

/* Where a byte of what was sampled lies in the text that add_text made of it:
 * bytes that are no UTF-8 grow to three. Moves forward. */
typedef struct place {
    const char *raw;
    size_t n, at, good; /* raw[at, good) is well-formed */
    size_t text;
} place;

static size_t place_of(place *p, size_t to) {
    while (p->at < to) {
        if (p->at == p->good && p->good < p->n) {
            p->good += ks_utf8_check(p->raw + p->at, p->n - p->at);
            if (p->good == p->at) { /* one byte, and what follows it */
                p->text += strlen(REPLACED);
                p->good = ++p->at;
                continue;
            }
        }
        size_t step = KS_MIN(to, p->good) - p->at;
        p->at += step;
        p->text += step;
    }
    return p->text;
}

/* How many of ids that begin at byte `begin` of the text `tokens` are of are
 * not among them at the same bytes. *k moves forward. */
static ks_status count_part(const ks_tokenizer *tokenizer,
                            const ks_tokens *tokens, size_t *k, size_t *begin,
                            const int32_t *ids, int32_t n, int64_t *changed,
                            ks_err *err) {
    ks_status st = KS_OK;
    char *raw = NULL, *one = NULL;
    size_t n_raw = 0, length = 0, done = 0, at = *begin;
    KS_TRY(ks_detokenize(tokenizer, ids, (size_t)n, &raw, &n_raw, err));
    place p = {.raw = raw, .n = n_raw, .text = at};
    for (int32_t i = 0; i < n; i++) {
        KS_TRY(ks_detokenize(tokenizer, ids + i, 1, &one, &length, err));
        free(one);
        one = NULL;
        done = KS_MIN(done + length, n_raw);
        size_t end = place_of(&p, done);
        while (*k < tokens->n && (size_t)tokens->begin[*k] < at) (*k)++;
        bool same = *k < tokens->n && (size_t)tokens->begin[*k] == at &&
                    (size_t)tokens->end[*k] == end && tokens->ids[*k] == ids[i];
        *changed += !same;
        at = end;
    }
    *begin = at;
done:
    free(raw);
    free(one);
    return st;
}

/* How many sampled ids one tokenisation of the whole text does not have at
 * the same bytes. The last `stopped` of them were added on their own. */
static ks_status count_changed(const ks_tokenizer *tokenizer,
                               const ks_str *whole, size_t prompt_length,
                               const int32_t *ids, int32_t n, bool stopped,
                               int64_t *changed, ks_err *err) {
    ks_status st = KS_OK;
    ks_tokens tokens = {0};
    size_t at = prompt_length, k = 0;
    int32_t front = n - stopped;
    *changed = 0;
    KS_TRY(ks_tokenize(tokenizer, whole->data, whole->length, &tokens, err));
    KS_TRY(count_part(tokenizer, &tokens, &k, &at, ids, front, changed, err));
    KS_TRY(count_part(tokenizer, &tokens, &k, &at, ids + front, stopped,
                      changed, err));
done:
    ks_tokens_free(&tokens);
    return st;
}

/* ------------------------------------------------------------ the thinking */

/* Harmony without a named channel: a bare turn up to the final channel. */
static void find_final(const char *s, size_t n, ks_span *text, bool *closed) {
    static const char final[] = "<|end|><|start|>assistant<|channel|>final";
    const char *at = NULL;
    if (!*closed && text->begin == 0 && text->end == n && n > 0)
        at = memmem(s, n, final, sizeof final - 1);
    if (!at) return;
    text->end = (size_t)(at - s);
    *closed = true;
}

ks_status ks__find_thinking(const char *whole, size_t n, size_t output,
                            ks_template which, ks_span *text, bool *closed,
                            ks_err *err) {
    ks_status st = KS_OK;
    size_t from = KS_MIN(ks_text_opening(whole, output), output);
    KS_TRY(ks_text_extract(whole + from, n - from, which, text, closed, err));
    if (which == KS_TEMPLATE_HARMONY)
        find_final(whole + from, n - from, text, closed);
    text->begin = KS_MAX(text->begin + from, output);
    text->end = KS_MAX(text->end + from, text->begin);
done:
    return st;
}

static ks_status pack_steps(const char *text, size_t n, json_t **out,
                            ks_err *err) {
    ks_spans spans = {0};
    ks_status st = ks_text_split(text, n, &spans, err);
    if (st == KS_OK) st = ks_steps_json(&spans, NULL, out, err);
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
    KS_TRY(ks__find_thinking(whole.data, whole.length, prompt_length, c->which,
                             &text, &closed, err));
    KS_TRY(pack_steps(whole.data + text.begin, text.end - text.begin, &steps,
                      err));
    KS_TRY(ks__chain_judge(whole.data + prompt_length,
                           whole.length - prompt_length, problem->answer,
                           &answer, &correct, err));
    if (stopped) KS_TRY(ks_add_ids(c->tokenizer, ids + n - 1, 1, &whole, err));
    KS_TRY(count_changed(c->tokenizer, &whole, prompt_length, ids, n, stopped,
                         &changed, err));
    KS_TRY(pack(c, problem, sample, &whole, text, out, err));
    KS_TRY(ks_json_set(*out, "steps", json_incref(steps), problem->id, err));
    KS_TRY(ks_json_set(*out, "answer", json_incref(answer), problem->id, err));
    KS_TRY(
        ks_json_set(*out, "correct", json_incref(correct), problem->id, err));
    if (problem->answer)
        KS_TRY(ks_json_set(*out, "gold", json_string(problem->answer),
                           problem->id, err));
    KS_TRY(
        ks_json_set(*out, "finished", json_boolean(stopped), problem->id, err));
    KS_TRY(ks_json_set(*out, "closed", json_boolean(closed), problem->id, err));
    KS_TRY(ks_json_set(*out, "tokens", json_integer(n), problem->id, err));
    KS_TRY(ks_json_set(*out, "retokenized", json_integer(changed), problem->id,
                       err));
    KS_TRY(ks_json_set(*out, "sampling", json_deep_copy(c->settings),
                       problem->id, err));
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
