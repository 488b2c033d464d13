/* Models: configs against what transformers makes of them, the same weights
 * out of both formats, and sentences for what does not fit. The golden files
 * are tests/golden/make_model_files.py's. */
#include "files.h"

#include <math.h>

#include "compare.h"
#include "config.h"
#include "safetensors.h"

#define DATA KS_TEST_DATA "/model/"

static const char *const families[] = {"llama", "mistral", "qwen2", "qwen3",
                                       "olmo2", "olmo3",   "gemma3"};

static ks_model *open_model(const char *path) {
    ks_model *m;
    ks_err err = {0};
    ks_status st = ks_model_open(&m, path, &err);
    cr_assert(eq(int, st, KS_OK), "%s", err.text);
    return m;
}

static ks_model *golden(const char *family, const char *end) {
    char path[256];
    snprintf(path, sizeof path, DATA "%s%s", family, end);
    return open_model(path);
}

/* ----------------------------------------------------------------- configs */

static json_t *expected(const char *name) {
    static json_t *all;
    json_error_t where;
    if (!all) all = json_load_file(DATA "expected.json", 0, &where);
    cr_assert(all != NULL, "%s", where.text);
    json_t *one = json_object_get(all, name);
    cr_assert(one != NULL, "%s", name);
    return one;
}

static double number(json_t *o, const char *key) {
    json_t *v = json_object_get(o, key);
    cr_assert(v != NULL, "%s", key);
    return json_is_boolean(v) ? json_is_true(v) : json_number_value(v);
}

/* f32 arithmetic in the same order: a unit in the last place, for powf. */
static void same_frequencies(const char *name, json_t *e, const char *key,
                             const char *scale_key, const ks_rope_config *r,
                             int32_t head_dim, const float *have,
                             double have_scale) {
    json_t *list = json_object_get(e, key);
    size_t n = json_array_size(list);
    float got[128], scale;
    double want[128];
    cr_assert(eq(sz, n, (size_t)head_dim / 2));
    if (!have) ks_rope_frequencies(r, head_dim, NULL, got, &scale);
    for (size_t i = 0; i < n; i++) {
        want[i] = json_number_value(json_array_get(list, i));
        if (have) got[i] = have[i];
    }
    cr_expect(close_f32(name, got, want, n, 0, 1.3e-7), "%s %s", name, key);
    cr_expect(epsilon_eq(dbl, have ? have_scale : (double)scale,
                         number(e, scale_key), 1e-6),
              "%s", name);
}

/* m: NULL for a config alone */
static void same_config(const char *name, const ks_config *c,
                        const ks_model *m) {
    json_t *e = expected(name);
    const ks_weights *w = m ? &m->weights : NULL;
    cr_expect(eq(int, c->n_layers, (int)number(e, "n_layers")), "%s", name);
    cr_expect(eq(int, c->d_model, (int)number(e, "d_model")), "%s", name);
    cr_expect(eq(int, c->n_heads, (int)number(e, "n_heads")), "%s", name);
    cr_expect(eq(int, c->n_kv_heads, (int)number(e, "n_kv_heads")));
    cr_expect(eq(int, c->head_dim, (int)number(e, "head_dim")), "%s", name);
    cr_expect(eq(int, c->d_ff, (int)number(e, "d_ff")), "%s", name);
    cr_expect(eq(int, c->n_vocab, (int)number(e, "n_vocab")), "%s", name);
    cr_expect(eq(int, c->n_context, (int)number(e, "n_context")), "%s", name);
    cr_expect(eq(flt, c->norm_eps, (float)number(e, "norm_eps")), "%s", name);
    cr_expect(eq(flt, c->final_softcap, (float)number(e, "final_softcap")));
    cr_expect(eq(int, c->tied, number(e, "tied") != 0), "%s", name);
    json_t *window = json_object_get(e, "window"), *value;
    size_t l;
    json_array_foreach(window, l, value) {
        cr_expect(eq(int, c->window[l], (int)json_integer_value(value)),
                  "%s layer %zu", name, l);
        bool two = json_object_get(e, "inv_freq_local") != NULL;
        cr_expect(eq(int, c->local[l], two && c->window[l] != 0));
    }
    same_frequencies(name, e, "inv_freq", "rope_scale", &c->rope, c->head_dim,
                     w ? w->inv_freq : NULL, w ? (double)w->rope_scale : 0);
    if (json_object_get(e, "inv_freq_local"))
        same_frequencies(name, e, "inv_freq_local", "rope_scale_local",
                         &c->rope_local, c->head_dim,
                         w ? w->inv_freq_local : NULL,
                         w ? (double)w->rope_scale_local : 0);
    else if (w)
        cr_expect(w->inv_freq_local == NULL);
}

