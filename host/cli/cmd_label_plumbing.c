/* cmd_label_plumbing.c - keystep label select, keystep label greedy: the
 * search alone, for other people's matrices and oracles; one JSON object a
 * line in, one out. */
#include <stdlib.h>
#include <string.h>

#include "../../probes/search.h"
#include "ask.h"
#include "cli.h"
#include "label.h"

enum { KEY_SUFFIX_ONLY = KS_KEY_OWN, KEY_ASK };

typedef struct input {
    ks_cli_common common;
    bool suffix_only;
    const char *program;
    ks_ask *ask;
} input;

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    switch (key) {
    case KEY_SUFFIX_ONLY:
        in->suffix_only = true;
        return 0;
    case KEY_ASK:
        if (!*arg) argp_error(state, "--ask names no program");
        in->program = arg;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "too many arguments: %s", arg);
        return 0;
    default:
        return ks_cli_common_key(&in->common, key, arg, state);
    }
}

/* ------------------------------------------------------------------- masks */

static ks_status read_mask(json_t *list, int32_t n, const char *what,
                           uint8_t *mask, ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(json_is_array(list) && json_array_size(list) == (size_t)n,
             KS_FORMAT, "%s is not a list of %d values, 0 or 1", what, n);
    for (int32_t i = 0; i < n; i++) {
        json_t *v = json_array_get(list, (size_t)i);
        json_int_t value = json_is_integer(v) ? json_integer_value(v) : -1;
        KS_CHECK(value == 0 || value == 1, KS_FORMAT,
                 "%s: place %d is not 0 or 1", what, i);
        mask[i] = (uint8_t)value;
    }
    KS_CHECK(n >= 2 && mask[n - 1], KS_FORMAT,
             "%s: the last place is the answer suffix and must be 1, behind "
             "at least one step",
             what);
done:
    return st;
}

static ks_status pack_mask(const uint8_t *mask, int32_t n, json_t **out,
                           ks_err *err) {
    *out = json_array();
    for (int32_t i = 0; i < n; i++)
        if (json_array_append_new(*out, json_integer(mask[i])))
            return ks_fail(err, KS_NOMEM, "no memory for a set of %d steps", n);
    return *out ? KS_OK : ks_fail(err, KS_NOMEM, "no memory for a set");
}

/* ------------------------------------------------------------------ select */

static ks_status read_matrix(json_t *line, double **at, int32_t *n,
                             ks_err *err) {
    ks_status st = KS_OK;
    json_t *rows = json_object_get(line, "matrix"), *row, *value;
    size_t size = json_array_size(rows), k, j;
    KS_CHECK(json_is_array(rows), KS_FORMAT,
             "no \"matrix\", expected a list of rows of numbers");
    KS_CHECK(size <= INT16_MAX, KS_LIMIT, "\"matrix\" has %zu rows, at most %d",
             size, INT16_MAX);
    *n = (int32_t)size;
    KS_TRY(ks_alloc(at, size * size, sizeof **at, "a matrix", err));
    json_array_foreach(rows, k, row) {
        KS_CHECK(json_is_array(row) && json_array_size(row) == size, KS_FORMAT,
                 "row %zu of \"matrix\" is not a list of %zu numbers, as many "
                 "as there are rows",
                 k, size);
        json_array_foreach(row, j, value) {
            KS_CHECK(json_is_number(value), KS_FORMAT,
                     "row %zu of \"matrix\": place %zu is not a number", k, j);
            (*at)[k * size + j] = json_number_value(value);
        }
    }
done:
    return st;
}

static ks_status select_one(const input *in, const ks_influence *matrix,
                            json_t *threshold, json_t **out, ks_err *err) {
    ks_status st = KS_OK;
    uint8_t *mask = NULL;
    ks_select how = {.last_step = !in->common.compat,
                     .recursive = !in->suffix_only};
    KS_CHECK(json_is_number(threshold), KS_FORMAT,
             "a threshold is not a number");
    how.threshold = json_number_value(threshold);
    KS_TRY(ks_alloc(&mask, (size_t)matrix->n, 1, "a set", err));
    KS_TRY(ks_select_steps(matrix, &how, mask, err));
    KS_TRY(pack_mask(mask, matrix->n, out, err));
done:
    free(mask);
    return st;
}

