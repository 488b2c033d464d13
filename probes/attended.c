/* attended.c - see attended.h. */
#include "attended.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "holds.h"
#include "l2.h"
#include "philox.h"
#include "window.h"

const double ks_attended_strengths[KS_ATTENDED_STRENGTHS] = {1e-3, 1e-2, 1e-1,
                                                             1};

enum { STARTS = 2 };
static const double TOLERANCE = 1e-5;

/* -------------------------------------------------------------------- starts
 */

typedef struct work {
    ks_attention *attention;
    const ks_attention_rows *rows;
    const ks_folds *folds;
    ks_l2_place place;
    uint32_t outer; /* folds asked for (nest.h) */
    uint64_t seed;
    ks_holds holds;                /* inner, then outer */
    ks_attention_column *columns;  /* [holds, strengths, STARTS] */
    double *start;                 /* [holds, strengths, STARTS, 2 d + 1] */
    float *margin;                 /* [holds, strengths, STARTS, n] */
    float *entropy, *first, *last; /* [folds, strengths, STARTS, n] */
    float *chosen;                 /* [holds, strengths, n] margins */
    int32_t *best;                 /* [holds, strengths] start */
    ks_attended_fit *out;
} work;

/* Uniform of unit variance. */
static double draw(uint64_t seed, uint64_t place) {
    const uint64_t key[2] = {seed, 0x617474656e64}; /* "attend" */
    uint32_t word[4];
    ks_philox(key, place, word);
    return 3.4641016 * ((double)ks_philox_unit(word[0]) - 0.5);
}

/* Raw weights of the mean's probe to a start on standardised tokens. */
static void put_start(const work *w, int32_t column, const double *raw,
                      const double *mean, const double *inverse) {
    int64_t d = w->rows->d;
    double *to = w->start + (int64_t)column * (2 * d + 1);
    to[2 * d] = raw[d];
    for (int64_t j = 0; j < d; j++) {
        bool varies = inverse[j] > 0;
        to[j] = varies ? raw[j] / inverse[j] : 0;
        to[2 * d] += raw[j] * mean[j];
        to[d + j] = varies && column % STARTS ? draw(w->seed, (uint64_t)j) : 0;
    }
}

/* Means of steps: a source's read. */
static ks_status read_means(void *user, int64_t step, int64_t n, void *out,
                            ks_err *err) {
    return ks_attention_pool(user, step, n, out, err);
}

/* The L2 probes of the steps' means, for every set and strength. */
static ks_status find_starts(work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_attention_rows *r = w->rows;
    size_t d = (size_t)r->d, n = (size_t)w->holds.n * KS_ATTENDED_STRENGTHS;
    const ks_l2_design design = {r->y, r->fold};
    const ks_l2_source means = {.n = r->n,
                                .d = r->d,
                                .type = KS_F32,
                                .read = read_means,
                                .user = w->attention};
    ks_l2 *l2 = NULL;
    ks_l2_column *columns = NULL;
    double *raw = NULL, *mean = NULL;
    KS_TRY(ks_alloc(&columns, n, sizeof *columns, "columns", err));
    KS_TRY(ks_alloc(&raw, n * (d + 1), sizeof *raw, "weights", err));
    KS_TRY(ks_alloc(&mean, 2 * d, sizeof *mean, "means", err));
    for (size_t k = 0; k < n; k++)
        columns[k] = (ks_l2_column){
            .hold = w->holds.set[k / KS_ATTENDED_STRENGTHS],
            .strength = ks_attended_strengths[k % KS_ATTENDED_STRENGTHS],
            .weight = raw + k * (d + 1)};
    KS_TRY(ks_l2_open_from(&l2, &means, &w->place, &design, 1, err));
    KS_TRY(ks_l2_fit(l2, columns, (int32_t)n, 1e-4, 100, err));
    for (size_t k = 0; k < n; k++) {
        ks_attention_scale(w->attention, columns[k].hold, mean, mean + d);
        for (int32_t s = 0; s < STARTS; s++)
            put_start(w, (int32_t)k * STARTS + s, raw + k * (d + 1), mean,
                      mean + d);
    }
done:
    ks_l2_close(&l2);
    free(columns);
    free(raw);
    free(mean);
    return st;
}

/* --------------------------------------------------------------------- choice
 */

static int32_t column_of(int32_t hold, int32_t strength) {
    return (hold * KS_ATTENDED_STRENGTHS + strength) * STARTS;
}

