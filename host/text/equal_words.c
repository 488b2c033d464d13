/* equal_words.c - answers compared as words, and times of day. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "equal.h"
#include "regex.h"

/* ------------------------------------------------------------------- words */

static ks_regex wrappers = KS_REGEX(
    "\\\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\\{([^{}]*)\\}", 0);
static ks_regex blanks =
    KS_REGEX("\\\\[,;:! ]|\\\\q?quad|[~" KS_SPACES "]+", 0);
static ks_regex months =
    KS_REGEX("\\b(jan|feb|mar|apr|may|jun|jul|aug|sept?|oct|nov|dec)"
             "(?:uary|ruary|ch|il|e|y|ust|ember|ober)?\\b\\.?",
             PCRE2_CASELESS);
static ks_regex ordinal =
    KS_REGEX("\\b(\\d+)(?:st|nd|rd|th)\\b", PCRE2_CASELESS);
static ks_regex day_first = KS_REGEX(
    "^(\\d{1,2}) (?:of )?(jan|feb|mar|apr|may|jun|jul|aug|sept?|oct|nov|dec)"
    "\\b",
    PCRE2_CASELESS);
static ks_regex sept = KS_REGEX("\\bsept\\b", PCRE2_CASELESS);
static ks_regex date =
    KS_REGEX("^(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec) (\\d{1,2}),? ?"
             "(\\d{4})?$",
             PCRE2_CASELESS);
/* A blank matters between two letters or digits only. */
static ks_regex loose =
    KS_REGEX("(?<![\\p{L}\\p{N}]) +| +(?![\\p{L}\\p{N}])", 0);

typedef struct rewrite {
    ks_regex *find;
    const char *put;
} rewrite;

/* Lower case for words of three letters and more, and for all of it where
 * there is nothing but letters and what stands between words. */
static ks_status fold(ks_str *s, ks_err *err) {
    ks_status st = KS_OK;
    ks_str out = {0};
    bool words = true;
    for (size_t i = 0; i < s->length; i++) {
        unsigned char c = (unsigned char)s->data[i];
        if (c < 0x80 && !isalpha(c) && (c == 0 || !strchr(" .,'-()", c)))
            words = false;
    }
    size_t i = 0;
    while (i < s->length) {
        size_t run = i;
        while (run < s->length && (isalpha((unsigned char)s->data[run]) ||
                                   (unsigned char)s->data[run] >= 0x80)) {
            run++;
        }
        bool command = i > 0 && s->data[i - 1] == '\\';
        bool lower = words || (run - i >= 3 && !command);
        size_t end = KS_MAX(run, i + 1);
        while (i < end) {
            utf8proc_int32_t c;
            utf8proc_uint8_t bytes[4];
            i +=
                (size_t)utf8proc_iterate((const utf8proc_uint8_t *)s->data + i,
                                         (utf8proc_ssize_t)(s->length - i), &c);
            if (lower) c = utf8proc_tolower(c);
            utf8proc_ssize_t w = utf8proc_encode_char(c, bytes);
            KS_TRY(ks_str_add(&out, (char *)bytes, (size_t)w, err));
        }
    }
    KS_TRY(ks_str_add(&out, "", 0, err));
    ks_str swap = *s;
    *s = out;
    out = swap;
done:
    ks_str_free(&out);
    return st;
}

/* "(a)" is the choice a */
static void bare_choice(ks_str *s) {
    if (s->length == 3 && s->data[0] == '(' && s->data[2] == ')' &&
        isalpha((unsigned char)s->data[1])) {
        s->data[0] = s->data[1];
        s->data[1] = 0;
        s->length = 1;
    }
}

