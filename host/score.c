/* score.c - see score.h: what is asked of the model, and who asks. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "score_state.h"

/* Chains that a worker has under way. */
enum { IN_FLIGHT = 8 };
static const char *const words[] = {" important", " removable"};

const char *ks_score_name(ks_score_kind kind) {
    static const char *const names[] = {"logprob", "entropy", "judge",
                                        "judge-step"};
    return (size_t)kind < KS_COUNT(names) ? names[kind] : NULL;
}

static bool wants(const ks_score_job *job, ks_score_kind kind) {
    return job->options.kinds >> kind & 1;
}

static bool reads_chain(const ks_score_job *job) {
    return wants(job, KS_SCORE_LOGPROB) || wants(job, KS_SCORE_ENTROPY);
}

static int32_t context_of(const ks_score_job *job) {
    return job->engines.at[0]->model->config.n_context;
}

/* ---------------------------------------------------------------- questions
 */

/* Tokens of prompt + text as the model reads them; a BOS where nothing stands
 * ahead of the first step, if the model has one. */
static ks_status read_tokens(const ks_score_job *job, const ks_chain *c,
                             ks_tokens *tokens, size_t *front, ks_err *err) {
    ks_status st = KS_OK;
    ks_str text = {0};
    KS_TRY(ks_str_add(&text, c->prompt, c->prompt_length, err));
    KS_TRY(ks_str_add(&text, c->text, c->text_length, err));
    KS_TRY(ks_tokenize(job->tokenizer, text.data, text.length, tokens, err));
    bool bare = tokens->n && (size_t)tokens->begin[0] >= c->prompt_length;
    *front = bare && ks_tokenizer_bos(job->tokenizer) >= 0;
done:
    ks_str_free(&text);
    return st;
}

static ks_status take_ids(ks__score_ask *ask, const int32_t *ids, size_t n,
                          int32_t bos, ks_err *err) {
    ks_status st = KS_OK;
    size_t front = bos >= 0;
    KS_TRY(ks_alloc(&ask->ids, n + front, sizeof *ask->ids, "ids", err));
    ask->ids[0] = bos;
    memcpy(ask->ids + front, ids, n * sizeof *ids);
    ask->request.prompt = ask->ids;
    ask->request.n_prompt = (int32_t)(n + front);
done:
    return st;
}

static ks__score_ask *new_ask(ks__scored *item, ks_score_kind kind, ks_ask as) {
    ks__score_ask *ask = &item->asks[item->n_asks++];
    *ask = (ks__score_ask){.of = item, .kind = kind};
    ask->request = (ks_request){.ask = as,
                                .group = (int32_t)item->n_asks,
                                .name = item->chain->id,
                                .tag = (size_t)(uintptr_t)ask};
    return ask;
}

/* Log-probabilities of all steps' tokens; what lies beyond the context is not
 * asked for. */
static ks_status ask_chain(ks_score_job *job, ks__scored *item, ks_err *err) {
    ks_status st = KS_OK;
    const ks_chain *c = item->chain;
    ks_tokens tokens = {0};
    size_t front, at = 0, first = SIZE_MAX, last = 0;
    KS_TRY(read_tokens(job, c, &tokens, &front, err));
    KS_TRY(ks_alloc(&item->tokens, (size_t)c->n_steps, sizeof *item->tokens,
                    "steps", err));
    for (int32_t k = 0; k < c->n_steps; k++) {
        int64_t from = (int64_t)(c->prompt_length + c->steps[k].begin);
        int64_t to = (int64_t)(c->prompt_length + c->steps[k].end);
        ks_span s = ks_tokens_of(&tokens, from, to, &at);
        if (s.begin < s.end) {
            first = KS_MIN(first, s.begin);
            last = s.end;
        }
        item->tokens[k] = (ks_span){s.begin + front, s.end + front};
    }
    size_t most = (size_t)KS_MIN(context_of(job), job->longest) - front;
    last = KS_MIN(last, most);
    if (first == SIZE_MAX || KS_MAX(first + front, 1) >= last + front)
        goto done;
    ks__score_ask *ask =
        new_ask(item, KS_SCORE_LOGPROB,
                wants(job, KS_SCORE_ENTROPY) ? KS_ASK_ENTROPY : KS_ASK_SCORE);
    KS_TRY(take_ids(ask, tokens.ids, last,
                    front ? ks_tokenizer_bos(job->tokenizer) : -1, err));
    ask->request.from = (int32_t)KS_MAX(first + front, 1);
done:
    ks_tokens_free(&tokens);
    return st;
}

