/* label.c - the job: inputs, settings, the journal, and who does which chain.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "label_state.h"

/* Chains that one worker has under way: enough to fill batches, few enough
 * that what they share stays in the store. */
enum { IN_FLIGHT = 32, MOST_ACTIVE = 512 };

static const char *const skips[] = {
    "labelled",
    "without an answer to the problem",
    "unfinished",
    "without steps",
    "with a wrong answer",
    "whose answer no step states",
    "too long for the context",
    "answered without the chain",
    "of nothing but steps that give the answer away",
    "not enough for the answer",
    "of which nothing was removed",
    "with a prefix outside 10 to 200 steps",
};
_Static_assert(KS_COUNT(skips) == KS_N_SKIPS, "a name for each");

const char *ks_label_skip_name(ks_label_skip skip) {
    return skips[skip];
}

const char *ks_label_method_name(ks_label_method method) {
    static const char *const names[KS_N_LABEL_METHODS] = {
        "influence", "suppression", "random", "external", "curve"};
    return names[method];
}

static const struct {
    const char *name;
    uint32_t bit;
} compats[] = {
    {"spans", KS_COMPAT_SPANS},   {"bos", KS_COMPAT_BOS},
    {"equal", KS_COMPAT_EQUAL},   {"box", KS_COMPAT_BOX},
    {"ppl", KS_COMPAT_PPL},       {"states", KS_COMPAT_STATES},
    {"prefix", KS_COMPAT_PREFIX}, {"last", KS_COMPAT_LAST},
    {"keep", KS_COMPAT_KEEP},     {"all", (KS_COMPAT_KEEP << 1) - 1},
};

ks_status ks_label_compat_find(const char *list, uint32_t *out, ks_err *err) {
    *out = 0;
    while (*list) {
        size_t n = strcspn(list, ","), i = 0;
        while (i < KS_COUNT(compats) &&
               (strncmp(compats[i].name, list, n) != 0 || compats[i].name[n]))
            i++;
        if (i == KS_COUNT(compats))
            return ks_fail(err, KS_USAGE,
                           "'%.*s' is none of spans, bos, equal, box, ppl, "
                           "states, prefix, last, keep, all",
                           (int)n, list);
        *out |= compats[i].bit;
        list += n + (list[n] == ',');
    }
    return KS_OK;
}

ks_label_options ks_label_defaults(void) {
    return (ks_label_options){.samples = 5,
                              .confirm = 20,
                              .orders = 3,
                              .rollout_new = 1024,
                              .temperature = 0.6,
                              .top_p = 0.95,
                              .enough = 0.8,
                              .seed = 42,
                              .drop = true};
}

/* ------------------------------------------------------------------ opening
 */

static ks_status open_model(struct ks_label_job *job, ks_err *err) {
    ks_status st = KS_OK;
    const ks_label_options *o = &job->options;
    char *home = NULL;
    ks_engine_options engine = o->engine;
    /* of a device's memory the store takes what the rest leaves */
    if (!engine.memory) engine.memory = o->memory / 2;
    KS_TRY(ks_model_home(&home, o->model, err));
    KS_TRY(ks_tokenizer_open(&job->tokenizer,
                             o->tokenizer ? o->tokenizer : home, err));
    KS_TRY(ks_prompt_open(&job->prompt, o->model, job->tokenizer, o->template_,
                          err));
    KS_TRY(ks_engines_open(&job->engines, o->model, &engine, err));
done:
    free(home);
    return st;
}

/* Ids whose text begins with a closing brace. */
static ks_status find_closers(struct ks_label_job *job, ks_err *err) {
    ks_status st = KS_OK;
    int32_t n = KS_MIN(ks_tokenizer_size(job->tokenizer),
                       job->engines.at[0]->model->config.n_vocab);
    KS_TRY(ks_alloc(&job->closers, (size_t)n, sizeof(int32_t), "ids", err));
    for (int32_t id = 0; id < n; id++) {
        char *text = NULL;
        size_t length = 0;
        if (ks_detokenize(job->tokenizer, &id, 1, &text, &length, NULL) !=
            KS_OK)
            continue; /* a hole in the vocabulary */
        if (length > 0 && text[0] == '}') job->closers[job->n_closers++] = id;
        free(text);
    }
done:
    return st;
}

