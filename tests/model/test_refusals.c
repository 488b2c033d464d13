/* Models that do not fit: each a sentence that names the file, what was
 * expected and what was found; and bytes flipped at random, which may open or
 * not but never read outside (run under the address sanitizer). */
#include "files.h"

#include "config.h"
#include "philox.h"
#include "safetensors.h"

#define DATA KS_TEST_DATA "/model/"

TestSuite(refusals, .init = files_begin, .fini = files_end);
TestSuite(fuzz, .init = files_begin, .fini = files_end, .timeout = 120);

static char *slurp(const char *path, size_t *n) {
    char *text;
    ks_err err = {0};
    cr_assert(eq(int, ks_read_file(path, SIZE_MAX, &text, n, &err), 0), "%s",
              err.text);
    return text;
}

/* A golden file into the test's folder, `from` replaced by `to` wherever it
 * is (once at least); from NULL: as it is. */
static const char *edited(const char *golden, const char *name,
                          const char *from, const char *to) {
    char path[256];
    size_t n;
    ks_err err;
    ks_str out = {0};
    snprintf(path, sizeof path, DATA "%s", golden);
    char *text = slurp(path, &n), *at = text, *hit;
    while (from &&
           (hit = memmem(at, n - (size_t)(at - text), from, strlen(from)))) {
        ks_str_add(&out, at, (size_t)(hit - at), &err);
        ks_str_add(&out, to, strlen(to), &err);
        at = hit + strlen(from);
    }
    cr_assert(from == NULL || out.length, "%s is not in %s", from, golden);
    ks_str_add(&out, at, n - (size_t)(at - text), &err);
    const char *written = file_write(name, out.data, out.length);
    ks_str_free(&out);
    free(text);
    return written;
}

static void refused(const char *path, ks_status status, const char *file,
                    const char *words) {
    ks_model *m = (ks_model *)1;
    ks_err err = {0};
    cr_expect(eq(int, ks_model_open(&m, path, &err), status), "%s: %s", words,
              err.text);
    cr_expect(says(&err, file, words));
    cr_expect(m == NULL);
}

/* The golden llama with one edit of its config or, of equal length, of its
 * weights' header. */
static void refused_config(const char *from, const char *to, ks_status status,
                           const char *words) {
    edited("llama/model.safetensors", "model.safetensors", NULL, NULL);
    const char *path = edited("llama/config.json", "config.json", from, to);
    refused(files_dir, status, path, words);
}

static void refused_weights(const char *from, const char *to, ks_status status,
                            const char *words) {
    cr_assert(eq(sz, strlen(from), strlen(to)));
    edited("llama/config.json", "config.json", NULL, NULL);
    const char *path =
        edited("llama/model.safetensors", "model.safetensors", from, to);
    refused(files_dir, status, path, words);
}

Test(refusals, no_model_at_all) {
    refused(file_path("none"), KS_IO, "/none", "no such model");
    refused(files_dir, KS_IO, files_dir, "there is no config.json in it");
    const char *path = file_text("model.txt", "hello");
    refused(path, KS_FORMAT, path, "not a model: expected a GGUF file");
    path = file_text("a.gguf", "hello");
    refused(path, KS_FORMAT, path, "does not begin with 'GGUF'");
    path = file_text("a.safetensors", "");
    refused(path, KS_IO, path, "there is no config.json beside it");
    edited("llama/config.json", "config.json", NULL, NULL);
    refused(files_dir, KS_IO, files_dir, "neither model.safetensors nor");
}

