/* l2_cpu.h - what the files of the CPU's l2 ops share. They run on BLAS and on
 * vectors of one width, so the same code serves every instruction set. */
#ifndef KS_L2_CPU_H
#define KS_L2_CPU_H

#include "../blas.h"
#include "../l2_rows.h"
#include "ops_cpu.h"

/* z [rows, n] (stride) to r in place; adds to r_sum and h_sum [n]. c: table
 * [codes, stride] of c_i, 0 for rows that do not train. */
void ks__l2_kernel(int64_t rows, int64_t n, int64_t stride, float *z,
                   const float *bias, const uint8_t *code, const float *c,
                   float *r_sum, float *h_sum);

/* Blocks [from, to) of a lane: its number depends on the rows alone. */
static inline void ks__l2_lane(const ks_l2_rows *l2, int32_t lane,
                               int32_t *from, int32_t *to) {
    *from = (int32_t)((int64_t)lane * l2->n_blocks / l2->n_lanes);
    *to = (int32_t)((int64_t)(lane + 1) * l2->n_blocks / l2->n_lanes);
}

#endif
