/* expr_number.c - numbers of an expression: digits, words, mixed, of a base. */
#include <stdlib.h>
#include <string.h>

#include "expr_parse.h"

int ks__magnitude(const char *word, size_t n) {
    static const struct {
        const char *word;
        int zeros;
    } list[] = {{"hundred", 2},
                {"thousand", 3},
                {"million", 6},
                {"billion", 9},
                {"trillion", 12}};
    for (size_t i = 0; i < KS_COUNT(list); i++) {
        if (strlen(list[i].word) == n &&
            strncasecmp(list[i].word, word, n) == 0)
            return list[i].zeros;
    }
    return 0;
}

int ks__number_word(const char *word, size_t n) {
    static const char *const list[] = {
        "zero",     "one",      "two",      "three",   "four",    "five",
        "six",      "seven",    "eight",    "nine",    "ten",     "eleven",
        "twelve",   "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
        "eighteen", "nineteen", "twenty",   "thirty",  "forty",   "fifty",
        "sixty",    "seventy",  "eighty",   "ninety"};
    for (int i = 0; i < (int)KS_COUNT(list); i++) {
        if (strlen(list[i]) == n && strncasecmp(list[i], word, n) == 0)
            return i <= 20 ? i : (i - 18) * 10;
    }
    return -1;
}

/* digits[begin,end) as an integer. */
static bool read_integer(parser *p, ks_span s, mpz_ptr out) {
    size_t n = s.end - s.begin;
    char *copy = malloc(n + 2);
    if (copy == NULL) {
        p->status = ks_fail(p->err, KS_NOMEM, "no memory for %zu digits", n);
        p->failed = true;
        return false;
    }
    memcpy(copy, p->tree->tokens.digits.data + s.begin, n);
    memcpy(copy + n, n == 0 ? "0" : "", n == 0 ? 2 : 1);
    mpz_set_str(out, copy, 10);
    free(copy);
    return true;
}

static int32_t significant(const char *digits, ks_span s) {
    while (s.begin < s.end && digits[s.begin] == '0') s.begin++;
    return (int32_t)KS_MIN(s.end - s.begin, (size_t)INT32_MAX);
}

/* value *= 10^e */
static void scale_ten(mpq_ptr value, long e) {
    mpz_t ten;
    mpz_init(ten);
    mpz_ui_pow_ui(ten, 10, (unsigned long)(e < 0 ? -e : e));
    if (e < 0)
        mpz_mul(mpq_denref(value), mpq_denref(value), ten);
    else
        mpz_mul(mpq_numref(value), mpq_numref(value), ten);
    mpq_canonicalize(value);
    mpz_clear(ten);
}

int32_t ks__number_of(parser *p, const ks_token *t, ks_span s) {
    int32_t node = ks__node_add(p, KS_X_NUMBER, 0);
    if (p->failed) return -1;
    ks_node *x = &p->tree->at[node];
    if (!read_integer(p, s, mpq_numref(x->value))) return -1;
    x->digits = significant(p->tree->tokens.digits.data, s);
    if (t->places < 0) {
        scale_ten(x->value, t->exponent);
        return node;
    }
    if (t->repeats > 0) {
        /* 0.1(6): (16 - 1) / (10 * 9) */
        mpz_t head, nines;
        mpz_init(head);
        mpz_init(nines);
        ks_span before = {s.begin, s.end - (size_t)t->repeats};
        if (read_integer(p, before, head)) {
            mpz_sub(mpq_numref(x->value), mpq_numref(x->value), head);
            mpz_ui_pow_ui(nines, 10, (unsigned long)t->repeats);
            mpz_sub_ui(nines, nines, 1);
            mpz_set(mpq_denref(x->value), nines);
            scale_ten(x->value, (long)t->repeats - t->places + t->exponent);
        }
        mpz_clear(head);
        mpz_clear(nines);
        return p->failed ? -1 : node;
    }
    x->decimal = true;
    x->places = t->places - t->exponent;
    scale_ten(x->value, (long)t->exponent - t->places);
    return node;
}

int32_t ks__whole_number(parser *p, unsigned long value) {
    int32_t node = ks__node_add(p, KS_X_NUMBER, 0);
    if (p->failed) return -1;
    mpq_set_ui(p->tree->at[node].value, value, 1);
    return node;
}

int32_t ks__ten_to(parser *p, int zeros) {
    int32_t node = ks__whole_number(p, 1);
    if (!p->failed) scale_ten(p->tree->at[node].value, zeros);
    return node;
}

bool ks__is_whole(parser *p, int32_t node) {
    ks_node *x = &p->tree->at[node];
    return x->kind == KS_X_NUMBER && !x->decimal &&
           mpz_cmp_ui(mpq_denref(x->value), 1) == 0;
}

/* 2\frac{1}{2} and "2 1/2": a sum. */
static int32_t mixed(parser *p, int32_t whole, bool spaced_slash) {
    int32_t part;
    if (spaced_slash) {
        ks_token *above = ks__peek(p), *below = above + 2;
        int32_t a = ks__number_of(p, above, above->text);
        int32_t b = p->failed ? -1 : ks__number_of(p, below, below->text);
        p->at += 3;
        if (p->failed) return -1;
        part = ks__node_of(p, KS_X_DIV, 0, a, b);
    } else {
        part = ks__parse_primary(p);
    }
    if (p->failed) return -1;
    ks_node *x = &p->tree->at[part];
    bool is_mixed = x->kind == KS_X_DIV && ks__is_whole(p, x->first) &&
                    ks__is_whole(p, p->tree->at[x->first].next);
    return ks__node_of(p, is_mixed ? KS_X_ADD : KS_X_MUL, 0, whole, part);
}

int32_t ks__parse_number(parser *p) {
    ks_token *t = ks__peek(p);
    int32_t node = ks__number_of(p, t, t->text);
    bool whole = t->places < 0 && t->exponent == 0;
    p->at++;
    if (p->failed || !whole || p->plain_numbers) return node;
    if (ks__is_sign(p, KS_S_FRAC)) return mixed(p, node, false);
    t = ks__peek(p);
    if (t->type == KS_T_NUMBER && t->spaced && t->places < 0 &&
        t[1].type == KS_T_SIGN && t[1].code == '/' &&
        t[2].type == KS_T_NUMBER && t[2].places < 0) {
        return mixed(p, node, true);
    }
    return node;
}

int32_t ks__number_in_base(parser *p, int32_t number) {
    bool braces = ks__take_sign(p, '{');
    ks_token *t = ks__peek(p);
    mpz_t base;
    if (t->type != KS_T_NUMBER || t->places >= 0 || !ks__is_whole(p, number))
        return ks__parse_fail(p);
    mpz_init(base);
    bool read = read_integer(p, t->text, base);
    unsigned long b = read && mpz_cmp_ui(base, 36) <= 0 ? mpz_get_ui(base) : 0;
    mpz_clear(base);
    p->at++;
    if (b < 2 || (braces && !ks__take_sign(p, '}'))) return ks__parse_fail(p);
    mpz_ptr value = mpq_numref(p->tree->at[number].value);
    char *digits = mpz_get_str(NULL, 10, value);
    bool fits = digits != NULL && mpz_set_str(value, digits, (int)b) == 0;
    free(digits);
    return fits ? number : ks__parse_fail(p);
}
