/* trained.h - the published kinds of probes (AdamW, adamw.h) under the honest
 * protocol: the evaluation's own folds by problem, all labelled steps, classes
 * weighted to equal shares, features standardised by the training rows.
 *
 * For the fit that is tested on fold f the fold behind it, f + 1, is the
 * development part: each rate is trained on the others for KS_TRAINED_EPOCHS
 * epochs of a cosine schedule, and rate and epoch with the least balanced
 * log-loss on the development part (nest.h) are taken; then the fit trains on
 * all its training rows, development part too, with that rate, and ends after
 * that epoch of the same schedule. Its test rows are scored once. */
#ifndef KS_TRAINED_H
#define KS_TRAINED_H

#include "adamw.h"
#include "nest.h"
#include "stack.h"

enum {
    KS_MOST_RECIPES = 16,
    KS_TRAINED_RATES = 3,
    KS_TRAINED_EPOCHS = 30,
    KS_TRAINED_BATCH = 32
};
#define KS_TRAINED_DECAY 1e-4
extern const double ks_trained_rates[KS_TRAINED_RATES]; /* ascending */

typedef enum ks_input {
    KS_INPUT_MEAN,   /* the mean over layers, [d] */
    KS_INPUT_BESIDE, /* layers side by side, [layers d] */
    KS_INPUT_EACH    /* a probe of its own for each layer */
} ks_input;

/* A kind of probe. */
typedef struct ks_recipe {
    char name[32]; /* "lw-mlp 128", "mlp 256x2" */
    ks_input input;
    int32_t n_hidden, hidden[KS_ADAMW_MOST_HIDDEN];
} ks_recipe;

/* "lw-mlp:1024,mlp:256x2" to recipes: linear, mlp (over the mean of the
 * layers), lw-linear, lw-mlp (layers side by side), linear-layer, mlp-layer;
 * behind a colon the units of the first hidden layer and, behind x, how many
 * layers, each half as wide as the one before. Without: mlp 256x2, lw-mlp and
 * mlp-layer 128. "l2" stands for the grid, which always runs. KS_USAGE for any
 * other word, and for one that comes twice. */
ks_status ks_recipes_read(const char *text, ks_recipe recipes[KS_MOST_RECIPES],
                          int32_t *n, ks_err *err);

/* A recipe's trainer on a stack. */
enum { KS_TRAINER_ROOM = 512 << 20 };
typedef struct ks_trainer {
    const ks_recipe *recipe;
    ks_adamw_data *data;
    ks_adamw_options options;
    int32_t first;    /* layer of the data that its probes start at */
    int32_t n_probes; /* 1, or the layers of KS_INPUT_EACH */
    int64_t n_inputs;
    double room; /* bytes for probes that train at once, KS_TRAINER_ROOM */
} ks_trainer;

ks_status ks_trainer_open(ks_trainer *out, const ks_recipe *recipe,
                          const ks_stack *stack, const struct ks_ops *ops,
                          ks_dev *dev, ks_err *err);
void ks_trainer_close(ks_trainer *trainer);
/* Bytes that a probe takes while it trains: parameters, moments, a batch, and
 * so many rows and margins. */
double ks_trainer_bytes(const ks_trainer *trainer, int64_t rows,
                        int64_t margins);
double ks_recipe_bytes(const ks_recipe *recipe, int64_t n_inputs, int64_t rows,
                       int64_t margins);
/* Bytes that ks_trained_run takes at least, beside rows and result; those of
 * the result of n_probes probes, whose weights are kept if they take no more
 * than so many. */
double ks_recipe_least(const ks_recipe *recipe, int64_t n_inputs,
                       const ks_folds *folds);
double ks_recipe_kept(const ks_recipe *recipe, int64_t n_inputs,
                      int32_t n_probes, const ks_folds *folds, size_t weights);
/* KS_USAGE for a recipe that reads layers behind the embeddings, where there
 * are none. */
ks_status ks_recipe_check(const ks_recipe *recipe, int32_t layers, ks_err *err);
/* Parameters of a probe of so many inputs. */
int64_t ks_recipe_params(const ks_recipe *recipe, int64_t n_inputs);
/* How many such probes are trained at once; at least 1. */
int32_t ks_trainer_at_once(const ks_trainer *trainer, int64_t rows,
                           int64_t margins);

/* Fits of one kind of probe, of one layer where it has one for each. */
typedef struct ks_trained {
    int32_t layer;       /* of the model; -1: several */
    int32_t n_fits;      /* seeds x folds */
    float *by_seed;      /* [n_seeds, n] out-of-fold margins */
    float *score;        /* [n] mean over seeds */
    double *rate;        /* [n_fits] chosen in the training folds */
    int32_t *epochs;     /* [n_fits] that it was trained for, likewise */
    float *param;        /* [n_fits, n_params] as adamw.h has them, or NULL */
    float *mean, *scale; /* [n_fits, n_inputs] */
    int64_t n_params, n_inputs;
} ks_trained;

typedef struct ks_trained_options {
    const ks_folds *folds; /* n_inner is not looked at */
    const int8_t *y;       /* [n] 1 important, 0 removable */
    uint64_t seed;         /* of the first split; the next ones count up */
    size_t weights;        /* keep them where they take so many bytes at most */
    int32_t at_once; /* most fits at once; 0: as many as memory takes well */
    void (*progress)(void *user, int64_t fits); /* may be NULL */
    void *user;
    int64_t done; /* fits, counted on */
} ks_trained_options;

/* Probes that have room for their fits and none yet: n_probes of a recipe that
 * reads n_inputs; layer [n_probes] of each, NULL: several. out [n_probes]; a
 * failed call leaves them {0}. */
ks_status ks_trained_open(ks_trained *out, const ks_recipe *recipe,
                          int32_t n_probes, int64_t n_inputs,
                          const int32_t *layer,
                          const ks_trained_options *options, ks_err *err);
/* Does ks_trained_open keep the weights of n_probes of them? */
bool ks_trained_keeps(const ks_recipe *recipe, int32_t n_probes,
                      int64_t n_inputs, const ks_trained_options *options);
/* Trains some fits, ascending: number p * n_fits + f is fit f of probe p. Bits
 * of one do not depend on which others there are. after may be NULL: called
 * when fits [0, done) of the list are there. */
typedef ks_status (*ks_trained_fn)(void *user, int32_t done, ks_err *err);
ks_status ks_trained_fit(ks_trained *probes, const ks_trainer *trainer,
                         const int32_t *list, int32_t n, ks_trained_fn after,
                         void *user, ks_trained_options *options, ks_err *err);
/* Scores, once all fits are there. */
void ks_trained_finish(ks_trained *probes, int32_t n_probes,
                       const ks_folds *folds);

/* All of it. out [trainer->n_probes]; a failed call leaves them {0}. */
ks_status ks_trained_run(ks_trained *out, const ks_trainer *trainer,
                         const ks_stack *stack, ks_trained_options *options,
                         ks_err *err);
void ks_trained_free(ks_trained *trained);

#endif
