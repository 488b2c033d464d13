/* import_tokens.c - vectors a token: a file a chain, its token spans, its
 * steps pooled. See import_acts.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "import_acts.h"

/* -------------------------------------------------------------------- files */

/* An id as a path below a folder must not lead out of it. */
static bool leads_out(const char *id) {
    if (*id == '/' || !*id) return true;
    for (const char *at = id; at; at = strchr(at, '/')) {
        if (*at == '/') at++;
        size_t n = strcspn(at, "/");
        if (n == 0 || (n == 2 && memcmp(at, "..", 2) == 0)) return true;
    }
    return false;
}

static ks_status in_folder(const char *folder, const char *id, char **out,
                           ks_err *err) {
    static const char *const suffixes[] = {".safetensors", ".npy", ".h5",
                                           ".hdf5"};
    ks_status st = KS_OK;
    int found = 0;
    KS_CHECK(!leads_out(id), KS_FORMAT,
             "chain '%s' cannot name a file in %s; an index of JSON Lines, "
             "{\"chain\",\"file\"}, can",
             id, folder);
    for (size_t i = 0; i < KS_COUNT(suffixes); i++) {
        char *path;
        KS_CHECK(asprintf(&path, "%s/%s%s", folder, id, suffixes[i]) >= 0,
                 KS_NOMEM, "out of memory for paths");
        if (ks_file_exists(path) && !found++)
            *out = path;
        else
            free(path);
    }
    KS_CHECK(found == 1, KS_IO,
             "%s/%s: %d files of this name end in .safetensors, .npy, .h5 or "
             ".hdf5, expected one",
             folder, id, found);
done:
    return st;
}

typedef struct index_work {
    const ks_import_acts_options *o;
    const ks_chains *chains;
    char **paths;
    const char *slash; /* last of the index's path */
} index_work;

static ks_status add_file(void *user, size_t line, json_t *object,
                          ks_err *err) {
    ks_status st = KS_OK;
    index_work *w = user;
    char where[512];
    const char *id, *file;
    size_t n, m;
    snprintf(where, sizeof where, "%s line %zu", w->o->tokens, line);
    KS_TRY(ks_json_string(object, "chain", where, &id, &n, err));
    KS_TRY(ks_json_string(object, "file", where, &file, &m, err));
    const ks_chain *chain = ks_chains_find(w->chains, id);
    if (!chain) goto done; /* of other chains, which are not imported */
    char **path = &w->paths[chain - w->chains->at];
    KS_CHECK(!*path, KS_FORMAT, "%s: chain '%s' has a second file", where, id);
    int folder =
        w->slash && *file != '/' ? (int)(w->slash - w->o->tokens) + 1 : 0;
    KS_CHECK(asprintf(path, "%.*s%s", folder, w->o->tokens, file) >= 0,
             KS_NOMEM, "out of memory for paths");
done:
    return st;
}

ks_status ks__token_files(const ks_import_acts_options *o,
                          const ks_chains *chains, char **paths, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = strlen(o->tokens);
    bool index = n > 6 && strcmp(o->tokens + n - 6, ".jsonl") == 0;
    index_work w = {o, chains, paths, strrchr(o->tokens, '/')};
    if (index) KS_TRY(ks_jsonl_read(o->tokens, add_file, &w, err));
    for (size_t i = 0; i < chains->n; i++) {
        if (!index)
            KS_TRY(in_folder(o->tokens, chains->at[i].id, &paths[i], err));
        KS_CHECK(paths[i], KS_MISMATCH, "%s: has no file for chain '%s'",
                 o->tokens, chains->at[i].id);
    }
done:
    return st;
}

/* -------------------------------------------------------------------- spans */

/* The ids' bytes must be those of prompt and text as far as both go, and go
 * to the text's end: tokens of an answer may follow. */
static ks_status check_bytes(const ks_chain *chain, const char *path,
                             const char *bytes, size_t n, size_t at,
                             size_t token, ks_err *err) {
    for (size_t k = 0;
         k < n && at + k < chain->prompt_length + chain->text_length; k++) {
        size_t i = at + k;
        char want = i < chain->prompt_length
                        ? chain->prompt[i]
                        : chain->text[i - chain->prompt_length];
        if (bytes[k] != want)
            return ks_fail(err, KS_MISMATCH,
                           "%s: token %zu is not what chain '%s' has at byte "
                           "%zu of prompt and text: were other tokens added, "
                           "such as a BOS, or is it of another chain?",
                           path, token, chain->id, i);
    }
    return KS_OK;
}

static ks_status decode(const ks_tokenizer *tokenizer, const ks_chain *chain,
                        const char *path, const ks_array *ids,
                        ks_tokens *tokens, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)ids->dims[0], at = 0;
    int64_t size = ks_tokenizer_size(tokenizer);
    char *bytes = NULL;
    KS_TRY(ks_alloc(&tokens->begin, n, sizeof *tokens->begin, "tokens", err));
    for (size_t k = 0; k < n; k++) {
        int64_t id = ks_array_integer(ids, (int64_t)k);
        int32_t one = (int32_t)id;
        size_t length;
        KS_CHECK(id >= 0 && id < size, KS_MISMATCH,
                 "%s: token %zu is %lld, the tokenizer has 0 to %lld", path, k,
                 (long long)id, (long long)size - 1);
        KS_TRY(ks_detokenize(tokenizer, &one, 1, &bytes, &length, err));
        st = check_bytes(chain, path, bytes, length, at, k, err);
        free(bytes);
        KS_TRY(st);
        tokens->begin[k] = (int32_t)at;
        at += length;
        KS_CHECK(at < INT32_MAX, KS_LIMIT, "%s: has too many tokens", path);
    }
    tokens->n = n;
    KS_CHECK(at >= chain->prompt_length + chain->text_length, KS_MISMATCH,
             "%s: its %zu tokens end at byte %zu of chain '%s', whose prompt "
             "and text have %zu",
             path, n, at, chain->id, chain->prompt_length + chain->text_length);
