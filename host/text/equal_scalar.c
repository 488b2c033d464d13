/* equal_scalar.c - numbers, percentages, units, algebra, functions. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "approx.h"
#include "equal.h"

static const ks_node *node_of(ks_view v) {
    return &v.tree->at[v.node];
}

/* What one comparison of numbers may cost, and what it costs at least. */
enum { MOST_ALGEBRA = 1000000, LEAST_ALGEBRA = 200 };

static bool algebra_open(ks_comparison *c, ks_algebra *a) {
    c->status = ks__algebra_open(a, c->err);
    if (c->status != KS_OK) return false;
    a->work = KS_MIN(c->work, (int64_t)MOST_ALGEBRA);
    c->work -= a->work;
    return true;
}

static void algebra_close(ks_comparison *c, ks_algebra *a) {
    c->work += KS_MAX(a->work, 0) - LEAST_ALGEBRA;
    if (a->status != KS_OK) c->status = a->status;
    ks__algebra_close(a);
}

static ks_view child_of(ks_view v) {
    v.node = node_of(v)->first;
    return v;
}

/* ----------------------------------------------------------- lone decimals */

/* A number written with a point, perhaps signed, in per cent or times a power
 * of ten: its value and what one step of its last digit is worth. */
typedef struct lone {
    mpq_t value, step;
    int32_t places, digits;
} lone;

static bool is_power_of_ten(const ks_view v) {
    const ks_node *n = node_of(v);
    if (n->kind == KS_X_NUMBER) {
        if (n->decimal || mpq_cmp_ui(n->value, 1, 1) < 0) return false;
        char *digits = mpq_get_str(NULL, 10, n->value);
        bool ten = digits != NULL && digits[0] == '1' &&
                   strspn(digits + 1, "0") == strlen(digits + 1);
        free(digits);
        return ten;
    }
    if (n->kind != KS_X_POW) return false;
    const ks_node *base = &v.tree->at[n->first];
    return base->kind == KS_X_NUMBER && mpq_cmp_ui(base->value, 10, 1) == 0;
}

static bool scale_lone(lone *l, const ks_tree *tree, int32_t by, bool divide) {
    ks_algebra a;
    ks_err err;
    mpq_t q;
    if (ks__algebra_open(&a, &err) != KS_OK) return false;
    mpq_init(q);
    ks_fraction x = ks__value_of(&a, tree, by, 1);
    bool known = !a.failed && ks__value_as_rational(x, q) && mpq_sgn(q) != 0;
    if (known && divide) mpq_inv(q, q);
    if (known) {
        mpq_mul(l->value, l->value, q);
        mpq_mul(l->step, l->step, q);
        l->places = 0;
    }
    mpq_clear(q);
    ks__algebra_close(&a);
    return known;
}

/* l must be initialised. */
static bool read_lone(ks_view v, lone *l) {
    const ks_node *n = node_of(v);
    if (n->kind == KS_X_NEG || n->kind == KS_X_PM || n->kind == KS_X_PERCENT) {
        if (!read_lone(child_of(v), l)) return false;
        bool minus =
            n->kind == KS_X_NEG || (n->kind == KS_X_PM && n->code * v.pm < 0);
        if (minus) mpq_neg(l->value, l->value);
        if (n->kind == KS_X_PERCENT) {
            mpq_t hundred;
            mpq_init(hundred);
            mpq_set_ui(hundred, 100, 1);
            mpq_div(l->value, l->value, hundred);
            mpq_div(l->step, l->step, hundred);
            l->places += 2;
            mpq_clear(hundred);
        }
        return true;
    }
    if (n->kind == KS_X_MUL) {
        const ks_node *second = &v.tree->at[v.tree->at[n->first].next];
        ks_view by = {v.tree, v.tree->at[n->first].next, v.pm};
        return second->next < 0 && is_power_of_ten(by) &&
               read_lone(child_of(v), l) &&
               scale_lone(l, v.tree, by.node, second->sign == '/');
    }
    if (n->kind != KS_X_NUMBER || !n->decimal) return false;
    mpq_set(l->value, n->value);
    mpq_set_ui(l->step, 1, 1);
    mpz_t ten;
    mpz_init(ten);
    mpz_ui_pow_ui(ten, 10, (unsigned long)labs(n->places));
    if (n->places >= 0)
        mpz_set(mpq_denref(l->step), ten);
    else
        mpz_set(mpq_numref(l->step), ten);
    mpz_clear(ten);
    l->places = n->places;
    l->digits = n->digits;
    return true;
}

