/* expr_primary.c - the smallest parts of an expression: names, brackets,
 * functions, fractions, roots, matrices. */
#include <ctype.h>
#include <string.h>

#include "expr_parse.h"

/* ------------------------------------------------------------------- names */

static int32_t symbol(parser *p, size_t begin, size_t end) {
    int32_t node = ks__node_add(p, KS_X_SYMBOL, 0);
    if (!p->failed) p->tree->at[node].text = (ks_span){begin, end};
    p->has_symbol = true;
    return node;
}

int32_t ks__rename(parser *p, int32_t node, const char *suffix, size_t n) {
    ks_tree *t = p->tree;
    ks_str name = {0};
    ks_span s = t->at[node].text;
    ks_span tight = ks_text_trim(suffix, (ks_span){0, n});
    p->status =
        ks_str_add(&name, t->text.data + s.begin, s.end - s.begin, p->err);
    if (p->status == KS_OK) p->status = ks_str_add(&name, "_", 1, p->err);
    if (p->status == KS_OK)
        p->status = ks_str_add(&name, suffix + tight.begin,
                               tight.end - tight.begin, p->err);
    size_t begin = t->text.length;
    if (p->status == KS_OK)
        p->status = ks_str_add(&t->text, name.data, name.length, p->err);
    ks_str_free(&name);
    if (p->status != KS_OK) return ks__parse_fail(p);
    t->at[node].text = (ks_span){begin, t->text.length};
    return node;
}

int32_t ks__node_unit(parser *p, int32_t value, const ks_unit *unit) {
    ks_tree *t = p->tree;
    p->status = ks_grow(&t->units, &t->unit_capacity, t->n_units + 1,
                        sizeof *t->units, "units", p->err);
    if (p->status != KS_OK) return ks__parse_fail(p);
    t->units[t->n_units++] = *unit;
    return ks__node_of(p, KS_X_UNIT, (int)t->n_units - 1, value, -1);
}

/* "xy" is x times y, "five" 5, "million" 10^6; longer words mean nothing. */
static int32_t letters(parser *p) {
    ks_token *t = ks__peek(p);
    const char *word = p->tree->text.data + t->text.begin;
    size_t n = t->text.end - t->text.begin;
    int value = ks__number_word(word, n), zeros = ks__magnitude(word, n);
    if (value >= 0 || zeros > 0) {
        p->at++;
        return value >= 0 ? ks__whole_number(p, (unsigned long)value)
                          : ks__ten_to(p, zeros);
    }
    if (n > 3) return ks__parse_fail(p);
    size_t begin = t->text.begin++;
    t->spaced = false;
    if (t->text.begin == t->text.end) p->at++;
    return symbol(p, begin, begin + 1);
}

static int32_t text(parser *p) {
    ks_token *t = ks__peek(p);
    const char *word = p->tree->text.data + t->text.begin;
    size_t n = t->text.end - t->text.begin;
    int value = ks__number_word(word, n);
    p->at++;
    if (value >= 0) return ks__whole_number(p, (unsigned long)value);
    if (n == 1 && isalpha((unsigned char)word[0]))
        return symbol(p, t->text.begin, t->text.end);
    return ks__parse_fail(p);
}

/* \vec{v}, \overline{AB}: one name */
static int32_t accented(parser *p) {
    size_t begin = ks__peek(p)->text.begin;
    p->at++;
    if (!ks__take_sign(p, '{')) {
        size_t end = ks__peek(p)->text.end;
        if (ks__peek(p)->type != KS_T_LETTERS) return ks__parse_fail(p);
        p->at++;
        return symbol(p, begin, end);
    }
    while (!ks__is_sign(p, '}')) {
        if (ks__peek(p)->type == KS_T_END || ks__is_sign(p, '{'))
            return ks__parse_fail(p);
        p->at++;
    }
    size_t end = ks__peek(p)->text.end;
    p->at++;
    return symbol(p, begin, end);
}

/* ---------------------------------------------------------------- brackets */

/* What stands in brackets starts afresh. */
typedef struct inside {
    bool has_symbol, plain_numbers, builder;
    int bars;
    const char *currency;
} inside;

