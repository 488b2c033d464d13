/* agree.c - see agree.h. Everything but the pooled correlations is a sum over
 * problems; those walk rows that were ranked once. */
#include "agree.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rank.h"

enum { SAME, KAPPA, KAPPA_3, N_LABEL_METRICS, BANDS = KS_AGREE_BANDS };

/* One pair of scores, made ready. */
typedef struct scored {
    ks_ranked ranked;
    int32_t *group; /* [n] problem of a row */
    double *sum[2]; /* [problems] of the chains' correlations */
    double *count;  /* [problems] chains that have them */
} scored;

/* A chain that is in both. */
typedef struct both {
    const ks_label *a, *b;
    int32_t group;
} both;

typedef struct work {
    ks_agreement *out;
    both *chains;                  /* [out->chains] */
    double (*cells)[BANDS][BANDS]; /* [problems] */
    scored *scores;                /* [out->n_scores] */
    size_t scratch, most_rows;     /* the largest need of a score */
} work;

/* ------------------------------------------------------------------ pairing */

static ks_status check_fit(const ks_labels *a, const ks_labels *b,
                           const ks_label *x, const ks_label *y, ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(x->n_steps == y->n_steps, KS_MISMATCH,
             "chain \"%s\" has %d labels in %s, but %d in %s", x->chain,
             x->n_steps, a->path, y->n_steps, b->path);
    KS_CHECK(!x->text_sha256 || !y->text_sha256 ||
                 strcmp(x->text_sha256, y->text_sha256) == 0,
             KS_MISMATCH,
             "chain \"%s\" was labelled as another text in %s than in %s",
             x->chain, a->path, b->path);
done:
    return st;
}

/* The number of the chain's problem, a new one where it is met first. */
static ks_status group_of(json_t *index, const ks_chains *chains,
                          const char *chain, int32_t *out, ks_err *err) {
    ks_status st = KS_OK;
    const ks_chain *known = chains ? ks_chains_find(chains, chain) : NULL;
    const char *slash = strrchr(chain, '/');
    size_t n =
        slash && slash != chain ? (size_t)(slash - chain) : strlen(chain);
    char *problem = known ? strdup(known->problem) : strndup(chain, n);
    const json_t *place = problem ? json_object_get(index, problem) : NULL;
    *out = (int32_t)(place ? (size_t)json_integer_value(place)
                           : json_object_size(index));
    KS_CHECK(problem && (place || !json_object_set_new(index, problem,
                                                       json_integer(*out))),
             KS_NOMEM, "out of memory for problems");
done:
    free(problem);
    return st;
}

static ks_status pair_chains(work *w, const ks_labels *a, const ks_labels *b,
                             const ks_chains *chains, ks_err *err) {
    ks_status st = KS_OK;
    ks_agreement *out = w->out;
    json_t *index = json_object();
    KS_CHECK(index, KS_NOMEM, "out of memory for problems");
    KS_TRY(ks_alloc(&w->chains, a->n, sizeof *w->chains, "chains", err));
    for (size_t i = 0; i < a->n; i++) {
        both *c = &w->chains[out->chains];
        *c = (both){.a = &a->at[i], .b = ks_labels_find(b, a->at[i].chain)};
        if (!c->b) continue;
        KS_TRY(check_fit(a, b, c->a, c->b, err));
        KS_TRY(group_of(index, chains, c->a->chain, &c->group, err));
        out->chains++;
        out->steps += c->a->n_steps;
    }
    KS_CHECK(out->chains, KS_MISMATCH, "no chain is in both %s and %s", a->path,
             b->path);
    out->only_a = (int64_t)a->n - out->chains;
    out->only_b = (int64_t)b->n - out->chains;
    out->problems = (int32_t)json_object_size(index);
done:
    json_decref(index);
    return st;
}

/* important, removable, unlabelled */
static int band(int8_t label) {
    return label == 1 ? 0 : label == 0 ? 1 : 2;
}

static ks_status count_labels(work *w, ks_err *err) {
    ks_status st = ks_alloc(&w->cells, (size_t)w->out->problems,
                            sizeof *w->cells, "confusion counts", err);
    for (int64_t c = 0; st == KS_OK && c < w->out->chains; c++) {
        const both *chain = &w->chains[c];
        for (int32_t i = 0; i < chain->a->n_steps; i++) {
            int x = band(chain->a->labels[i]), y = band(chain->b->labels[i]);
            w->cells[chain->group][x][y]++;
            w->out->confusion[x][y]++;
        }
    }
    return st;
}