/* Place of the first fold's set: behind the inner ones. */
static int32_t first_outer(const work *w) {
    return w->holds.n - ks__holds_n_asked(w->outer, w->folds->n_folds);
}

int32_t ks__attended_end(const ks_attention_column *ends, int32_t n) {
    int32_t best = 0;
    for (int32_t s = 1; s < n; s++)
        if (isnan(ends[best].objective) ||
            ends[s].objective < ends[best].objective)
            best = s;
    return best;
}

static ks_status fit_all(work *w, ks_err *err) {
    ks_status st = KS_OK;
    int64_t n = w->rows->n, m = 2 * w->rows->d + 1;
    int32_t all = column_of(w->holds.n, 0);
    int32_t outer = column_of(first_outer(w), 0);
    for (int32_t k = 0; k < all; k++) {
        int32_t hold = k / (KS_ATTENDED_STRENGTHS * STARTS);
        int64_t look = (k - outer) * n;
        w->columns[k] = (ks_attention_column){
            .hold = w->holds.set[hold],
            .strength =
                ks_attended_strengths[k / STARTS % KS_ATTENDED_STRENGTHS],
            .start = w->start + k * m,
            .margin = w->margin + k * n,
            .entropy = k < outer ? NULL : w->entropy + look,
            .first = k < outer ? NULL : w->first + look,
            .last = k < outer ? NULL : w->last + look};
    }
    KS_TRY(ks_attention_fit(w->attention, w->columns, all, TOLERANCE,
                            KS_ATTENDED_PASSES, err));
    w->out->fits += all;
    for (int32_t k = 0; k < all; k++)
        w->out->unconverged += !w->columns[k].converged;
    for (int32_t k = 0; k < all / STARTS; k++) {
        w->best[k] = ks__attended_end(w->columns + k * STARTS, STARTS);
        memcpy(w->chosen + k * n, w->margin + (k * STARTS + w->best[k]) * n,
               (size_t)n * sizeof *w->chosen);
    }
done:
    return st;
}

static ks_status choose(work *w, int32_t fold, ks_err *err) {
    const ks_attention_rows *r = w->rows;
    int32_t best = 0, outer = ks__hold(&w->holds, 1u << fold);
    double least = INFINITY;
    for (int32_t c = 0; c < KS_ATTENDED_STRENGTHS; c++) {
        double loss = ks__holds_loss(&w->holds, w->folds, 0, fold, w->chosen,
                                     KS_ATTENDED_STRENGTHS, c, r->y);
        if (!(loss < least)) continue;
        least = loss;
        best = c;
    }
    if (!isfinite(least))
        return ks_fail(err, KS_NUMERIC,
                       "fold %d: no strength has a finite loss", fold);
    int32_t column =
        column_of(outer, best) + w->best[outer * KS_ATTENDED_STRENGTHS + best];
    const ks_attention_column *c = &w->columns[column];
    for (int64_t i = 0; i < r->n; i++) {
        if (r->fold[i] != fold) continue;
        w->out->score[i] = c->margin[i];
        w->out->entropy[i] = c->entropy[i];
        w->out->first[i] = c->first[i];
        w->out->last[i] = c->last[i];
    }
    return KS_OK;
}

static ks_status alloc_all(work *w, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)w->rows->n, m = 2 * (size_t)w->rows->d + 1;
    size_t columns = (size_t)column_of(w->holds.n, 0);
    size_t looks = (size_t)column_of(w->folds->n_folds, 0) * n;
    KS_TRY(ks_alloc(&w->columns, columns, sizeof *w->columns, "columns", err));
    KS_TRY(ks_alloc(&w->start, columns * m, sizeof(double), "starts", err));
    KS_TRY(ks_alloc(&w->margin, columns * n, sizeof(float), "margins", err));
    KS_TRY(ks_alloc(&w->chosen, columns / STARTS * n, sizeof(float), "margins",
                    err));
    KS_TRY(
        ks_alloc(&w->best, columns / STARTS, sizeof(int32_t), "columns", err));
    float **look[] = {&w->entropy, &w->first, &w->last};
    for (size_t i = 0; i < KS_COUNT(look); i++)
        KS_TRY(ks_alloc(look[i], looks, sizeof(float), "attention", err));
    float **out[] = {&w->out->score, &w->out->entropy, &w->out->first,
                     &w->out->last};
    for (size_t i = 0; i < KS_COUNT(out); i++)
        KS_TRY(ks_alloc(out[i], n, sizeof(float), "attention", err));
