/* base.c - errors, checked memory, growing strings, names of types. */
#include "base.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

volatile int ks_interrupted = 0;

const char *ks_status_text(ks_status status) {
    static const char *const text[] = {
#define KS_STATUS_TEXT(name, words) words,
        KS_STATUS_LIST(KS_STATUS_TEXT)
#undef KS_STATUS_TEXT
    };
    return (size_t)status < KS_COUNT(text) ? text[status] : "unknown status";
}

#undef ks_fail /* base.h's, for clang-tidy */
ks_status ks_fail(ks_err *err, ks_status code, const char *format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        /* formatted aside: the sentence may quote err->text */
        char text[sizeof err->text];
        vsnprintf(text, sizeof text, format, args);
        va_end(args);
        memcpy(err->text, text, sizeof text);
        err->code = code;
    }
    return code;
}

ks_status ks_fail_more(ks_err *err, ks_status code, const char *format, ...) {
    if (err) {
        va_list args;
        size_t n = strlen(err->text);
        va_start(args, format);
        vsnprintf(err->text + n, sizeof err->text - n, format, args);
        va_end(args);
        err->code = code;
    }
    return code;
}

double ks_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ------------------------------------------------------------------ memory */

ks_status ks_alloc(void *out, size_t n, size_t size, const char *what,
                   ks_err *err) {
    void *memory = calloc(n ? n : 1, size ? size : 1);
    if (!memory)
        return ks_fail(err, KS_NOMEM, "out of memory: %zu x %zu bytes for %s",
                       n, size, what);
    memcpy(out, &memory, sizeof memory);
    return KS_OK;
}

ks_status ks_grow(void *array, size_t *capacity, size_t need, size_t size,
                  const char *what, ks_err *err) {
    if (need <= *capacity) return KS_OK;
    size_t to = *capacity ? *capacity : 16;
    while (to < need) {
        if (to > SIZE_MAX / 2) {
            to = need;
            break;
        }
        to *= 2;
    }
    void *memory;
    memcpy(&memory, array, sizeof memory);
    void *grown = reallocarray(memory, to, size);
    if (!grown)
        return ks_fail(err, KS_NOMEM, "out of memory: %zu x %zu bytes for %s",
                       to, size, what);
    memcpy(array, &grown, sizeof grown);
    *capacity = to;
    return KS_OK;
}

/* ----------------------------------------------------------------- strings */

void ks_join_word(char *out, size_t n, const char *list, const char *word) {
    const char *found = strstr(list, word);
    size_t length = strlen(word);
    bool there = found && (found == list || found[-1] == '+') &&
                 (found[length] == 0 || found[length] == '+');
    if (out != list) snprintf(out, n, "%s", list);
    size_t at = strlen(out);
    if (!there) snprintf(out + at, n - at, "+%s", word);
}

const char *ks_plural(size_t n) {
    return n == 1 ? "" : "s";
}

bool ks_ends_with(const char *text, const char *end) {
    size_t n = strlen(text), k = strlen(end);
    return n >= k && strcmp(text + n - k, end) == 0;
}

bool ks_whole(const char *text, int64_t *out) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end > text && (*end == 'e' || *end == 'E')) { /* 1e6 */
        double real = strtod(text, &end);
        if (real != rint(real) || fabs(real) > 0x1p53) return false;
        value = (long long)real;
    }
    if (end == text || *end || errno) return false;
    *out = value;
    return true;
}

ks_status ks_str_add(ks_str *s, const char *bytes, size_t n, ks_err *err) {
    if (n > SIZE_MAX - s->length - 1)
        return ks_fail(err, KS_NOMEM, "a string of %zu + %zu bytes", s->length,
                       n);
    ks_status st =
        ks_grow(&s->data, &s->capacity, s->length + n + 1, 1, "a string", err);
    if (st != KS_OK) return st;
    if (n) memcpy(s->data + s->length, bytes, n);
    s->length += n;
    s->data[s->length] = 0;
    return KS_OK;
}

ks_status ks_str_printf(ks_str *s, ks_err *err, const char *format, ...) {
    va_list args;
    va_start(args, format);
    char *text = NULL;
    int n = vasprintf(&text, format, args);
    va_end(args);
    if (n < 0) return ks_fail(err, KS_NOMEM, "out of memory for a string");
    ks_status st = ks_str_add(s, text, (size_t)n, err);
    free(text);
    return st;
}

void ks_str_free(ks_str *s) {
    free(s->data);
    *s = (ks_str){0};
}

/* ------------------------------------------------------------------- names */

const char *ks_stream_name(ks_stream stream) {
    static const char *const names[] = {"resid", "attn", "mlp"};
    return (size_t)stream < KS_COUNT(names) ? names[stream] : "?";
}

const char *ks_position_name(ks_position position) {
    static const char *const names[] = {"mean", "first",  "middle",
                                        "last", "before", "tokens"};
    return (size_t)position < KS_COUNT(names) ? names[position] : "?";
}

void ks_tokens_free(ks_tokens *tokens) {
    free(tokens->ids);
    free(tokens->begin);
    free(tokens->end);
    *tokens = (ks_tokens){0};
}
