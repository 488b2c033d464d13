/* score_line.c - the lines that keystep score writes, and those that an
 * interrupted run left. */
#include <math.h>
#include <string.h>

#include "score_state.h"

#define AFRESH "; --force without --resume starts afresh"

/* ----------------------------------------------------------------- settings */

static void add_text(ks_sha256 *hash, const char *text, size_t n) {
    uint64_t length = n;
    ks_sha256_add(hash, &length, sizeof length);
    ks_sha256_add(hash, text, n);
}

static ks_status hash_inputs(ks__scored *item, ks_err *err) {
    ks_status st = KS_OK;
    const ks_chain *c = item->chain;
    ks_sha256 *hash = NULL;
    KS_TRY(ks_sha256_open(&hash, err));
    add_text(hash, c->prompt, c->prompt_length);
    add_text(hash, c->text, c->text_length);
    const char *question = item->question ? item->question : "";
    add_text(hash, question, strlen(question));
    for (int32_t k = 0; k < c->n_steps; k++) {
        uint64_t bounds[2] = {c->steps[k].begin, c->steps[k].end};
        ks_sha256_add(hash, bounds, sizeof bounds);
    }
    ks_sha256_close(&hash, item->inputs);
done:
    return st;
}

/* What the shard's note tells. */
static ks_status describe_shard(ks_score_job *job, ks_err *err) {
    ks_status st = KS_OK;
    ks_sha256 *hash = NULL;
    json_t *what = json_array();
    KS_TRY(ks_sha256_open(&hash, err));
    for (size_t i = 0; i < job->chains.n; i++) {
        const char *id = job->chains.at[i].id;
        ks_sha256_add(hash, id, strlen(id) + 1);
        ks_sha256_add(hash, job->items[i].inputs, sizeof job->items[i].inputs);
    }
    ks_sha256_close(&hash, job->inputs);
    for (int kind = 0; kind < KS_SCORE_N_KINDS; kind++)
        if (job->options.kinds >> kind & 1)
            json_array_append_new(
                what, json_string(ks_score_name((ks_score_kind)kind)));
    job->noted = json_copy(job->settings);
    KS_TRY(ks_json_set(job->noted, "what", json_incref(what), "settings", err));
    job->note = (ks_shard_note){job->options.shard, "score",       "out",
                                "chains",           job->chains.n, job->first,
                                job->end,           job->inputs,   job->noted};
done:
    json_decref(what);
    ks_sha256_close(&hash, NULL);
    return st;
}

ks_status ks__score_settle(ks_score_job *job, ks_err *err) {
    ks_status st = KS_OK;
    const ks_engine *e = job->engines.at[0];
    bool judges = job->options.kinds >> KS_SCORE_JUDGE != 0;
    job->settings = json_pack(
        "{s:s,s:s,s:s,s:s,s:s}", "model_sha256", ks_engine_info(e).sha256,
        "tokenizer", ks_tokenizer_hash(job->tokenizer), "backend", e->ops->name,
        "isa", e->ops->isa, "program_version", KS_VERSION);
    KS_CHECK(job->settings, KS_NOMEM, "out of memory for settings");
    if (judges)
        KS_TRY(ks_json_set(job->settings, "template",
                           json_string(ks_template_name(job->prompt.which)),
                           "settings", err));
    for (size_t i = 0; i < job->chains.n; i++)
        KS_TRY(hash_inputs(&job->items[i], err));
    if (job->options.shard.n) KS_TRY(describe_shard(job, err));
done:
    return st;
}

/* -------------------------------------------------------------------- lines */

static json_t *list_of(const double *value, int32_t n) {
    json_t *list = json_array();
    for (int32_t k = 0; k < n; k++)
        json_array_append_new(list, isfinite(value[k]) ? json_real(value[k])
                                                       : json_null());
    return list;
}

ks_status ks__score_line(const ks_score_job *job, ks__scored *item,
                         ks_err *err) {
    ks_status st = KS_OK;
    const ks_chain *c = item->chain;
    json_t *labels = json_array(), *scores = json_object();
    for (int32_t k = 0; k < c->n_steps; k++)
        json_array_append_new(labels, json_null());
    for (int kind = 0; kind < KS_SCORE_N_KINDS; kind++)
        if (job->options.kinds >> kind & 1)
            json_object_set_new(
                scores, ks_score_name((ks_score_kind)kind),
                list_of(item->value + kind * c->n_steps, c->n_steps));
    item->line = json_pack("{s:s,s:s,s:s,s:o,s:o,s:O,s:s}", "chain", c->id,
                           "method", "score", "text_sha256", c->text_sha256,
                           "labels", labels, "scores", scores, "scoring",
                           job->settings, "inputs_sha256", item->inputs);
    KS_CHECK(item->line && json_array_size(labels) == (size_t)c->n_steps,
             KS_NOMEM, "out of memory for a line");
done:
    return st;
}

int64_t ks__score_without(const json_t *line) {
    const char *name;
    json_t *list, *scores = json_object_get(line, "scores");
    int64_t n = 0;
    size_t steps = json_array_size(json_object_get(line, "labels"));
    for (size_t k = 0; k < steps; k++) {
        bool lacks = false;
        json_object_foreach(scores, name, list) lacks |=
            json_is_null(json_array_get(list, k));
        n += lacks;
    }
    return n;
}

