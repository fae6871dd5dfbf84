/* SPDX-License-Identifier: Apache-2.0
 *
 * A device that fails: errors of reads, writes and flushes, blocks that go astray, bits that rot.
 */
#include "disk_fixture.h"

#include "common/rng.h"

#define MIB (1ull << 20)

static const struct shard_key A = {
    .volume = 7, .chunk = (1ull << 32) | 1, .index = 2}; /* open data */
static const struct shard_key B = {
    .volume = 7, .chunk = (1ull << 32) | 2, .index = 3}; /* sealed data */
static const struct shard_key L = {
    .volume = 7, .chunk = (1ull << 32) | 3, .index = 1}; /* open log */
static const struct shard_key M = {
    .volume = 7, .chunk = (1ull << 32) | 4, .index = 0}; /* sealed manifest */

#define TABLE_OFF (2 * MIB)
#define SLABS_OFF (4 * MIB)

/* The four shards above; all of 6 + 31 blocks. They stand in slab 0 in this order: units 0, 16, 4.. as allocated. */
static void make_shards(struct fixture *f)
{
    const struct shard_key keys[] = {A, B, L, M};
    static const enum shard_kind kinds[] = {SHARD_DATA, SHARD_DATA, SHARD_LOG, SHARD_MANIFEST};
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(create_simple(f->disk, keys[i], kinds[i], 60), 0);
        assert_int_equal(append_blocks(f->disk, keys[i], 1, 0, 5, 0, 0), 0);
        assert_int_equal(append_blocks(f->disk, keys[i], 1, 6, 30, 0, 0), 0);
        assert_int_equal(append_blocks(f->disk, keys[i], 1, 37, 0, 0, 0), 0);
        assert_int_equal(shard_sync(f->disk, keys[i], 1, 38), 0);
    }
    assert_int_equal(shard_seal(f->disk, B, 1, 38), 0);
    assert_int_equal(shard_seal(f->disk, M, 1, 38), 0);
}

static void with_shards(void (*fn)(struct fixture *f))
{
    struct fixture f;
    fixture_init(&f, 1, 64 * MIB);
    assert_true(fixture_run(&f, make_shards));
    assert_true(fixture_run(&f, fn));
    fixture_fini(&f);
}

/* Where on the device block 0 of a shard stands: the place of its first header. */
static uint64_t find_shard(struct fixture *f, struct shard_key key)
{
    uint8_t block[BLOCK_BYTES];
    for (uint64_t off = SLABS_OFF; off < sim_disk_size_bytes(f->medium); off += 65536) {
        struct append_header header;
        sim_disk_peek(f->medium, off, block, sizeof(block));
        if (append_header_parse(block, &header) == 0 && header.key.volume == key.volume &&
            header.key.chunk == key.chunk && header.off_blocks == 0)
            return off;
    }
    fail();
    return 0;
}

static void fault(struct fixture *f, unsigned ops, enum sim_fault_kind kind, uint64_t off,
    uint64_t len, uint64_t times, int error)
{
    sim_disk_fault(f->medium, &(struct sim_fault){.ops = ops,
                                  .kind = kind,
                                  .off_bytes = off,
                                  .len_bytes = len,
                                  .times = times,
                                  .error = error,
                                  .target_off_bytes = UINT64_MAX});
}

/* --- D2 --------------------------------------------------------------------------------------- */

