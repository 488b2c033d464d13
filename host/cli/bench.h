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
    const char *dir;      /* folder of files that are written and removed */
    const char *out_data; /* where data are kept: the probe's, a matrix */
    const char *input;    /* tokens and steps of a chain */
    int repeats;          /* pairs */
    int mib;              /* that io writes */
    int rows, width, data_layers, folds; /* of the probe's data */
    bool alone;                          /* no bare calls beside the probes */
    int hidden, epochs;                  /* of adamw */
} ks_bench_input;

typedef struct ks_bench {
    const ks_bench_input *in;
    json_t *rows; /* objects of the same keys in the same order */
} ks_bench;

ks_status ks_bench_gemm(ks_bench *bench, ks_err *err);
ks_status ks_bench_capture(ks_bench *bench, ks_err *err);
ks_status ks_bench_io(ks_bench *bench, ks_err *err);
ks_status ks_bench_probe(ks_bench *bench, ks_err *err);
ks_status ks_bench_stream(ks_bench *bench, ks_err *err);
ks_status ks_bench_adamw(ks_bench *bench, ks_err *err);
ks_status ks_bench_influence(ks_bench *bench, ks_err *err);

typedef struct ks_spread {
    double q1, median, q3, min, max;
    double mean, low, high; /* 95% interval of the mean (Student's t) */
} ks_spread;
/* Sorts values; n >= 1. One value: the interval is NaN. */
ks_spread ks_bench_spread(double *values, int n);

/* A row of the table; takes the object, NULL is KS_NOMEM. */
ks_status ks_bench_row(ks_bench *bench, json_t *row, ks_err *err);
/* A number, or null where it is not finite (JSON has no NaN). */
json_t *ks_bench_real(double value);

/* The next of a comma-separated list, or false at its end. */
bool ks_bench_item(const char **list, char item[64]);

/* Removes an activation file and what an interrupted one leaves. */
void ks_bench_remove(const char *path);

/* bench_data.c: synthetic activations of a known structure, labels in the
 * file, resid at the positions (a bit set), layers 0..layers-1. rows is cut to
 * whole chains. */
ks_status ks_bench_data(const char *path, int64_t rows, int32_t width,
                        int32_t layers, uint32_t positions, uint64_t seed,
                        ks_err *err);

#endif
