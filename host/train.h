/* train.h - what the probe trainers ask of a backend: the structs of the l2
 * and adamw slots of struct ks_ops.
 *
 * These ops are whole passes and whole trainings, a few calls a layer. Matrices
 * and what is read by the element lie in the backend's memory, as everywhere;
 * fields marked "host" are small and lie in host memory on every backend. The
 * l2 ops answer in host memory, and wait for it. */
#ifndef KS_TRAIN_H
#define KS_TRAIN_H

#include <math.h>

#include "base.h"
#include "shuffle.h"

/* ---------------------------------------------- L2 logistic regression (l2.h)
 */

enum {
    KS_L2_MAX_FOLDS = 32,
    KS_L2_CODES = 2 * KS_L2_MAX_FOLDS,
    KS_L2_BLOCK = 512,    /* most rows of a block */
    KS_L2_MAX_LANES = 16, /* sums in fixed parts, whatever the threads */
    KS_L2_PAD = 8,        /* products have a multiple of so many columns */
    KS_L2_FILE_ALIGN = 4096
};

typedef struct ks_l2_block {
    int64_t begin, end; /* rows */
} ks_l2_block;

/* Rows that do not fit in memory: in a file, [n, d] of a plain type in the
 * order of the blocks; read block by block in every pass. */
typedef struct ks_l2_file {
    int fd;
    ks_type type;
    const float *shift; /* [d] to be subtracted still; NULL: f32, it was */
    bool direct; /* fd reads past the page cache: aligned to KS_L2_FILE_ALIGN,
                    and the file's size is a multiple of it */
} ks_l2_file;

/* One layer's rows, ordered by fold and shifted (l2_open.c). */
typedef struct ks_l2_rows {
    int64_t n, d;
    int32_t n_designs, n_blocks, n_lanes;
    const float *x;              /* [n, d]; NULL: in the file */
    const ks_l2_file *file;      /* NULL: in memory; the CPU's ops alone */
    const uint8_t *code;         /* [n_designs, n] 2 fold + y */
    const uint8_t *host_code;    /* the same, host */
    const int64_t *order;        /* [n] row of the caller's x; host */
    const ks_l2_block *blocks;   /* [n_blocks] of one fold mostly; host */
    const uint32_t *block_folds; /* [n_blocks, n_designs] bit sets; host */
    struct ks_buf *work;         /* of the ops, kept from call to call */
} ks_l2_rows;

/* One evaluation of loss derivatives for n columns (l2.h); all host. With
 * z_i = w.x_i + b and p_i = 1 / (1 + exp(-z_i)). */
typedef struct ks_l2_pass {
    int32_t n;             /* columns, ordered by design */
    const int32_t *design; /* [n] */
    const uint32_t *hold;  /* [n] bit sets of the folds that do not train */
    const double *class_c; /* [n, 2] c_i of a training row, by class */
    const double *w;       /* [n, d] on x */
    const double *b;       /* [n] */
    double *g;             /* out [n, d] sum_i r_i x_i */
    double *r;             /* out [n] sum_i r_i, r_i = c_i (p_i - y_i) */
    double *h;             /* out [n] sum_i c_i p_i (1 - p_i) */
    bool exact;            /* double throughout, and margins */
    float *const *margin;  /* [n] of [rows] or NULL: z of the rows held out,
                              at the caller's places; exact passes only */
} ks_l2_pass;

/* Features as a covariance takes them: a_i = share[y_i] (x_i - centre) inverse,
 * y as the first design has it; host. */
typedef struct ks_l2_scaling {
    const float *centre, *inverse; /* [d] */
    float share[2];
} ks_l2_scaling;

/* A column's Hessian but for its ridge: the sum over training rows of
 * a_i a_i', a_i = sqrt(c_i p_i (1 - p_i)) ((x_i - centre) inverse, 1); host. */
typedef struct ks_l2_hessian {
    int32_t design;
    uint32_t hold;
    double class_c[2], b;
    const double *w;                /* [d] */
    const double *centre, *inverse; /* [d] */
    double *out;                    /* [d + 1, d + 1], the lower triangle */
} ks_l2_hessian;

/* ---------------------------------------------- AdamW (probes/adamw.h) */

enum {
    KS_ADAMW_PAD = 16,   /* widths of inputs are a multiple of it, */
    KS_ADAMW_UNITS = 64, /* and those of hidden layers of it */
    KS_ADAMW_MOST_HIDDEN = 8,
    KS_ADAMW_MOST_BATCH = 256
};