done:
    return st;
}

static ks_status spans_by_ids(const ks_import_acts_options *o,
                              const ks_chain *chain, const char *path,
                              const ks__layered *in, ks_step_row *steps,
                              ks_err *err) {
    ks_status st = KS_OK;
    ks_array ids;
    ks_tokens tokens = {0};
    bool there;
    size_t at = 0;
    int64_t offset = (int64_t)chain->prompt_length;
    KS_TRY(ks_array_beside(&in->array, path, "token_ids", &ids, &there, err));
    KS_CHECK(there, KS_USAGE,
             "%s: has no token_ids, by which --tokenizer would tell the "
             "steps' tokens; keystep split --model writes them into the chains",
             path);
    KS_CHECK(!ks_number_is_real(ids.type) && ids.n_dims == 1 &&
                 ids.dims[0] == in->n[KS_DIM_ROWS],
             KS_FORMAT,
             "%s: token_ids are not %lld whole numbers, one a row of the "
             "activations",
             path, (long long)in->n[KS_DIM_ROWS]);
    KS_TRY(decode(o->tokenizer, chain, path, &ids, &tokens, err));
    for (int32_t i = 0; i < chain->n_steps; i++) {
        ks_span own =
            ks_tokens_of(&tokens, offset + (int64_t)chain->steps[i].begin,
                         offset + (int64_t)chain->steps[i].end, &at);
        steps[i].token_begin = (int32_t)own.begin;
        steps[i].token_end = (int32_t)own.end;
    }
done:
    ks_tokens_free(&tokens);
    return st;
}

static ks_status spans_by_chain(const ks_import_acts_options *o,
                                const ks_chain *chain, const char *path,
                                const ks__layered *in, ks_step_row *steps,
                                ks_err *err) {
    ks_status st = KS_OK;
    json_t *list = json_object_get(chain->object, "steps");
    int64_t n = in->n[KS_DIM_ROWS];
    for (int32_t i = 0; i < chain->n_steps; i++) {
        json_t *step = json_array_get(list, (size_t)i);
        char where[512];
        int64_t begin, end;
        snprintf(where, sizeof where, "%s: chain '%s' step %d", o->chains,
                 chain->id, i);
        KS_CHECK(json_object_get(step, "token_begin"), KS_USAGE,
                 "%s has no \"token_begin\": keystep split --model writes "
                 "them, or --tokenizer tells them by the files' token_ids",
                 where);
        KS_TRY(
            ks_json_int(step, "token_begin", where, 0, INT32_MAX, &begin, err));
        KS_TRY(
            ks_json_int(step, "token_end", where, begin, INT32_MAX, &end, err));
        KS_CHECK(end <= n, KS_MISMATCH,
                 "%s is tokens %lld to %lld; %s has %lld", where,
                 (long long)begin, (long long)end, path, (long long)n);
        steps[i].token_begin = (int32_t)begin;
        steps[i].token_end = (int32_t)end;
    }
done:
    return st;
}

ks_status ks__token_spans(const ks_import_acts_options *o,
                          const ks_chain *chain, const char *path,
                          const ks__layered *in, ks_step_row *steps,
                          ks_err *err) {
    ks_status st = KS_OK;
    bool before = o->positions >> KS_BEFORE & 1;
    KS_TRY(o->tokenizer ? spans_by_ids(o, chain, path, in, steps, err)
                        : spans_by_chain(o, chain, path, in, steps, err));
    for (int32_t i = 0; i < chain->n_steps; i++)
        steps[i].valid = steps[i].token_begin < steps[i].token_end &&
                         !(before && steps[i].token_begin == 0);
done:
    return st;
}

/* --------------------------------------------------------------------- pool */

void ks__token_pool(const ks__layered *in, ks_position position, int64_t layer,
                    const ks_step_row *step, double *sum, float *out) {
    int64_t d = in->n[KS_DIM_FEATURES];
    int64_t begin = step->token_begin, n = step->token_end - begin;
    int64_t row = position == KS_FIRST    ? begin
                  : position == KS_MIDDLE ? begin + n / 2
                  : position == KS_LAST   ? begin + n - 1
                                          : begin - 1; /* before */
    if (n == 0 || (position == KS_BEFORE && begin == 0)) {
        for (int64_t j = 0; j < d; j++) out[j] = NAN;
        return;
    }
    if (position != KS_MEAN) {
        ks__layered_row(in, layer, row, out);
        return;
    }
    memset(sum, 0, (size_t)d * sizeof *sum);
    for (int64_t i = 0; i < n; i++) {
        ks__layered_row(in, layer, begin + i, out);
        for (int64_t j = 0; j < d; j++) sum[j] += (double)out[j];
    }
    for (int64_t j = 0; j < d; j++) out[j] = (float)(sum[j] / (double)n);
}