/* Nothing is written or synced any more; what is there is read. */
static void expect_retired(struct fixture *f)
{
    struct shard_info info;
    uint64_t writes = sim_io_count(f->sim);
    sim_disk_clear_faults(f->medium);
    assert_int_equal(f->failed_calls, 1);
    assert_int_equal(f->disk->state, DISK_FAILED);
    assert_true(f->disk->error_count > 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 38, 5, 0, 0), -EIO);
    assert_int_equal(append_blocks(f->disk, A, 1, 0, 5, 0, 0), -EIO);
    assert_int_equal(shard_sync(f->disk, A, 1, 38), -EIO);
    assert_int_equal(shard_seal(f->disk, A, 1, 38), -EIO);
    assert_int_equal(shard_remove(f->disk, A, 0, 1), -EIO);
    assert_int_equal(shard_fence(f->disk, A, 2, &info), -EIO);
    assert_int_equal(shard_fence(f->disk, key_of(1, 2, 3), 2, &info), -EIO);
    assert_int_equal(create_simple(f->disk, key_of(1, 2, 3), SHARD_DATA, 10), -EIO);
    assert_int_equal(append_blocks(f->disk, key_of(1, 2, 3), 1, 0, 1, 0, 0), -EIO);
    assert_int_equal(read_and_compare(f->disk, A, 0, 38, 0), 0);
    assert_int_equal(read_and_compare(f->disk, B, 0, 38, 0), 0);
    assert_int_equal(sim_io_count(f->sim), writes);
    assert_int_equal(f->failed_calls, 1);
    fixture_close(f);
}

static void append_error(struct fixture *f)
{
    fault(f, SIM_OP_WRITE, SIM_FAULT_ERROR, 0, 0, 1, EIO);
    assert_int_equal(append_blocks(f->disk, A, 1, 38, 5, 0, 0), -EIO);
    expect_retired(f);
}

static void sync_error(struct fixture *f)
{
    assert_int_equal(append_blocks(f->disk, L, 1, 38, 5, 0, 0), 0);
    fault(f, SIM_OP_SYNC, SIM_FAULT_ERROR, 0, 0, 1, EIO);
    assert_int_equal(shard_sync(f->disk, L, 1, 44), -EIO);
    expect_retired(f);
}

static void table_error(struct fixture *f)
{
    fault(f, SIM_OP_WRITE, SIM_FAULT_ERROR, TABLE_OFF, MIB, 1, ENOSPC);
    assert_int_equal(create_simple(f->disk, key_of(1, 1, 0), SHARD_DATA, 10), -EIO);
    expect_retired(f);
}

static void seal_error(struct fixture *f)
{
    fault(f, SIM_OP_WRITE, SIM_FAULT_ERROR, 0, 0, 1, EIO);
    assert_int_equal(shard_seal(f->disk, A, 1, 38), -EIO);
    expect_retired(f);
}

static void by_request(struct fixture *f)
{
    local_disk_fail(f->disk, -EIO);
    local_disk_fail(f->disk, -EIO);
    expect_retired(f);
}

static void test_a_failed_append_retires_the_disk(void **state)
{
    with_shards(append_error);
}

static void test_a_failed_flush_retires_the_disk(void **state)
{
    with_shards(sync_error);
}

static void test_a_failed_table_write_retires_the_disk(void **state)
{
    with_shards(table_error);
}

static void test_a_failed_trailer_write_retires_the_disk(void **state)
{
    with_shards(seal_error);
}

static void test_a_disk_can_be_retired_by_request(void **state)
{
    with_shards(by_request);
}

/* The device took the blocks, its flush failed, and a new process finds them readable: they are not durable by
 * another flush alone. */
static void flush_fails(struct fixture *f)
{
    assert_int_equal(append_blocks(f->disk, L, 1, 38, 20, 0, 0), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 38, 9, 0, 0), 0);
    fault(f, SIM_OP_SYNC, SIM_FAULT_ERROR, 0, 0, 1, EIO);
    assert_int_equal(shard_sync(f->disk, L, 1, 59), -EIO);
    sim_disk_clear_faults(f->medium);
}

static void sync_anew(struct fixture *f)
{
    fixture_open(f);
    assert_int_equal(shard_sync(f->disk, L, 1, 59), 0);
    assert_int_equal(shard_seal(f->disk, A, 1, 48), 0);
}

