/* SPDX-License-Identifier: Apache-2.0
 *
 * Large writes skip the log's copies: the data goes as a row straight to a chunk, then a log record
 * refers to it.
 *
 * Invariants
 *  L1 The log record is queued only after the row is on all shards that the manifest names (S14),
 *     and
 *     rows of one place get their records in the order in which they stand there: the place's
 *     geometry
 *     at recovery is what the records say, without a hole.
 *  L2 A row is invisible before its record is: it has no entry in the memtable.
 *  L3 The place is not sealed before the manifest has all rows that a record names, nor flushed
 *     past: its shards are part of
 *     every flush until they are synced (unsynced_rows, S4).
 */
#include <errno.h>
#include <string.h>

#include "blockd/volume/volume_impl.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/planted.h"

#define RETRY_NS 50000000ull

struct large {
    struct list link; /* volume.bypass_queue: in the order of submission */
    uint64_t chunk_index;
    uint64_t place_chunk;
    unsigned row, len;
    uint32_t linear, end_blocks;
    int result;
};

static struct place *large_place(const struct volume *v, const struct open_chunk *open)
{
    struct lchunk *chunk = open->index ? state_chunk(&v->state, open->index) : NULL;
    return chunk ? chunk->place : NULL;
}

static bool has_room(const struct place *p, unsigned len)
{
    return p && !p->retired && !p->sealed && p->row_count < CHUNK_ROWS_MAX &&
           place_length_blocks(p, p->row_count) + 1 + len <= p->capacity_blocks;
}

/* A place with room for a row of `len`; the mutex is held, so rows take their places in order. */
static int claim_place(
    struct volume *v, unsigned len, const struct request *request, struct place **ret_place)
{
    for (;;) {
        if (request_given_up(request)) /* E4 */
            return -ECANCELED;
        struct place *p = large_place(v, &v->bypass_chunk);
        if (has_room(p, len)) {
            *ret_place = p;
            return 0;
        }
        v->bypass_chunk.index = 0;
        if (p)
            place_retire(v, p);
        if (v->bypass_spare.index) {
            v->bypass_chunk = v->bypass_spare;
            v->bypass_spare.index = 0;
            fiber_queue_wake_all(&v->provisioner_wake);
            continue;
        }
        uint64_t index;
        int r = chunk_new(v, SHARD_DATA, SHARD_PRIORITY_USER, false, &index);
        if (r == -ESHUTDOWN || v->halted || v->closed_to_io)
            return -ESHUTDOWN;
        if (r == -ENOSPC) {
            if ((r = reclaim_wait(v)) < 0)
                return r;
            continue; /* something was freed: try again, no chunk was made */
        }
        if (r < 0) { /* too few disks are up just now: writes wait (section 8) */
            env_sleep_ns(RETRY_NS);
            continue;
        }
        v->bypass_chunk.index = index;
    }
}

/* Gives the row its place; nothing suspends between this and the submission in row_write. */
static void claim_row(struct volume *v, struct large *large, struct place *p, unsigned len,
    struct chunk_place *ret_place)
{
    place_expand(&v->state, p, ret_place); /* length: where this row begins */
    large->chunk_index = row_chunk(v, v->bypass_chunk.index, p);
    large->place_chunk = p->chunk;
    large->linear = place_linear_end(p, p->row_count);
    large->len = len;
    large->row = place_add_row(p, len);
    large->end_blocks = place_length_blocks(p, p->row_count);
    p->appending++;
    list_push_back(&v->bypass_queue, &large->link);
}

/* The row failed: no later row of the place can have succeeded on all shards; they all go
 * elsewhere. */
static void drop_rows(struct volume *v, struct place *p, unsigned from_row)
{
    if (p->row_count > from_row)
        p->row_count = (uint8_t)from_row;
    if (v->bypass_chunk.index && large_place(v, &v->bypass_chunk) == p)
        v->bypass_chunk.index = 0;
    place_retire(v, p);
}

static void fill_blocks(
    struct row_block *blocks, uint64_t block, unsigned count, const uint8_t *data)
{
    for (unsigned i = 0; i < count; i++) {
        const uint8_t *at = data + (size_t)i * BLOCK_BYTES;
        blocks[i] =
            (struct row_block){.address = block + i, .data = at, .crc = crc32c(0, at, BLOCK_BYTES)};
    }
}