static void choose_cues(struct ks_label_job *job) {
    const ks_label_options *o = &job->options;
    bool harmony = job->prompt.which == KS_TEMPLATE_HARMONY;
    static const char channel[] =
        "<|end|><|start|>final<|message|>The answer is \\boxed{";
    const char *cue =
        harmony ? channel : " Therefore, the final answer is \\boxed{";
    const char *empty = harmony ? channel : "The answer is \\boxed{";
    job->cue = o->cue ? o->cue : cue;
    job->cue_empty = o->cue_empty ? o->cue_empty : o->cue ? o->cue : empty;
}

static ks_status add_settings(struct ks_label_job *job, ks_err *err) {
    const ks_label_options *o = &job->options;
    ks_model_info info = ks_engine_info(job->engines.at[0]);
    job->settings = json_pack(
        "{s:s,s:s,s:s,s:s,s:s,s:b,s:i,s:i,s:i,s:f,s:f,s:i,s:i,s:i,s:f,s:I,s:i,"
        "s:i,s:b,"
        "s:b,s:b,s:b,s:b,s:s}",
        "model", info.name, "model_sha256", info.sha256, "tokenizer",
        ks_tokenizer_hash(job->tokenizer), "cue", job->cue, "cue_empty",
        job->cue_empty, "exact", o->exact, "samples", o->samples, "confirm",
        o->confirm, "orders", o->orders, "temperature", o->temperature, "top_p",
        o->top_p, "top_k", o->top_k, "rollouts", o->rollouts, "rollout_new",
        o->rollout_new, "enough", o->enough, "seed", (json_int_t)o->seed,
        "influence", (int)o->influence.kind, "compat", (int)o->compat, "of_log",
        o->influence.of_log, "per_token", o->influence.per_token, "drop",
        o->drop, "suppress", o->suppress, "all", o->all, "isa",
        job->engines.at[0]->ops->isa);
    if (job->settings) return KS_OK;
    return ks_fail(err, KS_NOMEM, "out of memory for settings");
}

/* What questions are made of, besides the settings. */
static ks_status hash_inputs(struct ks_label_job *job, ks_err *err) {
    ks_sha256 *hash = NULL;
    ks_status st = ks_sha256_open(&hash, err);
    if (st != KS_OK) return st;
    for (size_t i = 0; i < job->chains.n; i++) {
        const ks__item *item = &job->items[i];
        const ks_chain *c = item->chain;
        const char *answer = item->problem->answer;
        ks_sha256_add(hash, c->id, strlen(c->id) + 1);
        ks_sha256_add(hash, c->problem, strlen(c->problem) + 1);
        ks_sha256_add(hash, c->prompt, c->prompt_length + 1);
        ks_sha256_add(hash, c->text, c->text_length + 1);
        if (answer) ks_sha256_add(hash, answer, strlen(answer) + 1);
        ks_sha256_add(hash, item->original.steps.at,
                      item->original.steps.n * sizeof(ks_span));
    }
    ks_sha256_close(&hash, job->inputs);
    return KS_OK;
}

static ks_status read_ranking_line(void *user, size_t line, json_t *object,
                                   ks_err *err) {
    struct ks_label_job *job = user;
    const char *chain = json_string_value(json_object_get(object, "chain"));
    if (!chain)
        return ks_fail(err, KS_FORMAT, "%s line %zu: no \"chain\"",
                       job->options.ranking, line);
    if (json_object_set(job->rankings, chain, object))
        return ks_fail(err, KS_NOMEM, "out of memory for rankings");
    return KS_OK;
}

/* One that is too long is found before anything is computed. */
static ks_status measure_item(struct ks_label_job *job, ks__item *item,
                              ks_err *err) {
    ks_status st = KS_OK;
    int32_t n = 0;
    if (!item->problem || !item->problem->answer) return KS_OK;
    KS_TRY(ks__longest_question(item, &n, err));
    if (n > job->engines.at[0]->model->config.n_context)
        item->skip = KS_SKIP_TOO_LONG;
    else
        job->longest = KS_MAX(job->longest, n);
done:
    return st;
}

