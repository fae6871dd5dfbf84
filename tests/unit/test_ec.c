/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_env.h"

#include <stdlib.h>
#include <string.h>

#include "common/ec.h"

#define LEN 1000 /* not a multiple of anything that vector code likes */
#define SHARDS_MAX (EC_K_MAX + EC_M_MAX)

static uint8_t shards[SHARDS_MAX][LEN], out[EC_M_MAX][LEN];

static struct ec *encode_random(unsigned k, unsigned m)
{
    const void *data[EC_K_MAX];
    void *parity[EC_M_MAX];
    struct ec *ec = ec_new(k, m);
    for (unsigned i = 0; i < k; i++) {
        for (unsigned j = 0; j < LEN; j++)
            shards[i][j] = (uint8_t)rand();
        data[i] = shards[i];
    }
    for (unsigned i = 0; i < m; i++)
        parity[i] = shards[k + i];
    ec_encode(ec, LEN, data, parity);
    return ec;
}

/* Decodes the shards of `lost_mask` from the others (the last k of them, in descending order if asked for). */
static void decode_and_compare(
    struct ec *ec, unsigned k, unsigned m, unsigned lost_mask, bool descending)
{
    unsigned present[EC_K_MAX] = {0}, wanted[EC_M_MAX] = {0}, present_count = 0, wanted_count = 0;
    const void *present_data[EC_K_MAX] = {0};
    void *outputs[EC_M_MAX] = {0};
    for (unsigned n = 0; n < k + m; n++) {
        unsigned shard = descending ? k + m - 1 - n : n;
        if (lost_mask & 1u << shard) {
            outputs[wanted_count] = out[wanted_count];
            wanted[wanted_count++] = shard;
        } else if (present_count < k) {
            present_data[present_count] = shards[shard];
            present[present_count++] = shard;
        }
    }
    memset(out, 0xee, sizeof(out));
    ec_decode(ec, LEN, present, present_data, wanted, wanted_count, outputs);
    for (unsigned i = 0; i < wanted_count; i++)
        assert_memory_equal(out[i], shards[wanted[i]], LEN);
}

static void any_m_losses_are_decoded(void **state)
{
    static const unsigned codes[][2] = {
        {1, 1}, {1, 2}, {1, 4}, {2, 1}, {4, 2}, {5, 3}, {8, 3}, {16, 1}, {16, 4}};
    srand(1);
    for (unsigned c = 0; c < sizeof(codes) / sizeof(codes[0]); c++) {
        unsigned k = codes[c][0], m = codes[c][1];
        struct ec *ec = encode_random(k, m);
        for (unsigned mask = 1; mask < 1u << (k + m); mask++)
            if ((unsigned)__builtin_popcount(mask) <= m)
                decode_and_compare(ec, k, m, mask, mask & 1);
        ec_free(ec);
    }
}

static void cached_tables_serve_alternating_patterns(void **state)
{
    struct ec *ec = encode_random(4, 2);
    for (int round = 0; round < 3; round++)
        for (unsigned a = 0; a < 6; a++)
            for (unsigned b = 0; b < 6; b++) {
                decode_and_compare(ec, 4, 2, 1u << a | 1u << b, false);
                decode_and_compare(ec, 4, 2, 1u << a | 1u << b, true);
            }
    ec_free(ec);
}

static void one_data_shard_means_copies(void **state)
{
    struct ec *ec = encode_random(1, 3);
    for (int i = 1; i <= 3; i++)
        assert_memory_equal(shards[0], shards[i], LEN);
    ec_free(ec);
}

static void no_parity_is_a_code_too(void **state)
{
    struct ec *ec = encode_random(3, 0);
    ec_decode(ec, LEN, NULL, NULL, NULL, 0, NULL);
    ec_free(ec);
}

/* The on-disk format: parity of 4+2 for data bytes 1, 2, 3, 4 (computed by hand from 1/(i xor j) over
 * polynomial 0x11d; if this fails, old volumes have become unreadable). */
static uint8_t gf_mul_slow(uint8_t a, uint8_t b)
{
    uint8_t product = 0;
    for (; b; b >>= 1) {
        if (b & 1)
            product ^= a;
        a = (uint8_t)(a << 1 ^ (a & 0x80 ? 0x1d : 0));
    }
    return product;
}

static void parity_follows_the_documented_matrix(void **state)
{
    static const uint8_t bytes[4] = {1, 2, 3, 4};
    const void *data[4] = {&bytes[0], &bytes[1], &bytes[2], &bytes[3]};
    uint8_t parity_bytes[2];
    void *parity[2] = {&parity_bytes[0], &parity_bytes[1]};
    struct ec *ec = ec_new(4, 2);
    ec_encode(ec, 1, data, parity);
    for (unsigned row = 4; row < 6; row++) {
        uint8_t want = 0;
        for (unsigned column = 0; column < 4; column++)
            for (unsigned inverse = 1; inverse < 256; inverse++)
                if (gf_mul_slow((uint8_t)inverse, (uint8_t)(row ^ column)) == 1)
                    want ^= gf_mul_slow((uint8_t)inverse, bytes[column]);
        assert_int_equal(parity_bytes[row - 4], want);
    }
    ec_free(ec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_m_losses_are_decoded),
        cmocka_unit_test(cached_tables_serve_alternating_patterns),
        cmocka_unit_test(one_data_shard_means_copies),
        cmocka_unit_test(no_parity_is_a_code_too),
        cmocka_unit_test(parity_follows_the_documented_matrix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
