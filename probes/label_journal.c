/* label_journal.c - OUT.part: the settings of a run, then what was answered.
 * And what --resume makes of an OUT that is whole already. */
#include <string.h>

#include "label_state.h"

#define AFRESH "; --force without --resume starts afresh"

/* ------------------------------------------------------------------ headers */

static const char *text_of(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

/* Version, backend and isa of a line, and of this run, must be the same;
 * force: what both were computed with is noted. */
static ks_status take_made(struct ks_label_job *job, const json_t *there,
                           const char *where, ks_err *err) {
    ks_status st = KS_OK;
    static const char *const words[] = {"version", "backend", "isa"};
    char list[256], was[512];
    job->elsewhere = false;
    for (size_t i = 0; i < KS_COUNT(words); i++) {
        const char *word = text_of(there, words[i]);
        const char *mine = text_of(job->made, words[i]);
        const char *all = text_of(job->made_by, words[i]);
        KS_CHECK(word, KS_FORMAT, "%s: \"%s\" is %s, expected a string", where,
                 words[i], ks_json_kind(json_object_get(there, words[i])));
        snprintf(was, sizeof was, "%s was begun elsewhere: %s", where,
                 words[i]);
        job->elsewhere |= strcmp(word, mine) != 0;
        KS_CHECK(job->options.force || strcmp(word, mine) == 0, KS_MISMATCH,
                 "%s is \"%s\" here and \"%s\" there; --force continues all "
                 "the same",
                 was, mine, word);
        snprintf(list, sizeof list, "%s", job->begun ? all : word);
        ks_join_word(list, sizeof list, list, word);
        KS_CHECK(
            !json_object_set_new(job->made_by, words[i], json_string(list)),
            KS_NOMEM, "out of memory for a line");
    }
done:
    return st;
}

static ks_status take_head(struct ks_label_job *job, const json_t *object,
                           const char *where, ks_err *err) {
    ks_status st = KS_OK;
    char other[512];
    const char *inputs = text_of(object, "inputs");
    snprintf(other, sizeof other, "%s was begun with other settings", where);
    st = ks_json_same(job->settings, json_object_get(object, "keystep_labels"),
                      other, err);
    if (st != KS_OK) return ks_fail_more(err, st, AFRESH);
    KS_CHECK(inputs, KS_FORMAT, "%s: \"inputs\" is %s, expected a string",
             where, ks_json_kind(json_object_get(object, "inputs")));
    KS_CHECK(strcmp(inputs, job->inputs) == 0, KS_MISMATCH,
             "%s was begun with other inputs (problems and chains): their "
             "SHA-256 is %s here and %s there" AFRESH,
             where, job->inputs, inputs);
    KS_TRY(take_made(job, object, where, err));
    job->begun = true;
done:
    return st;
}

static ks_status add_head(struct ks_label_job *job, ks_err *err) {
    ks_status st = KS_OK;
    json_t *head = json_pack("{s:O,s:s}", "keystep_labels", job->settings,
                             "inputs", job->inputs);
    KS_CHECK(head && !json_object_update(head, job->made), KS_NOMEM,
             "out of memory for a line");
    KS_TRY(ks_part_add(&job->part, head, err));
done:
    json_decref(head);
    return st;
}

/* ------------------------------------------------------------------ answers */

/* Of the questions of label_ask.c and label_roll.c, by the first word of their
 * keys. Sums of logarithms may round to beyond their bounds. */
static const struct kind {
    const char *name, *expected;
    double low, high;
    bool tally;
} kinds[] = {
    {"enough", "a share of 0 to 1", 0, 1, false},
    {"fresh", "a share of 0 to 1", 0, 1, false},
    {"nll", "a number of 0 or more", 0, 1e300, false},
    {"nll+", "a number of 0 or more", 0, 1e300, false},
    {"nll0", "a number of 0 or more", 0, 1e300, false},
    {"answer", "a number of 0 or less", -1e300, 0, false},
    {"roll", "a share of 0 to 1", 0, 1, true},
};
static const double rounding = 1e-3;

static const struct kind *kind_of_key(const char *key) {
    size_t n = strcspn(key, " ");
    for (size_t i = 0; i < KS_COUNT(kinds); i++)
        if (strlen(kinds[i].name) == n && strncmp(key, kinds[i].name, n) == 0)
            return &kinds[i];
    return NULL;
}

/* [[answer, how many], ..], as many as were sampled. */
static ks_status check_tally(const json_t *tally, int32_t n, const char *where,
                             ks_err *err) {
    ks_status st = KS_OK;
    size_t i;
    json_t *entry;
    json_int_t sum = 0;
    KS_CHECK(json_is_array(tally), KS_FORMAT,
             "%s: \"tally\" is %s, expected a list of [answer, how many]",
             where, ks_json_kind(tally));
    json_array_foreach((json_t *)(uintptr_t)tally, i, entry) {
        json_int_t count = json_integer_value(json_array_get(entry, 1));
        KS_CHECK(json_array_size(entry) == 2 &&
                     json_is_string(json_array_get(entry, 0)) && count > 0 &&
                     count <= n,
                 KS_FORMAT,
                 "%s: place %zu of \"tally\" is not [answer, how many]: a "
                 "string and a number of 1 to %d are expected",
                 where, i, n);
        sum += count;
    }
    KS_CHECK(sum == n, KS_FORMAT,
             "%s: \"tally\" counts %lld answers, expected %d", where,
             (long long)sum, n);
done:
    return st;
}

static ks_status check_answer(const struct kind *kind, const json_t *answer,
                              int32_t rollouts, const char *where,
                              ks_err *err) {
    ks_status st = KS_OK;
    const json_t *value = json_object_get(answer, "v");
    const json_t *text = json_object_get(answer, "text");
    KS_CHECK(json_is_object(answer), KS_FORMAT,
             "%s: \"answer\" is %s, expected an object", where,
             ks_json_kind(answer));
    KS_CHECK(json_is_number(value), KS_FORMAT, "%s: \"v\" is %s, expected %s",
             where, ks_json_kind(value), kind->expected);
    double v = json_number_value(value);
    KS_CHECK(v >= kind->low - rounding && v <= kind->high + rounding, KS_FORMAT,
             "%s: \"v\" is %g, expected %s", where, v, kind->expected);
    KS_CHECK(!text || json_is_string(text), KS_FORMAT,
             "%s: \"text\" is %s, expected a string", where,
             ks_json_kind(text));
    if (kind->tally)
        KS_TRY(check_tally(json_object_get(answer, "tally"), rollouts, where,
                           err));
done:
    return st;
}

static ks_status take_answer(struct ks_label_job *job, json_t *object,
                             const char *where, ks_err *err) {
    ks_status st = KS_OK;
    char place[512];
    const char *id = NULL, *key = NULL;
    json_t *answer = json_object_get(object, "answer");
    KS_TRY(ks_json_string(object, "chain", where, &id, NULL, err));
    KS_TRY(ks_json_string(object, "key", where, &key, NULL, err));
    const ks_chain *chain = ks_chains_find(&job->chains, id);
    KS_CHECK(chain, KS_MISMATCH, "%s: chain %s is not in %s", where, id,
             job->options.chains);
    const struct kind *kind = kind_of_key(key);
    KS_CHECK(kind, KS_FORMAT,
             "%s: key '%.80s' asks for none of enough, fresh, nll, nll+, nll0, "
             "answer, roll",
             where, key);
    snprintf(place, sizeof place, "%s: '%.80s' of chain %.80s", where, key, id);
    KS_TRY(check_answer(kind, answer, job->options.rollouts, place, err));
    size_t at = (size_t)(chain - job->chains.at);
    KS_CHECK(at >= job->first && at < job->end, KS_MISMATCH,
             "%s: chain %s is not in shard %d/%d", where, id,
             job->options.shard.k, job->options.shard.n);
    ks__item *item = &job->items[at];
    json_t *before = json_object_get(item->known, key);
    KS_CHECK(!before || json_equal(before, answer), KS_FORMAT,
             "%s is answered for a second time, and otherwise", place);
    KS_CHECK(!json_object_set(item->known, key, answer), KS_NOMEM,
             "out of memory for answers");
    job->resumed += !before;
done:
    return st;
}

/* A line of the journal. It begins with a header, and has another from where
 * --force went on elsewhere. */
static ks_status adopt(void *user, size_t line, json_t *object, ks_err *err) {
    struct ks_label_job *job = user;
    char where[320];
    snprintf(where, sizeof where, "%.280s line %zu", job->part.path, line);
    if (json_object_get(object, "keystep_labels"))
        return take_head(job, object, where, err);
    ks_status st =
        job->begun
            ? take_answer(job, object, where, err)
            : ks_fail(err, KS_FORMAT,
                      "%s: no \"keystep_labels\", expected the settings of "
                      "the run ahead of its answers",
                      where);
    return st == KS_OK ? st : ks_fail_more(err, st, AFRESH);
}

/* -------------------------------------------------------------- a whole OUT */

typedef struct whole {
    struct ks_label_job *job;
    int64_t lines;
} whole;

/* Made with the settings and of the chain that would be labelled now. */
static ks_status compare_line(void *user, size_t line, json_t *object,
                              ks_err *err) {
    ks_status st = KS_OK;
    whole *w = user;
    struct ks_label_job *job = w->job;
    char where[320], other[512];
    const char *id = NULL;
    json_t *settings = json_deep_copy(json_object_get(object, "sampling"));
    json_t *made = json_object(), *value;
    const char *word;
    json_object_foreach(job->made, word, value) {
        json_t *there = json_object_get(settings, word);
        if (there) json_object_set(made, word, there);
        if (there) json_object_del(settings, word);
    }
    snprintf(where, sizeof where, "%.280s line %zu", job->options.out, line);
    snprintf(other, sizeof other, "%s was made with other settings", where);
    KS_TRY(ks_json_same(job->all_settings, settings, other, err));
    KS_TRY(ks_json_same(job->made, made, other, err));
    KS_TRY(ks_json_string(object, "chain", where, &id, NULL, err));
    const ks_chain *chain = ks_chains_find(&job->chains, id);
    KS_CHECK(chain, KS_MISMATCH, "%s: chain %s is not in %s", where, id,
             job->options.chains);
    const char *there = text_of(object, "inputs_sha256");
    const char *here = job->items[chain - job->chains.at].inputs;
    KS_CHECK(there && strcmp(here, there) == 0, KS_MISMATCH,
             "%s: chain %s was labelled from other inputs: their SHA-256 is %s "
             "here and %s there",
             where, id, here, there ? there : "not set");
    w->lines++;
done:
    json_decref(settings);
    json_decref(made);
    return st;
}

/* *lines: of OUT, when it is what this run would write, and its companions are
 * there; 0: it is to be written. */
static ks_status look_at_whole(struct ks_label_job *job, int64_t *lines,
                               ks_err *err) {
    ks_status st = KS_OK;
    const ks_label_options *o = &job->options;
    const char *others[] = {o->clean, o->prefixes, o->skipped};
    const char *const names[] = {"clean", "prefixes", "skipped"};
    whole w = {job, 0};
    ks_shard_note note = ks__shard_note_of(job, "out");
    KS_TRY(ks_shard_note_check(&note, o->out, err));
    KS_TRY(ks_jsonl_read(o->out, compare_line, &w, err));
    for (size_t i = 0; i < KS_COUNT(others) && w.lines > 0; i++) {
        KS_CHECK(!others[i] || ks_file_exists(others[i]), KS_EXISTS,
                 "%s is whole, but %s is not there", o->out, others[i]);
        note.output = names[i];
        KS_TRY(ks_shard_note_check(&note, others[i], err));
    }
    *lines = w.lines;
done:
    if (st == KS_OK) return st;
    if (!o->force) return ks_fail_more(err, st, "; --force overwrites it");
    *lines = 0;
    return KS_OK;
}

/* ------------------------------------------------------------------ opening */

static ks_status refuse_others(const struct ks_label_job *job, bool force,
                               ks_err *err) {
    ks_status st = KS_OK;
    const ks_label_options *o = &job->options;
    const char *others[] = {o->clean, o->prefixes, o->skipped};
    for (size_t i = 0; i < KS_COUNT(others); i++)
        if (others[i] && strcmp(others[i], "-") != 0)
            KS_TRY(ks_refuse_existing(others[i], force, err));
done:
    return st;
}

/* What both this run and the one before were computed with. */
static ks_status add_made(struct ks_label_job *job, ks_err *err) {
    ks_status st = KS_OK;
    const char *word;
    json_t *mine;
    char list[256];
    json_object_foreach(job->made, word, mine) {
        const char *there = text_of(job->made_by, word);
        snprintf(list, sizeof list, "%s",
                 there ? there : json_string_value(mine));
        ks_join_word(list, sizeof list, list, json_string_value(mine));
        KS_CHECK(!json_object_set_new(job->made_by, word, json_string(list)),
                 KS_NOMEM, "out of memory for settings");
    }
    KS_CHECK(!json_object_update(job->sampling, job->made_by), KS_NOMEM,
             "out of memory for settings");
done:
    return st;
}

ks_status ks__journal_open(struct ks_label_job *job, int64_t *lines,
                           ks_err *err) {
    ks_status st = KS_OK;
    const ks_label_options *o = &job->options;
    ks_found found;
    *lines = 0;
    job->made_by = json_object();
    KS_CHECK(job->made_by, KS_NOMEM, "out of memory for settings");
    KS_TRY(refuse_others(job, o->force || o->resume, err));
    KS_TRY(ks_part_open(&job->part, o->out, o->resume, o->force, adopt, job,
                        &found, err));
    if (found == KS_FOUND_WHOLE) {
        KS_TRY(look_at_whole(job, lines, err));
        if (*lines > 0) return KS_OK;
        KS_TRY(ks_part_begin(&job->part, err));
    }
    /* resume has only what it would continue */
    st = refuse_others(job, o->force || found != KS_FOUND_NOTHING, err);
    if (st != KS_OK) ks_part_close(&job->part, true);
    KS_TRY(st);
    if (!job->begun || job->elsewhere) KS_TRY(add_head(job, err));
    KS_TRY(add_made(job, err));
done:
    return st;
}
