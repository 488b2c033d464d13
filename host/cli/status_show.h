/* status_show.h - how far a run is, as a table, lines or JSON. */
#ifndef KS_STATUS_SHOW_H
#define KS_STATUS_SHOW_H

#include "../experiment/watch.h"

/* "demo: 3 of 7 stages done, 1 running, 3 waiting; at least 0:40 left" */
ks_status ks_status_summary(const ks_watch *watch, ks_str *out, ks_err *err);
/* The summary, then a row for every stage and for every shard of those that are
 * not done. width: columns of the terminal, 0: as long as it gets. */
ks_status ks_status_table(const ks_watch *watch, int width, ks_str *out,
                          ks_err *err);
/* A line for each task whose state was another before (NULL: that is not done
 * or waiting). */
ks_status ks_status_changes(const ks_watch *watch, const ks_watch *before,
                            ks_str *out, ks_err *err);
/* NULL: out of memory. */
json_t *ks_status_json(const ks_watch *watch);

#endif
