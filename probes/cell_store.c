/* cell_store.c - see cell_store.h. */
#include "cell_store.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "shard.h"

static const char END[] = ".safetensors";
enum { HASH = 16 }; /* hex digits of a name */

typedef struct entry {
    ks_cell_key key;
    double cost;
    int32_t shard; /* from 1; 0: not settled */
    bool there;
    size_t place; /* among those expected */
} entry;

struct ks_cell_store {
    ks_cell_store_options o;
    char shard[32]; /* "2/4" or "" */
    entry *at;      /* as expected; by name once settled */
    size_t n, capacity;
    int64_t made;
};

void ks_cell_key_free(ks_cell_key *key) {
    free(key->decides);
    *key = (ks_cell_key){0};
}

static ks_status copy_key(ks_cell_key *out, const ks_cell_key *from,
                          ks_err *err) {
    *out = *from;
    out->decides = strdup(from->decides);
    if (out->decides) return KS_OK;
    return ks_fail(err, KS_NOMEM, "out of memory for cells");
}

ks_status ks_cell_key_make(ks_cell_key *out, const json_t *common, json_t *own,
                           ks_err *err, const char *label, ...) {
    ks_status st = KS_OK;
    char hex[65], name[sizeof out->name - HASH - sizeof END - 1];
    va_list args;
    *out = (ks_cell_key){0};
    KS_CHECK(own && json_object_update_missing(own, (json_t *)common) == 0,
             KS_NOMEM, "out of memory for cells");
    out->decides = json_dumps(own, JSON_COMPACT | JSON_SORT_KEYS |
                                       JSON_REAL_PRECISION(17));
    KS_CHECK(out->decides, KS_NOMEM, "out of memory for cells");
    ks_sha256_of(out->decides, strlen(out->decides), hex);
    va_start(args, label);
    vsnprintf(name, sizeof name, label, args);
    va_end(args);
    for (char *c = name; *c; c++)
        if (*c == ' ' || *c == '/') *c = '-';
    snprintf(out->name, sizeof out->name, "%s-%.*s%s", name, HASH, hex, END);
done:
    json_decref(own);
    return st;
}

/* --------------------------------------------------------------- open, close
 */

/* After a call that failed. */
static bool may_be_missing(const ks_cell_store_options *o) {
    return o->look && !o->need && errno == ENOENT;
}

ks_status ks_cell_store_open(ks_cell_store **out,
                             const ks_cell_store_options *options,
                             ks_err *err) {
    ks_status st = KS_OK;
    ks_cell_store *s = NULL;
    struct stat what;
    *out = NULL;
    if (!options->folder) return KS_OK;
    KS_CHECK(!options->of ||
                 (options->shard >= 1 && options->shard <= options->of),
             KS_USAGE, "shard %d of %d: expected 1 to %d", options->shard,
             options->of, options->of);
    KS_TRY(ks_alloc(&s, 1, sizeof *s, "cells", err));
    s->o = *options;
    if (options->of)
        snprintf(s->shard, sizeof s->shard, "%d/%d", options->shard,
                 options->of);
    if (!options->need && !options->look && mkdir(options->folder, 0777) != 0)
        KS_CHECK(errno == EEXIST, KS_IO, "%s: cannot make the folder: %s",
                 options->folder, strerror(errno));
    bool there = stat(options->folder, &what) == 0;
    KS_CHECK(there || may_be_missing(options), KS_IO, "%s: %s", options->folder,
             strerror(errno));
    KS_CHECK(!there || S_ISDIR(what.st_mode), KS_EXISTS,
             "%s is there and not a folder; --cells names a folder",
             options->folder);
    *out = s;
    s = NULL;
done:
    ks_cell_store_close(&s);
    return st;
}

void ks_cell_store_close(ks_cell_store **store) {
    ks_cell_store *s = *store;
    if (!s) return;
    for (size_t i = 0; i < s->n; i++) ks_cell_key_free(&s->at[i].key);
    free(s->at);
    free(s);
    *store = NULL;
}

