/* tokenizer_gguf.c - the tokenizer in a GGUF file's metadata. */
#include <string.h>

#include "gguf.h"
#include "tokenizer.h"

/* GGUF's tokenizer.ggml.token_type */
enum {
    TYPE_NORMAL = 1,
    TYPE_UNKNOWN,
    TYPE_CONTROL,
    TYPE_USER,
    TYPE_UNUSED,
    TYPE_BYTE
};

static ks_status put_token(ks_tokenizer *t, int64_t id, int64_t type,
                           const char *name, size_t n, ks_err *err) {
    ks_status st = KS_OK;
    ks_added added = {.id = (int32_t)id};
    switch (type) {
    case TYPE_NORMAL:
        return ks__tokenizer_put(t, id, name, n, KS_TOKEN_NORMAL, err);
    case TYPE_UNUSED:
        return ks__tokenizer_put(t, id, name, n, KS_TOKEN_UNUSED, err);
    case TYPE_UNKNOWN:
    case TYPE_CONTROL:
    case TYPE_USER:
        break;
    default:
        return ks_fail(err, KS_UNSUPPORTED,
                       "%s: token %lld has type %lld, which byte-level BPE "
                       "does not have",
                       t->path, (long long)id, (long long)type);
    }
    if (n == 0) return ks__tokenizer_put(t, id, name, n, KS_TOKEN_UNUSED, err);
    KS_TRY(ks_str_add(&added.content, name, n, err));
    KS_TRY(ks__tokenizer_put_added(t, &added, err));
done:
    ks_str_free(&added.content);
    return st;
}

static ks_status read_tokens(ks_tokenizer *t, const ks_gguf *g, ks_err *err) {
    ks_status st = KS_OK;
    ks_gguf_array names, types;
    uint64_t n, n_types;
    bool found, typed;
    KS_TRY(ks_gguf_array_open(g, "tokenizer.ggml.tokens", &names, &n, &found,
                              err));
    KS_CHECK(found, KS_FORMAT, "%s: tokenizer.ggml.tokens is missing", t->path);
    KS_CHECK(n <= KS_TOKEN_LIMIT, KS_LIMIT,
             "%s: tokenizer.ggml.tokens has %llu tokens, more than %d", t->path,
             (unsigned long long)n, KS_TOKEN_LIMIT);
    KS_TRY(ks_gguf_array_open(g, "tokenizer.ggml.token_type", &types, &n_types,
                              &typed, err));
    KS_CHECK(!typed || n == n_types, KS_FORMAT,
             "%s: %llu tokens, but tokenizer.ggml.token_type has %llu", t->path,
             (unsigned long long)n, (unsigned long long)n_types);
    for (uint64_t id = 0; id < n; id++) {
        const char *name;
        size_t length;
        int64_t type = TYPE_NORMAL;
        KS_TRY(ks_gguf_next_string(&names, &name, &length, err));
        if (typed) KS_TRY(ks_gguf_next_int(&types, &type, err));
        KS_TRY(put_token(t, (int64_t)id, type, name, length, err));
    }
done:
    return st;
}

static ks_status read_merges(ks_tokenizer *t, const ks_gguf *g, ks_err *err) {
    ks_status st = KS_OK;
    ks_gguf_array merges;
    uint64_t n;
    bool found;
    KS_TRY(ks_gguf_array_open(g, "tokenizer.ggml.merges", &merges, &n, &found,
                              err));
    KS_CHECK(found, KS_FORMAT, "%s: tokenizer.ggml.merges is missing", t->path);
    for (uint64_t i = 0; i < n; i++) {
        const char *line;
        size_t length;
        KS_TRY(ks_gguf_next_string(&merges, &line, &length, err));
        KS_TRY(ks__tokenizer_put_merge_line(t, line, length, err));
    }
done:
    return st;
}

static ks_status read_family(ks_tokenizer *t, const ks_gguf *g, ks_err *err) {
    ks_status st = KS_OK;
    const char *name = "default";
    size_t n;
    bool found;
    KS_TRY(ks_gguf_string(g, "tokenizer.ggml.pre", &name, &n, &found, err));
    if (!found) {
        name = "default";
        n = strlen(name);
    }
    const ks_family *family = ks_family_find(name, n);
    KS_CHECK(family, KS_UNSUPPORTED,
             "%s: tokenizer.ggml.pre is \"%.*s\", a pre-tokenizer that is not "
             "known; a tokenizer.json of the model would do",
             t->path, (int)KS_MIN(n, (size_t)60), name);
    if (family->nfc)
        KS_TRY(ks__tokenizer_put_rule(t, &(ks_rule){.type = KS_RULE_NFC}, err));
    for (size_t i = 0; family->patterns[i]; i++)
        KS_TRY(ks__tokenizer_put_step(t, family->patterns[i],
                                      strlen(family->patterns[i]), false,
                                      KS_ISOLATED, false, err));
    t->ignore_merges = family->ignore_merges;
    t->wants_bos = family->wants_bos;
done:
    return st;
}

static ks_status read_bos(ks_tokenizer *t, const ks_gguf *g, ks_err *err) {
    ks_status st = KS_OK;
    int64_t value;
    bool found;
    KS_TRY(ks_gguf_int(g, "tokenizer.ggml.bos_token_id", &value, &found, err));
    KS_CHECK(!found || (value >= 0 && value < (int64_t)t->n_tokens), KS_FORMAT,
             "%s: tokenizer.ggml.bos_token_id is %lld, but there are %zu "
             "tokens",
             t->path, (long long)value, t->n_tokens);
    if (found) t->bos = (int32_t)value;
    KS_TRY(ks_gguf_int(g, "tokenizer.ggml.add_bos_token", &value, &found, err));
    if (found) t->wants_bos = value != 0;
    KS_TRY(
        ks_gguf_int(g, "tokenizer.ggml.add_space_prefix", &value, &found, err));
    KS_CHECK(!found || !value, KS_UNSUPPORTED,
             "%s: tokenizer.ggml.add_space_prefix is not supported", t->path);
done:
    return st;
}

ks_status ks__tokenizer_read_gguf(ks_tokenizer *t, const char *path,
                                  ks_err *err) {
    ks_status st = KS_OK;
    ks_gguf *g = NULL;
    const char *model;
    size_t n;
    bool found;
    KS_TRY(ks_gguf_open(&g, path, err));
    KS_TRY(ks_gguf_string(g, "tokenizer.ggml.model", &model, &n, &found, err));
    KS_CHECK(found, KS_FORMAT,
             "%s: no tokenizer inside (tokenizer.ggml.model is missing)", path);
    KS_CHECK(n == 4 && memcmp(model, "gpt2", 4) == 0, KS_UNSUPPORTED,
             "%s: tokenizer.ggml.model is \"%.*s\"; only byte-level BPE "
             "(\"gpt2\") is supported",
             path, (int)KS_MIN(n, (size_t)60), model);
    KS_TRY(read_family(t, g, err));
    KS_TRY(read_tokens(t, g, err));
    KS_TRY(read_merges(t, g, err));
    KS_TRY(read_bos(t, g, err));
done:
    ks_gguf_close(&g);
    return st;
}
