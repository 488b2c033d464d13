/* run_explain.c - a plan held against the commands' own parsers, and shown. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "run_common.h"

/* ------------------------------------------------------------ a short child */

typedef struct said {
    ks_str out, err;
    int code; /* -1: ended by a signal */
} said;

static void said_free(said *s) {
    ks_str_free(&s->out);
    ks_str_free(&s->err);
}

static ks_status read_all(FILE *file, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    char piece[4096];
    size_t n;
    rewind(file);
    KS_TRY(ks_str_add(out, "", 0, err));
    while ((n = fread(piece, 1, sizeof piece, file)) > 0)
        KS_TRY(ks_str_add(out, piece, n, err));
done:
    return st;
}

/* The command itself, to its end; folder NULL: here. */
static ks_status ask(char *const *words, const char *folder, bool parse_only,
                     said *s, ks_err *err) {
    ks_status st = KS_OK;
    FILE *out = tmpfile(), *bad = tmpfile();
    int status;
    *s = (said){.code = -1};
    KS_CHECK(out && bad, KS_IO, "cannot make a temporary file: %s",
             strerror(errno));
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        int nothing = open("/dev/null", O_RDONLY);
        if (dup2(nothing, 0) < 0 || dup2(fileno(out), 1) < 0 ||
            dup2(fileno(bad), 2) < 0 || (folder && chdir(folder) != 0))
            _exit(127);
        if (parse_only) setenv("KEYSTEP_PARSE_ONLY", "1", 1);
        unsetenv("KEYSTEP_PROGRESS");
        ks_exp_become(words);
    }
    KS_CHECK(pid > 0, KS_IO, "cannot start a process: %s", strerror(errno));
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    if (WIFEXITED(status)) s->code = WEXITSTATUS(status);
    KS_TRY(read_all(out, &s->out, err));
    KS_TRY(read_all(bad, &s->err, err));
done:
    if (out) fclose(out);
    if (bad) fclose(bad);
    return st;
}

/* ------------------------------------------------------------ command lines */

typedef struct naming {
    const char *sentence, *first; /* where the first option stands in it */
    const ks_doc *found;
} naming;

/* Does the sentence name a setting of map, as an option, and ahead of others?
 */
static void look_in(naming *n, const ks_doc *map) {
    for (size_t i = 0; map && map->kind == KS_DOC_MAP && i < map->n; i++) {
        char option[80];
        snprintf(option, sizeof option, "--%.70s", map->items[i].key);
        for (char *c = option; *c; c++)
            if (*c == '_') *c = '-';
        const char *at = strstr(n->sentence, option);
        size_t k = strlen(option);
        bool whole = at && !(at[k] == '-' || (at[k] >= 'a' && at[k] <= 'z'));
        if (whole && at < n->first) n->found = &map->items[i], n->first = at;
    }
}

/* The setting that the sentence names first: of the section, of the machine for
 * this command and for all, of the experiment; else the section. */
static const ks_doc *named_in(const ks_exp_run *run, const ks_exp_stage *s,
                              const char *sentence) {
    naming n = {sentence, sentence + strlen(sentence), &s->doc};
    look_in(&n, &s->doc);
    look_in(&n, ks_doc_find(s->machine, s->section->name));
    look_in(&n, s->machine);
    look_in(&n, &run->exp.root);
    return n.found;
}

static ks_status check_stage(const ks_exp_run *run, int stage, ks_err *err) {
    ks_status st = KS_OK;
    const ks_exp_stage *s = &run->plan.stages[stage];
    ks_exp_task task = {.stage = stage};
    ks_exp_site site = {0};
    char **words = NULL;
    said got = {0};
    KS_TRY(ks_exp_task_words(run, &task, &site, 0, &words, err));
    KS_TRY(ask(words, NULL, true, &got, err));
    if (got.code == 0) goto done;
    char *sentence = got.err.data;
    sentence[strcspn(sentence, "\n")] = 0;
    char front[64];
    snprintf(front, sizeof front, "keystep %s: ", s->section->name);
    if (strncmp(sentence, front, strlen(front)) == 0) sentence += strlen(front);
    const ks_doc *at = named_in(run, s, sentence);
    KS_CHECK(at->file, KS_USAGE, "%s: %s", s->section->name, sentence);
    KS_CHECK(false, KS_USAGE, "%s: %s: %s", ks_doc_where(at).text,
             s->section->name, sentence);
done:
    ks_exp_words_free(words);
    said_free(&got);
    return st;
}

