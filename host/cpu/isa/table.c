/* table.c - the ops of one instruction set. */
#include "isa.h"

#define KS_OPS_JOIN(isa) ks__ops_##isa
#define KS_OPS_NAME(isa) KS_OPS_JOIN(isa)

const struct ks_ops KS_OPS_NAME(KS_ISA) = {
    .name = "cpu",
    .isa = KS_TEXT_EXPANDED(KS_ISA),
    .alloc = ks__cpu_alloc,
    .free = ks__cpu_free,
    .copy = ks__cpu_copy,
    .sync = ks__cpu_sync,
    .zero = ks__cpu_zero,
    .each = ks__cpu_each,
    .embed = KS_ISA_NAME(embed),
    .gemm = KS_ISA_NAME(gemm),
    .norm = KS_ISA_NAME(norm),
    .add = KS_ISA_NAME(add),
    .rope = KS_ISA_NAME(rope),
    .attention = KS_ISA_NAME(attention),
    .gate = KS_ISA_NAME(gate),
    .pool = KS_ISA_NAME(pool),
    .convert = KS_ISA_NAME(convert),
    .count_nonfinite = KS_ISA_NAME(count_nonfinite),
    .score = KS_ISA_NAME(score),
    .sample = KS_ISA_NAME(sample),
    .gemm_backward = KS_ISA_NAME(gemm_backward),
    .norm_backward = KS_ISA_NAME(norm_backward),
    .rope_backward = KS_ISA_NAME(rope_backward),
    .gate_backward = KS_ISA_NAME(gate_backward),
    .attention_backward = KS_ISA_NAME(attention_backward),
    .score_backward = KS_ISA_NAME(score_backward),
    .matmul = ks__cpu_matmul,
    .l2_pass = ks__cpu_l2_pass,
    .l2_gram = ks__cpu_l2_gram,
    .l2_project = ks__cpu_l2_project,
    .l2_hessian = ks__cpu_l2_hessian,
    .adamw = KS_ISA_NAME(adamw),
};
