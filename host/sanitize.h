/* sanitize.h - innermost loops in the build with AddressSanitizer, which would
 * look at each of their loads and spend most of its time there. */
#ifndef KS_SANITIZE_H
#define KS_SANITIZE_H

#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__) /* gcc's word */
#include <sanitizer/asan_interface.h>
/* A function that the sanitizers leave alone, with all that is inlined into it:
 * its caller watches, or it touches arrays of constant size alone. */
#define KS_UNWATCHED __attribute__((no_sanitize("address", "undefined")))
#else
#define KS_UNWATCHED
#endif

/* All bytes of [p, p + n) may be touched; else AddressSanitizer's report. */
static inline void ks_watch(const void *p, size_t n) {
#if defined(__SANITIZE_ADDRESS__)
    const volatile char *bad = __asan_region_is_poisoned((void *)p, n);
    if (bad) (void)*bad; /* an access that it looks at */
#else
    (void)p, (void)n;
#endif
}

#endif
