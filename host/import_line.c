/* import_line.c - the text of one line: prompt, thinking and what follows. */
#include <stdlib.h>
#include <string.h>

#include "generate.h"
#include "import.h"

#define THINK "<think>"
#define THINK_END "</think>"
#define ANALYSIS "<|start|>assistant<|channel|>analysis<|message|>"
#define FINAL "<|start|>assistant<|channel|>final<|message|>"

void ks__draft_free(ks__draft *d) {
    ks_str_free(&d->question);
    ks_str_free(&d->gold);
    ks_str_free(&d->whole);
    ks_spans_free(&d->steps);
}

ks_status ks__import_word(const json_t *line, const char *key,
                          const char *where, ks_str *out, bool *found,
                          ks_err *err) {
    ks_status st = KS_OK;
    const json_t *value = json_object_get(line, key);
    *found = value && !json_is_null(value);
    if (!*found) return KS_OK;
    KS_CHECK(json_is_string(value) || json_is_number(value), KS_FORMAT,
             "%s: \"%s\" is neither a string nor a number", where, key);
    if (json_is_integer(value))
        return ks_str_printf(out, err, "%lld",
                             (long long)json_integer_value(value));
    if (json_is_real(value))
        return ks_str_printf(out, err, "%.17g", json_real_value(value));
    KS_CHECK(strlen(json_string_value(value)) == json_string_length(value),
             KS_FORMAT, "%s: \"%s\" holds a NUL character", where, key);
    KS_TRY(ks_str_printf(out, err, "%s", json_string_value(value)));
done:
    return st;
}

static size_t blanks_ahead(const char *s, size_t n) {
    size_t i = 0;
    while (i < n && strchr(" \t\r\n", s[i]) && s[i]) i++;
    return i;
}

/* ------------------------------------------------------------ rendered text */

static bool is_raw(const ks__draft *d) {
    return d->options->prompt->which == KS_TEMPLATE_RAW;
}

/* Raw text goes on in a new line. */
static ks_status end_prompt(ks__draft *d, ks_err *err) {
    return is_raw(d) ? ks_str_add(&d->whole, "\n", 1, err) : KS_OK;
}

/* prompt + output. An output that brings its opening mark along does not get a
 * second one from the template. */
static ks_status take_output(ks__draft *d, const char *output, size_t n,
                             bool rendered, ks_err *err) {
    ks_status st = KS_OK;
    size_t skip = blanks_ahead(output, n);
    size_t mark = ks_text_opening(d->whole.data, d->whole.length);
    bool opens = n - skip >= strlen(THINK) &&
                 memcmp(output + skip, THINK, strlen(THINK)) == 0;
    bool harmony = d->options->prompt->which == KS_TEMPLATE_HARMONY;
    if (rendered && opens && mark != SIZE_MAX) d->whole.length = mark;
    if (rendered && harmony && !memmem(output, n, "<|channel|>", 11))
        KS_TRY(ks_str_add(&d->whole, FINAL, strlen(FINAL), err));
    d->output = d->whole.length;
    KS_TRY(ks_str_add(&d->whole, output, n, err));
    KS_TRY(ks__find_thinking(d->whole.data, d->whole.length, d->output,
                             d->options->which, &d->text, &d->closed, err));
done:
    return st;
}

/* prompt, thinking and answer that were told apart; marks: the template's
 * thinking marks go between them even where its prompt opens none. */
