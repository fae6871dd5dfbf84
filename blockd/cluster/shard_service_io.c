/* SPDX-License-Identifier: Apache-2.0
 *
 * Append, read, sync for other nodes: submitted to the disk by the handler, answered by the disk's
 * completion. No fiber, and no copy: a payload goes from the connection's buffer to the disk, a
 * read's from the disk's buffer to the connection.
 */
#include <errno.h>

#include "blockd/cluster/shard_service_impl.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/log.h"
#include "common/mem.h"

#define READ_ENTRIES_FEW 32u

/* First in each op. */
struct io_op {
    struct list link; /* in its pool, or among the waiting reads */
    struct shard_service *service;
    struct rpc_request *request;
    struct disks_entry *entry;
};

static void *op_get(struct list *pool, size_t op_bytes)
{
    struct list *link = list_pop_front(pool);
    return link != NULL ? (void *)link : mem_alloc(op_bytes);
}

static void op_begin(struct io_op *io, struct shard_service *service, struct rpc_request *request,
    struct disks_entry *entry)
{
    list_init(&io->link);
    io->service = service;
    io->request = request;
    request->may_be_left = true; /* as in control_start() */
    io->entry = entry;
    service->in_flight++;
}

static void op_end(struct io_op *io, struct list *pool)
{
    disks_release(io->entry);
    io->service->in_flight--;
    list_push_front(pool, &io->link);
}

static void pool_free(struct list *pool)
{
    struct list *link;
    while ((link = list_pop_front(pool)) != NULL)
        mem_free(link);
}

void shard_io_pools_free(struct shard_service *service)
{
    pool_free(&service->free_appends);
    pool_free(&service->free_reads);
    pool_free(&service->free_syncs);
}

/* --- Append ------------------------------------------------------------------------------------ */

struct append_op {
    struct io_op io;
    struct shard_append append;
    struct iovec iov;
    struct shard_entry entries[APPEND_ENTRIES_MAX];
};

static void append_done(struct shard_append *append)
{
    struct append_op *op = container_of(append, struct append_op, append);
    uint8_t body[WIRE_CRC_BYTES];
    unsigned len = append->result == 0 ? wire_u32_encode(append->ret_header_crc, body) : 0;
    rpc_reply(op->io.request, append->result, body, len, NULL, 0, NULL, NULL);
    op_end(&op->io, &op->io.service->free_appends);
}

/* The sender's memory may have changed under way: what is stored must match what is recorded of it
 * (D3). */
static bool payload_matches(const struct rpc_request *request, const struct shard_entry *entries)
{
    for (uint32_t i = 0; i < request->payload_bytes / BLOCK_BYTES; i++)
        if (request->block_crcs[i] != entries[i].crc)
            return false;
    return true;
}

static void append_submit(struct append_op *op, const struct wire_append *wire)
{
    op->iov = (struct iovec){
        .iov_base = op->io.request->payload, .iov_len = op->io.request->payload_bytes};
    op->append = (struct shard_append){
        .disk = op->io.entry->disk,
        .key = wire->key,
        .epoch = wire->epoch,
        .off_blocks = wire->off_blocks,
        .base_seq = wire->base_seq,
        .entries = op->entries,
        .entry_count = wire->entry_count,
        .inline_bytes = wire->inline_bytes,
        .inline_len_bytes = wire->inline_len_bytes,
        .payload = &op->iov,
        .payload_count = wire->entry_count > 0 ? 1 : 0,
        .flags = wire->flags,
        .done = append_done,
    };
    shard_append_submit(&op->append);
}

void shard_handle_append(void *ctx, struct rpc_request *request)
{
    struct shard_service *service = shard_service_of(ctx);
    struct append_op *op = op_get(&service->free_appends, sizeof(*op));
    struct wire_append wire;
    struct disks_entry *entry = NULL;
    if (wire_append_decode(
            request->body, request->body_len_bytes, request->payload_bytes, &wire, op->entries) < 0)
        shard_refuse(request, "shard append");
    else if (!payload_matches(request, op->entries))
        shard_refuse(request, "shard append: a block and its CRC differ; an append");
    else
        entry = shard_disk_of(service, request, wire.disk);
    if (entry == NULL) {
        list_push_front(&service->free_appends, &op->io.link);
        return;
    }
    op_begin(&op->io, service, request, entry);
    append_submit(op, &wire);
}

/* --- Read -------------------------------------------------------------------------------------- */

struct read_op {
    struct io_op io;
    struct wire_read wire;
    struct shard_read read;
    struct iovec iov;
    struct shard_entry *entries;
    struct shard_entry few[READ_ENTRIES_FEW];
};

static void start_waiting_reads(struct shard_service *service);

static void *buffer_get(struct bufpool *pool, size_t len_bytes)
{
    return len_bytes == BLOCK_BYTES ? bufpool_get(pool) : bufpool_get_run(pool, len_bytes);
}

