/* generate.h - many samples at once, and from ids to a chain.
 */
#ifndef KS_GENERATE_H
#define KS_GENERATE_H

#include "chains.h"
#include "crew.h"
#include "prompt.h"
#include "session.h"

/* Samples (requests' tags are not looked at; names are needed by who wants to
 * read them). Calls done(user, i, ids, n, finish) once a request, in the order
 * in which they end, one call at a time, though not always from the caller's
 * thread; ids [n] are borrowed during the call. stats may be NULL.
 * KS_INTERRUPTED between batches when ks_interrupted is set. KS_NUMERIC names
 * the prompt and the token where a value is not finite. */
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

/* How many sessions ks_generate_on deals n requests out to, and what each has
 * for options. */
int ks_generate_size(const ks_engines *engines,
                     const ks_generate_options *options, size_t n);
ks_generate_options ks_generate_share(const ks_engines *engines,
                                      const ks_generate_options *options,
                                      int size);

/* sum += now - was */
void ks_generate_stats_add(ks_generate_stats *sum, const ks_generate_stats *now,
                           const ks_generate_stats *was);

/* Stream of a draw: the first 64 bits of SHA-256 over problem id, fork path
 * ("" at the root) and sample, parted by NUL. With the seed as the key and the
 * token's index as the counter no draw depends on order or batching. Fails
 * with the hash's own error. */
ks_status ks_philox_stream(uint64_t *stream, const char *problem,
                           const char *path, int32_t sample, ks_err *err);

/* ------------------------------------------------------- from ids to a chain
 */

/* Appends what the ids say; bytes that are no UTF-8 become U+FFFD. */
ks_status ks_add_ids(const ks_tokenizer *tokenizer, const int32_t *ids,
                     int32_t n, ks_str *out, ks_err *err);

typedef struct ks_compose {
    const ks_tokenizer *tokenizer;
    ks_template which;
    const char *model;      /* name for "model" */
    const json_t *settings; /* goes into "sampling"; borrowed */
} ks_compose;

/* The chain of one request as a new JSON object: id "problem/sample", prompt,
 * text (the thinking), rest (what follows, the stop mark included), steps,
 * answer, correct, gold (the problem's answer, where it has one), finished,
 * closed (the thinking's end mark was found), token counts, and how many
 * sampled ids one tokenisation of prompt + text + rest does not give back.
 * Bytes that are no UTF-8 become U+FFFD. */
ks_status ks_compose_chain(const ks_compose *compose, const ks_problem *problem,
                           int32_t sample, const char *prompt,
                           size_t prompt_length, const int32_t *ids, int32_t n,
                           ks_finish finish, json_t **out, ks_err *err);

/* The parts of it that import.c needs as well. */

/* The rules of text.h on the output, whole[output, n), with the mark that the
 * prompt ahead of it may open the thinking with; other marks of the prompt,
 * such as a question's, say nothing. *text is in whole, at `output` at least.
 */
ks_status ks__find_thinking(const char *whole, size_t n, size_t output,
                            ks_template which, ks_span *text, bool *closed,
                            ks_err *err);
/* A chain's "answer", the last one that the output states, and "correct",
 * whether it equals gold (NULL: null); both new. */
ks_status ks__chain_judge(const char *output, size_t n, const char *gold,
                          json_t **answer, json_t **correct, ks_err *err);

#endif
