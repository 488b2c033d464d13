/* test_crash.c - kill -9 at any moment loses only work in flight: whatever was
 * left, --resume ends in the bytes of an uninterrupted run. Faults of the disk
 * leave either nothing or something that resumes. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include "acts_format.h"
#include "fixture.h"

static const ks_acts_options plain = {.sync_seconds = 5};
/* every commit is journaled: the most states to be killed in */
static const ks_acts_options eager = {.sync_seconds = -1, .resume = true};

static void reference(fixture *f, char ref[160]) {
    ks_err err = {0};
    fixture_make(f, KS_BF16, ALL_STREAMS, ALL_POSITIONS);
    snprintf(ref, 160, "%s.ref", f->path);
    cr_assert_eq(write_file(f, ref, plain, 9, &err), KS_OK, "%s", err.text);
}

static void name_of(const fixture *f, const char *tail, char name[160]) {
    snprintf(name, 160, "%s%s", f->path, tail);
}

static uint64_t nanoseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* A child writes with --resume; after `ns` it is killed. True when it ended
 * by itself first. */
static bool write_and_kill(const fixture *f, uint64_t ns) {
    pid_t child = fork();
    if (child == 0) {
        ks_err err = {0};
        ks_status st = write_file(f, f->path, eager, 1, &err);
        if (st != KS_OK) fprintf(stderr, "child: %s\n", err.text);
        _exit((int)st);
    }
    uint64_t until = nanoseconds() + ns;
    int status = 0;
    while (nanoseconds() < until) {
        struct timespec nap = {0, 20000};
        nanosleep(&nap, NULL);
        if (waitpid(child, &status, WNOHANG) == child) goto ended;
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) return false;
ended:
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0,
              "the child ended with %d", WEXITSTATUS(status));
    return true;
}

Test(crash, killed_at_random_moments_resumes_to_the_same_bytes,
     .timeout = 300) {
    fixture f;
    char ref[160];
    reference(&f, ref);
    uint64_t start = nanoseconds();
    cr_assert(write_and_kill(&f, UINT64_C(60000000000)));
    uint64_t whole = nanoseconds() - start;
    cr_assert(same_files(ref, f.path));
    unlink(f.path);
    uint64_t state = 88172645463325252u;
    int kills = 0;
    while (kills < 120) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        if (write_and_kill(&f, state % (whole + whole / 4))) {
            cr_assert(same_files(ref, f.path));
            unlink(f.path);
        } else {
            kills++;
            /* what has the final name is whole */
            if (ks_file_exists(f.path)) cr_assert(same_files(ref, f.path));
        }
    }
    cr_assert(write_and_kill(&f, UINT64_C(60000000000)));
    cr_assert(same_files(ref, f.path));
    fixture_free(&f);
}

/* Leaves a part with the first `chains` chains committed and journaled. */
static void interrupt(const fixture *f, int chains) {
    ks_err err = {0};
    ks_acts *acts = NULL;
    int64_t done;
    cr_assert_eq(ks_acts_create(&acts, f->path, &f->spec, &eager, &done, &err),
                 KS_OK, "%s", err.text);
    for (int c = chains_done(f, done); c < chains; c++)
        cr_assert_eq(write_chains(f, acts, c, c + 1, &err), KS_OK, "%s",
                     err.text);
    ks_acts_abandon(&acts);
}

static int64_t resume_at(const fixture *f, ks_status want, ks_err *err) {
    ks_acts *acts = NULL;
    int64_t done;
    ks_status st = ks_acts_create(&acts, f->path, &f->spec, &eager, &done, err);
    cr_assert_eq(st, want, "%d: %s", st, err->text);
    ks_acts_abandon(&acts);
    return done;
}

Test(crash, abandoned_work_is_kept) {
    fixture f;
    ks_err err = {0};
    char ref[160], part[160];
    reference(&f, ref);
    interrupt(&f, 4);
    name_of(&f, ".part", part);
    cr_assert(ks_file_exists(part) && !ks_file_exists(f.path));
    cr_assert_eq(resume_at(&f, KS_OK, &err), f.chain_end[4]);
    /* without --resume nor --force it stays as it is */
    cr_assert_eq(write_file(&f, f.path, plain, 9, &err), KS_EXISTS);
    cr_assert(strstr(err.text, "--resume") && strstr(err.text, "--force"), "%s",
              err.text);
    cr_assert_eq(write_file(&f, f.path, eager, 2, &err), KS_OK, "%s", err.text);
    cr_assert(same_files(ref, f.path));
    /* and once more: nothing to do */
    cr_assert_eq(resume_at(&f, KS_OK, &err), f.spec.n_steps);
    cr_assert(same_files(ref, f.path));
    fixture_free(&f);
}

