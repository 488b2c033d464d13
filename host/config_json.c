/* config_json.c - Hugging Face's config.json. Names and defaults follow
 * transformers 5's configuration_*.py; its older spelling (rope_theta and
 * rope_scaling beside each other) is read too. */
#include "config.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { MAX_CONFIG_BYTES = 16 << 20 };

/* An absent key and null are the same: "the default". */
static json_t *member(const json_t *object, const char *key) {
    json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static ks_status get_int(const json_t *o, const char *key, const char *path,
                         int32_t fallback, int32_t *out, ks_err *err) {
    json_t *v = member(o, key);
    *out = fallback;
    if (!v) return KS_OK;
    int64_t value = json_integer_value(v);
    if (!json_is_integer(v) || value < 0 || value > INT32_MAX)
        return ks_fail(err, KS_FORMAT, "%s: \"%s\" is no integer from 0 to %d",
                       path, key, INT32_MAX);
    *out = (int32_t)value;
    return KS_OK;
}

/* fallback 0: there is no default, the key has to be there. */
static ks_status need_int(const json_t *o, const char *key, const char *path,
                          int32_t fallback, int32_t *out, ks_err *err) {
    if (!fallback && !member(o, key))
        return ks_fail(err, KS_FORMAT, "%s: \"%s\" is missing", path, key);
    return get_int(o, key, path, fallback, out, err);
}

static ks_status get_float(const json_t *o, const char *key, const char *path,
                           double fallback, float *out, ks_err *err) {
    json_t *v = member(o, key);
    *out = (float)fallback;
    if (!v) return KS_OK;
    if (!json_is_number(v) || !isfinite((float)json_number_value(v)))
        return ks_fail(err, KS_FORMAT, "%s: \"%s\" is no finite number", path,
                       key);
    *out = (float)json_number_value(v);
    return KS_OK;
}

static ks_status get_bool(const json_t *o, const char *key, const char *path,
                          bool fallback, bool *out, ks_err *err) {
    json_t *v = member(o, key);
    *out = v ? json_is_true(v) : fallback;
    if (v && !json_is_boolean(v))
        return ks_fail(err, KS_FORMAT, "%s: \"%s\" is neither true nor false",
                       path, key);
    return KS_OK;
}

static ks_status get_object(json_t *o, const char *key, const char *path,
                            json_t **out, ks_err *err) {
    *out = member(o, key);
    if (*out && !json_is_object(*out))
        return ks_fail(err, KS_FORMAT, "%s: \"%s\" is no object", path, key);
    return KS_OK;
}

/* A key whose presence with `true` changes the numbers in a way we lack. */
static ks_status refuse_true(const json_t *o, const char *key, const char *path,
                             ks_err *err) {
    bool on;
    ks_status st = get_bool(o, key, path, false, &on, err);
    if (st == KS_OK && on)
        return ks_fail(err, KS_UNSUPPORTED,
                       "%s: \"%s\" is true, which is not supported", path, key);
    return st;
}

/* -------------------------------------------------------------------- rope */

static ks_status parse_llama3(json_t *o, const char *path, ks_rope_config *r,
                              ks_err *err) {
    ks_status st = KS_OK;
    r->kind = KS_ROPE_LLAMA3;
    KS_TRY(get_float(o, "low_freq_factor", path, 0, &r->low_freq_factor, err));
    KS_TRY(
        get_float(o, "high_freq_factor", path, 0, &r->high_freq_factor, err));
done:
    return st;
}

static double yarn_mscale(double factor, double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static ks_status parse_yarn(json_t *o, const char *path, int32_t context,
                            ks_rope_config *r, ks_err *err) {
    ks_status st = KS_OK;
    float mscale, all_dim;
    r->kind = KS_ROPE_YARN;
    if (r->factor == 0 && r->original_context > 0)
        r->factor = (float)context / (float)r->original_context;
    KS_TRY(get_float(o, "mscale", path, 0, &mscale, err));
    KS_TRY(get_float(o, "mscale_all_dim", path, 0, &all_dim, err));
    double factor = (double)r->factor;
    double attention = yarn_mscale(factor, 1);
    if (mscale != 0 && all_dim != 0)
        attention = yarn_mscale(factor, (double)mscale) /
                    yarn_mscale(factor, (double)all_dim);
    KS_TRY(get_float(o, "attention_factor", path, attention,
                     &r->attention_factor, err));
    KS_TRY(get_float(o, "beta_fast", path, 32, &r->beta_fast, err));
    KS_TRY(get_float(o, "beta_slow", path, 1, &r->beta_slow, err));
    if (r->beta_fast == 0) r->beta_fast = 32;
    if (r->beta_slow == 0) r->beta_slow = 1;
    KS_TRY(get_bool(o, "truncate", path, true, &r->truncate, err));
done:
    return st;
}

/* One set of rope parameters: o may be NULL (nothing but theta). */
static ks_status parse_rope(json_t *root, json_t *o, const char *path,
                            double theta, int32_t context, ks_rope_config *r,
                            ks_err *err) {
    ks_status st = KS_OK;
    float partial;
    json_t *type = member(o, "rope_type");
    if (!type) type = member(o, "type");
    KS_CHECK(!type || json_is_string(type), KS_FORMAT,
             "%s: \"rope_type\" is no string", path);
    const char *name = type ? json_string_value(type) : "default";
    *r = (ks_rope_config){0};
    KS_TRY(get_float(o, "rope_theta", path, theta, &r->theta, err));
    KS_TRY(get_float(root, "partial_rotary_factor", path, 1, &partial, err));
    KS_TRY(get_float(o, "partial_rotary_factor", path, (double)partial,
                     &partial, err));
    KS_CHECK(partial == 1, KS_UNSUPPORTED,
             "%s: \"partial_rotary_factor\" is %g, only 1 is supported", path,
             (double)partial);
    KS_TRY(get_float(o, "factor", path, 0, &r->factor, err));
    KS_TRY(get_int(o, "original_max_position_embeddings", path, context,
                   &r->original_context, err));
    KS_TRY(get_int(root, "original_max_position_embeddings", path,
                   r->original_context, &r->original_context, err));
    if (strcmp(name, "default") == 0) goto done;
    if (strcmp(name, "linear") == 0) {
        r->kind = KS_ROPE_LINEAR;
    } else if (strcmp(name, "llama3") == 0) {
        KS_TRY(parse_llama3(o, path, r, err));
    } else if (strcmp(name, "yarn") == 0) {
        KS_TRY(parse_yarn(o, path, context, r, err));
    } else {
        KS_CHECK(false, KS_UNSUPPORTED,
                 "%s: the rope scaling \"%s\" is not supported; default, "
                 "linear, llama3 and yarn are",
                 path, name);
    }
done:
    return st;
}

/* Two ropes (KS_WINDOW_PERIOD): transformers 5 nests them by layer type;
 * before, scaling was the full layers' own and the local theta had its key. */
static ks_status parse_two_ropes(json_t *root, const ks_family *family,
                                 const char *path, ks_config *c, ks_err *err) {
    ks_status st = KS_OK;
    json_t *both, *full = NULL, *local = NULL, *scaling;
    float theta, local_theta;
    KS_TRY(get_object(root, "rope_parameters", path, &both, err));
    KS_TRY(get_object(root, "rope_scaling", path, &scaling, err));
    KS_TRY(get_float(root, "rope_theta", path, family->theta, &theta, err));
    /* OLMo 3 has one theta, Gemma 3 a key for the local one. */
    KS_TRY(get_float(root, "rope_local_base_freq", path,
                     family->gemma ? family->local_theta : (double)theta,
                     &local_theta, err));
    if (both) {
        KS_TRY(get_object(both, "full_attention", path, &full, err));
        KS_TRY(get_object(both, "sliding_attention", path, &local, err));
        KS_CHECK(full || local, KS_FORMAT,
                 "%s: \"rope_parameters\" has neither \"full_attention\" nor "
                 "\"sliding_attention\"",
                 path);
    } else {
        full = scaling;
    }
    KS_TRY(parse_rope(root, full, path, (double)theta, c->n_context, &c->rope,
                      err));
    KS_TRY(parse_rope(root, local, path, (double)local_theta, c->n_context,
                      &c->rope_local, err));
done:
    return st;
}

static ks_status parse_one_rope(json_t *root, const ks_family *family,
                                const char *path, ks_config *c, ks_err *err) {
    ks_status st = KS_OK;
    json_t *o, *old;
    float theta;
    KS_TRY(get_object(root, "rope_parameters", path, &o, err));
    KS_TRY(get_object(root, "rope_scaling", path, &old, err));
    if (old) o = old;
    KS_CHECK(!member(o, "full_attention"), KS_UNSUPPORTED,
             "%s: \"rope_parameters\" by layer type are not supported for "
             "this architecture",
             path);
    KS_TRY(get_float(root, "rope_theta", path, family->theta, &theta, err));
    KS_TRY(
        parse_rope(root, o, path, (double)theta, c->n_context, &c->rope, err));
done:
    return st;
}

/* ----------------------------------------------------------------- windows */

/* Which layers slide: "layer_types", else the family's rule. */
static ks_status parse_slides(json_t *root, const ks_family *family,
                              const char *path, ks_config *c,
                              bool slides[KS_MAX_LAYERS], ks_err *err) {
    ks_status st = KS_OK;
    json_t *types = member(root, "layer_types");
    int32_t period, first;
    KS_TRY(get_int(root, "sliding_window_pattern", path, family->period,
                   &period, err));
    KS_TRY(get_int(root, "max_window_layers", path, 28, &first, err));
    KS_CHECK(period > 0 || family->windows != KS_WINDOW_PERIOD, KS_FORMAT,
             "%s: \"sliding_window_pattern\" is 0", path);
    for (int32_t l = 0; l < c->n_layers; l++)
        slides[l] = family->windows == KS_WINDOW_ALL ||
                    (family->windows == KS_WINDOW_QWEN && l >= first) ||
                    (family->windows == KS_WINDOW_PERIOD && (l + 1) % period);
    if (!types || family->windows == KS_WINDOW_ALL) goto done;
    KS_CHECK(json_is_array(types) &&
                 json_array_size(types) == (size_t)c->n_layers,
             KS_FORMAT, "%s: \"layer_types\" is no list of %d layers", path,
             c->n_layers);
    for (int32_t l = 0; l < c->n_layers; l++) {
        const char *type = json_string_value(json_array_get(types, (size_t)l));
        slides[l] = type && strcmp(type, "sliding_attention") == 0;
        KS_CHECK(slides[l] || (type && strcmp(type, "full_attention") == 0),
                 KS_UNSUPPORTED,
                 "%s: \"layer_types\" calls layer %d \"%.40s\"; "
                 "full_attention and sliding_attention are supported",
                 path, l, type ? type : "(no string)");
    }
done:
    return st;
}

static ks_status parse_windows(json_t *root, const ks_family *family,
                               const char *path, ks_config *c, ks_err *err) {
    ks_status st = KS_OK;
    bool slides[KS_MAX_LAYERS] = {false}, use = true;
    int32_t window = 0;
    if (family->windows == KS_WINDOW_NONE) goto done;
    /* null means none; only an absent key means the default */
    if (!json_object_get(root, "sliding_window"))
        window = family->default_window;
    KS_TRY(get_int(root, "sliding_window", path, window, &window, err));
    if (family->windows == KS_WINDOW_QWEN)
        KS_TRY(get_bool(root, "use_sliding_window", path, false, &use, err));
    if (!use) window = 0;
    KS_TRY(parse_slides(root, family, path, c, slides, err));
    for (int32_t l = 0; l < c->n_layers; l++) {
        if (!slides[l]) continue;
        KS_CHECK(window > 0 || family->windows == KS_WINDOW_ALL ||
                     (family->windows == KS_WINDOW_QWEN &&
                      !member(root, "layer_types")),
                 KS_FORMAT,
                 "%s: layer %d has sliding attention, but \"sliding_window\" "
                 "is off",
                 path, l);
        c->window[l] = window;
        c->local[l] = family->windows == KS_WINDOW_PERIOD;
    }
done:
    return st;
}

/* ------------------------------------------------------------------- whole */

static ks_status parse_act(json_t *root, const char *path, ks_config *c,
                           ks_err *err) {
    json_t *v = member(root, "hidden_activation");
    if (!v) v = member(root, "hidden_act");
    if (!v) return KS_OK;
    const char *name = json_string_value(v);
    if (!name) name = "(no string)";
    if (strcmp(name, "silu") == 0 || strcmp(name, "swish") == 0)
        c->act = KS_SILU;
    else if (strcmp(name, "gelu_pytorch_tanh") == 0 ||
             strcmp(name, "gelu_new") == 0)
        c->act = KS_GELU_TANH;
    else if (strcmp(name, "gelu") == 0)
        c->act = KS_GELU_ERF;
    else
        return ks_fail(err, KS_UNSUPPORTED,
                       "%s: the activation \"%.40s\" is not supported; silu, "
                       "gelu and gelu_pytorch_tanh are",
                       path, name);
    return KS_OK;
}

static ks_status parse_sizes(json_t *root, const ks_family *family,
                             const char *path, ks_config *c, ks_err *err) {
    ks_status st = KS_OK;
    /* Gemma's published files leave out what equals the defaults. */
    bool gemma = family->gemma;
    KS_TRY(need_int(root, "num_hidden_layers", path, 0, &c->n_layers, err));
    KS_CHECK(c->n_layers >= 1 && c->n_layers <= KS_MAX_LAYERS, KS_LIMIT,
             "%s: \"num_hidden_layers\" is %d, expected 1 to %d", path,
             c->n_layers, KS_MAX_LAYERS);
    KS_TRY(need_int(root, "hidden_size", path, 0, &c->d_model, err));
    KS_TRY(need_int(root, "intermediate_size", path, 0, &c->d_ff, err));
    KS_TRY(need_int(root, "vocab_size", path, gemma ? 262208 : 0, &c->n_vocab,
                    err));
    KS_TRY(need_int(root, "num_attention_heads", path, gemma ? 8 : 0,
                    &c->n_heads, err));
    KS_CHECK(c->n_heads > 0, KS_FORMAT, "%s: \"num_attention_heads\" is 0",
             path);
    KS_TRY(get_int(root, "num_key_value_heads", path, gemma ? 4 : c->n_heads,
                   &c->n_kv_heads, err));
    int32_t head_dim = c->d_model / c->n_heads;
    if (family->qk_norm == KS_QK_HEAD) head_dim = gemma ? 256 : 128;
    KS_TRY(get_int(root, "head_dim", path, head_dim, &c->head_dim, err));
    KS_TRY(need_int(root, "max_position_embeddings", path, gemma ? 131072 : 0,
                    &c->n_context, err));
    KS_TRY(get_float(root, "rms_norm_eps", path,
                     family->qk_norm == KS_QK_FULL ? 1e-5 : 1e-6, &c->norm_eps,
                     err));
    KS_TRY(get_float(root, "initializer_range", path, 0.02, &c->init_std, err));
done:
    return st;
}

static ks_status parse_gemma(json_t *root, const char *path, ks_config *c,
                             ks_err *err) {
    ks_status st = KS_OK;
    float scalar;
    KS_TRY(get_float(root, "query_pre_attn_scalar", path, 256, &scalar, err));
    KS_CHECK(scalar > 0, KS_FORMAT,
             "%s: \"query_pre_attn_scalar\" is %g, expected more than 0", path,
             (double)scalar);
    c->attn_scale = (float)pow((double)scalar, -0.5);
    KS_TRY(get_float(root, "attn_logit_softcapping", path, 0, &c->attn_softcap,
                     err));
    KS_TRY(get_float(root, "final_logit_softcapping", path, 0,
                     &c->final_softcap, err));
    KS_TRY(refuse_true(root, "use_bidirectional_attention", path, err));
done:
    return st;
}

static ks_status parse_model(json_t *root, const ks_family *family,
                             const char *path, ks_config *c, ks_err *err) {
    ks_status st = KS_OK;
    bool bias = false;
    KS_TRY(parse_sizes(root, family, path, c, err));
    ks_family_apply(family, c);
    KS_TRY(parse_act(root, path, c, err));
    KS_TRY(refuse_true(root, "mlp_bias", path, err));
    /* Qwen2 and Mistral have no such switch: theirs is fixed. */
    if (!family->qkv_bias && family->windows != KS_WINDOW_ALL)
        KS_TRY(get_bool(root, "attention_bias", path, false, &bias, err));
    c->qkv_bias = family->qkv_bias || bias;
    c->o_bias = bias;
    if (family->gemma) KS_TRY(parse_gemma(root, path, c, err));
    KS_TRY(family->windows == KS_WINDOW_PERIOD
               ? parse_two_ropes(root, family, path, c, err)
               : parse_one_rope(root, family, path, c, err));
    KS_TRY(parse_windows(root, family, path, c, err));
done:
    return st;
}

/* The family, or the plain sentence why there is none. */
static ks_status find_family(json_t *root, const char *path,
                             const ks_family **family, ks_err *err) {
    static const char *const experts[] = {"num_local_experts", "num_experts",
                                          "n_routed_experts"};
    ks_status st = KS_OK;
    int32_t n;
    const char *type = json_string_value(member(root, "model_type"));
    KS_CHECK(type, KS_FORMAT, "%s: \"model_type\" is missing", path);
    for (size_t i = 0; i < KS_COUNT(experts); i++) {
        KS_TRY(get_int(root, experts[i], path, 0, &n, err));
        KS_CHECK(n == 0, KS_UNSUPPORTED,
                 "%s: \"%.40s\" is a mixture of %d experts, which is not "
                 "supported yet",
                 path, type, n);
    }
    KS_CHECK(!member(root, "quantization_config"), KS_UNSUPPORTED,
             "%s: has a \"quantization_config\"; of quantised models, only "
             "GGUF files are supported",
             path);
    *family = ks_family_by_json(type);
    KS_CHECK(*family, KS_UNSUPPORTED,
             "%s: the architecture \"%.40s\" is not supported; llama, "
             "mistral, qwen2, qwen3, olmo2, olmo3 and gemma3_text are",
             path, type);
done:
    return st;
}

ks_status ks_config_from_json(ks_config *c, const char *path, bool *tied_given,
                              ks_err *err) {
    ks_status st = KS_OK;
    ks_map map = {0};
    json_t *root = NULL;
    json_error_t where;
    const ks_family *family;
    *c = (ks_config){0};
    KS_TRY(ks_map_open(&map, path, err));
    KS_CHECK(map.size > 0 && map.size <= MAX_CONFIG_BYTES, KS_FORMAT,
             "%s: has %zu bytes, expected 1 to %d", path, map.size,
             MAX_CONFIG_BYTES);
    root = json_loadb((const char *)map.data, map.size, JSON_REJECT_DUPLICATES,
                      &where);
    KS_CHECK(root, KS_FORMAT, "%s line %d: not JSON: %s", path, where.line,
             where.text);
    KS_CHECK(json_is_object(root), KS_FORMAT, "%s: not a JSON object", path);
    json_t *text = member(root, "text_config"), *tied;
    tied = member(root, "tie_word_embeddings");
    if (json_is_object(text)) {
        if (member(text, "tie_word_embeddings"))
            tied = member(text, "tie_word_embeddings");
    } else {
        text = root;
    }
    KS_TRY(find_family(text, path, &family, err));
    KS_TRY(parse_model(text, family, path, c, err));
    KS_CHECK(!tied || json_is_boolean(tied), KS_FORMAT,
             "%s: \"tie_word_embeddings\" is neither true nor false", path);
    if (tied) c->tied = json_is_true(tied);
    if (tied_given) *tied_given = tied != NULL;
    snprintf(c->arch, sizeof c->arch, "%s", family->json);
    KS_TRY(ks_config_check(c, path, err));
done:
    json_decref(root);
    ks_map_close(&map);
    return st;
}
