/* Arrays of other programs: what numpy, safetensors and h5py wrote, and files
 * that lie. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "import_array.h"
#include "shell.h"

#define DATA KS_TEST_DATA "/arrays/"

static ks_status open_array(ks_array *a, const char *file, const char *name,
                            bool bf16, ks_err *err) {
    char path[512];
    snprintf(path, sizeof path, *file == '/' ? "%s%s" : DATA "%s%s", file, "");
    return ks_array_open(a, path, name, bf16, err);
}

/* ------------------------------------------------------------------- golden */

Test(import_array, reads_what_stock_programs_write) {
    static const struct {
        const char *file, *name;
        bool bf16;
        ks_number type;
    } files[] = {
        {"f2.npy", NULL, false, KS_NUMBER_F16},
        {"f4.npy", NULL, false, KS_NUMBER_F32},
        {"f8.npy", NULL, false, KS_NUMBER_F64},
        {"u2.npy", NULL, true, KS_NUMBER_BF16},
        {"v2.npy", NULL, true, KS_NUMBER_BF16},
        {"version2.npy", NULL, false, KS_NUMBER_F32},
        {"vllm.safetensors", "hidden_states", false, KS_NUMBER_BF16},
        {"f16.safetensors", NULL, false, KS_NUMBER_F16},
        {"f64.safetensors", "x", false, KS_NUMBER_F64},
        {"plain.h5", "group/f2", false, KS_NUMBER_F16},
        {"plain.h5", "/group/f4", false, KS_NUMBER_F32},
        {"plain.h5", "/group/f8", false, KS_NUMBER_F64},
    };
    for (size_t f = 0; f < KS_COUNT(files); f++) {
        ks_array a;
        ks_err err = {0};
        float all[24], column[3];
        cr_assert(eq(int,
                     open_array(&a, files[f].file, files[f].name, files[f].bf16,
                                &err),
                     KS_OK),
                  "%s", err.text);
        cr_expect(eq(int, a.type, files[f].type), "%s", files[f].file);
        cr_expect(eq(int, a.n_dims, 3));
        cr_expect(eq(i64, a.dims[0], 2));
        cr_expect(eq(i64, a.dims[1], 3));
        cr_expect(eq(i64, a.dims[2], 4));
        ks_array_read(&a, 0, 1, 24, all);
        for (int i = 0; i < 24; i++)
            cr_expect(
                eq(flt, all[i],
                   (float)(100 * (i / 12) + 10 * (i / 4 % 3) + i % 4) + 0.5f),
                "%s %d", files[f].file, i);
        ks_array_read(&a, 13, 4, 3, column);
        for (int i = 0; i < 3; i++)
            cr_expect(eq(flt, column[i], (float)(101 + 10 * i) + 0.5f));
        ks_array_close(&a);
    }
}

Test(import_array, token_ids_beside) {
    static const struct {
        const char *file, *name, *beside;
        bool there;
    } files[] = {{"vllm.safetensors", "hidden_states", "token_ids", true},
                 {"f64.safetensors", "x", "token_ids", false},
                 {"plain.h5", "group/f4", "ids", true},
                 {"plain.h5", "group/f4", "token_ids", false},
                 {"f4.npy", NULL, "token_ids", false}};
    for (size_t f = 0; f < KS_COUNT(files); f++) {
        ks_array a, ids;
        ks_err err = {0};
        char path[256];
        bool there;
        snprintf(path, sizeof path, DATA "%s", files[f].file);
        cr_assert(eq(int, ks_array_open(&a, path, files[f].name, false, &err),
                     KS_OK));
        cr_assert(eq(
            int, ks_array_beside(&a, path, files[f].beside, &ids, &there, &err),
            KS_OK));
        cr_expect(eq(int, there, files[f].there), "%s", files[f].file);
        for (int i = 0; there && i < 3; i++)
            cr_expect(eq(i64, ks_array_integer(&ids, i), 7 * i));
        ks_array_close(&a);
    }
}

