/* SPDX-License-Identifier: Apache-2.0
 *
 * From frames to bytes (K1, K2). The sender runs after the fibers that are ready now, so what one
 * turn of the loop queues for a peer leaves in one send. Headers and short bodies of neighbouring
 * frames form one piece of memory; payloads are sent from where they are. What is longer than
 * SEND_BYTES_MAX goes in several sends, and what a send has finished is let go of after it.
 */
#include <errno.h>
#include <string.h>

#include "common/check.h"
#include "common/crc32c.h"
#include "common/mem.h"
#include "common/rpc_conn.h"

#define SEND_BYTES_MAX (1u << 20)
#define IOV_MAX_A_SEND 256u
#define HEAD_BYTES (16u << 10)
#define BODY_COPIED_BYTES_MAX 1024u

struct rpc_batch {
    struct list outs;        /* end with this send */
    struct rpc_out *current; /* the one whose payload is not yet all in a send */
    unsigned piece;          /* of its payload: the next */
    size_t piece_off_bytes;
    size_t bytes;
    unsigned iov_count;
    uint32_t head_bytes;
    struct iovec iov[IOV_MAX_A_SEND];
    uint8_t heads[HEAD_BYTES];
};

struct rpc_batch *rpc_batch_new(void)
{
    struct rpc_batch *b = mem_alloc(sizeof(*b));
    list_init(&b->outs);
    b->current = NULL;
    return b;
}

static void batch_add(struct rpc_batch *b, const void *data, size_t len_bytes)
{
    struct iovec *last = b->iov_count > 0 ? &b->iov[b->iov_count - 1] : NULL;
    b->bytes += len_bytes;
    if (last && (char *)last->iov_base + last->iov_len == data) {
        last->iov_len += len_bytes;
        return;
    }
    CHECK(b->iov_count < IOV_MAX_A_SEND);
    b->iov[b->iov_count++] = (struct iovec){(void *)data, len_bytes};
}

static void *batch_head(struct rpc_batch *b, uint32_t len_bytes)
{
    uint8_t *head = b->heads + b->head_bytes;
    CHECK(b->head_bytes + len_bytes <= HEAD_BYTES);
    b->head_bytes += len_bytes;
    batch_add(b, head, len_bytes);
    return head;
}

/* Whether any frame's header and body, and a piece of payload, would still fit. */
static bool has_room(const struct rpc_batch *b)
{
    return b->bytes < SEND_BYTES_MAX && b->iov_count + 3 <= IOV_MAX_A_SEND &&
           b->head_bytes + RPC_HEADER_BYTES + BODY_COPIED_BYTES_MAX <= HEAD_BYTES;
}

static uint32_t payload_crc(const struct rpc_out *out)
{
    uint32_t crc = 0;
    for (unsigned i = 0; i < out->payload_count; i++)
        crc = crc32c(crc, out->payload[i].iov_base, out->payload[i].iov_len);
    return crc;
}

static void begin_out(struct rpc_conn *conn, struct rpc_out *out, uint64_t now_ns)
{
    struct rpc_batch *b = conn->batch;
    struct rpc_header *h = &out->header;
    if (out != &conn->ping && out != &conn->last) {
        conn->ops->starting(conn, out, now_ns);
        h->version = conn->version;
    }
    h->payload_bytes = 0;
    for (unsigned i = 0; i < out->payload_count; i++)
        h->payload_bytes += (uint32_t)out->payload[i].iov_len;
    if (!out->payload_crc_known)
        h->payload_crc = payload_crc(out);
    h->body_crc = crc32c(0, out->body, h->body_len_bytes);
    rpc_header_encode(h, batch_head(b, RPC_HEADER_BYTES));
    if (h->body_len_bytes > BODY_COPIED_BYTES_MAX)
        batch_add(b, out->body, h->body_len_bytes);
    else if (h->body_len_bytes > 0)
        memcpy(batch_head(b, h->body_len_bytes), out->body, h->body_len_bytes);
    b->current = out;
    b->piece = 0;
    b->piece_off_bytes = 0;
}

/* As much of the current payload as fits; true when that was all. */
static bool add_payload(struct rpc_batch *b)
{
    const struct rpc_out *out = b->current;
    while (b->piece < out->payload_count) {
        const struct iovec *piece = &out->payload[b->piece];
        size_t left = piece->iov_len - b->piece_off_bytes;
        if (left > 0) {
            if (b->bytes >= SEND_BYTES_MAX || b->iov_count == IOV_MAX_A_SEND)
                return false;
            size_t n = MIN(left, SEND_BYTES_MAX - b->bytes);
            batch_add(b, (char *)piece->iov_base + b->piece_off_bytes, n);
            b->piece_off_bytes += n;
            if (n < left)
                return false;
        }
        b->piece++;
        b->piece_off_bytes = 0;
    }
    return true;
}

static void batch_fill(struct rpc_conn *conn)
{
    struct rpc_batch *b = conn->batch;
    uint64_t now_ns = env_now_ns();
    b->bytes = 0;
    b->iov_count = 0;
    b->head_bytes = 0;
    for (;;) {
        if (!b->current) {
            bool last = conn->last.state == RPC_OUT_SENDING;
            if (last || list_empty(&conn->queue) || !has_room(b))
                break;
            struct list *link = list_pop_front(&conn->queue);
            struct rpc_out *out = list_entry(link, struct rpc_out, link);
            out->state = RPC_OUT_SENDING;
            begin_out(conn, out, now_ns);
        }
        if (!add_payload(b))
            break;
        list_push_back(&b->outs, &b->current->link);
        b->current = NULL;
    }
}

static void let_go(struct rpc_conn *conn, struct rpc_out *out)
{
    if (out == &conn->last)
        return; /* stays SENDING: nothing follows it */
    out->state = RPC_OUT_IDLE;
    if (out != &conn->ping)
        conn->ops->sent(conn, out);
}

static void let_go_all(struct rpc_conn *conn, struct list *outs)
{
    struct list *link;
    while ((link = list_pop_front(outs)))
        let_go(conn, list_entry(link, struct rpc_out, link));
}

MAY_SUSPEND static bool wait_for_work(struct rpc_conn *conn)
{
    while (!conn->broken && !conn->batch->current &&
           (list_empty(&conn->queue) || conn->last.state == RPC_OUT_SENDING))
        fiber_queue_wait(&conn->wake);
    return !conn->broken;
}

void rpc_sender_main(void *arg)
{
    struct rpc_conn *conn = arg;
    struct rpc_batch *b = conn->batch;
    while (wait_for_work(conn)) {
        batch_fill(conn);
        int rc = rpc_stream_send(conn->stream, b->iov, b->iov_count, UINT64_MAX);
        conn->said = true;
        if (rc < 0)
            rpc_conn_break(conn, "the connection broke: %s", strerror(-rc));
        let_go_all(conn, &b->outs);
    }
    if (b->current)
        let_go(conn, b->current);
    b->current = NULL;
    let_go_all(conn, &conn->queue);
    conn->sender_runs = false;
    fiber_queue_wake_all(&conn->quiet);
}
