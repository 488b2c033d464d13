/* acts_hash.c - what the values of a layer are, told by the checksums of its
 * rows: a few bytes a row, where the rows themselves would all be read. */
#include "acts_format.h"

#include <stdlib.h>
#include <string.h>

/* Files behind a virtual set, in the order of its rows. */
typedef struct sources {
    char **path; /* [n] owned */
    size_t n, capacity;
} sources;

static ks_status add_source(void *user, const char *path, ks_err *err) {
    ks_status st = KS_OK;
    sources *all = user;
    KS_TRY(ks_grow(&all->path, &all->capacity, all->n + 1, sizeof(char *),
                   "shards", err));
    all->path[all->n] = strdup(path);
    KS_CHECK(all->path[all->n], KS_NOMEM, "out of memory for a path");
    all->n++;
done:
    return st;
}

/* Adds a shard's checksums to those of each layer; *there: it has them. */
static ks_status add_shard(const char *path, const ks__acts_set *set,
                           ks_sha256 **hash, bool *there, ks_err *err) {
    ks_status st = KS_OK;
    ks_acts_file *f = NULL;
    KS_TRY(ks__acts_open_any(&f, path, err));
    int i = f->set_of[set->stream][set->position];
    *there =
        i >= 0 && f->has_sums[i] && f->layout.sets[i].n_layers == set->n_layers;
    for (int32_t l = 0; *there && l < set->n_layers; l++)
        ks_sha256_add(hash[l],
                      ks__acts_mapped_sums(f, &f->layout.sets[i], l, 0),
                      (size_t)f->layout.sets[i].n_rows * sizeof(uint32_t));
done:
    ks_acts_close(&f);
    return st;
}

/* Of all layers of a virtual set: joined files have their checksums in the
 * shards, whose rows are one behind the other. */
static ks_status hash_shards(const ks_acts_file *f, int i, char (*hex)[65],
                             ks_err *err) {
    ks_status st = KS_OK;
    const ks__acts_set *set = &f->layout.sets[i];
    ks_sha256 **hash = NULL;
    sources all = {0};
    bool there = true;
    ks__h5 was;
    ks__h5_enter(&was);
    st = ks__acts_check_virtual(f, f->virtual[i], "a data set", add_source,
                                &all, err);
    ks__h5_leave(&was);
    KS_TRY(st);
    KS_TRY(
        ks_alloc(&hash, (size_t)set->n_layers, sizeof *hash, "checksums", err));
    for (int32_t l = 0; l < set->n_layers; l++)
        KS_TRY(ks_sha256_open(&hash[l], err));
    for (size_t k = 0; k < all.n && there; k++)
        KS_TRY(add_shard(all.path[k], set, hash, &there, err));
    for (int32_t l = 0; l < set->n_layers; l++)
        ks_sha256_close(&hash[l], there ? hex[l] : NULL);
done:
    for (int32_t l = 0; hash && l < set->n_layers; l++)
        ks_sha256_close(&hash[l], NULL);
    free(hash);
    for (size_t k = 0; k < all.n; k++) free(all.path[k]);
    free(all.path);
    return st;
}

/* Once for a file. */
static ks_status know_shards(ks_acts_file *f, int i, ks_err *err) {
    ks_status st = KS_OK;
    char(*hex)[65] = NULL;
    if (f->hashes_of[i]) return KS_OK;
    KS_TRY(ks_alloc(&hex, (size_t)f->layout.sets[i].n_layers, sizeof *hex,
                    "checksums", err));
    KS_TRY(hash_shards(f, i, hex, err));
    f->hashes_of[i] = hex;
    hex = NULL;
done:
    free(hex);
    return st;
}

ks_status ks_acts_layer_hash(const ks_acts_file *f, ks_stream stream,
                             ks_position position, int32_t layer, char hex[65],
                             ks_err *err) {
    ks_status st = KS_OK;
    hex[0] = 0;
    KS_CHECK(ks_acts_has(f, stream, position) &&
                 ks_acts_has_layer(f, stream, layer),
             KS_MISMATCH, "%s: has no layer %d of %s at %s", f->path, layer,
             ks_stream_name(stream), ks_position_name(position));
    int i = f->set_of[stream][position];
    const ks__acts_set *set = &f->layout.sets[i];
    int32_t place = ks__acts_place(&f->layout, layer);
    if (f->has_sums[i])
        ks_sha256_of(ks__acts_mapped_sums(f, set, place, 0),
                     (size_t)set->n_rows * sizeof(uint32_t), hex);
    if (f->virtual[i] < 0) return KS_OK;
    ks_acts_file *mine = (ks_acts_file *)(uintptr_t)f; /* it is a memo */
#pragma omp critical(ks_acts_hash)
    st = know_shards(mine, i, err);
    if (st == KS_OK)
        memcpy(hex, f->hashes_of[i][place], sizeof *f->hashes_of[i]);
done:
    return st;
}
