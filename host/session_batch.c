/* session_batch.c - which tokens of which sequences go into the next batch,
 * and what is drawn or scored of their states. */
#include <math.h>
#include <string.h>

#include "session_state.h"

/* ------------------------------------------------------------------- filling
 */

/* Pages for the first `tokens` of active[at], taken from the youngest if need
 * be; false: it was the youngest itself. The oldest always gets them, for the
 * store holds the longest sequence. */
static bool ensure_pages(ks_session *s, int32_t at, int32_t tokens) {
    ks_sequence *q = s->active[at];
    while (q->n_pages < ks__pages_for(tokens)) {
        int32_t page = ks__session_page(s);
        if (page >= 0) {
            q->pages[q->n_pages++] = page;
            continue;
        }
        bool self = at == s->n_active - 1;
        ks__session_leave(s, s->n_active - 1, true);
        if (self) return false;
    }
    return true;
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

/* The other samples of the prompt that has just been read draw from the same
 * state, as many as there is room for. */
static void add_partings(ks_session *s, ks_sequence *q, int32_t row,
                         int32_t *spare) {
    if (q->n > q->request.n_prompt) return;
    for (ks_sequence *y = q->younger; y; y = y->younger) {
        if (y->active || y->parting || y->n > y->request.n_prompt) continue;
        if (*spare < 0)
            *spare = ks_kv_free_pages(s->kv) + ks_kv_tree_spare(s->tree) -
                     s->n_active;
        if (s->n_active + s->n_partings >= s->most_active || *spare < 2) return;
        *spare -= 2; /* the page that is copied, one to grow */
        y->parting = true;
        s->partings[s->n_partings++] = (ks_parting){q, y};
        add_draw(s, y, row);
    }
}

static void list_draws(ks_session *s) {
    int32_t spare = -1;
    s->n_draws = s->n_partings = 0;
    for (int32_t i = 0; i < s->n_seq; i++) {
        ks_sequence *q = s->members[i];
        if (q->request.ask != KS_ASK_SAMPLE || q->past + q->taken < q->n)
            continue;
        add_draw(s, q, s->offsets[i + 1] - 1);
        add_partings(s, q, s->offsets[i + 1] - 1, &spare);
    }
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
        if (!ensure_pages(s, i, q->past + tokens)) break;
        add_to_batch(s, q, tokens);
    }
    list_draws(s);
    s->n_scores = s->n_shares = 0;
    KS_TRY(walk_scores(s, KS_ASK_SCORE, add_score, err));
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

static ks_status look_at_all(ks_session *s, ks_view hidden, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(look(s, hidden, 0, s->n_draws, draw, err));
    KS_TRY(look(s, hidden, s->n_draws, s->n_scores, score, err));
    KS_TRY(look(s, hidden, s->n_draws + s->n_scores, s->n_shares, share, err));
    s->n_taken = 0;
    KS_TRY(walk_scores(s, KS_ASK_SCORE, take_score, err));
    KS_TRY(walk_scores(s, KS_ASK_SHARE, take_score, err));
    s->stats.scored += s->n_taken;
done:
    return st;
}

/* ------------------------------------------------------------------- answers
 */

static void count_prompt(ks_session *s, ks_sequence *q) {
    int32_t seen = KS_MIN(q->past, q->request.n_prompt);
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
    count_prompt(s, q);
}

/* The prompt's full pages are shared, of the last one it gets a copy. false:
 * no page is left, it waits on. */
static ks_status part(ks_session *s, const ks_parting *p, bool *parted,
                      ks_err *err) {
    ks_status st = KS_OK;
    ks_sequence *to = p->to;
    int32_t full = to->request.n_prompt / KS_PAGE;
    int32_t rest = to->request.n_prompt % KS_PAGE, page = -1;
    *parted = false;
    if (rest > 0 && (page = ks__session_page(s)) < 0) return KS_OK;
    KS_TRY(ks__session_prepare(s, to, err));
    for (int32_t i = 0; i < full; i++) {
        ks_kv_page_share(s->kv, p->from->pages[i]);
        to->pages[i] = p->from->pages[i];
    }
    to->n_pages = full;
    if (rest > 0) {
        to->pages[to->n_pages++] = page;
        page = -1;
        KS_TRY(ks_kv_page_copy(s->kv, to->pages[full], p->from->pages[full],
                               rest, err));
    }
    to->past = to->request.n_prompt;
    s->stats.shared += to->past;
    count_prompt(s, to);
    ks__session_activate(s, to);
    *parted = true;
done:
    if (page >= 0) ks_kv_page_drop(s->kv, page);
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
    for (int32_t i = 0; i < s->n_active; i++)
        if (s->active[i] == q) ks__session_leave(s, i, false);
    st = answered(user, &q->request, with, err);
    ks__session_free(s, q);
    return st;
}

static ks_status take_sample(ks_session *s, ks_sequence *q, int32_t id,
                             ks_answered_fn answered, void *user, ks_err *err) {
    ks_answer with = {.finish = KS_FINISH_STOP};
    int32_t from = q->request.n_prompt;
    int32_t new = q->request.max_new ? q->request.max_new : s->options->max_new;
    q->ids[q->n++] = id;
    s->stats.sampled++;
    if (!is_stop(s->options, id)) {
        if (q->n < q->most) return KS_OK;
        with.finish = q->n - from == new ? KS_FINISH_LENGTH : KS_FINISH_CONTEXT;
    }
    with.ids = q->ids + from;
    with.n = q->n - from;
    return answer(s, q, &with, answered, user, err);
}

/* Answers may add requests, but nobody leaves the batch's lists meanwhile. */
static ks_status take_all(ks_session *s, ks_answered_fn answered, void *user,
                          ks_err *err) {
    ks_status st = KS_OK;
    for (int32_t i = 0; i < s->n_partings; i++) {
        bool parted;
        s->partings[i].to->parting = false;
        KS_TRY(part(s, &s->partings[i], &parted, err));
        for (int32_t k = 0; !parted && k < s->n_draws; k++)
            if (s->drawn[k] == s->partings[i].to) s->drawn[k] = NULL;
    }
    for (int32_t i = 0; i < s->n_draws; i++)
        if (s->drawn[i])
            KS_TRY(take_sample(s, s->drawn[i], s->sampled[i], answered, user,
                               err));
    for (int32_t i = 0; i < s->n_seq; i++) {
        ks_sequence *q = s->scored[i];
        if (!q) continue;
        ks_answer with = {.logs = q->logs + q->request.from,
                          .n = q->request.n_prompt - q->request.from};
        KS_TRY(answer(s, q, &with, answered, user, err));
    }
done:
    return st;
}

ks_status ks__session_step(ks_session *s, ks_answered_fn answered, void *user,
                           ks_err *err) {
    ks_status st = KS_OK;
    ks_view hidden;
    ks_seqs seqs = {s->n_seq, s->n_tok, s->offsets,
                    s->past,  s->pages, s->max_pages};
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
