/* file.c - mapped and whole files, atomic writes, locks, SHA-256. */
#include "base.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static ks_status io_error(ks_err *err, const char *path, const char *doing) {
    return ks_fail(err, KS_IO, "%s: cannot %s: %s", path, doing,
                   strerror(errno));
}

ks_status ks_map_open(ks_map *out, const char *path, ks_err *err) {
    *out = (ks_map){0};
    ks_status st = KS_OK;
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return io_error(err, path, "open");
    if (fstat(fd, &info) != 0) {
        st = io_error(err, path, "stat");
        goto done;
    }
    KS_CHECK(S_ISREG(info.st_mode), KS_IO, "%s: not a regular file", path);
    if (info.st_size == 0) goto done;
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) {
        st = io_error(err, path, "map");
        goto done;
    }
    *out = (ks_map){data, (size_t)info.st_size};
done:
    close(fd);
    return st;
}

void ks_map_close(ks_map *map) {
    if (map->data) munmap((void *)(uintptr_t)map->data, map->size);
    *map = (ks_map){0};
}

static bool is_standard(const char *path) {
    return strcmp(path, "-") == 0;
}

static const char *shown(const char *path) {
    return is_standard(path) ? "standard input" : path;
}

/* A pipe ends with its writer. */
static bool has_end(const struct stat *info, int fd) {
    bool device = S_ISCHR(info->st_mode) || S_ISBLK(info->st_mode);
    bool null = S_ISCHR(info->st_mode) && info->st_rdev == makedev(1, 3);
    return !device || null || isatty(fd);
}

ks_status ks_open_input(FILE **out, const char *path, ks_err *err) {
    ks_status st = KS_OK;
    struct stat info;
    *out = NULL;
    FILE *file = is_standard(path) ? stdin : fopen(path, "rbe");
    if (!file) return io_error(err, path, "open");
    if (fstat(fileno(file), &info) != 0) KS_TRY(io_error(err, path, "stat"));
    KS_CHECK(has_end(&info, fileno(file)), KS_IO,
             "%s: is a device, which need not end; expected a file or a pipe",
             shown(path));
    *out = file;
    file = NULL;
done:
    ks_close_input(file);
    return st;
}

void ks_close_input(FILE *file) {
    if (file && file != stdin) fclose(file);
}

ks_status ks_read_file(const char *path, size_t most, char **text,
                       size_t *length, ks_err *err) {
    ks_status st = KS_OK;
    ks_str all = {0};
    FILE *file = NULL;
    char buffer[1 << 16];
    size_t n;
    KS_TRY(ks_open_input(&file, path, err));
    KS_TRY(ks_str_add(&all, "", 0, err));
    while ((n = fread(buffer, 1, sizeof buffer, file)) > 0) {
        KS_CHECK(n <= most - all.length, KS_LIMIT,
                 "%s: more than %zu bytes, the most that are read here; check "
                 "that it is the file you mean",
                 shown(path), most);
        KS_TRY(ks_str_add(&all, buffer, n, err));
    }
    if (ferror(file)) KS_TRY(io_error(err, path, "read"));
    *text = all.data;
    if (length) *length = all.length;
    all.data = NULL;
done:
    ks_close_input(file);
    free(all.data);
    return st;
}

bool ks_file_exists(const char *path) {
    struct stat info;
    return lstat(path, &info) == 0;
}

ks_status ks_refuse_existing(const char *path, bool force, ks_err *err) {
    ks_status st = KS_OK;
    struct stat info;
    char *copy = NULL;
    KS_CHECK(*path, KS_USAGE, "the output's name is empty");
    if (ks_file_exists(path)) {
        /* a rename would put a file in the place of a device or a pipe */
        KS_CHECK(stat(path, &info) != 0 || S_ISREG(info.st_mode), KS_EXISTS,
                 "%s exists and is %s, expected a name for a file", path,
                 S_ISDIR(info.st_mode) ? "a folder" : "no regular file");
        KS_CHECK(force, KS_EXISTS, "%s exists; --force overwrites it", path);
        return KS_OK;
    }
    copy = strdup(path);
    KS_CHECK(copy, KS_NOMEM, "out of memory for a path");
    const char *folder = dirname(copy);
    KS_CHECK(access(folder, W_OK | X_OK) == 0, KS_IO,
             "%s: cannot create a file in %s: %s", path, folder,
             strerror(errno));
done:
    free(copy);
    return st;
}