static ks_status take_parts(ks__draft *d, const char *thinking, size_t n,
                            const char *answer, size_t n_answer, bool marks,
                            ks_err *err) {
    ks_status st = KS_OK;
    bool harmony = d->options->prompt->which == KS_TEMPLATE_HARMONY;
    bool opened = ks_text_opening(d->whole.data, d->whole.length) != SIZE_MAX;
    const char *opening = harmony                          ? ANALYSIS
                          : marks && !opened && !is_raw(d) ? THINK "\n"
                                                           : "";
    const char *line = n > 0 && thinking[n - 1] == '\n' ? "" : "\n";
    d->closed = (harmony || opened || *opening) && n_answer > 0;
    KS_TRY(ks_str_printf(&d->whole, err, "%s", opening));
    d->output = d->text.begin = d->whole.length;
    KS_TRY(ks_str_add(&d->whole, thinking, n, err));
    d->text.end = d->whole.length;
    if (n_answer == 0) goto done;
    if (harmony)
        KS_TRY(ks_str_printf(&d->whole, err, "<|end|>" FINAL));
    else if (d->closed)
        KS_TRY(ks_str_printf(&d->whole, err, "%s" THINK_END "\n\n", line));
    else
        KS_TRY(ks_str_printf(&d->whole, err, "%s", line));
    KS_TRY(ks_str_add(&d->whole, answer, n_answer, err));
done:
    return st;
}

/* ---------------------------------------------------------------- messages */

static ks_status role_of(json_t *message, size_t i, const char *where,
                         ks_role *out, ks_err *err) {
    static const struct {
        const char *name;
        ks_role role;
    } roles[] = {{"system", KS_ROLE_SYSTEM},
                 {"developer", KS_ROLE_SYSTEM},
                 {"user", KS_ROLE_USER},
                 {"assistant", KS_ROLE_ASSISTANT}};
    const char *name = json_string_value(json_object_get(message, "role"));
    for (size_t k = 0; name && k < KS_COUNT(roles); k++)
        if (strcmp(roles[k].name, name) == 0) {
            *out = roles[k].role;
            return KS_OK;
        }
    return ks_fail(err, KS_FORMAT,
                   "%s: message %zu has the role '%.40s', expected system, "
                   "developer, user or assistant",
                   where, i, name ? name : "(none)");
}

/* A string, null or a list of text parts. */
static ks_status content_of(json_t *message, size_t i, const char *where,
                            ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    json_t *content = json_object_get(message, "content"), *part;
    size_t k;
    KS_TRY(ks_str_add(out, "", 0, err));
    if (!content || json_is_null(content)) goto done;
    if (json_is_string(content))
        KS_TRY(ks_str_add(out, json_string_value(content),
                          json_string_length(content), err));
    KS_CHECK(json_is_string(content) || json_is_array(content), KS_FORMAT,
             "%s: message %zu: \"content\" is neither a string nor a list of "
             "parts",
             where, i);
    json_array_foreach(content, k, part) {
        json_t *text = json_object_get(part, "text");
        KS_CHECK(json_is_string(text), KS_FORMAT,
                 "%s: message %zu: part %zu of \"content\" has no \"text\"",
                 where, i, k);
        KS_TRY(ks_str_add(out, json_string_value(text),
                          json_string_length(text), err));
    }
done:
    return st;
}

/* What is behind the thinking of an earlier turn: templates drop it. */
static const char *behind_thinking(const char *text) {
    const char *last = NULL;
    for (const char *at = text; (at = strstr(at, THINK_END));)
        last = at += strlen(THINK_END);
    return last ? last + strspn(last, "\r\n") : text;
}

/* Renders messages 0 to n - 1; the last user's is the question. */
static ks_status render(ks__draft *d, json_t *messages, size_t n, ks_err *err) {
    ks_status st = KS_OK;
    ks_turn *turns = NULL;
    ks_str *texts = NULL;
    size_t user = n;
    KS_TRY(ks_alloc(&turns, n, sizeof *turns, "messages", err));
    KS_TRY(ks_alloc(&texts, n, sizeof *texts, "messages", err));
    for (size_t i = 0; i < n; i++) {
        json_t *message = json_array_get(messages, i);
        KS_TRY(role_of(message, i, d->where, &turns[i].role, err));
        KS_TRY(content_of(message, i, d->where, &texts[i], err));
        KS_CHECK(strlen(texts[i].data) == texts[i].length, KS_FORMAT,
                 "%s: message %zu holds a NUL character", d->where, i);
        KS_CHECK(turns[i].role != KS_ROLE_SYSTEM || i == 0, KS_UNSUPPORTED,
                 "%s: message %zu is the system's, which is first or nowhere",
                 d->where, i);
        turns[i].text = turns[i].role == KS_ROLE_ASSISTANT
                            ? behind_thinking(texts[i].data)
                            : texts[i].data;
        if (turns[i].role == KS_ROLE_USER) user = i;
    }
    KS_CHECK(user < n, KS_FORMAT, "%s: no message is the user's", d->where);
    KS_TRY(
        ks_prompt_render_turns(d->options->prompt, turns, n, &d->whole, err));
    KS_TRY(end_prompt(d, err));
    if (!d->question.data)
        KS_TRY(ks_str_printf(&d->question, err, "%s", turns[user].text));
done:
    for (size_t i = 0; texts && i < n; i++) ks_str_free(&texts[i]);
    free(texts);
    free(turns);
    return st;
}

