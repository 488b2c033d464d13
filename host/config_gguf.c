/* config_gguf.c - GGUF metadata of llama.cpp's architectures. Keys and their
 * defaults: llama.cpp's src/llama-model.cpp and the `gguf` package's
 * constants.py. */
#include "config.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* A reader of the keys "<architecture>.<name>". */
typedef struct keys {
    const ks_gguf *gguf;
    const char *path, *arch;
} keys;

static const char *key_of(const keys *k, const char *name, char key[128]) {
    snprintf(key, 128, "%s.%s", k->arch, name);
    return key;
}

/* fallback -1: there is no default, the key has to be there. */
static ks_status get_int(const keys *k, const char *name, int32_t fallback,
                         int32_t *out, ks_err *err) {
    char key[128];
    int64_t value;
    bool found;
    ks_status st =
        ks_gguf_int(k->gguf, key_of(k, name, key), &value, &found, err);
    if (st != KS_OK) return st;
    if (!found && fallback < 0)
        return ks_fail(err, KS_FORMAT, "%s: metadata '%s' is missing", k->path,
                       key);
    if (found && (value < 0 || value > INT32_MAX))
        return ks_fail(err, KS_FORMAT,
                       "%s: metadata '%s' is %" PRId64 ", expected 0 to %d",
                       k->path, key, value, INT32_MAX);
    *out = found ? (int32_t)value : fallback;
    return KS_OK;
}

static ks_status get_float(const keys *k, const char *name, double fallback,
                           float *out, ks_err *err) {
    char key[128];
    double value;
    bool found;
    ks_status st =
        ks_gguf_float(k->gguf, key_of(k, name, key), &value, &found, err);
    if (st != KS_OK) return st;
    if (found && !isfinite((float)value))
        return ks_fail(err, KS_FORMAT, "%s: metadata '%s' is no finite number",
                       k->path, key);
    *out = (float)(found ? value : fallback);
    return KS_OK;
}

static bool has_tensor(const keys *k, const char *name) {
    return ks_gguf_tensor_find(k->gguf, name) != NULL;
}

/* -------------------------------------------------------------------- rope */

static ks_status read_scaling_type(const keys *k, ks_rope_config *r,
                                   ks_err *err) {
    char key[128];
    const char *s = NULL;
    size_t n = 0;
    bool found;
    ks_status st = ks_gguf_string(k->gguf, key_of(k, "rope.scaling.type", key),
                                  &s, &n, &found, err);
    if (st != KS_OK || !found) return st;
    if (n == 4 && memcmp(s, "none", 4) == 0) return KS_OK;
    if (n == 6 && memcmp(s, "linear", 6) == 0)
        r->kind = KS_ROPE_LINEAR;
    else if (n == 4 && memcmp(s, "yarn", 4) == 0)
        r->kind = KS_ROPE_YARN;
    else
        return ks_fail(err, KS_UNSUPPORTED,
                       "%s: metadata '%s' is '%.*s', which is not supported; "
                       "none, linear and yarn are",
                       k->path, key, (int)KS_MIN(n, 40), s);
    return KS_OK;
}

static ks_status read_rope(const keys *k, const ks_family *family, ks_config *c,
                           ks_err *err) {
    ks_status st = KS_OK;
    ks_rope_config *r = &c->rope;
    float attention;
    int32_t dims;
    KS_TRY(get_int(k, "rope.dimension_count", c->head_dim, &dims, err));
    KS_CHECK(dims == c->head_dim, KS_UNSUPPORTED,
             "%s: rotates %d of a head's %d dimensions, which is not "
             "supported",
             k->path, dims, c->head_dim);
    KS_TRY(get_float(k, "rope.freq_base", family->gemma ? 1e6 : 1e4, &r->theta,
                     err));
    KS_TRY(read_scaling_type(k, r, err));
    KS_TRY(get_float(k, "rope.scaling.factor", 1, &r->factor, err));
    KS_TRY(get_int(k, "rope.scaling.original_context_length", c->n_context,
                   &r->original_context, err));
    KS_TRY(get_float(k, "rope.scaling.yarn_beta_fast", 32, &r->beta_fast, err));
    KS_TRY(get_float(k, "rope.scaling.yarn_beta_slow", 1, &r->beta_slow, err));
    KS_TRY(get_float(k, "rope.scaling.attn_factor", 1, &attention, err));
    r->truncate = true;
    /* llama.cpp multiplies YaRN's own factor by the file's. */
    if (r->kind == KS_ROPE_YARN && r->factor > 0)
        r->attention_factor =
            attention * (float)(0.1 * log(fmax((double)r->factor, 1)) + 1);
    if (has_tensor(k, "rope_freqs.weight")) {
        KS_CHECK(r->kind == KS_ROPE_NONE, KS_UNSUPPORTED,
                 "%s: has both 'rope_freqs.weight' and a rope scaling, which "
                 "is not supported",
                 k->path);
        r->kind = KS_ROPE_FACTORS;
    }
    c->rope_local.theta = r->theta;
    if (family->gemma)
        KS_TRY(get_float(k, "rope.freq_base_swa", family->local_theta,
                         &c->rope_local.theta, err));
done:
    return st;
}

