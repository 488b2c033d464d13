/* tokenizer_build.c - fills a tokenizer's handle, whatever file it comes from,
 * and checks that its parts fit together. */
#include <stdlib.h>
#include <string.h>

#include "tokenizer.h"

/* A token's name in a sentence: its start, cut at a character's edge. */
static int shown(const char *name, size_t n) {
    size_t end = KS_MIN(n, 60);
    while (end > 0 && end < n && ((uint8_t)name[end] & 0xc0) == 0x80) end--;
    return (int)end;
}

/* ------------------------------------------------------------- byte alphabet
 */

/* GPT-2 writes each byte as a printable character: itself where it has one,
 * otherwise one from U+0100 on, in the bytes' order. */
static int32_t alphabet_byte(int32_t character) {
    static const struct {
        uint8_t low, high;
    } plain[] = {{0x21, 0x7e}, {0xa1, 0xac}, {0xae, 0xff}};
    if (character < 0x100) {
        for (size_t i = 0; i < KS_COUNT(plain); i++)
            if (character >= plain[i].low && character <= plain[i].high)
                return character;
        return -1;
    }
    int32_t k = character - 0x100; /* 0..20, 7f..a0, ad */
    if (k <= 0x20) return k;
    if (k <= 0x20 + 0xa1 - 0x7f) return 0x7f + k - 0x21;
    return k == 0x21 + 0xa1 - 0x7f ? 0xad : -1;
}

/* bytes: room for n. False when the name is not in the alphabet. */
static bool decode_name(const char *name, size_t n, char *bytes, size_t *size) {
    *size = 0;
    for (size_t i = 0; i < n;) {
        int32_t c;
        i += (size_t)ks__utf8_next(name + i, (int32_t)(n - i), &c);
        int32_t byte = alphabet_byte(c);
        if (byte < 0) return false;
        bytes[(*size)++] = (char)byte;
    }
    return true;
}

/* -------------------------------------------------------------------- tokens
 */

static ks_status room_for(ks_tokenizer *t, int64_t id, ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(id >= 0 && id < KS_TOKEN_LIMIT, KS_LIMIT,
             "%s: token id %lld is outside 0..%d", t->path, (long long)id,
             KS_TOKEN_LIMIT - 1);
    size_t need = (size_t)id + 1;
    if (need <= t->n_tokens) return KS_OK;
    KS_TRY(ks_grow(&t->tokens, &t->tokens_capacity, need, sizeof(*t->tokens),
                   "the vocabulary", err));
    memset(t->tokens + t->n_tokens, 0,
           (need - t->n_tokens) * sizeof(*t->tokens));
    t->n_tokens = need;
done:
    return st;
}

static ks_status set_token(ks_tokenizer *t, int64_t id, const char *bytes,
                           size_t n, ks_token_kind kind, ks_err *err) {
    t->tokens[id] = (ks_token){t->bytes.length, (uint32_t)n, kind};
    return ks_str_add(&t->bytes, bytes, n, err);
}

static ks_status check_name(const ks_tokenizer *t, int64_t id, const char *name,
                            size_t n, ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(n < (1 << 20), KS_LIMIT,
             "%s: token %lld is %zu bytes long, more than %d", t->path,
             (long long)id, n, (1 << 20) - 1);
    size_t bad = ks_utf8_check(name, n);
    KS_CHECK(bad == n, KS_FORMAT,
             "%s: byte %zu of token %lld is not valid UTF-8", t->path, bad,
             (long long)id);
done:
    return st;
}

ks_status ks__tokenizer_put(ks_tokenizer *t, int64_t id, const char *name,
                            size_t n, ks_token_kind kind, ks_err *err) {
    ks_status st = KS_OK;
    char small[256], *bytes = small;
    int32_t old = -1;
    size_t size;
    KS_TRY(check_name(t, id, name, n, err));
    KS_TRY(room_for(t, id, err));
    KS_CHECK(t->tokens[id].kind == KS_TOKEN_NONE, KS_FORMAT,
             "%s: token id %lld comes twice, the second time for \"%.*s\"",
             t->path, (long long)id, shown(name, n), name);
    if (kind == KS_TOKEN_UNUSED) return set_token(t, id, name, n, kind, err);
    KS_TRY(ks_dict_add(&t->names, name, n, (int32_t)id, &old, err));
    KS_CHECK(old < 0, KS_FORMAT, "%s: token \"%.*s\" has two ids, %d and %lld",
             t->path, shown(name, n), name, old, (long long)id);
    if (n > sizeof(small)) KS_TRY(ks_alloc(&bytes, n, 1, "a token", err));
    if (decode_name(name, n, bytes, &size)) {
        KS_TRY(set_token(t, id, bytes, size, kind, err));
        KS_TRY(ks_dict_add(&t->words, bytes, size, (int32_t)id, &old, err));
    } else { /* written plainly; bytes never merge up to it */
        KS_TRY(set_token(t, id, name, n, kind, err));
    }
done:
    if (bytes != small) free(bytes);
    return st;
}

