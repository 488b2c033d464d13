/* keystep.h - the one public header of libkeystep.
 *
 * Keystep runs a transformer, captures the activations of every layer pooled
 * over reasoning steps straight into HDF5, and trains probes on all layers.
 *
 * Conventions
 *   - Every function that can fail returns a ks_status (0 is success) and
 *     takes a ks_err as its last argument. The library never exits or prints.
 *   - X_open and X_close pair up. close takes the address of the handle,
 *     accepts NULL and clears it. A failed open leaves nothing to close.
 *   - Offsets into text are UTF-8 bytes, end exclusive.
 *   - Matrices are row-major.
 */
#ifndef KEYSTEP_H
#define KEYSTEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KS_VERSION "0.1.0"

/* The library is built with hidden symbols; what stands here is visible. */
#pragma GCC visibility push(default)

/* ------------------------------------------------------------------ status */

#define KS_STATUS_LIST(X)                                                      \
    X(OK, "done")                                                              \
    X(USAGE, "wrong usage")                                                    \
    X(IO, "input or output failed")                                            \
    X(FORMAT, "malformed input")                                               \
    X(MISMATCH, "inputs do not fit together")                                  \
    X(EXISTS, "output exists")                                                 \
    X(LIMIT, "beyond a limit")                                                 \
    X(NOMEM, "out of memory")                                                  \
    X(NUMERIC, "not a finite number")                                          \
    X(UNSUPPORTED, "not supported")                                            \
    X(INTERRUPTED, "interrupted")                                              \
    X(INTERNAL, "internal error")

typedef enum ks_status {
#define KS_STATUS_ENUM(name, text) KS_##name,
    KS_STATUS_LIST(KS_STATUS_ENUM)
#undef KS_STATUS_ENUM
} ks_status;

/* One sentence that names file, place, expected and found. Caller owns it. */
typedef struct ks_err {
    ks_status code;
    char text[1024];
} ks_err;

/* The general words for a status; never NULL. */
const char *ks_status_text(ks_status status);

/* ------------------------------------------------------------------- types */

/* Storage types of weights and activations; block types as GGUF defines them.
 */
typedef enum ks_type {
    KS_F32,
    KS_F16,
    KS_BF16,
    KS_Q4_0,
    KS_Q4_1,
    KS_Q5_0,
    KS_Q5_1,
    KS_Q8_0,
    KS_Q2_K,
    KS_Q3_K,
    KS_Q4_K,
    KS_Q5_K,
    KS_Q6_K,
    KS_MXFP4,
    KS_I32,
    KS_N_TYPES
} ks_type;

typedef enum ks_stream { KS_RESID, KS_ATTN, KS_MLP, KS_N_STREAMS } ks_stream;

typedef enum ks_position {
    KS_MEAN,   /* mean over the step's tokens */
    KS_FIRST,  /* its first token */
    KS_MIDDLE, /* token floor(n/2) of its n tokens */
    KS_LAST,   /* its last token */
    KS_BEFORE, /* the last token ahead of the step */
    KS_TOKENS, /* every token of the step, one row each */
    KS_N_POSITIONS
} ks_position;

const char *ks_type_name(ks_type type);
const char *ks_stream_name(ks_stream stream);
const char *ks_position_name(ks_position position);

/* --------------------------------------------------------------- tokenizer */

typedef struct ks_tokenizer ks_tokenizer;

/* Ids and, for each, the byte span [begin,end) of the text it came from.
 * Owned by the caller, released by ks_tokens_free; may be reused. */
typedef struct ks_tokens {
    int32_t *ids;
    int32_t *begin;
    int32_t *end;
    size_t n, capacity;
} ks_tokens;

void ks_tokens_free(ks_tokens *tokens);

/* path: a tokenizer.json, a folder that holds one, or a GGUF file. */
ks_status ks_tokenizer_open(ks_tokenizer **out, const char *path, ks_err *err);
void ks_tokenizer_close(ks_tokenizer **tokenizer);

/* Special tokens in the text are recognised, nothing is added. Invalid UTF-8
 * is an error naming the byte. A byte that the vocabulary has no token for (few
 * lack any, all of them control characters) gives none, as in `tokenizers`.
 * Thread-safe on one handle. */
ks_status ks_tokenize(const ks_tokenizer *tokenizer, const char *text,
                      size_t length, ks_tokens *out, ks_err *err);

/* The bytes of the ids one after another, NUL-terminated; *text is malloc'd. */
ks_status ks_detokenize(const ks_tokenizer *tokenizer, const int32_t *ids,
                        size_t n, char **text, size_t *length, ks_err *err);

int32_t ks_tokenizer_size(const ks_tokenizer *tokenizer); /* highest id + 1 */
int32_t ks_tokenizer_bos(const ks_tokenizer *tokenizer);  /* -1: none */
/* SHA-256 (64 hex digits) of what decides ids: vocabulary, merges, patterns,
 * special tokens; the same for a GGUF and a tokenizer.json that agree. */
const char *ks_tokenizer_hash(const ks_tokenizer *tokenizer);

/* ------------------------------------------------------------------ engine */

typedef struct ks_engine ks_engine;