Test(config, equals_transformers) {
    for (size_t i = 0; i < KS_COUNT(families); i++) {
        ks_model *m = golden(families[i], "");
        same_config(families[i], &m->config, m);
        cr_expect(eq(flt, m->config.attn_scale,
                     (float)number(expected(families[i]), "attn_scale")));
        cr_expect(eq(int, m->n_ignored, 0), "%s", families[i]);
        cr_expect(eq(str, m->name, (char *)families[i]));
        ks_model_close(&m);
        cr_assert(m == NULL);
    }
}

/* llama3's scaling comes as rope_freqs.weight; Gemma's scalar is not in GGUF,
 * its softcap is. */
Test(config, gguf_equals_transformers) {
    for (size_t i = 0; i < KS_COUNT(families); i++) {
        ks_model *m = golden(families[i], ".gguf");
        if (strcmp(families[i], "qwen2") == 0) { /* llama.cpp keeps no window */
            cr_expect(eq(int, m->config.window[1], 0));
            m->config.window[1] = 6;
        }
        same_config(families[i], &m->config, m);
        cr_expect(eq(int, m->n_ignored, 0), "%s", families[i]);
        cr_expect(strstr(m->name, "Golden ") == m->name);
        ks_model_close(&m);
    }
}

Test(config, older_spelling_equals_transformers) {
    static const char *const names[] = {
        "old-llama3",      "old-linear",    "old-yarn",
        "old-gemma3",      "old-olmo3",     "old-windows",
        "old-rope-llama3", "old-rope-yarn", "old-rope-yarn-options"};
    for (size_t i = 0; i < KS_COUNT(names); i++) {
        char path[256];
        ks_config c;
        ks_err err = {0};
        bool tied_given;
        snprintf(path, sizeof path, DATA "%s.json", names[i]);
        cr_assert(eq(int, ks_config_from_json(&c, path, &tied_given, &err), 0),
                  "%s", err.text);
        cr_expect(not(tied_given));
        same_config(names[i], &c, NULL);
    }
}

