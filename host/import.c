/* import.c - lines of other tools become chains and problems: ids, right
 * answers, counts. */
#include "import.h"

#include <stdlib.h>
#include <string.h>

#include "generate.h"

enum { WHERE = 512 };

const char *ks_import_name(ks_import_from from) {
    static const char *const names[] = {"auto", "text", "messages", "gsm8k"};
    return (unsigned)from < KS_N_IMPORTS ? names[from] : NULL;
}

typedef struct importer {
    const ks_import_options *options;
    ks_imported *out;
    const char *name; /* of the file, for sentences */
    char *stem;       /* and for ids */
    json_t *chains;   /* id -> line */
    json_t *samples;  /* problem -> number that its next one may have */
    json_t *asked;    /* SHA-256 of a question -> problem */
    json_t *problems; /* id -> {"question","answer"?,"line"} */
} importer;

/* Of one line. */
typedef struct identity {
    ks_str chain, problem;
    char asked[65];    /* SHA-256 of the question, or of the prompt */
    json_int_t sample; /* the number that the problem's next one may have */
} identity;

/* ----------------------------------------------------------------- identity */

/* "a/3": 1, the length of "a"; 0: no sample's id. */
static size_t stem_of_id(const char *id) {
    const char *slash = strrchr(id, '/');
    if (!slash || slash == id || !slash[1]) return 0;
    return strspn(slash + 1, "0123456789") == strlen(slash + 1)
               ? (size_t)(slash - id)
               : 0;
}

/* A field's text; a name that is another option's field is not an id. */
static ks_status id_word(const importer *m, const ks__draft *d, const char *key,
                         ks_str *out, bool *found, ks_err *err) {
    const ks_import_options *o = m->options;
    bool other = (o->question_field && strcmp(o->question_field, key) == 0) ||
                 (o->answer_field && strcmp(o->answer_field, key) == 0);
    *found = false;
    if (other) return KS_OK;
    ks_status st = ks__import_word(d->line, key, d->where, out, found, err);
    if (st == KS_OK && *found && out->length == 0)
        return ks_fail(err, KS_FORMAT, "%s: \"%s\" is empty", d->where, key);
    return st;
}

/* Lines without any id are of one problem where they ask the same. */
static ks_status problem_by_text(const importer *m, const identity *of,
                                 size_t line, ks_str *out, ks_err *err) {
    const char *known = json_string_value(json_object_get(m->asked, of->asked));
    if (known) return ks_str_printf(out, err, "%s", known);
    return ks_str_printf(out, err, "%s/%zu", m->stem, line);
}

/* What the line's fields say, ahead of its text: of the chain's id, what goes
 * into out->chain, and the problem's id; either may be left open (NULL). */
static ks_status name_line(const importer *m, const ks__draft *d, identity *out,
                           ks_err *err) {
    ks_status st = KS_OK;
    bool has_id, has_problem;
    const char *field = m->options->id_field ? m->options->id_field : "id";
    ks_str id = {0};
    KS_TRY(id_word(m, d, field, &id, &has_id, err));
    KS_TRY(id_word(m, d, "problem", &out->problem, &has_problem, err));
    size_t stem = has_id && !m->options->whole_ids ? stem_of_id(id.data) : 0;
    if (has_id && (has_problem || stem))
        KS_TRY(ks_str_add(&out->chain, id.data, id.length, err));
    if (has_id && !has_problem)
        KS_TRY(
            ks_str_add(&out->problem, id.data, stem ? stem : id.length, err));
done:
    ks_str_free(&id);
    return st;
}

/* The next number of the problem's that no chain has. */
static ks_status number_chain(const importer *m, identity *out, ks_err *err) {
    ks_status st = KS_OK;
    const char *problem = out->problem.data;
    out->sample = json_integer_value(json_object_get(m->samples, problem));
    do {
        out->chain.length = 0;
        KS_TRY(ks_str_printf(&out->chain, err, "%s/%lld", problem,
                             (long long)out->sample));
        out->sample++;
    } while (json_object_get(m->chains, out->chain.data));
done:
    return st;
}

