/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading blocks of a chunk. A range falls into pieces, one for each (row, shard) it touches; each
 * is one read straight into the caller's buffer, all in flight at once. Nearly every call is one
 * piece of one block: that path allocates nothing. Pieces that fail are decoded around
 * (row_recover.c).
 */
#include <errno.h>
#include <string.h>

#include "blockd/volume/fanout.h"
#include "blockd/volume/row_impl.h"
#include "common/check.h"
#include "common/mem.h"

#define STACK_ENTRIES 32
#define NOT_ASKED (-EBUSY) /* its disk is slow: decoded around */
#define RECOVER_WIDTH 8    /* pieces decoded at once: bounds buffers, not correctness */

struct row_piece {
    struct shard_read read;
    struct iovec iov;
    struct fiber_group *group;
    struct chunk_position position;
    uint32_t count;
    bool leave;       /* the buffer may be left behind (T2) */
    unsigned shard;   /* asked: the data shard itself, or for copies any */
    uint64_t address; /* UINT64_MAX = not to be checked */
};

/* One read call that did not fit the fast path. */
struct row_reader {
    const struct row_io *io;
    const struct chunk_place *place;
    struct fiber_group group;
    unsigned piece_count, failed_count;
    struct row_piece *pieces;
    unsigned *failed; /* indices */
    int error;
};

static void piece_done(struct shard_read *read)
{
    fiber_group_done(container_of(read, struct row_piece, read)->group, 0);
}

/* Copies: the first good one on a local disk, else a good one, else any; slow disks last. Ties are spread by
 * address,
 * coarsely enough that a sequential reader stays on one disk for a while. */
static unsigned pick_copy(
    const struct row_io *io, const struct chunk_place *place, uint32_t off_blocks)
{
    unsigned copies = 1u + place->code.m, first = off_blocks / 64 % copies;
    unsigned best = first, best_score = 0;
    for (unsigned i = 0; i < copies; i++) {
        unsigned shard = (first + i) % copies;
        int error;
        const struct disk *disk = row_disk(io, place, shard, &error);
        if (!disk)
            continue;
        unsigned score = 1 + row_shard_good(io, place, shard) * 4u +
                         !row_shard_slow(io, place, shard) * 2u + disk->local;
        if (score > best_score) {
            best = shard;
            best_score = score;
        }
    }
    return best;
}

static void piece_submit(const struct row_io *io, const struct chunk_place *place,
    struct row_piece *piece, struct shard_entry *entries, struct fiber_group *group)
{
    piece->shard = place->code.k > 1 ? piece->position.shard
                                     : pick_copy(io, place, piece->position.off_blocks);
    struct disk *disk = row_disk(io, place, piece->shard, &piece->read.result);
    if (!disk)
        return;
    if (place->code.k > 1 && row_shard_slow(io, place, piece->shard)) {
        piece->read.result = NOT_ASKED;
        return;
    }
    piece->group = group;
    piece->read = (struct shard_read){
        .disk = disk,
        .key = chunk_shard_key(place, piece->shard),
        .off_blocks = piece->position.off_blocks,
        .count = piece->count,
        .iov = &piece->iov,
        .iov_count = 1,
        .leave = piece->leave,
        .ret_entries = piece->address == UINT64_MAX ? NULL : entries,
        .done = piece_done,
    };
    fiber_group_add(group, 1);
    shard_read_submit(&piece->read);
}

/* After its read is done: its result, with a wrong address taken for damage (R2). */
static int piece_check(
    const struct row_io *io, const struct chunk_place *place, struct row_piece *piece)
{
    int r = piece->read.result;
    uint32_t bad = r == -EBADMSG ? piece->read.ret_damaged_block : piece->position.off_blocks;
    const struct shard_entry *entries = piece->read.ret_entries;
    for (uint32_t i = 0; r == 0 && entries && i < piece->count; i++) {
        if (entries[i].address != piece->address + i) {
            bad = piece->position.off_blocks + i;
            r = -EBADMSG;
        }
    }
    if (r < 0 && r != NOT_ASKED)
        row_trouble(io, place, piece->shard, r, bad);
    piece->read.result = r;
    return r;
}

