/* export_fixture.h - what the tests of keystep export share: a run of probes in
 * the fixture's folder, its probes.h5, and a reader of ONNX files. */
#ifndef KS_TESTS_PROBES_EXPORT_FIXTURE_H
#define KS_TESTS_PROBES_EXPORT_FIXTURE_H

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <hdf5.h>
#include <stdarg.h>

#include "fixture.h"
#include "shell.h"

enum { FOLDS = 5, SEEDS = 2, FITS = FOLDS * SEEDS };

static fixture f;
static char said[4096], path[160];

/* Exit code of a shell line in the fixture's folder. */
static int sh(const char *format, ...) {
    static char line[1024], command[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    snprintf(command, sizeof command, "cd %s && K=%s && { %s; } 2>&1", f.dir,
             KS_PROGRAM, line);
    return shell_run(command, said, sizeof said);
}

static void teardown(void) {
    fixture_free(&f);
}

static const char *in_folder(const char *name) {
    static char full[192];
    snprintf(full, sizeof full, "%s/%s", f.dir, name);
    return full;
}

/* A data set of probes.h5. */
static void read_set(const char *name, hid_t type, void *out) {
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    cr_assert(file >= 0 && set >= 0, "%s", name);
    cr_assert(H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, out) >= 0);
    H5Dclose(set);
    H5Fclose(file);
}

typedef struct wire {
    const uint8_t *at, *end;
} wire;

static uint64_t varint(wire *w) {
    uint64_t v = 0;
    for (int shift = 0;; shift += 7) {
        cr_assert(w->at < w->end && shift < 64);
        v |= (uint64_t)(*w->at & 127) << shift;
        if (!(*w->at++ & 128)) return v;
    }
}

/* The k-th field of this number: its message, or its value in *value. */
static wire field(wire w, uint64_t number, int k, uint64_t *value) {
    while (w.at < w.end) {
        uint64_t key = varint(&w), v = varint(&w);
        int kind = key & 7;
        cr_assert(kind == 0 || kind == 2);
        const uint8_t *from = w.at;
        if (kind == 2) {
            cr_assert(v <= (uint64_t)(w.end - w.at));
            w.at += v;
        }
        if (key >> 3 != number || k--) continue;
        if (value) *value = v;
        return (wire){from, w.at};
    }
    return (wire){NULL, NULL};
}

static bool says(wire w, const char *text) {
    return w.at && (size_t)(w.end - w.at) == strlen(text) &&
           memcmp(w.at, text, strlen(text)) == 0;
}

/* One value of a data set in a copy of probes.h5; at: its place. */
static void spoil(const char *name, const hsize_t *at, double v) {
    cr_assert(eq(int, sh("cp out/probes.h5 bad.h5"), 0));
    hid_t file = H5Fopen(in_folder("bad.h5"), H5F_ACC_RDWR, H5P_DEFAULT);
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    hid_t space = H5Dget_space(set), one = H5Screate(H5S_SCALAR);
    H5Sselect_elements(space, H5S_SELECT_SET, 1, at);
    cr_assert(H5Dwrite(set, H5T_NATIVE_DOUBLE, one, space, H5P_DEFAULT, &v) >=
              0);
    H5Sclose(one);
    H5Sclose(space);
    H5Dclose(set);
    H5Fclose(file);
}

#endif