static ks_status identify(const importer *m, const ks__draft *d, size_t line,
                          identity *out, ks_err *err) {
    ks_status st = KS_OK;
    if (d->question.data)
        ks_sha256_of(d->question.data, d->question.length, out->asked);
    else
        ks_sha256_of(d->whole.data, d->output, out->asked);
    if (!out->problem.data)
        KS_TRY(problem_by_text(m, out, line, &out->problem, err));
    out->sample =
        1 + json_integer_value(json_object_get(m->samples, out->problem.data));
    if (!out->chain.data) KS_TRY(number_chain(m, out, err));
    const json_t *before = json_object_get(m->chains, out->chain.data);
    KS_CHECK(!before, KS_MISMATCH, "%s: chain \"%s\" was already on line %lld",
             d->where, out->chain.data, (long long)json_integer_value(before));
done:
    return st;
}

/* ----------------------------------------------------------------- problems */

static const ks_problem *known_problem(const importer *m, const char *id) {
    const ks_problems *all = m->options->problems;
    return all && id ? ks_problems_find(all, id) : NULL;
}

/* From --problems what the line lacks. */
static ks_status fill(const importer *m, ks__draft *d, const char *problem,
                      ks_err *err) {
    ks_status st = KS_OK;
    const ks_problem *p = known_problem(m, problem);
    if (p && p->answer && !d->gold.data)
        KS_TRY(ks_str_printf(&d->gold, err, "%s", p->answer));
    if (p && !d->question.data)
        KS_TRY(ks_str_printf(&d->question, err, "%s", p->question));
    KS_CHECK(d->question.data || !m->options->with_problems, KS_FORMAT,
             "%s: problem \"%s\" has no question to write down", d->where,
             problem);
done:
    return st;
}

/* Samples of one problem ask the same and have the same right answer. */
static ks_status check_problem(const importer *m, const ks__draft *d,
                               const char *problem, ks_err *err) {
    static const char *const fields[] = {"question", "answer"};
    const char *here[] = {d->question.data, d->gold.data};
    ks_status st = KS_OK;
    const json_t *known = json_object_get(m->problems, problem);
    for (int i = 0; known && i < 2; i++) {
        const char *there =
            json_string_value(json_object_get(known, fields[i]));
        KS_CHECK(!there || !here[i] || strcmp(there, here[i]) == 0, KS_MISMATCH,
                 "%s: problem \"%s\" had another %s on line %lld (an id a/3 is "
                 "read as sample 3 of problem a, unless ids are whole)",
                 d->where, problem, fields[i],
                 (long long)json_integer_value(json_object_get(known, "line")));
    }
done:
    return st;
}

static ks_status enter_problem(importer *m, const ks__draft *d,
                               const char *problem, size_t line, ks_err *err) {
    ks_status st = KS_OK;
    json_t *known = json_object_get(m->problems, problem), *fresh = NULL;
    if (!known) {
        fresh = json_pack("{s:I}", "line", (json_int_t)line);
        KS_CHECK(fresh && !json_object_set(m->problems, problem, fresh),
                 KS_NOMEM, "out of memory for problems");
        known = fresh;
    }
    bool good = true;
    if (d->question.data && !json_object_get(known, "question"))
        good = !json_object_set_new(known, "question",
                                    json_string(d->question.data));
    if (good && d->gold.data && !json_object_get(known, "answer"))
        good = !json_object_set_new(known, "answer", json_string(d->gold.data));
    KS_CHECK(good, KS_NOMEM, "out of memory for problems");
done:
    json_decref(fresh);
    return st;
}

static ks_status write_problems(importer *m, ks_err *err) {
    ks_status st = KS_OK;
    const char *id;
    json_t *known;
    json_object_foreach(m->problems, id, known) {
        json_t *question = json_object_get(known, "question");
        json_t *answer = json_object_get(known, "answer");
        if (!question) continue;
        json_t *object =
            answer ? json_pack("{s:s,s:O,s:O}", "id", id, "question", question,
                               "answer", answer)
                   : json_pack("{s:s,s:O}", "id", id, "question", question);
        st = ks_jsonl_add(&m->out->problems, object, err);
        json_decref(object);
        KS_TRY(st);
        m->out->n_problems++;
    }
done:
    return st;
}

