/* Generation: greedy ids equal transformers' on every golden model; what a
 * sequence samples depends neither on its batch nor on the store's size. */
#include <dlfcn.h>
#include <openssl/evp.h>

#include "generate.h"
#include "golden.h"

typedef struct result {
    int32_t ids[64], n;
    ks_finish finish;
    int times;
} result;

static ks_status keep(void *user, size_t i, const int32_t *ids, int32_t n,
                      ks_finish finish, ks_err *err) {
    result *r = (result *)user + i;
    (void)err;
    cr_assert(n <= 64);
    memcpy(r->ids, ids, (size_t)n * sizeof *ids);
    r->n = n;
    r->finish = finish;
    r->times++;
    return KS_OK;
}

static void expect_equal_results(const char *what, const result *a,
                                 const result *b) {
    cr_expect(b->times == 1, "%s: ended %d times", what, b->times);
    cr_expect(a->n == b->n && a->finish == b->finish &&
                  memcmp(a->ids, b->ids, (size_t)a->n * sizeof *a->ids) == 0,
              "%s: other ids (%d and %d of them)", what, a->n, b->n);
}

Test(generate, greedy_equals_transformers) {
    for (size_t i = 0; i < KS_COUNT(golden_cases); i++) {
        char path[512];
        snprintf(path, sizeof path, DATA "%s", golden_cases[i]);
        ks_engine *engine = open_case(path, 1);
        golden g = golden_open(golden_cases[i], engine);
        ks_generate_options options = {.max_new = g.n_new, .top_p = 1};
        ks_request request = {
            .prompt = g.ids, .n_prompt = g.n_prompt, .stream = 1, .group = 0};
        result r = {.n = 0};
        must(ks_generate(engine, &options, &request, 1, keep, &r, NULL, err));
        cr_expect_eq(r.finish, KS_FINISH_LENGTH);
        cr_assert_eq(r.n, g.n_new);
        for (int32_t t = 0; t < g.n_new; t++)
            cr_expect_eq(r.ids[t], g.new_ids[t], "%s token %d: %d, expected %d",
                         golden_cases[i], t, r.ids[t], g.new_ids[t]);
        golden_close(&g);
        ks_engine_close(&engine);
    }
}

enum { CROWD = 21 };

static uint64_t stream_of(const char *problem, const char *path,
                          int32_t sample) {
    uint64_t stream;
    must(ks_philox_stream(&stream, problem, path, sample, err));
    return stream;
}

/* Prompts of many lengths; groups of three have the same one. */
static void fill_requests(const golden *g, ks_request *requests) {
    for (int32_t i = 0; i < CROWD; i++)
        requests[i] = (ks_request){.prompt = g->ids + i / 3,
                                   .n_prompt = 1 + i / 3 * 11,
                                   .stream = stream_of("problem", "", i),
                                   .group = i / 3};
}

static ks_engine *open_small(int32_t batch_tokens, int threads) {
    ks_engine *engine = NULL;
    ks_engine_options options = {.threads = threads,
                                 .batch_tokens = batch_tokens};
    must(ks_engine_open(&engine, DATA "qwen3", &options, err));
    return engine;
}

static void run_crowd(ks_engine *engine, const ks_generate_options *options,
                      const ks_request *requests, result *results,
                      ks_generate_stats *stats) {
    memset(results, 0, CROWD * sizeof *results);
    must(ks_generate(engine, options, requests, CROWD, keep, results, stats,
                     err));
}

