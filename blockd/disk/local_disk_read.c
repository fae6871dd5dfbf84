/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads. Every block that leaves the disk has been checked against the CRC recorded for it (D3): in
 * memory for open and for walked shards, in the trailer for sealed ones. On a miss data and trailer
 * are read in one submission.
 *
 * What goes wrong is dealt with on a fiber: a read error is narrowed down to single blocks, a
 * damaged trailer is replaced by walking the shard's headers.
 */
#include <errno.h>

#include "blockd/disk/local_disk_impl.h"
#include "common/crc32c.h"
#include "common/mem.h"
#include "common/planted.h"

#define COPIED_BLOCKS_MAX 4u /* up to here a copy is cheaper than to care for the buffer (D19) */

struct read_op {
    struct list link; /* in the pool */
    struct active *active;
    struct shard_read *read;
    unsigned generation; /* which active->reads[] it counts in */
    unsigned pending;    /* device reads in flight, and one while submitting */
    uint32_t trailer_first, trailer_count;
    struct trailer_page *pages[TRAILER_BLOCKS_MAX];
    bool page_is_new[TRAILER_BLOCKS_MAX];
    struct env_io data_io, trailer_io;
    struct iovec trailer_iov[TRAILER_BLOCKS_MAX];
    bool trailer_submitted, trailer_ok;
};

static struct read_op *op_get(struct local_disk *disk)
{
    struct list *link = list_pop_front(&disk->free_reads);
    return link != NULL ? list_entry(link, struct read_op, link)
                        : mem_alloc(sizeof(struct read_op));
}

void local_read_pool_free(struct local_disk *disk)
{
    struct list *link;
    while ((link = list_pop_front(&disk->free_reads)) != NULL)
        mem_free(list_entry(link, struct read_op, link));
}

/* The last read begun before the seal gives the extent's unused end back (D5). */
static void end_reading(struct active *active, unsigned generation)
{
    struct local_disk *disk = active->disk;
    CHECK(active->reads[generation] > 0);
    active->reads[generation]--;
    if (active->has_tail && active->reads[0] == 0) {
        active->has_tail = false;
        slab_free(&disk->slabs, active->tail_first, active->tail_units);
        local_update_space(disk);
    }
}

static void finish(struct read_op *op, int result)
{
    struct active *active = op->active;
    struct local_disk *disk = active->disk;
    struct shard_read *read = op->read;
    for (uint32_t i = 0; i < op->trailer_count; i++) {
        if (op->pages[i] != NULL)
            trailer_cache_unpin(&disk->trailers, op->pages[i]);
    }
    end_reading(active, op->generation);
    list_push_front(&disk->free_reads, &op->link);
    active_put(active);
    read->result = result;
    disk->ops_in_flight--;
    read->done(read);
}

/* --- Checking --------------------------------------------------------------------------------- */

static struct shard_entry entry_of(const struct read_op *op, uint32_t block)
{
    if (op->trailer_count == 0)
        return op->active->entries[block];
    uint32_t page = block / TRAILER_ENTRIES - op->trailer_first;
    return trailer_entry(op->pages[page]->block, block % TRAILER_ENTRIES);
}

static int verify(struct read_op *op)
{
    struct shard_read *read = op->read;
    uint32_t block = read->off_blocks, end = read->off_blocks + read->count;
    int result = 0;
    for (unsigned i = 0; i < read->iov_count && block < end; i++) {
        const uint8_t *p = read->iov[i].iov_base;
        for (size_t off = 0; off < read->iov[i].iov_len && block < end;
             off += BLOCK_BYTES, block++) {
            struct shard_entry entry = entry_of(op, block);
            if (read->ret_entries != NULL)
                read->ret_entries[block - read->off_blocks] = entry;
            if (crc32c(0, p + off, BLOCK_BYTES) == entry.crc || PLANTED(unchecked_read))
                continue;
            if (result == 0)
                read->ret_damaged_block = block;
            result = -EBADMSG;
            local_report_damage(op->active->disk, op->active->slot_no, block);
        }
    }
    return result;
}

