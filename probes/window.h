/* window.h - a source's rows (l2.h) as f32, some at a time: where they lie as
 * they are, there is nothing to read. Each thread has a window of its own.
 * Internal. */
#ifndef KS_WINDOW_H
#define KS_WINDOW_H

#include "l2.h"

enum { KS_WINDOW = 256 /* rows where nobody needs another number */ };

typedef struct ks__window {
    const ks_l2_source *of;
    float *x;
    void *raw; /* as stored, of a narrower type */
} ks__window;

/* Of as many rows at a time. Borrows the source. */
ks_status ks__window_open(ks__window *window, const ks_l2_source *of,
                          int64_t rows, ks_err *err);
/* *x: rows [row, row + n), until the next call. */
ks_status ks__window_get(ks__window *window, int64_t row, int64_t n,
                         const float **x, ks_err *err);
void ks__window_close(ks__window *window);
/* All rows into x [n, d], which a window's rows at a time go through. */
ks_status ks__window_all(const ks_l2_source *of, float *x, ks_err *err);
size_t ks__window_bytes(const ks_l2_source *of, int64_t rows);

/* KS_NUMERIC for the first value of rows x [n, d], the first of them row `row`,
 * that is not finite. */
ks_status ks__window_check(const float *x, int64_t row, int64_t n, int64_t d,
                           ks_err *err);

#endif
