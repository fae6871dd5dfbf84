/* SPDX-License-Identifier: Apache-2.0
 *
 * The life of a connection: hello, signs of life, the end. Invariants K1-K4 are in rpc_conn.h.
 *
 * Each side sends something at least every eighth of the shorter of both times of silence, by a tick that
 * queues a ping when nothing else left since the last one. Nobody has to answer a ping: while one
 * side sends a long payload, the other's pings still come, whatever waits behind that payload.
 * Silence is counted in ticks, so a process that was stopped for a while does not blame its peers.
 */
#include "common/rpc_conn.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/crc32c.h"
#include "common/mem.h"

#define TICKS_A_SILENCE 8
#define LINGER_NS 200000000ull
#define REFUSE_NS 500000000ull

void rpc_conn_init(struct rpc_conn *conn, const struct rpc_conn_ops *ops, struct rpc_stream *stream)
{
    *conn = (struct rpc_conn){.ops = ops, .stream = stream};
    list_init(&conn->queue);
    fiber_queue_init(&conn->wake);
    fiber_queue_init(&conn->quiet);
}

static void set_reason(struct rpc_conn *conn, const char *format, va_list args)
{
    if (!conn->reason[0])
        vsnprintf(conn->reason, sizeof(conn->reason), format, args);
}