/* Whether the trailer blocks just read are the right ones; they go to the cache then. */
static bool accept_trailers(struct read_op *op)
{
    struct local_disk *disk = op->active->disk;
    const struct table_slot *slot = active_slot(op->active);
    for (uint32_t i = 0; i < op->trailer_count; i++) {
        if (!op->page_is_new[i])
            continue;
        uint32_t first = (op->trailer_first + i) * TRAILER_ENTRIES;
        struct trailer found,
            wanted = {
                .cluster = disk->super.cluster,
                .key = table_slot_key(slot),
                .kind = (enum shard_kind)slot->kind,
                .code = {.k = slot->k, .m = slot->m},
                .nonce = slot->nonce,
                .first_block = first,
                .length_blocks = slot->length_blocks,
                .entry_count = MIN(slot->length_blocks - first, (uint32_t)TRAILER_ENTRIES),
            };
        if (op->trailer_io.result < 0 || trailer_parse(op->pages[i]->block, &found) < 0 ||
            !trailer_matches(&found, &wanted)) {
            local_report_damage(
                disk, op->active->slot_no, slot->length_blocks + op->trailer_first + i);
            return false;
        }
        trailer_cache_insert(&disk->trailers, op->pages[i]);
        op->page_is_new[i] = false;
    }
    return true;
}

/* --- The slow path ---------------------------------------------------------------------------- */

/* Reads into the caller's pieces again, block by block where need be. */
static int reread_data(struct read_op *op)
{
    struct local_disk *disk = op->active->disk;
    const struct table_slot *slot = active_slot(op->active);
    uint32_t block = op->read->off_blocks, end = op->read->off_blocks + op->read->count;
    for (unsigned i = 0; i < op->read->iov_count && block < end; i++) {
        uint32_t count = MIN((uint32_t)(op->read->iov[i].iov_len / BLOCK_BYTES), end - block);
        int r = local_read_blocks(
            disk, op->read->iov[i].iov_base, count, slot_block_off(disk, slot, block));
        if (r < 0)
            return r;
        block += count;
    }
    return 0;
}

static void read_slowly(void *arg)
{
    struct read_op *op = arg;
    int r = 0;
    if (op->data_io.result < 0)
        r = reread_data(op);
    if (r == 0 && !op->trailer_ok) {
        r = active_load(op->active);
        for (uint32_t i = 0; i < op->trailer_count; i++)
            trailer_cache_unpin(&op->active->disk->trailers, op->pages[i]);
        op->trailer_count = 0; /* the walked entries count */
    }
    finish(op, r < 0 ? r : verify(op));
}

/* --- Submission ------------------------------------------------------------------------------- */

static void complete(struct read_op *op)
{
    if (--op->pending > 0)
        return;
    struct disk *disk = &op->active->disk->base;
    disk->error_count += op->data_io.result < 0;
    disk->error_count += op->trailer_submitted && op->trailer_io.result < 0;
    if (error_is_gone((int)op->data_io.result) ||
        (op->trailer_submitted && error_is_gone((int)op->trailer_io.result))) {
        finish(op, -EHOSTUNREACH);
        return;
    }
    op->trailer_ok = !op->trailer_submitted || accept_trailers(op);
    if (op->data_io.result < 0 || !op->trailer_ok)
        fiber_spawn("shard-read-slow", read_slowly, op);
    else
        finish(op, verify(op));
}

static void data_read(struct env_io *io)
{
    complete(container_of(io, struct read_op, data_io));
}

static void trailer_read(struct env_io *io)
{
    complete(container_of(io, struct read_op, trailer_io));
}

/* Finds the trailer blocks of the range; those not cached are read, together with what lies between
 * them. */
