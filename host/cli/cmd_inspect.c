/* cmd_inspect.c - keystep inspect: what is in a model or in a file of ours.
 * Everything becomes one JSON object; without --json it is shown as text. */
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "acts.h"
#include "chains.h"
#include "cli.h"
#include "gguf.h"
#include "model.h"
#include "safetensors.h"

enum { KEY_TENSORS = KS_KEY_OWN };

typedef struct input {
    ks_cli_common common;
    const char *path;
    bool tensors; /* list every one */
} input;

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    switch (key) {
    case KEY_TENSORS:
        in->tensors = true;
        return 0;
    case ARGP_KEY_ARG:
        if (in->path) argp_error(state, "too many arguments: %s", arg);
        in->path = arg;
        return 0;
    case ARGP_KEY_END:
        if (!in->path) argp_error(state, "FILE is missing");
        return 0;
    default:
        return ks_cli_common_key(&in->common, key, arg, state);
    }
}

/* Steals value; false when out of memory, or value already was NULL. */
static bool put(json_t *object, const char *key, json_t *value) {
    return json_object_set_new(object, key, value) == 0;
}

/* ----------------------------------------------------------------- tensors */

/* Adds one tensor to its type's row, and to the list when there is one. */
static ks_status count_tensor(json_t *types, json_t *list, const char *name,
                              const char *type, json_t *shape, int64_t elements,
                              size_t bytes, ks_err *err) {
    bool good = shape != NULL;
    json_t *row = json_object_get(types, type);
    if (!row) {
        good &= put(
            types, type,
            json_pack("{si,si,si}", "tensors", 0, "elements", 0, "bytes", 0));
        row = json_object_get(types, type);
    }
    const struct {
        const char *key;
        int64_t add;
    } sums[] = {
        {"tensors", 1}, {"elements", elements}, {"bytes", (int64_t)bytes}};
    for (size_t i = 0; row && i < KS_COUNT(sums); i++) {
        json_t *sum = json_object_get(row, sums[i].key);
        json_integer_set(sum, json_integer_value(sum) + sums[i].add);
    }
    if (list)
        good &= json_array_append_new(list, json_pack("{ss,ss,sO,sI}", "name",
                                                      name, "type", type,
                                                      "shape", shape, "bytes",
                                                      (json_int_t)bytes)) == 0;
    json_decref(shape);
    return good ? KS_OK : ks_fail(err, KS_NOMEM, "no memory for tensors");
}

static ks_status count_gguf(const char *path, json_t *types, json_t *list,
                            ks_err *err) {
    ks_status st = KS_OK;
    ks_gguf *g = NULL;
    KS_TRY(ks_gguf_open(&g, path, err));
    for (uint64_t i = 0; i < ks_gguf_n_tensors(g); i++) {
        const ks_gguf_tensor *t = ks_gguf_tensor_at(g, i);
        json_t *shape = json_array();
        int64_t n = 1;
        for (int32_t k = t->n_dims - 1; k >= 0; k--) { /* row-major */
            json_array_append_new(shape, json_integer(t->dims[k]));
            n *= t->dims[k];
        }
        KS_TRY(count_tensor(types, list, t->name, ks_type_name(t->type), shape,
                            n, t->size, err));
    }
done:
    ks_gguf_close(&g);
    return st;
}

/* path: a folder, a file or an index, of a model that opened. */
static ks_status count_safetensors(const char *path, json_t *types,
                                   json_t *list, ks_err *err) {
    ks_status st = KS_OK;
    ks_safetensors *s = NULL;
    char *one = NULL, *index = NULL;
    struct stat info;
    KS_TRY(ks_path_join(&one, path, "model.safetensors", err));
    KS_TRY(ks_path_join(&index, path, "model.safetensors.index.json", err));
    bool is_folder = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
    if (is_folder) path = ks_file_exists(one) ? one : index;
    KS_TRY(ks_safetensors_open(&s, path, err));
    for (size_t i = 0; i < ks_safetensors_n(s); i++) {
        const ks_st_tensor *t = ks_safetensors_at(s, i);
        json_t *shape = json_array();
        size_t each = t->type < KS_N_TYPES ? ks_type_size(t->type) : 1;
        for (int32_t k = 0; k < KS_MIN(t->n_dims, 4); k++)
            json_array_append_new(shape, json_integer(t->dims[k]));
        KS_TRY(count_tensor(types, list, t->name,
                            t->type < KS_N_TYPES ? ks_type_name(t->type)
                                                 : t->dtype,
                            shape, (int64_t)(t->size / each), t->size, err));
    }
done:
    ks_safetensors_close(&s);
    free(one);
    free(index);
    return st;
}

/* ------------------------------------------------------------------ models */

