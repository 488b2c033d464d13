/* folder.c - see folder.h. */
#include "folder.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* The one place that knows what the program calls itself. */
static char version[96] = KS_VERSION;

const char *ks_exp_version(void) {
    return version;
}

void ks_exp_set_commit(const char *commit) {
    snprintf(version, sizeof version, KS_VERSION " (%s)", commit);
}

void ks_exp_now(char out[32]) {
    time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &utc);
}

static ks_status join(const ks_exp_run *run, const char *name, char **out,
                      ks_err *err) {
    return ks_path_join(out, run->folder, name, err);
}

ks_status ks_exp_stage_path(const ks_exp_run *run, int stage, const char *name,
                            char **out, ks_err *err) {
    const char *slash = name && *name ? "/" : "";
    if (asprintf(out, "%s/stages/%s%s%s", run->folder,
                 run->plan.stages[stage].id, slash, name ? name : "") < 0)
        return ks_fail(err, KS_NOMEM, "out of memory for a path");
    return KS_OK;
}

/* ------------------------------------------------------------------ opening */

bool ks_exp_is_run(const char *path) {
    char name[PATH_MAX];
    struct stat info;
    int n = snprintf(name, sizeof name, "%s/run.json", path);
    return n < (int)sizeof name && stat(name, &info) == 0;
}

/* run.json of a folder, looked over; *out NULL: there is none. */
static ks_status read_run(const char *folder, json_t **out, ks_err *err) {
    ks_status st = KS_OK;
    char *path = NULL;
    json_error_t reason;
    const char *format;
    json_t *all = NULL;
    *out = NULL;
    KS_TRY(ks_path_join(&path, folder, "run.json", err));
    if (!ks_file_exists(path)) goto done;
    all = json_load_file(path, JSON_REJECT_DUPLICATES, &reason);
    KS_CHECK(all, KS_FORMAT, "%s line %d: %s", path, reason.line, reason.text);
    format = json_string_value(json_object_get(all, "format"));
    KS_CHECK(format && strcmp(format, "keystep run") == 0, KS_FORMAT,
             "%s: is not the run.json that keystep run writes", path);
    KS_CHECK(json_integer_value(json_object_get(all, "version")) == 1,
             KS_FORMAT, "%s: version 1 is expected", path);
    *out = all;
    all = NULL;
done:
    json_decref(all);
    free(path);
    return st;
}

/* The sets of a run, then those of the command line; borrowed. */
static ks_status gather_sets(json_t *was, const ks_exp_open_options *o,
                             const char ***out, size_t *n, ks_err *err) {
    ks_status st = KS_OK;
    json_t *one, *kept = json_object_get(was, "sets");
    size_t i;
    *n = 0;
    KS_TRY(ks_alloc(out, json_array_size(kept) + o->n_sets + 1, sizeof **out,
                    "--set", err));
    json_array_foreach(kept, i, one) {
        KS_CHECK(json_is_string(one), KS_FORMAT,
                 "%s/run.json: sets: expected strings", o->what);
        (*out)[(*n)++] = json_string_value(one);
    }
    for (i = 0; i < o->n_sets; i++) (*out)[(*n)++] = o->sets[i];
done:
    return st;
}

static ks_status open_experiment(ks_exp_run *run, const ks_exp_open_options *o,
                                 json_t *was, ks_err *err) {
    ks_status st = KS_OK;
    char *file = NULL;
    const char **sets = NULL, *from = NULL;
    size_t n = 0;
    if (was) {
        from = json_string_value(
            json_object_get(json_object_get(was, "source"), "folder"));
        KS_CHECK(from && *from == '/', KS_FORMAT,
                 "%s/run.json: source.folder: expected an absolute path",
                 o->what);
        KS_TRY(ks_path_join(&file, o->what, "experiment.yaml", err));
    }
    KS_TRY(gather_sets(was, o, &sets, &n, err));
    KS_TRY(ks_exp_open(&run->exp, o->sections, file ? file : o->what, from,
                       sets, n, err));
done:
    free(file);
    free(sets);
    return st;
}

