/* crc32c.c - CRC-32C (Castagnoli, RFC 3720 appendix B.4): reflected polynomial
 * 0x82f63b78, all ones in and out. Chosen over SHA-256 for the rows of an
 * activation file because it costs a tenth (an instruction of SSE 4.2) and the
 * enemy is a torn write or a flipped bit, not a forger. */
#include "acts_format.h"

#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>

__attribute__((target("sse4.2"))) static uint32_t
by_instruction(uint32_t crc, const uint8_t *at, size_t n) {
    uint64_t state = crc;
    for (; n >= 8; n -= 8, at += 8) {
        uint64_t word;
        memcpy(&word, at, sizeof word);
        state = _mm_crc32_u64(state, word);
    }
    uint32_t rest = (uint32_t)state;
    for (; n; n--, at++) rest = _mm_crc32_u8(rest, *at);
    return rest;
}
#endif

uint32_t ks__crc32c_plain(uint32_t crc, const void *data, size_t n) {
    const uint8_t *at = data;
    crc = ~crc;
    for (; n; n--, at++) {
        crc ^= *at;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0x82f63b78u & (0u - (crc & 1)));
    }
    return ~crc;
}

uint32_t ks__crc32c(uint32_t crc, const void *data, size_t n) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) return ~by_instruction(~crc, data, n);
#endif
    return ks__crc32c_plain(crc, data, n);
}
