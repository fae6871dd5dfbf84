/* SPDX-License-Identifier: Apache-2.0
 *
 * Making a lost or damaged shard again on another disk.
 *
 * The new shard is the old one append by append: same offsets, same entries, base_seq and inline
 * bytes, each block decoded from k verified others. What differs is the creation (instance, nonce,
 * epoch). It becomes durable with the seal at the end; until the caller has recorded the move
 * nobody
 * reads it, so a crash half-way leaves garbage that reconciliation removes.
 */
#include <errno.h>

#include "blockd/volume/row_impl.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"

struct rebuild {
    const struct row_io *io;
    const struct chunk_place *place;
    unsigned shard;
    struct disk *target;
    struct shard_key key;
    uint32_t epoch;
};

static MAY_SUSPEND int append_row(struct rebuild *rb, unsigned row,
    const struct row_headers *headers, const struct shard_entry *entries, void *blocks)
{
    uint32_t len = rb->place->row_len[row];
    struct iovec payload = {.iov_base = blocks, .iov_len = (size_t)len * BLOCK_BYTES};
    struct shard_append append = {
        .disk = rb->target,
        .key = rb->key,
        .epoch = rb->epoch,
        .off_blocks = chunk_row_off_blocks(rb->place, row),
        .base_seq = headers->base_seq,
        .entries = entries,
        .entry_count = len,
        .inline_bytes = headers->inline_bytes,
        .inline_len_bytes = headers->inline_len_bytes,
        .payload = &payload,
        .payload_count = 1,
    };
    return shard_append(&append);
}

static MAY_SUSPEND int rebuild_row(struct rebuild *rb, unsigned row)
{
    struct row_headers headers;
    int r = row_headers_read(rb->io, rb->place, row, &headers);
    if (r < 0)
        return r;
    uint32_t len = rb->place->row_len[row];
    struct row_columns columns = {.row = row, .column = 0, .count = len};
    CLEANUP_FREE struct shard_entry *entries = mem_alloc(len * sizeof(*entries));
    size_t len_bytes = (size_t)len * BLOCK_BYTES;
    void *blocks = bufpool_get_run(rb->io->buffers, len_bytes);
    r = blocks ? row_recover(rb->io, rb->place, columns, rb->shard, rb->shard, 0, UINT64_MAX,
                     blocks, entries)
               : -ENOMEM;
    if (r == 0)
        r = append_row(rb, row, &headers, entries, blocks);
    if (blocks)
        bufpool_put_run(rb->io->buffers, blocks, len_bytes);
    row_headers_fini(&headers);
    return r;
}

int row_rebuild_shard(const struct row_io *io, const struct chunk_place *place, unsigned shard,
    struct disk *target, uint64_t instance, uint32_t epoch, enum shard_priority priority)
{
    CHECK_MSG(place->sealed, "only sealed shards are completed (S23)");
    CHECK(shard < place->code.k + place->code.m);
    struct rebuild rb = {
        .io = io,
        .place = place,
        .shard = shard,
        .target = target,
        .key = chunk_shard_key(place, shard),
        .epoch = epoch,
    };
    struct shard_create create = {
        .key = rb.key,
        .kind = place->kind,
        .code = place->code,
        .instance = instance,
        .epoch = epoch,
        .capacity_blocks = MAX(place->length_blocks, 1u),
        .capacity_blocks_min = MAX(place->length_blocks, 1u),
        .priority = priority,
    };
    int r = shard_create(target, &create, NULL);
    if (r < 0)
        return r;
    for (unsigned row = 0; r == 0 && row < place->row_count; row++)
        r = rebuild_row(&rb, row);
    if (r == 0)
        r = shard_seal(target, rb.key, epoch, place->length_blocks);
    if (r < 0) {
        log_warn("volume %016llx chunk %llx: shard %u could not be rebuilt on disk %u: error %d",
            (unsigned long long)place->volume, (unsigned long long)place->chunk, shard,
            target->number, -r);
        shard_remove(target, rb.key, instance, epoch);
    }
    return r;
}
