/* apart.h - a backend whose memory is not the host's, on any machine: the CPU's
 * ops, on memory that only they and copies can touch. A touch by host code is
 * a segmentation fault, a pointer that is not into live memory of the backend
 * fails the test by the op's name. Results come as late as a device may bring
 * them: copies to the host, and what is not finite, at the next sync. */
#ifndef KS_TESTS_APART_H
#define KS_TESTS_APART_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "forward.h"

#define APART_SPACE ((size_t)1 << 30)
enum { APART_PAGE = 4096, APART_MOST = 4096 };

typedef struct apart_copy { /* to the host, on its way */
    void *to;
    const void *from; /* must still hold `bytes` when waited for */
    void *bytes;
    size_t size;
} apart_copy;

static struct {
    const struct ks_ops *cpu;
    struct ks_ops ops;
    char *base;
    size_t used, limit; /* limit 0: all */
    ks_buf live[APART_MOST];
    size_t n_live;
    apart_copy copies[APART_MOST];
    size_t n_copies;   /* under way */
    uint64_t n_landed; /* that arrived, of all */
    ks_buf landing;    /* the one of alloc_host */
    bool numeric;      /* the next sync says so */
    int64_t n_ops, n_copied, n_syncs, n_waits;
} apart;

static void apart_protect(int how) {
    if (apart.used) cr_assert_eq(mprotect(apart.base, apart.used, how), 0);
}

static void apart_expect(const char *op, const char *what, const void *data,
                         size_t size) {
    const char *at = data;
    if (size == 0) return;
    for (size_t i = 0; i < apart.n_live; i++) {
        const char *begin = apart.live[i].data;
        if (at >= begin && at + size <= begin + apart.live[i].size) return;
    }
    cr_assert_fail("%s: %s (%zu bytes at %p) is not memory of the backend", op,
                   what, size, data);
}

static void apart_view(const char *op, const char *what, const ks_view *v) {
    if (v->rows == 0) return;
    apart_expect(op, what, v->data,
                 (size_t)(v->rows - 1) * ks_type_row_bytes(v->type, v->stride) +
                     ks_type_row_bytes(v->type, v->cols));
}

static void apart_seqs(const char *op, const ks_seqs *s) {
    size_t n = (size_t)s->n_seq;
    apart_expect(op, "offsets", s->offsets, (n + 1) * sizeof(int32_t));
    if (s->past) apart_expect(op, "past", s->past, n * sizeof(int32_t));
    if (s->pages)
        apart_expect(op, "pages", s->pages,
                     n * (size_t)s->max_pages * sizeof(int32_t));
    if (s->hidden)
        apart_expect(op, "hidden", s->hidden, 2 * n * sizeof(int32_t));
}

/* Runs a CPU op with the memory open. */
#define APART_OP(call)                                                         \
    do {                                                                       \
        apart.n_ops++;                                                         \
        apart_protect(PROT_READ | PROT_WRITE);                                 \
        ks_status apart_status = (call);                                       \
        apart_protect(PROT_NONE);                                              \
        if (apart_status != KS_NUMERIC) return apart_status;                   \
        apart.numeric = true;                                                  \
        return KS_OK;                                                          \
    } while (0)

/* ------------------------------------------------------------------- memory
 */

static ks_status apart_alloc(ks_dev *dev, ks_buf *buf, size_t size,
                             const char *what, ks_err *err) {
    (void)dev;
    size_t pages = (size + APART_PAGE - 1) / APART_PAGE * APART_PAGE;
    size_t most = apart.limit ? apart.limit : APART_SPACE;
    if (pages + APART_PAGE > most - apart.used)
        return ks_fail(err, KS_NOMEM, "no memory for %s (%zu bytes)", what,
                       size);
    cr_assert_lt(apart.n_live, APART_MOST);
    *buf = (ks_buf){apart.base + apart.used, size};
    apart.used += pages + APART_PAGE;
    apart_protect(PROT_READ | PROT_WRITE);
    memset(buf->data, 0xff, pages); /* NaN, -1 */
    apart_protect(PROT_NONE);
    apart.live[apart.n_live++] = *buf;
    return KS_OK;
}

/* Addresses are not used again. */
static void apart_free(ks_dev *dev, ks_buf *buf) {
    (void)dev;
    for (size_t i = 0; i < apart.n_live; i++)
        if (apart.live[i].data == buf->data) {
            apart.live[i] = apart.live[--apart.n_live];
            *buf = (ks_buf){0};
            return;
        }
    cr_assert_fail("free: not memory of the backend");
}

