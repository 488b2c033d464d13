/* label_write.c - what is known of a chain as a label line and a clean chain.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "label_state.h"

int8_t ks__label_of(const ks__item *item, int32_t i) {
    const ks_label_options *o = &item->job->options;
    if (i == item->q - 1 && item->core[i])
        return item->last_needed == 1 || (o->compat & KS_COMPAT_LAST) ? 1 : -1;
    if (o->method == KS_LABEL_RANDOM) {
        int32_t kept = 0;
        for (int32_t k = 0; k < o->orders; k++)
            kept += item->orders[k].greedy.mask[i];
        return kept == o->orders ? 1 : kept == 0 ? 0 : -1;
    }
    if (item->core[i]) return 1;
    return item->threshold >= 0 && !item->start[i] ? 0 : -1;
}

static json_t *number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *ks__per_step(const ks__item *item, ks__value_fn value,
                     const void *user) {
    json_t *list = json_array();
    int32_t at = 0;
    for (size_t i = 0; list && i < item->clean.steps.n; i++) {
        bool mine = at < item->q && item->steps[at] == (int32_t)i;
        json_array_append_new(list, mine ? value(item, at, user) : json_null());
        at += mine;
    }
    return list;
}

static json_t *number_at(const ks__item *item, int32_t at, const void *user) {
    (void)item;
    return number(((const double *)user)[at]);
}

static json_t *spread(const ks__item *item, const double *values) {
    return ks__per_step(item, number_at, values);
}

static json_t *label_at(const ks__item *item, int32_t at, const void *user) {
    int8_t label = ks__label_of(item, at);
    (void)user;
    return label < 0 ? json_null() : json_integer(label);
}

/* Sufficiency of the clean chain up to each step, where it was measured. */
static json_t *curve_of(ks__item *item, ks_err *err) {
    json_t *list = json_array();
    size_t n = item->clean.steps.n;
    uint8_t *keep = NULL;
    if (ks_alloc(&keep, n, 1, "steps", err) != KS_OK) {
        json_decref(list);
        return NULL;
    }
    for (size_t i = 0; list && i < n; i++) {
        double enough = NAN;
        keep[i] = 1;
        if (!ks__recall_enough(item, &item->clean, keep, &enough)) enough = NAN;
        json_array_append_new(list, number(ks__round4(enough)));
    }
    free(keep);
    return list;
}

static int32_t count(const uint8_t *mask, int32_t q) {
    int32_t n = 0;
    for (int32_t i = 0; i < q; i++) n += mask[i];
    return n;
}

static ks_status add_scores(ks__item *item, json_t *line, ks_err *err) {
    ks_status st = KS_OK;
    const ks_label_options *o = &item->job->options;
    json_t *scores = json_object();
    bool good = scores != NULL;
    if (item->q > 0 && o->method != KS_LABEL_RANDOM)
        good = good && !json_object_set_new(scores,
                                            o->method == KS_LABEL_EXTERNAL
                                                ? "ranking"
                                                : "influence",
                                            spread(item, item->score));
    if (item->matrix)
        good =
            good && !json_object_set_new(
                        scores, "direct",
                        spread(item, item->matrix + (size_t)item->q *
                                                        ((size_t)item->q + 1)));
    if (item->drop)
        good = good &&
               !json_object_set_new(scores, "drop", spread(item, item->drop));
    if (item->suppressed)
        good = good && !json_object_set_new(scores, "suppression",
                                            spread(item, item->suppressed));
    if (item->resample)
        good = good && !json_object_set_new(scores, "resample",
                                            spread(item, item->resample));
    good = good &&
           !json_object_set_new(scores, "sufficiency", curve_of(item, err)) &&
           !json_object_set(line, "scores", scores);
    KS_CHECK(good, KS_NOMEM, "out of memory for scores");
done:
    json_decref(scores);
    return st;
}

/* Kept counts of the random orders. */
static json_t *random_of(const ks__item *item) {
    json_t *list = json_array();
    for (int32_t k = 0; list && item->q > 0 && k < item->job->options.orders;
         k++)
        json_array_append_new(
            list, json_integer(count(item->orders[k].greedy.mask, item->q)));
    return list;
}

/* What the filters and the search measured: of a curve nothing but the
 * sufficiency of all steps. */
