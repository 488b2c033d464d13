/* label_ask.c - questions about sets of steps: texts, tokens, requests. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "label_state.h"

/* A step of fewer bytes may be less than the tokens that cutting it adds, where
 * it undoes merges at its two ends; what many of them add up to stays small. */
enum { BYTES = 10, MORE = 256 };

/* Tokens of questions that a worker has out, a few MB. */
enum { MOST_OUT = 1 << 20 };

/* A set of a text's steps, and what is asked about it. */
typedef struct question {
    const char *what;     /* its key begins so */
    const ks__text *text; /* NULL: none of any */
    const uint8_t *keep;  /* NULL: the whole text */
    bool fresh, suffix;   /* as in label_state.h */
} question;

/* ---------------------------------------------------------------- memories */

/* "e c 1f03": what is asked, of which text, which steps. */
static ks_status make_key(const ks__item *item, const question *q, ks_str *out,
                          ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_str_printf(out, err, "%s", q->what));
    if (!q->text) return KS_OK;
    KS_TRY(ks_str_printf(out, err, " %c ",
                         q->text == &item->original ? 'o' : 'c'));
    if (!q->keep) return ks_str_printf(out, err, "all");
    size_t n = q->text->steps.n;
    while (n > 0 && (!q->keep[n - 1] || (int64_t)n - 1 == q->text->answer)) n--;
    for (size_t i = 0; i < n; i += 4) {
        unsigned digit = 0;
        for (size_t b = i; b < i + 4 && b < n; b++)
            digit |= (q->keep[b] && (int64_t)b != q->text->answer ? 1u : 0)
                     << (b - i);
        KS_TRY(ks_str_printf(out, err, "%x", digit));
    }
done:
    return st;
}

json_t *ks__recall(const ks__item *item, const char *key) {
    json_t *there = json_object_get(item->known, key);
    return json_is_null(there) ? NULL : there;
}

bool ks__is_out(const ks__item *item, const char *key) {
    return json_is_null(json_object_get(item->known, key));
}

static bool recall(const ks__item *item, const char *key, double *out) {
    json_t *there = ks__recall(item, key);
    if (!there) return false;
    *out = json_number_value(json_object_get(there, "v"));
    return true;
}

static ks_status note(struct ks_label_job *job, const ks__item *item,
                      const char *key, json_t *value, ks_err *err) {
    ks_status st = KS_OK;
    if (!job->part.path) return KS_OK;
    json_t *line = json_pack("{s:s,s:s,s:O}", "chain", item->chain->id, "key",
                             key, "answer", value);
    KS_CHECK(line, KS_NOMEM, "out of memory for an answer");
    pthread_mutex_lock(&job->mutex);
    st = ks_part_add(&job->part, line, err);
    pthread_mutex_unlock(&job->mutex);
done:
    json_decref(line);
    return st;
}

ks_status ks__remember(ks__item *item, const char *key, double value,
                       const char *text, json_t *tally, ks_err *err) {
    ks_status st = KS_OK;
    json_t *answer =
        json_pack("{s:f,s:s*,s:O*}", "v", value, "text", text, "tally", tally);
    KS_CHECK(answer && !json_object_set(item->known, key, answer), KS_NOMEM,
             "out of memory for an answer");
    KS_TRY(note(item->job, item, key, answer, err));
done:
    json_decref(answer);
    return st;
}

void ks__ask_free(ks__ask *a) {
    *(a->before ? &a->before->next : &a->item->asks) = a->next;
    if (a->next) a->next->before = a->before;
    free(a->key);
    free(a->ids);
    free(a->text);
    json_decref(a->tally);
    free(a);
}

/* ------------------------------------------------------------------- texts */

static const char *answer_of(const ks__item *item) {
    return item->problem->answer;
}

bool ks__leaves_box(const char *cue) {
    size_t n = strlen(cue), box = sizeof KS__BOX - 1;
    return n >= box && strcmp(cue + n - box, KS__BOX) == 0;
}

