/* cmd_diff.c - keystep diff: in what two runs differ, settings, what they were
 * made of and by, and what they found. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "run_common.h"

typedef struct input {
    ks_cli_common common;
    const char *runs[2];
    int n;
} input;

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    switch (key) {
    case ARGP_KEY_ARG:
        if (in->n == 2) argp_error(state, "too many arguments: %s", arg);
        in->runs[in->n++] = arg;
        return 0;
    case ARGP_KEY_END:
        if (in->n < 2) argp_error(state, "two folders of runs are expected");
        return 0;
    default:
        return ks_cli_common_key(&in->common, key, arg, state);
    }
}

/* What was found to differ: name -> [here, there], null where there is none. */
typedef struct pairs {
    json_t *a, *b; /* objects: name -> value */
} pairs;

static json_t *differences(const pairs *p) {
    json_t *all = json_object(), *value;
    const char *name;
    json_object_foreach(p->a, name, value) {
        json_t *other = json_object_get(p->b, name);
        if (!other || !json_equal(value, other))
            json_object_set_new(
                all, name,
                json_pack("[O,O]", value, other ? other : json_null()));
    }
    json_object_foreach(p->b, name, value) if (!json_object_get(p->a, name))
        json_object_set_new(all, name, json_pack("[n,O]", value));
    return all;
}

/* Members of members under dotted names; lists of scalars stay whole, items of
 * others go by their `name`, or their number from 1. */
static void flatten(json_t *value, const char *path, json_t *out) {
    const char *key;
    json_t *one;
    size_t i;
    char deeper[512];
    const char *dot = *path ? "." : "";
    bool maps = json_is_object(json_array_get(value, 0));
    if (json_is_object(value) && json_object_size(value)) {
        json_object_foreach(value, key, one) {
            snprintf(deeper, sizeof deeper, "%s%s%s", path, dot, key);
            flatten(one, deeper, out);
        }
    } else if (maps) {
        json_array_foreach(value, i, one) {
            const char *name = json_string_value(json_object_get(one, "name"));
            if (name)
                snprintf(deeper, sizeof deeper, "%s%s%s", path, dot, name);
            else
                snprintf(deeper, sizeof deeper, "%s%s%zu", path, dot, i + 1);
            flatten(one, deeper, out);
        }
    } else {
        json_object_set(out, path, value);
    }
}

static json_t *settings_of(json_t *run) {
    json_t *all = json_object();
    flatten(json_object_get(run, "config"), "", all);
    return all;
}

/* Given files, by the stages that read them and what for. */
static json_t *inputs_of(json_t *run) {
    json_t *all = json_object(), *stage, *in;
    size_t i, k;
    json_array_foreach(json_object_get(run, "stages"), i, stage) {
        const char *name = json_string_value(json_object_get(stage, "stage"));
        const char *cells = json_string_value(json_object_get(stage, "cells"));
        const char *what = json_string_value(json_object_get(stage, "what"));
        json_array_foreach(json_object_get(stage, "inputs"), k, in) {
            const char *role = json_string_value(json_object_get(in, "role"));
            json_t *hash = json_object_get(in, "sha256");
            if (!json_is_string(hash) || !name || !role) continue;
            char *label = NULL;
            if (asprintf(&label, "%s of %s%s%s%s%s", role, name,
                         cells && *cells ? ", " : "", cells ? cells : "",
                         what && *what ? ": " : "", what ? what : "") < 0)
                continue;
            json_object_set(all, label, hash);
            free(label);
        }
    }
    return all;
}

static json_t *made_by(const char *folder, json_t *run) {
    json_t *all = json_object(), *programs = json_array(), *s;
    json_t *stages = ks_cli_run_stages(folder, run, NULL);
    size_t i, k;
    json_array_foreach(stages, i, s) {
        json_t *program = json_object_get(s, "program"), *seen;
        bool known = !program;
        json_array_foreach(programs, k, seen) known |=
            json_equal(seen, program);
        if (!known) json_array_append(programs, program);
    }
    json_object_set_new(all, "programs", programs);
    json_object_set(all, "hosts", json_object_get(run, "hosts"));
    json_decref(stages);
    return all;
}

static json_t *figures_of(const char *folder, json_t *run) {
    json_t *all = json_object(), *found = ks_cli_run_found(folder, run), *f;
    size_t i;
    json_array_foreach(found, i, f) {
        const char *part[4] = {"cell", "probe", "stream", "position"};
        char name[512] = "";
        size_t n = 0;
        for (size_t k = 0; k < KS_COUNT(part) && n < sizeof name; k++)
            n += (size_t)snprintf(
                name + n, sizeof name - n, "%s%s", k ? ", " : "",
                json_string_value(json_object_get(f, part[k])));
        json_object_set_new(
            all, name,
            json_pack("[O,O?,O?]", json_object_get(f, "balanced_accuracy"),
                      json_object_get(f, "low"), json_object_get(f, "high")));
    }
    json_decref(found);
    return all;
}