static void all_is_there(struct fixture *f)
{
    fixture_open(f);
    assert_int_equal(read_and_compare(f->disk, L, 0, 59, 0), 0);
    assert_int_equal(read_and_compare(f->disk, A, 0, 48, 0), 0);
    assert_int_equal(f->disk->damage_count, 0);
    fixture_close(f);
}

static void test_what_a_failed_flush_left_is_written_again_before_it_counts(void **state)
{
    struct fixture f;
    fixture_init(&f, 1, 64 * MIB);
    assert_true(fixture_run(&f, make_shards));
    assert_true(fixture_run(&f, flush_fails));
    sim_node_crash(f.node);
    assert_true(fixture_run(&f, sync_anew));
    sim_node_power_cut(f.node, SIM_CUT_LOSE_ALL);
    assert_true(fixture_run(&f, all_is_there));
    fixture_fini(&f);
}

/* --- Torn ends and damage (D9, D11) ----------------------------------------------------------- */

static void expect_length(struct fixture *f, struct shard_key key, uint32_t length, bool damaged)
{
    struct shard_info info;
    assert_int_equal(shard_stat(f->disk, key, &info), 0);
    assert_int_equal(info.length_blocks, length);
    assert_int_equal(info.damaged, damaged);
}

struct two {
    struct shard_append append[2];
    unsigned pending;
    struct fiber *fiber;
};

static struct two two;

static void one_of_two_done(struct shard_append *append)
{
    if (--two.pending == 0)
        fiber_wake(two.fiber);
}

/* Two empty appends at 38 and 39 of L together, the first of which never gets to the medium. */
static void first_of_two_lost(struct fixture *f)
{
    fault(f, SIM_OP_WRITE, SIM_FAULT_LOST, 0, 0, 1, 0);
    two.pending = 2;
    two.fiber = fiber_self();
    for (unsigned i = 0; i < 2; i++) {
        two.append[i] = (struct shard_append){.disk = f->disk,
            .key = L,
            .epoch = 1,
            .off_blocks = 38 + i,
            .base_seq = 7,
            .done = one_of_two_done};
        shard_append_submit(&two.append[i]);
    }
    while (two.pending > 0)
        fiber_suspend();
    sim_disk_clear_faults(f->medium);
}

/* The second one is there, whole, but nothing says that the first ever was. What comes in its
 * place must not be followed by it. */
static void another_first(struct fixture *f)
{
    fixture_open(f);
    expect_length(f, L, 38, false);
    assert_int_equal(append_blocks(f->disk, L, 1, 38, 0, 0, 0), 0);
    expect_length(f, L, 39, false);
}

static void not_joined(struct fixture *f)
{
    fixture_open(f);
    expect_length(f, L, 39, false);
    assert_int_equal(append_blocks(f->disk, L, 1, 39, 3, 0, 0), 0);
    fixture_close(f);
}

static void test_what_a_lost_append_left_behind_does_not_join_another(void **state)
{
    struct fixture f;
    fixture_init(&f, 1, 64 * MIB);
    assert_true(fixture_run(&f, make_shards));
    assert_true(fixture_run(&f, first_of_two_lost));
    sim_node_crash(f.node);
    assert_true(fixture_run(&f, another_first));
    sim_node_crash(f.node);
    assert_true(fixture_run(&f, not_joined));
    fixture_fini(&f);
}

/* A log that was synced, appended to and rotten before that: after a power cut its marks still
 * tell damage from a torn end. */
static void rot_in_the_middle(struct fixture *f)
{
    assert_int_equal(append_blocks(f->disk, L, 1, 38, 2, 0, 0), 0); /* durable mark 38 */
    assert_int_equal(append_blocks(f->disk, L, 1, 41, 2, 0, 0), 0); /* still 38 */
    uint64_t at = find_shard(f, L);
    sim_disk_flip(f->medium, at + 8 * BLOCK_BYTES, 0);        /* payload */
    sim_disk_flip(f->medium, at + 6 * BLOCK_BYTES + 2000, 0); /* its header */
    sim_disk_flip(f->medium, at + 39 * BLOCK_BYTES, 0);       /* payload, never synced */
}

