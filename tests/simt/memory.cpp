/* memory.cpp - the arena: one reservation that holds the running block's
 * shared memory and each device's span. Addresses are not reused while the
 * span lasts, so that a stale pointer finds freed memory. Between allocations
 * lie gaps that ASan has poisoned and the race build knows as nothing. */
#include <algorithm>
#include <map>
#include <mutex>
#include <stdlib.h>
#include <string>
#include <sys/mman.h>

#include "internal.h"
#include "simt.h"

namespace {

const size_t SPAN = (size_t)16 << 30; /* addresses a device */
const int MAX_DEVICES = 4;
const size_t GAP = 1024, GUARD = 64, ALIGN = 256;
const unsigned char CANARY = 0xa5;

struct variable { /* of the running block's shared memory */
    const void *key;
    const char *name;
    simt_site at;
    size_t begin, size;
};

std::map<char *, simt_block_of_memory> blocks; /* by address */
char *fresh[MAX_DEVICES];                      /* never used from here on */
size_t used[MAX_DEVICES];
size_t total = (size_t)4 << 30;
uint64_t serial;
std::vector<variable> variables;
size_t shared_top, static_bytes;
bool protecting;
int unlocked; /* depth */

} // namespace

char *simt_base;
size_t simt_extent;

void simt_memory_open(void) {
    if (simt_base) return;
    size_t extent = SIMT_SHARED_ROOM + MAX_DEVICES * SPAN;
    void *room = mmap(NULL, extent, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) {
        perror("simt: no address space");
        abort();
    }
    simt_base = (char *)room;
    simt_extent = extent;
    for (int i = 0; i < MAX_DEVICES; i++)
        fresh[i] = simt_base + SIMT_SHARED_ROOM + (size_t)i * SPAN + GAP;
    simt_race_open(simt_base, extent);
}

/* --------------------------------------------------------- ASan, race, NaN */

static void poison(void *p, size_t n) {
#if SIMT_ASAN
    __asan_poison_memory_region(p, n);
#else
    (void)p, (void)n;
#endif
}

static void unpoison(void *p, size_t n) {
#if SIMT_ASAN
    __asan_unpoison_memory_region(p, n);
#else
    (void)p, (void)n;
#endif
}

/* What is larger stays untouched, so that it takes no memory. */
void simt_memory_fill_nan(void *p, size_t n) {
    if (n <= (size_t)2 << 30) memset(p, 0xff, n);
}

void simt_memory_wrote(void *p, size_t n) {
    simt_race_state(p, n, SIMT_WRITTEN);
}

/* ----------------------------------------------------------- device memory */

int simt_device_of(const void *p) {
    if (!simt_in_arena(p) || simt_in_shared(p)) return -1;
    return (int)((size_t)((const char *)p - simt_base - SIMT_SHARED_ROOM) /
                 SPAN);
}

const simt_block_of_memory *simt_find(const void *p) {
    auto after = blocks.upper_bound((char *)p);
    if (after == blocks.begin()) return NULL;
    const simt_block_of_memory *b = &std::prev(after)->second;
    /* One past the end belongs to it, for messages and empty ranges. */
    return (const char *)p <= b->begin + b->size ? b : NULL;
}

/* The addresses of a freed block that is large enough, once the span is
 * used up. */
static char *reuse(int device, size_t room) {
    for (auto &entry : blocks) {
        simt_block_of_memory *b = &entry.second;
        if (b->live || b->device != device || b->size < room) continue;
        char *p = b->begin;
        blocks.erase(p);
        return p;
    }
    return NULL;
}

char *simt_memory_take(int device, size_t size) {
    simt_memory_open();
    if (used[device] + size > total) return NULL;
    size_t room = (size + GAP + ALIGN - 1) / ALIGN * ALIGN;
    char *end = simt_base + SIMT_SHARED_ROOM + (size_t)(device + 1) * SPAN;
    char *p = fresh[device];
    if (room <= (size_t)(end - p))
        fresh[device] += room;
    else if (!(p = reuse(device, size)))
        return NULL;
    unpoison(p - GUARD, size + 2 * GUARD);
    used[device] += size;
    blocks[p] = {p, size, device, true, false, ++serial};
    simt_memory_unlock();
    simt_memory_fill_nan(p - GUARD, GUARD);
    simt_memory_fill_nan(p + size, GUARD);
    simt_memory_lock();
    poison(p - GAP, size + 2 * GAP);
    return p;
}

