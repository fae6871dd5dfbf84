/* SPDX-License-Identifier: Apache-2.0
 *
 * Replies to bytes. The first reply that is queued starts the sender, which runs after the fibers
 * that are ready now, so that all replies of one turn of the loop leave in one send; it ends when
 * nothing is left. Payloads are sent from where they were read; headers of neighbouring replies
 * without payload form one piece of memory.
 */
#include <string.h>

#include "blockd/nbd/connection.h"
#include "common/bytes.h"
#include "common/check.h"

#define BATCH_IOV_MAX 256u
#define BATCH_HEADER_BYTES 8192u
#define BATCH_BYTES_MAX (4u << 20)
/* One send at most, so that a client that takes its replies slowly is seen to take them (N8). */
#define SEND_BYTES_MAX (1u << 20)

#define ERROR_TEXT_BYTES_MAX 128u
/* The most that one reply adds to a batch. */
#define REPLY_IOV_MAX (2 * NBD_PIECES_MAX)
#define REPLY_HEADER_BYTES_MAX (NBD_PIECES_MAX * (NBD_STRUCTURED_REPLY_BYTES + 12u))

_Static_assert(REPLY_HEADER_BYTES_MAX >= NBD_STRUCTURED_REPLY_BYTES + 6 + ERROR_TEXT_BYTES_MAX, "");

struct batch {
    struct list requests; /* to be freed when it is sent */
    uint64_t bytes;
    unsigned iov_count;
    uint32_t header_bytes;
    struct iovec iov[BATCH_IOV_MAX];
    uint8_t headers[BATCH_HEADER_BYTES];
};

/* --- Encoding ----------------------------------------------------------------------------------
 */

static void batch_add(struct batch *b, const void *data, size_t len_bytes)
{
    struct iovec *last = b->iov_count > 0 ? &b->iov[b->iov_count - 1] : NULL;
    b->bytes += len_bytes;
    if (last && (char *)last->iov_base + last->iov_len == data) {
        last->iov_len += len_bytes;
        return;
    }
    CHECK(b->iov_count < BATCH_IOV_MAX);
    b->iov[b->iov_count++] = (struct iovec){(void *)data, len_bytes};
}

static uint8_t *batch_header(struct batch *b, uint32_t len_bytes)
{
    uint8_t *header = b->headers + b->header_bytes;
    CHECK(b->header_bytes + len_bytes <= BATCH_HEADER_BYTES);
    b->header_bytes += len_bytes;
    batch_add(b, header, len_bytes);
    return header;
}

static void add_simple(struct batch *b, const struct nbd_request *r)
{
    nbd_encode_simple_reply(batch_header(b, NBD_SIMPLE_REPLY_BYTES), r->error, r->header.cookie);
    if (r->header.type == NBD_CMD_READ && !r->error && r->header.len_bytes > 0)
        batch_add(b, r->buf, r->header.len_bytes);
}

static void add_error(struct batch *b, const struct nbd_request *r)
{
    const char *text = nbd_error_text(r->error);
    uint32_t text_bytes = MIN((uint32_t)strlen(text), ERROR_TEXT_BYTES_MAX);
    uint8_t *wire = batch_header(b, NBD_STRUCTURED_REPLY_BYTES + 6 + text_bytes);
    nbd_encode_chunk(
        wire, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR, r->header.cookie, 6 + text_bytes);
    put_be32(wire + 20, r->error);
    put_be16(wire + 24, text_bytes);
    memcpy(wire + 26, text, text_bytes);
}

static void add_piece(struct batch *b, const struct nbd_request *r, unsigned index)
{
    const struct nbd_piece *piece = &r->pieces[index];
    uint16_t flags = index + 1 == r->piece_count ? NBD_REPLY_FLAG_DONE : 0;
    uint16_t type = piece->hole ? NBD_REPLY_TYPE_OFFSET_HOLE : NBD_REPLY_TYPE_OFFSET_DATA;
    uint32_t extra_bytes = piece->hole ? 12 : 8;
    uint8_t *wire = batch_header(b, NBD_STRUCTURED_REPLY_BYTES + extra_bytes);
    nbd_encode_chunk(wire, flags, type, r->header.cookie, piece->hole ? 12 : 8 + piece->len_bytes);
    put_be64(wire + 20, r->header.off_bytes + piece->off_bytes);
    if (piece->hole)
        put_be32(wire + 28, piece->len_bytes);
    else
        batch_add(b, (char *)r->buf + piece->off_bytes, piece->len_bytes);
}

