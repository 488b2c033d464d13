/* reads.c - does a stage read what its maker was told to make? Positions,
 * streams and scores that nothing makes would come to light when the maker is
 * done, hours later. See plan.h. */
#include <string.h>

#include "plan.h"

/* What a section's list has when it does not say. */
typedef struct reading {
    const char *key;      /* in both sections */
    const char *captured; /* by capture */
    const char *wanted;   /* by transfer; of probe it is what is there */
} reading;

static const reading readings[] = {
    {"streams", "resid", "resid"},
    {"positions", "mean,first,middle,last,before", "mean"}};

/* "a,b:3" has the word that begins at word; either ends at a comma or colon. */
static bool has_word(const char *list, const char *word) {
    size_t n = strcspn(word, ",:");
    for (const char *at = list; *at; at += strcspn(at, ",")) {
        at += *at == ',';
        if (strcspn(at, ",:") == n && strncmp(at, word, n) == 0) return true;
    }
    return false;
}

static const char *setting(const ks_exp_stage *s, const char *key) {
    return json_string_value(json_object_get(s->settings, key));
}

/* Where a setting stands; the section, where it says nothing of it. */
static ks_doc_place place_of(const ks_exp_stage *s, const char *key) {
    const ks_doc *item = ks_doc_find(&s->doc, key);
    return ks_doc_where(item ? item : &s->doc);
}

static const char *captured(const ks_exp_stage *maker, const reading *r) {
    const char *said = setting(maker, r->key);
    return said && *said ? said : r->captured;
}

/* key: the reader's, whose word this is. */
static ks_status find(const ks_exp_stage *s, const char *key, const char *word,
                      const ks_exp_stage *maker, const reading *r,
                      ks_err *err) {
    const char *there = captured(maker, r);
    if (has_word(there, word)) return KS_OK;
    return ks_fail(err, KS_USAGE,
                   "%s: %s.%s: '%.*s' is not among capture's %s of cell %s, "
                   "which are %s (%s)",
                   place_of(s, key).text, s->section->name, key,
                   (int)strcspn(word, ",:"), word, r->key, maker->cells, there,
                   place_of(maker, r->key).text);
}

static ks_status read_acts(const ks_exp_stage *s, const ks_exp_stage *maker,
                           ks_err *err) {
    ks_status st = KS_OK;
    bool probe = strcmp(s->section->name, "probe") == 0;
    for (size_t i = 0; i < KS_COUNT(readings); i++) {
        const reading *r = &readings[i];
        const char *word = setting(s, r->key);
        if (!word) word = probe ? "" : r->wanted;
        for (; *word; word += strcspn(word, ","), word += *word == ',')
            KS_TRY(find(s, r->key, word, maker, r, err));
    }
    const char *kinds = setting(s, "probes");
    const char *there = captured(maker, &readings[1]);
    if (!kinds || !has_word(kinds, "attention")) return KS_OK;
    if (has_word(there, "tokens") && has_word(there, "mean")) return KS_OK;
    return ks_fail(err, KS_USAGE,
                   "%s: probe.probes: attention takes positions mean and "
                   "tokens, and capture's are %s (%s)",
                   place_of(s, "probes").text, there,
                   place_of(maker, "positions").text);
done:
    return st;
}

/* role: "baseline NAME", the key of the field's setting too. */
static ks_status read_scores(const ks_exp_stage *s, const char *role,
                             const ks_exp_stage *maker, ks_err *err) {
    const char *field = setting(s, role), *what = setting(maker, "what");
    if (!what || !*what) what = "logprob,entropy";
    if (!field || has_word(what, field)) return KS_OK;
    return ks_fail(err, KS_USAGE,
                   "%s: %s: field '%s' is not among what score makes there: %s",
                   place_of(maker, "what").text, role, field, what);
}

ks_status ks_exp_check_reads(const ks_exp_plan *p, int stage, ks_err *err) {
    ks_status st = KS_OK;
    const ks_exp_stage *s = &p->stages[stage];
    for (size_t i = 0; i < s->n_inputs; i++) {
        const ks_exp_input *in = &s->inputs[i];
        if (in->stage < 0) continue;
        const ks_exp_stage *maker = &p->stages[in->stage];
        const char *made = maker->section->name;
        bool acts = strncmp(in->role, "acts", 4) == 0;
        if (acts && strcmp(made, "capture") == 0)
            KS_TRY(read_acts(s, maker, err));
        else if (strcmp(made, "score") == 0)
            KS_TRY(read_scores(s, in->role, maker, err));
    }
done:
    return st;
}