/* realpath of what may not be there yet */
static ks_status absolute(const char *path, char **out, ks_err *err) {
    char here[PATH_MAX];
    *out = realpath(path, NULL);
    if (*out) return KS_OK;
    if (*path == '/') {
        *out = strdup(path);
        return *out ? KS_OK : ks_fail(err, KS_NOMEM, "out of memory");
    }
    if (!getcwd(here, sizeof here))
        return ks_fail(err, KS_IO, "the current folder: %s", strerror(errno));
    return ks_path_join(out, here, path, err);
}

static ks_status name_folder(ks_exp_run *run, const ks_exp_open_options *o,
                             bool is_run, ks_err *err) {
    ks_status st = KS_OK;
    if (o->folder)
        run->shown = strdup(o->folder);
    else if (is_run)
        run->shown = strdup(o->what);
    else
        KS_TRY(ks_path_join(&run->shown, "runs", run->exp.name, err));
    KS_CHECK(run->shown, KS_NOMEM, "out of memory for a path");
    KS_TRY(absolute(run->shown, &run->folder, err));
done:
    return st;
}

static ks_status check_name(const ks_exp_run *run, ks_err *err) {
    ks_status st = KS_OK;
    json_t *there = NULL;
    KS_TRY(read_run(run->folder, &there, err));
    const char *name = json_string_value(json_object_get(there, "name"));
    KS_CHECK(!there || (name && strcmp(name, run->exp.name) == 0), KS_EXISTS,
             "%s holds experiment '%s', not '%s'; --out names another folder",
             run->shown, name ? name : "", run->exp.name);
done:
    json_decref(there);
    return st;
}

ks_status ks_exp_run_open(ks_exp_run *run, const ks_exp_open_options *o,
                          ks_err *err) {
    ks_status st = KS_OK;
    json_t *was = NULL;
    char *inputs = NULL;
    struct stat info;
    *run = (ks_exp_run){.plan = {.transfer = -1, .report = -1}};
    KS_CHECK(stat(o->what, &info) == 0, KS_IO, "%s: %s", o->what,
             strerror(errno));
    if (S_ISDIR(info.st_mode)) {
        KS_TRY(read_run(o->what, &was, err));
        KS_CHECK(was, KS_FORMAT,
                 "%s: a folder without run.json: expected experiment.yaml or a "
                 "folder that keystep run made",
                 o->what);
    }
    KS_TRY(open_experiment(run, o, was, err));
    KS_TRY(name_folder(run, o, was != NULL, err));
    KS_TRY(check_name(run, err));
    KS_TRY(join(run, "inputs.json", &inputs, err));
    KS_TRY(ks_exp_files_open(&run->files, inputs, err));
    if (run->files.spoilt.code != KS_OK && o->spoilt)
        o->spoilt(o->user, run->files.spoilt.text);
    run->files.reading = o->reading;
    run->files.user = o->user;
    KS_TRY(ks_exp_plan_open(&run->plan, &run->exp, &run->files, o->left,
                            o->user, err));
    KS_TRY(ks_alloc(&run->records, run->plan.n_stages + 1, sizeof *run->records,
                    "records", err));
    for (size_t i = 0; i < run->plan.n_stages; i++)
        KS_TRY(ks_exp_run_look(run, (int)i, err));
done:
    json_decref(was);
    free(inputs);
    if (st != KS_OK) ks_exp_run_close(run);
    return st;
}

void ks_exp_run_close(ks_exp_run *run) {
    for (size_t i = 0; run->records && i < run->plan.n_stages; i++)
        json_decref(run->records[i]);
    free(run->records);
    ks_lock_drop(&run->lock);
    ks_exp_plan_close(&run->plan);
    ks_exp_files_close(&run->files);
    ks_exp_close(&run->exp);
    free(run->folder);
    free(run->shown);
    *run = (ks_exp_run){0};
}

