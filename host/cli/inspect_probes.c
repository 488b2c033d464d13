/* inspect_probes.c - what keystep inspect says of what keystep probe writes:
 * probes.h5, metrics.csv, summary.json. */
#include <stdlib.h>
#include <string.h>

#include "export.h"
#include "inspect.h"

/* --------------------------------------------------------------- probes.h5 */

static json_t *numbers(const int32_t *at, int64_t n) {
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++)
        json_array_append_new(list, json_integer(at[i]));
    return list;
}

static json_t *describe_series(const ks_probes_info *p, int i) {
    const ks_probes_series *s = &p->series[i];
    return json_pack("{so,si,so}", "layers", numbers(s->layer, s->n_layers),
                     "best layer", ks_probes_usual(p, i), "chosen by fold",
                     numbers(s->chosen, (int64_t)p->n_seeds * p->n_folds));
}

ks_status ks__inspect_probes(const char *path, json_t *o, ks_err *err) {
    ks_status st = KS_OK;
    ks_probes_info p;
    json_t *all = json_object();
    KS_TRY(ks_probes_read(&p, path, err));
    bool good = true;
    for (int i = 0; i < p.n_series; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s-%s", ks_stream_name(p.series[i].stream),
                 ks_position_name(p.series[i].position));
        good &= ks__put(all, name, describe_series(&p, i));
    }
    good = good && ks__put(o, "kind", json_string("probes")) &&
           ks__put(o, "model", ks__text(p.model_name)) &&
           ks__put(o, "model sha256", ks__text(p.model_sha256)) &&
           ks__put(o, "context", ks__text(p.context)) &&
           ks__put(o, "program version", ks__text(p.program_version)) &&
           ks__put(o, "steps", json_integer(p.n_steps)) &&
           ks__put(o, "probed", json_integer(p.n_probed)) &&
           ks__put(o, "seeds", json_integer(p.n_seeds)) &&
           ks__put(o, "folds", json_integer(p.n_folds)) &&
           ks__put(o, "features",
                   p.d ? json_integer(p.d) : json_string("no weights in it")) &&
           ks__put(o, "probes", json_incref(all));
    ks_probes_free(&p);
    KS_CHECK(good, KS_NOMEM, "no memory to describe %s", path);
done:
    json_decref(all);
    return st;
}

/* ------------------------------------------------------------- metrics.csv */

enum { COLUMNS = 19, MODEL = 1, STREAM, POSITION, LAYER };
enum { PROBE = 6, FOLD = 9, BALANCED = 13, LOW = 17, HIGH };

/* The fields of one row of RFC 4180, unquoted in place; false at the end of
 * the text. *n counts them, also beyond COLUMNS. */
static bool next_row(char **at, char *fields[COLUMNS], int *n) {
    char *from = *at;
    *n = 0;
    if (!*from) return false;
    for (bool more = true; more;) {
        bool quoted = *from == '"';
        char *to = from += quoted;
        if (*n < COLUMNS) fields[*n] = from;
        ++*n;
        for (; *from; from++) {
            if (quoted && *from == '"' && from[1] != '"')
                quoted = false;
            else if (!quoted && strchr(",\r\n", *from))
                break;
            else
                *to++ = *from, from += quoted && *from == '"';
        }
        more = *from == ',';
        if (*from == '\r') from++;
        if (*from) from++;
        *to = 0;
    }
    *at = from;
    return true;
}

typedef struct metrics {
    json_t *models, *probes, *best, *baselines; /* the last two: lists */
    int64_t rows, fits;
} metrics;

static json_t *value_of(const char *text) {
    return *text ? json_real(strtod(text, NULL)) : json_null();
}

static void add_row(metrics *m, char *fields[COLUMNS]) {
    bool fit = strcmp(fields[FOLD], "all") != 0;
    m->rows++;
    m->fits += fit;
    if (*fields[MODEL]) ks__count(m->models, fields[MODEL]);
    if (*fields[PROBE]) ks__count(m->probes, fields[PROBE]);
    bool baseline = !*fields[STREAM];
    if (fit || (!baseline && strcmp(fields[LAYER], "best") != 0)) return;
    json_t *row = json_pack("{so}", "probe", ks__text(fields[PROBE]));
    if (!baseline) {
        ks__put(row, "stream", ks__text(fields[STREAM]));
        ks__put(row, "position", ks__text(fields[POSITION]));
    }
    ks__put(row, "balanced_accuracy", value_of(fields[BALANCED]));
    ks__put(row, "low", value_of(fields[LOW]));
    ks__put(row, "high", value_of(fields[HIGH]));
    json_array_append_new(baseline ? m->baselines : m->best, row);
}

