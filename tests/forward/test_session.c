/* test_session.c - requests of all kinds, many at once in small stores, against
 * the same asked alone of a forward without a store: the same bits. */
#include <malloc.h>
#include <math.h>

#include "draw.h"
#include "golden.h"
#include "session.h"

enum {
    WORDS = 6,
    WORD = 11,
    MOST = 10 * WORD,
    ASKED = 60,
    NEW = 40,
    SHORT = 40
};

/* stops: sequences end at different times, and not in their order */
static const int32_t stops[] = {4, 23};
static const ks_generate_options settings = {.temperature = 0.8F,
                                             .top_p = 0.9F,
                                             .max_new = NEW,
                                             .seed = 11,
                                             .stops = stops,
                                             .n_stops = KS_COUNT(stops)};

static ks_engine *open_small(int batch_tokens, int threads) {
    ks_engine *engine = NULL;
    ks_engine_options options = {.batch_tokens = batch_tokens,
                                 .threads = threads};
    must(ks_engine_open(&engine, DATA "qwen3", &options, err));
    return engine;
}

/* A question, what it was answered, and what a follow-up was. */
typedef struct asked {
    ks_request request;
    int32_t ids[MOST + NEW], answer[NEW];
    int32_t n_answer, set[SHORT];
    float logs[MOST], entropies[MOST];
    ks_finish finish;
    int times;
} asked;

typedef struct crowd {
    asked at[ASKED];
    int n_added;
    ks_session *session;
    int late; /* so many are added by answers */
} crowd;

static uint32_t draw(uint32_t *state, uint32_t n) {
    *state = *state * 1664525u + 1013904223u;
    return (*state >> 8) % n;
}

/* Prompts of a few words: many begin alike, also within a page. */
static void fill(crowd *c, uint32_t seed) {
    uint32_t s = seed;
    memset(c, 0, sizeof *c);
    for (int i = 0; i < ASKED; i++) {
        asked *a = &c->at[i];
        int32_t n = 0, words = 1 + (int32_t)draw(&s, 9);
        bool again = i > 0 && draw(&s, 3) == 0;
        for (int32_t w = 0; w < words; w++) {
            uint32_t word = draw(&s, w < 3 ? 2 : WORDS);
            for (int32_t t = 0; t < WORD; t++)
                a->ids[n++] = 3 + (int32_t)((word * 7 + (uint32_t)t) % 50);
        }
        n -= (int32_t)draw(&s, 5);
        a->request = (ks_request){.prompt = a->ids,
                                  .n_prompt = n,
                                  .stream = 1000u + (uint32_t)i,
                                  .group = i,
                                  .tag = (size_t)i,
                                  .ask = (ks_ask)draw(&s, 4)};
        if (again) { /* another sample of the prompt before */
            memcpy(a->ids, a[-1].ids, sizeof a->ids);
            a->request.n_prompt = a[-1].request.n_prompt;
            a->request.group = a[-1].request.group;
            a->request.ask = a[-1].request.ask;
        }
        a->request.from = 1 + (int32_t)draw(&s, (uint32_t)n - 1);
        a->request.from = KS_MIN(a->request.from, a->request.n_prompt - 1);
        if (a->request.ask == KS_ASK_SHARE && draw(&s, 2)) {
            int32_t last = a->ids[a->request.n_prompt - 1];
            for (int32_t k = 0; k < SHORT; k++) a->set[k] = (last + k) % 53;
            a->request.last_ids = a->set;
            a->request.n_last_ids = SHORT;
        }
    }
}

static ks_status keep(void *user, const ks_request *request,
                      const ks_answer *answer, ks_err *err) {
    crowd *c = user;
    asked *a = &c->at[request->tag];
    a->times++;
    a->n_answer = answer->n;
    a->finish = answer->finish;
    if (request->ask == KS_ASK_SAMPLE)
        memcpy(a->answer, answer->ids, (size_t)answer->n * sizeof(int32_t));
    else
        memcpy(a->logs, answer->logs, (size_t)answer->n * sizeof(float));
    cr_assert_eq(answer->entropies != NULL, request->ask == KS_ASK_ENTROPY);
    if (answer->entropies)
        memcpy(a->entropies, answer->entropies,
               (size_t)answer->n * sizeof(float));
    if (c->n_added < ASKED)
        return ks_session_add(c->session, &c->at[c->n_added++].request, err);
    return KS_OK;
}

