/* block.cpp - a launch: blocks one after another, each block's fibers until
 * all have returned; barriers; the order, drawn from the seed. */
#include <stdio.h>
#include <stdlib.h>
#include <vector>

#include "internal.h"
#include "simt.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
__thread const simt_launch_spec *simt_running;
int simt_n_threads, simt_n_warps;

namespace {

uint64_t seed, state;
uint64_t n_launches;

uint32_t ready[SIMT_MAX_WARPS]; /* lanes that can run */
uint32_t ready_warps;
int warp_now = -1;     /* whose lanes run */
int turn;              /* first lane of the warp now */
int n_waiting, n_done; /* at the barrier; returned */

int nth_bit(uint32_t bits, uint32_t n) {
    while (n--) bits &= bits - 1;
    return __builtin_ctz(bits);
}

} // namespace

/* ------------------------------------------------------------------ random */

void simt_seed(uint64_t value) {
    seed = value;
    state = value * 0x9e3779b97f4a7c15u;
}

uint32_t simt_random(uint32_t n) { /* splitmix64 */
    if (!seed || n < 2) return 0;
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (uint32_t)((z >> 32) * n >> 32);
}

uint64_t simt_launches(void) {
    return n_launches;
}

__attribute__((constructor)) static void first_seed(void) {
    const char *text = getenv("KS_SIMT_SEED");
    if (text) simt_seed(strtoull(text, NULL, 10));
}

/* --------------------------------------------------------------- scheduler */

void simt_fiber_ready(simt_fiber *f) {
    f->state = SIMT_READY;
    ready[f->warp] |= 1u << f->lane;
    ready_warps |= 1u << f->warp;
}

/* Names one thread's place, for the messages below. */
static const char *place(const simt_fiber *f, char *text, size_t size) {
    snprintf(text, size, "thread (%u,%u,%u) at %s:%d", f->thread.x, f->thread.y,
             f->thread.z, f->at.file, f->at.line);
    return text;
}

/* Nothing can run: all at one barrier, or a defect. */
static void barrier_or_refuse(void) {
    if (n_done + n_waiting < simt_n_threads) simt_explain_collectives();
    const simt_fiber *first = NULL, *gone = NULL;
    for (int i = 0; i < simt_n_threads; i++) {
        const simt_fiber *f = simt_fiber_get(i);
        if (f->state == SIMT_DONE && !gone) gone = f;
        if (f->state != SIMT_AT_BARRIER) continue;
        if (!first) first = f;
        if (f->at.line != first->at.line || f->at.file != first->at.file ||
            f->barrier_kind != first->barrier_kind) {
            char one[256], other[256];
            simt_refuse(f->at, "divergent barrier: %s, %s",
                        place(first, one, sizeof one),
                        place(f, other, sizeof other));
        }
    }
    if (gone)
        simt_refuse(first->at,
                    "divergent barrier: %d threads wait, %d have returned, "
                    "thread (%u,%u,%u) among them",
                    n_waiting, n_done, gone->thread.x, gone->thread.y,
                    gone->thread.z);
    int count = 0;
    for (int i = 0; i < simt_n_threads; i++)
        count += simt_fiber_get(i)->predicate != 0;
    for (int i = 0; i < simt_n_threads; i++) {
        simt_fiber *f = simt_fiber_get(i);
        f->predicate = count;
        simt_fiber_ready(f);
    }
    n_waiting = 0;
    warp_now = -1;
    simt_race_barrier();
}

