/* sections.h - the sections of an experiment are the subcommands and their keys
 * the long options, read from each command's own table: an option that a
 * command gets can be set in an experiment the same day.
 */
#ifndef KS_EXPERIMENT_SECTIONS_H
#define KS_EXPERIMENT_SECTIONS_H

#include <argp.h>

#include "document.h"

/* A subcommand that an experiment may run; a list of them ends with a name
 * NULL. */
typedef struct ks_section {
    const char *name;
    const struct argp_option *options;
    /* argp's help_filter, which makes texts that the table lacks; or NULL */
    char *(*help)(int key, const char *text, void *user);
} ks_section;

typedef enum ks_setting_kind {
    KS_SETTING_TRUTH,
    KS_SETTING_WHOLE,
    KS_SETTING_NUMBER,
    KS_SETTING_CHOICE, /* arg has the words: "full|none" */
    KS_SETTING_LIST,
    KS_SETTING_TRUTH_OR_LIST, /* an option whose argument may be left out */
    KS_SETTING_PATH,
    KS_SETTING_TEXT
} ks_setting_kind;

/* What is said of the kind in errors and in the reference: "a whole number". */
const char *ks_setting_expected(ks_setting_kind kind);

const ks_section *ks_section_find(const ks_section *sections, const char *name);
/* Does the command have the option, whoever sets it? */
bool ks_section_has(const ks_section *section, const char *option);
/* The option that a key means; NULL: none, or one that is not the user's to
 * set here. */
const struct argp_option *ks_section_setting(const ks_section *section,
                                             const char *key);
ks_setting_kind ks_setting_kind_of(const struct argp_option *option);

/* Every member of map is an option of the section, or one of `more` (ends with
 * NULL; may be NULL), and of its type. path ("baselines.no context.capture")
 * leads the key in errors. */
ks_status ks_section_check(const ks_section *section, const ks_doc *map,
                           const char *path, const char *const *more,
                           ks_err *err);

/* A checked value as the option's argument ("mean,first"); *given false: a
 * truth that is off. */
ks_status ks_setting_argument(const ks_doc *value, ks_setting_kind kind,
                              ks_str *out, bool *given, ks_err *err);
/* What stands for it in a key: one form for what means the same. NULL: out of
 * memory. */
json_t *ks_setting_canonical(const ks_doc *value, ks_setting_kind kind);

/* The name among n that a misspelt word may have meant; NULL: none is near. */
const char *ks_nearest(const char *word, const char *const *names, size_t n);
/* KS_USAGE: "PLACE: PATH.KEY is no key here; did you mean NAME?" */
ks_status ks_unknown_key(const ks_doc *item, const char *path,
                         const char *const *names, size_t n, ks_err *err);

#endif