static void run(crowd *c, ks_engine *engine, const ks_generate_options *options,
                int at_first, ks_generate_stats *stats) {
    must(ks_session_open(&c->session, engine, options, MOST + NEW, true, err));
    while (c->n_added < at_first)
        must(ks_session_add(c->session, &c->at[c->n_added++].request, err));
    must(ks_session_run(c->session, keep, c, NULL, err));
    *stats = *ks_session_stats(c->session);
    ks_session_close(&c->session);
}

/* Without a session: a forward over the whole, its rows scored. */
static void forward_alone(ks_engine *e, const asked *a, float *logs,
                          float *entropies) {
    const ks_request *r = &a->request;
    int32_t n = r->n_prompt - r->from;
    ks_run_limits limits = {.max_tokens = r->n_prompt};
    ks_view hidden;
    must(ks_engine_reserve(e, &limits, err));
    ks_seqs seqs = {1, r->n_prompt, (int32_t[]){0, r->n_prompt}, NULL, NULL,
                    0, NULL};
    must(ks_forward(e->run, &seqs, a->ids, NULL, NULL, NULL, &hidden, err));
    hidden.data = (float *)hidden.data + (r->from - 1) * hidden.stride;
    hidden.rows = n;
    if (r->ask == KS_ASK_ENTROPY)
        must(ks_run_entropy(e->run, hidden, entropies, err));
    if (r->ask != KS_ASK_SHARE) {
        must(ks_run_score(e->run, hidden, a->ids + r->from, logs, err));
        return;
    }
    double shares[MOST];
    ks_sample_spec specs[MOST];
    int32_t offsets[MOST + 1], ids[MOST + SHORT];
    for (int32_t i = 0; i < n; i++) {
        specs[i] = (ks_sample_spec){.temperature = settings.temperature,
                                    .top_p = settings.top_p};
        offsets[i] = i;
        ids[i] = a->ids[r->from + i];
    }
    offsets[n] = n;
    if (r->last_ids) {
        memcpy(ids + n - 1, a->set, sizeof a->set);
        offsets[n] = n - 1 + SHORT;
    }
    must(ks_run_share(e->run, hidden, specs, offsets, ids, shares, err));
    for (int32_t i = 0; i < n; i++) logs[i] = (float)shares[i];
}

static void expect_logs(ks_engine *engine, const asked *a, const char *what) {
    float logs[MOST], entropies[MOST];
    forward_alone(engine, a, logs, entropies);
    cr_expect_eq(a->n_answer, a->request.n_prompt - a->request.from);
    cr_expect_eq(memcmp(logs, a->logs, (size_t)a->n_answer * sizeof(float)), 0,
                 "%s: request %zu: other bits", what, a->request.tag);
    if (a->request.ask == KS_ASK_ENTROPY)
        cr_expect_eq(memcmp(entropies, a->entropies,
                            (size_t)a->n_answer * sizeof(float)),
                     0, "%s: request %zu: other entropies", what,
                     a->request.tag);
}

/* The sample of the same request alone, in a session of its own. */
static void expect_sample(ks_engine *engine, const asked *a, const char *what) {
    static crowd one;
    ks_generate_stats stats;
    memset(&one, 0, sizeof one);
    one.at[0] = *a;
    one.at[0].request.tag = 0;
    one.at[0].request.prompt = one.at[0].ids;
    one.n_added = ASKED;
    must(ks_session_open(&one.session, engine, &settings, MOST + NEW, false,
                         err));
    must(ks_session_add(one.session, &one.at[0].request, err));
    must(ks_session_run(one.session, keep, &one, NULL, err));
    stats = *ks_session_stats(one.session);
    ks_session_close(&one.session);
    cr_expect_eq(stats.sampled, a->n_answer);
    cr_expect_eq(one.at[0].finish, a->finish);
    cr_expect_eq(memcmp(one.at[0].answer, a->answer,
                        (size_t)a->n_answer * sizeof(int32_t)),
                 0, "%s: request %zu: other ids", what, a->request.tag);
}