/* Killed right after a sync that no clock asked for: all of it is there. */
Test(crash, a_sync_that_was_asked_for_keeps_what_was_committed) {
    fixture f;
    ks_err err = {0};
    char ref[160];
    reference(&f, ref);
    pid_t child = fork();
    if (child == 0) {
        ks_acts *acts = NULL;
        int64_t done;
        ks_acts_options never = {.sync_seconds = 3600};
        bool good = ks_acts_create(&acts, f.path, &f.spec, &never, &done,
                                   NULL) == KS_OK &&
                    ks_acts_sync(acts, NULL) == KS_OK && /* nothing yet */
                    write_chains(&f, acts, 0, 4, NULL) == KS_OK &&
                    write_chains(&f, acts, 4, 5, NULL) == KS_OK &&
                    ks_acts_sync(acts, NULL) == KS_OK;
        if (good) kill(getpid(), SIGKILL);
        _exit(1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    cr_assert(WIFSIGNALED(status), "the child could not write or sync");
    cr_assert_eq(resume_at(&f, KS_OK, &err), f.chain_end[5]);
    cr_assert_eq(write_file(&f, f.path, eager, 2, &err), KS_OK, "%s", err.text);
    cr_assert(same_files(ref, f.path));
    fixture_free(&f);
}

static void damage(const char *path, uint64_t at) {
    int fd = open(path, O_RDWR);
    uint8_t byte;
    cr_assert(pread(fd, &byte, 1, (off_t)at) == 1);
    byte ^= 0x10;
    cr_assert(pwrite(fd, &byte, 1, (off_t)at) == 1);
    close(fd);
}

Test(crash, a_row_that_the_disk_lost_is_computed_again) {
    fixture f;
    ks_err err = {0};
    char ref[160], part[160];
    reference(&f, ref);
    name_of(&f, ".part", part);
    interrupt(&f, 6);
    ks_acts_file *file = NULL;
    cr_assert_eq(ks__acts_open_any(&file, part, &err), KS_OK, "%s", err.text);
    int64_t step = f.chain_end[3] + 1; /* in chain 3, durable */
    uint64_t at =
        ks__acts_row_at(&file->layout, &file->layout.sets[7], 1, step);
    ks_acts_close(&file);
    damage(part, at);
    cr_assert_eq(resume_at(&f, KS_OK, &err), f.chain_end[3]);
    cr_assert_eq(write_file(&f, f.path, eager, 2, &err), KS_OK, "%s", err.text);
    cr_assert(same_files(ref, f.path));
    fixture_free(&f);
}

Test(crash, a_torn_journal_line_is_dropped) {
    static const char *const tails[] = {
        "{\"begin\":12,\"en",
        "\n\n",
        "garbage\n",
        "{\"begin\":0,\"end\":2,\"crc32c\":1}\n",
        "{\"begin\":14,\"end\":9000,\"crc32c\":1}\n",
        "{\"begin\":14,\"end\":17,\"crc32c\":1}\n"};
    for (size_t i = 0; i < KS_COUNT(tails); i++) {
        fixture f;
        ks_err err = {0};
        char ref[160], journal[160];
        reference(&f, ref);
        name_of(&f, ".journal", journal);
        interrupt(&f, 4);
        FILE *file = fopen(journal, "a");
        fputs(tails[i], file);
        fclose(file);
        cr_assert_eq(resume_at(&f, KS_OK, &err), f.chain_end[4], "tail %zu", i);
        cr_assert_eq(write_file(&f, f.path, eager, 3, &err), KS_OK, "%s",
                     err.text);
        cr_assert(same_files(ref, f.path));
        fixture_free(&f);
    }
}

Test(crash, a_lost_or_foreign_journal) {
    fixture f;
    ks_err err = {0};
    char ref[160], journal[160], part[160];
    reference(&f, ref);
    name_of(&f, ".journal", journal);
    name_of(&f, ".part", part);
    interrupt(&f, 4);
    unlink(journal); /* nothing vouches for the rows: afresh */
    cr_assert_eq(resume_at(&f, KS_OK, &err), 0);
    interrupt(&f, 4);
    static const char foreign[] =
        "{\"keystep_journal\":1,\"spec_sha256\":\"00\",\"bytes\":5}\n";
    cr_assert_eq(ks_write_file(journal, foreign, strlen(foreign), true, &err),
                 KS_OK);
    resume_at(&f, KS_MISMATCH, &err);
    cr_assert_eq(ks_write_file(journal, "hello\n", 6, true, &err), KS_OK);
    resume_at(&f, KS_FORMAT, &err);
    cr_assert_eq(ks_write_file(journal, "", 0, true, &err), KS_OK);
    resume_at(&f, KS_FORMAT, &err);
    cr_assert_eq(truncate(part, 5000), 0);
    resume_at(&f, KS_FORMAT, &err);
    ks_acts_options force = {.force = true};
    cr_assert_eq(write_file(&f, f.path, force, 9, &err), KS_OK, "%s", err.text);
    cr_assert(same_files(ref, f.path));
    fixture_free(&f);
}

/* Changes one thing, expects a refusal that names both, changes it back. */
#define REFUSED(field, value, was, now)                                        \
    do {                                                                       \
        fixture g = f;                                                         \
        g.spec.steps = g.steps;                                                \
        g.spec.chains = g.chains;                                              \
        g.field = value;                                                       \
        resume_at(&g, KS_MISMATCH, &err);                                      \
        cr_assert(strstr(err.text, was) && strstr(err.text, now), "%s",        \
                  err.text);                                                   \
    } while (0)

Test(crash, resume_under_other_settings_is_refused) {
    fixture f;
    ks_err err = {0};
    fixture_make(&f, KS_BF16, ALL_STREAMS, ALL_POSITIONS);
    for (int finished = 0; finished < 2; finished++) {
        if (!finished) interrupt(&f, 9);
        REFUSED(spec.isa, "avx512", "avx2", "avx512");
        REFUSED(spec.backend, "cuda", "cpu", "cuda");
        REFUSED(spec.model_sha256, "ff00", "ab12", "ff00");
        REFUSED(spec.tokenizer_hash, "ee", "cd34", "ee");
        REFUSED(spec.config, "{}", "{\"a\":1}", "{}");
        REFUSED(spec.dtype, KS_F16, "bf16", "f16");
        REFUSED(spec.random_weights, 7, "-1", "7");
        REFUSED(spec.positions, 1u << KS_MEAN, "63", "1");
        REFUSED(steps[3].byte_end, 99, "20", "99");
        REFUSED(steps[5].label, 1 - f.steps[5].label, "label", "bytes");
        REFUSED(chains[2].id, "other", "p1/0", "other");
        cr_assert_eq(write_file(&f, f.path, eager, 9, &err), KS_OK, "%s",
                     err.text);
    }
    fixture_free(&f);
}

Test(crash, force_continues_on_another_machine_and_says_so) {
    fixture f;
    ks_err err = {0};
    fixture_make(&f, KS_BF16, ALL_STREAMS, ALL_POSITIONS);
    interrupt(&f, 4);
    f.spec.isa = "avx512";
    ks_acts_options options = {.resume = true, .force = true};
    ks_acts *acts = NULL;
    int64_t done;
    cr_assert_eq(ks_acts_create(&acts, f.path, &f.spec, &options, &done, &err),
                 KS_OK, "%s", err.text);
    cr_assert_eq(done, f.chain_end[4]);
    ks_acts_abandon(&acts);
    cr_assert_eq(write_file(&f, f.path, options, 3, &err), KS_OK, "%s",
                 err.text);
    cr_assert_eq(ks_acts_verify(f.path, NULL, &err), KS_OK, "%s", err.text);
    ks_acts_file *file = NULL;
    cr_assert_eq(ks_acts_open(&file, f.path, &err), KS_OK);
    cr_assert_str_eq(ks_acts_get_info(file)->isa, "avx2+avx512");
    cr_assert_str_eq(ks_acts_get_info(file)->backend, "cpu");
    ks_acts_close(&file);
    fixture_free(&f);
}

/* ------------------------------------------------------------------ locking */

Test(crash, a_second_writer_is_told_who_holds_the_file) {
    fixture f;
    ks_err err = {0};
    fixture_make(&f, KS_BF16, ALL_STREAMS, ALL_POSITIONS);
    ks_acts *first = NULL;
    int64_t done;
    cr_assert_eq(ks_acts_create(&first, f.path, &f.spec, &plain, &done, &err),
                 KS_OK, "%s", err.text);
    char who[32];
    snprintf(who, sizeof who, "process %ld on ", (long)getpid());
    for (int way = 0; way < 3; way++) {
        ks_acts_options options = {.force = way == 1, .resume = way == 2};
        cr_assert_eq(write_file(&f, f.path, options, 9, &err), KS_EXISTS);
        cr_assert(strstr(err.text, who), "%s", err.text);
    }
    for (int c = 0; c < CHAINS; c++)
        cr_assert_eq(write_chains(&f, first, c, c + 1, &err), KS_OK);
    cr_assert_eq(ks_acts_finish(&first, &err), KS_OK, "%s", err.text);
    cr_assert_eq(ks_acts_verify(f.path, NULL, &err), KS_OK, "%s", err.text);
    fixture_free(&f);
}

/* --------------------------------------------------------------- full disks */

Test(crash, no_space_is_found_before_the_first_row) {
    fixture f;
    ks_err err = {0};
    fixture_make(&f, KS_BF16, ALL_STREAMS, ALL_POSITIONS);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {50000, RLIM_INFINITY};
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    cr_assert_eq(write_file(&f, f.path, plain, 9, &err), KS_IO);
    static const char *const tails[] = {"", ".part", ".journal", ".lock"};
    for (size_t i = 0; i < KS_COUNT(tails); i++) {
        char name[160];
        name_of(&f, tails[i], name);
        cr_assert(!ks_file_exists(name), "%s is left (%s)", name, err.text);
    }
    fixture_free(&f);
}

Test(crash, a_full_file_system) {
    fixture f;
    ks_err err = {0};
    fixture_make(&f, KS_BF16, ALL_STREAMS, ALL_POSITIONS);
    if (mount("tmpfs", f.dir, "tmpfs", 0, "size=64k") != 0) {
        fixture_free(&f);
        cr_skip_test("mounting a small tmpfs needs root");
    }
    ks_status st = write_file(&f, f.path, plain, 9, &err);
    char part[160];
    name_of(&f, ".part", part);
    bool left = ks_file_exists(part) || ks_file_exists(f.path);
    umount(f.dir);
    fixture_free(&f);
    cr_assert_eq(st, KS_IO, "%s", err.text);
    cr_assert(strstr(err.text, "No space left"), "%s", err.text);
    cr_assert(!left);
}

Test(crash, a_write_that_fails_midway_is_reported_and_resumes) {
    fixture f;
    ks_err err = {0};
    char ref[160];
    reference(&f, ref);
    interrupt(&f, 3);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit old, limit;
    getrlimit(RLIMIT_FSIZE, &old);
    limit = (struct rlimit){70000, old.rlim_max};
    ks_acts *acts = NULL;
    int64_t done;
    ks_acts_options options = {.resume = true, .sync_seconds = 60};
    cr_assert_eq(ks_acts_create(&acts, f.path, &f.spec, &options, &done, &err),
                 KS_OK, "%s", err.text);
    cr_assert_eq(done, f.chain_end[3]);
    setrlimit(RLIMIT_FSIZE, &limit);
    ks_status st = KS_OK;
    for (int c = 3; c < CHAINS && st == KS_OK; c++)
        st = write_chains(&f, acts, c, c + 1, &err);
    cr_expect_eq(ks_acts_sync(acts, &err), KS_IO);
    ks_status last = ks_acts_finish(&acts, &err);
    setrlimit(RLIMIT_FSIZE, &old);
    cr_assert_eq(last, KS_IO, "%s", err.text);
    cr_assert(strstr(err.text, "File too large"), "%s", err.text);
    cr_assert(!ks_file_exists(f.path));
    cr_assert_eq(write_file(&f, f.path, eager, 2, &err), KS_OK, "%s", err.text);
    cr_assert(same_files(ref, f.path));
    fixture_free(&f);
}

Test(crash, a_folder_that_is_not_there) {
    fixture f;
    ks_err err = {0};
    fixture_make(&f, KS_BF16, ALL_STREAMS, ALL_POSITIONS);
    cr_assert_eq(write_file(&f, "/nonexistent/x.h5", plain, 9, &err), KS_IO);
    cr_assert(strstr(err.text, "/nonexistent"), "%s", err.text);
    fixture_free(&f);
}
