/* experiment.h - experiment.yaml, read and checked: what is to be done, for
 * each cell of its grid (docs/experiments.md). */
#ifndef KS_EXPERIMENT_EXPERIMENT_H
#define KS_EXPERIMENT_EXPERIMENT_H

#include "sections.h"

/* One point of `matrix`: the settings as they are there. */
typedef struct ks_exp_cell {
    char *name;    /* "demo-a, context none"; the experiment's without matrix */
    json_t *point; /* axis -> value, in the order of the axes */
    ks_doc root;
} ks_exp_cell;

typedef struct ks_exp {
    const ks_section *sections; /* borrowed */
    char *file;                 /* as given: it leads errors */
    char *folder; /* absolute: relative paths in it are relative to this */
    char *text;   /* the file's bytes */
    size_t length;
    char **sets;      /* "capture.streams=[attn]", as given */
    char **set_names; /* "--set capture.streams" */
    size_t n_sets;
    ks_doc root;              /* with sets, matrix and all */
    const char *name, *about; /* about: "" when it is not given */
    ks_exp_cell *cells;
    size_t n_cells;
} ks_exp;

/* folder NULL: that of the file. sections are borrowed. Everything is checked
 * but what only the commands know of their options. KS_USAGE and KS_FORMAT name
 * file, line and key. */
ks_status ks_exp_open(ks_exp *e, const ks_section *sections, const char *file,
                      const char *folder, const char *const *sets,
                      size_t n_sets, ks_err *err);
void ks_exp_close(ks_exp *e);

/* A path of the file as an absolute one; *out is the caller's. */
ks_status ks_exp_path(const ks_exp *e, const char *path, char **out,
                      ks_err *err);

/* The text at a key of a mapping; NULL: not given. */
const char *ks_exp_text(const ks_doc *map, const char *key);
/* The whole number at launch.KEY, or `usual`. */
int64_t ks_exp_launch(const ks_exp *e, const char *key, int64_t usual);
/* Probe sections of a cell: a mapping is one. NULL beyond the last. */
const ks_doc *ks_exp_probe(const ks_exp_cell *cell, size_t i);

/* experiment_check.c */
ks_status ks__exp_check_cell(const ks_exp *e, const ks_exp_cell *cell,
                             ks_err *err);
/* A name that goes into files, folders and NAME=FILE. what: "name". */
ks_status ks__exp_check_name(const ks_doc *at, const char *name,
                             const char *what, ks_err *err);

#endif