/* ------------------------------------------------------------------- scores */

static json_t *score_of(const ks_label *label, const char *name) {
    return json_object_get(json_object_get(label->object, "scores"), name);
}

static ks_status add_pair(ks_agreement *out, const char *a, size_t n_a,
                          const char *b, size_t n_b, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_grow(&out->scores, &out->capacity, out->n_scores + 1,
                   sizeof *out->scores, "scores", err));
    ks_agree_score *s = &out->scores[out->n_scores++];
    *s = (ks_agree_score){.a = strndup(a, n_a), .b = strndup(b, n_b)};
    KS_CHECK(s->a && s->b, KS_NOMEM, "out of memory for scores");
done:
    return st;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const ks_agree_score *)a)->a,
                  ((const ks_agree_score *)b)->a);
}

/* Names that some chain has in both. */
static ks_status find_same_names(work *w, ks_err *err) {
    ks_status st = KS_OK;
    json_t *seen = json_object(), *list;
    const char *name;
    KS_CHECK(seen, KS_NOMEM, "out of memory for scores");
    for (int64_t c = 0; c < w->out->chains; c++) {
        const both *chain = &w->chains[c];
        json_object_foreach(json_object_get(chain->a->object, "scores"), name,
                            list) {
            if (!score_of(chain->b, name) || json_object_get(seen, name))
                continue;
            size_t n = strlen(name);
            KS_CHECK(!json_object_set_new(seen, name, json_true()), KS_NOMEM,
                     "out of memory for scores");
            KS_TRY(add_pair(w->out, name, n, name, n, err));
        }
    }
    if (w->out->n_scores > 1)
        qsort(w->out->scores, w->out->n_scores, sizeof *w->out->scores,
              by_name);
done:
    json_decref(seen);
    return st;
}

static ks_status add_named_pairs(work *w, const char *pairs, ks_err *err) {
    ks_status st = KS_OK;
    for (const char *at = pairs; at && *at;) {
        size_t n = strcspn(at, ","), left = strcspn(at, "=,");
        KS_CHECK(left > 0 && left + 1 < n, KS_USAGE,
                 "'%.*s' is not a pair of scores such as influence=drop",
                 (int)n, at);
        KS_TRY(add_pair(w->out, at, left, at + left + 1, n - left - 1, err));
        at += n + (at[n] == ',');
    }
done:
    return st;
}

/* The steps at which both have a number: x and y [n], n returned. */
static int64_t rows_of(const both *chain, const ks_agree_score *names,
                       double *x, double *y) {
    json_t *a = score_of(chain->a, names->a), *b = score_of(chain->b, names->b);
    int64_t n = 0;
    if (!a || !b) return 0;
    for (size_t i = 0; i < (size_t)chain->a->n_steps; i++) {
        json_t *u = json_array_get(a, i), *v = json_array_get(b, i);
        if (!json_is_number(u) || !json_is_number(v)) continue;
        x[n] = json_number_value(u);
        y[n++] = json_number_value(v);
    }
    return n;
}

/* A chain's own correlations go into its problem's sums. */
static ks_status add_within(scored *s, ks_agree_score *out, int32_t group,
                            const double *x, const double *y, int64_t n,
                            ks_err *err) {
    ks_status st = KS_OK;
    ks_ranked ranked = {0};
    double *scratch = NULL, value[2];
    KS_TRY(ks_ranked_open(&ranked, x, y, n, err));
    KS_TRY(ks_alloc(&scratch, ks_ranked_scratch(&ranked), sizeof *scratch,
                    "ranks", err));
    ks_ranked_correlate(&ranked, NULL, scratch, &value[0], &value[1]);
    if (!isnan(value[0])) {
        out->chains++;
        s->count[group]++;
        for (int k = 0; k < 2; k++) s->sum[k][group] += value[k];
    }
done:
    free(scratch);
    ks_ranked_close(&ranked);
    return st;
}

