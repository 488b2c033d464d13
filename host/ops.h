/* ops.h - the contract of every op. forward.c and the probe trainers are
 * written once over this table; ops_cpu.c and ops_cuda.cu fill it.
 * A missing entry is an error at open: no silent mix of memory spaces.
 *
 * Rules that hold for every op
 *   - What an op reads or writes by the element (views, ids, offsets, pages,
 *     pool rows, targets, specs, biases, inv_freq, sinks, results) lies in the
 *     backend's memory: alloc owns it, copy is the only way in and out. Where
 *     `unified` is set that is host memory, and any host pointer will do.
 *     Structs and the array out[] of pool are read on the host.
 *   - Views are row-major; stride counts elements between rows. Results and
 *     accumulations are f32; weights come as stored (ks_type).
 *   - Inputs and outputs do not overlap unless the op says it works in place.
 *   - Fixed reduction orders: one row's bits do not depend on the number of
 *     rows, their place in the batch, or the thread count.
 *   - On a device, ops are queued on dev's stream; host memory is valid after
 *     sync. Launch errors surface in the status, late ones at sync; so does
 *     KS_NUMERIC of pool, convert, sample and share, from the op or from the
 *     next sync, which then forgets it.
 */
#ifndef KS_OPS_H
#define KS_OPS_H

#include "base.h"
#include "train.h"

typedef struct ks_dev ks_dev;     /* a backend's own state: stream, scratch */
typedef struct ks_graph ks_graph; /* recorded ops */

/* Owns device memory; only a buf can be freed. */
typedef struct ks_buf {
    void *data;
    size_t size;
} ks_buf;

/* Borrows: [rows, cols] elements of `type`, rows `stride` elements apart.
 * Block-quantised types: stride == cols, cols a multiple of the block. */
typedef struct ks_view {
    void *data;
    int64_t rows, cols, stride;
    ks_type type;
} ks_view;

/* How positions turn into rotations. inv_freq: [head_dim / 2] f32, all
 * scalings applied; scale multiplies cos and sin (YaRN). */
typedef struct ks_rope {
    const float *inv_freq;
    float scale;
    int32_t rot_dims; /* leading dims of a head that rotate (even) */
    bool interleaved; /* pairs (2i, 2i+1) instead of (i, i + rot/2) */
} ks_rope;

/* The packed batch as ops see it, arrays in the backend's memory. A sequence
 * may continue one whose keys and values lie in the KV store: its tokens have
 * positions past[s], past[s] + 1, ... */
typedef struct ks_seqs {
    int32_t n_seq, n_tok;
    const int32_t *offsets; /* [n_seq + 1] into the packed tokens */
    const int32_t *past;    /* [n_seq] tokens already in the store; or NULL */
    const int32_t *pages;   /* [n_seq, max_pages] page ids, in order; or NULL */
    int32_t max_pages;
    /* [n_seq, 2], or NULL: tokens [begin, end) of the sequence, by position,
     * that its tokens at end and later do not attend to; all others attend as
     * ever. Nothing is hidden where end <= begin. */
    const int32_t *hidden;
} ks_seqs;

/* One layer of the paged KV store: pages of KS_PAGE tokens,
 * k, v: [n_pages, KS_PAGE, n_kv_heads, head_dim] f32. */
enum { KS_PAGE = 16 };
typedef struct ks_kv_layer {
    float *k, *v;
} ks_kv_layer;

typedef enum ks_act { KS_SILU, KS_GELU_TANH, KS_GELU_ERF } ks_act;

/* Attention of one layer. */
typedef struct ks_attn_spec {
    int32_t n_heads, n_kv_heads, head_dim;
    float scale;        /* of q.k, usually head_dim^-1/2 */
    float softcap;      /* 0: none; else cap * tanh(s / cap) */
    int32_t window;     /* 0: all; else keys in (t - window, t] */
    const float *sinks; /* [n_heads] extra logits, or NULL */
} ks_attn_spec;

