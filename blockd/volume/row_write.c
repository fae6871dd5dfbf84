/* SPDX-License-Identifier: Apache-2.0
 *
 * Writing a row: k+m appends of equal length, all in flight at once, one wait.
 *
 * Everything that the appends need stands in one allocation and, for parity, buffers of the pool;
 * data goes to the disks from where the caller has it. Parity is made column by column over 4 KiB
 * blocks, whose sources need not be adjacent, and each parity block's CRC while it is in the cache.
 *
 * The directory's parity is made over whole struct shard_entry arrays: the code works on each byte
 * position by itself, so address and aux come out as docs/FORMAT.md wants them, and what that gives
 * in the place of crc is overwritten by the parity block's own CRC.
 *
 * Nothing suspends before the appends are submitted: rows of one chunk reach its shards in the
 * order
 * in which row_write was called.
 */
#include <errno.h>
#include <string.h>

#include "blockd/volume/row_impl.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/mem.h"
#include "common/planted.h"

static const uint8_t zero_block[BLOCK_BYTES] __attribute__((aligned(BLOCK_BYTES)));

struct row_append {
    struct shard_append append;
    struct fiber_group *group; /* NULL = not submitted */
};

struct row_writer {
    const struct row_io *io;
    const struct chunk_place *place;
    struct shard_code code;
    uint32_t len;
    uint64_t base_seq;
    uint32_t zero_crc; /* of a block of padding */
    struct fiber_group group;
    struct ec *ec;
    struct row_append appends[CODE_SHARDS_MAX];
    unsigned payload_counts[CODE_SHARDS_MAX];
    uint8_t *parity[CODE_M_MAX];  /* len blocks each */
    struct iovec *iovs;           /* len for each shard */
    struct shard_entry entries[]; /* len for each shard */
};

static struct shard_entry *shard_entries(struct row_writer *w, unsigned shard)
{
    return w->entries + (size_t)shard * w->len;
}

static struct iovec *shard_iovs(struct row_writer *w, unsigned shard)
{
    return w->iovs + (size_t)shard * w->len;
}

static struct row_writer *row_writer_new(const struct row_io *io, const struct chunk_place *place,
    const struct row_block *blocks, uint32_t count)
{
    uint32_t len = row_len_for(place->code, count);
    size_t slots = (size_t)len * (place->code.k + place->code.m);
    size_t entries_bytes = slots * sizeof(struct shard_entry);
    struct row_writer *w = mem_alloc(sizeof(*w) + entries_bytes + slots * sizeof(struct iovec));
    memset(w, 0, sizeof(*w));
    w->io = io;
    w->place = place;
    w->code = place->code;
    w->len = len;
    w->ec = row_ec_get(io, w->code);
    w->iovs = (struct iovec *)((char *)w->entries + entries_bytes);
    w->base_seq = UINT64_MAX;
    for (uint32_t i = 0; i < count; i++)
        w->base_seq = MIN(w->base_seq, blocks[i].seq);
    if (count % place->code.k != 0)
        w->zero_crc = crc32c(0, zero_block, BLOCK_BYTES);
    fiber_group_init(&w->group);
    return w;
}

static void row_writer_free(struct row_writer *w)
{
    for (unsigned j = 0; j < w->code.m; j++) {
        if (w->parity[j])
            bufpool_put_run(w->io->buffers, w->parity[j], (size_t)w->len * BLOCK_BYTES);
    }
    row_ec_put(w->io, w->ec);
    mem_free(w);
}

static void add_payload(struct row_writer *w, unsigned shard, const void *block)
{
    struct iovec *iov = shard_iovs(w, shard);
    unsigned count = w->payload_counts[shard];
    if (count > 0 && (char *)iov[count - 1].iov_base + iov[count - 1].iov_len == block) {
        iov[count - 1].iov_len += BLOCK_BYTES;
        return;
    }
    iov[count] = (struct iovec){.iov_base = (void *)block, .iov_len = BLOCK_BYTES};
    w->payload_counts[shard] = count + 1;
}

/* Entries and payload of one data shard: its part of `blocks`, then padding. */
static void fill_data_shard(
    struct row_writer *w, unsigned shard, const struct row_block *blocks, uint32_t count)
{
    struct shard_entry *entries = shard_entries(w, shard);
    uint32_t first = shard * w->len;
    for (uint32_t i = 0; i < w->len; i++) {
        if (first + i >= count) {
            entries[i] = (struct shard_entry){.address = ROW_PAD, .crc = w->zero_crc};
            add_payload(w, shard, zero_block);
            continue;
        }
        const struct row_block *block = &blocks[first + i];
        CHECK_MSG(block->seq - w->base_seq <= UINT32_MAX, "a row spans too many sequence numbers");
        entries[i] = (struct shard_entry){
            .address = block->address,
            .crc = block->crc,
            .aux = block->seq - w->base_seq,
        };
        add_payload(w, shard, block->data);
    }
}

static void fill_parity_directory(struct row_writer *w)
{
    const void *sources[CODE_K_MAX];
    void *parity[CODE_M_MAX];
    for (unsigned i = 0; i < w->code.k; i++)
        sources[i] = shard_entries(w, i);
    for (unsigned j = 0; j < w->code.m; j++)
        parity[j] = shard_entries(w, w->code.k + j);
    ec_encode(w->ec, w->len * sizeof(struct shard_entry), sources, parity);
}

