/* acts_join.c - activation files of shards as one: the steps and chains of all
 * of them, and their rows behind virtual data sets or copied. Whether all of a
 * run is there, once and in order, is told by its identity: the spec that the
 * shards make up must hash to what each says the whole does. */
#include "acts_format.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "join.h"

typedef struct joining {
    const ks_join_options *options;
    char *const *paths;
    int32_t n;
    ks_acts_file **files; /* [n] */
    const char **names;   /* [n] the last parts of their paths */
    const ks__acts_layout **layouts;
    ks_acts_spec spec; /* of the whole */
    ks_step_row *steps;
    ks_chain_row *chains;
    char isa[KS__ACTS_WORD], backend[KS__ACTS_WORD], version[KS__ACTS_WORD];
    ks__acts_layout layout;
    ks_join_fn progress;
    void *user;
    uint64_t done, all; /* bytes of rows */
} joining;

static const ks_acts_info *info_of(const joining *j, int32_t i) {
    return &j->files[i]->info;
}

static ks_status io_error(ks_err *err, const char *path, const char *doing) {
    return ks_fail(err, KS_IO, "%s: cannot %s: %s", path, doing,
                   strerror(errno));
}

/* ----------------------------------------------------------- the same run? */

static ks_status differ(const joining *j, int32_t i, const char *what,
                        const char *first, const char *this, ks_err *err) {
    return ks_fail(err, KS_MISMATCH,
                   "%s and %s are shards of different runs: %s is '%.200s' in "
                   "the first and '%.200s' in the second",
                   j->paths[0], j->paths[i], what, first, this);
}

static ks_status compare_run(const joining *j, int32_t i, ks_err *err) {
    const ks_acts_info *a = info_of(j, 0), *b = info_of(j, i);
    const struct {
        const char *what, *first, *this;
    } texts[] = {{"the model", a->model_name, b->model_name},
                 {"the model's SHA-256", a->model_sha256, b->model_sha256},
                 {"the tokenizer", a->tokenizer_hash, b->tokenizer_hash},
                 {"the settings", a->config, b->config},
                 {"the identity of the whole (its chains, steps and labels)",
                  a->whole_sha256, b->whole_sha256}};
    for (size_t k = 0; k < KS_COUNT(texts); k++)
        if (strcmp(texts[k].first, texts[k].this) != 0)
            return differ(j, i, texts[k].what, texts[k].first, texts[k].this,
                          err);
    return KS_OK;
}

/* What resume lets through under force, and so does a join. */
static ks_status compare_machine(const joining *j, int32_t i, ks_err *err) {
    const ks_acts_info *a = info_of(j, 0), *b = info_of(j, i);
    const char *what = strcmp(a->backend, b->backend) != 0 ? "the backend"
                       : strcmp(a->isa, b->isa) != 0 ? "the instruction set"
                       : strcmp(a->program_version, b->program_version) != 0
                           ? "the program's version"
                           : NULL;
    if (!what || j->options->force) return KS_OK;
    return ks_fail(err, KS_MISMATCH,
                   "%s and %s were not made alike: %s differs (%s, %s, %s; %s, "
                   "%s, %s); --force joins them all the same",
                   j->paths[0], j->paths[i], what, a->backend, a->isa,
                   a->program_version, b->backend, b->isa, b->program_version);
}

static void note_word(char list[KS__ACTS_WORD], const char *word) {
    if (*list)
        ks_join_word(list, KS__ACTS_WORD, list, word);
    else
        snprintf(list, KS__ACTS_WORD, "%s", word);
}

static ks_status open_shard(joining *j, int32_t i, ks_err *err) {
    ks_status st = KS_OK;
    char expected[32];
    KS_TRY(ks_acts_open(&j->files[i], j->paths[i], err));
    const ks_acts_file *f = j->files[i];
    const ks_acts_info *info = &f->info;
    KS_CHECK(info->shard, KS_MISMATCH,
             "%s: is no shard: it was captured without --shard", j->paths[i]);
    snprintf(expected, sizeof expected, "%d/%d", i + 1, j->n);
    KS_CHECK(strcmp(info->shard, expected) == 0, KS_MISMATCH,
             "%s: is shard %.32s, expected %s", j->paths[i], info->shard,
             expected);
    for (int s = 0; s < f->layout.n_sets; s++)
        KS_CHECK(f->has_sums[s], KS_FORMAT,
                 "%s: a data set is virtual or has no checksums", j->paths[i]);
    KS_TRY(compare_run(j, i, err));
    KS_TRY(compare_machine(j, i, err));
    KS_CHECK(f->layout.n_sets == j->files[0]->layout.n_sets, KS_FORMAT,
             "%s: has %d data sets, %s has %d", j->paths[i], f->layout.n_sets,
             j->paths[0], j->files[0]->layout.n_sets);
    const char *slash = strrchr(j->paths[i], '/');
    j->names[i] = slash ? slash + 1 : j->paths[i];
    j->layouts[i] = &f->layout;
    note_word(j->isa, info->isa);
    note_word(j->backend, info->backend);
    note_word(j->version, info->program_version);
done:
    return st;
}