static json_t *describe_rope(const ks_rope_config *r) {
    static const char *const kinds[] = {"none", "linear", "llama3", "yarn",
                                        "factors"};
    json_t *o = json_pack("{sf,ss}", "theta", (double)r->theta, "scaling",
                          kinds[r->kind]);
    if (r->kind != KS_ROPE_NONE && r->kind != KS_ROPE_FACTORS)
        put(o, "factor", json_real((double)r->factor));
    return o;
}

static json_t *describe_switches(const ks_config *c) {
    static const char *const acts[] = {"silu", "gelu_tanh", "gelu"};
    static const char *const qk[] = {"none", "head", "full"};
    int32_t windows = 0, width = 0;
    bool local = false;
    for (int32_t l = 0; l < c->n_layers; l++)
        if (c->window[l]) windows++, width = c->window[l], local |= c->local[l];
    json_t *o =
        json_pack("{ss,sb,sb,ss,sb,sb,sb,so}", "activation", acts[c->act],
                  "pre_norm", c->pre_norm, "post_norm", c->post_norm, "qk_norm",
                  qk[c->qk_norm], "qkv_bias", c->qkv_bias, "o_bias", c->o_bias,
                  "tied", c->tied, "rope", describe_rope(&c->rope));
    if (local) put(o, "rope_local", describe_rope(&c->rope_local));
    if (windows)
        put(o, "window",
            json_pack("{si,si}", "layers", windows, "tokens", width));
    if (c->final_softcap != 0)
        put(o, "final_softcap", json_real((double)c->final_softcap));
    return o;
}

/* A model's tokenizer, or why it has none that we can use. */
static json_t *describe_tokenizer(const char *path) {
    ks_tokenizer *t = NULL;
    ks_err err;
    char *copy = strdup(path);
    size_t n = strlen(path);
    bool beside = n > 12 && strcmp(path + n - 12, ".safetensors") == 0;
    if (copy && beside) path = dirname(copy);
    ks_status st = ks_tokenizer_open(&t, path, &err);
    free(copy);
    if (st != KS_OK) return json_pack("{ss}", "error", err.text);
    json_t *o = json_pack("{si,si,ss}", "size", ks_tokenizer_size(t), "bos",
                          ks_tokenizer_bos(t), "sha256", ks_tokenizer_hash(t));
    ks_tokenizer_close(&t);
    return o;
}

static ks_status inspect_model(const input *in, json_t *o, ks_err *err) {
    ks_status st = KS_OK;
    ks_model *m = NULL;
    json_t *types = json_object();
    json_t *list = in->tensors ? json_array() : NULL;
    KS_TRY(ks_model_open(&m, in->path, err));
    KS_TRY(ks_model_hash(m, err));
    KS_TRY(ks_gguf_is(in->path)
               ? count_gguf(in->path, types, list, err)
               : count_safetensors(in->path, types, list, err));
    const ks_config *c = &m->config;
    json_t *sizes = json_pack(
        "{si,si,si,si,si,si,si,si,sf}", "layers", c->n_layers, "hidden",
        c->d_model, "heads", c->n_heads, "kv_heads", c->n_kv_heads, "head",
        c->head_dim, "mlp", c->d_ff, "vocabulary", c->n_vocab, "context",
        c->n_context, "norm_eps", (double)c->norm_eps);
    bool good = put(o, "kind", json_string("model")) &&
                put(o, "name", json_string(m->name)) &&
                put(o, "architecture", json_string(c->arch)) &&
                put(o, "sizes", sizes) &&
                put(o, "switches", describe_switches(c)) &&
                put(o, "tokenizer", describe_tokenizer(in->path)) &&
                put(o, "tensors", json_integer(m->n_tensors)) &&
                put(o, "not used", json_integer(m->n_ignored)) &&
                put(o, "types", json_incref(types)) &&
                (!list || put(o, "list", json_incref(list))) &&
                put(o, "sha256", json_string(m->sha256));
    KS_CHECK(good, KS_NOMEM, "no memory to describe %s", in->path);
done:
    json_decref(types);
    json_decref(list);
    ks_model_close(&m);
    return st;
}

/* ------------------------------------------------------------- activations */

static json_t *names_of(uint32_t set, int n, const char *(*name)(int)) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++)
        if (set >> i & 1) json_array_append_new(list, json_string(name(i)));
    return list;
}

static const char *stream_at(int i) {
    return ks_stream_name((ks_stream)i);
}

static const char *position_at(int i) {
    return ks_position_name((ks_position)i);
}

