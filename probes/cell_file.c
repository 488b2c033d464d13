/* cell_file.c - a cell as a .safetensors file, whose __metadata__ has the key
 * and SHA-256 of the data. See cell_store.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cell_store.h"
#include "safetensors.h"

static const char FORMAT[] = "keystep cell 1";

static size_t part_bytes(const ks_cell_part *p) {
    size_t values = (size_t)p->shape[0];
    if (p->shape[1]) values *= (size_t)p->shape[1];
    return values * (strcmp(p->dtype, "F64") == 0 ? 8 : 4);
}

/* ------------------------------------------------------------------ reading
 */

static const char *word(const json_t *metadata, const char *name) {
    const char *text = json_string_value(json_object_get(metadata, name));
    return text ? text : "";
}

/* A file that says it is a cell. */
static ks_status open_cell(ks_safetensors **file, const char *path,
                           ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_safetensors_open(file, path, err));
    KS_CHECK(strcmp(word(ks_safetensors_metadata(*file), "format"), FORMAT) ==
                 0,
             KS_FORMAT, "%s: is no cell: its \"format\" is not \"%s\"", path,
             FORMAT);
done:
    return st;
}

/* The bytes that the tensors span, which the checksum is of. */
static ks_status check_sum(const ks_safetensors *file, const char *path,
                           ks_err *err) {
    ks_status st = KS_OK;
    const char *begin = NULL, *end = NULL;
    char hex[65];
    for (size_t i = 0; i < ks_safetensors_n(file); i++) {
        const ks_st_tensor *t = ks_safetensors_at(file, i);
        const char *at = t->data;
        if (!begin || at < begin) begin = at;
        if (!end || at + t->size > end) end = at + t->size;
    }
    ks_sha256_of(begin, (size_t)(end - begin), hex);
    KS_CHECK(strcmp(hex, word(ks_safetensors_metadata(file), "sha256")) == 0,
             KS_FORMAT, "%s: its values are not those that were written", path);
done:
    return st;
}

/* at: where the part before it ended, NULL: it is the first. */
static ks_status check_part(const ks_safetensors *file, const char *path,
                            const ks_cell_part *p, const char **at,
                            ks_err *err) {
    ks_status st = KS_OK;
    const ks_st_tensor *t = ks_safetensors_find(file, p->name);
    int32_t rank = p->shape[1] ? 2 : 1;
    KS_CHECK(t && strcmp(t->dtype, p->dtype) == 0 && t->n_dims == rank &&
                 t->dims[0] == p->shape[0] &&
                 (rank == 1 || t->dims[1] == p->shape[1]),
             KS_FORMAT, "%s: expected %s of type %s, %lld x %lld", path,
             p->name, p->dtype, (long long)p->shape[0],
             (long long)(rank == 1 ? 1 : p->shape[1]));
    KS_CHECK(!*at || (const char *)t->data == *at, KS_FORMAT,
             "%s: %s does not lie where it was written", path, p->name);
    *at = (const char *)t->data + t->size;
    if (p->data) memcpy(p->data, t->data, t->size);
done:
    return st;
}

ks_status ks__cell_read(const char *path, const ks_cell_key *key,
                        const ks_cell_part *parts, size_t n, ks_err *err) {
    ks_status st = KS_OK;
    ks_safetensors *file = NULL;
    const char *at = NULL;
    KS_TRY(open_cell(&file, path, err));
    KS_CHECK(strcmp(word(ks_safetensors_metadata(file), "key"), key->decides) ==
                 0,
             KS_FORMAT, "%s: holds another key than its name says", path);
    KS_TRY(check_sum(file, path, err));
    KS_CHECK(!n || ks_safetensors_n(file) == n, KS_FORMAT,
             "%s: holds %zu arrays, expected %zu", path, ks_safetensors_n(file),
             n);
    for (size_t i = 0; i < n; i++)
        KS_TRY(check_part(file, path, &parts[i], &at, err));
done:
    ks_safetensors_close(&file);
    return st;
}

ks_status ks__cell_peek(const char *path, json_t **decides, char shard[32],
                        ks_err *err) {
    ks_status st = KS_OK;
    ks_safetensors *file = NULL;
    json_error_t where;
    KS_TRY(open_cell(&file, path, err));
    const json_t *metadata = ks_safetensors_metadata(file);
    const char *text = word(metadata, "key");
    *decides = ks_json_loadb(text, strlen(text), 0, &where);
    KS_CHECK(json_is_object(*decides), KS_FORMAT, "%s: its key is no object",
             path);
    snprintf(shard, 32, "%s", word(metadata, "shard"));
done:
    ks_safetensors_close(&file);
    return st;
}

