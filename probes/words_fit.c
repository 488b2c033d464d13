/* words_fit.c - liblinear on n-grams, nested as in nest.h. */
#include "words_state.h"

#include <linear.h>
#include <math.h>
#include <stdlib.h>

#include "holds.h"
#include "n_threads.h"

static const double strengths[] = {0.01, 0.1, 1, 10, 100};
enum { N_STRENGTHS = (int)KS_COUNT(strengths) };

static void silent(const char *text) {
    (void)text;
}

/* All rows as sparse vectors under the vocabulary of one training set. */
typedef struct sparse {
    int32_t *index; /* [n_grams] feature from 1; 0: not in the vocabulary */
    double *idf;    /* [n_grams] */
    struct feature_node *nodes, **x; /* [n] rows, each ends with index -1 */
    struct feature_node **train;
    double *y;
    int32_t n_features, n_train;
    int64_t count[2];
} sparse;

static void free_sparse(sparse *s) {
    free(s->index);
    free(s->idf);
    free(s->nodes);
    free(s->x);
    free(s->train);
    free(s->y);
}

static ks_status find_vocabulary(sparse *s, const ks_words *w,
                                 ks_words_kind kind, const uint8_t *fold,
                                 uint32_t hold, ks_err *err) {
    ks_status st = KS_OK;
    int64_t n = 0;
    KS_TRY(
        ks_alloc(&s->index, w->n_grams + 1, sizeof *s->index, "n-grams", err));
    KS_TRY(ks_alloc(&s->idf, w->n_grams + 1, sizeof *s->idf, "n-grams", err));
    for (int64_t i = 0; i < w->n; i++) {
        if (hold >> fold[i] & 1) continue;
        n++;
        for (size_t e = w->row[i]; e < w->row[i + 1]; e++)
            s->idf[w->entries[e].gram]++;
    }
    for (size_t g = 0; g < w->n_grams; g++) {
        double df = s->idf[g];
        if (df < (kind == KS_WORDS_COMMON ? 2 : 1) ||
            (kind == KS_WORDS_BAG && w->grams[g].length > 1))
            continue;
        s->index[g] = ++s->n_features;
        s->idf[g] = log((1 + (double)n) / (1 + df)) + 1;
    }
done:
    return st;
}

/* Writes row i at `at` with the bias feature last; returns past its end. */
static struct feature_node *fill_row(const sparse *s, const ks_words *w,
                                     ks_words_kind kind, int64_t i,
                                     struct feature_node *at) {
    struct feature_node *begin = at;
    double square[2] = {0, 0}; /* by part */
    for (size_t e = w->row[i]; e < w->row[i + 1]; e++) {
        int32_t gram = w->entries[e].gram;
        double times = w->entries[e].times;
        if (!s->index[gram]) continue;
        double value =
            kind == KS_WORDS_BAG ? times : (1 + log(times)) * s->idf[gram];
        *at++ = (struct feature_node){s->index[gram], value};
        square[w->grams[gram].part] += value * value;
    }
    at = begin;
    for (size_t e = w->row[i]; e < w->row[i + 1]; e++) {
        int32_t gram = w->entries[e].gram;
        if (!s->index[gram]) continue;
        if (kind != KS_WORDS_BAG)
            at->value /= sqrt(square[w->grams[gram].part]);
        at++;
    }
    *at++ = (struct feature_node){s->n_features + 1, 1};
    *at++ = (struct feature_node){-1, 0};
    return at;
}

static ks_status make_sparse(sparse *s, const ks_words *w, ks_words_kind kind,
                             const int8_t *y, const uint8_t *fold,
                             uint32_t hold, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)w->n;
    KS_TRY(find_vocabulary(s, w, kind, fold, hold, err));
    KS_TRY(ks_alloc(&s->nodes, w->n_entries + 2 * n, sizeof *s->nodes,
                    "n-grams", err));
    KS_TRY(ks_alloc(&s->x, n, sizeof *s->x, "n-grams", err));
    KS_TRY(ks_alloc(&s->train, n, sizeof *s->train, "n-grams", err));
    KS_TRY(ks_alloc(&s->y, n, sizeof *s->y, "n-grams", err));
    struct feature_node *at = s->nodes;
    for (int64_t i = 0; i < w->n; i++) {
        s->x[i] = at;
        at = fill_row(s, w, kind, i, at);
        if (hold >> fold[i] & 1) continue;
        s->train[s->n_train] = s->x[i];
        s->y[s->n_train++] = y[i];
        s->count[y[i]]++;
    }
    KS_CHECK(s->count[0] && s->count[1], KS_MISMATCH,
             "training rows of one class only");
