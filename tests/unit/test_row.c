/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows over disks in memory (tests/lib/fake_disk.h): every code, every loss that it must survive, and
 * what must happen beyond.
 */
#include "fake_env.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/disk/append_header.h"
#include "blockd/volume/row.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/mem.h"
#include "tests/lib/fake_disk.h"

#define DISKS_MAX (CODE_SHARDS_MAX + 2)
#define ROWS_MAX 4
#define BLOCKS_MAX (ROWS_MAX * CODE_K_MAX * APPEND_ENTRIES_MAX)
#define IO_BYTES_MAX (64 << 20)

static struct fake_env fake;
static uint64_t seed;

/* One chunk on fresh disks and what was written to it. Linear block i has addresses[i]. */
static struct fixture {
    struct volume_host host;
    struct list disks;
    struct fake_disk *fakes[DISKS_MAX];
    unsigned disk_count;
    struct row_io io;
    struct chunk_place place;
    uint32_t linear_count;
    uint64_t addresses[BLOCKS_MAX];
    uint64_t seqs[BLOCKS_MAX];
    unsigned trouble_count, trouble_shard;
    int trouble_error;
    uint32_t trouble_block;
    uint64_t seq_next;
} fx;

static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static const struct shard_code all_codes[] = {
    {1, 0}, {1, 1}, {1, 2}, {2, 1}, {4, 2}, {8, 3}, {16, 4}};

static unsigned shards(void)
{
    return fx.place.code.k + fx.place.code.m;
}

/* The content of the block at an address: any 4 KiB that another address does not have. */
static void content(uint64_t address, uint8_t *ret_block)
{
    uint64_t x = (address + 1) * 0x9e3779b97f4a7c15;
    for (size_t i = 0; i < BLOCK_BYTES; i += 8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy(ret_block + i, &x, 8);
    }
}

static void check_block(uint64_t address, const void *block)
{
    uint8_t expected[BLOCK_BYTES];
    if (address == ROW_PAD)
        memset(expected, 0, sizeof(expected));
    else
        content(address, expected);
    assert_memory_equal(block, expected, BLOCK_BYTES);
}

static void on_trouble(
    void *ctx, const struct chunk_place *place, unsigned shard, int error, uint32_t block)
{
    fx.trouble_count++;
    fx.trouble_shard = shard;
    fx.trouble_error = error;
    fx.trouble_block = block;
}

static void begin(struct shard_code code, unsigned spare)
{
    memset(&fx, 0, sizeof(fx));
    list_init(&fx.disks);
    fx.disk_count = code.k + code.m + spare;
    for (unsigned i = 0; i < fx.disk_count; i++) {
        fx.fakes[i] = fake_disk_new(i + 1, 20000);
        list_push_back(&fx.disks, &fx.fakes[i]->disk.link);
    }
    fx.host.disks = &fx.disks;
    fx.io = (struct row_io){.host = &fx.host, .trouble = on_trouble};
    fx.io.buffers = bufpool_new(IO_BYTES_MAX);
    fx.io.codes = rnd() % 2 ? row_codes_new() : NULL;
    fx.place = (struct chunk_place){
        .volume = 7, .chunk = 3ull << 32 | 5, .kind = SHARD_DATA, .code = code, .epoch = 3};
    fx.seq_next = 1000;
}

static void end(void)
{
    for (unsigned i = 0; i < fx.disk_count; i++)
        fake_disk_free(fx.fakes[i]);
    assert_int_equal(bufpool_used_bytes(fx.io.buffers), 0); /* nothing leaks */
    bufpool_free(fx.io.buffers);
    if (fx.io.codes)
        row_codes_free(fx.io.codes);
}

static int create(uint32_t capacity_blocks)
{
    struct disk *disks[CODE_SHARDS_MAX];
    uint64_t instances[CODE_SHARDS_MAX];
    for (unsigned i = 0; i < shards(); i++) {
        disks[i] = &fx.fakes[i]->disk;
        instances[i] = 100 + i;
    }
    return chunk_create(
        &fx.io, &fx.place, disks, instances, capacity_blocks, 8, SHARD_PRIORITY_USER);
}

