/* bench.h - what the benches share: options, the clock, spreads, the table, and
 * how it is held against an earlier one. A bench is one file, bench_<name>.c.
 * What is compared runs in turn in the same process, so that a busy or
 * throttled machine slows both.
 */
#ifndef KS_BENCH_H
#define KS_BENCH_H

#include "../chains.h"
#include "cli.h"

typedef struct ks_bench_input {
    ks_cli_common common;
    const char *what, *shapes, *types, *isa;
    const char *dir;      /* folder of files that are written and removed */
    const char *out_data; /* where data are kept: the probe's, chains, a matrix
                           */
    const char *input;    /* tokens and steps of a chain */
    const char *against;  /* CSV of an earlier run, or NULL */
    const char *from;     /* CSV in place of measuring, or NULL */
    const char *over;     /* of scale */
    const char *plots;    /* folder of scale's pictures, or NULL */
    double margin;        /* share that is lost without a word */
    bool relative, other_machine;        /* of against */
    int repeats;                         /* pairs */
    int mib;                             /* that io writes */
    int rows, width, data_layers, folds; /* of the probe's data */
    bool alone;                          /* no bare calls beside the probes */
    int hidden, epochs;                  /* of adamw */
    int n_chains;                        /* made, where none are given */
} ks_bench_input;

typedef struct ks_bench {
    const ks_bench_input *in;
    json_t *rows; /* objects of the same keys in the same order */
    json_t *fits; /* of scale: objects, each with a "sentence" */
} ks_bench;

/* A column that says how fast it was. */
typedef struct ks_bench_measure {
    const char *column;
    bool time;     /* less is better */
    bool relative; /* over what ran in turn beside it */
} ks_bench_measure;

enum { KS_BENCH_NAMES = 8, KS_BENCH_MEASURES = 6 };

typedef struct ks_bench_kind {
    const char *name;
    ks_status (*run)(ks_bench *, ks_err *);
    /* Columns that say what was measured, NULL behind the last. "pair" is a
     * column of every table: 1, 2, .. or "all". */
    const char *identity[KS_BENCH_NAMES];
    ks_bench_measure measures[KS_BENCH_MEASURES];
} ks_bench_kind;

ks_status ks_bench_gemm(ks_bench *bench, ks_err *err);
ks_status ks_bench_capture(ks_bench *bench, ks_err *err);
ks_status ks_bench_io(ks_bench *bench, ks_err *err);
ks_status ks_bench_probe(ks_bench *bench, ks_err *err);
ks_status ks_bench_label(ks_bench *bench, ks_err *err);
ks_status ks_bench_stream(ks_bench *bench, ks_err *err);
ks_status ks_bench_adamw(ks_bench *bench, ks_err *err);
ks_status ks_bench_influence(ks_bench *bench, ks_err *err);
ks_status ks_bench_scale(ks_bench *bench, ks_err *err);

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

/* bench_table.c: a value as it stands in the CSV; "" where there is none. */
ks_status ks_bench_cell(const json_t *value, ks_str *out, ks_err *err);
/* The keys of the first row are the header. */
ks_status ks_bench_to_csv(const json_t *rows, ks_str *text, ks_err *err);
/* For people: the rows of all pairs, where there are any, without what the
 * machine is; that stands in a line behind them. machine may be NULL. */
ks_status ks_bench_to_text(const json_t *rows, const json_t *machine,
                           ks_str *text, ks_err *err);

/* bench_csv.c: rows of strings, empty fields left out; new. KS_FORMAT names
 * file and line. */
ks_status ks_bench_csv_read(const char *path, json_t **out, ks_err *err);

/* bench_machine.c: the columns behind a bench's own, an object; new. */
ks_status ks_bench_machine(json_t **out, const ks_cli_common *common,
                           ks_err *err);

/* bench_against.c. Before anything is measured: KS_MISMATCH where the earlier
 * table is of another machine or backend and that was not asked for, KS_FORMAT
 * where it is none of this bench. machine: of the later one. */
ks_status ks_bench_check_earlier(const ks_bench_kind *kind, const char *path,
                                 const json_t *rows, const json_t *machine,
                                 bool other_machine, ks_err *err);
typedef struct ks_bench_verdict {
    json_t *rows;     /* what was compared, a row a measure; owned */
    int32_t compared; /* of them with an interval */
    ks_str slower;    /* those that are, one behind the other */
    int32_t n_slower;
    int32_t missing, added; /* of the earlier alone, of the later alone */
} ks_bench_verdict;
void ks_bench_verdict_free(ks_bench_verdict *verdict);
/* Ratios of speeds, later over earlier: the quotient of the geometric means
 * over pairs, with Welch's 95% interval for the difference of the means of
 * logarithms. Slower: all of the interval below 1 - margin, or a figure that
 * was there is none now. rows: of either table, as ks_bench_csv_read gives
 * them. KS_MISMATCH where nothing could be compared. */
ks_status ks_bench_compare(const ks_bench_kind *kind, const json_t *earlier,
                           const json_t *later, double margin, bool relative,
                           ks_bench_verdict *out, ks_err *err);

/* bench_data.c: synthetic activations of a known structure, labels in the
 * file, resid at the positions (a bit set), layers 0..layers-1. rows is cut to
 * whole chains. */
ks_status ks_bench_data(const char *path, int64_t rows, int32_t width,
                        int32_t layers, uint32_t positions, uint64_t seed,
                        ks_err *err);

/* bench_chains.c: what a bench of a model reads where nobody named any: the
 * embedded model, and chains made of its problems. */
typedef struct ks_bench_source {
    char *model, *chains; /* owned */
    bool made;            /* chains is a file of ours, removed by close */
} ks_bench_source;
/* name: of the file that is made in --dir, where --out-data names no other;
 * n: chains of it, where --n-chains does not say. */
ks_status ks_bench_source_open(ks_bench_source *out, const ks_bench_input *in,
                               const char *name, int32_t n, ks_err *err);
void ks_bench_source_close(ks_bench_source *source);

/* A chain as the model reads it: ids [n_tokens] of prompt and text, and the
 * token where each step begins and the last one's end, bounds [n_steps + 1]. */
typedef struct ks_bench_tokens {
    int32_t *ids, *bounds; /* owned */
    int32_t n_tokens, n_steps;
} ks_bench_tokens;
ks_status ks_bench_tokenize(ks_bench_tokens *out, const ks_tokenizer *tokenizer,
                            const ks_chain *chain, ks_err *err);
void ks_bench_tokens_free(ks_bench_tokens *tokens);

/* bench_fit.c: y = a + b x by least squares, and how straight that is. */
typedef struct ks_bench_fit {
    int32_t n;                                 /* points */
    double a, a_low, a_high, b, b_low, b_high; /* 95% intervals (Student's t) */
    /* log y = c + e log x: e is 1 where cost is proportional */
    double exponent, exponent_low, exponent_high;
    /* y = a + b x + c x^2: c's share of y at the largest x, and p of c = 0 */
    double curvature, p_curvature;
} ks_bench_fit;
/* NaN where the points are too few (2 distinct x for values, one more than the
 * parameters for intervals). */
ks_status ks_bench_fit_line(const double *x, const double *y, int32_t n,
                            ks_bench_fit *out, ks_err *err);

#endif
