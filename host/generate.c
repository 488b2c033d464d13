/* generate.c - the scheduler of generation: which tokens of which sequences go
 * into the next batch, and which pages they live in. */
#include "generate.h"

#include <stdlib.h>
#include <string.h>

#include "kv_tree.h"
#include "run.h"

/* PROMPT_TOKENS: most of a batch, so that progress and a signal wait seconds
 * and not minutes for a big model's. EVICTED: pages that the tree gives back at
 * a time. */
enum { DEFAULT_ACTIVE = 128, PROMPT_TOKENS = 512, EVICTED = 64 };

typedef enum state { WAITING, ACTIVE, DONE } state;

/* A request under way. ids and n survive a preemption; pages do not. */
typedef struct sequence {
    const ks_request *request;
    state state;
    int32_t *ids; /* [most]: prompt, then what was sampled */
    int32_t n, most;
    int32_t past;   /* tokens in the store */
    int32_t seen;   /* prompt tokens that ever were */
    int32_t *pages; /* [n_pages] of max_pages */
    int32_t n_pages;
    int32_t taken; /* tokens in the batch in work */
} sequence;

typedef struct job {
    ks_engine *engine;
    const ks_generate_options *options;
    ks_kv *kv;
    ks_kv_tree *tree; /* of prompts */
    int32_t *found;   /* [max_pages] of a prompt that may enter */
    sequence *all;    /* [n] */
    size_t n, first_waiting, n_done;
    sequence **active; /* [most_active], in order of entry */
    int32_t n_active, most_active;
    int32_t max_pages, max_tokens;
    /* the batch, as ks_seqs wants it */
    int32_t *offsets, *past, *pages, *ids, *sampled;
    sequence **members;
    ks_sample_spec *specs;
    int32_t n_seq, n_tok;
    ks_generate_stats stats;
} job;

static int32_t pages_for(int32_t tokens) {
    return (tokens + KS_PAGE - 1) / KS_PAGE;
}

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

/* ------------------------------------------------------------------- opening
 */

/* Tokens a request can come to. */
static int32_t most_tokens(const job *j, const ks_request *r) {
    int32_t context = j->engine->model->config.n_context;
    int64_t most = (int64_t)r->n_prompt + j->options->max_new;
    if (j->options->max_new == 0 || most > context) return context;
    return (int32_t)most;
}

static ks_status check_request(const ks_config *c, const ks_request *r,
                               size_t i, ks_err *err) {
    if (r->n_prompt < 1 || r->n_prompt >= c->n_context)
        return ks_fail(err, KS_LIMIT,
                       "prompt %zu has %d tokens; from 1 to %d leave room in "
                       "the model's context of %d",
                       i, r->n_prompt, c->n_context - 1, c->n_context);
    for (int32_t t = 0; t < r->n_prompt; t++)
        if (r->prompt[t] < 0 || r->prompt[t] >= c->n_vocab)
            return ks_fail(
                err, KS_MISMATCH,
                "prompt %zu holds id %d, the model's vocabulary is 0 "
                "to %d: wrong tokenizer?",
                i, r->prompt[t], c->n_vocab - 1);
    return KS_OK;
}

/* A device's store takes what weights and run buffers leave, but for a part
 * that ops take. */
static size_t store_memory(const job *j) {
    size_t allowed = j->options->memory;
    if (j->engine->ops->unified) return allowed ? allowed : KS_STORE_BYTES;
    size_t room = ks_dev_room(j->engine->dev) / 8 * 7;
    return allowed ? KS_MIN(allowed, room) : room;
}