static bool same_stages(const ks_exp_cell_plan *a, const ks_exp_cell_plan *b) {
    bool same = a->n_stages == b->n_stages && a->n_probes == b->n_probes;
    for (size_t i = 0; same && i < a->n_stages; i++)
        same = a->stages[i] == b->stages[i];
    for (size_t i = 0; same && i < a->n_probes; i++)
        same = a->probes[i].stage == b->probes[i].stage;
    return same;
}

/* What only names tell apart is made once; it may be a slip. */
static void say_alike(const ks_exp_run *run) {
    const ks_exp_cell_plan *cells = run->plan.cells;
    for (size_t i = 0; i < run->exp.n_cells; i++) {
        const ks_exp_cell_plan *c = &cells[i];
        size_t k = 0;
        while (k < i && !same_stages(&cells[k], c)) k++;
        if (k < i)
            ks_log(KS_LOG_INFO,
                   "run: cells '%s' and '%s' differ in nothing that is made: "
                   "their stages are the same",
                   cells[k].cell->name, c->cell->name);
        for (size_t m = 1; m < c->n_probes; m++) {
            for (k = 0; k < m && c->probes[k].stage != c->probes[m].stage;) k++;
            if (k < m)
                ks_log(KS_LOG_INFO,
                       "run: probes '%s' and '%s' of cell %s differ in nothing "
                       "but their names",
                       *c->probes[k].name ? c->probes[k].name : "probe",
                       *c->probes[m].name ? c->probes[m].name : "probe",
                       c->cell->name);
        }
    }
}

ks_status ks_cli_check_stages(const ks_exp_run *run, ks_err *err) {
    ks_status st = KS_OK;
    for (size_t i = 0; i < run->plan.n_stages; i++)
        if (ks_exp_run_state(run, (int)i) != KS_EXP_DONE)
            KS_TRY(check_stage(run, (int)i, err));
    for (size_t i = 0; i < run->plan.n_stages; i++)
        if (ks_exp_run_state(run, (int)i) != KS_EXP_DONE)
            KS_TRY(ks_exp_check_reads(&run->plan, (int)i, err));
    say_alike(run);
done:
    return st;
}

/* -------------------------------------------------------------------- costs */

/* Of a stage whose inputs are there: what its command says of the cost, NULL
 * where it has no dry run or says nothing. *why: what is in the way. */
static ks_status cost_of(const ks_exp_run *run, int stage, json_t **cost,
                         char why[512], ks_err *err) {
    ks_status st = KS_OK;
    const ks_exp_stage *s = &run->plan.stages[stage];
    ks_exp_task task = {.stage = stage};
    ks_exp_site site = {0};
    char **words = NULL, **more = NULL;
    said got = {0};
    size_t n = 0;
    *cost = NULL;
    *why = 0;
    for (size_t i = 0; i < s->n_inputs; i++) {
        int of = s->inputs[i].stage;
        if (of < 0 || ks_exp_run_state(run, of) == KS_EXP_DONE) continue;
        snprintf(why, 512, "it waits for its %s", s->inputs[i].role);
        return KS_OK;
    }
    if (!ks_section_has(s->section, "dry-run")) return KS_OK;
    KS_TRY(ks_exp_task_words(run, &task, &site, 0, &words, err));
    while (words[n]) n++;
    KS_TRY(ks_alloc(&more, n + 3, sizeof *more, "a command", err));
    memcpy(more, words, n * sizeof *more);
    more[n] = (char *)(uintptr_t) "--dry-run";
    more[n + 1] = (char *)(uintptr_t) "--json";
    /* in a run's folder that is there, for the paths in it */
    bool there = ks_exp_is_run(run->folder);
    KS_TRY(ask(more, there ? run->folder : NULL, false, &got, err));
    if (got.code == 0) *cost = json_loads(got.out.data, 0, NULL);
    if (!*cost)
        snprintf(why, 512, "its dry run fails here: %.*s",
                 (int)strcspn(got.err.data, "\n"), got.err.data);
done:
    free(more);
    ks_exp_words_free(words);
    said_free(&got);
    return st;
}

