/* labels_project.c - labels of clean chains, laid on the chains that those
 * were cut from. */
#include <stdlib.h>
#include <string.h>

#include "chains.h"

enum { WHERE = 512 };

/* One clean chain and the original's steps that its own come from. */
typedef struct projection {
    const ks_chain *clean;
    const char *of; /* the original, borrowed from clean */
    const json_t *map;
    int32_t n_steps; /* of the original */
    char where[WHERE];
} projection;

static ks_status check_target(const projection *p, int32_t step,
                              const json_t *target, ks_err *err) {
    json_int_t at = json_integer_value(target);
    if (!json_is_integer(target) || at < 0 || at >= p->n_steps)
        return ks_fail(err, KS_MISMATCH,
                       "%s: \"map\" of step %d is not null, a step 0 to %d of "
                       "\"%s\" or a list of them",
                       p->where, step, p->n_steps - 1, p->of);
    return KS_OK;
}

static ks_status check_map(const projection *p, ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(json_is_array(p->map) &&
                 json_array_size(p->map) == (size_t)p->clean->n_steps,
             KS_FORMAT, "%s: \"map\" is not a list of %d steps of \"%s\"",
             p->where, p->clean->n_steps, p->of);
    for (int32_t i = 0; i < p->clean->n_steps; i++) {
        json_t *to = json_array_get(p->map, (size_t)i);
        if (json_is_null(to)) continue;
        if (!json_is_array(to)) KS_TRY(check_target(p, i, to, err));
        for (size_t k = 0; k < json_array_size(to); k++)
            KS_TRY(check_target(p, i, json_array_get(to, k), err));
    }
done:
    return st;
}

/* The value of an original step, or null where clean steps disagree. */
static bool lay(json_t *out, json_t *clashes, const json_t *target,
                json_t *value) {
    size_t at = (size_t)json_integer_value(target);
    json_t *there = json_array_get(out, at);
    if (json_is_true(json_array_get(clashes, at)) || json_equal(there, value))
        return true;
    if (json_is_null(there)) return !json_array_set(out, at, value);
    return !json_array_set_new(out, at, json_null()) &&
           !json_array_set_new(clashes, at, json_true());
}

/* values: one a clean step; NULL when out of memory. */
static json_t *project_list(const projection *p, const json_t *values) {
    json_t *out = json_array(), *clashes = json_array(), *value;
    bool good = out && clashes;
    size_t i;
    for (int32_t k = 0; good && k < p->n_steps; k++)
        good = !json_array_append_new(out, json_null()) &&
               !json_array_append_new(clashes, json_false());
    json_array_foreach(values, i, value) {
        json_t *to = json_array_get(p->map, i);
        if (json_is_null(value) || json_is_null(to)) continue;
        if (!json_is_array(to)) good = good && lay(out, clashes, to, value);
        for (size_t k = 0; k < json_array_size(to); k++)
            good = good && lay(out, clashes, json_array_get(to, k), value);
    }
    json_decref(clashes);
    if (good) return out;
    json_decref(out);
    return NULL;
}

/* Lists with a value a step, here and in "scores", are laid anew. */
static bool project_lists(const projection *p, json_t *object) {
    const char *key;
    json_t *value;
    void *next;
    json_object_foreach_safe(object, next, key, value) {
        bool good = true;
        if (strcmp(key, "scores") == 0 && json_is_object(value))
            good = project_lists(p, value);
        else if (json_is_array(value) &&
                 json_array_size(value) == (size_t)p->clean->n_steps)
            good = !json_object_set_new(object, key, project_list(p, value));
        if (!good) return false;
    }
    return true;
}

static ks_status project(ks_label *label, const projection *p, ks_err *err) {
    ks_status st = KS_OK;
    int8_t *values = NULL;
    json_t *object = json_deep_copy(label->object);
    KS_CHECK(object && project_lists(p, object) &&
                 !json_object_set_new(object, "chain", json_string(p->of)),
             KS_NOMEM, "%s: out of memory for its labels", p->where);
    json_object_del(object, "text_sha256"); /* it was the clean text's */
    KS_TRY(ks_alloc(&values, (size_t)p->n_steps, 1, "labels", err));
    const json_t *list = json_object_get(object, "labels");
    for (int32_t i = 0; i < p->n_steps; i++) {
        const json_t *v = json_array_get(list, (size_t)i);
        values[i] = json_is_null(v) ? -1 : (int8_t)json_integer_value(v);
    }
    json_decref(label->object);
    free(label->labels);
    const char *method = json_string_value(json_object_get(object, "method"));
    *label =
        (ks_label){.chain = json_string_value(json_object_get(object, "chain")),
                   .method = method ? method : "",
                   .labels = values,
                   .n_steps = p->n_steps,
                   .object = object};
    object = NULL;
    values = NULL;
done:
    free(values);
    json_decref(object);
    return st;
}

ks_status ks_labels_project(ks_labels *labels, const ks_chains *clean,
                            ks_steps_of_fn steps_of, void *user,
                            const char *place, ks_err *err) {
    ks_status st = KS_OK;
    json_t *index = json_object();
    KS_CHECK(index, KS_NOMEM, "out of memory for chain ids");
    KS_TRY(ks_labels_fit(labels, clean, err));
    for (size_t i = 0; i < labels->n; i++) {
        ks_label *label = &labels->at[i];
        projection p = {.clean = ks_chains_find(clean, label->chain)};
        snprintf(p.where, WHERE, "%.300s: chain \"%.150s\"", clean->path,
                 label->chain);
        KS_TRY(
            ks_json_string(p.clean->object, "of", p.where, &p.of, NULL, err));
        p.map = json_object_get(p.clean->object, "map");
        p.n_steps = steps_of(user, p.of);
        KS_CHECK(p.n_steps >= 0, KS_MISMATCH,
                 "%s was cut from \"%s\", which is not in %s", p.where, p.of,
                 place);
        KS_CHECK(!json_object_get(index, p.of), KS_MISMATCH,
                 "%s was cut from \"%s\", as was another labelled chain",
                 p.where, p.of);
        KS_TRY(check_map(&p, err));
        KS_TRY(project(label, &p, err));
        KS_CHECK(!json_object_set_new(index, label->chain,
                                      json_integer((json_int_t)i)),
                 KS_NOMEM, "out of memory for chain ids");
    }
    json_decref(labels->index);
    labels->index = index;
    index = NULL;
done:
    json_decref(index);
    return st;
}
