/* slurm_options.c - options of sbatch, as a list or a mapping. See slurm.h. */
#include "slurm_state.h"

#include <stdlib.h>
#include <string.h>

void ks_slurm_free(ks_slurm_options *options) {
    for (size_t i = 0; i < options->n; i++) {
        free(options->at[i].kind);
        free(options->at[i].name);
        free(options->at[i].value);
    }
    free(options->at);
    *options = (ks_slurm_options){0};
}

/* Of which launch knows better: what it sets, or what a job of its scripts
 * would break on. */
static const char *const ours[] = {
    "array",      "chdir",     "dependency", "error",  "input",
    "job-name",   "nodes",     "ntasks",     "output", "kill-on-invalid-dep",
    "no-requeue", "open-mode", "parsable",   "quiet",  "requeue",
    "signal",     "test-only", "wait",       "wrap"};

static const char *const kinds[] = {"import",  "generate", "split", "label",
                                    "capture", "score",    "probe", "transfer",
                                    "report",  "join"};

static bool is_in(const char *const *list, size_t n, const char *text,
                  size_t length) {
    for (size_t i = 0; i < n; i++)
        if (strlen(list[i]) == length && memcmp(list[i], text, length) == 0)
            return true;
    return false;
}

static ks_status check(const char *kind, size_t n_kind, const char *name,
                       size_t n_name, const char *value, size_t n_value,
                       const char *where, ks_err *err) {
    ks_status st = KS_OK;
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789-";
    bool named = n_name > 0 && *name != '-';
    for (size_t i = 0; i < n_name; i++)
        named = named && strchr(letters, name[i]) && name[i];
    KS_CHECK(named, KS_USAGE,
             "%s: '%.*s' is no long option of sbatch (partition=gpu)", where,
             (int)KS_MIN(n_name, 60), name);
    KS_CHECK(!n_kind || is_in(kinds, KS_COUNT(kinds), kind, n_kind), KS_USAGE,
             "%s: '%.*s' is no kind of stage: import, generate, split, label, "
             "capture, score, probe, transfer, report, or join",
             where, (int)KS_MIN(n_kind, 60), kind);
    KS_CHECK(!is_in(ours, KS_COUNT(ours), name, n_name), KS_USAGE,
             "%s: launch sets --%.*s itself", where, (int)n_name, name);
    for (size_t i = 0; value && i < n_value; i++)
        KS_CHECK((unsigned char)value[i] > ' ' && value[i] != 127 &&
                     !strchr("\"'\\#", value[i]),
                 KS_USAGE,
                 "%s: %.*s=%.*s: a value without blanks, quotes, # and "
                 "backslashes is expected",
                 where, (int)n_name, name, (int)KS_MIN(n_value, 60), value);
done:
    return st;
}

/* ------------------------------------------------------------ forms of values
 */

static bool is_number(const char *text, size_t n) {
    size_t sign = n > 0 && *text == '+';
    return n > sign && strspn(text + sign, "0123456789") >= n - sign;
}

/* cpus-per-task=8 */
static bool is_count(const char *text) {
    return is_number(text, strlen(text)) && strspn(text, "+0") < strlen(text);
}

/* mem=64G, also 64GB; of mebibytes 65536 */
static bool is_size(const char *text) {
    size_t n = strlen(text);
    size_t byte = n > 1 && strchr("bB", text[n - 1]);
    size_t unit = n > 1 + byte && strchr("kKmMgGtT", text[n - 1 - byte]);
    return byte <= unit && is_number(text, n - byte - unit);
}

/* What sbatch takes for a time: groups of digits between at most one dash and,
 * behind it, at most two colons, as many groups as these part. */
static bool is_time(const char *text) {
    int groups = 0, dashes = 0, colons = 0;
    if (strcasecmp(text, "unlimited") == 0 || strcasecmp(text, "infinite") == 0)
        return true;
    for (const char *at = text; *at;) {
        size_t digits = strspn(at, "0123456789");
        groups += digits > 0;
        at += digits;
        if (!*at) break;
        if (*at == '-' && colons) return false;
        if (*at != '-' && *at != ':') return false;
        dashes += *at == '-';
        colons += *at == ':';
        at++;
    }
    int least = colons ? dashes + colons + 1 : 1; /* -1: without end; 1- */
    return groups >= least && dashes <= 1 && colons <= 2;
}

