/* SPDX-License-Identifier: Apache-2.0
 *
 * Getting blocks of a shard that its own disk does not give.
 *
 * The same columns are read from k other shards and decoded, good shards before DAMAGED ones,
 * another
 * shard taking the place of each that fails. When that leaves fewer than k, damage may still be
 * spread so that no single column has lost more than m blocks: then each column is tried by itself,
 * the wanted shard's own block first. What the headers record for the blocks is decoded as well, so
 * a
 * decoded block's address is checked like that of a block that was read (R2).
 *
 * For copies (k = 1) the others hold the very bytes, and "decoding" is reading one of them.
 */
#include <errno.h>

#include "blockd/volume/row_impl.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"

#define BUFFER_TRIES 2000
#define BUFFER_WAIT_NS 1000000

struct source {
    struct shard_read read;
    struct iovec iov;
    struct fiber_group *group;
    unsigned shard;
    void *buf;
    struct shard_entry *entries;
};

struct recovery {
    const struct row_io *io;
    const struct chunk_place *place;
    struct shard_code code;
    unsigned shard;
    uint32_t row_off;    /* of the row's first payload block, in the shard */
    uint64_t address;    /* of column 0; UINT64_MAX = not to be checked */
    row_shard_mask dead; /* failed as a whole: not worth asking again */
    bool absent_seen, damage_seen, unreachable_seen;
    struct fiber_group group;
    uint32_t window;
    struct shard_entry *entries; /* `window` of the wanted shard, then of each source */
    uint8_t *buffer;
    size_t buffer_bytes;
    struct ec *ec;
    struct source sources[CODE_K_MAX]; /* k of them */
};

/* Takes note of a failed read; reads of other columns may still succeed only after -EBADMSG. */
static void note_failure(struct recovery *rec, unsigned shard, int error)
{
    if (error == -ENOENT && !row_shard_lost(rec->place, shard))
        rec->absent_seen = true;
    if (error == -EBADMSG || error == -ERANGE)
        rec->damage_seen = true;
    rec->unreachable_seen = rec->unreachable_seen || error == -EHOSTUNREACH;
    if (error != -EBADMSG)
        rec->dead |= (row_shard_mask)1 << shard;
}

/* What is away may come back and make up for what is damaged (S14). */
static int final_error(const struct recovery *rec)
{
    if (rec->damage_seen)
        return rec->unreachable_seen ? -EHOSTUNREACH : -EIO;
    return rec->absent_seen ? -ENOENT : rec->unreachable_seen ? -EHOSTUNREACH : -EIO;
}

static uint64_t expected_address(const struct recovery *rec, uint32_t column)
{
    return rec->address == UINT64_MAX ? UINT64_MAX : rec->address + column;
}

static void source_done(struct shard_read *read)
{
    fiber_group_done(container_of(read, struct source, read)->group, 0);
}

/* False when the shard's disk is not to be had. */
static bool source_submit(
    struct recovery *rec, struct source *source, unsigned shard, uint32_t column, uint32_t count)
{
    int error;
    struct disk *disk = row_disk_even_lost(rec->io, rec->place, shard, &error);
    if (!disk) {
        note_failure(rec, shard, error);
        return false;
    }
    source->shard = shard;
    source->group = &rec->group;
    source->iov = (struct iovec){.iov_base = source->buf, .iov_len = (size_t)count * BLOCK_BYTES};
    source->read = (struct shard_read){
        .disk = disk,
        .key = chunk_shard_key(rec->place, shard),
        .off_blocks = rec->row_off + column,
        .count = count,
        .iov = &source->iov,
        .iov_count = 1,
        .ret_entries = source->entries,
        .done = source_done,
    };
    fiber_group_add(&rec->group, 1);
    shard_read_submit(&source->read);
    return true;
}

static bool source_good(struct recovery *rec, const struct source *source)
{
    const struct shard_read *read = &source->read;
    if (read->result == 0)
        return true;
    note_failure(rec, source->shard, read->result);
    row_trouble(rec->io, rec->place, source->shard, read->result,
        read->result == -EBADMSG ? read->ret_damaged_block : read->off_blocks);
    return false;
}