/* The clamped gate of gpt-oss. */
typedef struct ks_clamp {
    float alpha, limit; /* 1.702, 7 */
} ks_clamp;

/* One step to pool: rows [begin,end) of x; before = row ahead, or -1. */
typedef struct ks_pool_row {
    int32_t begin, end, before;
} ks_pool_row;

/* Many cotangents against one forward. Cotangent c has rows offsets[c] ..
 * offsets[c + 1] of every cotangent view; they belong to the forward's rows
 * first[c], first[c] + 1, .. of one sequence, in order. So nothing is carried
 * for tokens after those that the cotangent starts from, nor for those ahead
 * of first[c], where no gradient is asked for. Pointers as in ks_seqs; none
 * may be NULL. */
typedef struct ks_cots {
    int32_t n_cot, n_rows;
    const int32_t *offsets; /* [n_cot + 1] */
    const int32_t *first;   /* [n_cot] */
    const int32_t *row;     /* [n_rows] the forward's row of each */
} ks_cots;

/* Sampling of one row of logits; temperature 0: greedy (lowest id wins). */
typedef struct ks_sample_spec {
    float temperature, top_p;
    int32_t top_k;    /* 0: all */
    uint64_t key[2];  /* Philox key: seed and stream of the sequence */
    uint64_t counter; /* token index: one draw a token */
} ks_sample_spec;

/* Item i of ops->each, on the lane's own device handle. */
typedef ks_status (*ks_each_fn)(void *user, ks_dev *dev, int32_t lane,
                                int32_t i, ks_err *err);

struct ks_ops {
    const char *name; /* "cpu" */
    const char *isa;  /* "avx2", "sm_90": part of what decides bits */
    bool unified;     /* the backend's memory is host memory */
    bool graphs;      /* it can record */

    /* ---- memory: sizes in bytes; copy works between host and device, and
     * within either. It has read host memory when it returns; what it writes
     * to host memory is there after sync. */
    ks_status (*alloc)(ks_dev *, ks_buf *, size_t, const char *what, ks_err *);
    void (*free)(ks_dev *, ks_buf *);
    ks_status (*copy)(ks_dev *, void *to, const void *from, size_t, ks_err *);
    ks_status (*sync)(ks_dev *, ks_err *);
    /* All bytes 0, in the order of the ops around it. */
    ks_status (*zero)(ks_dev *, void *, size_t, ks_err *);
    /* A thread calls it before its first op on a device that it did not open
     * itself, or when it turns from one device to another. */
    ks_status (*enter)(ks_dev *, ks_err *);

    /* ---- copies beside the ops. alloc_host: host memory that a device can
     * write while it computes. */
    ks_status (*alloc_host)(ks_dev *, ks_buf *, size_t, const char *what,
                            ks_err *);
    void (*free_host)(ks_dev *, ks_buf *);
    /* Copies from the backend's memory into that of alloc_host what the ops
     * queued so far leave there; ops queued later run beside the copy. Until
     * wait(ticket) nothing may write `from` or read `to`. Tickets count up. */
    ks_status (*copy_out)(ks_dev *, void *to, const void *from, size_t,
                          uint64_t *ticket, ks_err *);
    /* Returns once this copy and all earlier ones have arrived; what was
     * queued later runs on. Late errors of what came before surface here, as
     * at sync. */
    ks_status (*wait)(ks_dev *, uint64_t ticket, ks_err *);

    /* ---- graphs, where `graphs` is set (elsewhere these fail, and the caller
     * calls the ops each time). Between record and recorded ops are noted
     * instead of queued; replay queues them all at once, with the pointers and
     * shapes of then and the contents of now. Not to be recorded: alloc, free,
     * sync, wait, copies that touch host memory, count_nonfinite. A failed op
     * is followed by recorded all the same, which then fails too. */
    ks_status (*record)(ks_dev *, ks_err *);
    ks_status (*recorded)(ks_dev *, ks_graph **, ks_err *);
    ks_status (*replay)(ks_dev *, ks_graph *, ks_err *);
    void (*free_graph)(ks_dev *, ks_graph **);