/* ------------------------------------------------------------------ writing
 */

/* Length, header and blanks. */
static ks_status make_header(ks_str *out, const char *path,
                             const ks_cell_key *key, const char *shard,
                             const ks_cell_part *parts, size_t n, ks_err *err) {
    ks_status st = KS_OK;
    size_t at = 0;
    char hex[65];
    ks_sha256 *hash = NULL;
    json_t *header = json_object();
    KS_CHECK(header, KS_NOMEM, "out of memory for %s", path);
    KS_TRY(ks_sha256_open(&hash, err));
    for (size_t i = 0; i < n; i++) {
        ks_sha256_add(hash, parts[i].data, part_bytes(&parts[i]));
        KS_TRY(ks_safetensors_add(header, parts[i].name, parts[i].dtype,
                                  parts[i].shape, parts[i].shape[1] ? 2 : 1,
                                  part_bytes(&parts[i]), &at, path, err));
    }
    ks_sha256_close(&hash, hex);
    KS_TRY(ks_json_set(header, "__metadata__",
                       json_pack("{s:s,s:s,s:s,s:s}", "format", FORMAT, "key",
                                 key->decides, "sha256", hex, "shard", shard),
                       path, err));
    KS_TRY(ks_safetensors_begin(out, header, path, err));
done:
    ks_sha256_close(&hash, NULL);
    json_decref(header);
    return st;
}

/* Fails by errno. */
static ks_status write_all(FILE *file, const char *path, const ks_str *header,
                           const ks_cell_part *parts, size_t n, ks_err *err) {
    bool good = fwrite(header->data, 1, header->length, file) == header->length;
    for (size_t i = 0; i < n && good; i++) {
        size_t bytes = part_bytes(&parts[i]);
        good = fwrite(parts[i].data, 1, bytes, file) == bytes;
    }
    if (good && fflush(file) == 0 && fsync(fileno(file)) == 0) return KS_OK;
    return ks_fail(err, KS_IO, "%s: cannot write: %s", path, strerror(errno));
}

/* A new file beside path, of a name that no other process has: two may be
 * writing the same cell. */
static ks_status open_fresh(FILE **file, char **fresh, const char *path,
                            ks_err *err) {
    ks_status st = KS_OK;
    enum { TRIES = 1000 };
    int fd = -1;
    for (int i = 0; fd < 0 && i < TRIES; i++) {
        free(*fresh);
        if (asprintf(fresh, "%s.%ld-%d.new", path, (long)getpid(), i) < 0) {
            *fresh = NULL;
            KS_CHECK(false, KS_NOMEM, "out of memory for a path");
        }
        fd = open(*fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0 && errno != EEXIST) break;
    }
    if (fd < 0) {
        st = ks_fail(err, KS_IO, "%s: cannot create: %s", *fresh,
                     strerror(errno));
        free(*fresh);
        *fresh = NULL; /* not ours to remove */
        goto done;
    }
    *file = fdopen(fd, "wb");
    if (!*file) close(fd);
    KS_CHECK(*file, KS_NOMEM, "%s: out of memory", *fresh);
done:
    return st;
}

ks_status ks__cell_write(const char *path, const ks_cell_key *key,
                         const char *shard, const ks_cell_part *parts, size_t n,
                         ks_err *err) {
    ks_status st = KS_OK;
    ks_str header = {0};
    char *fresh = NULL;
    FILE *file = NULL;
    KS_TRY(make_header(&header, path, key, shard, parts, n, err));
    KS_TRY(open_fresh(&file, &fresh, path, err));
    KS_TRY(write_all(file, fresh, &header, parts, n, err));
    int closed = fclose(file);
    file = NULL;
    KS_CHECK(closed == 0, KS_IO, "%s: cannot write: %s", fresh,
             strerror(errno));
    KS_CHECK(rename(fresh, path) == 0, KS_IO, "%s: cannot rename to: %s", path,
             strerror(errno));
    KS_TRY(ks_sync_folder_of(path, err));
done:
    if (file) fclose(file);
    if (st != KS_OK && fresh) unlink(fresh);
    free(fresh);
    ks_str_free(&header);
    return st;
}
