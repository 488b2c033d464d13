/* model.c - opens a model: config, files, then every weight bound once to its
 * named field with shape, type and range checked. Nothing looks a tensor up
 * by name again. */
#include "model.h"

#include <libgen.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config.h"
#include "gguf.h"
#include "safetensors.h"

/* A tensor of either format, in row-major words. */
typedef struct tensor {
    const char *name, *path;
    ks_type type;
    const char *type_name;
    int32_t n_dims;
    int64_t dims[2]; /* rows, cols; of a vector: its length */
    const void *data;
} tensor;

/* What opening needs and the model does not. */
typedef struct binder {
    ks_model *model;
    ks_gguf *gguf; /* one of the two */
    ks_safetensors *st;
    const char *path;   /* for messages */
    const char *prefix; /* of Hugging Face's names: "model." */
    int32_t used;
} binder;

/* ------------------------------------------------------------------ memory */

ks_status ks_model_own(ks_model *m, void *out, size_t n, size_t size,
                       const char *what, ks_err *err) {
    void *memory,
        **owned = reallocarray(m->owned, m->n_owned + 1, sizeof *owned);
    if (!owned) return ks_fail(err, KS_NOMEM, "out of memory for %s", what);
    m->owned = owned;
    ks_status st = ks_alloc(&memory, n, size, what, err);
    if (st != KS_OK) return st;
    m->owned[m->n_owned++] = memory;
    memcpy(out, &memory, sizeof memory);
    return KS_OK;
}

/* ------------------------------------------------------------------ lookup */

static bool find_gguf(const binder *b, const char *name, tensor *t) {
    const ks_gguf_tensor *g = ks_gguf_tensor_find(b->gguf, name);
    if (!g) return false;
    *t = (tensor){.name = g->name,
                  .path = b->path,
                  .type = g->type,
                  .type_name = ks_type_name(g->type),
                  .n_dims = g->n_dims,
                  .data = g->data};
    /* dims[0] runs fastest: the columns */
    t->dims[0] = g->n_dims == 1 ? g->dims[0] : g->dims[1];
    t->dims[1] = g->n_dims == 1 ? 1 : g->dims[0];
    return true;
}

static bool find_st(const binder *b, const char *name, tensor *t) {
    const ks_st_tensor *s = ks_safetensors_find(b->st, name);
    if (!s) return false;
    *t = (tensor){.name = s->name,
                  .path = ks_safetensors_file(b->st, s->file),
                  .type = s->type,
                  .type_name = s->dtype,
                  .n_dims = s->n_dims,
                  .dims = {s->dims[0], s->dims[1]},
                  .data = s->data};
    return true;
}

/* The full name of a tensor: hf and gguf are its names inside a layer, or
 * (layer -1) outside of them; hf goes behind the prefix. */
static void full_name(const binder *b, int32_t layer, const char *hf,
                      const char *gguf, char name[128]) {
    if (b->gguf && layer < 0)
        snprintf(name, 128, "%s", gguf);
    else if (b->gguf)
        snprintf(name, 128, "blk.%d.%s", layer, gguf);
    else if (layer < 0)
        snprintf(name, 128, "%s%s", b->prefix, hf);
    else
        snprintf(name, 128, "%slayers.%d.%s", b->prefix, layer, hf);
}

/* Shapes for messages: [rows x cols], [n], [], or only the number of
 * dimensions when there are more than two. */
static const char *shape_text(int32_t n_dims, const int64_t dims[2],
                              char text[64]) {
    if (n_dims == 0)
        snprintf(text, 64, "[]");
    else if (n_dims == 1)
        snprintf(text, 64, "[%lld]", (long long)dims[0]);
    else if (n_dims == 2)
        snprintf(text, 64, "[%lld x %lld]", (long long)dims[0],
                 (long long)dims[1]);
    else
        snprintf(text, 64, "of %d dimensions", n_dims);
    return text;
}

