/* record.c - stage.json read again: is a stage done, of what, by whom? */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "folder.h"

ks_status ks_exp_run_look(ks_exp_run *run, int stage, ks_err *err) {
    ks_status st = KS_OK;
    char *path = NULL;
    json_error_t reason;
    const ks_exp_stage *s = &run->plan.stages[stage];
    json_decref(run->records[stage]);
    run->records[stage] = NULL;
    KS_TRY(ks_exp_stage_path(run, stage, "stage.json", &path, err));
    if (!ks_file_exists(path)) goto done;
    json_t *all = json_load_file(path, JSON_REJECT_DUPLICATES, &reason);
    KS_CHECK(all, KS_FORMAT, "%s line %d: %s", path, reason.line, reason.text);
    run->records[stage] = all;
    const char *key = json_string_value(json_object_get(all, "key"));
    KS_CHECK(key && strcmp(key, s->key) == 0, KS_MISMATCH,
             "%s: its key is %.10s.., this stage's is %.10s..: not a record of "
             "this folder",
             path, key ? key : "missing", s->key);
    KS_CHECK(json_is_array(json_object_get(all, "outputs")) &&
                 json_is_object(json_object_get(all, "took")),
             KS_FORMAT, "%s: is not the record that keystep run writes", path);
done:
    free(path);
    return st;
}

json_t *ks_exp_outputs_hash(const json_t *record) {
    ks_str all = {0};
    size_t i;
    json_t *one;
    char hex[65];
    if (!record) return NULL;
    json_array_foreach(json_object_get(record, "outputs"), i, one) {
        const char *file = json_string_value(json_object_get(one, "file"));
        const char *hash = json_string_value(json_object_get(one, "sha256"));
        ks_str_printf(&all, NULL, "%s %s\n", hash ? hash : "",
                      file ? file : "");
    }
    ks_sha256_of(all.data, all.length, hex);
    ks_str_free(&all);
    return json_string(hex);
}

static bool outputs_are_there(const ks_exp_run *run, int stage) {
    size_t i;
    json_t *one;
    bool there = true;
    json_array_foreach(json_object_get(run->records[stage], "outputs"), i,
                       one) {
        const char *file = json_string_value(json_object_get(one, "file"));
        json_int_t bytes = json_integer_value(json_object_get(one, "bytes"));
        char *path = NULL;
        struct stat info;
        there &= file &&
                 ks_exp_stage_path(run, stage, file, &path, NULL) == KS_OK &&
                 stat(path, &info) == 0 && info.st_size == bytes;
        free(path);
    }
    return there;
}

/* Was the file written to behind stage.json, which comes last, and is it
 * another one now? A copy of the folder has new times and the same bytes. */
static ks_status check_output(const char *record, const char *path,
                              const json_t *output, bool *same, ks_err *err) {
    const char *had = json_string_value(json_object_get(output, "sha256"));
    struct stat file, note;
    char hex[65];
    *same = true;
    if (stat(path, &file) != 0 || stat(record, &note) != 0 || !had ||
        file.st_mtim.tv_sec < note.st_mtim.tv_sec ||
        (file.st_mtim.tv_sec == note.st_mtim.tv_sec &&
         file.st_mtim.tv_nsec <= note.st_mtim.tv_nsec))
        return KS_OK;
    ks_status st = ks_exp_file_hash(path, hex, err);
    if (st == KS_OK) *same = strcmp(hex, had) == 0;
    return st;
}

static ks_status check_outputs(const ks_exp_run *run, int stage, ks_err *err) {
    ks_status st = KS_OK;
    const ks_exp_stage *s = &run->plan.stages[stage];
    char *path = NULL, *record = NULL;
    size_t i;
    json_t *one;
    KS_TRY(ks_exp_stage_path(run, stage, "stage.json", &record, err));
    json_array_foreach(json_object_get(run->records[stage], "outputs"), i,
                       one) {
        const char *file = json_string_value(json_object_get(one, "file"));
        bool same;
        if (!file) continue;
        free(path);
        path = NULL;
        KS_TRY(ks_exp_stage_path(run, stage, file, &path, err));
        KS_TRY(check_output(record, path, one, &same, err));
        KS_CHECK(same, KS_MISMATCH,
                 "%s was changed after keystep %s made it: --again %s makes it "
                 "anew; a file of your own is given in the experiment's file",
                 path, s->section->name, s->id);
    }
done:
    free(path);
    free(record);
    return st;
}

ks_status ks_exp_run_check_inputs(const ks_exp_run *run, int stage,
                                  ks_err *err) {
    ks_status st = KS_OK;
    const ks_exp_stage *s = &run->plan.stages[stage];
    for (size_t i = 0; i < s->n_inputs; i++)
        if (s->inputs[i].stage >= 0)
            KS_TRY(check_outputs(run, s->inputs[i].stage, err));
done:
    return st;
}

/* Are the inputs that it took those that are there now? */
static bool took_what_is_there(const ks_exp_run *run, int stage) {
    const ks_exp_stage *s = &run->plan.stages[stage];
    json_t *took = json_object_get(run->records[stage], "took");
    bool same = true;
    for (size_t i = 0; same && i < s->n_inputs; i++) {
        int of = s->inputs[i].stage;
        if (of < 0) continue;
        json_t *now = ks_exp_outputs_hash(run->records[of]);
        json_t *then = json_object_get(took, run->plan.stages[of].id);
        same = now && json_equal(now, then);
        json_decref(now);
    }
    return same;
}

static bool something_is_there(const ks_exp_run *run, int stage) {
    static const char *const traces[] = {"log.txt", "task-whole.json"};
    bool there = false;
    for (size_t i = 0; i < KS_COUNT(traces); i++) {
        char *path = NULL;
        there |=
            ks_exp_stage_path(run, stage, traces[i], &path, NULL) == KS_OK &&
            ks_file_exists(path);
        free(path);
    }
    return there;
}

ks_exp_state ks_exp_run_state(const ks_exp_run *run, int stage) {
    if (!run->records[stage])
        return something_is_there(run, stage) ? KS_EXP_BEGUN : KS_EXP_TO_DO;
    if (!took_what_is_there(run, stage)) return KS_EXP_STALE;
    return outputs_are_there(run, stage) ? KS_EXP_DONE : KS_EXP_GONE;
}

const char *ks_exp_run_other_version(const ks_exp_run *run, int stage) {
    const char *made =
        json_string_value(json_object_get(run->records[stage], "program"));
    return made && strcmp(made, ks_exp_version()) != 0 ? made : NULL;
}
