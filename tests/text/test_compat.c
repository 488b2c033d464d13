/* The published normal form against an independent reference. */
#include "golden.h"
#include "text/compat.h"

Test(compat, normal_form) {
    json_t *root, *list = golden("normal", &root), *item;
    size_t i;
    json_array_foreach(list, i, item) {
        ks_str got = {0};
        ks_err err = {0};
        size_t n, m;
        const char *text = string_at(item, 0, &n);
        const char *expected = string_at(item, 1, &m);
        cr_assert(ks__compat_normal(text, n, &got, &err) == KS_OK);
        cr_expect(got.length == m && memcmp(got.data, expected, m) == 0,
                  "'%s': got '%s', expected '%s'", text, got.data, expected);
        ks_str_free(&got);
    }
    json_decref(root);
}

static double number(const char *text, bool *found) {
    double value = 0;
    ks_err err = {0};
    cr_assert(ks__compat_number(text, strlen(text), &value, found, &err) ==
                  KS_OK,
              "%s", err.text);
    return value;
}

Test(compat, numbers) {
    static const struct {
        const char *text;
        double value;
    } cases[] = {
        {"5", 5},
        {"-5", -5},
        {"{-}5", -5},
        {"5.25", 5.25},
        {".5", 0.5},
        {"1,234", 1234},
        {"$12$", 12},
        {"1.5e3", 1500},
        {"3 million", 3e6},
        {"2 hundred", 200},
        {"1.5 billion", 1.5e9},
        {"2 thousand", 2000},
        {"4 trillion", 4e12},
        {"5 cm", 5},
        {"5\\text{ cm}", 5},
        {"5 feet", 5},
        {"20 mph", 20},
        {"is 7", 7},
        {"approximately 7", 7},
        {"=7", 7},
        {"3 o'clock", 3},
        {"0.\\overline{3}", 1.0 / 3},
        {"1.2\\overline{34}", 1.2 + 34.0 / 990},
        {"2\\frac{1}{2}", 2.5},
        {"-2\\frac{1}{2}", -2.5},
        {"\\frac{3}{4}", 0.75},
        {"-\\frac{3}{4}", -0.75},
        {"\\dfrac{3}{4}", 0.75},
        {"3/4", 0.75},
        {"-3/4", -0.75},
        {"3:4", 0.75},
        {"2^3", 8},
        {"2^{-1}", 0.5},
        {"1\\,000", 1000},
    };
    for (size_t i = 0; i < KS_COUNT(cases); i++) {
        bool found;
        double value = number(cases[i].text, &found);
        cr_expect(found, "%s", cases[i].text);
        double off = value - cases[i].value;
        cr_expect(off < 1e-9 && off > -1e-9, "%s: %g", cases[i].text, value);
    }
    static const char *const none[] = {
        "", "x", "1/0", "\\frac{1}{0}", "3:0", "2\\frac{1}{0}", "1 2 x", "--5"};
    for (size_t i = 0; i < KS_COUNT(none); i++) {
        bool found;
        number(none[i], &found);
        cr_expect_not(found, "%s", none[i]);
    }
}
