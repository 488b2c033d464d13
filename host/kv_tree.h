/* kv_tree.h - which full pages of a KV store hold what: a tree of pages by the
 * tokens in them, so that sequences that begin alike share the pages of what
 * they have in common, whether they know of each other or not.
 *
 * A page's node is announced by the sequence that is going to compute it, and
 * ready once it has. The tree owns ready pages too (ks_kv_page_share), so they
 * outlive their sequences until they are evicted. */
#ifndef KS_KV_TREE_H
#define KS_KV_TREE_H

#include "forward.h"

typedef struct ks_kv_tree ks_kv_tree;

/* For a store of n_pages, which is to outlive it; at most as many nodes. */
ks_status ks_kv_tree_open(ks_kv_tree **out, ks_kv *kv, int32_t n_pages,
                          ks_err *err);
/* Gives back all pages. */
void ks_kv_tree_close(ks_kv_tree **tree);

/* What is known of the tokens of a sequence besides their keys and values:
 * at[t] is the log-probability of token t given those before it, NAN where
 * nobody asked, for tokens from `from` on. */
typedef struct ks_kv_scores {
    float *at; /* as many as tokens */
    int32_t from;
} ks_kv_scores;

/* What follows the pages that were found. */
typedef struct ks_kv_rest {
    bool coming;    /* the next page is announced */
    int32_t page;   /* one whose first tokens are the next ones, shared for the
                       caller, or -1 */
    int32_t tokens; /* how many */
} ks_kv_rest;

/* The pages that hold the front of ids [n]: writes their ids, shares them for
 * the caller and returns how many. With scores (may be NULL): pages alone whose
 * tokens' scores are known, which are written. */
int32_t ks_kv_tree_find(ks_kv_tree *tree, const int32_t *ids, int32_t n,
                        const ks_kv_scores *scores, int32_t *pages,
                        ks_kv_rest *rest);
/* Of ids [n] the caller will compute the full pages that are not there. When
 * there are no nodes left the rest is not shared. */
void ks_kv_tree_announce(ks_kv_tree *tree, const int32_t *ids, int32_t n);
/* The front of ids [n] lies in pages; announced nodes of it become ready, and
 * keep the scores (may be NULL). Where a node was ready its page takes the
 * place of the caller's: they hold the same. */
void ks_kv_tree_ready(ks_kv_tree *tree, const int32_t *ids, int32_t n,
                      const ks_kv_scores *scores, int32_t *pages);
/* Takes back what was announced of ids [n] and is not ready. Of two that
 * announced the same (below a ready page whose scores neither found) the first
 * to take it back takes the other's along: the other's page is its own then.
 */
void ks_kv_tree_forget(ks_kv_tree *tree, const int32_t *ids, int32_t n);

/* Pages that nobody but the tree owns, and gives back when asked. */
int32_t ks_kv_tree_spare(const ks_kv_tree *tree);
/* Gives back `want` of them or all, those not used for longest first; returns
 * how many. What was announced behind one goes along. */
int32_t ks_kv_tree_evict(ks_kv_tree *tree, int32_t want);

#endif