Test(generate, sampled_ids_do_not_depend_on_the_batch) {
    static result alone[CROWD], crowd[CROWD];
    static const int32_t stops[] = {7, 8};
    ks_request requests[CROWD];
    ks_engine *engine = open_small(512, 1);
    golden g = golden_open("qwen3", engine);
    fill_requests(&g, requests);
    ks_generate_options options = {.temperature = 1.3f,
                                   .top_p = 0.95f,
                                   .max_new = 40,
                                   .seed = 11,
                                   .stops = stops,
                                   .n_stops = 2};
    int stopped = 0, distinct = 0;
    for (int32_t i = 0; i < CROWD; i++) {
        must(ks_generate(engine, &options, requests + i, 1, keep, alone + i,
                         NULL, err));
        stopped += alone[i].finish == KS_FINISH_STOP;
        if (i % 3)
            distinct += memcmp(alone[i].ids, alone[i - 1].ids,
                               sizeof alone[i].ids) != 0;
    }
    cr_expect(stopped > 2 && stopped < CROWD, "%d stopped", stopped);
    cr_expect_gt(distinct, 10, "samples of one prompt are alike");

    ks_generate_stats stats;
    run_crowd(engine, &options, requests, crowd, &stats);
    cr_expect_gt(stats.shared, 0, "no prompt page was shared");
    for (int32_t i = 0; i < CROWD; i++)
        expect_equal_results("one batch", alone + i, crowd + i);
    ks_engine_close(&engine);

    /* A store that holds little more than the longest sequence, and batches
     * that cut prompts. */
    engine = open_small(9, 2);
    options.memory = 9 * ks_kv_page_bytes(&engine->model->config);
    run_crowd(engine, &options, requests, crowd, &stats);
    cr_expect_gt(stats.preempted, 0, "no sequence had to give way");
    for (int32_t i = 0; i < CROWD; i++)
        expect_equal_results("small store", alone + i, crowd + i);
    golden_close(&g);
    ks_engine_close(&engine);
}

Test(generate, seeds_and_places_decide) {
    static result a[CROWD], b[CROWD];
    ks_request requests[CROWD];
    ks_engine *engine = open_small(512, 1);
    golden g = golden_open("qwen3", engine);
    fill_requests(&g, requests);
    ks_generate_options options = {
        .temperature = 1, .top_p = 1, .max_new = 20, .seed = 1};
    run_crowd(engine, &options, requests, a, NULL);
    options.seed = 2;
    run_crowd(engine, &options, requests, b, NULL);
    int same = 0;
    for (int32_t i = 0; i < CROWD; i++)
        same += memcmp(a[i].ids, b[i].ids, sizeof a[i].ids) == 0;
    cr_expect_lt(same, 3, "%d sequences are alike under two seeds", same);
    /* The stream is of problem, path and sample, parted. */
    cr_expect_neq(stream_of("a", "b", 0), stream_of("ab", "", 0));
    cr_expect_neq(stream_of("a", "", 1), stream_of("a", "", 2));
    golden_close(&g);
    ks_engine_close(&engine);
}

Test(generate, context_ends_a_sequence) {
    result r = {.n = 0};
    ks_engine *engine = open_small(512, 1);
    int32_t n = engine->model->config.n_context;
    int32_t *prompt = malloc((size_t)n * sizeof *prompt);
    for (int32_t i = 0; i < n; i++) prompt[i] = 3 + i % 50;
    ks_generate_options options = {.top_p = 1};
    ks_request request = {
        .prompt = prompt, .n_prompt = n - 5, .stream = 0, .group = 0};
    must(ks_generate(engine, &options, &request, 1, keep, &r, NULL, err));
    cr_expect_eq(r.n, 5);
    cr_expect_eq(r.finish, KS_FINISH_CONTEXT);
    free(prompt);
    ks_engine_close(&engine);
}

static void expect_refusal(ks_engine *engine, ks_generate_options options,
                           ks_request request, ks_status code,
                           const char *words) {
    ks_err err = {0};
    result r = {.n = 0};
    cr_expect_eq(
        ks_generate(engine, &options, &request, 1, keep, &r, NULL, &err), code,
        "%s", err.text);
    cr_expect(strstr(err.text, words), "'%s' lacks '%s'", err.text, words);
    cr_expect_eq(r.times, 0);
}

