/* chains.h - problems, chains and labels as JSON Lines, read whole and
 * validated before any model runs. Every error names file, line and reason. */
#ifndef KS_CHAINS_H
#define KS_CHAINS_H

#include "keystep.h"
#include "text/text.h"

/* What a reader keeps of a line besides the fields that its struct names: a
 * chain's JSON object is several times its text. */
typedef enum ks_keep {
    KS_KEEP_FIELDS,  /* nothing; `object` is NULL */
    KS_KEEP_OBJECTS, /* the object, for who writes lines back with all fields or
                        reads more of them */
    KS_KEEP_UNSPLIT  /* the object, whose "steps" are not looked at: for who
                        replaces them */
} ks_keep;

/* {"id","question","answer"?, ...} */
typedef struct ks_problem {
    const char *id, *question, *answer; /* answer NULL: the line has none */
    json_t *object;                     /* owned, or NULL */
    char *texts; /* owned: the strings above when no object holds them */
} ks_problem;

typedef struct ks_problems {
    ks_problem *at;
    size_t n;
    json_t *index; /* id -> place */
} ks_problems;

/* {"id","problem","prompt","text","rest"?,"question"?,
 * "steps"?:[{"begin","end"}], ...} */
typedef struct ks_chain {
    const char *id, *problem, *prompt, *text, *rest;
    const char *question; /* NULL: the line has no such string */
    size_t prompt_length, text_length, rest_length, question_length;
    ks_span *steps; /* offsets into text; NULL: the line has none */
    int32_t n_steps;
    char text_sha256[65]; /* of the bytes of text */
    json_t *object;       /* owned, or NULL */
    char *texts;          /* as in ks_problem */
} ks_chain;

typedef struct ks_chains {
    ks_chain *at;
    size_t n;
    json_t *index;    /* id -> place */
    const char *path; /* as given, borrowed: for sentences */
} ks_chains;

/* {"chain","method"?,"labels":[1|0|null,...],"scores"?:{name:[number|null]}} */
typedef struct ks_label {
    const char *chain, *method; /* method "" when the line has none */
    const char *text_sha256;    /* of the text labelled; NULL: not said */
    int8_t *labels;             /* [n_steps] 1, 0, -1 null */
    int32_t n_steps;
    json_t *object; /* owned, or NULL */
    char *texts;    /* as in ks_problem */
} ks_label;

typedef struct ks_labels {
    ks_label *at;
    size_t n;
    json_t *index;    /* chain -> place */
    const char *path; /* as given, borrowed: for sentences */
} ks_labels;

/* Ids unique, at least one line. A failed read leaves {0}. path stays with
 * the caller as long as the list lives. */
ks_status ks_problems_read(ks_problems *out, const char *path, ks_keep keep,
                           ks_err *err);
void ks_problems_free(ks_problems *problems);
/* NULL: no such id. */
const ks_problem *ks_problems_find(const ks_problems *problems, const char *id);

/* Ids unique; steps in order, inside the text, between characters. */
ks_status ks_chains_read(ks_chains *out, const char *path, ks_keep keep,
                         ks_err *err);
void ks_chains_free(ks_chains *chains);
const ks_chain *ks_chains_find(const ks_chains *chains, const char *id);
/* Sets "steps" of the chain and, where it is kept, of its object. tokens
 * [steps] (may be NULL): their "token_begin" and "token_end" in the object. */
ks_status ks_chain_set_steps(ks_chain *chain, const ks_spans *steps,
                             const ks_span *tokens, ks_err *err);
/* A chain's "steps", new; tokens as above. */
ks_status ks_steps_json(const ks_spans *steps, const ks_span *tokens,
                        json_t **out, ks_err *err);

/* The tokens of bytes [begin, end) of the text that was tokenised: those whose
 * first byte is there. *at moves forward from call to call: spans are in order.
 */
ks_span ks_tokens_of(const ks_tokens *tokens, int64_t begin, int64_t end,
                     size_t *at);
/* Of each step, in one tokenisation of prompt + text: spans [n_steps], counted
 * from the prompt's first token. */
ks_status ks_chain_tokens(const ks_chain *chain, const ks_tokenizer *tokenizer,
                          const ks_spans *steps, ks_span *out, ks_err *err);

/* One line a chain; all score lists as long as the labels. */
ks_status ks_labels_read(ks_labels *out, const char *path, ks_keep keep,
                         ks_err *err);
void ks_labels_free(ks_labels *labels);
/* The line for a chain id, or NULL. */
const ks_label *ks_labels_find(const ks_labels *labels, const char *chain);
/* Every label line has its chain, with as many steps and, where the line
 * carries "text_sha256", the same text; else KS_MISMATCH. */
ks_status ks_labels_fit(const ks_labels *labels, const ks_chains *chains,
                        ks_err *err);

/* Labels of clean chains turned into labels of the chains that those were cut
 * from: a clean chain names its original in "of" and, in "map", for each of its
 * steps the original's step, a list of them, or null. A step that nothing maps
 * to gets null, and so does one that clean steps of different labels map to.
 * Every list of a label line that has a value a step ("scores" too) goes along.
 * steps_of: how many steps the original has, -1 when it is not known; place:
 * where it was looked for, for the sentence. The labels are checked against
 * the clean chains first, as ks_labels_fit does. Both lists were read with
 * their objects; the labels' are kept. */
typedef int32_t (*ks_steps_of_fn)(void *user, const char *chain);
ks_status ks_labels_project(ks_labels *labels, const ks_chains *clean,
                            ks_steps_of_fn steps_of, void *user,
                            const char *place, ks_err *err);

#endif
