/* reader.c - see reader.h. */
#include "reader.h"

#include <math.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "sections.h"
#include "shown.h"

/* All runs' texts and scores in the page, in MiB: by default, and where
 * somebody asked for a number of chains. */
enum { ROOM = 2, ROOM_ASKED = 8 };
enum { SHOWN = 200, QUESTION = 4000, MOST_GRADED = 12, STRIP_STEPS = 60 };

typedef struct builder {
    ks_report *report;
    const ks_runs *runs;
    const ks_reader_options *options;
    ks_chains *chains; /* [options->n_chains] */
    ks_labels *labels; /* [options->n_labels] */
} builder;

/* ------------------------------------------------------------------ scores */

static uint8_t quantised(float score) {
    if (isnan(score)) return 0;
    float v = roundf(128 + 16 * score);
    return (uint8_t)fminf(255, fmaxf(1, v));
}

/* A new reference to "scores" of one series. */
static ks_status pack_scores(const ks_shown *s, int series, json_t **out,
                             ks_err *err) {
    ks_status st = KS_OK;
    size_t layers = (size_t)s->info.series[series].n_layers, n = 0, at = 0;
    uint8_t *bytes = NULL;
    char *text = NULL;
    for (size_t i = 0; i < s->n; i++)
        if (s->at[i].shown) n += (size_t)s->at[i].n;
    KS_CHECK(n * layers < INT32_MAX / 2, KS_LIMIT,
             "%zu scores are more than a page can show", n * layers);
    KS_TRY(ks_alloc(&bytes, n * layers, 1, "scores", err));
    KS_TRY(ks_alloc(&text, n * layers / 3 * 4 + 8, 1, "scores", err));
    for (size_t l = 0; l < layers; l++)
        for (size_t i = 0; i < s->n; i++)
            for (int64_t k = 0; s->at[i].shown && k < s->at[i].n; k++)
                bytes[at++] =
                    quantised(s->scores[series][(int64_t)l * s->info.n_steps +
                                                s->at[i].first + k]);
    EVP_EncodeBlock((unsigned char *)text, bytes, (int)at);
    *out = json_string(text);
    KS_CHECK(*out, KS_NOMEM, "out of memory for scores");
done:
    free(bytes);
    free(text);
    return st;
}

static const char *series_name(ks_report *r, const ks_shown *s, int series) {
    const ks_probes_series *p = &s->info.series[series];
    bool many = false;
    for (int i = 0; i < s->info.n_series; i++)
        many |= s->info.series[i].stream != p->stream;
    return ks__report_text(r, "%s%s%s", many ? ks_stream_name(p->stream) : "",
                           many ? " " : "", ks_position_name(p->position));
}

static ks_status positions_json(ks_report *r, const ks_shown *s, json_t *into,
                                ks_err *err) {
    ks_status st = KS_OK;
    for (int i = 0; i < s->info.n_series; i++) {
        const ks_probes_series *p = &s->info.series[i];
        json_t *layers = json_array(), *scores = NULL;
        for (int32_t l = 0; l < p->n_layers; l++)
            json_array_append_new(layers, json_integer(p->layer[l]));
        st = pack_scores(s, i, &scores, err);
        if (st != KS_OK) {
            json_decref(layers);
            goto done;
        }
        json_array_append_new(
            into,
            json_pack("{s:s,s:s,s:i,s:o,s:i,s:o}", "name", series_name(r, s, i),
                      "stream", ks_stream_name(p->stream), "tone",
                      (int)p->position, "layers", layers, "best",
                      (int)ks_probes_usual(&s->info, i), "scores", scores));
    }
done:
    return st;
}

/* ------------------------------------------------------------------- chains */

/* All of [begin, end) of text. */
static json_t *piece(const char *text, size_t begin, size_t end) {
    return json_stringn(text + begin, end - begin);
}

