/* SPDX-License-Identifier: Apache-2.0
 *
 * From bytes to frames. One receive takes whatever has come, and all whole frames in it are handled
 * before the next. A short payload is checked where it lies and copied once; the rest of a long one is
 * received straight into its destination where that is one piece of memory.
 */
#include <errno.h>
#include <string.h>

#include "common/check.h"
#include "common/crc32c.h"
#include "common/mem.h"
#include "common/rpc_conn.h"

#define INLINE_BYTES_MAX (64u << 10)
#define DIRECT_BYTES_MIN (32u << 10)
#define ROOM_BYTES_MIN (32u << 10)
/* Where long payloads come: enough for most headers and bodies, little of the next payload, which would be copied. */
#define HEADER_NEXT_BYTES 2048u

_Static_assert(RPC_BUFFER_BYTES >= RPC_HEADER_BYTES + RPC_BODY_BYTES_MAX + INLINE_BYTES_MAX, "");

/* --- Destinations ------------------------------------------------------------------------------- */

static void to_skip(struct rpc_to *to, size_t len_bytes)
{
    to->off_bytes += len_bytes;
    while (to->count > 0 && to->off_bytes >= to->iov->iov_len) {
        to->off_bytes -= to->iov->iov_len;
        to->iov++;
        to->count--;
    }
}

static void to_copy(struct rpc_to *to, const uint8_t *data, size_t len_bytes)
{
    while (to->count > 0 && len_bytes > 0) {
        size_t n = MIN(len_bytes, to->iov->iov_len - to->off_bytes);
        memcpy((char *)to->iov->iov_base + to->off_bytes, data, n);
        data += n;
        len_bytes -= n;
        to_skip(to, n);
    }
}

/* --- Receiving ---------------------------------------------------------------------------------- */

/* False, and the connection is broken: nothing came. */
MAY_SUSPEND static int64_t receive(struct rpc_conn *conn, void *buf, size_t len_bytes)
{
    int64_t n = rpc_stream_recv(conn->stream, buf, len_bytes, UINT64_MAX);
    conn->heard = true;
    if (n == 0)
        rpc_conn_break(conn, "the connection was closed");
    else if (n < 0)
        rpc_conn_break(conn, "the connection broke: %s", strerror((int)-n));
    return n;
}

/* Some more bytes, behind those in the buffer, which `need_bytes` will have to lie in. */
MAY_SUSPEND static bool receive_some(struct rpc_conn *conn, uint32_t need_bytes)
{
    uint32_t left = conn->end - conn->start;
    if (conn->broken)
        return false;
    if (left == 0 || RPC_BUFFER_BYTES - conn->start < need_bytes ||
        RPC_BUFFER_BYTES - conn->end < ROOM_BYTES_MIN) {
        memmove(conn->buf, conn->buf + conn->start, left);
        conn->start = 0;
        conn->end = left;
    }
    uint32_t room = RPC_BUFFER_BYTES - conn->end;
    if (conn->header_next && left < need_bytes)
        room = left == 0 ? HEADER_NEXT_BYTES : need_bytes - left;
    int64_t n = receive(conn, conn->buf + conn->end, room);
    if (n <= 0)
        return false;
    conn->end += (uint32_t)n;
    return !conn->broken;
}

/* --- CRCs of a payload -------------------------------------------------------------------------- */

/* Where it is of whole blocks, each gets its own CRC, and theirs make the payload's: who checks the blocks does not read
 * them again. */
struct payload_crc {
    uint32_t crc;  /* of the payload so far; in blocks: of the block that is coming */
    uint32_t fill; /* bytes of that one */
    uint32_t done; /* blocks */
    uint32_t *blocks;
};

static void payload_crc_begin(struct rpc_conn *conn, uint32_t payload_bytes, struct payload_crc *c)
{
    uint32_t count =
        payload_bytes % CRC32C_BLOCK_BYTES == 0 ? payload_bytes / CRC32C_BLOCK_BYTES : 0;
    if (count > conn->block_crc_capacity) {
        conn->block_crc_capacity = count;
        conn->block_crc_room = mem_realloc(conn->block_crc_room, count * sizeof(uint32_t));
    }
    *c = (struct payload_crc){.blocks = count > 0 ? conn->block_crc_room : NULL};
}

static void payload_crc_add(struct payload_crc *c, const void *data, size_t len_bytes)
{
    const uint8_t *at = data;
    if (!c->blocks) {
        c->crc = crc32c(c->crc, at, len_bytes);
        return;
    }
    while (len_bytes > 0) {
        uint32_t n = (uint32_t)MIN(len_bytes, (size_t)(CRC32C_BLOCK_BYTES - c->fill));
        c->crc = crc32c(c->crc, at, n);
        c->fill += n;
        at += n;
        len_bytes -= n;
        if (c->fill == CRC32C_BLOCK_BYTES) {
            c->blocks[c->done++] = c->crc;
            c->crc = c->fill = 0;
        }
    }
}

/* All of it has been added: its CRC, and the connection has its blocks'. */
static uint32_t payload_crc_end(struct rpc_conn *conn, const struct payload_crc *c)
{
    conn->block_crcs = c->blocks;
    return c->blocks ? crc32c_add_blocks(0, c->blocks, c->done, sizeof(uint32_t)) : c->crc;
}

