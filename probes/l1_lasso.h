/* l1_lasso.h - the lasso of a step of l1.h. Internal. */
#ifndef KS_L1_LASSO_H
#define KS_L1_LASSO_H

#include "base.h"

/* Minimises g.s + t s'Bs / 2 + lambda |w + s_w|_1 over s, which starts at 0;
 * q is B s. The last coordinate is b's. */
typedef struct ks__lasso {
    const float *b; /* [m, m] */
    const double *g, *x;
    double *s, *q;
    int64_t m;
    double t, lambda;
} ks__lasso;

/* The coordinates that are worked on, a lasso of their own: what of B is
 * theirs lies together, and the others' gradients wait until it is solved. A
 * thread keeps its part from one lasso to the next. */
typedef struct ks__lasso_part {
    int32_t *list; /* [m] */
    int32_t n;
    size_t room;     /* floats of b */
    float *b;        /* [n, n]; NULL: there is no room, rows of B serve */
    double *q, *was; /* [m] each, of the list: B s of these; s as it was */
    double *exact;   /* [n, n + 1], as large as room */
} ks__lasso_part;

ks_status ks__lasso_open(ks__lasso_part *part, int64_t m, ks_err *err);
void ks__lasso_close(ks__lasso_part *part);
/* Bytes that a part takes at most. */
size_t ks__lasso_bytes(int64_t m);

/* Until no coordinate's condition is off by more than `enough`, or as near as
 * some rounds come. */
void ks__lasso_solve(const ks__lasso *p, double enough, ks__lasso_part *of);

#endif
