/* published_text.c - see published_text.h. */
#include "published_text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "layer.h"
#include "n_threads.h"
#include "window.h"
#include "words_state.h"

static const int32_t HIDDEN[] = {128, 64};
static const double RATE = 1e-3;
enum { BATCH = 256, EPOCHS = 30 };

/* ------------------------------------------------------------------- TF-IDF
 */

typedef struct term {
    int64_t times;
    int32_t gram, rows;
} term;

static int most_first(const void *pa, const void *pb) {
    const term *a = pa, *b = pb;
    if (a->times != b->times) return a->times > b->times ? -1 : 1;
    return (a->gram > b->gram) - (a->gram < b->gram);
}

static int by_gram(const void *pa, const void *pb) {
    const term *a = pa, *b = pb;
    return (a->gram > b->gram) - (a->gram < b->gram);
}

/* terms [n_grams]: the *n that are kept come first, ascending. */
static void choose_terms(term *terms, const ks_words *w, const int32_t *rows,
                         int32_t n_rows, int32_t most, int32_t *n) {
    size_t kept = 0;
    for (size_t g = 0; g < w->n_grams; g++) terms[g].gram = (int32_t)g;
    for (int32_t i = 0; i < n_rows; i++)
        for (size_t e = w->row[rows[i]]; e < w->row[rows[i] + 1]; e++) {
            terms[w->entries[e].gram].times += w->entries[e].times;
            terms[w->entries[e].gram].rows++;
        }
    for (size_t g = 0; g < w->n_grams; g++)
        if (terms[g].rows) terms[kept++] = terms[g];
    qsort(terms, kept, sizeof *terms, most_first);
    *n = (int32_t)KS_MIN(kept, (size_t)most);
    qsort(terms, (size_t)*n, sizeof *terms, by_gram);
}

ks_status ks__published_tfidf(const ks_words *w, const int32_t *rows,
                              int32_t n_train, int32_t n_rows, int32_t most,
                              float **x, int64_t *d, ks_err *err) {
    ks_status st = KS_OK;
    term *terms = NULL;
    int32_t *column = NULL, n = 0; /* of a gram, from 1; 0: none */
    KS_TRY(ks_alloc(&terms, w->n_grams + 1, sizeof *terms, "terms", err));
    KS_TRY(ks_alloc(&column, w->n_grams + 1, sizeof *column, "terms", err));
    choose_terms(terms, w, rows, n_train, most, &n);
    KS_CHECK(n, KS_MISMATCH, "no training step has a word of two letters");
    for (int32_t c = 0; c < n; c++) column[terms[c].gram] = c + 1;
    KS_TRY(ks_alloc(x, (size_t)n_rows * (size_t)n, sizeof **x,
                    "TF-IDF of the steps", err));
    *d = n;
    for (int32_t i = 0; i < n_rows; i++) {
        float *row = *x + (int64_t)i * n;
        double square = 0;
        for (int pass = 0; pass < 2; pass++) /* the length, then the values */
            for (size_t e = w->row[rows[i]]; e < w->row[rows[i] + 1]; e++) {
                int32_t c = column[w->entries[e].gram] - 1;
                if (c < 0) continue;
                double idf =
                    log((1 + (double)n_train) / (1 + (double)terms[c].rows)) +
                    1;
                double v = (1 + log(w->entries[e].times)) * idf;
                if (pass)
                    row[c] = (float)(v / sqrt(square));
                else
                    square += v * v;
            }
    }
done:
    free(terms);
    free(column);
    return st;
}

/* ----------------------------------------------------------------- training
 */

/* The steps of a seed, and what the net says of those evaluated. */
typedef struct part {
    int32_t *rows; /* [n] those that train, then those evaluated */
    int32_t n_train, n_eval;
    float *margin; /* [n_eval] positive: removable */
} part;

typedef struct work {
    const ks_dataset *dataset;
    const ks_grid_options *grid;
    const struct ks_ops *ops;
    ks_dev *dev;
    int8_t *removable;     /* [n] the published labels */
    const ks_words *words; /* of TF-IDF, or else */
    const float *vectors;  /* [n, width] */
    int64_t width;
    part of[KS_PUBLISHED_SEEDS];
} work;

