/* n_threads.h - how many threads a call that may be told a number has. */
#ifndef KS_N_THREADS_H
#define KS_N_THREADS_H

#include <omp.h>

/* asked 0: as many as OpenMP would take, all processors unless the environment
 * says otherwise. */
static inline int ks_threads(int asked) {
    return asked > 0 ? asked : omp_get_max_threads();
}

#endif
