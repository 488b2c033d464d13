/* race.cpp - the race build: kernels are compiled with -fsanitize=thread, and
 * these are the hooks that the compiler calls at every load and store (TSan's
 * own runtime is not linked: it would see one thread).
 *
 * Time is a counter that every barrier advances. A byte remembers its last
 * write and last reads with their times. An access at time e by thread t comes
 * before the present one by u when t == u, when e lies before the last block
 * barrier, or when a __syncwarp that covers both lanes came between (shuffles
 * and votes order no memory). Two accesses, one of them a write, that are not
 * ordered are a race, whatever order the schedule gave them. Blocks of one
 * launch are never ordered. Atomics do not race with atomics. */
#include <map>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <utility>

#include "internal.h"
#include "simt.h"

namespace {

enum : uint16_t {
    MANY_WARPS = 0xffff,  /* read by several warps since the barrier */
    MANY_BLOCKS = 0xfffe, /* read by several blocks of the launch */
    ATOMIC = 0x8000
};

struct cell { /* of one byte */
    uint32_t write_time, read_time;
    uint32_t write_at, read_at; /* places; see place() */
    uint16_t writer;            /* thread index, ATOMIC or not */
    uint16_t reader;            /* warp index, or MANY_ */
    uint32_t read_lanes;        /* of that warp, not yet ordered */
};

cell *cells;
uint8_t *states; /* simt_byte of each byte */

uint32_t now = 1, launch_start, block_start, barrier_time;
uint32_t warp_time[SIMT_MAX_WARPS]; /* of the last __syncwarp of all lanes */
/* What a lane knows of another: everything before that time. */
uint32_t knows[SIMT_MAX_WARPS][SIMT_WARP][SIMT_WARP];

/* A place in 32 bits: an offset into the program, or a site's number. */
const uint32_t SITE = 0x80000000u;
std::vector<simt_site> *sites;
std::map<std::pair<const char *, int>, uint32_t> *site_numbers;

} // namespace

extern "C" char __executable_start, _end; /* of the program; from ld */

static void *reserve(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        perror("simt: no address space for the race build");
        abort();
    }
    return p;
}

void simt_race_open(char *, size_t extent) {
    cells = (cell *)reserve(extent * sizeof *cells);
    states = (uint8_t *)reserve(extent);
    sites = new std::vector<simt_site>;
    site_numbers = new std::map<std::pair<const char *, int>, uint32_t>;
}

void simt_race_state(void *p, size_t n, simt_byte state) {
    if (n) memset(states + ((char *)p - simt_base), state, n);
}

void simt_race_copy(void *to, const void *from, size_t n) {
    memmove(states + ((char *)to - simt_base),
            states + ((const char *)from - simt_base), n);
}

void simt_race_launch(void) {
    launch_start = ++now;
    if (now > UINT32_MAX / 2)
        simt_refuse(simt_running->at, "too many barriers");
}

void simt_race_block(void) {
    block_start = barrier_time = ++now;
}

void simt_race_barrier(void) {
    barrier_time = ++now;
}

void simt_race_warp(int w, unsigned mask) {
    now++;
    int lanes = simt_n_threads - w * SIMT_WARP;
    unsigned all = lanes >= SIMT_WARP ? ~0u : ~(~0u << lanes);
    if (mask == all) {
        warp_time[w] = now;
        return;
    }
    uint32_t joined[SIMT_WARP] = {0};
    for (unsigned left = mask; left; left &= left - 1) {
        const uint32_t *one = knows[w][__builtin_ctz(left)];
        for (int i = 0; i < SIMT_WARP; i++)
            joined[i] = one[i] > joined[i] ? one[i] : joined[i];
    }
    for (unsigned left = mask; left; left &= left - 1)
        joined[__builtin_ctz(left)] = now;
    for (unsigned left = mask; left; left &= left - 1)
        memcpy(knows[w][__builtin_ctz(left)], joined, sizeof joined);
}

/* ------------------------------------------------------------------ places */

static uint32_t place_of(uintptr_t pc) {
    uintptr_t at = pc - (uintptr_t)&__executable_start;
    return at < SITE ? (uint32_t)at : 0;
}

static uint32_t place_of_site(simt_site at) {
    auto made =
        site_numbers->insert({{at.file, at.line}, (uint32_t)sites->size()});
    if (made.second) sites->push_back(at);
    return SITE | made.first->second;
}

static void show_place(uint32_t place, char *text, size_t size) {
    if (place & SITE) {
        simt_site at = (*sites)[place & ~SITE];
        snprintf(text, size, "%s:%d", at.file, at.line);
    } else {
        simt_locate((uintptr_t)&__executable_start + place, text, size);
    }
}

