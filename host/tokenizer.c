/* tokenizer.c - the tokenizer's public functions and what both readers use to
 * fill a handle. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "gguf.h"
#include "tokenizer.h"

/* ------------------------------------------------------------------- tokens */

static ks_status tokens_grow(ks_tokens *t, ks_err *err) {
    ks_status st = KS_OK;
    int32_t **arrays[] = {&t->ids, &t->begin, &t->end};
    size_t capacity = t->capacity;
    for (size_t i = 0; i < KS_COUNT(arrays); i++) {
        capacity = t->capacity;
        KS_TRY(ks_grow(arrays[i], &capacity, t->n + 1, sizeof(int32_t),
                       "tokens", err));
    }
    t->capacity = capacity;
done:
    return st;
}

static ks_status tokens_add(ks_tokens *t, int32_t id, ks_range source,
                            ks_err *err) {
    if (t->n == t->capacity) {
        ks_status st = tokens_grow(t, err);
        if (st != KS_OK) return st;
    }
    t->ids[t->n] = id;
    t->begin[t->n] = source.begin;
    t->end[t->n++] = source.end;
    return KS_OK;
}

/* ------------------------------------------------------------- text to tokens
 */

static void scratch_free(ks_scratch *s) {
    ks_matcher_close(&s->matcher);
    for (int i = 0; i < 2; i++) {
        free(s->splits[i].at);
        ks_draft_free(&s->drafts[i]);
    }
    ks_draft_free(&s->spaced);
    free(s->symbols);
    free(s->heap);
}

static ks_status split_to_tokens(const ks_tokenizer *t, const ks_piece *piece,
                                 ks_range split, ks_scratch *s, ks_tokens *out,
                                 ks_err *err) {
    ks_status st = KS_OK;
    const char *bytes = piece->text + split.begin;
    int32_t n = split.end - split.begin, count;
    if (t->ignore_merges) {
        int32_t id = ks_dict_find(&t->words, bytes, (size_t)n);
        if (id >= 0)
            return tokens_add(
                out, id, ks_piece_source(piece, split.begin, split.end), err);
    }
    KS_TRY(ks_bpe_merge(&t->bpe, bytes, n, s, &count, err));
    if (count == 0) return KS_OK;
    for (int32_t i = 0; i >= 0; i = s->symbols[i].next) {
        const ks_symbol *symbol = &s->symbols[i];
        KS_TRY(tokens_add(out, symbol->id,
                          ks_piece_source(piece, split.begin + symbol->begin,
                                          split.begin + symbol->end),
                          err));
    }
done:
    return st;
}

/* Text between added tokens, normalised. */
static ks_status plain_to_tokens(const ks_tokenizer *t, ks_piece piece,
                                 ks_scratch *s, ks_tokens *out, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks__pretokenize(t->steps, t->n_steps, &piece, s, err));
    for (size_t i = 0; i < s->splits[0].n; i++)
        KS_TRY(split_to_tokens(t, &piece, s->splits[0].at[i], s, out, err));
done:
    return st;
}

static ks_piece piece_part(const ks_piece *p, int32_t begin, int32_t end) {
    return (ks_piece){.text = p->text + begin,
                      .n = end - begin,
                      .base = p->base + begin,
                      .origin = p->origin ? p->origin + begin : NULL};
}

typedef ks_status (*piece_fn)(const ks_tokenizer *, ks_piece, ks_scratch *,
                              ks_tokens *, ks_err *);

/* Emits the added tokens of a set; what lies between goes to `rest`. */
static ks_status cut_added(const ks_tokenizer *t, const ks_added_set *set,
                           ks_piece piece, piece_fn rest, ks_scratch *s,
                           ks_tokens *out, ks_err *err) {
    ks_status st = KS_OK;
    int32_t at = 0, done = 0;
    ks_range r;
    const ks_added *added;
    while ((added = ks_added_next(set, piece.text, piece.n, &at, done, &r))) {
        if (r.begin > done)
            KS_TRY(rest(t, piece_part(&piece, done, r.begin), s, out, err));
        KS_TRY(tokens_add(out, added->id,
                          ks_piece_source(&piece, r.begin, r.end), err));
        done = r.end;
    }
    if (done < piece.n)
        KS_TRY(rest(t, piece_part(&piece, done, piece.n), s, out, err));
done:
    return st;
}

static ks_status written_to_tokens(const ks_tokenizer *t, ks_piece piece,
                                   ks_scratch *s, ks_tokens *out, ks_err *err) {
    ks_piece normalised;
    ks_status st =
        ks__normalize(t->rules, t->n_rules, &piece, s, &normalised, err);
    if (st != KS_OK) return st;
    return cut_added(t, &t->in_normalised, normalised, plain_to_tokens, s, out,
                     err);
}