/* NaN on both sides of every allocation: a read beyond shows in the result, a
 * write here. The other builds know at once. */
void simt_memory_guards(void) {
    if (SIMT_ASAN) return;
    for (auto &entry : blocks) {
        const simt_block_of_memory *b = &entry.second;
        if (!b->live) continue;
        for (size_t i = 0; i < 2 * GUARD; i++) {
            ptrdiff_t at = i < GUARD ? (ptrdiff_t)i - (ptrdiff_t)GUARD
                                     : (ptrdiff_t)(b->size + i - GUARD);
            if ((unsigned char)b->begin[at] == 0xff) continue;
            simt_refuse(simt_running->at,
                        "out of bounds: a write at device allocation %llu (%zu "
                        "bytes) + %td, found at the launch's end",
                        (unsigned long long)b->serial, b->size, at);
        }
    }
}

void simt_memory_begin(char *p) {
    const simt_block_of_memory *b = &blocks.at(p);
    unpoison(p, b->size);
    simt_memory_fill_nan(p, b->size);
    simt_race_state(p, b->size, SIMT_FRESH);
}

void simt_memory_end(char *p) {
    const simt_block_of_memory *b = &blocks.at(p);
    simt_race_state(p, b->size, SIMT_FREED);
    simt_memory_fill_nan(p, b->size);
    poison(p, b->size);
}

void simt_memory_doom(char *p) {
    simt_block_of_memory *b = &blocks.at(p);
    b->doomed = true;
    used[b->device] -= b->size;
}

void simt_memory_release(char *p) {
    simt_block_of_memory *b = &blocks.at(p);
    b->live = false;
    if (!b->doomed) used[b->device] -= b->size;
    char *from = (char *)(((uintptr_t)p + 4095) & ~(uintptr_t)4095);
    char *to = (char *)((uintptr_t)(p + b->size) & ~(uintptr_t)4095);
    if (to > from) madvise(from, (size_t)(to - from), MADV_DONTNEED);
}

bool simt_memory_live(const char *p) {
    auto found = blocks.find((char *)p);
    return found != blocks.end() && found->second.live && !found->second.doomed;
}

size_t simt_memory_used(int device) {
    return used[device];
}

size_t simt_memory_total(void) {
    return total;
}

size_t simt_live_allocations(void) {
    size_t n = 0;
    for (auto &entry : blocks) n += entry.second.live && !entry.second.doomed;
    return n;
}

void simt_set_memory(size_t bytes) {
    total = bytes;
}

/* ---------------------------------------------------- messages and checks */

static const variable *find_variable(size_t at) {
    const variable *best = NULL;
    for (const variable &v : variables)
        if (v.begin <= at && (!best || v.begin > best->begin)) best = &v;
    return best;
}

void simt_describe(const void *p, char *text, size_t size) {
    size_t at = (size_t)((const char *)p - simt_base);
    if (simt_in_shared(p)) {
        const variable *v = find_variable(at);
        if (v)
            snprintf(text, size, "shared '%s' (%zu bytes) + %zu", v->name,
                     v->size, at - v->begin);
        else
            snprintf(text, size, "shared memory before any variable");
        return;
    }
    const simt_block_of_memory *b = simt_in_arena(p) ? simt_find(p) : NULL;
    if (b)
        snprintf(text, size, "%sdevice allocation %llu (%zu bytes) + %td",
                 b->live ? "" : "freed ", (unsigned long long)b->serial,
                 b->size, (const char *)p - b->begin);
    else if (simt_in_arena(p))
        snprintf(text, size, "device memory outside allocations (%p)", p);
    else
        snprintf(text, size, "host memory (%p)", p);
}

void simt_check(const void *p, size_t n, const char *what, simt_site at) {
    size_t place = (size_t)((const char *)p - simt_base);
    if (simt_in_shared(p)) {
        const variable *v = find_variable(place);
        if (v && place + n <= v->begin + v->size) return;
    } else if (simt_in_arena(p)) {
        const simt_block_of_memory *b = simt_find(p);
        if (b && b->live && b->device == simt_running->device &&
            (const char *)p + n <= b->begin + b->size)
            return;
    } else if (simt_is_pinned(p)) {
        return;
    }
    char text[160];
    simt_describe(p, text, sizeof text);
    simt_refuse(at, "%s: out of bounds: %zu bytes at %s", what, n, text);
}