/* Blocks of `count` sequential runs at random addresses, with content. */
static struct row_block *make_blocks(uint32_t count, uint8_t **ret_data)
{
    struct row_block *blocks = mem_zalloc(count, sizeof(*blocks));
    uint8_t *data = mem_alloc_pages((size_t)count * BLOCK_BYTES);
    uint64_t address = rnd() % 1000000;
    for (uint32_t i = 0; i < count; i++) {
        address = rnd() % 16 ? address + 1 : rnd() % 1000000;
        content(address, data + (size_t)i * BLOCK_BYTES);
        blocks[i] = (struct row_block){
            .address = address,
            .data = data + (size_t)i * BLOCK_BYTES,
            .crc = crc32c(0, data + (size_t)i * BLOCK_BYTES, BLOCK_BYTES),
            .seq = fx.seq_next + rnd() % 100000,
        };
    }
    *ret_data = data;
    return blocks;
}

static void commit(const struct row_block *blocks, uint32_t count)
{
    uint32_t len = row_len_for(fx.place.code, count);
    for (uint32_t i = 0; i < len * fx.place.code.k; i++) {
        fx.addresses[fx.linear_count] = i < count ? blocks[i].address : ROW_PAD;
        fx.seqs[fx.linear_count++] = i < count ? blocks[i].seq : 0;
    }
    fx.place.row_len[fx.place.row_count++] = len;
    fx.place.length_blocks += 1 + len;
}

static int write_row(uint32_t count)
{
    uint8_t *data;
    struct row_block *blocks = make_blocks(count, &data);
    int r = row_write(&fx.io, &fx.place, 0, blocks, count, rnd() % 2, NULL, NULL);
    if (r == 0)
        commit(blocks, count);
    mem_free(blocks);
    mem_free_pages(data, (size_t)count * BLOCK_BYTES);
    return r;
}

static void create_and_fill(void)
{
    unsigned k = fx.place.code.k;
    assert_int_equal(create(300), 0);
    assert_int_equal(write_row(k * 7 + 1 - (k == 1)), 0);
    assert_int_equal(write_row(1), 0);
    assert_int_equal(write_row(k * 40), 0);
}

static struct fake_disk *fake_of(unsigned shard)
{
    return fx.fakes[fx.place.shards[shard].place.disk - 1];
}

static struct shard_key key_of(unsigned shard)
{
    return chunk_shard_key(&fx.place, shard);
}

/* Reads [linear, linear + count) as one call when its addresses follow on, without the address check
 * otherwise. */
static int read_range(uint32_t linear, uint32_t count)
{
    uint8_t *buf = mem_alloc_pages((size_t)count * BLOCK_BYTES);
    memset(buf, 0xee, (size_t)count * BLOCK_BYTES);
    uint64_t address = fx.addresses[linear];
    for (uint32_t i = 0; i < count && address != UINT64_MAX; i++) {
        if (fx.addresses[linear + i] != address + i)
            address = UINT64_MAX;
    }
    int r = row_read(&fx.io, &fx.place, linear, count, address, buf);
    for (uint32_t i = 0; i < count && r == 0; i++)
        check_block(fx.addresses[linear + i], buf + (size_t)i * BLOCK_BYTES);
    mem_free_pages(buf, (size_t)count * BLOCK_BYTES);
    return r;
}

static void read_everything(void)
{
    assert_int_equal(read_range(0, fx.linear_count), 0);
    for (uint32_t i = 0; i < fx.linear_count; i += 1 + rnd() % 16)
        assert_int_equal(read_range(i, 1), 0);
    for (int i = 0; i < 8; i++) {
        uint32_t from = rnd() % fx.linear_count, len = 1 + rnd() % (fx.linear_count - from);
        assert_int_equal(read_range(from, len), 0);
    }
}

static void check_directories(void)
{
    for (unsigned row = 0; row < fx.place.row_count; row++) {
        struct row_directory *directory;
        assert_int_equal(row_read_directory(&fx.io, &fx.place, row, &directory), 0);
        uint32_t start = chunk_row_linear_start(&fx.place, row);
        assert_int_equal(directory->count, fx.place.row_len[row] * fx.place.code.k);
        uint64_t least = UINT64_MAX;
        for (uint32_t i = 0; i < directory->count; i++) {
            assert_int_equal(directory->entries[i].address, fx.addresses[start + i]);
            if (fx.addresses[start + i] == ROW_PAD)
                continue;
            assert_int_equal(directory->entries[i].seq, fx.seqs[start + i]);
            least = MIN(least, fx.seqs[start + i]);
        }
        assert_int_equal(directory->base_seq, least);
        mem_free(directory);
    }
}

/* --- The tests, each run as a fiber -------------------------------------------------------------- */

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

enum loss { LOSS_KNOWN, LOSS_ABSENT, LOSS_EIO, LOSS_UNREACHABLE, LOSS_DISK_GONE, LOSS_CUT, LOSSES };

