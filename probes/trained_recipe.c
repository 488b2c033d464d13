/* trained_recipe.c - kinds of trained probes by name, and their trainers; see
 * trained.h. */
#include <stdlib.h>
#include <string.h>

#include "trained.h"

/* ------------------------------------------------------------------ reading
 */

static const struct kind {
    const char *name;
    ks_input input;
    int32_t units, depth; /* where none are named; 0: linear */
} kinds[] = {{"linear", KS_INPUT_MEAN, 0, 0},
             {"mlp", KS_INPUT_MEAN, 256, 2},
             {"lw-linear", KS_INPUT_BESIDE, 0, 0},
             {"lw-mlp", KS_INPUT_BESIDE, 128, 1},
             {"linear-layer", KS_INPUT_EACH, 0, 0},
             {"mlp-layer", KS_INPUT_EACH, 128, 1}};

/* A number of [1, most] at *at, which moves behind it; 0: none. */
static int32_t whole(const char **at, long most) {
    char *end;
    if (**at < '0' || **at > '9') return 0;
    long v = strtol(*at, &end, 10);
    *at = end;
    return v >= 1 && v <= most ? (int32_t)v : 0;
}

/* word: "mlp:256x2", n bytes of it. */
static ks_status read_word(const char *word, size_t n, ks_recipe *out,
                           ks_err *err) {
    ks_status st = KS_OK;
    size_t name = 0, k = 0;
    while (name < n && word[name] != ':') name++;
    while (k < KS_COUNT(kinds) && (strlen(kinds[k].name) != name ||
                                   memcmp(kinds[k].name, word, name) != 0))
        k++;
    KS_CHECK(k < KS_COUNT(kinds), KS_USAGE,
             "probe '%.*s': expected l2, linear, mlp, lw-linear, lw-mlp, "
             "linear-layer, mlp-layer, mean-difference, lda, l1 or attention",
             (int)n, word);
    int32_t units = kinds[k].units, depth = kinds[k].depth;
    if (name < n) {
        const char *at = word + name + 1;
        units = whole(&at, 4096);
        depth = 1;
        if (*at == 'x') {
            at++;
            depth = whole(&at, KS_ADAMW_MOST_HIDDEN);
        }
        KS_CHECK(kinds[k].depth && units && depth && units >> (depth - 1) &&
                     at == word + n,
                 KS_USAGE,
                 "probe '%.*s': expected hidden units, 1 to 4096, and layers, "
                 "1 to %d, as in lw-mlp:1024 or mlp:256x2",
                 (int)n, word, KS_ADAMW_MOST_HIDDEN);
    }
    *out = (ks_recipe){.input = kinds[k].input, .n_hidden = depth};
    for (int32_t l = 0; l < depth; l++) out->hidden[l] = units >> l;
    if (!depth)
        snprintf(out->name, sizeof out->name, "%s", kinds[k].name);
    else if (depth == 1)
        snprintf(out->name, sizeof out->name, "%s %d", kinds[k].name, units);
    else
        snprintf(out->name, sizeof out->name, "%s %dx%d", kinds[k].name, units,
                 depth);
done:
    return st;
}

ks_status ks_recipes_read(const char *text, ks_recipe recipes[KS_MOST_RECIPES],
                          int32_t *n, ks_err *err) {
    ks_status st = KS_OK;
    *n = 0;
    for (const char *at = text; at;) {
        size_t length = strcspn(at, ",");
        bool l2 = length == 2 && memcmp(at, "l2", 2) == 0;
        if (!l2) {
            ks_recipe one;
            KS_TRY(read_word(at, length, &one, err));
            for (int32_t k = 0; k < *n; k++)
                KS_CHECK(strcmp(recipes[k].name, one.name) != 0, KS_USAGE,
                         "probe '%s' comes twice", one.name);
            KS_CHECK(*n < KS_MOST_RECIPES, KS_USAGE, "more than %d probes",
                     KS_MOST_RECIPES);
            recipes[(*n)++] = one;
        }
        at = at[length] ? at + length + 1 : NULL;
    }
done:
    return st;
}

/* ------------------------------------------------------------------ trainer
 */

ks_status ks_recipe_check(const ks_recipe *recipe, int32_t layers,
                          ks_err *err) {
    if (recipe->input == KS_INPUT_EACH || layers > 0) return KS_OK;
    return ks_fail(err, KS_USAGE,
                   "%s reads layers from 1 on, and --layers leaves none of "
                   "them",
                   recipe->name);
}