static ks_status open_items(struct ks_label_job *job, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_alloc(&job->items, job->chains.n, sizeof *job->items, "chains",
                    err));
    for (size_t i = 0; i < job->chains.n; i++) {
        ks__item *item = &job->items[i];
        item->job = job;
        item->chain = &job->chains.at[i];
        item->problem = ks_problems_find(&job->problems, item->chain->problem);
        KS_CHECK(item->problem, KS_MISMATCH,
                 "%s: chain %s: problem %s is not in %s", job->options.chains,
                 item->chain->id, item->chain->problem, job->options.problems);
        item->known = json_object();
        KS_CHECK(item->known, KS_NOMEM, "out of memory for a chain");
        KS_TRY(ks__text_open(&item->original, item->chain, err));
        KS_TRY(measure_item(job, item, err));
    }
    if (job->options.rollouts > 0) /* they go on to the end */
        job->longest = KS_MIN(job->longest + job->options.rollout_new,
                              job->engines.at[0]->model->config.n_context);
done:
    return st;
}

ks_status ks_label_open(ks_label_job **out, const ks_label_options *options,
                        ks_err *err) {
    ks_status st = KS_OK;
    struct ks_label_job *job = NULL;
    *out = NULL;
    KS_TRY(ks_alloc(&job, 1, sizeof *job, "a job", err));
    job->options = *options;
    pthread_mutex_init(&job->mutex, NULL);
    KS_CHECK(options->samples > 0 && options->confirm >= 0 &&
                 options->orders >= 0 && options->orders <= KS__MOST_ORDERS &&
                 (options->orders > 0 || options->method != KS_LABEL_RANDOM),
             KS_USAGE, "%d samples, %d to confirm, %d random orders",
             options->samples, options->confirm, options->orders);
    KS_TRY(ks_problems_read(&job->problems, options->problems, KS_KEEP_FIELDS,
                            err));
    KS_TRY(ks_chains_read(&job->chains, options->chains, KS_KEEP_OBJECTS, err));
    if (options->ranking) {
        job->rankings = json_object();
        KS_CHECK(job->rankings, KS_NOMEM, "out of memory for rankings");
        KS_TRY(ks_jsonl_read(options->ranking, read_ranking_line, job, err));
    }
    KS_TRY(open_model(job, err));
    choose_cues(job);
    if (options->exact) KS_TRY(find_closers(job, err));
    KS_TRY(add_settings(job, err));
    KS_TRY(open_items(job, err));
    KS_TRY(hash_inputs(job, err));
    *out = job;
    job = NULL;
done:
    ks_label_close(&job);
    return st;
}

void ks_label_close(ks_label_job **at) {
    struct ks_label_job *job = *at;
    if (!job) return;
    for (size_t i = 0; job->items && i < job->chains.n; i++)
        ks__item_free(&job->items[i]);
    if (job->journal) fclose(job->journal);
    free(job->items);
    free(job->closers);
    free(job->part);
    json_decref(job->settings);
    json_decref(job->rankings);
    pthread_mutex_destroy(&job->mutex);
    ks_prompt_close(&job->prompt);
    ks_problems_free(&job->problems);
    ks_chains_free(&job->chains);
    ks_tokenizer_close(&job->tokenizer);
    ks_engines_close(&job->engines);
    free(job);
    *at = NULL;
}

/* ----------------------------------------------------------------- journal */

static const ks_chain *chain_of_line(const struct ks_label_job *job,
                                     json_t *object) {
    const char *id = json_string_value(json_object_get(object, "chain"));
    return id ? ks_chains_find(&job->chains, id) : NULL;
}

static ks_status adopt(void *user, size_t line, json_t *object, ks_err *err) {
    ks_status st = KS_OK;
    struct ks_label_job *job = user;
    if (line == 1) {
        const char *inputs =
            json_string_value(json_object_get(object, "inputs"));
        KS_CHECK(json_equal(json_object_get(object, "keystep_labels"),
                            job->settings) &&
                     inputs && strcmp(inputs, job->inputs) == 0,
                 KS_MISMATCH,
                 "%s was begun with other settings or inputs; --force without "
                 "--resume starts afresh",
                 job->part);
        return KS_OK;
    }
    const ks_chain *chain = chain_of_line(job, object);
    const char *key = json_string_value(json_object_get(object, "key"));
    json_t *answer = json_object_get(object, "answer");
    KS_CHECK(chain && key && json_is_number(json_object_get(answer, "v")),
             KS_MISMATCH, "%s line %zu: not an answer about these chains",
             job->part, line);
    ks__item *item = &job->items[chain - job->chains.at];
    KS_CHECK(!json_object_set(item->known, key, answer), KS_NOMEM,
             "out of memory for answers");
    job->resumed++;
done:
    return st;
}