static ks_status find(binder *b, const char *name, int32_t n_dims,
                      const int64_t dims[2], tensor *t, ks_err *err) {
    ks_status st = KS_OK;
    char want[64], have[64];
    bool found = b->gguf ? find_gguf(b, name, t) : find_st(b, name, t);
    KS_CHECK(found, KS_FORMAT, "%s: tensor '%s' is missing, expected %s",
             b->path, name, shape_text(n_dims, dims, want));
    KS_CHECK(t->n_dims == n_dims && t->dims[0] == dims[0] &&
                 (n_dims < 2 || t->dims[1] == dims[1]),
             KS_FORMAT, "%s: tensor '%s' has shape %s, expected %s", t->path,
             name, shape_text(t->n_dims, t->dims, have),
             shape_text(n_dims, dims, want));
    KS_CHECK(t->type < KS_N_TYPES && t->type != KS_I32, KS_FORMAT,
             "%s: tensor '%s' is of type %s, expected floats or a quantised "
             "type",
             t->path, name, t->type_name);
    b->used++;
done:
    return st;
}

/* ----------------------------------------------------------------- binding */

/* A matrix as it lies in the file; copied only where the file does not align
 * its elements (safetensors promises nothing). */
static ks_status bind_named(binder *b, ks_weight *out, const char *name,
                            int64_t rows, int64_t cols, ks_err *err) {
    ks_status st = KS_OK;
    tensor t = {0};
    int64_t dims[2] = {rows, cols};
    KS_TRY(find(b, name, 2, dims, &t, err));
    KS_CHECK(cols % ks_type_block(t.type) == 0, KS_FORMAT,
             "%s: tensor '%s' has rows of %lld, not a multiple of the %s "
             "block of %lld",
             t.path, name, (long long)cols, t.type_name,
             (long long)ks_type_block(t.type));
    void *data = (void *)(uintptr_t)t.data;
    if ((uintptr_t)data % (t.type == KS_F32 ? 4 : 2)) {
        size_t size = (size_t)rows * ks_type_row_bytes(t.type, cols);
        KS_TRY(ks_model_own(b->model, &data, size, 1, name, err));
        memcpy(data, t.data, size);
    }
    *out = (ks_weight){data, rows, cols, cols, t.type};
done:
    return st;
}

static ks_status bind_matrix(binder *b, ks_weight *out, int32_t layer,
                             const char *hf, const char *gguf, int64_t rows,
                             int64_t cols, ks_err *err) {
    char name[128];
    full_name(b, layer, hf, gguf, name);
    return bind_named(b, out, name, rows, cols, err);
}

/* A small tensor, expanded to f32 that the model owns, plus `bias`. */
static ks_status bind_vector(binder *b, float **out, int32_t layer,
                             const char *hf, const char *gguf, int64_t n,
                             float bias, ks_err *err) {
    ks_status st = KS_OK;
    tensor t = {0};
    char name[128];
    int64_t dims[2] = {n, 1};
    full_name(b, layer, hf, gguf, name);
    KS_TRY(find(b, name, 1, dims, &t, err));
    KS_CHECK(n % ks_type_block(t.type) == 0, KS_FORMAT,
             "%s: tensor '%s' has %lld elements, not a multiple of the %s "
             "block",
             t.path, name, (long long)n, t.type_name);
    KS_TRY(ks_model_own(b->model, out, (size_t)n, sizeof **out, name, err));
    ks_dequantize(t.type, t.data, *out, n);
    for (int64_t i = 0; i < n; i++) {
        KS_CHECK(isfinite((*out)[i]), KS_NUMERIC,
                 "%s: tensor '%s' has %g at place %lld, expected finite "
                 "numbers",
                 t.path, name, (double)(*out)[i], (long long)i);
        (*out)[i] += bias;
    }
done:
    return st;
}