/* gpus=4 or gpus=a100:4; of several types nobody could say which rank has what.
 */
static int count_of(const char *value) {
    if (value && strchr(value, ',')) return -1;
    const char *colon = value ? strrchr(value, ':') : NULL;
    const char *digits = colon ? colon + 1 : value;
    if (!digits || !*digits || strlen(digits) > 3 ||
        strspn(digits, "0123456789") != strlen(digits))
        return -1;
    return (int)strtol(digits, NULL, 10);
}

static bool is_gpus(const char *text) {
    return count_of(text) >= 1;
}

/* Options whose values have a form that can be told here, ahead of a queue. */
static ks_status check_form(const ks_slurm_option *o, const char *where,
                            ks_err *err) {
    static const char times[] =
        "minutes, minutes:seconds, hours:minutes:seconds, days-hours, "
        "days-hours:minutes, days-hours:minutes:seconds, UNLIMITED or INFINITE "
        "is expected";
    static const char sizes[] =
        "a whole number of megabytes, or one with K, M, G or T, is expected";
    static const char counts[] = "a whole number from 1 is expected";
    static const struct {
        const char *name;
        bool (*fits)(const char *text);
        const char *expected;
    } forms[] = {
        {"time", is_time, times},
        {"time-min", is_time, times},
        {"mem", is_size, sizes},
        {"mem-per-cpu", is_size, sizes},
        {"mem-per-gpu", is_size, sizes},
        {"tmp", is_size, sizes},
        {"cpus-per-task", is_count, counts},
        {"cpus-per-gpu", is_count, counts},
        {"gpus", is_gpus, "a number from 1, or type:number, is expected"}};
    const char *value = o->value ? o->value : "";
    for (size_t i = 0; i < KS_COUNT(forms); i++)
        if (strcmp(forms[i].name, o->name) == 0 && !forms[i].fits(value))
            return ks_fail(err, KS_USAGE, "%s: %s=%.60s: %s", where, o->name,
                           value, forms[i].expected);
    return KS_OK;
}

static bool same_text(const char *a, const char *b) {
    return a == b || (a && b && strcmp(a, b) == 0);
}

static ks_status add(ks_slurm_options *options, const char *kind, size_t n_kind,
                     const char *name, size_t n_name, const char *value,
                     size_t n_value, const char *where, ks_err *err) {
    ks_status st = KS_OK;
    ks_slurm_option fresh = {0};
    KS_TRY(check(kind, n_kind, name, n_name, value, n_value, where, err));
    if (n_kind) fresh.kind = strndup(kind, n_kind);
    fresh.name = strndup(name, n_name);
    if (value) fresh.value = strndup(value, n_value);
    KS_CHECK(fresh.name && (!n_kind || fresh.kind) && (!value || fresh.value),
             KS_NOMEM, "out of memory for an option");
    KS_TRY(check_form(&fresh, where, err));
    size_t at = 0;
    while (at < options->n && !(same_text(options->at[at].kind, fresh.kind) &&
                                same_text(options->at[at].name, fresh.name)))
        at++;
    KS_TRY(ks_grow(&options->at, &options->capacity, at + 1,
                   sizeof *options->at, "options of sbatch", err));
    if (at == options->n) options->at[options->n++] = (ks_slurm_option){0};
    ks_slurm_option old = options->at[at];
    options->at[at] = fresh;
    fresh = old; /* freed below */
done:
    free(fresh.kind);
    free(fresh.name);
    free(fresh.value);
    return st;
}

ks_status ks_slurm_set(ks_slurm_options *options, const ks_slurm_option *option,
                       ks_err *err) {
    const char *kind = option->kind ? option->kind : "";
    const char *value = option->value;
    return add(options, kind, strlen(kind), option->name, strlen(option->name),
               value, value ? strlen(value) : 0, "--slurm", err);
}

