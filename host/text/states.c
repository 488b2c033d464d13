/* states.c - whether a step gives the answer away. */
#include <stdlib.h>
#include <string.h>

#include "answer.h"

/* Each rule is a chain of searches on one line, the earliest hit first: what
 * one pattern with .* between its parts finds, without its backtracking. */
#define CONCLUDE "thus|therefore|so|hence|consequently"

/* [0]: words stand alone; [1]: compat */
static ks_regex conclude[2] = {
    KS_REGEX("\\b(?:" CONCLUDE "|this means)\\b", PCRE2_CASELESS),
    KS_REGEX("(?:" CONCLUDE "|this means)", PCRE2_CASELESS),
};
static ks_regex answer[2] = {
    KS_REGEX("\\b(?:answer|result)\\b", PCRE2_CASELESS),
    KS_REGEX("(?:answer|result)", PCRE2_CASELESS),
};
static ks_regex possessed[2] = {
    KS_REGEX("\\b(?:the|our|my)\\s+(?:final\\s+)?(?:answer|result)\\b",
             PCRE2_CASELESS),
    KS_REGEX("(?:the|our|my)\\s+(?:final\\s+)?(?:answer|result)",
             PCRE2_CASELESS),
};
static ks_regex concluded_answer =
    KS_REGEX("(?:" CONCLUDE "),? (?:answer|result).", PCRE2_CASELESS);

static size_t line_end(const char *text, size_t from, size_t n) {
    const char *end = from < n ? memchr(text + from, '\n', n - from) : NULL;
    return end == NULL ? n : (size_t)(end - text);
}

static size_t next_code_point(const char *text, size_t at, size_t n) {
    at++;
    while (at < n && ((unsigned char)text[at] & 0xc0) == 0x80) at++;
    return at;
}

/* Gold begins on the line that `from` is on, at least one character on. */
static ks_status gold_follows(const char *text, size_t n, size_t from,
                              ks_gold *gold, size_t n_gold, bool *says,
                              ks_err *err) {
    ks_span g;
    size_t end = line_end(text, from, n);
    *says = false;
    if (from >= end) return KS_OK;
    from = next_code_point(text, from, n);
    /* gold itself may run on beyond the line */
    size_t reach = n - end > n_gold ? end + n_gold : n;
    while (reach < n && ((unsigned char)text[reach] & 0xc0) == 0x80) reach++;
    ks_status st =
        ks__regex_find(&gold->regex, text, reach, from, &g, 1, says, err);
    if (st == KS_OK && *says) *says = g.begin <= end;
    return st;
}

static ks_status concludes(const char *text, size_t n, ks_gold *gold,
                           size_t n_gold, bool compat, bool *says,
                           ks_err *err) {
    ks_status st = KS_OK;
    size_t begin = 0;
    *says = false;
    while (begin < n && !*says) {
        size_t end = line_end(text, begin, n);
        ks_span g;
        bool found;
        KS_TRY(ks__regex_find(&conclude[compat], text, end, begin, &g, 1,
                              &found, err));
        if (found)
            KS_TRY(ks__regex_find(&answer[compat], text, end, g.end, &g, 1,
                                  &found, err));
        if (found)
            KS_TRY(gold_follows(text, n, g.end, gold, n_gold, says, err));
        begin = end + 1;
    }
done:
    return st;
}

static ks_status possesses(const char *text, size_t n, ks_gold *gold,
                           size_t n_gold, bool compat, bool *says,
                           ks_err *err) {
    ks_status st = KS_OK;
    size_t from = 0;
    *says = false;
    while (from < n && !*says) {
        ks_span g;
        bool found;
        KS_TRY(ks__regex_find(&possessed[compat], text, n, from, &g, 1, &found,
                              err));
        if (!found) break;
        KS_TRY(gold_follows(text, n, g.end, gold, n_gold, says, err));
        /* the first on a line has most of it behind */
        from = KS_MAX(line_end(text, g.end, n), g.end);
    }
done:
    return st;
}

static ks_status states_equal(const char *step, size_t n, const char *gold,
                              size_t n_gold, bool *says, ks_err *err) {
    ks_span s;
    ks_status st = ks__answer_stated(step, n, &s, says, err);
    if (st != KS_OK || !*says) return st;
    return ks_text_equal(step + s.begin, s.end - s.begin, gold, n_gold, false,
                         says, err);
}

/* gold without its $ */
static ks_status without_dollars(const char *gold, size_t n, ks_str *out,
                                 ks_err *err) {
    ks_status st = ks_str_add(out, "", 0, err);
    for (size_t i = 0; i < n && st == KS_OK; i++) {
        if (gold[i] != '$') st = ks_str_add(out, gold + i, 1, err);
    }
    return st;
}

ks_status ks_text_states(const char *step, size_t n, const char *gold,
                         size_t n_gold, bool compat, bool *states,
                         ks_err *err) {
    ks_status st = KS_OK;
    ks_str bare = {0};
    ks_gold pattern = {0};
    ks_span g;
    bool boxed;
    *states = false;
    KS_TRY(ks_text_check(step, n, "text", err));
    KS_TRY(ks_text_check(gold, n_gold, "gold", err));
    KS_TRY(without_dollars(gold, n_gold, &bare, err));
    ks_span tight = ks_text_trim(bare.data, (ks_span){0, bare.length});
    KS_CHECK(compat || tight.begin < tight.end, KS_FORMAT,
             "gold: the answer is blank");
    KS_TRY(ks__gold_open(&pattern, bare.data, bare.length, compat, err));
    KS_TRY(concludes(step, n, &pattern, bare.length, compat, states, err));
    if (!*states)
        KS_TRY(possesses(step, n, &pattern, bare.length, compat, states, err));
    if (!*states && compat)
        KS_TRY(
            ks__regex_find(&concluded_answer, step, n, 0, &g, 1, states, err));
    if (!*states)
        KS_TRY(ks__answer_boxed(step, n, gold, n_gold, false, compat, &boxed,
                                states, err));
    if (!*states && !compat)
        KS_TRY(states_equal(step, n, gold, n_gold, states, err));
done:
    ks__gold_close(&pattern);
    ks_str_free(&bare);
    return st;
}
