/* added_tokens.c - finds added and special tokens in text.
 *
 * The tokens are sorted by their bytes. From a place in the text the range of
 * tokens that begin as the text does is narrowed byte by byte; the longest one
 * that ends inside it matches. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "tokenizer.h"

static int by_key(const void *a, const void *b) {
    const ks_str *x = &(*(const ks_added *const *)a)->key;
    const ks_str *y = &(*(const ks_added *const *)b)->key;
    size_t n = KS_MIN(x->length, y->length);
    int order = memcmp(x->data, y->data, n);
    return order ? order : x->length < y->length ? -1 : x->length > y->length;
}

ks_status ks_added_set_open(ks_added_set *set, const ks_added *added, size_t n,
                            bool normalized, ks_err *err) {
    *set = (ks_added_set){0};
    ks_status st = ks_alloc(&set->tokens, n + 1, sizeof(*set->tokens),
                            "added tokens", err);
    if (st != KS_OK) return st;
    for (size_t i = 0; i < n; i++)
        if (added[i].normalized == normalized && added[i].key.length > 0)
            set->tokens[set->n++] = &added[i];
    qsort(set->tokens, set->n, sizeof(*set->tokens), by_key);
    for (size_t i = 0; i < set->n; i++)
        set->first[(uint8_t)set->tokens[i]->key.data[0] + 1]++;
    for (size_t b = 0; b < 256; b++) set->first[b + 1] += set->first[b];
    return KS_OK;
}

void ks_added_set_close(ks_added_set *set) {
    free(set->tokens);
    *set = (ks_added_set){0};
}

/* First token of [low,high) whose byte at `depth` is at least `byte`; all of
 * them are longer than depth. */
static size_t bound(const ks_added_set *set, size_t low, size_t high,
                    size_t depth, int byte) {
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if ((uint8_t)set->tokens[mid]->key.data[depth] < byte)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* The longest token that text [n] begins with, or NULL. */
static const ks_added *longest(const ks_added_set *set, const char *text,
                               int32_t n) {
    const ks_added *best = NULL;
    uint8_t byte = (uint8_t)text[0];
    size_t low = set->first[byte], high = set->first[byte + 1];
    for (size_t depth = 1; low < high; depth++) {
        /* the shortest comes first; of equal keys the first one counts */
        if (set->tokens[low]->key.length == depth) {
            best = set->tokens[low];
            while (low < high && set->tokens[low]->key.length == depth) low++;
        }
        if (depth >= (size_t)n) break;
        byte = (uint8_t)text[depth];
        low = bound(set, low, high, depth, byte);
        high = bound(set, low, high, depth, byte + 1);
    }
    return best;
}

static bool is_word(int32_t c) {
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default: /* joiners, and symbols that are Alphabetic: circled letters */
        return c == 0x200c || c == 0x200d || (c >= 0x24b6 && c <= 0x24e9) ||
               (c >= 0x1f130 && c <= 0x1f149) ||
               (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
    }
}

static int32_t character_before(const char *text, int32_t at, int32_t *begin) {
    int32_t i = at - 1, c;
    while (i > 0 && ((uint8_t)text[i] & 0xc0) == 0x80) i--;
    ks__utf8_next(text + i, at - i, &c);
    *begin = i;
    return c;
}

static bool stands_alone(const char *text, int32_t n, ks_range r) {
    int32_t c, begin;
    if (r.begin > 0 && is_word(character_before(text, r.begin, &begin)))
        return false;
    if (r.end == n) return true;
    ks__utf8_next(text + r.end, n - r.end, &c);
    return !is_word(c);
}

const ks_added *ks_added_next(const ks_added_set *set, const char *text,
                              int32_t n, int32_t *at, int32_t floor,
                              ks_range *range) {
    if (set->n == 0) return NULL;
    for (int32_t i = *at; i < n; i++) {
        const ks_added *token = longest(set, text + i, n - i);
        if (!token) continue;
        ks_range r = {i, i + (int32_t)token->key.length};
        *at = r.end;
        bool taken = r.end <= floor; /* blanks that the one before took in */
        if (taken || (token->single_word && !stands_alone(text, n, r))) {
            i = r.end - 1; /* what it covers is not looked at again */
            continue;
        }
        int32_t c, begin, size;
        while (token->lstrip && r.begin > floor &&
               ks__is_blank(character_before(text, r.begin, &begin)))
            r.begin = begin;
        while (token->rstrip && r.end < n) {
            size = ks__utf8_next(text + r.end, n - r.end, &c);
            if (!ks__is_blank(c)) break;
            r.end += size;
        }
        r.begin = KS_MAX(r.begin, floor);
        *range = r;
        return token;
    }
    *at = n;
    return NULL;
}
