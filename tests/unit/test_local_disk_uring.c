/* SPDX-License-Identifier: Apache-2.0
 *
 * The shard store on a real file by the production env: O_DIRECT, alignment, a second process.
 */
#include "uring_run.h"

#include <errno.h>

#include "blockd/disk/local_disk.h"
#include "disk_blocks.h"

#define MIB (1ull << 20)

static const struct uuid CLUSTER = {.bytes = {1}};

static struct disk *open_disk(void)
{
    struct disk *disk;
    struct local_disk_options options = {.trailer_cache_bytes = MIB};
    char *error = NULL;
    int r = local_disk_open(scratch_path("", "disk"), CLUSTER, &options, &disk, &error);
    CHECK_MSG(r == 0, "open: %d %s", r, error);
    return disk;
}

static int lives(void *arg)
{
    struct uuid uuid;
    char *error = NULL;
    int r = local_disk_format(
        scratch_path("", "disk"), 80 * MIB, CLUSTER, CLUSTER, "ssd", false, &uuid, &error);
    CHECK_MSG(r == 0, "format: %d %s", r, error);
    struct disk *disk = open_disk();
    const struct shard_key log = key_of(1, 1, 0), data = key_of(1, 2, 3);
    CHECK(create_simple(disk, log, SHARD_LOG, 4096) == 0);
    CHECK(create_simple(disk, data, SHARD_DATA, 1019) == 0);
    uint32_t off = 0;
    for (unsigned i = 0; i < 100; i++) {
        CHECK(append_blocks(disk, log, 1, off, i % 40, 0, i % 3 ? 0 : SHARD_APPEND_DSYNC) == 0);
        off += 1 + i % 40;
        if (i % 10 == 0)
            CHECK(shard_sync(disk, log, 1, off) == 0);
    }
    for (unsigned i = 0; i < 4; i++)
        CHECK(append_blocks(disk, data, 1, i * 249, 248, 0, 0) == 0);
    CHECK(read_and_compare(disk, log, 0, off, 0) == 0);
    CHECK(shard_seal(disk, data, 1, 996) == 0);
    for (unsigned round = 0; round < 2; round++) {
        CHECK(read_and_compare(disk, data, 0, 996, 0) == 0);
        CHECK(read_and_compare(disk, data, 777, 3, 0) == 0);
        CHECK(read_and_compare(disk, log, 0, off, 0) == 0);
        local_disk_close(disk);
        disk = open_disk();
    }
    CHECK(append_blocks(disk, log, 1, off, 7, 0, 0) == 0);
    CHECK(shard_fence(disk, log, 2, NULL) == 0);
    CHECK(shard_remove(disk, log, 0, 2) == 0);
    CHECK(shard_remove(disk, data, 0, 1) == 0);
    CHECK(
        disk->free_bytes == disk->size_bytes && disk->damage_count == 0 && disk->error_count == 0);
    CHECK(disk->latency_ewma_ns > 0);
    local_disk_close(disk);
    return 42;
}

static void test_shards_live_and_die_on_a_real_file(void **state)
{
    assert_int_equal(run_in_env(lives, (struct env_uring_options){0}), 42);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            test_shards_live_and_die_on_a_real_file, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