done:
    return st;
}

ks_status ks_attended_fit_rows(ks_attended_fit *out, const ks_l2_source *tokens,
                               const ks_attention_rows *rows,
                               const ks_folds *folds, const ks_nest_options *o,
                               uint64_t seed, ks_err *err) {
    ks_status st = KS_OK;
    work w = {.rows = rows,
              .folds = folds,
              .place = {.ops = o->ops,
                        .dev = o->dev,
                        .threads = o->threads,
                        .scratch = o->scratch},
              .outer = o->outer,
              .seed = seed,
              .out = out};
    *out = (ks_attended_fit){0};
    ks__holds_fill(&w.holds, folds, o->outer, true);
    KS_TRY(ks_attention_open(&w.attention, &w.place, tokens, rows, err));
    KS_TRY(alloc_all(&w, err));
    KS_TRY(find_starts(&w, err));
    KS_TRY(fit_all(&w, err));
    for (int32_t k = 0; k < folds->n_folds; k++)
        if (ks__holds_asked(o->outer, k)) KS_TRY(choose(&w, k, err));
done:
    ks_attention_close(&w.attention);
    free(w.columns);
    free(w.start);
    free(w.margin);
    free(w.entropy);
    free(w.first);
    free(w.last);
    free(w.chosen);
    free(w.best);
    if (st != KS_OK) ks_attended_fit_free(out);
    return st;
}

void ks_attended_fit_free(ks_attended_fit *fit) {
    free(fit->score);
    free(fit->entropy);
    free(fit->first);
    free(fit->last);
    *fit = (ks_attended_fit){0};
}

/* -------------------------------------------------------------------- reading
 */

/* A layer's tokens, ordered by their steps' fold of a seed; without a layer,
 * those of whatever layer. */
typedef struct layer_tokens {
    const ks_acts_file *file;
    ks_stream stream;
    int32_t layer;
    ks_attention_rows rows; /* offset, y and fold are owned here */
    int64_t *order;         /* [n] row of the data set */
    int64_t *first;         /* [n] of a step's tokens in the file */
} layer_tokens;

static int64_t tokens_of(const ks_step_row *s) {
    return s->token_end - s->token_begin;
}

static void free_tokens(layer_tokens *t) {
    free((void *)(uintptr_t)t->rows.offset);
    free((void *)(uintptr_t)t->rows.y);
    free((void *)(uintptr_t)t->rows.fold);
    free(t->order);
    free(t->first);
    *t = (layer_tokens){0};
}

static ks_status order_rows(layer_tokens *out, const ks_dataset *data,
                            const ks_folds *folds, int32_t seed, ks_err *err) {
    ks_status st = KS_OK;
    const ks_acts_info *info = data->info;
    const uint8_t *of = folds->fold + seed * data->n;
    size_t n = (size_t)data->n;
    int64_t *offset = NULL, *first = NULL, k = 0;
    int8_t *y = NULL;
    uint8_t *fold = NULL;
    KS_TRY(ks_alloc(&offset, n + 1, sizeof *offset, "tokens", err));
    KS_TRY(ks_alloc(&y, n, 1, "tokens", err));
    KS_TRY(ks_alloc(&fold, n, 1, "tokens", err));
    KS_TRY(ks_alloc(&out->order, n, sizeof *out->order, "tokens", err));
    KS_TRY(ks_alloc(&out->first, n, sizeof *out->first, "tokens", err));
    KS_TRY(ks_alloc(&first, (size_t)info->n_steps + 1, sizeof *first, "tokens",
                    err));
    for (int64_t i = 0; i < info->n_steps; i++)
        first[i + 1] = first[i] + tokens_of(&info->steps[i]);
    for (int f = 0; f < folds->n_folds; f++)
        for (int64_t i = 0; i < data->n; i++) {
            if (of[i] != f) continue;
            out->order[k] = i;
            out->first[k] = first[data->row[i]];
            y[k] = data->y[i];
            fold[k] = (uint8_t)f;
            offset[k + 1] = offset[k] + tokens_of(&info->steps[data->row[i]]);
            k++;
        }
    out->rows = (ks_attention_rows){
        .n = data->n, .d = info->d, .offset = offset, .y = y, .fold = fold};
    offset = NULL, y = NULL, fold = NULL;
done:
    free(offset);
    free(y);
    free(fold);
    free(first);
    return st;
}