typedef struct ks_engine_options {
    const char *backend;  /* "cpu", "cuda" or "cuda:1"; NULL: cpu */
    int threads;          /* 0: all that the process may use */
    size_t memory;        /* bytes for run buffers, of a device for all that
                             it holds; 0: what is needed, or what it has */
    int32_t batch_tokens; /* most tokens of one packed batch; 0: default */
} ks_engine_options;

/* model: a GGUF file, a .safetensors file beside its config.json, or a folder
 * with config.json and model.safetensors or model.safetensors.index.json. */
ks_status ks_engine_open(ks_engine **out, const char *model,
                         const ks_engine_options *options, ks_err *err);
void ks_engine_close(ks_engine **engine);

typedef struct ks_model_info {
    const char *name, *architecture;
    const char *sha256; /* content of the weight files */
    int32_t n_layers, d_model, n_vocab, n_context;
} ks_model_info;

ks_model_info ks_engine_info(const ks_engine *engine);

/* A packed batch: n_seq sequences end to end, no padding. Borrowed. */
typedef struct ks_batch {
    int32_t n_seq;
    const int32_t *offsets; /* [n_seq + 1], token offsets, offsets[0] == 0 */
    const int32_t *ids;     /* [offsets[n_seq]] */
} ks_batch;

/* A step: tokens [begin,end) of the packed batch, in sequence seq. */
typedef struct ks_segment {
    int32_t seq, begin, end;
} ks_segment;

/* What to keep of a run. emit gets the rows of one (stream, position, layer)
 * at a time, [n_rows, d_model] in `dtype`, n_rows = n_segments (KS_TOKENS:
 * tokens of all segments); the pointer is valid during the call only. A step
 * without a token, or KS_BEFORE at token 0, is a row of NaN. Layers: KS_RESID
 * 0..L (0 = embedding output, l = after block l, before the final norm),
 * KS_ATTN and KS_MLP 0..L-1. */
typedef struct ks_capture {
    uint32_t streams, positions; /* bit sets: 1u << KS_RESID, ... */
    ks_type dtype;               /* KS_F32, KS_F16 or KS_BF16 */
    int32_t n_segments;
    const ks_segment *segments; /* ordered, not overlapping */
    ks_status (*emit)(void *user, ks_stream stream, ks_position position,
                      int32_t layer, const void *rows, int64_t n_rows,
                      ks_err *err);
    void *user;
} ks_capture;

/* One forward pass over the batch. Deterministic: the bits of a sequence do
 * not depend on what shares its batch. */
ks_status ks_engine_run(ks_engine *engine, const ks_batch *batch,
                        const ks_capture *capture, ks_err *err);

/* ------------------------------------------------------------------ probes */

/* L2-regularised logistic regression on one data matrix, for all strengths x
 * folds x seeds at once. Minimises
 *     sum_i c_i log(1 + exp(-s_i (w.x_i + b))) / sum_i c_i + |w|^2 / (2 C n)
 * with s_i = +-1, c_i balancing the classes, x standardised on the training
 * rows, b free: scikit-learn's LogisticRegression(C, class_weight='balanced')
 * on standardised data. */
typedef struct ks_probe_problem {
    int64_t n, d;
    const float *x;       /* [n, d] */
    const int8_t *y;      /* [n], 1 important, 0 removable */
    const int32_t *group; /* [n], problem of the row; folds never split one */
    const int32_t *chain; /* [n], chain of the row; not used for fitting */
    const char *const *group_ids; /* [groups] what folds are drawn by, so that
                                     they do not depend on order; NULL: the
                                     groups' numbers */
} ks_probe_problem;

typedef struct ks_probe_options {
    int32_t n_strengths;     /* 0: eight, 1e-4 ... 10 */
    const double *strengths; /* C of scikit-learn, ascending */
    int32_t n_folds;         /* 3 to 32 */
    int32_t n_inner_folds;   /* 2 to n_folds - 1 parts of the other folds;
                                0: n_folds - 1 */
    int32_t n_seeds;         /* foldings */
    const uint64_t *seeds;
    double tolerance;   /* max-norm of the mean loss's gradient; 0: 1e-6 */
    int32_t max_passes; /* 0: 1000 */
    int threads;        /* 0: all that the process may use; bits do not
                           depend on it */
} ks_probe_options;

typedef struct ks_probe_fit {
    double strength;   /* chosen inside the training folds by log loss */
    double gradient;   /* max-norm at the solution, in double */
    int32_t passes;    /* reads of x while this fit was being solved */
    bool converged;    /* gradient <= tolerance */
    double inner_loss; /* class-balanced log loss on the inner folds */
} ks_probe_fit;

/* scores: out-of-fold margins [n_seeds, n] (higher = more important, above 0
 * is the guess 'important'); fits: [n_seeds, n_folds]; weights
 * [n_seeds, n_folds, d + 1] on raw x, bias last, may be NULL. All owned by the
 * caller. A fit that did not converge in max_passes says so in its ks_probe_fit
 * and is no error; one class only in a training part is KS_MISMATCH, a value
 * that is not finite KS_NUMERIC. */
ks_status ks_probe_l2(const ks_probe_problem *problem,
                      const ks_probe_options *options, float *scores,
                      ks_probe_fit *fits, double *weights, ks_err *err);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
#endif