/* ------------------------------------------------------------------- chains */

/* What is known of its end; NULL: nothing. */
static json_t *finished_of(const ks__draft *d) {
    const json_t *given = json_object_get(d->line, "finished");
    const char *reason =
        json_string_value(json_object_get(d->line, "finish_reason"));
    if (reason &&
        (strcmp(reason, "length") == 0 || strcmp(reason, "max_tokens") == 0))
        return json_false();
    if (!d->complete && d->opened && !d->closed) return json_false();
    if (json_is_boolean(given)) return json_incref((json_t *)(uintptr_t)given);
    return d->complete || d->closed || reason ? json_true() : NULL;
}

static json_t *part_of(const ks__draft *d, size_t begin, size_t end) {
    return json_stringn(d->whole.data + begin, end - begin);
}

static ks_status set_word(json_t *chain, const char *key, const ks_str *word,
                          const char *where, ks_err *err) {
    if (!word->data) return KS_OK;
    return ks_json_set(chain, key, json_string(word->data), where, err);
}

/* Judged here where the right answer is known, else by who wrote the line. */
static json_t *correct_of(const ks__draft *d, json_t *judged) {
    json_t *given = json_object_get(d->line, "correct");
    return json_incref(d->gold.data || !json_is_boolean(given) ? judged
                                                               : given);
}

/* Our fields first, then what else the line had. */
static ks_status pack(const ks__draft *d, const identity *of, json_t *chain,
                      ks_err *err) {
    ks_status st = KS_OK;
    const char *where = d->where;
    json_t *steps = NULL, *answer = NULL, *correct = NULL;
    json_t *finished = finished_of(d);
    KS_TRY(ks_steps_json(&d->steps, NULL, &steps, err));
    KS_TRY(ks__chain_judge(d->whole.data + d->output,
                           d->whole.length - d->output, d->gold.data, &answer,
                           &correct, err));
    KS_TRY(set_word(chain, "id", &of->chain, where, err));
    KS_TRY(set_word(chain, "problem", &of->problem, where, err));
    KS_TRY(
        ks_json_set(chain, "prompt", part_of(d, 0, d->text.begin), where, err));
    KS_TRY(ks_json_set(chain, "text", part_of(d, d->text.begin, d->text.end),
                       where, err));
    KS_TRY(ks_json_set(chain, "rest", part_of(d, d->text.end, d->whole.length),
                       where, err));
    KS_TRY(ks_json_set(chain, "steps", json_incref(steps), where, err));
    KS_TRY(ks_json_set(chain, "answer", json_incref(answer), where, err));
    KS_TRY(ks_json_set(chain, "correct", correct_of(d, correct), where, err));
    if (finished)
        KS_TRY(
            ks_json_set(chain, "finished", json_incref(finished), where, err));
    KS_TRY(ks_json_set(chain, "closed", json_boolean(d->closed), where, err));
    KS_TRY(set_word(chain, "question", &d->question, where, err));
    KS_TRY(set_word(chain, "gold", &d->gold, where, err));
    KS_CHECK(!json_object_update_missing(chain, d->line), KS_NOMEM,
             "%s: out of memory", d->where);
done:
    json_decref(steps);
    json_decref(answer);
    json_decref(correct);
    json_decref(finished);
    return st;
}

static void count(ks_imported *out, const json_t *chain) {
    const json_t *correct = json_object_get(chain, "correct");
    size_t steps = json_array_size(json_object_get(chain, "steps"));
    out->n++;
    out->steps += steps;
    out->empty += steps == 0;
    out->unfinished += json_is_false(json_object_get(chain, "finished"));
    out->unanswered += json_is_null(json_object_get(chain, "answer"));
    out->judged += json_is_boolean(correct);
    out->correct += json_is_true(correct);
}