/* The step that a token is in. */
static int64_t step_of(const ks_attention_rows *r, int64_t token) {
    int64_t low = 0, high = r->n;
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (r->offset[middle] <= token)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Tokens [token, token + n) of the ordered ones, as stored: a source's read. */
static ks_status read_tokens(void *user, int64_t token, int64_t n, void *out,
                             ks_err *err) {
    ks_status st = KS_OK;
    const layer_tokens *t = user;
    const int64_t *offset = t->rows.offset;
    int64_t rows[KS_WINDOW], some;
    size_t row = ks_type_row_bytes(ks_acts_get_info(t->file)->dtype, t->rows.d);
    char *to = out;
    for (int64_t i = step_of(&t->rows, token); n > 0; n -= some) {
        some = KS_MIN(n, KS_WINDOW);
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
        for (int64_t k = 0; k < some; k++, token++) {
            if (token == offset[i + 1]) i++;
            rows[k] = t->first[i] + token - offset[i];
        }
        KS_TRY(ks_acts_gather(t->file, t->stream, KS_TOKENS, t->layer, rows,
                              some, to, err));
        to += (size_t)some * row;
    }
done:
    return st;
}

/* Sums over seeds and test rows: of several tokens the four figures of where
 * the attention is, and how many rows. */
enum { ENTROPY, FIRST, LAST, EVEN, LOOKED_AT, N_LOOKS };

typedef struct gathered {
    double look[N_LOOKS];
    float *score; /* [n] mean over seeds */
    int32_t n_seeds, fits, unconverged;
} gathered;

/* Of the folds in `outer`. */
static void add_fit(gathered *g, const layer_tokens *rows,
                    const ks_attended_fit *fit, uint32_t outer) {
    const ks_attention_rows *r = &rows->rows;
    for (int64_t i = 0; i < r->n; i++) {
        int64_t tokens = r->offset[i + 1] - r->offset[i];
        if (!ks__holds_asked(outer, r->fold[i])) continue;
        g->score[rows->order[i]] += fit->score[i] / (float)g->n_seeds;
        if (tokens < 2) continue;
        g->look[ENTROPY] += (double)fit->entropy[i];
        g->look[FIRST] += (double)fit->first[i];
        g->look[LAST] += (double)fit->last[i];
        g->look[EVEN] += 1 / (double)tokens;
        g->look[LOOKED_AT]++;
    }
    g->fits += fit->fits;
    g->unconverged += fit->unconverged;
}

typedef struct needs {
    const ks_attention_rows *rows;
    const ks_folds *folds;
} needs;

/* Starts while the L2 probes are fitted; then the fits around them. */
static size_t bytes(void *user, int threads, bool scratch) {
    const needs *u = user;
    const ks_attention_rows *r = u->rows;
    ks_holds holds;
    ks__holds_fill(&holds, u->folds, 0, true);
    int32_t n_columns = column_of(holds.n, 0), probes = n_columns / STARTS;
    size_t columns = (size_t)n_columns, n = (size_t)r->n, d = (size_t)r->d;
    size_t looks = (size_t)column_of(u->folds->n_folds, 0) * n;
    const ks_l2_shape shape = {.n = r->n,
                               .d = r->d,
                               .type = KS_F32,
                               .n_designs = 1,
                               .n_folds = u->folds->n_folds,
                               .n_columns = probes,
                               .n_splits = holds.n};
    size_t starts = ks_l2_bytes(&shape, threads, scratch) +
                    (size_t)probes * (d + 1) * sizeof(double) +
                    (size_t)threads * (KS_WINDOW + 2) * d * sizeof(float) +
                    ks_attention_kept(r, scratch);
    size_t fits = ks_attention_bytes(r, n_columns, threads, scratch);
    return KS_MAX(starts, fits) + columns * (2 * d + 1) * sizeof(double) +
           (columns + columns / STARTS) * n * sizeof(float) +
           3 * looks * sizeof(float) + 4 * n * sizeof(float) +
           columns * sizeof(ks_attention_column);
}

size_t ks_attended_bytes(const ks_dataset *d, const ks_folds *folds,
                         int threads, bool scratch) {
    layer_tokens tokens = {0};
    needs user = {&tokens.rows, folds};
    size_t least = 0;
    if (order_rows(&tokens, d, folds, 0, NULL) == KS_OK)
        least = bytes(&user, threads, scratch) +
                (size_t)d->n * (3 * sizeof(int64_t) + 2) +
                (size_t)d->info->n_steps * sizeof(int64_t);
    free_tokens(&tokens);
    return least;
}

/* One layer of one seed's folds in `outer`, 0: all. */
static ks_status run_layer(gathered *g, const ks_analysis_input *in,
                           ks_stream stream, int32_t layer, int32_t seed,
                           uint32_t outer, ks_err *err) {
    ks_status st = KS_OK;
    const ks_folds *f = in->folds;
    layer_tokens tokens = {0};
    ks_attended_fit fit = {0};
    ks_err own = {0};
    ks_nest_options nest = in->options->nest;
    KS_TRY(order_rows(&tokens, in->dataset, f, seed, err));
    tokens.file = in->dataset->acts;
    tokens.stream = stream, tokens.layer = layer;
    const ks_attention_rows *rows = &tokens.rows;
    const ks_folds one = {rows->n, f->n_folds, f->n_inner, 1, rows->fold};
    const ks_l2_source source = {.n = rows->offset[rows->n],
                                 .d = rows->d,
                                 .type = in->dataset->info->dtype,
                                 .read = read_tokens,
                                 .user = &tokens};
    needs user = {rows, f};
    nest.outer = outer;
    KS_TRY(ks_room_fit(&in->options->room, bytes, &user,
                       "attention over tokens", &nest, err));
    st = ks_attended_fit_rows(&fit, &source, rows, &one, &nest,
                              in->options->seed + (uint64_t)seed, &own);
    KS_CHECK(st == KS_OK, st, "%s/tokens layer %d, attention: %s",
             ks_stream_name(stream), layer, own.text);
    add_fit(g, &tokens, &fit, outer);
done:
    ks_attended_fit_free(&fit);
    free_tokens(&tokens);
    return st;
}

ks_status ks_attended_run(ks_attended *out, ks_others *others,
                          const ks_analysis_input *in, const ks_series *series,
                          int32_t cell, int32_t *fits, int32_t *unconverged,
                          ks_err *err) {
    ks_status st = KS_OK;
    const ks_grid_options *o = in->options;
    const ks_folds *f = in->folds;
    int32_t usual = ks_series_usual(series, f->n_seeds * f->n_folds);
    const ks_cell *named = &series->cells[cell < 0 ? usual : cell];
    const float *mean = cell < 0 ? series->score : named->score;
    ks_other other = {.probe = "attention",
                      .note = "attention over the step's tokens; strength "
                              "chosen in the training folds",
                      .stream = series->stream,
                      .position = series->position,
                      .layer = cell < 0 ? -1 : named->layer};
    gathered g = {.n_seeds = f->n_seeds};
    ks_scored scored;
    *out = (ks_attended){.stream = series->stream, .layer = named->layer};
    KS_TRY(ks_alloc(&g.score, (size_t)in->dataset->n, sizeof(float), "scores",
                    err));
    for (int32_t s = 0; s < f->n_seeds; s++)
        for (int32_t c = 0; c < series->n_cells; c++) {
            uint32_t outer = 0;
            if (cell < 0)
                outer = ks__holds_choosing(series->chosen + s * f->n_folds,
                                           f->n_folds, c);
            if (cell < 0 ? outer != 0 : c == cell)
                KS_TRY(run_layer(&g, in, series->stream, series->cells[c].layer,
                                 s, outer, err));
        }
    *fits += g.fits;
    *unconverged += g.unconverged;
    out->entropy = g.look[ENTROPY] / g.look[LOOKED_AT];
    out->first = g.look[FIRST] / g.look[LOOKED_AT];
    out->last = g.look[LAST] / g.look[LOOKED_AT];
    out->even = g.look[EVEN] / g.look[LOOKED_AT];
    scored = ks_grid_scored(in->dataset, g.score);
    KS_TRY(ks_stats_balanced(&scored, mean, o->bootstrap, o->seed,
                             &out->accuracy, &out->less_mean, err));
    out->mean =
        (cell < 0 ? series->metrics : named->metrics)[KS_BALANCED_ACCURACY];
    other.score = g.score;
    g.score = NULL;
    KS_TRY(ks_others_add(others, &other, in->dataset, in->grid, o, err));
done:
    free(g.score);
    return st;
}
