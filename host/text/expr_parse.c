/* expr_parse.c - tokens to a tree: sums, products, powers, signs between them.
 *
 *   answer   = relation { ("," | ";" | and | or) relation }
 *   relation = ratio { (= | < | > | <= | >= | != | in) ratio } [unit]
 *   ratio    = setop { ":" setop }
 *   setop    = sum { (cup | cap | minus) sum }
 *   sum      = term { (+ | - | +- | -+) term }
 *   term     = sign { (* | /) sign | power }      a product may have no sign
 *   sign     = { + | - | +- | -+ } power
 *   power    = postfix [^ exponent]
 *   postfix  = primary { ! | % | degree | subscript }
 */
#include "expr_parse.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------- nodes */

int32_t ks__node_add(parser *p, ks_kind kind, int code) {
    ks_tree *t = p->tree;
    if (p->failed) return -1;
    p->status = ks_grow(&t->at, &t->capacity, t->n + 1, sizeof *t->at,
                        "an expression", p->err);
    if (p->status != KS_OK) {
        p->failed = true;
        return -1;
    }
    ks_node *node = &t->at[t->n];
    *node = (ks_node){.kind = kind, .code = code, .first = -1, .next = -1};
    if (kind == KS_X_NUMBER) mpq_init(node->value);
    return (int32_t)t->n++;
}

int32_t ks__node_of(parser *p, ks_kind kind, int code, int32_t a, int32_t b) {
    int32_t node = ks__node_add(p, kind, code);
    if (p->failed) return -1;
    p->tree->at[node].first = a;
    p->tree->at[a].next = b;
    if (b >= 0) p->tree->at[b].next = -1;
    return node;
}

/* Appends child after last (the node's last child so far, -1: none). */
static void append(parser *p, int32_t node, int32_t *last, int32_t child) {
    if (p->failed) return;
    if (*last < 0)
        p->tree->at[node].first = child;
    else
        p->tree->at[*last].next = child;
    p->tree->at[child].next = -1;
    *last = child;
}

int32_t ks__parse_fail(parser *p) {
    p->failed = true;
    return -1;
}

/* ------------------------------------------------------------------ tokens */

ks_token *ks__peek(parser *p) {
    return &p->tree->tokens.at[p->at];
}

bool ks__is_sign(parser *p, int code) {
    ks_token *t = ks__peek(p);
    return t->type == KS_T_SIGN && t->code == code;
}

bool ks__take_sign(parser *p, int code) {
    if (!ks__is_sign(p, code)) return false;
    p->at++;
    return true;
}

bool ks__is_word(parser *p, const char *word) {
    ks_token *t = ks__peek(p);
    size_t n = t->text.end - t->text.begin;
    return (t->type == KS_T_LETTERS || t->type == KS_T_TEXT) &&
           strlen(word) == n &&
           strncasecmp(p->tree->text.data + t->text.begin, word, n) == 0;
}

static bool take_word(parser *p, const char *word) {
    if (!ks__is_word(p, word)) return false;
    p->at++;
    return true;
}

static bool is_separator(parser *p) {
    return ks__is_sign(p, ',') || ks__is_sign(p, ';') ||
           ks__is_word(p, "and") || ks__is_word(p, "or") ||
           ks__is_word(p, ", and") || ks__is_word(p, ", or");
}

/* ------------------------------------------------------------------- terms */

/* A word that ends the value: a unit or a label. */
static bool is_unit_here(parser *p) {
    ks_token *t = ks__peek(p);
    if (t->type == KS_T_TEXT) return true;
    if (t->type != KS_T_LETTERS || p->at == 0 || p->has_symbol) return false;
    const char *word = p->tree->text.data + t->text.begin;
    size_t n = t->text.end - t->text.begin;
    if (is_separator(p) || ks__magnitude(word, n) > 0) return false;
    if (n == 1) return t->spaced && ks__unit_known(word, n);
    return ks__unit_known(word, n) || (n >= 3 && t->spaced);
}

