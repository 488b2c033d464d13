/* test_resume.c - a capture that was stopped or killed goes on to the bytes of
 * one that was not. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fixture.h"

TestSuite(resume, .init = begin, .fini = end, .timeout = 300);

static void interrupt_after(void *user, int64_t done, int64_t all) {
    (void)done;
    (void)all;
    int *left = user;
    if (--*left == 0) ks_interrupted = SIGINT;
}

Test(resume, an_interrupted_run_resumes_to_the_same_bytes) {
    write_chains("chains.jsonl", 9);
    ks_capture_options a = options_for("a.h5"), b = options_for("b.h5");
    must_capture(&a);
    b.engine.batch_tokens = 1;
    b.resume = true;
    ks_err err = {0};
    for (int stops = 0; stops < 3; stops++) {
        ks_capture_job *job = NULL;
        int left = 2;
        cr_assert_eq(ks_capture_open(&job, &b, &err), KS_OK, "%s", err.text);
        int64_t resumed = -1;
        cr_assert_eq(
            ks_capture_run(job, interrupt_after, &left, &resumed, &err),
            KS_INTERRUPTED, "%s", err.text);
        cr_assert(strstr(err.text, "--resume"), "%s", err.text);
        cr_assert_eq(resumed, stops ? job->seqs[2 * stops].step : 0);
        ks_capture_close(&job);
        ks_interrupted = 0;
        cr_assert(!ks_file_exists(b.out));
    }
    b.engine.batch_tokens = 0; /* other batches for the rest */
    must_capture(&b);
    cr_assert(same_files(a.out, b.out));
    must_capture(&b); /* nothing left to do */
    b.resume = false;
    cr_assert_eq(capture(&b, &err), KS_EXISTS);
}

#ifdef KS_PROGRAM
static pid_t start_program(const char *out, const char *option) {
    pid_t child = fork();
    if (child == 0) {
        execl(KS_PROGRAM, "keystep", "capture", "--model", MODEL, "--chains",
              name_of("chains.jsonl"), "--out", name_of(out), "--batch-tokens",
              "64", "--threads", "1", "--quiet", option, (char *)NULL);
        _exit(127);
    }
    return child;
}

static int wait_for(pid_t child) {
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Test(resume, the_program_killed_at_random_moments) {
    if (access(KS_PROGRAM, X_OK) != 0) cr_skip_test("no program was built");
    write_chains("chains.jsonl", 16);
    double start = ks_seconds();
    cr_assert_eq(wait_for(start_program("a.h5", "--force")), 0);
    double whole = ks_seconds() - start;
    uint32_t state = 2463534242u;
    int n =
        getenv("KS_UNDER_SANITIZER") ? 8 : 25; /* each takes seconds there */
    for (int kills = 0; kills < n; kills++) {
        state ^= state << 13, state ^= state >> 17, state ^= state << 5;
        pid_t child = start_program("b.h5", "--resume");
        usleep((useconds_t)(whole * 1e6 * (double)(state % 1000) / 1000));
        kill(child, kills % 5 == 4 ? SIGTERM : SIGKILL);
        int code = wait_for(child);
        cr_assert(code == -1 || code == 0 || code == 130, "%d", code);
        if (ks_file_exists(name_of("b.h5"))) {
            cr_assert(same_files(name_of("a.h5"), name_of("b.h5")));
            unlink(name_of("b.h5"));
        }
    }
    cr_assert_eq(wait_for(start_program("b.h5", "--resume")), 0);
    cr_assert(same_files(name_of("a.h5"), name_of("b.h5")));
    cr_assert_eq(wait_for(start_program("b.h5", "--quiet")), 1);
}
#endif
