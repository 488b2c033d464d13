/* layers_needed.c - ks_layers_needed_run of analyses.h.
 *
 * For an outer fold the features of a row are the margins of the layers'
 * probes that never saw it: of inner fits for training rows, of the outer fit
 * for test rows (nest.h). A subset's model is
 *     min  sum_i c_i log(1 + exp(-s_i (w.x_i + b))) + RIDGE |w|^2 / 2
 * with c_i as in l2.h on margins over their deviation, by Newton's method; it
 * is so small that subsets are compared on the rows that train it. */
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analyses.h"
#include "n_threads.h"

static const double RIDGE = 1e-4, TOLERANCE = 1e-7;

enum { MOST = 1024, STEPS = 50, HALVES = 20 };

/* Training rows of an outer fold. */
typedef struct rows {
    int64_t n;
    int32_t n_cells;
    float *x;  /* [n_cells, n] over their deviation */
    int8_t *y; /* [n] */
    double c[2];
    double *scale; /* [n_cells] */
} rows;

/* A model of the layers in `of`. */
typedef struct model {
    int32_t k, *of;  /* [k] places of cells */
    double *w;       /* [k + 1] the intercept last */
    double *g, *h;   /* [k + 1], [(k + 1)^2] */
    double *z, *row; /* [n], [k + 1] */
} model;

static void free_model(model *m) {
    free(m->of);
    free(m->w);
    free(m->g);
    free(m->h);
    free(m->z);
    free(m->row);
}

static ks_status alloc_model(model *m, int32_t k, int64_t n, ks_err *err) {
    ks_status st = KS_OK;
    size_t p = (size_t)k + 1;
    *m = (model){0};
    KS_TRY(ks_alloc(&m->of, p, sizeof *m->of, "layers", err));
    KS_TRY(ks_alloc(&m->w, p, sizeof *m->w, "layers", err));
    KS_TRY(ks_alloc(&m->g, p, sizeof *m->g, "layers", err));
    KS_TRY(ks_alloc(&m->h, p * p, sizeof *m->h, "layers", err));
    KS_TRY(ks_alloc(&m->z, (size_t)n, sizeof *m->z, "layers", err));
    KS_TRY(ks_alloc(&m->row, p, sizeof *m->row, "layers", err));
done:
    return st;
}

static double loss_at(const rows *r, model *m, const double *w) {
    double loss = 0;
    for (int64_t i = 0; i < r->n; i++) m->z[i] = w[m->k];
    for (int32_t j = 0; j < m->k; j++) {
        const float *x = r->x + m->of[j] * r->n;
        for (int64_t i = 0; i < r->n; i++) m->z[i] += w[j] * (double)x[i];
        loss += RIDGE * w[j] * w[j] / 2;
    }
    for (int64_t i = 0; i < r->n; i++) {
        double z = r->y[i] ? -m->z[i] : m->z[i], e = exp(-fabs(z));
        loss += r->c[r->y[i]] * (fmax(z, 0) + log1p(e));
    }
    return loss;
}

/* Gradient and the Hessian's lower triangle at m->z of m->w. */
static void derive(const rows *r, model *m) {
    int32_t p = m->k + 1;
    memset(m->g, 0, sizeof *m->g * (size_t)p);
    memset(m->h, 0, sizeof *m->h * (size_t)(p * p));
    m->row[m->k] = 1;
    for (int64_t i = 0; i < r->n; i++) {
        double q = 1 / (1 + exp(-m->z[i])), c = r->c[r->y[i]];
        double residual = c * (q - r->y[i]), curve = c * q * (1 - q);
        for (int32_t j = 0; j < m->k; j++)
            m->row[j] = (double)r->x[m->of[j] * r->n + i];
        for (int32_t j = 0; j < p; j++) {
            double *restrict h = m->h + j * p, by = curve * m->row[j];
            m->g[j] += residual * m->row[j];
            for (int32_t l = 0; l <= j; l++) h[l] += by * m->row[l];
        }
    }
    for (int32_t j = 0; j < m->k; j++) {
        m->g[j] += RIDGE * m->w[j];
        m->h[j * p + j] += RIDGE;
    }
}

/* Newton with halved steps from m->w; the loss at its end. */
static double solve(const rows *r, model *m) {
    int32_t p = m->k + 1;
    double loss = loss_at(r, m, m->w), next[MOST + 1];
    for (int step = 0; step < STEPS; step++) {
        double most = 0, found = INFINITY;
        derive(r, m);
        for (int32_t j = 0; j < p; j++) most = fmax(most, fabs(m->g[j]));
        if (most <= TOLERANCE) break;
        m->h[p * p - 1] += 1e-12; /* the intercept alone has no ridge */
        if (LAPACKE_dposv(LAPACK_ROW_MAJOR, 'L', p, 1, m->h, p, m->g, 1)) break;
        for (int half = 0; half < HALVES && !(found <= loss); half++) {
            for (int32_t j = 0; j < p; j++)
                next[j] = m->w[j] - ldexp(m->g[j], -half);
            found = loss_at(r, m, next);
        }
        if (!(found <= loss)) break;
        memcpy(m->w, next, sizeof *next * (size_t)p);
        if (loss - found <= 1e-14 * loss) break;
        loss = found;
    }
    return loss_at(r, m, m->w);
}