static inside enter(parser *p) {
    inside before = {p->has_symbol, p->plain_numbers, p->builder, p->bars,
                     p->currency};
    p->plain_numbers = p->builder = false;
    p->bars = 0;
    p->currency = NULL;
    return before;
}

static void leave(parser *p, inside before) {
    p->has_symbol = p->has_symbol || before.has_symbol;
    p->plain_numbers = before.plain_numbers;
    p->builder = before.builder;
    p->bars = before.bars;
    p->currency = before.currency;
}

/* Ends at ) or ] (also [ after ]: French); one part alone is grouping. */
static int32_t brackets(parser *p) {
    int open = ks__peek(p)->code;
    p->at++;
    inside before = enter(p);
    int32_t node = ks__parse_list(p, KS_X_TUPLE, 0);
    leave(p, before);
    if (p->failed) return -1;
    int close = ks__peek(p)->type == KS_T_SIGN ? ks__peek(p)->code : 0;
    bool fits = close == ')' || close == ']' || (close == '[' && open != '(');
    if (open == KS_S_ANGLE_OPEN) fits = close == KS_S_ANGLE_CLOSE;
    if (!fits) return ks__parse_fail(p);
    p->at++;
    ks_node *x = &p->tree->at[node];
    bool alone = p->tree->at[x->first].next < 0;
    bool same = (open == '(' && close == ')') || (open == '[' && close == ']');
    if (alone) return same ? x->first : ks__parse_fail(p);
    if (open == '[') x->code |= KS_CLOSED_LEFT;
    if (close == ']') x->code |= KS_CLOSED_RIGHT;
    return node;
}

/* \{...\}, or braces of plain text with a comma inside. */
static int32_t set(parser *p) {
    p->at++;
    if (ks__take_sign(p, KS_S_SET_CLOSE)) return ks__node_add(p, KS_X_EMPTY, 0);
    inside before = enter(p);
    p->builder = true;
    p->bars = 1;
    int32_t node = ks__parse_relation(p), first = node;
    p->builder = false;
    p->bars = 0;
    if (!p->failed && (ks__take_sign(p, '|') || ks__take_sign(p, KS_S_MID) ||
                       ks__take_sign(p, ':'))) {
        node = ks__parse_relation(p); /* "x such that": the condition */
    } else if (!p->failed && ks__is_sign(p, KS_S_SET_CLOSE)) {
        node = ks__node_of(p, KS_X_SET, 0, first, -1);
    } else if (!p->failed && ks__take_sign(p, ',')) {
        node = ks__parse_list(p, KS_X_SET, 0);
        if (!p->failed) {
            p->tree->at[first].next = p->tree->at[node].first;
            p->tree->at[node].first = first;
        }
    }
    leave(p, before);
    if (p->failed || !ks__take_sign(p, KS_S_SET_CLOSE))
        return ks__parse_fail(p);
    return node;
}

static int32_t braces(parser *p) {
    p->at++;
    if (ks__take_sign(p, '}')) return ks__node_add(p, KS_X_EMPTY, 0);
    inside before = enter(p);
    int32_t node = ks__parse_list(p, KS_X_SET, 0);
    leave(p, before);
    if (p->failed || !ks__take_sign(p, '}')) return ks__parse_fail(p);
    ks_node *x = &p->tree->at[node];
    return p->tree->at[x->first].next < 0 ? x->first : node;
}

static int32_t enclosed(parser *p, int close, ks_function function) {
    p->at++;
    inside before = enter(p);
    if (close == '|') p->bars = 1;
    int32_t node = ks__parse_sum(p);
    leave(p, before);
    if (p->failed || !ks__take_sign(p, close)) return ks__parse_fail(p);
    return ks__node_of(p, KS_X_FUNCTION, (int)function, node, -1);
}