/* As many pages as memory holds, no more than the work can use. */
static ks_status open_store(job *j, ks_err *err) {
    ks_status st = KS_OK;
    const ks_config *c = &j->engine->model->config;
    size_t page = ks_kv_page_bytes(c);
    size_t memory = store_memory(j);
    int64_t useful = ((int64_t)j->max_pages + 1) * /* as enter() counts */
                     (int64_t)KS_MIN(j->n, (size_t)j->most_active);
    int64_t n = KS_MIN((int64_t)(memory / page), useful);
    KS_CHECK(n >= j->max_pages, KS_LIMIT,
             "%zu bytes for keys and values hold %lld tokens, the longest "
             "sequence can come to %d",
             memory, (long long)n * KS_PAGE, j->max_pages * KS_PAGE);
    n = KS_MIN(n, INT32_MAX / KS_PAGE);
    KS_TRY(
        ks_kv_open(&j->kv, j->engine->dev, j->engine->ops, c, (int32_t)n, err));
    KS_TRY(ks_kv_tree_open(&j->tree, j->kv, (int32_t)n, err));
    KS_TRY(ks_alloc(&j->found, (size_t)j->max_pages, sizeof(int32_t), "pages",
                    err));
done:
    return st;
}

static ks_status open_batch(job *j, ks_err *err) {
    ks_status st = KS_OK;
    size_t m = (size_t)j->most_active, t = (size_t)j->max_tokens;
    KS_TRY(ks_alloc(&j->active, m, sizeof *j->active, "sequences", err));
    KS_TRY(ks_alloc(&j->members, m, sizeof *j->members, "sequences", err));
    KS_TRY(ks_alloc(&j->offsets, m + 1, sizeof(int32_t), "offsets", err));
    KS_TRY(ks_alloc(&j->past, m, sizeof(int32_t), "lengths", err));
    KS_TRY(ks_alloc(&j->pages, m * (size_t)j->max_pages, sizeof(int32_t),
                    "page tables", err));
    KS_TRY(ks_alloc(&j->ids, t, sizeof(int32_t), "ids", err));
    KS_TRY(ks_alloc(&j->sampled, m, sizeof(int32_t), "ids", err));
    KS_TRY(ks_alloc(&j->specs, m, sizeof *j->specs, "sampling", err));
done:
    return st;
}

static ks_status open_job(job *j, const ks_request *requests, ks_err *err) {
    ks_status st = KS_OK;
    const ks_generate_options *o = j->options;
    int32_t longest = 1;
    j->most_active = o->most_active > 0 ? o->most_active : DEFAULT_ACTIVE;
    KS_TRY(ks_alloc(&j->all, j->n, sizeof *j->all, "requests", err));
    for (size_t i = 0; i < j->n; i++) {
        j->all[i].request = &requests[i];
        j->all[i].most = most_tokens(j, &requests[i]);
        longest = KS_MAX(longest, j->all[i].most);
    }
    j->max_pages = pages_for(longest);
    ks_run_limits limits = {.max_tokens = j->engine->limits.max_tokens,
                            .max_last = j->most_active,
                            .max_pages =
                                (int64_t)j->most_active * j->max_pages};
    KS_TRY(ks_engine_reserve(j->engine, &limits, err));
    /* Every running sequence has a place in every batch. */
    j->max_tokens = j->engine->limits.max_tokens;
    j->most_active = KS_MIN(j->most_active, j->max_tokens);
    KS_TRY(open_batch(j, err));
    KS_TRY(open_store(j, err));
done:
    return st;
}

static void drop_pages(job *j, sequence *s) {
    for (int32_t p = 0; p < s->n_pages; p++)
        ks_kv_page_drop(j->kv, s->pages[p]);
    s->n_pages = s->past = 0;
}

static void close_job(job *j) {
    for (size_t i = 0; j->all && i < j->n; i++) {
        free(j->all[i].ids);
        free(j->all[i].pages);
    }
    /* what was recorded reads a store that is no more */
    if (j->engine->run) ks__graph_drop(j->engine->run);
    ks_kv_tree_close(&j->tree);
    ks_kv_close(&j->kv);
    free(j->found);
    free(j->all);
    free(j->active);
    free(j->members);
    free(j->offsets);
    free(j->past);
    free(j->pages);
    free(j->ids);
    free(j->sampled);
    free(j->specs);
}

/* ------------------------------------------------------------------ entering
 */

/* What of a prompt can be shared: its last token is always computed anew, for
 * its state is sampled from. */
static int32_t shareable(const sequence *s) {
    return s->request->n_prompt - 1;
}

