/* SPDX-License-Identifier: Apache-2.0
 *
 * From received bytes to requests. One receive takes as many requests as have come; small payloads
 * stay where they were received until the volume has answered (N6), large ones go straight into
 * buffers of their own. Taking a request may have to wait for quota: then nothing is received, and
 * the client feels it by a full socket.
 */
#include <errno.h>
#include <string.h>

#include "blockd/nbd/connection.h"
#include "common/check.h"

/* A chunk whose rest is smaller than this is given up for a new one. */
#define CHUNK_ROOM_BYTES_MIN (32u << 10)
/* Payload of a refused request up to this is passed over; more is an attack ("Size constraints": up
 * to 32 MiB never is). */
#define SKIP_BYTES_MAX (64u << 20)

enum take {
    TAKE_MORE, /* bytes are missing */
    TAKE_AGAIN,
    TAKE_END, /* draining: take no more */
};

/* --- Chunks ------------------------------------------------------------------------------------
 */

static struct nbd_chunk *chunk_new(struct nbd_connection *c)
{
    struct nbd_chunk *chunk = nbd_pool_get(&c->server->pool, NBD_CHUNK_BYTES);
    chunk->refs = 1;
    chunk->start = chunk->end = 0;
    return chunk;
}

void nbd_chunk_put(struct nbd_connection *c, struct nbd_chunk *chunk)
{
    CHECK(chunk->refs > 0);
    if (--chunk->refs == 1 && chunk == c->chunk)
        fiber_queue_wake_all(&c->quota.wake); /* it can be compacted now */
    if (chunk->refs > 0)
        return;
    nbd_pool_put(&c->server->pool, chunk, NBD_CHUNK_BYTES);
    nbd_quota_give(&c->quota, (struct nbd_amount){0, NBD_CHUNK_BYTES});
}

static void chunk_compact(struct nbd_chunk *chunk)
{
    uint32_t left = chunk->end - chunk->start;
    if (chunk->start > 0)
        memmove(chunk->data, chunk->data + chunk->start, left);
    chunk->start = 0;
    chunk->end = left;
}

/* Makes c->chunk able to take what is missing of a message of `need_bytes` and some more. */
MAY_SUSPEND static int make_room(struct nbd_connection *c, uint32_t need_bytes)
{
    int rc = 0;
    for (;;) {
        struct nbd_chunk *chunk = c->chunk;
        uint32_t left = chunk->end - chunk->start;
        CHECK(left < need_bytes);
        if (chunk->refs == 1 && left == 0)
            chunk_compact(chunk);
        if (NBD_CHUNK_DATA_BYTES - chunk->start >= need_bytes &&
            NBD_CHUNK_DATA_BYTES - chunk->end >= CHUNK_ROOM_BYTES_MIN)
            break;
        if (chunk->refs == 1) {
            chunk_compact(chunk);
            break;
        }
        if (nbd_quota_take(&c->quota, (struct nbd_amount){0, NBD_CHUNK_BYTES})) {
            struct nbd_chunk *fresh = chunk_new(c);
            memcpy(fresh->data, chunk->data + chunk->start, left);
            fresh->end = left;
            c->chunk = fresh;
            nbd_chunk_put(c, chunk);
            break;
        }
        rc = nbd_connection_wait(c); /* for quota, or for the end of this chunk's requests */
        if (rc < 0)
            break;
    }
    nbd_quota_leave(&c->quota);
    return rc;
}

/* --- Requests ----------------------------------------------------------------------------------
 */

static void end_for(struct nbd_connection *c, const char *violation)
{
    c->server->stats.protocol_errors++;
    nbd_connection_drain(c, violation);
}

/* Everything of the request but its header is passed over, and it gets an error for an answer. */
MAY_SUSPEND static enum take refuse(struct nbd_connection *c,
    const struct nbd_request_header *header, uint32_t payload_bytes, enum nbd_error error)
{
    if (payload_bytes > SKIP_BYTES_MAX) {
        end_for(c, "announced a payload far beyond the advertised maximum");
        return TAKE_END;
    }
    if (nbd_connection_take(c, (struct nbd_amount){1, 0}) < 0)
        return TAKE_END;
    c->chunk->start += NBD_REQUEST_BYTES;
    c->skip_bytes = payload_bytes;
    nbd_request_finish(nbd_request_new(c, header), error);
    return TAKE_AGAIN;
}

MAY_SUSPEND static enum take take_write_inline(
    struct nbd_connection *c, const struct nbd_request_header *header)
{
    if (nbd_connection_take(c, (struct nbd_amount){1, 0}) < 0)
        return TAKE_END;
    struct nbd_request *request = nbd_request_new(c, header);
    request->chunk = c->chunk;
    request->payload = c->chunk->data + c->chunk->start + NBD_REQUEST_BYTES;
    c->chunk->refs++;
    c->chunk->start += NBD_REQUEST_BYTES + header->len_bytes;
    nbd_request_start(request);
    return TAKE_AGAIN;
}

/* The rest of a large payload, straight into its buffer. */
MAY_SUSPEND static int receive_payload(struct nbd_connection *c, char *buf, size_t len_bytes)
{
    c->payload_pending = true;
    c->progress_ns = env_now_ns();
    while (len_bytes > 0) {
        int64_t n = env_recv(c->stream, buf, len_bytes, UINT64_MAX);
        if (n <= 0) {
            c->payload_pending = false;
            return -ECONNRESET;
        }
        c->server->stats.receives++;
        c->progress_ns = env_now_ns();
        buf += n;
        len_bytes -= n;
    }
    c->payload_pending = false;
    return 0;
}