static int32_t matrix(parser *p) {
    ks_span name = ks__peek(p)->text;
    const char *word = p->tree->text.data + name.begin;
    size_t n = name.end - name.begin;
    bool known = (n == 5 && memcmp(word, "array", 5) == 0) ||
                 (n >= 6 && memcmp(word + n - 6, "matrix", 6) == 0);
    if (!known || word[0] == 'v' || word[0] == 'V') return ks__parse_fail(p);
    p->at++;
    inside before = enter(p);
    int32_t node = ks__node_add(p, KS_X_MATRIX, 0), last = -1;
    int columns = 0, column = 0;
    while (!p->failed && !ks__is_sign(p, KS_S_END)) {
        int32_t cell = ks__parse_sum(p);
        if (p->failed) break;
        if (last < 0)
            p->tree->at[node].first = cell;
        else
            p->tree->at[last].next = cell;
        p->tree->at[cell].next = -1;
        last = cell;
        column++;
        if (ks__take_sign(p, '&')) continue;
        if (columns != 0 && column != columns) return ks__parse_fail(p);
        columns = column;
        column = 0;
        if (!ks__take_sign(p, KS_S_ROW) && !ks__is_sign(p, KS_S_END))
            return ks__parse_fail(p);
    }
    leave(p, before);
    if (p->failed || column != 0 || columns == 0) return ks__parse_fail(p);
    p->at++;
    p->tree->at[node].code = columns;
    return node;
}

/* --------------------------------------------- functions, fractions, roots */

/* {...}, one digit, one letter or one command. */
static int32_t argument(parser *p, bool one_digit) {
    ks_token *t = ks__peek(p);
    bool before = p->plain_numbers;
    int32_t node;
    if (ks__is_sign(p, '{')) return braces(p);
    if (one_digit && t->type == KS_T_NUMBER) {
        if (t->places >= 0 || t->grouped || t->exponent != 0)
            return ks__parse_fail(p);
        ks_span digit = {t->text.begin, t->text.begin + 1};
        node = ks__number_of(p, t, digit);
        if (++t->text.begin == t->text.end) p->at++;
        return node;
    }
    p->plain_numbers = true;
    node = ks__parse_primary(p);
    p->plain_numbers = before;
    return node;
}

static int32_t fraction(parser *p) {
    p->at++;
    int32_t above = argument(p, true);
    int32_t below = p->failed ? -1 : argument(p, true);
    if (p->failed) return -1;
    return ks__node_of(p, KS_X_DIV, 0, above, below);
}

static int32_t root(parser *p, unsigned long degree) {
    p->at++;
    int32_t index = -1;
    if (ks__take_sign(p, '[')) {
        index = ks__parse_sum(p);
        if (p->failed || !ks__take_sign(p, ']')) return ks__parse_fail(p);
    }
    int32_t of = argument(p, false);
    int32_t one = p->failed ? -1 : ks__whole_number(p, 1);
    if (!p->failed && index < 0) index = ks__whole_number(p, degree);
    int32_t power = p->failed ? -1 : ks__node_of(p, KS_X_DIV, 0, one, index);
    if (p->failed) return -1;
    return ks__node_of(p, KS_X_POW, 0, of, power);
}

/* What a function without brackets takes: factors up to a sign. */
static int32_t open_argument(parser *p) {
    int32_t left = ks__parse_power(p);
    while (!p->failed && ks__starts_factor(p) &&
           ks__peek(p)->type != KS_T_FUNCTION && !ks__is_sign(p, '(')) {
        int32_t right = ks__parse_power(p);
        if (!p->failed) left = ks__node_of(p, KS_X_MUL, 0, left, right);
    }
    return left;
}

static bool inverse_of(int *function) {
    if (*function == KS_F_SIN)
        *function = KS_F_ASIN;
    else if (*function == KS_F_COS)
        *function = KS_F_ACOS;
    else if (*function == KS_F_TAN)
        *function = KS_F_ATAN;
    else
        return false;
    return true;
}

static bool is_minus_one(parser *p, int32_t node) {
    ks_node *x = &p->tree->at[node];
    return x->kind == KS_X_NEG && ks__is_whole(p, x->first) &&
           mpq_cmp_ui(p->tree->at[x->first].value, 1, 1) == 0;
}

