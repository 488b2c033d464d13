/* cuda_ops.h - the launchers of the CUDA backend, one a slot of struct ks_ops
 * (cuda.cuh has their rules). */
#ifndef KS_CUDA_OPS_H
#define KS_CUDA_OPS_H

#include "ops.h"

#ifdef __cplusplus
extern "C" {
#endif

ks_status ks__cuda_attention(ks_dev *dev, ks_view out, ks_view q, ks_view k,
                             ks_view v, const ks_attn_spec *spec,
                             const ks_seqs *seqs, const ks_kv_layer *kv,
                             ks_err *err);

#ifdef __cplusplus
}
#endif

#endif
