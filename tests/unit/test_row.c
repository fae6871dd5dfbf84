/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows and their chunks: made, written, read back, sealed, removed; what fails on the way (R1, R5).
 */
#include "row_fixture.h"

static void places_are_found_again(void *arg)
{
    struct chunk_place place = {.code = {4, 2}, .row_count = 3, .row_len = {7, 1, 248}};
    assert_int_equal(chunk_linear_end(&place), 4 * 256);
    assert_int_equal(chunk_row_off_blocks(&place, 3), 259);
    uint32_t linear = 0;
    for (unsigned row = 0; row < 3; row++) {
        assert_int_equal(chunk_row_linear_start(&place, row), linear);
        for (unsigned shard = 0; shard < 4; shard++) {
            for (uint32_t i = 0; i < place.row_len[row]; i++, linear++) {
                struct chunk_position p = chunk_locate(&place, linear);
                assert_int_equal(p.row, row);
                assert_int_equal(p.shard, shard);
                assert_int_equal(p.off_blocks, chunk_row_off_blocks(&place, row) + 1 + i);
                assert_int_equal(p.run_blocks, place.row_len[row] - i);
            }
        }
    }
}

static void every_code_reads_back_what_was_written(void *arg)
{
    for (unsigned c = 0; c < ARRAY_SIZE(all_codes); c++) {
        begin(all_codes[c], 0);
        assert_int_equal(create(600), 0);
        for (unsigned row = 0; row < ROWS_MAX; row++) {
            uint32_t most = all_codes[c].k * (row == 3 ? APPEND_ENTRIES_MAX : 30);
            assert_int_equal(write_row(row == 3 ? most : 1 + rnd() % most), 0);
        }
        read_everything();
        check_directories();
        assert_int_equal(fx.trouble_count, 0);
        end();
    }
}

static void a_run_in_one_shard_is_one_read(void *arg)
{
    begin((struct shard_code){4, 2}, 0);
    create_and_fill();
    uint32_t linear = chunk_row_linear_start(&fx.place, 2) + 40 * 2 + 3; /* shard 2 */
    assert_int_equal(read_range(linear, 20), 0);
    assert_int_equal(fake_of(2)->reads, 1);
    assert_int_equal(fake_of(2)->read_blocks, 20);
    uint64_t reads = 0;
    for (unsigned i = 0; i < shards(); i++)
        reads += fake_of(i)->reads;
    assert_int_equal(reads, 1);
    end();
}

static void a_failed_append_fails_the_row(void *arg)
{
    static const int errors[] = {-EIO, -ENOSPC, -EHOSTUNREACH};
    for (unsigned i = 0; i < ARRAY_SIZE(errors); i++) {
        begin((struct shard_code){4, 2}, 0);
        create_and_fill();
        fake_of(4)->fail_op_at = fake_of(4)->ops + 1;
        fake_of(4)->fail_op_error = errors[i];
        uint8_t *data;
        int results[CODE_SHARDS_MAX];
        struct row_block *blocks = make_blocks(9, &data);
        assert_int_equal(
            row_write(&fx.io, &fx.place, 0, blocks, 9, true, NULL, results), errors[i]);
        for (unsigned s = 0; s < shards(); s++)
            assert_int_equal(results[s], s == 4 ? errors[i] : 0);
        assert_int_equal(fx.trouble_shard, 4);
        /* The shard that failed is one append behind: R1, the row is not part of the volume. The
         * same row again is a repeat on the others (S8). */
        assert_int_equal(row_write(&fx.io, &fx.place, 0, blocks, 9, true, NULL, NULL), 0);
        commit(blocks, 9);
        read_everything();
        mem_free(blocks);
        mem_free_pages(data, 9 * BLOCK_BYTES);
        end();
    }
}

static void deposed_wins_over_other_errors(void *arg)
{
    begin((struct shard_code){4, 2}, 0);
    create_and_fill();
    fake_of(0)->error = -EIO;
    assert_int_equal(shard_fence(&fake_of(3)->disk, key_of(3), 9, NULL), 0);
    assert_int_equal(write_row(3), -ESTALE);
    assert_int_equal(fx.trouble_count, 1); /* of shard 0 only */
    assert_int_equal(fx.trouble_shard, 0);
    end();
}

