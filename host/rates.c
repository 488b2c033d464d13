/* rates.c - see rates.h. */
#include "rates.h"

#include <stdlib.h>

/* Tokens of a pass, behind one that maps weights and wakes threads; the next
 * takes MORE times as many where it was too quick to be measured, up to MOST
 * times. */
enum {
    WARM_TOKENS = 64,
    FEW_TOKENS = 512,
    MORE = 4,
    MOST = 256,
    NEW_TOKENS = 4
};
#define LONG_ENOUGH 0.1 /* seconds */

typedef struct member {
    const ks_rates_of *of;
    ks_session *session;
    ks_request *requests;
    int32_t *ids;     /* of the requests of a pass */
    int64_t serial;   /* of sequences: each begins elsewhere in of->ids */
    int64_t computed; /* tokens of the last pass */
    double took;      /* its seconds */
    ks_rates rates;
} member;

static bool again(int passes, double took, int32_t size) {
    return passes < 2 || (took < LONG_ENOUGH && size < MOST);
}

static ks_status nothing(void *user, const ks_request *request,
                         const ks_answer *answer, ks_err *err) {
    (void)user, (void)request, (void)answer, (void)err;
    return KS_OK;
}

/* n sequences of the texts' ids from one place each, so that hardly any begins
 * like another, whose states would be there already. */
static ks_status make(member *m, ks_ask ask, int32_t n, int32_t length,
                      int32_t new, ks_err *err) {
    ks_status st = KS_OK;
    const ks_rates_of *of = m->of;
    size_t size = (size_t)n * (size_t)length;
    KS_TRY(ks_alloc(&m->ids, size, sizeof *m->ids, "ids", err));
    KS_TRY(ks_alloc(&m->requests, (size_t)n, sizeof *m->requests, "requests",
                    err));
    for (int32_t i = 0; i < n; i++) {
        int32_t *ids = m->ids + (size_t)i * (size_t)length;
        int64_t from = m->serial++;
        for (int32_t t = 0; t < length; t++)
            ids[t] = of->ids[(from + t) % of->n_ids];
        m->requests[i] = (ks_request){.prompt = ids,
                                      .n_prompt = length,
                                      .stream = (uint64_t)from,
                                      .group = i,
                                      .max_new = new,
                                      .ask = ask,
                                      .from = ask == KS_ASK_SAMPLE ? 0 : 1};
    }
done:
    return st;
}

static ks_status pass(member *m, ks_ask ask, int32_t n, int32_t length,
                      int32_t new, const atomic_bool *stop, ks_err *err) {
    ks_status st = KS_OK;
    int64_t before = ks_session_stats(m->session)->computed;
    KS_TRY(make(m, ask, n, length, new, err));
    double start = ks_seconds();
    for (int32_t i = 0; i < n; i++)
        KS_TRY(ks_session_add(m->session, &m->requests[i], err));
    KS_TRY(ks_session_run(m->session, nothing, NULL, stop, err));
    m->took = KS_MAX(ks_seconds() - start, 1e-9);
    m->computed = ks_session_stats(m->session)->computed - before;
done:
    free(m->requests);
    free(m->ids);
    m->requests = NULL;
    m->ids = NULL;
    return st;
}

static ks_status measure_read(member *m, const atomic_bool *stop, ks_err *err) {
    ks_status st = KS_OK;
    const ks_rates_of *of = m->of;
    int32_t most = of->longest - (of->ask == KS_ASK_SAMPLE);
    int32_t least = of->ask == KS_ASK_SAMPLE ? 1 : 2;
    int32_t length = KS_MIN(KS_MIN(of->length, FEW_TOKENS), most);
    length = KS_MAX(length, least);
    int32_t size = 1;
    for (int passes = 0; again(passes, m->took, size); passes++) {
        int32_t tokens = passes ? size * FEW_TOKENS : WARM_TOKENS;
        int32_t each = KS_MIN(length, tokens);
        KS_TRY(pass(m, of->ask, tokens / each, each, 1, stop, err));
        m->rates.read = (double)m->computed / m->took;
        if (passes && m->took < LONG_ENOUGH) size *= MORE;
    }
done:
    return st;
}

/* As many at a time as in the run; what stands ahead of the first new token is
 * not counted. */
static ks_status measure_drawn(member *m, const atomic_bool *stop,
                               ks_err *err) {
    ks_status st = KS_OK;
    const ks_rates_of *of = m->of;
    enum { AHEAD = 2 };
    size_t holds = (size_t)ks_session_holds(m->session, of->drawn_length);
    size_t share = of->drawn / (size_t)of->size;
    int32_t n = (int32_t)KS_MAX(KS_MIN(holds, share), 1);
    int32_t ahead = KS_MIN(AHEAD, of->longest - 1), size = 1;
    m->rates.at_once = n;
    /* weights are there */
    for (int passes = 1; again(passes, m->took, size); passes++) {
        int32_t new = KS_MIN(size * NEW_TOKENS, of->longest - ahead);
        KS_TRY(pass(m, KS_ASK_SAMPLE, n, ahead, new, stop, err));
        int64_t drawn = m->computed - (int64_t)n * (ahead - 1);
        m->rates.drawn = (double)KS_MAX(drawn, 1) / m->took;
        if (m->took < LONG_ENOUGH) size *= MORE;
    }
done:
    return st;
}

typedef struct work {
    const ks_rates_of *of;
    member *members;
} work;

static ks_status measure(void *user, int index, ks_engine *engine,
                         const atomic_bool *stop, ks_err *err) {
    ks_status st = KS_OK;
    const work *w = user;
    const ks_rates_of *of = w->of;
    member *m = &w->members[index];
    m->of = of;
    m->serial = (int64_t)index * of->n_ids / of->size;
    KS_TRY(ks_session_open(&m->session, engine, of->options, of->longest,
                           of->scores, err));
    m->rates.bytes = ks_session_bytes(m->session);
    KS_TRY(measure_read(m, stop, err));
    if (of->drawn > 0) KS_TRY(measure_drawn(m, stop, err));
    if (of->besides) KS_TRY(of->besides(of->user, index, engine, err));
done:
    ks_session_close(&m->session);
    return st;
}

ks_status ks_rates_measure(ks_rates *out, const ks_rates_of *of, ks_err *err) {
    ks_status st = KS_OK;
    work w = {.of = of};
    *out = (ks_rates){0};
    KS_TRY(ks_alloc(&w.members, (size_t)of->size, sizeof *w.members, "members",
                    err));
    KS_TRY(ks_crew_run(of->engines, of->size, measure, &w, err));
    for (int i = 0; i < of->size; i++) {
        out->read += w.members[i].rates.read;
        out->drawn += w.members[i].rates.drawn;
        out->at_once += w.members[i].rates.at_once;
        out->bytes += w.members[i].rates.bytes;
    }
done:
    free(w.members);
    return st;
}
