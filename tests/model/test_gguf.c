/* The GGUF reader: what it gives, and that no lying file gets past it. */
#include "files.h"

#include "gguf.h"

/* ------------------------------------------- a writer that lies when asked */

typedef struct writer {
    uint8_t data[4096];
    size_t n;
} writer;

static void put(writer *w, const void *data, size_t n) {
    cr_assert(n <= sizeof w->data - w->n);
    memcpy(w->data + w->n, data, n);
    w->n += n;
}

static void put_u32(writer *w, uint32_t x) {
    put(w, &x, sizeof x);
}

static void put_u64(writer *w, uint64_t x) {
    put(w, &x, sizeof x);
}

static void put_text(writer *w, const char *s) {
    put_u64(w, strlen(s));
    put(w, s, strlen(s));
}

enum {
    U8 = 0,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    BOOL = 7,
    STRING = 8,
    ARRAY = 9,
    U64 = 10,
    F64 = 12
};

static writer header(uint32_t version, uint64_t n_tensors, uint64_t n_pairs) {
    writer w = {0};
    put(&w, "GGUF", 4);
    put_u32(&w, version);
    put_u64(&w, n_tensors);
    put_u64(&w, n_pairs);
    return w;
}

static void put_pair_u32(writer *w, const char *key, uint32_t value) {
    put_text(w, key);
    put_u32(w, U32);
    put_u32(w, value);
}

static void put_tensor(writer *w, const char *name, uint32_t n_dims,
                       const uint64_t *dims, uint32_t type, uint64_t offset) {
    put_text(w, name);
    put_u32(w, n_dims);
    for (uint32_t i = 0; i < n_dims; i++) put_u64(w, dims[i]);
    put_u32(w, type);
    put_u64(w, offset);
}

/* Pads to `alignment` and puts n bytes of data. */
static void put_data(writer *w, size_t alignment, size_t n) {
    while (w->n % alignment) put(w, "", 1);
    for (size_t i = 0; i < n; i++) put(w, "x", 1);
}

static void refused(const char *name, const writer *w, ks_status status,
                    const char *words) {
    ks_gguf *g = (ks_gguf *)1;
    ks_err err = {0};
    const char *path = file_write(name, w->data, w->n);
    cr_expect(eq(int, ks_gguf_open(&g, path, &err), status), "%s", name);
    cr_expect(says(&err, path, words));
    cr_expect(g == NULL);
    cr_expect(eq(int, err.code, status));
}

TestSuite(gguf, .init = files_begin, .fini = files_end);

/* ------------------------------------------------------------------- reads */

static writer good_file(uint32_t version) {
    writer w = header(version, 2, 8);
    put_text(&w, "a.string");
    put_u32(&w, STRING);
    put_text(&w, "hello");
    put_pair_u32(&w, "a.u32", 4000000000u);
    put_text(&w, "a.f64");
    put_u32(&w, F64);
    double x = -0.25;
    put(&w, &x, 8);
    put_text(&w, "a.bool");
    put_u32(&w, BOOL);
    put(&w, "\1", 1);
    put_text(&w, "strings");
    put_u32(&w, ARRAY);
    put_u32(&w, STRING);
    put_u64(&w, 2);
    put_text(&w, "");
    put_text(&w, "two");
    put_text(&w, "ints");
    put_u32(&w, ARRAY);
    put_u32(&w, I32);
    put_u64(&w, 2);
    put_u32(&w, (uint32_t)-7);
    put_u32(&w, 9);
    put_text(&w, "huge");
    put_u32(&w, U64);
    put_u64(&w, UINT64_MAX);
    put_pair_u32(&w, "general.alignment", 64);
    put_tensor(&w, "x", 2, (uint64_t[]){3, 2}, 0, 64);
    put_tensor(&w, "q", 1, (uint64_t[]){32}, 2, 0); /* Q4_0 */
    put_data(&w, 64, 64 + 24);
    return w;
}

