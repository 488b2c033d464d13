/* child.h - runs a body in a child process with a seed, so that a refusal
 * (abort) or a sanitizer's verdict is an observation and not the end. */
#ifndef KS_SIMT_CHILD_H
#define KS_SIMT_CHILD_H

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control.h"

/* The cover build's: what this process has run counts too. */
extern "C" __attribute__((weak)) void __gcov_dump(void);

struct outcome {
    int status; /* the body's answer, or -1: the child died */
    char text[8192];
};

template <class Body> static outcome run_child(uint64_t seed, Body body) {
    outcome out = {-1, ""};
    int ends[2];
    fflush(NULL);
    if (pipe(ends)) return out;
    pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        signal(SIGABRT, SIG_DFL); /* the test framework has its own */
        signal(SIGSEGV, SIG_DFL);
        simt_seed(seed);
        int status = body();
        if (__gcov_dump) __gcov_dump();
        _exit(status);
    }
    close(ends[1]);
    size_t have = 0;
    char sink[4096];
    ssize_t n;
    while ((n = read(ends[0], sink, sizeof sink)) > 0)
        for (ssize_t i = 0; i < n; i++)
            if (have + 1 < sizeof out.text) out.text[have++] = sink[i];
    close(ends[0]);
    int status;
    if (pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status))
        out.status = WEXITSTATUS(status);
    return out;
}

#endif
