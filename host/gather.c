/* gather.c - capture inside the graph: after each layer the steps' rows are
 * pooled, rounded once to the storage type and handed out, so hidden states of
 * whole sequences never outlive their layer. */
#include "run.h"

static bool asks(const ks_run *run, ks_position p) {
    return run->capture->positions & (1u << p);
}

ks_status ks__gather_plan(ks_run *run, ks_err *err) {
    ks_status st = KS_OK;
    const ks_capture *capture = run->capture;
    const ks_seqs *seqs = run->seqs;
    run->n_token_rows = 0;
    for (int32_t i = 0; i < capture->n_segments; i++) {
        ks_segment s = capture->segments[i];
        KS_CHECK(s.seq >= 0 && s.seq < seqs->n_seq &&
                     s.begin >= seqs->offsets[s.seq] && s.begin <= s.end &&
                     s.end <= seqs->offsets[s.seq + 1],
                 KS_MISMATCH,
                 "step %d covers tokens %d to %d, outside its sequence %d", i,
                 s.begin, s.end, s.seq);
        KS_CHECK(i == 0 || s.begin >= capture->segments[i - 1].end, KS_MISMATCH,
                 "step %d starts at token %d, inside step %d", i, s.begin,
                 i - 1);
        bool at_start = s.begin == seqs->offsets[s.seq];
        run->pool_rows[i] =
            (ks_pool_row){s.begin, s.end, at_start ? -1 : s.begin - 1};
        if (asks(run, KS_TOKENS))
            for (int32_t t = s.begin; t < s.end; t++)
                run->token_rows[run->n_token_rows++] = t;
    }
done:
    return st;
}

static int32_t sequence_of(const ks_seqs *seqs, int64_t row) {
    int32_t low = 0, high = seqs->n_seq - 1;
    while (low < high) {
        int32_t middle = low + (high - low + 1) / 2;
        if (seqs->offsets[middle] <= row)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

ks_status ks__run_fault_at(ks_run *run, ks_stream stream, int32_t layer,
                           int64_t row, int64_t count, ks_err *err) {
    int32_t seq = sequence_of(run->seqs, row);
    int32_t token = (int32_t)(row - run->seqs->offsets[seq]);
    run->fault = (ks_fault){.seq = seq,
                            .layer = layer,
                            .token = token,
                            .stream = stream,
                            .count = count};
    return ks_fail(err, KS_NUMERIC,
                   "sequence %d, %s layer %d: %lld values are not finite, the "
                   "first at token %d",
                   seq, ks_stream_name(stream), layer, (long long)count, token);
}

/* Rounding to f16 met a value beyond its range. Repeats it a row at a time to
 * name the first; only a pass that fails pays for it. */
static ks_status blame(ks_run *run, ks_stream stream, bool tokens,
                       int32_t layer, ks_view x, uint32_t positions,
                       ks_err *err) {
    const ks_capture *capture = run->capture;
    int64_t n = tokens ? run->n_token_rows : capture->n_segments, i = 0;
    ks_status st = KS_OK;
    for (; i < n && st == KS_OK; i++)
        st = tokens ? run->ops->convert(run->dev, run->pooled[KS_TOKENS],
                                        capture->dtype, x, run->token_rows + i,
                                        1, err)
                    : run->ops->pool(run->dev, run->pooled, capture->dtype, x,
                                     run->pool_rows + i, 1, positions, err);
    if (st != KS_NUMERIC) return st;
    int64_t row = tokens ? run->token_rows[i - 1] : run->pool_rows[i - 1].begin;
    (void)ks__run_fault_at(run, stream, layer, row, 1, err);
    run->fault.overflow = true;
    return ks_fail(
        err, KS_NUMERIC,
        "sequence %d, %s layer %d: the step at token %d holds values "
        "beyond the range of %s",
        run->fault.seq, ks_stream_name(stream), layer, run->fault.token,
        ks_type_name(capture->dtype));
}

static ks_status pool(ks_run *run, ks_stream stream, int32_t layer, ks_view x,
                      ks_err *err) {
    const ks_capture *capture = run->capture;
    uint32_t positions = capture->positions & ~(1u << KS_TOKENS);
    ks_status st = KS_OK;
    if (positions)
        st =
            run->ops->pool(run->dev, run->pooled, capture->dtype, x,
                           run->pool_rows, capture->n_segments, positions, err);
    if (st == KS_NUMERIC)
        return blame(run, stream, false, layer, x, positions, err);
    if (st == KS_OK && asks(run, KS_TOKENS) && run->n_token_rows)
        st = run->ops->convert(run->dev, run->pooled[KS_TOKENS], capture->dtype,
                               x, run->token_rows, run->n_token_rows, err);
    if (st == KS_NUMERIC)
        return blame(run, stream, true, layer, x, positions, err);
    return st;
}

ks_status ks__gather(ks_run *run, ks_stream stream, int32_t layer, ks_view x,
                     ks_err *err) {
    ks_status st = KS_OK;
    const ks_capture *capture = run->capture;
    if (!ks__captures(run, stream) || capture->n_segments == 0) return KS_OK;
    KS_TRY(pool(run, stream, layer, x, err));
    KS_TRY(run->ops->sync(run->dev, err));
    for (ks_position p = 0; p < KS_N_POSITIONS; p++) {
        int64_t n = p == KS_TOKENS ? run->n_token_rows : capture->n_segments;
        if (asks(run, p) && n > 0)
            KS_TRY(capture->emit(capture->user, stream, p, layer,
                                 run->pooled[p], n, err));
    }
done:
    return st;
}
