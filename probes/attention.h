/* attention.h - the attention-pooled probe over a step's tokens, many at once.
 *
 * A column minimises, over w, q [d] and b,
 *     sum_i c_i log(1 + exp(-s_i z_i)) + lambda (|w|^2 + |q|^2) / 2
 *     z_i = sum_t a_t w.x_t + b,  a = softmax over the step's tokens of
 *     q.x_t / sqrt(d)
 * over its training steps (folds not held out), x standardised by the training
 * steps' tokens, c_i = 1 / (2 n_class), s_i = +-1, lambda = 1 / (C n) with n
 * training steps, as l2.h has it. With q = 0 that is the probe of the mean.
 *
 * Method: L-BFGS (Nocedal, Math. Comp. 35, 1980) on all columns in step, an
 * Armijo line each. A pass reads each block of tokens once: X [w q]' gives
 * values and logits, and its adjoint the gradients. f32 products, double sums
 * beyond a block. The objective is not convex: where a column ends depends on
 * where it starts. */
#ifndef KS_ATTENTION_H
#define KS_ATTENTION_H

#include "l2.h"

typedef struct ks_attention ks_attention;

/* The tokens of n steps, one step after another. */
typedef struct ks_attention_rows {
    int64_t n, d;
    const int64_t *offset; /* [n + 1] first token of each, at least one each */
    const int8_t *y;       /* [n] 1 or 0 */
    const uint8_t *fold;   /* [n] below 32, ascending */
} ks_attention_rows;

typedef struct ks_attention_column {
    uint32_t hold;       /* bit set of the folds that do not train */
    double strength;     /* C */
    const double *start; /* [2 d + 1] w, q, b on standardised x */
    double *param;       /* out [2 d + 1] likewise, or NULL */
    float *margin;       /* out [n] z of all steps, or NULL; with it also: */
    float *entropy;      /* out [n] of a, over log of the tokens; 1 for one
                            token; or NULL */
    float *first, *last; /* out [n] a of the first and last token; or NULL */
    double objective;    /* out */
    double gradient;     /* out: its max-norm */
    int32_t passes;      /* out */
    bool converged;      /* out: gradient <= tolerance, or ten passes lowered
                            the objective by less than a millionth */
} ks_attention_column;

/* tokens: what is read of them, one a row; they are kept standardised where
 * `at` says, in memory of the host or the backend, or in a scratch file, of
 * which a block a thread is in memory: the same bits. rows are borrowed.
 * KS_NUMERIC names a value that is not finite. */
ks_status ks_attention_open(ks_attention **out, const ks_l2_place *at,
                            const ks_l2_source *tokens,
                            const ks_attention_rows *rows, ks_err *err);
void ks_attention_close(ks_attention **attention);

/* KS_MISMATCH for a column whose training steps are of one class. */
ks_status ks_attention_fit(ks_attention *attention,
                           ks_attention_column *columns, int32_t n_columns,
                           double tolerance, int32_t max_passes, ks_err *err);

/* Mean and 1 / deviation [d] of the training steps' tokens, as given. */
void ks_attention_scale(const ks_attention *attention, uint32_t hold,
                        double *mean, double *inverse);
/* Means of the tokens of steps [step, step + n), x as given: out [n, d]. By
 * several threads at once. */
ks_status ks_attention_pool(const ks_attention *attention, int64_t step,
                            int64_t n, float *out, ks_err *err);
/* Bytes that it takes at most from open to close, with fits of so many columns,
 * by so many threads of the CPU. */
size_t ks_attention_bytes(const ks_attention_rows *rows, int32_t n_columns,
                          int threads, bool scratch);
/* Of its open alone, without a fit. */
size_t ks_attention_kept(const ks_attention_rows *rows, bool scratch);

#endif
