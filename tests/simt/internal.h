/* internal.h - what the simulator's files share. Everything here runs under
 * one lock (simt_lock): a launch runs to its end in the thread that drains. */
#ifndef KS_SIMT_INTERNAL_H
#define KS_SIMT_INTERNAL_H

#include <stddef.h>
#include <stdint.h>
#include <vector>
#include <cuda_runtime.h>

#include "control.h"

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define SIMT_ASAN 0
#endif

enum {
    SIMT_WARP = 32,
    SIMT_MAX_THREADS = 1024, /* a block */
    SIMT_MAX_WARPS = SIMT_MAX_THREADS / SIMT_WARP,
    SIMT_STATIC_SHARED = 48 << 10 /* bytes a block without opt-in */
};

struct simt_site {
    const char *file;
    int line;
};

/* ------------------------------------------------------------ report.cpp */

/* One sentence on stderr, with the place in the source and, in a kernel, its
 * name, block and thread; refuse then aborts, complain returns. */
[[noreturn]] void simt_refuse(simt_site at, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
[[noreturn]] void simt_refuse_pc(uintptr_t pc, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void simt_complain(simt_site at, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void simt_complain_pc(uintptr_t pc, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* "file:line" of an address of code, from addr2line. */
void simt_locate(uintptr_t pc, char *text, size_t size);
#define SIMT_CALLER ((uintptr_t)__builtin_return_address(0))

void simt_watch(const char *kernel, simt_site at); /* NULL: launch ended */

/* ------------------------------------------------------------- fiber.cpp */

struct simt_copy { /* one cp.async in flight */
    void *to;
    const void *from;
    uint32_t group;
    bool landed;
    bool zeros;
    simt_site at;
};

enum simt_state { SIMT_READY, SIMT_AT_BARRIER, SIMT_AT_COLLECTIVE, SIMT_DONE };

struct simt_fiber {
    void *sp; /* saved stack pointer */
    bool begun;
    char *stack;
    void *fake; /* ASan's fake stack */
    uint3 thread;
    int index, warp, lane;
    simt_state state;
    simt_site at;     /* where it waits */
    int barrier_kind; /* of __syncthreads and its kin */
    int predicate;    /* in; the barrier's result, out */
    uint32_t group;   /* cp.async groups committed */
    std::vector<simt_copy> *copies;
};

/* Of the calling thread: others run host code while one runs a kernel. */
extern __thread simt_fiber *simt_current; /* NULL: host code runs */
simt_fiber *simt_fiber_get(int index);
/* Runs fibers until simt_next answers NULL. */
void simt_fibers_run(void);
/* Gives way: continues when simt_next picks this fiber again. */
void simt_yield(void);
/* Index of the fiber whose stack holds p; -1: none. */
int simt_stack_owner(const void *p);

/* ------------------------------------------------------------- block.cpp */

struct simt_launch_spec {
    const char *name;
    simt_site at;
    dim3 grid, block;
    size_t dynamic_shared, shared_limit; /* the limit holds for static too */
    void (*run)(const void *args);
    const void *args;
    size_t args_size;
    int device;
};
extern __thread const simt_launch_spec
    *simt_running;                       /* NULL between launches */
extern int simt_n_threads, simt_n_warps; /* of the running block */

void simt_run_grid(const simt_launch_spec *spec);
/* Scheduler: the fiber to run now, or NULL when the block has ended. */
simt_fiber *simt_next(void);
void simt_fiber_ready(simt_fiber *f);
/* The running fiber waits in `state`; returns when made ready. */
void simt_wait(simt_state state, simt_site at);
void simt_fiber_body(void); /* one thread of the kernel */

/* -------------------------------------------------------------- warp.cpp */

/* Lanes of `mask` meet: each leaves `mine`; the last runs op over all. */
typedef void simt_op(unsigned mask, void *const lanes[SIMT_WARP]);
void simt_collective(unsigned mask, simt_op *op, const char *what, void *mine,
                     simt_site at);
void simt_warps_reset(void);
/* A lane has returned: is it awaited? */
void simt_lane_gone(const simt_fiber *f);
/* Says which collective cannot complete, if one waits. */
void simt_explain_collectives(void);

/* -------------------------------------------------------------- copy.cpp */

void simt_copies_maybe_land(void);
void simt_copies_drop(simt_fiber *f);

/* ------------------------------------------------------------ memory.cpp */

/* One reservation: shared memory, then each device's span. */
enum { SIMT_SHARED_ROOM = 1 << 20 };
extern char *simt_base;
extern size_t simt_extent;

enum simt_byte : uint8_t { /* what the race build knows of a byte */
                           SIMT_NOTHING,
                           SIMT_FRESH,   /* allocated, never written */
                           SIMT_WRITTEN, /* holds data */
                           SIMT_FLYING,  /* a cp.async not waited for */
                           SIMT_FREED
};

struct simt_block_of_memory {
    char *begin;
    size_t size;
    int device;
    bool live, doomed;
    uint64_t serial;
};

void simt_memory_open(void);
static inline bool simt_in_arena(const void *p) {
    return (uintptr_t)p - (uintptr_t)simt_base < simt_extent;
}
static inline bool simt_in_shared(const void *p) {
    return (uintptr_t)p - (uintptr_t)simt_base < SIMT_SHARED_ROOM;
}
int simt_device_of(const void *p); /* -1: not device memory */
/* Live or freed allocation that holds p, or NULL. */
const simt_block_of_memory *simt_find(const void *p);
/* Reserves; the bytes are not usable before simt_memory_begin, which a stream
 * runs in order. NULL: over the device's memory. */
char *simt_memory_take(int device, size_t size);
void simt_memory_begin(char *p);
void simt_memory_end(char *p); /* use after free from here on */
/* Freed in stream order: no new call may name it, queued work may; its bytes
 * count as free at once, as a pool gives them to work behind the free. */
void simt_memory_doom(char *p);
void simt_memory_release(char *p); /* bytes return to the device */
bool simt_memory_live(const char *p);
size_t simt_memory_used(int device);
size_t simt_memory_total(void);
/* A copy or a library kernel wrote or will read device bytes. */
void simt_memory_wrote(void *p, size_t n);
void simt_memory_fill_nan(void *p, size_t n);
void simt_memory_guards(void); /* intact? at a launch's end */
/* Device memory is open to the host between these (simt_set_protect). */
void simt_memory_unlock(void);
void simt_memory_lock(void);
/* Text for messages: "shared 'part' + 12", "device allocation 3 (400 bytes) +
 * 400". */
void simt_describe(const void *p, char *text, size_t size);
/* Refuses when [p, p + n) is not inside one live allocation or shared
 * variable; for accesses that the simulator itself makes. */
void simt_check(const void *p, size_t n, const char *what, simt_site at);

void simt_shared_begin(size_t dynamic); /* a new block */
void simt_shared_end(void);             /* guards intact? */

/* Host memory from cudaMallocHost and registered memory. */
bool simt_is_pinned(const void *p);

/* -------------------------------------------------------------- race.cpp
 * In the other builds these do nothing (race_off.cpp). */

void simt_race_open(char *base, size_t extent);
void simt_race_state(void *p, size_t n, simt_byte state);
void simt_race_copy(void *to, const void *from, size_t n); /* their states */
void simt_race_launch(void);                               /* a launch begins */
void simt_race_block(void);                                /* a block begins */
void simt_race_barrier(void); /* all threads of the block met */
void simt_race_warp(int warp, unsigned mask);
enum simt_access { SIMT_READ, SIMT_WRITE, SIMT_ATOMIC, SIMT_ISSUE };
void simt_race_access(const void *p, size_t n, simt_access kind, simt_site at);

#endif