/* The question with either word behind it: what is scored of each are the
 * tokens from where they part. */
static ks_status ask_judge(ks_score_job *job, ks__scored *item,
                           ks_score_kind kind, int32_t step, ks_err *err) {
    ks_status st = KS_OK;
    ks_str text = {0};
    ks_tokens tokens[2] = {{0}, {0}};
    size_t same = 0, n = 0;
    KS_TRY(ks_score_prompt(&job->prompt, kind, item->question, item->chain,
                           step, &text, err));
    size_t length = text.length;
    for (int w = 0; w < 2; w++) {
        text.length = length;
        KS_TRY(ks_str_printf(&text, err, "%s", words[w]));
        KS_TRY(ks_tokenize(job->tokenizer, text.data, text.length, &tokens[w],
                           err));
        n = KS_MAX(n, tokens[w].n);
    }
    while (same < tokens[0].n && same < tokens[1].n &&
           tokens[0].ids[same] == tokens[1].ids[same])
        same++;
    KS_CHECK(same > 0 && same < tokens[0].n && same < tokens[1].n, KS_MISMATCH,
             "the tokenizer gives the verdicts '%s' and '%s' no tokens of "
             "their own",
             words[0], words[1]);
    if (n > (size_t)job->longest) goto done;
    item->value[kind * item->chain->n_steps + step] = 0;
    for (int w = 0; w < 2; w++) {
        ks__score_ask *ask = new_ask(item, kind, KS_ASK_SCORE);
        ask->step = step;
        ask->sign = w ? -1 : 1;
        KS_TRY(take_ids(ask, tokens[w].ids, tokens[w].n, -1, err));
        ask->request.from = (int32_t)same;
    }
done:
    ks_tokens_free(&tokens[0]);
    ks_tokens_free(&tokens[1]);
    ks_str_free(&text);
    return st;
}

/* The judge's longest question first: it computes what the others share. */
ks_status ks__score_begin(ks_score_job *job, ks__scored *item, ks_err *err) {
    ks_status st = KS_OK;
    int32_t n = item->chain->n_steps;
    size_t values = (size_t)KS_SCORE_N_KINDS * (size_t)n;
    KS_TRY(ks_alloc(&item->value, values, sizeof *item->value, "scores", err));
    KS_TRY(ks_alloc(&item->asks, 1 + 4 * (size_t)n, sizeof *item->asks,
                    "questions", err));
    for (size_t i = 0; i < values; i++) item->value[i] = NAN;
    if (reads_chain(job)) KS_TRY(ask_chain(job, item, err));
    for (int k = KS_SCORE_JUDGE; k <= KS_SCORE_JUDGE_STEP; k++)
        for (int32_t step = n - 1; wants(job, (ks_score_kind)k) && step >= 0;
             step--)
            KS_TRY(ask_judge(job, item, (ks_score_kind)k, step, err));
    item->n_left = item->n_asks;
done:
    return st;
}

void ks__score_end(ks__scored *item) {
    for (size_t i = 0; i < item->n_asks; i++) free(item->asks[i].ids);
    free(item->asks);
    free(item->value);
    free(item->tokens);
    item->asks = NULL;
    item->value = NULL;
    item->tokens = NULL;
    item->n_asks = item->n_left = 0;
}

/* ------------------------------------------------------------------ answers */

/* Means over each step's tokens that were all scored. */
static void take_chain(const ks_score_job *job, const ks__score_ask *ask,
                       const ks_answer *answer) {
    ks__scored *item = ask->of;
    int32_t n = item->chain->n_steps;
    size_t from = (size_t)ask->request.from;
    for (int32_t k = 0; k < n; k++) {
        size_t begin = KS_MAX(item->tokens[k].begin, from);
        size_t end = item->tokens[k].end;
        double log = 0, entropy = 0;
        if (begin >= end || end > from + (size_t)answer->n) continue;
        for (size_t t = begin; t < end; t++) {
            log += (double)answer->logs[t - from];
            if (answer->entropies)
                entropy += (double)answer->entropies[t - from];
        }
        if (wants(job, KS_SCORE_LOGPROB))
            item->value[KS_SCORE_LOGPROB * n + k] = log / (double)(end - begin);
        if (answer->entropies)
            item->value[KS_SCORE_ENTROPY * n + k] =
                entropy / (double)(end - begin);
    }
}

