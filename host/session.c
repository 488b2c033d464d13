/* session.c - who waits, who runs, and which pages they live in. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "draw.h"
#include "session_state.h"

enum { DEFAULT_ACTIVE = 128 };
/* The store holds as many as long as can be, where nobody says its size. */
enum { FEW_SEQUENCES = 4 };

/* ------------------------------------------------------------------- opening
 */

/* Bytes of host memory that a session takes beside its store: a batch's
 * buffers, the logits and keys of drawing (ks_ops.sample), page tables. */
static size_t taken_beside(const ks_session *s) {
    const ks_engine *e = s->engine;
    size_t vocab = (size_t)e->model->config.n_vocab;
    size_t run = ks_run_bytes(e->ops, &e->model->config, &e->limits);
    size_t rows = KS_MIN((size_t)s->max_rows, KS_DRAW_ROWS);
    size_t draws = vocab * (rows * sizeof(float) +
                            (size_t)ks_dev_threads(e->dev) * sizeof(uint64_t));
    size_t tables =
        (size_t)s->most_active * (size_t)s->max_pages * sizeof(int32_t);
    if (s->options->aside) run = KS_MAX(run, e->memory);
    return run + draws + tables;
}

/* A device's store takes what weights and run buffers leave, but for a part
 * that ops take. */
static size_t store_memory(const ks_session *s) {
    size_t allowed = s->options->memory;
    if (s->engine->ops->unified && s->options->room) {
        size_t taken = taken_beside(s);
        return s->options->room > taken ? s->options->room - taken : 0;
    }
    if (s->engine->ops->unified) {
        size_t some = (size_t)FEW_SEQUENCES * (size_t)s->max_pages *
                      ks_kv_page_bytes(&s->engine->model->config);
        return allowed ? allowed : KS_MAX(KS_STORE_BYTES, some);
    }
    size_t room = ks_dev_room(s->engine->dev) / 8 * 7;
    return allowed ? KS_MIN(allowed, room) : room;
}

static ks_status open_store(ks_session *s, ks_err *err) {
    ks_status st = KS_OK;
    const ks_config *c = &s->engine->model->config;
    size_t memory = store_memory(s);
    int64_t n = (int64_t)(memory / ks_kv_page_bytes(c));
    /* A page beside its copy (take_rest) stays while what comes behind it
     * is announced. */
    int32_t least = s->max_pages + s->scores;
    KS_CHECK(n >= least, KS_LIMIT,
             "%zu bytes for keys and values hold %lld tokens, the longest "
             "sequence can come to %d: a larger --memory allows more, shorter "
             "texts or a smaller --max-new need less",
             memory, (long long)n * KS_PAGE, least * KS_PAGE);
    s->n_pages = (int32_t)KS_MIN(n, INT32_MAX / KS_PAGE);
    KS_TRY(
        ks_kv_open(&s->kv, s->engine->dev, s->engine->ops, c, s->n_pages, err));
    KS_TRY(ks_kv_tree_open(&s->tree, s->kv, s->n_pages, err));
    KS_TRY(ks_alloc(&s->found, (size_t)s->max_pages, sizeof(int32_t), "pages",
                    err));
done:
    return st;
}

