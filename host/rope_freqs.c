/* rope_freqs.c - rotation frequencies with their scalings, computed once at
 * open. The arithmetic is f32 in the order of transformers 5's
 * modeling_rope_utils.py, since at position t an error of one unit in the last
 * place of a frequency becomes t of them in the angle.
 */
#include "config.h"

#include <math.h>

/* Linear position interpolation: Chen et al., arXiv 2306.15595. */
static void scale_linear(const ks_rope_config *r, int32_t n, float *f) {
    for (int32_t i = 0; i < n; i++) f[i] /= r->factor;
}

/* Llama 3.1: long wavelengths divided, short ones kept, smooth between. */
static void scale_llama3(const ks_rope_config *r, int32_t n, float *f) {
    float context = (float)r->original_context;
    float longest = context / r->low_freq_factor;
    float shortest = context / r->high_freq_factor;
    for (int32_t i = 0; i < n; i++) {
        float wavelength = (float)(2 * M_PI) / f[i];
        if (wavelength > longest) {
            f[i] /= r->factor;
        } else if (wavelength >= shortest) {
            float smooth = (context / wavelength - r->low_freq_factor) /
                           (r->high_freq_factor - r->low_freq_factor);
            f[i] = (1 - smooth) * f[i] / r->factor + smooth * f[i];
        }
    }
}

/* The dimension whose wavelength makes `turns` rotations in the original
 * context (YaRN, arXiv 2309.00071, section 3.2). */
static double yarn_dimension(const ks_rope_config *r, int32_t dim,
                             double turns) {
    return dim * log(r->original_context / (turns * 2 * M_PI)) /
           (2 * log((double)r->theta));
}

static void scale_yarn(const ks_rope_config *r, int32_t n, float *f) {
    int32_t dim = 2 * n;
    double low = yarn_dimension(r, dim, (double)r->beta_fast);
    double high = yarn_dimension(r, dim, (double)r->beta_slow);
    if (r->truncate) low = floor(low), high = ceil(high);
    low = fmax(low, 0);
    high = fmin(high, dim - 1);
    if (low == high) high += 0.001;
    for (int32_t i = 0; i < n; i++) {
        float ramp = ((float)i - (float)low) / (float)(high - low);
        float keep = 1 - fminf(fmaxf(ramp, 0), 1);
        float period = powf(r->theta, (float)(2 * i) / (float)dim);
        f[i] = 1 / (r->factor * period) * (1 - keep) + f[i] * keep;
    }
}

void ks_rope_frequencies(const ks_rope_config *r, int32_t head_dim,
                         const float *factors, float *inv_freq, float *scale) {
    int32_t n = head_dim / 2;
    *scale = 1;
    for (int32_t i = 0; i < n; i++)
        inv_freq[i] = 1 / powf(r->theta, (float)(2 * i) / (float)head_dim);
    switch (r->kind) {
    case KS_ROPE_NONE:
        break;
    case KS_ROPE_LINEAR:
        scale_linear(r, n, inv_freq);
        break;
    case KS_ROPE_LLAMA3:
        scale_llama3(r, n, inv_freq);
        break;
    case KS_ROPE_YARN:
        scale_yarn(r, n, inv_freq);
        *scale = r->attention_factor;
        break;
    case KS_ROPE_FACTORS:
        for (int32_t i = 0; i < n; i++) inv_freq[i] /= factors[i];
        break;
    }
}