static ks_status split(work *w, int32_t s, ks_err *err) {
    ks_status st = KS_OK;
    part *p = &w->of[s];
    int64_t n = w->dataset->n;
    int32_t *eval = NULL;
    KS_TRY(ks_alloc(&p->rows, (size_t)n, sizeof *p->rows, "rows", err));
    KS_TRY(ks_alloc(&eval, (size_t)n, sizeof *eval, "rows", err));
    KS_TRY(ks__published_split(w->removable, n, ks_published_seeds[s], p->rows,
                               &p->n_train, eval, &p->n_eval, err));
    memcpy(p->rows + p->n_train, eval, (size_t)p->n_eval * sizeof *eval);
    KS_TRY(ks_alloc(&p->margin, (size_t)KS_MAX(p->n_eval, 1), sizeof *p->margin,
                    "margins", err));
done:
    free(eval);
    return st;
}

/* Inputs twice (they are padded), parameters as trained_recipe.c counts them.
 */
static ks_status check_room(const work *w, const part *p, int64_t d,
                            ks_err *err) {
    double rows = p->n_train + p->n_eval, wide = (double)d;
    double bytes = sizeof(float) * (2 * rows * wide + 5 * HIDDEN[0] * wide);
    double left = (double)ks_room_left(&w->grid->room);
    if (bytes <= left) return KS_OK;
    return ks_fail(err, KS_LIMIT,
                   "%.0f steps of %.0f inputs take %.0f bytes, there are %.0f",
                   rows, wide, bytes, left);
}

/* *x [rows of the part, *d] */
static ks_status gather(const work *w, const part *p, float **x, int64_t *d,
                        ks_err *err) {
    ks_status st = KS_OK;
    int32_t n = p->n_train + p->n_eval;
    size_t most = w->words ? w->words->n_grams : (size_t)w->width;
    KS_TRY(check_room(w, p, (int64_t)KS_MIN(most, (size_t)KS_PUBLISHED_TERMS),
                      err));
    if (w->words)
        return ks__published_tfidf(w->words, p->rows, p->n_train, n,
                                   KS_PUBLISHED_TERMS, x, d, err);
    *d = w->width;
    KS_TRY(
        ks_alloc(x, (size_t)n * (size_t)w->width, sizeof **x, "vectors", err));
    for (int32_t i = 0; i < n; i++)
        memcpy(*x + i * w->width, w->vectors + p->rows[i] * w->width,
               (size_t)w->width * sizeof **x);
done:
    return st;
}

static ks_status train(work *w, int32_t s, ks_published_text *out,
                       ks_err *err) {
    ks_status st = KS_OK;
    part *p = &w->of[s];
    int32_t n = p->n_train + p->n_eval, *place = NULL;
    int8_t *y = NULL;
    float *x = NULL;
    int64_t d = 0;
    ks_adamw_data *data = NULL;
    const ks_adamw_options options = {.n_hidden = (int32_t)KS_COUNT(HIDDEN),
                                      .hidden = HIDDEN,
                                      .batch = KS_MIN(BATCH, p->n_train),
                                      .epochs = EPOCHS,
                                      .constant = true};
    KS_TRY(ks_alloc(&place, (size_t)n, sizeof *place, "rows", err));
    KS_TRY(ks_alloc(&y, (size_t)n, 1, "labels", err));
    KS_TRY(gather(w, p, &x, &d, err));
    for (int32_t i = 0; i < n; i++) {
        place[i] = i;
        y[i] = w->removable[p->rows[i]];
    }
    const ks_adamw_probe probe = {
        .rows = place,
        .n_rows = p->n_train,
        .y = y,
        .key = {ks_published_seeds[s], 0},
        .lr = RATE,
        .decay = KS_TRAINED_DECAY,
        .class_weight = {1, 1}, /* as many of each class train */
        .eval = place + p->n_train,
        .n_eval = p->n_eval,
        .margin = p->margin};
    KS_TRY(ks_adamw_open(&data, w->ops, w->dev, x, 1, n, d, err));
    KS_TRY(ks_adamw_train(data, &options, &probe, 1, err));
    out->rung.rate[s] = RATE;
    out->rung.epoch[s] = EPOCHS;
    out->n_inputs[s] = (int32_t)d;
done:
    ks_adamw_close(&data);
    free(place);
    free(y);
    free(x);
    return st;
}

