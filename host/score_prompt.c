/* score_prompt.c - how the model is asked for its verdict. What all steps of a
 * chain have in common stands in front, so that it is computed once. */
#include <string.h>

#include "score.h"

#define LABELS                                                                 \
    "important: later steps or the answer build on it; without it they would " \
    "lose their support, or the answer would be out of reach.\n"               \
    "removable: without it the reasoning would still hold and come to the "    \
    "same answer.\n\n"                                                         \
    "Signs of an important step: it introduces a quantity, derives a value, "  \
    "sets up an equation or draws a conclusion that is used later. Signs of "  \
    "a removable step: it repeats what is known, hedges, announces or "        \
    "comments on the work, or checks what was already right.\n\n"

static const char with_context[] =
    "Below are a problem and the beginning of a model's reasoning on it, one "
    "step a line. The last line, marked >>>, is the step to judge. Give it "
    "one of two labels.\n\n" LABELS;

static const char alone[] =
    "Below is one step of a model's reasoning on a problem, marked >>>; the "
    "problem and the other steps are not shown. Give the step one of two "
    "labels.\n\n" LABELS;

const char *ks_score_task(ks_score_kind kind) {
    return kind == KS_SCORE_JUDGE        ? with_context
           : kind == KS_SCORE_JUDGE_STEP ? alone
                                         : NULL;
}

/* A step on one line. */
static ks_status add_step(const ks_chain *c, int32_t step, const char *mark,
                          ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    ks_span s = ks_text_trim(c->text, c->steps[step]);
    KS_TRY(ks_str_printf(out, err, "%s", mark));
    size_t begin = out->length;
    KS_TRY(ks_str_add(out, c->text + s.begin, s.end - s.begin, err));
    for (size_t i = begin; i < out->length; i++)
        if (strchr("\n\r", out->data[i]) || !out->data[i]) out->data[i] = ' ';
    KS_TRY(ks_str_add(out, "\n", 1, err));
done:
    return st;
}

/* Behind the assistant's header: thinking that the template opened is closed,
 * and where the model writes its own header it gets that of an answer. */
static ks_status add_verdict(const ks_prompt *p, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    bool opened = ks_text_opening(out->data, out->length) != SIZE_MAX;
    if (p->which == KS_TEMPLATE_HARMONY)
        KS_TRY(ks_str_printf(out, err,
                             "<|start|>assistant<|channel|>final<|message|>"));
    else if (opened)
        KS_TRY(ks_str_printf(out, err, "\n</think>\n\n"));
    else if (p->which == KS_TEMPLATE_RAW)
        KS_TRY(ks_str_printf(out, err, "\n\n"));
    KS_TRY(ks_str_printf(out, err, "Label:"));
done:
    return st;
}

ks_status ks_score_prompt(const ks_prompt *p, ks_score_kind kind,
                          const char *question, const ks_chain *c, int32_t step,
                          ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    ks_str text = {0};
    KS_TRY(ks_str_printf(&text, err, "%s", ks_score_task(kind)));
    if (kind == KS_SCORE_JUDGE) {
        KS_TRY(ks_str_printf(&text, err, "Problem:\n%s\n\nReasoning:\n",
                             question));
        for (int32_t k = 0; k < step; k++)
            KS_TRY(add_step(c, k, "", &text, err));
    }
    KS_TRY(add_step(c, step, ">>> ", &text, err));
    KS_TRY(ks_str_printf(&text, err,
                         "\nAnswer with one word, important or removable."));
    ks_turn turn = {KS_ROLE_USER, text.data};
    KS_TRY(ks_prompt_render_turns(p, &turn, 1, out, err));
    KS_TRY(add_verdict(p, out, err));
done:
    ks_str_free(&text);
    return st;
}
