/* The cases that tests/golden/make_text.py wrote. */
#ifndef KS_TESTS_TEXT_GOLDEN_H
#define KS_TESTS_TEXT_GOLDEN_H

#include <criterion/criterion.h>
#include <string.h>

#include "text/text.h"

static inline json_t *golden(const char *key, json_t **root) {
    json_error_t reason;
    *root = json_load_file(KS_TEST_DATA "/text/golden.json", JSON_ALLOW_NUL,
                           &reason);
    cr_assert(*root != NULL, "golden.json: %s", reason.text);
    json_t *list = json_object_get(*root, key);
    cr_assert(json_array_size(list) > 0, "no cases of %s", key);
    return list;
}

static inline const char *string_at(json_t *list, size_t i, size_t *n) {
    json_t *s = json_array_get(list, i);
    cr_assert(json_is_string(s));
    *n = json_string_length(s);
    return json_string_value(s);
}

#endif
