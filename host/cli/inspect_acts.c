/* inspect_acts.c - what keystep inspect says of activation files: finished,
 * interrupted (X.h5.part beside X.h5.journal), and of the journal alone. */
#include <stdlib.h>
#include <string.h>

#include "acts_format.h"
#include "inspect.h"

static json_t *names_of(uint32_t set, int n, const char *(*name)(int)) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++)
        if (set >> i & 1) json_array_append_new(list, json_string(name(i)));
    return list;
}

static const char *stream_at(int i) {
    return ks_stream_name((ks_stream)i);
}

static const char *position_at(int i) {
    return ks_position_name((ks_position)i);
}

static json_t *listed_of(const ks_acts_info *a) {
    json_t *list = json_array();
    for (int32_t i = 0; i < a->n_listed; i++)
        json_array_append_new(list, json_integer(a->listed[i]));
    return list;
}

static ks_status describe(const ks_acts_info *a, const char *path, json_t *o,
                          ks_err *err) {
    ks_status st = KS_OK;
    int64_t valid = 0, counts[3] = {0};
    for (int64_t i = 0; i < a->n_steps; i++) {
        valid += a->steps[i].valid;
        int8_t label = a->has_labels ? a->steps[i].label : -1;
        counts[label == 1 ? 1 : label == 0 ? 0 : 2]++;
    }
    bool good =
        ks__put(o, "model", ks__text(a->model_name)) &&
        ks__put(o, "model sha256", ks__text(a->model_sha256)) &&
        ks__put(o, "tokenizer sha256", ks__text(a->tokenizer_hash)) &&
        ks__put(o, "layers", json_integer(a->n_layers)) &&
        (!a->n_listed || ks__put(o, "layers held", listed_of(a))) &&
        ks__put(o, "hidden", json_integer(a->d)) &&
        ks__put(o, "dtype", json_string(ks_type_name(a->dtype))) &&
        ks__put(o, "streams", names_of(a->streams, KS_N_STREAMS, stream_at)) &&
        ks__put(o, "positions",
                names_of(a->positions, KS_N_POSITIONS, position_at)) &&
        ks__put(o, "context", json_string(a->context_none ? "none" : "full")) &&
        ks__put(o, "backend", ks__text(a->backend)) &&
        ks__put(o, "isa", ks__text(a->isa)) &&
        ks__put(o, "program version", ks__text(a->program_version)) &&
        ks__put(o, "chains", json_integer(a->n_chains)) &&
        ks__put(o, "steps", json_integer(a->n_steps)) &&
        ks__put(o, "steps without a token", json_integer(a->n_steps - valid));
    if (a->shard)
        good = good && ks__put(o, "shard", ks__text(a->shard)) &&
               ks__put(o, "of the run", ks__text(a->whole_sha256));
    if (a->n_shards)
        good =
            good && ks__put(o, "joined from shards", json_integer(a->n_shards));
    if (a->random_weights >= 0)
        good = good && ks__put(o, "random weights of seed",
                               json_integer(a->random_weights));
    if (a->has_labels)
        good = good && ks__put(o, "labels",
                               json_pack("{sI,sI,sI}", "important",
                                         (json_int_t)counts[1], "removable",
                                         (json_int_t)counts[0], "unlabelled",
                                         (json_int_t)counts[2]));
    KS_CHECK(good, KS_NOMEM, "no memory to describe %s", path);
done:
    return st;
}

ks_status ks__inspect_acts(const char *path, json_t *o, ks_err *err) {
    ks_status st = KS_OK;
    ks_acts_file *file = NULL;
    ks__put(o, "kind", json_string("activations"));
    KS_TRY(ks_acts_open(&file, path, err));
    KS_TRY(describe(ks_acts_get_info(file), path, o, err));
done:
    ks_acts_close(&file);
    return st;
}

/* ------------------------------------------------------------- interrupted */

/* The journal of X.h5.part is X.h5.journal. */
static ks_status journal_of(const char *part, char **out, ks_err *err) {
    int n = (int)(strlen(part) - strlen(".part"));
    *out = NULL;
    if (asprintf(out, "%.*s.journal", n, part) < 0)
        return ks_fail(err, KS_NOMEM, "out of memory for a path");
    return KS_OK;
}

static int64_t chains_until(const ks_acts_info *a, int64_t step) {
    if (step >= a->n_steps) return a->n_chains;
    return a->steps[step].chain; /* the one that is not whole */
}

ks_status ks__inspect_part(const char *path, json_t *o, ks_err *err) {
    ks_status st = KS_OK;
    ks_acts_file *file = NULL;
    ks__acts_run *runs = NULL;
    size_t n = 0;
    char *journal = NULL;
    ks__put(o, "kind", json_string("unfinished activations"));
    KS_TRY(journal_of(path, &journal, err));
    KS_TRY(ks__acts_open_any(&file, path, err));
    const ks_acts_info *a = ks_acts_get_info(file);
    bool there = ks_file_exists(journal);
    if (there)
        KS_TRY(ks__journal_read(journal, file->spec_hash, file->map.size,
                                a->n_steps, &runs, &n, err));
    int64_t done = n ? runs[n - 1].end : 0;
    bool good = ks__put(o, "journal",
                        there ? ks__text(journal) : json_string("missing")) &&
                ks__put(o, "steps done", json_integer(done)) &&
                ks__put(o, "chains done", json_integer(chains_until(a, done)));
    KS_CHECK(good, KS_NOMEM, "no memory to describe %s", path);
    KS_TRY(describe(a, path, o, err));
done:
    free(runs);
    free(journal);
    ks_acts_close(&file);
    return st;
}

/* ----------------------------------------------------------------- journal */

static ks_status first_line(void *user, size_t line, json_t *object,
                            ks_err *err) {
    *(json_t **)user = json_incref(object);
    return ks_fail(err, KS_INTERRUPTED, "line %zu is enough", line);
}

ks_status ks__inspect_journal(const char *path, json_t *o, ks_err *err) {
    ks_status st = KS_OK;
    json_t *head = NULL;
    ks__acts_run *runs = NULL;
    size_t n = 0;
    st = ks_jsonl_read(path, first_line, &head, err);
    if (!head) return st;
    const char *hash = json_string_value(json_object_get(head, "spec_sha256"));
    json_int_t bytes = json_integer_value(json_object_get(head, "bytes"));
    KS_TRY(ks__journal_read(path, hash ? hash : "", (uint64_t)bytes, INT64_MAX,
                            &runs, &n, err));
    bool good = ks__put(o, "kind", json_string("journal of a capture")) &&
                ks__put(o, "spec sha256", ks__text(hash)) &&
                ks__put(o, "bytes of the file", json_integer(bytes)) &&
                ks__put(o, "runs", json_integer((json_int_t)n)) &&
                ks__put(o, "steps done", json_integer(n ? runs[n - 1].end : 0));
    KS_CHECK(good, KS_NOMEM, "no memory to describe %s", path);
done:
    free(runs);
    json_decref(head);
    return st;
}