static bool apart_is_mine(const void *at) {
    return (const char *)at >= apart.base &&
           (const char *)at < apart.base + APART_SPACE;
}

/* still: nothing may write `from` until it has arrived. */
static ks_status apart_begin(void *to, const void *from, size_t size,
                             bool still, uint64_t *ticket) {
    void *bytes = malloc(size);
    apart_protect(PROT_READ | PROT_WRITE);
    memcpy(bytes, from, size);
    apart_protect(PROT_NONE);
    memset(to, 0xee, size);
    cr_assert_lt(apart.n_copies, APART_MOST);
    apart.copies[apart.n_copies++] =
        (apart_copy){to, still ? from : NULL, bytes, size};
    *ticket = apart.n_landed + apart.n_copies;
    return KS_OK;
}

static ks_status apart_copy_now(ks_dev *dev, void *to, const void *from,
                                size_t size, ks_err *err) {
    (void)dev, (void)err;
    if (size == 0) return KS_OK;
    if (apart_is_mine(to)) apart_expect("copy", "target", to, size);
    if (apart_is_mine(from)) apart_expect("copy", "source", from, size);
    cr_assert(apart_is_mine(to) || apart_is_mine(from),
              "a copy within host memory");
    apart.n_copied++;
    if (apart_is_mine(to)) {
        apart_protect(PROT_READ | PROT_WRITE);
        memcpy(to, from, size);
        apart_protect(PROT_NONE);
        return KS_OK;
    }
    uint64_t ticket;
    return apart_begin(to, from, size, false, &ticket);
}

static ks_status apart_copy_out(ks_dev *dev, void *to, const void *from,
                                size_t size, uint64_t *ticket, ks_err *err) {
    (void)dev, (void)err;
    const char *at = apart.landing.data, *target = to;
    apart_expect("copy_out", "source", from, size);
    cr_assert(at && target >= at && target + size <= at + apart.landing.size,
              "copy_out: the target is not of alloc_host");
    apart.n_copied++;
    return apart_begin(to, from, size, true, ticket);
}

/* The first n copies under way arrive. */
static ks_status apart_land(size_t n, ks_err *err) {
    apart_protect(PROT_READ | PROT_WRITE);
    for (size_t i = 0; i < n; i++) {
        apart_copy *c = &apart.copies[i];
        memcpy(c->to, c->bytes, c->size);
        cr_assert(!c->from || memcmp(c->from, c->bytes, c->size) == 0,
                  "the source of a copy changed on the way");
        free(c->bytes);
    }
    apart_protect(PROT_NONE);
    apart.n_copies -= n;
    apart.n_landed += n;
    memmove(apart.copies, apart.copies + n,
            apart.n_copies * sizeof *apart.copies);
    if (!apart.numeric) return KS_OK;
    apart.numeric = false;
    return ks_fail(err, KS_NUMERIC, "a value is not finite");
}

static ks_status apart_wait(ks_dev *dev, uint64_t ticket, ks_err *err) {
    (void)dev;
    apart.n_waits++;
    if (ticket <= apart.n_landed) return KS_OK;
    return apart_land((size_t)(ticket - apart.n_landed), err);
}

static ks_status apart_sync(ks_dev *dev, ks_err *err) {
    (void)dev;
    apart.n_syncs++;
    return apart_land(apart.n_copies, err);
}

static ks_status apart_alloc_host(ks_dev *dev, ks_buf *buf, size_t size,
                                  const char *what, ks_err *err) {
    (void)dev, (void)what, (void)err;
    cr_assert(apart.landing.data == NULL);
    *buf = apart.landing = (ks_buf){calloc(1, size), size};
    return KS_OK;
}

static void apart_free_host(ks_dev *dev, ks_buf *buf) {
    (void)dev;
    cr_assert_eq(buf->data, apart.landing.data);
    free(buf->data);
    *buf = apart.landing = (ks_buf){0};
}

/* ---------------------------------------------------------------------- ops
 */

static ks_status apart_embed(ks_dev *dev, ks_view out, ks_view table,
                             const int32_t *ids, float scale, ks_err *err) {
    apart_view("embed", "out", &out);
    apart_view("embed", "table", &table);
    apart_expect("embed", "ids", ids, (size_t)out.rows * sizeof *ids);
    APART_OP(apart.cpu->embed(dev, out, table, ids, scale, err));
}

