/* probes_steps.c - steps and scores of a probes.h5; see export.h. */
#include <stdlib.h>
#include <string.h>

#include "probes_read.h"

enum { WIDEST = 4096 }; /* bytes of an id */

/* ------------------------------------------------------------------- steps */

static ks_status get(const ks__probes_file *file, const char *name, hid_t type,
                     int64_t n, size_t size, void *out, ks_err *err) {
    ks_status st = KS_OK;
    hid_t set = -1;
    void *all = NULL;
    int64_t want[1] = {n};
    KS_TRY(ks__probes_open_set(file, name, H5T_INTEGER, 1, want, &set, err));
    KS_TRY(ks_alloc((void *)&all, (size_t)n, size, name, err));
    if (H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, all) < 0)
        KS_TRY(ks__h5_fail(err, file->path, "read a data set"));
    memcpy(out, &all, sizeof all);
    all = NULL;
done:
    free(all);
    ks__h5_drop(&set);
    return st;
}

/* n strings of fixed width, each ended by a NUL here. */
static ks_status get_strings(const ks__probes_file *file, const char *name,
                             int64_t *n, char **texts, const char ***out,
                             ks_err *err) {
    ks_status st = KS_OK;
    hid_t set = -1, type = -1, memory = H5Tcopy(H5T_C_S1);
    KS_TRY(ks__probes_open_set(file, name, H5T_STRING, 1, n, &set, err));
    type = H5Dget_type(set);
    KS_CHECK(H5Tis_variable_str(type) == 0, KS_FORMAT,
             "%s: %s does not hold strings of fixed length", file->path, name);
    size_t wide = H5Tget_size(type);
    KS_CHECK(wide <= WIDEST, KS_FORMAT,
             "%s: %s holds strings of %zu bytes, expected at most %d",
             file->path, name, wide, WIDEST);
    H5Tset_size(memory, wide + 1);
    H5Tset_cset(memory, H5Tget_cset(type));
    KS_TRY(ks_alloc(texts, (size_t)*n, wide + 1, name, err));
    KS_TRY(ks_alloc((void *)out, (size_t)*n, sizeof **out, name, err));
    if (H5Dread(set, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, *texts) < 0)
        KS_TRY(ks__h5_fail(err, file->path, "read strings"));
    for (int64_t i = 0; i < *n; i++) {
        char *text = *texts + (size_t)i * (wide + 1);
        size_t length = strlen(text);
        KS_CHECK(length > 0 && ks_utf8_check(text, length) == length, KS_FORMAT,
                 "%s: %s[%lld] is empty or not UTF-8", file->path, name,
                 (long long)i);
        (*out)[i] = text;
    }
done:
    ks__h5_drop(&memory);
    ks__h5_drop(&type);
    ks__h5_drop(&set);
    return st;
}

static ks_status check_steps(const ks_probes_steps *s, const char *path,
                             ks_err *err) {
    ks_status st = KS_OK;
    for (int64_t i = 0; i < s->n_steps; i++) {
        bool same = i > 0 && s->chain[i] == s->chain[i - 1];
        int32_t low = same ? s->end[i - 1] : 0;
        KS_CHECK(s->chain[i] >= (i ? s->chain[i - 1] : 0) &&
                     s->chain[i] < s->n_chains,
                 KS_FORMAT,
                 "%s: /steps/chain[%lld] is %d, out of order or "
                 "none of %lld chains",
                 path, (long long)i, s->chain[i], (long long)s->n_chains);
        KS_CHECK(s->begin[i] >= low && s->end[i] >= s->begin[i], KS_FORMAT,
                 "%s: step %lld has bytes %d to %d, expected an end not ahead "
                 "of its begin, and a begin from %d on",
                 path, (long long)i, s->begin[i], s->end[i], low);
        KS_CHECK(s->label[i] >= -1 && s->label[i] <= 1, KS_FORMAT,
                 "%s: /steps/label[%lld] is %d, expected 1, 0 or -1", path,
                 (long long)i, s->label[i]);
    }
done:
    return st;
}

