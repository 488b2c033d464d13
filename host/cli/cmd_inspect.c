/* cmd_inspect.c - keystep inspect: what is in a model or in a file of ours.
 * Everything becomes one JSON object; without --json it is shown as text. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli.h"
#include "export.h"
#include "gguf.h"
#include "inspect.h"
#include "run_common.h"

enum { KEY_TENSORS = KS_KEY_OWN };

typedef struct input {
    ks_cli_common common;
    const char *path;
    bool tensors; /* list every one */
} input;

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    switch (key) {
    case KEY_TENSORS:
        in->tensors = true;
        return 0;
    case ARGP_KEY_ARG:
        if (in->path) argp_error(state, "too many arguments: %s", arg);
        in->path = arg;
        return 0;
    case ARGP_KEY_END:
        if (!in->path) argp_error(state, "FILE is missing");
        return 0;
    default:
        return ks_cli_common_key(&in->common, key, arg, state);
    }
}

/* -------------------------------------------------------------------- text */

static void show_scalar(const json_t *v) {
    if (json_is_string(v))
        printf("%s", json_string_value(v));
    else if (json_is_boolean(v))
        printf("%s", json_is_true(v) ? "yes" : "no");
    else if (json_is_integer(v))
        printf("%lld", (long long)json_integer_value(v));
    else
        printf("%.7g", json_number_value(v));
}

/* Seconds are for programs; people read 3:07, under a name that says no unit.
 */
static bool is_time(const char *key) {
    return strcmp(key, "seconds") == 0;
}

static void show_member(const char *key, const json_t *v) {
    if (is_time(key) && json_is_number(v))
        fputs(ks_cli_time_of(json_number_value(v)).text, stdout);
    else
        show_scalar(v);
}

/* Lists of scalars on one line; of objects, such as tensors, a line each under
 * the names of their members. */
static void show_list(const json_t *list) {
    size_t i, named = 0;
    json_t *v, *part;
    const char *key;
    json_object_foreach(json_array_get(list, 0), key, part)
        printf("%s%s", named++ ? ", " : "", is_time(key) ? "took" : key);
    json_array_foreach(list, i, v) {
        if (!json_is_object(v)) {
            fputs(i ? ", " : "", stdout);
            show_scalar(v);
            continue;
        }
        fputs("\n ", stdout);
        json_object_foreach(v, key, part) {
            fputs(" ", stdout);
            if (json_is_array(part)) {
                fputs("[", stdout);
                show_list(part);
                fputs("]", stdout);
            } else {
                show_member(key, part);
            }
        }
    }
}

static void show(const json_t *o, int indent) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)o, key, v) {
        if (json_is_object(v)) {
            printf("%*s%s\n", indent, "", key);
            show(v, indent + 2);
            continue;
        }
        printf("%*s%-*s ", indent, "", 22 - indent, key);
        if (json_is_array(v) && json_array_size(v) == 0)
            fputs("none", stdout);
        else if (json_is_array(v))
            show_list(v);
        else
            show_scalar(v);
        putchar('\n');
    }
}

/* ------------------------------------------------------------------- whole */

/* The first bytes of a file are these. */
static bool begins_with(const char *path, const char *magic, size_t n) {
    char head[256] = {0};
    FILE *f = fopen(path, "rbe");
    if (!f) return false;
    bool is = fread(head, 1, n, f) == n && memcmp(head, magic, n) == 0;
    fclose(f);
    return is;
}

static bool is_model(const char *path) {
    return ks_gguf_is(path) || ks_ends_with(path, ".gguf") ||
           ks_ends_with(path, ".safetensors") ||
           ks_ends_with(path, ".safetensors.index.json");
}

static ks_status inspect_hdf5(const char *path, json_t *o, ks_err *err) {
    if (ks_probes_is(path)) return ks__inspect_probes(path, o, err);
    if (ks_ends_with(path, ".part")) return ks__inspect_part(path, o, err);
    return ks__inspect_acts(path, o, err);
}

/* JSON over several lines, or JSON Lines. */
static ks_status inspect_text(const char *path, json_t *o, ks_err *err) {
    json_t *whole = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
    bool summary =
        json_object_get(whole, "probes") && json_object_get(whole, "baselines");
    ks_status st = summary ? ks__inspect_summary(path, whole, o, err)
                           : ks__inspect_lines(path, o, err);
    if (st == KS_FORMAT && !summary && json_object_get(whole, "model_type"))
        ks_fail(err, st, "%s: is a model's config: inspect its folder", path);
    json_decref(whole);
    return st;
}

/* A model's folder, or one that keystep probe or run filled. */
static ks_status inspect_folder(const input *in, json_t *o, ks_err *err) {
    ks_status st = KS_OK;
    char *config = NULL, *summary = NULL;
    KS_TRY(ks_path_join(&config, in->path, "config.json", err));
    KS_TRY(ks_path_join(&summary, in->path, "summary.json", err));
    if (ks_exp_is_run(in->path))
        st = ks__inspect_run(in->path, o, err);
    else if (!ks_file_exists(config) && ks_file_exists(summary))
        st = inspect_text(summary, o, err);
    else
        st = ks__inspect_model(in->path, in->tensors, o, err);
done:
    free(config);
    free(summary);
    return st;
}

static ks_status inspect(const input *in, json_t *o, ks_err *err) {
    struct stat info;
    const char *path = in->path;
    if (strcmp(path, "devices") == 0) return ks__inspect_devices(o, err);
    if (stat(path, &info) != 0)
        return ks_fail(err, KS_IO, "%s: there is no such file", path);
    if (S_ISDIR(info.st_mode)) return inspect_folder(in, o, err);
    if (is_model(path)) return ks__inspect_model(path, in->tensors, o, err);
    if (begins_with(path, "\x89HDF\r\n\x1a\n", 8))
        return inspect_hdf5(path, o, err);
    if (ks_ends_with(path, "tokenizer.json"))
        return ks__inspect_tokenizer(path, o, err);
    if (begins_with(path, KS_METRICS_HEAD, strlen(KS_METRICS_HEAD)))
        return ks__inspect_metrics(path, o, err);
    if (ks_ends_with(path, ".part") && begins_with(path, "\0\0\0\0", 4))
        return ks_fail(err, KS_FORMAT,
                       "%s: nothing is in it yet: its capture stopped before "
                       "the first row; --resume starts it afresh",
                       path);
    if (begins_with(path, "# Probes of ", 12)) {
        ks__put(o, "kind", json_string("table of probes, Markdown"));
        return KS_OK;
    }
    return inspect_text(path, o, err);
}

int ks_cmd_inspect(int argc, char **argv) {
    static const struct argp_option options[] = {
        KS_CLI_JSON,
        {"tensors", KEY_TENSORS, NULL, 0, "list every tensor of a model", 0},
        {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "FILE\ndevices",
        .doc = "What is in FILE: a model (GGUF, safetensors or folder), a "
               "tokenizer.json, activations (HDF5; also an interrupted .part "
               "and its journal), problems, chains or labels (JSON Lines), "
               "what probe writes, or the folder of a run. All of it is "
               "checked on the way. `devices`: "
               "what this build can compute on here (a file of that name is "
               "./devices)."};
    input in = {0};
    ks_err err = {0};
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "inspect", argc, argv, &in);
    if (code != KS_EXIT_DONE) return code;
    json_t *o = json_object();
    if (inspect(&in, o, &err) != KS_OK) {
        code = ks_cli_failed("inspect", &err);
    } else if (in.common.json) {
        json_dumpf(o, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(7));
        putchar('\n');
    } else {
        show(o, 0);
    }
    json_decref(o);
    return code;
}