static void buffer_put(struct bufpool *pool, void *buffer, size_t len_bytes)
{
    if (len_bytes == BLOCK_BYTES)
        bufpool_put(pool, buffer);
    else
        bufpool_put_run(pool, buffer, len_bytes);
}

static void read_end(void *arg)
{
    struct read_op *op = arg;
    struct shard_service *service = op->io.service;
    if (op->iov.iov_len > 0)
        buffer_put(service->read_pool, op->iov.iov_base, op->iov.iov_len);
    if (op->entries != op->few)
        mem_free(op->entries);
    op_end(&op->io, &service->free_reads);
    start_waiting_reads(service);
}

static void read_done(struct shard_read *read)
{
    struct read_op *op = container_of(read, struct read_op, read);
    struct shard_service *service = op->io.service;
    unsigned len = 0;
    if (read->result == 0)
        len = wire_entries_encode(op->entries, read->count, service->scratch);
    else if (read->result == -EBADMSG)
        len = wire_u32_encode(read->ret_damaged_block, service->scratch);
    unsigned pieces = read->result == 0 && read->count > 0 ? 1 : 0;
    if (pieces > 0) { /* the disk has just compared these with what it read (D3) */
        op->io.request->reply_crc_known = true;
        op->io.request->reply_crc =
            crc32c_add_blocks(0, &op->entries->crc, read->count, sizeof(*op->entries));
    }
    rpc_reply(op->io.request, read->result, service->scratch, len, &op->iov, pieces,
        pieces > 0 ? read_end : NULL, op);
    if (pieces == 0)
        read_end(op);
}

/* False: there is no memory for it now. */
static bool read_start(struct read_op *op)
{
    size_t len_bytes = (size_t)op->wire.count * BLOCK_BYTES;
    void *buffer = len_bytes > 0 ? buffer_get(op->io.service->read_pool, len_bytes) : NULL;
    if (buffer == NULL && len_bytes > 0)
        return false;
    op->iov = (struct iovec){.iov_base = buffer, .iov_len = len_bytes};
    op->entries = op->wire.count <= READ_ENTRIES_FEW
                      ? op->few
                      : mem_alloc(op->wire.count * sizeof(*op->entries));
    op->read = (struct shard_read){
        .disk = op->io.entry->disk,
        .key = op->wire.key,
        .off_blocks = op->wire.off_blocks,
        .count = op->wire.count,
        .iov = &op->iov,
        .iov_count = len_bytes > 0 ? 1 : 0,
        .leave = bufpool_left_bytes(op->io.service->read_pool) == 0,
        .ret_entries = op->entries,
        .done = read_done,
    };
    shard_read_submit(&op->read);
    return true;
}

static void start_waiting_reads(struct shard_service *service)
{
    while (!list_empty(&service->waiting_reads)) {
        struct list *link = service->waiting_reads.next;
        struct read_op *op = (struct read_op *)list_entry(link, struct io_op, link);
        list_remove(link);
        if (!read_start(op)) {
            list_push_front(&service->waiting_reads, link);
            return;
        }
    }
}

void shard_handle_read(void *ctx, struct rpc_request *request)
{
    struct shard_service *service = shard_service_of(ctx);
    struct wire_read wire;
    if (wire_read_decode(request->body, request->body_len_bytes, &wire) < 0) {
        shard_refuse(request, "shard read");
        return;
    }
    struct disks_entry *entry = shard_disk_of(service, request, wire.disk);
    if (entry == NULL)
        return;
    struct read_op *op = op_get(&service->free_reads, sizeof(*op));
    op_begin(&op->io, service, request, entry);
    op->wire = wire;
    if (!list_empty(&service->waiting_reads) || !read_start(op))
        list_push_back(&service->waiting_reads, &op->io.link);
}

/* --- Sync -------------------------------------------------------------------------------------- */

struct sync_op {
    struct io_op io;
    struct shard_sync sync;
};

static void sync_done(struct shard_sync *sync)
{
    struct sync_op *op = container_of(sync, struct sync_op, sync);
    rpc_reply(op->io.request, sync->result, NULL, 0, NULL, 0, NULL, NULL);
    op_end(&op->io, &op->io.service->free_syncs);
}

void shard_handle_sync(void *ctx, struct rpc_request *request)
{
    struct shard_service *service = shard_service_of(ctx);
    struct wire_length wire;
    if (wire_length_decode(request->body, request->body_len_bytes, &wire) < 0) {
        shard_refuse(request, "shard sync");
        return;
    }
    struct disks_entry *entry = shard_disk_of(service, request, wire.disk);
    if (entry == NULL)
        return;
    struct sync_op *op = op_get(&service->free_syncs, sizeof(*op));
    op_begin(&op->io, service, request, entry);
    op->sync = (struct shard_sync){
        .disk = entry->disk,
        .key = wire.key,
        .epoch = wire.epoch,
        .length_blocks = wire.length_blocks,
        .done = sync_done,
    };
    shard_sync_submit(&op->sync);
}
