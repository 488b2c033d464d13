/* stack.h - all layers of a stream and position in memory at once, for probes
 * that read several. */
#ifndef KS_STACK_H
#define KS_STACK_H

#include "grid.h"

typedef struct ks_stack {
    int64_t n, d;
    int32_t n_layers, *layer; /* [n_layers] ascending */
    int32_t first; /* layer[first..] are blocks' outputs: 1 where layer[0] is
                      the embedding's output, which probes over several layers
                      leave out */
    float *x;      /* [n_layers, n, d], or NULL */
    float *mean;   /* [n, d] over the blocks' outputs, or NULL */
} ks_stack;

/* The layers of `series` (a grid's) for the rows of the data set; all: x, mean:
 * mean. KS_LIMIT where --memory or the machine has less room than it takes,
 * naming how much. The grid has seen that all values are finite.
 * A failed read leaves {0}. */
ks_status ks_stack_read(ks_stack *out, const ks_dataset *dataset,
                        const ks_series *series, bool all, bool mean,
                        const ks_room *room, ks_err *err);
void ks_stack_free(ks_stack *stack);

#endif