static json_t *measures_of(ks__item *item) {
    const ks_label_options *o = &item->job->options;
    bool searched = o->method != KS_LABEL_CURVE;
    double all = item->sufficiency;
    uint8_t *keep = NULL;
    size_t n = item->clean.steps.n;
    if (!searched) {
        if (ks_alloc(&keep, n, 1, "steps", NULL) != KS_OK) return NULL;
        memset(keep, 1, n);
        if (!ks__recall_enough(item, &item->clean, keep, &all)) all = NAN;
        free(keep);
    }
    double threshold = item->threshold < 0 || !item->matrix
                           ? NAN
                           : ks__thresholds[item->threshold];
    return json_pack(
        "{s:o,s:i,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "prefix",
        searched ? json_integer(item->p) : json_null(), "searched", item->q,
        "necessity", number(searched ? item->necessity : NAN),
        "sufficiency_all", number(ks__round4(all)), "ppl_all",
        number(searched ? exp(item->nll_all) : NAN), "ppl_answer",
        number(searched ? exp(item->nll_answer) : NAN), "threshold",
        number(threshold), "selected",
        searched ? json_integer(count(item->start, item->q)) : json_null(),
        "core",
        searched ? json_integer(count(item->core, item->q)) : json_null(),
        "confirmed", number(item->confirmed), "random_cores", random_of(item));
}

static ks_status write_labels(ks__item *item, ks_err *err) {
    ks_status st = KS_OK;
    char hash[65];
    const ks_label_options *o = &item->job->options;
    json_t *measures = measures_of(item);
    const char *kind = o->method == KS_LABEL_INFLUENCE
                           ? ks_influence_name(o->influence.kind)
                           : ks_label_method_name(o->method);
    ks_sha256_of(item->clean.data, item->clean.length, hash);
    item->line = json_pack(
        "{s:s,s:s,s:s,s:o,s:o,s:s,s:o,s:o}", "chain", item->chain->id,
        "text_sha256", hash, "method", kind, "labels",
        ks__per_step(item, label_at, NULL), "sampling",
        json_deep_copy(item->job->sampling), "inputs_sha256", item->inputs,
        "answer_step",
        item->clean.answer < 0 ? json_null() : json_integer(item->clean.answer),
        "subsets", ks__subsets_json(item));
    KS_CHECK(item->line && measures &&
                 !json_object_update(item->line, measures),
             KS_NOMEM, "out of memory for labels");
    KS_TRY(add_scores(item, item->line, err));
done:
    json_decref(measures);
    return st;
}

/* The chain's fields, with text, steps and map of the clean one. rest and
 * answer belong to the original's text, but stay true. */
static ks_status write_clean(ks__item *item, ks_err *err) {
    ks_status st = KS_OK;
    const ks__text *t = &item->clean;
    json_t *line = json_copy(item->chain->object), *steps = json_array();
    json_t *removed = json_array();
    bool good = line && steps && removed;
    for (size_t i = 0; good && i < t->steps.n; i++)
        good = !json_array_append_new(
            steps,
            json_pack("{s:I,s:I}", "begin", (json_int_t)t->steps.at[i].begin,
                      "end", (json_int_t)t->steps.at[i].end));
    for (size_t i = 0; good && i < item->original.steps.n; i++)
        if (item->cut[i])
            good = !json_array_append_new(removed, json_integer((json_int_t)i));
    good =
        good &&
        !json_object_set_new(line, "text", json_stringn(t->data, t->length)) &&
        !json_object_set(line, "steps", steps) &&
        !json_object_set(line, "removed", removed) &&
        !json_object_set(line, "map", item->map) &&
        !json_object_set_new(line, "of", json_string(item->chain->id));
    KS_CHECK(good, KS_NOMEM, "out of memory for a clean chain");
    item->clean_line = json_incref(line);
done:
    json_decref(line);
    json_decref(steps);
    json_decref(removed);
    return st;
}

/* The searched steps and what stands behind them, for another judge. */
static ks_status write_prefix(ks__item *item, ks_err *err) {
    ks_status st = KS_OK;
    const ks__text *t = &item->clean;
    json_t *steps = json_array();
    bool good = steps != NULL;
    for (int32_t i = 0; good && i < item->q; i++) {
        ks_span s = t->steps.at[item->steps[i]];
        good = !json_array_append_new(
            steps, json_stringn(t->data + s.begin, s.end - s.begin));
    }
    if (good)
        item->prefix_line = json_pack(
            "{s:s,s:s,s:s,s:O,s:s,s:s}", "chain", item->chain->id, "problem",
            item->chain->problem, "question", item->problem->question, "steps",
            steps, "cue", item->job->cue, "answer", item->problem->answer);
    KS_CHECK(item->prefix_line, KS_NOMEM, "out of memory for a prefix");
done:
    json_decref(steps);
    return st;
}

ks_status ks__write_item(ks__item *item, ks_err *err) {
    ks_status st = KS_OK;
    if (item->job->options.compat & KS_COMPAT_KEEP && item->q > 0 &&
        memcmp(item->core, item->start, (size_t)item->q) == 0) {
        item->skip = KS_SKIP_NOTHING_REMOVED;
        return KS_OK;
    }
    KS_TRY(write_labels(item, err));
    KS_TRY(write_clean(item, err));
    if (item->job->options.prefixes) KS_TRY(write_prefix(item, err));
done:
    return st;
}
