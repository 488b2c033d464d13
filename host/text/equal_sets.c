/* equal_sets.c - lists, tuples, sets, intervals, unions, relations, matrices.
 */
#include <stdlib.h>

#include "equal.h"

/* Parts of a list compared in any order cost their number squared. */
enum { MOST_UNORDERED = 200 };

static const ks_node *node_of(ks_view v) {
    return &v.tree->at[v.node];
}

static ks_view at(ks_view v, int32_t node) {
    v.node = node;
    return v;
}

static ks_kind kind_of(ks_view v) {
    return node_of(v)->kind;
}

static bool has_pm(const ks_tree *tree, int32_t node) {
    if (tree->at[node].kind == KS_X_PM) return true;
    for (int32_t c = tree->at[node].first; c >= 0; c = tree->at[c].next) {
        if (has_pm(tree, c)) return true;
    }
    return false;
}

/* ------------------------------------------------------------------- lists */

typedef struct views {
    ks_view *at;
    size_t n, capacity;
} views;

static void add_view(ks_comparison *c, views *list, ks_view v) {
    if (c->status != KS_OK) return;
    c->status = ks_grow(&list->at, &list->capacity, list->n + 1,
                        sizeof *list->at, "parts of an answer", c->err);
    if (c->status == KS_OK) list->at[list->n++] = v;
}

/* v itself, or one view for each sign of its +-. */
static void add_signs(ks_comparison *c, views *list, ks_view v) {
    bool both = v.pm == 0 && has_pm(v.tree, v.node);
    v.pm = v.pm == 0 ? 1 : v.pm;
    add_view(c, list, v);
    if (!both) return;
    v.pm = -1;
    add_view(c, list, v);
}

/* The parts of a list, set, tuple or matrix; of another thing: itself. */
static void parts_of(ks_comparison *c, ks_view v, views *list) {
    ks_kind kind = kind_of(v);
    bool many = kind == KS_X_LIST || kind == KS_X_SET || kind == KS_X_TUPLE ||
                kind == KS_X_MATRIX;
    if (kind == KS_X_EMPTY) return;
    if (!many) {
        add_signs(c, list, v);
        return;
    }
    for (int32_t p = node_of(v)->first; p >= 0; p = v.tree->at[p].next)
        add_signs(c, list, at(v, p));
}

static bool equal_in_order(ks_comparison *c, const views *a, const views *b) {
    if (a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++) {
        if (!ks__equal_views(c, a->at[i], b->at[i])) return false;
    }
    return true;
}

/* Each part of a finds a part of b of its own. */
static bool equal_in_any_order(ks_comparison *c, const views *a,
                               const views *b) {
    bool taken[MOST_UNORDERED] = {false};
    if (a->n != b->n) return false;
    if (a->n > MOST_UNORDERED) return equal_in_order(c, a, b);
    for (size_t i = 0; i < a->n; i++) {
        size_t k = 0;
        while (k < b->n &&
               (taken[k] || !ks__equal_views(c, a->at[i], b->at[k]))) {
            k++;
        }
        if (k == b->n) return false;
        taken[k] = true;
    }
    return true;
}

/* Keeps the first of equal parts. */
static void drop_repeats(ks_comparison *c, views *list) {
    size_t kept = 0;
    if (list->n > MOST_UNORDERED) return;
    for (size_t i = 0; i < list->n; i++) {
        size_t k = 0;
        while (k < kept && !ks__equal_views(c, list->at[k], list->at[i])) k++;
        if (k == kept) list->at[kept++] = list->at[i];
    }
    list->n = kept;
}

/* ------------------------------------------------------------- assignments */

static bool is_name(const ks_tree *tree, int32_t node) {
    const ks_node *n = &tree->at[node];
    if (n->kind == KS_X_SYMBOL) return true;
    if (n->kind != KS_X_MUL && n->kind != KS_X_TUPLE) return false;
    for (int32_t c = n->first; c >= 0; c = tree->at[c].next) {
        if (tree->at[c].kind != KS_X_SYMBOL || tree->at[c].sign == '/')
            return false;
    }
    return true;
}

/* name = ... = value, or name in set: the value. */
static bool assignment(ks_view v, ks_view *name, ks_view *value) {
    if (kind_of(v) != KS_X_RELATION) return false;
    int32_t first = node_of(v)->first, last = first;
    if (!is_name(v.tree, first)) return false;
    for (int32_t c = v.tree->at[first].next; c >= 0; c = v.tree->at[c].next) {
        int sign = v.tree->at[c].sign;
        if (sign != '=' && sign != KS_S_IN) return false;
        last = c;
    }
    *name = at(v, first);
    *value = at(v, last);
    return true;
}