/* --------------------------------------------------------------------- text */

static void print_value(const json_t *value) {
    if (json_is_null(value)) {
        fputs("(not there)", stdout);
    } else if (json_is_string(value)) {
        fputs(json_string_value(value), stdout);
    } else {
        char *text =
            json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
        fputs(text ? text : "?", stdout);
        free(text);
    }
}

static void print_pairs(const char *head, json_t *all, size_t most) {
    const char *name;
    json_t *pair;
    if (!json_object_size(all)) return;
    printf("%s\n", head);
    json_object_foreach(all, name, pair) {
        printf("  %s: ", name);
        for (size_t i = 0; i < 2; i++) {
            json_t *value = json_array_get(pair, i);
            const char *text = json_string_value(value);
            if (i) fputs(" -> ", stdout);
            if (most && text)
                printf("%.*s", (int)most, text);
            else
                print_value(value);
        }
        putchar('\n');
    }
}

static void print_figure(json_t *f) {
    if (!json_is_array(f)) {
        fputs("(not there)", stdout);
        return;
    }
    json_t *low = json_array_get(f, 1), *high = json_array_get(f, 2);
    printf("%.1f", 100 * json_number_value(json_array_get(f, 0)));
    if (json_is_number(low) && json_is_number(high))
        printf(" [%.1f, %.1f]", 100 * json_number_value(low),
               100 * json_number_value(high));
}

static void print_figures(json_t *all) {
    const char *name;
    json_t *pair;
    if (!json_object_size(all)) return;
    printf("Best layer's balanced accuracy, %%\n");
    json_object_foreach(all, name, pair) {
        json_t *a = json_array_get(pair, 0), *b = json_array_get(pair, 1);
        printf("  %s: ", name);
        print_figure(a);
        fputs(" -> ", stdout);
        print_figure(b);
        if (json_is_array(a) && json_is_array(b))
            printf(" (%+.1f)", 100 * (json_number_value(json_array_get(b, 0)) -
                                      json_number_value(json_array_get(a, 0))));
        putchar('\n');
    }
}

/* -------------------------------------------------------------------- whole */

static ks_status run(const input *in, ks_err *err) {
    ks_status st = KS_OK;
    json_t *runs[2] = {NULL, NULL}, *all = json_object();
    static const char *const names[] = {"settings", "made_by", "inputs",
                                        "figures"};
    enum { SETTINGS, MADE_BY, INPUTS, FIGURES };
    for (int i = 0; i < 2; i++) {
        KS_CHECK(ks_exp_is_run(in->runs[i]), KS_FORMAT,
                 "%s: is no run's folder: it has no run.json", in->runs[i]);
        KS_TRY(ks_cli_run_read(in->runs[i], &runs[i], err));
    }
    for (size_t k = 0; k < KS_COUNT(names); k++) {
        json_t *of[2];
        for (int i = 0; i < 2; i++)
            of[i] = k == SETTINGS  ? settings_of(runs[i])
                    : k == MADE_BY ? made_by(in->runs[i], runs[i])
                    : k == INPUTS  ? inputs_of(runs[i])
                                   : figures_of(in->runs[i], runs[i]);
        json_object_set_new(all, names[k], differences(&(pairs){of[0], of[1]}));
        json_decref(of[0]);
        json_decref(of[1]);
    }
    if (in->common.json) {
        ks_cli_print_json(json_incref(all));
        goto done;
    }
    print_pairs("Settings", json_object_get(all, names[SETTINGS]), 0);
    print_pairs("Made by", json_object_get(all, names[MADE_BY]), 0);
    print_pairs("Inputs (SHA-256)", json_object_get(all, names[INPUTS]), 12);
    print_figures(json_object_get(all, names[FIGURES]));
    bool same = true;
    for (size_t k = 0; k < KS_COUNT(names); k++)
        same &= !json_object_size(json_object_get(all, names[k]));
    if (same) puts("No difference.");
done:
    json_decref(all);
    json_decref(runs[0]);
    json_decref(runs[1]);
    return st;
}

int ks_cmd_diff(int argc, char **argv) {
    static const struct argp_option options[] = {KS_CLI_JSON, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "RUN RUN",
        .doc = "In what two runs of experiments differ: settings, programs, "
               "hosts and given files; then what they found, the best layer's "
               "balanced accuracy with its interval, where that differs. "
               "FIRST -> SECOND."};
    input in = {0};
    ks_err err = {0};
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "diff", argc, argv, &in);
    if (code != KS_EXIT_DONE) return code;
    return run(&in, &err) == KS_OK ? code : ks_cli_failed("diff", &err);
}
