/* export_npz.c - folded probes as .npz: a zip archive of .npy files, version
 * 1.0 of the format (numpy/lib/format.py), stored without compression and with
 * one date for all. See folded.h. */
#include <stdlib.h>
#include <string.h>
#include <zip.h>

#include "folded.h"

enum { FIRST_DAY = 1 << 5 | 1 }; /* 1 January 1980, as zip counts */

/* descr: "<f4"; data of n bytes. The header ends at a multiple of 64. */
static ks_status npy(ks_str *out, const char *descr, const int64_t *shape,
                     int rank, const void *data, size_t n, ks_err *err) {
    ks_status st = KS_OK;
    ks_str head = {0};
    KS_TRY(ks_str_printf(&head, err,
                         "{'descr': '%s', 'fortran_order': False, "
                         "'shape': (",
                         descr));
    for (int i = 0; i < rank; i++)
        KS_TRY(ks_str_printf(&head, err, "%s%lld%s", i ? " " : "",
                             (long long)shape[i],
                             i + 1 < rank || rank == 1 ? "," : ""));
    KS_TRY(ks_str_printf(&head, err, "), }"));
    while ((10 + head.length + 1) % 64) KS_TRY(ks_str_add(&head, " ", 1, err));
    KS_TRY(ks_str_add(&head, "\n", 1, err));
    const unsigned char magic[] = {0x93,
                                   'N',
                                   'U',
                                   'M',
                                   'P',
                                   'Y',
                                   1,
                                   0,
                                   (unsigned char)(head.length & 255),
                                   (unsigned char)(head.length >> 8)};
    KS_TRY(ks_str_add(out, (const char *)magic, sizeof magic, err));
    KS_TRY(ks_str_add(out, head.data, head.length, err));
    KS_TRY(ks_str_add(out, data, n, err));
done:
    ks_str_free(&head);
    return st;
}

static ks_status zip_fail(ks_err *err, const char *path, zip_error_t *error) {
    return ks_fail(err, KS_IO, "%s: cannot make the archive: %s", path,
                   zip_error_strerror(error));
}

/* bytes stay with the caller until the archive is closed. */
static ks_status put(zip_t *archive, const char *path, const char *name,
                     const ks_str *bytes, ks_err *err) {
    zip_source_t *source =
        zip_source_buffer(archive, bytes->data, bytes->length, 0);
    zip_int64_t at = -1;
    if (source) at = zip_file_add(archive, name, source, ZIP_FL_ENC_UTF_8);
    if (source && at < 0) zip_source_free(source);
    if (at < 0 ||
        zip_set_file_compression(archive, (zip_uint64_t)at, ZIP_CM_STORE, 0) <
            0 ||
        zip_file_set_dostime(archive, (zip_uint64_t)at, 0, FIRST_DAY, 0) < 0)
        return zip_fail(err, path, zip_get_error(archive));
    return KS_OK;
}

/* The archive's bytes out of the buffer that it was written to. */
static ks_status take(zip_source_t *buffer, const char *path, ks_str *out,
                      ks_err *err) {
    ks_status st = KS_OK;
    char block[1 << 16];
    zip_int64_t n;
    if (zip_source_open(buffer) < 0)
        return zip_fail(err, path, zip_source_error(buffer));
    while ((n = zip_source_read(buffer, block, sizeof block)) > 0)
        KS_TRY(ks_str_add(out, block, (size_t)n, err));
    if (n < 0) KS_TRY(zip_fail(err, path, zip_source_error(buffer)));
done:
    zip_source_close(buffer);
    return st;
}

enum { N_ARRAYS = 4 };

static ks_status make_arrays(const ks_folded *f, ks_str arrays[N_ARRAYS],
                             ks_err *err) {
    ks_status st = KS_OK;
    int64_t shape[4], layers = f->n_layers;
    int rank = ks__folded_shape(f, shape);
    size_t fits = (size_t)f->n_layers * (size_t)f->n_fits;
    json_t *metadata = NULL;
    char *text = NULL, type[32];
    KS_TRY(npy(&arrays[0], "<f4", shape, rank, f->weight,
               fits * (size_t)f->d * sizeof(float), err));
    KS_TRY(npy(&arrays[1], "<f4", shape, rank - 1, f->bias,
               fits * sizeof(float), err));
    KS_TRY(npy(&arrays[2], "<i4", &layers, f->all_layers, f->layer,
               (size_t)layers * sizeof(int32_t), err));
    KS_TRY(ks__folded_metadata(f, &metadata, err));
    text = json_dumps(metadata, JSON_COMPACT | JSON_SORT_KEYS);
    KS_CHECK(text, KS_NOMEM, "out of memory for metadata");
    snprintf(type, sizeof type, "|S%zu", strlen(text));
    KS_TRY(npy(&arrays[3], type, NULL, 0, text, strlen(text), err));
done:
    json_decref(metadata);
    free(text);
    return st;
}

ks_status ks_export_npz(const ks_folded *f, const char *path, bool force,
                        ks_err *err) {
    static const char *const names[N_ARRAYS] = {"weight.npy", "bias.npy",
                                                "layer.npy", "metadata.npy"};
    ks_status st = KS_OK;
    ks_str arrays[N_ARRAYS] = {{0}}, bytes = {0};
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t *buffer = zip_source_buffer_create(NULL, 0, 0, &error);
    zip_t *archive = NULL;
    if (!buffer) KS_TRY(zip_fail(err, path, &error));
    zip_source_keep(buffer); /* the archive drops one reference */
    archive = zip_open_from_source(buffer, ZIP_TRUNCATE, &error);
    if (!archive) {
        zip_source_free(buffer);
        KS_TRY(zip_fail(err, path, &error));
    }
    KS_TRY(make_arrays(f, arrays, err));
    for (int i = 0; i < N_ARRAYS; i++)
        KS_TRY(put(archive, path, names[i], &arrays[i], err));
    if (zip_close(archive) < 0)
        KS_TRY(zip_fail(err, path, zip_get_error(archive)));
    archive = NULL;
    KS_TRY(take(buffer, path, &bytes, err));
    KS_TRY(ks_write_file(path, bytes.data, bytes.length, force, err));
done:
    if (archive) zip_discard(archive);
    if (buffer) zip_source_free(buffer);
    zip_error_fini(&error);
    for (int i = 0; i < N_ARRAYS; i++) ks_str_free(&arrays[i]);
    ks_str_free(&bytes);
    return st;
}
