/* table_analyses.h - the part of table.h that tells the analyses. Internal. */
#ifndef KS_TABLE_ANALYSES_H
#define KS_TABLE_ANALYSES_H

#include "evaluation.h"

ks_status ks_table_analyses(const ks_evaluation *run, bool markdown,
                            ks_str *out, ks_err *err);
ks_status ks_table_claims(const ks_evaluation *run, bool markdown, ks_str *out,
                          ks_err *err);

#endif
