/* isa.h - the launchers of one instruction set; signatures as in ops.h. */
#ifndef KS_ISA_H
#define KS_ISA_H

#include "simd.h"
#include "../../ops_check.h"
#include "../../sanitize.h"

/* ------------------------------------------------------------ the launchers */

ks_status KS_ISA_NAME(embed)(ks_dev *, ks_view out, ks_view table,
                             const int32_t *ids, float scale, ks_err *);
ks_status KS_ISA_NAME(gemm)(ks_dev *, ks_view out, ks_view x, ks_view w,
                            const float *bias, bool accumulate, ks_err *);
ks_status KS_ISA_NAME(norm)(ks_dev *, ks_view out, ks_view x,
                            const ks_view *add, const float *w, float eps,
                            ks_err *);
ks_status KS_ISA_NAME(add)(ks_dev *, ks_view x, ks_view y, ks_err *);
ks_status KS_ISA_NAME(rope)(ks_dev *, ks_view q, ks_view k, ks_view v,
                            int32_t head_dim, const ks_rope *, const ks_seqs *,
                            const ks_kv_layer *, ks_err *);
ks_status KS_ISA_NAME(attention)(ks_dev *, ks_view out, ks_view q, ks_view k,
                                 ks_view v, const ks_attn_spec *,
                                 const ks_seqs *, const ks_kv_layer *,
                                 ks_err *);
ks_status KS_ISA_NAME(gate)(ks_dev *, ks_view out, ks_view gate, ks_view up,
                            ks_act, ks_err *);
ks_status KS_ISA_NAME(route)(ks_dev *, int32_t *expert, float *weight,
                             ks_view logits, int32_t top_k, bool renormalise,
                             ks_err *);
ks_status KS_ISA_NAME(group)(ks_dev *, int32_t *offsets, int32_t *row,
                             int32_t *place, const int32_t *expert, int64_t n,
                             int32_t top_k, int32_t n_experts, ks_err *);
ks_status KS_ISA_NAME(gemm_grouped)(ks_dev *, ks_view out, ks_view x,
                                    const int32_t *row, ks_view w,
                                    const float *bias, const int32_t *offsets,
                                    int32_t n_experts, ks_err *);
ks_status KS_ISA_NAME(gate_clamped)(ks_dev *, ks_view out, ks_view x, ks_clamp,
                                    ks_err *);
ks_status KS_ISA_NAME(combine)(ks_dev *, ks_view out, ks_view x,
                               const int32_t *place, const float *weight,
                               int32_t top_k, ks_err *);
ks_status KS_ISA_NAME(pool)(ks_dev *, void *const out[KS_N_POSITIONS], ks_type,
                            ks_view x, const ks_pool_row *, int64_t n_rows,
                            uint32_t positions, ks_err *);
ks_status KS_ISA_NAME(convert)(ks_dev *, void *out, ks_type, ks_view x,
                               const int32_t *index, int64_t n_rows, ks_err *);
ks_status KS_ISA_NAME(count_nonfinite)(ks_dev *, ks_view x, int64_t *count,
                                       int64_t *row, ks_err *);
ks_status KS_ISA_NAME(score)(ks_dev *, float *logprob, ks_view hidden,
                             ks_view head, float softcap, const int32_t *target,
                             ks_err *);
ks_status KS_ISA_NAME(sample)(ks_dev *, int32_t *id, float *logprob,
                              ks_view hidden, ks_view head, float softcap,
                              const ks_sample_spec *, ks_err *);
ks_status KS_ISA_NAME(share)(ks_dev *, double *share, ks_view hidden,
                             ks_view head, float softcap,
                             const ks_sample_spec *, const int32_t *offsets,
                             const int32_t *ids, ks_err *);

ks_status KS_ISA_NAME(gemm_backward)(ks_dev *, ks_view dx, ks_view dy,
                                     ks_view w, bool accumulate, ks_err *);
ks_status KS_ISA_NAME(norm_backward)(ks_dev *, ks_view dx, ks_view dy,
                                     ks_view x, const int32_t *row,
                                     int32_t heads, const float *w, float eps,
                                     bool accumulate, ks_err *);
ks_status KS_ISA_NAME(rope_backward)(ks_dev *, ks_view dq, ks_view dk,
                                     int32_t head_dim, const ks_rope *,
                                     const ks_seqs *, const int32_t *row,
                                     ks_err *);
ks_status KS_ISA_NAME(gate_backward)(ks_dev *, ks_view dgate, ks_view dup,
                                     ks_view dout, ks_view gate, ks_view up,
                                     const int32_t *row, ks_act, ks_err *);
