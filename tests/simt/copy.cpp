/* copy.cpp - cp.async. The target holds NaN from the issue on. The data land
 * at the wait (seed 0), or at a random moment between issue and wait; only the
 * wait makes them fit to read. */
#include "internal.h"
#include "simt.h"

static void land(simt_copy *c) {
    if (c->landed) return;
    c->landed = true;
    if (c->zeros)
        memset(c->to, 0, 16);
    else
        memcpy(c->to, c->from, 16);
}

void cp_async16(void *to, const void *from, bool valid, const char *file,
                int line) {
    simt_site at = {file, line};
    simt_fiber *f = simt_current;
    if (!f) simt_refuse(at, "cp.async outside a kernel");
    char text[160];
    if ((uintptr_t)to % 16 || (valid && (uintptr_t)from % 16)) {
        simt_describe((uintptr_t)to % 16 ? to : from, text, sizeof text);
        simt_refuse(at, "cp.async: %s is not 16-byte aligned", text);
    }
    if (!simt_in_shared(to)) {
        simt_describe(to, text, sizeof text);
        simt_refuse(at, "cp.async: target %s is not shared memory", text);
    }
    if (valid && (!simt_in_arena(from) || simt_in_shared(from))) {
        simt_describe(from, text, sizeof text);
        simt_refuse(at, "cp.async: source %s is not device memory", text);
    }
    simt_check(to, 16, "cp.async", at);
    if (valid) {
        simt_check(from, 16, "cp.async", at);
        simt_race_access(from, 16, SIMT_READ, at);
    }
    simt_race_access(to, 16, SIMT_ISSUE, at);
    memset(to, 0xff, 16);
    f->copies->push_back({to, from, f->group, false, !valid, at});
    simt_copies_maybe_land();
}

void simt_copies_maybe_land(void) {
    std::vector<simt_copy> *all = simt_current->copies;
    if (all->empty() || simt_random(4) != 1) return;
    land(&(*all)[simt_random((uint32_t)all->size())]);
}

void cp_async_commit(void) {
    simt_current->group++;
}

void simt_cp_async_wait(int n) {
    simt_fiber *f = simt_current;
    std::vector<simt_copy> *all = f->copies;
    size_t kept = 0;
    for (simt_copy &c : *all) {
        /* Committed, and n committed groups or more came after it. */
        if ((int64_t)c.group < (int64_t)f->group - n) {
            land(&c);
            simt_race_state(c.to, 16, SIMT_WRITTEN);
            simt_race_access(c.to, 16, SIMT_WRITE, c.at);
        } else {
            (*all)[kept++] = c;
        }
    }
    all->resize(kept);
}

void simt_copies_drop(simt_fiber *f) {
    f->copies->clear();
}
