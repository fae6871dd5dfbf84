/* SPDX-License-Identifier: Apache-2.0
 *
 * A chunk as a place: k+m shards on different disks that hold rows. Every row is one append of
 * equal length on each shard, so all shards of a chunk have the same geometry.
 *
 * Addressing. Blocks of a chunk are numbered by their LINEAR index: row after row, inside a row
 * shard after shard (shard-major: data runs are long on one disk, a small read touches one disk). A
 * row of `len` blocks per shard holds k * len linear blocks; linear block j of a row is block j %
 * len of shard j / len; it stands at shard offset row_start + 1 + j % len (the 1 is the append's
 * header). Map entries hold linear indices: they stay true for ever (architecture section 6).
 */
#pragma once

#include "blockd/cluster/records.h"

#define CHUNK_ROWS_MAX 64
#define ROW_PAD UINT64_MAX /* entry address of padding */

enum chunk_shard_state {
    CHUNK_SHARD_OK,
    CHUNK_SHARD_LOST,    /* nothing usable there: rebuild to another disk */
    CHUNK_SHARD_DAMAGED, /* some blocks fail their check: good blocks are still read, rebuild wanted
                          */
};

struct chunk_shard {
    struct shard_place place;
    enum chunk_shard_state state;
};

struct chunk_place {
    uint64_t volume;
    uint64_t chunk; /* shard_key.chunk */
    enum shard_kind kind;
    struct shard_code code;
    uint32_t epoch;           /* of the creator */
    uint32_t capacity_blocks; /* per shard, headers included */
    uint32_t length_blocks;   /* per shard: end of the last committed row */
    bool sealed;
    unsigned row_count;
    uint16_t row_len[CHUNK_ROWS_MAX]; /* blocks per shard, without the header */
    struct chunk_shard shards[CODE_SHARDS_MAX];
};

struct chunk_position {
    unsigned row;
    unsigned shard;      /* data shard */
    uint32_t off_blocks; /* in the shard */
    uint32_t run_blocks; /* how many linear blocks from here are contiguous in this shard and row */
};

/* Pure. The linear index must be below chunk_linear_end(). */
struct chunk_position chunk_locate(const struct chunk_place *place, uint32_t linear);
uint32_t chunk_linear_end(const struct chunk_place *place);
uint32_t chunk_row_linear_start(const struct chunk_place *place, unsigned row);
uint32_t chunk_row_off_blocks(const struct chunk_place *place, unsigned row); /* of its header */
struct shard_key chunk_shard_key(const struct chunk_place *place, unsigned shard);
