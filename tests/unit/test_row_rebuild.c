/* SPDX-License-Identifier: Apache-2.0
 *
 * A lost or damaged shard again, on another disk (R6).
 */
#include "row_fixture.h"

#include "blockd/disk/append_header.h"

/* Every block of the new shard must be what the lost one had: payload, entries, base_seq. */
static void check_rebuilt(unsigned shard, struct fake_disk *target, const uint8_t *old)
{
    for (uint32_t i = 0; i < fx.place.length_blocks; i++) {
        const void *was = old + (size_t)i * BLOCK_BYTES;
        const void *is = fake_disk_block(target, key_of(shard), i);
        assert_non_null(is);
        struct append_header a, b;
        if (append_header_parse(was, &a) < 0) {
            assert_memory_equal(was, is, BLOCK_BYTES);
            continue;
        }
        assert_int_equal(append_header_parse(is, &b), 0);
        assert_true(a.base_seq == b.base_seq && a.entry_count == b.entry_count &&
                    a.off_blocks == b.off_blocks && a.append_no == b.append_no &&
                    a.inline_len_bytes == b.inline_len_bytes && a.key.index == b.key.index);
        assert_memory_equal((const char *)was + APPEND_HEADER_BYTES,
            (const char *)is + APPEND_HEADER_BYTES, BLOCK_BYTES - APPEND_HEADER_BYTES);
    }
}

static uint8_t *copy_shard(unsigned shard)
{
    uint8_t *copy = mem_alloc((size_t)fx.place.length_blocks * BLOCK_BYTES);
    for (uint32_t i = 0; i < fx.place.length_blocks; i++)
        memcpy(copy + (size_t)i * BLOCK_BYTES, fake_disk_block(fake_of(shard), key_of(shard), i),
            BLOCK_BYTES);
    return copy;
}

static void rebuild(struct shard_code code, unsigned shard)
{
    begin(code, 1);
    create_and_fill();
    assert_int_equal(chunk_seal(&fx.io, &fx.place, 3), 0);
    fx.place.sealed = true;
    CLEANUP_FREE uint8_t *old = copy_shard(shard);
    lose(shard, LOSS_KNOWN);
    for (unsigned i = 1; i < code.m; i++) /* and as many others as it must stand */
        lose((shard + i) % shards(), LOSS_ABSENT);

    struct fake_disk *target = fx.fakes[fx.disk_count - 1];
    assert_int_equal(
        row_rebuild_shard(&fx.io, &fx.place, shard, &target->disk, 999, 8, SHARD_PRIORITY_CLEAN),
        0);
    check_rebuilt(shard, target, old);
    struct shard_info info;
    assert_int_equal(shard_stat(&target->disk, key_of(shard), &info), 0);
    assert_true(info.sealed && info.instance == 999 && info.epoch == 8);
    fx.place.shards[shard] = (struct chunk_shard){
        .place = {.disk = target->disk.number, .instance = 999}, .state = CHUNK_SHARD_OK};
    read_everything();
    check_directories();
    end();
}

static void a_rebuilt_shard_equals_the_lost_one(void *arg)
{
    for (unsigned c = 1; c < ARRAY_SIZE(all_codes); c++) {
        unsigned n = all_codes[c].k + all_codes[c].m;
        for (unsigned shard = 0; shard < n; shard += 1 + n / 8)
            rebuild(all_codes[c], shard);
        rebuild(all_codes[c], n - 1);
    }
}

static void a_damaged_shard_gives_its_good_blocks_to_its_successor(void *arg)
{
    begin((struct shard_code){2, 1}, 1);
    create_and_fill();
    assert_int_equal(chunk_seal(&fx.io, &fx.place, 3), 0);
    fx.place.sealed = true;
    CLEANUP_FREE uint8_t *old = copy_shard(0);
    fx.place.shards[0].state = CHUNK_SHARD_DAMAGED;
    fake_disk_damage_block(fake_of(0), key_of(0), 2);
    fake_disk_damage_block(fake_of(1), key_of(1), 3);
    fake_disk_damage_block(fake_of(2), key_of(2), 4);
    struct fake_disk *target = fx.fakes[3];
    assert_int_equal(
        row_rebuild_shard(&fx.io, &fx.place, 0, &target->disk, 999, 8, SHARD_PRIORITY_CLEAN), 0);
    check_rebuilt(0, target, old);
    end();
}

/* Every operation on every disk fails once, in turn: the rebuild succeeds or says why and leaves
 * nothing behind, and the data stays readable. */
static void a_fault_at_each_operation_of_a_rebuild(void *arg)
{
    unsigned failures = 0, successes = 0;
    for (unsigned victim = 0; victim < 4; victim++) {
        for (unsigned at = 1;; at++) {
            begin((struct shard_code){2, 1}, 1);
            create_and_fill();
            assert_int_equal(chunk_seal(&fx.io, &fx.place, 3), 0);
            fx.place.sealed = true;
            lose(1, LOSS_KNOWN);
            uint64_t before = fx.fakes[victim]->ops;
            fx.fakes[victim]->fail_op_at = before + at;
            fx.fakes[victim]->fail_op_error = at % 2 ? -EIO : -EBADMSG;
            struct fake_disk *target = fx.fakes[3];
            int r = row_rebuild_shard(
                &fx.io, &fx.place, 1, &target->disk, 999, 8, SHARD_PRIORITY_CLEAN);
            bool past_the_end = fx.fakes[victim]->ops < before + at;
            fx.fakes[victim]->fail_op_at = 0;
            failures += r < 0;
            successes += r == 0;
            if (r < 0 && at > 1)
                assert_false(fake_disk_has(target, key_of(1)));
            read_everything();
            end();
            if (past_the_end)
                break;
        }
    }
    assert_true(failures > 10 && successes >= 4);
}

int main(void)
{
    setenv("CMOCKA_TEST_ABORT", "1", 1); /* no way back from a failed assertion inside a fiber */
    const struct CMUnitTest tests[] = {
        FIBER_TEST(a_rebuilt_shard_equals_the_lost_one),
        FIBER_TEST(a_damaged_shard_gives_its_good_blocks_to_its_successor),
        FIBER_TEST(a_fault_at_each_operation_of_a_rebuild),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
