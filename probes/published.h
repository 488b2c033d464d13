/* published.h - the published protocol, and what each of its choices is worth:
 * a ladder from it to the honest one, one change a rung.
 *
 *   as published  steps undersampled to equal classes, a stratified random
 *                 80/20 split of steps, no standardisation, AdamW as trained.h
 *                 has it at 3e-4 with pos_weight n0 / n1, positive being
 *                 removable; the epoch with the best accuracy on the
 *                 evaluation rows is reported. Of several rates the one with
 *                 the best mean of that is taken, as the published sweep does
 *   by problem    the same rows, split by problem (split.h, 5 folds, one held
 *                 out)
 *   epoch chosen  the same trainings; the epoch (and of several rates the rate)
 *                 comes from a second training that holds out another fold
 *   all steps     nothing left out, classes weighted to equal shares
 *   honest        trained.h: every problem tested once, features standardised,
 *                 the rate chosen too
 *
 * Each is repeated for seeds 42, 43 and 44; figures are means over them (over
 * the evaluation's seeds for honest: scores are averaged instead). Intervals
 * draw problems with replacement, the same draws for every rung and seed: a
 * drawn problem brings along its rows in whatever evaluation sets it is in. */
#ifndef KS_PUBLISHED_H
#define KS_PUBLISHED_H

#include "split.h"
#include "trained.h"

enum {
    KS_RUNG_PUBLISHED,
    KS_RUNG_PROBLEMS,
    KS_RUNG_EPOCH,
    KS_RUNG_STEPS,
    KS_RUNG_HONEST,
    KS_N_RUNGS
};
enum { KS_PUBLISHED_SEEDS = 3, KS_PUBLISHED_FOLDS = 5, KS_MOST_RATES = 8 };

extern const uint64_t ks_published_seeds[KS_PUBLISHED_SEEDS]; /* 42, 43, 44 */

const char *ks_rung_name(int rung);
const char *ks_rung_note(int rung);

typedef struct ks_rung {
    ks_interval accuracy, balanced;
    double sd;      /* of balanced accuracy over seeds, population; NaN of 1 */
    int64_t n_eval; /* rows evaluated, all seeds */
    /* of each seed; not for honest: */
    double rate[KS_PUBLISHED_SEEDS];
    int32_t epoch[KS_PUBLISHED_SEEDS]; /* from 1 */
    double seed_accuracy[KS_PUBLISHED_SEEDS];
} ks_rung;

typedef struct ks_protocol {
    char probe[48]; /* the recipe's name */
    ks_stream stream;
    ks_position position;
    ks_rung rungs[KS_N_RUNGS];
    ks_interval difference; /* balanced accuracy, published less honest */
} ks_protocol;

typedef struct ks_published_options {
    const ks_split_input *rows; /* y: 1 important, 0 removable */
    const ks_folds *folds;      /* of `honest` */
    int32_t n_rates;
    const double *rates;
    int32_t bootstrap;
    uint64_t seed; /* of the draws */
} ks_published_options;

/* Fills rungs and difference of out. honest: of the same recipe and rows. */
ks_status ks_published_run(ks_protocol *out, const ks_trainer *trainer,
                           const ks_trained *honest,
                           const ks_published_options *options, ks_err *err);

/* The same in parts: rows are chosen, trainings run in units of one seed and
 * rate, each alone, and figures made of their margins. Unit u is seed
 * u / n_rates, rate u % n_rates. */
typedef struct ks_published ks_published;
ks_status ks_published_open(ks_published **out, const char *recipe,
                            const ks_published_options *options, ks_err *err);
void ks_published_close(ks_published **published);
/* The margins of a unit's trainings: [*epochs, rows] each, of so many rows, to
 * be filled here or read once they are there. */
enum { KS_PUBLISHED_TRAININGS = 5 };
typedef struct ks_published_margins {
    const char *name; /* "steps" */
    int64_t epochs, rows;
    float *margin;
} ks_published_margins;
void ks_published_unit(ks_published *w, int32_t unit,
                       ks_published_margins out[KS_PUBLISHED_TRAININGS]);
/* Trains the units listed; after as in ks_trained_fit. most: trainings
 * at once, 0: as many as memory takes well. */
ks_status ks_published_train(ks_published *w, const ks_trainer *trainer,
                             const int32_t *units, int32_t n_units,
                             int32_t most, ks_trained_fn after, void *user,
                             ks_err *err);
ks_status ks_published_finish(ks_published *w, ks_protocol *out,
                              const ks_trained *honest, ks_err *err);

/* Bytes that it takes beside the trainings themselves. */
double ks_published_bytes(int32_t n_rates, int64_t n);

/* Rows of a class kept, and the split of them: eval[0..*n_eval) and
 * train[0..*n_train), ascending, [n] each. Kept are as many of each class as
 * the smaller has; of each class ceil(a fifth) is evaluated. Which: places in
 * keyed orders (host/shuffle.h) of the class's rows, ascending. */
ks_status ks__published_split(const int8_t *y, int64_t n, uint64_t seed,
                              int32_t *train, int32_t *n_train, int32_t *eval,
                              int32_t *n_eval, ks_err *err);

#endif