Test(config, switches) {
    static const struct {
        const char *family;
        bool pre, post, bias, o_bias, interleaved_gguf;
        ks_qk_norm qk;
        ks_act act;
        float norm_bias, embed_scale;
    } want[] = {
        {"llama", 1, 0, 1, 1, 1, KS_QK_NONE, KS_SILU, 0, 1},
        {"mistral", 1, 0, 0, 0, 1, KS_QK_NONE, KS_SILU, 0, 1},
        {"qwen2", 1, 0, 1, 0, 0, KS_QK_NONE, KS_SILU, 0, 1},
        {"qwen3", 1, 0, 0, 0, 0, KS_QK_HEAD, KS_SILU, 0, 1},
        {"olmo2", 0, 1, 0, 0, 0, KS_QK_FULL, KS_SILU, 0, 1},
        {"olmo3", 0, 1, 0, 0, 0, KS_QK_FULL, KS_SILU, 0, 1},
        {"gemma3", 1, 1, 0, 0, 0, KS_QK_HEAD, KS_GELU_TANH, 1, 2.8284271f},
    };
    for (size_t i = 0; i < KS_COUNT(want); i++)
        for (int gguf = 0; gguf < 2; gguf++) {
            ks_model *m = golden(want[i].family, gguf ? ".gguf" : "");
            const ks_config *c = &m->config;
            const ks_layer *l = &m->weights.layers[0];
            cr_expect(c->pre_norm == want[i].pre &&
                          c->post_norm == want[i].post &&
                          c->act == want[i].act && c->qk_norm == want[i].qk,
                      "%s", want[i].family);
            cr_expect(eq(int, c->qkv_bias, want[i].bias));
            cr_expect(eq(int, c->o_bias, want[i].o_bias));
            cr_expect(
                eq(int, c->rope_interleaved, gguf &&want[i].interleaved_gguf));
            cr_expect(eq(flt, c->norm_bias, gguf ? 0 : want[i].norm_bias));
            cr_expect(eq(flt, c->embed_scale, want[i].embed_scale));
            bool pre = l->attn_norm && l->mlp_norm;
            bool post = l->attn_post_norm && l->mlp_post_norm;
            bool qk = l->q_norm && l->k_norm, bias = l->bq && l->bk && l->bv;
            cr_expect(eq(int, pre, want[i].pre));
            cr_expect(eq(int, post, want[i].post));
            cr_expect(eq(int, qk, want[i].qk != KS_QK_NONE));
            cr_expect(eq(int, bias, want[i].bias));
            cr_expect(eq(int, l->bo != NULL, want[i].o_bias));
            ks_model_close(&m);
        }
}

/* ----------------------------------------------------------------- weights */

static float *expand(ks_weight w) {
    float *out = malloc((size_t)(w.rows * w.cols) * sizeof *out);
    for (int64_t r = 0; r < w.rows; r++) {
        const char *row = (const char *)w.data +
                          (size_t)r * ks_type_row_bytes(w.type, w.cols);
        ks_dequantize(w.type, row, out + r * w.cols, w.cols);
    }
    return out;
}

/* Row of Hugging Face's layout that llama.cpp's converter puts at row r. */
static int64_t unpermuted(int64_t r, int64_t head_dim) {
    int64_t in = r % head_dim;
    return r - in + in / 2 + in % 2 * (head_dim / 2);
}

/* a: Hugging Face's, b: GGUF's, its rows permuted when head_dim is not 0;
 * f16 of bf16 differs where it underflows. */
static void same_matrix(const char *what, ks_weight a, ks_weight b,
                        int64_t head_dim) {
    cr_assert(a.rows == b.rows && a.cols == b.cols && a.stride == a.cols &&
                  b.stride == b.cols,
              "%s", what);
    float *x = expand(a), *y = expand(b);
    for (int64_t r = 0; r < a.rows; r++) {
        int64_t from = head_dim ? unpermuted(r, head_dim) : r;
        for (int64_t c = 0; c < a.cols; c++)
            cr_assert(fabsf(y[r * a.cols + c] - x[from * a.cols + c]) <= 1e-7f,
                      "%s row %ld", what, (long)r);
    }
    free(x);
    free(y);
}

static void same_vector(const char *what, const float *a, const float *b,
                        int64_t n, int64_t head_dim) {
    cr_assert(eq(int, a != NULL, b != NULL), "%s", what);
    for (int64_t i = 0; a && i < n; i++)
        cr_assert(eq(flt, b[i], a[head_dim ? unpermuted(i, head_dim) : i]),
                  "%s", what);
}