ks_status ks_path_join(char **out, const char *dir, const char *name,
                       ks_err *err) {
    size_t n = strlen(dir);
    const char *slash = n && dir[n - 1] == '/' ? "" : "/";
    if (asprintf(out, "%s%s%s", dir, slash, name) < 0)
        return ks_fail(err, KS_NOMEM, "out of memory for a path");
    return KS_OK;
}

ks_status ks_sync_folder_of(const char *path, ks_err *err) {
    char *copy = strdup(path);
    if (!copy) return ks_fail(err, KS_NOMEM, "out of memory for a path");
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(copy);
    if (fd < 0) return io_error(err, path, "open the folder of");
    int failed = fsync(fd) != 0 && errno != EINVAL;
    ks_status st = failed ? io_error(err, path, "sync the folder of") : KS_OK;
    close(fd);
    return st;
}

ks_status ks_write_file(const char *path, const char *text, size_t length,
                        bool force, ks_err *err) {
    ks_status st = KS_OK;
    char *fresh = NULL;
    FILE *file = NULL;
    KS_TRY(ks_refuse_existing(path, force, err));
    if (asprintf(&fresh, "%s.new", path) < 0) {
        fresh = NULL;
        KS_CHECK(false, KS_NOMEM, "out of memory for a path");
    }
    file = fopen(fresh, "wbe");
    if (!file) KS_TRY(io_error(err, fresh, "create"));
    if (fwrite(text, 1, length, file) != length || fflush(file) != 0 ||
        fsync(fileno(file)) != 0)
        KS_TRY(io_error(err, fresh, "write"));
    int closed = fclose(file);
    file = NULL;
    if (closed != 0) KS_TRY(io_error(err, fresh, "write"));
    if (rename(fresh, path) != 0) KS_TRY(io_error(err, path, "rename to"));
    KS_TRY(ks_sync_folder_of(path, err));
done:
    if (file) fclose(file);
    if (st != KS_OK && st != KS_EXISTS && fresh) unlink(fresh);
    free(fresh);
    return st;
}

ks_status ks_write_out(const char *path, const char *text, size_t length,
                       bool force, ks_err *err) {
    if (path && strcmp(path, "-") != 0)
        return ks_write_file(path, text, length, force, err);
    if (fwrite(text, 1, length, stdout) != length || fflush(stdout) != 0)
        return ks_fail(err, KS_IO, "standard output: cannot write: %s",
                       strerror(errno));
    return KS_OK;
}

/* ---------------------------------------------------------- the same file */

/* The folder as the system knows it, and the name in it; false: no such
 * folder. */
static bool resolve(const char *path, char folder[PATH_MAX], char *name,
                    size_t n) {
    char copy[PATH_MAX];
    if (strlen(path) >= sizeof copy) return false;
    strcpy(copy, path);
    bool found = realpath(dirname(copy), folder) != NULL;
    strcpy(copy, path);
    snprintf(name, n, "%s", basename(copy));
    return found;
}

/* Of names that are not there yet the folders count. */
static bool same_file(const char *a, const char *b) {
    struct stat x, y;
    char in_a[PATH_MAX], in_b[PATH_MAX], name_a[NAME_MAX + 1],
        name_b[NAME_MAX + 1];
    bool a_there = stat(a, &x) == 0, b_there = stat(b, &y) == 0;
    if (a_there && b_there) return x.st_dev == y.st_dev && x.st_ino == y.st_ino;
    return !a_there && !b_there && resolve(a, in_a, name_a, sizeof name_a) &&
           resolve(b, in_b, name_b, sizeof name_b) && strcmp(in_a, in_b) == 0 &&
           strcmp(name_a, name_b) == 0;
}

static ks_status refuse_pair(const ks_use *out, const ks_use *other,
                             ks_err *err) {
    static const char *const ways[] = {".part", ".new", ".lock", ".journal"};
    ks_status st = KS_OK;
    char *way = NULL;
    bool mine = is_standard(out->path), theirs = is_standard(other->path);
    KS_CHECK(!(mine && theirs && other->written), KS_USAGE,
             "%s and %s both want standard output", out->option, other->option);
    if (mine || theirs) return KS_OK;
    KS_CHECK(!same_file(out->path, other->path), KS_USAGE,
             other->written ? "%s and %s name the same file: %s"
                            : "%s would overwrite what %s names: %s",
             out->option, other->option, other->path);
    for (size_t i = 0; i < KS_COUNT(ways); i++) {
        free(way);
        KS_CHECK(asprintf(&way, "%s%s", out->path, ways[i]) >= 0, KS_NOMEM,
                 "out of memory for a path");
        KS_CHECK(!same_file(way, other->path), KS_USAGE,
                 "%s %s is written by way of %s, which %s names", out->option,
                 out->path, way, other->option);
    }
done:
    free(way);
    return st;
}