MAY_SUSPEND static struct nbd_request *take_buffered(
    struct nbd_connection *c, const struct nbd_request_header *header, size_t buf_bytes)
{
    size_t pool_bytes = buf_bytes > 0 ? nbd_pool_bytes(buf_bytes) : 0;
    if (nbd_connection_take(c, (struct nbd_amount){1, pool_bytes}) < 0)
        return NULL;
    struct nbd_request *request = nbd_request_new(c, header);
    c->chunk->start += NBD_REQUEST_BYTES;
    request->buf_bytes = pool_bytes;
    if (pool_bytes > 0)
        request->buf = nbd_pool_get(&c->server->pool, pool_bytes);
    return request;
}

MAY_SUSPEND static enum take take_write_large(
    struct nbd_connection *c, const struct nbd_request_header *header)
{
    struct nbd_request *request = take_buffered(c, header, header->len_bytes);
    if (!request)
        return TAKE_END;
    struct nbd_chunk *chunk = c->chunk;
    uint32_t here = MIN(chunk->end - chunk->start, header->len_bytes);
    memcpy(request->buf, chunk->data + chunk->start, here);
    chunk->start += here;
    request->payload = request->buf;
    if (receive_payload(c, (char *)request->buf + here, header->len_bytes - here) < 0) {
        nbd_request_free(request); /* never started */
        nbd_connection_break(c);
        return TAKE_END;
    }
    c->header_next = true;
    nbd_request_start(request);
    return TAKE_AGAIN;
}

MAY_SUSPEND static enum take take_without_payload(
    struct nbd_connection *c, const struct nbd_request_header *header)
{
    size_t buf_bytes = header->type == NBD_CMD_READ           ? header->len_bytes
                       : header->type == NBD_CMD_BLOCK_STATUS ? NBD_STATUS_BUF_BYTES
                                                              : 0;
    struct nbd_request *request = take_buffered(c, header, buf_bytes);
    if (!request)
        return TAKE_END;
    nbd_request_start(request);
    return TAKE_AGAIN;
}

/* Takes the next request out of c->chunk; on TAKE_MORE *ret_need_bytes must lie there. */
MAY_SUSPEND static enum take take_one(struct nbd_connection *c, uint32_t *ret_need_bytes)
{
    struct nbd_chunk *chunk = c->chunk;
    uint32_t have = chunk->end - chunk->start;
    struct nbd_request_header header;
    if (c->draining || c->broken)
        return TAKE_END;
    if (c->skip_bytes > 0) {
        uint32_t n = MIN(have, c->skip_bytes);
        chunk->start += n;
        c->skip_bytes -= n;
        *ret_need_bytes = 1;
        return c->skip_bytes > 0 ? TAKE_MORE : TAKE_AGAIN;
    }
    *ret_need_bytes = NBD_REQUEST_BYTES;
    if (have < NBD_REQUEST_BYTES)
        return TAKE_MORE;
    if (nbd_decode_request(chunk->data + chunk->start, &header) < 0) {
        end_for(c, "sent what is no request (wrong magic)");
        return TAKE_END;
    }
    if (header.type == NBD_CMD_DISC) {
        nbd_connection_drain(c, NULL);
        return TAKE_END;
    }
    uint32_t payload_bytes = header.type == NBD_CMD_WRITE ? header.len_bytes : 0;
    enum nbd_error error = nbd_check_request(&header, &c->terms);
    if (error)
        return refuse(c, &header, payload_bytes, error);
    if (payload_bytes > NBD_PAYLOAD_INLINE_BYTES_MAX)
        return take_write_large(c, &header);
    if (header.type != NBD_CMD_WRITE)
        return take_without_payload(c, &header);
    *ret_need_bytes = NBD_REQUEST_BYTES + payload_bytes;
    return have < *ret_need_bytes ? TAKE_MORE : take_write_inline(c, &header);
}

void nbd_receive(struct nbd_connection *c)
{
    uint32_t need_bytes = 0;
    CHECK(nbd_quota_take(&c->quota, (struct nbd_amount){0, NBD_CHUNK_BYTES})); /* of the reserve */
    c->chunk = chunk_new(c);
    for (;;) {
        enum take take = take_one(c, &need_bytes);
        if (take == TAKE_END || (take == TAKE_MORE && make_room(c, need_bytes) < 0))
            break;
        if (take == TAKE_AGAIN)
            continue;
        struct nbd_chunk *chunk = c->chunk;
        bool header_only = c->header_next && chunk->end == chunk->start;
        c->header_next = false;
        int64_t n = env_recv(c->stream, chunk->data + chunk->end,
            header_only ? NBD_REQUEST_BYTES : NBD_CHUNK_DATA_BYTES - chunk->end, UINT64_MAX);
        if (n == 0)
            nbd_connection_drain(c, NULL); /* it may still take its replies (half-close) */
        else if (n < 0)
            nbd_connection_break(c);
        if (n <= 0)
            break;
        c->server->stats.receives++;
        chunk->end += n;
    }
    nbd_chunk_put(c, c->chunk);
    c->chunk = NULL;
}

void nbd_discard(struct nbd_connection *c)
{
    char scratch[8192];
    while (!c->broken && env_recv(c->stream, scratch, sizeof(scratch), UINT64_MAX) > 0)
        ;
}
