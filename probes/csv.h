/* csv.h - fields of CSV lines. Internal. */
#ifndef KS_CSV_H
#define KS_CSV_H

#include "base.h"

/* text and a comma; RFC 4180: quoted where needed. */
ks_status ks__csv_field(ks_str *out, const char *text, ks_err *err);
/* A number, empty for NaN, and a comma or the line's end. */
ks_status ks__csv_number(ks_str *out, double v, bool last, ks_err *err);

#endif
