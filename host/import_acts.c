/* import_acts.c - see import_acts.h. */
#include "import_acts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "half.h"

enum { BLOCK = 1024 }; /* steps between commits */

typedef struct work {
    const ks_import_acts_options *o;
    ks_chains chains;
    ks_chain_row *chain_rows;
    ks_step_row *steps;
    int64_t n_steps, missing;
    char **paths;                        /* [chains] of token files; or NULL */
    ks__layered sources[KS_N_POSITIONS]; /* vectors a step */
    ks_number type;                      /* of the arrays */
    int32_t d, n_layers;                 /* in the arrays */
    int32_t *layer;                      /* [n_layers] numbers */
    int32_t *sorted;                     /* ascending, for the file */
    ks_acts_spec spec;
    char *config, model_hash[65];
    float *values; /* [BLOCK, d] */
    uint8_t *stored;
    double *sum; /* [d] */
} work;

/* ------------------------------------------------------------------- arrays */

ks_status ks__layered_open(ks__layered *out, const ks_import_acts_options *o,
                           const char *path, ks_err *err) {
    static const char *const names[] = {"layers", "rows", "features"};
    ks_status st = KS_OK;
    int64_t stride = 1;
    *out = (ks__layered){.n = {1, 1, 1}};
    KS_TRY(ks_array_open(&out->array, path, o->tensor, o->bf16, err));
    KS_CHECK(ks_number_is_real(out->array.type), KS_FORMAT,
             "%s: holds whole numbers (%s), not activations", path,
             ks_number_name(out->array.type));
    KS_CHECK(out->array.n_dims == o->n_dims, KS_MISMATCH,
             "%s: has %d dimensions, --order names %d", path, out->array.n_dims,
             o->n_dims);
    for (int i = o->n_dims - 1; i >= 0; i--) {
        ks_dim dim = o->order[i];
        out->n[dim] = out->array.dims[i];
        out->stride[dim] = stride;
        KS_CHECK(out->n[dim] >= 1 && out->n[dim] <= INT32_MAX / 8, KS_FORMAT,
                 "%s: has %lld %s (dimension %d), expected 1 to %d", path,
                 (long long)out->n[dim], names[dim], i, INT32_MAX / 8);
        stride *= out->n[dim];
    }
done:
    if (st != KS_OK) ks_array_close(&out->array);
    return st;
}

void ks__layered_row(const ks__layered *in, int64_t layer, int64_t row,
                     float *out) {
    ks_array_read(&in->array,
                  layer * in->stride[KS_DIM_LAYERS] +
                      row * in->stride[KS_DIM_ROWS],
                  in->stride[KS_DIM_FEATURES], in->n[KS_DIM_FEATURES], out);
}

/* Every file has the shape and type of the first. */
static ks_status check_same(work *w, const char *path, const ks__layered *in,
                            ks_err *err) {
    ks_status st = KS_OK;
    int64_t d = in->n[KS_DIM_FEATURES], layers = in->n[KS_DIM_LAYERS];
    if (!w->d) {
        w->d = (int32_t)d;
        w->n_layers = (int32_t)layers;
        w->type = in->array.type;
    }
    KS_CHECK(!w->o->d || d == w->o->d, KS_MISMATCH,
             "%s: has %lld features, the model %d", path, (long long)d,
             w->o->d);
    KS_CHECK(d == w->d && layers == w->n_layers, KS_MISMATCH,
             "%s: has %lld layers of %lld features, the files before %d of %d",
             path, (long long)layers, (long long)d, w->n_layers, w->d);
    KS_CHECK(in->array.type == w->type, KS_MISMATCH,
             "%s: holds %s, the files before %s", path,
             ks_number_name(in->array.type), ks_number_name(w->type));
done:
    return st;
}

/* ------------------------------------------------------------------- chains */

static ks_status read_chains(work *w, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_chains_read(&w->chains, w->o->chains, KS_KEEP_OBJECTS, err));
    for (size_t c = 0; c < w->chains.n; c++) {
        KS_CHECK(w->chains.at[c].steps, KS_USAGE,
                 "%s: chain '%s' has no steps; keystep split makes them",
                 w->o->chains, w->chains.at[c].id);
        w->n_steps += w->chains.at[c].n_steps;
    }
    KS_CHECK(w->n_steps > 0, KS_USAGE, "%s: its chains have no step",
             w->o->chains);
    KS_TRY(ks_alloc(&w->chain_rows, w->chains.n, sizeof *w->chain_rows,
                    "chains", err));
    KS_TRY(ks_alloc(&w->steps, (size_t)w->n_steps, sizeof *w->steps, "steps",
                    err));
    int64_t at = 0;
    for (size_t c = 0; c < w->chains.n; c++) {
        const ks_chain *chain = &w->chains.at[c];
        w->chain_rows[c] = (ks_chain_row){chain->id, chain->problem, ""};
        memcpy(w->chain_rows[c].text_sha256, chain->text_sha256, 65);
        for (int32_t i = 0; i < chain->n_steps; i++)
            w->steps[at++] =
                (ks_step_row){.chain = (int32_t)c,
                              .index = i,
                              .byte_begin = (int32_t)chain->steps[i].begin,
                              .byte_end = (int32_t)chain->steps[i].end,
                              .valid = 1,
                              .label = -1};
    }
