/* csv.c - see csv.h. */
#include "csv.h"

#include <math.h>
#include <string.h>

ks_status ks__csv_field(ks_str *out, const char *text, ks_err *err) {
    ks_status st = KS_OK;
    if (!strpbrk(text, ",\"\n\r")) return ks_str_printf(out, err, "%s,", text);
    KS_TRY(ks_str_add(out, "\"", 1, err));
    for (const char *p = text; *p; p++)
        KS_TRY(ks_str_printf(out, err, *p == '"' ? "\"\"" : "%c", *p));
    KS_TRY(ks_str_add(out, "\",", 2, err));
done:
    return st;
}

ks_status ks__csv_number(ks_str *out, double v, bool last, ks_err *err) {
    if (isnan(v)) return ks_str_add(out, last ? "\n" : ",", 1, err);
    return ks_str_printf(out, err, "%.6f%s", v, last ? "\n" : ",");
}
