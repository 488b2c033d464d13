/* check_ptx.cpp - the text of kernels/device.cuh's wrappers, which only a real
 * device runs: each against plain arithmetic. First on the list. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "matrix_check.h"
#include "sample.h"

Test(ptx, mma_bf16) {
    cr_expect(eq(int, check_mma(false), 0));
}

Test(ptx, mma_f16) {
    cr_expect(eq(int, check_mma(true), 0));
}

Test(ptx, ldmatrix_x4) {
    cr_expect(eq(int, check_ldmatrix(false), 0));
}

Test(ptx, ldmatrix_x4_trans) {
    cr_expect(eq(int, check_ldmatrix(true), 0));
}

/* cp.async with its tail of zeros, commit, wait, ldmatrix and mma in a GEMM of
 * odd shape; shuffles; shared memory. */
Test(ptx, cp_async) {
    cr_expect(eq(int, sample_gemm(SOUND), 0));
}

Test(ptx, collectives) {
    cr_expect(eq(int, sample_block_sum(SOUND), 0));
    cr_expect(eq(int, sample_warp_scan(SOUND), 0));
    cr_expect(eq(int, sample_transpose(SOUND), 0));
    cr_expect(eq(int, sample_total(SOUND), 0));
}
