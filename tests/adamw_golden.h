/* adamw_golden.h - cases of tests/data/probes/adamw.json, trained on a backend
 * and compared with PyTorch's parameters and margins. C and C++. */
#ifndef KS_TESTS_ADAMW_GOLDEN_H
#define KS_TESTS_ADAMW_GOLDEN_H

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* As make_adamw.py's uniform(). */
static inline double golden_uniform(int64_t seed, int64_t index) {
    uint32_t h = (uint32_t)(index + seed * 0x9E3779B9);
    h ^= h >> 16;
    h *= 0x85EBCA6B;
    h ^= h >> 13;
    h *= 0xC2B2AE35;
    h ^= h >> 16;
    return (double)(h >> 8) * 0x1p-23 - 1;
}

typedef struct golden {
    const char *name;
    json_t *json;
    int32_t n, d, layers, n_train, n_held, n_hidden;
    int32_t hidden[KS_ADAMW_MOST_HIDDEN];
    float *x, *start, *param, *margin;
    int8_t *y;
    int32_t *rows; /* [n], those that train first */
    int64_t n_params;
    ks_adamw_options options;
    ks_adamw_probe probe;
} golden;

static inline int64_t golden_whole(json_t *json, const char *key) {
    return json_integer_value(json_object_get(json, key));
}

static inline double golden_real(json_t *json, const char *key) {
    return json_number_value(json_object_get(json, key));
}

static inline void golden_rows(golden *g, int64_t seed) {
    int64_t n = g->n, d = g->d;
    g->x = (float *)calloc((size_t)(g->layers * n * d), sizeof *g->x);
    g->y = (int8_t *)calloc((size_t)n, 1);
    g->rows = (int32_t *)calloc((size_t)n, sizeof *g->rows);
    for (int64_t k = 0; k < g->layers * n * d; k++) {
        double x = golden_uniform(seed, k);
        g->x[k] = (float)(k % d % 5 == 3 ? 8 * x + 16 : x);
    }
    for (int64_t i = 0; i < n; i++) {
        const float *x = g->x + i * d;
        double second = (double)x[d > 1 ? 1 : 0];
        g->y[i] = (double)x[0] + second + golden_uniform(seed + 1, i) > 0;
        g->rows[i] = (int32_t)(n - 1 - i);
    }
}

static inline void golden_start(golden *g, int64_t seed) {
    int64_t inputs = g->layers * g->d, at = 0;
    g->start = (float *)calloc((size_t)g->n_params, sizeof *g->start);
    for (int32_t k = 0; k <= g->n_hidden; k++) {
        int64_t units = k < g->n_hidden ? g->hidden[k] : 1;
        for (int64_t i = 0; i < (inputs + 1) * units; i++, at++)
            g->start[at] =
                (float)(golden_uniform(seed + 2, at) / sqrt((double)inputs));
        inputs = units;
    }
}

static inline bool golden_open(golden *g, json_t *json) {
    int64_t seed = golden_whole(json, "seed");
    json_t *hidden = json_object_get(json, "hidden");
    memset(g, 0, sizeof *g);
    g->json = json;
    g->name = json_string_value(json_object_get(json, "name"));
    g->n = (int32_t)golden_whole(json, "n");
    g->d = (int32_t)golden_whole(json, "d");
    g->layers = (int32_t)golden_whole(json, "layers");
    g->n_train = (int32_t)golden_whole(json, "n_train");
    g->n_held = g->n - g->n_train;
    g->n_hidden = (int32_t)json_array_size(hidden);
    for (int32_t k = 0; k < g->n_hidden; k++)
        g->hidden[k] =
            (int32_t)json_integer_value(json_array_get(hidden, (size_t)k));
    g->n_params = (int64_t)json_array_size(json_object_get(json, "param"));
    golden_rows(g, seed);
    golden_start(g, seed);
    ks_adamw_options *o = &g->options;
    o->layers = g->layers;
    o->n_hidden = g->n_hidden, o->hidden = g->hidden;
    o->batch = (int32_t)golden_whole(json, "batch");
    o->epochs = (int32_t)golden_whole(json, "epochs");
    o->constant = json_is_true(json_object_get(json, "constant"));
    o->each_epoch = true;
    g->param = (float *)calloc((size_t)g->n_params, sizeof *g->param);
    ks_adamw_probe *p = &g->probe;
    p->stop = (int32_t)golden_whole(json, "stop");
    p->eval = g->rows + g->n_train, p->n_eval = g->n_held;
    g->margin =
        (float *)calloc((size_t)(p->stop * g->n_held), sizeof *g->margin);
    p->rows = g->rows, p->n_rows = g->n_train, p->y = g->y;
    p->key[0] = (uint64_t)seed, p->key[1] = 7;
    p->lr = golden_real(json, "lr"), p->decay = golden_real(json, "decay");
    p->class_weight[0] = 1;
    p->class_weight[1] = (float)golden_real(json, "pos_weight");
    p->standardise = json_is_true(json_object_get(json, "standardise"));
    p->start = g->start, p->param = g->param, p->margin = g->margin;
    return g->n_params > 0;
}

static inline void golden_close(golden *g) {
    free(g->x);
    free(g->y);
    free(g->rows);
    free(g->start);
    free(g->param);
    free(g->margin);
}

static inline ks_status golden_train(golden *g, const struct ks_ops *ops,
                                     ks_dev *dev, ks_err *err) {
    ks_adamw_data *data = NULL;
    ks_status st =
        ks_adamw_open(&data, ops, dev, g->x, g->layers, g->n, g->d, err);
    if (st == KS_OK && ks_adamw_parameters(data, &g->options) != g->n_params)
        st = ks_fail(err, KS_INTERNAL, "not PyTorch's number of parameters");
    if (st == KS_OK) st = ks_adamw_train(data, &g->options, &g->probe, 1, err);
    ks_adamw_close(&data);
    return st;
}

/* |got - PyTorch's| / |PyTorch's|, of parameters or margins of all epochs;
 * a NaN stays. */
static inline double golden_distance(const golden *g, bool param) {
    double diff = 0, norm = 0;
    json_t *all = json_object_get(g->json, param ? "param" : "margin");
    int64_t n = param ? g->n_params : g->probe.stop * g->n_held;
    for (int64_t k = 0; k < n; k++) {
        json_t *row =
            param ? all : json_array_get(all, (size_t)(k / g->n_held));
        double want = json_number_value(
            json_array_get(row, (size_t)(param ? k : k % g->n_held)));
        double got = (double)(param ? g->param : g->margin)[k];
        diff += (got - want) * (got - want);
        norm += want * want;
    }
    return sqrt(diff / norm);
}

#endif
