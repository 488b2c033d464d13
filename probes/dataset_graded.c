/* dataset_graded.c - ks_dataset_graded of dataset.h. */
#include <stdlib.h>
#include <string.h>

#include "dataset_rows.h"

/* The value of a score at a step; NULL: null, or the line has no such score. */
static json_t *score_of(const ks_label *label, const char *score, int32_t i) {
    json_t *scores = label ? json_object_get(label->object, "scores") : NULL;
    json_t *value = json_array_get(json_object_get(scores, score), (size_t)i);
    return json_is_number(value) ? value : NULL;
}

/* Names of the scores that the label lines have. */
static void list_scores(const ks_labels *labels, char *out, size_t size) {
    const char *name;
    json_t *list;
    *out = 0;
    for (size_t i = 0; i < labels->n; i++)
        json_object_foreach(json_object_get(labels->at[i].object, "scores"),
                            name, list) {
            char word[64];
            snprintf(word, sizeof word, "%s%s", *out ? ", " : "", name);
            if (!strstr(out, name) && strlen(out) + strlen(word) < size)
                strcat(out, word);
        }
}

static ks_status take_graded(ks_dataset *d, const char *score, double *target,
                             ks_err *err) {
    ks_status st = KS_OK;
    char names[200];
    KS_TRY(ks__dataset_alloc_rows(d, err));
    for (int64_t row = 0; row < d->info->n_steps; row++) {
        const ks_step_row *s = &d->info->steps[row];
        const ks_label *label =
            ks_labels_find(&d->labels, d->info->chains[s->chain].id);
        json_t *value = score_of(label, score, s->index);
        if (!value) continue;
        if (!s->valid) {
            d->n_invalid++;
            continue;
        }
        target[d->n] = json_number_value(value);
        ks__dataset_take_row(d, row, label->labels[s->index]);
    }
    list_scores(&d->labels, names, sizeof names);
    KS_CHECK(d->n, KS_MISMATCH, "%s: no step has a score \"%s\"; there %s%s",
             d->labels.path, score, *names ? "are " : "are none", names);
    KS_TRY(ks__dataset_number_groups(d, err));
done:
    return st;
}

ks_status ks_dataset_graded(ks_dataset **out, double **target,
                            const ks_dataset *of, const char *score,
                            ks_err *err) {
    ks_status st = KS_OK;
    ks_dataset *d = NULL;
    *target = NULL;
    KS_CHECK(of->labels.n, KS_USAGE, "--graded needs --labels");
    KS_TRY(ks_alloc(&d, 1, sizeof *d, "data set", err));
    *d = (ks_dataset){.of_another = true,
                      .acts = of->acts,
                      .info = of->info,
                      .chains = of->chains,
                      .labels = of->labels,
                      .has_text = of->has_text};
    KS_TRY(ks_alloc(target, (size_t)KS_MAX(d->info->n_steps, 1),
                    sizeof **target, "scores", err));
    KS_TRY(take_graded(d, score, *target, err));
    *out = d;
    d = NULL;
done:
    ks_dataset_close(&d);
    if (st != KS_OK) {
        free(*target);
        *target = NULL;
    }
    return st;
}
