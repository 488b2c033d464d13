/* kv_tree.c - pages by their tokens: a hash table of (parent, tokens). */
#include "kv_tree.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NONE = -1 };

typedef struct node {
    int32_t parent; /* NONE: the page is a sequence's first */
    int32_t page;   /* NONE: announced */
    int32_t depth, children;
    int32_t next;                  /* of its bucket, or of the free ones */
    int32_t child, sibling, elder; /* NONE, or the first, next, one before */
    uint64_t used;                 /* never before its children were */
    int32_t ids[KS_PAGE];
    float scores[KS_PAGE]; /* as in ks_kv_scores */
} node;

struct ks_kv_tree {
    ks_kv *kv;
    node *nodes; /* [n_nodes] */
    int32_t n_nodes, free;
    int32_t roots;    /* the first of the nodes without a parent */
    int32_t *buckets; /* [n_buckets], a power of two */
    uint32_t n_buckets;
    uint64_t clock;  /* calls of find */
    int32_t *oldest; /* [n_nodes] evict's */
};

ks_status ks_kv_tree_open(ks_kv_tree **out, ks_kv *kv, int32_t n_pages,
                          ks_err *err) {
    ks_status st = KS_OK;
    ks_kv_tree *t = NULL;
    *out = NULL;
    KS_TRY(ks_alloc(&t, 1, sizeof *t, "the tree of pages", err));
    t->kv = kv;
    t->n_nodes = n_pages;
    t->roots = NONE;
    t->n_buckets = 16;
    while (t->n_buckets < (uint32_t)n_pages) t->n_buckets *= 2;
    KS_TRY(ks_alloc(&t->nodes, (size_t)n_pages, sizeof *t->nodes,
                    "the tree of pages", err));
    KS_TRY(ks_alloc(&t->oldest, (size_t)n_pages, sizeof *t->oldest,
                    "the tree of pages", err));
    KS_TRY(ks_alloc(&t->buckets, t->n_buckets, sizeof *t->buckets,
                    "the tree of pages", err));
    for (uint32_t b = 0; b < t->n_buckets; b++) t->buckets[b] = NONE;
    for (int32_t i = 0; i < n_pages; i++)
        t->nodes[i].next = i + 1 < n_pages ? i + 1 : NONE;
    *out = t;
    t = NULL;
done:
    ks_kv_tree_close(&t);
    return st;
}

void ks_kv_tree_close(ks_kv_tree **tree) {
    ks_kv_tree *t = *tree;
    if (!t) return;
    for (uint32_t b = 0; t->buckets && b < t->n_buckets; b++)
        for (int32_t i = t->buckets[b]; i != NONE; i = t->nodes[i].next)
            if (t->nodes[i].page != NONE)
                ks_kv_page_drop(t->kv, t->nodes[i].page);
    free(t->nodes);
    free(t->oldest);
    free(t->buckets);
    free(t);
    *tree = NULL;
}

/* FNV-1a over the parent and the tokens. */
static int32_t *bucket_of(const ks_kv_tree *t, int32_t parent,
                          const int32_t *ids) {
    uint64_t hash = 14695981039346656037u ^ (uint32_t)parent;
    for (int i = 0; i < KS_PAGE; i++)
        hash = (hash ^ (uint32_t)ids[i]) * 1099511628211u;
    hash ^= hash >> 32;
    return &t->buckets[hash & (t->n_buckets - 1)];
}

static int32_t child_of(const ks_kv_tree *t, int32_t parent,
                        const int32_t *ids) {
    int32_t i = *bucket_of(t, parent, ids);
    while (i != NONE &&
           (t->nodes[i].parent != parent ||
            memcmp(t->nodes[i].ids, ids, sizeof t->nodes[i].ids) != 0))
        i = t->nodes[i].next;
    return i;
}

static int32_t *children_of(ks_kv_tree *t, int32_t parent) {
    return parent == NONE ? &t->roots : &t->nodes[parent].child;
}

static void add_child(ks_kv_tree *t, int32_t parent, int32_t at) {
    int32_t *first = children_of(t, parent);
    if (*first != NONE) t->nodes[*first].elder = at;
    t->nodes[at].sibling = *first;
    *first = at;
    if (parent != NONE) t->nodes[parent].children++;
}

