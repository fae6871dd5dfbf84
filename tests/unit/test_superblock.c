/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "blockd/disk/slab.h"
#include "blockd/disk/superblock.h"
#include "blockd/disk/table.h"
#include "common/bytes.h"
#include "common/crc32c.h"

static struct superblock example(void)
{
    struct superblock sb = {.incarnation = 5, .class_name = "ssd"};
    memset(&sb.cluster, 1, 16);
    memset(&sb.node, 2, 16);
    memset(&sb.disk, 3, 16);
    assert_int_equal(superblock_layout(&sb, (100ull << 20) + 123), 0);
    return sb;
}

/* Recomputes the CRC of a changed block, as another writer would. */
static void reseal(uint8_t *block)
{
    memset(block + 12, 0, 4);
    put_le32(block + 12, crc32c(0, block, SUPERBLOCK_BYTES));
}

static void test_what_is_encoded_decodes_to_the_same(void **state)
{
    struct superblock sb = example(), out;
    uint8_t block[SUPERBLOCK_BYTES];
    superblock_encode(&sb, 1 << 20, block);
    assert_int_equal(superblock_decode(block, 1 << 20, &out), 0);
    assert_memory_equal(&sb, &out, sizeof(sb));
    assert_int_equal(superblock_decode(block, 0, &out), -EBADMSG);
}

static void test_layout_fits_the_device(void **state)
{
    struct superblock sb;
    assert_int_equal(superblock_layout(&sb, DISK_BYTES_MIN - 1), -ERANGE);
    assert_int_equal(superblock_layout(&sb, UINT64_MAX), -ERANGE);
    for (uint64_t size = DISK_BYTES_MIN; size < (64ull << 40); size = size * 3 + 4095) {
        assert_int_equal(superblock_layout(&sb, size), 0);
        assert_true(sb.table_entry_count >= size >> 20);
        assert_int_equal(sb.slab_off_bytes % SLAB_BYTES, 0);
        assert_true(sb.table_off_bytes + (uint64_t)sb.table_entry_count * TABLE_ENTRY_BYTES <=
                    sb.slab_off_bytes);
        uint64_t offs[SUPERBLOCK_COPIES];
        superblock_copy_offsets(sb.size_bytes, offs);
        assert_true(sb.slab_off_bytes + (uint64_t)sb.slab_count * SLAB_BYTES <= offs[2]);
        assert_true(offs[2] + SUPERBLOCK_BYTES <= size);
        assert_true(offs[1] + SUPERBLOCK_BYTES <= sb.table_off_bytes);
    }
}

static void test_every_flipped_bit_is_seen(void **state)
{
    struct superblock sb = example(), out;
    uint8_t block[SUPERBLOCK_BYTES];
    superblock_encode(&sb, 0, block);
    for (unsigned bit = 0; bit < SUPERBLOCK_BYTES * 8; bit++) {
        block[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        assert_int_equal(superblock_decode(block, 0, &out), bit < 64 ? -ENOENT : -EBADMSG);
        block[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
}

static void test_newer_versions_and_needed_features_are_refused(void **state)
{
    struct superblock sb = example(), out;
    uint8_t block[SUPERBLOCK_BYTES];
    sb.features_needed = 8;
    superblock_encode(&sb, 0, block);
    assert_int_equal(superblock_decode(block, 0, &out), -EOPNOTSUPP);
    assert_int_equal(out.features_needed, 8);
    sb.features_needed = 0;
    sb.features_readable = 1ull << 63;
    superblock_encode(&sb, 0, block);
    assert_int_equal(superblock_decode(block, 0, &out), 0);
    put_le32(block + 8, 2);
    reseal(block);
    assert_int_equal(superblock_decode(block, 0, &out), -EOPNOTSUPP);
}

static void test_impossible_layouts_are_refused(void **state)
{
    static const struct {
        unsigned at;
        uint64_t value;
    } lies[] = {{88, 0}, {88, UINT64_MAX}, {88, (100 << 20) + 1}, {96, 0}, {96, UINT64_MAX - 4095},
        {104, 1 << 20}, {104, UINT64_MAX - 4095}, {104, 1}};
    struct superblock sb = example(), out;
    uint8_t block[SUPERBLOCK_BYTES];
    for (unsigned i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        superblock_encode(&sb, 0, block);
        put_le64(block + lies[i].at, lies[i].value);
        reseal(block);
        assert_int_equal(superblock_decode(block, 0, &out), -EBADMSG);
    }
    for (unsigned at = 112; at <= 116; at += 4) {
        superblock_encode(&sb, 0, block);
        put_le32(block + at, UINT32_MAX);
        reseal(block);
        assert_int_equal(superblock_decode(block, 0, &out), -EBADMSG);
        put_le32(block + at, 0);
        reseal(block);
        assert_int_equal(superblock_decode(block, 0, &out), -EBADMSG);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_encoded_decodes_to_the_same),
        cmocka_unit_test(test_layout_fits_the_device),
        cmocka_unit_test(test_every_flipped_bit_is_seen),
        cmocka_unit_test(test_newer_versions_and_needed_features_are_refused),
        cmocka_unit_test(test_impossible_layouts_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