static ks_status apart_gemm(ks_dev *dev, ks_view out, ks_view x, ks_view w,
                            const float *bias, bool accumulate, ks_err *err) {
    apart_view("gemm", "out", &out);
    apart_view("gemm", "x", &x);
    apart_view("gemm", "w", &w);
    if (bias) apart_expect("gemm", "bias", bias, (size_t)w.rows * sizeof *bias);
    APART_OP(apart.cpu->gemm(dev, out, x, w, bias, accumulate, err));
}

static ks_status apart_norm(ks_dev *dev, ks_view out, ks_view x,
                            const ks_view *add, const float *w, float eps,
                            ks_err *err) {
    apart_view("norm", "out", &out);
    apart_view("norm", "x", &x);
    if (add) apart_view("norm", "add", add);
    apart_expect("norm", "w", w, (size_t)x.cols * sizeof *w);
    APART_OP(apart.cpu->norm(dev, out, x, add, w, eps, err));
}

static ks_status apart_add(ks_dev *dev, ks_view x, ks_view y, ks_err *err) {
    apart_view("add", "x", &x);
    apart_view("add", "y", &y);
    APART_OP(apart.cpu->add(dev, x, y, err));
}

static void apart_kv(const char *op, const ks_kv_layer *kv) {
    if (!kv) return;
    apart_expect(op, "keys", kv->k, 1);
    apart_expect(op, "values", kv->v, 1);
}

static ks_status apart_rope(ks_dev *dev, ks_view q, ks_view k, ks_view v,
                            int32_t head_dim, const ks_rope *rope,
                            const ks_seqs *seqs, const ks_kv_layer *kv,
                            ks_err *err) {
    apart_view("rope", "q", &q);
    apart_view("rope", "k", &k);
    apart_view("rope", "v", &v);
    apart_expect("rope", "inv_freq", rope->inv_freq,
                 (size_t)rope->rot_dims / 2 * sizeof(float));
    apart_seqs("rope", seqs);
    apart_kv("rope", kv);
    APART_OP(apart.cpu->rope(dev, q, k, v, head_dim, rope, seqs, kv, err));
}

static ks_status apart_attention(ks_dev *dev, ks_view out, ks_view q, ks_view k,
                                 ks_view v, const ks_attn_spec *spec,
                                 const ks_seqs *seqs, const ks_kv_layer *kv,
                                 ks_err *err) {
    apart_view("attention", "out", &out);
    apart_view("attention", "q", &q);
    apart_view("attention", "k", &k);
    apart_view("attention", "v", &v);
    if (spec->sinks)
        apart_expect("attention", "sinks", spec->sinks,
                     (size_t)spec->n_heads * sizeof(float));
    apart_seqs("attention", seqs);
    apart_kv("attention", kv);
    APART_OP(apart.cpu->attention(dev, out, q, k, v, spec, seqs, kv, err));
}

static ks_status apart_gate(ks_dev *dev, ks_view out, ks_view gate, ks_view up,
                            ks_act act, ks_err *err) {
    apart_view("gate", "out", &out);
    apart_view("gate", "gate", &gate);
    apart_view("gate", "up", &up);
    APART_OP(apart.cpu->gate(dev, out, gate, up, act, err));
}

static ks_status apart_pool(ks_dev *dev, void *const out[KS_N_POSITIONS],
                            ks_type type, ks_view x, const ks_pool_row *rows,
                            int64_t n, uint32_t positions, ks_err *err) {
    size_t size = (size_t)n * ks_type_row_bytes(type, x.cols);
    apart_view("pool", "x", &x);
    apart_expect("pool", "rows", rows, (size_t)n * sizeof *rows);
    for (int p = 0; p < KS_TOKENS; p++)
        if (positions >> p & 1) apart_expect("pool", "out", out[p], size);
    APART_OP(apart.cpu->pool(dev, out, type, x, rows, n, positions, err));
}

static ks_status apart_convert(ks_dev *dev, void *out, ks_type type, ks_view x,
                               const int32_t *index, int64_t n, ks_err *err) {
    apart_expect("convert", "out", out,
                 (size_t)n * ks_type_row_bytes(type, x.cols));
    apart_view("convert", "x", &x);
    if (index)
        apart_expect("convert", "index", index, (size_t)n * sizeof *index);
    APART_OP(apart.cpu->convert(dev, out, type, x, index, n, err));
}

static ks_status apart_count_nonfinite(ks_dev *dev, ks_view x, int64_t *count,
                                       int64_t *row, ks_err *err) {
    apart_view("count_nonfinite", "x", &x);
    APART_OP(apart.cpu->count_nonfinite(dev, x, count, row, err));
}