static void marked_damaged(struct fixture *f)
{
    fixture_open(f);
    expect_length(f, L, 38, true);
    assert_int_equal(read_and_compare(f->disk, L, 0, 6, 0), 0);
    assert_int_equal(read_and_compare(f->disk, L, 6, 1, 0), -EBADMSG);
    assert_int_equal(read_and_compare(f->disk, L, 36, 1, 0), -EBADMSG);
    assert_int_equal(read_and_compare(f->disk, L, 37, 1, 0), 0);
    assert_int_equal(shard_fence(f->disk, L, 2, NULL), 0);
    assert_int_equal(shard_seal(f->disk, L, 2, 38), 0);
    assert_int_equal(read_and_compare(f->disk, L, 6, 1, 0), -EBADMSG);
    fixture_close(f);
    fixture_open(f);
    assert_int_equal(read_and_compare(f->disk, L, 6, 1, 0), -EBADMSG);
    assert_int_equal(read_and_compare(f->disk, L, 37, 1, 0), 0);
    fixture_close(f);
}

static void test_marks_tell_damage_from_a_torn_end_after_a_power_cut(void **state)
{
    struct fixture f;
    fixture_init(&f, 1, 64 * MIB);
    assert_true(fixture_run(&f, make_shards));
    assert_true(fixture_run(&f, rot_in_the_middle));
    sim_node_power_cut(f.node, SIM_CUT_KEEP_ALL);
    assert_true(fixture_run(&f, marked_damaged));
    fixture_fini(&f);
}

/* --- Read errors (D4) ------------------------------------------------------------------------- */

static void bad_sectors(struct fixture *f)
{
    const struct shard_key keys[] = {A, B, L, M};
    for (unsigned i = 0; i < 4; i++) {
        uint64_t at = find_shard(f, keys[i]) + 10 * BLOCK_BYTES;
        fault(f, SIM_OP_READ, SIM_FAULT_ERROR, at, 512, 0, EIO);
        for (unsigned round = 0; round < 2; round++) {
            unsigned calls = f->damaged_calls;
            assert_int_equal(read_and_compare(f->disk, keys[i], 0, 38, 0), -EBADMSG);
            assert_int_equal(f->damaged_block, 10);
            assert_true(f->damaged_calls > calls);
            assert_int_equal(read_and_compare(f->disk, keys[i], 0, 10, 0), 0);
            assert_int_equal(read_and_compare(f->disk, keys[i], 11, 27, 0), 0);
            struct shard_info info;
            assert_int_equal(shard_stat(f->disk, keys[i], &info), 0);
            assert_true(info.damaged);
            assert_int_equal(info.length_blocks, 38);
            uint64_t bytes;
            assert_int_equal(local_disk_scrub_shard(f->disk, keys[i], &bytes), -EBADMSG);
            reopen(f);
        }
        sim_disk_clear_faults(f->medium);
        assert_int_equal(read_and_compare(f->disk, keys[i], 0, 38, 0), 0);
    }
}

static void test_an_unreadable_block_is_damaged_and_its_neighbours_are_not(void **state)
{
    with_shards(bad_sectors);
}

static void passing_errors(struct fixture *f)
{
    fault(f, SIM_OP_READ, SIM_FAULT_ERROR, 0, 0, 1, EIO);
    assert_int_equal(read_and_compare(f->disk, A, 0, 38, 0), 0);
    assert_int_equal(f->disk->error_count, 1);
    assert_int_equal(f->disk->damage_count, 0);
    assert_int_equal(f->disk->state, DISK_IN);
}

static void test_a_read_error_that_passes_is_only_counted(void **state)
{
    with_shards(passing_errors);
}