    /* Calls body for every i of [0, n). Up to `lanes` (at most ks_dev_lanes)
     * items are in work at once, each on a handle whose ops run in the calling
     * thread alone; with one lane body gets the device itself. An item writes
     * only what is its own or its lane's. Returns a failure of the lowest i
     * that failed. */
    ks_status (*each)(ks_dev *, int32_t lanes, int32_t n, ks_each_fn body,
                      void *user, ks_err *);

    /* ---- forward */
    /* out[t] = scale * table[ids[t]]; ids checked by the caller. */
    ks_status (*embed)(ks_dev *, ks_view out, ks_view table, const int32_t *ids,
                       float scale, ks_err *);
    /* out = x W^T (+ bias) (+ out if accumulate); w: [n_out, n_in] as stored,
     * bias f32 [n_out] or NULL. */
    ks_status (*gemm)(ks_dev *, ks_view out, ks_view x, ks_view w,
                      const float *bias, bool accumulate, ks_err *);
    /* RMSNorm: out = x / sqrt(mean(x^2) + eps) * w. add != NULL: first
     * x += add, in place (the residual add). In place (out == x) is allowed
     * without add. q/k-norm: pass heads as rows. */
    ks_status (*norm)(ks_dev *, ks_view out, ks_view x, const ks_view *add,
                      const float *w, float eps, ks_err *);
    /* x += y */
    ks_status (*add)(ks_dev *, ks_view x, ks_view y, ks_err *);
    /* Rotates q [n_tok, n_heads * head_dim] and k [n_tok, n_kv * head_dim] in
     * place; with kv (may be NULL) also writes k and v into the store. */
    ks_status (*rope)(ks_dev *, ks_view q, ks_view k, ks_view v,
                      int32_t head_dim, const ks_rope *, const ks_seqs *,
                      const ks_kv_layer *kv, ks_err *);
    /* Causal attention: out [n_tok, n_heads * head_dim]. Keys before past[s]
     * come from the store, the batch's own from k and v. Keys are walked in
     * blocks at absolute positions, so a token's bits are the same whether its
     * prefix was stored or is in the batch. Hidden keys count neither in the
     * softmax nor in the sum, wherever they lie; a window does not widen for
     * them. A token always has its own key. */
    ks_status (*attention)(ks_dev *, ks_view out, ks_view q, ks_view k,
                           ks_view v, const ks_attn_spec *, const ks_seqs *,
                           const ks_kv_layer *kv, ks_err *);
    /* out = act(gate) * up; in place (out == gate) is allowed */
    ks_status (*gate)(ks_dev *, ks_view out, ks_view gate, ks_view up, ks_act,
                      ks_err *);

    /* ---- mixture of experts: a layer is gemm (the router's logits), route,
     * group, gemm_grouped, gate or gate_clamped, gemm_grouped, combine. */
    /* The top_k highest of each row of logits [n, n_experts] (ties: the lower
     * expert; NaN is highest) in ascending order of expert: expert [n, top_k]
     * and weight [n, top_k], their softmax over all experts, or with
     * `renormalise` over the chosen ones (the same as a softmax of the chosen
     * logits). */
    ks_status (*route)(ks_dev *, int32_t *expert, float *weight, ks_view logits,
                       int32_t top_k, bool renormalise, ks_err *);
    /* The n * top_k pairs (row, slot) by expert, then row: pair p belongs to
     * row row[p]; expert e has pairs offsets[e] .. offsets[e + 1]; slot s of
     * row i is pair place[i, s]. A row's experts differ. */
    ks_status (*group)(ks_dev *, int32_t *offsets, int32_t *row, int32_t *place,
                       const int32_t *expert, int64_t n, int32_t top_k,
                       int32_t n_experts, ks_err *);
    /* out[p] = W_e x[row ? row[p] : p] (+ bias_e) for the pairs of expert e;
     * w: [n_experts * n_out, n_in] as stored, bias [n_experts, n_out] or NULL.
     * A row's bits are those of gemm with that expert's weights. out.rows is
     * offsets[n_experts]. */
    ks_status (*gemm_grouped)(ks_dev *, ks_view out, ks_view x,
                              const int32_t *row, ks_view w, const float *bias,
                              const int32_t *offsets, int32_t n_experts,
                              ks_err *);
    /* x [n, 2 m] holds pairs (gate, up); out [n, m]:
     *     g = min(gate, limit), u = min(max(up, -limit), limit)
     *     out = (u + 1) g / (1 + exp(-alpha g)) */
    ks_status (*gate_clamped)(ks_dev *, ks_view out, ks_view x, ks_clamp,
                              ks_err *);
    /* out[i] = sum of weight[i, s] x[place[i, s]], s = 0, 1, .. in order */
    ks_status (*combine)(ks_dev *, ks_view out, ks_view x, const int32_t *place,
                         const float *weight, int32_t top_k, ks_err *);