static ks_status get_steps(const ks__probes_file *file, ks_probes_steps *s,
                           ks_err *err) {
    ks_status st = KS_OK;
    int64_t shape[2] = {-1, -1};
    hid_t set = -1;
    KS_CHECK(H5Lexists(file->id, "/steps", H5P_DEFAULT) > 0 &&
                 H5Lexists(file->id, "/chains", H5P_DEFAULT) > 0,
             KS_FORMAT,
             "%s: does not say which steps its scores are of, as files of "
             "older versions; run keystep probe again",
             file->path);
    KS_TRY(
        ks__probes_open_set(file, "/fold", H5T_INTEGER, 2, shape, &set, err));
    s->n_steps = shape[1];
    s->n_chains = -1;
    KS_TRY(get(file, "/steps/chain", H5T_NATIVE_INT32, s->n_steps, 4, &s->chain,
               err));
    KS_TRY(get(file, "/steps/byte_begin", H5T_NATIVE_INT32, s->n_steps, 4,
               &s->begin, err));
    KS_TRY(get(file, "/steps/byte_end", H5T_NATIVE_INT32, s->n_steps, 4,
               &s->end, err));
    KS_TRY(get(file, "/steps/label", H5T_NATIVE_INT8, s->n_steps, 1, &s->label,
               err));
    KS_TRY(get_strings(file, "/chains/id", &s->n_chains, &s->texts[0], &s->id,
                       err));
    KS_TRY(get_strings(file, "/chains/problem", &s->n_chains, &s->texts[1],
                       &s->problem, err));
    KS_TRY(get_strings(file, "/chains/text_sha256", &s->n_chains, &s->texts[2],
                       &s->text_sha256, err));
    KS_TRY(check_steps(s, file->path, err));
done:
    ks__h5_drop(&set);
    return st;
}

ks_status ks_probes_steps_read(ks_probes_steps *out, const char *path,
                               ks_err *err) {
    ks__h5 was;
    ks__probes_file file;
    *out = (ks_probes_steps){0};
    ks__h5_enter(&was);
    ks_status st = ks__probes_file_open(&file, path, err);
    if (st == KS_OK) st = get_steps(&file, out, err);
    ks__probes_file_close(&file);
    ks__h5_leave(&was);
    if (st != KS_OK) ks_probes_steps_free(out);
    return st;
}

void ks_probes_steps_free(ks_probes_steps *s) {
    free(s->chain);
    free(s->begin);
    free(s->end);
    free(s->label);
    free((void *)s->id);
    free((void *)s->problem);
    free((void *)s->text_sha256);
    for (size_t i = 0; i < KS_COUNT(s->texts); i++) free(s->texts[i]);
    *s = (ks_probes_steps){0};
}

/* ------------------------------------------------------------------ scores */

static ks_status get_scores(const ks__probes_file *file, const char *name,
                            int rank, int64_t *shape, float *out, ks_err *err) {
    ks_status st = KS_OK;
    hid_t set = -1;
    KS_TRY(ks__probes_open_set(file, name, H5T_FLOAT, rank, shape, &set, err));
    if (H5Dread(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, out) < 0)
        KS_TRY(ks__h5_fail(err, file->path, "read scores"));
done:
    ks__h5_drop(&set);
    return st;
}

ks_status ks_probes_scores_read(const ks_probes_info *probes, int series,
                                const char *path, float *all, float *best,
                                ks_err *err) {
    const ks_probes_series *s = &probes->series[series];
    int64_t shape[2] = {s->n_layers, probes->n_steps};
    char name[96];
    ks__h5 was;
    ks__probes_file file;
    ks__h5_enter(&was);
    ks_status st = ks__probes_file_open(&file, path, err);
    if (st == KS_OK) {
        snprintf(name, sizeof name, "/probes/%s-%s/scores",
                 ks_stream_name(s->stream), ks_position_name(s->position));
        st = get_scores(&file, name, 2, shape, all, err);
    }
    if (st == KS_OK) {
        snprintf(name, sizeof name, "/probes/%s-%s/best_scores",
                 ks_stream_name(s->stream), ks_position_name(s->position));
        st = get_scores(&file, name, 1, shape + 1, best, err);
    }
    ks__probes_file_close(&file);
    ks__h5_leave(&was);
    return st;
}