bool ks__starts_factor(parser *p) {
    ks_token *t = ks__peek(p);
    switch (t->type) {
    case KS_T_SYMBOL:
    case KS_T_FUNCTION:
        return true;
    case KS_T_LETTERS:
        return !is_separator(p) && !is_unit_here(p) &&
               ks__number_word(p->tree->text.data + t->text.begin,
                               t->text.end - t->text.begin) < 0;
    case KS_T_SIGN:
        switch (t->code) {
        case '(':
        case '{':
        case KS_S_BAR_OPEN:
        case KS_S_FLOOR_OPEN:
        case KS_S_CEIL_OPEN:
        case KS_S_FRAC:
        case KS_S_SQRT:
        case KS_S_CBRT:
        case KS_S_BINOM:
        case KS_S_PI:
        case KS_S_INFINITY:
        case KS_S_ACCENT:
        case KS_S_OVERLINE:
            return true;
        case '|':
            return p->bars == 0;
        default:
            return false;
        }
    default:
        return false;
    }
}

static int32_t subscript(parser *p, int32_t base) {
    ks_token *t = ks__peek(p);
    size_t begin = t->text.begin, end = t->text.end;
    const char *text = p->tree->text.data;
    ks_node *node = &p->tree->at[base];
    if (node->kind == KS_X_NUMBER) return ks__number_in_base(p, base);
    if (node->kind != KS_X_SYMBOL) return ks__parse_fail(p);
    if (t->type == KS_T_NUMBER) {
        char index[24];
        size_t n = end - begin;
        if (n >= sizeof index || t->places >= 0) return ks__parse_fail(p);
        memcpy(index, p->tree->tokens.digits.data + begin, n);
        p->at++;
        return ks__rename(p, base, index, n);
    }
    if (t->type == KS_T_LETTERS || t->type == KS_T_SYMBOL) {
        p->at++;
        return ks__rename(p, base, text + begin, end - begin);
    }
    if (!ks__take_sign(p, '{')) return ks__parse_fail(p);
    while (!ks__is_sign(p, '}')) {
        if (ks__peek(p)->type == KS_T_END || ks__is_sign(p, '{'))
            return ks__parse_fail(p);
        p->at++;
    }
    size_t close = ks__peek(p)->text.begin;
    p->at++;
    return ks__rename(p, base, text + end, close - end);
}

static int32_t postfix(parser *p) {
    int32_t node = ks__parse_primary(p);
    for (int i = 0; i < 4 && !p->failed; i++) {
        if (ks__take_sign(p, '!'))
            node = ks__node_of(p, KS_X_FUNCTION, KS_F_FACTORIAL, node, -1);
        else if (ks__take_sign(p, '%'))
            node = ks__node_of(p, KS_X_PERCENT, 0, node, -1);
        else if (ks__take_sign(p, KS_S_DEGREE))
            node = ks__node_of(p, KS_X_DEGREE, 0, node, -1);
        else if (ks__take_sign(p, '_'))
            node = subscript(p, node);
        else
            break;
    }
    return node;
}

/* In braces, or one signed primary. */
int32_t ks__parse_exponent(parser *p) {
    bool before = p->plain_numbers;
    p->plain_numbers = true;
    int32_t node;
    if (ks__take_sign(p, '{')) {
        p->plain_numbers = false;
        node = ks__parse_sum(p);
        if (!p->failed && !ks__take_sign(p, '}')) node = ks__parse_fail(p);
    } else if (ks__take_sign(p, '-')) {
        node = ks__parse_primary(p);
        if (!p->failed) node = ks__node_of(p, KS_X_NEG, 0, node, -1);
    } else {
        node = ks__parse_primary(p);
    }
    p->plain_numbers = before;
    return node;
}

int32_t ks__parse_power(parser *p) {
    if (++p->depth > KS_EXPR_DEPTH) return ks__parse_fail(p);
    int32_t base = postfix(p);
    if (!p->failed && ks__take_sign(p, '^')) {
        int32_t exponent = ks__parse_exponent(p);
        /* 2^3^2 is 2^(3^2) */
        if (!p->failed && ks__take_sign(p, '^')) {
            int32_t upper = ks__parse_exponent(p);
            if (!p->failed)
                exponent = ks__node_of(p, KS_X_POW, 0, exponent, upper);
        }
        if (!p->failed) base = ks__node_of(p, KS_X_POW, 0, base, exponent);
        if (!p->failed && ks__take_sign(p, '%'))
            base = ks__node_of(p, KS_X_PERCENT, 0, base, -1);
        if (!p->failed && ks__take_sign(p, KS_S_DEGREE))
            base = ks__node_of(p, KS_X_DEGREE, 0, base, -1);
        if (!p->failed && ks__is_sign(p, '^')) base = ks__parse_fail(p);
    }
    p->depth--;
    return base;
}

