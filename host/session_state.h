/* session_state.h - what session.c (who is let in) and session_batch.c (what
 * the next batch computes) share. Internal. */
#ifndef KS_SESSION_STATE_H
#define KS_SESSION_STATE_H

#include "kv_tree.h"
#include "run.h"
#include "session.h"

typedef struct ks_sequence ks_sequence;

/* A request under way. ids and n survive a preemption; pages do not. */
struct ks_sequence {
    ks_request request;
    uint64_t serial;              /* order of being added */
    ks_sequence *before, *next;   /* in the line of those that wait */
    ks_sequence *older, *younger; /* samples of its prompt */
    /* Samples with the same ids as this one: they draw from its states and
     * have no pages until they part from it. A follower is neither in the line
     * nor among those that run. */
    ks_sequence *followers, *next_follower;
    bool follows;
    ks_finish finish;
    bool ended;
    bool active;
    int32_t *ids; /* [most]: prompt, then what was sampled */
    int32_t n, most;
    int32_t end;    /* tokens of the prompt to go through the model */
    int32_t past;   /* tokens in the store */
    int32_t seen;   /* prompt tokens that ever were */
    int32_t *pages; /* [n_pages] of max_pages */
    int32_t n_pages;
    float *logs;      /* [n_prompt] scores of tokens, NAN: not known yet */
    float *entropies; /* [n_prompt], with logs; NULL: not asked for */
    int32_t taken;    /* tokens in the batch in work */
};

/* PROMPT_TOKENS: most of a batch, so that progress and a signal wait seconds
 * and not minutes for a big model's. EVICTED: pages that the tree gives back at
 * a time. */
enum { KS__PROMPT_TOKENS = 512, KS__EVICTED = 64 };

struct ks_session {
    ks_engine *engine;
    const ks_generate_options *options;
    ks_kv *kv;
    ks_kv_tree *tree;
    int32_t n_pages;           /* of the store */
    int32_t *found;            /* [max_pages] of a prompt that may enter */
    ks_sequence *first, *last; /* of those that wait */
    ks_sequence *newest;       /* added last, NULL when it has ended */
    uint64_t serial;
    int32_t longest;
    size_t n_left, n_done;
    ks_sequence **active; /* [most_active], in order of entry */
    int32_t n_active, most_active;
    int32_t n_followers; /* with those that run at most most_active */
    int32_t max_pages, max_tokens, max_rows;
    bool scores;
    /* the batch, as ks_seqs wants it */
    int32_t *offsets, *past, *pages, *ids;
    ks_sequence **members;
    ks_sequence **scored; /* members whose scores are all there, or NULL */
    int32_t n_seq, n_tok;
    /* Tokens of the batch whose states are wanted: to draw from, then to
     * score, then for shares. */
    int32_t *rows; /* [max_rows] */
    int32_t n_draws, n_scores, n_shares, n_taken;
    int32_t n_entropies;   /* the last of the scores */
    ks_sequence **drawn;   /* [most_active] whose draws they are */
    int32_t *sampled;      /* [most_active] */
    ks_sample_spec *specs; /* [max_rows] of draws and shares */
    int32_t *targets;      /* [max_rows] ids to score */
    float *logs;           /* [max_rows] of the scores */
    float *entropies;      /* [max_rows] */
    double *shares;        /* [max_rows] logs of the shares */
    int32_t *sets;         /* [max_rows + 1] offsets of the shares' ids */
    int32_t *set_ids;
    size_t set_capacity;
    ks_generate_stats stats;
};

static inline int32_t ks__pages_for(int32_t tokens) {
    return (tokens + KS_PAGE - 1) / KS_PAGE;
}

/* What of a prompt can be shared: states that are drawn from or looked at for
 * shares and entropies are always computed anew. */
static inline int32_t ks__shareable(const ks_sequence *q) {
    bool anew =
        q->request.ask == KS_ASK_SHARE || q->request.ask == KS_ASK_ENTROPY;
    return anew ? q->request.from - 1 : q->request.n_prompt - 1;
}

static inline ks_kv_scores ks__scores_of(const ks_sequence *s) {
    return (ks_kv_scores){s->logs, s->request.from};
}

/* active[at] ends, or waits again. */
void ks__session_leave(ks_session *session, int32_t at, bool wait);
/* Gives back its pages. */
void ks__session_drop(ks_session *session, ks_sequence *q);
void ks__session_free(ks_session *session, ks_sequence *q);
/* To those that run. */
void ks__session_activate(ks_session *session, ks_sequence *q);
void ks__session_leave_line(ks_session *session, ks_sequence *q);
/* To its place among those that wait. */
void ks__session_join_line(ks_session *session, ks_sequence *q);
/* A free page, or -1. */
int32_t ks__session_page(ks_session *session);
/* Memory of its own, before the first page. */
ks_status ks__session_prepare(const ks_session *session, ks_sequence *q,
                              ks_err *err);

/* session_batch.c: the next batch, and what comes of it. */
ks_status ks__session_fill(ks_session *session, ks_err *err);
ks_status ks__session_step(ks_session *session, ks_answered_fn answered,
                           void *user, ks_err *err);

#endif
