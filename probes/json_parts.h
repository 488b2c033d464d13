/* json_parts.h - figures as JSON. Internal. */
#ifndef KS_JSON_PARTS_H
#define KS_JSON_PARTS_H

#include <jansson.h>
#include <math.h>

#include "stats.h"

/* New references; null where a figure is not defined. */
static inline json_t *json_number(double v) {
    return isnan(v) ? json_null() : json_real(v);
}

static inline json_t *json_interval(ks_interval v) {
    json_t *object = json_object();
    json_object_set_new(object, "value", json_number(v.value));
    json_object_set_new(object, "low", json_number(v.low));
    json_object_set_new(object, "high", json_number(v.high));
    return object;
}

#endif
