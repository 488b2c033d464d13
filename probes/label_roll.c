/* label_roll.c - counterfactual resampling: the model goes on from before a
 * step and from after it, to the end; a step matters as far as the answers
 * that it comes to differ. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "label_state.h"

/* The place of an equal answer in the tally, or its end. */
static ks_status find_equal(const json_t *tally, const char *text, size_t n,
                            size_t *at, ks_err *err) {
    ks_status st = KS_OK;
    size_t size = json_array_size(tally);
    for (*at = 0; *at < size; (*at)++) {
        json_t *there = json_array_get(json_array_get(tally, *at), 0);
        bool equal = false;
        size_t length = json_string_length(there);
        if (length == 0 || n == 0)
            equal = length == n; /* no answer is an answer like no other */
        else
            KS_TRY(ks_text_equal(json_string_value(there), length, text, n,
                                 false, &equal, err));
        if (equal) return KS_OK;
    }
done:
    return st;
}

ks_status ks__roll_take(ks__ask *ask, const ks_str *completion, ks_err *err) {
    ks_status st = KS_OK;
    const char *text = completion->data ? completion->data : "";
    const char *gold = ask->item->problem->answer;
    ks_span span = {0};
    bool found = false, equal = false;
    size_t at = 0;
    KS_TRY(ks_text_answer(text, completion->length, false, &span, &found, err));
    size_t n = found ? span.end - span.begin : 0;
    if (found)
        KS_TRY(ks_text_equal(text + span.begin, n, gold, strlen(gold), false,
                             &equal, err));
    ask->right += equal;
    KS_TRY(find_equal(ask->tally, text + span.begin, n, &at, err));
    json_t *entry = json_array_get(ask->tally, at);
    json_int_t count = json_integer_value(json_array_get(entry, 1)) + 1;
    json_t *now = entry ? json_pack("[O,I]", json_array_get(entry, 0), count)
                        : json_pack("[s#,I]", text + span.begin, n, count);
    KS_CHECK(now && !(entry ? json_array_set_new(ask->tally, at, now)
                            : json_array_append_new(ask->tally, now)),
             KS_NOMEM, "out of memory for an answer");
done:
    return st;
}

/* Behind the steps of the clean text ahead of step n, but for the answer's. */
static ks_status send_roll(ks__item *item, const char *key, size_t n,
                           ks_err *err) {
    ks_status st = KS_OK;
    const ks_label_options *o = &item->job->options;
    ks_str whole = {0};
    ks_tokens tokens = {0};
    ks__ask *a = NULL;
    uint8_t *keep = NULL;
    bool any;
    KS_TRY(ks_alloc(&keep, item->clean.steps.n, 1, "steps", err));
    memset(keep, 1, n);
    KS_TRY(ks_str_add(&whole, item->chain->prompt, item->chain->prompt_length,
                      err));
    KS_TRY(ks__text_keep(&item->clean, keep, &whole, &any, err));
    KS_TRY(ks__tokenize(item, &whole, &tokens, err));
    KS_TRY(ks__ask_open(item, key, KS_ASK_SAMPLE, &tokens, NULL, &a, err));
    a->wanted = o->rollouts;
    a->tally = json_array();
    KS_CHECK(a->tally, KS_NOMEM, "out of memory for answers");
    KS_TRY(ks__ask_send(a, 0, o->rollout_new, NULL, 0, err));
done:
    free(keep);
    ks_str_free(&whole);
    ks_tokens_free(&tokens);
    return st;
}

/* The answers behind the first i searched steps; NULL: not known yet. */
static json_t *tally_behind(ks__item *item, int32_t i) {
    char key[32];
    size_t n = (size_t)(i < item->q ? item->steps[i] : item->p);
    snprintf(key, sizeof key, "roll %zu", n);
    json_t *known = ks__recall(item, key);
    if (known) return json_object_get(known, "tally");
    if (ks__is_out(item, key) || !ks__may_ask(item)) return NULL;
    ks_status st = send_roll(item, key, n, &item->err);
    if (st != KS_OK) ks__fail_item(item, st);
    return NULL;
}

static double share_of(const json_t *entry, int32_t n) {
    return (double)json_integer_value(json_array_get(entry, 1)) / n;
}

/* Total variation distance of two tallies of n samples each: 0 alike, 1
 * nothing in common. */
static ks_status distance(const json_t *a, const json_t *b, int32_t n,
                          double *out, ks_err *err) {
    ks_status st = KS_OK;
    double common = 0;
    for (size_t i = 0; i < json_array_size(a); i++) {
        const json_t *entry = json_array_get(a, i);
        const json_t *text = json_array_get(entry, 0);
        size_t at;
        KS_TRY(find_equal(b, json_string_value(text), json_string_length(text),
                          &at, err));
        const json_t *other = json_array_get(b, at);
        if (other) common += fmin(share_of(entry, n), share_of(other, n));
    }
    *out = fmax(0, 1 - common);
done:
    return st;
}

ks__stage_result ks__stage_resample(ks__item *item) {
    ks_status st = KS_OK;
    const ks_label_options *o = &item->job->options;
    bool all = true;
    if (o->rollouts == 0 || item->q == 0) return KS__NEXT;
    if (!item->resample)
        KS_TRY(ks_alloc(&item->resample, (size_t)item->q, sizeof(double),
                        "scores", &item->err));
    for (int32_t i = item->q; i >= 0;
         i--) /* the longest has what others share */
        all &= tally_behind(item, i) != NULL;
    if (!all || item->status != KS_OK) return KS__WAIT;
    for (int32_t i = 0; i < item->q; i++)
        KS_TRY(distance(tally_behind(item, i), tally_behind(item, i + 1),
                        o->rollouts, &item->resample[i], &item->err));
    return KS__NEXT;
done:
    return ks__fail_item(item, st);
}
