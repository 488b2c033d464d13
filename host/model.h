/* model.h - the map of the system on one screen: Config, Weights, and Model
 * holding both. Change it first, then code. Architectures differ by switches
 * in ks_config, never by a second forward pass: forward.c asks what a feature
 * is, not what a model is called.
 *
 * L layers, d = d_model, H = n_heads, G = n_kv_heads, D = head_dim, F = d_ff,
 * V = n_vocab. Every pointer carries its shape.
 */
#ifndef KS_MODEL_H
#define KS_MODEL_H

#include "ops.h"

enum { KS_MAX_LAYERS = 256 };

typedef enum ks_qk_norm {
    KS_QK_NONE,
    KS_QK_HEAD, /* Qwen3, Gemma 3: RMSNorm over each head, w [D] */
    KS_QK_FULL  /* OLMo 2/3: RMSNorm over all heads, w [H D] and [G D] */
} ks_qk_norm;

typedef enum ks_rope_kind {
    KS_ROPE_NONE,
    KS_ROPE_LINEAR,
    KS_ROPE_LLAMA3,
    KS_ROPE_YARN,
    KS_ROPE_FACTORS /* GGUF's rope_freqs.weight */
} ks_rope_kind;

typedef struct ks_rope_config {
    float theta;
    ks_rope_kind kind;
    float factor, low_freq_factor, high_freq_factor;
    float beta_fast, beta_slow, attention_factor; /* YaRN */
    bool truncate;                                /* YaRN: whole dimensions */
    int32_t original_context;
} ks_rope_config;

typedef struct ks_config {
    char arch[32]; /* for messages only */
    int32_t n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff, n_vocab;
    int32_t n_context;
    float norm_eps;
    ks_rope_config rope;       /* global layers */
    ks_rope_config rope_local; /* layers with local[l] (Gemma 3) */
    bool rope_interleaved;     /* GGUF's permuted Llama q and k */
    ks_act act;
    ks_qk_norm qk_norm;
    bool pre_norm;     /* norm ahead of attention and MLP (all but OLMo 2/3) */
    bool post_norm;    /* norm of what the block adds (OLMo 2/3, Gemma 3) */
    float norm_bias;   /* added to every norm weight: 1 for Gemma, else 0 */
    float embed_scale; /* 1, or sqrt(d) for Gemma */
    float attn_scale;  /* of q.k */
    float attn_softcap, final_softcap; /* 0: none */
    bool tied;                         /* output = embedding */
    bool qkv_bias, o_bias;
    float init_std; /* of the matrices before training, for randomize */
    int32_t window[KS_MAX_LAYERS];     /* 0: full attention */
    bool local[KS_MAX_LAYERS];         /* uses rope_local */
    int32_t n_experts, n_experts_used; /* 0: dense */
} ks_config;

/* A weight as it lies in the mapped file (or in a buffer the model owns). */
typedef ks_view ks_weight;

typedef struct ks_layer {
    float *attn_norm;       /* [d] f32, norm_bias added; NULL: none */
    ks_weight wq, wk, wv;   /* [H D, d] [G D, d] [G D, d] */
    float *bq, *bk, *bv;    /* [H D] [G D] [G D] f32, or NULL */
    float *q_norm, *k_norm; /* [D] or [H D], [G D]; or NULL */
    float *sinks;           /* [H], or NULL */
    ks_weight wo;           /* [d, H D] */
    float *bo;              /* [d], or NULL */
    float *attn_post_norm;  /* [d], or NULL */
    float *mlp_norm;        /* [d], or NULL */
    ks_weight w_gate, w_up; /* [F, d] */
    ks_weight w_down;       /* [d, F] */
    float *mlp_post_norm;   /* [d], or NULL */
} ks_layer;

typedef struct ks_weights {
    ks_weight embed;                    /* [V, d] */
    ks_layer *layers;                   /* [L] */
    float *final_norm;                  /* [d] */
    ks_weight head;                     /* [V, d]; == embed when tied */
    float *inv_freq;                    /* [D / 2] of rope, scalings applied */
    float *inv_freq_local;              /* [D / 2] of rope_local, or NULL */
    float rope_scale, rope_scale_local; /* of cos and sin (YaRN) */
} ks_weights;

/* Where the bytes lie. Weight files are mapped; small tensors (norms, biases)
 * are expanded to f32 in memory the model owns. */
typedef struct ks_model {
    ks_config config;
    ks_weights weights;
    char name[128];
    char sha256[65];       /* filled by ks_model_hash, empty before */
    char files_sha256[65]; /* the same but for ks_model_randomize */
    ks_map *files;
    size_t n_files;
    void **owned;
    size_t n_owned;
    int32_t n_tensors, n_ignored; /* in the files; of them not used */
    bool randomized;              /* by ks_model_randomize, with seed */
    uint64_t seed;
} ks_model;

/* Reads config, maps files, checks every tensor's name, shape, type and range
 * once, binds it. The error says what was expected and found. */
ks_status ks_model_open(ks_model **out, const char *path, ks_err *err);
void ks_model_close(ks_model **model);
/* SHA-256 of the weight files' content, in order, into model->sha256; reads
 * every byte once, so open leaves it to the first call (later ones are free).
 * Not thread-safe on one model. */
ks_status ks_model_hash(ks_model *model, ks_err *err);
/* Zeroed memory that ks_model_close frees. */
ks_status ks_model_own(ks_model *model, void *out, size_t n, size_t size,
                       const char *what, ks_err *err);
/* Same shapes, weights drawn anew by the model's own initialisation (the
 * random-weights control): matrices N(0, init_std^2) in f32 that the model
 * owns, norms 1, biases and sinks 0. Philox with key (seed, number of the
 * tensor) and the element's place as counter: the same on any number of
 * threads. Its hash is of the files' hash and the seed; the files stay mapped
 * for that. */
ks_status ks_model_randomize(ks_model *model, uint64_t seed, ks_err *err);

#endif
