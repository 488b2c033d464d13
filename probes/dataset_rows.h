/* dataset_rows.h - how a data set takes its rows. Internal. */
#ifndef KS_DATASET_ROWS_H
#define KS_DATASET_ROWS_H

#include "dataset.h"

/* Room for all steps of the file. */
ks_status ks__dataset_alloc_rows(ks_dataset *d, ks_err *err);
/* Adds a step; y: 1, 0, or -1 for one without a label. */
void ks__dataset_take_row(ks_dataset *d, int64_t row, int8_t y);
/* Numbers problems in the order of their first row. */
ks_status ks__dataset_number_groups(ks_dataset *d, ks_err *err);

#endif