/* Shards to ask, best first; answers how many. */
static unsigned candidates(const struct recovery *rec, row_shard_mask exclude, uint8_t *ret_shards)
{
    unsigned count = 0, shards = rec->code.k + rec->code.m;
    for (int rank = 2; rank >= 0; rank--) {
        for (unsigned i = 0; i < shards; i++) {
            int its = row_shard_lost(rec->place, i)            ? 0
                      : row_shard_good(rec->io, rec->place, i) ? 2
                                                               : 1;
            if (its == rank && !((rec->dead | exclude) >> i & 1))
                ret_shards[count++] = (uint8_t)i;
        }
    }
    return count;
}

/* Fills all k sources with the same columns of k different shards. */
static MAY_SUSPEND int gather(
    struct recovery *rec, row_shard_mask exclude, uint32_t column, uint32_t count)
{
    uint8_t shards[CODE_SHARDS_MAX];
    unsigned shard_count = candidates(rec, exclude, shards), next = 0, good = 0;
    if (shard_count < rec->code.k)
        return -EIO;
    while (good < rec->code.k) {
        /* sources[0..good) are filled, [good..asked) in flight */
        unsigned asked = good;
        while (asked < rec->code.k && next < shard_count)
            asked += source_submit(rec, &rec->sources[asked], shards[next++], column, count);
        if (asked == good)
            return -EIO;
        fiber_group_wait(&rec->group);
        for (unsigned i = good; i < asked; i++) {
            if (!source_good(rec, &rec->sources[i]))
                continue;
            struct source swap = rec->sources[good]; /* only buffers and shard numbers matter now */
            rec->sources[good++] = rec->sources[i];
            if (i != good - 1)
                rec->sources[i] = swap;
        }
    }
    return 0;
}

static int check_entries(
    struct recovery *rec, uint32_t column, uint32_t count, const struct shard_entry *entries)
{
    if (rec->address == UINT64_MAX)
        return 0;
    for (uint32_t i = 0; i < count; i++) {
        if (entries[i].address == expected_address(rec, column + i))
            continue;
        rec->damage_seen = true;
        log_error_limited("volume %016llx chunk %llx: block %u of shard %u carries address %llu "
                          "where the map says %llu: not returned",
            (unsigned long long)rec->place->volume, (unsigned long long)rec->place->chunk,
            rec->row_off + column + i, rec->shard, (unsigned long long)entries[i].address,
            (unsigned long long)expected_address(rec, column + i));
        return -EIO;
    }
    return 0;
}

/* Some columns at once, from others than those in `exclude`. */
static MAY_SUSPEND int recover_columns(struct recovery *rec, row_shard_mask exclude,
    uint32_t column, uint32_t count, void *buf, struct shard_entry *entries)
{
    if (rec->code.k == 1) {
        rec->sources[0].buf = buf;
        rec->sources[0].entries = entries;
    }
    int r = gather(rec, exclude, column, count);
    if (r < 0)
        return r;
    if (rec->code.k > 1) {
        unsigned have[CODE_K_MAX];
        const void *blocks[CODE_K_MAX], *directory[CODE_K_MAX];
        for (unsigned i = 0; i < rec->code.k; i++) {
            have[i] = rec->sources[i].shard;
            blocks[i] = rec->sources[i].buf;
            directory[i] = rec->sources[i].entries;
        }
        void *dest = entries;
        ec_decode(rec->ec, (size_t)count * BLOCK_BYTES, have, blocks, &rec->shard, 1, &buf);
        ec_decode(rec->ec, count * sizeof(*entries), have, directory, &rec->shard, 1, &dest);
    }
    return check_entries(rec, column, count, entries);
}

/* One block, from the shard itself if it gives it. */
static MAY_SUSPEND int recover_block(
    struct recovery *rec, uint32_t column, void *buf, struct shard_entry *entry)
{
    row_shard_mask self = (row_shard_mask)1 << rec->shard;
    if (rec->code.k == 1)
        return recover_columns(rec, 0, column, 1, buf, entry);
    if (!(rec->dead & self)) {
        struct source source = {.buf = buf, .entries = entry};
        if (source_submit(rec, &source, rec->shard, column, 1)) {
            fiber_group_wait(&rec->group);
            if (source_good(rec, &source) && check_entries(rec, column, 1, entry) == 0)
                return 0;
        }
    }
    return recover_columns(rec, self, column, 1, buf, entry);
}

