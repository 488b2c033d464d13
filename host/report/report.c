/* report.c - see report.h. */
#include "report.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "page.h"
#include "plot.h"
#include "schema.h"
#include "sections.h"

typedef struct writer {
    const ks_report_options *options;
    ks_report_done *done;
    const ks_report *report;
    json_t *files; /* names below out/, as they are written */
    char *figures; /* folder */
} writer;

/* ------------------------------------------------------------------- files */

static ks_status make_folder(const char *path, ks_err *err) {
    struct stat what;
    if (mkdir(path, 0777) == 0) return KS_OK;
    if (errno == EEXIST && stat(path, &what) == 0 && S_ISDIR(what.st_mode))
        return KS_OK;
    return ks_fail(err, KS_IO, "%s: cannot make the folder: %s", path,
                   strerror(errno == EEXIST ? ENOTDIR : errno));
}

/* out/NAME */
static ks_status write_one(writer *w, const char *name, const ks_str *text,
                           ks_err *err) {
    ks_status st = KS_OK;
    char *path = NULL;
    KS_TRY(ks_path_join(&path, w->options->out, name, err));
    KS_TRY(ks_write_file(path, text->data ? text->data : "", text->length, true,
                         err));
    json_array_append_new(w->files, json_string(name));
done:
    free(path);
    return st;
}