static void reads_version(uint32_t version) {
    writer w = good_file(version);
    ks_gguf *g;
    ks_err err = {0};
    const char *path = file_write("good.gguf", w.data, w.n), *s;
    size_t n;
    uint64_t count;
    int64_t i;
    double x;
    bool found;
    ks_gguf_array a;
    cr_assert(ks_gguf_is(path));
    cr_assert(eq(int, ks_gguf_open(&g, path, &err), KS_OK), "%s", err.text);
    cr_expect(eq(str, (char *)ks_gguf_path(g), (char *)path));

    cr_assert(eq(int, ks_gguf_string(g, "a.string", &s, &n, &found, &err), 0));
    cr_expect(found && n == 5 && memcmp(s, "hello", 5) == 0);
    cr_assert(eq(int, ks_gguf_int(g, "a.u32", &i, &found, &err), 0));
    cr_expect(found && i == 4000000000);
    cr_assert(eq(int, ks_gguf_int(g, "a.bool", &i, &found, &err), 0));
    cr_expect(found && i == 1);
    cr_assert(eq(int, ks_gguf_float(g, "a.f64", &x, &found, &err), 0));
    cr_expect(found && x == -0.25);
    cr_assert(eq(int, ks_gguf_float(g, "a.u32", &x, &found, &err), 0));
    cr_expect(found && x == 4e9);
    cr_assert(eq(int, ks_gguf_int(g, "nothing", &i, &found, &err), 0));
    cr_expect(not(found));

    cr_assert(
        eq(int, ks_gguf_array_open(g, "strings", &a, &count, &found, &err), 0));
    cr_assert(found && count == 2);
    cr_assert(eq(int, ks_gguf_next_string(&a, &s, &n, &err), 0));
    cr_expect(eq(sz, n, 0));
    cr_assert(eq(int, ks_gguf_next_string(&a, &s, &n, &err), 0));
    cr_expect(n == 3 && memcmp(s, "two", 3) == 0);
    cr_expect(eq(int, ks_gguf_next_string(&a, &s, &n, &err), KS_FORMAT));
    cr_expect(says(&err, path, "'strings' has no further element"));
    cr_assert(
        eq(int, ks_gguf_array_open(g, "ints", &a, &count, &found, &err), 0));
    cr_expect(eq(int, ks_gguf_next_string(&a, &s, &n, &err), KS_FORMAT));
    cr_expect(says(&err, path, "'ints' is an array of i32, expected strings"));
    cr_assert(eq(int, ks_gguf_next_int(&a, &i, &err), 0));
    cr_expect(eq(long, i, -7));
    cr_assert(eq(int, ks_gguf_next_float(&a, &x, &err), 0));
    cr_expect(eq(dbl, x, 9));

    cr_expect(eq(u64, ks_gguf_n_tensors(g), 2));
    cr_expect(ks_gguf_tensor_at(g, 2) == NULL);
    cr_expect(ks_gguf_tensor_find(g, "y") == NULL);
    const ks_gguf_tensor *t = ks_gguf_tensor_find(g, "x");
    cr_assert(t == ks_gguf_tensor_at(g, 0));
    cr_expect(t->type == KS_F32 && t->n_dims == 2 && t->dims[0] == 3 &&
              t->dims[1] == 2 && t->dims[2] == 1 && t->size == 24);
    ks_map map = ks_gguf_map(g);
    const uint8_t *data = t->data;
    cr_expect(data + t->size == map.data + map.size);
    t = ks_gguf_tensor_find(g, "q");
    cr_expect(t->type == KS_Q4_0 && t->size == 18);
    ks_gguf_close(&g);
    cr_expect(g == NULL);
    ks_gguf_close(&g);
}

Test(gguf, reads_versions_2_and_3) {
    reads_version(2);
    reads_version(3);
}

Test(gguf, a_key_of_another_type_is_named) {
    writer w = good_file(3);
    ks_gguf *g;
    ks_err err;
    const char *path = file_write("good.gguf", w.data, w.n), *s;
    size_t n;
    int64_t i;
    double x;
    uint64_t count;
    bool found;
    ks_gguf_array a;
    cr_assert(eq(int, ks_gguf_open(&g, path, &err), KS_OK));
    cr_expect(
        eq(int, ks_gguf_string(g, "a.u32", &s, &n, &found, &err), KS_FORMAT));
    cr_expect(says(&err, path, "'a.u32' is of type u32, expected a string"));
    cr_expect(eq(int, ks_gguf_int(g, "a.f64", &i, &found, &err), KS_FORMAT));
    cr_expect(says(&err, path, "'a.f64' is of type f64, expected an integer"));
    cr_expect(eq(int, ks_gguf_int(g, "huge", &i, &found, &err), KS_FORMAT));
    cr_expect(says(&err, path, "'huge'"));
    cr_expect(
        eq(int, ks_gguf_float(g, "a.string", &x, &found, &err), KS_FORMAT));
    cr_expect(says(&err, path, "'a.string' is of type string"));
    cr_expect(eq(int, ks_gguf_array_open(g, "a.bool", &a, &count, &found, &err),
                 KS_FORMAT));
    cr_expect(says(&err, path, "'a.bool' is of type bool, expected an array"));
    ks_gguf_close(&g);
}

