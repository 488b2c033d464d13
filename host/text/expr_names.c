/* expr_names.c - what commands and words of an answer mean. */
#include <string.h>

#include "expr_names.h"

#define SIGN(word, code)                                                       \
    { word, KS_T_SIGN, code }
#define FUNCTION(word, code)                                                   \
    { word, KS_T_FUNCTION, code }
#define SKIP(word)                                                             \
    { word, KS_T_SIGN, KS_S_SKIP }

static const ks__name commands[] = {
    SIGN("le", KS_S_LE),
    SIGN("leq", KS_S_LE),
    SIGN("leqslant", KS_S_LE),
    SIGN("ge", KS_S_GE),
    SIGN("geq", KS_S_GE),
    SIGN("geqslant", KS_S_GE),
    SIGN("lt", '<'),
    SIGN("gt", '>'),
    SIGN("ne", KS_S_NE),
    SIGN("neq", KS_S_NE),
    SIGN("in", KS_S_IN),
    SIGN("approx", KS_S_APPROX),
    SIGN("cup", KS_S_CUP),
    SIGN("cap", KS_S_CAP),
    SIGN("setminus", KS_S_MINUS_SET),
    SIGN("backslash", KS_S_MINUS_SET),
    SIGN("pm", KS_S_PM),
    SIGN("mp", KS_S_MP),
    SIGN("{", KS_S_SET_OPEN),
    SIGN("}", KS_S_SET_CLOSE),
    SIGN("lbrace", KS_S_SET_OPEN),
    SIGN("rbrace", KS_S_SET_CLOSE),
    SIGN("lvert", KS_S_BAR_OPEN),
    SIGN("rvert", KS_S_BAR_CLOSE),
    SIGN("|", '|'),
    SIGN("vert", '|'),
    SIGN("lfloor", KS_S_FLOOR_OPEN),
    SIGN("rfloor", KS_S_FLOOR_CLOSE),
    SIGN("lceil", KS_S_CEIL_OPEN),
    SIGN("rceil", KS_S_CEIL_CLOSE),
    SIGN("langle", KS_S_ANGLE_OPEN),
    SIGN("rangle", KS_S_ANGLE_CLOSE),
    SIGN("lparen", '('),
    SIGN("rparen", ')'),
    SIGN("lbrack", '['),
    SIGN("rbrack", ']'),
    SIGN("frac", KS_S_FRAC),
    SIGN("dfrac", KS_S_FRAC),
    SIGN("tfrac", KS_S_FRAC),
    SIGN("cfrac", KS_S_FRAC),
    SIGN("sqrt", KS_S_SQRT),
    SIGN("cbrt", KS_S_CBRT),
    SIGN("binom", KS_S_BINOM),
    SIGN("dbinom", KS_S_BINOM),
    SIGN("tbinom", KS_S_BINOM),
    SIGN("overline", KS_S_OVERLINE),
    SIGN("bar", KS_S_OVERLINE),
    SIGN("pi", KS_S_PI),
    SIGN("infty", KS_S_INFINITY),
    SIGN("emptyset", KS_S_EMPTY),
    SIGN("varnothing", KS_S_EMPTY),
    SIGN("circ", KS_S_DEGREE),
    SIGN("degree", KS_S_DEGREE),
    SIGN("degrees", KS_S_DEGREE),
    SIGN("$", KS_S_DOLLAR),
    SIGN("euro", KS_S_EURO),
    SIGN("sterling", KS_S_STERLING),
    SIGN("pounds", KS_S_STERLING),
    SIGN("mid", KS_S_MID),
    SIGN("\\", KS_S_ROW),
    SIGN("times", '*'),
    SIGN("cdot", '*'),
    SIGN("div", '/'),
    SIGN("colon", ':'),
    SIGN("%", '%'),
    SIGN("vec", KS_S_ACCENT),
    SIGN("hat", KS_S_ACCENT),
    SIGN("widehat", KS_S_ACCENT),
    SIGN("tilde", KS_S_ACCENT),
    FUNCTION("sin", KS_F_SIN),
    FUNCTION("cos", KS_F_COS),
    FUNCTION("tan", KS_F_TAN),
    FUNCTION("cot", KS_F_COT),
    FUNCTION("sec", KS_F_SEC),
    FUNCTION("csc", KS_F_CSC),
    FUNCTION("arcsin", KS_F_ASIN),
    FUNCTION("arccos", KS_F_ACOS),
    FUNCTION("arctan", KS_F_ATAN),
    FUNCTION("sinh", KS_F_SINH),
    FUNCTION("cosh", KS_F_COSH),
    FUNCTION("tanh", KS_F_TANH),
    FUNCTION("ln", KS_F_LN),
    FUNCTION("log", KS_F_LOG),
    FUNCTION("lg", KS_F_LOG),
    FUNCTION("exp", KS_F_EXP),
    FUNCTION("gcd", KS_F_GCD),
    FUNCTION("lcm", KS_F_LCM),
    FUNCTION("min", KS_F_MIN),
    FUNCTION("max", KS_F_MAX),
    SKIP("left"),
    SKIP("right"),
    SKIP("big"),
    SKIP("Big"),
    SKIP("bigl"),
    SKIP("bigr"),
    SKIP("Bigl"),
    SKIP("Bigr"),
    SKIP("bigg"),
    SKIP("Bigg"),
    SKIP("displaystyle"),
    SKIP("textstyle"),
    SKIP("quad"),
    SKIP("qquad"),
    SKIP(","),
    SKIP(";"),
    SKIP(":"),
    SKIP("!"),
    SKIP(" "),
    SKIP(">"),
    SKIP("limits"),
    SKIP("nolimits"),
    SKIP("rm"),
    SKIP("bf"),
    SKIP("angle"),
    SKIP("operatorname"),
    SKIP("mathbf"),
    SKIP("boldsymbol"),
    SKIP("bm"),
    SKIP("mathit"),
    SKIP("mathsf"),
    SKIP("therefore"),
    SKIP("triangle"),
    SKIP("("),
    SKIP(")"),
};

