/* SPDX-License-Identifier: Apache-2.0
 *
 * One request from its start to its answer, on its own fiber. Between the two stands one call of
 * the volume; when that answers that the volume is closing here, the request is held (reopen.c).
 */
#include <errno.h>
#include <string.h>

#include "blockd/nbd/connection.h"
#include "common/bytes.h"
#include "common/check.h"
#include "common/env.h"
#include "common/mem.h"

/* From this length on a read asks for holes first, so that they need not be sent as zeroes. */
#define HOLE_READ_BYTES_MIN (64u << 10)
/* What the extents of a block status take in front of the reply's descriptors. */
#define STATUS_REPLY_OFF (NBD_STATUS_EXTENTS_MAX * sizeof(struct volume_extent))

_Static_assert(STATUS_REPLY_OFF + 4 + 8 * NBD_STATUS_EXTENTS_MAX <= NBD_STATUS_BUF_BYTES, "");

/* --- Life --------------------------------------------------------------------------------------
 */

struct nbd_request *nbd_request_new(
    struct nbd_connection *c, const struct nbd_request_header *header)
{
    struct nbd_server *server = c->server;
    struct list *link = list_pop_front(&server->requests_free);
    struct nbd_request *request =
        link ? list_entry(link, struct nbd_request, link) : NEW(struct nbd_request);
    list_init(&request->link);
    request->connection = c;
    request->header = *header;
    request->id = (struct request_id){
        .session = c->session, .number = ++c->request_number, .given_up = &c->broken};
    list_push_back(&c->taken, &request->taken);
    request->error = NBD_SUCCESS;
    request->chunk = NULL;
    request->buf = NULL;
    request->buf_bytes = 0;
    request->piece_count = 0;
    c->in_flight++;
    server->stats.requests++;
    server->stats.requests_in_flight++;
    return request;
}

/* Gives back what only the execution needed. */
static void free_chunk(struct nbd_request *request)
{
    if (request->chunk)
        nbd_chunk_put(request->connection, request->chunk);
    request->chunk = NULL;
}

static void free_buf(struct nbd_request *request)
{
    struct nbd_connection *c = request->connection;
    if (!request->buf)
        return;
    nbd_pool_put(&c->server->pool, request->buf, request->buf_bytes);
    nbd_quota_give(&c->quota, (struct nbd_amount){0, request->buf_bytes});
    request->buf = NULL;
}

void nbd_request_free(struct nbd_request *request)
{
    struct nbd_connection *c = request->connection;
    free_chunk(request);
    free_buf(request);
    nbd_quota_give(&c->quota, (struct nbd_amount){1, 0});
    list_remove(&request->taken);
    list_push_front(&c->server->requests_free, &request->link);
    c->server->stats.requests_in_flight--;
    CHECK(c->in_flight > 0);
    c->in_flight--;
    nbd_connection_settle(c);
}

void nbd_request_finish(struct nbd_request *request, enum nbd_error error)
{
    struct nbd_connection *c = request->connection;
    request->error = error;
    if (error)
        c->server->stats.request_errors++;
    if (c->broken) {
        nbd_request_free(request);
        return;
    }
    free_chunk(request);
    if (error || request->header.type == NBD_CMD_WRITE)
        free_buf(request);
    nbd_reply_queue(request);
}

/* --- Commands ----------------------------------------------------------------------------------
 */

MAY_SUSPEND static int do_write(
    struct nbd_request *request, struct attachment *attachment, unsigned flags)
{
    /* What lies in a chunk is not overwritten before the answer (N6), but it is not aligned. */
    if (request->buf)
        flags |= VOLUME_STABLE;
    int rc = attach_write(attachment, request->header.off_bytes, request->header.len_bytes,
        request->payload, flags, request->id);
    if (rc == 0)
        request->connection->server->stats.written_bytes += request->header.len_bytes;
    return rc;
}

/* The pieces of a structured read; what does not fit into the table is read as data. */
MAY_SUSPEND static int find_pieces(struct nbd_request *request, struct attachment *attachment)
{
    struct volume_extent extents[NBD_PIECES_MAX - 1];
    const struct nbd_request_header *header = &request->header;
    unsigned count = 0;
    uint32_t off = 0;
    bool ask = request->connection->terms.structured && !(header->flags & NBD_CMD_FLAG_DF) &&
               header->len_bytes >= HOLE_READ_BYTES_MIN;
    request->piece_count = 0;
    if (ask) {
        int rc = attach_block_status(
            attachment, header->off_bytes, header->len_bytes, extents, ARRAY_SIZE(extents), &count);
        if (rc < 0)
            return rc;
    }
    for (unsigned i = 0; i < count; i++) {
        struct nbd_piece *piece = &request->pieces[request->piece_count++];
        *piece = (struct nbd_piece){off, extents[i].len_bytes, extents[i].hole};
        off += extents[i].len_bytes;
        CHECK(off <= header->len_bytes);
    }
    if (off < header->len_bytes)
        request->pieces[request->piece_count++] =
            (struct nbd_piece){off, header->len_bytes - off, false};
    return 0;
}

