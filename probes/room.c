/* room.c - see room.h. */
#include "room.h"

#include <unistd.h>

#include "n_threads.h"
#include "resident.h"

size_t ks_process_bytes(void) {
    return ks_resident("RssAnon");
}

size_t ks_room_left(const ks_room *room) {
    if (!room->limit)
        return (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    size_t now = ks_process_bytes();
    size_t held = now > room->start ? now - room->start : 0;
    return room->limit > held ? room->limit - held : 0;
}

static size_t held_by(const ks_room *room, size_t kept) {
    size_t now = ks_process_bytes();
    return kept + (now > room->start ? now - room->start : 0);
}

/* A narrow layer may take less in memory than with a scratch file. */
size_t ks_room_least(const ks_room *room, size_t kept, ks_room_fn need,
                     void *user, int threads) {
    return held_by(room, kept) +
           KS_MIN(need(user, threads, false), need(user, 1, true));
}

ks_status ks_room_choose(const ks_room *room, size_t kept, ks_room_fn need,
                         void *user, int lanes, int threads, const char *what,
                         ks_room_plan *out, ks_err *err) {
    ks_status st = KS_OK;
    enum { MIB = 1 << 20 };
    *out = (ks_room_plan){KS_MAX(1, KS_MIN(lanes, threads)), threads, NULL};
    out->threads = KS_MAX(1, threads / out->lanes);
    if (!room->limit) return KS_OK;
    size_t held = held_by(room, kept);
    for (; out->lanes >= 1; out->lanes--) {
        out->threads = KS_MAX(1, threads / out->lanes);
        if (held + (size_t)out->lanes * need(user, out->threads, false) <=
            room->limit)
            return KS_OK;
    }
    out->lanes = 1;
    out->scratch = room->scratch;
    for (out->threads = threads; out->threads > 1; out->threads /= 2)
        if (held + need(user, out->threads, true) <= room->limit) return KS_OK;
    KS_CHECK(room->tested || held + need(user, 1, true) <= room->limit,
             KS_LIMIT, "--memory %zuM: %s need at least %zuM",
             room->limit / MIB, what,
             ks_room_least(room, kept, need, user, threads) / MIB + 2);
done:
    return st;
}

ks_status ks_room_fit(const ks_room *room, ks_room_fn need, void *user,
                      const char *what, ks_nest_options *options, ks_err *err) {
    ks_status st = KS_OK;
    const ks_room none = {0};
    ks_room_plan plan;
    int threads = ks_threads(options->threads);
    KS_TRY(ks_room_choose(options->dev ? &none : room, 0, need, user, 1,
                          threads, what, &plan, err));
    options->threads = plan.threads;
    options->scratch = plan.scratch;
done:
    return st;
}
