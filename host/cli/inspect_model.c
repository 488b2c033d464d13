/* inspect_model.c - what keystep inspect says of a model or a tokenizer. */
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "gguf.h"
#include "inspect.h"
#include "model.h"
#include "safetensors.h"

/* ----------------------------------------------------------------- tensors */

/* Adds one tensor to its type's row, and to the list when there is one. */
static ks_status count_tensor(json_t *types, json_t *list, const char *name,
                              const char *type, json_t *shape, int64_t elements,
                              size_t bytes, ks_err *err) {
    bool good = shape != NULL;
    json_t *row = json_object_get(types, type);
    if (!row) {
        good &= ks__put(
            types, type,
            json_pack("{si,si,si}", "tensors", 0, "elements", 0, "bytes", 0));
        row = json_object_get(types, type);
    }
    const struct {
        const char *key;
        int64_t add;
    } sums[] = {
        {"tensors", 1}, {"elements", elements}, {"bytes", (int64_t)bytes}};
    for (size_t i = 0; row && i < KS_COUNT(sums); i++) {
        json_t *sum = json_object_get(row, sums[i].key);
        json_integer_set(sum, json_integer_value(sum) + sums[i].add);
    }
    if (list)
        good &= json_array_append_new(list, json_pack("{ss,ss,sO,sI}", "name",
                                                      name, "type", type,
                                                      "shape", shape, "bytes",
                                                      (json_int_t)bytes)) == 0;
    json_decref(shape);
    return good ? KS_OK : ks_fail(err, KS_NOMEM, "no memory for tensors");
}

static ks_status count_gguf(const char *path, json_t *types, json_t *list,
                            ks_err *err) {
    ks_status st = KS_OK;
    ks_gguf *g = NULL;
    KS_TRY(ks_gguf_open(&g, path, err));
    for (uint64_t i = 0; i < ks_gguf_n_tensors(g); i++) {
        const ks_gguf_tensor *t = ks_gguf_tensor_at(g, i);
        json_t *shape = json_array();
        int64_t n = 1;
        for (int32_t k = t->n_dims - 1; k >= 0; k--) { /* row-major */
            json_array_append_new(shape, json_integer(t->dims[k]));
            n *= t->dims[k];
        }
        KS_TRY(count_tensor(types, list, t->name, ks_type_name(t->type), shape,
                            n, t->size, err));
    }
done:
    ks_gguf_close(&g);
    return st;
}

/* path: a folder, a file or an index, of a model that opened. */
static ks_status count_safetensors(const char *path, json_t *types,
                                   json_t *list, ks_err *err) {
    ks_status st = KS_OK;
    ks_safetensors *s = NULL;
    char *one = NULL, *index = NULL;
    struct stat info;
    KS_TRY(ks_path_join(&one, path, "model.safetensors", err));
    KS_TRY(ks_path_join(&index, path, "model.safetensors.index.json", err));
    bool is_folder = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
    if (is_folder) path = ks_file_exists(one) ? one : index;
    KS_TRY(ks_safetensors_open(&s, path, err));
    for (size_t i = 0; i < ks_safetensors_n(s); i++) {
        const ks_st_tensor *t = ks_safetensors_at(s, i);
        json_t *shape = json_array();
        size_t each = t->type < KS_N_TYPES ? ks_type_size(t->type) : 1;
        for (int32_t k = 0; k < KS_MIN(t->n_dims, 4); k++)
            json_array_append_new(shape, json_integer(t->dims[k]));
        KS_TRY(count_tensor(types, list, t->name,
                            t->type < KS_N_TYPES ? ks_type_name(t->type)
                                                 : t->dtype,
                            shape, (int64_t)(t->size / each), t->size, err));
    }
done:
    ks_safetensors_close(&s);
    free(one);
    free(index);
    return st;
}

/* ------------------------------------------------------------------ models */

static json_t *describe_rope(const ks_rope_config *r) {
    static const char *const kinds[] = {"none", "linear", "llama3", "yarn",
                                        "factors"};
    json_t *o = json_pack("{sf,ss}", "theta", (double)r->theta, "scaling",
                          kinds[r->kind]);
    if (r->kind != KS_ROPE_NONE && r->kind != KS_ROPE_FACTORS)
        ks__put(o, "factor", json_real((double)r->factor));
    return o;
}

