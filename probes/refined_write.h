/* refined_write.h - what refined probes say beyond their scores, as text and as
 * JSON. Internal to table.c and export_json.c. */
#ifndef KS_REFINED_WRITE_H
#define KS_REFINED_WRITE_H

#include "evaluation.h"

/* Tables of directions, dimensions, attention and scores; nothing where there
 * are none. */
ks_status ks__refined_table(const ks_evaluation *run, bool markdown,
                            ks_str *out, ks_err *err);
/* Adds summary.json's "directions", "sparse", "attention" and "graded". */
void ks__refined_json(const ks_evaluation *run, json_t *summary);

#endif
