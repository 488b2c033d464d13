/* value_of.c - the exact value of an expression tree. */
#include <string.h>

#include "value.h"

static ks_fraction give_up(ks_algebra *a) {
    a->failed = true;
    return (ks_fraction){a->one, a->one};
}

static ks_fraction small(ks_algebra *a, long above, unsigned long below) {
    mpq_t q;
    mpq_init(q);
    mpq_set_si(q, above, below);
    mpq_canonicalize(q);
    ks_fraction x = ks__value_rational(a, q);
    mpq_clear(q);
    return x;
}

static ks_fraction symbol(ks_algebra *a, const ks_tree *tree,
                          const ks_node *node) {
    const char *name = tree->text.data + node->text.begin;
    size_t n = node->text.end - node->text.begin;
    bool imaginary = n == 1 && name[0] == 'i';
    return ks__value_generator(a, imaginary ? KS_G_IMAGINARY : KS_G_SYMBOL,
                               name, n);
}

static ks_fraction product(ks_algebra *a, const ks_tree *tree,
                           const ks_node *node, int pm) {
    ks_fraction x = ks__value_of(a, tree, node->first, pm);
    int32_t child = tree->at[node->first].next;
    while (child >= 0 && !a->failed) {
        ks_fraction y = ks__value_of(a, tree, child, pm);
        if (tree->at[child].sign == '/') y = ks__value_invert(a, y);
        x = ks__value_multiply(a, x, y);
        child = tree->at[child].next;
    }
    return x;
}

static ks_fraction sum(ks_algebra *a, const ks_tree *tree, const ks_node *node,
                       int pm) {
    ks_fraction x = ks__value_of(a, tree, node->first, pm);
    int32_t child = tree->at[node->first].next;
    while (child >= 0 && !a->failed) {
        x = ks__value_add(a, x, ks__value_of(a, tree, child, pm));
        child = tree->at[child].next;
    }
    return x;
}

static ks_fraction power(ks_algebra *a, ks_fraction base,
                         ks_fraction exponent) {
    mpq_t e;
    mpq_init(e);
    bool rational = ks__value_as_rational(exponent, e);
    bool fits = rational && mpz_cmpabs_ui(mpq_numref(e), 100000) <= 0 &&
                mpz_cmp_ui(mpq_denref(e), 64) <= 0;
    int32_t p = fits ? (int32_t)mpz_get_si(mpq_numref(e)) : 0;
    int32_t q = fits ? (int32_t)mpz_get_ui(mpq_denref(e)) : 1;
    mpq_clear(e);
    if (a->failed) return base;
    if (fits && p == 0 && ks__value_is_zero(base)) return give_up(a);
    if (fits) return ks__value_power(a, base, p, q);
    ks_fraction both[2] = {base, exponent};
    return ks__value_opaque(a, "power", both, 2);
}

/* ------------------------------------------------- functions of whole numbers
 */

/* A whole number of 0..most, or -1. */
static long small_whole(ks_fraction x, long most) {
    mpq_t q;
    mpq_init(q);
    long value = -1;
    if (ks__value_as_rational(x, q) && mpz_cmp_ui(mpq_denref(q), 1) == 0 &&
        mpz_sgn(mpq_numref(q)) >= 0 && mpz_cmp_si(mpq_numref(q), most) <= 0) {
        value = mpz_get_si(mpq_numref(q));
    }
    mpq_clear(q);
    return value;
}

static bool counted(ks_algebra *a, ks_function f, const ks_fraction *x,
                    size_t n, ks_fraction *out) {
    mpq_t q;
    long first = small_whole(x[0], 2000);
    long second = n > 1 ? small_whole(x[1], 2000) : -1;
    if (first < 0 || (f == KS_F_BINOMIAL && second < 0)) return false;
    mpq_init(q);
    if (f == KS_F_FACTORIAL)
        mpz_fac_ui(mpq_numref(q), (unsigned long)first);
    else
        mpz_bin_uiui(mpq_numref(q), (unsigned long)first,
                     (unsigned long)second);
    *out = ks__value_rational(a, q);
    mpq_clear(q);
    return true;
}

