/* label_ranking.c - another judge's ranking: a line a chain,
 * {"chain","order":[..],"start"?:[1|0,..]}. */
#include <stdlib.h>
#include <string.h>

#include "label_state.h"

typedef struct reading {
    struct ks_label_job *job;
    json_t *lines; /* chain -> line */
} reading;

/* Every step from 0 to the last, once. */
static ks_status check_order(const json_t *order, const char *where,
                             ks_err *err) {
    ks_status st = KS_OK;
    size_t n = json_array_size(order), i;
    uint8_t *seen = NULL;
    json_t *step;
    KS_CHECK(json_is_array(order), KS_FORMAT,
             "%s: \"order\" is %s, expected a list of steps", where,
             ks_json_kind(order));
    KS_TRY(ks_alloc(&seen, n, 1, "steps", err));
    json_array_foreach((json_t *)(uintptr_t)order, i, step) {
        KS_CHECK(json_is_integer(step), KS_FORMAT,
                 "%s: place %zu of \"order\" is %s, expected a step's number",
                 where, i, ks_json_kind(step));
        json_int_t at = json_integer_value(step);
        KS_CHECK(at >= 0 && (size_t)at < n && !seen[at], KS_FORMAT,
                 "%s: place %zu of \"order\" is %lld, expected each of 0 to "
                 "%zu once",
                 where, i, (long long)at, n - 1);
        seen[at] = 1;
    }
done:
    free(seen);
    return st;
}

static ks_status check_start(const json_t *start, size_t n, const char *where,
                             ks_err *err) {
    ks_status st = KS_OK;
    size_t i;
    json_t *value;
    if (!start) return KS_OK;
    KS_CHECK(json_is_array(start), KS_FORMAT,
             "%s: \"start\" is %s, expected a list of 0 and 1", where,
             ks_json_kind(start));
    json_array_foreach((json_t *)(uintptr_t)start, i, value) {
        KS_CHECK(json_is_integer(value), KS_FORMAT,
                 "%s: place %zu of \"start\" is %s, expected 0 or 1", where, i,
                 ks_json_kind(value));
        json_int_t bit = json_integer_value(value);
        KS_CHECK(bit == 0 || bit == 1, KS_FORMAT,
                 "%s: place %zu of \"start\" is %lld, expected 0 or 1", where,
                 i, (long long)bit);
    }
    KS_CHECK(json_array_size(start) == n, KS_FORMAT,
             "%s: \"start\" has %zu places, expected %zu, as many as \"order\"",
             where, json_array_size(start), n);
done:
    return st;
}

static ks_status read_line(void *user, size_t line, json_t *object,
                           ks_err *err) {
    ks_status st = KS_OK;
    reading *r = user;
    const ks_label_options *o = &r->job->options;
    char where[512];
    const char *id = NULL;
    snprintf(where, sizeof where, "%.280s line %zu", o->ranking, line);
    KS_TRY(ks_json_string(object, "chain", where, &id, NULL, err));
    KS_CHECK(ks_chains_find(&r->job->chains, id), KS_MISMATCH,
             "%s: chain %s is not in %s", where, id, o->chains);
    json_t *before = json_object_get(r->lines, id);
    KS_CHECK(!before, KS_FORMAT, "%s: chain %s has a line already, line %lld",
             where, id, (long long)json_integer_value(before));
    snprintf(where, sizeof where, "%.280s line %zu: chain %.120s", o->ranking,
             line, id);
    json_t *order = json_object_get(object, "order");
    KS_TRY(check_order(order, where, err));
    KS_TRY(check_start(json_object_get(object, "start"), json_array_size(order),
                       where, err));
    KS_CHECK(
        !json_object_set(r->job->rankings, id, object) &&
            !json_object_set_new(r->lines, id, json_integer((json_int_t)line)),
        KS_NOMEM, "out of memory for rankings");
done:
    return st;
}

/* The text is read once: it may come through a pipe. */
ks_status ks__rankings_read(struct ks_label_job *job, ks_err *err) {
    ks_status st = KS_OK;
    reading r = {job, json_object()};
    const char *path = job->options.ranking;
    char *text = NULL;
    size_t n = 0;
    job->rankings = json_object();
    KS_CHECK(job->rankings && r.lines, KS_NOMEM, "out of memory for rankings");
    KS_TRY(ks_read_file(path, KS_MOST_DATA, &text, &n, err));
    ks_sha256_of(text, n, job->ranking);
    KS_TRY(ks_jsonl_read_text(path, text, n, read_line, &r, err));
done:
    free(text);
    json_decref(r.lines);
    return st;
}

/* Which chains come so far, and how many steps they have then, the model has
 * to say first. */
ks_status ks__rank_as_told(ks__item *item, ks_err *err) {
    ks_status st = KS_OK;
    const char *path = item->job->options.ranking, *id = item->chain->id;
    json_t *line = json_object_get(item->job->rankings, id);
    json_t *start = json_object_get(line, "start");
    json_t *order = json_object_get(line, "order");
    size_t q = (size_t)item->q;
    KS_CHECK(line, KS_MISMATCH,
             "%s has no line for chain %s, expected one that ranks its %zu "
             "steps",
             path, id, q);
    KS_CHECK(json_array_size(order) == q, KS_MISMATCH,
             "%s: chain %s: \"order\" has %zu steps, expected the %zu that "
             "are searched",
             path, id, json_array_size(order), q);
    for (size_t i = 0; i < q; i++) {
        size_t at = (size_t)json_integer_value(json_array_get(order, i));
        item->order[i] = (int32_t)at;
        item->score[at] = (double)i;
        if (start)
            item->start[i] =
                json_integer_value(json_array_get(start, i)) || i == q - 1;
    }
done:
    return st;
}