/* One probe. Everything its pointers show lies in the backend's memory. */
typedef struct ks_adamw_run {
    int32_t layer;       /* first of the matrices that are its input */
    int32_t n_rows;      /* that train */
    int32_t n_batches;   /* of an epoch */
    int32_t epochs;      /* that are run, at most the job's */
    const int32_t *rows; /* [n_rows] of the matrices */
    const int8_t *y;     /* [n] of the matrices' rows, 1 or 0 */
    uint64_t key[2];     /* of the order of rows (shuffle.h) */
    double lr, decay;
    float class_weight[2];
    const float *centre, *inverse; /* [wide] x is (x - centre) inverse; or NULL
                                      both */
    float *param;                  /* [n_params] start, then the end */
    const int32_t *eval;           /* [n_eval] rows whose margins are wanted */
    int32_t n_eval;
    float *margin; /* out [epochs or 1, n_eval] after every epoch, or NULL */
} ks_adamw_run;

/* Rows that do not fit in memory: in a file, [n, matrices, stride] of f32, so
 * that what a probe reads of a row lies side by side. */
typedef struct ks_adamw_file {
    int fd;
    int32_t matrices;
} ks_adamw_file;

/* Probes of one shape that train together. x_i: `layers` rows side by side,
 * wide = layers * stride; features between the matrices' width and stride are
 * zeros. Layers of a probe: hidden[k] units padded to KS_ADAMW_UNITS, ReLU
 * between; a probe without hidden layers is linear. Parameters one after
 * another: of each hidden layer the weights [inputs, units], the biases
 * [units]; then the output's weights [inputs], its bias; all padding zero. */
typedef struct ks_adamw_job {
    const float *x;            /* [matrices, n, stride]; NULL: in the file */
    const ks_adamw_file *file; /* NULL: in memory; the CPU's ops alone */
    int64_t n, stride;         /* stride: a multiple of KS_ADAMW_PAD */
    int32_t layers;
    int32_t n_hidden, hidden[KS_ADAMW_MOST_HIDDEN]; /* padded */
    int32_t batch;                                  /* rows */
    int32_t epochs;                                 /* that have a rate */
    double beta1, beta2; /* as torch.optim.AdamW, as is */
    float eps;
    const double *rate; /* [epochs] of lr; host */
    bool each_epoch;    /* margins after each, else after the last */
    int32_t n_runs;
    const ks_adamw_run *runs; /* [n_runs]; host, but not what they show */
} ks_adamw_job;

static inline int64_t ks_adamw_wide(const ks_adamw_job *job) {
    return job->layers * job->stride;
}

/* Inputs of hidden layer k; of the output for k = n_hidden. */
static inline int64_t ks_adamw_inputs(const ks_adamw_job *job, int32_t k) {
    return k ? job->hidden[k - 1] : ks_adamw_wide(job);
}

/* Place of the weights of hidden layer k (k = n_hidden: of the output); of its
 * end for k = n_hidden + 1. */
static inline int64_t ks_adamw_place(const ks_adamw_job *job, int32_t k) {
    int64_t at = 0;
    for (int32_t i = 0; i < k && i < job->n_hidden; i++)
        at += (ks_adamw_inputs(job, i) + 1) * job->hidden[i];
    if (k > job->n_hidden) at += ks_adamw_inputs(job, job->n_hidden) + 1;
    return at;
}

/* What a step's number and epoch decide, for one run. */
typedef struct ks_adamw_rate {
    float keep;       /* 1 - lr decay */
    float step;       /* lr / (1 - beta1^t) */
    float root;       /* 1 / sqrt(1 - beta2^t) */
    float new1, new2; /* 1 - beta1, 1 - beta2 */
    float beta2, eps;
} ks_adamw_rate;

/* lr: of the epoch; power1, power2: beta^t. As torch.optim.AdamW has it: decay
 * on every parameter, biases too, ahead of the step. */
KS_HOST_DEVICE static inline ks_adamw_rate
ks_adamw_rate_of(double lr, double decay, double beta1, double beta2, float eps,
                 double power1, double power2) {
    ks_adamw_rate a;
    a.keep = (float)(1 - lr * decay);
    a.step = (float)(lr / (1 - power1));
    a.root = (float)(1 / sqrt(1 - power2));
    a.new1 = (float)(1 - beta1);
    a.new2 = (float)(1 - beta2);
    a.beta2 = (float)beta2;
    a.eps = eps;
    return a;
}

/* d loss / d z of one row of a batch of `batch`. */
KS_HOST_DEVICE static inline float
ks_adamw_residual(float z, int y, const float weight[2], int batch) {
    float p = 1 / (1 + expf(-z));
    return weight[y] * (p - (float)y) / (float)batch;
}

#endif
