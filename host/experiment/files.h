/* files.h - SHA-256 of the files that an experiment is given. A file whose size
 * and time of change are those of RUN/inputs.json is not read again. */
#ifndef KS_EXPERIMENT_FILES_H
#define KS_EXPERIMENT_FILES_H

#include "../base.h"

typedef struct ks_exp_files {
    json_t *known; /* path -> {"bytes","modified","sha256"} */
    bool changed;
    ks_err spoilt; /* why what was there is not known; KS_OK: it is */
    /* called ahead of a file that takes a while; may be NULL */
    void (*reading)(void *user, const char *path, uint64_t bytes);
    void *user;
} ks_exp_files;

/* What RUN/inputs.json knows; path NULL or not there: nothing. It spares
 * reading and no more: one that is not what keystep run writes is as good as
 * none (spoilt), and is written anew. */
ks_status ks_exp_files_open(ks_exp_files *files, const char *path, ks_err *err);
void ks_exp_files_close(ks_exp_files *files);
/* Writes it to path where something new was found. */
ks_status ks_exp_files_write(ks_exp_files *files, const char *path,
                             ks_err *err);

/* Of a file its content's; of a folder, or of a weight file beside its
 * config.json, one over the names and hashes of the folder's files that a model
 * is read from; of tokenizer.json one over it and the tokenizer_config.json
 * beside it. A path that is not there any more has the hash it had (*there
 * false); KS_IO where it never was known. Looks at ks_interrupted. */
ks_status ks_exp_files_hash(ks_exp_files *files, const char *path, char hex[65],
                            bool *there, ks_err *err);
/* The same of a file alone, which is not remembered. */
ks_status ks_exp_file_hash(const char *path, char hex[65], ks_err *err);

#endif
