/* published_write.h - the published protocol beside the honest one, as text and
 * as JSON. Internal to table.c and export_json.c. */
#ifndef KS_PUBLISHED_WRITE_H
#define KS_PUBLISHED_WRITE_H

#include <jansson.h>

#include "kinds.h"
#include "published_text.h"

/* "As published, and honestly"; nothing where there are none. */
ks_status ks__protocols_table(const ks_kinds *kinds, bool markdown, ks_str *out,
                              ks_err *err);
/* A new reference: summary.json's "protocols". */
json_t *ks__protocols_json(const ks_kinds *kinds);

/* The same of the text baselines as published; summary.json's
 * "published_texts". */
ks_status ks__published_texts_table(const ks_published_texts *texts,
                                    bool markdown, ks_str *out, ks_err *err);
json_t *ks__published_texts_json(const ks_published_texts *texts);

#endif
