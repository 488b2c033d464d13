/* extract.c - the thinking part of a model's output. */
#include <string.h>

#include "text.h"

static const char *const names[KS_N_TEMPLATES] = {
    "auto", "chatml", "deepseek-r1", "llama3", "qwen", "olmo", "harmony", "raw",
};

const char *ks_template_name(ks_template which) {
    return (unsigned)which < KS_N_TEMPLATES ? names[which] : NULL;
}

ks_status ks_template_find(const char *name, ks_template *out, ks_err *err) {
    for (int i = 0; i < KS_N_TEMPLATES; i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (ks_template)i;
            return KS_OK;
        }
    }
    return ks_fail(err, KS_USAGE,
                   "template '%.40s' is not known; known are chatml, "
                   "deepseek-r1, llama3, qwen, olmo, harmony, raw and auto",
                   name);
}

#define NONE SIZE_MAX

/* Byte of the first `mark` in text[from, end), or NONE. */
static size_t find(const char *text, size_t from, size_t end,
                   const char *mark) {
    if (from >= end) return NONE;
    const char *at = memmem(text + from, end - from, mark, strlen(mark));
    return at == NULL ? NONE : (size_t)(at - text);
}

static size_t find_last(const char *text, size_t from, size_t end,
                        const char *mark) {
    size_t last = NONE;
    size_t at = find(text, from, end, mark);
    while (at != NONE) {
        last = at;
        at = find(text, at + strlen(mark), end, mark);
    }
    return last;
}

static bool starts(const char *text, size_t at, size_t end, const char *mark) {
    size_t n = strlen(mark);
    return n <= end - at && memcmp(text + at, mark, n) == 0;
}

#define THINK "<think>"
#define THINK_END "</think>"

static ks_span by_think(const char *text, ks_span whole, bool *closed) {
    size_t open = find(text, whole.begin, whole.end, THINK);
    size_t inside = open == NONE ? NONE : open + strlen(THINK);
    *closed = true;
    if (open != NONE) {
        size_t close = find(text, inside, whole.end, THINK_END);
        if (close != NONE) return (ks_span){inside, close};
    }
    size_t close = find_last(text, whole.begin, whole.end, THINK_END);
    if (close != NONE) return (ks_span){whole.begin, close};
    *closed = false;
    return open == NONE ? whole : (ks_span){inside, whole.end};
}

#define H_START "<|start|>"
#define H_END "<|end|>"
#define H_FINAL "<|end|><|start|>assistant<|channel|>final"

/* Begin of the first <|start|> block that no known role opens, or NONE. */
static size_t unnamed_block(const char *text, size_t n) {
    size_t at = find(text, 0, n, H_START);
    while (at != NONE) {
        size_t inside = at + strlen(H_START);
        if (!starts(text, inside, n, "system") &&
            !starts(text, inside, n, "user") &&
            !starts(text, inside, n, "assistant")) {
            return inside;
        }
        at = find(text, inside, n, H_START);
    }
    return NONE;
}

static ks_span by_harmony(const char *text, size_t n, bool *closed) {
    static const char analysis[] = "analysis<|message|>";
    static const char commentary[] = "commentary<|message|>";
    size_t a = find(text, 0, n, analysis);
    size_t c = find(text, 0, n, commentary);
    size_t inside = NONE;
    if (a != NONE && (c == NONE || a < c))
        inside = a + strlen(analysis);
    else if (c != NONE)
        inside = c + strlen(commentary);
    if (inside != NONE) {
        size_t close = find(text, inside, n, H_END);
        *closed = close != NONE;
        return (ks_span){inside, *closed ? close : n};
    }

    inside = unnamed_block(text, n);
    if (inside != NONE) {
        size_t close = find(text, inside, n, H_FINAL);
        *closed = close != NONE;
        return (ks_span){inside, *closed ? close : n};
    }

    size_t user = find(text, 0, n, H_START "user");
    size_t turn = user == NONE ? NONE : find(text, user, n, H_END);
    if (turn != NONE) {
        size_t after = turn + strlen(H_END);
        size_t close = find(text, after, n, H_FINAL);
        if (close != NONE) {
            *closed = true;
            return (ks_span){after, close};
        }
    }
    *closed = false;
    return (ks_span){0, n};
}