Test(gguf, the_mapping_can_be_taken) {
    writer w = good_file(3);
    ks_gguf *g;
    ks_err err;
    const char *path = file_write("good.gguf", w.data, w.n);
    cr_assert(eq(int, ks_gguf_open(&g, path, &err), KS_OK));
    const uint8_t *data = ks_gguf_tensor_find(g, "q")->data;
    ks_map map = ks_gguf_take_map(g);
    ks_gguf_close(&g);
    cr_expect(eq(u8, data[0], 'x')); /* still mapped */
    cr_expect(eq(sz, map.size, w.n));
    ks_map_close(&map);
}

/* ---------------------------------------------------------------- refusals */

Test(gguf, every_truncation_is_refused) {
    writer w = good_file(3);
    const char *path = file_path("cut.gguf");
    for (size_t n = 0; n < w.n; n++) {
        ks_gguf *g = NULL;
        ks_err err = {0};
        file_write("cut.gguf", w.data, n);
        ks_status st = ks_gguf_open(&g, path, &err);
        cr_assert(eq(int, st, KS_FORMAT), "cut at %zu: %s", n, err.text);
        cr_assert(strstr(err.text, path) &&
                      (strstr(err.text, "the file ends at") ||
                       strstr(err.text, "bytes can hold")),
                  "cut at %zu: %s", n, err.text);
        cr_assert(g == NULL);
    }
}

Test(gguf, not_a_gguf_file) {
    writer w = header(3, 0, 0);
    memcpy(w.data, "GGML", 4);
    refused("magic.gguf", &w, KS_FORMAT, "does not begin with 'GGUF'");
    cr_expect(not(ks_gguf_is(file_path("magic.gguf"))));
    cr_expect(not(ks_gguf_is(file_path("none.gguf"))));
    ks_gguf *g;
    ks_err err;
    const char *path = file_path("none.gguf");
    cr_expect(eq(int, ks_gguf_open(&g, path, &err), KS_IO));
    cr_expect(says(&err, path, "No such file"));
    cr_expect(eq(int, ks_gguf_open(&g, files_dir, &err), KS_IO));
    cr_expect(says(&err, files_dir, "not a regular file"));
}

Test(gguf, versions) {
    writer w = header(1, 0, 0);
    refused("v1.gguf", &w, KS_UNSUPPORTED, "version 1, expected 2 or 3");
    w = header(4, 0, 0);
    refused("v4.gguf", &w, KS_UNSUPPORTED, "version 4, expected 2 or 3");
    w = header(3u << 24, 0, 0);
    refused("big.gguf", &w, KS_UNSUPPORTED, "big-endian");
}

Test(gguf, lying_counts) {
    writer w = header(3, UINT64_MAX, 0);
    refused("tensors.gguf", &w, KS_FORMAT,
            "claims 18446744073709551615 tensors");
    w = header(3, 0, 1u << 20);
    refused("pairs.gguf", &w, KS_FORMAT, "claims 1048576 metadata pairs");
    w = header(3, 0, 1);
    put_u64(&w, UINT64_MAX - 3);
    put_data(&w, 1, 64);
    refused("key.gguf", &w, KS_FORMAT, "a metadata key at byte 24 claims");
    w = header(3, 0, 1);
    put_text(&w, "k");
    put_u32(&w, STRING);
    put_u64(&w, UINT64_MAX);
    refused("string.gguf", &w, KS_FORMAT, "value of 'k' at byte 37 claims");
    w = header(3, 0, 1);
    put_text(&w, "k");
    put_u32(&w, ARRAY);
    put_u32(&w, U64);
    put_u64(&w, UINT64_MAX / 8 + 2); /* times 8 it would wrap to 8 */
    put_data(&w, 1, 64);
    refused("array.gguf", &w, KS_FORMAT, "claims 2305843009213693953 elements");
    w = header(3, 0, 1);
    put_text(&w, "k");
    put_u32(&w, ARRAY);
    put_u32(&w, STRING);
    put_u64(&w, UINT64_MAX);
    put_text(&w, "only one");
    refused("strings.gguf", &w, KS_FORMAT, "a string of an array");
}

Test(gguf, bad_types) {
    writer w = header(3, 0, 1);
    put_text(&w, "k");
    put_u32(&w, 13);
    put_u64(&w, 0);
    refused("value.gguf", &w, KS_FORMAT, "'k' has type 13, expected 0 to 12");
    w = header(3, 0, 1);
    put_text(&w, "k");
    put_u32(&w, ARRAY);
    put_u32(&w, ARRAY);
    put_u64(&w, 0);
    refused("nested.gguf", &w, KS_FORMAT,
            "'k' at byte 37 is an array of type "
            "9, expected scalars or strings");
    w = header(3, 1, 0);
    put_tensor(&w, "t", 1, (uint64_t[]){256}, 20, 0);
    refused("iq4.gguf", &w, KS_UNSUPPORTED, "'t' is stored as IQ4_NL");
    w = header(3, 1, 0);
    put_tensor(&w, "t", 1, (uint64_t[]){256}, 77, 0);
    refused("type.gguf", &w, KS_FORMAT, "'t' has the unknown type 77");
}

