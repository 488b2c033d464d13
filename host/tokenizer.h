/* tokenizer.h - inside of the byte-level BPE tokenizer.
 *
 * The way of a text, as the `tokenizers` package goes it:
 *   added tokens that match the text as written are cut out;
 *   what lies between is normalised (normalize.c);
 *   added tokens that match normalised text are cut out;
 *   what lies between is split by the pre-tokenizer's steps (pretokenize.c);
 *   each split is merged to tokens from its bytes up (bpe.c).
 *
 * Offsets: every stage works on a ks_piece, which knows for each of its bytes
 * the bytes of the caller's text that it came from. A token's span runs from
 * the first source byte of its first byte to the last of its last one. Text
 * that no normalizer changed maps byte to byte, so a token that holds a part
 * of a character has the span of just that part.
 *
 * A handle is filled by one of two readers (tokenizer_json.c,
 * tokenizer_gguf.c) through ks__tokenizer_put and friends, sealed by
 * ks__tokenizer_finish, and never changes after that: any number of threads
 * may use it; all that a call writes lives in its own ks_scratch.
 */
#ifndef KS_TOKENIZER_H
#define KS_TOKENIZER_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base.h"

/* An id at or above this is refused before anything is sized by it; the
 * largest vocabularies in use have some 260,000 tokens. */
#define KS_TOKEN_LIMIT (1 << 22)
/* Longest added token in bytes; keeps matching linear in the text. */
#define KS_ADDED_LIMIT 1024

/* Bytes [begin,end). */
typedef struct ks_range {
    int32_t begin, end;
} ks_range;

typedef struct ks_ranges {
    ks_range *at;
    size_t n, capacity;
} ks_ranges;

ks_status ks_ranges_add(ks_ranges *ranges, int32_t begin, int32_t end,
                        ks_err *err);

/* A stretch of (normalised) text. origin, [n]: where each byte came from;
 * NULL: byte i came from byte base + i. Borrows both. */
typedef struct ks_piece {
    const char *text;
    int32_t n, base;
    const ks_range *origin;
} ks_piece;

/* Source bytes of the piece's bytes [begin,end), which is not empty. */
ks_range ks_piece_source(const ks_piece *piece, int32_t begin, int32_t end);

/* A piece under construction; owns its bytes. */
typedef struct ks_draft {
    char *text;
    ks_range *origin;
    size_t n, capacity, origin_capacity;
} ks_draft;

ks_status ks_draft_add(ks_draft *draft, const char *bytes, size_t n,
                       ks_range source, ks_err *err);
/* Bytes of piece [begin,end), each with its own source. */
ks_status ks_draft_copy(ks_draft *draft, const ks_piece *piece, int32_t begin,
                        int32_t end, ks_err *err);
ks_piece ks_draft_piece(const ks_draft *draft);
void ks_draft_free(ks_draft *draft);

/* ------------------------------------------------------ patterns (pattern.c)
 */

typedef struct ks_pattern {
    char *source; /* as the file writes it; literal text is escaped */
    pcre2_code *code;
} ks_pattern;

/* Compiles a pattern written for Oniguruma, which `tokenizers` uses, so that
 * PCRE2 matches the same text; what cannot be carried over is KS_UNSUPPORTED.
 * where leads the sentence. */
ks_status ks_pattern_open(ks_pattern *out, const char *source, size_t n,
                          bool literal, const char *where, ks_err *err);
void ks_pattern_close(ks_pattern *pattern);

/* What matching writes; one a call. */
typedef struct ks_matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    int32_t last_end;   /* end of the last match, -1 before the first */
    int32_t next_start; /* where the next search begins */
} ks_matcher;

ks_status ks_matcher_open(ks_matcher *matcher, ks_err *err);
void ks_matcher_close(ks_matcher *matcher);
void ks_matcher_rewind(ks_matcher *matcher);
/* The next match in text [n], UTF-8 checked before; *found says whether. */
ks_status ks_matcher_next(ks_matcher *matcher, const ks_pattern *pattern,
                          const char *text, int32_t n, ks_range *match,
                          bool *found, ks_err *err);

/* --------------------------------------------------- normalizer (normalize.c)
 */

#define KS_RULE_LIST(X)                                                        \
    X(NFC)                                                                     \
    X(NFD)                                                                     \
    X(NFKC)                                                                    \
    X(NFKD)                                                                    \
    X(LOWERCASE)                                                               \
    X(STRIP)                                                                   \
    X(PREPEND)                                                                 \
    X(REPLACE)

typedef enum ks_rule_type {
#define KS_RULE_ENUM(name) KS_RULE_##name,
    KS_RULE_LIST(KS_RULE_ENUM)
#undef KS_RULE_ENUM
} ks_rule_type;