/* ----------------------------------------------------------------- windows */

/* The period, or with an array of flags each layer's own say. */
static ks_status read_pattern(const keys *k, const ks_family *family,
                              const ks_config *c, bool slides[KS_MAX_LAYERS],
                              ks_err *err) {
    ks_status st = KS_OK;
    char key[128];
    ks_gguf_array flags;
    uint64_t n;
    bool found;
    int64_t period = family->period, flag;
    key_of(k, "attention.sliding_window_pattern", key);
    st = ks_gguf_array_open(k->gguf, key, &flags, &n, &found, NULL);
    if (st == KS_OK && found) {
        KS_CHECK(n == (uint64_t)c->n_layers, KS_FORMAT,
                 "%s: metadata '%s' has %" PRIu64 " flags, expected %d",
                 k->path, key, n, c->n_layers);
        for (int32_t l = 0; l < c->n_layers; l++) {
            KS_TRY(ks_gguf_next_int(&flags, &flag, err));
            slides[l] = flag != 0;
        }
        goto done;
    }
    KS_TRY(ks_gguf_int(k->gguf, key, &period, &found, err));
    KS_CHECK(period >= 1, KS_FORMAT,
             "%s: metadata '%s' is %" PRId64 ", expected 1 or more", k->path,
             key, period);
    for (int32_t l = 0; l < c->n_layers; l++) slides[l] = (l + 1) % period;
done:
    return st;
}

static ks_status read_windows(const keys *k, const ks_family *family,
                              ks_config *c, ks_err *err) {
    ks_status st = KS_OK;
    bool slides[KS_MAX_LAYERS] = {false};
    int32_t window;
    KS_TRY(get_int(k, "attention.sliding_window", 0, &window, err));
    /* llama.cpp reads no window for Qwen; Mistral's is in every layer. */
    if (window == 0 || family->windows == KS_WINDOW_QWEN) goto done;
    for (int32_t l = 0; l < c->n_layers; l++) slides[l] = true;
    if (family->windows == KS_WINDOW_PERIOD)
        KS_TRY(read_pattern(k, family, c, slides, err));
    for (int32_t l = 0; l < c->n_layers; l++) {
        c->window[l] = slides[l] ? window : 0;
        c->local[l] = slides[l] && family->windows == KS_WINDOW_PERIOD;
    }
done:
    return st;
}

/* ------------------------------------------------------------------- whole */

/* The vocabulary's size: said, counted, or the embedding's rows. */
static ks_status read_vocab(const keys *k, ks_config *c, ks_err *err) {
    ks_status st = KS_OK;
    ks_gguf_array tokens;
    uint64_t n;
    bool found;
    const ks_gguf_tensor *embed =
        ks_gguf_tensor_find(k->gguf, "token_embd.weight");
    int64_t rows = embed && embed->n_dims == 2 ? embed->dims[1] : 0;
    KS_TRY(ks_gguf_array_open(k->gguf, "tokenizer.ggml.tokens", &tokens, &n,
                              &found, err));
    if (found) rows = n <= INT32_MAX ? (int64_t)n : INT32_MAX;
    KS_TRY(get_int(k, "vocab_size", (int32_t)KS_MIN(rows, INT32_MAX),
                   &c->n_vocab, err));
done:
    return st;
}