    /* ---- capture */
    /* Pools x [n_tok, d] over steps. out[p], for each position p in the bit
     * set (KS_TOKENS excluded): [n_rows, d] in out_type, f32 sums in token
     * order, rounded once to nearest even. Empty steps: NaN. */
    ks_status (*pool)(ks_dev *, void *const out[KS_N_POSITIONS], ks_type,
                      ks_view x, const ks_pool_row *, int64_t n_rows,
                      uint32_t positions, ks_err *);
    /* out = x rounded to out_type, rows gathered by index (NULL: all). */
    ks_status (*convert)(ks_dev *, void *out, ks_type, ks_view x,
                         const int32_t *index, int64_t n_rows, ks_err *);
    /* Number of values in x that are not finite, and the first such row (-1:
     * none). */
    ks_status (*count_nonfinite)(ks_dev *, ks_view x, int64_t *count,
                                 int64_t *row, ks_err *);

    /* ---- heads. hidden: normed rows [n, d]; head: [vocab, d] as stored.
     * softcap as in ks_attn_spec. Logits exist a tile of rows at a time. */
    /* logprob[i] = log softmax(head hidden[i])[target[i]] */
    ks_status (*score)(ks_dev *, float *logprob, ks_view hidden, ks_view head,
                       float softcap, const int32_t *target, ks_err *);
    /* One spec a row. id[i] drawn from softmax(logits / temperature) cut at
     * top-k, then top-p:
     * u = philox(key, counter) in [0,1), the first id in descending
     * probability (ties: lower id first) whose cumulative share exceeds u.
     * Shares are sums of integers (draw.h): the same id from the same logits
     * on every backend.
     * logprob[i] (may be NULL): of the id at temperature 1, uncut. */
    ks_status (*sample)(ks_dev *, int32_t *id, float *logprob, ks_view hidden,
                        ks_view head, float softcap, const ks_sample_spec *,
                        ks_err *);
    /* One spec a row, key and counter unread. share[i] = log of the probability
     * that sample draws an id of set i, ids[offsets[i]] .. ids[offsets[i + 1]]
     * (distinct, in the vocabulary): the sum of their weights (draw.h) over
     * that of all ids that top-k and top-p leave. So 0 where the set has all
     * that is left, -infinity where nothing of it is; greedy gives one or the
     * other. (sample's u has 24 bits: no probability is met closer than
     * 2^-24.) In double, by the same operations everywhere: the same bits from
     * the same logits on every backend, and a share close to 1 keeps what it
     * lacks. */
    ks_status (*share)(ks_dev *, double *share, ks_view hidden, ks_view head,
                       float softcap, const ks_sample_spec *,
                       const int32_t *offsets, const int32_t *ids, ks_err *);