static json_t *pieces_json(const ks_shown *s, const ks_shown_chain *c) {
    json_t *pieces = json_array();
    size_t at = 0;
    for (int64_t i = c->first; i < c->first + c->n; i++) {
        size_t begin = (size_t)s->steps.begin[i], end = (size_t)s->steps.end[i];
        json_array_append_new(pieces, piece(c->chain->text, at, begin));
        json_array_append_new(pieces, piece(c->chain->text, begin, end));
        at = end;
    }
    json_array_append_new(pieces,
                          piece(c->chain->text, at, c->chain->text_length));
    return pieces;
}

/* What was asked, or else the prompt, not more than a screen of it. */
static json_t *question_json(const ks_chain *chain) {
    const char *text = chain->question ? chain->question : chain->prompt;
    size_t n = chain->question ? chain->question_length : chain->prompt_length;
    ks_str cut = {0};
    if (n <= QUESTION) return json_stringn(text, n);
    size_t keep = QUESTION;
    while (keep > 0 && (text[keep] & 0xC0) == 0x80) keep--;
    ks_str_add(&cut, text, keep, NULL);
    ks_str_add(&cut, " \u2026", 4, NULL);
    json_t *out = cut.data ? json_stringn(cut.data, cut.length) : json_null();
    ks_str_free(&cut);
    return out;
}

/* A list of a label line with a number or null a step. */
static bool is_graded(const json_t *list, int64_t n) {
    json_t *one;
    size_t i;
    if (!json_is_array(list) || (int64_t)json_array_size(list) != n)
        return false;
    json_array_foreach(list, i, one) {
        if (!json_is_number(one) && !json_is_null(one)) return false;
    }
    return true;
}

static void take_graded(const json_t *from, int64_t n, json_t *into) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)from, key, value) {
        if (strcmp(key, "labels") != 0 && is_graded(value, n) &&
            json_object_size(into) < MOST_GRADED)
            json_object_set(into, key, value);
    }
}

/* Graded scores of the label files' lines for a chain; NULL: none. */
static ks_status graded_json(const builder *b, const ks_shown_chain *c,
                             json_t **out, ks_err *err) {
    ks_status st = KS_OK;
    json_t *all = json_object();
    for (size_t i = 0; i < b->options->n_labels; i++) {
        const ks_label *line = ks_labels_find(&b->labels[i], c->chain->id);
        const char *hash = line ? line->text_sha256 : NULL;
        /* another model's chain of that id */
        if (!line || (hash && strcmp(hash, c->chain->text_sha256) != 0))
            continue;
        KS_CHECK(line->n_steps == c->n, KS_MISMATCH,
                 "%s: chain %s has %d labels, its probe %lld steps",
                 b->labels[i].path, c->chain->id, line->n_steps,
                 (long long)c->n);
        take_graded(json_object_get(line->object, "scores"), c->n, all);
        take_graded(line->object, c->n, all);
    }
    *out = json_object_size(all) ? json_incref(all) : NULL;
done:
    json_decref(all);
    return st;
}

static ks_status chain_json(const builder *b, const ks_shown *s,
                            const ks_shown_chain *c, json_t *into,
                            ks_err *err) {
    ks_status st = KS_OK;
    json_t *labels = json_array(), *graded = NULL, *one = NULL;
    KS_TRY(graded_json(b, c, &graded, err));
    for (int64_t i = c->first; i < c->first + c->n; i++)
        json_array_append_new(labels, s->steps.label[i] < 0
                                          ? json_null()
                                          : json_integer(s->steps.label[i]));
    one = json_pack("{s:s,s:s,s:o,s:o,s:O}", "id", c->chain->id, "problem",
                    c->chain->problem, "question", question_json(c->chain),
                    "pieces", pieces_json(s, c), "labels", labels);
    KS_CHECK(one, KS_NOMEM, "out of memory for a chain of the report");
    if (graded) json_object_set(one, "graded", graded);
    json_array_append(into, one);
done:
    json_decref(labels);
    json_decref(graded);
    json_decref(one);
    return st;
}

static size_t most_shown(const builder *b) {
    return b->options->shown ? b->options->shown : SHOWN;
}

static int room_of(const builder *b) {
    return b->options->shown ? ROOM_ASKED : ROOM;
}