done:
    return st;
}

/* Margins of the held-out rows at one C. */
static ks_status fit_one(const sparse *s, int64_t n, const uint8_t *fold,
                         uint32_t hold, double strength, float *margin,
                         ks_err *err) {
    ks_status st = KS_OK;
    int labels[2] = {0, 1}, order[2];
    double weights[2];
    for (int c = 0; c < 2; c++)
        weights[c] = (double)s->n_train / (2 * (double)s->count[c]);
    struct problem problem = {.l = s->n_train,
                              .n = s->n_features + 1,
                              .y = s->y,
                              .x = s->train,
                              .bias = 1};
    struct parameter parameter = {.solver_type = L2R_LR,
                                  .eps = 1e-3,
                                  .C = strength,
                                  .nr_weight = 2,
                                  .weight_label = labels,
                                  .weight = weights};
    const char *wrong = check_parameter(&problem, &parameter);
    KS_CHECK(!wrong, KS_INTERNAL, "liblinear: %s", wrong);
    struct model *model = train(&problem, &parameter);
    KS_CHECK(model, KS_NOMEM, "liblinear gave no model");
    get_labels(model, order);
    for (int64_t i = 0; i < n; i++) {
        double value = 0;
        if (!(hold >> fold[i] & 1)) continue;
        predict_values(model, s->x[i], &value);
        margin[i] = (float)(order[0] == 1 ? value : -value);
    }
    free_and_destroy_model(&model);
done:
    return st;
}

/* One held-out set at all strengths, or at one (chosen). */
typedef struct job {
    uint32_t hold;
    double chosen; /* 0: strengths upward, as far as some outer fold asks */
    float *margin; /* [N_STRENGTHS or 1, n] */
} job;

/* Strengths are tried upward until the loss has risen twice in a row: the
 * largest take longest, and beyond the least loss they only lose. What an outer
 * fold looks at are the rows held out with it, not its own. */
typedef struct climb {
    double last;
    int risen;
} climb;

static bool goes_on(climb *at, double loss) {
    at->risen = loss > at->last ? at->risen + 1 : 0;
    at->last = loss;
    return at->risen < 2;
}

static ks_status run_job(const ks_words *w, ks_words_kind kind, const int8_t *y,
                         const uint8_t *fold, const job *j, ks_err *err) {
    ks_status st = KS_OK;
    sparse s = {0};
    climb at[KS_L2_MAX_FOLDS];
    uint32_t asking = j->hold; /* outer folds */
    for (int f = 0; f < KS_L2_MAX_FOLDS; f++) at[f] = (climb){INFINITY, 0};
    KS_TRY(make_sparse(&s, w, kind, y, fold, j->hold, err));
    for (int c = 0; c < (j->chosen > 0 ? 1 : N_STRENGTHS) && asking; c++) {
        float *margin = j->margin + c * w->n;
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
        KS_TRY(fit_one(&s, w->n, fold, j->hold,
                       j->chosen > 0 ? j->chosen : strengths[c], margin, err));
        for (int f = 0; j->chosen == 0 && f < KS_L2_MAX_FOLDS; f++)
            if (asking >> f & 1 &&
                !goes_on(&at[f], ks_nest_loss(margin, y, fold, w->n,
                                              j->hold & ~(1u << f))))
                asking &= ~(1u << f);
    }
done:
    free_sparse(&s);
    return st;
}

static ks_status run_jobs(const ks_words *w, ks_words_kind kind,
                          const int8_t *y, const uint8_t *fold, const job *jobs,
                          int32_t n_jobs, int threads, ks_err *err) {
    ks_status st = KS_OK;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int32_t i = 0; i < n_jobs; i++) {
        ks_err mine = {0};
        ks_status got = run_job(w, kind, y, fold, &jobs[i], &mine);
        if (got != KS_OK)
#pragma omp critical(ks_words_jobs)
        {
            st = got;
            if (err) *err = mine;
        }
    }
    return st;
}

/* The strength with the least mean loss over the inner parts of fold f, among
 * those that it tried on all of them. */
