/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations of the shard store, on a simulated disk without faults. What it refuses: test_local_disk_fence.c; space:
 * test_local_disk_space.c; faults: test_local_disk_faults.c; crashes: test_local_disk_crash.c; bad disks: test_local_disk_open.c.
 */
#include "disk_fixture.h"

#define MIB (1ull << 20)

static const struct shard_key A = {.volume = 7, .chunk = (1ull << 32) | 1, .index = 2};
static const struct shard_key L = {.volume = 7, .chunk = (1ull << 32) | 2, .index = 1};

/* --- Appends and reads ------------------------------------------------------------------------ */

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
    assert_int_equal(shard_seal(f->disk, A, 1, 50), -ERANGE); /* no append ends there */
    assert_int_equal(shard_seal(f->disk, A, 1, 12), 0);
    assert_int_equal(shard_seal(f->disk, A, 1, 12), 0);
    assert_int_equal(shard_seal(f->disk, A, 1, 113), -ERANGE);
    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(read_and_compare(f->disk, A, 0, 12, 0), 0);
        assert_int_equal(read_and_compare(f->disk, A, 3, 4, 0), 0);
        assert_int_equal(read_and_compare(f->disk, A, 0, 13, 0), -ERANGE);
        assert_int_equal(append_blocks(f->disk, A, 1, 12, 1, 0, 0), -EROFS);
        assert_int_equal(shard_sync(f->disk, A, 1, 12), 0);
        reopen(f);
    }
}

static void test_appended_blocks_are_read_back_open_sealed_and_reopened(void **state)
{
    on_disk(64 * MIB, appends_and_reads);
}

static void logs(struct fixture *f)
{
    struct shard_info info;
    assert_int_equal(create_simple(f->disk, L, SHARD_LOG, 1500), 0);
    uint32_t off = 0;
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(append_blocks(f->disk, L, 1, off, i * 3, 0, 0), 0);
        off += 1 + i * 3;
    }
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(read_and_compare(f->disk, L, 0, off, 0), 0);
        assert_int_equal(shard_stat(f->disk, L, &info), 0);
        assert_int_equal(info.length_blocks, off);
        if (i == 1)
            assert_int_equal(shard_seal(f->disk, L, 1, off), 0);
        reopen(f);
    }
    assert_int_equal(read_and_compare(f->disk, L, off - 5, 5, 0), 0);
}

static void test_a_log_is_walked_after_restart_open_and_sealed(void **state)
{
    on_disk(64 * MIB, logs);
}

static void absent(struct fixture *f)
{
    struct shard_info info;
    assert_int_equal(shard_stat(f->disk, A, &info), -ENOENT);
    assert_int_equal(read_and_compare(f->disk, A, 0, 1, 0), -ENOENT);
    assert_int_equal(append_blocks(f->disk, A, 1, 0, 1, 0, 0), -ENOENT);
    assert_int_equal(shard_sync(f->disk, A, 1, 0), -ENOENT);
    assert_int_equal(shard_seal(f->disk, A, 1, 0), -ENOENT);
    assert_int_equal(shard_remove(f->disk, A, 0, 1), -ENOENT);
}

static void test_absent_shards_are_absent(void **state)
{
    on_disk(64 * MIB, absent);
}

static void removes(struct fixture *f)
{
    uint64_t free_bytes = f->disk->free_bytes;
    assert_int_equal(create_simple(f->disk, A, SHARD_DATA, 1000), 0);
    assert_int_equal(free_bytes - f->disk->free_bytes, 4 * MIB);
    assert_int_equal(local_disk_shard_count(f->disk), 1);
    assert_int_equal(append_blocks(f->disk, A, 1, 0, 10, 0, 0), 0);
    assert_int_equal(shard_remove(f->disk, A, 12345, 1), -ENOENT);
    assert_int_equal(shard_remove(f->disk, A, 0, 0), -ESTALE);
    assert_int_equal(shard_remove(f->disk, A, create_of(A, SHARD_DATA, 1).instance, 1), 0);
    assert_int_equal(f->disk->free_bytes, free_bytes);
    assert_int_equal(read_and_compare(f->disk, A, 0, 1, 0), -ENOENT);
    reopen(f);
    assert_int_equal(read_and_compare(f->disk, A, 0, 1, 0), -ENOENT);
    assert_int_equal(f->disk->free_bytes, free_bytes);
    /* The same place again: what the first one left there is not found. */
    assert_int_equal(create_simple(f->disk, A, SHARD_DATA, 1000), 0);
    reopen(f);
    struct shard_info info;
    assert_int_equal(shard_stat(f->disk, A, &info), 0);
    assert_int_equal(info.length_blocks, 0);
}

