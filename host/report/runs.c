/* runs.c - see runs.h: what summary.json and transfer.json may hold. */
#include "runs.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "schema.h"

/* -------------------------------------------------------------- the tables */

enum {
    NAME = 400,    /* bytes of a name */
    NOTE = 4000,   /* of sentences */
    LAYERS = 4096, /* entries: more than any model has */
    LIST = 1024,
    SETS = 64,
    MOST = 64 << 20 /* bytes of a file */
};

#define COUNT_MOST 1e15
#define TEXT(n, long)                                                          \
    { .name = (n), .kind = KS_FIELD_TEXT, .most = (long) }
#define NEEDED_TEXT(n, long)                                                   \
    { .name = (n), .kind = KS_FIELD_TEXT, .needed = true, .most = (long) }
#define WHOLE(n, low_at, high_at)                                              \
    { .name = (n), .kind = KS_FIELD_WHOLE, .low = (low_at), .high = (high_at) }
#define NUMBER(n, low_at, high_at)                                             \
    { .name = (n), .kind = KS_FIELD_NUMBER, .low = (low_at), .high = (high_at) }
#define INTERVAL(n, low_at, high_at)                                           \
    {                                                                          \
        .name = (n), .kind = KS_FIELD_INTERVAL, .low = (low_at),               \
        .high = (high_at)                                                      \
    }
#define NEEDED_INTERVAL(n, low_at, high_at)                                    \
    {                                                                          \
        .name = (n), .kind = KS_FIELD_INTERVAL, .needed = true,                \
        .low = (low_at), .high = (high_at)                                     \
    }
#define OBJECT(n, f)                                                           \
    { .name = (n), .kind = KS_FIELD_OBJECT, .fields = (f) }
#define LIST_OF(n, f, long)                                                    \
    { .name = (n), .kind = KS_FIELD_LIST, .fields = (f), .most = (long) }
#define RANGE(low_at, high_at)                                                 \
    { .kind = KS_FIELD_RANGE, .low = (low_at), .high = (high_at) }
#define END                                                                    \
    { .name = NULL, .kind = KS_FIELD_TEXT }
#define P NUMBER("p", 0, 1), NUMBER("p_holm", 0, 1)
#define LAYER WHOLE("layer", 0, LAYERS)

static const char *const streams[] = {"resid", "attn", "mlp", NULL};
static const char *const positions[] = {"mean", "first",  "middle",
                                        "last", "before", NULL};
#define WHERE                                                                  \
    {.name = "stream",                                                         \
     .kind = KS_FIELD_NAME,                                                    \
     .needed = true,                                                           \
     .names = streams},                                                        \
    {                                                                          \
        .name = "position", .kind = KS_FIELD_NAME, .needed = true,             \
        .names = positions                                                     \
    }

#define METRICS                                                                \
    NEEDED_INTERVAL("balanced_accuracy", 0, 1), INTERVAL("accuracy", 0, 1),    \
        INTERVAL("auc", 0, 1), INTERVAL("within_chain_auc", 0, 1),             \
        INTERVAL("brier", 0, 1)

static const ks_field metrics[] = {METRICS, END};

static const ks_field bin_fields[] = {WHOLE("n", 0, COUNT_MOST),
                                      NUMBER("predicted", 0, 1),
                                      INTERVAL("observed", 0, 1), END};
static const ks_field calibration_fields[] = {LIST_OF("bins", bin_fields, LIST),
                                              INTERVAL("ece", 0, 1), END};
static const ks_field layer_fields[] = {{.name = "layer",
                                         .kind = KS_FIELD_WHOLE,
                                         .needed = true,
                                         .low = 0,
                                         .high = LAYERS},
                                        METRICS,
                                        P,
                                        END};
static const ks_field best_fields[] = {
    METRICS, P, OBJECT("calibration", calibration_fields), END};