static void print_bytes(const char *what, json_t *bytes) {
    char text[32];
    if (!json_is_number(bytes)) return;
    ks_cli_bytes(text, (uint64_t)json_number_value(bytes));
    printf(", %s %s", what, text);
}

static const char *said_without(json_t *cost) {
    json_t *text = json_object_get(cost, "seconds_without");
    return json_is_string(text) ? json_string_value(text) : "";
}

/* The figures that commands have in common, where they have them. */
static void print_cost(json_t *cost, bool begun) {
    static const struct {
        const char *name, *shown;
    } counts[] = {{"chains", "chains"},
                  {"problems", "problems"},
                  {"steps", "steps"},
                  {"rows", "rows"},
                  {"fits", "fits"},
                  {"tokens", "tokens"},
                  {"prompt_tokens", "prompt tokens"},
                  {"most_new_tokens", "new tokens at most"},
                  {"computed", "tokens through the model"}};
    bool first = true;
    fputs("      ", stdout);
    for (size_t i = 0; i < KS_COUNT(counts); i++) {
        json_t *n = json_object_get(cost, counts[i].name);
        if (!json_is_number(n)) continue;
        printf("%s%.0f %s", first ? "" : ", ", json_number_value(n),
               counts[i].shown);
        first = false;
    }
    print_bytes("file", json_object_get(cost, "file_bytes"));
    print_bytes("memory", json_object_get(cost, "memory_bytes"));
    json_t *seconds = json_object_get(cost, "seconds");
    if (json_is_number(seconds))
        printf(", about %s", ks_cli_time_of(json_number_value(seconds)).text);
    seconds = json_object_get(cost, "most_seconds");
    if (json_is_number(seconds))
        printf(", at most about %s",
               ks_cli_time_of(json_number_value(seconds)).text);
    if (*said_without(cost)) printf(" without %s", said_without(cost));
    /* a probe's dry run knows which cells are there, the others' do not */
    if (begun && !json_object_get(cost, "stored_there"))
        fputs("; all of it as if from the start", stdout);
    putchar('\n');
}

/* --------------------------------------------------------------------- plan */

static const char *state_word(const ks_exp_run *run, int stage, bool to_do) {
    switch (ks_exp_run_state(run, stage)) {
    case KS_EXP_DONE:
        return "done";
    case KS_EXP_GONE:
        return to_do ? "to be made again: its files are gone"
                     : "done, its files are gone and not needed";
    case KS_EXP_STALE:
        return "to be made again: its inputs are others now";
    case KS_EXP_BEGUN:
        return "begun";
    default:
        return "to do";
    }
}

/* Of the stages to do. */
typedef struct total {
    double seconds;
    int timed;    /* stages that it is of */
    bool most;    /* one of them may take less */
    bool without; /* or more, for what is not in its time */
} total;

static void add_time(total *t, json_t *cost) {
    json_t *about = json_object_get(cost, "seconds");
    json_t *most = json_object_get(cost, "most_seconds");
    if (!json_is_number(about) && !json_is_number(most)) return;
    t->most |= json_is_number(most);
    t->without |= *said_without(cost) != 0;
    t->seconds += json_number_value(most) + json_number_value(about);
    t->timed++;
}

