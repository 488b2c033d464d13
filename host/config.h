/* config.h - from what a model file says about itself to ks_config. */
#ifndef KS_CONFIG_H
#define KS_CONFIG_H

#include "gguf.h"
#include "model.h"

/* What the name of an architecture says without being written in its file. */
typedef struct ks_family {
    const char *json, *gguf; /* model_type, general.architecture; or NULL */
    bool pre_norm, post_norm;
    ks_qk_norm qk_norm;
    bool qkv_bias;      /* always, whatever the file says (Qwen2) */
    bool gguf_permuted; /* llama.cpp's converter permutes q and k */
    bool gemma;         /* embed scale, norm weights + 1, tied, GELU */
    enum {
        KS_WINDOW_NONE,
        KS_WINDOW_ALL,   /* Mistral: every layer */
        KS_WINDOW_QWEN,  /* use_sliding_window, from max_window_layers on */
        KS_WINDOW_PERIOD /* every `period`th layer is full, the others have
                          * their own unscaled rope */
    } windows;
    int32_t period, default_window;
    double theta, local_theta; /* defaults */
} ks_family;

const ks_family *ks_family_by_json(const char *model_type);
const ks_family *ks_family_by_gguf(const char *architecture);
/* Sets the switches that the family decides and the derived numbers' defaults
 * (attn_scale from head_dim, embed_scale from d_model). */
void ks_family_apply(const ks_family *family, ks_config *config);

/* path: Hugging Face's config.json, as transformers 4 or 5 writes it (a
 * multimodal one: its text_config). A key that would change the numbers in a
 * way we do not compute is KS_UNSUPPORTED; missing ones get transformers'
 * defaults. tied_given (may be NULL): the file says whether it is tied. */
ks_status ks_config_from_json(ks_config *config, const char *path,
                              bool *tied_given, ks_err *err);

/* GGUF metadata of llama.cpp's architectures, and what only tensors tell:
 * tied (no output.weight), biases, rope_freqs.weight. */
ks_status ks_config_from_gguf(ks_config *config, const ks_gguf *gguf,
                              ks_err *err);

/* Every limit that later code relies on; `where` leads the sentence. */
ks_status ks_config_check(const ks_config *config, const char *where,
                          ks_err *err);

/* inv_freq [head_dim / 2] with the scaling applied, and what multiplies cos
 * and sin, as transformers computes them (modeling_rope_utils.py, in f32).
 * factors: [head_dim / 2] of KS_ROPE_FACTORS, else NULL. */
void ks_rope_frequencies(const ks_rope_config *rope, int32_t head_dim,
                         const float *factors, float *inv_freq, float *scale);

#endif
