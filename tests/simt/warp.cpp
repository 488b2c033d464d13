/* warp.cpp - warp collectives. Lanes that call with one mask meet in a slot
 * keyed by the mask's lowest bit, so that disjoint masks work side by side.
 * Each lane leaves a pointer to its arguments; the last computes for all. */
#include <stdio.h>

#include "internal.h"
#include "simt.h"

namespace {

struct slot {
    unsigned mask, arrived; /* arrived == 0: free */
    simt_op *op;
    const char *what;
    simt_site at;
    void *lanes[SIMT_WARP];
};

slot slots[SIMT_MAX_WARPS][SIMT_WARP];
uint32_t gone[SIMT_MAX_WARPS]; /* lanes that have returned, or do not exist */

} // namespace

void simt_warps_reset(void) {
    for (int w = 0; w < simt_n_warps; w++) {
        int lanes = simt_n_threads - w * SIMT_WARP;
        gone[w] = lanes >= SIMT_WARP ? 0 : ~0u << lanes;
        for (int i = 0; i < SIMT_WARP; i++) slots[w][i].arrived = 0;
    }
}

[[noreturn]] static void absent(const slot *s, unsigned missing,
                                const char *why) {
    simt_refuse(s->at, "%s with absent lanes: mask %08x, lanes %08x %s",
                s->what, s->mask, missing, why);
}

void simt_lane_gone(const simt_fiber *f) {
    gone[f->warp] |= 1u << f->lane;
    for (int i = 0; i < SIMT_WARP; i++) {
        const slot *s = &slots[f->warp][i];
        if (s->arrived && s->mask & gone[f->warp])
            absent(s, s->mask & gone[f->warp], "have returned");
    }
}

void simt_explain_collectives(void) {
    for (int w = 0; w < simt_n_warps; w++)
        for (int i = 0; i < SIMT_WARP; i++) {
            const slot *s = &slots[w][i];
            if (!s->arrived) continue;
            unsigned missing = s->mask & ~s->arrived;
            const simt_fiber *f =
                simt_fiber_get(w * SIMT_WARP + __builtin_ctz(missing));
            char why[256];
            snprintf(why, sizeof why, "are elsewhere (the first at %s:%d)",
                     f->at.file, f->at.line);
            absent(s, missing, why);
        }
}

void simt_collective(unsigned mask, simt_op *op, const char *what, void *mine,
                     simt_site at) {
    simt_fiber *f = simt_current;
    if (!f) simt_refuse(at, "%s outside a kernel", what);
    simt_copies_maybe_land();
    unsigned bit = 1u << f->lane;
    if (!(mask & bit))
        simt_refuse(at, "%s: lane %d is not in its own mask %08x", what,
                    f->lane, mask);
    slot *s = &slots[f->warp][__builtin_ctz(mask)];
    if (!s->arrived) {
        s->mask = mask, s->op = op, s->what = what, s->at = at;
    } else if (s->mask != mask || s->op != op || s->what != what) {
        simt_refuse(at,
                    "lane %d calls %s (mask %08x) where others wait in %s "
                    "(mask %08x) at %s:%d",
                    f->lane, what, mask, s->what, s->mask, s->at.file,
                    s->at.line);
    }
    if (mask & gone[f->warp]) {
        unsigned missing = mask & gone[f->warp];
        int exist = simt_n_threads - f->warp * SIMT_WARP;
        bool returned = __builtin_ctz(missing) < exist;
        absent(s, missing, returned ? "have returned" : "do not exist");
    }
    s->lanes[f->lane] = mine;
    s->arrived |= bit;
    if (s->arrived != mask) {
        simt_wait(SIMT_AT_COLLECTIVE, at);
        return;
    }
    op(mask, s->lanes);
    s->arrived = 0;
    for (unsigned left = mask & ~bit; left; left &= left - 1)
        simt_fiber_ready(
            simt_fiber_get(f->warp * SIMT_WARP + __builtin_ctz(left)));
}

/* -------------------------------------------------------------- __syncwarp */

static void sync_op(unsigned mask, void *const *) {
    simt_race_warp(simt_current->warp, mask);
}

void __syncwarp(unsigned mask, const char *file, int line) {
    simt_collective(mask, sync_op, "__syncwarp", NULL, {file, line});
}

/* ---------------------------------------------------------------- shuffles */

namespace {

struct shuffle {
    simt_shuffle_kind kind;
    uint64_t value, result;
    int operand, width, lane;
    simt_site at;
};

struct vote {
    unsigned value, result;
};

} // namespace

