/* place.c - a model's weights in the memory of a backend. Matrices go over as
 * they are stored: ops->copy streams the mapped file through pinned memory of a
 * bounded size. Norms, biases, sinks and frequencies go over together. */
#include <stdlib.h>
#include <string.h>

#include "forward.h"

enum { ALIGN = 64 };

struct ks_placed {
    const ks_weights *weights;
    /* the rest only where they are copies */
    ks_dev *dev;
    const struct ks_ops *ops;
    ks_weights copies;
    ks_buf *bufs; /* [n_bufs] one a matrix, and the vectors */
    size_t n_bufs;
    char *image; /* [image_size] of the vectors, while they are collected */
    size_t image_size;
};

/* Matrices of a layer, by GGUF's names. */
static const struct {
    const char *name;
    size_t at;
} matrices[] = {
    {"attn_q", offsetof(ks_layer, wq)},
    {"attn_k", offsetof(ks_layer, wk)},
    {"attn_v", offsetof(ks_layer, wv)},
    {"attn_output", offsetof(ks_layer, wo)},
    {"ffn_gate", offsetof(ks_layer, w_gate)},
    {"ffn_up", offsetof(ks_layer, w_up)},
    {"ffn_down", offsetof(ks_layer, w_down)},
};

typedef enum length { OF_D, OF_Q, OF_KV, OF_Q_NORM, OF_K_NORM, OF_H } length;

/* Vectors of a layer; NULL where the model has none. */
static const struct {
    size_t at;
    length length;
} vectors[] = {
    {offsetof(ks_layer, attn_norm), OF_D},
    {offsetof(ks_layer, bq), OF_Q},
    {offsetof(ks_layer, bk), OF_KV},
    {offsetof(ks_layer, bv), OF_KV},
    {offsetof(ks_layer, q_norm), OF_Q_NORM},
    {offsetof(ks_layer, k_norm), OF_K_NORM},
    {offsetof(ks_layer, sinks), OF_H},
    {offsetof(ks_layer, bo), OF_D},
    {offsetof(ks_layer, attn_post_norm), OF_D},
    {offsetof(ks_layer, mlp_norm), OF_D},
    {offsetof(ks_layer, mlp_post_norm), OF_D},
};

static size_t floats_of(const ks_config *c, length which) {
    size_t head = (size_t)c->head_dim;
    size_t q = (size_t)c->n_heads * head, kv = (size_t)c->n_kv_heads * head;
    bool full = c->qk_norm == KS_QK_FULL;
    switch (which) {
    case OF_Q:
        return q;
    case OF_KV:
        return kv;
    case OF_Q_NORM:
        return full ? q : head;
    case OF_K_NORM:
        return full ? kv : head;
    case OF_H:
        return (size_t)c->n_heads;
    default:
        return (size_t)c->d_model;
    }
}

static size_t matrix_bytes(const ks_weight *w) {
    return (size_t)w->rows * ks_type_row_bytes(w->type, w->cols);
}

static ks_weight *matrix_at(ks_layer *layer, size_t i) {
    return (ks_weight *)(void *)((char *)layer + matrices[i].at);
}

static float **vector_at(ks_layer *layer, size_t i) {
    return (float **)(void *)((char *)layer + vectors[i].at);
}

/* ----------------------------------------------------------------- matrices */

static ks_status keep(ks_placed *p, ks_buf **out, size_t size, const char *name,
                      ks_err *err) {
    ks_buf *buf = &p->bufs[p->n_bufs];
    ks_status st = p->ops->alloc(p->dev, buf, size, name, err);
    if (st != KS_OK) return st;
    p->n_bufs++;
    *out = buf;
    return KS_OK;
}

static ks_status place_matrix(ks_placed *p, ks_weight *w, const char *name,
                              ks_err *err) {
    ks_status st = KS_OK;
    ks_buf *buf = NULL;
    KS_TRY(keep(p, &buf, matrix_bytes(w), name, err));
    KS_TRY(p->ops->copy(p->dev, buf->data, w->data, buf->size, err));
    w->data = buf->data;
done:
    return st;
}

static ks_status place_matrices(ks_placed *p, const ks_config *c,
                                const ks_model *model, ks_err *err) {
    ks_status st = KS_OK;
    ks_weights *w = &p->copies;
    char name[64];
    KS_TRY(place_matrix(p, &w->embed, "weight token_embd", err));
    for (int32_t l = 0; l < c->n_layers; l++)
        for (size_t i = 0; i < KS_COUNT(matrices); i++) {
            snprintf(name, sizeof name, "weight %s of layer %d",
                     matrices[i].name, l);
            KS_TRY(place_matrix(p, matrix_at(&w->layers[l], i), name, err));
        }
    if (model->weights.head.data == model->weights.embed.data)
        w->head = w->embed;
    else
        KS_TRY(place_matrix(p, &w->head, "weight output", err));
done:
    return st;
}

