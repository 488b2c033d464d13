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
    int32_t next; /* of its bucket, or of the free ones */
    uint64_t used;
    int32_t ids[KS_PAGE];
    float scores[KS_PAGE]; /* as in ks_kv_scores */
} node;

struct ks_kv_tree {
    ks_kv *kv;
    node *nodes; /* [n_nodes] */
    int32_t n_nodes, free;
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
    while (i != NONE && (t->nodes[i].parent != parent ||
                         memcmp(t->nodes[i].ids, ids, sizeof t->nodes[i].ids)))
        i = t->nodes[i].next;
    return i;
}

static void remove_node(ks_kv_tree *t, int32_t at) {
    node *n = &t->nodes[at];
    int32_t *link = bucket_of(t, n->parent, n->ids);
    while (*link != at) link = &t->nodes[*link].next;
    *link = n->next;
    if (n->parent != NONE) t->nodes[n->parent].children--;
    if (n->page != NONE) ks_kv_page_drop(t->kv, n->page);
    n->next = t->free;
    t->free = at;
}

/* Tokens of page p that have no score to be known. */
static int32_t unscored(const ks_kv_scores *scores, int32_t p) {
    return KS_MIN(KS_PAGE, KS_MAX(0, scores->from - p * KS_PAGE));
}

static bool read_scores(const node *n, const ks_kv_scores *scores) {
    if (!scores) return true;
    int32_t first = unscored(scores, n->depth);
    for (int32_t t = first; t < KS_PAGE; t++)
        if (isnan(n->scores[t])) return false;
    memcpy(scores->at + n->depth * KS_PAGE + first, n->scores + first,
           (size_t)(KS_PAGE - first) * sizeof(float));
    return true;
}

static void write_scores(node *n, const ks_kv_scores *scores) {
    for (int32_t t = unscored(scores, n->depth); t < KS_PAGE; t++) {
        float score = scores->at[n->depth * KS_PAGE + t];
        if (!isnan(score)) n->scores[t] = score;
    }
}

int32_t ks_kv_tree_find(ks_kv_tree *t, const int32_t *ids, int32_t n,
                        const ks_kv_scores *scores, int32_t *pages,
                        bool *coming) {
    int32_t at = NONE, found = 0;
    t->clock++;
    *coming = false;
    for (; found < n / KS_PAGE; found++) {
        at = child_of(t, at, ids + found * KS_PAGE);
        if (at == NONE) break;
        t->nodes[at].used = t->clock;
        *coming = t->nodes[at].page == NONE;
        if (*coming || !read_scores(&t->nodes[at], scores)) break;
        pages[found] = t->nodes[at].page;
        ks_kv_page_share(t->kv, pages[found]);
    }
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
                                  .used = t->clock};
            memcpy(t->nodes[at].ids, mine, sizeof t->nodes[at].ids);
            for (int i = 0; i < KS_PAGE; i++) t->nodes[at].scores[i] = NAN;
            *bucket = at;
            if (parent != NONE) t->nodes[parent].children++;
        }
        parent = at;
    }
}

void ks_kv_tree_ready(ks_kv_tree *t, const int32_t *ids, int32_t n,
                      const ks_kv_scores *scores, const int32_t *pages) {
    int32_t at = NONE;
    for (int32_t p = 0; p < n / KS_PAGE; p++) {
        at = child_of(t, at, ids + p * KS_PAGE);
        if (at == NONE) return;
        if (scores) write_scores(&t->nodes[at], scores);
        if (t->nodes[at].page != NONE) continue;
        t->nodes[at].page = pages[p];
        ks_kv_page_share(t->kv, pages[p]);
    }
}

void ks_kv_tree_forget(ks_kv_tree *t, const int32_t *ids, int32_t n) {
    int32_t at = NONE, last = NONE;
    for (int32_t p = 0; p < n / KS_PAGE; p++) {
        at = child_of(t, at, ids + p * KS_PAGE);
        if (at == NONE) break;
        last = at;
    }
    /* Nobody announces below what is announced: the end has no child. */
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

int32_t ks_kv_tree_evict(ks_kv_tree *t, int32_t want) {
    int32_t count = 0, gone = 0;
    for (uint32_t b = 0; b < t->n_buckets; b++)
        for (int32_t i = t->buckets[b]; i != NONE; i = t->nodes[i].next)
            if (is_spare(t, &t->nodes[i])) t->oldest[count++] = i;
    qsort_r(t->oldest, (size_t)count, sizeof *t->oldest, by_use, t->nodes);
    for (int32_t i = 0; i < count && gone < want; i++) {
        if (t->nodes[t->oldest[i]].children > 0) continue; /* announced ones */
        remove_node(t, t->oldest[i]);
        gone++;
    }
    return gone;
}