static void degraded_chunks_are_written_without_their_lost_shards(void *arg)
{
    begin((struct shard_code){4, 2}, 0);
    create_and_fill();
    lose(1, LOSS_KNOWN);
    lose(5, LOSS_KNOWN);
    uint32_t crcs[CODE_SHARDS_MAX];
    uint8_t *data;
    struct row_block *blocks = make_blocks(30, &data);
    assert_int_equal(row_write(&fx.io, &fx.place, 0, blocks, 30, false, crcs, NULL), 0);
    commit(blocks, 30);
    mem_free(blocks);
    mem_free_pages(data, 30 * BLOCK_BYTES);
    for (unsigned i = 0; i < shards(); i++)
        assert_true((crcs[i] == 0) == (i == 1 || i == 5));
    read_everything();
    check_directories();
    fx.place.shards[0].state = CHUNK_SHARD_LOST; /* fewer than k would be left */
    assert_int_equal(write_row(1), -EIO);
    end();
}

static void creation_is_all_or_nothing(void *arg)
{
    for (unsigned victim = 0; victim < 6; victim++) {
        begin((struct shard_code){4, 2}, 0);
        fx.fakes[victim]->fail_op_at = 1;
        fx.fakes[victim]->fail_op_error = victim % 2 ? -ENOSPC : -EIO;
        assert_int_equal(create(100), fx.fakes[victim]->fail_op_error);
        for (unsigned i = 0; i < 6; i++)
            assert_int_equal(fake_disk_shard_count(fx.fakes[i]), 0);
        assert_int_equal(create(100), 0);
        end();
    }
}

static void capacity_is_the_least_answered(void *arg)
{
    begin((struct shard_code){2, 1}, 0);
    fx.fakes[1]->capacity_blocks = 77;
    assert_int_equal(create(100), 0);
    assert_int_equal(fx.place.capacity_blocks, 77);
    end();
}

static void sealing_reaches_every_shard(void *arg)
{
    begin((struct shard_code){4, 2}, 0);
    create_and_fill();
    assert_int_equal(chunk_seal(&fx.io, &fx.place, 3), 0);
    fx.place.sealed = true;
    assert_int_equal(chunk_seal(&fx.io, &fx.place, 3), 0);
    struct shard_info info;
    for (unsigned i = 0; i < shards(); i++) {
        assert_int_equal(shard_stat(&fake_of(i)->disk, key_of(i), &info), 0);
        assert_true(info.sealed && info.length_blocks == fx.place.length_blocks);
    }
    read_everything();
    end();
}

/* Rows in flight one behind the other, as destage keeps them. */
struct flight {
    struct row_block *blocks;
    uint8_t *data;
    uint32_t ahead;
    struct fiber_group *group;
};

static void write_ahead(void *arg)
{
    struct flight *f = arg;
    fiber_group_done(
        f->group, row_write(&fx.io, &fx.place, f->ahead, f->blocks, 100, false, NULL, NULL));
}

static void rows_follow_each_other_in_flight(void *arg)
{
    begin((struct shard_code){4, 2}, 0);
    assert_int_equal(create(300), 0);
    struct flight flights[4];
    struct fiber_group group;
    fiber_group_init(&group);
    fiber_group_add(&group, 4);
    for (unsigned i = 0; i < 4; i++) {
        flights[i] = (struct flight){.ahead = i * 26, .group = &group};
        flights[i].blocks = make_blocks(100, &flights[i].data);
        fiber_spawn("flight", write_ahead, &flights[i]);
    }
    assert_int_equal(fiber_group_wait(&group), 0);
    for (unsigned i = 0; i < 4; i++) {
        commit(flights[i].blocks, 100);
        mem_free(flights[i].blocks);
        mem_free_pages(flights[i].data, 100 * BLOCK_BYTES);
    }
    read_everything();
    check_directories();
    end();
}

int main(void)
{
    setenv("CMOCKA_TEST_ABORT", "1", 1); /* no way back from a failed assertion inside a fiber */
    const struct CMUnitTest tests[] = {
        FIBER_TEST(places_are_found_again),
        FIBER_TEST(every_code_reads_back_what_was_written),
        FIBER_TEST(a_run_in_one_shard_is_one_read),
        FIBER_TEST(a_failed_append_fails_the_row),
        FIBER_TEST(deposed_wins_over_other_errors),
        FIBER_TEST(degraded_chunks_are_written_without_their_lost_shards),
        FIBER_TEST(creation_is_all_or_nothing),
        FIBER_TEST(capacity_is_the_least_answered),
        FIBER_TEST(sealing_reaches_every_shard),
        FIBER_TEST(rows_follow_each_other_in_flight),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
