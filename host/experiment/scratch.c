/* scratch.c - outputs that are made on the node's own disk: brought there to go
 * on with, and moved to the run's folder afterwards, whole or interrupted. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "task.h"

ks_status ks__exp_scratch_name(const ks_exp_run *run, const ks_exp_task *task,
                               const char *scratch, char **folder,
                               ks_err *err) {
    /* two runs may share a node, and a key is the same in both */
    char hex[65];
    ks_sha256_of(run->folder, strlen(run->folder), hex);
    if (asprintf(folder, "%s/keystep-%.8s-%s-%s", scratch, hex,
                 run->plan.stages[task->stage].id,
                 ks_exp_task_name_of(task).text) < 0)
        return ks_fail(err, KS_NOMEM, "out of memory for a path");
    return KS_OK;
}

static ks_status copy_bytes(int from, int to, const char *path, ks_err *err) {
    enum { PIECE = 1 << 20 };
    ks_status st = KS_OK;
    char *piece = NULL;
    ssize_t n;
    KS_TRY(ks_alloc(&piece, PIECE, 1, "a file's bytes", err));
    while ((n = read(from, piece, PIECE)) > 0)
        for (ssize_t done = 0; done < n;) {
            ssize_t put = write(to, piece + done, (size_t)(n - done));
            KS_CHECK(put > 0, KS_IO, "%s: cannot write: %s", path,
                     strerror(errno));
            done += put;
        }
    KS_CHECK(n == 0, KS_IO, "%s: cannot read: %s", path, strerror(errno));
    KS_CHECK(fsync(to) == 0 || errno == EINVAL, KS_IO, "%s: cannot sync: %s",
             path, strerror(errno));
done:
    free(piece);
    return st;
}

/* Under another name until it is whole. */
static ks_status copy_file(const char *from, const char *to, ks_err *err) {
    ks_status st = KS_OK;
    char *fresh = NULL;
    int in = open(from, O_RDONLY | O_CLOEXEC), out = -1;
    KS_CHECK(in >= 0, KS_IO, "%s: cannot open: %s", from, strerror(errno));
    const char *slash = strrchr(to, '/');
    KS_CHECK(asprintf(&fresh, "%.*s/moving-%s", (int)(slash - to), to,
                      slash + 1) >= 0,
             KS_NOMEM, "out of memory for a path");
    out = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    KS_CHECK(out >= 0, KS_IO, "%s: cannot create: %s", fresh, strerror(errno));
    KS_TRY(copy_bytes(in, out, fresh, err));
    KS_CHECK(rename(fresh, to) == 0, KS_IO, "%s: cannot rename to: %s", to,
             strerror(errno));
    KS_TRY(ks_sync_folder_of(to, err));
done:
    if (in >= 0) close(in);
    if (out >= 0) close(out);
    if (st != KS_OK && fresh) unlink(fresh);
    free(fresh);
    return st;
}

/* Journals behind what they tell of: a journal that was moved alone would count
 * rows that are not there. */
static int journals_last(const struct dirent **a, const struct dirent **b) {
    int x = ks_ends_with((*a)->d_name, ".journal"),
        y = ks_ends_with((*b)->d_name, ".journal");
    return x != y ? x - y : strcmp((*a)->d_name, (*b)->d_name);
}

static ks_status copy_folder(const char *from, const char *to, ks_err *err) {
    ks_status st = KS_OK;
    struct dirent **names = NULL;
    char *a = NULL, *b = NULL;
    int n = scandir(from, &names, NULL, journals_last);
    KS_CHECK(n >= 0, KS_IO, "%s: cannot list: %s", from, strerror(errno));
    KS_CHECK(mkdir(to, 0777) == 0 || errno == EEXIST, KS_IO,
             "%s: cannot make the folder: %s", to, strerror(errno));
    for (int i = 0; i < n; i++) {
        const char *name = names[i]->d_name;
        struct stat info;
        if (*name == '.' || ks_ends_with(name, ".lock")) continue;
        KS_TRY(ks_path_join(&a, from, name, err));
        KS_TRY(ks_path_join(&b, to, name, err));
        KS_CHECK(lstat(a, &info) == 0, KS_IO, "%s: %s", a, strerror(errno));
        if (S_ISDIR(info.st_mode))
            KS_TRY(copy_folder(a, b, err));
        else if (S_ISREG(info.st_mode))
            KS_TRY(copy_file(a, b, err));
        free(a);
        free(b);
        a = b = NULL;
    }
done:
    for (int i = 0; i < n; i++) free(names[i]);
    free(names);
    free(a);
    free(b);
    return st;
}

