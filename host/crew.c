/* crew.c - threads with an engine each. */
#include "crew.h"

#include <pthread.h>
#include <stdlib.h>

#include "session.h"

/* A layer of at most SMALL weights is small; a member's store holds at least
 * ROOM sequences as long as the context. */
enum { SMALL = 1 << 20, ROOM = 8 };
/* A member's batch has room for as many tokens. */
enum { FEW_TOKENS = 256 };

typedef struct crew {
    ks_crew_fn work;
    void *user;
    pthread_mutex_t mutex;
    atomic_bool stop;
    ks_status status; /* of the first that failed, with its err */
    ks_err err;
} crew;

typedef struct member {
    crew *crew;
    int index;
    pthread_t thread;
    bool started;
    ks_engine *engine, own; /* own: borrows the model */
} member;

static size_t store_bytes(size_t memory) {
    return memory ? memory : KS_STORE_BYTES;
}

/* Tokens of a batch of a member's, of `size` that share the engine's memory. */
static int32_t tokens_of(const ks_engine *engine, int size) {
    return ks_engine_tokens(engine, &engine->limits,
                            engine->memory / (size_t)size);
}

int ks_crew_size(const ks_engines *engines, size_t memory, size_t n) {
    const ks_engine *engine = engines->at[0];
    const ks_config *c = &engine->model->config;
    int64_t d = c->d_model;
    int64_t heads = ((int64_t)c->n_heads + c->n_kv_heads) * c->head_dim;
    if (engines->n > 1) return engines->n;
    if (2 * d * heads + 3 * d * c->d_ff > SMALL || !engine->ops->unified)
        return 1;
    size_t pages = ((size_t)c->n_context + KS_PAGE - 1) / KS_PAGE;
    size_t most = store_bytes(memory) / (ROOM * pages * ks_kv_page_bytes(c));
    most = KS_MIN(most, n);
    most = KS_MIN(most, (size_t)ks_dev_threads(engine->dev));
    int size = (int)KS_MAX(1, most);
    while (size > 1 && tokens_of(engine, size) < FEW_TOKENS) size--;
    return size;
}

size_t ks_crew_memory(const ks_engines *engines, int size, size_t memory) {
    return engines->n > 1 || size == 1 ? memory
                                       : store_bytes(memory) / (size_t)size;
}

static void *work(void *at) {
    member *m = at;
    crew *all = m->crew;
    ks_err err = {0};
    ks_status st = m->engine->ops->enter(m->engine->dev, &err);
    if (st == KS_OK)
        st = all->work(all->user, m->index, m->engine, &all->stop, &err);
    if (st == KS_OK) return NULL;
    pthread_mutex_lock(&all->mutex);
    if (all->status == KS_OK) {
        all->status = st;
        all->err = err;
    }
    all->stop = true;
    pthread_mutex_unlock(&all->mutex);
    return NULL;
}

/* An engine on one thread of the processor, one of `size`. */
static ks_status open_own(member *m, const ks_engine *engine, int size,
                          ks_err *err) {
    m->own = (ks_engine){
        .model = engine->model,
        .limits = {.max_tokens = tokens_of(engine, size)},
        .options = engine->options,
        .memory = engine->memory / (size_t)size,
    };
    m->engine = &m->own;
    return ks_dev_open(&m->own.dev, &m->own.ops, engine->options.backend, 1,
                       engine->ops->isa, err);
}

static ks_status open_members(member *members, int size, crew *all,
                              const ks_engines *engines, ks_err *err) {
    ks_status st = KS_OK;
    for (int i = 0; i < size; i++) {
        member *m = &members[i];
        m->crew = all;
        m->index = i;
        if (engines->n > 1 || size == 1)
            m->engine = engines->at[i];
        else
            KS_TRY(open_own(m, engines->at[0], size, err));
    }
done:
    return st;
}

static void close_members(member *members, int size) {
    for (int i = 0; members && i < size; i++) {
        ks_engine *e = &members[i].own;
        ks_run_close(&e->run);
        ks_placed_close(&e->placed);
        if (e->dev) ks_dev_close(&e->dev, e->ops);
    }
    free(members);
}

/* The caller's thread does a share too, and those that got no thread. */
static void run_members(member *members, int size) {
    for (int i = 1; i < size; i++)
        members[i].started =
            pthread_create(&members[i].thread, NULL, work, &members[i]) == 0;
    for (int i = 0; i < size; i++)
        if (!members[i].started) work(&members[i]);
    for (int i = 1; i < size; i++)
        if (members[i].started) pthread_join(members[i].thread, NULL);
}

ks_status ks_crew_run(const ks_engines *engines, int size, ks_crew_fn does,
                      void *user, ks_err *err) {
    ks_status st = KS_OK;
    crew all = {.work = does, .user = user, .mutex = PTHREAD_MUTEX_INITIALIZER};
    member *members = NULL;
    KS_TRY(ks_alloc(&members, (size_t)size, sizeof *members, "threads", err));
    KS_TRY(open_members(members, size, &all, engines, err));
    run_members(members, size);
    KS_TRY(engines->at[0]->ops->enter(engines->at[0]->dev, err));
    st = all.status;
    if (st != KS_OK && err) *err = all.err;
done:
    close_members(members, size);
    return st;
}
