/* pair.h - the golden models on the CPU and on the simulated device, with what
 * none of them has: the same weights and settings on both. */
#ifndef KS_SIMT_PAIR_H
#define KS_SIMT_PAIR_H

#include "build_name.h"
#include "control.h"
#include "forward/golden.h"

/* Relative error (norm of the difference over the norm) of a layer's hidden
 * states and of log-probabilities, and of a target's gradients; by how much of
 * a log-probability a greedy id may miss the best (these models' weights are
 * drawn, not trained: many ids are as good). The rounding of operands alone
 * moves gradients by 1.8 to 6.7e-2 and by 2.6e-5 to 1.0e-4
 * (tests/golden/round_operands.py). */
typedef struct precision {
    const char *isa;
    double relative, gradient, margin;
} precision;
static const precision precisions[] = {{"bf16", 2e-2, 1e-1, 0.25},
                                       {"f32", 1e-4, 1e-4, 1e-3}};

/* Of n models: all in f32, a few in bf16, whose roundings hide what f32 shows.
 * (Hidden states compare all in both.) */
static inline size_t models_in(const precision *p, size_t n, size_t few) {
    return p == &precisions[0] ? few : n;
}

/* Golden models, and what none of them has. */
typedef struct variant {
    const char *name, *folder;
    float attn_softcap, final_softcap, rope_scale;
    bool sinks;
} variant;
enum {
    LLAMA3,
    LINEAR,
    QWEN2,
    MISTRAL,
    QWEN3,
    OLMO2,
    OLMO3,
    GEMMA3,
    SOFTCAP,
    SINKS
};
static const variant variants[] = {
    {.name = "llama3", .folder = "llama3"}, /* rope scaling, interleaving */
    {.name = "linear", .folder = "linear"},
    {.name = "qwen2", .folder = "qwen2"},     /* biases */
    {.name = "mistral", .folder = "mistral"}, /* window */
    {.name = "qwen3", .folder = "qwen3"},     /* q/k norm a head */
    {.name = "olmo2", .folder = "olmo2"},     /* q/k norm whole, post-norms */
    {.name = "olmo3", .folder = "olmo3"},
    {.name = "gemma3", .folder = "gemma3"}, /* local angles, GELU, tied */
    {.name = "softcap",
     .folder = "gemma3",
     .attn_softcap = 3,
     .final_softcap = 5},
    {.name = "sinks", .folder = "qwen3", .sinks = true, .rope_scale = 1.2f},
};

typedef struct pair {
    const char *name;
    ks_engine *cpu, *device;
    float *sinks;
    int32_t n_vocab, n_states, d;
} pair;

static inline void vary(ks_engine *engine, const variant *v, float *sinks) {
    ks_config *c = &engine->model->config;
    ks_weights *w = &engine->model->weights;
    /* Weights drawn as wide as these attend to single tokens, which makes every
     * rounding large: a quarter of the scores, and heads mix as trained ones
     * do. */
    c->attn_scale /= 4;
    if (v->attn_softcap > 0) c->attn_softcap = v->attn_softcap;
    if (v->final_softcap > 0) c->final_softcap = v->final_softcap;
    if (v->rope_scale > 0) w->rope_scale = v->rope_scale;
    for (int32_t l = 0; v->sinks && l < c->n_layers; l++)
        w->layers[l].sinks = sinks + l * c->n_heads;
}

static inline ks_engine *open_on(const char *folder, const char *backend,
                                 const char *isa) {
    char path[512];
    ks_engine_options options = {
        .backend = backend, .threads = 1, .batch_tokens = 96};
    snprintf(path, sizeof path, DATA "%s", folder);
    if (isa) setenv("KS_ISA", isa, 1);
    ks_engine *engine = open_model(path, &options);
    unsetenv("KS_ISA");
    return engine;
}

static inline pair open_pair(const variant *v, const char *isa) {
    pair p = {.name = v->name};
    p.cpu = open_on(v->folder, "cpu", NULL);
    p.device = open_on(v->folder, "cuda", isa);
    const ks_config *c = &p.cpu->model->config;
    p.n_vocab = c->n_vocab;
    p.n_states = c->n_layers + 1;
    p.d = c->d_model;
    int32_t n = c->n_layers * c->n_heads;
    p.sinks = malloc((size_t)n * sizeof *p.sinks);
    for (int32_t i = 0; i < n; i++) p.sinks[i] = (float)(i % 5) * 0.5f - 1;
    vary(p.cpu, v, p.sinks);
    vary(p.device, v, p.sinks);
    return p;
}

static inline void close_pair(pair *p) {
    ks_engine_close(&p->cpu);
    ks_engine_close(&p->device);
    free(p->sinks);
    cr_expect_eq(simt_live_allocations(), 0, "%s: %zu allocations left",
                 p->name, simt_live_allocations());
}

static inline void fill_ids(int32_t *ids, int32_t n, int32_t n_vocab) {
    for (int32_t t = 0; t < n; t++) ids[t] = (t * 29 + t / 7 * 5) % n_vocab;
}

/* The larger error so far; a NaN stays. */
static inline void worse(double *worst, double e) {
    if (!isnan(*worst) && !(e <= *worst)) *worst = e;
}

#endif