static json_t *thinking_of(json_t *message) {
    static const char *const names[] = {"reasoning_content", "reasoning",
                                        "thinking"};
    for (size_t i = 0; i < KS_COUNT(names); i++) {
        json_t *value = json_object_get(message, names[i]);
        if (json_is_string(value) && json_string_length(value) > 0)
            return value;
    }
    return NULL;
}

static ks_status read_messages(ks__draft *d, ks_err *err) {
    ks_status st = KS_OK;
    json_t *messages = json_object_get(d->line, "messages");
    size_t n = json_array_size(messages);
    ks_str content = {0};
    ks_role role = KS_ROLE_USER;
    KS_CHECK(n > 0, KS_FORMAT, "%s: no \"messages\", expected a list of them",
             d->where);
    json_t *last = json_array_get(messages, n - 1);
    json_t *thinking = thinking_of(last);
    KS_TRY(role_of(last, n - 1, d->where, &role, err));
    KS_CHECK(role == KS_ROLE_ASSISTANT, KS_FORMAT,
             "%s: the last message is not the assistant's", d->where);
    KS_TRY(content_of(last, n - 1, d->where, &content, err));
    KS_CHECK(thinking || content.length > 0, KS_FORMAT,
             "%s: the assistant's message is empty", d->where);
    KS_TRY(render(d, messages, n - 1, err));
    if (thinking)
        KS_TRY(take_parts(d, json_string_value(thinking),
                          json_string_length(thinking), content.data,
                          content.length, true, err));
    else
        KS_TRY(take_output(d, content.data, content.length, true, err));
    json_object_del(d->line, "messages");
done:
    ks_str_free(&content);
    return st;
}

/* -------------------------------------------------------------------- text */

static const char *output_field(const json_t *line) {
    static const char *const names[] = {"text", "completion", "output",
                                        "response"};
    for (size_t i = 0; i < KS_COUNT(names); i++)
        if (json_is_string(json_object_get(line, names[i]))) return names[i];
    return NULL;
}

/* The question of --problems where the line has none. */
static ks_status ask_known(ks__draft *d, ks_err *err) {
    return d->known && !d->question.data
               ? ks_str_printf(&d->question, err, "%s", d->known->question)
               : KS_OK;
}

/* As it stands, a list of messages, or made from the question. */
static ks_status read_prompt(ks__draft *d, bool *rendered, ks_err *err) {
    ks_status st = KS_OK;
    json_t *prompt = json_object_get(d->line, "prompt");
    *rendered = !json_is_string(prompt);
    if (json_is_string(prompt))
        return ks_str_add(&d->whole, json_string_value(prompt),
                          json_string_length(prompt), err);
    if (json_is_array(prompt))
        return render(d, prompt, json_array_size(prompt), err);
    KS_TRY(ask_known(d, err));
    KS_CHECK(d->question.data, KS_FORMAT,
             "%s: no \"prompt\", a string or a list of messages, and no "
             "question to make one from",
             d->where);
    KS_TRY(
        ks_prompt_render(d->options->prompt, d->question.data, &d->whole, err));
    KS_TRY(end_prompt(d, err));
done:
    return st;
}

/* What follows a thinking that a mark ends. */
static bool closes(const char *rest) {
    rest += blanks_ahead(rest, strlen(rest));
    return strncmp(rest, THINK_END, strlen(THINK_END)) == 0 ||
           strncmp(rest, "<|end|>", 7) == 0;
}

