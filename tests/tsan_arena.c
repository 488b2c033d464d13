/* tsan_arena.c - a place for Criterion's arena under ThreadSanitizer.
 *
 * Criterion hands its tests to their processes in memory that it maps at a
 * fixed address, 2^45 plus 2^24 times what rand_r says. Nearly all of that
 * range belongs to the sanitizer's shadow, where no mapping is allowed. This
 * rand_r keeps to the part of the sanitizer's range for programs (from
 * 0x550000000000) that lies below where Linux puts any (0x555555554000). */
#include <stdlib.h>

__attribute__((visibility("default"))) int rand_r(unsigned *seed) {
    enum { FIRST = 0x350000, ROOM = 0x5000 };
    *seed = *seed * 1103515245u + 12345u;
    return FIRST + (int)((*seed >> 16) % ROOM);
}