MAY_SUSPEND static int read_pieces(
    struct nbd_request *request, struct attachment *attachment, bool leave)
{
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < request->piece_count; i++) {
        const struct nbd_piece *piece = &request->pieces[i];
        if (piece->hole)
            continue;
        rc = attach_read_leaving(attachment, request->header.off_bytes + piece->off_bytes,
            piece->len_bytes, (char *)request->buf + piece->off_bytes, leave);
    }
    return rc;
}

MAY_SUSPEND static int do_read(struct nbd_request *request, struct attachment *attachment)
{
    struct nbd_pool *pool = &request->connection->server->pool;
    int rc = find_pieces(request, attachment);
    if (rc == 0)
        rc = read_pieces(request, attachment, pool->left.bytes == 0);
    /* Left behind with a read of a disk that hangs (T2). */
    while (request->buf && env_memory_left(request->buf, request->buf_bytes)) {
        nbd_pool_put(pool, request->buf, request->buf_bytes);
        request->buf = nbd_pool_get(pool, request->buf_bytes);
        if (rc == 0)
            rc = read_pieces(request, attachment, false);
    }
    if (rc == 0)
        request->connection->server->stats.read_bytes += request->header.len_bytes;
    return rc;
}

MAY_SUSPEND static int do_write_zeroes(
    struct nbd_request *request, struct attachment *attachment, unsigned flags)
{
    /* Marking a range is quick; allocating it is no quicker than a write. */
    if (request->header.flags & NBD_CMD_FLAG_NO_HOLE) {
        if (request->header.flags & NBD_CMD_FLAG_FAST_ZERO)
            return -ENOTSUP;
        flags |= VOLUME_NO_HOLE;
    }
    return attach_write_zeroes(
        attachment, request->header.off_bytes, request->header.len_bytes, flags, request->id);
}

/* Extents into the front of the buffer, then the chunk's payload behind them. */
MAY_SUSPEND static int do_block_status(struct nbd_request *request, struct attachment *attachment)
{
    struct volume_extent *extents = request->buf;
    uint8_t *reply = (uint8_t *)request->buf + STATUS_REPLY_OFF;
    unsigned max = request->header.flags & NBD_CMD_FLAG_REQ_ONE ? 1 : NBD_STATUS_EXTENTS_MAX;
    unsigned count = 0;
    int rc = attach_block_status(
        attachment, request->header.off_bytes, request->header.len_bytes, extents, max, &count);
    if (rc < 0)
        return rc;
    CHECK(count > 0 && count <= max);
    put_be32(reply, NBD_CONTEXT_ALLOCATION_ID);
    for (unsigned i = 0; i < count; i++) {
        put_be32(reply + 4 + 8 * i, extents[i].len_bytes);
        put_be32(reply + 8 + 8 * i, extents[i].hole ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0);
    }
    request->payload = reply;
    request->reply_bytes = 4 + 8 * count;
    return 0;
}

MAY_SUSPEND static int execute(struct nbd_request *request, struct attachment *attachment)
{
    const struct nbd_request_header *header = &request->header;
    unsigned flags = header->flags & NBD_CMD_FLAG_FUA ? VOLUME_FUA : 0;
    if (header->type == NBD_CMD_FLUSH)
        return attach_flush(attachment);
    if (header->len_bytes == 0)
        return 0; /* "unspecified although the server SHOULD NOT disconnect" */
    switch (header->type) {
    case NBD_CMD_READ:
        return do_read(request, attachment);
    case NBD_CMD_WRITE:
        return do_write(request, attachment, flags);
    case NBD_CMD_TRIM:
        return attach_trim(attachment, header->off_bytes, header->len_bytes, flags, request->id);
    case NBD_CMD_WRITE_ZEROES:
        return do_write_zeroes(request, attachment, flags);
    case NBD_CMD_BLOCK_STATUS:
        return do_block_status(request, attachment);
    default:
        /* NBD_CMD_CACHE: volumes have no read cache that a client could fill. */
        return 0;
    }
}

/* --- Execution ---------------------------------------------------------------------------------
 */

MAY_SUSPEND static void request_main(void *arg)
{
    struct nbd_request *request = arg;
    struct nbd_connection *c = request->connection;
    if (c->broken) { /* N2: not started, so it never happens */
        nbd_request_free(request);
        return;
    }
    if (!c->attachment || c->volume_gone) {
        nbd_hold(request);
        return;
    }
    struct attachment *attachment = c->attachment; /* stays while volume_users counts us */
    c->volume_users++;
    request->id.answered_below = list_entry(c->taken.next, struct nbd_request, taken)->id.number;
    int rc = execute(request, attachment);
    c->volume_users--;
    if (rc == -ESHUTDOWN)
        nbd_hold(request);
    else
        nbd_request_finish(request, nbd_error_of(rc));
    /* The connection may be gone now. */
}

void nbd_request_start(struct nbd_request *request)
{
    fiber_spawn("nbd-request", request_main, request);
}
