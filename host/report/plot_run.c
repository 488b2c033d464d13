/* plot_run.c - gnuplot as a process: no shell, its commands from a file that
 * has no name; see plot.h. */
#include "plot.h"

#include <errno.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct process {
    pid_t pid; /* 0: not running */
    FILE *script, *words;
} process;

static ks_status start(process *p, const ks_str *script, const char *folder,
                       bool *found, ks_err *err) {
    ks_status st = KS_OK;
    posix_spawn_file_actions_t actions;
    char *const argv[] = {(char *)"gnuplot", (char *)"-d", (char *)"-", NULL};
    posix_spawn_file_actions_init(&actions);
    p->script = tmpfile();
    p->words = tmpfile();
    KS_CHECK(p->script && p->words, KS_IO, "cannot make a file for gnuplot: %s",
             strerror(errno));
    KS_CHECK(fwrite(script->data, 1, script->length, p->script) ==
                     script->length &&
                 fflush(p->script) == 0,
             KS_IO, "cannot write gnuplot's commands: %s", strerror(errno));
    rewind(p->script);
    posix_spawn_file_actions_adddup2(&actions, fileno(p->script), 0);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", 1, 0);
    posix_spawn_file_actions_adddup2(&actions, fileno(p->words), 2);
    posix_spawn_file_actions_addchdir_np(&actions, folder);
    int failed =
        posix_spawnp(&p->pid, "gnuplot", &actions, NULL, argv, environ);
    if (failed) p->pid = 0;
    *found = failed != ENOENT;
    KS_CHECK(!failed || !*found, KS_IO, "cannot run gnuplot: %s",
             strerror(failed));
done:
    posix_spawn_file_actions_destroy(&actions);
    return st;
}

/* The first words that gnuplot said, on one line. */
static void read_words(FILE *file, char *out, size_t n) {
    rewind(file);
    size_t got = fread(out, 1, n - 1, file);
    out[got] = 0;
    for (size_t i = 0; i < got; i++)
        if ((unsigned char)out[i] < 0x20) out[i] = ' ';
}

static ks_status finish(process *p, ks_err *err) {
    ks_status st = KS_OK;
    int status = -1;
    char words[400];
    if (!p->pid) return KS_OK;
    while (waitpid(p->pid, &status, 0) < 0 && errno == EINTR) {
    }
    p->pid = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return KS_OK;
    read_words(p->words, words, sizeof words);
    KS_CHECK(false, KS_IO, "gnuplot failed: %s",
             *words ? words : "it said nothing");
done:
    return st;
}

static void close_files(process *p) {
    if (p->script) fclose(p->script);
    if (p->words) fclose(p->words);
}

/* NAME.svg.new to NAME.svg: a picture of that name is whole. */
static ks_status take(const char *folder, const char *name, const char *end,
                      ks_err *err) {
    ks_status st = KS_OK;
    ks_str from = {0}, to = {0};
    KS_TRY(ks_str_printf(&from, err, "%s/%s.%s.new", folder, name, end));
    KS_TRY(ks_str_printf(&to, err, "%s/%s.%s", folder, name, end));
    KS_CHECK(rename(from.data, to.data) == 0, KS_IO,
             "%s: gnuplot has not written it: %s", to.data, strerror(errno));
done:
    ks_str_free(&from);
    ks_str_free(&to);
    return st;
}

/* Calls each figure of the report. */
typedef ks_status (*figure_fn)(void *user, const ks_report_figure *figure,
                               ks_err *err);
static ks_status each_figure(const ks_report *r, figure_fn call, void *user,
                             ks_err *err) {
    ks_status st = KS_OK;
    for (size_t s = 0; s < r->n_sections; s++)
        for (size_t p = 0; p < r->sections[s].n_parts; p++)
            if (r->sections[s].parts[p].figure)
                KS_TRY(call(user, r->sections[s].parts[p].figure, err));
done:
    return st;
}

static ks_status add_scripts(void *user, const ks_report_figure *figure,
                             ks_err *err) {
    ks_str *scripts = user;
    ks_status st = ks__plot_script(figure, KS_PICTURE_SVG, &scripts[0], err);
    return st == KS_OK
               ? ks__plot_script(figure, KS_PICTURE_PNG, &scripts[1], err)
               : st;
}

static ks_status take_both(void *user, const ks_report_figure *figure,
                           ks_err *err) {
    ks_status st = take(user, figure->name, "svg", err);
    return st == KS_OK ? take(user, figure->name, "png", err) : st;
}

/* After a failure nothing of what gnuplot began stays. */
static ks_status drop_both(void *user, const ks_report_figure *figure,
                           ks_err *err) {
    static const char *const ends[] = {"svg", "png"};
    ks_status st = KS_OK;
    ks_str path = {0};
    for (size_t i = 0; i < KS_COUNT(ends); i++) {
        path.length = 0;
        KS_TRY(ks_str_printf(&path, err, "%s/%s.%s.new", (const char *)user,
                             figure->name, ends[i]));
        unlink(path.data);
    }
done:
    ks_str_free(&path);
    return st;
}

ks_status ks__plot_all(const ks_report *report, const char *folder, bool *drawn,
                       ks_err *err) {
    ks_status st = KS_OK, other;
    ks_str scripts[2] = {{0}};
    process run[2] = {{0}};
    *drawn = false;
    KS_TRY(each_figure(report, add_scripts, scripts, err));
    if (!scripts[0].length) goto done;
    for (int i = 0; i < 2; i++) {
        KS_TRY(start(&run[i], &scripts[i], folder, drawn, err));
        if (!*drawn) goto done;
    }
    for (int i = 0; i < 2; i++) KS_TRY(finish(&run[i], err));
    KS_TRY(each_figure(report, take_both, (void *)(uintptr_t)folder, err));
done:
    for (int i = 0; i < 2; i++) {
        other = finish(&run[i], NULL);
        if (st == KS_OK) st = other;
        close_files(&run[i]);
        ks_str_free(&scripts[i]);
    }
    if (st != KS_OK)
        each_figure(report, drop_both, (void *)(uintptr_t)folder, NULL);
    return st;
}