static int fail(struct rpc_conn *conn, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int fail(struct rpc_conn *conn, int error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    set_reason(conn, format, args);
    va_end(args);
    return error;
}

/* --- Hello -------------------------------------------------------------------------------------- */

MAY_SUSPEND static int send_frame(
    struct rpc_conn *conn, struct rpc_header *header, const void *body, uint64_t deadline_ns)
{
    uint8_t wire[RPC_HEADER_BYTES];
    header->body_crc = crc32c(0, body, header->body_len_bytes);
    rpc_header_encode(header, wire);
    struct iovec iov[2] = {{wire, sizeof(wire)}, {(void *)body, header->body_len_bytes}};
    return rpc_stream_send(conn->stream, iov, body ? 2 : 1, deadline_ns);
}

int rpc_conn_send_hello(struct rpc_conn *conn, const struct rpc_hello *hello, uint64_t deadline_ns)
{
    uint8_t body[RPC_HELLO_BYTES];
    struct rpc_header header = {.type = RPC_FRAME_HELLO, .body_len_bytes = sizeof(body)};
    rpc_hello_encode(hello, body);
    int rc = send_frame(conn, &header, body, deadline_ns);
    return rc < 0 ? fail(conn, rc, "the connection broke during the hello: %s", strerror(-rc)) : 0;
}

int rpc_conn_send_ping(struct rpc_conn *conn, uint64_t deadline_ns)
{
    struct rpc_header header = {.type = RPC_FRAME_PING};
    return send_frame(conn, &header, NULL, deadline_ns);
}

MAY_SUSPEND static int recv_exactly(
    struct rpc_conn *conn, uint8_t *buf, uint32_t len_bytes, uint64_t deadline_ns)
{
    while (len_bytes > 0) {
        int64_t n = rpc_stream_recv(conn->stream, buf, len_bytes, deadline_ns);
        if (n == -ETIMEDOUT)
            return fail(conn, -ETIMEDOUT, "no hello came in time");
        if (n <= 0)
            return fail(conn, -ECONNRESET, "the connection was closed during the hello%s%s",
                n < 0 ? ": " : "", n < 0 ? strerror((int)-n) : "");
        buf += n;
        len_bytes -= (uint32_t)n;
    }
    return 0;
}

int rpc_conn_recv_hello(
    struct rpc_conn *conn, uint64_t wait_ns, bool patient, struct rpc_hello *ret_hello)
{
    uint8_t wire[RPC_HEADER_BYTES], body[RPC_HELLO_BYTES_MAX];
    struct rpc_header header;
    uint64_t deadline_ns = env_now_ns() + wait_ns;
    int rc;
    do {
        rc = recv_exactly(conn, wire, sizeof(wire), deadline_ns);
        if (rc < 0)
            return rc;
        const char *wrong = rpc_header_decode(wire, 0, &header);
        if (wrong)
            return fail(conn, -EPROTO, "it sent %s instead of a hello", wrong);
        if (patient)
            deadline_ns = env_now_ns() + wait_ns;
    } while (header.type == RPC_FRAME_PING);
    rc = recv_exactly(conn, body, header.body_len_bytes, deadline_ns);
    if (rc < 0)
        return rc;
    if (header.body_crc != crc32c(0, body, header.body_len_bytes))
        return fail(conn, -EPROTO, "it sent a damaged hello (CRC)");
    if (header.type == RPC_FRAME_END) {
        char text[RPC_END_TEXT_BYTES_MAX + 1];
        rpc_end_text(body, header.body_len_bytes, text);
        return fail(conn, -ECONNREFUSED, "%s", text);
    }
    const char *wrong = rpc_hello_decode(body, header.body_len_bytes, ret_hello);
    return wrong ? fail(conn, -EPROTO, "it sent %s", wrong) : 0;
}

void rpc_conn_refuse(struct rpc_conn *conn, int status, const char *text)
{
    uint8_t rest[256];
    uint64_t deadline_ns = env_now_ns() + REFUSE_NS;
    struct rpc_header header = {
        .type = RPC_FRAME_END,
        .code = rpc_status_encode(status),
        .body_len_bytes = (uint32_t)MIN(strlen(text), RPC_END_TEXT_BYTES_MAX),
    };
    fail(conn, 0, "%s", text);
    if (send_frame(conn, &header, text, deadline_ns) < 0)
        return;
    /* What it has sent must not turn our close into a reset that overtakes the text. */
    while (rpc_stream_recv(conn->stream, rest, sizeof(rest), deadline_ns) > 0)
        ;
}

/* --- Life --------------------------------------------------------------------------------------- */

static void tick_fired(struct env_timer *timer)
{
    struct rpc_conn *conn = container_of(timer, struct rpc_conn, tick);
    if (conn->ending) {
        rpc_conn_break(conn, "%s", "");
        return;
    }
    conn->ticks_silent = conn->heard ? 0 : conn->ticks_silent + 1;
    if (conn->ticks_silent >= conn->ticks_silent_max) { /* C6 */
        rpc_conn_break(conn, "nothing was heard of it for %llu ms",
            (unsigned long long)(conn->ticks_silent * conn->tick_ns / 1000000));
        return;
    }
    if (!conn->said && conn->ping.state == RPC_OUT_IDLE)
        rpc_conn_queue(conn, &conn->ping);
    conn->heard = conn->said = false;
    env_timer_arm(timer, env_now_ns() + conn->tick_ns);
}

void rpc_conn_start(
    struct rpc_conn *conn, uint8_t version, uint64_t own_silence_ns, uint64_t peer_silence_ns)
{
    conn->version = version;
    conn->started = true;
    conn->ping.header.type = RPC_FRAME_PING;
    conn->last.header.type = RPC_FRAME_END;
    conn->buf = mem_alloc(RPC_BUFFER_BYTES);
    conn->batch = rpc_batch_new();
    conn->tick_ns = MAX(MIN(own_silence_ns, peer_silence_ns) / TICKS_A_SILENCE, 1000000ull);
    conn->ticks_silent_max = (unsigned)DIV_ROUND_UP(own_silence_ns, conn->tick_ns);
    env_timer_init(&conn->tick, tick_fired);
    env_timer_arm(&conn->tick, env_now_ns() + conn->tick_ns);
    conn->sender_runs = true;
    fiber_spawn("rpc-sender", rpc_sender_main, conn);
}

void rpc_conn_break(struct rpc_conn *conn, const char *format, ...)
{
    va_list args;
    if (conn->broken)
        return;
    conn->broken = true;
    va_start(args, format);
    set_reason(conn, format, args);
    va_end(args);
    rpc_stream_shutdown(conn->stream);
    if (conn->started)
        env_timer_cancel(&conn->tick);
    fiber_queue_wake_all(&conn->wake);
    fiber_queue_wake_all(&conn->quiet);
}

void rpc_conn_end(struct rpc_conn *conn, int status, const char *format, ...)
{
    va_list args;
    if (conn->ending || conn->broken)
        return;
    CHECK(conn->started);
    va_start(args, format);
    set_reason(conn, format, args);
    va_end(args);
    conn->ending = true;
    size_t len_bytes = MIN(strlen(conn->reason), sizeof(conn->last_text));
    memcpy(conn->last_text, conn->reason, len_bytes);
    conn->last.header.code = rpc_status_encode(status);
    conn->last.header.body_len_bytes = (uint32_t)len_bytes;
    conn->last.body = conn->last_text;
    conn->last.state = RPC_OUT_QUEUED;
    list_push_front(&conn->queue, &conn->last.link);
    fiber_queue_wake_one(&conn->wake);
    env_timer_arm(&conn->tick, env_now_ns() + LINGER_NS);
}

void rpc_conn_finish(struct rpc_conn *conn)
{
    rpc_conn_break(conn, "%s", "");
    while (conn->sender_runs)
        fiber_queue_wait(&conn->quiet);
    CHECK(list_empty(&conn->queue));
    rpc_stream_close(conn->stream);
    conn->stream = NULL;
    mem_free(conn->buf);
    mem_free(conn->batch);
    mem_free(conn->block_crc_room);
    conn->block_crc_room = NULL;
    conn->block_crcs = NULL;
    conn->buf = NULL;
    conn->batch = NULL;
}

void rpc_conn_queue(struct rpc_conn *conn, struct rpc_out *out)
{
    CHECK(rpc_conn_open(conn) && out->state == RPC_OUT_IDLE);
    out->state = RPC_OUT_QUEUED;
    list_push_back(&conn->queue, &out->link);
    fiber_queue_wake_one(&conn->wake);
}

bool rpc_conn_unqueue(struct rpc_conn *conn, struct rpc_out *out)
{
    if (out->state != RPC_OUT_QUEUED)
        return false;
    list_remove(&out->link);
    out->state = RPC_OUT_IDLE;
    return true;
}

void rpc_conn_drop_payload(struct rpc_conn *conn)
{
    conn->drop_payload = true;
}