done:
    return st;
}

/* ------------------------------------------------------------ vectors a step
 */

/* Spans of the chains where they have them, for the length baseline; else none
 * are known. */
static void take_spans(work *w) {
    for (int64_t i = 0; i < w->n_steps; i++) {
        ks_step_row *s = &w->steps[i];
        json_t *step = json_array_get(
            json_object_get(w->chains.at[s->chain].object, "steps"),
            (size_t)s->index);
        json_int_t begin =
            json_integer_value(json_object_get(step, "token_begin"));
        json_int_t end = json_integer_value(json_object_get(step, "token_end"));
        if (begin < 0 || end < begin || end > INT32_MAX) continue;
        s->token_begin = (int32_t)begin;
        s->token_end = (int32_t)end;
    }
}

static bool all_nan(const float *x, int64_t n) {
    for (int64_t j = 0; j < n; j++)
        if (!isnan(x[j])) return false;
    return true;
}

/* Steps that a file holds no activation of. */
static void find_missing(work *w, const ks__layered *in) {
    for (int64_t i = 0; i < w->n_steps; i++) {
        ks__layered_row(in, 0, i, w->values);
        if (all_nan(w->values, w->d)) w->steps[i].valid = 0;
    }
}

static ks_status open_steps(work *w, ks_err *err) {
    ks_status st = KS_OK;
    for (ks_position p = 0; p < KS_TOKENS; p++) {
        const char *path = w->o->steps[p];
        if (!path) continue;
        KS_TRY(ks__layered_open(&w->sources[p], w->o, path, err));
        KS_TRY(check_same(w, path, &w->sources[p], err));
        KS_CHECK(w->sources[p].n[KS_DIM_ROWS] == w->n_steps, KS_MISMATCH,
                 "%s: has %lld rows, the chains of %s have %lld steps", path,
                 (long long)w->sources[p].n[KS_DIM_ROWS], w->o->chains,
                 (long long)w->n_steps);
    }
    take_spans(w);
done:
    return st;
}

/* ----------------------------------------------------------- vectors a token
 */

static ks_status open_tokens(work *w, ks_err *err) {
    ks_status st = KS_OK;
    int64_t at = 0;
    ks__layered in = {0};
    KS_TRY(ks_alloc(&w->paths, w->chains.n, sizeof *w->paths, "paths", err));
    KS_TRY(ks__token_files(w->o, &w->chains, w->paths, err));
    for (size_t c = 0; c < w->chains.n; c++) {
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
        KS_TRY(ks__layered_open(&in, w->o, w->paths[c], err));
        KS_TRY(check_same(w, w->paths[c], &in, err));
        KS_TRY(ks__token_spans(w->o, &w->chains.at[c], w->paths[c], &in,
                               w->steps + at, err));
        ks_array_close(&in.array);
        at += w->chains.at[c].n_steps;
    }
done:
    ks_array_close(&in.array);
    return st;
}

/* ------------------------------------------------------------------- layers */

static int by_number(const void *a, const void *b) {
    return *(const int32_t *)a - *(const int32_t *)b;
}

static ks_status number_layers(work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_import_acts_options *o = w->o;
    int32_t n = w->n_layers, ahead = o->stream == KS_RESID;
    KS_CHECK(!o->n_layers || o->n_layers == n, KS_MISMATCH,
             "--layer-numbers has %d numbers, the arrays have %d layers",
             o->n_layers, n);
    KS_TRY(ks_alloc(&w->layer, (size_t)n, sizeof *w->layer, "layers", err));
    KS_TRY(ks_alloc(&w->sorted, (size_t)n, sizeof *w->sorted, "layers", err));
    for (int32_t i = 0; i < n; i++)
        w->sorted[i] = w->layer[i] =
            o->n_layers ? o->layer_list[i] : o->first_layer + i;
    qsort(w->sorted, (size_t)n, sizeof *w->sorted, by_number);
    for (int32_t i = 1; i < n; i++)
        KS_CHECK(w->sorted[i] != w->sorted[i - 1], KS_USAGE,
                 "--layer-numbers has %d twice", w->sorted[i]);
    int32_t highest = w->sorted[n - 1];
    int32_t blocks =
        o->of_layers ? o->of_layers : KS_MAX(highest + 1 - ahead, 1);
    KS_CHECK(highest < blocks + ahead, KS_MISMATCH,
             "layer %d of %s: a model of %d blocks has 0 to %d", highest,
             ks_stream_name(o->stream), blocks, blocks + ahead - 1);
    w->spec.n_layers = blocks;
    w->spec.n_listed = n == blocks + ahead ? 0 : n; /* all are there */
    w->spec.listed = w->sorted;
done:
    return st;
}

