/* regex.h - PCRE2 patterns that compile themselves at first use. */
#ifndef KS_TEXT_REGEX_H
#define KS_TEXT_REGEX_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "text.h"

/* Python's str.isspace as a bracket's content. */
#define KS_SPACES                                                              \
    "\\x09-\\x0d\\x1c-\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}"    \
    "\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

/* Static data: KS_REGEX("pattern", 0) or KS_REGEX("pattern", PCRE2_CASELESS).
 * Always UTF, with Unicode classes. */
#define KS_REGEX(pattern, options)                                             \
    { pattern, options, NULL }
typedef struct ks_regex {
    const char *pattern;
    uint32_t options;
    _Atomic(pcre2_code *) code;
} ks_regex;

/* First match at or after `from`; groups[0] is the whole match, a group that
 * took no part is {SIZE_MAX, SIZE_MAX}. Text must be well-formed UTF-8. */
ks_status ks__regex_find(ks_regex *regex, const char *text, size_t n,
                         size_t from, ks_span *groups, size_t n_groups,
                         bool *found, ks_err *err);

/* Replaces every match; out is emptied first and must not hold text. */
ks_status ks__regex_replace(ks_regex *regex, const char *text, size_t n,
                            const char *replacement, ks_str *out, ks_err *err);

/* Appends bytes with every character escaped that means something to PCRE2. */
ks_status ks__regex_quote(ks_str *out, const char *text, size_t n, ks_err *err);

#endif