/* The same in plain text, as whole words. */
static const ks__name words[] = {
    SIGN("pi", KS_S_PI),           SIGN("sqrt", KS_S_SQRT),
    SIGN("cbrt", KS_S_CBRT),       SIGN("infinity", KS_S_INFINITY),
    SIGN("infty", KS_S_INFINITY),  SIGN("inf", KS_S_INFINITY),
    SIGN("oo", KS_S_INFINITY),     FUNCTION("sin", KS_F_SIN),
    FUNCTION("cos", KS_F_COS),     FUNCTION("tan", KS_F_TAN),
    FUNCTION("cot", KS_F_COT),     FUNCTION("sec", KS_F_SEC),
    FUNCTION("csc", KS_F_CSC),     FUNCTION("arcsin", KS_F_ASIN),
    FUNCTION("arccos", KS_F_ACOS), FUNCTION("arctan", KS_F_ATAN),
    FUNCTION("asin", KS_F_ASIN),   FUNCTION("acos", KS_F_ACOS),
    FUNCTION("atan", KS_F_ATAN),   FUNCTION("sinh", KS_F_SINH),
    FUNCTION("cosh", KS_F_COSH),   FUNCTION("tanh", KS_F_TANH),
    FUNCTION("ln", KS_F_LN),       FUNCTION("log", KS_F_LOG),
    FUNCTION("exp", KS_F_EXP),     FUNCTION("abs", KS_F_ABS),
    FUNCTION("floor", KS_F_FLOOR), FUNCTION("ceil", KS_F_CEIL),
    FUNCTION("gcd", KS_F_GCD),     FUNCTION("lcm", KS_F_LCM),
    FUNCTION("min", KS_F_MIN),     FUNCTION("max", KS_F_MAX),
};

static const ks__name *look_up(const ks__name *list, size_t n_list,
                               const char *word, size_t n) {
    for (size_t i = 0; i < n_list; i++) {
        if (strlen(list[i].word) == n && memcmp(list[i].word, word, n) == 0)
            return &list[i];
    }
    return NULL;
}

const ks__name *ks__command_named(const char *word, size_t n) {
    return look_up(commands, KS_COUNT(commands), word, n);
}

const ks__name *ks__word_named(const char *word, size_t n) {
    return look_up(words, KS_COUNT(words), word, n);
}

const char *ks__function_name(ks_function function) {
    static const char *const names[KS_N_FUNCTIONS] = {
        "sin",       "cos",      "tan",    "cot",  "sec",   "csc",
        "arcsin",    "arccos",   "arctan", "sinh", "cosh",  "tanh",
        "ln",        "log",      "exp",    "abs",  "floor", "ceil",
        "factorial", "binomial", "gcd",    "lcm",  "min",   "max",
    };
    return names[function];
}