static const char *cue_of(const ks__item *item, bool any) {
    return any ? item->job->cue : item->job->cue_empty;
}

static ks_status add_prompt(const ks__item *item, ks_str *out, ks_err *err) {
    return ks_str_add(out, item->chain->prompt, item->chain->prompt_length,
                      err);
}

static ks_status add_suffix(const ks__item *item, bool any, ks_str *out,
                            ks_err *err) {
    const char *cue = cue_of(item, any);
    return ks_str_printf(out, err, "%s%s%s", cue, answer_of(item),
                         ks__leaves_box(cue) ? "}" : "");
}

/* Prompt and kept steps. */
static ks_status add_steps(const ks__item *item, const question *q, ks_str *out,
                           bool *any, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(add_prompt(item, out, err));
    *any = true;
    if (!q->text)
        *any = false;
    else if (!q->keep)
        KS_TRY(ks_str_add(out, q->text->data, q->text->length, err));
    else
        KS_TRY(ks__text_keep(q->text, q->keep, out, any, err));
done:
    return st;
}

ks_status ks__tokenize(const ks__item *item, const ks_str *text,
                       ks_tokens *tokens, ks_err *err) {
    ks_status st = KS_OK;
    int32_t bos = ks_tokenizer_bos(item->job->tokenizer);
    KS_TRY(ks_tokenize(item->job->tokenizer, text->data ? text->data : "",
                       text->length, tokens, err));
    if (!(item->job->options.compat & KS_COMPAT_BOS) || bos < 0) return KS_OK;
    ks_tokens more = {0};
    size_t n = tokens->n;
    KS_TRY(ks_alloc(&more.ids, n + 1, sizeof(int32_t), "ids", err));
    KS_TRY(ks_alloc(&more.begin, n + 1, sizeof(int32_t), "ids", err));
    KS_TRY(ks_alloc(&more.end, n + 1, sizeof(int32_t), "ids", err));
    more.ids[0] = bos;
    memcpy(more.ids + 1, tokens->ids, n * sizeof(int32_t));
    memcpy(more.begin + 1, tokens->begin, n * sizeof(int32_t));
    memcpy(more.end + 1, tokens->end, n * sizeof(int32_t));
    more.n = more.capacity = n + 1;
    ks_tokens_free(tokens);
    *tokens = more;
    more = (ks_tokens){0};
done:
    ks_tokens_free(&more);
    return st;
}

/* ------------------------------------------------------------------ asking */

ks_status ks__ask_open(ks__item *item, const char *key, ks_ask kind,
                       const ks_tokens *front, const ks_tokens *rest,
                       ks__ask **out, ks_err *err) {
    ks_status st = KS_OK;
    ks__ask *a = NULL;
    *out = NULL;
    KS_TRY(ks_alloc(&a, 1, sizeof *a, "a question", err));
    a->item = item;
    a->next = item->asks;
    if (a->next) a->next->before = a;
    item->asks = a;
    a->kind = kind;
    a->wanted = 1;
    a->key = strdup(key);
    KS_CHECK(a->key && !json_object_set_new(item->known, key, json_null()),
             KS_NOMEM, "out of memory for a question");
    size_t more = rest ? rest->n : 0;
    KS_TRY(ks_alloc(&a->ids, front->n + more, sizeof(int32_t), "ids", err));
    memcpy(a->ids, front->ids, front->n * sizeof(int32_t));
    if (more > 0) memcpy(a->ids + front->n, rest->ids, more * sizeof(int32_t));
    a->n = (int32_t)(front->n + more);
    item->worker->out += a->n;
    *out = a;
done:
    return st;
}