/* ------------------------------------------------------------------ vectors */

/* One walk that sums (image NULL), one that fills the image and turns the
 * pointers into the backend's (base). */
static void take_vector(ks_placed *p, float **v, size_t n, char *base) {
    size_t size = (n * sizeof **v + ALIGN - 1) / ALIGN * ALIGN;
    if (!*v) return;
    if (p->image) {
        memcpy(p->image + p->image_size, *v, n * sizeof **v);
        *v = (float *)(void *)(base + p->image_size);
    }
    p->image_size += size;
}

static void take_vectors(ks_placed *p, const ks_config *c, ks_weights *w,
                         char *base) {
    p->image_size = 0;
    for (int32_t l = 0; l < c->n_layers; l++)
        for (size_t i = 0; i < KS_COUNT(vectors); i++)
            take_vector(p, vector_at(&w->layers[l], i),
                        floats_of(c, vectors[i].length), base);
    take_vector(p, &w->final_norm, (size_t)c->d_model, base);
    take_vector(p, &w->inv_freq, (size_t)c->head_dim / 2, base);
    take_vector(p, &w->inv_freq_local, (size_t)c->head_dim / 2, base);
}

static ks_status place_vectors(ks_placed *p, const ks_config *c, ks_err *err) {
    ks_status st = KS_OK;
    ks_buf *buf = NULL;
    take_vectors(p, c, &p->copies, NULL);
    KS_TRY(keep(p, &buf, p->image_size, "norms, biases and frequencies", err));
    KS_TRY(ks_alloc(&p->image, p->image_size, 1, "norms and biases", err));
    take_vectors(p, c, &p->copies, buf->data);
    KS_TRY(p->ops->copy(p->dev, buf->data, p->image, p->image_size, err));
done:
    free(p->image);
    p->image = NULL;
    return st;
}

/* ---------------------------------------------------------------- open, close
 */

ks_status ks_place(ks_placed **out, ks_dev *dev, const struct ks_ops *ops,
                   const ks_model *model, ks_err *err) {
    ks_status st = KS_OK;
    const ks_config *c = &model->config;
    size_t n_layers = (size_t)c->n_layers;
    ks_placed *p = NULL;
    *out = NULL;
    KS_TRY(ks_alloc(&p, 1, sizeof *p, "placed weights", err));
    p->weights = &model->weights;
    p->dev = dev;
    p->ops = ops;
    if (!ops->unified) {
        size_t most = n_layers * KS_COUNT(matrices) + 3;
        KS_TRY(ks_alloc(&p->bufs, most, sizeof *p->bufs, "weights", err));
        p->copies = model->weights;
        p->copies.layers = NULL;
        KS_TRY(ks_alloc(&p->copies.layers, n_layers, sizeof(ks_layer), "layers",
                        err));
        memcpy(p->copies.layers, model->weights.layers,
               n_layers * sizeof(ks_layer));
        KS_TRY(place_matrices(p, c, model, err));
        KS_TRY(place_vectors(p, c, err));
        KS_TRY(ops->sync(dev, err));
        p->weights = &p->copies;
    }
    *out = p;
    p = NULL;
done:
    ks_placed_close(&p);
    return st;
}

void ks_placed_close(ks_placed **placed) {
    ks_placed *p = *placed;
    if (!p) return;
    for (size_t i = 0; i < p->n_bufs; i++) p->ops->free(p->dev, &p->bufs[i]);
    free(p->bufs);
    free(p->copies.layers);
    free(p);
    *placed = NULL;
}

const ks_weights *ks_placed_weights(const ks_placed *placed) {
    return placed->weights;
}

size_t ks_place_bytes(const struct ks_ops *ops, const ks_model *model) {
    const ks_config *c = &model->config;
    ks_weights w = model->weights; /* walked, not changed: no image */
    ks_placed p = {0};
    if (ops->unified) return 0;
    size_t size = matrix_bytes(&w.embed);
    if (w.head.data != w.embed.data) size += matrix_bytes(&w.head);
    for (int32_t l = 0; l < c->n_layers; l++)
        for (size_t i = 0; i < KS_COUNT(matrices); i++)
            size += matrix_bytes(matrix_at(&w.layers[l], i));
    take_vectors(&p, c, &w, NULL);
    return size + p.image_size;
}