/* ---------------------------------------------------------------- the whole */

static ks_status gather_rows(joining *j, ks_err *err) {
    ks_status st = KS_OK;
    int64_t n_steps = 0, n_chains = 0;
    for (int32_t i = 0; i < j->n; i++) {
        n_steps += info_of(j, i)->n_steps;
        n_chains += info_of(j, i)->n_chains;
    }
    KS_CHECK(n_chains <= INT32_MAX, KS_LIMIT, "%lld chains",
             (long long)n_chains);
    KS_TRY(ks_alloc(&j->steps, (size_t)n_steps, sizeof *j->steps, "the steps",
                    err));
    KS_TRY(ks_alloc(&j->chains, (size_t)n_chains, sizeof *j->chains,
                    "the chains", err));
    n_steps = n_chains = 0;
    for (int32_t i = 0; i < j->n; i++) {
        const ks_acts_info *info = info_of(j, i);
        for (int64_t s = 0; s < info->n_steps; s++) {
            ks_step_row *row = &j->steps[n_steps++];
            *row = info->steps[s];
            row->chain += (int32_t)n_chains;
        }
        for (int64_t c = 0; c < info->n_chains; c++)
            j->chains[n_chains++] = info->chains[c];
    }
    j->spec.steps = j->steps;
    j->spec.chains = j->chains;
    j->spec.n_steps = n_steps;
    j->spec.n_chains = n_chains;
done:
    return st;
}

static ks_status make_spec(joining *j, ks_err *err) {
    ks_status st = KS_OK;
    const ks_acts_info *a = info_of(j, 0);
    char hash[65];
    KS_TRY(gather_rows(j, err));
    j->spec.streams = a->streams;
    j->spec.positions = a->positions;
    j->spec.n_layers = a->n_layers;
    j->spec.d = a->d;
    j->spec.n_listed = a->n_listed;
    j->spec.listed = a->listed;
    j->spec.dtype = a->dtype;
    j->spec.context_none = a->context_none;
    j->spec.has_labels = a->has_labels;
    j->spec.random_weights = a->random_weights;
    j->spec.model_name = a->model_name;
    j->spec.model_sha256 = a->model_sha256;
    j->spec.tokenizer_hash = a->tokenizer_hash;
    j->spec.isa = j->isa;
    j->spec.backend = j->backend;
    j->spec.config = a->config;
    KS_TRY(ks_acts_spec_hash(&j->spec, hash, err));
    KS_CHECK(strcmp(hash, a->whole_sha256) == 0, KS_MISMATCH,
             "%s to %s do not make up the run that they say they are of: its "
             "identity is %.12s..., theirs together %.12s...",
             j->paths[0], j->paths[j->n - 1], a->whole_sha256, hash);
    KS_TRY(ks__acts_plan(&j->layout, &j->spec, err));
done:
    return st;
}

/* --------------------------------------------------------------------- rows */

static ks_status put_bytes(int fd, const char *path, const uint8_t *from,
                           uint64_t n, uint64_t at, ks_err *err) {
    while (n) {
        ssize_t wrote =
            pwrite(fd, from, (size_t)KS_MIN(n, 1u << 30), (off_t)at);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0) return io_error(err, path, "write");
        from += wrote;
        n -= (uint64_t)wrote;
        at += (uint64_t)wrote;
    }
    return KS_OK;
}

static ks_status check_row(const joining *j, int32_t i, const ks__acts_set *set,
                           int32_t layer, int64_t row, ks_err *err) {
    const ks_acts_file *f = j->files[i];
    uint32_t sum;
    memcpy(&sum, ks__acts_mapped_sums(f, set, layer, row), sizeof sum);
    if (ks__crc32c(0, ks__acts_mapped(f, set, layer, row),
                   f->layout.row_bytes) == sum)
        return KS_OK;
    return ks_fail(err, KS_FORMAT,
                   "%s: /activations/%s/%s layer %d row %lld does not have the "
                   "checksum that was stored with it",
                   j->paths[i], ks_stream_name(set->stream),
                   ks_position_name(set->position),
                   ks__acts_layer(&f->layout, layer), (long long)row);
}

