/* SPDX-License-Identifier: Apache-2.0
 *
 * Append, read, sync: a call each, its memory from a pool, no fiber. Payloads go from and to the
 * submitter's own buffers.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "blockd/cluster/remote_disk_impl.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"

#define READ_ENTRIES_FEW 32u

static void *pool_get(struct list *pool, size_t op_bytes)
{
    struct list *link = list_pop_front(pool);
    return link != NULL ? (void *)link : mem_alloc(op_bytes); /* the link is an op's first member */
}

static void pool_free(struct list *pool)
{
    struct list *link;
    while ((link = list_pop_front(pool)) != NULL)
        mem_free(link);
}

void remote_io_pools_free(struct remote_disk *remote)
{
    pool_free(&remote->free_appends);
    pool_free(&remote->free_reads);
    pool_free(&remote->free_syncs);
}

/* --- Append ------------------------------------------------------------------------------------ */

struct append_op {
    struct list link; /* in the pool; first */
    struct remote_disk *remote;
    struct shard_append *append;
    struct rpc_call call;
    uint64_t submitted_ns;
    uint8_t reply[WIRE_CRC_BYTES];
    uint8_t body[WIRE_APPEND_BYTES_MAX];
};

/* A deadline that passed counts as what it took: a disk that hangs is slow, too. */
static void measure(struct append_op *op)
{
    struct remote_disk *remote = op->remote;
    struct disk *disk = &remote->base;
    if (op->call.result != 0 && op->call.result != -ETIMEDOUT)
        return;
    uint64_t now_ns = env_now_ns();
    disk_note_latency(disk, now_ns - op->submitted_ns, now_ns);
    remote->measured = true;
}

static void append_done(struct rpc_call *call)
{
    struct append_op *op = container_of(call, struct append_op, call);
    struct remote_disk *remote = op->remote;
    struct shard_append *append = op->append;
    measure(op);
    append->result = remote_answer(remote, METHOD_SHARD_APPEND, call->result);
    if (append->result == 0 &&
        wire_u32_decode(op->reply, call->ret_body_len_bytes, &append->ret_header_crc) < 0)
        append->result = remote_nonsense(remote, METHOD_SHARD_APPEND);
    list_push_front(&remote->free_appends, &op->link);
    remote->in_flight--;
    append->done(append);
}

/* The message's CRC is that of its blocks, which the caller has: what changed under way since then is noticed there. */
static uint32_t crc_of_blocks(const struct shard_entry *entries, uint32_t count)
{
    return count > 0 ? crc32c_add_blocks(0, &entries->crc, count, sizeof(*entries)) : 0;
}

void remote_append(struct shard_append *append)
{
    struct remote_disk *remote = remote_disk_of(append->disk);
    struct append_op *op = pool_get(&remote->free_appends, sizeof(*op));
    struct wire_append request = {
        .disk = remote->base.number,
        .key = append->key,
        .epoch = append->epoch,
        .off_blocks = append->off_blocks,
        .base_seq = append->base_seq,
        .flags = append->flags,
        .entry_count = append->entry_count,
        .inline_len_bytes = append->inline_len_bytes,
        .inline_bytes = append->inline_bytes,
    };
    list_init(&op->link);
    op->remote = remote;
    op->append = append;
    op->submitted_ns = env_now_ns();
    op->call = (struct rpc_call){
        .method = METHOD_SHARD_APPEND,
        .body = op->body,
        .body_len_bytes = wire_append_encode(&request, append->entries, op->body),
        .payload = append->payload,
        .payload_count = append->payload_count,
        .payload_crc_known = append->entry_count > 0,
        .payload_crc = crc_of_blocks(append->entries, append->entry_count),
        .deadline_ns = op->submitted_ns + remote->timeout_ns,
        .reply_body = op->reply,
        .reply_body_max = sizeof(op->reply),
        .done = append_done,
    };
    remote->in_flight++;
    peer_submit(remote->peer, &op->call);
}

/* --- Read -------------------------------------------------------------------------------------- */

/* What is longer than one message goes in parts, one after the other. */
struct read_op {
    struct list link; /* in the pool; first */
    struct remote_disk *remote;
    struct shard_read *read;
    struct rpc_call call;
    uint32_t part_off, part_count; /* blocks of the read */
    unsigned iov_index;            /* where the part begins in the read's buffers */
    size_t iov_off_bytes;
    struct iovec *part_iov; /* NULL where the read is one part */
    uint8_t *reply;
    uint8_t few[READ_ENTRIES_FEW * WIRE_ENTRY_BYTES];
    uint8_t body[WIRE_READ_BYTES];
};

static void read_part(struct read_op *op);

static void read_finish(struct read_op *op, int result)
{
    struct remote_disk *remote = op->remote;
    struct shard_read *read = op->read;
    if (op->reply != op->few)
        mem_free(op->reply);
    mem_free(op->part_iov);
    list_push_front(&remote->free_reads, &op->link);
    remote->in_flight--;
    read->result = result;
    read->done(read);
}

/* Takes `count` blocks of the read's buffers from the op's place on into part_iov; how many pieces. */
static unsigned slice(struct read_op *op, uint32_t count)
{
    const struct shard_read *read = op->read;
    size_t left = (size_t)count * BLOCK_BYTES;
    unsigned pieces = 0;
    while (left > 0) {
        CHECK(op->iov_index < read->iov_count);
        const struct iovec *from = &read->iov[op->iov_index];
        size_t len = MIN(left, from->iov_len - op->iov_off_bytes);
        if (len > 0)
            op->part_iov[pieces++] = (struct iovec){
                .iov_base = (uint8_t *)from->iov_base + op->iov_off_bytes, .iov_len = len};
        left -= len;
        op->iov_off_bytes += len;
        if (op->iov_off_bytes == from->iov_len) {
            op->iov_index++;
            op->iov_off_bytes = 0;
        }
    }
    return pieces;
}

