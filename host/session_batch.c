/* session_batch.c - which tokens of which sequences go into the next batch,
 * and what is drawn or scored of their states. */
#include <math.h>
#include <string.h>

#include "session_state.h"

/* ------------------------------------------------------------------- filling
 */

/* Pages for the next `tokens` of active[at], taken from the youngest if need
 * be; for how many it has them, 0: it was the youngest itself and waits. The
 * oldest always gets some, for the store holds the longest sequence and a page:
 * what it computes that the tree has without scores goes as soon as it is
 * there (ks_kv_tree_ready). */
static int32_t ensure_pages(ks_session *s, int32_t at, int32_t tokens) {
    ks_sequence *q = s->active[at];
    while (q->n_pages < ks__pages_for(q->past + tokens)) {
        int32_t page = ks__session_page(s);
        bool self = at == s->n_active - 1;
        int32_t has = q->n_pages * KS_PAGE - q->past;
        if (page >= 0) {
            q->pages[q->n_pages++] = page;
            continue;
        }
        if (self && at == 0 && has > 0) return has;
        ks__session_leave(s, s->n_active - 1, true);
        if (self) return 0;
    }
    return tokens;
}

static void add_to_batch(ks_session *s, ks_sequence *q, int32_t tokens) {
    int32_t at = s->n_seq++;
    q->taken = tokens;
    s->members[at] = q;
    s->past[at] = q->past;
    memcpy(s->ids + s->n_tok, q->ids + q->past,
           (size_t)tokens * sizeof(int32_t));
    memcpy(s->pages + (int64_t)at * s->max_pages, q->pages,
           (size_t)q->n_pages * sizeof(int32_t));
    s->n_tok += tokens;
    s->offsets[at + 1] = s->n_tok;
}

/* Tokens of a sequence that are to go through the model. */
static int32_t goal(const ks_sequence *q) {
    return q->request.ask == KS_ASK_SAMPLE ? q->n : q->end;
}

static void add_draw(ks_session *s, ks_sequence *q, int32_t row) {
    const ks_generate_options *o = s->options;
    int32_t i = s->n_draws++;
    s->rows[i] = row;
    s->drawn[i] = q;
    s->specs[i] = (ks_sample_spec){
        .temperature = o->temperature,
        .top_p = o->top_p,
        .top_k = o->top_k,
        .key = {o->seed, q->request.stream},
        .counter = (uint64_t)(q->n - q->request.n_prompt),
    };
}

static void follow(ks_sequence *leader, ks_sequence *q) {
    q->follows = true;
    q->next_follower = leader->followers;
    leader->followers = q;
}

/* The other samples of a prompt that has just been read draw from the same
 * state, as many as there is room for. */
static ks_status add_followers(ks_session *s, ks_sequence *q, ks_err *err) {
    ks_status st = KS_OK;
    for (ks_sequence *y = q->younger; y; y = y->younger) {
        if (y->active || y->follows || y->n > y->request.n_prompt) continue;
        if (s->n_active + s->n_followers >= s->most_active) break;
        KS_TRY(ks__session_prepare(s, y, err));
        ks__session_leave_line(s, y);
        follow(q, y);
        s->n_followers++;
    }
done:
    return st;
}

/* A leader's draw, and those of its followers from the same state. */
static ks_status list_draws(ks_session *s, ks_err *err) {
    ks_status st = KS_OK;
    s->n_draws = 0;
    for (int32_t i = 0; i < s->n_seq; i++) {
        ks_sequence *q = s->members[i];
        int32_t row = s->offsets[i + 1] - 1;
        if (q->request.ask != KS_ASK_SAMPLE || q->past + q->taken < q->n)
            continue;
        if (q->n == q->request.n_prompt) KS_TRY(add_followers(s, q, err));
        add_draw(s, q, row);
        for (ks_sequence *f = q->followers; f; f = f->next_follower)
            add_draw(s, f, row);
    }
done:
    return st;
}

/* Calls `add` for each token whose score is wanted and whose state is that of
 * a row of the batch. */
typedef ks_status (*add_fn)(ks_session *s, const ks_sequence *q, int32_t token,
                            int32_t row, ks_err *err);

static ks_status walk_scores(ks_session *s, ks_ask ask, add_fn add,
                             ks_err *err) {
    for (int32_t i = 0; i < s->n_seq; i++) {
        const ks_sequence *q = s->members[i];
        if (q->request.ask != ask) continue;
        int32_t first = KS_MAX(q->past + 1, q->request.from);
        for (int32_t t = first; t <= q->past + q->taken; t++) {
            if (!isnan(q->logs[t])) continue;
            ks_status st = add(s, q, t, s->offsets[i] + t - 1 - q->past, err);
            if (st != KS_OK) return st;
        }
    }
    return KS_OK;
}

