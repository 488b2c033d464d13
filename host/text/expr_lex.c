/* expr_lex.c - the tokens of an answer in LaTeX or plain notation. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "expr_names.h"

typedef struct lexer {
    const char *text;
    size_t n, at;
    bool group, spaced;
    int depth; /* of ( [ \{, in which a comma always parts */
    ks_tokens_of *out;
} lexer;

static bool digit(const lexer *l, size_t at) {
    return at < l->n && l->text[at] >= '0' && l->text[at] <= '9';
}

static bool here(const lexer *l, size_t at, const char *mark) {
    size_t n = strlen(mark);
    return at <= l->n && l->n - at >= n && memcmp(l->text + at, mark, n) == 0;
}

static size_t run_of_digits(const lexer *l, size_t at) {
    size_t n = 0;
    while (digit(l, at + n)) n++;
    return n;
}

static ks_status add(lexer *l, ks_token token, ks_err *err) {
    ks_tokens_of *out = l->out;
    ks_status st = ks_grow(&out->at, &out->capacity, out->n + 1,
                           sizeof *out->at, "tokens", err);
    if (st != KS_OK) return st;
    token.spaced = l->spaced;
    l->spaced = false;
    out->at[out->n++] = token;
    return KS_OK;
}

static ks_status add_sign(lexer *l, int code, size_t length, ks_err *err) {
    ks_token token = {
        .type = KS_T_SIGN, .code = code, .text = {l->at, l->at + length}};
    l->at += length;
    return add(l, token, err);
}

/* ----------------------------------------------------------------- numbers */

/* Length of a separator of groups of three at `at`, 0: none. */
static size_t group_mark(const lexer *l, size_t at, bool *comma) {
    static const char *const marks[] = {",\\!", "{,}\\!", "{,}", "\\,",
                                        "\\!",  "\\ ",    "~",   " "};
    *comma = false;
    for (size_t i = 0; i < KS_COUNT(marks); i++) {
        if (here(l, at, marks[i])) return strlen(marks[i]);
    }
    *comma = here(l, at, ",") && l->group && l->depth == 0;
    return *comma ? 1 : 0;
}

/* Whole digits with their groups. */
static ks_status lex_whole(lexer *l, ks_token *token, ks_err *err) {
    ks_str *digits = &l->out->digits;
    size_t n = run_of_digits(l, l->at);
    ks_status st = ks_str_add(digits, l->text + l->at, n, err);
    l->at += n;
    bool grouping = n >= 1 && n <= 3 && l->text[l->at - n] != '0';
    while (st == KS_OK && grouping) {
        bool comma;
        size_t mark = group_mark(l, l->at, &comma);
        if (mark == 0 || run_of_digits(l, l->at + mark) != 3) break;
        /* "3 125/4" is a mixed number */
        if (l->text[l->at] == ' ' && here(l, l->at + mark + 3, "/")) break;
        st = ks_str_add(digits, l->text + l->at + mark, 3, err);
        l->at += mark + 3;
        token->grouped = token->grouped || comma;
    }
    l->out->grouped = l->out->grouped || token->grouped;
    return st;
}

/* Digits after the point, and those that repeat for ever. */
static ks_status lex_places(lexer *l, ks_token *token, ks_err *err) {
    ks_str *digits = &l->out->digits;
    ks_status st = KS_OK;
    size_t mark = here(l, l->at, ".") ? 1 : here(l, l->at, "{,}") ? 3 : 0;
    size_t n = mark == 0 ? 0 : run_of_digits(l, l->at + mark);
    size_t bar = 0;
    static const char *const bars[] = {"\\overline{", "\\bar{", "\\dot{"};
    for (size_t i = 0; mark > 0 && i < KS_COUNT(bars); i++) {
        if (here(l, l->at + mark + n, bars[i])) bar = strlen(bars[i]);
    }
    if (n == 0 && bar == 0) return KS_OK;
    if (n > INT32_MAX / 4) return KS_OK;
    KS_TRY(ks_str_add(digits, l->text + l->at + mark, n, err));
    token->places = (int32_t)n;
    l->at += mark + n;
    if (bar > 0) {
        size_t repeats = run_of_digits(l, l->at + bar);
        if (repeats == 0 || repeats > 1000 ||
            !here(l, l->at + bar + repeats, "}")) {
            return KS_OK;
        }
        KS_TRY(ks_str_add(digits, l->text + l->at + bar, repeats, err));
        token->places += (int32_t)repeats;
        token->repeats = (int32_t)repeats;
        l->at += bar + repeats + 1;
    }
    if (here(l, l->at, "..."))
        l->at += 3;
    else if (here(l, l->at, "\\ldots"))
        l->at += strlen("\\ldots");
    else if (here(l, l->at, "\\dots"))
        l->at += strlen("\\dots");
done:
    return st;
}

