/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "blockd/disk/trailer.h"

static struct trailer example(void)
{
    struct trailer trailer = {
        .key = {.volume = 1, .chunk = 2, .index = 3},
        .kind = SHARD_META,
        .code = {.k = 1, .m = 3},
        .nonce = 99,
        .first_block = 248,
        .length_blocks = 300,
        .entry_count = 52,
    };
    memset(&trailer.cluster, 9, sizeof(trailer.cluster));
    return trailer;
}

static void build(uint8_t *block, const struct trailer *trailer)
{
    struct shard_entry entries[TRAILER_ENTRIES];
    for (unsigned i = 0; i < TRAILER_ENTRIES; i++)
        entries[i] = (struct shard_entry){.address = i, .crc = i + 1, .aux = i + 2};
    trailer_build(block, trailer, entries);
}

static void test_what_is_built_parses_to_the_same(void **state)
{
    struct trailer trailer = example(), out;
    uint8_t block[BLOCK_BYTES];
    build(block, &trailer);
    assert_int_equal(trailer_parse(block, &out), 0);
    assert_true(trailer_matches(&out, &trailer));
    for (unsigned i = 0; i < 52; i++)
        assert_int_equal(trailer_entry(block, i).crc, i + 1);
    trailer.nonce++;
    assert_false(trailer_matches(&out, &trailer));
    trailer = example();
    trailer.key.chunk++;
    assert_false(trailer_matches(&out, &trailer));
    trailer = example();
    trailer.cluster.bytes[15]++;
    assert_false(trailer_matches(&out, &trailer));
}

static void test_every_flipped_bit_is_seen(void **state)
{
    struct trailer trailer = example(), out;
    uint8_t block[BLOCK_BYTES];
    build(block, &trailer);
    for (unsigned bit = 0; bit < BLOCK_BYTES * 8; bit++) {
        block[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        assert_int_equal(trailer_parse(block, &out), -EBADMSG);
        block[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_built_parses_to_the_same),
        cmocka_unit_test(test_every_flipped_bit_is_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
