/* page.h - the one HTML page: sources of page/ that the build put into the
 * program, the report and the chains as JSON between them. Internal to
 * host/report/. */
#ifndef KS_REPORT_PAGE_H
#define KS_REPORT_PAGE_H

#include "reader.h"

/* Was D3 there when the program was built? */
bool ks__page_has_d3(void);

/* The whole page. d3: its charts are drawn by D3; else the SVG files of
 * `figures` (a folder; NULL: none) stand in their place. The page's policy
 * forbids every request and every script but those in it, by their SHA-256. */
ks_status ks__page_write(const ks_report *report, const ks_reader *reader,
                         bool d3, const char *figures, ks_str *out,
                         ks_err *err);

/* JSON as text that can stand in a script element: no '<', '>', '&', U+2028 or
 * U+2029 in it. */
ks_status ks__page_json(const json_t *value, ks_str *out, ks_err *err);

#endif