static void submit_trailers(struct read_op *op)
{
    struct local_disk *disk = op->active->disk;
    const struct table_slot *slot = active_slot(op->active);
    op->trailer_first = op->read->off_blocks / TRAILER_ENTRIES;
    op->trailer_count =
        (op->read->off_blocks + op->read->count - 1) / TRAILER_ENTRIES - op->trailer_first + 1;
    uint32_t first_new = op->trailer_count, end_new = 0;
    for (uint32_t i = 0; i < op->trailer_count; i++) {
        op->pages[i] = trailer_cache_find(&disk->trailers, slot->nonce, op->trailer_first + i);
        op->page_is_new[i] = false;
        if (op->pages[i] != NULL)
            continue;
        first_new = MIN(first_new, i);
        end_new = i + 1;
    }
    if (end_new == 0)
        return;
    for (uint32_t i = first_new; i < end_new; i++) {
        if (op->pages[i] != NULL)
            trailer_cache_unpin(&disk->trailers, op->pages[i]);
        op->pages[i] = trailer_cache_new_page(&disk->trailers, slot->nonce, op->trailer_first + i);
        op->page_is_new[i] = true;
        op->trailer_iov[i] =
            (struct iovec){.iov_base = op->pages[i]->block, .iov_len = BLOCK_BYTES};
    }
    op->trailer_io = (struct env_io){
        .op = ENV_IO_READ,
        .file = disk->file,
        .iov = &op->trailer_iov[first_new],
        .iov_count = end_new - first_new,
        .off_bytes =
            slot_block_off(disk, slot, slot->length_blocks + op->trailer_first + first_new),
        .done = trailer_read,
    };
    op->trailer_submitted = true;
    op->pending++;
    env_io_submit(&op->trailer_io);
}

static void submit(struct active *active, struct shard_read *read)
{
    struct local_disk *disk = active->disk;
    const struct table_slot *slot = active_slot(active);
    struct read_op *op = op_get(disk);
    op->active = active;
    op->read = read;
    op->generation = slot->state == TABLE_SEALED ? 1 : 0;
    op->pending = 1;
    op->trailer_count = 0;
    op->trailer_submitted = false;
    active->refs++;
    active->reads[op->generation]++;
    disk->ops_in_flight++;
    op->data_io = (struct env_io){
        .op = ENV_IO_READ,
        .file = disk->file,
        .iov = read->iov,
        .iov_count = read->iov_count,
        .off_bytes = slot_block_off(disk, slot, read->off_blocks),
        .done = data_read,
        .leave = read->leave && read->count > COPIED_BLOCKS_MAX,
    };
    if (!active->loaded)
        submit_trailers(op);
    env_io_submit(&op->data_io);
}

static void check_shape(const struct shard_read *read)
{
    size_t bytes = 0;
    for (unsigned i = 0; i < read->iov_count; i++) {
        CHECK(read->iov[i].iov_len % BLOCK_BYTES == 0);
        bytes += read->iov[i].iov_len;
    }
    CHECK_MSG(bytes == (size_t)read->count * BLOCK_BYTES, "read of %u blocks into %zu bytes",
        read->count, bytes);
}

/* 0: under way or parked; 1: done; or an error. */
static int start(struct active *active, struct shard_read *read)
{
    const struct table_slot *slot = active_slot(active);
    if (slot->state == TABLE_TOMBSTONE)
        return -ENOENT;
    uint64_t end = (uint64_t)read->off_blocks + read->count;
    if (slot->state == TABLE_SEALED && end > slot->length_blocks)
        return -ERANGE;
    if (!active->loaded && (slot->state == TABLE_OPEN || !slot_has_trailer(slot))) {
        list_push_back(&active->parked_reads, &read->link);
        active->disk->ops_in_flight++;
        active_load_start(active);
        return 0;
    }
    if (slot->state == TABLE_OPEN && end > active->completed_blocks)
        return -ERANGE;
    if (read->count == 0)
        return 1;
    submit(active, read);
    return 0;
}

void local_read(struct shard_read *read)
{
    struct local_disk *disk = local_disk_of(read->disk);
    check_shape(read);
    int r;
    struct table_slot *slot = local_find(disk, read->key, &r);
    if (slot != NULL) {
        struct active *active = active_get(disk, local_slot_no(disk, slot));
        r = start(active, read);
        active_put(active);
    }
    if (r != 0)
        local_read_later(disk, read, MIN(r, 0));
}
