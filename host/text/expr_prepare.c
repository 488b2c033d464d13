/* expr_prepare.c - an answer's text made ready for the lexer. */
#include <string.h>
#include <utf8proc.h>

#include "expr.h"

/* Signs that people type or that models print, as LaTeX. */
static const struct {
    int32_t c;
    const char *latex;
} signs[] = {
    {0x00a0, " "},
    {0x00a3, "\\sterling "},
    {0x00b0, "^\\circ "},
    {0x00b1, "\\pm "},
    {0x00b7, "\\cdot "},
    {0x00d7, "\\times "},
    {0x00f7, "\\div "},
    {0x00ba, "^\\circ "},
    {0x00bc, "\\frac{1}{4}"},
    {0x00bd, "\\frac{1}{2}"},
    {0x00be, "\\frac{3}{4}"},
    {0x03c0, "\\pi "},
    {0x2009, "\\,"},
    {0x200b, ""},
    {0x2010, "-"},
    {0x2011, "-"},
    {0x2012, "-"},
    {0x2013, "-"},
    {0x2014, "-"},
    {0x2019, "'"},
    {0x202f, "\\,"},
    {0x20ac, "\\euro "},
    {0x2026, "\\ldots "},
    {0x2044, "/"},
    {0x211d, "\\mathbb{R}"},
    {0x2153, "\\frac{1}{3}"},
    {0x2154, "\\frac{2}{3}"},
    {0x2155, "\\frac{1}{5}"},
    {0x2156, "\\frac{2}{5}"},
    {0x2157, "\\frac{3}{5}"},
    {0x2158, "\\frac{4}{5}"},
    {0x2159, "\\frac{1}{6}"},
    {0x215a, "\\frac{5}{6}"},
    {0x215b, "\\frac{1}{8}"},
    {0x215c, "\\frac{3}{8}"},
    {0x215d, "\\frac{5}{8}"},
    {0x215e, "\\frac{7}{8}"},
    {0x2205, "\\emptyset "},
    {0x2208, "\\in "},
    {0x2212, "-"},
    {0x2213, "\\mp "},
    {0x2215, "/"},
    {0x2216, "\\setminus "},
    {0x2217, "*"},
    {0x2219, "\\cdot "},
    {0x221a, "\\sqrt "},
    {0x221b, "\\cbrt "},
    {0x221e, "\\infty "},
    {0x2223, "\\mid "},
    {0x2229, "\\cap "},
    {0x222a, "\\cup "},
    {0x2236, ":"},
    {0x2248, "\\approx "},
    {0x2260, "\\ne "},
    {0x2264, "\\le "},
    {0x2265, "\\ge "},
    {0x22c5, "\\cdot "},
    {0x2308, "\\lceil "},
    {0x2309, "\\rceil "},
    {0x230a, "\\lfloor "},
    {0x230b, "\\rfloor "},
    {0x27e8, "\\langle "},
    {0x27e9, "\\rangle "},
    {0x2a7d, "\\le "},
    {0x2a7e, "\\ge "},
    {0xff05, "%"},
    {0xff0c, ","},
};

static const char *latex_of(int32_t c) {
    size_t low = 0, high = KS_COUNT(signs);
    for (size_t i = low; i < high; i++) {
        if (signs[i].c == c) return signs[i].latex;
    }
    return NULL;
}

/* The digit or sign that a raised character stands for, 0: none. */
static char raised(int32_t c) {
    if (c == 0x00b2) return '2';
    if (c == 0x00b3) return '3';
    if (c == 0x00b9) return '1';
    if (c == 0x2070 || (c >= 0x2074 && c <= 0x2079))
        return (char)('0' + (c - 0x2070));
    if (c == 0x207b) return '-';
    if (c == 0x207f) return 'n';
    return 0;
}

static char lowered(int32_t c) {
    return c >= 0x2080 && c <= 0x2089 ? (char)('0' + (c - 0x2080)) : 0;
}

