/* bench_influence.c - keystep bench influence: a chain's influence matrix
 * beside the matrix products that it cannot do without, in turn. */
#include <stdlib.h>
#include <string.h>

#include "../../probes/influence.h"
#include "../run.h"
#include "bench.h"

/* Rows of the products with the head at a time: logits are wide. */
enum { HEAD_ROWS = 64 };

typedef struct influence_bench {
    ks_bench *bench;
    ks_bench_source source; /* where no --input is given */
    const char *model;
    ks_engine *engine;
    ks_influence_job *job;
    json_t *input;
    int32_t *ids, *bounds, n_tokens, n_steps;
    int64_t target_rows; /* tokens that each target reaches, summed */
    double *matrix;
    ks_buf in, out; /* of the bare products, a block for each lane */
    int64_t widest; /* columns of both */
    double *ours, *bare, *ratio; /* [pairs] */
} influence_bench;

/* ------------------------------------------------------------------- input
 */

static ks_status take_integers(const influence_bench *b, const char *key,
                               int32_t **out, int32_t *n, ks_err *err) {
    ks_status st = KS_OK;
    const char *path = b->bench->in->input;
    const json_t *list = json_object_get(b->input, key);
    size_t size = json_array_size(list);
    KS_CHECK(size > 0 && size < INT32_MAX, KS_FORMAT,
             "%s: a list of integers is expected at \"%s\"", path, key);
    KS_TRY(ks_alloc(out, size, sizeof **out, key, err));
    for (size_t i = 0; i < size; i++) {
        const json_t *value = json_array_get(list, i);
        json_int_t v = json_integer_value(value);
        KS_CHECK(json_is_integer(value) && v >= 0 && v <= INT32_MAX, KS_FORMAT,
                 "%s: \"%s\"[%zu] is no integer from 0 to %d", path, key, i,
                 INT32_MAX);
        (*out)[i] = (int32_t)v;
    }
    *n = (int32_t)size;
done:
    return st;
}

static ks_status read_input(influence_bench *b, ks_err *err) {
    ks_status st = KS_OK;
    const char *path = b->bench->in->input;
    char *text = NULL;
    size_t length;
    json_error_t where;
    KS_TRY(ks_read_file(path, KS_MOST_CONFIG, &text, &length, err));
    b->input = json_loadb(text, length, 0, &where);
    KS_CHECK(b->input, KS_FORMAT, "%s, line %d: %s", path, where.line,
             where.text);
    KS_TRY(take_integers(b, "ids", &b->ids, &b->n_tokens, err));
    KS_TRY(take_integers(b, "bounds", &b->bounds, &b->n_steps, err));
    b->n_steps--;
done:
    free(text);
    return st;
}

static json_t *integers(const int32_t *of, int32_t n) {
    json_t *list = json_array();
    for (int32_t i = 0; i < n; i++)
        json_array_append_new(list, json_integer(of[i]));
    return list;
}

/* The first of the chains, as --input would say it. */
static ks_status make_input(influence_bench *b, ks_err *err) {
    ks_status st = KS_OK;
    ks_tokenizer *tokenizer = NULL;
    ks_chains chains = {0};
    ks_bench_tokens tokens = {0};
    ks_bench_input in = *b->bench->in;
    in.out_data = NULL; /* the matrix, not the chains */
    KS_TRY(ks_bench_source_open(&b->source, &in, "keystep-bench-chains.jsonl",
                                1, err));
    KS_TRY(ks_tokenizer_open(&tokenizer, b->source.model, err));
    KS_TRY(ks_chains_read(&chains, b->source.chains, KS_KEEP_FIELDS, err));
    KS_TRY(ks_bench_tokenize(&tokens, tokenizer, &chains.at[0], err));
    b->input =
        json_pack("{s:o,s:o}", "ids", integers(tokens.ids, tokens.n_tokens),
                  "bounds", integers(tokens.bounds, tokens.n_steps + 1));
    KS_CHECK(b->input, KS_NOMEM, "no memory for a chain");
    b->model = b->source.model;
    b->n_tokens = tokens.n_tokens, b->n_steps = tokens.n_steps;
    b->ids = tokens.ids, b->bounds = tokens.bounds;
    tokens = (ks_bench_tokens){0};
done:
    ks_bench_tokens_free(&tokens);
    ks_chains_free(&chains);
    ks_tokenizer_close(&tokenizer);
    return st;
}

static ks_status open_input(influence_bench *b, ks_err *err) {
    ks_status st = KS_OK;
    b->model = b->bench->in->common.model;
    KS_TRY(b->bench->in->input ? read_input(b, err) : make_input(b, err));
    size_t n = (size_t)b->n_steps;
    KS_TRY(ks_alloc(&b->matrix, n * n, sizeof *b->matrix, "a matrix", err));
    for (int32_t k = 1; k < b->n_steps; k++)
        if (b->bounds[k + 1] > b->bounds[k] && b->bounds[k] > b->bounds[0])
            b->target_rows += b->bounds[k + 1] - 1 - b->bounds[0];
done:
    return st;
}