static const ks_field series_fields[] = {WHERE,
                                         {.name = "layers",
                                          .kind = KS_FIELD_LIST,
                                          .needed = true,
                                          .most = LAYERS,
                                          .fields = layer_fields},
                                         {.name = "best",
                                          .kind = KS_FIELD_OBJECT,
                                          .needed = true,
                                          .fields = best_fields},
                                         {.name = "best_layer_by_fold",
                                          .kind = KS_FIELD_NUMBERS,
                                          .most = LIST,
                                          .low = 0,
                                          .high = LAYERS},
                                         END};
static const ks_field permuted_fields[] = {WHERE, METRICS, END};

static const ks_field gain_fields[] = {WHERE, RANGE(-1, 1), P, END};
static const ks_field baseline_fields[] = {
    NEEDED_TEXT("name", NAME),
    TEXT("note", NOTE),
    {.name = "metrics",
     .kind = KS_FIELD_OBJECT,
     .needed = true,
     .fields = metrics},
    LIST_OF("best_layer_minus_this", gain_fields, LIST),
    END};
static const ks_field rival_fields[] = {
    NEEDED_TEXT("name", NAME), LIST_OF("probes", series_fields, LIST),
    LIST_OF("best_layer_minus_this", gain_fields, LIST), END};
static const ks_field stratum_gain_fields[] = {WHERE, RANGE(0, 1), END};
static const ks_field stratum_fields[] = {
    NEEDED_TEXT("value", NAME), WHOLE("important", 0, COUNT_MOST),
    WHOLE("removable", 0, COUNT_MOST),
    LIST_OF("balanced_accuracy", stratum_gain_fields, LIST), END};

static const ks_field other_fields[] = {NEEDED_TEXT("probe", NAME),
                                        TEXT("kind", NAME),
                                        TEXT("stream", NAME),
                                        TEXT("position", NAME),
                                        LAYER,
                                        TEXT("note", NOTE),
                                        OBJECT("metrics", metrics),
                                        INTERVAL("minus_best_l2", -1, 1),
                                        END};

static const ks_field rung_fields[] = {
    NEEDED_TEXT("name", NAME),  TEXT("note", NOTE),
    INTERVAL("accuracy", 0, 1), INTERVAL("balanced_accuracy", 0, 1),
    NUMBER("sd", 0, 1),         END};
static const ks_field protocol_fields[] = {
    NEEDED_TEXT("probe", NAME),    TEXT("stream", NAME),
    TEXT("position", NAME),        LIST_OF("steps", rung_fields, LIST),
    INTERVAL("difference", -1, 1), END};

static const ks_field published_text_fields[] = {
    NEEDED_TEXT("name", NAME),  WHOLE("inputs", 0, COUNT_MOST),
    INTERVAL("accuracy", 0, 1), INTERVAL("balanced_accuracy", 0, 1),
    NUMBER("sd", 0, 1),         END};

static const ks_field agreement_layer[] = {LAYER, INTERVAL("agreement", 0, 1),
                                           INTERVAL("correlation", -1, 1), END};
static const ks_field agreement_fields[] = {
    WHERE, LIST_OF("layers", agreement_layer, LAYERS), END};
static const ks_field layer_transfer_fields[] = {WHERE,
                                                 {.name = "layers",
                                                  .kind = KS_FIELD_NUMBERS,
                                                  .needed = true,
                                                  .most = LAYERS,
                                                  .low = 0,
                                                  .high = LAYERS},
                                                 {.name = "balanced_accuracy",
                                                  .kind = KS_FIELD_MATRIX,
                                                  .needed = true,
                                                  .most = LAYERS,
                                                  .low = 0,
                                                  .high = 1},
                                                 END};
static const ks_field size_fields[] = {WHOLE("n", 0, LAYERS),
                                       INTERVAL("balanced_accuracy", 0, 1),
                                       INTERVAL("minus_all", -1, 1), END};
static const ks_field needed_fields[] = {
    WHERE, LIST_OF("sizes", size_fields, LAYERS), END};
