/* gather.c - capture inside the graph: after each layer the steps' rows are
 * pooled, rounded once to the storage type and handed out, so hidden states of
 * whole sequences never outlive their layer. On a device the rows come to host
 * memory while the next layers compute; parcels are what is on its way. */
#include "run.h"

static bool asks(const ks_run *run, ks_position p) {
    return run->capture->positions & (1u << p);
}

ks_status ks__gather_plan(ks_run *run, ks_err *err) {
    ks_status st = KS_OK;
    const ks_capture *capture = run->capture;
    const ks_seqs *seqs = run->seqs;
    run->n_token_rows = 0;
    run->parcel = 0;
    for (int i = 0; i < run->n_parcels; i++) run->parcels[i].held = false;
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
    int32_t token = (int32_t)(row - run->seqs->offsets[seq]) +
                    (run->seqs->past ? run->seqs->past[seq] : 0);
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

/* The status of what was queued so far, where a device says so late. */
static ks_status settled(const ks_run *run, ks_status st, ks_err *err) {
    return st == KS_OK ? run->ops->sync(run->dev, err) : st;
}

/* Rounding to f16 met a value beyond its range. Repeats it a row at a time to
 * name the first; only a pass that fails pays for it. */
static ks_status blame(ks_run *run, ks_parcel *parcel, bool tokens, ks_view x,
                       uint32_t positions, ks_err *err) {
    const ks_capture *capture = run->capture;
    int64_t n = tokens ? run->n_token_rows : capture->n_segments, i = 0;
    ks_status st = KS_OK;
    for (; i < n && st == KS_OK; i++) {
        st = tokens
                 ? run->ops->convert(run->dev, parcel->pooled[KS_TOKENS],
                                     capture->dtype, x,
                                     run->placed_token_rows + i, 1, err)
                 : run->ops->pool(run->dev, parcel->pooled, capture->dtype, x,
                                  run->placed_pool_rows + i, 1, positions, err);
        st = settled(run, st, err);
    }
    if (st != KS_NUMERIC) return st;
    int64_t row = tokens ? run->token_rows[i - 1] : run->pool_rows[i - 1].begin;
    (void)ks__run_fault_at(run, parcel->stream, parcel->layer, row, 1, err);
    run->fault.overflow = true;
    return ks_fail(
        err, KS_NUMERIC,
        "sequence %d, %s layer %d: the step at token %d holds values "
        "beyond the range of %s",
        run->fault.seq, ks_stream_name(parcel->stream), parcel->layer,
        run->fault.token, ks_type_name(capture->dtype));
}

static ks_status pool(ks_run *run, ks_parcel *parcel, ks_view x, ks_err *err) {
    const ks_capture *capture = run->capture;
    uint32_t positions = capture->positions & ~(1u << KS_TOKENS);
    ks_status st = KS_OK;
    if (positions)
        st = run->ops->pool(run->dev, parcel->pooled, capture->dtype, x,
                            run->placed_pool_rows, capture->n_segments,
                            positions, err);
    if (run->careful) st = settled(run, st, err);
    if (st == KS_NUMERIC) return blame(run, parcel, false, x, positions, err);
    if (st == KS_OK && asks(run, KS_TOKENS) && run->n_token_rows)
        st = run->ops->convert(run->dev, parcel->pooled[KS_TOKENS],
                               capture->dtype, x, run->placed_token_rows,
                               run->n_token_rows, err);
    if (run->careful) st = settled(run, st, err);
    if (st == KS_NUMERIC) return blame(run, parcel, true, x, positions, err);
    return st;
}

static int64_t rows_of(const ks_run *run, ks_position p) {
    return p == KS_TOKENS ? run->n_token_rows : run->capture->n_segments;
}

/* The way of a parcel's rows into host memory begins. */
static ks_status fetch(ks_run *run, ks_parcel *parcel, ks_err *err) {
    ks_status st = KS_OK;
    size_t row = ks_type_row_bytes(run->capture->dtype, run->config->d_model);
    if (!run->ops->unified)
        for (ks_position p = 0; p < KS_N_POSITIONS; p++)
            if (asks(run, p) && rows_of(run, p) > 0)
                KS_TRY(run->ops->copy_out(
                    run->dev, parcel->rows[p], parcel->pooled[p],
                    (size_t)rows_of(run, p) * row, &parcel->ticket, err));
    parcel->held = true;
done:
    return st;
}

/* Emits a parcel's rows once they have arrived; then it is free. */
static ks_status hand_out(ks_run *run, ks_parcel *parcel, ks_err *err) {
    ks_status st = KS_OK;
    const ks_capture *capture = run->capture;
    if (!parcel->held) return KS_OK;
    parcel->held = false;
    if (!run->ops->unified)
        KS_TRY(run->ops->wait(run->dev, parcel->ticket, err));
    for (ks_position p = 0; p < KS_N_POSITIONS; p++)
        if (asks(run, p) && rows_of(run, p) > 0)
            KS_TRY(capture->emit(capture->user, parcel->stream, p,
                                 parcel->layer, parcel->rows[p],
                                 rows_of(run, p), err));
done:
    return st;
}

ks_status ks__gather(ks_run *run, ks_stream stream, int32_t layer, ks_view x,
                     ks_err *err) {
    ks_status st = KS_OK;
    if (!ks__captures(run, stream) || run->capture->n_segments == 0)
        return KS_OK;
    ks_parcel *parcel = &run->parcels[run->parcel];
    if (!run->careful) KS_TRY(hand_out(run, parcel, err));
    parcel->stream = stream;
    parcel->layer = layer;
    KS_TRY(pool(run, parcel, x, err));
    if (run->careful) goto done;
    KS_TRY(fetch(run, parcel, err));
    if (run->ops->unified) KS_TRY(hand_out(run, parcel, err));
    run->parcel = (run->parcel + 1) % run->n_parcels;
done:
    return st;
}

ks_status ks__gather_finish(ks_run *run, ks_err *err) {
    ks_status st = KS_OK;
    if (!run->capture || run->careful) return KS_OK;
    for (int i = 0; i < run->n_parcels; i++)
        KS_TRY(hand_out(run, &run->parcels[(run->parcel + i) % run->n_parcels],
                        err));
done:
    return st;
}
