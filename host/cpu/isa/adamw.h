/* adamw.h - what the two halves of the AdamW trainers share. */
#ifndef KS_ADAMW_ISA_H
#define KS_ADAMW_ISA_H

#include <errno.h>
#include <unistd.h>

#include "isa.h"

/* A probe with hidden layers; adamw_mlp.c. */
ks_status KS_ISA_NAME(adamw_mlp)(ks_dev *, const ks_adamw_job *, ks_err *);

/* Until the control word that it returns is put back, this thread takes numbers
 * below FLT_MIN for zero. The first moment of a weight whose gradient has ended
 * shrinks by a tenth a step, down to there and no further, and a product with
 * such a number takes some processors a hundred cycles. */
KS_INLINE unsigned ks__tiny_is_zero(void) {
    unsigned was = _mm_getcsr();
    _mm_setcsr(was | _MM_FLUSH_ZERO_ON | _MM_DENORMALS_ZERO_ON);
    return was;
}

/* Inputs [first, first + count) of a row out of the job's file; false: it
 * cannot be read. */
static inline bool ks__adamw_read(const ks_adamw_job *job,
                                  const ks_adamw_run *r, int32_t row,
                                  int64_t first, int64_t count, float *to) {
    int64_t at = ((int64_t)row * job->file->matrices + r->layer) * job->stride;
    size_t size = (size_t)count * sizeof *to, done = 0;
    at = (at + first) * (int64_t)sizeof *to;
    while (done < size) {
        ssize_t got = pread(job->file->fd, (char *)to + done, size - done,
                            at + (off_t)done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        done += (size_t)got;
    }
    return true;
}

static inline ks_status ks__adamw_unread(ks_err *err) {
    return ks_fail(err, KS_IO,
                   "the scratch file of the probes' layers cannot be read");
}

/* Where run r keeps the margins of epoch e; NULL: not wanted. */
static inline float *ks__adamw_margins(const ks_adamw_job *job,
                                       const ks_adamw_run *r, int32_t e) {
    if (!r->margin || e >= r->epochs) return NULL;
    if (!job->each_epoch && e + 1 < r->epochs) return NULL;
    return r->margin + (job->each_epoch ? (int64_t)e * r->n_eval : 0);
}

/* Powers of the betas up to the step that comes next. */
typedef struct ks_adamw_clock {
    double power1, power2;
} ks_adamw_clock;

static inline ks_adamw_rate ks__adamw_tick(const ks_adamw_job *job,
                                           const ks_adamw_run *r, int32_t epoch,
                                           ks_adamw_clock *c) {
    c->power1 *= job->beta1;
    c->power2 *= job->beta2;
    return ks_adamw_rate_of(r->lr * job->rate[epoch], r->decay, job->beta1,
                            job->beta2, job->eps, c->power1, c->power2);
}

/* The parameter after one step; m and v: its moments, in place. */
KS_INLINE vf ks__adamw_vector(vf w, vf g, float *m, float *v,
                              const ks_adamw_rate *a) {
    vf first = vload(m), second = vload(v);
    first = madd(g - first, vset(a->new1), first);
    second = madd(g * g, vset(a->new2), second * vset(a->beta2));
    vstore(m, first);
    vstore(v, second);
    vf root = madd(vsqrt(second), vset(a->root), vset(a->eps));
    return madd(vset(-a->step), first / root, w * vset(a->keep));
}

static inline void ks__adamw_one(float *w, float g, float *m, float *v,
                                 const ks_adamw_rate *a) {
    *m = madd1(g - *m, a->new1, *m);
    *v = madd1(g * g, a->new2, *v * a->beta2);
    float root = madd1(__builtin_sqrtf(*v), a->root, a->eps);
    *w = madd1(-a->step, *m / root, *w * a->keep);
}

#endif
