/* ask.c - see ask.h. */
#include "ask.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct ks_ask {
    pid_t pid; /* 0: its end was waited for */
    FILE *to, *from;
    char *line; /* the last answer */
    size_t capacity;
    bool failed;
    ks_err why;
};

/* Its end of the pipes is its standard input and output; signals that we
 * ignore are its own again. */
static int spawn(pid_t *pid, const char *program, int in, int out) {
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t defaults;
    char shell[] = "sh", option[] = "-c";
    char *copy = strdup(program);
    char *argv[] = {shell, option, copy, NULL};
    if (!copy) return ENOMEM;
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    sigaddset(&defaults, SIGXFSZ);
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attributes);
    int code = posix_spawn_file_actions_adddup2(&files, in, STDIN_FILENO);
    if (!code)
        code = posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
    if (!code) code = posix_spawnattr_setsigdefault(&attributes, &defaults);
    if (!code)
        code = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
    if (!code)
        code = posix_spawn(pid, "/bin/sh", &files, &attributes, argv, environ);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
    free(copy);
    return code;
}

static void close_if_open(int fd) {
    if (fd >= 0) close(fd);
}

ks_status ks_ask_open(ks_ask **out, const char *program, ks_err *err) {
    ks_status st = KS_OK;
    int in[2] = {-1, -1}, back[2] = {-1, -1}; /* read end, write end */
    ks_ask *ask = NULL;
    *out = NULL;
    KS_TRY(ks_alloc(&ask, 1, sizeof *ask, "a program to ask", err));
    KS_CHECK(!pipe2(in, O_CLOEXEC) && !pipe2(back, O_CLOEXEC), KS_IO,
             "cannot make a pipe: %s", strerror(errno));
    ask->to = fdopen(in[1], "w");
    if (ask->to) in[1] = -1; /* the stream has it now */
    ask->from = fdopen(back[0], "r");
    if (ask->from) back[0] = -1;
    KS_CHECK(ask->to && ask->from, KS_NOMEM, "out of memory for a pipe");
    signal(SIGPIPE, SIG_IGN); /* a program that has ended is a write that fails
                               */
    int code = spawn(&ask->pid, program, in[0], back[1]);
    KS_CHECK(!code, KS_IO, "cannot start '%s': %s", program, strerror(code));
    *out = ask;
    ask = NULL;
done:
    close_if_open(in[0]);
    close_if_open(in[1]);
    close_if_open(back[0]);
    close_if_open(back[1]);
    ks_ask_close(&ask);
    return st;
}

/* Why there was no answer: a program that is still there is given no time to
 * end, for it may never do so. */
static ks_status no_answer(ks_ask *ask, bool written, ks_err *err) {
    int status = 0;
    if (ks_interrupted) return ks_fail(err, KS_INTERRUPTED, "interrupted");
    fclose(ask->to); /* one that waits for more ends now */
    ask->to = NULL;
    pid_t ended = waitpid(ask->pid, &status, WNOHANG);
    for (int i = 0; ended == 0 && i < 300; i++) { /* it may be just ending */
        usleep(10000);
        ended = waitpid(ask->pid, &status, WNOHANG);
    }
    if (ended != ask->pid)
        return ks_fail(err, KS_FORMAT,
                       "the program that is asked closed its %s without an "
                       "answer",
                       written ? "output" : "input");
    ask->pid = 0;
    if (WIFSIGNALED(status))
        return ks_fail(err, KS_FORMAT,
                       "the program that is asked was ended by signal %d (%s) "
                       "before it answered",
                       WTERMSIG(status), strsignal(WTERMSIG(status)));
    return ks_fail(err, KS_FORMAT,
                   "the program that is asked ended with exit code %d before "
                   "it answered",
                   WEXITSTATUS(status));
}

static ks_status ask_once(ks_ask *ask, const json_t *question, bool *pass,
                          ks_err *err) {
    ks_status st = KS_OK;
    bool written = !json_dumpf(question, ask->to, JSON_COMPACT) &&
                   putc('\n', ask->to) != EOF && !fflush(ask->to);
    ssize_t got = written ? getline(&ask->line, &ask->capacity, ask->from) : -1;
    if (got < 0) return no_answer(ask, written, err);
    json_t *answer =
        json_loadb(ask->line, (size_t)got, JSON_REJECT_DUPLICATES, NULL);
    const json_t *verdict = json_object_get(answer, "pass");
    size_t shown = KS_MIN(strcspn(ask->line, "\n"), 60);
    shown = ks_utf8_check(ask->line, shown); /* whole characters */
    KS_CHECK(json_is_boolean(verdict), KS_FORMAT,
             "the program that is asked answered '%.*s', expected "
             "{\"pass\":true} or {\"pass\":false}",
             (int)shown, ask->line);
    *pass = json_is_true(verdict);
done:
    json_decref(answer);
    return st;
}

ks_status ks_ask_pass(ks_ask *ask, const json_t *question, bool *pass,
                      ks_err *err) {
    if (!ask->failed)
        ask->failed = ask_once(ask, question, pass, &ask->why) != KS_OK;
    if (!ask->failed) return KS_OK;
    return ks_fail(err, ask->why.code, "%s", ask->why.text);
}

void ks_ask_close(ks_ask **asked) {
    ks_ask *ask = *asked;
    if (!ask) return;
    if (ask->to) fclose(ask->to);
    if (ask->from) fclose(ask->from);
    while (ask->pid && waitpid(ask->pid, NULL, 0) < 0 && errno == EINTR &&
           !ks_interrupted) {
    }
    free(ask->line);
    free(ask);
    *asked = NULL;
}
