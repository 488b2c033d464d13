/* pattern.c - Oniguruma's patterns run by PCRE2.
 *
 * Where the two differ on patterns that tokenizers carry, the source is
 * rewritten before it is compiled:
 *   \s \S \w \W   Unicode White_Space, and Alphabetic + M + Nd + Pc (WORDS);
 *                 PCRE2 counts U+180E as a blank and has a narrower \w
 *   \p{Han} ...   the Script property; PCRE2 takes Script_Extensions
 *   ^ $           at line ends (PCRE2_MULTILINE)
 *   \uHHHH        \x{HHHH}
 * What would silently mean something else is refused: {n,m}+ (Oniguruma
 * repeats, PCRE2 makes it possessive), \h, nested classes and &&, (?m).
 * Oniguruma lets one letter stand for two under (?i) (the ligature st); the
 * contractions of the known tokenizers hold no such pair. Checked over all
 * characters: classes agree but for those that Unicode added after PCRE2's
 * version (14 in PCRE2 10.42, of 2021), which are no letters to it yet.
 */
#include <string.h>

#include "tokenizer.h"

#define SPACES                                                                 \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}"           \
    "\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define WORDS "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
/* Outside of a class, the small digits and fractions of Latin-1 count too. */
#define LATIN1_NUMBERS "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"

/* Backtracking steps of one match; a hostile pattern stops here. */
enum { MATCH_LIMIT = 20 * 1000 * 1000, JIT_STACK = 16 << 20 };

typedef struct reader {
    const char *source, *where;
    size_t n, at;
    bool in_class;
    ks_str out;
} reader;

static ks_status refuse(reader *r, const char *what, ks_err *err) {
    return ks_fail(err, KS_UNSUPPORTED,
                   "%s: pattern has %s at byte %zu, which is not supported",
                   r->where, what, r->at);
}

static ks_status add(reader *r, const char *text, ks_err *err) {
    return ks_str_add(&r->out, text, strlen(text), err);
}

static ks_status copy(reader *r, size_t n, ks_err *err) {
    ks_status st = ks_str_add(&r->out, r->source + r->at, n, err);
    r->at += n;
    return st;
}

static bool looking_at(const reader *r, const char *text) {
    size_t n = strlen(text);
    return r->n - r->at >= n && memcmp(r->source + r->at, text, n) == 0;
}

static bool compiles(const char *pattern) {
    int code;
    PCRE2_SIZE at;
    pcre2_code *p = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                  PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    pcre2_code_free(p);
    return p != NULL;
}

/* \p{Name}: a script is looked up by the Script property. */
static ks_status property(reader *r, ks_err *err) {
    const char *close = memchr(r->source + r->at, '}', r->n - r->at);
    size_t n = close ? (size_t)(close - r->source) - r->at + 1 : 0;
    if (n < 6 || n > 60 || r->source[r->at + 2] != '{') return copy(r, 2, err);
    char name[64], probe[80];
    memcpy(name, r->source + r->at + 3, n - 4);
    name[n - 4] = 0;
    const char *bare = name[0] == '^' ? name + 1 : name;
    snprintf(probe, sizeof(probe), "\\p{sc:%s}", bare);
    if (!compiles(probe)) return copy(r, n, err);
    ks_status st =
        ks_str_printf(&r->out, err, "\\%c{%ssc:%s}", r->source[r->at + 1],
                      bare == name ? "" : "^", bare);
    r->at += n;
    return st;
}

static bool is_hex(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') ||
           (c >= 'A' && c <= 'F');
}

static ks_status escape(reader *r, ks_err *err) {
    if (r->n - r->at < 2) return copy(r, 1, err); /* PCRE2 says what is wrong */
    const char *text = NULL;
    switch (r->source[r->at + 1]) {
    case 's':
        text = r->in_class ? SPACES : "[" SPACES "]";
        break;
    case 'w':
        text = r->in_class ? WORDS : "[" WORDS LATIN1_NUMBERS "]";
        break;
    case 'S':
        text = r->in_class ? NULL : "[^" SPACES "]";
        break;
    case 'W':
        text = r->in_class ? NULL : "[^" WORDS LATIN1_NUMBERS "]";
        break;
    case 'p':
    case 'P':
        return property(r, err);
    case 'h':
    case 'H':
        return refuse(r, "\\h", err);
    case 'u': {
        size_t digits = 0;
        while (digits < 4 && r->at + 2 + digits < r->n &&
               is_hex(r->source[r->at + 2 + digits]))
            digits++;
        if (digits < 4) return refuse(r, "\\u without four digits", err);
        ks_status st =
            ks_str_printf(&r->out, err, "\\x{%.4s}", r->source + r->at + 2);
        r->at += 6;
        return st;
    }
    default:
        break;
    }
    if (!text) return copy(r, 2, err);
    r->at += 2;
    return add(r, text, err);
}

