/* criterion.h - the part of Criterion that our tests use, for machines that do
 * not have it: the same test sources build against this header and runner.cpp.
 * Each test runs in a process of its own, so a device that one test has lost is
 * whole again for the next. */
#ifndef KS_SHIM_CRITERION_H
#define KS_SHIM_CRITERION_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
/* All that the tests include of these comes before the macros below. */
#include <algorithm>
#include <string>
#include <type_traits>
#include <vector>
extern "C" {
#endif

struct shim_options {
    void (*init)(void), (*fini)(void);
    double timeout;
    int exit_code, signal;
    bool disabled;
};

struct shim_test {
    const char *suite, *name, *file;
    int line;
    void (*body)(void);
    struct shim_options options;
    bool done; /* its turn is over */
    struct shim_test *next;
};

/* Options of a suite's tests that have none of their own. */
struct shim_suite {
    const char *name;
    struct shim_options options;
    struct shim_suite *next;
};

void shim_register(struct shim_test *test);
void shim_register_suite(struct shim_suite *suite);
/* Says what failed and where; fatal: ends the test. */
void shim_fail(bool fatal, const char *file, int line, const char *condition,
               const char *format, ...) __attribute__((format(printf, 5, 6)));
/* Ends the test as skipped. */
void shim_skip(const char *format, ...)
    __attribute__((noreturn, format(printf, 1, 2)));

#ifdef __cplusplus
}
#endif

#define Test(suite_, name_, ...)                                               \
    static void suite_##_##name_##_body(void);                                 \
    __attribute__((constructor)) static void suite_##_##name_##_register(      \
        void) {                                                                \
        static struct shim_test test;                                          \
        test.suite = #suite_;                                                  \
        test.name = #name_;                                                    \
        test.file = __FILE__;                                                  \
        test.line = __LINE__;                                                  \
        test.body = suite_##_##name_##_body;                                   \
        test.options = SHIM_OPTIONS{__VA_ARGS__};                              \
        shim_register(&test);                                                  \
    }                                                                          \
    static void suite_##_##name_##_body(void)
#define TestSuite(suite_, ...)                                                 \
    __attribute__((constructor)) static void suite_##_suite_register(void) {   \
        static struct shim_suite suite;                                        \
        suite.name = #suite_;                                                  \
        suite.options = SHIM_OPTIONS{__VA_ARGS__};                             \
        shim_register_suite(&suite);                                           \
    }                                                                          \
    struct shim_suite /* takes the semicolon */
#ifdef __cplusplus
#define SHIM_OPTIONS shim_options
#else
#define SHIM_OPTIONS (struct shim_options)
#endif

/* The format is optional: "" in front of it makes one of none. */
#define SHIM_CHECK(fatal, condition, words, ...)                               \
    do {                                                                       \
        if (!(condition))                                                      \
            shim_fail(fatal, __FILE__, __LINE__, words, "" __VA_ARGS__);       \
    } while (0)
#define cr_expect(condition, ...)                                              \
    SHIM_CHECK(false, condition, #condition, __VA_ARGS__)
#define cr_assert(condition, ...)                                              \
    SHIM_CHECK(true, condition, #condition, __VA_ARGS__)
#define cr_fail(...) SHIM_CHECK(false, false, "cr_fail", __VA_ARGS__)
#define cr_fatal(...) SHIM_CHECK(true, false, "cr_fatal", __VA_ARGS__)
#define cr_skip(...) shim_skip("" __VA_ARGS__)
#define cr_skip_test(...) shim_skip("" __VA_ARGS__)
#define cr_log_info(...) ((void)0)
#define cr_log_warn(...) ((void)0)

#define SHIM_COMPARE(fatal, a, op, b, ...)                                     \
    SHIM_CHECK(fatal, (a)op(b), #a " " #op " " #b, __VA_ARGS__)
#define cr_assert_eq(a, b, ...) SHIM_COMPARE(true, a, ==, b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...) SHIM_COMPARE(true, a, !=, b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...) SHIM_COMPARE(true, a, <, b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...) SHIM_COMPARE(true, a, <=, b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...) SHIM_COMPARE(true, a, >, b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...) SHIM_COMPARE(true, a, >=, b, __VA_ARGS__)
#define cr_expect_eq(a, b, ...) SHIM_COMPARE(false, a, ==, b, __VA_ARGS__)
#define cr_expect_neq(a, b, ...) SHIM_COMPARE(false, a, !=, b, __VA_ARGS__)
#define cr_expect_lt(a, b, ...) SHIM_COMPARE(false, a, <, b, __VA_ARGS__)
#define cr_expect_leq(a, b, ...) SHIM_COMPARE(false, a, <=, b, __VA_ARGS__)
#define cr_expect_gt(a, b, ...) SHIM_COMPARE(false, a, >, b, __VA_ARGS__)
#define cr_expect_geq(a, b, ...) SHIM_COMPARE(false, a, >=, b, __VA_ARGS__)
#define cr_assert_not(a, ...) SHIM_CHECK(true, !(a), "not " #a, __VA_ARGS__)
#define cr_expect_not(a, ...) SHIM_CHECK(false, !(a), "not " #a, __VA_ARGS__)
#define cr_assert_null(a, ...)                                                 \
    SHIM_CHECK(true, (a) == NULL, #a " is NULL", __VA_ARGS__)
#define cr_assert_not_null(a, ...)                                             \
    SHIM_CHECK(true, (a) != NULL, #a " is not NULL", __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...)                                            \
    SHIM_CHECK(true, strcmp(a, b) == 0, #a " is " #b, __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...)                                            \
    SHIM_CHECK(false, strcmp(a, b) == 0, #a " is " #b, __VA_ARGS__)
#define cr_assert_arr_eq(a, b, n, ...)                                         \
    SHIM_CHECK(true, memcmp(a, b, n) == 0, #a " is " #b, __VA_ARGS__)
#define cr_expect_arr_eq(a, b, n, ...)                                         \
    SHIM_CHECK(false, memcmp(a, b, n) == 0, #a " is " #b, __VA_ARGS__)
#define cr_assert_float_eq(a, b, by, ...)                                      \
    SHIM_CHECK(true, (a) - (b) <= (by) && (b) - (a) <= (by), #a " is " #b,     \
               __VA_ARGS__)
#define cr_expect_float_eq(a, b, by, ...)                                      \
    SHIM_CHECK(false, (a) - (b) <= (by) && (b) - (a) <= (by), #a " is " #b,    \
               __VA_ARGS__)

#endif