static MAY_SUSPEND int piece_recover(
    const struct row_io *io, const struct chunk_place *place, const struct row_piece *piece)
{
    uint32_t column =
        piece->position.off_blocks - chunk_row_off_blocks(place, piece->position.row) - 1;
    struct row_columns columns = {piece->position.row, column, piece->count};
    int tried = piece->read.result == NOT_ASKED ? 0 : piece->read.result;
    return row_recover(io, place, columns, piece->position.shard, piece->shard, tried,
        piece->address, piece->iov.iov_base, NULL);
}

static void recover_failed(void *ctx, unsigned i)
{
    struct row_reader *reader = ctx;
    int r = piece_recover(reader->io, reader->place, &reader->pieces[reader->failed[i]]);
    if (r < 0 && (reader->error == 0 || reader->error == -ENOENT))
        reader->error = r; /* "deleted" only when nothing worse happened */
}

static void init_piece(struct row_piece *piece, struct chunk_position position, uint32_t count,
    uint64_t address, void *buf, bool leave)
{
    piece->leave = leave;
    piece->position = position;
    piece->count = count;
    piece->address = address;
    piece->iov = (struct iovec){.iov_base = buf, .iov_len = (size_t)count * BLOCK_BYTES};
}

static MAY_SUSPEND int read_one(const struct row_io *io, const struct chunk_place *place,
    struct chunk_position position, uint32_t count, uint64_t address, void *buf, bool leave)
{
    struct shard_entry entries[STACK_ENTRIES];
    struct row_piece piece;
    struct fiber_group group;
    fiber_group_init(&group);
    init_piece(&piece, position, count, address, buf, leave);
    piece.read.ret_entries = NULL;
    piece_submit(io, place, &piece, entries, &group);
    fiber_group_wait(&group);
    if (piece_check(io, place, &piece) == 0)
        return 0;
    return piece_recover(io, place, &piece);
}

static unsigned count_pieces(const struct chunk_place *place, uint32_t linear, uint32_t count)
{
    unsigned pieces = 0;
    while (count > 0) {
        uint32_t run = chunk_locate(place, linear).run_blocks;
        linear += MIN(run, count);
        count -= MIN(run, count);
        pieces++;
    }
    return pieces;
}

static MAY_SUSPEND int read_many(const struct row_io *io, const struct chunk_place *place,
    uint32_t linear, uint32_t count, uint64_t address, void *buf, bool leave)
{
    struct row_reader reader = {
        .io = io, .place = place, .piece_count = count_pieces(place, linear, count)};
    fiber_group_init(&reader.group);
    CLEANUP_FREE struct row_piece *pieces = reader.pieces =
        mem_zalloc(reader.piece_count, sizeof(*pieces));
    CLEANUP_FREE unsigned *failed = reader.failed = mem_zalloc(reader.piece_count, sizeof(*failed));
    CLEANUP_FREE struct shard_entry *entries = mem_alloc(count * sizeof(*entries));

    uint32_t done = 0;
    for (unsigned i = 0; i < reader.piece_count; i++) {
        struct chunk_position position = chunk_locate(place, linear + done);
        uint32_t run = MIN(position.run_blocks, count - done);
        init_piece(&pieces[i], position, run, address == UINT64_MAX ? address : address + done,
            (char *)buf + (size_t)done * BLOCK_BYTES, leave);
        piece_submit(io, place, &pieces[i], entries + done, &reader.group);
        done += run;
    }
    fiber_group_wait(&reader.group);
    for (unsigned i = 0; i < reader.piece_count; i++) {
        if (piece_check(io, place, &pieces[i]) < 0)
            failed[reader.failed_count++] = i;
    }
    fanout_run("row recover", reader.failed_count, RECOVER_WIDTH, recover_failed, &reader);
    return reader.error;
}

int row_read(const struct row_io *io, const struct chunk_place *place, uint32_t linear,
    uint32_t count, uint64_t address, void *buf)
{
    return row_read_leaving(io, place, linear, count, address, buf, false);
}

int row_read_leaving(const struct row_io *io, const struct chunk_place *place, uint32_t linear,
    uint32_t count, uint64_t address, void *buf, bool leave)
{
    CHECK(count > 0);
    struct chunk_position position = chunk_locate(place, linear);
    if (count <= position.run_blocks && count <= STACK_ENTRIES)
        return read_one(io, place, position, count, address, buf, leave);
    return read_many(io, place, linear, count, address, buf, leave);
}
