/* calibration.h - whether sigmoid(score) is the share of important steps. */
#ifndef KS_CALIBRATION_H
#define KS_CALIBRATION_H

#include "stats.h"

enum { KS_CALIBRATION_BINS = 10 };

typedef struct ks_calibration_bin {
    int64_t n;
    double predicted;     /* mean of sigmoid(score) */
    ks_interval observed; /* share of important steps; bootstrap over problems,
                             the bin's bounds as they are */
} ks_calibration_bin;

typedef struct ks_calibration {
    int32_t n_bins;
    ks_calibration_bin bin[KS_CALIBRATION_BINS];
    ks_interval error; /* expected calibration error: mean over rows of
                          |observed - predicted| of their bin */
} ks_calibration;

/* Bins of as equal a number of rows as can be by ascending score; equal scores
 * stay together, so there may be fewer. */
ks_status ks_calibrate(const ks_scored *rows, int32_t replicates, uint64_t seed,
                       ks_calibration *out, ks_err *err);

#endif
