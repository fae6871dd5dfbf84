/* SPDX-License-Identifier: Apache-2.0
 *
 * What the row_*.c files share. Nothing here is for others.
 *
 * A place may change while one of these calls is suspended (rows are committed, shards move and get
 * lost), but never in what is already there: rows keep their numbers, lengths and offsets. So
 * geometry is taken from it at any time, a shard's disk and state only right before they are used.
 */
#pragma once

#include "blockd/volume/row.h"
#include "common/ec.h"

/* The disk that holds a shard; NULL when the shard is LOST or its disk is not to be had. A FAILED
 * one
 * is: it takes no more writes, but reads go on (D2). */
struct disk *row_disk(
    const struct row_io *io, const struct chunk_place *place, unsigned shard, int *ret_error);
/* A LOST shard lacks a row from some on; which it has are as they were written, each block says which it is. They are
 * read when nothing else is left. */
struct disk *row_disk_even_lost(
    const struct row_io *io, const struct chunk_place *place, unsigned shard, int *ret_error);
bool row_shard_lost(const struct chunk_place *place, unsigned shard);

/* Is its disk much slower than those of k other shards? Then decoding around it is faster. */
bool row_shard_slow(const struct row_io *io, const struct chunk_place *place, unsigned shard);

/* Is the shard a source of first choice? (Its disk may still be missing.) */
bool row_shard_good(const struct row_io *io, const struct chunk_place *place, unsigned shard);

/* Tells the caller of a shard's failure (R3). -ESTALE is not trouble of the shard: the caller is
 * deposed. A shard that ends before a committed row (-ERANGE) has lost data: told as -EBADMSG. */
void row_trouble(const struct row_io *io, const struct chunk_place *place, unsigned shard,
    int error, uint32_t block);

/* The code's tables, from io's cache or made for this call; row_ec_put when done. */
struct ec *row_ec_get(const struct row_io *io, struct shard_code code);
void row_ec_put(const struct row_io *io, struct ec *ec);

/* Reads of the same columns of one row from several shards: what decoding starts from. */
struct row_columns {
    unsigned row;
    uint32_t column, count; /* of each shard */
};

/* Largest count of columns that one decode works on, which bounds its buffers to 1 MiB. */
static inline uint32_t row_window(struct shard_code code)
{
    return 256u / code.k;
}

/* Shards that are not worth asking again within one call: they failed as a whole. */
typedef uint32_t row_shard_mask;
_Static_assert(CODE_SHARDS_MAX <= 32, "a mask holds all shards of a chunk");

/* Gets columns of one shard into buf when reading them from the shard itself failed with
 * `tried_error` (0 = was not tried) on shard `tried` (the shard itself, or for copies any): decodes
 * them from k others, down to single blocks when damage is spread. `address` as for row_read (of
 * the
 * first column; data shards only). ret_entries (may be NULL): address and aux of each block as the
 * shard's header has them, crc computed. -EIO, -ENOENT (R4), -ENOMEM. */
MAY_SUSPEND int row_recover(const struct row_io *io, const struct chunk_place *place,
    struct row_columns columns, unsigned shard, unsigned tried, int tried_error, uint64_t address,
    void *buf, struct shard_entry *ret_entries);

/* The headers of one row on k of its shards. */
struct row_headers {
    uint64_t base_seq;
    uint8_t shards[CODE_K_MAX]; /* which; data shards first */
    struct shard_entry *entries[CODE_K_MAX];
    unsigned inline_len_bytes;
    void *inline_bytes;
};
/* Finds and checks them. row_headers_fini on success. -EIO, -ENOENT (R4). */
MAY_SUSPEND int row_headers_read(const struct row_io *io, const struct chunk_place *place,
    unsigned row, struct row_headers *ret_headers);
void row_headers_fini(struct row_headers *headers);