static void bad_trailer_sector(struct fixture *f)
{
    uint64_t at = find_shard(f, B) + 38 * BLOCK_BYTES;
    reopen(f);
    fault(f, SIM_OP_READ, SIM_FAULT_ERROR, at, 512, 0, EIO);
    assert_int_equal(read_and_compare(f->disk, B, 0, 38, 0), 0);
    assert_true(f->damaged_calls > 0);
    assert_int_equal(f->damaged_block, 38);
    uint64_t bytes;
    assert_int_equal(local_disk_scrub_shard(f->disk, B, &bytes), -EBADMSG);
}

static void test_without_its_trailer_a_shard_is_read_by_its_headers(void **state)
{
    with_shards(bad_trailer_sector);
}

static void gone(struct fixture *f)
{
    reopen(f);
    sim_disk_remove(f->medium);
    assert_int_equal(read_and_compare(f->disk, A, 0, 38, 0), -EHOSTUNREACH);
    assert_int_equal(read_and_compare(f->disk, B, 0, 38, 0), -EHOSTUNREACH);
    assert_int_equal(f->damaged_calls, 0);
    sim_disk_return(f->medium);
    assert_int_equal(read_and_compare(f->disk, A, 0, 38, 0), 0);
    assert_int_equal(read_and_compare(f->disk, B, 0, 38, 0), 0);
}

static void test_a_device_that_is_gone_is_unreachable_not_damaged(void **state)
{
    with_shards(gone);
}

/* --- Blocks that go astray -------------------------------------------------------------------- */

static void stray_reads(struct fixture *f)
{
    const struct shard_key keys[] = {A, B, L, M};
    reopen(f);
    for (unsigned round = 0; round < 40; round++) {
        struct shard_key key = keys[round % 4];
        fault(f, SIM_OP_READ, SIM_FAULT_MISDIRECT, SLABS_OFF, 0, 1, 0);
        /* Wrong bytes abort inside; after a restart the first read is the walk's. */
        int r = read_and_compare(f->disk, key, round % 30, 8, 0);
        assert_true(
            r == 0 || r == -EBADMSG || (r == -ERANGE && (round % 4 == 0 || round % 4 == 2)));
        sim_disk_clear_faults(f->medium);
        if (round % 8 == 7)
            reopen(f);
    }
}

static void test_a_read_from_elsewhere_is_never_believed(void **state)
{
    with_shards(stray_reads);
}

static void stray_writes(struct fixture *f)
{
    struct rng rng;
    rng_init(&rng, 5);
    for (uint64_t i = 0; i < 30; i++) {
        struct shard_key key = key_of(9, i, 0);
        assert_int_equal(create_simple(f->disk, key, SHARD_DATA, 15), 0);
        /* Header and payload go over some page of the first slab or of the table instead. */
        uint64_t target = rng_one_in(&rng, 4) ? TABLE_OFF + BLOCK_BYTES * rng_below(&rng, 8)
                                              : SLABS_OFF + BLOCK_BYTES * rng_below(&rng, 1024);
        sim_disk_fault(f->medium, &(struct sim_fault){.ops = SIM_OP_WRITE,
                                      .kind = SIM_FAULT_MISDIRECT,
                                      .times = 1,
                                      .target_off_bytes = target});
        (void)append_blocks(f->disk, key, 1, 0, 3, 0, 0);
        sim_disk_clear_faults(f->medium);
    }
    f->cache_bytes = 0;
    for (unsigned round = 0; round < 2; round++) {
        for (uint64_t i = 0; i < 30; i++)
            (void)read_and_compare(f->disk, key_of(9, i, 0), 0, 4, 0);
        const struct shard_key keys[] = {A, B, L, M};
        for (unsigned k = 0; k < 4; k++) {
            for (uint32_t block = 0; block < 38; block++) {
                int r = read_and_compare(f->disk, keys[k], block, 1, 0);
                assert_true(r == 0 || r == -EBADMSG || (r == -ERANGE && (k == 0 || k == 2)));
            }
        }
        reopen(f);
    }
}