static ks_status apart_score(ks_dev *dev, float *logprob, ks_view hidden,
                             ks_view head, float softcap, const int32_t *target,
                             ks_err *err) {
    size_t n = (size_t)hidden.rows;
    apart_expect("score", "logprob", logprob, n * sizeof *logprob);
    apart_view("score", "hidden", &hidden);
    apart_view("score", "head", &head);
    apart_expect("score", "target", target, n * sizeof *target);
    APART_OP(
        apart.cpu->score(dev, logprob, hidden, head, softcap, target, err));
}

static ks_status apart_sample(ks_dev *dev, int32_t *id, float *logprob,
                              ks_view hidden, ks_view head, float softcap,
                              const ks_sample_spec *specs, ks_err *err) {
    size_t n = (size_t)hidden.rows;
    apart_expect("sample", "id", id, n * sizeof *id);
    if (logprob)
        apart_expect("sample", "logprob", logprob, n * sizeof *logprob);
    apart_view("sample", "hidden", &hidden);
    apart_view("sample", "head", &head);
    apart_expect("sample", "specs", specs, n * sizeof *specs);
    APART_OP(
        apart.cpu->sample(dev, id, logprob, hidden, head, softcap, specs, err));
}

static ks_status apart_share(ks_dev *dev, double *share, ks_view hidden,
                             ks_view head, float softcap,
                             const ks_sample_spec *specs,
                             const int32_t *offsets, const int32_t *ids,
                             ks_err *err) {
    size_t n = (size_t)hidden.rows;
    apart_expect("share", "share", share, n * sizeof *share);
    apart_view("share", "hidden", &hidden);
    apart_view("share", "head", &head);
    apart_expect("share", "specs", specs, n * sizeof *specs);
    apart_expect("share", "offsets", offsets, (n + 1) * sizeof *offsets);
    apart_protect(PROT_READ);
    apart_expect("share", "ids", ids + offsets[0],
                 (size_t)(offsets[n] - offsets[0]) * sizeof *ids);
    APART_OP(apart.cpu->share(dev, share, hidden, head, softcap, specs, offsets,
                              ids, err));
}

static ks_status apart_zero(ks_dev *dev, void *data, size_t size, ks_err *err) {
    apart_expect("zero", "data", data, size);
    APART_OP(apart.cpu->zero(dev, data, size, err));
}

static void apart_rows(const char *op, const int32_t *row, int64_t n) {
    if (row) apart_expect(op, "row", row, (size_t)n * sizeof *row);
}

static ks_status apart_gemm_backward(ks_dev *dev, ks_view dx, ks_view dy,
                                     ks_view w, bool accumulate, ks_err *err) {
    apart_view("gemm_backward", "dx", &dx);
    apart_view("gemm_backward", "dy", &dy);
    apart_view("gemm_backward", "w", &w);
    APART_OP(apart.cpu->gemm_backward(dev, dx, dy, w, accumulate, err));
}

static ks_status apart_norm_backward(ks_dev *dev, ks_view dx, ks_view dy,
                                     ks_view x, const int32_t *row,
                                     int32_t heads, const float *w, float eps,
                                     bool accumulate, ks_err *err) {
    apart_view("norm_backward", "dx", &dx);
    apart_view("norm_backward", "dy", &dy);
    apart_view("norm_backward", "x", &x);
    apart_rows("norm_backward", row, dx.rows / heads);
    apart_expect("norm_backward", "w", w, (size_t)x.cols * sizeof *w);
    APART_OP(apart.cpu->norm_backward(dev, dx, dy, x, row, heads, w, eps,
                                      accumulate, err));
}

static ks_status apart_rope_backward(ks_dev *dev, ks_view dq, ks_view dk,
                                     int32_t head_dim, const ks_rope *rope,
                                     const ks_seqs *seqs, const int32_t *row,
                                     ks_err *err) {
    apart_view("rope_backward", "dq", &dq);
    apart_view("rope_backward", "dk", &dk);
    apart_expect("rope_backward", "inv_freq", rope->inv_freq,
                 (size_t)rope->rot_dims / 2 * sizeof(float));
    apart_seqs("rope_backward", seqs);
    apart_rows("rope_backward", row, dq.rows);
    APART_OP(
        apart.cpu->rope_backward(dev, dq, dk, head_dim, rope, seqs, row, err));
}