/* The last turn opened by `open`, up to `close`; the whole text without. */
static ks_span last_turn(const char *text, size_t n, const char *open,
                         const char *close) {
    ks_span turn = {0, n};
    size_t at = find_last(text, 0, n, open);
    if (at != NONE) turn.begin = at + strlen(open);
    size_t end = find(text, turn.begin, n, close);
    if (end != NONE) turn.end = end;
    return turn;
}

static ks_template by_first_mark(const char *text, size_t n) {
    static const struct {
        const char *mark;
        ks_template which;
    } marks[] = {
        {"<|im_start|>", KS_TEMPLATE_CHATML},
        {"<|im_end|>", KS_TEMPLATE_CHATML},
        {"<|start_header_id|>", KS_TEMPLATE_LLAMA3},
        {"<|eot_id|>", KS_TEMPLATE_LLAMA3},
        {H_START, KS_TEMPLATE_HARMONY},
        {"<|channel|>", KS_TEMPLATE_HARMONY},
        {"analysis<|message|>", KS_TEMPLATE_HARMONY},
        {"commentary<|message|>", KS_TEMPLATE_HARMONY},
        {THINK, KS_TEMPLATE_DEEPSEEK_R1},
        {THINK_END, KS_TEMPLATE_DEEPSEEK_R1},
    };
    ks_template which = KS_TEMPLATE_RAW;
    size_t first = NONE;
    for (size_t i = 0; i < KS_COUNT(marks); i++) {
        size_t at = find(text, 0, n, marks[i].mark);
        if (at < first) {
            first = at;
            which = marks[i].which;
        }
    }
    return which;
}

ks_status ks_text_extract(const char *text, size_t n, ks_template which,
                          ks_span *out, bool *closed, ks_err *err) {
    bool ends = false;
    ks_status st = ks_text_check(text, n, "text", err);
    if (st != KS_OK) return st;
    if (which == KS_TEMPLATE_AUTO) which = by_first_mark(text, n);
    switch (which) {
    case KS_TEMPLATE_DEEPSEEK_R1:
    case KS_TEMPLATE_QWEN:
    case KS_TEMPLATE_OLMO:
        *out = by_think(text, (ks_span){0, n}, &ends);
        break;
    case KS_TEMPLATE_HARMONY:
        *out = by_harmony(text, n, &ends);
        break;
    case KS_TEMPLATE_CHATML:
        *out = by_think(
            text, last_turn(text, n, "<|im_start|>assistant\n", "<|im_end|>"),
            &ends);
        break;
    case KS_TEMPLATE_LLAMA3:
        *out =
            by_think(text,
                     last_turn(text, n,
                               "<|start_header_id|>assistant<|end_header_id|>"
                               "\n\n",
                               "<|eot_id|>"),
                     &ends);
        break;
    case KS_TEMPLATE_RAW:
        *out = (ks_span){0, n};
        break;
    case KS_TEMPLATE_AUTO:
    case KS_N_TEMPLATES:
        return ks_fail(err, KS_USAGE, "template %d is not one of the list",
                       (int)which);
    }
    if (closed != NULL) *closed = ends;
    return KS_OK;
}

size_t ks_text_opening(const char *text, size_t n) {
    static const char *const marks[] = {THINK, "analysis<|message|>",
                                        "commentary<|message|>"};
    n = ks_text_trim(text, (ks_span){0, n}).end;
    for (size_t i = 0; i < KS_COUNT(marks); i++) {
        size_t m = strlen(marks[i]);
        if (n >= m && memcmp(text + n - m, marks[i], m) == 0) return n - m;
    }
    return SIZE_MAX;
}
