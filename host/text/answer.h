/* answer.h - what answers and states share. */
#ifndef KS_TEXT_ANSWER_H
#define KS_TEXT_ANSWER_H

#include "regex.h"

/* The x of the last "#### x" line, else of the last "answer is x". */
ks_status ks__answer_stated(const char *text, size_t n, ks_span *out,
                            bool *found, ks_err *err);

/* Whether any box (last: the last one) equals gold; *boxed: there is one. */
ks_status ks__answer_boxed(const char *text, size_t n, const char *gold,
                           size_t n_gold, bool last, bool compat, bool *boxed,
                           bool *equal, ks_err *err);

/* Gold as a pattern, in any case; compat: also inside words and numbers. */
typedef struct ks_gold {
    ks_str pattern;
    ks_regex regex;
} ks_gold;

ks_status ks__gold_open(ks_gold *out, const char *gold, size_t n, bool compat,
                        ks_err *err);
void ks__gold_close(ks_gold *gold);

#endif