static ks_status open_journal(struct ks_label_job *job, ks_err *err) {
    ks_status st = KS_OK;
    const ks_label_options *o = &job->options;
    ks_str path = {0};
    if (!o->out || strcmp(o->out, "-") == 0) return KS_OK;
    KS_TRY(ks_refuse_existing(o->out, o->force || o->resume, err));
    if (o->clean)
        KS_TRY(ks_refuse_existing(o->clean, o->force || o->resume, err));
    if (o->prefixes)
        KS_TRY(ks_refuse_existing(o->prefixes, o->force || o->resume, err));
    KS_TRY(ks_str_printf(&path, err, "%s.part", o->out));
    job->part = path.data;
    bool there = ks_file_exists(job->part);
    KS_CHECK(!there || o->resume || o->force, KS_EXISTS,
             "%s is left from an interrupted run: --resume continues it, "
             "--force starts afresh",
             job->part);
    if (there && o->resume) {
        KS_TRY(ks_jsonl_cut(job->part, err));
        KS_TRY(ks_jsonl_read(job->part, adopt, job, err));
    }
    bool append = there && o->resume;
    job->journal = fopen(job->part, append ? "ae" : "we");
    KS_CHECK(job->journal, KS_IO, "%s: cannot open: %s", job->part,
             strerror(errno));
    if (append) return KS_OK;
    json_t *head = json_pack("{s:O,s:s}", "keystep_labels", job->settings,
                             "inputs", job->inputs);
    bool good = head && !json_dumpf(head, job->journal, JSON_COMPACT) &&
                putc('\n', job->journal) != EOF && !fflush(job->journal);
    json_decref(head);
    KS_CHECK(good, KS_IO, "%s: cannot write", job->part);
done:
    if (!job->part) ks_str_free(&path);
    return st;
}

/* ----------------------------------------------------------------- workers */

static ks__item *next_item(struct ks_label_job *job) {
    pthread_mutex_lock(&job->mutex);
    ks__item *item =
        job->next < job->chains.n ? &job->items[job->next++] : NULL;
    pthread_mutex_unlock(&job->mutex);
    return item;
}

static void item_ended(ks_label_worker *w) {
    struct ks_label_job *job = w->job;
    w->in_flight--;
    pthread_mutex_lock(&job->mutex);
    job->n_done++;
    pthread_mutex_unlock(&job->mutex);
}

static ks_status fail_of(const ks__item *item, ks_err *err) {
    if (item->status != KS_OK && err) *err = item->err;
    return item->status;
}

/* New chains while there is room for them. */
static ks_status take_chains(ks_label_worker *w, ks_err *err) {
    while (w->in_flight < IN_FLIGHT) {
        ks__item *item = next_item(w->job);
        if (!item) break;
        w->in_flight++;
        item->worker = w;
        ks__item_advance(item);
        if (fail_of(item, err) != KS_OK) return item->status;
        if (ks__item_done(item)) item_ended(w);
    }
    return KS_OK;
}

static ks_status answered(void *user, const ks_request *request,
                          const ks_answer *answer, ks_err *err) {
    ks_status st = KS_OK;
    ks_label_worker *w = user;
    ks__item *item = NULL;
    KS_TRY(ks__answered(request, answer, &item, err));
    if (!item) return KS_OK;
    ks__item_advance(item);
    KS_TRY(fail_of(item, err));
    if (!ks__item_done(item)) return KS_OK;
    item_ended(w);
    KS_TRY(take_chains(w, err));
done:
    return st;
}

static void tell(void *user, const ks_generate_stats *so_far) {
    ks_label_worker *w = user;
    struct ks_label_job *job = w->job;
    pthread_mutex_lock(&job->mutex);
    ks_generate_stats_add(&job->stats, so_far, &w->told);
    w->told = *so_far;
    if (job->progress)
        job->progress(job->user, (int64_t)job->n_done, (int64_t)job->chains.n,
                      &job->stats);
    pthread_mutex_unlock(&job->mutex);
}

