/* compat.h - answers as the published code of the method compares them, with
 * its mistakes. For comparison with published numbers only; equal.h is the
 * comparison that is meant. */
#ifndef KS_TEXT_COMPAT_H
#define KS_TEXT_COMPAT_H

#include "text.h"

/* The published normal form, appended to nothing: out is emptied first. Among
 * its known faults it drops one level of braces, all spaces and commas between
 * digits. */
ks_status ks__compat_normal(const char *text, size_t n, ks_str *out,
                            ks_err *err);

/* The published numeric parser. *found is false when the text is no number or
 * divides by zero. */
ks_status ks__compat_number(const char *text, size_t n, double *out,
                            bool *found, ks_err *err);

/* The published list of equivalences; b is the reference of the tolerance. */
ks_status ks__compat_equal(const char *a, size_t n_a, const char *b, size_t n_b,
                           bool *out, ks_err *err);

#endif
