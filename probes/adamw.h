/* adamw.h - probes trained by mini-batches with AdamW, many at once: linear
 * ones and networks of ReLU layers, on one layer's rows or on several layers'
 * side by side; the published recipe among others.
 *
 * A probe is what this loop of PyTorch trains, step by step:
 *     net = Linear(in, h1), ReLU, ..., Linear(h_last, 1)
 *     opt = torch.optim.AdamW(net.parameters(), lr, betas, eps, weight_decay)
 *     loss = mean over the batch of class_weight[y] BCEWithLogits(net(x), y)
 * with class_weight = {1, w} that is BCEWithLogitsLoss(pos_weight=w). Each
 * epoch walks the training rows in an order of its own (host/shuffle.h, keyed
 * by the probe's key, the same on every backend) in batches; a last partial
 * batch is left out. The rate is lr, or falls to 0 along a cosine by epochs
 * (CosineAnnealingLR with T_max = epochs).
 *
 * Nothing of a row that a probe does not train on reaches it; standardise takes
 * mean and deviation of the training rows. Which epoch is best is not decided
 * here: margins after every epoch are given where they are asked for. */
#ifndef KS_ADAMW_H
#define KS_ADAMW_H

#include "ops.h"

/* Rows of all layers in a backend's memory. */
typedef struct ks_adamw_data ks_adamw_data;

/* x [layers, n, d], borrowed while it is open. A value that is not finite is
 * KS_NUMERIC, named by layer, row and feature. */
ks_status ks_adamw_open(ks_adamw_data **out, const struct ks_ops *ops,
                        ks_dev *dev, const float *x, int32_t layers, int64_t n,
                        int64_t d, ks_err *err);
/* Of rows in a file (train.h, its matrices the layers), which stays the
 * caller's; the same bits. They are known to be finite. The CPU's ops alone. */
ks_status ks_adamw_open_file(ks_adamw_data **out, const struct ks_ops *ops,
                             ks_dev *dev, const ks_adamw_file *file, int64_t n,
                             int64_t d, ks_err *err);
/* Floats from a row to the next one. */
int64_t ks_adamw_stride(int64_t d);
void ks_adamw_close(ks_adamw_data **data);

/* What the probes of a call have in common. */
typedef struct ks_adamw_options {
    int32_t layers;           /* side by side in a probe's input; 0: 1 */
    int32_t n_hidden;         /* 0: linear; at most KS_ADAMW_MOST_HIDDEN */
    const int32_t *hidden;    /* [n_hidden] units, 1 to 4096 each */
    int32_t batch;            /* 0: 32; at most KS_ADAMW_MOST_BATCH */
    int32_t epochs;           /* of the schedule; 0: 30 */
    bool constant;            /* the rate does not fall */
    double beta1, beta2, eps; /* 0: 0.9, 0.999, 1e-8 */
    bool each_epoch;          /* margins after each epoch, else the last */
} ks_adamw_options;

typedef struct ks_adamw_probe {
    int32_t layer;         /* first of its input */
    int32_t n_rows;        /* that train, at least a batch */
    const int32_t *rows;   /* [n_rows] */
    const int8_t *y;       /* [n] 1 or 0; looked at in rows only */
    uint64_t key[2];       /* seed, stream: order, and weights at the start */
    double lr, decay;      /* published: 3e-4, 1e-4 */
    float class_weight[2]; /* by label; both 0: 1 */
    int32_t stop;          /* epochs that are run; 0: all */
    int32_t n_eval;
    const int32_t *eval; /* [n_eval] rows whose margins are wanted */
    const float *start;  /* [parameters] as param has them; NULL: drawn as
                            PyTorch does, uniform in +-1/sqrt(inputs) */
    float *param;        /* out [parameters] or NULL: of each layer the weights
                            [units, inputs], then the biases, as PyTorch */
    float *mean, *scale; /* out [inputs] or NULL; 0 and 1 unless standardise */
    float *margin;       /* out [n_eval], or [stop, n_eval] for each_epoch;
                            or NULL */
    bool standardise;
} ks_adamw_probe;

/* Number of parameters of a probe. */
int64_t ks_adamw_parameters(const ks_adamw_data *data,
                            const ks_adamw_options *options);

/* Trains all probes; bits of one do not depend on the others nor on threads. */
ks_status ks_adamw_train(ks_adamw_data *data, const ks_adamw_options *options,
                         const ks_adamw_probe *probes, int32_t n_probes,
                         ks_err *err);

/* class_weight for classes of equal weight: n / (2 n_class) of the rows; 1 for
 * both where a class is missing. */
void ks_adamw_balance(const int8_t *y, const int32_t *rows, int32_t n_rows,
                      float class_weight[2]);

#endif