/* ---------------------------------------------------------------- run.json */

static json_t *inputs_of(const ks_exp_plan *p, const ks_exp_stage *s) {
    json_t *all = json_array();
    for (size_t i = 0; i < s->n_inputs; i++) {
        const ks_exp_input *in = &s->inputs[i];
        json_array_append_new(
            all, in->stage < 0
                     ? json_pack("{s:s,s:s,s:s}", "role", in->role, "path",
                                 in->name, "sha256", in->sha256)
                     : json_pack("{s:s,s:s,s:s}", "role", in->role, "stage",
                                 p->stages[in->stage].id, "file", in->name));
    }
    return all;
}

static json_t *stages_of(const ks_exp_plan *p) {
    json_t *all = json_array();
    for (size_t i = 0; i < p->n_stages; i++) {
        const ks_exp_stage *s = &p->stages[i];
        json_array_append_new(
            all, json_pack("{s:s,s:s,s:s,s:s,s:s,s:O,s:o}", "id", s->id,
                           "stage", s->section->name, "key", s->key, "what",
                           s->what, "cells", s->cells, "settings", s->settings,
                           "inputs", inputs_of(p, s)));
    }
    return all;
}

static json_t *cells_of(const ks_exp_plan *p) {
    json_t *all = json_array();
    for (size_t i = 0; i < p->exp->n_cells; i++) {
        const ks_exp_cell_plan *c = &p->cells[i];
        json_t *stages = json_array(), *probes = json_array();
        for (size_t k = 0; k < c->n_stages; k++)
            json_array_append_new(stages,
                                  json_string(p->stages[c->stages[k]].id));
        for (size_t k = 0; k < c->n_probes; k++)
            json_array_append_new(
                probes, json_pack("{s:s,s:s}", "name", c->probes[k].name,
                                  "stage", p->stages[c->probes[k].stage].id));
        json_array_append_new(
            all, json_pack("{s:s,s:O,s:o,s:o}", "name", c->cell->name, "point",
                           c->cell->point, "stages", stages, "probes", probes));
    }
    return all;
}

/* Those that worked on it so far, and this one. */
static json_t *hosts_of(json_t *there) {
    char host[128] = "?";
    size_t i;
    json_t *one, *all = json_array();
    bool seen = false;
    gethostname(host, sizeof host - 1);
    json_array_foreach(json_object_get(there, "hosts"), i, one) {
        const char *name = json_string_value(one);
        seen |= name && strcmp(name, host) == 0;
        json_array_append(all, one);
    }
    if (!seen) json_array_append_new(all, json_string(host));
    return all;
}

static json_t *sets_of(const ks_exp *e) {
    json_t *all = json_array();
    for (size_t i = 0; i < e->n_sets; i++)
        json_array_append_new(all, json_string(e->sets[i]));
    return all;
}

/* RUN/experiment.yaml itself, a copy: its paths are those of where it is from.
 */
static bool is_own(const ks_exp_run *run, const char *real) {
    size_t n = strlen(run->folder);
    return real && strncmp(real, run->folder, n) == 0 &&
           strcmp(real + n, "/experiment.yaml") == 0;
}

static json_t *run_json(const ks_exp_run *run, json_t *there) {
    const ks_exp *e = &run->exp;
    const ks_exp_plan *p = &run->plan;
    json_t *source = json_object_get(there, "source");
    char *real = realpath(e->file, NULL);
    source = source && is_own(run, real)
                 ? json_incref(source)
                 : json_pack("{s:s,s:s}", "file", real ? real : e->file,
                             "folder", e->folder);
    free(real);
    return json_pack(
        "{s:s,s:i,s:s,s:s,s:s,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "format",
        "keystep run", "version", 1, "name", e->name, "about", e->about,
        "program", ks_exp_version(), "source", source, "sets", sets_of(e),
        "hosts", hosts_of(there), "config", ks_doc_json(&e->root), "cells",
        cells_of(p), "stages", stages_of(p), "report",
        p->report < 0 ? json_null() : json_string(p->stages[p->report].id));
}