ks_status ks_tokenize(const ks_tokenizer *t, const char *text, size_t length,
                      ks_tokens *out, ks_err *err) {
    ks_status st = KS_OK;
    ks_scratch s = {0};
    size_t bad = ks_utf8_check(text, length);
    out->n = 0;
    KS_CHECK(length <= INT32_MAX / 2, KS_LIMIT,
             "text of %zu bytes is longer than %d", length, INT32_MAX / 2);
    KS_CHECK(bad == length, KS_FORMAT,
             "text byte %zu (0x%02X) is not valid UTF-8", bad,
             (uint8_t)text[bad]);
    KS_TRY(ks_matcher_open(&s.matcher, err));
    KS_TRY(cut_added(t, &t->as_written,
                     (ks_piece){.text = text, .n = (int32_t)length},
                     written_to_tokens, &s, out, err));
done:
    if (st != KS_OK) out->n = 0;
    scratch_free(&s);
    return st;
}

ks_status ks_detokenize(const ks_tokenizer *t, const int32_t *ids, size_t n,
                        char **text, size_t *length, ks_err *err) {
    ks_status st = KS_OK;
    ks_str out = {0};
    KS_TRY(ks_str_add(&out, "", 0, err));
    for (size_t i = 0; i < n; i++) {
        bool known = ids[i] >= 0 && (size_t)ids[i] < t->n_tokens &&
                     t->tokens[ids[i]].kind != KS_TOKEN_NONE;
        KS_CHECK(known, KS_MISMATCH,
                 "id %d at place %zu is not in the vocabulary of '%s' "
                 "(%zu ids)",
                 ids[i], i, t->path, t->n_tokens);
        const ks_token *token = &t->tokens[ids[i]];
        KS_TRY(ks_str_add(&out, t->bytes.data + token->at, token->n, err));
    }
    *length = out.length;
    *text = out.data;
    out = (ks_str){0};
done:
    ks_str_free(&out);
    return st;
}

int32_t ks_tokenizer_size(const ks_tokenizer *t) {
    return (int32_t)t->n_tokens;
}

int32_t ks_tokenizer_bos(const ks_tokenizer *t) {
    return t->bos;
}

bool ks_tokenizer_wants_bos(const ks_tokenizer *t) {
    return t->wants_bos && t->bos >= 0;
}

const char *ks_tokenizer_hash(const ks_tokenizer *t) {
    return t->hash;
}

/* ------------------------------------------------------------- open and close
 */

/* The file to read: a folder's tokenizer.json, or the one beside weights. */
static ks_status find_file(char **out, const char *path, ks_err *err) {
    struct stat info;
    bool folder = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
    if (folder) return ks_path_join(out, path, "tokenizer.json", err);
    if (ks_ends_with(path, ".safetensors") ||
        ks_ends_with(path, ".safetensors.index.json")) {
        const char *slash = strrchr(path, '/');
        char *dir =
            slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
        ks_status st = dir ? ks_path_join(out, dir, "tokenizer.json", err)
                           : ks_fail(err, KS_NOMEM,
                                     "no memory for the path of '%s'", path);
        free(dir);
        return st;
    }
    *out = strdup(path);
    return *out
               ? KS_OK
               : ks_fail(err, KS_NOMEM, "no memory for the path of '%s'", path);
}

ks_status ks_tokenizer_open(ks_tokenizer **out, const char *path, ks_err *err) {
    ks_status st = KS_OK;
    ks_tokenizer *t = NULL;
    *out = NULL;
    KS_TRY(ks_alloc(&t, 1, sizeof(*t), "a tokenizer", err));
    t->bos = -1;
    KS_TRY(find_file(&t->path, path, err));
    if (ks_gguf_is(t->path)) {
        KS_TRY(ks__tokenizer_read_gguf(t, t->path, err));
    } else {
        KS_TRY(ks__tokenizer_read_json(t, t->path, err));
        KS_TRY(ks__tokenizer_read_config(t, t->path, err));
    }
    KS_TRY(ks__tokenizer_finish(t, err));
    *out = t;
    t = NULL;
done:
    ks_tokenizer_close(&t);
    return st;
}

void ks_tokenizer_close(ks_tokenizer **tokenizer) {
    ks_tokenizer *t = *tokenizer;
    if (!t) return;
    for (size_t i = 0; i < t->n_rules; i++) {
        ks_str_free(&t->rules[i].content);
        ks_pattern_close(&t->rules[i].pattern);
    }
    for (size_t i = 0; i < t->n_steps; i++)
        ks_pattern_close(&t->steps[i].pattern);
    for (size_t i = 0; i < t->n_added; i++) {
        ks_str_free(&t->added[i].content);
        ks_str_free(&t->added[i].key);
    }
    ks_added_set_close(&t->as_written);
    ks_added_set_close(&t->in_normalised);
    ks_bpe_free(&t->bpe);
    ks_dict_free(&t->names);
    ks_dict_free(&t->words);
    ks_str_free(&t->bytes);
    free(t->tokens);
    free(t->merges);
    free(t->rules);
    free(t->steps);
    free(t->added);
    free(t->path);
    free(t);
    *tokenizer = NULL;
}
