/* expand.cuh - stored weights to f32 on the device, eight elements at a time:
 * what embed and the tile loads of every GEMM read weights with. The bytes are
 * loaded first (ks__raw8) and made numbers later, so that a kernel has work to
 * do while they come; ks__expand8 does both.
 *
 * Layouts and formulas are those of host/quant.c, whose bits these have: one
 * rounding an operation, so the products and sums are the _rn forms, which
 * nvcc does not contract. Small integers become floats without a conversion
 * instruction (a quarter of the rate): their byte is put under the exponent of
 * 2^23 and 2^23 is taken off again, which is exact.
 *
 * Alignment. Blocks whose size is a multiple of 4 are read by 4 bytes and
 * must start on 4, those of an even size by 2 on 2, MXFP4's by the words that
 * hold them; rows of whole blocks then do. Plain types are read by 16 bytes
 * where the address allows it. */
#ifndef KS_EXPAND_CUH
#define KS_EXPAND_CUH

#include "cuda.cuh"

/* X(type) for every storage type of weights. */
#define KS_EXPAND_TYPES(X)                                                     \
    X(KS_F32)                                                                  \
    X(KS_F16)                                                                  \
    X(KS_BF16)                                                                 \
    X(KS_Q4_0)                                                                 \
    X(KS_Q4_1)                                                                 \
    X(KS_Q5_0)                                                                 \
    X(KS_Q5_1)                                                                 \
    X(KS_Q8_0)                                                                 \
    X(KS_Q2_K)                                                                 \
    X(KS_Q3_K)                                                                 \
    X(KS_Q4_K)                                                                 \
    X(KS_Q5_K)                                                                 \
    X(KS_Q6_K)                                                                 \
    X(KS_MXFP4)

/* Elements of a block, as constants: ks_type_block for templates. */
static __host__ __device__ constexpr int ks__block(ks_type type) {
    return type <= KS_BF16 ? 1 : type <= KS_Q8_0 || type == KS_MXFP4 ? 32 : 256;
}

/* Bytes of a block: ks_type_size for templates. */
static __host__ __device__ constexpr int ks__block_bytes(ks_type type) {
    switch (type) {
    case KS_F32:
        return 4;
    case KS_Q4_0:
        return 18;
    case KS_Q4_1:
        return 20;
    case KS_Q5_0:
        return 22;
    case KS_Q5_1:
        return 24;
    case KS_Q8_0:
        return 34;
    case KS_Q2_K:
        return 84;
    case KS_Q3_K:
        return 110;
    case KS_Q4_K:
        return 144;
    case KS_Q5_K:
        return 176;
    case KS_Q6_K:
        return 210;
    case KS_MXFP4:
        return 17;
    default: /* f16, bf16 */
        return 2;
    }
}

/* Eight elements as they are stored, in words; which word is what, the loads
 * below say. */
typedef struct ks__raw8 {
    uint32_t w[8];
} ks__raw8;

/* --------------------------------------------------------- loads of bytes */

/* Two bytes on an even address. */
static __device__ __forceinline__ uint32_t ks__u16_at(const uint8_t *p) {
    return *(const uint16_t *)p;
}

/* Four bytes on an even address. */
static __device__ __forceinline__ uint32_t ks__word_at2(const uint8_t *p) {
    return ks__u16_at(p) | ks__u16_at(p + 2) << 16;
}

/* Eight bytes at any address of a tensor: the words that hold them, the last
 * one byte by byte, since it may lie across the tensor's end. */
static __device__ __forceinline__ void ks__bytes8(uint32_t q[2],
                                                  const uint8_t *p) {
    int past = (int)((uintptr_t)p % 4);
    const uint32_t *word = (const uint32_t *)(p - past);
    uint64_t low = word[0], mid = word[1], high = 0;
#pragma unroll
    for (int i = 0; i < 3; i++)
        if (i < past) high |= (uint64_t)p[8 - past + i] << 8 * i;
    q[0] = (uint32_t)((mid << 32 | low) >> 8 * past);
    q[1] = (uint32_t)((high << 32 | mid) >> 8 * past);
}