static ks_status write_run(const ks_exp_run *run, ks_err *err) {
    ks_status st = KS_OK;
    char *path = NULL, *yaml = NULL, *text = NULL;
    json_t *there = NULL, *all = NULL;
    KS_TRY(join(run, "experiment.yaml", &yaml, err));
    KS_TRY(join(run, "run.json", &path, err));
    KS_TRY(read_run(run->folder, &there, err));
    all = run_json(run, there);
    if (all) text = json_dumps(all, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    KS_CHECK(text, KS_NOMEM, "out of memory for %s", path);
    KS_TRY(ks_write_file(yaml, run->exp.text, run->exp.length, true, err));
    KS_TRY(ks_write_file(path, text, strlen(text), true, err));
done:
    json_decref(there);
    json_decref(all);
    free(path);
    free(yaml);
    free(text);
    return st;
}

/* ------------------------------------------------------------------ folder */

static ks_status make_folders(const char *path, ks_err *err) {
    ks_status st = KS_OK;
    char *copy = strdup(path);
    KS_CHECK(copy, KS_NOMEM, "out of memory for a path");
    for (char *at = copy + 1;; at++) {
        if (*at && *at != '/') continue;
        char was = *at;
        *at = 0;
        KS_CHECK(mkdir(copy, 0777) == 0 || errno == EEXIST, KS_IO,
                 "%s: cannot make the folder: %s", copy, strerror(errno));
        *at = was;
        if (!was) break;
    }
done:
    free(copy);
    return st;
}

ks_status ks_exp_run_hold(ks_exp_run *run, ks_err *err) {
    ks_status st = KS_OK;
    char *path = NULL, *inputs = NULL, *stage = NULL;
    KS_TRY(join(run, "stages", &path, err));
    KS_TRY(make_folders(path, err));
    free(path);
    path = NULL;
    KS_TRY(join(run, "run", &path, err));
    st = ks_lock_take(&run->lock, path, err);
    if (st == KS_EXISTS && err) { /* whose words are of writing a file */
        const char *by = strstr(err->text, "by ");
        ks_err first = *err;
        by = by ? strstr(first.text, "by ") : NULL;
        ks_fail(err, st, "%s is being run %s", run->shown,
                by ? by : "by another process");
    }
    KS_TRY(st);
    KS_TRY(check_name(run, err));
    KS_TRY(write_run(run, err));
    KS_TRY(join(run, "inputs.json", &inputs, err));
    KS_TRY(ks_exp_files_write(&run->files, inputs, err));
    for (size_t i = 0; i < run->plan.n_stages; i++) {
        KS_TRY(ks_exp_stage_path(run, (int)i, NULL, &stage, err));
        KS_TRY(make_folders(stage, err));
        KS_TRY(ks_exp_run_look(run, (int)i, err));
        free(stage);
        stage = NULL;
    }
done:
    free(path);
    free(inputs);
    free(stage);
    return st;
}

ks_status ks_exp_run_link(const ks_exp_run *run, ks_err *err) {
    ks_status st = KS_OK;
    char *link = NULL, *fresh = NULL, *to = NULL;
    if (run->plan.report < 0) return KS_OK;
    KS_TRY(join(run, "report", &link, err));
    KS_TRY(join(run, "report.new", &fresh, err));
    KS_CHECK(asprintf(&to, "stages/%s/report",
                      run->plan.stages[run->plan.report].id) >= 0,
             KS_NOMEM, "out of memory for a link");
    unlink(fresh);
    KS_CHECK(symlink(to, fresh) == 0 && rename(fresh, link) == 0, KS_IO,
             "%s: cannot make the link: %s", link, strerror(errno));
done:
    free(link);
    free(fresh);
    free(to);
    return st;
}
