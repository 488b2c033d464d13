/* graph.cu - ops noted once and queued with one call: a step of decoding costs
 * hundreds of launches that take longer than their work. */
#include "cuda.cuh"
#include "cuda_ops.h"

#include <stdlib.h>

ks_status ks__cuda_record(ks_dev *dev, ks_err *err) {
    if (dev->recording)
        return ks_fail(err, KS_INTERNAL,
                       "record: a graph is being recorded already");
    struct ks_graph *graph;
    ks_status st = ks_alloc(&graph, 1, sizeof *graph, "a graph", err);
    if (st != KS_OK) return st;
    /* Relaxed: what ops take comes from the side stream meanwhile. */
    st = ks__cuda_status(
        cudaStreamBeginCapture(dev->stream, cudaStreamCaptureModeRelaxed),
        "record", err);
    if (st == KS_OK)
        dev->recording = graph;
    else
        free(graph);
    return st;
}

static ks_status instantiate(ks_dev *dev, struct ks_graph *graph, ks_err *err) {
    cudaGraph_t noted;
    KS_CUDA_TRY(cudaStreamEndCapture(dev->stream, &noted), "recorded");
    cudaError_t error = cudaGraphInstantiate(&graph->exec, noted, 0);
    (void)cudaGraphDestroy(noted);
    KS_CUDA_TRY(error, "recorded");
    return ks__cuda_late(cudaStreamSynchronize(dev->side), "recorded", err);
}

ks_status ks__cuda_recorded(ks_dev *dev, ks_graph **out, ks_err *err) {
    struct ks_graph *graph = dev->recording;
    *out = NULL;
    if (!graph)
        return ks_fail(err, KS_INTERNAL, "recorded: nothing is being recorded");
    dev->recording = NULL;
    ks_status st = instantiate(dev, graph, err);
    if (st == KS_OK)
        *out = graph;
    else
        ks__cuda_free_graph(dev, &graph);
    return st;
}

ks_status ks__cuda_replay(ks_dev *dev, ks_graph *graph, ks_err *err) {
    if (dev->recording)
        return ks_fail(err, KS_INTERNAL, "replay while a graph is recorded");
    KS_CUDA_TRY(cudaGraphLaunch(graph->exec, dev->stream), "replay");
    return KS_OK;
}

void ks__cuda_free_graph(ks_dev *dev, ks_graph **graph) {
    struct ks_graph *g = *graph;
    if (!g) return;
    if (g->exec) (void)cudaGraphExecDestroy(g->exec);
    for (size_t i = 0; i < g->n_blocks; i++)
        ks__cuda_give(dev, g->blocks[i].data);
    free(g->blocks);
    free(g);
    *graph = NULL;
}
