/* cuda.cuh - the CUDA backend's own state and what its families share.
 *
 * One family a file, launchers under their kernels. A launcher has the
 * signature of its slot in struct ks_ops and the name ks__cuda_<slot>;
 * ops_cuda.cu lists them. It checks shapes and types first (KS_INTERNAL, naming
 * both), queues on dev->stream and returns without waiting.
 *
 * Where pointers point: everything that an op reads or writes by the element
 * is device memory, also ids, offsets, pages, pool rows, targets, specs,
 * inv_freq, sinks, biases and norm weights; callers put it there through
 * ops->alloc and ops->copy. Structs are passed by value or read on the host.
 * count_nonfinite alone answers in host memory, and waits for it.
 *
 * Grids depend on shapes that the host knows (n_tok, n_seq, max_pages), never
 * on offsets, so a launch fits into a graph. No float atomics; the order of
 * every sum depends on the row alone. Row offsets are 64-bit. */
#ifndef KS_CUDA_CUH
#define KS_CUDA_CUH

#include "device.cuh"

extern "C" {
#include "dev.h"
#include "ops_check.h"
}

typedef __nv_bfloat16 bf16;

struct ks__blaslt; /* blaslt.cu: cuBLASLt opened at run time, plans by shape */

struct ks__taken { /* what the pool has given out */
    void *data;
    size_t size;
};

struct ks_dev {
    const struct ks__backend *backend; /* dev.h: stands first */
    int ordinal;                       /* CUDA's number of the device */
    int sm;                            /* 80, 90, 120: major * 10 + minor */
    int n_sm;                          /* multiprocessors */
    size_t shared_most;                /* bytes a block may ask for (opt-in) */
    cudaStream_t stream, side;         /* ops; copies beside them */
    cudaMemPool_t pool;    /* stream-ordered; all memory comes from it */
    size_t memory, in_use; /* limit and taken bytes */
    bool limited;          /* memory is the user's limit, not the device's */
    const char *less;      /* ks_dev_limit: what would need less, or NULL */
    bool precise; /* f32 operands: products as sums of bf16 terms, see terms */
    struct ks__blaslt *blaslt; /* NULL: not there, the own GEMM serves */
    bool few_rows;             /* the own GEMM serves: ks_dev_few_rows */
    char isa[48];              /* "sm_90", "sm_90-f32", "sm_90-lt13.1.0" */
    struct ks__taken *taken;   /* [n_taken], latest last */
    size_t n_taken, taken_room;
    struct ks_graph *recording; /* its ops' scratch is the graph's; or NULL */
    struct ks__copies *copies;  /* copy.cu: pinned stages, tickets */
    struct ks_ops ops;          /* ops_cuda.cu: the table, with isa */
    unsigned long long *fault;  /* on the device: see fault.cuh */
    uint32_t fault_calls;       /* that may report, since the last sync */
};

/* Device `ordinal` with its stream and pool; it becomes the calling thread's.
 * memory: bytes that may be taken, 0: all that the device has. */
ks_status ks__cuda_open(ks_dev **out, int ordinal, size_t memory, ks_err *err);
void ks__cuda_close(ks_dev **dev);

/* KS_OK, or KS_NOMEM / KS_INTERNAL with op's name and CUDA's words. */
ks_status ks__cuda_status(cudaError_t error, const char *op, ks_err *err);

/* The same for what a synchronisation answers: the op that failed was queued
 * before, and the sentence has the last ones' names. */
ks_status ks__cuda_late(cudaError_t error, const char *op, ks_err *err);

#define KS_CUDA_TRY(call, op)                                                  \
    do {                                                                       \
        ks_status try_status = ks__cuda_status((call), (op), err);             \
        if (try_status != KS_OK) return try_status;                            \
    } while (0)

/* Memory in stream order, counted against dev->memory. Scratch of one op is
 * taken before its launches and given back after them without waiting. size 0:
 * NULL, and giving back NULL does nothing. While a graph is recorded its memory
 * is the graph's, for as long as there is a graph to replay. */
ks_status ks__cuda_take(ks_dev *dev, void **out, size_t size, const char *what,
                        ks_err *err);
void ks__cuda_give(ks_dev *dev, void *scratch);

/* Lowers or raises the limit; 0: all that the device has. less as in
 * ks_dev_limit. */
ks_status ks__cuda_limit(ks_dev *dev, size_t memory, const char *less,
                         ks_err *err);

/* copy.cu: what copies need; closing waits for those in flight. */
ks_status ks__cuda_copies_open(ks_dev *dev, ks_err *err);
void ks__cuda_copies_close(ks_dev *dev);

/* What a graph's ops take; blocks given back serve the ops behind. */
struct ks__segment {
    void *data;
    size_t size;
    bool busy;
};
struct ks_graph {
    cudaGraphExec_t exec;
    struct ks__segment *blocks;
    size_t n_blocks, room;
};

/* The word that kernels report to (fault.cuh). sync reads it: it waits for the
 * stream, then KS_NUMERIC with the row of the earliest fault since the last. */
ks_status ks__cuda_fault_open(ks_dev *dev, ks_err *err);
ks_status ks__cuda_fault_sync(ks_dev *dev, ks_err *err);
/* The same in two halves: the word as `stream` finds it, on its way to pinned
 * memory; then what it means. */
ks_status ks__cuda_fault_fetch(ks_dev *dev, unsigned long long *to,
                               cudaStream_t stream, ks_err *err);
ks_status ks__cuda_fault_tell(ks_dev *dev, unsigned long long word,
                              ks_err *err);

static inline int64_t ks__ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/* Position in its sequence of the packed batch's first token of sequence s. */
static __host__ __device__ inline int32_t ks__past(const int32_t *past,
                                                   int32_t s) {
    return past ? past[s] : 0;
}

#endif