static void lone_open(lone *l) {
    mpq_init(l->value);
    mpq_init(l->step);
    l->places = l->digits = 0;
}

static void lone_close(lone *l) {
    mpq_clear(l->value);
    mpq_clear(l->step);
}

/* exact is what l rounds (needs `rounding` digits) or cuts short. */
static bool stands_for(const lone *l, const mpq_t exact, int32_t rounding) {
    enum { CUTTING = 5, NOISE_PLACES = 10 };
    mpq_t off, bound;
    bool same = false;
    mpq_init(off);
    mpq_init(bound);
    mpq_sub(off, exact, l->value);
    mpq_abs(off, off);
    if (l->digits >= rounding) {
        mpq_set_ui(bound, 1, 2);
        mpq_mul(bound, bound, l->step);
        same = mpq_cmp(off, bound) <= 0;
    }
    if (!same && l->digits >= CUTTING && mpq_sgn(exact) == mpq_sgn(l->value)) {
        mpq_t beyond;
        mpq_init(beyond);
        mpq_abs(beyond, exact);
        mpq_abs(bound, l->value);
        same = mpq_cmp(beyond, bound) > 0 && mpq_cmp(off, l->step) < 0;
        mpq_clear(beyond);
    }
    if (!same && l->places >= NOISE_PLACES) {
        mpq_set_ui(bound, 1, 1000000000);
        mpq_mul(bound, bound, exact);
        mpq_abs(bound, bound);
        same = mpq_cmp(off, bound) <= 0;
    }
    mpq_clear(off);
    mpq_clear(bound);
    return same;
}

/* One side is a lone decimal, the other a number that it may stand for. */
static bool decimal_stands(const lone *l, ks_view v, bool is_rational,
                           const mpq_t rational) {
    lone other;
    bool same = false;
    lone_open(&other);
    if (read_lone(v, &other)) {
        /* the coarser of two decimals may be the other's rounding */
        bool coarser = mpq_cmp(other.step, l->step) < 0;
        same = stands_for(l, other.value, coarser ? 4 : INT32_MAX);
    } else if (is_rational) {
        bool whole = mpz_cmp_ui(mpq_denref(rational), 1) == 0;
        same = stands_for(l, rational, whole ? INT32_MAX : 3);
        if (whole && l->places < 10) same = false;
    } else if (!ks__approx_has_symbol(v.tree, v.node) && l->digits <= 17) {
        ks_real x = ks__approx(v.tree, v.node, v.pm, 0);
        if (x.known && fabsl(x.value) < 1e15L) {
            /* rounded to 2^-40 of the last digit: enough to tell */
            long double step = mpq_get_d(l->step);
            mpq_t near;
            mpq_init(near);
            mpq_set_d(near, (double)x.value);
            mpq_t rest;
            mpq_init(rest);
            mpq_set_d(rest, (double)(x.value - (long double)(double)x.value));
            mpq_add(near, near, rest);
            same = x.error < step && stands_for(l, near, 3);
            mpq_clear(rest);
            mpq_clear(near);
        }
    }
    lone_close(&other);
    return same;
}

/* ----------------------------------------------------------- plain numbers */

static bool agree_at_points(ks_view a, ks_view b) {
    if (!ks__approx_is_small(a.tree) || !ks__approx_is_small(b.tree))
        return false;
    int agreed = 0;
    for (int i = 0; i < KS_APPROX_POINTS; i++) {
        ks_real x = ks__approx(a.tree, a.node, a.pm, i);
        ks_real y = ks__approx(b.tree, b.node, b.pm, i);
        if (!x.known || !y.known) continue;
        if (!ks__approx_same(x, y)) return false;
        agreed++;
    }
    return agreed >= 2;
}

