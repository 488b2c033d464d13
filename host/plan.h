/* plan.h - what an experiment would take on paper: the work of its stages by
 * formula, and the least time of a device for it (docs/plan.md).
 *
 * A stage is a list of kernels, each with the bytes that it must move at least
 * (every operand once, f32 activations, weights as stored) and its floating
 * point operations; it takes the longer of the two. The same lists as
 * experiments/roofline/roofline.py prints, which reads the same tables
 * (plan/devices.json, plan/models.json). Internal.
 */
#ifndef KS_PLAN_H
#define KS_PLAN_H

#include "model.h"

/* ------------------------------------------------------------------ what on */

/* L layers, d, H heads, G of keys and values, D their width, F, V. */
typedef struct ks_plan_shape {
    char name[64], source[160];
    double layers, d, heads, kv, dim, ff, vocab;
    double experts, active;    /* 0: dense */
    double windowed, window;   /* layers with a window, its keys */
    double weights, attention; /* bytes an element of the MLP's matrices, of all
                                  others */
    bool tied;
} ks_plan_shape;

/* Peak rates of one device. */
typedef struct ks_plan_device {
    char name[32], title[64], source[160];
    double memory;                  /* bytes */
    double bandwidth;               /* bytes a second */
    double tensor, float_, double_; /* FLOP a second: bf16 products, f32, f64 */
} ks_plan_device;

/* By name, or its end without case: "7b" for Qwen2.5-7B, "70b-shape". KS_USAGE
 * naming the known ones. */
ks_status ks_plan_find_shape(const char *name, ks_plan_shape *out, ks_err *err);
ks_status ks_plan_find_device(const char *name, ks_plan_device *out,
                              ks_err *err);
/* Of a model's config; weights: bytes an element. */
void ks_plan_shape_of(const ks_config *config, const char *name, double weights,
                      ks_plan_shape *out);

/* ------------------------------------------------------------------- kernels
 */

typedef enum ks_plan_unit {
    KS_PLAN_TENSOR,
    KS_PLAN_FLOAT,
    KS_PLAN_DOUBLE
} ks_plan_unit;

typedef struct ks_plan_kernel {
    const char *name;
    ks_plan_unit unit;
    double calls, bytes, flops; /* of one call */
} ks_plan_kernel;

enum { KS_PLAN_KERNELS = 24 };
typedef struct ks_plan_kernels {
    ks_plan_kernel at[KS_PLAN_KERNELS];
    int32_t n;
} ks_plan_kernels;

/* A packed batch of t tokens, in chains of `context`; steps of so many
 * tokens are pooled at five positions. scored: log-softmax of given tokens. */
ks_plan_kernels ks_plan_prefill(const ks_plan_shape *m, double t,
                                double context, double step, bool scored);
/* One token of each of t continuations: `prefix` tokens in common, `own`
 * of each, on average. */
ks_plan_kernels ks_plan_decode(const ks_plan_shape *m, double t, double prefix,
                               double own);
/* Cotangents of `targets` steps of `step` tokens against one forward of a
 * chain of t. n 0 for a mixture of experts: refused. */
ks_plan_kernels ks_plan_backward(const ks_plan_shape *m, double targets,
                                 double t, double step);
/* Bytes, FLOP, least seconds of all calls. on NULL: no seconds. */
typedef struct ks_plan_work {
    double bytes, flops, seconds;
} ks_plan_work;
ks_plan_work ks_plan_sum(const ks_plan_kernels *k, const ks_plan_device *on);

/* -------------------------------------------------------------------- stages
 */

typedef enum ks_plan_stage_kind {
    KS_PLAN_GENERATE,
    KS_PLAN_LABEL,
    KS_PLAN_CAPTURE,
    KS_PLAN_PROBE,
    KS_PLAN_STAGES
} ks_plan_stage_kind;
const char *ks_plan_stage_name(ks_plan_stage_kind kind);

/* What is not said otherwise is in ks_plan_defaults. */
typedef struct ks_plan_asked {
    double chains, chain_tokens, prompt_tokens, steps; /* steps a chain */
    double samples, sample_tokens, cue_tokens; /* of labelling's questions */
    double orders;                             /* random ones of labelling */
    double devices;
    double batch_tokens, active; /* of a batch; sequences at a time */
    double streams, positions, value_bytes; /* that capture keeps */
    double folds, strengths, reads; /* of the probes; passes over a layer */
    double text_bytes;              /* of a token in a file of chains */
    double disk; /* bytes a second that all activations are written at */
    double share[KS_PLAN_STAGES]; /* of the least time's speed that is had */
} ks_plan_asked;
ks_plan_asked ks_plan_defaults(void);

typedef struct ks_plan_stage {
    double tokens;     /* through the model, forward and backward */
    ks_plan_work work; /* of all devices; seconds: at best, all devices' sum */
    double device_seconds, wall_seconds; /* with the share that is had */
    double file_bytes;
    double memory;      /* bytes of a device */
    double active;      /* sequences at a time; 0: none */
    bool fits, refused; /* refused: influences of a mixture of experts */
} ks_plan_stage;

double ks_plan_parameters(const ks_plan_shape *m);
double ks_plan_weight_bytes(const ks_plan_shape *m);
/* Keys and values of a token, all layers. */
double ks_plan_token_bytes(const ks_plan_shape *m);
/* Tokens that the questions on one chain take where what they share is computed
 * once; *sampled of them one after another, *backward those of its influences.
 * The suppositions are label_cost.c's. */
double ks_plan_label_tokens(const ks_plan_asked *a, double *sampled,
                            double *backward);
void ks_plan_stages(const ks_plan_shape *m, const ks_plan_device *on,
                    const ks_plan_asked *a, ks_plan_stage out[KS_PLAN_STAGES]);

#endif
