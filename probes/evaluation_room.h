/* evaluation_room.h - whether --memory is enough for all that an evaluation was
 * asked for, found out ahead of it. Internal. */
#ifndef KS_EVALUATION_ROOM_H
#define KS_EVALUATION_ROOM_H

#include "evaluation.h"

/* KS_LIMIT where a part behind the grid needs more than what the limit leaves
 * it beside all that stays of the parts before: which needs most; how much at
 * least, which is enough for the others and the grid too; and which options
 * lower it. TF-IDF, whose size is found by counting, speaks after them. The
 * data set, folds and rivals are open; grid: options of the grid. Bytes of the
 * least part on the host; what is found here holds for every part, so that none
 * asks again. share: of a share of cells, which are not kept and have nothing
 * behind them. */
ks_status ks__evaluation_room(const ks_evaluation *evaluation,
                              const ks_grid_options *grid, bool share,
                              ks_err *err);

/* The same count of a run that may go ahead, beyond grid->room.start. It takes
 * as long as counting n-grams, where there are text baselines. */
typedef struct ks_evaluation_needs {
    size_t least;     /* a room.limit that is enough */
    size_t most;      /* at the peak, as the limit lets it go about it */
    const char *what; /* the part that takes that */
} ks_evaluation_needs;
ks_status ks__evaluation_needs(ks_evaluation_needs *out,
                               const ks_evaluation *evaluation,
                               const ks_grid_options *grid, bool share,
                               ks_err *err);

#endif
