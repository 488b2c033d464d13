/* prompt_render.c - conversations as the families' chat templates write them.
 */
#include <string.h>

#include "prompt.h"

#define BAR "\xEF\xBD\x9C"
#define BLOCK "\xE2\x96\x81"

static const char *const role_names[] = {"system", "user", "assistant"};

static ks_status add_chatml(const ks_prompt *p, const ks_turn *t, ks_str *out,
                            ks_err *err) {
    const char *role = role_names[t->role];
    if (!p->plain_marks)
        return ks_str_printf(out, err, "<|im_start|>%s\n%s<|im_end|>\n", role,
                             t->text);
    return ks_str_printf(out, err, "<|%s|>\n%s%s\n", role, t->text,
                         t->role == KS_ROLE_ASSISTANT ? "<|endoftext|>" : "");
}

static ks_status add_deepseek(const ks_turn *t, ks_str *out, ks_err *err) {
    static const char *const before[] = {"", "<" BAR "User" BAR ">",
                                         "<" BAR "Assistant" BAR ">"};
    static const char *const behind[] = {
        "", "", "<" BAR "end" BLOCK "of" BLOCK "sentence" BAR ">"};
    return ks_str_printf(out, err, "%s%s%s", before[t->role], t->text,
                         behind[t->role]);
}

/* Its template trims every text. The dates are those that Llama 3.1's falls
 * back to: a prompt must not depend on the day. */
static ks_status add_llama3(const ks_turn *t, bool dated, ks_str *out,
                            ks_err *err) {
    static const char space[] = " \t\r\n\v\f";
    const char *dates = dated ? "Cutting Knowledge Date: December 2023\n"
                                "Today Date: 26 Jul 2024\n\n"
                              : "";
    const char *text = t->text + strspn(t->text, space);
    size_t n = strlen(text);
    while (n > 0 && strchr(space, text[n - 1])) n--;
    return ks_str_printf(
        out, err, "<|start_header_id|>%s<|end_header_id|>\n\n%s%.*s<|eot_id|>",
        role_names[t->role], dates, (int)n, text);
}

static ks_status add_harmony(const ks_turn *t, ks_str *out, ks_err *err) {
    static const char *const before[] = {
        "<|start|>developer<|message|># Instructions\n\n",
        "<|start|>user<|message|>",
        "<|start|>assistant<|channel|>final<|message|>"};
    return ks_str_printf(out, err, "%s%s<|end|>", before[t->role], t->text);
}

static ks_status add_turn(const ks_prompt *p, const ks_turn *t, ks_str *out,
                          ks_err *err) {
    switch (p->which) {
    case KS_TEMPLATE_CHATML:
    case KS_TEMPLATE_QWEN:
    case KS_TEMPLATE_OLMO:
        return add_chatml(p, t, out, err);
    case KS_TEMPLATE_LLAMA3:
        return add_llama3(t, false, out, err);
    case KS_TEMPLATE_DEEPSEEK_R1:
        return add_deepseek(t, out, err);
    case KS_TEMPLATE_HARMONY:
        return add_harmony(t, out, err);
    default:
        return ks_str_printf(out, err, "%s", t->text);
    }
}

/* What stands ahead of the turns; *taken: the first of them went into it. */
static ks_status add_head(const ks_prompt *p, const ks_turn *first,
                          size_t *taken, ks_str *out, ks_err *err) {
    bool system = first && first->role == KS_ROLE_SYSTEM;
    *taken = 0;
    if (p->which == KS_TEMPLATE_HARMONY)
        /* its current date is left out, for the same reason */
        return ks_str_printf(
            out, err,
            "<|start|>system<|message|>You are ChatGPT, a large language model "
            "trained by OpenAI.\nKnowledge cutoff: 2024-06\n\n"
            "Reasoning: medium\n\n# Valid channels: analysis, commentary, "
            "final. Channel must be included for every message.<|end|>");
    if (p->which == KS_TEMPLATE_LLAMA3 && p->dated) {
        static const ks_turn none = {KS_ROLE_SYSTEM, ""};
        *taken = system;
        return add_llama3(system ? first : &none, true, out, err);
    }
    if (p->system && !system &&
        (p->which == KS_TEMPLATE_CHATML || p->which == KS_TEMPLATE_QWEN ||
         p->which == KS_TEMPLATE_OLMO))
        return ks_str_printf(out, err, "<|im_start|>system\n%s<|im_end|>\n",
                             p->system);
    return KS_OK;
}

/* The header of the turn that the model is to write. Harmony: none, the model
 * writes its own. */
static ks_status add_opening(const ks_prompt *p, ks_str *out, ks_err *err) {
    switch (p->which) {
    case KS_TEMPLATE_CHATML:
    case KS_TEMPLATE_QWEN:
    case KS_TEMPLATE_OLMO:
        return ks_str_printf(out, err, "%s\n%s",
                             p->plain_marks ? "<|assistant|>"
                                            : "<|im_start|>assistant",
                             p->opening);
    case KS_TEMPLATE_LLAMA3:
        return ks_str_printf(
            out, err, "<|start_header_id|>assistant<|end_header_id|>\n\n");
    case KS_TEMPLATE_DEEPSEEK_R1:
        return ks_str_printf(out, err, "<" BAR "Assistant" BAR ">%s",
                             p->opening);
    default:
        return KS_OK;
    }
}

ks_status ks_prompt_render_turns(const ks_prompt *p, const ks_turn *turns,
                                 size_t n, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    size_t taken = 0;
    KS_TRY(ks_str_printf(out, err, "%s", p->bos));
    KS_TRY(add_head(p, n ? turns : NULL, &taken, out, err));
    for (size_t i = taken; i < n; i++) {
        if (i > 0 && p->which == KS_TEMPLATE_RAW)
            KS_TRY(ks_str_printf(out, err, "\n\n"));
        KS_TRY(add_turn(p, &turns[i], out, err));
    }
    KS_TRY(add_opening(p, out, err));
done:
    return st;
}

ks_status ks_prompt_render(const ks_prompt *p, const char *question,
                           ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    ks_str task = {0};
    ks_turn turn = {KS_ROLE_USER, question};
    if (p->which != KS_TEMPLATE_RAW && *p->instruction) {
        KS_TRY(ks_str_printf(&task, err, "%s\n\nProblem:\n%s\n", p->instruction,
                             question));
        turn.text = task.data;
    }
    KS_TRY(ks_prompt_render_turns(p, &turn, 1, out, err));
done:
    ks_str_free(&task);
    return st;
}
