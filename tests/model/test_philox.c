/* Philox4x32-10 against the known answers that come with Random123
 * (examples/kat_vectors), and its uniforms. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "philox.h"

Test(philox, known_answers) {
    static const struct {
        uint32_t counter[4], key[2], want[4];
    } cases[] = {
        {{0, 0, 0, 0},
         {0, 0},
         {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (int i = 0; i < 3; i++) {
        uint32_t got[4];
        ks_philox4x32(cases[i].counter, cases[i].key, got);
        for (int k = 0; k < 4; k++)
            cr_expect(eq(u32, got[k], cases[i].want[k]));
    }
}

/* Which half of a 64-bit number goes where: curand's layout. */
Test(philox, words_of_key_and_counter) {
    const uint32_t counter[4] = {0x85a308d3, 0x243f6a88, 0x03707344,
                                 0x13198a2e};
    const uint32_t key[2] = {0x299f31d0, 0xa4093822};
    const uint64_t wide[2] = {0xa4093822299f31d0, 0x13198a2e03707344};
    uint32_t a[4], b[4];
    ks_philox4x32(counter, key, a);
    ks_philox(wide, 0x243f6a8885a308d3, b);
    for (int k = 0; k < 4; k++) cr_expect(eq(u32, a[k], b[k]));
}

Test(philox, uniforms) {
    cr_expect(eq(flt, ks_philox_unit(0), 0));
    cr_expect(lt(flt, ks_philox_unit(0xffffffff), 1));
    const uint64_t key[2] = {1, 2};
    double sum = 0, squares = 0;
    int n = 1 << 16;
    for (int i = 0; i < n; i++) {
        uint32_t words[4];
        ks_philox(key, (uint64_t)i, words);
        for (int k = 0; k < 4; k++) {
            double u = (double)ks_philox_unit(words[k]);
            sum += u;
            squares += u * u;
        }
    }
    double mean = sum / (4 * n), var = squares / (4 * n) - mean * mean;
    cr_expect(epsilon_eq(dbl, mean, 0.5, 4 * 0.2887 / 512));
    cr_expect(epsilon_eq(dbl, var, 1 / 12.0, 1e-3));
}