Test(import_array, says_why_a_file_is_not_taken) {
    static const struct {
        const char *file, *name;
        bool bf16;
        ks_status code;
        const char *says;
    } bad[] = {
        {"big.npy", NULL, false, KS_FORMAT, ">f4"},
        {"c8.npy", NULL, false, KS_FORMAT, "<c8"},
        {"u2.npy", NULL, false, KS_USAGE, "--bf16"},
        {"f4.npy", NULL, true, KS_USAGE, "16-bit words"},
        {"f4.npy", "x", false, KS_USAGE, "no name"},
        {"fortran.npy", NULL, false, KS_USAGE, "Fortran"},
        {"vllm.safetensors", NULL, false, KS_USAGE, "2 tensors"},
        {"vllm.safetensors", "nothing", false, KS_USAGE, "no tensor"},
        {"i8.safetensors", "x", false, KS_FORMAT, "type I8"},
        {"f64.safetensors", "x", true, KS_USAGE, "--bf16"},
        {"plain.h5", NULL, false, KS_USAGE, "--tensor"},
        {"plain.h5", "nothing", false, KS_USAGE, "no data set"},
        {"plain.h5", "group", false, KS_USAGE, "no data set"},
        {"plain.h5", "group/big", false, KS_FORMAT, "little-endian"},
        {"plain.h5", "group/i1", false, KS_FORMAT, "does not hold"},
        {"plain.h5", "packed", false, KS_FORMAT, "h5repack"},
        {"plain.h5", "empty", false, KS_FORMAT, "do not lie in the file"},
        {"plain.h5", "five", false, KS_FORMAT, "5 dimensions"},
        {"nowhere.npy", NULL, false, KS_IO, "nowhere.npy"},
        {"nowhere.h5", "x", false, KS_IO, "nowhere.h5"},
        {"../arrays", NULL, false, KS_USAGE, "expected a file named"},
    };
    for (size_t f = 0; f < KS_COUNT(bad); f++) {
        ks_array a;
        ks_err err = {0};
        cr_expect(
            eq(int, open_array(&a, bad[f].file, bad[f].name, bad[f].bf16, &err),
               bad[f].code),
            "%s %s: %s", bad[f].file, bad[f].name ? bad[f].name : "", err.text);
        cr_expect(strstr(err.text, bad[f].says) != NULL, "%s: %s", bad[f].file,
                  err.text);
        cr_expect(strstr(err.text,
                         strrchr(bad[f].file, '/') ? "arrays" : bad[f].file) !=
                      NULL,
                  "%s", err.text);
        cr_expect(a.owner == NULL && a.data == NULL);
    }
}

/* ------------------------------------------------------------------ hostile */

static char folder[64], path[128];

static void setup(void) {
    make_temporary(folder, "array");
}

static void teardown(void) {
    drop_temporary(folder);
}

TestSuite(import_array_hostile, .init = setup, .fini = teardown);

static void put(const char *name, const void *bytes, size_t n) {
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    cr_assert(file && fwrite(bytes, 1, n, file) == n);
    fclose(file);
}

/* An .npy of this header, then n bytes. */
static void put_npy(const char *header, size_t n) {
    char bytes[2048] = "\x93NUMPY\1";
    size_t length = strlen(header);
    bytes[7] = 0;
    bytes[8] = (char)(length & 255);
    bytes[9] = (char)(length >> 8);
    memcpy(bytes + 10, header, length);
    put("x.npy", bytes, 10 + length + n);
}

Test(import_array_hostile, npy_headers) {
    static const struct {
        const char *header;
        size_t n;
    } bad[] = {
        {"", 0},
        {"{", 0},
        {"{}", 0},
        {"{'descr': '<f4', 'fortran_order': False}", 0},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)", 8},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} x", 8},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }{", 8},
        {"{'descr': '<f4', 'descr': '<f4', 'shape': (2,)}", 8},
        {"{'descr': '<f4', 'fortran_order': Maybe, 'shape': (2,)}", 8},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}", 8},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2 2)}", 16},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,,)}", 8},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,2,)}", 8},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': 1}", 8},
        {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}", 8},
        {"{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", 16},
        /* sizes that wrap, and that are not there */
        {"{'descr': '<f4', 'fortran_order': False, 'shape': "
         "(4611686018427387904, 4)}",
         0},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': "
         "(99999999999999999999999999,)}",
         8},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (65536, 65536, "
         "65536, 65536)}",
         0},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", 8},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", 8},
    };
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        ks_array a;
        ks_err err = {0};
        put_npy(bad[i].header, bad[i].n);
        cr_expect(
            eq(int, ks_array_open(&a, path, NULL, false, &err), KS_FORMAT),
            "%s", bad[i].header);
        cr_expect(strstr(err.text, "x.npy: ") != NULL, "%s", err.text);
    }
}

