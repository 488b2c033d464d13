/* export_json.h - figures as JSON. Internal. */
#ifndef KS_EXPORT_JSON_H
#define KS_EXPORT_JSON_H

#include "evaluation.h"

/* A new reference; null where v is NaN. */
json_t *ks__json_number(double v);
/* {"value","low","high"} */
json_t *ks__json_interval(ks_interval v);
/* {"stream","position"}, to which more is added. */
json_t *ks__json_where(const ks_series *series);
/* The "analyses" of the summary (export_analyses.c). */
json_t *ks__json_analyses(const ks_evaluation *run);

#endif