Test(gguf, bad_names) {
    writer w = header(3, 0, 2);
    put_pair_u32(&w, "twice", 1);
    put_pair_u32(&w, "twice", 2);
    refused("twice.gguf", &w, KS_FORMAT, "key 'twice' is there twice");
    w = header(3, 0, 1);
    put_pair_u32(&w, "esc\033[2J", 1);
    refused("escape.gguf", &w, KS_FORMAT, "not printable ASCII");
    w = header(3, 2, 0);
    put_tensor(&w, "t", 1, (uint64_t[]){4}, 0, 0);
    put_tensor(&w, "t", 1, (uint64_t[]){4}, 0, 0);
    put_data(&w, 32, 32);
    refused("tensor.gguf", &w, KS_FORMAT, "tensor 't' is there twice");
    w = header(3, 1, 0);
    char name[129];
    memset(name, 'n', 128);
    name[128] = 0;
    put_tensor(&w, name, 1, (uint64_t[]){4}, 0, 0);
    refused("long.gguf", &w, KS_FORMAT, "has 128 bytes, expected 1 to 127");
    w = header(3, 1, 0);
    put_tensor(&w, "", 1, (uint64_t[]){4}, 0, 0);
    refused("empty.gguf", &w, KS_FORMAT, "has 0 bytes, expected 1 to 127");
}

Test(gguf, bad_shapes) {
    writer w = header(3, 1, 0);
    put_tensor(&w, "t", 5, (uint64_t[]){1, 1, 1, 1, 1}, 0, 0);
    refused("five.gguf", &w, KS_FORMAT, "has 5 dimensions, expected 1 to 4");
    w = header(3, 1, 0);
    put_tensor(&w, "t", 0, NULL, 0, 0);
    put_data(&w, 1, 8); /* room enough for the table to be looked at */
    refused("none.gguf", &w, KS_FORMAT, "has 0 dimensions, expected 1 to 4");
    w = header(3, 1, 0);
    put_tensor(&w, "t", 2, (uint64_t[]){4, 0}, 0, 0);
    refused("zero.gguf", &w, KS_FORMAT, "dimension 0 at place 1");
    w = header(3, 1, 0); /* the product wraps to 4 */
    put_tensor(&w, "t", 3, (uint64_t[]){1ull << 32, 1ull << 32, 4}, 0, 0);
    refused("wrap.gguf", &w, KS_FORMAT, "'t' has dimension 4294967296");
    w = header(3, 1, 0);
    put_tensor(&w, "t", 1, (uint64_t[]){1ull << 63}, 0, 0);
    refused("sign.gguf", &w, KS_FORMAT, "which no file can hold");
    w = header(3, 1, 0);
    put_tensor(&w, "t", 1, (uint64_t[]){33}, 2, 0);
    put_data(&w, 32, 64);
    refused("block.gguf", &w, KS_FORMAT,
            "rows of 33, not a multiple of the q4_0 block of 32");
}

Test(gguf, bad_places) {
    writer w = header(3, 1, 0);
    put_tensor(&w, "t", 1, (uint64_t[]){8}, 0, 0);
    put_data(&w, 32, 31);
    refused("short.gguf", &w, KS_FORMAT, "'t' needs 32 bytes at offset 0");
    w = header(3, 1, 0);
    put_tensor(&w, "t", 1, (uint64_t[]){8}, 0, UINT64_MAX - 31);
    put_data(&w, 32, 64);
    refused("beyond.gguf", &w, KS_FORMAT,
            "'t' needs 32 bytes at offset "
            "18446744073709551584");
    w = header(3, 1, 0);
    put_tensor(&w, "t", 1, (uint64_t[]){8}, 0, 4);
    put_data(&w, 32, 64);
    refused("odd.gguf", &w, KS_FORMAT,
            "offset 4, not a multiple of the alignment 32");
    static const uint32_t bad[] = {0, 2, 33, 1u << 31};
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        w = header(3, 0, 1);
        put_pair_u32(&w, "general.alignment", bad[i]);
        refused("alignment.gguf", &w, KS_FORMAT, "expected a power of two");
    }
}
