/* matrix_check.h - the sums of matrix_check.cu. */
#ifndef KS_SIMT_MATRIX_CHECK_H
#define KS_SIMT_MATRIX_CHECK_H

/* 0: right; otherwise the number of wrong elements. */
int check_mma(bool f16);
int check_ldmatrix(bool transposed);

#endif