ks_status ks__ask_send(ks__ask *a, int32_t from, int32_t max_new,
                       const int32_t *last_ids, int32_t n_last_ids,
                       ks_err *err) {
    ks_status st = KS_OK;
    ks__item *item = a->item;
    if (item->job->count) return ks__count_ask(a, max_new, err);
    ks_str path = {0};
    ks_request request = {.prompt = a->ids,
                          .n_prompt = a->n,
                          .group = item->worker->group++,
                          .max_new = max_new,
                          .name = item->chain->id,
                          .tag = (size_t)a,
                          .ask = a->kind,
                          .from = from,
                          .last_ids = last_ids,
                          .n_last_ids = n_last_ids};
    if ((a->tally ? a->n : a->n + max_new) > item->longest) {
        item->skip = KS_SKIP_TOO_LONG;
        item->worker->out -= a->n;
        ks__ask_free(a);
        return KS_OK;
    }
    KS_TRY(ks_str_printf(&path, err, "label %s %s", item->chain->id, a->key));
    for (int32_t k = 0; k < a->wanted; k++) {
        KS_TRY(ks_philox_stream(&request.stream, item->chain->problem,
                                path.data, k, err));
        KS_TRY(ks_session_add(item->worker->session, &request, err));
    }
    item->pending++;
    item->asked++;
done:
    ks_str_free(&path);
    return st;
}

/* Tokens of the answer and of the brace that closes its box. The brace may be
 * the front of a longer token; where it is a token's first byte any id that
 * begins with one closes the box: *closed. */
static ks_status answer_tokens(const ks__item *item, const char *cue,
                               ks_tokens *out, bool *closed, ks_err *err) {
    ks_status st = KS_OK;
    ks_str text = {0};
    size_t length = strlen(answer_of(item));
    bool boxed = ks__leaves_box(cue);
    KS_TRY(
        ks_str_printf(&text, err, "%s%s", answer_of(item), boxed ? "}" : ""));
    KS_TRY(ks_tokenize(item->job->tokenizer, text.data, text.length, out, err));
    *closed = boxed && out->n > 0 && (size_t)out->begin[out->n - 1] == length;
done:
    ks_str_free(&text);
    return st;
}

/* max_new of the method: two tokens for each of the answer. */
static ks_status most_new(const ks__item *item, int32_t *out, ks_err *err) {
    ks_tokens tokens = {0};
    ks_status st = ks_tokenize(item->job->tokenizer, answer_of(item),
                               strlen(answer_of(item)), &tokens, err);
    *out = (int32_t)KS_MAX(1, 2 * tokens.n);
    ks_tokens_free(&tokens);
    return st;
}

typedef ks_status (*send_fn)(ks__item *item, const char *key, const question *q,
                             ks_err *err);

/* send NULL: only where it was asked before. */
static bool ask(ks__item *item, const question *q, send_fn send, double *out) {
    ks_str key = {0};
    ks_status st = make_key(item, q, &key, &item->err);
    bool known = st == KS_OK && recall(item, key.data, out);
    if (st == KS_OK && send && !known && !ks__is_out(item, key.data) &&
        ks__may_ask(item)) {
        st = send(item, key.data, q, &item->err);
        known = st == KS_OK && recall(item, key.data, out); /* no tokens */
    }
    if (st != KS_OK) ks__fail_item(item, st);
    ks_str_free(&key);
    return known;
}