/* A long payload, of which the beginning lies in the buffer. False: the connection is over, or the CRC is wrong. */
MAY_SUSPEND static bool receive_payload(
    struct rpc_conn *conn, const struct rpc_header *header, struct rpc_to *to)
{
    uint32_t left = header->payload_bytes;
    struct payload_crc crc;
    payload_crc_begin(conn, left, &crc);
    for (;;) {
        uint32_t n = MIN(left, conn->end - conn->start);
        payload_crc_add(&crc, conn->buf + conn->start, n);
        to_copy(to, conn->buf + conn->start, n);
        conn->start += n;
        left -= n;
        if (left == 0)
            break;
        conn->start = conn->end = 0;
        size_t piece = to->count > 0 ? MIN(to->iov->iov_len - to->off_bytes, (size_t)left) : 0;
        bool direct = piece >= DIRECT_BYTES_MIN;
        char *at = direct ? (char *)to->iov->iov_base + to->off_bytes : (char *)conn->buf;
        size_t room = MIN((size_t)left + HEADER_NEXT_BYTES, (size_t)RPC_BUFFER_BYTES);
        int64_t got = receive(conn, at, direct ? piece : room);
        if (got <= 0 || conn->broken || conn->ending)
            return false;
        if (direct) {
            payload_crc_add(&crc, at, got);
            to_skip(to, got);
            left -= (uint32_t)got;
        } else {
            conn->end = (uint32_t)got;
        }
        if (conn->drop_payload && to->count > 0) {
            to->count = 0;
            conn->ops->dropped(conn);
        }
    }
    conn->header_next = true;
    if (payload_crc_end(conn, &crc) == header->payload_crc)
        return true;
    rpc_conn_end(conn, -EBADMSG, "a damaged payload came (CRC)");
    return false;
}

/* --- Frames ------------------------------------------------------------------------------------- */

static bool violated(struct rpc_conn *conn, const char *what)
{
    rpc_conn_end(conn, -EPROTO, "the peer sent %s", what);
    return false;
}

static bool take_end(struct rpc_conn *conn, const uint8_t *text, uint32_t len_bytes)
{
    char clean[RPC_END_TEXT_BYTES_MAX + 1];
    rpc_end_text(text, len_bytes, clean);
    rpc_conn_break(conn, "it says: %s", clean);
    return false;
}

static bool short_payload_is_good(
    struct rpc_conn *conn, const struct rpc_header *header, const uint8_t *payload)
{
    struct payload_crc crc;
    payload_crc_begin(conn, header->payload_bytes, &crc);
    payload_crc_add(&crc, payload, header->payload_bytes);
    return payload_crc_end(conn, &crc) == header->payload_crc;
}

/* A request, reply or cancel; its body and a short payload lie in the buffer. */
MAY_SUSPEND static bool take_message(
    struct rpc_conn *conn, const struct rpc_header *header, const uint8_t *body)
{
    bool in_buffer = header->payload_bytes <= INLINE_BYTES_MAX;
    const uint8_t *payload = body + header->body_len_bytes;
    if (in_buffer && !short_payload_is_good(conn, header, payload))
        return violated(conn, "a damaged payload (CRC)");
    struct rpc_to to = {0};
    conn->drop_payload = false;
    const char *wrong = conn->ops->frame(conn, header, body, &to);
    if (wrong)
        return violated(conn, wrong);
    to_skip(&to, 0);
    if (in_buffer) {
        if (header->payload_bytes > 0)
            conn->header_next = false;
        to_copy(&to, payload, header->payload_bytes);
        conn->start += header->payload_bytes;
    } else if (!receive_payload(conn, header, &to)) {
        return false;
    }
    conn->ops->whole(conn, header);
    return true;
}

/* Handles the next frame. False: more bytes are needed (*ret_need_bytes in the buffer), or it is over. */
MAY_SUSPEND static bool take_frame(struct rpc_conn *conn, uint32_t *ret_need_bytes)
{
    const uint8_t *wire = conn->buf + conn->start, *body = wire + RPC_HEADER_BYTES;
    uint32_t have = conn->end - conn->start;
    struct rpc_header header;
    *ret_need_bytes = RPC_HEADER_BYTES;
    if (conn->ending || conn->broken || have < RPC_HEADER_BYTES)
        return false;
    const char *wrong = rpc_header_decode(wire, conn->version, &header);
    if (wrong)
        return violated(conn, wrong);
    *ret_need_bytes += header.body_len_bytes;
    if (header.payload_bytes <= INLINE_BYTES_MAX)
        *ret_need_bytes += header.payload_bytes;
    if (have < *ret_need_bytes)
        return false;
    if (crc32c(0, body, header.body_len_bytes) != header.body_crc)
        return violated(conn, "a damaged frame body (CRC)");
    conn->start += RPC_HEADER_BYTES + header.body_len_bytes;
    switch (header.type) {
    case RPC_FRAME_PING:
        return true;
    case RPC_FRAME_END:
        return take_end(conn, body, header.body_len_bytes);
    case RPC_FRAME_HELLO:
        return violated(conn, "a second hello");
    default:
        return take_message(conn, &header, body);
    }
}

void rpc_conn_receive(struct rpc_conn *conn)
{
    uint32_t need_bytes = RPC_HEADER_BYTES;
    while (receive_some(conn, need_bytes)) {
        while (take_frame(conn, &need_bytes))
            ;
        if (conn->ending) /* K4 */
            conn->start = conn->end = 0;
    }
}
