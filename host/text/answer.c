/* answer.c - the final answer of a text, and the step that gives it. */
#include "answer.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "compat.h"

/* A box far longer than gold is not it; keeps nested boxes linear. */
enum { LONGEST_BOX = 1024 };

static ks_regex hashes = KS_REGEX("^####[ \\t]*(\\S.*)$", PCRE2_MULTILINE);
static ks_regex cue = KS_REGEX(
    "\\b(?:answer|result)\\b[^.!?\\n=:]{0,80}?"
    "(?:\\b(?:is|are|was|equals|be)\\b|[:=])[\\s*:=]*"
    "(?:\\b(?:exactly|approximately|about|simply|thus|therefore)\\b\\s*)?",
    PCRE2_CASELESS);
static ks_regex digits = KS_REGEX("\\d", 0);
static ks_regex number = KS_REGEX(
    "(?:(?<![\\w.)\\]}])-)?\\\\?\\$?(?:\\d+(?:,\\d{3})*(?:\\.\\d+)?|\\.\\d+)"
    "(?:/\\d+)?(?:\\\\?%)?",
    0);

/* The last match, group 0 and 1; *found. */
static ks_status find_last(ks_regex *regex, const char *text, ks_span in,
                           ks_span g[2], bool *found, ks_err *err) {
    ks_status st = KS_OK;
    size_t from = in.begin;
    *found = false;
    while (from < in.end) {
        ks_span next[2];
        bool match;
        KS_TRY(ks__regex_find(regex, text, in.end, from, next, 2, &match, err));
        if (!match) break;
        g[0] = next[0];
        g[1] = next[1];
        *found = true;
        from = KS_MAX(next[0].end, from + 1);
    }
done:
    return st;
}

/* The sentence's end: a line's end, or . ! ? before white space. */
static size_t sentence_end(const char *text, size_t from, size_t n) {
    size_t i = from;
    while (i < n && text[i] != '\n') {
        bool stop = text[i] == '.' || text[i] == '!' || text[i] == '?';
        bool factorial = text[i] == '!' && i > from;
        if (stop && !factorial &&
            (i + 1 == n || strchr(" \n\t\r*", text[i + 1]) != NULL)) {
            break;
        }
        i++;
    }
    return i;
}

static size_t find(const char *text, size_t from, size_t n, const char *mark) {
    const char *at =
        from < n ? memmem(text + from, n - from, mark, strlen(mark)) : NULL;
    return at == NULL ? SIZE_MAX : (size_t)(at - text);
}

/* From `from` to the end of its sentence, or the mathematics that starts
 * there; without ** and punctuation at the ends. */
static ks_span statement(const char *text, size_t from, size_t n) {
    static const struct {
        const char *open, *close;
    } marks[] = {{"$$", "$$"}, {"\\[", "\\]"}, {"\\(", "\\)"}, {"$", "$"}};
    ks_span s = {from, sentence_end(text, from, n)};
    for (size_t i = 0; i < KS_COUNT(marks); i++) {
        size_t open = strlen(marks[i].open);
        if (n - from < open || memcmp(text + from, marks[i].open, open) != 0)
            continue;
        /* displayed mathematics may run over lines, a dollar sign not */
        size_t end = i < 2 ? n : s.end;
        size_t close = find(text, from + open, end, marks[i].close);
        if (close == SIZE_MAX || close == from + open) continue;
        s = (ks_span){from + open, close};
        break;
    }
    s = ks_text_trim(text, s);
    while (s.end > s.begin && strchr("*.,;:", text[s.end - 1]) != NULL &&
           text[s.end - 1] != 0) {
        s.end--;
    }
    while (s.begin < s.end && text[s.begin] == '*') s.begin++;
    return ks_text_trim(text, s);
}