static void lose(unsigned shard, enum loss loss)
{
    switch (loss) {
    case LOSS_KNOWN:
        fake_disk_lose_shard(fake_of(shard), key_of(shard));
        fx.place.shards[shard].state = CHUNK_SHARD_LOST;
        break;
    case LOSS_ABSENT:
        fake_disk_lose_shard(fake_of(shard), key_of(shard));
        break;
    case LOSS_EIO:
        fake_of(shard)->error = -EIO;
        break;
    case LOSS_UNREACHABLE:
        fake_of(shard)->error = -EHOSTUNREACH;
        break;
    case LOSS_DISK_GONE:
        list_remove(&fake_of(shard)->disk.link);
        break;
    default:
        fake_disk_cut_shard(fake_of(shard), key_of(shard), 0);
    }
}

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

static void sealing_and_removing_reach_every_shard(void *arg)
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
    lose(2, LOSS_ABSENT);
    lose(3, LOSS_KNOWN);
    fake_of(4)->error = -EHOSTUNREACH;
    assert_int_equal(chunk_remove(&fx.io, &fx.place, 3), -EHOSTUNREACH);
    fake_of(4)->error = 0;
    assert_int_equal(chunk_remove(&fx.io, &fx.place, 3), 0);
    for (unsigned i = 0; i < shards(); i++)
        assert_int_equal(fake_disk_shard_count(fake_of(i)), 0);
    end();
}

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

/* --- Harness -------------------------------------------------------------------------------------- */

static int setup(void **state)
{
    seed = 0x5eed5eed5eed;
    fiber_sched_init(64);
    fake_env_init(&fake);
    fiber_set_default_env(&fake.env);
    return 0;
}

static int teardown(void **state)
{
    fiber_kill_env(&fake.env);
    mem_release_all(&fake.env);
    env_fini(&fake.env);
    fiber_sched_fini();
    return 0;
}

struct fiber_test {
    fiber_fn *fn;
    bool finished;
};

static void run_fiber_test(void *arg)
{
    struct fiber_test *test = arg;
    test->fn(NULL);
    test->finished = true;
}

static void run(void **state)
{
    struct fiber_test test = {.fn = *(fiber_fn **)*state};
    fake_env_run(&fake, run_fiber_test, &test);
    assert_true(test.finished);
    assert_int_equal(mem_used_bytes(&fake.env), 0);
}

#define FIBER_TEST(f)                                                                 \
    {                                                                                 \
        .name = #f, .test_func = run, .setup_func = setup, .teardown_func = teardown, \
        .initial_state = &(struct { fiber_fn *fn; })                                  \
        {                                                                             \
            f                                                                         \
        }                                                                             \
    }

int main(void)
{
    setenv("CMOCKA_TEST_ABORT", "1", 1); /* no way back from a failed assertion inside a fiber */
    const struct CMUnitTest tests[] = {
        FIBER_TEST(places_are_found_again),
        FIBER_TEST(every_code_reads_back_what_was_written),
        FIBER_TEST(a_run_in_one_shard_is_one_read),
        FIBER_TEST(any_m_lost_shards_are_survived),
        FIBER_TEST(each_kind_of_loss_is_survived_and_told),
        FIBER_TEST(damage_spread_over_all_shards_is_survived),
        FIBER_TEST(beyond_m_only_the_damaged_column_is_lost),
        FIBER_TEST(a_stale_block_is_not_returned),
        FIBER_TEST(absent_everywhere_is_told_as_absent),
        FIBER_TEST(absence_is_not_concluded_from_damage),
        FIBER_TEST(one_copy_on_a_local_disk_is_preferred),
        FIBER_TEST(disks_much_slower_than_the_others_are_read_around),
        FIBER_TEST(disks_that_failed_a_write_are_still_read),
        FIBER_TEST(a_failed_append_fails_the_row),
        FIBER_TEST(deposed_wins_over_other_errors),
        FIBER_TEST(degraded_chunks_are_written_without_their_lost_shards),
        FIBER_TEST(creation_is_all_or_nothing),
        FIBER_TEST(capacity_is_the_least_answered),
        FIBER_TEST(sealing_and_removing_reach_every_shard),
        FIBER_TEST(a_rebuilt_shard_equals_the_lost_one),
        FIBER_TEST(a_damaged_shard_gives_its_good_blocks_to_its_successor),
        FIBER_TEST(a_fault_at_each_operation_of_a_rebuild),
        FIBER_TEST(reads_make_do_with_little_memory),
        FIBER_TEST(rows_follow_each_other_in_flight),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