static ks_status prepare_score(work *w, size_t index, double *x, double *y,
                               ks_err *err) {
    ks_status st = KS_OK;
    scored *s = &w->scores[index];
    ks_agree_score *out = &w->out->scores[index];
    size_t problems = (size_t)w->out->problems, steps = (size_t)w->out->steps;
    bool there = false;
    int64_t n = 0;
    KS_TRY(ks_alloc(&s->group, steps, sizeof *s->group, "steps", err));
    KS_TRY(ks_alloc(&s->count, problems, sizeof *s->count, "problems", err));
    for (int k = 0; k < 2; k++)
        KS_TRY(ks_alloc(&s->sum[k], problems, sizeof *x, "problems", err));
    for (int64_t c = 0; c < w->out->chains; c++) {
        const both *chain = &w->chains[c];
        there |= score_of(chain->a, out->a) && score_of(chain->b, out->b);
        int64_t here = rows_of(chain, out, x + n, y + n);
        for (int64_t i = 0; i < here; i++) s->group[n + i] = chain->group;
        KS_TRY(add_within(s, out, chain->group, x + n, y + n, here, err));
        n += here;
    }
    KS_CHECK(there, KS_USAGE,
             "no chain has score \"%s\" in the first file and \"%s\" in the "
             "second",
             out->a, out->b);
    out->steps = n;
    KS_TRY(ks_ranked_open(&s->ranked, x, y, n, err));
    w->scratch = KS_MAX(w->scratch, ks_ranked_scratch(&s->ranked));
    w->most_rows = KS_MAX(w->most_rows, (size_t)n);
done:
    return st;
}

static ks_status prepare_scores(work *w, const char *pairs, ks_err *err) {
    ks_status st = KS_OK;
    double *x = NULL, *y = NULL;
    KS_TRY(find_same_names(w, err));
    KS_TRY(add_named_pairs(w, pairs, err));
    KS_TRY(ks_alloc(&w->scores, w->out->n_scores, sizeof *w->scores, "scores",
                    err));
    KS_TRY(ks_alloc(&x, (size_t)w->out->steps, sizeof *x, "steps", err));
    KS_TRY(ks_alloc(&y, (size_t)w->out->steps, sizeof *y, "steps", err));
    for (size_t i = 0; i < w->out->n_scores; i++)
        KS_TRY(prepare_score(w, i, x, y, err));
done:
    free(x);
    free(y);
    return st;
}

/* ------------------------------------------------------------------ figures */

/* Cohen's kappa of the first k bands; *same: the share on the diagonal. */
static double kappa_of(double cells[BANDS][BANDS], int k, double *same) {
    double all = 0, diagonal = 0, chance = 0;
    for (int i = 0; i < k; i++) {
        double row = 0, column = 0;
        for (int j = 0; j < k; j++) {
            row += cells[i][j];
            column += cells[j][i];
        }
        all += row;
        diagonal += cells[i][i];
        chance += row * column;
    }
    *same = diagonal / all; /* 0 / 0 is NaN: not defined */
    double expected = chance / (all * all);
    return expected < 1 ? (*same - expected) / (1 - expected) : NAN;
}

static size_t n_metrics(const work *w) {
    return N_LABEL_METRICS + 4 * w->out->n_scores;
}

/* weight: how often each problem was drawn; NULL: once. scratch: of rows, then
 * of ranks. out [n_metrics] */
static void measure(const work *w, const double *weight, double *scratch,
                    double *out) {
    double cells[BANDS][BANDS] = {{0}}, ignored;
    for (int32_t g = 0; g < w->out->problems; g++)
        for (int i = 0; i < BANDS * BANDS; i++)
            cells[i / BANDS][i % BANDS] +=
                (weight ? weight[g] : 1) * w->cells[g][i / BANDS][i % BANDS];
    out[KAPPA] = kappa_of(cells, BANDS - 1, &out[SAME]);
    out[KAPPA_3] = kappa_of(cells, BANDS, &ignored);
    for (size_t k = 0; k < w->out->n_scores; k++) {
        const scored *s = &w->scores[k];
        double *values = out + N_LABEL_METRICS + 4 * k, sum[2] = {0}, count = 0;
        for (int32_t g = 0; g < w->out->problems; g++) {
            double times = weight ? weight[g] : 1;
            count += times * s->count[g];
            for (int i = 0; i < 2; i++) sum[i] += times * s->sum[i][g];
        }
        for (int i = 0; i < 2; i++) values[i] = sum[i] / count;
        for (int64_t i = 0; weight && i < s->ranked.n; i++)
            scratch[i] = weight[s->group[i]];
        ks_ranked_correlate(&s->ranked, weight ? scratch : NULL,
                            scratch + w->most_rows, &values[2], &values[3]);
    }
}

