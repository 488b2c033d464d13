/* plan_tables.c - the devices and models that are known by name: the files of
 * plan/, in the program as they lie there. */
#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "base.h"
#include "plan.h"

#define EMBED(name, path)                                                      \
    __asm__(".pushsection .rodata\n"                                           \
            ".global ks__plan_" #name "\n"                                     \
            ".hidden ks__plan_" #name "\n"                                     \
            "ks__plan_" #name ":\n"                                            \
            ".incbin \"" path "\"\n"                                           \
            ".byte 0\n"                                                        \
            ".popsection\n");                                                  \
    extern const char ks__plan_##name[];

EMBED(devices, KS_PLAN "/devices.json")
EMBED(models, KS_PLAN "/models.json")

static double number(const json_t *o, const char *key) {
    return json_number_value(json_object_get(o, key));
}

static double number_at(const json_t *list, size_t i) {
    return json_number_value(json_array_get(list, i));
}

static void take_text(char *out, size_t n, const json_t *o, const char *key) {
    const char *text = json_string_value(json_object_get(o, key));
    snprintf(out, n, "%s", text ? text : "");
}

/* The tail of a name that a word means: "7b", "llama-8b", "70b-shape". */
static bool is_meant(const char *name, const char *word) {
    static const char shape[] = "-shape";
    size_t n = strlen(word), all = strlen(name), tail = sizeof shape - 1;
    if (n > tail && strcasecmp(word + n - tail, shape) == 0) n -= tail;
    if (n == 0 || n > all || strncasecmp(name + all - n, word, n) != 0)
        return false;
    return n == all || !isalnum((unsigned char)name[all - n - 1]);
}

/* The entry with the name, else the first with that tail; KS_USAGE: neither. */
static ks_status find(const char *table, const char *what, const char *word,
                      json_t **list, const json_t **found, ks_err *err) {
    ks_status st = KS_OK;
    json_error_t why;
    ks_str known = {0};
    *found = NULL;
    *list = json_loads(table, 0, &why);
    KS_CHECK(*list, KS_INTERNAL, "the table of %ss: line %d: %s", what,
             why.line, why.text);
    for (int exact = 1; exact >= 0 && !*found; exact--)
        for (size_t i = 0; i < json_array_size(*list) && !*found; i++) {
            const json_t *o = json_array_get(*list, i);
            const char *name = json_string_value(json_object_get(o, "name"));
            if (exact ? strcasecmp(name, word) == 0 : is_meant(name, word))
                *found = o;
            if (exact)
                KS_TRY(ks_str_printf(&known, err, "%s%s", i ? ", " : "", name));
        }
    KS_CHECK(*found, KS_USAGE, "no %s '%.60s'; known by name: %s", what, word,
             known.data);
done:
    ks_str_free(&known);
    return st;
}

ks_status ks_plan_find_device(const char *name, ks_plan_device *out,
                              ks_err *err) {
    ks_status st = KS_OK;
    json_t *list = NULL;
    const json_t *o;
    *out = (ks_plan_device){0};
    KS_TRY(find(ks__plan_devices, "device", name, &list, &o, err));
    take_text(out->name, sizeof out->name, o, "name");
    take_text(out->title, sizeof out->title, o, "title");
    take_text(out->source, sizeof out->source, o, "source");
    out->memory = number(o, "memory");
    out->bandwidth = number(o, "bandwidth");
    out->tensor = number(o, "tensor");
    out->float_ = number(o, "float");
    out->double_ = number(o, "double");
done:
    json_decref(list);
    return st;
}

ks_status ks_plan_find_shape(const char *name, ks_plan_shape *out,
                             ks_err *err) {
    ks_status st = KS_OK;
    json_t *list = NULL;
    const json_t *o;
    *out = (ks_plan_shape){0};
    KS_TRY(find(ks__plan_models, "model", name, &list, &o, err));
    const json_t *experts = json_object_get(o, "experts");
    const json_t *windowed = json_object_get(o, "windowed");
    const json_t *weights = json_object_get(o, "weights");
    take_text(out->name, sizeof out->name, o, "name");
    take_text(out->source, sizeof out->source, o, "source");
    out->layers = number(o, "layers");
    out->d = number(o, "d");
    out->heads = number(o, "heads");
    out->kv = number(o, "kv");
    out->dim = number(o, "dim");
    out->ff = number(o, "ff");
    out->vocab = number(o, "vocab");
    out->experts = number_at(experts, 0);
    out->active = number_at(experts, 1);
    out->windowed = number_at(windowed, 0);
    out->window = number_at(windowed, 1);
    out->attention = 2; /* bf16 */
    out->weights = weights ? json_number_value(weights) : 2;
    out->tied = json_is_true(json_object_get(o, "tied"));
done:
    json_decref(list);
    return st;
}

void ks_plan_shape_of(const ks_config *c, const char *name, double weights,
                      ks_plan_shape *out) {
    *out = (ks_plan_shape){.layers = c->n_layers,
                           .d = c->d_model,
                           .heads = c->n_heads,
                           .kv = c->n_kv_heads,
                           .dim = c->head_dim,
                           .ff = c->d_ff,
                           .vocab = c->n_vocab,
                           .experts = c->n_experts,
                           .active = c->n_experts_used,
                           .weights = weights,
                           .attention = weights,
                           .tied = c->tied};
    snprintf(out->name, sizeof out->name, "%s", name);
    for (int32_t l = 0; l < c->n_layers; l++) {
        if (c->window[l] <= 0) continue;
        out->windowed++;
        out->window = c->window[l];
    }
}
