/* stack.h - all layers of a stream and position at once, for probes that read
 * several: in memory or, where they do not fit, in a scratch file. */
#ifndef KS_STACK_H
#define KS_STACK_H

#include "adamw.h"
#include "grid.h"

typedef struct ks_stack {
    int64_t n, d;
    int32_t n_layers, *layer; /* [n_layers] ascending */
    int32_t first; /* layer[first..] are blocks' outputs: 1 where layer[0] is
                      the embedding's output, which probes over several layers
                      leave out */
    float *x;      /* [n_layers, n, d], or NULL */
    float *mean;   /* [n, d] over the blocks' outputs, or NULL */
    ks_adamw_file file, mean_file; /* the same in files, of 0 matrices where
                                      there is none */
} ks_stack;

/* What is wanted of the layers, and what it may take. */
typedef struct ks_stack_options {
    bool all, mean; /* x; mean */
    bool in_memory; /* a device takes it from there */
    double besides; /* bytes that are needed next to it */
    ks_room room;   /* its scratch NULL: in memory */
} ks_stack_options;

/* The layers of `series` (a grid's) for the rows of the data set. KS_LIMIT
 * where they do not fit in memory and may not lie elsewhere, naming how much
 * they take. The grid has seen that all values are finite. A failed read leaves
 * {0}. */
ks_status ks_stack_read(ks_stack *out, const ks_dataset *dataset,
                        const ks_series *series,
                        const ks_stack_options *options, ks_err *err);
void ks_stack_free(ks_stack *stack);
/* Bytes that it takes while it is read into a file. */
double ks_stack_least(const ks_acts_info *info);

#endif