Test(refusals, configs) {
    refused_config("\"model_type\": \"llama\"", "\"model_type\": \"mamba\"",
                   KS_UNSUPPORTED, "architecture \"mamba\" is not supported");
    refused_config("\"model_type\"", "\"other\"", KS_FORMAT,
                   "\"model_type\" is missing");
    refused_config("\"vocab_size\"", "\"other\"", KS_FORMAT,
                   "\"vocab_size\" is missing");
    refused_config("\"vocab_size\": 12", "\"vocab_size\": \"12\"", KS_FORMAT,
                   "\"vocab_size\" is no integer");
    refused_config("\"hidden_size\": 8", "\"hidden_size\": -8", KS_FORMAT,
                   "\"hidden_size\" is no integer");
    refused_config("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 257",
                   KS_LIMIT, "is 257, expected 1 to 256");
    refused_config("\"num_hidden_layers\": 2",
                   "\"num_hidden_layers\": 99999999999", KS_FORMAT,
                   "\"num_hidden_layers\" is no integer from 0");
    refused_config("\"num_attention_heads\": 2", "\"num_attention_heads\": 0",
                   KS_FORMAT, "\"num_attention_heads\" is 0");
    refused_config("\"num_key_value_heads\": 1", "\"num_key_value_heads\": 4",
                   KS_LIMIT, "key-value heads is 4, expected 1 to 2");
    refused_config("\"num_attention_heads\": 2,",
                   "\"num_attention_heads\": 3, \"num_key_value_heads\": 2,",
                   KS_FORMAT, "duplicate");
    refused_config("\"head_dim\": 8", "\"head_dim\": 7", KS_FORMAT,
                   "the head size is 7, expected an even number");
    refused_config("\"head_dim\": 8", "\"head_dim\": 512", KS_LIMIT,
                   "the head size is 512, expected 2 to 256");
    refused_config("\"rms_norm_eps\": 1e-06", "\"rms_norm_eps\": 0", KS_FORMAT,
                   "epsilon is 0");
    refused_config("\"hidden_act\": \"silu\"", "\"hidden_act\": \"relu\"",
                   KS_UNSUPPORTED, "activation \"relu\" is not supported");
    refused_config("\"mlp_bias\": false", "\"mlp_bias\": true", KS_UNSUPPORTED,
                   "\"mlp_bias\" is true");
    refused_config("\"mlp_bias\": false", "\"num_local_experts\": 8",
                   KS_UNSUPPORTED, "a mixture of 8 experts");
    refused_config("\"mlp_bias\": false", "\"quantization_config\": {}",
                   KS_UNSUPPORTED, "\"quantization_config\"");
    refused_config("\"tie_word_embeddings\": false",
                   "\"tie_word_embeddings\": 3", KS_FORMAT,
                   "\"tie_word_embeddings\" is neither true nor false");
    refused_config("{", "[", KS_FORMAT, "not JSON");
}

Test(refusals, rope) {
    refused_config("\"llama3\"", "\"longrope\"", KS_UNSUPPORTED,
                   "rope scaling \"longrope\" is not supported");
    refused_config("\"llama3\"", "\"dynamic\"", KS_UNSUPPORTED,
                   "rope scaling \"dynamic\" is not supported");
    refused_config("\"llama3\"", "7", KS_FORMAT, "\"rope_type\" is no string");
    refused_config("\"factor\": 8.0", "\"factor\": -1", KS_FORMAT,
                   "rope scaling factor is -1");
    refused_config("\"factor\": 8.0", "\"partial_rotary_factor\": 0.5",
                   KS_UNSUPPORTED, "\"partial_rotary_factor\" is 0.5");
    refused_config("\"low_freq_factor\": 1.0", "\"low_freq_factor\": 4.0",
                   KS_FORMAT, "expected positive numbers, the second above");
    refused_config("\"rope_theta\": 500000.0", "\"rope_theta\": 1e999",
                   KS_FORMAT, "not JSON");
    refused_config("\"rope_theta\": 500000.0", "\"rope_theta\": 1e300",
                   KS_FORMAT, "\"rope_theta\" is no finite number");
    refused_config("\"rope_theta\": 500000.0", "\"rope_theta\": 0.5", KS_FORMAT,
                   "rope theta is 0.5, expected more than 1");
    edited("qwen2/model.safetensors", "model.safetensors", NULL, NULL);
    const char *path = edited("qwen2/config.json", "config.json",
                              "\"full_attention\"", "\"linear_attention\"");
    refused(files_dir, KS_UNSUPPORTED, path, "layer 0 \"linear_attention\"");
    edited("qwen2/config.json", "config.json", "\"use_sliding_window\": true",
           "\"use_sliding_window\": false");
    refused(files_dir, KS_FORMAT, path, "layer 1 has sliding attention, but");
    edited("qwen2/config.json", "config.json", "\"full_attention\",", "");
    refused(files_dir, KS_FORMAT, path, "no list of 2 layers");
}