/* ------------------------------------------------------ what a task leaves */

static const char *const ways[] = {".part", ".journal"};

typedef ks_status (*each_fn)(const char *there, const char *name, void *user,
                             ks_err *err);

/* Calls each for what an interrupted attempt leaves in the stage's folder. */
static ks_status each_left(const ks_exp_run *run, const ks_exp_task *task,
                           each_fn each, void *user, ks_err *err) {
    ks_status st = KS_OK;
    const ks_exp_stage *s = &run->plan.stages[task->stage];
    char *base = NULL, *name = NULL, *path = NULL;
    for (size_t i = 0; s->outputs[i]; i++) {
        if (task->kind == KS_EXP_SHARD)
            KS_TRY(ks__exp_shard_name(s->outputs[i], task, &base, err));
        else
            base = strdup(s->outputs[i]);
        KS_CHECK(base, KS_NOMEM, "out of memory for a path");
        for (size_t k = 0; k < KS_COUNT(ways); k++) {
            KS_CHECK(asprintf(&name, "%s%s", base, ways[k]) >= 0, KS_NOMEM,
                     "out of memory for a path");
            KS_TRY(ks_exp_stage_path(run, task->stage, name, &path, err));
            if (ks_file_exists(path)) KS_TRY(each(path, name, user, err));
            free(name);
            free(path);
            name = path = NULL;
        }
        free(base);
        base = NULL;
    }
done:
    free(base);
    free(name);
    free(path);
    return st;
}

static ks_status bring(const char *there, const char *name, void *user,
                       ks_err *err) {
    ks_status st = KS_OK;
    char *to = NULL;
    KS_TRY(ks_path_join(&to, user, name, err));
    KS_TRY(copy_file(there, to, err));
done:
    free(to);
    return st;
}

static ks_status find_any(const char *there, const char *name, void *user,
                          ks_err *err) {
    (void)there, (void)name, (void)err;
    *(bool *)user = true;
    return KS_OK;
}

/* On a disk that others write to somebody may have been there first, with links
 * to our files in it, or with results of theirs. */
static ks_status make_folder(const char *folder, ks_err *err) {
    struct stat info;
    if (mkdir(folder, 0700) == 0) return KS_OK;
    if (errno != EEXIST)
        return ks_fail(err, KS_IO, "%s: cannot make the folder: %s", folder,
                       strerror(errno));
    if (lstat(folder, &info) == 0 && S_ISDIR(info.st_mode) &&
        info.st_uid == geteuid())
        return KS_OK;
    return ks_fail(err, KS_IO,
                   "%s: is no folder of this user's; remove it, or choose "
                   "another --scratch",
                   folder);
}

ks_status ks__exp_scratch_in(const ks_exp_run *run, const ks_exp_task *task,
                             const char *folder, ks_err *err) {
    ks_status st = KS_OK;
    bool left = false;
    KS_TRY(each_left(run, task, find_any, &left, err));
    /* A folder on the node is what a killed attempt left: it counts where the
     * run's folder has nothing; else another node may have gone on since. */
    if (left) ks__exp_remove(folder);
    KS_TRY(make_folder(folder, err));
    KS_TRY(each_left(run, task, bring, (void *)(uintptr_t)folder, err));
done:
    /* copies, of which one may be cut off */
    if (st != KS_OK && left) ks__exp_remove(folder);
    return st;
}

void ks__exp_scratch_unused(const ks_exp_run *run, const ks_exp_task *task,
                            const char *scratch) {
    char *folder = NULL;
    if (ks__exp_scratch_name(run, task, scratch, &folder, NULL) == KS_OK)
        rmdir(folder);
    free(folder);
}

/* A part that the attempt finished is no part any more. */
static ks_status drop_finished(const char *there, const char *name, void *user,
                               ks_err *err) {
    ks_status st = KS_OK;
    char *here = NULL;
    KS_TRY(ks_path_join(&here, user, name, err));
    if (!ks_file_exists(here)) unlink(there);
done:
    free(here);
    return st;
}

ks_status ks__exp_scratch_out(const ks_exp_run *run, const ks_exp_task *task,
                              const char *folder, ks_err *err) {
    ks_status st = KS_OK;
    char *to = NULL;
    KS_TRY(ks_exp_stage_path(run, task->stage, NULL, &to, err));
    KS_TRY(copy_folder(folder, to, err));
    KS_TRY(each_left(run, task, drop_finished, (void *)(uintptr_t)folder, err));
    ks__exp_remove(folder);
done:
    free(to);
    return st;
}
