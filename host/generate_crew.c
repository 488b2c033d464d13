/* generate_crew.c - generation by several schedulers, a thread each: one for
 * each device, or, for a small model, for each thread of the processor.
 *
 * Where a layer takes microseconds, threads that meet after every op spend
 * their time meeting. Here each has its own backend, run, store and share of
 * the requests, and they meet when a sequence ends. A sequence's bits know
 * nothing of its batch, so they are those of one scheduler.
 */
#include <pthread.h>
#include <stdlib.h>

#include "generate.h"

/* A layer of at most SMALL weights is small; a worker's store holds at least
 * ROOM sequences as long as the context. */
enum { SMALL = 1 << 20, ROOM = 8 };

typedef struct crew {
    ks_generated_fn done;
    void *user;
    pthread_mutex_t mutex;
    atomic_bool stop;
    size_t n_done;
    ks_generate_stats stats; /* of all workers */
    void (*progress)(void *user, const ks_generate_stats *so_far);
    ks_status status; /* of the first that failed, with its err */
    ks_err err;
} crew;

typedef struct worker {
    crew *crew;
    pthread_t thread;
    bool started;
    ks_engine *engine, own; /* own: borrows the model */
    ks_generate_options options;
    ks_request *requests; /* [n] */
    size_t *places;       /* [n] in the caller's requests */
    size_t n;
    ks_generate_stats stats, told;
} worker;

static size_t store_bytes(const ks_generate_options *options) {
    return options->memory ? options->memory : KS_STORE_BYTES;
}

int ks__crew_size(const ks_engine *engine, const ks_generate_options *options,
                  size_t n) {
    const ks_config *c = &engine->model->config;
    int64_t d = c->d_model;
    int64_t heads = ((int64_t)c->n_heads + c->n_kv_heads) * c->head_dim;
    if (2 * d * heads + 3 * d * c->d_ff > SMALL || engine->options.memory ||
        !engine->ops->unified)
        return 1;
    size_t pages = ((size_t)c->n_context + KS_PAGE - 1) / KS_PAGE;
    size_t most = store_bytes(options) / (ROOM * pages * ks_kv_page_bytes(c));
    most = KS_MIN(most, n);
    return (int)KS_MAX(1, KS_MIN(most, (size_t)ks_dev_threads(engine->dev)));
}

static ks_status hand_on(void *user, size_t request, const int32_t *ids,
                         int32_t n, ks_finish finish, ks_err *err) {
    worker *w = user;
    crew *all = w->crew;
    pthread_mutex_lock(&all->mutex);
    ks_status st =
        all->done(all->user, w->places[request], ids, n, finish, err);
    all->n_done += st == KS_OK;
    pthread_mutex_unlock(&all->mutex);
    return st;
}

static void add_stats(ks_generate_stats *sum, const ks_generate_stats *now,
                      const ks_generate_stats *was) {
    sum->sampled += now->sampled - was->sampled;
    sum->computed += now->computed - was->computed;
    sum->shared += now->shared - was->shared;
    sum->prompts += now->prompts - was->prompts;
    sum->batches += now->batches - was->batches;
    sum->preempted += now->preempted - was->preempted;
}

static void tell(void *user, const ks_generate_stats *so_far) {
    worker *w = user;
    crew *all = w->crew;
    pthread_mutex_lock(&all->mutex);
    add_stats(&all->stats, so_far, &w->told);
    w->told = *so_far;
    if (all->progress) all->progress(all->user, &all->stats);
    pthread_mutex_unlock(&all->mutex);
}

static void *work(void *at) {
    worker *w = at;
    ks_err err = {0};
    ks_status st = w->engine->ops->enter(w->engine->dev, &err);
    if (st == KS_OK)
        st = ks__generate_alone(w->engine, &w->options, w->requests, w->n,
                                hand_on, w, &w->crew->stop, &w->stats, &err);
    if (st == KS_OK) return NULL;
    pthread_mutex_lock(&w->crew->mutex);
    if (w->crew->status == KS_OK) {
        w->crew->status = st;
        w->crew->err = err;
    }
    w->crew->stop = true;
    pthread_mutex_unlock(&w->crew->mutex);
    return NULL;
}