static void test_removed_shards_are_gone_and_their_space_is_free(void **state)
{
    on_disk(64 * MIB, removes);
}

static void creates(struct fixture *f)
{
    struct shard_create create = create_of(A, SHARD_DATA, 100);
    struct shard_info info;
    assert_int_equal(shard_create(f->disk, &create, &info), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 0, 3, 0, 0), 0);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(shard_create(f->disk, &create, &info), 0);
        assert_int_equal(read_and_compare(f->disk, A, 0, 4, 0), 0);
        reopen(f);
    }
    struct shard_create other = create;
    other.instance++;
    assert_int_equal(shard_create(f->disk, &other, &info), -EEXIST);
    other = create;
    other.epoch++;
    assert_int_equal(shard_create(f->disk, &other, &info), -EEXIST);
    other.epoch = 0;
    assert_int_equal(shard_create(f->disk, &other, &info), -EINVAL);
    other = create_of(key_of(1, 1, 6), SHARD_DATA, 100);
    assert_int_equal(shard_create(f->disk, &other, &info), -EINVAL);
    other = create_of(key_of(1, 1, 0), SHARD_DATA, 1020);
    assert_int_equal(shard_create(f->disk, &other, &info), -EINVAL);
    other = create_of(key_of(1, 1, 0), SHARD_LOG, LOG_CAPACITY_BLOCKS_MAX + 1);
    assert_int_equal(shard_create(f->disk, &other, &info), -EINVAL);
}

static void test_a_create_can_be_repeated_but_not_changed(void **state)
{
    on_disk(64 * MIB, creates);
}

static void capacity(struct fixture *f)
{
    struct shard_create create = create_of(A, SHARD_DATA, 15);
    struct shard_info info;
    assert_int_equal(shard_create(f->disk, &create, &info), 0);
    assert_int_equal(info.capacity_blocks, 15);
    assert_int_equal(append_blocks(f->disk, A, 1, 0, 15, 0, 0), -ERANGE);
    assert_int_equal(append_blocks(f->disk, A, 1, 0, 14, 0, 0), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 15, 0, 0, 0), -ERANGE);
    assert_int_equal(shard_seal(f->disk, A, 1, 15), 0);
    assert_int_equal(read_and_compare(f->disk, A, 0, 15, 0), 0);
    reopen(f);
    assert_int_equal(read_and_compare(f->disk, A, 0, 15, 0), 0);
}

static void test_a_shard_can_be_filled_to_its_capacity(void **state)
{
    on_disk(64 * MIB, capacity);
}

/* --- Pipelining ------------------------------------------------------------------------------- */

#define PIPE_DEPTH 16

static void pipelines(struct fixture *f)
{
    assert_int_equal(create_simple(f->disk, L, SHARD_LOG, 64), 0);
    uint8_t *buf = mem_alloc_pages(PIPE_DEPTH * BLOCK_BYTES);
    struct pipe pipes[2 * PIPE_DEPTH];
    unsigned pending = 0;
    for (unsigned i = 0; i < PIPE_DEPTH; i++) {
        pipe_init(&pipes[i], f->disk, L, i * 2, &pending, buf + i * BLOCK_BYTES);
        shard_append_submit(&pipes[i].append);
    }
    /* Each of them again while the first is in flight. */
    for (unsigned i = 0; i < PIPE_DEPTH; i++) {
        struct pipe *again = &pipes[PIPE_DEPTH + i];
        pipe_init(again, f->disk, L, i * 2, &pending, buf + i * BLOCK_BYTES);
        again->append.flags = i % 2 ? SHARD_APPEND_DSYNC : 0;
        shard_append_submit(&again->append);
    }
    assert_int_equal(append_blocks(f->disk, L, 1, 0, 2, 0, 0), -ERANGE);
    while (pending > 0)
        fiber_suspend();
    for (unsigned i = 0; i < 2 * PIPE_DEPTH; i++)
        assert_int_equal(pipes[i].append.result, 0);
    assert_int_equal(read_and_compare(f->disk, L, 0, 2 * PIPE_DEPTH, 0), 0);
    assert_int_equal(sim_disk_volatile_pages(f->medium), 0); /* the last retry was a durable one */
    mem_free_pages(buf, PIPE_DEPTH * BLOCK_BYTES);
    reopen(f);
    assert_int_equal(read_and_compare(f->disk, L, 0, 2 * PIPE_DEPTH, 0), 0);
    assert_int_equal(append_blocks(f->disk, L, 1, 2 * PIPE_DEPTH, 5, 0, 0), 0);
}