/* Without percent, degrees and units at the top. */
static bool equal_plain(ks_comparison *c, ks_view a, ks_view b) {
    ks_algebra algebra;
    lone l;
    mpq_t p, q;
    bool same = false;
    if (!algebra_open(c, &algebra)) return false;
    mpq_init(p);
    mpq_init(q);
    ks_fraction x = ks__value_of(&algebra, a.tree, a.node, a.pm);
    ks_fraction y = ks__value_of(&algebra, b.tree, b.node, b.pm);
    same = ks__value_equal(&algebra, x, y);
    bool is_p = !algebra.failed && ks__value_as_rational(x, p);
    bool is_q = !algebra.failed && ks__value_as_rational(y, q);
    bool unsure = algebra.opaque || (algebra.failed && algebra.work < 0);
    if (!same && unsure && algebra.status == KS_OK)
        same = agree_at_points(a, b);
    bool decided = algebra.failed && !unsure;
    algebra_close(c, &algebra);

    lone_open(&l);
    if (!same && !decided && read_lone(a, &l))
        same = decimal_stands(&l, b, is_q, q);
    lone_close(&l);
    lone_open(&l);
    if (!same && !decided && read_lone(b, &l))
        same = decimal_stands(&l, a, is_p, p);
    lone_close(&l);
    mpq_clear(p);
    mpq_clear(q);
    return same && c->status == KS_OK;
}

/* ---------------------------------------------------- percent, degree, unit */

/* The sign may stand outside: -50%, -120^\circ. Takes the mark off a view that
 * is kept in `spare`, a copy of the tree's nodes being out of the question. */
static bool marked(ks_view v, ks_kind kind, ks_view *inner, bool *minus) {
    *minus = false;
    const ks_node *n = node_of(v);
    while (n->kind == KS_X_NEG) {
        *minus = !*minus;
        v = child_of(v);
        n = node_of(v);
    }
    if (n->kind != kind) return false;
    *inner = child_of(v);
    return true;
}

/* b == a with its mark left away; the minus stays. */
static bool equal_unmarked(ks_comparison *c, ks_view a, bool minus, ks_view b) {
    if (!minus) return equal_plain(c, a, b);
    const ks_node *n = node_of(b);
    if (n->kind == KS_X_NEG) return equal_plain(c, a, child_of(b));
    return false;
}

/* a alone has the mark: the number under it, or its value. */
static bool equal_marked(ks_comparison *c, ks_view a, ks_view b, ks_kind kind) {
    ks_view inner;
    bool minus;
    if (!marked(a, kind, &inner, &minus)) return false;
    return equal_unmarked(c, inner, minus, b) || equal_plain(c, a, b);
}

static bool same_label(const char *a, const char *b) {
    return strcmp(a, b) == 0;
}

/* Same dimensions: the numbers must agree after conversion. */
static bool equal_units(ks_comparison *c, ks_view a, ks_view b) {
    const ks_unit *u = &a.tree->units[node_of(a)->code];
    const ks_unit *v = &b.tree->units[node_of(b)->code];
    ks_view x = child_of(a), y = child_of(b);
    if (memcmp(u->dimension, v->dimension, sizeof u->dimension) != 0 ||
        !same_label(u->label, v->label)) {
        return false;
    }
    if (u->above == v->above && u->below == v->below)
        return ks__equal_scalars(c, x, y);

    ks_algebra algebra;
    mpq_t scale;
    if (!algebra_open(c, &algebra)) return false;
    mpq_init(scale);
    mpz_set_si(mpq_numref(scale), u->above);
    mpz_set_si(mpq_denref(scale), u->below);
    mpq_canonicalize(scale);
    ks_fraction left = ks__value_multiply(
        &algebra, ks__value_of(&algebra, x.tree, x.node, x.pm),
        ks__value_rational(&algebra, scale));
    mpz_set_si(mpq_numref(scale), v->above);
    mpz_set_si(mpq_denref(scale), v->below);
    mpq_canonicalize(scale);
    ks_fraction right = ks__value_multiply(
        &algebra, ks__value_of(&algebra, y.tree, y.node, y.pm),
        ks__value_rational(&algebra, scale));
    bool same = ks__value_equal(&algebra, left, right);
    mpq_clear(scale);
    algebra_close(c, &algebra);
    return same;
}

