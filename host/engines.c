/* engines.c - engines of one model on the devices of a list. */
#include "engines.h"

#include <stdlib.h>
#include <string.h>

static ks_status add_name(ks_engines *engines, const char *name, size_t n,
                          ks_err *err) {
    engines->names[engines->n] = strndup(name, n);
    if (!engines->names[engines->n++])
        return ks_fail(err, KS_NOMEM, "no memory for a backend's name");
    return KS_OK;
}

/* Every device of a backend that has several: "cuda" is "cuda:0", ... */
static ks_status list_devices(ks_engines *engines, const char *backend, int n,
                              ks_err *err) {
    ks_status st = KS_OK;
    char name[64];
    KS_TRY(
        ks_alloc(&engines->names, (size_t)n, sizeof(char *), "backends", err));
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "%s:%d", backend, i);
        KS_TRY(add_name(engines, name, strlen(name), err));
    }
done:
    return st;
}

/* "cuda:0,cuda:1" taken apart. */
static ks_status list_names(ks_engines *engines, const char *list,
                            ks_err *err) {
    ks_status st = KS_OK;
    int n_devices = 0;
    size_t n = 1;
    if (!list) list = "cpu";
    if (!strpbrk(list, ",:")) {
        KS_TRY(ks_dev_count(list, &n_devices, err));
        if (n_devices > 1) return list_devices(engines, list, n_devices, err);
    }
    for (const char *c = list; *c; c++) n += *c == ',';
    KS_TRY(ks_alloc(&engines->names, n, sizeof(char *), "backends", err));
    for (const char *at = list; at; at = strchr(at, ',')) {
        at += *at == ',';
        KS_TRY(add_name(engines, at, strcspn(at, ","), err));
    }
done:
    return st;
}

ks_status ks_engines_open(ks_engines *engines, const char *model,
                          const ks_engine_options *options, ks_err *err) {
    ks_status st = KS_OK;
    ks_engine_options first = *options;
    KS_TRY(list_names(engines, options->backend, err));
    KS_TRY(ks_alloc(&engines->at, (size_t)engines->n, sizeof(ks_engine *),
                    "engines", err));
    first.backend = engines->names[0];
    KS_TRY(ks_engine_open(&engines->at[0], model, &first, err));
    const char *isa = engines->at[0]->ops->isa;
    for (int32_t i = 1; i < engines->n; i++) {
        KS_TRY(ks_engine_share(&engines->at[i], engines->at[0],
                               engines->names[i], err));
        KS_CHECK(strcmp(engines->at[i]->ops->isa, isa) == 0, KS_USAGE,
                 "%s is %s and %s is %s, whose bits differ: one file takes "
                 "devices of one kind",
                 engines->names[0], isa, engines->names[i],
                 engines->at[i]->ops->isa);
    }
    KS_TRY(engines->at[0]->ops->enter(engines->at[0]->dev, err));
done:
    return st;
}

void ks_engines_close(ks_engines *engines) {
    for (int32_t i = engines->n; engines->at && i-- > 0;)
        ks_engine_close(&engines->at[i]);
    for (int32_t i = 0; i < engines->n; i++) free(engines->names[i]);
    free(engines->at);
    free(engines->names);
    *engines = (ks_engines){0};
}