static ks_status add_score(ks_session *s, const ks_sequence *q, int32_t token,
                           int32_t row, ks_err *err) {
    (void)err;
    s->rows[s->n_draws + s->n_scores] = row;
    s->targets[s->n_scores++] = q->ids[token];
    return KS_OK;
}

static ks_status add_share(ks_session *s, const ks_sequence *q, int32_t token,
                           int32_t row, ks_err *err) {
    ks_status st = KS_OK;
    const ks_request *r = &q->request;
    bool set = r->last_ids && token == r->n_prompt - 1;
    const int32_t *ids = set ? r->last_ids : q->ids + token;
    int32_t n = set ? r->n_last_ids : 1, begin = s->sets[s->n_shares];
    KS_TRY(ks_grow(&s->set_ids, &s->set_capacity, (size_t)(begin + n),
                   sizeof(int32_t), "sets of ids", err));
    memcpy(s->set_ids + begin, ids, (size_t)n * sizeof(int32_t));
    s->rows[s->n_draws + s->n_scores + s->n_shares] = row;
    s->specs[s->n_draws + s->n_shares++] =
        (ks_sample_spec){.temperature = s->options->temperature,
                         .top_p = s->options->top_p,
                         .top_k = s->options->top_k};
    s->sets[s->n_shares] = begin + n;
done:
    return st;
}

/* One token of everything that runs, and of prompts what still fits. */
ks_status ks__session_fill(ks_session *s, ks_err *err) {
    ks_status st = KS_OK;
    int32_t prompts = KS__PROMPT_TOKENS;
    s->n_seq = s->n_tok = 0;
    for (int32_t i = 0; i < s->n_active; i++) {
        ks_sequence *q = s->active[i];
        int32_t others = s->n_active - i - 1; /* keep a place for each */
        int32_t room = s->max_tokens - s->n_tok - others;
        int32_t left = goal(q) - q->past, tokens = KS_MIN(left, room);
        if (left > 1 || q->logs) {
            tokens = KS_MIN(tokens, prompts);
            prompts -= tokens;
            if (tokens == 0) continue;
        }
        tokens = ensure_pages(s, i, tokens);
        if (tokens == 0) break;
        add_to_batch(s, q, tokens);
    }
    KS_TRY(list_draws(s, err));
    s->n_scores = s->n_shares = 0;
    KS_TRY(walk_scores(s, KS_ASK_SCORE, add_score, err));
    s->n_entropies = -s->n_scores;
    KS_TRY(walk_scores(s, KS_ASK_ENTROPY, add_score, err));
    s->n_entropies += s->n_scores;
    KS_TRY(walk_scores(s, KS_ASK_SHARE, add_share, err));
done:
    return st;
}

/* -------------------------------------------------------------------- faults
 */

/* The forward knows sequences of a batch; here they have names. */
static ks_status say_fault(const ks_sequence *q, int32_t token,
                           const char *what, ks_err *err) {
    char number[48];
    const ks_request *r = &q->request;
    snprintf(number, sizeof number, "prompt %zu", r->tag);
    return ks_fail(err, KS_NUMERIC, "%s: %s token %d (%s)",
                   r->name ? r->name : number, what, token,
                   token < r->n_prompt ? "of the prompt" : "sampled");
}

static ks_status name_fault(const ks_session *s, ks_status st, ks_err *err) {
    ks_fault fault = ks_run_fault(s->engine->run);
    if (st != KS_NUMERIC || fault.seq < 0 || fault.seq >= s->n_seq) return st;
    const ks_sequence *q = s->members[fault.seq];
    char what[96];
    snprintf(what, sizeof what,
             "%s layer %d: %lld values are not finite, the first at",
             ks_stream_name(fault.stream), fault.layer, (long long)fault.count);
    return say_fault(q, q->past + fault.token, what, err);
}

/* The member that a token of the batch belongs to, and its place there. */
static ks_status name_row(const ks_session *s, int32_t row, ks_err *err) {
    int32_t i = 0;
    while (s->offsets[i + 1] <= row) i++;
    const ks_sequence *q = s->members[i];
    return say_fault(q, q->past + row - s->offsets[i],
                     "the logits are not finite after", err);
}

/* -------------------------------------------------------------------- states
 */

static ks_view part_of(ks_view hidden, int32_t first, int32_t n) {
    hidden.data = (float *)hidden.data + first * hidden.stride;
    hidden.rows = n;
    return hidden;
}

typedef ks_status (*head_fn)(ks_session *s, ks_view hidden, int32_t first,
                             ks_err *err);

static ks_status draw(ks_session *s, ks_view hidden, int32_t i, ks_err *err) {
    return ks_run_sample(s->engine->run, hidden, s->specs + i, s->sampled + i,
                         NULL, err);
}