static ks_status read_text(ks__draft *d, ks_err *err) {
    ks_status st = KS_OK;
    const char *field = output_field(d->line);
    KS_CHECK(field, KS_FORMAT,
             "%s: no \"text\", \"completion\", \"output\" or \"response\" that "
             "is a string",
             d->where);
    json_t *output = json_object_get(d->line, field);
    json_t *rest = json_object_get(d->line, "rest");
    const char *text = json_string_value(output);
    size_t n = json_string_length(output);
    bool rendered;
    KS_TRY(read_prompt(d, &rendered, err));
    if (json_is_string(rest)) { /* cut already */
        d->output = d->text.begin = d->whole.length;
        KS_TRY(ks_str_add(&d->whole, text, n, err));
        d->text.end = d->whole.length;
        KS_TRY(ks_str_add(&d->whole, json_string_value(rest),
                          json_string_length(rest), err));
        d->closed = json_is_true(json_object_get(d->line, "closed")) ||
                    closes(json_string_value(rest));
    } else {
        KS_TRY(take_output(d, text, n, rendered, err));
    }
    json_object_del(d->line, field);
done:
    return st;
}

/* ------------------------------------------------------------------- GSM8K */

/* "#### x" in the last line that is not blank: x in text[*out], and where the
 * line begins. */
static bool find_gold(const char *text, ks_span *out, size_t *begin) {
    ks_span all = ks_text_trim(text, (ks_span){0, strlen(text)});
    size_t at = all.end;
    while (at > all.begin && text[at - 1] != '\n') at--;
    size_t mark = at + blanks_ahead(text + at, all.end - at);
    if (all.end - mark < 4 || memcmp(text + mark, "####", 4) != 0) return false;
    *out = ks_text_trim(text, (ks_span){mark + 4, all.end});
    *begin = at;
    return out->begin < out->end;
}

/* A line without its <<calculator annotations>>. */
static ks_status add_bare(ks_str *out, const char *line, size_t n,
                          ks_err *err) {
    ks_status st = ks_str_add(out, "", 0, err);
    for (size_t at = 0; at < n && st == KS_OK;) {
        const char *open = memmem(line + at, n - at, "<<", 2);
        const char *close =
            open ? memmem(open, (size_t)(line + n - open), ">>", 2) : NULL;
        size_t to = close ? (size_t)(open - line) : n;
        st = ks_str_add(out, line + at, to - at, err);
        at = close ? (size_t)(close - line) + 2 : n;
    }
    return st;
}

/* Adds a line without annotations and blanks at its ends; nothing of one that
 * is blank then. */
static ks_status add_line(ks_str *out, const char *line, size_t n,
                          ks_spans *steps, ks_err *err) {
    ks_status st = KS_OK;
    ks_str bare = {0};
    KS_TRY(add_bare(&bare, line, n, err));
    ks_span s = ks_text_trim(bare.data, (ks_span){0, bare.length});
    if (s.begin == s.end) goto done;
    if (steps->n > 0) {
        KS_TRY(ks_str_add(out, "\n", 1, err));
        steps->at[steps->n - 1].end = out->length; /* steps tile */
    }
    size_t begin = out->length;
    KS_TRY(ks_str_add(out, bare.data + s.begin, s.end - s.begin, err));
    KS_TRY(ks_spans_add(steps, begin, out->length, err));
done:
    ks_str_free(&bare);
    return st;
}

