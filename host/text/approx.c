/* approx.c - the numerical second look at values that have no exact rule. */
#include "approx.h"

#include <float.h>
#include <math.h>
#include <string.h>

static const ks_real unknown = {0, 0, false};

static ks_real checked(long double value, long double error) {
    bool known = isfinite(value) && isfinite(error);
    return (ks_real){value, error + LDBL_EPSILON * fabsl(value), known};
}

static ks_real from_rational(const mpq_t q) {
    /* mpz_get_d would lose eleven bits */
    long double above = 0, below = 0;
    for (int i = 0; i < 2; i++) {
        mpz_t n;
        mpz_init_set(n, i == 0 ? mpq_numref(q) : mpq_denref(q));
        size_t bits = mpz_sizeinbase(n, 2);
        long shift = bits > 64 ? (long)(bits - 64) : 0;
        int sign = mpz_sgn(n);
        mpz_abs(n, n);
        mpz_fdiv_q_2exp(n, n, (mp_bitcnt_t)shift);
        unsigned long low = mpz_get_ui(n);
        long double v = ldexpl((long double)low, (int)KS_MIN(shift, 20000L));
        if (i == 0)
            above = sign < 0 ? -v : v;
        else
            below = v;
        mpz_clear(n);
    }
    long double value = above / below;
    return checked(value, 2 * LDBL_EPSILON * fabsl(value));
}

/* Spread over (0.3, 2.3); of the later points two in three are negative. */
static ks_real symbol(const char *name, size_t n, int point) {
    if (n == 1 && name[0] == 'e') return checked(expl(1), LDBL_EPSILON);
    if (n == 1 && name[0] == 'i') return unknown;
    uint64_t h = 14695981039346656037u + (uint64_t)point * 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)name[i]) * 1099511628211u;
    h ^= h >> 29;
    h *= 0xbf58476d1ce4e5b9u;
    h ^= h >> 32;
    long double v = 0.3L + 2.0L * (long double)(h >> 40) / (1 << 24);
    if (point >= KS_APPROX_POINTS / 2 && h % 3 != 0) v = -v;
    return checked(v, 0);
}

static ks_real add(ks_real a, ks_real b) {
    if (!a.known || !b.known) return unknown;
    return checked(a.value + b.value, a.error + b.error);
}

static ks_real multiply(ks_real a, ks_real b) {
    if (!a.known || !b.known) return unknown;
    return checked(a.value * b.value, fabsl(a.value) * b.error +
                                          fabsl(b.value) * a.error +
                                          a.error * b.error);
}

static ks_real invert(ks_real a) {
    if (!a.known || fabsl(a.value) <= 2 * a.error) return unknown;
    long double v = 1 / a.value;
    return checked(v, a.error * v * v * 2);
}

static ks_real negate(ks_real a) {
    a.value = -a.value;
    return a;
}

/* f of a with the error that a's error makes. */
static ks_real apply(long double (*f)(long double), ks_real a) {
    if (!a.known) return unknown;
    long double v = f(a.value);
    long double up = fabsl(f(a.value + a.error) - v);
    long double down = fabsl(f(a.value - a.error) - v);
    if (!isfinite(up)) up = down;
    if (!isfinite(down)) down = up;
    return checked(v, fmaxl(up, down) + 4 * LDBL_EPSILON * fabsl(v));
}

static ks_real power(ks_real a, ks_real b) {
    if (!a.known || !b.known) return unknown;
    if (a.value == 0 && b.value <= 0) return unknown;
    long double v = powl(a.value, b.value);
    if (a.value == 0) return checked(v, a.error);
    long double relative = fabsl(b.value) * a.error / fabsl(a.value) +
                           fabsl(logl(fabsl(a.value))) * b.error;
    return checked(v, fabsl(v) * (2 * relative + 4 * LDBL_EPSILON));
}

/* The real root of a negative number where the index is odd. */
static ks_real root(const ks_tree *tree, const ks_node *node, ks_real base,
                    ks_real exponent) {
    const ks_node *e = &tree->at[tree->at[node->first].next];
    bool root_of = e->kind == KS_X_DIV && base.known && base.value < 0;
    if (!root_of) return power(base, exponent);
    const ks_node *p = &tree->at[e->first], *q = &tree->at[p->next];
    bool odd = p->kind == KS_X_NUMBER && q->kind == KS_X_NUMBER &&
               mpz_cmp_ui(mpq_denref(p->value), 1) == 0 &&
               mpz_cmp_ui(mpq_denref(q->value), 1) == 0 &&
               mpz_odd_p(mpq_numref(q->value));
    if (!odd) return unknown;
    ks_real v = power(negate(base), exponent);
    return mpz_odd_p(mpq_numref(p->value)) ? negate(v) : v;
}

static long double cotangent(long double x) {
    return 1 / tanl(x);
}
static long double secant(long double x) {
    return 1 / cosl(x);
}
static long double cosecant(long double x) {
    return 1 / sinl(x);
}
static long double common_log(long double x) {
    return logl(x) / logl(10);
}

static ks_real extreme(ks_real a, ks_real b, bool least) {
    if (!a.known || !b.known) return unknown;
    return (a.value < b.value) == least ? a : b;
}

