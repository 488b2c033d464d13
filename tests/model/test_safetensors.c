/* The safetensors reader, single files and shards behind an index. */
#include "files.h"

#include "safetensors.h"

TestSuite(safetensors, .init = files_begin, .fini = files_end);

/* A file of this header and n bytes of data (bytes 0, 1, 2, ...). */
static const char *st_file(const char *name, const char *header, size_t n) {
    char data[4096];
    uint64_t length = strlen(header);
    cr_assert(8 + length + n <= sizeof data);
    memcpy(data, &length, 8);
    memcpy(data + 8, header, length);
    for (size_t i = 0; i < n; i++) data[8 + length + i] = (char)i;
    return file_write(name, data, 8 + length + n);
}

static void refused(const char *path, ks_status status, const char *words) {
    ks_safetensors *s = (ks_safetensors *)1;
    ks_err err = {0};
    cr_expect(eq(int, ks_safetensors_open(&s, path, &err), status));
    cr_expect(says(&err, path, words));
    cr_expect(s == NULL);
}

/* One tensor "t" with these members, over 16 bytes of data. */
static void refused_entry(const char *members, const char *words) {
    char header[512];
    snprintf(header, sizeof header, "{\"t\":{%s}}", members);
    refused(st_file("entry.safetensors", header, 16), KS_FORMAT, words);
}

#define GOOD                                                                   \
    "{\"__metadata__\":{\"format\":\"pt\"},"                                   \
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"      \
    "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"          \
    "\"c\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[16,24]},"         \
    "\"odd\":{\"dtype\":\"F4\",\"shape\":[1,1,1,1,2],"                         \
    "\"data_offsets\":[24,25]}}   "

Test(safetensors, reads) {
    ks_safetensors *s;
    ks_err err = {0};
    const char *path = st_file("good.safetensors", GOOD, 25);
    cr_assert(eq(int, ks_safetensors_open(&s, path, &err), 0), "%s", err.text);
    cr_expect(eq(sz, ks_safetensors_n(s), 4));
    cr_expect(eq(str, ks_safetensors_at(s, 0)->name, "a"));
    const ks_st_tensor *t = ks_safetensors_find(s, "b");
    cr_assert(t != NULL);
    cr_expect(t->type == KS_BF16 && t->n_dims == 2 && t->dims[0] == 2 &&
              t->dims[1] == 3 && t->size == 12);
    cr_expect(eq(int, *(const char *)t->data, 4));
    cr_expect(eq(str, (char *)ks_safetensors_file(s, t->file), (char *)path));
    /* types that we do not compute with are listed all the same */
    cr_expect(eq(int, ks_safetensors_find(s, "c")->type, KS_N_TYPES));
    cr_expect(eq(int, ks_safetensors_find(s, "odd")->n_dims, 5));
    cr_expect(ks_safetensors_find(s, "d") == NULL);
    ks_map *maps;
    size_t n;
    const char *data = t->data;
    ks_safetensors_take_maps(s, &maps, &n);
    ks_safetensors_close(&s);
    cr_expect(s == NULL);
    cr_assert(eq(sz, n, 1));
    cr_expect(eq(int, data[1], 5)); /* still mapped */
    ks_map_close(&maps[0]);
    free(maps);
}

Test(safetensors, every_truncation_is_refused) {
    const char *path = st_file("whole.safetensors", GOOD, 25);
    char *whole;
    size_t size;
    ks_err err = {0};
    cr_assert(eq(int, ks_read_file(path, SIZE_MAX, &whole, &size, &err), 0));
    for (size_t n = 0; n < size; n++) {
        ks_safetensors *s;
        const char *cut = file_write("cut.safetensors", whole, n);
        ks_status st = ks_safetensors_open(&s, cut, &err);
        cr_assert(eq(int, st, KS_FORMAT), "cut at %zu", n);
        cr_assert(strstr(err.text, cut) != NULL, "%s", err.text);
    }
    free(whole);
}

Test(safetensors, bad_headers) {
    uint64_t huge = UINT64_MAX;
    refused(file_write("huge.safetensors", &huge, 8), KS_FORMAT,
            "claims a header of 18446744073709551615 bytes");
    refused(st_file("json.safetensors", "{\"t\":", 0), KS_FORMAT, "not JSON");
    refused(st_file("list.safetensors", "[]", 0), KS_FORMAT, "no JSON object");
    refused(st_file("empty.safetensors", "{}", 0), KS_FORMAT, "no tensors");
    refused(st_file("twice.safetensors",
                    "{\"t\":{\"dtype\":\"F32\",\"shape\":[0],"
                    "\"data_offsets\":[0,0]},\"t\":{}}",
                    0),
            KS_FORMAT, "duplicate");
    refused(st_file("escape.safetensors", "{\"\\u001b[2J\":{}}", 0), KS_FORMAT,
            "printable ASCII");
    refused(st_file("entry.safetensors", "{\"t\":7}", 0), KS_FORMAT,
            "no \"dtype\"");
    refused(file_path("none.safetensors"), KS_IO, "No such file");
}

