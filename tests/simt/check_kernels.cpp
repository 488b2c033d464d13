/* check_kernels.cpp - the simulator finds what it says it finds: sample kernels
 * are right under 20 seeds and raise no alarm; each planted defect is reported
 * under every one of 12 seeds, in each build that can see it. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "check.h"
#include "child.h"
#include "matrix_check.h"
#include "sample.h"

typedef int sample(sample_defect);

static void sound(sample *run, const char *name) {
    for (uint64_t seed = 0; seed < 20; seed++) {
        outcome got = run_child(seed, [run] { return run(SOUND); });
        cr_expect(eq(int, got.status, 0), "%s, seed %d: %s", name, (int)seed,
                  got.text);
        cr_expect(eq(int, got.text[0], 0), "%s, seed %d says: %s", name,
                  (int)seed, got.text);
    }
}

/* word: what the report must say, beside a line of sample.cu; NULL: a wrong
 * result is enough. */
static void found(sample *run, sample_defect defect, const char *word) {
    for (uint64_t seed = 0; seed < 12; seed++) {
        outcome got = run_child(seed, [run, defect] { return run(defect); });
        cr_expect(ne(int, got.status, 0), "defect %d, seed %d: not found",
                  (int)defect, (int)seed);
        if (!word) continue;
        cr_expect(strstr(got.text, word) != NULL,
                  "defect %d, seed %d: no '%s' in: %s", (int)defect, (int)seed,
                  word, got.text);
        cr_expect(strstr(got.text, "sample.cu:") != NULL,
                  "defect %d, seed %d: no line in: %s", (int)defect, (int)seed,
                  got.text);
    }
}

/* In the race build the report itself, elsewhere the wrong result. */
static const char *in_race(const char *word) {
    return built("race") ? word : NULL;
}

Test(simt_kernels, block_sum) {
    sound(sample_block_sum, "block_sum");
    found(sample_block_sum, NO_BARRIER, NULL);
    found(sample_block_sum, DIVERGENT, "divergent barrier");
    found(sample_block_sum, EARLY_RETURN, "have returned");
}

Test(simt_kernels, warp_scan) {
    sound(sample_warp_scan, "warp_scan");
    found(sample_warp_scan, ABSENT_LANE, "others wait");
    found(sample_warp_scan, LANE_AT_BARRIER, "absent lanes");
}

Test(simt_kernels, transpose) {
    sound(sample_transpose, "transpose");
    found(sample_transpose, NO_BARRIER, NULL);
    found(sample_transpose, READ_PAST, in_race("out of bounds"));
    found(sample_transpose, WRITE_PAST, in_race("out of bounds"));
}

Test(simt_kernels, gemm) {
    sound(sample_gemm, "gemm");
    found(sample_gemm, NO_BARRIER, in_race(""));
    found(sample_gemm, NO_WAIT, in_race("cp.async not waited for"));
    found(sample_gemm, LATE_WAIT, in_race("cp.async not waited for"));
    found(sample_gemm, SWAPPED_REGISTERS, NULL);
    found(sample_gemm, WRONG_MASK, "out of bounds");
}

Test(simt_kernels, total) {
    sound(sample_total, "total");
}

/* A write past a shared variable: the guards (at the block's end), UBSan, or
 * the hooks. */
Test(simt_kernels, shared_past) {
    found(sample_block_sum, SHARED_PAST, "out of bounds");
}

/* Whatever the order of execution, only the hooks see these. */
Test(simt_kernels, race_build) {
    if (!built("race")) return;
    found(sample_block_sum, NO_BARRIER, "");
    found(sample_warp_scan, NO_SYNCWARP, "");
    found(sample_transpose, NO_BARRIER, "");
    found(sample_gemm, NO_REUSE_BARRIER, "");
    found(sample_total, BLOCK_RACE, "another block");
    found(sample_block_sum, UNWRITTEN, "never written");
}

/* Without the hooks, NaN in fresh memory speaks. */
Test(simt_kernels, unwritten) {
    found(sample_block_sum, UNWRITTEN, in_race("never written"));
}

Test(simt_matrix, mma) {
    cr_expect(eq(int, check_mma(false), 0));
    cr_expect(eq(int, check_mma(true), 0));
}

Test(simt_matrix, ldmatrix) {
    cr_expect(eq(int, check_ldmatrix(false), 0));
    cr_expect(eq(int, check_ldmatrix(true), 0));
}
