/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "blockd/disk/append_header.h"

static struct append_header example(unsigned entry_count, unsigned inline_len)
{
    struct append_header header = {
        .key = {.volume = 0x1122334455667788, .chunk = 0x99aabbccddeeff00, .index = 5},
        .kind = SHARD_DATA,
        .code = {.k = 4, .m = 2},
        .epoch = 77,
        .append_no = 3,
        .off_blocks = 200,
        .nonce = 0xfeedfacecafebeef,
        .prev_header_crc = 0x12345678,
        .base_seq = 1ull << 60,
        .entry_count = entry_count,
        .inline_len_bytes = inline_len,
        .completed_blocks = 200,
        .durable_blocks = 100,
    };
    memset(&header.cluster, 0xc1, sizeof(header.cluster));
    return header;
}

static void build(uint8_t *block, struct append_header *header)
{
    struct shard_entry entries[APPEND_ENTRIES_MAX];
    char inline_bytes[APPEND_BODY_BYTES];
    for (unsigned i = 0; i < APPEND_ENTRIES_MAX; i++)
        entries[i] = (struct shard_entry){.address = i * 3ull << 40, .crc = i * 7, .aux = ~i};
    memset(inline_bytes, 'x', sizeof(inline_bytes));
    memset(block, 0xee, BLOCK_BYTES);
    append_header_build(block, header, entries, inline_bytes);
}

static void test_what_is_built_parses_to_the_same(void **state)
{
    static const unsigned shapes[][2] = {
        {0, 0}, {1, 0}, {0, APPEND_BODY_BYTES}, {248, 0}, {100, 2368}, {247, 16}};
    uint8_t block[BLOCK_BYTES];
    for (unsigned s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++) {
        struct append_header header = example(shapes[s][0], shapes[s][1]), out;
        build(block, &header);
        assert_int_equal(append_header_parse(block, &out), 0);
        assert_memory_equal(&header.cluster, &out.cluster, 16);
        assert_int_equal(header.header_crc, out.header_crc);
        assert_int_equal(out.nonce, header.nonce);
        assert_int_equal(out.key.chunk, header.key.chunk);
        assert_int_equal(out.prev_header_crc, header.prev_header_crc);
        assert_int_equal(out.completed_blocks, 200);
        assert_int_equal(out.durable_blocks, 100);
        assert_int_equal(out.entry_count, shapes[s][0]);
        for (unsigned i = 0; i < out.entry_count; i++) {
            struct shard_entry entry = append_header_entry(block, i);
            assert_int_equal(entry.address, i * 3ull << 40);
            assert_int_equal(entry.crc, i * 7);
            assert_int_equal(entry.aux, ~i);
        }
        const char *inline_bytes = append_header_inline(block, &out);
        for (unsigned i = 0; i < out.inline_len_bytes; i++)
            assert_int_equal(inline_bytes[i], 'x');
        for (const char *p = inline_bytes + out.inline_len_bytes; p < (char *)block + BLOCK_BYTES;
             p++)
            assert_int_equal(*p, 0);
    }
}

static void test_the_marks_do_not_change_the_header_crc(void **state)
{
    uint8_t block[BLOCK_BYTES];
    struct append_header a = example(10, 10), b = example(10, 10);
    b.completed_blocks = b.durable_blocks = 0;
    build(block, &a);
    build(block, &b);
    assert_int_equal(a.header_crc, b.header_crc);
    b.prev_header_crc++;
    build(block, &b);
    assert_int_not_equal(a.header_crc, b.header_crc);
}

static void test_every_flipped_bit_is_seen(void **state)
{
    uint8_t block[BLOCK_BYTES];
    struct append_header header = example(20, 50), out;
    build(block, &header);
    for (unsigned bit = 0; bit < BLOCK_BYTES * 8; bit++) {
        block[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        assert_int_equal(append_header_parse(block, &out), -EBADMSG);
        block[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_built_parses_to_the_same),
        cmocka_unit_test(test_the_marks_do_not_change_the_header_crc),
        cmocka_unit_test(test_every_flipped_bit_is_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
