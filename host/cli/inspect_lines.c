/* inspect_lines.c - what keystep inspect says of JSON Lines: problems, chains
 * and labels, told apart by their fields. The lines are counted in a first
 * pass and checked as every command does in a second; an interrupted
 * generate's OUT.part, whose last line may be torn, has the first one only. */
#include <stdlib.h>
#include <string.h>

#include "chains.h"
#include "shard.h"
#include "inspect.h"

typedef enum kind { UNKNOWN, PROBLEMS, CHAINS, LABELS, JOURNAL } kind;

static kind kind_of(json_t *object) {
    if (json_object_get(object, "keystep_journal")) return JOURNAL;
    if (json_object_get(object, "labels")) return LABELS;
    if (json_object_get(object, "text")) return CHAINS;
    return json_object_get(object, "question") ? PROBLEMS : UNKNOWN;
}

typedef struct tally {
    kind kind;
    int64_t lines, steps, cut, answers, verdicts, right, finished, unfinished;
    int64_t clean;    /* chains that were cut from others */
    int64_t marks[3]; /* labels 0, 1, null */
    json_t *names;    /* model or method -> lines */
    json_t *problems; /* id -> true */
    json_t *scores;   /* name -> lines */
    json_t *fields;   /* name -> lines */
} tally;

static void add_chain(tally *t, json_t *object) {
    json_t *steps = json_object_get(object, "steps");
    json_t *correct = json_object_get(object, "correct");
    json_t *finished = json_object_get(object, "finished");
    t->cut += json_is_array(steps);
    t->steps += (int64_t)json_array_size(steps);
    t->verdicts += json_is_boolean(correct);
    t->right += json_is_true(correct);
    t->finished += json_is_true(finished);
    t->unfinished += json_is_false(finished);
    t->clean += json_object_get(object, "of") != NULL;
    ks__count(t->names, json_string_value(json_object_get(object, "model")));
    ks__count(t->problems,
              json_string_value(json_object_get(object, "problem")));
}

static void add_labels(tally *t, json_t *object) {
    size_t i;
    const char *name;
    json_t *value, *list = json_object_get(object, "labels");
    json_array_foreach(list, i, value)
        t->marks[json_is_null(value)         ? 2
                 : json_integer_value(value) ? 1
                                             : 0]++;
    t->steps += (int64_t)json_array_size(list);
    ks__count(t->names, json_string_value(json_object_get(object, "method")));
    json_object_foreach(json_object_get(object, "scores"), name, value)
        ks__count(t->scores, name);
}

static ks_status add(void *user, size_t line, json_t *object, ks_err *err) {
    tally *t = user;
    const char *name;
    json_t *value;
    if (t->lines++ == 0) t->kind = kind_of(object);
    if (t->kind == UNKNOWN || t->kind == JOURNAL)
        return ks_fail(err, KS_INTERRUPTED, "line %zu is enough", line);
    json_object_foreach(object, name, value) ks__count(t->fields, name);
    if (t->kind == CHAINS) add_chain(t, object);
    if (t->kind == LABELS) add_labels(t, object);
    t->answers += json_object_get(object, "answer") != NULL;
    return KS_OK;
}

/* ------------------------------------------------------------------ checks */

static ks_status check(kind what, const char *path, ks_err *err) {
    ks_status st = KS_OK;
    ks_problems problems = {0};
    ks_chains chains = {0};
    ks_labels labels = {0};
    if (what == PROBLEMS)
        st = ks_problems_read(&problems, path, KS_KEEP_FIELDS, err);
    else if (what == CHAINS)
        st = ks_chains_read(&chains, path, KS_KEEP_FIELDS, err);
    else
        st = ks_labels_read(&labels, path, KS_KEEP_FIELDS, err);
    ks_problems_free(&problems);
    ks_chains_free(&chains);
    ks_labels_free(&labels);
    return st;
}

/* Every whole line was read, so what failed is the piece after them, and the
 * file has an end. */
static bool only_tail_is_torn(const char *path, int64_t lines) {
    char *text = NULL;
    size_t n = 0;
    int64_t whole = 0;
    if (ks_read_file(path, SIZE_MAX, &text, &n, NULL) != KS_OK) return false;
    for (size_t i = 0; i < n; i++) whole += text[i] == '\n';
    bool torn = n > 0 && text[n - 1] != '\n' && whole == lines;
    free(text);
    return torn;
}

/* ------------------------------------------------------------------- words */

static json_t *keys_of(const json_t *object) {
    json_t *list = json_array();
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
        json_array_append_new(list, json_string(key));
    return list;
}

