/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows over disks in memory (tests/lib/fake_disk.h): one chunk, what was written to it, ways to lose shards of it. For
 * tests that run as fibers of a fake env (FIBER_TEST).
 */
#pragma once

#include "fiber_test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/volume/row.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/mem.h"
#include "tests/lib/fake_disk.h"

#define DISKS_MAX (CODE_SHARDS_MAX + 2)
#define ROWS_MAX 4
#define BLOCKS_MAX (ROWS_MAX * CODE_K_MAX * APPEND_ENTRIES_MAX)
#define IO_BYTES_MAX (64 << 20)

/* One chunk on fresh disks and what was written to it. Linear block i has addresses[i]. */
static struct fixture {
    struct volume_host host;
    struct disk_list disks;
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

static const struct shard_code all_codes[] = {
    {1, 0}, {1, 1}, {1, 2}, {2, 1}, {4, 2}, {8, 3}, {16, 4}};

static inline unsigned shards(void)
{
    return fx.place.code.k + fx.place.code.m;
}

/* The content of the block at an address: any 4 KiB that another address does not have. */
static inline void content(uint64_t address, uint8_t *ret_block)
{
    uint64_t x = (address + 1) * 0x9e3779b97f4a7c15;
    for (size_t i = 0; i < BLOCK_BYTES; i += 8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy(ret_block + i, &x, 8);
    }
}

static inline void check_block(uint64_t address, const void *block)
{
    uint8_t expected[BLOCK_BYTES];
    if (address == ROW_PAD)
        memset(expected, 0, sizeof(expected));
    else
        content(address, expected);
    assert_memory_equal(block, expected, BLOCK_BYTES);
}

static inline void on_trouble(
    void *ctx, const struct chunk_place *place, unsigned shard, int error, uint32_t block)
{
    fx.trouble_count++;
    fx.trouble_shard = shard;
    fx.trouble_error = error;
    fx.trouble_block = block;
}

static inline void begin(struct shard_code code, unsigned spare)
{
    memset(&fx, 0, sizeof(fx));
    disk_list_init(&fx.disks);
    fx.disk_count = code.k + code.m + spare;
    for (unsigned i = 0; i < fx.disk_count; i++) {
        fx.fakes[i] = fake_disk_new(i + 1, 20000);
        disk_list_add(&fx.disks, &fx.fakes[i]->disk);
    }
    fx.host.disks = &fx.disks;
    fx.io = (struct row_io){.host = &fx.host, .trouble = on_trouble};
    fx.io.buffers = bufpool_new(IO_BYTES_MAX);
    fx.io.codes = rnd() % 2 ? row_codes_new() : NULL;
    fx.place = (struct chunk_place){
        .volume = 7, .chunk = 3ull << 32 | 5, .kind = SHARD_DATA, .code = code, .epoch = 3};
    fx.seq_next = 1000;
}

static inline void end(void)
{
    for (unsigned i = 0; i < fx.disk_count; i++)
        fake_disk_free(fx.fakes[i]);
    assert_int_equal(bufpool_used_bytes(fx.io.buffers), 0); /* nothing leaks */
    bufpool_free(fx.io.buffers);
    if (fx.io.codes)
        row_codes_free(fx.io.codes);
}

static inline int create(uint32_t capacity_blocks)
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
static inline struct row_block *make_blocks(uint32_t count, uint8_t **ret_data)
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

static inline void commit(const struct row_block *blocks, uint32_t count)
{
    uint32_t len = row_len_for(fx.place.code, count);
    for (uint32_t i = 0; i < len * fx.place.code.k; i++) {
        fx.addresses[fx.linear_count] = i < count ? blocks[i].address : ROW_PAD;
        fx.seqs[fx.linear_count++] = i < count ? blocks[i].seq : 0;
    }
    fx.place.row_len[fx.place.row_count++] = len;
    fx.place.length_blocks += 1 + len;
}

static inline int write_row(uint32_t count)
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

static inline void create_and_fill(void)
{
    unsigned k = fx.place.code.k;
    assert_int_equal(create(300), 0);
    assert_int_equal(write_row(k * 7 + 1 - (k == 1)), 0);
    assert_int_equal(write_row(1), 0);
    assert_int_equal(write_row(k * 40), 0);
}

static inline struct fake_disk *fake_of(unsigned shard)
{
    return fx.fakes[fx.place.shards[shard].place.disk - 1];
}

static inline struct shard_key key_of(unsigned shard)
{
    return chunk_shard_key(&fx.place, shard);
}

/* Reads [linear, linear + count) as one call when its addresses follow on, without the address check
 * otherwise. */
static inline int read_range(uint32_t linear, uint32_t count)
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

static inline void read_everything(void)
{
    assert_int_equal(read_range(0, fx.linear_count), 0);
    for (uint32_t i = 0; i < fx.linear_count; i += 1 + rnd() % 16)
        assert_int_equal(read_range(i, 1), 0);
    for (int i = 0; i < 8; i++) {
        uint32_t from = rnd() % fx.linear_count, len = 1 + rnd() % (fx.linear_count - from);
        assert_int_equal(read_range(from, len), 0);
    }
}

static inline void check_directories(void)
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

/* --- Losses --- */

enum loss { LOSS_KNOWN, LOSS_ABSENT, LOSS_EIO, LOSS_UNREACHABLE, LOSS_DISK_GONE, LOSS_CUT, LOSSES };

static inline void lose(unsigned shard, enum loss loss)
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
        disk_list_remove(&fx.disks, &fake_of(shard)->disk);
        break;
    default:
        fake_disk_cut_shard(fake_of(shard), key_of(shard), 0);
    }
}