/* "1.5e-3", not "2e" or "2ex" */
static void lex_exponent(lexer *l, ks_token *token) {
    if (!here(l, l->at, "e") && !here(l, l->at, "E")) return;
    size_t at = l->at + 1;
    bool minus = here(l, at, "-");
    if (minus || here(l, at, "+")) at++;
    size_t n = run_of_digits(l, at);
    if (n == 0 || n > 4) return;
    if (at + n < l->n && isalpha((unsigned char)l->text[at + n])) return;
    int value = (int)strtol(l->text + at, NULL, 10); /* four digits */
    token->exponent = minus ? -value : value;
    l->at = at + n;
}

static ks_status lex_number(lexer *l, ks_err *err) {
    ks_status st = KS_OK;
    ks_token token = {.type = KS_T_NUMBER, .places = -1};
    token.text.begin = l->out->digits.length;
    KS_TRY(lex_whole(l, &token, err));
    KS_TRY(lex_places(l, &token, err));
    lex_exponent(l, &token);
    token.text.end = l->out->digits.length;
    KS_TRY(add(l, token, err));
done:
    return st;
}

/* ---------------------------------------------------------------- commands */

/* Content of the brace group at `at`; false when it does not close. */
static bool group_at(const lexer *l, size_t at, ks_span *content) {
    while (at < l->n && l->text[at] == ' ') at++;
    if (at >= l->n || l->text[at] != '{') return false;
    size_t depth = 0;
    for (size_t i = at; i < l->n; i++) {
        if (l->text[i] == '\\')
            i++;
        else if (l->text[i] == '{')
            depth++;
        else if (l->text[i] == '}' && --depth == 0) {
            *content = (ks_span){at + 1, i};
            return true;
        }
    }
    return false;
}

static bool is_letters(const char *text, ks_span s) {
    for (size_t i = s.begin; i < s.end; i++) {
        if (!isalpha((unsigned char)text[i])) return false;
    }
    return s.begin < s.end;
}

/* \text{...} and its kin; *took is false when it is none. */
static ks_status lex_text(lexer *l, size_t length, bool *took, ks_err *err) {
    static const char *const kin[] = {
        "text",   "mathrm", "textbf",       "textrm", "mbox",
        "textit", "hbox",   "operatorname", "mathbb", "mathcal"};
    ks_span content;
    size_t which = 0;
    *took = false;
    while (which < KS_COUNT(kin) &&
           !(strlen(kin[which]) == length - 1 &&
             memcmp(kin[which], l->text + l->at + 1, length - 1) == 0)) {
        which++;
    }
    if (which == KS_COUNT(kin) || !group_at(l, l->at + length, &content))
        return KS_OK;
    *took = true;
    ks_span word = ks_text_trim(l->text, content);
    ks_token token = {.type = KS_T_TEXT, .text = word};
    if (strcmp(kin[which], "mathbb") == 0 && word.end - word.begin == 1 &&
        l->text[word.begin] == 'R') {
        token.type = KS_T_SIGN;
        token.code = KS_S_REALS;
    } else if (is_letters(l->text, word)) {
        const ks__name *known =
            ks__word_named(l->text + word.begin, word.end - word.begin);
        if (known != NULL) {
            token.type = known->type;
            token.code = known->code;
        }
    }
    l->at = content.end + 1;
    return add(l, token, err);
}

/* \begin{pmatrix} and \end{pmatrix} */
static ks_status lex_environment(lexer *l, size_t length, bool *known,
                                 ks_err *err) {
    ks_span content;
    bool begin = length == 6;
    *known = group_at(l, l->at + length, &content);
    if (!*known) return KS_OK;
    ks_token token = {.type = KS_T_SIGN,
                      .text = content,
                      .code = begin ? KS_S_BEGIN : KS_S_END};
    l->at = content.end + 1;
    bool array = content.end - content.begin == 5 &&
                 memcmp(l->text + content.begin, "array", 5) == 0;
    ks_span columns;
    if (begin && array && group_at(l, l->at, &columns)) l->at = columns.end + 1;
    return add(l, token, err);
}

static const char *const greek[] = {
    "alpha",  "beta",  "gamma",    "delta", "epsilon", "varepsilon", "zeta",
    "eta",    "theta", "vartheta", "iota",  "kappa",   "lambda",     "mu",
    "nu",     "xi",    "rho",      "sigma", "tau",     "upsilon",    "phi",
    "varphi", "chi",   "psi",      "omega", "Gamma",   "Delta",      "Theta",
    "Lambda", "Xi",    "Pi",       "Sigma", "Phi",     "Psi",        "Omega",
    "ell",    "ldots", "cdots",    "dots",  "aleph",
};

static bool is_greek(const char *word, size_t n) {
    for (size_t i = 0; i < KS_COUNT(greek); i++) {
        if (strlen(greek[i]) == n && memcmp(greek[i], word, n) == 0)
            return true;
    }
    return false;
}

static ks_status skip_command(lexer *l, size_t length) {
    const char *word = l->text + l->at + 1;
    bool delimiter = (length == 5 && memcmp(word, "left", 4) == 0) ||
                     (length == 6 && memcmp(word, "right", 5) == 0);
    l->at += length;
    l->spaced = true;
    if (!delimiter) return KS_OK;
    while (l->at < l->n && l->text[l->at] == ' ') l->at++;
    if (here(l, l->at, ".")) l->at++; /* the delimiter that is not drawn */
    return KS_OK;
}