static int32_t sign(parser *p) {
    if (++p->depth > KS_EXPR_DEPTH) return ks__parse_fail(p);
    int32_t node;
    if (ks__take_sign(p, '+')) {
        node = sign(p);
    } else if (ks__take_sign(p, '-')) {
        node = sign(p);
        if (!p->failed) node = ks__node_of(p, KS_X_NEG, 0, node, -1);
    } else if (ks__is_sign(p, KS_S_PM) || ks__is_sign(p, KS_S_MP)) {
        int code = ks__is_sign(p, KS_S_PM) ? 1 : -1;
        p->at++;
        node = sign(p);
        if (!p->failed) node = ks__node_of(p, KS_X_PM, code, node, -1);
    } else {
        node = ks__parse_power(p);
    }
    p->depth--;
    return node;
}

/* Adds one more operand to a sum or product that starts with `left`: flat, so
 * that a long sum is no deep tree. */
static int32_t extend(parser *p, ks_kind kind, int32_t node, int32_t *last,
                      int32_t left, int32_t right) {
    if (!p->failed && node < 0) {
        node = ks__node_add(p, kind, 0);
        append(p, node, last, left);
    }
    append(p, node, last, right);
    return p->failed ? -1 : node;
}

static int32_t term(parser *p) {
    int32_t first = sign(p), node = -1, last = -1;
    while (!p->failed) {
        int code = 0;
        int32_t right;
        if (ks__take_sign(p, '*')) {
            right = sign(p);
        } else if (ks__take_sign(p, '/')) {
            right = sign(p);
            code = '/';
        } else if (ks__starts_factor(p)) {
            right = ks__parse_power(p);
        } else {
            break;
        }
        if (!p->failed) p->tree->at[right].sign = code;
        node = extend(p, KS_X_MUL, node, &last, first, right);
    }
    return p->failed ? -1 : node < 0 ? first : node;
}

int32_t ks__parse_sum(parser *p) {
    if (++p->depth > KS_EXPR_DEPTH) return ks__parse_fail(p);
    int32_t first = term(p), node = -1, last = -1;
    while (!p->failed) {
        bool minus = ks__is_sign(p, '-');
        bool pm = ks__is_sign(p, KS_S_PM), mp = ks__is_sign(p, KS_S_MP);
        if (!minus && !pm && !mp && !ks__is_sign(p, '+')) break;
        p->at++;
        int32_t right = term(p);
        if (p->failed) break;
        if (minus) right = ks__node_of(p, KS_X_NEG, 0, right, -1);
        if (pm || mp) right = ks__node_of(p, KS_X_PM, pm ? 1 : -1, right, -1);
        node = extend(p, KS_X_ADD, node, &last, first, right);
    }
    p->depth--;
    return p->failed ? -1 : node < 0 ? first : node;
}

/* --------------------------------------------------------------- relations */

static int32_t setop(parser *p) {
    int32_t left = ks__parse_sum(p);
    int operations = 0;
    while (!p->failed && operations++ < KS_EXPR_DEPTH &&
           (ks__is_sign(p, KS_S_CUP) || ks__is_sign(p, KS_S_CAP) ||
            ks__is_sign(p, KS_S_MINUS_SET))) {
        int code = ks__peek(p)->code;
        p->at++;
        int32_t right = ks__parse_sum(p);
        if (!p->failed) left = ks__node_of(p, KS_X_SETOP, code, left, right);
    }
    return left;
}

static int32_t ratio(parser *p) {
    int32_t first = setop(p), last = -1;
    if (p->failed || p->builder || !ks__is_sign(p, ':')) return first;
    int32_t node = ks__node_add(p, KS_X_RATIO, 0);
    append(p, node, &last, first);
    while (!p->failed && ks__take_sign(p, ':')) {
        int32_t part = setop(p);
        append(p, node, &last, part);
    }
    return node;
}