static ks_status bootstrap(const work *w, const ks_agree_options *o, int32_t n,
                           double *draws, ks_err *err) {
    ks_status st = KS_OK;
    size_t metrics = n_metrics(w);
    bool failed = false;
#pragma omp parallel
    {
        double *one = malloc(sizeof *one * metrics);
        double *weight = malloc(sizeof *weight * (size_t)w->out->problems);
        double *scratch =
            malloc(sizeof *scratch * (w->scratch + w->most_rows + 1));
        bool good = one && weight && scratch;
        if (!good) {
#pragma omp atomic write
            failed = true;
        }
#pragma omp for schedule(static)
        for (int32_t r = 0; r < n; r++) {
            if (!good || ks_interrupted) continue;
            ks__stats_draw(o->seed, (uint64_t)r, w->out->problems, weight);
            measure(w, weight, scratch, one);
            for (size_t m = 0; m < metrics; m++)
                draws[m * (size_t)n + (size_t)r] = one[m];
        }
        free(one);
        free(weight);
        free(scratch);
    }
    KS_CHECK(!failed, KS_NOMEM, "out of memory for bootstrap weights");
    KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
done:
    return st;
}

static ks_status fill_intervals(work *w, const ks_agree_options *o,
                                ks_err *err) {
    ks_status st = KS_OK;
    ks_agreement *out = w->out;
    size_t metrics = n_metrics(w);
    int32_t n = o->replicates == 0 ? 2000 : KS_MAX(o->replicates, 0);
    double *value = NULL, *draws = NULL, *scratch = NULL;
    KS_TRY(ks_alloc(&value, metrics, sizeof *value, "figures", err));
    KS_TRY(ks_alloc(&draws, metrics * (size_t)n, sizeof *draws, "draws", err));
    KS_TRY(ks_alloc(&scratch, w->scratch + w->most_rows, sizeof *scratch,
                    "ranks", err));
    measure(w, NULL, scratch, value);
    KS_TRY(bootstrap(w, o, n, draws, err));
    for (size_t m = 0; m < metrics; m++) {
        ks_interval i = ks__stats_interval(value[m], draws + m * (size_t)n, n);
        size_t k = m < N_LABEL_METRICS ? 0 : m - N_LABEL_METRICS;
        if (m == SAME)
            out->same = i;
        else if (m == KAPPA)
            out->kappa = i;
        else if (m == KAPPA_3)
            out->kappa_3 = i;
        else if (k % 4 < 2)
            out->scores[k / 4].within[k % 4] = i;
        else
            out->scores[k / 4].pooled[k % 4 - 2] = i;
    }
done:
    free(value);
    free(draws);
    free(scratch);
    return st;
}

ks_status ks_agree(ks_agreement *out, const ks_labels *a, const ks_labels *b,
                   const ks_agree_options *options, ks_err *err) {
    ks_status st = KS_OK;
    *out = (ks_agreement){0};
    work w = {.out = out};
    KS_TRY(pair_chains(&w, a, b, options->chains, err));
    KS_TRY(count_labels(&w, err));
    KS_TRY(prepare_scores(&w, options->pairs, err));
    KS_TRY(fill_intervals(&w, options, err));
done:
    for (size_t i = 0; w.scores && i < out->n_scores; i++) {
        ks_ranked_close(&w.scores[i].ranked);
        free(w.scores[i].group);
        free(w.scores[i].count);
        free(w.scores[i].sum[0]);
        free(w.scores[i].sum[1]);
    }
    free(w.scores);
    free(w.cells);
    free(w.chains);
    if (st != KS_OK) ks_agree_free(out);
    return st;
}

void ks_agree_free(ks_agreement *agreement) {
    for (size_t i = 0; i < agreement->n_scores; i++) {
        free(agreement->scores[i].a);
        free(agreement->scores[i].b);
    }
    free(agreement->scores);
    *agreement = (ks_agreement){0};
}
