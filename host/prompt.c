/* prompt.c - which chat template a model has; prompt_render.c fills it in. */
#include "prompt.h"

#include "gguf.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define BAR "\xEF\xBD\x9C"   /* the full-width bar of DeepSeek's marks */
#define BLOCK "\xE2\x96\x81" /* and what stands for their spaces */

static const char default_instruction[] =
    "Solve the following problem. Put your final answer in \\boxed{}.";

/* ---------------------------------------------------------- reading a model */

/* What the files say, before it is judged. */
typedef struct sources {
    char *text; /* the chat template; NULL: none */
    bool add_bos;
} sources;

ks_status ks_model_home(char **out, const char *model, ks_err *err) {
    struct stat info;
    const char *slash = strrchr(model, '/');
    bool file = !stat(model, &info) && S_ISREG(info.st_mode);
    if (!file || ks_gguf_is(model))
        *out = strdup(model);
    else if (!slash)
        *out = strdup(".");
    else
        *out = strndup(model, (size_t)(slash - model) + (slash == model));
    if (!*out) return ks_fail(err, KS_NOMEM, "out of memory for a path");
    return KS_OK;
}

static ks_status add_stop(ks_prompt *p, json_int_t id, ks_err *err) {
    if (id < 0 || id > INT32_MAX || ks_prompt_stops(p, (int32_t)id))
        return KS_OK;
    ks_status st = ks_grow(&p->stops, &p->stops_capacity, p->n_stops + 1,
                           sizeof *p->stops, "stop ids", err);
    if (st == KS_OK) p->stops[p->n_stops++] = (int32_t)id;
    return st;
}

/* "eos_token_id": one id or several. */
static ks_status add_stops(ks_prompt *p, json_t *ids, ks_err *err) {
    ks_status st = KS_OK;
    if (json_is_integer(ids)) return add_stop(p, json_integer_value(ids), err);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        json_t *id = json_array_get(ids, i);
        if (json_is_integer(id))
            KS_TRY(add_stop(p, json_integer_value(id), err));
    }
done:
    return st;
}

/* A JSON object from home/name, or NULL when there is no such file. */
static ks_status load(const char *home, const char *name, json_t **out,
                      ks_err *err) {
    ks_status st = KS_OK;
    char *path = NULL, *text = NULL;
    size_t n = 0;
    json_error_t reason;
    *out = NULL;
    KS_TRY(ks_path_join(&path, home, name, err));
    if (!ks_file_exists(path)) goto done;
    KS_TRY(ks_read_file(path, KS_MOST_CONFIG, &text, &n, err));
    *out = ks_json_loadb(text, n, 0, &reason);
    KS_CHECK(json_is_object(*out), KS_FORMAT, "%s: not a JSON object", path);
done:
    if (st != KS_OK) {
        json_decref(*out);
        *out = NULL;
    }
    free(text);
    free(path);
    return st;
}

/* Newer folders keep the template in a file of its own; lists of templates
 * name one "default". */
static ks_status find_template(const char *home, json_t *config, char **out,
                               ks_err *err) {
    ks_status st = KS_OK;
    char *path = NULL;
    size_t n = 0;
    json_t *text = json_object_get(config, "chat_template");
    KS_TRY(ks_path_join(&path, home, "chat_template.jinja", err));
    if (ks_file_exists(path)) {
        KS_TRY(ks_read_file(path, KS_MOST_CONFIG, out, &n, err));
        goto done;
    }
    for (size_t i = 0; i < json_array_size(text); i++) {
        json_t *one = json_array_get(text, i);
        const char *name = json_string_value(json_object_get(one, "name"));
        if (!name || strcmp(name, "default") != 0) continue;
        text = json_object_get(one, "template");
        break;
    }
    if (json_is_string(text)) {
        *out = strdup(json_string_value(text));
        KS_CHECK(*out, KS_NOMEM, "out of memory for a chat template");
    }
done:
    free(path);
    return st;
}