static ks_status take_items(ks__score_worker *w, ks_err *err);

static ks_status item_ended(ks__score_worker *w, ks__scored *item,
                            ks_err *err) {
    ks_score_job *job = w->job;
    ks_status st = ks__score_line(job, item, err);
    w->in_flight--;
    pthread_mutex_lock(&job->mutex);
    if (st == KS_OK) st = ks_part_add(&job->part, item->line, err);
    job->n_done += st == KS_OK;
    pthread_mutex_unlock(&job->mutex);
    ks__score_end(item);
    return st;
}

static ks_status answered(void *user, const ks_request *request,
                          const ks_answer *answer, ks_err *err) {
    ks_status st = KS_OK;
    ks__score_worker *w = user;
    ks__score_ask *ask = (ks__score_ask *)(uintptr_t)request->tag;
    ks__scored *item = ask->of;
    if (ask->kind == KS_SCORE_LOGPROB) {
        take_chain(w->job, ask, answer);
    } else {
        double sum = 0;
        for (int32_t t = 0; t < answer->n; t++) sum += (double)answer->logs[t];
        item->value[ask->kind * item->chain->n_steps + ask->step] +=
            ask->sign * sum;
    }
    if (--item->n_left > 0) return KS_OK;
    KS_TRY(item_ended(w, item, err));
    KS_TRY(take_items(w, err));
done:
    return st;
}

/* ------------------------------------------------------------------ workers */

static ks__scored *next_item(ks_score_job *job) {
    ks__scored *item = NULL;
    pthread_mutex_lock(&job->mutex);
    while (job->next < job->end && job->items[job->next].line) job->next++;
    if (job->next < job->end) item = &job->items[job->next++];
    pthread_mutex_unlock(&job->mutex);
    return item;
}

/* New chains while there is room for them; one that nothing can be asked of is
 * done at once. */
static ks_status take_items(ks__score_worker *w, ks_err *err) {
    ks_status st = KS_OK;
    while (w->in_flight < IN_FLIGHT) {
        ks__scored *item = next_item(w->job);
        if (!item) break;
        w->in_flight++;
        KS_TRY(ks__score_begin(w->job, item, err));
        for (size_t i = 0; i < item->n_asks; i++)
            KS_TRY(ks_session_add(w->session, &item->asks[i].request, err));
        if (item->n_asks == 0) KS_TRY(item_ended(w, item, err));
    }
done:
    return st;
}

static void tell(void *user, const ks_generate_stats *so_far) {
    ks__score_worker *w = user;
    ks_score_job *job = w->job;
    pthread_mutex_lock(&job->mutex);
    ks_generate_stats_add(&job->stats, so_far, &w->told);
    w->told = *so_far;
    if (job->progress)
        job->progress(job->user, job->n_done, ks_score_chains(job),
                      &job->stats);
    pthread_mutex_unlock(&job->mutex);
}

static ks_status work(void *user, int member, ks_engine *engine,
                      const atomic_bool *stop, ks_err *err) {
    ks_status st = KS_OK;
    ks__score_worker *w = &((ks_score_job *)user)->workers[member];
    w->options.progress = tell;
    KS_TRY(ks_session_open(&w->session, engine, &w->options, w->job->longest,
                           true, err));
    KS_TRY(take_items(w, err));
    KS_TRY(ks_session_run(w->session, answered, w, stop, err));
done:
    ks_session_close(&w->session);
    return st;
}

int ks__score_crew(const ks_score_job *job) {
    size_t store = job->options.memory;
    if (job->engines.at[0]->ops->unified) store /= 2;
    return ks_crew_size(&job->engines, store, ks_score_chains(job));
}

ks_generate_options ks__score_session(const ks_score_job *job, int size) {
    size_t memory = ks_crew_memory(&job->engines, size, job->options.memory);
    return (ks_generate_options){.memory = memory, .room = memory};
}

