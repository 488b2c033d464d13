/* generate.c - samples of many prompts on one session, or on several. */
#include "generate.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

ks_status ks_philox_stream(uint64_t *stream, const char *problem,
                           const char *path, int32_t sample, ks_err *err) {
    char number[16], hex[65], head[17] = {0};
    ks_sha256 *hash = NULL;
    snprintf(number, sizeof number, "%d", sample);
    ks_status st = ks_sha256_open(&hash, err);
    if (st != KS_OK) return st;
    ks_sha256_add(hash, problem, strlen(problem) + 1);
    ks_sha256_add(hash, path, strlen(path) + 1);
    ks_sha256_add(hash, number, strlen(number) + 1);
    ks_sha256_close(&hash, hex);
    memcpy(head, hex, 16);
    *stream = strtoull(head, NULL, 16);
    return KS_OK;
}

static ks_status check_options(const ks_generate_options *o, ks_err *err) {
    if (o->max_new >= 0 && o->top_k >= 0 && o->temperature >= 0 &&
        o->top_p > 0 && o->top_p <= 1)
        return KS_OK;
    return ks_fail(
        err, KS_USAGE,
        "sampling at temperature %g, top-p %g, top-k %d, %d new tokens",
        (double)o->temperature, (double)o->top_p, o->top_k, o->max_new);
}

/* What one member of the crew does. */
typedef struct part {
    struct work *work;
    ks_generate_options options;
    size_t *mine; /* [n] of the caller's requests */
    size_t n;
    ks_generate_stats told;
} part;

typedef struct work {
    const ks_generate_options *options;
    const ks_request *requests;
    size_t n, n_done;
    ks_generated_fn done;
    void *user;
    pthread_mutex_t mutex;
    part *parts; /* [size] */
    ks_generate_stats stats;
} work;

void ks_generate_stats_add(ks_generate_stats *sum, const ks_generate_stats *now,
                           const ks_generate_stats *was) {
    sum->sampled += now->sampled - was->sampled;
    sum->computed += now->computed - was->computed;
    sum->scored += now->scored - was->scored;
    sum->shared += now->shared - was->shared;
    sum->prompts += now->prompts - was->prompts;
    sum->batches += now->batches - was->batches;
    sum->preempted += now->preempted - was->preempted;
}

static ks_status hand_on(void *user, const ks_request *request,
                         const ks_answer *answer, ks_err *err) {
    work *w = ((part *)user)->work;
    pthread_mutex_lock(&w->mutex);
    ks_status st = w->done(w->user, request->tag, answer->ids, answer->n,
                           answer->finish, err);
    w->n_done += st == KS_OK;
    pthread_mutex_unlock(&w->mutex);
    return st;
}

static void tell(void *user, const ks_generate_stats *so_far) {
    part *p = user;
    work *w = p->work;
    pthread_mutex_lock(&w->mutex);
    ks_generate_stats_add(&w->stats, so_far, &p->told);
    p->told = *so_far;
    if (w->options->progress) w->options->progress(w->user, &w->stats);
    pthread_mutex_unlock(&w->mutex);
}

/* Tokens of the longest sequence that the requests can come to. */
static int32_t longest_of(const part *p, int32_t context) {
    int64_t longest = 1, most_new = p->options.max_new;
    for (size_t i = 0; i < p->n; i++) {
        const ks_request *r = &p->work->requests[p->mine[i]];
        int64_t new = r->max_new ? r->max_new : most_new;
        longest = KS_MAX(longest, new ? r->n_prompt + new : context);
    }
    return (int32_t)KS_MIN(longest, context);
}

static ks_status run_part(void *user, int member, ks_engine *engine,
                          const atomic_bool *stop, ks_err *err) {
    ks_status st = KS_OK;
    part *p = &((work *)user)->parts[member];
    ks_session *session = NULL;
    if (p->n == 0) return KS_OK;
    KS_TRY(ks_session_open(&session, engine, &p->options,
                           longest_of(p, engine->model->config.n_context),
                           false, err));
    for (size_t i = 0; i < p->n; i++) {
        ks_request request = p->work->requests[p->mine[i]];
        request.tag = p->mine[i];
        KS_TRY(ks_session_add(session, &request, err));
    }
    KS_TRY(ks_session_run(session, hand_on, p, stop, err));
done:
    ks_session_close(&session);
    return st;
}

static size_t count_groups(const work *w) {
    size_t groups = w->n > 0;
    for (size_t i = 1; i < w->n; i++)
        groups += w->requests[i].group != w->requests[i - 1].group;
    return groups;
}

int ks_generate_size(const ks_engines *engines,
                     const ks_generate_options *options, size_t n) {
    size_t store = options->room ? options->room / 2 : options->memory;
    return ks_crew_size(engines, store, n);
}

ks_generate_options ks_generate_share(const ks_engines *engines,
                                      const ks_generate_options *options,
                                      int size) {
    ks_generate_options share = *options;
    share.memory = ks_crew_memory(engines, size, options->memory);
    share.room /= (size_t)size;
    return share;
}

/* Requests of one prompt stay together, for they share pages; but where there
 * are fewer prompts than members, idle ones would cost more than prompts that
 * several compute. */
static ks_status deal(work *w, const ks_engines *engines, int size,
                      ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(
        ks_alloc(&w->parts, (size_t)size, sizeof *w->parts, "requests", err));
    for (int i = 0; i < size; i++) {
        part *p = &w->parts[i];
        p->work = w;
        p->options = ks_generate_share(engines, w->options, size);
        p->options.progress = tell;
        KS_TRY(ks_alloc(&p->mine, w->n, sizeof *p->mine, "requests", err));
    }
    bool apart = count_groups(w) < (size_t)size;
    int next = 0;
    for (size_t i = 0; i < w->n; i++) {
        if (apart)
            next = (int)(i * (size_t)size / w->n);
        else if (i > 0 && w->requests[i].group != w->requests[i - 1].group)
            next = (next + 1) % size;
        part *p = &w->parts[next];
        p->mine[p->n++] = i;
    }
done:
    return st;
}

ks_status ks_generate_on(const ks_engines *engines,
                         const ks_generate_options *options,
                         const ks_request *requests, size_t n,
                         ks_generated_fn done, void *user,
                         ks_generate_stats *stats, ks_err *err) {
    ks_status st = KS_OK;
    work w = {.options = options,
              .requests = requests,
              .n = n,
              .done = done,
              .user = user,
              .mutex = PTHREAD_MUTEX_INITIALIZER};
    int size = ks_generate_size(engines, options, n);
    KS_TRY(check_options(options, err));
    if (n == 0) goto done;
    KS_TRY(deal(&w, engines, size, err));
    st = ks_crew_run(engines, size, run_part, &w, err);
    KS_CHECK(st != KS_INTERRUPTED, st, "interrupted after %zu of %zu sequences",
             w.n_done, n);
done:
    for (int i = 0; w.parts && i < size; i++) free(w.parts[i].mine);
    free(w.parts);
    if (stats) *stats = w.stats;
    return st;
}

ks_status ks_generate(ks_engine *engine, const ks_generate_options *options,
                      const ks_request *requests, size_t n,
                      ks_generated_fn done, void *user,
                      ks_generate_stats *stats, ks_err *err) {
    ks_engines one = {.at = &engine, .n = 1};
    return ks_generate_on(&one, options, requests, n, done, user, stats, err);
}
