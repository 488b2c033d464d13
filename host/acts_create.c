/* acts_create.c - the life of an activation file: locked, made or taken up
 * again, filled (acts_write.c), and given its final name. */
#include "acts_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static ks_status io_error(ks_err *err, const char *path, const char *doing) {
    return ks_fail(err, KS_IO, "%s: cannot %s: %s", path, doing,
                   strerror(errno));
}

/* ------------------------------------------------------------------- fresh */

static ks_status reserve_space(const ks_acts *acts, ks_err *err) {
    int failed = posix_fallocate(acts->fd, 0, (off_t)acts->layout.file_bytes);
    if (failed)
        return ks_fail(err, KS_IO, "%s: cannot reserve its %llu bytes: %s",
                       acts->part, (unsigned long long)acts->layout.file_bytes,
                       strerror(failed));
    return KS_OK;
}

/* Space for the whole file, asked for before HDF5 writes its part: the library
 * does not survive a full disk (it crashes at exit after a failed close). */
static ks_status probe_space(ks_acts *acts, const ks_acts_spec *spec,
                             ks_err *err) {
    acts->fd = open(acts->part, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (acts->fd < 0) return io_error(err, acts->part, "create");
    acts->layout.file_bytes = ks_acts_file_bytes(spec);
    ks_status st = reserve_space(acts, err);
    close(acts->fd);
    acts->fd = -1;
    return st;
}

static ks_status open_part(ks_acts *acts, ks_err *err) {
    acts->fd = open(acts->part, O_RDWR | O_CLOEXEC);
    return acts->fd < 0 ? io_error(err, acts->part, "open") : KS_OK;
}

static ks_status make_fresh(ks_acts *acts, const ks_acts_spec *spec,
                            ks_err *err) {
    ks_status st = KS_OK;
    char hash[65];
    unlink(acts->journal_path);
    KS_TRY(probe_space(acts, spec, err));
    KS_TRY(ks__acts_build(acts->part, spec, &acts->layout, NULL, err));
    KS_TRY(open_part(acts, err));
    KS_TRY(reserve_space(acts, err));
    if (fsync(acts->fd) != 0) KS_TRY(io_error(err, acts->part, "sync"));
    KS_TRY(ks_acts_spec_hash(spec, hash, err));
    KS_TRY(ks__journal_create(&acts->journal, acts->journal_path, hash,
                              acts->layout.file_bytes, NULL, 0, err));
done:
    if (st != KS_OK) {
        unlink(acts->part);
        unlink(acts->journal_path);
    }
    return st;
}

/* ------------------------------------------------------------------ resume */

static ks_status differs(ks_err *err, const char *path, const char *what,
                         const char *have, const char *want) {
    return ks_fail(err, KS_MISMATCH,
                   "%s was made with %s '%.300s', now it is "
                   "'%.300s'",
                   path, what, have, want);
}

static ks_status differs_in(ks_err *err, const char *path, const char *what,
                            int64_t have, int64_t want) {
    return ks_fail(err, KS_MISMATCH, "%s was made with %s %lld, now it is %lld",
                   path, what, (long long)have, (long long)want);
}

static ks_status compare_steps(const char *path, const ks_acts_info *have,
                               const ks_acts_spec *want, ks_err *err) {
    for (int64_t i = 0; i < want->n_chains; i++) {
        const ks_chain_row *a = &have->chains[i], *b = &want->chains[i];
        if (strcmp(a->id, b->id) != 0)
            return differs(err, path, "a chain", a->id, b->id);
        if (strcmp(a->text_sha256, b->text_sha256) != 0)
            return ks_fail(err, KS_MISMATCH,
                           "%s was made with another text of "
                           "chain '%s'",
                           path, a->id);
    }
    for (int64_t i = 0; i < want->n_steps; i++) {
        const ks_step_row *a = &have->steps[i], *b = &want->steps[i];
        if (a->chain != b->chain || a->byte_begin != b->byte_begin ||
            a->byte_end != b->byte_end || a->token_begin != b->token_begin ||
            a->token_end != b->token_end ||
            (want->has_labels && a->label != b->label))
            return ks_fail(err, KS_MISMATCH,
                           "%s was made with other steps or "
                           "labels: row %lld was bytes %d to %d of chain '%s', "
                           "label %d, now bytes %d to %d, label %d",
                           path, (long long)i, a->byte_begin, a->byte_end,
                           have->chains[a->chain].id, a->label, b->byte_begin,
                           b->byte_end, b->label);
    }
    return ks_fail(err, KS_MISMATCH,
                   "%s was made from other chains or "
                   "settings%s",
                   path, want->shard ? ", in this shard or in another" : "");
}

/* The file's spec hash differs: say where. */
static ks_status name_difference(const char *path, const ks_acts_info *have,
                                 const ks_acts_spec *want, ks_err *err) {
#define TEXT(field, what)                                                      \
    if (strcmp(have->field, want->field) != 0)                                 \
    return differs(err, path, what, have->field, want->field)
#define NUMBER(field, what)                                                    \
    if ((int64_t)have->field != (int64_t)want->field)                          \
    return differs_in(err, path, what, (int64_t)have->field,                   \
                      (int64_t)want->field)
    if (!have->shard != !want->shard)
        return differs(err, path, "shard", have->shard ? have->shard : "none",
                       want->shard ? want->shard : "none");
    if (have->shard) TEXT(shard, "shard");
    TEXT(model_name, "model");
    TEXT(model_sha256, "model content SHA-256");
    TEXT(tokenizer_hash, "tokenizer");
    NUMBER(random_weights, "random weights of seed");
    NUMBER(n_layers, "a number of layers of");
    NUMBER(d, "a width of");
    if (have->dtype != want->dtype)
        return differs(err, path, "dtype", ks_type_name(have->dtype),
                       ks_type_name(want->dtype));
    if (have->context_none != want->context_none)
        return differs(err, path, "context",
                       have->context_none ? "none" : "full",
                       want->context_none ? "none" : "full");
    NUMBER(streams, "the set of streams");
    NUMBER(positions, "the set of positions");
    TEXT(config, "settings");
    NUMBER(n_chains, "a number of chains of");
    NUMBER(n_steps, "a number of steps of");
    NUMBER(has_labels, "labels (1: yes):");
#undef TEXT
#undef NUMBER
    return compare_steps(path, have, want, err);
}

/* What may differ under force, since rows keep their meaning if not their
 * bits. */
static ks_status compare_machine(const char *path, const ks_acts_info *have,
                                 const ks_acts_spec *want, ks_err *err) {
    ks_status st = KS_OK;
    if (strcmp(have->backend, want->backend) != 0)
        st = differs(err, path, "backend", have->backend, want->backend);
    else if (strcmp(have->isa, want->isa) != 0)
        st = differs(err, path, "instruction set", have->isa, want->isa);
    else if (strcmp(have->program_version, KS_VERSION) != 0)
        st = differs(err, path, "program version", have->program_version,
                     KS_VERSION);
    if (st != KS_OK) ks_fail_more(err, st, "; --force continues all the same");
    return st;
}

static ks_status amend(const ks_acts *acts, const ks_acts_info *have,
                       const ks_acts_spec *want, ks_err *err) {
    char isa[KS__ACTS_WORD], backend[KS__ACTS_WORD], version[KS__ACTS_WORD];
    ks_join_word(isa, sizeof isa, have->isa, want->isa);
    ks_join_word(backend, sizeof backend, have->backend, want->backend);
    ks_join_word(version, sizeof version, have->program_version, KS_VERSION);
    return ks__acts_amend(acts->part, isa, backend, version, err);
}

/* The first row of steps [0, until) whose bytes do not have their checksum;
 * `until` when all do. */
static int64_t first_bad_step(const ks_acts *acts, const ks_acts_file *file,
                              int64_t until) {
    for (int i = 0; i < file->layout.n_sets; i++) {
        const ks__acts_set *set = &file->layout.sets[i];
        for (int32_t l = 0; l < set->n_layers; l++)
            for (int64_t s = 0; s < until; s++) {
                int64_t end = ks__acts_rows_until(acts, set, s + 1);
                for (int64_t r = ks__acts_rows_until(acts, set, s); r < end;
                     r++) {
                    uint32_t sum;
                    memcpy(&sum, ks__acts_mapped_sums(file, set, l, r), 4);
                    if (ks__crc32c(0, ks__acts_mapped(file, set, l, r),
                                   file->layout.row_bytes) != sum)
                        until = s;
                }
            }
    }
    return until;
}

/* Keeps the runs whose rows are all as the journal says. */
static ks_status keep_good_runs(const ks_acts *acts, const ks_acts_file *file,
                                const ks__acts_run *runs, size_t *n,
                                ks_err *err) {
    ks_status st = KS_OK;
    size_t good = 0;
    for (; good < *n; good++) {
        uint32_t crc;
        KS_TRY(ks__acts_run_sum(acts, runs[good].begin, runs[good].end, &crc,
                                err));
        if (crc != runs[good].crc) break;
    }
    int64_t until = first_bad_step(acts, file, good ? runs[good - 1].end : 0);
    while (good && runs[good - 1].end > until) good--;
    *n = good;
done:
    return st;
}

/* Takes up acts->part, whose layout comes from the file itself. */
static ks_status take_up(ks_acts *acts, const ks_acts_spec *spec, bool force,
                         int64_t *done, ks_err *err) {
    ks_status st = KS_OK;
    ks_acts_file *file = NULL;
    ks__acts_run *runs = NULL;
    size_t n = 0;
    char hash[65];
    KS_TRY(ks__acts_open_any(&file, acts->part, err));
    const ks_acts_info *have = ks_acts_get_info(file);
    KS_TRY(ks_acts_spec_hash(spec, hash, err));
    if (strcmp(hash, file->spec_hash) != 0)
        KS_TRY(name_difference(acts->part, have, spec, err));
    KS_CHECK(file->layout.n_sets == acts->layout.n_sets, KS_FORMAT,
             "%s: has %d data sets, expected %d", acts->part,
             file->layout.n_sets, acts->layout.n_sets);
    for (int i = 0; i < file->layout.n_sets; i++)
        KS_CHECK(file->has_sums[i], KS_FORMAT,
                 "%s: a data set is virtual or "
                 "has no checksums",
                 acts->part);
    acts->layout = file->layout;
    KS_TRY(ks__journal_read(acts->journal_path, hash, acts->layout.file_bytes,
                            spec->n_steps, &runs, &n, err));
    st = compare_machine(acts->part, have, spec, err);
    if (st != KS_OK && !force) goto done;
    if (st != KS_OK) KS_TRY(amend(acts, have, spec, err));
    KS_TRY(open_part(acts, err));
    KS_TRY(reserve_space(acts, err));
    KS_TRY(keep_good_runs(acts, file, runs, &n, err));
    KS_TRY(ks__journal_create(&acts->journal, acts->journal_path, hash,
                              acts->layout.file_bytes, runs, n, err));
    *done = n ? runs[n - 1].end : 0;
done:
    free(runs);
    ks_acts_close(&file);
    return st;
}

/* ------------------------------------------------------------------ create */

/* resume meets the finished file: nothing to do, or a reason. */
static ks_status is_complete(const char *path, const ks_acts_spec *spec,
                             ks_err *err) {
    ks_status st = KS_OK;
    ks_acts_file *file = NULL;
    char hash[65];
    KS_TRY(ks_acts_open(&file, path, err));
    KS_TRY(ks_acts_spec_hash(spec, hash, err));
    if (strcmp(hash, file->spec_hash) != 0)
        KS_TRY(name_difference(path, &file->info, spec, err));
    KS_TRY(compare_machine(path, &file->info, spec, err));
done:
    ks_acts_close(&file);
    return st;
}

static ks_status name_files(ks_acts *acts, const char *path, ks_err *err) {
    acts->path = strdup(path);
    if (asprintf(&acts->part, "%s.part", path) < 0) acts->part = NULL;
    if (asprintf(&acts->journal_path, "%s.journal", path) < 0)
        acts->journal_path = NULL;
    return acts->path && acts->part && acts->journal_path
               ? KS_OK
               : ks_fail(err, KS_NOMEM, "out of memory for a path");
}

static ks_status count_tokens(ks_acts *acts, const ks_acts_spec *spec,
                              ks_err *err) {
    size_t n = (size_t)spec->n_steps;
    ks_status st = ks_alloc(&acts->token_row, n + 1, sizeof *acts->token_row,
                            "the steps", err);
    for (size_t i = 0; i < n && st == KS_OK; i++)
        acts->token_row[i + 1] = acts->token_row[i] + spec->steps[i].token_end -
                                 spec->steps[i].token_begin;
    return st;
}

static void release_all(ks_acts **out) {
    ks_acts *acts = *out;
    if (!acts) return;
    if (acts->fd >= 0) close(acts->fd);
    ks__journal_close(&acts->journal);
    ks_lock_drop(&acts->lock);
    pthread_cond_destroy(&acts->not_full);
    pthread_cond_destroy(&acts->not_empty);
    pthread_cond_destroy(&acts->flush);
    pthread_mutex_destroy(&acts->mutex);
    free(acts->ring);
    free(acts->queue);
    free(acts->runs);
    free(acts->sums);
    free(acts->sum_runs);
    free(acts->token_row);
    free(acts->path);
    free(acts->part);
    free(acts->journal_path);
    free(acts);
    *out = NULL;
}

static ks_status blank(ks_acts **out, const char *path, ks_err *err) {
    ks_status st = ks_alloc(out, 1, sizeof **out, "the activation store", err);
    if (st != KS_OK) return st;
    ks_acts *acts = *out;
    acts->fd = acts->journal.fd = -1;
    pthread_mutex_init(&acts->mutex, NULL);
    pthread_cond_init(&acts->not_full, NULL);
    pthread_cond_init(&acts->not_empty, NULL);
    pthread_cond_init(&acts->flush, NULL);
    return name_files(acts, path, err);
}

/* With the lock held: fresh, taken up, or refused. */
static ks_status make_or_take_up(ks_acts *acts, const ks_acts_spec *spec,
                                 const ks_acts_options *options, int64_t *done,
                                 ks_err *err) {
    bool part = ks_file_exists(acts->part);
    bool journal = ks_file_exists(acts->journal_path);
    /* without a journal nothing of the part was ever vouched for */
    if (options->resume && part && journal)
        return take_up(acts, spec, options->force, done, err);
    if (part && !options->resume && !options->force)
        return ks_fail(err, KS_EXISTS,
                       "%s: an interrupted capture is there; "
                       "--resume continues it, --force starts afresh",
                       acts->part);
    return make_fresh(acts, spec, err);
}

ks_status ks_acts_create(ks_acts **out, const char *path,
                         const ks_acts_spec *spec,
                         const ks_acts_options *options, int64_t *done,
                         ks_err *err) {
    ks_status st = KS_OK;
    ks_acts *acts = NULL;
    *out = NULL;
    *done = 0;
    KS_TRY(blank(&acts, path, err));
    KS_TRY(ks__acts_plan(&acts->layout, spec, err));
    KS_TRY(count_tokens(acts, spec, err));
    KS_TRY(ks_lock_take(&acts->lock, path, err));
    if (options->resume && ks_file_exists(path)) {
        st = is_complete(path, spec, err);
        if (st == KS_OK) {
            /* killed between the last rename and this removal */
            if (!ks_file_exists(acts->part)) unlink(acts->journal_path);
            *done = spec->n_steps;
            goto done;
        }
        if (!options->force) goto done;
    }
    KS_TRY(ks_refuse_existing(path, options->force, err));
    KS_TRY(make_or_take_up(acts, spec, options, done, err));
    acts->n_steps = spec->n_steps;
    acts->committed = *done;
    acts->sync_seconds = options->sync_seconds == 0 ? 5 : options->sync_seconds;
    for (int i = 0; i < acts->layout.n_sets; i++) {
        ks__acts_set *set = &acts->layout.sets[i];
        acts->set_of[set->stream][set->position] = set;
    }
    KS_TRY(ks__acts_start(acts, options->ring_bytes, err));
    *out = acts;
    acts = NULL;
done:
    release_all(&acts);
    return st;
}

/* ------------------------------------------------------------------ the end */

static ks_status rename_whole(ks_acts *acts, ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(acts->committed == acts->n_steps, KS_INTERNAL,
             "%s: %lld of %lld steps were written", acts->part,
             (long long)acts->committed, (long long)acts->n_steps);
    if (fsync(acts->fd) != 0) KS_TRY(io_error(err, acts->part, "sync"));
    if (rename(acts->part, acts->path) != 0)
        KS_TRY(io_error(err, acts->path, "rename to"));
    KS_TRY(ks_sync_folder_of(acts->path, err));
    unlink(acts->journal_path);
done:
    return st;
}

ks_status ks_acts_finish(ks_acts **acts, ks_err *err) {
    ks_status st = ks__acts_stop(*acts, err);
    if (st == KS_OK) st = rename_whole(*acts, err);
    release_all(acts);
    return st;
}

void ks_acts_abandon(ks_acts **acts) {
    if (!*acts) return;
    ks__acts_stop(*acts, NULL);
    release_all(acts);
}