void simt_atomic(void *p, size_t size, const char *file, int line) {
    simt_site at = {file, line};
    if (!simt_current) simt_refuse(at, "an atomic outside a kernel");
    if ((uintptr_t)p % size) {
        char text[160];
        simt_describe(p, text, sizeof text);
        simt_refuse(at, "atomic: %s is not aligned to %zu", text, size);
    }
    simt_check(p, size, "atomic", at);
    simt_race_access(p, size, SIMT_ATOMIC, at);
}

/* -------------------------------------------------------------- protection */

static void protect(int rights) {
    if (mprotect(simt_base + SIMT_SHARED_ROOM, simt_extent - SIMT_SHARED_ROOM,
                 rights)) {
        perror("simt: mprotect");
        abort();
    }
}

void simt_set_protect(bool on) {
    simt_memory_open();
    protecting = on;
    protect(on ? PROT_NONE : PROT_READ | PROT_WRITE);
}

void simt_memory_unlock(void) {
    if (protecting && unlocked++ == 0) protect(PROT_READ | PROT_WRITE);
}

void simt_memory_lock(void) {
    if (protecting && --unlocked == 0) protect(PROT_NONE);
}

/* ----------------------------------------------------------- shared memory
 * Per block, each variable between guards. 16 bytes is all the alignment that
 * CUDA promises, so a multiple of 32 is avoided. */

static void *add_variable(const void *key, size_t size, const char *name,
                          simt_site at) {
    size_t begin = (shared_top + GAP) / 32 * 32 + 16;
    variables.push_back({key, name, at, begin, size});
    char *p = simt_base + begin;
    memset(simt_base + shared_top, CANARY, begin - shared_top);
    unpoison(p, size);
    simt_memory_fill_nan(p, size);
    simt_race_state(p, size, SIMT_FRESH);
    shared_top = begin + size;
    memset(p + size, CANARY, GAP);
    return p;
}

void simt_shared_begin(size_t dynamic) {
    simt_memory_open();
    variables.clear();
    unpoison(simt_base, SIMT_SHARED_ROOM);
    shared_top = 0;
    static_bytes = 0;
    add_variable(NULL, dynamic, "dynamic", simt_running->at);
    poison(simt_base, variables[0].begin);
    poison(simt_base + shared_top, SIMT_SHARED_ROOM - shared_top);
}

void *simt_shared(const void *key, size_t size, const char *name,
                  const char *file, int line) {
    if (!simt_current)
        simt_refuse({file, line}, "shared memory outside a kernel");
    for (const variable &v : variables)
        if (v.key == key) return simt_base + v.begin;
    static_bytes += size;
    if (static_bytes > SIMT_STATIC_SHARED)
        simt_refuse({file, line},
                    "%zu bytes of static shared memory with "
                    "'%s', %d at most",
                    static_bytes, name, SIMT_STATIC_SHARED);
    size_t all = static_bytes + simt_running->dynamic_shared;
    if (all > simt_running->shared_limit)
        simt_refuse({file, line},
                    "%zu bytes of shared memory with '%s', the "
                    "launch may have %zu",
                    all, name, simt_running->shared_limit);
    unpoison(simt_base + shared_top, size + 3 * GAP);
    void *p = add_variable(key, size, name, {file, line});
    size_t begin = variables.back().begin, before = begin - GAP / 2;
    poison(simt_base + before, begin - before);
    poison(simt_base + shared_top, 3 * GAP);
    return p;
}

void *simt_dynamic_shared(void) {
    return simt_base + variables[0].begin;
}

void simt_shared_end(void) {
    unpoison(simt_base, shared_top + 4 * GAP);
    size_t from = 0;
    for (size_t i = 0; i <= variables.size(); i++) {
        size_t to =
            i < variables.size() ? variables[i].begin : shared_top + GAP;
        for (size_t at = from; at < to; at++) {
            if ((unsigned char)simt_base[at] == CANARY) continue;
            const variable *near = &variables[i ? i - 1 : 0];
            simt_refuse(near->at,
                        "out of bounds: a write at shared '%s' "
                        "(%zu bytes) + %td, found at the block's end",
                        near->name, near->size,
                        (ptrdiff_t)at - (ptrdiff_t)near->begin);
        }
        if (i < variables.size()) from = variables[i].begin + variables[i].size;
    }
    for (const variable &v : variables)
        simt_race_state(simt_base + v.begin, v.size, SIMT_NOTHING);
}