static ks_status send_enough(ks__item *item, const char *key, const question *q,
                             ks_err *err) {
    ks_status st = KS_OK;
    const ks_label_options *o = &item->job->options;
    ks_str whole = {0};
    ks_tokens tokens = {0}, answer = {0};
    ks__ask *a = NULL;
    bool any = false, closed = false;
    int32_t max_new = 0;
    KS_TRY(add_steps(item, q, &whole, &any, err));
    const char *cue = cue_of(item, any);
    KS_TRY(ks_str_printf(&whole, err, "%s", cue));
    KS_TRY(ks__tokenize(item, &whole, &tokens, err));
    int32_t from = (int32_t)tokens.n;
    if (o->exact)
        KS_TRY(answer_tokens(item, cue, &answer, &closed, err));
    else
        KS_TRY(most_new(item, &max_new, err));
    KS_TRY(ks__ask_open(item, key, o->exact ? KS_ASK_SHARE : KS_ASK_SAMPLE,
                        &tokens, &answer, &a, err));
    a->cue = cue;
    if (!o->exact) a->wanted = q->fresh ? o->confirm : o->samples;
    KS_TRY(ks__ask_send(a, from, max_new, closed ? item->job->closers : NULL,
                        closed ? item->job->n_closers : 0, err));
done:
    ks_str_free(&whole);
    ks_tokens_free(&tokens);
    ks_tokens_free(&answer);
    return st;
}

bool ks__ask_enough(ks__item *item, const ks__text *text, const uint8_t *keep,
                    bool fresh, double *out) {
    question q = {fresh ? "fresh" : "enough", text, keep, .fresh = fresh};
    return ask(item, &q, send_enough, out);
}

bool ks__recall_enough(ks__item *item, const ks__text *text,
                       const uint8_t *keep, double *out) {
    question q = {.what = "enough", .text = text, .keep = keep};
    return ask(item, &q, NULL, out);
}

/* ------------------------------------------------------------ perplexities */

/* Scores of all tokens behind the prompt. */
static ks_status send_nll(ks__item *item, const char *key, const question *q,
                          ks_err *err) {
    ks_status st = KS_OK;
    ks_str whole = {0};
    ks_tokens tokens = {0};
    ks__ask *a = NULL;
    bool any = false;
    KS_TRY(add_steps(item, q, &whole, &any, err));
    if (q->suffix) KS_TRY(add_suffix(item, any, &whole, err));
    KS_TRY(ks__tokenize(item, &whole, &tokens, err));
    size_t from = 0, begin = item->chain->prompt_length;
    while (from < tokens.n && (size_t)tokens.begin[from] < begin) from++;
    if (item->job->options.compat & KS_COMPAT_PPL) from = 0;
    from = KS_MAX(from, 1); /* the first has nothing ahead of it */
    if (from >= tokens.n) {
        KS_TRY(ks__remember(item, key, 0, NULL, NULL, err));
        goto done;
    }
    KS_TRY(ks__ask_open(item, key, KS_ASK_SCORE, &tokens, NULL, &a, err));
    KS_TRY(ks__ask_send(a, (int32_t)from, 0, NULL, 0, err));
done:
    ks_str_free(&whole);
    ks_tokens_free(&tokens);
    return st;
}

bool ks__ask_nll(ks__item *item, const ks__text *text, const uint8_t *keep,
                 bool suffix, double *out) {
    question q = {suffix ? "nll+" : "nll", text, keep, .suffix = suffix};
    return ask(item, &q, send_nll, out);
}

bool ks__ask_answer_nll(ks__item *item, double *out) {
    question q = {"nll0", NULL, NULL, .suffix = true};
    return ask(item, &q, send_nll, out);
}

/* Scores of the answer's own tokens, without the brace. */
static ks_status send_answer(ks__item *item, const char *key, const question *q,
                             ks_err *err) {
    ks_status st = KS_OK;
    ks_str whole = {0};
    ks_tokens tokens = {0}, answer = {0};
    ks__ask *a = NULL;
    bool any = false, closed = false;
    KS_TRY(add_steps(item, q, &whole, &any, err));
    KS_TRY(ks_str_printf(&whole, err, "%s", cue_of(item, any)));
    KS_TRY(ks__tokenize(item, &whole, &tokens, err));
    int32_t from = (int32_t)tokens.n;
    KS_TRY(answer_tokens(item, cue_of(item, any), &answer, &closed, err));
    if (closed) answer.n--;
    KS_TRY(ks__ask_open(item, key, KS_ASK_SCORE, &tokens, &answer, &a, err));
    KS_TRY(ks__ask_send(a, from, 0, NULL, 0, err));
done:
    ks_str_free(&whole);
    ks_tokens_free(&tokens);
    ks_tokens_free(&answer);
    return st;
}