/* -------------------------------------------------------------- taking over */

static ks_status check_scores(const ks_score_job *job, const ks_chain *c,
                              const char *where, json_t *line, ks_err *err) {
    ks_status st = KS_OK;
    json_t *scores = json_object_get(line, "scores"), *v;
    size_t n = 0, i;
    for (int kind = 0; kind < KS_SCORE_N_KINDS; kind++) {
        const char *name = ks_score_name((ks_score_kind)kind);
        json_t *list = json_object_get(scores, name);
        if (!(job->options.kinds >> kind & 1)) continue;
        n++;
        KS_CHECK(
            json_is_array(list) && json_array_size(list) == (size_t)c->n_steps,
            KS_MISMATCH, "%s: no \"%s\" with %d scores, as asked for" AFRESH,
            where, name, c->n_steps);
        json_array_foreach(list, i, v)
            KS_CHECK(json_is_null(v) || json_is_number(v), KS_FORMAT,
                     "%s: \"%s\" holds %s, expected numbers and nulls", where,
                     name, ks_json_kind(v));
    }
    KS_CHECK(json_object_size(scores) == n, KS_MISMATCH,
             "%s: scores beside those asked for" AFRESH, where);
    KS_CHECK(json_array_size(json_object_get(line, "labels")) ==
                 (size_t)c->n_steps,
             KS_FORMAT, "%s: \"labels\" has not %d values", where, c->n_steps);
done:
    return st;
}

static ks_status adopt(void *user, size_t number, json_t *line, ks_err *err) {
    ks_status st = KS_OK;
    ks_score_job *job = user;
    char where[320], other[400];
    const char *id, *inputs;
    size_t n;
    snprintf(where, sizeof where, "%.280s line %zu",
             job->from ? job->from : job->part.path, number);
    KS_TRY(ks_json_string(line, "chain", where, &id, &n, err));
    const ks_chain *c = ks_chains_find(&job->chains, id);
    KS_CHECK(c, KS_MISMATCH, "%s: chain %.60s is not in %s" AFRESH, where, id,
             job->options.chains);
    snprintf(other, sizeof other, "%s was scored with other settings", where);
    st = ks_json_same(job->settings, json_object_get(line, "scoring"), other,
                      err);
    if (st != KS_OK) return ks_fail_more(err, st, AFRESH);
    size_t at = (size_t)(c - job->chains.at);
    KS_CHECK(at >= job->first && at < job->end, KS_MISMATCH,
             "%s: chain %.60s is not in shard %d/%d" AFRESH, where, id,
             job->options.shard.k, job->options.shard.n);
    ks__scored *item = &job->items[at];
    KS_TRY(ks_json_string(line, "inputs_sha256", where, &inputs, &n, err));
    KS_CHECK(
        strcmp(inputs, item->inputs) == 0, KS_MISMATCH,
        "%s: chain %.60s was another, its inputs' SHA-256 is %.12s... here "
        "and %.12s... there" AFRESH,
        where, id, item->inputs, inputs);
    KS_TRY(check_scores(job, c, where, line, err));
    KS_CHECK(!item->line, KS_FORMAT, "%s: chain %.60s is there twice", where,
             id);
    item->line = json_incref(line);
    job->n_done++;
    job->n_taken_over++;
done:
    return st;
}

ks_status ks__score_take_over(ks_score_job *job, bool *whole, ks_err *err) {
    ks_status st = KS_OK;
    const ks_score_options *o = &job->options;
    ks_found found = KS_FOUND_NOTHING;
    *whole = false;
    if (!o->force && !o->resume) KS_TRY(ks_refuse_existing(o->out, false, err));
    KS_TRY(ks_part_open(&job->part, o->out, o->resume, o->force, adopt, job,
                        &found, err));
    if (found != KS_FOUND_WHOLE) return KS_OK;
    job->from = o->out;
    st = ks_shard_note_check(&job->note, o->out, err);
    if (st != KS_OK) return ks_fail_more(err, st, AFRESH);
    KS_TRY(ks_jsonl_read(o->out, adopt, job, err));
    KS_CHECK(job->n_done == ks_score_chains(job), KS_MISMATCH,
             "%s has %zu of the %zu chains of %s" AFRESH, o->out, job->n_done,
             ks_score_chains(job), o->chains);
    *whole = true;
done:
    return st;
}

ks_status ks__score_write(ks_score_job *job, ks_err *err) {
    ks_status st = KS_OK;
    ks_str all = {0};
    KS_TRY(ks_str_add(&all, "", 0, err));
    for (size_t i = job->first; i < job->end; i++)
        KS_TRY(ks_jsonl_add(&all, job->items[i].line, err));
    KS_TRY(ks_write_out(job->options.out, all.data, all.length, true, err));
    KS_TRY(ks_shard_note_write(&job->note, job->options.out, err));
    ks_part_close(&job->part, true);
done:
    ks_str_free(&all);
    return st;
}
