/* generate_resume.c - what keystep generate takes over from an interrupted run:
 * chains that this one would make as well, bit by bit. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "generate_work.h"

enum { WHERE = 320, WORDS = 72 };

/* What decides bits and not what is asked: --force lets another through. */
static const char *const machine[] = {"backend", "isa", "program_version"};

static bool is_of_the_machine(const char *name) {
    for (size_t i = 0; i < KS_COUNT(machine); i++)
        if (strcmp(name, machine[i]) == 0) return true;
    return false;
}

static bool is_asked(const char *name) {
    return !is_of_the_machine(name);
}

static ks_status differs(const char *where, const char *key,
                         const json_t *there, const json_t *here, ks_err *err) {
    char *a = there ? json_dumps(there, JSON_ENCODE_ANY) : NULL;
    char *b = here ? json_dumps(here, JSON_ENCODE_ANY) : NULL;
    ks_fail(err, KS_MISMATCH,
            "%s was sampled with other settings: \"%s\" is %.80s there, %.80s "
            "here; %s",
            where, key, a ? a : "absent", b ? b : "absent",
            is_of_the_machine(key) ? "--force continues all the same"
                                   : "--force starts afresh");
    free(a);
    free(b);
    return KS_MISMATCH;
}

static const char *machine_difference(const ks_generate_work *w,
                                      const json_t *there) {
    if (!w->in->common.force)
        return ks_json_difference(w->settings, there, is_of_the_machine);
    for (size_t i = 0; i < KS_COUNT(machine); i++)
        if (!json_is_string(json_object_get(there, machine[i])))
            return machine[i];
    return NULL;
}

static ks_status check_settings(const ks_generate_work *w, const char *where,
                                const json_t *there, ks_err *err) {
    const char *name = ks_json_difference(w->settings, there, is_asked);
    if (!name) name = machine_difference(w, there);
    if (!name) name = ks_json_difference(there, w->settings, is_asked);
    if (!name) return KS_OK;
    return differs(where, name, json_object_get(there, name),
                   json_object_get(w->settings, name), err);
}

/* Some words of a text from ahead of byte `at` on, on one line. */
static void quote(char out[WORDS], const char *text, size_t n, size_t at) {
    size_t from = at > 24 ? at - 24 : 0, k = 0;
    while (from > 0 && ((unsigned char)text[from] & 0xC0) == 0x80) from--;
    for (; from < n && k + 1 < WORDS; from++, k++)
        out[k] = (char)(iscntrl((unsigned char)text[from]) ? ' ' : text[from]);
    out[ks_utf8_check(out, k)] = 0;
}

static ks_status check_prompt(const ks_generate_work *w, size_t problem,
                              const char *where, json_t *chain, ks_err *err) {
    const ks_str *here = &w->prompts[problem];
    const char *there = NULL;
    size_t n = 0, same = 0;
    char a[WORDS], b[WORDS];
    ks_status st = ks_json_string(chain, "prompt", where, &there, &n, err);
    if (st != KS_OK) return st;
    /* A mark that the model opened its thinking with goes along. */
    bool longer = w->prompt.which != KS_TEMPLATE_RAW;
    while (same < n && same < here->length && there[same] == here->data[same])
        same++;
    if (same == here->length && (same == n || longer)) return KS_OK;
    quote(a, there, n, same);
    quote(b, here->data, here->length, same);
    return ks_fail(err, KS_MISMATCH,
                   "%s answers another prompt: '%s' there, '%s' here; --force "
                   "starts afresh",
                   where, a, b);
}

static ks_status check_gold(const char *where, const char *here,
                            const json_t *chain, ks_err *err) {
    const char *there = json_string_value(json_object_get(chain, "gold"));
    if (there && here && strcmp(there, here) == 0) return KS_OK;
    if (!there && !here) return KS_OK;
    return ks_fail(err, KS_MISMATCH,
                   "%s was judged by another answer: '%.80s' there, '%.80s' "
                   "here; --force starts afresh",
                   where, there ? there : "(none)", here ? here : "(none)");
}

/* The fields that generate writes and readers count on. */
static ks_status check_fields(const char *where, json_t *chain, ks_err *err) {
    ks_status st = KS_OK;
    static const char *const texts[] = {"model", "text", "rest"};
    const char *text;
    size_t length;
    int64_t tokens;
    for (size_t i = 0; i < KS_COUNT(texts); i++)
        KS_TRY(ks_json_string(chain, texts[i], where, &text, &length, err));
    KS_TRY(ks_json_int(chain, "tokens", where, 0, INT32_MAX, &tokens, err));
    KS_CHECK(json_is_array(json_object_get(chain, "steps")) &&
                 json_is_boolean(json_object_get(chain, "finished")),
             KS_FORMAT, "%s: no \"steps\" or no \"finished\"", where);
done:
    return st;
}