/* abs, floor, ceil, gcd, lcm, min, max of rational numbers */
static bool rounded(ks_algebra *a, ks_function f, const ks_fraction *x,
                    size_t n, ks_fraction *out) {
    bool known = true;
    mpq_t q, r;
    mpq_init(q);
    mpq_init(r);
    for (size_t i = 0; i < n && known; i++) {
        known = ks__value_as_rational(x[i], r);
        bool whole = mpz_cmp_ui(mpq_denref(r), 1) == 0;
        if (!known) break;
        if (i == 0) mpq_set(q, r);
        if (f == KS_F_ABS) {
            mpq_abs(q, q);
        } else if (f == KS_F_FLOOR || f == KS_F_CEIL) {
            if (f == KS_F_FLOOR)
                mpz_fdiv_q(mpq_numref(q), mpq_numref(q), mpq_denref(q));
            else
                mpz_cdiv_q(mpq_numref(q), mpq_numref(q), mpq_denref(q));
            mpz_set_ui(mpq_denref(q), 1);
        } else if (f == KS_F_GCD || f == KS_F_LCM) {
            known = whole;
            if (f == KS_F_GCD)
                mpz_gcd(mpq_numref(q), mpq_numref(q), mpq_numref(r));
            else
                mpz_lcm(mpq_numref(q), mpq_numref(q), mpq_numref(r));
        } else if ((f == KS_F_MIN) == (mpq_cmp(r, q) < 0)) {
            mpq_set(q, r);
        }
    }
    if (known) *out = ks__value_rational(a, q);
    mpq_clear(q);
    mpq_clear(r);
    return known;
}

static ks_fraction function(ks_algebra *a, const ks_tree *tree,
                            const ks_node *node, int pm) {
    enum { MOST_ARGUMENTS = 16 };
    ks_fraction x[MOST_ARGUMENTS], out;
    size_t n = 0;
    for (int32_t c = node->first; c >= 0; c = tree->at[c].next) {
        if (n == MOST_ARGUMENTS) return give_up(a);
        x[n++] = ks__value_of(a, tree, c, pm);
    }
    ks_function f = (ks_function)node->code;
    bool many = f >= KS_F_GCD && f <= KS_F_MAX;
    size_t wanted = f == KS_F_BINOMIAL ? 2 : 1;
    if (a->failed || n == 0) return give_up(a);
    if (!many && f != KS_F_LOG && n != wanted) return give_up(a);
    if (f == KS_F_LOG && n > 2) return give_up(a);
    switch (f) {
    case KS_F_EXP:
        return power(a, ks__value_generator(a, KS_G_SYMBOL, "e", 1), x[0]);
    case KS_F_FACTORIAL:
    case KS_F_BINOMIAL:
        if (counted(a, f, x, n, &out)) return out;
        break;
    case KS_F_ABS:
    case KS_F_FLOOR:
    case KS_F_CEIL:
    case KS_F_GCD:
    case KS_F_LCM:
    case KS_F_MIN:
    case KS_F_MAX:
        if (rounded(a, f, x, n, &out)) return out;
        break;
    default:
        break;
    }
    return ks__value_opaque(a, ks__function_name(f), x, n);
}

ks_fraction ks__value_of(ks_algebra *a, const ks_tree *tree, int32_t at,
                         int pm) {
    const ks_node *node = &tree->at[at];
    ks_fraction x;
    if (a->failed) return give_up(a);
    switch (node->kind) {
    case KS_X_NUMBER:
        return ks__value_rational(a, node->value);
    case KS_X_SYMBOL:
        return symbol(a, tree, node);
    case KS_X_PI:
        return ks__value_generator(a, KS_G_SYMBOL, "\\pi", 3);
    case KS_X_INFINITY:
        return ks__value_generator(a, KS_G_SYMBOL, "\\infty", 6);
    case KS_X_ADD:
        return sum(a, tree, node, pm);
    case KS_X_MUL:
        return product(a, tree, node, pm);
    case KS_X_DIV:
        x = ks__value_of(a, tree, tree->at[node->first].next, pm);
        x = ks__value_invert(a, x);
        return ks__value_multiply(a, ks__value_of(a, tree, node->first, pm), x);
    case KS_X_POW:
        x = ks__value_of(a, tree, node->first, pm);
        return power(a, x,
                     ks__value_of(a, tree, tree->at[node->first].next, pm));
    case KS_X_NEG:
        return ks__value_negate(a, ks__value_of(a, tree, node->first, pm));
    case KS_X_PM:
        x = ks__value_of(a, tree, node->first, pm);
        return node->code * pm < 0 ? ks__value_negate(a, x) : x;
    case KS_X_PERCENT:
        x = ks__value_of(a, tree, node->first, pm);
        return ks__value_multiply(a, x, small(a, 1, 100));
    case KS_X_DEGREE:
        x = ks__value_of(a, tree, node->first, pm);
        x = ks__value_multiply(a, x, small(a, 1, 180));
        return ks__value_multiply(
            a, x, ks__value_generator(a, KS_G_SYMBOL, "\\pi", 3));
    case KS_X_FUNCTION:
        return function(a, tree, node, pm);
    default:
        return give_up(a);
    }
}
