/* heads.c - log-probabilities, samples and shares of a pass's hidden rows:
 * arguments go over to the backend, results come back. */
#include <math.h>
#include <stdlib.h>

#include "draw.h"
#include "run.h"

/* Where the backend writes n results of `to`; brought there by fetch. */
static void *target_of(const ks_run *run, void *to, void *device) {
    return run->ops->unified || !to ? to : device;
}

static ks_status fetch(ks_run *run, void *to, const void *from, size_t size,
                       ks_err *err) {
    if (from == to) return KS_OK;
    return run->ops->copy(run->dev, to, from, size, err);
}

static ks_status check_rows(const ks_run *run, ks_view hidden, ks_err *err) {
    if (hidden.rows > run->limits.max_tokens)
        return ks_fail(err, KS_LIMIT, "%lld rows in buffers for %d tokens",
                       (long long)hidden.rows, run->limits.max_tokens);
    return KS_OK;
}

ks_status ks_run_score(ks_run *run, ks_view hidden, const int32_t *target,
                       float *logprob, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)hidden.rows;
    float *out = target_of(run, logprob, run->logprobs);
    KS_TRY(check_rows(run, hidden, err));
    target = ks__stage_add(run, target, n * sizeof *target);
    KS_TRY(ks__stage_send(run, err));
    KS_TRY(run->ops->score(run->dev, out, hidden, run->weights->head,
                           run->config->final_softcap, target, err));
    KS_TRY(fetch(run, logprob, out, n * sizeof *out, err));
    KS_TRY(run->ops->sync(run->dev, err));
done:
    return st;
}

ks_status ks_run_sample(ks_run *run, ks_view hidden,
                        const ks_sample_spec *specs, int32_t *ids,
                        float *logprob, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)hidden.rows;
    int32_t *out = target_of(run, ids, run->picked);
    float *of = target_of(run, logprob, run->logprobs);
    KS_TRY(check_rows(run, hidden, err));
    specs = ks__stage_add(run, specs, n * sizeof *specs);
    KS_TRY(ks__stage_send(run, err));
    KS_TRY(run->ops->sample(run->dev, out, of, hidden, run->weights->head,
                            run->config->final_softcap, specs, err));
    KS_TRY(fetch(run, ids, out, n * sizeof *out, err));
    KS_TRY(fetch(run, logprob, of, n * sizeof *of, err));
    KS_TRY(run->ops->sync(run->dev, err));
done:
    return st;
}

static ks_status check_sets(const ks_run *run, int64_t n,
                            const int32_t *offsets, const int32_t *ids,
                            ks_err *err) {
    ks_status st = KS_OK;
    int32_t n_vocab = run->config->n_vocab;
    for (int64_t i = 0; i < n; i++) {
        int64_t size = (int64_t)offsets[i + 1] - offsets[i];
        KS_CHECK(size >= 0 && size <= n_vocab, KS_USAGE,
                 "set %lld has %lld ids, expected 0 to %d, all of the "
                 "vocabulary",
                 (long long)i, (long long)size, n_vocab);
        for (int32_t j = offsets[i]; j < offsets[i + 1]; j++)
            KS_CHECK(ids[j] >= 0 && ids[j] < n_vocab, KS_MISMATCH,
                     "set %lld holds id %d, the model's vocabulary is 0 to "
                     "%d: wrong tokenizer?",
                     (long long)i, ids[j], n_vocab - 1);
    }
done:
    return st;
}

/* How many rows from the first on have sets that find room in the image
 * together: one always. */
static int64_t rows_at_once(const ks_run *run, int64_t n,
                            const int32_t *offsets) {
    int64_t rows = run->ops->unified ? n : 1;
    while (rows < n &&
           (int64_t)offsets[rows + 1] - offsets[0] <= run->config->n_vocab)
        rows++;
    return rows;
}

