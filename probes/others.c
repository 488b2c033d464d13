/* others.c - see others.h. */
#include "others.h"

#include <math.h>
#include <stdlib.h>

ks_status ks_others_add(ks_others *others, const ks_other *other,
                        const ks_dataset *dataset, const ks_grid *grid,
                        const ks_grid_options *options, ks_err *err) {
    ks_status st = KS_OK;
    ks_other mine = *other;
    ks_scored rows = ks_grid_scored(dataset, mine.score);
    const ks_series *best = ks_grid_find(grid, mine.stream, mine.position);
    mine.minus_best = (ks_interval){NAN, NAN, NAN};
    KS_TRY(ks_stats_bootstrap(&rows, options->bootstrap, options->seed,
                              mine.metrics, err));
    if (best)
        KS_TRY(ks_stats_balanced(&rows, best->score, options->bootstrap,
                                 options->seed, NULL, &mine.minus_best, err));
    KS_TRY(ks_grow(&others->at, &others->capacity, (size_t)others->n + 1,
                   sizeof *others->at, "probes", err));
    others->at[others->n++] = mine;
    mine.score = NULL;
done:
    free(mine.score);
    return st;
}

void ks_others_free(ks_others *others) {
    for (int32_t i = 0; i < others->n; i++) free(others->at[i].score);
    free(others->at);
    *others = (ks_others){0};
}