static int32_t function(parser *p) {
    int code = ks__peek(p)->code;
    int32_t base = -1, power = -1, node;
    p->at++;
    if (code == KS_F_LOG && ks__take_sign(p, '_')) base = argument(p, true);
    if (!p->failed && ks__take_sign(p, '^')) power = ks__parse_exponent(p);
    if (p->failed) return -1;
    if (power >= 0 && is_minus_one(p, power) && inverse_of(&code)) power = -1;
    if (ks__is_sign(p, '(')) {
        p->at++;
        inside before = enter(p);
        node = ks__parse_list(p, KS_X_FUNCTION, code);
        leave(p, before);
        if (!p->failed && !ks__take_sign(p, ')')) return ks__parse_fail(p);
    } else {
        node = open_argument(p);
        if (!p->failed) node = ks__node_of(p, KS_X_FUNCTION, code, node, -1);
    }
    if (p->failed) return -1;
    if (base >= 0) {
        p->tree->at[base].next = p->tree->at[node].first;
        p->tree->at[node].first = base;
    }
    return power < 0 ? node : ks__node_of(p, KS_X_POW, 0, node, power);
}

static int32_t binomial(parser *p) {
    p->at++;
    int32_t n = argument(p, true);
    int32_t k = p->failed ? -1 : argument(p, true);
    if (p->failed) return -1;
    return ks__node_of(p, KS_X_FUNCTION, KS_F_BINOMIAL, n, k);
}

static int32_t by_sign(parser *p) {
    int code = ks__peek(p)->code;
    static const struct {
        int code;
        ks_kind kind;
    } constants[] = {{KS_S_PI, KS_X_PI},
                     {KS_S_INFINITY, KS_X_INFINITY},
                     {KS_S_EMPTY, KS_X_EMPTY},
                     {KS_S_REALS, KS_X_REALS}};
    for (size_t i = 0; i < KS_COUNT(constants); i++) {
        if (code != constants[i].code) continue;
        p->at++;
        return ks__node_add(p, constants[i].kind, 0);
    }
    switch (code) {
    case '(':
    case '[':
    case ']':
    case KS_S_ANGLE_OPEN:
        return brackets(p);
    case '{':
        return braces(p);
    case KS_S_SET_OPEN:
        return set(p);
    case '|':
        return enclosed(p, '|', KS_F_ABS);
    case KS_S_BAR_OPEN:
        return enclosed(p, KS_S_BAR_CLOSE, KS_F_ABS);
    case KS_S_FLOOR_OPEN:
        return enclosed(p, KS_S_FLOOR_CLOSE, KS_F_FLOOR);
    case KS_S_CEIL_OPEN:
        return enclosed(p, KS_S_CEIL_CLOSE, KS_F_CEIL);
    case KS_S_FRAC:
        return fraction(p);
    case KS_S_SQRT:
        return root(p, 2);
    case KS_S_CBRT:
        return root(p, 3);
    case KS_S_BINOM:
        return binomial(p);
    case KS_S_ACCENT:
    case KS_S_OVERLINE:
        return accented(p);
    case KS_S_BEGIN:
        return matrix(p);
    case KS_S_DOLLAR:
    case KS_S_EURO:
    case KS_S_STERLING:
        p->currency = code == KS_S_DOLLAR ? "dollar"
                      : code == KS_S_EURO ? "euro"
                                          : "gbp";
        p->at++;
        return ks__parse_primary(p);
    default:
        return ks__parse_fail(p);
    }
}

int32_t ks__parse_primary(parser *p) {
    if (p->failed || ++p->depth > KS_EXPR_DEPTH) return ks__parse_fail(p);
    int32_t node;
    switch (ks__peek(p)->type) {
    case KS_T_NUMBER:
        node = ks__parse_number(p);
        break;
    case KS_T_LETTERS:
        node = letters(p);
        break;
    case KS_T_SYMBOL:
        node = symbol(p, ks__peek(p)->text.begin, ks__peek(p)->text.end);
        p->at++;
        break;
    case KS_T_TEXT:
        node = text(p);
        break;
    case KS_T_FUNCTION:
        node = function(p);
        break;
    case KS_T_SIGN:
        node = by_sign(p);
        break;
    default:
        node = ks__parse_fail(p);
    }
    p->depth--;
    return node;
}
