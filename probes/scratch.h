/* scratch.h - a file of rows that do not fit in --memory. No name leads to it,
 * so that nothing stays of it whatever happens. Internal. */
#ifndef KS_SCRATCH_H
#define KS_SCRATCH_H

#include "base.h"

/* A file in the folder, to be closed by close(). All its space is taken now, so
 * that a full disk is told before the work. */
ks_status ks__scratch_open(int *fd, const char *folder, int64_t bytes,
                           ks_err *err);
ks_status ks__scratch_write(int fd, const void *from, size_t size, int64_t at,
                            ks_err *err);
ks_status ks__scratch_read(int fd, void *to, size_t size, int64_t at,
                           ks_err *err);

#endif