static ks_status bind_attention(binder *b, int32_t i, ks_layer *l,
                                ks_err *err) {
    ks_status st = KS_OK;
    const ks_config *c = &b->model->config;
    int64_t d = c->d_model, q = (int64_t)c->n_heads * c->head_dim;
    int64_t kv = (int64_t)c->n_kv_heads * c->head_dim;
    KS_TRY(bind_matrix(b, &l->wq, i, "self_attn.q_proj.weight", "attn_q.weight",
                       q, d, err));
    KS_TRY(bind_matrix(b, &l->wk, i, "self_attn.k_proj.weight", "attn_k.weight",
                       kv, d, err));
    KS_TRY(bind_matrix(b, &l->wv, i, "self_attn.v_proj.weight", "attn_v.weight",
                       kv, d, err));
    KS_TRY(bind_matrix(b, &l->wo, i, "self_attn.o_proj.weight",
                       "attn_output.weight", d, q, err));
    if (c->qkv_bias) {
        KS_TRY(bind_vector(b, &l->bq, i, "self_attn.q_proj.bias", "attn_q.bias",
                           q, 0, err));
        KS_TRY(bind_vector(b, &l->bk, i, "self_attn.k_proj.bias", "attn_k.bias",
                           kv, 0, err));
        KS_TRY(bind_vector(b, &l->bv, i, "self_attn.v_proj.bias", "attn_v.bias",
                           kv, 0, err));
    }
    if (c->o_bias)
        KS_TRY(bind_vector(b, &l->bo, i, "self_attn.o_proj.bias",
                           "attn_output.bias", d, 0, err));
    if (c->qk_norm != KS_QK_NONE) {
        bool full = c->qk_norm == KS_QK_FULL;
        KS_TRY(bind_vector(b, &l->q_norm, i, "self_attn.q_norm.weight",
                           "attn_q_norm.weight", full ? q : c->head_dim,
                           c->norm_bias, err));
        KS_TRY(bind_vector(b, &l->k_norm, i, "self_attn.k_norm.weight",
                           "attn_k_norm.weight", full ? kv : c->head_dim,
                           c->norm_bias, err));
    }
done:
    return st;
}

/* Hugging Face's post_attention_layernorm is the norm ahead of the MLP where
 * there are no post norms, and the norm after attention where there are. */
static ks_status bind_norms(binder *b, int32_t i, ks_layer *l, ks_err *err) {
    ks_status st = KS_OK;
    const ks_config *c = &b->model->config;
    if (c->pre_norm) {
        KS_TRY(bind_vector(b, &l->attn_norm, i, "input_layernorm.weight",
                           "attn_norm.weight", c->d_model, c->norm_bias, err));
        KS_TRY(bind_vector(b, &l->mlp_norm, i,
                           c->post_norm ? "pre_feedforward_layernorm.weight"
                                        : "post_attention_layernorm.weight",
                           "ffn_norm.weight", c->d_model, c->norm_bias, err));
    }
    if (c->post_norm) {
        KS_TRY(bind_vector(
            b, &l->attn_post_norm, i, "post_attention_layernorm.weight",
            "post_attention_norm.weight", c->d_model, c->norm_bias, err));
        KS_TRY(bind_vector(
            b, &l->mlp_post_norm, i, "post_feedforward_layernorm.weight",
            "post_ffw_norm.weight", c->d_model, c->norm_bias, err));
    }
done:
    return st;
}

static ks_status bind_layer(binder *b, int32_t i, ks_layer *l, ks_err *err) {
    ks_status st = KS_OK;
    const ks_config *c = &b->model->config;
    KS_TRY(bind_norms(b, i, l, err));
    KS_TRY(bind_attention(b, i, l, err));
    KS_TRY(bind_matrix(b, &l->w_gate, i, "mlp.gate_proj.weight",
                       "ffn_gate.weight", c->d_ff, c->d_model, err));
    KS_TRY(bind_matrix(b, &l->w_up, i, "mlp.up_proj.weight", "ffn_up.weight",
                       c->d_ff, c->d_model, err));
    KS_TRY(bind_matrix(b, &l->w_down, i, "mlp.down_proj.weight",
                       "ffn_down.weight", c->d_model, c->d_ff, err));
done:
    return st;
}

static ks_status bind_rope(binder *b, ks_err *err) {
    ks_status st = KS_OK;
    ks_model *m = b->model;
    const ks_config *c = &m->config;
    ks_weights *w = &m->weights;
    float *factors = NULL;
    size_t n = (size_t)c->head_dim / 2;
    bool local = false;
    if (c->rope.kind == KS_ROPE_FACTORS) {
        KS_TRY(bind_vector(b, &factors, -1, "", "rope_freqs.weight", (int64_t)n,
                           0, err));
        for (size_t i = 0; i < n; i++)
            KS_CHECK(factors[i] > 0, KS_NUMERIC,
                     "%s: tensor 'rope_freqs.weight' has %g at place %zu, "
                     "expected positive numbers",
                     b->path, (double)factors[i], i);
    }
    KS_TRY(ks_model_own(m, &w->inv_freq, n, sizeof(float), "rope", err));
    ks_rope_frequencies(&c->rope, c->head_dim, factors, w->inv_freq,
                        &w->rope_scale);
    w->rope_scale_local = 1;
    for (int32_t l = 0; l < c->n_layers; l++) local |= c->local[l];
    if (!local) goto done;
    KS_TRY(ks_model_own(m, &w->inv_freq_local, n, sizeof(float), "rope", err));
    ks_rope_frequencies(&c->rope_local, c->head_dim, NULL, w->inv_freq_local,
                        &w->rope_scale_local);
done:
    return st;
}