static ks_status open_batch(ks_session *s, ks_err *err) {
    ks_status st = KS_OK;
    size_t m = (size_t)s->most_active, t = (size_t)s->max_tokens;
    size_t rows = (size_t)s->max_rows;
    KS_TRY(ks_alloc(&s->active, m, sizeof *s->active, "sequences", err));
    KS_TRY(ks_alloc(&s->members, m, sizeof *s->members, "sequences", err));
    KS_TRY(ks_alloc(&s->scored, m, sizeof *s->scored, "sequences", err));
    KS_TRY(ks_alloc(&s->offsets, m + 1, sizeof(int32_t), "offsets", err));
    KS_TRY(ks_alloc(&s->past, m, sizeof(int32_t), "lengths", err));
    KS_TRY(ks_alloc(&s->pages, m * (size_t)s->max_pages, sizeof(int32_t),
                    "page tables", err));
    KS_TRY(ks_alloc(&s->ids, t, sizeof(int32_t), "ids", err));
    KS_TRY(ks_alloc(&s->drawn, m, sizeof *s->drawn, "sequences", err));
    KS_TRY(ks_alloc(&s->sampled, m, sizeof(int32_t), "ids", err));
    KS_TRY(ks_alloc(&s->specs, rows, sizeof *s->specs, "sampling", err));
    KS_TRY(ks_alloc(&s->rows, rows, sizeof(int32_t), "rows", err));
    KS_TRY(ks_alloc(&s->targets, rows, sizeof(int32_t), "ids", err));
    KS_TRY(ks_alloc(&s->logs, rows, sizeof *s->logs, "scores", err));
    KS_TRY(ks_alloc(&s->entropies, rows, sizeof *s->entropies, "scores", err));
    KS_TRY(ks_alloc(&s->shares, rows, sizeof *s->shares, "scores", err));
    KS_TRY(ks_alloc(&s->sets, rows + 1, sizeof(int32_t), "sets of ids", err));
done:
    return st;
}

ks_status ks_session_open(ks_session **out, ks_engine *engine,
                          const ks_generate_options *options, int32_t longest,
                          bool scores, ks_err *err) {
    ks_status st = KS_OK;
    ks_session *s = NULL;
    *out = NULL;
    KS_TRY(ks_alloc(&s, 1, sizeof *s, "a session", err));
    s->engine = engine;
    s->options = options;
    s->scores = scores;
    s->longest = KS_MIN(longest, engine->model->config.n_context);
    s->most_active =
        options->most_active > 0 ? options->most_active : DEFAULT_ACTIVE;
    s->max_pages = ks__pages_for(s->longest);
    ks_run_limits limits = {
        .max_tokens = KS_MIN(engine->limits.max_tokens, KS_PAGE),
        .max_last = s->most_active + (scores ? KS__PROMPT_TOKENS : 0),
        .max_pages = (int64_t)s->most_active * s->max_pages};
    ks_dev_few_rows(engine->dev, true);
    KS_TRY(ks_engine_reserve(engine, &limits, err));
    /* Every running sequence has a place in every batch. */
    s->max_tokens = engine->limits.max_tokens;
    s->most_active = KS_MIN(s->most_active, s->max_tokens);
    s->max_rows = s->most_active + (scores ? KS__PROMPT_TOKENS : 0);
    KS_TRY(open_batch(s, err));
    KS_TRY(open_store(s, err));
    *out = s;
    s = NULL;
done:
    ks_session_close(&s);
    return st;
}

void ks__session_free(ks_session *s, ks_sequence *q) {
    if (s->newest == q) s->newest = NULL;
    if (q->older) q->older->younger = q->younger;
    if (q->younger) q->younger->older = q->older;
    free(q->ids);
    free(q->pages);
    free(q->logs);
    free(q->entropies);
    free(q);
}

static void free_all(ks_session *s, ks_sequence *q) {
    while (q->followers) {
        ks_sequence *f = q->followers;
        q->followers = f->next_follower;
        ks__session_free(s, f);
    }
    ks__session_free(s, q);
}

void ks_session_close(ks_session **session) {
    ks_session *s = *session;
    if (!s) return;
    while (s->first) {
        ks_sequence *q = s->first;
        s->first = q->next;
        free_all(s, q);
    }
    for (int32_t i = 0; i < s->n_active; i++) {
        ks__session_drop(s, s->active[i]);
        free_all(s, s->active[i]);
    }
    /* what was recorded reads a store that is no more */
    if (s->engine->run) ks__graph_drop(s->engine->run);
    ks_dev_few_rows(s->engine->dev, false);
    ks_kv_tree_close(&s->tree);
    ks_kv_close(&s->kv);
    free(s->found);
    free(s->active);
    free(s->members);
    free(s->scored);
    free(s->offsets);
    free(s->past);
    free(s->pages);
    free(s->ids);
    free(s->drawn);
    free(s->sampled);
    free(s->specs);
    free(s->rows);
    free(s->targets);
    free(s->logs);
    free(s->entropies);
    free(s->shares);
    free(s->sets);
    free(s->set_ids);
    free(s);
    *session = NULL;
}