bool ks__equal_scalars(ks_comparison *c, ks_view a, ks_view b) {
    ks_view inner;
    bool minus;
    if (c->status != KS_OK || c->work <= 0) return false;
    bool unit_a = node_of(a)->kind == KS_X_UNIT;
    bool unit_b = node_of(b)->kind == KS_X_UNIT;
    if (unit_a && unit_b) return equal_units(c, a, b);
    if (unit_a) return ks__equal_scalars(c, child_of(a), b);
    if (unit_b) return ks__equal_scalars(c, a, child_of(b));
    for (int i = 0; i < 2; i++) {
        ks_kind kind = i == 0 ? KS_X_PERCENT : KS_X_DEGREE;
        bool in_a = marked(a, kind, &inner, &minus);
        bool in_b = marked(b, kind, &inner, &minus);
        if (in_a && !in_b) return equal_marked(c, a, b, kind);
        if (in_b && !in_a) return equal_marked(c, b, a, kind);
    }
    return equal_plain(c, a, b);
}

/* ------------------------------------------------------ relations and ratios
 */

/* left - right, or right - left */
static ks_fraction difference(ks_algebra *a, ks_view v, bool turned) {
    int32_t left = node_of(v)->first, right = v.tree->at[left].next;
    ks_fraction x = ks__value_of(a, v.tree, left, v.pm);
    ks_fraction y = ks__value_of(a, v.tree, right, v.pm);
    return turned ? ks__value_add(a, y, ks__value_negate(a, x))
                  : ks__value_add(a, x, ks__value_negate(a, y));
}

/* > as < and >= as <= of the turned difference */
static int direction(int sign, bool *turned) {
    *turned = sign == '>' || sign == KS_S_GE;
    return sign == '>' ? '<' : sign == KS_S_GE ? KS_S_LE : sign;
}

bool ks__equal_relations(ks_comparison *c, ks_view a, ks_view b) {
    ks_algebra algebra;
    bool turn_a, turn_b;
    int32_t p = node_of(a)->first, q = node_of(b)->first;
    p = a.tree->at[p].next;
    q = b.tree->at[q].next;
    if (a.tree->at[p].next >= 0 || b.tree->at[q].next >= 0) return false;
    int sign = direction(a.tree->at[p].sign, &turn_a);
    if (sign != direction(b.tree->at[q].sign, &turn_b)) return false;
    if (c->work <= 0) return false;
    if (!algebra_open(c, &algebra)) return false;
    ks_fraction x = difference(&algebra, a, turn_a);
    ks_fraction y = difference(&algebra, b, turn_b);
    bool ordered = sign == '<' || sign == KS_S_LE;
    bool same = ks__value_proportional(&algebra, x, y, ordered);
    algebra_close(c, &algebra);
    return same && c->status == KS_OK;
}

bool ks__equal_ratios(ks_comparison *c, ks_view a, ks_view b) {
    ks_algebra algebra;
    bool both =
        node_of(a)->kind == KS_X_RATIO && node_of(b)->kind == KS_X_RATIO;
    if (c->work <= 0) return false;
    if (!algebra_open(c, &algebra)) return false;
    int32_t p = node_of(a)->first, q = node_of(b)->first;
    bool same = true;
    if (both) {
        ks_fraction a0 = ks__value_of(&algebra, a.tree, p, a.pm);
        ks_fraction b0 = ks__value_of(&algebra, b.tree, q, b.pm);
        same = !ks__value_is_zero(a0) && !ks__value_is_zero(b0);
        for (; p >= 0 && q >= 0 && same;
             p = a.tree->at[p].next, q = b.tree->at[q].next) {
            ks_fraction x = ks__value_of(&algebra, a.tree, p, a.pm);
            ks_fraction y = ks__value_of(&algebra, b.tree, q, b.pm);
            same =
                ks__value_equal(&algebra, ks__value_multiply(&algebra, x, b0),
                                ks__value_multiply(&algebra, y, a0));
        }
        same = same && p < 0 && q < 0;
    } else {
        bool first = node_of(a)->kind == KS_X_RATIO;
        ks_view ratio = first ? a : b, other = first ? b : a;
        int32_t above = node_of(ratio)->first;
        int32_t below = ratio.tree->at[above].next;
        ks_fraction x = ks__value_of(&algebra, ratio.tree, above, ratio.pm);
        ks_fraction y = ks__value_of(&algebra, ratio.tree, below, ratio.pm);
        ks_fraction z =
            ks__value_of(&algebra, other.tree, other.node, other.pm);
        same =
            ratio.tree->at[below].next < 0 &&
            ks__value_equal(&algebra, x, ks__value_multiply(&algebra, y, z)) &&
            !ks__value_is_zero(y);
    }
    algebra_close(c, &algebra);
    return same && c->status == KS_OK;
}