/* ------------------------------------------------------------------ figures
 */

/* A problem's rows and right ones, by class, of each seed. */
enum { OF_SEED = 4, N_SUMS = OF_SEED * KS_PUBLISHED_SEEDS };

static double balanced_of(const double *t) {
    return 0.5 * (t[1] / t[0] + t[3] / t[2]);
}

static void figures(const double *total, const void *user, double *out) {
    (void)user;
    out[0] = out[1] = 0;
    for (int s = 0; s < KS_PUBLISHED_SEEDS; s++) {
        const double *t = total + s * OF_SEED;
        out[0] += (t[1] + t[3]) / (t[0] + t[2]) / KS_PUBLISHED_SEEDS;
        out[1] += balanced_of(t) / KS_PUBLISHED_SEEDS;
    }
}

static ks_status measure(const work *w, ks_rung *rung, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = w->dataset;
    double *sums = NULL, square = 0;
    ks_interval got[2];
    KS_TRY(ks_alloc(&sums, (size_t)d->n_groups * N_SUMS, sizeof *sums,
                    "problems", err));
    for (int s = 0; s < KS_PUBLISHED_SEEDS; s++) {
        const part *p = &w->of[s];
        for (int32_t i = 0; i < p->n_eval; i++) {
            int32_t row = p->rows[p->n_train + i];
            bool removable = p->margin[i] > 0;
            double *t = sums + d->group[row] * N_SUMS + s * OF_SEED +
                        2 * w->removable[row];
            KS_CHECK(isfinite(p->margin[i]), KS_NUMERIC,
                     "seed %d: the score of row %d is not a finite number",
                     (int)ks_published_seeds[s], row);
            t[0]++;
            t[1] += removable == w->removable[row];
        }
        rung->n_eval += p->n_eval;
    }
    KS_TRY(ks_stats_of_sums(sums, d->n_groups, N_SUMS, figures, NULL, 2,
                            w->grid->bootstrap, w->grid->seed, got, err));
    rung->accuracy = got[0];
    rung->balanced = got[1];
    for (int s = 0; s < KS_PUBLISHED_SEEDS; s++) {
        double t[OF_SEED] = {0};
        for (int32_t g = 0; g < d->n_groups; g++)
            for (int k = 0; k < OF_SEED; k++)
                t[k] += sums[g * N_SUMS + s * OF_SEED + k];
        rung->seed_accuracy[s] = (t[1] + t[3]) / (t[0] + t[2]);
        double off = balanced_of(t) - rung->balanced.value;
        square += off * off / KS_PUBLISHED_SEEDS;
    }
    rung->sd = sqrt(square);
done:
    free(sums);
    return st;
}

/* ---------------------------------------------------------------------- all
 */

/* Where memory does not hold one of them. */
static ks_status left_out(const char *name, const ks_err *why) {
    ks_log(KS_LOG_INFO, "probe: %s as published is left out: %s", name,
           why->text);
    return KS_OK;
}

/* One of them on what w has; taken back where memory does not hold it. */
static ks_status run(work *w, const char *name, ks_published_texts *out,
                     ks_err *err) {
    ks_status st = KS_OK;
    ks_published_text *text = &out->at[out->n++];
    ks_err inner = {0};
    *text = (ks_published_text){0};
    snprintf(text->name, sizeof text->name, "%.63s", name);
    for (int32_t s = 0; s < KS_PUBLISHED_SEEDS; s++) {
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
        st = train(w, s, text, &inner);
        if (st == KS_LIMIT) {
            out->n--;
            return left_out(name, &inner);
        }
        KS_CHECK(st == KS_OK, st, "%s as published: %s", name, inner.text);
    }
    KS_TRY(measure(w, &text->rung, err));
done:
    return st;
}

