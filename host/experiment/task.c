/* task.c - see task.h: command lines, children and how they end. */
#include "task.h"
#include "watch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

ks_exp_task_name ks_exp_task_name_of(const ks_exp_task *task) {
    ks_exp_task_name name = {"whole"};
    if (task->kind == KS_EXP_SHARD)
        snprintf(name.text, sizeof name.text, "%d-of-%d", task->shard,
                 task->of);
    if (task->kind == KS_EXP_JOIN)
        snprintf(name.text, sizeof name.text, "join-of-%d", task->of);
    return name;
}

/* RUN/stages/ID/BEFORE-NAME.AFTER */
static ks_status task_file(const ks_exp_run *run, const ks_exp_task *task,
                           const char *before, const char *after, char **out,
                           ks_err *err) {
    char name[80];
    snprintf(name, sizeof name, "%s-%s%s", before,
             ks_exp_task_name_of(task).text, after);
    return ks_exp_stage_path(run, task->stage, name, out, err);
}

/* ------------------------------------------------------------------- words */

typedef struct list {
    char **at; /* ends with NULL */
    size_t n, capacity;
} list;

static ks_status add(list *l, const char *word, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_grow(&l->at, &l->capacity, l->n + 2, sizeof *l->at, "a command",
                   err));
    l->at[l->n] = strdup(word);
    KS_CHECK(l->at[l->n], KS_NOMEM, "out of memory for a command");
    l->at[++l->n] = NULL;
done:
    return st;
}

static ks_status add_pair(list *l, const char *option, const char *value,
                          ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(add(l, option, err));
    KS_TRY(add(l, value, err));
done:
    return st;
}

void ks_exp_words_free(char **words) {
    for (size_t i = 0; words && words[i]; i++) free(words[i]);
    free(words);
}

/* A path of an output: below the stage's folder, or on the node. */
static ks_status output_path(const ks_exp_run *run, const ks_exp_task *task,
                             const char *scratch, const char *name, char **out,
                             ks_err *err) {
    const char *id = run->plan.stages[task->stage].id;
    bool node = scratch && task->kind != KS_EXP_JOIN;
    char *folder = NULL;
    if (node) {
        ks_status st = ks__exp_scratch_name(run, task, scratch, &folder, err);
        if (st == KS_OK) st = ks_path_join(out, folder, name, err);
        free(folder);
        return st;
    }
    if (asprintf(out, "stages/%s/%s", id, name) < 0)
        return ks_fail(err, KS_NOMEM, "out of memory for a path");
    return KS_OK;
}

const char *ks_exp_machine(const ks_exp_stage *s, const char *key) {
    const ks_doc *of = ks_doc_find(s->machine, s->section->name);
    const char *value = of ? ks_exp_text(of, key) : NULL;
    return value || !s->machine ? value : ks_exp_text(s->machine, key);
}

/* Of several devices a probe takes the first: it computes on one. */
static ks_status add_backend(list *l, const ks_exp_stage *s,
                             const char *backend, ks_err *err) {
    bool one = strcmp(s->section->name, "probe") == 0 ||
               strcmp(s->section->name, "transfer") == 0;
    char name[64];
    size_t n = one ? strcspn(backend, ",") : strlen(backend);
    snprintf(name, sizeof name, "%.*s", (int)n, backend);
    return add_pair(l, "--backend", one ? name : backend, err);
}

