/* base.h - what every source file of the library shares: errors, checked
 * memory, files, hashes, logging, JSON Lines. Nothing here knows a model. */
#ifndef KS_BASE_H
#define KS_BASE_H

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>

#include "keystep.h"

#define KS_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define KS_MIN(a, b) ((a) < (b) ? (a) : (b))
#define KS_MAX(a, b) ((a) > (b) ? (a) : (b))

#define KS_PRINTF(format_at, args_at)                                          \
    __attribute__((format(printf, format_at, args_at)))

/* ------------------------------------------------------------------ errors */

/* Fills err (may be NULL) and returns code: return ks_fail(err, KS_IO, ...). */
ks_status ks_fail(ks_err *err, ks_status code, const char *format, ...)
    KS_PRINTF(3, 4);

/* Adds to the sentence of a failure, and returns its code. */
ks_status ks_fail_more(ks_err *err, ks_status code, const char *format, ...)
    KS_PRINTF(3, 4);

/* In a function with `ks_status st = KS_OK;` and one `done:` label. */
#define KS_TRY(call)                                                           \
    do {                                                                       \
        st = (call);                                                           \
        if (st != KS_OK) goto done;                                            \
    } while (0)

/* KS_TRY for a condition that the sentence explains; fills the function's own
 * `err`: KS_CHECK(n > 0, KS_FORMAT, "%s: no rows", path). */
#define KS_CHECK(condition, ...)                                               \
    do {                                                                       \
        if (!(condition)) {                                                    \
            st = ks_fail(err, __VA_ARGS__);                                    \
            goto done;                                                         \
        }                                                                      \
    } while (0)

/* ------------------------------------------------------------------ memory */

/* n elements of size bytes, zeroed; checks the product; the sentence says how
 * much was wanted for what. */
ks_status ks_alloc(void *out, size_t n, size_t size, const char *what,
                   ks_err *err);
/* Grows *array (malloc'd) to hold at least `need` elements, doubling. */
ks_status ks_grow(void *array, size_t *capacity, size_t need, size_t size,
                  const char *what, ks_err *err);

/* A growing byte string, always NUL-terminated once something was added. */
typedef struct ks_str {
    char *data;
    size_t length, capacity;
} ks_str;
ks_status ks_str_add(ks_str *s, const char *bytes, size_t n, ks_err *err);
ks_status ks_str_printf(ks_str *s, ks_err *err, const char *format, ...)
    KS_PRINTF(3, 4);
void ks_str_free(ks_str *s);

/* "avx2" and "avx512" to "avx2+avx512": word in a list, once. out [n] may be
 * list. */
void ks_join_word(char *out, size_t n, const char *list, const char *word);

/* What a noun has behind it: "%zu step%s". */
const char *ks_plural(size_t n);

bool ks_ends_with(const char *text, const char *end);

/* A text that is a whole number and no more: 1000, -3, and 1e6 up to 2^53. */
bool ks_whole(const char *text, int64_t *out);

/* ------------------------------------------------------------------- files */

/* A whole file mapped read-only. data is NULL for an empty file. */
typedef struct ks_map {
    const uint8_t *data;
    size_t size;
} ks_map;
ks_status ks_map_open(ks_map *out, const char *path, ks_err *err);
void ks_map_close(ks_map *map);

/* Opens a file or a pipe to be read, "-": standard input. KS_IO for devices,
 * which need not end (/dev/zero); /dev/null and a terminal do. */
ks_status ks_open_input(FILE **out, const char *path, ks_err *err);
/* NULL: nothing to do. Standard input stays open. */
void ks_close_input(FILE *file);

/* Of what people and makers of models write (a config, a tokenizer.json), and
 * of what has a line for each chain. They are there for pipes that never end,
 * not against large data. */
#define KS_MOST_CONFIG ((size_t)256 << 20)
#define KS_MOST_DATA ((size_t)8 << 30)
/* All that ks_open_input opens, into malloc'd, NUL-terminated text: at most
 * `most` bytes, KS_LIMIT beyond. SIZE_MAX, no limit, is for what this program
 * or the kernel wrote. length may be NULL. */
ks_status ks_read_file(const char *path, size_t most, char **text,
                       size_t *length, ks_err *err);