static const ks_field selectivity_fields[] = {WHERE,
                                              LAYER,
                                              INTERVAL("real", 0, 1),
                                              INTERVAL("control", 0, 1),
                                              INTERVAL("selectivity", -1, 1),
                                              END};
/* a mean over folds */
static const ks_field curve_point[] = {NUMBER("problems", 0, COUNT_MOST),
                                       INTERVAL("balanced_accuracy", 0, 1),
                                       END};
static const ks_field curve_fields[] = {
    WHERE, LAYER, LIST_OF("points", curve_point, LIST), END};
static const ks_field feature_fields[] = {
    NEEDED_TEXT("name", NAME), INTERVAL("with_labels", -1, 1),
    INTERVAL("with_scores", -1, 1), INTERVAL("with_predictions", -1, 1), END};
static const ks_field removed_layer[] = {
    LAYER, INTERVAL("balanced_accuracy", 0, 1), INTERVAL("minus", -1, 1), END};
static const ks_field removed_fields[] = {
    WHERE, LIST_OF("layers", removed_layer, LAYERS), END};
static const ks_field surface_fields[] = {
    LIST_OF("features", feature_fields, LIST),
    LIST_OF("removed", removed_fields, LIST), END};
static const ks_field analyses_fields[] = {
    LIST_OF("agreement", agreement_fields, LIST),
    LIST_OF("layer_transfer", layer_transfer_fields, LIST),
    LIST_OF("layers_needed", needed_fields, LIST),
    LIST_OF("selectivity", selectivity_fields, LIST),
    LIST_OF("learning_curve", curve_fields, LIST),
    OBJECT("surface", surface_fields),
    END};

static const ks_field direction_layer[] = {
    LAYER, INTERVAL("mean_difference", 0, 1), INTERVAL("lda", 0, 1), END};
static const ks_field direction_fields[] = {
    WHERE,
    LAYER,
    NUMBER("cosine_l2_mean_difference", -1, 1),
    NUMBER("cosine_l2_lda", -1, 1),
    NUMBER("cosine_mean_difference_lda", -1, 1),
    LIST_OF("layers", direction_layer, LAYERS),
    END};
static const ks_field sparse_point[] = {
    NUMBER("dimensions", 0, COUNT_MOST), INTERVAL("balanced_accuracy", 0, 1),
    INTERVAL("chosen_minus_this", -1, 1), END};
static const ks_field sparse_fields[] = {WHERE,
                                         LAYER,
                                         INTERVAL("balanced_accuracy", 0, 1),
                                         NUMBER("needed", 0, COUNT_MOST),
                                         LIST_OF("points", sparse_point, LIST),
                                         END};
/* its position is tokens */
static const ks_field attention_fields[] = {
    NEEDED_TEXT("stream", NAME),
    NEEDED_TEXT("position", NAME),
    LAYER,
    INTERVAL("balanced_accuracy", 0, 1),
    INTERVAL("mean_balanced_accuracy", 0, 1),
    INTERVAL("minus_mean", -1, 1),
    NUMBER("entropy", -COUNT_MOST, COUNT_MOST),
    NUMBER("first", 0, 1),
    NUMBER("last", 0, 1),
    NUMBER("even", 0, 1),
    END};
#define GRADES                                                                 \
    INTERVAL("spearman", -1, 1), INTERVAL("within_spearman", -1, 1),           \
        INTERVAL("r2", -COUNT_MOST, 1)
static const ks_field graded_layer[] = {LAYER, GRADES, END};
static const ks_field band_fields[] = {INTERVAL("removable_unlabelled", 0, 1),
                                       INTERVAL("unlabelled_important", 0, 1),
                                       END};
static const ks_field graded_best[] = {GRADES, INTERVAL("surface_free", -1, 1),
                                       OBJECT("bands", band_fields), END};