static ks_status read_folder(ks_prompt *p, const char *home, sources *s,
                             ks_err *err) {
    ks_status st = KS_OK;
    json_t *config = NULL, *generation = NULL, *tokenizer = NULL;
    KS_TRY(load(home, "generation_config.json", &generation, err));
    KS_TRY(add_stops(p, json_object_get(generation, "eos_token_id"), err));
    KS_TRY(load(home, "config.json", &config, err));
    KS_TRY(add_stops(p, json_object_get(config, "eos_token_id"), err));
    json_t *inner = json_object_get(config, "text_config");
    KS_TRY(add_stops(p, json_object_get(inner, "eos_token_id"), err));
    KS_TRY(load(home, "tokenizer_config.json", &tokenizer, err));
    s->add_bos = json_is_true(json_object_get(tokenizer, "add_bos_token"));
    KS_TRY(find_template(home, tokenizer, &s->text, err));
done:
    json_decref(config);
    json_decref(generation);
    json_decref(tokenizer);
    return st;
}

static ks_status read_gguf(ks_prompt *p, const char *path, sources *s,
                           ks_err *err) {
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id",
                                       "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    ks_status st = KS_OK;
    ks_gguf *gguf = NULL;
    const char *text = NULL;
    size_t n = 0;
    int64_t value = 0;
    bool found = false;
    KS_TRY(ks_gguf_open(&gguf, path, err));
    for (size_t i = 0; i < KS_COUNT(ends); i++) {
        KS_TRY(ks_gguf_int(gguf, ends[i], &value, &found, err));
        if (found) KS_TRY(add_stop(p, value, err));
    }
    KS_TRY(
        ks_gguf_int(gguf, "tokenizer.ggml.add_bos_token", &value, &found, err));
    s->add_bos = found && value;
    KS_TRY(ks_gguf_string(gguf, "tokenizer.chat_template", &text, &n, &found,
                          err));
    if (found) {
        s->text = strndup(text, n);
        KS_CHECK(s->text, KS_NOMEM, "out of memory for a chat template");
    }
done:
    ks_gguf_close(&gguf);
    return st;
}

/* ------------------------------------------------------------- recognising */

static bool has(const char *text, const char *mark) {
    return text && strstr(text, mark);
}

/* By marks that only one family has, the most particular first. */
static ks_template recognise(const char *text) {
    if (has(text, "<|channel|>")) return KS_TEMPLATE_HARMONY;
    if (has(text, "<" BAR "User" BAR ">")) return KS_TEMPLATE_DEEPSEEK_R1;
    if (has(text, "<|start_header_id|>")) return KS_TEMPLATE_LLAMA3;
    if (has(text, "<|im_start|>")) {
        if (has(text, "OLMo") || has(text, "Olmo")) return KS_TEMPLATE_OLMO;
        if (has(text, "Qwen") || has(text, "<think>")) return KS_TEMPLATE_QWEN;
        return KS_TEMPLATE_CHATML;
    }
    if (has(text, "<|assistant|>")) return KS_TEMPLATE_OLMO;
    return KS_TEMPLATE_RAW;
}

/* A literal of Jinja source: \n is a newline. malloc'd. */
static ks_status unescape(const char *from, size_t n, char **out, ks_err *err) {
    size_t used = 0;
    free(*out);
    *out = malloc(n + 1);
    if (!*out) return ks_fail(err, KS_NOMEM, "out of memory for a prompt");
    for (size_t i = 0; i < n; i++) {
        bool newline = from[i] == '\\' && i + 1 < n && from[i + 1] == 'n';
        (*out)[used++] = newline ? '\n' : from[i];
        i += newline;
    }
    (*out)[used] = 0;
    return KS_OK;
}

/* Past a newline, real or Jinja's \n; NULL: there is none. */
static const char *skip_newline(const char *at) {
    if (*at == '\n') return at + 1;
    return strncmp(at, "\\n", 2) == 0 ? at + 2 : NULL;
}

/* The literal system turn that ChatML templates put in front of a user's: the
 * text between "<|im_start|>system" + newline and "<|im_end|>" that no
 * expression interrupts. */
static ks_status find_system(const char *text, char **out, ks_err *err) {
    static const char open[] = "<|im_start|>system";
    for (const char *at = text; (at = strstr(at, open));) {
        at += sizeof open - 1;
        const char *from = skip_newline(at);
        const char *end = from ? strstr(from, "<|im_end|>") : NULL;
        size_t n = end ? (size_t)(end - from) : 0;
        if (!end || memchr(from, '\'', n) || memchr(from, '{', n)) continue;
        return unescape(from, n, out, err);
    }
    return KS_OK;
}