/* Eight bytes, on 4 where the block's size allows, else on 2. */
template <ks_type type>
static __device__ __forceinline__ void ks__words(uint32_t q[2],
                                                 const uint8_t *p) {
    if (type == KS_MXFP4) {
        ks__bytes8(q, p);
    } else if (ks__block_bytes(type) % 4 == 0) {
        q[0] = ((const uint32_t *)p)[0];
        q[1] = ((const uint32_t *)p)[1];
    } else {
        q[0] = ks__word_at2(p);
        q[1] = ks__word_at2(p + 4);
    }
}

/* p[0..n) of a plain type, zeros up to 8; by 16 bytes where all eight are
 * wanted and the address allows. */
static __device__ __forceinline__ void ks__load_f32(uint32_t w[8],
                                                    const uint32_t *p, int n) {
    if (n >= 8 && (uintptr_t)p % 16 == 0) {
        uint4 a = ((const uint4 *)p)[0], b = ((const uint4 *)p)[1];
        w[0] = a.x, w[1] = a.y, w[2] = a.z, w[3] = a.w;
        w[4] = b.x, w[5] = b.y, w[6] = b.z, w[7] = b.w;
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++) w[i] = i < n ? p[i] : 0;
}

static __device__ __forceinline__ void
ks__load_16bit(uint32_t w[4], const uint16_t *p, int n) {
    if (n >= 8 && (uintptr_t)p % 16 == 0) {
        uint4 a = *(const uint4 *)p;
        w[0] = a.x, w[1] = a.y, w[2] = a.z, w[3] = a.w;
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        w[i] = 2 * i < n ? p[2 * i] : 0;
        if (2 * i + 1 < n) w[i] |= (uint32_t)p[2 * i + 1] << 16;
    }
}

/* Elements e..e + 7 (e a multiple of 8) of a block of 32 at b: quants, then d
 * (and m above it), then fifth bits from e on. MXFP4: the scale's byte. */
template <ks_type type>
static __device__ __forceinline__ void ks__load_small(uint32_t w[8],
                                                      const uint8_t *b, int e) {
    constexpr bool fifth = type == KS_Q5_0 || type == KS_Q5_1;
    constexpr bool min = type == KS_Q4_1 || type == KS_Q5_1;
    constexpr int scale = type == KS_MXFP4 ? 1 : min ? 4 : 2;
    constexpr int quants = scale + (fifth ? 4 : 0);
    ks__words<type>(w, b + quants + (type == KS_Q8_0 ? e : e % 16));
    w[2] = type == KS_MXFP4 ? b[0] : min ? ks__word_at2(b) : ks__u16_at(b);
    if (fifth) w[3] = ks__word_at2(b + scale) >> e;
}

/* Of a super-block: quants, their further bits, d (and dmin), scales. */
template <ks_type type>
static __device__ __forceinline__ void ks__load_super(uint32_t w[8],
                                                      const uint8_t *b, int e) {
    if (type == KS_Q2_K) {
        ks__words<type>(w, b + 16 + e / 128 * 32 + e % 32);
        w[4] = ks__word_at2(b + 80);
        w[5] = b[e / 16];
    } else if (type == KS_Q3_K) {
        ks__words<type>(w, b + 32 + e / 128 * 32 + e % 32);
        ks__words<type>(w + 2, b + e % 32);
        w[4] = ks__u16_at(b + 108);
        w[5] = b[96 + e / 16 % 8];
        w[6] = b[104 + e / 16 % 4];
    } else if (type == KS_Q6_K) {
        ks__words<type>(w, b + e / 128 * 64 + e % 64);
        ks__words<type>(w + 2, b + 128 + e / 128 * 32 + e % 32);
        w[4] = ks__u16_at(b + 208);
        w[5] = b[192 + e / 16];
    } else { /* Q4_K, Q5_K: 6-bit scales and mins of 8 sub-blocks in 12 bytes */
        int s = e / 32;
        ks__words<type>(w,
                        b + (type == KS_Q5_K ? 48 : 16) + s / 2 * 32 + e % 32);
        if (type == KS_Q5_K) ks__words<type>(w + 2, b + 16 + e % 32);
        w[4] = ks__word_at2(b);
        w[5] = b[s < 4 ? 4 + s : 8 + s];
        w[6] = b[s < 4 ? 8 + s : s];
        w[7] = b[4 + s];
    }
}