static ks_status work(void *user, int member, ks_engine *engine,
                      const atomic_bool *stop, ks_err *err) {
    ks_status st = KS_OK;
    ks_label_worker *w = &((struct ks_label_job *)user)->workers[member];
    w->engine = engine;
    w->options.progress = tell;
    KS_TRY(ks_session_open(&w->session, engine, &w->options, w->job->longest,
                           true, err));
    KS_TRY(take_chains(w, err));
    KS_TRY(ks_session_run(w->session, answered, w, stop, err));
done:
    ks_session_close(&w->session);
    ks_influence_close(&w->influence);
    ks_suppression_close(&w->suppression);
    return st;
}

static size_t store_memory(const struct ks_label_job *job) {
    bool host = job->engines.at[0]->ops->unified;
    return host ? job->options.memory / 2 : job->options.memory;
}

static ks_status open_workers(struct ks_label_job *job, int size, ks_err *err) {
    ks_status st = KS_OK;
    const ks_label_options *o = &job->options;
    KS_TRY(ks_alloc(&job->workers, (size_t)size, sizeof *job->workers,
                    "workers", err));
    for (int i = 0; i < size; i++)
        job->workers[i] =
            (ks_label_worker){.job = job,
                              .options = {.temperature = (float)o->temperature,
                                          .top_p = (float)o->top_p,
                                          .top_k = o->top_k,
                                          .seed = o->seed,
                                          .most_active = MOST_ACTIVE,
                                          .stops = job->prompt.stops,
                                          .n_stops = job->prompt.n_stops,
                                          .memory = ks_crew_memory(
                                              &job->engines, size, o->memory)}};
done:
    return st;
}

/* ----------------------------------------------------------------- writing */

static ks_status write_lines(const struct ks_label_job *job, const char *path,
                             json_t *(*line)(const ks__item *), ks_err *err) {
    ks_status st = KS_OK;
    ks_str all = {0};
    KS_TRY(ks_str_add(&all, "", 0, err));
    for (size_t i = 0; i < job->chains.n; i++) {
        json_t *object = line(&job->items[i]);
        if (!object) continue;
        char *text = json_dumps(object, JSON_COMPACT);
        KS_CHECK(text, KS_NOMEM, "out of memory for a line");
        st = ks_str_printf(&all, err, "%s\n", text);
        free(text);
        if (st != KS_OK) goto done;
    }
    if (strcmp(path, "-") == 0)
        KS_CHECK(fwrite(all.data, 1, all.length, stdout) == all.length &&
                     fflush(stdout) == 0,
                 KS_IO, "standard output: cannot write: %s", strerror(errno));
    else
        KS_TRY(ks_write_file(path, all.data, all.length, true, err));
done:
    ks_str_free(&all);
    return st;
}

static json_t *label_line(const ks__item *item) {
    return item->line;
}

static json_t *clean_line(const ks__item *item) {
    return item->clean_line;
}

static json_t *prefix_line(const ks__item *item) {
    return item->prefix_line;
}

static void sum_up(const struct ks_label_job *job, ks_label_summary *sum) {
    for (size_t i = 0; i < job->chains.n; i++) {
        const ks__item *item = &job->items[i];
        sum->chains++;
        sum->skipped[item->skip]++;
        sum->asked += item->asked;
        if (item->skip != KS_SKIP_NONE) continue;
        sum->labelled++;
        for (size_t k = 0; k < item->original.steps.n; k++)
            sum->cut += item->cut[k];
        sum->steps += item->q;
        for (int32_t k = 0; k < item->q; k++) {
            int8_t label = ks__label_of(item, k);
            sum->important += label == 1;
            sum->removable += label == 0;
            sum->unlabelled += label == -1;
        }
        sum->unconfirmed += ks__round4(item->confirmed) < job->options.enough;
    }
    sum->resumed = job->resumed;
    sum->stats = job->stats;
}

ks_status ks_label_run(ks_label_job *job, ks_label_progress_fn progress,
                       void *user, ks_label_summary *summary, ks_err *err) {
    ks_status st = KS_OK;
    const ks_label_options *o = &job->options;
    double start = ks_seconds();
    int size = ks_crew_size(&job->engines, store_memory(job), job->chains.n);
    job->progress = progress;
    job->user = user;
    KS_TRY(open_journal(job, err));
    KS_TRY(open_workers(job, size, err));
    if (job->longest > 0) st = ks_crew_run(&job->engines, size, work, job, err);
    KS_CHECK(st != KS_INTERRUPTED || !job->part, st,
             "%s keeps what was answered; --resume goes on from there",
             job->part);
    KS_TRY(st);
    *summary = (ks_label_summary){0};
    sum_up(job, summary);
    summary->seconds = ks_seconds() - start;
    if (o->clean) KS_TRY(write_lines(job, o->clean, clean_line, err));
    if (o->prefixes) KS_TRY(write_lines(job, o->prefixes, prefix_line, err));
    if (o->out) KS_TRY(write_lines(job, o->out, label_line, err));
    if (job->part) unlink(job->part);
done:
    free(job->workers);
    job->workers = NULL;
    return st;
}

