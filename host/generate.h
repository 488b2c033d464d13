/* generate.h - batched generation on the paged KV store.
 *
 * Continuous batching: a sequence that ends leaves at once and the next one
 * enters as soon as pages are free. When pages run out the youngest sequence
 * gives its pages back and is computed again later. What a sequence samples
 * depends on its prompt, stream and settings alone: neither on what shares
 * its batch nor on the store's size.
 */
#ifndef KS_GENERATE_H
#define KS_GENERATE_H

#include <stdatomic.h>

#include "chains.h"
#include "engines.h"
#include "forward.h"
#include "prompt.h"

#define KS_STORE_BYTES ((size_t)1 << 30) /* of keys and values by default */

typedef struct ks_generate_stats {
    int64_t sampled;  /* tokens */
    int64_t computed; /* tokens through the forward, prompts included */
    int64_t shared;   /* prompt tokens that another sequence had computed */
    int64_t prompts;  /* prompt tokens in the store once, shared ones too */
    int64_t batches, preempted;
} ks_generate_stats;

typedef struct ks_generate_options {
    float temperature; /* 0: greedy */
    float top_p;       /* 1: all */
    int32_t top_k;     /* 0: all */
    int32_t max_new;   /* most new tokens of a sequence; 0: up to the context */
    uint64_t seed;
    const int32_t *stops; /* [n_stops] ids that end a sequence */
    size_t n_stops;
    size_t memory; /* bytes of the KV store; 0: 1 GiB, or what a device has */
    int32_t most_active; /* sequences at a time (each worker); 0: 128 */
    /* [groups] what a sentence calls the prompt of a group; NULL: numbers */
    const char *const *names;
    /* After every batch, with done's user and never at the same time as done;
     * may be NULL. */
    void (*progress)(void *user, const ks_generate_stats *so_far);
} ks_generate_options;

typedef struct ks_request {
    const int32_t *prompt; /* [n_prompt], at least one; borrowed */
    int32_t n_prompt;
    uint64_t stream; /* Philox stream, ks_philox_stream */
    int32_t group;   /* equal groups have equal prompts and share their pages */
} ks_request;

typedef enum ks_finish {
    KS_FINISH_STOP,   /* a stop id, the last of the ids */
    KS_FINISH_LENGTH, /* max_new */
    KS_FINISH_CONTEXT /* the model's context is full */
} ks_finish;

/* Calls done(user, i, ids, n, finish) once a request, in the order in which
 * they end, one call at a time, though not always from the caller's thread;
 * ids [n] are borrowed during the call. stats may be NULL. KS_INTERRUPTED
 * between batches when ks_interrupted is set. KS_NUMERIC names the prompt and
 * the token where a value is not finite. */
typedef ks_status (*ks_generated_fn)(void *user, size_t request,
                                     const int32_t *ids, int32_t n,
                                     ks_finish finish, ks_err *err);
ks_status ks_generate(ks_engine *engine, const ks_generate_options *options,
                      const ks_request *requests, size_t n,
                      ks_generated_fn done, void *user,
                      ks_generate_stats *stats, ks_err *err);

/* The same dealt out among several devices; the draws are those of one. */
ks_status ks_generate_on(const ks_engines *engines,
                         const ks_generate_options *options,
                         const ks_request *requests, size_t n,
                         ks_generated_fn done, void *user,
                         ks_generate_stats *stats, ks_err *err);

/* One scheduler on the engine's own threads, options and requests checked
 * already. stop (may be NULL), once set, ends it like an interruption. */
ks_status ks__generate_alone(ks_engine *engine,
                             const ks_generate_options *options,
                             const ks_request *requests, size_t n,
                             ks_generated_fn done, void *user,
                             const atomic_bool *stop, ks_generate_stats *stats,
                             ks_err *err);

/* generate_crew.c: schedulers on one thread each, requests dealt out among
 * them. Of several engines one each; of one engine `size` on engines of their
 * own, and 1 is the size where threads serve better inside each op. */
int ks__crew_size(const ks_engine *engine, const ks_generate_options *options,
                  size_t n);
ks_status ks__crew_generate(const ks_engines *engines, int size,
                            const ks_generate_options *options,
                            const ks_request *requests, size_t n,
                            ks_generated_fn done, void *user,
                            ks_generate_stats *stats, ks_err *err);

/* Stream of a draw: the first 64 bits of SHA-256 over problem id, fork path
 * ("" at the root) and sample, parted by NUL. With the seed as the key and the
 * token's index as the counter no draw depends on order or batching. Fails
 * with the hash's own error. */
ks_status ks_philox_stream(uint64_t *stream, const char *problem,
                           const char *path, int32_t sample, ks_err *err);

/* ------------------------------------------------------- from ids to a chain
 */

typedef struct ks_compose {
    const ks_tokenizer *tokenizer;
    ks_template which;
    const char *model;      /* name for "model" */
    const json_t *settings; /* goes into "sampling"; borrowed */
} ks_compose;

/* The chain of one request as a new JSON object: id "problem/sample", prompt,
 * text (the thinking), rest (what follows, the stop mark included), steps,
 * answer, correct, finished, closed (the thinking's end mark was found), token
 * counts, and how many sampled ids one tokenisation of prompt + text + rest
 * does not give back. Bytes that are no UTF-8 become U+FFFD. */
ks_status ks_compose_chain(const ks_compose *compose, const ks_problem *problem,
                           int32_t sample, const char *prompt,
                           size_t prompt_length, const int32_t *ids, int32_t n,
                           ks_finish finish, json_t **out, ks_err *err);

#endif