ks_status KS_ISA_NAME(attention_backward)(ks_dev *, ks_view dq, ks_view dk,
                                          ks_view dv, ks_view dout, ks_view out,
                                          ks_view q, ks_view k, ks_view v,
                                          const ks_attn_spec *, const ks_seqs *,
                                          const ks_cots *, ks_err *);
ks_status KS_ISA_NAME(score_backward)(ks_dev *, ks_view dhidden, float *logprob,
                                      ks_view hidden, ks_view head,
                                      float softcap, const int32_t *target,
                                      const float *weight, bool of_probability,
                                      ks_err *);

ks_status KS_ISA_NAME(adamw)(ks_dev *, const ks_adamw_job *, ks_err *);

/* -------------------------------------------------------- the GEMM's pieces */

#define ks__unpack KS_ISA_NAME(unpack)
#define ks__unpack_rows KS_ISA_NAME(unpack_rows)
#define ks__product KS_ISA_NAME(product)
#define ks__kernels KS_ISA_NAME(kernels)

/* Shapes of the micro-kernel: MR rows of x times NR rows of w, in 12 (28 with
 * AVX-512) accumulators of VL lanes, which leaves registers for two vectors of
 * the panel and one broadcast. KC: the panel (NR x KC) stays in L1. */
enum {
    NV = 2,
    NR = NV * VL,
    MR = KS_WIDE ? 14 : 6,
    KC = KS_WIDE ? 288 : 320,
    NB = 96,                /* columns of out in one task; panels in L2 */
    SUPER = 256,            /* elements of the largest quantised blocks */
    MB = KS_WIDE ? 112 : 96 /* rows that pass under one panel: x in L2 */
};

/* Rows [n0, n0 + n) of w, columns [k0, k0 + kc), as panel[kc, NR] in f32,
 * zeros for rows n..NR. rows: scratch of KS_ROWS_BYTES. */
enum {
    KS_ROWS_STRIDE = KC + 2 * 256, /* whole K-quant blocks around KC */
    KS_ROWS_BYTES = KS_ROWS_STRIDE * 8 * 4
};
void ks__unpack(const ks_view *w, int64_t n0, int64_t n, int64_t k0, int64_t kc,
                float *panel, float *rows);

/* Rows [k0, k0 + kc) of w, columns [n0, n0 + n), as panels[n / NR, kc, NR],
 * zeros behind column n. */
void ks__unpack_rows(const ks_view *w, int64_t k0, int64_t kc, int64_t n0,
                     int64_t n, float *panels, float *rows);

/* Rows [m0, m1) and columns [n0, n1) of the product x W^T, or x W, any range:
 * an element's operations are the same whatever the range. out: where (m0, n0)
 * goes. */
typedef struct ks_product {
    int64_t out_stride;
    const float *x;
    int64_t x_stride;
    ks_view w;
    const float *bias;
    bool accumulate;
    bool back; /* x W: sums run over w's rows */
} ks_product;
void ks__product(const ks_product *p, float *out, int64_t m0, int64_t m1,
                 int64_t n0, int64_t n1, void *scratch);

/* The micro-kernels, by their rows; entry 0 is NULL. By ks__multiply alone:
 * AddressSanitizer does not look at what they touch. */
typedef void (*ks_kernel)(int64_t kc, const float *x, int64_t x_stride,
                          const float *panel, float *out, int64_t out_stride,
                          int64_t cols, const float *bias, bool add);
extern const ks_kernel ks__kernels[MR + 1];

/* mr rows (1 to MR) and one panel: out[mr, NR] (its first cols columns) =
 * x panel (+ bias) (+ out if add); the sum over kc is one chain of
 * multiply-adds in order, whatever mr. */
KS_INLINE void ks__multiply(int64_t mr, int64_t kc, const float *x,
                            int64_t x_stride, const float *panel, float *out,
                            int64_t out_stride, int64_t cols, const float *bias,
                            bool add) {
    size_t width = (size_t)KS_MIN(cols, NR) * sizeof *out;
    for (int64_t i = 0; i < mr; i++) {
        ks_watch(x + i * x_stride, (size_t)kc * sizeof *x);
        ks_watch(out + i * out_stride, width);
    }
    ks_watch(panel, (size_t)kc * NR * sizeof *panel);
    if (bias) ks_watch(bias, width);
    ks__kernels[mr](kc, x, x_stride, panel, out, out_stride, cols, bias, add);
}

#endif