static ks_status show_stage(const ks_exp_run *run, int stage, bool to_do,
                            total *sum, ks_err *err) {
    ks_status st = KS_OK;
    const ks_exp_stage *s = &run->plan.stages[stage];
    ks_exp_task task = {.stage = stage};
    ks_exp_site site = {0};
    ks_str line = {0};
    char **words = NULL, why[512];
    json_t *cost = NULL;
    KS_TRY(ks_exp_task_words(run, &task, &site, 0, &words, err));
    KS_TRY(ks_exp_words_shown(words, &line, err));
    printf("\n%2d  %s  %s\n", stage + 1, s->id, ks_cli_stage_is(s).text);
    printf("      %s\n", state_word(run, stage, to_do));
    const char *other = ks_exp_run_other_version(run, stage);
    if (other) printf("      made by keystep %s\n", other);
    printf("      $ %s\n", line.data);
    if (to_do) KS_TRY(cost_of(run, stage, &cost, why, err));
    if (cost) print_cost(cost, ks_exp_run_state(run, stage) == KS_EXP_BEGUN);
    add_time(sum, cost);
    if (to_do && !cost && *why) printf("      cost not known: %s\n", why);
done:
    json_decref(cost);
    ks_exp_words_free(words);
    ks_str_free(&line);
    return st;
}

static ks_status explain_json(const ks_exp_run *run, const bool *to_do,
                              ks_err *err) {
    ks_status st = KS_OK;
    json_t *stages = json_array();
    for (size_t i = 0; i < run->plan.n_stages; i++) {
        const ks_exp_stage *s = &run->plan.stages[i];
        ks_exp_task task = {.stage = (int)i};
        ks_exp_site site = {0};
        char **words = NULL, why[512] = "";
        json_t *cost = NULL, *command = json_array();
        KS_TRY(ks_exp_task_words(run, &task, &site, 0, &words, err));
        for (size_t k = 0; words[k]; k++)
            json_array_append_new(command, json_string(words[k]));
        ks_exp_words_free(words);
        if (to_do[i]) KS_TRY(cost_of(run, (int)i, &cost, why, err));
        json_array_append_new(
            stages,
            json_pack("{s:s,s:s,s:s,s:s,s:s,s:b,s:s,s:o,s:o,s:s}", "id", s->id,
                      "key", s->key, "stage", s->section->name, "cells",
                      s->cells, "what", s->what, "to_do", (int)to_do[i],
                      "state", state_word(run, (int)i, to_do[i]), "command",
                      command, "cost", cost ? cost : json_null(), "why", why));
    }
    ks_cli_print_json(json_pack("{s:s,s:s,s:O}", "name", run->exp.name, "out",
                                run->shown, "stages", stages));
done:
    json_decref(stages);
    return st;
}

ks_status ks_cli_explain(ks_exp_run *run, bool json, ks_err *err) {
    ks_status st = KS_OK;
    const ks_exp_plan *p = &run->plan;
    bool *to_do = NULL;
    total sum = {0};
    KS_TRY(ks_cli_check_stages(run, err));
    KS_TRY(ks_alloc(&to_do, p->n_stages + 1, sizeof *to_do, "stages", err));
    int n = ks_exp_to_do(run, to_do);
    if (json) {
        st = explain_json(run, to_do, err);
        goto done;
    }
    printf("%s%s%s\n", run->exp.name, *run->exp.about ? ": " : "",
           run->exp.about);
    printf("%zu cell%s, %zu stage%s, %d of them to do; all in %s\n",
           run->exp.n_cells, ks_plural(run->exp.n_cells), p->n_stages,
           ks_plural(p->n_stages), n, run->shown);
    for (size_t i = 0; i < run->exp.n_cells && run->exp.n_cells > 1; i++) {
        printf("  %s:", p->cells[i].cell->name);
        for (size_t k = 0; k < p->cells[i].n_stages; k++)
            printf(" %d", p->cells[i].stages[k] + 1);
        putchar('\n');
    }
    printf("\n$ cd %s\n", run->folder);
    for (size_t i = 0; i < p->n_stages; i++)
        KS_TRY(show_stage(run, (int)i, to_do[i], &sum, err));
    if (sum.timed > 0)
        printf("\n%sabout %s for %d of %d stage%s%s\n",
               sum.most ? "at most " : "", ks_cli_time_of(sum.seconds).text,
               sum.timed, n, ks_plural((size_t)n),
               sum.without ? ", without what is named above" : "");
done:
    free(to_do);
    return st;
}