static ks_status score(ks_session *s, ks_view hidden, int32_t i, ks_err *err) {
    return ks_run_score(s->engine->run, hidden, s->targets + i, s->logs + i,
                        err);
}

static ks_status share(ks_session *s, ks_view hidden, int32_t i, ks_err *err) {
    return ks_run_share(s->engine->run, hidden, s->specs + s->n_draws + i,
                        s->sets + i, s->set_ids, s->shares + i, err);
}

static ks_status entropy(ks_session *s, ks_view hidden, int32_t i,
                         ks_err *err) {
    return ks_run_entropy(s->engine->run, hidden, s->entropies + i, err);
}

/* One head on rows [first, first + n). Where logits are not finite it goes a
 * row at a time to name the first; only a batch that fails pays for it. */
static ks_status look(ks_session *s, ks_view hidden, int32_t first, int32_t n,
                      head_fn head, ks_err *err) {
    if (n == 0) return KS_OK;
    ks_status st = head(s, part_of(hidden, first, n), 0, err);
    for (int32_t i = 0; st == KS_NUMERIC && i < n; i++)
        if (head(s, part_of(hidden, first + i, 1), i, err) == KS_NUMERIC)
            return name_row(s, s->rows[first + i], err);
    return st;
}

/* Scores of the walk that listed them, in its order. */
static ks_status take_score(ks_session *s, const ks_sequence *q, int32_t token,
                            int32_t row, ks_err *err) {
    int32_t i = s->n_taken++;
    q->logs[token] =
        i < s->n_scores ? s->logs[i] : (float)s->shares[i - s->n_scores];
    return isnan(q->logs[token]) ? name_row(s, row, err) : KS_OK;
}

static ks_status take_entropy(ks_session *s, const ks_sequence *q,
                              int32_t token, int32_t row, ks_err *err) {
    q->entropies[token] =
        s->entropies[s->n_taken - (s->n_scores - s->n_entropies)];
    return take_score(s, q, token, row, err);
}

static ks_status look_at_all(ks_session *s, ks_view hidden, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(look(s, hidden, 0, s->n_draws, draw, err));
    KS_TRY(look(s, hidden, s->n_draws, s->n_scores, score, err));
    KS_TRY(look(s, hidden, s->n_draws + s->n_scores - s->n_entropies,
                s->n_entropies, entropy, err));
    KS_TRY(look(s, hidden, s->n_draws + s->n_scores, s->n_shares, share, err));
    s->n_taken = 0;
    KS_TRY(walk_scores(s, KS_ASK_SCORE, take_score, err));
    KS_TRY(walk_scores(s, KS_ASK_ENTROPY, take_entropy, err));
    KS_TRY(walk_scores(s, KS_ASK_SHARE, take_score, err));
    s->stats.scored += s->n_taken;
done:
    return st;
}

/* ------------------------------------------------------------------- answers
 */

/* Its tokens [0, until) are in the store. */
static void count_prompt(ks_session *s, ks_sequence *q, int32_t until) {
    int32_t seen = KS_MIN(until, q->request.n_prompt);
    s->stats.prompts += KS_MAX(0, seen - q->seen);
    q->seen = KS_MAX(seen, q->seen);
}

static void advance(ks_session *s, ks_sequence *q) {
    ks_kv_scores scores = ks__scores_of(q);
    if (q->past < ks__shareable(q))
        ks_kv_tree_ready(
            s->tree, q->ids, KS_MIN(q->past + q->taken, ks__shareable(q)),
            q->request.ask == KS_ASK_SCORE ? &scores : NULL, q->pages);
    q->past += q->taken;
    count_prompt(s, q, q->past);
}

/* Pages of its own for one that has drawn otherwise than the one it followed:
 * full ones are shared, of the last one it gets a copy. Without a page it waits
 * and is computed again. */
static ks_status part(ks_session *s, ks_sequence *q, const ks_sequence *from,
                      ks_err *err) {
    ks_status st = KS_OK;
    int32_t full = from->past / KS_PAGE, rest = from->past % KS_PAGE;
    int32_t page = rest > 0 ? ks__session_page(s) : -1;
    q->follows = false;
    s->n_followers--;
    if (rest > 0 && page < 0) {
        ks__session_join_line(s, q);
        return KS_OK;
    }
    for (int32_t i = 0; i < full; i++) {
        ks_kv_page_share(s->kv, from->pages[i]);
        q->pages[i] = from->pages[i];
    }
    q->n_pages = full;
    if (rest > 0) q->pages[q->n_pages++] = page;
    ks__session_activate(s, q);
    q->past = from->past;
    if (rest > 0)
        KS_TRY(ks_kv_page_copy(s->kv, page, from->pages[full], rest, err));
    s->stats.shared += q->past;
    count_prompt(s, q, q->past);
done:
    return st;
}