static json_t *describe_switches(const ks_config *c) {
    static const char *const acts[] = {"silu", "gelu_tanh", "gelu"};
    static const char *const qk[] = {"none", "head", "full"};
    int32_t windows = 0, width = 0;
    bool local = false;
    for (int32_t l = 0; l < c->n_layers; l++)
        if (c->window[l]) windows++, width = c->window[l], local |= c->local[l];
    json_t *o =
        json_pack("{ss,sb,sb,ss,sb,sb,sb,so}", "activation", acts[c->act],
                  "pre_norm", c->pre_norm, "post_norm", c->post_norm, "qk_norm",
                  qk[c->qk_norm], "qkv_bias", c->qkv_bias, "o_bias", c->o_bias,
                  "tied", c->tied, "rope", describe_rope(&c->rope));
    if (local) ks__put(o, "rope_local", describe_rope(&c->rope_local));
    if (windows)
        ks__put(o, "window",
                json_pack("{si,si}", "layers", windows, "tokens", width));
    if (c->final_softcap != 0)
        ks__put(o, "final_softcap", json_real((double)c->final_softcap));
    return o;
}

/* A model's tokenizer, or why it has none that we can use. */
static json_t *describe_tokenizer(const char *path) {
    ks_tokenizer *t = NULL;
    ks_err err;
    char *copy = strdup(path);
    size_t n = strlen(path);
    bool beside = n > 12 && strcmp(path + n - 12, ".safetensors") == 0;
    if (copy && beside) path = dirname(copy);
    ks_status st = ks_tokenizer_open(&t, path, &err);
    free(copy);
    if (st != KS_OK) return json_pack("{ss}", "error", err.text);
    json_t *o = json_pack("{si,si,ss}", "size", ks_tokenizer_size(t), "bos",
                          ks_tokenizer_bos(t), "sha256", ks_tokenizer_hash(t));
    ks_tokenizer_close(&t);
    return o;
}

ks_status ks__inspect_model(const char *path, bool tensors, json_t *o,
                            ks_err *err) {
    ks_status st = KS_OK;
    ks_model *m = NULL;
    json_t *types = json_object();
    json_t *list = tensors ? json_array() : NULL;
    KS_TRY(ks_model_open(&m, path, err));
    KS_TRY(ks_model_hash(m, err));
    KS_TRY(ks_gguf_is(path) ? count_gguf(path, types, list, err)
                            : count_safetensors(path, types, list, err));
    const ks_config *c = &m->config;
    json_t *sizes = json_pack(
        "{si,si,si,si,si,si,si,si,sf}", "layers", c->n_layers, "hidden",
        c->d_model, "heads", c->n_heads, "kv_heads", c->n_kv_heads, "head",
        c->head_dim, "mlp", c->d_ff, "vocabulary", c->n_vocab, "context",
        c->n_context, "norm_eps", (double)c->norm_eps);
    bool good = ks__put(o, "kind", json_string("model")) &&
                ks__put(o, "name", json_string(m->name)) &&
                ks__put(o, "architecture", json_string(c->arch)) &&
                ks__put(o, "sizes", sizes) &&
                ks__put(o, "switches", describe_switches(c)) &&
                ks__put(o, "tokenizer", describe_tokenizer(path)) &&
                ks__put(o, "tensors", json_integer(m->n_tensors)) &&
                ks__put(o, "not used", json_integer(m->n_ignored)) &&
                ks__put(o, "types", json_incref(types)) &&
                (!list || ks__put(o, "list", json_incref(list))) &&
                ks__put(o, "sha256", json_string(m->sha256));
    KS_CHECK(good, KS_NOMEM, "no memory to describe %s", path);
done:
    json_decref(types);
    json_decref(list);
    ks_model_close(&m);
    return st;
}

ks_status ks__inspect_tokenizer(const char *path, json_t *o, ks_err *err) {
    json_t *tokenizer = describe_tokenizer(path);
    const char *why = json_string_value(json_object_get(tokenizer, "error"));
    ks_status st = why ? ks_fail(err, KS_FORMAT, "%s", why) : KS_OK;
    if (!ks__put(o, "kind", json_string("tokenizer")) ||
        !ks__put(o, "tokenizer", tokenizer))
        st = ks_fail(err, KS_NOMEM, "no memory to describe %s", path);
    return st;
}