static ks_status read_gsm8k(ks__draft *d, ks_err *err) {
    ks_status st = KS_OK;
    const char *answer = NULL;
    ks_str text = {0}, last = {0};
    ks_span gold;
    size_t begin = 0;
    KS_TRY(ask_known(d, err));
    KS_CHECK(d->question.data, KS_FORMAT, "%s: no question", d->where);
    KS_TRY(ks_json_string(d->line, "answer", d->where, &answer, NULL, err));
    KS_CHECK(find_gold(answer, &gold, &begin), KS_FORMAT,
             "%s: the last line of \"answer\" is not '#### ' and the result",
             d->where);
    for (size_t at = 0; at < begin;) {
        size_t n = strcspn(answer + at, "\n");
        KS_TRY(add_line(&text, answer + at, n, &d->steps, err));
        at += n + 1;
    }
    KS_CHECK(d->steps.n > 0, KS_FORMAT,
             "%s: \"answer\" has no line ahead of its result", d->where);
    ks_str_free(&d->gold);
    KS_TRY(
        ks_str_add(&d->gold, answer + gold.begin, gold.end - gold.begin, err));
    KS_TRY(ks_str_printf(&last, err, "#### %s", d->gold.data));
    KS_TRY(
        ks_prompt_render(d->options->prompt, d->question.data, &d->whole, err));
    KS_TRY(end_prompt(d, err));
    KS_TRY(take_parts(d, text.data, text.length, last.data, last.length, false,
                      err));
    d->complete = true;
done:
    ks_str_free(&text);
    ks_str_free(&last);
    return st;
}

/* ----------------------------------------------------------------- any line */

static ks_import_from kind_of(const json_t *line) {
    const json_t *answer = json_object_get(line, "answer");
    ks_span gold;
    size_t begin;
    if (json_object_get(line, "messages")) return KS_IMPORT_MESSAGES;
    if (output_field(line)) return KS_IMPORT_TEXT;
    if (json_is_string(answer) &&
        find_gold(json_string_value(answer), &gold, &begin))
        return KS_IMPORT_GSM8K;
    return KS_IMPORT_AUTO;
}

/* The right answer where the line has it. "answer" of a chain that was judged
 * is what it answered. */
static ks_status read_gold(ks__draft *d, ks_err *err) {
    ks_status st = KS_OK;
    bool found = false;
    ks_span gold;
    size_t begin;
    const char *field = d->options->answer_field;
    if (field)
        KS_TRY(
            ks__import_word(d->line, field, d->where, &d->gold, &found, err));
    if (!field)
        KS_TRY(
            ks__import_word(d->line, "gold", d->where, &d->gold, &found, err));
    if (!field && !found && !json_object_get(d->line, "correct"))
        KS_TRY(ks__import_word(d->line, "answer", d->where, &d->gold, &found,
                               err));
    if (found && find_gold(d->gold.data, &gold, &begin)) { /* a solution */
        d->gold.length = gold.end - gold.begin;
        memmove(d->gold.data, d->gold.data + gold.begin, d->gold.length);
        d->gold.data[d->gold.length] = 0;
    }
done:
    return st;
}

static ks_status read_line(ks__draft *d, ks_import_from from, ks_err *err) {
    switch (from) {
    case KS_IMPORT_TEXT:
        return read_text(d, err);
    case KS_IMPORT_MESSAGES:
        return read_messages(d, err);
    case KS_IMPORT_GSM8K:
        return read_gsm8k(d, err);
    default:
        return ks_fail(err, KS_FORMAT,
                       "%s: neither \"messages\", nor an output (\"text\", "
                       "\"completion\", \"output\", \"response\"), nor an "
                       "\"answer\" that ends in a line '#### x'",
                       d->where);
    }
}

ks_status ks__import_line(ks__draft *d, ks_err *err) {
    ks_status st = KS_OK;
    const char *field = d->options->question_field;
    ks_import_from from = d->options->from;
    bool found;
    if (from == KS_IMPORT_AUTO) from = kind_of(d->line);
    KS_TRY(ks__import_word(d->line, field ? field : "question", d->where,
                           &d->question, &found, err));
    if (from != KS_IMPORT_GSM8K) KS_TRY(read_gold(d, err));
    KS_TRY(read_line(d, from, err));
    d->opened = ks_text_opening(d->whole.data, d->text.begin) != SIZE_MAX;
    if (d->steps.n == 0)
        KS_TRY(ks_text_split(d->whole.data + d->text.begin,
                             d->text.end - d->text.begin, &d->steps, err));
done:
    return st;
}