size_t ks_session_bytes(const ks_session *s) {
    size_t page = ks_kv_page_bytes(&s->engine->model->config);
    if (!s->engine->ops->unified) return 0;
    return taken_beside(s) + (size_t)s->n_pages * page;
}

int32_t ks_session_holds(const ks_session *s, int32_t tokens) {
    return KS_MIN(s->n_pages / ks__pages_for(KS_MAX(tokens, 1)),
                  s->most_active);
}

const ks_generate_stats *ks_session_stats(const ks_session *s) {
    return &s->stats;
}

/* -------------------------------------------------------------------- adding
 */

static ks_status check_asked(const ks_session *s, const ks_request *r,
                             const char *name, ks_err *err) {
    if (r->ask == KS_ASK_SAMPLE) return KS_OK;
    if (!s->scores)
        return ks_fail(err, KS_USAGE,
                       "%s: scores are asked of a session that has none", name);
    if (r->from < 1 || r->from >= r->n_prompt)
        return ks_fail(err, KS_USAGE,
                       "%s: scores from token %d of %d; 1 to %d are expected",
                       name, r->from, r->n_prompt, r->n_prompt - 1);
    return KS_OK;
}

static ks_status check_request(const ks_session *s, const ks_request *r,
                               ks_err *err) {
    ks_status st = KS_OK;
    const ks_config *c = &s->engine->model->config;
    char number[48];
    const char *name = r->name ? r->name : number;
    snprintf(number, sizeof number, "prompt %zu", r->tag);
    int32_t most = c->n_context - (r->ask == KS_ASK_SAMPLE);
    KS_CHECK(r->n_prompt >= 1 && r->n_prompt <= most, KS_LIMIT,
             "%s has %d tokens; 1 to %d are expected in the model's context "
             "of %d",
             name, r->n_prompt, most, c->n_context);
    KS_CHECK(r->n_prompt + (r->ask == KS_ASK_SAMPLE) <= s->longest, KS_LIMIT,
             "%s has %d tokens in a session of %d", name, r->n_prompt,
             s->longest);
    for (int32_t t = 0; t < r->n_prompt; t++)
        KS_CHECK(r->prompt[t] >= 0 && r->prompt[t] < c->n_vocab, KS_MISMATCH,
                 "%s holds id %d, the model's vocabulary is 0 to %d: wrong "
                 "tokenizer?",
                 name, r->prompt[t], c->n_vocab - 1);
    KS_TRY(check_asked(s, r, name, err));
done:
    return st;
}

/* Tokens a request can come to. */
static int32_t most_tokens(const ks_session *s, const ks_request *r) {
    if (r->ask != KS_ASK_SAMPLE) return r->n_prompt;
    int32_t new = r->max_new > 0 ? r->max_new : s->options->max_new;
    int64_t most = (int64_t)r->n_prompt + new;
    return new == 0 || most > s->longest ? s->longest : (int32_t)most;
}

/* Samples of one prompt, added one behind the other, know of each other. */
static void join_family(ks_session *s, ks_sequence *q) {
    ks_sequence *before = s->newest;
    if (!before || before->request.group != q->request.group ||
        before->request.ask != KS_ASK_SAMPLE || q->request.ask != KS_ASK_SAMPLE)
        return;
    q->older = before;
    before->younger = q;
}

ks_status ks_session_add(ks_session *s, const ks_request *request,
                         ks_err *err) {
    ks_status st = KS_OK;
    ks_sequence *q = NULL;
    KS_TRY(check_request(s, request, err));
    KS_TRY(ks_alloc(&q, 1, sizeof *q, "a request", err));
    q->request = *request;
    q->serial = s->serial++;
    q->most = most_tokens(s, request);
    q->n = request->n_prompt;
    q->end = request->n_prompt - (request->ask != KS_ASK_SAMPLE);
    q->before = s->last;
    if (s->last)
        s->last->next = q;
    else
        s->first = q;
    s->last = q;
    s->n_left++;
    join_family(s, q);
    s->newest = q;
done:
    return st;
}