static ks_status add_machine(list *l, const ks_exp_stage *s,
                             const ks_exp_site *site, ks_err *err) {
    ks_status st = KS_OK;
    const ks_section *section = s->section;
    const char *backend =
        site->backend ? site->backend : ks_exp_machine(s, "backend");
    const char *memory = ks_exp_machine(s, "memory");
    const char *threads = ks_exp_machine(s, "threads");
    const char *batch = ks_exp_machine(s, "batch-tokens");
    bool device = backend && strcmp(backend, "cpu") != 0;
    char number[16];
    if (backend && ks_section_has(section, "backend"))
        KS_TRY(add_backend(l, s, backend, err));
    snprintf(number, sizeof number, "%d", site->threads);
    if (site->threads) threads = number;
    if (threads && ks_section_has(section, "threads"))
        KS_TRY(add_pair(l, "--threads", threads, err));
    /* transfer bounds a device's memory alone, and refuses another's */
    bool bounds = device || strcmp(section->name, "transfer") != 0;
    if (memory && bounds && ks_section_has(section, "memory"))
        KS_TRY(add_pair(l, "--memory", memory, err));
    if (batch && ks_section_has(section, "batch-tokens"))
        KS_TRY(add_pair(l, "--batch-tokens", batch, err));
done:
    return st;
}

static ks_status stage_words(const ks_exp_run *run, const ks_exp_task *task,
                             const ks_exp_site *site, list *l, ks_err *err) {
    ks_status st = KS_OK;
    const ks_exp_stage *s = &run->plan.stages[task->stage];
    char *path = NULL, shard[32];
    for (size_t i = 0; i < s->n_words; i++) {
        const ks_exp_word *w = &s->words[i];
        if (w->output)
            KS_TRY(output_path(run, task, site->scratch, w->text, &path, err));
        KS_TRY(add(l, path ? path : w->text, err));
        free(path);
        path = NULL;
    }
    KS_TRY(add_machine(l, s, site, err));
    if (ks_section_has(s->section, "cells")) {
        KS_CHECK(asprintf(&path, "stages/%s/cells", s->id) >= 0, KS_NOMEM,
                 "out of memory for a path");
        KS_TRY(add_pair(l, "--cells", path, err));
    }
    snprintf(shard, sizeof shard, "%d/%d", task->shard, task->of);
    if (task->kind == KS_EXP_SHARD) KS_TRY(add_pair(l, "--shard", shard, err));
    if (ks_section_has(s->section, "resume"))
        KS_TRY(add(l, "--resume", err));
    else if (ks_section_has(s->section, "force"))
        KS_TRY(add(l, "--force", err));
done:
    free(path);
    return st;
}

/* Shards of a probe are files of its cells, which the whole command takes. */
static bool joins_by_itself(const ks_exp_stage *s) {
    return ks_section_has(s->section, "cells");
}

static ks_status join_words(const ks_exp_run *run, const ks_exp_task *task,
                            const char *output, list *l, ks_err *err) {
    ks_status st = KS_OK;
    char *path = NULL, number[16];
    snprintf(number, sizeof number, "%d", task->of);
    KS_TRY(output_path(run, task, NULL, output, &path, err));
    KS_TRY(add(l, "join", err));
    KS_TRY(add_pair(l, "--out", path, err));
    KS_TRY(add_pair(l, "--shards", number, err));
done:
    free(path);
    return st;
}

static int n_outputs(const ks_exp_stage *s) {
    int n = 0;
    while (s->outputs[n]) n++;
    return n;
}

ks_status ks_exp_task_words(const ks_exp_run *run, const ks_exp_task *task,
                            const ks_exp_site *site, int n, char ***words,
                            ks_err *err) {
    ks_status st = KS_OK;
    const ks_exp_stage *s = &run->plan.stages[task->stage];
    bool join = task->kind == KS_EXP_JOIN && !joins_by_itself(s);
    list l = {0};
    *words = NULL;
    if (n >= (join ? n_outputs(s) : 1)) return KS_OK;
    KS_TRY(add(&l, "keystep", err));
    if (join)
        KS_TRY(join_words(run, task, s->outputs[n], &l, err));
    else
        KS_TRY(stage_words(run, task, site, &l, err));
    *words = l.at;
    l.at = NULL;
done:
    ks_exp_words_free(l.at);
    return st;
}