const ks_cell_store_options *ks_cell_store_get(const ks_cell_store *store) {
    return &store->o;
}

static ks_status path_of(const ks_cell_store *s, const char *name, char **path,
                         ks_err *err) {
    return ks_path_join(path, s->o.folder, name, err);
}

static void say(const ks_cell_store *s, const char *sentence) {
    if (s->o.say) s->o.say(s->o.user, sentence);
}

/* ------------------------------------------------------------------ expected
 */

ks_status ks_cell_store_expect(ks_cell_store *s, const ks_cell_key *key,
                               double cost, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(
        ks_grow(&s->at, &s->capacity, s->n + 1, sizeof *s->at, "cells", err));
    s->at[s->n] = (entry){.cost = cost, .place = s->n};
    KS_TRY(copy_key(&s->at[s->n].key, key, err));
    s->n++;
done:
    return st;
}

static int by_name(const void *a, const void *b) {
    const entry *x = a, *y = b;
    int order = strcmp(x->key.name, y->key.name);
    return order ? order : (x->place > y->place) - (x->place < y->place);
}

/* By name, each once: activations may be compared with themselves. */
static void sort_names(ks_cell_store *s) {
    size_t kept = 0;
    if (s->n) qsort(s->at, s->n, sizeof *s->at, by_name);
    for (size_t i = 0; i < s->n; i++) {
        if (kept && strcmp(s->at[kept - 1].key.name, s->at[i].key.name) == 0)
            ks_cell_key_free(&s->at[i].key);
        else
            s->at[kept++] = s->at[i];
    }
    s->n = kept;
}