static ks_status run_words(work *w, ks_published_texts *out, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = w->dataset;
    const ks_room *room = &w->grid->room;
    ks_words *words = NULL;
    ks_err inner = {0};
    KS_TRY(ks_words_open(&words, err));
    if (room->limit) ks_words_bound(words, ks_room_left(room));
    for (int64_t i = 0; i < d->n; i++) {
        size_t n;
        const char *text = ks_dataset_text(d, i, &n);
        st = ks_words_add_plain(words, text, n, &inner);
        if (st == KS_LIMIT) {
            st = left_out("TF-IDF", &inner);
            goto done;
        }
        KS_CHECK(st == KS_OK, st, "%s", inner.text);
    }
    w->words = words;
    KS_TRY(run(w, "TF-IDF", out, err));
done:
    w->words = NULL;
    ks_words_close(&words);
    return st;
}

static ks_status run_vectors(work *w, const ks_published_vectors *v,
                             ks_published_texts *out, ks_err *err) {
    ks_status st = KS_OK;
    int64_t n = w->dataset->n, d = ks_acts_get_info(v->file)->d;
    ks_layer layer = {.dataset = w->dataset,
                      .file = v->file,
                      .place = v->place,
                      .stream = v->stream,
                      .position = v->position,
                      .layer = v->layer};
    const ks_l2_source source = ks_layer_source(&layer);
    float *x = NULL;
    size_t bytes = (size_t)(n * d) * sizeof *x,
           left = ks_room_left(&w->grid->room);
    if (bytes > left) {
        ks_err why = {0};
        (void)ks_fail(&why, KS_LIMIT,
                      "its vectors take %zu bytes, there are %zu", bytes, left);
        return left_out(v->name, &why);
    }
    KS_TRY(ks_alloc(&x, (size_t)(n * d), sizeof *x, "vectors", err));
    KS_TRY(ks__window_all(&source, x, err));
    w->vectors = x;
    w->width = d;
    KS_TRY(run(w, v->name, out, err));
done:
    w->vectors = NULL;
    free(x);
    return st;
}

ks_status ks_published_texts_run(ks_published_texts *out,
                                 const ks_dataset *dataset, bool words,
                                 const ks_published_vectors *vectors,
                                 int32_t n_vectors, const ks_grid_options *grid,
                                 ks_err *err) {
    ks_status st = KS_OK;
    const ks_nest_options *nest = &grid->nest;
    work w = {
        .dataset = dataset, .grid = grid, .ops = nest->ops, .dev = nest->dev};
    *out = (ks_published_texts){0};
    KS_TRY(ks_alloc(&out->at, (size_t)n_vectors + 1, sizeof *out->at,
                    "baselines", err));
    KS_TRY(ks_alloc(&w.removable, (size_t)dataset->n, 1, "labels", err));
    for (int64_t i = 0; i < dataset->n; i++)
        w.removable[i] = dataset->y[i] != 1;
    for (int32_t s = 0; s < KS_PUBLISHED_SEEDS; s++) KS_TRY(split(&w, s, err));
    if (!nest->dev) {
        int threads = ks_threads(nest->threads);
        KS_TRY(ks_dev_open(&w.dev, &w.ops, "cpu", threads, NULL, err));
    }
    if (words && dataset->has_text) KS_TRY(run_words(&w, out, err));
    for (int32_t k = 0; k < n_vectors; k++)
        KS_TRY(run_vectors(&w, &vectors[k], out, err));
done:
    if (!nest->dev && w.dev) ks_dev_close(&w.dev, w.ops);
    for (int32_t s = 0; s < KS_PUBLISHED_SEEDS; s++) {
        free(w.of[s].rows);
        free(w.of[s].margin);
    }
    free(w.removable);
    if (st != KS_OK) ks_published_texts_free(out);
    return st;
}

void ks_published_texts_free(ks_published_texts *texts) {
    free(texts->at);
    *texts = (ks_published_texts){0};
}
