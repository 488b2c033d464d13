/* resident.c - see resident.h. */
#include "resident.h"

#include <stdlib.h>
#include <string.h>

#include "base.h"

size_t ks_resident(const char *field) {
    size_t bytes = 0;
    char *text = NULL, line[32];
    snprintf(line, sizeof line, "\n%s:", field);
    if (ks_read_file("/proc/self/status", SIZE_MAX, &text, NULL, NULL) ==
        KS_OK) {
        const char *at = strstr(text, line);
        if (at) bytes = (size_t)strtoull(at + strlen(line), NULL, 10) << 10;
    }
    free(text);
    return bytes;
}