static bool is_stop(const ks_generate_options *o, int32_t id) {
    for (size_t i = 0; i < o->n_stops; i++)
        if (o->stops[i] == id) return true;
    return false;
}

static ks_status answer(ks_session *s, ks_sequence *q, const ks_answer *with,
                        ks_answered_fn answered, void *user, ks_err *err) {
    ks_status st = KS_OK;
    s->n_left--;
    s->n_done++;
    s->n_followers -= q->follows;
    for (int32_t i = 0; i < s->n_active; i++)
        if (s->active[i] == q) ks__session_leave(s, i, false);
    st = answered(user, &q->request, with, err);
    ks__session_free(s, q);
    return st;
}

/* One more id; whether it is the last. */
static void take_id(ks_session *s, ks_sequence *q, int32_t id) {
    int32_t from = q->request.n_prompt;
    int32_t new = q->request.max_new ? q->request.max_new : s->options->max_new;
    q->ids[q->n++] = id;
    s->stats.sampled++;
    q->ended = true;
    if (is_stop(s->options, id))
        q->finish = KS_FINISH_STOP;
    else if (q->n < q->most)
        q->ended = false;
    else
        q->finish = q->n - from == new ? KS_FINISH_LENGTH : KS_FINISH_CONTEXT;
}

/* Of the samples [first, end) that drew from one state, the first one's, each
 * goes on with the first that goes on and drew the same. */
static ks_status regroup(ks_session *s, int32_t first, int32_t end,
                         ks_err *err) {
    ks_status st = KS_OK;
    ks_sequence *leader = s->drawn[first];
    leader->followers = NULL;
    for (int32_t i = first + 1; i < end; i++) {
        ks_sequence *q = s->drawn[i];
        int32_t k = first;
        count_prompt(s, q, leader->past);
        if (q->ended) continue;
        while (k < i && (s->drawn[k]->ended || s->sampled[k] != s->sampled[i]))
            k++;
        if (k < i)
            follow(s->drawn[k], q);
        else
            KS_TRY(part(s, q, leader, err));
    }
done:
    return st;
}

static ks_status take_draws(ks_session *s, ks_answered_fn answered, void *user,
                            ks_err *err) {
    ks_status st = KS_OK;
    for (int32_t i = 0; i < s->n_draws; i++)
        take_id(s, s->drawn[i], s->sampled[i]);
    for (int32_t i = 0, end; i < s->n_draws; i = end) {
        for (end = i + 1; end < s->n_draws && s->drawn[end]->follows; end++) {
        }
        KS_TRY(regroup(s, i, end, err));
    }
    for (int32_t i = 0; i < s->n_draws; i++) {
        ks_sequence *q = s->drawn[i];
        if (!q->ended) continue;
        ks_answer with = {.ids = q->ids + q->request.n_prompt,
                          .n = q->n - q->request.n_prompt,
                          .finish = q->finish};
        KS_TRY(answer(s, q, &with, answered, user, err));
    }
done:
    return st;
}

/* Answers may add requests, but nobody leaves the batch's lists meanwhile. */
static ks_status take_all(ks_session *s, ks_answered_fn answered, void *user,
                          ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(take_draws(s, answered, user, err));
    for (int32_t i = 0; i < s->n_seq; i++) {
        ks_sequence *q = s->scored[i];
        if (!q) continue;
        ks_answer with = {.logs = q->logs + q->request.from,
                          .n = q->request.n_prompt - q->request.from};
        if (q->entropies) with.entropies = q->entropies + q->request.from;
        KS_TRY(answer(s, q, &with, answered, user, err));
    }
done:
    return st;
}

ks_status ks__session_step(ks_session *s, ks_answered_fn answered, void *user,
                           ks_err *err) {
    ks_status st = KS_OK;
    ks_view hidden;
    ks_seqs seqs = {s->n_seq, s->n_tok,     s->offsets, s->past,
                    s->pages, s->max_pages, NULL};
    int32_t n_rows = s->n_draws + s->n_scores + s->n_shares;
    st = ks_forward_rows(s->engine->run, &seqs, s->ids, s->kv, s->rows, n_rows,
                         &hidden, err);
    KS_TRY(name_fault(s, st, err));
    KS_TRY(look_at_all(s, hidden, err));
    s->stats.batches++;
    s->stats.computed += s->n_tok;
    for (int32_t i = 0; i < s->n_seq; i++) {
        ks_sequence *q = s->members[i];
        advance(s, q);
        s->scored[i] = q->logs && q->past == q->end ? q : NULL;
    }
    KS_TRY(take_all(s, answered, user, err));
done:
    return st;
}