Test(generate, refusals) {
    ks_engine *engine = open_small(512, 1);
    int32_t ids[300] = {0}, wrong[] = {3, 61};
    ks_generate_options good = {.top_p = 1, .max_new = 4}, bad = good;
    expect_refusal(
        engine, good,
        (ks_request){.prompt = ids, .n_prompt = 256, .stream = 0, .group = 0},
        KS_LIMIT, "256");
    expect_refusal(
        engine, good,
        (ks_request){.prompt = ids, .n_prompt = 0, .stream = 0, .group = 0},
        KS_LIMIT, "0");
    expect_refusal(
        engine, good,
        (ks_request){.prompt = wrong, .n_prompt = 2, .stream = 0, .group = 0},
        KS_MISMATCH, "61");
    bad.top_p = 0;
    expect_refusal(
        engine, bad,
        (ks_request){.prompt = ids, .n_prompt = 2, .stream = 0, .group = 0},
        KS_USAGE, "top-p");
    bad = good;
    bad.memory = 100;
    expect_refusal(
        engine, bad,
        (ks_request){.prompt = ids, .n_prompt = 2, .stream = 0, .group = 0},
        KS_LIMIT, "a smaller --max-new need less");
    ks_interrupted = 1;
    expect_refusal(
        engine, good,
        (ks_request){.prompt = ids, .n_prompt = 2, .stream = 0, .group = 0},
        KS_INTERRUPTED, "0 of 1");
    ks_engine_close(&engine);
}

typedef struct tally {
    result results[CROWD];
    int calls, refuse_at;
} tally;

static ks_status count(void *user, size_t i, const int32_t *ids, int32_t n,
                       ks_finish finish, ks_err *err) {
    tally *t = user;
    if (++t->calls == t->refuse_at)
        return ks_fail(err, KS_IO, "refused sequence %zu", i);
    return keep(t->results, i, ids, n, finish, err);
}

/* Schedulers side by side: the ids of one, every place once, the first error
 * ends all. */
Test(generate, crew_equals_one_scheduler) {
    static result one[CROWD];
    static tally many, refused = {.refuse_at = 4};
    ks_request requests[CROWD];
    ks_generate_stats a, b;
    ks_generate_options options = {
        .temperature = 1, .top_p = 1, .max_new = 30, .seed = 5};
    ks_engine *engine = open_small(512, 1);
    golden g = golden_open("qwen3", engine);
    fill_requests(&g, requests);
    run_crowd(engine, &options, requests, one, &a);
    ks_engine_close(&engine);

    engine = open_small(512, 3);
    ks_engines one_engine = {.at = &engine, .n = 1};
    cr_assert_eq(ks_crew_size(&one_engine, 0, CROWD), 3);
    cr_expect_eq(ks_crew_size(&one_engine, 0, 2), 2);
    must(ks_generate(engine, &options, requests, CROWD, count, &many, &b, err));
    for (int32_t i = 0; i < CROWD; i++)
        expect_equal_results("a crew", one + i, many.results + i);
    cr_expect_eq(a.sampled, b.sampled);
    cr_expect_gt(b.shared, 0, "no prompt page was shared");

    ks_err failure = {0};
    cr_expect_eq(ks_generate(engine, &options, requests, CROWD, count, &refused,
                             NULL, &failure),
                 KS_IO);
    cr_expect(strstr(failure.text, "refused sequence"), "%s", failure.text);
    golden_close(&g);
    ks_engine_close(&engine);
}

typedef struct by_thread {
    pthread_t seen[CROWD];
    int n;
    result results[CROWD];
} by_thread;

static ks_status note_thread(void *user, size_t i, const int32_t *ids,
                             int32_t n, ks_finish finish, ks_err *err) {
    by_thread *t = user;
    int k = 0;
    while (k < t->n && !pthread_equal(t->seen[k], pthread_self())) k++;
    t->seen[k] = pthread_self();
    t->n += k == t->n;
    return keep(t->results, i, ids, n, finish, err);
}

