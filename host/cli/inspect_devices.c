/* inspect_devices.c - what this build can compute on here, or why not. */
#include <string.h>

#include "../ops.h"
#include "inspect.h"

/* "avx2 v2" as a list. */
static json_t *words(char *text) {
    json_t *list = json_array();
    char *at = NULL;
    for (char *w = strtok_r(text, " ", &at); w; w = strtok_r(NULL, " ", &at))
        json_array_append_new(list, json_string(w));
    return list;
}

/* 13000 as "13.0" */
static json_t *version(int number) {
    return json_sprintf("%d.%d", number / 1000, number % 1000 / 10);
}

static ks_status cpu(json_t *o, ks_err *err) {
    ks_dev_facts facts;
    ks_status st = ks_dev_describe("cpu", &facts, err);
    if (st != KS_OK) return st;
    ks__put(o, "name", ks__text(facts.name));
    ks__put(o, "threads", json_integer(facts.threads));
    ks__put(o, "instruction_sets", words(facts.isa));
    return KS_OK;
}

static ks_status device(int i, json_t *list, ks_err *err) {
    char backend[32];
    ks_dev_facts facts;
    snprintf(backend, sizeof backend, "cuda:%d", i);
    ks_status st = ks_dev_describe(backend, &facts, err);
    if (st != KS_OK) return st;
    json_t *o = json_object();
    ks__put(o, "backend", json_string(backend));
    ks__put(o, "name", ks__text(facts.name));
    ks__put(o, "instruction_set", json_string(facts.isa));
    ks__put(o, "multiprocessors", json_integer(facts.multiprocessors));
    ks__put(o, "memory", json_integer((json_int_t)facts.memory));
    ks__put(o, "free", json_integer((json_int_t)facts.unused));
    ks__put(o, "driver_cuda", version(facts.driver));
    ks__put(o, "runtime_cuda", version(facts.runtime));
    json_array_append_new(list, o);
    return KS_OK;
}

/* No device is an answer, not a failure. */
static void cuda(json_t *o) {
    int n = 0;
    ks_err why = {0};
    json_t *list = json_array();
    ks_status st = ks_dev_count("cuda", &n, &why);
    for (int i = 0; st == KS_OK && i < n; i++) st = device(i, list, &why);
    ks__put(o, "devices", list);
    if (st != KS_OK) ks__put(o, "why", ks__text(why.text));
}

ks_status ks__inspect_devices(json_t *o, ks_err *err) {
    json_t *names = json_array(), *part = json_object();
    for (int i = 0; ks_backend_name(i); i++)
        json_array_append_new(names, json_string(ks_backend_name(i)));
    ks__put(o, "kind", json_string("devices"));
    ks__put(o, "backends", names);
    ks__put(o, "cpu", part);
    ks_status st = cpu(part, err);
    part = json_object();
    ks__put(o, "cuda", part);
    cuda(part);
    return st;
}