    /* ---- backward: cotangents of an op's output to cotangents of its input,
     * weights held fixed. Many cotangents share one forward: x, gate, up, q, k,
     * v, out hold the forward's rows, row[i] names the one that row i of the
     * cotangents belongs to (NULL: i). A cotangent row's bits do not depend on
     * which others are there. */
    /* of gemm: dx = dy W (+ dx if accumulate); w: [n_out, n_in] as stored, dy
     * [n, n_out], dx [n, n_in]. */
    ks_status (*gemm_backward)(ks_dev *, ks_view dx, ks_view dy, ks_view w,
                               bool accumulate, ks_err *);
    /* of norm at x (its input, after the residual add):
     *     r = 1 / sqrt(mean(x^2) + eps), g = w dy
     *     dx = r g - x r^3 mean(g x)   (+ dx if accumulate)
     * In place (dx == dy) is allowed without accumulate. heads: rows that share
     * an entry of row; row i belongs to row[i / heads] heads + i % heads of x
     * (q/k-norm: heads as rows), else 1. */
    ks_status (*norm_backward)(ks_dev *, ks_view dx, ks_view dy, ks_view x,
                               const int32_t *row, int32_t heads,
                               const float *w, float eps, bool accumulate,
                               ks_err *);
    /* of rope, in place: the rotation back, times the same scale. Positions
     * are those of the forward's rows. */
    ks_status (*rope_backward)(ks_dev *, ks_view dq, ks_view dk,
                               int32_t head_dim, const ks_rope *,
                               const ks_seqs *, const int32_t *row, ks_err *);
    /* of gate: dgate = dout up act'(gate), dup = dout act(gate). dgate or dup
     * may be dout. */
    ks_status (*gate_backward)(ks_dev *, ks_view dgate, ks_view dup,
                               ks_view dout, ks_view gate, ks_view up,
                               const int32_t *row, ks_act, ks_err *);
    /* of attention without a store (no past) and without hidden keys: dq
     * [n_rows, n_heads head_dim], dk and dv [n_rows, n_kv_heads head_dim], all
     * written (zeros where nothing reaches), from dout [n_rows, n_heads
     * head_dim]. out: what attention gave for q, k and v. With P the
     * probabilities, c a cotangent: dV_c = P^T dO_c, dP = dO_c V^T, dS = P (dP
     * - rowsum(dO_c O)) slope dQ_c = dS K, dK_c = dS^T Q slope: scale, times 1
     * - (s / softcap)^2 where scores are capped (Dao 2023, algorithm 2). The
     * sums behind P are shared by all cotangents. Keys ahead of first[c] count
     * in dQ and P, and get no dK and dV. */
    ks_status (*attention_backward)(ks_dev *, ks_view dq, ks_view dk,
                                    ks_view dv, ks_view dout, ks_view out,
                                    ks_view q, ks_view k, ks_view v,
                                    const ks_attn_spec *, const ks_seqs *,
                                    const ks_cots *, ks_err *);
    /* of score: dhidden[i] = weight[i] d f / d hidden[i], f the log-probability
     * of target[i], or with of_probability its exponential. logprob (may be
     * NULL): as score gives it, up to rounding. */
    ks_status (*score_backward)(ks_dev *, ks_view dhidden, float *logprob,
                                ks_view hidden, ks_view head, float softcap,
                                const int32_t *target, const float *weight,
                                bool of_probability, ks_err *);

    /* ---- probes (all f32; see probes/l2.c) */
    /* c = alpha op(a) op(b) + beta c, BLAS-like, t: transposed */
    ks_status (*matmul)(ks_dev *, ks_view c, ks_view a, bool ta, ks_view b,
                        bool tb, float alpha, float beta, ks_err *);
    /* L2 logistic regression: one read of the rows for all columns. f32
     * products and, beyond a block of rows, double sums; exact: all double. */
    ks_status (*l2_pass)(ks_dev *, ks_l2_rows *, const ks_l2_pass *, ks_err *);
    /* out [d, d] (host): the lower triangle of the sum of a_i a_i'; f32 */
    ks_status (*l2_gram)(ks_dev *, ks_l2_rows *, const ks_l2_scaling *,
                         float *out, ks_err *);
    /* out [n_q, d] = the sum of (q a_i) a_i', q [n_q, d]; host, f32 */
    ks_status (*l2_project)(ks_dev *, ks_l2_rows *, const ks_l2_scaling *,
                            const float *q, int64_t n_q, float *out, ks_err *);
    /* n Hessians, in double */
    ks_status (*l2_hessian)(ks_dev *, ks_l2_rows *, const ks_l2_hessian *,
                            int32_t n, ks_err *);
    /* Trains the runs of a job from start to end: mini-batches of the rows in
     * the epoch's order (a last partial one is left out), mean weighted binary
     * cross-entropy on logits, AdamW. f32; a run's bits do not depend on the
     * others. Waits for the end. */
    ks_status (*adamw)(ks_dev *, const ks_adamw_job *, ks_err *);
};

