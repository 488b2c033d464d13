/* table.h - an evaluation as text. */
#ifndef KS_TABLE_H
#define KS_TABLE_H

#include "evaluation.h"

/* Per layer and position: balanced accuracy in percent with its 95% interval;
 * the best layer; baselines and what the best layer has beyond them; strata.
 * markdown: pipe tables; else aligned columns for a terminal. */
ks_status ks_table_write(const ks_evaluation *evaluation, bool markdown,
                         ks_str *out, ks_err *err);

#endif
