/* acts_hash.c - what the values of a layer are, told by the checksums of its
 * rows: a few bytes a row, where the rows themselves would all be read. */
#include "acts_format.h"

#include <stdlib.h>

/* Checksums of a layer of a virtual data set, which HDF5 gathers from the
 * shards; *there: the file has them. Inside the library's lock. */
static ks_status read_virtual_sums(const ks_acts_file *f,
                                   const ks__acts_set *set, int32_t layer,
                                   uint32_t *sums, bool *there, ks_err *err) {
    ks_status st = KS_OK;
    char name[80];
    hid_t data = -1, space = -1, memory = -1;
    hsize_t start[] = {(hsize_t)layer, 0}, count[] = {1, (hsize_t)set->n_rows};
    snprintf(name, sizeof name, "/checksums/%s/%s", ks_stream_name(set->stream),
             ks_position_name(set->position));
    *there = ks__acts_has_sums(f, set);
    if (!*there) return KS_OK;
    data = H5Dopen2(f->file, name, H5P_DEFAULT);
    space = H5Dget_space(data);
    memory = H5Screate_simple(2, count, NULL);
    if (H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL) <
            0 ||
        H5Dread(data, H5T_STD_U32LE, memory, space, H5P_DEFAULT, sums) < 0)
        KS_TRY(ks__h5_fail(err, f->path, "read the checksums of a shard"));
done:
    ks__h5_drop(&memory);
    ks__h5_drop(&space);
    ks__h5_drop(&data);
    return st;
}

ks_status ks_acts_layer_hash(const ks_acts_file *f, ks_stream stream,
                             ks_position position, int32_t layer, char hex[65],
                             ks_err *err) {
    ks_status st = KS_OK;
    uint32_t *sums = NULL;
    bool there = false;
    hex[0] = 0;
    KS_CHECK(ks_acts_has(f, stream, position) &&
                 ks_acts_has_layer(f, stream, layer),
             KS_MISMATCH, "%s: has no layer %d of %s at %s", f->path, layer,
             ks_stream_name(stream), ks_position_name(position));
    const ks__acts_set *set = &f->layout.sets[f->set_of[stream][position]];
    size_t n = (size_t)set->n_rows * sizeof *sums;
    int32_t place = ks__acts_place(&f->layout, layer);
    const uint8_t *mapped = ks__acts_mapped_sums(f, set, place, 0);
    if (mapped) {
        ks_sha256_of(mapped, n, hex);
        return KS_OK;
    }
    if (f->file < 0) return KS_OK; /* nothing is virtual */
    KS_TRY(ks_alloc(&sums, KS_MAX(n, 1), 1, "checksums", err));
    ks__h5 was;
    ks__h5_enter(&was);
    st = read_virtual_sums(f, set, place, sums, &there, err);
    ks__h5_leave(&was);
    KS_TRY(st);
    if (there) ks_sha256_of(sums, n, hex);
done:
    free(sums);
    return st;
}