static void test_a_write_that_went_elsewhere_is_found_out(void **state)
{
    with_shards(stray_writes);
}

/* --- Rot -------------------------------------------------------------------------------------- */

/* Bits of one block flipped, then everything read by a fresh process: right bytes or "damaged"; only the end of an
 * unsealed shard may look torn. Never "absent" (S14). */
static void read_everything(struct fixture *f)
{
    const struct shard_key keys[] = {A, B, L, M};
    char *error = NULL;
    int r = fixture_open_status(f, &error);
    assert_int_equal(r, 0);
    for (unsigned k = 0; k < 4; k++) {
        for (uint32_t block = 0; block < 38; block += 1 + block % 5) {
            r = read_and_compare(f->disk, keys[k], block, 1, 0);
            /* The last append, the empty one at 37, has nobody behind it to vouch for it. */
            bool torn_end = r == -ERANGE && (k == 0 || k == 2) && block == 37;
            assert_true(r == 0 || r == -EBADMSG || torn_end);
        }
    }
    fixture_close(f);
}

static void rot_at(struct fixture *f, const struct sim_image *sound, uint64_t off_bytes,
    unsigned bits, uint64_t seed)
{
    struct rng rng;
    rng_init(&rng, seed);
    sim_disk_restore(f->medium, sound);
    for (unsigned i = 0; i < bits; i++)
        sim_disk_flip(
            f->medium, off_bytes + rng_below(&rng, BLOCK_BYTES), (unsigned)rng_below(&rng, 8));
    assert_true(fixture_run(f, read_everything));
}

static void test_rot_anywhere_is_found_and_never_taken_for_absence(void **state)
{
    static const uint64_t starts[] = {
        0, MIB, 64 * MIB - BLOCK_BYTES, TABLE_OFF, TABLE_OFF + BLOCK_BYTES};
    struct fixture f;
    fixture_init(&f, 1, 64 * MIB);
    assert_true(fixture_run(&f, make_shards));
    assert_true(fixture_run(&f, fixture_close));
    struct sim_image *sound = sim_disk_snapshot(f.medium);
    log_set_level((enum log_level) - 1);
    for (unsigned i = 0; i < 5; i++) {
        for (unsigned round = 0; round < 8; round++)
            rot_at(&f, sound, starts[i], round < 4 ? 1 : 20, round);
    }
    /* The first slab holds the four shards: 4 units of 64 KiB each. */
    for (uint64_t block = 0; block < 4 * 64; block++)
        rot_at(&f, sound, SLABS_OFF + block * BLOCK_BYTES, 1 + block % 3, block);
    log_set_output(NULL, NULL);
    sim_image_free(sound);
    fixture_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_failed_append_retires_the_disk),
        cmocka_unit_test(test_a_failed_flush_retires_the_disk),
        cmocka_unit_test(test_a_failed_table_write_retires_the_disk),
        cmocka_unit_test(test_a_failed_trailer_write_retires_the_disk),
        cmocka_unit_test(test_a_disk_can_be_retired_by_request),
        cmocka_unit_test(test_what_a_failed_flush_left_is_written_again_before_it_counts),
        cmocka_unit_test(test_what_a_lost_append_left_behind_does_not_join_another),
        cmocka_unit_test(test_marks_tell_damage_from_a_torn_end_after_a_power_cut),
        cmocka_unit_test(test_an_unreadable_block_is_damaged_and_its_neighbours_are_not),
        cmocka_unit_test(test_a_read_error_that_passes_is_only_counted),
        cmocka_unit_test(test_without_its_trailer_a_shard_is_read_by_its_headers),
        cmocka_unit_test(test_a_device_that_is_gone_is_unreachable_not_damaged),
        cmocka_unit_test(test_a_read_from_elsewhere_is_never_believed),
        cmocka_unit_test(test_a_write_that_went_elsewhere_is_found_out),
        cmocka_unit_test(test_rot_anywhere_is_found_and_never_taken_for_absence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