Test(refusals, weights) {
    refused_weights("model.layers.1.mlp.up_proj.weight",
                    "model.layers.1.mlp.xx_proj.weight", KS_FORMAT,
                    "tensor 'model.layers.1.mlp.up_proj.weight' is missing, "
                    "expected [12 x 8]");
    refused_weights("lm_head.weight", "lm_hand.weight", KS_FORMAT,
                    "tensor 'lm_head.weight' is missing, expected [12 x 8]");
    refused_weights("\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":[8]",
                    "\"model.norm.weight\":{\"dtype\":\"I32\",\"shape\":[8]",
                    KS_FORMAT, "'model.norm.weight' is of type I32, expected");
    refused_weights("\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":[8]",
                    "\"model.norm.weight\":{\"dtype\":\"F64\",\"shape\":[4]",
                    KS_FORMAT, "has shape [4], expected [8]");
    refused_weights("[12,8]", "[8,12]", KS_FORMAT,
                    "has shape [8 x 12], expected [12 x 8]");
    refused_weights("[12,8]", "[96]  ", KS_FORMAT,
                    "has shape [96], expected [12 x 8]");
    edited("llama/config.json", "config.json", "\"intermediate_size\": 12",
           "\"intermediate_size\": 13");
    const char *path =
        edited("llama/model.safetensors", "model.safetensors", NULL, NULL);
    refused(files_dir, KS_FORMAT, path,
            "mlp.gate_proj.weight' has shape [12 x 8], expected [13 x 8]");
}

/* What the model does not use is counted, not refused. */
Test(refusals, strange_tensors_are_counted) {
    edited("llama/config.json", "config.json", "\"attention_bias\": true",
           "\"attention_bias\": false");
    edited("llama/model.safetensors", "model.safetensors", NULL, NULL);
    ks_model *m;
    ks_err err;
    cr_assert(eq(int, ks_model_open(&m, files_dir, &err), 0), "%s", err.text);
    cr_expect(eq(int, m->n_ignored, 2 * 4)); /* the biases */
    cr_expect(m->weights.layers[0].bq == NULL);
    ks_model_close(&m);
}

/* Puts a NaN, and moves the data off its alignment by a longer header. */
Test(refusals, numbers) {
    ks_safetensors *s;
    ks_err err;
    size_t n;
    const char *golden = DATA "llama/model.safetensors";
    cr_assert(eq(int, ks_safetensors_open(&s, golden, &err), 0));
    const ks_st_tensor *t =
        ks_safetensors_find(s, "model.layers.1.input_layernorm.weight");
    char *text = slurp(golden, &n);
    char *at = memmem(text, n, t->data, t->size);
    cr_assert(at != NULL);
    float nan = NAN;
    memcpy(at + 8, &nan, 4);
    edited("llama/config.json", "config.json", NULL, NULL);
    const char *path = file_write("model.safetensors", text, n);
    refused(files_dir, KS_NUMERIC, path,
            "'model.layers.1.input_layernorm.weight' has nan at place 2");
    ks_safetensors_close(&s);
    free(text);
}

Test(refusals, unaligned_weights_are_copied) {
    ks_model *m, *want;
    ks_err err;
    size_t n;
    char *text = slurp(DATA "llama/model.safetensors", &n);
    uint64_t header;
    memcpy(&header, text, 8);
    char *moved = malloc(n + 1); /* a blank more behind the header */
    memcpy(moved, text, 8 + header);
    moved[8 + header] = ' ';
    memcpy(moved + 9 + header, text + 8 + header, n - 8 - header);
    header++;
    memcpy(moved, &header, 8);
    edited("llama/config.json", "config.json", NULL, NULL);
    file_write("model.safetensors", moved, n + 1);
    cr_assert(eq(int, ks_model_open(&m, files_dir, &err), 0), "%s", err.text);
    cr_assert(eq(int, ks_model_open(&want, DATA "llama", &err), 0));
    ks_weight a = m->weights.layers[1].w_down,
              b = want->weights.layers[1].w_down;
    cr_expect(eq(u64, (uintptr_t)a.data % 4, 0));
    cr_expect(memcmp(a.data, b.data, (size_t)(a.rows * a.cols) * 4) == 0);
    ks_model_close(&m);
    ks_model_close(&want);
    free(text);
    free(moved);
}

static void refused_gguf(const char *from, const char *to, ks_status status,
                         const char *words) {
    cr_assert(eq(sz, strlen(from), strlen(to)));
    const char *path = edited("llama.gguf", "m.gguf", from, to);
    refused(path, status, path, words);
}