static double choose(const job *jobs, int32_t n_jobs, const ks_folds *folds,
                     const int8_t *y, const uint8_t *fold, int32_t f) {
    double loss[N_STRENGTHS] = {0};
    int n_tried = N_STRENGTHS, best = 0;
    for (int32_t part = 0; part < folds->n_inner; part++) {
        uint32_t hold = ks_nest_hold(folds->n_folds, folds->n_inner, f, part);
        climb at = {INFINITY, 0};
        int32_t i = 0;
        while (i < n_jobs && jobs[i].hold != hold) i++;
        for (int c = 0; c < n_tried; c++) {
            double one = ks_nest_loss(jobs[i].margin + c * folds->n, y, fold,
                                      folds->n, hold & ~(1u << f));
            loss[c] += one;
            if (!goes_on(&at, one)) n_tried = c + 1;
        }
    }
    for (int c = 1; c < n_tried; c++)
        if (loss[c] < loss[best]) best = c;
    return strengths[best];
}

static ks_status fit_seed(const ks_words *w, ks_words_kind kind,
                          const int8_t *y, const ks_folds *folds,
                          const uint8_t *fold, int threads, float *score,
                          double *strength, ks_err *err) {
    ks_status st = KS_OK;
    job jobs[KS_L2_MAX_FOLDS * KS_L2_MAX_FOLDS];
    int32_t n_jobs = 0;
    float *margins = NULL;
    int64_t n = folds->n;
    for (int32_t f = 0; f < folds->n_folds; f++)
        for (int32_t part = 0; part < folds->n_inner; part++) {
            uint32_t hold =
                ks_nest_hold(folds->n_folds, folds->n_inner, f, part);
            int32_t i = 0;
            while (i < n_jobs && jobs[i].hold != hold) i++;
            if (i == n_jobs) jobs[n_jobs++] = (job){.hold = hold};
        }
    KS_TRY(ks_alloc(&margins, (size_t)(n_jobs * N_STRENGTHS) * (size_t)n,
                    sizeof *margins, "margins", err));
    for (int32_t i = 0; i < n_jobs; i++)
        jobs[i].margin = margins + (int64_t)i * N_STRENGTHS * n;
    KS_TRY(run_jobs(w, kind, y, fold, jobs, n_jobs, threads, err));
    for (int32_t f = 0; f < folds->n_folds; f++)
        strength[f] = choose(jobs, n_jobs, folds, y, fold, f);
    for (int32_t f = 0; f < folds->n_folds; f++) {
        jobs[f] = (job){.hold = 1u << f, .chosen = strength[f]};
        jobs[f].margin = score; /* held-out rows differ */
    }
    KS_TRY(run_jobs(w, kind, y, fold, jobs, folds->n_folds, threads, err));
done:
    free(margins);
    return st;
}

/* Sets held out for inner parts; margins are kept of each at all strengths. */
static int32_t count_holds(const ks_folds *folds) {
    ks_holds holds;
    ks__holds_fill(&holds, folds, 0, false);
    return holds.n;
}

/* Of a thread: rows under a vocabulary, and what liblinear's trust region
 * method has beside them, some ten vectors of features and as many of rows. */
size_t ks_words_bytes(const ks_words *w, const ks_folds *folds, int threads) {
    size_t n = (size_t)w->n;
    size_t rows = (w->n_entries + 2 * n) * sizeof(struct feature_node) +
                  n * 3 * sizeof(double);
    size_t grams = (w->n_grams + 1) * (sizeof(int32_t) + sizeof(double));
    size_t solver = 12 * (w->n_grams + 1 + n) * sizeof(double);
    return (size_t)threads * (rows + grams + solver) +
           (size_t)count_holds(folds) * N_STRENGTHS * n * sizeof(float);
}

ks_status ks_words_fit(const ks_words *words, ks_words_kind kind,
                       const int8_t *y, const ks_folds *folds, int threads,
                       float *score, double *strength, ks_err *err) {
    ks_status st = KS_OK;
    set_print_string_function(silent);
    threads = ks_threads(threads);
    for (int32_t s = 0; s < folds->n_seeds; s++)
        KS_TRY(fit_seed(words, kind, y, folds, folds->fold + s * folds->n,
                        threads, score + s * folds->n,
                        strength + s * folds->n_folds, err));
done:
    return st;
}