ks_status ks__tokenizer_put_added(ks_tokenizer *t, ks_added *added,
                                  ks_err *err) {
    ks_status st = KS_OK;
    const char *name = added->content.data;
    size_t n = added->content.length;
    int32_t id = added->id, old = -1;
    KS_TRY(check_name(t, id, name, n, err));
    KS_CHECK(n <= KS_ADDED_LIMIT, KS_LIMIT,
             "%s: added token %d is %zu bytes long, more than %d", t->path, id,
             n, KS_ADDED_LIMIT);
    KS_TRY(room_for(t, id, err));
    KS_TRY(ks_dict_add(&t->names, name, n, id, &old, err));
    KS_CHECK(old < 0 || old == id, KS_FORMAT,
             "%s: added token \"%.*s\" has two ids, %d and %d", t->path,
             shown(name, n), name, old, id);
    KS_CHECK(t->tokens[id].kind == KS_TOKEN_NONE ||
                 (t->tokens[id].kind == KS_TOKEN_NORMAL && old == id),
             KS_FORMAT,
             "%s: the id %d of added token \"%.*s\" is another token's",
             t->path, id, shown(name, n), name);
    KS_TRY(set_token(t, id, name, n, KS_TOKEN_ADDED, err));
    KS_TRY(ks_grow(&t->added, &t->added_capacity, t->n_added + 1,
                   sizeof(*t->added), "added tokens", err));
    t->added[t->n_added++] = *added;
    *added = (ks_added){0};
done:
    return st;
}

/* -------------------------------------------------------------------- merges
 */

static ks_status merge_id(const ks_tokenizer *t, const char *name, size_t n,
                          int32_t *id, ks_err *err) {
    *id = ks_dict_find(&t->names, name, n);
    if (*id >= 0) return KS_OK;
    return ks_fail(err, KS_FORMAT,
                   "%s: merge %zu names \"%.*s\", which the vocabulary lacks",
                   t->path, t->n_merges, shown(name, n), name);
}

ks_status ks__tokenizer_put_merge(ks_tokenizer *t, const char *left,
                                  size_t n_left, const char *right,
                                  size_t n_right, ks_err *err) {
    ks_status st = KS_OK;
    ks_str joined = {0};
    ks_merge m = {.rank = (int32_t)t->n_merges};
    KS_CHECK(t->n_merges < KS_TOKEN_LIMIT, KS_LIMIT, "%s: more than %d merges",
             t->path, KS_TOKEN_LIMIT);
    KS_TRY(merge_id(t, left, n_left, &m.left, err));
    KS_TRY(merge_id(t, right, n_right, &m.right, err));
    KS_TRY(ks_str_add(&joined, left, n_left, err));
    KS_TRY(ks_str_add(&joined, right, n_right, err));
    KS_TRY(merge_id(t, joined.data, joined.length, &m.id, err));
    if (t->n_merges == t->merges_capacity)
        KS_TRY(ks_grow(&t->merges, &t->merges_capacity, t->n_merges + 1,
                       sizeof(*t->merges), "merges", err));
    t->merges[t->n_merges++] = m;
done:
    ks_str_free(&joined);
    return st;
}

ks_status ks__tokenizer_put_merge_line(ks_tokenizer *t, const char *line,
                                       size_t n, ks_err *err) {
    const char *space = memchr(line, ' ', n);
    size_t left = space ? (size_t)(space - line) : n;
    if (!space || memchr(space + 1, ' ', n - left - 1))
        return ks_fail(err, KS_FORMAT,
                       "%s: merge %zu is \"%.*s\", expected two tokens with "
                       "one space between",
                       t->path, t->n_merges, shown(line, n), line);
    return ks__tokenizer_put_merge(t, line, left, space + 1, n - left - 1, err);
}

