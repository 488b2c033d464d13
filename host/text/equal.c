/* equal.c - whether two final answers mean the same. */
#include <string.h>

#include "compat.h"
#include "equal.h"

/* About a second. */
enum { MOST_WORK = 5000000 };

/* Longer texts are no answers: compared as they are. */
enum { LONGEST = 65536 };

static ks_status by_trees(const ks_tree *a, const ks_tree *b, bool *equal,
                          ks_err *err) {
    ks_comparison c = {.work = MOST_WORK, .err = err};
    if (a->root >= 0 && b->root >= 0) {
        *equal = ks__equal_views(&c, (ks_view){a, a->root, 0},
                                 (ks_view){b, b->root, 0});
    }
    return c.status;
}

static bool is_parted(const ks_tree *t) {
    if (t->root < 0) return false;
    ks_kind kind = t->at[t->root].kind;
    return kind == KS_X_LIST || kind == KS_X_TUPLE || kind == KS_X_SET;
}

/* "1,234" against a list is a list as well. */
static ks_status with_groups_parted(const char *text, size_t n, ks_tree *own,
                                    const ks_tree *other, bool *equal,
                                    ks_err *err) {
    ks_status st = KS_OK;
    if (*equal || !own->tokens.grouped || !is_parted(other)) return KS_OK;
    ks__expr_free(own);
    KS_TRY(ks__expr_parse(text, n, false, own, err));
    KS_TRY(by_trees(own, other, equal, err));
done:
    return st;
}

static bool same_text(const char *a, size_t n_a, const char *b, size_t n_b) {
    ks_span p = ks_text_trim(a, (ks_span){0, n_a});
    ks_span q = ks_text_trim(b, (ks_span){0, n_b});
    return p.end - p.begin == q.end - q.begin &&
           memcmp(a + p.begin, b + q.begin, p.end - p.begin) == 0;
}

ks_status ks_text_equal(const char *a, size_t n_a, const char *b, size_t n_b,
                        bool compat, bool *equal, ks_err *err) {
    ks_status st = KS_OK;
    ks_tree left = {.root = -1}, right = {.root = -1};
    ks_str p = {0}, q = {0};
    bool times;
    *equal = false;
    KS_TRY(ks_text_check(a, n_a, "a", err));
    KS_TRY(ks_text_check(b, n_b, "b", err));
    if (n_a > LONGEST || n_b > LONGEST) {
        *equal = same_text(a, n_a, b, n_b);
        return KS_OK;
    }
    if (compat) return ks__compat_equal(a, n_a, b, n_b, equal, err);
    KS_TRY(ks__equal_words(a, n_a, b, n_b, equal, err));
    if (*equal) goto done;
    KS_TRY(ks__expr_prepare(a, n_a, &p, err));
    KS_TRY(ks__expr_prepare(b, n_b, &q, err));
    ks__equal_times(p.data, p.length, q.data, q.length, &times, equal);
    if (times) goto done;
    KS_TRY(ks__expr_parse(a, n_a, true, &left, err));
    KS_TRY(ks__expr_parse(b, n_b, true, &right, err));
    KS_TRY(by_trees(&left, &right, equal, err));
    KS_TRY(with_groups_parted(a, n_a, &left, &right, equal, err));
    KS_TRY(with_groups_parted(b, n_b, &right, &left, equal, err));
done:
    ks__expr_free(&left);
    ks__expr_free(&right);
    ks_str_free(&p);
    ks_str_free(&q);
    return st;
}
