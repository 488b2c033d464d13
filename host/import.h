/* import.h - other tools' JSON Lines as chains. What stands in a line and what
 * becomes of it is described in docs/formats.md. */
#ifndef KS_IMPORT_H
#define KS_IMPORT_H

#include "chains.h"
#include "prompt.h"

typedef enum ks_import_from {
    KS_IMPORT_AUTO, /* each line by its fields */
    KS_IMPORT_TEXT, /* prompt or question, and an output */
    KS_IMPORT_MESSAGES,
    KS_IMPORT_GSM8K,
    KS_N_IMPORTS
} ks_import_from;

/* "auto", "text", ...; NULL beyond the list */
const char *ks_import_name(ks_import_from from);

typedef struct ks_import_options {
    ks_import_from from;
    const ks_prompt *prompt;     /* renders questions and messages */
    ks_template which;           /* marks of outputs; AUTO: those in the text */
    const ks_problems *problems; /* for what lines lack; NULL: none */
    /* fields of ids, questions and right answers; NULL: the usual ones */
    const char *id_field, *question_field, *answer_field;
    bool whole_ids;     /* "a/3" is a problem's id, not sample 3 of "a" */
    bool with_problems; /* lines without a question are wrong then */
    /* NULL: a bad line ends the import; else it is told and counted */
    void (*skipped)(const ks_err *why);
} ks_import_options;

typedef struct ks_imported {
    ks_str chains;   /* JSON Lines */
    ks_str problems; /* of all chains with a question, each once */
    size_t n, n_problems, skipped;
    size_t unfinished; /* cut off, or their thinking was never closed */
    size_t judged, correct;
    size_t unanswered; /* no answer found in the output */
    size_t empty;      /* no step */
    size_t steps;
    size_t twins; /* chains whose question another problem has too */
} ks_imported;

/* path "-": stdin. KS_FORMAT naming file, line and reason; also when there is
 * no line at all. Frees nothing of *out on failure: ks_imported_free does. */
ks_status ks_import(ks_imported *out, const char *path,
                    const ks_import_options *options, ks_err *err);
void ks_imported_free(ks_imported *imported);

/* ---------------------------------------------------------------- a line's
 * text, import_line.c */

typedef struct ks__draft {
    const ks_import_options *options;
    const char *where;       /* "file line 3" */
    json_t *line;            /* a copy of the input's */
    const ks_problem *known; /* of --problems, or NULL */
    ks_str question;         /* data NULL: none */
    ks_str gold;             /* data NULL: none */
    ks_str whole;            /* prompt, thinking, rest */
    ks_span text;            /* the thinking in it */
    size_t output;           /* where what is judged begins */
    ks_spans steps;          /* in text */
    bool opened;             /* a mark stands right ahead of the thinking */
    bool closed;             /* a mark ends the thinking */
    bool complete;           /* nobody can have cut it off */
} ks__draft;

/* Fills the draft from its line and takes the fields that it used up out of
 * it. */
ks_status ks__import_line(ks__draft *draft, ks_err *err);
void ks__draft_free(ks__draft *draft);
/* A field's text, numbers written out; *found false: absent or null. */
ks_status ks__import_word(const json_t *line, const char *key,
                          const char *where, ks_str *out, bool *found,
                          ks_err *err);

#endif