static ks_status prepare(sequence *s, int32_t max_pages, ks_err *err) {
    ks_status st = KS_OK;
    const ks_request *r = s->request;
    if (s->ids) return KS_OK;
    KS_TRY(ks_alloc(&s->ids, (size_t)s->most, sizeof(int32_t), "ids", err));
    KS_TRY(ks_alloc(&s->pages, (size_t)max_pages, sizeof(int32_t),
                    "page tables", err));
    memcpy(s->ids, r->prompt, (size_t)r->n_prompt * sizeof(int32_t));
    s->n = r->n_prompt;
done:
    return st;
}

static void put_back(job *j, int32_t n_pages) {
    for (int32_t p = 0; p < n_pages; p++) ks_kv_page_drop(j->kv, j->found[p]);
}

/* Lets sequences in, in order, while there are pages for what they have and
 * for one more page of each that runs. One whose next page somebody is about
 * to compute waits for it. */
static ks_status enter(job *j, ks_err *err) {
    ks_status st = KS_OK;
    while (j->first_waiting < j->n && j->all[j->first_waiting].state != WAITING)
        j->first_waiting++;
    int32_t spare =
        ks_kv_free_pages(j->kv) + ks_kv_tree_spare(j->tree) - j->n_active;
    for (size_t i = j->first_waiting; i < j->n && j->n_active < j->most_active;
         i++) {
        sequence *s = &j->all[i];
        bool coming = false;
        if (s->state != WAITING) continue;
        int32_t n = ks_kv_tree_find(j->tree, s->request->prompt, shareable(s),
                                    j->found, &coming);
        KS_TRY(prepare(s, j->max_pages, err));
        int32_t need = pages_for(s->n) + 1 - n;
        if (coming || (need > spare && j->n_active > 0)) {
            put_back(j, n);
            if (coming) continue;
            break;
        }
        spare -= need;
        for (int32_t k = 0; k < n; k++) /* the tree's alone, until now */
            spare -= ks_kv_page_owners(j->kv, j->found[k]) == 2;
        memcpy(s->pages, j->found, (size_t)n * sizeof *j->found);
        s->n_pages = n;
        s->past = n * KS_PAGE;
        j->stats.shared += s->past;
        ks_kv_tree_announce(j->tree, s->request->prompt, shareable(s));
        s->state = ACTIVE;
        j->active[j->n_active++] = s;
    }
done:
    return st;
}

static void leave(job *j, int32_t at, state next) {
    sequence *s = j->active[at];
    if (s->past < shareable(s))
        ks_kv_tree_forget(j->tree, s->request->prompt, shareable(s));
    drop_pages(j, s);
    s->state = next;
    j->n_active--;
    memmove(j->active + at, j->active + at + 1,
            (size_t)(j->n_active - at) * sizeof *j->active);
    if (next != WAITING) return;
    j->stats.preempted++;
    j->first_waiting = KS_MIN(j->first_waiting, (size_t)(s - j->all));
}

/* -------------------------------------------------------------------- batches
 */

/* Pages for the first `tokens` of active[at], taken from the youngest if need
 * be; false: it was the youngest itself. The oldest always gets them, for the
 * store holds the longest sequence. */
static bool ensure_pages(job *j, int32_t at, int32_t tokens) {
    sequence *s = j->active[at];
    while (s->n_pages < pages_for(tokens)) {
        int32_t page = ks_kv_page_take(j->kv);
        if (page >= 0) {
            s->pages[s->n_pages++] = page;
            continue;
        }
        if (ks_kv_tree_evict(j->tree, EVICTED) > 0) continue;
        bool self = at == j->n_active - 1;
        leave(j, j->n_active - 1, WAITING);
        if (self) return false;
    }
    return true;
}

static void add_to_batch(job *j, sequence *s, int32_t tokens) {
    int32_t at = j->n_seq++;
    s->taken = tokens;
    j->members[at] = s;
    j->past[at] = s->past;
    memcpy(j->ids + j->n_tok, s->ids + s->past,
           (size_t)tokens * sizeof(int32_t));
    memcpy(j->pages + (int64_t)at * j->max_pages, s->pages,
           (size_t)s->n_pages * sizeof(int32_t));
    j->n_tok += tokens;
    j->offsets[at + 1] = j->n_tok;
    j->specs[at] = (ks_sample_spec){
        .temperature = j->options->temperature,
        .top_p = j->options->top_p,
        .top_k = j->options->top_k,
        .key = {j->options->seed, s->request->stream},
        .counter = (uint64_t)(s->n - s->request->n_prompt),
    };
}