static bool say_chains(const tally *t, json_t *o) {
    bool good =
        ks__put(o, "chains", json_integer(t->lines)) &&
        ks__put(o, "problems",
                json_integer((json_int_t)json_object_size(t->problems))) &&
        ks__put(o, "models", json_incref(t->names)) &&
        ks__put(o, "cut into steps", json_integer(t->cut)) &&
        ks__put(o, "steps", json_integer(t->steps));
    if (t->verdicts)
        good = good &&
               ks__put(o, "with a verdict", json_integer(t->verdicts)) &&
               ks__put(o, "correct", json_integer(t->right));
    if (t->finished || t->unfinished)
        good = good && ks__put(o, "unfinished", json_integer(t->unfinished));
    if (t->clean)
        good = good && ks__put(o, "cut from others", json_integer(t->clean));
    return good;
}

static bool say_labels(const tally *t, json_t *o) {
    bool good = ks__put(o, "chains", json_integer(t->lines)) &&
                ks__put(o, "steps", json_integer(t->steps)) &&
                ks__put(o, "important", json_integer(t->marks[1])) &&
                ks__put(o, "removable", json_integer(t->marks[0])) &&
                ks__put(o, "unlabelled", json_integer(t->marks[2])) &&
                ks__put(o, "methods", json_incref(t->names));
    if (json_object_size(t->scores))
        good = good && ks__put(o, "scores", keys_of(t->scores));
    return good;
}

static bool say(const tally *t, bool torn, json_t *o) {
    static const char *const names[] = {"", "problems", "chains", "labels"};
    bool good = ks__put(o, "kind", json_string(names[t->kind])) &&
                ks__put(o, "lines", json_integer(t->lines));
    if (torn) good = good && ks__put(o, "torn last line", json_true());
    if (t->kind == CHAINS) good = good && say_chains(t, o);
    if (t->kind == LABELS) good = good && say_labels(t, o);
    if (t->kind == PROBLEMS)
        good = good && ks__put(o, "problems", json_integer(t->lines)) &&
               ks__put(o, "with an answer", json_integer(t->answers));
    return good && ks__put(o, "fields", keys_of(t->fields));
}

static const char note_end[] = ".shard.json";

/* Of a shard, what its note says; *is: it is one. */
static ks_status say_shard(const char *path, json_t *o, bool *is, ks_err *err) {
    ks_status st = KS_OK;
    static const char *const names[] = {"command", "output", "shard", "input"};
    char *beside = NULL;
    json_t *note = NULL;
    KS_CHECK(asprintf(&beside, "%s%s", path, note_end) >= 0, KS_NOMEM,
             "out of memory for a path");
    *is = ks_file_exists(beside);
    free(beside);
    if (!*is) return KS_OK;
    KS_TRY(ks__shard_note_read(path, &note, err));
    for (size_t i = 0; i < KS_COUNT(names); i++)
        KS_CHECK(
            ks__put(o, names[i], json_incref(json_object_get(note, names[i]))),
            KS_NOMEM, "no memory to describe %s", path);
done:
    json_decref(note);
    return st;
}

static ks_status say_note(const char *path, json_t *o, ks_err *err) {
    ks_status st = KS_OK;
    char *of = strndup(path, strlen(path) - strlen(note_end));
    json_t *note = NULL;
    KS_CHECK(of, KS_NOMEM, "out of memory for a path");
    KS_TRY(ks__shard_note_read(of, &note, err));
    KS_CHECK(ks__put(o, "kind", json_string("note of a shard")) &&
                 !json_object_update(o, note),
             KS_NOMEM, "no memory to describe %s", path);
done:
    json_decref(note);
    free(of);
    return st;
}

ks_status ks__inspect_lines(const char *path, json_t *o, ks_err *err) {
    if (ks_ends_with(path, note_end)) return say_note(path, o, err);
    tally t = {.names = json_object(),
               .problems = json_object(),
               .scores = json_object(),
               .fields = json_object()};
    ks_status st = ks_jsonl_read(path, add, &t, err);
    bool part = ks_ends_with(path, ".part"), torn = false, shard = false;
    if (t.kind == JOURNAL) {
        st = ks__inspect_journal(path, o, err);
        goto done;
    }
    ks_status told = say_shard(path, o, &shard, err);
    if (told != KS_OK) st = told;
    if (st == KS_OK && shard && t.lines == 0) {
        ks__put(o, "kind", json_string("shard without a line"));
        goto done;
    }
    if (st == KS_INTERRUPTED || (st == KS_OK && t.lines == 0))
        KS_CHECK(false, KS_FORMAT,
                 "%s: neither a model nor a file of ours: expected GGUF, "
                 "safetensors, HDF5, JSON Lines of problems, chains or labels, "
                 "or what probe writes",
                 path);
    if (st == KS_FORMAT && part && t.lines > 0)
        torn = only_tail_is_torn(path, t.lines);
    if (torn) st = KS_OK;
    KS_TRY(st);
    if (!torn) KS_TRY(check(t.kind, path, err));
    KS_CHECK(say(&t, torn, o), KS_NOMEM, "no memory to describe %s", path);
done:
    json_decref(t.names);
    json_decref(t.problems);
    json_decref(t.scores);
    json_decref(t.fields);
    return st;
}