static MAY_SUSPEND int recover_window(struct recovery *rec, row_shard_mask exclude,
    bool exclude_was_read, uint32_t column, uint32_t count, void *buf, struct shard_entry *entries)
{
    int r = recover_columns(rec, exclude, column, count, buf, entries);
    if (r == 0)
        return 0;
    if (count == 1 && exclude_was_read)
        return final_error(rec);
    for (uint32_t i = 0; i < count; i++) {
        r = recover_block(rec, column + i, (char *)buf + (size_t)i * BLOCK_BYTES, &entries[i]);
        if (r < 0)
            return final_error(rec);
    }
    return 0;
}

/* Buffers for the sources, in one piece: nobody who waits for the pool holds a part of it. Under
 * pressure the window shrinks; then this waits, since a read must not fail for memory that others
 * are
 * about to give back. */
static MAY_SUSPEND int recovery_alloc(struct recovery *rec, uint32_t count)
{
    struct bufpool *pool = rec->io->buffers;
    unsigned sources = rec->code.k > 1 ? rec->code.k : 0; /* copies go right where they belong */
    rec->window = MIN(count, row_window(rec->code));
    for (unsigned tries = 0; sources > 0; tries++) {
        rec->buffer_bytes = (size_t)sources * rec->window * BLOCK_BYTES;
        rec->buffer = bufpool_get_run(pool, rec->buffer_bytes);
        if (rec->buffer)
            break;
        if (tries == BUFFER_TRIES)
            return -ENOMEM;
        if (rec->window > 1)
            rec->window /= 2;
        else
            env_sleep_ns(BUFFER_WAIT_NS);
    }
    rec->entries = mem_alloc((sources + 1) * rec->window * sizeof(struct shard_entry));
    for (unsigned i = 0; i < sources; i++) {
        rec->sources[i].buf = rec->buffer + (size_t)i * rec->window * BLOCK_BYTES;
        rec->sources[i].entries = rec->entries + (i + 1) * rec->window;
    }
    return 0;
}

static void recovery_free(struct recovery *rec)
{
    if (rec->buffer)
        bufpool_put_run(rec->io->buffers, rec->buffer, rec->buffer_bytes);
    row_ec_put(rec->io, rec->ec);
    mem_free(rec->entries);
    mem_free(rec);
}

int row_recover(const struct row_io *io, const struct chunk_place *place,
    struct row_columns columns, unsigned shard, unsigned tried, int tried_error, uint64_t address,
    void *buf, struct shard_entry *ret_entries)
{
    struct recovery *rec = NEW(struct recovery);
    rec->io = io;
    rec->place = place;
    rec->code = place->code;
    rec->ec = row_ec_get(io, place->code);
    rec->shard = shard;
    rec->row_off = chunk_row_off_blocks(place, columns.row) + 1;
    rec->address = address == UINT64_MAX ? UINT64_MAX : address - columns.column;
    fiber_group_init(&rec->group);
    bool was_tried = tried_error < 0 && !row_shard_lost(place, tried);
    if (was_tried)
        note_failure(rec, tried, tried_error);
    row_shard_mask exclude = rec->code.k > 1 ? (row_shard_mask)1 << shard
                             : was_tried     ? (row_shard_mask)1 << tried
                                             : 0;

    int r = recovery_alloc(rec, columns.count);
    for (uint32_t i = 0; r == 0 && i < columns.count; i += rec->window) {
        uint32_t count = MIN(rec->window, columns.count - i);
        r = recover_window(rec, exclude, was_tried, columns.column + i, count,
            (char *)buf + (size_t)i * BLOCK_BYTES, rec->entries);
        for (uint32_t j = 0; r == 0 && ret_entries && j < count; j++) {
            ret_entries[i + j] = rec->entries[j];
            ret_entries[i + j].crc =
                crc32c(0, (char *)buf + (size_t)(i + j) * BLOCK_BYTES, BLOCK_BYTES);
        }
    }
    recovery_free(rec);
    return r;
}