static ks_status add_quoted(ks_str *out, const char *word, ks_err *err) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRST"
                                "UVWXYZ0123456789_-./,:=+@%";
    ks_status st = KS_OK;
    if (*word && strspn(word, plain) == strlen(word))
        return ks_str_add(out, word, strlen(word), err);
    KS_TRY(ks_str_add(out, "'", 1, err));
    for (const char *c = word; *c; c++)
        KS_TRY(*c == '\'' ? ks_str_add(out, "'\\''", 4, err)
                          : ks_str_add(out, c, 1, err));
    KS_TRY(ks_str_add(out, "'", 1, err));
done:
    return st;
}

ks_status ks_exp_words_shown(char *const *words, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    for (size_t i = 0; words && words[i]; i++) {
        if (i) KS_TRY(ks_str_add(out, " ", 1, err));
        KS_TRY(add_quoted(out, words[i], err));
    }
done:
    return st;
}

/* ----------------------------------------------------------------- records */

static json_t *words_json(char *const *words) {
    json_t *all = json_array();
    for (size_t i = 0; words && words[i]; i++)
        json_array_append_new(all, json_string(words[i]));
    return all;
}

static ks_status write_json(const char *path, json_t *all, ks_err *err) {
    ks_status st = KS_OK;
    char *text =
        all ? json_dumps(all, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) : NULL;
    KS_CHECK(text, KS_NOMEM, "out of memory for %s", path);
    KS_TRY(ks_write_file(path, text, strlen(text), true, err));
done:
    json_decref(all);
    free(text);
    return st;
}

static json_t *read_task(const ks_exp_run *run, const ks_exp_task *task) {
    char *path = NULL;
    json_t *all = NULL;
    if (task_file(run, task, "task", ".json", &path, NULL) == KS_OK)
        all = json_load_file(path, 0, NULL);
    free(path);
    return all;
}

static ks_status write_task(const ks_exp_child *c, const ks_exp_run *run,
                            const char *state, ks_err *err) {
    ks_status st = KS_OK;
    char *path = NULL, host[128] = "?";
    gethostname(host, sizeof host - 1);
    KS_TRY(task_file(run, &c->task, "task", ".json", &path, err));
    KS_TRY(write_json(path,
                      json_pack("{s:s,s:s,s:i,s:s,s:i,s:s,s:f,s:o,s:s}", "task",
                                ks_exp_task_name_of(&c->task).text, "state",
                                state, "attempts", c->attempts, "host", host,
                                "pid", (int)c->pid, "started", c->started,
                                "seconds", ks_seconds() - c->since, "command",
                                words_json(c->words), "why", c->why),
                      err));
done:
    free(path);
    return st;
}

/* ---------------------------------------------------------------- children */

void ks_exp_become(char *const *words) {
    execv("/proc/self/exe", words);
    dprintf(2, "keystep %s cannot be started: %s\n", words[1], strerror(errno));
    _exit(127);
}

/* Only calls that a child may make between fork and exec. */
static void become(const ks_exp_run *run, const ks_exp_child *c, int log,
                   pid_t parent) {
    sigset_t none;
    int nothing = open("/dev/null", O_RDONLY);
    /* out of reach of the terminal's Ctrl-C, which we pass on ourselves, once:
     * a second one makes a command stop at once */
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(127);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (nothing < 0 || chdir(run->folder) != 0 || dup2(nothing, 0) < 0 ||
        dup2(log, 1) < 0 || dup2(log, 2) < 0)
        _exit(127);
    setenv("KEYSTEP_PROGRESS", c->progress, 1);
    unsetenv("KEYSTEP_PARSE_ONLY");
    ks_exp_become(c->words);
}

