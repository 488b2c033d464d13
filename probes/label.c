/* label.c - the job: options, inputs. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "label_state.h"

static const char *const skips[] = {
    "labelled",
    "without an answer to the problem",
    "unfinished",
    "without steps",
    "with a wrong answer",
    "whose answer no step states",
    "too long for the context",
    "answered without the chain",
    "of a single step",
    "of nothing but steps that give the answer away",
    "not enough for the answer",
    "of which greedy removal took nothing",
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

const char *ks_label_compat_name(int i) {
    return i < (int)KS_COUNT(compats) ? compats[i].name : NULL;
}

static ks_status refuse_compat(const char *name, size_t n, ks_err *err) {
    ks_status st = KS_OK;
    ks_str known = {0};
    for (size_t i = 0; i < KS_COUNT(compats); i++)
        KS_TRY(
            ks_str_printf(&known, err, "%s%s", i ? ", " : "", compats[i].name));
    KS_CHECK(n > 0, KS_USAGE, "a name is expected, of %s", known.data);
    st = ks_fail(err, KS_USAGE, "'%.*s' is none of %s", (int)n, name,
                 known.data);
done:
    ks_str_free(&known);
    return st;
}

ks_status ks_label_compat_find(const char *list, uint32_t *out, ks_err *err) {
    *out = 0;
    for (;;) {
        size_t n = strcspn(list, ","), i = 0;
        while (i < KS_COUNT(compats) &&
               (strncmp(compats[i].name, list, n) != 0 || compats[i].name[n]))
            i++;
        if (i == KS_COUNT(compats)) return refuse_compat(list, n, err);
        *out |= compats[i].bit;
        if (!list[n]) return KS_OK;
        list += n + 1;
    }
}

json_t *ks__compat_names(uint32_t compat) {
    json_t *list = json_array();
    for (size_t i = 0; list && i + 1 < KS_COUNT(compats); i++) /* but all */
        if (compat & compats[i].bit)
            json_array_append_new(list, json_string(compats[i].name));
    return list;
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
    /* batches may take no more than they leave to what measures steps */
    for (int i = 0; ks__measures_between(o) && i < job->engines.n; i++) {
        ks_engine *e = job->engines.at[i];
        KS_TRY(ks_engine_fit(e, e->memory / 2, e->limits.max_tokens, err));
    }
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

static ks_status check_text(const char *name, const char *text, ks_err *err) {
    size_t n = text ? strlen(text) : 0, bad = text ? ks_utf8_check(text, n) : 0;
    if (bad == n) return KS_OK;
    return ks_fail(err, KS_USAGE, "--%s: byte %zu is not UTF-8", name, bad);
}

/* One that is too long is found before anything is computed. */
static ks_status measure_item(struct ks_label_job *job, ks__item *item,
                              ks_err *err) {
    ks_status st = KS_OK;
    int32_t least = 0, most = 0;
    int32_t context = job->engines.at[0]->model->config.n_context;
    if (!item->problem->answer) return KS_OK;
    KS_TRY(ks__longest_question(item, &least, &most, err));
    item->longest = KS_MIN(most, context);
    item->too_long = least > context;
    if (!item->too_long) job->longest = KS_MAX(job->longest, item->longest);
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

/* No output is another's place, or an input's. */
static ks_status check_files(const ks_label_options *o, ks_err *err) {
    const ks_use uses[] = {{"--out", o->out, true},
                           {"--clean", o->clean, true},
                           {"--prefixes", o->prefixes, true},
                           {"--skipped", o->skipped, true},
                           {"--problems", o->problems, false},
                           {"--chains", o->chains, false},
                           {"--ranking", o->ranking, false},
                           {"--model", o->model, false},
                           {"--tokenizer", o->tokenizer, false}};
    return ks_refuse_overlap(uses, KS_COUNT(uses), err);
}

ks_status ks_label_open(ks_label_job **out, const ks_label_options *options,
                        ks_err *err) {
    ks_status st = KS_OK;
    struct ks_label_job *job = NULL;
    *out = NULL;
    KS_TRY(ks_alloc(&job, 1, sizeof *job, "a job", err));
    job->options = *options;
    pthread_mutex_init(&job->mutex, NULL);
    KS_TRY(check_files(options, err));
    KS_CHECK(options->samples > 0 && options->confirm >= 0 &&
                 options->orders >= 0 && options->orders <= KS__MOST_ORDERS &&
                 (options->orders > 0 || options->method != KS_LABEL_RANDOM),
             KS_USAGE, "%d samples, %d to confirm, %d random orders",
             options->samples, options->confirm, options->orders);
    KS_TRY(check_text("cue", options->cue, err));
    KS_TRY(check_text("cue-empty", options->cue_empty, err));
    KS_TRY(ks_problems_read(&job->problems, options->problems, KS_KEEP_FIELDS,
                            err));
    KS_TRY(ks_chains_read(&job->chains, options->chains, KS_KEEP_OBJECTS, err));
    KS_TRY(ks_shard_range(options->shard, job->chains.n, options->chains,
                          "chains", &job->first, &job->end, err));
    job->next = job->first;
    if (options->ranking) KS_TRY(ks__rankings_read(job, err));
    KS_TRY(open_model(job, err));
    choose_cues(job);
    if (options->exact) KS_TRY(find_closers(job, err));
    KS_TRY(open_items(job, err));
    KS_TRY(ks__settings_open(job, err));
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
    ks_part_close(&job->part, false);
    free(job->items);
    free(job->closers);
    json_decref(job->settings);
    json_decref(job->all_settings);
    json_decref(job->made);
    json_decref(job->made_by);
    json_decref(job->sampling);
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

ks_label_skip ks_label_skipped(const ks_label_job *job, int64_t i,
                               const char **id) {
    size_t at = job->first + (size_t)i;
    *id = job->chains.at[at].id;
    return job->items[at].skip;
}

int64_t ks_label_chains(const ks_label_job *job) {
    return (int64_t)(job->end - job->first);
}
