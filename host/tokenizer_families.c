/* tokenizer_families.c - how the known model families split text.
 *
 * Names are those of GGUF's tokenizer.ggml.pre. Patterns and flags are those
 * of the families' tokenizer.json, to the letter, so that both files of one
 * tokenizer give the same ids and the same hash. */
#include <string.h>

#include "tokenizer.h"

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define BLANKS "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

#define LLAMA3                                                                 \
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"                  \
                 "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" BLANKS
#define QWEN2                                                                  \
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"                       \
                 "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" BLANKS
/* upper, lower: the two halves of a word in camel case */
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define O200K                                                                  \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" CONTRACTIONS "?"              \
    "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" CONTRACTIONS "?"             \
    "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" BLANKS
/* line ends stand as themselves in this one */
#define DEEPSEEK3                                                              \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"                    \
    "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"      \
    "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
#define GPT2                                                                   \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+"        \
    "|\\s+(?!\\S)|\\s+"

const char ks_pattern_gpt2[] = GPT2;

static const ks_family families[] = {
    {.names = " gpt-2 gpt2 mpt phi-2 ", .patterns = {GPT2}},
    {.names = " smollm starcoder refact ", .patterns = {"\\p{N}", GPT2}},
    {.names = " olmo ", .patterns = {GPT2}, .nfc = true},
    {.names = " llama-bpe llama3 llama-v3 ",
     .patterns = {LLAMA3},
     .ignore_merges = true,
     .wants_bos = true},
    {.names = " dbrx smaug-bpe ", .patterns = {LLAMA3}},
    {.names = " qwen2 deepseek-r1-qwen ", .patterns = {QWEN2}, .nfc = true},
    {.names = " deepseek-v3 ",
     .patterns = {"\\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3}},
    {.names = " gpt-4o ", .patterns = {O200K}},
    /* what llama.cpp does for a file that does not say */
    {.names = " default ",
     .patterns = {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+",
                  "[0-9][0-9][0-9]"}},
};

const ks_family *ks_family_find(const char *name, size_t n) {
    char key[64];
    if (n == 0 || n > sizeof(key) - 3 || memchr(name, ' ', n)) return NULL;
    snprintf(key, sizeof(key), " %.*s ", (int)n, name);
    for (size_t i = 0; i < KS_COUNT(families); i++)
        if (strstr(families[i].names, key)) return &families[i];
    return NULL;
}

bool ks_pattern_is_total(const char *pattern) {
    static const char *const total[] = {GPT2, LLAMA3, QWEN2, O200K};
    for (size_t i = 0; i < KS_COUNT(total); i++)
        if (strcmp(pattern, total[i]) == 0) return true;
    return false;
}
