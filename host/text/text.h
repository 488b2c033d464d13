/* text.h - what Keystep reads out of text: the thinking part of an output,
 * its steps, boxed and stated answers, whether two answers are equal, whether
 * a step gives the answer away, and the surface features of a step.
 *
 * Every function takes UTF-8 with its length (NULs are ordinary characters)
 * and refuses malformed UTF-8 with KS_FORMAT, naming the byte. Spans are byte
 * offsets, end exclusive. All functions are thread-safe and take time linear
 * in the text unless said otherwise; nesting of any depth is safe.
 *
 * `compat` asks for the answer that the published implementation of the method
 * gives, mistakes included (arXiv 2604.18307, the code beside it).
 */
#ifndef KS_TEXT_H
#define KS_TEXT_H

#include "base.h"

typedef struct ks_span {
    size_t begin, end;
} ks_span;

/* A list of spans; starts as {0}, owned by the caller, may be reused. */
typedef struct ks_spans {
    ks_span *at;
    size_t n, capacity;
} ks_spans;

void ks_spans_free(ks_spans *spans);
ks_status ks_spans_add(ks_spans *spans, size_t begin, size_t end, ks_err *err);

/* KS_FORMAT naming the first malformed byte of `what`, or KS_OK. */
ks_status ks_text_check(const char *text, size_t n, const char *what,
                        ks_err *err);
/* Whitespace as Python's str.isspace has it: bidirectional class WS, B or S,
 * or category Zs. */
bool ks_is_space(int32_t code_point);
/* The span without white space at its ends. */
ks_span ks_text_trim(const char *text, ks_span span);
/* Code points of well-formed text. */
size_t ks_text_code_points(const char *text, size_t n);

/* ----------------------------------------------------------------- extract */

/* The chat templates whose output is understood. */
typedef enum ks_template {
    KS_TEMPLATE_AUTO, /* by the first mark in the text */
    KS_TEMPLATE_CHATML,
    KS_TEMPLATE_DEEPSEEK_R1,
    KS_TEMPLATE_LLAMA3,
    KS_TEMPLATE_QWEN,
    KS_TEMPLATE_OLMO,
    KS_TEMPLATE_HARMONY,
    KS_TEMPLATE_RAW,
    KS_N_TEMPLATES
} ks_template;

/* "chatml", "deepseek-r1", ...; NULL beyond the list */
const char *ks_template_name(ks_template which);
/* KS_USAGE naming the known ones. */
ks_status ks_template_find(const char *name, ks_template *out, ks_err *err);

/* The thinking part of a model's output. First match wins.
 *   deepseek-r1, qwen, olmo: between <think> and the first </think> after it;
 *     before the last </think>; after <think>; the whole text.
 *   harmony: the analysis or commentary message up to <|end|> or the text's
 *     end; an unnamed <|start|> block up to the final channel or the end;
 *     between the user's turn and the final channel; the whole text.
 *   chatml, llama3: the last assistant turn up to its end mark, in it the
 *     rule of <think>.
 *   raw: the whole text.
 *   auto: the mark that stands first decides; none: raw.
 * *closed (may be NULL): a mark that ends the thinking was found. */
ks_status ks_text_extract(const char *text, size_t n, ks_template which,
                          ks_span *out, bool *closed, ks_err *err);
/* Where the mark begins that opens the thinking and in which the text ends,
 * blanks behind it not counted; SIZE_MAX: it ends in none. */
size_t ks_text_opening(const char *text, size_t n);

/* ------------------------------------------------------------------- split */

/* The steps of a chain. A step ends after the first character of a paragraph
 * mark ("\n\n", "\r\n\r\n") and after . ? ! before a space or "\n". Text left
 * at the end is a step unless blank. A piece of fewer than 10 code points
 * (white space at its ends not counted) joins the step before it; the first
 * piece never does. Steps tile the text; only a blank tail stays out. */
ks_status ks_text_split(const char *text, size_t n, ks_spans *out, ks_err *err);

/* ----------------------------------------------------------------- answers */

/* The content of every \boxed{...}, in the order of opening, nested ones too;
 * an unclosed one reaches to the end of the text. \{ and \} do not count as
 * braces; blank boxes are left out. compat: they do, and only boxes without a
 * character are left out. */