static ks_status start_child(ks_exp_child *c, const ks_exp_run *run,
                             ks_err *err) {
    ks_status st = KS_OK;
    ks_str line = {0};
    int log = open(c->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    KS_CHECK(log >= 0, KS_IO, "%s: cannot open: %s", c->log, strerror(errno));
    KS_TRY(ks_str_printf(&line, err, "%s$ ",
                         lseek(log, 0, SEEK_END) > 0 ? "\n" : ""));
    KS_TRY(ks_exp_words_shown(c->words, &line, err));
    KS_TRY(ks_str_add(&line, "\n", 1, err));
    KS_CHECK(write(log, line.data, line.length) == (ssize_t)line.length, KS_IO,
             "%s: cannot write: %s", c->log, strerror(errno));
    c->log_from = lseek(log, 0, SEEK_END);
    pid_t parent = getpid();
    fflush(NULL);
    c->pid = fork();
    if (c->pid == 0) become(run, c, log, parent);
    KS_CHECK(c->pid > 0, KS_IO, "cannot start a process: %s", strerror(errno));
done:
    if (log >= 0) close(log);
    ks_str_free(&line);
    return st;
}

/* A file that an interrupted join left: not forced, since that would also join
 * what does not belong together. */
static void make_room(const ks_exp_run *run, const ks_exp_child *c) {
    const char *const *outputs = run->plan.stages[c->task.stage].outputs;
    char *path = NULL;
    if (c->task.kind != KS_EXP_JOIN ||
        joins_by_itself(&run->plan.stages[c->task.stage]))
        return;
    if (ks_exp_stage_path(run, c->task.stage, outputs[c->command], &path,
                          NULL) == KS_OK)
        unlink(path);
    free(path);
}

/* The key has the content that was there when the run was planned: what is
 * made of another must not stand under it. */
static ks_status check_given(ks_exp_run *run, const ks_exp_task *task,
                             ks_err *err) {
    ks_status st = KS_OK;
    const ks_exp_stage *s = &run->plan.stages[task->stage];
    for (size_t i = 0; i < s->n_inputs; i++) {
        const ks_exp_input *in = &s->inputs[i];
        char hex[65];
        bool there;
        if (in->stage >= 0) continue;
        KS_TRY(ks_exp_files_hash(&run->files, in->name, hex, &there, err));
        KS_CHECK(strcmp(hex, in->sha256) == 0, KS_MISMATCH,
                 "%s: is another file than when this was planned; the same "
                 "command again plans anew",
                 in->name);
    }
done:
    return st;
}

/* Once for all of a task's commands. */
static ks_status prepare(ks_exp_child *c, ks_exp_run *run, ks_err *err) {
    ks_status st = KS_OK;
    char *path = NULL, *folder = NULL;
    bool shard = c->task.kind == KS_EXP_SHARD;
    KS_TRY(check_given(run, &c->task, err));
    KS_TRY(task_file(run, &c->task, "task", "", &path, err));
    KS_TRY(ks_lock_take(&c->lock, path, err));
    json_t *was = read_task(run, &c->task);
    c->attempts = (int)json_integer_value(json_object_get(was, "attempts")) + 1;
    json_decref(was);
    c->since = ks_seconds();
    ks_exp_now(c->started);
    KS_TRY(
        shard ? task_file(run, &c->task, "log", ".txt", &c->log, err)
              : ks_exp_stage_path(run, c->task.stage, "log.txt", &c->log, err));
    KS_TRY(task_file(run, &c->task, "progress", ".json", &c->progress, err));
    unlink(c->progress);
    if (c->site.scratch && c->task.kind != KS_EXP_JOIN) {
        KS_TRY(
            ks__exp_scratch_name(run, &c->task, c->site.scratch, &folder, err));
        KS_TRY(ks__exp_scratch_in(run, &c->task, folder, err));
    }
done:
    free(path);
    free(folder);
    return st;
}

ks_status ks_exp_task_start(ks_exp_child *c, ks_exp_run *run,
                            const ks_exp_task *task, const ks_exp_site *site,
                            ks_err *err) {
    ks_status st = KS_OK;
    bool first = c->command == 0;
    if (first) {
        *c = (ks_exp_child){.task = *task, .site = *site};
        KS_TRY(ks_exp_run_check_inputs(run, task->stage, err));
        KS_TRY(prepare(c, run, err));
    }
    c->pid = 0; /* that of the command before is over */
    ks_exp_words_free(c->words);
    KS_TRY(ks_exp_task_words(run, task, site, c->command, &c->words, err));
    KS_CHECK(c->words, KS_INTERNAL, "%s has no command %d",
             run->plan.stages[task->stage].id, c->command + 1);
    make_room(run, c);
    KS_TRY(start_child(c, run, err));
    KS_TRY(write_task(c, run, "running", err));
done:
    if (st != KS_OK && c->pid > 0) {
        kill(c->pid, SIGTERM);
        waitpid(c->pid, NULL, 0);
        c->pid = 0;
    }
    /* not without the lock: another process may be at work in the folder */
    if (st != KS_OK && first && c->lock.path && c->pid <= 0 && site->scratch)
        ks__exp_scratch_unused(run, task, site->scratch);
    if (st != KS_OK && first) ks_exp_task_close(c);
    return st;
}

void ks_exp_task_close(ks_exp_child *c) {
    ks_exp_words_free(c->words);
    ks_lock_drop(&c->lock);
    if (c->progress) unlink(c->progress);
    free(c->log);
    free(c->progress);
    *c = (ks_exp_child){0};
}

/* ------------------------------------------------------------------ ending */

/* The last sentence that the command itself said; else its last line. */
static void read_last_words(ks_exp_child *c, int status) {
    char *text = NULL, *save = NULL;
    c->why[0] = 0;
    if (WIFSIGNALED(status))
        snprintf(c->why, sizeof c->why, "ended by signal %d (%s)",
                 WTERMSIG(status), strsignal(WTERMSIG(status)));
    if (ks_read_file(c->log, SIZE_MAX, &text, NULL, NULL) != KS_OK) return;
    bool said = WIFSIGNALED(status);
    size_t from = KS_MIN((size_t)c->log_from, strlen(text));
    for (char *line = strtok_r(text + from, "\n", &save); line && !said;
         line = strtok_r(NULL, "\n", &save))
        if (strncmp(line, "Try `", 5) != 0) /* JSON takes whole characters */
            ks__watch_text(c->why, sizeof c->why, line);
    free(text);
}

static ks_exp_end end_of(int status) {
    if (WIFEXITED(status)) {
        int code = WEXITSTATUS(status);
        return code == 0     ? KS_EXP_END_GOOD
               : code == 2   ? KS_EXP_END_USAGE
               : code == 130 ? KS_EXP_END_INTERRUPTED
                             : KS_EXP_END_FAILED;
    }
    int by = WTERMSIG(status);
    bool ours = by == SIGINT || by == SIGTERM || by == SIGUSR1;
    return ours ? KS_EXP_END_INTERRUPTED : KS_EXP_END_FAILED;
}

static json_t *took(const ks_exp_run *run, const ks_exp_stage *s) {
    json_t *all = json_object();
    for (size_t i = 0; i < s->n_inputs; i++) {
        int of = s->inputs[i].stage;
        if (of >= 0)
            json_object_set_new(all, run->plan.stages[of].id,
                                ks_exp_outputs_hash(run->records[of]));
    }
    return all;
}

static json_t *given(const ks_exp_stage *s) {
    json_t *all = json_array();
    for (size_t i = 0; i < s->n_inputs; i++)
        if (s->inputs[i].stage < 0)
            json_array_append_new(all, json_pack("{s:s,s:s,s:s}", "role",
                                                 s->inputs[i].role, "path",
                                                 s->inputs[i].name, "sha256",
                                                 s->inputs[i].sha256));
    return all;
}

/* Records of the shards that a join put together. */
static json_t *shards_of(const ks_exp_run *run, const ks_exp_task *join) {
    json_t *all = json_array();
    for (int k = 1; join->kind == KS_EXP_JOIN && k <= join->of; k++) {
        ks_exp_task shard = {join->stage, KS_EXP_SHARD, k, join->of};
        json_t *one = read_task(run, &shard);
        json_object_del(one, "pid");
        json_array_append_new(all, one ? one : json_null());
    }
    return all;
}

/* Last of all: where it is, the stage is done. */
static ks_status write_stage(const ks_exp_child *c, ks_exp_run *run,
                             ks_err *err) {
    ks_status st = KS_OK;
    const ks_exp_stage *s = &run->plan.stages[c->task.stage];
    const char *backend = ks_exp_machine(s, "backend");
    char *path = NULL, host[128] = "?";
    json_t *outputs = NULL;
    gethostname(host, sizeof host - 1);
    KS_TRY(ks_exp_stage_path(run, c->task.stage, "stage.json", &path, err));
    KS_TRY(ks__exp_outputs(run, c->task.stage, &outputs, err));
    if (c->site.backend) backend = c->site.backend;
    json_t *all = json_pack(
        "{s:s,s:i,s:s,s:s,s:s,s:s,s:O,s:o,s:o,s:o,s:O,s:s,s:s,s:s,s:s,s:f,s:i,"
        "s:o}",
        "format", "keystep stage", "version", 1, "stage", s->section->name,
        "key", s->key, "what", s->what, "cells", s->cells, "settings",
        s->settings, "command", words_json(c->words), "inputs", given(s),
        "took", took(run, s), "outputs", outputs, "program", ks_exp_version(),
        "host", host, "backend", backend ? backend : "cpu", "started",
        c->started, "seconds", ks_seconds() - c->since, "attempts", c->attempts,
        "shards", shards_of(run, &c->task));
    KS_TRY(write_json(path, all, err));
    KS_TRY(ks_exp_run_look(run, c->task.stage, err));
done:
    json_decref(outputs);
    free(path);
    return st;
}

/* What a stage that is done does not need any more. */
static void tidy(const ks_exp_run *run, int stage) {
    char *cells = NULL;
    if (ks_exp_stage_path(run, stage, "cells", &cells, NULL) == KS_OK)
        ks__exp_remove(cells);
    free(cells);
    ks__exp_drop_shards(run, stage);
}

static ks_status over(ks_exp_child *c, ks_exp_run *run, ks_exp_end end,
                      ks_err *err) {
    static const char *const states[] = {"done", "failed", "failed",
                                         "interrupted"};
    ks_status st = KS_OK;
    char *folder = NULL;
    if (c->site.scratch && c->task.kind != KS_EXP_JOIN) {
        KS_TRY(
            ks__exp_scratch_name(run, &c->task, c->site.scratch, &folder, err));
        KS_TRY(ks__exp_scratch_out(run, &c->task, folder, err));
    }
    bool whole = end == KS_EXP_END_GOOD && c->task.kind != KS_EXP_SHARD;
    if (end == KS_EXP_END_GOOD) {
        st = check_given(run, &c->task, err);
        if (st == KS_MISMATCH) ks__exp_drop_made(run, &c->task);
        KS_TRY(st);
    }
    if (whole) ks__exp_drop_other_shards(run, &c->task);
    if (whole) KS_TRY(write_stage(c, run, err));
    KS_TRY(write_task(c, run, states[end], err));
    if (whole) tidy(run, c->task.stage);
done:
    free(folder);
    return st;
}

ks_status ks_exp_task_ended(ks_exp_child *c, ks_exp_run *run, int status,
                            ks_exp_end *end, bool *more, ks_err *err) {
    ks_status st = KS_OK;
    char **next = NULL;
    *more = false;
    *end = end_of(status);
    if (*end != KS_EXP_END_GOOD) read_last_words(c, status);
    if (*end == KS_EXP_END_GOOD) {
        c->command++;
        KS_TRY(
            ks_exp_task_words(run, &c->task, &c->site, c->command, &next, err));
        *more = next != NULL;
    }
    if (!*more) KS_TRY(over(c, run, *end, err));
done:
    ks_exp_words_free(next);
    return st;
}
