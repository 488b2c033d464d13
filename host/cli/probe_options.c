/* probe_options.c - see probe_options.h. */
#include "probe_options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "../../probes/nest.h"

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int ks_cli_strengths(double *strengths, const char *text,
                     struct argp_state *state) {
    int n = 0;
    for (const char *at = text; at;) {
        char *end;
        double value = strtod(at, &end);
        if (end == at || (*end && *end != ',') ||
            !(value > 0 && value < 1e12) || n == KS_MAX_STRENGTHS) {
            argp_error(state,
                       "--strengths takes up to %d positive numbers "
                       "such as 0.01,0.1,1, got '%s'",
                       KS_MAX_STRENGTHS, text);
            return 0;
        }
        strengths[n++] = value;
        at = *end ? end + 1 : NULL;
    }
    qsort(strengths, (size_t)n, sizeof *strengths, by_size);
    return n;
}

ks_status ks_cli_folder(const char *out, bool force, int n,
                        const char *const *names, char **paths, bool *made,
                        ks_err *err) {
    ks_status st = KS_OK;
    struct stat what;
    *made = mkdir(out, 0777) == 0;
    if (!*made) {
        KS_CHECK(errno == EEXIST && stat(out, &what) == 0, KS_IO,
                 "%s: cannot make the folder: %s", out, strerror(errno));
        KS_CHECK(S_ISDIR(what.st_mode), KS_EXISTS,
                 "%s is there and not a folder; --out names a folder", out);
    }
    for (int i = 0; i < n; i++) {
        KS_TRY(ks_path_join(&paths[i], out, names[i], err));
        KS_TRY(ks_refuse_existing(paths[i], force, err));
    }
done:
    return st;
}