Test(refusals, gguf_models) {
    refused_gguf("llama.block_count", "llama.block_xxxxx", KS_FORMAT,
                 "metadata 'llama.block_count' is missing");
    refused_gguf("general.architecture", "general.architextura", KS_FORMAT,
                 "'general.architecture' is missing");
    refused_gguf("blk.1.ffn_up.weight", "blk.1.ffn_xx.weight", KS_FORMAT,
                 "'blk.1.ffn_up.weight' is missing, expected [12 x 8]");
    const char *path = edited("qwen3.gguf", "q.gguf", "linear", "dynami");
    refused(path, KS_UNSUPPORTED, path, "'dynami', which is not supported");
    path = edited("qwen3.gguf", "q.gguf", "qwen3", "qwem3");
    refused(path, KS_UNSUPPORTED, path,
            "the architecture 'qwem3' is not supported");
    path = file_path("cut.gguf");
    size_t n;
    char *text = slurp(DATA "qwen2.gguf", &n);
    for (size_t cut = 0; cut + 32 < n; cut += 7) {
        ks_model *m = NULL;
        ks_err err = {0};
        file_write("cut.gguf", text, cut);
        cr_assert(eq(int, ks_model_open(&m, path, &err), KS_FORMAT), "%zu",
                  cut);
        cr_assert(strstr(err.text, path) != NULL);
    }
    free(text);
}

/* -------------------------------------------------------------------- fuzz */

/* Every weight of an opened model can be read. */
static void read_all(const ks_model *m) {
    volatile float sink = 0;
    float row[64];
    for (int32_t l = 0; l < m->config.n_layers; l++) {
        const ks_layer *y = &m->weights.layers[l];
        const ks_weight w[] = {y->wq,     y->wk,   y->wv,    y->wo,
                               y->w_gate, y->w_up, y->w_down};
        for (size_t i = 0; i < KS_COUNT(w); i++) {
            if (w[i].cols > 64) continue;
            ks_dequantize(w[i].type,
                          (const char *)w[i].data +
                              (size_t)(w[i].rows - 1) *
                                  ks_type_row_bytes(w[i].type, w[i].cols),
                          row, w[i].cols);
            sink = sink + row[0];
        }
    }
}

/* Flips 1 to 4 bytes in the first `window` ones, opens `path`, again. */
static void flip(const char *golden, const char *name, const char *path,
                 size_t window, int rounds, uint64_t stream) {
    size_t n;
    char *text = slurp(golden, &n), *copy = malloc(n);
    int opened = 0;
    window = KS_MIN(window, n);
    for (int i = 0; i < rounds; i++) {
        uint32_t words[4];
        const uint64_t key[2] = {20261124, stream};
        memcpy(copy, text, n);
        ks_philox(key, (uint64_t)i, words);
        for (uint32_t k = 0; k <= words[3] % 4; k++) {
            uint32_t w = words[k % 3] >> (k / 3);
            copy[w % window] ^= (char)(1u << (w >> 20) % 8);
            if (w >> 28 == 0) copy[w % window] = (char)0xff;
        }
        file_write(name, copy, n);
        ks_model *m = NULL;
        ks_err err = {0};
        ks_status st = ks_model_open(&m, path, &err);
        if (st == KS_OK) {
            opened++;
            read_all(m);
            ks_model_close(&m);
        } else {
            cr_assert(m == NULL && strstr(err.text, files_dir), "%s: %s",
                      ks_status_text(st), err.text);
            cr_assert(eq(int, err.code, st));
        }
    }
    cr_assert(opened < rounds, "%s: nothing was refused", golden);
    free(text);
    free(copy);
}

enum { ROUNDS = 600 };

Test(fuzz, gguf) {
    const char *path = file_path("f.gguf");
    flip(DATA "llama.gguf", "f.gguf", path, 2600, ROUNDS, 1);
    flip(DATA "gemma3.gguf", "f.gguf", path, 3500, ROUNDS, 2);
}

Test(fuzz, quantised_gguf) {
    const char *path = file_path("f.gguf");
    flip(DATA "quants.gguf", "f.gguf", path, 1700, ROUNDS, 3);
}

Test(fuzz, safetensors) {
    edited("gemma3/config.json", "config.json", NULL, NULL);
    flip(DATA "gemma3/model.safetensors", "model.safetensors", files_dir, 4500,
         ROUNDS, 4);
}

Test(fuzz, config) {
    edited("olmo3/model.safetensors", "model.safetensors", NULL, NULL);
    flip(DATA "olmo3/config.json", "config.json", files_dir, 4096, ROUNDS, 5);
}

Test(fuzz, index) {
    char name[64];
    edited("sharded/config.json", "config.json", NULL, NULL);
    for (int i = 1; i <= 4; i++) {
        char golden[96];
        snprintf(name, sizeof name, "model-%05d-of-00004.safetensors", i);
        snprintf(golden, sizeof golden, "sharded/%s", name);
        edited(golden, name, NULL, NULL);
    }
    flip(DATA "sharded/model.safetensors.index.json",
         "model.safetensors.index.json", files_dir, 4096, ROUNDS, 6);
}