static ks_status select_steps(void *user, json_t *line, json_t **out,
                              ks_err *err) {
    ks_status st = KS_OK;
    const input *in = user;
    ks_influence matrix = {0};
    double *at = NULL;
    json_t *one = json_object_get(line, "threshold"), *value;
    json_t *many = json_object_get(line, "thresholds");
    json_t *keep = NULL, *list = json_array();
    size_t i;
    KS_CHECK(!one != !many && (one || json_is_array(many)), KS_FORMAT,
             "expected \"threshold\", a number, or \"thresholds\", a list of "
             "them");
    KS_TRY(read_matrix(line, &at, &matrix.n, err));
    matrix.at = at;
    KS_TRY(ks_influence_check(&matrix, err));
    if (one) KS_TRY(select_one(in, &matrix, one, &keep, err));
    json_array_foreach(many, i, value) {
        KS_TRY(select_one(in, &matrix, value, &keep, err));
        KS_CHECK(!json_array_append(list, keep), KS_NOMEM,
                 "no memory for sets");
        json_decref(keep);
        keep = NULL;
    }
    *out = json_pack("{sO}", "keep", one ? keep : list);
    KS_CHECK(*out, KS_NOMEM, "no memory for the answer");
done:
    free(at);
    json_decref(keep);
    json_decref(list);
    return st;
}

/* ------------------------------------------------------------------ greedy */

/* One line's search. */
typedef struct search {
    ks_greedy greedy;
    int32_t n;
    uint8_t *passing; /* [n_passing, n] */
    size_t n_passing;
    json_t *tried;
} search;

/* The set to start from; its length is that of all others. */
static ks_status read_start(const input *in, json_t *line, int32_t *n,
                            uint8_t **start, ks_err *err) {
    ks_status st = KS_OK;
    json_t *list = json_object_get(line, "start");
    json_t *first = json_array_get(json_object_get(line, "pass"), 0);
    size_t size = json_array_size(list ? list : first);
    KS_CHECK(list || first, KS_FORMAT,
             in->ask ? "no \"start\": the set of 0 and 1 to start from, the "
                       "answer suffix last, tells how many steps there are"
                     : "neither \"start\" nor a set in \"pass\": nothing tells "
                       "how many steps there are");
    KS_CHECK(size <= INT32_MAX, KS_LIMIT, "%zu steps", size);
    *n = (int32_t)size;
    KS_TRY(ks_alloc(start, size, 1, "a set", err));
    if (list)
        KS_TRY(read_mask(list, *n, "\"start\"", *start, err));
    else
        memset(*start, 1, size);
done:
    return st;
}

static ks_status read_passing(search *s, json_t *line, ks_err *err) {
    ks_status st = KS_OK;
    json_t *sets = json_object_get(line, "pass"), *set;
    size_t i, n = (size_t)s->n;
    char what[48];
    KS_CHECK(json_is_array(sets), KS_FORMAT,
             "no \"pass\", expected a list of the sets that pass");
    KS_TRY(ks_alloc(&s->passing, json_array_size(sets), n, "sets", err));
    json_array_foreach(sets, i, set) {
        snprintf(what, sizeof what, "\"pass\" place %zu", i);
        KS_TRY(read_mask(set, s->n, what, s->passing + i * n, err));
    }
    s->n_passing = json_array_size(sets);
done:
    return st;
}

static ks_status read_order(json_t *line, int32_t **order, int32_t *n,
                            ks_err *err) {
    ks_status st = KS_OK;
    json_t *list = json_object_get(line, "order"), *v;
    size_t i;
    KS_CHECK(json_is_array(list) && json_array_size(list) <= INT32_MAX,
             KS_FORMAT, "no \"order\", expected a list of steps");
    *n = (int32_t)json_array_size(list);
    KS_TRY(ks_alloc(order, (size_t)*n, sizeof **order, "an order", err));
    json_array_foreach(list, i, v) {
        KS_CHECK(json_is_integer(v) && json_integer_value(v) >= 0 &&
                     json_integer_value(v) <= INT32_MAX,
                 KS_FORMAT, "place %zu of \"order\" is not a step's number", i);
        (*order)[i] = (int32_t)json_integer_value(v);
    }
done:
    return st;
}

static bool listed(const search *s, const uint8_t *mask) {
    size_t n = (size_t)s->n;
    for (size_t i = 0; i < s->n_passing; i++)
        if (memcmp(s->passing + i * n, mask, n) == 0) return true;
    return false;
}

/* "id" of the line goes along, so that the program knows whose steps. */
static ks_status ask_program(ks_ask *ask, const search *s, json_t *line,
                             const uint8_t *mask, bool *passes, ks_err *err) {
    ks_status st = KS_OK;
    json_t *keep = NULL, *question = NULL;
    json_t *id = json_object_get(line, "id");
    KS_TRY(pack_mask(mask, s->n, &keep, err));
    question = id ? json_pack("{sO,sO}", "id", id, "keep", keep)
                  : json_pack("{sO}", "keep", keep);
    KS_CHECK(question, KS_NOMEM, "no memory for a question");
    KS_TRY(ks_ask_pass(ask, question, passes, err));
done:
    json_decref(keep);
    json_decref(question);
    return st;
}

