/* matrix.cpp - mma.m16n8k16 and ldmatrix.x4, by the fragment layouts of the
 * PTX ISA ("Matrix Fragments for mma.m16n8k16", "ldmatrix"): lane l holds
 * pairs of neighbours, g = l / 4, t = l % 4:
 *   A 16 x 16: register r: row g + 8 (r & 1), columns 2t + 8 (r >> 1), + 1
 *   B 16 x 8:  register r: rows 2t + 8 r, + 1, column g
 *   C 16 x 8:  element i: row g + 8 (i >> 1), column 2t + (i & 1)
 * Products are exact in f32 (both operand types have 11 bits or fewer) and
 * summed in ascending k; hardware sums in another order. */
#include "internal.h"
#include "simt.h"

namespace {

struct mma_lane {
    float *d;
    const uint32_t *a, *b;
};

struct ld_lane {
    uint32_t *r;
    const void *row;
    simt_site at;
};

float bf16_value(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &wide, sizeof x);
    return x;
}

float f16_value(uint16_t bits) {
    _Float16 x;
    memcpy(&x, &bits, sizeof x);
    return (float)x;
}

uint16_t half_of(uint32_t pair, int i) {
    return (uint16_t)(i ? pair >> 16 : pair);
}

} // namespace

/* A row of C in registers: in memory, the address build would look at each of
 * the 4,096 products. */
typedef float row8 __attribute__((vector_size(32)));

template <float value(uint16_t)>
static void mma_op(unsigned, void *const lanes[SIMT_WARP]) {
    float a[16][16], b[16][8], c[16][8];
    for (int l = 0; l < SIMT_WARP; l++) {
        const mma_lane *m = (const mma_lane *)lanes[l];
        int g = l / 4, t = l % 4;
        for (int r = 0; r < 4; r++)
            for (int i = 0; i < 2; i++)
                a[g + 8 * (r & 1)][2 * t + 8 * (r >> 1) + i] =
                    value(half_of(m->a[r], i));
        for (int r = 0; r < 2; r++)
            for (int i = 0; i < 2; i++)
                b[2 * t + 8 * r + i][g] = value(half_of(m->b[r], i));
    }
    row8 rows[16];
    memcpy(rows, b, sizeof b);
    for (int row = 0; row < 16; row++) {
        row8 sum = {0};
        for (int k = 0; k < 16; k++) sum += a[row][k] * rows[k];
        memcpy(c[row], &sum, sizeof sum);
    }
    for (int l = 0; l < SIMT_WARP; l++) {
        mma_lane *m = (mma_lane *)lanes[l];
        int g = l / 4, t = l % 4;
        for (int i = 0; i < 4; i++)
            m->d[i] += c[g + 8 * (i >> 1)][2 * t + (i & 1)];
    }
}

static void mma(float d[4], const uint32_t a[4], const uint32_t b[2],
                simt_op *op, const char *what, simt_site at) {
    mma_lane m = {d, a, b};
    simt_collective(0xffffffffu, op, what, &m, at);
}

void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2],
              const char *file, int line) {
    mma(d, a, b, mma_op<bf16_value>, "mma", {file, line});
}
void mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2],
             const char *file, int line) {
    mma(d, a, b, mma_op<f16_value>, "mma", {file, line});
}

template <bool transposed>
static void ldmatrix_op(unsigned, void *const lanes[SIMT_WARP]) {
    uint16_t matrix[4][8][8];
    for (int l = 0; l < SIMT_WARP; l++) {
        const ld_lane *from = (const ld_lane *)lanes[l];
        memcpy(matrix[l / 8][l % 8], from->row, 16);
    }
    for (int l = 0; l < SIMT_WARP; l++) {
        uint32_t *r = ((ld_lane *)lanes[l])->r;
        int g = l / 4, t = l % 4;
        for (int i = 0; i < 4; i++) {
            uint16_t low, high;
            if (transposed)
                low = matrix[i][2 * t][g], high = matrix[i][2 * t + 1][g];
            else
                low = matrix[i][g][2 * t], high = matrix[i][g][2 * t + 1];
            r[i] = (uint32_t)high << 16 | low;
        }
    }
}

/* The lane's own row is read on its own account: whichever lane comes last. */
static void ldmatrix(uint32_t r[4], const void *row, simt_op *op,
                     const char *what, simt_site at) {
    if ((uintptr_t)row % 16) {
        char text[160];
        simt_describe(row, text, sizeof text);
        simt_refuse(at, "%s: %s is not 16-byte aligned", what, text);
    }
    if (!simt_in_shared(row)) {
        char text[160];
        simt_describe(row, text, sizeof text);
        simt_refuse(at, "%s: %s is not shared memory", what, text);
    }
    simt_check(row, 16, what, at);
    simt_race_access(row, 16, SIMT_READ, at);
    ld_lane mine = {r, row, at};
    simt_collective(0xffffffffu, op, what, &mine, at);
}

void ldmatrix_x4(uint32_t r[4], const void *row, const char *file, int line) {
    ldmatrix(r, row, ldmatrix_op<false>, "ldmatrix", {file, line});
}
void ldmatrix_x4_trans(uint32_t r[4], const void *row, const char *file,
                       int line) {
    ldmatrix(r, row, ldmatrix_op<true>, "ldmatrix.trans", {file, line});
}
