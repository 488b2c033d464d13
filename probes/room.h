/* room.h - the host's memory that --memory leaves, and how a layer fits in:
 * several layers side by side, one in memory, or one in a scratch file. Which
 * it is changes no bit. */
#ifndef KS_ROOM_H
#define KS_ROOM_H

#include "nest.h"

typedef struct ks_room {
    size_t limit;        /* of what the process takes beyond start; 0: none */
    size_t start;        /* ks_process_bytes when it began */
    const char *scratch; /* folder for rows that do not fit */
    bool tested; /* that the least fits: later stages do not ask again */
} ks_room;

/* Bytes of memory of its own that the process has (RssAnon); 0: unknown. */
size_t ks_process_bytes(void);

/* Bytes that the limit leaves; without one, the machine's memory. */
size_t ks_room_left(const ks_room *room);

/* Bytes that one layer takes while it is worked on by so many threads. */
typedef size_t (*ks_room_fn)(void *user, int threads, bool scratch);

typedef struct ks_room_plan {
    int lanes, threads; /* layers side by side, threads of each */
    const char *scratch;
} ks_room_plan;

/* The fastest way that fits, of at most `lanes` layers and `threads` threads in
 * all; kept: bytes that stay when layers are done; what: who needs them, for
 * the sentence of KS_LIMIT that names the least. */
ks_status ks_room_choose(const ks_room *room, size_t kept, ks_room_fn need,
                         void *user, int lanes, int threads, const char *what,
                         ks_room_plan *out, ks_err *err);

/* The least bytes with which ks_room_choose finds a way, of what the process
 * takes beyond start. */
size_t ks_room_least(const ks_room *room, size_t kept, ks_room_fn need,
                     void *user, int threads);

/* The same of one fit at a time: its threads and scratch file go to options. A
 * fit on a device works in memory of its own, which is none of the room. */
ks_status ks_room_fit(const ks_room *room, ks_room_fn need, void *user,
                      const char *what, ks_nest_options *options, ks_err *err);

#endif
