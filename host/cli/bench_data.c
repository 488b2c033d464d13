/* bench_data.c - synthetic activations for the probe's bench.
 *
 * A row of layer l is x_j = offset_j + scale_j (sum_k s_k z_k A_kj + noise):
 * latents z whose spread s_k falls as 1 / sqrt(k), so that features are
 * correlated as a residual stream's are; scales spread over two decades and
 * two features a hundred times larger, as trained models have. Eight latents
 * of middling spread differ by class by twice the layer's delta, so the best
 * accuracy is Phi(delta sqrt(8)): delta rises from 0.05 at the first layer to
 * 0.35 in the middle and falls to 0.2 at the last. */
#include <math.h>
#include <stdlib.h>

#include "../blas.h"
#include "../acts.h"
#include "../philox.h"
#include "bench.h"

enum { LATENTS = 192, FIRST_SIGNAL = 20, SIGNALS = 8, CHAIN_STEPS = 5 };
enum { BLOCK = 1024 }; /* rows made at a time */

typedef struct data {
    int64_t n;
    int32_t d, latents, layers;
    uint64_t seed;
    ks_position position; /* being made */
    ks_step_row *steps;
    ks_chain_row *chains;
    char (*ids)[24];
    float *spread, *mix;   /* [latents], [latents, d] of a layer */
    float *scale, *offset; /* [d] of a layer */
    float *latent, *x;     /* [BLOCK, latents], [BLOCK, d] */
} data;

/* n draws of mean 0 and variance 1, uniform: place decides them. */
static void draw(uint64_t seed, uint64_t stream, int64_t first, int64_t n,
                 float *out) {
    const uint64_t key[2] = {seed, stream};
    for (int64_t i = 0; i < n; i += 4) {
        uint32_t word[4];
        ks_philox(key, (uint64_t)(first + i) / 4, word);
        for (int64_t k = i; k < KS_MIN(i + 4, n); k++)
            out[k] = (ks_philox_unit(word[k - i]) - 0.5f) * 3.4641016f;
    }
}

static float delta_of(const data *m, int32_t layer) {
    if (m->layers < 2) return 0.35f;
    float at = (float)layer / (float)(m->layers - 1);
    return at < 0.5f ? 0.05f + 0.6f * at : 0.5f - 0.3f * at;
}

/* Of a layer's random numbers: other positions have others. */
static uint64_t stream_of(const data *m, int32_t layer) {
    uint64_t position = m->position == KS_MEAN ? 0 : m->position + 1;
    return 65536 * position + 16 * (uint64_t)layer;
}

/* What a layer's rows have in common. */
static void make_layer(data *m, int32_t layer) {
    uint64_t stream = stream_of(m, layer);
    draw(m->seed, stream + 1, 0, (int64_t)m->latents * m->d, m->mix);
    draw(m->seed, stream + 2, 0, m->d, m->scale);
    draw(m->seed, stream + 3, 0, m->d, m->offset);
    for (int32_t j = 0; j < m->d; j++) m->scale[j] = expf(1.3f * m->scale[j]);
    for (int32_t j = 0; j < KS_MIN(2, m->d); j++) m->scale[7 * j % m->d] *= 100;
    for (int32_t j = 0; j < m->d; j++) m->offset[j] *= m->scale[j];
    for (int32_t k = 0; k < m->latents; k++)
        m->spread[k] = 1 / sqrtf(1 + (float)k);
}

static void make_row(data *m, int32_t layer, int64_t row, float *latent,
                     float *x) {
    uint64_t stream = stream_of(m, layer);
    float shift = delta_of(m, layer) * (m->steps[row].label ? 1.0f : -1.0f);
    int32_t first = KS_MIN(FIRST_SIGNAL, m->latents - 1);
    int32_t last = KS_MIN(first + SIGNALS, m->latents);
    int64_t wide = (m->latents + 3) / 4 * 4, noise = (m->d + 3) / 4 * 4;
    draw(m->seed, stream + 4, row * wide, m->latents, latent);
    draw(m->seed, stream + 5, row * noise, m->d, x);
    for (int32_t k = first; k < last; k++) latent[k] += shift;
    for (int32_t k = 0; k < m->latents; k++) latent[k] *= m->spread[k];
    for (int32_t j = 0; j < m->d; j++) x[j] *= 0.05f;
}