static void fill_parity_blocks(struct row_writer *w, const struct row_block *blocks, uint32_t count)
{
    const void *sources[CODE_K_MAX];
    void *parity[CODE_M_MAX];
    for (uint32_t column = 0; column < w->len; column++) {
        for (unsigned i = 0; i < w->code.k; i++) {
            uint32_t linear = i * w->len + column;
            sources[i] = linear < count ? blocks[linear].data : zero_block;
        }
        for (unsigned j = 0; j < w->code.m; j++)
            parity[j] = w->parity[j] + (size_t)column * BLOCK_BYTES;
        ec_encode(w->ec, BLOCK_BYTES, sources, parity);
        for (unsigned j = 0; j < w->code.m; j++)
            shard_entries(w, w->code.k + j)[column].crc = crc32c(0, parity[j], BLOCK_BYTES);
    }
}

static int fill_parity(struct row_writer *w, const struct row_block *blocks, uint32_t count)
{
    if (w->code.k == 1) /* copies: the appends share shard 0's entries and payload */
        return 0;
    for (unsigned j = 0; j < w->code.m; j++) {
        w->parity[j] = bufpool_get_run(w->io->buffers, (size_t)w->len * BLOCK_BYTES);
        if (!w->parity[j])
            return -ENOMEM;
        add_payload(w, w->code.k + j, w->parity[j]);
        shard_iovs(w, w->code.k + j)[0].iov_len = (size_t)w->len * BLOCK_BYTES;
    }
    if (w->code.m > 0) {
        fill_parity_directory(w);
        fill_parity_blocks(w, blocks, count);
    }
    return 0;
}

static void append_done(struct shard_append *append)
{
    fiber_group_done(container_of(append, struct row_append, append)->group, 0);
}

static void submit_append(
    struct row_writer *w, unsigned shard, uint32_t off_blocks, enum shard_append_flags flags)
{
    struct shard_append *append = &w->appends[shard].append;
    struct disk *disk = row_disk(w->io, w->place, shard, &append->result);
    if (!disk)
        return;
    unsigned source = w->code.k == 1 ? 0 : shard;
    *append = (struct shard_append){
        .disk = disk,
        .key = chunk_shard_key(w->place, shard),
        .epoch = w->place->epoch,
        .off_blocks = off_blocks,
        .base_seq = w->base_seq,
        .entries = shard_entries(w, source),
        .entry_count = w->len,
        .payload = shard_iovs(w, source),
        .payload_count = w->payload_counts[source],
        .flags = flags,
        .done = append_done,
    };
    w->appends[shard].group = &w->group;
    fiber_group_add(&w->group, 1);
    shard_append_submit(append);
}

/* `lost`: shards that were not to be written. */
static int collect(struct row_writer *w, row_shard_mask lost, uint32_t off_blocks,
    uint32_t *ret_header_crcs, int *ret_errors)
{
    int error = 0;
    for (unsigned i = 0; i < w->code.k + w->code.m; i++) {
        const struct shard_append *append = &w->appends[i].append;
        int r = lost >> i & 1 ? 0 : append->result;
        if (PLANTED(row_without_a_shard) && r != -ESTALE)
            r = 0;
        if (ret_header_crcs)
            ret_header_crcs[i] = append->ret_header_crc;
        if (ret_errors)
            ret_errors[i] = r;
        if (r < 0)
            row_trouble(w->io, w->place, i, r, off_blocks);
        if (r < 0 && (error == 0 || r == -ESTALE))
            error = r;
    }
    return error;
}

int row_write(const struct row_io *io, const struct chunk_place *place, uint32_t ahead_blocks,
    const struct row_block *blocks, uint32_t count, bool dsync, uint32_t *ret_header_crcs,
    int *ret_errors)
{
    unsigned shards = place->code.k + place->code.m;
    CHECK(place->code.k >= 1 && place->code.k <= CODE_K_MAX && place->code.m <= CODE_M_MAX);
    CHECK(count > 0 && count <= (uint32_t)place->code.k * APPEND_ENTRIES_MAX);
    row_shard_mask lost = 0;
    unsigned present = 0;
    for (unsigned i = 0; i < shards && i < CODE_SHARDS_MAX; i++) {
        if (place->shards[i].state == CHUNK_SHARD_LOST)
            lost |= (row_shard_mask)1 << i;
        else
            present++;
    }
    if (present < place->code.k)
        return -EIO; /* nobody could ever read it */

    struct row_writer *w = row_writer_new(io, place, blocks, count);
    for (unsigned i = 0; i < place->code.k; i++)
        fill_data_shard(w, i, blocks, count);
    int r = fill_parity(w, blocks, count);
    if (r == 0) {
        uint32_t off_blocks = place->length_blocks + ahead_blocks;
        for (unsigned i = 0; i < shards; i++) {
            if (!(lost >> i & 1))
                submit_append(w, i, off_blocks, dsync ? SHARD_APPEND_DSYNC : 0);
        }
        if (PLANTED(row_record_early) && !dsync) { /* its memory stays */
            (void)collect(w, lost, off_blocks, ret_header_crcs, ret_errors);
            return 0;
        }
        fiber_group_wait(&w->group);
        r = collect(w, lost, off_blocks, ret_header_crcs, ret_errors);
    }
    row_writer_free(w);
    return r;
}
