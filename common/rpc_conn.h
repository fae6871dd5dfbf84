/* SPDX-License-Identifier: Apache-2.0
 *
 * One connection, the parts that client and server share: frames out, frames in, signs of life, the
 * end. The owner's main fiber says hello, starts it, receives until it is over, and finishes it; a
 * second fiber sends.
 *
 *   new -- hello --> started --+--> ending: told the peer why (end frame), waits for it to close
 *                              |         |
 *                              +---------+--> broken: the stream is shut
 *
 *  K1 Frames leave in the order they were queued, whole. Whatever is queued when the sender runs
 *     leaves in one send, up to SEND_BYTES_MAX.
 *  K2 A queued frame's memory is in use until ops->sent(); that is called exactly once.
 *  K3 A frame reaches ops->frame() only when its header, its body and, where that is short, its payload
 *     have passed their CRCs, and ops->whole() only when all of it has (C4).
 *  K4 Once ending or broken, nothing that comes is handled.
 */
#pragma once

#include "common/env.h"
#include "common/rpc_stream.h"
#include "common/rpc_wire.h"

#define RPC_REASON_BYTES 384
#define RPC_BUFFER_BYTES (256u << 10) /* of received bytes, one a connection */

enum rpc_out_state { RPC_OUT_IDLE, RPC_OUT_QUEUED, RPC_OUT_SENDING };

/* A frame to be sent, embedded in its owner. */
struct rpc_out {
    struct list link;
    enum rpc_out_state state;
    struct rpc_header
        header; /* the owner's: type, code, id, deadline, reply_bytes_max, body length */
    const void *body;
    const struct iovec *payload;
    unsigned payload_count;
    bool payload_crc_known; /* the owner has put it into the header */
};

/* Where an incoming payload goes; count 0: nowhere, it is passed over. */
struct rpc_to {
    const struct iovec *iov;
    unsigned count;
    size_t off_bytes; /* the connection's */
};

struct rpc_conn;
struct rpc_batch;

struct rpc_conn_ops {
    /* From the sender: the frame's turn has come. `now_ns` is for deadlines. */
    void (*starting)(struct rpc_conn *conn, struct rpc_out *out, uint64_t now_ns);
    /* It is the owner's again: sent, or never to be sent (rpc_conn_open is false then). */
    void (*sent)(struct rpc_conn *conn, struct rpc_out *out);
    /* A request, reply or cancel has come. NULL, with *ret_to for a payload, or what is wrong with
     * it (static text): that ends the connection. The body is lent for the call. */
    const char *(*frame)(struct rpc_conn *conn, const struct rpc_header *header,
        const uint8_t *body, struct rpc_to *ret_to);
    void (*whole)(struct rpc_conn *conn, const struct rpc_header *header);
    /* What rpc_conn_drop_payload asked for. */
    void (*dropped)(struct rpc_conn *conn);
};

struct rpc_conn {
    const struct rpc_conn_ops *ops;
    struct rpc_stream *stream;
    uint8_t version;
    bool started, ending, broken;
    char reason[RPC_REASON_BYTES]; /* of the end: why; "" as long as it lives */

    uint8_t *buf; /* received bytes from start to end */
    uint32_t start, end;
    bool header_next;  /* the last payload was a long one: so may the next be */
    bool drop_payload; /* the payload that is coming is not wanted any more */
    /* Of the payload that has come, in ops->whole: the CRC of each of its blocks; NULL when it is none, or not of whole
     * blocks. */
    const uint32_t *block_crcs;
    uint32_t *block_crc_room;
    uint32_t block_crc_capacity;

    struct list queue; /* rpc_out.link */
    struct rpc_batch *batch;
    bool sender_runs;
    struct fiber_queue wake, quiet; /* the sender; who waits for its end */
    struct rpc_out ping, last;      /* last: the end frame */
    char last_text[RPC_END_TEXT_BYTES_MAX];

    struct env_timer tick;
    uint64_t tick_ns;
    unsigned ticks_silent, ticks_silent_max;
    bool heard, said; /* since the last tick */
};

/* `stream` is the connection's from here. */
void rpc_conn_init(
    struct rpc_conn *conn, const struct rpc_conn_ops *ops, struct rpc_stream *stream);

/* --- Before it is started: on the main fiber --- */

/* 0, or negative errno with conn->reason. */
MAY_SUSPEND int rpc_conn_send_hello(
    struct rpc_conn *conn, const struct rpc_hello *hello, uint64_t deadline_ns);
/* 0; negative errno with conn->reason: -EPROTO, -ETIMEDOUT (nothing for `wait_ns`: with `patient`
 * each sign of life renews that), -ECONNREFUSED (the peer told why it does not want us). */
MAY_SUSPEND int rpc_conn_recv_hello(
    struct rpc_conn *conn, uint64_t wait_ns, bool patient, struct rpc_hello *ret_hello);
MAY_SUSPEND int rpc_conn_send_ping(struct rpc_conn *conn, uint64_t deadline_ns);
/* Tells the peer why this will not be a connection and gives it a moment to read that. */
MAY_SUSPEND void rpc_conn_refuse(struct rpc_conn *conn, int status, const char *text);

/* --- Life --- */

void rpc_conn_start(
    struct rpc_conn *conn, uint8_t version, uint64_t own_silence_ns, uint64_t peer_silence_ns);
/* Until it is broken. */
MAY_SUSPEND void rpc_conn_receive(struct rpc_conn *conn);
/* From anywhere: ends it now. The first reason stays. */
void rpc_conn_break(struct rpc_conn *conn, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* From anywhere: tells the peer why, and breaks when it has closed, or after a moment. */
void rpc_conn_end(struct rpc_conn *conn, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* On the main fiber, after receive or instead of it: breaks it if nothing has, waits for the sender,
 * closes the stream, frees what is the connection's. */
MAY_SUSPEND void rpc_conn_finish(struct rpc_conn *conn);

/* Takes frames: neither ending nor broken. */
static inline bool rpc_conn_open(const struct rpc_conn *conn)
{
    return conn->started && !conn->ending && !conn->broken;
}
void rpc_conn_queue(struct rpc_conn *conn, struct rpc_out *out);
/* Takes it back if its turn has not come (ops->sent is not called). */
bool rpc_conn_unqueue(struct rpc_conn *conn, struct rpc_out *out);
/* While a payload is coming: its memory is let go of as soon as no receive uses it, then
 * ops->dropped. The rest is passed over. */
void rpc_conn_drop_payload(struct rpc_conn *conn);

/* --- rpc_conn_send.c --- */
void rpc_sender_main(void *arg);
struct rpc_batch *rpc_batch_new(void);