static ks_status run_search(search *s, ks_ask *ask, json_t *line, ks_err *err) {
    ks_status st = KS_OK;
    int32_t step;
    while ((step = ks_greedy_next(&s->greedy)) >= 0) {
        bool passes = false;
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
        s->greedy.mask[step] = 0;
        if (ask)
            KS_TRY(ask_program(ask, s, line, s->greedy.mask, &passes, err));
        else
            passes = listed(s, s->greedy.mask);
        s->greedy.mask[step] = 1;
        ks_greedy_tell(&s->greedy, passes);
        KS_CHECK(
            !json_array_append_new(
                s->tried, json_pack("{si,sb}", "step", step, "passed", passes)),
            KS_NOMEM, "no memory for what was tried");
    }
done:
    return st;
}

static ks_status greedy(void *user, json_t *line, json_t **out, ks_err *err) {
    ks_status st = KS_OK;
    const input *in = user;
    search s = {.tried = json_array()};
    uint8_t *start = NULL;
    int32_t *order = NULL, n_order = 0;
    json_t *keep = NULL;
    KS_TRY(read_order(line, &order, &n_order, err));
    KS_TRY(read_start(in, line, &s.n, &start, err));
    if (!in->ask) KS_TRY(read_passing(&s, line, err));
    KS_TRY(ks_greedy_open(&s.greedy, s.n, start, order, n_order, err));
    KS_TRY(run_search(&s, in->ask, line, err));
    KS_TRY(pack_mask(s.greedy.mask, s.n, &keep, err));
    *out = json_pack("{sO,sO}", "keep", keep, "tried", s.tried);
    KS_CHECK(*out, KS_NOMEM, "no memory for the answer");
done:
    ks_greedy_close(&s.greedy);
    free(s.passing);
    free(start);
    free(order);
    json_decref(s.tried);
    json_decref(keep);
    return st;
}

/* ---------------------------------------------------------------- commands */

int ks_cli_label_select(int argc, char **argv) {
    static const struct argp_option options[] = {
        {"compat", KS_KEY_COMPAT, NULL, 0,
         "the last step may be left out, as in the published code", 0},
        {"suffix-only", KEY_SUFFIX_ONLY, NULL, 0,
         "the answer suffix's row alone: not on from kept steps", 0},
        {0}};
    static const struct argp argp = {
        options,
        parse,
        "",
        "Which steps a matrix of influences keeps: a JSON object a line from "
        "stdin, one a line to stdout, in order; {\"error\":...} for a line "
        "that fails."
        "\v{\"matrix\":[[...],...],\"threshold\":t} -> {\"keep\":[0|1,...]}\n"
        "{\"matrix\":[[...],...],\"thresholds\":[...]} -> {\"keep\":[[0|1,"
        "...],...]}\n\n"
        "Row k has what each step does to step k, the last row what each does "
        "to the answer; only places left of the diagonal count, numbers from 0 "
        "on. From the last row back, a kept row keeps its largest places until "
        "their share of the row's sum reaches the threshold (0 to 1), equal "
        "ones together; the last step, ahead of the answer, is always in. "
        "\"keep\" has a place for each row, the answer's last and always 1.",
        NULL,
        NULL,
        NULL};
    input in = {0};
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "label select", argc, argv, &in);
    return code != KS_EXIT_DONE ? code : ks_cli_lines(select_steps, &in);
}

int ks_cli_label_greedy(int argc, char **argv) {
    static const struct argp_option options[] = {
        {"ask", KEY_ASK, "PROGRAM", 0,
         "ask it whether a set passes: {\"keep\":[0|1,...]} a line to its "
         "standard input, with the line's \"id\" where it has one; it answers "
         "{\"pass\":true|false} a line",
         0},
        {0}};
    static const struct argp argp = {
        options,
        parse,
        "",
        "Greedy removal of steps: a JSON object a line from stdin, one a line "
        "to stdout, in order; {\"error\":...} for a line that fails."
        "\v{\"order\":[steps],\"pass\":[sets],\"start\"?:set} -> "
        "{\"keep\":set,\"tried\":[{\"step\",\"passed\"},...]}\n\n"
        "A set is a list of 0 and 1, a place a step and the answer suffix "
        "last, which is always 1. The first step in line is left out and stays "
        "out if the set passes, else it goes to the end of the line; it ends "
        "when all that wait have failed since the last removal. Steps that "
        "\"order\" does not name stay. Without \"start\" all steps are in. A "
        "set "
        "passes if \"pass\" has it, place for place, or if "
        "--ask's program says so (\"pass\" is not read then, and \"start\" is "
        "needed).",
        NULL,
        NULL,
        NULL};
    input in = {0};
    ks_err err = {0};
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "label greedy", argc, argv, &in);
    if (code != KS_EXIT_DONE) return code;
    if (in.program && ks_ask_open(&in.ask, in.program, &err) != KS_OK)
        return ks_cli_failed("label greedy", &err);
    code = ks_cli_lines(greedy, &in);
    ks_ask_close(&in.ask);
    return code;
}