/* Of rows whose sets find room, without waiting. */
static ks_status share_some(ks_run *run, ks_view hidden,
                            const ks_sample_spec *specs, const int32_t *offsets,
                            const int32_t *ids, double *share, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)hidden.rows;
    double *out = target_of(run, share, run->shares);
    specs = ks__stage_add(run, specs, n * sizeof *specs);
    if (!run->ops->unified)
        ids = ks__stage_add(run, ids + offsets[0],
                            (size_t)(offsets[n] - offsets[0]) * sizeof *ids);
    offsets = ks__stage_offsets(run, offsets, hidden.rows + 1);
    KS_TRY(ks__stage_send(run, err));
    KS_TRY(run->ops->share(run->dev, out, hidden, run->weights->head,
                           run->config->final_softcap, specs, offsets, ids,
                           err));
    KS_TRY(fetch(run, share, out, n * sizeof *out, err));
done:
    return st;
}

ks_status ks_run_share(ks_run *run, ks_view hidden, const ks_sample_spec *specs,
                       const int32_t *offsets, const int32_t *ids,
                       double *share, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(check_rows(run, hidden, err));
    KS_TRY(check_sets(run, hidden.rows, offsets, ids, err));
    for (int64_t i = 0, n = hidden.rows; i < n; i += hidden.rows) {
        hidden.rows = rows_at_once(run, n - i, offsets + i);
        KS_TRY(share_some(run, hidden, specs + i, offsets + i, ids, share + i,
                          err));
        hidden.data = (float *)hidden.data + hidden.rows * hidden.stride;
    }
    KS_TRY(run->ops->sync(run->dev, err));
done:
    return st;
}

/* ------------------------------------------------------------------ entropy */

/* log(sum of e^z) - sum of p z, with z below the highest logit: no term is
 * negative. NaN where a logit is not finite. */
static double entropy_of(const float *logits, int64_t n, float softcap) {
    double top = -INFINITY, sum = 0, weighted = 0;
    for (int64_t j = 0; j < n; j++) {
        if (!isfinite(logits[j])) return NAN;
        if ((double)logits[j] > top) top = (double)logits[j];
    }
    double cap = (double)softcap;
    if (cap > 0) top = cap * tanh(top / cap);
    for (int64_t j = 0; j < n; j++) {
        double z = (double)logits[j];
        if (cap > 0) z = cap * tanh(z / cap);
        double depth = top - z, e = exp(-depth);
        sum += e;
        weighted += e * depth;
    }
    return log(sum) + weighted / sum;
}

ks_status ks_run_entropy(ks_run *run, ks_view hidden, float *entropy,
                         ks_err *err) {
    ks_status st = KS_OK;
    const struct ks_ops *ops = run->ops;
    int64_t n = run->config->n_vocab, bad = 0;
    size_t some = (size_t)KS_MIN(hidden.rows, KS_DRAW_ROWS);
    size_t size = some * (size_t)n * sizeof(float);
    ks_buf buffer = {0};
    float *logits = NULL;
    if (hidden.rows == 0) return KS_OK;
    KS_TRY(check_rows(run, hidden, err));
    KS_TRY(ops->alloc(run->dev, &buffer, size, "logits of a few rows", err));
    if (!ops->unified) KS_TRY(ks_alloc(&logits, size, 1, "logits", err));
    for (int64_t first = 0; first < hidden.rows; first += KS_DRAW_ROWS) {
        int64_t rows = KS_MIN(KS_DRAW_ROWS, hidden.rows - first);
        ks_view in = hidden, out = {buffer.data, rows, n, n, KS_F32};
        const float *at = logits ? logits : buffer.data;
        in.rows = rows;
        in.data = (float *)hidden.data + first * hidden.stride;
        KS_TRY(
            ops->gemm(run->dev, out, in, run->weights->head, NULL, false, err));
        if (logits)
            KS_TRY(ops->copy(run->dev, logits, buffer.data,
                             (size_t)(rows * n) * sizeof *logits, err));
        KS_TRY(ops->sync(run->dev, err));
#pragma omp parallel for schedule(static) reduction(+ : bad)                   \
    num_threads(ks_dev_threads(run->dev))
        for (int64_t i = 0; i < rows; i++) {
            double h = entropy_of(at + i * n, n, run->config->final_softcap);
            entropy[first + i] = (float)h;
            bad += isnan(h);
        }
    }
    KS_CHECK(!bad, KS_NUMERIC, "logits that are not finite");
done:
    free(logits);
    ops->free(run->dev, &buffer);
    return st;
}