/* Tables; NULL when this build has none of that name. */
const struct ks_ops *ks_ops_cpu(void);

/* Opens a backend, "cpu", "cuda" or "cuda:1" (a device's number; NULL: cpu):
 * picks the instruction set, checks that every slot of the table is filled and
 * that the GEMM gives right results (a small product against plain loops).
 * threads 0: all the process may use. isa NULL: the environment's KS_ISA, else
 * the best. On CUDA isa is the operands' precision: "f32" for products as in
 * f32, else bf16; ops->isa ("sm_90", "sm_90-f32", "sm_90-lt13.1.0" with that
 * version of cuBLASLt) is one too. The handle is the opening thread's until
 * another enters it. */
ks_status ks_dev_open(ks_dev **out, const struct ks_ops **ops,
                      const char *backend, int threads, const char *isa,
                      ks_err *err);
void ks_dev_close(ks_dev **dev, const struct ks_ops *ops);
/* Threads of the host that ops run on; 1 where a device computes. */
int ks_dev_threads(const ks_dev *dev);
/* Lanes that ops->each can keep busy: threads of a CPU. */
int ks_dev_lanes(const ks_dev *dev);
/* The most bytes that alloc may take in all (--memory); 0: what the device has.
 * The CPU's memory is not counted. less (a literal, or NULL): what would need
 * less, for the sentence that there is not enough. */
ks_status ks_dev_limit(ks_dev *dev, size_t memory, const char *less,
                       ks_err *err);
/* From here on products have few rows (a decoder's), or again many: cuBLASLt
 * multiplies 512 rows at once, so few are left to our own kernel. The bits of a
 * row differ between the two. The CPU does not mind. */
void ks_dev_few_rows(ks_dev *dev, bool few);
/* Bytes that alloc may still take, of what others leave; SIZE_MAX where they
 * are not counted. */
size_t ks_dev_room(const ks_dev *dev);

/* The i-th backend of this build, NULL behind the last. */
const char *ks_backend_name(int i);
/* Devices of a backend; the sentence says why there are none. */
ks_status ks_dev_count(const char *backend, int *n, ks_err *err);
typedef struct ks_dev_facts {
    char name[256];                       /* as the maker calls it */
    char isa[64];                         /* "avx2 v2", "sm_90" */
    int threads;                          /* the process may use (CPU) */
    int multiprocessors, driver, runtime; /* CUDA; versions as 13000 */
    size_t memory, unused;                /* bytes of a device */
} ks_dev_facts;
ks_status ks_dev_describe(const char *backend, ks_dev_facts *out, ks_err *err);

/* ------------------------------------------------------------------- types */

int64_t ks_type_block(ks_type type);                  /* elements a block */
size_t ks_type_size(ks_type type);                    /* bytes a block */
size_t ks_type_row_bytes(ks_type type, int64_t cols); /* of one row */
/* One row (or part: whole blocks) of any type to f32; the definition that
 * every kernel's tile load is tested against. */
void ks_dequantize(ks_type type, const void *from, float *to, int64_t n);

static inline ks_view ks_view_f32(float *data, int64_t rows, int64_t cols) {
    return (ks_view){data, rows, cols, cols, KS_F32};
}

#endif