ks_label_skip ks_label_skipped(const ks_label_job *job, int64_t i,
                               const char **id) {
    *id = job->chains.at[i].id;
    return job->items[i].skip;
}

int64_t ks_label_chains(const ks_label_job *job) {
    return (int64_t)job->chains.n;
}

/* -------------------------------------------------------------------- cost */

/* Tokens of a set that is asked about: the step that changes is somewhere in
 * the middle, so half of the set lies behind it. */
typedef struct reckoning {
    int64_t prompt, text, cue, step, samples,
        new; /* tokens; samples of a set */
    ks_label_cost cost;
} reckoning;

/* n sets of `kept` tokens of text, `anew` of which others have not computed.
 * scored: their perplexity is asked too. */
static void add_sets(reckoning *r, int64_t n, int64_t kept, int64_t anew,
                     bool scored) {
    r->cost.shared += n * (anew + r->cue + r->samples * (r->new - 1));
    r->cost.alone += n * r->samples * (r->prompt + kept + r->cue + r->new - 1);
    if (scored) r->cost.alone += n * (r->prompt + kept);
}

/* As if the sufficient prefix were the whole chain, half of it fell to the
 * selection and each of the rest were tried once and a half. */
static void add_chain(reckoning *r, int64_t steps, const ks_label_options *o) {
    r->cost.chains++;
    r->cost.tokens += r->text;
    r->cost.shared += r->prompt + r->text;
    if (o->method == KS_LABEL_CURVE) {
        add_sets(r, steps, r->text / 2, 0, false);
        return;
    }
    int64_t half = steps / 2, walks = o->orders;
    add_sets(r, 1, 0, 0, false);
    add_sets(r, steps, r->step, r->step, false);
    add_sets(r, steps, r->text / 2, 0, true);
    if (o->method == KS_LABEL_INFLUENCE || o->method == KS_LABEL_SUPPRESSION) {
        add_sets(r, KS__THRESHOLDS / 2, r->text / 2, r->text / 4, true);
        r->cost.shared += 2 * r->text * half; /* the gradients */
        r->cost.alone += 2 * (r->prompt + r->text) * steps;
    }
    if (o->method != KS_LABEL_RANDOM)
        add_sets(r, half * 3 / 2, r->text / 4, r->text / 8, true);
    add_sets(r, walks * steps * 3 / 2, r->text / 2, r->text / 4, true);
    if (o->drop) {
        r->cost.shared += steps * (r->text / 2 + r->cue);
        r->cost.alone += steps * (r->prompt + r->text + r->cue);
    }
}

static int64_t count_tokens(const struct ks_label_job *job, const char *text,
                            size_t n) {
    ks_tokens tokens = {0};
    int64_t count = 0;
    if (ks_tokenize(job->tokenizer, text, n, &tokens, NULL) == KS_OK)
        count = (int64_t)tokens.n;
    ks_tokens_free(&tokens);
    return count;
}

ks_label_cost ks_label_estimate(const ks_label_job *job) {
    const ks_label_options *o = &job->options;
    reckoning r = {.samples = o->exact ? 1 : o->samples};
    r.cue = count_tokens(job, job->cue, strlen(job->cue));
    for (size_t i = 0; i < job->chains.n; i++) {
        const ks__item *item = &job->items[i];
        int64_t steps = (int64_t)item->original.steps.n;
        if (item->skip != KS_SKIP_NONE || !item->problem->answer || !steps)
            continue;
        const char *answer = item->problem->answer;
        r.new = (o->exact ? 1 : 2) * count_tokens(job, answer, strlen(answer));
        r.prompt =
            count_tokens(job, item->chain->prompt, item->chain->prompt_length);
        r.text = count_tokens(job, item->original.data, item->original.length);
        r.step = r.text / steps;
        add_chain(&r, steps, o);
    }
    return r.cost;
}