static void same_layer(const ks_config *c, const ks_layer *a, const ks_layer *b,
                       int64_t permuted) {
    int64_t q = (int64_t)c->n_heads * c->head_dim, d = c->d_model;
    int64_t kv = (int64_t)c->n_kv_heads * c->head_dim;
    bool full = c->qk_norm == KS_QK_FULL;
    same_vector("attn_norm", a->attn_norm, b->attn_norm, d, 0);
    same_vector("mlp_norm", a->mlp_norm, b->mlp_norm, d, 0);
    same_vector("attn_post", a->attn_post_norm, b->attn_post_norm, d, 0);
    same_vector("mlp_post", a->mlp_post_norm, b->mlp_post_norm, d, 0);
    same_vector("q_norm", a->q_norm, b->q_norm, full ? q : c->head_dim, 0);
    same_vector("k_norm", a->k_norm, b->k_norm, full ? kv : c->head_dim, 0);
    same_vector("bq", a->bq, b->bq, q, permuted);
    same_vector("bk", a->bk, b->bk, kv, permuted);
    same_vector("bv", a->bv, b->bv, kv, 0);
    same_vector("bo", a->bo, b->bo, d, 0);
    same_matrix("wq", a->wq, b->wq, permuted);
    same_matrix("wk", a->wk, b->wk, permuted);
    same_matrix("wv", a->wv, b->wv, 0);
    same_matrix("wo", a->wo, b->wo, 0);
    same_matrix("w_gate", a->w_gate, b->w_gate, 0);
    same_matrix("w_up", a->w_up, b->w_up, 0);
    same_matrix("w_down", a->w_down, b->w_down, 0);
}

/* Every slot has the same numbers from both formats (made of one model by two
 * packages), so no two slots are swapped and none is skipped. */
Test(weights, both_formats_agree) {
    for (size_t i = 0; i < KS_COUNT(families); i++) {
        ks_model *a = golden(families[i], "");
        ks_model *b = golden(families[i], ".gguf");
        const ks_weights *v = &a->weights, *w = &b->weights;
        int64_t permuted = b->config.rope_interleaved ? b->config.head_dim : 0;
        same_matrix("embed", v->embed, w->embed, 0);
        same_matrix("head", v->head, w->head, 0);
        cr_expect(eq(int, v->head.data == v->embed.data, a->config.tied));
        same_vector("final_norm", v->final_norm, w->final_norm,
                    a->config.d_model, 0);
        for (int32_t l = 0; l < a->config.n_layers; l++)
            same_layer(&a->config, &v->layers[l], &w->layers[l], permuted);
        ks_model_close(&a);
        ks_model_close(&b);
    }
}

Test(weights, shards_are_one_model) {
    ks_model *a = golden("mistral", ""), *b = golden("sharded", "");
    ks_model *c = golden("sharded", "/model.safetensors.index.json");
    ks_model *d = golden("mistral", "/model.safetensors");
    ks_err err;
    cr_expect(eq(sz, b->n_files, 4));
    cr_expect(eq(int, a->n_tensors, b->n_tensors));
    same_layer(&a->config, &a->weights.layers[1], &b->weights.layers[1], 0);
    cr_assert(eq(int, ks_model_hash(a, &err), 0));
    cr_assert(eq(int, ks_model_hash(b, &err), 0));
    cr_assert(eq(int, ks_model_hash(c, &err), 0));
    cr_assert(eq(int, ks_model_hash(d, &err), 0));
    cr_expect(eq(str, b->sha256, c->sha256));
    cr_expect(eq(str, a->sha256, d->sha256));
    cr_expect(strcmp(a->sha256, b->sha256) != 0);
    cr_expect(eq(str, d->name, "mistral"));
    /* the hash is of the files' bytes in order */
    ks_str all = {0};
    for (int i = 1; i <= 4; i++) {
        char path[256], *text;
        size_t n;
        snprintf(path, sizeof path,
                 DATA "sharded/model-%05d-of-00004.safetensors", i);
        cr_assert(eq(int, ks_read_file(path, SIZE_MAX, &text, &n, &err), 0));
        ks_str_add(&all, text, n, &err);
        free(text);
    }
    char hex[65];
    ks_sha256_of(all.data, all.length, hex);
    cr_expect(eq(str, b->sha256, hex));
    ks_str_free(&all);
    ks_model_close(&a);
    ks_model_close(&b);
    ks_model_close(&c);
    ks_model_close(&d);
}