static ks_status bind_all(binder *b, ks_err *err) {
    ks_status st = KS_OK;
    ks_model *m = b->model;
    const ks_config *c = &m->config;
    ks_weights *w = &m->weights;
    KS_TRY(bind_matrix(b, &w->embed, -1, "embed_tokens.weight",
                       "token_embd.weight", c->n_vocab, c->d_model, err));
    KS_TRY(ks_model_own(m, &w->layers, (size_t)c->n_layers, sizeof *w->layers,
                        "layers", err));
    for (int32_t i = 0; i < c->n_layers; i++)
        KS_TRY(bind_layer(b, i, &w->layers[i], err));
    KS_TRY(bind_vector(b, &w->final_norm, -1, "norm.weight",
                       "output_norm.weight", c->d_model, c->norm_bias, err));
    w->head = w->embed;
    if (!c->tied) {
        /* beside the prefix, not behind it, but for multimodal wrappers */
        const char *name = "output.weight";
        if (!b->gguf)
            name = strncmp(b->prefix, "language_model.", 15) == 0
                       ? "language_model.lm_head.weight"
                       : "lm_head.weight";
        KS_TRY(bind_named(b, &w->head, name, c->n_vocab, c->d_model, err));
    }
    KS_TRY(bind_rope(b, err));
    m->n_ignored = m->n_tensors - b->used;
done:
    return st;
}

/* ----------------------------------------------------------------- opening */

/* The last part of a path without its extension; never the whole path, since
 * names go into outputs. */
static void name_from_path(ks_model *m, const char *path) {
    char *real = realpath(path, NULL);
    const char *from = real ? real : path, *slash = strrchr(from, '/');
    snprintf(m->name, sizeof m->name, "%s", slash ? slash + 1 : from);
    free(real);
    char *dot = strrchr(m->name, '.');
    if (dot && dot != m->name &&
        (strcmp(dot, ".gguf") == 0 || strcmp(dot, ".safetensors") == 0))
        *dot = 0;
}

/* A name that the file gives itself: one line of whole UTF-8, cut to fit. */
static void name_from_text(ks_model *m, const char *s, size_t n) {
    n = KS_MIN(n, sizeof m->name - 1);
    n = ks_utf8_check(s, n);
    if (!n) return;
    memcpy(m->name, s, n);
    m->name[n] = 0;
    for (char *p = m->name; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f) *p = ' ';
}

static ks_status open_gguf(binder *b, const char *path, ks_err *err) {
    ks_status st = KS_OK;
    ks_model *m = b->model;
    const char *s = NULL;
    size_t n = 0;
    bool found = false;
    KS_TRY(ks_gguf_open(&b->gguf, path, err));
    KS_TRY(ks_config_from_gguf(&m->config, b->gguf, err));
    KS_TRY(ks_gguf_string(b->gguf, "general.name", &s, &n, &found, err));
    name_from_path(m, path);
    if (found) name_from_text(m, s, n);
    m->n_tensors = (int32_t)KS_MIN(ks_gguf_n_tensors(b->gguf), INT32_MAX);
    KS_TRY(bind_all(b, err));
    KS_TRY(ks_alloc(&m->files, 1, sizeof *m->files, "a map", err));
    m->files[0] = ks_gguf_take_map(b->gguf);
    m->n_files = 1;
done:
    return st;
}

/* Multimodal wrappers put their language model under a name of its own. */
static void find_prefix(binder *b) {
    static const char *const prefixes[] = {"model.", "model.language_model.",
                                           "language_model.model.", ""};
    char name[128];
    for (size_t i = 0; i < KS_COUNT(prefixes); i++) {
        snprintf(name, sizeof name, "%sembed_tokens.weight", prefixes[i]);
        b->prefix = prefixes[i];
        if (ks_safetensors_find(b->st, name)) return;
    }
    b->prefix = prefixes[0];
}