simt_fiber *simt_next(void) {
    if (simt_current && simt_current->state == SIMT_DONE) {
        n_done++;
        simt_lane_gone(simt_current);
        if (n_done == simt_n_threads) return NULL;
    }
    if (!ready_warps) barrier_or_refuse();
    /* Now and then another warp overtakes. */
    if (warp_now < 0 || !ready[warp_now] || simt_random(8) == 1) {
        uint32_t n = (uint32_t)__builtin_popcount(ready_warps);
        warp_now = nth_bit(ready_warps, simt_random(n));
        turn = (int)simt_random(SIMT_WARP);
    }
    uint32_t lanes = ready[warp_now];
    uint32_t turned =
        turn ? lanes >> turn | lanes << (SIMT_WARP - turn) : lanes;
    int lane = (__builtin_ctz(turned) + turn) % SIMT_WARP;
    ready[warp_now] &= ~(1u << lane);
    if (!ready[warp_now]) ready_warps &= ~(1u << warp_now);
    return simt_fiber_get(warp_now * SIMT_WARP + lane);
}

void simt_wait(simt_state to, simt_site at) {
    simt_current->state = to;
    simt_current->at = at;
    simt_yield();
}

/* ---------------------------------------------------------------- barriers */

static int barrier(int kind, int predicate, simt_site at) {
    simt_fiber *f = simt_current;
    if (!f) simt_refuse(at, "a barrier outside a kernel");
    simt_copies_maybe_land();
    f->barrier_kind = kind;
    f->predicate = predicate;
    n_waiting++;
    simt_wait(SIMT_AT_BARRIER, at);
    return f->predicate;
}

void __syncthreads(const char *file, int line) {
    barrier(0, 0, {file, line});
}
int __syncthreads_count(int predicate, const char *file, int line) {
    return barrier(1, predicate, {file, line});
}
int __syncthreads_and(int predicate, const char *file, int line) {
    return barrier(2, predicate, {file, line}) == simt_n_threads;
}
int __syncthreads_or(int predicate, const char *file, int line) {
    return barrier(3, predicate, {file, line}) != 0;
}
void __trap(const char *file, int line) {
    simt_refuse({file, line}, "__trap()");
}

/* ------------------------------------------------------------------ blocks */

void simt_fiber_body(void) {
    simt_running->run(simt_running->args);
}

static void run_block(uint64_t number) {
    const simt_launch_spec *s = simt_running;
    dim3 grid = s->grid, block = s->block;
    blockIdx.x = (unsigned)(number % grid.x);
    blockIdx.y = (unsigned)(number / grid.x % grid.y);
    blockIdx.z = (unsigned)(number / grid.x / grid.y);
    simt_race_block();
    simt_shared_begin(s->dynamic_shared);
    simt_warps_reset();
    ready_warps = 0;
    warp_now = -1;
    n_waiting = n_done = 0;
    for (int i = 0; i < simt_n_threads; i++) {
        simt_fiber *f = simt_fiber_get(i);
        f->begun = false;
        f->index = i;
        f->warp = i / SIMT_WARP;
        f->lane = i % SIMT_WARP;
        unsigned at = (unsigned)i;
        f->thread = make_uint3(at % block.x, at / block.x % block.y,
                               at / block.x / block.y);
        f->predicate = 0;
        f->group = 0;
        simt_fiber_ready(f);
    }
    simt_fibers_run();
    simt_shared_end();
    for (int i = 0; i < simt_n_threads; i++)
        simt_copies_drop(simt_fiber_get(i));
}

void simt_run_grid(const simt_launch_spec *spec) {
    simt_running = spec;
    gridDim = spec->grid;
    blockDim = spec->block;
    simt_n_threads = (int)(spec->block.x * spec->block.y * spec->block.z);
    simt_n_warps = (simt_n_threads + SIMT_WARP - 1) / SIMT_WARP;
    simt_watch(spec->name, spec->at);
    simt_race_launch();
    n_launches++;
    /* A random start and step through the blocks: each once, in an order that
     * nobody can rely on. */
    uint64_t n = (uint64_t)spec->grid.x * spec->grid.y * spec->grid.z;
    uint64_t start = simt_random((uint32_t)(n < UINT32_MAX ? n : UINT32_MAX));
    bool down = simt_random(2) == 1;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t at = (start + i) % n;
        run_block(down ? n - 1 - at : at);
    }
    simt_memory_guards();
    simt_running = NULL;
    simt_watch(NULL, {NULL, 0});
}