static ks_status run_all(ks_score_job *job, ks_err *err) {
    ks_status st = KS_OK;
    int size = ks__score_crew(job);
    KS_TRY(ks_alloc(&job->workers, (size_t)size, sizeof *job->workers,
                    "workers", err));
    for (int i = 0; i < size; i++)
        job->workers[i] = (ks__score_worker){
            .job = job, .options = ks__score_session(job, size)};
    st = ks_crew_run(&job->engines, size, work, job, err);
    if (st == KS_OK || !job->part.path) goto done;
    if (st == KS_INTERRUPTED)
        st = ks_fail(err, st,
                     "%s keeps %zu of %zu chains; --resume goes on from there",
                     job->part.path, job->n_done, ks_score_chains(job));
    else
        st = ks_fail_more(err, st,
                          "; %s keeps %zu of %zu chains, --resume goes on from "
                          "there",
                          job->part.path, job->n_done, ks_score_chains(job));
done:
    free(job->workers);
    job->workers = NULL;
    return st;
}

ks_status ks_score_run(ks_score_job *job, ks_score_fn progress, void *user,
                       ks_score_sum *sum, ks_err *err) {
    ks_status st = KS_OK;
    double start = ks_seconds();
    bool whole = false;
    job->progress = progress;
    job->user = user;
    *sum = (ks_score_sum){0};
    KS_TRY(ks__score_take_over(job, &whole, err));
    if (!whole) {
        KS_TRY(run_all(job, err));
        KS_TRY(ks__score_write(job, err));
    }
    sum->chains = ks_score_chains(job);
    sum->taken_over = job->n_taken_over;
    sum->stats = job->stats;
    sum->took = ks_seconds() - start;
    for (size_t i = job->first; i < job->end; i++) {
        sum->steps += job->chains.at[i].n_steps;
        sum->without += ks__score_without(job->items[i].line);
    }
done:
    return st;
}

/* ------------------------------------------------------------------ opening
 */

static ks_status open_model(ks_score_job *job, ks_err *err) {
    ks_status st = KS_OK;
    const ks_score_options *o = &job->options;
    char *home = NULL;
    ks_engine_options engine = o->engine;
    /* of a device's memory the store takes what the rest leaves */
    if (!engine.memory) engine.memory = o->memory / 2;
    KS_TRY(ks_model_home(&home, o->model, err));
    KS_TRY(ks_tokenizer_open(&job->tokenizer,
                             o->tokenizer ? o->tokenizer : home, err));
    KS_TRY(
        ks_prompt_open(&job->prompt, o->model, job->tokenizer, o->which, err));
    KS_TRY(ks_engines_open(&job->engines, o->model, &engine, err));
done:
    free(home);
    return st;
}

/* Tokens of the judge's question and a word behind it. */
static ks_status measure_judge(ks_score_job *job, const ks__scored *item,
                               ks_score_kind kind, int32_t step, ks_err *err) {
    ks_status st = KS_OK;
    ks_str text = {0};
    ks_tokens tokens = {0};
    enum { WORD = 16 }; /* more than either has */
    KS_TRY(ks_score_prompt(&job->prompt, kind, item->question, item->chain,
                           step, &text, err));
    KS_TRY(ks_tokenize(job->tokenizer, text.data, text.length, &tokens, err));
    job->longest = KS_MAX(job->longest, (int32_t)tokens.n + WORD);
done:
    ks_tokens_free(&tokens);
    ks_str_free(&text);
    return st;
}

static ks_status measure(ks_score_job *job, const ks__scored *item,
                         ks_err *err) {
    ks_status st = KS_OK;
    const ks_chain *c = item->chain;
    ks_tokens tokens = {0};
    size_t front = 0;
    KS_TRY(read_tokens(job, c, &tokens, &front, err));
    for (size_t t = 0; t < tokens.n; t++)
        KS_CHECK(tokens.ids[t] < job->engines.at[0]->model->config.n_vocab,
                 KS_MISMATCH,
                 "%s: chain %s has token id %d; the model's vocabulary is 0 to "
                 "%d: the tokenizer does not fit the model",
                 job->options.chains, c->id, tokens.ids[t],
                 job->engines.at[0]->model->config.n_vocab - 1);
    if (reads_chain(job))
        job->longest = KS_MAX(job->longest, (int32_t)(tokens.n + front));
    if (wants(job, KS_SCORE_JUDGE) && c->n_steps)
        KS_TRY(measure_judge(job, item, KS_SCORE_JUDGE, c->n_steps - 1, err));
    for (int32_t k = 0; wants(job, KS_SCORE_JUDGE_STEP) && k < c->n_steps; k++)
        KS_TRY(measure_judge(job, item, KS_SCORE_JUDGE_STEP, k, err));
done:
    ks_tokens_free(&tokens);
    return st;
}

