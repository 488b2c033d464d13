/* assert.h - of Criterion's newer assertions those that our tests use:
 * cr_expect(eq(int, a, b)). Both sides are converted to the type that is named,
 * as there. */
#ifndef KS_SHIM_ASSERT_H
#define KS_SHIM_ASSERT_H

#include "../criterion.h"

typedef int shim_int;
typedef long shim_long;
typedef char shim_char;
typedef int8_t shim_i8;
typedef int16_t shim_i16;
typedef int32_t shim_i32;
typedef int64_t shim_i64;
typedef uint8_t shim_u8;
typedef uint16_t shim_u16;
typedef uint32_t shim_u32;
typedef uint64_t shim_u64;
typedef size_t shim_sz;
typedef float shim_flt;
typedef double shim_dbl;
typedef float shim_float;
typedef double shim_double;
typedef const void *shim_ptr;
/* No type has operators for C strings: one that compares what they say. */
#ifdef __cplusplus
struct shim_str {
    const char *text;
    shim_str(const char *t) : text(t) {
    }
    bool operator==(const shim_str &o) const {
        return strcmp(text, o.text) == 0;
    }
    bool operator!=(const shim_str &o) const {
        return !(*this == o);
    }
};
#define SHIM_AS(type, value) (shim_##type)(value)
#else
#define SHIM_AS(type, value) ((shim_##type)(value))
#endif

#define eq(type, a, b) (SHIM_AS(type, a) == SHIM_AS(type, b))
#define ne(type, a, b) (SHIM_AS(type, a) != SHIM_AS(type, b))
#define lt(type, a, b) (SHIM_AS(type, a) < SHIM_AS(type, b))
#define le(type, a, b) (SHIM_AS(type, a) <= SHIM_AS(type, b))
#define gt(type, a, b) (SHIM_AS(type, a) > SHIM_AS(type, b))
#define ge(type, a, b) (SHIM_AS(type, a) >= SHIM_AS(type, b))

#endif