static ks_real function(const ks_tree *tree, const ks_node *node, int pm,
                        int point) {
    static long double (*const plain[KS_N_FUNCTIONS])(long double) = {
        [KS_F_SIN] = sinl,      [KS_F_COS] = cosl,       [KS_F_TAN] = tanl,
        [KS_F_COT] = cotangent, [KS_F_SEC] = secant,     [KS_F_CSC] = cosecant,
        [KS_F_ASIN] = asinl,    [KS_F_ACOS] = acosl,     [KS_F_ATAN] = atanl,
        [KS_F_SINH] = sinhl,    [KS_F_COSH] = coshl,     [KS_F_TANH] = tanhl,
        [KS_F_LN] = logl,       [KS_F_LOG] = common_log, [KS_F_EXP] = expl,
        [KS_F_ABS] = fabsl,     [KS_F_FLOOR] = floorl,   [KS_F_CEIL] = ceill,
    };
    int32_t second = tree->at[node->first].next;
    ks_real x = ks__approx(tree, node->first, pm, point);
    bool extremes = node->code == KS_F_MIN || node->code == KS_F_MAX;
    if (extremes) {
        for (int32_t c = second; c >= 0; c = tree->at[c].next)
            x = extreme(x, ks__approx(tree, c, pm, point),
                        node->code == KS_F_MIN);
        return x;
    }
    if (node->code == KS_F_LOG && second >= 0) {
        ks_real y = ks__approx(tree, second, pm, point);
        return multiply(apply(logl, y), invert(apply(logl, x)));
    }
    if (plain[node->code] == NULL || second >= 0) return unknown;
    /* a step right at the jump cannot be told from one beside it */
    if (node->code == KS_F_FLOOR || node->code == KS_F_CEIL) {
        if (fabsl(x.value - roundl(x.value)) <= 2 * x.error && x.error > 0 &&
            x.value != roundl(x.value)) {
            return unknown;
        }
    }
    return apply(plain[node->code], x);
}

static ks_real chain(const ks_tree *tree, const ks_node *node, int pm,
                     int point) {
    ks_real x = ks__approx(tree, node->first, pm, point);
    int32_t child = tree->at[node->first].next;
    while (child >= 0 && x.known) {
        ks_real y = ks__approx(tree, child, pm, point);
        if (node->kind == KS_X_ADD)
            x = add(x, y);
        else if (node->kind == KS_X_DIV || tree->at[child].sign == '/')
            x = multiply(x, invert(y));
        else
            x = multiply(x, y);
        child = tree->at[child].next;
    }
    return x;
}

ks_real ks__approx(const ks_tree *tree, int32_t at, int pm, int point) {
    const ks_node *node = &tree->at[at];
    ks_real x;
    switch (node->kind) {
    case KS_X_NUMBER:
        return from_rational(node->value);
    case KS_X_SYMBOL:
        return symbol(tree->text.data + node->text.begin,
                      node->text.end - node->text.begin, point);
    case KS_X_PI:
        return checked(acosl(-1), LDBL_EPSILON * 2);
    case KS_X_ADD:
    case KS_X_MUL:
    case KS_X_DIV:
        return chain(tree, node, pm, point);
    case KS_X_POW:
        x = ks__approx(tree, node->first, pm, point);
        return root(tree, node, x,
                    ks__approx(tree, tree->at[node->first].next, pm, point));
    case KS_X_NEG:
        return negate(ks__approx(tree, node->first, pm, point));
    case KS_X_PM:
        x = ks__approx(tree, node->first, pm, point);
        return node->code * pm < 0 ? negate(x) : x;
    case KS_X_PERCENT:
    case KS_X_DEGREE:
        x = ks__approx(tree, node->first, pm, point);
        return multiply(x, node->kind == KS_X_PERCENT
                               ? checked(0.01L, LDBL_EPSILON * 0.01L)
                               : checked(acosl(-1) / 180, LDBL_EPSILON));
    case KS_X_FUNCTION:
        return function(tree, node, pm, point);
    default:
        return unknown;
    }
}

bool ks__approx_is_small(const ks_tree *tree) {
    for (size_t i = 0; i < tree->n; i++) {
        if (tree->at[i].kind != KS_X_NUMBER) continue;
        mpq_srcptr q = tree->at[i].value;
        if (mpz_cmpabs_ui(mpq_numref(q), 999999999) > 0 ||
            mpz_cmp_ui(mpq_denref(q), 1000000000) > 0) {
            return false;
        }
    }
    return true;
}

bool ks__approx_has_symbol(const ks_tree *tree, int32_t at) {
    const ks_node *node = &tree->at[at];
    if (node->kind == KS_X_SYMBOL) {
        return node->text.end - node->text.begin != 1 ||
               tree->text.data[node->text.begin] != 'e';
    }
    if (node->kind == KS_X_INFINITY) return true;
    for (int32_t c = node->first; c >= 0; c = tree->at[c].next) {
        if (ks__approx_has_symbol(tree, c)) return true;
    }
    return false;
}

bool ks__approx_same(ks_real a, ks_real b) {
    if (!a.known || !b.known) return false;
    long double error = a.error + b.error;
    long double size = fmaxl(fmaxl(fabsl(a.value), fabsl(b.value)), 1);
    return error <= 1e-12L * size && fabsl(a.value - b.value) <= 16 * error;
}