/* Writes path.new, syncs, renames: a file of that name is always whole, and
 * path.part, what a command has so far, stays until path is there. Refuses an
 * existing path unless force. */
ks_status ks_write_file(const char *path, const char *text, size_t length,
                        bool force, ks_err *err);
/* The same; "-" or NULL: standard output. */
ks_status ks_write_out(const char *path, const char *text, size_t length,
                       bool force, ks_err *err);
/* Fails with KS_EXISTS when path exists and force is false, or when it is
 * anything but a file; with KS_IO when no file can be made there. */
ks_status ks_refuse_existing(const char *path, bool force, ks_err *err);
bool ks_file_exists(const char *path);

/* A file by the option that named it ("--out"); path NULL: none. */
typedef struct ks_use {
    const char *option, *path;
    bool written;
} ks_use;
/* KS_USAGE where a file that is written is named twice, by the same path,
 * another, or a link, or where what is written on the way to it (path.part,
 * path.new, path.lock, path.journal) is another's file. "-" is two files:
 * standard input and standard output. */
ks_status ks_refuse_overlap(const ks_use *uses, size_t n, ks_err *err);

/* PATH.lock: one process at a time writes PATH. path NULL: not held. */
typedef struct ks_lock {
    char *path;
    int fd;
} ks_lock;
/* KS_EXISTS naming the process that holds it. Not to be taken twice. */
ks_status ks_lock_take(ks_lock *lock, const char *of, ks_err *err);
void ks_lock_drop(ks_lock *lock);

/* A new or renamed file is durable only once its folder is synced. */
ks_status ks_sync_folder_of(const char *path, ks_err *err);
/* dir + "/" + name, malloc'd */
ks_status ks_path_join(char **out, const char *dir, const char *name,
                       ks_err *err);

/* ------------------------------------------------------------------ hashes */

typedef struct ks_sha256 ks_sha256; /* incremental */
ks_status ks_sha256_open(ks_sha256 **out, ks_err *err);
void ks_sha256_add(ks_sha256 *hash, const void *data, size_t n);
void ks_sha256_close(ks_sha256 **hash, char hex[65]);
void ks_sha256_of(const void *data, size_t n, char hex[65]);

/* Seconds of a clock that only runs forward; from no stated moment. */
double ks_seconds(void);

/* ----------------------------------------------------------------- logging */

typedef enum ks_log_level {
    KS_LOG_QUIET,
    KS_LOG_INFO,
    KS_LOG_DEBUG
} ks_log_level;
void ks_log_level_set(ks_log_level level);
/* One line on stderr, with no time or host in it. The CLI's voice: library
 * code below cli/ does not call it. */
void ks_log(ks_log_level level, const char *format, ...) KS_PRINTF(2, 3);

/* Progress on stderr: a bar with rate and time left on a terminal, a plain
 * line every few seconds elsewhere. unit: "tok", "fit". Where the environment
 * has KEYSTEP_PROGRESS=FILE, whatever the level of words, FILE is a JSON object
 * of the same, renewed at most once a second (docs/formats.md). */
typedef struct ks_progress ks_progress;
ks_progress *ks_progress_open(const char *what, const char *unit, double total);
void ks_progress_set(ks_progress *progress, double done);
/* Where the rate that counts is not that of the units: `rate` of `unit` ("tok")
 * a second, and the seconds left (not finite: nobody knows; at_most: it may
 * well be fewer), in place of what `done` and `total` would say. */
void ks_progress_rate(ks_progress *progress, const char *unit, double rate,
                      double left, bool at_most);
/* A few words at the end of the line, shown with the next set: "12 tok". */
void ks_progress_note(ks_progress *progress, const char *format, ...)
    KS_PRINTF(2, 3);
void ks_progress_close(ks_progress **progress);

/* SIGINT, SIGTERM and SIGUSR1 set it; long loops look at it between batches. */
extern volatile int ks_interrupted;

/* -------------------------------------------------------------- JSON Lines */

/* Reads path ("-": stdin) one JSON object a line, UTF-8 checked, and calls
 * each(user, line_number, object). A bad line is an error naming file, line
 * and reason; so is what `each` returns. Empty lines are skipped. */
