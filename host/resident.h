/* resident.h - what the process has in memory, by the kernel's count: what is
 * resident of a mapped model and of libraries, and what an allocator holds
 * beside what it was asked for, no sum can tell. */
#ifndef KS_RESIDENT_H
#define KS_RESIDENT_H

#include <stddef.h>

/* Bytes of a field of /proc/self/status: "RssAnon", "VmRSS", "VmHWM". 0 where
 * the system has none. */
size_t ks_resident(const char *field);

#endif
