/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows that have lost more shards than their code can make up for before the map has them (promise (e)): the volume
 * opens, their blocks alone fail, and nothing older is returned for them.
 */
#include "away_fixture.h"

static void set_up(struct shard_code code)
{
    set_up_disks(code, 1, DISKS);
}

static void write_at(struct volume *v, uint64_t block, unsigned blocks, uint8_t byte)
{
    memset(page, byte, blocks * BLOCK_BYTES);
    CHECK(volume_write(
              v, block * BLOCK_BYTES, blocks * BLOCK_BYTES, page, 0, (struct request_id){0}) == 0);
}

/* What stands in the block, or an error. */
static int byte_at(uint64_t block)
{
    memset(page, 0xee, BLOCK_BYTES);
    int r = volume_read(volume, block * BLOCK_BYTES, BLOCK_BYTES, page);
    for (unsigned i = 1; r == 0 && i < BLOCK_BYTES; i++)
        CHECK(page[i] == page[0]);
    return r < 0 ? r : page[0];
}

/* Of rows, those with an index in `mask`. */
static unsigned lose_shards(unsigned mask)
{
    unsigned lost = 0;
    for (unsigned i = 0; i < DISKS; i++) {
        struct shard_info *list;
        unsigned count;
        CHECK(shard_list(&disks[i]->disk, id, &list, &count) == 0);
        for (unsigned n = 0; n < count; n++) {
            if (list[n].kind != SHARD_DATA || !(mask >> list[n].key.index & 1))
                continue;
            fake_disk_lose_shard(disks[i], list[n].key);
            lost++;
        }
        mem_free(list);
    }
    return lost;
}

/* Blocks 10, 12, 14 and so on, count of them, in one row; one of them is trimmed in the same generation, one is
 * older in a row before, two are written again. */
static void write_rows(void)
{
    write_at(old, 14, 1, 1);
    CHECK(volume_destage(old) == 0);
    for (unsigned i = 0; i < 8; i++)
        write_at(old, 10 + 2 * i, 1, 2);
    CHECK(volume_trim(old, 12 * BLOCK_BYTES, BLOCK_BYTES, 0, (struct request_id){0}) == 0);
    write_at(old, 16, 1, 3);
    CHECK(volume_destage(old) == 0);
}

static int expected(uint64_t block)
{
    if (block < 10 || block > 24 || block % 2 || block == 12)
        return 0;
    return block == 16 ? 3 : 2;
}

/* How many of the blocks fail; the others are as they were last written. */
static unsigned count_failing(void)
{
    unsigned failing = 0;
    for (uint64_t block = 0; block < 40; block++) {
        int byte = byte_at(block);
        failing += byte == -EIO;
        CHECK_MSG(byte == expected(block) || (byte == -EIO && expected(block) != 0),
            "block %llu: %d", (unsigned long long)block, byte);
    }
    return failing;
}

static void its_blocks_alone_fail(void)
{
    set_up((struct shard_code){2, 1});
    write_rows();
    CHECK(lose_shards(1 << 1 | 1 << 2) >= 2);
    CHECK(inherit() == 0);
    assert_int_equal(count_failing(), 3); /* of 7: those of the data shard that is left are had */
    assert_string_equal(info().health, "damaged");
    assert_true(info().chunks_lost > 0);
    write_at(volume, 10, 16, 9);
    for (uint64_t block = 10; block < 26; block++)
        assert_int_equal(byte_at(block), 9);
    tear_down();
}

static void all_of_them_fail_where_no_shard_is_left(void)
{
    set_up((struct shard_code){1, 2});
    write_rows();
    CHECK(lose_shards(7) >= 3);
    CHECK(inherit() == 0);
    assert_int_equal(count_failing(), 7);
    tear_down();
}

/* They go on failing once the map has them, and on the next owner. */
static void they_stay_lost_over_checkpoint_and_open(void)
{
    set_up((struct shard_code){2, 1});
    write_rows();
    CHECK(lose_shards(7) >= 3);
    CHECK(inherit() == 0);
    assert_int_equal(count_failing(), 7);
    write_at(volume, 18, 1, 2);
    CHECK(volume_destage(volume) == 0);
    CHECK(volume_close(volume) == 0);
    CHECK(inherit() == 0);
    assert_int_equal(count_failing(), 6);
    tear_down();
}

/* A large write's row, and what a later one and a trim of the same generation have of it. */
static void large_writes_are_named_too(void)
{
    set_up((struct shard_code){2, 1});
    write_at(old, 0, 64, 2);
    CHECK(volume_trim(old, 20 * BLOCK_BYTES, 4 * BLOCK_BYTES, 0, (struct request_id){0}) == 0);
    CHECK(volume_destage(old) == 0);
    CHECK(lose_shards(7) >= 3);
    CHECK(inherit() == 0);
    for (uint64_t block = 0; block < 70; block++)
        assert_int_equal(byte_at(block), block >= 64 || (block >= 20 && block < 24) ? 0 : -EIO);
    tear_down();
}

