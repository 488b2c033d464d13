/* regex.c - PCRE2 patterns that compile themselves at first use. */
#include "regex.h"

#include <ctype.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

static ks_status fail(ks_err *err, const ks_regex *regex, int code) {
    char reason[128];
    pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
    if (code == PCRE2_ERROR_NOMEMORY || code == PCRE2_ERROR_HEAPLIMIT) {
        return ks_fail(err, KS_NOMEM, "pattern '%.80s': %s", regex->pattern,
                       reason);
    }
    return ks_fail(err, KS_LIMIT, "pattern '%.80s': %s", regex->pattern,
                   reason);
}

/* Two threads may compile the same pattern; the second lets go of its own. */
static ks_status compiled(ks_regex *regex, pcre2_code **out, ks_err *err) {
    pcre2_code *code = atomic_load(&regex->code);
    if (code == NULL) {
        int reason;
        PCRE2_SIZE at;
        code = pcre2_compile((PCRE2_SPTR)regex->pattern, PCRE2_ZERO_TERMINATED,
                             regex->options | PCRE2_UTF | PCRE2_UCP, &reason,
                             &at, NULL);
        if (code == NULL) return fail(err, regex, reason);
        pcre2_code *other = NULL;
        if (!atomic_compare_exchange_strong(&regex->code, &other, code)) {
            pcre2_code_free(code);
            code = other;
        }
    }
    *out = code;
    return KS_OK;
}

/* One block of match data a thread, since PCRE2 keeps its stack of frames in
 * it: with a fresh one for each of a million matches most time goes there. */
static pthread_key_t match_key;
static pthread_once_t match_once = PTHREAD_ONCE_INIT;
static bool match_known;

static void free_match(void *match) {
    pcre2_match_data_free(match);
}

static void make_key(void) {
    match_known = pthread_key_create(&match_key, free_match) == 0;
}

static pcre2_match_data *own_match(void) {
    enum { MOST_GROUPS = 16 };
    pthread_once(&match_once, make_key);
    if (!match_known) return NULL;
    pcre2_match_data *match = pthread_getspecific(match_key);
    if (match == NULL) {
        match = pcre2_match_data_create(MOST_GROUPS, NULL);
        if (match != NULL && pthread_setspecific(match_key, match) != 0) {
            pcre2_match_data_free(match);
            match = NULL;
        }
    }
    return match;
}

ks_status ks__regex_find(ks_regex *regex, const char *text, size_t n,
                         size_t from, ks_span *groups, size_t n_groups,
                         bool *found, ks_err *err) {
    pcre2_code *code;
    ks_status st = compiled(regex, &code, err);
    if (st != KS_OK) return st;
    pcre2_match_data *match = own_match();
    if (match == NULL) return fail(err, regex, PCRE2_ERROR_NOMEMORY);

    int rc = pcre2_match(code, (PCRE2_SPTR)(n > 0 ? text : ""), n, from,
                         PCRE2_NO_UTF_CHECK, match, NULL);
    *found = rc > 0;
    if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) st = fail(err, regex, rc);
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(match);
    for (size_t i = 0; *found && i < n_groups; i++) {
        bool took = i < (size_t)rc;
        groups[i].begin = took ? at[2 * i] : SIZE_MAX;
        groups[i].end = took ? at[2 * i + 1] : SIZE_MAX;
    }
    return st;
}

ks_status ks__regex_replace(ks_regex *regex, const char *text, size_t n,
                            const char *replacement, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    pcre2_code *code;
    KS_TRY(compiled(regex, &code, err));
    PCRE2_SIZE room = n + 64;
    for (int attempt = 0; attempt < 2; attempt++) {
        KS_TRY(ks_grow(&out->data, &out->capacity, room + 1, 1, "text", err));
        room = out->capacity;
        int rc = pcre2_substitute(
            code, (PCRE2_SPTR)(n > 0 ? text : ""), n, 0,
            PCRE2_SUBSTITUTE_GLOBAL | PCRE2_SUBSTITUTE_OVERFLOW_LENGTH |
                PCRE2_SUBSTITUTE_UNSET_EMPTY | PCRE2_NO_UTF_CHECK,
            NULL, NULL, (PCRE2_SPTR)replacement, PCRE2_ZERO_TERMINATED,
            (PCRE2_UCHAR *)out->data, &room);
        if (rc >= 0) {
            out->length = room;
            return KS_OK;
        }
        if (rc != PCRE2_ERROR_NOMEMORY) return fail(err, regex, rc);
    }
    st = ks_fail(err, KS_INTERNAL, "a replacement outgrew its own estimate");
done:
    return st;
}

ks_status ks__regex_quote(ks_str *out, const char *text, size_t n,
                          ks_err *err) {
    ks_status st = KS_OK;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == 0) {
            KS_TRY(ks_str_add(out, "\\x00", 4, err));
            continue;
        }
        if (c < 0x80 && !isalnum(c) && c != '_') {
            KS_TRY(ks_str_add(out, "\\", 1, err));
        }
        KS_TRY(ks_str_add(out, text + i, 1, err));
    }
done:
    return st;
}