/* Elements j..j + 7 of a stored row, j a multiple of 8; n of them are in the
 * row (block types: always all eight), the rest read as 0. */
template <ks_type type>
static __device__ __forceinline__ void ks__load8(ks__raw8 *raw, const void *row,
                                                 int64_t j, int n) {
    constexpr int block = ks__block(type);
    const uint8_t *b = (const uint8_t *)row + j / block * ks__block_bytes(type);
    int e = (int)(j % block);
    if constexpr (type == KS_F32)
        ks__load_f32(raw->w, (const uint32_t *)b, n);
    else if constexpr (block == 1)
        ks__load_16bit(raw->w, (const uint16_t *)b, n);
    else if constexpr (block == 32)
        ks__load_small<type>(raw->w, b, e);
    else
        ks__load_super<type>(raw->w, b, e);
}

/* ------------------------------------------------------- bytes to numbers */

static __device__ __forceinline__ float ks__half_of(uint32_t w) {
    return __half2float(__ushort_as_half((unsigned short)(w & 65535)));
}

/* Byte i: bit i of the lowest four bits of h, times 1 << shift. */
static __device__ __forceinline__ uint32_t ks__spread(uint32_t h, int shift) {
    return ((h & 15) * 0x00204081u & 0x01010101u) << shift;
}

/* out[i] = d (byte i of q - offset) (+ m) for four bytes. */
template <bool shifted>
static __device__ __forceinline__ void
ks__four(float *out, uint32_t q, float offset, float d, float m) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        /* bytes of the result: q's byte i, 0, 0, 0x4b */
        float f = __uint_as_float(__byte_perm(q, 0x4b000000u, 0x7440u + i));
        float v = __fmul_rn(d, __fadd_rn(f, -(8388608.0f + offset)));
        out[i] = shifted ? __fadd_rn(v, m) : v;
    }
}

/* Bytes q[0..1] become quants plus an offset, *d and *m what they are scaled
 * and shifted with. e: the place in the block. */
template <ks_type type>
static __device__ __forceinline__ void
ks__decode_small(uint32_t q[2], float *d, float *m, const uint32_t w[8],
                 int e) {
    *d = ks__half_of(w[2]);
    *m = ks__half_of(w[2] >> 16);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        q[i] = w[i] >> e / 16 * 4 & 0x0f0f0f0fu;
        if (type == KS_Q8_0) q[i] = w[i] ^ 0x80808080u; /* signed: + 128 */
        if (type == KS_Q5_0 || type == KS_Q5_1)
            q[i] |= ks__spread(w[3] >> i * 4, 4);
    }
    if (type == KS_MXFP4) {
        /* half of 2^(e - 127), since the table has twice the values + 12 */
        uint32_t bits = w[2] < 2 ? 0x200000u << w[2] : (w[2] - 1) << 23;
        *d = __uint_as_float(bits);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            /* magnitudes 0 1 2 3 4 6 8 12 by byte_perm, four at a time */
            uint32_t lower = q[i] & 0x07070707u, sign = q[i] >> 3 & 0x01010101u;
            uint32_t pick = (lower & 7) | (lower >> 4 & 0x70) |
                            (lower >> 8 & 0x700) | (lower >> 12 & 0x7000);
            uint32_t most = __byte_perm(0x03020100u, 0x0c080604u, pick);
            uint32_t turn = sign * 255u; /* no byte carries: 0..24 */
            q[i] = 0x0c0c0c0cu + (most & ~turn) - (most & turn);
        }
    }
}

