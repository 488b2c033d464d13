/* runtime_graph.cpp - graphs, by stream capture. A graph's launch runs its
 * nodes in an order drawn from the seed among those that the captured
 * dependencies allow: an edge that is missing shows. */
#include "runtime.h"

struct CUgraphExec_st {
    std::vector<simt_node> nodes;
};

cudaError_t cudaStreamBeginCapture(cudaStream_t handle,
                                   cudaStreamCaptureMode mode) {
    SIMT_API;
    if (!handle || handle == cudaStreamLegacy)
        return simt_error(cudaErrorStreamCaptureUnsupported);
    CUstream_st *s = simt_stream(handle, SIMT_CALLER);
    if (!s) return simt_error(cudaErrorInvalidResourceHandle);
    if (s->graph) return simt_error(cudaErrorIllegalState);
    s->graph = new CUgraph_st{};
    s->origin = s;
    s->tail.clear();
    s->broken = false;
    s->relaxed = mode == cudaStreamCaptureModeRelaxed;
    return cudaSuccess;
}

static void mark_ancestors(const std::vector<simt_node> &nodes,
                           std::vector<bool> *seen, int node) {
    if ((*seen)[(size_t)node]) return;
    (*seen)[(size_t)node] = true;
    for (int before : nodes[(size_t)node].after)
        mark_ancestors(nodes, seen, before);
}

/* Every node must lead into the origin's last ones. */
static bool joined(const CUstream_st *s) {
    const std::vector<simt_node> &nodes = s->graph->nodes;
    std::vector<bool> seen(nodes.size());
    for (int node : s->tail) mark_ancestors(nodes, &seen, node);
    for (bool one : seen)
        if (!one) return false;
    return true;
}

static void end_capture(CUstream_st *s) {
    s->graph = NULL;
    s->origin = NULL;
    s->tail.clear();
    s->broken = false;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *out) {
    SIMT_API;
    *out = NULL;
    CUstream_st *s = simt_stream(handle, SIMT_CALLER);
    if (!s) return simt_error(cudaErrorInvalidResourceHandle);
    if (!s->graph) return simt_error(cudaErrorIllegalState);
    if (s->origin != s) return simt_error(cudaErrorStreamCaptureUnmatched);
    CUgraph_st *graph = s->graph;
    cudaError_t error = cudaSuccess;
    if (s->broken)
        error = cudaErrorStreamCaptureInvalidated;
    else if (!joined(s))
        error = cudaErrorStreamCaptureUnjoined;
    simt_each_stream_of(graph, end_capture);
    if (error) {
        simt_complain_pc(SIMT_CALLER, "capture: %s", cudaGetErrorString(error));
        delete graph;
        return simt_error(error);
    }
    *out = graph;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle,
                                  cudaStreamCaptureStatus *status) {
    SIMT_API;
    CUstream_st *s = simt_stream(handle, SIMT_CALLER);
    if (!s) return simt_error(cudaErrorInvalidResourceHandle);
    *status = !s->graph   ? cudaStreamCaptureStatusNone
              : s->broken ? cudaStreamCaptureStatusInvalidated
                          : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph,
                                 unsigned long long) {
    SIMT_API;
    if (!graph) return simt_error(cudaErrorInvalidValue);
    *out = new CUgraphExec_st{graph->nodes};
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    SIMT_API;
    if (!graph) return simt_error(cudaErrorInvalidValue);
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    SIMT_API;
    if (!exec) return simt_error(cudaErrorInvalidValue);
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes,
                              size_t *count) {
    SIMT_API;
    if (!graph || nodes) return simt_error(cudaErrorInvalidValue);
    *count = graph->nodes.size();
    return cudaSuccess;
}

/* Same nodes in the same shape; their arguments may differ. */
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph,
                                cudaGraphExecUpdateResultInfo *info) {
    SIMT_API;
    if (!exec || !graph) return simt_error(cudaErrorInvalidValue);
    *info = {};
    bool same = exec->nodes.size() == graph->nodes.size();
    for (size_t i = 0; same && i < exec->nodes.size(); i++)
        same = exec->nodes[i].kind == graph->nodes[i].kind &&
               exec->nodes[i].after == graph->nodes[i].after;
    if (!same) {
        info->result = cudaGraphExecUpdateErrorTopologyChanged;
        return simt_error(cudaErrorGraphExecUpdateFailure);
    }
    info->result = cudaGraphExecUpdateSuccess;
    exec->nodes = graph->nodes;
    return cudaSuccess;
}

static void run_nodes(const std::vector<simt_node> &nodes) {
    std::vector<bool> done(nodes.size());
    for (size_t left = nodes.size(); left; left--) {
        std::vector<size_t> ready;
        for (size_t i = 0; i < nodes.size(); i++) {
            bool can = !done[i];
            for (int before : nodes[i].after) can = can && done[(size_t)before];
            if (can) ready.push_back(i);
        }
        size_t pick = ready[simt_random((uint32_t)ready.size())];
        nodes[pick].work();
        done[pick] = true;
    }
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t) {
    return exec ? cudaSuccess : simt_error(cudaErrorInvalidValue);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t handle) {
    SIMT_API;
    CUstream_st *s = simt_stream(handle, SIMT_CALLER);
    if (!s || !exec) return simt_error(cudaErrorInvalidResourceHandle);
    /* A copy: later updates leave this launch as it is. */
    std::vector<simt_node> nodes = exec->nodes;
    return simt_submit(s, exec, [nodes] { run_nodes(nodes); });
}
