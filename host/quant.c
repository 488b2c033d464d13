/* quant.c - storage types: sizes, names and the expansion to f32 that every
 * kernel's tile load is tested against. Block layouts: ggml's ggml-common.h.
 *
 * Every value is computed as ggml and the `gguf` Python package do, in f32:
 * scale * q, scale * q + min, or (d * scale) * q - (dmin * min), one rounding
 * an operation (this file is compiled without contraction to FMA).
 */
#include "half.h"
#include "ops.h"

/* Elements and bytes of a block; K types: super-blocks of 256. */
static const struct {
    const char *name;
    uint16_t block, size;
} types[KS_N_TYPES] = {
    [KS_F32] = {"f32", 1, 4},       [KS_F16] = {"f16", 1, 2},
    [KS_BF16] = {"bf16", 1, 2},     [KS_Q4_0] = {"q4_0", 32, 18},
    [KS_Q4_1] = {"q4_1", 32, 20},   [KS_Q5_0] = {"q5_0", 32, 22},
    [KS_Q5_1] = {"q5_1", 32, 24},   [KS_Q8_0] = {"q8_0", 32, 34},
    [KS_Q2_K] = {"q2_k", 256, 84},  [KS_Q3_K] = {"q3_k", 256, 110},
    [KS_Q4_K] = {"q4_k", 256, 144}, [KS_Q5_K] = {"q5_k", 256, 176},
    [KS_Q6_K] = {"q6_k", 256, 210}, [KS_MXFP4] = {"mxfp4", 32, 17},
    [KS_I32] = {"i32", 1, 4},
};

const char *ks_type_name(ks_type type) {
    return (size_t)type < KS_N_TYPES ? types[type].name : "?";
}

int64_t ks_type_block(ks_type type) {
    return types[type].block;
}

size_t ks_type_size(ks_type type) {
    return types[type].size;
}

size_t ks_type_row_bytes(ks_type type, int64_t cols) {
    return (size_t)(cols / types[type].block) * types[type].size;
}

/* ------------------------------------------------------------ small blocks */