bool ks__ask_answer(ks__item *item, const ks__text *text, const uint8_t *keep,
                    double *out) {
    question q = {.what = "answer", .text = text, .keep = keep};
    return ask(item, &q, send_answer, out);
}

/* ------------------------------------------------------------------ prefix */

ks_status ks__tokens_of_prefix(ks__item *item, ks_tokens *tokens,
                               int32_t *bounds, ks_err *err) {
    ks_status st = KS_OK;
    ks_str whole = {0};
    size_t *begins = NULL;
    const ks__text *t = &item->clean;
    int32_t q = 0;
    KS_TRY(
        ks_alloc(&begins, (size_t)item->q + 2, sizeof *begins, "steps", err));
    KS_TRY(add_prompt(item, &whole, err));
    for (int32_t i = 0; i < item->p; i++) {
        ks_span s = ks__text_extent(t, (size_t)i);
        if (i == t->answer) continue;
        if (q < item->q && item->steps[q] == i) begins[q++] = whole.length;
        KS_TRY(ks_str_add(&whole, t->data + s.begin, s.end - s.begin, err));
    }
    begins[q] = whole.length;
    KS_TRY(add_suffix(item, q > 0, &whole, err));
    begins[q + 1] = whole.length;
    KS_TRY(ks_tokenize(item->job->tokenizer, whole.data, whole.length, tokens,
                       err));
    for (int32_t k = 0, at = 0; k <= q + 1; k++) {
        while (at < (int32_t)tokens->n && (size_t)tokens->begin[at] < begins[k])
            at++;
        bounds[k] = KS_MAX(at, 1);
    }
done:
    free(begins);
    ks_str_free(&whole);
    return st;
}

bool ks__may_ask(const ks__item *item) {
    return item->pending == 0 || item->worker->out < MOST_OUT;
}

static ks_status with_cue(const ks__item *item, const question *q,
                          ks_tokens *tokens, ks_err *err) {
    ks_status st = KS_OK;
    ks_str whole = {0};
    bool any;
    KS_TRY(add_steps(item, q, &whole, &any, err));
    KS_TRY(ks_str_printf(&whole, err, "%s", cue_of(item, any)));
    KS_TRY(ks__tokenize(item, &whole, tokens, err));
done:
    ks_str_free(&whole);
    return st;
}

ks_status ks__longest_question(ks__item *item, int32_t *least, int32_t *most,
                               ks_err *err) {
    ks_status st = KS_OK;
    ks_tokens all = {0}, none = {0}, answer = {0};
    int32_t max_new = 0;
    const ks__text *t = &item->original;
    KS_TRY(with_cue(item, &(question){.text = t}, &all, err));
    KS_TRY(with_cue(item, &(question){.text = NULL}, &none, err));
    KS_TRY(ks_tokenize(item->job->tokenizer, answer_of(item),
                       strlen(answer_of(item)), &answer, err));
    KS_TRY(most_new(item, &max_new, err));
    /* 8: merges at the cue and the answer */
    size_t n = KS_MAX(all.n, none.n) + answer.n + (size_t)max_new + 8;
    *least = (int32_t)KS_MIN(n, (size_t)INT32_MAX);
    size_t more = 0;
    for (size_t i = 0; i < t->steps.n; i++)
        more += t->steps.at[i].end - t->steps.at[i].begin < BYTES ? 2 : 0;
    *most = (int32_t)KS_MIN(n + KS_MIN(more, MORE), (size_t)INT32_MAX);
done:
    ks_tokens_free(&all);
    ks_tokens_free(&none);
    ks_tokens_free(&answer);
    return st;
}