static ks_status run_json(const builder *b, const ks_shown *s, json_t *into,
                          ks_err *err) {
    ks_status st = KS_OK;
    ks_report *r = b->report;
    json_t *positions = json_array(), *chains = json_array();
    const char *words = ks__report_text(
        r,
        "%zu of %lld chains, spread over how well the probe does on them%s. "
        "Every score is from a fit that never saw the chain's problem.",
        s->n_shown, (long long)s->steps.n_chains,
        s->n_shown < KS_MIN(most_shown(b), s->n)
            ? ks__report_text(
                  r, " (more would take over %d MiB%s)", room_of(b),
                  b->options->shown ? "" : ", which --chains-shown N allows")
            : "");
    if (s->n_shown == (size_t)s->steps.n_chains)
        words = ks__report_text(
            r,
            "All %zu chains. Every score is from a fit that never saw the "
            "chain's problem.",
            s->n_shown);
    KS_TRY(positions_json(r, s, positions, err));
    for (size_t i = 0; i < s->n; i++)
        if (s->at[i].shown) KS_TRY(chain_json(b, s, &s->at[i], chains, err));
    json_t *one = json_pack(
        "{s:s,s:s,s:s,s:O,s:O}", "name", ks__report_brief(r, s->run->name, 60),
        "words", words, "position", series_name(r, s, s->best_series),
        "positions", positions, "chains", chains);
    KS_CHECK(one, KS_NOMEM, "out of memory for the report's chains");
    json_array_append_new(into, one);
done:
    json_decref(positions);
    json_decref(chains);
    return st;
}

/* ----------------------------------------------------------------- picture */

static const ks_shown_chain *named_chain(const ks_shown *s, const char *id) {
    for (size_t i = 0; i < s->n; i++)
        if (strcmp(s->at[i].chain->id, id) == 0) return &s->at[i];
    return NULL;
}

static int by_share(const void *a, const void *b) {
    const ks_shown_chain *x = *(ks_shown_chain *const *)a,
                         *y = *(ks_shown_chain *const *)b;
    if (x->right != y->right) return x->right < y->right ? -1 : 1;
    return (x->first > y->first) - (x->first < y->first);
}

/* In the middle by how well the probe does, of those with both labels whose
 * steps fit a picture. */
static const ks_shown_chain *typical_chain(const ks_shown *s) {
    const ks_shown_chain **fit = calloc(s->n ? s->n : 1, sizeof *fit);
    size_t n = 0;
    for (size_t i = 0; fit && i < s->n; i++) {
        const ks_shown_chain *c = &s->at[i];
        bool has[2] = {false, false};
        for (int64_t k = c->first; k < c->first + c->n; k++)
            if (s->steps.label[k] >= 0) has[s->steps.label[k]] = true;
        if (c->shown && has[0] && has[1] && c->n <= STRIP_STEPS) fit[n++] = c;
    }
    if (n) qsort((void *)fit, n, sizeof *fit, by_share);
    const ks_shown_chain *found = n ? fit[n / 2] : NULL;
    free((void *)fit);
    return found;
}

static void strip(const builder *b, size_t run, const ks_shown *s,
                  const ks_shown_chain *c) {
    ks_report *r = b->report;
    const ks_probes_series *p = &s->info.series[s->best_series];
    const char *id = ks__report_brief(r, c->chain->id, 60);
    ks_report_figure *f = ks__figure(
        r, KS_FIGURE_STRIP, ks__file_of(r, b->runs, run, "chain", NULL),
        ks__of_run(r, b->runs, run,
                   ks__report_text(r, "Chain %s, step by step, %s", id,
                                   series_name(r, s, s->best_series))));
    f->x_label = "step";
    f->y_label = "layer";
    f->low = -4, f->high = 4;
    f->diverging = true;
    for (int64_t k = 0; k < c->n; k++) {
        ks__heat_column(f, ks__report_text(r, "%lld", (long long)k + 1));
        ks__strip_mark(f, s->steps.label[c->first + k]);
    }
    for (int32_t l = 0; l < p->n_layers; l++) {
        ks__heat_row(f, ks__report_text(r, "%d", p->layer[l]));
        for (int64_t k = 0; k < c->n; k++)
            ks__heat_value(
                f,
                s->scores[s->best_series][l * s->info.n_steps + c->first + k]);
    }
    f->finding = ks__report_text(
        r,
        "The probe's score of each step at each layer: orange important, "
        "blue removable, the fainter the less sure. Beneath, the label: a full "
        "dot important, an empty one removable. The chosen layers judge "
        "%.0f%% of its steps as labelled.",
        100 * c->right);
    ks__figure_end(f);
}