static ks_status inspect_acts(const input *in, json_t *o, ks_err *err) {
    ks_status st = KS_OK;
    ks_acts_file *file = NULL;
    int64_t valid = 0, counts[3] = {0};
    KS_TRY(ks_acts_open(&file, in->path, err));
    const ks_acts_info *a = ks_acts_get_info(file);
    for (int64_t i = 0; i < a->n_steps; i++) {
        valid += a->steps[i].valid;
        int8_t label = a->has_labels ? a->steps[i].label : -1;
        counts[label == 1 ? 1 : label == 0 ? 0 : 2]++;
    }
    bool good =
        put(o, "kind", json_string("activations")) &&
        put(o, "model", json_string(a->model_name)) &&
        put(o, "model sha256", json_string(a->model_sha256)) &&
        put(o, "tokenizer sha256", json_string(a->tokenizer_hash)) &&
        put(o, "layers", json_integer(a->n_layers)) &&
        put(o, "hidden", json_integer(a->d)) &&
        put(o, "dtype", json_string(ks_type_name(a->dtype))) &&
        put(o, "streams", names_of(a->streams, KS_N_STREAMS, stream_at)) &&
        put(o, "positions",
            names_of(a->positions, KS_N_POSITIONS, position_at)) &&
        put(o, "context", json_string(a->context_none ? "none" : "full")) &&
        put(o, "backend", json_string(a->backend)) &&
        put(o, "isa", json_string(a->isa)) &&
        put(o, "program version", json_string(a->program_version)) &&
        put(o, "chains", json_integer(a->n_chains)) &&
        put(o, "steps", json_integer(a->n_steps)) &&
        put(o, "steps without a token", json_integer(a->n_steps - valid));
    if (a->random_weights >= 0)
        good = good && put(o, "random weights of seed",
                           json_integer(a->random_weights));
    if (a->has_labels)
        good = good &&
               put(o, "labels",
                   json_pack("{sI,sI,sI}", "important", (json_int_t)counts[1],
                             "removable", (json_int_t)counts[0], "unlabelled",
                             (json_int_t)counts[2]));
    KS_CHECK(good, KS_NOMEM, "no memory to describe %s", in->path);
done:
    ks_acts_close(&file);
    return st;
}

/* -------------------------------------------------------------- JSON Lines */

/* Stops after the first object, which tells the kind. */
typedef struct first {
    const char *kind;
    bool seen;
} first;

static ks_status look(void *user, size_t line, json_t *object, ks_err *err) {
    first *f = user;
    f->seen = true;
    if (json_object_get(object, "labels"))
        f->kind = "labels";
    else if (json_object_get(object, "text"))
        f->kind = "chains";
    else if (json_object_get(object, "question"))
        f->kind = "problems";
    return ks_fail(err, KS_INTERRUPTED, "line %zu is enough", line);
}

static ks_status inspect_chains(const input *in, json_t *o, ks_err *err) {
    ks_chains chains = {0};
    ks_status st = ks_chains_read(&chains, in->path, err);
    int64_t steps = 0, cut = 0, right = 0, answered = 0;
    for (size_t i = 0; i < chains.n; i++) {
        json_t *correct = json_object_get(chains.at[i].object, "correct");
        cut += chains.at[i].steps != NULL;
        steps += chains.at[i].n_steps;
        answered += json_is_boolean(correct);
        right += json_is_true(correct);
    }
    put(o, "kind", json_string("chains"));
    put(o, "chains", json_integer((json_int_t)chains.n));
    put(o, "cut into steps", json_integer(cut));
    put(o, "steps", json_integer(steps));
    if (answered) {
        put(o, "with a verdict", json_integer(answered));
        put(o, "correct", json_integer(right));
    }
    ks_chains_free(&chains);
    return st;
}

static ks_status inspect_labels(const input *in, json_t *o, ks_err *err) {
    ks_labels labels = {0};
    ks_status st = ks_labels_read(&labels, in->path, err);
    int64_t counts[3] = {0};
    for (size_t i = 0; i < labels.n; i++)
        for (int32_t k = 0; k < labels.at[i].n_steps; k++)
            counts[labels.at[i].labels[k] < 0 ? 2 : labels.at[i].labels[k]]++;
    put(o, "kind", json_string("labels"));
    put(o, "chains", json_integer((json_int_t)labels.n));
    put(o, "important", json_integer(counts[1]));
    put(o, "removable", json_integer(counts[0]));
    put(o, "unlabelled", json_integer(counts[2]));
    ks_labels_free(&labels);
    return st;
}

static ks_status inspect_problems(const input *in, json_t *o, ks_err *err) {
    ks_problems problems = {0};
    ks_status st = ks_problems_read(&problems, in->path, err);
    int64_t answers = 0;
    for (size_t i = 0; i < problems.n; i++)
        answers += problems.at[i].answer != NULL;
    put(o, "kind", json_string("problems"));
    put(o, "problems", json_integer((json_int_t)problems.n));
    put(o, "with an answer", json_integer(answers));
    ks_problems_free(&problems);
    return st;
}