/* ------------------------------------------------------------ rows of a fold
 */

static void free_rows(rows *r) {
    free(r->x);
    free(r->y);
    free(r->scale);
}

static ks_status take_rows(rows *r, const ks_analysis_input *in,
                           const ks_series *s, int32_t fit, ks_err *err) {
    ks_status st = KS_OK;
    const ks_folds *f = in->folds;
    const uint8_t *fold = f->fold + fit / f->n_folds * f->n;
    int64_t count[2] = {0, 0};
    *r = (rows){.n_cells = s->n_cells};
    KS_TRY(ks_alloc(&r->x, (size_t)s->n_cells * (size_t)f->n, sizeof *r->x,
                    "margins", err));
    KS_TRY(ks_alloc(&r->y, (size_t)f->n, sizeof *r->y, "margins", err));
    KS_TRY(ks_alloc(&r->scale, (size_t)s->n_cells, sizeof *r->scale, "margins",
                    err));
    for (int64_t i = 0; i < f->n; i++)
        if (fold[i] != fit % f->n_folds) {
            r->y[r->n++] = in->dataset->y[i];
            count[in->dataset->y[i]]++;
        }
    for (int c = 0; c < 2; c++) r->c[c] = 0.5 / (double)count[c];
    for (int32_t k = 0; k < s->n_cells; k++) {
        const float *from = s->cells[k].nest.inner + fit * f->n;
        float *to = r->x + k * r->n;
        double sum = 0, square = 0;
        int64_t m = 0;
        for (int64_t i = 0; i < f->n; i++)
            if (fold[i] != fit % f->n_folds) {
                to[m++] = from[i];
                sum += (double)from[i];
                square += (double)from[i] * (double)from[i];
            }
        double mean = sum / (double)m,
               variance = square / (double)m - mean * mean;
        r->scale[k] = variance > 0 ? sqrt(variance) : 1;
        for (int64_t i = 0; i < m; i++)
            to[i] = (float)((double)to[i] / r->scale[k]);
    }
done:
    return st;
}

/* ------------------------------------------------------------------- subsets
 */

typedef struct work {
    const ks_analysis_input *in;
    const ks_series *series;
    ks_layers_needed *out;
    int threads;
    double *score; /* [n_sizes, n] sums over seeds */
} work;

/* Adds the model's margins on the fit's test rows. */
static void score(work *w, const rows *r, const model *m, int32_t fit,
                  double *to) {
    const ks_folds *f = w->in->folds;
    const uint8_t *fold = f->fold + fit / f->n_folds * f->n;
    for (int64_t i = 0; i < f->n; i++) {
        if (fold[i] != fit % f->n_folds) continue;
        double z = m->w[m->k];
        for (int32_t j = 0; j < m->k; j++)
            z += m->w[j] / r->scale[m->of[j]] *
                 (double)w->series->cells[m->of[j]].nest.inner[fit * f->n + i];
        to[i] += z;
    }
}

/* The layer that lowers the loss of `have` most joins it. */
static ks_status add_layer(work *w, const rows *r, model *have, ks_err *err) {
    ks_status st = KS_OK;
    int32_t n_cells = w->series->n_cells, best = -1;
    double *loss = NULL;
    KS_TRY(ks_alloc(&loss, (size_t)n_cells, sizeof *loss, "losses", err));
#pragma omp parallel for schedule(dynamic) num_threads(w->threads)
    for (int32_t c = 0; c < n_cells; c++) {
        model mine = {0};
        ks_err own = {0};
        bool taken = false;
        loss[c] = INFINITY;
        for (int32_t j = 0; j < have->k; j++) taken |= have->of[j] == c;
        ks_status got =
            taken ? KS_OK : alloc_model(&mine, have->k + 1, r->n, &own);
        if (!taken && got == KS_OK) {
            mine.k = have->k + 1;
            memcpy(mine.of, have->of, sizeof *mine.of * (size_t)have->k);
            mine.of[have->k] = c;
            memcpy(mine.w, have->w, sizeof *mine.w * (size_t)have->k);
            mine.w[mine.k] = have->w[have->k];
            loss[c] = solve(r, &mine);
        }
        if (got != KS_OK)
#pragma omp critical(ks_layers_needed)
        {
            st = got;
            if (err) *err = own;
        }
        free_model(&mine);
    }
    KS_TRY(st);
    for (int32_t c = 0; c < n_cells; c++)
        if (loss[c] < INFINITY && (best < 0 || loss[c] < loss[best])) best = c;
    KS_CHECK(best >= 0, KS_NUMERIC, "no layer has a finite loss");
    have->of[have->k++] = best;
    have->w[have->k] = have->w[have->k - 1];
    have->w[have->k - 1] = 0;
    solve(r, have);
done:
    free(loss);
    return st;
}

