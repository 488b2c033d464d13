/* run_reference.c - keystep run --reference: all keys of experiment.yaml, from
 * the commands' own tables; docs/experiments.md ends with it. */
#include <stdlib.h>
#include <string.h>

#include "run_common.h"

static void print_cell(const char *text) {
    for (; *text; text++) {
        if (*text == '|') putchar('\\');
        putchar(*text == '\n' ? ' ' : *text);
    }
}

static void print_row(const char *key, const char *value, const char *text) {
    printf("| `%s` | ", key);
    print_cell(value);
    fputs(" | ", stdout);
    print_cell(text);
    puts(" |");
}

static void print_head(const char *name, const char *text) {
    printf("\n### %s\n\n%s\n\n| key | value | |\n|---|---|---|\n", name, text);
}

static void print_option(const ks_section *section,
                         const struct argp_option *o) {
    ks_setting_kind kind = ks_setting_kind_of(o);
    const char *doc = o->doc ? o->doc : "";
    char *made = section->help ? section->help(o->key, doc, NULL) : NULL;
    const char *value = kind == KS_SETTING_CHOICE || kind == KS_SETTING_TEXT
                            ? o->arg
                            : ks_setting_expected(kind);
    print_row(o->name, value, made ? made : doc);
    if (made && made != doc) free(made);
}

static void print_section(const ks_section *section) {
    char text[128];
    const struct argp_option *o = section->options;
    snprintf(text, sizeof text, "Options of `keystep %s`.", section->name);
    print_head(section->name, text);
    if (strcmp(section->name, "import") == 0)
        print_row("file", "a path", "what is imported");
    if (strcmp(section->name, "probe") == 0) {
        print_row("name", "a text",
                  "of several probe sections; it stands in the report");
        print_row("baselines", "a list of names",
                  "of baselines to compare with (default: all; []: none)");
    }
    for (; o->name || o->key || o->doc || o->group; o++)
        if (o->name && ks_section_setting(section, o->name))
            print_option(section, o);
}

static void print_rows(const char *const (*rows)[3], size_t n) {
    for (size_t i = 0; i < n; i++)
        print_row(rows[i][0], rows[i][1], rows[i][2]);
}

static const char *const top[][3] = {
    {"name", "a text", "of the experiment; needed"},
    {"about", "a text", "one line; the report's title unless it has its own"},
    {"model", "a path, or a list",
     "GGUF, safetensors or folder; of several, each is a cell"},
    {"tokenizer", "a path", "for all commands that take it"},
    {"template", "NAME", "chat template, for all commands that take it"},
    {"problems", "a path", "given problems"},
    {"chains", "a path", "given chains"},
    {"labels", "a path", "given labels"},
    {"clean", "a path", "the clean chains that given labels index"},
    {"acts", "a path", "given activations"},
    {"labels-on", "clean|original",
     "original: labels of clean chains are laid on the chains that those were "
     "cut from, and these are captured (default: clean)"},
    {"SECTION", "a mapping of options", "see below; false leaves it out"}};

static const char *const baselines[][3] = {
    {"name", "a text", "as tables call it; needed"},
    {"capture", "a mapping of options",
     "other activations: those of the section capture but for what stands "
     "here"},
    {"score", "a mapping of options", "scores by keystep score"},
    {"acts", "a path", "given activations"},
    {"scores", "a path", "given scores"},
    {"field", "NAME", "with score or scores: which of them (default: all)"},
    {"optional", "true or false",
     "with acts or scores: left out, with a word, where the file is not "
     "there"}};

static const char *const machine[][3] = {
    {"backend", "cpu|cuda", "where to compute; cuda:0,cuda:1: which devices"},
    {"threads", "a whole number", "default: all it may use"},
    {"memory", "BYTES", "such as 2G"},
    {"batch-tokens", "a whole number", "most tokens of a packed batch"},
    {"COMMAND", "a mapping of these",
     "for this command alone; with several processes threads are at most "
     "these"}};

static const char *const launch[][3] = {
    {"ranks", "a whole number", "shards of a stage that can be dealt out"},
    {"retries", "a whole number", "how often a task that fails is tried again"},
    {"scratch", "a path", "folder on the node where outputs are made"},
    {"slurm", "a mapping", "options of sbatch"}};

int ks_cli_run_reference(void) {
    puts("## All keys\n\nAs `keystep run --reference` prints them.\n\n"
         "### Top level\n\n| key | value | |\n|---|---|---|");
    print_rows(top, KS_COUNT(top));
    for (const ks_section *s = ks_cli_sections; s->name; s++)
        if (strcmp(s->name, "score") != 0) print_section(s);
    print_head("baselines",
               "A list of mappings, each with one of `capture`, `score`, "
               "`acts`, `scores`. What `score` takes stands below.");
    print_rows(baselines, KS_COUNT(baselines));
    print_section(ks_section_find(ks_cli_sections, "score"));
    print_head("machine", "Where, not what: no part of a stage's key.");
    print_rows(machine, KS_COUNT(machine));
    print_head("launch", "For `keystep launch`; `run` reads `retries`.");
    print_rows(launch, KS_COUNT(launch));
    return KS_EXIT_DONE;
}
