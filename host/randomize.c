/* randomize.c - the random-weights control: the model's shape with the
 * weights that it had before training. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model.h"
#include "philox.h"

/* Four normals of four words (Box and Muller 1958), in double and rounded
 * once, so that libraries that differ in a last bit hardly ever show. */
static void four_normals(const uint32_t w[4], double std, float out[4]) {
    for (int i = 0; i < 4; i += 2) {
        double radius = std * sqrt(-2 * log((w[i] + 1.0) * 0x1p-32));
        double angle = 2 * M_PI * (w[i + 1] * 0x1p-32);
        out[i] = (float)(radius * cos(angle));
        out[i + 1] = (float)(radius * sin(angle));
    }
}

static void draw(float *to, int64_t n, double std, const uint64_t key[2]) {
    int64_t n_quads = (n + 3) / 4;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n_quads; i++) {
        uint32_t words[4];
        float x[4];
        ks_philox(key, (uint64_t)i, words);
        four_normals(words, std, x);
        int64_t left = KS_MIN(n - 4 * i, 4);
        memcpy(to + 4 * i, x, (size_t)left * sizeof *x);
    }
}

/* key[1] is the tensor's number and moves on. */
static ks_status redraw(ks_model *m, ks_weight *w, uint64_t key[2],
                        ks_err *err) {
    float *data;
    ks_status st = ks_model_own(m, &data, (size_t)(w->rows * w->cols),
                                sizeof *data, "random weights", err);
    if (st != KS_OK) return st;
    draw(data, w->rows * w->cols, (double)m->config.init_std, key);
    key[1]++;
    *w = ks_view_f32(data, w->rows, w->cols);
    return KS_OK;
}

static void fill(float *x, int64_t n, float value) {
    if (!x) return;
    for (int64_t i = 0; i < n; i++) x[i] = value;
}

/* norm_bias is part of the norms already: they start at 1 in every family. */
static void reset_vectors(const ks_config *c, ks_layer *l) {
    int64_t d = c->d_model, q = (int64_t)c->n_heads * c->head_dim;
    int64_t kv = (int64_t)c->n_kv_heads * c->head_dim;
    bool full = c->qk_norm == KS_QK_FULL;
    fill(l->attn_norm, d, 1);
    fill(l->mlp_norm, d, 1);
    fill(l->attn_post_norm, d, 1);
    fill(l->mlp_post_norm, d, 1);
    fill(l->q_norm, full ? q : c->head_dim, 1);
    fill(l->k_norm, full ? kv : c->head_dim, 1);
    fill(l->bq, q, 0);
    fill(l->bk, kv, 0);
    fill(l->bv, kv, 0);
    fill(l->bo, d, 0);
    fill(l->sinks, c->n_heads, 0);
}

ks_status ks_model_randomize(ks_model *m, uint64_t seed, ks_err *err) {
    ks_status st = KS_OK;
    const ks_config *c = &m->config;
    ks_weights *w = &m->weights;
    uint64_t key[2] = {seed, 0};
    KS_TRY(redraw(m, &w->embed, key, err));
    for (int32_t i = 0; i < c->n_layers; i++) {
        ks_layer *l = &w->layers[i];
        ks_weight *matrices[] = {&l->wq,     &l->wk,   &l->wv,    &l->wo,
                                 &l->w_gate, &l->w_up, &l->w_down};
        for (size_t k = 0; k < KS_COUNT(matrices); k++)
            KS_TRY(redraw(m, matrices[k], key, err));
        reset_vectors(c, l);
    }
    fill(w->final_norm, c->d_model, 1);
    if (c->tied)
        w->head = w->embed;
    else
        KS_TRY(redraw(m, &w->head, key, err));
    m->randomized = true;
    m->seed = seed;
    m->sha256[0] = 0;
    if (m->files_sha256[0]) KS_TRY(ks_model_hash(m, err)); /* stays filled */
done:
    return st;
}
