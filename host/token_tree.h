/* token_tree.h - sequences of ids as a tree: counts what a KV store would
 * compute of them, what they have in common once, without a model. */
#ifndef KS_TOKEN_TREE_H
#define KS_TOKEN_TREE_H

#include "base.h"

typedef struct ks_token_node {
    int32_t id, child, sibling; /* 0: none */
} ks_token_node;

/* {0} is empty. */
typedef struct ks_token_tree {
    ks_token_node *nodes; /* [n]; 0 is the root */
    size_t n, capacity;
} ks_token_tree;

/* *anew: tokens of ids [n] that are not there yet; then they are. */
ks_status ks_token_tree_put(ks_token_tree *tree, const int32_t *ids, int32_t n,
                            int64_t *anew, ks_err *err);
void ks_token_tree_clear(ks_token_tree *tree);
void ks_token_tree_free(ks_token_tree *tree);

#endif
