/* SPDX-License-Identifier: Apache-2.0
 *
 * Append: one header block and its payload, one device write, strictly at the shard's end.
 *
 *  D10 An offset of a shard has one content for ever (S8): the end in memory moves when an append is
 *      submitted; a second append at the same place succeeds only if its header, with all CRCs,
 *      comes out the same.
 *  D11 Each header carries its predecessor's CRC and the marks of append_header.h: bytes left behind
 *      by an append that never completed cannot join what was appended after it, and damage is not
 *      taken for a torn end.
 */
#include <errno.h>
#include <string.h>

#include "blockd/disk/local_disk_impl.h"
#include "common/crc32c.h"
#include "common/mem.h"
#include "common/planted.h"

struct append_op {
    struct env_io io;
    struct list link; /* in active->in_flight by offset, or in the pool */
    struct active *active;
    struct shard_append *append;
    struct list retries; /* shard_append: the same one again while it is in flight */
    void *header;
    uint32_t off_blocks, end_blocks;
    bool completed, dsync;
    struct iovec iov[1 + APPEND_ENTRIES_MAX];
};

static struct append_op *op_get(struct local_disk *disk)
{
    struct list *link = list_pop_front(&disk->free_appends);
    struct append_op *op;
    if (link != NULL) {
        op = list_entry(link, struct append_op, link);
    } else {
        op = mem_alloc(sizeof(*op));
        op->header = mem_alloc_pages(BLOCK_BYTES);
    }
    list_init(&op->link);
    list_init(&op->retries);
    return op;
}

void local_append_pool_free(struct local_disk *disk)
{
    struct list *link;
    while ((link = list_pop_front(&disk->free_appends)) != NULL) {
        struct append_op *op = list_entry(link, struct append_op, link);
        mem_free_pages(op->header, BLOCK_BYTES);
        mem_free(op);
    }
}

/* --- Completion ------------------------------------------------------------------------------- */

static void answer(struct local_disk *disk, struct shard_append *append, int result)
{
    append->result = result;
    disk->ops_in_flight--;
    append->done(append);
}

/* Moves the marks over what has completed at the head of the queue, and frees it. Appends may
 * complete in any order, the marks never pass a gap. Retries that still wait there are moved to
 * `redo`. */
static void advance(struct active *active, struct list *redo)
{
    struct local_disk *disk = active->disk;
    while (!list_empty(&active->in_flight)) {
        struct append_op *op = list_entry(active->in_flight.next, struct append_op, link);
        if (!op->completed)
            return;
        if (!disk->failed) {
            active->completed_blocks = op->end_blocks;
            if (op->dsync && active->durable_blocks == op->off_blocks)
                active->durable_blocks = op->end_blocks;
        }
        list_splice_back(redo, &op->retries);
        list_remove(&op->link);
        list_push_front(&disk->free_appends, &op->link);
        active_put(active); /* the queue's own reference: the caller has another one */
    }
    fiber_queue_wake_all(&active->changed);
}

/* Whether the completion of `op` answers `retry`: a retry that must be durable waits for more. */
static bool answers(const struct append_op *op, const struct shard_append *retry)
{
    return op->dsync || (retry->flags & SHARD_APPEND_DSYNC) == 0;
}

static void append_done(struct env_io *io)
{
    struct append_op *op = container_of(io, struct append_op, io);
    struct active *active = op->active;
    struct local_disk *disk = active->disk;
    if (io->result < 0) {
        local_retire(disk, (int)io->result, "an append failed");
    } else {
        uint64_t now_ns = env_now_ns();
        disk_note_latency(&disk->base, now_ns - io->submitted_ns, now_ns);
    }
    int result = disk->failed ? local_retired_error(disk) : 0;
    struct shard_append *append = op->append;
    struct list answered, redo;
    list_init(&answered);
    list_init(&redo);
    list_for_each_safe (it, &op->retries) {
        if (!answers(op, list_entry(it, struct shard_append, link)))
            continue;
        list_remove(it);
        list_push_back(&answered, it);
    }
    op->completed = true;
    active->refs++;
    advance(active, &redo);
    active_put(active);
    answer(disk, append, result);
    struct list *link;
    while ((link = list_pop_front(&answered)) != NULL)
        answer(disk, list_entry(link, struct shard_append, link), result);
    while ((link = list_pop_front(&redo)) != NULL) {
        disk->ops_in_flight--;
        local_append(list_entry(link, struct shard_append, link));
    }
}