/* The judge reads it: the chain's own, or its problem's. */
static ks_status find_question(const ks_score_job *job, ks__scored *item,
                               ks_err *err) {
    ks_status st = KS_OK;
    const ks_score_options *o = &job->options;
    const ks_chain *c = item->chain;
    if (!wants(job, KS_SCORE_JUDGE)) return KS_OK;
    const ks_problem *p = !c->question && o->problems
                              ? ks_problems_find(&job->problems, c->problem)
                              : NULL;
    item->question = p ? p->question : c->question;
    KS_CHECK(item->question, KS_MISMATCH,
             o->problems
                 ? "%s: chain %s has no \"question\", and problem %s is "
                   "not in --problems"
                 : "%s: chain %s has no \"question\", which the judge "
                   "reads; --problems FILE has that of problem %s",
             o->chains, c->id, c->problem);
done:
    return st;
}

static ks_status open_items(ks_score_job *job, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_alloc(&job->items, job->chains.n, sizeof *job->items, "chains",
                    err));
    for (size_t i = 0; i < job->chains.n; i++) {
        const ks_chain *c = &job->chains.at[i];
        job->items[i].chain = c;
        KS_CHECK(c->steps, KS_MISMATCH,
                 "%s: chain %s has no steps; keystep split makes them",
                 job->options.chains, c->id);
        KS_TRY(find_question(job, &job->items[i], err));
        KS_TRY(measure(job, &job->items[i], err));
    }
    job->longest = KS_MAX(2, KS_MIN(job->longest, context_of(job)));
done:
    return st;
}

static ks_status check_files(const ks_score_options *o, ks_err *err) {
    const ks_use uses[] = {{"--out", o->out, true},
                           {"--chains", o->chains, false},
                           {"--problems", o->problems, false},
                           {"--model", o->model, false},
                           {"--tokenizer", o->tokenizer, false}};
    return ks_refuse_overlap(uses, KS_COUNT(uses), err);
}

ks_status ks_score_open(ks_score_job **out, const ks_score_options *options,
                        ks_err *err) {
    ks_status st = KS_OK;
    ks_score_job *job = NULL;
    *out = NULL;
    KS_TRY(ks_alloc(&job, 1, sizeof *job, "a job", err));
    job->options = *options;
    pthread_mutex_init(&job->mutex, NULL);
    KS_TRY(check_files(options, err));
    KS_TRY(ks_chains_read(&job->chains, options->chains, KS_KEEP_FIELDS, err));
    KS_TRY(ks_shard_range(options->shard, job->chains.n, options->chains,
                          "chains", &job->first, &job->end, err));
    job->next = job->first;
    if (options->problems)
        KS_TRY(ks_problems_read(&job->problems, options->problems,
                                KS_KEEP_FIELDS, err));
    KS_TRY(open_model(job, err));
    KS_TRY(open_items(job, err));
    KS_TRY(ks__score_settle(job, err));
    *out = job;
    job = NULL;
done:
    ks_score_close(&job);
    return st;
}

size_t ks_score_chains(const ks_score_job *job) {
    return job->end - job->first;
}

void ks_score_close(ks_score_job **at) {
    ks_score_job *job = *at;
    if (!job) return;
    for (size_t i = 0; job->items && i < job->chains.n; i++) {
        ks__score_end(&job->items[i]);
        json_decref(job->items[i].line);
    }
    ks_part_close(&job->part, false);
    free(job->items);
    json_decref(job->settings);
    json_decref(job->noted);
    pthread_mutex_destroy(&job->mutex);
    ks_prompt_close(&job->prompt);
    ks_problems_free(&job->problems);
    ks_chains_free(&job->chains);
    ks_tokenizer_close(&job->tokenizer);
    ks_engines_close(&job->engines);
    free(job);
    *at = NULL;
}
