/* label_settings.c - every setting and every input that decides a bit of the
 * labels, as the files tell of them. */
#include <string.h>

#include "label_state.h"

static json_t *stops_of(const ks_prompt *prompt) {
    json_t *list = json_array();
    for (size_t i = 0; list && i < prompt->n_stops; i++)
        json_array_append_new(list, json_integer(prompt->stops[i]));
    return list;
}

/* Numbers and switches of the method. */
static json_t *numbers_of(const ks_label_options *o) {
    return json_pack(
        "{s:b,s:i,s:i,s:i,s:f,s:f,s:i,s:i,s:i,s:f,s:I,s:b,s:b,s:b,s:b,s:b,s:i}",
        "exact", o->exact, "samples", o->samples, "confirm", o->confirm,
        "orders", o->orders, "temperature", o->temperature, "top_p", o->top_p,
        "top_k", o->top_k, "rollouts", o->rollouts, "rollout_new",
        o->rollout_new, "enough", o->enough, "seed", (json_int_t)o->seed,
        "of_log", o->influence.of_log, "per_token", o->influence.per_token,
        "drop", o->drop, "suppress", o->suppress, "all", o->all, "subsets",
        o->subsets);
}

/* What decides how a question is asked and what becomes of its answer. A
 * ranking decides only what is asked: answers outlive it. */
static ks_status add_settings(struct ks_label_job *job, ks_err *err) {
    ks_status st = KS_OK;
    const ks_label_options *o = &job->options;
    ks_model_info info = ks_engine_info(job->engines.at[0]);
    json_t *numbers = numbers_of(o);
    job->settings =
        json_pack("{s:s,s:s,s:s,s:s,s:o,s:s,s:s,s:s,s:s,s:o}", "model",
                  info.name, "model_sha256", info.sha256, "tokenizer",
                  ks_tokenizer_hash(job->tokenizer), "template",
                  ks_template_name(job->prompt.which), "stops",
                  stops_of(&job->prompt), "cue", job->cue, "cue_empty",
                  job->cue_empty, "method", ks_label_method_name(o->method),
                  "influence", ks_influence_name(o->influence.kind), "compat",
                  ks__compat_names(o->compat));
    KS_CHECK(numbers && job->settings &&
                 !json_object_update(job->settings, numbers),
             KS_NOMEM, "out of memory for settings");
    job->all_settings = json_deep_copy(job->settings);
    KS_CHECK(job->all_settings &&
                 !json_object_set_new(job->all_settings, "ranking_sha256",
                                      job->rankings ? json_string(job->ranking)
                                                    : json_null()),
             KS_NOMEM, "out of memory for settings");
    job->made = json_pack("{s:s,s:s,s:s}", "version", KS_VERSION, "backend",
                          job->engines.at[0]->ops->name, "isa",
                          job->engines.at[0]->ops->isa);
    job->sampling = json_deep_copy(job->all_settings);
    KS_CHECK(job->made && job->sampling &&
                 !json_object_update(job->sampling, job->made),
             KS_NOMEM, "out of memory for settings");
done:
    json_decref(numbers);
    return st;
}

/* What the questions about a chain are made of, besides the settings. */
static ks_status hash_item(ks__item *item, ks_err *err) {
    ks_sha256 *hash = NULL;
    ks_status st = ks_sha256_open(&hash, err);
    if (st != KS_OK) return st;
    const ks_chain *c = item->chain;
    const char *answer = item->problem->answer;
    ks_sha256_add(hash, c->id, strlen(c->id) + 1);
    ks_sha256_add(hash, c->problem, strlen(c->problem) + 1);
    ks_sha256_add(hash, c->prompt, c->prompt_length + 1);
    ks_sha256_add(hash, c->text, c->text_length + 1);
    if (answer) ks_sha256_add(hash, answer, strlen(answer) + 1);
    ks_sha256_add(hash, item->original.steps.at,
                  item->original.steps.n * sizeof(ks_span));
    ks_sha256_close(&hash, item->inputs);
    return KS_OK;
}

ks_status ks__settings_open(struct ks_label_job *job, ks_err *err) {
    ks_status st = KS_OK;
    ks_sha256 *hash = NULL;
    KS_TRY(add_settings(job, err));
    KS_TRY(ks_sha256_open(&hash, err));
    for (size_t i = 0; i < job->chains.n; i++) {
        KS_TRY(hash_item(&job->items[i], err));
        ks_sha256_add(hash, job->items[i].inputs, sizeof job->items[i].inputs);
    }
    ks_sha256_close(&hash, job->inputs);
done:
    ks_sha256_close(&hash, NULL);
    return st;
}

ks_shard_note ks__shard_note_of(const struct ks_label_job *job,
                                const char *output) {
    return (ks_shard_note){job->options.shard, "label",       output,
                           "chains",           job->chains.n, job->first,
                           job->end,           job->inputs,   job->sampling};
}