[[noreturn]] static void refuse_at(uint32_t place, const char *format, ...) {
    char sentence[1024];
    va_list list;
    va_start(list, format);
    vsnprintf(sentence, sizeof sentence, format, list);
    va_end(list);
    char where[512];
    show_place(place, where, sizeof where);
    /* Split at the last colon: refuse takes a site. */
    char *colon = strrchr(where, ':');
    int line = 0;
    if (colon) *colon = 0, line = atoi(colon + 1);
    simt_refuse({where, line}, "%s", sentence);
}

/* ------------------------------------------------------------------ checks */

static bool ordered(uint32_t time, int warp, int lane) {
    if (time < barrier_time) return true;
    const simt_fiber *u = simt_current;
    return warp == u->warp && (lane == u->lane || warp_time[warp] > time ||
                               knows[warp][u->lane][lane] > time);
}

static const char *name_of(simt_access kind) {
    switch (kind) {
    case SIMT_READ:
        return "read";
    case SIMT_WRITE:
        return "write";
    case SIMT_ATOMIC:
        return "atomic";
    case SIMT_ISSUE:
        return "cp.async";
    }
    return "access";
}

[[noreturn]] static void race(const char *p, simt_access kind, uint32_t place,
                              const char *earlier, const char *whose,
                              uint32_t earlier_place) {
    char what[160], where[512];
    simt_describe(p, what, sizeof what);
    show_place(earlier_place, where, sizeof where);
    refuse_at(place, "race: %s of %s and %s by %s at %s, not ordered",
              name_of(kind), what, earlier, whose, where);
}

/* Against the last write. */
static void check_write(const cell *c, const char *p, simt_access kind,
                        uint32_t place, bool shared) {
    bool atomic = c->writer & ATOMIC;
    if (c->write_time < (shared ? block_start : launch_start)) return;
    if (atomic && kind == SIMT_ATOMIC) return;
    const char *earlier = atomic ? "an atomic" : "a write";
    if (c->write_time < block_start)
        race(p, kind, place, earlier, "another block", c->write_at);
    int t = c->writer & ~ATOMIC;
    if (ordered(c->write_time, t / SIMT_WARP, t % SIMT_WARP)) return;
    char whose[64];
    snprintf(whose, sizeof whose, "thread %d of the block", t);
    race(p, kind, place, earlier, whose, c->write_at);
}

/* Against the last reads. */
static void check_reads(const cell *c, const char *p, simt_access kind,
                        uint32_t place, bool shared) {
    if (c->read_time < (shared ? block_start : launch_start)) return;
    if (!shared && (c->read_time < block_start || c->reader == MANY_BLOCKS))
        race(p, kind, place, "a read", "another block", c->read_at);
    if (c->read_time < barrier_time) return;
    if (c->reader == MANY_WARPS)
        race(p, kind, place, "a read", "another warp", c->read_at);
    for (uint32_t left = c->read_lanes; left; left &= left - 1) {
        int lane = __builtin_ctz(left);
        if (ordered(c->read_time, c->reader, lane)) continue;
        char whose[64];
        snprintf(whose, sizeof whose, "thread %d of the block",
                 c->reader * SIMT_WARP + lane);
        race(p, kind, place, "a read", whose, c->read_at);
    }
}

static void note_read(cell *c, uint32_t place, bool shared) {
    const simt_fiber *u = simt_current;
    uint32_t bit = 1u << u->lane;
    bool before = c->read_time < (shared ? block_start : launch_start);
    if (!before && c->reader == MANY_BLOCKS) return;
    if (!before && c->read_time < block_start) {
        c->reader = MANY_BLOCKS;
    } else if (before || c->read_time < barrier_time) {
        c->reader = (uint16_t)u->warp;
        c->read_lanes = bit;
    } else if (c->reader == MANY_WARPS) {
        return;
    } else if (c->reader != u->warp) {
        c->reader = MANY_WARPS;
    } else {
        /* Readers that come before this one need no memory of their own. */
        uint32_t keep = bit;
        if (c->read_time != now)
            for (uint32_t left = c->read_lanes; left; left &= left - 1) {
                int lane = __builtin_ctz(left);
                if (!ordered(c->read_time, u->warp, lane)) keep |= 1u << lane;
            }
        else
            keep |= c->read_lanes;
        c->read_lanes = keep;
    }
    c->read_time = now;
    c->read_at = place;
}