/* --------------------------------------------------------------------- all */

static ks_status read_files(builder *b, ks_err *err) {
    ks_status st = KS_OK;
    const ks_reader_options *o = b->options;
    KS_TRY(ks_alloc(&b->chains, o->n_chains, sizeof *b->chains, "chains", err));
    KS_TRY(ks_alloc(&b->labels, o->n_labels, sizeof *b->labels, "labels", err));
    for (size_t i = 0; i < o->n_chains; i++)
        KS_TRY(
            ks_chains_read(&b->chains[i], o->chains[i], KS_KEEP_FIELDS, err));
    for (size_t i = 0; i < o->n_labels; i++)
        KS_TRY(
            ks_labels_read(&b->labels[i], o->labels[i], KS_KEEP_OBJECTS, err));
done:
    return st;
}

static ks_status one_run(builder *b, size_t run, bool *stripped, ks_reader *out,
                         ks_err *err) {
    ks_status st = KS_OK;
    ks_shown shown = {0};
    const ks_run *at = &b->runs->at[run];
    const ks_shown_chain *chain = NULL;
    if (!at->probes) {
        if (at->summary)
            ks__absent_in(b->report, b->runs, run,
                          "no probes.h5, so its chains are not in the reader");
        return KS_OK;
    }
    KS_TRY(ks__shown_read(&shown, at, b->chains, b->options->n_chains, err));
    KS_TRY(ks__shown_choose(&shown, most_shown(b),
                            ((size_t)room_of(b) << 20) / b->runs->n, err));
    if (!shown.n_shown) {
        ks__absent_in(b->report, b->runs, run,
                      "none of its chains is in the files that --chains names");
        goto done;
    }
    KS_TRY(run_json(b, &shown, out->runs, err));
    chain = b->options->strip ? named_chain(&shown, b->options->strip)
                              : typical_chain(&shown);
    if (chain) strip(b, run, &shown, chain);
    *stripped |= chain != NULL;
done:
    ks__shown_free(&shown);
    return st;
}

ks_status ks__reader_build(ks_reader *out, ks_report *r, const ks_runs *runs,
                           const ks_reader_options *options, ks_err *err) {
    ks_status st = KS_OK;
    builder b = {.report = r, .runs = runs, .options = options};
    bool stripped = false;
    *out = (ks_reader){.runs = json_array(), .why = ""};
    if (!options->n_chains) {
        out->why = "There are no chains in this report; keystep report "
                   "--chains FILE puts them in.";
        ks__absent(r, "no chains to read (--chains)");
        return KS_OK;
    }
    KS_TRY(read_files(&b, err));
    ks__section(r, "chains", "A chain, step by step",
                "The probe's scores on one chain whose problem it never saw; "
                "the reader has more.");
    for (size_t i = 0; i < runs->n; i++)
        KS_TRY(one_run(&b, i, &stripped, out, err));
    KS_CHECK(!options->strip || stripped, KS_MISMATCH,
             "--strip %s: no such chain among those of the runs and --chains",
             options->strip);
    if (!json_array_size(out->runs))
        out->why = "None of the runs' chains was in the chain files.";
done:
    for (size_t i = 0; b.chains && i < options->n_chains; i++)
        ks_chains_free(&b.chains[i]);
    for (size_t i = 0; b.labels && i < options->n_labels; i++)
        ks_labels_free(&b.labels[i]);
    free(b.chains);
    free(b.labels);
    if (st != KS_OK) ks__reader_free(out);
    return st;
}

void ks__reader_free(ks_reader *reader) {
    json_decref(reader->runs);
    *reader = (ks_reader){0};
}