/* --- Checks ----------------------------------------------------------------------------------- */

/* The wire's check: what the owner says the payload's CRCs are, against the payload. */
static bool payload_matches(const struct shard_append *append)
{
    unsigned entry = 0;
    for (unsigned i = 0; i < append->payload_count; i++) {
        const uint8_t *p = append->payload[i].iov_base;
        for (size_t off = 0; off < append->payload[i].iov_len; off += BLOCK_BYTES) {
            if (crc32c(0, p + off, BLOCK_BYTES) != append->entries[entry++].crc)
                return false;
        }
    }
    return true;
}

static void check_shape(const struct shard_append *append)
{
    CHECK(append->entry_count <= APPEND_ENTRIES_MAX);
    CHECK(append->payload_count <= append->entry_count);
    CHECK(16 * append->entry_count + append->inline_len_bytes <= APPEND_BODY_BYTES);
    size_t payload_bytes = 0;
    for (unsigned i = 0; i < append->payload_count; i++) {
        CHECK(append->payload[i].iov_len % BLOCK_BYTES == 0);
        payload_bytes += append->payload[i].iov_len;
    }
    CHECK(payload_bytes == (size_t)append->entry_count * BLOCK_BYTES);
}

static int check_slot(struct local_disk *disk, const struct table_slot *slot, uint32_t epoch)
{
    if (disk->failed)
        return local_retired_error(disk);
    if (epoch < slot_epoch_min(slot) && !PLANTED(append_ignores_fence))
        return -ESTALE;
    if (slot->state == TABLE_TOMBSTONE)
        return -ENOENT;
    if (table_slot_has_length(slot))
        return -EROFS;
    if ((slot->flags & TABLE_SUSPECT) != 0 && !PLANTED(sync_after_reboot))
        return -EREMOTEIO;
    return (slot->flags & TABLE_NO_EXTENT) != 0 ? -EBADMSG : 0;
}

static void fill_header(const struct active *active, const struct shard_append *append,
    uint32_t append_no, uint32_t prev_header_crc, struct append_header *ret_header)
{
    const struct table_slot *slot = active_slot(active);
    *ret_header = (struct append_header){
        .cluster = active->disk->super.cluster,
        .key = append->key,
        .kind = (enum shard_kind)slot->kind,
        .code = {.k = slot->k, .m = slot->m},
        .epoch = append->epoch,
        .append_no = append_no,
        .off_blocks = append->off_blocks,
        .nonce = slot->nonce,
        .prev_header_crc = prev_header_crc,
        .base_seq = append->base_seq,
        .entry_count = append->entry_count,
        .inline_len_bytes = append->inline_len_bytes,
        .completed_blocks = active->completed_blocks,
        .durable_blocks = active->durable_blocks,
    };
}

/* --- Retry ------------------------------------------------------------------------------------ */

/* The header that an append at off_blocks had when it was first made, built again and compared
 * (S8). */
static bool is_same_append(struct active *active, struct shard_append *append)
{
    uint32_t off = append->off_blocks;
    if (!active_is_header(active, off))
        return false;
    uint32_t append_no = 0, prev_header_crc = 0;
    for (uint32_t block = off; block-- > 0;) {
        if (!active_is_header(active, block))
            continue;
        if (append_no++ == 0)
            prev_header_crc = active->entries[block].aux;
    }
    struct append_header header;
    fill_header(active, append, append_no, prev_header_crc, &header);
    struct append_op *op = op_get(active->disk);
    append_header_build(op->header, &header, append->entries, append->inline_bytes);
    list_push_front(&active->disk->free_appends, &op->link);
    append->ret_header_crc = header.header_crc;
    return header.header_crc == active->entries[off].aux;
}

static void retry_sync_done(struct shard_sync *sync)
{
    struct shard_append *append = sync->impl;
    struct local_disk *disk = local_disk_of(sync->disk);
    append->result = sync->result;
    mem_free(sync);
    disk->ops_in_flight--;
    append->done(append);
}

/* A repeated append with DSYNC must be durable when answered, the first one may not have been. */
static int sync_retry(struct active *active, struct shard_append *append)
{
    struct shard_sync *sync = NEW(struct shard_sync);
    *sync = (struct shard_sync){
        .disk = append->disk,
        .key = append->key,
        .epoch = append->epoch,
        .length_blocks = append->off_blocks + 1 + append->entry_count,
        .done = retry_sync_done,
        .impl = append,
    };
    active->disk->ops_in_flight++;
    shard_sync_submit(sync);
    return 0;
}

