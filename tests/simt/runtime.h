/* runtime.h - what the files of the runtime stand-in share. Streams are lazy
 * queues: work runs only at a synchronisation, or when other work waits for an
 * event behind it. So what is not waited for has not happened. */
#ifndef KS_SIMT_RUNTIME_H
#define KS_SIMT_RUNTIME_H

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "simt.h"
#include "internal.h"

typedef std::function<void(void)> simt_work;

struct simt_node { /* of a graph */
    simt_work work;
    const void *kind; /* the kernel, or what names the copy */
    std::vector<int> after;
};

struct CUgraph_st {
    std::vector<simt_node> nodes;
};

struct simt_event_state {
    uint64_t issued, done; /* records queued and reached */
    CUstream_st *stream;   /* of the last record */
    double time;
    bool timing;
    int device;
    CUgraph_st *graph; /* recorded inside this capture */
    std::vector<int> nodes;
};

struct CUevent_st {
    std::shared_ptr<simt_event_state> state;
};

struct CUstream_st {
    int device;
    bool blocking; /* waits for the default stream and the other way round */
    std::deque<simt_work> queue;
    uint64_t pushed, popped;
    CUgraph_st *graph;     /* being captured, or NULL */
    CUstream_st *origin;   /* where that capture began */
    std::vector<int> tail; /* last nodes of this stream in it */
    bool broken;           /* the capture is invalid */
    bool relaxed;
};

extern std::recursive_mutex simt_mutex;
extern int simt_device_count;
int simt_device_now(void); /* of the calling thread */
/* Remembers the error for cudaGetLastError and returns it. */
cudaError_t simt_error(cudaError_t error);
/* Common to API calls: the lock, and whether there is a device. */
#define SIMT_API std::lock_guard<std::recursive_mutex> guard_(simt_mutex)

/* NULL: the handle is none of ours (and that was said). */
CUstream_st *simt_stream(cudaStream_t handle, uintptr_t caller);
/* Queues work in order, or adds it to the graph under capture. */
cudaError_t simt_submit(CUstream_st *s, const void *kind, simt_work work);
void simt_drain(CUstream_st *s);
void simt_drain_device(int device);
/* True, with the captures spoilt, when a call that synchronises comes while
 * this process captures a stream in a mode that forbids it. */
bool simt_capture_forbids(void);
void simt_each_stream_of(CUgraph_st *graph, void (*call)(CUstream_st *));
/* Waits for a record of the event. */
void simt_reach(simt_event_state *e, uint64_t record);
/* For sync calls: the injected error, once, else success. */
cudaError_t simt_sync_result(void);

/* For the cuBLASLt module: queues what a library's kernel does. */
extern "C" int simt_library_submit(cudaStream_t stream, const void *kind,
                                   simt_work work);
/* Refuses unless [p, p + n) lies in one live allocation. */
extern "C" void simt_library_check(const void *p, size_t n, const char *what);
extern "C" void simt_library_wrote(void *p, size_t n);

#endif
