/* SPDX-License-Identifier: Apache-2.0 */
#include "disk_fixture.h"

#define MIB (1ull << 20)

static const struct shard_key A = {.volume = 7, .chunk = (1ull << 32) | 1, .index = 2};

/* --- Appends and reads ---------------------------------------------------------------------------
 */

static void appends_and_reads(struct fixture *f)
{
    assert_int_equal(create_simple(f->disk, A, SHARD_DATA, 200), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 0, 10, 0, 0), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 11, 0, 0, 0), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 12, 100, 0, SHARD_APPEND_DSYNC), 0);
    assert_int_equal(read_and_compare(f->disk, A, 0, 113, 0), 0);
    assert_int_equal(read_and_compare(f->disk, A, 5, 1, 0), 0);
    assert_int_equal(read_and_compare(f->disk, A, 100, 14, 0), -ERANGE);
    struct shard_info info;
    assert_int_equal(shard_stat(f->disk, A, &info), 0);
    assert_int_equal(info.length_blocks, 113);
    assert_true(info.capacity_blocks >= 200);
    assert_false(info.sealed || info.suspect || info.damaged);
    assert_int_equal(shard_sync(f->disk, A, 1, 113), 0);
    assert_int_equal(shard_sync(f->disk, A, 1, 114), -ERANGE);
    assert_int_equal(shard_stat(f->disk, key_of(7, 2, 2), &info), -ENOENT);
    assert_int_equal(shard_seal(f->disk, A, 1, 12), 0);
    assert_int_equal(shard_seal(f->disk, A, 1, 12), 0);
    assert_int_equal(shard_seal(f->disk, A, 1, 113), -ERANGE);
    assert_int_equal(read_and_compare(f->disk, A, 0, 12, 0), 0);
    assert_int_equal(read_and_compare(f->disk, A, 0, 13, 0), -ERANGE);
    assert_int_equal(append_blocks(f->disk, A, 1, 12, 1, 0, 0), -EROFS);
}

static void rereads(struct fixture *f)
{
    fixture_open(f);
    assert_int_equal(read_and_compare(f->disk, A, 0, 12, 0), 0);
    assert_int_equal(read_and_compare(f->disk, A, 3, 4, 0), 0);
    assert_int_equal(shard_remove(f->disk, A, 0, 1), 0);
    assert_int_equal(shard_remove(f->disk, A, 0, 1), -ENOENT);
    assert_int_equal(read_and_compare(f->disk, A, 0, 12, 0), -ENOENT);
    assert_int_equal(f->disk->free_bytes, f->disk->size_bytes);
    fixture_close(f);
}

static void test_appended_blocks_are_read_back_open_sealed_and_reopened(void **state)
{
    struct fixture f;
    fixture_init(&f, 1, 64 * MIB);
    assert_true(fixture_run(&f, appends_and_reads));
    assert_true(fixture_run(&f, fixture_close));
    assert_true(fixture_run(&f, rereads));
    fixture_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_appended_blocks_are_read_back_open_sealed_and_reopened),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
