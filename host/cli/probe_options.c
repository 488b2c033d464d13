/* probe_options.c - see probe_options.h. */
#include "probe_options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "../../probes/nest.h"

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int ks_cli_strengths(double *strengths, const char *text,
                     struct argp_state *state) {
    int n = 0;
    for (const char *at = text; at;) {
        char *end;
        double value = strtod(at, &end);
        if (end == at || (*end && *end != ',') ||
            !(value > 0 && value < 1e12) || n == KS_MAX_STRENGTHS) {
            argp_error(state,
                       "--strengths takes up to %d positive numbers "
                       "such as 0.01,0.1,1, got '%s'",
                       KS_MAX_STRENGTHS, text);
            return 0;
        }
        strengths[n++] = value;
        at = *end ? end + 1 : NULL;
    }
    qsort(strengths, (size_t)n, sizeof *strengths, by_size);
    return n;
}

ks_status ks_cli_folder(const char *out, bool force, int n,
                        const char *const *names, char **paths, bool *made,
                        ks_err *err) {
    ks_status st = KS_OK;
    struct stat what;
    *made = mkdir(out, 0777) == 0;
    if (!*made) {
        KS_CHECK(errno == EEXIST && stat(out, &what) == 0, KS_IO,
                 "%s: cannot make the folder: %s", out, strerror(errno));
        KS_CHECK(S_ISDIR(what.st_mode), KS_EXISTS,
                 "%s is there and not a folder; --out names a folder", out);
    }
    for (int i = 0; i < n; i++) {
        KS_TRY(ks_path_join(&paths[i], out, names[i], err));
        KS_TRY(ks_refuse_existing(paths[i], force, err));
    }
done:
    return st;
}

/* ----------------------------------------------------------------- stages */

void ks_cli_stage_begin(void *stages, const char *what, const char *unit,
                        int64_t total) {
    ks_cli_stages *s = stages;
    s->bar = ks_progress_open(what, unit, (double)total);
}

void ks_cli_stage_show(void *stages, int64_t done) {
    ks_cli_stages *s = stages;
    if (s->bar) ks_progress_set(s->bar, (double)done);
}

void ks_cli_stage_end(void *stages) {
    ks_cli_stages *s = stages;
    if (s->bar) ks_progress_close(&s->bar);
}

/* ----------------------------------------------------------------- tables */

ks_status ks_cli_tables_write(const ks_cli_tables *tables, const char *markdown,
                              const char *csv, const char *json,
                              bool print_json, ks_err *err) {
    ks_status st = KS_OK;
    char *text =
        json_dumps(tables->json, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    KS_CHECK(text, KS_NOMEM, "out of memory for %s", json);
    KS_TRY(ks_write_file(markdown, tables->markdown.data,
                         tables->markdown.length, true, err));
    KS_TRY(ks_write_file(csv, tables->csv.data, tables->csv.length, true, err));
    KS_TRY(ks_write_file(json, text, strlen(text), true, err));
    fputs(print_json ? text : tables->shown.data, stdout);
    if (print_json) putchar('\n');
    fflush(stdout); /* ahead of what is said on stderr */
done:
    free(text);
    return st;
}

void ks_cli_tables_free(ks_cli_tables *tables) {
    json_decref(tables->json);
    ks_str_free(&tables->markdown);
    ks_str_free(&tables->shown);
    ks_str_free(&tables->csv);
}