/* delimiters: $ sets mathematics apart and is no dollar sign. */
static ks_status to_latex(const char *text, size_t n, bool delimiters,
                          ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    char run = 0; /* the ^ or _ whose braces are open */
    size_t i = 0;
    while (i < n) {
        utf8proc_int32_t c;
        size_t w = (size_t)utf8proc_iterate((const utf8proc_uint8_t *)text + i,
                                            (utf8proc_ssize_t)(n - i), &c);
        if (delimiters && c == '$' && (i == 0 || text[i - 1] != '\\')) {
            i += w;
            continue;
        }
        char script = raised(c) ? '^' : lowered(c) ? '_' : 0;
        if (run != 0 && run != script) KS_TRY(ks_str_add(out, "}", 1, err));
        if (script != 0) {
            char open[2] = {script, '{'};
            char sign = script == '^' ? raised(c) : lowered(c);
            if (run != script) KS_TRY(ks_str_add(out, open, 2, err));
            KS_TRY(ks_str_add(out, &sign, 1, err));
        } else {
            const char *latex = c < 0x80 ? NULL : latex_of(c);
            if (c >= 0xff10 && c <= 0xff19) {
                char digit = (char)('0' + (c - 0xff10));
                KS_TRY(ks_str_add(out, &digit, 1, err));
            } else if (latex != NULL) {
                KS_TRY(ks_str_add(out, latex, strlen(latex), err));
            } else if (c >= 0x80 && ks_is_space(c)) {
                KS_TRY(ks_str_add(out, " ", 1, err));
            } else {
                KS_TRY(ks_str_add(out, text + i, w, err));
            }
        }
        run = script;
        i += w;
    }
    if (run != 0) KS_TRY(ks_str_add(out, "}", 1, err));
done:
    return st;
}

static bool wrapped(const char *text, ks_span s, const char *open,
                    const char *close) {
    size_t a = strlen(open), b = strlen(close);
    return s.end - s.begin >= a + b && memcmp(text + s.begin, open, a) == 0 &&
           memcmp(text + s.end - b, close, b) == 0;
}

/* The brace that opens at `at` closes at the last byte of s. */
static bool braces_whole(const char *text, ks_span s, size_t at) {
    int64_t depth = 0;
    for (size_t i = at; i < s.end; i++) {
        if (text[i] == '\\')
            i++;
        else if (text[i] == '{')
            depth++;
        else if (text[i] == '}' && --depth == 0)
            return i + 1 == s.end;
    }
    return false;
}

static size_t count(const char *text, ks_span s, char c) {
    size_t n = 0;
    for (size_t i = s.begin; i < s.end; i++) {
        if (text[i] == c && (i == s.begin || text[i - 1] != '\\')) n++;
    }
    return n;
}

/* Takes one pair of outer marks off; false when there is none. */
static bool peel(const char *text, ks_span *s) {
    static const struct {
        const char *open, *close;
    } pairs[] = {
        {"\\(", "\\)"}, {"\\[", "\\]"}, {"$$", "$$"},
        {"**", "**"},   {"`", "`"},     {"\"", "\""},
    };
    static const char *const boxes[] = {"\\boxed{",  "\\fbox{",   "\\text{",
                                        "\\textbf{", "\\mathbf{", "\\mathrm{"};
    *s = ks_text_trim(text, *s);
    for (size_t i = 0; i < KS_COUNT(pairs); i++) {
        if (!wrapped(text, *s, pairs[i].open, pairs[i].close)) continue;
        s->begin += strlen(pairs[i].open);
        s->end -= strlen(pairs[i].close);
        return true;
    }
    if (wrapped(text, *s, "$", "$") && count(text, *s, '$') == 2 &&
        text[s->end - 2] != '\\') {
        s->begin++;
        s->end--;
        return true;
    }
    for (size_t i = 0; i < KS_COUNT(boxes); i++) {
        size_t n = strlen(boxes[i]);
        if (!wrapped(text, *s, boxes[i], "}") ||
            !braces_whole(text, *s, s->begin + n - 1)) {
            continue;
        }
        s->begin += n;
        s->end--;
        return true;
    }
    if (s->end > s->begin && text[s->end - 1] == '.' &&
        !(s->end - s->begin > 1 && text[s->end - 2] == '.')) {
        s->end--;
        return true;
    }
    return false;
}

ks_status ks__expr_prepare(const char *text, size_t n, ks_str *out,
                           ks_err *err) {
    ks_status st = KS_OK;
    ks_span s = {0, n};
    /* Each round looks at the whole span: a bound keeps it linear. */
    for (int round = 0; round < 16 && peel(text, &s); round++) {
    }
    s = ks_text_trim(text, s);
    out->length = 0;
    KS_TRY(ks_str_add(out, "", 0, err));
    bool pairs = count(text, s, '$') % 2 == 0;
    KS_TRY(to_latex(text + s.begin, s.end - s.begin, pairs, out, err));
done:
    return st;
}
