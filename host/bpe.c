/* bpe.c - byte-level byte pair encoding.
 *
 * The lowest-ranked pair of neighbours is merged, the leftmost of equals
 * first, until no pair has a rank. Short splits are searched anew for each
 * merge, which is fastest for words; long ones keep their pairs in a heap, so
 * that n bytes without a split cost O(n log n).
 */
#include <stdlib.h>
#include <string.h>

#include "tokenizer.h"

enum { SHORT_SPLIT = 24 };

/* ---------------------------------------------------------------- dictionary
 */

struct ks_dict_slot {
    size_t at;
    uint32_t n;
    int32_t id; /* -1: empty */
};

/* FNV-1a with a last mix, since the table takes the low bits. */
static uint64_t hash_bytes(const char *key, size_t n) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)key[i]) * 0x100000001b3u;
    return h ^ h >> 29;
}

static struct ks_dict_slot *dict_slot(const ks_dict *d, const char *key,
                                      size_t n) {
    size_t mask = d->capacity - 1, i = hash_bytes(key, n) & mask;
    for (;; i = (i + 1) & mask) {
        struct ks_dict_slot *slot = &d->slots[i];
        if (slot->id < 0 ||
            (slot->n == n && memcmp(d->keys.data + slot->at, key, n) == 0))
            return slot;
    }
}

static ks_status dict_grow(ks_dict *d, ks_err *err) {
    ks_dict bigger = {.keys = d->keys,
                      .n = d->n,
                      .capacity = d->capacity ? d->capacity * 2 : 1024};
    ks_status st = ks_alloc(&bigger.slots, bigger.capacity,
                            sizeof(*bigger.slots), "a vocabulary", err);
    if (st != KS_OK) return st;
    for (size_t i = 0; i < bigger.capacity; i++) bigger.slots[i].id = -1;
    for (size_t i = 0; i < d->capacity; i++)
        if (d->slots[i].id >= 0)
            *dict_slot(&bigger, d->keys.data + d->slots[i].at, d->slots[i].n) =
                d->slots[i];
    free(d->slots);
    *d = bigger;
    return KS_OK;
}

ks_status ks_dict_add(ks_dict *d, const char *key, size_t n, int32_t id,
                      int32_t *old, ks_err *err) {
    ks_status st = KS_OK;
    *old = -1;
    if ((d->n + 1) * 2 > d->capacity) KS_TRY(dict_grow(d, err));
    struct ks_dict_slot *slot = dict_slot(d, key, n);
    if (slot->id >= 0) {
        *old = slot->id;
        return KS_OK;
    }
    size_t at = d->keys.length;
    KS_TRY(ks_str_add(&d->keys, key, n, err));
    *slot = (struct ks_dict_slot){at, (uint32_t)n, id};
    d->n++;
done:
    return st;
}

int32_t ks_dict_find(const ks_dict *d, const char *key, size_t n) {
    return d->n ? dict_slot(d, key, n)->id : -1;
}

void ks_dict_free(ks_dict *d) {
    ks_str_free(&d->keys);
    free(d->slots);
    *d = (ks_dict){0};
}

/* -------------------------------------------------------------------- merges
 */

static size_t pair_slot(const ks_bpe *bpe, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t mask = bpe->capacity - 1;
    size_t i = (key * 0x9e3779b97f4a7c15u >> 32) & mask;
    while (bpe->slots[i].rank >= 0 &&
           (bpe->slots[i].left != left || bpe->slots[i].right != right))
        i = (i + 1) & mask;
    return i;
}

static const ks_merge *find_pair(const ks_bpe *bpe, int32_t left,
                                 int32_t right) {
    const ks_merge *m = &bpe->slots[pair_slot(bpe, left, right)];
    return m->rank >= 0 ? m : NULL;
}

static ks_status bpe_grow(ks_bpe *bpe, ks_err *err) {
    ks_bpe bigger = *bpe;
    bigger.capacity = bpe->capacity ? bpe->capacity * 2 : 1024;
    ks_status st = ks_alloc(&bigger.slots, bigger.capacity, sizeof(ks_merge),
                            "merges", err);
    if (st != KS_OK) return st;
    for (size_t i = 0; i < bigger.capacity; i++) bigger.slots[i].rank = -1;
    for (size_t i = 0; i < bpe->capacity; i++)
        if (bpe->slots[i].rank >= 0)
            bigger.slots[pair_slot(&bigger, bpe->slots[i].left,
                                   bpe->slots[i].right)] = bpe->slots[i];
    free(bpe->slots);
    *bpe = bigger;
    return KS_OK;
}

/* A pair that comes twice has its last rank, as in `tokenizers`. */
ks_status ks_bpe_add(ks_bpe *bpe, ks_merge merge, ks_err *err) {
    ks_status st = KS_OK;
    if ((bpe->n + 1) * 2 > bpe->capacity) KS_TRY(bpe_grow(bpe, err));
    ks_merge *slot = &bpe->slots[pair_slot(bpe, merge.left, merge.right)];
    bpe->n += slot->rank < 0;
    *slot = merge;
done:
    return st;
}

