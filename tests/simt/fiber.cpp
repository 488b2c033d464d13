/* fiber.cpp - one fiber per CUDA thread, with a hand-written switch (x86-64,
 * System V): callee-saved registers, the stack pointer, nothing else. */
#include <stdlib.h>
#include <sys/mman.h>

#include "internal.h"
#include "simt.h"

#ifndef __x86_64__
#error "the context switch is written for x86-64"
#endif

namespace {

/* Sanitizers make frames larger. Beyond each stack lies a page of nothing. */
const size_t STACK = SIMT_ASAN ? 512 << 10 : 128 << 10;
const size_t GUARD = 4096;

simt_fiber fibers[SIMT_MAX_THREADS];
char *stacks; /* SIMT_MAX_THREADS of GUARD + STACK bytes */
int opened;   /* fibers that have a stack */
void *main_sp;
#if SIMT_ASAN
void *main_fake;
const void *main_bottom; /* the real bounds of the host thread's stack */
size_t main_size;
#endif

} // namespace

__thread simt_fiber *simt_current;

extern "C" void simt_switch(void **save, void *to);
__asm__(".text\n"
        ".globl simt_switch\n"
        ".type simt_switch, @function\n"
        "simt_switch:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size simt_switch, . - simt_switch\n");

int simt_stack_owner(const void *p) {
    size_t at = (size_t)((const char *)p - stacks) / (GUARD + STACK);
    return stacks && at < SIMT_MAX_THREADS ? (int)at : -1;
}

static void open_stacks(int count) {
    if (!stacks) {
        void *room = mmap(NULL, SIMT_MAX_THREADS * (GUARD + STACK),
                          PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (room == MAP_FAILED) abort();
        stacks = (char *)room;
    }
    for (; opened < count; opened++) {
        char *guard = stacks + (size_t)opened * (GUARD + STACK);
        if (mprotect(guard, GUARD, PROT_NONE)) abort();
        fibers[opened].stack = guard + GUARD;
        fibers[opened].copies = new std::vector<simt_copy>;
    }
}

simt_fiber *simt_fiber_get(int index) {
    if (index >= opened) open_stacks(index + 1);
    return &fibers[index];
}

static void leave(bool for_good, const void *bottom, size_t size) {
#if SIMT_ASAN
    void **fake = simt_current ? &simt_current->fake : &main_fake;
    __sanitizer_start_switch_fiber(for_good ? NULL : fake, bottom, size);
#else
    (void)for_good, (void)bottom, (void)size;
#endif
}

static void arrive(void) {
#if SIMT_ASAN
    __sanitizer_finish_switch_fiber(
        simt_current ? simt_current->fake : main_fake, NULL, NULL);
#endif
}

static void begin(void) {
#if SIMT_ASAN
    /* The first fiber comes from the host thread's stack: its real bounds. */
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(NULL, &bottom, &size);
    if (!main_bottom) main_bottom = bottom, main_size = size;
#endif
    simt_fiber_body();
    simt_current->state = SIMT_DONE;
    simt_yield(); /* does not return */
    abort();
}

static void set_up(simt_fiber *f) {
#if SIMT_ASAN
    /* Frames that the last thread left here, from where it stopped: the whole
     * stack's shadow would take most of a run. */
    char *low = f->sp ? (char *)f->sp : f->stack;
    __asan_unpoison_memory_region(low, (size_t)(f->stack + STACK - low));
#endif
    void **top = (void **)(f->stack + STACK);
    *--top = NULL; /* begin's return address: the end of a backtrace */
    *--top = (void *)begin;
    for (int i = 0; i < 6; i++) *--top = NULL;
    f->sp = top;
    f->begun = true;
#if SIMT_ASAN
    f->fake = NULL;
#endif
}

static void go(simt_fiber *to) {
    simt_fiber *from = simt_current;
    if (to == from) return;
    if (to && !to->begun) set_up(to);
    void **save = from ? &from->sp : &main_sp;
    bool for_good = from && from->state == SIMT_DONE;
#if SIMT_ASAN
    leave(for_good, to ? to->stack : main_bottom, to ? STACK : main_size);
#else
    leave(for_good, NULL, 0);
#endif
    simt_current = to;
    if (to) threadIdx = to->thread;
    void *sp = to ? to->sp : main_sp;
    simt_switch(save, sp);
    arrive();
}

void simt_yield(void) {
    go(simt_next());
}

void simt_fibers_run(void) {
#if SIMT_ASAN
    main_bottom = NULL; /* another host thread may drain this time */
#endif
    go(simt_next());
}
