/* report.cpp - what is said about a defect, and the watchdog. */
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "internal.h"
#include "simt.h"

/* Asks addr2line; inlined CUDA headers and this folder's are skipped, so that
 * the line is the kernel's. */
void simt_locate(uintptr_t pc, char *text, size_t size) {
    snprintf(text, size, "%#zx", (size_t)pc);
    Dl_info info;
    if (!pc || !dladdr((void *)pc, &info) || !info.dli_fname) return;
    char program[4096];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    const char *object = info.dli_fname;
    if (n > 0 && !strstr(object, ".so")) program[n] = 0, object = program;
    char command[8192];
    /* A return address: the call ends just before it. */
    snprintf(command, sizeof command, "addr2line -i -e '%s' %#zx 2>/dev/null",
             object, (size_t)(pc - 1 - (uintptr_t)info.dli_fbase));
    FILE *pipe = popen(command, "r");
    if (!pipe) return;
    char line[4096];
    bool found = false;
    while (fgets(line, sizeof line, pipe)) {
        line[strcspn(line, " \n")] = 0;
        if (strstr(line, "??")) continue;
        bool ours = !strstr(line, "/include/") &&
                    !strstr(line, "simt_math.h") &&
                    !strstr(line, "simt/simt.h");
        if (!found) snprintf(text, size, "%s", line);
        found = found || ours;
    }
    pclose(pipe);
}

static void say(const char *where, const char *format, va_list list) {
    char sentence[1024];
    vsnprintf(sentence, sizeof sentence, format, list);
    fflush(stdout);
    fprintf(stderr, "simt: %s: %s", where, sentence);
    if (simt_running) {
        const char *name = simt_running->name;
        /* Of "kernel<4>, grid, ...", up to the first comma outside <>. */
        int deep = 0, end = 0;
        for (; name[end] && (name[end] != ',' || deep); end++)
            deep += (name[end] == '<') - (name[end] == '>');
        fprintf(stderr, " [kernel %.*s, block (%u,%u,%u)", end, name,
                blockIdx.x, blockIdx.y, blockIdx.z);
        if (simt_current)
            fprintf(stderr, ", thread (%u,%u,%u)", simt_current->thread.x,
                    simt_current->thread.y, simt_current->thread.z);
        fprintf(stderr, ", launched at %s:%d]", simt_running->at.file,
                simt_running->at.line);
    }
    fprintf(stderr, "\n");
    fflush(stderr);
}

static void say_site(simt_site at, const char *format, va_list list) {
    char where[512];
    snprintf(where, sizeof where, "%s:%d", at.file, at.line);
    say(where, format, list);
}

static void say_pc(uintptr_t pc, const char *format, va_list list) {
    char where[512];
    simt_locate(pc, where, sizeof where);
    say(where, format, list);
}

void simt_refuse(simt_site at, const char *format, ...) {
    va_list list;
    va_start(list, format);
    say_site(at, format, list);
    va_end(list);
    abort();
}

void simt_refuse_pc(uintptr_t pc, const char *format, ...) {
    va_list list;
    va_start(list, format);
    say_pc(pc, format, list);
    va_end(list);
    abort();
}

void simt_complain(simt_site at, const char *format, ...) {
    va_list list;
    va_start(list, format);
    say_site(at, format, list);
    va_end(list);
}

void simt_complain_pc(uintptr_t pc, const char *format, ...) {
    va_list list;
    va_start(list, format);
    say_pc(pc, format, list);
    va_end(list);
}

/* ---------------------------------------------------------------- watchdog
 * A thread looks ten times a second; when a launch is over its time, a signal
 * interrupts the thread that runs it, which then says where it is. */

namespace {

pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
bool watching, overdue;
double limit = 60, began;
pthread_t runner;

} // namespace

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void on_overdue(int, siginfo_t *, void *context) {
    if (!overdue) return;
    const ucontext_t *c = (const ucontext_t *)context;
    uintptr_t pc = (uintptr_t)c->uc_mcontext.gregs[REG_RIP];
    /* Does much that a handler should not; the process ends here anyway. */
    simt_refuse_pc(pc + 1, "watchdog: the launch runs for over %g s", limit);
}

static void *watch(void *) {
    for (;;) {
        usleep(100000);
        pthread_mutex_lock(&lock);
        if (began > 0 && now() - began > limit && !overdue) {
            overdue = true;
            pthread_kill(runner, SIGXCPU);
        }
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

void simt_watch(const char *kernel, simt_site) {
    pthread_mutex_lock(&lock);
    began = kernel ? now() : 0;
    runner = pthread_self();
    static pid_t owner; /* a fork has no watcher */
    if (kernel && (!watching || owner != getpid())) {
        watching = true;
        owner = getpid();
        struct sigaction action = {};
        action.sa_sigaction = on_overdue;
        action.sa_flags = SA_SIGINFO;
        sigaction(SIGXCPU, &action, NULL);
        pthread_t thread;
        if (!pthread_create(&thread, NULL, watch, NULL)) pthread_detach(thread);
    }
    pthread_mutex_unlock(&lock);
}

void simt_set_watchdog(double seconds) {
    limit = seconds;
}
