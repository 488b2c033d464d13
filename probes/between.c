/* between.c - checks of a chain's steps, and the memory left to measure them.
 */
#include "between.h"

ks_status ks__between_check(const ks_engine *engine, const char *what,
                            const int32_t *ids, int32_t n_tokens,
                            const int32_t *bounds, int32_t n, ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(n >= 2, KS_USAGE,
             "%s between %d steps: at least one step and the answer suffix are "
             "expected",
             what, n);
    KS_CHECK(bounds[0] >= 1, KS_USAGE,
             "the first step begins at token %d: at least one token is "
             "expected ahead of it",
             bounds[0]);
    for (int32_t k = 0; k < n; k++)
        KS_CHECK(bounds[k] <= bounds[k + 1], KS_USAGE,
                 "step %d has tokens %d to %d, its end ahead of its beginning",
                 k, bounds[k], bounds[k + 1]);
    KS_CHECK(bounds[n] <= n_tokens, KS_USAGE,
             "the last step ends at token %d of a chain of %d", bounds[n],
             n_tokens);
    ks_batch batch = {1, (int32_t[]){0, bounds[n]}, ids};
    KS_TRY(ks__engine_check(engine, &batch, NULL, err));
done:
    return st;
}

void ks__between_tokens(const int32_t *bounds, int32_t n, int64_t *pulled,
                        int64_t *behind) {
    *pulled = *behind = bounds[n];
    for (int32_t k = 1; k < n; k++) {
        *pulled += bounds[k + 1] - bounds[0];
        *behind += bounds[n] - bounds[k];
    }
}

size_t ks__between_room(const ks_engine *e) {
    if (!e->memory) return SIZE_MAX;
    size_t taken =
        e->run ? ks_run_bytes(e->ops, &e->model->config, &e->limits) : 0;
    return taken < e->memory ? e->memory - taken : 0;
}
