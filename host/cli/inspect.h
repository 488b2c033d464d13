/* inspect.h - what describes each kind of file for cmd_inspect.c: every
 * function checks the file and adds what it found to o. */
#ifndef KS_CLI_INSPECT_H
#define KS_CLI_INSPECT_H

#include "../base.h"

/* Steals value; false when out of memory, or value already was NULL. */
static inline bool ks__put(json_t *object, const char *key, json_t *value) {
    return json_object_set_new(object, key, value) == 0;
}

/* One more of the name; NULL counts nowhere. */
static inline void ks__count(json_t *names, const char *name) {
    if (!name) return;
    json_int_t so_far = json_integer_value(json_object_get(names, name));
    json_object_set_new(names, name, json_integer(so_far + 1));
}

/* Text of a file from outside, which may be no UTF-8. */
static inline json_t *ks__text(const char *text) {
    json_t *value = json_string(text);
    return value ? value : json_string("(not UTF-8)");
}

/* inspect_model.c; tensors: list every one */
ks_status ks__inspect_model(const char *path, bool tensors, json_t *o,
                            ks_err *err);
ks_status ks__inspect_tokenizer(const char *path, json_t *o, ks_err *err);

/* inspect_acts.c: finished, interrupted, or the journal of an interrupted one
 */
ks_status ks__inspect_acts(const char *path, json_t *o, ks_err *err);
ks_status ks__inspect_part(const char *path, json_t *o, ks_err *err);
ks_status ks__inspect_journal(const char *path, json_t *o, ks_err *err);

/* inspect_lines.c: problems, chains, labels; chains of an interrupted
 * generate, whose last line may be torn */
ks_status ks__inspect_lines(const char *path, json_t *o, ks_err *err);

/* inspect_probes.c: what keystep probe writes. The summary is parsed already.
 */
ks_status ks__inspect_probes(const char *path, json_t *o, ks_err *err);
ks_status ks__inspect_metrics(const char *path, json_t *o, ks_err *err);
ks_status ks__inspect_summary(const char *path, json_t *summary, json_t *o,
                              ks_err *err);

/* run_figures.c: the folder of an experiment's run */
ks_status ks__inspect_run(const char *folder, json_t *o, ks_err *err);

/* inspect_devices.c: no file, but what this build can compute on */
ks_status ks__inspect_devices(json_t *o, ks_err *err);

#endif