static entry *find(const ks_cell_store *s, const char *name) {
    size_t low = 0, high = s->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, s->at[middle].key.name);
        if (!order) return &s->at[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* -------------------------------------------------------------------- shares
 */

static int by_cost(const void *a, const void *b) {
    const entry *x = *(entry *const *)a, *y = *(entry *const *)b;
    if (x->cost != y->cost) return x->cost < y->cost ? 1 : -1;
    return (x->place > y->place) - (x->place < y->place);
}

static ks_status share_out(ks_cell_store *s, int32_t of, ks_err *err) {
    ks_status st = KS_OK;
    entry **order = NULL;
    double *load = NULL;
    KS_TRY(ks_alloc(&order, s->n, sizeof *order, "shares", err));
    KS_TRY(ks_alloc(&load, (size_t)of, sizeof *load, "shares", err));
    for (size_t i = 0; i < s->n; i++) order[i] = &s->at[i];
    if (s->n) qsort(order, s->n, sizeof(entry *), by_cost);
    for (size_t i = 0; i < s->n; i++) {
        int32_t least = 0;
        for (int32_t k = 1; k < of; k++)
            if (load[k] < load[least]) least = k;
        load[least] += order[i]->cost;
        order[i]->shard = least + 1;
    }
done:
    free(order);
    free(load);
    return st;
}

/* -------------------------------------------------------------------- folder
 */

/* Length of a name ahead of "-<hash>.safetensors"; 0: it is no cell's. */
static size_t stem_of(const char *name) {
    size_t n = strlen(name), tail = 1 + HASH + sizeof END - 1;
    if (n <= tail || strcmp(name + n - (sizeof END - 1), END) != 0) return 0;
    const char *hash = name + n - tail + 1;
    if (hash[-1] != '-' || strspn(hash, "0123456789abcdef") != HASH) return 0;
    return n - tail;
}

/* What is expected under the name's stem; NULL: nothing. */
static entry *find_stem(const ks_cell_store *s, const char *name) {
    size_t stem = stem_of(name);
    for (size_t i = 0; stem && i < s->n; i++)
        if (stem_of(s->at[i].key.name) == stem &&
            memcmp(s->at[i].key.name, name, stem) == 0)
            return &s->at[i];
    return NULL;
}

/* What a process that was killed while it wrote a cell left behind. */
static void drop_left_over(const char *path, const char *name) {
    enum { DAY = 86400 };
    char stem[256];
    struct stat what;
    const char *end = strstr(name, END);
    size_t n = strlen(name);
    if (!end || n < 4 || strcmp(name + n - 4, ".new") != 0) return;
    snprintf(stem, sizeof stem, "%.*s", (int)(end - name + sizeof END - 1),
             name);
    if (stem_of(stem) && stat(path, &what) == 0 &&
        time(NULL) - what.st_mtime > DAY)
        unlink(path);
}

/* Cells under other keys. */
typedef struct others {
    int64_t n;
    char name[256], differs[64]; /* of the first by name, and a member that is
                                    other there */
} others;

/* The first member of the key that the file has otherwise; "": it cannot be
 * read. */
static void find_difference(const char *path, const entry *e, char *out,
                            size_t n) {
    json_t *there = NULL, *here = json_loads(e->key.decides, 0, NULL);
    char shard[32];
    const char *name = NULL;
    if (ks__cell_peek(path, &there, shard, NULL) == KS_OK && here)
        name = ks_json_difference(here, there, NULL);
    snprintf(out, n, "%s", name ? name : "");
    json_decref(there);
    json_decref(here);
}

static ks_status scan(ks_cell_store *s, others *o, ks_err *err) {
    ks_status st = KS_OK;
    DIR *folder = opendir(s->o.folder);
    char *path = NULL;
    if (!folder && may_be_missing(&s->o)) return KS_OK;
    KS_CHECK(folder, KS_IO, "%s: cannot read the folder: %s", s->o.folder,
             strerror(errno));
    for (struct dirent *d; (d = readdir(folder));) {
        free(path);
        path = NULL;
        KS_TRY(path_of(s, d->d_name, &path, err));
        if (!s->o.look) drop_left_over(path, d->d_name);
        if (find(s, d->d_name) || !find_stem(s, d->d_name)) continue;
        if (!o->n++ || strcmp(d->d_name, o->name) < 0)
            snprintf(o->name, sizeof o->name, "%s", d->d_name);
    }
    if (o->n) {
        free(path);
        path = NULL;
        KS_TRY(path_of(s, o->name, &path, err));
        find_difference(path, find_stem(s, o->name), o->differs,
                        sizeof o->differs);
    }
done:
    if (folder) closedir(folder);
    free(path);
    return st;
}

static void say_others(const ks_cell_store *s, const others *o) {
    char text[512];
    if (!o->n) return;
    snprintf(text, sizeof text,
             "%s: %lld cells of other settings or inputs are not taken, such "
             "as %s%s%s",
             s->o.folder, (long long)o->n, o->name,
             o->differs[0] ? ", which differs in " : "", o->differs);
    say(s, text);
}

/* ------------------------------------------------------------------- settling
 */

static bool in_share(const ks_cell_store *s, const entry *e) {
    return !s->o.of || e->shard == s->o.shard;
}

/* Those of this process that are there and hold up. */
static ks_status look(ks_cell_store *s, char shard[32], ks_err *err) {
    ks_status st = KS_OK;
    char *path = NULL;
    shard[0] = 0;
    for (size_t i = 0; i < s->n; i++) {
        entry *e = &s->at[i];
        json_t *key = NULL;
        ks_err why = {0};
        if (!in_share(s, e)) continue;
        free(path);
        path = NULL;
        KS_TRY(path_of(s, e->key.name, &path, err));
        if (!ks_file_exists(path)) continue;
        st = ks__cell_read(path, &e->key, NULL, 0, &why);
        e->there = st == KS_OK;
        if (s->o.need) KS_CHECK(e->there, st, "%s", why.text);
        st = KS_OK;
        if (s->o.need && !shard[0] &&
            ks__cell_peek(path, &key, shard, NULL) != KS_OK)
            shard[0] = 0;
        json_decref(key);
    }
done:
    free(path);
    return st;
}

/* " shard 2/4 makes it" where other cells tell how many shards there are. */
static ks_status shard_of(ks_cell_store *s, const entry *missing,
                          const char *told, char out[64], ks_err *err) {
    ks_status st = KS_OK;
    ks_shard one;
    out[0] = 0;
    if (!ks_shard_read(told, &one)) return KS_OK;
    KS_TRY(share_out(s, one.n, err));
    snprintf(out, 64, "; --shard %d/%d makes it", missing->shard, one.n);
done:
    return st;
}

static ks_status refuse_missing(ks_cell_store *s, const char *told,
                                const others *o, ks_err *err) {
    ks_status st = KS_OK;
    const entry *missing = NULL;
    size_t n = 0;
    char shard[64], more[64] = "", other[384] = "";
    for (size_t i = 0; i < s->n; i++)
        if (!s->at[i].there) {
            if (!missing || s->at[i].place < missing->place)
                missing = &s->at[i];
            n++;
        }
    if (!missing) return KS_OK;
    KS_TRY(shard_of(s, missing, told, shard, err));
    if (n > 1)
        snprintf(more, sizeof more, ", and %zu more of %zu", n - 1, s->n);
    if (o->n)
        snprintf(other, sizeof other, " (%s is there%s%s)", o->name,
                 o->differs[0] ? " and differs in " : "", o->differs);
    KS_CHECK(false, KS_MISMATCH, "%s: %s is missing%s%s%s", s->o.folder,
             missing->key.name, more, shard, other);
done:
    return st;
}

ks_status ks_cell_store_settle(ks_cell_store *s, ks_err *err) {
    ks_status st = KS_OK;
    others o = {0};
    char told[32];
    sort_names(s);
    KS_TRY(share_out(s, KS_MAX(s->o.of, 1), err));
    KS_TRY(scan(s, &o, err));
    KS_TRY(look(s, told, err));
    if (s->o.need)
        KS_TRY(refuse_missing(s, told, &o, err));
    else
        say_others(s, &o);
done:
    return st;
}

bool ks_cell_store_missing(const ks_cell_store *s, const ks_cell_key *key) {
    const entry *e = find(s, key->name);
    return e && in_share(s, e) && !e->there;
}

ks_cell_counts ks_cell_store_counts(const ks_cell_store *s) {
    ks_cell_counts c = {.all = (int64_t)s->n, .made = s->made};
    for (size_t i = 0; i < s->n; i++) {
        c.share += in_share(s, &s->at[i]);
        c.there += s->at[i].there;
    }
    return c;
}

/* ------------------------------------------------------------------ the cells
 */

ks_status ks_cell_store_take(ks_cell_store *s, const ks_cell_key *key,
                             const ks_cell_part *parts, size_t n, bool *found,
                             ks_err *err) {
    ks_status st = KS_OK;
    char *path = NULL;
    ks_err why = {0};
    KS_TRY(path_of(s, key->name, &path, err));
    *found = ks_file_exists(path);
    KS_CHECK(*found || !s->o.need, KS_MISMATCH, "%s is missing", path);
    if (!*found) goto done;
    st = ks__cell_read(path, key, parts, n, &why);
    KS_CHECK(st == KS_OK || !s->o.need, st, "%s", why.text);
    *found = st == KS_OK;
    st = KS_OK;
    if (!*found) {
        char text[sizeof why.text + 64];
        snprintf(text, sizeof text, "%s; it is computed anew", why.text);
        say(s, text);
    }
done:
    free(path);
    return st;
}

ks_status ks_cell_store_put(ks_cell_store *s, const ks_cell_key *key,
                            const ks_cell_part *parts, size_t n, ks_err *err) {
    ks_status st = KS_OK;
    char *path = NULL;
    KS_TRY(path_of(s, key->name, &path, err));
    KS_TRY(ks__cell_write(path, key, s->shard, parts, n, err));
#pragma omp atomic
    s->made++;
done:
    free(path);
    return st;
}