static ks_status write_layer(data *m, ks_acts *acts, int32_t layer,
                             ks_err *err) {
    ks_status st = KS_OK;
    make_layer(m, layer);
    for (int64_t at = 0; at < m->n; at += BLOCK) {
        int64_t n = KS_MIN(BLOCK, m->n - at);
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < n; i++)
            make_row(m, layer, at + i, m->latent + i * m->latents,
                     m->x + i * m->d);
        ks__gemm_f32(false, false, n, m->d, m->latents, m->latent, m->latents,
                     m->mix, m->d, 1, m->x, m->d);
        for (int64_t i = 0; i < n; i++)
            for (int32_t j = 0; j < m->d; j++)
                m->x[i * m->d + j] =
                    m->offset[j] + m->scale[j] * m->x[i * m->d + j];
        KS_TRY(ks_acts_write(acts, KS_RESID, m->position, layer, at, n, m->x,
                             err));
    }
done:
    return st;
}

/* Chains of five steps, each of its own problem; a fair coin labels a step. */
static ks_status make_steps(data *m, int64_t chains, ks_err *err) {
    ks_status st = KS_OK;
    const uint64_t key[2] = {m->seed, 0};
    KS_TRY(ks_alloc(&m->steps, (size_t)m->n, sizeof *m->steps, "steps", err));
    KS_TRY(
        ks_alloc(&m->chains, (size_t)chains, sizeof *m->chains, "chains", err));
    KS_TRY(ks_alloc(&m->ids, (size_t)chains, sizeof *m->ids, "chains", err));
    for (int64_t i = 0; i < m->n; i++) {
        uint32_t word[4];
        ks_philox(key, (uint64_t)i, word);
        m->steps[i] = (ks_step_row){.chain = (int32_t)(i / CHAIN_STEPS),
                                    .index = (int32_t)(i % CHAIN_STEPS),
                                    .token_end = 1,
                                    .valid = 1,
                                    .label = word[0] & 1};
    }
    for (int64_t i = 0; i < chains; i++) {
        snprintf(m->ids[i], sizeof m->ids[i], "p%lld", (long long)i);
        m->chains[i].id = m->chains[i].problem = m->ids[i];
    }
done:
    return st;
}

static ks_status make_buffers(data *m, ks_err *err) {
    ks_status st = KS_OK;
    size_t d = (size_t)m->d, latents = (size_t)m->latents;
    KS_TRY(ks_alloc(&m->spread, latents, sizeof(float), "data", err));
    KS_TRY(ks_alloc(&m->mix, latents * d, sizeof(float), "data", err));
    KS_TRY(ks_alloc(&m->scale, d, sizeof(float), "data", err));
    KS_TRY(ks_alloc(&m->offset, d, sizeof(float), "data", err));
    KS_TRY(ks_alloc(&m->latent, BLOCK * latents, sizeof(float), "data", err));
    KS_TRY(ks_alloc(&m->x, BLOCK * d, sizeof(float), "data", err));
done:
    return st;
}

static void free_data(data *m) {
    void *all[] = {m->steps, m->chains, m->ids,    m->spread, m->mix,
                   m->scale, m->offset, m->latent, m->x};
    for (size_t i = 0; i < KS_COUNT(all); i++) free(all[i]);
}

ks_status ks_bench_data(const char *path, int64_t rows, int32_t width,
                        int32_t layers, uint32_t positions, uint64_t seed,
                        ks_err *err) {
    ks_status st = KS_OK;
    int64_t done, chains = rows / CHAIN_STEPS;
    ks_acts *acts = NULL;
    data m = {.n = chains * CHAIN_STEPS,
              .d = width,
              .latents = KS_MIN(LATENTS, width),
              .layers = layers,
              .seed = seed};
    KS_TRY(make_steps(&m, chains, err));
    KS_TRY(make_buffers(&m, err));
    ks_acts_spec spec = {.streams = 1u << KS_RESID,
                         .positions = positions,
                         .n_layers = layers - 1,
                         .d = width,
                         .dtype = KS_F32,
                         .n_steps = m.n,
                         .n_chains = chains,
                         .steps = m.steps,
                         .chains = m.chains,
                         .has_labels = true,
                         .random_weights = -1,
                         .model_name = "synthetic",
                         .model_sha256 = "",
                         .tokenizer_hash = "",
                         .isa = "",
                         .backend = "",
                         .config = "{}"};
    ks_acts_options options = {.force = false};
    KS_TRY(ks_acts_create(&acts, path, &spec, &options, &done, err));
    for (m.position = 0; m.position < KS_TOKENS; m.position++)
        for (int32_t l = 0; l < layers && positions >> m.position & 1; l++)
            KS_TRY(write_layer(&m, acts, l, err));
    KS_TRY(ks_acts_commit(acts, 0, m.n, err));
    KS_TRY(ks_acts_finish(&acts, err));
done:
    ks_acts_abandon(&acts);
    free_data(&m);
    return st;
}
