/* import_acts.h - activations that other programs made become an activation
 * file of ours (acts.h). Nothing about the arrays is guessed: which dimension
 * is what, which layers they hold and which step or token a row is are said by
 * the caller and held against the files. */
#ifndef KS_IMPORT_ACTS_H
#define KS_IMPORT_ACTS_H

#include "acts.h"
#include "chains.h"
#include "import_array.h"

typedef enum ks_dim { KS_DIM_LAYERS, KS_DIM_ROWS, KS_DIM_FEATURES } ks_dim;

enum { KS_MAX_IMPORT_LAYERS = 4096 };

typedef struct ks_import_acts_options {
    const char *chains, *out;
    ks_stream stream;
    /* Vectors a step: a file a position, rows in the order of the chains'
     * steps; NULL where there is none. Or vectors a token: a folder with files
     * named after the chains (ID.safetensors, ID.npy, ID.h5), or JSON Lines of
     * {"chain","file"}, files beside it; pooled to `positions`. */
    const char *steps[KS_N_POSITIONS];
    const char *tokens;
    uint32_t positions;
    const char *tensor; /* of safetensors and HDF5 files */
    bool bf16;          /* as in ks_array_open */
    bool nan_missing;   /* a step all NaN at a position has no activation */
    bool force;
    int n_dims; /* 2 without layers, or 3 */
    ks_dim order[3];
    /* Layers of the arrays, in their order: layer_list, or first_layer on. */
    int32_t n_layers, layer_list[KS_MAX_IMPORT_LAYERS], first_layer;
    int32_t of_layers; /* blocks of the model; 0: as many as the highest says */
    bool has_dtype;    /* else as the arrays are, f64 as f32 */
    ks_type dtype;
    /* Tells token spans by the files' token ids; NULL: by the chains' own
     * "token_begin" and "token_end". */
    const ks_tokenizer *tokenizer;
    const char *model_name, *model_sha256; /* NULL: of the name alone */
    int32_t d; /* that the model has; 0: not known */
    void (*progress)(void *user, int64_t steps, int64_t of); /* may be NULL */
    void *user;
} ks_import_acts_options;

typedef struct ks_import_acts_report {
    int64_t chains, steps, missing; /* steps without an activation */
    int32_t n_layers, d;            /* layers in the file */
    ks_type dtype;
} ks_import_acts_report;

ks_status ks_import_acts(const ks_import_acts_options *options,
                         ks_import_acts_report *report, ks_err *err);

/* ------------------------------------------------------------- its parts (own)
 */

/* One array with what its dimensions are. */
typedef struct ks__layered {
    ks_array array;
    int64_t n[3], stride[3]; /* by ks_dim; without layers one, stride 0 */
} ks__layered;

ks_status ks__layered_open(ks__layered *out, const ks_import_acts_options *o,
                           const char *path, ks_err *err);
/* Features of a row as f32. */
void ks__layered_row(const ks__layered *in, int64_t layer, int64_t row,
                     float *out);

/* Files of token vectors, found and held against the chains' steps;
 * import_tokens.c. paths [chains], owned by the caller, each freed. */
ks_status ks__token_files(const ks_import_acts_options *o,
                          const ks_chains *chains, char **paths, ks_err *err);
/* token_begin, token_end and valid of a chain's steps. in: its open file. */
ks_status ks__token_spans(const ks_import_acts_options *o,
                          const ks_chain *chain, const char *path,
                          const ks__layered *in, ks_step_row *steps,
                          ks_err *err);
/* One step at one position; NaN where it has none. sum [d] is scratch. */
void ks__token_pool(const ks__layered *in, ks_position position, int64_t layer,
                    const ks_step_row *step, double *sum, float *out);

#endif
