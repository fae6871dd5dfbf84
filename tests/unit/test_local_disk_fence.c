/* SPDX-License-Identifier: Apache-2.0
 *
 * What the shard store refuses: another content for an offset (S8), lower epochs (D6, S7), shards of an earlier boot (S5, S6).
 */
#include "disk_fixture.h"

#define MIB (1ull << 20)

static const struct shard_key A = {.volume = 7, .chunk = (1ull << 32) | 1, .index = 2};
static const struct shard_key L = {.volume = 7, .chunk = (1ull << 32) | 2, .index = 1};

/* --- Retries (S8) ----------------------------------------------------------------------------- */

static void retries(struct fixture *f)
{
    assert_int_equal(create_simple(f->disk, A, SHARD_DATA, 100), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 0, 5, 0, 0), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 6, 5, 0, 0), 0);
    for (unsigned round = 0; round < 2; round++) {
        uint64_t writes = sim_io_count(f->sim);
        assert_int_equal(append_blocks(f->disk, A, 1, 0, 5, 0, 0), 0);
        assert_int_equal(append_blocks(f->disk, A, 1, 6, 5, 0, 0), 0);
        assert_int_equal(append_blocks(f->disk, A, 1, 6, 5, 1, 0), -ERANGE);  /* other bytes */
        assert_int_equal(append_blocks(f->disk, A, 1, 6, 4, 0, 0), -ERANGE);  /* other length */
        assert_int_equal(append_blocks(f->disk, A, 2, 6, 5, 0, 0), -ERANGE);  /* other epoch */
        assert_int_equal(append_blocks(f->disk, A, 1, 3, 5, 0, 0), -ERANGE);  /* inside another */
        assert_int_equal(append_blocks(f->disk, A, 1, 13, 5, 0, 0), -ERANGE); /* a gap */
        assert_int_equal(sim_io_count(f->sim), writes);
        reopen(f);
    }
    assert_true(sim_disk_volatile_pages(f->medium) > 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 6, 5, 0, SHARD_APPEND_DSYNC), 0);
    assert_int_equal(sim_disk_volatile_pages(f->medium), 0);
    assert_int_equal(read_and_compare(f->disk, A, 0, 12, 0), 0);
}

static void test_a_retry_succeeds_only_with_the_same_content(void **state)
{
    on_disk(64 * MIB, retries);
}

static void wrong_crcs(struct fixture *f)
{
    f->verify_appends = true;
    reopen(f);
    assert_int_equal(create_simple(f->disk, A, SHARD_DATA, 100), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 0, 5, 0, 0), 0);
    uint8_t *buf = mem_alloc_pages(BLOCK_BYTES);
    memset(buf, 1, BLOCK_BYTES);
    struct shard_entry entry = {.crc = 1};
    struct iovec iov = {.iov_base = buf, .iov_len = BLOCK_BYTES};
    struct shard_append append = {.disk = f->disk,
        .key = A,
        .epoch = 1,
        .off_blocks = 6,
        .entries = &entry,
        .entry_count = 1,
        .payload = &iov,
        .payload_count = 1};
    assert_int_equal(shard_append(&append), -EBADMSG);
    mem_free_pages(buf, BLOCK_BYTES);
    assert_int_equal(append_blocks(f->disk, A, 1, 6, 5, 0, 0), 0);
}

static void test_payload_that_does_not_match_its_crc_is_not_written(void **state)
{
    on_disk(64 * MIB, wrong_crcs);
}

/* --- Fences (D6, S7, S8) ---------------------------------------------------------------------- */

static void fences(struct fixture *f)
{
    struct shard_info info;
    assert_int_equal(create_simple(f->disk, A, SHARD_DATA, 100), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 0, 5, 0, 0), 0);
    assert_int_equal(shard_fence(f->disk, A, 5, &info), 0);
    assert_int_equal(info.length_blocks, 6);
    assert_int_equal(info.fence_epoch, 5);
    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(append_blocks(f->disk, A, 1, 0, 5, 0, 0), -ESTALE);
        assert_int_equal(append_blocks(f->disk, A, 4, 6, 5, 0, 0), -ESTALE);
        assert_int_equal(shard_sync(f->disk, A, 1, 6), -ESTALE);
        assert_int_equal(shard_seal(f->disk, A, 4, 6), -ESTALE);
        assert_int_equal(shard_remove(f->disk, A, 0, 4), -ESTALE);
        assert_int_equal(create_simple(f->disk, A, SHARD_DATA, 100), -ESTALE);
        assert_int_equal(shard_fence(f->disk, A, 4, &info), -ESTALE);
        assert_int_equal(shard_fence(f->disk, A, 5, &info), 0);
        assert_int_equal(read_and_compare(f->disk, A, 0, 6, 0), 0);
        reopen(f);
    }
    assert_int_equal(shard_seal(f->disk, A, 5, 6), 0);
    assert_int_equal(shard_remove(f->disk, A, 0, 4), -ESTALE);
    assert_int_equal(shard_remove(f->disk, A, 0, 5), 0);
}

static void test_a_fence_refuses_all_lower_epochs_for_ever(void **state)
{
    on_disk(64 * MIB, fences);
}