ks_status ks_text_boxes(const char *text, size_t n, bool compat, ks_spans *out,
                        ks_err *err);

/* The final answer of a text. The last box; without a box the last "#### x"
 * line; the x of the last "answer is x", "result: x", "answer = x" ...; in the
 * last sentence that has a number, what follows its last "=", else its last
 * number. compat: boxes only. *found is false when there is none. */
ks_status ks_text_answer(const char *text, size_t n, bool compat, ks_span *out,
                         bool *found, ks_err *err);

/* The step that gives the answer. The last step with a box decides: *index is
 * that step if its last box equals gold, else -1 and *wrong. Without any box:
 * the last step that holds gold as a whole word or number (compat: whose
 * normal form contains gold's); none: -1 and not wrong. */
ks_status ks_text_answer_step(const char *text, size_t n, const ks_spans *steps,
                              const char *gold, size_t n_gold, bool compat,
                              int64_t *index, bool *wrong, ks_err *err);

/* Whether two final answers mean the same; the rules stand in equal.h. b is
 * the reference where compat is not symmetric. */
ks_status ks_text_equal(const char *a, size_t n_a, const char *b, size_t n_b,
                        bool compat, bool *equal, ks_err *err);

/* ------------------------------------------------------------------ states */

/* Whether a step gives the answer away:
 *   (i) on one line: thus, therefore, so, hence, consequently or this means;
 *       then answer or result; then, after a character, gold;
 *  (ii) the, our or my, optionally final, answer or result; then gold so;
 * (iii) a box that equals gold;
 *  (iv) a stated answer (ks_text_answer's second and third rule) that equals
 *       gold.
 * Words and gold must stand alone: "resolve" is no "so", 13 and 3.5 hold no 3.
 * A blank gold is KS_FORMAT.
 * compat: parts of words count; in place of (iv): thus, therefore, so, hence
 * or consequently, an optional comma, a space, answer or result and one more
 * character, with no look at gold. */
ks_status ks_text_states(const char *step, size_t n, const char *gold,
                         size_t n_gold, bool compat, bool *states, ks_err *err);

/* ----------------------------------------------------------------- surface */

typedef enum ks_category {
    KS_FILLER,
    KS_VERIFICATION,
    KS_PLANNING,
    KS_COMPUTATION,
    KS_FACT_RETRIEVAL,
    KS_N_CATEGORIES
} ks_category;

const char *ks_category_name(ks_category category);

/* What can be read off a step without its meaning. Token counts are not here:
 * they need a tokenizer. */
typedef struct ks_surface_row {
    int64_t position; /* steps before this one */
    /* (position + 1) / n_steps; compat: position / (n_steps - 1), 0 for a
     * single step; NaN when n_steps is not known */
    double relative_position;
    int64_t characters; /* code points */
    int64_t words;      /* runs without white space */
    int64_t numbers;    /* \b\d+(\.\d+)?\b */
    int64_t operators;  /* of + - * / ^ = < > <= >= != +- (one character) */
    bool category[KS_N_CATEGORIES]; /* one of its phrases occurs, in any case */
    /* cosine of TF-IDF vectors (idf = ln((1 + n) / (1 + df)) + 1 over the
     * prompt, the earlier steps and this one); 0 when there is nothing to
     * compare with */
    double tfidf_mean_before, tfidf_max_before, tfidf_prompt;
} ks_surface_row;

/* The features of a chain's steps, one after another. Terms are words and
 * single signs, lower case; compat: words of two characters and more. */
typedef struct ks_surface ks_surface;

/* prompt may be NULL. n_steps: of the whole chain, 0 when unknown. */
ks_status ks_surface_open(ks_surface **out, const char *prompt, size_t n_prompt,
                          int64_t n_steps, bool compat, ks_err *err);
void ks_surface_close(ks_surface **surface);
/* Adds the next step; row (may be NULL: only remember it) gets its features.
 * Time linear in all terms so far. */
ks_status ks_surface_step(ks_surface *surface, const char *step, size_t n,
                          ks_surface_row *row, ks_err *err);

#endif