static ks_status read_rows(metrics *m, const char *path, char *text, size_t n,
                           ks_err *err) {
    ks_status st = KS_OK;
    char *fields[COLUMNS], *at = text + strlen(KS_METRICS_HEAD);
    int found;
    size_t bad = ks_utf8_check(text, n);
    KS_CHECK(bad == n && strlen(text) == n, KS_FORMAT,
             "%s: byte %zu is no UTF-8 text", path,
             KS_MIN(bad, strlen(text)) + 1);
    KS_CHECK(text[n - 1] == '\n', KS_FORMAT,
             "%s: its last row does not end: it was cut short", path);
    while (next_row(&at, fields, &found)) {
        KS_CHECK(found == COLUMNS, KS_FORMAT,
                 "%s: row %lld has %d fields, expected %d", path,
                 (long long)m->rows + 1, found, COLUMNS);
        add_row(m, fields);
    }
done:
    return st;
}

ks_status ks__inspect_metrics(const char *path, json_t *o, ks_err *err) {
    ks_status st = KS_OK;
    char *text = NULL;
    size_t n = 0;
    metrics m = {
        json_object(), json_object(), json_array(), json_array(), 0, 0};
    KS_TRY(ks_read_file(path, KS_MOST_DATA, &text, &n, err));
    KS_TRY(read_rows(&m, path, text, n, err));
    bool good = ks__put(o, "kind", json_string("metrics of probes")) &&
                ks__put(o, "rows", json_integer(m.rows)) &&
                ks__put(o, "fits", json_integer(m.fits)) &&
                ks__put(o, "rows of models", json_incref(m.models)) &&
                ks__put(o, "rows of probes", json_incref(m.probes)) &&
                ks__put(o, "best layers", json_incref(m.best)) &&
                ks__put(o, "baselines", json_incref(m.baselines));
    KS_CHECK(good, KS_NOMEM, "no memory to describe %s", path);
done:
    free(text);
    json_decref(m.models);
    json_decref(m.probes);
    json_decref(m.best);
    json_decref(m.baselines);
    return st;
}

/* ------------------------------------------------------------ summary.json */

/* {"value","low","high"} of balanced accuracy, in o. */
static bool put_balanced(json_t *o, json_t *all) {
    static const char *const names[] = {"value", "low", "high"};
    static const char *const ours[] = {"balanced_accuracy", "low", "high"};
    json_t *from = json_object_get(all, "balanced_accuracy");
    bool good = json_is_object(from);
    for (size_t i = 0; good && i < KS_COUNT(names); i++)
        good =
            json_object_set(o, ours[i], json_object_get(from, names[i])) == 0;
    return good;
}

/* The layer that most folds chose, the first of equals. */
static json_t *usual(json_t *by_fold) {
    json_t *a, *b, *best = NULL;
    size_t i, k, most = 0;
    json_array_foreach(by_fold, i, a) {
        size_t times = 0;
        json_array_foreach(by_fold, k, b) times += json_equal(a, b) != 0;
        json_int_t was = json_integer_value(best);
        if (times > most || (times == most && json_integer_value(a) < was))
            best = a, most = times;
    }
    return best;
}

static bool add_probe(json_t *list, json_t *probe) {
    json_t *row = json_object();
    static const char *const names[] = {"stream", "position"};
    bool good = true;
    for (size_t i = 0; i < KS_COUNT(names); i++)
        good &= json_object_set(row, names[i],
                                json_object_get(probe, names[i])) == 0;
    json_t *layer = usual(json_object_get(probe, "best_layer_by_fold"));
    good = good && json_object_set(row, "best layer", layer) == 0 &&
           put_balanced(row, json_object_get(probe, "best"));
    json_array_append_new(list, row);
    return good;
}

static bool add_baseline(json_t *list, json_t *baseline) {
    json_t *row = json_object();
    bool good =
        json_object_set(row, "name", json_object_get(baseline, "name")) == 0 &&
        put_balanced(row, json_object_get(baseline, "metrics"));
    json_array_append_new(list, row);
    return good;
}

ks_status ks__inspect_summary(const char *path, json_t *summary, json_t *o,
                              ks_err *err) {
    static const struct {
        const char *from, *to;
    } taken[] = {{"program", "program"},           {"model", "model"},
                 {"model_sha256", "model sha256"}, {"rows", "rows"},
                 {"settings", "settings"},         {"fits", "fits"},
                 {"unconverged", "unconverged"}};
    ks_status st = KS_OK;
    json_t *probes = json_array(), *baselines = json_array(), *one;
    size_t i;
    bool good = ks__put(o, "kind", json_string("summary of probes"));
    for (i = 0; i < KS_COUNT(taken); i++)
        good &= json_object_set(o, taken[i].to,
                                json_object_get(summary, taken[i].from)) == 0;
    json_array_foreach(json_object_get(summary, "probes"), i, one) good &=
        add_probe(probes, one);
    json_array_foreach(json_object_get(summary, "baselines"), i, one) good &=
        add_baseline(baselines, one);
    good &= ks__put(o, "probes", json_incref(probes)) &&
            ks__put(o, "baselines", json_incref(baselines));
    KS_CHECK(good, KS_FORMAT,
             "%s: is not the summary that keystep probe writes: a figure is "
             "missing",
             path);
done:
    json_decref(probes);
    json_decref(baselines);
    return st;
}
