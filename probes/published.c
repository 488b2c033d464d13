/* published.c - see published.h. */
#include "published.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "shuffle.h"

const uint64_t ks_published_seeds[KS_PUBLISHED_SEEDS] = {42, 43, 44};

const char *ks_rung_name(int rung) {
    static const char *const names[KS_N_RUNGS] = {
        "as published", "split by problem", "epoch from a development part",
        "all steps, weighted", "honest"};
    return names[rung];
}

const char *ks_rung_note(int rung) {
    static const char *const notes[KS_N_RUNGS] = {
        "steps undersampled to equal classes, split at random by step, the "
        "best epoch on the evaluation steps",
        "the same steps, no problem on both sides",
        "the same trainings, the epoch chosen by a second one that holds out "
        "another fifth of the problems",
        "no step left out, classes weighted to equal shares",
        "every problem tested once, features standardised, rate and epoch "
        "chosen inside the training folds"};
    return notes[rung];
}

/* ------------------------------------------------------------------- splits
 */

static int by_number(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* The first `take` of n rows in a keyed order go to first, the others to rest
 * (may be NULL). */
static void draw(const int32_t *rows, int32_t n, int32_t take, uint64_t seed,
                 uint64_t stream, int32_t *first, int32_t *rest) {
    const uint64_t key[2] = {seed, stream};
    if (n < 1) return;
    ks_shuffle order = ks_shuffle_open(key, 0, (uint32_t)n);
    for (int32_t i = 0; i < n; i++) {
        int32_t row = rows[ks_shuffle_at(&order, (uint32_t)i)];
        if (i < take)
            first[i] = row;
        else if (rest)
            rest[i - take] = row;
    }
    qsort(first, (size_t)take, sizeof *first, by_number);
}

/* Streams of keys: beyond those of trainings. */
enum { KEEP = 1 << 20, EVALUATE = 2 << 20 };

ks_status ks__published_split(const int8_t *y, int64_t n, uint64_t seed,
                              int32_t *train, int32_t *n_train, int32_t *eval,
                              int32_t *n_eval, ks_err *err) {
    ks_status st = KS_OK;
    int32_t *of[2] = {NULL, NULL}, *kept = NULL, count[2] = {0, 0};
    *n_train = *n_eval = 0;
    KS_TRY(ks_alloc(&kept, (size_t)n, sizeof *kept, "rows", err));
    for (int c = 0; c < 2; c++) {
        KS_TRY(ks_alloc(&of[c], (size_t)n, sizeof *of[c], "rows", err));
        for (int64_t i = 0; i < n; i++)
            if (y[i] == c) of[c][count[c]++] = (int32_t)i;
    }
    int32_t least = KS_MIN(count[0], count[1]), held = (least + 4) / 5;
    for (uint64_t c = 0; c < 2; c++) {
        draw(of[c], count[c], least, seed, KEEP + c, kept, NULL);
        draw(kept, least, held, seed, EVALUATE + c, eval + *n_eval,
             train + *n_train);
        *n_eval += held;
        *n_train += least - held;
    }
    qsort(eval, (size_t)*n_eval, sizeof *eval, by_number);
    qsort(train, (size_t)*n_train, sizeof *train, by_number);
done:
    free(of[0]);
    free(of[1]);
    free(kept);
    return st;
}

/* ---------------------------------------------------------------- trainings
 */

/* What is trained for each seed. CHOOSE and CHOOSE_ALL hold out two folds and
 * look at the second. */
enum what { STEPS, PROBLEMS, CHOOSE, ALL, CHOOSE_ALL, N_WHAT };
_Static_assert((int)N_WHAT == (int)KS_PUBLISHED_TRAININGS, "a unit's");

typedef struct training {
    int32_t *rows; /* [n] those that train, then those evaluated */
    int32_t n_train, n_eval;
    float weight[2];              /* by class; 1 removable */
    float *margin[KS_MOST_RATES]; /* [epochs, n_eval] positive: removable */
} training;

struct ks_published {
    const char *recipe; /* its name */
    const ks_published_options *o;
    int8_t *removable; /* [n] the published labels */
    training of[KS_PUBLISHED_SEEDS][N_WHAT];
};
typedef ks_published work;

static ks_status alloc_rows(training *t, int64_t n, ks_err *err) {
    return ks_alloc(&t->rows, (size_t)n, sizeof *t->rows, "rows", err);
}

static void weigh(const work *w, training *t, bool balance) {
    int32_t positive = 0;
    if (balance) {
        ks_adamw_balance(w->removable, t->rows, t->n_train, t->weight);
        return;
    }
    for (int32_t i = 0; i < t->n_train; i++)
        positive += w->removable[t->rows[i]];
    t->weight[0] = 1;
    t->weight[1] =
        positive ? (float)(t->n_train - positive) / (float)positive : 1;
}

/* Rows of `of` [n] (NULL: all) whose fold is not `test` and, with `dev`, not
 * `dev`; evaluated are those of `test`, or of `dev`. */
static ks_status by_fold(const work *w, training *t, const int32_t *of,
                         int32_t n, const uint8_t *fold, bool choose,
                         ks_err *err) {
    enum { TEST = 0, DEV = 1 };
    ks_status st = alloc_rows(t, n, err);
    if (st != KS_OK) return st;
    for (int32_t i = 0; i < n; i++)
        if (fold[i] != TEST && !(choose && fold[i] == DEV))
            t->rows[t->n_train++] = of ? of[i] : i;
    for (int32_t i = 0; i < n; i++)
        if (fold[i] == (choose ? DEV : TEST))
            t->rows[t->n_train + t->n_eval++] = of ? of[i] : i;
    weigh(w, t, of == NULL);
    return KS_OK;
}

static ks_status plan_seed(work *w, int32_t s, ks_err *err) {
    ks_status st = KS_OK;
    const ks_split_input *in = w->o->rows;
    training *t = w->of[s];
    int32_t *eval = NULL, *group = NULL, n;
    uint8_t *fold = NULL;
    int8_t *y = NULL;
    size_t all = (size_t)in->n;
    KS_TRY(ks_alloc(&eval, all, sizeof *eval, "rows", err));
    KS_TRY(ks_alloc(&group, all, sizeof *group, "rows", err));
    KS_TRY(ks_alloc(&fold, all, 1, "folds", err));
    KS_TRY(ks_alloc(&y, all, 1, "labels", err));
    KS_TRY(alloc_rows(&t[STEPS], in->n, err));
    KS_TRY(ks__published_split(w->removable, in->n, ks_published_seeds[s],
                               t[STEPS].rows, &t[STEPS].n_train, eval,
                               &t[STEPS].n_eval, err));
    memcpy(t[STEPS].rows + t[STEPS].n_train, eval,
           (size_t)t[STEPS].n_eval * sizeof *eval);
    weigh(w, &t[STEPS], false);
    n = t[STEPS].n_train + t[STEPS].n_eval;
    int32_t *kept = eval; /* both sides, in the data set's order */
    memcpy(kept, t[STEPS].rows, (size_t)n * sizeof *kept);
    qsort(kept, (size_t)n, sizeof *kept, by_number);
    for (int32_t i = 0; i < n; i++) {
        y[i] = in->y[kept[i]];
        group[i] = in->group[kept[i]];
    }
    ks_split_input some = {.n = n,
                           .y = y,
                           .group = group,
                           .n_groups = in->n_groups,
                           .ids = in->ids};
    KS_TRY(ks_split_folds(&some, KS_PUBLISHED_FOLDS, ks_published_seeds[s],
                          fold, err));
    KS_TRY(by_fold(w, &t[PROBLEMS], kept, n, fold, false, err));
    KS_TRY(by_fold(w, &t[CHOOSE], kept, n, fold, true, err));
    KS_TRY(ks_split_folds(in, KS_PUBLISHED_FOLDS, ks_published_seeds[s], fold,
                          err));
    KS_TRY(by_fold(w, &t[ALL], NULL, (int32_t)in->n, fold, false, err));
    KS_TRY(by_fold(w, &t[CHOOSE_ALL], NULL, (int32_t)in->n, fold, true, err));
done:
    free(eval);
    free(group);
    free(fold);
    free(y);
    return st;
}

static ks_status alloc_margins(work *w, ks_err *err) {
    ks_status st = KS_OK;
    for (int32_t k = 0; k < KS_PUBLISHED_SEEDS * N_WHAT; k++) {
        training *t = &w->of[k / N_WHAT][k % N_WHAT];
        KS_CHECK(t->n_eval > 0, KS_MISMATCH,
                 "%s as published: no step is left to evaluate", w->recipe);
        for (int32_t r = 0; r < w->o->n_rates; r++)
            KS_TRY(ks_alloc(&t->margin[r],
                            (size_t)KS_TRAINED_EPOCHS * (size_t)t->n_eval,
                            sizeof **t->margin, "margins", err));
    }
done:
    return st;
}

void ks_published_unit(ks_published *w, int32_t unit,
                       ks_published_margins out[KS_PUBLISHED_TRAININGS]) {
    static const char *const names[N_WHAT] = {"steps", "problems", "choose",
                                              "all", "choose_all"};
    for (int k = 0; k < N_WHAT; k++) {
        training *t = &w->of[unit / w->o->n_rates][k];
        out[k] = (ks_published_margins){names[k], KS_TRAINED_EPOCHS, t->n_eval,
                                        t->margin[unit % w->o->n_rates]};
    }
}

ks_status ks_published_train(ks_published *w, const ks_trainer *trainer,
                             const int32_t *units, int32_t n_units,
                             int32_t most, ks_trained_fn after, void *user,
                             ks_err *err) {
    ks_status st = KS_OK;
    enum { MOST = KS_PUBLISHED_SEEDS * N_WHAT * KS_MOST_RATES };
    ks_adamw_probe probes[MOST];
    ks_adamw_options options = trainer->options;
    int32_t n = n_units * N_WHAT;
    for (int32_t k = 0; k < n; k++) {
        int32_t s = units[k / N_WHAT] / w->o->n_rates;
        int32_t rate = units[k / N_WHAT] % w->o->n_rates;
        training *t = &w->of[s][k % N_WHAT];
        probes[k] =
            (ks_adamw_probe){.layer = trainer->first,
                             .rows = t->rows,
                             .n_rows = t->n_train,
                             .y = w->removable,
                             .key = {ks_published_seeds[s], 0},
                             .lr = w->o->rates[rate],
                             .decay = KS_TRAINED_DECAY,
                             .class_weight = {t->weight[0], t->weight[1]},
                             .eval = t->rows + t->n_train,
                             .n_eval = t->n_eval,
                             .margin = t->margin[rate]};
    }
    options.each_epoch = true;
    int64_t rows = w->o->rows->n;
    int32_t at_once = ks_trainer_at_once(
        trainer, rows, KS_TRAINED_EPOCHS * rows / KS_PUBLISHED_FOLDS);
    if (most) at_once = KS_MIN(at_once, most);
    for (int32_t from = 0, some; from < n; from += some) {
        some = KS_MIN(at_once, n - from);
        KS_TRY(
            ks_adamw_train(trainer->data, &options, probes + from, some, err));
        if (after) KS_TRY(after(user, (from + some) / N_WHAT, err));
    }
done:
    return st;
}

/* An evaluation set is a fifth of the rows, or somewhat more. */
double ks_published_bytes(int32_t n_rates, int64_t n) {
    return KS_PUBLISHED_SEEDS * N_WHAT * sizeof(float) *
           ((double)n + n_rates * (double)KS_TRAINED_EPOCHS * (double)n / 4);
}

/* -------------------------------------------------------------------- rungs
 */

/* Accuracy, or balanced accuracy, of margins that are positive for removable;
 * a class that is not there counts for nothing. */
static double right_of(const work *w, const training *t, const float *margin,
                       bool balanced) {
    double right[2] = {0, 0}, n[2] = {0, 0}, sum = 0;
    for (int32_t i = 0; i < t->n_eval; i++) {
        int y = w->removable[t->rows[t->n_train + i]];
        right[y] += (margin[i] > 0) == y;
        n[y]++;
    }
    if (!balanced) return (right[0] + right[1]) / (n[0] + n[1]);
    int classes = 0;
    for (int c = 0; c < 2; c++)
        if (n[c] > 0) {
            sum += right[c] / n[c];
            classes++;
        }
    return classes ? sum / classes : NAN;
}

/* The epoch with the best figure, the first on a tie. */
static double best_epoch(const work *w, const training *t, int32_t rate,
                         bool balanced, int32_t *epoch) {
    double best = -1;
    *epoch = 0;
    for (int32_t e = 0; e < KS_TRAINED_EPOCHS; e++) {
        double v =
            right_of(w, t, t->margin[rate] + (int64_t)e * t->n_eval, balanced);
        if (!(v > best)) continue;
        best = v;
        *epoch = e;
    }
    return best;
}

/* Epochs by the evaluation rows, one rate for all seeds. */
static void choose_on_eval(const work *w, ks_rung *rung, enum what what) {
    double best = -1;
    for (int32_t r = 0; r < w->o->n_rates; r++) {
        double sum = 0;
        int32_t epoch[KS_PUBLISHED_SEEDS];
        for (int32_t s = 0; s < KS_PUBLISHED_SEEDS; s++)
            sum += best_epoch(w, &w->of[s][what], r, false, &epoch[s]);
        if (!(sum > best)) continue;
        best = sum;
        for (int32_t s = 0; s < KS_PUBLISHED_SEEDS; s++) {
            rung->rate[s] = w->o->rates[r];
            rung->epoch[s] = epoch[s] + 1;
        }
    }
}

/* Epoch and rate of each seed by the development part of another training. */
static void choose_apart(const work *w, ks_rung *rung, enum what by,
                         bool balanced) {
    for (int32_t s = 0; s < KS_PUBLISHED_SEEDS; s++) {
        double best = -1;
        for (int32_t r = 0; r < w->o->n_rates; r++) {
            int32_t epoch;
            double v = best_epoch(w, &w->of[s][by], r, balanced, &epoch);
            if (!(v > best)) continue;
            best = v;
            rung->rate[s] = w->o->rates[r];
            rung->epoch[s] = epoch + 1;
        }
    }
}

/* ------------------------------------------------------------------ figures
 */

/* A problem's sums: for each set of rows how many of each class (1 important)
 * there are, and right. */
enum { OF_SET = 4, N_SETS = 4 * KS_PUBLISHED_SEEDS + 1 };

static void add_row(double *sums, int32_t set, int y, bool right) {
    double *to = sums + set * OF_SET + 2 * y;
    to[0]++;
    to[1] += right;
}

static double set_figure(const double *total, int32_t set, bool balanced) {
    const double *t = total + set * OF_SET; /* n0, right0, n1, right1 */
    return balanced ? 0.5 * (t[1] / t[0] + t[3] / t[2])
                    : (t[1] + t[3]) / (t[0] + t[2]);
}

/* Accuracy and balanced accuracy of each rung, then the difference. */
enum { N_FIGURES = 2 * KS_N_RUNGS + 1 };

static void figures_of(const double *total, const void *user, double *out) {
    (void)user;
    for (int b = 0; b < 2; b++) {
        for (int rung = 0; rung < KS_RUNG_HONEST; rung++) {
            double sum = 0;
            for (int s = 0; s < KS_PUBLISHED_SEEDS; s++)
                sum += set_figure(total, rung * KS_PUBLISHED_SEEDS + s, b);
            out[2 * rung + b] = sum / KS_PUBLISHED_SEEDS;
        }
        out[2 * KS_RUNG_HONEST + b] = set_figure(total, N_SETS - 1, b);
    }
    out[N_FIGURES - 1] =
        out[2 * KS_RUNG_PUBLISHED + 1] - out[2 * KS_RUNG_HONEST + 1];
}

static double deviation(const double *v, int32_t n) {
    double mean = 0, square = 0;
    if (n < 2) return NAN;
    for (int32_t i = 0; i < n; i++) mean += v[i] / n;
    for (int32_t i = 0; i < n; i++) square += (v[i] - mean) * (v[i] - mean) / n;
    return sqrt(square);
}

/* Of a published rung: its rows into sums, its seeds' figures into the rung. */
static ks_status count_rung(const work *w, ks_rung *rung, int number,
                            enum what what, double *sums, ks_err *err) {
    ks_status st = KS_OK;
    const ks_split_input *in = w->o->rows;
    double balanced[KS_PUBLISHED_SEEDS];
    for (int32_t s = 0; s < KS_PUBLISHED_SEEDS; s++) {
        const training *t = &w->of[s][what];
        int32_t r = 0, set = number * KS_PUBLISHED_SEEDS + s;
        while (w->o->rates[r] != rung->rate[s]) r++;
        const float *margin =
            t->margin[r] + (int64_t)(rung->epoch[s] - 1) * t->n_eval;
        rung->n_eval += t->n_eval;
        rung->seed_accuracy[s] = right_of(w, t, margin, false);
        balanced[s] = right_of(w, t, margin, true);
        for (int32_t i = 0; i < t->n_eval; i++) {
            int32_t row = t->rows[t->n_train + i];
            int y = in->y[row] == 1;
            bool important = !(margin[i] > 0);
            KS_CHECK(isfinite(margin[i]), KS_NUMERIC,
                     "%s as published, seed %d: the score of row %d is not a "
                     "finite number",
                     w->recipe, (int)ks_published_seeds[s], row);
            add_row(sums + (int64_t)in->group[row] * N_SETS * OF_SET, set, y,
                    important == y);
        }
    }
    rung->sd = deviation(balanced, KS_PUBLISHED_SEEDS);
done:
    return st;
}

static ks_status count_honest(const work *w, ks_rung *rung,
                              const ks_trained *honest, double *sums,
                              ks_err *err) {
    ks_status st = KS_OK;
    const ks_split_input *in = w->o->rows;
    int32_t n_seeds = w->o->folds->n_seeds;
    double balanced[KS_MAX_SEEDS];
    for (int64_t i = 0; i < in->n; i++)
        add_row(sums + (int64_t)in->group[i] * N_SETS * OF_SET, N_SETS - 1,
                in->y[i] == 1, (honest->score[i] > 0) == (in->y[i] == 1));
    for (int32_t s = 0; s < n_seeds; s++) {
        double one[OF_SET] = {0};
        for (int64_t i = 0; i < in->n; i++)
            add_row(one, 0, in->y[i] == 1,
                    (honest->by_seed[s * in->n + i] > 0) == (in->y[i] == 1));
        balanced[s] = set_figure(one, 0, true);
    }
    rung->n_eval = in->n;
    rung->sd = deviation(balanced, n_seeds);
    for (int64_t i = 0; i < in->n; i++)
        KS_CHECK(isfinite(honest->score[i]), KS_NUMERIC,
                 "%s: the score of row %lld is not a finite number", w->recipe,
                 (long long)i);
done:
    return st;
}

static ks_status add_figures(const work *w, ks_protocol *out,
                             const ks_trained *honest, ks_err *err) {
    static const enum what what[KS_RUNG_HONEST] = {STEPS, PROBLEMS, PROBLEMS,
                                                   ALL};
    ks_status st = KS_OK;
    int32_t n_groups = w->o->rows->n_groups;
    ks_interval figure[N_FIGURES];
    double *sums = NULL;
    KS_TRY(ks_alloc(&sums, (size_t)n_groups * N_SETS * OF_SET, sizeof *sums,
                    "problems", err));
    for (int r = 0; r < KS_RUNG_HONEST; r++)
        KS_TRY(count_rung(w, &out->rungs[r], r, what[r], sums, err));
    KS_TRY(count_honest(w, &out->rungs[KS_RUNG_HONEST], honest, sums, err));
    KS_TRY(ks_stats_of_sums(sums, n_groups, N_SETS * OF_SET, figures_of, NULL,
                            N_FIGURES, w->o->bootstrap, w->o->seed, figure,
                            err));
    for (int r = 0; r < KS_N_RUNGS; r++) {
        out->rungs[r].accuracy = figure[2 * r];
        out->rungs[r].balanced = figure[2 * r + 1];
    }
    out->difference = figure[N_FIGURES - 1];
done:
    free(sums);
    return st;
}

/* ---------------------------------------------------------------------- all
 */

ks_status ks_published_open(ks_published **out, const char *recipe,
                            const ks_published_options *options, ks_err *err) {
    ks_status st = KS_OK;
    ks_published *w = NULL;
    int64_t n = options->rows->n;
    *out = NULL;
    KS_CHECK(options->n_rates >= 1 && options->n_rates <= KS_MOST_RATES,
             KS_USAGE, "%d rates: expected 1 to %d", options->n_rates,
             KS_MOST_RATES);
    KS_TRY(ks_alloc(&w, 1, sizeof *w, "the published protocol", err));
    w->recipe = recipe;
    w->o = options;
    KS_TRY(ks_alloc(&w->removable, (size_t)n, 1, "labels", err));
    for (int64_t i = 0; i < n; i++) w->removable[i] = options->rows->y[i] != 1;
    for (int32_t s = 0; s < KS_PUBLISHED_SEEDS; s++)
        KS_TRY(plan_seed(w, s, err));
    KS_TRY(alloc_margins(w, err));
    *out = w;
    w = NULL;
done:
    ks_published_close(&w);
    return st;
}

ks_status ks_published_finish(ks_published *w, ks_protocol *out,
                              const ks_trained *honest, ks_err *err) {
    memset(out->rungs, 0, sizeof out->rungs);
    choose_on_eval(w, &out->rungs[KS_RUNG_PUBLISHED], STEPS);
    choose_on_eval(w, &out->rungs[KS_RUNG_PROBLEMS], PROBLEMS);
    choose_apart(w, &out->rungs[KS_RUNG_EPOCH], CHOOSE, false);
    choose_apart(w, &out->rungs[KS_RUNG_STEPS], CHOOSE_ALL, true);
    return add_figures(w, out, honest, err);
}

void ks_published_close(ks_published **published) {
    ks_published *w = *published;
    if (!w) return;
    for (int32_t k = 0; k < KS_PUBLISHED_SEEDS * N_WHAT; k++) {
        training *t = &w->of[k / N_WHAT][k % N_WHAT];
        free(t->rows);
        for (int r = 0; r < KS_MOST_RATES; r++) free(t->margin[r]);
    }
    free(w->removable);
    free(w);
    *published = NULL;
}

ks_status ks_published_run(ks_protocol *out, const ks_trainer *trainer,
                           const ks_trained *honest,
                           const ks_published_options *options, ks_err *err) {
    ks_status st = KS_OK;
    ks_published *w = NULL;
    int32_t units[KS_PUBLISHED_SEEDS * KS_MOST_RATES] = {0};
    KS_TRY(ks_published_open(&w, trainer->recipe->name, options, err));
    int32_t n = KS_PUBLISHED_SEEDS * options->n_rates;
    for (int32_t u = 0; u < n; u++) units[u] = u;
    KS_TRY(ks_published_train(w, trainer, units, n, 0, NULL, NULL, err));
    KS_TRY(ks_published_finish(w, out, honest, err));
done:
    ks_published_close(&w);
    return st;
}
