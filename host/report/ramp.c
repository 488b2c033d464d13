/* ramp.c - see ramp.h. */
#include "ramp.h"

#include <math.h>
#include <stdlib.h>

static const ks_ramp ramps[2] = {
    {.name = "sequential",
     .light = {"#edf5fb", "#9cc6e7", "#5296cf", "#2365a8", "#14386d"},
     .dark = {"#1b2430", "#2c486c", "#3b70a4", "#549cd4", "#89c9ef"}},
    {.name = "diverging",
     .light = {"#1d64ae", "#70aee3", "#f4f4f3", "#e5974d", "#9e4c19"},
     .dark = {"#4a8dca", "#2f5782", "#26282b", "#784a28", "#c1773a"}}};

const ks_ramp *ks__ramp(bool diverging) {
    return &ramps[diverging];
}

/* One of red, green and blue, of [0, 1]. */
static double channel(const char *colour, int which) {
    unsigned long all = strtoul(colour + 1, NULL, 16);
    return (double)(all >> (8 * (2 - which)) & 0xFF) / 255;
}

bool ks__ramp_deep(const ks_ramp *ramp, double part) {
    static const double weight[] = {0.2126, 0.7152, 0.0722};
    double at = (KS_RAMP_STOPS - 1) * fmin(fmax(part, 0), 1), luminance = 0;
    int stop = KS_MIN((int)at, KS_RAMP_STOPS - 2);
    for (int i = 0; i < 3; i++) {
        double from = channel(ramp->light[stop], i);
        double v = from + (channel(ramp->light[stop + 1], i) - from) *
                              (at - (double)stop);
        luminance += weight[i] *
                     (v <= 0.04045 ? v / 12.92 : pow((v + 0.055) / 1.055, 2.4));
    }
    /* (1 + 0.05) / (y + 0.05) > (y + 0.05) / (0 + 0.05) */
    return (luminance + 0.05) * (luminance + 0.05) < 1.05 * 0.05;
}

static json_t *stops_json(const char *const *stops) {
    json_t *list = json_array();
    for (int i = 0; list && i < KS_RAMP_STOPS; i++)
        if (json_array_append_new(list, json_string(stops[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

json_t *ks__ramps_json(void) {
    json_t *all = json_object();
    for (size_t i = 0; all && i < KS_COUNT(ramps); i++) {
        json_t *one =
            json_pack("{s:o,s:o}", "light", stops_json(ramps[i].light), "dark",
                      stops_json(ramps[i].dark));
        if (json_object_set_new(all, ramps[i].name, one) != 0) {
            json_decref(all);
            return NULL;
        }
    }
    return all;
}