/* The lane that `s` reads (PTX shfl.sync: lanes past the segment read their
 * own). */
static int source(const shuffle *s) {
    int width = s->width, first = s->lane & ~(width - 1);
    int from = s->lane;
    switch (s->kind) {
    case SIMT_SHUFFLE_INDEX:
        return first + (s->operand & (width - 1));
    case SIMT_SHUFFLE_UP:
        from = s->lane - s->operand;
        return from < first ? s->lane : from;
    case SIMT_SHUFFLE_DOWN:
        from = s->lane + s->operand;
        return from >= first + width ? s->lane : from;
    case SIMT_SHUFFLE_XOR:
        from = s->lane ^ s->operand;
        return from >= first + width ? s->lane : from;
    }
    return s->lane;
}

static void shuffle_op(unsigned mask, void *const lanes[SIMT_WARP]) {
    for (unsigned left = mask; left; left &= left - 1) {
        shuffle *s = (shuffle *)lanes[__builtin_ctz(left)];
        int from = source(s);
        if (!(mask >> from & 1u))
            simt_refuse(s->at,
                        "shuffle: lane %d reads lane %d, which is not "
                        "in the mask %08x",
                        s->lane, from, mask);
        s->result = ((shuffle *)lanes[from])->value;
    }
}

uint64_t simt_shuffle(unsigned mask, simt_shuffle_kind kind, uint64_t value,
                      int operand, int width, const char *file, int line) {
    simt_site at = {file, line};
    if (width < 1 || width > SIMT_WARP || width & (width - 1))
        simt_refuse(at, "shuffle: width %d is no power of two to 32", width);
    if (!simt_current) simt_refuse(at, "shuffle outside a kernel");
    shuffle s = {kind, value, 0, operand, width, simt_current->lane, at};
    simt_collective(mask, shuffle_op, "shuffle", &s, at);
    return s.result;
}

/* --------------------------------------------------------- votes, reductions
 */

#define EACH(lane, mask)                                                       \
    for (unsigned left_ = (mask), lane = 0;                                    \
         left_ && (lane = (unsigned)__builtin_ctz(left_), true);               \
         left_ &= left_ - 1)

static void give_all(unsigned mask, void *const *lanes, unsigned result) {
    EACH(i, mask)((vote *)lanes[i])->result = result;
}

static void ballot_op(unsigned mask, void *const lanes[SIMT_WARP]) {
    unsigned bits = 0;
    EACH(i, mask) bits |= ((vote *)lanes[i])->value ? 1u << i : 0;
    give_all(mask, lanes, bits);
}
static void add_op(unsigned mask, void *const lanes[SIMT_WARP]) {
    unsigned sum = 0;
    EACH(i, mask) sum += ((vote *)lanes[i])->value;
    give_all(mask, lanes, sum);
}
static void max_op(unsigned mask, void *const lanes[SIMT_WARP]) {
    unsigned most = 0;
    EACH(i, mask) most = max(most, ((vote *)lanes[i])->value);
    give_all(mask, lanes, most);
}
static void min_op(unsigned mask, void *const lanes[SIMT_WARP]) {
    unsigned least = ~0u;
    EACH(i, mask) least = min(least, ((vote *)lanes[i])->value);
    give_all(mask, lanes, least);
}

static unsigned meet(unsigned mask, unsigned value, simt_op *op,
                     const char *what, simt_site at) {
    vote v = {value, 0};
    simt_collective(mask, op, what, &v, at);
    return v.result;
}

unsigned __ballot_sync(unsigned mask, int p, const char *file, int line) {
    return meet(mask, p != 0, ballot_op, "__ballot_sync", {file, line});
}
int __all_sync(unsigned mask, int p, const char *file, int line) {
    return meet(mask, p != 0, ballot_op, "__all_sync", {file, line}) == mask;
}
int __any_sync(unsigned mask, int p, const char *file, int line) {
    return meet(mask, p != 0, ballot_op, "__any_sync", {file, line}) != 0;
}
unsigned __reduce_add_sync(unsigned mask, unsigned value, const char *file,
                           int line) {
    return meet(mask, value, add_op, "__reduce_add_sync", {file, line});
}
unsigned __reduce_max_sync(unsigned mask, unsigned value, const char *file,
                           int line) {
    return meet(mask, value, max_op, "__reduce_max_sync", {file, line});
}
unsigned __reduce_min_sync(unsigned mask, unsigned value, const char *file,
                           int line) {
    return meet(mask, value, min_op, "__reduce_min_sync", {file, line});
}
