/* plan_rates.h - where the figures of keystep plan come from. */
#ifndef KS_PLAN_RATES_H
#define KS_PLAN_RATES_H

#include "../plan.h"
#include "cli.h"

/* One figure that went in; strings with its source. */
typedef struct ks_plan_value {
    const char *name, *unit, *mark; /* "measured", "data sheet", "assumed" */
    double value;
    char source[160];
} ks_plan_value;

enum { KS_PLAN_MOST_VALUES = 32 };
typedef struct ks_plan_values {
    ks_plan_value at[KS_PLAN_MOST_VALUES];
    int32_t n;
} ks_plan_values;

/* All figures as they stand. */
void ks_plan_list_values(ks_plan_values *v, const ks_plan_shape *m,
                         const ks_plan_device *on, const ks_plan_asked *a);

/* This machine: its products' rate and its memory's, within a second or two. */
ks_status ks_plan_measure_cpu(ks_plan_device *out, int threads, ks_err *err);

/* A table of keystep bench: the rate of products (gemm), the share of it that
 * capture has, that of the probes beside bare calls, the writer's rate (io).
 * KS_MISMATCH where it is of another kind of device. */
ks_status ks_plan_take_measured(const char *path, ks_plan_device *on,
                                ks_plan_asked *a, ks_plan_values *values,
                                ks_err *err);

#endif
