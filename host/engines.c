/* engines.c - engines of one model on the devices of a list. */
#include "engines.h"

#include <stdlib.h>
#include <string.h>

static ks_status add_name(ks_engines *e, const char *name, size_t n,
                          ks_err *err) {
    e->names[e->n] = strndup(name, n);
    if (!e->names[e->n++])
        return ks_fail(err, KS_NOMEM, "no memory for a backend's name");
    return KS_OK;
}

/* Every device of a backend that has several: "cuda" is "cuda:0", ... */
static ks_status list_devices(ks_engines *e, const char *backend, int n,
                              ks_err *err) {
    ks_status st = KS_OK;
    char name[64];
    KS_TRY(ks_alloc(&e->names, (size_t)n, sizeof(char *), "backends", err));
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "%s:%d", backend, i);
        KS_TRY(add_name(e, name, strlen(name), err));
    }
done:
    return st;
}

/* "cuda:0,cuda:1" taken apart. */
static ks_status list_names(ks_engines *e, const char *list, ks_err *err) {
    ks_status st = KS_OK;
    int n_devices = 0;
    size_t n = 1;
    if (!list) list = "cpu";
    if (!strpbrk(list, ",:")) {
        KS_TRY(ks_dev_count(list, &n_devices, err));
        if (n_devices > 1) return list_devices(e, list, n_devices, err);
    }
    for (const char *c = list; *c; c++) n += *c == ',';
    KS_TRY(ks_alloc(&e->names, n, sizeof(char *), "backends", err));
    for (const char *at = list; at; at = strchr(at, ',')) {
        at += *at == ',';
        KS_TRY(add_name(e, at, strcspn(at, ","), err));
    }
done:
    return st;
}

ks_status ks_engines_open(ks_engines *e, const char *model,
                          const ks_engine_options *options, ks_err *err) {
    ks_status st = KS_OK;
    ks_engine_options first = *options;
    KS_TRY(list_names(e, options->backend, err));
    KS_TRY(ks_alloc(&e->at, (size_t)e->n, sizeof(ks_engine *), "engines", err));
    first.backend = e->names[0];
    KS_TRY(ks_engine_open(&e->at[0], model, &first, err));
    const char *isa = e->at[0]->ops->isa;
    for (int32_t i = 1; i < e->n; i++) {
        KS_TRY(ks_engine_share(&e->at[i], e->at[0], e->names[i], err));
        KS_CHECK(strcmp(e->at[i]->ops->isa, isa) == 0, KS_USAGE,
                 "%s is %s and %s is %s, whose bits differ: one file takes "
                 "devices of one kind",
                 e->names[0], isa, e->names[i], e->at[i]->ops->isa);
    }
    KS_TRY(e->at[0]->ops->enter(e->at[0]->dev, err));
done:
    return st;
}

void ks_engines_close(ks_engines *e) {
    for (int32_t i = e->n; e->at && i-- > 0;) ks_engine_close(&e->at[i]);
    for (int32_t i = 0; i < e->n; i++) free(e->names[i]);
    free(e->at);
    free(e->names);
    *e = (ks_engines){0};
}