/* Of one problem. */
static void fill_samples(const golden *g, ks_request *requests) {
    fill_requests(g, requests);
    for (int32_t i = 0; i < CROWD; i++) {
        requests[i].prompt = requests[0].prompt;
        requests[i].n_prompt = requests[0].n_prompt;
        requests[i].group = 0;
    }
}

/* Samples of one problem keep every thread busy, and are what they were. */
Test(generate, one_problem_goes_to_all_of_a_crew) {
    static result one[CROWD];
    static by_thread many;
    ks_request requests[CROWD];
    ks_generate_stats stats;
    ks_generate_options options = {
        .temperature = 1, .top_p = 1, .max_new = 30, .seed = 5};
    ks_engine *engine = open_small(512, 1);
    golden g = golden_open("qwen3", engine);
    fill_samples(&g, requests);
    run_crowd(engine, &options, requests, one, &stats);
    cr_expect_eq(stats.prompts, CROWD * requests[0].n_prompt);
    ks_engine_close(&engine);
    engine = open_small(512, 3);
    must(ks_generate(engine, &options, requests, CROWD, note_thread, &many,
                     &stats, err));
    cr_expect_eq(many.n, 3, "%d threads", many.n);
    for (int32_t i = 0; i < CROWD; i++)
        expect_equal_results("one problem", one + i, many.results + i);
    golden_close(&g);
    ks_engine_close(&engine);
}

/* Samples that never part have their prompt too. */
Test(generate, prompts_of_followers_count) {
    static result all[CROWD];
    ks_request requests[CROWD];
    ks_generate_stats stats;
    ks_generate_options options = {.top_p = 1, .max_new = 6};
    ks_engine *engine = open_small(512, 1);
    golden g = golden_open("qwen3", engine);
    fill_samples(&g, requests);
    run_crowd(engine, &options, requests, all, &stats);
    cr_expect_eq(stats.prompts, CROWD * requests[0].n_prompt);
    golden_close(&g);
    ks_engine_close(&engine);
}

/* ------------------------------------------------------------ long prompts */

enum { LONG = 200, MANY = 10 };

typedef struct watch {
    result results[MANY];
    ks_generate_stats last;
    int calls, stop_at;
} watch;

static ks_status keep_watched(void *user, size_t i, const int32_t *ids,
                              int32_t n, ks_finish finish, ks_err *err) {
    watch *w = user;
    return keep(w->results, i, ids, n, finish, err);
}

static void look(void *user, const ks_generate_stats *so_far) {
    watch *w = user;
    cr_expect(so_far->batches == w->last.batches + 1 &&
              so_far->prompts >= w->last.prompts);
    w->last = *so_far;
    if (++w->calls == w->stop_at) ks_interrupted = 1;
}

static void fill_long(int32_t prompts[MANY][LONG], ks_request *requests) {
    for (int32_t i = 0; i < MANY; i++) {
        for (int32_t t = 0; t < LONG; t++)
            prompts[i][t] = 3 + (t * (i + 1)) % 50;
        requests[i] = (ks_request){.prompt = prompts[i],
                                   .n_prompt = LONG,
                                   .stream = (uint64_t)i,
                                   .group = i};
    }
}

/* However large batches may be, prompts come in several, and a signal is
 * heeded after each. */
