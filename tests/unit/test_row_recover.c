/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading rows of which something is lost, damaged, away or slow, with every code, and what must happen beyond what the
 * code survives (R2-R4).
 */
#include "row_fixture.h"

static void survive(struct shard_code code, unsigned lost_mask, enum loss loss)
{
    begin(code, 0);
    create_and_fill();
    for (unsigned i = 0; i < shards(); i++) {
        if (lost_mask >> i & 1)
            lose(i, loss < LOSSES ? loss : rnd() % LOSSES);
    }
    read_everything();
    check_directories();
    end();
}

static void any_m_lost_shards_are_survived(void *arg)
{
    for (unsigned c = 0; c < 5; c++) {
        struct shard_code code = all_codes[c];
        for (unsigned mask = 1; mask < 1u << (code.k + code.m); mask++) {
            if ((unsigned)__builtin_popcount(mask) <= code.m)
                survive(code, mask, code.k < 4 ? mask % LOSSES : LOSSES);
        }
    }
    for (unsigned c = 5; c < ARRAY_SIZE(all_codes); c++) {
        for (int i = 0; i < 6; i++) {
            unsigned mask = 0, n = all_codes[c].k + all_codes[c].m;
            while ((unsigned)__builtin_popcount(mask) < all_codes[c].m)
                mask |= 1u << rnd() % n;
            survive(all_codes[c], mask, LOSSES);
        }
    }
}

static void each_kind_of_loss_is_survived_and_told(void *arg)
{
    for (enum loss loss = 0; loss < LOSSES; loss++) {
        begin((struct shard_code){2, 1}, 0);
        create_and_fill();
        lose(0, loss);
        assert_int_equal(read_range(0, 1), 0);
        static const int told[LOSSES] = {0, -ENOENT, -EIO, -EHOSTUNREACH, -EHOSTUNREACH, -EBADMSG};
        assert_int_equal(fx.trouble_error, told[loss]);
        assert_int_equal(fx.trouble_count, loss != LOSS_KNOWN);
        end();
    }
}

/* LOST shards lack rows from some on; what they have is read when too little else is left. */
static void what_lost_shards_have_is_read_when_nothing_else_is_left(void *arg)
{
    for (unsigned c = 0; c < ARRAY_SIZE(all_codes); c++) {
        begin(all_codes[c], 0);
        create_and_fill();
        for (unsigned i = 0; i < all_codes[c].m; i++)
            fx.place.shards[i].state = CHUNK_SHARD_LOST;
        if (all_codes[c].m > 0)
            lose(shards() - 1, LOSS_EIO);
        read_everything();
        check_directories();
        for (unsigned i = 0; i < shards(); i++) {
            fake_of(i)->error = 0;
            fx.place.shards[i].state = CHUNK_SHARD_LOST;
        }
        read_everything();
        check_directories();
        /* One that may be back in a moment is waited for. */
        for (unsigned i = 0; i < shards(); i++)
            fake_of(i)->error = i == 0 ? -EHOSTUNREACH : -EIO;
        assert_int_equal(read_range(0, 1), -EHOSTUNREACH);
        end();
    }
}

/* m blocks damaged in every column, on shards that differ from column to column. */
static void damage_spread_over_all_shards_is_survived(void *arg)
{
    for (unsigned c = 0; c < ARRAY_SIZE(all_codes); c++) {
        begin(all_codes[c], 0);
        create_and_fill();
        for (unsigned row = 0; row < fx.place.row_count; row++) {
            uint32_t off = chunk_row_off_blocks(&fx.place, row);
            for (uint32_t i = 0; i <= fx.place.row_len[row]; i++) { /* headers too */
                for (unsigned j = 0; j < fx.place.code.m; j++) {
                    unsigned shard = (i * 7 + row + j) % shards();
                    fake_disk_damage_block(fake_of(shard), key_of(shard), off + i);
                }
            }
        }
        read_everything();
        check_directories();
        if (fx.place.code.m > 0)
            assert_int_equal(fx.trouble_error, -EBADMSG);
        end();
    }
}

static void beyond_m_only_the_damaged_column_is_lost(void *arg)
{
    begin((struct shard_code){4, 2}, 0);
    create_and_fill();
    uint32_t off = chunk_row_off_blocks(&fx.place, 2) + 1;
    for (unsigned shard = 0; shard < 3; shard++)
        fake_disk_damage_block(fake_of(shard), key_of(shard), off + 5);
    for (unsigned shard = 0; shard < 4; shard++) {
        uint32_t start = chunk_row_linear_start(&fx.place, 2) + shard * 40;
        assert_int_equal(read_range(start + 5, 1), shard < 3 ? -EIO : 0);
        assert_int_equal(read_range(start, 40), shard < 3 ? -EIO : 0);
        assert_int_equal(read_range(start, 5), 0);
        assert_int_equal(read_range(start + 6, 34), 0);
    }
    end();
}

static void a_stale_block_is_not_returned(void *arg)
{
    for (unsigned c = 1; c < ARRAY_SIZE(all_codes); c++) {
        begin(all_codes[c], 0);
        create_and_fill();
        uint32_t off = chunk_row_off_blocks(&fx.place, 2) + 1 + 9;
        fake_disk_stale_block(fake_of(0), key_of(0), off, 77);
        assert_int_equal(read_range(chunk_row_linear_start(&fx.place, 2) + 9, 1), 0);
        if (fx.place.code.k > 1 || fx.trouble_count) {
            assert_int_equal(fx.trouble_error, -EBADMSG);
            assert_int_equal(fx.trouble_block, off);
        }
        /* A map that is wrong about the address gets nothing either, whatever the decoding says. */
        uint8_t *buf = mem_alloc_pages(BLOCK_BYTES);
        assert_int_equal(row_read(&fx.io, &fx.place, 3, 1, 123456789, buf), -EIO);
        mem_free_pages(buf, BLOCK_BYTES);
        end();
    }
}