static void expect_all(ks_engine *engine, const crowd *c, const char *what) {
    for (int i = 0; i < ASKED; i++) {
        const asked *a = &c->at[i];
        cr_assert_eq(a->times, 1, "%s: request %d was answered %d times", what,
                     i, a->times);
        if (a->request.ask == KS_ASK_SAMPLE)
            expect_sample(engine, a, what);
        else
            expect_logs(engine, a, what);
    }
}

Test(session, crowds_get_what_each_gets_alone) {
    static crowd c;
    ks_engine *alone = open_small(512, 1);
    ks_generate_stats stats;
    int64_t preempted = 0;
    for (uint32_t seed = 1; seed <= 6; seed++) {
        ks_generate_options options = settings;
        ks_engine *engine = open_small(seed % 2 ? 512 : 40, 2);
        size_t page = ks_kv_page_bytes(&engine->model->config);
        fill(&c, seed);
        /* from roomy to as many pages as the longest takes */
        options.memory = page * (size_t[]){400, 400, 30, 30, 16, 11}[seed - 1];
        options.most_active = seed == 2 ? 5 : 0;
        run(&c, engine, &options, seed % 3 ? ASKED : 4, &stats);
        char what[32];
        snprintf(what, sizeof what, "seed %u", seed);
        expect_all(alone, &c, what);
        cr_expect_gt(stats.shared, 0, "%s: nothing was shared", what);
        preempted += stats.preempted;
        ks_engine_close(&engine);
    }
    cr_expect_gt(preempted, 0, "nobody gave way");
    ks_engine_close(&alone);
}

/* -sum of p log p over log-probabilities of every id, with soft-capped logits
 * too. More rows than the logits that exist at once. */
Test(session, entropy_by_all_log_probabilities) {
    enum { N = KS_DRAW_ROWS + 7 };
    ks_engine *e = open_small(512, 2);
    int32_t vocab = e->model->config.n_vocab, ids[N];
    float logs[N], entropies[N];
    ks_run_limits limits = {.max_tokens = N};
    ks_seqs seqs = {1, N, (int32_t[]){0, N}, NULL, NULL, 0, NULL};
    ks_view hidden;
    for (int32_t t = 0; t < N; t++) ids[t] = (t * 11 + t / 7) % vocab;
    must(ks_engine_reserve(e, &limits, err));
    for (int capped = 0; capped < 2; capped++) {
        double want[N] = {0};
        e->model->config.final_softcap = capped ? 3 : 0;
        must(ks_forward(e->run, &seqs, ids, NULL, NULL, NULL, &hidden, err));
        must(ks_run_entropy(e->run, hidden, entropies, err));
        for (int32_t v = 0; v < vocab; v++) {
            int32_t targets[N];
            for (int32_t t = 0; t < N; t++) targets[t] = v;
            must(ks_run_score(e->run, hidden, targets, logs, err));
            for (int32_t t = 0; t < N; t++)
                want[t] -= (double)logs[t] * exp((double)logs[t]);
        }
        cr_expect(close_f32("entropies", entropies, want, N, 1e-5, 1e-5));
    }
    ks_engine_close(&e);
}

