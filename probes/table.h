/* table.h - an evaluation as text. */
#ifndef KS_TABLE_H
#define KS_TABLE_H

#include "evaluation.h"

/* markdown: everything, in pipe tables. Else what fits a terminal, in aligned
 * columns: layers, baselines, other probes, protocols, questions. Balanced
 * accuracies in percent with their 95% intervals. */
ks_status ks_table_write(const ks_evaluation *evaluation, bool markdown,
                         ks_str *out, ks_err *err);

#endif
