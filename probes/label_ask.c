/* label_ask.c - questions about sets of steps: texts, tokens, requests, and
 * what the answers say. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "label_state.h"

static const char box[] = "\\boxed{";

/* ---------------------------------------------------------------- memories */

/* "e c 1f03": what is asked, of which text, which steps. */
static ks_status make_key(const char *what, const ks__item *item,
                          const ks__text *text, const uint8_t *keep,
                          ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_str_printf(out, err, "%s", what));
    if (!text) return KS_OK;
    KS_TRY(
        ks_str_printf(out, err, " %c ", text == &item->original ? 'o' : 'c'));
    if (!keep) return ks_str_printf(out, err, "all");
    size_t n = text->steps.n;
    while (n > 0 && (!keep[n - 1] || (int64_t)n - 1 == text->answer)) n--;
    for (size_t i = 0; i < n; i += 4) {
        unsigned digit = 0;
        for (size_t b = i; b < i + 4 && b < n; b++)
            digit |= (keep[b] && (int64_t)b != text->answer ? 1u : 0)
                     << (b - i);
        KS_TRY(ks_str_printf(out, err, "%x", digit));
    }
done:
    return st;
}

json_t *ks__recall(const ks__item *item, const char *key) {
    return json_object_get(item->known, key);
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
    if (!job->journal) return KS_OK;
    json_t *line = json_pack("{s:s,s:s,s:O}", "chain", item->chain->id, "key",
                             key, "answer", value);
    KS_CHECK(line, KS_NOMEM, "out of memory for an answer");
    pthread_mutex_lock(&job->mutex);
    bool good = !json_dumpf(line, job->journal, JSON_COMPACT) &&
                putc('\n', job->journal) != EOF && fflush(job->journal) == 0;
    pthread_mutex_unlock(&job->mutex);
    KS_CHECK(good, KS_IO, "%s: cannot write", job->part);
done:
    json_decref(line);
    return st;
}

/* text: of the first sample; tally: of rollouts; either may be NULL. */
static ks_status remember(ks__item *item, const char *key, double value,
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

bool ks__is_out(const ks__item *item, const char *key) {
    for (const ks__ask *a = item->asks; a; a = a->next)
        if (strcmp(a->key, key) == 0) return true;
    return false;
}

/* ------------------------------------------------------------------- texts */

static const char *answer_of(const ks__item *item) {
    return item->problem->answer;
}

/* The cue leaves a box open, which the answer closes. */
static bool leaves_box(const char *cue) {
    size_t n = strlen(cue);
    return n >= sizeof box - 1 && strcmp(cue + n - (sizeof box - 1), box) == 0;
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
                         leaves_box(cue) ? "}" : "");
}

/* Prompt and kept steps (NULL: the whole text). */
static ks_status add_steps(const ks__item *item, const ks__text *text,
                           const uint8_t *keep, ks_str *out, bool *any,
                           ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(add_prompt(item, out, err));
    *any = true;
    if (!text)
        *any = false;
    else if (!keep)
        KS_TRY(ks_str_add(out, text->data, text->length, err));
    else
        KS_TRY(ks__text_keep(text, keep, out, any, err));
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
    KS_CHECK(a->key, KS_NOMEM, "out of memory for a question");
    size_t more = rest ? rest->n : 0;
    KS_TRY(ks_alloc(&a->ids, front->n + more, sizeof(int32_t), "ids", err));
    memcpy(a->ids, front->ids, front->n * sizeof(int32_t));
    if (more > 0) memcpy(a->ids + front->n, rest->ids, more * sizeof(int32_t));
    a->n = (int32_t)(front->n + more);
    *out = a;
done:
    return st;
}