/* Joins the append that is there already, or finds that it has completed (1). */
static int retry(struct active *active, struct shard_append *append)
{
    if (!is_same_append(active, append) && !PLANTED(retry_unchecked))
        return -ERANGE;
    list_for_each (it, &active->in_flight) {
        struct append_op *op = list_entry(it, struct append_op, link);
        if (op->off_blocks != append->off_blocks)
            continue;
        if (op->completed && answers(op, append))
            return 1;
        list_push_back(&op->retries, &append->link);
        active->disk->ops_in_flight++;
        return 0;
    }
    if ((append->flags & SHARD_APPEND_DSYNC) != 0)
        return sync_retry(active, append);
    return 1;
}

/* --- Submission ------------------------------------------------------------------------------- */

static void record_entries(struct active *active, const struct append_op *op, uint32_t header_crc)
{
    const struct shard_append *append = op->append;
    active_reserve(active, op->end_blocks);
    active->entries[op->off_blocks] = (struct shard_entry){.address = ENTRY_ADDRESS_HEADER,
        .crc = crc32c(0, op->header, BLOCK_BYTES),
        .aux = header_crc};
    active_set_header(active, op->off_blocks);
    if (append->entry_count > 0)
        memcpy(&active->entries[op->off_blocks + 1], append->entries,
            append->entry_count * sizeof(struct shard_entry));
}

static void submit(struct active *active, struct shard_append *append)
{
    struct local_disk *disk = active->disk;
    struct append_op *op = op_get(disk);
    struct append_header header;
    fill_header(active, append, active->next_append_no, active->last_header_crc, &header);
    append_header_build(op->header, &header, append->entries, append->inline_bytes);
    append->ret_header_crc = header.header_crc;

    op->active = active;
    op->append = append;
    op->off_blocks = append->off_blocks;
    op->end_blocks = append->off_blocks + 1 + append->entry_count;
    op->completed = false;
    op->dsync = (append->flags & SHARD_APPEND_DSYNC) != 0;
    record_entries(active, op, header.header_crc);
    active->end_blocks = op->end_blocks;
    active->next_append_no++;
    active->last_header_crc = header.header_crc;
    list_push_back(&active->in_flight, &op->link);
    active->refs++;
    disk->ops_in_flight++;

    op->iov[0] = (struct iovec){.iov_base = op->header, .iov_len = BLOCK_BYTES};
    if (append->payload_count > 0)
        memcpy(&op->iov[1], append->payload, append->payload_count * sizeof(struct iovec));
    op->io = (struct env_io){
        .op = op->dsync ? ENV_IO_WRITE_DSYNC : ENV_IO_WRITE,
        .file = disk->file,
        .iov = op->iov,
        .iov_count = 1 + append->payload_count,
        .off_bytes = slot_block_off(disk, active_slot(active), append->off_blocks),
        .done = append_done,
        .leave = true, /* D19 */
    };
    env_io_submit(&op->io);
}

/* 0: under way or parked; 1: done; or an error. */
static int start(struct active *active, struct shard_append *append)
{
    const struct table_slot *slot = active_slot(active);
    if (active->sealing)
        return -EROFS;
    if (!active->loaded) {
        list_push_back(&active->parked_appends, &append->link);
        active->disk->ops_in_flight++;
        active_load_start(active);
        return 0;
    }
    if (append->off_blocks < active->end_blocks)
        return retry(active, append);
    uint64_t end = (uint64_t)append->off_blocks + 1 + append->entry_count;
    if (append->off_blocks > active->end_blocks ||
        end > shard_capacity_blocks((enum shard_kind)slot->kind, slot->unit_count))
        return -ERANGE;
    if (active->disk->options.verify_appends && !payload_matches(append))
        return -EBADMSG;
    submit(active, append);
    return 0;
}

void local_append(struct shard_append *append)
{
    struct local_disk *disk = local_disk_of(append->disk);
    check_shape(append);
    int r;
    struct table_slot *slot = local_find(disk, append->key, &r);
    if (slot != NULL)
        r = check_slot(disk, slot, append->epoch);
    else if (disk->failed)
        r = local_retired_error(disk);
    if (r == 0) {
        struct active *active = active_get(disk, local_slot_no(disk, slot));
        r = start(active, append);
        active_put(active);
    }
    if (r != 0)
        local_append_later(disk, append, MIN(r, 0));
}