typedef struct ks_rule {
    ks_rule_type type;
    bool left, right;   /* STRIP: which ends */
    ks_str content;     /* PREPEND, REPLACE: the new text */
    ks_pattern pattern; /* REPLACE: what goes */
} ks_rule;

/* ------------------------------------------- pre-tokenizer (pretokenize.c) */

#define KS_BEHAVIOR_LIST(X)                                                    \
    X(REMOVED, "Removed")                                                      \
    X(ISOLATED, "Isolated")                                                    \
    X(MERGED_WITH_PREVIOUS, "MergedWithPrevious")                              \
    X(MERGED_WITH_NEXT, "MergedWithNext")                                      \
    X(CONTIGUOUS, "Contiguous")

typedef enum ks_behavior {
#define KS_BEHAVIOR_ENUM(name, text) KS_##name,
    KS_BEHAVIOR_LIST(KS_BEHAVIOR_ENUM)
#undef KS_BEHAVIOR_ENUM
} ks_behavior;

const char *ks_behavior_name(ks_behavior behavior);

/* One step splits every split of the step before. */
typedef struct ks_step {
    ks_pattern pattern; /* code NULL: puts a space before each split without */
    ks_behavior behavior;
    bool invert; /* what does not match counts as the match */
} ks_step;

/* The pattern of GPT-2, which the ByteLevel pre-tokenizer has built in. */
extern const char ks_pattern_gpt2[];

/* What GGUF's tokenizer.ggml.pre stands for: the facts of the model family's
 * tokenizer.json that GGUF leaves out. */
typedef struct ks_family {
    const char *names;       /* each between blanks */
    const char *patterns[5]; /* Isolated steps, ended by NULL */
    bool nfc, ignore_merges, wants_bos;
} ks_family;

const ks_family *ks_family_find(const char *name, size_t n);
/* Whether a pattern's matches are known to cover any text. */
bool ks_pattern_is_total(const char *pattern);

/* -------------------------------------------------------------- BPE (bpe.c) */

/* Bytes to id, open addressing; owns the keys. */
typedef struct ks_dict {
    ks_str keys;
    struct ks_dict_slot *slots;
    size_t n, capacity;
} ks_dict;

/* *old is -1, or the id that the key had before; then nothing is added. */
ks_status ks_dict_add(ks_dict *dict, const char *key, size_t n, int32_t id,
                      int32_t *old, ks_err *err);
int32_t ks_dict_find(const ks_dict *dict, const char *key, size_t n);
void ks_dict_free(ks_dict *dict);

typedef struct ks_merge {
    int32_t left, right; /* ids of a pair */
    int32_t rank;        /* lowest goes first; -1: empty slot */
    int32_t id;          /* of the joined token */
} ks_merge;

typedef struct ks_bpe {
    ks_merge *slots; /* [capacity], a power of two */
    size_t n, capacity;
    int32_t byte_id[256]; /* -1: the vocabulary has no token for the byte */
} ks_bpe;

ks_status ks_bpe_add(ks_bpe *bpe, ks_merge merge, ks_err *err);
void ks_bpe_free(ks_bpe *bpe);

typedef struct ks_symbol {
    int32_t id, prev, next; /* neighbours, -1 at the ends */
    int32_t begin, end;     /* bytes; end == begin: merged away */
} ks_symbol;

typedef struct ks_heap_item {
    int32_t rank, at, id;
} ks_heap_item;

/* What one ks_tokenize call writes. */
typedef struct ks_scratch {
    ks_matcher matcher;
    ks_ranges splits[2];
    ks_draft drafts[2]; /* normalizers write to them in turn */
    ks_draft spaced;    /* text with spaces put in by the pre-tokenizer */
    ks_symbol *symbols;
    size_t symbols_capacity;
    ks_heap_item *heap;
    size_t heap_n, heap_capacity;
} ks_scratch;

/* Merges bytes [n] into s->symbols, a chain that starts at the first unless
 * *count, the number of bytes with a token, is 0. A byte without a token is
 * left out, and its neighbours may merge over it: as in `tokenizers`. */
ks_status ks_bpe_merge(const ks_bpe *bpe, const char *bytes, int32_t n,
                       ks_scratch *s, int32_t *count, ks_err *err);

/* ---------------------------------------------- added tokens (added_tokens.c)
 */

typedef struct ks_added {
    ks_str content; /* as written */
    ks_str key;     /* what is looked for: normalised if `normalized` */
    int32_t id;
    bool lstrip, rstrip; /* takes the blanks beside it in */
    bool single_word;    /* not next to a letter, digit, mark or underscore */
    bool normalized;     /* looked for in normalised text */
} ks_added;

