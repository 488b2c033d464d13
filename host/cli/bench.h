/* bench.h - what the benches share: options, the clock, spreads and the table.
 * A bench is one file, bench_<name>.c. What is compared runs in turn in the
 * same process, so that a busy or throttled machine slows both.
 */
#ifndef KS_BENCH_H
#define KS_BENCH_H

#include "cli.h"

typedef struct ks_bench_input {
    ks_cli_common common;
    const char *what, *shapes, *types, *isa;
    const char *dir; /* folder of files that are written and removed */
    int repeats;     /* pairs */
} ks_bench_input;

typedef struct ks_bench {
    const ks_bench_input *in;
    json_t *rows; /* objects of the same keys in the same order */
} ks_bench;

ks_status ks_bench_gemm(ks_bench *bench, ks_err *err);
ks_status ks_bench_capture(ks_bench *bench, ks_err *err);

double ks_bench_seconds(void);

typedef struct ks_spread {
    double q1, median, q3, min, max;
    double mean, low, high; /* 95% interval of the mean (Student's t) */
} ks_spread;
/* Sorts values; n >= 1. One value: the interval is NaN. */
ks_spread ks_bench_spread(double *values, int n);

/* A row of the table; takes the object, NULL is KS_NOMEM. */
ks_status ks_bench_row(ks_bench *bench, json_t *row, ks_err *err);

/* The next of a comma-separated list, or false at its end. */
bool ks_bench_item(const char **list, char item[64]);

#endif