Test(import_array_hostile, npy_of_no_length) {
    static const char *const bytes[] = {"",
                                        "\x93NUMPY",
                                        "\x93NUMPY\1\1\1\1\1",
                                        "\x93NUMPY\2\1\377\377\377\377{",
                                        "\x93NUMPY\7\1\1\1{}{}{}{}",
                                        "not an npy at all"};
    for (size_t i = 0; i < KS_COUNT(bytes); i++) {
        ks_array a;
        ks_err err = {0};
        put("x.npy", bytes[i], strlen(bytes[i]));
        cr_expect(
            eq(int, ks_array_open(&a, path, NULL, false, &err), KS_FORMAT),
            "%zu", i);
    }
}

/* Byte k of the file at path. */
static void set_byte(int fd, size_t k, char byte) {
    cr_assert(pwrite(fd, &byte, 1, (off_t)k) == 1);
}

/* What is said of a file that is not taken: one line that names it. */
static void expect_line(const ks_err *err, size_t k) {
    cr_expect(strstr(err->text, path) == err->text && !strchr(err->text, '\n'),
              "byte %zu: %s", k, err->text);
}

/* Every prefix of a good file is refused, and no changed byte of its structure
 * makes us read beyond it. The one file is shortened and changed where it lies:
 * thousands of new ones would wait for the disk. */
static void cut_and_flip(const char *file, const char *name, size_t flips) {
    char *bytes, source[256], suffix[32];
    size_t n;
    snprintf(source, sizeof source, DATA "%s", file);
    snprintf(suffix, sizeof suffix, "x%s", strrchr(file, '.'));
    cr_assert(eq(int, ks_read_file(source, SIZE_MAX, &bytes, &n, NULL), KS_OK));
    put(suffix, bytes, n);
    int fd = open(path, O_RDWR);
    cr_assert(ge(int, fd, 0));
    for (size_t k = n; k-- > 0;) {
        ks_array a;
        ks_err err = {0};
        if (k >= 300 && k % 97) continue;
        cr_assert(eq(int, ftruncate(fd, (off_t)k), 0));
        cr_expect(ne(int, ks_array_open(&a, path, name, false, &err), KS_OK),
                  "%s cut to %zu", file, k);
        expect_line(&err, k);
    }
    cr_assert(pwrite(fd, bytes, n, 0) == (ssize_t)n);
    for (size_t k = 0; k < KS_MIN(n, flips); k++) {
        ks_array a;
        float last[1];
        ks_err err = {0};
        set_byte(fd, k, (char)(bytes[k] ^ 0xff));
        if (ks_array_open(&a, path, name, false, &err) == KS_OK) {
            int64_t all = 1;
            for (int i = 0; i < a.n_dims; i++) all *= a.dims[i];
            if (all && ks_number_is_real(a.type))
                ks_array_read(&a, all - 1, 1, 1, last);
            ks_array_close(&a);
        } else {
            expect_line(&err, k);
        }
        set_byte(fd, k, bytes[k]);
    }
    close(fd);
    free(bytes);
}

Test(import_array_hostile, cut_and_changed_npy) {
    cut_and_flip("f4.npy", NULL, 128);
}

Test(import_array_hostile, cut_and_changed_safetensors) {
    cut_and_flip("f64.safetensors", "x", 80);
}

Test(import_array_hostile, cut_and_changed_h5, .timeout = 120) {
    cut_and_flip("plain.h5", "group/f8", 4096);
}