/* --------------------------------------------------------------- products
 */

typedef struct products {
    const influence_bench *bench;
    const ks_layer *layer;
    int64_t n, rows; /* in all, of a block */
    bool back;
} products;

static ks_status product(const influence_bench *b, ks_dev *dev, int32_t lane,
                         const ks_weight *w, int64_t n, bool back,
                         ks_err *err) {
    const struct ks_ops *ops = b->engine->ops;
    int64_t at = (int64_t)lane * ks__row_block(ops) * b->widest;
    ks_view in =
        ks_view_f32((float *)b->in.data + at, n, back ? w->rows : w->cols);
    ks_view out =
        ks_view_f32((float *)b->out.data + at, n, back ? w->cols : w->rows);
    if (back) return ops->gemm_backward(dev, out, in, *w, false, err);
    return ops->gemm(dev, out, in, *w, NULL, false, err);
}

static ks_status block_products(void *user, ks_dev *dev, int32_t lane,
                                int32_t i, ks_err *err) {
    ks_status st = KS_OK;
    const products *p = user;
    const ks_layer *w = p->layer;
    const ks_weight *all[] = {&w->wq,     &w->wk,   &w->wv,    &w->wo,
                              &w->w_gate, &w->w_up, &w->w_down};
    int64_t n = KS_MIN(p->rows, p->n - i * p->rows);
    for (size_t j = 0; j < KS_COUNT(all); j++)
        KS_TRY(product(p->bench, dev, lane, all[j], n, p->back, err));
done:
    return st;
}

/* All layers' products on n rows, in even blocks on the backend's lanes. */
static ks_status layer_products(const influence_bench *b, int64_t n, bool back,
                                ks_err *err) {
    ks_status st = KS_OK;
    const ks_engine *e = b->engine;
    const ks_weights *w = ks_placed_weights(e->placed);
    int32_t lanes = ks_dev_lanes(e->dev);
    if (n / KS_LANE_ROWS < lanes) lanes = 1;
    int64_t block = (int64_t)ks__row_block(e->ops) * lanes;
    int64_t blocks = (n + block - 1) / block * lanes;
    products p = {b, NULL, n, (n + blocks - 1) / blocks, back};
    for (int32_t l = 0; l < e->model->config.n_layers; l++) {
        p.layer = &w->layers[l];
        KS_TRY(e->ops->each(e->dev, lanes, (int32_t)((n + p.rows - 1) / p.rows),
                            block_products, &p, err));
    }
done:
    return st;
}

/* One forward of the chain; of what its steps say, logits and their way back;
 * and for each target the way back through the tokens that it reaches: on
 * average half of the chain. */
static ks_status bare_products(const influence_bench *b, ks_err *err) {
    ks_status st = KS_OK;
    const ks_engine *e = b->engine;
    const ks_weight *head = &ks_placed_weights(e->placed)->head;
    int32_t said = b->bounds[b->n_steps] - b->bounds[0];
    KS_TRY(layer_products(b, b->bounds[b->n_steps], false, err));
    for (int32_t i = 0; i < said; i += HEAD_ROWS)
        for (int back = 0; back < 2; back++)
            KS_TRY(product(b, e->dev, 0, head, KS_MIN(HEAD_ROWS, said - i),
                           back, err));
    KS_TRY(layer_products(b, b->target_rows, true, err));
    KS_TRY(e->ops->sync(e->dev, err));
done:
    return st;
}

/* -------------------------------------------------------------------- table
 */

static ks_status add_row(const influence_bench *b, json_t *pair, double ours,
                         double bare, double ratio, ks_err *err) {
    return ks_bench_row(
        b->bench,
        json_pack("{s:o,s:s,s:i,s:i,s:I,s:f,s:f,s:f}", "pair", pair, "model",
                  b->engine->model->name, "tokens", b->bounds[b->n_steps],
                  "steps", b->n_steps, "target_rows",
                  (json_int_t)b->target_rows, "seconds", ours,
                  "products_seconds", bare, "over_products", ratio),
        err);
}

/* The matrix beside what it is of, for peers to read. */
static ks_status write_matrix(const influence_bench *b, ks_err *err) {
    ks_status st = KS_OK;
    const char *path = b->bench->in->out_data;
    json_t *rows = json_array();
    char *text = NULL;
    if (!path) goto done;
    for (int32_t k = 0; k < b->n_steps; k++) {
        json_t *row = json_array();
        for (int32_t j = 0; j < b->n_steps; j++)
            json_array_append_new(row,
                                  json_real(b->matrix[k * b->n_steps + j]));
        json_array_append_new(rows, row);
    }
    json_object_set(b->input, "matrix", rows);
    text = json_dumps(b->input, JSON_COMPACT);
    KS_CHECK(text && json_array_size(rows) == (size_t)b->n_steps, KS_NOMEM,
             "no memory for the matrix");
    KS_TRY(ks_write_file(path, text, strlen(text), b->bench->in->common.force,
                         err));
done:
    json_decref(rows);
    free(text);
    return st;
}