/* --------------------------------------------------------------------- spec */

static ks_type storage_of(const work *w) {
    return w->o->has_dtype             ? w->o->dtype
           : w->type == KS_NUMBER_F16  ? KS_F16
           : w->type == KS_NUMBER_BF16 ? KS_BF16
                                       : KS_F32;
}

static ks_status make_spec(work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_import_acts_options *o = w->o;
    uint32_t positions = o->tokens ? o->positions : 0;
    json_t *config = NULL;
    for (ks_position p = 0; p < KS_TOKENS; p++)
        if (o->steps[p]) positions |= 1u << p;
    config = json_pack(
        "{s:s,s:s,s:s}", "imported", o->tokens ? "tokens" : "steps", "numbers",
        ks_number_name(w->type), "dtype", ks_type_name(storage_of(w)));
    w->config = json_dumps(config, JSON_COMPACT | JSON_SORT_KEYS);
    KS_CHECK(w->config, KS_NOMEM, "out of memory for settings");
    if (o->model_sha256) {
        snprintf(w->model_hash, sizeof w->model_hash, "%s", o->model_sha256);
    } else {
        char text[512];
        int n = snprintf(text, sizeof text, "imported: %s", o->model_name);
        ks_sha256_of(text, (size_t)KS_MIN(n, (int)sizeof text - 1),
                     w->model_hash);
    }
    w->spec.streams = 1u << o->stream;
    w->spec.positions = positions;
    w->spec.d = w->d;
    w->spec.dtype = storage_of(w);
    w->spec.n_steps = w->n_steps;
    w->spec.n_chains = (int64_t)w->chains.n;
    w->spec.steps = w->steps;
    w->spec.chains = w->chain_rows;
    w->spec.random_weights = -1;
    w->spec.model_name = o->model_name;
    w->spec.model_sha256 = w->model_hash;
    w->spec.tokenizer_hash =
        o->tokenizer ? ks_tokenizer_hash(o->tokenizer) : "unknown";
    w->spec.isa = w->spec.backend = "imported";
    w->spec.config = w->config;
done:
    json_decref(config);
    return st;
}

/* -------------------------------------------------------------------- write */

/* Checks n rows of values and stores them. first: their step. */
static ks_status store(work *w, ks_position p, int64_t layer, int64_t first,
                       int64_t n, ks_err *err) {
    ks_status st = KS_OK;
    bool f16 = w->spec.dtype == KS_F16;
    for (int64_t i = 0; i < n; i++) {
        const ks_step_row *step = &w->steps[first + i];
        float *x = w->values + i * w->d;
        if (!step->valid && all_nan(x, w->d)) continue;
        for (int32_t j = 0; j < w->d; j++) {
            bool wide = f16 && isfinite(x[j]) &&
                        isinf(ks_f16_to_f32(ks_f32_to_f16(x[j])));
            KS_CHECK(isfinite(x[j]) && !wide, KS_NUMERIC,
                     "chain '%s' step %d at %s, layer %d: value %d is %g, %s",
                     w->chain_rows[step->chain].id, step->index,
                     ks_position_name(p), w->layer[layer], j, (double)x[j],
                     wide ? "beyond f16; --dtype bf16 has the range of f32"
                          : "expected a finite number");
        }
    }
    for (int64_t i = 0; i < n * w->d; i++) {
        uint16_t word =
            f16 ? ks_f32_to_f16(w->values[i]) : ks_f32_to_bf16(w->values[i]);
        if (w->spec.dtype == KS_F32)
            memcpy(w->stored + 4 * i, &w->values[i], 4);
        else
            memcpy(w->stored + 2 * i, &word, 2);
    }
done:
    return st;
}

static ks_status write_block(work *w, ks_acts *acts, const ks__layered *tokens,
                             int64_t first, int64_t n, ks_err *err) {
    ks_status st = KS_OK;
    for (ks_position p = 0; p < KS_TOKENS; p++) {
        if (!(w->spec.positions >> p & 1)) continue;
        for (int32_t l = 0; l < w->n_layers; l++) {
            KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
            for (int64_t i = 0; i < n; i++) {
                float *x = w->values + i * w->d;
                if (tokens)
                    ks__token_pool(tokens, p, l, &w->steps[first + i], w->sum,
                                   x);
                else
                    ks__layered_row(&w->sources[p], l, first + i, x);
            }
            KS_TRY(store(w, p, l, first, n, err));
            KS_TRY(ks_acts_write(acts, w->o->stream, p, w->layer[l], first, n,
                                 w->stored, err));
        }
    }
    KS_TRY(ks_acts_commit(acts, first, first + n, err));
    if (w->o->progress) w->o->progress(w->o->user, first + n, w->n_steps);
done:
    return st;
}