static void test_appends_in_flight_together_and_retried_are_all_there(void **state)
{
    on_disk(64 * MIB, pipelines);
}

/* Many first users of a shard after a restart: one walk, and each gets its answer. */
static void first_users(struct fixture *f)
{
    assert_int_equal(create_simple(f->disk, L, SHARD_LOG, 256), 0);
    for (uint32_t i = 0; i < 16; i++)
        assert_int_equal(append_blocks(f->disk, L, 1, i * 8, 7, 0, 0), 0);
    reopen(f);
    uint8_t *buf = mem_alloc_pages(32 * BLOCK_BYTES);
    struct slow_read reads[16];
    struct pipe pipes[4];
    unsigned pending = 0;
    for (unsigned i = 0; i < 16; i++) {
        reads[i].iov = (struct iovec){.iov_base = buf + i * BLOCK_BYTES, .iov_len = BLOCK_BYTES};
        reads[i].done = false;
        reads[i].read = (struct shard_read){.disk = f->disk,
            .key = L,
            .off_blocks = i * 8,
            .count = 1,
            .iov = &reads[i].iov,
            .iov_count = 1,
            .done = slow_read_done};
        shard_read_submit(&reads[i].read);
    }
    for (unsigned i = 0; i < 4; i++) {
        pipe_init(&pipes[i], f->disk, L, 128 + 2 * i, &pending, buf + (16 + i) * BLOCK_BYTES);
        shard_append_submit(&pipes[i].append);
    }
    assert_int_equal(shard_sync(f->disk, L, 1, 128), 0);
    while (pending > 0)
        fiber_suspend();
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(pipes[i].append.result, 0);
    env_sleep_ns(1000000000);
    for (unsigned i = 0; i < 16; i++)
        assert_true(reads[i].done && reads[i].read.result == 0);
    mem_free_pages(buf, 32 * BLOCK_BYTES);
    assert_int_equal(read_and_compare(f->disk, L, 0, 136, 0), 0);
}

static void test_many_first_users_of_a_shard_share_one_walk(void **state)
{
    on_disk(64 * MIB, first_users);
}

/* --- Group commit (D8, D12) ------------------------------------------------------------------- */

static struct fiber_group together;
static struct fixture *shared;

static void create_and_sync(void *arg)
{
    uint64_t chunk = (uintptr_t)arg;
    int r = create_simple(shared->disk, key_of(4, chunk, 0), SHARD_META, 15);
    if (r == 0)
        r = append_blocks(shared->disk, key_of(4, chunk, 0), 1, 0, 1, 0, 0);
    if (r == 0)
        r = shard_sync(shared->disk, key_of(4, chunk, 0), 1, 2);
    fiber_group_done(&together, r);
}

static void creates_together(struct fixture *f)
{
    uint64_t before = sim_io_count(f->sim);
    shared = f;
    fiber_group_init(&together);
    fiber_group_add(&together, 32);
    for (uintptr_t i = 0; i < 32; i++)
        fiber_spawn("create", create_and_sync, (void *)(i + 1));
    assert_int_equal(fiber_group_wait(&together), 0);
    /* 32 appends; two rounds of the table, one or two blocks each; a few flushes. */
    assert_true(sim_io_count(f->sim) - before <= 32 + 4 + 12);
}

static void test_creates_share_table_writes_and_syncs_share_flushes(void **state)
{
    on_disk(64 * MIB, creates_together);
}