static ks_status run_pair(influence_bench *b, int pair, ks_err *err) {
    ks_status st = KS_OK;
    const ks_influence_how how = {.kind = KS_INFLUENCE_GRADIENT};
    double t0 = ks_seconds();
    KS_TRY(ks_influence_of(b->job, b->ids, b->n_tokens, b->bounds, b->n_steps,
                           &how, b->matrix, err));
    double t1 = ks_seconds();
    KS_TRY(bare_products(b, err));
    double t2 = ks_seconds();
    KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
    if (pair < 0) goto done; /* maps the weights and makes the buffers */
    b->ours[pair] = t1 - t0;
    b->bare[pair] = t2 - t1;
    b->ratio[pair] = b->ours[pair] / b->bare[pair];
    KS_TRY(add_row(b, json_integer(pair + 1), b->ours[pair], b->bare[pair],
                   b->ratio[pair], err));
done:
    return st;
}

/* ------------------------------------------------------------------- command
 */

static ks_status open_bench(influence_bench *b, ks_err *err) {
    ks_status st = KS_OK;
    const ks_cli_common *c = &b->bench->in->common;
    ks_engine_options options = {.backend = c->backend,
                                 .threads = c->threads,
                                 .memory = c->memory,
                                 .batch_tokens = c->batch_tokens};
    size_t pairs = (size_t)b->bench->in->repeats;
    float *x = NULL;
    if (b->bench->in->out_data)
        KS_TRY(ks_refuse_existing(b->bench->in->out_data, c->force, err));
    KS_TRY(open_input(b, err));
    KS_TRY(ks_engine_open(&b->engine, b->model, &options, err));
    KS_TRY(ks_influence_open(&b->job, b->engine, err));
    const ks_engine *e = b->engine;
    const ks_config *m = &e->model->config;
    b->widest = KS_MAX(KS_MAX(m->d_ff, m->d_model), m->n_heads * m->head_dim);
    int64_t n = b->widest * ks__row_block(e->ops) * ks_dev_lanes(e->dev);
    n = KS_MAX(n, (int64_t)HEAD_ROWS * m->n_vocab);
    size_t size = (size_t)n * sizeof *x;
    KS_TRY(e->ops->alloc(e->dev, &b->in, size, "the products", err));
    KS_TRY(e->ops->alloc(e->dev, &b->out, size, "the products", err));
    KS_TRY(ks_alloc(&x, (size_t)n, sizeof *x, "the products", err));
    for (int64_t i = 0; i < n; i++) x[i] = (float)(i % 97) / 97;
    KS_TRY(e->ops->copy(e->dev, b->in.data, x, size, err));
    KS_TRY(e->ops->sync(e->dev, err));
    double **lists[] = {&b->ours, &b->bare, &b->ratio};
    for (size_t i = 0; i < KS_COUNT(lists); i++)
        KS_TRY(ks_alloc(lists[i], pairs, sizeof(double), "the figures", err));
done:
    free(x);
    return st;
}

static void close_bench(influence_bench *b) {
    if (b->in.data) b->engine->ops->free(b->engine->dev, &b->in);
    if (b->out.data) b->engine->ops->free(b->engine->dev, &b->out);
    ks_influence_close(&b->job);
    ks_engine_close(&b->engine);
    ks_bench_source_close(&b->source);
    json_decref(b->input);
    free(b->ids), free(b->bounds), free(b->matrix);
    free(b->ours), free(b->bare), free(b->ratio);
}

ks_status ks_bench_influence(ks_bench *bench, ks_err *err) {
    ks_status st = KS_OK;
    influence_bench b = {.bench = bench};
    int pairs = bench->in->repeats;
    KS_CHECK(bench->in->common.model || !bench->in->input, KS_USAGE,
             "bench influence --input is tokens of a model: --model is "
             "missing");
    KS_TRY(open_bench(&b, err));
    for (int i = -1; i < pairs; i++) {
        KS_TRY(run_pair(&b, i, err));
        if (i >= 0)
            ks_log(KS_LOG_INFO, "pair %d of %d: %.3f s, %.3f s", i + 1, pairs,
                   b.ours[i], b.bare[i]);
    }
    double ours = ks_bench_spread(b.ours, pairs).median;
    double bare = ks_bench_spread(b.bare, pairs).median;
    KS_TRY(add_row(&b, json_string("all"), ours, bare,
                   ks_bench_spread(b.ratio, pairs).median, err));
    KS_TRY(write_matrix(&b, err));
done:
    close_bench(&b);
    return st;
}