static const ks_field graded_baseline[] = {NEEDED_TEXT("name", NAME), GRADES,
                                           END};
static const ks_field graded_fields[] = {
    WHERE,
    NEEDED_TEXT("score", NAME),
    LIST_OF("layers", graded_layer, LAYERS),
    OBJECT("best", graded_best),
    LIST_OF("baselines", graded_baseline, LIST),
    END};

static const ks_field claim_fields[] = {TEXT("id", NAME),
                                        NEEDED_TEXT("question", NOTE),
                                        TEXT("rule", NOTE),
                                        INTERVAL("figure", -1e9, 1e9),
                                        TEXT("unit", NAME),
                                        NUMBER("p", 0, 1),
                                        TEXT("verdict", NAME),
                                        TEXT("note", NOTE),
                                        END};

static const ks_field row_fields[] = {
    WHOLE("steps", 0, COUNT_MOST),     WHOLE("important", 0, COUNT_MOST),
    WHOLE("removable", 0, COUNT_MOST), WHOLE("chains", 0, COUNT_MOST),
    WHOLE("problems", 0, COUNT_MOST),  WHOLE("unlabelled", 0, COUNT_MOST),
    WHOLE("invalid", 0, COUNT_MOST),   END};
static const ks_field setting_fields[] = {
    WHOLE("folds", 0, LIST), WHOLE("inner_parts", 0, LIST),
    WHOLE("seeds", 0, LIST), WHOLE("bootstrap", 0, COUNT_MOST), END};

static const ks_field summary_fields[] = {
    TEXT("format", NAME),
    WHOLE("format_version", 1, 1),
    NEEDED_TEXT("program", NAME),
    NEEDED_TEXT("model", NAME),
    TEXT("dataset", NAME),
    TEXT("context", NAME),
    TEXT("protocol", NAME),
    OBJECT("rows", row_fields),
    OBJECT("settings", setting_fields),
    {.name = "probes",
     .kind = KS_FIELD_LIST,
     .needed = true,
     .most = LIST,
     .fields = series_fields},
    LIST_OF("permuted_labels", permuted_fields, LIST),
    LIST_OF("baselines", baseline_fields, LIST),
    LIST_OF("rivals", rival_fields, LIST),
    LIST_OF("strata", stratum_fields, LIST),
    LIST_OF("other_probes", other_fields, LIST),
    LIST_OF("protocols", protocol_fields, LIST),
    LIST_OF("published_texts", published_text_fields, LIST),
    LIST_OF("directions", direction_fields, LIST),
    LIST_OF("sparse", sparse_fields, LIST),
    LIST_OF("attention", attention_fields, LIST),
    LIST_OF("graded", graded_fields, LIST),
    OBJECT("analyses", analyses_fields),
    LIST_OF("claims", claim_fields, LIST),
    END};

#define SQUARE(n, low_at)                                                      \
    {                                                                          \
        .name = (n), .kind = KS_FIELD_INTERVALS, .low = (low_at), .high = 1,   \
        .most = SETS                                                           \
    }
/* p values of a square, and of its differences */
#define P_SQUARE(n)                                                            \
    { .name = (n), .kind = KS_FIELD_MATRIX, .low = 0, .high = 1, .most = SETS }
static const ks_field map_fields[] = {NEEDED_TEXT("probe_of", NAME),
                                      NEEDED_TEXT("activations_of", NAME),
                                      NEEDED_TEXT("map", NAME),
                                      INTERVAL("balanced_accuracy", 0, 1),
                                      INTERVAL("minus_own", -1, 1),
                                      INTERVAL("agreement", 0, 1),
                                      INTERVAL("r2", -COUNT_MOST, 1),
                                      P,
                                      NUMBER("minus_own_p", 0, 1),
                                      NUMBER("minus_own_p_holm", 0, 1),
                                      END};
#define SETS_NAMED                                                             \
    { .name = "names", .kind = KS_FIELD_TEXTS, .needed = true, .most = SETS }