ks_status ks__ask_send(ks__ask *a, int32_t from, int32_t max_new,
                       const int32_t *last_ids, int32_t n_last_ids,
                       ks_err *err) {
    ks_status st = KS_OK;
    ks__item *item = a->item;
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
    bool boxed = leaves_box(cue);
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

static ks_status send_enough(ks__item *item, const char *key,
                             const ks__text *text, const uint8_t *keep,
                             bool fresh, ks_err *err) {
    ks_status st = KS_OK;
    const ks_label_options *o = &item->job->options;
    ks_str whole = {0};
    ks_tokens tokens = {0}, answer = {0};
    ks__ask *a = NULL;
    bool any = false, closed = false;
    int32_t max_new = 0;
    KS_TRY(add_steps(item, text, keep, &whole, &any, err));
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
    if (!o->exact) a->wanted = fresh ? o->confirm : o->samples;
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
    ks_str key = {0};
    ks_status st = make_key(fresh ? "fresh" : "enough", item, text, keep, &key,
                            &item->err);
    bool known = st == KS_OK && recall(item, key.data, out);
    if (st == KS_OK && !known && !ks__is_out(item, key.data))
        st = send_enough(item, key.data, text, keep, fresh, &item->err);
    if (st != KS_OK) ks__fail_item(item, st);
    ks_str_free(&key);
    return known;
}

bool ks__recall_enough(ks__item *item, const ks__text *text,
                       const uint8_t *keep, double *out) {
    ks_str key = {0};
    ks_status st = make_key("enough", item, text, keep, &key, &item->err);
    bool known = st == KS_OK && recall(item, key.data, out);
    if (st != KS_OK) ks__fail_item(item, st);
    ks_str_free(&key);
    return known;
}

/* ------------------------------------------------------------ perplexities */

/* Scores of all tokens that begin at byte `begin` or later. */
static ks_status send_score(ks__item *item, const char *key,
                            const ks_str *whole, size_t begin, ks_err *err) {
    ks_status st = KS_OK;
    ks_tokens tokens = {0};
    ks__ask *a = NULL;
    KS_TRY(ks__tokenize(item, whole, &tokens, err));
    size_t from = 0;
    while (from < tokens.n && (size_t)tokens.begin[from] < begin) from++;
    if (item->job->options.compat & KS_COMPAT_PPL) from = 0;
    from = KS_MAX(from, 1); /* the first has nothing ahead of it */
    if (from >= tokens.n) {
        KS_TRY(remember(item, key, 0, NULL, NULL, err));
        goto done;
    }
    KS_TRY(ks__ask_open(item, key, KS_ASK_SCORE, &tokens, NULL, &a, err));
    KS_TRY(ks__ask_send(a, (int32_t)from, 0, NULL, 0, err));
done:
    ks_tokens_free(&tokens);
    return st;
}

static bool ask_score(ks__item *item, const char *what, const ks__text *text,
                      const uint8_t *keep, bool suffix, double *out) {
    ks_status st = KS_OK;
    ks_err *err = &item->err;
    ks_str key = {0}, whole = {0};
    bool known = false, any = false;
    KS_TRY(make_key(what, item, text, keep, &key, err));
    known = recall(item, key.data, out);
    if (known || ks__is_out(item, key.data)) goto done;
    KS_TRY(add_steps(item, text, keep, &whole, &any, err));
    if (suffix) KS_TRY(add_suffix(item, any, &whole, err));
    KS_TRY(send_score(item, key.data, &whole, item->chain->prompt_length, err));
    known = recall(item, key.data, out); /* of no tokens */
done:
    if (st != KS_OK) ks__fail_item(item, st);
    ks_str_free(&key);
    ks_str_free(&whole);
    return known;
}

bool ks__ask_nll(ks__item *item, const ks__text *text, const uint8_t *keep,
                 bool suffix, double *out) {
    return ask_score(item, suffix ? "nll+" : "nll", text, keep, suffix, out);
}

bool ks__ask_answer_nll(ks__item *item, double *out) {
    return ask_score(item, "nll0", NULL, NULL, true, out);
}

/* Scores of the answer's own tokens, without the brace. */
static ks_status send_answer(ks__item *item, const char *key,
                             const ks__text *text, const uint8_t *keep,
                             ks_err *err) {
    ks_status st = KS_OK;
    ks_str whole = {0};
    ks_tokens tokens = {0}, answer = {0};
    ks__ask *a = NULL;
    bool any = false, closed = false;
    KS_TRY(add_steps(item, text, keep, &whole, &any, err));
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
    ks_str key = {0};
    ks_status st = make_key("answer", item, text, keep, &key, &item->err);
    bool known = st == KS_OK && recall(item, key.data, out);
    if (st == KS_OK && !known && !ks__is_out(item, key.data))
        st = send_answer(item, key.data, text, keep, &item->err);
    if (st != KS_OK) ks__fail_item(item, st);
    ks_str_free(&key);
    return known;
}

/* ----------------------------------------------------------------- answers */

/* The last box that was closed, for the limit of tokens may cut another short;
 * compat: the last one. */
static size_t last_box(const ks_spans *boxes, size_t end, uint32_t compat) {
    size_t i = boxes->n - 1;
    if (compat & KS_COMPAT_BOX) return i;
    while (i > 0 && boxes->at[i].end == end) i--;
    return boxes->at[i].end == end ? boxes->n - 1 : i;
}

/* What a sample says: the last box of its completion, in the box that the cue
 * opened; without a box in the cue, the answer that cue and completion state.
 * compat: the last box of everything. */
static ks_status read_answer(const ks__item *item, const ks_str *completion,
                             const char *cue, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    const ks_label_options *o = &item->job->options;
    ks_str text = {0};
    ks_spans boxes = {0};
    ks_span span = {0};
    bool found = false, boxed = leaves_box(cue);
    if (o->compat & KS_COMPAT_BOX)
        KS_TRY(ks_str_printf(&text, err, "%s%s", item->chain->prompt,
                             item->clean.data ? item->clean.data
                                              : item->original.data));
    KS_TRY(ks_str_printf(&text, err, "%s%s", boxed ? box : cue,
                         completion->data ? completion->data : ""));
    if (boxed) {
        KS_TRY(ks_text_boxes(text.data, text.length,
                             (o->compat & KS_COMPAT_EQUAL) != 0, &boxes, err));
        found = boxes.n > 0;
        if (found) span = boxes.at[last_box(&boxes, text.length, o->compat)];
    } else {
        KS_TRY(
            ks_text_answer(text.data, text.length, false, &span, &found, err));
    }
    KS_TRY(ks_str_add(out, "", 0, err));
    if (found)
        KS_TRY(ks_str_add(out, text.data + span.begin, span.end - span.begin,
                          err));
done:
    ks_str_free(&text);
    ks_spans_free(&boxes);
    return st;
}

static ks_status take_sample(ks__ask *a, const ks_answer *answer, ks_err *err) {
    ks_status st = KS_OK;
    const ks__item *item = a->item;
    const ks_label_options *o = &item->job->options;
    ks_str completion = {0}, said = {0};
    bool equal = false;
    int32_t n = answer->n - (answer->finish == KS_FINISH_STOP);
    KS_TRY(ks_add_ids(item->job->tokenizer, answer->ids, n, &completion, err));
    if (a->tally) {
        KS_TRY(ks__roll_take(a, &completion, err));
        goto done;
    }
    KS_TRY(read_answer(item, &completion, a->cue, &said, err));
    if (said.length > 0)
        KS_TRY(ks_text_equal(said.data, said.length, answer_of(item),
                             strlen(answer_of(item)),
                             (o->compat & KS_COMPAT_EQUAL) != 0, &equal, err));
    a->right += equal;
    if (!a->text) {
        a->text = strdup(said.data);
        KS_CHECK(a->text, KS_NOMEM, "out of memory for an answer");
    }
done:
    ks_str_free(&completion);
    ks_str_free(&said);
    return st;
}

static double sum_of(const float *logs, int32_t n) {
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += (double)logs[i];
    return sum;
}

/* The value that is kept under the question's key. */
static double value_of(const ks__ask *a, const ks_answer *answer) {
    double sum = a->kind == KS_ASK_SAMPLE ? 0 : sum_of(answer->logs, answer->n);
    if (a->kind == KS_ASK_SAMPLE) return (double)a->right / a->wanted;
    if (a->kind == KS_ASK_SHARE) return exp(sum);
    return strncmp(a->key, "answer", 6) == 0 ? sum : -sum / answer->n;
}

ks_status ks__answered(const ks_request *request, const ks_answer *answer,
                       ks__item **item, ks_err *err) {
    ks_status st = KS_OK;
    ks__ask *a = (ks__ask *)request->tag;
    *item = NULL;
    if (a->kind == KS_ASK_SAMPLE) KS_TRY(take_sample(a, answer, err));
    if (++a->answered < a->wanted) return KS_OK;
    KS_TRY(
        remember(a->item, a->key, value_of(a, answer), a->text, a->tally, err));
    if (--a->item->pending == 0) *item = a->item;
    ks__ask_free(a);
done:
    return st;
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
        ks_span s = t->steps.at[i];
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

ks_status ks__longest_question(ks__item *item, int32_t *tokens, ks_err *err) {
    ks_status st = KS_OK;
    ks_str whole = {0};
    ks_tokens all = {0}, answer = {0};
    bool any;
    int32_t max_new = 0;
    KS_TRY(add_steps(item, &item->original, NULL, &whole, &any, err));
    KS_TRY(ks_str_printf(&whole, err, "%s", item->job->cue));
    KS_TRY(ks__tokenize(item, &whole, &all, err));
    KS_TRY(ks_tokenize(item->job->tokenizer, answer_of(item),
                       strlen(answer_of(item)), &answer, err));
    KS_TRY(most_new(item, &max_new, err));
    /* cutting steps may undo merges of tokens, a token a cut at most */
    size_t n = all.n + answer.n + item->original.steps.n + 8;
    *tokens = (int32_t)KS_MIN(n + (size_t)max_new, (size_t)INT32_MAX);
done:
    ks_str_free(&whole);
    ks_tokens_free(&all);
    ks_tokens_free(&answer);
    return st;
}