static ks_status lex_command(lexer *l, bool *known, ks_err *err) {
    size_t n = 1; /* with the backslash */
    while (l->at + n < l->n && isalpha((unsigned char)l->text[l->at + n])) n++;
    if (n == 1 && l->at + n < l->n) n = 2;
    const char *word = l->text + l->at + 1;
    *known = true;

    bool took;
    ks_status st = lex_text(l, n, &took, err);
    if (st != KS_OK || took) return st;
    if ((n == 6 && memcmp(word, "begin", 5) == 0) ||
        (n == 4 && memcmp(word, "end", 3) == 0)) {
        return lex_environment(l, n, known, err);
    }
    bool left = n == 5 && here(l, l->at, "\\left|");
    if (left || (n == 6 && here(l, l->at, "\\right|"))) {
        return add_sign(l, left ? KS_S_BAR_OPEN : KS_S_BAR_CLOSE, n + 1, err);
    }
    const ks__name *entry = ks__command_named(word, n - 1);
    if (entry != NULL && entry->code == KS_S_SKIP && entry->type == KS_T_SIGN)
        return skip_command(l, n);
    if (entry == NULL && !is_greek(word, n - 1)) {
        *known = false;
        return KS_OK;
    }
    ks_token token = {.type = entry != NULL ? entry->type : KS_T_SYMBOL,
                      .code = entry != NULL ? entry->code : 0,
                      .text = {l->at, l->at + n}};
    if (token.code == KS_S_SET_OPEN && token.type == KS_T_SIGN) l->depth++;
    if (token.code == KS_S_SET_CLOSE && token.type == KS_T_SIGN) l->depth--;
    l->at += n;
    return add(l, token, err);
}

/* ------------------------------------------------------------------- words */

static ks_status lex_letters(lexer *l, ks_err *err) {
    size_t n = 0;
    while (l->at + n < l->n && isalpha((unsigned char)l->text[l->at + n])) n++;
    ks_token token = {.type = KS_T_LETTERS, .text = {l->at, l->at + n}};
    const ks__name *known = ks__word_named(l->text + l->at, n);
    if (known != NULL) {
        token.type = known->type;
        token.code = known->code;
    }
    l->at += n;
    return add(l, token, err);
}

static ks_status lex_sign(lexer *l, bool *known, ks_err *err) {
    static const struct {
        const char *mark;
        int code;
    } pairs[] = {
        {"**", '^'},
        {"<=", KS_S_LE},
        {">=", KS_S_GE},
        {"!=", KS_S_NE},
        {"==", '='},
        {"^\\circ", KS_S_DEGREE},
        {"^{\\circ}", KS_S_DEGREE},
        {"^\\degree", KS_S_DEGREE},
    };
    for (size_t i = 0; i < KS_COUNT(pairs); i++) {
        if (here(l, l->at, pairs[i].mark))
            return add_sign(l, pairs[i].code, strlen(pairs[i].mark), err);
    }
    char c = l->text[l->at];
    *known = c != 0 && strchr("+-*/^_!%()[]{}|,;:=<>&$'.", c) != NULL;
    if (!*known) return KS_OK;
    if (c == '(' || c == '[') l->depth++;
    if (c == ')' || c == ']') l->depth--;
    return add_sign(l, c == '$' ? KS_S_DOLLAR : c, 1, err);
}

ks_status ks__expr_lex(const char *text, size_t n, bool group,
                       ks_tokens_of *out, bool *known, ks_err *err) {
    ks_status st = KS_OK;
    lexer l = {.text = text, .n = n, .group = group, .out = out};
    *known = true;
    out->text = text;
    out->n_text = n;
    KS_TRY(ks_str_add(&out->digits, "", 0, err));
    while (l.at < n && *known) {
        char c = text[l.at];
        if (out->n >= KS_EXPR_TOKENS) {
            *known = false;
        } else if (c == ' ' || c == '~' || (c >= '\t' && c <= '\r')) {
            l.spaced = true;
            l.at++;
        } else if (digit(&l, l.at) || (c == '.' && digit(&l, l.at + 1)) ||
                   here(&l, l.at, ".\\overline{")) {
            KS_TRY(lex_number(&l, err));
        } else if (c == '\\') {
            KS_TRY(lex_command(&l, known, err));
        } else if (isalpha((unsigned char)c)) {
            KS_TRY(lex_letters(&l, err));
        } else {
            KS_TRY(lex_sign(&l, known, err));
        }
    }
    KS_TRY(add(&l, (ks_token){.type = KS_T_END, .text = {n, n}}, err));
done:
    return st;
}

void ks__expr_lex_free(ks_tokens_of *tokens) {
    free(tokens->at);
    ks_str_free(&tokens->digits);
    *tokens = (ks_tokens_of){0};
}