/* The record, once all earlier rows have theirs (L1). */
static int record_row_written(struct volume *v, struct large *large, uint64_t block, unsigned count,
    const uint32_t *header_crcs, unsigned flags, struct request *request)
{
    struct lchunk *chunk = state_chunk(&v->state, large->chunk_index);
    bool froze = false;
    struct memtable_gen *gen = memtable_active(&v->memtable, 0, env_now_ns(), &froze);
    struct commit commit = {.record = {.type = LOG_ROW,
                                .block = block,
                                .count = count,
                                .session = request->session,
                                .number = request->number,
                                .chunk_index = large->chunk_index,
                                .row = (uint16_t)large->row,
                                .row_len = (uint16_t)large->len,
                                .linear = large->linear,
                                .header_crc_count = (uint8_t)place_shards(chunk->place)},
        .seq = v->next_seq,
        .fua = flags & VOLUME_FUA};
    memcpy(commit.record.header_crcs, header_crcs, 4 * place_shards(chunk->place));
    partials_touch(v, block, count);
    memtable_put_mapped(
        gen, block, count, map_entry(MAP_MAPPED, 0, large->chunk_index, large->linear), commit.seq);
    memtable_put_row(gen, &(struct memtable_row){.chunk_index = large->chunk_index,
                              .row = (uint16_t)large->row,
                              .len = (uint16_t)large->len,
                              .block = block,
                              .count = count,
                              .seq = commit.seq});
    chunk->memtable_rows++;
    chunk->place->unsynced_rows++;
    chunk->place->unsynced_end_blocks = large->end_blocks;
    v->unsynced_rows++;
    request_note(request, block + count, commit.seq);
    log_enqueue(v, &commit);
    list_remove(&large->link);
    fiber_queue_wake_all(&v->bypass_turn);
    if (froze || gen->row_count >= 64)
        fiber_queue_wake_all(&v->destager_wake);
    int r = log_wait(v, &commit);
    if (r == 0 && (flags & VOLUME_FUA))
        r = log_sync_to(v, commit.seq);
    return r;
}

/* One attempt; 1 = the place failed, try another. */
static int attempt(struct volume *v, uint64_t block, unsigned count, const struct row_block *blocks,
    unsigned flags, struct request *request)
{
    struct large large;
    struct place *p = NULL;
    struct chunk_place place;
    uint32_t header_crcs[CODE_SHARDS_MAX] = {0};
    fiber_mutex_lock(&v->bypass_mutex);
    unsigned len = row_len_for(v->pool.code, count);
    int r = v->halted ? -ESHUTDOWN : claim_place(v, len, request, &p);
    if (r == 0)
        claim_row(v, &large, p, len, &place);
    fiber_mutex_unlock(&v->bypass_mutex);
    if (r < 0)
        return r;
    r = row_write(&v->row_io, &place, 0, blocks, count, false, header_crcs, NULL);
    while (v->bypass_queue.next != &large.link)
        fiber_queue_wait(&v->bypass_turn);
    p = state_place(&v->state, large.place_chunk);
    CHECK(p && p->appending > 0); /* a place with rows in flight is neither sealed nor freed */
    p->appending--;
    bool given_up = request_given_up(request); /* E4 */
    if (r == 0 && large.row < p->row_count && !v->halted && !given_up)
        return record_row_written(v, &large, block, count, header_crcs, flags, request);
    drop_rows(v, p, large.row);
    list_remove(&large.link);
    fiber_queue_wake_all(&v->bypass_turn);
    if (r == -ESTALE)
        volume_deposed(v);
    if (v->halted || given_up)
        return v->halted ? -ESHUTDOWN : -ECANCELED;
    if (r == -ENOMEM) /* no parity buffers just now */
        env_sleep_ns(1000000);
    return 1;
}

int large_write(struct volume *v, uint64_t block, unsigned count, const void *buf, unsigned flags,
    struct request *request)
{
    v->bypass_active = true;
    size_t copy_bytes = 0;
    void *copy = NULL;
    if (!(flags & VOLUME_STABLE) || (uintptr_t)buf % BLOCK_BYTES != 0) {
        copy_bytes = (size_t)count * BLOCK_BYTES;
        copy = mem_alloc_pages(copy_bytes);
        memcpy(copy, buf, copy_bytes); /* guests change buffers under way */
        buf = copy;
    }
    struct row_block *blocks = mem_alloc(count * sizeof(*blocks));
    fill_blocks(blocks, block, count, buf);
    int r;
    do
        r = attempt(v, block, count, blocks, flags, request);
    while (r == 1);
    mem_free(blocks);
    if (copy && !PLANTED(row_record_early))
        mem_free_pages(copy, copy_bytes);
    return r;
}