/* --------------------------------------------------------------- randomize */

Test(randomize, draws_the_initialisation) {
    ks_model *a = golden("llama", ""), *b = golden("llama", ".gguf");
    ks_model *c = golden("llama", "");
    ks_err err;
    cr_assert(eq(int, ks_model_hash(c, &err), 0));
    char before[65];
    strcpy(before, c->sha256);
    cr_assert(eq(int, ks_model_randomize(a, 7, &err), 0));
    cr_assert(eq(int, ks_model_randomize(b, 7, &err), 0));
    cr_assert(eq(int, ks_model_randomize(c, 8, &err), 0));
    /* shapes and the seed decide, not the file; another seed differs */
    const ks_layer *l = &a->weights.layers[0];
    same_layer(&a->config, l, &b->weights.layers[0], 0);
    same_matrix("head", a->weights.head, b->weights.head, 0);
    const float *x = l->w_up.data, *y = c->weights.layers[0].w_up.data;
    const float *z = l->w_gate.data;
    cr_expect(x[0] != y[0] && x[0] != z[0]);
    cr_expect(eq(int, l->w_up.type, KS_F32));
    for (int i = 0; i < a->config.d_model; i++)
        cr_expect(l->attn_norm[i] == 1 && a->weights.final_norm[i] == 1 &&
                  l->bo[i] == 0);
    cr_expect(eq(str, a->sha256, ""));
    cr_expect(eq(sz, strlen(c->sha256), 64)); /* was known, so it still is */
    cr_assert(eq(int, ks_model_hash(a, &err), 0));
    cr_expect(strcmp(a->sha256, c->sha256) != 0);
    cr_expect(strcmp(c->sha256, before) != 0);
    cr_assert(eq(int, ks_model_randomize(c, 7, &err), 0));
    cr_expect(eq(str, a->sha256, c->sha256));
    ks_model_close(&a);
    ks_model_close(&b);
    ks_model_close(&c);
}

/* Mean, variance and fourth moment of normals, over all matrices. */
Test(randomize, moments) {
    double sum = 0, squares = 0, fourths = 0, n = 0;
    for (uint64_t seed = 0; seed < 300; seed++) {
        ks_model *m = golden("gemma3", "");
        ks_err err;
        cr_assert(eq(int, ks_model_randomize(m, seed, &err), 0));
        cr_expect(m->weights.head.data == m->weights.embed.data);
        ks_weight w = m->weights.layers[1].w_down;
        const float *x = w.data;
        for (int64_t i = 0; i < w.rows * w.cols; i++) {
            double z = (double)x[i] / 0.02;
            sum += z, squares += z * z, fourths += z * z * z * z, n++;
        }
        ks_model_close(&m);
    }
    double wide = 5 / sqrt(n);
    cr_expect(epsilon_eq(dbl, sum / n, 0, wide));
    cr_expect(epsilon_eq(dbl, squares / n, 1, wide * sqrt(2)));
    cr_expect(epsilon_eq(dbl, fourths / n, 3, wide * sqrt(96)));
}

/* -------------------------------------------------------------- real model */

Test(weights, smollm2_opens) {
    const char *path = getenv("KS_SMOLLM2");
    if (!path || !ks_file_exists(path))
        cr_skip_test("KS_SMOLLM2 names no file");
    ks_model *m = open_model(path);
    const ks_config *c = &m->config;
    cr_expect(c->n_layers == 30 && c->d_model == 576 && c->n_heads == 9 &&
              c->n_kv_heads == 3 && c->head_dim == 64 && c->d_ff == 1536 &&
              c->n_vocab == 49152 && c->n_context == 8192);
    cr_expect(c->tied && c->rope_interleaved && c->pre_norm && !c->qkv_bias);
    cr_expect(eq(int, m->weights.layers[29].wq.type, KS_Q4_1));
    cr_expect(eq(int, m->n_ignored, 0));
    ks_model_close(&m);
}