/* ------------------------------------------------------------------ entering
 */

ks_status ks__session_prepare(const ks_session *s, ks_sequence *q,
                              ks_err *err) {
    ks_status st = KS_OK;
    const ks_request *r = &q->request;
    if (q->pages) return KS_OK;
    KS_TRY(ks_alloc(&q->ids, (size_t)q->most, sizeof(int32_t), "ids", err));
    memcpy(q->ids, r->prompt, (size_t)r->n_prompt * sizeof(int32_t));
    if (r->ask != KS_ASK_SAMPLE) {
        KS_TRY(ks_alloc(&q->logs, (size_t)r->n_prompt, sizeof *q->logs,
                        "scores", err));
        for (int32_t t = 0; t < r->n_prompt; t++) q->logs[t] = NAN;
    }
    if (r->ask == KS_ASK_ENTROPY)
        KS_TRY(ks_alloc(&q->entropies, (size_t)r->n_prompt,
                        sizeof *q->entropies, "scores", err));
    KS_TRY(ks_alloc(&q->pages, (size_t)s->max_pages, sizeof(int32_t),
                    "page tables", err));
done:
    return st;
}

void ks__session_leave_line(ks_session *s, ks_sequence *q) {
    *(q->before ? &q->before->next : &s->first) = q->next;
    *(q->next ? &q->next->before : &s->last) = q->before;
    q->before = q->next = NULL;
}

void ks__session_join_line(ks_session *s, ks_sequence *q) {
    ks_sequence *next = s->first, *before = NULL;
    while (next && next->serial < q->serial) {
        before = next;
        next = next->next;
    }
    q->before = before;
    q->next = next;
    *(before ? &before->next : &s->first) = q;
    *(next ? &next->before : &s->last) = q;
}

void ks__session_activate(ks_session *s, ks_sequence *q) {
    q->active = true;
    s->active[s->n_active++] = q;
}

int32_t ks__session_page(ks_session *s) {
    int32_t page = ks_kv_page_take(s->kv);
    if (page < 0 && ks_kv_tree_evict(s->tree, KS__EVICTED) > 0)
        page = ks_kv_page_take(s->kv);
    return page;
}

/* The state of the last shared token is wanted too, to score the one behind it.
 */
static bool wants_last_state(const ks_sequence *q) {
    return q->request.ask == KS_ASK_SCORE && q->past >= q->request.from &&
           isnan(q->logs[q->past]);
}

/* A page of its own with the first tokens of another. false: there is none. */
static ks_status copy_page(ks_session *s, ks_sequence *q, int32_t from,
                           int32_t tokens, bool *copied, ks_err *err) {
    int32_t page = ks__session_page(s);
    *copied = page >= 0;
    if (page < 0) return KS_OK;
    q->pages[q->n_pages++] = page;
    return ks_kv_page_copy(s->kv, page, from, tokens, err);
}

/* What of the next page another has goes into a copy; and where the state of
 * the last token that is there is wanted, it is computed once more, into a copy
 * of its page. */
static ks_status take_rest(ks_session *s, ks_sequence *q,
                           const ks_kv_rest *rest, ks_err *err) {
    ks_status st = KS_OK;
    bool copied = false;
    if (rest->page >= 0) {
        KS_TRY(copy_page(s, q, rest->page, rest->tokens, &copied, err));
        if (copied) q->past += rest->tokens;
    }
    if (!wants_last_state(q)) return KS_OK;
    if (!copied) {
        int32_t from = q->pages[--q->n_pages];
        KS_TRY(copy_page(s, q, from, KS_PAGE - 1, &copied, err));
        ks_kv_page_drop(s->kv, from);
        if (!copied) q->past -= KS_PAGE - 1; /* then all of it once more */
    }
    q->past--;
done:
    return st;
}

/* Whether another sample of its prompt is about to have the prompt's state. */
static bool awaits_another(const ks_sequence *q) {
    for (q = q->older; q; q = q->older)
        if (q->active && q->past < q->request.n_prompt) return true;
    return false;
}