/* Which chain the line is: "problem/sample", written as we write it. */
static ks_status find_place(const ks_generate_work *w, const char *where,
                            const json_t *chain, size_t *at, ks_err *err) {
    ks_status st = KS_OK;
    const char *id = json_string_value(json_object_get(chain, "id"));
    const char *problem = json_string_value(json_object_get(chain, "problem"));
    const ks_problem *p =
        problem ? ks_problems_find(&w->problems, problem) : NULL;
    size_t length = problem ? strlen(problem) : 0;
    char number[16] = "";
    KS_CHECK(p && id && strncmp(id, problem, length) == 0 && id[length] == '/',
             KS_MISMATCH, "%s: not a chain of these problems", where);
    const char *given = id + length + 1;
    long sample = strtol(given, NULL, 10);
    if (sample >= 0 && sample < w->samples)
        snprintf(number, sizeof number, "%ld", sample);
    KS_CHECK(strcmp(given, number) == 0, KS_MISMATCH,
             "%s: sample '%.40s' of 0 to %d", where, given, w->samples - 1);
    size_t at_problem = (size_t)(p - w->problems.at);
    KS_CHECK(at_problem >= w->first && at_problem < w->end, KS_MISMATCH,
             "%s: problem %.80s is not in shard %d/%d", where, problem,
             w->in->common.shard.k, w->in->common.shard.n);
    *at = at_problem * (size_t)w->samples + (size_t)sample;
done:
    return st;
}

static ks_status adopt(void *user, size_t line, json_t *chain, ks_err *err) {
    ks_status st = KS_OK;
    ks_generate_work *w = user;
    char where[WHERE];
    size_t at = 0;
    snprintf(where, sizeof where, "%.280s line %zu",
             w->from ? w->from : w->part.path, line);
    KS_TRY(find_place(w, where, chain, &at, err));
    size_t problem = at / (size_t)w->samples;
    KS_TRY(check_settings(w, where, json_object_get(chain, "sampling"), err));
    KS_TRY(check_prompt(w, problem, where, chain, err));
    KS_TRY(check_gold(where, w->problems.at[problem].answer, chain, err));
    KS_TRY(check_fields(where, chain, err));
    if (w->chains[at]) goto done;
    w->chains[at] = json_incref(chain);
    w->n_done++;
done:
    return st;
}

static void forget(ks_generate_work *w) {
    for (size_t i = 0; i < w->n; i++) {
        json_decref(w->chains[i]);
        w->chains[i] = NULL;
    }
    w->n_done = 0;
}

/* An OUT that is there already, all of it and the same, stays. */
static ks_status look_at_whole(ks_generate_work *w, ks_err *err) {
    ks_status st = KS_OK;
    const char *out = w->in->common.out;
    w->from = out;
    st = ks_shard_note_check(&w->note, out, err);
    if (st != KS_OK) st = ks_fail_more(err, st, "; --force starts afresh");
    KS_TRY(st);
    KS_TRY(ks_jsonl_read(out, adopt, w, err));
    KS_CHECK(w->n_done == w->n_asked, KS_MISMATCH,
             "%s has %zu of the %zu chains that are asked for; --force starts "
             "afresh",
             out, w->n_done, w->n_asked);
done:
    w->from = NULL;
    return st;
}

static ks_status start_afresh(ks_generate_work *w, ks_found found,
                              ks_err *err) {
    forget(w);
    if (found == KS_FOUND_WHOLE) return ks_part_begin(&w->part, err);
    ks_part_close(&w->part, false);
    return ks_part_open(&w->part, w->in->common.out, false, true, adopt, w,
                        &found, err);
}

ks_status ks__generate_take_over(ks_generate_work *w, bool *whole,
                                 ks_err *err) {
    const ks_cli_common *c = &w->in->common;
    ks_found found = KS_FOUND_NOTHING;
    ks_err why = {0};
    ks_status st = ks_part_open(&w->part, c->out, c->resume, c->force, adopt, w,
                                &found, &why);
    if (st == KS_OK && found == KS_FOUND_WHOLE) st = look_at_whole(w, &why);
    *whole = st == KS_OK && found == KS_FOUND_WHOLE;
    bool other = st == KS_MISMATCH || st == KS_FORMAT;
    if (other && c->resume && c->force) {
        ks_log(KS_LOG_INFO, "%s: so this run starts afresh", why.text);
        why = (ks_err){0};
        st = start_afresh(w, found, &why);
    }
    if (st != KS_OK && err) *err = why;
    return st;
}