static void absent_everywhere_is_told_as_absent(void *arg)
{
    for (unsigned c = 0; c < ARRAY_SIZE(all_codes); c++) {
        begin(all_codes[c], 0);
        create_and_fill();
        for (unsigned i = 0; i < shards(); i++)
            lose(i, LOSS_ABSENT);
        assert_int_equal(read_range(0, 1), -ENOENT);
        assert_int_equal(read_range(0, fx.linear_count), -ENOENT);
        struct row_directory *directory;
        assert_int_equal(row_read_directory(&fx.io, &fx.place, 0, &directory), -ENOENT);
        end();
    }
}

static void absence_is_not_concluded_from_damage(void *arg)
{
    begin((struct shard_code){2, 1}, 0);
    create_and_fill();
    lose(0, LOSS_ABSENT);
    lose(1, LOSS_ABSENT);
    fake_disk_damage_block(fake_of(2), key_of(2), 1);
    assert_int_equal(read_range(0, 1), -EIO);
    end();
}

static void one_copy_on_a_local_disk_is_preferred(void *arg)
{
    begin((struct shard_code){1, 2}, 0);
    create_and_fill();
    fx.fakes[0]->disk.local = fx.fakes[2]->disk.local = false;
    read_everything();
    assert_true(fx.fakes[0]->reads == 0 && fx.fakes[1]->reads > 0 && fx.fakes[2]->reads == 0);
    fx.place.shards[1].state = CHUNK_SHARD_DAMAGED; /* then rather a good one elsewhere */
    fx.fakes[1]->reads = 0;
    read_everything();
    assert_int_equal(fx.fakes[1]->reads, 0);
    end();
}

static void disks_much_slower_than_the_others_are_read_around(void *arg)
{
    static const struct shard_code codes[] = {{1, 2}, {4, 2}};
    for (unsigned c = 0; c < ARRAY_SIZE(codes); c++) {
        begin(codes[c], 0);
        create_and_fill();
        fx.fakes[1]->disk.latency_ewma_ns = 200000000;
        read_everything();
        assert_int_equal(fx.fakes[1]->reads, 0);
        assert_int_equal(fx.trouble_count, 0);
        fx.fakes[2]->error = -EHOSTUNREACH; /* but rather slow than not at all */
        fx.fakes[3 % shards()]->error = c ? -EHOSTUNREACH : 0;
        read_everything();
        /* When all are slow none is. */
        for (unsigned i = 0; i < shards(); i++) {
            fx.fakes[i]->error = 0;
            fx.fakes[i]->disk.latency_ewma_ns = 200000000;
            fx.fakes[i]->reads = 0;
        }
        read_everything();
        assert_true(fx.fakes[c]->reads > 0);
        end();
    }
}

static void disks_that_failed_a_write_are_still_read(void *arg)
{
    begin((struct shard_code){4, 2}, 0);
    create_and_fill();
    for (unsigned i = 0; i < shards(); i++)
        fake_of(i)->disk.state = DISK_FAILED;
    read_everything();
    check_directories();
    assert_int_equal(fx.trouble_count, 0);
    /* but only for want of better ones */
    fake_of(1)->disk.state = fake_of(2)->disk.state = DISK_IN;
    fake_of(4)->disk.state = fake_of(5)->disk.state = DISK_IN;
    lose(0, LOSS_ABSENT);
    fake_of(3)->reads = 0;
    assert_int_equal(read_range(0, 1), 0);
    assert_int_equal(fake_of(3)->reads, 0);
    end();
}

static void reads_make_do_with_little_memory(void *arg)
{
    begin((struct shard_code){4, 2}, 0);
    create_and_fill();
    lose(0, LOSS_ABSENT);
    bufpool_set_cap_bytes(fx.io.buffers, 4 * BLOCK_BYTES);
    assert_int_equal(read_range(0, fx.linear_count), 0);
    fx.place.shards[0].state = CHUNK_SHARD_LOST;
    assert_int_equal(write_row(1), 0); /* two parity blocks fit */
    uint32_t before = fx.linear_count;
    assert_int_equal(write_row(100), -ENOMEM); /* two times 25 do not */
    assert_int_equal(fx.linear_count, before);
    bufpool_set_cap_bytes(fx.io.buffers, IO_BYTES_MAX);
    end();
}

int main(void)
{
    setenv("CMOCKA_TEST_ABORT", "1", 1); /* no way back from a failed assertion inside a fiber */
    const struct CMUnitTest tests[] = {
        FIBER_TEST(any_m_lost_shards_are_survived),
        FIBER_TEST(each_kind_of_loss_is_survived_and_told),
        FIBER_TEST(what_lost_shards_have_is_read_when_nothing_else_is_left),
        FIBER_TEST(damage_spread_over_all_shards_is_survived),
        FIBER_TEST(beyond_m_only_the_damaged_column_is_lost),
        FIBER_TEST(a_stale_block_is_not_returned),
        FIBER_TEST(absent_everywhere_is_told_as_absent),
        FIBER_TEST(absence_is_not_concluded_from_damage),
        FIBER_TEST(one_copy_on_a_local_disk_is_preferred),
        FIBER_TEST(disks_much_slower_than_the_others_are_read_around),
        FIBER_TEST(disks_that_failed_a_write_are_still_read),
        FIBER_TEST(reads_make_do_with_little_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