static void remove_child(ks_kv_tree *t, int32_t at) {
    const node *n = &t->nodes[at];
    if (n->elder != NONE)
        t->nodes[n->elder].sibling = n->sibling;
    else
        *children_of(t, n->parent) = n->sibling;
    if (n->sibling != NONE) t->nodes[n->sibling].elder = n->elder;
    if (n->parent != NONE) t->nodes[n->parent].children--;
}

static void remove_node(ks_kv_tree *t, int32_t at) {
    node *n = &t->nodes[at];
    int32_t *link = bucket_of(t, n->parent, n->ids);
    while (*link != at) link = &t->nodes[*link].next;
    *link = n->next;
    remove_child(t, at);
    if (n->page != NONE) ks_kv_page_drop(t->kv, n->page);
    n->next = t->free;
    t->free = at;
}

/* Tokens of page p that have no score to be known. */
static int32_t unscored(const ks_kv_scores *scores, int32_t p) {
    return KS_MIN(KS_PAGE, KS_MAX(0, scores->from - p * KS_PAGE));
}

/* Of its first n tokens, those in front whose scores are known or no matter. */
static int32_t known(const node *n, const ks_kv_scores *scores, int32_t most) {
    int32_t t = scores ? unscored(scores, n->depth) : most;
    while (t < most && !isnan(n->scores[t])) t++;
    return KS_MIN(t, most);
}

static void read_scores(const node *n, const ks_kv_scores *scores,
                        int32_t end) {
    int32_t first = unscored(scores, n->depth);
    if (end > first)
        memcpy(scores->at + n->depth * KS_PAGE + first, n->scores + first,
               (size_t)(end - first) * sizeof(float));
}

static void write_scores(node *n, const ks_kv_scores *scores) {
    for (int32_t t = unscored(scores, n->depth); t < KS_PAGE; t++) {
        float score = scores->at[n->depth * KS_PAGE + t];
        if (!isnan(score)) n->scores[t] = score;
    }
}

/* The child that has most of the next n tokens in front. */
static void find_rest(ks_kv_tree *t, int32_t parent, const int32_t *ids,
                      int32_t n, const ks_kv_scores *scores, ks_kv_rest *rest) {
    int32_t best = NONE;
    n = KS_MIN(n, KS_PAGE);
    for (int32_t i = *children_of(t, parent); i != NONE;
         i = t->nodes[i].sibling) {
        const node *c = &t->nodes[i];
        int32_t same = 0;
        if (c->page == NONE) continue;
        while (same < n && c->ids[same] == ids[same]) same++;
        same = known(c, scores, same);
        if (same <= rest->tokens) continue;
        rest->tokens = same;
        best = i;
    }
    if (best == NONE) return;
    t->nodes[best].used = t->clock;
    rest->page = t->nodes[best].page;
    ks_kv_page_share(t->kv, rest->page);
    if (scores) read_scores(&t->nodes[best], scores, rest->tokens);
}

int32_t ks_kv_tree_find(ks_kv_tree *t, const int32_t *ids, int32_t n,
                        const ks_kv_scores *scores, int32_t *pages,
                        ks_kv_rest *rest) {
    int32_t parent = NONE, found = 0;
    t->clock++;
    *rest = (ks_kv_rest){.page = -1};
    for (; found < n / KS_PAGE; found++) {
        int32_t at = child_of(t, parent, ids + found * KS_PAGE);
        if (at == NONE) break;
        t->nodes[at].used = t->clock;
        rest->coming = t->nodes[at].page == NONE;
        if (rest->coming) return found;
        if (known(&t->nodes[at], scores, KS_PAGE) < KS_PAGE) break;
        if (scores) read_scores(&t->nodes[at], scores, KS_PAGE);
        pages[found] = t->nodes[at].page;
        ks_kv_page_share(t->kv, pages[found]);
        parent = at;
    }
    find_rest(t, parent, ids + found * KS_PAGE, n - found * KS_PAGE, scores,
              rest);
    return found;
}