static ks_status key_of(const char *text, size_t n, ks_str *out, ks_err *err) {
    static const rewrite rewrites[] = {
        {&wrappers, "$1"}, {&blanks, " "},      {&ordinal, "$1"},
        {&months, "$1"},   {&sept, "sep"},      {&day_first, "$2 $1"},
        {&sept, "sep"},    {&date, "$1 $2 $3"}, {&loose, ""},
    };
    ks_status st = KS_OK;
    ks_str next = {0};
    KS_TRY(ks__expr_prepare(text, n, out, err));
    for (size_t i = 0; i < KS_COUNT(rewrites); i++) {
        KS_TRY(ks__regex_replace(rewrites[i].find, out->data, out->length,
                                 rewrites[i].put, &next, err));
        ks_str swap = *out;
        *out = next;
        next = swap;
    }
    KS_TRY(fold(out, err));
    bare_choice(out);
done:
    ks_str_free(&next);
    return st;
}

ks_status ks__equal_words(const char *a, size_t n_a, const char *b, size_t n_b,
                          bool *equal, ks_err *err) {
    ks_status st = KS_OK;
    ks_str p = {0}, q = {0};
    KS_TRY(key_of(a, n_a, &p, err));
    KS_TRY(key_of(b, n_b, &q, err));
    *equal = p.length == q.length && memcmp(p.data, q.data, p.length) == 0;
done:
    ks_str_free(&p);
    ks_str_free(&q);
    return st;
}

/* ------------------------------------------------------------------- times */

typedef struct moment {
    int hour, minute;
    char half;  /* 'a', 'p', 0: not said */
    bool bare;  /* an hour and nothing else */
    bool clock; /* o'clock, am or pm was said */
} moment;

/* The word at text[*at] without blanks and dots, lower case. */
static void next_word(const char *text, size_t n, size_t *at, char word[12]) {
    size_t used = 0;
    while (*at < n && used < 11) {
        char c = text[(*at)++];
        if (!strchr(" .{}\\~", c) && c != 0)
            word[used++] = (char)tolower((unsigned char)c);
    }
    word[used] = 0;
}

static bool read_time(const char *text, size_t n, moment *out) {
    size_t i = 0;
    *out = (moment){.bare = true};
    int digits = 0;
    for (; i < n && isdigit((unsigned char)text[i]) && digits < 3; digits++)
        out->hour = out->hour * 10 + (text[i++] - '0');
    if (digits < 1 || digits > 2 || out->hour > 24) return false;
    if (i < n && text[i] == ':') {
        if (n - i < 3 || !isdigit((unsigned char)text[i + 1]) ||
            !isdigit((unsigned char)text[i + 2])) {
            return false;
        }
        out->minute = (text[i + 1] - '0') * 10 + text[i + 2] - '0';
        out->bare = false;
        i += 3;
        if (out->minute > 59) return false;
    }
    char word[12];
    if (n - i > 20) return false;
    next_word(text, n, &i, word);
    if (strncmp(word, "text", 4) == 0)
        memmove(word, word + 4, strlen(word) - 3);
    if (strcmp(word, "am") == 0 || strcmp(word, "pm") == 0)
        out->half = word[0];
    else if (strcmp(word, "o'clock") != 0 && word[0] != 0)
        return false;
    out->clock = word[0] != 0;
    return i == n;
}

void ks__equal_times(const char *a, size_t n_a, const char *b, size_t n_b,
                     bool *applies, bool *equal) {
    moment p, q;
    *applies = read_time(a, n_a, &p) && read_time(b, n_b, &q) &&
               (p.clock || q.clock || (!p.bare && !q.bare));
    *equal = false;
    if (!*applies) return;
    bool same_half = p.half == q.half;
    for (int i = 0; i < 2; i++) {
        moment *m = i == 0 ? &p : &q;
        if (m->half != 0) m->hour = m->hour % 12 + (m->half == 'p' ? 12 : 0);
    }
    /* one side left the half of the day open: 3 is 15 o'clock too */
    bool open = !same_half && (p.half == 0 ? p.hour : q.hour) <= 12 &&
                (p.half == 0 || q.half == 0);
    *equal = p.minute == q.minute &&
             (open ? p.hour % 12 == q.hour % 12 : p.hour == q.hour);
}
