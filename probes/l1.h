/* l1.h - L1-regularised logistic regression on the rows of an open batch
 * solver (l2.h): all columns share every read of the matrix.
 *
 * A column minimises, over w and b,
 *     sum_i c_i log(1 + exp(-s_i z_i)) + lambda |w|_1
 * with c_i, s_i, z_i and the standardised features of l2.h; b is free. That is
 * scikit-learn's LogisticRegression(penalty='l1', C, class_weight='balanced')
 * with lambda = 1 / (C n), whose solver does not regularise b.
 * lambda = ratio lambda_max, and lambda_max = max |m1 - m0| / 4 is the least
 * at which w is 0 (m1, m0: the class means of standardised features).
 *
 * Method: proximal Newton steps (Lee, Sun, Saunders, SIAM J. Optim. 24, 2014).
 * The smooth part's Hessian is replaced by t B. B is a quarter of the
 * class-balanced covariance of all rows first, the Hessian at w = 0, and later
 * the Hessian of one column of each set held out, formed anew after 8, 16, 32,
 * .. passes: fits of other ratios share it. t is a number a column, fitted to
 * the curvature of its last step. Each step's lasso (l1_lasso.h) is solved by
 * coordinate descent on a working set and, for the signs that it finds,
 * exactly. The loss being convex, a step lowers the objective where
 *     g(x + s).s + lambda (|x + s|_1 - |x|_1) <= 0,
 * so gradients alone tell; t grows until that holds, which it must once t B is
 * above the Hessian. B and t decide the path, not where it ends: a column is
 * done once it meets the optimality conditions, measured in double, within the
 * tolerance. */
#ifndef KS_L1_H
#define KS_L1_H

#include "l2.h"

typedef struct ks_l1_column {
    int32_t design;
    uint32_t hold;      /* bit set of the folds that do not train */
    double ratio;       /* lambda over lambda_max, above 0 */
    double lambda;      /* out */
    double *weight;     /* out [d + 1] on standardised x, bias last; or NULL */
    float *margin;      /* out [n], written at held-out rows only; or NULL */
    int32_t dimensions; /* out: weights that are not 0 */
    double optimality;  /* out: the most by which a condition is missed: for
                           w_j = 0 |g_j| - lambda, else |g_j + lambda sign w_j|,
                           and |g_b| */
    int32_t passes;     /* out */
    bool converged;     /* out: optimality <= tolerance */
} ks_l1_column;

/* Solves all columns. Errors as ks_l2_fit. */
/* Bytes that it takes beside those of its solver (ks_l2_bytes), for columns of
 * so many sets held out, by so many threads. */
size_t ks_l1_bytes(int64_t d, int32_t n_holds, int threads);
ks_status ks_l1_fit(ks_l2 *l2, ks_l1_column *columns, int32_t n_columns,
                    double tolerance, int32_t max_passes, ks_err *err);

#endif