static const ks_field model_fields[] = {
    WHERE,
    SETS_NAMED,
    SQUARE("balanced_accuracy", 0),
    SQUARE("accuracy", 0),
    SQUARE("minus_self", -1),
    SQUARE("agreement", 0),
    SQUARE("label_agreement", 0),
    SQUARE("carried_by_ridge", 0),
    SQUARE("carried_by_procrustes", 0),
    P_SQUARE("p"),
    P_SQUARE("p_holm"),
    P_SQUARE("minus_self_p"),
    P_SQUARE("minus_self_p_holm"),
    LIST_OF("maps", map_fields, SETS *SETS * 8),
    END};
static const ks_field task_fields[] = {WHERE,
                                       SETS_NAMED,
                                       TEXT("model", NAME),
                                       SQUARE("balanced_accuracy", 0),
                                       SQUARE("accuracy", 0),
                                       SQUARE("minus_within", -1),
                                       P_SQUARE("p"),
                                       P_SQUARE("p_holm"),
                                       P_SQUARE("minus_within_p"),
                                       P_SQUARE("minus_within_p_holm"),
                                       END};
static const ks_field transfer_fields[] = {
    TEXT("format", NAME), WHOLE("format_version", 1, 1),
    LIST_OF("across_models", model_fields, LIST),
    LIST_OF("across_tasks", task_fields, LIST), END};

/* A square of sets has a row for each name. */
static ks_status check_sets(const json_t *transfer, const char *path,
                            ks_err *err) {
    static const char *const lists[] = {"across_models", "across_tasks"};
    json_t *entry, *value;
    size_t i;
    const char *key;
    for (size_t l = 0; l < KS_COUNT(lists); l++)
        json_array_foreach(json_object_get(transfer, lists[l]), i, entry) {
            size_t n = json_array_size(json_object_get(entry, "names"));
            for (const ks_field *f = l ? task_fields : model_fields; f->name;
                 f++) {
                key = f->name;
                value = json_object_get(entry, key);
                if (f->kind != KS_FIELD_INTERVALS && f->kind != KS_FIELD_MATRIX)
                    continue;
                if (json_is_array(value) && json_array_size(value) != n)
                    return ks_fail(err, KS_FORMAT,
                                   "%s: %s[%zu].%s has %zu rows, expected %zu, "
                                   "one for each of names",
                                   path, lists[l], i, key,
                                   json_array_size(value), n);
            }
        }
    return KS_OK;
}

/* A transfer matrix is square: as many rows and columns as layers. */
static ks_status check_square(const json_t *summary, const char *path,
                              ks_err *err) {
    json_t *one, *all = ks__member(summary, "analyses", "layer_transfer");
    size_t i;
    json_array_foreach(all, i, one) {
        size_t n = json_array_size(json_object_get(one, "layers"));
        json_t *matrix = json_object_get(one, "balanced_accuracy");
        if (json_array_size(matrix) != n ||
            (n && json_array_size(json_array_get(matrix, 0)) != n))
            return ks_fail(err, KS_FORMAT,
                           "%s: analyses.layer_transfer[%zu]."
                           "balanced_accuracy is %zu by %zu, expected %zu by "
                           "%zu: a row and a column for each of layers",
                           path, i, json_array_size(matrix),
                           json_array_size(json_array_get(matrix, 0)), n, n);
    }
    return KS_OK;
}

/* ---------------------------------------------------------------- getters */