static ks_status run_fit(work *w, int32_t fit, ks_err *err) {
    ks_status st = KS_OK;
    ks_layers_needed *o = w->out;
    int32_t n_cells = w->series->n_cells,
            n_fits = w->series->cells[0].nest.n_fits;
    int64_t n = w->in->folds->n;
    rows r = {0};
    model have = {0};
    KS_TRY(take_rows(&r, w->in, w->series, fit, err));
    KS_TRY(alloc_model(&have, n_cells, r.n, err));
    for (int32_t k = 0; k + 1 < o->n_sizes; k++) {
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
        KS_TRY(add_layer(w, &r, &have, err));
        int32_t *chosen = o->chosen + (k * n_fits + fit) * KS_MOST_NEEDED;
        for (int32_t j = 0; j < KS_MOST_NEEDED; j++)
            chosen[j] = j < have.k ? have.of[j] : -1;
        score(w, &r, &have, fit, w->score + k * n);
    }
    have.k = n_cells;
    for (int32_t c = 0; c < n_cells; c++) have.of[c] = c;
    memset(have.w, 0, sizeof *have.w * ((size_t)n_cells + 1));
    solve(&r, &have);
    score(w, &r, &have, fit, w->score + (o->n_sizes - 1) * n);
done:
    free_model(&have);
    free_rows(&r);
    return st;
}

static ks_status judge(work *w, ks_err *err) {
    ks_status st = KS_OK;
    ks_layers_needed *o = w->out;
    const ks_grid_options *g = w->in->options;
    int64_t n = w->in->folds->n;
    float *one = NULL;
    KS_TRY(ks_alloc(&one, (size_t)n, sizeof *one, "scores", err));
    for (int32_t k = o->n_sizes - 1; k >= 0; k--) {
        for (int64_t i = 0; i < n; i++) {
            one[i] = (float)(w->score[k * n + i] / w->in->folds->n_seeds);
            if (k == o->n_sizes - 1) o->score[i] = one[i];
        }
        ks_scored scored = ks_grid_scored(w->in->dataset, one);
        KS_TRY(ks_stats_balanced(&scored, o->score, g->bootstrap, g->seed,
                                 &o->accuracy[k], &o->minus_all[k], err));
    }
done:
    free(one);
    return st;
}

/* Subsets of 1, 2, .. layers; all of them are one more size. */
static int32_t subsets_of(int32_t n_cells) {
    return KS_MIN(KS_MOST_NEEDED, n_cells - 1);
}

static size_t model_bytes(int64_t n, size_t k) {
    size_t p = k + 1;
    return (size_t)n * sizeof(double) +
           p * (sizeof(int32_t) + (3 + p) * sizeof(double));
}

size_t ks_layers_needed_bytes(const ks_folds *f, int32_t n_cells, int threads) {
    size_t n = (size_t)f->n, cells = (size_t)n_cells;
    size_t sizes = (size_t)subsets_of(n_cells) + 1;
    size_t of_rows = n * (cells * sizeof(float) + 1) + cells * sizeof(double);
    size_t models = model_bytes(f->n, cells) +
                    (size_t)KS_MIN(threads, n_cells) *
                        model_bytes(f->n, KS_MIN(KS_MOST_NEEDED, cells));
    return sizes * n * sizeof(double) + of_rows + models;
}

size_t ks_layers_needed_kept(const ks_folds *f, int32_t n_cells) {
    size_t fits = (size_t)f->n_seeds * (size_t)f->n_folds;
    size_t sizes = (size_t)subsets_of(n_cells) + 1;
    return (size_t)f->n * sizeof(float) +
           sizes * fits * KS_MOST_NEEDED * sizeof(int32_t);
}

ks_status ks_layers_needed_run(ks_layers_needed *out,
                               const ks_analysis_input *in,
                               const ks_series *series, ks_err *err) {
    ks_status st = KS_OK;
    work w = {.in = in, .series = series, .out = out};
    int32_t n_fits = series->cells[0].nest.n_fits,
            few = subsets_of(series->n_cells);
    size_t n = (size_t)in->folds->n;
    KS_CHECK(series->n_cells <= MOST, KS_LIMIT,
             "%d layers; subsets are chosen among at most %d", series->n_cells,
             MOST);
    w.threads = ks_threads(in->options->nest.threads);
    for (int32_t k = 0; k < few; k++) out->size[out->n_sizes++] = k + 1;
    out->size[out->n_sizes++] = series->n_cells;
    KS_TRY(ks_alloc(&out->chosen,
                    (size_t)(out->n_sizes * n_fits) * KS_MOST_NEEDED,
                    sizeof *out->chosen, "layers", err));
    KS_TRY(ks_alloc(&out->score, n, sizeof *out->score, "scores", err));
    KS_TRY(ks_alloc(&w.score, (size_t)out->n_sizes * n, sizeof *w.score,
                    "scores", err));
    for (int32_t fit = 0; fit < n_fits; fit++) KS_TRY(run_fit(&w, fit, err));
    KS_TRY(judge(&w, err));
done:
    free(w.score);
    return st;
}
