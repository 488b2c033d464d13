/* config.c - the architectures as rows of switches, and the limits that every
 * config is held to before anything is sized from it. */
#include "config.h"

#include <math.h>
#include <string.h>

/* Which switch stands for which paper or release is in docs of transformers:
 * models/<name>/configuration_<name>.py has the defaults used here. */
static const ks_family families[] = {
    {.json = "llama",
     .gguf = "llama",
     .pre_norm = true,
     .gguf_permuted = true,
     .windows = KS_WINDOW_NONE,
     .theta = 1e4},
    {.json = "mistral",
     .pre_norm = true,
     .windows = KS_WINDOW_ALL,
     .default_window = 4096,
     .theta = 1e4},
    {.json = "qwen2",
     .gguf = "qwen2",
     .pre_norm = true,
     .qkv_bias = true,
     .windows = KS_WINDOW_QWEN,
     .default_window = 4096,
     .theta = 1e4},
    {.json = "qwen3",
     .gguf = "qwen3",
     .pre_norm = true,
     .qk_norm = KS_QK_HEAD,
     .windows = KS_WINDOW_QWEN,
     .default_window = 4096,
     .theta = 1e4},
    {.json = "olmo2",
     .gguf = NULL,
     .post_norm = true,
     .qk_norm = KS_QK_FULL,
     .windows = KS_WINDOW_NONE,
     .theta = 1e4},
    /* llama.cpp calls both OLMo 2 and 3 olmo2; a window marks the latter. */
    {.json = "olmo3",
     .gguf = "olmo2",
     .post_norm = true,
     .qk_norm = KS_QK_FULL,
     .windows = KS_WINDOW_PERIOD,
     .period = 4,
     .default_window = 4096,
     .theta = 5e5,
     .local_theta = 5e5},
    {.json = "gemma3_text",
     .gguf = "gemma3",
     .pre_norm = true,
     .post_norm = true,
     .qk_norm = KS_QK_HEAD,
     .gemma = true,
     .windows = KS_WINDOW_PERIOD,
     .period = 6,
     .default_window = 4096,
     .theta = 1e6,
     .local_theta = 1e4},
};

const ks_family *ks_family_by_json(const char *model_type) {
    for (size_t i = 0; i < KS_COUNT(families); i++)
        if (strcmp(families[i].json, model_type) == 0) return &families[i];
    return NULL;
}

const ks_family *ks_family_by_gguf(const char *architecture) {
    for (size_t i = 0; i < KS_COUNT(families); i++)
        if (families[i].gguf && strcmp(families[i].gguf, architecture) == 0)
            return &families[i];
    return NULL;
}

void ks_family_apply(const ks_family *family, ks_config *c) {
    c->pre_norm = family->pre_norm;
    c->post_norm = family->post_norm;
    c->qk_norm = family->qk_norm;
    c->qkv_bias = c->qkv_bias || family->qkv_bias;
    c->norm_bias = family->gemma ? 1 : 0;
    c->embed_scale = family->gemma ? (float)sqrt(c->d_model) : 1;
    c->act = family->gemma ? KS_GELU_TANH : KS_SILU;
    c->tied = family->gemma;
    c->attn_scale = c->head_dim > 0 ? (float)pow(c->head_dim, -0.5) : 0;
}

static bool positive(float x) {
    return isfinite(x) && x > 0;
}