/* Assignments to names that differ: their order says which is which. */
static bool is_named(const views *list) {
    ks_view name, other, value;
    if (list->n < 2 || !assignment(list->at[0], &name, &value)) return false;
    if (!assignment(list->at[1], &other, &value)) return false;
    ks_span p = node_of(name)->text, q = node_of(other)->text;
    size_t n = p.end - p.begin;
    if (n != q.end - q.begin) return true;
    for (size_t i = 0; i < n; i++) {
        if (name.tree->text.data[p.begin + i] !=
            other.tree->text.data[q.begin + i]) {
            return true;
        }
    }
    return false;
}

/* --------------------------------------------------------------- intervals */

/* node -1: infinite at this end. */
typedef struct interval {
    ks_view low, high;
    bool low_closed, high_closed;
} interval;

static ks_view infinite(ks_view v) {
    v.node = -1;
    return v;
}

static bool is_infinite(ks_view v, bool minus) {
    if (v.node < 0) return true;
    const ks_node *n = node_of(v);
    if (minus) {
        if (n->kind != KS_X_NEG) return false;
        n = &v.tree->at[n->first];
    }
    return n->kind == KS_X_INFINITY;
}

static bool from_tuple(ks_view v, interval *out) {
    const ks_node *n = node_of(v);
    int32_t low = n->first, high = v.tree->at[low].next;
    if (high < 0 || v.tree->at[high].next >= 0) return false;
    out->low = at(v, low);
    out->high = at(v, high);
    out->low_closed = (n->code & KS_CLOSED_LEFT) != 0;
    out->high_closed = (n->code & KS_CLOSED_RIGHT) != 0;
    return true;
}

static bool less(int sign) {
    return sign == '<' || sign == KS_S_LE;
}

static bool more(int sign) {
    return sign == '>' || sign == KS_S_GE;
}

static bool closed(int sign) {
    return sign == KS_S_LE || sign == KS_S_GE;
}

/* x < b, a < x, a < x < b and the same the other way round */
static bool from_relation(ks_view v, interval *out) {
    int32_t a = node_of(v)->first, b = v.tree->at[a].next;
    int32_t c = v.tree->at[b].next;
    int first = v.tree->at[b].sign;
    if (c >= 0) {
        int second = v.tree->at[c].sign;
        bool up = less(first) && less(second);
        if (v.tree->at[c].next >= 0 || !is_name(v.tree, b)) return false;
        if (!up && !(more(first) && more(second))) return false;
        *out =
            up ? (interval){at(v, a), at(v, c), closed(first), closed(second)}
               : (interval){at(v, c), at(v, a), closed(second), closed(first)};
        return true;
    }
    bool left = is_name(v.tree, a), right = is_name(v.tree, b);
    if (left == right || (!less(first) && !more(first))) return false;
    ks_view end = at(v, left ? b : a);
    bool below = left ? less(first) : more(first);
    *out = below ? (interval){infinite(v), end, false, closed(first)}
                 : (interval){end, infinite(v), closed(first), false};
    return true;
}

static bool read_interval(ks_view v, interval *out) {
    bool read = false;
    if (kind_of(v) == KS_X_TUPLE) read = from_tuple(v, out);
    if (kind_of(v) == KS_X_RELATION) read = from_relation(v, out);
    if (kind_of(v) == KS_X_REALS) {
        *out = (interval){infinite(v), infinite(v), false, false};
        return true;
    }
    if (!read) return false;
    if (is_infinite(out->low, true)) {
        out->low = infinite(v);
        out->low_closed = false;
    }
    if (is_infinite(out->high, false)) {
        out->high = infinite(v);
        out->high_closed = false;
    }
    return true;
}

static bool equal_ends(ks_comparison *c, ks_view a, ks_view b) {
    if (a.node < 0 || b.node < 0) return a.node < 0 && b.node < 0;
    return ks__equal_views(c, a, b);
}

static bool equal_intervals(ks_comparison *c, ks_view a, ks_view b) {
    interval p, q;
    return read_interval(a, &p) && read_interval(b, &q) &&
           p.low_closed == q.low_closed && p.high_closed == q.high_closed &&
           equal_ends(c, p.low, q.low) && equal_ends(c, p.high, q.high);
}

/* ------------------------------------------------------------------ unions */

static void members_of(ks_comparison *c, ks_view v, int code, views *list) {
    if (kind_of(v) != KS_X_SETOP || node_of(v)->code != code) {
        add_view(c, list, v);
        return;
    }
    int32_t first = node_of(v)->first;
    members_of(c, at(v, first), code, list);
    members_of(c, at(v, v.tree->at[first].next), code, list);
}

static bool equal_setops(ks_comparison *c, ks_view a, ks_view b) {
    int code = kind_of(a) == KS_X_SETOP ? node_of(a)->code : node_of(b)->code;
    views p = {0}, q = {0};
    for (int i = 0; i < 2; i++) {
        ks_view v = i == 0 ? a : b;
        /* "x < 1 or x > 3" is a union too */
        if (kind_of(v) == KS_X_LIST && code == KS_S_CUP)
            parts_of(c, v, i == 0 ? &p : &q);
        else
            members_of(c, v, code, i == 0 ? &p : &q);
    }
    bool same = c->status == KS_OK && p.n > 1 &&
                (code == KS_S_MINUS_SET ? equal_in_order(c, &p, &q)
                                        : equal_in_any_order(c, &p, &q));
    free(p.at);
    free(q.at);
    return same;
}

