/* ops_cpu.h - the CPU backend's own state and what its instruction sets share.
 *
 * Every file in isa/ is compiled once per instruction set (v2, avx2, avx512)
 * and exports its launchers under KS_ISA_NAME; isa/table.c lists them in a
 * struct ks_ops per set, and ops_cpu.c picks one table at run time.
 */
#ifndef KS_OPS_CPU_H
#define KS_OPS_CPU_H

#include <omp.h>

#include "dev.h"

struct ks_dev {
    const ks__backend *backend;
    int threads;
    char *scratch; /* [threads, KS_SCRATCH] */
    ks_buf shared; /* of score and sample, grown on demand */
    ks_dev *lanes; /* [threads] one thread and its scratch each */
};

/* Bytes a thread may use inside an op: tiles that live in L2. */
enum { KS_SCRATCH = 1 << 20, KS_MAX_HEAD_DIM = 256 };

/* The calling thread's scratch, 64-byte aligned; inside a parallel region. */
static inline void *ks__scratch(const ks_dev *dev) {
    return dev->scratch + (size_t)omp_get_thread_num() * KS_SCRATCH;
}

/* dev->shared with at least size bytes; contents are lost when it grows. */
ks_status ks__shared(ks_dev *dev, size_t size, const char *what, ks_err *err);

/* Slots without an instruction set of their own. */
ks_status ks__cpu_alloc(ks_dev *, ks_buf *, size_t, const char *, ks_err *);
void ks__cpu_free(ks_dev *, ks_buf *);
ks_status ks__cpu_copy(ks_dev *, void *, const void *, size_t, ks_err *);
ks_status ks__cpu_sync(ks_dev *, ks_err *);
ks_status ks__cpu_zero(ks_dev *, void *, size_t, ks_err *);
ks_status ks__cpu_copy_out(ks_dev *, void *, const void *, size_t, uint64_t *,
                           ks_err *);
ks_status ks__cpu_wait(ks_dev *, uint64_t, ks_err *);
ks_status ks__cpu_record(ks_dev *, ks_err *);
ks_status ks__cpu_recorded(ks_dev *, ks_graph **, ks_err *);
ks_status ks__cpu_replay(ks_dev *, ks_graph *, ks_err *);
void ks__cpu_free_graph(ks_dev *, ks_graph **);
ks_status ks__cpu_each(ks_dev *, int32_t lanes, int32_t n, ks_each_fn, void *,
                       ks_err *);
ks_status ks__cpu_matmul(ks_dev *, ks_view c, ks_view a, bool ta, ks_view b,
                         bool tb, float alpha, float beta, ks_err *);
ks_status ks__cpu_l2_pass(ks_dev *, ks_l2_rows *, const ks_l2_pass *, ks_err *);
ks_status ks__cpu_l2_gram(ks_dev *, ks_l2_rows *, const ks_l2_scaling *,
                          float *out, ks_err *);
ks_status ks__cpu_l2_project(ks_dev *, ks_l2_rows *, const ks_l2_scaling *,
                             const float *q, int64_t n_q, float *out, ks_err *);
ks_status ks__cpu_l2_hessian(ks_dev *, ks_l2_rows *, const ks_l2_hessian *,
                             int32_t n, ks_err *);

extern const struct ks_ops ks__ops_v2, ks__ops_avx2, ks__ops_avx512;

/* A view's row as bytes, for any type. */
static inline const char *ks__row(const ks_view *v, int64_t row) {
    return (const char *)v->data +
           (size_t)row * ks_type_row_bytes(v->type, v->stride);
}

static inline float *ks__row_f32(const ks_view *v, int64_t row) {
    return (float *)v->data + row * v->stride;
}

/* Position in its sequence of the packed batch's first token of sequence s. */
static inline int32_t ks__past(const ks_seqs *seqs, int32_t s) {
    return seqs->past ? seqs->past[s] : 0;
}

/* The sequence that holds packed token t. */
static inline int32_t ks__sequence_of(const ks_seqs *seqs, int32_t t) {
    int32_t low = 0, high = seqs->n_seq;
    while (high - low > 1) {
        int32_t mid = low + (high - low) / 2;
        if (seqs->offsets[mid] <= t)
            low = mid;
        else
            high = mid;
    }
    return low;
}

#endif