/* Length up to a comma that stands outside of brackets. */
static size_t piece(const char *list) {
    int depth = 0;
    size_t n = 0;
    for (; list[n]; n++) {
        depth += (list[n] == '[') - (list[n] == ']');
        if (list[n] == ',' && depth <= 0) break;
    }
    return n;
}

ks_status ks_slurm_parse(ks_slurm_options *options, const char *list,
                         const char *where, ks_err *err) {
    ks_status st = KS_OK;
    for (const char *at = list; *at;) {
        size_t n = piece(at);
        const char *equals = memchr(at, '=', n);
        size_t n_name = equals ? (size_t)(equals - at) : n;
        const char *dot = memchr(at, '.', n_name);
        const char *name = dot ? dot + 1 : at;
        KS_TRY(add(options, at, dot ? (size_t)(dot - at) : 0, name,
                   (size_t)(at + n_name - name), equals ? equals + 1 : NULL,
                   equals ? n - n_name - 1 : 0, where, err));
        at += n + (at[n] == ',');
    }
done:
    return st;
}

/* A value of a mapping as sbatch takes it; false: it has no such form. */
static bool text_of(const json_t *value, char *number, size_t n,
                    const char **text) {
    *text = number;
    if (json_is_string(value))
        *text = json_string_value(value);
    else if (json_is_integer(value))
        snprintf(number, n, "%lld", (long long)json_integer_value(value));
    else if (json_is_true(value))
        *text = NULL;
    else
        return false;
    return true;
}

static ks_status from_json(ks_slurm_options *options, const char *kind,
                           json_t *mapping, const char *where, ks_err *err) {
    ks_status st = KS_OK;
    const char *name;
    json_t *value;
    KS_CHECK(json_is_object(mapping), KS_USAGE,
             "%s: expected a mapping of sbatch's options, found %s", where,
             ks_json_kind(mapping));
    json_object_foreach(mapping, name, value) {
        char number[32];
        const char *text;
        if (json_is_object(value) && !kind) {
            KS_TRY(from_json(options, name, value, where, err));
            continue;
        }
        KS_CHECK(text_of(value, number, sizeof number, &text), KS_USAGE,
                 "%s: %s: expected text, a whole number or true, found %s",
                 where, name, ks_json_kind(value));
        KS_TRY(add(options, kind, kind ? strlen(kind) : 0, name, strlen(name),
                   text, text ? strlen(text) : 0, where, err));
    }
done:
    return st;
}

ks_status ks_slurm_from_json(ks_slurm_options *options, json_t *mapping,
                             const char *where, ks_err *err) {
    return from_json(options, NULL, mapping, where, err);
}

/* ------------------------------------------------------ options of a script */

/* What the options say to jobs of a kind: of the kind's own ones the last. */
static const ks_slurm_option *find(const ks_slurm_options *options,
                                   const char *kind, const char *name) {
    for (size_t i = 0; i < options->n; i++)
        if (same_text(options->at[i].kind, kind) &&
            strcmp(options->at[i].name, name) == 0)
            return &options->at[i];
    return NULL;
}

const ks_slurm_option *ks__slurm_option(const ks_slurm_script *script,
                                        const char *name) {
    bool join = script->part == KS_JOB_JOIN;
    const ks_slurm_option *found =
        find(script->options, join ? "join" : script->kind, name);
    /* nobody waits for a GPU that would not be used */
    if (!found && (script->device || strcmp(name, "gpus") != 0))
        found = find(script->options, NULL, name);
    return found;
}

int ks_slurm_gpus(const ks_slurm_script *script) {
    const ks_slurm_option *gpus = ks__slurm_option(script, "gpus");
    if (!gpus) return 0;
    return script->part == KS_JOB_SHARDS ? count_of(gpus->value) : 1;
}

int ks_slurm_shards_a_task(const ks_slurm_script *script) {
    return KS_MAX(1, ks_slurm_gpus(script));
}
