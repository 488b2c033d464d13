/* matrices.h - golden matrices over the steps of a chain, for tests of what
 * measures one step by another; included by one source file a program. */
#ifndef KS_TESTS_MATRICES_H
#define KS_TESTS_MATRICES_H

#include "forward/apart.h"
#include "forward/gradients.h"

enum { N_TOKENS = 96, MOST_STEPS = 16 };

static json_t *root;
static int32_t bounds[MOST_STEPS + 1], n_steps;

static void read_golden(const char *path) {
    root = json_load_file(path, 0, NULL);
    cr_assert(root);
    json_t *list = json_object_get(root, "bounds");
    n_steps = (int32_t)json_array_size(list) - 1;
    cr_assert(n_steps > 2 && n_steps <= MOST_STEPS);
    for (int32_t i = 0; i <= n_steps; i++)
        bounds[i] =
            (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    cr_assert_eq(bounds[n_steps], N_TOKENS);
}

static void drop_golden(void) {
    json_decref(root);
}

typedef struct matrix {
    double at[MOST_STEPS * MOST_STEPS];
} matrix;

static bool same_bits(const matrix *a, const matrix *b, int32_t n) {
    return memcmp(a->at, b->at, (size_t)(n * n) * sizeof *a->at) == 0;
}

/* rows: below the diagonal. Entry by entry; zeros where the reference has them,
 * and on and above the diagonal. */
static void expect_rows(const char *name, json_t *rows, const matrix *m,
                        double relative, double absolute) {
    cr_assert_eq(json_array_size(rows), (size_t)n_steps, "%s", name);
    for (int32_t k = 0; k < n_steps; k++) {
        json_t *row = json_array_get(rows, (size_t)k);
        cr_assert_eq(json_array_size(row), (size_t)k);
        for (int32_t j = 0; j < n_steps; j++) {
            double got = m->at[k * n_steps + j], want = 0, tolerance = 0;
            if (j < k) want = json_number_value(json_array_get(row, (size_t)j));
            if (want != 0) tolerance = absolute + relative * fabs(want);
            cr_expect(fabs(got - want) <= tolerance,
                      "%s [%d][%d]: %.9g, expected %.9g", name, k, j, got,
                      want);
        }
    }
}

#endif