Test(safetensors, bad_entries) {
    refused_entry("\"shape\":[4],\"data_offsets\":[0,16]", "no \"dtype\"");
    refused_entry("\"dtype\":\"F32\",\"data_offsets\":[0,16]", "no shape");
    refused_entry("\"dtype\":\"F32\",\"shape\":[4]", "no \"data_offsets\"");
    refused_entry("\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0]",
                  "two whole numbers");
    refused_entry("\"dtype\":\"F32\",\"shape\":[-4],\"data_offsets\":[0,16]",
                  "no whole number");
    refused_entry("\"dtype\":\"F32\",\"shape\":[4.0],\"data_offsets\":[0,16]",
                  "no whole number");
    refused_entry("\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[-1,15]",
                  "two whole numbers");
    refused_entry("\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[4,20]",
                  "lies at bytes 4 to 20 of the data, which has 16");
    refused_entry("\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[16,0]",
                  "lies at bytes 16 to 0");
    refused_entry("\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,16]",
                  "has 16 bytes, its shape and F32 need 12");
    refused_entry("\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],"
                  "\"data_offsets\":[0,16]",
                  "which no file can hold");
    refused_entry("\"dtype\":\"A_DTYPE_OF_MANY_LETTERS\",\"shape\":[4],"
                  "\"data_offsets\":[0,16]",
                  "no \"dtype\"");
}

/* ------------------------------------------------------------------ shards */

#define SHARD(name)                                                            \
    "{\"" name "\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"

static const char *index_of(const char *map) {
    char text[512];
    snprintf(text, sizeof text, "{\"metadata\":{},\"weight_map\":%s}", map);
    return file_text("model.safetensors.index.json", text);
}

Test(safetensors, shards) {
    ks_safetensors *s;
    ks_err err = {0};
    st_file("2.safetensors", SHARD("a"), 4);
    st_file("1.safetensors", SHARD("b"), 4);
    const char *path = index_of("{\"a\":\"2.safetensors\","
                                "\"b\":\"1.safetensors\"}");
    cr_assert(eq(int, ks_safetensors_open(&s, path, &err), 0), "%s", err.text);
    cr_expect(eq(sz, ks_safetensors_n(s), 2));
    const ks_st_tensor *a = ks_safetensors_find(s, "a");
    cr_expect(strstr(ks_safetensors_file(s, a->file), "/2.safetensors") !=
              NULL);
    ks_map *maps;
    size_t n;
    ks_safetensors_take_maps(s, &maps, &n);
    cr_expect(eq(sz, n, 2)); /* in order of name */
    const uint8_t *data = a->data;
    cr_expect(data > maps[1].data && data < maps[1].data + maps[1].size);
    ks_safetensors_close(&s);
    for (size_t i = 0; i < n; i++) ks_map_close(&maps[i]);
    free(maps);
}

Test(safetensors, bad_indexes) {
    st_file("1.safetensors", SHARD("a"), 4);
    st_file("2.safetensors", SHARD("a"), 4);
    refused(index_of("{\"a\":\"../1.safetensors\"}"), KS_FORMAT,
            "'../1.safetensors' is no plain file name");
    refused(index_of("{\"a\":\"/etc/passwd\"}"), KS_FORMAT,
            "'/etc/passwd' is no plain file name");
    refused(index_of("{\"a\":\"..\"}"), KS_FORMAT, "no plain file name");
    refused(index_of("{\"a\":\"\"}"), KS_FORMAT, "no plain file name");
    refused(index_of("{\"a\":\"x\\n.safetensors\"}"), KS_FORMAT,
            "not printable");
    refused(index_of("{\"a\":1}"), KS_FORMAT, "is no string");
    refused(index_of("{}"), KS_FORMAT, "\"weight_map\" is empty");
    refused(index_of("[]"), KS_FORMAT, "no object \"weight_map\"");
    refused(file_text("x.json", "{"), KS_FORMAT, "x.json line 1: not JSON");
    refused(file_text("x.json", ""), KS_FORMAT, "has 0 bytes");
    refused(index_of("{\"b\":\"1.safetensors\"}"), KS_MISMATCH,
            "says that tensor 'b' is in '1.safetensors', but it is not");
    st_file("4.safetensors", SHARD("b"), 4);
    refused(index_of("{\"a\":\"4.safetensors\",\"b\":\"1.safetensors\"}"),
            KS_MISMATCH, "tensor 'a' is in '4.safetensors', but it is not");
    ks_safetensors *s;
    ks_err err;
    cr_expect(
        eq(int,
           ks_safetensors_open(&s, index_of("{\"a\":\"3.safetensors\"}"), &err),
           KS_IO));
    cr_expect(says(&err, file_path("3.safetensors"), "No such file"));
    cr_expect(eq(int,
                 ks_safetensors_open(&s,
                                     index_of("{\"a\":\"1.safetensors\","
                                              "\"b\":\"2.safetensors\"}"),
                                     &err),
                 KS_FORMAT));
    cr_expect(says(&err, files_dir, "tensor 'a' is there twice"));
}