static ks_status check_rope(const ks_rope_config *r, const char *where,
                            ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(positive(r->theta) && r->theta > 1, KS_FORMAT,
             "%s: rope theta is %g, expected more than 1", where,
             (double)r->theta);
    if (r->kind == KS_ROPE_NONE || r->kind == KS_ROPE_FACTORS) goto done;
    KS_CHECK(positive(r->factor), KS_FORMAT,
             "%s: rope scaling factor is %g, expected a positive number", where,
             (double)r->factor);
    if (r->kind == KS_ROPE_LINEAR) goto done;
    KS_CHECK(r->original_context > 0, KS_FORMAT,
             "%s: rope original context is %d, expected a positive number",
             where, r->original_context);
    if (r->kind == KS_ROPE_LLAMA3)
        KS_CHECK(
            positive(r->low_freq_factor) && positive(r->high_freq_factor) &&
                r->high_freq_factor > r->low_freq_factor,
            KS_FORMAT,
            "%s: rope low_freq_factor %g and high_freq_factor %g, "
            "expected positive numbers, the second above the first",
            where, (double)r->low_freq_factor, (double)r->high_freq_factor);
    else
        KS_CHECK(positive(r->beta_fast) && positive(r->beta_slow) &&
                     positive(r->attention_factor),
                 KS_FORMAT,
                 "%s: rope beta_fast %g, beta_slow %g, attention_factor %g, "
                 "expected positive numbers",
                 where, (double)r->beta_fast, (double)r->beta_slow,
                 (double)r->attention_factor);
done:
    return st;
}

ks_status ks_config_check(const ks_config *c, const char *where, ks_err *err) {
    ks_status st = KS_OK;
    const struct {
        const char *name;
        int64_t value, low, high;
    } sizes[] = {
        {"the number of layers", c->n_layers, 1, KS_MAX_LAYERS},
        {"the hidden size", c->d_model, 1, 1 << 20},
        {"the number of heads", c->n_heads, 1, 4096},
        {"the number of key-value heads", c->n_kv_heads, 1, c->n_heads},
        {"the head size", c->head_dim, 2, 256},
        {"the MLP size", c->d_ff, 1, 1 << 24},
        {"the vocabulary size", c->n_vocab, 1, 1 << 24},
        {"the context length", c->n_context, 1, 1 << 30},
    };
    KS_CHECK(c->n_experts == 0, KS_UNSUPPORTED,
             "%s: a mixture of %d experts, which is not supported yet", where,
             c->n_experts);
    for (size_t i = 0; i < KS_COUNT(sizes); i++)
        KS_CHECK(sizes[i].value >= sizes[i].low &&
                     sizes[i].value <= sizes[i].high,
                 KS_LIMIT, "%s: %s is %lld, expected %lld to %lld", where,
                 sizes[i].name, (long long)sizes[i].value,
                 (long long)sizes[i].low, (long long)sizes[i].high);
    KS_CHECK(c->n_heads % c->n_kv_heads == 0, KS_FORMAT,
             "%s: %d heads are not a multiple of %d key-value heads", where,
             c->n_heads, c->n_kv_heads);
    KS_CHECK(c->head_dim % 2 == 0, KS_FORMAT,
             "%s: the head size is %d, expected an even number", where,
             c->head_dim);
    KS_CHECK(positive(c->norm_eps) && c->norm_eps < 1, KS_FORMAT,
             "%s: the norm's epsilon is %g, expected a number in (0, 1)", where,
             (double)c->norm_eps);
    KS_CHECK(positive(c->attn_scale) && positive(c->embed_scale), KS_FORMAT,
             "%s: attention scale %g and embedding scale %g, expected "
             "positive numbers",
             where, (double)c->attn_scale, (double)c->embed_scale);
    KS_CHECK(c->attn_softcap >= 0 && isfinite(c->attn_softcap) &&
                 c->final_softcap >= 0 && isfinite(c->final_softcap),
             KS_FORMAT, "%s: soft caps %g and %g, expected 0 or more", where,
             (double)c->attn_softcap, (double)c->final_softcap);
    KS_CHECK(isfinite(c->init_std) && c->init_std >= 0 && c->init_std <= 1,
             KS_FORMAT, "%s: initializer_range is %g, expected 0 to 1", where,
             (double)c->init_std);
    KS_TRY(check_rope(&c->rope, where, err));
    for (int32_t l = 0; l < c->n_layers; l++) {
        KS_CHECK(c->window[l] >= 0, KS_FORMAT,
                 "%s: the window of layer %d is %d, expected 0 or more", where,
                 l, c->window[l]);
        if (c->local[l]) KS_TRY(check_rope(&c->rope_local, where, err));
    }
done:
    return st;
}