/* Tokens looked for together: longest at the leftmost place. */
typedef struct ks_added_set {
    const ks_added **tokens; /* [n], sorted by key */
    size_t n;
    uint32_t first[257]; /* tokens of a first byte: [first[b], first[b + 1]) */
} ks_added_set;

ks_status ks_added_set_open(ks_added_set *set, const ks_added *added, size_t n,
                            bool normalized, ks_err *err);
void ks_added_set_close(ks_added_set *set);
/* The next one at or after *at: its range (blanks taken in, not before
 * `floor`) and *at moved behind it. NULL: none. */
const ks_added *ks_added_next(const ks_added_set *set, const char *text,
                              int32_t n, int32_t *at, int32_t floor,
                              ks_range *range);

/* --------------------------------------------------------------- the handle */

typedef enum ks_token_kind {
    KS_TOKEN_NONE, /* a hole in the ids */
    KS_TOKEN_NORMAL,
    KS_TOKEN_ADDED,
    KS_TOKEN_UNUSED /* GGUF's padding: has an id and a text, never comes out */
} ks_token_kind;

typedef struct ks_token {
    size_t at; /* in bytes */
    uint32_t n;
    ks_token_kind kind;
} ks_token;

struct ks_tokenizer {
    char *path; /* of the file read, for sentences */
    ks_token *tokens;
    size_t n_tokens, tokens_capacity;
    ks_str bytes;     /* of all tokens */
    ks_dict names;    /* vocabulary as the file writes it; gone after finish */
    ks_dict words;    /* bytes to id, of the normal tokens; for ignore_merges */
    ks_merge *merges; /* [n_merges] in the file's order */
    size_t n_merges, merges_capacity;
    ks_bpe bpe;
    ks_rule *rules;
    size_t n_rules, rules_capacity;
    ks_step *steps;
    size_t n_steps, steps_capacity;
    ks_added *added;
    size_t n_added, added_capacity;
    ks_added_set as_written, in_normalised;
    bool ignore_merges; /* a split that is a token is not merged up to it */
    bool needs_bytes;   /* unknown bytes mean what is not done here */
    bool wants_bos;
    int32_t bos;
    char hash[65];
};

/* A normal token named by the file in the byte alphabet, or GGUF's padding.
 * An id or name that is there already is an error. */
ks_status ks__tokenizer_put(ks_tokenizer *t, int64_t id, const char *name,
                            size_t n, ks_token_kind kind, ks_err *err);
/* An added token; may name a token of the vocabulary, with the same id. */
ks_status ks__tokenizer_put_added(ks_tokenizer *t, ks_added *added,
                                  ks_err *err);
/* The pair of names as merge n_merges. */
ks_status ks__tokenizer_put_merge(ks_tokenizer *t, const char *left,
                                  size_t n_left, const char *right,
                                  size_t n_right, ks_err *err);
/* "left right" */
ks_status ks__tokenizer_put_merge_line(ks_tokenizer *t, const char *line,
                                       size_t n, ks_err *err);
ks_status ks__tokenizer_put_step(ks_tokenizer *t, const char *pattern, size_t n,
                                 bool literal, ks_behavior behavior,
                                 bool invert, ks_err *err);
ks_status ks__tokenizer_put_rule(ks_tokenizer *t, ks_rule *rule, ks_err *err);

/* Checks that the parts fit, and seals the handle. */
ks_status ks__tokenizer_finish(ks_tokenizer *t, ks_err *err);

ks_status ks__tokenizer_read_json(ks_tokenizer *t, const char *path,
                                  ks_err *err);
ks_status ks__tokenizer_read_gguf(ks_tokenizer *t, const char *path,
                                  ks_err *err);
/* tokenizer_config.json beside path, if there: which token is the BOS. */
ks_status ks__tokenizer_read_config(ks_tokenizer *t, const char *path,
                                    ks_err *err);

/* Whether a text of this model begins with the BOS when its own tokenizer
 * prepares it (post-processor, or add_bos_token). Nothing here adds it. */
bool ks_tokenizer_wants_bos(const ks_tokenizer *tokenizer);

/* Applies the rules; the result lies in s or is the piece itself. */
ks_status ks__normalize(const ks_rule *rules, size_t n_rules,
                        const ks_piece *in, ks_scratch *s, ks_piece *out,
                        ks_err *err);
/* Applies the steps; the splits are s->splits[0], of *piece, which moves to
 * s when a step changes the text. */
ks_status ks__pretokenize(const ks_step *steps, size_t n_steps, ks_piece *piece,
                          ks_scratch *s, ks_err *err);

/* Reads one character of checked UTF-8; n > 0. Returns its bytes. */
int32_t ks__utf8_next(const char *text, int32_t n, int32_t *character);
bool ks__is_blank(int32_t character); /* Unicode White_Space */

#endif