/* Appends the token to the words of a unit; false when it belongs to none. */
static bool unit_token(parser *p, ks_str *words, int *depth, bool *raised) {
    ks_token *t = ks__peek(p);
    const char *text = p->tree->text.data + t->text.begin;
    size_t n = t->text.end - t->text.begin;
    char sign = t->type == KS_T_SIGN && t->code < 256 ? (char)t->code : 0;
    if ((t->type == KS_T_TEXT || t->type == KS_T_LETTERS) && !is_separator(p)) {
        p->status = ks_str_add(words, " ", 1, p->err);
        if (p->status == KS_OK) p->status = ks_str_add(words, text, n, p->err);
        return true;
    }
    if (words->length == 0) return false;
    if (t->type == KS_T_NUMBER && *raised) {
        text = p->tree->tokens.digits.data + t->text.begin;
        p->status = ks_str_add(words, text, n, p->err);
        *raised = *depth > 0;
        return true;
    }
    bool inside = sign == '/' || sign == '^' || sign == '*' ||
                  (*raised && (sign == '-' || sign == '{')) ||
                  (*depth > 0 && sign == '}');
    if (!inside) return false;
    *raised = sign == '^' || (*raised && sign != '}');
    *depth += (sign == '{') - (sign == '}');
    p->status = ks_str_add(words, &sign, 1, p->err);
    return true;
}

/* The unit behind a value: "miles per hour", "cm^2", "apples". */
static int32_t unit(parser *p, int32_t value) {
    ks_str words = {0};
    ks_unit read;
    int depth = 0;
    bool raised = false;
    if (p->failed) return -1;
    while (p->status == KS_OK && unit_token(p, &words, &depth, &raised))
        p->at++;
    if (p->status == KS_OK && p->currency != NULL && words.length == 0) {
        p->status =
            ks_str_add(&words, p->currency, strlen(p->currency), p->err);
    }
    p->currency = NULL;
    p->failed = p->status != KS_OK;
    if (!p->failed && words.length > 0) {
        bool is_unit = ks__unit_parse(words.data, words.length, &read);
        value = is_unit ? ks__node_unit(p, value, &read) : ks__parse_fail(p);
    }
    ks_str_free(&words);
    return p->failed ? -1 : value;
}

static int relation_sign(parser *p) {
    ks_token *t = ks__peek(p);
    if (t->type != KS_T_SIGN) return 0;
    switch (t->code) {
    case '=':
    case '<':
    case '>':
    case KS_S_LE:
    case KS_S_GE:
    case KS_S_NE:
    case KS_S_IN:
        return t->code;
    case KS_S_APPROX:
        return '=';
    default:
        return 0;
    }
}

static void skip_lead(parser *p) {
    static const char *const lead[] = {"is",    "equals", "approximately",
                                       "about", "around", "are"};
    bool more = true;
    while (more) {
        more = ks__take_sign(p, '=') || ks__take_sign(p, KS_S_APPROX);
        for (size_t i = 0; i < KS_COUNT(lead); i++)
            more = take_word(p, lead[i]) || more;
    }
}

int32_t ks__parse_relation(parser *p) {
    if (++p->depth > KS_EXPR_DEPTH) return ks__parse_fail(p);
    p->has_symbol = false;
    skip_lead(p);
    int32_t left = unit(p, ratio(p)), node = -1, last = -1;
    while (!p->failed && relation_sign(p) != 0) {
        int code = relation_sign(p);
        p->at++;
        p->has_symbol = false;
        int32_t right = ratio(p);
        if (!p->failed) right = unit(p, right);
        if (p->failed) break;
        if (node < 0) {
            node = ks__node_add(p, KS_X_RELATION, 0);
            append(p, node, &last, left);
        }
        if (!p->failed) p->tree->at[right].sign = code;
        append(p, node, &last, right);
    }
    p->depth--;
    return p->failed ? -1 : node < 0 ? left : node;
}

int32_t ks__parse_list(parser *p, ks_kind kind, int code) {
    int32_t node = ks__node_add(p, kind, code), last = -1;
    while (!p->failed) {
        append(p, node, &last, ks__parse_relation(p));
        if (p->failed || !is_separator(p)) break;
        while (is_separator(p)) p->at++;
    }
    return p->failed ? -1 : node;
}