ks_status ks_trainer_open(ks_trainer *out, const ks_recipe *recipe,
                          const ks_stack *stack, const struct ks_ops *ops,
                          ks_dev *dev, ks_err *err) {
    ks_status st = KS_OK;
    bool mean = recipe->input == KS_INPUT_MEAN;
    bool each = recipe->input == KS_INPUT_EACH;
    int32_t blocks = stack->n_layers - stack->first;
    *out = (ks_trainer){.recipe = recipe, .room = KS_TRAINER_ROOM};
    KS_TRY(ks_recipe_check(recipe, blocks, err));
    const ks_adamw_file *file = mean ? &stack->mean_file : &stack->file;
    if (file->matrices)
        KS_TRY(ks_adamw_open_file(&out->data, ops, dev, file, stack->n,
                                  stack->d, err));
    else
        KS_TRY(
            ks_adamw_open(&out->data, ops, dev, mean ? stack->mean : stack->x,
                          mean ? 1 : stack->n_layers, stack->n, stack->d, err));
    out->options = (ks_adamw_options){
        .layers = recipe->input == KS_INPUT_BESIDE ? blocks : 1,
        .n_hidden = recipe->n_hidden,
        .hidden = recipe->hidden,
        .batch = KS_TRAINED_BATCH,
        .epochs = KS_TRAINED_EPOCHS};
    out->first = recipe->input == KS_INPUT_BESIDE ? stack->first : 0;
    out->n_probes = each ? stack->n_layers : 1;
    out->n_inputs = out->options.layers * stack->d;
done:
    return st;
}

void ks_trainer_close(ks_trainer *trainer) {
    ks_adamw_close(&trainer->data);
}

static int64_t padded(int64_t n, int64_t to) {
    return (n + to - 1) / to * to;
}

/* Parameters as they train, and their two moments; once more in PyTorch's
 * order; a batch's inputs, twice, and its layers (adamw_mlp.c). */
double ks_recipe_bytes(const ks_recipe *r, int64_t n_inputs, int64_t rows,
                       int64_t margins) {
    enum { RANGE = 1024 };
    int64_t in = padded(n_inputs, KS_ADAMW_PAD), wide = in;
    double rows_at_once = KS_TRAINED_BATCH + 4, params = 0, units = 0;
    for (int32_t k = 0; k < r->n_hidden; k++) {
        int64_t out = padded(r->hidden[k], KS_ADAMW_UNITS);
        params += (double)(in + 1) * (double)out;
        units +=
            (double)out * (k ? 1 : (double)padded(wide, RANGE) / RANGE + 1);
        in = out;
    }
    params += (double)in + 1;
    return sizeof(float) *
           (4 * params + rows_at_once * (2 * (double)wide + 3 * units + RANGE) +
            3 * (double)wide + 3 * (double)rows + (double)margins);
}

double ks_trainer_bytes(const ks_trainer *trainer, int64_t rows,
                        int64_t margins) {
    return ks_recipe_bytes(trainer->recipe, trainer->n_inputs, rows, margins);
}

double ks_recipe_least(const ks_recipe *recipe, int64_t n_inputs,
                       const ks_folds *f) {
    int64_t margins = KS_TRAINED_EPOCHS * f->n / f->n_folds;
    double fits = (double)f->n_seeds * f->n_folds; /* rows of each */
    return KS_TRAINED_RATES * ks_recipe_bytes(recipe, n_inputs, f->n, margins) +
           fits * 5 * (double)f->n;
}

int64_t ks_recipe_params(const ks_recipe *r, int64_t n_inputs) {
    int64_t in = n_inputs, params = 0;
    for (int32_t k = 0; k < r->n_hidden; k++) {
        params += (in + 1) * r->hidden[k];
        in = r->hidden[k];
    }
    return params + in + 1;
}

double ks_recipe_kept(const ks_recipe *r, int64_t n_inputs, int32_t n_probes,
                      const ks_folds *f, size_t weights) {
    double fits = (double)f->n_seeds * f->n_folds;
    double params = (double)(ks_recipe_params(r, n_inputs) + 2 * n_inputs);
    double all = sizeof(float) * fits * n_probes * params;
    return (all > (double)weights ? 0 : all) +
           sizeof(float) * n_probes * ((double)f->n_seeds + 2) * (double)f->n;
}

int32_t ks_trainer_at_once(const ks_trainer *trainer, int64_t rows,
                           int64_t margins) {
    double one = ks_trainer_bytes(trainer, rows, margins);
    return (int32_t)KS_MAX(1.0, KS_MIN(trainer->room / one, 65536.0));
}
