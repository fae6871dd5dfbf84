/* SPDX-License-Identifier: Apache-2.0
 *
 * For tests of the shard store: shards whose every block has a known content.
 */
#pragma once

#include <stdlib.h>
#include <string.h>

#include "blockd/disk/append_header.h"
#include "blockd/disk/shard.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/mem.h"

static inline struct shard_key key_of(uint64_t volume, uint64_t chunk, uint8_t index)
{
    return (struct shard_key){.volume = volume, .chunk = chunk, .index = index};
}

static inline struct shard_create create_of(
    struct shard_key key, enum shard_kind kind, uint32_t capacity_blocks)
{
    bool coded = kind == SHARD_DATA;
    return (struct shard_create){
        .key = key,
        .kind = kind,
        .code = {.k = coded ? 4 : 1, .m = 2},
        .instance = key.chunk * 100 + key.index + 1,
        .epoch = 1,
        .capacity_blocks = capacity_blocks,
        .capacity_blocks_min = capacity_blocks,
        .priority = SHARD_PRIORITY_USER,
    };
}

static inline int create_simple(
    struct disk *disk, struct shard_key key, enum shard_kind kind, uint32_t capacity_blocks)
{
    struct shard_create create = create_of(key, kind, capacity_blocks);
    return shard_create(disk, &create, NULL);
}

/* The block of `key` at `block`, version `salt`. */
static inline void fill_block(void *buf, struct shard_key key, uint32_t block, uint32_t salt)
{
    uint64_t x = key.volume * 0x9e3779b97f4a7c15 + key.chunk * 1000003 + key.index * 7919 +
                 block * 31 + salt;
    uint64_t *words = buf;
    for (unsigned i = 0; i < BLOCK_BYTES / 8; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        words[i] = x ^ (x >> 29);
    }
}

/* Appends `count` blocks at off_blocks in the contents of fill_block. */
static inline int append_blocks(struct disk *disk, struct shard_key key, uint32_t epoch,
    uint32_t off_blocks, unsigned count, uint32_t salt, unsigned flags)
{
    uint8_t *buf = mem_alloc_pages(MAX(count, 1u) * BLOCK_BYTES);
    struct shard_entry entries[APPEND_ENTRIES_MAX];
    for (unsigned i = 0; i < count; i++) {
        uint8_t *block = buf + i * BLOCK_BYTES;
        fill_block(block, key, off_blocks + 1 + i, salt);
        entries[i] = (struct shard_entry){
            .address = 1000 + off_blocks + i, .crc = crc32c(0, block, BLOCK_BYTES), .aux = salt};
    }
    struct iovec iov = {.iov_base = buf, .iov_len = count * BLOCK_BYTES};
    struct shard_append append = {
        .disk = disk,
        .key = key,
        .epoch = epoch,
        .off_blocks = off_blocks,
        .base_seq = off_blocks,
        .entries = entries,
        .entry_count = count,
        .inline_bytes = "inline",
        .inline_len_bytes = count < 200 ? 6 : 0,
        .payload = &iov,
        .payload_count = count > 0 ? 1 : 0,
        .flags = flags,
    };
    int r = shard_append(&append);
    mem_free_pages(buf, MAX(count, 1u) * BLOCK_BYTES);
    return r;
}

/* Reads [off, off+count) and compares payload blocks with fill_block; headers are parsed. Returns
 * the read's answer; wrong bytes abort. */
static inline int read_and_compare(
    struct disk *disk, struct shard_key key, uint32_t off_blocks, uint32_t count, uint32_t salt)
{
    uint8_t *buf = mem_alloc_pages(count * BLOCK_BYTES);
    struct shard_entry *entries = mem_alloc(count * sizeof(*entries));
    uint8_t *expected = mem_alloc_pages(BLOCK_BYTES);
    int r = shard_read(disk, key, off_blocks, count, buf, entries);
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        if (entries[i].address == UINT64_MAX) {
            struct append_header header;
            CHECK(append_header_parse(buf + i * BLOCK_BYTES, &header) == 0);
            CHECK(header.off_blocks == off_blocks + i && header.key.chunk == key.chunk);
            continue;
        }
        fill_block(expected, key, off_blocks + i, salt);
        CHECK_MSG(memcmp(expected, buf + i * BLOCK_BYTES, BLOCK_BYTES) == 0,
            "wrong bytes in block %u", off_blocks + i);
    }
    mem_free_pages(expected, BLOCK_BYTES);
    mem_free(entries);
    mem_free_pages(buf, count * BLOCK_BYTES);
    return r;
}