void ks_kv_tree_announce(ks_kv_tree *t, const int32_t *ids, int32_t n) {
    int32_t parent = NONE;
    for (int32_t p = 0; p < n / KS_PAGE; p++) {
        const int32_t *mine = ids + p * KS_PAGE;
        int32_t at = child_of(t, parent, mine);
        if (at == NONE) {
            at = t->free;
            if (at == NONE) return;
            t->free = t->nodes[at].next;
            int32_t *bucket = bucket_of(t, parent, mine);
            t->nodes[at] = (node){.parent = parent,
                                  .page = NONE,
                                  .depth = p,
                                  .next = *bucket,
                                  .child = NONE,
                                  .elder = NONE,
                                  .used = t->clock};
            memcpy(t->nodes[at].ids, mine, sizeof t->nodes[at].ids);
            for (int i = 0; i < KS_PAGE; i++) t->nodes[at].scores[i] = NAN;
            *bucket = at;
            add_child(t, parent, at);
        }
        t->nodes[at].used = t->clock; /* also where find did not get to */
        parent = at;
    }
}

void ks_kv_tree_ready(ks_kv_tree *t, const int32_t *ids, int32_t n,
                      const ks_kv_scores *scores, int32_t *pages) {
    int32_t at = NONE;
    for (int32_t p = 0; p < n / KS_PAGE; p++) {
        at = child_of(t, at, ids + p * KS_PAGE);
        if (at == NONE) return;
        if (scores) write_scores(&t->nodes[at], scores);
        if (t->nodes[at].page == NONE) {
            t->nodes[at].page = pages[p];
            ks_kv_page_share(t->kv, pages[p]);
        } else if (t->nodes[at].page != pages[p]) {
            ks_kv_page_drop(t->kv, pages[p]);
            pages[p] = t->nodes[at].page;
            ks_kv_page_share(t->kv, pages[p]);
        }
    }
}

void ks_kv_tree_forget(ks_kv_tree *t, const int32_t *ids, int32_t n) {
    int32_t at = NONE, last = NONE;
    for (int32_t p = 0; p < n / KS_PAGE; p++) {
        at = child_of(t, at, ids + p * KS_PAGE);
        if (at == NONE) break;
        last = at;
    }
    /* A node with children stays: whoever announced those is going to compute
     * it too. Without, it may still be another's as well, who then computes a
     * page that nobody else will find: work lost, and nothing else. */
    while (last != NONE && t->nodes[last].page == NONE &&
           t->nodes[last].children == 0) {
        int32_t parent = t->nodes[last].parent;
        remove_node(t, last);
        last = parent;
    }
}

/* A sequence that holds a page holds those ahead of it: what the tree alone
 * owns has nobody's page below it. */
static bool is_spare(const ks_kv_tree *t, const node *n) {
    return n->page != NONE && ks_kv_page_owners(t->kv, n->page) == 1;
}

int32_t ks_kv_tree_spare(const ks_kv_tree *t) {
    int32_t count = 0;
    for (uint32_t b = 0; b < t->n_buckets; b++)
        for (int32_t i = t->buckets[b]; i != NONE; i = t->nodes[i].next)
            count += is_spare(t, &t->nodes[i]);
    return count;
}

static int by_use(const void *a, const void *b, void *nodes) {
    const node *x = (const node *)nodes + *(const int32_t *)a;
    const node *y = (const node *)nodes + *(const int32_t *)b;
    if (x->used != y->used) return x->used < y->used ? -1 : 1;
    return y->depth - x->depth; /* a page was used when those behind it were */
}

/* Its children go first; of a spare page they are spare and gone already, or
 * announced. Who announced them computes pages that nobody else will find. */
static void remove_below(ks_kv_tree *t, int32_t at) {
    int32_t i = at;
    while (true) {
        while (t->nodes[i].child != NONE) i = t->nodes[i].child;
        if (i == at) return;
        int32_t parent = t->nodes[i].parent;
        remove_node(t, i);
        i = parent;
    }
}

int32_t ks_kv_tree_evict(ks_kv_tree *t, int32_t want) {
    int32_t count = 0;
    for (uint32_t b = 0; b < t->n_buckets; b++)
        for (int32_t i = t->buckets[b]; i != NONE; i = t->nodes[i].next)
            if (is_spare(t, &t->nodes[i])) t->oldest[count++] = i;
    qsort_r(t->oldest, (size_t)count, sizeof *t->oldest, by_use, t->nodes);
    want = KS_MIN(want, count);
    for (int32_t i = 0; i < want; i++) {
        remove_below(t, t->oldest[i]);
        remove_node(t, t->oldest[i]);
    }
    return KS_MAX(want, 0);
}