static ks_status inspect_lines(const input *in, json_t *o, ks_err *err) {
    first f = {0};
    ks_status st = ks_jsonl_read(in->path, look, &f, err);
    if (st != KS_OK && !f.seen) return st;
    if (!f.kind)
        return ks_fail(err, KS_FORMAT,
                       "%s: neither a model nor a file of ours: expected "
                       "GGUF, safetensors, HDF5, or JSON Lines of problems, "
                       "chains or labels",
                       in->path);
    if (strcmp(f.kind, "labels") == 0) return inspect_labels(in, o, err);
    if (strcmp(f.kind, "chains") == 0) return inspect_chains(in, o, err);
    return inspect_problems(in, o, err);
}

/* -------------------------------------------------------------------- text */

static void show_scalar(const json_t *v) {
    if (json_is_string(v))
        printf("%s", json_string_value(v));
    else if (json_is_boolean(v))
        printf("%s", json_is_true(v) ? "yes" : "no");
    else if (json_is_integer(v))
        printf("%lld", (long long)json_integer_value(v));
    else
        printf("%.7g", json_number_value(v));
}

/* Lists of scalars on one line, of objects a line each: tensors. */
static void show_list(const json_t *list) {
    size_t i;
    json_t *v, *part;
    const char *key;
    json_array_foreach(list, i, v) {
        if (!json_is_object(v)) {
            fputs(i ? ", " : "", stdout);
            show_scalar(v);
            continue;
        }
        fputs("\n ", stdout);
        json_object_foreach(v, key, part) {
            fputs(" ", stdout);
            if (json_is_array(part)) {
                fputs("[", stdout);
                show_list(part);
                fputs("]", stdout);
            } else {
                show_scalar(part);
            }
        }
    }
}

static void show(const json_t *o, int indent) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)o, key, v) {
        if (json_is_object(v)) {
            printf("%*s%s\n", indent, "", key);
            show(v, indent + 2);
            continue;
        }
        printf("%*s%-*s ", indent, "", 22 - indent, key);
        if (json_is_array(v))
            show_list(v);
        else
            show_scalar(v);
        putchar('\n');
    }
}

/* ------------------------------------------------------------------- whole */

static bool is_hdf5(const char *path) {
    char magic[8] = {0};
    FILE *f = fopen(path, "rbe");
    if (!f) return false;
    bool is = fread(magic, 1, 8, f) == 8 &&
              memcmp(magic, "\x89HDF\r\n\x1a\n", 8) == 0;
    fclose(f);
    return is;
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

static ks_status inspect(const input *in, json_t *o, ks_err *err) {
    struct stat info;
    if (stat(in->path, &info) != 0)
        return ks_fail(err, KS_IO, "%s: there is no such file", in->path);
    if (S_ISDIR(info.st_mode) || ks_gguf_is(in->path) ||
        ends_with(in->path, ".gguf") || ends_with(in->path, ".safetensors") ||
        ends_with(in->path, ".safetensors.index.json"))
        return inspect_model(in, o, err);
    if (is_hdf5(in->path)) return inspect_acts(in, o, err);
    if (!ends_with(in->path, "tokenizer.json"))
        return inspect_lines(in, o, err);
    json_t *tokenizer = describe_tokenizer(in->path);
    const char *why = json_string_value(json_object_get(tokenizer, "error"));
    ks_status st = why ? ks_fail(err, KS_FORMAT, "%s", why) : KS_OK;
    if (!put(o, "kind", json_string("tokenizer")) ||
        !put(o, "tokenizer", tokenizer))
        st = ks_fail(err, KS_NOMEM, "no memory to describe it");
    return st;
}

int ks_cmd_inspect(int argc, char **argv) {
    static const struct argp_option options[] = {
        KS_CLI_JSON,
        {"tensors", KEY_TENSORS, NULL, 0, "list every tensor of a model", 0},
        {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "FILE",
        .doc = "What is in FILE: a model (GGUF, safetensors or folder), a "
               "tokenizer.json, activations (HDF5), or problems, chains or "
               "labels (JSON Lines). All of it is checked on the way."};
    input in = {0};
    ks_err err = {0};
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "inspect", argc, argv, &in);
    if (code != KS_EXIT_DONE) return code;
    json_t *o = json_object();
    if (inspect(&in, o, &err) != KS_OK) {
        code = ks_cli_failed("inspect", &err);
    } else if (in.common.json) {
        json_dumpf(o, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(7));
        putchar('\n');
    } else {
        show(o, 0);
    }
    json_decref(o);
    return code;
}