/* What the template writes after the assistant's header before the model goes
 * on; its generation prompt is the last such header. */
static ks_status find_opening(ks_prompt *p, const char *text, ks_err *err) {
    static const char header[] = "<|im_start|>assistant";
    const char *last = NULL, *none = "";
    if (p->which == KS_TEMPLATE_DEEPSEEK_R1)
        /* Its first templates leave the mark to the model; the later ones,
         * and the method, open the thinking. */
        return unescape("<think>\n", 8, &p->opening, err);
    if (p->which == KS_TEMPLATE_OLMO && !text) none = "<think>";
    for (const char *at = text; at && (at = strstr(at, header));)
        last = at += sizeof header - 1;
    const char *from = last ? skip_newline(last) : NULL;
    size_t n = from ? strcspn(from, "'\"{") : 0;
    if (!from || from[n] == '{') from = none, n = strlen(none);
    return unescape(from, n, &p->opening, err);
}

/* What all models of a family have in front. */
static const char *family_bos(ks_template which) {
    if (which == KS_TEMPLATE_DEEPSEEK_R1)
        return "<" BAR "begin" BLOCK "of" BLOCK "sentence" BAR ">";
    return which == KS_TEMPLATE_LLAMA3 ? "<|begin_of_text|>" : "";
}

/* tokenizer NULL: there is no model. */
static ks_status find_bos(ks_prompt *p, const sources *s,
                          const ks_tokenizer *tokenizer, ks_err *err) {
    int32_t bos = tokenizer ? ks_tokenizer_bos(tokenizer) : -1;
    bool wanted = s->add_bos || has(s->text, "bos_token");
    size_t n = 0;
    if (bos >= 0 && wanted)
        return ks_detokenize(tokenizer, &bos, 1, &p->bos, &n, err);
    p->bos = strdup(tokenizer ? "" : family_bos(p->which));
    if (!p->bos) return ks_fail(err, KS_NOMEM, "out of memory for a prompt");
    return KS_OK;
}

static ks_status judge(ks_prompt *p, const sources *s, ks_template which,
                       const ks_tokenizer *tokenizer, ks_err *err) {
    ks_status st = KS_OK;
    p->which = which == KS_TEMPLATE_AUTO ? recognise(s->text) : which;
    p->dated = has(s->text, "Cutting Knowledge Date");
    p->plain_marks =
        has(s->text, "<|assistant|>") && !has(s->text, "<|im_start|>");
    p->instruction = default_instruction;
    KS_TRY(find_opening(p, s->text, err));
    if (s->text) KS_TRY(find_system(s->text, &p->system, err));
    KS_TRY(find_bos(p, s, tokenizer, err));
done:
    return st;
}

ks_status ks_prompt_open(ks_prompt *out, const char *model,
                         const ks_tokenizer *tokenizer, ks_template which,
                         ks_err *err) {
    ks_status st = KS_OK;
    char *home = NULL;
    sources s = {0};
    *out = (ks_prompt){0};
    KS_TRY(ks_model_home(&home, model, err));
    if (ks_gguf_is(home))
        KS_TRY(read_gguf(out, home, &s, err));
    else
        KS_TRY(read_folder(out, home, &s, err));
    KS_TRY(judge(out, &s, which, tokenizer, err));
done:
    if (st != KS_OK) ks_prompt_close(out);
    free(s.text);
    free(home);
    return st;
}

ks_status ks_prompt_of(ks_prompt *out, ks_template which, ks_err *err) {
    const sources none = {0};
    *out = (ks_prompt){0};
    ks_status st = judge(out, &none, which, NULL, err);
    if (st != KS_OK) ks_prompt_close(out);
    return st;
}

void ks_prompt_close(ks_prompt *prompt) {
    free(prompt->bos);
    free(prompt->system);
    free(prompt->opening);
    free(prompt->stops);
    *prompt = (ks_prompt){0};
}

bool ks_prompt_stops(const ks_prompt *prompt, int32_t id) {
    for (size_t i = 0; i < prompt->n_stops; i++)
        if (prompt->stops[i] == id) return true;
    return false;
}