[[noreturn]] static void bad_state(const char *p, size_t n, simt_access kind,
                                   uint32_t place, uint8_t state) {
    char what[160];
    simt_describe(p, what, sizeof what);
    const char *why = "out of bounds";
    if (state == SIMT_FREED) why = "use after free";
    if (state == SIMT_FRESH) why = "memory never written";
    if (state == SIMT_FLYING) why = "cp.async not waited for";
    refuse_at(place, "%s: %s of %zu bytes at %s", why, name_of(kind), n, what);
}

static void access(const void *at, size_t n, simt_access kind, uint32_t place) {
    const char *p = (const char *)at;
    size_t first = (size_t)(p - simt_base);
    bool shared = simt_in_shared(p);
    if (!shared && simt_device_of(p) != simt_running->device)
        refuse_at(place, "%s of device %d's memory on device %d", name_of(kind),
                  simt_device_of(p), simt_running->device);
    bool reads = kind == SIMT_READ || kind == SIMT_ATOMIC;
    for (size_t i = first; i < first + n; i++) {
        uint8_t state = states[i];
        if (state != SIMT_WRITTEN && (state != SIMT_FRESH || reads))
            bad_state(simt_base + i, n, kind, place, state);
        cell *c = &cells[i];
        check_write(c, simt_base + i, kind, place, shared);
        if (kind == SIMT_READ) {
            note_read(c, place, shared);
            continue;
        }
        check_reads(c, simt_base + i, kind, place, shared);
        c->write_time = now;
        c->write_at = place;
        c->writer = (uint16_t)(simt_current->index |
                               (kind == SIMT_ATOMIC ? ATOMIC : 0));
        states[i] = kind == SIMT_ISSUE ? SIMT_FLYING : SIMT_WRITTEN;
    }
}

void simt_race_access(const void *p, size_t n, simt_access kind, simt_site at) {
    if (simt_in_arena(p)) access(p, n, kind, place_of_site(at));
}

/* Memory of neither the device nor the thread itself. */
static void foreign(const void *p, size_t n, simt_access kind, uintptr_t pc) {
    const char *at = (const char *)p;
    const char *args = (const char *)simt_running->args;
    int owner = simt_stack_owner(p);
    if (owner == simt_current->index) return;
    if (owner >= 0)
        simt_refuse_pc(pc, "%s of thread %d's local memory", name_of(kind),
                       owner);
    if (at >= &__executable_start && at < &_end) return; /* constants */
    if (at >= args && at < args + simt_running->args_size) return;
    if (simt_is_pinned(p)) return;
    simt_refuse_pc(pc, "a kernel's %s of %zu bytes of host memory (%p)",
                   name_of(kind), n, p);
}

static void hook(const void *p, size_t n, simt_access kind, uintptr_t pc) {
    bool device = simt_in_arena(p);
    if (!simt_current) {
        if (device && simt_base)
            simt_refuse_pc(pc, "host code's %s of device memory (%p)",
                           name_of(kind), p);
        return;
    }
    if (device)
        access(p, n, kind, place_of(pc));
    else
        foreign(p, n, kind, pc);
}

/* ----------------------------------------------------- what the compiler calls
 */

extern "C" {

void __tsan_init(void) {
}
void __tsan_func_entry(void *) {
}
void __tsan_func_exit(void) {
}
void __tsan_vptr_update(void **, void *) {
}
void __tsan_vptr_read(void **) {
}

#define HOOKS(n)                                                               \
    void __tsan_read##n(void *p) {                                             \
        hook(p, n, SIMT_READ, SIMT_CALLER);                                    \
    }                                                                          \
    void __tsan_write##n(void *p) {                                            \
        hook(p, n, SIMT_WRITE, SIMT_CALLER);                                   \
    }                                                                          \
    void __tsan_unaligned_read##n(void *p) {                                   \
        hook(p, n, SIMT_READ, SIMT_CALLER);                                    \
    }                                                                          \
    void __tsan_unaligned_write##n(void *p) {                                  \
        hook(p, n, SIMT_WRITE, SIMT_CALLER);                                   \
    }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

void __tsan_read_range(void *p, size_t n) {
    hook(p, n, SIMT_READ, SIMT_CALLER);
}
void __tsan_write_range(void *p, size_t n) {
    hook(p, n, SIMT_WRITE, SIMT_CALLER);
}

/* Host code beside the kernels may use these: function-local statics. */
uint8_t __tsan_atomic8_load(const volatile uint8_t *p, int) {
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
int32_t __tsan_atomic32_load(const volatile int32_t *p, int) {
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
int32_t __tsan_atomic32_fetch_add(volatile int32_t *p, int32_t x, int) {
    return __atomic_fetch_add(p, x, __ATOMIC_SEQ_CST);
}
int64_t __tsan_atomic64_load(const volatile int64_t *p, int) {
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
}