/* Everything that can be wrong with the line has been looked at. */
static ks_status enter(importer *m, const ks__draft *d, const identity *of,
                       const json_t *chain, size_t line, ks_err *err) {
    ks_status st = KS_OK;
    const char *problem = of->problem.data;
    const char *known = json_string_value(json_object_get(m->asked, of->asked));
    bool twin = known && strcmp(known, problem) != 0;
    KS_TRY(enter_problem(m, d, problem, line, err));
    KS_CHECK(!json_object_set_new(m->chains, of->chain.data,
                                  json_integer((json_int_t)line)) &&
                 !json_object_set_new(m->samples, problem,
                                      json_integer(of->sample)) &&
                 (known || !json_object_set_new(m->asked, of->asked,
                                                json_string(problem))),
             KS_NOMEM, "%s: out of memory for its ids", d->where);
    KS_TRY(ks_jsonl_add(&m->out->chains, chain, err));
    m->out->twins += twin;
    count(m->out, chain);
done:
    return st;
}

static ks_status add(void *user, size_t line, json_t *object, ks_err *err) {
    ks_status st = KS_OK;
    importer *m = user;
    char where[WHERE];
    identity of = {0};
    ks__draft d = {.options = m->options, .where = where};
    snprintf(where, sizeof where, "%.400s line %zu", m->name, line);
    json_t *chain = json_object();
    d.line = json_copy(object);
    KS_CHECK(d.line && chain, KS_NOMEM, "%s: out of memory", where);
    KS_TRY(name_line(m, &d, &of, err));
    d.known = known_problem(m, of.problem.data);
    KS_TRY(ks__import_line(&d, err));
    KS_TRY(identify(m, &d, line, &of, err));
    KS_TRY(fill(m, &d, of.problem.data, err));
    KS_TRY(check_problem(m, &d, of.problem.data, err));
    KS_CHECK(d.whole.length <= INT32_MAX, KS_LIMIT,
             "%s: %zu bytes of text, at most %d", where, d.whole.length,
             INT32_MAX);
    KS_TRY(pack(&d, &of, chain, err));
    KS_TRY(enter(m, &d, &of, chain, line, err));
done:
    ks_str_free(&of.chain);
    ks_str_free(&of.problem);
    json_decref(chain);
    json_decref(d.line);
    ks__draft_free(&d);
    return st;
}

static void skip(void *user, const ks_err *why) {
    importer *m = user;
    m->out->skipped++;
    m->options->skipped(why);
}

/* "runs/r1.jsonl": "r1"; malloc'd. */
static char *stem_of_path(const char *path) {
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    const char *dot = strrchr(base, '.');
    if (strcmp(path, "-") == 0) return strdup("stdin");
    return strndup(base,
                   dot && dot != base ? (size_t)(dot - base) : strlen(base));
}

ks_status ks_import(ks_imported *out, const char *path,
                    const ks_import_options *options, ks_err *err) {
    ks_status st = KS_OK;
    *out = (ks_imported){0};
    importer m = {.options = options,
                  .out = out,
                  .name = strcmp(path, "-") == 0 ? "standard input" : path,
                  .stem = stem_of_path(path),
                  .chains = json_object(),
                  .samples = json_object(),
                  .asked = json_object(),
                  .problems = json_object()};
    KS_CHECK(m.stem && m.chains && m.samples && m.asked && m.problems, KS_NOMEM,
             "out of memory for ids");
    KS_TRY(ks_str_add(&out->chains, "", 0, err));
    KS_TRY(ks_str_add(&out->problems, "", 0, err));
    KS_TRY(
        ks_jsonl_read_good(path, add, options->skipped ? skip : NULL, &m, err));
    KS_CHECK(out->n, KS_FORMAT, "%s: %s", m.name,
             out->skipped ? "no line is good"
                          : "empty, expected a line or more");
    KS_TRY(write_problems(&m, err));
done:
    free(m.stem);
    json_decref(m.chains);
    json_decref(m.samples);
    json_decref(m.asked);
    json_decref(m.problems);
    return st;
}

void ks_imported_free(ks_imported *imported) {
    ks_str_free(&imported->chains);
    ks_str_free(&imported->problems);
    *imported = (ks_imported){0};
}