static ks_status write_steps(work *w, ks_acts *acts, ks_err *err) {
    ks_status st = KS_OK;
    for (int64_t at = 0; at < w->n_steps; at += BLOCK)
        KS_TRY(write_block(w, acts, NULL, at, KS_MIN(BLOCK, w->n_steps - at),
                           err));
done:
    return st;
}

static ks_status write_tokens(work *w, ks_acts *acts, ks_err *err) {
    ks_status st = KS_OK;
    ks__layered in = {0};
    int64_t at = 0;
    for (size_t c = 0; c < w->chains.n; c++) {
        int64_t left = w->chains.at[c].n_steps;
        KS_TRY(ks__layered_open(&in, w->o, w->paths[c], err));
        KS_TRY(check_same(w, w->paths[c], &in, err));
        for (int64_t i = 0; i < left; i++) /* it may have been replaced */
            KS_CHECK(w->steps[at + i].token_end <= in.n[KS_DIM_ROWS],
                     KS_MISMATCH, "%s: has fewer tokens than before",
                     w->paths[c]);
        for (int64_t n; left > 0; at += n, left -= n) {
            n = KS_MIN(BLOCK, left);
            KS_TRY(write_block(w, acts, &in, at, n, err));
        }
        ks_array_close(&in.array);
    }
done:
    ks_array_close(&in.array);
    return st;
}

/* ---------------------------------------------------------------------- all */

static ks_status prepare(work *w, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(read_chains(w, err));
    KS_TRY(w->o->tokens ? open_tokens(w, err) : open_steps(w, err));
    KS_TRY(number_layers(w, err));
    size_t values = BLOCK * (size_t)w->d;
    KS_TRY(ks_alloc(&w->values, values, sizeof *w->values, "rows", err));
    KS_TRY(ks_alloc(&w->stored, values, sizeof *w->values, "rows", err));
    KS_TRY(ks_alloc(&w->sum, (size_t)w->d, sizeof *w->sum, "rows", err));
    for (ks_position p = 0; p < KS_TOKENS && w->o->nan_missing; p++)
        if (w->o->steps[p]) find_missing(w, &w->sources[p]);
    KS_TRY(make_spec(w, err));
done:
    return st;
}

static void free_work(work *w) {
    for (size_t c = 0; w->paths && c < w->chains.n; c++) free(w->paths[c]);
    for (int p = 0; p < KS_N_POSITIONS; p++)
        ks_array_close(&w->sources[p].array);
    ks_chains_free(&w->chains);
    free(w->paths);
    free(w->chain_rows);
    free(w->steps);
    free(w->layer);
    free(w->sorted);
    free(w->config);
    free(w->values);
    free(w->stored);
    free(w->sum);
}

/* An import starts anew; what there is of a failed one goes. */
static void drop_part(const char *out) {
    static const char *const ends[] = {"part", "journal"};
    for (size_t i = 0; i < KS_COUNT(ends); i++) {
        char *path;
        if (asprintf(&path, "%s.%s", out, ends[i]) < 0) continue;
        unlink(path);
        free(path);
    }
}

ks_status ks_import_acts(const ks_import_acts_options *o,
                         ks_import_acts_report *report, ks_err *err) {
    ks_status st = KS_OK;
    work w = {.o = o};
    ks_acts *acts = NULL;
    bool created = false;
    int64_t done;
    ks_acts_options options = {.force = o->force};
    KS_TRY(prepare(&w, err));
    KS_TRY(ks_acts_create(&acts, o->out, &w.spec, &options, &done, err));
    created = true;
    KS_TRY(o->tokens ? write_tokens(&w, acts, err)
                     : write_steps(&w, acts, err));
    KS_TRY(ks_acts_finish(&acts, err));
    for (int64_t i = 0; i < w.n_steps; i++) w.missing += !w.steps[i].valid;
    *report = (ks_import_acts_report){.chains = (int64_t)w.chains.n,
                                      .steps = w.n_steps,
                                      .missing = w.missing,
                                      .n_layers = w.n_layers,
                                      .d = w.d,
                                      .dtype = w.spec.dtype};
done:
    ks_acts_abandon(&acts);
    if (st != KS_OK && created) drop_part(o->out);
    free_work(&w);
    return st;
}
