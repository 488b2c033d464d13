/* prompt.h - what a model's files say about talking to it: which chat
 * template renders a problem, whether a BOS goes in front, and which ids end a
 * generation. Templates are recognised by the marks in the chat template's
 * text and rendered natively; no template language is run. */
#ifndef KS_PROMPT_H
#define KS_PROMPT_H

#include "text/text.h"

typedef struct ks_prompt {
    ks_template which; /* never KS_TEMPLATE_AUTO */
    char *bos;         /* text to put in front; "" none */
    char *system;      /* the template's default system message; NULL: none */
    char *opening;     /* what follows the assistant's header: "<think>\n" */
    const char *instruction; /* borrowed; "": the question stands alone */
    bool dated;              /* Llama 3.1's header with its fixed dates */
    bool plain_marks; /* OLMo 2's <|user|> in place of <|im_start|>user */
    int32_t *stops;   /* [n_stops] ids after which nothing is generated */
    size_t n_stops, stops_capacity;
} ks_prompt;

/* model: as for ks_engine_open. which: KS_TEMPLATE_AUTO chooses by the model's
 * own template, raw when it has none. */
ks_status ks_prompt_open(ks_prompt *out, const char *model,
                         const ks_tokenizer *tokenizer, ks_template which,
                         ks_err *err);
/* The family's template as it is without a model at hand: no default system
 * message, the BOS that all of its models have; AUTO is raw. */
ks_status ks_prompt_of(ks_prompt *out, ks_template which, ks_err *err);
void ks_prompt_close(ks_prompt *prompt);

typedef enum ks_role {
    KS_ROLE_SYSTEM,
    KS_ROLE_USER,
    KS_ROLE_ASSISTANT
} ks_role;

typedef struct ks_turn {
    ks_role role;
    const char *text; /* borrowed; of the assistant's the answer alone */
} ks_turn;

/* A conversation, up to where the model starts to write its next turn. Without
 * a system turn in front the template's default one comes first. Raw: the
 * texts, blank lines between them. */
ks_status ks_prompt_render_turns(const ks_prompt *prompt, const ks_turn *turns,
                                 size_t n, ks_str *out, ks_err *err);

/* The same for one question. Raw: the question as it is. Others: one user turn
 * that holds the instruction, "Problem:", the question and a newline, or with
 * an empty instruction the bare question. */
ks_status ks_prompt_render(const ks_prompt *prompt, const char *question,
                           ks_str *out, ks_err *err);

bool ks_prompt_stops(const ks_prompt *prompt, int32_t id);

/* The folder of a model file, or the path itself when it is a folder or a
 * GGUF: where ks_tokenizer_open finds the tokenizer. malloc'd. */
ks_status ks_model_home(char **out, const char *model, ks_err *err);

#endif
