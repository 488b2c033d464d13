/* token_tree.c - see token_tree.h. */
#include "token_tree.h"

#include <stdlib.h>

/* The child with this id; *anew: there was none. */
static ks_status step_down(ks_token_tree *t, int32_t at, int32_t id,
                           int32_t *out, bool *anew, ks_err *err) {
    ks_status st = KS_OK;
    int32_t child = t->nodes[at].child;
    while (child && t->nodes[child].id != id) child = t->nodes[child].sibling;
    *anew = child == 0;
    *out = child;
    if (child) return KS_OK;
    KS_CHECK(t->n < INT32_MAX, KS_LIMIT, "questions of %zu tokens are too many",
             t->n);
    KS_TRY(ks_grow(&t->nodes, &t->capacity, t->n + 1, sizeof *t->nodes,
                   "tokens", err));
    t->nodes[t->n] = (ks_token_node){.id = id, .sibling = t->nodes[at].child};
    t->nodes[at].child = *out = (int32_t)t->n++;
done:
    return st;
}

ks_status ks_token_tree_put(ks_token_tree *t, const int32_t *ids, int32_t n,
                            int64_t *anew, ks_err *err) {
    ks_status st = KS_OK;
    *anew = 0;
    if (t->n == 0) {
        KS_TRY(ks_grow(&t->nodes, &t->capacity, 1, sizeof *t->nodes, "tokens",
                       err));
        t->nodes[t->n++] = (ks_token_node){0};
    }
    for (int32_t i = 0, at = 0; i < n; i++) {
        bool is_new;
        KS_TRY(step_down(t, at, ids[i], &at, &is_new, err));
        *anew += is_new;
    }
done:
    return st;
}

void ks_token_tree_clear(ks_token_tree *t) {
    t->n = 0;
}

void ks_token_tree_free(ks_token_tree *t) {
    free(t->nodes);
    *t = (ks_token_tree){0};
}