/* ------------------------------------------------------------ rules and steps
 */

ks_status ks__tokenizer_put_step(ks_tokenizer *t, const char *pattern, size_t n,
                                 bool literal, ks_behavior behavior,
                                 bool invert, ks_err *err) {
    ks_status st = KS_OK;
    ks_step step = {.behavior = behavior, .invert = invert};
    KS_CHECK(t->n_steps < 64, KS_LIMIT, "%s: more than 64 pre-tokenizer steps",
             t->path);
    if (pattern)
        KS_TRY(
            ks_pattern_open(&step.pattern, pattern, n, literal, t->path, err));
    KS_TRY(ks_grow(&t->steps, &t->steps_capacity, t->n_steps + 1, sizeof(step),
                   "pre-tokenizer steps", err));
    t->steps[t->n_steps++] = step;
    step = (ks_step){0};
done:
    ks_pattern_close(&step.pattern);
    return st;
}

ks_status ks__tokenizer_put_rule(ks_tokenizer *t, ks_rule *rule, ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(t->n_rules < 64, KS_LIMIT, "%s: more than 64 normalizers",
             t->path);
    KS_TRY(ks_grow(&t->rules, &t->rules_capacity, t->n_rules + 1, sizeof(*rule),
                   "normalizers", err));
    t->rules[t->n_rules++] = *rule;
    *rule = (ks_rule){0};
done:
    return st;
}

/* -------------------------------------------------------------------- finish
 */

/* What an added token is looked for by: its text, or that text normalised. */
static ks_status make_keys(ks_tokenizer *t, ks_err *err) {
    ks_status st = KS_OK;
    ks_scratch s = {0};
    KS_TRY(ks_matcher_open(&s.matcher, err));
    for (size_t i = 0; i < t->n_added; i++) {
        ks_added *a = &t->added[i];
        ks_piece written = {.text = a->content.data,
                            .n = (int32_t)a->content.length};
        ks_piece key = written;
        if (a->normalized)
            KS_TRY(
                ks__normalize(t->rules, t->n_rules, &written, &s, &key, err));
        KS_TRY(ks_str_add(&a->key, key.text, (size_t)key.n, err));
    }
done:
    ks_matcher_close(&s.matcher);
    ks_draft_free(&s.drafts[0]);
    ks_draft_free(&s.drafts[1]);
    return st;
}

static ks_status make_bpe(ks_tokenizer *t, ks_err *err) {
    ks_status st = KS_OK;
    for (size_t i = 0; i < t->n_merges; i++)
        KS_TRY(ks_bpe_add(&t->bpe, t->merges[i], err));
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        t->bpe.byte_id[b] = ks_dict_find(&t->words, &byte, 1);
        /* these never come in UTF-8 */
        bool comes = b != 0xc0 && b != 0xc1 && b < 0xf5;
        KS_CHECK(t->bpe.byte_id[b] >= 0 || !comes || !t->needs_bytes,
                 KS_UNSUPPORTED,
                 "%s: the vocabulary has no token for byte 0x%02X, and its "
                 "way out (unk_token or byte_fallback) is not supported",
                 t->path, b);
    }
done:
    return st;
}

static void add_u32(ks_sha256 *hash, uint32_t value) {
    uint8_t bytes[4] = {(uint8_t)value, (uint8_t)(value >> 8),
                        (uint8_t)(value >> 16), (uint8_t)(value >> 24)};
    ks_sha256_add(hash, bytes, 4);
}

static void add_text(ks_sha256 *hash, const char *text, size_t n) {
    add_u32(hash, (uint32_t)n);
    ks_sha256_add(hash, text ? text : "", n);
}

