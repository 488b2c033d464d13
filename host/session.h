/* session.h - requests to one model, batched continuously on the paged KV
 * store: samples of what follows a prompt, and log-probabilities of tokens.
 *
 * A request that ends leaves at once, its answer may add further ones, and the
 * next enters as soon as pages are free. When pages run out the youngest gives
 * its pages back and is computed again later. Prompts that begin alike share
 * the pages of what they have in common (kv_tree.h), and the scores of their
 * tokens; samples of one prompt part where they begin to differ. What a request
 * is answered depends on itself alone: neither on what shares its batch nor on
 * the store's size.
 */
#ifndef KS_SESSION_H
#define KS_SESSION_H

#include <stdatomic.h>

#include "forward.h"

#define KS_STORE_BYTES ((size_t)1 << 30) /* of keys and values by default */

typedef struct ks_generate_stats {
    int64_t sampled;  /* tokens */
    int64_t computed; /* tokens through the forward, prompts included */
    int64_t scored;   /* tokens whose log-probability was computed */
    int64_t shared;   /* prompt tokens that another request had computed */
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
    size_t memory; /* bytes of the KV store; 0: 1 GiB, or room for four of the
                      longest sequences, or what a device has */
    size_t room;   /* where that is host memory, bytes of the store, the batch's
                      buffers and what drawing takes together, in memory's place;
                      0: unbounded */
    bool aside; /* what engine->memory has beside these buffers is another's */
    int32_t most_active; /* sequences at a time (each worker); 0: 128 */
    /* After every batch, with done's user and never at the same time as done;
     * may be NULL. */
    void (*progress)(void *user, const ks_generate_stats *so_far);
} ks_generate_options;

typedef enum ks_ask {
    KS_ASK_SAMPLE, /* tokens that follow the prompt */
    KS_ASK_SCORE,  /* log P of the prompt's tokens from `from` on, each given
                      those before it: temperature 1, uncut */
    KS_ASK_SHARE,  /* the same under the sampling settings: the log of the
                      probability that each would be drawn, -INFINITY where it
                      is cut off */
    KS_ASK_ENTROPY /* as KS_ASK_SCORE, and the entropy of the distribution that
                      each token is given by, in nats */
} ks_ask;

/* What it points to is borrowed until the request is answered. */
typedef struct ks_request {
    const int32_t *prompt; /* [n_prompt], at least one */
    int32_t n_prompt;
    uint64_t stream;  /* Philox stream, ks_philox_stream */
    int32_t group;    /* neighbours of equal groups have equal prompts */
    int32_t max_new;  /* KS_ASK_SAMPLE; 0: the options' */
    const char *name; /* what a sentence calls it, or NULL */
    size_t tag;       /* handed back with the answer */
    ks_ask ask;
    int32_t from; /* scores and shares: 1 .. n_prompt - 1 */
    /* Shares: ids that will do as well as the last token, itself among them;
     * NULL: it alone. */
    const int32_t *last_ids; /* [n_last_ids] */
    int32_t n_last_ids;
} ks_request;

typedef enum ks_finish {
    KS_FINISH_STOP,   /* a stop id, the last of the ids */
    KS_FINISH_LENGTH, /* max_new */
    KS_FINISH_CONTEXT /* the model's context is full */
} ks_finish;

/* Borrowed during the call. */
typedef struct ks_answer {
    const int32_t *ids;     /* [n] sampled */
    const float *logs;      /* [n] of all but samples: of tokens `from` on */
    const float *entropies; /* [n] of KS_ASK_ENTROPY */
    int32_t n;
    ks_finish finish;
} ks_answer;

typedef struct ks_session ks_session;

/* longest: tokens that a sequence may come to, capped at the context. scores:
 * whether anything but KS_ASK_SAMPLE will be asked. options and what they point
 * to are borrowed. One session at a time on an engine. */
ks_status ks_session_open(ks_session **out, ks_engine *engine,
                          const ks_generate_options *options, int32_t longest,
                          bool scores, ks_err *err);
void ks_session_close(ks_session **session);
/* Bytes of host memory that its store, its batch's buffers and drawing come to;
 * 0 where they lie on a device. */
size_t ks_session_bytes(const ks_session *session);
/* How many sequences of so many tokens, nothing in common, it runs at a time.
 */
int32_t ks_session_holds(const ks_session *session, int32_t tokens);

/* Behind those that wait. KS_LIMIT, KS_MISMATCH: it does not fit the model or
 * the session. */
ks_status ks_session_add(ks_session *session, const ks_request *request,
                         ks_err *err);

/* Until nothing is left: calls answered once a request, from the caller's
 * thread, in the order in which they end; it may add requests. A failure of it
 * ends the run, and so does a value that is not finite, KS_NUMERIC with the
 * request's name and the token. KS_INTERRUPTED between batches when
 * ks_interrupted or *stop (may be NULL) is set. */
typedef ks_status (*ks_answered_fn)(void *user, const ks_request *request,
                                    const ks_answer *answer, ks_err *err);
ks_status ks_session_run(ks_session *session, ks_answered_fn answered,
                         void *user, const atomic_bool *stop, ks_err *err);
const ks_generate_stats *ks_session_stats(const ks_session *session);

#endif