void ks_bpe_free(ks_bpe *bpe) {
    free(bpe->slots);
    *bpe = (ks_bpe){0};
}

/* ------------------------------------------------------------------- merging
 */

/* Joins symbol `at` with the one behind it. */
static void join(ks_symbol *symbols, int32_t at, int32_t id) {
    ks_symbol *left = &symbols[at], *right = &symbols[left->next];
    left->id = id;
    left->end = right->end;
    right->begin = right->end;
    left->next = right->next;
    if (left->next >= 0) symbols[left->next].prev = at;
}

/* ranks[i]: of symbol i with the one behind it; kept beside the symbols so
 * that each merge looks two pairs up and not all. */
static void merge_short(const ks_bpe *bpe, ks_symbol *symbols, int32_t n) {
    const ks_merge *pairs[SHORT_SPLIT];
    for (int32_t i = 0; i < n; i++)
        pairs[i] =
            i + 1 < n ? find_pair(bpe, symbols[i].id, symbols[i + 1].id) : NULL;
    for (;;) {
        int32_t best = -1;
        for (int32_t i = 0; i >= 0; i = symbols[i].next)
            if (pairs[i] && (best < 0 || pairs[i]->rank < pairs[best]->rank))
                best = i;
        if (best < 0) return;
        join(symbols, best, pairs[best]->id);
        ks_symbol *s = &symbols[best];
        pairs[best] =
            s->next >= 0 ? find_pair(bpe, s->id, symbols[s->next].id) : NULL;
        if (s->prev >= 0)
            pairs[s->prev] = find_pair(bpe, symbols[s->prev].id, s->id);
    }
}

static bool before(const ks_heap_item *a, const ks_heap_item *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static ks_status heap_push(ks_scratch *s, ks_heap_item item, ks_err *err) {
    ks_status st = KS_OK;
    if (s->heap_n == s->heap_capacity)
        KS_TRY(ks_grow(&s->heap, &s->heap_capacity, s->heap_n + 1,
                       sizeof(*s->heap), "pairs to merge", err));
    size_t i = s->heap_n++;
    for (; i > 0 && before(&item, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = item;
done:
    return st;
}

static ks_heap_item heap_pop(ks_scratch *s) {
    ks_heap_item top = s->heap[0], item = s->heap[--s->heap_n];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= s->heap_n) break;
        if (child + 1 < s->heap_n &&
            before(&s->heap[child + 1], &s->heap[child]))
            child++;
        if (!before(&s->heap[child], &item)) break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = item;
    return top;
}

/* Puts the pair that begins at symbol `at` on the heap, if it has a rank. */
static ks_status push_pair(const ks_bpe *bpe, ks_scratch *s, int32_t at,
                           ks_err *err) {
    const ks_symbol *left = &s->symbols[at];
    if (left->next < 0) return KS_OK;
    const ks_merge *m = find_pair(bpe, left->id, s->symbols[left->next].id);
    return m ? heap_push(s, (ks_heap_item){m->rank, at, m->id}, err) : KS_OK;
}

static ks_status merge_long(const ks_bpe *bpe, ks_scratch *s, int32_t n,
                            ks_err *err) {
    ks_status st = KS_OK;
    s->heap_n = 0;
    for (int32_t i = 0; i < n; i++) KS_TRY(push_pair(bpe, s, i, err));
    while (s->heap_n > 0) {
        ks_heap_item top = heap_pop(s);
        ks_symbol *left = &s->symbols[top.at];
        /* the pair may be gone since it was put there */
        if (left->begin == left->end || left->next < 0) continue;
        const ks_merge *m = find_pair(bpe, left->id, s->symbols[left->next].id);
        if (!m || m->id != top.id) continue;
        join(s->symbols, top.at, top.id);
        KS_TRY(push_pair(bpe, s, top.at, err));
        if (left->prev >= 0) KS_TRY(push_pair(bpe, s, left->prev, err));
    }
done:
    return st;
}

ks_status ks_bpe_merge(const ks_bpe *bpe, const char *bytes, int32_t n,
                       ks_scratch *s, int32_t *count, ks_err *err) {
    ks_status st = KS_OK;
    int32_t m = 0;
    KS_TRY(ks_grow(&s->symbols, &s->symbols_capacity, (size_t)n,
                   sizeof(*s->symbols), "symbols", err));
    for (int32_t i = 0; i < n; i++) {
        int32_t id = bpe->byte_id[(uint8_t)bytes[i]];
        if (id < 0) continue;
        s->symbols[m] = (ks_symbol){id, m - 1, m + 1, i, i + 1};
        m++;
    }
    *count = m;
    if (m == 0) return KS_OK;
    s->symbols[m - 1].next = -1;
    if (bpe->n == 0) return KS_OK;
    if (m <= SHORT_SPLIT)
        merge_short(bpe, s->symbols, m);
    else
        KS_TRY(merge_long(bpe, s, m, err));
done:
    return st;
}
