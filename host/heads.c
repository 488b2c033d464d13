/* heads.c - log-probabilities and samples of a pass's hidden rows: arguments
 * go over to the backend, results come back. */
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