static void hash_splitting(const ks_tokenizer *t, ks_sha256 *hash) {
    static const char *const names[] = {
#define KS_RULE_TEXT(name) #name,
        KS_RULE_LIST(KS_RULE_TEXT)
#undef KS_RULE_TEXT
    };
    add_u32(hash, (uint32_t)t->n_rules);
    for (size_t i = 0; i < t->n_rules; i++) {
        const ks_rule *r = &t->rules[i];
        const char *pattern = r->pattern.source ? r->pattern.source : "";
        add_text(hash, names[r->type], strlen(names[r->type]));
        add_u32(hash, (uint32_t)r->left | (uint32_t)r->right << 1);
        add_text(hash, r->content.data, r->content.length);
        add_text(hash, pattern, strlen(pattern));
    }
    add_u32(hash, (uint32_t)t->n_steps);
    for (size_t i = 0; i < t->n_steps; i++) {
        const ks_step *s = &t->steps[i];
        const char *name =
            s->pattern.code ? ks_behavior_name(s->behavior) : "AddPrefixSpace";
        const char *pattern = s->pattern.source ? s->pattern.source : "";
        add_text(hash, name, strlen(name));
        add_u32(hash, s->invert);
        add_text(hash, pattern, strlen(pattern));
    }
}

static int by_id(const void *a, const void *b) {
    int32_t x = ((const ks_added *)a)->id, y = ((const ks_added *)b)->id;
    return x < y ? -1 : x > y;
}

/* The hash covers, each number as 32 bits little-endian and each text with its
 * length before it:
 *   "keystep tokenizer 1"
 *   normalizers, then pre-tokenizer steps, in order (hash_splitting)
 *   ignore_merges
 *   tokens in the ids' order, without GGUF's unused ones: id, 1 for an added
 *     token, its bytes
 *   added tokens in the ids' order: id, flags lstrip 1, rstrip 2, single_word
 *     4, normalized 8 (only where there are normalizers: it changes nothing
 *     elsewhere, and GGUF does not carry it)
 *   merges in order: ids of left and right
 * What does not decide ids (BOS, post-processor, decoder) is not in it. */
static ks_status make_hash(ks_tokenizer *t, ks_err *err) {
    ks_sha256 *hash;
    ks_status st = ks_sha256_open(&hash, err);
    if (st != KS_OK) return st;
    const char *title = "keystep tokenizer 1";
    add_text(hash, title, strlen(title));
    hash_splitting(t, hash);
    add_u32(hash, t->ignore_merges);
    for (size_t i = 0; i < t->n_tokens; i++) {
        const ks_token *token = &t->tokens[i];
        if (token->kind != KS_TOKEN_NORMAL && token->kind != KS_TOKEN_ADDED)
            continue;
        add_u32(hash, (uint32_t)i);
        add_u32(hash, token->kind == KS_TOKEN_ADDED);
        add_text(hash, t->bytes.data + token->at, token->n);
    }
    for (size_t i = 0; i < t->n_added; i++) {
        const ks_added *a = &t->added[i];
        bool normalized = a->normalized && t->n_rules > 0;
        add_u32(hash, (uint32_t)a->id);
        add_u32(hash, (uint32_t)a->lstrip | (uint32_t)a->rstrip << 1 |
                          (uint32_t)a->single_word << 2 |
                          (uint32_t)normalized << 3);
    }
    for (size_t i = 0; i < t->n_merges; i++) {
        add_u32(hash, (uint32_t)t->merges[i].left);
        add_u32(hash, (uint32_t)t->merges[i].right);
    }
    ks_sha256_close(&hash, t->hash);
    return KS_OK;
}

ks_status ks__tokenizer_finish(ks_tokenizer *t, ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(t->n_tokens > 0, KS_FORMAT, "%s: the vocabulary is empty",
             t->path);
    KS_CHECK(t->bos < (int64_t)t->n_tokens, KS_FORMAT,
             "%s: the BOS is id %d, but the vocabulary has %zu ids", t->path,
             t->bos, t->n_tokens);
    if (t->n_added > 0) qsort(t->added, t->n_added, sizeof(*t->added), by_id);
    KS_TRY(make_bpe(t, err));
    KS_TRY(make_keys(t, err));
    KS_TRY(ks_added_set_open(&t->as_written, t->added, t->n_added, false, err));
    KS_TRY(
        ks_added_set_open(&t->in_normalised, t->added, t->n_added, true, err));
    KS_TRY(make_hash(t, err));
    ks_dict_free(&t->names);
    free(t->merges);
    t->merges = NULL;
    if (!t->ignore_merges) ks_dict_free(&t->words);
done:
    return st;
}
