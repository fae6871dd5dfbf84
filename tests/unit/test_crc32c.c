/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_env.h"

#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"

static void known_values(void **state)
{
    uint8_t block[32];
    assert_int_equal(crc32c(0, "123456789", 9), 0xE3069283);
    assert_int_equal(crc32c(0, "", 0), 0);
    /* RFC 3720, B.4 (values there are byte-swapped for the wire). */
    memset(block, 0, 32);
    assert_int_equal(crc32c(0, block, 32), 0x8A9136AA);
    memset(block, 0xff, 32);
    assert_int_equal(crc32c(0, block, 32), 0x62A8AB43);
    for (int i = 0; i < 32; i++)
        block[i] = (uint8_t)i;
    assert_int_equal(crc32c(0, block, 32), 0x46DD794E);
}

/* Bit by bit, from the polynomial. */
static uint32_t crc32c_slow(const uint8_t *data, size_t len)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i < len; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (crc & 1 ? 0x82F63B78 : 0);
    }
    return ~crc;
}

static void any_length_alignment_and_split_agree_with_the_definition(void **state)
{
    static uint8_t data[5000];
    srand(7);
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)rand();
    for (int i = 0; i < 200; i++) {
        size_t start = rand() % 64, len = rand() % (sizeof(data) - 64), cut = rand() % (len + 1);
        uint32_t want = crc32c_slow(data + start, len);
        assert_int_equal(crc32c(0, data + start, len), want);
        uint32_t first = crc32c(0, data + start, cut);
        assert_int_equal(crc32c(first, data + start + cut, len - cut), want);
    }
}

/* From the CRCs of its blocks, which lie anywhere, the CRC of the whole. */
static void blocks_known_by_their_crcs_continue_a_crc(void **state)
{
    static uint8_t data[100 + 7 * CRC32C_BLOCK_BYTES];
    struct {
        uint64_t other;
        uint32_t crc;
    } blocks[7];
    srand(8);
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)rand();
    uint32_t head = crc32c(0, data, 100);
    for (unsigned count = 0; count <= 7; count++) {
        for (unsigned i = 0; i < count; i++)
            blocks[i].crc =
                crc32c(0, data + 100 + (size_t)i * CRC32C_BLOCK_BYTES, CRC32C_BLOCK_BYTES);
        size_t len = (size_t)count * CRC32C_BLOCK_BYTES;
        assert_int_equal(crc32c_add_blocks(head, &blocks[0].crc, count, sizeof(blocks[0])),
            crc32c(0, data, 100 + len));
        assert_int_equal(crc32c_add_blocks(0, &blocks[0].crc, count, sizeof(blocks[0])),
            crc32c(0, data + 100, len));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_values),
        cmocka_unit_test(any_length_alignment_and_split_agree_with_the_definition),
        cmocka_unit_test(blocks_known_by_their_crcs_continue_a_crc),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