/* {n,m}, or a brace that is just a brace */
static ks_status braces(reader *r, ks_err *err) {
    size_t i = r->at + 1;
    while (i < r->n && ((r->source[i] >= '0' && r->source[i] <= '9') ||
                        r->source[i] == ','))
        i++;
    bool counts = i > r->at + 1 && i < r->n && r->source[i] == '}';
    if (!counts) return copy(r, 1, err);
    if (i + 1 < r->n && r->source[i + 1] == '+')
        return refuse(r, "{n,m}+", err);
    if (r->source[r->at + 1] == ',') { /* {,m} is {0,m} */
        ks_status st = add(r, "{0", err);
        r->at++;
        if (st != KS_OK) return st;
    }
    return copy(r, i + 1 - r->at, err);
}

static ks_status group(reader *r, ks_err *err) {
    if (looking_at(r, "(?m")) return refuse(r, "(?m", err);
    /* Oniguruma ends it at the next |, PCRE2 at the group's end. */
    if (looking_at(r, "(?i)") && r->at > 0)
        return refuse(r, "(?i) that is not at the start", err);
    return copy(r, 1, err);
}

static ks_status in_class(reader *r, ks_err *err) {
    char c = r->source[r->at];
    if (c == '[' && looking_at(r, "[:")) {
        const char *close = memmem(r->source + r->at, r->n - r->at, ":]", 2);
        if (close) return copy(r, (size_t)(close - r->source) - r->at + 2, err);
    }
    if (c == '[') return refuse(r, "a class inside a class", err);
    if (looking_at(r, "&&")) return refuse(r, "&& in a class", err);
    if (c == ']') r->in_class = false;
    return copy(r, 1, err);
}

static ks_status translate(reader *r, ks_err *err) {
    ks_status st = ks_str_add(&r->out, "", 0, err);
    while (st == KS_OK && r->at < r->n) {
        char c = r->source[r->at];
        if (c == '\\') {
            st = escape(r, err);
        } else if (r->in_class) {
            st = in_class(r, err);
        } else if (c == '[') {
            r->in_class = true;
            /* a ] that comes first is a letter */
            size_t n = looking_at(r, "[^]")                         ? 3
                       : looking_at(r, "[]") || looking_at(r, "[^") ? 2
                                                                    : 1;
            st = copy(r, n, err);
        } else if (c == '{') {
            st = braces(r, err);
        } else if (c == '(') {
            st = group(r, err);
        } else {
            st = copy(r, 1, err);
        }
    }
    return st;
}

/* literal text as a pattern, the way `tokenizers` escapes it */
static ks_status escape_literal(reader *r, ks_err *err) {
    ks_status st = ks_str_add(&r->out, "", 0, err);
    while (st == KS_OK && r->at < r->n) {
        char c = r->source[r->at];
        if (c && strchr("\\.+*?()|[]{}^$#&-~", c)) st = add(r, "\\", err);
        if (st == KS_OK) st = copy(r, 1, err);
    }
    return st;
}

static ks_status compile(ks_pattern *out, const ks_str *text, const char *where,
                         ks_err *err) {
    int code;
    PCRE2_SIZE at;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context)
        return ks_fail(err, KS_NOMEM, "%s: no memory for a pattern", where);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    out->code = pcre2_compile((PCRE2_SPTR)text->data, text->length,
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE |
                                  PCRE2_NEVER_BACKSLASH_C,
                              &code, &at, context);
    pcre2_compile_context_free(context);
    if (!out->code) {
        PCRE2_UCHAR message[128] = "";
        pcre2_get_error_message(code, message, sizeof(message));
        return ks_fail(err, KS_FORMAT,
                       "%s: pattern \"%.200s\" is not valid: %s", where,
                       out->source, (const char *)message);
    }
    /* Without the compiler (a system that forbids it) PCRE2 interprets. */
    pcre2_jit_compile(out->code, PCRE2_JIT_COMPLETE);
    return KS_OK;
}