ks_status ks_refuse_overlap(const ks_use *uses, size_t n, ks_err *err) {
    ks_status st = KS_OK;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < n && uses[i].written; k++)
            if (k != i && uses[i].path && uses[k].path)
                KS_TRY(refuse_pair(&uses[i], &uses[k], err));
done:
    return st;
}

/* ------------------------------------------------------------------- locks */

static void read_holder(int fd, char *holder, size_t n) {
    ssize_t got = pread(fd, holder, n - 1, 0);
    holder[got > 0 ? got : 0] = 0;
    holder[strcspn(holder, "\n")] = 0;
}

static ks_status is_held(const ks_lock *lock, const char *of, ks_err *err) {
    char holder[256];
    if (errno != EWOULDBLOCK) return io_error(err, lock->path, "lock");
    read_holder(lock->fd, holder, sizeof holder);
    return ks_fail(err, KS_EXISTS, "%s is being written by %s", of,
                   holder[0] ? holder : "another process");
}

/* Does the name still mean the file that was opened? */
static bool is_named(const ks_lock *lock) {
    struct stat opened, named;
    return fstat(lock->fd, &opened) == 0 && stat(lock->path, &named) == 0 &&
           opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
}

static void forget(ks_lock *lock) {
    if (lock->fd >= 0) close(lock->fd);
    free(lock->path);
    *lock = (ks_lock){0};
}

/* The lock is flock's, which the kernel drops with the process however it
 * ends; the file's text only says whose it is. The holder removes the file,
 * so the name is looked at again once the lock is held. */
ks_status ks_lock_take(ks_lock *lock, const char *of, ks_err *err) {
    ks_status st = KS_OK;
    char host[128] = "?", text[256];
    *lock = (ks_lock){.fd = -1};
    if (asprintf(&lock->path, "%s.lock", of) < 0) {
        lock->path = NULL;
        KS_CHECK(false, KS_NOMEM, "out of memory for a path");
    }
    do {
        if (lock->fd >= 0) close(lock->fd);
        lock->fd = open(lock->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (lock->fd < 0) KS_TRY(io_error(err, lock->path, "create"));
        if (flock(lock->fd, LOCK_EX | LOCK_NB) != 0)
            KS_TRY(is_held(lock, of, err));
    } while (!is_named(lock));
    gethostname(host, sizeof host - 1);
    int n = snprintf(text, sizeof text, "process %ld on %s\n", (long)getpid(),
                     host);
    if (ftruncate(lock->fd, 0) != 0 ||
        pwrite(lock->fd, text, (size_t)n, 0) != n) {
        st = io_error(err, lock->path, "write");
        unlink(lock->path);
    }
done:
    if (st != KS_OK) forget(lock);
    return st;
}

void ks_lock_drop(ks_lock *lock) {
    if (!lock->path) return;
    unlink(lock->path);
    forget(lock);
}

/* ------------------------------------------------------------------ hashes */

struct ks_sha256 {
    EVP_MD_CTX *context;
};

ks_status ks_sha256_open(ks_sha256 **out, ks_err *err) {
    *out = NULL;
    ks_sha256 *hash = calloc(1, sizeof *hash);
    if (hash) hash->context = EVP_MD_CTX_new();
    if (!hash || !hash->context ||
        EVP_DigestInit_ex(hash->context, EVP_sha256(), NULL) != 1) {
        ks_sha256_close(&hash, NULL);
        return ks_fail(err, KS_NOMEM, "cannot start a SHA-256");
    }
    *out = hash;
    return KS_OK;
}

void ks_sha256_add(ks_sha256 *hash, const void *data, size_t n) {
    EVP_DigestUpdate(hash->context, data, n);
}

static void to_hex(const unsigned char *digest, char hex[65]) {
    for (int i = 0; i < 32; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

void ks_sha256_close(ks_sha256 **hash, char hex[65]) {
    if (!*hash) return;
    unsigned char digest[EVP_MAX_MD_SIZE];
    if (hex && EVP_DigestFinal_ex((*hash)->context, digest, NULL) == 1)
        to_hex(digest, hex);
    EVP_MD_CTX_free((*hash)->context);
    free(*hash);
    *hash = NULL;
}

void ks_sha256_of(const void *data, size_t n, char hex[65]) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    EVP_Digest(data, n, digest, NULL, EVP_sha256(), NULL);
    to_hex(digest, hex);
}