static void tombstones(struct fixture *f)
{
    struct shard_create create = create_of(A, SHARD_DATA, 100);
    struct shard_info info, *list;
    unsigned count;
    assert_int_equal(shard_fence(f->disk, A, 5, &info), -ENOENT);
    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(shard_create(f->disk, &create, &info), -ESTALE);
        assert_int_equal(append_blocks(f->disk, A, 1, 0, 1, 0, 0), -ESTALE);
        assert_int_equal(append_blocks(f->disk, A, 5, 0, 1, 0, 0), -ENOENT);
        assert_int_equal(shard_stat(f->disk, A, &info), -ENOENT);
        assert_int_equal(read_and_compare(f->disk, A, 0, 1, 0), -ENOENT);
        assert_int_equal(shard_fence(f->disk, A, 4, &info), -ESTALE);
        assert_int_equal(shard_fence(f->disk, A, 5, &info), -ENOENT);
        assert_int_equal(shard_list(f->disk, A.volume, &list, &count), 0);
        assert_int_equal(count, 1);
        assert_true(list[0].tombstone);
        assert_int_equal(list[0].fence_epoch, 5);
        mem_free(list);
        assert_int_equal(local_disk_shard_count(f->disk), 0);
        reopen(f);
    }
    create.epoch = 6;
    assert_int_equal(shard_create(f->disk, &create, &info), 0);
    assert_int_equal(info.fence_epoch, 5);
    reopen(f);
    assert_int_equal(append_blocks(f->disk, A, 6, 0, 1, 0, 0), 0);
    assert_int_equal(shard_fence(f->disk, L, 9, NULL), -ENOENT);
    assert_int_equal(shard_remove(f->disk, L, 3, 9), -ENOENT);
    assert_int_equal(shard_remove(f->disk, L, 0, 9), 0);
    assert_int_equal(create_simple(f->disk, L, SHARD_LOG, 100), 0);
}

static void test_fencing_an_absent_shard_leaves_a_durable_tombstone(void **state)
{
    on_disk(64 * MIB, tombstones);
}

static void fences_in_flight(struct fixture *f)
{
    assert_int_equal(create_simple(f->disk, L, SHARD_LOG, 64), 0);
    sim_disk_fault(f->medium,
        &(struct sim_fault){
            .ops = SIM_OP_WRITE, .kind = SIM_FAULT_DELAY, .times = 1, .delay_ns = 50000000});
    uint8_t *buf = mem_alloc_pages(BLOCK_BYTES);
    unsigned pending = 0;
    struct pipe pipe;
    pipe_init(&pipe, f->disk, L, 0, &pending, buf);
    shard_append_submit(&pipe.append);
    struct shard_info info;
    uint64_t before_ns = env_now_ns();
    assert_int_equal(shard_fence(f->disk, L, 2, &info), 0);
    assert_true(env_now_ns() - before_ns >= 50000000);
    assert_int_equal(pending, 0);
    assert_int_equal(info.length_blocks, 2);
    mem_free_pages(buf, BLOCK_BYTES);
}

static void test_a_fence_is_answered_after_the_appends_in_flight(void **state)
{
    on_disk(64 * MIB, fences_in_flight);
}

/* --- Restart and reboot (S5, S6) -------------------------------------------------------------- */

static void leaves_shards_open(struct fixture *f)
{
    make_open_shards(f->disk, A, L);
}

static void goes_on(struct fixture *f)
{
    fixture_open(f);
    assert_int_equal(append_blocks(f->disk, A, 1, 6, 5, 0, 0), 0);
    assert_int_equal(shard_sync(f->disk, A, 1, 12), 0);
    assert_int_equal(read_and_compare(f->disk, A, 0, 12, 0), 0);
    assert_int_equal(append_blocks(f->disk, L, 1, 0, 5, 0, 0), 0);
}

static void suspects(struct fixture *f)
{
    fixture_open(f);
    for (unsigned round = 0; round < 2; round++) {
        struct shard_info info;
        assert_int_equal(append_blocks(f->disk, A, 1, 12, 5, 0, 0), -EREMOTEIO);
        assert_int_equal(append_blocks(f->disk, A, 1, 0, 5, 0, 0), -EREMOTEIO);
        assert_int_equal(shard_sync(f->disk, A, 1, 6), -EREMOTEIO);
        assert_int_equal(shard_stat(f->disk, A, &info), 0);
        assert_true(info.suspect);
        assert_int_equal(info.length_blocks, 12);
        assert_int_equal(read_and_compare(f->disk, A, 0, 12, 0), 0);
        reopen(f); /* a new daemon does not wash it clean */
    }
    assert_int_equal(shard_fence(f->disk, A, 2, NULL), 0);
    assert_int_equal(shard_seal(f->disk, A, 2, 6), 0);
    assert_int_equal(read_and_compare(f->disk, A, 0, 6, 0), 0);
    fixture_close(f);
}

static void test_open_shards_go_on_after_a_restart_but_not_after_a_reboot(void **state)
{
    struct fixture f;
    fixture_init(&f, 1, 64 * MIB);
    assert_true(fixture_run(&f, leaves_shards_open));
    sim_node_crash(f.node);
    assert_true(fixture_run(&f, goes_on));
    sim_node_power_cut(f.node, SIM_CUT_LOSE_ALL);
    assert_true(fixture_run(&f, suspects));
    fixture_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_retry_succeeds_only_with_the_same_content),
        cmocka_unit_test(test_payload_that_does_not_match_its_crc_is_not_written),
        cmocka_unit_test(test_a_fence_refuses_all_lower_epochs_for_ever),
        cmocka_unit_test(test_fencing_an_absent_shard_leaves_a_durable_tombstone),
        cmocka_unit_test(test_a_fence_is_answered_after_the_appends_in_flight),
        cmocka_unit_test(test_open_shards_go_on_after_a_restart_but_not_after_a_reboot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
