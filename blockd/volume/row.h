/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows: how blocks become k+m appends and come back, also when shards are lost.
 *
 * A row's directory (the address and aux of each data block) stands in the headers of its data
 * shards; the headers of its parity shards hold, in the same fields, the Reed-Solomon parity of
 * them (coded byte-wise over the 12 bytes address+aux, little-endian). So it survives any m losses
 * as the data does. aux of a data block is its sequence number minus the header's base_seq.
 *
 * Invariants
 *  R1 A row is on all shards that the chunk names, or it is not part of the volume: row_write
 *     answers 0 only when every shard's append was answered 0 (durable, if asked for).
 *  R2 Nothing returned by row_read has failed a check: bytes are verified by the storing disk
 *     against their CRC, and by the reader against the address expected.
 *  R3 A shard's failure is reported (row_io.trouble) and read around; only more than m failures in
 *     the same blocks make -EIO.
 *  R4 "Deleted" on shards of a place that the caller no longer holds current is the caller's affair:
 *     when fewer than k shards give their blocks and all others that answer say -ENOENT (none:
 *     damaged), row_read answers -ENOENT (refresh and retry; -ENOENT from a place that is current
 *     means lost).
 *
 * A `place` must stay allocated during a call. Rows may be committed to it and shards may move or
 * change state meanwhile; the rows that it has never change.
 */
#pragma once

#include "blockd/volume/chunk.h"
#include "blockd/volume/volume.h"
#include "common/bufpool.h"

/* Tables of the codes in use, kept between calls (one per env: volumes can share it). */
struct row_codes;
struct row_codes *row_codes_new(void);
void row_codes_free(struct row_codes *codes);

struct row_io {
    struct volume_host *host; /* finds disks by number */
    struct bufpool *buffers;  /* parity and decode buffers. At its cap row_write answers -ENOMEM at
                                once (nothing was submitted: wait and try again), reads wait */
    struct row_codes *codes;  /* NULL: tables are made anew in each call */
    /* Told for each shard that failed a read or append: -EBADMSG (damaged at `block`), -ENOENT,
     * -EIO, -EHOSTUNREACH. May be NULL. */
    void (*trouble)(
        void *ctx, const struct chunk_place *place, unsigned shard, int error, uint32_t block);
    void *ctx;
};

struct row_block {
    uint64_t address;
    const void *data; /* 4 KiB, aligned; stays until row_write returns */
    uint32_t crc;
    uint64_t seq;
};

/* Blocks per shard that a row of `count` blocks takes. */
static inline uint32_t row_len_for(struct shard_code code, uint32_t count)
{
    return (count + code.k - 1) / code.k;
}

/* Writes `count` blocks (in the order that they shall have, 1..k*APPEND_ENTRIES_MAX) as one row at
 * place->length_blocks plus `ahead_blocks` (rows in flight before this one). base_seq = lowest seq
 * of the blocks. dsync: durable when answered. Does NOT change `place`: the caller commits the row.
 * Shards in state LOST are skipped (degraded chunk). ret_header_crcs (may be NULL): k+m values.
 * ret_errors (may be NULL): k+m results. Answers the first shard error; -ESTALE (deposed) wins over
 * others. */
MAY_SUSPEND int row_write(const struct row_io *io, const struct chunk_place *place,
    uint32_t ahead_blocks, const struct row_block *blocks, uint32_t count, bool dsync,
    uint32_t *ret_header_crcs, int *ret_errors);

/* Reads `count` linear blocks from `linear` into buf (aligned). `address` is what block `linear`
 * must carry, the following ones address+1...; UINT64_MAX = do not check. Runs that span shards or
 * rows are read in parallel; a failed shard is decoded around. */
MAY_SUSPEND int row_read(const struct row_io *io, const struct chunk_place *place, uint32_t linear,
    uint32_t count, uint64_t address, void *buf);
/* With `leave`, buf may be left behind with a read that hangs: whatever the answer is, env_memory_left() says
 * whether what is in it counts (env.h, T2). */
MAY_SUSPEND int row_read_leaving(const struct row_io *io, const struct chunk_place *place,
    uint32_t linear, uint32_t count, uint64_t address, void *buf, bool leave);

struct row_directory {
    uint64_t base_seq;
    uint32_t count; /* k * len */
    struct {
        uint64_t address; /* ROW_PAD for padding */
        uint64_t seq;
    } entries[]; /* in linear order */
};
/* Reads the directory of row `row` from any k shards' headers. mem_free. -EIO when fewer than k can
 * be had. Checks that what the headers say (offset, length, chunk) is what the place says. */
MAY_SUSPEND int row_read_directory(const struct row_io *io, const struct chunk_place *place,
    unsigned row, struct row_directory **ret_directory);

/* Rebuilds shard `shard` of a sealed chunk onto `target` as a new shard with `instance`, row by row
 * from k others, verified; sealed to place->length_blocks and durable when answered. The caller
 * then records the move. `epoch` is the caller's. Identical headers' content (entries, base_seq,
 * inline bytes of the row) as the lost one had. */
MAY_SUSPEND int row_rebuild_shard(const struct row_io *io, const struct chunk_place *place,
    unsigned shard, struct disk *target, uint64_t instance, uint32_t epoch,
    enum shard_priority priority);

/* Makes all k+m shards of a new chunk on disks[] (k+m of them; NULL = not placed: state LOST).
 * Fills place (capacity = the least answered). All are durable when answered; on error those made
 * are removed again; -EHOSTUNREACH: some of that had no answer, and shards may be left. */
MAY_SUSPEND int chunk_create(const struct row_io *io, struct chunk_place *place,
    struct disk *const *disks, const uint64_t *instances, uint32_t capacity_blocks,
    uint32_t capacity_blocks_min, enum shard_priority priority);
/* Seals every present shard at place->length_blocks, in parallel; a shard that cannot be sealed is
 * reported by `trouble`, first error answered. */
MAY_SUSPEND int chunk_seal(
    const struct row_io *io, const struct chunk_place *place, uint32_t epoch);