/* --------------------------------------------------------------- all kinds */

static bool is_ordered_tuple(ks_view v) {
    if (kind_of(v) == KS_X_MATRIX) return true;
    if (kind_of(v) != KS_X_TUPLE) return false;
    int code = node_of(v)->code;
    int32_t second = v.tree->at[node_of(v)->first].next;
    bool two = v.tree->at[second].next < 0;
    return code == 0 || (!two && code == (KS_CLOSED_LEFT | KS_CLOSED_RIGHT));
}

static bool equal_parts(ks_comparison *c, ks_view a, ks_view b) {
    ks_kind p = kind_of(a), q = kind_of(b);
    bool set =
        p == KS_X_SET || q == KS_X_SET || p == KS_X_EMPTY || q == KS_X_EMPTY;
    bool tuple = p == KS_X_TUPLE || q == KS_X_TUPLE || p == KS_X_MATRIX ||
                 q == KS_X_MATRIX;
    if (set && tuple) return false;
    if (p == KS_X_TUPLE && !is_ordered_tuple(a)) return false;
    if (q == KS_X_TUPLE && !is_ordered_tuple(b)) return false;
    views x = {0}, y = {0};
    parts_of(c, a, &x);
    parts_of(c, b, &y);
    if (set) {
        drop_repeats(c, &x);
        drop_repeats(c, &y);
    }
    bool named = !set && is_named(&x) != is_named(&y);
    bool same =
        c->status == KS_OK && (tuple || named ? equal_in_order(c, &x, &y)
                                              : equal_in_any_order(c, &x, &y));
    free(x.at);
    free(y.at);
    return same;
}

static bool equal_matrices(ks_comparison *c, ks_view a, ks_view b) {
    if (kind_of(a) == KS_X_MATRIX && kind_of(b) == KS_X_MATRIX)
        return node_of(a)->code == node_of(b)->code && equal_parts(c, a, b);
    ks_view m = kind_of(a) == KS_X_MATRIX ? a : b;
    ks_view t = kind_of(a) == KS_X_MATRIX ? b : a;
    if (kind_of(t) != KS_X_TUPLE || !is_ordered_tuple(t)) return false;
    int32_t rows = 0, columns = node_of(m)->code;
    for (int32_t p = node_of(m)->first; p >= 0; p = m.tree->at[p].next) rows++;
    rows /= columns;
    return (rows == 1 || columns == 1) && equal_parts(c, a, b);
}

static bool either(ks_kind a, ks_kind b, ks_kind kind) {
    return a == kind || b == kind;
}

/* Both relations: an assignment each to the same name, intervals, or alike. */
static bool equal_two_relations(ks_comparison *c, ks_view a, ks_view b) {
    ks_view name_a, name_b, value_a, value_b;
    bool is_a = assignment(a, &name_a, &value_a);
    bool is_b = assignment(b, &name_b, &value_b);
    if (is_a && is_b && ks__equal_scalars(c, name_a, name_b))
        return ks__equal_views(c, value_a, value_b);
    if (equal_intervals(c, a, b)) return true;
    return ks__equal_relations(c, a, b);
}

bool ks__equal_views(ks_comparison *c, ks_view a, ks_view b) {
    ks_view name, value;
    if (c->status != KS_OK || (c->work -= 20) <= 0) return false;
    ks_kind p = kind_of(a), q = kind_of(b);
    if (p == KS_X_RELATION && q == KS_X_RELATION)
        return equal_two_relations(c, a, b);
    if (assignment(a, &name, &value)) return ks__equal_views(c, value, b);
    if (assignment(b, &name, &value)) return ks__equal_views(c, a, value);
    if (either(p, q, KS_X_SETOP)) return equal_setops(c, a, b);
    if (either(p, q, KS_X_MATRIX)) return equal_matrices(c, a, b);
    if (either(p, q, KS_X_RELATION) || either(p, q, KS_X_REALS) ||
        (p == KS_X_TUPLE && q == KS_X_TUPLE)) {
        if (equal_intervals(c, a, b)) return true;
    }
    bool pm = (a.pm == 0 && has_pm(a.tree, a.node)) ||
              (b.pm == 0 && has_pm(b.tree, b.node));
    if (pm || either(p, q, KS_X_LIST) || either(p, q, KS_X_SET) ||
        either(p, q, KS_X_TUPLE) || either(p, q, KS_X_EMPTY)) {
        return equal_parts(c, a, b);
    }
    if (either(p, q, KS_X_RATIO)) return ks__equal_ratios(c, a, b);
    return ks__equal_scalars(c, a, b);
}