ks_status ks__answer_stated(const char *text, size_t n, ks_span *out,
                            bool *found, ks_err *err) {
    ks_status st = KS_OK;
    ks_span g[2] = {{0}};
    KS_TRY(find_last(&hashes, text, (ks_span){0, n}, g, found, err));
    if (*found) {
        *out = ks_text_trim(text, g[1]);
        return KS_OK;
    }
    KS_TRY(find_last(&cue, text, (ks_span){0, n}, g, found, err));
    if (!*found) return KS_OK;
    *out = statement(text, g[0].end, n);
    *found = out->begin < out->end;
done:
    return st;
}

/* In the last step that has a number: after its last "=", or that number. */
static ks_status from_last_number(const char *text, size_t n, ks_span *out,
                                  bool *found, ks_err *err) {
    ks_status st = KS_OK;
    ks_spans steps = {0};
    ks_span g[2], in = {0, 0};
    *found = false;
    KS_TRY(ks_text_split(text, n, &steps, err));
    for (size_t i = steps.n; i-- > 0 && !*found;) {
        in = steps.at[i];
        KS_TRY(
            ks__regex_find(&digits, text, in.end, in.begin, g, 1, found, err));
    }
    if (!*found) goto done;
    const char *equals = memrchr(text + in.begin, '=', in.end - in.begin);
    if (equals != NULL) {
        *out = statement(
            text,
            ks_text_trim(text, (ks_span){(size_t)(equals - text) + 1, in.end})
                .begin,
            in.end);
        /* "$x = 5$ dollars": up to the end of the mathematics */
        const char *dollar =
            memchr(text + out->begin, '$', out->end - out->begin);
        if (dollar != NULL && dollar > text + out->begin)
            out->end = (size_t)(dollar - text);
        if (out->begin < out->end) goto done;
    }
    KS_TRY(find_last(&number, text, in, g, found, err));
    if (*found) *out = g[0];
done:
    ks_spans_free(&steps);
    return st;
}

ks_status ks_text_answer(const char *text, size_t n, bool compat, ks_span *out,
                         bool *found, ks_err *err) {
    ks_status st = KS_OK;
    ks_spans boxes = {0};
    KS_TRY(ks_text_boxes(text, n, compat, &boxes, err));
    *found = boxes.n > 0;
    if (*found) *out = boxes.at[boxes.n - 1];
    if (!*found && !compat) KS_TRY(ks__answer_stated(text, n, out, found, err));
    if (!*found && !compat) KS_TRY(from_last_number(text, n, out, found, err));
done:
    ks_spans_free(&boxes);
    return st;
}

/* ------------------------------------------------------------- answer step */

ks_status ks__answer_boxed(const char *text, size_t n, const char *gold,
                           size_t n_gold, bool last, bool compat, bool *boxed,
                           bool *equal, ks_err *err) {
    ks_status st = KS_OK;
    ks_spans boxes = {0};
    *equal = false;
    KS_TRY(ks_text_boxes(text, n, compat, &boxes, err));
    *boxed = boxes.n > 0;
    for (size_t i = last && boxes.n > 0 ? boxes.n - 1 : 0;
         i < boxes.n && !*equal; i++) {
        ks_span b = boxes.at[i];
        if (b.end - b.begin > LONGEST_BOX + 4 * n_gold) continue;
        KS_TRY(ks_text_equal(text + b.begin, b.end - b.begin, gold, n_gold,
                             compat, equal, err));
    }
done:
    ks_spans_free(&boxes);
    return st;
}