/* Nobody has put it into the manifest yet. */
static void large_writes_that_the_log_alone_names_are_lost_alone(void)
{
    set_up((struct shard_code){2, 1});
    write_at(old, 100, 1, 5);
    CHECK(volume_destage(old) == 0);
    write_at(old, 0, 64, 2);
    write_at(old, 8, 1, 3); /* in the log itself */
    CHECK(lose_shards(1 << 0 | 1 << 2) >= 2);
    for (unsigned opens = 0; opens < 2; opens++) {
        CHECK(inherit() == 0);
        for (uint64_t block = 0; block < 70; block++)
            assert_int_equal(byte_at(block), block == 8    ? 3
                                             : block >= 64 ? 0
                                             : block >= 32 ? 2 /* of the shard that is left */
                                                           : -EIO);
        assert_int_equal(info().loss_epoch, 0);
        CHECK(volume_destage(volume) == 0);
        CHECK(volume_close(volume) == 0);
    }
    CHECK(inherit() == 0);
    tear_down();
}

/* As written before rows were named: the directory decides, and without it the volume stays closed. */
static void rows_of_earlier_versions_are_read_by_their_directory(void)
{
    set_up((struct shard_code){2, 1});
    dead.host.rows_unnamed = true;
    write_rows();
    CHECK(lose_shards(1 << 1) >= 1);
    CHECK(inherit() == 0);
    assert_int_equal(count_failing(), 0);
    tear_down();
}

static void without_their_directory_the_volume_stays_closed(void)
{
    set_up((struct shard_code){2, 1});
    dead.host.rows_unnamed = true;
    write_rows();
    CHECK(lose_shards(1 << 1 | 1 << 2) >= 2);
    CLEANUP_FREE char *error = NULL;
    session_put(0xa, false);
    assert_int_equal(volume_open(&heir.host, id, &volume, &error), -EIO);
    assert_non_null(strstr(error, "directory of row"));
    volume = NULL;
    tear_down();
}

static void write_many(struct volume *v, uint64_t from, uint64_t end, uint8_t byte)
{
    for (; from < end; from += 16)
        write_at(v, from, 16, byte);
    CHECK(volume_destage(v) == 0);
}

static void own_again(void)
{
    CHECK(volume_close(volume) == 0);
    CHECK(inherit() == 0);
}

/* The place with the fewest live blocks is lost: others are cleaned all the same. */
static void a_lost_place_keeps_no_other_from_being_cleaned(void)
{
    set_up((struct shard_code){2, 1});
    dead.host.bypass_bytes_min = heir.host.bypass_bytes_min = MIB;
    write_many(old, 0, 1024, 1);
    CHECK(inherit() == 0); /* a place is sealed at each open */
    write_many(volume, 0, 512, 2);
    own_again();
    uint64_t oldest = UINT64_MAX;
    for (unsigned lose = 0; lose < 2; lose++) {
        for (unsigned i = 0; i < DISKS; i++) {
            struct shard_info *list;
            unsigned count;
            CHECK(shard_list(&disks[i]->disk, id, &list, &count) == 0);
            for (unsigned n = 0; n < count; n++) {
                if (list[n].kind == SHARD_DATA && !list[n].tombstone && !lose)
                    oldest = MIN(oldest, list[n].key.chunk);
                if (list[n].kind == SHARD_DATA && lose && list[n].key.chunk == oldest)
                    fake_disk_lose_shard(disks[i], list[n].key);
            }
            mem_free(list);
        }
    }
    write_many(volume, 512, 960, 3);
    write_many(volume, 0, 256, 3);
    assert_int_equal(volume_clean(volume), 0);
    assert_true(volume_stats(volume)->cleaned_chunks > 0);
    unsigned failing = 0;
    for (uint64_t block = 0; block < 1024; block++) {
        int byte = byte_at(block);
        failing += byte == -EIO;
        CHECK(byte == -EIO || byte == (block < 256 ? 3 : block < 512 ? 2 : block < 960 ? 3 : 1));
    }
    assert_in_range(failing, 1, 511);
    tear_down();
}

TEST(a_lost_place_keeps_no_other_from_being_cleaned)
TEST(its_blocks_alone_fail)
TEST(all_of_them_fail_where_no_shard_is_left)
TEST(they_stay_lost_over_checkpoint_and_open)
TEST(large_writes_are_named_too)
TEST(large_writes_that_the_log_alone_names_are_lost_alone)
TEST(rows_of_earlier_versions_are_read_by_their_directory)
TEST(without_their_directory_the_volume_stays_closed)

int main(void)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(its_blocks_alone_fail_),
        cmocka_unit_test(a_lost_place_keeps_no_other_from_being_cleaned_),
        cmocka_unit_test(all_of_them_fail_where_no_shard_is_left_),
        cmocka_unit_test(they_stay_lost_over_checkpoint_and_open_),
        cmocka_unit_test(large_writes_are_named_too_),
        cmocka_unit_test(large_writes_that_the_log_alone_names_are_lost_alone_),
        cmocka_unit_test(rows_of_earlier_versions_are_read_by_their_directory_),
        cmocka_unit_test(without_their_directory_the_volume_stays_closed_),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