/* A shard's rows of one layer to row `at` of the whole, some at a time. */
static ks_status copy_layer(joining *j, int fd, const char *to, int set_at,
                            int32_t layer, int32_t i, int64_t at, ks_err *err) {
    ks_status st = KS_OK;
    enum { PIECE = 4 << 20 };
    const ks_acts_file *f = j->files[i];
    const ks__acts_set *from = &f->layout.sets[set_at];
    const ks__acts_set *set = &j->layout.sets[set_at];
    size_t bytes = f->layout.row_bytes;
    int64_t step = KS_MAX((int64_t)(PIECE / bytes), 1);
    for (int64_t row = 0, n; row < from->n_rows; row += n) {
        n = KS_MIN(step, from->n_rows - row);
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED,
                 "interrupted; nothing is left "
                 "of the join");
        for (int64_t k = 0; k < n; k++)
            KS_TRY(check_row(j, i, from, layer, row + k, err));
        KS_TRY(put_bytes(
            fd, to, ks__acts_mapped(f, from, layer, row), (uint64_t)n * bytes,
            ks__acts_row_at(&j->layout, set, layer, at + row), err));
        KS_TRY(put_bytes(fd, to, ks__acts_mapped_sums(f, from, layer, row),
                         (uint64_t)n * 4, ks__acts_sum_at(set, layer, at + row),
                         err));
        j->done += (uint64_t)n * bytes;
        if (j->progress) j->progress(j->user, j->done, j->all);
    }
done:
    return st;
}

static ks_status copy_rows(joining *j, int fd, const char *to, ks_err *err) {
    ks_status st = KS_OK;
    for (int s = 0; s < j->layout.n_sets; s++)
        j->all += (uint64_t)j->layout.sets[s].n_layers *
                  (uint64_t)j->layout.sets[s].n_rows * j->layout.row_bytes;
    for (int s = 0; s < j->layout.n_sets; s++)
        for (int32_t l = 0; l < j->layout.sets[s].n_layers; l++) {
            int64_t at = 0;
            for (int32_t i = 0; i < j->n; i++) {
                KS_TRY(copy_layer(j, fd, to, s, l, i, at, err));
                at += j->files[i]->layout.sets[s].n_rows;
            }
        }
done:
    return st;
}

/* --------------------------------------------------------------------- file */

/* All space is asked for before HDF5 writes its part: the library does not
 * survive a full disk. */
static ks_status reserve(const joining *j, const char *to, ks_err *err) {
    uint64_t bytes = j->options->copy ? ks_acts_file_bytes(&j->spec) : 1 << 20;
    int fd = open(to, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return io_error(err, to, "create");
    int failed = posix_fallocate(fd, 0, (off_t)bytes);
    close(fd);
    if (!failed) return KS_OK;
    return ks_fail(err, KS_IO, "%s: cannot reserve its %llu bytes: %s", to,
                   (unsigned long long)bytes, strerror(failed));
}

static ks_status make(joining *j, const char *to, ks_err *err) {
    ks_status st = KS_OK;
    const ks__acts_parts parts = {j->n, j->names, j->layouts};
    bool copy = j->options->copy;
    int fd = -1;
    KS_TRY(reserve(j, to, err));
    KS_TRY(ks__acts_build(to, &j->spec, &j->layout, copy ? NULL : &parts, err));
    if (strcmp(j->version, KS_VERSION) != 0)
        KS_TRY(ks__acts_amend(to, j->isa, j->backend, j->version, err));
    fd = open(to, O_RDWR | O_CLOEXEC);
    if (fd < 0) KS_TRY(io_error(err, to, "open"));
    if (copy) {
        int failed = posix_fallocate(fd, 0, (off_t)j->layout.file_bytes);
        KS_CHECK(!failed, KS_IO, "%s: cannot reserve its %llu bytes: %s", to,
                 (unsigned long long)j->layout.file_bytes, strerror(failed));
        KS_TRY(copy_rows(j, fd, to, err));
    }
    if (fsync(fd) != 0) KS_TRY(io_error(err, to, "sync"));
done:
    if (fd >= 0) close(fd);
    return st;
}

ks_status ks__acts_join(const ks_join_options *options, char *const *shards,
                        const char *to, ks_join_fn progress, void *user,
                        ks_join_sum *sum, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)options->shards;
    ks_acts_file *made = NULL;
    joining j = {.options = options,
                 .paths = shards,
                 .n = options->shards,
                 .progress = progress,
                 .user = user};
    KS_TRY(ks_alloc(&j.files, n, sizeof *j.files, "the shards", err));
    KS_TRY(ks_alloc(&j.names, n, sizeof *j.names, "the shards", err));
    KS_TRY(ks_alloc(&j.layouts, n, sizeof *j.layouts, "the shards", err));
    for (int32_t i = 0; i < j.n; i++) KS_TRY(open_shard(&j, i, err));
    KS_TRY(make_spec(&j, err));
    KS_TRY(make(&j, to, err));
    KS_TRY(ks__acts_open_any(&made, to, err)); /* as its readers will */
    *sum = (ks_join_sum){.acts = true,
                         .copied = options->copy,
                         .chains = j.spec.n_chains,
                         .steps = j.spec.n_steps,
                         .bytes = made->map.size};
done:
    ks_acts_close(&made);
    for (size_t i = 0; j.files && i < n; i++) ks_acts_close(&j.files[i]);
    free(j.files);
    free(j.names);
    free(j.layouts);
    free(j.steps);
    free(j.chains);
    return st;
}