static ks_status open_safetensors(binder *b, const char *config,
                                  const char *weights, ks_err *err) {
    ks_status st = KS_OK;
    ks_model *m = b->model;
    bool tied_given = false;
    KS_TRY(ks_config_from_json(&m->config, config, &tied_given, err));
    KS_TRY(ks_safetensors_open(&b->st, weights, err));
    b->path = weights;
    find_prefix(b);
    /* A config that does not say: tied is what has no head. */
    if (!tied_given && !ks_safetensors_find(b->st, "lm_head.weight"))
        m->config.tied = true;
    m->n_tensors = (int32_t)KS_MIN(ks_safetensors_n(b->st), INT32_MAX);
    KS_TRY(bind_all(b, err));
    ks_safetensors_take_maps(b->st, &m->files, &m->n_files);
done:
    return st;
}

/* A folder, or a weight file beside its config.json. */
static ks_status open_hugging_face(binder *b, const char *path, bool is_folder,
                                   ks_err *err) {
    ks_status st = KS_OK;
    char *copy = strdup(path), *config = NULL, *one = NULL, *index = NULL;
    KS_CHECK(copy, KS_NOMEM, "%s: no memory for its name", path);
    const char *folder = is_folder ? path : dirname(copy);
    KS_TRY(ks_path_join(&config, folder, "config.json", err));
    KS_TRY(ks_path_join(&one, folder, "model.safetensors", err));
    KS_TRY(ks_path_join(&index, folder, "model.safetensors.index.json", err));
    KS_CHECK(ks_file_exists(config), KS_IO, "%s: there is no config.json %s it",
             path, is_folder ? "in" : "beside");
    const char *weights = is_folder ? one : path;
    if (is_folder && !ks_file_exists(one)) weights = index;
    KS_CHECK(ks_file_exists(weights), KS_IO,
             "%s: there is neither model.safetensors nor "
             "model.safetensors.index.json in it",
             path);
    KS_TRY(open_safetensors(b, config, weights, err));
    name_from_path(b->model, is_folder ? path : folder);
done:
    free(copy);
    free(config);
    free(one);
    free(index);
    return st;
}

ks_status ks_model_open(ks_model **out, const char *path, ks_err *err) {
    ks_status st = KS_OK;
    binder b = {.path = path, .prefix = ""};
    struct stat info;
    *out = NULL;
    KS_CHECK(stat(path, &info) == 0, KS_IO, "%s: there is no such model", path);
    KS_TRY(ks_alloc(&b.model, 1, sizeof *b.model, "a model", err));
    bool is_folder = S_ISDIR(info.st_mode);
    if (is_folder || ks_ends_with(path, ".safetensors") ||
        ks_ends_with(path, ".safetensors.index.json")) {
        KS_TRY(open_hugging_face(&b, path, is_folder, err));
    } else {
        KS_CHECK(ks_gguf_is(path) || ks_ends_with(path, ".gguf"), KS_FORMAT,
                 "%s: not a model: expected a GGUF file, a .safetensors file "
                 "or a folder with config.json and model.safetensors",
                 path);
        KS_TRY(open_gguf(&b, path, err));
    }
    *out = b.model;
    b.model = NULL;
done:
    ks_gguf_close(&b.gguf);
    ks_safetensors_close(&b.st);
    ks_model_close(&b.model);
    return st;
}

void ks_model_close(ks_model **model) {
    ks_model *m = *model;
    if (!m) return;
    for (size_t i = 0; i < m->n_files; i++) ks_map_close(&m->files[i]);
    for (size_t i = 0; i < m->n_owned; i++) free(m->owned[i]);
    free(m->files);
    free(m->owned);
    free(m);
    *model = NULL;
}

ks_status ks_model_hash(ks_model *m, ks_err *err) {
    ks_sha256 *hash;
    char text[160];
    if (m->sha256[0]) return KS_OK;
    if (!m->files_sha256[0]) {
        ks_status st = ks_sha256_open(&hash, err);
        if (st != KS_OK) return st;
        for (size_t i = 0; i < m->n_files; i++)
            ks_sha256_add(hash, m->files[i].data, m->files[i].size);
        ks_sha256_close(&hash, m->files_sha256);
    }
    memcpy(m->sha256, m->files_sha256, sizeof m->sha256);
    if (m->randomized) {
        int n = snprintf(text, sizeof text, "%s randomized with seed %llu",
                         m->files_sha256, (unsigned long long)m->seed);
        ks_sha256_of(text, (size_t)n, m->sha256);
    }
    return KS_OK;
}
