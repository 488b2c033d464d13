/* acts_journal.c - which rows of an unfinished file are durable. JSON Lines:
 * a header that ties the journal to its file, then one line for every run of
 * steps, appended and synced after the run's bytes were. The last line may be
 * torn by a crash; it is dropped, and its steps are computed again. */
#include "acts_format.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static ks_status io_error(ks_err *err, const char *path, const char *doing) {
    return ks_fail(err, KS_IO, "%s: cannot %s: %s", path, doing,
                   strerror(errno));
}

static ks_status write_all(int fd, const char *path, const char *text, size_t n,
                           ks_err *err) {
    while (n) {
        ssize_t wrote = write(fd, text, n);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0) return io_error(err, path, "write");
        text += wrote;
        n -= (size_t)wrote;
    }
    return KS_OK;
}

static ks_status add_runs(ks_str *text, const ks__acts_run *runs, size_t n,
                          ks_err *err) {
    ks_status st = KS_OK;
    for (size_t i = 0; i < n && st == KS_OK; i++)
        st = ks_str_printf(
            text, err, "{\"begin\":%lld,\"end\":%lld,\"crc32c\":%u}\n",
            (long long)runs[i].begin, (long long)runs[i].end, runs[i].crc);
    return st;
}

ks_status ks__journal_create(ks__journal *out, const char *path,
                             const char *spec_hash, uint64_t file_bytes,
                             const ks__acts_run *runs, size_t n, ks_err *err) {
    ks_status st = KS_OK;
    ks_str text = {0};
    *out = (ks__journal){-1, NULL};
    KS_TRY(ks_str_printf(&text, err,
                         "{\"keystep_journal\":1,\"spec_sha256\":\"%s\","
                         "\"bytes\":%llu}\n",
                         spec_hash, (unsigned long long)file_bytes));
    KS_TRY(add_runs(&text, runs, n, err));
    KS_TRY(ks_write_file(path, text.data, text.length, true, err));
    out->path = strdup(path);
    KS_CHECK(out->path, KS_NOMEM, "out of memory for a path");
    out->fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (out->fd < 0) KS_TRY(io_error(err, path, "open"));
done:
    ks_str_free(&text);
    if (st != KS_OK) ks__journal_close(out);
    return st;
}

ks_status ks__journal_append(ks__journal *journal, const ks__acts_run *runs,
                             size_t n, ks_err *err) {
    ks_status st = KS_OK;
    ks_str text = {0};
    if (!n) return KS_OK;
    KS_TRY(add_runs(&text, runs, n, err));
    KS_TRY(write_all(journal->fd, journal->path, text.data, text.length, err));
    if (fdatasync(journal->fd) != 0)
        KS_TRY(io_error(err, journal->path, "sync"));
done:
    ks_str_free(&text);
    return st;
}

void ks__journal_close(ks__journal *journal) {
    if (journal->fd >= 0) close(journal->fd);
    free(journal->path);
    *journal = (ks__journal){-1, NULL};
}

/* ----------------------------------------------------------------- reading */

static ks_status check_header(const char *line, size_t n, const char *path,
                              const char *spec_hash, uint64_t file_bytes,
                              ks_err *err) {
    ks_status st = KS_OK;
    json_int_t version = 0, bytes = 0;
    const char *hash = NULL;
    json_t *header = json_loadb(line, n, JSON_REJECT_DUPLICATES, NULL);
    int bad =
        !header || json_unpack(header, "{s:I,s:s,s:I}", "keystep_journal",
                               &version, "spec_sha256", &hash, "bytes", &bytes);
    KS_CHECK(!bad && version == 1, KS_FORMAT,
             "%s: line 1 is not the head of "
             "a journal; --force without --resume starts afresh",
             path);
    KS_CHECK(strcmp(hash, spec_hash) == 0 && (uint64_t)bytes == file_bytes,
             KS_MISMATCH,
             "%s belongs to another file (%lld bytes, spec "
             "%.12s..., expected %llu bytes, spec %.12s...); --force without "
             "--resume starts afresh",
             path, (long long)bytes, hash, (unsigned long long)file_bytes,
             spec_hash);
done:
    json_decref(header);
    return st;
}

/* A torn or foreign line is the end of what counts, not an error. */
static bool parse_run(const char *line, size_t n, int64_t from, int64_t n_steps,
                      ks__acts_run *run) {
    json_int_t begin = 0, end = 0, crc = 0;
    json_t *object = json_loadb(line, n, JSON_REJECT_DUPLICATES, NULL);
    bool good = object &&
                json_unpack(object, "{s:I,s:I,s:I}", "begin", &begin, "end",
                            &end, "crc32c", &crc) == 0 &&
                begin == from && end > begin && end <= n_steps && crc >= 0 &&
                crc <= UINT32_MAX;
    json_decref(object);
    *run = (ks__acts_run){begin, end, (uint32_t)crc};
    return good;
}

ks_status ks__journal_read(const char *path, const char *spec_hash,
                           uint64_t file_bytes, int64_t n_steps,
                           ks__acts_run **runs, size_t *n, ks_err *err) {
    ks_status st = KS_OK;
    char *text = NULL;
    size_t length = 0, capacity = 0;
    *runs = NULL;
    *n = 0;
    KS_TRY(ks_read_file(path, SIZE_MAX, &text, &length, err));
    char *line = text, *stop = text + length, *end;
    for (size_t at = 0; (end = memchr(line, '\n', (size_t)(stop - line)));
         at++, line = end + 1) {
        size_t size = (size_t)(end - line);
        if (at == 0) {
            KS_TRY(check_header(line, size, path, spec_hash, file_bytes, err));
            continue;
        }
        int64_t from = *n ? (*runs)[*n - 1].end : 0;
        ks__acts_run run;
        if (!parse_run(line, size, from, n_steps, &run)) break;
        KS_TRY(ks_grow(runs, &capacity, *n + 1, sizeof **runs, "the journal",
                       err));
        (*runs)[(*n)++] = run;
    }
    KS_CHECK(line != text, KS_FORMAT,
             "%s: has no head line; --force without "
             "--resume starts afresh",
             path);
done:
    free(text);
    if (st != KS_OK) {
        free(*runs);
        *runs = NULL;
        *n = 0;
    }
    return st;
}