/* One token of everything that runs, and of prompts what still fits. */
static void fill_batch(job *j) {
    int32_t prompts = PROMPT_TOKENS;
    j->n_seq = j->n_tok = 0;
    for (int32_t i = 0; i < j->n_active; i++) {
        sequence *s = j->active[i];
        int32_t others = j->n_active - i - 1; /* keep a place for each */
        int32_t room = j->max_tokens - j->n_tok - others;
        int32_t tokens = KS_MIN(s->n - s->past, room);
        if (s->n - s->past > 1) {
            tokens = KS_MIN(tokens, prompts);
            prompts -= tokens;
            if (tokens == 0) continue;
        }
        if (!ensure_pages(j, i, s->past + tokens)) break;
        add_to_batch(j, s, tokens);
    }
}

static bool is_stop(const ks_generate_options *o, int32_t id) {
    for (size_t i = 0; i < o->n_stops; i++)
        if (o->stops[i] == id) return true;
    return false;
}

/* Takes what was sampled for a sequence whose tokens are all in the store. */
static ks_status take_sample(job *j, sequence *s, int32_t id,
                             ks_generated_fn done, void *user, ks_err *err) {
    ks_status st = KS_OK;
    ks_finish finish;
    s->ids[s->n++] = id;
    j->stats.sampled++;
    if (is_stop(j->options, id))
        finish = KS_FINISH_STOP;
    else if (s->n < s->most)
        return KS_OK;
    else if (s->n - s->request->n_prompt == j->options->max_new)
        finish = KS_FINISH_LENGTH;
    else
        finish = KS_FINISH_CONTEXT;
    int32_t from = s->request->n_prompt;
    KS_TRY(done(user, (size_t)(s - j->all), s->ids + from, s->n - from, finish,
                err));
    for (int32_t i = 0; i < j->n_active; i++)
        if (j->active[i] == s) leave(j, i, DONE);
    j->n_done++;
    free(s->ids);
    s->ids = NULL;
done:
    return st;
}

/* The forward knows sequences of a batch; here they have names. */
static ks_status say_fault(const job *j, const sequence *s, int32_t token,
                           const char *what, ks_err *err) {
    char name[64];
    const ks_request *r = s->request;
    const char *const *names = j->options->names;
    snprintf(name, sizeof name, "prompt %zu", (size_t)(s - j->all));
    return ks_fail(err, KS_NUMERIC, "%s%s: %s token %d (%s)",
                   names ? "problem " : "", names ? names[r->group] : name,
                   what, token,
                   token < r->n_prompt ? "of the prompt" : "sampled");
}

static ks_status name_fault(const job *j, ks_status st, ks_err *err) {
    ks_fault fault = ks_run_fault(j->engine->run);
    if (st != KS_NUMERIC || fault.seq < 0 || fault.seq >= j->n_seq) return st;
    const sequence *s = j->members[fault.seq];
    char what[96];
    snprintf(what, sizeof what,
             "%s layer %d: %lld values are not finite, the first at",
             ks_stream_name(fault.stream), fault.layer, (long long)fault.count);
    return say_fault(j, s, s->past + fault.token, what, err);
}

/* Samples of every sequence of the batch. Where logits are not finite it goes
 * a row at a time to name the first; only a batch that fails pays for it. */
static ks_status sample(job *j, ks_view hidden, ks_err *err) {
    ks_run *run = j->engine->run;
    ks_view row = hidden;
    ks_status st = ks_run_sample(run, hidden, j->specs, j->sampled, NULL, err);
    row.rows = 1;
    for (int32_t i = 0; st == KS_NUMERIC && i < j->n_seq; i++) {
        const sequence *s = j->members[i];
        row.data = (float *)hidden.data + (int64_t)i * hidden.stride;
        if (ks_run_sample(run, row, j->specs + i, j->sampled, NULL, err) ==
            KS_NUMERIC)
            return say_fault(j, s, s->past + s->taken - 1,
                             "the logits are not finite after", err);
    }
    return st;
}