/* R2. The part's entries are told to the reader on the way. */
static bool part_matches(const struct read_op *op)
{
    const struct shard_read *read = op->read;
    uint32_t i = 0;
    for (unsigned piece = 0; piece < op->call.reply_payload_count; piece++) {
        const struct iovec *iov = &op->call.reply_payload[piece];
        for (size_t off = 0; off < iov->iov_len; off += BLOCK_BYTES, i++) {
            struct shard_entry entry;
            wire_entries_decode(op->reply + i * WIRE_ENTRY_BYTES, WIRE_ENTRY_BYTES, 1, &entry);
            uint32_t crc = op->call.ret_block_crcs
                               ? op->call.ret_block_crcs[i]
                               : crc32c(0, (uint8_t *)iov->iov_base + off, BLOCK_BYTES);
            if (crc != entry.crc)
                return false;
            if (read->ret_entries != NULL)
                read->ret_entries[op->part_off + i] = entry;
        }
    }
    return i == op->part_count;
}

static int check_part(struct read_op *op)
{
    const struct rpc_call *call = &op->call;
    int r = remote_answer(op->remote, METHOD_SHARD_READ, call->result);
    if (r == -EBADMSG &&
        wire_u32_decode(op->reply, call->ret_body_len_bytes, &op->read->ret_damaged_block) < 0)
        return remote_nonsense(op->remote, METHOD_SHARD_READ);
    if (r < 0)
        return r;
    if (call->ret_body_len_bytes != op->part_count * WIRE_ENTRY_BYTES ||
        call->ret_payload_bytes != (uint64_t)op->part_count * BLOCK_BYTES || !part_matches(op))
        return remote_nonsense(op->remote, METHOD_SHARD_READ);
    return 0;
}

static void read_done(struct rpc_call *call)
{
    struct read_op *op = container_of(call, struct read_op, call);
    int r = check_part(op);
    op->part_off += op->part_count;
    if (r < 0 || op->part_off >= op->read->count)
        read_finish(op, r);
    else
        read_part(op);
}

static void read_part(struct read_op *op)
{
    struct remote_disk *remote = op->remote;
    const struct shard_read *read = op->read;
    op->part_count = MIN(read->count - op->part_off, WIRE_READ_BLOCKS_MAX);
    struct wire_read request = {
        .disk = remote->base.number,
        .key = read->key,
        .off_blocks = read->off_blocks + op->part_off,
        .count = op->part_count,
    };
    op->call = (struct rpc_call){
        .method = METHOD_SHARD_READ,
        .body = op->body,
        .body_len_bytes = wire_read_encode(&request, op->body),
        .deadline_ns = env_now_ns() + remote->timeout_ns,
        .reply_body = op->reply,
        .reply_body_max = MAX(op->part_count * WIRE_ENTRY_BYTES, WIRE_DAMAGED_BYTES),
        .reply_payload = op->part_iov ? op->part_iov : read->iov,
        .reply_payload_count = op->part_iov ? slice(op, op->part_count) : read->iov_count,
        .done = read_done,
    };
    peer_submit(remote->peer, &op->call);
}

void remote_read(struct shard_read *read)
{
    struct remote_disk *remote = remote_disk_of(read->disk);
    struct read_op *op = pool_get(&remote->free_reads, sizeof(*op));
    uint32_t part_max = MIN(read->count, WIRE_READ_BLOCKS_MAX);
    list_init(&op->link);
    op->remote = remote;
    op->read = read;
    op->part_off = 0;
    op->iov_index = 0;
    op->iov_off_bytes = 0;
    op->part_iov = read->count > part_max ? mem_alloc(part_max * sizeof(*op->part_iov)) : NULL;
    op->reply = part_max <= READ_ENTRIES_FEW ? op->few : mem_alloc(part_max * WIRE_ENTRY_BYTES);
    remote->in_flight++;
    read_part(op);
}

/* --- Sync -------------------------------------------------------------------------------------- */

struct sync_op {
    struct list link; /* in the pool; first */
    struct remote_disk *remote;
    struct shard_sync *sync;
    struct rpc_call call;
    uint8_t body[WIRE_LENGTH_BYTES];
};

static void sync_done(struct rpc_call *call)
{
    struct sync_op *op = container_of(call, struct sync_op, call);
    struct remote_disk *remote = op->remote;
    struct shard_sync *sync = op->sync;
    sync->result = remote_answer(remote, METHOD_SHARD_SYNC, call->result);
    list_push_front(&remote->free_syncs, &op->link);
    remote->in_flight--;
    sync->done(sync);
}

void remote_sync(struct shard_sync *sync)
{
    struct remote_disk *remote = remote_disk_of(sync->disk);
    struct sync_op *op = pool_get(&remote->free_syncs, sizeof(*op));
    struct wire_length request = {
        .disk = remote->base.number,
        .key = sync->key,
        .epoch = sync->epoch,
        .length_blocks = sync->length_blocks,
    };
    list_init(&op->link);
    op->remote = remote;
    op->sync = sync;
    op->call = (struct rpc_call){
        .method = METHOD_SHARD_SYNC,
        .body = op->body,
        .body_len_bytes = wire_length_encode(&request, op->body),
        .deadline_ns = env_now_ns() + remote->timeout_ns,
        .done = sync_done,
    };
    remote->in_flight++;
    peer_submit(remote->peer, &op->call);
}
