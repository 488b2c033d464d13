/* build_name.h - which build of the simulator a test runs in. */
#ifndef KS_SIMT_BUILD_NAME_H
#define KS_SIMT_BUILD_NAME_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* plain, asan, race, cover; gpu: a real device. */
extern const char simt_build[];

static inline bool built(const char *build) {
    return strcmp(simt_build, build) == 0;
}

/* Whether only what a kernel does is looked at (race) or which of its lines run
 * (cover): what the host deals out tells neither anything new. */
static inline bool kernels_alone(void) {
    return built("race") || built("cover");
}

/* Of n cases: all where numbers are looked at, the first few where accesses are
 * (asan, race) and lines (cover). */
static inline size_t cases_here(size_t n, size_t few) {
    return built("asan") || kernels_alone() ? few : n;
}

#endif