ks_status ks__gold_open(ks_gold *out, const char *gold, size_t n, bool compat,
                        ks_err *err) {
    ks_status st = KS_OK;
    ks_span s = ks_text_trim(gold, (ks_span){0, n});
    *out = (ks_gold){.regex = {.options = PCRE2_CASELESS}};
    if (compat) s = (ks_span){0, n};
    bool first = s.begin < s.end, word = false, digit = false;
    if (!compat && first) {
        unsigned char c = (unsigned char)gold[s.begin];
        digit = c >= '0' && c <= '9';
        word = digit || c >= 0x80 || isalpha(c);
        const char *before = digit  ? "(?<![\\p{L}\\p{N}_/-])(?<!\\d[.,:])"
                                      "(?<!frac\\{)(?<!\\}\\{)"
                             : word ? "(?<![\\p{L}\\p{N}_\\\\])"
                                    : "";
        KS_TRY(ks_str_add(&out->pattern, before, strlen(before), err));
    }
    KS_TRY(
        ks__regex_quote(&out->pattern, gold + s.begin, s.end - s.begin, err));
    if (!compat && first) {
        unsigned char c = (unsigned char)gold[s.end - 1];
        digit = c >= '0' && c <= '9';
        word = digit || c >= 0x80 || isalpha(c);
        const char *after = digit  ? "(?![\\p{L}\\p{N}_/^])(?![.,:]\\d)"
                                     "(?!\\}\\{)"
                            : word ? "(?![\\p{L}\\p{N}_])"
                                   : "";
        KS_TRY(ks_str_add(&out->pattern, after, strlen(after), err));
    }
    KS_TRY(ks_str_add(&out->pattern, "", 0, err));
    out->regex.pattern = out->pattern.data;
done:
    if (st != KS_OK) ks__gold_close(out);
    return st;
}

void ks__gold_close(ks_gold *gold) {
    pcre2_code_free(gold->regex.code);
    ks_str_free(&gold->pattern);
    *gold = (ks_gold){0};
}

/* Whether the step's normal form contains gold's. */
static ks_status normal_contains(const char *step, size_t n, const ks_str *gold,
                                 bool *contains, ks_err *err) {
    ks_str normal = {0};
    ks_status st = ks__compat_normal(step, n, &normal, err);
    if (st == KS_OK) {
        *contains = memmem(normal.data, normal.length, gold->data,
                           gold->length) != NULL;
    }
    ks_str_free(&normal);
    return st;
}

static ks_status step_that_says(const char *text, const ks_spans *steps,
                                const char *gold, size_t n_gold, bool compat,
                                int64_t *index, ks_err *err) {
    ks_status st = KS_OK;
    ks_gold pattern = {0};
    ks_str normal = {0};
    if (compat)
        KS_TRY(ks__compat_normal(gold, n_gold, &normal, err));
    else
        KS_TRY(ks__gold_open(&pattern, gold, n_gold, false, err));
    for (size_t i = steps->n; i-- > 0 && *index < 0;) {
        ks_span s = steps->at[i], g;
        bool says;
        if (compat) {
            KS_TRY(normal_contains(text + s.begin, s.end - s.begin, &normal,
                                   &says, err));
        } else {
            KS_TRY(ks__regex_find(&pattern.regex, text + s.begin,
                                  s.end - s.begin, 0, &g, 1, &says, err));
        }
        if (says) *index = (int64_t)i;
    }
done:
    ks__gold_close(&pattern);
    ks_str_free(&normal);
    return st;
}

ks_status ks_text_answer_step(const char *text, size_t n, const ks_spans *steps,
                              const char *gold, size_t n_gold, bool compat,
                              int64_t *index, bool *wrong, ks_err *err) {
    ks_status st = KS_OK;
    *index = -1;
    *wrong = false;
    KS_TRY(ks_text_check(text, n, "text", err));
    KS_TRY(ks_text_check(gold, n_gold, "gold", err));
    ks_span tight = ks_text_trim(gold, (ks_span){0, n_gold});
    KS_CHECK(tight.begin < tight.end, KS_FORMAT, "gold: the answer is blank");
    for (size_t i = steps->n; i-- > 0;) {
        ks_span s = steps->at[i];
        bool boxed, equal;
        KS_CHECK(s.begin <= s.end && s.end <= n, KS_MISMATCH,
                 "step %zu spans bytes %zu to %zu of a text of %zu", i, s.begin,
                 s.end, n);
        KS_TRY(ks__answer_boxed(text + s.begin, s.end - s.begin, gold, n_gold,
                                true, compat, &boxed, &equal, err));
        if (!boxed) continue;
        *index = equal ? (int64_t)i : -1;
        *wrong = !equal;
        return KS_OK;
    }
    KS_TRY(step_that_says(text, steps, gold, n_gold, compat, index, err));
done:
    return st;
}
