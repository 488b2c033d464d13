/* plan.h - the stages of an experiment: which commands are to be run on what,
 * in which order, and the key of each. All of it is known before anything runs.
 */
#ifndef KS_EXPERIMENT_PLAN_H
#define KS_EXPERIMENT_PLAN_H

#include "experiment.h"
#include "files.h"

enum { KS_EXP_ID = 32 };

/* A file that a stage reads. */
typedef struct ks_exp_input {
    char *role;      /* "chains", "acts", "baseline no context" */
    int stage;       /* which one makes it; -1: it is given */
    char *name;      /* in the maker's folder; of what is given the path,
                        absolute */
    char sha256[65]; /* of what is given */
    bool there;      /* of what is given */
} ks_exp_input;

/* A word of a command line: as it is, or a name in the folder that outputs go
 * to. Paths are relative to the run's folder, or absolute. */
typedef struct ks_exp_word {
    char *text;
    bool output;
} ks_exp_word;

typedef struct ks_exp_stage {
    const ks_section *section;
    char key[65];       /* SHA-256, hex */
    char id[KS_EXP_ID]; /* "capture-3f2a9c10b2", its folder below stages/ */
    char *what;         /* of which baseline or probe; "": the main one */
    char *cells;        /* the names of those that it serves */
    json_t *settings;   /* option -> canonical value, what decides the output */
    ks_exp_input *inputs;
    size_t n_inputs, inputs_capacity;
    ks_exp_word *words; /* without what is added at each start: --resume,
                           --force, --shard, the machine's */
    size_t n_words, words_capacity;
    const char *const *outputs; /* names in its folder; NULL at the end */
    ks_doc doc;                 /* its section, for lines in errors */
    const ks_doc *machine;      /* the experiment's section, or NULL */
    bool shards;                /* may be dealt out (keystep join, cells) */
} ks_exp_stage;

typedef struct ks_exp_made { /* a probe stage of a cell */
    char *name;              /* "" or the probe section's name */
    int stage;
} ks_exp_made;

typedef struct ks_exp_cell_plan {
    const ks_exp_cell *cell;
    int *stages; /* all that it takes, in order */
    size_t n_stages, stages_capacity;
    ks_exp_made *probes;
    size_t n_probes, probes_capacity;
} ks_exp_cell_plan;

typedef struct ks_exp_plan {
    const ks_exp *exp;
    ks_exp_stage *stages; /* a stage stands behind those it takes from */
    size_t n_stages, stages_capacity;
    ks_exp_cell_plan *cells; /* [exp->n_cells] */
    int transfer, report;    /* stages; -1: none */
} ks_exp_plan;

/* Hashes what is given. exp stays the caller's and must outlive the plan. left:
 * told of an optional baseline whose file is not there; may be NULL. */
typedef void (*ks_exp_left_fn)(void *user, const char *sentence);
ks_status ks_exp_plan_open(ks_exp_plan *p, const ks_exp *exp,
                           ks_exp_files *files, ks_exp_left_fn left, void *user,
                           ks_err *err);
void ks_exp_plan_close(ks_exp_plan *p);

/* The stage whose key, or id, this is or begins with; -1: none, or several. */
int ks_exp_plan_find(const ks_exp_plan *p, const char *key);

/* reads.c: everything that the stage's settings read is among what the stages
 * that it takes from are set to make. KS_USAGE names both lines. */
ks_status ks_exp_check_reads(const ks_exp_plan *p, int stage, ks_err *err);

/* plan_stages.c: one stage in the making. */
typedef struct ks__exp_draft {
    ks_exp_plan *plan;
    const ks_exp *exp;
    ks_exp_files *files;
    ks_exp_cell_plan *cell; /* NULL: of all cells */
    ks_exp_stage stage;
} ks__exp_draft;

/* Where a file comes from; name NULL: from nowhere. */
typedef struct ks__exp_source {
    int stage;
    const char *name;
} ks__exp_source;

ks_status ks__exp_begin(ks__exp_draft *d, const char *command,
                        const ks_doc *section, const char *what, ks_err *err);
ks_status ks__exp_word(ks__exp_draft *d, const char *text, ks_err *err);
ks_status ks__exp_output(ks__exp_draft *d, const char *option, const char *name,
                         ks_err *err);
/* "--OPTION PATH"; nothing without a source. */
ks_status ks__exp_take(ks__exp_draft *d, const char *option,
                       ks__exp_source from, ks_err *err);
/* The path alone, for words made of several things. */
ks_status ks__exp_input(ks__exp_draft *d, const char *role, ks__exp_source from,
                        ks_str *path, ks_err *err);
/* A failure of a given file (st) names the line that gives it; at NULL: no line
 * does. */
ks_status ks__exp_place(const ks_doc *at, ks_status st, ks_err *err);
/* Options of the section, and the experiment's tokenizer and template. */
ks_status ks__exp_settings(ks__exp_draft *d, ks_err *err);
ks_status ks__exp_setting(ks__exp_draft *d, const char *name, json_t *value,
                          ks_err *err);
/* The stage is the plan's now, or one that is the same; *index is its place.
 * Frees what the draft holds, also on failure. */
ks_status ks__exp_end(ks__exp_draft *d, const char *const *outputs, int *index,
                      ks_err *err);
void ks__exp_drop(ks__exp_draft *d);

#endif