static void put_back(ks_session *s, int32_t n_pages) {
    for (int32_t p = 0; p < n_pages; p++) ks_kv_page_drop(s->kv, s->found[p]);
}

static int32_t find_pages(ks_session *s, ks_sequence *q, ks_kv_rest *rest) {
    ks_kv_scores scores = ks__scores_of(q);
    bool scored = q->request.ask == KS_ASK_SCORE;
    return ks_kv_tree_find(s->tree, q->request.prompt, ks__shareable(q),
                           scored ? &scores : NULL, s->found, rest);
}

static ks_status let_in(ks_session *s, ks_sequence *q, int32_t n, int32_t need,
                        const ks_kv_rest *rest, int32_t *spare, ks_err *err) {
    ks_status st = KS_OK;
    *spare -= need;
    for (int32_t k = 0; k < n; k++) /* the tree's alone, until now */
        *spare -= ks_kv_page_owners(s->kv, s->found[k]) == 2;
    memcpy(q->pages, s->found, (size_t)n * sizeof *s->found);
    q->n_pages = n;
    q->past = n * KS_PAGE;
    ks__session_leave_line(s, q);
    ks__session_activate(s, q);
    KS_TRY(take_rest(s, q, rest, err));
    s->stats.shared += q->past;
    ks_kv_tree_announce(s->tree, q->request.prompt, ks__shareable(q));
done:
    return st;
}

/* Lets sequences in, in order, while there are pages for what they have and
 * for one more page of each that runs. One whose next page somebody is about
 * to compute waits for it. */
static ks_status enter(ks_session *s, ks_err *err) {
    ks_status st = KS_OK;
    if (!s->first) return KS_OK;
    int32_t spare =
        ks_kv_free_pages(s->kv) + ks_kv_tree_spare(s->tree) - s->n_active;
    for (ks_sequence *q = s->first, *next;
         q && s->n_active + s->n_followers < s->most_active; q = next) {
        ks_kv_rest rest;
        next = q->next;
        if (awaits_another(q)) continue;
        KS_TRY(ks__session_prepare(s, q, err));
        int32_t n = find_pages(s, q, &rest);
        int32_t need = ks__pages_for(q->n) + 1 - n;
        bool room = need <= spare || s->n_active == 0;
        if (room && !rest.coming)
            KS_TRY(let_in(s, q, n, need, &rest, &spare, err));
        else
            put_back(s, n);
        if (rest.page >= 0) ks_kv_page_drop(s->kv, rest.page);
        if (!room && !rest.coming) break;
    }
done:
    return st;
}

void ks__session_drop(ks_session *s, ks_sequence *q) {
    for (int32_t p = 0; p < q->n_pages; p++)
        ks_kv_page_drop(s->kv, q->pages[p]);
    q->n_pages = q->past = 0;
}

void ks__session_leave(ks_session *s, int32_t at, bool wait) {
    ks_sequence *q = s->active[at];
    if (q->past < ks__shareable(q))
        ks_kv_tree_forget(s->tree, q->request.prompt, ks__shareable(q));
    ks__session_drop(s, q);
    q->active = false;
    s->n_active--;
    memmove(s->active + at, s->active + at + 1,
            (size_t)(s->n_active - at) * sizeof *s->active);
    if (wait) {
        s->stats.preempted++;
        ks__session_join_line(s, q);
    }
}

/* ------------------------------------------------------------------- running
 */

ks_status ks_session_run(ks_session *s, ks_answered_fn answered, void *user,
                         const atomic_bool *stop, ks_err *err) {
    ks_status st = KS_OK;
    while (s->n_left > 0) {
        KS_CHECK(!ks_interrupted && !(stop && *stop), KS_INTERRUPTED,
                 "interrupted after %zu of %zu sequences", s->n_done,
                 s->n_done + s->n_left);
        KS_TRY(enter(s, err));
        KS_TRY(ks__session_fill(s, err));
        KS_TRY(ks__session_step(s, answered, user, err));
        if (s->options->progress) s->options->progress(user, &s->stats);
    }
done:
    return st;
}