/* --- The trailer cache ------------------------------------------------------------------------ */

static void trailers(struct fixture *f)
{
    for (unsigned i = 0; i < 20; i++) {
        struct shard_key key = key_of(3, i, 0);
        assert_int_equal(create_simple(f->disk, key, SHARD_DATA, 600), 0);
        assert_int_equal(append_blocks(f->disk, key, 1, 0, 248, 0, 0), 0);
        assert_int_equal(append_blocks(f->disk, key, 1, 249, 248, 0, 0), 0);
        assert_int_equal(append_blocks(f->disk, key, 1, 498, 50, 0, 0), 0);
        assert_int_equal(shard_seal(f->disk, key, 1, 549), 0);
    }
    f->cache_bytes = 0; /* the least: eight blocks */
    reopen(f);
    for (unsigned round = 0; round < 200; round++) {
        struct shard_key key = key_of(3, env_random_u64() % 20, 0);
        uint32_t off = (uint32_t)(env_random_u64() % 549),
                 count = 1 + (uint32_t)(env_random_u64() % (549 - off));
        assert_int_equal(read_and_compare(f->disk, key, off, count, 0), 0);
    }
    local_disk_set_trailer_cache(f->disk, 1 << 20);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(read_and_compare(f->disk, key_of(3, i, 0), 0, 549, 0), 0);
    assert_int_equal(f->disk->damage_count, 0);
    fixture_close(f);
}

static void test_reads_with_hardly_any_cache_are_right(void **state)
{
    on_disk(128 * MIB, trailers);
}

/* --- List, scrub ------------------------------------------------------------------------------ */

static void lists(struct fixture *f)
{
    struct shard_info *list;
    unsigned count;
    for (unsigned i = 0; i < 30; i++)
        assert_int_equal(create_simple(f->disk, key_of(1 + i % 3, i, 0), SHARD_META, 15), 0);
    assert_int_equal(shard_list(f->disk, 0, &list, &count), 0);
    assert_int_equal(count, 30);
    mem_free(list);
    assert_int_equal(shard_list(f->disk, 2, &list, &count), 0);
    assert_int_equal(count, 10);
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(list[i].key.volume, 2);
    mem_free(list);
}

static void test_shards_are_listed_by_volume(void **state)
{
    on_disk(64 * MIB, lists);
}

static void scrubs(struct fixture *f)
{
    uint64_t bytes;
    make_open_shards(f->disk, A, L);
    assert_int_equal(local_disk_scrub_shard(f->disk, A, &bytes), 0);
    assert_int_equal(bytes, 6 * BLOCK_BYTES);
    assert_int_equal(shard_seal(f->disk, A, 1, 6), 0);
    assert_int_equal(shard_seal(f->disk, L, 1, 6), 0);
    assert_int_equal(local_disk_scrub_shard(f->disk, A, &bytes), 0);
    assert_int_equal(local_disk_scrub_shard(f->disk, L, &bytes), 0);
    assert_int_equal(local_disk_scrub_shard(f->disk, key_of(9, 9, 9), &bytes), -ENOENT);
    assert_int_equal(f->damaged_calls, 0);
}

static void test_scrub_of_sound_shards_finds_nothing(void **state)
{
    on_disk(64 * MIB, scrubs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_appended_blocks_are_read_back_open_sealed_and_reopened),
        cmocka_unit_test(test_a_log_is_walked_after_restart_open_and_sealed),
        cmocka_unit_test(test_absent_shards_are_absent),
        cmocka_unit_test(test_removed_shards_are_gone_and_their_space_is_free),
        cmocka_unit_test(test_a_create_can_be_repeated_but_not_changed),
        cmocka_unit_test(test_a_shard_can_be_filled_to_its_capacity),
        cmocka_unit_test(test_appends_in_flight_together_and_retried_are_all_there),
        cmocka_unit_test(test_many_first_users_of_a_shard_share_one_walk),
        cmocka_unit_test(test_creates_share_table_writes_and_syncs_share_flushes),
        cmocka_unit_test(test_reads_with_hardly_any_cache_are_right),
        cmocka_unit_test(test_shards_are_listed_by_volume),
        cmocka_unit_test(test_scrub_of_sound_shards_finds_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
