/* slurm_queue.c - programs of Slurm, and what its queue says. See slurm.h. */
#include "slurm.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---------------------------------------------------------------- programs */

static int start(pid_t *pid, char *const *argv, const char *folder, int out,
                 int words) {
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    int code = posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
    if (!code)
        code = posix_spawn_file_actions_adddup2(&files, words, STDERR_FILENO);
    if (!code)
        code = posix_spawn_file_actions_addopen(&files, STDIN_FILENO,
                                                "/dev/null", O_RDONLY, 0);
    if (!code && folder)
        code = posix_spawn_file_actions_addchdir_np(&files, folder);
    if (!code) code = posix_spawnp(pid, argv[0], &files, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&files);
    return code;
}

/* All of a file without a name. */
static ks_status read_back(int fd, ks_str *text, ks_err *err) {
    char buffer[4096];
    ssize_t n;
    off_t at = 0;
    ks_status st = ks_str_add(text, "", 0, err);
    while (st == KS_OK && (n = pread(fd, buffer, sizeof buffer, at)) > 0) {
        st = ks_str_add(text, buffer, (size_t)n, err);
        at += n;
    }
    return st;
}

ks_status ks_slurm_run(char *const *argv, const char *folder, char **out,
                       bool *there, ks_err *err) {
    ks_status st = KS_OK;
    ks_str printed = {0}, words = {0};
    pid_t pid;
    int status = 0, to = memfd_create("out", MFD_CLOEXEC),
        to_words = memfd_create("words", MFD_CLOEXEC);
    *out = NULL;
    if (there) *there = true;
    KS_CHECK(to >= 0 && to_words >= 0, KS_IO,
             "cannot make a file in memory: %s", strerror(errno));
    int code = start(&pid, argv, folder, to, to_words);
    if (code == ENOENT && there) {
        *there = false;
        goto done;
    }
    KS_CHECK(!code, KS_IO, "cannot start %s: %s", argv[0], strerror(code));
    while (waitpid(pid, &status, 0) < 0)
        KS_CHECK(errno == EINTR, KS_IO, "cannot wait for %s: %s", argv[0],
                 strerror(errno));
    KS_TRY(read_back(to, &printed, err));
    KS_TRY(read_back(to_words, &words, err));
    words.data[strcspn(words.data, "\n")] = 0; /* the first line says it */
    KS_CHECK(status == 0, KS_IO, "%s failed: %s", argv[0],
             words.data[0] ? words.data : "it does not say why");
    *out = printed.data;
    printed.data = NULL;
done:
    if (to >= 0) close(to);
    if (to_words >= 0) close(to_words);
    ks_str_free(&printed);
    ks_str_free(&words);
    return st;
}

/* --------------------------------------------------------------- the queue */

void ks_queue_free(ks_queue *queue) {
    free(queue->at);
    *queue = (ks_queue){0};
}

static int by_id(const void *a, const void *b) {
    const ks_queued *x = a, *y = b;
    if (x->id != y->id) return x->id < y->id ? -1 : 1;
    return (x->task > y->task) - (x->task < y->task);
}

/* The field up to the next bar; false: there is none. */
static bool field(char **at, char *to, size_t n) {
    char *end = strchr(*at, '|');
    if (!end) return false;
    *end = 0;
    snprintf(to, n, "%s", *at);
    *at = end + 1;
    return true;
}

static bool read_line(char *line, ks_queued *job) {
    char id[32], task[32], *end = NULL;
    if (!field(&line, id, sizeof id) || !field(&line, task, sizeof task) ||
        !field(&line, job->state, sizeof job->state) ||
        !field(&line, job->node, sizeof job->node))
        return false;
    snprintf(job->reason, sizeof job->reason, "%s", line);
    job->id = strtoll(id, &end, 10);
    if (end == id || *end || job->id <= 0) return false;
    if (strcmp(task, "N/A") == 0) return true;
    long number = strtol(task, &end, 10);
    job->task = (int)number;
    return end != task && !*end && number > 0 && number < 1 << 30;
}

ks_status ks_queue_read(ks_queue *queue, const char *text, ks_err *err) {
    ks_status st = KS_OK;
    char *copy = strdup(text), *rest = copy, *line;
    KS_CHECK(copy, KS_NOMEM, "out of memory for squeue's lines");
    while ((line = strsep(&rest, "\n"))) {
        ks_queued job = {0};
        if (!*line || !read_line(line, &job)) continue; /* other people's */
        KS_TRY(ks_grow(&queue->at, &queue->capacity, queue->n + 1,
                       sizeof *queue->at, "queued jobs", err));
        queue->at[queue->n++] = job;
    }
    if (queue->n) qsort(queue->at, queue->n, sizeof *queue->at, by_id);
done:
    free(copy);
    return st;
}

ks_status ks_queue_ask(ks_queue *queue, bool *there, ks_err *err) {
    ks_status st = KS_OK;
    char *text = NULL, user[24];
    char *argv[] = {"squeue",         "-h", "-r", "-u", user, "-o",
                    "%F|%K|%T|%N|%r", NULL};
    snprintf(user, sizeof user, "%ld", (long)getuid());
    KS_TRY(ks_slurm_run(argv, NULL, &text, there, err));
    if (*there) KS_TRY(ks_queue_read(queue, text, err));
done:
    free(text);
    return st;
}

const ks_queued *ks_queue_find(const ks_queue *queue, long long id, int task) {
    const ks_queued key = {.id = id, .task = task};
    if (!queue->n) return NULL;
    return bsearch(&key, queue->at, queue->n, sizeof *queue->at, by_id);
}