static size_t heap_in_use(void) {
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

static size_t highest;

static void watch(void *user, const ks_generate_stats *so_far) {
    (void)user, (void)so_far;
    highest = KS_MAX(highest, heap_in_use());
}

/* `room` holds the store, the buffers and what drawing takes: more of it is
 * more pages, and what a session takes is as much as it was given. */
Test(session, room_bounds_all_that_is_taken) {
    static crowd c;
    static const size_t rooms[] = {2, 3, 5};
    enum { MIB = 1 << 20, SMALL_CHANGE = 200000 }; /* requests, lists */
    for (size_t i = 0; i < KS_COUNT(rooms); i++) {
        size_t room = rooms[i] * MIB, before;
        ks_generate_stats stats;
        ks_engine *engine = NULL;
        ks_engine_options half = {.threads = 2, .memory = room / 2};
        ks_generate_options options = settings;
        must(ks_engine_open(&engine, DATA "qwen3", &half, err));
        fill(&c, 1);
        options.room = room;
        options.progress = watch;
        highest = before = heap_in_use();
        run(&c, engine, &options, ASKED, &stats);
        size_t taken = highest - before;
        cr_expect(before == 0 || /* a sanitizer's heap says nothing */
                      (taken <= room + SMALL_CHANGE && taken > room / 2),
                  "%zu bytes taken, %zu allowed", taken, room);
        ks_engine_close(&engine);
    }
}

/* Less than the buffers of a small batch. */
Test(session, no_room) {
    ks_engine *engine = open_small(16, 1);
    ks_session *session = NULL;
    ks_err why;
    ks_generate_options options = settings;
    options.room = 1000;
    cr_expect_eq(ks_session_open(&session, engine, &options, MOST, true, &why),
                 KS_LIMIT);
    cr_expect(strstr(why.text, "keys and values"), "%s", why.text);
    ks_engine_close(&engine);
}

static int32_t common_of(const asked *a, const asked *b) {
    int32_t n = 0;
    while (n < a->n_answer && n < b->n_answer && a->answer[n] == b->answer[n])
        n++;
    return n;
}

/* Samples of a prompt read it once, the part behind its last page too, and what
 * they draw alike is computed once. */
Test(session, samples_part_behind_the_prompt) {
    static crowd c;
    ks_generate_stats stats;
    ks_engine *engine = open_small(512, 1);
    fill(&c, 3);
    int32_t n = 3 * KS_PAGE + 5;
    for (int i = 0; i < 8; i++) {
        for (int32_t t = 0; t < n; t++) c.at[i].ids[t] = 3 + t % 50;
        c.at[i].request = (ks_request){.prompt = c.at[i].ids,
                                       .n_prompt = n,
                                       .stream = (uint64_t)i,
                                       .group = 1,
                                       .max_new = 12,
                                       .tag = (size_t)i};
    }
    must(ks_session_open(&c.session, engine, &settings, MOST, false, err));
    for (int i = 0; i < 8; i++)
        must(ks_session_add(c.session, &c.at[i].request, err));
    c.n_added = ASKED;
    must(ks_session_run(c.session, keep, &c, NULL, err));
    stats = *ks_session_stats(c.session);
    ks_session_close(&c.session);
    int32_t steps = 0, parted = 0;
    for (int i = 0; i < 8; i++) {
        int32_t common = 0;
        for (int k = 0; k < i; k++)
            common = KS_MAX(common, common_of(&c.at[i], &c.at[k]));
        steps += KS_MAX(0, c.at[i].n_answer - 1 - common);
        parted += common > 0;
    }
    cr_expect_eq(stats.computed, n + steps, "%lld", (long long)stats.computed);
    cr_expect_gt(parted, 0, "all draw differently");
    cr_expect_leq(stats.batches, 12);
    for (int i = 0; i < 8; i++) expect_sample(engine, &c.at[i], "parted");
    ks_engine_close(&engine);
}

/* Pages that are there without scores, of which scores are asked in a store
 * that holds the text once: they cannot go while what follows them is
 * announced. */
Test(session, scores_of_what_fills_the_store) {
    static crowd c;
    ks_engine *engine = open_small(48, 1), *alone = open_small(512, 1);
    ks_generate_options options = settings;
    fill(&c, 5);
    for (int i = 0; i < 2; i++) {
        for (int32_t t = 0; t < MOST; t++) c.at[i].ids[t] = 3 + t % 50;
        c.at[i].request = (ks_request){.prompt = c.at[i].ids,
                                       .n_prompt = MOST,
                                       .tag = (size_t)i,
                                       .group = i,
                                       .ask = i ? KS_ASK_SCORE : KS_ASK_SHARE,
                                       .from = i ? 1 : 5 * KS_PAGE + 2};
    }
    options.memory = ks_kv_page_bytes(&engine->model->config) *
                     ((MOST + KS_PAGE - 1) / KS_PAGE + 1);
    must(ks_session_open(&c.session, engine, &options, MOST, true, err));
    c.n_added = ASKED;
    for (int i = 0; i < 2; i++) {
        must(ks_session_add(c.session, &c.at[i].request, err));
        must(ks_session_run(c.session, keep, &c, NULL, err));
        expect_logs(alone, &c.at[i], "fills the store");
    }
    ks_session_close(&c.session);
    ks_engine_close(&engine), ks_engine_close(&alone);
}

/* A text scored once is not computed again: what begins like it pays for the
 * rest and one token more. */
Test(session, scores_are_shared_with_the_pages) {
    static crowd c;
    ks_engine *engine = open_small(512, 1);
    fill(&c, 4);
    for (int i = 0; i < 2; i++) {
        for (int32_t t = 0; t < 5 * KS_PAGE + 1; t++)
            c.at[i].ids[t] = 3 + (t < 4 * KS_PAGE ? t : t + i) % 50;
        c.at[i].request = (ks_request){.prompt = c.at[i].ids,
                                       .n_prompt = 5 * KS_PAGE + 1,
                                       .tag = (size_t)i,
                                       .group = i,
                                       .from = 3,
                                       .ask = KS_ASK_SCORE};
    }
    must(ks_session_open(&c.session, engine, &settings, MOST, true, err));
    must(ks_session_add(c.session, &c.at[0].request, err));
    c.n_added = ASKED;
    must(ks_session_run(c.session, keep, &c, NULL, err));
    int64_t before = ks_session_stats(c.session)->computed;
    cr_expect_eq(before, 5 * KS_PAGE);
    must(ks_session_add(c.session, &c.at[1].request, err));
    must(ks_session_run(c.session, keep, &c, NULL, err));
    cr_expect_eq(ks_session_stats(c.session)->computed - before, KS_PAGE + 1);
    cr_expect_eq(ks_session_stats(c.session)->scored,
                 5 * KS_PAGE - 2 + KS_PAGE + 1);
    ks_session_close(&c.session);
    for (int i = 0; i < 2; i++) expect_logs(engine, &c.at[i], "shared");
    ks_engine_close(&engine);
}

static void expect_refusal(ks_session *session, ks_request request,
                           ks_status code, const char *words) {
    ks_err err = {0};
    cr_expect_eq(ks_session_add(session, &request, &err), code, "%s", err.text);
    cr_expect(strstr(err.text, words), "'%s' lacks '%s'", err.text, words);
}

Test(session, refusals) {
    static int32_t ids[300];
    ks_session *session = NULL;
    ks_engine *engine = open_small(64, 1);
    for (int i = 0; i < 300; i++) ids[i] = 3;
    ks_request good = {.prompt = ids, .n_prompt = 20, .name = "chain x"};
    must(ks_session_open(&session, engine, &settings, 100, false, err));
    ks_request r = good;
    r.n_prompt = 0;
    expect_refusal(session, r, KS_LIMIT, "chain x has 0 tokens");
    r.n_prompt = 100;
    expect_refusal(session, r, KS_LIMIT, "100 tokens in a session of 100");
    r.n_prompt = 300;
    expect_refusal(session, r, KS_LIMIT, "context");
    r = good;
    r.ask = KS_ASK_SCORE;
    r.from = 1;
    expect_refusal(session, r, KS_USAGE, "of a session that has none");
    ids[7] = 999;
    expect_refusal(session, good, KS_MISMATCH, "id 999");
    ids[7] = 3;
    ks_session_close(&session);
    must(ks_session_open(&session, engine, &settings, 100, true, err));
    for (int32_t from = 0; from <= 20; from += 20) {
        r.from = from;
        expect_refusal(session, r, KS_USAGE, "1 to 19 are expected");
    }
    ks_session_close(&session);
    ks_engine_close(&engine);
}