Test(generate, prompts_show_progress_and_heed_signals) {
    static int32_t prompts[MANY][LONG];
    static watch w, stopped = {.stop_at = 1};
    ks_request requests[MANY];
    ks_err err = {0};
    fill_long(prompts, requests);
    for (int threads = 1; threads <= 2; threads++) {
        ks_engine *engine = open_small(4096, threads);
        ks_generate_options options = {
            .top_p = 1, .max_new = 5, .progress = look};
        w = (watch){.calls = 0};
        must(ks_generate(engine, &options, requests, MANY, keep_watched, &w,
                         NULL, err));
        cr_expect_eq(w.last.prompts, MANY * LONG);
        cr_expect_eq(w.last.sampled, MANY * 5);
        cr_expect_geq(w.last.batches, MANY * LONG / 512 + 5);
        cr_expect_eq(w.calls, w.last.batches);
        if (threads == 1) {
            cr_expect_eq(ks_generate(engine, &options, requests, MANY,
                                     keep_watched, &stopped, NULL, &err),
                         KS_INTERRUPTED);
            cr_expect_eq(stopped.calls, 1);
            cr_expect_leq(stopped.last.computed, 512);
            ks_interrupted = 0;
        }
        ks_engine_close(&engine);
    }
}

/* -------------------------------------------------------- not finite, named */

/* Gives one token an embedding of NaN, in every storage type. */
static void *spoil(ks_engine *engine, int32_t id) {
    ks_weight *embed = &engine->model->weights.embed;
    size_t row = (size_t)embed->cols * (embed->type == KS_F32 ? 4 : 2);
    char *copy = malloc(row * (size_t)embed->rows);
    cr_assert(copy && embed->type <= KS_BF16);
    memcpy(copy, embed->data, row * (size_t)embed->rows);
    memset(copy + row * (size_t)id, 0xff, row);
    embed->data = copy;
    return copy;
}

Test(generate, names_the_prompt_that_is_not_finite) {
    static int32_t prompts[MANY][LONG];
    static watch w;
    ks_request requests[MANY];
    fill_long(prompts, requests);
    prompts[6][150] = 59;
    for (int named = 0; named <= 1; named++) {
        ks_err err = {0};
        ks_engine *engine = open_small(4096, 1);
        void *copy = spoil(engine, 59);
        ks_generate_options options = {.top_p = 1, .max_new = 1};
        requests[6].name = named ? "problem g" : NULL;
        cr_expect_eq(ks_generate(engine, &options, requests, MANY, keep_watched,
                                 &w, NULL, &err),
                     KS_NUMERIC);
        cr_expect(strstr(err.text, named ? "problem g: resid layer 0"
                                         : "prompt 6: resid layer 0"),
                  "%s", err.text);
        cr_expect(strstr(err.text, "at token 150 (of the prompt)"), "%s",
                  err.text);
        ks_engine_close(&engine);
        free(copy);
    }
}

Test(generate, names_the_prompt_whose_logits_are_not_finite) {
    static int32_t prompts[MANY][LONG];
    static watch w;
    ks_request requests[MANY];
    ks_err err = {0};
    fill_long(prompts, requests);
    ks_engine *engine = open_small(4096, 1);
    engine->model->weights.final_norm[0] = NAN;
    ks_generate_options options = {.top_p = 1, .max_new = 5};
    cr_expect_eq(ks_generate(engine, &options, requests + 1, 1, keep_watched,
                             &w, NULL, &err),
                 KS_NUMERIC);
    cr_expect(strstr(err.text, "prompt 0: the logits are not finite after "
                               "token 199 (of the prompt)"),
              "%s", err.text);
    ks_engine_close(&engine);
}

/* In libcrypto's place: no memory for a hash once this is set. */
static bool no_hash;

EVP_MD_CTX *EVP_MD_CTX_new(void) {
    EVP_MD_CTX *(*real)(void) = NULL;
    void *found = dlsym(RTLD_NEXT, "EVP_MD_CTX_new");
    memcpy(&real, &found, sizeof real);
    return no_hash ? NULL : real();
}

Test(generate, a_failed_hash_gives_no_stream) {
    ks_err err = {0};
    uint64_t stream = 7;
    no_hash = true;
    cr_expect_eq(ks_philox_stream(&stream, "a", "", 0, &err), KS_NOMEM);
    cr_expect(strstr(err.text, "SHA-256"), "'%s'", err.text);
    no_hash = false;
    cr_expect_eq(ks_philox_stream(&stream, "a", "", 0, &err), KS_OK);
}