static void add_structured(struct batch *b, const struct nbd_request *r)
{
    if (r->error) {
        add_error(b, r);
    } else if (r->header.type == NBD_CMD_BLOCK_STATUS) {
        nbd_encode_chunk(batch_header(b, NBD_STRUCTURED_REPLY_BYTES), NBD_REPLY_FLAG_DONE,
            NBD_REPLY_TYPE_BLOCK_STATUS, r->header.cookie, r->reply_bytes);
        batch_add(b, r->payload, r->reply_bytes);
    } else if (r->header.type == NBD_CMD_READ && r->piece_count > 0) {
        for (unsigned i = 0; i < r->piece_count; i++)
            add_piece(b, r, i);
    } else if (r->header.type == NBD_CMD_READ) { /* of length 0 */
        nbd_encode_chunk(batch_header(b, NBD_STRUCTURED_REPLY_BYTES), NBD_REPLY_FLAG_DONE,
            NBD_REPLY_TYPE_NONE, r->header.cookie, 0);
    } else {
        add_simple(b, r); /* "MAY use ... to all other requests" */
    }
}

/* --- Sending -----------------------------------------------------------------------------------
 */

static void batch_fill(struct nbd_connection *c, struct batch *b)
{
    list_init(&b->requests);
    b->bytes = 0;
    b->iov_count = 0;
    b->header_bytes = 0;
    while (!list_empty(&c->replies) && b->iov_count + REPLY_IOV_MAX <= BATCH_IOV_MAX &&
           b->header_bytes + REPLY_HEADER_BYTES_MAX <= BATCH_HEADER_BYTES &&
           b->bytes < BATCH_BYTES_MAX) {
        struct list *link = list_pop_front(&c->replies);
        struct nbd_request *request = list_entry(link, struct nbd_request, link);
        list_push_back(&b->requests, link);
        if (c->terms.structured)
            add_structured(b, request);
        else
            add_simple(b, request);
    }
}

/* Sends the batch in pieces of at most SEND_BYTES_MAX. */
MAY_SUSPEND static int batch_send(struct nbd_connection *c, struct batch *b)
{
    unsigned first = 0;
    int rc = 0;
    while (rc == 0 && first < b->iov_count) {
        unsigned count = 0;
        size_t bytes = 0;
        while (
            first + count < b->iov_count && bytes + b->iov[first + count].iov_len <= SEND_BYTES_MAX)
            bytes += b->iov[first + count++].iov_len;
        struct iovec part = b->iov[first];
        c->progress_ns = env_now_ns();
        c->server->stats.sends++;
        if (count > 0) {
            rc = env_send(c->stream, &b->iov[first], count, UINT64_MAX);
            first += count;
        } else {
            part.iov_len = SEND_BYTES_MAX;
            b->iov[first].iov_base = (char *)b->iov[first].iov_base + SEND_BYTES_MAX;
            b->iov[first].iov_len -= SEND_BYTES_MAX;
            rc = env_send(c->stream, &part, 1, UINT64_MAX);
        }
    }
    c->progress_ns = env_now_ns();
    return rc;
}

static void free_all(struct list *requests)
{
    struct list *link;
    while ((link = list_pop_front(requests)))
        nbd_request_free(list_entry(link, struct nbd_request, link));
}

MAY_SUSPEND static void sender_main(void *arg)
{
    struct nbd_connection *c = arg;
    struct batch b;
    while (!c->broken && !list_empty(&c->replies)) {
        batch_fill(c, &b);
        if (batch_send(c, &b) < 0)
            nbd_connection_break(c);
        free_all(&b.requests);
    }
    free_all(&c->replies);
    c->sending = false;
    nbd_connection_settle(c); /* and it may be gone */
}

void nbd_reply_queue(struct nbd_request *request)
{
    struct nbd_connection *c = request->connection;
    list_push_back(&c->replies, &request->link);
    if (c->sending)
        return;
    c->sending = true;
    fiber_spawn("nbd-sender", sender_main, c);
}
