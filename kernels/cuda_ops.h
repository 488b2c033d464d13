/* cuda_ops.h - the CUDA launchers; each has the signature of its slot in
 * struct ks_ops (ops.h), which ops_cuda.cu lists them in. */
#ifndef KS_CUDA_OPS_H
#define KS_CUDA_OPS_H

#ifdef __cplusplus
extern "C" {
#endif

#include "ops.h"

/* copy.cu */
ks_status ks__cuda_alloc(ks_dev *, ks_buf *, size_t, const char *what,
                         ks_err *);
void ks__cuda_free(ks_dev *, ks_buf *);
ks_status ks__cuda_copy(ks_dev *, void *to, const void *from, size_t, ks_err *);
ks_status ks__cuda_sync(ks_dev *, ks_err *);
ks_status ks__cuda_zero(ks_dev *, void *, size_t, ks_err *);
ks_status ks__cuda_enter(ks_dev *, ks_err *);
ks_status ks__cuda_alloc_host(ks_dev *, ks_buf *, size_t, const char *what,
                              ks_err *);
void ks__cuda_free_host(ks_dev *, ks_buf *);
ks_status ks__cuda_copy_out(ks_dev *, void *to, const void *from, size_t,
                            uint64_t *ticket, ks_err *);
ks_status ks__cuda_wait(ks_dev *, uint64_t ticket, ks_err *);
/* graph.cu */
ks_status ks__cuda_record(ks_dev *, ks_err *);
ks_status ks__cuda_recorded(ks_dev *, ks_graph **, ks_err *);
ks_status ks__cuda_replay(ks_dev *, ks_graph *, ks_err *);
void ks__cuda_free_graph(ks_dev *, ks_graph **);
/* rows, heads */
ks_status ks__cuda_embed(ks_dev *, ks_view out, ks_view table,
                         const int32_t *ids, float scale, ks_err *);
ks_status ks__cuda_norm(ks_dev *, ks_view out, ks_view x, const ks_view *add,
                        const float *w, float eps, ks_err *);
ks_status ks__cuda_add(ks_dev *, ks_view x, ks_view y, ks_err *);
ks_status ks__cuda_rope(ks_dev *, ks_view q, ks_view k, ks_view v,
                        int32_t head_dim, const ks_rope *, const ks_seqs *,
                        const ks_kv_layer *kv, ks_err *);
ks_status ks__cuda_gate(ks_dev *, ks_view out, ks_view gate, ks_view up, ks_act,
                        ks_err *);
ks_status ks__cuda_route(ks_dev *, int32_t *expert, float *weight,
                         ks_view logits, int32_t top_k, bool renormalise,
                         ks_err *);
ks_status ks__cuda_group(ks_dev *, int32_t *offsets, int32_t *row,
                         int32_t *place, const int32_t *expert, int64_t n,
                         int32_t top_k, int32_t n_experts, ks_err *);
ks_status ks__cuda_gate_clamped(ks_dev *, ks_view out, ks_view x, ks_clamp,
                                ks_err *);
ks_status ks__cuda_combine(ks_dev *, ks_view out, ks_view x,
                           const int32_t *place, const float *weight,
                           int32_t top_k, ks_err *);
ks_status ks__cuda_pool(ks_dev *, void *const out[KS_N_POSITIONS], ks_type,
                        ks_view x, const ks_pool_row *, int64_t n_rows,
                        uint32_t positions, ks_err *);
ks_status ks__cuda_convert(ks_dev *, void *out, ks_type, ks_view x,
                           const int32_t *index, int64_t n_rows, ks_err *);
ks_status ks__cuda_count_nonfinite(ks_dev *, ks_view x, int64_t *count,
                                   int64_t *row, ks_err *);
ks_status ks__cuda_score(ks_dev *, float *logprob, ks_view hidden, ks_view head,
                         float softcap, const int32_t *target, ks_err *);
ks_status ks__cuda_sample(ks_dev *, int32_t *id, float *logprob, ks_view hidden,
                          ks_view head, float softcap, const ks_sample_spec *,
                          ks_err *);
ks_status ks__cuda_share(ks_dev *, double *share, ks_view hidden, ks_view head,
                         float softcap, const ks_sample_spec *,
                         const int32_t *offsets, const int32_t *ids, ks_err *);

/* gemm.cu, gemm_backward.cu */
ks_status ks__cuda_gemm(ks_dev *, ks_view out, ks_view x, ks_view w,
                        const float *bias, bool accumulate, ks_err *);
ks_status ks__cuda_gemm_grouped(ks_dev *, ks_view out, ks_view x,
                                const int32_t *row, ks_view w,
                                const float *bias, const int32_t *offsets,
                                int32_t n_experts, ks_err *);
ks_status ks__cuda_gemm_backward(ks_dev *, ks_view dx, ks_view dy, ks_view w,
                                 bool accumulate, ks_err *);
/* attention.cu, attention_backward.cu */
ks_status ks__cuda_attention(ks_dev *, ks_view out, ks_view q, ks_view k,
                             ks_view v, const ks_attn_spec *, const ks_seqs *,
                             const ks_kv_layer *, ks_err *);
ks_status ks__cuda_attention_backward(ks_dev *, ks_view dq, ks_view dk,
                                      ks_view dv, ks_view dout, ks_view out,
                                      ks_view q, ks_view k, ks_view v,
                                      const ks_attn_spec *, const ks_seqs *,
                                      const ks_cots *, ks_err *);

/* matmul.cu */
ks_status ks__cuda_matmul(ks_dev *, ks_view c, ks_view a, bool ta, ks_view b,
                          bool tb, float alpha, float beta, ks_err *);
/* probe_l2.cu, probe_gram.cu */
ks_status ks__cuda_l2_pass(ks_dev *, ks_l2_rows *, const ks_l2_pass *,
                           ks_err *);
ks_status ks__cuda_l2_gram(ks_dev *, ks_l2_rows *, const ks_l2_scaling *,
                           float *out, ks_err *);
ks_status ks__cuda_l2_project(ks_dev *, ks_l2_rows *, const ks_l2_scaling *,
                              const float *q, int64_t n_q, float *out,
                              ks_err *);
ks_status ks__cuda_l2_hessian(ks_dev *, ks_l2_rows *, const ks_l2_hessian *,
                              int32_t n, ks_err *);
/* adamw.cu */
ks_status ks__cuda_adamw(ks_dev *, const ks_adamw_job *, ks_err *);

/* norm_backward.cu, rope_backward.cu, gate_backward.cu, score_backward.cu */
ks_status ks__cuda_norm_backward(ks_dev *, ks_view dx, ks_view dy, ks_view x,
                                 const int32_t *row, int32_t heads,
                                 const float *w, float eps, bool accumulate,
                                 ks_err *);
ks_status ks__cuda_rope_backward(ks_dev *, ks_view dq, ks_view dk,
                                 int32_t head_dim, const ks_rope *,
                                 const ks_seqs *, const int32_t *row, ks_err *);
ks_status ks__cuda_gate_backward(ks_dev *, ks_view dgate, ks_view dup,
                                 ks_view dout, ks_view gate, ks_view up,
                                 const int32_t *row, ks_act, ks_err *);
ks_status ks__cuda_score_backward(ks_dev *, ks_view dhidden, float *logprob,
                                  ks_view hidden, ks_view head, float softcap,
                                  const int32_t *target, const float *weight,
                                  bool of_probability, ks_err *);

#ifdef __cplusplus
}
#endif
#endif
