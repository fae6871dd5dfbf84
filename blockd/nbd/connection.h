/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the NBD server share: the server, a connection, a request. Only the files of blockd/nbd
 * include this.
 *
 * A connection has one main fiber (connection.c: handshake, then receive.c), one fiber for each
 * request in a volume call (request.c), one that sends while there is something to send (reply.c),
 * and one that gets the volume back while it is gone (reopen.c).
 *
 *   accepted -> handshake -> serving -> draining -> broken -> freed
 *                                  `----------------'
 * draining: takes no more requests, answers those taken, then ends. broken: the stream is dead,
 * replies are thrown away, held requests too; what a volume works at is waited for (N2).
 */
#pragma once

#include "blockd/nbd/codec.h"
#include "blockd/nbd/pool.h"
#include "blockd/nbd/quota.h"
#include "blockd/nbd/server.h"
#include "common/env.h"

/* Received bytes, with the requests whose payload lies in them. Taken from the pool whole. */
#define NBD_CHUNK_BYTES (256u << 10)
struct nbd_chunk {
    unsigned refs;       /* the connection that receives into it, and requests */
    uint32_t start, end; /* received and not yet taken: data[start..end) */
    uint8_t data[];
};
#define NBD_CHUNK_DATA_BYTES (NBD_CHUNK_BYTES - (uint32_t)sizeof(struct nbd_chunk))

/* A longer payload is received straight into a buffer of its own, aligned and private, which the
 * volume may use without a copy (VOLUME_STABLE). */
#define NBD_PAYLOAD_INLINE_BYTES_MAX (64u << 10)

/* What every connection may have of its own, whatever others do: the chunk that it receives into,
 * and a few small requests. */
#define NBD_RESERVE ((struct nbd_amount){4, NBD_CHUNK_BYTES + (64u << 10)})

/* Extents of one block status reply, and the buffer for them in both forms. */
#define NBD_STATUS_EXTENTS_MAX 2048u
#define NBD_STATUS_BUF_BYTES (64u << 10)

/* Part of a read: where it is data in the request's buffer, and where it is a hole. */
struct nbd_piece {
    uint32_t off_bytes, len_bytes; /* off: from the start of the request */
    bool hole;
};
#define NBD_PIECES_MAX 16

struct nbd_request {
    struct list link;  /* server->requests_free, connection->held or ->replies, or none */
    struct list taken; /* connection->taken */
    struct nbd_connection *connection;
    struct nbd_request_header header;
    struct request_id id;
    enum nbd_error error;
    struct nbd_chunk *chunk; /* of a small payload; else NULL */
    void *buf;               /* of a large payload or the reply's; from the pool; else NULL */
    size_t buf_bytes;
    const void *payload; /* in chunk or buf */
    struct nbd_piece pieces[NBD_PIECES_MAX];
    unsigned piece_count;
    uint32_t reply_bytes; /* of a block status, in buf */
};

struct nbd_connection {
    struct list link; /* server->connections, oldest first */
    struct nbd_server *server;
    struct env_stream *stream;
    uint64_t number; /* rises with each accept */

    bool serving; /* the handshake is over */
    bool draining, broken;
    const char *drain_reason; /* static text */
    struct env_timer drain_timer;
    uint64_t progress_ns; /* when bytes last moved */

    struct nbd_terms terms;
    struct attachment *attachment; /* NULL while it is gone */
    uint64_t volume_id;
    char name[NAME_BYTES_MAX];
    unsigned volume_users; /* requests in a call of `attachment` */
    bool volume_gone;      /* it answered -ESHUTDOWN: no more calls */
    bool reopening, retry; /* retry: something has changed, look for the volume at once */
    struct list held;      /* requests that wait for the volume */

    struct nbd_quota_user quota;
    struct nbd_chunk *chunk;
    bool header_next;        /* the last request had a large payload: expect another header */
    bool payload_pending;    /* in the middle of a large payload */
    uint64_t skip_bytes;     /* payload of a refused request, not yet received */
    unsigned in_flight;      /* requests taken and not yet answered or dropped: */
    struct list taken;       /* nbd_request.taken, by number */
    uint64_t request_number; /* of the last one */
    uint64_t session;

    struct list replies;
    bool sending;
    struct fiber_queue quiet; /* the main fiber, when it waits for the end of others */
};

struct nbd_server {
    struct attach *attach;
    struct nbd_server_options options; /* with the defaults filled in */
    struct env_listener **listeners;
    char **addresses;
    unsigned listener_count, accepting; /* accepting: fibers */
    bool stopping;
    struct list connections;
    uint64_t connection_number;
    struct nbd_pool pool;
    struct nbd_quota quota;
    struct env_timer stall_timer;
    struct list requests_free;
    struct fiber_queue gone; /* woken whenever a connection or an accept fiber has ended */
    struct nbd_server_stats stats;
};

/* --- connection.c ------------------------------------------------------------------------------
 */

/* Takes the stream; returns at once. */
void nbd_connection_start(struct nbd_server *server, struct env_stream *stream);
/* From now on no request is taken; the connection ends when the last one is answered, or when
 * nothing moves for the drain timeout. Callable anywhere, also from callbacks. */
void nbd_connection_drain(struct nbd_connection *c, const char *reason);
/* The stream is dead, by its own doing or by ours. */
void nbd_connection_break(struct nbd_connection *c);
/* One of the conditions that the end waits for may have come true. */
void nbd_connection_settle(struct nbd_connection *c);
/* What the connection's attachments tell. */
extern const struct attachment_events nbd_attachment_events;
/* Suspends the main fiber until `amount` is taken. -ECANCELED: the connection ends instead. */
MAY_SUSPEND int nbd_connection_take(struct nbd_connection *c, struct nbd_amount amount);
/* Suspends the main fiber until it is worth trying again what it waits for. */
MAY_SUSPEND int nbd_connection_wait(struct nbd_connection *c);

/* --- receive.c ---------------------------------------------------------------------------------
 */

/* Takes requests until the connection should take no more; calls nbd_connection_drain() itself. */
MAY_SUSPEND void nbd_receive(struct nbd_connection *c);
/* Receives and forgets until the stream ends: one that is closed with bytes unread is reset, and the
 * last replies may be lost with it. */
MAY_SUSPEND void nbd_discard(struct nbd_connection *c);
void nbd_chunk_put(struct nbd_connection *c, struct nbd_chunk *chunk);

/* --- request.c ---------------------------------------------------------------------------------
 */

/* A request that counts in c->in_flight; its quota has been taken by the caller. */
struct nbd_request *nbd_request_new(
    struct nbd_connection *c, const struct nbd_request_header *header);
/* Executes it on a fiber of its own. */
void nbd_request_start(struct nbd_request *request);
/* It goes to the sender. */
void nbd_request_finish(struct nbd_request *request, enum nbd_error error);
/* It is forgotten: answered, or nobody is there to take the answer. */
void nbd_request_free(struct nbd_request *request);

/* --- reply.c -----------------------------------------------------------------------------------
 */

void nbd_reply_queue(struct nbd_request *request);

/* --- reopen.c ----------------------------------------------------------------------------------
 */

/* The volume was closed under us: keeps the request, gets the volume back, executes it then. */
void nbd_hold(struct nbd_request *request);
/* Lets go of the volume, which serves nothing any more, and gets it again. */
void nbd_reopen(struct nbd_connection *c);
void nbd_held_drop(struct nbd_connection *c);

/* --- server.c ----------------------------------------------------------------------------------
 */

/* Somebody waits for shared quota: looks for those who hoard it and do not move. */
void nbd_server_pressure(struct nbd_server *server);