static ks_status read_sizes(const keys *k, ks_config *c, ks_err *err) {
    ks_status st = KS_OK;
    int32_t value_length;
    KS_TRY(get_int(k, "block_count", -1, &c->n_layers, err));
    KS_CHECK(c->n_layers >= 1 && c->n_layers <= KS_MAX_LAYERS, KS_LIMIT,
             "%s: metadata '%s.block_count' is %d, expected 1 to %d", k->path,
             k->arch, c->n_layers, KS_MAX_LAYERS);
    KS_TRY(get_int(k, "expert_count", 0, &c->n_experts, err));
    KS_TRY(get_int(k, "embedding_length", -1, &c->d_model, err));
    KS_TRY(get_int(k, "feed_forward_length", -1, &c->d_ff, err));
    KS_TRY(get_int(k, "attention.head_count", -1, &c->n_heads, err));
    KS_CHECK(c->n_heads > 0, KS_FORMAT,
             "%s: metadata '%s.attention.head_count' is 0", k->path, k->arch);
    KS_TRY(
        get_int(k, "attention.head_count_kv", c->n_heads, &c->n_kv_heads, err));
    KS_TRY(get_int(k, "attention.key_length", c->d_model / c->n_heads,
                   &c->head_dim, err));
    KS_TRY(
        get_int(k, "attention.value_length", c->head_dim, &value_length, err));
    KS_CHECK(value_length == c->head_dim, KS_UNSUPPORTED,
             "%s: keys of %d and values of %d a head, which is not supported",
             k->path, c->head_dim, value_length);
    KS_TRY(get_int(k, "context_length", -1, &c->n_context, err));
    KS_TRY(
        get_float(k, "attention.layer_norm_rms_epsilon", 0, &c->norm_eps, err));
    KS_TRY(read_vocab(k, c, err));
    c->init_std = 0.02f;
done:
    return st;
}

static ks_status read_switches(const keys *k, const ks_family *family,
                               ks_config *c, ks_err *err) {
    ks_status st = KS_OK;
    int32_t causal;
    float scale;
    ks_family_apply(family, c);
    c->rope_interleaved = family->gguf_permuted;
    c->norm_bias = 0; /* the converter adds it */
    c->tied = !has_tensor(k, "output.weight");
    c->qkv_bias = c->qkv_bias || has_tensor(k, "blk.0.attn_q.bias");
    c->o_bias = has_tensor(k, "blk.0.attn_output.bias");
    KS_CHECK(!has_tensor(k, "blk.0.ffn_up.bias") &&
                 !has_tensor(k, "blk.0.ffn_down.bias"),
             KS_UNSUPPORTED, "%s: biases in the MLP are not supported",
             k->path);
    KS_TRY(get_int(k, "attention.causal", 1, &causal, err));
    KS_CHECK(causal, KS_UNSUPPORTED,
             "%s: attention that is not causal is not supported", k->path);
    KS_TRY(get_float(k, "attn_logit_softcapping", 0, &c->attn_softcap, err));
    KS_TRY(get_float(k, "final_logit_softcapping", 0, &c->final_softcap, err));
    /* Gemma 3 27B alone (62 layers) scales by d / H instead of D, and its
     * file does not say so: llama.cpp knows it by the number of layers. */
    scale = c->attn_scale;
    if (family->gemma && c->n_layers == 62)
        scale = (float)pow((double)c->d_model / c->n_heads, -0.5);
    KS_TRY(get_float(k, "attention.scale", (double)scale, &c->attn_scale, err));
done:
    return st;
}

ks_status ks_config_from_gguf(ks_config *c, const ks_gguf *gguf, ks_err *err) {
    ks_status st = KS_OK;
    const char *path = ks_gguf_path(gguf), *s;
    size_t n;
    bool found;
    *c = (ks_config){0};
    KS_TRY(ks_gguf_string(gguf, "general.architecture", &s, &n, &found, err));
    KS_CHECK(found, KS_FORMAT, "%s: metadata 'general.architecture' is missing",
             path);
    snprintf(c->arch, sizeof c->arch, "%.*s", (int)KS_MIN(n, 31), s);
    const ks_family *family = n < 32 ? ks_family_by_gguf(c->arch) : NULL;
    KS_CHECK(family, KS_UNSUPPORTED,
             "%s: the architecture '%s' is not supported; llama, qwen2, "
             "qwen3, olmo2 and gemma3 are",
             path, c->arch);
    keys k = {.gguf = gguf, .path = path, .arch = c->arch};
    KS_TRY(read_sizes(&k, c, err));
    KS_TRY(read_switches(&k, family, c, err));
    KS_TRY(read_rope(&k, family, c, err));
    KS_TRY(read_windows(&k, family, c, err));
    KS_TRY(ks_config_check(c, path, err));
done:
    return st;
}