static uint16_t load_u16(const uint8_t *p) {
    uint16_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

static uint32_t load_u32(const uint8_t *p) {
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

static float load_f16(const uint8_t *p) {
    return ks_f16_to_f32(load_u16(p));
}

/* Blocks of 32 with nibbles: byte i holds element i (low) and i + 16 (high).
 * d f16, q[16]. */
static void expand_q4_0(const uint8_t *b, float *to) {
    float d = load_f16(b);
    for (int i = 0; i < 16; i++) {
        to[i] = d * (float)((b[2 + i] & 15) - 8);
        to[i + 16] = d * (float)((b[2 + i] >> 4) - 8);
    }
}

/* d f16, m f16, q[16] */
static void expand_q4_1(const uint8_t *b, float *to) {
    float d = load_f16(b), m = load_f16(b + 2);
    for (int i = 0; i < 16; i++) {
        to[i] = d * (float)(b[4 + i] & 15) + m;
        to[i + 16] = d * (float)(b[4 + i] >> 4) + m;
    }
}

/* d f16, h u32 (fifth bit of element i at bit i), q[16] */
static void expand_q5_0(const uint8_t *b, float *to) {
    float d = load_f16(b);
    uint32_t h = load_u32(b + 2);
    for (int i = 0; i < 16; i++) {
        int low = (b[6 + i] & 15) | (int)(h >> i & 1) << 4;
        int high = b[6 + i] >> 4 | (int)(h >> (i + 16) & 1) << 4;
        to[i] = d * (float)(low - 16);
        to[i + 16] = d * (float)(high - 16);
    }
}

/* d f16, m f16, h u32, q[16] */
static void expand_q5_1(const uint8_t *b, float *to) {
    float d = load_f16(b), m = load_f16(b + 2);
    uint32_t h = load_u32(b + 4);
    for (int i = 0; i < 16; i++) {
        int low = (b[8 + i] & 15) | (int)(h >> i & 1) << 4;
        int high = b[8 + i] >> 4 | (int)(h >> (i + 16) & 1) << 4;
        to[i] = d * (float)low + m;
        to[i + 16] = d * (float)high + m;
    }
}

/* d f16, q[32] signed */
static void expand_q8_0(const uint8_t *b, float *to) {
    float d = load_f16(b);
    for (int i = 0; i < 32; i++) to[i] = d * (float)(int8_t)b[2 + i];
}

/* e (power of two, biased by 127), q[16]: microscaling e2m1. The table holds
 * twice the value, so the scale is half of 2^(e - 127), as in ggml; e = 255,
 * the format's NaN, is 2^127 there and here. */
static void expand_mxfp4(const uint8_t *b, float *to) {
    static const float twice[16] = {0, 1,  2,  3,  4,  6,  8,  12,
                                    0, -1, -2, -3, -4, -6, -8, -12};
    uint32_t bits = b[0] < 2 ? 0x200000u << b[0] : (uint32_t)(b[0] - 1) << 23;
    float d = ks_f32_of_bits(bits);
    for (int i = 0; i < 16; i++) {
        to[i] = d * twice[b[1 + i] & 15];
        to[i + 16] = d * twice[b[1 + i] >> 4];
    }
}

/* ------------------------------------------------------------ super-blocks */

/* scale and min [16] nibbles, q[64] two bits, d f16, dmin f16. 2-bit fields
 * of 32 bytes make 4 x 32 elements, field by field. */
static void expand_q2_k(const uint8_t *b, float *to) {
    const uint8_t *scale = b, *q = b + 16;
    float d = load_f16(b + 80), dmin = load_f16(b + 82);
    for (int i = 0; i < 256; i++) {
        float dl = d * (float)(scale[i / 16] & 15);
        float ml = dmin * (float)(scale[i / 16] >> 4);
        int byte = i / 128 * 32 + i % 32, shift = i % 128 / 32 * 2;
        to[i] = dl * (float)(q[byte] >> shift & 3) - ml;
    }
}

/* mask[32] (third bit, inverted), q[64], scale[12] of 6 bits, d f16 */
static void expand_q3_k(const uint8_t *b, float *to) {
    const uint8_t *mask = b, *q = b + 32, *scale = b + 96;
    float d = load_f16(b + 108);
    for (int i = 0; i < 256; i++) {
        int s = i / 16; /* low nibbles of 0-7, then of 8-15, then top bits */
        int low = s < 8 ? scale[s] & 15 : scale[s - 8] >> 4;
        int top = scale[8 + s % 4] >> (s / 4 * 2) & 3;
        float dl = d * (float)((low | top << 4) - 32);
        int byte = i / 128 * 32 + i % 32, shift = i % 128 / 32 * 2;
        int below = mask[i % 32] >> (i / 32) & 1 ? 0 : 4;
        to[i] = dl * (float)((q[byte] >> shift & 3) - below);
    }
}

/* 6-bit scale and min of sub-block s (of 8) in Q4_K's and Q5_K's 12 bytes. */
static void scale_and_min(const uint8_t *p, int s, int *scale, int *min) {
    if (s < 4) {
        *scale = p[s] & 63;
        *min = p[s + 4] & 63;
    } else {
        *scale = (p[s + 4] & 15) | (p[s - 4] >> 6) << 4;
        *min = p[s + 4] >> 4 | (p[s] >> 6) << 4;
    }
}

/* d f16, dmin f16, scale and min [12], q[128]: 32 bytes hold two sub-blocks */
static void expand_q4_k(const uint8_t *b, float *to) {
    const uint8_t *q = b + 16;
    float d = load_f16(b), dmin = load_f16(b + 2);
    for (int s = 0; s < 8; s++) {
        int scale, min;
        scale_and_min(b + 4, s, &scale, &min);
        float dl = d * (float)scale, ml = dmin * (float)min;
        for (int i = 0; i < 32; i++) {
            int v = q[s / 2 * 32 + i] >> (s % 2 * 4) & 15;
            to[s * 32 + i] = dl * (float)v - ml;
        }
    }
}

/* as Q4_K with h[32] (fifth bits) ahead of q */
static void expand_q5_k(const uint8_t *b, float *to) {
    const uint8_t *h = b + 16, *q = b + 48;
    float d = load_f16(b), dmin = load_f16(b + 2);
    for (int s = 0; s < 8; s++) {
        int scale, min;
        scale_and_min(b + 4, s, &scale, &min);
        float dl = d * (float)scale, ml = dmin * (float)min;
        for (int i = 0; i < 32; i++) {
            int v = q[s / 2 * 32 + i] >> (s % 2 * 4) & 15;
            v |= (h[i] >> s & 1) << 4;
            to[s * 32 + i] = dl * (float)v - ml;
        }
    }
}

/* low nibbles [128], top two bits [64], scale[16] signed, d f16 */
static void expand_q6_k(const uint8_t *b, float *to) {
    const uint8_t *low = b, *top = b + 128, *scale = b + 192;
    float d = load_f16(b + 208);
    for (int i = 0; i < 256; i++) {
        float dl = d * (float)(int8_t)scale[i / 16];
        int half = i / 128, r = i % 128;
        int v = low[half * 64 + r % 64] >> (r / 64 * 4) & 15;
        v |= (top[half * 32 + r % 32] >> (r / 32 * 2) & 3) << 4;
        to[i] = dl * (float)(v - 32);
    }
}

void ks_dequantize(ks_type type, const void *from, float *to, int64_t n) {
    static void (*const expand[KS_N_TYPES])(const uint8_t *, float *) = {
        [KS_Q4_0] = expand_q4_0,  [KS_Q4_1] = expand_q4_1,
        [KS_Q5_0] = expand_q5_0,  [KS_Q5_1] = expand_q5_1,
        [KS_Q8_0] = expand_q8_0,  [KS_Q2_K] = expand_q2_k,
        [KS_Q3_K] = expand_q3_k,  [KS_Q4_K] = expand_q4_k,
        [KS_Q5_K] = expand_q5_k,  [KS_Q6_K] = expand_q6_k,
        [KS_MXFP4] = expand_mxfp4};
    const uint8_t *p = from;
    if (type == KS_F32) {
        memcpy(to, from, (size_t)n * sizeof *to);
    } else if (type == KS_F16) {
        for (int64_t i = 0; i < n; i++) to[i] = load_f16(p + 2 * i);
    } else if (type == KS_BF16) {
        for (int64_t i = 0; i < n; i++)
            to[i] = ks_bf16_to_f32(load_u16(p + 2 * i));
    } else if (type == KS_I32) {
        for (int64_t i = 0; i < n; i++)
            to[i] = (float)(int32_t)load_u32(p + 4 * i);
    } else {
        int64_t block = types[type].block;
        for (int64_t i = 0; i + block <= n; i += block, p += types[type].size)
            expand[type](p, to + i);
    }
}