static ks_status write_json(writer *w, const char *name, const json_t *value,
                            ks_err *err) {
    ks_status st = KS_OK;
    char *text = json_dumps(value, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    ks_str line = {0};
    KS_CHECK(text, KS_NOMEM, "out of memory for %s", name);
    KS_TRY(ks_str_printf(&line, err, "%s\n", text));
    KS_TRY(write_one(w, name, &line, err));
done:
    ks_str_free(&line);
    free(text);
    return st;
}

/* ------------------------------------------------------------------- tables */

static ks_status write_table(writer *w, const ks_report_table *t, ks_err *err) {
    static const struct {
        const char *end;
        ks_status (*write)(const ks_report_table *, ks_str *, ks_err *);
    } formats[] = {{"csv", ks__table_csv},
                   {"md", ks__table_markdown},
                   {"tex", ks__table_latex}};
    ks_status st = KS_OK;
    ks_str name = {0}, text = {0};
    json_t *object = NULL;
    for (size_t i = 0; i < KS_COUNT(formats); i++) {
        name.length = text.length = 0;
        KS_TRY(
            ks_str_printf(&name, err, "tables/%s.%s", t->name, formats[i].end));
        KS_TRY(formats[i].write(t, &text, err));
        KS_TRY(write_one(w, name.data, &text, err));
    }
    name.length = 0;
    KS_TRY(ks_str_printf(&name, err, "tables/%s.json", t->name));
    KS_TRY(ks__table_json(t, &object, err));
    KS_TRY(write_json(w, name.data, object, err));
    w->done->tables++;
done:
    json_decref(object);
    ks_str_free(&name);
    ks_str_free(&text);
    return st;
}

static ks_status write_tables(writer *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_report *r = w->report;
    for (size_t s = 0; s < r->n_sections; s++)
        for (size_t p = 0; p < r->sections[s].n_parts; p++)
            if (r->sections[s].parts[p].table)
                KS_TRY(write_table(w, r->sections[s].parts[p].table, err));
done:
    return st;
}

static ks_status write_figures(writer *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_report *r = w->report;
    char name[128];
    if (!w->options->no_pictures)
        KS_TRY(ks__plot_all(r, w->figures, &w->done->drawn, err));
    for (size_t s = 0; s < r->n_sections; s++)
        for (size_t p = 0; p < r->sections[s].n_parts; p++) {
            const ks_report_figure *f = r->sections[s].parts[p].figure;
            if (!f) continue;
            w->done->figures++;
            for (int i = 0; i < 2 && w->done->drawn; i++) {
                snprintf(name, sizeof name, "figures/%s.%s", f->name,
                         i ? "png" : "svg");
                json_array_append_new(w->files, json_string(name));
            }
        }
done:
    return st;
}

/* -------------------------------------------------------- an earlier report */

/* tables/NAME.END or figures/NAME.END, and nothing that leads elsewhere. */
static bool is_ours(const char *name) {
    static const char *const folders[] = {"tables/", "figures/"};
    static const char *const ends[] = {".csv",  ".md",  ".tex",
                                       ".json", ".svg", ".png"};
    for (size_t i = 0; i < KS_COUNT(folders); i++) {
        size_t n = strlen(folders[i]);
        if (strncmp(name, folders[i], n) != 0) continue;
        const char *at = name + n;
        while (islower((unsigned char)*at) || isdigit((unsigned char)*at) ||
               *at == '-')
            at++;
        for (size_t k = 0; at > name + n && k < KS_COUNT(ends); k++)
            if (strcmp(at, ends[k]) == 0) return true;
    }
    return false;
}

static const ks_field earlier_fields[] = {
    {.name = "format", .kind = KS_FIELD_TEXT, .needed = true, .most = 100},
    {.name = NULL, .kind = KS_FIELD_TEXT}};

/* What the report in out/ consists of; NULL where none is there. With force it
 * is no whole report from here on; without, it is refused. */
static ks_status open_earlier(const ks_report_options *o, json_t **files,
                              ks_err *err) {
    ks_status st = KS_OK;
    char *page = NULL, *json = NULL;
    json_t *earlier = NULL;
    KS_TRY(ks_path_join(&page, o->out, "index.html", err));
    KS_TRY(ks_path_join(&json, o->out, "report.json", err));
    KS_TRY(ks_refuse_existing(page, o->force, err));
    KS_TRY(ks_refuse_existing(json, o->force, err));
    if (ks_file_exists(json) &&
        ks__schema_read(json, earlier_fields, (size_t)256 << 20, &earlier,
                        NULL) == KS_OK &&
        strcmp(ks__text(earlier, "format"), "keystep report") == 0)
        *files = json_incref(json_object_get(earlier, "files"));
    unlink(page);
done:
    json_decref(earlier);
    free(page);
    free(json);
    return st;
}

static bool is_in(const json_t *list, const char *name) {
    json_t *one;
    size_t i;
    json_array_foreach(list, i, one) {
        if (strcmp(json_string_value(one), name) == 0) return true;
    }
    return false;
}

static void drop_earlier(const writer *w, const json_t *files) {
    json_t *one;
    size_t i;
    json_array_foreach(files, i, one) {
        const char *name = json_string_value(one);
        char *path = NULL;
        if (!name || !is_ours(name) || is_in(w->files, name) ||
            ks_path_join(&path, w->options->out, name, NULL) != KS_OK)
            continue;
        unlink(path);
        free(path);
    }
}

/* --------------------------------------------------------------------- all */

/* No file that is read is one that is written. */
static ks_status check_files(const ks_report_options *o, ks_err *err) {
    static const char *const names[] = {"index.html", "report.md",
                                        "report.json"};
    ks_status st = KS_OK;
    size_t n = 0;
    char *paths[KS_COUNT(names)] = {NULL};
    ks_use *uses = NULL;
    KS_TRY(ks_alloc(&uses, o->n_chains + o->n_labels + KS_COUNT(names),
                    sizeof *uses, "files", err));
    for (size_t i = 0; i < o->n_chains; i++)
        uses[n++] = (ks_use){"--chains", o->chains[i], false};
    for (size_t i = 0; i < o->n_labels; i++)
        uses[n++] = (ks_use){"--labels", o->labels[i], false};
    for (size_t i = 0; i < KS_COUNT(names); i++) {
        KS_TRY(ks_path_join(&paths[i], o->out, names[i], err));
        uses[n++] = (ks_use){"--out", paths[i], true};
    }
    KS_TRY(ks_refuse_overlap(uses, n, err));
done:
    for (size_t i = 0; i < KS_COUNT(names); i++) free(paths[i]);
    free(uses);
    return st;
}

static ks_status make_folders(writer *w, ks_err *err) {
    ks_status st = KS_OK;
    char *tables = NULL;
    KS_TRY(make_folder(w->options->out, err));
    KS_TRY(ks_path_join(&tables, w->options->out, "tables", err));
    KS_TRY(ks_path_join(&w->figures, w->options->out, "figures", err));
    KS_TRY(make_folder(tables, err));
    KS_TRY(make_folder(w->figures, err));
done:
    free(tables);
    return st;
}

static ks_status write_whole(writer *w, const ks_reader *reader, ks_err *err) {
    ks_status st = KS_OK;
    ks_str text = {0};
    json_t *object = NULL;
    w->done->d3 = ks__page_has_d3() && !w->options->no_d3;
    KS_TRY(ks__report_markdown(w->report, w->done->drawn, &text, err));
    KS_TRY(write_one(w, "report.md", &text, err));
    KS_TRY(ks__report_json(w->report, &object, err));
    json_array_append_new(w->files, json_string("report.json"));
    json_array_append_new(w->files, json_string("index.html"));
    json_object_set(object, "files", w->files);
    KS_TRY(write_json(w, "report.json", object, err));
    text.length = 0;
    KS_TRY(ks__page_write(w->report, reader, w->done->d3,
                          w->done->drawn ? w->figures : NULL, &text, err));
    w->done->page_bytes = text.length;
    KS_TRY(write_one(w, "index.html", &text, err));
done:
    json_decref(object);
    ks_str_free(&text);
    return st;
}

static ks_status write_all(writer *w, const ks_reader *reader, ks_err *err) {
    ks_status st = KS_OK;
    json_t *earlier = NULL, *one;
    size_t i;
    KS_TRY(make_folders(w, err));
    KS_TRY(open_earlier(w->options, &earlier, err));
    KS_TRY(write_tables(w, err));
    KS_TRY(write_figures(w, err));
    KS_TRY(write_whole(w, reader, err));
    drop_earlier(w, earlier);
    json_array_foreach(reader->runs, i, one) {
        w->done->chains += json_array_size(json_object_get(one, "chains"));
    }
    w->done->absent = w->report->n_absent;
done:
    json_decref(earlier);
    return st;
}

ks_status ks_report_make(const ks_report_options *options, ks_report_done *done,
                         ks_err *err) {
    ks_status st = KS_OK;
    ks_runs runs = {0};
    ks_report report = {0};
    ks_reader reader = {0};
    ks_reader_options chains = {.chains = options->chains,
                                .n_chains = options->n_chains,
                                .labels = options->labels,
                                .n_labels = options->n_labels,
                                .shown = options->shown,
                                .strip = options->strip};
    writer w = {.options = options,
                .done = done,
                .report = &report,
                .files = json_array()};
    *done = (ks_report_done){0};
    KS_TRY(check_files(options, err));
    KS_TRY(ks_runs_read(&runs, options->runs, options->n_runs, err));
    KS_TRY(ks__sections_build(&report, &runs, options->title, err));
    KS_TRY(ks__reader_build(&reader, &report, &runs, &chains, err));
    if (report.st != KS_OK) {
        if (err) *err = report.err;
        st = report.st;
        goto done;
    }
    KS_TRY(write_all(&w, &reader, err));
done:
    json_decref(w.files);
    free(w.figures);
    ks__reader_free(&reader);
    ks_report_free(&report);
    ks_runs_free(&runs);
    return st;
}
