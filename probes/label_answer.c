/* label_answer.c - what the answers to questions say. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "label_state.h"

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
static ks_status read_answer(const ks__ask *a, const ks_str *completion,
                             ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    const char *cue = a->cue;
    const ks_label_options *o = &a->item->job->options;
    ks_str text = {0};
    ks_spans boxes = {0};
    ks_span span = {0};
    bool found = false, boxed = ks__leaves_box(cue);
    if (o->compat & KS_COMPAT_BOX) /* the question's box too, left open */
        KS_TRY(ks_add_ids(a->item->job->tokenizer, a->ids, a->n, &text, err));
    else
        KS_TRY(ks_str_printf(&text, err, "%s", boxed ? KS__BOX : cue));
    KS_TRY(ks_str_add(&text, completion->data ? completion->data : "",
                      completion->length, err));
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
    KS_TRY(read_answer(a, &completion, &said, err));
    if (said.length > 0)
        KS_TRY(ks_text_equal(said.data, said.length, item->problem->answer,
                             strlen(item->problem->answer),
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
    KS_TRY(ks__remember(a->item, a->key, value_of(a, answer), a->text, a->tally,
                        err));
    a->item->worker->out -= a->n;
    if (--a->item->pending == 0) *item = a->item;
    ks__ask_free(a);
done:
    return st;
}
