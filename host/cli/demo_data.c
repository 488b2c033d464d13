/* demo_data.c - where the embedded model and its problems lie: in the source
 * tree, beside the program in a bundle, or in share/. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

ks_status ks_cli_demo_folder(char **out, ks_err *err) {
    const char *named = getenv("KEYSTEP_DEMO");
    char exe[PATH_MAX], at[PATH_MAX * 2];
    ks_cli_self(exe);
    char *slash = strrchr(exe, '/');
    if (slash) *slash = 0; /* the program's folder */
    static const char *const places[] = {"/../../experiments/demo",
                                         "/../experiments/demo",
                                         "/../share/keystep/demo"};
    for (size_t i = 0; i < KS_COUNT(places) + 1; i++) {
        if (i == 0 && !named) continue;
        if (i == 0)
            snprintf(at, sizeof at, "%s", named);
        else
            snprintf(at, sizeof at, "%s%s", exe, places[i - 1]);
        *out = realpath(at, NULL);
        if (*out) return KS_OK;
    }
    return ks_fail(err, KS_IO,
                   "the embedded model is not there: looked for "
                   "../../experiments/demo, ../experiments/demo and "
                   "../share/keystep/demo beside %s; KEYSTEP_DEMO names "
                   "another folder",
                   exe);
}