template <ks_type type>
static __device__ __forceinline__ void
ks__decode_super(uint32_t q[2], float *d, float *m, const uint32_t w[8],
                 int e) {
    constexpr bool nibbles = type == KS_Q4_K || type == KS_Q5_K;
    int field = e % 128 / 32 * 2; /* 2-bit fields of 32 bytes */
    int scale = (int)w[5], min = 0;
    if (type == KS_Q2_K) {
        scale = (int)(w[5] & 15), min = (int)(w[5] >> 4);
    } else if (type == KS_Q3_K) {
        int low = (int)(w[5] >> e / 128 * 4 & 15);
        int top = (int)(w[6] >> e / 64 * 2 & 3);
        scale = (low | top << 4) - 32;
    } else if (type == KS_Q6_K) {
        scale = (int8_t)w[5];
    } else if (e < 128) {
        scale = (int)(w[5] & 63), min = (int)(w[6] & 63);
    } else {
        scale = (int)((w[5] & 15) | w[6] >> 6 << 4);
        min = (int)(w[5] >> 4 | w[7] >> 6 << 4);
    }
    *d = __fmul_rn(ks__half_of(w[4]), (float)scale);
    *m = -__fmul_rn(ks__half_of(w[4] >> 16), (float)min);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (nibbles)
            q[i] = w[i] >> e / 32 % 2 * 4 & 0x0f0f0f0fu;
        else if (type == KS_Q6_K)
            q[i] = w[i] >> e % 128 / 64 * 4 & 0x0f0f0f0fu;
        else
            q[i] = w[i] >> field & 0x03030303u;
        if (type == KS_Q3_K) q[i] |= (w[2 + i] >> e / 32 & 0x01010101u) << 2;
        if (type == KS_Q5_K) q[i] |= (w[2 + i] >> e / 32 & 0x01010101u) << 4;
        if (type == KS_Q6_K) q[i] |= (w[2 + i] >> field & 0x03030303u) << 4;
    }
}

/* The numbers of what ks__load8 loaded from j. */
template <ks_type type>
static __device__ __forceinline__ void
ks__decode8(float out[8], const ks__raw8 *raw, int64_t j) {
    const uint32_t *w = raw->w;
    if constexpr (ks__block(type) == 1) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            uint32_t pair = w[i / 2] >> i % 2 * 16;
            out[i] = type == KS_F32   ? __uint_as_float(w[i])
                     : type == KS_F16 ? ks__half_of(pair)
                                      : __uint_as_float(pair << 16);
        }
    } else {
        constexpr bool shifted = type == KS_Q4_1 || type == KS_Q5_1 ||
                                 type == KS_Q2_K || type == KS_Q4_K ||
                                 type == KS_Q5_K;
        constexpr float offset = type == KS_Q4_0    ? 8
                                 : type == KS_Q5_0  ? 16
                                 : type == KS_Q8_0  ? 128
                                 : type == KS_Q3_K  ? 4
                                 : type == KS_Q6_K  ? 32
                                 : type == KS_MXFP4 ? 12
                                                    : 0;
        uint32_t q[2];
        float d, m;
        if constexpr (ks__block(type) == 32)
            ks__decode_small<type>(q, &d, &m, w, (int)(j % 32));
        else
            ks__decode_super<type>(q, &d, &m, w, (int)(j % 256));
        ks__four<shifted>(out, q[0], offset, d, m);
        ks__four<shifted>(out + 4, q[1], offset, d, m);
    }
}

template <ks_type type>
static __device__ __forceinline__ void
ks__expand8(float out[8], const void *row, int64_t j, int n) {
    ks__raw8 raw;
    ks__load8<type>(&raw, row, j, n);
    ks__decode8<type>(out, &raw, j);
}

#endif
