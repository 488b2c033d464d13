/* rates.h - how many tokens a second a model takes here, found on a short piece
 * of work in sessions like the run's own: for what is said ahead of a run. */
#ifndef KS_RATES_H
#define KS_RATES_H

#include "crew.h"
#include "session.h"

/* What a run will ask. All of it is borrowed. */
typedef struct ks_rates_of {
    const ks_engines *engines;
    int size;                           /* of its crew */
    const ks_generate_options *options; /* a member's */
    int32_t longest;                    /* of its sessions, and whether they */
    bool scores;                        /* score, as for ks_session_open */
    ks_ask ask;         /* what is asked of a text: KS_ASK_SAMPLE
                           where most are read and no more */
    const int32_t *ids; /* [n_ids] of its texts, 2 or more where they are
                                           scored */
    int32_t n_ids;
    int32_t length;       /* tokens of a text */
    size_t drawn;         /* sequences that are sampled; 0: none */
    int32_t drawn_length; /* of one of them, half way to its end */
    /* More to measure in each member, beside its open session; may be NULL. */
    ks_status (*besides)(void *user, int member, ks_engine *engine,
                         ks_err *err);
    void *user;
} ks_rates_of;

typedef struct ks_rates {
    double read, drawn; /* tokens a second, of all members; 0: not measured */
    int64_t at_once;    /* sequences that were drawn from at a time */
    size_t bytes;       /* ks_session_bytes of all */
} ks_rates;

/* A fraction of a second; for a large model forwards of 64, of 512 and of some
 * 500 tokens. What is drawn is drawn behind short texts: what has more to look
 * back at is slower. Errors: those of sessions. */
ks_status ks_rates_measure(ks_rates *out, const ks_rates_of *of, ks_err *err);

#endif