double ks__number(const json_t *object, const char *key) {
    json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

const char *ks__text(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

json_t *ks__member(const json_t *object, const char *a, const char *b) {
    return json_object_get(json_object_get(object, a), b);
}

/* ------------------------------------------------------------------ a run */

/* The last part of a path, malloc'd; "." and ".." are looked up. */
static ks_status name_of(const char *folder, char **out, ks_err *err) {
    ks_status st = KS_OK;
    char *whole = realpath(folder, NULL);
    KS_CHECK(whole, KS_IO, "%s: there is no such folder: %s", folder,
             strerror(errno));
    const char *slash = strrchr(whole, '/');
    *out = strdup(slash && slash[1] ? slash + 1 : whole);
    KS_CHECK(*out, KS_NOMEM, "out of memory for a run's name");
done:
    free(whole);
    return st;
}

static ks_status set_name(ks_run *run, const char *argument, ks_err *err) {
    ks_status st = KS_OK;
    const char *equals = strchr(argument, '=');
    /* a folder whose own name has the sign in it is one */
    if (equals && ks_file_exists(argument)) equals = NULL;
    KS_CHECK(equals != argument && (!equals || equals[1]), KS_USAGE,
             "'%s': expected FOLDER or NAME=FOLDER", argument);
    run->folder = strdup(equals ? equals + 1 : argument);
    KS_CHECK(run->folder, KS_NOMEM, "out of memory for a path");
    if (!equals) {
        KS_TRY(name_of(run->folder, &run->name, err));
    } else {
        run->name = strndup(argument, (size_t)(equals - argument));
        KS_CHECK(run->name, KS_NOMEM, "out of memory for a run's name");
    }
    KS_CHECK(ks_utf8_check(run->name, strlen(run->name)) == strlen(run->name),
             KS_USAGE, "a run's name is not UTF-8; NAME=FOLDER gives another");
done:
    return st;
}

static ks_status read_one(ks_run *run, ks_err *err) {
    ks_status st = KS_OK;
    char *summary = NULL, *transfer = NULL;
    KS_TRY(ks_path_join(&summary, run->folder, "summary.json", err));
    KS_TRY(ks_path_join(&transfer, run->folder, "transfer.json", err));
    KS_TRY(ks_path_join(&run->probes, run->folder, "probes.h5", err));
    bool has_summary = ks_file_exists(summary);
    bool has_transfer = ks_file_exists(transfer);
    KS_CHECK(has_summary || has_transfer, KS_IO,
             "%s: has neither summary.json (of keystep probe) nor "
             "transfer.json (of keystep transfer)",
             run->folder);
    if (has_summary) {
        KS_TRY(
            ks__schema_read(summary, summary_fields, MOST, &run->summary, err));
        KS_TRY(check_square(run->summary, summary, err));
    }
    if (has_transfer) {
        KS_TRY(ks__schema_read(transfer, transfer_fields, MOST, &run->transfer,
                               err));
        KS_TRY(check_sets(run->transfer, transfer, err));
    }
    if (!ks_file_exists(run->probes)) {
        free(run->probes);
        run->probes = NULL;
    }
done:
    free(summary);
    free(transfer);
    return st;
}

ks_status ks_runs_read(ks_runs *out, const char *const *arguments, size_t n,
                       ks_err *err) {
    ks_status st = KS_OK;
    *out = (ks_runs){0};
    KS_CHECK(n <= KS_MAX_RUNS, KS_USAGE, "%zu runs, expected at most %d", n,
             KS_MAX_RUNS);
    for (size_t i = 0; i < n; i++) {
        ks_run *run = &out->at[out->n++];
        KS_TRY(set_name(run, arguments[i], err));
        for (size_t k = 0; k < i; k++)
            KS_CHECK(strcmp(out->at[k].name, run->name) != 0, KS_USAGE,
                     "two runs are called '%s'; NAME=FOLDER gives another name",
                     run->name);
        KS_TRY(read_one(run, err));
    }
done:
    if (st != KS_OK) ks_runs_free(out);
    return st;
}

void ks_runs_free(ks_runs *runs) {
    for (size_t i = 0; i < runs->n; i++) {
        free(runs->at[i].name);
        free(runs->at[i].folder);
        free(runs->at[i].probes);
        json_decref(runs->at[i].summary);
        json_decref(runs->at[i].transfer);
    }
    *runs = (ks_runs){0};
}