typedef ks_status (*ks_jsonl_fn)(void *user, size_t line, json_t *object,
                                 ks_err *err);
ks_status ks_jsonl_read(const char *path, ks_jsonl_fn each, void *user,
                        ks_err *err);

/* The same, but a line that is wrong (malformed, beyond a limit, not fitting
 * the others: also where `each` says so) goes to bad(user, why) and reading
 * goes on. bad may be NULL: none may be wrong. */
typedef void (*ks_jsonl_bad_fn)(void *user, const ks_err *why);
ks_status ks_jsonl_read_good(const char *path, ks_jsonl_fn each,
                             ks_jsonl_bad_fn bad, void *user, ks_err *err);

/* ks_jsonl_read of a file that was read already. */
ks_status ks_jsonl_read_text(const char *name, const char *text, size_t n,
                             ks_jsonl_fn each, void *user, ks_err *err);

/* Adds object as a line. */
ks_status ks_jsonl_add(ks_str *lines, const json_t *object, ks_err *err);

/* OUT.part, what a command that will write OUT has so far, a line at a time,
 * and OUT.lock; path is NULL where OUT is standard output and nothing is kept.
 */
typedef struct ks_part {
    char *path;
    FILE *file; /* flushed after each line */
    ks_lock lock;
} ks_part;

typedef enum ks_found {
    KS_FOUND_NOTHING, /* OUT.part is there, empty */
    KS_FOUND_PART,    /* and has lines of an interrupted run */
    KS_FOUND_WHOLE /* resume: OUT is there without OUT.part, and that stays so
                      unless ks_part_begin is called */
} ks_found;

/* resume: reads the lines of an interrupted run through each (part->path is
 * set), without a last one that a kill left without its end, and goes on behind
 * them; force: starts afresh; neither: an OUT.part that is there is refused. So
 * is what another process writes. Close it also on error. */
ks_status ks_part_open(ks_part *part, const char *out, bool resume, bool force,
                       ks_jsonl_fn each, void *user, ks_found *found,
                       ks_err *err);
/* After KS_FOUND_WHOLE: an empty OUT.part. */
ks_status ks_part_begin(ks_part *part, ks_err *err);
/* Appends object; nothing where part->path is NULL. */
ks_status ks_part_add(ks_part *part, const json_t *object, ks_err *err);
/* gone: OUT is there or was never begun, OUT.part goes. */
void ks_part_close(ks_part *part, bool gone);

/* json_loadb for other people's files, where a length that nobody set may be an
 * integer beyond 64 bits: then all integers are read as reals. */
json_t *ks_json_loadb(const char *text, size_t n, size_t flags,
                      json_error_t *reason);

/* "an object", "a string", ..; "nothing" for NULL. */
const char *ks_json_kind(const json_t *value);

/* The first member of a, of those whose names `of` takes (NULL: all), that b
 * has otherwise or not at all; NULL: none. */
const char *ks_json_difference(const json_t *a, const json_t *b,
                               bool (*of)(const char *name));
/* KS_MISMATCH, "WHERE: NAME is X here and Y there", by the first member of
 * either that differs. there NULL or no object: KS_FORMAT. */
ks_status ks_json_same(const json_t *here, const json_t *there,
                       const char *where, ks_err *err);

/* Typed members of an object; `where` ("chains.jsonl line 3") leads the
 * sentence on error. Strings are borrowed from the object. */
ks_status ks_json_string(json_t *object, const char *key, const char *where,
                         const char **out, size_t *length, ks_err *err);
ks_status ks_json_int(json_t *object, const char *key, const char *where,
                      int64_t low, int64_t high, int64_t *out, ks_err *err);
/* Takes value over, also on failure; NULL is KS_NOMEM. */
ks_status ks_json_set(json_t *object, const char *key, json_t *value,
                      const char *where, ks_err *err);

/* Byte index of the first byte that is not well-formed UTF-8, or n. */
size_t ks_utf8_check(const char *text, size_t n);

/* clang-tidy reads one source file at a time and cannot know that ks_fail
 * returns its code; without this it walks on past every failure. */
#ifdef __clang_analyzer__
#define ks_fail(err, code, ...) (ks_fail(err, code, __VA_ARGS__), (code))
#endif

#endif