ks_status ks_pattern_open(ks_pattern *out, const char *source, size_t n,
                          bool literal, const char *where, ks_err *err) {
    ks_status st = KS_OK;
    reader r = {.source = source, .n = n, .where = where};
    reader escaped = r;
    *out = (ks_pattern){0};
    if (literal) {
        KS_TRY(escape_literal(&escaped, err));
        r.source = escaped.out.data;
        r.n = escaped.out.length;
    }
    KS_CHECK(!memchr(r.source, 0, r.n), KS_UNSUPPORTED,
             "%s: pattern holds a zero byte", where);
    KS_TRY(ks_alloc(&out->source, r.n + 1, 1, "a pattern", err));
    memcpy(out->source, r.source, r.n);
    KS_TRY(translate(&r, err));
    KS_TRY(compile(out, &r.out, where, err));
done:
    ks_str_free(&r.out);
    ks_str_free(&escaped.out);
    if (st != KS_OK) ks_pattern_close(out);
    return st;
}

void ks_pattern_close(ks_pattern *pattern) {
    free(pattern->source);
    pcre2_code_free(pattern->code);
    *pattern = (ks_pattern){0};
}

/* ------------------------------------------------------------------ matching
 */

ks_status ks_matcher_open(ks_matcher *m, ks_err *err) {
    *m = (ks_matcher){.data = pcre2_match_data_create(1, NULL),
                      .context = pcre2_match_context_create(NULL)};
    if (!m->data || !m->context) {
        ks_matcher_close(m);
        return ks_fail(err, KS_NOMEM, "no memory to match patterns");
    }
    pcre2_set_match_limit(m->context, MATCH_LIMIT);
    ks_matcher_rewind(m);
    return KS_OK;
}

void ks_matcher_close(ks_matcher *m) {
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    pcre2_jit_stack_free(m->stack);
    *m = (ks_matcher){0};
}

void ks_matcher_rewind(ks_matcher *m) {
    m->last_end = -1;
    m->next_start = 0;
}

static int match_at(ks_matcher *m, const ks_pattern *p, const char *text,
                    int32_t n, int32_t at) {
    return pcre2_match(p->code, (PCRE2_SPTR)text, (PCRE2_SIZE)n, (PCRE2_SIZE)at,
                       PCRE2_NO_UTF_CHECK, m->data, m->context);
}

ks_status ks_matcher_next(ks_matcher *m, const ks_pattern *p, const char *text,
                          int32_t n, ks_range *match, bool *found,
                          ks_err *err) {
    *found = false;
    while (m->next_start <= n) {
        int code = match_at(m, p, text, n, m->next_start);
        if (code == PCRE2_ERROR_JIT_STACKLIMIT && !m->stack) {
            /* 32 KiB of the machine's stack come first; most need no more */
            m->stack = pcre2_jit_stack_create(64 << 10, JIT_STACK, NULL);
            pcre2_jit_stack_assign(m->context, NULL, m->stack);
            code = match_at(m, p, text, n, m->next_start);
        }
        if (code == PCRE2_ERROR_NOMATCH) return KS_OK;
        if (code < 0) {
            PCRE2_UCHAR message[128] = "";
            pcre2_get_error_message(code, message, sizeof(message));
            return ks_fail(err, KS_LIMIT,
                           "matching pattern \"%.200s\" gave up on %d bytes "
                           "of text: %s",
                           p->source, n, (const char *)message);
        }
        const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(m->data);
        *match = (ks_range){(int32_t)ends[0], (int32_t)ends[1]};
        /* \K in a lookahead can turn it round */
        if (match->end < match->begin) match->end = match->begin;
        if (match->end == match->begin && match->end == m->last_end) {
            /* an empty match right behind the last one does not count */
            int32_t c;
            m->next_start +=
                m->next_start < n
                    ? ks__utf8_next(text + m->next_start, n - m->next_start, &c)
                    : 1;
            continue;
        }
        m->last_end = m->next_start = match->end;
        *found = true;
        return KS_OK;
    }
    return KS_OK;
}