static void count_prompt(job *j, sequence *s) {
    int32_t seen = KS_MIN(s->past, s->request->n_prompt);
    j->stats.prompts += KS_MAX(0, seen - s->seen);
    s->seen = KS_MAX(seen, s->seen);
}

static ks_status step(job *j, ks_generated_fn done, void *user, ks_err *err) {
    ks_status st = KS_OK;
    ks_view hidden;
    ks_seqs seqs = {j->n_seq, j->n_tok, j->offsets,
                    j->past,  j->pages, j->max_pages};
    st = ks_forward(j->engine->run, &seqs, j->ids, j->kv, NULL, &hidden, NULL,
                    err);
    KS_TRY(name_fault(j, st, err));
    KS_TRY(sample(j, hidden, err));
    j->stats.batches++;
    j->stats.computed += j->n_tok;
    for (int32_t i = 0; i < j->n_seq; i++) {
        sequence *s = j->members[i];
        if (s->past < shareable(s))
            ks_kv_tree_ready(j->tree, s->ids,
                             KS_MIN(s->past + s->taken, shareable(s)),
                             s->pages);
        s->past += s->taken;
        count_prompt(j, s);
        if (s->past == s->n) /* else: the prompt goes on in the next batch */
            KS_TRY(take_sample(j, s, j->sampled[i], done, user, err));
    }
done:
    return st;
}

ks_status ks__generate_alone(ks_engine *engine,
                             const ks_generate_options *options,
                             const ks_request *requests, size_t n,
                             ks_generated_fn done, void *user,
                             const atomic_bool *stop, ks_generate_stats *stats,
                             ks_err *err) {
    ks_status st = KS_OK;
    job j = {.engine = engine, .options = options, .n = n};
    ks_dev_few_rows(engine->dev, true);
    KS_TRY(open_job(&j, requests, err));
    while (j.n_done < n) {
        KS_CHECK(!ks_interrupted && !(stop && *stop), KS_INTERRUPTED,
                 "interrupted after %zu of %zu sequences", j.n_done, n);
        KS_TRY(enter(&j, err));
        fill_batch(&j);
        KS_TRY(step(&j, done, user, err));
        if (options->progress) options->progress(user, &j.stats);
    }
done:
    *stats = j.stats;
    close_job(&j);
    ks_dev_few_rows(engine->dev, false);
    return st;
}

static ks_status check_all(const ks_config *config,
                           const ks_generate_options *o,
                           const ks_request *requests, size_t n, ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(o->max_new >= 0 && o->top_k >= 0 && o->temperature >= 0 &&
                 o->top_p > 0 && o->top_p <= 1,
             KS_USAGE,
             "sampling at temperature %g, top-p %g, top-k %d, %d new tokens",
             (double)o->temperature, (double)o->top_p, o->top_k, o->max_new);
    for (size_t i = 0; i < n; i++)
        KS_TRY(check_request(config, &requests[i], i, err));
done:
    return st;
}

ks_status ks_generate_on(const ks_engines *engines,
                         const ks_generate_options *options,
                         const ks_request *requests, size_t n,
                         ks_generated_fn done, void *user,
                         ks_generate_stats *stats, ks_err *err) {
    ks_status st = KS_OK;
    ks_engine *first = engines->at[0];
    ks_generate_stats mine = {0};
    KS_TRY(check_all(&first->model->config, options, requests, n, err));
    int crew = engines->n > 1 ? engines->n : ks__crew_size(first, options, n);
    if (crew > 1)
        st = ks__crew_generate(engines, crew, options, requests, n, done, user,
                               &mine, err);
    else if (n > 0)
        st = ks__generate_alone(first, options, requests, n, done, user, NULL,
                                &mine, err);
done:
    if (stats) *stats = mine;
    return st;
}

ks_status ks_generate(ks_engine *engine, const ks_generate_options *options,
                      const ks_request *requests, size_t n,
                      ks_generated_fn done, void *user,
                      ks_generate_stats *stats, ks_err *err) {
    ks_engines one = {.at = &engine, .n = 1};
    return ks_generate_on(&one, options, requests, n, done, user, stats, err);
}