static ks_status apart_gate_backward(ks_dev *dev, ks_view dgate, ks_view dup,
                                     ks_view dout, ks_view gate, ks_view up,
                                     const int32_t *row, ks_act act,
                                     ks_err *err) {
    apart_view("gate_backward", "dgate", &dgate);
    apart_view("gate_backward", "dup", &dup);
    apart_view("gate_backward", "dout", &dout);
    apart_view("gate_backward", "gate", &gate);
    apart_view("gate_backward", "up", &up);
    apart_rows("gate_backward", row, dout.rows);
    APART_OP(apart.cpu->gate_backward(dev, dgate, dup, dout, gate, up, row, act,
                                      err));
}

static ks_status apart_attention_backward(ks_dev *dev, ks_view dq, ks_view dk,
                                          ks_view dv, ks_view dout, ks_view out,
                                          ks_view q, ks_view k, ks_view v,
                                          const ks_attn_spec *spec,
                                          const ks_seqs *seqs,
                                          const ks_cots *cots, ks_err *err) {
    const char *op = "attention_backward";
    const ks_view *views[] = {&dq, &dk, &dv, &dout, &out, &q, &k, &v};
    for (size_t i = 0; i < KS_COUNT(views); i++)
        apart_view(op, "a view", views[i]);
    apart_seqs(op, seqs);
    apart_expect(op, "cotangents", cots->offsets,
                 ((size_t)cots->n_cot + 1) * sizeof(int32_t));
    apart_expect(op, "first rows", cots->first,
                 (size_t)cots->n_cot * sizeof(int32_t));
    apart_rows(op, cots->row, cots->n_rows);
    APART_OP(apart.cpu->attention_backward(dev, dq, dk, dv, dout, out, q, k, v,
                                           spec, seqs, cots, err));
}

static ks_status apart_score_backward(ks_dev *dev, ks_view dhidden,
                                      float *logprob, ks_view hidden,
                                      ks_view head, float softcap,
                                      const int32_t *target,
                                      const float *weight, bool of_probability,
                                      ks_err *err) {
    size_t n = (size_t)hidden.rows;
    apart_view("score_backward", "dhidden", &dhidden);
    if (logprob)
        apart_expect("score_backward", "logprob", logprob, n * sizeof *logprob);
    apart_view("score_backward", "hidden", &hidden);
    apart_view("score_backward", "head", &head);
    apart_expect("score_backward", "target", target, n * sizeof *target);
    apart_expect("score_backward", "weight", weight, n * sizeof *weight);
    APART_OP(apart.cpu->score_backward(dev, dhidden, logprob, hidden, head,
                                       softcap, target, weight, of_probability,
                                       err));
}

/* An engine on this backend: opened on the CPU, before its first run. */
static inline void move_apart(ks_engine *engine) {
    if (!apart.base) {
        apart.base = mmap(NULL, APART_SPACE, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        cr_assert(apart.base != MAP_FAILED);
    }
    cr_assert(engine->run == NULL);
    apart.cpu = engine->ops;
    apart.ops = *engine->ops;
    apart.ops.name = "apart";
    apart.ops.unified = false;
    apart.ops.alloc = apart_alloc;
    apart.ops.free = apart_free;
    apart.ops.copy = apart_copy_now;
    apart.ops.sync = apart_sync;
    apart.ops.alloc_host = apart_alloc_host;
    apart.ops.free_host = apart_free_host;
    apart.ops.copy_out = apart_copy_out;
    apart.ops.wait = apart_wait;
    apart.ops.zero = apart_zero;
    apart.ops.embed = apart_embed;
    apart.ops.gemm = apart_gemm;
    apart.ops.norm = apart_norm;
    apart.ops.add = apart_add;
    apart.ops.rope = apart_rope;
    apart.ops.attention = apart_attention;
    apart.ops.gate = apart_gate;
    apart.ops.pool = apart_pool;
    apart.ops.convert = apart_convert;
    apart.ops.count_nonfinite = apart_count_nonfinite;
    apart.ops.score = apart_score;
    apart.ops.sample = apart_sample;
    apart.ops.share = apart_share;
    apart.ops.gemm_backward = apart_gemm_backward;
    apart.ops.norm_backward = apart_norm_backward;
    apart.ops.rope_backward = apart_rope_backward;
    apart.ops.gate_backward = apart_gate_backward;
    apart.ops.attention_backward = apart_attention_backward;
    apart.ops.score_backward = apart_score_backward;
    engine->ops = &apart.ops;
    engine->limits.lanes = 1; /* memory opens and shuts for one op at a time */
}

#endif
