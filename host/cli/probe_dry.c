/* probe_dry.c - see probe_dry.h. */
#include "probe_dry.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "../../probes/evaluation_cost.h"
#include "cli.h"

/* At the peak: what the process holds once all is open and its libraries have
 * worked, and what the parts of a run take beside that. */
typedef struct memory {
    uint64_t held, all;
} memory;

static memory measure(const ks_evaluation_cost *cost, size_t start) {
    memory m = {0};
    if (!cost->most_bytes) return m;
    malloc_trim(0); /* of the layers that were fitted */
    uint64_t own = ks_process_bytes();
    m.held = ks_cli_resident_now().now;
    m.held -= KS_MIN(m.held, own > start ? own - start : 0);
    m.all = m.held + cost->most_bytes;
    return m;
}

/* ------------------------------------------------------------------- people */

static void print_analyses(uint32_t which) {
    const char *comma = "";
    printf("%-10s ", "analyses");
    for (int i = 0; i < KS_N_ANALYSES; i++) {
        if (!(which >> i & 1)) continue;
        printf("%s%s", comma, ks_analysis_name((ks_analysis)i));
        comma = ", ";
    }
    puts(which ? "" : "none");
}

static void print_besides(const ks_evaluation_cost *c,
                          const ks_evaluation_options *o) {
    if (c->n_rivals)
        printf("%-10s %lld cells, %lld fits\n", "beside",
               (long long)c->rival_cells, (long long)c->rival_fits);
    if (c->baselines) printf("%-10s %d\n", "baselines", c->baselines);
    if (c->kind_fits)
        printf("%-10s %lld fits of probes that AdamW trains\n", "trained",
               (long long)c->kind_fits);
    if (c->refined_layers)
        printf("%-10s %lld layers of refined probes\n", "refined",
               (long long)c->refined_layers);
    if (!o->cells.of) print_analyses(o->analyses);
    if (c->stored && o->cells.of)
        printf("%-10s %lld, share %d/%d has %lld of them, %lld are there\n",
               "stored", (long long)c->counts.all, o->cells.shard, o->cells.of,
               (long long)c->counts.share, (long long)c->counts.there);
    else if (c->stored)
        printf("%-10s %lld of %lld cells are there\n", "stored",
               (long long)c->counts.there, (long long)c->counts.all);
}

static void print_memory(const ks_evaluation_cost *c, const memory *m) {
    char bytes[32];
    if (!m->all) return;
    ks_cli_bytes(bytes, m->all);
    printf("%-10s %s at the peak, of %s; --memory %lluM is enough\n", "memory",
           bytes, c->most_of, (unsigned long long)(c->least_bytes >> 20) + 2);
}

static void print_time(const ks_evaluation_cost *c) {
    printf("%-10s about %s for %lld cells", "time",
           ks_cli_time_of(c->seconds).text, (long long)c->left);
    if (c->later_fits)
        printf(" and %lld fits behind them", (long long)c->later_fits);
    if (c->measured)
        printf("; %d cell%s took %.2f s", c->measured, ks_plural(c->measured),
               c->measured_seconds);
    putchar('\n');
    if (c->without[0]) printf("%-10s not in it: %s\n", "", c->without);
}

static void print_cost(const ks_evaluation_cost *c, const memory *m,
                       const ks_evaluation_options *o) {
    char bytes[32];
    printf("%-10s %lld steps of %d chains and %d problems\n", "rows",
           (long long)c->rows, c->chains, c->problems);
    printf("%-10s %lld, of %d stream x position and up to %d layers\n", "cells",
           (long long)c->cells, c->series, c->most_layers);
    printf("%-10s %lld\n", "fits", (long long)c->fits);
    print_besides(c, o);
    ks_cli_bytes(bytes, c->read_bytes);
    printf("%-10s %s of activations\n", "reads", bytes);
    print_memory(c, m);
    print_time(c);
}

/* --------------------------------------------------------------------- JSON */

static void print_json(const ks_evaluation_cost *c, const memory *m,
                       const ks_evaluation_options *o) {
    json_t *analyses = json_array();
    for (int i = 0; i < KS_N_ANALYSES && !o->cells.of; i++)
        if (o->analyses >> i & 1)
            json_array_append_new(
                analyses, json_string(ks_analysis_name((ks_analysis)i)));
    json_t *object = json_pack(
        "{s:I,s:i,s:i,s:I,s:I,s:i,s:I,s:I,s:I,s:i,s:I,s:I,s:I,s:i,s:o,s:I}",
        "rows", (json_int_t)c->rows, "chains", (int)c->chains, "problems",
        (int)c->problems, "unlabelled", (json_int_t)c->unlabelled, "invalid",
        (json_int_t)c->invalid, "series", (int)c->series, "cells",
        (json_int_t)c->cells, "fits", (json_int_t)c->fits, "cells_left",
        (json_int_t)c->left, "rivals", (int)c->n_rivals, "rival_fits",
        (json_int_t)c->rival_fits, "later_fits", (json_int_t)c->later_fits,
        "trained_fits", (json_int_t)c->kind_fits, "baselines",
        (int)c->baselines, "analyses", analyses, "refined_layers",
        (json_int_t)c->refined_layers);
    json_t *more =
        json_pack("{s:I,s:i,s:f,s:f,s:s}", "read_bytes",
                  (json_int_t)c->read_bytes, "measured_cells", (int)c->measured,
                  "measured_seconds", c->measured_seconds, "seconds",
                  c->seconds, "seconds_without", c->without);
    json_object_update(object, more);
    json_decref(more);
    if (m->all) {
        json_object_set_new(object, "memory_bytes",
                            json_integer((json_int_t)m->all));
        json_object_set_new(object, "least_memory_bytes",
                            json_integer((json_int_t)c->least_bytes));
    }
    if (c->stored) {
        json_object_set_new(object, "stored",
                            json_integer((json_int_t)c->counts.all));
        json_object_set_new(object, "stored_there",
                            json_integer((json_int_t)c->counts.there));
    }
    ks_cli_print_json(object);
}

ks_status ks_cli_probe_cost(const ks_evaluation_options *options, bool json,
                            ks_err *err) {
    ks_evaluation_cost cost;
    ks_status st = ks_evaluation_cost_of(&cost, options, err);
    if (st != KS_OK) return st;
    memory m = measure(&cost, options->grid.room.start);
    if (json)
        print_json(&cost, &m, options);
    else
        print_cost(&cost, &m, options);
    return KS_OK;
}