/* Requests of one prompt stay together, for they share pages. */
static ks_status deal(worker *workers, int size, const ks_request *requests,
                      size_t n, ks_err *err) {
    ks_status st = KS_OK;
    for (int i = 0; i < size; i++) {
        KS_TRY(ks_alloc(&workers[i].requests, n, sizeof *requests, "requests",
                        err));
        KS_TRY(
            ks_alloc(&workers[i].places, n, sizeof(size_t), "requests", err));
    }
    int next = 0;
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && requests[i].group != requests[i - 1].group)
            next = (next + 1) % size;
        worker *w = &workers[next];
        w->requests[w->n] = requests[i];
        w->places[w->n++] = i;
    }
done:
    return st;
}

/* An engine on one thread of the processor, which shares the store's memory
 * with the others. */
static ks_status open_own(worker *w, int size, const ks_engine *engine,
                          ks_err *err) {
    w->options.memory = store_bytes(&w->options) / (size_t)size;
    w->own = (ks_engine){
        .model = engine->model,
        .limits = {.max_tokens = engine->limits.max_tokens},
        .options = engine->options,
    };
    w->engine = &w->own;
    return ks_dev_open(&w->own.dev, &w->own.ops, engine->options.backend, 1,
                       engine->ops->isa, err);
}

static ks_status open_workers(worker *workers, int size, crew *all,
                              const ks_engines *engines,
                              const ks_generate_options *options, ks_err *err) {
    ks_status st = KS_OK;
    for (int i = 0; i < size; i++) {
        worker *w = &workers[i];
        w->crew = all;
        w->options = *options;
        w->options.progress = tell;
        if (engines->n > 1)
            w->engine = engines->at[i];
        else
            KS_TRY(open_own(w, size, engines->at[0], err));
    }
done:
    return st;
}

static void close_workers(worker *workers, int size) {
    for (int i = 0; workers && i < size; i++) {
        ks_engine *e = &workers[i].own;
        ks_run_close(&e->run);
        ks_placed_close(&e->placed);
        if (e->dev) ks_dev_close(&e->dev, e->ops);
        free(workers[i].requests);
        free(workers[i].places);
    }
    free(workers);
}

/* The caller's thread does a share too, and those that got no thread. */
static void run_workers(worker *workers, int size) {
    for (int i = 1; i < size; i++)
        workers[i].started =
            workers[i].n > 0 &&
            pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0;
    for (int i = 0; i < size; i++)
        if (!workers[i].started && workers[i].n > 0) work(&workers[i]);
    for (int i = 1; i < size; i++)
        if (workers[i].started) pthread_join(workers[i].thread, NULL);
}

ks_status ks__crew_generate(const ks_engines *engines, int size,
                            const ks_generate_options *options,
                            const ks_request *requests, size_t n,
                            ks_generated_fn done, void *user,
                            ks_generate_stats *stats, ks_err *err) {
    ks_status st = KS_OK;
    crew all = {.done = done,
                .user = user,
                .mutex = PTHREAD_MUTEX_INITIALIZER,
                .progress = options->progress};
    worker *workers = NULL;
    KS_TRY(ks_alloc(&workers, (size_t)size, sizeof *workers, "threads", err));
    KS_TRY(deal(workers, size, requests, n, err));
    KS_TRY(open_workers(workers, size, &all, engines, options, err));
    run_workers(workers, size);
    KS_TRY(engines->at[0]->ops->enter(engines->at[0]->dev, err));
    for (int i = 0; i < size; i++)
        add_stats(stats, &workers[i].stats, &(ks_generate_stats){0});
    st = all.status;
    if (st == KS_INTERRUPTED)
        ks_fail(err, st, "interrupted after %zu of %zu sequences", all.n_done,
                n);
    else if (st != KS_OK && err)
        *err = all.err;
done:
    close_workers(workers, size);
    return st;
}
